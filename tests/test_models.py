"""What every model promises, over the registry; then what each promises for itself, against a second way to say it."""
import collections
import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore

ALL = list(makemore.MODELS)
NETS = [kind for kind in ALL if not hasattr(makemore.MODELS[kind], 'fit')]      # those that learn step by step


def default(kind):
    """A model with the sizes that its type prefers, for 27 tokens and lines of up to 15 letters."""
    cfg = makemore.settle(dict(type=kind))
    cfg.block_size = makemore.MODELS[kind].window(cfg, 15)
    torch.manual_seed(7)
    return makemore.MODELS[kind](cfg, 27)


def noisy(model):
    """Large random weights: what a model does at its start is too tame to tell right from wrong."""
    torch.manual_seed(3)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model.eval()


def count(model):
    return sum(p.numel() for p in model.parameters())


def all_of(words, split='train'):
    return makemore.gather(words, *words.splits[split])


# ----------------------------------------------------------------------------------------------------------------------
# The contract

@pytest.mark.parametrize('kind', NETS)
def test_a_new_net_knows_nothing(kind, build):
    """A loss far from ln(27) means an init that is sure of something; the first steps would go into unlearning it."""
    cfg, words, _ = build(kind, batch_size=64)
    model, (x, y, _) = default(kind), makemore.batch(words, cfg, 0)
    assert model.train()(x, y).item() == pytest.approx(math.log(27), rel=0.03)
    assert model.eval()(x, y).item() == pytest.approx(math.log(27), rel=0.03)


@pytest.mark.parametrize('kind', ALL)
def test_it_never_sees_the_future(kind, build):
    _, words, model = build(kind, block_size=None if kind == 'wavenet' else 8)
    model = noisy(model)
    torch.manual_seed(0)
    idx = torch.randint(27, (4, 8))
    before = model.logits(idx)
    assert before.shape == (4, 8, 27)
    for t in range(1, 8):
        other = idx.clone()
        other[:, t:] = torch.randint(27, (4, 8 - t))
        after = model.logits(other)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-5)
        assert not torch.allclose(after[:, t], before[:, t]), 'it does not see the present either'


