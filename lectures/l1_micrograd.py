"""Lecture 1: micrograd.

What a derivative is, how the chain rule carries it backwards through any expression, and that a neural net is only a
large expression. The engine is this project's micrograd.
"""
import math
import random

from course import answer, build, claim, experiment, figure, main

import torch

import makemore
from inside import ByMicrograd, compare

from micrograd import MLP, Neuron, Value, draw_dot, gradcheck, nll, softmax, trace
from micrograd.__main__ import moons_task, pictures, replay, winner
from micrograd.losses import mse

# ----------------------------------------------------------------------------------------------------------------------
# Derivatives
def parabola(x):
    return 3 * x**2 - 4 * x + 5

@experiment
def test_one_input():
    """How steep is 3x^2 - 4x + 5?"""
    yield figure('f(3)', '20.0', parabola(3.0))
    x, h = 2 / 3, 0.000001
    slope = (parabola(x + h) - parabola(x)) / h
    yield figure('slope at 2/3, by a small step: it is flat there', '2.999378523327323e-06', slope, within=1e-9)
    x = Value(2 / 3)
    parabola(x).backward()
    yield answer("slope at 2/3, by micrograd", '0.0', x.grad)

@experiment
def test_several_inputs():
    """And with several inputs: what does each of them do to d = ab + c?"""
    a, b, c, h = 2.0, -3.0, 10.0, 0.0001
    yield figure('d', '4.0', a * b + c)
    yield figure('slope towards c', '0.9999999999976694', (a * b + (c + h) - (a * b + c)) / h)
    yield answer('towards a and b', '-3.00 2.00', [((a + h) * b - a * b) / h, (a * (b + h) - a * b) / h])

@experiment
def test_exercise_derivatives():
    """Exercises: three derivatives, with pencil and paper, by steps to one side and to both, and by micrograd."""
    def f(a, b, c, sin=math.sin):
        return -a**3 + sin(3 * b) - 1.0 / c + b**2.5 - a**0.5
    def sine(x):      # an operation that micrograd lacks is a number and its slope
        return Value(math.sin(x.data), (x,), 'sin', '', (math.cos(x.data),))
    at, h = (2.0, 3.0, 4.0), 1e-6
    a, b, c = map(Value, at)
    f(a, b, c, sine).backward()
    yield figure('f', '6.336362190988558', f(*at))
    yield figure('derivatives', '-12.353553390593273 10.25699027111255 0.0625', [a.grad, b.grad, c.grad])
    def moved(i, step):
        return f(*(x + step * (i == j) for j, x in enumerate(at)))
    one = [abs((moved(i, h) - f(*at)) / h - x.grad) for i, x in enumerate((a, b, c))]
    both = [abs((moved(i, h) - moved(i, -h)) / (2 * h) - x.grad) for i, x in enumerate((a, b, c))]
    yield claim('a step to both sides is nearer to the truth than one to one side', sum(both) < sum(one) / 100)

# ----------------------------------------------------------------------------------------------------------------------
# The chain rule
def lecture_expression():
    a, b, c, f = (Value(x, label=label) for x, label in ((2.0, 'a'), (-3.0, 'b'), (10.0, 'c'), (-2.0, 'f')))
    return a, b, c, f, (a * b + c) * f

@experiment
def test_first_backprop():
    """L = (ab + c) f: what does each number do to L?"""
    *leaves, L = lecture_expression()
    L.backward()
    yield figure('L', '-8.0', L.data)
    yield figure('gradients of a, b, c, f', '6.0 -4.0 -2.0 4.0', [v.grad for v in leaves])
    check = gradcheck(lambda a, b, c, f: (a * b + c) * f, *(v.data for v in leaves))
    yield claim('small steps agree', check.error < 1e-6)
    moved = [v.data + 0.01 * v.grad for v in leaves]
    yield figure('L after a little step along the gradient', '-7.286496', (moved[0] * moved[1] + moved[2]) * moved[3])

