"""
How fast is tokenizer/, next to tiktoken, tokenizers, rustbpe and minbpe?

    MAKEMORE_DATA=FOLDER python tests/bench/bench_tokenizer.py --minbpe PATH_OF_ITS_CHECKOUT
    MAKEMORE_DATA=FOLDER python tests/bench/bench_tokenizer.py --only tricks

Peers that are not installed are left out. All figures are CPU seconds of this process, the best of
some rounds in which we and the peer take turns. minbpe makes only the first --merges merges; the
rest is estimated from the length of its text, to which the time of a merge is proportional.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import random
import sys
import tracemalloc
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from time import process_time
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tokenizer import GPT4_PATTERN, Tokenizer, core, fast, pretrained
from tokenizer.splitting import splitter
from tokenizer.training import learn_merges

EMOJI = ''.join(map(chr, range(0x1F300, 0x1F3C8)))
LETTERS = 'abcdefghijklmnopqrstuvwxyz'
TEXTS = ('english', 'code', 'multi', 'emoji')
DATA = Path(os.environ.get('MAKEMORE_DATA', '.'))

# tokenizers and rustbpe: one core, as we
os.environ.setdefault('RAYON_NUM_THREADS', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')


def seconds(run):
    start = process_time()
    run()
    return process_time() - start


def best_times(*runs, rounds=3):
    """The best time of each, taking turns; None for a run that is None."""
    times = [[] for _ in runs]
    for _ in range(rounds):
        for run, times_of_run in zip(runs, times, strict=True):
            if run is not None:
                times_of_run.append(seconds(run))
    return [min(times_of_run, default=None) for times_of_run in times]


def installed(name):
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def print_row(what, ours, peers, megabytes=None):
    """One line per peer: our seconds (or MB/s), theirs, and how many times as fast we are."""

    def show(time):
        return f'{megabytes / time:7.2f} MB/s' if megabytes else f'{time:9.3f} s'

    peers = {name: theirs for name, theirs in peers.items() if theirs}
    if not peers:
        print(f'{what:44} {show(ours):>12}', flush=True)
    for name, theirs in peers.items():
        ratio = theirs / ours
        print(f'{what:44} {show(ours):>12} {name:>22} {show(theirs):>12} {ratio:8.2f}x', flush=True)


# -----------------------------------------------------------------------------
# training


def train_rows(text, minbpe, merges):
    for size in 512, 4096:
        ours, face, rust = best_times(
            lambda size=size: Tokenizer().train(text, size),
            installed('tokenizers') and partial(train_hugging_face, text, size),
            installed('rustbpe') and partial(train_rustbpe, text, size),
        )
        what = f'train, GPT-4 pattern, {size}'
        print_row(what, ours, {'tokenizers': face, 'rustbpe': rust})
        if minbpe and size == 512:
            theirs = estimate_minbpe(minbpe, text, GPT4_PATTERN, size, merges)
            print_row(what, ours, {'minbpe (estimated)': theirs})
    for size in 512, 4096:
        ours = seconds(lambda size=size: Tokenizer(None).train(text, size))
        theirs = minbpe and estimate_minbpe(minbpe, text, None, size, merges)
        print_row(f'train, no pattern, {size}', ours, {'minbpe (estimated)': theirs})


def train_rustbpe(text, size):
    rustbpe = installed('rustbpe')
    rustbpe.Tokenizer().train_from_iterator([text], size, pattern=GPT4_PATTERN)


def train_hugging_face(text, size):
    tokenizers = installed('tokenizers')
    pre = tokenizers.pre_tokenizers
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = pre.Split(tokenizers.Regex(GPT4_PATTERN), 'isolated')
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer = pre.Sequence([split, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    tok.train_from_iterator([text], trainer)


def estimate_minbpe(path, text, pattern, size, merges):
    """minbpe's seconds for all merges, from the first few and the number of ids before each."""
    name = 'basic' if pattern is None else 'regex'
    # its modules one by one, since the package itself wants tiktoken
    spec = importlib.util.spec_from_file_location(
        'minbpe', path / 'minbpe/__init__.py', submodule_search_locations=[str(path / 'minbpe')]
    )
    sys.modules.setdefault('minbpe', importlib.util.module_from_spec(spec))
    module = importlib.import_module(f'minbpe.{name}')
    peer = module.BasicTokenizer() if pattern is None else module.RegexTokenizer()
    first = min(merges, size - 256)
    taken = seconds(lambda: peer.train(text, 256 + first))

    chunks = [chunk.encode() for chunk in splitter(pattern)(text)]
    length = sum(map(len, chunks))
    lengths = []
    for _, count in islice(learn_merges(Counter(chunks)), size - 256):
        lengths.append(length)
        length -= count  # overlaps are counted, so this is a little short, to minbpe's favour
    return taken * sum(lengths) / sum(lengths[:first])


