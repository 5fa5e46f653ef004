"""The tokenizer against its own naive version, against digests of what tiktoken and minbpe give, and against itself."""
import array
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
import warnings
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import pytest

import tokenizer
from tokenizer import BasicTokenizer, GPT4Tokenizer, RegexTokenizer, Tokenizer, bpe, formats, pretrained, text
from tokenizer.__main__ import main, visible
from tokenizer.text import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, PATTERNS, WORDS

ROOT = Path(__file__).resolve().parents[1]
NAMES = (ROOT / "names.txt").read_text().split("\n")


def data(path):
    """A file of the data folder; without the folder the test is skipped, without the file it fails."""
    if "MAKEMORE_DATA" not in os.environ:
        pytest.skip("MAKEMORE_DATA does not name the folder with test data")
    return Path(os.environ["MAKEMORE_DATA"], path)


@pytest.fixture(scope="module")
def published():
    made = {}

    def get(name):
        if name not in made:
            made[name] = pretrained(name, data("tiktoken"))
        return made[name]
    return get


# Everything that a chunk's border may depend on, and characters that have been in Unicode for long: the three engines
# (ours, tiktoken's, Hugging Face's) know different versions, and what is a letter changes for newly assigned ones.
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000  \n\n"
PIECES = ["a", "B", "é", "ж", "中", "\u0301", "ǅ", "ʰ", "1", "٣", "²", "'", "'s", "'LL", "'ſ", "!", "/", "//", "-", "_",
          "😀", "\u200d", ".", "\ue000", "\U000e0001", "don't", "words", "2024", "\x1b[31m"]
