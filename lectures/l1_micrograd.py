"""Lecture 1: micrograd.

What a derivative is, how the chain rule carries it backwards through any expression, and that a
neural net is only a large expression. The engine is this project's micrograd.
"""

import itertools
import math
import random

import torch
from course import answer, build_model, claim, conclusion, experiment, figure, finding, main

import makemore
from makemore_extras import backprop
from micrograd import MLP, Neuron, Value, draw_dot, gradcheck, mse, nll, softmax, trace
from micrograd.__main__ import moons_task, replay
from micrograd.boundary import pictures, winner

# -----------------------------------------------------------------------------
# derivatives


def parabola(x):
    return 3 * x**2 - 4 * x + 5


@experiment
def test_one_input():
    """How steep is 3x^2 - 4x + 5?"""
    yield figure('f(3)', '20.0', parabola(3.0), 'file')
    x = 2 / 3
    h = 0.000001
    slope = (parabola(x + h) - parabola(x)) / h
    what = 'slope at 2/3, by a small step: it is flat there'
    # the two values of f agree in 11 digits, so only a few of the difference mean anything
    yield figure(what, '2.999378523327323e-06', slope, 'file', within=1e-9)
    x = Value(2 / 3)
    parabola(x).backward()
    # no step, no error of the step: the derivative itself
    yield answer('slope at 2/3, by micrograd', '0.0', x.grad)


@experiment
def test_several_inputs():
    """And with several inputs: what does each of them do to d = ab + c?"""
    a = 2.0
    b = -3.0
    c = 10.0
    h = 0.0001
    yield figure('d', '4.0', a * b + c, 'file')
    # c is only added, so d moves as far as c does; a is multiplied, so d moves b times as far
    slope_c = (a * b + (c + h) - (a * b + c)) / h
    yield figure('slope towards c', '0.9999999999976694', slope_c, 'file')
    slope_a = ((a + h) * b - a * b) / h
    slope_b = (a * (b + h) - a * b) / h
    yield answer('towards a and b', '-3.00 2.00', [slope_a, slope_b])


def sine(x):
    """An operation that micrograd lacks is a number and its slope."""
    return Value(math.sin(x.data), (x,), 'sin', (math.cos(x.data),))


def exercise(a, b, c, sin=math.sin):
    """The function of the exercise; with sine instead of math.sin it takes Values."""
    return -(a**3) + sin(3 * b) - 1.0 / c + b**2.5 - a**0.5


@experiment
def test_exercise_derivatives():
    """Exercises: three derivatives, with pencil and paper, by steps to one side and to both, and
    by micrograd.
    """
    point = [2.0, 3.0, 4.0]
    h = 1e-6
    inputs = [Value(x) for x in point]
    exercise(*inputs, sine).backward()
    yield figure('f', '6.336362190988558', exercise(*point), 'file')
    gradients = [x.grad for x in inputs]
    expected = '-12.353553390593273 10.25699027111255 0.0625'
    yield figure('derivatives', expected, gradients, 'file')

    one_side = 0.0
    both_sides = 0.0
    for i, gradient in enumerate(gradients):
        right = exercise(*[x + h * (i == j) for j, x in enumerate(point)])
        left = exercise(*[x - h * (i == j) for j, x in enumerate(point)])
        one_side += abs((right - exercise(*point)) / h - gradient)
        both_sides += abs((right - left) / (2 * h) - gradient)
    what = 'a step to both sides is nearer to the truth than one to one side'
    yield claim(what, both_sides < one_side / 100, 'file')
    # to both sides, the errors of second order cancel, and those of third order remain
    yield conclusion(
        f'With steps of {h:g} the three derivatives are off by {one_side:.0e} together if one '
        f'steps to one side, and by {both_sides:.0e} if to both.'
    )


# -----------------------------------------------------------------------------
# the chain rule


def lecture_expression():
    """The four numbers of the lecture, and what it makes of them."""
    a = Value(2.0, label='a')
    b = Value(-3.0, label='b')
    c = Value(10.0, label='c')
    f = Value(-2.0, label='f')
    return a, b, c, f, (a * b + c) * f


@experiment
def test_first_backprop():
    """L = (ab + c) f: what does each number do to L?"""
    *leaves, L = lecture_expression()
    L.backward()
    yield figure('L', '-8.0', L.data, 'file')
    gradients = [v.grad for v in leaves]
    yield figure('gradients of a, b, c, f', '6.0 -4.0 -2.0 4.0', gradients, 'file')
    a, b, c, f = [v.data for v in leaves]
    h = 0.001
    slope_b = ((a * (b + h) + c) * f - (a * b + c) * f) / h
    yield figure('slope of b, by a small step', '-3.9999999999995595', slope_b, 'file')
    check = gradcheck(lambda a, b, c, f: (a * b + c) * f, a, b, c, f)
    yield finding('small steps agree for all four', check.error < 1e-6)
    # along the gradient, so L rises; a loss is to fall, and training steps the other way
    a, b, c, f = [v.data + 0.01 * v.grad for v in leaves]
    yield figure('L after a little step along the gradient', '-7.286496', (a * b + c) * f, 'file')


