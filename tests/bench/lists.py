"""
Is the default, several models together, the best choice for any list?

    python tests/bench/lists.py towns.txt heroes.txt --types mix ngram gru rnn
    python tests/bench/lists.py names.txt --types mix ngram,lstm,transformer transformer

A type with commas is a mix of these members. The program itself trains each type on each list,
with its defaults and three seeds, in one process with one thread. The numbers are means; behind
± stands the standard deviation over the seeds. Every finished run goes to rows.json in the
folder, so that after an interruption the same command continues where it was.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_makemore import describe_machine
from ladder import ROOT, load_rows, run_command, save_rows

SINGLE_TYPES = ['ngram', 'gru', 'lstm', 'rnn', 'wavenet', 'transformer']
COLUMNS = ['list', 'lines', 'type', 'dev loss', 'test loss', 'novelty', 'CPU seconds']


def measure_run(args: argparse.Namespace, path: Path, kind: str, seed: int) -> dict[str, Any]:
    """Train one type on one list; its losses and what it cost."""
    name = f'{path.stem}-{kind}-{args.split}-{seed}'
    work_dir = args.folder / name
    command = [sys.executable, str(args.source), '-i', str(path), '--split', args.split]
    command += ['--members', kind, '--type', 'mix'] if ',' in kind else ['--type', kind]
    command += ['--seed', str(seed), '--threads', '1', '--device', 'cpu']
    command += ['-o', str(work_dir), '--overwrite']
    cpu_seconds = run_command(command, args.folder / f'{name}.log')
    result = json.loads((work_dir / 'result.json').read_text())
    return {name: result[name] for name in ('dev', 'test', 'novelty')} | {'cpu': cpu_seconds}


def measure_missing(args: argparse.Namespace) -> dict[str, dict]:
    """All runs, of which those that are missing are made now."""
    file = args.folder / 'rows.json'
    rows = load_rows(file)
    for path in args.lists:
        for kind in args.types:
            for seed in args.seeds:
                name = f'{path.stem} {kind} {args.split} {seed}'
                if name not in rows:
                    rows[name] = measure_run(args, path, kind, seed)
                    save_rows(file, rows)
    return rows


def average(runs: list[dict[str, float]], name: str, digits: int) -> str:
    """Mean and standard deviation of a number over the seeds."""
    numbers = [run[name] for run in runs]
    mean = f'{statistics.mean(numbers):.{digits}f}'
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0
    return f'{mean} ± {spread:.{digits}f}' if spread else mean


def print_list(args: argparse.Namespace, rows: dict[str, dict], path: Path):
    """The rows of one list, and how the mix compares with the best of the others."""
    n_lines = len(path.read_text(encoding='utf-8').splitlines())
    means = {}
    for kind in args.types:
        runs = [rows[f'{path.stem} {kind} {args.split} {seed}'] for seed in args.seeds]
        cells = [path.stem, f'{n_lines:,}', f'`{kind}`', average(runs, 'dev', 4)]
        cells += [
            average(runs, 'test', 4),
            f'{100 * statistics.mean(r["novelty"] for r in runs):.0f} %',
        ]
        cells.append(f'{statistics.mean(r["cpu"] for r in runs):.3g}')
        print('| ' + ' | '.join(cells) + ' |')
        means[kind] = [statistics.mean(run[split] for run in runs) for split in ('dev', 'test')]
    if 'mix' in means and len(means) > 1:
        mix_dev, mix_test = means.pop('mix')
        best_dev = min(dev for dev, _ in means.values())
        best_test = min(test for _, test in means.values())
        gains = f'dev {mix_dev - best_dev:+.4f}, test {mix_test - best_test:+.4f}'
        print(f'| {path.stem} | | mix minus the best of the others | {gains} | | | |', flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('lists', nargs='+', type=Path, help='files with one item per line')
    add('--types', nargs='+', default=['mix', *SINGLE_TYPES])
    add('--split', choices=('lecture', 'honest'), default='honest')
    add('--seeds', nargs='+', type=int, default=[1, 2, 3])
    folder = Path(tempfile.gettempdir()) / 'makemore-lists'
    add('--folder', type=Path, default=folder, help=f'runs and rows.json (default: {folder})')
    add('--source', type=Path, default=ROOT / 'makemore.py', help='the makemore.py to measure')
    args = parser.parse_args()

    print(describe_machine())
    args.source = args.source.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = measure_missing(args)
    for cells in (COLUMNS, ['---'] * len(COLUMNS)):
        print('| ' + ' | '.join(cells) + ' |')
    for path in args.lists:
        print_list(args, rows, path)


if __name__ == '__main__':
    main()
