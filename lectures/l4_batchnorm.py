"""Lecture 4: activations and gradients, and batch normalization.

The same little MLP starts badly, is mended step by step, and every step shows in a statistic first
and in the loss afterwards. Then a deep net gets batch normalization, and its start may be sloppy.
"""

import copy
import functools
import itertools
import math

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
    mean_loss,
    sample_names,
    split_losses,
    train_sgd,
)
from l6_wavenet import LectureNorm, replace_norms

import makemore

KAIMING = (5 / 3) / 30**0.5  # the gain of tanh over the root of fan_in

STAGES = {
    'original': [(1, 1), (1, 1)],
    'softmax fixed': [(1, 1), (0.01, 0)],
    'tanh fixed': [(0.2, 0.01), (0.01, 0)],
    'kaiming': [(KAIMING, 0.01), (0.01, 0)],
}


def start_model(stage):
    """The lecture's net at a stage of its repair, and the generator that drew its weights.

    It is makemore's mlp: 3 letters of context, an embedding of 10, 200 hidden neurons.
    """
    model, dataset = build_model('mlp', block_size=3)
    generator = lecture_generator()
    draw_weights(model.net, generator, *STAGES[stage])
    return model, dataset, generator


# -----------------------------------------------------------------------------
# a bad start, and three repairs


def first_batch(stage):
    """Loss and hidden layer on the lecture's first batch of 32."""
    model, dataset, generator = start_model(stage)
    X, Y = make_windows(model, dataset, 'train')
    ix = torch.randint(0, len(X), (32,), generator=generator)
    loss = F.cross_entropy(model.net(X[ix]), Y[ix]).item()
    return loss, model.net[:4](X[ix])


@experiment
def test_first_loss():
    """What should the loss be before anything is learned, and what is it?"""
    yield figure('all letters alike: ln 27', '3.2958', math.log(27), 'video')
    yield figure('original: first loss', '27.8817', first_batch('original')[0], 'video')
    loss = first_batch('softmax fixed')[0]
    yield figure('softmax fixed: first loss', '3.32', loss, 'video')
    yield answer('tanh fixed: first loss', '3.31', first_batch('tanh fixed')[0])


@experiment
def test_saturation():
    """How much of the hidden layer sits in the flat ends of tanh, where gradients die? (white: |h|
    > 0.99)
    """
    for stage, expected in {'original': '60.95', 'tanh fixed': '0.98', 'kaiming': '8.14'}.items():
        _, h = first_batch(stage)
        white = h.abs() > 0.99
        yield answer(f'{stage}: % white', expected, 100 * white.float().mean().item())
        some_dead = white.all(0).any()
        what = f'{stage}: no neuron is dead, white for all 32 examples'
        if stage == 'original':
            yield claim(what, not some_dead, 'video')
        else:
            yield finding(what, not some_dead)


@functools.cache
def train_stage(stage):
    """Losses on train and dev after 200,000 steps."""
    model, dataset, generator = start_model(stage)
    X, Y = make_windows(model, dataset, 'train')
    train_sgd(model.net, X, Y, 200_000, generator, title=stage)
    return split_losses(model.net, model, dataset)


@experiment(long=True)
def test_original():
    """Where does the bad start end after 200,000 steps? A saturated net is chaotic: the last bit of
    a sum decides.
    """
    losses = train_stage('original')
    expected = '2.1245384216308594 / 2.168196439743042'
    yield figure('original: train, dev', expected, losses, 'file', within=5e-3)


@experiment(long=True)
def test_softmax_fixed():
    """What does it bring not to be confidently wrong at the start?"""
    losses = train_stage('softmax fixed')
    yield figure('softmax fixed: train, dev', '2.07 / 2.13', losses, 'file')


@experiment(long=True)
def test_tanh_fixed():
    """What does it bring to keep tanh out of its flat ends?"""
    losses = train_stage('tanh fixed')
    expected = '2.0355966091156006 / 2.1026785373687744'
    yield figure('tanh fixed: train, dev', expected, losses, 'file')


