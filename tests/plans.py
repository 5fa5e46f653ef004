"""
What can be planned to happen in a child of forks.py, by the name of the function.

Each gets the job and the rest of the plan: ['reach', 7] calls reach(job, 7) before the run.
"""

import atexit
import ctypes
import io
import itertools
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from forks import write_note

import makemore

NOBODY = 65534  # the number of the user and of the group
CLONE_NEWNS = 0x20000


# -----------------------------------------------------------------------------
# kills and signals


def kill_self(number=signal.SIGKILL):
    os.kill(os.getpid(), number)


def count_calls(job):
    """Leave a note with the number of calls of functions."""
    calls = itertools.count(1)

    def finish():
        sys.setprofile(None)
        write_note(job['log'], 'calls', next(calls))

    atexit.register(finish)
    sys.setprofile(lambda frame, event, argument: next(calls))


def kill_at_call(job, fatal):
    """Killed at the call of that number: a moment that a seed can repeat."""
    calls = itertools.count(1)

    def count(frame, event, argument):
        if next(calls) == fatal:
            kill_self()

    sys.setprofile(count)


def signal_at_call(job, number, sent):
    """Sent a signal in the call of that number of a function, counted within makemore.main."""
    main = makemore.main
    calls = itertools.count(1)

    def count(frame, event, argument):
        if next(calls) == number:
            kill_self(sent)

    def counted_main(args):
        sys.setprofile(count)
        try:
            return main(args)
        finally:
            sys.setprofile(None)

    makemore.main = counted_main


def kill_while_saving(job, number, share):
    """Killed while the checkpoint of that number is written, with a share of it in the file."""
    save = torch.save
    calls = itertools.count()

    def save_or_die(content, file):
        if next(calls) != number:
            save(content, file)
            return
        whole = io.BytesIO()
        save(content, whole)
        raw = whole.getvalue()
        file.write(raw[: int(share * len(raw))])
        file.flush()
        kill_self()

    torch.save = save_or_die


def kill_while_encoding(job, number):
    """Killed while the piece of that number is written to the token file."""
    write_as_before = makemore.longtext.encode_pieces
    calls = itertools.count()

    def encode_or_die(pieces, tokenizer, file):
        n_tokens = write_as_before(pieces, tokenizer, file)
        if next(calls) == number:
            file.flush()
            kill_self()
        return n_tokens

    makemore.longtext.encode_pieces = encode_or_die


def reach(job, step, *signals):
    """At this step send itself the signals, and wait until somebody ends the process."""
    get_batch = makemore.get_batch

    def wait_at_step(dataset, config, at, *rest):
        if at != step:
            return get_batch(dataset, config, at, *rest)
        for number in signals:
            kill_self(number)
        write_note(job['log'], 'reached', step)
        while True:
            time.sleep(0.01)

    makemore.get_batch = wait_at_step


def signal_in(job, name, number, *signals):
    """Send itself signals in a call of a function of makemore, and note how many calls follow."""
    function = getattr(makemore, name)
    calls = itertools.count(1)

    def call(*args, **how):
        count = next(calls)
        if count == number:
            for sent in signals:
                kill_self(sent)
        write_note(job['log'], 'calls after', count - number)
        return function(*args, **how)

    setattr(makemore, name, call)


def interrupt_while_saving(job, number):
    """Ctrl-C twice in the middle of writing the checkpoint of that number."""
    save = torch.save
    calls = itertools.count()

    def save_interrupted(content, file):
        if next(calls) == number:
            file.write(b'half')
            kill_self(signal.SIGINT)
            kill_self(signal.SIGINT)
        save(content, file)

    torch.save = save_interrupted


def ignore_signal(job, number):
    """As nohup does with SIGHUP."""
    signal.signal(number, signal.SIG_IGN)


def start_together(job, folder, n, seconds):
    """Wait until n processes have come here, and then for some part of a second."""
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < n:
        time.sleep(0.001)
    time.sleep(seconds)


# -----------------------------------------------------------------------------
# streams, users, limits and disks


def token_file(job):
    """The tokens of every text go to a file, as those of a large one do."""
    makemore.LARGE_TEXT = 0


def close_stream(job, name):
    """What Python makes of a standard stream that is closed."""
    setattr(sys, name, None)


def use_ascii_streams(job):
    """A locale that knows ASCII alone."""
    sys.stdout.reconfigure(encoding='ascii', errors='strict')
    sys.stderr.reconfigure(encoding='ascii', errors='backslashreplace')


def set_umask(job, mask):
    os.umask(mask)


def become_nobody(job):
    """A user without rights."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def limit_file_size(job, n_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def limit_resources(job, seconds):
    """Seconds of the processor (then SIGXCPU, at last SIGKILL), and six gigabytes of memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))


def mount_small_disk(job, kilobytes, read_only=False):
    """Mount a disk of this size at ./disk, which only this process sees.

    The folder ./before is copied to disk/x first, and in the end disk/x to the folder ./after.
    """
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    assert os.system('mount --make-rprivate /') == 0
    assert os.system(f'mount -t tmpfs -o size={kilobytes}k tmpfs disk') == 0
    if Path('before').exists():
        shutil.copytree('before', 'disk/x')
    if read_only:
        assert os.system('mount -o remount,ro disk') == 0

    def copy_back():
        if Path('disk/x').exists():
            shutil.copytree('disk/x', 'after')

    atexit.register(copy_back)
