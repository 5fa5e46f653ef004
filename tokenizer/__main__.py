"""
The commands. A TOKENIZER is a file that train wrote, a .tiktoken or .model file, or a name: gpt4.

    python -m tokenizer train names.txt --lines --vocab-size 512 -o names.json
    echo hello | python -m tokenizer encode -t names.json | python -m tokenizer decode -t names.json
    python -m tokenizer show README.md -t names.json --ids
    python -m tokenizer merges -t names.json
    python -m tokenizer compare README.md -t names.json -t cl100k_base.tiktoken

"python -m tokenizer train --help" explains the options of a command.
"""

import argparse
import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .core import Tokenizer
from .formats import load
from .published import PUBLISHED, find_published
from .splitting import PATTERNS

try:  # optional: a progress bar
    from tqdm import tqdm
except ImportError:
    tqdm = None

# -----------------------------------------------------------------------------
# input and output


def visible(token: bytes) -> str:
    """The token, safe to print: escape sequences and parts of characters are written out."""
    characters = []
    for character in token.decode('utf-8', errors='backslashreplace'):
        characters.append(character if character.isprintable() else repr(character)[1:-1])
    return ''.join(characters)


def read_text(file: str) -> str:
    """The text of a file, or of standard input for "-", its line ends untouched."""
    if file != '-':
        content = Path(file).read_bytes()
    elif sys.stdin is None:
        raise ValueError('standard input is closed: name a file to read')
    else:
        content = sys.stdin.buffer.read()
    try:
        return content.decode('utf-8')
    except UnicodeDecodeError as error:
        name = 'standard input' if file == '-' else file
        raise ValueError(f'{name} is not UTF-8 text: {error}') from None


def read_all(files: Iterable[str]) -> str:
    """The text of several files, one after the other."""
    return ''.join(map(read_text, files))


def print_message(message: str) -> None:
    """Print to stderr, which is for messages; stdout is for results."""
    # with a closed stderr, `print` would write to stdout
    if sys.stderr is not None:
        print(message, file=sys.stderr)


def is_terminal() -> bool:
    """Whether a person reads the output, so that it may be coloured and must be harmless."""
    return sys.stdout.isatty()


def progress_bar(items: Iterable, **options: object) -> Iterable:
    """The items, with a progress bar if somebody can see it."""
    if tqdm is None or sys.stderr is None or not sys.stderr.isatty():
        return items
    return tqdm(items, leave=False, **options)


# -----------------------------------------------------------------------------
# commands


def train(args: argparse.Namespace) -> None:
    """learn a vocabulary from text, and save it"""
    # special tokens get the last ids
    texts = list(dict.fromkeys(args.special_token))  # without repetitions
    first_special = args.vocab_size - len(texts)
    if first_special < 256:
        raise ValueError(
            f'--vocab-size {args.vocab_size} is too small: 256 bytes and {len(texts)} special '
            f'tokens need {256 + len(texts)}'
        )
    special_tokens = {text: first_special + i for i, text in enumerate(texts)}
    pattern = PATTERNS.get(args.pattern, args.pattern)
    tokenizer = Tokenizer(pattern, special_tokens=special_tokens)
    tokenizer.train(
        training_texts(args.files, args.lines),
        args.vocab_size,
        progress=progress_bar,
        # a line is too small a thing to send to another process
        processes=1 if args.lines else args.processes,
    )
    tokenizer.save(args.output)
    print_message(f'{args.output}: {len(tokenizer.vocab)} tokens')


def training_texts(files: Iterable[str], lines: bool) -> Iterator[str | Path]:
    """Yield what `Tokenizer.train` takes: each line, or each file."""
    for file in files:
        if lines:
            # not splitlines(): it also cuts at form feeds and at characters such as U+2028
            yield from re.split('\r\n|\r|\n', read_text(file))
        elif file == '-':
            yield read_text(file)
        else:
            yield Path(file)  # read block by block


def encode(args: argparse.Namespace) -> None:
    """print the ids of a text"""
    ids = load(args.tokenizer[0]).encode(read_all(args.files), args.special)
    print(*ids)


def decode(args: argparse.Namespace) -> None:
    """print the text of some ids"""
    ids = map(int, read_all(args.files).split())
    data = load(args.tokenizer[0]).decode_bytes(ids)
    if is_terminal():
        lines = [visible(line) for line in data.split(b'\n')]
        data = '\n'.join(lines).encode()
    sys.stdout.buffer.write(data)


def show(args: argparse.Namespace) -> None:
    """print a text token by token"""
    tokenizer = load(args.tokenizer[0])
    colour = is_terminal() and not os.environ.get('NO_COLOR')
    for n, i in enumerate(tokenizer.encode(read_all(args.files), args.special)):
        token = tokenizer.vocab[i]
        text = visible(token)
        if args.ids:
            text = f'{text} {i}'
        # six background colours in turn
        text = f'\x1b[30;4{n % 6 + 1}m{text}\x1b[0m' if colour else f'[{text}]'
        print(text, end='\n' if token.endswith(b'\n') else '')
    print()


