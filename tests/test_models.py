"""What every model guarantees, over the registry; then each against a second, plainer form."""

import collections
import copy
import itertools
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore

ALL = list(makemore.MODELS)
TRAINED = [name for name, cls in makemore.MODELS.items() if not cls.is_counted]


def default_model(model_type, **typed):
    """A model with the sizes that its type prefers, for 27 tokens and lines of up to 15 letters."""
    config = makemore.resolve_config({'type': model_type, **typed})
    config.block_size = makemore.MODELS[model_type].choose_block_size(config, 15)
    torch.manual_seed(7)
    return makemore.MODELS[model_type](config, 27)


def randomize(model):
    """Large random weights: at its start a model predicts almost the same, right or wrong."""
    torch.manual_seed(3)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model.eval()


def sizes_for_context(model_type, block_size):
    """The setting for a context of this length; a wavenet computes its own."""
    return {} if model_type == 'wavenet' else {'block_size': block_size}


def all_of(dataset, split='train'):
    """Inputs and targets of a whole split."""
    return makemore.pad_batch(dataset.tokens, dataset.spans[split])


# -----------------------------------------------------------------------------
# what every model guarantees


@pytest.mark.parametrize('model_type', TRAINED)
def test_the_initial_loss_is_that_of_a_uniform_guess(model_type, build):
    """Far from ln 27 the first steps would only unlearn what the initialization predicts."""
    config, dataset, _ = build(model_type, batch_size=64)
    model = default_model(model_type)
    x, y, _ = makemore.get_batch(dataset, config, 0)
    assert model.train()(x, y).item() == pytest.approx(math.log(27), rel=0.03)
    assert model.eval()(x, y).item() == pytest.approx(math.log(27), rel=0.03)


@pytest.mark.parametrize('model_type', ALL)
def test_no_model_sees_the_future(model_type, build):
    _, _, model = build(model_type, **sizes_for_context(model_type, 8))
    model = randomize(model)
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


