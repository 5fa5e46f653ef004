"""What the tests of makemore share: a short list of names, a command line, and small runs."""

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

# Before torch is imported: tensors this small gain nothing from more threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parents[1]

# A net so small that a step takes a millisecond. Each model type takes from it what it needs.
SMALL = {'n_layer': 2, 'n_head': 2, 'n_embd': 16, 'n_hidden': 16}


def pytest_addoption(parser):
    with contextlib.suppress(ValueError):  # lectures/conftest.py comes first if it is named first
        parser.addoption('--long', action='store_true', help='also run what takes minutes')


def pytest_collection_modifyitems(config, items):
    if config.getoption('--long'):
        return
    for item in items:
        if item.get_closest_marker('long'):
            item.add_marker(pytest.mark.skip(reason='takes minutes: run with --long'))


def most_are_long(names, *few):
    """All names as parameters of a test; those that are not among the few run with --long only."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name not in few)) for name in names]


class Result(NamedTuple):
    """What a command line answers."""

    code: int
    out: str
    err: str


def flags(settings):
    """The settings as they are typed: {'n_layer': 2} -> ['--n-layer', '2']."""
    typed = []
    for name, value in settings.items():
        typed += ['--' + name.replace('_', '-'), str(value)]
    return typed


DRAWING = {'wanted': False}  # drawing takes a second, so only the tests of pictures do it


@contextlib.contextmanager
def without_pictures():
    """Runs draw no pictures within the block."""
    import makemore

    draw_nothing = mock.Mock(return_value={})
    with (
        mock.patch.object(makemore, 'draw_pictures', draw_nothing),
        mock.patch.object(makemore.pictures, 'draw_diagnosis', draw_nothing),
    ):
        yield


@pytest.fixture
def with_pictures(monkeypatch):
    """Runs draw pictures, as they do for users."""
    monkeypatch.setitem(DRAWING, 'wanted', True)


def command(*args):
    """Run a command line in this process, because importing torch takes seconds."""
    import makemore

    # The program sets the encoding of its streams, so these have to be real text streams.
    out = io.TextIOWrapper(io.BytesIO(), 'utf-8', newline='', write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), 'utf-8', newline='', write_through=True)
    pictures = contextlib.nullcontext() if DRAWING['wanted'] else without_pictures()
    with pictures, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = makemore.main([str(arg) for arg in args])
    return Result(code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())


@pytest.fixture(scope='session')
def command_line():
    """command_line('--sample-only', '-o', folder): exit code, stdout and stderr."""
    return command


@pytest.fixture(scope='session')
def names(tmp_path_factory):
    """A file of 200 names, taken at even distances from the whole list."""
    path = tmp_path_factory.mktemp('data') / 'names.txt'
    all_names = (ROOT / 'names.txt').read_text().split('\n')
    path.write_text('\n'.join(all_names[::160][:200]))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run('--type', 'mlp') in an empty folder, where a run without -o leaves its out/."""
    monkeypatch.chdir(tmp_path)
    return command


@pytest.fixture
def train(run, names):
    """train('mlp', '-o', 'x', max_steps=5): a small run on the 200 names."""

    def train(model_type, *args, **settings):
        defaults = {**SMALL, 'max_steps': 12, 'eval_interval': 5, 'num_samples': 3}
        return run('-i', names, '--type', model_type, *flags(defaults | settings), *args)

    return train


@pytest.fixture(scope='session')
def finished(names, tmp_path_factory):
    """finished('mlp'): the folder of a small run of that type, made once; only to be read."""
    folders = {}

    def finished(model_type):
        if model_type not in folders:
            folder = tmp_path_factory.mktemp(model_type)
            settings = flags({**SMALL, 'max_steps': 12})
            result = command('-i', names, '--type', model_type, *settings, '-o', folder)
            assert result.code == 0, result.err
            folders[model_type] = folder
        return folders[model_type]

    return finished


@pytest.fixture(scope='session')
def build(names):
    """build('mlp', n_layer=3): config, data set and model as a run would make them.

    A model that counts has already counted.
    """
    import torch

    import makemore

    def build(kind, path=names, **typed):
        cli_args = {**SMALL, 'input_file': str(path), 'type': kind, **typed}
        config, dataset = makemore.load_data(makemore.resolve_config(cli_args))
        torch.manual_seed(1)
        model = makemore.MODELS[kind](config, dataset.vocab_size)
        model.fit(dataset)
        return config, dataset, model

    return build