@experiment
def test_picture():
    """What does the expression look like?"""
    *_, L = lecture_expression()
    L.backward()
    drawing = draw_dot(L)
    print(drawing.source)  # Graphviz reads this; drawing.save('L.svg') does without Graphviz
    n_boxes = drawing.source.count('shape=record')
    n_ovals = drawing.source.count('op [label')
    yield answer('boxes for numbers, ovals for operations', '7 3', [n_boxes, n_ovals])


def neuron(tanh):
    """A neuron with two inputs, and what it gives out."""
    x1 = Value(2.0)
    x2 = Value(0.0)
    w1 = Value(-3.0)
    w2 = Value(1.0)
    bias = Value(6.8813735870195432)
    return (x1, w1, x2, w2), tanh(x1 * w1 + x2 * w2 + bias)


def tanh_of_small_operations(n):
    e = (2 * n).exp()
    return (e - 1) / (e + 1)


@experiment
def test_neuron():
    """A neuron with two inputs: the same gradients, whether tanh is one operation or made of small
    ones?
    """
    ways = {'tanh as one operation': Value.tanh, 'as (e - 1) / (e + 1)': tanh_of_small_operations}
    for title, tanh in ways.items():
        leaves, o = neuron(tanh)
        o.backward()
        # math.tanh and the quotient of exponentials differ in the last bit
        yield figure(f'{title}: output', '0.7071067811865476', o.data, 'file')
        gradients = [v.grad for v in leaves]
        what = f'{title}: gradients of x1, w1, x2, w2'
        yield figure(what, '-1.5 1.0 0.5 0.0', gradients, 'file')


@experiment
def test_neuron_in_torch():
    """The same in PyTorch."""
    numbers = (2.0, 0.0, -3.0, 1.0)
    x1, x2, w1, w2 = [torch.tensor([x]).double().requires_grad_() for x in numbers]
    bias = torch.tensor([6.8813735870195432]).double()  # the lecture's went through float32
    o = torch.tanh(x1 * w1 + x2 * w2 + bias)
    o.backward()
    yield figure('output', '0.7071066904050358', o.item(), 'file')
    expected = '0.5000001283844369, -1.5000003851533106, 1.0000002567688737'
    gradients = [v.grad.item() for v in (x2, x1, w1)]
    yield figure('gradients of x2, x1, w1', expected, gradients, 'file')


@experiment
def test_used_twice():
    """What if a number is used twice? Its gradients have to add up."""
    a = Value(3.0)
    (a + a).backward()
    # an engine that sets gradients instead of adding to them says 1 here
    yield figure('b = a + a: gradient of a', '2.0', a.grad, 'file')
    a = Value(-2.0)
    b = Value(3.0)
    (a * b * (a + b)).backward()
    yield figure('ab (a + b): gradients of a and b', '-3.0 -8.0', [a.grad, b.grad], 'file')


@experiment
def test_order():
    """In which order, and how deep can it go?"""
    x = Value(1.0)
    y = x
    # an engine that calls itself for every node would have stopped at a thousand
    for _ in range(50_000):
        y = y + 0.0
    y.backward()
    yield answer('gradient through 50,000 operations', '1.0', x.grad)


@experiment
def test_readme_expressions():
    """Do the expressions of the original's README and of its test come out?"""
    a = Value(-4.0)
    b = Value(2.0)
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + (b + a).relu()
    d = d + 3 * d + (b - a).relu()
    f = (c - d) ** 2
    g = f / 2.0 + 10.0 / f
    # most operations of the engine, with plain numbers on either side of a Value
    g.backward()
    what = 'README: g and its slopes towards a and b'
    yield figure(what, '24.7041 138.8338 645.5773', [g.data, a.grad, b.grad], 'file')
    # x is used four times, before relu and after it
    x = Value(-4.0)
    z = 2 * x + 2 + x
    q = z.relu() + z * x
    y = (z * z).relu() + q + q * x
    y.backward()
    # the original's test has no numbers of its own: it compares with torch
    yield answer('its test: y and its slope', '-20.0 46.0', [y.data, x.grad])


# -----------------------------------------------------------------------------
# neural nets


@experiment
def test_one_neuron():
    """One neuron with seed 1337, as the original draws it."""
    random.seed(1337)
    n = Neuron(2)
    y = n([Value(1.0), Value(-2.0)])
    y.backward()
    # the original's picture gout.svg shows four digits
    yield figure('weights', '0.2355 0.0665', [w.data for w in n.w], 'file')
    yield figure('output', '0.1024', y.data, 'file')
    yield figure('gradients of the weights', '1.0000 -2.0000', [w.grad for w in n.w], 'file')
    yield answer('weights', '0.23550571390294128 0.0665311472', [w.data for w in n.w])
    yield answer('output', '0.102443419482938', y.data)


# the lecture's four examples: three numbers each, and the answer that is wanted
XS = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
YS = [1.0, -1.0, -1.0, 1.0]


