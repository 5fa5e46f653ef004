"""
Export to Hugging Face, and loading a tokenizer from a file of any kind.

    load('names.json'), load('names.model'), load('names.tiktoken'), load('gpt4')
    write_huggingface(tok, 'tokenizer.json')
"""

import json
import os
from pathlib import Path

from .core import Tokenizer
from .files import write_file
from .minbpe import read_model
from .published import ALIASES, PUBLISHED, pretrained, read_tiktoken

# how Hugging Face's files call byte-pair encoding over bytes
BYTE_LEVEL = {
    'type': 'ByteLevel',
    'add_prefix_space': False,
    'trim_offsets': False,
    'use_regex': False,
}


def load(path: str | os.PathLike) -> Tokenizer:
    """A tokenizer from our JSON, minbpe's .model, a .tiktoken file, or a published name.

    >>> load('gpt4').encode('hello world')  # doctest: +SKIP
    [15339, 1917]
    """
    name = str(path)
    if name in PUBLISHED or name in ALIASES:
        return pretrained(name)
    path = Path(path)
    if path.suffix == '.tiktoken':
        if path.stem in PUBLISHED or path.stem in ALIASES:
            return pretrained(path.stem, path)
        return Tokenizer(ranks=read_tiktoken(path))
    if path.suffix == '.model':
        return read_model(path)
    return Tokenizer.load(path)


def spell_bytes() -> dict[int, str]:
    """The characters for unprintable bytes in Hugging Face's files, for `str.translate`.

    As in GPT-2, printable bytes stand for themselves, so they are not in the table. The others are
    numbered from 256 on, so that a space is "Ġ".

    >>> spell_bytes()[ord(' ')]
    'Ġ'
    """
    others = [i for i in range(256) if not chr(i).isprintable() or chr(i) == ' ']
    return {i: chr(256 + n) for n, i in enumerate(others)}


def write_huggingface(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a tokenizer.json with which the package `tokenizers` encodes to the same ids.

    >>> write_huggingface(Tokenizer(), 'tokenizer.json')  # doctest: +SKIP
    """
    added_tokens = []
    for text, i in tokenizer.special_tokens.items():
        added_tokens.append(_added_token(text, i))
    content = {
        'version': '1.0',
        'added_tokens': added_tokens,
        'pre_tokenizer': _pre_tokenizer(tokenizer.pattern),
        'decoder': BYTE_LEVEL,
        'model': _model(tokenizer),
    }
    write_file(path, json.dumps(content, ensure_ascii=False).encode())


def _added_token(text: str, i: int) -> dict:
    token = {'id': i, 'content': text, 'special': True}
    for flag in ('single_word', 'lstrip', 'rstrip', 'normalized'):
        token[flag] = False
    return token


def _pre_tokenizer(pattern: str | None) -> dict:
    if not pattern:
        return BYTE_LEVEL
    split = {
        'type': 'Split',
        'pattern': {'Regex': pattern},
        'behavior': 'Isolated',
        'invert': False,
    }
    return {'type': 'Sequence', 'pretokenizers': [split, BYTE_LEVEL]}


def _model(tokenizer: Tokenizer) -> dict:
    table = spell_bytes()
    spelled = {}
    for i, token in tokenizer.vocab.items():
        spelled[i] = token.decode('latin-1').translate(table)
    return {
        'type': 'BPE',
        'ignore_merges': True,  # a chunk that is a token is not merged
        'vocab': {spelled[i]: i for i in tokenizer.ranks.values()},
        'merges': [[spelled[left], spelled[right]] for left, right in tokenizer.merges],
    }