@experiment(long=True)
def test_kaiming():
    """Is the principled scale as good as the one found by trying?"""
    losses = train_stage('kaiming')
    expected = '2.0376641750335693 / 2.106989622116089'
    yield figure('kaiming: train, dev', expected, losses, 'file')


# -----------------------------------------------------------------------------
# batch normalization, the lecture's first form


class FirstNorm(makemore.BatchNorm1d):
    """As the lecture first writes it: over the sample's deviation (n - 1), without eps, the
    deviation remembered.
    """

    def forward(self, x):
        # the buffer running_var holds deviations here, not variances
        mean = self.running_mean
        std = self.running_var
        if self.training:
            mean = x.mean(0, keepdim=True)
            std = x.std(0, keepdim=True)
            with torch.no_grad():
                self.running_mean = 0.999 * self.running_mean + 0.001 * mean
                self.running_var = 0.999 * self.running_var + 0.001 * std
        return self.weight * (x - mean) / std + self.bias


def normed_net(bias=False):
    """The same MLP with a norm before its tanh; the model makes its windows."""
    model, dataset = build_model('mlp', block_size=3)
    embedding, flatten, linear, tanh, _, head = model.net
    if not bias:
        linear.bias = None
    generator = lecture_generator()
    draw_weights(model.net, generator, (KAIMING, 0.01), (0.01, 0))
    net = nn.Sequential(embedding, flatten, linear, FirstNorm(200), tanh, head)
    return net, model, dataset, generator


@experiment(long=True)
def test_batch_norm():
    """What does normalizing over the batch bring in a net this shallow? Hardly anything: it starts
    well already.
    """
    net, model, dataset, generator = normed_net()
    X, Y = make_windows(model, dataset, 'train')
    losses = train_sgd(net, X, Y, 200_000, generator, title='batch norm')
    yield figure('parameters', 12097, sum(p.numel() for p in net.parameters()), 'file')
    yield figure('first loss', '3.3239', losses[0], 'file')
    ends = split_losses(net, model, dataset)
    yield figure('train, dev', '2.0674145221710205 / 2.1056840419769287', ends, 'file')
    hidden = net[:3](X).detach()
    norm = net[3]
    mean_gap = (hidden.mean(0) - norm.running_mean).abs().max().item()
    std_gap = (hidden.std(0) - norm.running_var).abs().max().item()
    what = 'running statistics are within 0.1 of those over the whole training set'
    yield finding(what, max(mean_gap, std_gap) < 0.1)


@experiment(long=True)
def test_batch_norm_in_the_log():
    """Why has the lecture's log other figures? A useless bias was there, and each split had its own
    statistics.
    """
    net, model, dataset, generator = normed_net(bias=True)
    X, Y = make_windows(model, dataset, 'train')
    train_sgd(net, X, Y, 200_000, generator, title='batch norm, biased')
    losses = []
    with torch.no_grad():  # in training mode: the whole split is one batch
        for split in ('train', 'dev'):
            X, Y = make_windows(model, dataset, split)
            losses.append(F.cross_entropy(net(X), Y).item())
    yield figure('train, dev', '2.0668270587921143 / 2.104844808578491', losses, 'file')
    _, fair = split_losses(net, model, dataset)
    yield finding('which flatters: with the remembered statistics dev is worse', fair > losses[1])


# -----------------------------------------------------------------------------
# what noise does on its way through a layer


@experiment
def test_gaussian_through_a_matrix():
    """How wide does a Gaussian come out of a matrix of Gaussians, forward and backward? By the root
    of fan_in.
    """
    generator = lecture_generator()
    a = torch.randn((1000, 1), generator=generator, requires_grad=True)
    b = torch.randn((1000, 1000), generator=generator, requires_grad=True)
    c = b @ a
    c.retain_grad()
    (torch.randn(1000, generator=generator) @ c).backward()
    deviations = [t.std().item() for t in (a, b, c)]
    expected = '0.9875972270965576, 1.0006722211837769, 31.01241683959961'
    yield figure('forward: input, matrix, output', expected, deviations, 'file')
    deviations = [t.grad.std().item() for t in (c, a, b)]
    expected = '0.9782556295394897, 30.8818302154541, 0.9666601419448853'
    yield figure('backward: output, input, matrix', expected, deviations, 'file')


