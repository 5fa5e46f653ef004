"""Lecture 5: the gradient by hand.

Every intermediate result of the net gets its gradient without autograd and is compared with
autograd to the last bit. Then whole groups of steps shrink to a line, and with those lines, which
are makemore's, the net trains to the end.
"""

import functools
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from course import (
    answer,
    build_model,
    claim,
    conclusion,
    draw_weights,
    experiment,
    figure,
    finding,
    lecture_generator,
    load_data,
    main,
    make_windows,
    show_progress,
    split_losses,
)
from l6_wavenet import LectureNorm

import makemore
from makemore_extras.backprop import (
    RULES,
    backward_layers,
    batch_norm_rule,
    compare_gradients,
    embedding_rule,
    manual_backward,
)

# -----------------------------------------------------------------------------
# a net with its norm between linear layer and tanh, and no parameter at 0: a zero would hide
# mistakes


def make_net(n_hidden, seed):
    """The lecture's start; gain and bias of the norm it drew without a seed; here it is given.

    Also the model that makes its windows, the data set, and the generator.
    """
    model, dataset = build_model('mlp', block_size=3, n_hidden=n_hidden)
    generator = lecture_generator()
    draw_weights(model.net, generator, ((5 / 3) / 30**0.5, 0.1), (0.1, 0.1))
    torch.manual_seed(seed)
    norm = LectureNorm(n_hidden)
    norm.weight.data = torch.randn(n_hidden) * 0.1 + 1
    norm.bias.data = torch.randn(n_hidden) * 0.1
    embedding, flatten, linear, tanh, _, head = model.net
    return nn.Sequential(embedding, flatten, linear, norm, tanh, head), model, dataset, generator


def forward(net, X, Y):
    """The loss in steps so small that each has a derivative from the school book; all of them by
    name.
    """
    embedding, _, linear, norm, _, head = net
    n = len(X)
    v = SimpleNamespace()
    v.C = embedding.weight
    v.W1 = linear.weight.T
    v.b1 = linear.bias
    v.W2 = head.weight.T
    v.b2 = head.bias
    v.bngain = norm.weight[None]
    v.bnbias = norm.bias[None]

    v.emb = v.C[X]
    v.embcat = v.emb.flatten(1)
    v.hprebn = v.embcat @ v.W1 + v.b1
    v.bnmeani = v.hprebn.sum(0, keepdim=True) * (1 / n)
    v.bndiff = v.hprebn - v.bnmeani
    v.bndiff2 = v.bndiff**2
    v.bnvar = v.bndiff2.sum(0, keepdim=True) * (1 / (n - 1))
    v.bnvar_inv = (v.bnvar + norm.eps) ** -0.5
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


# -----------------------------------------------------------------------------
# exercise 1: all of it backwards


@torch.no_grad()
def backward(v, X, Y, fused=True):
    """The gradient of every intermediate result, last one first; a name in d is that result's
    gradient.
    """
    d = SimpleNamespace()
    softmax_backward(v, d, Y)
    # logits (N, 27) = h (N, 64) @ W2 (64, 27) + b2 (27,): only one product fits each shape
    d.h = d.logits @ v.W2.T
    d.W2 = v.h.T @ d.logits
    d.b2 = d.logits.sum(0)
    # 1 - h*h in one operation, rounded once, is what autograd does; in two operations the last
    # bit differs
    slope = 1 - v.h * v.h
    if fused:
        slope = torch.addcmul(torch.ones_like(v.h), v.h, v.h, value=-1)
    d.hpreact = slope * d.h
    norm_backward(v, d)
    d.embcat = d.hprebn @ v.W1.T
    d.W1 = v.embcat.T @ d.hprebn
    d.b1 = d.hprebn.sum(0)
    d.emb = d.embcat.view_as(v.emb)
    d.C = torch.zeros_like(v.C)
    for letter, row in zip(X.flatten(), d.emb.flatten(0, 1), strict=True):
        d.C[letter] += row  # a letter that came up twice gets both gradients
    return d


def softmax_backward(v, d, Y):
    n = len(Y)
    # only the right letter's logprob is in the loss, as one of n in a mean
    d.logprobs = torch.zeros_like(v.logprobs)
    d.logprobs[range(n), Y] = -1 / n
    d.probs = d.logprobs / v.probs
    # what was broadcast forward is summed backward
    d.counts_sum_inv = (v.counts * d.probs).sum(1, keepdim=True)
    d.counts_sum = -(v.counts_sum**-2) * d.counts_sum_inv
    # used twice: both ways add up
    d.counts = v.counts_sum_inv * d.probs + d.counts_sum
    d.norm_logits = v.counts * d.counts
    # nearly 0: subtracting the maximum makes exp safe and changes nothing else
    d.logit_maxes = -d.norm_logits.sum(1, keepdim=True)
    largest = F.one_hot(v.logits.argmax(1), v.logits.size(1))
    d.logits = d.norm_logits + largest * d.logit_maxes


