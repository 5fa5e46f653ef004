"""Lecture 3: a neural net with a hidden layer (Bengio 2003).

A table of counts has no room for more than two or three letters of context. An embedding gives every letter a place,
and what is learned about one letter then holds for its neighbours too. The net is makemore's mlp.
"""
import functools
import math

from course import (G, answer, build, claim, dataset, descend, draw_weights, experiment, figure, losses_of, main,
                    names)

import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore
from inside import plot

# ----------------------------------------------------------------------------------------------------------------------
# The data: windows of three letters
def small_net():
    """The net of the lecture's first half: an embedding in the plane, 100 hidden neurons."""
    model, words = build('mlp', block_size=3, n_embd=2, n_hidden=100)
    return draw_weights(model.net, generator := G(), (1, 1), (1, 1)), generator, model, words

def first_words(model, words, n):
    """The windows of the first n lines of the file, in its order."""
    x, y = makemore.gather(words, words.lines.starts[:n], words.lines.lengths[:n])
    return model.windows(x)[y >= 0], y[y >= 0]

@experiment
def test_windows():
    """How many examples does a word make, and how many do all?"""
    _, _, model, words = small_net()
    X, Y = first_words(model, words, 1)
    letters = '.' + words.symbols
    yield figure('emma', '... e, ..e m, .em m, emm a, mma .', ', '.join(
        ''.join(letters[i] for i in x) + ' ' + letters[y] for x, y in zip(X.tolist(), Y.tolist())))
    yield figure('five words, all words', '32, 228146', [len(first_words(model, words, n)[1]) for n in (5, 32033)])
    yield figure('train, dev, test', '182625 22655 22866', [len(dataset(model, words, s)[1]) for s in words.splits])

# ----------------------------------------------------------------------------------------------------------------------
# The parts of the net
@experiment
def test_embedding():
    """Is looking up a row the same as multiplying with a one-hot vector?"""
    net, _, model, words = small_net()
    X, _ = first_words(model, words, 5)
    yield claim('bit for bit', torch.equal(net[0](X), F.one_hot(X, 27).float() @ net[0].weight))

@experiment
def test_concatenation():
    """Three ways to put the embeddings of three letters side by side: are they the same, and what do they cost?"""
    net, _, model, words = small_net()
    emb = net[0](first_words(model, words, 5)[0])
    ways = torch.cat([emb[:, 0], emb[:, 1], emb[:, 2]], 1), torch.cat(emb.unbind(1), 1), net[1](emb)
    yield claim('cat, unbind and Flatten agree', all(torch.equal(ways[0], way) for way in ways))
    yield claim('Flatten is a view: it copies nothing', ways[2].data_ptr() == emb.data_ptr() != ways[0].data_ptr())
    ways[2].data[0, 0] = 7
    yield claim('so what is written into it is seen in the original', emb[0, 0, 0] == 7)

@experiment
def test_cross_entropy():
    """Why F.cross_entropy, and not what it stands for?"""
    net, _, model, words = small_net()
    X, Y = first_words(model, words, 5)
    def spelled_out(logits, target):
        counts = logits.exp()
        return -(counts / counts.sum(1, keepdim=True))[range(len(target)), target].log().mean()
    logits, extreme = net(X), torch.tensor([[-100.0, 0.0, 100.0]])
    yield figure('loss of five words', '17.7697', F.cross_entropy(logits, Y).item())
    yield claim('the same, spelled out', torch.allclose(spelled_out(logits, Y), F.cross_entropy(logits, Y), atol=1e-6))
    target = torch.tensor([2])
    yield claim('logits of -100 and 100, spelled out: not a number', not spelled_out(extreme, target).isfinite())
    yield answer('F.cross_entropy, which takes the largest out first', '0.0', F.cross_entropy(extreme, target).item())

# ----------------------------------------------------------------------------------------------------------------------
# Training
@experiment
def test_overfit():
    """Can it learn 32 examples by heart, as any net that is wired rightly should, and why not down to 0?"""
    net, _, model, words = small_net()
    X, Y = first_words(model, words, 5)
    yield figure('parameters', 3481, sum(p.numel() for p in net.parameters()))
    for _ in range(1000):
        loss = F.cross_entropy(net(X), Y)
        net.zero_grad()
        loss.backward()
        for p in net.parameters():
            p.data += -0.1 * p.grad
    yield figure('loss at the last of 1,000 steps', '0.2561', loss.item())
    yield answer('right of 32: after ... no net can know whether e, o, a, i or s comes', '28',
                 int((net(X).argmax(1) == Y).sum()))

@experiment
def test_all_words():
    """The same net on all words: where does it start?"""
    net, _, model, words = small_net()
    X, Y = first_words(model, words, 32033)
    yield figure('first loss', '19.505', F.cross_entropy(net(X), Y).item())

