"""The quick ways of faster.py: the numbers of the models as they stand in makemore.py, in less time."""
import copy
import math
import sys

import pytest
import torch

import faster
import makemore

CELLS = ['rnn', 'gru', 'lstm']
WINDOWS = ['mlp', 'bn-mlp', 'wavenet']
onednn = pytest.mark.skipif(not faster.product, reason='this torch was built without oneDNN')
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
    size = dict(wavenet=None, bow=16).get(kind, 8)
    model, (x, y) = build(kind, dropout=dropout, block_size=size)[2].train(), ragged(B, T)
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


@pytest.mark.parametrize('large', [faster.LARGE, pytest.param(1, marks=onednn)])
@pytest.mark.parametrize('kind', makemore.MODELS.keys() - {'ngram'})
def test_the_curve_is_the_same(kind, large, build, monkeypatch):
    """Thirty steps with faster.py and without; its large products are those of oneDNN, here of any size."""
    curves, used = {}, []
    monkeypatch.setattr(faster, 'LARGE', large)
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


@onednn
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(5, 7), (1, 7), (2, 3, 7), (0, 7), (2, 0, 7)])
def test_a_large_product_is_the_same(shape, bias, monkeypatch):
    """Also of tensors that lie in memory in another order."""
    torch.manual_seed(6)
    plain, x = torch.nn.Linear(7, 4, bias), torch.randn(shape)
    found = []
    for x in (x, x.mT.contiguous().mT):
        for large in (math.inf, 1):
            monkeypatch.setattr(faster, 'LARGE', large)
            quick, x = copy.deepcopy(plain), x.detach().requires_grad_()
            quick.__class__ = faster.Linear
            y = quick(x)
            weight = torch.linspace(-1, 1, y.numel()).view_as(y.mT).mT      # so is what comes back
            found.append([y, *torch.autograd.grad((y * weight).sum(), [x, *quick.parameters()])])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


def test_only_plain_linear_layers_multiply_in_another_way(build, monkeypatch):
    class Own(torch.nn.Linear):
        pass
    model, (x, y) = build('bn-mlp')[2].train(), ragged(8, 6)
    model.net[2].__class__ = Own
    loss = results(faster.loss, model, x, y)[0]
    assert type(model.net[2]) is Own and type(model.net[6]) is faster.Linear
    monkeypatch.setattr(faster, 'LARGE', 1)
    monkeypatch.setattr(faster, 'product', None)      # which doubles do not come by
    torch.testing.assert_close(results(readable, model.double(), x, y)[0].float(), loss)


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
