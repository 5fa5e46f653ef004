"""The loss ladder: every type of model with its own defaults, easiest first: python tests/bench/ladder.py

Each type runs through the program itself, one process, one thread, a work dir of its own in a temporary folder. Every
finished row goes to a JSON file there at once, so that after an interruption the same command goes on where it was.
The table is markdown, as the README shows it.

    python tests/bench/ladder.py                                    all types on the lectures' split, ten minutes
    python tests/bench/ladder.py --split lecture honest             and on the split without repeats
    python tests/bench/ladder.py --types mlp gru --again            two of them, measured anew
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Dev loss on the lectures' split: what the lectures reached with this kind of model, and what ours has to reach.
LECTURE = {'bigram': 2.453, 'mlp': 2.107, 'bn-mlp': 2.106, 'wavenet': 1.9937}
GOAL = {'ngram': 1.985, 'bigram': 2.454, 'mlp': 2.08, 'bn-mlp': 2.06, 'wavenet': 1.975, 'rnn': 2.03, 'gru': 1.98,
        'lstm': 1.98, 'bow': 2.15, 'transformer': 1.96}


def run_type(kind, split, folder, source):
    """One run of the program, and its CPU seconds, start and imports included."""
    work = folder / f'{kind}-{split}'
    command = [sys.executable, source, '-i', ROOT / 'names.txt', '--type', kind, '--split', split, '--threads', '1',
               '--device', 'cpu', '-o', work, '--overwrite']
    with open(folder / f'{kind}-{split}.log', 'wb') as log:
        child = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log,
                                 env=os.environ | {'OMP_NUM_THREADS': '1'})
        try:
            _, status, usage = os.wait4(child.pid, 0)      # what this child used, and no other
        except KeyboardInterrupt:
            child.wait()      # it got the signal too, and ends behind its step
            raise
    if status:
        raise SystemExit(f'{kind} failed: see {log.name}')
    result = json.loads((work / 'result.json').read_text())
    keep = {name: result[name] for name in ('type', 'params', 'steps', 'train', 'dev', 'test', 'novelty')}
    return keep | dict(split=split, cpu=usage.ru_utime + usage.ru_stime, source=fingerprint(source))


def fingerprint(source):
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12]


def row(found, budget):
    """A result as a line of the table; goals and the lectures' figures belong to the lectures' split alone."""
    kind, lecture = found['type'], found['split'] == 'lecture'
    goal = GOAL.get(kind) if lecture else None
    best = f' ({LECTURE[kind]:.3f})' if lecture and kind in LECTURE else ''
    met = '-' if goal is None else 'yes' if found['dev'] <= goal else 'NO'
    share = [f'{100 * found["cpu"] / budget:.0f} %'] if budget else []
    return [f'`{kind}`', f'{found["params"]:,}', f'{found["steps"]:,}', f'{found["cpu"]:.3g}', *share,
            f'{found["dev"]:.4f}{best}', f'{found["test"]:.4f}', f'{100 * found["novelty"]:.0f} %',
            f'{goal:.3f}' if goal else '-', met]


def markdown(rows, budget):
    head = ['type', 'parameters', 'steps', 'CPU s', *['of the budget'] * bool(budget), 'dev (lecture)', 'test', 'new',
            'goal', 'met']
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (head, ['---'] * len(head), *rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--types', nargs='+', choices=GOAL, default=list(GOAL), metavar='TYPE', help='default: all')
    parser.add_argument('--split', nargs='+', choices=('lecture', 'honest'), default=['lecture'])
    parser.add_argument('--folder', type=Path, default=Path(tempfile.gettempdir()) / 'makemore-ladder',
                        help='work dirs, logs and rows.json (default: %(default)s)')
    parser.add_argument('--again', action='store_true', help='measure anew what rows.json has already')
    parser.add_argument('--budget', type=float, help='CPU seconds that a default run may use, to show the share of it')
    parser.add_argument('--source', type=Path, default=ROOT / 'makemore.py', help='the program (default: %(default)s)')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / 'rows.json'
    rows = json.loads(file.read_text()) if file.exists() else {}
    for split in args.split:
        for kind in args.types:
            if (name := f'{kind} {split}') not in rows or args.again:
                rows[name] = run_type(kind, split, args.folder, args.source)
                file.with_suffix('.tmp').write_text(json.dumps(rows, indent=1))
                file.with_suffix('.tmp').replace(file)      # never half a file, whenever one presses Ctrl-C
                print(*row(rows[name], args.budget), file=sys.stderr, flush=True)
    for split in args.split:
        found = [rows[f'{kind} {split}'] for kind in args.types]
        print(f'\n--split {split}\n\n{markdown([row(r, args.budget) for r in found], args.budget)}')
        if old := [r['type'] for r in found if r['source'] != fingerprint(args.source)]:
            print(f'\nmeasured with another state of {args.source.name}: {", ".join(old)}')


if __name__ == '__main__':
    main()
