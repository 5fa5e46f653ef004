"""micrograd against the lecture's figures, torch, central differences, and every trap the original is known for."""
import ast
import copy
import gc
import importlib.util
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from micrograd import (MLP, SGD, Adam, Layer, Neuron, Value, cross_entropy, dot, draw_dot, gradcheck,  # noqa: E402
                       logsumexp, max_margin, mse, nll, softmax, trace)
from micrograd.data import moons, spiral  # noqa: E402
from micrograd.engine import topological  # noqa: E402

needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason="torch is not installed")
needs_numpy = pytest.mark.skipif(importlib.util.find_spec('numpy') is None, reason="numpy is not installed")


def close(a, b, tol=1e-12):
    return abs(a - b) <= tol * max(1.0, abs(b)) or (math.isnan(a) and math.isnan(b)) or a == b


# --------------------------------------------------------------------------------
# what the demo notebook of karpathy/micrograd printed: 100 losses, 100 accuracies

NOTEBOOK_LOSSES = [float(x) for x in """
    0.8958441028683222 1.7235905336972022 0.7429006313851131 0.7705641260584198 0.3692793385976538
    0.313545481918522 0.2814234349772435 0.26888733313983904 0.2567147286057417 0.2704862551637922
    0.24507023853658053 0.2509905529791503 0.21560951851922952 0.23090378446402726 0.20152151227899445
    0.22574506279282217 0.19447987596204114 0.21089496199246363 0.159830773563036 0.1845374874688392
    0.18977522856087634 0.19072704042579647 0.11733695088756485 0.12173524408232454 0.1261571261277045
    0.16049097780801674 0.18747197705245805 0.16741837891059408 0.09586583491455399 0.0877878370742091
    0.11731297569011848 0.09340146460619836 0.12454454903103446 0.07984002652777272 0.07727519232921673
    0.07661250143094483 0.10610492379198365 0.09062808429265976 0.10671887043036932 0.05225659921975849
    0.06016009895234464 0.08596724533333942 0.051121079431796 0.052401424016428284 0.045306841790015734
    0.07211073370655095 0.03334238651310234 0.03143222795751122 0.03658536747111507 0.04829139382390309
    0.09875114765619622 0.05449063965875453 0.03392679435708309 0.05261517263568441 0.03250295251424923
    0.02888327387207822 0.04139151104027239 0.018987407426128502 0.0252383352388374 0.02079656521341895
    0.0325971115781023 0.017863351693480307 0.023008717832211683 0.022079325463581503 0.029432917853529684
    0.01625151464409193 0.02846853448326446 0.013994365546208731 0.015552344843651405 0.0338911994616017
    0.014229870065926908 0.013255281583285504 0.012300277590022063 0.012676052498355976 0.020593811955954763
    0.011845398205364453 0.016012697472883086 0.025458360239222128 0.014382930289661911 0.011698962425817985
    0.012318500800515763 0.014121117031464233 0.011664591962446225 0.011589314549188726 0.010990299347735226
    0.01098922672069161 0.010988193757655071 0.010987200447388707 0.010986246779084925 0.010985332742365272
    0.010984458327280174 0.010983623524308862 0.010982828324359073 0.010982072718767003 0.010981356699297042
    0.010980680258141723 0.010980043387921506 0.010979446081684675 0.010978888332907229 0.010978370135492717
""".split()]
NOTEBOOK_PERCENT = [int(x) for x in """
    50 81 77 82 84 86 89 91 91 91 91 92 91 93 92 93 92 93 94 93 91 93 97 95 95 95 92 95 97 96 95 97 95 97 97 98 96
    99 95 98 100 96 99 97 100 97 99 100 99 99 96 99 100 97 99 100 98 100 100 100 99 100 100 100 99 100 99 100 100
    99 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100 100
    100 100 100
""".split()]

# --------------------------------------------------------------------------------
# the lecture


