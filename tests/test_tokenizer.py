"""
Tests of tokenizer/: against its own naive version, against digests of what tiktoken and minbpe
return, and against itself. The core runs both with and without tokenizer/fast.py.

    MAKEMORE_DATA=FOLDER python -m pytest tests/test_tokenizer.py
"""

import array
import doctest
import hashlib
import importlib
import inspect
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
import unicodedata
import warnings
from collections import Counter
from itertools import chain, islice, pairwise
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import regex

import tokenizer
from tokenizer import (
    BasicTokenizer,
    GPT4Tokenizer,
    RegexTokenizer,
    Tokenizer,
    bpe,
    encoding,
    fast,
    files,
    formats,
    minbpe,
    pretrained,
    published,
    splitting,
    training,
)
from tokenizer.__main__ import main, parse, visible
from tokenizer.splitting import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    O200K_PATTERN,
    PATTERNS,
    PUBLISHED_PATTERNS,
)

ROOT = Path(__file__).resolve().parents[1]
NAMES = (ROOT / 'names.txt').read_text().split('\n')
FIRST_PATTERNS = ['gpt2', 'gpt4', 'o200k']  # the names of PUBLISHED_PATTERNS


@pytest.fixture(params=[True, False], ids=['fast', 'plain'])
def both_ways(request, monkeypatch):
    """A test that uses this runs with and without fast.py."""
    monkeypatch.setattr(Tokenizer, 'fast', request.param)
    return request.param


def data(path):
    """A file of the data folder; without the folder the test is skipped."""
    if 'MAKEMORE_DATA' not in os.environ:
        pytest.skip('MAKEMORE_DATA does not name the folder with test data')
    return Path(os.environ['MAKEMORE_DATA'], path)


@pytest.fixture(scope='module')
def get_published():
    made = {}

    def get(name):
        if name not in made:
            made[name] = pretrained(name, data('tiktoken'))
        return made[name]

    return get


# Everything that the border of a chunk may depend on, and characters that have been in Unicode for
# long: the three engines (ours, tiktoken's, Hugging Face's) know different versions of Unicode, and
# newly assigned characters change what is a letter.
SPACES = ' \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000  \n\n'
PIECES = ['a', 'B', 'é', 'ж', '中', '\u0301', 'ǅ', 'ʰ', '1', '٣', '²', "'", "'s", "'LL", "'\u017f"]
PIECES += ['!', '/', '//', '-', '_', '😀', '\u200d', '.', '\ue000', '\U000e0001']
PIECES += ["don't", 'words', '2024', '\x1b[31m']
OLD = [chr(c) for c in range(0x20000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ('Cn', 'Cs')]


def random_text(rng, most=14):
    sources = rng.choices((SPACES, PIECES, OLD), (45, 45, 10), k=rng.randint(0, most))
    return ''.join(rng.choice(source) for source in sources)


def random_word(rng, letters, most):
    return ''.join(rng.choices(letters, k=rng.randint(0, most)))


def ids_digest(ids):
    return len(ids), hashlib.sha256(array.array('I', ids).tobytes()).hexdigest()


# -----------------------------------------------------------------------------
# the examples in docstrings

MODULES = sorted(path.stem for path in (ROOT / 'tokenizer').glob('[a-z]*.py'))


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f'tokenizer.{name}')
    assert doctest.testmod(module).failed == 0


def test_everything_public_has_an_example():
    public = [getattr(tokenizer, name) for name in tokenizer.__all__]
    for cls in Tokenizer, BasicTokenizer, RegexTokenizer:
        public += [value for name, value in vars(cls).items() if not name.startswith('_')]
    for value in public:
        function = getattr(value, '__func__', getattr(value, 'fget', value))
        if inspect.isfunction(function) or inspect.isclass(function):
            assert '>>> ' in function.__doc__, value


# -----------------------------------------------------------------------------
# the algorithm


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize(
    'make', [lambda: Tokenizer(None), Tokenizer, BasicTokenizer, RegexTokenizer]
)
def test_wikipedia_example(make):
    tok = make().train('aaabdaaabac', 256 + 3)
    assert tok.encode('aaabdaaabac') == [258, 100, 258, 97, 99]
    assert tok.merges == {(97, 97): 256, (256, 97): 257, (257, 98): 258}


def test_naive_algorithm():
    assert bpe.get_stats([1, 2, 3, 1, 2]) == {(1, 2): 2, (2, 3): 1, (3, 1): 1}
    assert bpe.merge([1, 2, 3, 1, 2], (1, 2), 4) == [4, 3, 4]
    assert bpe.merge([1, 1, 1], (1, 1), 2) == [2, 1]
    assert bpe.train_naive([b'aaabdaaabac'], 2) == {(97, 97): 256, (256, 97): 257}
    assert bpe.encode_naive(b'aaab', {(97, 97): 256, (256, 97): 257}) == [257, 98]


def test_counting_chunks(both_ways):
    count = fast.count_chunks_fast if both_ways else splitting.count_chunks
    assert count(['a b b'], GPT2_PATTERN) == {'a': 1, ' b': 2}


def test_training_equals_the_naive_algorithm():
    rng = random.Random(0)
    for _ in range(800):
        letters = rng.choice(['ab', 'abc', 'abcdef'])  # few letters: ties abound
        chunks = [random_word(rng, letters, 30).encode() for _ in range(rng.randint(1, 12))]
        num_merges = rng.randint(1, 60)
        naive = bpe.train_naive(chunks, num_merges)
        learned = islice(training.learn_merges(Counter(chunks)), num_merges)
        assert [pair for pair, _ in learned] == list(naive), chunks


def test_training_tells_the_count_of_each_pair():
    rng = random.Random(30)
    for _ in range(200):
        ids = list(random_word(rng, 'ab', 40).encode())
        for new_id, (pair, count) in enumerate(training.learn_merges({bytes(ids): 1}), 256):
            counts = bpe.get_stats(ids)
            assert counts[pair] == count == max(counts.values())
            ids = bpe.merge(ids, pair, new_id)
        assert len(ids) < 2


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('pattern', [GPT4_PATTERN, GPT2_PATTERN, None, r'\w+'])
def test_training_and_encoding_equal_the_naive_ones_on_texts(pattern):
    rng = random.Random(1)
    split = splitting.splitter(pattern)
    words = ['aa', 'ab', 'ba', 'aab', "a'a", 'b1', '\n']
    for _ in range(60):
        text = ' '.join(rng.choices(words, k=20))
        probe = ' '.join(rng.choices(words, k=20))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tok = Tokenizer(pattern).train(text, 280)
        naive = bpe.train_naive([chunk.encode() for chunk in split(text)], 24)
        assert list(tok.merges.items()) == list(naive.items())
        assert tok.encode(probe) == encode_naive(probe, split, naive)
        assert len(set(tok.vocab.values())) == len(tok.vocab)  # never the same bytes twice


def encode_naive(text, split, merges):
    chunks = [bpe.encode_naive(chunk.encode(), merges) for chunk in split(text)]
    return list(chain.from_iterable(chunks))


def encode_by_rank(chunk, ranks):
    """The definition for any vocabulary: merge the lowest rank, the leftmost of equals, repeat."""
    parts = [chunk[i : i + 1] for i in range(len(chunk))]
    while True:
        found = []
        for i, (left, right) in enumerate(pairwise(parts)):
            if left + right in ranks:
                found.append((ranks[left + right], i))
        if not found:
            return [ranks[part] for part in parts]
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def encode_chunk_by_rank(chunk, ranks):
    """The same for a whole chunk, which is not merged if it is a token, as in tiktoken."""
    return [ranks[chunk]] if chunk in ranks else encode_by_rank(chunk, ranks)


