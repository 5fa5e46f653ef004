"""Lecture 5: the gradient by hand.

Every intermediate result of the net gets its gradient without autograd and is held against autograd to the last bit.
Then whole groups of steps shrink to a line, and with those lines, which are makemore's, the net trains to the end.
"""
import functools
from types import SimpleNamespace

from course import G, answer, build, claim, dataset, draw_weights, experiment, figure, losses_of, main
from l6_wavenet import LectureNorm

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import trange

import makemore
from inside import BACK, by_hand, compare, through

# ----------------------------------------------------------------------------------------------------------------------
# A net with its norm between linear layer and tanh, and no parameter at 0: a zero would hide mistakes
def net_of(n_hidden, seed):
    """The lecture's start. Gain and bias of the norm it drew without a seed; here the seed is given."""
    model, words = build('mlp', block_size=3, n_hidden=n_hidden)
    draw_weights(model.net, generator := G(), ((5 / 3) / 30**0.5, 0.1), (0.1, 0.1))
    torch.manual_seed(seed)
    norm = LectureNorm(n_hidden)
    norm.weight.data = torch.randn(n_hidden) * 0.1 + 1
    norm.bias.data = torch.randn(n_hidden) * 0.1
    embed, view, linear, tanh, _, head = model.net
    return nn.Sequential(embed, view, linear, norm, tanh, head), generator, model, words

def forward(net, X, Y):
    """The loss in steps so small that each has a derivative from the school book; all of them by name."""
    embed, _, linear, norm, _, head = net
    v, n = SimpleNamespace(C=embed.weight, W1=linear.weight.T, b1=linear.bias, W2=head.weight.T, b2=head.bias,
                           bngain=norm.weight[None], bnbias=norm.bias[None]), len(X)
    v.emb = v.C[X]
    v.embcat = v.emb.flatten(1)
    v.hprebn = v.embcat @ v.W1 + v.b1
    v.bnmeani = v.hprebn.sum(0, keepdim=True) * (1 / n)
    v.bndiff = v.hprebn - v.bnmeani
    v.bndiff2 = v.bndiff**2
    v.bnvar = v.bndiff2.sum(0, keepdim=True) * (1 / (n - 1))
    v.bnvar_inv = (v.bnvar + norm.eps)**-0.5
    v.bnraw = v.bndiff * v.bnvar_inv
    v.hpreact = v.bngain * v.bnraw + v.bnbias
    v.h = v.hpreact.tanh()
    v.logits = v.h @ v.W2 + v.b2
    v.logit_maxes = v.logits.max(1, keepdim=True).values
    v.norm_logits = v.logits - v.logit_maxes
    v.counts = v.norm_logits.exp()
    v.counts_sum = v.counts.sum(1, keepdim=True)
    v.counts_sum_inv = v.counts_sum**-1
    v.probs = v.counts * v.counts_sum_inv
    v.logprobs = v.probs.log()
    v.loss = -v.logprobs[range(n), Y].mean()
    return v

# ----------------------------------------------------------------------------------------------------------------------
# Exercise 1: all of it backwards
@torch.no_grad()
def backward(v, X, Y, fused=True):
    """The gradient of every intermediate result, last one first; a name in d is that result's gradient."""
    d = softmax_backward(v, Y)
    d.h, d.W2, d.b2 = d.logits @ v.W2.T, v.h.T @ d.logits, d.logits.sum(0)
    # 1 - h*h in one operation, rounded once, is what autograd does; in two operations the last bit differs
    slope = torch.addcmul(torch.ones_like(v.h), v.h, v.h, value=-1) if fused else 1 - v.h * v.h
    d.hpreact = slope * d.h
    norm_backward(v, d)
    d.embcat, d.W1, d.b1 = d.hprebn @ v.W1.T, v.embcat.T @ d.hprebn, d.hprebn.sum(0)
    d.emb, d.C = d.embcat.view_as(v.emb), torch.zeros_like(v.C)
    for letters, rows in zip(X, d.emb):      # a letter that came up twice gets both gradients
        for letter, row in zip(letters, rows):
            d.C[letter] += row
    return d