@experiment
def test_find_a_rate():
    """Which learning rate? Try a thousand, a larger one every step, and look where the loss is lowest."""
    net, _, model, words = small_net()
    X, Y = first_words(model, words, 32033)
    exponents, losses = torch.linspace(-3, 0, 1000), []
    torch.manual_seed(42)
    for exponent in exponents:
        ix = torch.randint(0, len(X), (32,))
        loss = F.cross_entropy(net(X[ix]), Y[ix])
        net.zero_grad()
        loss.backward()
        for p in net.parameters():
            p.data += -10**exponent * p.grad
        losses.append(loss.item())
    smooth = F.avg_pool1d(torch.tensor([losses]), 101, 1, 50, count_include_pad=False)[0]
    print(plot(exponents.tolist(), smooth.tolist()))
    yield figure('exponent of the lowest loss, about', '-1.0', exponents[smooth.argmin()].item(), within=0.4)

@functools.cache
def lecture_net():
    """An embedding of 10, 200 hidden neurons, 200,000 steps; the lecture drew its batches without a seed."""
    model, words = build('mlp', block_size=3)
    draw_weights(model.net, G(), (1, 1), (1, 1))
    torch.manual_seed(42)
    losses = descend(model.net, *dataset(model, words, 'train'), 200_000, None, title='mlp')
    return model, words, losses

@experiment(long=True)
def test_beat_the_bigram():
    """Exercise 1: beat 2.2 on dev."""
    model, words, losses = lecture_net()
    train, dev = losses_of(model.net, model, words)
    yield figure('parameters', 11897, sum(p.numel() for p in model.parameters()))
    yield figure('train, dev (unseeded there)', '2.1260 / 2.1701', [train, dev], within=0.01)
    yield claim('under 2.2', dev < 2.2)
    before, after = (sum(losses[i:i + 5000]) / 5000 for i in (95_000, 100_000))
    yield answer('what the smaller rate brings at once', '0.14', before - after, within=0.05)
    made = names(model.net, words, 3, generator=G(2147483647 + 10))
    print(made)
    yield claim('twenty names, each of which ends', made.count('.') == 20)

@functools.cache
def flat_embedding():
    """The embedding in the plane, with 300 hidden neurons: small enough to be looked at."""
    model, words = build('mlp', block_size=3, n_embd=2, n_hidden=300)
    draw_weights(model.net, generator := G(), (1, 1), (1, 1))
    descend(model.net, *dataset(model, words, 'train'), 60_000, generator, 30_000, title='embedding in the plane')
    return model, words

def scatter(points, letters, wide=64, high=24):
    """Letters where their points are, as text."""
    rows = [[' '] * wide for _ in range(high)]
    low, size = points.min(0).values, points.max(0).values - points.min(0).values
    for letter, (x, y) in zip(letters, ((points - low) / size).tolist()):
        rows[round((1 - y) * (high - 1))][round(x * (wide - 1))] = letter
    return '\n'.join(map(''.join, rows))

@experiment(long=True)
def test_embedding_picture():
    """Where does the net put the letters? Those that behave alike lie together."""
    model, words = flat_embedding()
    points = model.net[0].weight.detach()
    print(scatter(points, '.' + words.symbols))
    yield figure('parameters', 10281, sum(p.numel() for p in model.parameters()))
    yield answer('dev', '2.30', *losses_of(model.net, model, words, ['dev']), within=0.05)
    nearest = torch.cdist(points, points).topk(3, largest=False).indices[:, 1:]      # the nearest is the letter itself
    found = [words.decode([i]) for letter in 'aeio' for i in nearest[words.index[letter]].tolist()]
    vowels = [letter for letter in found if letter in list('aeiouy')]
    yield claim('of the two nearest to a, e, i and o at least 6 of 8 are vowels or y', len(vowels) >= 6)

# ----------------------------------------------------------------------------------------------------------------------
# Exercises
@experiment
def test_tuned_start():
    """Exercise 2: which loss does a net have that knows nothing, and does makemore's start there?"""
    yield figure('all letters alike', '3.2958', math.log(27))
    model, words = build('mlp', block_size=3)
    yield answer("makemore's mlp", '3.30', *losses_of(model.net, model, words, ['dev']), within=0.05)

class Direct(nn.Module):
    """A head that also sees the embeddings themselves, past the hidden layer."""
    def __init__(self, hidden, head, fan_in):
        super().__init__()
        self.hidden, self.head, self.past = hidden, head, nn.Linear(fan_in, 27, bias=False)
        nn.init.zeros_(self.past.weight)
    def forward(self, x):
        return self.head(self.hidden(x)) + self.past(x)

@experiment(long=True)
def test_direct_connections():
    """Exercise 3: an idea of the paper, direct connections from the embeddings to the output. Do they help?"""
    model, words = build('mlp', block_size=3)
    draw_weights(model.net, generator := G(), ((5 / 3) / 30**0.5, 0.01), (0.01, 0))
    embed, view, *hidden, head = model.net
    net = nn.Sequential(embed, view, Direct(nn.Sequential(*hidden), head, 30))
    descend(net, *dataset(model, words, 'train'), 200_000, generator, title='direct connections')
    yield answer('train, dev; without them lecture 4 has 2.0377 / 2.1070', '2.04 / 2.11',
                 losses_of(net, model, words), within=0.02)

if __name__ == '__main__':
    main()
