"""Lecture 2: bigrams.

Which letter follows which? Counting answers it, and so does a neural net that knows nothing of
counting; both end at the same table. The counts are makemore's ngram with one letter of context,
the net is makemore's bigram.
"""

import functools
import itertools
import math
from collections import Counter

import torch
import torch.nn.functional as F
from course import (
    ROOT,
    answer,
    claim,
    experiment,
    figure,
    lecture_generator,
    line_spans,
    load_data,
    main,
)

import makemore

RAW = 'add:.000000001'  # as good as no fake counts at all, and no pair is impossible
LECTURE_SEED = 2147483647

# -----------------------------------------------------------------------------
# the data, and a table of counts


@functools.cache
def fit_counts(block_size=1, smoothing='add:1', split='all'):
    """makemore's ngram, fitted."""
    settings = {'block_size': block_size, 'smoothing': smoothing, 'split': split}
    config, dataset = load_data(type='ngram', **settings)
    model = makemore.MODELS['ngram'](config, dataset.vocab_size)
    model.fit(dataset)
    return model, dataset


@functools.cache
def count_table():
    """N[i, j]: how often token j came after token i, as it stands in the ngram."""
    model, _ = fit_counts()
    pairs = model.tables[1]
    N = torch.zeros(27 * 27, dtype=torch.int64)
    N[pairs.pairs] = pairs.cumulative.diff()
    return N.view(27, 27)


def ngram_loss(model, dataset, split):
    """The mean loss of an ngram over a split."""
    return model(*makemore.pad_batch(dataset.tokens, dataset.spans[split])).item()


def read_names():
    return (ROOT / 'names.txt').read_text().split()


def pairs_of(name):
    """The pairs of neighbours in a name: 'ava' -> .a av va a."""
    return itertools.pairwise(f'.{name}.')


@experiment
def test_data():
    """What is in names.txt?"""
    _, dataset = fit_counts()
    names = read_names()
    lengths = [len(name) for name in names]
    sizes = [len(names), min(lengths), max(lengths)]
    yield figure('words, shortest, longest', '32033 2 15', sizes)
    yield figure('first three', 'emma olivia ava', ' '.join(names[:3]))
    yield figure('letters and the boundary', 27, dataset.vocab_size)


def print_shades(N, letters):
    """A table of counts as text: the darker, the more frequent."""
    print('  ' + letters)
    shades = (N / N.max()).sqrt() * 9.99
    for letter, row in zip(letters, shades, strict=True):
        print(letter + ' ' + ''.join(' .:-=+*#%@'[int(shade)] for shade in row))


@experiment
def test_counts():
    """Which pairs of letters are the most frequent?"""
    N = count_table()
    counter = Counter()  # the lecture's dictionary
    for name in read_names():
        counter.update(pairs_of(name))
    _, dataset = fit_counts()
    letters = '.' + dataset.chars
    largest = ', '.join(f'{a}{b} {n}' for (a, b), n in counter.most_common(4))
    yield figure('the four largest counts', 'n. 6763, a. 6640, an 5438, .a 4410', largest)
    counted = [[counter[a, b] for b in letters] for a in letters]
    yield claim("makemore's ngram holds the same counts", N.tolist() == counted)
    yield answer('pairs that never came', '102', int((N == 0).sum()))
    print_shades(N, letters)


@experiment
def test_first_row():
    """With which letters do names begin?"""
    model, _ = fit_counts(smoothing=RAW)
    p = model.logits(torch.zeros(1, 1, dtype=torch.int64)).exp()
    yield figure('. a b c d e', '0.0000 0.1377 0.0408 0.0481 0.0528 0.0478', p[0, 0, :6].tolist())


@experiment
def test_broadcasting():
    """One bug that nothing complains about: what if the sums of the rows lose their dimension?"""
    P = count_table() + 1.0
    right = P / P.sum(1, keepdim=True)
    wrong = P / P.sum(1)
    ones = torch.ones(27)
    yield claim('(27, 27) / (27, 1): every row sums to 1', torch.allclose(right.sum(1), ones))
    one_is_right = wrong.sum(1).isclose(ones).any()
    yield claim('(27, 27) / (27,): none does, the columns were divided', not one_is_right)
    P /= P.sum(1, keepdim=True)
    yield claim('in place is the same', torch.equal(P, right))


# -----------------------------------------------------------------------------
# sampling


@experiment
def test_multinomial():
    """How does one draw from three probabilities?"""
    generator = lecture_generator()
    p = torch.rand(3, generator=generator)
    p = p / p.sum()
    yield figure('probabilities', '0.6064 0.3033 0.0903', p.tolist())
    drawn = torch.multinomial(p, 100, replacement=True, generator=generator)
    yield figure('the first eight of 100 draws', '1 1 2 0 0 2 1 1', drawn[:8].tolist())