def softmax_backward(v, Y):
    d, n = SimpleNamespace(), len(Y)
    d.logprobs = torch.zeros_like(v.logprobs)
    d.logprobs[range(n), Y] = -1 / n
    d.probs = d.logprobs / v.probs
    d.counts_sum_inv = (v.counts * d.probs).sum(1, keepdim=True)      # what was broadcast forward is summed backward
    d.counts_sum = -v.counts_sum**-2 * d.counts_sum_inv
    d.counts = v.counts_sum_inv * d.probs + d.counts_sum              # used twice: both ways add up
    d.norm_logits = v.counts * d.counts
    d.logit_maxes = -d.norm_logits.sum(1, keepdim=True)
    d.logits = d.norm_logits + F.one_hot(v.logits.argmax(1), v.logits.size(1)) * d.logit_maxes
    return d

def norm_backward(v, d):
    n = len(v.hprebn)
    d.bngain, d.bnbias = ((t * d.hpreact).sum(0, keepdim=True) for t in (v.bnraw, torch.ones_like(v.bnraw)))
    d.bnraw = v.bngain * d.hpreact
    d.bnvar_inv = (v.bndiff * d.bnraw).sum(0, keepdim=True)
    d.bnvar = -0.5 * (v.bnvar + 1e-5)**-1.5 * d.bnvar_inv
    d.bndiff2 = torch.ones_like(v.bndiff2) * (1 / (n - 1)) * d.bnvar
    d.bndiff = v.bnvar_inv * d.bnraw + 2 * v.bndiff * d.bndiff2
    d.bnmeani = -d.bndiff.sum(0, keepdim=True)
    d.hprebn = d.bndiff + torch.ones_like(v.bndiff) * (1 / n) * d.bnmeani

ORDER = ('logprobs probs counts_sum_inv counts_sum counts norm_logits logit_maxes logits h W2 b2 hpreact bngain bnbias '
         'bnraw bnvar_inv bnvar bndiff2 bndiff bnmeani hprebn embcat W1 b1 emb C').split()

def lecture_batch(n_hidden=64):
    """The net with seed 0, the lecture's first batch, all intermediate results, and autograd's opinion of them."""
    net, generator, model, words = net_of(n_hidden, 0)
    X, Y = dataset(model, words, 'train')
    ix = torch.randint(0, len(X), (32,), generator=generator)
    v = forward(net, X[ix], Y[ix])
    truth = dict(zip(ORDER, torch.autograd.grad(v.loss, [getattr(v, name) for name in ORDER])))
    return net, v, X[ix], Y[ix], truth

@experiment
def test_every_gradient():
    """Exercise 1: are all 26 gradients those of autograd, bit for bit?"""
    net, v, X, Y, truth = lecture_batch()
    yield figure('parameters', 4137, sum(p.numel() for p in net.parameters()))
    yield figure('loss (gain and bias of the norm were not seeded)', '3.3377', v.loss.item(), within=0.01)
    for title, fused, expected in ('1 - h*h rounded once', True, 26), ('1 - h*h in two operations', False, 11):
        d = backward(v, X, Y, fused)
        exact = [name for name in ORDER if torch.equal(getattr(d, name), truth[name])]
        gap = max((getattr(d, name) - truth[name]).abs().max().item() for name in ORDER)
        row = figure if fused else functools.partial(answer, within=15)      # elsewhere other bits may agree by chance
        yield row(f'{title}: exact of 26', str(expected), len(exact))
        yield claim(f'{title}: largest difference under 1e-8', gap < 1e-8)

# ----------------------------------------------------------------------------------------------------------------------
# Exercises 2 and 3: the same in one line each, and so a rule for each of makemore's layers
# makemore's rules are in inside.py; the lecture's norm divides by n - 1
BACK['LectureNorm'] = functools.partial(BACK['BatchNorm1d'], lost=1)

