"""The README's pictures of TensorBoard: runs, a real TensorBoard over them, and Chromium without a window.

    python tests/pictures.py                 all of them, into tests/pictures/, in a few minutes
    python tests/pictures.py curves hparams  these only
    python tests/pictures.py --runs FOLDER   over runs that are there already, or are to be kept

It needs Chromium, which is told what to do over a pipe (its DevTools protocol): nothing has to be installed for that.
A picture more is one line in PICTURES, and the command of its run in RUNS.
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

from PIL import Image      # comes with TensorBoard

HERE = Path(__file__).resolve().parent
RUNS = {      # folder below the runs, and the command that fills it
    'sweep/rate-1e-4': '--type mlp --max-steps 2000 --eval-interval 100 -l 1e-4',
    'sweep/rate-1e-3': '--type mlp --max-steps 2000 --eval-interval 100 -l 1e-3',
    'sweep/rate-1e-2': '--type mlp --max-steps 2000 --eval-interval 100 -l 1e-2',
    'inside/rate-5e-3': '--type mlp --max-steps 1000 --diagnose 100',
    'inside/rate-too-high': '--type mlp --max-steps 1000 --diagnose 100 -l 0.3',
    'letters/mlp': '--type mlp --max-steps 10000',
}
# Pages are made of elements within elements: all() looks into every one of them. A script that complains is tried
# again a little later, as what it looks for may still be on its way.
ALL = """
    const inside = root => [...root.querySelectorAll("*")].flatMap(e => [e.shadowRoot, e.contentDocument]);
    const all = (what, root = document) => [...root.querySelectorAll(what),
                                            ...inside(root).filter(Boolean).flatMap(inner => all(what, inner))];"""
CLOSE = 'all("button[aria-label=\'Close side pane\']").forEach(e => e.click());'
COLUMNS = """const boxes = all(".hparam-checkbox, .metric-checkbox");
    const wanted = e => /learning_rate|train|dev|test|novelty/.test(e.textContent);
    if (!boxes.length) throw "no table yet";
    boxes.filter(e => e.checked != wanted(e)).forEach(e => e.click());"""
LETTERS = """const map = all("vz-projector")[0], n = map.dataSet.points.length;
    if (map.dataSet.points.some(p => p.metadata.label === undefined)) throw "labels are still to come";
    all("#z-checkbox").filter(e => e.checked).forEach(e => e.click());
    setTimeout(() => map.notifySelectionChanged([...Array(n).keys()]), 1000);"""      # who is selected shows its name
# Of each picture: its runs, its page, width and height, and what is done on the page before it is taken.
PICTURES = dict(
    curves=('sweep', '?tagFilter=loss&smoothing=0#timeseries', (1160, 590), CLOSE),
    histograms=('inside', '?tagFilter=^activation#timeseries', (1160, 480), CLOSE),
    saturation=('inside', '?tagFilter=saturated#timeseries', (1160, 490), CLOSE),
    hparams=('sweep', '#hparams', (1260, 320), COLUMNS),
    projector=('letters', '#projector', (1160, 760), LETTERS),
)


def train(folder, wanted):
    for name, command in RUNS.items():
        if name.split('/')[0] in wanted and not (folder / name / 'result.json').exists():
            words = ['makemore.py', '-i', 'names.txt', *shlex.split(command), '-o', folder / name, '--overwrite']
            print('python', *words, file=sys.stderr)
            subprocess.run([sys.executable, *map(str, words)], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)


class Chromium:
    """A browser without a window, and one page in it."""

    def __init__(self, program, profile):
        (ours, to), (from_, theirs) = os.pipe(), os.pipe()
        line = f'exec "$@" 3<&{ours} 4>&{theirs}'      # its two ends of the pipes have fixed numbers
        flags = ['--headless=new', '--remote-debugging-pipe', '--no-first-run', '--hide-scrollbars',
                 '--no-proxy-server', f'--user-data-dir={profile}',
                 '--use-angle=swiftshader', '--enable-unsafe-swiftshader']      # 3-D without a graphics card
        flags += ['--no-sandbox'] * (hasattr(os, 'geteuid') and os.geteuid() == 0)
        self.child = subprocess.Popen(['sh', '-c', line, 'sh', program, *flags], pass_fds=(ours, theirs),
                                      stderr=subprocess.DEVNULL)
        os.close(ours), os.close(theirs)
        self.to, self.answers, self.number, self.session = open(to, 'wb'), open(from_, 'rb'), 0, None
        target = self.tell('Target.createTarget', url='about:blank')['targetId']
        self.session = self.tell('Target.attachToTarget', targetId=target, flatten=True)['sessionId']

    def tell(self, method, **params):
        """One order and its answer; what else the browser has to say is not listened to."""
        self.number += 1
        order = dict(id=self.number, method=method, params=params)
        if self.session:
            order['sessionId'] = self.session
        self.to.write(json.dumps(order).encode() + b'\0')
        self.to.flush()
        while True:
            answer = bytearray()
            while (byte := self.answers.read(1)) != b'\0':
                if not byte:
                    raise SystemExit('Chromium has gone')
                answer += byte
            answer = json.loads(answer)
            if answer.get('id') == self.number:
                if 'error' in answer:
                    raise SystemExit(f'Chromium: {method}: {answer["error"]["message"]}')
                return answer['result']

    def runs(self, script):
        """Whether some JavaScript ran on the page without complaint."""
        return 'exceptionDetails' not in self.tell('Runtime.evaluate', expression=f'(() => {{ {ALL} {script} }})()')

    def picture(self, address, size, script, settle):
        self.tell('Emulation.setDeviceMetricsOverride', width=size[0], height=size[1], deviceScaleFactor=1,
                  mobile=False)
        self.tell('Page.navigate', url='about:blank')
        self.tell('Page.navigate', url=address)
        for _ in range(20):
            time.sleep(settle)
            if self.runs(script):
                break
        else:
            raise SystemExit(f'{address}: the page has not come to look as expected by {script}')
        time.sleep(settle)
        return Image.open(io.BytesIO(base64.b64decode(self.tell('Page.captureScreenshot', format='png')['data'])))


def board(folder):
    """A TensorBoard over the runs: its process and its address."""
    child = subprocess.Popen([sys.executable, '-m', 'tensorboard.main', '--logdir', str(folder), '--host', '127.0.0.1',
                              '--port', '0', '--load_fast', 'false'], stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if found := re.search(r'http://\S+:\d+/', line):
            return child, found[0]
    raise SystemExit('TensorBoard has not started')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'of {", ".join(PICTURES)} (default: all)')
    parser.add_argument('--runs', type=Path, help='folder of the runs (default: one that is thrown away)')
    parser.add_argument('--out', type=Path, default=HERE / 'pictures', help='where they go (default: %(default)s)')
    parser.add_argument('--settle', type=float, default=4, help='seconds a page gets to draw (default: %(default)s)')
    args = parser.parse_args()
    names = args.names or list(PICTURES)
    program = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
    if not program:
        return 'no Chromium here, so no pictures: apt-get install chromium'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = (args.runs or Path(scratch) / 'runs').resolve()
        train(folder, {PICTURES[name][0] for name in names})
        args.out.mkdir(parents=True, exist_ok=True)
        browser = Chromium(program, f'{scratch}/profile')
        try:
            for name in names:
                runs, page, size, script = PICTURES[name]
                child, address = board(folder / runs)
                try:
                    image = browser.picture(address + page, size, script, args.settle)
                finally:
                    child.terminate()
                path = args.out / f'{name}.png'      # 64 colours do, and make it a third as large
                image.convert('RGB').quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
                print(f'{path}: {path.stat().st_size:,} bytes')
        finally:
            browser.child.terminate()
            browser.child.wait()


if __name__ == '__main__':
    sys.exit(main())
