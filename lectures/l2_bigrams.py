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
    conclusion,
    experiment,
    figure,
    finding,
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
    yield figure('words, shortest, longest', '32033 2 15', sizes, 'file')
    yield figure('first three', 'emma olivia ava', ' '.join(names[:3]), 'file')
    yield figure('letters and the boundary', 27, dataset.vocab_size, 'file')


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
    counter = Counter()  # the lecture's dictionary, without its .get(bigram, 0) + 1
    for name in read_names():
        counter.update(pairs_of(name))
    _, dataset = fit_counts()
    letters = '.' + dataset.chars
    largest = ', '.join(f'{a}{b} {n}' for (a, b), n in counter.most_common(4))
    expected = 'n. 6763, a. 6640, an 5438, .a 4410'
    yield figure('the four largest counts', expected, largest, 'file')
    counted = [[counter[a, b] for b in letters] for a in letters]
    yield finding("makemore's ngram holds the same counts", N.tolist() == counted)
    yield answer('pairs that never came', '102', int((N == 0).sum()))
    print_shades(N, letters)


@experiment
def test_first_row():
    """With which letters do names begin?"""
    model, _ = fit_counts(smoothing=RAW)
    p = model.logits(torch.zeros(1, 1, dtype=torch.int64)).exp()
    expected = '0.0000 0.1377 0.0408 0.0481 0.0528 0.0478'
    yield figure('. a b c d e', expected, p[0, 0, :6].tolist(), 'file')


@experiment
def test_broadcasting():
    """One bug that nothing complains about: what if the sums of the rows lose their dimension?"""
    P = count_table() + 1.0
    right = P / P.sum(1, keepdim=True)
    wrong = P / P.sum(1)
    ones = torch.ones(27)
    rows_are_right = torch.allclose(right.sum(1), ones)
    yield claim('(27, 27) / (27, 1): rows sum to 1', rows_are_right, 'video')
    # (27,) is read as (1, 27), a row: every column is divided by the sum of another row
    first_is_wrong = not math.isclose(wrong[0].sum(), 1, abs_tol=0.01)
    yield claim('(27, 27) / (27,): they do not', first_is_wrong, 'video')
    some_row_is_right = wrong.sum(1).isclose(ones).any()
    yield finding('not one of them does', not some_row_is_right)
    P /= P.sum(1, keepdim=True)
    yield finding('in place is the same', torch.equal(P, right))


# -----------------------------------------------------------------------------
# sampling


@experiment
def test_multinomial():
    """How does one draw from three probabilities?"""
    generator = lecture_generator()
    p = torch.rand(3, generator=generator)
    p = p / p.sum()
    yield figure('probabilities', '0.6064 0.3033 0.0903', p.tolist(), 'file')
    drawn = torch.multinomial(p, 100, replacement=True, generator=generator)
    yield figure('the first eight of 100 draws', '1 1 2 0 0 2 1 1', drawn[:8].tolist(), 'file')


@experiment
def test_five_names():
    """Which names does the table make? (today's torch.multinomial draws otherwise than the
    lecture's did)
    """
    model, dataset = fit_counts()
    names = makemore.sample(model, dataset, 5, seed=LECTURE_SEED)
    expected = 'mor axx minaymoryles kondlaisah anchshizarie'
    yield figure('five names', expected, ' '.join(names), 'file')
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
    _, raw_mean = loss_of_the_loop(0, dataset)
    yield figure('raw counts', '2.4541', raw_mean, 'video')
    losses = loss_of_the_loop(1, dataset)
    yield answer('one fake count: sum, mean', '559951.5625, 2.4543561935424805', losses)
    raw, _ = fit_counts(smoothing=RAW)
    raw_loss = ngram_loss(raw, dataset, 'train')
    what = 'raw counts in double precision: no table of pairs is better'
    yield answer(what, '2.454014489', raw_loss)
    loss = ngram_loss(model, dataset, 'train')
    yield answer('one fake count in double precision', '2.45457682', loss)
    yield answer('all letters alike', '3.2958', math.log(27))


