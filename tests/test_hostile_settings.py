"""
Settings at their limits, contradictions, random settings, and numbers that are not finite.

A command works, or it is refused in one line that names the setting.
"""

import json
import math
import random
import shutil
import signal
import typing
from pathlib import Path

import pytest
import torch
from comparing import checkpoint
from conftest import SMALL, flags
from forks import assert_one_line

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

SETTINGS = makemore.SETTINGS


def type_of(name):
    """int for a setting that is `int | None`."""
    annotation = SETTINGS[name].type
    return (typing.get_args(annotation) or (annotation,))[0]


NUMBERS = [name for name, setting in SETTINGS.items() if setting.metadata['limits']]
HAVE_HIGHEST = [name for name in NUMBERS if SETTINGS[name].metadata['limits'][1]]
SWITCHES = [name for name, setting in SETTINGS.items() if setting.type is bool]
TEXTS = [name for name in SETTINGS if type_of(name) is str]


def beyond_all(name):
    """A number as large as its type allows, or close to that."""
    return 10**30 if type_of(name) is int else 1e308


def model_type_with(name):
    """A model type that makes use of the setting."""
    return 'mlp' if name in ('n_hidden', 'dropout') else 'transformer'


# -----------------------------------------------------------------------------
# numbers


@pytest.mark.parametrize('name', NUMBERS)
def test_the_lowest_number_works_and_a_lower_one_is_refused(name, train):
    lowest, _ = SETTINGS[name].metadata['limits']
    args = []
    if name == 'vocab_size':
        args = ['--tokenizer', 'bpe']
    elif name == 'n_embd':
        args = ['--n-head', 1]
    elif SETTINGS[name].metadata['group'] == 'sampling':
        args = ['--split', 'all']
    settings = {'max_steps': 3} | {name: lowest}
    end = train('transformer', *args, '-o', 'x', **settings)
    assert end.code == 0, end
    if name != 'max_steps':  # -1 meant without end in the original, and is ignored
        end = train('transformer', '-o', 'y', **{name: lowest - 1})
        assert_one_line(end, 2, makemore.flag_of(name))
    assert not Path('y').exists()


@pytest.mark.parametrize('name', HAVE_HIGHEST)
def test_a_number_above_the_highest_is_refused(name, train):
    _, highest = SETTINGS[name].metadata['limits']
    for value in (highest * 2 + 1, 10**400 if type_of(name) is int else 1e308):
        end = train('transformer', '-o', 'y', **{name: value})
        assert_one_line(end, 2, makemore.flag_of(name))


# left out: without end, or refused by the operating system in its own way
HIGHEST = [name for name in NUMBERS if name not in ('max_steps', 'num_samples', 'threads')]
SLOW = ('batch_size', 'n_hidden', 'n_layer')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in HIGHEST]
)
def test_the_highest_number_works_or_is_too_much_for_the_machine(name, go, names):
    """Without a highest number, about the largest that its type has; with six gigabytes."""
    _, highest = SETTINGS[name].metadata['limits']
    settings = {**SMALL, 'max_steps': 2, 'num_samples': 2, 'length': 30}
    settings[name] = highest or beyond_all(name)
    command = ['-i', names, '-o', 'x', '--type', model_type_with(name), *flags(settings)]
    end = go(*command, plan=[['limit_resources', 3]])
    assert end.code in (0, 1, 2, -signal.SIGXCPU), end  # or too much for three seconds
    assert 'Traceback' not in end.err, end
    if end.code > 0:
        assert_one_line(end, end.code)


# fmt: off
NO_NUMBERS = [
    'many', '', ' ', '1.5.2', '1,000', '0x10', 'nan', '--', '1e999', '-', '9' * 5000, 'None',
    '[1]', '½', '\x1b[2J',
]
# fmt: on


@pytest.mark.parametrize('name', NUMBERS)
def test_what_is_no_number_is_refused(name, run, names):
    for value in NO_NUMBERS:
        end = run('-i', names, '-o', 'x', f'{makemore.flag_of(name)}={value}')
        assert_one_line(end, 2, makemore.flag_of(name))
    assert not Path('x').exists()


# -----------------------------------------------------------------------------
# switches, texts and contradictions


@pytest.mark.parametrize('name', SWITCHES)
def test_a_switch_takes_no_value(name, run, names):
    end = run('-i', names, f'{makemore.flag_of(name)}=yes')
    assert_one_line(end, 2, makemore.flag_of(name))


