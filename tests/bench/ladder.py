"""
The losses of all types of models, each with its own defaults, easiest first.

    python tests/bench/ladder.py                              on the lectures' split: ten minutes
    python tests/bench/ladder.py --split lecture honest       and on the one without repeats
    python tests/bench/ladder.py --types mlp gru --again      two of them, measured anew
    python tests/bench/ladder.py --max-steps 20 --folder /tmp/trial      only to try it out

Each type is trained by the program itself, in one process with one thread. Every finished row
goes to rows.json in the folder, so that after an interruption the same command continues where
it was. The table is markdown.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_makemore import describe_machine

ROOT = Path(__file__).resolve().parents[2]

# Dev losses on the lectures' split: the best that a lecture reached with such a model ...
LECTURE = {'bigram': 2.453, 'mlp': 2.107, 'bn-mlp': 2.106, 'wavenet': 1.9937}
# ... and what ours has to reach.
GOALS = {
    'ngram': 1.985,
    'bigram': 2.454,
    'mlp': 2.08,
    'bn-mlp': 2.06,
    'wavenet': 1.975,
    'rnn': 2.03,
    'gru': 1.98,
    'lstm': 1.98,
    'bow': 2.15,
    'transformer': 1.96,
}
TYPES = [*GOALS, 'mix']

# -----------------------------------------------------------------------------
# running


def fingerprint(source: Path) -> str:
    """A few letters that change with the program, makemore_extras included."""
    files = [source, *sorted(source.parent.glob('makemore_extras/*.py'))]
    content = b''.join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:12]


def make_command(args: argparse.Namespace, kind: str, split: str, work_dir: Path) -> list[str]:
    """The command line of a run with the defaults of a type of model."""
    command = [sys.executable, str(args.source), '-i', str(ROOT / 'names.txt')]
    command += ['--type', kind, '--split', split, '--threads', '1', '--device', 'cpu']
    command += ['-o', str(work_dir), '--overwrite']
    if args.max_steps is not None:
        command += ['--max-steps', str(args.max_steps)]
    return command


def run_command(command: list[str], log_path: Path) -> float:
    """Run the program; the CPU seconds that it used, start and imports included."""
    with open(log_path, 'wb') as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {'OMP_NUM_THREADS': '1'}
        )
        try:
            # what this child used, and no other
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.wait()  # it got the signal too, and stops after its step
            raise
    if status != 0:
        raise SystemExit(f'the run failed: see {log_path}')
    return usage.ru_utime + usage.ru_stime


def measure_type(args: argparse.Namespace, kind: str, split: str) -> dict[str, Any]:
    """Train a type of model; its losses and what it cost."""
    name = f'{kind}-{split}'
    work_dir = args.folder / name
    command = make_command(args, kind, split, work_dir)
    cpu_seconds = run_command(command, args.folder / f'{name}.log')
    result = json.loads((work_dir / 'result.json').read_text())
    names = ('type', 'params', 'steps', 'train', 'dev', 'test', 'novelty')
    found = {name: result[name] for name in names}
    return found | {'split': split, 'cpu': cpu_seconds, 'source': fingerprint(args.source)}


# -----------------------------------------------------------------------------
# the rows that are kept


def load_rows(file: Path) -> dict[str, dict]:
    """The rows of earlier calls."""
    return json.loads(file.read_text()) if file.exists() else {}


def save_rows(file: Path, rows: dict[str, dict]):
    """Write all rows; a Ctrl-C at any moment leaves the old file or the new one."""
    temporary = file.with_suffix('.tmp')
    temporary.write_text(json.dumps(rows, indent=1))
    temporary.replace(file)


def measure_missing(args: argparse.Namespace) -> dict[str, dict]:
    """All rows, of which those that are missing are measured now."""
    file = args.folder / 'rows.json'
    rows = load_rows(file)
    for split in args.split:
        for kind in args.types:
            name = f'{kind} {split}'
            if name in rows and not args.again:
                continue
            rows[name] = measure_type(args, kind, split)
            save_rows(file, rows)
            print(*make_cells(rows[name]), file=sys.stderr, flush=True)
    return rows


# -----------------------------------------------------------------------------
# the table

COLUMNS = ['type', 'parameters', 'steps', 'CPU seconds', 'dev loss', 'test loss', 'novelty']
LECTURE_COLUMNS = ["the lecture's", 'goal', 'met']  # these are figures for the lectures' split


def make_cells(found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    cells = [
        f'`{found["type"]}`',
        f'{found["params"]:,}',
        f'{found["steps"]:,}',
        f'{found["cpu"]:.3g}',
        f'{found["dev"]:.4f}',
        f'{found["test"]:.4f}',
        f'{100 * found["novelty"]:.0f} %',
    ]
    if found['split'] == 'lecture':
        lecture = LECTURE.get(found['type'], '-')
        goal = GOALS.get(found['type'])
        met = 'yes' if goal and found['dev'] <= goal else 'NO'
        cells += [str(lecture), f'{goal:.3f}', met] if goal else ['-', '-', '-']
    return cells


def print_table(args: argparse.Namespace, rows: dict[str, dict], split: str):
    """The rows of a split, and a note if some are of another state of the program."""
    found = [rows[f'{kind} {split}'] for kind in args.types]
    print(f'\n--split {split}\n')
    head = COLUMNS + (LECTURE_COLUMNS if split == 'lecture' else [])
    lines = [head, ['---'] * len(head), *map(make_cells, found)]
    for cells in lines:
        print('| ' + ' | '.join(cells) + ' |')
    current = fingerprint(args.source)
    outdated = [row['type'] for row in found if row['source'] != current]
    if outdated:
        print(f'\nmeasured with another state of the program: {", ".join(outdated)}')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--types', nargs='+', choices=TYPES, default=TYPES, help='default: all')
    add('--split', nargs='+', choices=('lecture', 'honest'), default=['lecture'])
    folder = Path(tempfile.gettempdir()) / 'makemore-ladder'
    add('--folder', type=Path, default=folder, help=f'runs and rows.json (default: {folder})')
    add('--again', action='store_true', help='measure anew what rows.json has already')
    add('--source', type=Path, default=ROOT / 'makemore.py', help='the makemore.py to measure')
    add('--max-steps', type=int, help='fewer steps than the defaults, to try it out')
    args = parser.parse_args()

    print(describe_machine())
    args.source = args.source.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = measure_missing(args)
    for split in args.split:
        print_table(args, rows, split)


if __name__ == '__main__':
    main()
