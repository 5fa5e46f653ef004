"""The quick ways of faster.py: the numbers of the models as they stand in makemore.py, in less time."""
import copy
import sys

import pytest
import torch

import faster
import makemore

CELLS = ['rnn', 'gru', 'lstm']
WINDOWS = ['mlp', 'bn-mlp', 'wavenet']
WAYS = dict.fromkeys(CELLS, faster.recurrent) | dict.fromkeys(WINDOWS, faster.window) | dict(bow=faster.bag)


def results(way, model, x, y):
    """The loss and all gradients; what is dropped is the same every time."""
    torch.manual_seed(5)
    loss = way(model, x, y)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def readable(model, x, y):
    return model(x, y)


def ragged(B, T):
    """Items of all lengths up to T, in any order."""
    torch.manual_seed(B + T)
    lengths = torch.randint(1, T + 1, (B,))
    lengths[B // 2] = T
    return torch.randint(27, (B, T)), torch.randint(27, (B, T)).masked_fill(torch.arange(T) >= lengths[:, None], -1)


@pytest.mark.parametrize('dropout', [0.0, 0.2])
@pytest.mark.parametrize('B, T', [(1, 1), (1, 16), (32, 1), (32, 16), (5, 7)])
@pytest.mark.parametrize('kind', WAYS)
def test_a_quick_way_is_the_same_way(kind, B, T, dropout, build):
    """In double precision a mistake has nowhere to hide; in single precision only rounding is left."""
    model, (x, y) = build(kind, dropout=dropout, block_size=dict(wavenet=None, bow=16).get(kind, 8))[2].train(), ragged(B, T)
    with torch.no_grad():
        for p in model.parameters():      # a state at the start and biases that are not zero, gates that are half open
            p.add_(torch.randn_like(p), alpha=0.3)
    for a, b in zip(results(readable, model, x, y), results(WAYS[kind], model, x, y), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    torch.set_default_dtype(torch.float64)
    try:
        model.double()
        for a, b in zip(results(readable, model, x, y), results(WAYS[kind], model, x, y), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('kind', makemore.MODELS.keys() - {'ngram'})
def test_the_curve_is_the_same(kind, build, monkeypatch):
    """Thirty steps with faster.py and without."""
    curves, used = {}, []
    for family, way in faster.WAYS.items():
        monkeypatch.setitem(faster.WAYS, family, lambda *args, way=way: used.append(way) or way(*args))
    for there in (True, False):
        if not there:
            monkeypatch.setitem(sys.modules, 'faster', None)
        cfg, words, model = build(kind, batch_size=16, dropout=0.0 if kind == 'bow' else 0.1)
        run = makemore.Run(cfg, words, model.train(), backprop=makemore.by_autograd)
        run.optimizer = makemore.AdamW(run.model, cfg)
        curves[there] = [makemore.take_step(run, run.model) for _ in range(30)]
    assert len(used) == (31 if kind in WAYS else 0)      # once to see whether it is the same
    torch.testing.assert_close(torch.tensor(curves[True]), torch.tensor(curves[False]), rtol=1e-3, atol=1e-4)


def test_who_changes_a_model_gets_what_he_wrote(build, monkeypatch):
    """Also where the change is to the loss, or to a step, and faster.py knows nothing of it."""
    x, y = ragged(8, 6)
    step, forward = makemore.GRU.step, makemore.WindowModel.forward
    def leaky(self, *args):
        return [0.9 * state for state in step(self, *args)]
    monkeypatch.setattr(makemore.GRU, 'step', leaky)
    monkeypatch.setattr(makemore.WindowModel, 'forward', lambda self, *args: 2 * forward(self, *args))
    for kind in ('gru', 'bn-mlp'):
        model = build(kind, dropout=0.1)[2].train()
        before = copy.deepcopy(model.state_dict())
        for a, b in zip(results(faster.loss, copy.deepcopy(model), x, y), results(readable, model, x, y), strict=True):
            assert torch.equal(a, b), kind
        faster.loss(model.eval(), x, y)
        assert model not in faster.AGREED
        model.load_state_dict(before)      # nothing that a norm remembers is spoilt by the look
        results(faster.loss, model.train(), x, y)
        again = copy.deepcopy(model.state_dict())
        model.load_state_dict(before)
        results(readable, model, x, y)
        assert all(torch.equal(t, again[name]) for name, t in model.state_dict().items()), kind


class MGU(makemore.Recurrent):
    """A cell of one's own, with one gate."""
    gates = 2
    def step(self, x, h2, h):
        keep, new = (x + h2).chunk(2, 1)
        return [torch.lerp(new.tanh(), h, keep.sigmoid())]


def test_a_cell_of_ones_own_trains(build):
    cfg, _, _ = build('gru')
    model, (x, y) = MGU(cfg, 27).train(), ragged(8, 6)
    for a, b in zip(results(faster.loss, model, x, y), results(readable, model, x, y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('kind, part, times', [('rnn', 'tanh', 6), ('rnn', 'h2h', 6), ('rnn', 'drop', 2),
                                               ('mlp', 'net.3', 1), ('mlp', 'net.0', 1)])
def test_hooks_see_what_they_always_saw(kind, part, times, build):
    model, (x, y), seen = build(kind, dropout=0.1)[2].train(), ragged(8, 6), []
    expected = results(faster.loss, model, x, y)
    model.get_submodule(part).register_forward_hook(lambda *args: seen.append(1))
    found = results(faster.loss, model, x, y)
    assert len(seen) == times and faster.AGREED[model]
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b) if part in ('tanh', 'net.3') else torch.allclose(a, b, rtol=1e-3, atol=1e-6)
