"""makemore in a notebook or in another program: what a run remembers, and what functions return."""

import io
import json
import math
import os
import pydoc
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from comparing import checkpoint, differences, read_metrics
from conftest import ROOT, SMALL
from forks import assert_one_line, small_run

import makemore

pytestmark = pytest.mark.slow

pytest_plugins = ['fork_fixtures']

# -----------------------------------------------------------------------------
# metrics.jsonl


def steps_of(folder):
    return [metrics['step'] for metrics in read_metrics(Path(folder))]


def test_a_line_of_metrics_for_every_evaluation(train):
    assert train('mlp', '-o', 'x', '--warmup', 0, '-l', 0.01).code == 0
    first, *others = read_metrics(Path('x'))
    assert first.keys() == {'step', 'train_loss', 'dev_loss', 'lr', 'seconds'}
    assert [metrics['step'] for metrics in others] == [5, 10, 12]
    assert first['train_loss'] is None and first['lr'] is None  # nothing was trained yet
    assert first['dev_loss'] == pytest.approx(math.log(27), rel=0.03)
    for metrics in others:
        share = (metrics['step'] - 1) / 12  # the last step of the twelve has number 11
        assert metrics['lr'] == pytest.approx(0.005 * (1 + math.cos(math.pi * share)))
        assert metrics['train_loss'] == pytest.approx(metrics['dev_loss'], abs=0.5)
    seconds = [metrics['seconds'] for metrics in [first, *others]]
    assert seconds[0] == 0 and seconds == sorted(seconds)
    assert checkpoint('x/best.pt')['best_loss'] == min(m['dev_loss'] for m in [first, *others])


def test_metrics_of_counting(train):
    assert train('ngram', '-o', 'x').code == 0
    [metrics] = read_metrics(Path('x'))
    assert metrics['dev_loss'] == json.loads(Path('x/result.json').read_text())['dev']
    assert metrics['train_loss'] is None and metrics['lr'] is None


def test_a_resumed_run_continues_its_metrics(train, run):
    """It evaluates once more where it begins: the line of that step stays the old one."""
    assert train('mlp', '-o', 'x').code == 0
    before = read_metrics(Path('x'))
    resumed = run('--resume', '-o', 'x', '--max-steps', 20)
    assert resumed.code == 0 and 'continuing after step 12' in resumed.err
    assert read_metrics(Path('x'))[: len(before)] == before
    assert steps_of('x') == [0, 5, 10, 12, 15, 20]


def test_an_overwritten_run_has_new_metrics(train):
    assert train('mlp', '-o', 'x', max_steps=20).code == 0
    assert train('mlp', '-o', 'x', '--overwrite', max_steps=5).code == 0
    assert steps_of('x') == [0, 5]


def test_metrics_beyond_the_checkpoint_are_dropped(go, names, tmp_path, undisturbed):
    """A run is killed after it wrote the metrics of step 6 and before it saved last.pt.

    Resumed from step 3 it comes to step 6 again: the line is there once, as if nothing happened.
    """
    one, _ = undisturbed('gru')
    two = tmp_path / 'two'
    end = go(*small_run('gru', names, '-o', 'two'), plan=[['kill_while_saving', 5, 0.5]])
    assert end.code == -signal.SIGKILL
    assert steps_of(two) == [0, 3, 6]
    assert checkpoint(two / 'last.pt')['step'] == 3
    assert go('--resume', '-o', 'two').code == 0
    assert differences(read_metrics(one), read_metrics(two)) == []


HALF_LINES = ['{"step": 15, "train', '{"step": "15"}\n', '[]\n', 'é\n', '[' * 100_000]


