"""The program through its front door: settings, folders, mistakes, pipes, and a model of one's own."""
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import makemore

PROGRAM = Path(makemore.__file__)


def process(line, **how):
    """A command line in a shell, as it is typed: makemore ... | head -1"""
    line = line.replace('makemore', f'{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))}', 1)
    return subprocess.run(['bash', '-o', 'pipefail', '-c', line], capture_output=True, text=True, **how)


# ----------------------------------------------------------------------------------------------------------------------
# Settings

def test_who_has_the_last_word():
    """The defaults, what the type prefers, the checkpoint, what was typed."""
    assert makemore.settle({}).type == 'transformer'
    prefers = makemore.MODELS['mlp'].prefers['n_embd']
    assert makemore.settle(dict(type='mlp')).n_embd == prefers != makemore.Config.n_embd
    saved = dict(type='mlp', n_embd=12, batch_size=7, seed=5)
    cfg = makemore.settle(dict(seed=6), saved)
    assert (cfg.type, cfg.n_embd, cfg.batch_size, cfg.seed) == ('mlp', 12, 7, 6)
    assert makemore.settle(dict(type='mlp', n_embd=3)).n_embd == 3


@pytest.mark.parametrize('name, typed, saved', [
    ('type', 'rnn', 'mlp'), ('n_embd', 3, 12), ('block_size', 4, 5), ('n_layer', 1, 2)])
def test_what_contradicts_a_checkpoint_is_refused_with_both_values(name, typed, saved):
    with pytest.raises(makemore.UserError) as e:
        makemore.settle({name: typed}, {'type': 'mlp'} | {name: saved})
    assert str(typed) in str(e.value) and str(saved) in str(e.value) and name.replace('_', '-') in str(e.value)
    makemore.settle({name: saved}, {'type': 'mlp'} | {name: saved})      # the same once more is no contradiction


def test_the_original_flags_still_work(run, names):
    """What has no meaning any more is accepted and says so once."""
    line = (f'-i {names} -o x --num-workers 4 --max-steps 3 --device cpu --seed 3407 --top-k -1 --type transformer '
            '--n-layer 1 --n-head 2 --n-embd 16 --n-embd2 16 -b 8 -l 5e-4 -w 0.01')
    code, out, err = run(*line.split())
    settings = json.loads(Path('x/result.json').read_text())['settings']
    assert code == 0 and err.count('--num-workers') == 1 and err.count('--top-k') == 1
    assert settings | dict(n_hidden=16, batch_size=8, learning_rate=5e-4, weight_decay=0.01, seed=3407) == settings
    assert run(*'--resume -o x -n 2 --batch-size 8 --learning-rate 5e-4 --weight-decay 0.01'.split()).code == 0
    assert run(*'--sample-only -o x --top-k 5 --max-steps -1'.split()).code == 0


MISTAKES = {
    '--tempreature 1': ['--tempreature', '--temperature'],
    '--nlayer 3': ['--nlayer', '--n-layer'],
    '--type transfomer': ['transfomer', 'did you mean transformer'],
    '--type MLP': ['MLP', 'mlp'],
    '--type zzz': ['zzz', 'bigram', 'bn-mlp'],
    '--type (': ['(', 'bigram'],
    '--resume --type trnsformer': ['trnsformer', 'transformer'],
    '--sample-only --type trnsformer': ['trnsformer', 'transformer'],
    '--n-layer many': ['--n-layer', 'many', 'whole number'],
    '--n-layer 0': ['--n-layer', '0', 'at least 1'],
    '--n-layer 1.5': ['--n-layer', '1.5'],
    '-b 0': ['--batch-size', '0'],
    '-l nan': ['--learning-rate', 'nan'],
    '-l inf': ['--learning-rate', 'inf'],
    '-l -1': ['--learning-rate', '-1'],
    '--max-steps -7': ['--max-steps', '-7'],
    '--top-k 0': ['--top-k', '0'],
    '--top-p 1.5': ['--top-p', '1.5'],
    '--temperature -1': ['--temperature', '-1'],
    '--temperature nan': ['--temperature', 'nan'],
    '--dropout 1': ['--dropout', '1'],
    '--split honset': ['honset', 'honest', 'lecture'],
    '--smoothing add:x': ['--smoothing', 'add:x'],
    '--smoothing add:0': ['--smoothing', 'add:0'],
    '--device cdua': ['--device', 'cdua'],
    '--seed -1': ['--seed', '-1'],
    '--n-head 3': ['--n-head 3', '--n-embd'],
    '-i': ['-i', 'argument'],
    'names.txt': ['names.txt'],
    '--sample-only -o nowhere': ['nowhere', 'best.pt'],
    '--resume -o nowhere': ['nowhere', 'last.pt'],
    '--sample-only': ['out'],
    '--resume': ['out'],
    '-o names.txt': ['names.txt'],
    '--resume --overwrite': ['--resume', '--overwrite'],
    '--resume --sample-only': ['--resume', '--sample-only'],
    '-o names.txt/x': ['names.txt'],
}


