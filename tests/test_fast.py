"""The fast losses and the fast update compute what the plain models and torch's AdamW compute."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore
from makemore_extras import fast

FAST_TYPES = ['rnn', 'gru', 'lstm', 'mlp', 'bn-mlp', 'wavenet', 'bow', 'transformer']
TRAINED_TYPES = [name for name in makemore.MODELS if name not in ('ngram', 'mix')]
needs_onednn = pytest.mark.skipif(
    fast.onednn_linear is None, reason='this torch was built without oneDNN'
)


def fast_loss_of(model):
    return fast.FAST_LOSSES[type(model).__name__]


def plain_loss(model, x, y):
    return model(x, y)


def loss_and_grads(compute_loss, model, x, y):
    """The loss and all gradients, with the random generator in the same state every time."""
    torch.manual_seed(5)
    loss = compute_loss(model, x, y)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def assert_all_close(found, expected, rtol, atol):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def assert_all_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def ragged_batch(B, T):
    """Items of all lengths up to T, in any order; behind the end of an item the targets are -1."""
    torch.manual_seed(B + T)
    lengths = torch.randint(1, T + 1, (B,))
    lengths[B // 2] = T
    padding = torch.arange(T) >= lengths[:, None]
    x = torch.randint(27, (B, T))
    y = torch.randint(27, (B, T)).masked_fill(padding, -1)
    return x, y


def full_batch(B, T):
    torch.manual_seed(B + T)
    return torch.randint(27, (B, T)), torch.randint(27, (B, T))


def build_trained_like(build, model_type, **settings):
    """A model whose numbers are as if it had been trained.

    The start state and the biases are not zero, and the gates are half open.
    """
    block_size = {'wavenet': None, 'bow': 16, 'transformer': 16}.get(model_type, 8)
    _, _, model = build(model_type, block_size=block_size, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return model.train()


@pytest.fixture
def float64():
    """torch makes numbers in double precision during the test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -----------------------------------------------------------------------------
# the loss and its gradients

SHAPES = [(1, 1), (1, 16), (32, 1), (32, 16), (5, 7), (2, 3), (64, 12)]


def test_every_model_with_a_fast_loss_is_tested_here(build):
    names = {makemore.MODELS[model_type].__name__ for model_type in FAST_TYPES}
    assert names | {'Mix'} == set(fast.FAST_LOSSES)  # a mix has tests of its own


@pytest.mark.parametrize('make_batch', [ragged_batch, full_batch])
@pytest.mark.parametrize('B, T', SHAPES)
@pytest.mark.parametrize('model_type', FAST_TYPES)
def test_fast_loss_and_gradients_equal_the_plain_ones(model_type, B, T, make_batch, build):
    model = build_trained_like(build, model_type, dropout=0.0)
    x, y = make_batch(B, T)
    expected = loss_and_grads(plain_loss, model, x, y)
    found = loss_and_grads(fast_loss_of(model), model, x, y)
    assert_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('make_batch', [ragged_batch, full_batch])
@pytest.mark.parametrize('B, T', SHAPES)
@pytest.mark.parametrize('model_type', FAST_TYPES)
def test_they_are_equal_in_double_precision_too(model_type, B, T, make_batch, build, float64):
    """A small mistake can hide in the rounding of single precision, but not here."""
    model = build_trained_like(build, model_type, dropout=0.0).double()
    x, y = make_batch(B, T)
    expected = loss_and_grads(plain_loss, model, x, y)
    found = loss_and_grads(fast_loss_of(model), model, x, y)
    assert_all_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('B, T', [(2, 3), (5, 7), (32, 16)])
@pytest.mark.parametrize('model_type', FAST_TYPES)
def test_dropout_is_applied_in_the_same_places(model_type, B, T, build, monkeypatch):
    """The random numbers differ, so dropout is replaced by something that can be compared."""

    def curve(x, p):
        return x * (1 - p) + p * x.sin()

    monkeypatch.setattr(nn.Dropout, 'forward', lambda self, x: curve(x, self.p))
    monkeypatch.setattr(fast, 'dropout', curve)
    model = build_trained_like(build, model_type, dropout=0.3)
    x, y = ragged_batch(B, T)
    expected = loss_and_grads(plain_loss, model, x, y)
    found = loss_and_grads(fast_loss_of(model), model, x, y)
    assert_all_close(found, expected, rtol=1e-4, atol=1e-4)
    without_dropout = build_trained_like(build, model_type, dropout=0.0)
    assert plain_loss(without_dropout, x, y) != expected[0]