@pytest.mark.parametrize('end', HALF_LINES, ids=range(len(HALF_LINES)))
def test_metrics_that_cannot_be_read_are_dropped(end, train, run):
    assert train('mlp', '-o', 'x').code == 0
    before = read_metrics(Path('x'))
    with open('x/metrics.jsonl', 'a', encoding='utf-8') as file:
        file.write(end)
    resumed = run('--resume', '-o', 'x', '--max-steps', 20)
    assert resumed.code == 0 and 'continuing after step 12' in resumed.err
    assert read_metrics(Path('x'))[: len(before)] == before
    assert steps_of('x') == [0, 5, 10, 12, 15, 20]


@pytest.mark.parametrize('target', [None, '/dev/zero'])
def test_a_run_without_metrics_can_be_resumed(target, train, run):
    """It may come from an older version. A file that never ends is not read."""
    assert train('mlp', '-o', 'x').code == 0
    Path('x/metrics.jsonl').unlink()
    if target:
        Path('x/metrics.jsonl').symlink_to(target)
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert steps_of('x') == [15, 20]


def test_metrics_on_a_full_disk_are_one_line(train, monkeypatch):
    """/dev/full is like a file on a disk that has no room left since step 7."""
    get_batch = makemore.get_batch

    def fill_disk(dataset, config, step, *rest):
        if step == 7:
            Path('x/metrics.jsonl').unlink()
            Path('x/metrics.jsonl').symlink_to('/dev/full')
        return get_batch(dataset, config, step, *rest)

    monkeypatch.setattr(makemore, 'get_batch', fill_disk)
    assert_one_line(train('mlp', '-o', 'x'), 1, 'x/metrics.jsonl', 'No space left')
    assert checkpoint('x/last.pt')['step'] == 5


# -----------------------------------------------------------------------------
# train, load and evaluate


