"""What goes wrong around a run: kills, signals, terminals that go away, full disks, a second run in the same folder.

Every run here is a process of its own, forked from one that has torch in memory already: 0.1 s instead of 2 s. What is
to go wrong in it is named in PLANS. With --long the kills are as many as the README's table says.
"""
import atexit
import codecs
import collections
import contextlib
import ctypes
import gc
import io
import itertools
import json
import os
import pkgutil
import pty
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
import unicodedata
from pathlib import Path

import pytest
import torch

import makemore
from comparing import checkpoint, differences, same_run

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
End = collections.namedtuple('End', 'code out err rss')

# ----------------------------------------------------------------------------------------------------------------------
# Processes by the dozen


def serve():
    """Run by the fixture `forks`: for every line on stdin a child that does what the line says."""
    import torch.utils.tensorboard, tqdm      # noqa: F401, E401
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])      # imports half of torch on its first use
    file = io.BytesIO()      # who becomes nobody may not be able to read the folders of Python and of torch
    torch.save({}, file), file.seek(0), torch.load(file, weights_only=True)
    makemore.beside('inside'), makemore.beside('beyond')
    for name in ('utf-8-sig', 'utf-32-le'):
        codecs.lookup(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)      # the tests themselves may run under nohup
    gc.freeze()      # the children's collectors leave alone, and unwritten, what they share
    for line in sys.stdin:
        if not os.fork():
            return nanny(json.loads(line))


def nanny(job):
    """Between the server and the one who works: it waits for the end, and tells of it in a file."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if not (pid := os.fork()):
        os._exit(end(work, job))
    tell(job['log'], 'pid', pid)
    status, usage = os.wait4(pid, 0)[1:]
    tell(job['log'], 'end', [os.waitstatus_to_exitcode(status), usage.ru_maxrss])
    os._exit(0)


def end(work, job):
    """What the interpreter does at its end, but for taking torch apart, which takes longer than a run."""
    try:
        code = work(job)
    except SystemExit as e:
        code = e.code
    except BaseException:
        code = traceback.print_exc() or 1
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as e:
            code = print('Exception ignored:', repr(e), file=sys.stderr) or 120
    return code


def tell(log, name, what):
    Path(log, name + '.tmp').write_text(json.dumps(what))
    os.rename(Path(log, name + '.tmp'), Path(log, name))      # whoever sees it sees all of it


def work(job):
    os.chdir(job['cwd'])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    if job['tty']:
        os.setsid()
        flags = os.O_RDWR      # the first terminal that a session's leader opens becomes its own
    files = [job['tty'] or os.devnull, job['stdout'] or f'{job["log"]}/out', job['stderr'] or f'{job["log"]}/err']
    for number, file in enumerate(files):
        os.dup2(os.open(file, flags if number else os.O_RDWR), number)
    sys.stdout, sys.stderr = (open(n, 'w', encoding='utf-8', buffering=n if n == 1 and os.isatty(1) else -1)
                              for n in (1, 2))
    sys.stderr.reconfigure(line_buffering=True)
    tell(job['log'], 'began', True)
    for name, *numbers in job['plan']:
        (PLANS.get(name) or pkgutil.resolve_name(name))(job, *numbers)
    return makemore.main(job['args'])


class Child:
    """A command line on its way."""

    def __init__(self, log):
        self.log = Path(log)

    def told(self, name, seconds=60):
        for _ in range(int(seconds * 200)):
            if (self.log / name).exists():
                return json.loads((self.log / name).read_text())
            time.sleep(0.005)
        raise AssertionError(f'nothing of {name} after {seconds} s: {self.said()}')

    def said(self):
        return [path.read_text('utf-8', 'replace') if (path := self.log / name).exists() else ''
                for name in ('out', 'err')]

    def kill(self, number=signal.SIGKILL):
        os.kill(self.told('pid'), number)

    def wait(self):
        code, rss = self.told('end')
        return End(code, *self.said(), rss)


@pytest.fixture(scope='session')
def server(tmp_path_factory):
    """server(cwd, args, plan=[['reach', 7]]) -> Child; nothing is waited for."""
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])}
    command, children = [sys.executable, '-c', 'import test_faults; test_faults.serve()'], []

    def ask(cwd, args, plan=(), **streams):
        log = tmp_path_factory.mktemp('log')
        log.chmod(0o777)
        job = dict(args=list(map(str, args)), plan=plan, log=str(log), cwd=str(cwd), stdout=None, stderr=None, tty=None)
        process.stdin.write(json.dumps(job | streams) + '\n')
        process.stdin.flush()
        children.append(Child(log))
        return children[-1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
        yield ask
        for child in children:
            if not (child.log / 'end').exists():      # a test has failed: nobody is left behind
                child.kill()
        process.stdin.close()


@pytest.fixture
def fork(server, tmp_path):
    return lambda *args, **how: server(tmp_path, args, **how)


@pytest.fixture
def go(fork):
    return lambda *args, **how: fork(*args, **how).wait()


# ----------------------------------------------------------------------------------------------------------------------
# What can be planned


def count_calls(job, fatal=None):
    """Tell how many calls of functions there were, or end with the fatal one: a moment that a seed can repeat."""
    calls = itertools.count(1)
    if fatal is None:
        atexit.register(lambda: (sys.setprofile(None), tell(job['log'], 'calls', next(calls))))
    sys.setprofile(lambda frame, event, arg: next(calls) == fatal and os.kill(os.getpid(), signal.SIGKILL))


def torn_write(job, which, share):
    """Killed while the checkpoint of that number is being written, when a share of it is in the file."""
    save, calls = torch.save, itertools.count()

    def torn(content, file):
        if next(calls) != which:
            return save(content, file)
        save(content, whole := io.BytesIO())
        file.write(whole.getvalue()[:int(share * len(whole.getvalue()))])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    torch.save = torn


def reach(job, step, *numbers):
    """At this step: these signals to itself, and then patience until somebody ends it."""
    batch = makemore.batch

    def spy(words, cfg, at, *rest):
        if at == step:
            for number in numbers:
                os.kill(os.getpid(), number)
            tell(job['log'], 'reached', step)
            while True:
                time.sleep(0.01)
        return batch(words, cfg, at, *rest)
    makemore.batch = spy


def interrupt_save(job, which):
    """Ctrl-C twice in the middle of writing a checkpoint."""
    save, calls = torch.save, itertools.count()

    def interrupted(content, file):
        if next(calls) == which:
            file.write(b'half')
            os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT)
        save(content, file)
    torch.save = interrupted


def file_size(job, most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def limited(job, seconds):
    """Nothing may be endless, and no mistake may take the machine down."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))      # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))