# -----------------------------------------------------------------------------
# encoding


def read_sample(file, num_bytes=2_000_000):
    text = (DATA / f'text/{file}.txt').read_text(encoding='utf-8')
    return text.encode()[:num_bytes].decode('utf-8', errors='ignore')


def fresh_copy(tok):
    """A tokenizer that remembers nothing. Its tables are made here, not when it first encodes."""
    copy = Tokenizer(tok.pattern, special_tokens=tok.special_tokens, ranks=tok.ranks)
    copy.encode('')
    return copy


def cold_time(tok, text, rounds=3):
    return min(seconds(partial(fresh_copy(tok).encode, text)) for _ in range(rounds))


def encode_rows(name):
    tok = pretrained(name, DATA / 'tiktoken')
    tiktoken = installed('tiktoken')
    peer = tiktoken and tiktoken.Encoding(
        name, pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens
    )
    for file in TEXTS:
        text = read_sample(file)
        megabytes = len(text.encode()) / 1e6
        ids = tok.encode(text, 'none')
        warm, theirs = best_times(
            partial(tok.encode, text), peer and partial(peer.encode_ordinary, text)
        )
        what = f'encode, {name}, {file}'
        print_row(f'{what}, seen text', warm, {'tiktoken': theirs}, megabytes)
        print_row(f'{what}, new text', cold_time(tok, text), {'tiktoken': theirs}, megabytes)
        back, theirs = best_times(
            partial(tok.decode, ids), peer and partial(peer.decode, ids), rounds=5
        )
        print_row(f'decode, {name}, {file}', back, {'tiktoken': theirs}, megabytes)


def worst_cases():
    rng = random.Random(1)
    return {
        '1 MB of English, new': read_sample('english', 1_000_000),
        'one letter x 1,000,000': 'a' * 10**6,
        'random letters x 1,000,000': ''.join(rng.choices(LETTERS, k=10**6)),
        'spaces x 1,000,000': ' ' * 10**6,
        'e and 100,000 marks': 'e' + '\u0301' * 100_000,
        '300,000 random Chinese characters': ''.join(
            map(chr, rng.choices(range(0x4E00, 0x9FFF), k=300_000))
        ),
    }


def worst_rows(name):
    tok = pretrained(name, DATA / 'tiktoken')
    english = None
    for what, text in worst_cases().items():
        taken = seconds(partial(tok.encode, text))
        english = english or taken
        print(f'{what:44} {taken:9.3f} s {taken / english:33.1f} x English', flush=True)


# -----------------------------------------------------------------------------
# what each trick of fast.py brings


class WithoutWords(fast.FastEncoder):
    def _encode_page(self, page):
        return map(self.chunks.__getitem__, self.split(page))


class WithoutPieces(fast.FastEncoder):
    def __init__(self, pattern, ranks):
        super().__init__(pattern, ranks)
        self.find_pieces = lambda chunk: [chunk]


