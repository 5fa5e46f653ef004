"""How cost grows: python tests/bench/cost.py [--only steps memory ranks huge]

Time per training step of a transformer on one core, one size changed at a time; memory against the size of a text; and
one process against two. Every line is a run of the program itself, and what it prints is what the README shows.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIDDLE = dict(n_embd=64, n_layer=4, block_size=64, batch_size=16)
CHANGED = dict(n_embd=(64, 128, 256, 512), n_layer=(2, 4, 8), block_size=(32, 64, 128, 256), batch_size=(8, 16, 32))
VOCABULARY = (65, 512, 2048)


def program(folder, *args, ranks=0, settings={}):
    """A run of the program: seconds of training per step, and the most memory of its own that it held, in MB."""
    start = [sys.executable] if not ranks else [sys.executable, '-m', 'torch.distributed.run', '--standalone',
                                                f'--nproc_per_node={ranks}']
    flags = [part for name, value in settings.items() for part in ('--' + name.replace('_', '-'), str(value))]
    out = Path(tempfile.mkdtemp(dir=folder))
    child = subprocess.Popen([*start, str(ROOT / 'makemore.py'), '-o', str(out / 'run'), '--device', 'cpu', *args,
                              *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {'OMP_NUM_THREADS': '1'})
    peak = [0]
    def watch():      # mapped pages of a file are not the program's own: RssAnon leaves them out
        while child.poll() is None:
            try:
                status = Path(f'/proc/{child.pid}/status').read_text()
                peak[0] = max(peak[0], int(status.split('RssAnon:')[1].split()[0]))
            except (OSError, IndexError):
                pass
            time.sleep(0.02)
    watcher = threading.Thread(target=watch)
    watcher.start()
    error = child.stderr.read()
    watcher.join()
    if child.wait():
        raise SystemExit(error)
    result = json.loads((out / 'run' / 'result.json').read_text())
    return result['seconds'] / max(1, result['steps']), peak[0] / 1024


def text(folder, pages):
    """A text of so many pages of 100,000 characters: words drawn from a small vocabulary, never twice the same page."""
    path, rng = Path(folder) / f'{pages}.txt', random.Random(1)
    words = [''.join(rng.choices('etaoinshrdlu', k=rng.randint(1, 9))) for _ in range(5000)]
    with open(path, 'w') as file:
        for _ in range(pages):
            file.write((' '.join(rng.choices(words, k=20000)) + '\n')[:100_000])
    return path


def steps(folder):
    """Milliseconds a step, one size changed at a time."""
    path, args = text(folder, 1), ['--text', '--type', 'transformer', '--max-steps', '40', '--eval-interval', '40',
                                   '--dropout', '0', '--num-samples', '1', '--length', '1']
    for name, values in CHANGED.items():
        for value in values:
            seconds, _ = program(folder, '-i', str(path), *args, settings=MIDDLE | {name: value})
            yield f'{name} {value}', f'{1000 * seconds:.0f} ms a step'
    for size in VOCABULARY[1:]:
        seconds, _ = program(folder, '-i', str(path), '--tokenizer', 'bpe', '--vocab-size', str(size), *args,
                             settings=MIDDLE)
        yield f'vocabulary {size}', f'{1000 * seconds:.0f} ms a step'


def memory(folder):
    """Memory of its own against the size of a text."""
    for pages in (10, 100, 1000):
        path = text(folder, pages)
        _, peak = program(folder, '-i', str(path), '--text', '--type', 'bigram', '--max-steps', '20')
        yield f'a text of {pages // 10} MB', f'{peak:.0f} MB'


def huge(folder):
    """The same for 5 GB, 100 MB fifty times over, and the seconds that it took from start to end."""
    path, part = Path(folder) / 'huge.txt', text(folder, 1000).read_bytes()
    with open(path, 'wb') as file:
        for _ in range(50):
            file.write(part)
    begin = time.perf_counter()
    _, peak = program(folder, '-i', str(path), '--text', '--type', 'bigram', '--max-steps', '20')
    yield 'a text of 5 GB', f'{peak:.0f} MB, {time.perf_counter() - begin:.0f} seconds'


def ranks(folder):
    """256 channels, one thread each: one process, then two that share the batch. Alternating, the median of three."""
    found = {1: [], 2: []}
    sizes = dict(n_embd=256, n_layer=4, block_size=64, batch_size=64)
    path = text(folder, 1)
    for _ in range(3):
        for n in found:
            found[n].append(program(folder, '-i', str(path), '--text', '--type', 'transformer', '--max-steps', '40',
                                    '--eval-interval', '40', '--dropout', '0', '--length', '1', ranks=n,
                                    settings=sizes)[0])
    one, two = (sorted(times)[1] for times in found.values())
    yield 'one process, 256 channels', f'{1000 * one:.0f} ms a step'
    yield 'two processes', f'{1000 * two:.0f} ms a step, {one / two:.2f} times faster'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', choices=('steps', 'memory', 'ranks', 'huge'),
                        default=('steps', 'memory', 'ranks'))
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().only:
            for what, cost in globals()[name](folder):
                print(f'| {what} | {cost} |', flush=True)


if __name__ == '__main__':
    main()