def loss_of_the_loop(k, dataset):
    """The sum and the mean that the lecture's loop finds with k fake counts.

    It adds up 228,146 numbers in single precision, and what does not fit into 24 bits of the sum
    is lost on the way: the mean comes out up to 0.0002 too low.
    """
    N = count_table()
    P = (N + float(k)) / (N + float(k)).sum(1, keepdim=True)
    rows = [row.unbind() for row in P.log()]
    token_of = {letter: token for token, letter in enumerate('.' + dataset.chars)}
    total = torch.tensor(0.0)
    for name in read_names():
        for a, b in pairs_of(name):
            total += rows[token_of[a]][token_of[b]]
    return -total.item(), (-total / N.sum()).item()


@experiment
def test_smoothing():
    """What are fake counts for?"""
    N = count_table().double()
    model, dataset = fit_counts(smoothing='add:100000000')
    tokens = dataset.encode('andrejq')

    def nll(k):
        P = (N + k) / (N + k).sum(1, keepdim=True)
        return -P[[0, *tokens], [*tokens, 0]].log().mean().item()

    yield figure('andrejq, raw: j was never followed by q', 'inf', str(nll(0)), 'video')
    yield figure('andrejq, one fake count each', '3.48', nll(1), 'video')
    loss = ngram_loss(model, dataset, 'train')
    yield answer('very many fake counts: all letters alike', '3.2958', loss)


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
    xs, ys = makemore.pad_batch(dataset.tokens, line_spans(dataset, 1))
    [x] = xs.tolist()
    [y] = ys.tolist()
    yield figure('emma: inputs, targets', '0 5 13 13 1, 5 13 13 1 0', [*x, *y], 'file')
    loss = -W.softmax(1)[xs, ys].log().mean()
    yield figure('first loss', '3.7693049907684326', loss.item(), 'file')
    losses = []
    for _ in range(5):
        loss = model(xs, ys)
        model.zero_grad()
        loss.backward()
        W.data += -0.1 * W.grad
        losses.append(loss.item())
    yield figure('after 4 steps', '3.6891887187957764', losses[4], 'file')
    yield answer('after 1 and 2 steps', '3.7492 3.7292', losses[1:3])


@experiment
def test_one_hot():
    """Exercises 4 and 5: is a one-hot vector times a matrix more than a row of it, and is
    F.cross_entropy the same loss?
    """
    model, dataset = neural_bigram()
    x, y = makemore.pad_batch(dataset.tokens, line_spans(dataset))
    xs = x[y >= 0]
    ys = y[y >= 0]
    logits = F.one_hot(xs, 27).float() @ model.table.weight
    counts = logits.exp()
    probs = counts / counts.sum(1, keepdim=True)
    spelled_out = -probs[range(len(ys)), ys].log().mean()
    same = torch.equal(logits, model.logits(xs))
    yield claim('one-hot times W picks a row of W, bit for bit', same, 'video')
    yield answer('first loss over all pairs', '3.758953809738159', spelled_out.item())
    gap = abs(spelled_out - F.cross_entropy(model.logits(xs), ys)).item()
    yield claim('F.cross_entropy is the same to 1e-6', gap < 1e-6, 'video')
    yield conclusion(
        f'Both are the same: the rows are equal in every bit, and the losses are {gap:.0e} apart. '
        'The row is found without {:,} multiplications by 0 or 1; F.cross_entropy subtracts the '
        'largest logit first, so that exp() cannot overflow.'.format(logits.numel() * 27)
    )


def train_full_batch(steps, decay=0.0):
    """Full batches at a rate of 50.

    All 228,146 pairs are 729 kinds: counting them first gives the same gradient.
    """
    model, dataset = neural_bigram()
    W = model.table.weight
    share = count_table() / count_table().sum()
    losses = []
    # a rate of 50 is not too much: every row gets only its letter's share of the gradient
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
    yield figure('after 100 steps', '2.47', losses[100], 'video')
    yield answer('the same: first loss, after 100 steps', '3.7590 2.4727', [losses[0], losses[100]])
    yield answer('after 2,000 steps; the counts have 2.45401', '2.4546', losses[-1])
    N = count_table()
    P = N / N.sum(1, keepdim=True)
    gap = (model.logits(torch.arange(27)).softmax(1) - P).abs()
    often = N.sum(1) > 1000
    what = 'for letters seen more than 1,000 times, the table of the counts to 0.005'
    # a rare letter has a small share of the loss, and so its row gets small gradients
    yield finding(what, gap[often].max() < 0.005)