MAY_BE_EMPTY = ('work_dir', 'prompt', 'match')


@pytest.mark.parametrize('name', [name for name in TEXTS if name not in MAY_BE_EMPTY])
def test_an_empty_text_is_refused(name, run, names, tmp_path):
    """-i '' and the like: a variable that is not set in a script."""
    model_type = 'ngram' if name == 'smoothing' else 'mlp'
    command = ['-i', names, '-o', 'x', '--max-steps', 1, '--type', model_type]
    assert_one_line(run(*command, f'{makemore.flag_of(name)}='), 2)
    assert not (tmp_path / 'x').exists()


CONTRADICTIONS = {
    '--type transformer --n-embd 10 --n-head 4': ['--n-embd', '--n-head'],
    '--block-size 0': ['--block-size'],
    '--temperature -1': ['--temperature'],
    '--top-p 0': ['--top-p'],
    '--top-p 1.01': ['--top-p'],
    '--n-layer 0': ['--n-layer'],
    '--type wavenet --block-size 7': ['wavenet'],
    '--type wavenet --n-layer 13': ['wavenet'],
    '--type ngram --block-size 62': ['--block-size'],
    '--type ngram --smoothing kn:3': ['--smoothing'],
    '--sample-only --resume': ['--sample-only', '--resume'],
    '--sample-only --overwrite': ['--sample-only', '--overwrite'],
    '--tokenizer bpe --vocab-size 255': ['--vocab-size'],
    '--tokenizer nowhere.json': ['nowhere.json'],
    '--prompt ABC': ["'A'"],
    '--prompt @nowhere': ['nowhere'],
    '--device cuda:99': ['cuda:99'],
    '--device tpu': ['tpu'],
    '--threads 0': ['--threads'],
    '--encoding klingon': ['klingon'],
    '--split none': ['none'],
    '--type': ['--type'],
    '--max-steps': ['--max-steps'],
    '--seed 1 --seed': ['--seed'],
    'emma ava': ['emma'],
    '--n-layer=': ['--n-layer'],
    '-b': ['-b'],
    '--batch-sise 3': ['--batch-size'],
    '--work-dir': ['--work-dir'],
}


@pytest.mark.parametrize('line', CONTRADICTIONS)
def test_a_contradiction_is_named(line, run, names, tmp_path):
    end = run('-i', names, *line.split())
    assert_one_line(end, 2, *CONTRADICTIONS[line])
    assert not (tmp_path / 'out').exists()


# -----------------------------------------------------------------------------
# random settings

CHOICES = {
    'block_size': range(1, 12),
    'n_layer': range(1, 4),
    'n_head': (1, 2, 3, 4),
    'n_embd': (1, 4, 6, 12),
    'n_hidden': range(1, 9),
    'dropout': (0, 0.5, 0.99),
    'smoothing': ('kn', 'add:1', 'add:.01'),
    'batch_size': (1, 2, 7, 300),
    'warmup': (0, 1, 9, 'none'),
    'learning_rate': (0, 1e-9, 1e-2, 1),
    'weight_decay': (0, 1, 50),
    'grad_clip': (0, 1e-9, 1, 'none'),
    'seed': range(99),
    'eval_interval': (1, 2, 99),
    'sample_interval': (1, 2, 'none'),
    'diagnose': (1, 2, 'none'),
    'num_samples': (0, 1, 3, 60),
    'length': (1, 2, 30),
    'temperature': (0, 1e-300, 0.5, 1, 99),
    'top_k': (1, 5, 999),
    'top_p': (1e-9, 0.5, 1),
    'prompt': ('', 'a', 'zz'),
    'split': ('honest', 'lecture', 'all'),
    'tokenizer': ('char', 'char', 'char', 'bpe'),
}
SAMPLING = ('--top', '--temp', '--prompt', '--length')


def random_settings(dice):
    """A small run, with half of the settings as they are by default; some contradict each other."""
    chosen = {}
    for name, values in CHOICES.items():
        if dice.random() < 0.5:
            chosen[name] = dice.choice(values)
    chosen['type'] = dice.choice(list(makemore.MODELS))
    chosen['max_steps'] = 3
    chosen['vocab_size'] = dice.choice((256, 260))
    typed = [f'{makemore.flag_of(name)}={value}' for name, value in chosen.items()]
    return [*typed, '--text'] if dice.random() < 0.25 else typed