SINGLE_BYTES = [bytes([i]) for i in range(256)]


def test_encoding_with_vocabularies_that_no_training_made():
    rng = random.Random(2)
    for _ in range(300):
        tokens = {bytes(rng.choices(b'abc', k=rng.randint(2, 5))) for _ in range(20)}
        ids = rng.sample(range(400), 256 + len(tokens))
        ranks = dict(zip(SINGLE_BYTES + sorted(tokens), ids, strict=True))
        chunk = bytes(rng.choices(b'abc', k=rng.randint(0, 40)))
        expected = encode_by_rank(chunk, ranks)
        assert encoding.merge_bytes(chunk, ranks) == expected
        assert encoding.encode_chunk(chunk, ranks) == encode_chunk_by_rank(chunk, ranks)
        below = rng.randrange(400)
        lower = {token: i for token, i in ranks.items() if len(token) == 1 or i < below}
        assert encoding.merge_bytes(chunk, ranks, below) == encode_by_rank(chunk, lower)


def odd_vocabulary(rng, sample, most=20):
    """Slices of a text as tokens: some out of reach of any merge, some with parts of characters."""
    tokens = set()
    for _ in range(rng.randint(0, most)):
        i = rng.randrange(len(sample))
        tokens.add(sample[i : i + rng.randint(2, 7)])
    tokens = SINGLE_BYTES + sorted(token for token in tokens if len(token) > 1)
    ids = range(len(tokens)) if rng.random() < 0.3 else rng.sample(range(400), len(tokens))
    return dict(zip(tokens, ids, strict=True))


def test_neighbours_vouch_for_a_whole_row_of_tokens():
    """What `FastEncoder._merge_long` rests on."""
    rng = random.Random(15)
    outcomes = Counter()
    for _ in range(3_000):
        ranks = odd_vocabulary(rng, bytes(rng.choices(b'ab', k=40)))
        tokens = [token for token in ranks if set(token) <= set(b'ab')]
        row = rng.choices(tokens, k=rng.randint(1, 5))
        pairs = list(pairwise(row)) or [(row[0], b'')]
        whole = encode_by_rank(b''.join(row), ranks) == [ranks[token] for token in row]
        parts = []
        for a, b in pairs:
            ids = [ranks[token] for token in (a, b) if token]
            parts.append(encode_by_rank(a + b, ranks) == ids)
        assert whole == all(parts), (row, ranks)
        outcomes[whole, len(row) > 2] += 1
    assert min(outcomes[True, True], outcomes[False, True]) > 100


@pytest.mark.slow
@pytest.mark.parametrize('memo_size', [3, 1 << 17])
def test_pieces_and_windows_change_nothing_whatever_the_vocabulary(memo_size, monkeypatch):
    """Characters of one to four bytes, tokens that end within them or hold two halves."""
    monkeypatch.setattr(fast, 'MEMO_SIZE', memo_size)
    rng = random.Random(16)
    cuts = 0
    rare = 'a\u0301é\ufffd\x80\u07ff\u0800\U0010ffff'
    for letters in 'ab', 'aé中😀', '中国囼', 'жд ж', '😀👍🏽\u200d', rare:
        for _ in range(250):
            sample = ''.join(rng.choices(letters, k=40))
            ranks = odd_vocabulary(rng, sample.encode())
            monkeypatch.setattr(fast, 'WINDOW', rng.choice([4, 8, 16, 512]))
            tok = Tokenizer(None, ranks=ranks)
            pattern = fast.piece_pattern(ranks)
            for probe in sample, *(random_word(rng, letters, 30) for _ in range(3)):
                ids = encode_chunk_by_rank(probe.encode(), ranks)
                assert tok.encode(probe) == ids, (probe, ranks)
                cuts += len(pattern.findall(probe)) > 1
    assert cuts > 1000


@pytest.mark.parametrize(
    'text',
    ['é中', '中中', '中é', '😀中', '中😀', 'éé', '😀😀', 'ࠀࠀ', '\x80\x80', '\U00040000\U0010ffff'],
)
def test_a_token_with_halves_of_two_characters_is_found_between_any_two(text):
    left, right = (char.encode() for char in text)
    halves = [(left[-1:], right[:1]), (left, right[:1]), (left[-1:], right), (left[1:], right[:-1])]
    for a, b in halves:
        prefixes = [(a + b)[:size] for size in range(2, len(a + b) + 1)]
        tokens = dict.fromkeys(SINGLE_BYTES + prefixes)
        ranks = {token: i for i, token in enumerate(tokens)}
        ids = encode_chunk_by_rank(text.encode(), ranks)
        assert Tokenizer(None, ranks=ranks).encode(text) == ids, (text, a, b)
        assert fast.piece_pattern(ranks).findall(text) == [text]


def test_long_chunks_are_put_together_from_windows(monkeypatch):
    sizes = []

    def merge_bytes(chunk, ranks):
        sizes.append(len(chunk))
        return encoding.merge_bytes(chunk, ranks)

    monkeypatch.setattr(fast, 'merge_bytes', merge_bytes)
    tok = Tokenizer().train('aaaa aaaa aaaaaaaa bb bb abab abba', 268)
    for long in 'a' * 100_000, 'ab' * 50_000:
        assert tok.decode(tok.encode(long)) == long
    # the same windows are not merged again and again
    assert 0 < len(sizes) < 30
    assert max(sizes) <= fast.WINDOW


@pytest.mark.parametrize('pattern', PUBLISHED_PATTERNS, ids=FIRST_PATTERNS)
def test_a_text_cut_at_seams_has_the_same_chunks(pattern):
    """Pages of one character and more, in texts with all kinds of space beside each other."""
    rng = random.Random(21)
    split = splitting.splitter(pattern)
    several = 0
    for _ in range(3_000):
        sample = random_word(rng, "   \t\n\r\xa0\u2028a1é中'/s\u0301😀", 30)
        parts = list(splitting.cut_at_seams(sample, rng.randint(1, 10)))
        assert ''.join(parts) == sample
        assert list(chain.from_iterable(map(split, parts))) == split(sample)
        several += len(parts) > 2
    assert several > 300


@pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
def test_fast_and_plain_encoding_are_equal(pattern, monkeypatch):
    """Words, chunks and pages, each looked up for the first time and again."""
    rng = random.Random(22)
    tok = Tokenizer(pattern).train([random_text(rng) for _ in range(300)], 500)
    for _ in range(1_000):
        sample = random_text(rng)
        monkeypatch.setattr(fast, 'PAGE', rng.choice([1, 5, 1000]))
        tok.fast = False
        plain = tok.encode(sample)
        tok.fast = True
        assert tok.encode(sample) == tok.encode(sample) == plain, ascii(sample)
        assert plain == encode_naive(sample, splitting.splitter(pattern), tok.merges)


def test_without_fast_nothing_of_it_is_used(monkeypatch):
    for name in 'FastEncoder', 'FastDecoder', 'count_chunks_fast':
        monkeypatch.setattr(f'tokenizer.core.{name}', None)
    monkeypatch.setattr(Tokenizer, 'fast', False)
    tok = Tokenizer().train('hug hugs hugging', 258)
    assert tok.decode(tok.encode('hugs')) == 'hugs'