OLD = [chr(c) for c in range(0x20000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs")]


def random_text(rng, most=14):
    kinds = rng.choices(("space", "piece", "any"), (45, 45, 10), k=rng.randint(0, most))
    return "".join(rng.choice({"space": SPACES, "piece": PIECES, "any": OLD}[kind]) for kind in kinds)


def ids_digest(ids):
    return len(ids), hashlib.sha256(b"".join(i.to_bytes(4, "little") for i in ids)).hexdigest()

# --------------------------------------------------------------------------------------------------------------------
# the algorithm


def test_wikipedia_example():
    for tok in Tokenizer(None), Tokenizer(), BasicTokenizer(), RegexTokenizer():
        assert tok.train("aaabdaaabac", 256 + 3).encode("aaabdaaabac") == [258, 100, 258, 97, 99]
        assert tok.merges == {(97, 97): 256, (256, 97): 257, (257, 98): 258}


def test_examples_in_docstrings():
    assert bpe.get_stats([1, 2, 3, 1, 2]) == {(1, 2): 2, (2, 3): 1, (3, 1): 1}
    assert bpe.merge([1, 2, 3, 1, 2], (1, 2), 4) == [4, 3, 4]
    assert bpe.merge([1, 1, 1], (1, 1), 2) == [2, 1]
    assert bpe.train_naive([b"aaabdaaabac"], 2) == {(97, 97): 256, (256, 97): 257}
    assert bpe.encode_naive(b"aaab", {(97, 97): 256, (256, 97): 257}) == [257, 98]
    assert list(bpe.learn({b"aab": 2})) == [((97, 97), 2), ((256, 98), 2)]
    assert text.count_chunks(["a b b"], GPT2_PATTERN) == {"a": 1, " b": 2}


def test_training_equals_the_naive_algorithm():
    rng = random.Random(0)
    for _ in range(800):                           # few letters: ties abound
        letters = rng.choice(["ab", "abc", "abcdef"])
        chunks = ["".join(rng.choices(letters, k=rng.randint(0, 30))).encode() for _ in range(rng.randint(1, 12))]
        merges = rng.randint(1, 60)
        naive = bpe.train_naive(chunks, merges)
        fast = {pair: i for (pair, _), i in zip(islice(bpe.learn(Counter(chunks)), merges), range(256, 999))}
        assert list(fast.items()) == list(naive.items()), chunks


@pytest.mark.parametrize("pattern", [GPT4_PATTERN, GPT2_PATTERN, None, r"\w+"])
def test_training_and_encoding_equal_the_naive_ones_on_texts(pattern):
    rng = random.Random(1)
    split = text.splitter(pattern)
    for _ in range(60):
        train, probe = (" ".join(rng.choices(["aa", "ab", "ba", "aab", "a'a", "b1", "\n"], k=20)) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tok = Tokenizer(pattern).train(train, 280)
        naive = bpe.train_naive([chunk.encode() for chunk in split(train)], 24)
        assert tok.merges == naive and list(tok.merges) == list(naive)
        assert tok.encode(probe) == [i for chunk in split(probe) for i in bpe.encode_naive(chunk.encode(), naive)]
        assert len(set(tok.vocab.values())) == len(tok.vocab)            # never the same bytes twice


def encode_by_rank(chunk, ranks):
    """Merge the lowest rank, the leftmost of equals, one at a time: the definition, for any vocabulary."""
    parts = [chunk[i:i + 1] for i in range(len(chunk))]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
        if not found:
            return [ranks[part] for part in parts]
        i = min(found)[1]
        parts[i:i + 2] = [parts[i] + parts[i + 1]]


def test_encoding_with_vocabularies_that_no_training_made():
    rng = random.Random(2)
    for _ in range(300):
        tokens = {bytes(rng.choices(b"abc", k=rng.randint(2, 5))) for _ in range(20)}
        ids = rng.sample(range(400), 256 + len(tokens))
        ranks = dict(zip([bytes([i]) for i in range(256)] + sorted(tokens), ids))
        chunk = bytes(rng.choices(b"abc", k=rng.randint(0, 40)))
        ids = encode_by_rank(chunk, ranks)
        assert bpe.bpe(chunk, ranks) == ids
        merge = bpe.merger(ranks)              # by list, and by heap
        assert [array.array("I", merge(part)).tolist() for part in (chunk, chunk * 9)] == [ids, bpe.bpe(chunk * 9, ranks)]


def odd_vocabulary(rng, sample, most=20):
    """Slices of a text as tokens, some of which no merge reaches and some with halves of characters, in any order."""
    tokens = set()
    for _ in range(rng.randint(0, most)):
        i = rng.randrange(len(sample))
        tokens.add(sample[i:i + rng.randint(2, 7)])
    tokens = [bytes([i]) for i in range(256)] + sorted(token for token in tokens if len(token) > 1)
    ids = range(len(tokens)) if rng.random() < 0.3 else rng.sample(range(400), len(tokens))
    return dict(zip(tokens, ids))


def test_neighbours_vouch_for_a_whole_row_of_tokens():
    rng, outcomes = random.Random(15), Counter()
    for _ in range(3_000):
        ranks = odd_vocabulary(rng, bytes(rng.choices(b"ab", k=40)))
        row = rng.choices([token for token in ranks if set(token) <= set(b"ab")], k=rng.randint(1, 5))
        pairs = list(zip(row, row[1:])) or [(row[0], b"")]
        whole = encode_by_rank(b"".join(row), ranks) == [ranks[token] for token in row]
        parts = [encode_by_rank(a + b, ranks) == [ranks[token] for token in (a, b) if token] for a, b in pairs]
        assert whole == all(parts), (row, ranks)
        outcomes[whole, len(row) > 2] += 1
    assert min(outcomes[True, True], outcomes[False, True]) > 100


@pytest.mark.parametrize("memo", [3, 1 << 17])
def test_borders_and_windows_change_nothing_whatever_the_vocabulary(memo, monkeypatch):
    """Characters of one to four bytes, tokens that end within them or hold two halves, ranks in any order."""
    monkeypatch.setattr(bpe, "MEMO", memo)
    rng, cuts = random.Random(16), 0
    for letters in "ab", "aé中😀", "中国囼", "жд ж", "😀👍🏽\u200d", "a\u0301é\ufffd\x80\u07ff\u0800\U0010ffff":
        for k in range(250):
            sample = "".join(rng.choices(letters, k=40))
            ranks = odd_vocabulary(rng, sample.encode())
            monkeypatch.setattr(bpe, "WINDOW", rng.choice([4, 8, 16, 512]))
            tok = Tokenizer(None, ranks=ranks)
            for probe in sample, *("".join(rng.choices(letters, k=rng.randint(0, 30))) for _ in range(3)):
                whole = ranks.get(probe.encode())      # a chunk that is a token is never merged, as in tiktoken
                ids = encode_by_rank(probe.encode(), ranks) if whole is None else [whole]
                assert tok.encode(probe) == ids, (probe, ranks)
                cuts += len(bpe.borders(ranks)(probe)) > 1
    assert cuts > 1000


def test_a_token_with_halves_of_two_characters_is_found_between_any_two():
    for text in "é中", "中中", "中é", "😀中", "中😀", "éé", "😀😀", "ࠀࠀ", "\x80\x80", "\U00040000\U0010ffff":
        left, right = (char.encode() for char in text)
        for a, b in (left[-1:], right[:1]), (left, right[:1]), (left[-1:], right), (left[1:], right[:-1]):
            ranks = {bytes([i]): i for i in range(256)}
            ranks |= {token: i for i, token in enumerate(dict.fromkeys(
                (a + b)[:k] for k in range(2, len(a + b) + 1)), 256)}
            whole = ranks.get(text.encode())
            ids = encode_by_rank(text.encode(), ranks) if whole is None else [whole]
            assert Tokenizer(None, ranks=ranks).encode(text) == ids, (text, a, b)
            assert bpe.borders(ranks)(text) == [text]


def test_long_chunks_are_put_together_from_windows(monkeypatch):
    asked = []
    monkeypatch.setattr(bpe, "bpe", lambda chunk, *args, plain=bpe.bpe: asked.append(len(chunk)) or plain(chunk, *args))
    tok = Tokenizer().train("aaaa aaaa aaaaaaaa bb bb abab abba", 268)
    for long in "a" * 100_000, "ab" * 50_000:
        assert tok.decode(tok.encode(long)) == long
    assert 0 < len(asked) < 30 and max(asked) <= bpe.WINDOW        # the same windows are not merged again and again


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS.values() if pattern])
def test_a_text_cut_into_pages_has_the_same_words_and_chunks(pattern, monkeypatch):
    """Pages of one character and more, in texts with all kinds of space beside each other."""
    rng, pages, split = random.Random(21), 0, text.splitter(pattern)
    for _ in range(3_000):
        sample = "".join(rng.choices("   \t\n\r\xa0\u2028a1é中'/s\u0301😀", k=rng.randint(0, 30)))
        monkeypatch.setattr(text, "PAGE", rng.randint(1, 10))
        cut = list(text.pages(sample, pattern))
        for way in WORDS[pattern].findall, split:
            assert [word for page in cut for word in way(page)] == way(sample)
        pages += len(cut) > 2
    assert pages > 300


@pytest.mark.parametrize("pattern", PATTERNS.values())
def test_words_and_chunks_are_looked_up_to_the_same_end(pattern):
    rng = random.Random(22)
    tok, split = Tokenizer(pattern).train([random_text(rng) for _ in range(300)], 500), text.splitter(pattern)
    for _ in range(1_000):
        sample = random_text(rng)
        for tok._calm in False, True:
            assert tok.encode(sample) == [i for chunk in split(sample)
                                          for i in bpe.encode_naive(chunk.encode(), tok.merges)]


def test_words_are_looked_up_as_soon_as_little_is_new():
    tok, calm = Tokenizer(GPT4_PATTERN), []
    for sample in ["".join(f" {i}" for i in range(1000)), " and" * 1000, " and" * 1000, " x", " new words, all of them"]:
        tok.encode(sample)
        calm.append(tok._calm)
    assert calm == [False, True, True, False, False]


def test_ties_go_to_the_pair_seen_first_across_texts():
    # "xy" and "ab" both stand twice; a set or a heap of pairs would answer ab
    assert list(Tokenizer(None).train(["xy", "ab", "ab", "xy"], 257).merges) == [(120, 121)]
    # the leftmost in the text as it is by then: de stands before ab in the chunk where both first appear
    assert list(bpe.learn({b"cde": 1, b"fab": 1}))[0][0] == (ord("c"), ord("d"))


def test_long_chunks_are_neither_recursive_nor_quadratic():
    tok = Tokenizer().train("aaaa aaaa aaaaaaaa bb bb", 262)
    for long in "a" * 200_000, " " * 200_000, "e" + "\u0301" * 20_000, "ab" * 100_000:
        assert tok.decode(tok.encode(long)) == long

# --------------------------------------------------------------------------------------------------------------------
# splitting


@pytest.mark.parametrize("pattern", WORDS, ids=["gpt2", "gpt4", "o200k"])
def test_words_are_cut_only_where_the_pattern_cuts(pattern):
    rng = random.Random(3)
    split = text.splitter(pattern)
    for _ in range(8_000):
        sample = random_text(rng)
        words = WORDS[pattern].findall(sample)
        assert "".join(words) == sample
        assert [chunk for word in words for chunk in split(word)] == split(sample), ascii(sample)


@pytest.mark.parametrize("pattern", WORDS, ids=["gpt2", "gpt4", "o200k"])
def test_ascii_is_cut_by_the_faster_engine_as_by_the_exact_one(pattern):
    rng, quick, exact = random.Random(13), text.ascii_only(pattern).findall, text.regex.compile(pattern).findall
    for letters in "aA1 \n\r'/!s", [*map(chr, range(128)), "'LL", "don't", " \n", "\r\n", "  ", "//", "Ab", "123"]:
        for _ in range(10_000):
            sample = "".join(rng.choices(letters, k=rng.randint(0, 14)))
            assert quick(sample) == exact(sample), ascii(sample)


def test_counting_words_first_keeps_the_order_of_chunks():
    rng = random.Random(14)                        # the order decides ties, so it is part of the result
    for _ in range(300):
        samples = [random_text(rng, 30) for _ in range(3)]
        for pattern in WORDS:
            plain = Counter(chain.from_iterable(map(text.regex.compile(pattern).findall, samples)))
            assert list(text.count_chunks(samples, pattern).items()) == list(plain.items())


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_file_read_in_blocks_counts_as_the_whole(pattern, tmp_path, monkeypatch):
    rng = random.Random(4)
    for size in 1, 7, 50:
        monkeypatch.setattr(text, "BLOCK", size)
        sample = "".join(random_text(rng) for _ in range(100))
        (tmp_path / "text").write_text(sample, encoding="utf-8", newline="")
        blocks = list(text.blocks(tmp_path / "text", pattern))
        assert "".join(blocks) == sample and (len(blocks) > 9 or pattern is None)
        assert list(text.count_chunks(blocks, pattern).items()) == list(text.count_chunks([sample], pattern).items())


def test_several_processes_count_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 5_000)
    path = tmp_path / "names"
    path.write_text("\n".join(NAMES[:4000]))
    one, two = Tokenizer().train(path, 300), Tokenizer().train([path], 300, processes=2)
    assert one.to_dict() == two.to_dict() == Tokenizer().train(path.read_text(), 300).to_dict()


