"""
How do time and memory grow with the sizes of a model and of a text?

    python tests/bench/cost.py                             steps, memory and ranks: 10 minutes
    python tests/bench/cost.py --only huge                 a text of 5 GB
    python tests/bench/cost.py --steps 2 --scale 0.01      only to try it out

steps: the time of a training step of a transformer on one core, one size changed at a time.
memory: what the program holds, against the size of a text.
ranks: one process against two that share the batch.
huge: the same as memory for a text of 5 GB, and the time from start to end.

Every line of the table is a run of the program itself, with one thread in each process.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench_makemore import describe_machine

ROOT = Path(__file__).resolve().parents[2]

# the sizes that stay, and the values of the one that changes
SIZES = {'n_embd': 64, 'n_layer': 4, 'block_size': 64, 'batch_size': 16}
VALUES = {
    'n_embd': (64, 128, 256, 512),
    'n_layer': (2, 4, 8),
    'block_size': (32, 64, 128, 256),
    'batch_size': (8, 16, 32),
}
VOCAB_SIZES = (512, 2048)  # of byte pairs; single characters are 13

LARGE_SIZES = {'n_embd': 256, 'n_layer': 4, 'block_size': 64, 'batch_size': 64}
PAGE = 100_000  # characters

# -----------------------------------------------------------------------------
# a run of the program


class Cost(NamedTuple):
    """What a run cost."""

    ms_per_step: float  # of training
    peak_mb: float  # of the program's own memory


def make_flags(settings: dict) -> list[str]:
    """{'n_embd': 64, 'text': True} -> ['--n-embd', '64', '--text']"""
    flags = []
    for name, value in settings.items():
        flags.append('--' + name.replace('_', '-'))
        if value is not True:
            flags.append(str(value))
    return flags


def read_own_memory(pid: int) -> float:
    """MB that a process holds; pages of a mapped file are not its own. 0 if it has ended."""
    try:
        status = Path(f'/proc/{pid}/status').read_text()
        kilobytes = status.split('RssAnon:')[1].split()[0]
    except (OSError, IndexError):
        return 0.0
    return int(kilobytes) / 1024


def run_program(args: argparse.Namespace, n_ranks: int | None = None, **settings) -> Cost:
    """Run the program with some settings; with n_ranks, in so many processes."""
    command = [sys.executable]
    if n_ranks:
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={n_ranks}']
    work_dir = Path(tempfile.mkdtemp(dir=args.folder))
    settings |= {'work_dir': work_dir, 'device': 'cpu', 'text': True}
    command += [str(args.source), *make_flags(settings)]
    log_path = work_dir / 'log.txt'
    with open(log_path, 'wb') as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {'OMP_NUM_THREADS': '1'}
        )
        peak_mb = 0.0
        while child.poll() is None:
            peak_mb = max(peak_mb, read_own_memory(child.pid))
            time.sleep(0.02)
    if child.returncode != 0:
        raise SystemExit(log_path.read_text(errors='replace'))
    result = json.loads((work_dir / 'result.json').read_text())
    return Cost(1e3 * result['seconds'] / result['steps'], peak_mb)


def write_text(args: argparse.Namespace, n_pages: int) -> Path:
    """A text of that many pages, of words from a small vocabulary; no page occurs twice."""
    n_pages = max(1, round(n_pages * args.scale))
    path = args.folder / f'{n_pages}-pages.txt'
    rng = random.Random(1)
    words = [''.join(rng.choices('etaoinshrdlu', k=rng.randint(1, 9))) for _ in range(5000)]
    with open(path, 'w', encoding='utf-8') as file:
        for _ in range(n_pages):
            page = ' '.join(rng.choices(words, k=20000))
            file.write(page[: PAGE - 1] + '\n')
    return path


# -----------------------------------------------------------------------------
# what grows: each yields lines of the table


def run_transformer(args: argparse.Namespace, path: Path, **settings) -> float:
    """Milliseconds per step of a transformer on a text."""
    settings |= {
        'input_file': path,
        'type': 'transformer',
        'max_steps': args.steps,
        'eval_interval': args.steps,
        'dropout': 0,
        'num_samples': 1,
        'length': 1,
    }
    return run_program(args, **settings).ms_per_step


def measure_steps(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Time of a step, with one size changed at a time."""
    path = write_text(args, 1)
    for name, values in VALUES.items():
        for value in values:
            ms = run_transformer(args, path, **SIZES | {name: value})
            yield f'{name} {value}', f'{ms:.0f} ms a step'
    for vocab_size in VOCAB_SIZES:
        settings = {'tokenizer': 'bpe', 'vocab_size': vocab_size}
        ms = run_transformer(args, path, **SIZES, **settings)
        yield f'vocabulary {vocab_size}', f'{ms:.0f} ms a step'


def measure_memory(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Memory against the size of a text."""
    for n_pages in (10, 100, 1000):
        path = write_text(args, n_pages)
        cost = run_program(args, input_file=path, type='bigram', max_steps=20)
        yield f'a text of {path.stat().st_size / 1e6:g} MB', f'{cost.peak_mb:.0f} MB'


def measure_ranks(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """256 channels: one process against two, which take turns. Medians of three runs."""
    path = write_text(args, 1)
    found = {1: [], 2: []}
    for _ in range(3):
        for n_ranks, times in found.items():
            times.append(run_transformer(args, path, n_ranks=n_ranks, **LARGE_SIZES))
    one = median(found[1])
    two = median(found[2])
    yield 'one process, 256 channels', f'{one:.0f} ms a step'
    yield 'two processes', f'{two:.0f} ms a step, {one / two:.2f} times faster'


def measure_huge(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Memory and time for 5 GB, which are 100 MB fifty times over."""
    part = write_text(args, 1000).read_bytes()
    path = args.folder / 'huge.txt'
    with open(path, 'wb') as file:
        for _ in range(50):
            file.write(part)
    begin = time.perf_counter()
    cost = run_program(args, input_file=path, type='bigram', max_steps=20)
    seconds = time.perf_counter() - begin
    size = path.stat().st_size / 1e9
    yield f'a text of {size:g} GB', f'{cost.peak_mb:.0f} MB, {seconds:.0f} seconds'


MEASUREMENTS = {
    'steps': measure_steps,
    'memory': measure_memory,
    'ranks': measure_ranks,
    'huge': measure_huge,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = ['steps', 'memory', 'ranks']
    add('--only', nargs='+', choices=MEASUREMENTS, default=default, help='default: all but huge')
    add('--steps', type=int, default=40, help='training steps of a run (default: 40)')
    add('--scale', type=float, default=1.0, help='below 1: shorter texts')
    add('--source', type=Path, default=ROOT / 'makemore.py', help='the makemore.py to measure')
    args = parser.parse_args()

    print(describe_machine())
    print('\n| what | cost |\n| --- | --- |')
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            args.folder = Path(folder)
            for what, cost in MEASUREMENTS[name](args):
                print(f'| {what} | {cost} |', flush=True)


if __name__ == '__main__':
    main()