def test_words_are_remembered_when_they_are_met_again():
    """Whatever is encoded in between: it depends on the page, not on the last call."""
    encoder = fast.FastEncoder(GPT4_PATTERN, Tokenizer().ranks)
    encoder.encode(' plain words!')
    assert set(encoder.chunks) == {' plain', ' words', '!'}
    assert not encoder.words
    encoder.encode(' something else')
    assert not encoder.words
    encoder.encode(' plain words!')
    assert set(encoder.words) == {' plain', ' words!'}
    encoder.encode(' new ones')
    assert set(encoder.words) == {' plain', ' words!'}


@pytest.mark.usefixtures('both_ways')
def test_ties_go_to_the_pair_seen_first_across_texts():
    # "xy" and "ab" both stand twice; a set or a heap of pairs would answer ab
    assert list(Tokenizer(None).train(['xy', 'ab', 'ab', 'xy'], 257).merges) == [(120, 121)]
    # the leftmost in the text as it is by then
    assert next(training.learn_merges({b'cde': 1, b'fab': 1}))[0] == (ord('c'), ord('d'))


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize(
    'text', ['a' * 200_000, ' ' * 200_000, 'ab' * 100_000, 'e' + '\u0301' * 20_000]
)
def test_long_chunks_are_neither_recursive_nor_quadratic(text):
    tok = Tokenizer().train('aaaa aaaa aaaaaaaa bb bb', 262)
    assert tok.decode(tok.encode(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize('unit', ['a', 'ab', ' ', 'a ', 'aab', '中', 'e\u0301', '\n', 'a\n', '.'])
def test_twice_the_text_takes_about_twice_the_time(unit, both_ways):
    def seconds(size):
        text = (unit * size)[:size]
        tok = Tokenizer(special_tokens={'<|end|>': 300})
        start = time.process_time()
        tok.train(['aa ab aab 中中 . ..'], 261).encode(text)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tok.train(text, 270)
        return time.process_time() - start

    # eight times the text: linear is 8, quadratic is 64
    assert seconds(160_000) < 24 * seconds(20_000) + 0.1


# -----------------------------------------------------------------------------
# splitting


@pytest.mark.parametrize('pattern', PUBLISHED_PATTERNS, ids=FIRST_PATTERNS)
def test_words_are_cut_only_where_the_pattern_cuts(pattern):
    rng = random.Random(3)
    split = splitting.splitter(pattern)
    for _ in range(8_000):
        sample = random_text(rng)
        words = fast.WORD.findall(sample)
        assert ''.join(words) == sample
        assert list(chain.from_iterable(map(split, words))) == split(sample), ascii(sample)


@pytest.mark.parametrize('pattern', PUBLISHED_PATTERNS, ids=FIRST_PATTERNS)
def test_ascii_is_cut_by_the_faster_engine_as_by_the_exact_one(pattern):
    rng = random.Random(13)
    quick = fast.ascii_pattern(pattern).findall
    exact = regex.compile(pattern).findall
    pieces = ["'LL", "don't", ' \n', '\r\n', '  ', '//', 'Ab', '123']
    for letters in "aA1 \n\r'/!s", [*map(chr, range(128)), *pieces]:
        for _ in range(10_000):
            sample = random_word(rng, letters, 14)
            assert quick(sample) == exact(sample), ascii(sample)


def test_fast_counting_keeps_the_order_of_chunks():
    rng = random.Random(14)  # the order decides ties, so it is part of the result
    for _ in range(300):
        samples = [random_text(rng, 30) for _ in range(3)]
        for pattern in PUBLISHED_PATTERNS:
            chunks = chain.from_iterable(map(regex.compile(pattern).findall, samples))
            plain = list(Counter(chunks).items())
            assert list(fast.count_chunks_fast(samples, pattern).items()) == plain
            assert list(splitting.count_chunks(samples, pattern).items()) == plain


@pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
def test_a_file_read_in_blocks_counts_as_the_whole(pattern, tmp_path, monkeypatch):
    rng = random.Random(4)
    for size in 1, 7, 50:
        monkeypatch.setattr(splitting, 'BLOCK', size)
        sample = ''.join(random_text(rng) for _ in range(100))
        (tmp_path / 'text').write_text(sample, encoding='utf-8', newline='')
        blocks = list(splitting.read_file(tmp_path / 'text', pattern))
        assert ''.join(blocks) == sample
        assert len(blocks) > 9 or pattern is None
        for count in fast.count_chunks_fast, splitting.count_chunks:
            whole = count([sample], pattern)
            assert list(count(blocks, pattern).items()) == list(whole.items())


def test_several_processes_count_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, 'BLOCK', 5_000)
    path = tmp_path / 'names'
    path.write_text('\n'.join(NAMES[:4000]))
    one = Tokenizer().train(path, 300)
    two = Tokenizer().train([path], 300, processes=2)
    assert one.to_dict() == two.to_dict() == Tokenizer().train(path.read_text(), 300).to_dict()


@pytest.mark.usefixtures('both_ways')
def test_merges_do_not_cross_texts():
    assert (ord('a'), ord('b')) not in Tokenizer(None).train(['xxa', 'bxx'], 258).merges
    with open(ROOT / 'names.txt') as lines:  # a file object is its lines
        assert Tokenizer(None).train(islice(lines, 3000), 300).vocab_size == 300


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('pattern', [r'\w+', r'(a)|(b)', r'x*', '[aeiou]', r'\b', r'(?=a)', '^'])
def test_no_pattern_loses_text(pattern):
    """`findall` returns groups instead of matches, and drops what the pattern does not cover."""
    rng = random.Random(5)
    tok = Tokenizer(pattern).train('ab, cd! ' * 9 + 'xxabba', 257)
    for sample in 'ab, cd!', '', *(random_text(rng) for _ in range(300)):
        assert tok.decode(tok.encode(sample)) == sample
        assert ''.join(splitting.splitter(pattern)(sample)) == sample


@pytest.mark.slow
@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('pattern', [r'(?:(?:a|a)+)+(?=!)', r'(?:a|aa)+$|(?:\w|\w\w)+#', r'(a+)+$'])
def test_a_pattern_that_backtracks_does_not_hang(pattern, monkeypatch, tmp_path):
    """Such a pattern, in a tokenizer from the net, took minutes for 29 letters and hours for 39."""
    monkeypatch.setattr(splitting, 'TIME_LIMIT', 0.2)
    (tmp_path / 'x.json').write_text(json.dumps(Tokenizer().to_dict() | {'pattern': pattern}))
    tok = Tokenizer.load(tmp_path / 'x.json')
    start = time.monotonic()
    for text in 'a' * 29, 'a' * 60 + 'b', 'a' * 2_000 + 'b':
        try:
            assert tok.decode(tok.encode(text)) == text
        except ValueError as error:
            assert repr(pattern) in str(error) and 'backtracking' in str(error)
    assert time.monotonic() - start < 5
    if '(?=!)' in pattern:
        with pytest.raises(ValueError, match='too long for a text of 29 characters'):
            tok.encode('a' * 29)


@pytest.mark.parametrize('count', ['{9999}', '{9999,}', '{,9999}', '{0,9999}'])
def test_nested_counts_are_refused(count):
    """A {0,9999} made the product of the counts 0, which let all of them pass."""
    with pytest.raises(ValueError, match='counted repeats'):
        splitting.compile_pattern(f'((a{count}){count}){count}')


# -----------------------------------------------------------------------------
# the Tokenizer


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('sample', ['', 'a', 'ab', 'é'])
def test_tiny_texts_train(sample):
    with pytest.warns(UserWarning, match='no pair is left'):
        tok = Tokenizer().train(sample, 300)
    assert tok.vocab_size == 256 + max(len(sample.encode()) - 1, 0)
    assert tok.decode(tok.encode(sample)) == sample


@pytest.mark.usefixtures('both_ways')
def test_running_out_of_pairs_is_said_with_the_size_reached():
    with pytest.warns(UserWarning, match='no pair is left at 258 tokens'):
        tok = Tokenizer(special_tokens={'<|end|>': 299}).train('ab', 300)
    assert tok.vocab_size == 300 and len(tok.vocab) == 258


@pytest.mark.parametrize(
    'size, special', [(255, {}), (0, {}), (256, {'<|end|>': 256}), (2**21, {})]
)
def test_impossible_sizes_are_refused(size, special):
    with pytest.raises(ValueError, match='vocab_size'):
        Tokenizer(special_tokens=special).train('text', size)


def test_special_tokens_may_be_any_mapping():
    assert Tokenizer(special_tokens=MappingProxyType({'<|end|>': 256})).vocab_size == 257


def test_special_tokens_must_stay_out_of_the_way_of_training():
    with pytest.raises(ValueError, match='must be 257 or more'):
        Tokenizer(special_tokens={'<|end|>': 256}).train('text text', 258)


@pytest.mark.usefixtures('both_ways')
def test_special_tokens():
    tok = Tokenizer(special_tokens={'<a>': 300, '<a>b': 301, 'two words|(.*)': 302})
    # the longest first, not the first registered
    assert tok.encode('x<a>b<a>', 'all') == [120, 301, 300]
    assert tok.encode('two words|(.*)', {'two words|(.*)'}) == [302]
    assert tok.encode('<a>', 'none') == list(b'<a>')
    assert tok.encode('x<a>', ['<a>']) == [120, 300]
    assert tok.decode([120, 301, 302]) == 'x<a>btwo words|(.*)' and tok.token_bytes(300) == b'<a>'
    for allowed in 'none_raise', {'<a>b'}, ():
        with pytest.raises(ValueError, match="special token '<a>'"):
            tok.encode('x<a>', allowed)
    with pytest.raises(ValueError, match='some'):
        tok.encode('x', 'some')
    assert tok.encode('plain') == list(b'plain')


@pytest.mark.usefixtures('both_ways')
def test_lone_surrogates_become_replacement_characters():
    tok = Tokenizer()
    assert tok.decode(tok.encode('a\ud800b')) == 'a\ufffdb'
    assert tok.decode(tok.encode('\ud83d\ude00')) == '😀'
    assert Tokenizer().train('a\ud800b a\ud800b', 258).vocab_size == 258


@pytest.mark.usefixtures('both_ways')
def test_decoding():
    tok = Tokenizer()
    assert tok.decode([128]) == '\ufffd' and tok.decode_bytes([128]) == b'\x80'
    assert tok.decode(iter([104, 105])) == 'hi' and tok.decode([]) == ''
    for wrong in -1, 256, 10**9, '1', None, 1.5:
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            tok.decode([97, wrong])
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            list(tok.decode_stream([97, wrong]))


@pytest.mark.usefixtures('both_ways')
def test_streaming_holds_back_halves_of_characters():
    tok = Tokenizer()
    assert list(tok.decode_stream('aé😀b'.encode())) == ['a', 'é', '😀', 'b']
    assert list(tok.decode_stream(i for i in 'é'.encode()[:1])) == ['\ufffd']
    rng = random.Random(6)
    for _ in range(1000):
        ids = [rng.choice([rng.randrange(256), *'é😀'.encode()]) for _ in range(9)]
        assert ''.join(tok.decode_stream(ids)) == tok.decode(ids)


def test_twenty_thousand_random_texts_come_back():
    rng = random.Random(7)
    corpus = ' '.join(random_text(rng) for _ in range(200))
    for pattern in *PATTERNS.values(), r'\w+':
        tok = Tokenizer(pattern).train(corpus, 400)
        for _ in range(4_000):
            sample = random_text(rng)
            assert tok.decode(tok.encode(sample)) == sample


@pytest.mark.parametrize('pattern', [None, GPT4_PATTERN], ids=['none', 'gpt4'])
def test_the_memos_are_bounded_and_change_nothing(pattern, monkeypatch):
    monkeypatch.setattr(fast, 'MEMO_SIZE', 10)
    encoder = fast.FastEncoder(pattern, Tokenizer().ranks)
    rng = random.Random(8)
    for _ in range(300):
        sample = random_text(rng, 40)
        assert encoder.encode(sample) == list(sample.encode())
        for memo in encoder.words, encoder.chunks, encoder.pieces:
            assert len(memo) <= 10
            assert all(len(key) <= fast.MEMO_KEY for key in memo)


@pytest.mark.usefixtures('both_ways')
def test_nothing_derived_is_stale():
    tok = Tokenizer()
    assert tok.encode('hello hello') and tok.merges == {}
    tok.train('hello hello', 260)
    assert len(tok.encode('hello hello')) < 11 and len(tok.merges) == 4
    tok.register_special_tokens({'<|end|>': 500})
    assert tok.vocab_size == 501 and tok.decode([500]) == '<|end|>'


# -----------------------------------------------------------------------------
# files


def random_tokenizer(rng):
    pattern = rng.choice([*PATTERNS.values(), r'\w+', ' x ', 'a\nb|\\s+', 'é+|\\p{L}', ''])
    special = {random_text(rng, 5) or '<|x|>': 400 + i for i in range(rng.randint(0, 4))}
    texts = [random_text(rng, 60) for _ in range(40)]
    return Tokenizer(pattern, special_tokens=special).train(texts, 290 + len(special))


@pytest.mark.usefixtures('both_ways')
def test_saved_and_loaded_is_equal(tmp_path):
    rng = random.Random(9)
    for _ in range(60):
        tok = random_tokenizer(rng)
        tok.save(tmp_path / 'tok.json')
        again = Tokenizer.load(tmp_path / 'tok.json')
        assert again.to_dict() == tok.to_dict() == Tokenizer.from_dict(tok.to_dict()).to_dict()
        assert again.merges == tok.merges
        assert again.vocab == tok.vocab
        assert again.vocab_size == tok.vocab_size
        for _ in range(5):
            sample = random_text(rng) + ''.join(tok.special_tokens)
            assert again.encode(sample, 'all') == tok.encode(sample, 'all')


def test_a_checkpoint_can_hold_it(tmp_path):
    torch = pytest.importorskip('torch')
    tok = Tokenizer(special_tokens={'<|end|>': 299}).train(NAMES[:500], 300)
    torch.save({'tokenizer': tok.to_dict()}, tmp_path / 'x.pt')
    checkpoint = torch.load(tmp_path / 'x.pt', weights_only=True)
    assert Tokenizer.from_dict(checkpoint['tokenizer']).ranks == tok.ranks


def test_subclasses_load_as_themselves(tmp_path):
    class Mine(Tokenizer):
        pass

    Tokenizer().save(tmp_path / 'x.json')
    assert type(Mine.load(tmp_path / 'x.json')) is Mine
    assert type(RegexTokenizer.from_dict(Tokenizer().to_dict())) is RegexTokenizer


GOOD = Tokenizer().to_dict()
BAD = [
    None,
    [],
    {},
    {'version': 'bpe 1'},
    GOOD | {'version': 2},
    GOOD | {'vocab': []},
    GOOD | {'vocab': {'a': 0}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': 97}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': '300'}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': True}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': -1}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': 10**12}},
    GOOD | {'vocab': GOOD['vocab'] | {'ab': [300]}},
    GOOD | {'vocab': GOOD['vocab'] | {'': 300}},
    GOOD | {'vocab': GOOD['vocab'] | {'中': 300}},
    GOOD | {'pattern': '('},
    GOOD | {'pattern': 5},
    GOOD | {'pattern': ['a']},
    GOOD | {'special_tokens': ['<|x|>']},
    GOOD | {'special_tokens': {'<|x|>': 97}},
    GOOD | {'special_tokens': {'': 300}},
    GOOD | {'vocab': {}},
    GOOD | {'special_tokens': {'<|x|>': None}},
    GOOD | {'special_tokens': {'\ud800': 300}},
]