@experiment
def test_five_names():
    """Which names does the table make? (today's torch.multinomial draws otherwise than the
    lecture's did)
    """
    model, dataset = fit_counts()
    names = makemore.sample(model, dataset, 5, seed=LECTURE_SEED)
    yield figure('five names', 'mor axx minaymoryles kondlaisah anchshizarie', ' '.join(names))
    config, _ = load_data(type='bigram')
    untrained = makemore.MODELS['bigram'](config, 27)
    [name] = makemore.sample(untrained, dataset, 1, seed=LECTURE_SEED)
    yield answer('a table that knows nothing', 'qvsaayxbqrqmyqwuznivanukotdjvdhd', name)


# -----------------------------------------------------------------------------
# how good is a table? one number


@experiment
def test_loss_of_the_counts():
    """The mean negative log-likelihood of all pairs: how well does counting predict?"""
    model, dataset = fit_counts()
    N = count_table()
    P = N + 1.0
    P /= P.sum(1, keepdim=True)
    rows = [row.unbind() for row in P.log()]
    token_of = {letter: token for token, letter in enumerate('.' + dataset.chars)}
    total = torch.tensor(0.0)
    for name in read_names():
        for a, b in pairs_of(name):
            # 228,146 numbers in single precision: their end gets lost
            total += rows[token_of[a]][token_of[b]]
    losses = [-total.item(), (-total / N.sum()).item()]
    yield figure('sum, mean', '559951.5625, 2.4543561935424805', losses)
    yield answer('in double precision', '2.45457682', ngram_loss(model, dataset, 'train'))
    raw, _ = fit_counts(smoothing=RAW)
    raw_loss = ngram_loss(raw, dataset, 'train')
    yield answer('raw counts: no table of pairs is better', '2.454014489', raw_loss)
    yield figure('all letters alike', '3.2958', math.log(27))


@experiment
def test_smoothing():
    """What are fake counts for?"""
    N = count_table().double()
    model, dataset = fit_counts(smoothing='add:100000000')
    tokens = dataset.encode('andrejq')

    def nll(k):
        P = (N + k) / (N + k).sum(1, keepdim=True)
        return -P[[0, *tokens], [*tokens, 0]].log().mean().item()

    yield figure('andrejq, raw: j was never followed by q', 'inf', str(nll(0)))
    yield figure('andrejq, one fake count each', '3.48', nll(1))
    loss = ngram_loss(model, dataset, 'train')
    yield figure('very many fake counts: all letters alike', '3.2958', loss)


# -----------------------------------------------------------------------------
# the same as a neural net


def neural_bigram():
    """makemore's bigram with the lecture's start: its table is the W of the lecture."""
    config, dataset = load_data(type='bigram', split='all')
    model = makemore.MODELS['bigram'](config, 27)
    model.table.weight.data = torch.randn((27, 27), generator=lecture_generator())
    return model, dataset


@experiment
def test_emma():
    """What does the net do with five examples?"""
    model, dataset = neural_bigram()
    W = model.table.weight
    xs = torch.tensor([[0, 5, 13, 13, 1]])
    ys = torch.tensor([[5, 13, 13, 1, 0]])
    x, y = makemore.pad_batch(dataset.tokens, line_spans(dataset, 1))
    yield claim('emma gives these pairs', torch.equal(x, xs) and torch.equal(y, ys))
    loss = -W.softmax(1)[xs, ys].log().mean()
    yield figure('first loss', '3.7693049907684326', loss.item())
    losses = []
    for _ in range(5):
        loss = model(xs, ys)
        model.zero_grad()
        loss.backward()
        W.data += -0.1 * W.grad
        losses.append(loss.item())
    seen = [losses[1], losses[2], losses[4]]
    yield figure('after 1, 2 and 4 steps', '3.7492 3.7292 3.6892', seen)


@experiment
def test_one_hot():
    """A one-hot vector times a matrix, or a row of it: is there a difference? (exercises 4 and
    5)
    """
    model, dataset = neural_bigram()
    x, y = makemore.pad_batch(dataset.tokens, line_spans(dataset))
    xs = x[y >= 0]
    ys = y[y >= 0]
    logits = F.one_hot(xs, 27).float() @ model.table.weight
    counts = logits.exp()
    probs = counts / counts.sum(1, keepdim=True)
    spelled_out = -probs[range(len(ys)), ys].log().mean()
    yield claim('not a bit', torch.equal(logits, model.logits(xs)))
    yield figure('first loss over all pairs', '3.758953809738159', spelled_out.item())
    gap = abs(spelled_out - F.cross_entropy(model.logits(xs), ys))
    yield claim('F.cross_entropy, to 1e-6', gap < 1e-6)


