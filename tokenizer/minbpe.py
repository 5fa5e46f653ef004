"""
The file format and the class names of karpathy/minbpe, so that the lecture's code runs.

Three things differ. `verbose` is a keyword, as in `train(text, 512, verbose=True)`. With a set as
`allowed_special`, other special tokens in the text are an error and not ordinary text. And a
special token that is not allowed is a ValueError, not an AssertionError.

    from tokenizer import RegexTokenizer

    tok = RegexTokenizer()
    tok.train(text, 512)
    tok.save('names')  # writes names.model and names.vocab
    tok.load('names.model')

A .model file holds the pattern, the special tokens and the merges; a .vocab file is for people.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unicodedata import category

from .core import Tokenizer
from .files import write_file
from .published import pretrained
from .splitting import GPT4_PATTERN

MAX_TOKEN_SIZE = 1 << 16  # or forty lines that each double the last token would make a terabyte


def render_token(token: bytes) -> str:
    """The token for people to read: control characters are written out.

    >>> render_token(b'hi\\n')
    'hi\\\\u000a'
    """
    characters = []
    for character in token.decode('utf-8', errors='replace'):
        if category(character).startswith('C'):
            characters.append(f'\\u{ord(character):04x}')
        else:
            characters.append(character)
    return ''.join(characters)


# -----------------------------------------------------------------------------
# files


def read_model(path: str | os.PathLike) -> Tokenizer:
    """A tokenizer from a .model file of minbpe.

    >>> read_model('names.model').vocab_size  # doctest: +SKIP
    512
    """
    try:
        return _parse_model(Path(path).read_text(encoding='utf-8'))
    except (ValueError, KeyError) as error:
        raise ValueError(f'{path} is not a model of minbpe: {error}') from None


def _parse_model(text: str) -> Tokenizer:
    """The lines are: version, pattern, number of special tokens, these, and one merge per line."""
    version, pattern, num_special, *lines = text.split('\n')
    if version.strip() != 'minbpe v1':
        raise ValueError(f'version {version!r} is not "minbpe v1"')

    special_tokens = {}
    for line in lines[: int(num_special)]:
        token, i = line.rsplit(' ', 1)
        special_tokens[token] = int(i)

    tokens = [bytes([i]) for i in range(256)]
    ids = {token: i for i, token in enumerate(tokens)}
    for line in lines[int(num_special) :]:
        if not line:
            continue
        left, right = (int(i) for i in line.split())
        if min(left, right) < 0 or max(left, right) >= len(tokens):
            raise ValueError(f'the merge {line!r} uses a token that does not exist yet')
        token = tokens[left] + tokens[right]
        if len(token) > MAX_TOKEN_SIZE:
            raise ValueError(f'a token has more than {MAX_TOKEN_SIZE:,} bytes')
        if token in ids:
            raise ValueError(f'two tokens have the same bytes {token!r}')
        ids[token] = len(tokens)
        tokens.append(token)
    return Tokenizer(pattern or None, special_tokens=special_tokens, ranks=ids)


def write_model(tokenizer: Tokenizer, prefix: str | os.PathLike) -> None:
    """Write PREFIX.model and PREFIX.vocab as minbpe does; a ValueError if they cannot hold it.

    >>> write_model(Tokenizer(None), 'bytes')  # doctest: +SKIP
    """
    pattern = tokenizer.pattern or ''
    special_tokens = tokenizer.special_tokens
    if pattern != pattern.strip() or '\n' in pattern:
        raise ValueError(f'minbpe cannot hold a pattern with space around it: {pattern!r}')
    for token in special_tokens:
        if token.split() != [token]:
            raise ValueError(f'minbpe cannot hold a special token with space in it: {token!r}')
    first_ids = [tokenizer.ranks[bytes([i])] for i in range(256)]
    ids = [*first_ids, *tokenizer.merges.values()]
    if ids != list(range(len(ids))):
        raise ValueError('minbpe needs a vocabulary of the bytes in order, then merges without gap')

    lines = ['minbpe v1', pattern, str(len(special_tokens))]
    lines += [f'{token} {i}' for token, i in special_tokens.items()]
    lines += [f'{left} {right}' for left, right in tokenizer.merges]
    write_file(f'{prefix}.model', ('\n'.join(lines) + '\n').encode())
    write_vocab(tokenizer, f'{prefix}.vocab')


def write_vocab(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a list of the tokens, with the two parts of each: [t][h] -> [th] 258.

    >>> write_vocab(Tokenizer(), 'bytes.vocab')  # doctest: +SKIP
    """
    pairs = {i: pair for pair, i in tokenizer.merges.items()}
    rendered = {i: f'[{render_token(token)}]' for i, token in tokenizer.vocab.items()}
    lines = []
    for i, token in rendered.items():
        if i in pairs:
            left, right = pairs[i]
            lines.append(f'{rendered[left]}{rendered[right]} -> {token} {i}\n')
        else:
            lines.append(f'{token} {i}\n')
    write_file(path, ''.join(lines).encode())


# -----------------------------------------------------------------------------
# classes


class LoadIntoSelf:
    """The method `load` of minbpe's classes.

    `tok.load(file)` changes `tok`, as in minbpe, and `RegexTokenizer.load(file)` returns a new
    tokenizer, as `Tokenizer.load` does.
    """

    def __get__(self, tokenizer: Tokenizer | None, cls: type) -> Callable[[str], Tokenizer]:
        if tokenizer is None:
            tokenizer = cls()
        return partial(_load_into, tokenizer)


def _load_into(tokenizer: Tokenizer, model_file: str | os.PathLike) -> Tokenizer:
    model = read_model(model_file)
    tokenizer._set_vocabulary(model.pattern, model.special_tokens, model.ranks)
    return tokenizer


class BasicTokenizer(Tokenizer):
    """minbpe's tokenizer that does not split the text.

    >>> tok = BasicTokenizer()
    >>> tok.train('aaabdaaabac', 256 + 3).encode('aaabdaaabac')
    [258, 100, 258, 97, 99]
    """

    save = write_model
    save_vocab = write_vocab
    load = LoadIntoSelf()

    def __init__(self):
        super().__init__(pattern=None)


class RegexTokenizer(BasicTokenizer):
    """minbpe's tokenizer with a pattern, by default GPT-4's.

    >>> RegexTokenizer().train('hug hugs bug', 256 + 2).encode('hugs')
    [257, 115]
    """

    def __init__(self, pattern: str | None = None):
        Tokenizer.__init__(self, pattern or GPT4_PATTERN)


class GPT4Tokenizer(BasicTokenizer):
    """minbpe's name for the published tokenizer of GPT-4.

    >>> GPT4Tokenizer().encode('hello world')  # doctest: +SKIP
    [15339, 1917]
    """

    def __init__(self):
        gpt4 = pretrained('cl100k_base')
        Tokenizer.__init__(self, gpt4.pattern, special_tokens=gpt4.special_tokens, ranks=gpt4.ranks)
