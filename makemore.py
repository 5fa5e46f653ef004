"""
makemore: give it a text file with one item per line, and it makes more items like them.

    python makemore.py -i names.txt --type transformer         train, and print new names
    python makemore.py -i names.txt --type ngram               count n-grams: done in seconds
    python makemore.py --sample-only --num-samples 100         sample from the newest run
    python makemore.py --sample-only --prompt chr --new-only   start with chr, not in the data
    python makemore.py --resume --max-steps 20000              continue the newest run
    python makemore.py -i shakespeare.txt --text               one long text instead of lines
    torchrun --standalone --nproc_per_node=2 makemore.py       two processes, the same steps

Read it from top to bottom: settings, data set, models from n-gram counts to a GPT, sampling,
checkpoints, training, command line. Each section uses only what is above it. A new model is one
class with the decorator `register`: it gets a flag, help, checkpoints and samples from there.
"""

import argparse
import codecs
import contextlib
import difflib
import functools
import io
import itertools
import json
import math
import os
import random
import re
import reprlib
import signal
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

if sys.version_info < (3, 10):  # noqa: UP036 (say so in one line where an old Python would not)
    sys.exit(f'makemore needs Python 3.10 or newer; this is Python {sys.version.split()[0]}')
try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from tqdm import tqdm
except ModuleNotFoundError as error:
    sys.exit(f'makemore needs {error.name}: install it with pip install torch tqdm')

try:  # optional: makemore.py on its own still trains, resumes and samples
    from makemore_extras import audit, backprop, board, diagnostics, fast, longtext, torchrun
except ModuleNotFoundError as error:
    if error.name != 'makemore_extras':
        raise
    HAVE_EXTRAS = False
else:
    HAVE_EXTRAS = True

__version__ = '2.0.0'


class UserError(Exception):
    """A mistake that the user can correct: reported in one line, exit code 2."""


class RunError(Exception):
    """A failure during a run, of a disk or of the numbers: reported in one line, exit code 1."""


# -----------------------------------------------------------------------------
# settings
#
# Config is the only list of settings. The flags of the command line, their help, the defaults and
# the entries in a checkpoint are all made from it.

MODELS: dict[str, type['LanguageModel']] = {}  # --type NAME; `register` fills it

GROUPS = ('data', 'model', 'training', 'logging', 'folders', 'sampling', 'machine')
SAVED_GROUPS = ('data', 'model', 'training')  # what a checkpoint carries over


SPLIT_HELP = (
    'honest: dev and test without lines that also occur in train; lecture: 80/10/10; '
    'all: everything is train and dev'
)
BLOCK_SIZE_HELP = 'context length in tokens (default: the longest line)'
SMOOTHING_HELP = 'ngram: kn (interpolated Kneser-Ney) or add:K (add K to every count)'
MAX_STEPS_HELP = 'training steps; the learning rate decays to zero over them'
BACKPROP_METHODS = ('autograd', 'manual', 'micrograd')
BACKPROP_HELP = 'what computes the gradients: autograd, manual or micrograd'
DIAGNOSE_HELP = 'steps between reports on activations, gradients and updates'
WORK_DIR_HELP = 'folder of the run (default: a new one under out/, or the newest there)'
LENGTH_HELP = 'most tokens in a sample (default: twice the longest line, or 500)'
TOP_P_HELP = 'nucleus sampling: the fewest tokens whose probabilities add up to p'


def option(group: str, default: Any, help: str, limits: tuple | None = None, **more: Any) -> Any:
    """One setting: its default, its help, and the lowest and highest value that are allowed.

    More can be choices, a short flag, and shape=True for what decides the shape of the weights:
    such a setting can not be changed once they have been trained.
    """
    return field(default=default, metadata={'group': group, 'help': help, 'limits': limits, **more})


@dataclass
class Config:
    """Every setting of a run, with its default."""

    input_file: str = option(
        'data', 'names.txt', 'text file, an item per line; - is stdin', flag='-i'
    )
    encoding: str = option('data', 'utf-8', 'character encoding of the input file')
    split: str = option('data', 'honest', SPLIT_HELP, choices=('honest', 'lecture', 'all'))
    text: bool = option('data', False, 'treat the input as one long text, not as lines', shape=True)
    tokenizer: str = option('data', 'char', 'char, bpe (learned from train) or a tokenizer file')
    vocab_size: int = option('data', 512, 'tokens that --tokenizer bpe learns', (256, 2**20))

    type: str = option('model', 'transformer', 'model type, see the list below', shape=True)
    block_size: int | None = option('model', None, BLOCK_SIZE_HELP, (1, 2**16), shape=True)
    n_layer: int = option('model', 4, 'number of layers', (1, 512), shape=True)
    n_head: int = option('model', 4, 'number of attention heads', (1, 512), shape=True)
    n_embd: int = option('model', 64, 'embedding channels', (1, 2**16), shape=True)
    n_hidden: int = option('model', 64, 'hidden channels', (1, 2**16), shape=True, flag='--n-embd2')
    dropout: float = option('model', 0.0, 'dropout probability', (0, 0.99))
    smoothing: str = option('model', 'kn', SMOOTHING_HELP, shape=True)

    batch_size: int = option(
        'training', 64, 'items per step, over all processes', (1, 2**20), flag='-b'
    )
    learning_rate: float = option('training', 2e-3, 'peak learning rate', (0, None), flag='-l')
    weight_decay: float = option('training', 0.1, 'weight decay of matrices', (0, None), flag='-w')
    max_steps: int = option('training', 10000, MAX_STEPS_HELP, (0, 10**9))
    warmup: int | None = option(
        'training', None, 'steps of warmup (default: 5 %% of all)', (0, None)
    )
    grad_clip: float | None = option('training', 1.0, 'maximum gradient norm, or none', (0, None))
    backprop: str = option('training', 'autograd', BACKPROP_HELP, choices=BACKPROP_METHODS)
    seed: int = option('training', 3407, 'seed of weights, batches and samples', (0, 2**62))
    eval_interval: int = option('training', 500, 'steps between evaluations and saves', (1, None))

    sample_interval: int | None = option(
        'logging', 1000, 'steps between samples, or none', (1, None)
    )
    diagnose: int | None = option('logging', None, DIAGNOSE_HELP, (1, None))
    check_backprop: bool = option('logging', False, 'compare --backprop with autograd, then exit')
    find_lr: bool = option('logging', False, 'run a learning-rate range test, then exit')

    work_dir: str | None = option('folders', None, WORK_DIR_HELP, flag='-o')
    resume: bool = option('folders', False, 'continue the run in the work dir')
    overwrite: bool = option('folders', False, 'replace the run in the work dir')
    sample_only: bool = option(
        'folders', False, 'sample from the run in the work dir, do not train'
    )

    num_samples: int = option('sampling', 20, 'number of samples (of a text always 1)', (0, None))
    prompt: str = option('sampling', '', 'start of every sample; @FILE reads it from a file')
    length: int | None = option('sampling', None, LENGTH_HELP, (1, None))
    temperature: float = option('sampling', 1.0, 'sampling temperature; 0 is greedy', (0, None))
    top_k: int | None = option('sampling', None, 'only the k most probable tokens', (1, None))
    top_p: float | None = option('sampling', None, TOP_P_HELP, (1e-9, 1))
    new_only: bool = option('sampling', False, 'only samples that are not in the data, none twice')

    device: str = option('machine', 'auto', 'auto, cpu, cuda, cuda:N or mps')
    threads: int | None = option('machine', None, 'CPU threads (default: 1)', (1, 512))
    compile: bool = option('machine', False, 'compile the model with torch.compile, for GPUs')
    num_workers: int | None = option('machine', None, 'ignored, for old commands', flag='-n')


SETTINGS = {setting.name: setting for setting in fields(Config)}


def flag_of(name: str) -> str:
    """The flag of a setting: n_layer -> --n-layer."""
    return '--' + name.replace('_', '-')


def value_type(name: str) -> type:
    """The type of a setting's values, without None: int for `int | None`."""
    annotation = SETTINGS[name].type
    if isinstance(annotation, type):
        return annotation
    return get_args(annotation)[0]


def closest_match(word: str, words: Iterable[str]) -> str:
    """A hint for a misspelled word: 'transfomer' -> ', did you mean transformer?'"""
    matches = difflib.get_close_matches(word, list(words), n=1)
    return f', did you mean {matches[0]}?' if matches else ''


