"""Lecture 4: activations and gradients, and batch normalization.

The same little MLP starts badly, is mended step by step, and every step shows in a statistic first and in the loss
afterwards. Then batch normalization makes the mending unnecessary, and a deep net trains from a sloppy start.
"""
import copy
import functools
import math

from course import (G, answer, build, claim, dataset, descend, draw_weights, experiment, figure, loss_of, losses_of,
                    main, names, read)
from l6_wavenet import with_norm

import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore

KAIMING = (5 / 3) / 30**0.5      # the gain of tanh over the root of fan_in

def net_of(*scales):
    """The lecture's net is makemore's mlp: 3 letters of context, an embedding of 10, 200 hidden neurons."""
    model, words = build('mlp', block_size=3)
    return draw_weights(model.net, generator := G(), *scales), generator, model, words

STAGES = {'original': [(1, 1), (1, 1)], 'softmax fixed': [(1, 1), (0.01, 0)], 'tanh fixed': [(0.2, 0.01), (0.01, 0)],
          'kaiming': [(KAIMING, 0.01), (0.01, 0)]}

# ----------------------------------------------------------------------------------------------------------------------
# A bad start, and three repairs
def looked_at(stage):
    """Loss and hidden layer on the lecture's first batch of 32."""
    net, generator, model, words = net_of(*STAGES[stage])
    X, Y = dataset(model, words, 'train')
    ix = torch.randint(0, len(X), (32,), generator=generator)
    return F.cross_entropy(net(X[ix]), Y[ix]).item(), net[:4](X[ix])

@experiment
def test_first_loss():
    """What should the loss be before anything is learned, and what is it?"""
    yield figure('all letters alike: ln 27', '3.2958', math.log(27))
    for stage, expected in {'original': '27.8817', 'softmax fixed': '3.32', 'tanh fixed': '3.31'}.items():
        row = figure if stage == 'original' else answer
        yield row(f'{stage}: first loss', expected, looked_at(stage)[0])

@experiment
def test_saturation():
    """How much of the hidden layer sits in the flat ends of tanh, where gradients die? (white: |h| > 0.99)"""
    for stage, most in {'original': '60.95', 'tanh fixed': '0.98', 'kaiming': '8.14'}.items():
        _, h = looked_at(stage)
        white = h.abs() > 0.99
        yield answer(f'{stage}: % white', most, 100 * white.float().mean().item())
        yield claim(f'{stage}: no neuron is dead, white for all 32 examples', not white.all(0).any())

def trained(stage):
    net, generator, model, words = net_of(*STAGES[stage])
    descend(net, *dataset(model, words, 'train'), 200_000, generator, title=stage)
    return losses_of(net, model, words)

@experiment(long=True)
def test_original():
    """Where does the bad start end after 200,000 steps? A saturated net is chaotic: the last bit of a sum decides."""
    yield figure('original: train, dev', '2.1245384216308594 / 2.168196439743042', trained('original'), within=5e-3)

@experiment(long=True)
def test_softmax_fixed():
    """What does it bring not to be confidently wrong at the start?"""
    yield figure('softmax fixed: train, dev', '2.07 / 2.13', trained('softmax fixed'))

@experiment(long=True)
def test_tanh_fixed():
    """What does it bring to keep tanh out of its flat ends?"""
    yield figure('tanh fixed: train, dev', '2.0355966091156006 / 2.1026785373687744', trained('tanh fixed'))

@experiment(long=True)
def test_kaiming():
    """Is the principled scale as good as the one found by trying?"""
    yield figure('kaiming: train, dev', '2.0376641750335693 / 2.106989622116089', trained('kaiming'))