@pytest.mark.parametrize('line', MISTAKES)
def test_a_mistake_costs_one_line(line, run, names, tmp_path):
    (tmp_path / 'names.txt').write_text(names.read_text())
    args = line.split() + (['--type', 'ngram'] if 'smoothing' in line else [])
    code, out, err = run(*args)
    assert (code, out) == (2, '') and 'Traceback' not in err
    last = err.splitlines()[-1]
    assert last.startswith('makemore: ') and len(err.splitlines()) <= 3, 'what was read may have been said before'
    for needle in MISTAKES[line]:
        assert needle in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ['names.txt']


def test_help_and_version(run, capsys):
    for flag, wanted in (('--help', list(makemore.MODELS)), ('--version', [torch.__version__])):
        with pytest.raises(SystemExit) as e:
            makemore.main([flag])
        out = capsys.readouterr().out
        assert e.value.code == 0 and all(word in out for word in wanted)


# ----------------------------------------------------------------------------------------------------------------------
# Folders

def listing(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob('*')}


def test_an_occupied_folder_is_refused(train):
    assert train('bigram', '-o', 'x').code == 0
    before = listing('x')
    code, out, err = train('mlp', '-o', 'x')
    assert code == 2 and 'x' in err and '--resume' in err and '--overwrite' in err and listing('x') == before
    assert train('mlp', '-o', 'x', '--overwrite').code == 0
    assert json.loads(Path('x/result.json').read_text())['type'] == 'mlp'


def test_overwriting_with_something_impossible_destroys_nothing(train):
    assert train('bigram', '-o', 'x').code == 0
    before = listing('x')
    assert train('transformer', '-o', 'x', '--overwrite', n_head=3).code == 2
    assert train('bigram', '-o', 'x', '--overwrite', input_file='missing').code == 2 and listing('x') == before


def test_a_folder_with_other_things_in_it_is_no_run(train, tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x/notes').write_text('mine')
    assert train('bigram', '-o', 'x').code == 0 and (tmp_path / 'x/notes').read_text() == 'mine'


def test_every_run_has_a_folder_of_its_own(train, run):
    """The same command twice loses nothing; without -o the newest is meant, or that of a type, and it is named."""
    assert [train('bigram').code, train('mlp').code, train('bigram').code] == [0, 0, 0]
    assert sorted(path.name for path in Path('out').iterdir()) == ['bigram', 'bigram-2', 'mlp']
    for args, newest in (([], 'out/bigram-2'), (['--type', 'mlp'], 'out/mlp'), (['--type', 'bigram'], 'out/bigram-2')):
        sampled, resumed = run('--sample-only', *args), run('--resume', *args)
        assert sampled.code == resumed.code == 0 and newest in sampled.err and newest in resumed.err
        assert run('--resume', '-o', 'out/bigram-2').code == 0      # the newest again
    assert sorted(path.name for path in Path('out').iterdir()) == ['bigram', 'bigram-2', 'mlp']


def test_a_type_that_begins_like_another(train, run):
    """mlp and bn-mlp, rnn-2 and rnn: the name of the folder has to be the whole name."""
    assert train('mlp').code == train('bn-mlp').code == 0
    assert 'out/mlp' in run('--sample-only', '--type', 'mlp').err
    assert run('--sample-only', '--type', 'lstm').code == 2


def test_the_newest_can_be_loaded_from_a_notebook(train):
    assert train('bigram').code == train('gru').code == 0
    model, words = makemore.load('out')
    assert isinstance(model, makemore.MODELS['gru']) and len(makemore.sample(model, words, 10)) == 10
    assert isinstance(makemore.load('out/bigram')[0], makemore.MODELS['bigram'])


# ----------------------------------------------------------------------------------------------------------------------
# Streams and processes

def test_samples_go_to_stdout_and_all_else_to_stderr(finished, run, train):
    code, out, err = run('--sample-only', '-o', finished('ngram'), '--num-samples', 30, '--new-only')
    assert code == 0 and len(out.splitlines()) == 30 and set(out) <= set('abcdefghijklmnopqrstuvwxyz\n')
    code, out, err = train('mlp')
    assert 'step' in err and 'step' not in out and '\r' not in err      # plain lines, as this is no terminal


@pytest.mark.parametrize('typed, threads', [((), 1), (('--threads', 2), 2)])
def test_samples_are_drawn_with_the_threads_that_were_asked_for(typed, threads, finished, run, monkeypatch):
    """Sampling used to take every core, and where another program had one of them, five times as long."""
    seen, generate = [], makemore.generate
    monkeypatch.setattr(makemore, 'generate', lambda *args, **how: seen.append(torch.get_num_threads())
                        or generate(*args, **how))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert run('--sample-only', '-o', finished('bigram'), '--num-samples', 2, *typed).code == 0
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {threads}


def test_reading_from_a_pipe(names, tmp_path):
    done = process(f'cat {names} | makemore -i - --type bigram --max-steps 3 -o x', cwd=tmp_path)
    assert done.returncode == 0 and '200 lines' in done.stderr and (tmp_path / 'x/best.pt').exists()


def test_standard_input_in_this_process(run, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'emma\nava\nmia\n')))
    done = run('-i', '-', '--type', 'bigram', '--max-steps', 3)
    assert done.code == 0 and done.err.startswith('standard input: 3 lines')