@pytest.fixture
def train_small(names, tmp_path, monkeypatch, capsys):
    """train_small('mlp', max_steps=5): a small run on the 200 names, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    defaults = {**SMALL, 'input_file': names, 'max_steps': 12, 'eval_interval': 5}
    return lambda kind, **more: makemore.train(type=kind, **{**defaults, **more})


def test_train_returns_a_run(train_small, train):
    """The same run as that of the command line, with the best model, ready to sample."""
    run = train_small('mlp', work_dir=Path('x'))
    assert run.config.type == 'mlp' and run.config.work_dir == 'x'
    assert differences(run.history, read_metrics(run.folder)) == []
    assert not run.model.training
    best = checkpoint('x/best.pt')
    assert differences(dict(run.model.state_dict()), dict(best['model'])) == []
    assert len(makemore.sample(run.model, run.dataset, 4)) == 4
    assert repr(run) == f'Run(x: mlp, step 12, dev loss {best["best_loss"]:.4f})'

    assert train('mlp', '-o', 'y').code == 0
    for name in ('best.pt', 'last.pt'):
        assert differences(checkpoint(f'x/{name}'), checkpoint(f'y/{name}')) == []


def test_train_continues_a_run(train_small):
    first = train_small('mlp')
    run = makemore.train(resume=True, work_dir=first.folder, max_steps=20, overwrite=False)
    assert [metrics['step'] for metrics in run.history] == [0, 5, 10, 12, 15, 20]
    assert run.history[:4] == first.history
    with pytest.raises(makemore.UserError, match='20, beyond --max-steps 3'):
        makemore.train(resume=True, max_steps=3)


def test_a_run_that_takes_much_memory_is_resumed_with_its_batch_size(train_small):
    """A checkpoint from elsewhere may ask for gigabytes: so much is used only if it is typed."""
    run = train_small('bigram', max_steps=1, batch_size=10_000)
    command = makemore.resume_command(run).split()
    assert command[-2:] == ['--batch-size', '10000']
    with pytest.raises(makemore.UserError, match='if you trust this run, add --batch-size 10000'):
        makemore.train(resume=True, work_dir=run.folder, max_steps=2)
    resumed = makemore.train(resume=True, work_dir=run.folder, max_steps=2, batch_size=10_000)
    assert resumed.step == 2


def test_torchrun_restarts_a_run_that_takes_much_memory(train_small, monkeypatch):
    """It was begun by the same command, so nobody has to type its batch size."""
    run = train_small('bigram', max_steps=1, batch_size=10_000)
    monkeypatch.setattr(makemore, 'launched_by_torchrun', lambda: True)
    monkeypatch.setattr(makemore.torchrun, 'was_restarted', lambda: True)
    resumed, lock = makemore.resume_run({'work_dir': run.folder}, torch.device('cpu'))
    lock.close()
    assert resumed.step == 1


@pytest.mark.parametrize(
    ('kind', 'flags'),
    {'transformer': {'block_size': 256}, 'gru': {'block_size': 512}, 'ngram': {}}.items(),
)
def test_what_honest_runs_take_is_not_much(kind, flags, tmp_path):
    """Runs on a text with a longer context were taken for hostile ones, and not resumed."""
    path = tmp_path / 'text.txt'
    path.write_text('the quick brown fox jumps over the lazy dog\n' * 500)
    config = makemore.resolve_config({'input_file': path, 'text': True, 'type': kind, **flags})
    config, dataset = makemore.load_data(config)
    model = makemore.MODELS[kind](config, dataset.vocab_size)
    assert not makemore.asks_for_much_memory(makemore.Run(config, dataset, model))


def test_train_counts(train_small):
    run = train_small('ngram')
    assert [metrics['dev_loss'] for metrics in run.history] == [run.best_loss]


def test_numbers_of_numpy_are_numbers(train_small):
    """As in a loop over numpy.logspace. In a checkpoint they would be refused as code."""
    run = train_small('bigram', learning_rate=numpy.float64(0.1), max_steps=numpy.int64(3))
    assert type(run.config.learning_rate) is float and type(run.config.max_steps) is int
    makemore.load(run.folder)


@pytest.mark.parametrize('model_type', ['mlp', 'ngram'])
def test_a_loaded_model_can_be_evaluated(model_type, train_small):
    run = train_small(model_type)
    result = json.loads((run.folder / 'result.json').read_text())
    model, dataset = makemore.load(run.folder, with_data=True)
    for split in ('train', 'dev', 'test'):
        assert makemore.evaluate(model, dataset, split) == pytest.approx(result[split], rel=1e-6)
    assert makemore.evaluate(model, dataset) == makemore.evaluate(model, dataset, 'dev')


def test_a_loaded_model_is_evaluated_on_its_own_data(train_small, names):
    """The file may have moved since. Other data than the model was trained on are refused."""
    copy = Path('copy.txt')
    copy.write_bytes(names.read_bytes())
    run = train_small('mlp', input_file=copy)
    moved = copy.rename('moved.txt')
    with pytest.raises(makemore.UserError, match='No such file'):
        makemore.load(run.folder, with_data=True)
    model, dataset = makemore.load(run.folder, with_data=moved)
    assert makemore.evaluate(model, dataset) == pytest.approx(run.best_loss, rel=1e-6)
    moved.write_text('anna\notto\n')
    with pytest.raises(makemore.UserError, match='other characters than the data'):
        makemore.load(run.folder, with_data=moved)


def test_evaluation_needs_tokens_and_a_split_that_exists(build, finished):
    _, dataset, model = build('mlp')
    with pytest.raises(makemore.UserError, match="split 'valid': unknown; choose train, dev, test"):
        makemore.evaluate(model, dataset, 'valid')
    with pytest.raises(makemore.UserError, match='with_data=True'):
        makemore.evaluate(*makemore.load(finished('mlp')), 'dev')


def test_the_data_set_says_what_it_is(build, finished):
    _, dataset, _ = build('mlp')
    n_heldout = len(dataset.heldout_lines)
    size = f'vocabulary of {dataset.vocab_size}, 160 lines in train, {n_heldout} in dev and test'
    assert repr(dataset) == f'CharDataset({size})'
    _, dataset = makemore.load(finished('mlp'))
    assert repr(dataset) == f'CharDataset({size}, tokens not loaded)'
    _, dataset, _ = build('ngram', text=True)
    assert repr(dataset) == f'CharDataset(vocabulary of {dataset.vocab_size}, one long text)'


# -----------------------------------------------------------------------------
# signals and threads


def test_ctrl_c_saves_the_run_and_interrupts_the_cell(train_small, monkeypatch):
    """In a loop over settings, Ctrl-C ends the loop, not only the run of that moment."""
    get_batch = makemore.get_batch

    def interrupt(dataset, config, step, *rest):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return get_batch(dataset, config, step, *rest)

    monkeypatch.setattr(makemore, 'get_batch', interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_small('mlp', work_dir='x')
    assert checkpoint('x/last.pt')['step'] == 8
    run = makemore.train(resume=True, work_dir='x')  # the folder is not locked any more
    assert run.history[-1]['step'] == 12


def test_training_in_a_thread(train_small):
    """Only the main thread can receive signals, and a program may train in another one."""
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train_small('mlp')))
    thread.start()
    thread.join()
    assert runs[0].history[-1]['step'] == 12


# -----------------------------------------------------------------------------
# mistakes


def test_mistakes_are_value_errors(tmp_path):
    """As those of Python and torch for a bad argument: one need not know the program's classes."""
    with pytest.raises(ValueError, match='train one first') as caught:
        makemore.load(tmp_path)
    assert caught.type is makemore.UserError


