"""The commands: python -m tokenizer train | encode | decode | show | merges | compare."""
import argparse
import os
import sys
from pathlib import Path

from .core import Tokenizer
from .formats import PUBLISHED, find, load
from .text import PATTERNS

EXAMPLES = """TOKENIZER is a file that train wrote, a .tiktoken or .model file, or gpt2, gpt4, gpt4o if tiktoken has them. Examples:
  python -m tokenizer train names.txt --lines --vocab-size 512 -o names.json
  echo hello world | python -m tokenizer encode names.json | python -m tokenizer decode names.json
  python -m tokenizer show cl100k_base.tiktoken README.md --ids
  python -m tokenizer merges names.json | head
  python -m tokenizer compare README.md -t names.json"""

def visible(token):
    """Bytes made safe and readable for a terminal: escape sequences and halves of characters are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in token.decode("utf-8", "backslashreplace"))

def contents(file):
    """The text of a file, or of standard input for "-", its line ends untouched."""
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None

def progress(items, **options):
    """A bar on standard error, where tqdm is installed and someone is looking."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, disable=not sys.stderr.isatty(), leave=False, **options)

def train(args):
    """Learn a vocabulary from files."""
    special = {text: args.vocab_size - len(args.special) + i for i, text in enumerate(args.special)}
    data = (contents(file) if file == "-" else Path(file) for file in args.files)
    if args.lines:
        data = (line for file in args.files for line in contents(file).splitlines())
    tok = Tokenizer(PATTERNS.get(args.pattern, args.pattern), special)
    tok.train(data, args.vocab_size, progress=progress, processes=args.processes)
    tok.save(args.output)
    print(f"{args.output}: {len(tok.vocab)} tokens", file=sys.stderr)

def encode(args):
    """Print the ids of a text."""
    print(*load(args.tokenizer).encode(contents(args.file), args.special))

def decode(args):
    """Turn ids back into text."""
    data = load(args.tokenizer).decode_bytes(map(int, contents(args.file).split()))
    if sys.stdout.isatty():                     # a file gets the exact bytes, a terminal nothing that could take it over
        data = b"\n".join(visible(line).encode() for line in data.split(b"\n"))
    sys.stdout.buffer.write(data)

def show(args):
    """Show a text token by token, in colour in a terminal (unless NO_COLOR is set)."""
    tok, colour = load(args.tokenizer), sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for n, i in enumerate(tok.encode(contents(args.file), args.special)):
        text = visible(tok.vocab[i]) + (f" {i}" if args.ids else "")
        text = f"\x1b[30;4{n % 6 + 1}m{text}\x1b[0m" if colour else f"[{text}]"
        sys.stdout.write(text + "\n" * tok.vocab[i].endswith(b"\n"))
    print()

def merges(args):
    """List the merges in their order."""
    tok = load(args.tokenizer)
    for pair, new in tok.merges.items():
        print(new, *(f"[{visible(tok.vocab[i])}]" for i in pair), "->", f"[{visible(tok.vocab[new])}]")

def compare(args):
    """Bytes per token, beside the published vocabularies at hand."""
    text = "".join(map(contents, args.files))
    print(f"{'tokenizer':30} {'vocabulary':>10} {'tokens':>10} {'bytes/token':>11}")
    for name in [*args.tokenizers, *filter(find, PUBLISHED)]:
        tok = load(name)
        n = len(tok.encode(text, "none"))
        print(f"{name:30} {tok.vocab_size:10,} {n:10,} {len(text.encode()) / max(n, 1):11.3f}")

ARGUMENTS = {
    "tokenizer": dict(metavar="TOKENIZER", help="see below"),
    "file": dict(metavar="FILE", nargs="?", default="-", help="text in UTF-8, - for standard input"),
    "files": dict(metavar="FILE", nargs="+", help="text in UTF-8, - for standard input"),
    "-n --vocab-size": dict(type=int, default=512, help="tokens, special ones included"),
    "-o --output": dict(default="tokenizer.json", help="the file to write"),
    "--pattern": dict(default="gpt4", help=f"how to cut text: {', '.join(PATTERNS)}, or a regular expression"),
    "--special-token": dict(dest="special", metavar="TEXT", action="append", default=[], help="may be repeated"),
    "--lines": dict(action="store_true", help="one thing a line: no merge sees a line end"),
    "--processes": dict(type=int, default=os.cpu_count(), help="that count in parallel"),
    "--special": dict(choices=["none", "all", "none_raise"], default="none", help="special tokens in the text"),
    "--ids": dict(action="store_true", help="with the ids"),
    "-t --tokenizer": dict(dest="tokenizers", metavar="TOKENIZER", action="append", default=[], help="may be repeated")}
COMMANDS = {train: ["files", "-n --vocab-size", "-o --output", "--pattern", "--special-token", "--lines", "--processes"],
            encode: ["tokenizer", "file", "--special"], decode: ["tokenizer", "file"],
            show: ["tokenizer", "file", "--special", "--ids"], merges: ["tokenizer"], compare: ["files", "-t --tokenizer"]}

class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults shown, examples left as they are."""

def parse(argv=None):
    parser = argparse.ArgumentParser("python -m tokenizer", description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, names in COMMANDS.items():
        sub = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__, epilog=EXAMPLES,
                                  formatter_class=Help)
        sub.set_defaults(run=run)
        for name in names:
            sub.add_argument(*name.split(), **ARGUMENTS[name])
    return parser.parse_args(argv)

def main(argv=None):
    args = parse(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:                     # "| head" has seen enough; Python must not flush to it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"tokenizer: {error}", file=sys.stderr)
        return 2
    return 0

if __name__ == "__main__":
    sys.exit(main())