def test_litter_is_collected_again_after_the_imports():
    """And what the imports made is not searched for it."""
    look = 'import gc, makemore; print(gc.isenabled(), gc.get_freeze_count() > 10**5)'
    done = subprocess.run([sys.executable, '-c', look], capture_output=True, text=True, cwd=PROGRAM.parent)
    assert done.stdout.split() == ['True', 'True'], done


def test_a_notebook_keeps_its_own_warnings(train):
    """Every warning after a run used to go through the program's own way of speaking."""
    before = warnings.showwarning
    assert train('bigram', '-o', 'x').code == 0 and warnings.showwarning is before


def test_a_reader_that_has_seen_enough(finished):
    """Far more than a pipe holds, and head leaves after a line: no traceback, nothing that looks like a failure."""
    done = process(f'makemore --sample-only -o {finished("bigram")} --num-samples 20000 | head -1')
    assert len(done.stdout.splitlines()) == 1
    assert 'Traceback' not in done.stderr and 'Exception' not in done.stderr and 'Error' not in done.stderr


def test_ctrl_c_from_outside(names, tmp_path):
    """A process of its own, in the middle of an endless run: it saves, says where to go on, and goes on there."""
    args = f'-i {names} --type bigram --max-steps 1000000 --eval-interval 20 -o x'.split()
    child = subprocess.Popen([sys.executable, str(PROGRAM), *args], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not re.match(r'step +[1-9]', line := child.stderr.readline()):
        assert line, 'it has ended by itself'
    child.send_signal(signal.SIGINT)
    said = child.stderr.read().splitlines()
    assert child.wait() == 130
    assert '--resume' in said[-1] and 'x' in said[-1] and not any('Traceback' in line for line in said)
    assert torch.load(tmp_path / 'x/last.pt', weights_only=True)['step'] > 0


def test_only_the_file_itself_is_needed(tmp_path, names):
    """Copied alone out of the repository it still trains and samples."""
    (tmp_path / 'makemore.py').write_bytes(PROGRAM.read_bytes())
    code = ('import sys, makemore; code = makemore.main(sys.argv[1:]); model, words = makemore.load("x"); '
            'print(len(makemore.sample(model, words, 3))); sys.exit(code or "tokenizer" in sys.modules)')
    args = f'-i {names} --type mlp --max-steps 2 -o x'.split()
    done = subprocess.run([sys.executable, '-c', code, *args], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == '3', done.stderr


# ----------------------------------------------------------------------------------------------------------------------
# A model of one's own

def test_a_new_model_is_one_class_in_one_place(train, run, capsys, monkeypatch):
    """The registry gives it a name, preferred settings, help, a folder, a checkpoint, samples."""
    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))

    @makemore.register('uniform', batch_size=5)
    class Uniform(makemore.LanguageModel):
        """a coin with as many sides as there are letters"""

        def __init__(self, cfg, vocab_size):
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros(vocab_size))

        def logits(self, idx, cache=None):
            return self.level.expand(*idx.shape, -1)

    assert train('uniform').code == 0
    result = json.loads(Path('out/uniform/result.json').read_text())
    assert result['params'] == 27 and result['settings']['batch_size'] == 5
    assert len(run('--sample-only', '--type', 'uniform', '--num-samples', 4).out.splitlines()) == 4
    with pytest.raises(SystemExit):
        makemore.main(['--help'])
    assert 'a coin with as many sides' in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------------
# A notebook

def test_the_notebook_lines_of_the_readme_run(tmp_path, names):
    """As they stand there, in a process of their own; only the list is shorter and the training quicker."""
    readme = (PROGRAM.parent / 'README.md').read_text(encoding='utf-8')
    blocks = re.findall(r'^```python\n(.*?)^```', readme, re.M | re.S)
    (lines,) = [block for block in blocks if 'import makemore' in block]
    assert 'makemore.load' in lines and 'makemore.sample' in lines and 'makemore.main' in lines
    (tmp_path / 'names.txt').write_bytes(names.read_bytes())
    before = ('import makemore\nfor cls in makemore.MODELS.values(): cls.prefers.update(max_steps=2, n_embd=8)\n'
              'makemore.main(["--type", "mlp"])\n')
    after = 'assert [text[:2] for text in makemore.sample(model, words, 10, prompt="ma")] == 10 * ["ma"]'
    done = subprocess.run([sys.executable, '-'], input=before + lines + after, cwd=tmp_path, capture_output=True,
                          text=True, env=os.environ | dict(PYTHONPATH=str(PROGRAM.parent)))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob('out/*/result.json'))) == 1 + lines.count('makemore.main')