def test_handlers_of_value_errors_let_mistakes_pass(run, tmp_path, monkeypatch):
    """The handler around a large text made a failed run (exit code 1) of a mistake (2)."""
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 0)
    (tmp_path / 'n.txt').write_text(100 * 'a')
    assert_one_line(run('-i', 'n.txt', '--text'), 2, 'too little text')
    monkeypatch.setattr('sys.stdin', None)
    assert run('-i', '-').err == 'makemore: -i -: standard input is closed\n'


WRONG_SETTINGS = {
    'no such setting .did you mean max_steps': {'max_step': 5},
    'unknown .did you mean gru': {'type': 'gruu'},
    'n-head 1.5: expected a whole number': {'n_head': 1.5},
    'n-layer True: expected a whole number': {'n_layer': True},
    "text 'no': expected bool": {'text': 'no'},
    'learning-rate nan: must be at least 0': {'learning_rate': math.nan},
    'learning-rate 1000.*: expected a number': {'learning_rate': 10**400},
    'max-steps -1: must be at least 0': {'max_steps': -1},
    'prompt None: expected str': {'prompt': None},
    'resume and --overwrite exclude each other': {'resume': True, 'overwrite': True},
    'find_lr is for the command line': {'find_lr': True},
    'runs is for the command line': {'runs': True},
    'cannot read nowhere.txt': {'input_file': 'nowhere.txt'},
    'no such device|nodevice': {'device': 'nodevice'},
}


@pytest.mark.parametrize('message', WRONG_SETTINGS)
def test_wrong_settings_are_refused(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(makemore.UserError, match=message):
        makemore.train(**WRONG_SETTINGS[message])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['n_head', 'max_steps', 'type', 'dropout'])
def test_a_config_checks_its_values(name):
    """Like the command line, in one place; text is converted as there."""
    assert makemore.Config(n_head='8', dropout='0.5').n_head == 8
    with pytest.raises(makemore.UserError, match=makemore.flag_of(name)):
        makemore.Config(**{name: -1})


WRONG_ARGUMENTS = {
    'num-samples -1: must be at least 0': {'n': -1},
    'num-samples 2.5: expected a whole number': {'n': 2.5},
    'temperature -1.0: must be at least 0': {'temperature': -1},
    'top-k 0: must be at least 1': {'top_k': 0},
    'top-p 2.0: must be at least': {'top_p': 2},
    'length 0: must be at least 1': {'length': 0},
    'seed -1: must be at least 0': {'seed': -1},
    "'É' is not in the vocabulary": {'prompt': 'É'},
    'prompt 5: expected str': {'prompt': 5},
}


