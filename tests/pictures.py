"""
The README's pictures: runs, their own pictures, and a real TensorBoard over them in Chromium.

    python tests/pictures.py                 all of them, into tests/pictures/, in a few minutes
    python tests/pictures.py curves updates  only these
    python tests/pictures.py --runs FOLDER   of runs that are there already, or are to be kept

Chromium runs without a window and is told what to do over a pipe (its DevTools protocol), so
nothing has to be installed for that. Another picture is one line in SCREENSHOTS or COPIES, and the
command of its run in RUNS.
"""

import argparse
import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image  # comes with TensorBoard

HERE = Path(__file__).resolve().parent

# Folder below that of the runs, and the command that fills it.
RUNS = {
    'sweep/ngram': '--type ngram',
    'sweep/rate-1e-4': '--type mlp --max-steps 1000 --eval-interval 100 -l 1e-4',
    'sweep/rate-1e-3': '--type mlp --max-steps 1000 --eval-interval 100 -l 1e-3',
    'sweep/rate-1e-2': '--type mlp --max-steps 1000 --eval-interval 100 -l 1e-2',
    'diagnostics/bn-mlp': '--type bn-mlp --max-steps 1000 --diagnose 100',
}

# -----------------------------------------------------------------------------
# scripts that a page runs before its picture is taken
#
# A script that throws is tried again a little later: what it looks for may still be loading.

# The page is made of elements within elements: all() looks into every one of them.
FIND_ALL = """
    const inside = root =>
        [...root.querySelectorAll("*")].flatMap(e => [e.shadowRoot, e.contentDocument]);
    const all = (what, root = document) => [
        ...root.querySelectorAll(what),
        ...inside(root).filter(Boolean).flatMap(inner => all(what, inner)),
    ];
"""
CLOSE_SIDE_PANE = """
    all("button[aria-label='Close side pane']").forEach(e => e.click());
"""
WAIT_FOR_TABLE = """
    if (!all(".hparam-checkbox").length) throw "no table yet";
"""


class Picture(NamedTuple):
    """Of which runs and which page it is taken, its width and height, and the script before."""

    runs: str
    page: str
    size: tuple[int, int]
    script: str


LOSSES = '?tagFilter=^loss&runFilter=/&smoothing=0#timeseries'
SCREENSHOTS = {
    'curves': Picture('sweep', LOSSES, (900, 640), CLOSE_SIDE_PANE),
    'hparams': Picture('sweep', '#hparams', (1500, 320), WAIT_FOR_TABLE),
}

# Pictures that lie in the folder of a run.
COPIES = {'activations': 'diagnostics/bn-mlp', 'updates': 'diagnostics/bn-mlp'}


def train_missing_runs(folder: Path, wanted: set[str]):
    """Train the runs in the wanted folders that are not there yet."""
    for name, command in RUNS.items():
        is_wanted = name.split('/')[0] in wanted
        if not is_wanted or (folder / name / 'result.json').exists():
            continue
        args = ['makemore.py', '-i', 'names.txt', *shlex.split(command)]
        args += ['-o', str(folder / name), '--overwrite']
        print('python', *args, file=sys.stderr)
        command_line = [sys.executable, *args]
        subprocess.run(command_line, cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)


