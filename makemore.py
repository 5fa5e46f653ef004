"""
makemore: give it a text file with one item per line, and it makes more items like them.

    python makemore.py -i names.txt --type transformer         train, and print new names
    python makemore.py -i names.txt --type ngram               count n-grams: done in seconds
    python makemore.py --sample-only --num-samples 100         sample from the newest run
    python makemore.py --sample-only --prompt chr --new-only   names with chr... not in the data
    python makemore.py --resume --max-steps 20000              continue the newest run
    python makemore.py -i shakespeare.txt --text               one long text instead of lines
    torchrun --standalone --nproc_per_node=2 makemore.py       two processes, with the same steps

From Python: run = makemore.train('names.txt', type='gru') trains a model,
makemore.sample(run.model, run.dataset) samples from it, and
model, dataset = makemore.load('out/names-gru') loads a saved run.

Read it from top to bottom: settings, output and processes, data set, models (from n-gram counts to
a GPT), sampling, checkpoints, training, command line. A new model is one class with the decorator
`register`: training, sampling, checkpoints and --type NAME work for it.
"""

import argparse
import codecs
import contextlib
import copy
import difflib
import functools
import gc
import hashlib
import io
import itertools
import json
import math
import os
import random
import re
import reprlib
import shlex
import shutil
import signal
import string
import sys
import sysconfig
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, get_args

# An older Python would stop with a traceback further below.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f'makemore needs Python 3.10 or newer; this is Python {sys.version.split()[0]}')
gc.disable()  # importing torch creates 165,000 lasting objects: no need to search them for garbage
try:
    with warnings.catch_warnings():
        # without numpy, which this program does not need, torch warns on every start
        warnings.filterwarnings('ignore', 'Failed to initialize NumPy')
        # before torch imports it: torch would swallow a Ctrl-C that is typed meanwhile
        with contextlib.suppress(ImportError):
            import numpy  # noqa: F401
        import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from tqdm import tqdm
except ModuleNotFoundError as error:
    sys.exit(f'makemore needs {error.name}: install it with pip install torch tqdm')
except KeyboardInterrupt:  # importing torch takes a second
    sys.exit(130)
finally:
    gc.enable()

try:  # optional: makemore.py on its own still trains, resumes and samples
    from makemore_extras import (
        audit,
        backprop,
        board,
        diagnostics,
        fast,
        longtext,
        pictures,
        runs,
        torchrun,
    )
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as error:
    if error.name != 'makemore_extras':
        raise
    HAVE_EXTRAS = False
else:
    HAVE_EXTRAS = True

__version__ = '2.0.0'

# For notebooks and other programs. The classes are not listed, because in help(makemore) they would
# fill pages with what they inherit: Config, Run, CharDataset, LanguageModel, UserError, RunError.
__all__ = ['evaluate', 'load', 'main', 'register', 'sample', 'train']


class UserError(ValueError):
    """A mistake that the user can correct: reported in one line, exit code 2."""


class RunError(Exception):
    """A failure during a run (a full disk, a loss of nan): reported in one line, exit code 1."""


class Stopped(Exception):  # noqa: N818 (a signal is no error)
    """A signal has stopped the training, which can be resumed."""


# -----------------------------------------------------------------------------
# settings
#
# Config is the single list of settings. The flags of the command line, their help, the defaults
# and the entries in a checkpoint are all derived from it.

MODELS: dict[str, type['LanguageModel']] = {}  # --type NAME; `register` fills it

GROUPS = ('data', 'model', 'training', 'logging', 'output folder', 'sampling', 'machine')
SAVED_GROUPS = ('data', 'model', 'training')  # the groups that are saved in a checkpoint

# What people type for --type, and the name that the model has here.
OTHER_NAMES = {'cnn': 'wavenet is the convolutional model'}


def option(
    group: str, default: Any, help: str, limits: tuple | None = None, **metadata: Any
) -> Any:
    """A field of Config, with its help text and its lowest and highest value (None: no limit).

    The metadata can be `choices`, a second `flag`, `fixed=True` for settings that cannot change
    after training has started, a `metavar`, what a default of None means (`automatic`), and a
    `note` on the default.
    """
    metadata |= {'group': group, 'help': help, 'limits': limits}
    return field(default=default, metadata=metadata)


@dataclass
class Config:
    """All settings of a run, with their defaults. An invalid value raises a UserError."""

    input_file: str = option(
        'data', 'names.txt', 'one item per line; - reads standard input', flag='-i', metavar='FILE'
    )
    encoding: str = option('data', 'utf-8', 'character encoding of the input file')
    split: str = option(
        'data',
        'honest',
        'honest: 80/10/10, dev and test without lines that also occur in train; '
        'lecture: plain 80/10/10; all: train and evaluate on all lines',
        choices=('honest', 'lecture', 'all'),
        fixed=True,
    )
    text: bool = option('data', False, 'treat the input as one long text, not as lines', fixed=True)
    tokenizer: str = option('data', 'char', 'char, bpe (learned) or a tokenizer file', fixed=True)
    vocab_size: int = option('data', 512, 'vocabulary of --tokenizer bpe', (256, 2**20), fixed=True)

    type: str = option('model', 'mix', 'model type', note='--text: transformer', fixed=True)
    members: str | None = option(
        'model',
        None,
        'mix: the model types that vote, as in ngram,gru',
        automatic='by size',
        fixed=True,
    )
    block_size: int | None = option(
        'model', None, 'context length', (1, 2**16), automatic='longest line', fixed=True
    )
    n_layer: int | None = option('model', 4, 'number of layers', (1, 512), fixed=True)
    n_head: int | None = option('model', 4, 'number of attention heads', (1, 512), fixed=True)
    n_embd: int | None = option('model', 64, 'embedding channels', (1, 2**16), fixed=True)
    n_hidden: int | None = option(
        'model', 64, 'hidden channels', (1, 2**16), flag='--n-embd2', fixed=True
    )
    dropout: float | None = option('model', 0.0, 'dropout probability', (0, 0.99))
    smoothing: str = option(
        'model',
        'kn',
        'ngram: kn (interpolated Kneser-Ney) or add:K (add K to every count)',
        fixed=True,
    )

    batch_size: int = option(
        'training', 64, 'items per step', (1, 2**20), flag='-b', note='fewer on a short list'
    )
    learning_rate: float = option(
        'training', 2e-3, 'peak learning rate', (0, None), flag='-l', note='less for small batches'
    )
    weight_decay: float = option('training', 0.1, 'weight decay of matrices', (0, None), flag='-w')
    max_steps: int = option(
        'training', 10000, 'training steps', (0, 10**9), note='fewer on a short list'
    )
    warmup: int | None = option(
        'training', None, 'warmup steps', (0, None), automatic='1/20 of all steps'
    )
    grad_clip: float | None = option('training', 1.0, 'maximum gradient norm; 0: none', (0, None))
    backprop: str = option(
        'training',
        'autograd',
        'autograd, manual or micrograd',
        choices=('autograd', 'manual', 'micrograd'),
    )
    seed: int = option('training', 3407, 'random seed', (0, 2**62), note='fresh for --sample-only')
    eval_interval: int = option(
        'training', 500, 'steps between evaluations', (1, None), note='fewer on a short list'
    )
    patience: int | None = option(
        'training',
        None,
        'stop after so many steps without a lower dev loss',
        (1, None),
        automatic='a third of all steps',
    )

    sample_interval: int | None = option('logging', 1000, 'steps between samples', (1, None))
    diagnose: int | None = option(
        'logging', None, 'steps between reports on activations, gradients, updates', (1, None)
    )
    check_backprop: bool = option('logging', False, 'compare --backprop with autograd, then exit')
    find_lr: bool = option('logging', False, 'run a learning-rate range test, then exit')

    work_dir: str | None = option(
        'output folder',
        None,
        'folder of the run',
        flag='-o',
        metavar='DIR',
        automatic='new, or the newest',
    )
    resume: bool = option('output folder', False, 'continue the newest run, or that in -o')
    overwrite: bool = option('output folder', False, 'replace the run in -o')
    runs: bool = option('output folder', False, 'print a table of all runs, best first')

    sample_only: bool = option('sampling', False, 'only sample, from the newest run or that in -o')
    num_samples: int = option('sampling', 20, 'number of samples', (0, None), note='1 of a --text')
    prompt: str = option('sampling', '', 'start of every sample; @FILE reads it')
    length: int | None = option(
        'sampling',
        None,
        'most new tokens in a sample',
        (1, None),
        automatic='twice the longest line',
    )
    temperature: float = option('sampling', 1.0, 'sampling temperature; 0 is greedy', (0, None))
    top_k: int | None = option('sampling', None, 'keep the k most probable tokens', (1, None))
    top_p: float | None = option('sampling', None, 'nucleus sampling probability', (1e-9, 1))
    new_only: bool = option('sampling', False, 'skip samples that are in the data, and repeats')
    match: str = option('sampling', '', "regular expression that samples match: '^s.*a$'")

    device: str = option('machine', 'auto', 'auto, cpu, cuda, cuda:N or mps')
    threads: int | None = option('training', None, 'CPU threads', (1, 512), automatic='1')
    compile: bool = option('machine', False, 'compile the model with torch.compile, for GPUs')

    def __post_init__(self):
        for name in SETTINGS:
            setattr(self, name, check_value(name, getattr(self, name)))


# None for a mix: each member has what its type prefers
SIZES = ('n_layer', 'n_head', 'n_embd', 'n_hidden', 'dropout')

SETTINGS = {setting.name: setting for setting in fields(Config)}


def flag_of(name: str) -> str:
    """The flag of a setting: n_layer -> --n-layer."""
    return '--' + name.replace('_', '-')


def suggest(word: str, words: Iterable[str]) -> str:
    """A hint for a misspelled word: 'transfomer' -> ' (did you mean transformer?)'"""
    matches = difflib.get_close_matches(word, list(words), n=1)
    return f' (did you mean {matches[0]}?)' if matches else ''


def value_type(name: str) -> type:
    """The type of a setting, int for `int | None`."""
    annotation = SETTINGS[name].type
    types = get_args(annotation)  # (int, NoneType), or () for a plain int
    return types[0] if types else annotation


def convert_value(name: str, value: Any) -> Any:
    """The value with the type of its setting: convert_value('n_head', '8') -> 8."""
    is_optional = type(None) in get_args(SETTINGS[name].type)
    if is_optional and value in (None, 'none'):
        return None
    wanted = value_type(name)
    accepted = {int: (str, Integral), float: (str, Real), str: Path}.get(wanted, ())
    if isinstance(value, accepted) and type(value) is not bool:  # numbers of numpy, too
        with contextlib.suppress(ValueError, OverflowError):
            value = wanted(value)
    if type(value) is not wanted:  # not isinstance, which would accept True as an int
        kind = {int: 'a whole number', float: 'a number'}.get(wanted, wanted.__name__)
        raise UserError(f'{flag_of(name)} {reprlib.repr(value)}: expected {kind}')
    return value


def check_pattern(pattern: str):
    """Raise a UserError if the pattern is not a valid regular expression."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f'--match {pattern}: {error}') from None


def check_value(name: str, value: Any) -> Any:
    """The value of a setting, converted. Raises a UserError if it is not allowed."""
    value = convert_value(name, value)
    if value is None:
        return None
    if SETTINGS[name].metadata['limits']:
        lowest, highest = SETTINGS[name].metadata['limits']
        # nan and infinity are outside of every limit
        if not lowest <= value <= (highest or sys.float_info.max):
            at_most = f' and at most {highest}' if highest else ''
            raise UserError(f'{flag_of(name)} {value}: must be at least {lowest}{at_most}')
    if name == 'match':
        check_pattern(value)
    if name == 'members':
        parse_members(value)
    choices = list(MODELS) if name == 'type' else SETTINGS[name].metadata.get('choices')
    if choices and value not in choices:
        hint = suggest(value, choices)
        if name == 'type' and value in OTHER_NAMES:
            hint = f' ({OTHER_NAMES[value]})'
        raise UserError(f'{flag_of(name)} {value}: unknown{hint}; choose {", ".join(choices)}')
    return value


def resolve_config(cli_args: dict, saved_settings: dict | None = None) -> Config:
    """The settings of a run.

    From lowest to highest priority: the defaults, what the model type prefers, the checkpoint, the
    command line. A flag that contradicts the saved weights is an error.
    """
    saved_settings = saved_settings or {}
    for name in saved_settings.keys() & cli_args.keys():
        given = cli_args[name]
        saved = saved_settings[name]
        if SETTINGS[name].metadata.get('fixed') and given != saved:
            raise UserError(f'{flag_of(name)} {given} contradicts the checkpoint: it has {saved}')

    settings = saved_settings | cli_args
    default_type = 'transformer' if settings.get('text') else Config.type
    model_type = settings.get('type', default_type)
    preferred = {'type': model_type, **MODELS[model_type].preferred_settings}
    if cli_args.get('backprop') == 'micrograd':
        preferred['dropout'] = 0.0  # micrograd has no dropout
    config = Config(**(preferred | settings))
    if config.text and config.match:
        raise UserError(f'--match {config.match} works with lists only, not with --text')
    for name in SIZES:
        if getattr(config, name) is None and model_type != 'mix':
            raise UserError(f'{flag_of(name)} none: expected a number')
    return config


def settings_to_save(config: Config) -> dict[str, Any]:
    """The settings that are stored in a checkpoint, by name."""
    saved = {}
    for name, setting in SETTINGS.items():
        if setting.metadata['group'] in SAVED_GROUPS:
            saved[name] = getattr(config, name)
    return saved


# -----------------------------------------------------------------------------
# output and processes


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return torch.distributed.is_torchelastic_launched() and 'RANK' in os.environ


def get_rank() -> int:
    """Rank of this process; 0 without torchrun."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get('RANK', '0')) if launched_by_torchrun() else 0


def get_world_size() -> int:
    """Number of processes that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def sum_over_ranks(*numbers: float) -> list[float]:
    """Each number, summed over all processes."""
    totals = torch.tensor(numbers, dtype=torch.float64)
    if get_world_size() > 1:
        torch.distributed.all_reduce(totals)
    return totals.tolist()


def mean_over_ranks(numbers: torch.Tensor) -> float:
    """The mean of the numbers of all processes."""
    total, n = sum_over_ranks(numbers.double().sum().item(), len(numbers))
    return total / n


def broadcast_path(path: Path | None) -> Path:
    """The path that rank 0 has, for every process."""
    # not by broadcast_object_list, which needs numpy
    raw = os.fsencode(path) if path else b''
    size = int(sum_over_ranks(len(raw))[0])  # the others add 0
    codes = torch.tensor(list(raw.ljust(size, b'\0')), dtype=torch.uint8)
    torch.distributed.broadcast(codes, src=0)
    return Path(os.fsdecode(bytes(codes.tolist())))


def wait_for_ranks():
    """Wait until every process has reached this point."""
    sum_over_ranks(0)


def escape_control_chars(text: str, stream: Any) -> str:
    """The text, safe to write to the stream.

    Control characters in the data could take control of a terminal, so they are escaped for one.
    A file or a pipe gets the text as it is.
    """
    if not stream.isatty():
        return text
    control_chars = r'[\x00-\x08\x0b-\x1f\x7f-\x9f]'  # all but tab and newline
    # repr writes an escape in quotes: [1:-1] drops them
    return re.sub(control_chars, lambda match: repr(match[0])[1:-1], text)


def in_notebook() -> bool:
    """Whether the output goes to a notebook."""
    return type(sys.stdout).__module__.startswith('ipykernel')


def log_stream() -> Any:
    """Where progress and log go: stderr, but in a notebook, which shows that in red, stdout."""
    return sys.stdout if in_notebook() else sys.stderr


def print0(message: str, stream: Any = None):
    """Print a line on rank 0, by default to the log, without breaking a progress bar."""
    stream = stream or log_stream()
    if get_rank() == 0 and stream is not None:
        tqdm.write(escape_control_chars(message, stream), file=stream)


def print_result(message: str):
    """Print a line on rank 0 to stdout, where samples and results go."""
    if sys.stdout is not None:
        print0(message, sys.stdout)


def name_python() -> str:
    """What starts this Python in a shell: python, python3, or its path if neither does."""
    python = Path(sys.executable)
    for name in ('python', 'python3'):
        found = Path(shutil.which(name) or '')
        # not the file itself: in a virtual environment it is a link to the Python of the system
        if found.name == python.name and found.parent.resolve() == python.parent.resolve():
            return name
    return str(python)


def short_path(path: str) -> str:
    """A path as one would type it here: ../makemore.py, or the absolute one if that is shorter."""
    absolute = os.path.abspath(path)
    try:
        return min(os.path.relpath(path), absolute, key=len)
    except ValueError:  # on another drive of Windows
        return absolute


def command(*args: Any) -> str:
    """A command of this program that can be pasted into a shell."""
    program = Path(sys.argv[0])
    if program.stem == 'makemore' and program.suffix != '.py':  # installed
        start = ['makemore']
    elif program.name == 'makemore.py':
        start = [name_python(), str(program)]
    else:  # called from a notebook or another program
        is_here = Path('makemore.py').exists()
        start = [name_python(), 'makemore.py' if is_here else short_path(__file__)]
    return shlex.join([*start, *map(str, args)])


def progress_bar(items: Iterable | None = None, desc: str | None = None, **how: Any) -> tqdm:
    """A progress bar on rank 0, if the log goes to a terminal or a notebook."""
    stream = log_stream()
    is_visible = in_notebook() or (stream is not None and stream.isatty())
    hidden = get_rank() > 0 or not is_visible
    return tqdm(items, desc=desc, disable=hidden, dynamic_ncols=True, file=stream, **how)


def need_extras(flag: str):
    """Raise a UserError that names the flag if makemore_extras is missing."""
    if not HAVE_EXTRAS:
        raise UserError(f'{flag} needs the folder makemore_extras beside makemore.py')


def sync_folder(folder: Path):
    """Flush a folder to disk (POSIX only), so that new file names survive a power failure."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, write: Callable[[io.BufferedWriter], Any]):
    """Write a whole file or nothing.

    The content goes to a temporary file, is flushed to the disk, and then replaces the old file. A
    crash at any moment leaves either the old file or the new one.
    """
    temporary = path.with_name(path.name + '.tmp')
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, 'xb') as file:  # x: never through a link that somebody put there
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        raise RunError(f'cannot save {path}: {reason}; the old file is untouched') from None


def init_device(name: str) -> torch.device:
    """The device with this name; `auto` is a GPU where there is one."""
    if name == 'auto':
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = str(accelerator or 'cpu')
    try:
        device = torch.device(name)
        if device.type == 'cuda' and launched_by_torchrun():
            device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)  # fails if there is no such device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith('Expected one of'):  # torch lists twenty names
            reason = 'unknown; choose auto, cpu, cuda, cuda:N or mps'
        raise UserError(f'--device {name}: {reason}') from None
    return device