@pytest.mark.parametrize('model_type', ALL)
def test_next_logits_are_the_last_of_all_logits(model_type, build):
    _, _, model = build(model_type, **sizes_for_context(model_type, 8))
    model = randomize(model)
    torch.manual_seed(0)
    idx = F.pad(torch.randint(27, (4, 7)), (1, 0))
    logits = model.logits(idx)
    for t in range(1, 9):
        following = model.next_logits(idx[:, :t])
        torch.testing.assert_close(following, logits[:, t - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize('model_type', ALL)
def test_the_loss_is_the_mean_over_the_targets(model_type, build):
    """Padded or cut into windows: the loss of a batch is that of its lines one at a time."""
    _, dataset, model = build(model_type)
    model = randomize(model)
    x, y = all_of(dataset, 'dev')
    total = 0.0
    for inputs, targets in zip(x, y, strict=True):
        n = int((targets >= 0).sum())
        logits = model.logits(inputs[None, :n])[0]
        total += F.cross_entropy(logits, targets[:n], reduction='sum').item()
    n_targets = int((y >= 0).sum())
    assert model(x, y).item() == pytest.approx(total / n_targets, rel=1e-5)


@pytest.mark.parametrize('model_type', TRAINED)
def test_every_parameter_gets_a_gradient(model_type, build):
    _, dataset, model = build(model_type)
    model.train()(*all_of(dataset)).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, p in trained:
        assert p.grad is not None, f'{name} has no gradient'
        assert p.grad.abs().sum() > 0, f'the gradient of {name} is zero'


def lowest_loss(texts, context):
    """The lowest loss of a model that sees so many tokens: the entropy of the next letter."""
    followers = collections.defaultdict(collections.Counter)
    for text in texts:
        for i, letter in enumerate(text + '.'):
            past = '.' * 99 + text[:i]
            seen = past[-(context or 99) :]
            followers[seen][letter] += 1
    total = 0
    nats = 0.0
    for counts in followers.values():
        total += counts.total()
        nats -= sum(n * math.log(n / counts.total()) for n in counts.values())
    return nats / total


@pytest.mark.parametrize('model_type', TRAINED)
def test_it_overfits_one_batch(model_type, build, tmp_path):
    """Down to what is left to chance: which name comes, and more than that in a short window."""
    texts = ['emma', 'olivia', 'ava', 'sophia', 'mia', 'zoe']
    (tmp_path / 'few.txt').write_text('\n'.join(texts))
    config, dataset, model = build(model_type, tmp_path / 'few.txt', split='all', dropout=0.0)
    x, y = all_of(dataset)
    lr = 10 * config.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
    lowest = lowest_loss(texts, model.context)
    assert lowest - 1e-3 < loss.item() < lowest + 0.05


def addresses(model):
    """Where the numbers of a model stand in memory."""
    return {t.data_ptr() for t in model.state_dict().values() if t.numel()}


@pytest.mark.parametrize('model_type', ALL)
def test_a_deepcopy_shares_nothing_with_the_original(model_type, build):
    """A copy that still calls the original looks right until one of the two is changed."""
    _, dataset, model = build(model_type)
    model = randomize(model)
    x, y = all_of(dataset, 'dev')
    twin = copy.deepcopy(model)
    before = model(x, y)
    assert torch.equal(twin(x, y), before)
    assert addresses(model)
    assert not addresses(model) & addresses(twin)

    for p in model.parameters():
        p.data.zero_()
    for b in model.buffers():
        b.zero_()
    assert torch.equal(twin(x, y), before)


def generated(model, use_cache, stop_token=0):
    """What generate yields from 40 prompts of two letters."""
    prompts = [[0, 1 + i % 5, 1 + i % 7] for i in range(40)]
    idx = torch.tensor(prompts)
    # at this temperature neither one letter nor chance alone decides
    temperature = model.next_logits(idx).std().item()
    generator = torch.Generator().manual_seed(5)
    how = {'stop_token': stop_token, 'use_cache': use_cache, 'temperature': temperature}
    return list(makemore.generate(model, idx, generator, 20, **how))


@pytest.mark.parametrize('stop_token', [0, -1])
@pytest.mark.parametrize('model_type', ALL)
def test_the_cache_changes_nothing(model_type, stop_token, build):
    """The same tokens with and without it.

    Beyond the context of 8 tokens, and with rows that leave the batch at different times.
    """
    _, _, model = build(model_type, n_layer=3, block_size=8)
    model = randomize(model)
    plain = generated(model, False, stop_token)
    assert generated(model, True, stop_token) == plain

    assert len(plain) > 12
    sizes = {len(rows) for rows, _ in plain}
    if stop_token == -1:
        assert sizes == {40}
    else:
        assert len(sizes) > 2


@pytest.mark.parametrize('model_type', ALL)
def test_evaluation_and_sampling_do_not_change_the_model(model_type, build):
    _, dataset, model = build(model_type)
    model = randomize(model)
    before = copy.deepcopy(model.state_dict())
    makemore.sample(model, dataset, 5)
    model.logits(torch.randint(27, (4, 5)))
    makemore.evaluate(model, dataset, 'dev')
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_which_models_use_the_cache(build):
    used = set()
    for model_type in ALL:
        _, _, model = build(model_type, **sizes_for_context(model_type, 8))
        cache = {}
        model.eval().next_logits(torch.zeros(2, 3).long(), cache)
        if cache:
            used.add(model_type)
    assert {'rnn', 'gru', 'lstm', 'transformer'} <= used
    assert not used & {'ngram', 'bigram', 'mlp', 'bn-mlp', 'bow'}


# -----------------------------------------------------------------------------
# sizes that the lectures name


@pytest.mark.parametrize(
    'model_type, sizes, n_parameters',
    [
        ('bigram', {}, 27 * 27),
        ('mlp', {'block_size': 3, 'n_embd': 10, 'n_hidden': 200}, 11_897),
        ('bn-mlp', {'block_size': 3, 'n_embd': 10, 'n_hidden': 100, 'n_layer': 6}, 47_024),
        ('wavenet', {'n_embd': 24, 'n_hidden': 128, 'n_layer': 3}, 76_579),
        ('transformer', {'block_size': 16, 'n_embd': 64, 'n_head': 4, 'n_layer': 4}, 204_544),
    ],
)
def test_parameter_counts(model_type, sizes, n_parameters):
    model = default_model(model_type, **sizes)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert makemore.count_parameters(model) == n_parameters


# -----------------------------------------------------------------------------
# batch normalization


def both_norms(channels=5):
    """The batch norm of makemore and torch's, with the same random weights."""
    torch.manual_seed(0)
    ours = makemore.BatchNorm1d(channels)
    theirs = nn.BatchNorm1d(channels)
    for name in ('weight', 'bias'):
        value = torch.randn(channels)
        getattr(ours, name).data.copy_(value)
        getattr(theirs, name).data.copy_(value)
    return ours, theirs


def apply_torchs_norm(norm, x):
    """torch wants the channels of (N, T, C) in the middle."""
    if x.ndim == 2:
        return norm(x)
    return norm(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize('shape', [(8, 5), (2, 5), (8, 3, 5), (1, 3, 5)])
def test_batch_norm_is_that_of_torch(shape):
    """Output, gradients and running buffers, in training and in evaluation."""
    ours, theirs = both_norms()
    for training in (True, True, False, True):
        ours.train(training)
        theirs.train(training)
        x1 = (torch.randn(shape) * 3 + 1).requires_grad_()
        x2 = x1.detach().clone().requires_grad_()
        y1 = ours(x1)
        y2 = apply_torchs_norm(theirs, x2)
        d_y = torch.randn(shape)
        (y1 * d_y).sum().backward()
        (y2 * d_y).sum().backward()
        torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-6)
        for name in ('running_mean', 'running_var'):
            a = getattr(ours, name)
            b = getattr(theirs, name)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_batch_norm_of_a_batch_of_one():
    """The unbiased variance of one value divides by 0: torch refuses, but a short list needs it."""
    ours, _ = both_norms()
    out = ours.train()(torch.randn(1, 5))
    assert torch.equal(out, ours.bias[None])
    assert ours.running_var.isfinite().all()


def test_batch_norm_keeps_its_buffers_in_evaluation():
    ours, _ = both_norms()
    before = copy.deepcopy(ours.state_dict())
    ours.eval()(torch.randn(8, 5))
    for name, value in ours.state_dict().items():
        assert torch.equal(before[name], value), name


@pytest.mark.parametrize('model_type', ['bn-mlp', 'wavenet'])
def test_no_bias_before_a_norm(model_type):
    layers = list(default_model(model_type).net)
    n_norms = 0
    for before, layer in itertools.pairwise(layers):
        if isinstance(layer, makemore.BatchNorm1d):
            assert before.bias is None
            n_norms += 1
    assert n_norms > 0


# -----------------------------------------------------------------------------
# the same model in another form


@pytest.mark.parametrize(
    'model_type, cell_class', [('rnn', nn.RNNCell), ('gru', nn.GRUCell), ('lstm', nn.LSTMCell)]
)
def test_recurrent_nets_are_the_cells_of_torch(model_type, cell_class, build):
    _, _, model = build(model_type, n_embd=6, n_hidden=9)
    model = randomize(model)
    cell = cell_class(6, 9)
    for ours, name_there in ((model.x2h, 'ih'), (model.h2h, 'hh')):
        for name, p in ours.named_parameters():
            gates = list(p.data.chunk(model.n_gates))
            if model_type == 'lstm':  # ours: three sigmoids, then the tanh; torch: the tanh third
                gates[2:] = gates[3], gates[2]
            getattr(cell, f'{name}_{name_there}').data.copy_(torch.cat(gates))

    idx = torch.randint(27, (4, 12))
    state = [vector.expand(4, -1) for vector in model.start]
    for t, logits in enumerate(model.logits(idx).unbind(1)):
        x = model.tok_emb(idx[:, t])
        state = list(cell(x, tuple(state))) if model_type == 'lstm' else [cell(x, state[0])]
        torch.testing.assert_close(logits, model.head(state[0]), rtol=0, atol=1e-5)


def test_the_tree_of_the_wavenet_and_its_dilated_form_agree(build):
    _, dataset, model = build('wavenet', n_layer=3)
    model = randomize(model)
    x, _ = all_of(dataset)
    tree = makemore.WindowModel.logits(model, x)
    torch.testing.assert_close(model.logits(x), tree, rtol=0, atol=1e-5)
    last_windows = F.pad(x, (8, 0))[:, -8:]
    torch.testing.assert_close(tree[:, -1], model.net(last_windows), rtol=0, atol=1e-5)


def test_flatten_consecutive():
    x = torch.arange(24).view(2, 4, 3)
    y = makemore.FlattenConsecutive()(x)
    assert y.shape == (2, 2, 6)
    assert torch.equal(y[:, 0], torch.cat([x[:, 0], x[:, 1]], 1))
    # of one remaining pair the dimension of the pairs is dropped
    assert makemore.FlattenConsecutive()(y).shape == (2, 12)


def test_the_bag_of_words_in_loops(build):
    """Layer by layer and position by position: add the mean of all so far, then the MLP."""
    _, _, model = build('bow', block_size=8)
    model = randomize(model)
    idx = torch.randint(27, (3, 8))
    x = model.tok_emb(idx) + model.pos_emb(torch.arange(8))
    for mlp in model.mlps:
        x = torch.stack([x[:, t] + x[:, : t + 1].mean(1) for t in range(8)], 1)
        x = x + mlp(x)
    torch.testing.assert_close(model.logits(idx), model.head(x), rtol=1e-5, atol=1e-4)


def attend(q, k, v):
    """One head of attention, one position at a time: what it must not see is not there."""
    outputs = []
    for t in range(len(q)):
        scores = q[t] @ k[: t + 1].T / q.size(1) ** 0.5
        outputs.append(scores.softmax(-1) @ v[: t + 1])
    return torch.stack(outputs)


def test_the_transformer_in_loops(build):
    """One row, one head and one position at a time, without a mask."""
    _, _, model = build('transformer', n_head=2, n_embd=8, block_size=6, dropout=0.0)
    model = randomize(model)
    idx = torch.randint(27, (2, 6))
    logits = model.logits(idx)
    for b in range(2):
        x = model.tok_emb(idx[b]) + model.pos_emb(torch.arange(6))
        for block in model.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).split(8, 1)
            heads = [attend(q[:, h], k[:, h], v[:, h]) for h in (slice(0, 4), slice(4, 8))]
            x = x + block.attn.proj(torch.cat(heads, 1))
            x = x + block.mlp(block.norm2(x))
        expected = model.head(model.norm(x))
        torch.testing.assert_close(logits[b], expected, rtol=1e-4, atol=1e-4)


# -----------------------------------------------------------------------------
# counting


def kneser_ney(texts, order, discount, symbols):
    """Interpolated Kneser-Ney with dictionaries and loops.

    A function from the text so far to {symbol: probability of coming next}.
    """
    seen = [collections.defaultdict(collections.Counter) for _ in range(order + 1)]
    for text in texts:
        for i, letter in enumerate(text + '.'):
            past = '.' + text[:i]
            longest = min(order, len(past))  # there is nothing before the start of a line
            seen[longest][past[len(past) - longest :]][letter] += 1
    for k in reversed(range(order)):  # a pair counts once for each different letter before it
        for past, counts in seen[k + 1].items():
            for letter in counts:
                seen[k][past[1:]][letter] += 1

    def predict(past):
        p = {s: 1 / len(symbols) for s in symbols}
        for k in range(min(order, len(past)) + 1):
            counts = seen[k].get(past[len(past) - k :])
            if counts:
                freed = discount * len(counts)  # goes to the shorter context
                kept = {s: max(counts[s] - discount, 0) for s in symbols}
                p = {s: (kept[s] + freed * p[s]) / counts.total() for s in symbols}
        return p

    return predict


def add_k(texts, order, k, symbols):
    """The counts of the lecture with k added to each.

    After a context that was never seen every symbol is equally probable.
    """
    seen = collections.defaultdict(collections.Counter)
    for text in texts:
        for i, letter in enumerate(text + '.'):
            past = '.' + text[:i]
            seen[past[-order:]][letter] += 1

    def predict(past):
        counts = seen[past[-order:]]
        total = counts.total() + k * len(symbols)
        return {s: (counts[s] + k) / total for s in symbols}

    return predict


@pytest.mark.parametrize('smoothing', ['kn', 'add:1', 'add:0.25'])
@pytest.mark.parametrize('order', [1, 2, 3, 5])
def test_counting_against_dictionaries(order, smoothing, build, tmp_path):
    texts = 'anna hannah nan ann hanna ava van anan nana vanna'
    (tmp_path / 'n.txt').write_text(texts.replace(' ', '\n'))
    typed = {'block_size': order, 'smoothing': smoothing, 'split': 'lecture'}
    _, dataset, model = build('ngram', tmp_path / 'n.txt', **typed)
    train = dataset.train_lines
    assert len(train) == 8
    symbols = '.' + dataset.chars
    if smoothing == 'kn':
        predict = kneser_ney(train, order, model.discount.item(), symbols)
    else:
        predict = add_k(train, order, float(smoothing.removeprefix('add:')), symbols)

    for text in ('', 'a', 'ann', 'hanna', 'vvv', 'nanh', 'hnavan'):
        idx = torch.tensor([[0, *dataset.encode(text)]])
        p = model.logits(idx)[0].exp()
        for t in range(len(text) + 1):
            expected = predict('.' + text[:t])
            assert p[t].tolist() == pytest.approx([expected[s] for s in symbols], rel=1e-9)


@pytest.mark.parametrize('smoothing', ['kn', 'add:1', 'add:0.25', 'add:0.001', 'add:1000'])
def test_the_probabilities_of_counts_sum_to_one(smoothing, build):
    """Within the precision of float64; add:K once divided in float32."""
    _, _, model = build('ngram', block_size=3, smoothing=smoothing)
    torch.manual_seed(0)
    p = model.logits(torch.randint(27, (50, 9))).exp()
    assert p.dtype == torch.float64
    assert (p > 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(50, 9).double(), rtol=0, atol=1e-12)


def test_the_counts_of_every_token_are_those_of_each(build):
    """Sampling walks over the pairs of a context; evaluation searches for a single pair."""
    _, _, model = build('ngram', block_size=3)
    torch.manual_seed(0)
    idx = torch.cat([torch.randint(27, (20, 6)), torch.zeros(1, 6, dtype=torch.int64)])
    every_token = torch.arange(27).expand(21, 6, 27)
    searched = model.lookup_all_lengths(idx, every_token)
    walked = model.lookup_all_lengths(idx)
    for of_search, of_walk in zip(searched, walked, strict=True):
        assert all(map(torch.equal, of_search, of_walk))


@pytest.mark.parametrize('typed', [{}, {'text': True}])
def test_counting_in_parts_changes_nothing(typed, build, monkeypatch, tmp_path):
    """A large text is counted in parts, and a line can lie in two of them."""
    path = tmp_path / 'n.txt'
    path.write_text('anna\nhannah\nbanana\nannabanana\nhan\nnab\n' * 20)
    _, _, whole = build('ngram', path, block_size=3, **typed)
    monkeypatch.setattr(makemore, 'COUNTED_AT_ONCE', 7)
    _, _, in_parts = build('ngram', path, block_size=3, **typed)
    for name, value in whole.state_dict().items():
        assert torch.equal(in_parts.state_dict()[name], value), name


def test_the_discount_is_the_best_on_dev(build):
    _, dataset, model = build('ngram')
    x, y = all_of(dataset, 'dev')
    chosen = model(x, y).item()
    for discount in (0.5, 0.6, 0.7, 0.8, 0.9, 0.98):
        model.discount = torch.tensor(discount, dtype=torch.float64)
        assert model(x, y).item() >= chosen - 1e-12


def test_a_context_longer_than_every_line(build):
    _, dataset, _ = build('gru')
    _, dataset, model = build('ngram', block_size=dataset.max_len + 1)
    assert model(*all_of(dataset, 'dev')).isfinite()
    assert len(makemore.sample(model, dataset, 5)) == 5


def test_a_context_that_does_not_fit_into_64_bits_is_refused(build):
    """Contexts are numbers; one of 40 letters would wrap around and equal another."""
    with pytest.raises(makemore.UserError, match='--block-size 40'):
        build('ngram', block_size=40)
