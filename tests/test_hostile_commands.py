"""
Random command lines, with odd streams, encodings and names.

Whatever is typed, a command works or ends in one line; the exit code is 0, 1, 2, 130 or 143.
"""

import io
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import pytest
from forks import write_note

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

# fmt: off
ENCODINGS = [
    'ascii', 'big5', 'cp037', 'cp1252', 'cp437', 'cp932', 'euc_jp', 'euc_kr', 'gb18030', 'hz',
    'iso2022_jp', 'iso8859_15', 'johab', 'koi8_r', 'latin-1', 'mac_roman', 'punycode',
    'raw_unicode_escape', 'rot13', 'shift_jis', 'undefined', 'unicode_escape', 'utf-16',
    'utf-16-be', 'utf-32', 'utf-7', 'utf-8', 'utf-8-sig', 'idna', 'base64', 'no-such', '', '\0',
]
ODD_NAMES = [
    'a b', '-x', '--', '..', '.', '~', 'caf\udce9', 'ü', "it's", '$HOME', '*', 'a\nb', '\x1b[2J',
    'CON', 'x' * 300, 'a/b/c', '/dev/null', '/proc/self/mem', 'new\\n', '@x', '',
]
# fmt: on
ODD_VALUES = [
    '',
    '0',
    '-1',
    '1',
    '2',
    'nan',
    'inf',
    '1e400',
    'None',
    'none',
    'x',
    '\0',
    'é',
    '9' * 99,
]
SMALL = ['--n-embd=4', '--n-hidden=4', '--n-head=2', '--n-layer=1', '--block-size=3', '-b', '8']
SMALL += ['--length=5', '--vocab-size=260']
# what may take long, or does nothing but print
LEFT_OUT = ('batch_size', 'block_size', 'n_layer', 'n_embd', 'n_hidden', 'vocab_size')
LEFT_OUT += ('num_samples', 'length', 'max_steps', 'eval_interval')
LEFT_OUT += ('threads', 'find_lr', 'compile')
FREE = [name for name in makemore.SETTINGS if name not in LEFT_OUT]


def odd_text(dice):
    """Bytes that may be a text in some encoding."""
    lines = [
        dice.choice(['emma', 'ava', 'zoë', '太郎', 'a b', '\t', '\x00', '']) for _ in range(30)
    ]
    text = dice.choice(['\n', '\r\n', '\r']).join(lines)
    kind = dice.randrange(4)
    if kind == 0:
        return dice.randbytes(dice.choice([0, 1, 50, 500]))
    if kind in (1, 2):
        return b'emma\nava\nmia\n' * 9
    return text.encode(dice.choice(['utf-8', 'utf-16', 'utf-32', 'gb18030', 'utf-7']))


def random_value(name, dice):
    """A value for a setting: one that is allowed, or an odd one."""
    choices = makemore.SETTINGS[name].metadata.get('choices')
    if name == 'type':
        choices = list(makemore.MODELS)
    if choices and dice.random() < 0.7:
        return dice.choice(choices)
    if name in ('input_file', 'work_dir', 'tokenizer', 'prompt'):
        return dice.choice([*ODD_NAMES, 'data', 'x', 'y', 'bpe', 'char'])
    if name == 'encoding':
        return dice.choice(ENCODINGS)
    return dice.choice(ODD_VALUES)