def test_merges_do_not_cross_texts():
    assert (ord("a"), ord("b")) not in Tokenizer(None).train(["xxa", "bxx"], 258).merges
    assert Tokenizer(None).train(open(ROOT / "names.txt"), 300).vocab_size == 300          # a file is its lines


@pytest.mark.parametrize("pattern", [r"\w+", r"(a)|(b)", r"x*", "[aeiou]", r"\b", r"(?=a)", "^"])
def test_no_pattern_loses_text(pattern):
    # findall gives groups instead of matches, and a pattern that does not cover the text used to drop the rest
    rng = random.Random(5)
    tok = Tokenizer(pattern).train("ab, cd! " * 9 + "xxabba", 257)
    for sample in "ab, cd!", "", *(random_text(rng) for _ in range(300)):
        assert tok.decode(tok.encode(sample)) == sample
        assert "".join(text.splitter(pattern)(sample)) == sample

# --------------------------------------------------------------------------------------------------------------------
# the Tokenizer


@pytest.mark.parametrize("sample", ["", "a", "ab", "é"])
def test_tiny_texts_train(sample):
    with pytest.warns(UserWarning, match="no pair is left"):
        tok = Tokenizer().train(sample, 300)
    assert tok.vocab_size == 256 + max(len(sample.encode()) - 1, 0)
    assert tok.decode(tok.encode(sample)) == sample