def test_the_readme_expression():
    a, b = Value(-4.0), Value(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    assert (f'{g:.4f}', f'{a.grad:.4f}', f'{b.grad:.4f}') == ('24.7041', '138.8338', '645.5773')
    assert close(g.data, 24.70408163265306) and close(a.grad, 138.83381924198252) and close(b.grad, 645.5772594752186)


def test_the_sanity_check_of_the_original():
    x = Value(-4.0)
    z = 2*x + 2 + x
    q = z.relu() + z*x
    y = (z * z).relu() + q + q*x
    y.backward()
    assert (y.data, x.grad) == (-20.0, 46.0)


def test_the_first_manual_backprop():
    a, b, c, f = Value(2.0), Value(-3.0), Value(10.0), Value(-2.0)
    L = (a*b + c) * f
    L.backward()
    assert L.data == -8.0 and [v.grad for v in (a, b, c, f)] == [6.0, -4.0, -2.0, 4.0]
    for v in (a, b, c, f):
        v.data += 0.01 * v.grad
    assert close(((a*b + c) * f).data, -7.286496)


def lecture_neuron():
    x1, x2, w1, w2, b = Value(2.0), Value(0.0), Value(-3.0), Value(1.0), Value(6.8813735870195432)
    return (x1, w1, x2, w2), x1*w1 + x2*w2 + b


@pytest.mark.parametrize('squash', ['tanh', 'exp', 'broken up'])
def test_the_neuron_and_its_tanh_broken_up(squash):
    leaves, n = lecture_neuron()
    if squash == 'tanh':
        o = n.tanh()
    elif squash == 'exp':
        o = ((2*n).exp() - 1) / ((2*n).exp() + 1)
    else:  # e is used twice: the video's first exp overwrote its gradient instead of adding to it
        e = (2*n).exp()
        o = (e - 1) / (e + 1)
        assert o.data == 0.7071067811865476  # the lecture's digits; math.tanh ends in 7
    o.backward()
    assert f'{o:.4f}' == '0.7071'
    assert all(close(v.grad, g, 1e-14) for v, g in zip(leaves, (-1.5, 1.0, 0.5, 0.0)))


def test_backprop_by_hand_is_backward():
    leaves, n = lecture_neuron()
    o = n.tanh()
    o.grad = 1.0
    for v in (o, n, n._prev[0], *n._prev[0]._prev, leaves[0]):  # a leaf's step does nothing, and may be taken
        v._backward()
    by_hand = [v.grad for v in leaves]
    for v in leaves:
        v.grad = 0.0
    o.backward()
    assert by_hand == [v.grad for v in leaves]


def test_the_exercises_of_the_video():
    a, b, c = Value(2.0), Value(3.0), Value(4.0)
    sin3b = Value(math.sin(3 * b.data), (b,), 'sin3', '', (3 * math.cos(3 * b.data),))  # an operation of one's own
    f = -a**3 + sin3b - 1.0/c + b**2.5 - a**0.5
    f.backward()
    assert close(f.data, 6.336362190988558)
    answers = (-12.353553390593273, 10.25699027111255, 0.0625)
    assert all(close(v.grad, g) for v, g in zip((a, b, c), answers))


def test_softmax_and_nll_of_the_video():
    answers = (0.041772570515350445, 0.8390245074625319, 0.005653302662216329, -0.8864503806400986)
    for loss_of in (lambda xs: nll(softmax(xs), 3), lambda xs: nll(softmax(xs), [0, 0, 0, 1]),
                    lambda xs: cross_entropy(xs, 3), lambda xs: cross_entropy(xs, [0, 0, 0, 1]),
                    lambda xs: -(xs[3].exp() / sum(x.exp() for x in xs)).log()):
        logits = [Value(x) for x in (0.0, 3.0, -2.0, 1.0)]
        loss = loss_of(logits)
        loss.backward()
        assert close(loss.data, 2.1755153626167147)
        assert all(close(v.grad, g) for v, g in zip(logits, answers))


def test_same_seed_same_weights_as_the_original():
    random.seed(1337)
    n = Neuron(2)
    x = [Value(1.0), Value(-2.0)]
    y = n(x)
    y.backward()
    assert [w.data for w in n.w] == [0.23550571390294128, 0.06653114721000164]
    assert close(y.data, 0.102443419482938) and [v.grad for v in x] == [w.data for w in n.w]
    assert [w.grad for w in n.w] == [1.0, -2.0]


def test_reprs_and_counts_are_those_of_the_original():
    assert repr(Value(-4.0)) == 'Value(data=-4.0, grad=0.0)'
    assert repr(MLP(2, [2, 1])) == 'MLP of [Layer of [ReLUNeuron(2), ReLUNeuron(2)], Layer of [LinearNeuron(2)]]'
    assert repr(Layer(1, 1, 'tanh')) == 'Layer of [TanhNeuron(1)]' and repr(Neuron(3, 'sigmoid')) == 'SigmoidNeuron(3)'
    assert len(MLP(3, [4, 4, 1]).parameters()) == 41 and len(MLP(2, [16, 16, 1]).parameters()) == 337


def test_the_four_examples_are_learned_and_the_loss_falls_every_time():
    random.seed(1)
    model = MLP(3, [4, 4, 1], act='tanh', out='tanh')
    xs = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
    ys, losses = [1.0, -1.0, -1.0, 1.0], []
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(200):
        loss = sum((model(x) - y)**2 for x, y in zip(xs, ys))
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.data)
    assert losses == sorted(losses, reverse=True)
    assert all(abs(model(x).data - y) < 0.05 for x, y in zip(xs, ys))


def test_forgetting_zero_grad_adds_the_steps_up():
    model = Neuron(2)
    for _ in range(2):
        model([1.0, 2.0]).backward()
    twice = model.b.grad
    model.zero_grad()
    model([1.0, 2.0]).backward()
    assert twice == 2 * model.b.grad


# --------------------------------------------------------------------------------
# the moons demo


def notebook_step(model, rows):
    """The notebook's own words: Value inputs, sum(), 1 + -yi*scorei."""
    scores = [model([Value(x), Value(y)]) for x, y, _ in rows]
    losses = [(1 + -t*s).relu() for (_, _, t), s in zip(rows, scores)]
    loss = sum(losses) * (1.0 / len(losses)) + 1e-4 * sum((p*p for p in model.parameters()))
    model.zero_grad()
    loss.backward()
    return loss.data, sum((t > 0) == (s.data > 0) for (_, _, t), s in zip(rows, scores))


def test_all_hundred_losses_of_the_notebook():
    random.seed(1337)
    rows, model = moons(), MLP(2, [16, 16, 1])
    for k in range(100):
        loss, right = notebook_step(model, rows)
        assert close(loss, NOTEBOOK_LOSSES[k]) and right == NOTEBOOK_PERCENT[k], k
        for p in model.parameters():
            p.data -= (1.0 - 0.9*k/100) * p.grad


@needs_numpy
def test_moons_are_numpys():
    """Six lines of numpy, as scikit-learn's make_moons draws them."""
    import numpy as np
    np.random.seed(7)
    t = np.linspace(0, np.pi, 30)
    points = np.concatenate([np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), 0.5 - np.sin(t)]])
    order = np.arange(60)
    np.random.shuffle(order)
    points = points[order] + np.random.normal(scale=0.2, size=(60, 2))
    for (x, y, target), point, i in zip(moons(60, 0.2, seed=7), points, order):
        assert close(x, point[0], 1e-14) and close(y, point[1], 1e-14) and target == (1.0 if i >= 30 else -1.0)


def test_spiral_has_three_arms():
    rows = spiral(30)
    assert [row[2:].index(1.0) for row in rows] == [0, 1, 2] * 10 and all(sum(row[2:]) == 1.0 for row in rows)


def demo(*args, cwd, env=None, **kwargs):
    return subprocess.run([sys.executable, '-m', 'micrograd', *args], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT), **(env or {})}, **kwargs)


