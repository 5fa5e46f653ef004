"""Lecture 6: WaveNet.

Squeezing eight letters into one hidden layer at once is rash. Joined two by two, and then two by two again, they make
a tree that sees as far and learns better. Along the way a batch norm is wrong, and nothing complains.
"""
import warnings

from course import (G, answer, build, claim, dataset, descend, draw_weights, experiment, figure, losses_of, main,
                    names, read)

import torch
import torch.nn as nn

import makemore

class LectureNorm(makemore.BatchNorm1d):
    """makemore's norm divides by the variance over n, as torch does; the lecture's by that over n - 1."""
    dims = {2: (0,), 3: (0, 1)}
    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            dims = self.dims[x.ndim]
            mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True)
            with torch.no_grad():
                self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
                self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var
        return self.weight * ((x - mean) / torch.sqrt(var + self.eps)) + self.bias

class FaultyNorm(LectureNorm):
    """What the lecture carried along unnoticed: in (N, T, C) every place T has a mean and a variance of its own."""
    dims = {2: (0,), 3: (0,)}

def with_norm(net, kind=LectureNorm):
    for m in net:
        if isinstance(m, makemore.BatchNorm1d):
            m.__class__ = kind      # the same parameters and buffers, another forward
    return net

def flat(block_size):
    """All letters at once into 200 hidden neurons; the class gives it makemore's windows."""
    cfg, words = read(type='mlp', block_size=block_size)
    layers = nn.Embedding(27, 10), nn.Flatten(), *makemore.hidden(block_size * 10, cfg), nn.Linear(200, 27)
    return makemore.WindowModel(cfg, *layers), words

def tree(n_embd=24, n_hidden=128):
    return build('wavenet', n_embd=n_embd, n_hidden=n_hidden)

def lecture_weights(model, kind=LectureNorm):
    """Everything from torch's global generator, with seed 42; the last layer not so sure of itself."""
    torch.manual_seed(42)
    draw_weights(with_norm(model.net, kind), None)[-1].weight.data *= 0.1
    return model

def trained(model, words, title, kind=LectureNorm):
    """200,000 steps: the number of parameters, the losses of all steps, those on train and dev."""
    net = lecture_weights(model, kind).net
    losses = descend(net, *dataset(model, words, 'train'), 200_000, None, 150_000, title)
    return sum(p.numel() for p in net.parameters()), losses, losses_of(net, model, words)

# ----------------------------------------------------------------------------------------------------------------------
# The tree, and the norm that was wrong in it
@experiment
def test_shapes():
    """What happens to 32 examples of eight letters on their way through the tree?"""
    model, words = tree()
    X, _ = dataset(model, words, 'dev')
    x, shapes = X[:32], []
    for m in model.net:
        x = m(x)
        shapes += [tuple(x.shape)] * isinstance(m, (nn.Embedding, makemore.FlattenConsecutive, nn.Linear))
    yield figure('embedding, then join, multiply, three times, then the head', '(32, 8, 24) (32, 4, 48) (32, 4, 128) '
                 '(32, 2, 256) (32, 2, 128) (32, 256) (32, 128) (32, 27)', ' '.join(map(str, shapes)))

@experiment
def test_examples():
    """What do eight letters of context look like?"""
    model, words = tree()
    X, Y = dataset(model, words, 'train')
    letters = '.' + words.symbols
    lines = [''.join(letters[i] for i in x) + ' --> ' + letters[y] for x, y in zip(X[:20].tolist(), Y[:20].tolist())]
    print('\n'.join(lines))
    yield figure('the first example, and the fourth', '........ --> y, .....yuh --> e',
                 f'{lines[0]}, {lines[3]}')

@experiment
def test_first_losses():
    """Where do the nets of this lecture start?"""
    for title, (model, words), expected in (('8 letters, flat', flat(8), '3.2847'), ('tree', tree(10, 68), '3.3142')):
        X, Y = dataset(model, words, 'train')
        yield answer(title, expected, descend(lecture_weights(model).net, X, Y, 1)[0])

