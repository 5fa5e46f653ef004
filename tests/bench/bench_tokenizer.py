"""How fast, next to tiktoken, tokenizers and rustbpe where they are installed, and minbpe at a path:

    MAKEMORE_DATA=... python tests/bench/bench_tokenizer.py --minbpe PATH_OF_ITS_CHECKOUT

CPU seconds of this process, the best of some rounds in which we and the peer take turns. minbpe makes only the first
--merges merges; the rest is reckoned from the length of its text, to which the time of a merge is proportional.
"""
import argparse
import importlib.util
import os
import random
import sys
import tracemalloc
from itertools import islice
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tokenizer import GPT4_PATTERN, Tokenizer, bpe, pretrained
from tokenizer.text import splitter

EMOJI = "".join(map(chr, range(0x1F300, 0x1F3C8)))
DATA = Path(os.environ.get("MAKEMORE_DATA", "."))
os.environ.setdefault("RAYON_NUM_THREADS", "1")      # tokenizers and rustbpe: one core, as we
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def seconds(run):
    start = process_time()
    run()
    return process_time() - start


def turns(*runs, rounds=3):
    """The best time of each, taking turns; a run that is not there takes no time at all."""
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        best = [min(old, seconds(run)) if run else None for old, run in zip(best, runs)]
    return best


def installed(name):
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def row(what, ours, peers, amount=None):
    """One line of the table: our seconds (or MB/s), theirs, and how many times as fast we are."""
    show = (lambda t: f"{amount / t:7.2f} MB/s") if amount else (lambda t: f"{t:9.3f} s")
    for name, theirs in peers.items():
        if theirs:
            print(f"{what:44} {show(ours):>12} {name:>22} {show(theirs):>12} {theirs / ours:8.2f}x", flush=True)
    if not any(peers.values()):
        print(f"{what:44} {show(ours):>12}", flush=True)


def train_rows(text, minbpe, merges):
    tokenizers, rustbpe = installed("tokenizers"), installed("rustbpe")
    rust = rustbpe and (lambda size: rustbpe.Tokenizer().train_from_iterator([text], size, pattern=GPT4_PATTERN))
    for size in 512, 4096:
        ours, face, other = turns(lambda: Tokenizer().train(text, size),
                                  tokenizers and (lambda: hugging_face(tokenizers, text, size)),
                                  rustbpe and (lambda: rust(size)))
        row(f"train, GPT-4 pattern, {size}", ours, {"tokenizers": face, "rustbpe": other})
        if minbpe and size == 512:
            row(f"train, GPT-4 pattern, {size}", ours, {"minbpe (reckoned)": reckon(minbpe, text, GPT4_PATTERN, size, merges)})
    for size in (512, 4096):
        (ours,) = turns(lambda: Tokenizer(None).train(text, size), rounds=1)
        row(f"train, no pattern, {size}", ours,
            {"minbpe (reckoned)": minbpe and reckon(minbpe, text, None, size, merges)})


def hugging_face(tokenizers, text, size):
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT4_PATTERN), "isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator([text], tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False))


def reckon(path, text, pattern, size, merges):
    """minbpe's time for size - 256 merges, from the first few of them and the number of tokens before each merge."""
    sys.path.insert(0, str(path / "minbpe"))         # its modules one by one: the package itself wants tiktoken
    spec = importlib.util.spec_from_file_location("minbpe", path / "minbpe/__init__.py",
                                                  submodule_search_locations=[str(path / "minbpe")])
    sys.modules.setdefault("minbpe", importlib.util.module_from_spec(spec))
    kind = "BasicTokenizer" if pattern is None else "RegexTokenizer"
    peer = getattr(importlib.import_module("minbpe.basic" if pattern is None else "minbpe.regex"), kind)()
    first = min(merges, size - 256)
    taken = seconds(lambda: peer.train(text, 256 + first))
    chunks = [chunk.encode() for chunk in splitter(pattern)(text)]
    learned = islice(bpe.learn({chunk: chunks.count(chunk) if pattern is None else n
                                for chunk, n in count(chunks).items()}), size - 256)
    length, lengths = sum(map(len, chunks)), []
    for _, n in learned:                             # with overlaps counted, so a little too short: to minbpe's favour
        lengths.append(length)
        length -= n
    return taken * sum(lengths) / sum(lengths[:first])


