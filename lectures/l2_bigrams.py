"""Lecture 2: bigrams.

Which letter follows which? Counting answers it, and so does a neural net that knows nothing of counting; both end at
the same table. The counts are makemore's ngram with one letter of context, the net is makemore's bigram.
"""
import functools
import math
from collections import Counter

from course import G, ROOT, answer, claim, experiment, figure, main, read

import torch
import torch.nn.functional as F

import makemore

RAW = 'add:.000000001'      # as good as no fake counts at all, and no pair is impossible

# ----------------------------------------------------------------------------------------------------------------------
# The data, and a table of counts
@functools.cache
def counted(block_size=1, smoothing='add:1', split='all'):
    """makemore's ngram, fitted."""
    cfg, words = read(type='ngram', block_size=block_size, smoothing=smoothing, split=split)
    model = makemore.MODELS['ngram'](cfg, words.vocab_size)
    model.fit(words)
    return model, words

@functools.cache
def table():
    """N[i, j]: how often token j came after token i, as it stands in the ngram."""
    model, _ = counted()
    N = torch.zeros(27 * 27, dtype=torch.int64)
    N[model.pairs1[:-1]] = model.counts1.diff()
    return N.view(27, 27)

def loss(model, words, split):
    return model(*makemore.gather(words, *words.splits[split])).item()

def lines():
    return (ROOT / 'names.txt').read_text().split()

@experiment
def test_data():
    """What is in names.txt?"""
    _, words = counted()
    yield figure('words, shortest, longest', '32033 2 15', [len(lines()), *(f(map(len, lines())) for f in (min, max))])
    yield figure('first three', 'emma olivia ava', ' '.join(lines()[:3]))
    yield figure('letters and the boundary', 27, words.vocab_size)

@experiment
def test_counts():
    """Which pairs of letters are the most frequent?"""
    N, pairs = table(), Counter()
    for word in lines():      # the lecture's dictionary
        pairs.update(zip('.' + word, word + '.'))
    letters = '.' + counted()[1].symbols
    yield figure('the four largest counts', 'n. 6763, a. 6640, an 5438, .a 4410',
                 ', '.join(f'{a}{b} {n}' for (a, b), n in pairs.most_common(4)))
    yield claim("makemore's ngram holds the same counts", all(N[i, j] == pairs[a, b] for i, a in enumerate(letters)
                                                              for j, b in enumerate(letters)))
    yield answer('pairs that never came', '102', int((N == 0).sum()))
    shades = (N / N.max()).sqrt() * 9.99
    print('\n'.join(['  ' + letters, *(a + ' ' + ''.join(' .:-=+*#%@'[int(s)] for s in row)
                                       for a, row in zip(letters, shades))]))

@experiment
def test_first_row():
    """With which letters do names begin?"""
    model, _ = counted(smoothing=RAW)
    yield figure('. a b c d e', '0.0000 0.1377 0.0408 0.0481 0.0528 0.0478',
                 model.logits(torch.zeros(1, 1, dtype=torch.int64)).exp()[0, 0, :6].tolist())

@experiment
def test_broadcasting():
    """One bug that nothing complains about: what if the sums of the rows lose their dimension?"""
    P = table() + 1.0
    right, wrong = P / P.sum(1, keepdim=True), P / P.sum(1)
    yield claim('(27, 27) / (27, 1): every row sums to 1', torch.allclose(right.sum(1), torch.ones(27)))
    ones = torch.ones(27)
    yield claim('(27, 27) / (27,): none does, the columns were divided', not wrong.sum(1).isclose(ones).any())
    yield claim('in place is the same', torch.equal(P.clone().div_(P.sum(1, keepdim=True)), right))

# ----------------------------------------------------------------------------------------------------------------------
# Sampling
@experiment
def test_multinomial():
    """How does one draw from three probabilities?"""
    generator = G()
    p = torch.rand(3, generator=generator)
    p = p / p.sum()
    yield figure('probabilities', '0.6064 0.3033 0.0903', p.tolist())
    drawn = torch.multinomial(p, 100, replacement=True, generator=generator)
    yield figure('the first eight of 100 draws', '1 1 2 0 0 2 1 1', drawn[:8].tolist())