@experiment
def test_norm_behind_a_matrix():
    """And with a norm behind it? Then the scale of the matrix no longer matters."""
    generator = lecture_generator()
    x = torch.randn(1000, generator=generator, requires_grad=True)
    w = torch.randn((1000, 1000), generator=generator, requires_grad=True)
    pre = w @ x
    pre.retain_grad()
    out = (pre - pre.mean()) / torch.sqrt(pre.var() + 1e-5)
    (out @ torch.randn(1000, generator=generator)).backward()
    yield figure('output', '1.0', out.std().item(), 'file')
    deviations = [t.grad.std().item() for t in (pre, w, x)]
    expected = '0.031543977558612823, 0.031169468536973, 0.9953052997589111'
    yield figure('backward: before the norm, matrix, input', expected, deviations, 'file')


# -----------------------------------------------------------------------------
# six layers deep: makemore's bn-mlp is the lecture's net


def watch_tanh(net):
    """Keep what every tanh last gave out, and the gradient that came back to it."""
    outputs = {}

    def keep(layer, inputs, output):
        outputs[layer] = output
        if output.requires_grad:
            output.retain_grad()

    for layer in net:
        if isinstance(layer, nn.Tanh):
            layer.register_forward_hook(keep)
    return outputs


@functools.cache
def deep_model():
    """1,001 steps, as many as the lecture lets it take; what was seen in the last, and how large
    all updates were, relative to the data.
    """
    model, dataset = build_model('bn-mlp', block_size=3, n_layer=6, n_embd=10, n_hidden=100)
    net = replace_norms(model.net)
    generator = lecture_generator()
    draw_weights(net, generator)
    outputs = watch_tanh(net)
    matrices = [p for p in net.parameters() if p.ndim == 2]
    update_ratios = []

    def watch(step, lr):
        ratios = [lr * p.grad.std() / p.data.std() for p in matrices]
        update_ratios.append([ratio.log10().item() for ratio in ratios])

    X, Y = make_windows(model, dataset, 'train')
    losses = train_sgd(net, X, Y, 1001, generator, 150_000, 'six layers', watch)
    return model, dataset, losses, list(outputs.values()), matrices, update_ratios


# Whichever of those that use deep_model() runs first trains it: all of them are slow.


@experiment(slow=True)
def test_deep_net():
    """Six layers, a batch norm behind each: do they train?"""
    model, dataset, losses, *_ = deep_model()
    yield figure('parameters', 47024, sum(p.numel() for p in model.parameters()), 'file')
    yield figure('first loss', '3.2870', losses[0], 'file')
    ends = split_losses(model.net, model, dataset)
    expected = '2.4002976417541504 / 2.3982467651367188'
    yield figure('after 1,001 steps: train, dev', expected, ends, 'file')
    names = sample_names(model.net, dataset, 3, lecture_generator(2147483647 + 10)).split()
    expected = 'carpah. qarlileif. jmrix. thty. sacansa.'
    yield figure('names drawn, the first five', expected, ' '.join(names[:5]), 'file')
    yield figure('and the twentieth', 'gtleley.', names[-1], 'file')


GRAD_STD = '2.640702e-03 2.245584e-03 2.045742e-03 1.983134e-03 1.952382e-03'
GRAD_RATIOS = (
    '8.012630e-03 4.881091e-02 6.964619e-02 6.073741e-02 5.631483e-02 5.570125e-02 1.160106e-01'
)


@experiment(slow=True)
def test_deep_statistics():
    """What do activations, gradients and updates look like after 1,001 steps? The activations are
    alike in every layer; the updates are larger than the guide.
    """
    *_, outputs, matrices, update_ratios = deep_model()
    saturated = [100 * (out.abs() > 0.97).float().mean().item() for out in outputs]
    yield figure('% of tanh beyond 0.97', '2.78 2.56 2.25 1.69 1.88', saturated, 'file')
    grad_std = [out.grad.std().item() for out in outputs]
    yield figure('gradient of the activations, deviation', GRAD_STD, grad_std, 'file')
    grad_ratios = [(p.grad.std() / p.std()).item() for p in matrices]
    yield figure('gradient over data, per matrix', GRAD_RATIOS, grad_ratios, 'file')
    usual = torch.tensor(update_ratios[500:]).median(0).values.tolist()
    # 0.1 is a large rate: it is lowered later, and the ratios fall with it, by 1 for a tenth
    what = 'log10 of update over data, second half, per matrix; -3 is the guide'
    yield answer(what, '-3.1 -2.3 -2.1 -2.2 -2.2 -2.3 -2.0', usual, within=0.1)


