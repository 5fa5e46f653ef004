"""Byte-pair encoding as pure functions: first as the lecture explains it, then the same made fast. A token is a
number; the first 256 are the bytes. Training replaces the most frequent pair of neighbours by a new token, over and
over; encoding replays those merges in their order. The rule for ties, on which every id depends: the highest count
wins, and among equals the pair that stands first in the text as it is by then. Pairs are counted with overlaps ("aaa"
holds aa twice) but merged from the left."""
import array, re
from collections import defaultdict
from functools import lru_cache
from heapq import heappop, heappush
from itertools import chain, pairwise
from operator import add
NEVER, MEMO, MEMO_KEY = 1 << 62, 1 << 17, 64    # the rank of a pair that is no token; a memo's texts, their characters
SHORT, WINDOW = 24, 512     # bytes for which a list beats a heap, and of a long chunk that are merged at a time
# ----------------------------------------------------------------------------------------------------------------------
# the lecture: slow and plain, and the tests' reference for everything below
def get_stats(ids, counts=None):
    """Count neighbours: [1, 2, 3, 1, 2] -> {(1, 2): 2, (2, 3): 1, (3, 1): 1}; adds to counts where given."""
    counts = {} if counts is None else counts
    for pair in pairwise(ids): counts[pair] = counts.get(pair, 0) + 1
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
        for ids in chunks: get_stats(ids, stats)
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
    """The counts of all pairs, corrected at every merge. A text repeats its words, so each chunk is held once, with a
    weight, as a str whose characters are tokens (chr(256): the first merge); split and join do the merging, in C."""
    def __init__(self, counts):
        self.chunks, self.weights = [chunk.decode("latin-1") for chunk in counts], list(counts.values())
        self.stats = defaultdict(int)           # pair -> how often it stands in the text
        self.where = defaultdict(list)          # pair -> its chunks in rising order; some may have lost it since
        for i, chunk in enumerate(self.chunks): self._note(i, list(map(add, chunk, chunk[1:])), self.stats)
        self.ties, self.level = [], (0, 0)      # the pairs that share the best count and first chunk: (-count, chunk)
        self.heap = sorted((-n, self.where[pair][0], pair) for pair, n in self.stats.items())
    def _note(self, i, pairs, stats):
        weight, where = self.weights[i], self.where
        for pair in pairs:
            stats[pair] += weight
            if not (home := where[pair]) or home[-1] != i: home.append(i)
    def _pop(self):
        """Take the best key (-count, first chunk, pair) out of the heap, or None. Pairs only get rarer, and their first
        places only move right. So a key can be too hopeful, never too modest: if it is still true, none beats it."""
        while self.heap:
            key = heappop(self.heap)
            pair, home = key[2], self.where[key[2]]
            if self.stats[pair]:
                if len(home) > 1: del home[:next(k for k, i in enumerate(home) if pair in self.chunks[i])]
                if key == (now := (-self.stats[pair], home[0], pair)): return key
                heappush(self.heap, now)
    def best(self):
        """The most frequent pair and its count, ties by first place; None when no pair is left. Ties are sorted once: a
        merge never moves them past each other; one with its old count has lost no place, so not its first either."""
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
    for new, (pair, n) in enumerate(iter((pairs := Pairs(counts)).best, None), 256):
        pairs.merge(pair, chr(new))
        yield tuple(map(ord, pair)), n
