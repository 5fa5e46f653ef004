"""Other people's vocabularies, in and out: tiktoken's published ones, Hugging Face's tokenizer.json, minbpe's files."""
import base64, json, os, tempfile
from pathlib import Path
from unicodedata import category
from .core import Tokenizer
from .text import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN
END, PROMPT = "<|endoftext|>", "<|endofprompt|>"
GPT4 = {END: 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, PROMPT: 100276}
ALIASES = {"gpt2": "r50k_base", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}
PUBLISHED = {       # name: (pattern, special tokens, number of other tokens, the file's name in tiktoken's cache)
    "r50k_base": (GPT2_PATTERN, {END: 50256}, 50256, "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4"),
    "p50k_base": (GPT2_PATTERN, {END: 50256}, 50280, "ec7223a39ce59f226a68acc30dc1af2788490e15"),
    "cl100k_base": (GPT4_PATTERN, GPT4, 100256, "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    "o200k_base": (O200K_PATTERN, {END: 199999, PROMPT: 200018}, 199998, "fb374d419588a4632f3f557e76b4b70aebbca790")}
def read_ranks(path):
    """The vocabulary in a .tiktoken file, which has a token's bytes in base64 and its id on each line."""
    try:
        lines = map(bytes.split, Path(path).read_bytes().splitlines())
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError as error:
        raise ValueError(f"{path} is no .tiktoken file, with a token in base64 and an id a line: {error}") from None
def write_ranks(tok, path):
    """Write a .tiktoken file, which has no room for the pattern and the special tokens."""
    Path(path).write_bytes(b"".join(base64.b64encode(tok.vocab[i]) + b" %d\n" % i for i in sorted(tok.ranks.values())))
def find(name, path=None):
    """The file of a published vocabulary: path, NAME.tiktoken in the folder path or in tiktoken's cache; or None."""
    if path is not None: return Path(path, f"{name}.tiktoken") if Path(path).is_dir() else Path(path)
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or Path(tempfile.gettempdir(), "data-gym-cache")
    return next(filter(Path.is_file, [Path(cache, PUBLISHED[name][3]), Path(cache, f"{name}.tiktoken")]), None)
def pretrained(name, path=None):
    """A published vocabulary: r50k_base (gpt2), p50k_base, cl100k_base (gpt4), o200k_base (gpt4o); from a path, from
    tiktoken's cache, or from the package tiktoken, which may ask the network at its first use. Nothing here does."""
    name = ALIASES.get(name, name)
    if name not in PUBLISHED:
        raise ValueError(f"no published vocabulary is called {name!r}; there are {', '.join([*PUBLISHED, *ALIASES])}")
    (pattern, special_tokens, size, _), file = PUBLISHED[name], find(name, path)
    try: ranks = read_ranks(file) if file else __import__("tiktoken").get_encoding(name)._mergeable_ranks
    except ImportError:
        raise FileNotFoundError(f"no {name}.tiktoken on this machine: give its path, or install tiktoken") from None
    if len(ranks) != size: raise ValueError(f"{file}: {len(ranks)} tokens, but {name} has {size}")
    return Tokenizer(pattern, special_tokens, ranks)
def load(path):
    """A tokenizer from our JSON, a .model file of minbpe, a .tiktoken file, or the name of a published vocabulary."""
    name, kind = Path(path).stem, Path(path).suffix
    if str(path) in [*PUBLISHED, *ALIASES] or kind == ".tiktoken" and name in PUBLISHED:
        return pretrained(name, path if kind else None)
    read = {".tiktoken": lambda path: Tokenizer(ranks=read_ranks(path)), ".model": read_model}
    return read.get(kind, Tokenizer.load)(path)
def write_huggingface(tok, path):
    """Write a tokenizer.json with which the package tokenizers encodes to the same ids."""
    # bytes are written as GPT-2 did: the printable ones as themselves, the others moved up, so that a space is "Ġ"
    moved = {i: chr(256 + k) for k, i in enumerate(i for i in range(256) if not chr(i).isprintable() or i == 32)}
    spell = {i: token.decode("latin-1").translate(moved) for i, token in tok.vocab.items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": tok.pattern}, "behavior": "Isolated", "invert": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    data = {"version": "1.0", "decoder": level, "model": {
                "type": "BPE", "ignore_merges": True, "vocab": {spell[i]: i for i in tok.ranks.values()},
                "merges": [[spell[a], spell[b]] for a, b in tok.merges]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, level]} if tok.pattern else level,
            "added_tokens": [{"id": i, "content": text} | flags for text, i in tok.special_tokens.items()]}
    Path(path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
# ----------------------------------------------------------------------------------------------------------------------
# minbpe: its two files, and its names, so that the lecture's code runs on this package
def render_token(token):
    """Bytes as minbpe shows them: control characters as \\u000a, what is no character as U+FFFD."""
    return "".join(f"\\u{ord(c):04x}" if category(c)[0] == "C" else c for c in token.decode("utf-8", "replace"))
def read_model(path):
    """A tokenizer from minbpe's .model file: version, pattern, special tokens, and one merge a line."""
    vocab = {i: bytes([i]) for i in range(256)}
    try:
        version, pattern, number, *lines = Path(path).read_text(encoding="utf-8").split("\n")
        special = {text: int(i) for text, i in (line.rsplit(" ", 1) for line in lines[:int(number)])}
        for line in filter(None, lines[int(number):]):
            vocab[len(vocab)] = b"".join(vocab[int(i)] for i in line.split())
            if len(vocab[len(vocab) - 1]) > 1 << 16:        # or forty lines that double the last one make a terabyte
                raise ValueError("a token of more than 65,536 bytes")
        if version.strip() != "minbpe v1" or len(set(vocab.values())) < len(vocab):
            raise ValueError("another version, or two tokens with the same bytes")
        return Tokenizer(pattern or None, special, {token: i for i, token in vocab.items()})
    except (ValueError, KeyError) as error: raise ValueError(f"{path} is no model of minbpe: {error}") from None
def write_model(tok, prefix):
    """Write prefix.model and prefix.vocab, byte for byte as minbpe does; a ValueError if they cannot hold it."""
    pattern, special = tok.pattern or "", tok.special_tokens
    if pattern != pattern.strip() or "\n" in pattern or any(text.split() != [text] for text in special) \
            or [tok.ranks[bytes([i])] for i in range(256)] + [*tok.merges.values()] != [*range(len(tok.ranks))]:
        raise ValueError("minbpe's files hold no space in special tokens or around the pattern, and only vocabularies "
                         "that begin with the bytes in order and skip no id")
    lines = [f"minbpe v1\n{pattern}\n{len(special)}"] + [f"{text} {i}" for text, i in special.items()]
    lines += [f"{a} {b}" for a, b in tok.merges] + [""]
    Path(f"{prefix}.model").write_text("\n".join(lines), encoding="utf-8", newline="")
    write_vocab(tok, f"{prefix}.vocab")
def write_vocab(tok, path):
    """Write the tokens for people to read, each with the two that it was made of: [t][h] -> [th] 258."""
    show = {i: f"[{render_token(token)}]" for i, token in tok.vocab.items()}
    made = {i: f"{show[a]}{show[b]} -> " for (a, b), i in tok.merges.items()}
    Path(path).write_text("".join(f"{made.get(i, '')}{show[i]} {i}\n" for i in tok.vocab), encoding="utf-8", newline="")
class BasicTokenizer(Tokenizer):
    """minbpe's tokenizer without a pattern: save(prefix) writes .model and .vocab, load(file) changes the object."""
    def __init__(self): super().__init__(None)
    def load(self, model_file): vars(self).update(vars(read_model(model_file)))
    save, save_vocab = write_model, write_vocab
class RegexTokenizer(BasicTokenizer):
    def __init__(self, pattern=None): Tokenizer.__init__(self, pattern or GPT4_PATTERN)
class GPT4Tokenizer(BasicTokenizer):
    def __init__(self): vars(self).update(vars(pretrained("cl100k_base")))