def plain_stack(gain, nonlinearity):
    """Five layers of 100 and a head, no norm: the net, a batch, and what each layer gives out."""
    config, dataset = load_data(type='bn-mlp', block_size=3)
    layers = [nn.Embedding(27, 10), nn.Flatten()]
    n_in = 30
    for _ in range(5):
        layers += [nn.Linear(n_in, 100), nonlinearity()]
        n_in = 100
    model = makemore.WindowModel(config, *layers, nn.Linear(100, 27))
    net = model.net
    generator = lecture_generator()
    draw_weights(net, generator)
    for linear in net[2:-1:2]:
        linear.weight.data *= gain
    X, _ = make_windows(model, dataset, 'train')
    X = X[torch.randint(0, len(X), (32,), generator=generator)]
    outputs = [net[:k](X).detach() for k in range(4, 13, 2)]
    return net, X, outputs


@experiment
def test_gains():
    """Without norms, which gain keeps the noise alive through five layers of tanh?"""
    for gain, expected in {0.5: '0.41 0.02', 1: '0.62 0.32'}.items():
        _, _, outputs = plain_stack(gain, nn.Tanh)
        ends = [outputs[i].std().item() for i in (0, -1)]
        yield answer(f'gain {gain}: deviation in the first and the fifth layer', expected, ends)
    for gain, expected in {5 / 3: '20.25 6.12', 3: '47.66 42.41'}.items():
        _, _, outputs = plain_stack(gain, nn.Tanh)
        ends = [100 * (outputs[i].abs() > 0.97).float().mean().item() for i in (0, -1)]
        what = f'gain {gain:.3g}: % beyond 0.97, first and fifth layer'
        yield answer(what, expected, ends, within=0.05)


def train_from(gain, normed):
    """The dev loss of the six layers after 1,001 steps from weights that are too large or small."""
    model, dataset = build_model('bn-mlp', block_size=3, n_layer=6, n_embd=10, n_hidden=100)
    net = replace_norms(model.net)
    generator = lecture_generator()
    draw_weights(net, generator)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data *= gain
    if not normed:
        net = nn.Sequential(*[layer for layer in net if not isinstance(layer, LectureNorm)])
    X, Y = make_windows(model, dataset, 'train')
    train_sgd(net, X, Y, 1001, generator, title=f'gain {gain}')
    return mean_loss(net, *make_windows(model, dataset, 'dev'))


@experiment(slow=True)
def test_sloppy_start():
    """Does a deep net with batch norm still need a careful start? Far less than without it."""
    expected = {0.2: '2.44 3.30', 5: '2.62 2.72'}
    spread = {True: [], False: []}
    for gain, figures in expected.items():
        losses = [train_from(gain, normed) for normed in (True, False)]
        what = f'weights times {gain}: dev after 1,001 steps, with norms and without'
        yield answer(what, figures, losses, within=0.05)
        spread[True].append(losses[0])
        spread[False].append(losses[1])
    with_norms, without = [max(losses) - min(losses) for losses in spread.values()]
    yield claim('with norms the start matters less', with_norms < without / 2, 'video')


@experiment
def test_no_bend():
    """And without tanh? Then gain 1 is right, and five layers can do no more than one."""
    net, X, outputs = plain_stack(1, nn.Identity)
    deviations = [out.std().item() for out in outputs]
    yield answer('gain 1: deviations', '0.99 0.98 1.01 0.97 0.99', deviations, within=0.01)
    # W5 (W4 (W3 (W2 (W1 x)))) = (W5 W4 W3 W2 W1) x
    product = net[2].weight
    for layer in net[4::2]:
        product = layer.weight @ product
    same = torch.allclose(net[:2](X) @ product.T, net(X), atol=1e-5)
    yield claim('one matrix gives the same logits', same, 'video')


