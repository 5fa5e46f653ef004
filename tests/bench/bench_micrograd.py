"""
How fast is micrograd, compared with karpathy/micrograd?

    python tests/bench/bench_micrograd.py --peer PATH_OF_ITS_CHECKOUT

Both run the same code in turns, in one process: a training step of the notebook's moons demo, and
a step of the lecture's MLP(3, [4, 4, 1]). The numbers are medians of the CPU time of this process.
'as run' has the garbage collector on, as Python starts; 'gc off' has it off for both. Without
--peer only our own column is measured.
"""

import argparse
import gc
import importlib
import random
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]

MODES = {'as run': True, 'gc off': False}  # whether the garbage collector is on

# the lecture's four examples, each with its target
LECTURE = [
    ([2.0, 3.0, -1.0], 1.0),
    ([3.0, -1.0, 0.5], -1.0),
    ([0.5, 1.0, 1.0], -1.0),
    ([1.0, 1.0, -1.0], 1.0),
]

# -----------------------------------------------------------------------------
# what is measured, in words that both engines understand


def moons_loss(Value, model, rows):
    """The loss of the notebook."""
    inputs = [[Value(x), Value(y)] for x, y, _ in rows]
    scores = [model(x) for x in inputs]
    targets = [row[2] for row in rows]
    losses = [(1 + -t * score).relu() for t, score in zip(targets, scores, strict=True)]
    return sum(losses) * (1.0 / len(losses)) + 1e-4 * sum(p * p for p in model.parameters())


def lecture_loss(Value, model, rows):
    """The loss of the lecture's last example."""
    return sum((model(x) - t) ** 2 for x, t in rows)


def train_step(loss_of, lr, Value, model, rows):
    """Forward pass, backward pass, and update."""
    loss = loss_of(Value, model, rows)
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.data -= lr * p.grad


def traced_demo(trace, model, rows, steps=100):
    """All steps of the demo, with recording and compiling."""
    params = model.parameters()

    def example(x, y, t):
        return (1 + -t * model([x, y])).relu()

    def penalty():
        return 1e-4 * sum(p * p for p in params)

    traced_example = trace(example, params, rows[0])
    traced_penalty = trace(penalty, params)
    for k in range(steps):
        model.zero_grad()
        traced_example(rows, scale=1 / len(rows))
        traced_penalty([()])
        for p in params:
            p.data -= (1.0 - 0.9 * k / 100) * p.grad


# -----------------------------------------------------------------------------
# measuring


def load_package(path: Path):
    """Import the micrograd found at path; return its Value and its nn."""
    # forget what was imported under the same names
    for name in list(sys.modules):
        if name.partition('.')[0] == 'micrograd':
            del sys.modules[name]
    sys.path.insert(0, str(path))
    try:
        engine = importlib.import_module('micrograd.engine')
        nn = importlib.import_module('micrograd.nn')
    finally:
        sys.path.pop(0)
    return engine.Value, nn


def measure_cpu_ms(function: Callable, *args, repeat: int = 1) -> float:
    """CPU time of a call in milliseconds, the mean of several."""
    start = time.process_time()
    for _ in range(repeat):
        function(*args)
    return (time.process_time() - start) / repeat * 1e3


def measure_memory_mb(Value, model, rows) -> float:
    """Megabytes that one graph of the moons loss holds."""
    gc.collect()
    tracemalloc.start()
    loss = moons_loss(Value, model, rows)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del loss
    return held / 1e6


@contextmanager
def garbage_collection(enabled: bool):
    """Run a block with the garbage collector on or off, and nothing for it to find at first."""
    # the peer's steps leave cycles behind, which should not slow down whoever comes next
    gc.collect()
    if not enabled:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(sides: dict, trace: Callable, moons: list, rounds: int) -> dict:
    """For each (what, side) the numbers of all rounds."""
    models = {}
    for side, (_, nn) in sides.items():
        random.seed(1337)  # the same weights for both
        models[side] = nn.MLP(2, [16, 16, 1]), nn.MLP(3, [4, 4, 1])

    found = defaultdict(list)
    for label, enabled in MODES.items():
        for _ in range(rounds):
            for side, (Value, _) in sides.items():
                moons_model, lecture_model = models[side]
                with garbage_collection(enabled):
                    args = (moons_loss, 0.1, Value, moons_model, moons)
                    ms = measure_cpu_ms(train_step, *args)
                found[f'moons step, ms, {label}', side].append(ms)
                with garbage_collection(enabled):
                    args = (lecture_loss, 0.001, Value, lecture_model, LECTURE)
                    ms = measure_cpu_ms(train_step, *args, repeat=50)
                found[f'lecture step, ms, {label}', side].append(ms)
            with garbage_collection(enabled):
                model = sides['ours'][1].MLP(2, [16, 16, 1])
                ms = measure_cpu_ms(traced_demo, trace, model, moons)
            found[f'  traced, with compiling, {label}', 'ours'].append(ms / 100)

    for side, (Value, _) in sides.items():
        found['moons graph, MB', side] = [measure_memory_mb(Value, models[side][0], moons)]
    return found


# -----------------------------------------------------------------------------
# the table


def print_row(found: dict, what: str, compare_with: str = '') -> None:
    """Our number, the peer's, and how many times ours goes into it."""
    ours = median(found[what, 'ours'])
    theirs = found.get((compare_with or what, 'peer'))
    if theirs is None:
        print(f'{what:36}{ours:10.3f}{"-":>10}{"-":>8}')
    else:
        ratio = median(theirs) / ours
        print(f'{what:36}{ours:10.3f}{median(theirs):10.3f}{ratio:8.1f}')


def print_table(found: dict) -> None:
    """All results."""
    print(f'{"":36}{"ours":>10}{"peer":>10}{"ratio":>8}')
    for label in MODES:
        step = f'moons step, ms, {label}'
        print_row(found, step)
        print_row(found, f'  traced, with compiling, {label}', compare_with=step)
        print_row(found, f'lecture step, ms, {label}')
    print_row(found, 'moons graph, MB')


def main():
    parser = argparse.ArgumentParser(description='Compare the speed with karpathy/micrograd.')
    parser.add_argument('--peer', type=Path, help='a checkout of it (default: measure ours alone)')
    parser.add_argument('--rounds', type=int, default=7, help='repetitions of each measurement')
    args = parser.parse_args()
    if args.peer and not (args.peer / 'micrograd' / 'engine.py').is_file():
        parser.error(f'there is no micrograd/engine.py in {args.peer}')

    sides = {'ours': load_package(ROOT)}
    # ours must be complete before the peer's modules take its names
    trace = importlib.import_module('micrograd').trace
    moons = importlib.import_module('micrograd.data').moons()
    if args.peer:
        sides['peer'] = load_package(args.peer)
    print_table(measure(sides, trace, moons, args.rounds))


if __name__ == '__main__':
    main()