@pytest.mark.parametrize('bad', BAD, ids=range(len(BAD)))
def test_bad_files_are_refused_with_a_reason(bad, tmp_path):
    with pytest.raises(ValueError, match=r'\w+ \w+'):
        Tokenizer.from_dict(bad)
    (tmp_path / 'bad.json').write_text(json.dumps(bad))
    with pytest.raises(ValueError, match=r'bad.json: .+'):
        Tokenizer.load(tmp_path / 'bad.json')


@pytest.mark.parametrize(
    'raw', [b'', b'\xff\xfe', b'{', b'[' * 100_000, b'minbpe v1\n\n0\n', b'\x80\x04\x95.']
)
def test_files_of_another_kind_are_refused(raw, tmp_path):
    for name in 'bad.json', 'bad.model', 'bad.tiktoken':
        (tmp_path / name).write_bytes(raw)
        if (name, raw[:6]) != ('bad.model', b'minbpe'):
            with pytest.raises(ValueError, match=r'\w+ \w+ \w+'):
                tokenizer.load(tmp_path / name)


def minbpe_corpus():
    lines = ' '.join(NAMES[:1500]) + '\n' + '\n'.join(NAMES[1500:2000])
    return lines + " it's 1999, we'll\t see... 안녕 😉 \x00\x1b\n"