# ----------------------------------------------------------------------------------------------------------------------
# encoding, fast. A vocabulary is one dict, bytes -> id, and the id is also the rank: lower ids merge first. Pairs are
# not needed, because training never makes the same bytes twice. And neighbours vouch for a whole row: tokens are the
# encoding of their bytes if and only if every two neighbours are the encoding of theirs. For think of the first merge
# across a border in the row. Until then, the two tokens beside it were made as if they were alone in the world; now the
# lowest rank anywhere, leftmost of equals, is between them, so it is when they are alone, and alone they cross as well.
def bpe(chunk, ranks, below=NEVER):
    """Merge bytes by rank: b"aaab", {..., b"aa": 256, b"aaa": 257} -> [257, 98]; only with ranks under below. Tokens
    are linked by where they start and end, and a heap holds the pairs (rank, start, end): a chunk may be huge."""
    size, get = len(chunk), ranks.get
    end = [*range(1, size + 1), 0]              # the token at i ends at end[i]; 0 where no token starts any more
    start = [*range(-1, size)]                  # the token that ends at i starts at start[i]
    heap = sorted((r, i, i + 2) for i in range(size - 1) if (r := get(chunk[i:i + 2], below)) < below)
    while heap:
        _, i, last = heappop(heap)
        if (middle := end[i]) and end[middle] == last:      # else another merge took one of its halves
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
def first_byte(lead):
    """The characters whose UTF-8 begins with some byte, as regular expressions have it: 0xC3 -> "À-ÿ"."""
    low = (lead & 0x3F >> (more := 1 + (lead >= 0xE0) + (lead >= 0xF0))) << 6 * more     # more bytes follow
    return f"\\U{min(low, 0x10FFFF):08x}-\\U{min(low | (1 << 6 * more) - 1, 0x10FFFF):08x}"
def borders(ranks):
    """A function that cuts a text where no merge can cross, as between most emoji: a piece goes on while a token may
    have parts of its next two characters side by side. It asks that of four groups, not of each pair, to be fast."""
    groups = defaultdict(lambda: (set(), set()))
    for a, b in set(chain.from_iterable(map(pairwise, [token.decode("utf-8", "surrogateescape") for token in ranks]))):
        end, start = "\udc80" <= a <= "\udcbf", "\udcc0" <= b <= "\udcff"   # a part of a character: a surrogate a byte
        if "\udcc0" <= a <= "\udcff" or "\udc80" <= b <= "\udcbf": continue  # two parts of the same one
        left, right = groups[end, start, end or start or ord(a) % 4]
        left.add("\\0-\\U0010ffff" if end else a)
        right.add(first_byte(ord(b) - 0xDC00) if start else b)
    one_of = lambda chars: f"[{''.join(c if len(c) > 1 else re.escape(c) for c in chars)}]"
    ways = "|".join(f"{one_of(left)}(?={one_of(right)})" for left, right in groups.values())
    return re.compile(f"(?:{ways})*.", re.DOTALL).findall
def merger(ranks):
    """A function that merges bytes as bpe does, but faster where they are few or very many; an id takes 4 bytes."""
    get, one, size = ranks.get, [bytes([i]) for i in range(256)], {i: len(token) for token, i in ranks.items()}
    two = defaultdict(lambda: NEVER, {tuple(token): i for token, i in ranks.items() if len(token) == 2}).__getitem__
    window = lru_cache(64)(lambda part: bpe(part, ranks))       # a million spaces are the same window over and over
    def merge_long(chunk):
        """Merge a window; go back to one of its last tokens and merge a window from there: if that begins with the same
        token, both together are one encoding, as all neighbours in it stand side by side in one of the two."""
        ids, at, now = [], 0, window(chunk[:WINDOW])
        while at + WINDOW < len(chunk):
            at += sum(map(size.get, now[:(k := len(now) * 3 // 4)]))
            after = window(chunk[at:at + WINDOW])
            if not k or after[0] != now[k]: return bpe(chunk, ranks)
            ids += now[:k]
            now = after
        return ids + now
    def merge(chunk):
        if len(chunk) > SHORT: return array.array("I", merge_long(chunk)).tobytes()
        parts, rank = [*map(one.__getitem__, chunk)], [*map(two, pairwise(chunk)), NEVER]   # of each with the next
        while (low := min(rank)) < NEVER:
            rank.pop(i := rank.index(low))
            parts[i] = part = parts[i] + parts.pop(j := i + 1)
            if i: rank[i - 1] = get(parts[i - 1] + part, NEVER)
            if j < len(parts): rank[i] = get(part + parts[j], NEVER)
        return array.array("I", [ranks[part] for part in parts]).tobytes()
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