# -----------------------------------------------------------------------------
# exercises, and what else the lecture says about batch norm


@experiment(slow=True)
def test_all_zero():
    """Exercise 1: start from zeros everywhere. What learns?"""
    model, dataset = build_model('mlp', block_size=3)
    for p in model.parameters():
        p.data.zero_()
    X, Y = make_windows(model, dataset, 'train')
    losses = train_sgd(model.net, X, Y, 5000, lecture_generator())
    yield answer('first loss', '3.2958', losses[0])
    moved = [p.shape for p in model.parameters() if p.abs().sum() > 0]
    yield finding('only the 27 biases of the last layer have moved', moved == [(27,)])
    [dev] = split_losses(model.net, model, dataset, ('dev',))
    what = 'dev: how often each letter comes is all it knows'
    yield answer(what, '2.8218', dev, within=0.01)
    # the gradient of a matrix is a product with what comes into it or with the matrix behind it,
    # and all of these are 0
    yield conclusion(
        f'Only the last biases: dev falls from {losses[0]:.4f} to {dev:.4f}, the loss of a model '
        'that knows how often each letter comes and nothing of the context.'
    )


@torch.no_grad()
def fold(net):
    """Every norm into the linear layer before it, which does the same and is faster."""
    layers = list(net)
    for linear, norm in itertools.pairwise(net):
        if isinstance(norm, makemore.BatchNorm1d):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            folded = nn.Linear(linear.in_features, linear.out_features)
            folded.weight.data = linear.weight * scale.view(-1, 1)
            folded.bias.data = norm.bias - norm.running_mean.flatten() * scale.flatten()
            layers[layers.index(linear)] = folded
            layers.remove(norm)
    return nn.Sequential(*layers)


@experiment(slow=True)
def test_fold():
    """Exercise 2: once trained, a norm is only a factor and a shift. Can the layer before it
    swallow them?
    """
    model, dataset, *_ = deep_model()
    model.eval()
    X, _ = make_windows(model, dataset, 'dev')
    small = fold(model.net)
    gap = (small(X) - model.net(X)).abs().max().item()
    yield claim('the same logits to 1e-4', gap < 1e-4, 'video')
    yield answer('layers before, after', '24 18', [len(model.net), len(small)])
    yield conclusion(
        f'Yes: {len(model.net)} layers become {len(small)}, and no logit of the dev split moves by '
        f'more than {gap:.0e}.'
    )
    model.train()


@experiment
def test_useless_bias():
    """What does a bias learn in front of a batch norm? Nothing: the norm subtracts it right
    away.
    """
    net, model, dataset, generator = normed_net(bias=True)
    yield answer('parameters with it', '12297', sum(p.numel() for p in net.parameters()))
    X, Y = make_windows(model, dataset, 'train')
    linear = net[2]
    norm = net[3]
    before = linear.bias.clone()
    train_sgd(net, X, Y, 100, generator)
    is_rounding = linear.bias.grad.abs().max() < 1e-7 < norm.bias.grad.abs().max()
    yield claim('its gradient is 0, up to rounding', is_rounding, 'video')
    unmoved = torch.allclose(linear.bias, before, atol=1e-6)
    yield finding('after 100 steps it is where it was', unmoved)


@experiment(slow=True)
def test_coupling():
    """Does an example's output depend on who else is in its batch?"""
    model, dataset, *_ = deep_model()
    model = copy.deepcopy(model)  # training mode changes what it remembers
    X, _ = make_windows(model, dataset, 'dev')
    one_batch = X[:32]
    other_batch = torch.cat([X[:1], X[100:131]])
    same = torch.allclose(model.net(one_batch)[0], model.net(other_batch)[0], atol=1e-2)
    yield claim('in training it does', not same, 'video')
    model.eval()
    same = torch.equal(model.net(one_batch)[0], model.net(other_batch)[0])
    yield claim('in evaluation it does not', same, 'video')