@experiment
def test_picture():
    """What does the expression look like?"""
    *_, L = lecture_expression()
    L.backward()
    drawing = draw_dot(L)
    print(drawing.source)
    yield figure('boxes for numbers, ovals for operations', '7 3', [drawing.source.count('shape=record'),
                                                                  drawing.source.count('op [label')])

def neuron(tanh):
    x1, x2, w1, w2 = map(Value, (2.0, 0.0, -3.0, 1.0))
    o = tanh(x1 * w1 + x2 * w2 + Value(6.8813735870195432))
    return (x1, w1, x2, w2), o

def broken_up(n):
    e = (2 * n).exp()
    return (e - 1) / (e + 1)

@experiment
def test_neuron():
    """A neuron with two inputs: the same gradients, whether tanh is one operation or made of small ones?"""
    for title, tanh in ('tanh as one operation', Value.tanh), ('as (e - 1) / (e + 1)', broken_up):
        leaves, o = neuron(tanh)
        o.backward()
        yield figure(f'{title}: output', '0.7071067811865476', o.data)
        yield figure(f'{title}: gradients of x1, w1, x2, w2', '-1.5 1.0 0.5 0.0', [v.grad for v in leaves])

@experiment
def test_neuron_in_torch():
    """The same in PyTorch."""
    x1, x2, w1, w2 = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (2.0, 0.0, -3.0, 1.0))
    bias = torch.tensor([6.8813735870195432]).double()      # the lecture's went through single precision
    o = torch.tanh(x1 * w1 + x2 * w2 + bias)
    o.backward()
    yield figure('output', '0.7071066904050358', o.item())
    yield figure('gradients of x2, x1, w1', '0.5000001283844369, -1.5000003851533106, 1.0000002567688737',
                 [x2.grad.item(), x1.grad.item(), w1.grad.item()])

@experiment
def test_used_twice():
    """What if a number is used twice? Its gradients have to add up."""
    a = Value(3.0)
    (a + a).backward()
    yield figure('b = a + a: gradient of a', '2.0', a.grad)
    a, b = Value(-2.0), Value(3.0)
    (a * b * (a + b)).backward()
    yield figure('ab (a + b): gradients of a and b', '-3.0 -8.0', [a.grad, b.grad])

@experiment
def test_order():
    """In which order, and how deep can it go?"""
    x = Value(1.0)
    y = x
    for _ in range(50_000):      # an engine that calls itself for every node would have stopped at a thousand
        y = y + 0.0
    y.backward()
    yield answer('gradient through 50,000 operations', '1.0', x.grad)

@experiment
def test_readme_expressions():
    """Do the expressions of the original's README and of its test come out?"""
    a, b = Value(-4.0), Value(2.0)
    c, d = a + b, a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    f = (c - d)**2
    g = f / 2.0 + 10.0 / f
    g.backward()
    yield figure('README: g and its slopes towards a and b', '24.7041 138.8338 645.5773', [g.data, a.grad, b.grad])
    x = Value(-4.0)
    z = 2 * x + 2 + x
    q = z.relu() + z * x
    y = (z * z).relu() + q + q * x
    y.backward()
    yield figure('sanity check: y and its slope', '-20.0 46.0', [y.data, x.grad])

# ----------------------------------------------------------------------------------------------------------------------
# Neural nets
@experiment
def test_one_neuron():
    """One neuron with seed 1337, as the original draws it."""
    random.seed(1337)
    n, x = Neuron(2), [Value(1.0), Value(-2.0)]
    y = n(x)
    y.backward()
    yield figure('weights', '0.23550571390294128 0.0665311472', [w.data for w in n.w])
    yield figure('output', '0.102443419482938', y.data)
    yield figure('gradients of the weights', '1.0 -2.0', [w.grad for w in n.w])

XS = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
YS = [1.0, -1.0, -1.0, 1.0]

def small_net():
    """The lecture's net of 41 numbers; its start was not seeded."""
    random.seed(1337)
    return MLP(3, [4, 4, 1], act='tanh', out='tanh')