# ----------------------------------------------------------------------------------------------------------------------
# Batch normalization, the lecture's first form
class FirstNorm(makemore.BatchNorm1d):
    """As the lecture first writes it: over the sample's deviation (n - 1), without eps, the deviation remembered."""
    def forward(self, x):
        mean, std = self.running_mean, self.running_var      # the buffer holds deviations here, not variances
        if self.training:
            mean, std = x.mean(0, keepdim=True), x.std(0, keepdim=True)
            with torch.no_grad():
                self.running_mean = 0.999 * self.running_mean + 0.001 * mean
                self.running_var = 0.999 * self.running_var + 0.001 * std
        return self.weight * (x - mean) / std + self.bias

def normed_net(bias=False):
    """The same MLP with a norm before its tanh."""
    model, words = build('mlp', block_size=3)
    linear, head = (m for m in model.net if isinstance(m, nn.Linear))
    linear.bias = linear.bias if bias else None
    draw_weights(model.net, generator := G(), (KAIMING, 0.01), (0.01, 0))
    return nn.Sequential(*model.net[:3], FirstNorm(200), nn.Tanh(), head), generator, model, words

@experiment(long=True)
def test_batch_norm():
    """What does normalizing over the batch bring in a net this shallow? Hardly anything: it starts well already."""
    net, generator, model, words = normed_net()
    losses = descend(net, *dataset(model, words, 'train'), 200_000, generator, title='batch norm')
    yield figure('parameters', 12097, sum(p.numel() for p in net.parameters()))
    yield figure('first loss', '3.3239', losses[0])
    yield figure('train, dev', '2.0674145221710205 / 2.1056840419769287',
                 losses_of(net, model, words))
    X, _ = dataset(model, words, 'train')
    mean, std = (t(net[:3](X).detach(), 0) for t in (torch.mean, torch.std))
    gap = max((mean - net[3].running_mean).abs().max().item(), (std - net[3].running_var).abs().max().item())
    yield claim('running statistics are within 0.1 of those over the whole training set', gap < 0.1)

@experiment(long=True)
def test_batch_norm_in_the_log():
    """Why has the lecture's log other figures? A useless bias was there, and each split had its own statistics."""
    net, generator, model, words = normed_net(bias=True)
    descend(net, *dataset(model, words, 'train'), 200_000, generator, title='batch norm, biased')
    with torch.no_grad():      # in training mode: the whole split is one batch
        losses = [F.cross_entropy(net(X), Y).item() for X, Y in (dataset(model, words, s) for s in ('train', 'dev'))]
    yield figure('train, dev', '2.0668270587921143 / 2.104844808578491', losses)
    fair = losses_of(net, model, words)[1]
    yield claim('which flatters: with the remembered statistics dev is worse', fair > losses[1])

# ----------------------------------------------------------------------------------------------------------------------
# What noise does on its way through a layer
@experiment
def test_gaussian_through_a_matrix():
    """How wide does a Gaussian come out of a matrix of Gaussians, forward and backward? By the root of fan_in."""
    generator = G()
    a, b = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((1000, 1), (1000, 1000)))
    c = b @ a
    c.retain_grad()
    (torch.randn(1000, generator=generator) @ c).backward()
    yield figure('forward: input, matrix, output', '0.9875972270965576, 1.0006722211837769, 31.01241683959961',
                 [t.std().item() for t in (a, b, c)])
    yield figure('backward: output, input, matrix', '0.9782556295394897, 30.8818302154541, 0.9666601419448853',
                 [t.grad.std().item() for t in (c, a, b)])

@experiment
def test_norm_behind_a_matrix():
    """And with a norm behind it? Then the scale of the matrix no longer matters."""
    generator = G()
    x, w = (torch.randn(shape, generator=generator, requires_grad=True) for shape in (1000, (1000, 1000)))
    pre = w @ x
    pre.retain_grad()
    out = (pre - pre.mean()) / torch.sqrt(pre.var() + 1e-5)
    (out @ torch.randn(1000, generator=generator)).backward()
    yield figure('output', '1.0', out.std().item())
    yield figure('backward: before the norm, matrix, input',
                 '0.031543977558612823, 0.031169468536973, 0.9953052997589111',
                 [t.grad.std().item() for t in (pre, w, x)])

