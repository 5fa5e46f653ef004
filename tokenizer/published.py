"""
The vocabularies that OpenAI published, and the .tiktoken files they come in.

    pretrained('cl100k_base').encode('hello world')  # [15339, 1917]
    write_tiktoken(tok, 'names.tiktoken')

A file is looked for in the place that is given, or where the package tiktoken keeps its downloads.
Nothing here uses the network, but tiktoken may, if it is installed and has no file yet.
"""

import base64
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .core import Tokenizer
from .files import write_file
from .splitting import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN


@dataclass(frozen=True)
class Published:
    """What is known about a published vocabulary besides its file."""

    pattern: str
    special_tokens: dict[str, int]
    num_ranks: int  # without the special tokens
    cache_name: str  # of the file in tiktoken's cache: the SHA-1 of its address


R50K = Published(
    GPT2_PATTERN, {'<|endoftext|>': 50256}, 50256, '0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4'
)
P50K = Published(
    GPT2_PATTERN, {'<|endoftext|>': 50256}, 50280, 'ec7223a39ce59f226a68acc30dc1af2788490e15'
)
CL100K = Published(
    GPT4_PATTERN,
    {
        '<|endoftext|>': 100257,
        '<|fim_prefix|>': 100258,
        '<|fim_middle|>': 100259,
        '<|fim_suffix|>': 100260,
        '<|endofprompt|>': 100276,
    },
    100256,
    '9b5ad71b2ce5302211f9c61530b329a4922fc6a4',
)
O200K = Published(
    O200K_PATTERN,
    {'<|endoftext|>': 199999, '<|endofprompt|>': 200018},
    199998,
    'fb374d419588a4632f3f557e76b4b70aebbca790',
)
PUBLISHED = {'r50k_base': R50K, 'p50k_base': P50K, 'cl100k_base': CL100K, 'o200k_base': O200K}
ALIASES = {'gpt2': 'r50k_base', 'gpt4': 'cl100k_base', 'gpt4o': 'o200k_base'}


def read_tiktoken(path: str | os.PathLike) -> dict[bytes, int]:
    """The vocabulary in a .tiktoken file: on each line the bytes of a token in base64, and its id.

    >>> read_tiktoken('cl100k_base.tiktoken')[b'hello']  # doctest: +SKIP
    15339
    """
    ranks = {}
    try:
        for line in Path(path).read_bytes().splitlines():
            if not line:
                continue
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except ValueError as error:
        raise ValueError(
            f'{path} is not a .tiktoken file, with a token in base64 and an id per line: {error}'
        ) from None
    return ranks


def write_tiktoken(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write a .tiktoken file, which has no room for the pattern and the special tokens.

    >>> write_tiktoken(Tokenizer(), 'bytes.tiktoken')  # doctest: +SKIP
    """
    lines = []
    for i in sorted(tokenizer.ranks.values()):
        token = base64.b64encode(tokenizer.vocab[i])
        lines.append(b'%b %d\n' % (token, i))
    write_file(path, b''.join(lines))


def find_published(name: str, path: str | os.PathLike | None = None) -> Path | None:
    """The file of a published vocabulary: `path`, whether it exists or not, or one in the cache.

    `path` may be the folder with NAME.tiktoken. None if no path is given and the cache of tiktoken
    does not have the file.

    >>> find_published('gpt2', 'downloads/r50k_base.tiktoken').name
    'r50k_base.tiktoken'
    """
    name = ALIASES.get(name, name)
    if path is None:
        return _find_in_cache(name)
    path = Path(path)
    return path / f'{name}.tiktoken' if path.is_dir() else path


def _find_in_cache(name: str) -> Path | None:
    # as in tiktoken, where the second of the two variables has priority
    cache = Path(tempfile.gettempdir(), 'data-gym-cache')
    for variable in ('DATA_GYM_CACHE_DIR', 'TIKTOKEN_CACHE_DIR'):
        cache = Path(os.environ.get(variable) or cache)
    for file in (cache / PUBLISHED[name].cache_name, cache / f'{name}.tiktoken'):
        if file.is_file():
            return file
    return None


def pretrained(name: str, path: str | os.PathLike | None = None) -> Tokenizer:
    """A published tokenizer: r50k_base (gpt2), p50k_base, cl100k_base (gpt4), o200k_base (gpt4o).

    `path` is its file, or the folder with NAME.tiktoken. Without it, the file is taken from
    tiktoken's cache, or the vocabulary from the package tiktoken.

    >>> pretrained('gpt4').encode('hello world')  # doctest: +SKIP
    [15339, 1917]
    """
    name = ALIASES.get(name, name)
    if name not in PUBLISHED:
        known = ', '.join([*PUBLISHED, *ALIASES])
        raise ValueError(f'no published vocabulary is called {name!r}; there are {known}')
    published = PUBLISHED[name]

    file = find_published(name, path)
    ranks = read_tiktoken(file) if file else _ask_tiktoken(name)
    if len(ranks) != published.num_ranks:
        source = file or 'tiktoken'
        raise ValueError(f'{source}: {len(ranks)} tokens, but {name} has {published.num_ranks}')
    return Tokenizer(published.pattern, special_tokens=published.special_tokens, ranks=ranks)


def _ask_tiktoken(name: str) -> dict[bytes, int]:
    try:
        import tiktoken
    except ImportError:
        raise FileNotFoundError(
            f'no {name}.tiktoken on this machine: give its path, or install tiktoken'
        ) from None
    return tiktoken.get_encoding(name)._mergeable_ranks