# sha256 of the files that minbpe writes after 150 merges of the corpus, with two special tokens
MINBPE = {
    BasicTokenizer: (
        'c90596d94e052b00069af4212eae2c7a462413cb864175f759883ba500a7e0c3',
        '1486fbcfd6febaff39684178c88be7a09609830fc675612ef669654959d00a50',
    ),
    RegexTokenizer: (
        'a2f8bd6fc9f9876c0c11b181ec0dd54ff8cfe3f9608ccafedcf79d509a0f3016',
        '2bac708eab845a0068ae76f96952c39c8247671a521e4cd0b7679dba6408cc61',
    ),
}


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('kind', MINBPE)
def test_minbpe_writes_the_same_files(kind, tmp_path):
    # minbpe spells GPT-4's pattern a little differently, and writes it into the file
    spelled = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r'|\s*[\r\n]|\s+(?!\S)|\s+'
    )
    tok = kind(spelled) if kind is RegexTokenizer else kind()
    tok.train(minbpe_corpus(), 256 + 150)
    tok.register_special_tokens({'<|end|>': 1000, '<|b|>': 1001})
    tok.save(str(tmp_path / 'x'))
    written = [(tmp_path / f'x{suffix}').read_bytes() for suffix in ('.model', '.vocab')]
    assert tuple(hashlib.sha256(content).hexdigest() for content in written) == MINBPE[kind]
    again = kind()
    again.load(str(tmp_path / 'x.model'))
    assert again.to_dict() == tok.to_dict() == tokenizer.load(tmp_path / 'x.model').to_dict()
    assert again.encode('<|end|>anna', 'all') == tok.encode('<|end|>anna', 'all')
    # on the class, `load` returns a new object, as everywhere else
    assert kind.load(str(tmp_path / 'x.model')).to_dict() == tok.to_dict()
    assert kind().to_dict() == kind().to_dict() != tok.to_dict()


@pytest.mark.parametrize(
    'special, pattern', [({'a b': 400}, None), ({}, ' x'), ({}, 'a\nb'), ({'\n': 400}, None)]
)
def test_what_minbpes_files_cannot_hold_is_refused(special, pattern, tmp_path):
    with pytest.raises(ValueError, match='minbpe'):
        minbpe.write_model(Tokenizer(pattern, special_tokens=special), tmp_path / 'x')


@pytest.mark.parametrize(
    'lines',
    [
        '97 98\n98 99\n256 99\n97 257',
        '256 97',
        '97',
        '97 x',
        '-1 5',
        '97 97\n' + '\n'.join(f'{i} {i}' for i in range(256, 300)),
    ],
)
def test_broken_models_of_minbpe_are_refused(lines, tmp_path):
    (tmp_path / 'x.model').write_text('minbpe v1\n\n0\n' + lines + '\n')
    with pytest.raises(ValueError, match=r'x\.model'):
        tokenizer.load(tmp_path / 'x.model')


def test_a_file_with_the_short_name_of_a_vocabulary_is_that_vocabulary(tmp_path):
    """gpt2.tiktoken got the pattern of GPT-4 without a word."""
    published.write_tiktoken(Tokenizer(), tmp_path / 'gpt2.tiktoken')
    with pytest.raises(ValueError, match=r'256 tokens, but r50k_base has 50256'):
        tokenizer.load(tmp_path / 'gpt2.tiktoken')


def test_blank_lines_in_a_tiktoken_file_are_skipped(tmp_path):
    (tmp_path / 'x.tiktoken').write_bytes(b'IQ== 0\n\nIg== 1\n\n')
    assert published.read_tiktoken(tmp_path / 'x.tiktoken') == {b'!': 0, b'"': 1}


def test_tiktoken_ranks_there_and_back(tmp_path):
    tok = Tokenizer().train(NAMES[:500], 300)
    published.write_tiktoken(tok, tmp_path / 'x.tiktoken')
    assert tokenizer.load(tmp_path / 'x.tiktoken').to_dict() == tok.to_dict()


@pytest.mark.usefixtures('both_ways')
def test_tiktoken_encodes_with_our_vocabulary():
    tiktoken = pytest.importorskip('tiktoken')
    rng = random.Random(10)
    for pattern in GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, None:
        tok = Tokenizer(pattern).train([random_text(rng, 60) for _ in range(200)], 500)
        peer = tiktoken.Encoding(
            'x', pat_str=pattern or '(?s:.+)', mergeable_ranks=tok.ranks, special_tokens={}
        )
        for sample in (random_text(rng) for _ in range(2000)):
            assert tok.encode(sample) == peer.encode_ordinary(sample), ascii(sample)


@pytest.mark.usefixtures('both_ways')
def test_hugging_face_encodes_to_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip('tokenizers')
    rng = random.Random(11)
    for pattern in GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, None:
        texts = [random_text(rng, 60) for _ in range(200)]
        tok = Tokenizer(pattern, special_tokens={'<|end|>': 499}).train(texts, 500)
        formats.write_huggingface(tok, tmp_path / 'tokenizer.json')
        peer = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
        for _ in range(2000):
            sample = random_text(rng) + '<|end|>' * (rng.random() < 0.1)
            ids = tok.encode(sample, 'all')
            assert ids == peer.encode(sample).ids, ascii(sample)
            assert peer.decode(ids, skip_special_tokens=False) == sample


# -----------------------------------------------------------------------------
# published vocabularies: the figures of the lectures, and what tiktoken 0.14 returns, as digests,
# so that it need not be installed