# ----------------------------------------------------------------------------------------------------------------------
# Six layers deep: makemore's bn-mlp is the lecture's net
def watch_tanh(net):
    """Keep what every tanh last gave out, and the gradient that came back to it."""
    outs = {}
    def keep(m, inputs, out):
        outs[m] = out
        if out.requires_grad:
            out.retain_grad()
    for m in net:
        if isinstance(m, nn.Tanh):
            m.register_forward_hook(keep)
    return outs

@functools.cache
def deep_net():
    """1,001 steps, as many as the lecture lets it take; what was seen in the last, and all updates over the data."""
    model, words = build('bn-mlp', block_size=3, n_layer=6, n_embd=10, n_hidden=100)
    net, outs, moves = draw_weights(with_norm(model.net), generator := G()), watch_tanh(model.net), []
    matrices = [p for p in net.parameters() if p.ndim == 2]
    def watch(step, rate):
        moves.append([(rate * p.grad.std() / p.data.std()).log10().item() for p in matrices])
    losses = descend(net, *dataset(model, words, 'train'), 1001, generator, 150_000, 'six layers', watch)
    return model, words, losses, list(outs.values()), matrices, moves

@experiment
def test_deep_net():
    """Six layers, a batch norm behind each: do they train?"""
    model, words, losses, *_ = deep_net()
    yield figure('parameters', 47024, sum(p.numel() for p in model.parameters()))
    yield figure('first loss', '3.2870', losses[0])
    yield figure('after 1,001 steps: train, dev', '2.4002976417541504 / 2.3982467651367188',
                 losses_of(model.net, model, words))
    made = names(model.net, words, 3, generator=G(2147483647 + 10)).split()
    yield figure('names drawn, the first five', 'carpah. qarlileif. jmrix. thty. sacansa.', ' '.join(made[:5]))
    yield figure('and the twentieth', 'gtleley.', made[-1])

@experiment
def test_deep_statistics():
    """What do activations, gradients and updates look like in a net that is well? Alike in every layer."""
    *_, outs, matrices, moves = deep_net()
    yield figure('% of tanh beyond 0.97', '2.78 2.56 2.25 1.69 1.88',
                 [100 * (out.abs() > 0.97).float().mean().item() for out in outs])
    yield figure('gradient of the activations, deviation',
                 '2.640702e-03 2.245584e-03 2.045742e-03 1.983134e-03 1.952382e-03',
                 [out.grad.std().item() for out in outs])
    yield figure('gradient over data, per matrix', '8.012630e-03 4.881091e-02 6.964619e-02 6.073741e-02 5.631483e-02 '
                 '5.570125e-02 1.160106e-01', [(p.grad.std() / p.std()).item() for p in matrices])
    usual = torch.tensor(moves[500:]).median(0).values
    yield answer('log10 of update over data, second half, per matrix; -3 is the guide',
                 '-3.1 -2.3 -2.1 -2.2 -2.2 -2.3 -2.0', usual.tolist(), within=0.1)

def plain_stack(gain, bend):
    """Five layers of 100 and a head, no norm: the deviation of each layer's output, and the share beyond 0.97."""
    cfg, words = read(type='bn-mlp', block_size=3)
    layers = [m for i in range(5) for m in (nn.Linear(100 if i else 30, 100), bend())]
    model = makemore.WindowModel(cfg, nn.Embedding(27, 10), nn.Flatten(), *layers, nn.Linear(100, 27))
    net, seen, generator = model.net, [], G()
    draw_weights(net, generator)
    for m in net[2:-1:2]:
        m.weight.data *= gain
    X, _ = dataset(model, words, 'train')
    X = X[torch.randint(0, len(X), (32,), generator=generator)]
    for k in range(4, 13, 2):
        seen.append(net[:k](X).detach())
    return net, X, [h.std().item() for h in seen], [100 * (h.abs() > 0.97).float().mean().item() for h in seen]

