"""Byte-pair encoding as pure functions: first as the lecture explains it, then the same made fast. A token is a
number; the first 256 are the bytes. Training replaces the most frequent pair of neighbours by a new token, over and
over; encoding replays those merges in their order. The rule for ties, on which every id depends: the highest count
wins, and among equals the pair that stands first in the text as it is by then. Pairs are counted with overlaps ("aaa"
holds aa twice) but merged from the left."""
from collections import defaultdict
from heapq import heapify, heappop, heappush
from itertools import islice, pairwise
from operator import add, indexOf

NEVER, MANY = 1 << 62, 64       # the rank of a pair that is no token; ties that are worth looking up one by one

# ----------------------------------------------------------------------------------------------------------------------
# the lecture: slow and plain, and the tests' reference for everything below

def get_stats(ids, counts=None):
    """Count neighbours: [1, 2, 3, 1, 2] -> {(1, 2): 2, (2, 3): 1, (3, 1): 1}; adds to counts where given."""
    counts = {} if counts is None else counts
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts

def merge(ids, pair, new):
    """Replace a pair by a new token, from the left: [1, 2, 3, 1, 2], (1, 2), 4 -> [4, 3, 4]."""
    out = []
    for i in ids:
        if out and (out[-1], i) == pair:
            out[-1] = new
        else:
            out.append(i)
    return out

def train_naive(chunks, num_merges):
    """The merges of some chunks of bytes, in order: [b"aaabdaaabac"], 2 -> {(97, 97): 256, (256, 97): 257}."""
    chunks, merges = [list(chunk) for chunk in chunks], {}
    for new in range(256, 256 + num_merges):
        stats = {}
        for ids in chunks:
            get_stats(ids, stats)
        if not stats: break                     # every chunk is a single token
        pair = max(stats, key=stats.get)        # max keeps the first of equals, and a dict the order of insertion
        chunks = [merge(ids, pair, new) for ids in chunks]
        merges[pair] = new
    return merges

def encode_naive(chunk, merges):
    """Replay the merges on some bytes, earliest first: b"aaab", {(97, 97): 256, (256, 97): 257} -> [257, 98]."""
    ids = list(chunk)
    while stats := get_stats(ids):
        pair = min(stats, key=lambda pair: merges.get(pair, NEVER))
        if pair not in merges: break
        ids = merge(ids, pair, merges[pair])
    return ids

# ----------------------------------------------------------------------------------------------------------------------
# training, fast

class Pairs:
    """The counts of all pairs, corrected at every merge instead of counted anew. A text repeats its words, so each
    distinct chunk is held once, with a weight, as a str whose characters are tokens (chr(256) is the first merge):
    then Python's own split and join do the merging, in C."""
    def __init__(self, counts):
        self.chunks, self.weights = [chunk.decode("latin-1") for chunk in counts], list(counts.values())
        self.stats = defaultdict(int)           # pair -> how often it stands in the text
        self.where = defaultdict(list)          # pair -> its chunks in rising order; some may have lost it since
        for i, chunk in enumerate(self.chunks):
            self._note(i, list(map(add, chunk, chunk[1:])), self.stats)
        self.heap = sorted((-n, self.where[pair][0], pair) for pair, n in self.stats.items())
    def _note(self, i, pairs, stats):
        weight, where = self.weights[i], self.where
        for pair in pairs:
            stats[pair] += weight
            if not (home := where[pair]) or home[-1] != i: home.append(i)
    def _pop(self):
        """Take the best key (-count, first chunk, pair) out of the heap; None when there is none. A pair only ever gets
        rarer, and its first place only moves to the right. So a key in the heap can be too hopeful but never too
        modest: if the best one is still true when it comes out, no other can beat it."""
        while self.heap:
            key = heappop(self.heap)
            pair, home = key[2], self.where[key[2]]
            if self.stats[pair]:
                if len(home) > 1: del home[:next(k for k, i in enumerate(home) if pair in self.chunks[i])]
                if key == (now := (-self.stats[pair], home[0], pair)): return key
                heappush(self.heap, now)
    def best(self):
        """The most frequent pair and its count, ties by first place in the text; None when no pair is left."""
        if not (key := self._pop()): return None
        (_, first, winner), ties = key, [key]
        chunk = self.chunks[first]
        place = chunk.find(winner)
        while len(ties) < MANY and self.heap and self.heap[0][:2] == key[:2]:
            ties.append(self._pop() or key)     # all that was left may have been pairs that are gone
            if ties[-1][:2] == key[:2] and (nearer := chunk.find(ties[-1][2], 0, place + 1)) >= 0:
                place, winner = nearer, ties[-1][2]
        if len(ties) == MANY:                   # there may be more: read what stands before, without leaving C
            place = indexOf(map(self.stats.__getitem__, map(add, chunk, islice(chunk, 1, place + 2))), -key[0])
            winner = chunk[place:place + 2]
        for tie in ties:
            if tie[2] != winner: heappush(self.heap, tie)
        return winner, -key[0]
    def merge(self, pair, new):
        """Replace pair by new in every chunk that has it, and correct only the counts beside the places it stood."""
        (a, b), born = pair, defaultdict(int)
        for i in self.where.pop(pair):
            parts = self.chunks[i].split(pair)  # goes from the left without overlaps: "aaa" -> "", "a"
            if len(parts) > 1:                  # else an earlier merge took this pair's letters away
                self.chunks[i] = new.join(parts)
                fresh = []
                for left, right in pairwise(parts):
                    fresh.append((left[-1] if left else new) + new)
                    if right: fresh.append(new + right[0])
                self._note(i, fresh if parts[0] else fresh[1:], born)
        for fresh, n in born.items():           # each new pair took the place of exactly one old pair
            self.stats[(b if fresh[0] == new else fresh[0]) + (a if fresh[1] == new else fresh[1])] -= n
            self.stats[fresh] = n
            heappush(self.heap, (-n, self.where[fresh][0], fresh))
        del self.stats[pair]