def train_full_batch(steps, decay=0.0):
    """Full batches at a rate of 50.

    All 228,146 pairs are 729 kinds: counting them first gives the same gradient.
    """
    model, dataset = neural_bigram()
    W = model.table.weight
    share = count_table() / count_table().sum()
    losses = []
    for _ in range(steps):
        logs = model.logits(torch.arange(27)).log_softmax(1)
        loss = -(share * logs).sum() + decay * W.square().mean()
        W.grad = None
        loss.backward()
        W.data += -50 * W.grad
        losses.append(loss.item())
    return model, dataset, losses


@experiment
def test_gradient_descent():
    """Does gradient descent find what counting finds?"""
    model, _, losses = train_full_batch(2000)
    yield figure('first loss', '3.7590', losses[0])
    yield figure('after 100 steps', '2.4727', losses[100])
    yield answer('after 2,000 steps; the counts have 2.45401', '2.4546', losses[-1])
    N = count_table()
    P = N / N.sum(1, keepdim=True)
    gap = (model.logits(torch.arange(27)).softmax(1) - P).abs()
    often = N.sum(1) > 1000
    what = 'for letters seen more than 1,000 times, the table of the counts to 0.005'
    yield claim(what, gap[often].max() < 0.005)


@experiment
def test_decay_is_smoothing():
    """What does a penalty on W do? What fake counts do."""
    model, dataset, losses = train_full_batch(300, 0.01)
    what = 'with 0.01 of the mean square: steps 0, 99, 199, 299'
    seen = [losses[i] for i in (0, 99, 199, 299)]
    yield answer(what, '3.76861906 2.49013042 2.48299575 2.48150730', seen)
    names = ' '.join(makemore.sample(model, dataset, 5, seed=LECTURE_SEED))
    yield figure('five names of the net', 'mor axx minaymoryles kondlaisah anchthizarie', names)
    entropies = []
    for decay in (0, 0.1, 1, 10):
        model, _, _ = train_full_batch(100, decay)
        P = model.logits(torch.arange(27)).softmax(1)
        entropies.append(-(P * P.log()).sum(1).mean().item())
    what = 'penalties 0, 0.1, 1, 10: mean entropy of a row, at most 3.2958'
    yield answer(what, '2.45 2.72 3.15 3.29', entropies, within=0.01)


# -----------------------------------------------------------------------------
# exercises


@experiment
def test_trigram():
    """Exercise 1: two letters of context. How much better is it?"""
    loss = ngram_loss(*fit_counts(2, RAW), 'train')
    yield answer('all words, raw', '2.18574', loss)
    loss = ngram_loss(*fit_counts(2, 'add:1'), 'train')
    yield answer('all words, one fake count', '2.21258', loss)


def tune(block_size, ks):
    """Losses on dev over some numbers of fake counts, and the best of them."""
    losses = {}
    for k in ks:
        losses[k] = ngram_loss(*fit_counts(block_size, f'add:{k}', 'lecture'), 'dev')
    return losses, min(losses, key=losses.get)


TUNED = {
    'bigram': (1, '0.3', '2.45429 2.45297 2.45796'),
    'trigram': (2, '0.2', '2.19139 2.22227 2.22348'),
}


@experiment
def test_tuned_on_dev():
    """Exercises 2 and 3: how many fake counts? Train counts, dev chooses, and test is asked
    once.
    """
    for title, (block_size, expected_best, expected_losses) in TUNED.items():
        losses, best = tune(block_size, [0.01, 0.1, 0.2, 0.3, 0.5, 1, 10])
        yield answer(f'{title}: fake counts', expected_best, best)
        model, dataset = fit_counts(block_size, f'add:{best}', 'lecture')
        ends = [ngram_loss(model, dataset, split) for split in ('train', 'dev', 'test')]
        yield answer(f'{title}: train, dev, test', expected_losses, ends)
        yield claim('too few are as bad as too many', losses[0.01] > losses[best] < losses[10])
    yield answer('trigram on dev with 1 and 10', '2.23646 2.36368', [losses[1], losses[10]])


@experiment
def test_longer_contexts():
    """Exercise 6, our own: how far does counting go, if longer contexts lean on shorter ones
    (Kneser-Ney)?
    """
    for block_size, expected in {2: '2.22', 3: '2.06', 5: '1.98'}.items():
        loss = ngram_loss(*fit_counts(block_size, 'kn', 'lecture'), 'dev')
        yield answer(f'{block_size} letters of context: dev', expected, loss)


if __name__ == '__main__':
    main()