@pytest.mark.parametrize('flags', [[], ['--traced']])
def test_the_demo_prints_the_notebook(tmp_path, flags):
    result = demo(*flags, cwd=tmp_path)
    lines = result.stdout.splitlines()
    for k, line in enumerate(lines[:100]):
        words = line.replace(',', '').split()
        assert words[:3] == ['step', str(k), 'loss'] and words[5] == f'{NOTEBOOK_PERCENT[k]}.0%'
        assert close(float(words[3]), NOTEBOOK_LOSSES[k])
    assert len(lines) == 124 and {'o', 'x', '.', ' '} == set(''.join(lines[100:]))
    svg = ElementTree.parse(tmp_path / 'boundary.svg').getroot()
    assert len(svg.findall('{*}circle')) == 100 and len(svg.findall('{*}rect')) == 72 * 48
    assert 'boundary.svg' in result.stderr and result.returncode == 0


def test_the_demo_is_the_same_to_the_last_bit_in_every_process(tmp_path):
    """The original keeps parents in a set ordered by address: four runs of one seed gave four sets of weights."""
    runs = [demo('spiral', '--steps', '5', cwd=tmp_path, env={'PYTHONHASHSEED': str(h)}).stdout for h in (1, 2)]
    assert runs[0] == runs[1] and runs[0].startswith('step 0 loss ')


def test_three_classes_are_told_apart(tmp_path):
    lines = demo('spiral', '--traced', cwd=tmp_path).stdout.splitlines()
    assert lines[99].endswith('accuracy 100.0%') and {'o', 'x', '+', '.', ':', ' '} == set(''.join(lines[100:]))


def test_the_seed_matters(tmp_path):
    first = [demo('--steps', '1', '--seed', s, cwd=tmp_path).stdout.splitlines()[0] for s in ('1', '2', '1')]
    assert first[0] == first[2] != first[1]


@pytest.mark.parametrize('args, word', [(['--steps', '-1'], '-1'), (['--steps', 'x'], "'x'"), (['sun'], "'sun'"),
                                        (['--seed', '4294967296'], '4294967296'), (['moon'], 'try moons\n'),
                                        (['--trased'], 'try --traced\n'), (['--step=3'], 'try --steps\n')])
def test_a_wrong_option_is_one_line_and_exit_code_2(tmp_path, args, word):
    result = demo(*args, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ''
    assert result.stderr.count('\n') == 1 and word in result.stderr


def test_help_shows_the_defaults(tmp_path):
    assert demo('--version', cwd=tmp_path).stdout.startswith('micrograd 1.')
    result = demo('--help', cwd=tmp_path)
    text = ' '.join(result.stdout.split())  # argparse folds its lines where the terminal ends
    assert result.returncode == 0 and 'default: 100' in text and 'default: 1337' in text and 'default: moons' in text


def test_no_room_for_the_picture_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / 'boundary.svg').mkdir()
    result = demo('--steps', '0', cwd=tmp_path)
    assert result.returncode == 1 and 'Traceback' not in result.stderr and 'boundary.svg' in result.stderr


def running_demo(tmp_path):
    command = [sys.executable, '-u', '-m', 'micrograd', '--steps', '1000000', '--traced']
    return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_quietly(tmp_path):
    with running_demo(tmp_path) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and 'Traceback' not in errors


def test_a_closed_pipe_ends_quietly(tmp_path):
    with running_demo(tmp_path) as process:
        assert process.stdout.readline().startswith('step 0')
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and 'Traceback' not in errors and 'Exception' not in errors


# --------------------------------------------------------------------------------
# gradients against torch and against central differences


UNARY = ['neg', 'abs', 'exp', 'log', 'tanh', 'sigmoid', 'relu', 'square', 'to 3', 'root', 'over', 'minus']
BINARY = ['+', '-', '*', '/', '**', 'dot', 'logsumexp']


def apply(op, a, b, torch=None):
    """One operation on Values or, where torch is given, on tensors. Domains are kept with +, * and abs."""
    far = abs(b) + 0.5
    if op == 'logsumexp':
        return torch.logsumexp(torch.stack([a, b, a * 0.3]), 0) if torch else logsumexp([a, b, a * 0.3])
    if op == 'dot':
        return a*b + b*0.7 + a*a + b if torch else dot([a, b, a], [b, 0.7, a], b)
    if op == '**':
        return (abs(a) + 0.5) ** (b * 0.3)
    if op in ('+', '-', '*', '/'):
        return {'+': lambda: a + b, '-': lambda: a - b, '*': lambda: a * b, '/': lambda: a / far}[op]()
    if op in ('exp', 'log'):
        return (a * 0.3).exp() if op == 'exp' else (abs(a) + 0.5).log()
    return {'neg': lambda: -a, 'abs': lambda: abs(a), 'square': lambda: a ** 2, 'to 3': lambda: 1.3 ** (a * 0.5),
            'root': lambda: (abs(a) + 0.5) ** -0.5, 'over': lambda: 2.0 / (abs(a) + 0.5), 'minus': lambda: 1.0 - a,
            'tanh': lambda: a.tanh(), 'sigmoid': lambda: a.sigmoid(), 'relu': lambda: a.relu()}[op]()


def random_recipe(rng, leaves=4, steps=20):
    """A list of (operation, index, index): every step takes earlier results, some of them again and again."""
    return [(rng.choice(UNARY + BINARY), rng.randrange(leaves + i), rng.randrange(leaves + i)) for i in range(steps)]


def cook(recipe, leaves, torch=None):
    """Follow the recipe; what grows too large is squashed. The last few results are added up."""
    made = list(leaves)
    for op, i, j in recipe:
        v = apply(op, made[i], made[j], torch)
        made.append(v.tanh() if abs(v.item() if torch else float(v)) > 20 else v)
    return made[-1] + made[-2] * made[-3]


def recorded(recipe, start):
    """The recipe traced, with two of the leaves as parameters; None where it depends on none of the leaves."""
    params = [Value(x) for x in start[:2]]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # cook() looks at the size of its numbers
        try:
            return trace(lambda x, y: cook(recipe, [*params, x, y]), params, start[2:]), params
        except ValueError as error:
            assert 'depends on none' in str(error)
            return None


