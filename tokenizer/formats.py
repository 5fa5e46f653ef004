"""Other people's vocabularies, in and out: tiktoken's published ones, Hugging Face's tokenizer.json, minbpe's files."""
import base64
import json
import os
import tempfile
import unicodedata
from pathlib import Path

from .core import Tokenizer
from .text import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN

END, PROMPT, FIM = "<|endoftext|>", "<|endofprompt|>", [f"<|fim_{name}|>" for name in ("prefix", "middle", "suffix")]
GPT4_SPECIAL = {END: 100257, FIM[0]: 100258, FIM[1]: 100259, FIM[2]: 100260, PROMPT: 100276}
ALIASES = {"gpt2": "r50k_base", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}
PUBLISHED = {       # name: (pattern, special tokens, number of other tokens, the file's name in tiktoken's cache)
    "r50k_base": (GPT2_PATTERN, {END: 50256}, 50256, "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4"),
    "p50k_base": (GPT2_PATTERN, {END: 50256}, 50280, "ec7223a39ce59f226a68acc30dc1af2788490e15"),
    "cl100k_base": (GPT4_PATTERN, GPT4_SPECIAL, 100256, "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    "o200k_base": (O200K_PATTERN, {END: 199999, PROMPT: 200018}, 199998, "fb374d419588a4632f3f557e76b4b70aebbca790")}

def read_ranks(path):
    """The vocabulary in a .tiktoken file, which has a token's bytes in base64 and its id on each line."""
    ranks = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a token in base64 and its id") from None
    return ranks

def write_ranks(tok, path):
    """Write a .tiktoken file, which has no room for the pattern and the special tokens."""
    Path(path).write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in sorted(tok.vocab.items())
                                    if token in tok.ranks and tok.ranks[token] == i))

def find(name, path=None):
    """The file of a published vocabulary: path, or NAME.tiktoken in the folder path, or in tiktoken's cache; or None."""
    if path is not None:
        return Path(path, f"{name}.tiktoken") if Path(path).is_dir() else Path(path)
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or Path(tempfile.gettempdir(), "data-gym-cache")
    files = Path(cache, PUBLISHED[name][3]), Path(cache, f"{name}.tiktoken")
    return next((file for file in files if file.is_file()), None)

def pretrained(name, path=None):
    """
    A published vocabulary: r50k_base (gpt2), p50k_base, cl100k_base (gpt4) or o200k_base (gpt4o), from a path, from
    tiktoken's cache, or from the package tiktoken, which may ask the network at its first use. Nothing here ever does.
    """
    name = ALIASES.get(name, name)
    if name not in PUBLISHED:
        raise ValueError(f"no published vocabulary is called {name!r}; there are {', '.join([*PUBLISHED, *ALIASES])}")
    pattern, special_tokens, size, _ = PUBLISHED[name]
    file = find(name, path)
    try:
        ranks = read_ranks(file) if file else __import__("tiktoken").get_encoding(name)._mergeable_ranks
    except ImportError:
        raise FileNotFoundError(f"{name} is not on this machine: give the path of {name}.tiktoken, or install tiktoken "
                                "and let it fetch the file") from None
    if len(ranks) != size:
        raise ValueError(f"{file}: {len(ranks)} tokens, but {name} has {size}")
    return Tokenizer(pattern, special_tokens, ranks)

def load(path):
    """A tokenizer from our JSON, a .model file of minbpe, a .tiktoken file, or the name of a published vocabulary."""
    name = Path(path).stem
    if str(path) in [*PUBLISHED, *ALIASES]:
        return pretrained(path)
    if str(path).endswith(".tiktoken"):
        return pretrained(name, path) if name in PUBLISHED else Tokenizer(GPT4_PATTERN, {}, read_ranks(path))
    return read_model(path) if str(path).endswith(".model") else Tokenizer.load(path)

# ----------------------------------------------------------------------------------------------------------------------
# Hugging Face: bytes are written as GPT-2 did, the printable ones as themselves, the others moved up: space is "Ġ"

MOVED = [i for i in range(256) if not chr(i).isprintable() or i == 32]
LETTERS = {i: chr(256 + k) for k, i in enumerate(MOVED)}