def norm_backward(v, d):
    n = len(v.hprebn)
    d.bngain = (v.bnraw * d.hpreact).sum(0, keepdim=True)
    d.bnbias = d.hpreact.sum(0, keepdim=True)
    d.bnraw = v.bngain * d.hpreact
    d.bnvar_inv = (v.bndiff * d.bnraw).sum(0, keepdim=True)
    d.bnvar = -0.5 * (v.bnvar + 1e-5) ** -1.5 * d.bnvar_inv
    # summed forward, so backward every row gets the same
    d.bndiff2 = torch.ones_like(v.bndiff2) * (1 / (n - 1)) * d.bnvar
    # used twice: as it is, and squared for the variance
    d.bndiff = v.bnvar_inv * d.bnraw + 2 * v.bndiff * d.bndiff2
    d.bnmeani = -d.bndiff.sum(0, keepdim=True)
    d.hprebn = d.bndiff + torch.ones_like(v.bndiff) * (1 / n) * d.bnmeani


# all intermediate results and parameters, the last one first
NAMES = [
    'logprobs',
    'probs',
    'counts_sum_inv',
    'counts_sum',
    'counts',
    'norm_logits',
    'logit_maxes',
    'logits',
    'h',
    'W2',
    'b2',
    'hpreact',
    'bngain',
    'bnbias',
    'bnraw',
    'bnvar_inv',
    'bnvar',
    'bndiff2',
    'bndiff',
    'bnmeani',
    'hprebn',
    'embcat',
    'W1',
    'b1',
    'emb',
    'C',
]


def lecture_batch():
    """The net with seed 0, the lecture's first batch, all intermediate results, and their gradients
    by autograd.
    """
    net, model, dataset, generator = make_net(64, seed=0)
    X, Y = make_windows(model, dataset, 'train')
    ix = torch.randint(0, len(X), (32,), generator=generator)
    v = forward(net, X[ix], Y[ix])
    gradients = torch.autograd.grad(v.loss, [getattr(v, name) for name in NAMES])
    truth = dict(zip(NAMES, gradients, strict=True))
    return net, v, X[ix], Y[ix], truth


def max_gap(a, b):
    """The largest difference of two tensors."""
    return (a - b).abs().max().item()


@experiment
def test_every_gradient():
    """Exercise 1: are all 26 gradients those of autograd, bit for bit?"""
    net, v, X, Y, truth = lecture_batch()
    yield figure('parameters', 4137, sum(p.numel() for p in net.parameters()), 'file')
    what = 'loss (gain and bias of the norm were not seeded)'
    yield figure(what, '3.3377', v.loss.item(), 'file', within=0.01)
    exact = {}
    for fused in (True, False):
        d = backward(v, X, Y, fused)
        n_exact = sum(torch.equal(getattr(d, name), truth[name]) for name in NAMES)
        gap = max(max_gap(getattr(d, name), truth[name]) for name in NAMES)
        if fused:
            title = '1 - h*h rounded once'
            yield figure(f'{title}: exact of 26', '26', n_exact, 'file')
        else:
            title = '1 - h*h in two operations'
            # elsewhere other bits may agree by chance
            yield answer(f'{title}: exact of 26', '11', n_exact, within=15)
        yield finding(f'{title}: largest difference under 1e-8', gap < 1e-8)
        exact[fused] = n_exact
    yield conclusion(
        f"{exact[True]} of 26 with autograd's own way to compute 1 - h*h, which rounds once; "
        f"{exact[False]} with the notebook's formula, which rounds twice, and which was exact with "
        f'the torch of its time. Even so no gradient is off by more than {gap:.0e}.'
    )


# -----------------------------------------------------------------------------
# exercises 2 and 3: the same in one line each, and so a rule for each of makemore's layers; the
# rules are in makemore_extras/backprop.py

# the lecture's norm divides by n - 1
RULES['LectureNorm'] = functools.partial(batch_norm_rule, correction=1)


@experiment
def test_cross_entropy_in_one_line():
    """Exercise 2: is the way back through softmax and log really one subtraction, and what does it
    pull at?
    """
    _, v, _, Y, truth = lecture_batch()
    logits = v.logits.detach()
    answers = F.one_hot(Y, 27)
    d = (logits.softmax(1) - answers) / len(Y)
    gap = abs(F.cross_entropy(logits, Y) - v.loss).item()
    what = 'loss of F.cross_entropy against the steps'
    yield figure(what, '2.384185791015625e-07', gap, 'file', within=1e-6)
    gap = max_gap(d, truth['logits'])
    yield figure('largest difference', '5.122274160385132e-09', gap, 'file', within=1e-8)
    sums = d.sum(1).abs()
    what = 'every row of the gradient sums to 0: as much push as pull'
    yield claim(what, sums.max() < 1e-8, 'file')
    what = 'the right letter is pulled up, all others are pushed down'
    yield claim(what, torch.equal(d < 0, answers > 0), 'video')
    yield conclusion(
        f'Yes: probabilities minus 1 at the right letter, over the batch size; {gap:.0e} at most '
        'from what seven small steps give.'
    )


