r"""
Patterns, and how they split text into chunks. Merges never cross the border between two chunks.

    >>> splitter(GPT4_PATTERN)("Don't panic, it's 12345!")
    ['Don', "'t", ' panic', ',', ' it', "'s", ' ', '123', '45', '!']
    >>> splitter(r'\w+')('no text is lost')
    ['no', ' ', 'text', ' ', 'is', ' ', 'lost']

Without splitting, the vocabulary would fill up with pieces like "e t" and with many versions of
the same word: "dog", "dog.", "dog!". With a pattern, no token contains parts of two words.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import regex

# These are tiktoken's spellings. The first releases had "+" for "++" and the like, which backtracks
# more and gives the same chunks.

# GPT-2: contractions, letters, numbers and the rest, each with the space before it; then white
# space.
GPT2_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)

# GPT-4: contractions in any case, numbers in groups of three, and line ends apart from spaces.
GPT4_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)

# GPT-4o: a capital letter begins a new word, a mark belongs to the letter it stands on, and a
# contraction belongs to its word.
_UPPER = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]'
_LOWER = r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = (
    rf'[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}'
    rf'|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}'
    r'|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)

# the patterns by their names on the command line; None: a text is a single chunk
PATTERNS = {'gpt2': GPT2_PATTERN, 'gpt4': GPT4_PATTERN, 'o200k': O200K_PATTERN, 'none': None}
PUBLISHED_PATTERNS = (GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN)

# Places where all three published patterns cut, whatever stands around them: before a space that
# follows something visible, and between a line end that follows something visible and a word.
SEAM = re.compile(r'(?<=\S)(?= )|(?<=\S\n)(?=\w)')
BLOCK = 1 << 22  # characters of a file that are read at a time

# Other patterns may backtrack for years. They get this many seconds for a text, and as much again
# for every 100,000 characters; patterns that do not backtrack need a hundredth of that.
TIME_LIMIT = 2.0

Splitter = Callable[[str], list[str]]


def clean(text: str) -> str:
    """The text as UTF-8 can hold it: without lone surrogates.

    Half a surrogate pair becomes U+FFFD, and two halves become the character that they mean. This
    is what tiktoken does, and the only case in which decoding does not give back the text.
    """
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


# -----------------------------------------------------------------------------
# splitting


def compile_pattern(pattern: str) -> regex.Pattern:
    """The compiled pattern; a ValueError if it is none, or if it would fill the memory."""
    if not isinstance(pattern, str):
        raise ValueError(f'pattern {pattern!r} is not a string')
    # `regex` writes counted repeats out: those of ((a{9999}){9999}){9999} would fill any memory.
    # A 0 counts as 1, or {0,9999} would make the product 0.
    counts = map(int, re.findall(r'[{,]\s*(\d+)', pattern))
    repeats = math.prod(max(n, 1) for n in counts)
    if repeats > 100_000:
        raise ValueError(f'pattern {pattern[:60]!r} has too many counted repeats: {repeats:,}')
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        message = f'pattern {pattern[:60]!r} is not a regular expression: {error}'
        raise ValueError(message) from None


def splitter(pattern: str | None) -> Splitter:
    """A function that splits a text into chunks, which together are the text.

    What the pattern does not match becomes a chunk, too. It must not get lost, as it would with
    `findall`. (And `findall` returns the groups, instead of the matches, if there are any.)
    """
    if pattern is None:
        return lambda text: [text] if text else []
    compiled = compile_pattern(pattern)

    def split(text: str) -> list[str]:
        seconds = None
        if pattern not in PUBLISHED_PATTERNS:
            seconds = TIME_LIMIT * (1 + len(text) / 100_000)
        chunks = []
        end = 0
        try:
            for match in compiled.finditer(text, timeout=seconds):
                chunks.append(text[end : match.start()])
                chunks.append(match[0])
                end = match.end()
        except TimeoutError:
            raise ValueError(
                f'pattern {pattern[:60]!r} takes too long for a text of {len(text):,} characters '
                '(catastrophic backtracking); rewrite it, for example with possessive quantifiers'
            ) from None
        chunks.append(text[end:])
        return [chunk for chunk in chunks if chunk]

    return split


def cut_at_seams(text: str, size: int) -> Iterator[str]:
    """Yield a text in parts of `size` characters or a little more.

    They end where the published patterns cut, so that the chunks of the parts are those of the
    text. A text without such places comes in one part.

    >>> list(cut_at_seams('to be, or not to be', 5))
    ['to be,', ' or not', ' to be']
    """
    start = 0
    while start < len(text):
        seam = SEAM.search(text, start + size)
        end = seam.start() if seam else len(text)
        yield text[start:end]
        start = end


# -----------------------------------------------------------------------------
# texts to train on


def read_file(path: str | os.PathLike, pattern: str | None) -> Iterator[str]:
    """Yield the text of a file in blocks, or in one block if nothing is known about the pattern."""
    try:
        with open(path, encoding='utf-8', newline='') as file:
            if pattern not in PUBLISHED_PATTERNS:
                yield file.read()
                return
            rest = ''
            while True:
                # reading as much as is waiting keeps the time linear where there are no seams
                block = file.read(max(BLOCK, len(rest)))
                if not block:
                    break
                *complete, rest = cut_at_seams(rest + block, BLOCK)
                yield from complete
            yield rest
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 text: {error}') from None


def read_texts(
    data: str | os.PathLike | Iterable[str | os.PathLike], pattern: str | None
) -> Iterator[str]:
    """Yield the texts in a string, in a file (given by a Path), or in several of both."""
    if isinstance(data, (str, os.PathLike)):
        data = [data]
    for item in data:
        if isinstance(item, str):
            yield item
        else:
            yield from read_file(item, pattern)


def count_chunks(texts: Iterable[str], pattern: str | None) -> dict[str, int]:
    """How often each chunk occurs, in the order of first appearance, which decides ties.

    >>> list(count_chunks(['a b b'], GPT2_PATTERN).items())
    [('a', 1), (' b', 2)]
    """
    split = splitter(pattern)
    return Counter(chain.from_iterable(split(clean(text)) for text in texts))
