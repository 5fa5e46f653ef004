"""
The tokens of a huge text, in a memory-mapped file.

A text is read in pieces, encoded, and written to TOKENS as a flat array of the smallest integers
that hold its tokens. The NOTE beside it says from which text they were made. Training maps the
file instead of reading it, so memory does not grow with the text.
"""

import codecs
import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

TOKENS = 'tokens.bin'
NOTE = 'tokens.json'
PIECE = 2**17  # characters read and encoded at a time
EVALUATED = 2**21  # tokens: a longer split is evaluated on blocks of it
BLOCK = 2**16  # tokens in such a block
TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # bytes of a token -> its type


class TokenFile(NamedTuple):
    """The tokens of a text, mapped from disk, and what the note says about them."""

    tokens: torch.Tensor
    n_train_tokens: int
    n_chars: int
    text_hash: str
    dataset: dict[str, Any]


def hash_file(path: str | Path) -> str:
    """A hash of everything in a file: two files with the same hash hold the same bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def hash_note(note: dict[str, Any]) -> str:
    """A hash of the note itself: a single wrong number in it would shift the split unnoticed."""
    return hashlib.blake2b(json.dumps(note).encode(), digest_size=16).hexdigest()


def describe_source(path: str, options: list[Any]) -> dict[str, Any]:
    """What the tokens of a text depend on: the text, and the settings of the tokenizer."""
    hashes = [hash_file(path)]
    hashes += [hash_file(option) for option in options if Path(str(option)).is_file()]
    return {'hashes': hashes, 'options': options}


def read_pieces(path: str, encoding: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The characters from start to stop of a text file, piece by piece, line ends as `\n`."""
    codec = codecs.lookup(encoding).name
    position = 0
    with open(path, encoding='utf-8-sig' if codec == 'utf-8' else codec) as file:
        while position != stop:
            size = PIECE
            if position < start:
                size = min(size, start - position)
            if stop is not None:
                size = min(size, stop - position)
            piece = file.read(size)
            if not piece:
                return
            if position >= start:
                yield piece
            position += len(piece)


def hash_text(pieces: Iterable[str]) -> str:
    """A hash of the characters of a text, whatever its encoding and its line ends are."""
    digest = hashlib.blake2b()
    for piece in pieces:
        digest.update(piece.encode('utf-8', 'surrogatepass'))
    return digest.hexdigest()


def count_chars(pieces: Iterable[str]) -> tuple[str, int]:
    """All different characters of a text, sorted, and its length: ['abba'] -> ('ab', 4)."""
    chars: set[str] = set()
    n_chars = 0
    for piece in pieces:
        chars.update(piece)
        n_chars += len(piece)
    return ''.join(sorted(chars)), n_chars


def smallest_int_type(vocab_size: int) -> torch.dtype:
    """The smallest of TYPES that holds all tokens."""
    if vocab_size <= 2**8:
        return torch.uint8
    return torch.int16 if vocab_size <= 2**15 else torch.int32


def encode_pieces(pieces: Iterable[str], tokenizer: Any, file: BinaryIO) -> int:
    """Write the tokens of some pieces to a file; the number of tokens."""
    dtype = smallest_int_type(tokenizer.vocab_size)
    encode = getattr(tokenizer, 'encode_text', None) or tokenizer.encode_ordinary
    n_tokens = 0
    for piece in pieces:
        tokens = torch.as_tensor(encode(piece)).to(dtype)
        raw = bytearray(tokens.nbytes)
        torch.frombuffer(raw, dtype=dtype).copy_(tokens)
        file.write(raw)
        n_tokens += len(tokens)
    return n_tokens


def write_tokens(
    folder: Path,
    path: str,
    options: list[Any],
    make_tokenizer: Callable[[str, Iterable[str]], tuple[Any, dict]],
    save: Callable[[Path, Callable[[BinaryIO], Any]], None],
    progress: Callable[[Iterable, str], Iterable],
):
    """Encode a text piece by piece into the token file, then write its note.

    `make_tokenizer(chars, train)` returns a tokenizer and the state from which the data set can
    be restored, `save(path, write)` writes a whole file or nothing, and `progress(pieces, label)`
    shows how far it is. The first of the options is the encoding.
    """
    # An old note goes first: it must never stand beside tokens that it does not describe.
    (folder / NOTE).unlink(missing_ok=True)
    source = describe_source(path, options)
    encoding = options[0]
    chars, n_chars = count_chars(progress(read_pieces(path, encoding), 'counting'))
    n_train = int(0.9 * n_chars)
    train = read_pieces(path, encoding, stop=n_train)
    tokenizer, dataset_state = make_tokenizer(chars, train)
    sizes = []

    def write(file: BinaryIO):
        train = read_pieces(path, encoding, stop=n_train)
        dev = read_pieces(path, encoding, start=n_train)
        sizes.append(encode_pieces(progress(train, 'encoding train'), tokenizer, file))
        sizes.append(encode_pieces(progress(dev, 'encoding dev'), tokenizer, file))

    save(folder / TOKENS, write)
    if describe_source(path, options) != source:
        raise ValueError(f'{path} changed while it was read: start again')
    note = {
        'source': source,
        'n_chars': n_chars,
        'text_hash': hash_text(read_pieces(path, encoding)),
        'n_train_tokens': sizes[0],
        'bytes_per_token': smallest_int_type(tokenizer.vocab_size).itemsize,
        'hash': hash_file(folder / TOKENS),
        'dataset': dataset_state,
    }
    content = json.dumps({'note': note, 'hash': hash_note(note)}).encode()
    save(folder / NOTE, lambda file: file.write(content))


def map_tokens(path: Path, dtype: torch.dtype) -> torch.Tensor:
    """The tokens in a file, which stay on the disk until they are used.

    torch.from_file does the same, but not for a path that is not UTF-8.
    """
    with open(path, 'rb') as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # the file never changes
    return torch.frombuffer(mapped, dtype=dtype)


def open_tokens(folder: Path, path: str, options: list[Any]) -> TokenFile | None:
    """The tokens in the folder, or None if they are not whole or not those of this text."""
    source = describe_source(path, options)
    try:
        content = json.loads((folder / NOTE).read_text(encoding='utf-8'))
        note = content['note']
        if content['hash'] != hash_note(note):
            return None
        if note['source'] != source or note['hash'] != hash_file(folder / TOKENS):
            return None
        dtype = TYPES[note['bytes_per_token']]
        tokens = map_tokens(folder / TOKENS, dtype)
        return TokenFile(
            tokens, note['n_train_tokens'], note['n_chars'], note['text_hash'], note['dataset']
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def evaluation_spans(start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts and lengths of what a split from start to end is evaluated on.

    That is all of it or, of a huge split, blocks that are spread evenly over it.
    """
    length = end - start - 1  # the last token is only a target
    if length <= EVALUATED:
        return torch.tensor([start]), torch.tensor([length])
    n_blocks = EVALUATED // BLOCK
    distance = (length - BLOCK) // (n_blocks - 1)
    starts = start + torch.arange(n_blocks) * distance
    return starts, torch.full((n_blocks,), BLOCK)