def ascii_streams(job):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding='ascii', errors='strict' if stream is sys.stdout else 'backslashreplace')


def as_nobody(job):
    os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)


def small_disk(job, kilobytes, more=''):
    """A disk of this size in the place of ./disk, which only this process sees; what is on it in the end is copied."""
    assert ctypes.CDLL(None).unshare(0x20000) == 0      # CLONE_NEWNS
    commands = f'mount --make-rprivate / && mount -t tmpfs -o size={kilobytes}k tmpfs disk'
    assert os.system(commands) == 0
    if Path('before').exists():
        shutil.copytree('before', 'disk/x')
    if more:
        assert os.system('mount -o remount,ro disk') == 0
    atexit.register(lambda: shutil.copytree('disk/x', 'after') if Path('disk/x').exists() else None)


PLANS = dict(calls=count_calls, torn=torn_write, reach=reach, interrupt_save=interrupt_save, file_size=file_size,
             nobody=as_nobody, disk=small_disk, limited=limited, ascii_streams=ascii_streams,
             umask=lambda job, mask: os.umask(mask),
             ignore=lambda job, number: signal.signal(number, signal.SIG_IGN),
             closed=lambda job, name: setattr(sys, name, None))      # what Python makes of a stream that is closed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can become somebody else, or mount a disk')


def may_mount():
    return subprocess.run(['unshare', '-m', 'sh', '-c', 'mount --make-rprivate / && mount -t tmpfs tmpfs /mnt'],
                          capture_output=True).returncode == 0 if shutil.which('unshare') else False


@pytest.fixture(scope='session')
def disks():
    if not may_mount():
        pytest.skip('this user, or this container, may not mount a small disk')


# ----------------------------------------------------------------------------------------------------------------------
# Runs and their checkpoints

