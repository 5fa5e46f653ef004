"""
Terminals: what must never be written to one, and what happens when it is closed.
"""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import unicodedata

import pytest
from comparing import same_run
from forks import assert_loads, small_run

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

EVIL = ['\x1b]0;owned\x07a', '\x1b[2Jb', '\x9b31mc', 'd\x08\x08e', 'f\x00g', 'h\x7fi', '\x1bcj']
USED_BY_THE_PROGRESS_BAR = re.compile(r'[\t\n\r]|\x1b\[A|\x1b\[[0-9]*[KmA]')


@pytest.fixture
def run_at_terminal(fork):
    """run_at_terminal('--sample-only'): what a command writes to a terminal, stderr included."""

    def run(*args, plan=()):
        master, slave = pty.openpty()
        # without a size there is no room for a progress bar
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        name = os.ttyname(slave)
        pieces = []

        def read():
            with contextlib.suppress(OSError):  # EIO: the last one who had it open is gone
                while piece := os.read(master, 2**16):
                    pieces.append(piece)

        reader = threading.Thread(target=read)
        reader.start()
        end = fork(*args, tty=name, stdout=name, stderr=name, plan=plan).wait()
        os.close(slave)
        reader.join()
        os.close(master)
        shown = b''.join(pieces).decode('utf-8')
        assert end.code in (0, 2), shown
        return shown

    return run


def control_chars(shown):
    """Characters that a terminal acts on instead of showing them."""
    rest = USED_BY_THE_PROGRESS_BAR.sub('', shown)
    return sorted({ch for ch in rest if unicodedata.category(ch) == 'Cc'})


def test_escape_sequences_in_the_data_do_not_reach_a_terminal(data, run_at_terminal, go, tmp_path):
    """While training, while sampling, and in messages that quote what was typed or read."""
    lines = EVIL * 9 if data.args else EVIL
    path = tmp_path / 'evil.txt'
    path.write_text('\n'.join(lines), encoding='utf-8', newline='')
    long_samples = ['--num-samples', 200, '--length', 60]
    size = ['--type', 'ngram', '--split', 'all']
    args = ['-i', path, *size, '-o', 'x', *long_samples, *data.args]
    trained = run_at_terminal(*args, plan=data.plan)
    sampled = run_at_terminal('--sample-only', '-o', 'x', *long_samples)
    refused = run_at_terminal('--sample-only', '-o', 'x', '--prompt', '\N{SNOWMAN}')
    for shown in (trained, sampled, refused):
        assert control_chars(shown) == []
        assert '\\x1b' in shown
    # a pipe or a file gets the samples as they are
    piped = go('--sample-only', '-o', 'x', *long_samples).out
    assert '\x1b' in piped
    assert '\\x1b' not in piped


def what_remains(shown):
    """The lines that are left on the screen: a carriage return starts a line again."""
    return [line.rpartition('\r')[2].strip() for line in shown.replace('\r\n', '\n').split('\n')]


def test_nothing_remains_of_the_progress_bar(run_at_terminal, names):
    """After an early stop it stood there for ever, with 61 % and the time that was left.

    In 60 columns that time was cut off: "time left 0".
    """
    shown = run_at_terminal(*small_run('mlp', names, '-o', 'x'))
    assert re.search(r'%\|.*\| step \d+/12, time left \?, loss ', shown)
    remains = what_remains(shown)
    assert 'samples at temperature 1.0:' in remains
    assert [line for line in remains if '%|' in line or 'time left' in line] == []


TYPED = [
    ['-i', 'a\x1b[2Jb', '--type', 'ngram', '-o', 'o\x1b]0;x\x07'],
    ['-i', 'no\x1b[2J'],
    ['--type', 'x\x1b[2J'],
    ['--\x1b[2J'],
    ['--n-layer', '\x1b[2J'],
]


@pytest.mark.parametrize('args', TYPED, ids=['folder', 'file', 'type', 'flag', 'number'])
def test_escape_sequences_in_arguments_do_not_reach_a_terminal(args, run_at_terminal, tmp_path):
    """Folders and files may have any name, and messages quote what was typed."""
    (tmp_path / 'names.txt').write_text('emma\nava\n')
    (tmp_path / 'a\x1b[2Jb').write_text('emma\nava\n')
    assert control_chars(run_at_terminal(*args)) == []


@pytest.mark.parametrize('under_nohup', [False, True], ids=['', 'under nohup'])
def test_a_terminal_that_is_closed_during_training(
    under_nohup, fork, go, undisturbed, names, tmp_path
):
    """SIGHUP ends the run; if it is ignored, there is nobody left who reads its output."""
    one, _ = undisturbed('mlp')
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    plan = [['reach', 8]]
    if under_nohup:
        plan = [['ignore_signal', signal.SIGHUP], ['reach', 8, signal.SIGTERM]]
    command = small_run('mlp', names, '-o', 'two')
    child = fork(*command, tty=name, stdout=name, stderr=name, plan=plan)
    child.read_note('reached')
    os.close(slave)
    os.close(master)
    if under_nohup:
        child.kill(signal.SIGTERM)  # the second: the run ends, and can not say so to anybody
    assert child.wait().code in (-signal.SIGHUP, 129, 130, 143, 1, 120)
    assert_loads(tmp_path / 'two')
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_a_locale_that_knows_ascii_alone(go, tmp_path):
    """Samples with an é: a pipe gets them in UTF-8, and there is no traceback."""
    (tmp_path / 'n.txt').write_text('zoé\nchloé\nrené\n' * 9)
    ascii_streams = [['use_ascii_streams']]
    assert go('-i', 'n.txt', '--type', 'ngram', '-o', 'x', plan=ascii_streams).code == 0
    end = go('--sample-only', '-o', 'x', plan=ascii_streams)
    assert end.code == 0
    assert 'é' in end.out