@pytest.mark.parametrize('large', [fast.LARGE, pytest.param(1, marks=needs_onednn)])
@pytest.mark.parametrize('model_type', TRAINED_TYPES)
def test_thirty_steps_have_the_same_curve(model_type, large, build, monkeypatch):
    """The fast parts of a training step against the plain ones, also with oneDNN for any size."""
    monkeypatch.setattr(fast, 'LARGE', large)
    calls = []

    def count_calls(compute_loss):
        return lambda *args: calls.append(1) or compute_loss(*args)

    for name, compute_loss in fast.FAST_LOSSES.items():
        monkeypatch.setitem(fast.FAST_LOSSES, name, count_calls(compute_loss))

    curves = []
    for use_fast in (True, False):
        monkeypatch.setattr(makemore, 'HAVE_EXTRAS', use_fast)
        config, dataset, model = build(model_type, batch_size=16, dropout=0.0)
        run = makemore.Run(config, dataset, model.train(), device=torch.device('cpu'))
        run.optimizer = makemore.make_optimizer(config, model, run.device)
        run.backward = makemore.choose_backward(run)
        net = makemore.wrap_model(run)
        assert (net is model) != use_fast
        curve = []
        for step in range(30):
            curve.append(makemore.train_step(run, net, makemore.get_lr(config, step)))
        curves.append(curve)
    n_checks = 1
    assert len(calls) == (30 + n_checks if model_type in FAST_TYPES else 0)
    fast_curve, plain_curve = torch.tensor(curves)
    torch.testing.assert_close(fast_curve, plain_curve, rtol=1e-3, atol=1e-4)


def test_in_evaluation_the_plain_model_computes_the_loss(build):
    _, _, model = build('bn-mlp', dropout=0.0)
    net = fast.FastModel(model)
    net.eval()
    x, y = ragged_batch(8, 6)
    assert torch.equal(net(x, y), model.eval()(x, y))
    assert not net.is_checked


def test_a_fast_model_trains_the_parameters_of_the_plain_one(build):
    _, _, model = build('gru')
    net = fast.FastModel(model)
    assert list(net.parameters()) == list(model.parameters())


# -----------------------------------------------------------------------------
# a changed model is trained as it was changed


def changed_gru():
    """A class with the name of a known one, whose state leaks."""

    class GRU(makemore.GRU):
        def step(self, x, h2, h):
            (new_h,) = super().step(x, h2, h)
            return [0.9 * new_h]

    return GRU


def changed_mlp():
    """A class with the name of a known one, whose loss is weighted."""

    class BatchNormMLP(makemore.BatchNormMLP):
        def forward(self, idx, targets):
            return 2 * super().forward(idx, targets)

    return BatchNormMLP


def mlp_without_flatten():
    """A class with the name of a known one, in which the fast loss does not find its layers."""

    class MLP(makemore.MLP):
        def __init__(self, config, vocab_size):
            super().__init__(config, vocab_size)
            embedding, flatten, *others = self.net
            self.net = nn.Sequential(nn.Sequential(embedding, flatten), *others)

    return MLP