@experiment
def test_batch_norm_in_one_line():
    """Exercise 3: and the page of algebra behind batch norm?"""
    net, v, _, _, truth = lecture_batch()
    norm = net[3]
    x = v.hprebn.detach()
    gap = max_gap(norm(x), v.hpreact)
    yield figure('the norm against the steps', '4.7684e-07', gap, 'file', within=1e-6)
    with torch.no_grad():
        d = RULES['LectureNorm'](norm, x, None, truth['hpreact'])
    gap = max_gap(d, truth['hprebn'])
    yield figure('largest difference', '9.313225746154785e-10', gap, 'file', within=2e-9)
    yield conclusion(
        f'One line as well; it differs from the nine small steps by {gap:.0e} at most.'
    )


@experiment
def test_bessel():
    """The variance over n or over n - 1: does it matter which?"""
    _, v, _, _, truth = lecture_batch()
    outputs = {}
    gaps = {}
    # torch divides the batch by the variance over n and remembers the one over n - 1; the lecture
    # takes n - 1 for both, so that training and evaluation do the same
    for norm_class in (makemore.BatchNorm1d, LectureNorm):
        norm = norm_class(64)
        x = v.hprebn.detach().requires_grad_()
        out = norm(x)
        outputs[norm_class.__name__] = out
        [right] = torch.autograd.grad(out, x, truth['hpreact'])
        for rule in ('BatchNorm1d', 'LectureNorm'):
            with torch.no_grad():
                d = RULES[rule](norm, x, None, truth['hpreact'])
            gaps[norm_class.__name__, rule] = max_gap(d, right)

    factor = (outputs['BatchNorm1d'] / outputs['LectureNorm']).mean().item()
    what = 'batch of 32: one norm is larger than the other by a factor of'
    yield answer(what, '1.0160', factor)
    own = [gap for (norm, rule), gap in gaps.items() if norm == rule]
    other = [gap for (norm, rule), gap in gaps.items() if norm != rule]
    yield finding('each has its own gradient', max(own) < 2e-9 and min(other) > 1e-5)
    same = torch.allclose(outputs['BatchNorm1d'], nn.BatchNorm1d(64)(x), atol=1e-6)
    yield finding("makemore's is torch's", same)


@experiment
def test_embedding_backward():
    """The loop over letters or one index_add: the same?"""
    net, v, X, Y, truth = lecture_batch()
    embedding = net[0]
    embedding_rule(embedding, X, None, truth['emb'])
    gap = max_gap(embedding.weight.grad, backward(v, X, Y).C)
    # a letter that occurs often gets its gradients in another order, so a last bit may differ
    yield finding('at most 1e-9 apart', gap < 1e-9)


@experiment
def test_whole_models():
    """Do the rules, chained, give the gradients of makemore's whole nets?"""
    for model_type in ('mlp', 'bn-mlp', 'wavenet'):
        model, _ = build_model(model_type)
        config, dataset = load_data(type=model_type)
        x, y, _ = makemore.get_batch(dataset, config, 0)
        comparison = compare_gradients(model, makemore.backward_autograd, manual_backward, x, y)
        yield finding(f'{model_type}: all parameters', comparison.all_close)


# -----------------------------------------------------------------------------
# exercise 4: training without autograd


@experiment(long=True)
def test_training_by_hand():
    """Exercise 4: 200,000 steps, and autograd is not asked once."""
    net, model, dataset, generator = make_net(200, seed=42)
    X, Y = make_windows(model, dataset, 'train')
    first_loss = None
    # no loss.backward() in this loop: backward_layers() leaves the gradients in p.grad
    for step in show_progress(200_000, 'by hand'):
        ix = torch.randint(0, len(X), (32,), generator=generator)
        loss = backward_layers(net, X[ix], Y[ix])
        if step == 0:
            first_loss = loss.item()
        lr = 0.1 if step < 100_000 else 0.01
        for p in net.parameters():
            p.data += -lr * p.grad
    yield figure('parameters', 12297, sum(p.numel() for p in net.parameters()), 'file')
    yield figure('first loss (unseeded there)', '3.7805', first_loss, 'file', within=0.02)
    with torch.no_grad():
        # the lecture measures with mean and variance of the whole training set
        hprebn = net[:3](X)
        norm = net[3]
        norm.running_mean = hprebn.mean(0)
        norm.running_var = hprebn.var(0)
    losses = split_losses(net, model, dataset)
    expected = '2.070523500442505 / 2.109893560409546'
    yield figure('train, dev (unseeded there)', expected, losses, 'file', within=0.01)
    train, dev = losses
    yield conclusion(f'It trains as with autograd: {train:.4f} on train and {dev:.4f} on dev.')


if __name__ == '__main__':
    main()
