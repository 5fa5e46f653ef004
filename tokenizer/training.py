"""
Fast training: the merges of `bpe.train_naive`, hundreds of times faster.

    >>> list(learn_merges({b'aab': 2}))
    [((97, 97), 2), ((256, 98), 2)]

The naive loop counts all pairs again after every merge, although a merge only changes the pairs
beside the places where it happens. Here, the counts are corrected in those places, and a heap
finds the best pair. Also, a text repeats its chunks, so each distinct chunk is stored once, along
with the number of times it occurs.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise

from .bpe import Pair

# Marks in the list of ids: the border of a chunk, and a place whose id was merged into another.
GAP = -1
MERGED = -2

# The count of a pair, negative; its first place in the text; and the pair. Pairs begin in different
# places, so keys are never equal, and the smallest key belongs to the pair that is merged next.
Key = tuple[int, int, Pair]


class PairTable:
    """All pairs of neighbours in a text: how often each occurs, and where.

    The chunks {b'ab': 2, b'abc': 1} are stored one behind the other:

        place    0    1  2  3    4  5  6  7
        ids      GAP  a  b  GAP  a  b  c  GAP
        weights  0    2  2  2    1  1  1  1

    A merge writes the new id over the left id, marks the right one as MERGED, and links the
    neighbours. Nothing moves, so "stands first in the text" always means "has the lowest place".
    """

    def __init__(self, chunk_counts: Mapping[bytes, int]):
        self.ids = [GAP]
        self.weights = [0]
        for chunk, count in chunk_counts.items():
            self.ids.extend(chunk)
            self.ids.append(GAP)
            self.weights.extend([count] * (len(chunk) + 1))
        size = len(self.ids)
        self.previous = list(range(-1, size - 1))
        self.next = list(range(1, size + 1))

        # The places of a pair are in rising order. Places where it has vanished stay in the list
        # until `_make_key` comes across them.
        self.places: dict[Pair, list[int]] = defaultdict(list)
        self.counts: dict[Pair, int] = defaultdict(int)
        self._find_pairs()
        self.heap = [self._make_key(pair) for pair in self.counts]
        heapify(self.heap)

    def _find_pairs(self) -> None:
        for place, pair in enumerate(pairwise(self.ids)):
            self.places[pair].append(place)
        for pair in [pair for pair in self.places if GAP in pair]:
            del self.places[pair]
        for pair, places in self.places.items():
            self.counts[pair] = self._total_weight(places)

    def _total_weight(self, places: list[int]) -> int:
        return sum(map(self.weights.__getitem__, places))

    def _make_key(self, pair: Pair) -> Key:
        """The key of a pair as it is now; only for pairs that still occur."""
        left_id, right_id = pair
        places = self.places[pair]
        vanished = 0
        for place in places:
            if self.ids[place] == left_id and self.ids[self.next[place]] == right_id:
                break
            vanished += 1
        del places[:vanished]
        return -self.counts[pair], places[0], pair

    def pop_best(self) -> Key | None:
        """Take the key of the pair to merge next out of the heap; None if no pair is left.

        A key in the heap may be out of date, but then it is too optimistic, never too pessimistic:

        - The count of a pair only falls. Merging removes occurrences of pairs, and all pairs that
          it creates contain the new id, which did not exist before.
        - For the same reason the first place of a pair only moves to the right.

        So a popped key that is still correct is the best of all: no other pair is better than its
        own key in the heap, and that is larger. A key that is out of date goes back, corrected.
        """
        while self.heap:
            key = heappop(self.heap)
            pair = key[2]
            if self.counts[pair] == 0:
                continue
            key_now = self._make_key(pair)
            if key_now == key:
                return key
            heappush(self.heap, key_now)
        return None

    def merge(self, pair: Pair, new_id: int) -> None:
        """Replace a pair by a new id everywhere, and correct the counts beside it."""
        left_id, right_id = pair
        ids = self.ids
        # The places where new pairs begin. (neighbour, new id) begins at the left neighbour of a
        # merge, and (new id, neighbour) begins at the new id itself.
        places_by_left_neighbour = defaultdict(list)
        places_by_right_neighbour = defaultdict(list)
        for place in self.places.pop(pair):
            right_place = self.next[place]
            if ids[place] != left_id or ids[right_place] != right_id:
                continue  # vanished; or, in "aaa", its first half has just been merged
            ids[place] = new_id
            ids[right_place] = MERGED
            before = self.previous[place]
            after = self.next[right_place]
            self.next[place] = after
            self.previous[after] = place
            places_by_left_neighbour[ids[before]].append(before)
            places_by_right_neighbour[ids[after]].append(place)

        # In "abab", the first merge creates the pair (new, a), and the second one replaces it by
        # (new, new). In the sum, (new, a) gets +1 and -1, which is right.
        created = []
        for neighbour, places in places_by_left_neighbour.items():
            created.append(((neighbour, left_id), (neighbour, new_id), places))
        for neighbour, places in places_by_right_neighbour.items():
            created.append(((right_id, neighbour), (new_id, neighbour), places))
        self._replace_pairs([change for change in created if GAP not in change[1]])
        del self.counts[pair]

    def _replace_pairs(self, changes: list[tuple[Pair, Pair, list[int]]]) -> None:
        """Apply the changes (old pair, new pair, places where the new one begins) to the table."""
        for old_pair, new_pair, places in changes:
            weight = self._total_weight(places)
            self.counts[old_pair] -= weight
            self.counts[new_pair] += weight
            self.places[new_pair] = places
        # a count may change twice above, so keys are made only now
        for _, new_pair, _ in changes:
            if self.counts[new_pair] > 0:
                heappush(self.heap, self._make_key(new_pair))


def learn_merges(chunk_counts: Mapping[bytes, int]) -> Iterator[tuple[Pair, int]]:
    """Yield the merges in order, each as (pair, its count), until no pair is left.

    The first merge makes id 256, the next 257 and so on. `chunk_counts` says how often each chunk
    occurs, in the order of first appearance in the text, since that decides ties.
    """
    table = PairTable(chunk_counts)
    new_id = 256
    while True:
        best = table.pop_best()
        if best is None:
            return
        negative_count, _, pair = best
        table.merge(pair, new_id)
        yield pair, -negative_count
        new_id += 1