def test_running_out_of_pairs_is_said_with_the_size_reached():
    with pytest.warns(UserWarning, match="no pair is left at 258 tokens"):
        tok = Tokenizer(special_tokens={"<|end|>": 299}).train("ab", 300)
    assert tok.vocab_size == 300 and len(tok.vocab) == 258


@pytest.mark.parametrize("size, special", [(255, {}), (0, {}), (256, {"<|end|>": 256}), (2 ** 21, {})])
def test_impossible_sizes_are_refused(size, special):
    with pytest.raises(ValueError, match="vocab_size"):
        Tokenizer(special_tokens=special).train("text", size)


def test_special_tokens_must_stay_out_of_the_way_of_training():
    with pytest.raises(ValueError, match="must be 257 or more"):
        Tokenizer(special_tokens={"<|end|>": 256}).train("text text", 258)


def test_special_tokens():
    tok = Tokenizer(special_tokens={"<a>": 300, "<a>b": 301, "two words|(.*)": 302})
    assert tok.encode("x<a>b<a>", "all") == [120, 301, 300]              # the longest first, not the first registered
    assert tok.encode("two words|(.*)", {"two words|(.*)"}) == [302]
    assert tok.encode("<a>", "none") == list(b"<a>")
    assert tok.encode("x<a>", ["<a>"]) == [120, 300]
    assert tok.decode([120, 301, 302]) == "x<a>btwo words|(.*)" and tok.token_bytes(300) == b"<a>"
    for allowed in "none_raise", {"<a>b"}, ():
        with pytest.raises(ValueError, match="special token '<a>'"):
            tok.encode("x<a>", allowed)
    with pytest.raises(ValueError, match="some"):
        tok.encode("x", "some")
    assert tok.encode("plain") == list(b"plain")


def test_lone_surrogates_become_replacement_characters():
    tok = Tokenizer()
    assert tok.decode(tok.encode("a\ud800b")) == "a\ufffdb"
    assert tok.decode(tok.encode("\ud83d\ude00")) == "😀"
    assert Tokenizer().train("a\ud800b a\ud800b", 258).vocab_size == 258


def test_decoding():
    tok = Tokenizer()
    assert tok.decode([128]) == "\ufffd" and tok.decode_bytes([128]) == b"\x80"
    assert tok.decode(iter([104, 105])) == "hi" and tok.decode([]) == ""
    for wrong in -1, 256, 10 ** 9, "1", None, 1.5:
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            tok.decode([97, wrong])
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            list(tok.decode_stream([97, wrong]))


def test_streaming_holds_back_halves_of_characters():
    tok = Tokenizer()
    assert list(tok.decode_stream("aé😀b".encode())) == ["a", "é", "😀", "b"]
    assert list(tok.decode_stream(i for i in "é".encode()[:1])) == ["\ufffd"]
    rng = random.Random(6)
    for _ in range(1000):
        ids = [rng.choice([rng.randrange(256), *"é😀".encode()]) for _ in range(9)]
        assert "".join(tok.decode_stream(ids)) == tok.decode(ids)


def test_twenty_thousand_random_texts_come_back():
    rng = random.Random(7)
    corpus = " ".join(random_text(rng) for _ in range(200))
    for pattern in *PATTERNS.values(), r"\w+":
        tok = Tokenizer(pattern).train(corpus, 400)
        for _ in range(4_000):
            sample = random_text(rng)
            assert tok.decode(tok.encode(sample)) == sample


def test_the_memo_is_bounded_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(bpe, "MEMO", 10)
    tok, rng = Tokenizer(None), random.Random(8)
    for _ in range(100):
        sample = random_text(rng, 40)
        assert tok.encode(sample) == list(sample.encode())
        assert len(tok._chunks) <= 10 and all(len(key) <= bpe.MEMO_KEY for key in tok._chunks)


def test_nothing_derived_is_stale():
    tok = Tokenizer()
    assert tok.encode("hello hello") and tok.merges == {}
    tok.train("hello hello", 260)
    assert len(tok.encode("hello hello")) < 11 and len(tok.merges) == 4
    tok.register_special_tokens({"<|end|>": 500})
    assert tok.vocab_size == 501 and tok.decode([500]) == "<|end|>"

# --------------------------------------------------------------------------------------------------------------------
# files


def random_tokenizer(rng):
    pattern = rng.choice([*PATTERNS.values(), r"\w+", " x ", "a\nb|\\s+", "é+|\\p{L}", ""])
    special = {random_text(rng, 5) or "<|x|>": 400 + i for i in range(rng.randint(0, 4))}
    return Tokenizer(pattern, special).train([random_text(rng, 60) for _ in range(40)], 290 + len(special))


def test_saved_and_loaded_is_equal(tmp_path):
    rng = random.Random(9)
    for k in range(60):
        tok = random_tokenizer(rng)
        tok.save(tmp_path / "tok.json")
        again = Tokenizer.load(tmp_path / "tok.json")
        assert again.to_dict() == tok.to_dict() == Tokenizer.from_dict(tok.to_dict()).to_dict()
        assert (again.merges, again.vocab, again.vocab_size) == (tok.merges, tok.vocab, tok.vocab_size)
        for _ in range(5):
            sample = random_text(rng) + "".join(tok.special_tokens)
            assert again.encode(sample, "all") == tok.encode(sample, "all")


