"""
The Tokenizer: a vocabulary, a pattern that splits text into chunks, and special tokens.

    >>> tok = Tokenizer().train('hug hugs hugging bug bugs', vocab_size=260)
    >>> tok.encode('hugs')
    [257, 115]
    >>> tok.decode([257, 115])
    'hugs'
    >>> tok.save('hugs.json')  # doctest: +SKIP
    >>> tok = Tokenizer.load('hugs.json')  # doctest: +SKIP
"""

import codecs
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import regex

from .bpe import Pair
from .encoding import encode_chunk, recover_merges
from .fast import FastDecoder, FastEncoder, count_chunks_fast
from .files import write_file
from .splitting import GPT4_PATTERN, clean, count_chunks, read_texts, splitter
from .training import learn_merges

VERSION = 'bpe 1'  # of the files that `save` writes
MAX_ID = 0x10FFFF  # a typing error must not become a table of a trillion rows


class Tokenizer:
    """Text to ids and back.

    Without arguments, the tokens are the 256 bytes, and `train` finds more. `pattern` None makes a
    text a single chunk. `special_tokens` maps texts to ids, and `ranks` maps the bytes of all other
    tokens to ids; the lower id is merged first.

    >>> Tokenizer(special_tokens={'<|end|>': 256}).encode('hi<|end|>', 'all')
    [104, 105, 256]
    """

    # The switch for fast.py. Set it to False, for all tokenizers or for one, and everything is
    # computed in the plain way, with the same results.
    fast = True

    def __init__(
        self,
        pattern: str | None = GPT4_PATTERN,
        *,
        special_tokens: Mapping[str, int] | None = None,
        ranks: Mapping[bytes, int] | None = None,
    ):
        if special_tokens is None:
            special_tokens = {}
        if ranks is None:
            ranks = {bytes([i]): i for i in range(256)}
        self._set_vocabulary(pattern, special_tokens, ranks)

    def _set_vocabulary(
        self, pattern: str | None, special_tokens: Mapping[str, int], ranks: Mapping[bytes, int]
    ) -> None:
        """Set all attributes together, so that none can contradict another."""
        check_vocabulary(special_tokens, ranks)
        self.pattern = pattern
        self.special_tokens = dict(special_tokens)
        self.ranks = dict(ranks)

        # what follows from these three
        self.vocab = {i: token for token, i in ranks.items()}
        for text, i in special_tokens.items():
            self.vocab[i] = text.encode()
        self.vocab_size = max(self.vocab) + 1  # the rows of an embedding table
        self._split = splitter(pattern)
        self._special_pattern = None
        if special_tokens:
            # the longest first, or "<a>" would be found in place of "<a>b"
            longest_first = sorted(special_tokens, key=len, reverse=True)
            alternatives = '|'.join(map(regex.escape, longest_first))
            self._special_pattern = regex.compile(f'({alternatives})')

        # these take time, so they are made when they are first needed
        self._merges = None
        self._fast_encoder = None
        self._fast_decoder = None

    @property
    def merges(self) -> dict[Pair, int]:
        """The merges {(left id, right id): new id}, in the order in which they were learned.

        >>> Tokenizer().train('aaab', vocab_size=257).merges
        {(97, 97): 256}
        """
        if self._merges is None:
            self._merges = recover_merges(self.ranks)
        return self._merges

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Replace the special tokens.

        >>> tok = Tokenizer()
        >>> tok.register_special_tokens({'<|end|>': 300})
        >>> tok.decode([104, 105, 300])
        'hi<|end|>'
        """
        self._set_vocabulary(self.pattern, special_tokens, self.ranks)

    # -------------------------------------------------------------------------
    # training

    def train(
        self,
        texts: str | os.PathLike | Iterable[str | os.PathLike],
        vocab_size: int,
        *,
        verbose: bool = False,
        progress: Callable[..., Iterable] | None = None,
        processes: int = 1,
    ) -> 'Tokenizer':
        """Learn a vocabulary of `vocab_size` tokens, special tokens included, and return self.

        The texts are a string, a Path to a file, or several of both; merges never cross from one
        text to the next. If the texts run out of pairs, a warning says how many tokens there are.
        `progress` wraps the two loops like tqdm; several `processes` pay for large files.

        >>> tok = Tokenizer().train(['anna', 'hannah'], vocab_size=258)
        >>> tok.vocab[256], tok.vocab[257]
        (b'an', b'ann')
        """
        num_tokens = vocab_size - len(self.special_tokens)
        self._check_vocab_size(vocab_size, num_tokens)
        if progress is None:
            progress = _no_progress

        texts = progress(read_texts(texts, self.pattern), desc='reading')
        if self.fast:
            counts = count_chunks_fast(texts, self.pattern, processes)
        else:
            counts = count_chunks(texts, self.pattern)

        tokens = [bytes([i]) for i in range(256)]
        num_merges = num_tokens - 256
        learned = learn_merges({chunk.encode(): count for chunk, count in counts.items()})
        learned = islice(learned, num_merges)
        for (left, right), count in progress(learned, desc='merging', total=num_merges):
            token = tokens[left] + tokens[right]
            if verbose:
                new_id = len(tokens)
                print(f'merge {new_id - 255}: {(left, right)} -> {new_id} ({token}), {count} times')
            tokens.append(token)
        if len(tokens) < num_tokens:
            reached = len(tokens) + len(self.special_tokens)
            warnings.warn(f'no pair is left at {reached} tokens', stacklevel=2)

        ranks = {token: i for i, token in enumerate(tokens)}
        self._set_vocabulary(self.pattern, self.special_tokens, ranks)
        return self

    def _check_vocab_size(self, vocab_size: int, num_tokens: int) -> None:
        num_special = len(self.special_tokens)
        if num_tokens < 256:
            raise ValueError(
                f'vocab_size {vocab_size} is too small: 256 bytes and {num_special} special tokens '
                f'need {256 + num_special}'
            )
        if vocab_size > MAX_ID + 1:
            raise ValueError(f'vocab_size {vocab_size} is too large: at most {MAX_ID + 1}')
        lowest_special = min(self.special_tokens.values(), default=num_tokens)
        if lowest_special < num_tokens:
            raise ValueError(
                f'with vocab_size {vocab_size}, the ids of special tokens must be {num_tokens} or '
                f'more, not {lowest_special}, since those below are for the other tokens'
            )

    # -------------------------------------------------------------------------
    # encoding

    def encode(self, text: str, allowed_special: str | Collection[str] = 'none_raise') -> list[int]:
        """The ids of a text.

        `allowed_special` says which special tokens count as such: "all", or a set of them. If the
        text holds another one, that is a ValueError, since a text from outside must not be able to
        forge the end of a document. By default, "none_raise", each of them is such an error. With
        "none", special tokens are ordinary text.

        >>> Tokenizer().train('aaab aaab', vocab_size=257).encode('aab')
        [256, 98]
        """
        allowed = self._allowed_specials(allowed_special)
        if allowed is None or self._special_pattern is None:
            return self.encode_ordinary(text)
        ids = []
        # ordinary text, special token, ordinary text, special token, ..., ordinary text
        for i, part in enumerate(self._special_pattern.split(text)):
            if i % 2 == 0:
                ids.extend(self.encode_ordinary(part))
            elif part in allowed:
                ids.append(self.special_tokens[part])
            else:
                raise ValueError(
                    f'the text holds the special token {part!r}: name it in allowed_special to '
                    'encode it as such, or pass allowed_special="none" to encode it as text'
                )
        return ids

    def _allowed_specials(self, allowed_special: str | Collection[str]) -> Collection[str] | None:
        """The special tokens that the text may hold; None if they are ordinary text in it."""
        if not isinstance(allowed_special, str):
            return set(allowed_special)
        if allowed_special == 'all':
            return self.special_tokens
        if allowed_special == 'none_raise':
            return ()
        if allowed_special == 'none':
            return None
        raise ValueError(
            f'allowed_special={allowed_special!r} is not "all", "none", "none_raise", or a set'
        )

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text in which nothing is special.

        >>> Tokenizer(special_tokens={'hi': 256}).encode_ordinary('hi')
        [104, 105]
        """
        text = clean(text)
        if self.fast:
            if self._fast_encoder is None:
                self._fast_encoder = FastEncoder(self.pattern, self.ranks)
            return self._fast_encoder.encode(text)
        ids = []
        for chunk in self._split(text):
            ids.extend(encode_chunk(chunk.encode(), self.ranks))
        return ids

    # -------------------------------------------------------------------------
    # decoding

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token.

        >>> Tokenizer().token_bytes(97)
        b'a'
        """
        if token_id not in self.vocab:
            raise ValueError(f'no token has the id {token_id!r}')
        return self.vocab[token_id]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind the ids, whether they are whole characters or not.

        >>> Tokenizer().decode_bytes([240, 159])
        b'\\xf0\\x9f'
        """
        ids = list(ids)
        if not self.fast:
            return b''.join([self.token_bytes(i) for i in ids])
        if self._fast_decoder is None:
            self._fast_decoder = FastDecoder(self.vocab)
        try:
            return self._fast_decoder.decode_bytes(ids)
        except KeyError as error:
            raise ValueError(f'no token has the id {error.args[0]!r}') from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text behind the ids. Bytes that are no character become U+FFFD.

        >>> Tokenizer().decode([104, 105])
        'hi'
        """
        return self.decode_bytes(ids).decode('utf-8', errors='replace')

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text piece by piece, each as soon as its last character is complete.

        The ids may come from a model that is still writing.

        >>> list(Tokenizer().decode_stream([195, 169, 33]))
        ['é', '!']
        """
        return codecs.iterdecode(map(self.token_bytes, ids), 'utf-8', errors='replace')

    # -------------------------------------------------------------------------
    # saving and loading

    def to_dict(self) -> dict:
        """Everything as str, int and dict, for JSON or a checkpoint. Bytes are written as Latin-1.

        >>> data = Tokenizer(None).to_dict()
        >>> data['version'], data['pattern'], data['special_tokens'], data['vocab']['a']
        ('bpe 1', None, {}, 97)
        """
        return {
            'version': VERSION,
            'pattern': self.pattern,
            'special_tokens': dict(self.special_tokens),
            'vocab': {self.vocab[i].decode('latin-1'): i for i in sorted(self.ranks.values())},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> 'Tokenizer':
        """A tokenizer from what `to_dict` returned; a ValueError says what is wrong with it.

        >>> Tokenizer.from_dict(Tokenizer().to_dict()).vocab_size
        256
        """
        try:
            version = data['version']
            pattern = data['pattern']
            special_tokens = data['special_tokens']
            ranks = {token.encode('latin-1'): i for token, i in data['vocab'].items()}
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            version = None
        if version != VERSION:
            raise ValueError(f'not a tokenizer of version "{VERSION}" with a vocabulary of bytes')
        tokenizer = cls()
        tokenizer._set_vocabulary(pattern, special_tokens, ranks)
        return tokenizer

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file, whole or not at all.

        >>> Tokenizer().save('bytes.json')  # doctest: +SKIP
        """
        content = json.dumps(self.to_dict(), indent=0) + '\n'
        write_file(path, content.encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'Tokenizer':
        """A tokenizer from a file that `save` wrote.

        >>> Tokenizer.load('bytes.json').vocab_size  # doctest: +SKIP
        256
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding='utf-8')))
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path}: not a usable tokenizer: {error}') from None


def _no_progress(items: Iterable, **_: object) -> Iterable:
    return items


def check_vocabulary(special_tokens: Mapping[str, int], ranks: Mapping[bytes, int]) -> None:
    """Refuse a vocabulary that could not encode every text or decode every id."""
    if not isinstance(special_tokens, Mapping):
        raise ValueError('special_tokens must map texts to ids')
    for text in special_tokens:
        if not isinstance(text, str) or text == '' or clean(text) != text:
            raise ValueError(f'special token {text!r} is not a text of whole characters')
    if b'' in ranks:
        raise ValueError('the vocabulary holds an empty token')

    ids = [*ranks.values(), *special_tokens.values()]
    for i in ids:
        # `type`, since True is an int as well
        if type(i) is not int or not 0 <= i <= MAX_ID:
            raise ValueError(f'id {i!r} is not a whole number from 0 to {MAX_ID}')
    if len(set(ids)) < len(ids):
        raise ValueError('two tokens have the same id')
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise ValueError(f'the vocabulary lacks the byte {bytes([byte])!r}')