@pytest.mark.slow
def test_random_settings_take_three_steps(long, run, names, monkeypatch):
    """Three steps, one more with --resume, and samples.

    Or one line that says which two settings do not go together.
    """
    dice = random.Random(24)
    n_done = 0
    n_all = long(20, 300)
    for number in range(n_all):
        monkeypatch.setattr(makemore, 'LARGE_TEXT', dice.choice([0, 2**21]))
        folder = f'x{number}'
        settings = random_settings(dice)
        end = run('-i', names, '-o', folder, *settings)
        if end.code != 0:
            assert_one_line(end, end.code)
            assert end.code == 2 or 'try a --learning-rate below' in end.err, settings
            continue
        n_done += 1
        end = run('--resume', '-o', folder, '--max-steps', 4)
        # a learning rate of 1 can make the weights infinite
        assert end.code == 0 or 'try a --learning-rate below' in end.err, (settings, end)
        typed = [setting for setting in settings if setting.startswith(SAMPLING)]
        assert run('--sample-only', '-o', folder, *typed).code == 0, settings
        shutil.rmtree(folder)
    assert n_done > n_all / 2


# -----------------------------------------------------------------------------
# losses and weights that are not finite


def read_strictly(path):
    """JSON as every program reads it: without NaN and Infinity, which Python would write."""

    def refuse(word):
        raise AssertionError(f'{word} in {path}')

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def make_poisoned(where):
    """A model whose loss, or whose gradient, is not finite in the eighth step."""

    class Poisoned(makemore.MODELS['bigram']):
        """a table that breaks in its eighth step"""

        n_steps = 0

        def forward(self, idx, targets):
            if self.training:
                self.n_steps += 1
            loss = super().forward(idx, targets)
            if self.n_steps == 8 and where == 'gradient':
                self.table.weight.register_hook(lambda grad: grad * math.nan)
            if self.n_steps == 8 and where == 'loss':
                return loss * math.inf
            return loss

    return Poisoned


@pytest.mark.parametrize('where', ['loss', 'gradient'])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(where, train, monkeypatch):
    """The message names the step and what to try. The gradient of a finite loss may be nan."""
    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))
    makemore.register('poisoned')(make_poisoned(where))
    end = train('poisoned', '-o', 'x')
    assert_one_line(end, 1, 'step 8', 'try a --learning-rate below', 'x has the last good')
    last = checkpoint('x/last.pt')
    assert last['step'] == 5
    assert all(tensor.isfinite().all() for tensor in last['model'].values())


@pytest.mark.parametrize('steps', [1, 5, 6])
def test_weights_that_the_last_step_made_infinite_are_noticed(steps, train):
    """The loss of a step is that of the weights before it.

    So what the last step did is seen in the evaluation alone.
    """
    settings = {'max_steps': steps, 'learning_rate': 1e38}
    end = train('mlp', '-o', 'x', '--grad-clip', 'none', '--warmup', 0, **settings)
    assert 'Traceback' not in end.err
    assert end.code in (0, 1)
    if end.code == 1:
        assert_one_line(end, 1, '--learning-rate')
    for name in ('best.pt', 'last.pt'):
        makemore.load_checkpoint(Path('x') / name)
    if end.code == 0:
        read_strictly('x/result.json')


# -----------------------------------------------------------------------------
# splits without a line


@pytest.mark.parametrize('model_type', ['ngram', 'bn-mlp', 'transformer'])
@pytest.mark.parametrize('n_lines', [1, 2, 5])
def test_the_loss_of_an_empty_split_is_none_and_not_nan(model_type, n_lines, run, tmp_path):
    lines = ['emma', 'emma', 'ava', 'emma', 'ava']
    (tmp_path / 'few.txt').write_text('\n'.join(lines[:n_lines]))
    command = ['-i', 'few.txt', '--type', model_type, *flags(SMALL), '-o', 'x']
    end = run(*command, '--max-steps', 2)
    assert end.code == 0
    assert 'nan' not in end.err + end.out  # no sample has an n
    result = read_strictly('x/result.json')
    assert math.isfinite(result['train'])
    assert None in (result['dev'], result['test'])
    assert math.isfinite(checkpoint('x/best.pt')['best_loss'])


def test_evaluating_an_empty_split_is_none(build):
    _, dataset, model = build('mlp')
    nothing = torch.zeros(0, dtype=torch.int64)
    dataset.spans['test'] = makemore.Spans(nothing, nothing)
    assert makemore.evaluate(model, dataset, 'test') is None