def test_a_checkpoint_can_hold_it(tmp_path):
    torch = pytest.importorskip("torch")
    tok = Tokenizer(special_tokens={"<|end|>": 299}).train(NAMES[:500], 300)
    torch.save({"tokenizer": tok.to_dict()}, tmp_path / "x.pt")
    assert Tokenizer.from_dict(torch.load(tmp_path / "x.pt", weights_only=True)["tokenizer"]).ranks == tok.ranks


GOOD = Tokenizer().to_dict()
BAD = [None, [], {}, {"version": "bpe 1"}, GOOD | {"version": 2}, GOOD | {"vocab": []}, GOOD | {"vocab": {"a": 0}},
       GOOD | {"vocab": GOOD["vocab"] | {"ab": 97}}, GOOD | {"vocab": GOOD["vocab"] | {"ab": "300"}},
       GOOD | {"vocab": GOOD["vocab"] | {"ab": True}}, GOOD | {"vocab": GOOD["vocab"] | {"ab": -1}},
       GOOD | {"vocab": GOOD["vocab"] | {"ab": 10 ** 12}}, GOOD | {"vocab": GOOD["vocab"] | {"ab": [300]}},
       GOOD | {"vocab": GOOD["vocab"] | {"": 300}}, GOOD | {"vocab": GOOD["vocab"] | {"中": 300}},
       GOOD | {"pattern": "("}, GOOD | {"pattern": 5}, GOOD | {"pattern": ["a"]}, GOOD | {"special_tokens": ["<|x|>"]},
       GOOD | {"special_tokens": {"<|x|>": 97}}, GOOD | {"special_tokens": {"": 300}}, GOOD | {"vocab": {}},
       GOOD | {"special_tokens": {"<|x|>": None}}, GOOD | {"special_tokens": {"\ud800": 300}}]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_bad_files_are_refused_with_a_reason(bad, tmp_path):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        Tokenizer.from_dict(bad)
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    with pytest.raises(ValueError, match="bad.json: .+"):
        Tokenizer.load(tmp_path / "bad.json")


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"minbpe v1\n\n0\n", b"\x80\x04\x95."])
def test_files_of_another_kind_are_refused(raw, tmp_path):
    for name in "bad.json", "bad.model", "bad.tiktoken":
        (tmp_path / name).write_bytes(raw)
        if (name, raw[:6]) != ("bad.model", b"minbpe"):
            with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
                tokenizer.load(tmp_path / name)


def minbpe_corpus():
    lines = " ".join(NAMES[:1500]) + "\n" + "\n".join(NAMES[1500:2000])
    return lines + " it's 1999, we'll\t see... 안녕 😉 \x00\x1b\n"


MINBPE = {      # sha256 of the files that minbpe writes after 150 merges of the corpus above, with two special tokens
    BasicTokenizer: ("c90596d94e052b00069af4212eae2c7a462413cb864175f759883ba500a7e0c3",
                     "1486fbcfd6febaff39684178c88be7a09609830fc675612ef669654959d00a50"),
    RegexTokenizer: ("a2f8bd6fc9f9876c0c11b181ec0dd54ff8cfe3f9608ccafedcf79d509a0f3016",
                     "2bac708eab845a0068ae76f96952c39c8247671a521e4cd0b7679dba6408cc61")}


@pytest.mark.parametrize("kind", MINBPE)
def test_minbpe_writes_the_same_files(kind, tmp_path):
    # minbpe spells GPT-4's pattern a little differently, and writes it into the file
    spelled = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
               r"|\s*[\r\n]|\s+(?!\S)|\s+")
    tok = kind(spelled) if kind is RegexTokenizer else kind()
    tok.train(minbpe_corpus(), 256 + 150)
    tok.register_special_tokens({"<|end|>": 1000, "<|b|>": 1001})
    tok.save(str(tmp_path / "x"))
    made = [hashlib.sha256((tmp_path / f"x{kind}").read_bytes()).hexdigest() for kind in (".model", ".vocab")]
    assert tuple(made) == MINBPE[kind]
    again = kind()
    again.load(str(tmp_path / "x.model"))
    assert again.to_dict() == tok.to_dict() == tokenizer.load(tmp_path / "x.model").to_dict()
    assert again.encode("<|end|>anna", "all") == tok.encode("<|end|>anna", "all")


@pytest.mark.parametrize("special, pattern", [({"a b": 400}, None), ({}, " x"), ({}, "a\nb"), ({"\n": 400}, None)])
def test_what_minbpes_files_cannot_hold_is_refused(special, pattern, tmp_path):
    with pytest.raises(ValueError, match="minbpe"):
        formats.write_model(Tokenizer(pattern, special), tmp_path / "x")


@pytest.mark.parametrize("lines", ["97 98\n98 99\n256 99\n97 257", "256 97", "97", "97 x", "-1 5", "97 97\n" + "\n".join(
    f"{i} {i}" for i in range(256, 300))])
def test_broken_models_of_minbpe_are_refused(lines, tmp_path):
    (tmp_path / "x.model").write_text("minbpe v1\n\n0\n" + lines + "\n")
    with pytest.raises(ValueError, match="x.model"):
        tokenizer.load(tmp_path / "x.model")


def test_tiktoken_ranks_there_and_back(tmp_path):
    tok = Tokenizer().train(NAMES[:500], 300)
    formats.write_ranks(tok, tmp_path / "x.tiktoken")
    assert tokenizer.load(tmp_path / "x.tiktoken").to_dict() == tok.to_dict()