class Chromium:
    """A browser without a window, and one page in it."""

    def __init__(self, program: str, profile: str):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        # in the browser its two ends of the pipes have the numbers 3 and 4
        shell_line = f'exec "$@" 3<&{to_read} 4>&{from_write}'
        flags = ['--headless=new', '--remote-debugging-pipe', '--no-first-run']
        flags += ['--hide-scrollbars', '--no-proxy-server', f'--user-data-dir={profile}']
        flags += ['--use-angle=swiftshader', '--enable-unsafe-swiftshader']  # 3-D without a GPU
        if hasattr(os, 'geteuid') and os.geteuid() == 0:
            flags.append('--no-sandbox')
        self.process = subprocess.Popen(
            ['sh', '-c', shell_line, 'sh', program, *flags],
            pass_fds=(to_read, from_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self.orders = open(to_write, 'wb')  # noqa: SIM115 (open as long as the browser)
        self.answers = open(from_read, 'rb')  # noqa: SIM115
        self.n_orders = 0
        self.session = None
        target = self.tell('Target.createTarget', url='about:blank')['targetId']
        attached = self.tell('Target.attachToTarget', targetId=target, flatten=True)
        self.session = attached['sessionId']

    def tell(self, method: str, **params) -> dict:
        """The answer to one order; what else the browser has to say is skipped."""
        self.n_orders += 1
        order = {'id': self.n_orders, 'method': method, 'params': params}
        if self.session:
            order['sessionId'] = self.session
        self.orders.write(json.dumps(order).encode() + b'\0')
        self.orders.flush()
        while True:
            answer = json.loads(self.read_answer())
            if answer.get('id') != self.n_orders:
                continue
            if 'error' in answer:
                raise SystemExit(f'Chromium: {method}: {answer["error"]["message"]}')
            return answer['result']

    def read_answer(self) -> bytes:
        """What the browser says up to the next zero byte."""
        answer = bytearray()
        while (byte := self.answers.read(1)) != b'\0':
            if not byte:
                raise SystemExit('Chromium has ended')
            answer += byte
        return bytes(answer)

    def run_script(self, script: str) -> bool:
        """Whether some JavaScript ran on the page without an exception."""
        expression = f'(() => {{ {FIND_ALL} {script} }})()'
        return 'exceptionDetails' not in self.tell('Runtime.evaluate', expression=expression)

    def take_picture(self, address: str, picture: Picture, settle: float) -> Image.Image:
        """The page as it looks after the script of a picture."""
        width, height = picture.size
        metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
        self.tell('Emulation.setDeviceMetricsOverride', **metrics)
        self.tell('Page.navigate', url='about:blank')
        self.tell('Page.navigate', url=address)
        for _ in range(20):
            time.sleep(settle)
            if self.run_script(picture.script):
                break
        else:
            raise SystemExit(f'{address} never looked as expected by {picture.script}')
        time.sleep(settle)
        data = self.tell('Page.captureScreenshot', format='png')['data']
        return Image.open(io.BytesIO(base64.b64decode(data)))


def start_tensorboard(folder: Path) -> tuple[subprocess.Popen, str]:
    """A TensorBoard over the runs in a folder: its process and its address."""
    command = [sys.executable, '-m', 'tensorboard.main', '--logdir', str(folder)]
    command += ['--host', '127.0.0.1', '--port', '0', '--load_fast', 'false']
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r'http://\S+:\d+/', line):
            return process, found[0]
    raise SystemExit('TensorBoard has not started')


def take_and_save(browser: Chromium, name: str, runs: Path, out: Path, settle: float):
    """Take one of SCREENSHOTS and save it."""
    picture = SCREENSHOTS[name]
    process, address = start_tensorboard(runs / picture.runs)
    try:
        image = browser.take_picture(address + picture.page, picture, settle)
    finally:
        process.terminate()
    save(image, out / f'{name}.png')


def save(image: Image.Image, path: Path):
    """Save a picture in 64 colours: they are enough, and make the file a third as large."""
    few_colours = image.convert('RGB').quantize(64, dither=Image.Dither.NONE)
    few_colours.save(path, optimize=True)
    print(f'{path}: {path.stat().st_size:,} bytes')


def find_chromium() -> str | None:
    for name in ('chromium', 'chromium-browser', 'google-chrome', 'chrome'):
        if program := shutil.which(name):
            return program
    return None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    all_names = ', '.join([*SCREENSHOTS, *COPIES])
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'{all_names} (default: all)')
    parser.add_argument('--runs', type=Path, help='folder of the runs (default: a temporary one)')
    parser.add_argument(
        '--out', type=Path, default=HERE / 'pictures', help='their folder (default: %(default)s)'
    )
    parser.add_argument(
        '--settle', type=float, default=4, help='seconds to draw a page (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> str | None:
    args = parse_args()
    names = args.names or [*SCREENSHOTS, *COPIES]
    program = find_chromium()
    if not program:
        return 'found no Chromium, so there are no pictures: apt-get install chromium'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        runs = (args.runs or Path(scratch) / 'runs').resolve()
        copies = [name for name in names if name in COPIES]
        screenshots = [name for name in names if name not in COPIES]
        wanted = {SCREENSHOTS[name].runs for name in screenshots}
        wanted |= {COPIES[name].split('/')[0] for name in copies}
        train_missing_runs(runs, wanted)
        args.out.mkdir(parents=True, exist_ok=True)
        for name in copies:
            save(Image.open(runs / COPIES[name] / f'{name}.png'), args.out / f'{name}.png')
        browser = Chromium(program, f'{scratch}/profile')
        try:
            for name in screenshots:
                take_and_save(browser, name, runs, args.out, args.settle)
        finally:
            browser.process.terminate()
            browser.process.wait()
    return None


if __name__ == '__main__':
    sys.exit(main())