def merges(args: argparse.Namespace) -> None:
    """print the merges in the order in which they were learned"""
    tokenizer = load(args.tokenizer[0])
    shown = {i: f'[{visible(token)}]' for i, token in tokenizer.vocab.items()}
    for (left, right), new_id in tokenizer.merges.items():
        print(f'{new_id} {shown[left]} {shown[right]} -> {shown[new_id]}')


def compare(args: argparse.Namespace) -> None:
    """compare tokenizers, and the published ones at hand, by their bytes per token"""
    text = read_all(args.files)
    print(f'{"tokenizer":30} {"vocabulary":>10} {"tokens":>10} {"bytes/token":>11}')
    for name in [*args.tokenizer, *filter(find_published, PUBLISHED)]:
        tokenizer = load(name)
        num_tokens = len(tokenizer.encode(text, 'none'))
        ratio = len(text.encode()) / max(num_tokens, 1)
        print(f'{name:30} {tokenizer.vocab_size:10,} {num_tokens:10,} {ratio:11.3f}')


COMMANDS = {
    'train': train,
    'encode': encode,
    'decode': decode,
    'show': show,
    'merges': merges,
    'compare': compare,
}

# -----------------------------------------------------------------------------
# the command line


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with the nearest word that it knows."""

    def __init__(self, **options: object):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> None:
        known = []
        for action in self._actions:
            known += action.option_strings
            known += action.choices or ()
        # argparse says "unrecognized arguments: --vocab" and "invalid choice: 'trian'"
        unknown = re.search(r"(?:arguments: |choice: '?)([^\s']+)", message)
        nearest = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
        hint = nearest[0] if nearest else f'{self.prog} --help'
        raise ValueError(f'{message}; try {hint}')


def add_train_options(parser: Parser) -> None:
    add = parser.add_argument
    default = ' (default: %(default)s)'
    add('-n', '--vocab-size', metavar='N', type=int, default=512, help='number of tokens' + default)
    add('-o', '--output', metavar='FILE', default='tokenizer.json', help='file to write' + default)
    patterns = f'{", ".join(PATTERNS)}, or a regular expression'
    add('--pattern', default='gpt4', help=patterns + default)
    add('--special-token', metavar='TEXT', action='append', default=[], help='may be repeated')
    add('--lines', action='store_true', help='each line is a text of its own; no token spans lines')
    cores = os.cpu_count() or 1
    processes = 'processes that count the chunks of large files' + default
    add('--processes', metavar='N', type=int, default=cores, help=processes)


def add_special_option(parser: Parser) -> None:
    choices = ('none', 'all', 'none_raise')
    text = (
        'special tokens in the text are ordinary text (none), count as such (all), '
        'or are an error (none_raise) (default: %(default)s)'
    )
    parser.add_argument('--special', choices=choices, default='none', help=text)


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and one for each command."""
    parser = Parser(prog='python -m tokenizer', description=__doc__)
    parser.add_argument('--version', action='version', version='tokenizer 1.0.0')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, run in COMMANDS.items():
        command = subparsers.add_parser(name, help=run.__doc__, description=run.__doc__)
        if name != 'merges':
            text = 'ids' if name == 'decode' else 'text'
            help_text = f'files with {text}; - is standard input, which is the default'
            command.add_argument('files', metavar='FILE', nargs='*', default=['-'], help=help_text)
        if name == 'train':
            add_train_options(command)
        else:
            text = 'file or name' + (', may be repeated' if name == 'compare' else '')
            command.add_argument('-t', '--tokenizer', action='append', default=[], help=text)
        if name in ('encode', 'show'):
            add_special_option(command)
        if name == 'show':
            command.add_argument('--ids', action='store_true', help='print the ids, too')
    return parser, subparsers.choices


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; args.command is the name of the command."""
    if argv is None:
        argv = sys.argv[1:]
    parser, commands = make_parser()
    if not argv or argv[0] not in commands:
        return parser.parse_args(argv)
    # "intermixed" allows files before, between and after the options
    args = commands[argv[0]].parse_intermixed_args(argv[1:])
    args.command = argv[0]
    if args.command not in ('train', 'compare') and len(args.tokenizer) != 1:
        raise ValueError(f'{args.command} needs one tokenizer: -t TOKENIZER')
    return args


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0; 1 if the machine fails; 2 if the user errs."""
    try:
        args = parse(argv)
        if sys.stdout is not None:
            run_command(args)
        elif args.command == 'train':
            train(args)
        else:
            raise ValueError('standard output is closed')
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # "| head" has seen enough; Python must not flush to it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        message = re.sub(r'^\[Errno \d+] ', '', str(error))
        print_message(f'tokenizer: {message}')
        machine_failed = (errno.ENOSPC, errno.EIO, errno.ENOMEM)
        return 1 if isinstance(error, OSError) and error.errno in machine_failed else 2
    return 0


def run_command(args: argparse.Namespace) -> None:
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(encoding='utf-8')  # the pipes of Windows are not
    COMMANDS[args.command](args)
    sys.stdout.flush()


if __name__ == '__main__':
    sys.exit(main())
