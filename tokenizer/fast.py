"""
Code whose only purpose is speed. It returns what the plain code in the other modules returns.

    >>> from tokenizer import Tokenizer
    >>> Tokenizer.fast = False  # do without this module, here and everywhere
    >>> Tokenizer().encode('plain')
    [112, 108, 97, 105, 110]
    >>> Tokenizer.fast = True

Why the results are the same:

1. Memos. The ids of a chunk depend on the chunk alone, so they can be looked up when it returns.
2. Words. The same holds for any part of a text that begins and ends where the pattern must cut. A
   word begins before a space that follows something visible, like a seam in splitting.py. Words
   are found by the standard library's `re`, about four times as fast as chunks by `regex`.
3. ASCII. In a text that is ASCII, `re` can find the chunks themselves: see `ascii_pattern`.
4. Pages. A text is cut at seams first, so that one emoji does not make all of it non-ASCII, and
   so that it can be decided for each page whether words or chunks are looked up.
5. Pieces. A chunk can be cut where no token joins the two characters: see `piece_pattern`.
6. Windows. A long chunk is encoded piece by piece, with overlaps that prove the result: see
   `FastEncoder._merge_long`.
7. Decoding joins strings with one character per byte (Latin-1) instead of bytes.
8. Several processes count the chunks of a large file, block by block.

python tests/bench/bench_tokenizer.py --only tricks measures what each of them brings.
"""

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from multiprocessing import Pool

from .encoding import merge_bytes
from .splitting import PUBLISHED_PATTERNS, Splitter, clean, compile_pattern, cut_at_seams, splitter

MEMO_SIZE = 1 << 17  # texts in a memo
MEMO_KEY = 64  # characters of a text that is remembered
PAGE = 1 << 14  # characters
SAMPLE = 1 << 9  # characters at the start of a page that tell whether its words are known
WINDOW = 1 << 9  # bytes of a long chunk that are merged at a time

# leading white space, something visible, then anything up to a space that follows something visible
WORD = re.compile(r'\s*\S+(?:[^\S ]\s*\S*)*|\s+')


class Memo(dict):
    """A dict that computes what it does not hold, and keeps it if the text is short.

    It is bounded: when it is full, it is emptied.

    >>> lengths = Memo(len)
    >>> lengths['four'], lengths
    (4, {'four': 4})
    """

    def __init__(self, compute: Callable[[str], object]):
        super().__init__()
        self.compute = compute

    def __missing__(self, text: str) -> object:
        value = self.compute(text)
        if len(self) >= MEMO_SIZE:
            self.clear()
        if len(text) <= MEMO_KEY:
            self[text] = value
        return value


# -----------------------------------------------------------------------------
# splitting


def ascii_pattern(pattern: str) -> re.Pattern:
    r"""A published pattern for ASCII text, in the dialect of `re`: "\p{L}++" becomes "[a-zA-Z]+".

    `re` has no possessive quantifiers before Python 3.11. A plain "+" does the same here, since
    what follows in these patterns never matches a character that the "+" could give back.
    """
    translations = {
        r'\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}': 'A-Z',
        r'\p{Ll}\p{Lm}\p{Lo}\p{M}': 'a-z',
        r'\p{L}\p{N}': 'a-zA-Z0-9',
        r'\p{L}': '[a-zA-Z]',
        r'\p{N}': '[0-9]',
        '++': '+',
        '?+': '?',
        '*+': '*',
    }
    for unicode_form, ascii_form in translations.items():
        pattern = pattern.replace(unicode_form, ascii_form)
    return re.compile(pattern, re.ASCII)


def fast_splitter(pattern: str | None) -> Splitter:
    """A function like those of `splitter`, faster for the published patterns."""
    if pattern not in PUBLISHED_PATTERNS:
        return splitter(pattern)
    find_ascii = ascii_pattern(pattern).findall
    # The published patterns have no groups and match every character, so `findall` loses nothing.
    # To let go of Python's global lock for each short text would take longer than the search.
    find_any = partial(compile_pattern(pattern).findall, concurrent=False)
    return lambda text: find_ascii(text) if text.isascii() else find_any(text)


def pages(text: str, pattern: str | None) -> Iterable[str]:
    """The text in parts with the same chunks, or in one part if we do not know the pattern."""
    if pattern not in PUBLISHED_PATTERNS:
        return [text]
    return cut_at_seams(text, PAGE)