def small_net():
    """The lecture's net of 41 numbers; its start was not seeded."""
    random.seed(1337)
    return MLP(3, [4, 4, 1], act='tanh', out='tanh')


def fit(model, steps, forget=False):
    """The losses of the lecture's loop on its four examples."""
    losses = []
    for _ in range(steps):
        loss = 4 * mse([model(x) for x in XS], YS)  # the lecture adds up, mse takes the mean
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
    yield figure('parameters', '41', len(model.parameters()), 'video')
    losses = fit(model, 20)
    falls = all(b < a for a, b in itertools.pairwise(losses))
    yield claim('it falls in each of 20 steps', falls, 'file')
    fit(model, 180)  # the targets are 1 and -1, which tanh comes near to but never reaches
    gaps = [abs(model(x).data - y) for x, y in zip(XS, YS, strict=True)]
    yield finding('after 200 every answer is within 0.1 of its target', max(gaps) < 0.1)


@experiment
def test_forgotten_zero_grad():
    """The bug of the lecture: what if the gradients are not set to 0?"""
    # nothing complains: each step follows the gradients of all steps so far, added up
    model = small_net()
    fit(model, 1)
    first = [p.grad for p in model.parameters()]
    fit(model, 1, forget=True)
    both = [p.grad for p in model.parameters()]

    # the same two steps, with the gradients set to 0 in between
    right_model = small_net()
    fit(right_model, 2)
    second = [p.grad for p in right_model.parameters()]
    gaps = [abs(a + b - ab) for a, b, ab in zip(first, second, both, strict=True)]
    what = 'the second gradient has the first one in it'
    yield claim(what, max(gaps) < 1e-12, 'video')


@experiment
def test_softmax_exercise():
    """Exercise: softmax and the negative log-likelihood out of Values. Does torch agree?"""
    logits = [Value(x) for x in (0.0, 3.0, -2.0, 1.0)]
    loss = nll(softmax(logits), 3)
    loss.backward()
    yield figure('loss', '2.1755153626167147', loss.data, 'file')
    expected = '0.041772570515350445 0.8390245074625319 0.005653302662216329 -0.8864503806400986'
    yield figure('gradients', expected, [x.grad for x in logits], 'file')

    x = torch.tensor([[v.data for v in logits]], dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(x, torch.tensor([3])).backward()
    gaps = [abs(grad - v.grad) for grad, v in zip(x.grad[0].tolist(), logits, strict=True)]
    yield finding("torch's are the same to 1e-15", max(gaps) < 1e-15)
    yield conclusion(
        f'Yes: its gradients and ours are at most {max(gaps):.0e} apart. Only that of the right '
        f'logit is negative ({logits[3].grad:.2f}): a step raises it and lowers the others.'
    )


MOONS = {
    0: '0.8958441028683222, 50 %',
    1: '1.7235905336972022, 81 %',
    40: '0.06016009895234464, 100 %',
    70: '0.014229870065926908, 100 %',
    99: '0.010978370135492717, 100 %',
}


@experiment
def test_moons():
    """Two moons, 337 parameters, 100 steps: are they told apart?"""
    random.seed(1337)
    rows, model, example, optimizer, schedule = moons_task(1337)
    parameters = model.parameters()

    # weights that are not needed go to 0, and the boundary gets smoother
    def penalty():
        return 1e-4 * sum((p * p for p in parameters), Value(0.0))

    # 100 examples are 100 times the same expression: record it once, then only compute it
    example = trace(example, parameters, rows[0])
    penalty = trace(penalty, parameters)
    targets = [winner(row[2:]) for row in rows]
    seen = {}
    for k in range(100):
        model.zero_grad()
        loss, scores = replay(example, penalty, rows)
        n_right = sum(winner(s) == target for s, target in zip(scores, targets, strict=True))
        seen[k] = [loss, n_right]  # of 100
        optimizer.lr = schedule(k / 100)
        optimizer.step()
    text, _ = pictures(rows, model)
    print(text)
    yield figure('parameters', '337', len(parameters), 'file')
    for k, expected in MOONS.items():
        yield figure(f'step {k}: loss, right', expected, seen[k], 'file')


@experiment
def test_scalars_and_tensors():
    """Are tensors more than a faster way to do the same? A whole mlp of makemore, number by
    number.
    """
    sizes = {'mlp': {'block_size': 3, 'n_hidden': 32, 'dropout': 0.0}, 'bigram': {}}
    for model_type, settings in sizes.items():
        model, dataset = build_model(model_type, **settings)
        config = makemore.resolve_config({'type': model_type, 'batch_size': 8})
        x, y, _ = makemore.get_batch(dataset, config, 0)
        # a Value for each of the numbers that torch keeps in a few tensors
        by_micrograd = backprop.MicrogradLoss(model).backward
        comparison = backprop.compare_gradients(
            model, makemore.backward_autograd, by_micrograd, x, y
        )
        what = f'{model_type}: the same gradient for every parameter'
        yield finding(what, comparison.all_close)


if __name__ == '__main__':
    main()