def resume_after_restart(cli_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments; after a restart by torchrun, changed so that they continue the saved run."""
    if not torchrun.was_restarted():
        return cli_args
    folder = Path(cli_args['work_dir'])
    if not torchrun.has_begun_run(folder):  # what the folder holds, if anything, is an older run
        return cli_args
    has_checkpoint = (folder / 'last.pt').exists()
    kept = {name: value for name, value in cli_args.items() if name != 'overwrite'}
    return kept | {'resume' if has_checkpoint else 'overwrite': True}


@contextlib.contextmanager
def process_group(cli_args: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Join the processes that torchrun started, and leave them at the end.

    Yields the arguments to continue with: a restarted group resumes what was saved before.
    """
    if not launched_by_torchrun():
        yield cli_args
        return
    if HAVE_EXTRAS:
        try:
            torchrun.init_process_group(cli_args.get('work_dir'))
        except ValueError as error:
            raise UserError(str(error)) from None
        cli_args = resume_after_restart(cli_args)
    else:
        torch.distributed.init_process_group()
    try:
        yield cli_args
    finally:
        torch.distributed.destroy_process_group()


# -----------------------------------------------------------------------------
# data set

MAX_PIECE = 64  # longer lines are cut into pieces, unless --block-size is larger
SLOW_TO_READ = 2**22  # bytes: reading a larger file takes about a second
LARGE_TEXT = 2**21  # bytes: the tokens of a larger --text are kept on disk by makemore_extras
MAX_CHARS = 300_000  # different ones; Unicode has fewer, so more are a file made to take memory


class CharTokenizer:
    """One token per character: CharTokenizer('ab').encode_ordinary('ba') -> [1, 0].

    The methods are named as in tokenizer.Tokenizer (byte pairs), which can take its place.
    """

    def __init__(self, chars: str):
        if len(chars) > MAX_CHARS:
            raise UserError(f'{len(chars):,} different characters: at most {MAX_CHARS:,}')
        self.chars = chars
        self.vocab_size = len(chars)
        self.token_of = {ch: token for token, ch in enumerate(chars)}

    def encode_ordinary(self, text: str) -> list[int]:
        """The tokens of a text."""
        unknown = sorted(set(text) - self.token_of.keys())
        if unknown:
            lower = text.lower()
            if set(lower) <= self.token_of.keys():
                hint = f'try {reprlib.repr(lower)}'
                raise UserError(f'{unknown[0]!r} is not in the vocabulary; {hint}')
            known = reprlib.repr(self.chars) if len(self.chars) > 500 else repr(self.chars)
            raise UserError(f'{unknown[0]!r} is not in the vocabulary, which is {known}')
        return [self.token_of[ch] for ch in text]

    def encode_text(self, text: str) -> torch.Tensor:
        """The tokens of a large text, by one vectorized lookup; unknown characters become -1."""
        table = torch.full((sys.maxunicode + 1,), -1, dtype=torch.int32)
        table[code_points(self.chars).long()] = torch.arange(self.vocab_size, dtype=torch.int32)
        return table.index_select(0, code_points(text))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens."""
        return ''.join(self.chars[token] for token in tokens)

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of each token in turn."""
        return (self.chars[token] for token in tokens)


def code_points(text: str) -> torch.Tensor:
    """'az' -> tensor([97, 122]), without a loop: UTF-32 is an array of integers already."""
    if not text:
        return torch.zeros(0, dtype=torch.int32)
    raw = bytearray(text.encode('utf-32-le', 'surrogatepass'))
    return torch.frombuffer(raw, dtype=torch.int32)


EMPTY = torch.zeros(0, dtype=torch.int64)


class Spans(NamedTuple):
    """Slices of the flat token tensor: where each starts, and how many targets it has."""

    starts: torch.Tensor = EMPTY
    lengths: torch.Tensor = EMPTY

    def select(self, rows: torch.Tensor | slice) -> 'Spans':
        """The spans with these row numbers."""
        return Spans(self.starts[rows], self.lengths[rows])


@dataclass(repr=False)
class CharDataset:
    """Lines of text as one flat tensor of tokens, with spans for train, dev and test.

    Token 0 marks the boundary between two lines. The lines "emma" and "ava" are stored as

        0 e m m a 0 a v a 0

    A span is a start and a length: its inputs are tokens[start : start + length], and its targets
    are the same slice shifted by one.

    With --text there is one long item and no boundary, so tokens are numbered from 0. With
    --tokenizer bpe the tokens are learned pieces of text (byte-pair encoding). A data set that is
    restored from a checkpoint has a vocabulary and lines, but no tokens and no spans.
    """

    tokenizer: Any
    max_len: int  # tokens in the longest item: a line, or all of train in one long text
    train_lines: list[str] = field(default_factory=list)
    heldout_lines: list[str] = field(default_factory=list)  # dev and test
    is_text: bool = False
    text_hash: str = ''  # of one long text, whose lines are not kept
    tokens: torch.Tensor | None = None
    spans: dict[str, Spans] = field(default_factory=dict)
    n_chars: int = 0  # line ends included
    n_removed: int = 0  # dev and test lines that were left out because they also occur in train

    def __repr__(self) -> str:
        if self.is_text:
            size = 'one long text'
        else:
            size = f'{len(self.train_lines):,} lines in train'
            size += f', {len(self.heldout_lines):,} in dev and test'
        loaded = '' if self.spans else ', tokens not loaded'
        return f'CharDataset(vocabulary of {self.vocab_size:,}, {size}{loaded})'

    @property
    def first_id(self) -> int:
        """The lowest id of an ordinary token: token 0 may be the boundary."""
        return 0 if self.is_text else 1

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the boundary included."""
        return self.tokenizer.vocab_size + self.first_id

    @property
    def chars(self) -> str:
        """The characters of the vocabulary; '' with byte pairs."""
        return getattr(self.tokenizer, 'chars', '')

    @property
    def tokens_per_char(self) -> float:
        """1 with characters, less with byte pairs."""
        return (len(self.tokens) - self.first_id) / self.n_chars

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; with the characters 'ab', encode('ba') -> [2, 1]."""
        return [token + self.first_id for token in self.tokenizer.encode_ordinary(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens, boundaries skipped."""
        ids = [token - self.first_id for token in tokens if token >= self.first_id]
        return self.tokenizer.decode(ids)

    def classify(self, texts: list[str]) -> list[str]:
        """For each text 'in train', 'in dev or test', 'new' or 'empty'."""
        train = set(self.train_lines)
        heldout = set(self.heldout_lines)
        classes = []
        for text in texts:
            if text in train:
                classes.append('in train')
            elif text in heldout:
                classes.append('in dev or test')
            elif text:
                classes.append('new')
            else:
                classes.append('empty')
        return classes

    def state(self) -> dict[str, Any]:
        """The part of the data set that is saved in a checkpoint: plain types only."""
        return {
            'text': self.is_text,
            'text_hash': self.text_hash,
            'max_len': self.max_len,
            'chars': self.chars or None,
            'byte_pairs': None if self.chars else self.tokenizer.to_dict(),
            'train_lines': '\n'.join(self.train_lines),
            'heldout_lines': '\n'.join(self.heldout_lines),
        }


def restore_dataset(state: dict[str, Any]) -> CharDataset:
    """The data set that a checkpoint describes."""
    if state['byte_pairs'] is None:
        tokenizer = CharTokenizer(state['chars'])
    else:
        from tokenizer import Tokenizer

        tokenizer = Tokenizer.from_dict(state['byte_pairs'])
    dataset = CharDataset(tokenizer, int(state['max_len']), is_text=state['text'])
    dataset.text_hash = state['text_hash']
    if state['train_lines']:
        dataset.train_lines = state['train_lines'].split('\n')
    if state['heldout_lines']:
        dataset.heldout_lines = state['heldout_lines'].split('\n')
    return dataset


def name_input(path: str) -> str:
    """An --input-file as it is named in a message."""
    return 'standard input' if path == '-' else path


def read_text(path: str, encoding: str, flags: str = '-i and --encoding') -> str:
    """The text of a file, or of standard input for -.

    Line ends become `\\n`, and a byte order mark is dropped. An error names the flags that may
    have to change.
    """
    raw = b''
    try:
        if path == '-':
            if sys.stdin is None:
                raise UserError('-i -: standard input is closed')
            if sys.stdin.isatty():
                print0('reading from the keyboard; end with Ctrl-D')
            raw = sys.stdin.buffer.read()
        elif Path(path).is_char_device():  # /dev/urandom never ends
            raise UserError(f'cannot read {path}: it is a device; see -i')
        else:
            raw = Path(path).read_bytes()
        if len(raw) > SLOW_TO_READ:
            print0(f'reading {name_input(path)} ({len(raw) / 1e6:.0f} MB)')
        is_utf8 = codecs.lookup(encoding).name == 'utf-8'
        codec = 'utf-8-sig' if is_utf8 else encoding  # utf-8-sig drops the byte order mark
        return io.TextIOWrapper(io.BytesIO(raw), codec).read()  # which turns \r\n and \r into \n
    except UserError:  # which is a ValueError, too
        raise
    except (OSError, LookupError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise UserError(describe_undecodable(path, raw, encoding, error)) from None
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'cannot read {path}: {reason}; see {flags}') from None


def describe_undecodable(path: str, raw: bytes, encoding: str, error: UnicodeError) -> str:
    """What is wrong with a file that is not in this encoding."""
    name = name_input(path)
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b'\0' in raw and not is_utf16:
        return f'{name} is not a text file'
    line = line_of_error(raw, encoding, error)
    guess = 'utf-16' if is_utf16 and encoding == Config.encoding else 'latin-1'
    return f'{name}, line {line} is not {encoding}: name its encoding, as in --encoding {guess}'


def line_of_error(raw: bytes, encoding: str, error: UnicodeError) -> int:
    """The number of the line that could not be decoded."""
    try:
        raw.decode(encoding)  # all at once: TextIOWrapper's error counts from the last piece
    except UnicodeError as whole_error:
        error = whole_error
    before = raw[: getattr(error, 'start', 0)]
    try:
        valid = before.decode(encoding, 'ignore')
    except UnicodeError:  # idna cannot ignore errors
        valid = before.decode('latin-1')
    return io.StringIO(valid + '.', newline=None).read().count('\n') + 1


def load_tokenizer(config: Config, train_texts: Iterable[str]) -> Any:
    """A byte-pair tokenizer, trained on the texts or loaded from a file."""
    try:
        from tokenizer import Tokenizer
    except ModuleNotFoundError as error:
        raise UserError(f'--tokenizer {config.tokenizer} needs the package {error.name}') from None
    try:
        if config.tokenizer != 'bpe':
            return Tokenizer.load(config.tokenizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            print0(f'learning {config.vocab_size:,} tokens by byte-pair encoding')
            tokenizer = Tokenizer().train(train_texts, config.vocab_size)
    except (OSError, ValueError) as error:
        raise UserError(f'--tokenizer {config.tokenizer}: {error}') from None
    for warning in caught:  # such as: the text has too few pairs
        print0(f'--tokenizer bpe: {warning.message}')
    return tokenizer


def smallest_int_type(vocab_size: int) -> torch.dtype:
    """The smallest integer type that holds all tokens: int64 takes up to eight times the memory."""
    if vocab_size <= 2**8:
        return torch.uint8
    return torch.int16 if vocab_size <= 2**15 else torch.int32


def split_lines(lines: Sequence[str], split: str) -> dict[str, list[int]]:
    """Shuffled line numbers for train, dev and test. They do not depend on --seed."""
    order = list(range(len(lines)))
    random.Random(42).shuffle(order)
    if split == 'all':
        return {'train': order, 'dev': order, 'test': []}
    train_end = max(1, int(0.8 * len(lines)))
    dev_end = max(1, int(0.9 * len(lines)))
    train = order[:train_end]
    dev = order[train_end:dev_end]
    test = order[dev_end:]
    if split == 'honest':
        in_train = {lines[row] for row in train}
        dev = [row for row in dev if lines[row] not in in_train]
        test = [row for row in test if lines[row] not in in_train]
    return {'train': train, 'dev': dev, 'test': test}


def encode_lines(lines: list[str], tokenizer: Any) -> torch.Tensor:
    """All lines as one flat tensor, with a 0 before, between and after them."""
    if isinstance(tokenizer, CharTokenizer):
        # a line end is not in the vocabulary: it is encoded as -1, and + 1 makes it the boundary
        text = '\n' + '\n'.join(lines) + '\n'
        tokens = tokenizer.encode_text(text) + 1
    else:
        ids = [0]
        for line in lines:
            ids.extend(token + 1 for token in tokenizer.encode_ordinary(line))
            ids.append(0)
        tokens = torch.tensor(ids)
    return tokens.to(smallest_int_type(tokenizer.vocab_size + 1))


def load_lines(config: Config) -> CharDataset:
    """The data set of a file with one item per line: stripped, without blank lines."""
    text = read_text(config.input_file, config.encoding)
    stripped = map(str.strip, text.split('\n'))
    lines = [line for line in stripped if line]
    if not lines:
        name = name_input(config.input_file)
        raise UserError(f'{name} is empty or blank: expected one item per line')

    rows = split_lines(lines, config.split)
    train_lines = [lines[row] for row in rows['train']]
    heldout_lines = []
    if config.split != 'all':
        heldout_lines = [lines[row] for row in rows['dev'] + rows['test']]

    if config.tokenizer == 'char':
        tokenizer = CharTokenizer(''.join(sorted(set(''.join(lines)))))
    else:
        tokenizer = load_tokenizer(config, train_lines)
    tokens = encode_lines(lines, tokenizer)

    # a line starts at the boundary before it; its targets are its tokens and the boundary after it
    boundaries = (tokens == 0).nonzero().flatten()  # (n_lines + 1,)
    all_spans = Spans(boundaries[:-1], boundaries.diff())
    spans = {}
    for name, numbers in rows.items():
        spans[name] = all_spans.select(torch.tensor(numbers, dtype=torch.int64))
    return CharDataset(
        tokenizer,
        max_len=int(all_spans.lengths.max()) - 1,
        train_lines=train_lines,
        heldout_lines=heldout_lines,
        tokens=tokens,
        spans=spans,
        n_chars=sum(map(len, lines)) + len(lines),
        n_removed=len(lines) - len(train_lines) - len(heldout_lines),
    )


def one_span(start: int, end: int) -> Spans:
    """tokens[start:end] as a span; the last token is only a target."""
    return Spans(torch.tensor([start]), torch.tensor([end - start - 1]))


def check_text_size(path: str, n_chars: int, chars: str):
    """Refuse a text from which nothing can be learned."""
    if n_chars < 20 or len(chars) < 2:
        hint = 'expected at least 20 characters, not all the same'
        raise UserError(f'{path} holds too little text: {hint}')


def load_text(config: Config) -> CharDataset:
    """The data set of one long text that fits in memory: 90 % train, the rest dev, no test."""
    text = read_text(config.input_file, config.encoding)
    chars = ''.join(sorted(set(text)))
    check_text_size(name_input(config.input_file), len(text), chars)
    n_train = int(0.9 * len(text))
    if config.tokenizer == 'char':
        tokenizer = CharTokenizer(chars)
        tokens = tokenizer.encode_text(text)
    else:
        tokenizer = load_tokenizer(config, [text[:n_train]])
        train = tokenizer.encode_ordinary(text[:n_train])
        rest = tokenizer.encode_ordinary(text[n_train:])
        n_train = len(train)
        tokens = torch.tensor(train + rest)
    spans = {'train': one_span(0, n_train), 'dev': one_span(n_train, len(tokens)), 'test': Spans()}
    return CharDataset(
        tokenizer,
        max_len=n_train,
        is_text=True,
        text_hash=hashlib.blake2b(text.encode('utf-8', 'surrogatepass')).hexdigest(),
        tokens=tokens.to(smallest_int_type(tokenizer.vocab_size)),
        spans=spans,
        n_chars=len(text),
    )


def is_large_text(config: Config) -> bool:
    """Whether to keep the tokens of a --text on disk."""
    path = Path(config.input_file)
    with contextlib.suppress(OSError, ValueError):  # load_text will report the error
        return HAVE_EXTRAS and config.text and path.stat().st_size > LARGE_TEXT
    return False


def load_large_text(config: Config, folder: Path) -> CharDataset:
    """The data set of a text of any size: its tokens are a memory-mapped file in the folder."""
    path = config.input_file

    def make_tokenizer(chars: str, train: Iterable[str]) -> tuple[Any, dict]:
        check_text_size(path, 20, chars)  # it is long enough, but is it more than one character?
        use_chars = config.tokenizer == 'char'
        tokenizer = CharTokenizer(chars) if use_chars else load_tokenizer(config, train)
        return tokenizer, CharDataset(tokenizer, max_len=0, is_text=True).state()

    def show_progress(pieces: Iterable, label: str) -> Iterable:
        return progress_bar(pieces, label, leave=False, unit=' pieces', delay=1)

    options = [config.encoding, config.tokenizer, config.vocab_size]
    try:
        found = longtext.open_tokens(folder, path, options)
        if found:
            print0(f'{folder / longtext.TOKENS}: reusing these tokens, the text has not changed')
        elif get_rank() == 0:
            longtext.write_tokens(
                folder, path, options, make_tokenizer, write_atomically, show_progress
            )
        wait_for_ranks()  # one process writes, the others wait for it
        found = found or longtext.open_tokens(folder, path, options)
    except (UnicodeError, LookupError):
        read_text(path, config.encoding)  # raises a UserError that names the line
        raise
    except UserError:  # which is a ValueError, too
        raise
    except ValueError as error:
        raise RunError(str(error)) from None
    if not found:
        raise RunError(
            f'{folder / longtext.TOKENS} was not made from {path}: start again, it may have changed'
        )

    n_train = found.n_train_tokens
    dataset = restore_dataset(found.dataset | {'max_len': n_train, 'text_hash': found.text_hash})
    dataset.tokens = found.tokens
    dataset.n_chars = found.n_chars
    dataset.spans = {
        'train': Spans(*longtext.evaluation_spans(0, n_train)),
        'dev': Spans(*longtext.evaluation_spans(n_train, len(found.tokens))),
        'test': Spans(),
    }
    return dataset


def cut_spans(spans: Spans, size: int) -> Spans:
    """The spans, cut into pieces of at most this size.

    Lengths [5, 3] and size 2 give pieces of [2, 2, 1] and [2, 1] tokens.
    """
    n_pieces = (spans.lengths + size - 1) // size  # [3, 2]
    first_piece = n_pieces.cumsum(0) - n_pieces  # [0, 3]
    number = torch.arange(int(n_pieces.sum()))  # [0, 1, 2, 3, 4]
    number -= first_piece.repeat_interleave(n_pieces)  # [0, 1, 2, 0, 1]
    offsets = number * size  # [0, 2, 4, 0, 2]
    starts = spans.starts.repeat_interleave(n_pieces) + offsets
    lengths = spans.lengths.repeat_interleave(n_pieces) - offsets  # [5, 3, 1, 3, 1]
    return Spans(starts, lengths.clamp(max=size))


def describe_dataset(config: Config, dataset: CharDataset) -> str:
    """Two lines for the log: size of the input, size of each split."""
    name = name_input(config.input_file)
    size = f'{len(dataset.tokens):,} tokens, vocabulary of {dataset.vocab_size:,}'
    if dataset.is_text:
        n_train = dataset.max_len
        return f'{name}: {size}\n{n_train:,} train, {len(dataset.tokens) - n_train:,} dev'

    n_lines = len(dataset.train_lines) + len(dataset.heldout_lines) + dataset.n_removed
    parts = []
    for split, spans in dataset.spans.items():
        n = len(spans.starts)
        parts.append(f'{n:,} {split}' if n > 0 else f'no {split}')
    sizes = ', '.join(parts)
    if dataset.n_removed:
        sizes += f'; removed {dataset.n_removed:,} dev and test lines that also occur in train'
    return f'{name}: {n_lines:,} lines, {size}\n{sizes}'


def load_data(config: Config, folder: Path | None = None) -> tuple[Config, CharDataset]:
    """The data set of a run, and the settings with the block size filled in."""
    if not config.text:
        dataset = load_lines(config)
    elif folder and is_large_text(config):
        dataset = load_large_text(config, folder)
    else:
        dataset = load_text(config)
    dataset.encode(config.prompt)  # fail early on a prompt with unknown characters
    model = MODELS[config.type]
    block_size = model.choose_block_size(config, min(dataset.max_len, MAX_PIECE - 1))
    print0(describe_dataset(config, dataset))

    size = max(block_size, model.piece_size)
    if dataset.max_len >= size:
        for split, spans in dataset.spans.items():
            dataset.spans[split] = cut_spans(spans, size)
        if not dataset.is_text:
            print0(f'lines of more than {size - 1} tokens are cut into pieces of {size}')
    return replace(config, block_size=block_size), dataset


def pad_batch(
    tokens: torch.Tensor, spans: Spans, device: torch.device | str = 'cpu'
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of some spans, both (B, T). Positions without a target are -1 in y."""
    lengths = spans.lengths[:, None]  # (B, 1)
    t = torch.arange(int(lengths.max()) + 1)  # (T + 1,)
    # past its end a row repeats its last token; y is -1 there, so it does not count
    index = spans.starts[:, None] + torch.minimum(t, lengths)  # (B, T + 1)
    batch = tokens[index].long()
    x = batch[:, :-1]  # (B, T)
    y = batch[:, 1:].masked_fill(t[:-1] >= lengths, -1)  # (B, T)
    return x.to(device), y.to(device)


def make_seed(*numbers: int) -> int:
    """A random seed derived from some numbers, such as (seed, step)."""
    # random.Random hashes a string, so that neighbouring steps get unrelated seeds
    return random.Random(repr(numbers)).getrandbits(63)


def make_generator(*numbers: int) -> torch.Generator:
    """A random generator seeded from some numbers, such as (seed, step)."""
    return torch.Generator().manual_seed(make_seed(*numbers))


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """A random order of n spans for one epoch. Cached, because every step needs it."""
    generator = make_generator(seed, epoch)
    return torch.randperm(n, dtype=torch.int32, generator=generator)


def choose_spans(dataset: CharDataset, config: Config, step: int) -> Spans:
    """The spans of train in the global batch of a step: a function of (seed, step) alone."""
    spans = dataset.spans['train']
    batch_size = config.batch_size
    if dataset.is_text:  # windows at random places, as long as the pieces that train is cut into
        lengths = spans.lengths[:1].expand(batch_size)
        n_starts = dataset.max_len - int(lengths[0])
        generator = make_generator(config.seed, step)
        starts = torch.randint(n_starts, (batch_size,), generator=generator)
        return Spans(starts, lengths)

    n = len(spans.starts)
    epoch, number = divmod(step, max(1, n // batch_size))  # the last, incomplete batch is dropped
    order = epoch_order(config.seed, epoch, n)
    if batch_size > n:  # a list shorter than a batch is repeated to fill it
        order = order.repeat(math.ceil(batch_size / n))
    rows = order[number * batch_size : (number + 1) * batch_size]
    return Spans(spans.starts.index_select(0, rows), spans.lengths.index_select(0, rows))


def get_batch(
    dataset: CharDataset, config: Config, step: int, device: torch.device | str = 'cpu'
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Inputs and targets of this process at a step, and the weight of their loss.

    With several processes each takes a part of the global batch. Gradients are averaged over
    processes, so the loss of each is weighted by n_ranks times its share of the targets: the
    average is then the gradient of the whole batch.
    """
    spans = choose_spans(dataset, config, step)
    n_ranks = get_world_size()
    mine = spans.select(slice(get_rank(), None, n_ranks))  # every n_ranks-th, from this rank on
    weight = 1.0
    if n_ranks > 1:
        weight = n_ranks * float(mine.lengths.sum() / spans.lengths.sum())
    x, y = pad_batch(dataset.tokens, mine, device)
    return x, y, weight


# -----------------------------------------------------------------------------
# models: what they have in common
#
# Every model maps tokens (B, T) to logits (B, T, vocab_size) for the next token at each position,
# and never looks to the right. The loss, the training loop and the sampler are shared.


def register(name: str, **preferred_settings: Any) -> Callable:
    """Class decorator: make a model available as --type NAME, with the settings it prefers.

    The first line of the class docstring is its summary in --help.
    """

    def add(cls: type['LanguageModel']) -> type['LanguageModel']:
        cls.preferred_settings = preferred_settings
        MODELS[name] = cls
        return cls

    return add


class LanguageModel(nn.Module):
    """Base class: a subclass implements `logits`.

    A model that is fitted by counting sets `is_counted` and implements `fit`.

    For fast sampling a model may keep tensors, batch first, or dictionaries of them in `cache`,
    which is empty at first. From then on it receives one new token at a time, and must return the
    same logits as for the whole sequence.
    """

    preferred_settings: dict[str, Any] = {}  # noqa: RUF012 (set once, by `register`)
    is_counted = False
    starts_uniform = True  # before training all tokens are about equally probable
    needs_float64 = False
    short_list_dropout: float | None = None  # if more than usual is better there
    context: int | None = None  # how many tokens back the model sees; None: all of them
    piece_size = 0  # lines are cut into pieces of this size, or of the block size if that is larger

    @classmethod
    def choose_block_size(cls, config: Config, max_len: int) -> int:
        """--block-size, or the longest line and its end; max_len is below MAX_PIECE."""
        return config.block_size or max_len + 1

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """Logits (B, T, V) of the token that follows each position of idx (B, T)."""
        raise NotImplementedError

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over all positions that have a target."""
        logits = self.logits(idx)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def token_losses(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The cross-entropy (N,) of each position that has a target."""
        real = targets >= 0
        return F.cross_entropy(self.logits(idx)[real], targets[real], reduction='none')

    def fit(self, dataset: CharDataset):
        """Count n-grams. Models trained by gradient descent do nothing here."""

    @property
    def learners(self) -> list['LanguageModel']:
        """The nets that are trained, each by its own loss."""
        return [self]

    def next_logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """Logits (B, V) of the token that follows idx (B, T)."""
        if self.context and idx.size(1) > self.context:
            # the window has moved, and with it the position of every token in the cache
            idx = idx[:, -self.context :]
            cache = None
        elif cache:  # empty on the first call, and always for a model that does not use it
            idx = idx[:, -1:]
        return self.logits(idx, cache)[:, -1]


def init_linear(module: nn.Module, gain: float = 1.0):
    """Initialize all linear layers: normal with std gain / sqrt(fan_in), zero bias.

    With gain 1 the outputs of a layer vary as much as its inputs.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_head(n_in: int, vocab_size: int, bias: bool = True) -> nn.Linear:
    """The last layer, with small weights: the first prediction is close to uniform."""
    head = nn.Linear(n_in, vocab_size, bias=bias)
    init_linear(head, gain=0.1)
    return head


def make_embedding(n: int, n_embd: int) -> nn.Embedding:
    """A table with a row of n_embd small numbers for each of n tokens or positions."""
    embedding = nn.Embedding(n, n_embd)
    embedding.weight.data.mul_(0.12)  # close to 1 / sqrt(n_embd) for the default n_embd of 64
    return embedding


# -----------------------------------------------------------------------------
# models: counting n-grams

COUNTED_AT_ONCE = 2**20  # tokens: counting a text in parts bounds the memory
MAX_PAIRS = 2**25  # different n-grams of one length that may be held in memory


class Counts(NamedTuple):
    """Distinct (context, next token) pairs, sorted, and how often each occurs."""

    pairs: torch.Tensor = EMPTY
    counts: torch.Tensor = EMPTY


def count_pairs(pairs: torch.Tensor) -> Counts:
    """How often each of some pairs occurs."""
    return Counts(*pairs.unique(return_counts=True))


def merge_counts(a: Counts, b: Counts) -> Counts:
    """The counts of two parts of a text, added up."""
    pairs, index = torch.cat([a.pairs, b.pairs]).unique(return_inverse=True)
    counts = torch.zeros_like(pairs).index_add_(0, index, torch.cat([a.counts, b.counts]))
    return Counts(pairs, counts)


class PairTable(nn.Module):
    """How often each token followed each context of one length.

    A context of k tokens is a number with k digits in base V, the most recent token last, and a
    (context, next token) pair is that number with one more digit:

        context "em", next "m"  ->  e * V**2 + m * V + m

    In the sorted list of pairs all that share a context are neighbours, so two binary searches
    find them, and cumulative counts tell how often they occurred together.

    For contexts (B, T, 1) both lookups return

        count       (B, T, M): how often each of M tokens followed
        total       (B, T, 1): how often any token followed
        n_distinct  (B, T, 1): how many different tokens followed
    """

    def __init__(self, vocab_size: int, pairs: torch.Tensor, counts: torch.Tensor):
        super().__init__()
        self.vocab_size = vocab_size
        self.register_buffer('pairs', pairs)
        # cumulative[i] is the sum of all counts before i
        self.register_buffer('cumulative', F.pad(counts.cumsum(0), (1, 0)))  # (n + 1,)
        self.register_load_state_dict_pre_hook(resize_table)

    def find_pairs(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the pairs of each context begin, and where they end."""
        first_pair = contexts * self.vocab_size
        begin = torch.searchsorted(self.pairs, first_pair)
        end = torch.searchsorted(self.pairs, first_pair + self.vocab_size)
        return begin, end

    def lookup(self, contexts: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The counts of some tokens (B, T, M)."""
        begin, end = self.find_pairs(contexts)
        total = self.cumulative[end] - self.cumulative[begin]
        n_distinct = end - begin

        pair = contexts * self.vocab_size + tokens
        pair_begin = torch.searchsorted(self.pairs, pair)
        pair_end = torch.searchsorted(self.pairs, pair, right=True)
        # 0 if the pair never occurred
        count = self.cumulative[pair_end] - self.cumulative[pair_begin]
        return count.double(), total.double(), n_distinct.double()

    def lookup_every_token(self, contexts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The counts of all M = V tokens: it reads off the pairs of each context.

        Searching for each token takes three times as long if there are many.
        """
        begin, end = self.find_pairs(contexts)
        total = self.cumulative[end] - self.cumulative[begin]
        n_distinct = end - begin

        # one entry for each pair of each context: the row of the context, the place in self.pairs
        n_pairs = n_distinct.flatten()
        row = torch.arange(len(n_pairs), device=contexts.device).repeat_interleave(n_pairs)
        first_entry = n_pairs.cumsum(0) - n_pairs  # of each row
        rank = torch.arange(len(row), device=row.device) - first_entry[row]  # 0, 1, ... in each row
        place = begin.flatten()[row] + rank

        count = torch.zeros(len(n_pairs), self.vocab_size, dtype=torch.float64, device=row.device)
        occurred = self.cumulative[place + 1] - self.cumulative[place]
        count[row, self.pairs[place] % self.vocab_size] = occurred.double()
        return count.view(*contexts.shape[:-1], -1), total.double(), n_distinct.double()


def resize_table(table: PairTable, state_dict: dict[str, Any], prefix: str, *_: Any):
    """Give the buffers of a table the sizes that they have in a state dict that is being loaded."""
    table.pairs = torch.empty_like(state_dict[f'{prefix}pairs'])
    table.cumulative = torch.empty_like(state_dict[f'{prefix}cumulative'])


def parse_smoothing(smoothing: str) -> float | None:
    """The K of add:K; None for Kneser-Ney."""
    if smoothing == 'kn':
        return None
    match = re.fullmatch(r'add:(\d*\.?\d+)', smoothing)
    if not match or float(match[1]) == 0:
        raise UserError(
            f'--smoothing {smoothing}: expected kn, or add:K with K above 0, as in add:1'
        )
    return float(match[1])


@register('ngram', block_size=5, max_steps=0)
class NGram(LanguageModel):
    """n-gram counts with Kneser-Ney smoothing: a strong baseline in a second

    Long contexts predict best, but are rare in the data. So the estimates of all context lengths
    are combined, from the shortest to the longest, each correcting the one before (interpolated
    Kneser-Ney). A discount D is taken from every count, and what it frees goes to the shorter
    context:

        p(w | context) = (max(count - D, 0) + D * n_distinct * p(w | shorter context)) / total

    The longest contexts use plain counts. A shorter one counts in how many different longer
    contexts a pair occurred, because it matters most where the longer one was never seen:
    "francisco" is frequent, but after anything other than "san" it is a bad guess.

    With --smoothing add:K only the full context is used, as in the lecture:

        p(w | context) = (count + K) / (total + K * V)
    """

    is_counted = True
    starts_uniform = False
    needs_float64 = True
    piece_size = 2**12  # counting has no reason to cut a line short

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.context = config.block_size
        self.add_k = parse_smoothing(config.smoothing)
        if vocab_size ** (self.context + 1) >= 2**63:
            raise UserError(
                f'--block-size {self.context}: with {vocab_size} tokens such a context does not '
                'fit into a 64-bit number; choose a smaller one'
            )
        self.register_buffer('discount', torch.tensor(0.75, dtype=torch.float64))
        self.tables = nn.ModuleList(
            PairTable(vocab_size, *Counts()) for _ in range(self.context + 1)
        )

    def contexts(self, idx: torch.Tensor) -> Iterator[torch.Tensor]:
        """For k = 0, 1, ... the last k tokens at every position (B, T), as one number."""
        context = torch.zeros_like(idx)
        yield context
        for back in range(self.context):  # one token further back is one more digit in front
            shifted = F.pad(idx, (back, 0))[:, : idx.size(1)]  # [[1, 2, 3]] -> [[0, 1, 2]]
            context = context + shifted * self.vocab_size**back
            yield context

    # counting

    @torch.no_grad()
    def fit(self, dataset: CharDataset):
        """Count train, and choose the discount that predicts dev best."""
        counts = self.count_longest_contexts(dataset)
        if self.add_k is None:
            self.add_shorter_contexts(counts)
        self.tables = nn.ModuleList(PairTable(self.vocab_size, *c) for c in counts)
        if self.add_k is None and len(dataset.spans['dev'].starts):
            self.discount = self.choose_discount(dataset)

    def count_longest_contexts(self, dataset: CharDataset) -> list[Counts]:
        """Counts by context length.

        Every target is counted with its longest context. That is shorter than the block size only
        at the start of a line.
        """
        spans = dataset.spans['train']
        if dataset.is_text:  # all of it, even if the other models are evaluated on a part
            spans = cut_spans(one_span(0, dataset.max_len), self.piece_size)
        counts = [Counts() for _ in range(self.context + 1)]
        batch_size = max(1, COUNTED_AT_ONCE // int(spans.lengths.max()))
        for rows in torch.arange(len(spans.starts)).split(batch_size):
            x, y = pad_batch(dataset.tokens, spans.select(rows))
            # of the longest context at each position
            length = torch.arange(1, x.size(1) + 1).clamp(max=self.context)  # (T,)
            for k, context in enumerate(self.contexts(x)):
                pairs = context * self.vocab_size + y  # (B, T)
                counted = pairs[(y >= 0) & (length == k)]
                counts[k] = merge_counts(counts[k], count_pairs(counted))
                if len(counts[k].pairs) > MAX_PAIRS:
                    raise UserError(
                        f'--block-size {self.context}: more than {MAX_PAIRS:,} different '
                        'n-grams; choose a shorter context'
                    )
        return counts

    def add_shorter_contexts(self, counts: list[Counts]):
        """Kneser-Ney's counts: a pair counts once for each longer context that it was seen in."""
        for k in reversed(range(self.context)):
            # a pair with a context of k + 1 tokens has k + 2 digits; the first is the oldest token
            shortened = counts[k + 1].pairs % self.vocab_size ** (k + 1)
            counts[k] = merge_counts(counts[k], count_pairs(shortened))

    def choose_discount(self, dataset: CharDataset) -> torch.Tensor:
        """The discount with the lowest loss on dev, or on an even sample of a large dev split."""
        spans = dataset.spans['dev']
        n_tokens = len(spans.starts) * int(spans.lengths.max())
        stride = 1 + n_tokens // 2**17
        sample = spans.select(slice(None, None, stride))
        x, y = pad_batch(dataset.tokens, sample)
        statistics = self.lookup_all_lengths(x, y.clamp(min=0)[:, :, None])
        discounts = torch.arange(0.5, 1, 0.02, dtype=torch.float64)
        losses = []
        for discount in discounts:
            p = self.interpolate(statistics, discount)[:, :, 0]  # (B, T)
            losses.append(-p[y >= 0].log().mean())
        return discounts[torch.stack(losses).argmin()]

    # probabilities

    def lookup_all_lengths(
        self, idx: torch.Tensor, tokens: torch.Tensor | None = None
    ) -> list[tuple[torch.Tensor, ...]]:
        """The counts of some tokens (B, T, M), or of all, after idx (B, T), by context length."""
        position = torch.arange(idx.size(1), device=idx.device)[:, None]  # (T, 1)
        statistics = []
        for k, context in enumerate(self.contexts(idx)):
            if tokens is None:
                found = self.tables[k].lookup_every_token(context[:, :, None])
            else:
                found = self.tables[k].lookup(context[:, :, None], tokens)
            count, total, n_distinct = found
            # a context of k tokens exists from position k - 1 on
            total = total.masked_fill(position < k - 1, 0)  # (B, T, 1)
            statistics.append((count, total, n_distinct))
        return statistics

    def interpolate(
        self, statistics: list[tuple[torch.Tensor, ...]], discount: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities (B, T, M) from the counts of all context lengths, the shortest first."""
        p = torch.tensor(1 / self.vocab_size, dtype=torch.float64)
        for count, total, n_distinct in statistics:
            if self.add_k is None:
                kept = (count - discount).clamp(min=0)
                estimate = (kept + discount * n_distinct * p) / total
            else:
                estimate = (count + self.add_k) / (total + self.add_k * self.vocab_size)
            # a context that never occurred gives 0 / 0, or K / (K * V): keep the estimate of the
            # shorter one
            p = torch.where(total > 0, estimate, p)
        return p

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """The logarithm of the probability of every token."""
        statistics = self.lookup_all_lengths(idx)
        return self.interpolate(statistics, self.discount).log()  # (B, T, V)

    def token_losses(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The losses (N,) of the base class, computed for the targets only."""
        statistics = self.lookup_all_lengths(idx, targets.clamp(min=0)[:, :, None])
        p = self.interpolate(statistics, self.discount)[:, :, 0]  # (B, T)
        return -p[targets >= 0].log()

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.token_losses(idx, targets).mean()


# -----------------------------------------------------------------------------
# models: a table of pairs, then windows of a fixed length


@register('bigram', batch_size=128, learning_rate=0.02, weight_decay=0.0, max_steps=2000)
class Bigram(LanguageModel):
    """a table of logits, trained by gradient descent; it converges to bigram counts"""

    context = 1

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.zeros_(self.table.weight)  # start from the uniform distribution

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        # a one-hot vector times a matrix is one of its rows
        return self.table(idx)  # (B, T, V)


class WindowModel(LanguageModel):
    """A net over a window of the last block_size tokens.

    `net` is the lecture's stack of layers: it maps tokens (N, block_size) to logits (N, V).
    """

    piece_size = MAX_PIECE

    def __init__(self, config: Config, *layers: nn.Module):
        super().__init__()
        self.context = config.block_size
        self.net = nn.Sequential(*layers)
        init_linear(self.net, gain=5 / 3)  # tanh shrinks its inputs by about that much
        last_linear = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
        init_linear(last_linear, gain=1 / 6)  # small logits: start close to uniform

    def windows(self, idx: torch.Tensor) -> torch.Tensor:
        """For each position the tokens up to it, with token 0 before the first."""
        padded = F.pad(idx, (self.context - 1, 0))
        return padded.unfold(1, self.context, 1)  # (B, T, block_size)

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        windows = self.windows(idx).flatten(0, 1)  # (B * T, block_size)
        return self.net(windows).view(*idx.shape, -1)  # (B, T, V)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss on windows that have a target: batch norm must not average over padding."""
        real = targets >= 0
        logits = self.net(self.windows(idx)[real])  # (N, V)
        return F.cross_entropy(logits, targets[real])


class BatchNorm1d(nn.Module):
    """Normalize each channel over the batch, then scale and shift it; (N, C) or (N, T, C).

    In training mode it uses the mean and variance of the batch and updates the running ones; in
    evaluation mode it uses the running ones.
    """

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1, gain: float = 1.0):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((dim,), gain))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer('running_mean', torch.zeros(dim))
        self.register_buffer('running_var', torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            dims = tuple(range(x.ndim - 1))  # all but the channels
            n = x.numel() // x.size(-1)
            mean = x.mean(dims)  # (C,)
            centered = x - mean
            var = centered.square().mean(dims)  # (C,)
            with torch.no_grad():  # as in torch: the running variance is the unbiased one
                unbiased = var * (n / max(1, n - 1))
                dtype = self.running_mean.dtype  # under autocast mean has another one
                self.running_mean.lerp_(mean.to(dtype), self.momentum)
                self.running_var.lerp_(unbiased.to(dtype), self.momentum)
        else:
            centered = x - self.running_mean
            var = self.running_var
        scale = (var + self.eps).rsqrt() * self.weight
        return centered * scale + self.bias


def hidden_layer(n_in: int, config: Config, norm: bool = True) -> list[nn.Module]:
    """A linear layer, batch norm if wanted, tanh and dropout.

    Before a norm the linear layer has no bias, because the norm would subtract it again.
    """
    layers = [nn.Linear(n_in, config.n_hidden, bias=not norm)]
    if norm:
        layers.append(BatchNorm1d(config.n_hidden))
    return [*layers, nn.Tanh(), nn.Dropout(config.dropout)]


@register(
    'mlp', block_size=6, n_embd=10, n_hidden=200, learning_rate=5e-3, dropout=0.1, max_steps=20000
)
class MLP(WindowModel):
    """an embedding per token and one hidden layer over the last few (Bengio 2003)

    Unlike n-grams it learns that similar tokens behave alike, so it needs no exact match.
    """

    def __init__(self, config: Config, vocab_size: int):
        super().__init__(
            config,
            nn.Embedding(vocab_size, config.n_embd),
            nn.Flatten(),  # (N, block_size, C) -> (N, block_size * C)
            *hidden_layer(config.block_size * config.n_embd, config, norm=False),
            nn.Linear(config.n_hidden, vocab_size),
        )


@register('bn-mlp', block_size=5, n_layer=6, n_embd=10, n_hidden=100, learning_rate=1e-2)
class BatchNormMLP(WindowModel):
    """a deep mlp with batch normalization, which keeps it trainable (Ioffe 2015)"""

    short_list_dropout = 0.2

    def __init__(self, config: Config, vocab_size: int):
        layers = [nn.Embedding(vocab_size, config.n_embd), nn.Flatten()]
        n_in = config.block_size * config.n_embd
        for _ in range(config.n_layer - 1):
            layers += hidden_layer(n_in, config)
            n_in = config.n_hidden
        layers.append(nn.Linear(n_in, vocab_size, bias=False))
        layers.append(BatchNorm1d(vocab_size, gain=0.1))
        super().__init__(config, *layers)


class FlattenConsecutive(nn.Module):
    """Two neighbours side by side: (N, T, C) -> (N, T/2, 2*C), or (N, 2*C) for the last two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, T, C = x.shape
        return x.reshape(N, T // 2, 2 * C).squeeze(1)


@register(
    'wavenet', n_layer=3, n_embd=24, n_hidden=128, learning_rate=5e-3, dropout=0.03, max_steps=6500
)
class WaveNet(WindowModel):
    """a tree that joins neighbours, then neighbours of neighbours (van den Oord 2016)

    An mlp joins all tokens of its window in one layer; here each layer joins two neighbours.
    """

    short_list_dropout = 0.2

    def __init__(self, config: Config, vocab_size: int):
        layers = [nn.Embedding(vocab_size, config.n_embd)]
        n_in = config.n_embd
        for _ in range(config.n_layer):
            layers += [FlattenConsecutive(), *hidden_layer(2 * n_in, config)]
            n_in = config.n_hidden
        super().__init__(config, *layers, nn.Linear(n_in, vocab_size))

    @classmethod
    def choose_block_size(cls, config: Config, max_len: int) -> int:
        """A tree with n_layer levels joins 2**n_layer tokens."""
        if config.n_layer > 12 or config.block_size not in (None, 2**config.n_layer):
            raise UserError(
                'the block size of a wavenet is 2**n_layer, with at most 12 layers: '
                'leave --block-size out'
            )
        return 2**config.n_layer

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """When sampling, the same weights are applied to the whole sequence at once.

        Neighbouring windows share most of their trees. Joining positions at distance 1, 2, 4, ...
        computes each node once: this is a dilated convolution. All layers but FlattenConsecutive
        work on each position by itself.
        """
        if self.training:  # batch norm needs the windows as its batch
            return super().logits(idx, cache)
        x = F.pad(idx, (self.context - 1, 0))
        distance = 1
        for layer in self.net:
            if isinstance(layer, FlattenConsecutive):
                x = torch.cat([x[:, :-distance], x[:, distance:]], dim=-1)
                distance *= 2
            else:
                x = layer(x)
        return x  # (B, T, V)


# -----------------------------------------------------------------------------
# models: recurrent nets


class Recurrent(LanguageModel):
    """Base class: one token after another updates a hidden state.

    Unlike a window it has no fixed length: what was seen long ago can still be in the state.
    """

    n_gates = 1  # vectors that a step computes from the input and the state
    n_states = 1  # vectors that make up the state; the first one goes to the head

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        H = config.n_hidden
        self.tok_emb = nn.Embedding(vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.x2h = nn.Linear(config.n_embd, self.n_gates * H)
        self.h2h = nn.Linear(H, self.n_gates * H)
        self.start = nn.Parameter(torch.zeros(self.n_states, H))
        self.tanh = nn.Tanh()  # modules, so that --diagnose can observe them
        self.sigmoid = nn.Sigmoid()
        self.head = make_head(H, vocab_size)

    def step(
        self, from_x: torch.Tensor, from_h: torch.Tensor, *state: torch.Tensor
    ) -> list[torch.Tensor]:
        """The next state, given x2h(embedding), h2h(h) and the state itself; h comes first."""
        raise NotImplementedError

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        inputs = self.x2h(self.drop(self.tok_emb(idx)))  # (B, T, n_gates * H)
        if cache:
            state = list(cache['state'].unbind(1))
        else:
            state = [vector.expand(len(idx), -1) for vector in self.start]  # (B, H) each
        outputs = []
        for from_x in inputs.unbind(1):
            from_h = self.h2h(state[0])  # (B, n_gates * H)
            state = self.step(from_x, from_h, *state)
            outputs.append(state[0])
        if cache is not None:
            cache['state'] = torch.stack(state, 1)  # (B, n_states, H)
        hidden = torch.stack(outputs, 1)  # (B, T, H)
        return self.head(self.drop(hidden))  # (B, T, V)


@register('rnn', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.1, max_steps=14000)
class RNN(Recurrent):
    """a hidden state, updated at every token (Elman 1990)"""

    def step(self, from_x, from_h, h):
        return [self.tanh(from_x + from_h)]


@register(
    'gru', n_embd=64, n_hidden=128, batch_size=128, learning_rate=5e-3, dropout=0.15, max_steps=3750
)
class GRU(Recurrent):
    """an rnn with gates that decide what to keep (Cho 2014)

    A plain rnn overwrites its state at every step, so the gradient fades a little at each.
    """

    n_gates = 3

    def step(self, from_x, from_h, h):
        x_reset, x_keep, x_new = from_x.chunk(3, dim=1)  # (B, H) each
        h_reset, h_keep, h_new = from_h.chunk(3, dim=1)
        reset = self.sigmoid(x_reset + h_reset)
        keep = self.sigmoid(x_keep + h_keep)
        candidate = self.tanh(x_new + reset * h_new)
        return [keep * h + (1 - keep) * candidate]


@register(
    'lstm',
    n_embd=64,
    n_hidden=128,
    batch_size=128,
    learning_rate=5e-3,
    dropout=0.15,
    max_steps=3500,
)
class LSTM(Recurrent):
    """an rnn with a second vector through which gradients flow unchanged (Hochreiter 1997)"""

    n_gates = 4
    n_states = 2

    def step(self, from_x, from_h, h, c):
        # input gate, forget gate, output gate and candidate, (B, H) each
        write, forget, read, candidate = (from_x + from_h).chunk(4, dim=1)
        c = self.sigmoid(forget) * c + self.sigmoid(write) * self.tanh(candidate)
        h = self.sigmoid(read) * self.tanh(c)
        return [h, c]


# -----------------------------------------------------------------------------
# models: a mean of the past, then attention


@register('bow', n_layer=2, n_embd=64, n_hidden=128, learning_rate=3e-3, max_steps=12000)
class BagOfWords(LanguageModel):
    """the mean of all tokens so far: attention with equal weights"""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.context = config.block_size
        self.head = make_head(config.n_embd, vocab_size)
        self.tok_emb = make_embedding(vocab_size, config.n_embd)
        self.pos_emb = make_embedding(config.block_size, config.n_embd)
        self.mlps = nn.ModuleList()
        for _ in range(config.n_layer):
            layers = hidden_layer(config.n_embd, config, norm=False)
            self.mlps.append(nn.Sequential(*layers, nn.Linear(config.n_hidden, config.n_embd)))

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        position = torch.arange(idx.size(1), device=idx.device)
        x = self.tok_emb(idx) + self.pos_emb(position)  # (B, T, C)
        n_seen = (position + 1)[:, None]  # (T, 1)
        for mlp in self.mlps:
            x = x + x.cumsum(1) / n_seen  # the mean of all positions up to this one
            x = x + mlp(x)
        return self.head(x)  # (B, T, V)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before it."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if cache is not None:  # every attention layer has an entry of its own
            if self in cache:
                old_k, old_v = cache[self].unbind(1)
                k = torch.cat([old_k, k], dim=2)
                v = torch.cat([old_v, v], dim=2)
            cache[self] = torch.stack([k, v], 1)  # (B, 2, nh, T, hs)
        # softmax(q @ k^T / sqrt(hs)) @ v, where a position sees no later one. A single new token
        # may see all cached ones, so it needs no mask.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # put the heads side by side again
        return self.proj(y)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to the residual stream."""

    def __init__(self, config: Config):
        super().__init__()
        C = config.n_embd
        self.norm1 = nn.LayerNorm(C)
        self.attn = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        self.drop = nn.Dropout(config.dropout)
        init_linear(self)
        # as in GPT-2: 2 * n_layer outputs are added up, so each is scaled by 1 / sqrt(2 * n_layer)
        for last_linear in (self.attn.proj, self.mlp[2]):
            init_linear(last_linear, gain=(2 * config.n_layer) ** -0.5)

    def forward(self, x: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        x = x + self.drop(self.attn(self.norm1(x), cache))
        x = x + self.drop(self.mlp(self.norm2(x)))
        return x


@register(
    'transformer',
    n_layer=4,
    n_head=4,
    n_embd=64,
    batch_size=128,
    learning_rate=5e-3,
    dropout=0.1,
    weight_decay=0.3,
    max_steps=6000,
)
class Transformer(LanguageModel):
    """a small GPT-2: attention chooses what to look at (Vaswani 2017, Radford 2019)"""

    short_list_dropout = 0.2

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        if config.n_embd % config.n_head != 0:
            raise UserError(
                f'--n-embd {config.n_embd} is not divisible by --n-head {config.n_head}'
            )
        self.context = config.block_size
        self.tok_emb = make_embedding(vocab_size, config.n_embd)
        self.pos_emb = make_embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = make_head(config.n_embd, vocab_size, bias=False)

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        n_cached = 0
        if cache:  # an entry is (B, 2, nh, T, hs)
            n_cached = next(iter(cache.values())).size(3)
        position = torch.arange(n_cached, n_cached + idx.size(1), device=idx.device)
        x = self.drop(self.tok_emb(idx) + self.pos_emb(position))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        return self.head(self.norm(x))  # (B, T, V)


# -----------------------------------------------------------------------------
# models: several together

DEFAULT_MEMBERS = 'ngram,gru'  # of a mix that is made without a data set
MAX_MEMBERS = 16
EM_ROUNDS = 100  # of expectation maximization: by then the weights have converged


def make_member(model_type: str, config: Config, vocab_size: int) -> LanguageModel:
    """A member of a mix, with the architecture that its type prefers."""
    model_class = MODELS[model_type]
    settings = {'type': model_type, **model_class.preferred_settings, 'smoothing': config.smoothing}
    for name in SIZES:
        size = getattr(config, name)
        if size is not None:
            settings[name] = size
    own = Config(**settings)
    block_size = model_class.choose_block_size(own, config.block_size - 1)
    return model_class(replace(own, block_size=block_size), vocab_size)


def parse_members(members: str) -> list[str]:
    """The model types of --members: 'ngram,gru' -> ['ngram', 'gru']."""
    names = [name.strip() for name in members.split(',')]
    for name in names:
        if name not in MODELS or name == 'mix':
            choices = ', '.join(other for other in MODELS if other != 'mix')
            raise UserError(f'--members {members}: {name!r} is unknown; choose from {choices}')
    n_trained = sum(not MODELS[name].is_counted for name in names)
    if not 2 <= len(names) <= MAX_MEMBERS or n_trained == 0:
        raise UserError(
            f'--members {members}: expected 2 to {MAX_MEMBERS} types, and one that is trained'
        )
    return names


def fit_weights(losses: torch.Tensor) -> torch.Tensor:
    """The weights (M,) with which the mixture of M models has the lowest loss.

    `losses` (N, M) are the losses of each model on this process's part of some held-out tokens.
    Expectation maximization: the members share the credit for each token in proportion to what
    they contribute to its probability, and a member's new weight is its mean credit. The loss never
    rises, and it is convex in the weights, so this finds its minimum.
    """
    probs = losses.double().neg().exp()  # (N, M)
    n_models = losses.size(1)
    weights = torch.full((n_models,), 1 / n_models, dtype=torch.float64)
    for _ in range(EM_ROUNDS):
        credit = probs * weights
        credit /= credit.sum(1, keepdim=True)
        *sums, n_tokens = sum_over_ranks(*credit.sum(0).tolist(), len(credit))
        weights = torch.tensor(sums, dtype=torch.float64) / n_tokens
    return weights


@register('mix', batch_size=128, learning_rate=5e-3, **dict.fromkeys(SIZES))
class Mix(LanguageModel):
    """the weighted mean of the probabilities of several models, see --members

    Different models make different mistakes, so their mean is better than the best of them. Each
    net is trained on its own loss, and the weights are those with the lowest dev loss.

    `trained` are the nets in training. `members` make up the mixture: n-gram counts, and for each
    net a copy from the step with its lowest dev loss. So a net that starts to overfit does no harm.
    """

    starts_uniform = False
    needs_float64 = True

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.names = parse_members(config.members or DEFAULT_MEMBERS)
        models = [make_member(name, config, vocab_size) for name in self.names]
        self.members = nn.ModuleList(models)
        self.trained = nn.ModuleDict()
        for number, model in enumerate(models):
            if not model.is_counted:
                self.trained[str(number)] = copy.deepcopy(model)
                model.requires_grad_(False)
        self.dev_losses: dict[int, torch.Tensor] = {}  # of the members; `update` fills it
        n_members = len(models)
        self.register_buffer('weights', torch.full((n_members,), 1 / n_members).double())
        self.register_buffer('best_losses', torch.full((n_members,), math.inf).double())

    @property
    def learners(self) -> list[LanguageModel]:
        return list(self.trained.values())

    def fit(self, dataset: CharDataset):
        """Count what is counted."""
        for member in self.members:
            member.fit(dataset)

    @torch.no_grad()
    def update(self, compute_losses: Callable, has_heldout: bool = True) -> float:
        """Keep each net that has improved on dev, refit the weights, and return the new loss.

        compute_losses(model) returns the losses (N,) of a model on this process's part of dev.
        Where nothing is held out, all members keep the same weight: fitted on train, nearly all of
        it would go to the member that overfits most.
        """
        for number, net in self.trained.items():
            member = int(number)
            losses = compute_losses(net)
            loss = mean_over_ranks(losses)
            if loss < self.best_losses[member]:
                self.best_losses[member] = loss
                self.members[member].load_state_dict(net.state_dict())
                self.dev_losses[member] = losses
        for member, model in enumerate(self.members):
            if member not in self.dev_losses:  # counted, or loaded from a checkpoint
                self.dev_losses[member] = compute_losses(model)
                self.best_losses[member] = mean_over_ranks(self.dev_losses[member])
        losses = [self.dev_losses[member] for member in range(len(self.members))]
        if has_heldout:
            self.weights.copy_(fit_weights(torch.stack(losses, 1)))
        return mean_over_ranks(-self.mix([-member_losses for member_losses in losses]))

    def mix(self, log_probs: list[torch.Tensor]) -> torch.Tensor:
        """The logarithm of the weighted mean of the members' probabilities."""
        stacked = torch.stack(log_probs, -1).double()  # (..., members)
        log_weights = self.weights.log().to(stacked.device)
        return (stacked + log_weights).logsumexp(-1)

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        log_probs = [member.logits(idx).double().log_softmax(-1) for member in self.members]
        return self.mix(log_probs)  # (B, T, V)

    def next_logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """Logits (B, V) of the token that follows idx (B, T); every member has its own cache."""
        log_probs = []
        for number, member in enumerate(self.members):
            own_cache = None if cache is None else cache.setdefault(number, {})
            logits = member.next_logits(idx, own_cache)
            log_probs.append(logits.double().log_softmax(-1))
        return self.mix(log_probs)

    def token_losses(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -self.mix([-member.token_losses(idx, targets) for member in self.members])

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """In training the sum of the losses of the nets, so that each learns from its own."""
        if self.training:
            return sum(net(idx, targets) for net in self.learners)
        return self.token_losses(idx, targets).mean()


# -----------------------------------------------------------------------------
# sampling

ONE_BY_ONE = 10  # the first samples are drawn one by one, as in the lectures
SMALLEST_BATCH = 32  # the next ones in batches, each twice as large as the one before
LARGEST_BATCH = 512
MAX_FAILURES = 10_000  # sampling stops after this many unwanted samples in a row
TEXT_LENGTH = 500  # tokens in a sample of a model of one long text
SAMPLES_DURING_TRAINING = 5
SAMPLES_AT_THE_END = 10  # for each of the temperatures


def logits_to_probs(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """Logits (B, V) to probabilities, in float64 on the CPU: every device samples the same.

    After top-k or top-p a row sums to less than one.
    """
    logits = logits.cpu().double()
    if temperature == 0:  # the limit: the most probable token
        return F.one_hot(logits.argmax(-1), logits.size(-1)).double()

    logits = logits - logits.amax(-1, keepdim=True)  # so that a tiny temperature cannot overflow
    probs = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return probs
    ranked, order = probs.sort(descending=True, stable=True)  # (B, V)
    if top_k is not None:
        ranked[:, top_k:] = 0
    if top_p is not None:
        # the most probable token always stays: the mass before it is 0
        mass_before = ranked.cumsum(-1) - ranked
        total = ranked.sum(-1, keepdim=True)
        ranked[mass_before >= top_p * total] = 0
    return torch.zeros_like(probs).scatter(-1, order, ranked)


def sample_token(probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token (B,) per row, by inverting the cumulative distribution.

    The rows do not have to sum to one. torch.multinomial sampled like this when the lectures were
    recorded, so the same names come out. (Newer versions draw a single token in another way.)
    """
    cumulative = probs.cumsum(-1)  # (B, V)
    uniform = torch.rand(len(probs), 1, dtype=torch.float64, generator=generator)
    threshold = uniform * cumulative[:, -1:]  # (B, 1)
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)  # (B,)
    return token.clamp(max=probs.size(-1) - 1)


def select_rows(cache: dict, rows: torch.Tensor) -> dict:
    """The part of a cache that belongs to some rows of the batch."""
    return {
        key: select_rows(entry, rows) if isinstance(entry, dict) else entry[rows]
        for key, entry in cache.items()
    }


@torch.no_grad()
def generate(
    model: LanguageModel,
    idx: torch.Tensor,
    generator: torch.Generator,
    max_tokens: int,
    stop_token: int = 0,
    use_cache: bool = True,
    **options: Any,
) -> Iterator[tuple[list[int], list[int]]]:
    """Extend every row of idx (B, T) token by token, until it draws the stop token (-1: never).

    Yields, for each step, the indices of the rows that are extended, and their new tokens.
    `options` are those of logits_to_probs.
    """
    device = device_of(model)
    idx = idx.to(device)
    rows = torch.arange(len(idx))
    cache = {} if use_cache else None
    for _ in range(max_tokens):
        probs = logits_to_probs(model.next_logits(idx, cache), **options)
        tokens = sample_token(probs, generator)  # (B,)
        yield rows.tolist(), tokens.tolist()

        idx = torch.cat([idx, tokens[:, None].to(device)], dim=1)  # (B, T + 1)
        unfinished = tokens != stop_token
        if not unfinished.any():
            return
        if not unfinished.all():
            rows = rows[unfinished]
            unfinished = unfinished.to(device)
            idx = idx[unfinished]
            if cache:
                cache = select_rows(cache, unfinished)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's tensors; n-gram counts have no parameters to ask."""
    return next(iter(model.state_dict().values())).device


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def first_tokens(dataset: CharDataset, prompt: str) -> list[int]:
    """The tokens that sampling starts from: the boundary, then the prompt."""
    tokens = dataset.encode(prompt)
    if dataset.is_text:
        return tokens or [0]  # a text has no boundary to start from
    return [0, *tokens]


def sample_batch(
    model: LanguageModel,
    dataset: CharDataset,
    n: int,
    generator: torch.Generator,
    prompt: str = '',
    length: int | None = None,
    **options: Any,
) -> list[str]:
    """Generate n samples in one batch."""
    max_tokens = length or (TEXT_LENGTH if dataset.is_text else 2 * dataset.max_len + 10)
    stop_token = -1 if dataset.is_text else 0
    rows = [first_tokens(dataset, prompt) for _ in range(n)]
    idx = torch.tensor(rows)  # (n, T)
    for unfinished, tokens in generate(model, idx, generator, max_tokens, stop_token, **options):
        for row, token in zip(unfinished, tokens, strict=True):
            rows[row].append(token)
    texts = [dataset.decode(row) for row in rows]
    if dataset.is_text or dataset.chars:
        return texts
    return [text.replace('\n', ' ') for text in texts]  # some byte pairs contain a line end


def sample_forever(
    model: LanguageModel, dataset: CharDataset, seed: int, **how: Any
) -> Iterator[str]:
    """Yield samples without end. They depend on the seed, not on how many are taken."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ONE_BY_ONE):
        yield from sample_batch(model, dataset, 1, generator, **how)
    n = SMALLEST_BATCH
    for number in itertools.count():
        generator = make_generator(seed, number)
        yield from sample_batch(model, dataset, n, generator, **how)
        n = min(2 * n, LARGEST_BATCH)


def keep_wanted(
    samples: Iterable[str], unwanted: set[str], unique: bool = False, pattern: str = ''
) -> Iterator[str]:
    """Yield the samples that match the pattern and are not among the unwanted ones.

    With `unique` each sample is yielded once. Stops after MAX_FAILURES unwanted samples in a row.
    """
    search = re.compile(pattern).search
    n_failures = 0
    for text in samples:
        if text in unwanted or not search(text):
            n_failures += 1
            if n_failures == MAX_FAILURES:
                return
            continue
        n_failures = 0
        if unique:
            unwanted.add(text)
        yield text


def sample(
    model: LanguageModel,
    dataset: CharDataset,
    n: int = 20,
    *,
    prompt: str = '',
    seed: int = 3407,
    new_only: bool = False,
    match: str = '',
    length: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[str]:
    """n samples, none of them empty; fewer if too few are wanted.

    With new_only, samples that are in the data and repeats are skipped; with match, those in which
    the regular expression is not found. The same seed gives the same samples. The arguments have
    the names and limits of the flags on the command line.
    """
    given = {'num_samples': n, 'seed': seed, 'match': match, 'prompt': prompt, 'length': length}
    given |= {'temperature': temperature, 'top_k': top_k, 'top_p': top_p}
    options = {name: check_value(name, value) for name, value in given.items()}
    n = options.pop('num_samples')
    match = options.pop('match')
    unwanted = {''}
    if new_only:
        unwanted.update(dataset.train_lines, dataset.heldout_lines)
    total = None if new_only or match else n
    with eval_mode(model):
        samples = sample_forever(model, dataset, **options)
        bar = progress_bar(samples, 'sampling', total=total, unit=' samples', delay=1, leave=False)
        with bar as drawn:
            wanted = keep_wanted(drawn, unwanted, unique=new_only, pattern=match)
            return list(itertools.islice(wanted, n))


def sampling_options(config: Config) -> dict[str, Any]:
    """The settings that `sample` takes, all but the number of samples, new_only and match."""
    names = ('prompt', 'seed', 'length', 'temperature', 'top_k', 'top_p')
    return {name: getattr(config, name) for name in names}


def stream_text(
    model: LanguageModel,
    dataset: CharDataset,
    prompt: str,
    seed: int,
    length: int | None,
    **options: Any,
) -> Iterator[str]:
    """One sample of a text: the prompt, then the generated text piece by piece."""
    yield prompt
    generator = torch.Generator().manual_seed(seed)
    idx = torch.tensor([first_tokens(dataset, prompt)])  # (1, T)
    with eval_mode(model):
        steps = generate(model, idx, generator, length or TEXT_LENGTH, stop_token=-1, **options)
        yield from dataset.tokenizer.decode_stream(tokens[0] for _, tokens in steps)


# -----------------------------------------------------------------------------
# checkpoints

CHECKPOINT_VERSION = 2
# What may differ between the saved state of a data set and that of the input file, in words.
CONTENTS = {
    'chars': 'characters',
    'byte_pairs': 'byte pairs',
    'text_hash': 'text',
    'train_lines': 'lines in train',
    'heldout_lines': 'lines in dev and test',
}
METRICS = 'metrics.jsonl'  # in the folder of a run: a line of JSON for every evaluation

# Folders of curves in that of a run. TensorBoard shows curves of one name, here `loss`, in one card
# if they are in different folders.
CURVES = ('train', 'dev', 'all', 'n-gram')

PICTURES = ('loss', 'embedding', 'bigrams', 'activations', 'saturation', 'gradients', 'updates')

# What --overwrite removes from the folder of a run.
RUN_FILES = ['last.pt', 'best.pt', 'result.json', 'events.out.tfevents.*']
RUN_FILES += [f'{curve}/events.out.tfevents.*' for curve in CURVES]
RUN_FILES += [f'{picture}.png' for picture in PICTURES]
RUN_FILES += ['vectors.tsv', 'labels.tsv', 'projector_config.pbtxt']


@dataclass(repr=False)
class Run:
    """The state of a training run."""

    config: Config
    dataset: CharDataset
    model: LanguageModel
    folder: Path | None = None
    device: torch.device | str = 'cpu'
    optimizer: torch.optim.Optimizer | None = None
    backward: Callable | None = None  # computes the loss and the gradients; see choose_backward
    step: int = 0
    best_loss: float = math.inf  # lowest dev loss so far
    best_step: int = 0  # where that was
    seconds: float = 0.0  # spent on training
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    ngram_loss: float | None = None  # dev loss of n-gram counts on the same data, if it is known
    writers: dict[str, Any] = field(default_factory=dict)  # TensorBoard's, by folder of curves

    def __repr__(self) -> str:
        kind = self.config.type
        return f'Run({self.folder}: {kind}, step {self.step}, dev loss {self.best_loss:.4f})'


def save_checkpoint(run: Run, name: str):
    """Save a checkpoint, on rank 0: best.pt for sampling, or last.pt, which can be resumed."""
    if get_rank() > 0:
        return
    optimizer_state = None
    if run.optimizer and name == 'last.pt':
        optimizer_state = run.optimizer.state_dict()['state']
    content = {
        'version': CHECKPOINT_VERSION,
        'settings': settings_to_save(run.config),
        'dataset': run.dataset.state(),
        'step': run.step,
        'best_loss': run.best_loss,
        'best_step': run.best_step,
        'seconds': run.seconds,
        'model': run.model.state_dict(),
        'optimizer': optimizer_state,
    }
    write_atomically(run.folder / name, lambda file: torch.save(content, file))


@contextlib.contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn any exception that a damaged or hostile file causes into a UserError of one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f'{path} is not a checkpoint, or is damaged: {reason}') from None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a checkpoint, and its settings, checked.

    Only tensors and plain types are loaded (weights_only), so that no code in the file is run.
    """
    with damage_reported(path):
        if HAVE_EXTRAS:
            audit.check_file(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
        version = int(content['version'])
        if version != CHECKPOINT_VERSION:
            raise ValueError(f'it has version {version}, this program reads {CHECKPOINT_VERSION}')
        settings = {}
        for name, value in content['settings'].items():
            if SETTINGS[name].metadata['group'] in SAVED_GROUPS:
                settings[name] = check_value(name, value)
    return content, settings


def load_checkpoint(path: Path, cli_args: dict | None = None) -> tuple[Run, Any]:
    """The run in a checkpoint, with the flags that were given, and the state of its optimizer."""
    content, settings = read_checkpoint(path)
    config = resolve_config(cli_args or {}, settings)
    with damage_reported(path):
        run = build_run(content, config, path.parent)
        sample(run.model, run.dataset, 1, length=1)  # weights that load may still not fit together
    return run, content['optimizer']


def build_run(content: dict[str, Any], config: Config, folder: Path) -> Run:
    """The run that the content of a checkpoint describes, with its weights."""
    if HAVE_EXTRAS:
        audit.check_dataset(content['dataset'])
        audit.check_tensors(content['model'].values())
    dataset = restore_dataset(content['dataset'])
    model_class = MODELS[config.type]
    vocab_size = dataset.vocab_size
    if HAVE_EXTRAS:
        sizes = [getattr(config, name) or 1 for name in ('n_layer', 'n_embd', 'n_hidden')]
        sizes += [config.block_size, vocab_size]
        audit.check_claims(lambda: model_class(config, vocab_size), sizes, content['model'])
    model = model_class(config, vocab_size)
    model.load_state_dict(content['model'])
    if HAVE_EXTRAS:
        audit.check_progress(content['step'], content['seconds'], content['best_loss'])
        audit.check_run(model, content['optimizer'])
    run = Run(config, dataset, model, folder)
    run.step = int(content['step'])
    run.best_loss = float(content['best_loss'])
    run.best_step = int(content['best_step'])
    run.seconds = float(content['seconds'])
    return run


def read_history(folder: Path, last_step: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to a step.

    Later ones, and half a line at the end, were written by a run that was killed.
    """
    history: list[dict[str, Any]] = []
    path = folder / METRICS
    if not path.is_file():
        return history
    lines = path.read_bytes().splitlines()
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        for line in lines:
            metrics = json.loads(line)
            if metrics['step'] > last_step:
                break
            history.append(metrics)
    return history


def write_history(run: Run):
    """Start metrics.jsonl with the history of a resumed run; for a new run it is empty."""
    if get_rank() == 0:
        content = ''.join(json.dumps(metrics) + '\n' for metrics in run.history).encode()
        write_atomically(run.folder / METRICS, lambda file: file.write(content))


def reload_data(run: Run):
    """Read the input file of a loaded run again: a checkpoint holds no tokens."""
    saved = run.dataset.state()
    if run.config.input_file == '-':
        print0(f'{run.folder} was trained on standard input, which is read again')
    run.config, run.dataset = load_data(run.config, run.folder)
    check_same_data(run, saved)


def check_same_data(run: Run, saved: dict[str, Any]):
    """Raise a UserError if the input file is not the one that the run was trained on."""
    state = run.dataset.state()
    for name, content in CONTENTS.items():
        if state[name] != saved[name]:
            path = name_input(run.config.input_file)
            raise UserError(
                f'{path} has other {content} than the data that {run.folder} was trained on: '
                'start a new run'
            )


def load(
    folder: str | Path = 'out', device: str = 'cpu', *, with_data: bool | str | Path = False
) -> tuple[LanguageModel, CharDataset]:
    """Model and data set of a run, ready to sample: model, dataset = load('out/names-gru').

    For a folder with several runs, those of the newest. To evaluate, use with_data=True, which
    reads the input file again, or with_data=PATH if it has moved.
    """
    path = find_run({'work_dir': folder}, 'best.pt') / 'best.pt'
    run, _ = load_checkpoint(path)
    if with_data:
        if with_data is not True:
            run.config = replace(run.config, input_file=with_data)
        reload_data(run)
    return run.model.to(init_device(device)).eval(), run.dataset


def is_same_file(path: str, other: str) -> bool:
    """Whether two values of --input-file name the same file."""
    return os.path.abspath(path) == os.path.abspath(other)


def is_wanted(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a checkpoint is of the wanted type and was trained on the wanted file, if given."""
    try:
        _, settings = read_checkpoint(path)
    except UserError:  # damaged
        return False
    is_type = wanted.get('type', settings['type']) == settings['type']
    input_file = wanted.get('input_file', settings['input_file'])
    return is_type and is_same_file(input_file, settings['input_file'])


def find_run(cli_args: dict[str, Any], name: str) -> Path:
    """The folder of a run that has a file with this name.

    It is -o itself, or else the newest run below -o (default: out/) that has the --type and the -i
    that were given.
    """
    folder = Path(cli_args.get('work_dir') or 'out')
    if (folder / name).exists():
        return folder
    paths = list(folder.glob(f'*/{name}'))
    paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    wanted = {key: cli_args[key] for key in ('type', 'input_file') if key in cli_args}
    for path in paths:
        if not wanted or is_wanted(path, wanted):
            return path.parent
    of_type = f' of type {wanted["type"]}' if 'type' in wanted else ''
    on_list = f' on {name_input(wanted["input_file"])}' if 'input_file' in wanted else ''
    raise UserError(f'{folder} has no run{of_type}{on_list} with a {name}: train one first')


def check_work_dir(config: Config):
    """Refuse to overwrite a run without --overwrite."""
    if config.work_dir is None or config.overwrite:
        return
    folder = Path(config.work_dir)
    if (folder / 'last.pt').exists() or (folder / 'best.pt').exists():
        raise UserError(f'{folder} holds a run: --resume continues it, --overwrite replaces it')


def lock_run_dir(folder: Path) -> Any:
    """Lock the folder for as long as the returned file is open."""
    if not HAVE_EXTRAS:
        return None
    try:
        return torchrun.lock_folder(folder)
    except BlockingIOError:
        raise UserError(f'{folder} is in use by another run') from None


def claim_run_dir(config: Config) -> tuple[Path, Any]:
    """The folder of a new run, created, locked and cleared of older runs, and its lock.

    Only rank 0 makes it, and the others are told where it is.
    """
    folder = lock = None
    if get_rank() == 0:
        folder = Path(config.work_dir) if config.work_dir else make_numbered_dir(name_run(config))
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_run_dir(folder)
        check_work_dir(config)  # another run may have finished here since new_run checked
        for pattern in RUN_FILES:
            for path in folder.glob(pattern):
                path.unlink()
        try:
            sync_folder(folder)  # after a power loss no old file may come back
        except OSError as error:
            raise RunError(f'cannot write to {folder}: {error.strerror}') from None
        if lock:
            torchrun.sign_lock(lock)
    if get_world_size() > 1:
        folder = broadcast_path(folder)
    return folder, lock


def name_run(config: Config) -> str:
    """The name of a run's folder, from its list and its type: towns.txt -> towns-gru."""
    stem = 'stdin' if config.input_file == '-' else Path(config.input_file).stem
    unsafe = set(string.punctuation) - set('._-')
    safe = ''
    for ch in stem:
        is_safe = ch.isprintable() and not ch.isspace() and ch not in unsafe
        safe += ch if is_safe else '_'
    safe = safe[:40].strip('._-')  # a name that begins with a dot is hidden, with - is a flag
    return f'{safe or "list"}-{config.type}'


def make_numbered_dir(name: str) -> Path:
    """A new folder under out/: towns-gru, or towns-gru-2 if there is one already, and so on."""
    for number in itertools.count(1):
        folder = Path('out') / (name if number == 1 else f'{name}-{number}')
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


# -----------------------------------------------------------------------------
# curves for TensorBoard


def open_writer(folder: Path, first_step: int) -> Any:
    """A TensorBoard writer; older points in the folder from first_step on are hidden."""
    folder.mkdir(exist_ok=True)
    if HAVE_EXTRAS:
        return board.EventWriter(folder, first_step)
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=first_step)


def open_writers(run: Run) -> dict[str, Any]:
    """TensorBoard's writers on rank 0: of the run ('.') and of its CURVES.

    There are none where TensorBoard is not installed.
    """
    if get_rank() > 0:
        return {}
    # a resumed run starts with an evaluation, then comes the first step
    first_steps = {'.': run.step, 'dev' if has_dev(run) else 'all': run.step}
    if run.optimizer:
        first_steps['train'] = run.step + 1
    if run.ngram_loss is not None:
        first_steps['n-gram'] = run.step
    try:
        writers = {name: open_writer(run.folder / name, step) for name, step in first_steps.items()}
    except ImportError:
        print0('TensorBoard is not installed, so there are no curves: pip install tensorboard')
        return {}
    if run.config.diagnose:
        writers['.'].add_chart(diagnostics.UPDATES, f'{diagnostics.UPDATES}/.*')
    return writers


def find_ngram_loss(run: Run) -> float | None:
    """The lowest dev loss of the n-gram runs beside this one that have the same data."""
    if not HAVE_EXTRAS or run.config.type == 'ngram' or run.config.input_file == '-':
        return None
    settings = settings_to_save(run.config)
    data = {name: settings[name] for name in settings if SETTINGS[name].metadata['group'] == 'data'}
    return board.find_lowest_loss(run.folder.parent, 'ngram', data)


def has_dev(run: Run) -> bool:
    """Whether there is a dev split: a list of very few lines has none."""
    return len(run.dataset.spans['dev'].starts) > 0


def add_scalars(run: Run, folder: str, values: dict[str, float]):
    """Add a point to each of some curves, if TensorBoard has a writer for that folder."""
    if folder in run.writers:
        for name, value in values.items():
            run.writers[folder].add_scalar(name, value, run.step)


# -----------------------------------------------------------------------------
# evaluation

EVALUATION_TOKENS = 2**13  # in a batch


def check_signals(signals: Sequence[int]):
    """Raise Stopped if a signal has reached any of the processes."""
    if sum_over_ranks(len(signals))[0] > 0:
        raise Stopped


def evaluation_batches(
    dataset: CharDataset, split: str, device: torch.device, signals: Sequence[int] = ()
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches (x, y) of this process's share of a split; raises Stopped after a signal.

    Lines of similar length share a batch, so that there is little padding. The spans of a huge
    text are blocks spread over the split.
    """
    spans = dataset.spans[split]
    order = spans.lengths.argsort(stable=True)[get_rank() :: get_world_size()]
    shown = {'desc': f'evaluating on {split}', 'unit': ' items', 'delay': 1, 'leave': False}
    with progress_bar(total=len(order), **shown) as bar:
        while len(order) and not signals:  # the longest first: if memory is short, it fails at once
            longest = int(spans.lengths[order[-1]])
            batch_size = max(1, EVALUATION_TOKENS // longest)
            rows = order[-batch_size:]
            order = order[:-batch_size]
            batch = Spans(spans.starts[rows], spans.lengths[rows])
            yield pad_batch(dataset.tokens, batch, device)
            bar.update(len(rows))
    check_signals(signals)


@torch.no_grad()
def evaluate(
    model: LanguageModel, dataset: CharDataset, split: str = 'dev', signals: Sequence[int] = ()
) -> float | None:
    """Exact mean loss per token over a whole split: train, dev or test. None if it is empty.

    A signal in the list stops the evaluation: it raises Stopped.
    """
    if dataset.tokens is None:
        raise UserError('this data set has no tokens to evaluate on: load it with with_data=True')
    if split not in dataset.spans:
        raise UserError(f'split {split!r}: unknown; choose {", ".join(dataset.spans)}')
    total_loss = 0.0
    total_tokens = 0
    with eval_mode(model):
        for x, y in evaluation_batches(dataset, split, device_of(model), signals):
            n_tokens = int((y >= 0).sum())
            total_loss += model(x, y).item() * n_tokens
            total_tokens += n_tokens
    total_loss, total_tokens = sum_over_ranks(total_loss, total_tokens)
    return total_loss / total_tokens if total_tokens else None


def update_mix(run: Run, split: str, signals: Sequence[int] = ()) -> float:
    """Update the members and the weights of a mix (see Mix.update); the loss of the mixture.

    Raises Stopped as `evaluate` does; the members that were updated before are valid.
    """

    def compute_losses(model: LanguageModel) -> torch.Tensor:
        losses = [torch.empty(0)]  # a process may have no line of a tiny split
        for x, y in evaluation_batches(run.dataset, split, run.device, signals):
            losses.append(model.token_losses(x, y).cpu())
        return torch.cat(losses)

    has_heldout = split == 'dev' and run.config.split != 'all'
    with eval_mode(run.model):
        return run.model.update(compute_losses, has_heldout)


# -----------------------------------------------------------------------------
# the training step


def get_lr(config: Config, step: int) -> float:
    """Linear warmup, by default over 5 % of the steps, then a cosine decay to zero."""
    warmup = config.warmup
    if warmup is None:
        warmup = config.max_steps // 20
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(
    config: Config, model: nn.Module, device: torch.device, saved_state: dict | None = None
) -> torch.optim.AdamW:
    """AdamW, with the averages of a saved one if given; biases and norms are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    vectors = [p for p in trained if p.ndim < 2]
    groups = [
        {'params': matrices, 'weight_decay': config.weight_decay},
        {'params': vectors, 'weight_decay': 0.0},
    ]
    on_cpu = device.type == 'cpu'
    adamw = fast.FastAdamW if HAVE_EXTRAS and on_cpu else torch.optim.AdamW
    optimizer = adamw(groups, betas=(0.9, 0.99), fused=on_cpu or device.type == 'cuda')
    if saved_state:  # but not the saved learning rate and decay: those of this run count
        state = optimizer.state_dict()
        optimizer.load_state_dict(state | {'state': saved_state})
    return optimizer


def wrap_model(run: Run) -> nn.Module:
    """The model, compiled, made faster for a CPU, or wrapped for several processes, as needed."""
    net = run.model
    if run.config.compile:
        net = torch.compile(net)
    elif HAVE_EXTRAS and run.device.type == 'cpu':
        net = fast.FastModel(net)
    if get_world_size() > 1:
        net = nn.parallel.DistributedDataParallel(net)
    return net


def choose_backward(run: Run) -> Callable:
    """The function that computes the loss and the gradients: that of --backprop."""
    config = run.config
    if config.backprop == 'autograd':
        return backward_autograd
    need_extras(f'--backprop {config.backprop}')
    if get_world_size() > 1:
        raise UserError(f'--backprop {config.backprop} works in a single process only')
    try:
        return backprop.make_backward(config.backprop, config.type, run.model)
    except ValueError as error:
        raise UserError(f'--backprop {config.backprop}: {error}') from None


def backward_autograd(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0
) -> torch.Tensor:
    """The loss of a batch; the gradients of weight * loss are added to p.grad. bfloat16 on CUDA."""
    with torch.autocast('cuda', torch.bfloat16, enabled=x.is_cuda):
        loss = net(x, y)
    (loss * weight).backward()
    return loss


def clip_gradients(model: LanguageModel, max_norm: float | None) -> torch.Tensor:
    """Scale the gradients of each net down to max_norm; the largest norm before that."""
    clip_grad_norm = fast.clip_grad_norm if HAVE_EXTRAS else nn.utils.clip_grad_norm_
    norms = [clip_grad_norm(net.parameters(), max_norm or math.inf) for net in model.learners]
    return max(norms)


def train_step(run: Run, net: nn.Module, lr: float) -> tuple[float, float]:
    """One optimization step: the loss of this process's part of the batch, the gradient norm."""
    config = run.config
    for group in run.optimizer.param_groups:
        group['lr'] = lr
    x, y, weight = get_batch(run.dataset, config, run.step, run.device)
    # dropout depends on (seed, step), so that a resumed run drops the same activations
    torch.manual_seed(make_seed(config.seed, run.step, get_rank()))

    # forward, backward, update
    run.optimizer.zero_grad(set_to_none=True)
    loss = run.backward(net, x, y, weight)
    grad_norm = clip_gradients(run.model, config.grad_clip)
    run.optimizer.step()
    run.step += 1
    # the loss of a mix is the sum over its nets
    return loss.item() / len(run.model.learners), grad_norm.item()


def diagnosed_step(run: Run, net: nn.Module, lr: float) -> tuple[float, float]:
    """A training step that reports on activations, gradients and updates."""
    x, y, _ = get_batch(run.dataset, run.config, run.step, run.device)
    activations = diagnostics.observe_activations(run.model, x, y)
    old_matrices = diagnostics.copy_matrices(run.model)
    loss, grad_norm = train_step(run, net, lr)
    reports = [
        diagnostics.activation_report(activations),
        diagnostics.update_report(run.model, old_matrices, lr / (run.config.learning_rate or 1)),
    ]
    for found in reports:
        for line in found.lines:
            print0(f'step {run.step:6} | {line}')
        if run.writers:
            board.add_report(run.writers['train'], found, run.step)
    if get_rank() == 0 and pictures.is_installed():
        save_pictures(run, pictures.draw_diagnosis(*reports))
    return loss, grad_norm


def check_finite(run: Run, **values: float):
    """Raise a RunError if one of the values is infinite or nan."""
    if not all(math.isfinite(value) for value in values.values()):
        found = ', '.join(f'{name.replace("_", " ")} {value}' for name, value in values.items())
        raise RunError(
            f'step {run.step}: {found}; try a --learning-rate below '
            f'{run.config.learning_rate}; {run.folder} has the last good checkpoint'
        )


# -----------------------------------------------------------------------------
# reports and checkpoints during training

EARLY_BATCHES = 4  # that a run is evaluated on if it is stopped early


def add_metrics(run: Run, train_loss: float | None, dev_loss: float):
    """Add a dict to the history of the run, and the same as a line to its metrics.jsonl.

    Where no step was taken since the last evaluation, train_loss and lr are None.
    """
    if run.history and run.history[-1]['step'] == run.step:  # from before the run was resumed
        return
    lr = None if train_loss is None else get_lr(run.config, run.step - 1)  # of the last step
    metrics = {'step': run.step, 'train_loss': train_loss, 'dev_loss': dev_loss, 'lr': lr}
    metrics['seconds'] = run.seconds
    run.history.append(metrics)
    if get_rank() > 0:
        return
    path = run.folder / METRICS
    try:
        with open(path, 'a', encoding='ascii') as file:
            file.write(json.dumps(metrics) + '\n')
    except OSError as error:
        raise RunError(f'cannot write {path}: {error.strerror}') from None


def evaluate_and_save(run: Run, losses: list[float], signals: Sequence[int] = ()):
    """Evaluate on dev, report it, and save; `losses` are those of the steps since last time."""
    split = 'dev' if has_dev(run) else 'train'
    if isinstance(run.model, Mix):
        dev_loss = update_mix(run, split, signals)
    else:
        dev_loss = evaluate(run.model, run.dataset, split, signals)
    train_loss = sum(losses) / len(losses) if losses else None
    report_losses(run, train_loss, dev_loss)
    check_finite(run, dev_loss=dev_loss)
    add_metrics(run, train_loss, dev_loss)

    # best.pt first, because a run may be killed between the two: resume_run looks into both
    if dev_loss < run.best_loss:
        run.best_loss = dev_loss
        run.best_step = run.step
        save_checkpoint(run, 'best.pt')
    save_checkpoint(run, 'last.pt')
    wait_for_ranks()  # for rank 0, which writes


def save_early_best(run: Run):
    """Save best.pt for a run that was stopped before its first evaluation in training.

    Until then best.pt is the model of step 0, which has learned nothing. Stopping has to be quick,
    so a few lines of dev have to do. last.pt does not know of this: after a resume the first
    evaluation of all lines replaces it.
    """
    if run.step == 0 or any(metrics['step'] > 0 for metrics in run.history):
        return
    split = 'dev' if len(run.dataset.spans['dev'].starts) else 'train'
    spans = run.dataset.spans[split]
    every = math.ceil(len(spans.starts) / (EARLY_BATCHES * run.config.batch_size))
    part = Spans(spans.starts[::every], spans.lengths[::every])
    dataset = replace(run.dataset, spans={split: part})
    if isinstance(run.model, Mix):  # its members are still the nets of step 0
        run.model.best_losses.fill_(math.inf)
        run.model.dev_losses.clear()
        loss = update_mix(replace(run, dataset=dataset), split)
    else:
        loss = evaluate(run.model, dataset, split)
    n_lines = f'{len(part.starts):,} of {len(spans.starts):,} lines'
    print0(f'step {run.step:6} | {split} loss {loss:.4f} (on {n_lines})')
    if loss < run.best_loss:
        save_checkpoint(replace(run, best_loss=loss), 'best.pt')


def report_losses(run: Run, train_loss: float | None, dev_loss: float):
    """Print the losses, and write them for TensorBoard."""
    name = 'dev loss' if has_dev(run) else 'loss on all of train'
    # for a mix it is the mean over its nets, not comparable with the loss of the mixture
    trained = 'train loss of the nets' if isinstance(run.model, Mix) else 'train loss'
    train_part = '' if train_loss is None else f'{trained} {train_loss:.4f} | '
    is_best = dev_loss < run.best_loss
    mark = ' | best so far' if is_best and run.step > 0 else ''
    print0(f'step {run.step:6} | {train_part}{name} {dev_loss:.4f}{mark}')
    if run.step == 0 and run.model.starts_uniform:
        print0(f'initial {name} {compare_with_uniform(dev_loss, run.dataset.vocab_size)}')
    if is_best and isinstance(run.model, Mix):
        report_members(run)
    add_scalars(run, 'dev' if has_dev(run) else 'all', {'loss': dev_loss})
    add_scalars(run, 'n-gram', {'loss': run.ngram_loss})  # a level line
    for writer in run.writers.values():
        writer.flush()


def compare_with_uniform(loss: float, vocab_size: int) -> str:
    """The loss before training beside that of a uniform guess, which it should be close to."""
    uniform = math.log(vocab_size)
    line = f'{loss:.4f} (uniform guess: ln {vocab_size} = {uniform:.4f})'
    if abs(loss / uniform - 1) > 0.1:
        line += '; more than 10 % apart: check the initialization'
    return line


def report_members(run: Run):
    """Print the dev loss and the weight of each member of a mix, and write them as curves."""
    curves = {}
    parts = []
    model = run.model
    numbers = zip(model.names, model.best_losses.tolist(), model.weights.tolist(), strict=True)
    for name, loss, weight in numbers:
        parts.append(f'{name} {loss:.4f} (weight {weight:.2f})')
        curves[f'member loss/{name}'] = loss
        curves[f'member weight/{name}'] = weight
    print0(f'  {", ".join(parts)}')  # with the step, three would not fit into 80 columns
    add_scalars(run, '.', curves)


def print_few_samples(run: Run):
    """Print a few samples on one line, or a piece of text."""
    n = 1 if run.dataset.is_text else min(SAMPLES_DURING_TRAINING, run.config.num_samples)
    samples = sample(run.model, run.dataset, n, **sampling_options(run.config))
    if samples:
        print_result(', '.join(samples))
        add_samples(run, 'during training', samples)


def print_final_samples(run: Run):
    """Print a short list of samples at each of two temperatures, one sample per line."""
    options = sampling_options(run.config)
    temperatures = [run.config.temperature]
    if run.config.temperature == 1:
        temperatures.append(0.7)
    n = 1 if run.dataset.is_text else min(SAMPLES_AT_THE_END, run.config.num_samples)
    for temperature in temperatures:
        options['temperature'] = temperature
        samples = sample(run.model, run.dataset, n, match=run.config.match, **options)
        if not samples:
            continue
        print_result(f'samples at temperature {temperature}:')
        marks = itertools.repeat('new') if run.dataset.is_text else run.dataset.classify(samples)
        for text, mark in zip(samples, marks, strict=False):
            print_result(f'  {text}' if mark == 'new' else f'  {text} ({mark})')
        add_samples(run, f'temperature {temperature}', samples)


def add_samples(run: Run, name: str, samples: list[str]):
    """Show samples in TensorBoard, if it is installed."""
    if run.writers:
        run.writers['.'].add_text(f'samples/{name}', as_code(samples), run.step)


def as_code(texts: list[str]) -> str:
    """Texts as a Markdown code block, so that TensorBoard shows them verbatim."""
    lines = [line for text in texts for line in text.split('\n')]
    block = '\n'.join(f'    {line}' for line in lines)
    return block.encode(errors='replace').decode()  # UTF-8 cannot hold half of a surrogate pair


# -----------------------------------------------------------------------------
# signals


@contextlib.contextmanager
def handle_signals(handle: Callable[[int, Any], Any], *numbers: int) -> Iterator[None]:
    """Let a function handle some signals; afterwards they are handled as before."""
    try:
        old_handlers = [signal.signal(number, handle) for number in numbers]
    except ValueError:  # not the main thread, which alone can do that
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, old_handlers, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the number of a signal.

    Ctrl-C or SIGTERM stops training after the current step; a second one stops it at once.
    """
    received: list[int] = []

    def handle(number: int, frame: Any):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    with handle_signals(handle, signal.SIGINT, signal.SIGTERM):
        yield received


@contextlib.contextmanager
def interruptible(signals: list[int]) -> Iterator[None]:
    """Let the first signal end the block at once, which is safe where no weights change."""

    def handle(number: int, frame: Any):
        signals.append(number)
        raise KeyboardInterrupt

    handled = handle_signals(handle, signal.SIGINT, signal.SIGTERM)
    with contextlib.suppress(KeyboardInterrupt), handled:
        yield


# -----------------------------------------------------------------------------
# the training loop

SLOW_STEPS = 10  # the first steps are slow: memory is allocated, kernels are chosen


class TimeLeft:
    """Estimates the time left from all steps but the first ones, which are slow."""

    def __init__(self, first_step: int, max_steps: int):
        self.first_step = first_step + SLOW_STEPS
        self.max_steps = max_steps
        self.started = 0.0

    def estimate(self, step: int) -> str:
        """The time left after this step, such as 03:40; ? during the first ones."""
        if step <= self.first_step:
            self.started = time.perf_counter()
            return '?'
        seconds_per_step = (time.perf_counter() - self.started) / (step - self.first_step)
        return tqdm.format_interval(seconds_per_step * (self.max_steps - step))


def is_due(interval: int | None, step: int) -> bool:
    """Whether `step` is a multiple of the interval (None: never)."""
    return interval is not None and step % interval == 0


def has_stalled(run: Run) -> bool:
    """Whether the dev loss has not improved for --patience steps."""
    patience = run.config.patience or math.ceil(run.config.max_steps / 3)
    return run.step - run.best_step >= patience


def log_step(run: Run, loss: float, grad_norm: float, lr: float, tokens_per_second: float):
    """Write the curves of a training step for TensorBoard, of later ones only every tenth."""
    if run.step <= 100 or run.step % 10 == 0:  # the first steps change most
        curves = {'loss': loss, 'training/gradient norm': grad_norm, 'training/learning rate': lr}
        curves['training/tokens per second'] = tokens_per_second
        add_scalars(run, 'train', curves)


def train_model(run: Run, signals: list[int]):
    """Train until max_steps or until the dev loss stalls; raises Stopped after a signal."""
    config = run.config
    net = wrap_model(run)
    run.model.train()
    losses: list[float] = []  # of the steps since the last evaluation
    tokens_per_step = config.batch_size * run.dataset.spans['train'].lengths.double().mean().item()
    time_left = TimeLeft(run.step, config.max_steps)
    announced_step = run.step + 3 * SLOW_STEPS  # without a progress bar the time left is said once

    bar_format = '{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}'
    how = {'total': config.max_steps, 'initial': run.step, 'bar_format': bar_format}
    with progress_bar(**how, leave=False) as bar:
        while True:
            last_step = run.step == config.max_steps

            # once in a while: evaluate and save, and print samples
            if last_step or is_due(config.eval_interval, run.step):
                evaluate_and_save(run, losses, signals)
                losses = []
                if has_stalled(run) and not last_step:
                    print0(f'no lower dev loss since step {run.best_step}: stopping early')
                    return
            check_signals(signals)
            if last_step:
                return
            if run.step > 0 and is_due(config.sample_interval, run.step):
                with interruptible(signals):
                    print_few_samples(run)

            # one training step
            started = time.perf_counter()
            lr = get_lr(config, run.step)
            take_step = diagnosed_step if is_due(config.diagnose, run.step) else train_step
            loss, grad_norm = take_step(run, net, lr)
            check_finite(run, loss=loss, gradient_norm=grad_norm)
            seconds = time.perf_counter() - started

            # log it
            losses.append(loss)
            run.seconds += seconds
            log_step(run, loss, grad_norm, lr, tokens_per_step / seconds)
            left = time_left.estimate(run.step)
            # the time first: a narrow terminal shows only the beginning
            bar.set_postfix_str(f'time left {left}, loss {loss:.4f}, lr {lr:.1e}', refresh=False)
            bar.update()
            if bar.disable and run.step == announced_step < config.max_steps:
                print0(f'estimated time left: {left}')


# -----------------------------------------------------------------------------
# the final report


def compute_result(run: Run) -> dict[str, Any]:
    """The content of result.json: the exact loss of every split, the novelty and the settings."""
    dataset = run.dataset
    losses = {split: evaluate(run.model, dataset, split) for split in ('train', 'dev', 'test')}
    novelty = 1.0
    if not dataset.is_text:
        classes = dataset.classify(sample(run.model, dataset, 1000, seed=run.config.seed))
        novelty = classes.count('new') / max(1, len(classes))
    return {
        'type': run.config.type,
        'params': count_parameters(run.model),
        'steps': run.step,
        'seconds': run.seconds,
        **losses,
        'novelty': novelty,
        'settings': settings_to_save(run.config),
    }


def report(run: Run):
    """Evaluate the best model on every split, save the result, and print samples and losses."""
    best, _ = load_checkpoint(run.folder / 'best.pt')
    run.model.load_state_dict(best.model.state_dict())  # the last weights stay in last.pt
    result = compute_result(run)
    if get_rank() == 0:
        content = json.dumps(result, indent=1).encode()
        write_atomically(run.folder / 'result.json', lambda file: file.write(content))

    print_final_samples(run)
    for split in ('train', 'dev', 'test'):
        if result[split] is not None:
            print_result(describe_loss(split, result[split], run.dataset))
    novelty = result['novelty']
    if not run.dataset.is_text:
        print_result(f'novelty: {100 * novelty:.0f} % of 1,000 samples are not in the data')
    if not run.model.is_counted:
        print0(f'best at step {best.step} (dev loss {best.best_loss:.4f}); this model is kept')
    if HAVE_EXTRAS and get_rank() == 0:
        show_run(run, result)
    print0(f'sample more with: {command("--sample-only", "-o", run.folder)}')
    if not run.dataset.is_text:
        print0(advise(novelty))


def advise(novelty: float) -> str:
    """A hint which sampling flags to try next."""
    if novelty < 0.5:
        return 'most samples are copies from the data: add --new-only, or --temperature 1.2'
    return 'too wild: add --temperature 0.7; too tame: add --temperature 1.2 or --new-only'


def count_parameters(model: nn.Module) -> int:
    """The number of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def describe_loss(split: str, loss: float, dataset: CharDataset) -> str:
    """A line about the loss of a split."""
    line = f'{split:5} loss {loss:.4f}, perplexity {math.exp(min(99, loss)):.3f}'
    if not dataset.chars:  # byte pairs: only the loss per character compares with other models
        line += f', {loss * dataset.tokens_per_char:.4f} per character'
    return line


# -----------------------------------------------------------------------------
# pictures of a run


def show_run(run: Run, result: dict[str, Any]):
    """Show a finished run in TensorBoard's table and projector, and in pictures."""
    letters = token_letters(run.dataset)
    vectors = pictures.find_embedding(run.model, letters)
    if run.writers:
        board.add_result(run.writers['.'], result, describe_run(run), find_unused_settings(run))
        if vectors is not None:
            board.add_projector(run.writers['.'], vectors, letters)
    for writer in run.writers.values():
        writer.flush()  # the pictures are drawn from its files
    if not pictures.is_installed():
        print0('matplotlib is not installed, so there are no pictures: pip install matplotlib')
        return
    with stop_signals() as signals:  # matplotlib would turn a Ctrl-C into errors of its own
        pngs = draw_pictures(run, vectors)
    for number in signals:
        signal.raise_signal(number)
    save_pictures(run, pngs)
    names = [f'{name}.png' for name in PICTURES]
    names = [name for name in names if (run.folder / name).exists()]  # some are of a diagnosis
    if names:
        print0(f'pictures in {run.folder}: {", ".join(names)}')


def describe_run(run: Run) -> str:
    """The name of a run, then as flags the settings that differ from the defaults.

    These depend on the type, and on the size of the data.
    """
    usual = resolve_config({'type': run.config.type, 'members': run.config.members})
    usual = adapt_to_size(usual, run.dataset, {})
    words = [run.folder.name]
    for name, setting in SETTINGS.items():
        value = getattr(run.config, name)
        is_chosen = setting.metadata['group'] in ('model', 'training') and name != 'eval_interval'
        if is_chosen and getattr(usual, name) not in (None, value):
            words.append(f'{flag_of(name)} {value}')
    return ' '.join(words)


def find_unused_settings(run: Run) -> list[str]:
    """The settings of training if the model only counts, as none of them matters then."""
    if not run.model.is_counted:
        return []
    return [name for name in SETTINGS if SETTINGS[name].metadata['group'] == 'training']


def token_letters(dataset: CharDataset) -> str:
    """A letter for each token, a dot for the boundary; '' with byte pairs."""
    return '.' * dataset.first_id + dataset.chars if dataset.chars else ''


def count_tokens(dataset: CharDataset) -> torch.Tensor:
    """How often each token occurs, in an even sample of a large text; first the boundary."""
    stride = 1 + len(dataset.tokens) // 2**20
    counts = torch.bincount(dataset.tokens[::stride].long(), minlength=dataset.vocab_size)
    counts[: dataset.first_id] = counts.max() + 1
    return counts


def draw_pictures(run: Run, vectors: torch.Tensor | None) -> dict[str, bytes]:
    """PNGs of a finished run by name: its curves, and what it has learned about the letters."""
    pngs = {}
    if 'train' in run.writers:
        folders = [run.folder / name for name in CURVES if name in run.writers]
        losses = {folder.name: board.read_curves(folder, 'loss') for folder in folders}
        # without a step there is no training loss
        losses = {name: curves['loss'] for name, curves in losses.items() if curves}
        updates = board.read_curves(run.folder / 'train', f'{diagnostics.UPDATES}/.*')
        unit = 'character' if run.dataset.chars else 'token'
        is_mix = isinstance(run.model, Mix)
        if losses:  # TensorBoard cannot read in a folder whose name is not UTF-8
            pngs = pictures.draw_curves(losses, updates, unit, diagnostics.GOOD_UPDATE, is_mix)

    letters = token_letters(run.dataset)
    counts = count_tokens(run.dataset)
    of_letters = pictures.draw_letters(run.model, vectors, letters, counts)
    missing = pictures.find_missing_letters(letters, counts) if of_letters else ''
    if missing:
        codes = 'shown as codes until a font such as Noto is installed'
        print0(f'pictures: no installed font has {missing}: {codes}')
    return pngs | of_letters


def save_pictures(run: Run, pngs: dict[str, bytes]):
    """Write pictures into the folder of the run, and show them in TensorBoard."""
    for name, png in pngs.items():
        write_atomically(run.folder / f'{name}.png', lambda file, png=png: file.write(png))
        if run.writers:
            run.writers['.'].add_png(f'pictures/{name}', png, run.step)


# -----------------------------------------------------------------------------
# command line: flags

FIND_LR_STEPS = 300
COMMANDS = ('runs', 'sample_only', 'check_backprop', 'find_lr')  # flags that replace training
SHORT_LIST = 5000  # lines to train on: below, other defaults are better

# what --help shows; --help-all shows all
MAIN_OPTIONS = ['input_file', 'text', 'type', 'block_size', 'n_layer', 'n_embd', 'batch_size']
MAIN_OPTIONS += ['learning_rate', 'max_steps', 'eval_interval', 'seed', 'work_dir', 'resume']
MAIN_OPTIONS += ['runs', 'sample_only', 'num_samples', 'prompt', 'temperature', 'new_only', 'match']


def describe_default(name: str, model_type: str) -> str:
    """The default of a setting for its help text: ' (default for gru: 0.003)'."""
    metadata = SETTINGS[name].metadata
    config = Config() if name == 'type' else resolve_config({'type': model_type})
    value = getattr(config, name)
    if value is None:
        value = metadata.get('automatic', '')
    if model_type == 'mix' and name in ('max_steps', *SIZES):
        value = 'by member'
    if value == '' or SETTINGS[name].type is bool:
        return ''
    by_type = any(name in cls.preferred_settings for cls in MODELS.values())
    for_type = f' for {model_type}' if by_type else ''
    note = f'; {metadata["note"]}' if 'note' in metadata else ''
    short_list_dropout = MODELS[model_type].short_list_dropout
    if name == 'dropout' and short_list_dropout:
        note = f'; on a short list: {short_list_dropout}'
    return f' (default{for_type}: {value}{note})'


def add_option(parser: Any, name: str, model_type: str):
    """Add the flag of a setting to a parser or a group of one."""
    setting = SETTINGS[name]
    flags = [flag_of(name)]
    if 'flag' in setting.metadata:
        flags.insert(0, setting.metadata['flag'])
    text = setting.metadata['help'] + describe_default(name, model_type)
    how = {'action': 'store_true'}
    if setting.type is not bool:
        metavar = {int: 'N', float: 'X'}.get(value_type(name), 'TEXT')
        how = {'metavar': setting.metadata.get('metavar', metavar)}
    parser.add_argument(*flags, dest=name, help=text.replace('%', '%%'), **how)


def describe_models() -> list[str]:
    """A line about each model type."""
    lines = []
    for name, cls in MODELS.items():
        summary = (cls.__doc__ or '').strip().split('\n')[0]
        lines.append(f'  {name:12} {summary}')
    return lines


def read_docs() -> list[str]:
    """The lines of the docstring of this file; python -OO leaves none."""
    return (__doc__ or '').strip().splitlines()


def list_examples() -> list[str]:
    """The commands of the docstring, as they have to be typed here."""
    program = command()  # python and a path, or the command `makemore`
    path = shlex.quote(shlex.split(program)[-1])
    launched = '-m makemore' if program == 'makemore' else path  # what torchrun starts
    examples = []
    for line in read_docs():
        if line.startswith('    '):
            typed, meaning = re.split(' {2,}', line.strip(), maxsplit=1)
            if typed.startswith('torchrun'):
                typed = typed.replace('makemore.py', launched)
            typed = typed.replace('python makemore.py', program)
            examples.append((typed, meaning))
    width = max((len(typed) for typed, _ in examples), default=0)
    return [f'  {typed:{width}}   {meaning}' for typed, meaning in examples]


def make_parser(model_type: str = Config.type, is_short: bool = False) -> argparse.ArgumentParser:
    """Flags and help, made from Config and MODELS; the defaults are those of a model type."""
    if is_short:
        names = textwrap.fill('types: ' + ', '.join(MODELS), 78, subsequent_indent='  ')
        more = 'more: --help-all for all options, --help --type gru for the defaults of gru'
        epilog = [names, more]
    else:
        epilog = ['model types:', *describe_models(), '', 'examples:', *list_examples()]
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='makemore',
        usage=f'{command()} [-i FILE] [--type TEXT] [options]',
        description=''.join(read_docs()[:1]),
        epilog='\n'.join(epilog),
        formatter_class=functools.partial(formatter, max_help_position=30),
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    if is_short:
        shown = parser.add_argument_group('the twenty options that most people need')
        for name in MAIN_OPTIONS:
            add_option(shown, name, model_type)
        return parser

    groups = {group: parser.add_argument_group(group) for group in GROUPS}
    for name, setting in SETTINGS.items():
        add_option(groups[setting.metadata['group']], name, model_type)
    other = parser.add_argument_group('other')
    other.add_argument('-h', '--help', action='store_true', help='the most important options')
    other.add_argument('--help-all', action='store_true', help='all options')
    version = f'makemore {__version__}, torch {torch.__version__}'
    other.add_argument('--version', action='version', version=version)
    other.add_argument('-n', '--num-workers', metavar='N', help='ignored; for old commands')
    return parser


def parse_args(argv: list[str] | None = None) -> dict[str, Any]:
    """The flags that were given, checked and converted."""
    try:
        namespace, unknown = make_parser().parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f'{error}; --help-all lists all options') from None
    if unknown:
        word = unknown[0]
        hint = suggest(word, map(flag_of, SETTINGS))
        if not word.startswith('-'):
            hint = f'; name a file with -i {word}'
        raise UserError(f'{" ".join(unknown)}: no such option{hint}; --help-all lists all options')
    cli_args = {}
    for name, value in vars(namespace).items():
        # argparse takes the value of --prompt=-- for the end of all options, and leaves []
        cli_args[name] = '--' if value == [] else value
    if 'help' in cli_args or 'help_all' in cli_args:
        model_type = check_value('type', cli_args.get('type', Config.type))
        print_result(make_parser(model_type, is_short='help' in cli_args).format_help())
        sys.exit(0)

    drop_old_flags(cli_args)
    check_modes(cli_args)
    prompt = cli_args.get('prompt', '')
    if prompt.startswith('@'):
        # a file ends with a line end, which nobody means to be part of the prompt
        encoding = cli_args.get('encoding', Config.encoding)
        text = read_text(prompt[1:], encoding, '--prompt and --encoding')
        cli_args['prompt'] = text.removesuffix('\n')
    return {name: check_value(name, value) for name, value in cli_args.items()}


def drop_old_flags(cli_args: dict[str, Any]):
    """Drop what commands for the original makemore may contain and this one ignores."""
    ignored = {'num_workers': cli_args.get('num_workers'), 'max_steps': '-1', 'top_k': '-1'}
    for name, value in ignored.items():
        if name in cli_args and cli_args[name] == value:
            print0(f'{flag_of(name)} {cli_args.pop(name)} is ignored')


def check_modes(cli_args: dict[str, Any]):
    """Refuse flags that exclude each other."""
    modes = (*COMMANDS, 'resume', 'overwrite')
    given_modes = [flag_of(mode) for mode in modes if mode in cli_args]
    if len(given_modes) > 1:
        raise UserError(f'{" and ".join(given_modes)} exclude each other: choose one')


# -----------------------------------------------------------------------------
# defaults that depend on the data


def default_input_file() -> str:
    """./names.txt, else the copy that came with the program."""
    if Path('names.txt').exists():
        return 'names.txt'
    for folder in (Path(__file__).parent, Path(sysconfig.get_path('data')) / 'share/makemore'):
        if (folder / 'names.txt').exists():
            print0(f'no names.txt here: using {folder / "names.txt"}')
            return str(folder / 'names.txt')
    return 'names.txt'


def is_short_list(dataset: CharDataset) -> bool:
    """Whether the data is a list of fewer than SHORT_LIST lines."""
    return not dataset.is_text and len(dataset.spans['train'].starts) < SHORT_LIST


def choose_members(dataset: CharDataset) -> str:
    """The members of a mix, by rules of thumb, which the log explains."""
    n_lines = len(dataset.spans['train'].starts)
    n_tokens = int(dataset.spans['train'].lengths.sum())
    if dataset.is_text:
        members = 'ngram,transformer'
        reason = 'a transformer reads long texts best'
    elif is_short_list(dataset) and n_tokens < 20_000:
        members = 'ngram,gru,rnn'
        reason = f'on a list as short as {n_lines:,} lines small nets predict best'
    elif is_short_list(dataset):
        members = 'ngram,gru'
        reason = f'for {n_lines:,} lines, {n_tokens:,} tokens, one small net is enough'
    else:
        members = 'ngram,lstm'
        reason = f'{n_lines:,} lines are enough for a larger net'
    print0(f'members {members}: {reason}')
    return members


def complete_mix(config: Config, dataset: CharDataset, cli_args: dict[str, Any]) -> Config:
    """The settings of a mix: its members, and the steps of the member that needs most."""
    members = config.members or choose_members(dataset)
    preferred = [MODELS[name].preferred_settings for name in parse_members(members)]
    most_steps = max(settings.get('max_steps', Config.max_steps) for settings in preferred)
    return replace(config, members=members, max_steps=cli_args.get('max_steps', most_steps))


def choose_batch_size(config: Config, dataset: CharDataset) -> int:
    """A short list or a text is learned better in smaller batches."""
    if dataset.is_text:
        return min(64, config.batch_size)
    if is_short_list(dataset):
        n_lines = len(dataset.spans['train'].starts)
        return max(get_world_size(), min(32, config.batch_size, n_lines))
    return config.batch_size


def choose_epochs(dataset: CharDataset) -> int:
    """The number of passes over a list after which more training does not help.

    On a short list it is 40. Only if there are many lines, and long ones, it is less: a step takes
    time in proportion to their length, and the last passes bring little.
    """
    if not is_short_list(dataset):
        return 100
    lengths = dataset.spans['train'].lengths.float()
    few_tokens = 1_100_000 / float(lengths.sum())
    short_lines = 720 / float(lengths.mean())
    return max(1, round(min(40, max(few_tokens, short_lines))))


def adapt_to_size(config: Config, dataset: CharDataset, cli_args: dict[str, Any]) -> Config:
    """The settings, with defaults that suit the size of the data where no flag was given."""
    if config.type == 'mix':
        config = complete_mix(config, dataset, cli_args)
    batch_size = cli_args.get('batch_size') or choose_batch_size(config, dataset)
    # small batches are noisy: the learning rate is scaled with the square root of the batch size
    learning_rate = config.learning_rate * (batch_size / config.batch_size) ** 0.5
    defaults = {'batch_size': batch_size, 'learning_rate': learning_rate}
    if not dataset.is_text:
        n_lines = len(dataset.spans['train'].starts)
        most_steps = max(400, choose_epochs(dataset) * n_lines // batch_size)
        defaults['max_steps'] = min(config.max_steps, most_steps)
        defaults['eval_interval'] = min(config.eval_interval, most_steps // 40)
    short_list_dropout = MODELS[config.type].short_list_dropout
    if is_short_list(dataset) and short_list_dropout:
        defaults['dropout'] = short_list_dropout
    not_given = {name: value for name, value in defaults.items() if name not in cli_args}
    return replace(config, **not_given)


# -----------------------------------------------------------------------------
# a run from start to end

MOST_TOKENS = 2**16  # in a batch of a resumed run whose --batch-size is not typed


def new_run(cli_args: dict[str, Any], device: torch.device) -> tuple[Run, Any]:
    """A run that starts from random weights, and the lock of its folder."""
    config = resolve_config(cli_args)
    if 'input_file' not in cli_args:
        config = replace(config, input_file=default_input_file())
    check_work_dir(config)
    writes_nothing = config.check_backprop or config.find_lr
    folder = lock = None
    if is_large_text(config) and not writes_nothing:  # its tokens go into the folder
        folder, lock = claim_run_dir(config)
    config, dataset = load_data(config, folder)
    config = adapt_to_size(config, dataset, cli_args)
    torch.manual_seed(config.seed)
    model = MODELS[config.type](config, dataset.vocab_size)
    run = start_run(Run(config, dataset, model, folder), device)
    if folder is None and not writes_nothing:
        run.folder, lock = claim_run_dir(config)
    return run, lock


def resume_run(cli_args: dict[str, Any], device: torch.device) -> tuple[Run, Any]:
    """The run in the work dir, as it was when last.pt was saved, and the lock of its folder."""
    folder = find_run(cli_args, 'last.pt')
    lock = lock_run_dir(folder) if get_rank() == 0 else None
    run, optimizer_state = load_checkpoint(folder / 'last.pt', cli_args)
    reload_data(run)
    if run.step > run.config.max_steps:
        limit = f'--max-steps {run.config.max_steps}'
        raise UserError(f'{folder} is at step {run.step}, beyond {limit}: choose a larger one')
    was_restarted = HAVE_EXTRAS and launched_by_torchrun() and torchrun.was_restarted()
    is_trusted = was_restarted or 'batch_size' in cli_args
    if not is_trusted and asks_for_much_memory(run):
        raise UserError(
            f'{folder}: a step would take far more memory than most models of this size; '
            f'if you trust this run, add --batch-size {run.config.batch_size}'
        )
    run.best_loss, run.best_step = find_best(run)
    run.history = read_history(folder, run.step)
    return start_run(run, device, optimizer_state), lock


def asks_for_much_memory(run: Run) -> bool:
    """Whether a step takes much more memory than one expects of a model of this size.

    A hostile checkpoint of few bytes can claim a huge batch, or a model with very wide windows.
    """
    if not HAVE_EXTRAS or run.model.is_counted:
        return False
    longest = int(run.dataset.spans['train'].lengths.max())
    n_tokens = run.config.batch_size * longest
    if n_tokens > MOST_TOKENS:
        return True
    n_tokens = max(n_tokens, EVALUATION_TOKENS)
    per_token = sum(audit.measure_memory(net, longest) for net in run.model.learners) / longest
    weights = sum(p.nbytes for p in run.model.parameters())
    # the models of this program keep a twentieth of their size for each token, or less
    return n_tokens * per_token > audit.FREE_MEMORY + n_tokens * weights / 16


def resume_command(run: Run) -> str:
    """The command that resumes a run."""
    words = ['--resume', '-o', run.folder]
    if asks_for_much_memory(run):
        words += ['--batch-size', run.config.batch_size]
    return command(*words)


def find_best(run: Run) -> tuple[float, int]:
    """The lowest dev loss so far and its step; inf if best.pt is missing or not usable."""
    path = run.folder / 'best.pt'
    try:
        best, _ = load_checkpoint(path)
        shapes = [tensor.shape for tensor in run.model.state_dict().values()]
        best_shapes = [tensor.shape for tensor in best.model.state_dict().values()]
        if best.dataset.state() != run.dataset.state() or best_shapes != shapes:
            raise UserError(f'{path} is of another run than last.pt')
    except UserError as error:
        print0(f'{error}; the next evaluation saves a new one')
        return math.inf, run.step
    if best.step > run.step:  # the run was killed between saving best.pt and last.pt
        return best.best_loss, best.best_step
    return run.best_loss, run.best_step


def is_finished(run: Run) -> bool:
    """Whether the final report of a run, result.json, was written at its current step."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads((run.folder / 'result.json').read_bytes())['steps'] == run.step
    return False


def start_run(run: Run, device: torch.device, optimizer_state: dict | None = None) -> Run:
    """Put a run on its device and make its optimizer; the run."""
    if run.config.diagnose:
        need_extras('--diagnose')
    if run.config.batch_size < get_world_size():
        raise UserError(f'--batch-size {run.config.batch_size} is too small for all processes')
    torch.set_num_threads(run.config.threads or 1)
    run.backward = choose_backward(run)
    run.device = choose_device(run.model, device)
    run.model.to(run.device)
    if not run.model.is_counted:
        run.optimizer = make_optimizer(run.config, run.model, run.device, optimizer_state)
    return run


def choose_device(model: LanguageModel, device: torch.device) -> torch.device:
    """The device to run a model on: counting stays on the CPU, and mps has no float64."""
    if model.is_counted or (model.needs_float64 and device.type == 'mps'):
        return torch.device('cpu')
    return device


@contextlib.contextmanager
def open_run(cli_args: dict[str, Any], device: torch.device) -> Iterator[Run]:
    """A new or a resumed run, whose folder is locked until the end of the block."""
    make_run = resume_run if 'resume' in cli_args else new_run
    run, lock = make_run(cli_args, device)
    try:
        yield run
    finally:
        if lock:
            lock.close()


def train_run(run: Run) -> int | None:
    """Train a run, save it and report on it; the number of the signal if one stopped it."""
    announce_run(run)
    write_history(run)
    run.ngram_loss = find_ngram_loss(run)
    run.writers = open_writers(run)
    try:
        signal_number = fit_model(run)
        if signal_number:
            print0(f'stopped after step {run.step}; resume with: {resume_command(run)}')
        else:
            report(run)
    except (KeyboardInterrupt, SystemExit):  # a second signal, or one after the last step
        if (run.folder / 'last.pt').exists():
            print0(f'resume with: {resume_command(run)}')
        raise
    for writer in run.writers.values():
        writer.close()
    return signal_number


def announce_run(run: Run):
    """Print what is trained, on which device, and where it is saved."""
    config = run.config
    if run.model.is_counted:
        print0(f'{config.type}: counting n-grams, no gradient steps')
    else:
        size = f'{count_parameters(run.model):,} parameters'
        print0(f'{config.type}: {size}, {config.max_steps:,} steps on {run.device}')
        if run.step:
            print0(f'continuing after step {run.step:,}')
    curves = shlex.join(['tensorboard', '--logdir', str(run.folder.parent)])
    print0(f'saving to {run.folder}; watch it with: {curves}')


def fit_model(run: Run) -> int | None:
    """Count, train, evaluate and save; the number of the signal if one stopped the training."""
    if run.step == 0:
        run.model.fit(run.dataset)
    if run.model.is_counted:
        evaluate_and_save(run, [])
        return None
    with stop_signals() as signals:
        try:
            train_model(run, signals)
        except Stopped:
            save_checkpoint(run, 'last.pt')
            save_early_best(run)
            return signals[0] if signals else signal.SIGTERM  # if another rank received it
    return None


def train_main(cli_args: dict[str, Any], device: torch.device) -> int:
    """Train a new or a resumed run; the exit code."""
    with open_run(cli_args, device) as run:
        goes_on = 'max_steps' in cli_args and run.step < run.config.max_steps
        if 'resume' in cli_args and is_finished(run) and not goes_on:
            print0(f'{run.folder}: already finished; add --max-steps to go on')
            return 0
        number = train_run(run)
    return 128 + number if number else 0


def train(input_file: str | Path | None = None, **settings: Any) -> Run:
    """Train a model on a file, and return the run: its model, dataset, config, folder and history.

        run = makemore.train('names.txt', type='gru', max_steps=2000)
        makemore.sample(run.model, run.dataset)

    The settings are those of Config, that is, of the command line, and so are their defaults, what
    is printed, and the folder. The model is the one with the lowest dev loss. The history is a list
    with a dict for every evaluation: step, train_loss, dev_loss, lr and seconds.

    A mistake raises a UserError, which is a ValueError; a failure, such as a loss of nan, a
    RunError. Ctrl-C saves the run, then raises KeyboardInterrupt; resume=True continues it.
    """
    if input_file is not None:
        settings['input_file'] = input_file
    arguments = {}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise UserError(
                f'{name}: no such setting{suggest(name, SETTINGS)}; see makemore.Config'
            )
        if name in COMMANDS:
            raise UserError(f'{name} is for the command line, as in makemore.main([...])')
        if value is not False:  # a flag that is not given
            arguments[name] = check_value(name, value)
    check_modes(arguments)
    device = init_device(arguments.get('device', 'auto'))
    with process_group(arguments) as arguments, open_run(arguments, device) as run:
        number = train_run(run)
    if number:  # the run is saved; now raise what the signal usually raises
        signal.raise_signal(number)
    run.model.eval()
    return run


# -----------------------------------------------------------------------------
# commands


def check_backprop_main(cli_args: dict[str, Any]) -> int:
    """Compare the gradients of --backprop with autograd; the exit code is 1 if they differ."""
    need_extras('--check-backprop')
    run, _ = new_run(cli_args, torch.device('cpu'))  # on a GPU autograd computes in bfloat16
    if run.config.backprop == 'autograd':  # none was given: the first that supports this model
        run.config = replace(run.config, backprop=backprop.default_method(run.config.type))
    backward = choose_backward(run)
    x, y, _ = get_batch(run.dataset, run.config, 0)
    comparison = backprop.compare_gradients(run.model, backward_autograd, backward, x, y)
    for line in [*comparison.lines, comparison.explanation]:
        print_result(line)
    return 0 if comparison.all_close else 1


def find_lr_main(cli_args: dict[str, Any], device: torch.device) -> int:
    """Learning-rate range test: print the loss against the learning rate, and propose one."""
    need_extras('--find-lr')
    run, _ = new_run(cli_args, device)
    if run.optimizer is None:
        raise UserError(f'--find-lr: {run.config.type} has no learning rate')
    net = wrap_model(run)
    run.model.train()
    with progress_bar(total=FIND_LR_STEPS, desc='--find-lr', unit='step', leave=False) as bar:

        def take_step(lr: float) -> float:
            bar.update()
            return train_step(run, net, lr)[0]

        lines = diagnostics.find_lr(take_step, FIND_LR_STEPS)
    for line in lines:
        print_result(line)
    return 0


def summarize_run(folder: Path) -> dict[str, Any]:
    """The result of a run; if it is not finished, that of its best checkpoint."""
    result = runs.read_result(folder)
    if result:
        return result
    best, _ = load_checkpoint(folder / 'best.pt')
    return {
        'type': best.config.type,
        'params': count_parameters(best.model),
        'steps': best.step,
        'seconds': best.seconds,
        'dev': best.best_loss,
        'settings': settings_to_save(best.config),
    }


def runs_main(cli_args: dict[str, Any]) -> int:
    """Print a table of all runs below the work dir."""
    need_extras('--runs')
    work_dir = Path(cli_args.get('work_dir', 'out'))
    results = {}
    for path in work_dir.glob('*/best.pt'):
        try:
            results[path.parent] = summarize_run(path.parent)
        except UserError as error:
            print0(str(error))
    if not results:
        raise UserError(f'{work_dir} has no runs: train one first')
    for line in runs.format_table(results):
        print_result(line)
    return 0


def sample_main(cli_args: dict[str, Any], device: torch.device) -> int:
    """Print samples of the run in the work dir to stdout; nothing is written."""
    folder = find_run(cli_args, 'best.pt')
    new_args = {name: value for name, value in cli_args.items() if name != 'input_file'}
    run, _ = load_checkpoint(folder / 'best.pt', new_args)
    trained_on = run.config.input_file
    given_file = cli_args.get('input_file', trained_on)
    if not is_same_file(given_file, trained_on):
        raise UserError(f'{folder} was trained on {name_input(trained_on)}, not on {given_file}')
    if 'seed' not in cli_args:  # other samples each time
        run.config = replace(run.config, seed=random.SystemRandom().randrange(100_000))
    torch.set_num_threads(run.config.threads or 1)
    run.model.to(choose_device(run.model, device))

    origin = f'{run.config.type} on {name_input(trained_on)}'
    print0(f'{folder}: {origin}, step {run.step}, dev loss {run.best_loss:.4f}')
    print0(f'seed {run.config.seed}; --seed {run.config.seed} repeats these samples')
    if run.dataset.is_text:
        for piece in stream_text(run.model, run.dataset, **sampling_options(run.config)):
            write_stdout(piece)
        write_stdout('\n')
    else:
        print_samples(run)
    return 0


def print_samples(run: Run):
    """Print --num-samples samples to stdout; say so if the model has fewer that are wanted."""
    config = run.config
    options = sampling_options(config) | {'new_only': config.new_only, 'match': config.match}
    texts = sample(run.model, run.dataset, config.num_samples, **options)
    write_stdout(''.join(f'{text}\n' for text in texts))
    if len(texts) < config.num_samples:
        n_found = f'only {len(texts)}' if texts else 'no'
        what = 'new samples' if config.new_only else 'samples that are not empty'
        if config.match:
            what += f' {"that" if config.new_only else "and"} match {config.match}'
        print0(f'found {n_found} {what}; try a higher --temperature')


# -----------------------------------------------------------------------------
# the program


def write_stdout(text: str):
    """Write samples at once, on rank 0, if there is somewhere to write them."""
    if sys.stdout is not None and get_rank() == 0:
        sys.stdout.write(escape_control_chars(text, sys.stdout))
        sys.stdout.flush()


def set_encodings():
    """UTF-8 for pipes and files; a terminal keeps its encoding, with \\u1234 for what it lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            encoding = None if stream.isatty() else 'utf-8'
            stream.reconfigure(encoding=encoding, errors='backslashreplace')


def discard_stdout():
    """Redirect stdout to nowhere, so that the flush at exit cannot fail again."""
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_on_sigterm(number: int, frame: Any):
    """Handle SIGTERM: end the program with exit code 143, wherever it is."""
    sys.exit(128 + number)


def run_command(argv: list[str] | None) -> int:
    """Run a command line; the exit code if nothing goes wrong."""
    set_encodings()
    cli_args = parse_args(argv)
    device = init_device(cli_args.get('device', 'auto'))
    torch.set_num_threads(cli_args.get('threads') or 1)  # a checkpoint may say otherwise
    with process_group(cli_args) as cli_args:
        if 'runs' in cli_args:
            code = runs_main(cli_args)
        elif 'sample_only' in cli_args:
            code = sample_main(cli_args, device)
        elif 'check_backprop' in cli_args:
            code = check_backprop_main(cli_args)
        elif 'find_lr' in cli_args:
            code = find_lr_main(cli_args, device)
        else:
            code = train_main(cli_args, device)
    if sys.stdout is not None:
        sys.stdout.flush()  # here a full disk can still be reported
    return code


def main(argv: list[str] | None = None) -> int:
    """Run a command line. Mistakes and failures become one line on stderr.

    The exit code is 0: done, 1: the run failed, 2: a mistake of the user, 130: Ctrl-C, 143:
    SIGTERM.
    """
    try:
        with handle_signals(exit_on_sigterm, signal.SIGTERM):
            return run_command(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader closed the pipe, as head does
        discard_stdout()
        return 0
    except (UserError, ModuleNotFoundError, FileExistsError, NotADirectoryError) as error:
        message = str(error)
        code = 2
    except (RunError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and 'memory' not in str(error):
            raise  # a mistake in the program
        if isinstance(error, OSError):  # it may be stdout that failed
            discard_stdout()
        message = str(error) or 'not enough memory'  # a MemoryError has no text
        code = 1
        if get_rank() > 0 and not isinstance(error, RunError):  # rank 0 may not have failed
            print(f'makemore: process {get_rank()}: {message.splitlines()[0]}', file=sys.stderr)
    print0('makemore: ' + message.splitlines()[0])
    return code


if __name__ == '__main__':
    exit_code = main()
    gc.disable()  # a search for garbage at exit would go through all of torch, and find nothing
    sys.exit(exit_code)