@needs_torch
def test_three_hundred_random_graphs_agree_with_torch():
    import torch
    rng, seen = random.Random(3), set()
    for _ in range(300):
        recipe = random_recipe(rng)
        seen |= {op for op, _, _ in recipe}
        xs = [rng.uniform(-2, 2) for _ in range(4)]
        ours, theirs = [Value(x) for x in xs], [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in xs]
        y, z = cook(recipe, ours), cook(recipe, theirs, torch)
        y.backward()
        z.backward()
        assert close(y.data, z.item())
        for a, t in zip(ours, theirs):
            assert close(a.grad, 0.0 if t.grad is None else t.grad.item()), recipe
    assert seen == set(UNARY + BINARY)


@needs_torch
def test_losses_agree_with_torch():
    import torch
    import torch.nn.functional as F
    rng = random.Random(4)
    for _ in range(20):
        xs = [rng.uniform(-30, 30) for _ in range(5)]
        ours, theirs = [Value(x) for x in xs], torch.tensor(xs, dtype=torch.float64, requires_grad=True)
        target, wanted = rng.randrange(5), [rng.choice([-1.0, 1.0]) for _ in range(5)]
        y = cross_entropy(ours, target) + mse(ours, wanted) + max_margin(ours, wanted)
        z = (F.cross_entropy(theirs[None], torch.tensor([target])) + F.mse_loss(theirs, torch.tensor(wanted).double())
             + (1 - torch.tensor(wanted) * theirs).relu().mean())
        y.backward()
        z.backward()
        assert close(y.data, z.item()) and all(close(a.grad, g.item()) for a, g in zip(ours, theirs.grad))


@needs_torch
@pytest.mark.parametrize('name, options', [('SGD', {'lr': 0.1}), ('SGD', {'lr': 0.1, 'momentum': 0.9}),
                                           ('Adam', {'lr': 0.05}), ('Adam', {'lr': 0.1, 'betas': (0.8, 0.9)})])
def test_optimizers_agree_with_torch(name, options):
    import torch
    ours, theirs = [Value(1.5), Value(-0.5)], torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)
    mine = {'SGD': SGD, 'Adam': Adam}[name](ours, **options)
    reference = getattr(torch.optim, name)([theirs], **options)
    for _ in range(30):
        for v in ours:
            v.grad = 0.0
        (ours[0]**2 + (ours[0]*ours[1] - 1)**2).backward()
        mine.step()
        reference.zero_grad()
        (theirs[0]**2 + (theirs[0]*theirs[1] - 1)**2).backward()
        reference.step()
    assert all(close(v.data, t.item(), 1e-10) for v, t in zip(ours, theirs))


@needs_torch
def test_tanh_and_sigmoid_slopes_are_torchs_own_formulas():
    import torch
    for x in (-3.0, -0.2, 0.0, 0.7, 2.5):
        v = Value(x)
        v.tanh().backward()
        t = torch.tensor(x, dtype=torch.float64).tanh()
        assert close(v.grad, torch.ops.aten.tanh_backward(torch.tensor(1.0).double(), t).item(), 1e-15)


def test_gradcheck_passes_what_is_right_and_names_what_is_wrong():
    worst = gradcheck(lambda a, b: (a*b + b**3).tanh() + a.exp() * b.sigmoid(), 0.3, Value(-0.7, label='b'))
    assert worst.error < 1e-8 and worst.input in ('input 0', 'b')

    def wrong_in_b(a, b):
        return a * a + Value(math.sin(b.data), (b,), 'sin', '', (1.0,))
    with pytest.raises(ValueError, match=r'^input 1: backward\(\) says 1\.0, the slope is 0\.87'):
        gradcheck(wrong_in_b, 2.0, 0.5)
    with pytest.raises(ValueError, match='^b: .*nan'):  # nan compares False with everything: it must not slip through
        gradcheck(lambda a, b: a + Value(b.data, (b,), 'odd', '', (math.nan,)), 2.0, Value(0.5, label='b'))


# --------------------------------------------------------------------------------
# the traps of the original and its forks


def test_backward_twice_does_not_count_the_middle_twice():
    """The original's second backward gave 324, and 216 after zero_grad: b kept the gradient of the first pass."""
    a = Value(3.0)
    b = a * a
    c = b * b
    c.backward()
    assert a.grad == 108.0
    c.backward()
    assert a.grad == 216.0  # leaves accumulate, as in torch
    a.grad = 0.0
    c.backward()
    assert a.grad == 108.0


def test_a_leaf_accumulates_from_itself_too():
    a = Value(3.0)
    a.backward()
    a.backward()
    assert a.grad == 2.0


def test_an_inner_node_used_twice_is_passed_on_once_and_complete():
    """Forks that walk the graph without sorting it pass b on before all of its gradient is there."""
    a = Value(2.0)
    b = a + a
    c = b + b
    c.backward()
    assert (b.grad, a.grad) == (2.0, 4.0)
    a, b = Value(-2.0), Value(3.0)
    f = (a*b) * (a+b)
    f.backward()
    assert (a.grad, b.grad) == (-3.0, -8.0)


def test_children_come_after_their_parents():
    rng = random.Random(5)
    order = topological(cook(random_recipe(rng, steps=60), [Value(rng.random()) for _ in range(4)]))
    place = {v: i for i, v in enumerate(order)}
    assert len(place) == len(order) and all(place[p] < place[v] for v in order for p in v._prev if p._prev)


@pytest.mark.parametrize('x, k, y, slope', [
    (0.0, 0, 1.0, 0.0), (0.0, 1, 0.0, 1.0), (0.0, 2, 0.0, 0.0), (3.0, 0, 1.0, 0.0), (0.0, 0.5, 0.0, math.inf),
    (-2.0, 3, -8.0, 12.0), (-2.0, -1, -0.5, -0.25)])
def test_powers_at_the_edges(x, k, y, slope):
    a = Value(x)
    p = a ** k
    p.backward()
    assert (p.data, a.grad) == (y, slope)