def random_command(dice):
    """A command line: a mode, an input, a type, and some settings."""
    modes = [[], [], [], ['--resume'], ['--sample-only'], ['--overwrite'], ['--text']]
    modes += [
        ['--check-backprop'],
        ['--help'],
        ['--version'],
        ['--resume', '--overwrite'],
        ['junk'],
    ]
    args = list(dice.choice(modes))
    args += ['-i', 'data' if dice.random() < 0.7 else dice.choice(['-', '-', *ODD_NAMES])]
    args += ['--type', dice.choice([*makemore.MODELS, 'ngram', 'bigram', 'bigram'])]
    args += ['--encoding', 'utf-8' if dice.random() < 0.7 else dice.choice(ENCODINGS)]
    args += [*SMALL, '--device=cpu']
    args.append(f'--eval-interval={dice.choice([1, 1, 1, 1, 0])}')
    for flag in ('--max-steps', '--num-samples'):
        args.append(f'{flag}={dice.choice([0, 1, 2, 2])}')
    if dice.random() < 0.7:
        args += ['-o', dice.choice(['x', 'x', 'y', *ODD_NAMES])]
    for name in dice.choices(FREE, k=dice.choice([0, 0, 1, 1, 2, 3])):
        flag = makemore.flag_of(name)
        is_switch = makemore.SETTINGS[name].type is bool
        args.append(flag if is_switch else f'{flag}={random_value(name, dice)}')
    return args


def make_stream(dice):
    """A stream to write to: text in some encoding, or closed, or none at all."""
    kind = dice.randrange(8)
    if kind == 0:
        return None
    stream = io.TextIOWrapper(io.BytesIO(), dice.choice(['utf-8', 'ascii', 'utf-16', 'cp1252']))
    if kind == 1:
        return io.TextIOWrapper(open('/dev/full', 'wb'), 'utf-8')
    return stream


def written(stream):
    """What was written to a stream of make_stream."""
    if stream is None or not isinstance(stream.buffer, io.BytesIO):
        return ''
    stream.flush()
    return stream.buffer.getvalue().decode('utf-8', 'replace')


def run_command(args, dice):
    """The exit code of a command line, or its exception, and what was printed to stderr.

    Sometimes Ctrl-C comes in between.
    """
    Path('data').write_bytes(odd_text(dice))
    stdin = io.TextIOWrapper(io.BytesIO(odd_text(dice)))
    stderr = make_stream(dice)
    streams = {'stdin': dice.choice([stdin, stdin, None]), 'stdout': make_stream(dice)}
    makemore.LARGE_TEXT = dice.choice([0, 2**30])
    with mock.patch.multiple(sys, stderr=stderr, **streams):
        if dice.random() < 0.05:
            signal.setitimer(signal.ITIMER_REAL, 0.2 * dice.random())
        try:
            code = makemore.main(args)
        except SystemExit as error:
            code = error.code or 0
        except BaseException as error:
            code = repr(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return code, written(stderr)


def try_commands(job, n, seed):
    """A plan: run random command lines one after the other, and note what went wrong."""
    dice = random.Random(seed)
    signal.signal(signal.SIGALRM, send_signal)
    results = {'codes': {}, 'wrong': []}
    for number in range(n):
        if number % 20 == 0:
            shutil.rmtree('here', ignore_errors=True)
            Path('here').mkdir()
        os.chdir('here')
        args = random_command(dice)
        Path(job['log'], 'doing').write_text(repr(args))
        code, err = run_command(args, dice)
        os.chdir(job['cwd'])
        results['codes'][str(code)] = results['codes'].get(str(code), 0) + 1
        # Python prints one itself if Ctrl-C comes while it calls what cannot raise
        has_traceback = 'Traceback' in err and 'Exception ignored' not in err
        if code not in (0, 1, 2, 130, 143) or has_traceback:
            results['wrong'].append([args, code, err[-300:]])
    write_note(job['log'], 'results', results)
    os._exit(0)


def send_signal(number, frame):
    """Ctrl-C, when the alarm rings."""
    os.kill(os.getpid(), signal.SIGINT)


def test_random_command_lines(fork, long):
    """No traceback, no hang, and no other exit code."""
    n = long(25, 2000)
    child = fork(plan=[['limit_resources', 10 + n], ['test_hostile_commands:try_commands', n, 1]])
    child.read_note('end', seconds=60 + 2 * n)
    assert child.wait().code == 0, (child.log / 'doing').read_text()
    results = child.read_note('results')
    assert results['wrong'] == []
    assert set(results['codes']) >= {'0', '2'}