def write_huggingface(tok, path):
    """Write a tokenizer.json with which the package tokenizers encodes to the same ids."""
    spell = {i: token.decode("latin-1").translate(LETTERS) for i, token in tok.vocab.items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": tok.pattern}, "behavior": "Isolated", "invert": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {"type": "BPE", "ignore_merges": True, "vocab": {spell[i]: i for i in tok.ranks.values()},
             "merges": [[spell[a], spell[b]] for a, b in tok.merges]}
    data = {"version": "1.0", "model": model, "decoder": level,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, level]} if tok.pattern else level,
            "added_tokens": [{"id": i, "content": text, "special": True} | flags
                             for text, i in tok.special_tokens.items()]}
    Path(path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")

# ----------------------------------------------------------------------------------------------------------------------
# minbpe: its two files, and its names, so that the lecture's code runs on this package

def render_token(token):
    """Bytes as minbpe shows them: control characters as \\u000a, what is no character as U+FFFD."""
    text = token.decode("utf-8", "replace")
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c)[0] == "C" else c for c in text)

def read_model(path):
    """A tokenizer from minbpe's .model file: version, pattern, special tokens, and one merge a line."""
    vocab = {i: bytes([i]) for i in range(256)}
    try:
        version, pattern, number, *lines = Path(path).read_text(encoding="utf-8").split("\n")
        special = {text: int(i) for text, i in (line.rsplit(" ", 1) for line in lines[:int(number)])}
        for line in filter(None, lines[int(number):]):
            token = b"".join(vocab[int(i)] for i in line.split())
            if len(token) > 1 << 16:            # forty lines that each double the one before would make a terabyte
                raise ValueError("a token of more than 65,536 bytes")
            vocab[len(vocab)] = token
        if version.strip() != "minbpe v1" or len(set(vocab.values())) < len(vocab):
            raise ValueError("another version, or two tokens with the same bytes")
        return Tokenizer(pattern or None, special, {token: i for i, token in vocab.items()})
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is no model of minbpe: {error}") from None

def write_model(tok, prefix):
    """Write prefix.model and prefix.vocab, byte for byte as minbpe does; a ValueError if they cannot hold it."""
    pattern, special, ids = tok.pattern or "", tok.special_tokens, [bytes([i]) for i in range(256)]
    if pattern != pattern.strip() or "\n" in pattern or any(text.split() != [text] for text in special):
        raise ValueError("minbpe's files cannot hold such space in a pattern or special token: use save of Tokenizer")
    if [tok.ranks[byte] for byte in ids] + list(tok.merges.values()) != [*range(len(tok.ranks))]:
        raise ValueError("minbpe's files hold only vocabularies that begin with the bytes in order and skip no id")
    lines = ["minbpe v1", pattern, len(special), *(f"{text} {i}" for text, i in special.items())]
    text = "".join(f"{line}\n" for line in lines + [f"{a} {b}" for a, b in tok.merges])
    Path(f"{prefix}.model").write_text(text, encoding="utf-8", newline="")
    write_vocab(tok, f"{prefix}.vocab")

def write_vocab(tok, path):
    """Write the tokens for people to read, each with the two that it was made of: [t][h] -> [th] 258."""
    parents, lines = {i: pair for pair, i in tok.merges.items()}, []
    for i, token in tok.vocab.items():
        made = "".join(f"[{render_token(tok.vocab[p])}]" for p in parents.get(i, ()))
        lines.append(f"{made}{' -> ' if made else ''}[{render_token(token)}] {i}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", newline="")

class BasicTokenizer(Tokenizer):
    """minbpe's tokenizer without a pattern: save(prefix) writes .model and .vocab, load(file) changes the object."""

    def __init__(self):
        super().__init__(None)

    def load(self, model_file):
        vars(self).update(vars(read_model(model_file)))

    save, save_vocab = write_model, write_vocab

class RegexTokenizer(BasicTokenizer):
    """The same with a pattern."""

    def __init__(self, pattern=None):
        Tokenizer.__init__(self, pattern or GPT4_PATTERN)

class GPT4Tokenizer(BasicTokenizer):
    """cl100k_base, ready to use."""

    def __init__(self):
        vars(self).update(vars(pretrained("cl100k_base")))
