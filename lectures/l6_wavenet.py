"""Lecture 6: WaveNet.

Squeezing eight letters into one hidden layer at once is rash. Joined two by two, and then two by
two again, they make a tree that sees as far and learns better. Along the way a batch norm is
wrong, and nothing complains.
"""

import json
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn as nn
from course import (
    ROOT,
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
    sample_names,
    split_losses,
    train_sgd,
)

import makemore


class LectureNorm(makemore.BatchNorm1d):
    """makemore's norm divides by the variance over n, as torch does; the lecture's by that over
    n - 1.
    """

    def dims(self, x):
        return tuple(range(x.ndim - 1))

    def forward(self, x):
        if not self.training:
            return self.normalize(x, self.running_mean, self.running_var)
        mean = x.mean(self.dims(x), keepdim=True)
        var = x.var(self.dims(x), keepdim=True)
        kept = 1 - self.momentum
        with torch.no_grad():
            self.running_mean = kept * self.running_mean + self.momentum * mean
            self.running_var = kept * self.running_var + self.momentum * var
        return self.normalize(x, mean, var)

    def normalize(self, x, mean, var):
        return self.weight * ((x - mean) / torch.sqrt(var + self.eps)) + self.bias


class FaultyNorm(LectureNorm):
    """What the lecture carried along unnoticed: in (N, T, C) every place T has a mean and a
    variance of its own.
    """

    def dims(self, x):
        return (0,)


def replace_norms(net, norm_class=LectureNorm):
    """The net, with each of its norms replaced by another that has the same parameters."""
    for i, layer in enumerate(list(net)):
        if isinstance(layer, makemore.BatchNorm1d):
            net[i] = norm_class(len(layer.bias))
            net[i].load_state_dict(layer.state_dict())
    return net


def flat_model(block_size):
    """All letters at once into 200 hidden neurons; the class gives it makemore's windows."""
    config, dataset = load_data(type='mlp', block_size=block_size)
    model = makemore.WindowModel(
        config,
        nn.Embedding(27, 10),
        nn.Flatten(),
        *makemore.hidden_layer(block_size * 10, config),
        nn.Linear(200, 27),
    )
    return model, dataset


def tree_model(n_embd=24, n_hidden=128):
    return build_model('wavenet', n_embd=n_embd, n_hidden=n_hidden)


def draw_seeded_weights(model, norm_class=LectureNorm):
    """Everything from torch's global generator, with seed 42; the last layer not so sure of
    itself.
    """
    torch.manual_seed(42)
    net = draw_weights(replace_norms(model.net, norm_class), None)
    net[-1].weight.data *= 0.1
    return model


def train_long(model, dataset, title, norm_class=LectureNorm):
    """200,000 steps: the number of parameters, the losses of all steps, those on train and dev."""
    net = draw_seeded_weights(model, norm_class).net
    X, Y = make_windows(model, dataset, 'train')
    losses = train_sgd(net, X, Y, 200_000, drop_at=150_000, title=title)
    return sum(p.numel() for p in net.parameters()), losses, split_losses(net, model, dataset)


# -----------------------------------------------------------------------------
# the tree, and the norm that was wrong in it

SHAPES = (
    '(32, 8, 24) (32, 4, 48) (32, 4, 128) (32, 2, 256) (32, 2, 128) (32, 256) (32, 128) (32, 27)'
)


@experiment
def test_shapes():
    """What happens to 32 examples of eight letters on their way through the tree?"""
    model, dataset = tree_model()
    X, _ = make_windows(model, dataset, 'dev')
    x = X[:32]
    shapes = []
    for layer in model.net:
        x = layer(x)  # a linear layer takes any number of dimensions and multiplies the last one
        if isinstance(layer, (nn.Embedding, makemore.FlattenConsecutive, nn.Linear)):
            shapes.append(str(tuple(x.shape)))
    what = 'embedding, then join, multiply, three times, then the head'
    yield answer(what, SHAPES, ' '.join(shapes))


@experiment
def test_examples():
    """What do eight letters of context look like?"""
    model, dataset = tree_model()
    X, Y = make_windows(model, dataset, 'train')
    letters = '.' + dataset.chars
    lines = []
    for x, y in zip(X[:20].tolist(), Y[:20].tolist(), strict=True):
        context = ''.join(letters[token] for token in x)
        lines.append(f'{context} --> {letters[y]}')
    print('\n'.join(lines))
    seen = f'{lines[0]}, {lines[3]}'
    expected = '........ --> y, .....yuh --> e'
    yield figure('the first example, and the fourth', expected, seen, 'file')


@experiment
def test_first_losses():
    """Where do the nets of this lecture start?"""
    nets = {'8 letters, flat': (flat_model(8), '3.2847'), 'tree': (tree_model(10, 68), '3.3142')}
    for title, ((model, dataset), expected) in nets.items():
        X, Y = make_windows(model, dataset, 'train')
        [loss] = train_sgd(draw_seeded_weights(model).net, X, Y, 1)
        yield answer(title, expected, loss)


@experiment
def test_norm_in_three_dimensions():
    """What goes wrong if a norm averages over the batch alone, and every example has four
    places?
    """
    x = torch.randn(32, 4, 68, generator=lecture_generator())
    x = x + torch.arange(4)[:, None]  # the places are not alike
    faulty = FaultyNorm(68)
    right = LectureNorm(68)
    faulty_out = faulty(x)
    out = right(x)
    what = 'shape of the running mean'
    shape = str(tuple(faulty.running_mean.shape))
    yield figure(f'FaultyNorm: {what}', '(1, 4, 68)', shape, 'video')
    shape = str(tuple(right.running_mean.shape))
    yield figure(f'LectureNorm: {what}', '(1, 1, 68)', shape, 'video')
    same = torch.allclose(makemore.BatchNorm1d(68)(x), out, atol=0.02)
    yield finding("makemore's averages over the places too", same)
    yield finding('which keeps the places apart', out.mean((0, 2)).diff().min() > 0.5)
    means = faulty_out.mean((0, 2))
    yield finding('where the faulty one makes them alike', means.abs().max() < 1e-5)