def test_powers_of_values():
    """The original asserts on x**Value and has no 2**x."""
    a, b = Value(2.0), Value(3.0)
    (a**b).backward()
    assert a.grad == 12.0 and close(b.grad, 8 * math.log(2))
    x = Value(3.0)
    (2**x).backward()
    assert close(x.grad, 8 * math.log(2))
    zero, minus, k, one = Value(0.0), Value(-2.0), Value(2.0), Value(1.0)
    (zero**one + minus**k).backward()
    assert one.grad == 0.0 and math.isnan(k.grad) and minus.grad == -4.0


def test_a_number_as_exponent_gets_no_gradient():
    """(-2)**2 is the square everybody takes; only a Value as exponent asks for the slope that is not there."""
    y = Value(-2.0) ** 2
    y.backward()
    assert [p.grad for p in y._prev] == [-4.0, 0.0]


def test_relu_at_zero_and_nan():
    """torch's choice: slope 0 at 0. And what is not a number must not come out as 0."""
    for x, y, slope in ((0.0, 0.0, 0.0), (-0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (2.0, 2.0, 1.0)):
        a = Value(x)
        r = a.relu()
        r.backward()
        assert (r.data, a.grad, type(r.data)) == (y, slope, float)
    assert math.isnan(Value(math.nan).relu().data)


def test_large_arguments_do_not_overflow():
    """The lecture's tanh takes exp(800) here."""
    assert Value(400).tanh().data == 1.0 and Value(-400).tanh().data == -1.0
    assert Value(800).sigmoid().data == 1.0 and Value(-800).sigmoid().data == 0.0
    assert math.isclose(Value(-40).sigmoid().data, math.exp(-40))
    assert [p.data for p in softmax([Value(1000.0), Value(0.0)])] == [1.0, 0.0]
    logits = [Value(1000.0), Value(-1000.0)]
    loss = cross_entropy(logits, 1)
    loss.backward()
    assert loss.data == 2000.0 and [v.grad for v in logits] == [1.0, -1.0]


def test_zero_gradient_stops():
    """0 * inf would be nan; torch goes on with it."""
    a = Value(0.0)
    ((a ** 0.5) * 0.0).backward()
    assert a.grad == 0.0


def test_slopes_are_taken_on_the_way_forward():
    """The original reads .data again in backward, and would answer 200 here."""
    a = Value(3.0)
    b = a * a
    a.data = 100.0
    b.backward()
    assert a.grad == 6.0


def test_everything_is_a_float():
    """The original's Value(10)**400 is an integer of 401 digits."""
    two = Value(2)
    for v in (Value(True), two + 1, 3 - two, two**2, -two, abs(-two), (-two).relu(), dot([1], [2])):
        v.backward()
        assert type(v.data) is float and type(v.grad) is float
    with pytest.raises(ValueError, match=r'pow\(10\.0, 400\.0\)'):
        Value(10) ** 400


@pytest.mark.parametrize('make, names', [
    (lambda: Value('a'), "'a'"), (lambda: Value('3'), "'3'"), (lambda: Value(1+2j), r'\(1\+2j\)'),
    (lambda: Value(None), 'None'), (lambda: [1, 2] * Value(1.0), r'\[1, 2\]'),
    (lambda: Value([1.0]), r'\[1\.0\]'), (lambda: Value(1.0) + [1, 2], r'\[1, 2\]'),
    (lambda: Value(1.0) < 'b', "'b'"), (lambda: dot([Value(1.0)], [[2.0]]), r'\[2\.0\]'),
    (lambda: Value(Value(1.0)), r'Value\(data=1\.0'), (lambda: Value(0.0).log(), r'log\(0\.0\)'),
    (lambda: Value(-1.0).log(), r'log\(-1\.0\)'), (lambda: Value(3.0) / 0, r'\(3\.0, 0\.0\)'),
    (lambda: 2 / Value(0.0), r'\(2\.0, 0\.0\)'), (lambda: Value(0.0) ** -1, r'pow\(0\.0, -1\.0\)'),
    (lambda: Value(-8.0) ** (1/3), r'pow\(-8\.0, 0\.33'), (lambda: Value(710.0).exp(), r'exp\(710\.0\)'),
    (lambda: Neuron(3)([1.0, 2.0]), '3 weights but 2 inputs'),
    (lambda: MLP(2, [2, 1])([1.0, 2.0, 3.0]), '2 weights but 3'),
    (lambda: Neuron(2, act='gelu'), "'gelu'"), (lambda: cross_entropy([Value(1.0)], 1), 'class 1'),
    (lambda: cross_entropy([Value(1.0), Value(2.0)], -1), 'class -1'), (lambda: mse([], []), r'\(0\.0, 0\.0\)'),
    (lambda: mse([Value(1.0)], [1.0, 2.0]), 'longer')])
def test_bad_input_is_refused_by_name_where_it_happens(make, names):
    with pytest.raises((ValueError, TypeError), match=names):
        make()


def test_an_operation_without_slopes_says_so():
    """Value(t, (x,), 'tanh') is how the lecture starts; going backward from it would leave x at 0 in silence."""
    with pytest.raises(ValueError, match="'tanh' came without slopes"):
        Value(0.5, (Value(1.0),), 'tanh').backward()


def test_values_compare_by_number_but_are_equal_only_to_themselves():
    a, b = Value(1.0), Value(2.0)
    assert a < b and a <= 1 and b > 1.5 and 2.0 >= b and max([a, b]) is b and sorted([b, a]) == [a, b]
    assert a != Value(1.0) and len({a, Value(1.0)}) == 2
    assert float(b) == 2.0 and f'{b:.3f}' == '2.000' and f'{b}' == repr(b) and math.sqrt(Value(4.0)) == 2.0


@needs_numpy
def test_numpy_scalars_on_either_side():
    import numpy as np
    for two in (np.float64(2), np.float32(2), np.int64(2), np.array(2.0)):
        for make in (lambda v: two * v, lambda v: v * two, lambda v: two + v, lambda v: two - v, lambda v: two / v,
                     lambda v: two ** v, lambda v: v ** two):
            v = Value(3.0)
            y = make(v)
            assert isinstance(y, Value) and type(y.data) is float
            y.backward()
            assert type(v.grad) is float and v.grad != 0
        assert (two < Value(3.0)) is True or bool(two < Value(3.0))
    with pytest.raises(TypeError):  # the original made a Value that held the whole array
        Value(3.0) * np.array([1.0, 2.0])
    assert [v.data for v in np.array([1.0, 2.0]) * Value(3.0)] == [3.0, 6.0]
    assert type(Neuron(2)(np.array([1.0, 2.0])).data) is float


def test_pickle_and_copies():
    """The original cannot be pickled; its deep copies are wired to the old nodes, and their gradients stay 0."""
    model = MLP(2, [3, 1], act='tanh')
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin([1.0, 2.0]).backward()
        assert all(p.grad == 0.0 for p in model.parameters()) and any(p.grad for p in twin.parameters())
        assert [p.data for p in twin.parameters()] == [p.data for p in model.parameters()]
    deep = Value(1.0, label='deep')
    deep.grad = 5.0
    twin = copy.deepcopy(deep)
    assert (twin.data, twin.grad, twin.label) == (1.0, 5.0, 'deep') and twin is not deep
    for _ in range(5000):
        deep = deep + 1.0
    assert copy.deepcopy(deep).data == pickle.loads(pickle.dumps(deep)).data == 5001.0
    assert copy.deepcopy(deep)._prev == ()


def test_the_same_node_twice_is_two_parents():
    a = Value(3.0)
    assert (a * a)._prev == (a, a)


def test_a_million_operations():
    """The original stops at 995. And freeing must need no recursion and, as gc is off here, no garbage collector."""
    assert sys.getrecursionlimit() <= 3000
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        x = Value(1.0)
        y = x
        for _ in range(1_000_000):
            y = y + x
        assert sys.getallocatedblocks() - before > 2_000_000
        y.backward()
        assert (y.data, x.grad) == (1_000_001.0, 1_000_001.0)
        del y
        assert sys.getallocatedblocks() - before < 10_000  # Python itself keeps some 2,000 tuples for later
    finally:
        gc.enable()


def test_a_training_step_leaves_nothing_for_the_garbage_collector():
    random.seed(1)
    model, rows = MLP(2, [4, 1]), moons(20)
    notebook_step(model, rows)
    gc.collect()
    gc.disable()
    try:
        notebook_step(model, rows)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_gradients_are_the_same_to_the_last_bit_in_every_process():
    program = ("import random; from micrograd import *; random.seed(2); m = MLP(3, [8, 8, 1], 'tanh'); "
               "(sum(m([i, 1.0, -i])**2 for i in range(9)) / 7).backward(); "
               "print([p.grad.hex() for p in m.parameters()])")
    runs = [subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True,
                           env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONHASHSEED': seed}).stdout for seed in '07']
    assert runs[0] == runs[1] and '0x' in runs[0]


# --------------------------------------------------------------------------------
# models


@pytest.mark.parametrize('act', ['relu', 'tanh', 'sigmoid', None])
def test_a_neuron_is_a_sum_of_products_with_a_bend(act):
    random.seed(3)
    n = Neuron(3, act)
    x = [0.5, -1.0, 2.0]
    plain = sum((Value(w.data) * xi for w, xi in zip(n.w, x)), Value(n.b.data))
    assert close(n(x).data, (getattr(plain, act)() if act else plain).data, 1e-15)
    n(x).backward()
    assert gradcheck(lambda *ws: getattr(dot(ws, x), act)() if act else dot(ws, x), *[w.data for w in n.w]).error < 1e-8


def test_state_goes_through_json_to_the_last_bit():
    random.seed(4)
    model, other = MLP(2, [3, 2], act='tanh'), MLP(2, [3, 2], act='tanh')
    other.load(json.loads(json.dumps(model.state())))
    assert [p.data for p in other.parameters()] == [p.data for p in model.parameters()]
    before = other.state()
    with pytest.raises(ValueError, match='does not fit'):
        MLP(2, [4, 2], act='tanh').load(model.state())
    with pytest.raises(ValueError, match='None does not fit'):
        other.load({})
    with pytest.raises(TypeError, match="'x'"):
        other.load({**before, 'parameters': [1.0] * (len(before['parameters']) - 1) + ['x']})
    with pytest.raises(ValueError):
        other.load({**before, 'parameters': [1.0]})
    assert other.state() == before  # a state that is refused changes nothing


def test_inputs_are_shared_between_the_neurons():
    x = Value(1.0)
    out = Layer(1, 3, None)([x])
    sum(out).backward()
    assert len(out) == 3 and x.grad == sum(p.data for o in out for p in o._prev[:1])
    assert len({v for o in Layer(1, 3, None)([2.0]) for v in o._prev if v.data == 2.0}) == 1


# --------------------------------------------------------------------------------
# trace


def test_two_hundred_traces_replay_what_the_engine_does():
    """Row for row the same bits, for losses, parameters and inputs; and a sum over rows that is the engine's sum."""
    rng, same = random.Random(6), 0
    for _ in range(200):
        recipe = random_recipe(rng)
        start = [rng.uniform(-2, 2) for _ in range(4)]
        if not (made := recorded(recipe, start)):
            continue
        f, params = made
        rows = [[x + rng.uniform(-0.01, 0.01) for x in start[2:]] for _ in range(5)]
        for row in rows:
            for p in params:
                p.grad = 0.0
            twins, inputs = [Value(p.data) for p in params], [Value(x) for x in row]
            y = cook(recipe, [*twins, *inputs])
            y.backward()
            [loss] = f([row])
            if loss == y.data:  # otherwise `cook` has squashed another number than while recording
                same += 1
                assert [p.grad for p in params] == [t.grad for t in twins]
                assert f.input_grads == [tuple(x.grad for x in inputs)]
    assert same > 900


def test_a_traced_batch_is_the_mean_of_its_rows():
    random.seed(8)
    model, rows = MLP(2, [5, 3], act='tanh'), spiral(9)

    def example(x, y, *target):
        scores = model([x, y])
        return cross_entropy(scores, target), *scores
    f = trace(example, model.parameters(), rows[0])
    results = f(rows, scale=1/9)
    traced_grads = [p.grad for p in model.parameters()]
    model.zero_grad()
    losses, *scores = zip(*(example(*map(Value, row)) for row in rows))
    (sum(losses) / 9).backward()
    assert all(close(g, p.grad, 1e-15) for g, p in zip(traced_grads, model.parameters()))
    assert [r[0] for r in results] == [loss.data for loss in losses]
    assert [r[1:] for r in results] == [tuple(s.data for s in row) for row in zip(*scores)]
    f(rows, scale=1/9)
    assert all(close(p.grad, 2 * g, 1e-15) for g, p in zip(traced_grads, model.parameters()))  # they accumulate


def test_an_embedding_is_trained_through_the_inputs():
    """Rows of a table are looked up outside, as numbers; their gradients come back in input_grads."""
    random.seed(9)
    table = [[Value(random.gauss(0, 1)) for _ in range(2)] for _ in range(4)]
    layer = Layer(4, 3, None)

    def loss_of(*inputs):
        return cross_entropy(layer(inputs[:4]), inputs[4:])
    batch = [((0, 1), 2), ((1, 1), 0), ((3, 0), 1)]
    total = sum(cross_entropy(layer(table[i] + table[j]), target) for (i, j), target in batch)
    total.backward()
    wanted = [[v.grad for v in row] for row in table]

    rows = [[v.data for v in table[i] + table[j]] + [float(c == target) for c in range(3)] for (i, j), target in batch]
    f = trace(loss_of, layer.parameters(), rows[0])
    f(rows)
    got = [[0.0, 0.0] for _ in table]
    for ((i, j), _), grads in zip(batch, f.input_grads):
        for k in range(2):
            got[i][k] += grads[k]
            got[j][k] += grads[2 + k]
    assert all(close(a, b, 1e-14) for r, s in zip(got, wanted) for a, b in zip(r, s)) and got[2] == [0.0, 0.0]


def test_the_bare_function_takes_and_gives_numbers():
    w = Value(3.0)
    f = trace(lambda x: w * x * x, [w], [1.0])
    assert f.run([5.0], [[2.0], [1.0]], 0.5) == ([20.0, 5.0], (2.5,), [(10.0,), (5.0,)])
    assert w.grad == 0.0 and f([]) == [] and f.input_grads == [] and 'def run(' in f.source


def test_a_trace_says_what_it_froze():
    """The recording goes one way at every `if`, and for ever after."""
    w, c = Value(2.0), Value(5.0)
    with pytest.warns(UserWarning, match='test_micrograd.py:'):
        f = trace(lambda x: w*x + c if x > 0 else w, [w], [1.0])
    assert f([[-1.0]]) == [3.0] and f.constants == [5.0] and len(f.looks) == 1
    assert '1 constants [5.0]' in repr(f) and 'test_micrograd.py' in repr(f)
    for look in (lambda x: x * float(x), lambda x: max(x, w), lambda x: sorted([x*1, w])[0], lambda x: x * math.sin(x)):
        with pytest.warns(UserWarning, match='a look at a number'):
            trace(look, [w], [1.0])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert trace(lambda x: (x.relu() + abs(w)).tanh(), [w], [1.0]).looks == []


def test_trace_refuses_what_it_cannot_follow():
    w = Value(2.0)
    for program, params, example, words in (
            (lambda x: 3.0, [w], [1.0], 'must be Values'), (lambda x: w, [w * 1], [1.0], 'not made by an operation'),
            (lambda x: x, [2.0], [1.0], 'must be Values'), (lambda x: Value(3.0), [w], [1.0], 'depends on none'),
            (lambda x: Value(1.0, (x,), 'cosh', '', (0.0,)), [w], [1.0], "no rule for 'cosh'"),
            (lambda x: x, [w], ['a'], "'a'")):
        with pytest.raises((ValueError, TypeError), match=words):
            trace(program, params, example)
    f = trace(lambda x: (w * x).log(), [w], [1.0])
    for row, words in (([1.0, 2.0], 'needs 1'), ([], 'needs 1'), (['a'], "'a'"), ([-1.0], r'log\(-2\.0\)')):
        with pytest.raises((ValueError, TypeError), match=words):
            f([row])


def test_a_rule_of_ones_own():
    from micrograd.trace import RULES as rules
    rules['sin'] = lambda o, a: (f'sin({a})', f'cos({a})')
    try:
        f = trace(lambda x: Value(math.sin(x.data), (x,), 'sin', '', (math.cos(x.data),)) * 2, [], [0.0])
        assert f([[0.5]]) == [2 * math.sin(0.5)] and close(f.input_grads[0][0], 2 * math.cos(0.5))
    finally:
        del rules['sin']


def test_odd_traces():
    """Nothing but a parameter; parameters that are not reached or given twice; odd constants; a very long dot."""
    a, b = Value(2.0), Value(3.0)
    assert trace(lambda: a, [a])([(), ()]) == [2.0, 2.0] and a.grad == 2.0
    a.grad = 0.0
    trace(lambda x: a * x, [a, b, a], [1.0])([[5.0]])
    assert (a.grad, b.grad) == (5.0, 0.0)
    f = trace(lambda x: (x + Value(-0.7)**2) * Value(math.inf), [], [1.0])
    assert f([[1.0]]) == [math.inf] and f.constants[0] == 0.7**2
    ws = [Value(1.0) for _ in range(5000)]
    assert trace(lambda x: dot(ws, [x] * 5000, 1.0), ws, [1.0])([[2.0]]) == [10001.0] and ws[-1].grad == 2.0
    assert trace(lambda x: dot([], [], x), [], [1.0])([[2.0]]) == [2.0]
    deep = trace(lambda x: sum([x] * 3000), [], [1.0])
    assert deep([[2.0]]) == [6000.0] and deep.input_grads == [(3000.0,)]


def test_a_net_of_twelve_thousand_parameters_compiles():
    """The size of the MLP lecture's net: 30 inputs, 200 tanh neurons, 27 classes."""
    random.seed(10)
    hidden, out = Layer(30, 200, 'tanh'), Layer(200, 27, None)
    params = hidden.parameters() + out.parameters()

    def loss_of(*inputs):
        return cross_entropy(out(hidden(inputs[:30])), inputs[30:])
    row = [random.gauss(0, 0.1) for _ in range(30)] + [1.0] + [0.0] * 26
    f = trace(loss_of, params, row)
    y = loss_of(*map(Value, row))
    y.backward()
    wanted = [p.grad for p in params]
    for p in params:
        p.grad = 0.0
    assert f([row]) == [y.data] and [p.grad for p in params] == wanted and len(params) == 11627


# --------------------------------------------------------------------------------
# pictures


def test_the_dot_text_of_the_lecture_expression():
    a, b = Value(2.0, label='a'), Value(-3.0, label='b')
    e = a * b
    e.label = 'e'
    e.backward()
    assert draw_dot(e).source == '''digraph {
  rankdir=LR
  label=""
  n0 [shape=record label="{ a | data 2.0000 | grad -3.0000 }"]
  n1 [shape=record label="{ b | data -3.0000 | grad 2.0000 }"]
  n2 [shape=record label="{ e | data -6.0000 | grad 1.0000 }"]
  n2op [label="*"]
  n2op -> n2
  n0 -> n2op
  n1 -> n2op
}
'''
    assert draw_dot(e).mermaid == '''graph LR
  n0["a | data 2.0000 | grad -3.0000"]
  n1["b | data -3.0000 | grad 2.0000"]
  n2["e | data -6.0000 | grad 1.0000"]
  n2op(["#42;"]) --> n2
  n0 --> n2op
  n1 --> n2op
'''


def shapes(svg):
    root = ElementTree.fromstring(svg)
    return {kind: len(root.findall('{*}g/{*}' + kind)) for kind in ('rect', 'ellipse', 'path')}


def test_an_edge_for_every_use():
    """The original's set of parents drew a*a with one edge."""
    a = Value(3.0)
    b = a * a
    assert draw_dot(b).source.count('n0 -> n1op') == 2
    assert shapes(draw_dot(b).svg) == {'rect': 2, 'ellipse': 1, 'path': 3}  # two uses, and oval to box
    edges = [e.get('d') for e in ElementTree.fromstring(draw_dot(b).svg).findall('{*}g/{*}path')[:2]]
    assert edges[0] != edges[1]


def test_a_picture_before_backward_says_so():
    y = Value(2.0) * 3.0
    for text in draw_dot(y):
        assert 'backward' in text and 'has not run' in text and 'grad 0' not in text
        assert 'grad ?' in text or 'grad #63;' in text
    y.backward()
    for text in draw_dot(y):
        assert 'has not run' not in text and 'grad 3.0000' in text


def test_boxes_do_not_overlap_and_the_picture_is_the_same_every_time():
    random.seed(11)
    model = MLP(2, [4, 4, 1], 'tanh')
    y = mse([model([1.0, 2.0])], [1.0]) + 1e-4 * sum(p*p for p in model.parameters())
    y.backward()
    svg = draw_dot(y).svg
    boxes = [tuple(float(r.get(k)) for k in ('x', 'y', 'width', 'height'))
             for r in ElementTree.fromstring(svg).findall('.//{*}rect')]
    nodes = {p for v in topological(y) for p in (*v._prev, v)}
    assert len(boxes) == len(nodes)
    assert not any(ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah
                   for i, (ax, ay, aw, ah) in enumerate(boxes) for bx, by, bw, bh in boxes[:i])
    assert svg == draw_dot(y).svg == draw_dot(y)._repr_svg_()


def test_labels_cannot_break_out_of_their_boxes():
    a = Value(1.0, label='a<b> "q" {x|y} \\ & \n#')
    drawing = draw_dot(a * 1)
    assert 'a<b> "q" {x|y} \\ & \n#' in [t.text.split(' | data')[0] for t in ElementTree.fromstring(drawing.svg).iter()
                                        if t.tag.endswith('text') and t.text]
    assert '<' not in drawing.mermaid and drawing.source.count('|') == 4 and '\\' not in drawing.source


def test_saving_goes_by_the_ending(tmp_path):
    drawing = draw_dot(Value(1.0) + 1)
    for name, text in (('g.svg', drawing.svg), ('g.dot', drawing.source), ('g.gv', drawing.source),
                       ('g.mmd', drawing.mermaid)):
        drawing.save(tmp_path / name)
        assert (tmp_path / name).read_text(encoding='utf-8') == text
    with pytest.raises(ValueError, match=r"g\.png.*\.svg"):
        drawing.save(tmp_path / 'g.png')


def test_a_leaf_and_a_deep_graph_are_drawn_too():
    assert shapes(draw_dot(Value(1.0)).svg) == {'rect': 1, 'ellipse': 0, 'path': 0}
    y = Value(1.0)
    for _ in range(1500):
        y = y.tanh()
    assert shapes(draw_dot(y).svg)['rect'] == 1501


# --------------------------------------------------------------------------------
# the package itself


def test_it_needs_nothing_but_python():
    for path in (ROOT / 'micrograd').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert all(name.split('.')[0] in sys.stdlib_module_names for name in names), (path, names)


def test_the_example_at_the_top_of_the_engine():
    a, b = Value(2.0, label='a'), Value(-3.0, label='b')
    L = (a*b + 10.0) * -2.0
    L.backward()
    assert (L.data, a.grad, b.grad) == (-8.0, 6.0, -4.0)