def count_chunks_fast(
    texts: Iterable[str], pattern: str | None, processes: int = 1
) -> dict[str, int]:
    """What `splitting.count_chunks` returns. With several processes, each counts whole texts."""
    if processes > 1:
        return count_in_processes(texts, pattern, processes)
    split = fast_splitter(pattern)
    parts = chain.from_iterable(pages(clean(text), pattern) for text in texts)
    return Counter(chain.from_iterable(map(split, parts)))


def count_in_processes(texts: Iterable[str], pattern: str | None, processes: int) -> dict[str, int]:
    """The counts of all texts. They are added up in order, since ties go to the first seen."""
    counts = Counter()
    # Ctrl-C is for the parent, which then ends the pool
    with Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        lists = ([text] for text in texts)
        for counts_of_text in pool.imap(partial(count_chunks_fast, pattern=pattern), lists):
            counts.update(counts_of_text)
    return counts


# -----------------------------------------------------------------------------
# pieces: parts of a chunk that cannot merge with each other


def neighbours_in_tokens(ranks: Iterable[bytes]) -> set[tuple[str, str]]:
    """The pairs of neighbouring characters inside of tokens.

    A token may begin or end in the middle of a character. Then each of the character's bytes in it
    appears as a lone surrogate: 0xE4 as "\\udce4".
    """
    neighbours = set()
    for token in ranks:
        if not token.isascii():
            neighbours.update(pairwise(token.decode('utf-8', 'surrogateescape')))
    return neighbours


def piece_pattern(ranks: Iterable[bytes]) -> re.Pattern:
    """A pattern whose matches in a chunk are pieces that merges never cross.

    A merge across the border between two characters makes a token that holds the end of the first
    and the start of the second. So two characters stay together if

    - in some token the first has a whole character on its right, and in some token the second has
      one on its left; or
    - in some token the first is followed by a part of a character; or
    - in some token the second follows a part of a character; or
    - in some token a part of a character is followed by the first byte of the second.

    This keeps more together than it must, but four sets of characters decide it. All of ASCII is in
    the first two.
    """
    left = {chr(i) for i in range(128)}
    right = set(left)
    left_of_part = set()
    right_of_part = set()
    for first, second in neighbours_in_tokens(ranks):
        if '\udcc0' <= first <= '\udcff' or '\udc80' <= second <= '\udcbf':
            continue  # both are bytes of the same character
        first_is_part = '\udc80' <= first <= '\udcbf'
        second_is_part = '\udcc0' <= second <= '\udcff'
        if first_is_part and second_is_part:
            right_of_part.add(characters_with_first_byte(ord(second) - 0xDC00))
        elif first_is_part:
            right_of_part.add(re.escape(second))
        elif second_is_part:
            left_of_part.add(first)
        else:
            left.add(first)
            right.add(second)

    ways = [f'{one_of(map(re.escape, left))}(?={one_of(map(re.escape, right))})']
    if left_of_part:
        ways.append(f'{one_of(map(re.escape, left_of_part))}(?=.)')
    if right_of_part:
        ways.append(f'.(?={one_of(right_of_part)})')
    return re.compile(f'(?:{"|".join(ways)})*.', re.DOTALL)


def one_of(characters: Iterable[str]) -> str:
    """A character class: a, b -> "[ab]"."""
    return f'[{"".join(sorted(characters))}]'


def characters_with_first_byte(byte: int) -> str:
    """The range of characters whose UTF-8 begins with a byte: 0xC3 -> "À-ÿ", as escapes."""
    if byte < 0xE0:
        first, size = (byte & 0x1F) << 6, 1 << 6
    elif byte < 0xF0:
        first, size = (byte & 0x0F) << 12, 1 << 12
    else:
        first, size = (byte & 0x07) << 18, 1 << 18
    # no character begins with 0xF5 or more, but a foreign vocabulary may hold such a token
    first = min(first, 0x10FFFF)
    last = min(first + size - 1, 0x10FFFF)
    return f'\\U{first:08x}-\\U{last:08x}'


# -----------------------------------------------------------------------------
# encoding and decoding