def test_tiktoken_encodes_with_our_vocabulary():
    tiktoken = pytest.importorskip("tiktoken")
    rng = random.Random(10)
    for pattern in GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, None:
        tok = Tokenizer(pattern).train([random_text(rng, 60) for _ in range(200)], 500)
        peer = tiktoken.Encoding("x", pat_str=pattern or "(?s:.+)", mergeable_ranks=tok.ranks, special_tokens={})
        for sample in (random_text(rng) for _ in range(2000)):
            assert tok.encode(sample) == peer.encode_ordinary(sample), ascii(sample)


def test_hugging_face_encodes_to_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(11)
    for pattern in GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, None:
        tok = Tokenizer(pattern, {"<|end|>": 499}).train([random_text(rng, 60) for _ in range(200)], 500)
        formats.write_huggingface(tok, tmp_path / "tokenizer.json")
        peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for sample in (random_text(rng) + "<|end|>" * (rng.random() < 0.1) for _ in range(2000)):
            ids = tok.encode(sample, "all")
            assert ids == peer.encode(sample).ids, ascii(sample)
            assert peer.decode(ids, skip_special_tokens=False) == sample

# --------------------------------------------------------------------------------------------------------------------
# published vocabularies: the lectures' figures, and what tiktoken 0.14 gives, as digests, so that it need not be there


def test_figures_of_the_lecture(published):
    gpt2, gpt4 = published("gpt2"), published("gpt4")
    assert gpt4.encode("hello123!!!? (안녕하세요!) 😉") == [15339, 4513, 12340, 30, 320, 31495, 230, 75265, 243, 92245,
                                                     16715, 57037]
    assert gpt4.encode("<|endoftext|>hello world", "all") == [100257, 15339, 1917]
    assert gpt2.encode("Tokenization") == [30642, 1634]
    assert [gpt2.encode(word) for word in (" is", " at", " the")] == [[318], [379], [262]]
    assert gpt2.encode(" SolidGoldMagikarp") == [43453]
    assert gpt2.encode("127 + 677 = 804") == [16799, 1343, 718, 3324, 796, 807, 3023]
    assert gpt2.encode("1275 + 6773 = 8041") == [1065, 2425, 1343, 718, 46871, 796, 807, 50049]
    with pytest.raises(ValueError, match="endoftext"):
        gpt4.encode("<|endoftext|>")


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base", "o200k_base"])
def test_published_vocabularies_are_whole(name, published, tmp_path):
    tok = published(name)
    assert len(tok.merges) == len(tok.ranks) - 256                       # every token is made of two lower ones
    if name == "r50k_base":
        tok.save(tmp_path / "x.json")
        assert Tokenizer.load(tmp_path / "x.json").to_dict() == tok.to_dict()


TIKTOKEN = {
    ("text/english.txt", "cl100k_base"): (893589, "3a4137c308ad088e5328a2f8628c3f318957d162d598b18fef4f8c09e02d005b"),
    ("text/code.txt", "cl100k_base"): (724438, "27c557ca3b37dc3072ab5e3f7157ba928311eca5e744776330d934797f466166"),
    ("text/multi.txt", "cl100k_base"): (1267156, "a9e6831cd6f203766d5cf2812a7048824ae97dbbcbeffc06200b3c64ff1e0b96"),
    ("text/emoji.txt", "cl100k_base"): (325564, "a85abc0602ed964f2fd2afdebb8763597a07142efaa181259b6dd353b01d982b"),
    ("text/fuzz.txt", "cl100k_base"): (436289, "3a834e51a563163087c10ca25b58cd50b366239469f5bee80a1d78071e335728"),
    ("tinyshakespeare.txt", "cl100k_base"): (301829, "41f9d89de962497ce58fa3d370d3f2562de704f6bef72e035d3a211a3a396b9f"),
    ("names.txt", "cl100k_base"): (109784, "a92eb65b1c3707728a286d48679ab15cd97044c7a64a6368971a2617933b8c76"),
    ("text/english.txt", "o200k_base"): (873305, "5ca48d96445af6ad14725e08ff12b7573a2b587c729c218649adfa9cce0bcd7a"),
    ("text/code.txt", "o200k_base"): (743640, "bdda4d86a133092237fb579ac39e75e129f730bf98bc5fea3fb1fe0786e2066e"),
    ("text/multi.txt", "o200k_base"): (1092785, "7f73877b2eda3da3bcec56c6fd02d1939a782715f95a2b2e223a26cca7cd240d"),
    ("text/emoji.txt", "o200k_base"): (251374, "d7f497db82b4a2ecf557ed5295207b76a6b49302f9553ffb7be3ddf935f97ab9"),
    ("text/fuzz.txt", "o200k_base"): (399062, "0b181bf5d59cfd3e0c6cef5b0ab6d231eecc5be39726d04d1e57b34304445f45"),
    ("tinyshakespeare.txt", "o200k_base"): (297606, "5f27fd8a77c3acbc33cef2fafdef7ade3475d910dee9919b341a120014799d4a"),
    ("names.txt", "o200k_base"): (104970, "efd4d6401e4d7d84e7c8e37e2c24c105f50d1558b216c1ed41e7b7bff11d2bb3"),
    ("text/english.txt", "r50k_base"): (1204465, "9900e6e3edcb120ee29c13e5520e9a162ee97023221202662eee01bd100f87b4"),
    ("text/code.txt", "r50k_base"): (1481636, "6cbe0279f60120ad11517c154e92ad3453c2eb4d379b7d06f5630cf0b0e6b5cf"),
    ("text/multi.txt", "r50k_base"): (1813527, "7420658b7c690d6d8d1af6bfe9354e673472084104912c1e5793dbc765a3049b"),
    ("text/emoji.txt", "r50k_base"): (399023, "96b4221563eac05b57c241809b80f0e87713e39560fb17adb183fea1c6d01888"),
    ("text/fuzz.txt", "r50k_base"): (483279, "e853f58e77bff2568b79f98090b33df39cc5602a79f9a19d4904df7790b35c45"),
    ("tinyshakespeare.txt", "r50k_base"): (338025, "0c00ab83dc7f46665805762aa7688fb7852f03f28c4a5d84061871e85ea7c815"),
    ("names.txt", "r50k_base"): (112408, "8ccf9dde752e8667d89ab0cfdc40a6ec005778e90d73cc6eda97338af460fba4")}