@experiment
def test_one_example_in_training_mode():
    """What if one forgets evaluation mode and samples? One example has no deviation."""
    model, _ = tree_model()
    net = draw_seeded_weights(model).net
    one = torch.zeros(1, 8, dtype=torch.int64)
    # over n - 1 = 0 the variance of one example is 0 / 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch does say so, once
        yield claim('training mode: not a number', net(one).isnan().all(), 'video')
    net.eval()
    for norm in net:
        if isinstance(norm, LectureNorm):  # NaN had got in here too
            norm.running_mean = torch.zeros(128)
            norm.running_var = torch.ones(128)
    yield finding('evaluation mode: fine', net(one).isfinite().all())


# -----------------------------------------------------------------------------
# the same net as convolutions


@experiment
def test_convolution():
    """Why is this net called convolutional? Eight windows one by one, or one pass over the whole
    word: the same.
    """
    model, dataset = tree_model()
    draw_seeded_weights(model, makemore.BatchNorm1d).eval()
    idx = torch.tensor([[0, *dataset.encode('diondre')]])
    [windows] = model.windows(idx)
    one_by_one = torch.cat([model.net(window[None]) for window in windows])
    [at_once] = model.logits(idx)
    same = torch.allclose(one_by_one, at_once, atol=1e-5)
    # the lecture says it in its last cells: a convolution is this loop, done inside the layers
    yield claim('diondre, letter by letter and at once, to 1e-5', same, 'file')


@experiment
def test_causal():
    """Does a convolution look ahead? Changing a letter must not change what was said before it."""
    model, dataset = tree_model()
    model.eval()
    a = model.logits(torch.tensor([[0, *dataset.encode('diondre')]]))
    b = model.logits(torch.tensor([[0, *dataset.encode('dionxre')]]))
    same = (a == b).all(2)[0].tolist()
    yield finding('up to the changed letter bit for bit the same', all(same[:5]))
    yield finding('and behind it not', not any(same[5:]))


# -----------------------------------------------------------------------------
# the road to 1.99, 200,000 steps each


@experiment(long=True)
def test_three_letters():
    """Where did the last lectures stop?"""
    size, _, losses = train_long(*flat_model(3), '3 letters')
    yield figure('parameters', '12K', size / 1000, 'file')
    yield figure('3 letters, flat: train, dev', '2.058 / 2.105', losses, 'file', within=0.01)


@experiment(long=True)
def test_eight_letters():
    """What do five letters more bring, in the same flat net?"""
    size, _, losses = train_long(*flat_model(8), '8 letters')
    yield figure('parameters', '22K', size / 1000, 'file')
    yield answer('parameters', 22097, size)
    yield figure('8 letters, flat: train, dev', '1.918 / 2.027', losses, 'file', within=0.01)


@experiment(long=True)
def test_tree_with_the_bug():
    """The same size as a tree, its norms averaging each place by itself: does anybody notice?"""
    size, _, losses = train_long(*tree_model(10, 68), 'tree with the bug', FaultyNorm)
    yield figure('parameters', '22K', size / 1000, 'file')
    yield answer('parameters', 22397, size)
    yield figure('tree, norm wrong: train, dev', '1.941 / 2.029', losses, 'file', within=0.01)


@experiment(long=True)
def test_right_tree():
    """And with the norm put right?"""
    _, _, losses = train_long(*tree_model(10, 68), 'tree')
    yield figure('tree: train, dev', '1.912 / 2.022', losses, 'file', within=0.01)


NAMES = (
    'arlij. chetta. heago. rocklei. hendrix. jamylie. broxin. denish. anslibt. marianah. '
    'astavia. annayve. aniah. jayce. nodiel. remita. niyelle. jaylene. aiyan. aubreana.'
)


@experiment(long=True)
def test_large_tree():
    """The lecture's last net: how far does it get, and what are its names?"""
    model, dataset = tree_model()
    size, losses, ends = train_long(model, dataset, 'large tree')
    yield figure('parameters', 76579, size, 'file')
    yield figure('first loss', '3.3167', losses[0], 'file')
    expected = '1.7690284252166748 / 1.9936515092849731'
    yield figure('large tree: train, dev', expected, ends, 'file')
    yield figure('twenty names', NAMES, sample_names(model.net, dataset, 8), 'file')


@experiment(long=True)
def test_beat_the_wavenet():
    """The challenge at the end: can 1.993 on dev be beaten?"""
    losses = {}
    for model_type, expected in {'wavenet': '1.97', 'gru': '1.97'}.items():
        with tempfile.TemporaryDirectory() as folder:
            flags = ['--type', model_type, '--split', 'lecture', '--sample-interval', 'none']
            makemore.main(['-i', str(ROOT / 'names.txt'), '-o', folder, *flags])
            result = json.loads(Path(folder, 'result.json').read_text(encoding='utf-8'))
        losses[model_type] = result['dev']
        what = f"makemore's {model_type} with its own settings: dev"
        yield answer(what, expected, result['dev'], within=0.02)
    yield conclusion(
        f'Yes: the same tree with dropout, AdamW and a cosine schedule has '
        f'{losses["wavenet"]:.4f}, and the gru, which has no window, {losses["gru"]:.4f}.'
    )


if __name__ == '__main__':
    main()
