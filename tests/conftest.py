"""What the tests of makemore share: a small file of names, a command line without a process, runs to look at."""
import collections
import contextlib
import io
import os
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')      # before torch is imported: tiny tensors gain nothing from threads

ROOT = Path(__file__).resolve().parents[1]
Result = collections.namedtuple('Result', 'code out err')


def pytest_addoption(parser):
    parser.addoption('--long', action='store_true', help='also what takes minutes, and the large counts')


def pytest_configure(config):
    config.addinivalue_line('markers', 'long: takes minutes, runs with --long only')


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--long'):
        for item in items:
            if item.get_closest_marker('long'):
                item.add_marker(pytest.mark.skip(reason='takes minutes: run with --long'))


# A net so small that a step takes a millisecond; a type takes from it what it needs, so that it does for new ones too.
SMALL = dict(n_layer=2, n_head=2, n_embd=16, n_hidden=16)


def flags(settings):
    """dict(n_layer=2) -> ['--n-layer', '2']"""
    return [part for name, value in settings.items() for part in ('--' + name.replace('_', '-'), str(value))]


def command(*args):
    """What a command line answers: exit code, stdout, stderr. In this process, as importing torch costs seconds."""
    import makemore
    streams = [io.TextIOWrapper(io.BytesIO(), 'utf-8', newline='', write_through=True) for _ in 'oe']
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = makemore.main([str(arg) for arg in args])
    return Result(code, *(stream.buffer.getvalue().decode() for stream in streams))


@pytest.fixture(scope='session')
def command_line():
    return command


@pytest.fixture(scope='session')
def names(tmp_path_factory):
    """200 names from all over the list, girls' and boys'."""
    path = tmp_path_factory.mktemp('data') / 'names.txt'
    path.write_text('\n'.join((ROOT / 'names.txt').read_text().split('\n')[::160][:200]))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run('--type', 'mlp') in an empty folder, where a run without -o leaves its out/."""
    monkeypatch.chdir(tmp_path)
    return command


@pytest.fixture
def train(run, names):
    """train('mlp', '-o', 'x', max_steps=5): a small run on the 200 names."""
    def train(kind, *args, **settings):
        settings = dict(SMALL, max_steps=12, eval_interval=5, num_samples=3) | settings
        return run('-i', names, '--type', kind, *flags(settings), *args)
    return train


@pytest.fixture(scope='session')
def finished(names, tmp_path_factory):
    """finished('mlp'): the folder of a small run of that type, made once, not to be written to."""
    folders = {}

    def finished(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            result = command('-i', names, '--type', kind, *flags(SMALL), '--max-steps', 12, '-o', folders[kind])
            assert result.code == 0, result.err
        return folders[kind]
    return finished


@pytest.fixture(scope='session')
def build(names):
    """build('mlp', n_layer=3): settings, words and a model, as a run would make them; what counts, counts."""
    import torch
    import makemore

    def build(kind, path=names, **typed):
        cfg = makemore.settle(dict(SMALL, input_file=str(path), type=kind) | typed)
        words = makemore.read(cfg)
        torch.manual_seed(1)
        model = makemore.MODELS[kind](cfg, words.vocab_size)
        if hasattr(model, 'fit'):
            model.fit(words)
        return cfg, words, model
    return build