@pytest.mark.parametrize("file, name", TIKTOKEN)
def test_equal_to_tiktoken_id_by_id(file, name, published):
    with open(data(file), encoding="utf-8", newline="") as stream:
        sample = stream.read()
    ids = published(name).encode(sample, "none")
    assert (len(ids), hashlib.sha256(array.array("I", ids).tobytes()).hexdigest()) == TIKTOKEN[file, name]
    assert published(name).decode(ids) == sample


RANDOM = {
    "cl100k_base": (68804, "2f935e51070a759bbd49bdd487587b9323b859695f125e3cf08e8b1b96896244"),
    "o200k_base": (62241, "cdaa8337a800e309251256bb138df1a384e7ad1742d67d4bbb957cb54d90e676"),
    "r50k_base": (75499, "73cca0058c62ef2cdb86ef98daa0deaf5eb382d3027f20f92a4bc0c10f082f76")}


@pytest.mark.parametrize("name", RANDOM)
def test_equal_to_tiktoken_on_random_unicode(name, published):
    rng, tok = random.Random(12), published(name)
    samples = [random_text(rng, 20) for _ in range(5_000)]
    ids = list(chain.from_iterable(tok.encode(sample) for sample in samples))
    assert ids_digest(ids) == RANDOM[name]


@pytest.mark.parametrize("name", RANDOM)
def test_equal_to_the_installed_tiktoken(name, published):
    tiktoken = pytest.importorskip("tiktoken")
    tok, rng = published(name), random.Random()
    peer = tiktoken.Encoding(name, pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens)
    for sample in (random_text(rng) + rng.choice(["", "\ud83d", "<|endoftext|>"]) for _ in range(5_000)):
        assert tok.encode(sample, "all") == peer.encode(sample, allowed_special="all"), ascii(sample)


def test_minbpes_names_for_gpt4(published, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(data("tiktoken")))      # NAME.tiktoken is found in a cache, too
    tok = GPT4Tokenizer()
    assert tok.encode("hello world") == [15339, 1917] and tok.decode([100257]) == "<|endoftext|>"
    tok.save_vocab(tmp_path / "gpt4.vocab")
    assert "[h][ello] -> [hello] 15339\n" in (tmp_path / "gpt4.vocab").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="bytes in order"):
        tok.save(str(tmp_path / "gpt4"))


def test_pretrained_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tiktoken", None)                   # as if it were not installed
    with pytest.raises(FileNotFoundError, match="cl100k_base.tiktoken"):
        pretrained("gpt4")
    with pytest.raises(ValueError, match="gpt5"):
        pretrained("gpt5")
    (tmp_path / "r50k_base.tiktoken").write_bytes(b"IQ== 0\n")
    with pytest.raises(ValueError, match="50256"):                       # a download that was cut off
        pretrained("gpt2")
    with pytest.raises(FileNotFoundError):
        pretrained("gpt2", tmp_path / "nowhere.tiktoken")

# --------------------------------------------------------------------------------------------------------------------
# the commands


class Standard(io.TextIOWrapper):
    def __init__(self, raw=b"", tty=False):
        super().__init__(io.BytesIO(raw), encoding="utf-8", newline="", write_through=True)
        self.isatty = lambda: tty


@pytest.fixture
def run(monkeypatch):
    """run("encode", file, stdin="text") -> exit code, stdout as bytes."""
    def run(*args, stdin="", tty=False):
        out = Standard(tty=tty)
        monkeypatch.setattr(sys, "stdin", Standard(stdin.encode()))
        monkeypatch.setattr(sys, "stdout", out)
        return main([str(arg) for arg in args]), out.buffer.getvalue()
    return run


@pytest.fixture
def tok_file(tmp_path):
    Tokenizer(special_tokens={"<|end|>": 299}).train(NAMES[:300], 300).save(tmp_path / "tok.json")
    return tmp_path / "tok.json"


def test_train_encode_decode(run, tmp_path, capsys):
    path = tmp_path / "names.json"
    assert run("train", ROOT / "names.txt", "--lines", "-n", 300, "--special-token", "<|end|>", "-o", path,
               "--processes", 1) == (0, b"")
    assert "names.json: 300 tokens" in capsys.readouterr().err
    tok = Tokenizer.load(path)
    assert tok.special_tokens == {"<|end|>": 299} and not [token for token in tok.ranks if b"\n" in token[1:]]
    for sample in "emma\r\nolivia é\n", "", "<|end|>":
        code, ids = run("encode", "-t", path, stdin=sample)
        assert code == 0 and list(map(int, ids.split())) == tok.encode(sample, "none")
        assert run("decode", "-t", path, stdin=ids.decode()) == (0, sample.encode())
    assert run("encode", "-t", path, "--special", "all", stdin="<|end|>") == (0, b"299\n")


