"""
Hostile and damaged tokenizer files, and random texts in large numbers with --long.
"""

import itertools
import json
import os
import random

import pytest
import torch
from forks import assert_one_line
from test_hostile_checkpoints import Call, flip_bits
from test_tokenizer import random_text, random_tokenizer

import tokenizer
from tokenizer import PATTERNS, Tokenizer

pytest_plugins = ['fork_fixtures']


@pytest.mark.parametrize('name', ['x.pt', 'x.json', 'x.model', 'x.tiktoken'])
def test_a_pickle_is_not_a_tokenizer(name, run, names, tmp_path):
    """--tokenizer reads JSON; a pickle is refused, and nothing in it is called."""
    torch.save(Call(os.mkdir, str(tmp_path / 'was-called')), tmp_path / name)
    end = run('-i', names, '--tokenizer', name, '-o', 'new')
    assert_one_line(end, 2, name)
    assert end.out == ''
    with pytest.raises(ValueError, match=name):
        tokenizer.load(tmp_path / name)
    assert not (tmp_path / 'was-called').exists()
    assert not (tmp_path / 'new').exists()


BOMBS = [
    '((a{9999}){9999}){9999}',
    '(?:(?:a|b){,4000}){4000}',
    '(((((a{99}){99}){99}){99}){99}){99}',
]


@pytest.mark.slow
@pytest.mark.parametrize('pattern', BOMBS)
def test_a_pattern_in_a_tokenizer_does_not_fill_the_memory(pattern, go, names, tmp_path):
    """A repeat of a repeat of a repeat: 24 letters of JSON, but gigabytes once it is compiled."""
    content = Tokenizer().to_dict() | {'pattern': pattern}
    (tmp_path / 'tok.json').write_text(json.dumps(content))
    end = go('-i', names, '--tokenizer', 'tok.json', '-o', 'x', plan=[['limit_resources', 10]])
    assert_one_line(end, 2, 'tok.json')


def test_a_damaged_tokenizer_is_refused_or_whole(long, tmp_path):
    """JSON has no checksum, so a flipped bit may make another token.

    But a tokenizer that loads never loses text and never fails later.
    """
    dice = random.Random(21)
    n_loaded = 0
    for _ in range(long(4, 40)):
        tok = random_tokenizer(dice)
        tok.save(tmp_path / 'tok.json')
        assert Tokenizer.load(tmp_path / 'tok.json').to_dict() == tok.to_dict()
        raw = (tmp_path / 'tok.json').read_bytes()
        for _, damaged in itertools.islice(flip_bits(raw, dice), 100):
            (tmp_path / 'bad.json').write_bytes(damaged)
            try:
                again = Tokenizer.load(tmp_path / 'bad.json')
            except ValueError as error:
                assert 'bad.json: ' in str(error)
                continue
            n_loaded += 1
            text = random_text(dice)
            assert again.decode(again.encode(text, 'none')) == text
    assert n_loaded > 0  # otherwise nothing was tried


@pytest.mark.parametrize('pattern', [*PATTERNS.values(), r'\w+'], ids=[*PATTERNS, 'words'])
def test_random_texts_come_back(pattern, long):
    """A million of them with --long; test_tokenizer.py has 20,000."""
    dice = random.Random(22)
    corpus = ' '.join(random_text(dice) for _ in range(200))
    tok = Tokenizer(pattern).train(corpus, 400)
    for _ in range(long(200, 200_000)):
        text = random_text(dice)
        assert tok.decode(tok.encode(text)) == text, ascii(text)