SMALL = '--n-layer 1 --n-head 2 --n-embd 8 --n-hidden 8 --max-steps 12 --eval-interval 3 --num-samples 3'.split()
RUNS = {'mlp': ['--dropout', '0.2'], 'transformer': ['--dropout', '0.2'], 'gru': ['--sample-interval', '4'],
        'bow': ['--text', '--block-size', '8', '--length', '9']}


def line(kind, names, *more):
    return ['-i', names, '--type', kind, *SMALL, *RUNS.get(kind, []), *more]


def one_line(end, code, *needles):
    """Told in one line, behind whatever was said while all was well."""
    last = end.err.splitlines()[-1] if end.err else ''
    assert end.code == code and 'Traceback' not in end.err and 'Exception' not in end.err, end
    assert last.startswith('makemore: ') and end.err.count('makemore: ') == 1, end
    for needle in needles:
        assert needle in last, end


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob('*') if path.is_file() and 'tfevents' not in path.name}


@pytest.fixture(scope='session')
def undisturbed(server, tmp_path_factory, names):
    """undisturbed('mlp') -> the folder of a whole run, and how many calls of functions it took."""
    made = {}

    def run(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp('undisturbed')
            child = server(folder, line(kind, names, '-o', 'one'), plan=[['calls']])
            assert child.wait().code == 0, child.said()
            made[kind] = folder / 'one', child.told('calls')
        return made[kind]
    return run


# ----------------------------------------------------------------------------------------------------------------------
# Killed


def best_of(folder):
    return checkpoint(folder / 'best.pt')['best'] if (folder / 'best.pt').exists() else float('inf')


def readable(folder, best):
    """Whatever a kill has left can be loaded, and the best was not lost. The best so far."""
    for name in ('best.pt', 'last.pt'):
        if (folder / name).exists():
            makemore.restore(folder / name)
    assert best_of(folder) <= best and (best_of(folder) < float('inf') or not (folder / 'last.pt').exists())
    return best_of(folder)


@pytest.mark.parametrize('kind', RUNS)
def test_kill_9_at_any_moment(kind, undisturbed, go, names, tmp_path, request):
    """Killed, resumed and killed again, up to four times a run: the end is that of a run that nobody disturbed.

    Half of the kills come at a call of a function, whichever; half in the middle of a checkpoint, at whichever byte.
    """
    kills, dice, left = 0, random.Random(kind), 50 if request.config.getoption('--long') else 2
    one, calls = undisturbed(kind)
    while kills < left:
        two, best = tmp_path / f'two{kills}', float('inf')
        for attempt in itertools.count():
            args = ['--resume', '-o', two]
            if not (two / 'last.pt').exists():      # it begins anew, and with it what is best
                args, best = line(kind, names, '-o', two, '--overwrite'), float('inf')
            plan = dice.choice([['calls', dice.randrange(calls)], ['torn', dice.randrange(8), dice.random()]])
            end = go(*args, plan=[plan] if attempt < 4 and kills < left else [])
            if end.code == 0:
                break
            assert end.code == -signal.SIGKILL, (plan, end)
            kills, best = kills + 1, readable(two, best)
        same_run(one, two)


@pytest.mark.parametrize('when', [0.0, 0.5, 0.99])
def test_a_run_killed_before_its_first_checkpoint_can_begin_again(when, go, names, undisturbed, tmp_path):
    """There is nothing to resume: that is said, and the command itself works again."""
    one, _ = undisturbed('mlp')
    assert go(*line('mlp', names, '-o', 'two'), plan=[['torn', 0, when]]).code == -signal.SIGKILL
    one_line(go('--resume', '-o', 'two'), 2, 'two', 'last.pt')
    assert go(*line('mlp', names, '-o', 'two')).code == 0
    same_run(one, tmp_path / 'two')


# ----------------------------------------------------------------------------------------------------------------------
# Interrupted


@pytest.mark.parametrize('numbers', [(2, 2), (15, 15), (2, 15)], ids=['Ctrl-C', 'SIGTERM', 'one of each'])
def test_a_second_signal_ends_it_at_once(numbers, go, undisturbed, names, tmp_path):
    one, _ = undisturbed('mlp')
    end = go(*line('mlp', names, '-o', 'two'), plan=[['reach', 7, *numbers]])
    assert end.code in (130, 143) and 'Traceback' not in end.err
    assert checkpoint(tmp_path / 'two/last.pt')['step'] == 6      # that of the last evaluation: nothing was finished
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_a_second_ctrl_c_while_saving(go, undisturbed, names, tmp_path):
    one, _ = undisturbed('mlp')
    end = go(*line('mlp', names, '-o', 'two'), plan=[['interrupt_save', 3]])
    assert end.code == 130 and 'Traceback' not in end.err and readable(tmp_path / 'two', 99) < 99
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_a_reader_that_leaves_in_the_middle_of_training(fork, go, undisturbed, names, tmp_path):
    """makemore | head -1: the pipe is gone when the next samples come; what was reached is kept."""
    one, _ = undisturbed('gru')
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    child = fork(*line('gru', names, '-o', 'two', '--eval-interval', 1), stdout=str(tmp_path / 'pipe'))
    child.told('began')
    os.close(reader)
    end = child.wait()
    assert 'Traceback' not in end.err and 'Exception' not in end.err and 'Error' not in end.err
    assert go('--resume', '-o', 'two', '--eval-interval', 3).code == 0
    assert differences(*(checkpoint(folder / 'last.pt')['model'] for folder in (one, tmp_path / 'two'))) == []


@pytest.mark.parametrize('stream', ['stdout', 'stderr', 'stdin'])
def test_a_stream_that_was_never_open(stream, go, names, tmp_path):
    """makemore ... >&- leaves Python without a sys.stdout."""
    end = go(*line('mlp', names, '-o', 'x'), plan=[['closed', stream]])
    assert end.code == 0 and 'Traceback' not in end.err and (tmp_path / 'x/result.json').exists()
    assert go('--sample-only', '-o', 'x', plan=[['closed', stream]]).code == 0


@pytest.mark.parametrize('how', ['goes away', 'goes away under nohup'])
def test_a_terminal_that_goes_away(how, fork, go, undisturbed, names, tmp_path):
    """The window is closed while a run is on its way: SIGHUP ends it, or, ignored, there is nobody to talk to."""
    one, _ = undisturbed('mlp')
    master, slave = pty.openpty()
    plan = [['reach', 8, *[signal.SIGTERM] * ('nohup' in how)]]
    child = fork(*line('mlp', names, '-o', 'two'), tty=os.ttyname(slave), stdout=os.ttyname(slave),
                 stderr=os.ttyname(slave), plan=[['ignore', signal.SIGHUP]] * ('nohup' in how) + plan)
    child.told('reached')
    os.close(slave), os.close(master)
    if 'nohup' in how:
        child.kill(signal.SIGTERM)      # the second: it ends without a word, as there is no one to say it to
    assert child.wait().code in (-signal.SIGHUP, 129, 130, 143, 1, 120)
    readable(tmp_path / 'two', 99)
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


# ----------------------------------------------------------------------------------------------------------------------
# Disks


@pytest.mark.parametrize('command', ['train', 'text', 'sample'])
def test_output_to_a_full_disk_is_one_line(command, go, names, finished):
    """/dev/full: as if the file behind > were on a disk without room."""
    args = ['--sample-only', '-o', finished('mlp')] if command == 'sample' else line('mlp', names, '-o', 'x')
    one_line(go(*args, *['--text'] * (command == 'text'), stdout='/dev/full'), 1, 'No space left')


def saved_run(go, names, folder, *more):
    assert go(*line('mlp', names, '-o', folder, *more)).code == 0


@pytest.mark.parametrize('most', [1000, 10_000])      # less than a checkpoint has; less than one with an optimizer
@pytest.mark.parametrize('text', [[], ['--text']], ids=['lines', 'text'])
def test_a_limit_on_the_size_of_files(most, text, go, names, tmp_path):
    """A quota hit while saving, while writing curves, while laying out a text's tokens: one line, and no half files."""
    one_line(go(*line('mlp', names, '-o', 'new', *text), plan=[['file_size', most]]), 1, 'too large')
    assert not list(tmp_path.glob('new/*.tmp'))
    for path in tmp_path.glob('new/*.pt'):
        makemore.restore(path)
    saved_run(go, names, 'old', *text)
    before = contents(tmp_path / 'old')
    one_line(go('--resume', '-o', 'old', '--max-steps', 30, plan=[['file_size', most]]), 1, 'too large')
    after = contents(tmp_path / 'old')
    assert after['last.pt'] == before['last.pt'] and after.keys() == before.keys()
    assert go('--resume', '-o', 'old', '--max-steps', 30).code == 0


@needs_root
@pytest.mark.parametrize('kilobytes', [4, 12, 24, 40, 60])
@pytest.mark.parametrize('text', [[], ['--text']], ids=['lines', 'text'])
def test_a_disk_that_is_full(kilobytes, text, disks, go, names, tmp_path):
    """Wherever in the run the room runs out; a text's tokens lie in a mapped file, where a write has no exit code."""
    (tmp_path / 'disk').mkdir()
    end = go(*line('mlp', names, '-o', 'disk/x', '--max-steps', 200, '--sample-interval', 1, *text),
             plan=[['disk', kilobytes]])
    one_line(end, 1, 'No space left')
    for path in tmp_path.glob('after/*.pt'):
        makemore.restore(path)
    assert not list(tmp_path.glob('after/*.tmp'))


@needs_root
def test_a_disk_that_is_full_leaves_the_last_checkpoint(disks, go, names, tmp_path):
    saved_run(go, names, 'before')
    (tmp_path / 'disk').mkdir()
    pages = sum(-(-path.stat().st_size // 4096) for path in (tmp_path / 'before').rglob('*') if path.is_file())
    end = go('--resume', '-o', 'disk/x', '--max-steps', 400, '--sample-interval', 1, plan=[['disk', 4 * pages + 32]])
    one_line(end, 1, 'No space left')
    before, after = contents(tmp_path / 'before'), contents(tmp_path / 'after')
    assert {'last.pt', 'best.pt'} <= after.keys() and not [name for name in after if name.endswith('.tmp')]
    assert checkpoint(tmp_path / 'after/last.pt')['step'] >= 12 and after.keys() == before.keys()


@needs_root
def test_a_folder_that_may_only_be_read(go, names, tmp_path):
    saved_run(go, names, 'x')
    for path in [tmp_path, *tmp_path.parents[:3]]:
        path.chmod(path.stat().st_mode | 0o055)      # nobody has to get here
    before = contents(tmp_path / 'x')
    for path in (tmp_path / 'x').iterdir():
        path.chmod(0o444)
    (tmp_path / 'x').chmod(0o555)
    (tmp_path / 'names.txt').write_bytes(names.read_bytes())
    nobody = [['nobody']]
    one_line(go(*line('mlp', 'names.txt', '-o', 'x/new'), plan=nobody), 1, 'x/new', 'Permission denied')
    one_line(go('--resume', '-o', 'x', '--max-steps', 30, '-i', 'names.txt', plan=nobody), 1, 'x', 'Permission denied')
    one_line(go(*line('mlp', 'names.txt', '-o', 'x', '--overwrite'), plan=nobody), 1, 'x', 'Permission denied')
    assert contents(tmp_path / 'x') == before
    sampled = go('--sample-only', '-o', 'x', '--num-samples', 5, plan=nobody)
    assert sampled.code == 0 and len(sampled.out.splitlines()) == 5


@needs_root
def test_a_disk_that_may_only_be_read(disks, go, names, tmp_path):
    saved_run(go, names, 'before')
    (tmp_path / 'disk').mkdir()
    for args in (line('mlp', names, '-o', 'disk/y'), ['--resume', '-o', 'disk/x', '--max-steps', 30],
                 line('mlp', names, '-o', 'disk/x', '--overwrite')):
        one_line(go(*args, plan=[['disk', 1000, 'read only']]), 1, 'Read-only')
        shutil.rmtree(tmp_path / 'after')
    sampled = go('--sample-only', '-o', 'disk/x', '--num-samples', 5, plan=[['disk', 1000, 'read only']])
    assert sampled.code == 0 and len(sampled.out.splitlines()) == 5
    assert contents(tmp_path / 'after') == contents(tmp_path / 'before')


# ----------------------------------------------------------------------------------------------------------------------
# Two runs in one folder


def test_a_folder_in_use_is_refused_until_its_owner_is_gone(fork, go, names, undisturbed, tmp_path):
    """Not by a file that a kill would leave behind: the lock dies with the process that holds it."""
    one, _ = undisturbed('mlp')
    first = fork(*line('mlp', names, '-o', 'two'), plan=[['reach', 8]])
    first.told('reached')
    before = contents(tmp_path / 'two')
    for args in (['--resume', '-o', 'two'], line('mlp', names, '-o', 'two', '--overwrite'),
                 line('gru', names, '-o', 'two', '--overwrite')):
        one_line(go(*args), 2, 'two is in use')
    assert contents(tmp_path / 'two') == before
    assert go('--sample-only', '-o', 'two', '--num-samples', 3).code == 0      # reading disturbs nobody
    first.kill()
    assert first.wait().code == -signal.SIGKILL
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_a_folder_is_taken_before_its_first_checkpoint(fork, go, names):
    """Two of the same command, a second apart: there is no last.pt yet that would stop the later one."""
    first = fork(*line('mlp', names, '-o', 'x'), plan=[['reach', 0]])
    first.told('reached')
    one_line(go(*line('mlp', names, '-o', 'x')), 2, 'x')


def test_many_at_once_and_one_wins(fork, go, names, tmp_path):
    children = [fork(*line('mlp', names, '-o', 'x', '--overwrite', '--seed', i)) for i in range(4)]
    ends = [child.wait() for child in children]
    assert any(end.code == 0 for end in ends)
    for end in ends:
        if end.code:
            one_line(end, 2, 'x is in use')
    readable(tmp_path / 'x', 99)
    assert go('--resume', '-o', 'x').code == 0


def test_runs_without_a_name_get_folders_of_their_own(fork, names, tmp_path):
    """Four of the same command started together: four runs under out/, or a refusal, but never two in one folder."""
    ends = [child.wait() for child in [fork(*line('mlp', names, '--seed', i)) for i in range(4)]]
    done = [end for end in ends if end.code == 0]
    assert done and len(list((tmp_path / 'out').glob('*/result.json'))) == len(done)
    for end in ends:
        if end.code:
            one_line(end, 2, 'in use')


# ----------------------------------------------------------------------------------------------------------------------
# What a terminal must never get

EVIL = ['\x1b]0;owned\x07a', '\x1b[2Jb', '\x9b31mc', 'd\x08\x08e', 'f\x00g', 'h\x7fi', '\x1bcj']
SAFE = re.compile(r'[\t\n\r]|\x1b\[A|\x1b\[[0-9]*[KmA]')      # what the progress bar itself uses


def at_a_terminal(fork, *args, stdout=None):
    """What a command writes to a terminal, stdout and stderr together, or stderr alone."""
    master, slave = pty.openpty()
    name, pieces = os.ttyname(slave), []

    def read():
        with contextlib.suppress(OSError):      # EIO: the last one who had it open is gone
            while piece := os.read(master, 2**16):
                pieces.append(piece)
    reader = threading.Thread(target=read)
    reader.start()
    end = fork(*args, tty=name, stdout=stdout or name, stderr=name).wait()
    os.close(slave)
    reader.join()
    os.close(master)
    said = b''.join(pieces).decode('utf-8')
    assert end.code in (0, 2), said
    return said


def evil_file(tmp_path):
    path = tmp_path / 'evil.txt'
    path.write_text('\n'.join(EVIL), encoding='utf-8', newline='')
    return path


def raw_controls(said):
    """Characters that a terminal acts on instead of showing them."""
    return sorted({c for c in SAFE.sub('', said) if unicodedata.category(c) == 'Cc'})


@pytest.mark.parametrize('text', [[], ['--text']], ids=['lines', 'text'])
def test_escape_sequences_of_the_data_do_not_reach_a_terminal(text, fork, go, tmp_path):
    """While training, while sampling, and in the messages that quote what was typed or read."""
    path = evil_file(tmp_path)
    args = ['-i', path, '--type', 'ngram', '--split', 'all', '-o', 'x', '--num-samples', 200, '--length', 60, *text]
    if text:
        path.write_text('\n'.join(EVIL * 9), encoding='utf-8', newline='')
    trained = at_a_terminal(fork, *args)
    sampled = at_a_terminal(fork, '--sample-only', '-o', 'x', '--num-samples', 200, '--length', 60)
    refused = at_a_terminal(fork, '--sample-only', '-o', 'x', '--prompt', '\N{SNOWMAN}')
    for said in (trained, sampled, refused):
        assert raw_controls(said) == [] and '\\x1b' in said
    piped = go('--sample-only', '-o', 'x', '--num-samples', 200, '--length', 60).out
    assert '\x1b' in piped and '\\x1b' not in piped      # a file gets what was drawn, byte for byte


def test_escape_sequences_typed_or_in_names_do_not_reach_a_terminal(fork, names, tmp_path):
    """A folder or a file may be called anything, and both are quoted in messages."""
    (tmp_path / 'a\x1b[2Jb').write_text('emma\nava\n')
    for args in (['-i', 'a\x1b[2Jb', '--type', 'ngram', '-o', 'o\x1b]0;x\x07'], ['-i', 'no\x1b[2J'],
                 ['-i', names, '--type', 'x\x1b[2J'], ['--\x1b[2J'], ['-i', names, '--n-layer', '\x1b[2J']):
        assert raw_controls(at_a_terminal(fork, *args)) == []


# ----------------------------------------------------------------------------------------------------------------------
# What is left behind, and where


@pytest.mark.parametrize('mask', [0o077, 0o027, 0o022])
def test_files_are_no_wider_than_the_users_own(mask, go, names, tmp_path):
    for text in ([], ['--text']):
        assert go(*line('mlp', names, '-o', 'out/x', '--overwrite', *text), plan=[['umask', mask]]).code == 0
    made = [path for path in (tmp_path / 'out').rglob('*')] + [tmp_path / 'out']
    assert len(made) >= 6      # two folders, best, last, result, tokens, curves
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & mask == 0 and (path.is_dir() or mode & 0o111 == 0), (path, oct(mode))


def real(*args, cwd, wrap=()):
    """The program as a process of its own under another program: unshare -n, strace."""
    home = cwd / 'home'
    home.mkdir(exist_ok=True)
    env = os.environ | dict(HOME=str(home), TMPDIR=str(home), PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1')
    command = [*wrap, sys.executable, makemore.__file__, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


OPENED = re.compile(r'\b(openat|creat|mkdir(?:at)?|rename(?:at2?)?|unlink(?:at)?|symlink(?:at)?|link(?:at)?|ftruncate)'
                    r'\((.*)\)\s+= (-?\d+)')


def written(trace):
    """The paths that a run made, wrote to, renamed or deleted, out of strace's log."""
    for call, rest, code in OPENED.findall(trace):
        looks = call == 'openat' and not re.search(r'O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND', rest)
        if not looks and int(code) >= 0:
            yield from re.findall(r'"((?:[^"\\]|\\.)*)"', rest)


def test_nothing_is_fetched_and_nothing_is_written_elsewhere(names, tmp_path):
    """Every file that is opened for writing, every socket, under strace; no network where that can be taken away."""
    if not shutil.which('strace') or subprocess.run(['strace', '-f', 'true'], capture_output=True).returncode:
        pytest.skip('strace is not here, or may not be used')
    bare = ['unshare', '-n'] if subprocess.run(['unshare', '-n', 'true'], capture_output=True).returncode == 0 else []
    log, home = tmp_path / 'trace', tmp_path / 'home'
    bpe = ['--tokenizer', 'bpe', '--vocab-size', 260]
    for args in (line('mlp', names, '-o', 'work', *bpe), ['--resume', '-o', 'work']):
        done = real(*args, cwd=tmp_path, wrap=[*bare, 'strace', '-f', '-s', '4096', '-o', log, '-e',
                    'trace=file,connect,bind,sendto,ftruncate,openat'])
        assert done.returncode == 0, done.stderr
        trace = log.read_text(errors='replace')
        inside = [path for path in written(trace) if path.startswith('work')]
        assert any('last.pt' in path for path in inside) and any('tfevents' in path for path in inside)
        outside = {path for path in written(trace) if not path.startswith(('work', '/dev/', '/proc/self'))}
        assert outside == set()
        families = set(re.findall(r'(?:connect|bind|sendto)\(.*sa_family=(AF_\w+)', trace))
        assert not families & {'AF_INET', 'AF_INET6'}, families
        assert list(home.iterdir()) == []


def test_it_runs_without_any_network(names, tmp_path):
    if not shutil.which('unshare') or subprocess.run(['unshare', '-n', 'true'], capture_output=True).returncode:
        pytest.skip('this user may not make a network namespace')
    inside = ['unshare', '-n', 'sh', '-c', 'test "$(ls /sys/class/net)" = lo || ip link; exec "$@"', 'sh']
    done = real(*line('ngram', names, '-o', 'work'), cwd=tmp_path, wrap=inside)
    assert done.returncode == 0 and (tmp_path / 'work/result.json').exists(), done.stderr