@pytest.mark.usefixtures('both_ways')
def test_figures_of_the_lecture(get_published):
    gpt2 = get_published('gpt2')
    gpt4 = get_published('gpt4')
    korean = [320, 31495, 230, 75265, 243, 92245, 16715, 57037]
    assert gpt4.encode('hello123!!!? (안녕하세요!) 😉') == [15339, 4513, 12340, 30, *korean]
    assert gpt4.encode('<|endoftext|>hello world', 'all') == [100257, 15339, 1917]
    assert gpt2.encode('Tokenization') == [30642, 1634]
    assert [gpt2.encode(word) for word in (' is', ' at', ' the')] == [[318], [379], [262]]
    assert gpt2.encode(' SolidGoldMagikarp') == [43453]
    assert gpt2.encode('127 + 677 = 804') == [16799, 1343, 718, 3324, 796, 807, 3023]
    assert gpt2.encode('1275 + 6773 = 8041') == [1065, 2425, 1343, 718, 46871, 796, 807, 50049]
    with pytest.raises(ValueError, match='endoftext'):
        gpt4.encode('<|endoftext|>')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['r50k_base', 'cl100k_base', 'o200k_base'])
def test_published_vocabularies_are_whole(name, get_published, tmp_path):
    tok = get_published(name)
    assert len(tok.merges) == len(tok.ranks) - 256  # every token is made of two lower ones
    if name == 'r50k_base':
        tok.save(tmp_path / 'x.json')
        assert Tokenizer.load(tmp_path / 'x.json').to_dict() == tok.to_dict()


TIKTOKEN = """
english cl100k_base 893589 3a4137c308ad088e5328a2f8628c3f318957d162d598b18fef4f8c09e02d005b
code cl100k_base 724438 27c557ca3b37dc3072ab5e3f7157ba928311eca5e744776330d934797f466166
multi cl100k_base 1267156 a9e6831cd6f203766d5cf2812a7048824ae97dbbcbeffc06200b3c64ff1e0b96
emoji cl100k_base 325564 a85abc0602ed964f2fd2afdebb8763597a07142efaa181259b6dd353b01d982b
fuzz cl100k_base 436289 3a834e51a563163087c10ca25b58cd50b366239469f5bee80a1d78071e335728
tinyshakespeare cl100k_base 301829 41f9d89de962497ce58fa3d370d3f2562de704f6bef72e035d3a211a3a396b9f
names cl100k_base 109784 a92eb65b1c3707728a286d48679ab15cd97044c7a64a6368971a2617933b8c76
english o200k_base 873305 5ca48d96445af6ad14725e08ff12b7573a2b587c729c218649adfa9cce0bcd7a
code o200k_base 743640 bdda4d86a133092237fb579ac39e75e129f730bf98bc5fea3fb1fe0786e2066e
multi o200k_base 1092785 7f73877b2eda3da3bcec56c6fd02d1939a782715f95a2b2e223a26cca7cd240d
emoji o200k_base 251374 d7f497db82b4a2ecf557ed5295207b76a6b49302f9553ffb7be3ddf935f97ab9
fuzz o200k_base 399062 0b181bf5d59cfd3e0c6cef5b0ab6d231eecc5be39726d04d1e57b34304445f45
tinyshakespeare o200k_base 297606 5f27fd8a77c3acbc33cef2fafdef7ade3475d910dee9919b341a120014799d4a
names o200k_base 104970 efd4d6401e4d7d84e7c8e37e2c24c105f50d1558b216c1ed41e7b7bff11d2bb3
english r50k_base 1204465 9900e6e3edcb120ee29c13e5520e9a162ee97023221202662eee01bd100f87b4
code r50k_base 1481636 6cbe0279f60120ad11517c154e92ad3453c2eb4d379b7d06f5630cf0b0e6b5cf
multi r50k_base 1813527 7420658b7c690d6d8d1af6bfe9354e673472084104912c1e5793dbc765a3049b
emoji r50k_base 399023 96b4221563eac05b57c241809b80f0e87713e39560fb17adb183fea1c6d01888
fuzz r50k_base 483279 e853f58e77bff2568b79f98090b33df39cc5602a79f9a19d4904df7790b35c45
tinyshakespeare r50k_base 338025 0c00ab83dc7f46665805762aa7688fb7852f03f28c4a5d84061871e85ea7c815
names r50k_base 112408 8ccf9dde752e8667d89ab0cfdc40a6ec005778e90d73cc6eda97338af460fba4
"""  # file, vocabulary, number of ids, their digest
TIKTOKEN = TIKTOKEN.split('\n')[1:-1]
LARGE = ('english', 'code', 'multi')  # three megabytes each


@pytest.mark.slow
@pytest.mark.parametrize(
    'line',
    [pytest.param(x, marks=pytest.mark.slow) if x.startswith(LARGE) else x for x in TIKTOKEN],
    ids=lambda line: line[:28],
)
def test_equal_to_tiktoken_id_by_id(line, get_published):
    check_digest(line, get_published)


@pytest.mark.slow
@pytest.mark.parametrize(
    'line', [x for x in TIKTOKEN if not x.startswith(LARGE)], ids=lambda line: line[:28]
)
def test_equal_to_tiktoken_without_fast(line, get_published, monkeypatch):
    monkeypatch.setattr(Tokenizer, 'fast', False)
    check_digest(line, get_published)


def check_digest(line, get_published):
    file, name, size, digest = line.split()
    path = data(f'{file}.txt' if file in ('names', 'tinyshakespeare') else f'text/{file}.txt')
    with open(path, encoding='utf-8', newline='') as stream:
        sample = stream.read()
    ids = get_published(name).encode(sample, 'none')
    assert ids_digest(ids) == (int(size), digest)
    assert get_published(name).decode(ids) == sample


RANDOM = {
    'cl100k_base': (68804, '2f935e51070a759bbd49bdd487587b9323b859695f125e3cf08e8b1b96896244'),
    'o200k_base': (62241, 'cdaa8337a800e309251256bb138df1a384e7ad1742d67d4bbb957cb54d90e676'),
    'r50k_base': (75499, '73cca0058c62ef2cdb86ef98daa0deaf5eb382d3027f20f92a4bc0c10f082f76'),
}


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('name', RANDOM)
def test_equal_to_tiktoken_on_random_unicode(name, get_published):
    rng = random.Random(12)
    tok = get_published(name)
    samples = [random_text(rng, 20) for _ in range(5_000)]
    ids = list(chain.from_iterable(tok.encode(sample) for sample in samples))
    assert ids_digest(ids) == RANDOM[name]


@pytest.mark.usefixtures('both_ways')
@pytest.mark.parametrize('name', RANDOM)
def test_equal_to_the_installed_tiktoken(name, get_published):
    tiktoken = pytest.importorskip('tiktoken')
    tok = get_published(name)
    rng = random.Random()
    peer = tiktoken.Encoding(
        name, pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens
    )
    for _ in range(5_000):
        sample = random_text(rng) + rng.choice(['', '\ud83d', '<|endoftext|>'])
        ids = peer.encode(sample, allowed_special='all')
        assert tok.encode(sample, 'all') == ids, ascii(sample)


@pytest.mark.slow
def test_minbpes_names_for_gpt4(get_published, tmp_path, monkeypatch):
    # NAME.tiktoken is found in a cache, too
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(data('tiktoken')))
    tok = GPT4Tokenizer()
    assert tok.encode('hello world') == [15339, 1917] and tok.decode([100257]) == '<|endoftext|>'
    tok.save_vocab(tmp_path / 'gpt4.vocab')
    assert '[h][ello] -> [hello] 15339\n' in (tmp_path / 'gpt4.vocab').read_text(encoding='utf-8')
    with pytest.raises(ValueError, match='bytes in order'):
        tok.save(str(tmp_path / 'gpt4'))


