"""The commands: train, encode, decode, show (token by token), merges (in their order), compare (bytes per token, beside
the published ones at hand). A TOKENIZER is a file that train wrote, a .tiktoken or .model file, or a name. Examples:
  python -m tokenizer train names.txt --lines --vocab-size 512 -o names.json
  echo hello world | python -m tokenizer encode -t names.json | python -m tokenizer decode -t names.json
  python -m tokenizer show README.md -t names.json --ids
  python -m tokenizer compare README.md -t names.json -t cl100k_base.tiktoken"""
import argparse, difflib, errno, os, re, sys
from functools import partial
from pathlib import Path
from .core import Tokenizer
from .formats import PUBLISHED, find, load
from .text import PATTERNS
try: from tqdm import tqdm
except ImportError: tqdm = lambda items, **_: items
def visible(token):
    """Bytes made safe and readable for a terminal: escape sequences and halves of characters are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in token.decode("utf-8", "backslashreplace"))
def contents(file):
    """The text of a file, or of standard input for "-", its line ends untouched."""
    return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8")
def train(args):
    special = {text: args.vocab_size - len(args.special_token) + i for i, text in enumerate(args.special_token)}
    texts = (text for file in args.files for text in (      # a file that is named is read piece by piece
             contents(file).splitlines() if args.lines else [contents(file) if file == "-" else Path(file)]))
    tok = Tokenizer(PATTERNS.get(args.pattern, args.pattern), special)
    bar = partial(tqdm, disable=not sys.stderr.isatty(), leave=False)
    tok.train(texts, args.vocab_size, progress=bar, processes=1 if args.lines else args.processes).save(args.output)
    print(f"{args.output}: {len(tok.vocab)} tokens", file=sys.stderr)
def encode(args):
    print(*load(args.tokenizer[0]).encode("".join(map(contents, args.files)), args.special))
def decode(args):
    data = load(args.tokenizer[0]).decode_bytes(map(int, "".join(map(contents, args.files)).split()))
    if sys.stdout.isatty(): data = b"\n".join(visible(line).encode() for line in data.split(b"\n"))     # no escape
    sys.stdout.buffer.write(data)
def show(args):
    tok, colour = load(args.tokenizer[0]), sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for n, i in enumerate(tok.encode("".join(map(contents, args.files)), args.special)):
        text = visible(tok.vocab[i]) + f" {i}" * args.ids
        print(f"\x1b[30;4{n % 6 + 1}m{text}\x1b[0m" if colour else f"[{text}]", end="\n" * tok.vocab[i].endswith(b"\n"))
    print()
def merges(args):
    for pair, new in (tok := load(args.tokenizer[0])).merges.items():
        print(new, *(f"[{visible(tok.vocab[i])}]" for i in pair), "->", f"[{visible(tok.vocab[new])}]")
def compare(args):
    text = "".join(map(contents, args.files))
    print(f"{'tokenizer':30} {'vocabulary':>10} {'tokens':>10} {'bytes/token':>11}")
    for name in [*args.tokenizer, *filter(find, PUBLISHED)]:
        n = len((tok := load(name)).encode(text, "none"))
        print(f"{name:30} {tok.vocab_size:10,} {n:10,} {len(text.encode()) / max(n, 1):11.3f}")
def wrong(parser, message):
    """What is wrong and what was perhaps meant, for one line; argparse would print the usage too."""
    word = re.search(r"(?:arguments: |choice: ')([^\s']+)|$", message)[1] or ""
    known = [word for action in parser._actions for word in (*action.option_strings, *(action.choices or ()))]
    raise ValueError(f"{message}; try {(difflib.get_close_matches(word, known, 1) or ['--help'])[0]}")
def parse(argv=None):
    commands = {run.__name__: run for run in (train, encode, decode, show, merges, compare)}
    parser = argparse.ArgumentParser("python -m tokenizer", "%(prog)s COMMAND [FILE ...] [options]", __doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.error = partial(wrong, parser)
    parser.add_argument("--version", action="version", version="tokenizer 1.0.0")
    parser.add_argument("command", metavar="COMMAND", choices=commands, help=", ".join(commands))
    parser.add_argument("files", metavar="FILE", nargs="*", default=["-"], help="text or ids; - is standard input")
    add = parser.add_argument_group("train").add_argument
    add("-n", "--vocab-size", metavar="N", type=int, default=512, help="all tokens (default: %(default)s)")
    add("-o", "--output", metavar="FILE", default="tokenizer.json", help="the file to write (default: %(default)s)")
    add("--pattern", default="gpt4", help=f"{', '.join(PATTERNS)}, or your own (default: %(default)s)")
    add("--special-token", metavar="TEXT", action="append", default=[], help="may be repeated")
    add("--lines", action="store_true", help="one thing a line, no merge sees a line end; in one process")
    add("--processes", metavar="N", type=int, default=os.cpu_count(), help="count in parallel (default: %(default)s)")
    add = parser.add_argument_group("all the others").add_argument
    add("-t", "--tokenizer", action="append", default=[], help="which; compare takes several")
    add("--special", choices=["none", "all", "none_raise"], default="none", help="encode, show: (default: %(default)s)")
    add("--ids", action="store_true", help="show: with the ids")
    args = parser.parse_intermixed_args(argv)
    if args.command not in ("train", "compare") and len(args.tokenizer) != 1:
        parser.error(f"{args.command} needs one tokenizer: -t TOKENIZER")
    return commands[args.command], args
def main(argv=None):
    try:
        run, args = parse(argv)
        if hasattr(sys.stdout, "reconfigure"): sys.stdout.reconfigure(encoding="utf-8")     # Windows pipes are not
        run(args)
        sys.stdout.flush()
    except KeyboardInterrupt: return 130
    except BrokenPipeError:     # "| head" has seen enough; Python must not flush to it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print("tokenizer:", re.sub(r"^\[Errno \d+] ", "", str(error)), file=sys.stderr)
        return 1 if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.ENOMEM) else 2
    return 0
if __name__ == "__main__": sys.exit(main())