@experiment
def test_decay_is_smoothing():
    """What does a penalty on W do? What fake counts do."""
    model, dataset, losses = train_full_batch(300, 0.01)
    what = 'with 0.01 of the mean square: steps 0, 99, 199, 299'
    seen = [losses[i] for i in (0, 99, 199, 299)]
    yield answer(what, '3.76861906 2.49013042 2.48299575 2.48150730', seen)
    names = ' '.join(makemore.sample(model, dataset, 5, seed=LECTURE_SEED))
    expected = 'mor axx minaymoryles kondlaisah anchthizarie'
    yield figure('five names of the net', expected, names, 'file')
    # W at 0 is a table in which all letters are alike: the penalty pulls there, as fake counts do
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
    bigram = ngram_loss(*fit_counts(1, RAW), 'train')
    trigram = ngram_loss(*fit_counts(2, RAW), 'train')
    yield answer('all words, raw', '2.18574', trigram)
    loss = ngram_loss(*fit_counts(2, 'add:1'), 'train')
    yield answer('all words, one fake count', '2.21258', loss)
    # no word was held back, so the larger table has learned more of them by heart as well
    yield conclusion(
        f'By {bigram - trigram:.3f}: {trigram:.4f} with two letters of context, {bigram:.4f} with '
        'one. Whether that holds for new words is the next exercise.'
    )


def tune(block_size, ks):
    """Losses on dev over some numbers of fake counts, and the best of them."""
    losses = {}
    for k in ks:
        losses[k] = ngram_loss(*fit_counts(block_size, f'add:{k}', 'lecture'), 'dev')
    return losses, min(losses, key=losses.get)


GRID = [0.01, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 10]
TUNED = {
    'bigram': (1, '0.3', '2.45429 2.45297 2.45796'),
    'trigram': (2, '0.15', '2.18947 2.22209 2.22343'),
}


@experiment
def test_tuned_on_dev():
    """Exercises 2 and 3: how many fake counts? Train counts, dev chooses, and test is asked
    once.
    """
    grid = ' '.join(map(str, GRID))
    for title, (block_size, expected_best, expected_losses) in TUNED.items():
        losses, best = tune(block_size, GRID)
        yield answer(f'{title}: the best of {grid}', expected_best, best)
        model, dataset = fit_counts(block_size, f'add:{best}', 'lecture')
        ends = [ngram_loss(model, dataset, split) for split in ('train', 'dev', 'test')]
        yield answer(f'{title}: train, dev, test', expected_losses, ends)
        yield finding('fewer and more are worse', losses[0.01] > losses[best] < losses[10])
    seen = [losses[k] for k in (0.1, 0.15, 0.2, 1, 10)]
    what = 'trigram on dev with 0.1, 0.15, 0.2, 1 and 10'
    yield answer(what, '2.22247 2.22209 2.22227 2.23646 2.36368', seen)
    yield conclusion(
        f'A few tenths of a count: {best} is the best of the grid for the trigram, and its '
        f'neighbour 0.2 is {losses[0.2] - losses[best]:.4f} worse. On test, which was asked once, '
        f'the trigram then has {ends[2]:.4f}. With fewer counts train gets better and dev worse; '
        'with more both get worse.'
    )


@experiment
def test_longer_contexts():
    """Exercise 6, our own: how far does counting go, if longer contexts lean on shorter ones
    (Kneser-Ney)?
    """
    losses = {}
    for block_size, expected in {2: '2.22', 3: '2.06', 5: '1.98'}.items():
        losses[block_size] = ngram_loss(*fit_counts(block_size, 'kn', 'lecture'), 'dev')
        yield answer(f'{block_size} letters of context: dev', expected, losses[block_size])
    yield conclusion(
        f'To {losses[5]:.2f} on dev with five letters. With two it is {losses[2]:.2f}, as good as '
        'fake counts: what helps is the longer context, and leaning on shorter ones allows it.'
    )


if __name__ == '__main__':
    main()