def count(chunks):
    counts = {}
    for chunk in chunks:
        counts[chunk] = counts.get(chunk, 0) + 1
    return counts


def encode_rows(name):
    tiktoken, tok = installed("tiktoken"), pretrained(name, DATA / "tiktoken")
    peer = tiktoken and tiktoken.Encoding(name, pat_str=tok.pattern, mergeable_ranks=tok.ranks,
                                          special_tokens=tok.special_tokens)
    for file in "english", "code", "multi", "emoji":
        text = (DATA / f"text/{file}.txt").read_text(encoding="utf-8").encode()[:2_000_000].decode("utf-8", "ignore")
        size, ids = len(text.encode()) / 1e6, tok.encode(text, "none")
        warm, theirs = turns(lambda: tok.encode(text), peer and (lambda: peer.encode_ordinary(text)))
        fresh = [Tokenizer(tok.pattern, tok.special_tokens, tok.ranks) for _ in range(3)]
        cold = min(seconds(lambda: one.encode(text)) for one in fresh)
        row(f"encode, {name}, {file}, words seen before", warm, {"tiktoken": theirs}, size)
        row(f"encode, {name}, {file}, cold", cold, {"tiktoken": theirs}, size)
        back, theirs = turns(lambda: tok.decode(ids), peer and (lambda: peer.decode(ids)), rounds=5)
        row(f"decode, {name}, {file}", back, {"tiktoken": theirs}, size)


def worst_rows(name):
    tok, rng = pretrained(name, DATA / "tiktoken"), random.Random(1)
    english = (DATA / "text/english.txt").read_text(encoding="utf-8")[:1_000_000]
    cases = {"1 MB of English, cold": english, "one letter x 1,000,000": "a" * 10 ** 6,
             "random letters x 1,000,000": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=10 ** 6)),
             "spaces x 1,000,000": " " * 10 ** 6, "e and 100,000 marks": "e" + "\u0301" * 100_000,
             "300,000 random Chinese characters": "".join(map(chr, rng.choices(range(0x4E00, 0x9FFF), k=300_000)))}
    times = {what: seconds(lambda: tok.encode(text)) for what, text in cases.items()}
    for what, taken in times.items():
        print(f"{what:44} {taken:9.3f} s {taken / times['1 MB of English, cold']:33.1f} x English")


def memory_rows():
    """What the memos weigh when they are full, of chunks and of words, which are looked up when a text comes again."""
    for what, letters, length in ("words of eight letters", "абвгдежз", 8), ("words of 62 emoji", EMOJI, 62):
        tok, rng = Tokenizer(), random.Random(1)
        tracemalloc.start()
        for _ in range(13):
            text = " ".join("".join(rng.choices(letters, k=length)) for _ in range(10_000))
            tok.encode(text), tok.encode(text)
        print(f"{f'memos full of {what}':44} {tracemalloc.get_traced_memory()[1] / 1e6:9.0f} MB")
        tracemalloc.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minbpe", type=Path, help="a checkout of minbpe")
    parser.add_argument("--merges", type=int, default=16, help="how many merges minbpe makes")
    parser.add_argument("--only", choices=["train", "encode", "worst", "memory"])
    args = parser.parse_args()
    if not (DATA / "tinyshakespeare.txt").is_file():
        sys.exit("MAKEMORE_DATA does not name the folder with tinyshakespeare.txt")
    if args.only in (None, "train"):
        train_rows((DATA / "tinyshakespeare.txt").read_text(), args.minbpe, args.merges)
    if args.only in (None, "encode"):
        encode_rows("cl100k_base")
    if args.only in (None, "worst"):
        worst_rows("cl100k_base")
    if args.only in (None, "memory"):
        memory_rows()
