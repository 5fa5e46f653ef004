"""
Runs of makemore in processes of their own, in which something is planned to go wrong.

A server process has imported torch and forks a child for every command line: this takes a tenth
of a second instead of two. A plan names what is to go wrong in the child; plans.py lists them.
"""

import atexit
import codecs
import gc
import io
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from conftest import flags

import makemore

# -----------------------------------------------------------------------------
# the server and its children


def serve():
    """Fork a child for every line on stdin, which holds a job; the fixture `server` calls this."""
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    gc.freeze()  # so that a collection in a child does not write to the pages that all share
    for line in sys.stdin:
        if os.fork() == 0:
            watch(json.loads(line))


def warm_up():
    """Import what a run imports late.

    This saves time, and a child that has become another user may not be able to read the folders
    of Python and of torch.
    """
    import torch.utils.tensorboard
    import tqdm  # noqa: F401

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch on first use
    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    torch.load(file, weights_only=True)
    for name in ('utf-8-sig', 'utf-32-le'):
        codecs.lookup(name)


def watch(job):
    """Fork the process that does the work, wait for its end, and leave a note about it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    pid = os.fork()
    if pid == 0:
        os._exit(run_to_the_end(job))
    write_note(job['log'], 'pid', pid)
    _, status, usage = os.wait4(pid, 0)
    write_note(job['log'], 'end', [os.waitstatus_to_exitcode(status), usage.ru_maxrss])
    os._exit(0)


def run_to_the_end(job):
    """Run the job and do what Python does at its end; the exit code.

    Python would also take torch apart, which takes longer than a run.
    """
    try:
        code = run_job(job)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            print('Exception ignored:', repr(error), file=sys.stderr)
            code = code or 120
    return code


def run_job(job):
    """Run a command line after preparing what is planned; the exit code."""
    os.chdir(job['cwd'])
    open_streams(job)
    write_note(job['log'], 'began', True)
    for name, *arguments in job['plan']:
        plan = pkgutil.resolve_name(name if ':' in name else f'plans:{name}')
        plan(job, *arguments)
    return makemore.main(job['args'])


def open_streams(job):
    """Connect stdin, stdout and stderr: with the terminal of the job, or with files in its log."""
    output_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    if job['tty']:
        os.setsid()
        output_flags = os.O_RDWR  # the first terminal that a session leader opens becomes its own
    stdin = job['tty'] or job['stdin'] or os.devnull
    stdout = job['stdout'] or f'{job["log"]}/out'
    stderr = job['stderr'] or f'{job["log"]}/err'
    os.dup2(os.open(stdin, os.O_RDONLY if job['stdin'] else os.O_RDWR), 0)
    os.dup2(os.open(stdout, output_flags), 1)
    os.dup2(os.open(stderr, output_flags), 2)
    sys.stdin = open(0, encoding='utf-8')  # noqa: SIM115
    sys.stdout = open(1, 'w', encoding='utf-8', buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, 'w', encoding='utf-8')  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)


def write_note(log, name, content):
    """Leave a note in the log of a job. It appears at once, with all of its content."""
    temporary = Path(log, name + '.tmp')
    temporary.write_text(json.dumps(content))
    temporary.rename(Path(log, name))


class End(NamedTuple):
    """How a command line ended."""

    code: int  # minus the number of the signal, if one ended it
    out: str
    err: str
    max_rss: int  # the most memory that it held, in KB


class Child:
    """A command line that is being run."""

    def __init__(self, log):
        self.log = Path(log)

    def read_note(self, name, seconds=60):
        """Wait for a note of the child, and return its content."""
        for _ in range(int(seconds * 200)):
            if (self.log / name).exists():
                return json.loads((self.log / name).read_text())
            time.sleep(0.005)
        raise AssertionError(f'no note {name} after {seconds} s: {self.read_output()}')

    def read_output(self):
        """What is in stdout and in stderr so far."""
        paths = [self.log / 'out', self.log / 'err']
        return [path.read_text('utf-8', 'replace') if path.exists() else '' for path in paths]

    def kill(self, number=signal.SIGKILL):
        """Send a signal to the child."""
        os.kill(self.read_note('pid'), number)

    def wait(self):
        """Wait for the end."""
        code, max_rss = self.read_note('end')
        out, err = self.read_output()
        return End(code, out, err, max_rss)


# -----------------------------------------------------------------------------
# command lines and what they leave

SMALL_MODEL = {'n_layer': 1, 'n_head': 2, 'n_embd': 8, 'n_hidden': 8}
SHORT_RUN = {'max_steps': 12, 'eval_interval': 3, 'num_samples': 3}
OF_THE_TYPE = {
    'mlp': ['--dropout', '0.2'],
    'transformer': ['--dropout', '0.2'],
    'gru': ['--sample-interval', '4'],
    'bow': ['--text', '--block-size', '8', '--length', '9'],
}


def small_run(model_type, names, *more):
    """The command line of a run of twelve steps."""
    settings = [*flags(SMALL_MODEL | SHORT_RUN), *OF_THE_TYPE.get(model_type, [])]
    return ['-i', names, '--type', model_type, *settings, *more]


def assert_one_line(end, code, *needles):
    """Fail unless the command ended with the code and with one line about the reason.

    The line comes after what was printed while all was well, and contains the needles.
    """
    last_line = end.err.splitlines()[-1] if end.err else ''
    assert end.code == code, end
    assert 'Traceback' not in end.err and 'Exception' not in end.err, end
    assert last_line.startswith('makemore: '), end
    assert end.err.count('makemore: ') == 1, end
    for needle in needles:
        assert needle in last_line, (needle, end)


def contents(folder):
    """The files of a run and their bytes, without those of TensorBoard."""
    files = [path for path in folder.glob('*') if path.is_file() and 'tfevents' not in path.name]
    return {path.name: path.read_bytes() for path in files}


def assert_loads(folder):
    """Fail unless every checkpoint in the folder can be loaded."""
    for path in folder.glob('*.pt'):
        makemore.load_checkpoint(path)