def test_pretrained_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path))
    monkeypatch.setitem(sys.modules, 'tiktoken', None)  # as if it were not installed
    with pytest.raises(FileNotFoundError, match=r'cl100k_base\.tiktoken'):
        pretrained('gpt4')
    with pytest.raises(ValueError, match='gpt5'):
        pretrained('gpt5')
    (tmp_path / 'r50k_base.tiktoken').write_bytes(b'IQ== 0\n')
    with pytest.raises(ValueError, match='50256'):  # a download that was cut off
        pretrained('gpt2')
    with pytest.raises(FileNotFoundError):
        pretrained('gpt2', tmp_path / 'nowhere.tiktoken')


# -----------------------------------------------------------------------------
# writing files


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    """Writing in place left the first bytes of the new file, and nothing of the old one."""
    path = tmp_path / 'x.json'
    Tokenizer().save(path)
    before = path.read_bytes()
    for command in (
        ['-m', 'tokenizer', 'train', 'names.txt', '--lines', '-o', str(path)],
        ['-c', f'import tokenizer; tokenizer.Tokenizer(None).save({str(path)!r})'],
    ):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit_file_size,
        )
        assert result.returncode != 0
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]  # and no temporary file
        if command[0] == '-m':
            assert result.stderr.startswith('tokenizer: ')
            assert result.stderr.count('\n') == 1


def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: calls.append('fsync') or fsync(file))
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append('replace') or replace(*args))
    tok = Tokenizer(None)
    tok.save(tmp_path / 'x.json')
    assert calls == ['fsync', 'replace']
    published.write_tiktoken(tok, tmp_path / 'x.tiktoken')
    formats.write_huggingface(tok, tmp_path / 'tokenizer.json')
    minbpe.write_model(tok, tmp_path / 'x')
    assert calls == ['fsync', 'replace'] * 5


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = tmp_path / 'x'
    path.write_bytes(b'old')
    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_file(path, b'new')
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_links_devices_and_modes_survive(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    path.chmod(0o640)
    (tmp_path / 'link').symlink_to(path)
    files.write_file(tmp_path / 'link', b'new')
    assert (tmp_path / 'link').is_symlink()
    assert path.read_bytes() == b'new'
    assert path.stat().st_mode & 0o777 == 0o640
    files.write_file('/dev/null', b'new')
    assert not Path('/dev/null').is_file()
    result = shell('train names.txt --lines -n 257 -o /dev/stdout | head -c 20')
    assert result.stdout == b'{\n"version": "bpe 1",'[:20]


def test_the_cache_is_where_tiktoken_has_it(tmp_path, monkeypatch):
    """tiktoken obeys two variables, and TIKTOKEN_CACHE_DIR goes first."""
    for folder in 'old', 'new':
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'r50k_base.tiktoken').touch()
    monkeypatch.delenv('TIKTOKEN_CACHE_DIR', raising=False)
    monkeypatch.setenv('DATA_GYM_CACHE_DIR', str(tmp_path / 'old'))
    assert published.find_published('gpt2').parent.name == 'old'
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path / 'new'))
    assert published.find_published('gpt2').parent.name == 'new'


def test_a_vocabulary_from_the_package_is_blamed_by_its_name(tmp_path, monkeypatch):
    """The message began with "None:"."""
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path))
    encoding_of_package = SimpleNamespace(_mergeable_ranks={b'a': 0})
    package = SimpleNamespace(get_encoding=lambda name: encoding_of_package)
    monkeypatch.setitem(sys.modules, 'tiktoken', package)
    with pytest.raises(ValueError, match=r'^tiktoken: 1 tokens'):
        pretrained('gpt2')


# -----------------------------------------------------------------------------
# the commands


class Standard(io.TextIOWrapper):
    def __init__(self, raw=b'', tty=False):
        super().__init__(io.BytesIO(raw), encoding='utf-8', newline='', write_through=True)
        self.isatty = lambda: tty


@pytest.fixture
def run(monkeypatch):
    """run("encode", file, stdin="text") -> exit code, stdout as bytes."""

    def run(*args, stdin='', tty=False):
        out = Standard(tty=tty)
        monkeypatch.setattr(sys, 'stdin', Standard(stdin.encode()))
        monkeypatch.setattr(sys, 'stdout', out)
        return main([str(arg) for arg in args]), out.buffer.getvalue()

    return run


@pytest.fixture
def tok_file(tmp_path):
    Tokenizer(special_tokens={'<|end|>': 299}).train(NAMES[:300], 300).save(tmp_path / 'tok.json')
    return tmp_path / 'tok.json'


@pytest.mark.usefixtures('both_ways')
def test_train_encode_decode(run, tmp_path, capsys):
    path = tmp_path / 'names.json'
    options = ['-n', 300, '--special-token', '<|end|>', '-o', path, '--processes', 1]
    assert run('train', ROOT / 'names.txt', '--lines', *options) == (0, b'')
    assert 'names.json: 300 tokens' in capsys.readouterr().err
    tok = Tokenizer.load(path)
    assert tok.special_tokens == {'<|end|>': 299}
    assert not [token for token in tok.ranks if b'\n' in token[1:]]
    for sample in 'emma\r\nolivia é\n', '', '<|end|>':
        code, ids = run('encode', '-t', path, stdin=sample)
        assert code == 0
        assert list(map(int, ids.split())) == tok.encode(sample, 'none')
        assert run('decode', '-t', path, stdin=ids.decode()) == (0, sample.encode())
    assert run('encode', '-t', path, '--special', 'all', stdin='<|end|>') == (0, b'299\n')


def test_lines_end_at_line_ends_only(run, tmp_path):
    """splitlines() also cut at a form feed, at \\x85 and at U+2028."""
    (tmp_path / 'x.txt').write_text('a\fb\x85c\u2028d\re\r\nf\n' * 9, encoding='utf-8', newline='')
    options = ['-n', 265, '--pattern', 'none', '-o', tmp_path / 'x.json']
    assert run('train', tmp_path / 'x.txt', '--lines', *options)[0] == 0
    tokens = Tokenizer.load(tmp_path / 'x.json').ranks
    assert 'a\fb\x85c\u2028d'.encode() in tokens
    assert not [token for token in tokens if len(token) > 1 and set(token) & set(b'\r\n')]


def test_a_vocabulary_too_small_for_special_tokens_is_named(run, tmp_path, capsys):
    """The message was "two tokens have the same id"."""
    (tmp_path / 'x.txt').write_text('text')
    options = ['--special-token', 'X', '-o', tmp_path / 'x.json']
    assert run('train', tmp_path / 'x.txt', '-n', 100, *options)[0] == 2
    assert '--vocab-size 100' in capsys.readouterr().err


def test_an_unknown_number_of_cores_is_one(monkeypatch):
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    assert parse(['train', 'x']).processes == 1


def test_files_before_between_and_after_the_options(run, tmp_path):
    for name in 'abc':
        (tmp_path / name).write_text(f'{name}{name} ' * 9)
    out = tmp_path / 'x.json'
    a, b, c = (tmp_path / name for name in 'abc')
    assert run('train', a, '-n', 258, b, '--processes', 1, '-o', out, c)[0] == 0
    assert Tokenizer.load(out).vocab[257] in (b' aa', b'bb', b' bb', b'cc')
    assert run('encode', a, '-t', out, b) == run('encode', '-t', out, a, b)