@experiment
def test_cross_entropy_in_one_line():
    """Exercise 2: is the way back through softmax and log really one subtraction, and what does it pull at?"""
    _, v, _, Y, truth = lecture_batch()
    logits = v.logits.detach()
    d = (logits.softmax(1) - F.one_hot(Y, 27)) / len(Y)
    gap = abs(F.cross_entropy(logits, Y) - v.loss).item()
    yield figure('loss of F.cross_entropy against the steps', '2.38e-07', gap, within=1e-6)
    yield figure('largest difference', '5.12e-09', (d - truth['logits']).abs().max().item(), within=1e-8)
    yield claim('every row of the gradient sums to 0: as much push as pull', d.sum(1).abs().max() < 1e-8)
    yield claim('the right letter is pulled up, all others are pushed down', (d < 0).equal(F.one_hot(Y, 27) > 0))

@experiment
def test_batch_norm_in_one_line():
    """Exercise 3: and the page of algebra behind batch norm?"""
    net, v, *_, truth = lecture_batch()
    x = v.hprebn.detach()
    yield figure('the norm against the steps', '4.7684e-07', (net[3](x) - v.hpreact).abs().max().item(), within=1e-6)
    with torch.no_grad():
        d = BACK['LectureNorm'](net[3], x, None, truth['hpreact'])
    yield figure('largest difference', '9.313225746154785e-10', (d - truth['hprebn']).abs().max().item(), within=2e-9)

@experiment
def test_bessel():
    """The variance over n or over n - 1: does it matter which?"""
    _, v, *_, truth = lecture_batch()
    x, outs, gaps = v.hprebn.detach(), [], []
    for kind, other in (makemore.BatchNorm1d, LectureNorm), (LectureNorm, makemore.BatchNorm1d):
        m, x = kind(64), x.detach().requires_grad_()
        outs.append(m(x))
        right, = torch.autograd.grad(outs[-1], x, truth['hpreact'])
        with torch.no_grad():
            gaps += [(BACK[rule.__name__](m, x, None, truth['hpreact']) - right).abs().max().item()
                     for rule in (kind, other)]
    factor = (outs[0] / outs[1]).mean().item()
    yield answer('batch of 32: one norm is larger than the other by a factor of', '1.0160', factor)
    yield claim('each has its own gradient', max(gaps[0], gaps[2]) < 2e-9 < 1e-5 < min(gaps[1], gaps[3]))
    yield claim("makemore's is torch's", torch.allclose(outs[0], nn.BatchNorm1d(64)(x), atol=1e-6))

@experiment
def test_embedding_backward():
    """The loop over letters or one index_add: the same?"""
    net, v, X, Y, truth = lecture_batch()
    BACK['Embedding'](net[0], X, None, truth['emb'])
    yield claim('at most 1e-9 apart', (net[0].weight.grad - backward(v, X, Y).C).abs().max() < 1e-9)

@experiment
def test_whole_models():
    """Do the rules, chained, give the gradients of makemore's whole nets?"""
    for kind in 'mlp', 'bn-mlp', 'wavenet':
        model, words = build(kind)
        x, y, _ = makemore.batch(words, makemore.settle(dict(type=kind)), 0)
        yield claim(f'{kind}: all parameters', compare(model, [makemore.by_autograd, by_hand], x, y))

# ----------------------------------------------------------------------------------------------------------------------
# Exercise 4: training without autograd
@experiment(long=True)
def test_training_by_hand():
    """Exercise 4: 200,000 steps, and autograd is not asked once."""
    net, generator, model, words = net_of(200, 42)
    X, Y = dataset(model, words, 'train')
    first = None
    for i in trange(200_000, desc='by hand', disable=None, mininterval=1, leave=False):
        ix = torch.randint(0, len(X), (32,), generator=generator)
        loss = through(net, X[ix], Y[ix])
        first = loss.item() if i == 0 else first
        for p in net.parameters():
            p.data += -(0.1 if i < 100_000 else 0.01) * p.grad
    yield figure('parameters', 12297, sum(p.numel() for p in net.parameters()))
    yield figure('first loss (unseeded there)', '3.7805', first, within=0.02)
    with torch.no_grad():
        hprebn = net[:3](X)      # the lecture measures with mean and variance of the whole training set
        net[3].running_mean, net[3].running_var = hprebn.mean(0), hprebn.var(0)
    yield figure('train, dev (unseeded there)', '2.070523500442505 / 2.109893560409546',
                 losses_of(net, model, words), within=0.01)

if __name__ == '__main__':
    main()