def fit(model, steps, forget=False):
    """The lecture's loop on its four examples; the losses."""
    losses = []
    for _ in range(steps):
        loss = 4 * mse([model(x) for x in XS], YS)      # the lecture adds up, mse takes the mean
        if not forget:
            model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.1 * p.grad
        losses.append(loss.data)
    return losses

@experiment
def test_four_examples():
    """Forward, backward, update: does the loss fall every time?"""
    model = small_net()
    yield figure('parameters', '41', len(model.parameters()))
    losses = fit(model, 20)
    yield claim('it falls in each of 20 steps', all(b < a for a, b in zip(losses, losses[1:])))
    fit(model, 180)
    gaps = [abs(model(x).data - y) for x, y in zip(XS, YS)]
    yield claim('after 200 every answer is within 0.1 of its target', max(gaps) < 0.1)

@experiment
def test_forgotten_zero_grad():
    """The bug of the lecture: what if the gradients are not set to 0?"""
    model = small_net()
    fit(model, 1)
    once = [p.grad for p in model.parameters()]
    fit(model, 1, forget=True)
    again = small_net()
    fit(again, 1)
    fit(again, 1)
    sums = [old + new.grad for old, new in zip(once, again.parameters())]
    yield claim('the second gradient has the first one in it',
                all(math.isclose(p.grad, total, abs_tol=1e-12) for p, total in zip(model.parameters(), sums)))

@experiment
def test_softmax_exercise():
    """Exercise: softmax and the negative log-likelihood out of Values. Does torch agree?"""
    logits = [Value(x) for x in (0.0, 3.0, -2.0, 1.0)]
    loss = nll(softmax(logits), 3)
    loss.backward()
    yield figure('loss', '2.1755153626167147', loss.data)
    yield figure('gradients', '0.0417725705 0.8390245075 0.0056533027 -0.8864503806', [x.grad for x in logits])
    x = torch.tensor([[v.data for v in logits]], dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(x, torch.tensor([3])).backward()
    gaps = [abs(grad - v.grad) for grad, v in zip(x.grad[0].tolist(), logits)]
    yield claim("torch's are the same to 1e-15", max(gaps) < 1e-15)

@experiment
def test_moons():
    """Two moons, 337 parameters, 100 steps: are they told apart?"""
    random.seed(1337)
    rows, model, example, optimizer, schedule = moons_task(1337)
    def penalty():
        return 1e-4 * sum((p * p for p in model.parameters()), Value(0.0))
    example, penalty, seen = trace(example, model.parameters(), rows[0]), trace(penalty, model.parameters()), {}
    for k in range(100):
        model.zero_grad()
        loss, scores = replay(example, penalty, rows)
        seen[k] = [loss, sum(winner(s) == winner(row[2:]) for s, row in zip(scores, rows))]
        optimizer.lr = schedule(k / 100)
        optimizer.step()
    print(pictures(rows, model)[0])
    yield figure('parameters', '337', len(model.parameters()))
    for k, expected in {0: '0.8958441028683222, 50 %', 1: '1.7235905336972022, 81 %', 40: '0.0601600989523446, 100 %',
                        70: '0.01422987, 100 %', 99: '0.010978370135492717, 100 %'}.items():
        yield figure(f'step {k}: loss, right', expected, seen[k])

@experiment
def test_scalars_and_tensors():
    """Are tensors more than a faster way to do the same? A whole mlp of makemore, number by number."""
    for kind, sizes in ('mlp', dict(block_size=3, n_hidden=32, dropout=0.0)), ('bigram', {}):
        model, words = build(kind, **sizes)
        x, y, _ = makemore.batch(words, makemore.settle(dict(type=kind, batch_size=8)), 0)
        yield claim(f'{kind}: the same gradient for every parameter',
                    compare(model, [makemore.by_autograd, ByMicrograd(model)], x, y))

if __name__ == '__main__':
    main()