@pytest.mark.parametrize('message', WRONG_ARGUMENTS)
def test_sample_checks_its_arguments(message, finished):
    model, dataset = makemore.load(finished('mlp'))
    with pytest.raises(makemore.UserError, match=message):
        makemore.sample(model, dataset, **WRONG_ARGUMENTS[message])


@pytest.mark.parametrize('name', ['n', 'temperature', 'top_k', 'length', 'seed'])
def test_sample_says_what_the_command_line_says(name, finished, command_line):
    flag = makemore.flag_of('num_samples' if name == 'n' else name)
    end = command_line('--sample-only', '-o', finished('mlp'), flag, -2)
    with pytest.raises(makemore.UserError) as caught:
        makemore.sample(*makemore.load(finished('mlp')), **{name: -2})
    assert end == (2, '', f'makemore: {caught.value}\n')


# -----------------------------------------------------------------------------
# help and notebooks


def test_help_fits_a_few_screens():
    """Of 40 lines; it says what train, load, sample and evaluate do."""
    text = pydoc.plain(pydoc.render_doc(makemore))
    assert len(text.splitlines()) <= 100
    for name in ('train(', 'load(', 'sample(', 'evaluate('):
        assert name in text
    for name in makemore.__all__:
        function = getattr(makemore, name)
        assert function.__doc__ and 'return' in function.__annotations__


class NotebookStream(io.StringIO):
    """What sys.stdout is in a notebook, as far as makemore looks at it."""


NotebookStream.__module__ = 'ipykernel.iostream'


def test_in_a_notebook_the_log_goes_to_stdout(train_small, monkeypatch):
    """What goes to stderr stands in a red block there. The progress bar needs no widgets."""
    out = NotebookStream()
    err = NotebookStream()
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', err)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train_small('mlp')
    assert err.getvalue() == ''
    assert 'step     12 | train loss' in out.getvalue()
    assert '| step 12/12' in out.getvalue()
    assert 'ipywidgets' not in sys.modules


NOTEBOOK = ROOT / 'lectures/first_names.ipynb'


def test_the_notebook_shows_what_it_printed():
    """It was run from top to bottom, without errors and without a red block."""
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    code = [cell for cell in cells if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell['outputs']]
    kinds = {output['output_type'] for output in outputs}
    assert kinds == {'stream', 'execute_result', 'display_data'}
    assert {output.get('name', 'stdout') for output in outputs} == {'stdout'}


def read_gru_loss(text):
    """The dev loss that the notebook prints at last."""
    return float(re.search(r'^gru   dev loss ([\d.]+)$', text, re.MULTILINE)[1])


def test_the_notebook_knows_the_default_of_the_gru():
    """It went on to say 7,500 steps when they had become 3,750."""
    default = makemore.MODELS['gru'].preferred_settings['max_steps']
    assert f'default is {default:,}.' in NOTEBOOK.read_text(encoding='utf-8')


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """The code of its cells, one after the other, in a process of its own; what it shows is what
    comes out. It still showed the losses of smaller batches.
    """
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    (tmp_path / 'names.txt').write_bytes((ROOT / 'names.txt').read_bytes())
    (tmp_path / 'lectures').mkdir()
    done = subprocess.run(
        [sys.executable, '-'],
        input='\n'.join(code),
        cwd=tmp_path / 'lectures',
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr
    texts = [
        ''.join(output.get('text', '')) for cell in cells for output in cell.get('outputs', [])
    ]
    shown = read_gru_loss('\n'.join(texts))
    # another processor adds up in another order
    assert read_gru_loss(done.stdout) == pytest.approx(shown, abs=0.01)
    assert '--temperature -1.0: must be at least 0' in done.stdout
    runs = sorted(path.parent.name for path in tmp_path.glob('lectures/out/*/metrics.jsonl'))
    assert runs == ['names-gru', 'names-ngram']