@pytest.mark.parametrize('kind', ALL)
def test_next_logits_are_the_last_of_all_logits(kind, build):
    _, _, model = build(kind, block_size=None if kind == 'wavenet' else 8)
    model = noisy(model)
    torch.manual_seed(0)
    idx = F.pad(torch.randint(27, (4, 7)), (1, 0))
    for t in range(1, 9):
        torch.testing.assert_close(model.next_logits(idx[:, :t]), model.logits(idx)[:, t - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize('kind', ALL)
def test_the_loss_is_the_mean_over_what_are_targets(kind, build):
    """Padded, packed or cut into windows: the loss is that of one line at a time."""
    _, words, model = build(kind)
    model = noisy(model)
    x, y = all_of(words, 'dev')
    nats = [F.cross_entropy(model.logits(row[None, :n])[0], target[:n], reduction='sum').item()
            for row, target, n in zip(x, y, (y >= 0).sum(1).tolist())]
    assert model(x, y).item() == pytest.approx(sum(nats) / int((y >= 0).sum()), rel=1e-5)


@pytest.mark.parametrize('kind', NETS)
def test_every_parameter_gets_a_gradient(kind, build):
    _, words, model = build(kind)
    model.train()(*all_of(words)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, f'{name} learns nothing'


def floor(texts, context):
    """The least loss that a model can have on some texts if it sees so many tokens: the entropy of what comes next."""
    after = collections.defaultdict(collections.Counter)
    for text in texts:
        for i, letter in enumerate(text + '.'):
            past = '.' * 99 + text[:i]
            after[past[len(past) - (context or 99):]][letter] += 1
    nats = -sum(n * math.log(n / c.total()) for c in after.values() for n in c.values())
    return nats / sum(c.total() for c in after.values())


@pytest.mark.parametrize('kind', NETS)
def test_it_overfits_one_batch(kind, build, tmp_path):
    """Down to what is left to chance: which name it is, and after a short window more than that."""
    texts = ['emma', 'olivia', 'ava', 'sophia', 'mia', 'zoe']
    (tmp_path / 'few.txt').write_text('\n'.join(texts))
    cfg, words, model = build(kind, path=tmp_path / 'few.txt', split='all', dropout=0.0)
    x, y = all_of(words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=10 * cfg.learning_rate, weight_decay=0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
    least = floor(texts, model.context)
    assert least - 1e-3 < loss.item() < least + 0.05


@pytest.mark.parametrize('kind', ALL)
def test_a_deepcopy_is_a_model_of_its_own(kind, build):
    """A copy that still calls the original looks fine until one of the two is changed."""
    _, words, model = build(kind)
    model = noisy(model)
    x, y = all_of(words, 'dev')
    twin, before = copy.deepcopy(model), model(x, y)
    assert torch.equal(twin(x, y), before)
    mine, its = (({t.data_ptr() for t in m.state_dict().values() if t.numel()}) for m in (model, twin))
    assert mine and not mine & its
    for p in model.parameters():
        p.data.zero_()
    for b in model.buffers():
        b.zero_()
    assert torch.equal(twin(x, y), before)


def written(model, cached, stop=0, limit=20, rows=40):
    """What generate yields, from prompts of two letters."""
    idx = torch.tensor([[0, 1 + i % 5, 1 + i % 7] for i in range(rows)])
    spread = model.next_logits(idx).std().item()      # as a temperature: neither one letter nor chance alone decides
    generator = torch.Generator().manual_seed(5)
    return list(makemore.generate(model, idx, generator, limit, stop, cached, temperature=spread))


@pytest.mark.parametrize('stop', [0, None])
@pytest.mark.parametrize('kind', ALL)
def test_the_cache_changes_nothing(kind, stop, build):
    """The same tokens with and without, past the window of 8 and with rows leaving the batch at different times."""
    _, _, model = build(kind, n_layer=3, block_size=8)
    model = noisy(model)
    plain, cached = written(model, False, stop), written(model, True, stop)
    assert cached == plain
    sizes = {len(rows) for rows, _ in plain}
    assert (len(sizes) > 2 if stop == 0 else sizes == {40}) and len(plain) > 12


@pytest.mark.parametrize('kind', ALL)
def test_evaluating_and_sampling_leave_no_trace(kind, build):
    cfg, words, model = build(kind)
    model = noisy(model)
    before = copy.deepcopy(model.state_dict())
    makemore.sample(model, words, 5)
    model.logits(torch.randint(27, (4, 5)))
    makemore.evaluate(makemore.Run(cfg, words, model), 'dev')
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_only_what_can_use_a_cache_leaves_something_in_it(build):
    used = set()
    for kind in ALL:
        cache = {}
        build(kind, block_size=None if kind == 'wavenet' else 8)[2].eval().next_logits(torch.zeros(2, 3).long(), cache)
        used |= {kind} if cache else set()
    assert {'rnn', 'gru', 'lstm', 'transformer'} <= used and not used & {'ngram', 'bigram', 'mlp', 'bn-mlp', 'bow'}


# ----------------------------------------------------------------------------------------------------------------------
# Sizes that the lectures name

@pytest.mark.parametrize('kind, sizes, parameters', [
    ('bigram', dict(), 27 * 27),
    ('mlp', dict(block_size=3, n_embd=10, n_hidden=200), 11_897),
    ('bn-mlp', dict(block_size=3, n_embd=10, n_hidden=100, n_layer=6), 47_024),
    ('wavenet', dict(n_embd=24, n_hidden=128, n_layer=3), 76_579),
    ('transformer', dict(block_size=16, n_embd=64, n_head=4, n_layer=4), 204_544)])
def test_parameter_counts(kind, sizes, parameters):
    cfg = makemore.settle(dict(type=kind) | sizes)
    cfg.block_size = makemore.MODELS[kind].window(cfg, 15)
    assert count(makemore.MODELS[kind](cfg, 27)) == parameters


# ----------------------------------------------------------------------------------------------------------------------
# Batch normalization

def both_norms(channels=5):
    torch.manual_seed(0)
    ours, theirs = makemore.BatchNorm1d(channels), nn.BatchNorm1d(channels)
    for a, b in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        a.data.normal_()
        b.data.copy_(a.data)
    return ours, theirs


@pytest.mark.parametrize('shape', [(8, 5), (2, 5), (8, 3, 5), (1, 3, 5)])
def test_batch_norm_is_torchs(shape):
    """Output, gradients and running buffers, in train and in eval mode; torch wants the channels in the middle."""
    ours, theirs = both_norms()
    middle = (lambda x: x.transpose(1, 2)) if len(shape) == 3 else (lambda x: x)
    for mode in (True, True, False, True):
        ours.train(mode), theirs.train(mode)
        x = (torch.randn(shape) * 3 + 1).requires_grad_()
        z = x.detach().clone().requires_grad_()
        a, b, weights = ours(x), middle(theirs(middle(z))), torch.randn(shape)
        (a * weights).sum().backward(), (b * weights).sum().backward()
        for mine, its in ((a, b), (x.grad, z.grad), (ours.weight.grad, theirs.weight.grad),
                          (ours.running_mean, theirs.running_mean), (ours.running_var, theirs.running_var)):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=2e-6 if mine is x.grad else 1e-6)


def test_batch_norm_of_a_batch_of_one():
    """The unbiased variance of one thing is a division by 0: torch refuses, a small file must not."""
    ours, _ = both_norms()
    out = ours.train()(torch.randn(1, 5))
    assert torch.equal(out, ours.bias[None]) and ours.running_var.isfinite().all()


def test_batch_norm_in_eval_mode_leaves_its_buffers_alone():
    ours, _ = both_norms()
    before = copy.deepcopy(ours.state_dict())
    ours.eval()(torch.randn(8, 5))
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_no_bias_before_a_norm():
    for kind in ('bn-mlp', 'wavenet'):
        layers = list(default(kind).net)
        for layer, after in zip(layers, layers[1:]):
            assert not isinstance(after, makemore.BatchNorm1d) or layer.bias is None


# ----------------------------------------------------------------------------------------------------------------------
# The same model said in another way

@pytest.mark.parametrize('kind, cell', [('rnn', nn.RNNCell), ('gru', nn.GRUCell), ('lstm', nn.LSTMCell)])
def test_recurrent_nets_are_torchs_cells(kind, cell, build):
    _, _, model = build(kind, n_embd=6, n_hidden=9)
    model, idx = noisy(model), torch.randint(27, (4, 12))
    theirs = cell(6, 9)
    for ours, its in ((model.x2h, 'ih'), (model.h2h, 'hh')):
        for name, p in ours.named_parameters():
            gates = list(p.data.chunk(model.gates))
            if kind == 'lstm':      # ours: the three sigmoids, then the tanh; torch has the tanh third
                gates[2:] = gates[3], gates[2]
            getattr(theirs, f'{name}_{its}').data.copy_(torch.cat(gates))
    state = [start.expand(4, -1) for start in model.start]
    for t, out in enumerate(model.logits(idx).unbind(1)):
        x = model.embed(idx[:, t])
        state = list(theirs(x, tuple(state))) if kind == 'lstm' else [theirs(x, state[0])]
        torch.testing.assert_close(out, model.head(state[0]), rtol=0, atol=1e-5)


def test_wavenets_tree_and_its_dilated_form_agree(build):
    _, words, model = build('wavenet', n_layer=3)
    model, (x, _) = noisy(model), all_of(words)
    tree = makemore.WindowModel.logits(model, x)
    torch.testing.assert_close(model.logits(x), tree, rtol=0, atol=1e-5)
    torch.testing.assert_close(tree[:, -1], model.net(F.pad(x, (8, 0))[:, -8:]), rtol=0, atol=1e-5)


def test_flatten_consecutive():
    x = torch.arange(24).view(2, 4, 3)
    y = makemore.FlattenConsecutive()(x)
    assert y.shape == (2, 2, 6) and torch.equal(y[:, 0], torch.cat([x[:, 0], x[:, 1]], 1))
    assert makemore.FlattenConsecutive()(y).shape == (2, 12)      # one pair left: its dimension goes


def test_packed_rows_and_padded_rows_agree(build):
    """Several short lines share a row in training; each must see itself alone, at its own places."""
    _, words, model = build('transformer', dropout=0.0)
    model, (x, y) = noisy(model).train(), all_of(words)
    model(x, y).backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    padded = makemore.LanguageModel.forward(model, x, y)
    padded.backward()
    assert model(x, y).item() == pytest.approx(padded.item(), rel=1e-5)
    for p, grad in zip(model.parameters(), packed):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-5)


def test_the_bag_of_words_by_hand(build):
    """Layer by layer and place by place: add the mean of all up to here, then think alone."""
    _, _, model = build('bow', block_size=8)
    model, idx = noisy(model), torch.randint(27, (3, 8))
    x = model.what(idx) + model.where(torch.arange(8))
    for mlp in model.mlps:
        x = torch.stack([x[:, t] + x[:, :t + 1].mean(1) for t in range(8)], 1)
        x = x + mlp(x)
    torch.testing.assert_close(model.logits(idx), model.head(x), rtol=1e-5, atol=1e-4)


def test_gpt_2_by_hand(build):
    """One head at a time, one position at a time, no mask: what a position must not see is not there."""
    _, _, model = build('transformer', n_head=2, n_embd=8, block_size=6, dropout=0.0)
    model, idx = noisy(model), torch.randint(27, (2, 6))
    logits = model.logits(idx)
    for b in range(2):
        x = model.what(idx[b]) + model.where(torch.arange(6))
        for block in model.blocks:
            q, k, v = block.qkv(block.norm1(x)).split(8, 1)
            heads = [[(q[t, h] @ k[:t + 1, h].T / 2).softmax(-1) @ v[:t + 1, h] for h in (slice(0, 4), slice(4, 8))]
                     for t in range(6)]
            x = x + block.out(torch.stack([torch.cat(row) for row in heads]))
            x = x + block.mlp(block.norm2(x))
        torch.testing.assert_close(logits[b], model.head(model.norm(x)), rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Counting

def kneser_ney(texts, order, discount, symbols):
    """Interpolated Kneser-Ney with dictionaries and loops: text -> {symbol: probability of coming next}."""
    seen = [collections.defaultdict(collections.Counter) for _ in range(order + 1)]
    for text in texts:
        for i, letter in enumerate(text + '.'):
            past = '.' + text[:i]
            deepest = min(order, len(past))      # the line's start is the deepest that some contexts go
            seen[deepest][past[len(past) - deepest:]][letter] += 1
    for k in reversed(range(order)):      # a pair counts once for each different letter in front of it
        for past, counter in seen[k + 1].items():
            for letter in counter:
                seen[k][past[1:]][letter] += 1

    def after(past):
        p = {s: 1 / len(symbols) for s in symbols}
        for k in range(min(order, len(past)) + 1):
            counter = seen[k].get(past[len(past) - k:])
            if counter:
                rest = discount * len(counter)      # what was taken from the seen goes to the shorter context
                p = {s: (max(counter[s] - discount, 0) + rest * p[s]) / counter.total() for s in symbols}
        return p
    return after


def add_k(texts, order, k, symbols):
    """The lecture's counts with k fake ones for every pair; after what was never seen anything is as likely."""
    seen = collections.defaultdict(collections.Counter)
    for text in texts:
        for i, letter in enumerate(text + '.'):
            seen[('.' + text[:i])[-order:]][letter] += 1

    def after(past):
        counter = seen[past[-order:]]
        return {s: (counter[s] + k) / (counter.total() + k * len(symbols)) for s in symbols}
    return after


@pytest.mark.parametrize('smoothing', ['kn', 'add:1', 'add:0.25'])
@pytest.mark.parametrize('order', [1, 2, 3, 5])
def test_counting_against_dictionaries(order, smoothing, build, tmp_path):
    texts = 'anna hannah nan ann hanna ava van anan nana vanna'.split()
    (tmp_path / 'n.txt').write_text('\n'.join(texts))
    _, words, model = build('ngram', path=tmp_path / 'n.txt', block_size=order, smoothing=smoothing, split='lecture')
    x, y = all_of(words)
    train = [words.decode([t for t in row if t > 0]) for row in y.tolist()]
    assert len(train) == 8
    symbols = '.' + words.symbols
    dumb = (kneser_ney(train, order, float(model.state_dict()['discount']), symbols) if smoothing == 'kn' else
            add_k(train, order, float(smoothing[4:]), symbols))
    for text in ('', 'a', 'ann', 'hanna', 'vvv', 'nanh', 'hnavan'):
        idx = torch.tensor([[0] + words.encode(text)])
        p = model.logits(idx)[0].exp()
        torch.testing.assert_close(p.sum(-1), torch.ones(len(text) + 1).double(), rtol=0, atol=1e-9)
        for t in range(len(text) + 1):
            expected = dumb('.' + text[:t])
            assert p[t].tolist() == pytest.approx([expected[s] for s in symbols], rel=1e-9)


def test_the_discount_is_the_one_that_suits_dev_best(build):
    _, words, model = build('ngram')
    x, y = all_of(words, 'dev')
    chosen = model(x, y).item()
    for discount in (0.5, 0.6, 0.7, 0.8, 0.9, 0.98):
        model.discount = torch.tensor(discount, dtype=torch.float64)
        assert model(x, y).item() >= chosen - 1e-12


def test_a_context_longer_than_every_line(build):
    _, words, model = build('ngram', block_size=build('gru')[1].longest + 1)
    assert model(*all_of(words, 'dev')).isfinite()
    assert len(makemore.sample(model, words, 5)) == 5


def test_a_context_that_no_number_can_name_is_refused(build):
    """Contexts are numbers of 64 bits; one of 40 letters would wrap around and meet others."""
    with pytest.raises(makemore.UserError, match='--block-size 40'):
        build('ngram', block_size=40)