def test_escape_sequences_never_reach_the_terminal(run, tok_file, monkeypatch):
    monkeypatch.delenv('NO_COLOR', raising=False)
    evil = '\x1b]0;title\x07 \x9b31m \u202e é\n'
    Tokenizer().train([evil] * 9, 265).save(tok_file)
    ids = ' '.join(map(str, Tokenizer.load(tok_file).encode(evil)))
    for command, stdin in ('show', evil), ('decode', ids), ('merges', ''):
        code, out = run(command, '-t', tok_file, stdin=stdin, tty=True)
        plain = re.sub(r'\x1b\[30;4\dm|\x1b\[0m', '', out.decode())  # our own colours aside
        assert code == 0
        assert plain
        assert not [c for c in plain if not c.isprintable() and c != '\n']
    # into a file go the exact bytes
    assert run('decode', '-t', tok_file, stdin=ids) == (0, evil.encode())


def test_show(run, tok_file, monkeypatch):
    monkeypatch.delenv('NO_COLOR', raising=False)
    Tokenizer().save(tok_file)
    assert run('show', '-t', tok_file, stdin='aé\n') == (0, rb'[a][\xc3][\xa9][\n]' + b'\n\n')
    assert run('show', '-t', tok_file, '--ids', stdin='ab') == (0, b'[a 97][b 98]\n')
    assert b'\x1b[30;41ma\x1b[0m' in run('show', '-t', tok_file, stdin='a', tty=True)[1]
    monkeypatch.setenv('NO_COLOR', '1')
    assert b'\x1b' not in run('show', '-t', tok_file, stdin='a', tty=True)[1]
    assert visible(b'\xe2\x9c') == r'\xe2\x9c'
    assert visible('✓'.encode()) == '✓'


def test_merges_and_compare(run, tok_file, monkeypatch, tmp_path):
    monkeypatch.setenv('TIKTOKEN_CACHE_DIR', str(tmp_path))  # no published vocabulary there
    Tokenizer(None).train('aaabdaaabac', 259).save(tok_file)
    lines = b'256 [a] [a] -> [aa]\n257 [aa] [a] -> [aaa]\n258 [aaa] [b] -> [aaab]\n'
    assert run('merges', '-t', tok_file) == (0, lines)
    code, out = run('compare', '-', '-t', tok_file, stdin='aaab' * 5)
    assert code == 0
    assert out.decode().splitlines()[1].split()[1:] == ['259', '5', '4.000']


MISTAKES = [
    ('encode -t nowhere.json', ''),
    ('encode -t .', ''),
    ('decode -t tok.json', '12 x'),
    ('decode -t tok.json', '99999'),
    ('train names.txt -n 12', ''),
    ('train names.txt --pattern (', ''),
    ('train nowhere.txt', ''),
    ('train binary', ''),
    ('train names.txt -n 257 -o nowhere/x.json', ''),
    ('encode -t tok.json --special none_raise', '<|end|>'),
    ('encode -t tok.json binary', ''),
    ('compare - -t gpt5', 'x'),
]


@pytest.fixture
def some_files(tok_file, monkeypatch):
    monkeypatch.chdir(tok_file.parent)
    Path('names.txt').write_text('anna\n' * 300)
    Path('binary').write_bytes(b'\xff')


@pytest.mark.usefixtures('some_files')
@pytest.mark.parametrize('command, stdin', MISTAKES)
def test_mistakes_take_one_line_and_exit_code_2(command, stdin, run, capsys):
    code, out = run(*command.split(), stdin=stdin)
    err = capsys.readouterr().err
    assert code == 2
    assert out.count(b'\n') < 2
    assert err.count('\n') == 1
    assert err.startswith('tokenizer: ')
    assert 'Errno' not in err


SLIPS = [
    ('', '--help'),
    ('encode', '-t TOKENIZER'),
    ('encode -t x -t y', '-t TOKENIZER'),
    ('trian names.txt', 'try train\n'),
    ('train names.txt --vocab-sise 300', 'try --vocab-size\n'),
    ('train x --vocab 300', '--vocab-size\n'),
    ('train names.txt --vocab-size many', 'many'),
    ('show -t x --special nome', 'try none\n'),
    ('encode -t x --idz', '--help'),
]


@pytest.mark.parametrize('command, hint', SLIPS)
def test_a_slip_is_one_line_that_knows_the_way(command, hint, capsys):
    """argparse prints six lines of usage, and knows no nearest word."""
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith('tokenizer: ')
    assert err.count('\n') == 1
    assert hint in err
    assert 'Errno' not in err


def test_any_script_goes_into_any_pipe(tok_file):
    """Windows' pipes and the C locale are not UTF-8: the first letter beyond ASCII was an error."""
    Tokenizer(None).train('ΩμέγαΩμέγα', 260).save(tok_file)
    for command in 'show', 'merges':
        result = subprocess.run(
            [sys.executable, '-m', 'tokenizer', command, '-t', str(tok_file)],
            input='Ωμέγα'.encode(),
            cwd=ROOT,
            capture_output=True,
            check=True,
            env=os.environ | {'PYTHONIOENCODING': 'ascii'},
        )
        assert result.stderr == b''
        assert 'Ω' in result.stdout.decode()


def printed(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_each_command_has_its_own_help(capsys):
    out = printed(['--help'], capsys)
    assert 'python -m tokenizer train names.txt' in out
    for command in 'train', 'encode', 'decode', 'show', 'merges', 'compare':
        assert f'\n    {command} ' in out
        assert f'usage: python -m tokenizer {command} ' in printed([command, '--help'], capsys)
    train = printed(['train', '--help'], capsys)
    assert '(default: 512)' in train
    assert '--ids' not in train
    assert '--ids' in printed(['show', '--help'], capsys)
    assert printed(['--version'], capsys).startswith('tokenizer 1.')


def shell(command):
    return subprocess.run(
        f'{sys.executable} -m tokenizer {command}',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )


def test_interrupts_and_closed_pipes_are_no_tracebacks(tok_file, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    result = shell(f'show -t {tok_file} names.txt | head -c 1')
    assert (result.stdout, result.stderr) == (b'[', b'')
    monkeypatch.setattr('tokenizer.__main__.load', stop)
    assert main(['merges', '-t', str(tok_file)]) == 130


@pytest.mark.parametrize('command', ['encode', 'decode', 'show', 'merges', 'compare'])
def test_closed_standard_output_is_one_line(command, tok_file):
    result = shell(f'{command} -t {tok_file} </dev/null >&-')
    assert result.returncode == 2
    assert result.stderr == b'tokenizer: standard output is closed\n'


@pytest.mark.slow
def test_closed_standard_input_is_one_line(tok_file, tmp_path):
    for command in 'encode', 'decode', 'show', 'compare':
        result = shell(f'{command} -t {tok_file} <&-')
        assert result.returncode == 2
        assert result.stderr == b'tokenizer: standard input is closed: name a file to read\n'
        assert shell(f'merges -t {tok_file} <&-').returncode == 0
    # training needs neither
    out = tmp_path / 'x.json'
    result = shell(f'train names.txt --lines -n 257 -o {out} <&- >&- 2>&-')
    assert (result.returncode, result.stdout, result.stderr) == (0, b'', b'')
    assert Tokenizer.load(out).vocab_size == 257
    # and with a closed stderr, no message strays into the output
    result = shell('train nowhere.txt 2>&-')
    assert (result.returncode, result.stdout) == (2, b'')