@experiment
def test_gains():
    """Without norms, which gain keeps the noise alive through five layers of tanh?"""
    for gain, deviations in {0.5: '0.41 0.02', 1: '0.62 0.32'}.items():
        _, _, std, _ = plain_stack(gain, nn.Tanh)
        yield answer(f'gain {gain}: deviation in the first and the fifth layer', deviations, [std[0], std[-1]])
    for gain, shares in {5 / 3: '20.25 6.12', 3: '47.66 42.41'}.items():
        _, _, _, flat = plain_stack(gain, nn.Tanh)
        yield answer(f'gain {gain:.3g}: % beyond 0.97, first and fifth layer', shares, [flat[0], flat[-1]], 0.05)

@experiment
def test_no_bend():
    """And without tanh? Then gain 1 is right, and five layers can do no more than one."""
    net, X, std, _ = plain_stack(1, nn.Identity)
    yield answer('gain 1: deviations', '0.99 0.98 1.01 0.97 0.99', std, within=0.01)
    whole = net[2].weight
    for layer in net[4::2]:
        whole = layer.weight @ whole
    yield claim('one matrix gives the same logits', torch.allclose(net[:2](X) @ whole.T, net(X), atol=1e-5))

# ----------------------------------------------------------------------------------------------------------------------
# Exercises, and what else the lecture says about batch norm
@experiment
def test_all_zero():
    """Exercise 1: start from zeros everywhere. What learns?"""
    model, words = build('mlp', block_size=3)
    for p in model.parameters():
        p.data.zero_()
    losses = descend(model.net, *dataset(model, words, 'train'), 5000, G())
    yield figure('first loss', '3.2958', losses[0])
    moved = [p for p in model.parameters() if p.abs().sum() > 0]
    yield claim('only the 27 biases of the last layer have moved', [p.shape for p in moved] == [(27,)])
    dev, = losses_of(model.net, model, words, ['dev'])
    yield answer('dev: how often each letter comes is all it knows', '2.8218', dev, within=0.01)

@torch.no_grad()
def fold(net):
    """Every norm into the linear layer before it, which does the same and is faster."""
    layers = list(net)
    for linear, norm in zip(net, list(net)[1:]):
        if isinstance(norm, makemore.BatchNorm1d):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            folded = nn.Linear(linear.in_features, linear.out_features)
            folded.weight.data = linear.weight * scale.view(-1, 1)
            folded.bias.data = norm.bias - norm.running_mean.flatten() * scale.flatten()
            layers[layers.index(linear)] = folded
            layers.remove(norm)
    return nn.Sequential(*layers)

@experiment
def test_fold():
    """Exercise 2: once trained, a norm is only a factor and a shift. Can the layer before it swallow them?"""
    model, words, *_ = deep_net()
    model.eval()
    X, _ = dataset(model, words, 'dev')
    small = fold(model.net)
    yield claim('the same logits to 1e-4', (small(X) - model.net(X)).abs().max() < 1e-4)
    yield answer('layers before, after', '24 18', [len(model.net), len(small)])
    model.train()

@experiment
def test_useless_bias():
    """What does a bias learn in front of a batch norm? Nothing: the norm subtracts it right away."""
    net, generator, model, words = normed_net(bias=True)
    yield answer('parameters with it', '12297', sum(p.numel() for p in net.parameters()))
    X, Y = dataset(model, words, 'train')
    before = net[2].bias.clone()
    descend(net, X, Y, 100, generator)
    yield claim('its gradient is rounding', net[2].bias.grad.abs().max() < 1e-7 < net[3].bias.grad.abs().max())
    yield claim('after 100 steps it is where it was', torch.allclose(net[2].bias, before, atol=1e-6))

@experiment
def test_coupling():
    """Does an example's output depend on who else is in its batch?"""
    model, words = deep_net()[:2]
    model = copy.deepcopy(model)      # training mode changes what it remembers
    X, _ = dataset(model, words, 'dev')
    batches = X[:32], torch.cat([X[:1], X[100:131]])
    alone = [model.net(x)[0] for x in batches]
    model.eval()
    steady = [model.net(x)[0] for x in batches]
    model.train()
    yield claim('in training it does', not torch.allclose(*alone, atol=1e-2))
    yield claim('in evaluation it does not', torch.equal(*steady))