@experiment
def test_torch_has_the_same():
    """Is makemore's norm torch.nn.BatchNorm1d, in training, in evaluation, and in what it
    remembers?
    """
    ours = makemore.BatchNorm1d(10)
    theirs = nn.BatchNorm1d(10)
    x = torch.randn(3, 32, 10, generator=lecture_generator())
    same = [torch.allclose(ours(batch), theirs(batch), atol=1e-5) for batch in x]
    yield finding('three batches in training', all(same))
    same_mean = torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-6)
    same_var = torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)
    # torch remembers the variance over n - 1, though it divides by the one over n
    yield finding('remembered', same_mean and same_var)
    ours.eval()
    theirs.eval()
    yield finding('evaluation', torch.allclose(ours(x[0]), theirs(x[0]), atol=1e-5))


# -----------------------------------------------------------------------------
# the six most common mistakes: for each the wrong number beside the right one


@experiment
def test_mistake_no_single_batch():
    """1. Not to overfit a single batch first: where something is broken, it shows in a second."""
    ends = []
    for bug in (0, 1):  # the bug: all letters of the context have been lost on the way
        model, dataset, _ = start_model('kaiming')
        X, Y = make_windows(model, dataset, 'train')
        X = X[:32] * bug
        Y = Y[:32]
        train_sgd(model.net, X, Y, 1000, lecture_generator())
        ends.append(F.cross_entropy(model.net(X), Y).item())
    what = '32 examples after 1,000 steps: context lost, context there'
    yield answer(what, '2.68 0.26', ends, within=0.05)


@experiment(slow=True)
def test_mistake_no_eval():
    """2. To forget the switch between training and evaluation."""
    model, dataset, *_ = deep_model()
    X, Y = make_windows(model, dataset, 'dev')
    X = X[:3200]
    Y = Y[:3200]
    right = mean_loss(model.net, X, Y)
    net = copy.deepcopy(model.net)  # the wrong way changes what it remembers
    losses = []
    for x, y in zip(X.split(2), Y.split(2), strict=True):
        losses.append(F.cross_entropy(net(x), y).item())
    wrong = sum(losses) / len(losses)
    yield answer('dev in batches of 2: wrong, right', '2.77 2.40', [wrong, right], within=0.02)


@experiment
def test_mistake_no_zero_grad():
    """3. To forget zero_grad: the second gradient has the first in it."""
    model, dataset, _ = start_model('kaiming')
    net = model.net
    X, Y = make_windows(model, dataset, 'train')
    norms = []
    for _ in range(2):
        F.cross_entropy(net(X[:32]), Y[:32]).backward()
        norms.append(net[-1].weight.grad.norm().item())
    what = 'the same batch twice: second norm over the first; right is 1'
    yield answer(what, '2.0', norms[1] / norms[0])


@experiment
def test_mistake_softmax_twice():
    """4. To give probabilities to a loss that wants logits: even the perfect answer is punished."""
    perfect = torch.tensor([[0.0, 50.0, 0.0]])
    target = torch.tensor([1])
    # cross_entropy exponentiates once more, so the largest of three logits is 1 and the others 0
    wrong = F.cross_entropy(perfect.softmax(1), target).item()
    right = F.cross_entropy(perfect, target).item()
    yield answer('loss of the perfect answer: wrong, right', '0.55 0.00', [wrong, right])


@experiment
def test_mistake_bias_before_norm():
    """5. To leave a bias in front of a batch norm: parameters that never learn."""
    sizes = []
    for bias in (True, False):
        net, *_ = normed_net(bias)
        sizes.append(sum(p.numel() for p in net.parameters()))
    yield answer('parameters: wrong, right', '12297 12097', sizes)


@experiment
def test_mistake_view_for_permute():
    """6. To take view for permute: the shape is right, the numbers have changed places."""
    # view reads the same numbers on in rows of another length; permute turns rows into columns
    x = torch.arange(6).view(2, 3)
    what = '[[0, 1, 2], [3, 4, 5]] by view(3, 2)'
    yield answer(what, '[[0, 1], [2, 3], [4, 5]]', str(x.view(3, 2).tolist()))
    yield answer('by permute(1, 0)', '[[0, 3], [1, 4], [2, 5]]', str(x.permute(1, 0).tolist()))


if __name__ == '__main__':
    main()