@experiment
def test_five_names():
    """Which names does the table make? (today's torch.multinomial draws otherwise than the lecture's did)"""
    model, words = counted()
    yield figure('five names', 'mor axx minaymoryles kondlaisah anchshizarie',
                 ' '.join(makemore.sample(model, words, 5, seed=2147483647)))
    untrained = makemore.MODELS['bigram'](read(type='bigram')[0], 27)
    yield answer('a table that knows nothing', 'qvsaayxbqrqmyqwuznivanukotdjvdhd',
                 makemore.sample(untrained, words, 1, seed=2147483647)[0])

# ----------------------------------------------------------------------------------------------------------------------
# How good is a table? One number
@experiment
def test_loss_of_the_counts():
    """The mean negative log-likelihood of all pairs: how well does counting predict?"""
    P = table() + 1.0
    logs, total = (P / P.sum(1, keepdim=True)).log(), torch.tensor(0.0)
    codes = {letter: i for i, letter in enumerate('.' + counted()[1].symbols)}
    rows = [row.unbind() for row in logs]
    for word in lines():
        for a, b in zip('.' + word, word + '.'):
            total += rows[codes[a]][codes[b]]      # 228,146 numbers in single precision: their end gets lost
    yield figure('sum, mean', '559951.5625, 2.4543561935424805', [-total.item(), (-total / table().sum()).item()])
    model, words = counted()
    yield answer('in double precision', '2.45457682', loss(model, words, 'train'))
    raw, words = counted(smoothing=RAW)
    yield answer('raw counts: no table of pairs is better', '2.454014489', loss(raw, words, 'train'))
    yield figure('all letters alike', '3.2958', math.log(27))

@experiment
def test_smoothing():
    """What are fake counts for?"""
    N, word = table().double(), [counted()[1].index[letter] for letter in 'andrejq']
    def nll(k):
        P = (N + k) / (N + k).sum(1, keepdim=True)
        return -P[[0, *word], [*word, 0]].log().mean().item()
    yield figure('andrejq, raw: j was never followed by q', 'inf', str(nll(0)))
    yield figure('andrejq, one fake count each', '3.48', nll(1))
    model, words = counted(smoothing='add:100000000')
    yield figure('very many fake counts: all letters alike', '3.2958', loss(model, words, 'train'))

# ----------------------------------------------------------------------------------------------------------------------
# The same as a neural net
def neural():
    """makemore's bigram with the lecture's start: its table is the W of the lecture."""
    cfg, words = read(type='bigram', split='all')
    model = makemore.MODELS['bigram'](cfg, 27)
    model.table.weight.data = torch.randn((27, 27), generator=G())
    return model, words

@experiment
def test_emma():
    """What does the net do with five examples?"""
    model, words = neural()
    W, xs, ys = model.table.weight, torch.tensor([0, 5, 13, 13, 1]), torch.tensor([5, 13, 13, 1, 0])
    yield claim('emma gives these pairs', [t[0].tolist() for t in makemore.gather(words, *(
        t[:1] for t in words.lines))] == [xs.tolist(), ys.tolist()])
    yield figure('first loss', '3.7693049907684326', -W.softmax(1)[xs, ys].log().mean().item())
    losses = []
    for _ in range(5):
        loss = model(xs[None], ys[None])
        model.zero_grad()
        loss.backward()
        W.data += -0.1 * W.grad
        losses.append(loss.item())
    yield figure('after 1, 2 and 4 steps', '3.7492 3.7292 3.6892', [losses[1], losses[2], losses[4]])

@experiment
def test_one_hot():
    """A one-hot vector times a matrix, or a row of it: is there a difference? (exercises 4 and 5)"""
    model, words = neural()
    xs, ys = makemore.gather(words, words.lines.starts, words.lines.lengths)
    xs, ys = xs[ys >= 0], ys[ys >= 0]
    logits = F.one_hot(xs, 27).float() @ model.table.weight
    counts = logits.exp()
    spelled_out = -(counts / counts.sum(1, keepdim=True))[range(len(ys)), ys].log().mean()
    yield claim('not a bit', torch.equal(logits, model.logits(xs)))
    yield figure('first loss over all pairs', '3.758953809738159', spelled_out.item())
    yield claim('F.cross_entropy, to 1e-6', abs(spelled_out - F.cross_entropy(model.logits(xs), ys)) < 1e-6)