def convert_value(name: str, value: Any) -> Any:
    """The value with the type of its setting: convert_value('n_head', '8') -> 8."""
    wanted = value_type(name)
    if wanted is float and type(value) is int:
        value = float(value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = wanted(value)
    if type(value) is not wanted:
        number = 'whole number' if wanted is int else 'number'
        raise UserError(f'{flag_of(name)} {reprlib.repr(value)}: expected a {number}')
    return value


def check_value(name: str, value: Any) -> Any:
    """The value of a setting, converted and within its limits; otherwise a UserError."""
    is_optional = value_type(name) is not SETTINGS[name].type
    if is_optional and value in (None, 'none'):
        return None
    value = convert_value(name, value)

    if SETTINGS[name].metadata['limits']:
        lowest, highest = SETTINGS[name].metadata['limits']
        if not lowest <= value <= (highest or sys.float_info.max):  # nan and infinity fail, too
            at_most = f' and at most {highest}' if highest else ''
            raise UserError(f'{flag_of(name)} {value}: must be at least {lowest}{at_most}')
    choices = list(MODELS) if name == 'type' else SETTINGS[name].metadata.get('choices')
    if choices and value not in choices:
        hint = closest_match(value, choices)
        raise UserError(f'{flag_of(name)} {value}: unknown{hint}; choose {", ".join(choices)}')
    return value


def resolve_config(cli_args: dict, saved_settings: dict | None = None) -> Config:
    """The settings of a run.

    Precedence, weakest first: the defaults, what the model type prefers, the checkpoint, and what
    was typed. A typed value that contradicts the shape of the saved weights is refused.
    """
    saved_settings = saved_settings or {}
    for name in saved_settings.keys() & cli_args.keys():
        typed = cli_args[name]
        saved = saved_settings[name]
        if SETTINGS[name].metadata.get('shape') and typed != saved:
            raise UserError(f'{flag_of(name)} {typed} contradicts the checkpoint: it has {saved}')

    model_type = cli_args.get('type', saved_settings.get('type', Config.type))
    preferred = dict(MODELS[model_type].preferred_settings)
    if cli_args.get('backprop') == 'micrograd':
        preferred['dropout'] = 0.0  # micrograd has no dropout
    settings = preferred | saved_settings | cli_args | {'type': model_type}
    return Config(**settings)


def settings_to_save(config: Config) -> dict[str, Any]:
    """The settings that resuming and sampling need again."""
    return {
        name: getattr(config, name)
        for name, setting in SETTINGS.items()
        if setting.metadata['group'] in SAVED_GROUPS
    }


# -----------------------------------------------------------------------------
# output and processes


def get_rank() -> int:
    """Number of this process, 0 if there is only one."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def get_world_size() -> int:
    """Number of processes that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def sum_over_ranks(*numbers: float) -> list[float]:
    """Each number summed over all processes, which also makes them wait for each other."""
    totals = torch.tensor(numbers, dtype=torch.float64)
    if get_world_size() > 1:
        torch.distributed.all_reduce(totals)
    return totals.tolist()


def escape_control_chars(text: str, stream: Any) -> str:
    """The text as it may be written to the stream.

    A terminal would take control characters in somebody's data as commands, so it gets their
    escape codes. A file or a pipe gets the text as it is.
    """
    if not stream.isatty():
        return text
    control_chars = r'[\x00-\x08\x0b-\x1f\x7f-\x9f]'
    return re.sub(control_chars, lambda match: repr(match[0])[1:-1], text)


def print0(message: str, stream: Any = None):
    """Print a line on rank 0, to stderr by default, without breaking a progress bar."""
    stream = stream or sys.stderr
    if get_rank() == 0 and stream is not None:
        tqdm.write(escape_control_chars(message, stream), file=stream)


def print_result(message: str):
    """Print a line on rank 0 to stdout, where samples and results go."""
    if sys.stdout is not None:
        print0(message, sys.stdout)


def is_interactive() -> bool:
    """Whether somebody can see a progress bar: a terminal or a notebook."""
    is_notebook = type(sys.stderr).__module__.startswith('ipykernel')
    return is_notebook or (sys.stderr is not None and sys.stderr.isatty())


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return torch.distributed.is_torchelastic_launched() and 'RANK' in os.environ


def init_device(name: str) -> torch.device:
    """The device that was asked for; `auto` is a GPU where there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(accelerator or 'cpu') if name == 'auto' else torch.device(name)
        if device.type == 'cuda' and launched_by_torchrun():
            device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {name}: {reason}') from None
    return device


def resume_after_restart(cli_args: dict[str, Any]):
    """Change the typed settings so that a restarted group continues what was saved before."""
    if torchrun.was_restarted():
        cli_args.pop('overwrite', None)
        has_checkpoint = (Path(cli_args['work_dir']) / 'last.pt').exists()
        cli_args['resume' if has_checkpoint else 'overwrite'] = True


@contextlib.contextmanager
def process_group(cli_args: dict[str, Any]) -> Iterator[None]:
    """Under torchrun, join the group of processes, and leave it at the end."""
    if not launched_by_torchrun():
        yield
        return
    if HAVE_EXTRAS:  # also takes part in torchrun's restarts
        try:
            torchrun.init_process_group(cli_args.get('work_dir'))
        except ValueError as error:
            raise UserError(str(error)) from None
        resume_after_restart(cli_args)
    else:
        torch.distributed.init_process_group()
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# -----------------------------------------------------------------------------
# data set

MAX_PIECE = 64  # longer lines are cut into pieces, unless --block-size says otherwise
LARGE_TEXT = 2**21  # bytes of a --text from which makemore_extras keeps the tokens on disk


def read_text(path: str, encoding: str) -> str:
    """The text of a file or of standard input, with `\\n` line ends and no byte order mark."""
    try:
        codec = codecs.lookup(encoding).name
        if codec == 'utf-8':
            codec = 'utf-8-sig'  # the same, without the byte order mark
        raw = read_bytes(path)
        text = raw.decode(codec)
    except (OSError, LookupError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'cannot read {path}: {reason}; see -i and --encoding') from None
    except UnicodeError as error:
        valid = raw[: getattr(error, 'start', 0)].decode(encoding, 'ignore')
        line = unify_line_ends(valid).count('\n') + 1
        hint = 'name its encoding, as in --encoding latin-1'
        raise UserError(f'{path}, line {line} is not {encoding}: {hint}') from None
    return unify_line_ends(text)


def read_bytes(path: str) -> bytes:
    """Everything that a file or standard input (-) holds."""
    if path != '-':
        return Path(path).read_bytes()
    if sys.stdin is None:
        raise UserError('-i -: standard input is closed')
    return sys.stdin.buffer.read()


def unify_line_ends(text: str) -> str:
    """The text with the line ends of Windows and old Macs replaced by `\\n`."""
    if '\r' not in text:
        return text
    return text.replace('\r\n', '\n').replace('\r', '\n')


def make_generator(*numbers: int) -> torch.Generator:
    """A random generator for (seed, step, ...): what it draws depends on nothing else."""
    seed = random.Random(repr(numbers)).getrandbits(63)
    return torch.Generator().manual_seed(seed)


def code_points(text: str) -> torch.Tensor:
    """'az' -> tensor([97, 122]), without a loop: UTF-32 is an array of integers already."""
    if not text:
        return torch.zeros(0, dtype=torch.int32)
    raw = bytearray(text.encode('utf-32-le', 'surrogatepass'))
    return torch.frombuffer(raw, dtype=torch.int32)


class CharTokenizer:
    """One token per character: with the characters 'ab', 'ba' is [1, 0]."""

    def __init__(self, chars: str):
        self.chars = chars
        self.vocab_size = len(chars)
        self.token_of = {ch: token for token, ch in enumerate(chars)}

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - self.token_of.keys())
        if unknown:
            known = repr(self.chars[:500])
            raise UserError(f'{unknown[0]!r} is not in the vocabulary, which is {known}')
        return [self.token_of[ch] for ch in text]

    def decode(self, tokens: Iterable[int]) -> str:
        return ''.join(self.chars[token] for token in tokens)

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of each token as it comes."""
        return (self.chars[token] for token in tokens)

    def encode_text(self, text: str) -> torch.Tensor:
        """All tokens of a large text at once; a character that is not known becomes -1."""
        table = torch.full((sys.maxunicode + 1,), -1, dtype=torch.int32)
        table[code_points(self.chars).long()] = torch.arange(self.vocab_size, dtype=torch.int32)
        return table.index_select(0, code_points(text))


def load_tokenizer(config: Config, train_texts: Iterable[str]) -> Any:
    """The byte-pair tokenizer that --tokenizer asks for: learned from train, or from a file."""
    try:
        from tokenizer import Tokenizer
    except ModuleNotFoundError as error:
        raise UserError(f'--tokenizer {config.tokenizer} needs the package {error.name}') from None
    try:
        if config.tokenizer != 'bpe':
            return Tokenizer.load(config.tokenizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            tokenizer = Tokenizer().train(train_texts, config.vocab_size)
    except (OSError, ValueError) as error:
        raise UserError(f'--tokenizer {config.tokenizer}: {error}') from None
    for warning in caught:  # a short text may run out of pairs
        print0(f'--tokenizer bpe: {warning.message}')
    return tokenizer


class Spans(NamedTuple):
    """Parts of the flat tensor of tokens: where each starts, and how many targets it has."""

    starts: torch.Tensor
    lengths: torch.Tensor


def no_spans() -> Spans:
    return Spans(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


@dataclass(repr=False)
class CharDataset:
    """Lines of text as one flat tensor of tokens, with spans for train, dev and test.

    Token 0 marks the boundary between two lines. The lines "emma" and "ava" are stored as

        0 e m m a 0 a v a 0

    A span is a start and a length: its inputs are tokens[start : start + length], and its targets
    are the same slice shifted by one. With --tokenizer bpe the tokens are byte pairs instead of
    characters. A data set that comes from a checkpoint has the vocabulary and the lines, but no
    tokens and no spans.
    """

    tokenizer: Any
    max_len: int  # tokens in the longest line
    train_lines: list[str]
    heldout_lines: list[str]  # dev and test
    tokens: torch.Tensor | None = None
    spans: dict[str, Spans] = field(default_factory=dict)
    n_chars: int = 0  # line ends included
    n_removed: int = 0  # dev and test lines left out because they also occur in train

    is_text = False
    first_id = 1  # the tokens of the tokenizer come after the boundary

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.vocab_size} tokens, {len(self.train_lines):,} lines)'

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size + self.first_id

    @property
    def chars(self) -> str:
        """The characters of the vocabulary; '' with byte pairs."""
        return getattr(self.tokenizer, 'chars', '')

    @property
    def tokens_per_char(self) -> float:
        return (len(self.tokens) - self.first_id) / self.n_chars

    def encode(self, text: str) -> list[int]:
        """The tokens of a text: with the characters 'ab', 'ba' -> [2, 1]."""
        tokenizer = self.tokenizer
        encode = getattr(tokenizer, 'encode_ordinary', tokenizer.encode)
        return [token + self.first_id for token in encode(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens, without the boundaries."""
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
            else:
                classes.append('new' if text else 'empty')
        return classes

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to know of the data: plain types only."""
        is_chars = isinstance(self.tokenizer, CharTokenizer)
        return {
            'text': self.is_text,
            'max_len': self.max_len,
            'chars': self.tokenizer.chars if is_chars else None,
            'byte_pairs': None if is_chars else self.tokenizer.to_dict(),
            'train_lines': '\n'.join(self.train_lines),
            'heldout_lines': '\n'.join(self.heldout_lines),
        }


class TextDataset(CharDataset):
    """One long text: no lines and no boundary, so its tokens count from 0.

    The first 90 % are train and the rest is dev. max_len is the number of tokens in train.
    """

    is_text = True
    first_id = 0


def restore_dataset(state: dict[str, Any]) -> CharDataset:
    """The data set of a checkpoint, without its tokens."""
    if state['byte_pairs'] is None:
        tokenizer = CharTokenizer(state['chars'])
    else:
        from tokenizer import Tokenizer

        tokenizer = Tokenizer.from_dict(state['byte_pairs'])
    lines = {}
    for name in ('train_lines', 'heldout_lines'):
        lines[name] = state[name].split('\n') if state[name] else []
    dataset_class = TextDataset if state['text'] else CharDataset
    return dataset_class(tokenizer, state['max_len'], **lines)


def smallest_int_type(vocab_size: int) -> torch.dtype:
    """The smallest type that holds all tokens: a million lines should not take 8 bytes a token."""
    if vocab_size <= 2**8:
        return torch.uint8
    return torch.int16 if vocab_size <= 2**15 else torch.int32


def split_lines(n_lines: int, split: str) -> dict[str, list[int]]:
    """The numbers of the lines in train, dev and test. They do not depend on --seed."""
    order = list(range(n_lines))
    random.Random(42).shuffle(order)
    if split == 'all':
        return {'train': order, 'dev': order, 'test': []}

    n_train = max(1, int(0.8 * len(order)))
    n_dev = max(1, int(0.9 * len(order)))
    return {'train': order[:n_train], 'dev': order[n_train:n_dev], 'test': order[n_dev:]}


def remove_train_lines(
    lines: list[str], rows: dict[str, list[int]], train_lines: list[str]
) -> int:
    """Drop the dev and test lines that also occur in train; the number of dropped lines."""
    in_train = set(train_lines)
    n_removed = 0
    for name in ('dev', 'test'):
        kept = [row for row in rows[name] if lines[row] not in in_train]
        n_removed += len(rows[name]) - len(kept)
        rows[name] = kept
    return n_removed


def encode_lines(lines: list[str], tokenizer: Any) -> torch.Tensor:
    """All lines as one flat tensor, with a 0 before, between and after them."""
    if isinstance(tokenizer, CharTokenizer):
        # line ends are no characters of a line, so they become -1, which the shift turns into 0
        text = '\n' + '\n'.join(lines) + '\n'
        tokens = tokenizer.encode_text(text) + 1
    else:
        ids = [0]
        for line in lines:
            ids.extend(token + 1 for token in tokenizer.encode_ordinary(line))
            ids.append(0)
        tokens = torch.tensor(ids)
    return tokens.to(smallest_int_type(tokenizer.vocab_size + 1))


def read_lines(config: Config) -> list[str]:
    """The lines of the input file, without the space around them and without blank ones."""
    text = read_text(config.input_file, config.encoding)
    stripped = map(str.strip, text.split('\n'))
    lines = [line for line in stripped if line]
    if not lines:
        raise UserError(f'{config.input_file} is empty or blank: expected one item per line')
    return lines


def load_lines(config: Config) -> CharDataset:
    """The data set of a file with one item per line."""
    lines = read_lines(config)
    rows = split_lines(len(lines), config.split)
    train_lines = [lines[row] for row in rows['train']]
    n_removed = 0
    if config.split == 'honest':
        n_removed = remove_train_lines(lines, rows, train_lines)
    if config.tokenizer == 'char':
        tokenizer = CharTokenizer(''.join(sorted(set(''.join(lines)))))
    else:
        tokenizer = load_tokenizer(config, train_lines)

    tokens = encode_lines(lines, tokenizer)
    boundaries = (tokens == 0).nonzero().flatten()
    starts = boundaries[:-1]
    lengths = boundaries.diff()
    spans = {}
    for name, numbers in rows.items():
        index = torch.tensor(numbers, dtype=torch.int64)
        spans[name] = Spans(starts[index], lengths[index])
    heldout = [] if config.split == 'all' else rows['dev'] + rows['test']
    return CharDataset(
        tokenizer,
        max_len=int(lengths.max()) - 1,
        train_lines=train_lines,
        heldout_lines=[lines[row] for row in heldout],
        tokens=tokens,
        spans=spans,
        n_chars=sum(map(len, lines)) + len(lines),
        n_removed=n_removed,
    )


def check_text_size(path: str, n_chars: int, n_different: int):
    """Refuse a text from which nothing can be learned."""
    if n_chars < 20 or n_different < 2:
        what = 'expected at least 20 characters, not all the same'
        raise UserError(f'{path} holds too little text: {what}')


def load_text(config: Config) -> TextDataset:
    """The data set of one long text that fits in memory."""
    text = read_text(config.input_file, config.encoding)
    chars = ''.join(sorted(set(text)))
    check_text_size(config.input_file, len(text), len(chars))
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
    return TextDataset(
        tokenizer,
        max_len=n_train,
        train_lines=[],
        heldout_lines=[],
        tokens=tokens.to(smallest_int_type(tokenizer.vocab_size)),
        spans={
            'train': one_span(0, n_train),
            'dev': one_span(n_train, len(tokens)),
            'test': no_spans(),
        },
        n_chars=len(text),
    )


def one_span(start: int, end: int) -> Spans:
    """All of a text from start to end; the last token is only a target."""
    return Spans(torch.tensor([start]), torch.tensor([end - start - 1]))


def progress_bar(pieces: Iterable, label: str) -> Iterable:
    """The pieces one by one, with a bar if they take more than a second."""
    hidden = get_rank() > 0 or not is_interactive()
    return tqdm(pieces, label, leave=False, unit=' pieces', delay=1, disable=hidden)


def load_large_text(config: Config, folder: Path) -> TextDataset:
    """The data set of a text of any size: its tokens are a memory-mapped file in the folder."""

    def make_tokenizer(chars: str, train: Iterable[str]) -> tuple[Any, dict]:
        check_text_size(path, Path(path).stat().st_size, len(chars))
        use_chars = config.tokenizer == 'char'
        tokenizer = CharTokenizer(chars) if use_chars else load_tokenizer(config, train)
        return tokenizer, TextDataset(tokenizer, 0, [], []).state()

    path = config.input_file
    try:
        options = [config.encoding, config.tokenizer, config.vocab_size]
        found = longtext.open_tokens(folder, path, options)
        if found:
            print0(f'{folder / longtext.TOKENS}: using these tokens again, same text')
        elif get_rank() == 0:
            longtext.write_tokens(
                folder, path, options, make_tokenizer, save=write_atomically, progress=progress_bar
            )
        sum_over_ranks(0)  # one process writes, the others wait for it
        found = found or longtext.open_tokens(folder, path, options)
    except (UnicodeError, LookupError):
        read_text(path, config.encoding)  # says which line is wrong
        raise
    except ValueError as error:
        raise RunError(str(error)) from None
    if not found:
        raise RunError(f'{folder / longtext.TOKENS} does not belong to {path}: start again')
    n_train = found.n_train_tokens
    train = longtext.evaluation_spans(0, n_train)
    dev = longtext.evaluation_spans(n_train, len(found.tokens))
    return replace(
        restore_dataset(found.dataset | {'max_len': n_train}),
        tokens=found.tokens,
        spans={'train': Spans(*train), 'dev': Spans(*dev), 'test': no_spans()},
        n_chars=found.n_chars,
    )


def is_large_text(config: Config) -> bool:
    """Whether the tokens of a --text should lie on disk instead of in memory."""
    try:
        size = Path(config.input_file).stat().st_size
    except (OSError, ValueError):
        return False
    return HAVE_EXTRAS and config.text and size > LARGE_TEXT


def cut_spans(spans: Spans, size: int) -> tuple[Spans, torch.Tensor]:
    """Spans of at most this size, and for each how far into its line it starts."""
    n_pieces = (spans.lengths + size - 1) // size
    first_piece = n_pieces.cumsum(0) - n_pieces
    number = torch.arange(int(n_pieces.sum())) - first_piece.repeat_interleave(n_pieces)
    offsets = number * size
    starts = spans.starts.repeat_interleave(n_pieces) + offsets
    lengths = spans.lengths.repeat_interleave(n_pieces) - offsets
    return Spans(starts, lengths.clamp(max=size)), offsets


def describe_dataset(config: Config, dataset: CharDataset) -> str:
    """What was read, in two lines."""
    name = 'standard input' if config.input_file == '-' else config.input_file
    n_tokens = len(dataset.tokens)
    if dataset.is_text:
        what = f'{n_tokens:,} tokens'
        n_train = dataset.max_len
        sizes = f'{n_train:,} train, {n_tokens - n_train:,} dev'
    else:
        counts = {split: len(spans.starts) for split, spans in dataset.spans.items()}
        n_lines = counts['train'] + dataset.n_removed
        if config.split != 'all':
            n_lines += counts['dev'] + counts['test']
        what = f'{n_lines:,} lines, {n_tokens:,} tokens'
        sizes = ', '.join(f'{n:,} {split}' if n else f'no {split}' for split, n in counts.items())
        if dataset.n_removed:
            sizes += f'; removed {dataset.n_removed:,} dev and test lines that also occur in train'
    return f'{name}: {what}, vocabulary of {dataset.vocab_size:,}\n{sizes}'


def load_data(config: Config, folder: Path | None = None) -> tuple[Config, CharDataset]:
    """The data set of a run, and its settings with the block size that follows from the data."""
    if not config.text:
        dataset = load_lines(config)
    elif folder and is_large_text(config):
        dataset = load_large_text(config, folder)
    else:
        dataset = load_text(config)
    dataset.encode(config.prompt)  # an impossible prompt is refused now, not after the training

    model = MODELS[config.type]
    block_size = model.choose_block_size(config, dataset.max_len)
    print0(describe_dataset(config, dataset))
    size = model.max_piece or block_size
    if dataset.is_text or dataset.max_len >= size:
        for split, spans in dataset.spans.items():
            dataset.spans[split], _ = cut_spans(spans, size)
    if not dataset.is_text and dataset.max_len >= size:
        print0(f'lines of more than {size - 1} tokens are cut into pieces of {size}')
    return replace(config, block_size=block_size), dataset


def pad_batch(
    tokens: torch.Tensor, spans: Spans, device: torch.device | str = 'cpu'
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of some spans, both (B, T). Positions without a target are -1 in y."""
    lengths = spans.lengths[:, None]  # (B, 1)
    t = torch.arange(int(lengths.max()) + 1)  # (T + 1,)
    # behind its end a span repeats its last target; nothing depends on what stands there
    index = spans.starts[:, None] + torch.minimum(t, lengths)  # (B, T + 1)
    batch = tokens[index].long()
    x = batch[:, :-1]
    y = batch[:, 1:].masked_fill(t[:-1] >= lengths, -1)
    return x.to(device), y.to(device)


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """The order in which an epoch visits the n spans of train."""
    generator = make_generator(seed, epoch)
    return torch.randperm(n, dtype=torch.int32, generator=generator)


def choose_spans(dataset: CharDataset, config: Config, step: int) -> Spans:
    """The spans of train in the global batch of a step: a function of (seed, step) alone."""
    spans = dataset.spans['train']
    batch_size = config.batch_size
    if dataset.is_text:  # windows at random places
        lengths = spans.lengths[:1].expand(batch_size)
        last_start = dataset.max_len - int(lengths[0])
        generator = make_generator(config.seed, step)
        starts = torch.randint(last_start, (batch_size,), generator=generator)
        return Spans(starts, lengths)

    n = len(spans.starts)
    epoch, place = divmod(step, max(1, n // batch_size))
    order = epoch_order(config.seed, epoch, n)
    if batch_size > n:  # a short list goes into a batch more than once
        order = order.repeat(math.ceil(batch_size / n))
    rows = order[place * batch_size : (place + 1) * batch_size]
    return Spans(spans.starts.index_select(0, rows), spans.lengths.index_select(0, rows))


def get_batch(
    dataset: CharDataset, config: Config, step: int, device: torch.device | str = 'cpu'
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Inputs and targets of this process at a step, and the weight of their loss.

    With several processes each takes its part of the global batch. Their gradients are averaged,
    so each loss is weighted by its share of all targets: the sum is the loss of the whole batch.
    """
    spans = choose_spans(dataset, config, step)
    n_ranks = get_world_size()
    mine = slice(get_rank(), None, n_ranks)
    lengths = spans.lengths[mine]
    weight = 1.0
    if n_ranks > 1:
        weight = n_ranks * float(lengths.sum() / spans.lengths.sum())
    x, y = pad_batch(dataset.tokens, Spans(spans.starts[mine], lengths), device)
    return x, y, weight


# -----------------------------------------------------------------------------
# models: what they have in common
#
# Every model maps tokens (B, T) to logits (B, T, vocab_size) for the next token at each position,
# and never looks to the right. The loss, the training loop and the sampler are shared.


def register(name: str, **preferred_settings: Any) -> Callable:
    """Class decorator: make a model available as --type NAME, with the settings it prefers."""

    def add(cls: type['LanguageModel']) -> type['LanguageModel']:
        cls.preferred_settings = preferred_settings
        MODELS[name] = cls
        return cls

    return add


class LanguageModel(nn.Module):
    """What a model has to provide is `logits`; one in closed form also has `fit(dataset)`.

    A model may keep what it computed in the cache, a dictionary of tensors with the batch first.
    From then on it is given one new token at a time, and has to return the same logits.
    """

    preferred_settings: dict[str, Any] = {}  # noqa: RUF012 (set once, by `register`)
    context: int | None = None  # how many tokens back the model sees; None: all of them
    max_piece: int | None = None  # longer lines are cut; None: at the block size

    @classmethod
    def choose_block_size(cls, config: Config, max_len: int) -> int:
        """The context length: as typed, or the longest line and its end, within reason."""
        return config.block_size or min(max_len + 1, MAX_PIECE)

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over all positions that have a target."""
        logits = self.logits(idx)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def next_logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """Logits (B, V) of the token that follows idx (B, T)."""
        if self.context and idx.size(1) > self.context:
            # the window has moved, and with it the position of every token in the cache
            idx = idx[:, -self.context :]
            cache = None
        elif cache:
            idx = idx[:, -1:]
        return self.logits(idx, cache)[:, -1]


def init_linear(module: nn.Module, gain: float = 1.0):
    """Scale weights so that the outputs of a layer vary as much as its inputs, times the gain."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=gain / m.in_features**0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def make_head(n_in: int, vocab_size: int, bias: bool = True) -> nn.Linear:
    """The last layer, with small weights: the first prediction is close to uniform."""
    head = nn.Linear(n_in, vocab_size, bias=bias)
    init_linear(head, gain=0.1)
    return head


def make_embedding(n: int, n_embd: int) -> nn.Embedding:
    """A table with a row of n_embd small numbers for each of n tokens or positions."""
    embedding = nn.Embedding(n, n_embd)
    embedding.weight.data.mul_(0.12)
    return embedding


# -----------------------------------------------------------------------------
# models: counting n-grams

COUNTED_AT_ONCE = 2**20  # tokens: a larger text is counted in parts, which bounds the memory
MAX_PAIRS = 2**25  # different n-grams of one length that may be held


def shift_right(idx: torch.Tensor, n: int) -> torch.Tensor:
    """Move every row n places to the right: [[1, 2, 3]], 1 -> [[0, 1, 2]]."""
    return F.pad(idx, (n, 0))[:, : idx.size(1)]


def count_unique(pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different pairs, sorted, and how often each occurs."""
    return pairs.unique(return_counts=True)


def merge_counts(
    a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The counts of two parts of a text, added up."""
    pairs, places = torch.cat([a[0], b[0]]).unique(return_inverse=True)
    counts = torch.zeros_like(pairs).index_add_(0, places, torch.cat([a[1], b[1]]))
    return pairs, counts


class PairTable(nn.Module):
    """How often each token followed each context of one length.

    A context of k tokens is a number with k digits in base V, the most recent token last, and a
    (context, next token) pair is that number with one more digit:

        context "em", next "m"  ->  e * V**2 + m * V + m

    In the sorted list of pairs all that share a context are neighbours, so two binary searches
    find them, and cumulative counts tell how often they occurred together.
    """

    def __init__(self, vocab_size: int, pairs: torch.Tensor, counts: torch.Tensor):
        super().__init__()
        self.vocab_size = vocab_size
        self.register_buffer('pairs', pairs)
        self.register_buffer('cumulative', F.pad(counts.cumsum(0), (1, 0)))  # all counts before i

    def lookup(self, contexts: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For each context: count of the token, count of all tokens, number of different ones."""
        first_pair = contexts * self.vocab_size
        begin = torch.searchsorted(self.pairs, first_pair)
        end = torch.searchsorted(self.pairs, first_pair + self.vocab_size)
        total = self.cumulative[end] - self.cumulative[begin]
        n_different = end - begin

        pair = first_pair + tokens
        begin = torch.searchsorted(self.pairs, pair)
        end = torch.searchsorted(self.pairs, pair, right=True)  # begin + 1 if it occurred
        count = self.cumulative[end] - self.cumulative[begin]
        return count.double(), total.double(), n_different.double()


@register('ngram', block_size=5, max_steps=0)
class NGram(LanguageModel):
    """counts which token followed the last few: done in seconds, and hard to beat

    Long contexts are the most informative, and the most rarely seen. So the estimates of all
    context lengths are combined, from the shortest to the longest, each correcting the one
    before (interpolated Kneser-Ney). A discount D is taken from every count, and what it frees
    goes to the shorter context:

        p(w | context) = (max(count - D, 0) + D * n_different * p(w | shorter context)) / total

    The longest contexts use plain counts. A shorter one counts in how many different longer
    contexts a pair was seen, because only after an unseen longer context is it asked:
    "francisco" is frequent, but after anything other than "san" it is a bad guess.

    With --smoothing add:K the longest context that was seen decides alone, as in the lecture:

        p(w | context) = (count + K) / (total + K * V)
    """

    max_piece = 2**12  # counting has no reason to cut a line short

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
        nothing = torch.zeros(0, dtype=torch.int64)
        self.tables = nn.ModuleList(
            PairTable(vocab_size, nothing, nothing) for _ in range(self.context + 1)
        )

    # counting

    @torch.no_grad()
    def fit(self, dataset: CharDataset):
        """Count train, and choose the discount that predicts dev best."""
        counts = self.count(dataset)
        if self.add_k is None:
            counts = self.count_contexts(counts)
        self.tables = nn.ModuleList(PairTable(self.vocab_size, *c) for c in counts)
        if self.add_k is None and len(dataset.spans['dev'].starts):
            self.discount = self.choose_discount(dataset)

    def count(self, dataset: CharDataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each context length k the pairs of contexts that can not be longer than k.

        These are all pairs of the longest length. The shorter ones are those at the start of a
        line, where there are not that many tokens yet.
        """
        spans = dataset.spans['train']
        if dataset.is_text:  # all of it, where the other models are evaluated on a part
            spans = one_span(0, dataset.max_len)
        nothing = torch.zeros(0, dtype=torch.int64)
        counts = [(nothing, nothing) for _ in range(self.context + 1)]
        for index, place in target_positions(spans, COUNTED_AT_ONCE):
            depth = (place + 1).clamp(max=self.context)  # tokens of context at each target
            pairs = dataset.tokens[index + 1].long()
            for k in range(self.context + 1):
                if k > 0:  # one token further back is one more digit in front
                    digit = dataset.tokens[(index - k + 1).clamp(min=0)].long()
                    pairs = pairs + digit * self.vocab_size**k
                part = count_unique(pairs[depth == k])
                counts[k] = merge_counts(counts[k], part)
                if len(counts[k][0]) > MAX_PAIRS:
                    raise UserError(
                        f'--block-size {self.context}: more than {MAX_PAIRS:,} different '
                        'n-grams; choose a shorter context'
                    )
        return counts

    def count_contexts(
        self, counts: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Kneser-Ney's counts: a pair counts once for each longer context that it was seen in."""
        for k in reversed(range(self.context)):
            longer_pairs, _ = counts[k + 1]
            without_oldest_token = longer_pairs % self.vocab_size ** (k + 1)
            counts[k] = merge_counts(counts[k], count_unique(without_oldest_token))
        return counts

    def choose_discount(self, dataset: CharDataset) -> torch.Tensor:
        """The discount with the lowest loss on dev, or on an even sample of a large dev split."""
        spans = dataset.spans['dev']
        n_tokens = len(spans.starts) * int(spans.lengths.max())
        step = 1 + n_tokens // 2**17
        x, y = pad_batch(dataset.tokens, Spans(spans.starts[::step], spans.lengths[::step]))
        targets = y.clamp(min=0)[:, :, None]
        found = self.lookup(x, targets)
        discounts = torch.arange(0.5, 1, 0.02, dtype=torch.float64)
        losses = []
        for discount in discounts:
            p = self.interpolate(found, discount)[:, :, 0]
            losses.append(-p[y >= 0].log().mean())
        return discounts[torch.stack(losses).argmin()]

    # probabilities

    def lookup(self, idx: torch.Tensor, tokens: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """The counts of some tokens (B, T, M) after idx (B, T), for each context length."""
        position = torch.arange(idx.size(1), device=idx.device)[:, None]
        context = torch.zeros_like(idx)
        found = []
        for k, table in enumerate(self.tables):
            if k > 0:
                context = context + shift_right(idx, k - 1) * self.vocab_size ** (k - 1)
            count, total, n_different = table.lookup(context[:, :, None], tokens)
            # before the start of a line there is nothing that could have been counted
            total = total.masked_fill(position < k - 1, 0)
            found.append((count, total, n_different))
        return found

    def interpolate(
        self, found: list[tuple[torch.Tensor, ...]], discount: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities from the counts of all context lengths, the shortest first."""
        p = torch.tensor(1 / self.vocab_size, dtype=torch.float64)
        for count, total, n_different in found:
            if self.add_k is None:
                kept = (count - discount).clamp(min=0)
                estimate = (kept + discount * n_different * p) / total
            else:
                estimate = (count + self.add_k) / (total + self.add_k * self.vocab_size)
            p = torch.where(total > 0, estimate, p)
        return p

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        every_token = torch.arange(self.vocab_size, device=idx.device).expand(*idx.shape, -1)
        found = self.lookup(idx, every_token)
        return self.interpolate(found, self.discount).log()  # (B, T, V)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of every model, without the probabilities of all the other tokens."""
        found = self.lookup(idx, targets.clamp(min=0)[:, :, None])
        p = self.interpolate(found, self.discount)[:, :, 0]  # (B, T)
        return -p[targets >= 0].log().mean()

    def load_state_dict(self, state_dict: dict, strict: bool = True, assign: bool = False):
        """As for every module; the tables first take the sizes that the data once gave them."""
        for k, table in enumerate(self.tables):
            table.pairs = torch.empty_like(state_dict[f'tables.{k}.pairs'])
            table.cumulative = torch.empty_like(state_dict[f'tables.{k}.cumulative'])
        return super().load_state_dict(state_dict, strict, assign)


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


def target_positions(spans: Spans, at_once: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Where the inputs of all targets stand: in the flat tensor, and in their line; in parts."""
    pieces, offsets = cut_spans(spans, at_once)
    part = pieces.lengths.cumsum(0) // at_once
    sizes = part.unique_consecutive(return_counts=True)[1].tolist()
    for starts, lengths, offset in zip(
        pieces.starts.split(sizes), pieces.lengths.split(sizes), offsets.split(sizes), strict=True
    ):
        line = torch.arange(len(starts)).repeat_interleave(lengths)
        first = lengths.cumsum(0) - lengths
        place = torch.arange(len(line)) - first[line]
        yield starts[line] + place, offset[line] + place


# -----------------------------------------------------------------------------
# models: a table of pairs, then windows of a fixed length


@register('bigram', batch_size=128, learning_rate=0.02, weight_decay=0.0, max_steps=2000)
class Bigram(LanguageModel):
    """a table of which token follows which, learned by gradient; it ends up at the counts"""

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

    max_piece = MAX_PIECE

    def __init__(self, config: Config, *layers: nn.Module):
        super().__init__()
        self.context = config.block_size
        self.net = nn.Sequential(*layers)
        init_linear(self.net, gain=5 / 3)  # tanh shrinks its inputs by about that much
        last_linear = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
        init_linear(last_linear, gain=1 / 6)

    def windows(self, idx: torch.Tensor) -> torch.Tensor:
        """For each position the tokens up to it, with boundaries before the first."""
        padded = F.pad(idx, (self.context - 1, 0))
        return padded.unfold(1, self.context, 1)  # (B, T, block_size)

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        windows = self.windows(idx).flatten(0, 1)  # (B * T, block_size)
        return self.net(windows).view(*idx.shape, -1)  # (B, T, V)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of the windows that have a target: batch norm must not average padding."""
        real = targets >= 0
        logits = self.net(self.windows(idx)[real])  # (N, V)
        return F.cross_entropy(logits, targets[real])


class BatchNorm1d(nn.Module):
    """Normalize each channel over the batch, then scale and shift it; (N, C) or (N, T, C).

    In training with the mean and variance of the batch, which are also averaged into the running
    ones; in evaluation with the running ones.
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
            mean = x.mean(dims)
            x = x - mean
            var = x.square().mean(dims)
            self.update_running(mean, var, n=x.numel() // x.size(-1))
        else:
            x = x - self.running_mean
            var = self.running_var
        scale = (var + self.eps).rsqrt() * self.weight
        return x * scale + self.bias

    @torch.no_grad()
    def update_running(self, mean: torch.Tensor, var: torch.Tensor, n: int):
        """As in torch: normalize with the biased variance, remember the unbiased one."""
        unbiased = var * (n / max(1, n - 1))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


def hidden_layer(n_in: int, config: Config, norm: bool = True) -> list[nn.Module]:
    """A linear layer with tanh and dropout.

    Before a norm it has no bias, because the norm would subtract it right away.
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


@register('bn-mlp', block_size=5, n_layer=6, n_embd=10, n_hidden=100, learning_rate=5e-3)
class BatchNormMLP(WindowModel):
    """a deep mlp that batch normalization keeps trainable (Ioffe 2015)"""

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

    An mlp squeezes all tokens into one hidden layer at once; here each layer joins two.
    """

    def __init__(self, config: Config, vocab_size: int):
        layers = [nn.Embedding(vocab_size, config.n_embd)]
        n_in = config.n_embd
        for _ in range(config.n_layer):
            layers += [FlattenConsecutive(), *hidden_layer(2 * n_in, config)]
            n_in = config.n_hidden
        super().__init__(config, *layers, nn.Linear(n_in, vocab_size))

    @classmethod
    def choose_block_size(cls, config: Config, max_len: int) -> int:
        if config.n_layer > 12 or config.block_size not in (None, 2**config.n_layer):
            raise UserError(
                'a wavenet has at most 12 layers and sees 2**n_layer tokens: leave --block-size out'
            )
        return 2**config.n_layer

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """The same weights over a whole sequence.

        Neighbouring windows share most of their tree. Joining positions at distance 1, 2, 4, ...
        computes each node once: this is a dilated convolution.
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
    """Reads one token at a time and keeps what it knows in a state; `step` updates the state.

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
        self.tanh = nn.Tanh()
        self.sigmoid = nn.Sigmoid()
        self.head = make_head(H, vocab_size)

    def step(self, x: torch.Tensor, h2: torch.Tensor, *state: torch.Tensor) -> list[torch.Tensor]:
        """The next state, from the input x and from h2, the first state through h2h."""
        raise NotImplementedError

    def logits(self, idx: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        inputs = self.x2h(self.drop(self.tok_emb(idx)))  # (B, T, n_gates * H)
        if cache:
            state = list(cache['state'].unbind(1))
        else:
            state = [vector.expand(len(idx), -1) for vector in self.start]
        outputs = []
        for x in inputs.unbind(1):
            state = self.step(x, self.h2h(state[0]), *state)
            outputs.append(state[0])
        if cache is not None:
            cache['state'] = torch.stack(state, 1)  # (B, n_states, H)
        hidden = torch.stack(outputs, 1)  # (B, T, H)
        return self.head(self.drop(hidden))  # (B, T, V)


@register('rnn', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.1, max_steps=14000)
class RNN(Recurrent):
    """one vector carried from token to token, as long as the line is (Elman 1990)"""

    def step(self, x, h2, h):
        return [self.tanh(x + h2)]


@register('gru', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.15, max_steps=7500)
class GRU(Recurrent):
    """an rnn with gates that decide what to keep (Cho 2014)

    A plain rnn overwrites its state at every step, and the gradient fades with each of them.
    """

    n_gates = 3

    def step(self, x, h2, h):
        x_reset, x_keep, x_new = x.chunk(3, dim=1)
        h_reset, h_keep, h_new = h2.chunk(3, dim=1)
        reset = self.sigmoid(x_reset + h_reset)
        keep = self.sigmoid(x_keep + h_keep)
        candidate = self.tanh(x_new + reset * h_new)
        return [torch.lerp(candidate, h, keep)]  # keep * h + (1 - keep) * candidate


@register('lstm', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.15, max_steps=7000)
class LSTM(Recurrent):
    """an rnn with a second vector through which gradients flow unchanged (Hochreiter 1997)"""

    n_gates = 4
    n_states = 2

    def step(self, x, h2, h, c):
        write, forget, read, candidate = (x + h2).chunk(4, dim=1)
        c = self.sigmoid(forget) * c + self.sigmoid(write) * self.tanh(candidate)
        h = self.sigmoid(read) * self.tanh(c)
        return [h, c]


# -----------------------------------------------------------------------------
# models: a mean of the past, then attention


@register('bow', n_layer=2, n_embd=64, n_hidden=128, learning_rate=3e-3, max_steps=12000)
class BagOfWords(LanguageModel):
    """the mean of all tokens so far: attention that can not choose"""

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
            x = x + x.cumsum(1) / n_seen
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
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, nh, T, hs) each
        if cache is not None:
            if self in cache:
                old_k, old_v = cache[self].unbind(1)
                k = torch.cat([old_k, k], dim=2)
                v = torch.cat([old_v, v], dim=2)
            cache[self] = torch.stack([k, v], 1)  # (B, 2, nh, T, hs)
        # one new token after cached ones may see all of them, so it needs no mask
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
        # 2 * n_layer outputs are added up, so each starts smaller by the root of that
        for last_linear in (self.attn.proj, self.mlp[2]):
            init_linear(last_linear, gain=(2 * config.n_layer) ** -0.5)

    def forward(self, x: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        x = x + self.drop(self.attn(self.norm1(x), cache))
        x = x + self.drop(self.mlp(self.norm2(x)))
        return x


@register(
    'transformer', n_layer=4, n_head=4, n_embd=64, dropout=0.1, weight_decay=0.3, max_steps=12500
)
class Transformer(LanguageModel):
    """GPT-2 in small: attention chooses what to look at (Vaswani 2017, Radford 2019)"""

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
        n_cached = next(iter(cache.values())).size(3) if cache else 0
        position = torch.arange(n_cached, n_cached + idx.size(1), device=idx.device)
        x = self.drop(self.tok_emb(idx) + self.pos_emb(position))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        return self.head(self.norm(x))  # (B, T, V)


# -----------------------------------------------------------------------------
# sampling

ONE_BY_ONE = 20  # samples drawn one after another, as in the lectures; the rest in batches
SAMPLE_BATCH = 512
MAX_FAILURES = 10_000  # samples in a row of which none is new, before --new-only gives up
TEXT_LENGTH = 500  # tokens in a sample of a model of one long text


def logits_to_probs(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """Logits (B, V) to probabilities, in float64 on the CPU: every device draws the same."""
    logits = logits.double().cpu()
    if temperature == 0:  # the limit: the most probable token
        return F.one_hot(logits.argmax(-1), logits.size(-1)).double()

    logits = logits - logits.amax(-1, keepdim=True)  # so that a tiny temperature can not overflow
    probs = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return probs
    ranked, order = probs.sort(descending=True, stable=True)
    if top_k is not None:
        ranked[:, top_k:] = 0
    if top_p is not None:
        mass_before = ranked.cumsum(-1) - ranked
        total = ranked.sum(-1, keepdim=True)
        ranked[mass_before >= top_p * total] = 0  # never the first, before which there is nothing
    return torch.zeros_like(probs).scatter(-1, order, ranked)


def sample_token(probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token (B,) per row: where a uniform number falls in the cumulative sum.

    The rows do not have to sum to one. torch.multinomial drew like this when the lectures were
    recorded, so the names of the lectures come out. (Today it draws one token in another way.)
    """
    cumulative = probs.cumsum(-1)
    uniform = torch.rand(len(probs), 1, dtype=torch.float64, generator=generator)
    threshold = uniform * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return token.clamp(max=probs.size(-1) - 1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    idx: torch.Tensor,
    generator: torch.Generator,
    max_tokens: int,
    stop_token: int | None = 0,
    use_cache: bool = True,
    **how: Any,
) -> Iterator[tuple[list[int], list[int]]]:
    """Continue all rows of idx (B, T) by one token after another.

    Yields the numbers of the rows that are still being written, and their new tokens. A row
    that drew the stop token is not continued. `how` goes to logits_to_probs.
    """
    device = next(iter(model.state_dict().values())).device
    idx = idx.to(device)
    rows = torch.arange(len(idx))
    cache = {} if use_cache else None
    for _ in range(max_tokens):
        probs = logits_to_probs(model.next_logits(idx, cache), **how)
        tokens = sample_token(probs, generator)
        yield rows.tolist(), tokens.tolist()

        idx = torch.cat([idx, tokens[:, None].to(device)], dim=1)
        if stop_token is None:
            continue
        going_on = tokens != stop_token
        if not going_on.any():
            return
        if not going_on.all():
            rows = rows[going_on]
            idx = idx[going_on.to(device)]
            for key in cache or ():
                cache[key] = cache[key][going_on.to(device)]


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode that was before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sample_batch(
    model: LanguageModel,
    dataset: CharDataset,
    prompt: str,
    n: int,
    generator: torch.Generator,
    length: int | None,
    **how: Any,
) -> list[str]:
    """n samples, all of them written at the same time."""
    start = dataset.encode(prompt)
    if dataset.is_text:
        start = start or [0]  # a text has to start with something
        max_tokens = length or TEXT_LENGTH
        stop_token = None
    else:
        start = [0, *start]
        max_tokens = length or 2 * dataset.max_len + 10
        stop_token = 0
    rows = [list(start) for _ in range(n)]
    idx = torch.tensor(rows)
    for numbers, tokens in generate(model, idx, generator, max_tokens, stop_token, **how):
        for number, token in zip(numbers, tokens, strict=True):
            rows[number].append(token)
    return [dataset.decode(row) for row in rows]


def sample_forever(
    model: LanguageModel,
    dataset: CharDataset,
    prompt: str = '',
    seed: int = 3407,
    length: int | None = None,
    **how: Any,
) -> Iterator[str]:
    """Samples without end. How many are taken does not change what they are."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ONE_BY_ONE):
        yield from sample_batch(model, dataset, prompt, 1, generator, length, **how)
    for number in itertools.count():
        generator = make_generator(seed, number)
        yield from sample_batch(model, dataset, prompt, SAMPLE_BATCH, generator, length, **how)


def only_new(samples: Iterable[str], dataset: CharDataset) -> Iterator[str]:
    """The samples that are not in the data, each once; ends when hardly any come anymore."""
    seen = {'', *dataset.train_lines, *dataset.heldout_lines}
    n_failures = 0
    for text in samples:
        if text in seen:
            n_failures += 1
            if n_failures == MAX_FAILURES:
                return
        else:
            n_failures = 0
            seen.add(text)
            yield text


def sample(
    model: LanguageModel,
    dataset: CharDataset,
    n: int = 20,
    *,
    prompt: str = '',
    seed: int = 3407,
    new_only: bool = False,
    length: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[str]:
    """n samples; with new_only fewer if the model has no more new ones."""
    how = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p}
    with eval_mode(model):
        samples = sample_forever(model, dataset, prompt, seed, length, **how)
        if new_only:
            samples = only_new(samples, dataset)
        return list(itertools.islice(samples, n))


def stream_text(
    model: LanguageModel, dataset: CharDataset, config: Config, **how: Any
) -> Iterator[str]:
    """One sample of a text, piece by piece as it is written."""
    generator = torch.Generator().manual_seed(config.seed)
    idx = torch.tensor([dataset.encode(config.prompt) or [0]])
    steps = generate(model, idx, generator, config.length or TEXT_LENGTH, None, **how)
    yield config.prompt
    with eval_mode(model):
        yield from dataset.tokenizer.decode_stream(tokens[0] for _, tokens in steps)


# -----------------------------------------------------------------------------
# checkpoints

CHECKPOINT_VERSION = 2


@dataclass
class Run:
    """All that a run consists of."""

    config: Config
    dataset: CharDataset
    model: LanguageModel
    folder: Path | None = None
    device: torch.device | str = 'cpu'
    optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    best_loss: float = math.inf  # lowest dev loss so far
    seconds: float = 0.0  # spent on training
    lock: Any = None  # an open file: the folder is ours until it is closed


def write_atomically(path: Path, write: Callable[[io.BufferedWriter], Any]):
    """Write a whole file or nothing.

    The content goes to a temporary file, is flushed to the disk, and then takes the name of the
    old file. A crash at any moment leaves the old one or the new one.
    """
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        raise RunError(f'can not save {path}: {reason}; the old file is untouched') from None


def save_checkpoint(run: Run, name: str):
    """Save best.pt, to sample from, or last.pt, which also has what resuming needs."""
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
        'seconds': run.seconds,
        'model': run.model.state_dict(),
        'optimizer': optimizer_state,
    }
    write_atomically(run.folder / name, lambda file: torch.save(content, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Only tensors and plain types are let in: no code is run."""
    if HAVE_EXTRAS:
        audit.check_file(path)
    content = torch.load(path, map_location='cpu', weights_only=True)
    version = int(content['version'])
    if version != CHECKPOINT_VERSION:
        raise ValueError(f'it has version {version}, this program reads {CHECKPOINT_VERSION}')
    return content


def build_run(content: dict[str, Any], folder: Path) -> Run:
    """The run that a checkpoint describes, with its weights."""
    settings = {name: check_value(name, value) for name, value in content['settings'].items()}
    if HAVE_EXTRAS:
        audit.check_dataset(content['dataset'])
    dataset = restore_dataset(content['dataset'])
    config = resolve_config({}, settings)
    model_class = MODELS[config.type]
    vocab_size = dataset.vocab_size
    if HAVE_EXTRAS:
        sizes = (config.n_layer, config.n_embd, config.n_hidden, config.block_size, vocab_size)
        audit.check_tensors(content['model'].values())
        audit.check_claims(lambda: model_class(config, vocab_size), sizes, content['model'])
    model = model_class(config, vocab_size)
    model.load_state_dict(content['model'])
    run = Run(config, dataset, model, folder)
    run.step = int(content['step'])
    run.best_loss = float(content['best_loss'])
    run.seconds = float(content['seconds'])
    return run


def load_checkpoint(path: Path, cli_args: dict | None = None) -> tuple[Run, Any]:
    """The run in a checkpoint and the state of its optimizer, with the typed settings applied."""
    try:
        content = read_checkpoint(path)
        run = build_run(content, path.parent)
        optimizer_state = content['optimizer']
        if HAVE_EXTRAS:
            audit.check_run(run.model, content['step'], optimizer_state)
        sample(run.model, run.dataset, 1, length=1)  # can it sample at all?
    except Exception as error:  # a broken or hostile file fails in more ways than can be listed
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f'{path} is not a checkpoint, or is damaged: {reason}') from None

    run.config = resolve_config(cli_args or {}, settings_to_save(run.config))
    for module in run.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = run.config.dropout
    return run, optimizer_state


def find_run(work_dir: str | None, model_type: str | None, name: str) -> Path:
    """The folder of a run that has the file: the one typed, or the newest inside it or in out/."""
    folder = Path(work_dir or 'out')
    if (folder / name).exists():
        return folder
    paths = list(folder.glob(f'*/{name}'))
    of_type = ''
    if model_type:
        of_type = f' of type {model_type}'
        folder_name = re.compile(rf'{re.escape(model_type)}(-\d+)?')
        paths = [path for path in paths if folder_name.fullmatch(path.parent.name)]
    if not paths:
        raise UserError(f'{folder} has no run{of_type} with a {name}: train one first')
    return max(paths, key=lambda path: path.stat().st_mtime_ns).parent


def holds_run(folder: Path) -> bool:
    """Whether there is a run in the folder that must not be lost."""
    return (folder / 'last.pt').exists() or (folder / 'best.pt').exists()


def choose_run_dir(config: Config) -> Path:
    """Where a new run goes: the folder typed, or the next free one under out/."""
    if config.work_dir is None:
        for number in itertools.count(1):
            folder = Path('out') / (config.type if number == 1 else f'{config.type}-{number}')
            if not folder.exists():
                return folder
    folder = Path(config.work_dir)
    if holds_run(folder) and not config.overwrite:
        raise UserError(f'{folder} holds a run: --resume continues it, --overwrite replaces it')
    return folder


def prepare_run_dir(folder: Path) -> Any:
    """Make the folder and lock it for as long as the returned file is open."""
    if get_rank() > 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if not HAVE_EXTRAS:
        return None
    try:
        return torchrun.lock_folder(folder)
    except BlockingIOError:
        raise UserError(f'{folder} is in use by another run') from None


def delete_old_run(folder: Path):
    """Remove what an earlier run left in the folder."""
    if get_rank() == 0:
        for name in ('last.pt', 'best.pt', 'result.json'):
            (folder / name).unlink(missing_ok=True)


def load(folder: str = 'out', device: str = 'cpu') -> tuple[LanguageModel, CharDataset]:
    """Model and data set of a run, ready to sample: model, dataset = load('out/transformer').

    Given a folder of runs, the newest of them.
    """
    path = find_run(folder, None, 'best.pt') / 'best.pt'
    run, _ = load_checkpoint(path)
    return run.model.to(device).eval(), run.dataset


# -----------------------------------------------------------------------------
# evaluation and training


def open_writer(folder: Path) -> Any:
    """A writer of TensorBoard's curves on rank 0; None where TensorBoard is not installed."""
    if get_rank() > 0:
        return None
    try:
        if HAVE_EXTRAS:
            return board.EventWriter(folder)
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder)
    except ImportError:
        print0('TensorBoard is not installed, so there are no curves: pip install tensorboard')
        return None


def add_scalars(writer: Any, step: int, values: dict[str, float]):
    """Add a point to each of some curves, if there is a writer."""
    for name, value in values.items() if writer else ():
        writer.add_scalar(name, value, step)


@torch.no_grad()
def evaluate(run: Run, split: str) -> float | None:
    """Exact mean loss per token over a whole split; None if it is empty.

    Lines of similar length are evaluated together, so that there is hardly any padding. With
    several processes each takes its part.
    """
    spans = run.dataset.spans[split]
    order = spans.lengths.argsort(stable=True)[get_rank() :: get_world_size()]
    total_loss = 0.0
    total_tokens = 0
    with eval_mode(run.model):
        while len(order):
            longest = int(spans.lengths[order[-1]])
            batch_size = max(1, 2**13 // longest)
            rows = order[-batch_size:]
            order = order[:-batch_size]
            batch = Spans(spans.starts[rows], spans.lengths[rows])
            x, y = pad_batch(run.dataset.tokens, batch, run.device)
            n_tokens = int((y >= 0).sum())
            total_loss += run.model(x, y).item() * n_tokens
            total_tokens += n_tokens
    total_loss, total_tokens = sum_over_ranks(total_loss, total_tokens)
    return total_loss / total_tokens if total_tokens else None


def get_lr(config: Config, step: int) -> float:
    """Linear warmup, by default over 5 % of the steps, then a cosine decay to zero."""
    warmup = config.max_steps // 20 if config.warmup is None else config.warmup
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(config: Config, model: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """AdamW; biases and the gains of norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {'params': matrices, 'weight_decay': config.weight_decay},
        {'params': vectors, 'weight_decay': 0.0},
    ]
    can_fuse = device.type in ('cpu', 'cuda')
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=can_fuse)


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved_state: dict):
    """Put saved averages of gradients into the optimizer; its settings stay those of the run."""
    state = optimizer.state_dict()
    state['state'] = saved_state
    optimizer.load_state_dict(state)


def backward_autograd(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0
) -> torch.Tensor:
    """The loss; its gradients, times the weight, are left in the parameters."""
    with torch.autocast('cuda', torch.bfloat16, enabled=x.is_cuda):
        loss = net(x, y)
    scaled = loss if weight == 1 else loss * weight
    scaled.backward()
    return loss


class TrainingParts(NamedTuple):
    """What a training step calls."""

    net: nn.Module  # the model as it is trained
    backward: Callable  # (net, x, y, weight) -> loss; leaves the gradients in the parameters
    update: Callable  # (max_norm) -> norm of the gradient; clips it and updates the weights


def prepare_training(run: Run) -> TrainingParts:
    """The parts of a training step: on a CPU in their fast forms, which compute the same."""
    use_fast = HAVE_EXTRAS and run.device.type == 'cpu'
    net = run.model
    if run.config.compile:
        net = torch.compile(net)
    elif use_fast:
        net = fast.FastModel(net)
    if get_world_size() > 1:
        net = nn.parallel.DistributedDataParallel(net)

    def update(max_norm: float) -> torch.Tensor:
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), max_norm)
        run.optimizer.step()
        return norm

    if use_fast and fast.HAS_ADAMW_KERNEL:
        update = fast.make_update(run.optimizer)
    return TrainingParts(net, choose_backward(run), update)


def choose_backward(run: Run) -> Callable:
    """The function that computes the gradients, as --backprop says."""
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


def train_step(run: Run, parts: TrainingParts, lr: float | None = None) -> tuple[float, float]:
    """Schedule, batch, forward, backward, step: the loss and the norm of its gradient."""
    config = run.config
    for group in run.optimizer.param_groups:
        group['lr'] = get_lr(config, run.step) if lr is None else lr
    x, y, weight = get_batch(run.dataset, config, run.step, run.device)
    if config.dropout > 0:  # dropout depends on (seed, step) too: no generator has to be saved
        generator = make_generator(config.seed, run.step, get_rank())
        torch.manual_seed(generator.initial_seed())

    run.optimizer.zero_grad(set_to_none=True)
    loss = parts.backward(parts.net, x, y, weight)
    grad_norm = parts.update(config.grad_clip or math.inf)
    run.step += 1
    return loss.item(), grad_norm.item()


def check_finite(run: Run, loss: float, grad_norm: float):
    """Stop a run whose numbers have become infinite or nan."""
    if not math.isfinite(loss + grad_norm):
        raise RunError(
            f'step {run.step}: loss {loss}, gradient norm {grad_norm}; try a --learning-rate '
            f'below {run.config.learning_rate}; {run.folder} has the last good checkpoint'
        )


def evaluate_and_save(run: Run, losses: list[float], writer: Any):
    """Evaluate on dev, report it, and save; `losses` are those of the steps since last time."""
    dev_loss = evaluate(run, 'dev')
    name = 'dev loss'
    if dev_loss is None:  # no dev split
        dev_loss = evaluate(run, 'train')
        name = 'loss on all of train'
    parts = [f'step {run.step:6}', f'{name} {dev_loss:.4f}']
    values = {'loss/dev': dev_loss}
    if losses:
        train_loss = sum(losses) / len(losses)
        parts.insert(1, f'train loss {train_loss:.4f}')
        values['loss/train'] = train_loss
    print0(' | '.join(parts))
    add_scalars(writer, run.step, values)
    if writer:
        writer.flush()

    if not math.isfinite(dev_loss):
        raise RunError(
            f'dev loss is not finite: try a --learning-rate below {run.config.learning_rate}'
        )
    if run.step == 0 and run.optimizer:
        check_initial_loss(dev_loss, run.dataset.vocab_size)
    # best.pt first: if the program is killed between the two, nothing is lost
    if dev_loss < run.best_loss or run.best_loss == math.inf:
        run.best_loss = dev_loss
        save_checkpoint(run, 'best.pt')
    save_checkpoint(run, 'last.pt')
    sum_over_ranks(0)  # the others wait for rank 0, which writes


def check_initial_loss(dev_loss: float, vocab_size: int):
    """Compare the loss before training with that of a uniform guess."""
    uniform = math.log(vocab_size)
    message = f'initial dev loss {dev_loss:.4f} (uniform guess: ln {vocab_size} = {uniform:.4f})'
    if abs(dev_loss / uniform - 1) > 0.1:
        message += '; more than 10 % apart: check the initialization'
    print0(message)


def print_samples(run: Run, writer: Any):
    """Print what the model makes now, grouped into new items and copies of the data."""
    config = run.config
    dataset = run.dataset
    samples = sample(
        run.model,
        dataset,
        1 if dataset.is_text else config.num_samples,
        prompt=config.prompt,
        seed=config.seed,
        length=config.length,
        **sampling_settings(config),
    )
    if dataset.is_text:
        groups = {'text': samples}
    else:
        groups = {}
        for text, group in zip(samples, dataset.classify(samples), strict=True):
            groups.setdefault(group, []).append(text)
    for group, texts in sorted(groups.items(), reverse=True):
        listed = ', '.join(texts)
        print_result(listed if dataset.is_text else f'{group} ({len(texts)}): {listed}'.strip(': '))
        if writer:
            writer.add_text(f'samples/{group}', printable(listed), run.step)


def printable(text: str) -> str:
    """The text with ? for what UTF-8 can not hold, such as half of a surrogate pair."""
    return text.encode(errors='replace').decode()


def sampling_settings(config: Config) -> dict[str, Any]:
    """The settings that logits_to_probs takes."""
    return {'temperature': config.temperature, 'top_k': config.top_k, 'top_p': config.top_p}


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of a signal: Ctrl-C and SIGTERM end a run after its step.

    A second signal ends it at once.
    """
    received: list[int] = []

    def handle(number: int, frame: Any):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    old_handlers = [signal.signal(number, handle) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, old_handlers, strict=True):
            signal.signal(number, handler)


class StepLog:
    """Collects what the steps between two evaluations report."""

    def __init__(self, run: Run, writer: Any):
        self.run = run
        self.writer = writer
        self.first_step = run.step
        self.losses: list[float] = []
        self.seconds = 0.0
        self.bar = tqdm(
            total=run.config.max_steps,
            initial=run.step,
            unit='step',
            disable=get_rank() > 0 or not is_interactive(),
            dynamic_ncols=True,
        )

    def add(self, loss: float, grad_norm: float, seconds: float):
        """Note a step, on the progress bar and every ten steps in TensorBoard."""
        run = self.run
        self.losses.append(loss)
        self.seconds += seconds
        run.seconds += seconds
        lr = get_lr(run.config, run.step)
        if run.step % 10 == 0:
            curves = {'gradient norm': grad_norm, 'learning rate': lr}
            add_scalars(self.writer, run.step, curves)
        self.bar.set_postfix_str(f'loss {loss:.4f}, lr {lr:.1e}', refresh=False)
        self.bar.update()
        steps_left = run.config.max_steps - run.step
        if self.bar.disable and run.step - self.first_step == 20 and steps_left > 0:
            seconds_left = steps_left * self.seconds / len(self.losses)
            print0(f'estimated time left: {tqdm.format_interval(seconds_left)}')

    def take_losses(self) -> list[float]:
        """The losses since the last time this was called."""
        losses = self.losses
        if losses:
            lengths = self.run.dataset.spans['train'].lengths
            tokens = len(losses) * self.run.config.batch_size * lengths.double().mean().item()
            curves = {'tokens per second': tokens / self.seconds}
            add_scalars(self.writer, self.run.step, curves)
        self.losses = []
        self.seconds = 0.0
        return losses


def diagnosed_step(run: Run, parts: TrainingParts, writer: Any) -> tuple[float, float]:
    """A training step that reports on activations, gradients and updates."""
    x, y, _ = get_batch(run.dataset, run.config, run.step, run.device)
    activations = diagnostics.observe_activations(run.model, x, y)
    old_matrices = diagnostics.copy_matrices(run.model)
    loss, grad_norm = train_step(run, parts)
    for report in (
        diagnostics.activation_report(activations),
        diagnostics.update_report(run.model, old_matrices),
    ):
        for line in report.lines:
            print0(f'step {run.step:6} | {line}')
        if writer:
            board.add_report(writer, report, run.step)
    return loss, grad_norm


def train(run: Run, parts: TrainingParts, writer: Any, signals: list[int]) -> bool:
    """Train until max_steps; False if a signal stopped it before."""
    config = run.config
    first_step = run.step
    run.model.train()
    log = StepLog(run, writer)

    with contextlib.closing(log.bar):
        while True:
            last_step = run.step == config.max_steps
            is_new = run.step > first_step

            # once in a while: evaluate and save, and print samples
            if last_step or (run.step % config.eval_interval == 0 and (is_new or run.step == 0)):
                evaluate_and_save(run, log.take_losses(), writer)
            if is_new and not last_step and is_due(config.sample_interval, run.step):
                print_samples(run, writer)
            if last_step or sum_over_ranks(len(signals))[0] > 0:  # all ranks stop together
                return last_step

            # one training step
            started = time.perf_counter()
            if is_due(config.diagnose, run.step):
                loss, grad_norm = diagnosed_step(run, parts, writer)
            else:
                loss, grad_norm = train_step(run, parts)
            check_finite(run, loss, grad_norm)
            log.add(loss, grad_norm, seconds=time.perf_counter() - started)


def is_due(interval: int | None, step: int) -> bool:
    """Whether something that happens every so many steps happens at this one."""
    return interval is not None and step % interval == 0


def report(run: Run, writer: Any):
    """Evaluate the best model on every split, the test split included, and save the result."""
    best, _ = load_checkpoint(run.folder / 'best.pt')
    run.model.load_state_dict(best.model.state_dict())
    losses = {split: evaluate(run, split) for split in ('train', 'dev', 'test')}
    dataset = run.dataset
    novelty = 1.0
    if not dataset.is_text:
        classes = dataset.classify(sample(run.model, dataset, 1000, seed=run.config.seed))
        novelty = classes.count('new') / len(classes)
    result = {
        'type': run.config.type,
        'params': count_parameters(run.model),
        'steps': run.step,
        'seconds': run.seconds,
        **losses,
        'novelty': novelty,
        'settings': settings_to_save(run.config),
    }
    if get_rank() == 0:
        content = json.dumps(result, indent=1).encode()
        write_atomically(run.folder / 'result.json', lambda file: file.write(content))
    print_samples(run, writer)
    for split, loss in losses.items():
        if loss is not None:
            print_result(describe_loss(split, loss, dataset))
    if not dataset.is_text:
        print_result(f'novelty: {100 * novelty:.0f} % of 1,000 samples are not in the data')
    print0(f'sample more with: python makemore.py --sample-only -o {run.folder}')
    if writer:
        if HAVE_EXTRAS:
            board.add_final(writer, run.model, token_labels(dataset), result)
        writer.close()


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def describe_loss(split: str, loss: float, dataset: CharDataset) -> str:
    """A line about the loss of a split."""
    perplexity = math.exp(min(99, loss))
    line = f'{split:5} loss {loss:.4f}, perplexity {perplexity:.3f}'
    if not dataset.chars:  # byte pairs: only the loss per character compares with other models
        line += f', {loss * dataset.tokens_per_char:.4f} per character'
    return line


def token_labels(dataset: CharDataset) -> str:
    """A character for every token, with `.` for the boundary; '' with byte pairs."""
    return '.' * dataset.first_id + dataset.chars if dataset.chars else ''


# -----------------------------------------------------------------------------
# command line


class Parser(argparse.ArgumentParser):
    """Flags and help are made from Config and MODELS; a mistake becomes a UserError."""

    def __init__(self):
        summary, *_ = __doc__.strip().splitlines()
        super().__init__(
            prog='makemore.py',
            usage='makemore.py [-i FILE] [--type TYPE] [options]',
            description=summary,
            epilog=self.describe_models_and_commands(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        version = f'makemore {__version__}, torch {torch.__version__}'
        self.add_argument('--version', action='version', version=version)
        groups = {group: self.add_argument_group(group) for group in GROUPS}
        for name in SETTINGS:
            self.add_setting(name, groups[SETTINGS[name].metadata['group']])

    def add_setting(self, name: str, group: Any):
        setting = SETTINGS[name]
        flags = [flag_of(name)]
        if 'flag' in setting.metadata:
            flags.insert(0, setting.metadata['flag'])
        text = setting.metadata['help']
        if setting.type is bool:
            group.add_argument(*flags, dest=name, help=text, action='store_true')
            return
        if setting.default not in (None, ''):
            text += f' (default: {setting.default})'
        metavar = name.rsplit('_', 1)[-1].upper()
        group.add_argument(*flags, dest=name, help=text, metavar=metavar)

    @staticmethod
    def describe_models_and_commands() -> str:
        lines = ['model types, each with defaults of its own:']
        for name, cls in MODELS.items():
            summary = (cls.__doc__ or '').strip().split('\n')[0]
            lines.append(f'  {name:12} {summary}')
        lines += ['', 'examples:']
        commands = re.findall(r'^ {4}((?:python|torchrun) .*)', __doc__, re.MULTILINE)
        return '\n'.join(lines + [f'  {command}' for command in commands])

    def error(self, message: str):
        unknown = message.removeprefix('unrecognized arguments: ')
        if unknown != message:
            word = unknown.split()[0]
            hint = closest_match(word, self._option_string_actions)
            if not word.startswith('-'):
                hint = f'; name a file with -i {word}'
            message = f'{unknown}: no such option{hint}'
        raise UserError(f'{message}; --help lists all options')


def parse_args(argv: list[str] | None = None) -> dict[str, Any]:
    """The settings that were typed, checked and converted."""
    cli_args = vars(Parser().parse_args(argv))
    drop_obsolete_args(cli_args)
    modes = ('sample_only', 'resume', 'overwrite', 'check_backprop', 'find_lr')
    typed_modes = [flag_of(mode) for mode in modes if mode in cli_args]
    if len(typed_modes) > 1:
        raise UserError(f'{" and ".join(typed_modes)} exclude each other: choose one')
    prompt = cli_args.get('prompt', '')
    if prompt.startswith('@'):
        cli_args['prompt'] = read_text(prompt[1:], 'utf-8')
    return {name: check_value(name, value) for name, value in cli_args.items()}


def drop_obsolete_args(cli_args: dict[str, Any]):
    """Accept what makemore's commands say and this program has no use for."""
    for name, obsolete in (('num_workers', None), ('max_steps', '-1'), ('top_k', '-1')):
        if name in cli_args and obsolete in (None, cli_args[name]):
            print0(f'{flag_of(name)} {cli_args.pop(name)} has no effect here and is ignored')


def need_extras(flag: str):
    """Refuse an option whose code is in makemore_extras if that is not installed."""
    if not HAVE_EXTRAS:
        raise UserError(f'{flag} needs the folder makemore_extras beside makemore.py')


def default_input_file() -> str:
    """./names.txt, or the copy that came with the program where there is none."""
    if Path('names.txt').exists():
        return 'names.txt'
    for folder in (Path(__file__).parent, Path(sysconfig.get_path('data')) / 'share/makemore'):
        if (folder / 'names.txt').exists():
            print0(f'no names.txt here: using {folder / "names.txt"}')
            return str(folder / 'names.txt')
    return 'names.txt'


def limit_epochs(config: Config, dataset: CharDataset, cli_args: dict[str, Any]) -> Config:
    """Fewer steps for a short list, and evaluations that are closer together.

    More than 100 epochs learn a list by heart, and its best step comes early.
    """
    if dataset.is_text:
        return config
    most_steps = max(200, 100 * len(dataset.spans['train'].starts) // config.batch_size)
    changes = {}
    if 'max_steps' not in cli_args:
        changes['max_steps'] = min(config.max_steps, most_steps)
    if 'eval_interval' not in cli_args:
        changes['eval_interval'] = min(config.eval_interval, most_steps // 20)
    return replace(config, **changes)


def new_run(cli_args: dict[str, Any], device: torch.device) -> Run:
    """A run that starts from random weights. Nothing is written yet, but for a large text."""
    config = resolve_config(cli_args)
    if 'input_file' not in cli_args:
        config.input_file = default_input_file()
    folder = choose_run_dir(config)
    if get_world_size() > 1:  # all processes use the folder that rank 0 has found
        chosen = [folder]
        torch.distributed.broadcast_object_list(chosen)
        folder = chosen[0]
    lock = None
    if is_large_text(config):
        lock = lock_run_dir(folder, config.overwrite)  # the tokens are written into it
    config, dataset = load_data(config, folder)
    config = limit_epochs(config, dataset, cli_args)
    torch.manual_seed(config.seed)
    model = MODELS[config.type](config, dataset.vocab_size).to(device)
    run = Run(config, dataset, model, folder, device, lock=lock)
    if not hasattr(model, 'fit'):
        run.optimizer = make_optimizer(config, model, device)
    return run


def resume_run(cli_args: dict[str, Any], device: torch.device) -> Run:
    """The run in the work dir, as it was when last.pt was saved."""
    folder = find_run(cli_args.get('work_dir'), cli_args.get('type'), 'last.pt')
    lock = prepare_run_dir(folder)
    run, optimizer_state = load_checkpoint(folder / 'last.pt', cli_args)
    run.lock = lock
    run.device = device
    run.model.to(device)
    old_chars = run.dataset.chars
    run.config, run.dataset = load_data(run.config, folder)
    if run.dataset.chars != old_chars:
        name = run.config.input_file
        raise UserError(f'{name} has other characters than the data that {folder} was trained on')
    if run.step > run.config.max_steps:
        raise UserError(
            f'{folder} is at step {run.step}, beyond --max-steps {run.config.max_steps}'
        )
    # a kill may have come between saving best.pt and last.pt
    best, _ = load_checkpoint(folder / 'best.pt')
    run.best_loss = min(run.best_loss, best.best_loss)
    if not hasattr(run.model, 'fit'):
        run.optimizer = make_optimizer(run.config, run.model, device)
        load_optimizer_state(run.optimizer, optimizer_state)
    return run


def lock_run_dir(folder: Path, overwrite: bool) -> Any:
    """Make and lock the folder of a new run; what an earlier run left there is removed."""
    lock = prepare_run_dir(folder)
    if get_rank() == 0 and holds_run(folder) and not overwrite:
        raise UserError(f'{folder} holds a run by now: --resume or --overwrite it')
    delete_old_run(folder)
    return lock


def train_main(cli_args: dict[str, Any], device: torch.device) -> int:
    """Train a new or resumed run; the exit code."""
    with stop_signals() as signals:
        is_new = 'resume' not in cli_args
        run = new_run(cli_args, device) if is_new else resume_run(cli_args, device)
        config = run.config
        if config.check_backprop:
            return check_backprop(run)
        if config.find_lr:
            return find_lr(run)
        if config.diagnose is not None:
            need_extras('--diagnose')
        parts = prepare_training(run) if run.optimizer else None
        if run.lock is None and is_new:
            run.lock = lock_run_dir(run.folder, config.overwrite)
        print0(describe_run(run))
        print0(f'saving to {run.folder}; watch it with: tensorboard --logdir {run.folder.parent}')
        writer = open_writer(run.folder)
        if hasattr(run.model, 'fit'):
            run.model.fit(run.dataset)
            evaluate_and_save(run, [], writer)
        elif not train(run, parts, writer, signals):
            save_checkpoint(run, 'last.pt')
            resume = f'python makemore.py --resume -o {run.folder}'
            print0(f'stopped after step {run.step}; resume with: {resume}')
            return 128 + (signals or [signal.SIGTERM])[0]
        report(run, writer)
    return 0


def describe_run(run: Run) -> str:
    """What is about to happen, in a line."""
    config = run.config
    if hasattr(run.model, 'fit'):
        return f'{config.type}: counting n-grams, no gradient steps'
    n_params = count_parameters(run.model)
    return f'{config.type}: {n_params:,} parameters, {config.max_steps:,} steps on {run.device}'


def check_backprop(run: Run) -> int:
    """Compare the gradients of --backprop with autograd; the exit code is 1 if they differ."""
    need_extras('--check-backprop')
    config = run.config
    if config.backprop == 'autograd':  # nobody said which: the first that can
        config.backprop = backprop.default_method(config.type)
    backward = choose_backward(run)
    x, y, _ = get_batch(run.dataset, config, 0, run.device)
    comparison = backprop.compare_gradients(run.model, backward_autograd, backward, x, y)
    for line in comparison.lines:
        print_result(line)
    return 0 if comparison.all_close else 1


def find_lr(run: Run) -> int:
    """Try growing learning rates, print the curve of the loss, and propose one."""
    need_extras('--find-lr')
    if run.optimizer is None:
        raise UserError(f'--find-lr: {run.config.type} has no learning rate')
    run.lock = run.lock or prepare_run_dir(run.folder)
    writer = open_writer(run.folder)
    parts = prepare_training(run)
    run.model.train()

    def take_step(lr: float) -> float:
        loss, _ = train_step(run, parts, lr)
        curves = {'find lr/loss': loss, 'find lr/log10 of the learning rate': math.log10(lr)}
        add_scalars(writer, run.step - 1, curves)
        return loss

    for line in diagnostics.find_lr(take_step):
        print_result(line)
    return 0


def sample_main(cli_args: dict[str, Any], device: torch.device) -> int:
    """Print samples of the run in the work dir to stdout, and nothing else."""
    folder = find_run(cli_args.get('work_dir'), cli_args.get('type'), 'best.pt')
    run, _ = load_checkpoint(folder / 'best.pt', cli_args)
    config = run.config
    model = run.model.to(device).eval()
    print0(f'{folder}: {config.type}, step {run.step}, dev loss {run.best_loss:.4f}')
    how = sampling_settings(config)
    if run.dataset.is_text:
        for piece in stream_text(model, run.dataset, config, **how):
            write_stdout(piece)
            if sys.stdout:
                sys.stdout.flush()
        write_stdout('\n')
        return 0
    texts = sample(
        model,
        run.dataset,
        config.num_samples,
        prompt=config.prompt,
        seed=config.seed,
        new_only=config.new_only,
        length=config.length,
        **how,
    )
    write_stdout(''.join(f'{text}\n' for text in texts))
    if len(texts) < config.num_samples:
        print0(f'found only {len(texts)} new samples; try a higher --temperature')
    return 0


def write_stdout(text: str):
    """Write samples, if there is somewhere to write them."""
    if sys.stdout is not None:
        sys.stdout.write(escape_control_chars(text, sys.stdout))


def set_encodings():
    """UTF-8 for pipes and files; a terminal keeps its own, and shows what it lacks as \\u1234."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            encoding = None if stream.isatty() else 'utf-8'
            stream.reconfigure(encoding=encoding, errors='backslashreplace')


def describe_error(error: Exception) -> str:
    """One line about what went wrong."""
    lines = str(error).splitlines() or ['not enough memory']
    return f'makemore: {lines[0]}'


def silence_stdout():
    """Send what is left for stdout nowhere, so that flushing it at exit can not fail again."""
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def exit_code_of(error: Exception) -> int:
    """2 for a mistake of the user, 1 for a failure of the machine."""
    mistakes = (UserError, ModuleNotFoundError, FileExistsError, NotADirectoryError)
    return 2 if isinstance(error, mistakes) else 1


def main(argv: list[str] | None = None) -> int:
    """Run a command line.

    The exit code is 0: done, 1: the machine failed, 2: a mistake of the user, 130: Ctrl-C,
    143: SIGTERM.
    """
    try:
        set_encodings()
        cli_args = parse_args(argv)
        device = init_device(cli_args.get('device', 'auto'))
        torch.set_num_threads(cli_args.get('threads') or 1)
        with process_group(cli_args):
            if 'sample_only' in cli_args:
                code = sample_main(cli_args, device)
            else:
                code = train_main(cli_args, device)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk can still be reported
        return code
    except BrokenPipeError:  # the reader has seen enough, like head -1
        silence_stdout()
        return 0
    except KeyboardInterrupt:
        return 130
    except (UserError, RunError, ModuleNotFoundError, OSError, MemoryError) as error:
        if isinstance(error, OSError):  # it may be stdout that failed
            silence_stdout()
        print0(describe_error(error))
        return exit_code_of(error)
    except RuntimeError as error:
        if 'memory' not in str(error):
            raise
        print0(describe_error(error))
        return 1


if __name__ == '__main__':
    sys.exit(main())