def test_escape_sequences_never_reach_the_terminal(run, tok_file, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    evil = "\x1b]0;title\x07 \x9b31m \u202e é\n"
    Tokenizer().train([evil] * 9, 265).save(tok_file)
    ids = " ".join(map(str, Tokenizer.load(tok_file).encode(evil)))
    for args, stdin in (("show", "-t", tok_file), evil), (("decode", "-t", tok_file), ids), (("merges", "-t", tok_file), ""):
        code, out = run(*args, stdin=stdin, tty=True)
        plain = re.sub(r"\x1b\[30;4\dm|\x1b\[0m", "", out.decode())      # our own colours aside
        assert code == 0 and out and not [c for c in plain if not c.isprintable() and c != "\n"]
    assert run("decode", "-t", tok_file, stdin=ids) == (0, evil.encode())      # into a file go the exact bytes


def test_show(run, tok_file, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    Tokenizer().save(tok_file)
    assert run("show", "-t", tok_file, stdin="aé\n") == (0, rb"[a][\xc3][\xa9][\n]" + b"\n\n")
    assert run("show", "-t", tok_file, "--ids", stdin="ab") == (0, b"[a 97][b 98]\n")
    assert b"\x1b[30;41ma\x1b[0m" in run("show", "-t", tok_file, stdin="a", tty=True)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert b"\x1b" not in run("show", "-t", tok_file, stdin="a", tty=True)[1]
    assert visible(b"\xe2\x9c") == r"\xe2\x9c" and visible("✓".encode()) == "✓"


def test_merges_and_compare(run, tok_file, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))              # no published vocabulary there
    Tokenizer(None).train("aaabdaaabac", 259).save(tok_file)
    assert run("merges", "-t", tok_file) == (0, b"256 [a] [a] -> [aa]\n257 [aa] [a] -> [aaa]\n258 [aaa] [b] -> [aaab]\n")
    code, out = run("compare", "-", "-t", tok_file, stdin="aaab" * 5)
    assert code == 0 and out.decode().splitlines()[1].split()[1:] == ["259", "5", "4.000"]


@pytest.mark.parametrize("args, stdin", [
    (["encode", "-t", "nowhere.json"], ""), (["encode", "-t", "."], ""), (["decode", "-t", "TOK"], "12 x"), (["decode", "-t", "TOK"], "99999"),
    (["train", "names.txt", "-n", "12"], ""), (["train", "names.txt", "--pattern", "("], ""),
    (["train", "nowhere.txt"], ""), (["encode", "-t", "TOK", "--special", "none_raise"], "<|end|>"),
    (["encode", "-t", "TOK", "binary"], ""), (["compare", "-", "-t", "gpt5"], "x")])
def test_mistakes_take_one_line_and_exit_code_2(args, stdin, run, tok_file, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("anna\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    code, out = run(*[tok_file if arg == "TOK" else arg for arg in args], stdin=stdin)
    err = capsys.readouterr().err
    assert (code, out.count(b"\n") < 2, err.count("\n"), err[:11]) == (2, True, 1, "tokenizer: ") and "Errno" not in err


@pytest.mark.parametrize("args, hint", [
    ([], "--help"), (["encode"], "-t TOKENIZER"), (["trian", "names.txt"], "try train\n"),
    (["train", "names.txt", "--vocab-sise", "300"], "try --vocab-size\n"), (["train", "x", "--vocab", "300"], "--vocab-size\n"),
    (["train", "names.txt", "--vocab-size", "many"], "many"), (["show", "-t", "x", "--special", "nome"], "try none\n")])
def test_a_slip_is_one_line_that_knows_the_way(args, hint, capsys):
    """argparse printed six lines of usage, took --vocab for --vocab-size, and knew no nearest word."""
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("tokenizer: ") and err.count("\n") == 1 and hint in err and "Errno" not in err


def test_any_script_goes_into_any_pipe(tok_file):
    """Windows' pipes and the C locale are not UTF-8: the first letter beyond ASCII was an error."""
    Tokenizer(None).train("ΩμέγαΩμέγα", 260).save(tok_file)
    for command in ["show", "-t", str(tok_file)], ["merges", "-t", str(tok_file)]:
        result = subprocess.run([sys.executable, "-m", "tokenizer", *command], input="Ωμέγα".encode(), cwd=ROOT,
                                capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
        assert (result.returncode, result.stderr) == (0, b"") and "Ω" in result.stdout.decode()


def test_help_shows_groups_defaults_and_examples(capsys):
    for flag in "--help", "--version":
        with pytest.raises(SystemExit) as stop:
            main([flag])
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("python -m tokenizer train names.txt", "(default: 512)", "\ntrain:\n", "tokenizer 1."))


def test_interrupts_and_closed_pipes_are_no_tracebacks(tok_file, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt
    monkeypatch.setattr("tokenizer.__main__.load", stop)
    assert main(["merges", "-t", str(tok_file)]) == 130
    command = f"{sys.executable} -m tokenizer show -t {tok_file} names.txt | head -c 1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True)
    assert (result.stdout, result.stderr) == (b"[", b"")


def test_the_package_stays_small():
    assert sum(len(path.read_text().splitlines()) for path in (ROOT / "tokenizer").glob("*.py")) <= 600