class FastEncoder:
    """Encodes texts like `Tokenizer.encode_ordinary`, and remembers words, chunks and pieces."""

    def __init__(self, pattern: str | None, ranks: Mapping[bytes, int]):
        self.pattern = pattern
        self.ranks = ranks
        self.split = fast_splitter(pattern)
        self.met_words: set[int] = set()
        self.words = Memo(self._encode_word)
        self.chunks = Memo(self._encode_chunk)
        self.pieces = Memo(lambda piece: self._merge(piece.encode()))
        self.find_pieces = piece_pattern(ranks).findall
        self.token_sizes = {rank: len(token) for token, rank in ranks.items()}
        # a million spaces are the same window again and again
        self.merge_window = lru_cache(maxsize=64)(partial(merge_bytes, ranks=ranks))

    def encode(self, text: str) -> list[int]:
        ids = []
        for page in pages(text, self.pattern):
            ids.extend(chain.from_iterable(self._encode_page(page)))
        return ids

    def _encode_page(self, page: str) -> Iterator[Sequence[int]]:
        if self.pattern in PUBLISHED_PATTERNS and not self._is_new(page):
            return map(self.words.__getitem__, WORD.findall(page))
        return map(self.chunks.__getitem__, self.split(page))

    def _is_new(self, page: str) -> bool:
        """Whether more than a quarter of the first words on a page are new.

        Then the page is looked up chunk by chunk: chunks repeat more often than words do, and a
        word that occurs only once is not worth remembering. All that is kept of it is its hash. (If
        two words have the same hash, that only costs time.)
        """
        sample = WORD.findall(page, 0, SAMPLE)
        unknown = {hash(word) for word in sample if word not in self.words}
        num_new = len(unknown - self.met_words)
        if len(self.met_words) > MEMO_SIZE:
            self.met_words.clear()
        self.met_words |= unknown
        return num_new > len(sample) / 4

    def _encode_word(self, word: str) -> Sequence[int]:
        chunks = self.split(word)
        if len(chunks) == 1:
            return self.chunks[word]
        return tuple(chain.from_iterable(map(self.chunks.__getitem__, chunks)))

    def _encode_chunk(self, chunk: str) -> Sequence[int]:
        data = chunk.encode()
        whole = self.ranks.get(data)
        if whole is not None:
            return (whole,)
        if len(data) == len(chunk):  # ASCII stays together
            return self._merge(data)
        pieces = self.find_pieces(chunk)
        if len(pieces) == 1:
            return self._merge(data)
        return tuple(chain.from_iterable(map(self.pieces.__getitem__, pieces)))

    def _merge(self, data: bytes) -> Sequence[int]:
        if len(data) > WINDOW:
            return self._merge_long(data)
        return tuple(merge_bytes(data, self.ranks))

    def _merge_long(self, data: bytes) -> list[int]:
        """What `merge_bytes` returns, put together from the ids of overlapping windows.

        The argument: a row of tokens is the encoding of its bytes if every two neighbours in it
        are the encoding of theirs. Suppose it is not. Then some merge crosses a border between two
        tokens of the row; take the first such merge. All merges before it stayed inside tokens, so
        these two went through the same steps as if they were encoded alone. And the crossing merge
        has the lowest rank in the row, so also in these two. Encoded alone, they would be merged
        across their border, too, and would not be the encoding of their bytes.

        Three quarters of a window's tokens are kept, and the next window begins with the first
        token that is not. If that token comes out again, every two neighbours stand side by side
        in one of the windows.
        """
        ids = []
        start = 0
        window = self.merge_window(data[:WINDOW])
        while start + WINDOW < len(data):
            keep = len(window) * 3 // 4
            kept = window[:keep]
            start += sum(self.token_sizes[i] for i in kept)
            next_window = self.merge_window(data[start : start + WINDOW])
            if keep == 0 or next_window[0] != window[keep]:
                return merge_bytes(data, self.ranks)
            ids += kept
            window = next_window
        return ids + window


class FastDecoder:
    """Joins tokens like `Tokenizer.decode_bytes`: Python joins strings faster than bytes."""

    def __init__(self, vocab: Mapping[int, bytes]):
        # in Latin-1 a character is a byte
        self.strings = {i: token.decode('latin-1') for i, token in vocab.items()}

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return ''.join(map(self.strings.__getitem__, ids)).encode('latin-1')
