"""python -m micrograd: two moons, or a spiral of three arms, learned while you watch."""
import difflib, math, os, random, re, sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from . import MLP, SGD, Adam, Value, cross_entropy, dot, trace
from .data import moons, spiral

def moons_task(seed):
    """The lecture's demo. A row costs nothing as soon as its score is past 1 on the right side of 0."""
    model = MLP(2, [16, 16, 1])
    def example(x, y, target):
        score = model([x, y])
        return (1 - target*score).relu(), score
    return moons(seed=seed), model, example, SGD(model.parameters()), lambda part: 1.0 - 0.9*part

def spiral_task(seed):
    """Three classes: a score for each, and cross-entropy against the one-hot tail of the row."""
    model = MLP(2, [16, 16, 3], act='tanh')
    def example(x, y, *target):
        scores = model([x, y])
        return cross_entropy(scores, target), *scores
    return spiral(seed=seed), model, example, Adam(model.parameters()), lambda part: 0.11 - 0.1*part

def eager(example, penalty, rows):
    """Forward and backward over all rows, for the loss and the scores. The graph is built anew, as in the lecture."""
    losses, *scores = zip(*(example(*map(Value, row)) for row in rows))
    loss = sum(losses) * (1.0 / len(rows)) + penalty()
    loss.backward()
    return loss.data, zip(*scores)

def replay(example, penalty, rows):
    """The same from recordings of the two programs."""
    losses, *scores = zip(*example(rows, scale=1/len(rows)))
    return math.fsum(losses) / len(rows) + penalty([()])[0], zip(*scores)  # fsum: the same bits in every Python

def winner(scores):
    """(-0.3,) -> 0, (0.3,) -> 1, (0.1, 2.0, 0.5) -> 1: the class that scores, or the target of a row, point at."""
    return int(scores[0] > 0) if len(scores) == 1 else scores.index(max(scores))

def pictures(rows, model, wide=72, high=48):
    """The ground each class holds, and the points on it, as text and as svg."""
    xs, ys = [row[0] for row in rows], [row[1] for row in rows]
    x0, y0, dx, dy = min(xs) - 0.5, max(ys) + 0.5, (max(xs) - min(xs) + 1) / wide, (max(ys) - min(ys) + 1) / high
    def ground(i, j):
        scores = model([x0 + (j + 0.5) * dx, y0 - (i + 0.5) * dy])
        return winner(scores if isinstance(scores, list) else [scores])
    cells = [[ground(i, j) for j in range(wide)] for i in range(high)]
    text = [[' .:'[c] for c in line] for line in cells[::2]]  # a letter is twice as high as it is wide
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 48" width="720" height="480">']
    svg += [f'<rect x="{j}" y="{i}" width="1.05" height="1.05" fill="{("#f4b6a6", "#a9c8ec", "#bfe3b4")[c]}"/>'
            for i, line in enumerate(cells) for j, c in enumerate(line)]
    for row in rows:
        c, i, j = winner(row[2:]), (y0 - row[1]) / dy, (row[0] - x0) / dx
        text[int(i) // 2][int(j)] = 'ox+'[c]
        svg.append(f'<circle cx="{j:.2f}" cy="{i:.2f}" r="0.5" fill="{("#b2261e", "#1d4f91", "#2f7d1f")[c]}"/>')
    return '\n'.join(map(''.join, text)), '\n'.join(svg + ['</svg>', ''])

def run(argv):
    p = ArgumentParser('python -m micrograd', description=__doc__, allow_abbrev=False,
                       formatter_class=ArgumentDefaultsHelpFormatter)
    def error(message):  # one line that knows what was perhaps meant, where argparse prints the usage
        word = re.search("(?:arguments: |choice: ')([^ ']+)|$", message)[1]
        p.exit(2, f"{p.prog}: {message}; try {(difflib.get_close_matches(word or '', known, 1) or ['--help'])[0]}\n")
    p.error, known = error, ['moons', 'spiral', '--steps', '--seed', '--traced', '--version']
    p.add_argument('--version', action='version', version='micrograd 1.0.0')
    p.add_argument('task', nargs='?', choices=['moons', 'spiral'], default='moons', help="what to learn")
    p.add_argument('--steps', type=int, default=100, help="steps of gradient descent, each over all points")
    p.add_argument('--seed', type=int, default=1337, help="for the points and the first weights")
    p.add_argument('--traced', action='store_true', help="record the graph once and replay it: much faster")
    args = p.parse_args(argv)
    if args.steps < 0 or not 0 <= args.seed < 2**32:
        p.error(f"--steps {args.steps} --seed {args.seed}: neither may be negative, and a seed has at most 32 bits")
    random.seed(args.seed)
    rows, model, example, optimizer, schedule = (moons_task if args.task == 'moons' else spiral_task)(args.seed)
    print(f"{args.task}: {len(rows)} points, {len(model.parameters())} parameters", file=sys.stderr)
    def penalty():  # a little for every weight, so that none grows without need
        return 1e-4 * dot(model.parameters(), model.parameters())
    if args.traced:
        example, penalty = trace(example, model.parameters(), rows[0]), trace(penalty, model.parameters())
    for k in range(args.steps):
        model.zero_grad()
        loss, scores = (replay if args.traced else eager)(example, penalty, rows)
        optimizer.lr = schedule(k / args.steps)
        optimizer.step()
        right = sum(winner(s) == winner(row[2:]) for s, row in zip(scores, rows))
        print(f"step {k} loss {loss}, accuracy {100 * right / len(rows):.1f}%")
        if sys.stderr.isatty() and not sys.stdout.isatty():
            print(f"step {k + 1} of {args.steps}", end='\r', file=sys.stderr)
    text, svg = pictures(rows, model)
    print(text, flush=True)
    Path('boundary.svg').write_text(svg, encoding='utf-8')
    print("the decision boundary is in boundary.svg", file=sys.stderr)

def main(argv=None):
    try:
        return run(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough; what is still in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"python -m micrograd: {error}", file=sys.stderr)
        return 1

if __name__ == '__main__':
    sys.exit(main())