class Adapter(nn.Linear):
    """Starts with the results of an old layer, but has more parameters."""

    def __init__(self, old):
        super().__init__(old.in_features, old.out_features)
        self.load_state_dict(old.state_dict())
        self.down = nn.Linear(old.in_features, 2)
        self.up = nn.Linear(2, old.out_features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


def rnn_with_adapter():
    """A class with the name of a known one, with a layer of which the fast loss knows nothing.

    At first its results are the same; only its parameters have no gradient there.
    """

    class RNN(makemore.RNN):
        def __init__(self, config, vocab_size):
            super().__init__(config, vocab_size)
            self.h2h = Adapter(self.h2h)

    return RNN


def one_gate_cell():
    """A cell of the user's own, with one gate, of which the fast module knows nothing."""

    class MGU(makemore.Recurrent):
        n_gates = 2

        def step(self, x, h2, h):
            keep, new = (x + h2).chunk(2, 1)
            return [torch.lerp(new.tanh(), h, keep.sigmoid())]

    return MGU


CHANGED_MODELS = [
    ('gru', changed_gru),
    ('bn-mlp', changed_mlp),
    ('mlp', mlp_without_flatten),
    ('rnn', rnn_with_adapter),
    ('gru', one_gate_cell),
]


@pytest.mark.parametrize('model_type, make_class', CHANGED_MODELS)
def test_a_changed_model_falls_back_to_its_own_loss(model_type, make_class, build):
    """Also where the change is to the loss, or to a step, that the fast loss knows nothing of."""
    config, dataset, _ = build(model_type, dropout=0.1)
    model = make_class()(config, dataset.vocab_size).train()
    net = fast.FastModel(copy.deepcopy(model))
    batches = [ragged_batch(8, 6), ragged_batch(9, 5)]
    for x, y in batches:
        expected = loss_and_grads(plain_loss, model, x, y)
        assert_all_equal(loss_and_grads(plain_loss, net, x, y), expected)
        assert net.fast_loss is None


@pytest.mark.parametrize('model_type, make_class', CHANGED_MODELS)
def test_the_comparison_leaves_no_trace(model_type, make_class, build):
    """Neither the running statistics of a norm nor the random generator notice it."""
    config, dataset, _ = build(model_type, dropout=0.1)
    model = make_class()(config, dataset.vocab_size).train()
    twin = copy.deepcopy(model)
    x, y = ragged_batch(8, 6)

    torch.manual_seed(7)
    model(x, y)
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    fast.FastModel(twin)(x, y)
    assert torch.equal(torch.get_rng_state(), expected)
    assert_all_equal(twin.state_dict().values(), model.state_dict().values())


@pytest.mark.parametrize('model_type', FAST_TYPES)
def test_the_comparison_of_an_unchanged_model_leaves_no_trace_either(model_type, build):
    _, _, model = build(model_type, dropout=0.1)
    net = fast.FastModel(model.train())
    x, y = ragged_batch(8, 6)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    assert fast.computes_the_same(net.fast_loss, model, x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert_all_equal(model.state_dict().values(), before.values())
    assert all(p.grad is None for p in model.parameters())
    assert all(m.p == 0.1 for m in model.modules() if isinstance(m, nn.Dropout))


def test_running_statistics_are_those_of_the_plain_model(build):
    _, _, model = build('bn-mlp', dropout=0.0)
    twin = copy.deepcopy(model).train()
    net = fast.FastModel(model.train())
    for B, T in ((8, 6), (9, 5)):
        x, y = ragged_batch(B, T)
        net(x, y)
        twin(x, y)
    assert net.fast_loss is not None
    assert_all_close(model.state_dict().values(), twin.state_dict().values(), 1e-5, 1e-6)


# -----------------------------------------------------------------------------
# large matrix products

LINEAR_SHAPES = [(5, 7), (1, 7), (2, 3, 7), (64, 33, 7), (0, 7), (2, 0, 7)]


def linear_and_grads(layer, x):
    x = x.detach().requires_grad_()
    out = fast.linear(x, layer)
    # what comes back does not lie in memory row by row either
    weight = torch.linspace(-1, 1, out.numel()).view_as(out.mT).mT
    grads = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
    return [out, *grads]


@needs_onednn
@pytest.mark.parametrize('is_transposed', [False, True])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', LINEAR_SHAPES)
def test_a_product_by_onednn_equals_the_plain_one(shape, bias, is_transposed, monkeypatch):
    """Also of tensors that lie in memory in another order."""
    torch.manual_seed(6)
    layer = nn.Linear(7, 4, bias)
    x = torch.randn(shape)
    if is_transposed:
        x = x.mT.contiguous().mT
    results = []
    for large in (math.inf, 1):
        monkeypatch.setattr(fast, 'LARGE', large)
        results.append(linear_and_grads(layer, x))
    assert_all_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_only_large_products_in_single_precision_go_to_onednn(monkeypatch):
    """The others never ask for it: without it, they would fail here."""
    monkeypatch.setattr(fast, 'onednn_linear', None)
    layer = nn.Linear(7, 4)
    x = torch.randn(5, 7)
    monkeypatch.setattr(fast, 'LARGE', 5 * 7 * 4 + 1)
    assert torch.equal(fast.linear(x, layer), layer(x))
    monkeypatch.setattr(fast, 'LARGE', 1)
    assert torch.equal(fast.linear(x.double(), layer.double()), layer(x.double()))


def test_a_layer_of_another_class_is_called_as_it_is(monkeypatch):
    """Only nn.Linear itself is multiplied in another way, not what somebody made of it."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    monkeypatch.setattr(fast, 'LARGE', 1)
    layers = nn.Sequential(Doubled(7, 7), nn.Sequential(nn.Tanh(), Doubled(7, 4)))
    x = torch.randn(5, 7)
    assert torch.equal(fast.apply_layer(layers, x), layers(x))
    assert torch.equal(fast.linear(x, layers[0]), layers[0](x))


def test_an_adapter_in_the_attention_is_trained(build, monkeypatch):
    """The first batch was a small product and agreed; the adapter was left out of larger ones."""
    model = build_trained_like(build, 'transformer', dropout=0.0)
    model.blocks[0].attn.qkv = Adapter(model.blocks[0].attn.qkv)
    nn.init.normal_(model.blocks[0].attn.qkv.up.weight)
    net = fast.FastModel(model)
    for large in (math.inf, 1):
        monkeypatch.setattr(fast, 'LARGE', large)
        x, y = ragged_batch(32, 16)
        expected = loss_and_grads(plain_loss, model, x, y)
        assert_all_close(loss_and_grads(plain_loss, net, x, y), expected, rtol=1e-4, atol=1e-4)


# -----------------------------------------------------------------------------
# dropout


def test_dropout_of_zero_changes_nothing_and_draws_nothing():
    x = torch.randn(3, 4)
    state = torch.get_rng_state()
    assert fast.dropout(x, 0) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('p', [0.01, 0.1, 0.5, 0.9, 0.99])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(1)
    x = torch.ones(1000, 1001, dtype=dtype)
    out = fast.dropout(x, p)
    n = x.numel()
    assert out.dtype == dtype
    assert out.shape == x.shape
    # five standard deviations of a binomial distribution
    tolerance = 5 * math.sqrt(p * (1 - p) / n)
    assert (out == 0).double().mean().item() == pytest.approx(p, abs=tolerance)
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-3, atol=0)
    assert out.double().mean().item() == pytest.approx(1, abs=2 * tolerance / (1 - p))


@pytest.mark.parametrize('shape', [(), (1,), (2,), (3,), (5,), (7, 3), (2, 3, 5), (0, 4)])
def test_dropout_of_any_number_of_elements(shape):
    """Four elements share a random number; the last one may serve for fewer."""
    torch.manual_seed(1)
    x = torch.ones(shape)
    seen = {value for _ in range(50) for value in fast.dropout(x, 0.5).flatten().tolist()}
    assert seen == ({0.0, 2.0} if x.numel() else set())


def test_dropout_decides_about_each_element_alone():
    """Neither neighbours nor the four that share a random number agree more often than chance."""
    torch.manual_seed(1)
    dropped = fast.dropout(torch.ones(10**6), 0.5) == 0
    for distance in range(1, 9):
        agree = (dropped[:-distance] == dropped[distance:]).double().mean().item()
        assert agree == pytest.approx(0.5, abs=0.0025), distance


def test_the_gradient_of_dropout_is_scaled_where_the_input_was():
    torch.manual_seed(1)
    x = torch.randn(64, 33, requires_grad=True)
    out = fast.dropout(x, 0.25)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad == 0, out == 0)
    torch.testing.assert_close(grad[grad != 0], torch.full((int((grad != 0).sum()),), 4 / 3))


def test_dropout_depends_on_the_seed_alone():
    x = torch.ones(1000)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(fast.dropout(x, 0.5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# -----------------------------------------------------------------------------
# packed rows of the transformer


def pack_items_plainly(lengths, width):
    """What pack_items describes, step by step: the longest first, then the shortest that fit."""
    left = sorted(range(len(lengths)), key=lambda item: lengths[item], reverse=True)
    rows = []
    while left:
        row = [left.pop(0)]
        while left and sum(lengths[item] for item in [*row, left[-1]]) <= width:
            row.append(left.pop())
        rows.append(row)
    return rows


def test_an_example_of_packed_items():
    assert fast.pack_items([5, 3, 2], 8) == [[0, 2], [1]]


@pytest.mark.parametrize('seed', range(20))
def test_items_are_packed_as_described(seed):
    torch.manual_seed(seed)
    n = int(torch.randint(1, 100, (1,)))
    lengths = torch.randint(1, 17, (n,)).tolist()
    rows = fast.pack_items(lengths, 16)
    assert rows == pack_items_plainly(lengths, 16)
    assert sorted(item for row in rows for item in row) == list(range(n))
    assert all(sum(lengths[item] for item in row) <= 16 for row in rows)


def pack_batch_plainly(idx, targets, width):
    """Every number of every row, one by one."""
    lengths = (targets >= 0).sum(1).tolist()
    tokens, positions, owners, answers = [], [], [], []
    for row in pack_items_plainly(lengths, width):
        places = [(item, t) for item in row for t in range(lengths[item])]
        tokens.append([idx[place].item() for place in places])
        positions.append([t for _, t in places])
        owners.append([item for item, _ in places])
        answers.append([targets[place].item() for place in places])
    W = max(map(len, tokens))
    while W % 16:
        W += 1
    nobody = len(idx)
    for row, padding in ((tokens, 0), (positions, 0), (owners, nobody), (answers, -1)):
        for numbers in row:
            numbers.extend([padding] * (W - len(numbers)))
    mask = torch.full((len(tokens), 1, W, W), -math.inf)
    for r, row in enumerate(owners):
        for i in range(W):
            for j in range(i + 1):
                if row[i] == row[j]:
                    mask[r, 0, i, j] = 0.0
    return torch.tensor(tokens), torch.tensor(positions), mask, torch.tensor(answers)


@pytest.mark.parametrize('width', [16, 20])
@pytest.mark.parametrize('B, T', [(1, 1), (1, 16), (7, 5), (32, 16), (40, 9)])
def test_a_packed_batch_is_what_a_loop_makes_of_it(B, T, width):
    x, y = ragged_batch(B, T)
    found = fast.pack_batch(x, y, width)
    assert_all_equal(found, pack_batch_plainly(x, y, width))
    assert (found[3] >= 0).sum() == (y >= 0).sum()


@pytest.mark.parametrize('n_head', [1, 4])
def test_items_that_share_a_row_do_not_see_each_other(n_head, build):
    """The loss of many short items in few rows is the mean of what each has alone."""
    model = build_trained_like(build, 'transformer', dropout=0.0, n_head=n_head)
    x, y = ragged_batch(24, 16)
    tokens, *_ = fast.pack_batch(x, y, model.context)
    assert len(tokens) < len(x)
    lengths = (y >= 0).sum(1).tolist()
    total = 0.0
    for item, n in enumerate(lengths):
        alone = slice(item, item + 1), slice(0, n)
        total = total + n * model(x[alone], y[alone])
    torch.testing.assert_close(fast.transformer_loss(model, x, y), total / sum(lengths))


# -----------------------------------------------------------------------------
# the update


def make_model_and_optimizer(use_fast, state=None):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
    config = makemore.Config(type='mlp', weight_decay=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makemore, 'HAVE_EXTRAS', use_fast)
        state = copy.deepcopy(state)
        optimizer = makemore.make_optimizer(config, model, torch.device('cpu'), state)
    assert isinstance(optimizer, fast.FastAdamW) == use_fast
    return model, optimizer


def take_steps(model, optimizer, max_norms):
    """Some steps with a learning rate that changes; the norms of the gradients."""
    generator = torch.Generator().manual_seed(4)
    norms = []
    for step, max_norm in enumerate(max_norms):
        for group in optimizer.param_groups:
            group['lr'] = 0.01 * (step + 1)
        x = torch.randn(16, 5, generator=generator)
        y = torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        is_fast = isinstance(optimizer, fast.FastAdamW)
        clip = fast.clip_grad_norm if is_fast else nn.utils.clip_grad_norm_
        norms.append(clip(model.parameters(), max_norm))
        optimizer.step()
    return norms


MAX_NORMS = {
    'never clipped': [math.inf] * 6,
    'always clipped': [0.01] * 6,
    'sometimes clipped': [0.01, math.inf, 0.05, 100.0, 1e-6, 1.0],
}


@pytest.mark.parametrize('is_resumed', [False, True])
@pytest.mark.parametrize('max_norms', MAX_NORMS.values(), ids=MAX_NORMS)
def test_the_update_is_bit_for_bit_that_of_torch(max_norms, is_resumed):
    """Weights, norms and the optimizer's averages, which go into checkpoints."""
    state = None
    if is_resumed:
        model, optimizer = make_model_and_optimizer(use_fast=False)
        take_steps(model, optimizer, [1.0] * 3)
        state = optimizer.state_dict()['state']
    results = []
    for use_fast in (False, True):
        model, optimizer = make_model_and_optimizer(use_fast, state)
        norms = take_steps(model, optimizer, max_norms)
        averages = []
        for entry in optimizer.state_dict()['state'].values():
            averages += [entry['step'], entry['exp_avg'], entry['exp_avg_sq']]
        results.append([*norms, *model.parameters(), *averages])
    assert_all_equal(results[1], results[0])


def test_a_parameter_without_a_gradient_is_left_alone():
    """As by torch; the kernel could not be called on it."""
    results = []
    for use_fast in (False, True):
        model, optimizer = make_model_and_optimizer(use_fast)
        take_steps(model, optimizer, [1.0] * 2)
        model[0].weight.requires_grad_(False)
        take_steps(model, optimizer, [1.0] * 2)
        model[0].weight.requires_grad_(True)
        take_steps(model, optimizer, [1.0] * 2)
        results.append(list(model.parameters()))
    assert_all_equal(results[1], results[0])