def descend(steps, decay=0.0):
    """Full batches at a rate of 50. All 228,146 pairs are 729 kinds: counting them first gives the same gradient."""
    model, words = neural()
    W, share, losses = model.table.weight, table() / table().sum(), []
    for _ in range(steps):
        loss = -(share * model.logits(torch.arange(27)).log_softmax(1)).sum() + decay * W.square().mean()
        W.grad = None
        loss.backward()
        W.data += -50 * W.grad
        losses.append(loss.item())
    return model, words, losses

@experiment
def test_gradient_descent():
    """Does gradient descent find what counting finds?"""
    model, _, losses = descend(2000)
    yield figure('first loss', '3.7590', losses[0])
    yield figure('after 100 steps', '2.4727', losses[100])
    yield answer('after 2,000 steps; the counts have 2.45401', '2.4546', losses[-1])
    P = table() / table().sum(1, keepdim=True)
    gap = (model.logits(torch.arange(27)).softmax(1) - P).abs()
    often = table().sum(1) > 1000
    yield claim('for letters seen more than 1,000 times, the table of the counts to 0.005', gap[often].max() < 0.005)

@experiment
def test_decay_is_smoothing():
    """What does a penalty on W do? What fake counts do."""
    model, words, losses = descend(300, 0.01)
    yield answer('with 0.01 of the mean square: steps 0, 99, 199, 299', '3.76861906 2.49013042 2.48299575 2.48150730',
                 [losses[i] for i in (0, 99, 199, 299)])
    yield figure('five names of the net', 'mor axx minaymoryles kondlaisah anchthizarie',
                 ' '.join(makemore.sample(model, words, 5, seed=2147483647)))
    spread = []
    for decay in 0, 0.1, 1, 10:
        P = descend(100, decay)[0].logits(torch.arange(27)).softmax(1)
        spread.append(-(P * P.log()).sum(1).mean().item())
    yield answer('penalties 0, 0.1, 1, 10: mean entropy of a row, at most 3.2958', '2.45 2.72 3.15 3.29', spread, 0.01)

# ----------------------------------------------------------------------------------------------------------------------
# Exercises
@experiment
def test_trigram():
    """Exercise 1: two letters of context. How much better is it?"""
    for title, smoothing, expected in ('raw', RAW, '2.18574'), ('one fake count', 'add:1', '2.21258'):
        yield answer(f'all words, {title}', expected, loss(*counted(2, smoothing), 'train'))

def tune(block_size, ks):
    """Losses on dev over some numbers of fake counts, and the best of them."""
    losses = {k: loss(*counted(block_size, f'add:{k}', 'lecture'), 'dev') for k in ks}
    return losses, min(losses, key=losses.get)

@experiment
def test_tuned_on_dev():
    """Exercises 2 and 3: how many fake counts? Train counts, dev chooses, and test is asked once."""
    for title, block_size, ends in ('bigram', 1, '2.45429 2.45297 2.45796'), ('trigram', 2, '2.19139 2.22227 2.22348'):
        losses, best = tune(block_size, [0.01, 0.1, 0.2, 0.3, 0.5, 1, 10])
        yield answer(f'{title}: fake counts', {1: '0.3', 2: '0.2'}[block_size], best)
        yield answer(f'{title}: train, dev, test', ends, [loss(*counted(block_size, f'add:{best}', 'lecture'), split)
                                                         for split in ('train', 'dev', 'test')])
        yield claim('too few are as bad as too many', losses[0.01] > losses[best] < losses[10])
    yield answer('trigram on dev with 1 and 10', '2.23646 2.36368', [losses[1], losses[10]])

@experiment
def test_longer_contexts():
    """Exercise 6, our own: how far does counting go, if longer contexts lean on shorter ones (Kneser-Ney)?"""
    for block_size, expected in (2, '2.22'), (3, '2.06'), (5, '1.98'):
        model, words = counted(block_size, 'kn', 'lecture')
        yield answer(f'{block_size} letters of context: dev', expected, loss(model, words, 'dev'))

if __name__ == '__main__':
    main()
