"""
Byte-pair encoding (BPE) as the lecture explains it: short, slow, and the reference for the rest.

    >>> merges = train_naive([b'aaabdaaabac'], num_merges=3)
    >>> merges
    {(97, 97): 256, (256, 97): 257, (257, 98): 258}
    >>> encode_naive(b'aaabdaaabac', merges)
    [258, 100, 258, 97, 99]

A text is a sequence of bytes, and the ids 0 to 255 stand for the bytes. Training finds the pair of
neighbouring ids that occurs most often, gives it the next free id, replaces the pair by that id
everywhere, and starts again. Encoding repeats these merges on another text in the order in which
they were learned.

The rule for ties, on which every id depends: the pair with the highest count wins, and among pairs
with equal counts the one that stands first in the text at that moment. Pairs are counted with
overlaps ("aaa" holds the pair aa twice) but replaced from the left ("aaa" becomes [aa, a]).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

Pair = tuple[int, int]


def get_stats(ids: Sequence[int], counts: dict[Pair, int] | None = None) -> dict[Pair, int]:
    """How often each pair of neighbours occurs. Adds to `counts` if it is given.

    >>> get_stats([1, 2, 3, 1, 2])
    {(1, 2): 2, (2, 3): 1, (3, 1): 1}
    """
    if counts is None:
        counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """The ids with every occurrence of the pair replaced by `new_id`, from left to right.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 4)
    [4, 3, 4]
    """
    merged = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def train_naive(chunks: Iterable[bytes], num_merges: int) -> dict[Pair, int]:
    """The merges {pair: new id} in the order in which they are learned.

    Pairs are counted inside chunks, never across the border between two of them. If no pair is
    left, there are fewer merges than asked for.

    >>> train_naive([b'hug', b'hugs', b'bug'], num_merges=2)
    {(117, 103): 256, (104, 256): 257}
    """
    ids_of_chunks = [list(chunk) for chunk in chunks]
    merges = {}
    for new_id in range(256, 256 + num_merges):
        counts = {}
        for ids in ids_of_chunks:
            get_stats(ids, counts)
        if not counts:
            break
        # `max` returns the first of several maxima, and a dict keeps the order of insertion. So
        # among equal counts, the pair that was seen first wins: this is the rule for ties.
        pair = max(counts, key=counts.get)
        ids_of_chunks = [merge(ids, pair, new_id) for ids in ids_of_chunks]
        merges[pair] = new_id
    return merges


def encode_naive(chunk: bytes, merges: dict[Pair, int]) -> list[int]:
    """The ids of a chunk, after all merges in the order in which they were learned.

    >>> encode_naive(b'hugs', {(117, 103): 256, (104, 256): 257})
    [257, 115]
    """
    ids = list(chunk)
    while True:
        known_pairs = [pair for pair in pairwise(ids) if pair in merges]
        if not known_pairs:
            return ids
        pair = min(known_pairs, key=merges.get)
        ids = merge(ids, pair, merges[pair])
