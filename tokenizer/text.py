"""Text into chunks. Merges never cross the border of a chunk, so no token holds halves of two words."""
import math, os, re, signal
from collections import Counter
from functools import partial
from itertools import chain
from multiprocessing import Pool
import regex
# GPT-2: contractions, letters, numbers and the rest, each with the space before it; then what space is left.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# GPT-4: contractions in any case, numbers in threes (no + behind the }: other engines read that as "many threes").
GPT4_PATTERN = (r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
                r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s""")
# GPT-4o: a capital begins a new word, marks belong to the letter they stand on, contractions to their word.
_UPPER, _LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
O200K_PATTERN = (_UPPER + "*" + _LOWER + "+" + _TAIL + _UPPER + "+" + _LOWER + "*" + _TAIL +
                 r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "o200k": O200K_PATTERN, "none": None}
# Cheaper patterns, for the faster engine of re, that cut only where the published ones must, too, so that words can be
# looked up whole: before a space or tab behind something visible, as chunks have space only at the front; and, but for
# GPT-2, behind line ends that follow something visible, if the next line shows anything but a slash.
_WORD = re.compile(r"\s*\S+(?:(?:[\r\n]+(?![\r\n]|[^\S\r\n]*[^\s/])|[^\S \t\r\n])\s*\S*)*[\r\n]*|\s+")
WORDS = {GPT2_PATTERN: re.compile(r"\s*\S+(?:[^\S \t\r\n]\s*\S*)*|\s+"), GPT4_PATTERN: _WORD, O200K_PATTERN: _WORD}
SEAM = regex.compile(r"(?r)(?<=\S)(?= )|(?<=\S\n)(?=\w)")          # the last place like that in a block of a file
SPACE, BLOCK, PAGE = re.compile(r"(?<=\S) "), 1 << 22, 1 << 14     # a cut anywhere; characters of a file, of a page
def ascii_only(pattern):
    r"""A published pattern as ASCII text needs it, for the faster engine: "\p{L}++" -> "[a-zA-Z]+". Nothing in them
    could give back what a possessive ++ holds fast and still match, and re lacks it before Python 3.11."""
    for old, new in ((r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", "A-Z"), (r"\p{Ll}\p{Lm}\p{Lo}\p{M}", "a-z"), ("++", "+"),
                   ("?+", "?"), ("*+", "*"), (r"\p{L}\p{N}", "a-zA-Z0-9"), (r"\p{L}", "[a-zA-Z]"), (r"\p{N}", "[0-9]")):
        pattern = pattern.replace(old, new)
    return re.compile(pattern, re.ASCII)
def splitter(pattern):
    """A function that cuts a text into chunks, which together are the text: "a, b!", \\w+ -> "a", ", ", "b", "!"."""
    try:        # regex writes counted repeats out: those of "((a{9999}){9999}){9999}" would fill any memory
        if math.prod(map(int, re.findall(r"[{,]\s*(\d+)", pattern or ""))) > 10**5: raise OverflowError("many repeats")
        compiled = regex.compile(r"(?s).+" if pattern is None else "" + pattern)      # a str, not bytes
    except (regex.error, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"pattern {str(pattern)[:60]!r} is no regular expression: {error}") from None
    def split(text):
        chunks, end = [], 0
        for match in compiled.finditer(text):
            chunks += [text[end:match.start()], match[0]]          # what the pattern leaves out must not get lost
            end = match.end()
        return list(filter(None, [*chunks, text[end:]]))
    if pattern not in WORDS: return compiled.findall if pattern is None else split
    quick, exact = ascii_only(pattern).findall, compiled.findall
    return lambda text: quick(text) if text.isascii() else exact(text, None, None, False, False)    # and keeps the GIL
def pages(text, pattern, end=0):
    """Yield a text in parts, as the processor's cache holds few words for long; whole, where the pattern is unknown."""
    while (start := end) < len(text):
        end = seam.start() if pattern in WORDS and (seam := SPACE.search(text, start + PAGE)) else len(text)
        yield text[start:end]
def clean(text):
    """The text as UTF-8 can hold it: half a surrogate pair becomes U+FFFD, two halves the character they mean. So does
    tiktoken, and it is the one case in which decoding gives another text than was encoded."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
def blocks(path, pattern):
    """A file in blocks that end where the pattern cuts anyway; in one block, where we do not know the pattern."""
    with open(path, encoding="utf-8", newline="") as file:
        rest = ""
        while block := file.read(BLOCK if pattern in WORDS else -1):
            rest += block
            if pattern in WORDS and (seam := SEAM.search(rest)):
                yield rest[:seam.start()]
                rest = rest[seam.start():]
        yield rest
def read(data, pattern):
    """The texts in a str, in a path (its file is read), or in an iterable of both."""
    for item in [data] if isinstance(data, (str, os.PathLike)) else data:
        yield from [item] if isinstance(item, str) else blocks(os.fspath(item), pattern)
def count_chunks(texts, pattern, processes=1):
    """How often each chunk occurs, in the order of first appearance: ["a b b"], GPT-2's -> {"a": 1, " b": 2}."""
    counts, split = Counter(), splitter(pattern)
    if processes == 1:      # words first, then the chunks of each new word: the order of first appearance is the same
        cut = WORDS[pattern].findall if pattern in WORDS else split
        words = Counter(chain.from_iterable(map(cut, map(clean, texts))))
        if pattern not in WORDS: return words
        for word, n in words.items():
            for chunk in split(word): counts[chunk] += n
        return counts
    with Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:   # Ctrl-C is for the parent
        for part in pool.imap(partial(count_chunks, pattern=pattern), ([text] for text in texts)):
            counts.update(part)                 # in order, since ties go to the first seen
    return counts