@experiment
def test_torch_has_the_same():
    """Is makemore's norm torch.nn.BatchNorm1d, in training, in evaluation, and in what it remembers?"""
    ours, torchs, x = makemore.BatchNorm1d(10), nn.BatchNorm1d(10), torch.randn(3, 32, 10, generator=G())
    for batch in x:
        yield claim('training', torch.allclose(ours(batch), torchs(batch), atol=1e-5))
    yield claim('remembered', all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.buffers(), torchs.buffers())))
    yield claim('evaluation', torch.allclose(ours.eval()(x[0]), torchs.eval()(x[0]), atol=1e-5))

# ----------------------------------------------------------------------------------------------------------------------
# The six most common mistakes: for each the wrong number beside the right one
def start_net():
    model, words = build('mlp', block_size=3)
    draw_weights(model.net, generator := G(), *STAGES['kaiming'])
    return model.net, model, words, generator

@experiment
def test_mistake_no_single_batch():
    """1. Not to overfit a single batch first: where something is broken, it shows in a second."""
    ends = []
    for bug in 0, 1:      # the bug: all letters of the context have been lost on the way
        net, model, words, _ = start_net()
        X, Y = (t[:32] for t in dataset(model, words, 'train'))
        descend(net, X * bug, Y, 1000, G())
        ends.append(F.cross_entropy(net(X * bug), Y).item())
    yield answer('32 examples after 1,000 steps: context lost, context there', '2.68 0.26', ends, within=0.05)

@experiment
def test_mistake_no_eval():
    """2. To forget the switch between training and evaluation."""
    model, words, *_ = deep_net()
    X, Y = (t[:3200] for t in dataset(model, words, 'dev'))
    right, model = loss_of(model.net, X, Y), copy.deepcopy(model)      # the wrong way changes what it remembers
    wrong = sum(F.cross_entropy(model.net(x), y).item() for x, y in zip(X.split(2), Y.split(2))) / 1600
    yield answer('dev in batches of 2: wrong, right', '2.77 2.40', [wrong, right], within=0.02)

@experiment
def test_mistake_no_zero_grad():
    """3. To forget zero_grad: the second gradient has the first in it."""
    net, model, words, _ = start_net()
    X, Y = (t[:32] for t in dataset(model, words, 'train'))
    norms = []
    for _ in range(2):
        F.cross_entropy(net(X), Y).backward()
        norms.append(net[-1].weight.grad.norm().item())
    yield answer('the same batch twice: second norm over the first; right is 1', '2.0', norms[1] / norms[0])

@experiment
def test_mistake_softmax_twice():
    """4. To give probabilities to a loss that wants logits: even the perfect answer is punished."""
    perfect, target = torch.tensor([[0.0, 50.0, 0.0]]), torch.tensor([1])
    yield answer('loss of the perfect answer: wrong, right', '0.55 0.00', [F.cross_entropy(t, target).item() for t in
                                                                          (perfect.softmax(1), perfect)])

@experiment
def test_mistake_bias_before_norm():
    """5. To leave a bias in front of a batch norm: parameters that never learn."""
    sizes = [sum(p.numel() for p in normed_net(bias)[0].parameters()) for bias in (True, False)]
    yield figure('parameters: wrong, right', '12297 12097', sizes)

@experiment
def test_mistake_view_for_permute():
    """6. To take view for permute: the shape is right, the numbers have changed places."""
    x = torch.arange(6).view(2, 3)
    yield figure('[[0, 1, 2], [3, 4, 5]] by view(3, 2)', '[[0, 1], [2, 3], [4, 5]]', str(x.view(3, 2).tolist()))
    yield figure('by permute(1, 0)', '[[0, 3], [1, 4], [2, 5]]', str(x.permute(1, 0).tolist()))

if __name__ == '__main__':
    main()
