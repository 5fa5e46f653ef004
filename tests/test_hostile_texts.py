"""
Texts that nobody expects are trained on, resumed and sampled from.
"""

import io
import random

import pytest
from comparing import checkpoint
from forks import assert_one_line
from odd_texts import TEXTS, encoded_text

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

MEGABYTE = 2**20


def test_there_are_at_least_sixty_texts():
    assert len(TEXTS) >= 60


def has_surrogates(text):
    """Whether it has halves of surrogate pairs, which no stream can write as they are."""
    return any('\ud800' <= ch <= '\udfff' for ch in text)


@pytest.mark.parametrize('name', TEXTS)
def test_a_text_that_nobody_expects(name, run, tmp_path):
    """Trained, resumed, and sampled with and without a prompt.

    Samples consist of characters of the text alone.
    """
    raw, encoding = encoded_text(name)
    (tmp_path / 'data.txt').write_bytes(raw)
    text = raw.decode('utf-8-sig' if encoding == 'utf-8' else encoding)
    lines = [line.strip() for line in io.StringIO(text, newline=None)]
    size = ['--type', 'mlp', '--n-embd', 2, '--n-hidden', 2, '--block-size', 3, '-b', 8]
    command = ['-i', 'data.txt', '--encoding', encoding, *size, '--length', 9, '-o', 'x']
    end = run(*command, '--max-steps', 2)
    if not any(lines):
        assert_one_line(end, 2, 'data.txt')
        return
    assert end.code == 0, end.err
    end = run('--resume', '-o', 'x', '--max-steps', 3)
    assert end.code == 0, end.err
    assert checkpoint('x/last.pt')['step'] == 3

    first = next(filter(None, lines))[0]
    sampled = run('--sample-only', '-o', 'x', '--num-samples', 9)
    prompted = run('--sample-only', '-o', 'x', '--num-samples', 2, f'--prompt={first}')
    assert sampled.code == prompted.code == 0
    if not has_surrogates(text):
        assert set(sampled.out) <= set(''.join(lines)) | {'\n'}
        assert prompted.out.startswith(first)


@pytest.mark.slow
@pytest.mark.parametrize('large_text', [0, 2**30], ids=['in a token file', 'in memory'])
def test_ten_megabytes_in_one_line(large_text, run, monkeypatch, tmp_path):
    monkeypatch.setattr(makemore, 'LARGE_TEXT', large_text)
    text = ''.join(random.Random(3).choices('abcdefgh ', k=10 * MEGABYTE))
    (tmp_path / 'long.txt').write_text(text)
    size = ['--type', 'gru', '--n-embd', 2, '--n-hidden', 2, '--block-size', 8, '--length', 9]
    command = ['-i', 'long.txt', '--text', *size, '-o', 'x', '--split', 'lecture']
    end = run(*command, '--max-steps', 2)
    assert end.code == 0
    assert 'cut' not in end.err
    assert (tmp_path / 'x/tokens.bin').exists() == (large_text == 0)
    assert run('--resume', '-o', 'x', '--max-steps', 3).code == 0
    assert run('--sample-only', '-o', 'x').code == 0


@pytest.mark.slow
def test_one_line_that_occurs_millions_of_times(long, run, tmp_path):
    (tmp_path / 'same.txt').write_text('emma\n' * long(200_000, 5_000_000))
    assert run('-i', 'same.txt', '--type', 'ngram', '-o', 'x').code == 0
    assert run('--resume', '-o', 'x').code == 0
    assert run('--sample-only', '-o', 'x', '--num-samples', 3).out == 'emma\n' * 3
