"""Byte-pair encoding as pure functions: first as the lecture explains it, then the same made fast. A token is a
number; the first 256 are the bytes. Training replaces the most frequent pair of neighbours by a new token, over and
over; encoding replays those merges in their order. The rule for ties, on which every id depends: the highest count
wins, and among equals the pair that stands first in the text as it is by then. Pairs are counted with overlaps ("aaa"
holds aa twice) but merged from the left."""
from collections import defaultdict
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from operator import add
NEVER, CUT = 1 << 62, 1 << 63       # the rank of a pair that is no token, and of one that is in no token
SHORT, MEMO, MEMO_KEY = 24, 1 << 17, 64     # bytes for which a list beats a heap; a memo's texts and their characters

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
        if out and (out[-1], i) == pair: out[-1] = new
        else: out.append(i)
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
        self.ties, self.level = [], (0, 0)      # the pairs that share the best count and first chunk: (-count, chunk)
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
        """The most frequent pair and its count, ties by first place in the text; None when no pair is left. Ties are
        looked up and sorted once, not for every merge: a merge before them moves them all, but past each other never,
        and one that still has its count has lost no place, so not its first one either."""
        for lost in [pair for pair in self.ties if self.stats[pair] != -self.level[0]]:
            self.ties.remove(lost)
            heappush(self.heap, (-self.stats[lost], self.where[lost][0], lost))
        known = len(self.ties)
        while (not self.ties or self.heap and self.heap[0][:2] == self.level) and (key := self._pop()):
            if not self.ties: self.level = key[:2]
            if key[:2] == self.level: self.ties.append(key[2])
            else: heappush(self.heap, key)      # it only looked like a tie
        if len(self.ties) > max(known, 1): self.ties.sort(key=self.chunks[self.level[1]].find)
        return (self.ties.pop(0), -self.level[0]) if self.ties else None
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
    are linked by where they start and end, and a heap holds the pairs (rank, start, end): a chunk may be huge."""
    size, get = len(chunk), ranks.get
    end = [*range(1, size + 1), 0]              # the token at i ends at end[i]; 0 where no token starts any more
    start = [*range(-1, size)]                  # the token that ends at i starts at start[i]
    heap = [(r, i, i + 2) for i in range(size - 1) if (r := get(chunk[i:i + 2], below)) < below]
    heapify(heap)
    while heap:
        _, i, last = heappop(heap)
        middle = end[i]
        if middle and end[middle] == last:      # else another merge took one of its halves
            end[i], end[middle], start[last] = last, 0, i
            for left, right in (start[i], last), (i, end[last]):    # behind the last is b"", which is no token
                if left >= 0 and (r := get(chunk[left:right], below)) < below: heappush(heap, (r, left, right))
    return [ranks[chunk[i:j]] for i, j in enumerate(end) if j]
class Memo(dict):
    """A dict that works out what it does not hold; bounded, or a stream of random text would fill the machine."""
    def __init__(self, work_out): self.work_out = work_out
    def __missing__(self, text):
        ids = self.work_out(text)
        if len(self) >= MEMO: self.clear()
        if len(text) <= MEMO_KEY: self[text] = ids
        return ids
def merger(ranks):
    """A function that merges bytes as bpe does, but is faster for the short chunks that texts are made of. Bytes that
    stand side by side in no token are a border that no merge ever crosses: what is between such borders (most emoji
    and many Chinese words) is a piece of its own, and soon a known one."""
    get = ranks.get
    beside = set(chain.from_iterable(map(pairwise, ranks)))
    two = defaultdict(lambda: CUT, {pair: get(bytes(pair), NEVER) for pair in beside})
    def merge(chunk):
        rank = [*map(two.__getitem__, pairwise(chunk)), NEVER]
        if CUT in rank:
            ends = [i for i, r in enumerate(rank, 1) if r >= CUT or i == len(chunk)]
            parts = (chunk[i:j] for i, j in zip([0, *ends], ends))
            return tuple(chain.from_iterable(map(pieces.__getitem__, parts)))
        if len(chunk) > SHORT: return tuple(bpe(chunk, ranks))
        start = [*range(len(chunk) + 1), 0]     # of each token, the end, and a 0 that makes the last pair b"", no token
        while (low := min(rank)) < NEVER:
            i = rank.index(low)
            del rank[i], start[i + 1]
            if i: rank[i - 1] = get(chunk[start[i - 1]:start[i + 1]], NEVER)
            rank[i] = get(chunk[start[i]:start[i + 2]], NEVER)
        return tuple([ranks[chunk[i:j]] for i, j in pairwise(start[:-1])])
    pieces = Memo(merge)
    return merge
def recover_merges(ranks):
    """The pairs behind a vocabulary, in order: {..., b"aa": 256, b"aaa": 257} -> {(97, 97): 256, (256, 97): 257}."""
    merges = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = tuple(bpe(token, ranks, rank))
            if len(pair) != 2: raise ValueError(f"token {token!r} ({rank}) is not made of two tokens with lower ids")
            merges[pair] = rank
    return merges
