"""How fast, next to karpathy/micrograd: python tests/bench/bench_micrograd.py --peer PATH_OF_ITS_CHECKOUT

Both run the same words: the notebook's moons step and the lecture's MLP(3, [4, 4, 1]) step, alternating in one
process. Times are CPU time of this process, medians over the rounds. 'as run' has the garbage collector on, as
Python starts; 'gc off' takes it away from both. Without --peer only our own column is measured.
"""
import argparse
import gc
import importlib
import random
import sys
import time
import tracemalloc
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    """The package as found at path: its Value and its nn, with whatever was imported under that name forgotten."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'micrograd']:
        del sys.modules[name]
    sys.path.insert(0, str(path))
    try:
        engine, nn = importlib.import_module('micrograd.engine'), importlib.import_module('micrograd.nn')
    finally:
        sys.path.pop(0)
    return engine.Value, nn


def moons_loss(Value, model, rows):
    """The notebook's words."""
    inputs = [[Value(x), Value(y)] for x, y, _ in rows]
    scores = list(map(model, inputs))
    losses = [(1 + -t*score).relu() for (_, _, t), score in zip(rows, scores)]
    return sum(losses) * (1.0 / len(losses)) + 1e-4 * sum((p*p for p in model.parameters()))


def moons_step(Value, model, rows, k=99):
    loss = moons_loss(Value, model, rows)
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.data -= (1.0 - 0.9*k/100) * p.grad


def lecture_step(Value, model, rows):
    loss = sum((model(x) - t)**2 for x, t in rows)
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.data -= 0.001 * p.grad


def traced_demo(trace, model, rows, steps=100):
    """All steps with recording and compiling, per step."""
    params = model.parameters()

    def example(x, y, t):
        return (1 + -t * model([x, y])).relu()
    data = trace(example, params, rows[0])
    penalty = trace(lambda: 1e-4 * sum((p*p for p in params)), params)
    for k in range(steps):
        model.zero_grad()
        data(rows, scale=1/len(rows))
        penalty([()])
        for p in params:
            p.data -= (1.0 - 0.9*k/100) * p.grad


def cpu(f, *args, repeat=1):
    start = time.process_time()
    for _ in range(repeat):
        f(*args)
    return (time.process_time() - start) / repeat


def memory(Value, model, rows):
    """Bytes held by one moons graph."""
    gc.collect()
    tracemalloc.start()
    loss = moons_loss(Value, model, rows)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del loss
    return held


def measure(sides, trace, moons, rounds):
    """{(what, side): numbers, one per round}. Models are made from the same seed; sides take turns."""
    lecture = [([2.0, 3.0, -1.0], 1.0), ([3.0, -1.0, 0.5], -1.0), ([0.5, 1.0, 1.0], -1.0), ([1.0, 1.0, -1.0], 1.0)]
    models, found = {}, {}
    for side, (Value, nn) in sides.items():
        random.seed(1337)
        models[side] = nn.MLP(2, [16, 16, 1]), nn.MLP(3, [4, 4, 1])
    for label, switch in (('as run', gc.enable), ('gc off', gc.disable)):
        for _ in range(rounds):
            for side, (Value, nn) in sides.items():
                gc.collect()  # the peer's steps leave cycles behind; they are not to be charged to whoever comes next
                switch()
                found.setdefault(('moons step, ms, ' + label, side), []).append(
                    cpu(moons_step, Value, models[side][0], moons) * 1e3)
                gc.collect()
                found.setdefault(('lecture step, ms, ' + label, side), []).append(
                    cpu(lecture_step, Value, models[side][1], lecture, repeat=50) * 1e3)
                gc.enable()
            switch()
            found.setdefault(('traced', label), []).append(cpu(traced_demo, trace, sides['ours'][1].MLP(2, [16, 16, 1]),
                                                               moons) * 10)
            gc.enable()
    for side, (Value, nn) in sides.items():
        found['moons graph, MB', side] = [memory(Value, models[side][0], moons) / 1e6]
    return found


def table(found, peer):
    print(f"{'':36}{'ours':>10}{'peer':>10}{'ratio':>8}")

    def line(what, ours, theirs):
        print(f'{what:36}{ours:10.3f}' + (f'{theirs:10.3f}{theirs / ours:8.1f}' if peer else f"{'-':>10}{'-':>8}"))
    for label in ('as run', 'gc off'):
        step = 'moons step, ms, ' + label
        theirs = median(found[step, 'peer']) if peer else 0.0
        line(step, median(found[step, 'ours']), theirs)
        line(f'  traced, with compiling, {label}', median(found['traced', label]), theirs)
        step = 'lecture step, ms, ' + label
        line(step, median(found[step, 'ours']), median(found[step, 'peer']) if peer else 0.0)
    line('moons graph, MB', found['moons graph, MB', 'ours'][0], found['moons graph, MB', 'peer'][0] if peer else 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', type=Path, help="a checkout of karpathy/micrograd (default: measure ours alone)")
    parser.add_argument('--rounds', type=int, default=7, help="how often each step is measured (default: 7)")
    args = parser.parse_args()
    if args.peer and not (args.peer / 'micrograd' / 'engine.py').is_file():
        parser.error(f"there is no micrograd/engine.py in {args.peer}")
    sides = {'ours': load(ROOT)}
    trace, moons = sys.modules['micrograd'].trace, importlib.import_module('micrograd.data').moons()
    if args.peer:
        sides['peer'] = load(args.peer)
    table(measure(sides, trace, moons, args.rounds), bool(args.peer))


if __name__ == '__main__':
    main()