def learn(counts):
    """Yield (pair, its count), merge by merge, until no pair is left: {b"aab": 2} -> ((97, 97), 2), ((256, 98), 2)."""
    pairs = Pairs(counts)
    for new, (pair, n) in enumerate(iter(pairs.best, None), 256):
        pairs.merge(pair, chr(new))
        yield tuple(map(ord, pair)), n

# ----------------------------------------------------------------------------------------------------------------------
# encoding, fast. A vocabulary is one dict, bytes -> id, and the id is also the rank: lower ids merge first. Pairs are
# not needed, because training never makes the same bytes twice: between borders that no merge crosses, the same bytes
# always merge in the same way.

def bpe(chunk, ranks, below=NEVER):
    """Merge bytes by rank: b"aaab", {..., b"aa": 256, b"aaa": 257} -> [257, 98]; only with ranks under below. Tokens
    are linked by where they start and end, and a heap holds the pairs (rank * size + place): a chunk may be huge."""
    if ranks.get(chunk, below) < below: return [ranks[chunk]]
    size, get = len(chunk), ranks.get
    end = list(range(1, size + 1))              # the token at i ends at end[i]; 0 where no token starts any more
    start = list(range(-1, size))               # the token that ends at i starts at start[i]
    rank = [get(chunk[i:i + 2], below) for i in range(size - 1)] + [below]  # of the pair that starts at i
    heap = [r * size + i for i, r in enumerate(rank) if r < below]
    heapify(heap)
    while heap:
        best, i = divmod(heappop(heap), size)
        if rank[i] == best:                     # else another merge took one of its halves
            middle = end[i]
            last = end[i] = end[middle]
            end[middle], start[last], rank[middle], rank[i] = 0, i, below, below
            if i and (r := get(chunk[start[i]:last], below)) != rank[start[i]]:
                rank[start[i]] = r
                if r < below: heappush(heap, r * size + start[i])
            if last < size and (r := get(chunk[i:end[last]], below)) < below:
                rank[i] = r
                heappush(heap, r * size + i)
    return [ranks[chunk[i:j]] for i, j in enumerate(end) if j]

def recover_merges(ranks):
    """The pairs behind a vocabulary, in order: {..., b"aa": 256, b"aaa": 257} -> {(97, 97): 256, (256, 97): 257}."""
    merges = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = tuple(bpe(token, ranks, rank))
            if len(pair) != 2:
                raise ValueError(f"token {token!r} ({rank}) is not made of two tokens with lower ids")
            merges[pair] = rank
    return merges
