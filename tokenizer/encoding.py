"""
Encoding one chunk of bytes in O(n log n), with nothing but a dict from bytes to ids.

    >>> ranks = {bytes([i]): i for i in range(256)} | {b'aa': 256, b'aaa': 257}
    >>> encode_chunk(b'aaab', ranks)
    [257, 98]

`bpe.encode_naive` needs the merges, as pairs of ids. But training never makes the same bytes
twice, so "merge this pair" can be said as "make these bytes", and a vocabulary is a single dict,
like those that OpenAI published. The id of a token is also its rank: lower ranks merge first.
"""

import sys
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from .bpe import Pair


def merge_bytes(chunk: bytes, ranks: Mapping[bytes, int], below: int = sys.maxsize) -> list[int]:
    """The ids after all possible merges, lowest rank first, among equal ranks the leftmost.

    Only tokens with a rank under `below` are made.

    >>> merge_bytes(b'aaab', {b'a': 97, b'b': 98, b'aa': 256, b'aaa': 257}, below=257)
    [256, 97, 98]
    """
    # Tokens are linked by where they start and end: the token that starts at i ends at end_of[i],
    # and the token that ends at i starts at start_of[i]. No token starts where end_of is 0.
    size = len(chunk)
    end_of = list(range(1, size + 1))
    end_of.append(0)
    start_of = list(range(-1, size))

    # The heap holds the pairs that make a token, as (rank of the token, start, end). What is no
    # token has the rank `below`, and so it is not made.
    get_rank = ranks.get
    heap = []
    for start in range(size - 1):
        rank = get_rank(chunk[start : start + 2], below)
        if rank < below:
            heap.append((rank, start, start + 2))
    heapify(heap)

    while heap:
        _, start, end = heappop(heap)
        middle = end_of[start]
        if middle == 0 or end_of[middle] != end:
            continue  # one of the two tokens has been merged with its other neighbour
        end_of[start] = end
        end_of[middle] = 0
        start_of[end] = start

        # the merged token and its neighbours are new pairs
        before = start_of[start]
        if before >= 0:
            rank = get_rank(chunk[before:end], below)
            if rank < below:
                heappush(heap, (rank, before, end))
        after = end_of[end]
        if after > 0:
            rank = get_rank(chunk[start:after], below)
            if rank < below:
                heappush(heap, (rank, start, after))

    ids = []
    start = 0
    while start < size:
        end = end_of[start]
        ids.append(ranks[chunk[start:end]])
        start = end
    return ids


def encode_chunk(chunk: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """The ids of a chunk. As in tiktoken, a chunk that is a token itself is not merged.

    Most chunks of ordinary text are. It makes a difference only with a vocabulary that was not
    trained: it may hold tokens that no merges lead to.
    """
    whole = ranks.get(chunk)
    if whole is not None:
        return [whole]
    return merge_bytes(chunk, ranks)


def recover_merges(ranks: Mapping[bytes, int]) -> dict[Pair, int]:
    """The merges behind a vocabulary, in order.

    >>> ranks = {bytes([i]): i for i in range(256)} | {b'aa': 256, b'aaa': 257}
    >>> recover_merges(ranks)
    {(97, 97): 256, (256, 97): 257}
    """
    tokens = [token for token in ranks if len(token) > 1]
    tokens.sort(key=ranks.get)
    return {find_pair(token, ranks): ranks[token] for token in tokens}


def find_pair(token: bytes, ranks: Mapping[bytes, int]) -> Pair:
    """The two tokens that were merged into this one: what all earlier merges leave of it."""
    parts = merge_bytes(token, ranks, below=ranks[token])
    if len(parts) != 2:
        raise ValueError(
            f'token {token!r} ({ranks[token]}) is not made of two tokens with lower ids'
        )
    return parts[0], parts[1]