class WordsAtOnce(fast.FastEncoder):
    def _encode_page(self, page):
        return map(self.words.__getitem__, fast.WORD.findall(page))


TRICKS = {
    'all': contextlib.nullcontext,
    'without memos': partial(patch.object, fast, 'MEMO_KEY', 0),
    'without words': partial(patch.object, core, 'FastEncoder', WithoutWords),
    'without ASCII': partial(patch.object, fast, 'fast_splitter', splitter),
    'with words at once': partial(patch.object, core, 'FastEncoder', WordsAtOnce),
    'without pages': partial(patch.object, fast, 'PAGE', 10**9),
    'without pieces': partial(patch.object, core, 'FastEncoder', WithoutPieces),
    'without windows': partial(patch.object, fast, 'WINDOW', 10**9),
}


def trick_rows(name):
    tok = pretrained(name, DATA / 'tiktoken')
    corpus = (DATA / 'tinyshakespeare.txt').read_text()
    texts = {file: read_sample(file) for file in TEXTS}
    texts['letters'] = 'a' * 10**6
    print(f'{"MB/s of new text / of seen text":32}', *(f'{file:>15}' for file in texts), '   train')
    for what, trick in TRICKS.items():
        cells = []
        with trick():
            for text in texts.values():
                megabytes = len(text.encode()) / 1e6
                copy = fresh_copy(tok)
                copy.encode(text)
                (warm,) = best_times(partial(copy.encode, text))
                cold = cold_time(tok, text)
                cells.append(f'{megabytes / cold:7.2f}/{megabytes / warm:7.2f}')
            (trained,) = best_times(lambda: Tokenizer().train(corpus, 512))
        print(f'{what:32}', *cells, f'{trained:6.3f} s', flush=True)

    ids = tok.encode(texts['english'])
    for fast_way in True, False:
        tok.fast = fast_way
        (taken,) = best_times(partial(tok.decode, ids))
        print(f'decode english, fast {fast_way!s:5} {2 / taken:25.2f} MB/s', flush=True)
    one_chunk = Tokenizer(None).train(corpus, 512)
    for what, trick in TRICKS.items():
        if what in ('all', 'without windows'):
            with trick():
                taken = cold_time(one_chunk, corpus, rounds=1)
            print(f'1.1 MB as one chunk, {what:16} {taken:20.3f} s', flush=True)


def memory_rows():
    """What the memos weigh when they are full, of chunks and of words."""
    for what, letters, length in (
        ('words of eight letters', 'абвгдежз', 8),
        ('words of 62 emoji', EMOJI, 62),
    ):
        tok = Tokenizer()
        rng = random.Random(1)
        tracemalloc.start()
        for _ in range(13):
            words = [''.join(rng.choices(letters, k=length)) for _ in range(10_000)]
            tok.encode(' '.join(words))
        weight = tracemalloc.get_traced_memory()[1] / 1e6
        print(f'{f"memos full of {what}":44} {weight:9.0f} MB', flush=True)
        tracemalloc.stop()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minbpe', type=Path, help='a checkout of minbpe')
    parser.add_argument('--merges', type=int, default=16, help='number of merges minbpe makes')
    parser.add_argument('--only', choices=['train', 'encode', 'worst', 'memory', 'tricks'])
    args = parser.parse_args()
    if not (DATA / 'tinyshakespeare.txt').is_file():
        sys.exit('MAKEMORE_DATA does not name the folder with tinyshakespeare.txt')
    if args.only in (None, 'train'):
        train_rows((DATA / 'tinyshakespeare.txt').read_text(), args.minbpe, args.merges)
    if args.only in (None, 'encode'):
        encode_rows('cl100k_base')
    if args.only in (None, 'worst'):
        worst_rows('cl100k_base')
    if args.only in (None, 'memory'):
        memory_rows()
    if args.only == 'tricks':
        trick_rows('cl100k_base')


if __name__ == '__main__':
    main()