@experiment
def test_norm_in_three_dimensions():
    """What goes wrong if a norm averages over the batch alone, and every example has four places?"""
    x = torch.randn(32, 4, 68, generator=G()) + torch.arange(4)[:, None]      # the places are not alike
    for kind, shape in (FaultyNorm, (1, 4, 68)), (LectureNorm, (1, 1, 68)):
        norm = kind(68)
        out = norm(x)
        yield figure(f'{kind.__name__}: shape of the running mean', str(shape), str(tuple(norm.running_mean.shape)))
    yield claim("makemore's averages over the places too", torch.allclose(makemore.BatchNorm1d(68)(x), out, atol=0.02))
    yield claim('which keeps the places apart', out.mean((0, 2)).diff().min() > 0.5)
    yield claim('where the faulty one makes them alike', FaultyNorm(68)(x).mean((0, 2)).abs().max() < 1e-5)

@experiment
def test_one_example_in_training_mode():
    """What if one forgets evaluation mode and samples? One example has no deviation."""
    model, _ = tree()
    lecture_weights(model)
    one = torch.zeros(1, 8, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')      # torch does say so, once
        yield claim('training mode: not a number', model.net(one).isnan().all())
    with_norm(model.net).eval()
    for norm in model.net:
        if isinstance(norm, LectureNorm):
            norm.running_mean, norm.running_var = torch.zeros(128), torch.ones(128)      # NaN had got in here too
    yield claim('evaluation mode: fine', model.net(one).isfinite().all())

# ----------------------------------------------------------------------------------------------------------------------
# The same net as convolutions
@experiment
def test_convolution():
    """Why is this net called convolutional? Eight windows one by one, or one pass over the whole word: the same."""
    model, words = tree()
    lecture_weights(model, makemore.BatchNorm1d).eval()
    word = torch.tensor([[0] + words.encode('diondre')])
    one_by_one = torch.stack([model.net(window[None])[0] for window in model.windows(word)[0]])
    at_once = model.logits(word)[0]
    yield claim('diondre, letter by letter and at once, to 1e-5', torch.allclose(one_by_one, at_once, atol=1e-5))

@experiment
def test_causal():
    """Does a convolution look ahead? Changing a letter must not change what was said before it."""
    model, words = tree()
    model.eval()
    a, b = (torch.tensor([[0] + words.encode(word)]) for word in ('diondre', 'dionxre'))
    same = (model.logits(a) == model.logits(b)).all(2)[0].tolist()
    yield claim('up to the changed letter bit for bit the same', all(same[:5]))
    yield claim('and behind it not', not any(same[5:]))

# ----------------------------------------------------------------------------------------------------------------------
# The road to 1.99, 200,000 steps each
@experiment(long=True)
def test_three_letters():
    """Where did the last lectures stop?"""
    size, _, losses = trained(*flat(3), '3 letters')
    yield figure('parameters', 12097, size)
    yield figure('3 letters, flat: train, dev', '2.058 / 2.105', losses, within=0.01)

@experiment(long=True)
def test_eight_letters():
    """What do five letters more bring, in the same flat net?"""
    size, _, losses = trained(*flat(8), '8 letters')
    yield figure('parameters', 22097, size)
    yield figure('8 letters, flat: train, dev', '1.918 / 2.027', losses, within=0.01)

@experiment(long=True)
def test_tree_with_the_bug():
    """The same size as a tree, its norms averaging each place by itself: does anybody notice?"""
    size, _, losses = trained(*tree(10, 68), 'tree with the bug', FaultyNorm)
    yield figure('parameters', 22397, size)
    yield figure('tree, norm wrong: train, dev', '1.941 / 2.029', losses, within=0.01)

@experiment(long=True)
def test_right_tree():
    """And with the norm put right?"""
    _, _, losses = trained(*tree(10, 68), 'tree')
    yield figure('tree: train, dev', '1.912 / 2.022', losses, within=0.01)

@experiment(long=True)
def test_large_tree():
    """The lecture's last net: how far does it get, and what are its names?"""
    model, words = tree()
    size, losses, ends = trained(model, words, 'large tree')
    yield figure('parameters', 76579, size)
    yield figure('first loss', '3.3167', losses[0])
    yield figure('large tree: train, dev', '1.7690284252166748 / 1.9936515092849731', ends)
    yield figure('twenty names', 'arlij. chetta. heago. rocklei. hendrix. jamylie. broxin. denish. anslibt. marianah. '
                 'astavia. annayve. aniah. jayce. nodiel. remita. niyelle. jaylene. aiyan. aubreana.',
                 names(model.net, words, 8))

if __name__ == '__main__':
    main()
