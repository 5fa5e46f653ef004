"""The Tokenizer: a vocabulary (bytes -> id), a pattern that cuts text into chunks, and special tokens."""
import array, codecs, json, warnings
from functools import cached_property
from itertools import islice
from pathlib import Path
import regex
from .bpe import SHORT, Memo, borders, learn, merger, recover_merges
from .text import GPT4_PATTERN, WORDS, clean, count_chunks, pages, read, splitter
MAX_ID, CALM = 0x10FFFF, 256    # training writes tokens as characters; little is new: a chunk in so many of them
class Tokenizer:
    """Tokenizer(pattern, {"<|special|>": id}).train(text, vocab_size).encode(text). No pattern: a text is one chunk."""
    def __init__(self, pattern=GPT4_PATTERN, special_tokens=None, ranks=None):
        ranks = {bytes([i]): i for i in range(256)} if ranks is None else ranks
        self._setup(pattern, {} if special_tokens is None else special_tokens, ranks)
    def _setup(self, pattern, special_tokens, ranks):
        """The one place where anything changes, so that nothing derived can be stale."""
        check(ranks, special_tokens)
        vars(self).pop("merges", None)
        self.pattern, self.special_tokens, self.ranks = pattern, dict(special_tokens), dict(ranks)
        split, get, merge, cut = splitter(pattern), self.ranks.get, merger(self.ranks), borders(self.ranks)
        def chunk_ids(chunk):                   # most chunks are a token; short English is rarely more than a piece
            if (len(chunk) > SHORT or not chunk.isascii()) and len(parts := cut(chunk)) > 1:
                return b"".join(map(pieces, parts))
            return merge(data) if (i := get(data := chunk.encode())) is None else array.array("I", (i,)).tobytes()
        pieces, chunks = Memo(lambda piece: merge(piece.encode())).__getitem__, Memo(chunk_ids)
        words, by_chunk = Memo(lambda word: b"".join(map(chunks.__getitem__, split(word)))), (split, chunks.__getitem__)
        by_word = (WORDS[pattern].findall, words.__getitem__) if pattern in WORDS else by_chunk
        self._chunks, self._ways, self._calm = chunks, (by_chunk, by_word), False
        self.vocab = {i: token for token, i in ranks.items()} | {i: text.encode() for text, i in special_tokens.items()}
        self.vocab_size = max(self.vocab) + 1                               # the rows of an embedding table
        self._latin = [self.vocab[i].decode("latin-1") if i in self.vocab else None for i in range(self.vocab_size)]
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = regex.compile(f"({'|'.join(map(regex.escape, longest_first))})") if longest_first else None
    @cached_property
    def merges(self): return recover_merges(self.ranks)                     # {(left id, right id): new id}, in order
    def register_special_tokens(self, special_tokens): self._setup(self.pattern, special_tokens, self.ranks)
    def train(self, data, vocab_size, verbose=False, progress=lambda items, **_: items, processes=1):
        """Learn vocab_size tokens, special ones too, from a str, a Path, or several; no merge crosses from one to the
        next. Several processes pay for many megabytes; progress is as tqdm. A text may run out of pairs: a warning."""
        end = vocab_size - len(self.special_tokens)
        if end < 256 or vocab_size > MAX_ID + 1 or min(self.special_tokens.values(), default=end) < end:
            raise ValueError(f"vocab_size {vocab_size} must have room for 256 bytes and {vocab_size - end} special "
                             f"tokens, whose ids must be {end} or more, since those below are for the others")
        counts = count_chunks(progress(read(data, self.pattern), desc="read"), self.pattern, processes)
        vocab = [bytes([i]) for i in range(256)]
        merges = islice(learn({chunk.encode(): n for chunk, n in counts.items()}), end - 256)
        for (a, b), n in progress(merges, desc="merge", total=end - 256):
            vocab.append(vocab[a] + vocab[b])
            if verbose: print(f"merge {len(vocab) - 256}: {(a, b)} -> {len(vocab) - 1} ({vocab[-1]}), {n} times")
        if len(vocab) < end: warnings.warn(f"no pair is left at {len(vocab) + vocab_size - end} tokens", stacklevel=2)
        self._setup(self.pattern, self.special_tokens, {token: i for i, token in enumerate(vocab)})
        return self
    def encode(self, text, allowed_special="none_raise"):
        """The ids of a text. Special tokens in it count where allowed_special is "all" or a set that has them; with
        "none" they are ordinary text; else a ValueError, since texts from outside must not forge a document's end."""
        named = {"all": self.special_tokens, "none": None, "none_raise": ()}
        if isinstance(allowed_special, str) and allowed_special not in named:
            raise ValueError(f'allowed_special={allowed_special!r} is not "all", "none", "none_raise", or a set')
        allowed = named[allowed_special] if isinstance(allowed_special, str) else set(allowed_special)
        parts = [text] if allowed is None or not self._special else self._special.split(text)
        for special in parts[1::2]:             # text, special token, text, special token, ..., text
            if special not in allowed:
                raise ValueError(f"the text holds the special token {special!r}: name it in allowed_special to encode "
                                 'it as such, or pass allowed_special="none" to encode it as ordinary text')
        ids = self.encode_ordinary(parts[0])
        for name, part in zip(parts[1::2], parts[2::2]): ids += [self.special_tokens[name], *self.encode_ordinary(part)]
        return ids
    def encode_ordinary(self, text):
        """The ids of a text in which nothing is special."""
        try: return array.array("I", b"".join(map(self._encode_page, pages(text, self.pattern)))).tolist()
        except UnicodeEncodeError: return self.encode_ordinary(clean(text))
    def _encode_page(self, page):
        """Whole words are looked up where the page before had little new; else chunks, as more of them are known."""
        (cut, look_up), size = self._ways[self._calm], len(self._chunks)
        ids = b"".join(map(look_up, cut(page)))
        self._calm = (len(self._chunks) - size) * CALM < len(page)
        return ids
    def token_bytes(self, i):
        """The bytes of one token: 100257 -> b"<|endoftext|>"."""
        if i not in self.vocab: raise ValueError(f"no token has the id {i!r}")
        return self.vocab[i]
    def decode_bytes(self, ids):
        """The exact bytes behind the ids, be they characters or not; str, a character a byte, is joined faster."""
        ids = ids if isinstance(ids, list) else list(ids)                   # no copy, which takes time
        try:                                    # a list would read -1 from its end
            if min(ids, default=0) >= 0: return "".join(map(self._latin.__getitem__, ids)).encode("latin-1")
        except (IndexError, TypeError): pass
        return b"".join(map(self.token_bytes, ids))                         # finds the one to complain about
    def decode(self, ids): return self.decode_bytes(ids).decode("utf-8", "replace")     # no character: U+FFFD
    def decode_stream(self, ids):
        """Yield the text piece by piece, as soon as its last character is whole; ids may come from a generator."""
        return codecs.iterdecode(map(self.token_bytes, ids), "utf-8", "replace")
    def to_dict(self):
        """All of it as str, int and dict, for JSON or a checkpoint; bytes are written as Latin-1."""
        return {"version": "bpe 1", "pattern": self.pattern, "special_tokens": dict(self.special_tokens),
                "vocab": {self._latin[i]: i for i in sorted(self.ranks.values())}}
    @staticmethod
    def from_dict(data):
        """The inverse of to_dict; a ValueError says what is wrong with data that is no tokenizer."""
        try:
            version, pattern, special, vocab = (data[key] for key in ("version", "pattern", "special_tokens", "vocab"))
            ranks = {token.encode("latin-1"): i for token, i in vocab.items()}
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError): version = "unknown"
        if version != "bpe 1": raise ValueError('no tokenizer of version "bpe 1", or its vocabulary is not bytes')
        return Tokenizer(pattern, special, ranks)
    def save(self, path): Path(path).write_text(json.dumps(self.to_dict(), indent=0) + "\n", encoding="utf-8")
    @staticmethod
    def load(path):
        try: return Tokenizer.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as e: raise ValueError(f"{path}: no usable tokenizer: {e}") from None
def check(ranks, special_tokens):
    """Refuse, with the reason, a vocabulary that could not encode every text or decode every id."""
    if not isinstance(special_tokens, dict) or not all(isinstance(text, str) for text in special_tokens):
        raise ValueError("special_tokens must be a dict from texts to ids")
    ids = [*ranks.values(), *special_tokens.values()]
    odd = [i for i in ids if type(i) is not int or not 0 <= i <= MAX_ID]    # True is an int too, but no id
    odd += [text for text in [*ranks, *special_tokens] if not text or isinstance(text, str) and clean(text) != text]
    if odd:
        raise ValueError(f"{odd[0]!r}: ids are whole numbers up to {MAX_ID}; tokens are whole characters, never empty")
    if len(set(ids)) < len(ids): raise ValueError("two tokens have the same id")
    if lacks := {bytes([i]) for i in range(256)} - set(ranks): raise ValueError(f"the vocabulary lacks {min(lacks)}")
