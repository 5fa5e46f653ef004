"""Around a run: folders, other data, links, devices, odd names. Each test tells what went wrong."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from comparing import checkpoint, differences

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

PROGRAM = Path(makemore.__file__)
SMALL = ['--n-embd', '8', '--n-hidden', '8', '--max-steps', '6', '--num-samples', '2']


def start(*args, cwd, **how):
    """The program as a process of its own."""
    command = [sys.executable, str(PROGRAM), *map(str, args)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, **pipes, **how)


# -----------------------------------------------------------------------------
# folders


@pytest.mark.slow
def test_a_run_that_reads_slowly_does_not_replace_one_that_was_faster(names, tmp_path):
    """The folder was chosen before the data was read, and not looked at again afterwards."""
    (tmp_path / 'stdin.txt').write_bytes(names.read_bytes())  # the folders get the same name
    slow = start('-i', '-', '--type', 'ngram', cwd=tmp_path, stdin=subprocess.PIPE)
    quick = start('-i', 'stdin.txt', '--type', 'ngram', cwd=tmp_path)
    assert quick.wait() == 0
    slow.communicate('anna\nhanna\n' * 9)
    assert slow.returncode == 0
    results = {}
    for path in tmp_path.glob('out/*/result.json'):
        results[path.parent.name] = json.loads(path.read_text())['settings']['input_file']
    assert results == {'stdin-ngram': 'stdin.txt', 'stdin-ngram-2': '-'}


@pytest.mark.slow
def test_a_named_folder_is_looked_at_again_after_the_data_was_read(names, tmp_path):
    args = ['--type', 'ngram', '-o', 'mine']
    slow = start('-i', '-', *args, cwd=tmp_path, stdin=subprocess.PIPE)
    assert start('-i', names, *args, cwd=tmp_path).wait() == 0
    before = (tmp_path / 'mine/best.pt').read_bytes()
    _, err = slow.communicate('anna\nhanna\n' * 9)
    assert slow.returncode == 2
    assert 'mine holds a run' in err
    assert (tmp_path / 'mine/best.pt').read_bytes() == before


def test_overwriting_a_run_removes_its_curves(train):
    """The curves of both runs were mixed in TensorBoard."""
    assert train('bigram', '-o', 'x').code == 0
    old = set(Path('x').rglob('events.out.tfevents.*'))
    assert train('bigram', '-o', 'x', '--overwrite').code == 0
    new = set(Path('x').rglob('events.out.tfevents.*'))
    assert {path.parent.name for path in new} == {'x', 'train', 'dev'}
    assert len(new) == 3
    assert not new & old


# -----------------------------------------------------------------------------
# resuming


@pytest.mark.parametrize('spoil', [Path.unlink, lambda path: path.write_bytes(b'half')])
def test_a_missing_or_damaged_best_does_not_prevent_resuming(spoil, train, run):
    assert train('gru', '-o', 'x').code == 0
    spoil(Path('x/best.pt'))
    result = run('--resume', '-o', 'x', '--max-steps', 20)
    assert result.code == 0
    assert 'best.pt' in result.err
    assert checkpoint('x/best.pt')['step'] > 0


def test_the_best_model_of_another_run_is_not_used(train, run):
    """It was loaded for the report: a traceback, or samples of another run."""
    assert train('gru', '-o', 'x').code == 0
    assert train('mlp', '-o', 'y').code == 0
    Path('x/best.pt').write_bytes(Path('y/best.pt').read_bytes())
    result = run('--resume', '-o', 'x', '--max-steps', 20)
    assert result.code == 0
    assert 'x/best.pt is of another run than last.pt' in result.err
    assert checkpoint('x/best.pt')['settings']['type'] == 'gru'


@pytest.mark.parametrize('flags', [('--split', 'all'), ('--vocab-size', 260)])
def test_settings_of_the_data_cannot_be_changed_by_resuming(flags, run, names):
    """Another tokenizer came under the old weights, with exit code 0."""
    bpe = ['--tokenizer', 'bpe', '--vocab-size', 270]
    assert run('-i', names, '--type', 'bigram', *bpe, *SMALL, '-o', 'x').code == 0
    before = Path('x/last.pt').read_bytes()
    result = run('--resume', '-o', 'x', *flags)
    assert result.code == 2
    assert f'{flags[0]} {flags[1]} contradicts the checkpoint' in result.err
    assert Path('x/last.pt').read_bytes() == before


@pytest.mark.parametrize('mode', [[], ['--text'], ['--tokenizer', 'bpe', '--vocab-size', 270]])
def test_resuming_on_other_data_of_the_same_characters_is_refused(mode, run, names):
    Path('data.txt').write_bytes(names.read_bytes())
    assert run('-i', 'data.txt', '--type', 'bigram', *mode, *SMALL, '-o', 'x').code == 0
    lines = names.read_text().split('\n')
    Path('data.txt').write_text('\n'.join(lines[::-1]))
    result = run('--resume', '-o', 'x', '--max-steps', 9)
    assert result.code == 2
    assert 'than the data that x was trained on: start a new run' in result.err
    Path('data.txt').write_bytes(names.read_bytes())
    assert run('--resume', '-o', 'x', '--max-steps', 9).code == 0


def test_an_interrupted_run_ends_in_the_same_best_model(names, run, monkeypatch):
    """The evaluation interval was not carried over: another step was the best one."""
    lines = names.read_text().split('\n')
    Path('few.txt').write_text('\n'.join(lines[:60]))
    args = ['-i', 'few.txt', '--type', 'gru', '--eval-interval', 4, '-l', 0.05, '--max-steps', 40]
    assert run(*args, '-o', 'one').code == 0
    get_batch = makemore.get_batch

    def stop_at_step_7(dataset, config, step, *rest):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return get_batch(dataset, config, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(makemore, 'get_batch', stop_at_step_7)
        stopped = run(*args, '-o', 'two')
    assert stopped.code == 143
    command = stopped.err.splitlines()[-1].split('makemore.py ')[1]
    assert run(*command.split()).code == 0
    for name in ('best.pt', 'last.pt'):
        assert differences(checkpoint(f'one/{name}'), checkpoint(f'two/{name}')) == []
    results = [json.loads(Path(folder, 'result.json').read_text()) for folder in ('one', 'two')]
    assert differences(*results) == []


def test_threads_are_carried_over(train, run, monkeypatch):
    assert train('bigram', '-o', 'x', '--threads', 2).code == 0
    calls = []
    monkeypatch.setattr(torch, 'set_num_threads', calls.append)
    assert run('--resume', '-o', 'x', '--max-steps', 14).code == 0
    assert run('--sample-only', '-o', 'x').code == 0
    assert calls == [1, 2, 1, 2]  # first the default, then what the checkpoint says


# -----------------------------------------------------------------------------
# foreign files


WRITTEN = ['lock', 'best.pt.tmp', 'last.pt.tmp', 'result.json.tmp']
WRITTEN += ['metrics.jsonl', 'metrics.jsonl.tmp', 'labels.tsv', 'vectors.tsv']


@pytest.mark.parametrize('name', WRITTEN)
def test_nothing_is_written_through_a_link_in_a_foreign_folder(name, train, tmp_path):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    Path('x').mkdir()
    Path('x', name).symlink_to(victim)
    result = train('mlp', '-o', 'x')
    assert victim.read_text() == 'precious'
    assert result.code == (1 if name == 'lock' else 0)
    assert 'Traceback' not in result.err


def rezip(path, change):
    """Write the zip file anew; change(parts) gets and returns a list of (name, content)."""
    with zipfile.ZipFile(path) as old:
        parts = [(info.filename, old.read(info)) for info in old.infolist()]
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as new:
        for name, data in change(parts):
            new.writestr(name, data)
        for info in new.filelist:
            info.external_attr = 0  # as torch writes it
    path.write_bytes(content.getvalue())


def decoy(parts):
    """A harmless pickle that comes first, in another root."""
    return [('a/data.pkl', b'\x80\x02N.'), *parts]


def double(parts):
    """The same name twice: which of the two is meant?"""
    return [*parts, ('best/data.pkl', b'\x80\x02N.')]


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('change', [decoy, double])
def test_a_second_pickle_in_a_checkpoint_is_refused(change, finished, run):
    """The look into the file read another pickle than torch did."""
    Path('x').mkdir()
    Path('x/best.pt').write_bytes((finished('gru') / 'best.pt').read_bytes())
    rezip(Path('x/best.pt'), change)
    result = run('--sample-only', '-o', 'x')
    assert result.code == 2
    assert 'several roots' in result.err or 'same name' in result.err


def test_a_pickle_of_millions_of_empty_lists_is_refused(finished, run):
    """4 MB of them took 300 MB."""

    def many_lists(parts):
        bomb = b'\x80\x02(' + b']' * 4_000_000 + b'l.'
        return [(name, bomb if name.endswith('data.pkl') else data) for name, data in parts]

    Path('x').mkdir()
    Path('x/best.pt').write_bytes((finished('gru') / 'best.pt').read_bytes())
    rezip(Path('x/best.pt'), many_lists)
    result = run('--sample-only', '-o', 'x')
    assert result.code == 2
    assert 'instructions' in result.err


# -----------------------------------------------------------------------------
# odd files, names and streams


def test_a_device_that_never_ends_is_refused(run):
    result = run('-i', '/dev/urandom', '--type', 'ngram')
    assert result.code == 2
    assert result.err == 'makemore: cannot read /dev/urandom: it is a device; see -i\n'


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_text_can_come_from_a_named_pipe(tmp_path):
    """It was opened twice, and the second time nobody was writing."""
    os.mkfifo(tmp_path / 'pipe')
    args = ['-i', 'pipe', '--text', '--type', 'ngram', '--length', '9', '-o', 'x']
    child = start(*args, cwd=tmp_path)
    (tmp_path / 'pipe').write_text('to be or not to be ' * 9)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err


def test_a_prompt_file_may_end_with_a_line_end(finished, run):
    """As every file does."""
    Path('prompt.txt').write_text('ann\n')
    result = run('--sample-only', '-o', finished('gru'), '--prompt', '@prompt.txt')
    assert result.code == 0
    assert all(line.startswith('ann') for line in result.out.splitlines())


def test_a_prompt_in_another_encoding(finished, run):
    """The message advised --encoding latin-1, which was not used for the prompt."""
    Path('prompt.txt').write_bytes(b'\xe9\n')
    words = ['--sample-only', '-o', finished('gru'), '--prompt', '@prompt.txt']
    result = run(*words)
    assert result.code == 2 and 'as in --encoding latin-1' in result.err
    result = run(*words, '--encoding', 'latin-1')
    assert result.code == 2 and "'é' is not in the vocabulary" in result.err


def test_a_prompt_of_two_dashes(run):
    """argparse made an empty list of --prompt=--, and that a traceback."""
    Path('n.txt').write_text('a--b\n--a\n' * 9)
    result = run('-i', 'n.txt', '--type', 'bigram', *SMALL, '-o', 'x')
    assert result.code == 0
    result = run('--sample-only', '-o', 'x', '--prompt=--')
    assert result.code == 0
    assert all(line.startswith('--') for line in result.out.splitlines())


@pytest.mark.parametrize('encoding', ['idna', 'punycode', 'undefined', 'rot13', 'utf_8'])
def test_odd_encodings_take_one_line_or_work(encoding, run):
    Path('n.txt').write_bytes(b'\xef\xbb\xbfemma\nava\n' if encoding == 'utf_8' else b'emma\nava\n')
    result = run('-i', 'n.txt', '--encoding', encoding, '--type', 'ngram', '-o', 'x')
    assert result.code in (0, 2)
    assert 'Traceback' not in result.err
    if encoding == 'utf_8':
        assert 'vocabulary of 5' in result.err  # without the byte order mark


def test_the_line_of_an_error_in_an_encoding_that_cannot_ignore_errors(run):
    """The text before the error was decoded without errors, which idna refused in a traceback."""
    Path('n.txt').write_bytes(b'emma\navs\xe9\n')
    result = run('-i', 'n.txt', '--encoding', 'idna', '--type', 'ngram', '-o', 'x')
    assert result.code == 2
    assert 'n.txt, line 2 is not idna' in result.err


def test_help_without_docstrings(tmp_path):
    """python -OO drops them."""
    command = [sys.executable, '-OO', str(PROGRAM), '--help']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert 'transformer' in done.stdout


def test_a_variable_of_torchrun_alone_does_not_make_a_group(names, tmp_path):
    env = os.environ | {'TORCHELASTIC_RUN_ID': '1'}
    child = start('-i', names, '--type', 'ngram', '-o', 'x', cwd=tmp_path, env=env)
    _, err = child.communicate()
    assert child.returncode == 0, err


@pytest.mark.parametrize('name', ['caf\udce9.txt', 'a b.txt', '-x.txt', "it's.txt"])
def test_odd_file_names(name, names, tmp_path):
    """Also names that are not UTF-8, as old disks have them."""
    try:
        (tmp_path / name).write_bytes(names.read_bytes())
    except (OSError, UnicodeError):
        pytest.skip('this file system does not take such a name')
    folder = name.removesuffix('.txt').lstrip('-') + ' run'
    child = start(f'-i={name}'.replace('-i=', '-i'), '--type', 'ngram', '-o', folder, cwd=tmp_path)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert (tmp_path / folder / 'result.json').exists()


def test_a_token_file_in_a_folder_whose_name_is_not_utf8(run, names, monkeypatch):
    """torch.from_file does not take such a path: a traceback."""
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 0)
    result = run('-i', names, '--text', '--type', 'bigram', *SMALL, '-o', 'caf\udce9')
    assert result.code == 0, result.err
    assert Path('caf\udce9/tokens.bin').exists()


def test_samples_of_byte_pairs_take_one_line_each(run):
    """A tokenizer that was trained on texts has tokens with line ends in them."""
    from tokenizer import Tokenizer

    Tokenizer(None).train('ab\nab\nab\nab\n' * 9, 258).save('tok.json')
    Path('n.txt').write_text('abab\nab\nba\n' * 20)
    bpe = ['--tokenizer', 'tok.json', '--type', 'bigram', *SMALL]
    assert run('-i', 'n.txt', *bpe, '-o', 'x').code == 0
    result = run('--sample-only', '-o', 'x', '--num-samples', 200, '--temperature', 50)
    assert result.out.count('\n') == 200


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_reading_ends_the_program(number, code, tmp_path):
    """The first one was swallowed in every phase but training."""
    code_of_main = 'sys.exit(makemore.main(["-i", "-", "--type", "ngram"]))'
    script = f'import sys, makemore; print("ready", flush=True); {code_of_main}'
    command = [sys.executable, '-c', script]
    env = os.environ | {'PYTHONPATH': str(PROGRAM.parent)}
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    child = subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **pipes)
    assert child.stdout.readline() == 'ready\n'
    time.sleep(0.5)  # now it waits for its input
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert child.returncode == code
    assert 'Traceback' not in err


def test_ctrl_c_while_the_extras_are_imported(tmp_path):
    """A traceback of twenty lines; only the imports before them were thought of."""
    (tmp_path / 'makemore.py').write_bytes(PROGRAM.read_bytes())
    (tmp_path / 'makemore_extras').mkdir()
    (tmp_path / 'makemore_extras/__init__.py').write_text('raise KeyboardInterrupt')
    command = [sys.executable, 'makemore.py', '--version']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (130, '')
