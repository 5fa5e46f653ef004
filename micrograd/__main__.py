"""
Train a small neural net to classify points in the plane, and draw what it has learned.

    python -m micrograd                   # the lecture's two moons, 100 steps
    python -m micrograd --traced          # the same losses up to rounding, ten times as fast
    python -m micrograd spiral --traced   # three classes

Prints loss and accuracy of every step, then a map of the classes, and writes boundary.svg.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from . import MLP, SGD, Adam, Module, Value, cross_entropy, dot, trace
from .boundary import pictures, winner
from .data import moons, spiral

# -----------------------------------------------------------------------------
# what to learn


class Task(NamedTuple):
    """A data set, a model, and how to train it."""

    rows: list[tuple[float, ...]]
    model: Module
    example: Callable  # from the numbers of a row to (loss, score, score, ...)
    optimizer: SGD | Adam
    schedule: Callable[[float], float]  # from the progress, 0 to 1, to the learning rate


def moons_task(seed: int) -> Task:
    """The lecture's demo: two classes, the SVM loss, and gradient descent."""
    model = MLP(2, [16, 16, 1])

    def example(x, y, target):
        score = model([x, y])
        return (1 - target * score).relu(), score

    def schedule(progress):
        return 1.0 - 0.9 * progress

    return Task(moons(seed=seed), model, example, SGD(model.parameters()), schedule)


def spiral_task(seed: int) -> Task:
    """Three classes, cross-entropy, and Adam."""
    model = MLP(2, [16, 16, 3], act='tanh')

    def example(x, y, *one_hot):
        scores = model([x, y])
        return cross_entropy(scores, one_hot), *scores

    def schedule(progress):
        return 0.11 - 0.1 * progress

    return Task(spiral(seed=seed), model, example, Adam(model.parameters()), schedule)


TASKS = {'moons': moons_task, 'spiral': spiral_task}

# -----------------------------------------------------------------------------
# training


def build_and_backward(
    example: Callable, penalty: Callable, rows: Sequence[tuple[float, ...]]
) -> tuple[float, list]:
    """The loss over all rows and the scores of each; fills in the gradients of the parameters.

    The graph is built anew in each step, as in the lecture.
    """
    losses = []
    scores = []
    for row in rows:
        loss, *row_scores = example(*[Value(x) for x in row])
        losses.append(loss)
        scores.append(row_scores)
    total = sum(losses) * (1.0 / len(rows)) + penalty()
    total.backward()
    return total.data, scores


def replay(
    example: Callable, penalty: Callable, rows: Sequence[tuple[float, ...]]
) -> tuple[float, list]:
    """The same as build_and_backward() up to rounding, for traces of example and penalty."""
    results = example(rows, scale=1 / len(rows))
    losses = [loss for loss, *_ in results]
    scores = [row_scores for _, *row_scores in results]
    [penalty_loss] = penalty([()])  # a single row without any inputs
    # fsum gives the same bits in every version of Python, sum() does not
    return math.fsum(losses) / len(rows) + penalty_loss, scores


def train(task: Task, steps: int, traced: bool) -> None:
    """Train the model of a task, and print a line for each step."""
    parameters = task.model.parameters()

    def penalty():
        # weight decay: large weights cost something
        return 1e-4 * dot(parameters, parameters)

    example = task.example
    compute = build_and_backward
    if traced:
        example = trace(example, parameters, task.rows[0])
        penalty = trace(penalty, parameters)
        compute = replay

    targets = [winner(row[2:]) for row in task.rows]
    for k in range(steps):
        task.model.zero_grad()
        loss, scores = compute(example, penalty, task.rows)
        task.optimizer.lr = task.schedule(k / steps)
        task.optimizer.step()

        predictions = [winner(row_scores) for row_scores in scores]
        n_right = sum(p == t for p, t in zip(predictions, targets, strict=True))
        accuracy = 100 * n_right / len(targets)
        print(f'step {k} loss {loss}, accuracy {accuracy:.1f}%')
        # show the progress in the terminal if the lines above go into a file
        if sys.stderr.isatty() and not sys.stdout.isatty():
            print(f'step {k + 1} of {steps}', end='\r', file=sys.stderr)


# -----------------------------------------------------------------------------
# command line

OPTIONS = ('--steps', '--seed', '--traced', '--version', '--help')


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line with a suggestion, and without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message with the nearest valid word, and exit with code 2."""
        found = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^ ']+)", message)
        word = found[1] if found else ''
        matches = difflib.get_close_matches(word, [*TASKS, *OPTIONS], n=1)
        suggestion = matches[0] if matches else '--help'
        self.exit(2, f'{self.prog}: {message}; try {suggestion}\n')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line, checked."""
    parser = Parser(
        prog='python -m micrograd',
        description='Train a small neural net to classify points in the plane.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--version', action='version', version='micrograd 1.0.0')
    parser.add_argument('task', nargs='?', choices=TASKS, default='moons', help='data set')
    parser.add_argument('--steps', type=int, default=100, help='steps, each over all points')
    parser.add_argument('--seed', type=int, default=1337, help='seed of the data and the weights')
    parser.add_argument('--traced', action='store_true', help='compile the graph: much faster')
    args = parser.parse_args(argv)
    if args.steps < 0:
        parser.error(f'--steps {args.steps}: must not be negative')
    if not 0 <= args.seed < 2**32:
        parser.error(f'--seed {args.seed}: must be from 0 to {2**32 - 1}')
    return args


def run(args: argparse.Namespace) -> None:
    """Train, print the map of the classes, and write boundary.svg."""
    random.seed(args.seed)
    task = TASKS[args.task](args.seed)
    n_parameters = len(task.model.parameters())
    print(f'{args.task}: {len(task.rows)} points, {n_parameters} parameters', file=sys.stderr)
    train(task, args.steps, args.traced)

    text, svg = pictures(task.rows, task.model)
    print(text, flush=True)
    path = Path('boundary.svg')
    path.unlink(missing_ok=True)  # a link that is there is replaced, not followed
    path.write_text(svg, encoding='utf-8')
    print('decision boundary: boundary.svg', file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does. What is left in the buffer of stdout
        # must go somewhere, or Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f'python -m micrograd: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
