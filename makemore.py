"""
makemore: give it a text file with one thing per line, and it makes more things like it.

    python makemore.py -i names.txt --type transformer          train, and watch new names appear
    python makemore.py -i names.txt --type ngram                count instead: done in seconds, hard to beat
    python makemore.py --sample-only --num-samples 100          more from the newest model; needs nothing else
    python makemore.py --sample-only --prompt chr --new-only    names that begin with chr and stand in no list
    python makemore.py --resume --max-steps 20000               go on where the newest run stopped
    python makemore.py -i shakespeare.txt --text                one long text instead of one thing per line
    torchrun --standalone --nproc_per_node=2 makemore.py        several processes, the same steps

Everything is in this file, to be read from the top and changed. The models stand in the order in which one would
invent them, from counting pairs of letters to a GPT, over one data set, one training loop, one sampler and one
checkpoint format. Left out on purpose: configuration files, plug-ins, data loaders. A new model is one class.
"""
import argparse
import contextlib
import dataclasses
import difflib
import functools
import io
import json
import math
import os
import random
import re
import signal
import sys
import time
import typing
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

__version__ = '1.0.0'

class UserError(Exception):
    """Something the user can mend: told in one line, exit code 2."""

class MachineError(Exception):
    """Something that failed on the way, a disk or the numbers: told in one line, exit code 1."""

# ----------------------------------------------------------------------------------------------------------------------
# Settings: the only list of knobs; flags, defaults, help and the entries in a checkpoint are made from it

def knob(group, default, help, *flags, **limits):
    """One setting; limits are least, most (both allowed) and choices; arch marks what gives a model its shape."""
    return field(default=default, metadata=dict(group=group, help=help, flags=flags, **limits))

GROUPS = ('data', 'model', 'training', 'looking', 'work', 'sampling', 'machine')
CARRIED = GROUPS[:3]      # what a checkpoint carries over to resuming and sampling
data, net, fit, look, work, draws, machine = (functools.partial(knob, group) for group in GROUPS)

@dataclass
class Config:
    input_file: str = data('names.txt', 'text file with one thing per line; - reads standard input', '-i')
    encoding: str = data('utf-8', 'encoding of the input file')
    split: str = data('honest', 'honest: dev and test leave out what train contains; lecture: the plain 80/10/10; '
                      'all: train and evaluate on everything', choices=('honest', 'lecture', 'all'))
    text: bool = data(False, 'the input is one long text, not one thing per line', arch=True)
    tokenizer: str = data('char', 'char, bpe (trained on the train split) or a saved tokenizer file')
    vocab_size: int = data(512, 'tokens that --tokenizer bpe learns', least=257, most=2**20)

    type: str = net('transformer', 'which model; they are listed below', arch=True)
    block_size: int | None = net(None, 'tokens of context; the longest line + 1, at most 64, unless the type has its own',
                                 least=1, most=2**16, arch=True)
    n_layer: int = net(4, 'layers', least=1, most=512, arch=True)
    n_head: int = net(4, 'attention heads', least=1, most=512, arch=True)
    n_embd: int = net(64, 'channels of the embedding', least=1, most=2**16, arch=True)
    n_hidden: int = net(64, 'channels of the hidden layers', '--n-embd2', least=1, most=2**16, arch=True)
    dropout: float = net(0.0, 'share of the activations that is dropped in training', least=0, most=0.99)
    smoothing: str = net('kn', 'ngram: kn (interpolated Kneser-Ney) or add:K (K fake counts)', arch=True)

    batch_size: int = fit(64, 'items per step, over all processes together', '-b', least=1, most=2**20)
    learning_rate: float = fit(2e-3, 'peak rate of AdamW', '-l', least=0)
    weight_decay: float = fit(0.1, 'decay of the matrices', '-w', least=0)
    max_steps: int = fit(10000, 'steps to take; the rate falls to zero over them', least=0, most=10**9)
    warmup: int | None = fit(None, 'steps in which the rate rises to its peak; a twentieth of all by default', least=0)
    grad_clip: float | None = fit(1.0, 'largest norm of the gradient; none: any', least=0)
    backprop: str = fit('autograd', 'where gradients come from: autograd, manual (by hand) or micrograd (scalar by '
                        'scalar)', choices=('autograd', 'manual', 'micrograd'))
    seed: int = fit(3407, 'seed of everything that is drawn', least=0, most=2**62)

    eval_interval: int = look(500, 'steps between evaluations and saves', least=1)
    sample_interval: int | None = look(1000, 'steps between samples; none: only at the end', least=1)
    diagnose: int | None = look(None, 'every so many steps look at activations, gradients and updates', least=1)
    check_backprop: bool = look(False, 'compare the gradients with autograd, parameter by parameter, and quit')
    find_lr: bool = look(False, 'sweep the learning rate, suggest one, and quit')

    work_dir: str | None = work(None, 'folder of the run; by default a new one under out/, or the newest', '-o')
    resume: bool = work(False, 'go on with the run in the work dir')
    overwrite: bool = work(False, 'replace the run in the work dir')
    sample_only: bool = work(False, 'sample from the run in the work dir; train nothing, write nothing')

    num_samples: int = draws(20, 'how many samples', least=0)
    prompt: str = draws('', 'what every sample begins with; @FILE reads it from a file')
    temperature: float = draws(1.0, 'below 1 safer, above 1 wilder, 0 always the likeliest', least=0)
    top_k: int | None = draws(None, 'draw among the k likeliest only', least=1)
    top_p: float | None = draws(None, 'draw among the likeliest that make up this probability', least=1e-9, most=1)
    new_only: bool = draws(False, 'only samples that stand nowhere in the data, and none twice')

    device: str = machine('auto', 'auto, cpu, cuda, cuda:N or mps')
    threads: int | None = machine(None, 'threads of the CPU; by default what suits the size of the model', least=1, most=512)
    compile: bool = machine(False, 'torch.compile the model (worth it on a GPU)')
    num_workers: int | None = machine(None, 'without meaning, there are no data workers; accepted for old commands', '-n')

KNOBS = {f.name: f for f in dataclasses.fields(Config)}

def flag(name):
    return '--' + name.replace('_', '-')

def check(name, value):
    """The value of a setting in its type and within its limits: check('n_head', '8') -> 8. Else a UserError."""
    limits, kinds = KNOBS[name].metadata, typing.get_args(KNOBS[name].type) or (KNOBS[name].type,)
    if type(None) in kinds and (value is None or value == 'none'):
        return None
    try:
        value = kinds[0](value) if isinstance(value, str) or kinds[0] is float and type(value) is int else value
        if type(value) is not kinds[0]:
            raise ValueError
    except ValueError:
        raise UserError(f'{flag(name)} {value!r}: that is no {kinds[0].__name__}') from None
    if 'least' in limits and not limits['least'] <= value <= limits.get('most', sys.float_info.max):
        bound = f', at most {limits["most"]}' if 'most' in limits else ''
        raise UserError(f'{flag(name)} {value}: must be at least {limits["least"]}{bound}')
    if value not in limits.get('choices', (value,)):
        raise UserError(f'{flag(name)} {value}: choose from {", ".join(limits["choices"])}')
    return value

def nearest(word, words):
    """'transfomer' -> ', did you mean transformer?'"""
    close = difflib.get_close_matches(word, list(words), 1)
    return f', did you mean {close[0]}?' if close else ''

class Parser(argparse.ArgumentParser):
    """--help is made from the knobs and the registry; a mistake is a UserError that suggests the nearest flag."""

    def __init__(self):
        commands = [line.strip() for line in __doc__.splitlines() if re.match(r'    (python|torchrun) ', line)]
        models = [f'{name:12} {cls.__doc__.strip().splitlines()[0]}' for name, cls in MODELS.items()]
        super().__init__(prog='makemore.py', argument_default=argparse.SUPPRESS, allow_abbrev=False, usage=
                         'makemore.py [-i FILE] [--type TYPE] [options]', description=__doc__.strip().splitlines()[0],
                         epilog='\n  '.join(['models, easiest first:', *models, '', 'examples:', *commands]),
                         formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=100))
        self.add_argument('--version', action='version', version=f'makemore {__version__}, torch {torch.__version__}')
        groups = {name: self.add_argument_group(name) for name in GROUPS}
        for name, f in KNOBS.items():
            default = '' if f.type is bool or f.default in (None, '') else f' (default: {f.default})'
            kind = dict(action='store_true') if f.type is bool else dict(metavar=name.split('_')[-1].upper())
            groups[f.metadata['group']].add_argument(*f.metadata['flags'], flag(name), dest=name,
                                                     help=f.metadata['help'].replace('%', '%%') + default, **kind)

    def error(self, message):
        unknown = message.removeprefix('unrecognized arguments: ')
        if unknown != message:
            message = f'{unknown}: no such option{nearest(unknown.split()[0], self._option_string_actions)}'
        raise UserError(message + '; --help lists them all')

def settle(typed, saved=()):
    """The settings of a run. Weakest first: the defaults, what the type prefers, the checkpoint, what was typed."""
    saved = dict(saved)
    for name in saved.keys() & typed.keys():
        if KNOBS[name].metadata.get('arch') and typed[name] != saved[name]:
            raise UserError(f'{flag(name)} {typed[name]} contradicts the checkpoint, which has {saved[name]}')
    kind = typed.get('type', saved.get('type', Config.type))
    if kind not in MODELS:
        raise UserError(f'--type {kind}: no such model{nearest(kind, MODELS)} There are {", ".join(MODELS)}')
    return Config(**{**MODELS[kind].prefers, **saved, **typed, 'type': kind})

def carried(cfg):
    return {name: getattr(cfg, name) for name, f in KNOBS.items() if f.metadata['group'] in CARRIED}

# ----------------------------------------------------------------------------------------------------------------------
# Words: reading, splitting, encoding, batching

CAP = 64              # the longest piece a line is trained in where nobody says otherwise
CHUNK = 2**22         # characters handled at a time, so that a file needs little more memory than its tokens
Items = namedtuple('Items', 'starts lengths')      # where each item begins in the flat tensor, how many targets it has

def read_pieces(path, encoding, size=CHUNK):
    """The file as strings of up to size characters (-1: all at once), without byte order mark, line ends as \\n."""
    try:
        raw = io.BytesIO(sys.stdin.buffer.read()) if path == '-' else open(path, 'rb')
        file = io.TextIOWrapper(raw, 'utf-8-sig' if encoding.lower() in ('utf-8', 'utf8') else encoding)
        while piece := file.read(size):
            yield piece
    except OSError as e:
        raise UserError(f'cannot read {path}: {e.strerror}; name a text file with -i') from None
    except LookupError:
        raise UserError(f'--encoding {encoding}: no such encoding; try utf-8, latin-1, cp1252 or utf-16') from None
    except UnicodeError:
        raw.seek(0)      # once more, line by line, to say where
        bad = (n for n, line in enumerate(raw, 1) if line.decode(encoding, 'replace').count('\ufffd'))
        raise UserError(f'{path}, line {next(bad, 1)} is not {encoding}; name its encoding, as in --encoding latin-1') from None

def tidy(text):
    """Every line stripped, blank lines gone: ' emma \\n\\nava\\n' -> 'emma\\nava'."""
    text = text.strip()
    if re.search(r'\s\n|\n\s', text):      # one fast look spares most files the work
        text = '\n'.join(filter(None, map(str.strip, text.split('\n'))))
    return text

def parts(text):
    """A text in pieces of about CHUNK characters, cut behind a line end."""
    at = 0
    while at < len(text):
        end = text.find('\n', at + CHUNK) + 1 or len(text)
        yield text[at:end]
        at = end

def code_points(text):
    """'az' -> tensor([97, 122]); no loop, as UTF-32 is an array of integers already."""
    return torch.frombuffer(bytearray(text.encode('utf-32-le', 'surrogatepass')), dtype=torch.int32)

def fingerprints(text):
    """One 64-bit number per line, so that millions of lines can be compared without keeping them."""
    rows = [torch.zeros(0, dtype=torch.int64)]
    for part in parts(text):
        codes = code_points(part.removesuffix('\n') + '\n').long()
        ends = (codes == 10).nonzero().flatten()
        lengths = ends.diff(prepend=ends.new_tensor([-1]))
        place = torch.arange(len(codes)) - (ends - lengths + 1).repeat_interleave(lengths)
        total = (codes * scramble(int(lengths.max()))[place]).cumsum(0)[ends]      # sum of code * odd number of its place,
        rows.append(total.diff(prepend=total.new_zeros(1)))                       # int64 wraps around, as it should
    return torch.cat(rows)

def scramble(n):
    """n odd 64-bit numbers without a pattern, the same ones every time (splitmix64)."""
    x = torch.arange(1, n + 1) * -0x61c8864680b583eb
    for shift, factor in ((30, -0x40a7b892e31b1a47), (27, -0x6b2fb644ecceee15)):
        x = (x ^ (x >> shift)) * factor
    return x | 1

def seeded(*numbers):
    """A generator for (seed, step, ...): what is drawn with it depends on nothing else."""
    seed = functools.reduce(lambda a, b: (a * 6364136223846793005 + b + 1442695040888963407) % 2**63, numbers, 0)
    return torch.Generator().manual_seed(seed)

class Words:
    """The data set, and what a model has to remember of it: the vocabulary and which lines it has seen.

    All tokens lie in one flat tensor in which the newline has become the boundary token 0: emma\\nava is
    0 e m m a 0 a v a 0. An item is a start and a length: its inputs are flat[start:start+length], its targets the same
    one further on. One long text (--text) has no boundary, its tokens count from 0.
    """

    def __init__(self, text=False, symbols='', tokenizer=None, longest=0, known=None):
        self.text, self.symbols, self.longest, self.known = text, symbols, longest, known or {}
        self.first = 0 if text else 1      # the id of the first symbol
        if tokenizer:
            from tokenizer import Tokenizer
            tokenizer = Tokenizer.from_dict(tokenizer)
        self.tokenizer, self.index = tokenizer, {s: i for i, s in enumerate(symbols, self.first)}

    def state(self):
        return dict(text=self.text, symbols=self.symbols, longest=self.longest, known=self.known,
                    tokenizer=self.tokenizer and self.tokenizer.to_dict())

    @property
    def vocab_size(self):
        return self.first + (self.tokenizer.vocab_size if self.tokenizer else len(self.symbols))

    def encode(self, text):
        """Token ids of a prompt: with the symbols ab, 'ba' -> [2, 1]."""
        if self.tokenizer:
            return [i + self.first for i in self.tokenizer.encode(text)]
        if unknown := sorted(set(text) - self.index.keys()):
            raise UserError(f'{unknown[0]!r} is not in the vocabulary, which is {self.symbols[:500]!r}')
        return [self.index[s] for s in text]

    def decode(self, ids):
        """The text of some tokens, boundaries left out."""
        ids = [i - self.first for i in ids if i >= self.first]
        return self.tokenizer.decode(ids) if self.tokenizer else ''.join(self.symbols[i] for i in ids)

    def kinds(self, texts):
        """For each text 'in train', 'in dev or test' or 'new'."""
        prints = fingerprints(''.join(text + '\n' for text in texts))
        seen = {name: torch.isin(prints, table).tolist() for name, table in self.known.items()}
        return [next((name for name in seen if seen[name][i]), 'new') for i in range(len(texts))]

def symbols_of(pieces):
    """All characters of a text, sorted, and how many it has: ['abba'] -> ('ab', 4)."""
    seen, count = torch.zeros(0x110000, dtype=torch.bool), 0
    for piece in pieces:
        seen[code_points(piece).long()] = True
        count += len(piece)
    return ''.join(map(chr, seen.nonzero().flatten().tolist())), count

def fill(flat, pieces, symbols):
    """Write the tokens of a text into a flat tensor: the place of each character among the symbols, by one table."""
    table, at = torch.zeros(0x110000, dtype=flat.dtype), 0
    table[code_points(symbols).long()] = torch.arange(len(symbols), dtype=flat.dtype)
    for piece in pieces:
        flat[at:at + len(piece)] = table[code_points(piece)]
        at += len(piece)

def smallest_int(n):
    return torch.uint8 if n <= 2**8 else torch.int16 if n <= 2**15 else torch.int32

def make_tokenizer(cfg, texts):
    """A tokenizer as plain data: loaded from a file, or trained on the texts."""
    from tokenizer import Tokenizer
    if cfg.tokenizer != 'bpe':
        try:
            return Tokenizer.load(cfg.tokenizer).to_dict()
        except (OSError, ValueError) as e:
            raise UserError(f'--tokenizer {cfg.tokenizer}: {e}') from None
    tokenizer = Tokenizer()
    tokenizer.train(texts, cfg.vocab_size)
    return tokenizer.to_dict()

def read_words(cfg, folder=None):
    """The input as Words with all its tokens and with the rows of each split."""
    words = read_text(cfg, folder) if cfg.text else read_lines(cfg)
    if words.vocab_size < 2:
        raise UserError(f'{cfg.input_file} holds one character only: there is nothing to learn')
    return words

def read_lines(cfg):
    """One thing per line. With characters there is no Python loop over characters or lines."""
    text = tidy(''.join(read_pieces(cfg.input_file, cfg.encoding, -1)))
    if not text:
        raise UserError(f'{cfg.input_file} holds nothing to learn from: it is empty or blank')
    prints = fingerprints(text)
    rows, left_out = split_rows(prints, cfg.split)
    if cfg.tokenizer == 'char':
        words = Words(symbols=symbols_of(parts(text))[0].replace('\n', ''))
        flat = torch.zeros(len(text) + 2, dtype=smallest_int(words.vocab_size))
        fill(flat[1:-1], parts(text), '\n' + words.symbols)      # the newline is the first symbol: it becomes 0
    else:
        lines = text.split('\n')
        words = Words(tokenizer=make_tokenizer(cfg, (lines[i] for i in rows['train'].tolist())))
        flat = torch.tensor([0] + [i for line in lines for i in words.encode(line) + [0]], dtype=torch.int32)
    ends = (flat == 0).nonzero().flatten()
    words.flat, words.rows, words.left_out, words.lines = flat, rows, left_out, Items(ends[:-1], ends.diff())
    words.longest = int(words.lines.lengths.max()) - 1
    words.known = {'in train': prints[rows['train']].unique(),
                   'in dev or test': torch.cat([prints[rows['dev']], prints[rows['test']]]).unique()}
    words.density = {name: (int(words.lines.lengths[row].sum()) / max(1, sum(len(lines[i]) + 1 for i in row.tolist()))
                            if words.tokenizer else 1.0) for name, row in rows.items()}
    return words

def split_rows(prints, split):
    """Which lines are train, dev and test, as the lectures have it, and how many of them were left out of dev and test."""
    n, left_out = len(prints), {}
    if n <= 10**6:
        order = list(range(n))
        random.Random(42).shuffle(order)      # seconds for millions of lines: beyond one, torch does it
        order = torch.tensor(order)
    else:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(42))
    n1, n2 = max(1, int(0.8 * n)), max(1, int(0.9 * n))
    rows = dict(train=order[:n1], dev=order[n1:n2], test=order[n2:])
    if split == 'all':
        rows = dict(train=order, dev=order, test=order[:0])
    for name in ('dev', 'test') if split == 'honest' else ():
        known = torch.isin(prints[rows[name]], prints[rows['train']])
        rows[name], left_out[name] = rows[name][~known], int(known.sum())
    return rows, left_out

def read_text(cfg, folder):
    """One long text, the first 90 % of it train. Its tokens lie in a file in the folder, which is mapped, not read."""
    pieces = functools.partial(read_pieces, cfg.input_file, cfg.encoding)
    if cfg.input_file == '-':
        pieces = list(pieces()).__iter__      # a pipe can be read only once
    symbols, n = symbols_of(pieces())
    if not n:
        raise UserError(f'{cfg.input_file} is empty')
    cut = n1 = int(0.9 * n)
    if cfg.tokenizer == 'char':
        words = Words(text=True, symbols=symbols)
        words.flat = tokens_file(folder, n, smallest_int(len(symbols)))
        fill(words.flat, pieces(), symbols)
    else:
        words = Words(text=True, tokenizer=make_tokenizer(cfg, until(pieces(), n1)))
        flat, end, chars = tokens_file(folder, n * 4, torch.int32), 0, 0      # at worst a token for every byte
        for piece in until(pieces(), n1, all=True):
            ids = words.encode(piece)
            flat[end:end + len(ids)] = torch.tensor(ids, dtype=torch.int32)
            end, chars = end + len(ids), chars + len(piece)
            cut = end if chars == n1 else cut
        words.flat = flat[:end]
    end = len(words.flat)
    words.rows, words.left_out = dict(train=(0, cut), dev=(cut, end), test=(end, end)), {}
    words.density = dict(train=cut / max(1, n1), dev=(end - cut) / (n - n1), test=1.0)
    return words

def until(pieces, n, all=False):
    """The pieces up to character n, the one that crosses it cut there; with all what comes after it too."""
    for piece in pieces:
        if len(piece) > n > 0:
            yield piece[:n]
            piece, n = piece[n:], 0
        if n > 0 or all:
            yield piece
        n -= len(piece)

def tokens_file(folder, n, dtype):
    if folder is None:
        return torch.zeros(n, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    return torch.from_file(str(folder / 'tokens.bin'), shared=True, size=n, dtype=dtype)

def cut_words(words, span):
    """The items of each split: its lines, or the blocks of its text, what is longer than span cut into pieces."""
    words.span, words.splits = span, {}
    for name, rows in words.rows.items():
        if words.text:
            starts = torch.arange(rows[0], max(rows[0], rows[1] - 1), span)
            lengths = (rows[1] - 1 - starts).clamp(max=span)
        else:
            starts, lengths = words.lines.starts[rows], words.lines.lengths[rows]
        if not words.text and words.longest + 1 > span:
            pieces = (lengths + span - 1) // span
            first = (pieces.cumsum(0) - pieces).repeat_interleave(pieces)
            offset = (torch.arange(len(first)) - first) * span
            starts = starts.repeat_interleave(pieces) + offset
            lengths = (lengths.repeat_interleave(pieces) - offset).clamp(max=span)
        words.splits[name] = Items(starts, lengths)

def gather(words, starts, lengths, device='cpu'):
    """Inputs and targets (B, T) of some items, T the longest of them; what is no target is -1."""
    t = torch.arange(int(lengths.max()))
    at = starts[:, None] + torch.minimum(t, lengths[:, None] - 1)      # behind its end an item repeats its last token:
    x, y = words.flat[at].long(), words.flat[at + 1].long()            # nothing before can see it
    return x.to(device), y.masked_fill(t >= lengths[:, None], -1).to(device)

def batch(words, cfg, step, device='cpu'):
    """Inputs and targets of this process in a training step, and their share of all targets times the processes.

    A pure function of (seed, step): lines come in one seeded shuffle per epoch, a long text in random windows.
    """
    items, B = words.splits['train'], cfg.batch_size
    if words.text:
        last = max(1, words.rows['train'][1] - words.span)
        starts = torch.randint(last, (B,), generator=seeded(cfg.seed, step))
        lengths = items.lengths[:1].expand(B)
    else:
        n = len(items.starts)
        epoch, place = divmod(step, max(1, n // B))
        if getattr(words, 'epoch', None) != (cfg.seed, epoch):
            words.epoch, words.order = (cfg.seed, epoch), torch.randperm(n, generator=seeded(cfg.seed, epoch))
        rows = words.order[torch.arange(place * B, (place + 1) * B) % n]
        starts, lengths = items.starts[rows], items.lengths[rows]
    mine = slice(rank(), None, world())
    share = float(lengths[mine].sum() / lengths.sum()) * world()
    return *gather(words, starts[mine], lengths[mine], device), share

# ----------------------------------------------------------------------------------------------------------------------
# The contract that every model keeps

MODELS = {}

def register(name, **prefers):
    """Make a model known under a name, with the settings it prefers."""
    def add(cls):
        cls.prefers, MODELS[name] = prefers, cls
        return cls
    return add

class LanguageModel(nn.Module):
    """logits(idx, cache) maps tokens (B, T) to the logits (B, T, V) of what comes next, and never looks to the right.

    The cache begins as an empty dict. A model that leaves something in it, the batch first, gets only the newest token
    from then on.
    """
    context = None      # how many tokens back it can look; None: all of them
    span = None         # how long an item may be in training; None: block_size

    @classmethod
    def window(cls, cfg, longest):
        """block_size, or where none was given the longest line and its end, within reason."""
        return cfg.block_size or min(longest + 1, CAP)

    def forward(self, idx, targets):
        """The loss: mean cross-entropy over the real targets."""
        return F.cross_entropy(self.logits(idx).flatten(0, 1), targets.flatten(), ignore_index=-1)

    def next_logits(self, idx, cache=None):
        """Logits (B, V) of the token after idx."""
        if self.context and idx.size(1) > self.context:
            cache, idx = None, idx[:, -self.context:]      # all places have moved: what is in the cache is of no use
        return self.logits(idx[:, -1:] if cache else idx, cache)[:, -1]

class WindowModel(LanguageModel):
    """A fixed window: self.net maps (N, block_size) tokens to (N, V) logits and is the lecture's stack of layers."""
    span = CAP

    def __init__(self, cfg, *layers):
        super().__init__()
        self.context, self.net = cfg.block_size, nn.Sequential(*layers)
        linears = [m for m in layers if isinstance(m, nn.Linear)]
        for m in linears:      # Kaiming: tanh squeezes, the gain makes up for it; the last layer is not sure of anything yet
            nn.init.normal_(m.weight, std=(0.1 if m is linears[-1] else 1) * 5 / 3 / m.in_features**0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

    def windows(self, idx):
        """(B, T) -> (B, T, block_size): for each place the tokens up to it, boundaries before the first."""
        return F.pad(idx, (self.context - 1, 0)).unfold(1, self.context, 1)

    def logits(self, idx, cache=None):
        return self.net(self.windows(idx).flatten(0, 1)).view(*idx.shape, -1)

    def forward(self, idx, targets):
        """Only windows with a target: batch normalization never averages over padding, and no work is wasted."""
        real = targets >= 0
        return F.cross_entropy(self.net(self.windows(idx)[real]), targets[real])

    def next_logits(self, idx, cache=None):
        return self.net(self.windows(idx[:, -self.context:])[:, -1])

# ----------------------------------------------------------------------------------------------------------------------
# Models, easiest first

@register('ngram', block_size=5)
class NGram(LanguageModel):
    """counting: what followed the last few letters, and how often? No gradient, done in seconds, hard to beat

    A context of k tokens has a number, found by (number of the context one shorter, the token further back), and a pair
    is (number of its context, next token). Both are sorted tensors, looked up by binary search.
    """
    span = 2**12      # counting has no reason to cut a line short

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.context, self.V = cfg.block_size, vocab_size
        match = re.fullmatch(r'kn|add:(\d*\.?\d+)', cfg.smoothing)
        if not match:
            raise UserError(f'--smoothing {cfg.smoothing}: must be kn, or add:K as in add:1')
        self.fake = match[1] and float(match[1])
        self.register_buffer('discount', torch.tensor(0.75, dtype=torch.float64))
        self.names = [[f'{name}{k}' for name in ('contexts', 'pairs', 'counts', 'total', 'kinds')]
                      for k in range(self.context + 1)]
        for name in sum(self.names, []):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def fit(self, words):
        starts, lengths = words.splits['train']
        item = torch.arange(len(starts)).repeat_interleave(lengths)
        place = torch.arange(len(item)) - (lengths.cumsum(0) - lengths)[item]      # of each token within its item
        at, depth = starts[item] + place, (place + 1).clamp(max=self.context)
        target, number, tables = words.flat[at + 1].long(), torch.zeros_like(at), []
        for k in range(self.context + 1):      # into longer and longer contexts, as far back as each item goes
            key = number * self.V + words.flat[(at - k + 1).clamp(min=0)] if k else number
            contexts = with_end(key[depth >= k].unique())
            number = torch.searchsorted(contexts, key)
            tables.append((contexts, (number * self.V + target)[depth == k]))      # where a context can grow no further
        longer = target[:0]                                                        # every occurrence counts
        for k in reversed(range(self.context + 1)):
            contexts, pairs = tables[k]
            if self.fake is None and k < self.context:
                # Kneser-Ney: elsewhere it matters not how often, but after how many different tokens a pair was seen
                pairs = torch.cat([pairs, tables[k + 1][0][longer // self.V] // self.V * self.V + longer % self.V])
            longer, counts = pairs.unique(return_counts=True)
            total = torch.zeros_like(contexts).index_add(0, longer // self.V, counts)
            kinds = (longer // self.V).bincount(minlength=len(contexts))
            for name, table in zip(self.names[k], (contexts, with_end(longer), F.pad(counts, (0, 1)), total, kinds)):
                setattr(self, name, table)
        if self.fake is None and len(words.splits['dev'].starts):
            x, y = gather(words, *(t[:10000] for t in words.splits['dev']))
            losses = {}
            for self.discount in torch.arange(0.5, 1, 0.02, dtype=torch.float64):
                losses[self(x, y).item()] = self.discount
            self.discount = losses[min(losses)]

    def look_up(self, idx):
        """For each order the number of the context that ends at each place of idx, and whether it was ever seen."""
        number, known = torch.zeros_like(idx), torch.ones_like(idx, dtype=torch.bool)
        yield number, known
        for k in range(1, self.context + 1):
            token = F.pad(idx, (k - 1, 0))[:, :idx.size(1)]      # the one k places before the next
            number, found = find(getattr(self, f'contexts{k}'), number * self.V + token)
            known = known & found & (torch.arange(1, idx.size(1) + 1, device=idx.device) >= k)
            yield number, known

    def probability(self, contexts, w):
        """Of the tokens w (B, T, M), from the shortest context to the longest, each correcting the one before."""
        p = torch.full(w.shape, 1 / self.V, dtype=torch.float64, device=w.device)
        for (number, known), names in zip(contexts, self.names):
            _, pairs, counts, total, kinds = (getattr(self, name) for name in names)
            place, found = find(pairs, number[..., None] * self.V + w)
            count, n = counts[place] * found, total[number][..., None]
            if self.fake is None:
                q = ((count - self.discount).clamp(min=0) + self.discount * kinds[number][..., None] * p) / n
            else:
                q = (count + self.fake) / (n + self.fake * self.V)
            p = torch.where(known[..., None] & (n > 0), q, p)
        return p

    def logits(self, idx, cache=None, last=slice(None)):
        contexts = [(number[:, last], known[:, last]) for number, known in self.look_up(idx)]
        w = torch.arange(self.V, device=idx.device).expand(*contexts[0][0].shape, -1)
        return self.probability(contexts, w).log()

    def next_logits(self, idx, cache=None):
        return self.logits(idx[:, -self.context:], last=slice(-1, None))[:, -1]

    def forward(self, idx, targets):
        """As every model's loss, without the probabilities of all that did not come next."""
        p = self.probability(self.look_up(idx), targets.clamp(min=0)[..., None])[..., 0]
        return -p[targets >= 0].log().mean()

    def load_state_dict(self, state, strict=True, assign=False):
        for name in self._buffers:      # the tables have the sizes that the data gave them
            setattr(self, name, state[name])
        for contexts, pairs, counts, total, kinds in ([state[name] for name in names] for names in self.names):
            if not len(contexts) == len(total) == len(kinds) > 0 < len(pairs) == len(counts):
                raise RuntimeError('the sizes of the tables contradict each other')

def find(table, keys):
    """Where in a sorted table the keys are or would be, and whether they are there."""
    place = torch.searchsorted(table, keys)
    return place, table[place] == keys

def with_end(keys):
    """The sorted keys and one beyond all others, so that no search ends outside the table."""
    return torch.cat([keys, keys.new_tensor([2**63 - 1])])

@register('bigram', learning_rate=0.02, weight_decay=0.0, max_steps=3000)
class Bigram(LanguageModel):
    """a table of which letter follows which, learned by gradient: it ends where counting ends"""
    context = 1

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.zeros_(self.table.weight)

    def logits(self, idx, cache=None):
        return self.table(idx)      # (B, T, V): a one-hot vector times a matrix is one of its rows

@register('mlp', block_size=3, n_embd=10, n_hidden=200, learning_rate=5e-3)
class MLP(WindowModel):
    """an embedding per letter, one hidden layer over the last few (Bengio 2003)"""

    def __init__(self, cfg, vocab_size):
        super().__init__(cfg, nn.Embedding(vocab_size, cfg.n_embd), nn.Flatten(),      # (N, K, E) -> (N, K * E)
                         nn.Linear(cfg.block_size * cfg.n_embd, cfg.n_hidden), nn.Tanh(), *dropout(cfg),
                         nn.Linear(cfg.n_hidden, vocab_size))

def dropout(cfg):
    return [nn.Dropout(cfg.dropout)] if cfg.dropout else []

class BatchNorm1d(nn.Module):
    """Every channel to mean 0 and deviation 1 over the batch, then a learned gain and bias; (N, C) or (N, T, C)."""

    def __init__(self, dim, eps=1e-5, momentum=0.1, gain=1.0):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.full((dim,), gain)), nn.Parameter(torch.zeros(dim))
        self.register_buffer('running_mean', torch.zeros(dim))
        self.register_buffer('running_var', torch.ones(dim))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(x, tuple(range(x.ndim - 1)), correction=0)      # over all but the channels
            n = x.numel() // x.size(-1)
            with torch.no_grad():      # as torch has it: normalize by the biased variance, remember the unbiased one
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (n / max(1, n - 1)), self.momentum)
        return (x - mean) * ((var + self.eps).rsqrt() * self.weight) + self.bias

@register('bn-mlp', block_size=3, n_layer=6, n_embd=10, n_hidden=100, learning_rate=5e-3)
class BatchNormMLP(WindowModel):
    """a deep mlp, kept trainable by batch normalization (Ioffe 2015)"""

    def __init__(self, cfg, vocab_size):
        layers, fan_in = [nn.Embedding(vocab_size, cfg.n_embd), nn.Flatten()], cfg.block_size * cfg.n_embd
        for _ in range(cfg.n_layer - 1):      # no bias before a norm, which would subtract it right away
            layers += [nn.Linear(fan_in, cfg.n_hidden, bias=False), BatchNorm1d(cfg.n_hidden), nn.Tanh(), *dropout(cfg)]
            fan_in = cfg.n_hidden
        super().__init__(cfg, *layers, nn.Linear(fan_in, vocab_size, bias=False), BatchNorm1d(vocab_size, gain=0.1))

class FlattenConsecutive(nn.Module):
    """n neighbours side by side: (N, T, C) -> (N, T/n, C*n), or (N, C*n) when one group is left."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x):
        N, T, C = x.shape
        return x.reshape(N, T // self.n, C * self.n).squeeze(1)

@register('wavenet', n_layer=3, n_embd=24, n_hidden=128, learning_rate=5e-3)
class WaveNet(WindowModel):
    """a tree over the last 2**n_layer letters: join neighbours, then neighbours of neighbours (van den Oord 2016)"""

    def __init__(self, cfg, vocab_size):
        layers, fan_in = [nn.Embedding(vocab_size, cfg.n_embd)], cfg.n_embd
        for _ in range(cfg.n_layer):
            layers += [FlattenConsecutive(2), nn.Linear(2 * fan_in, cfg.n_hidden, bias=False),
                       BatchNorm1d(cfg.n_hidden), nn.Tanh(), *dropout(cfg)]
            fan_in = cfg.n_hidden
        super().__init__(cfg, *layers, nn.Linear(fan_in, vocab_size))

    @classmethod
    def window(cls, cfg, longest):
        if cfg.n_layer > 12 or cfg.block_size not in (None, 2**cfg.n_layer):
            raise UserError(f'a wavenet sees 2**n_layer tokens: --n-layer {cfg.n_layer} (12 at most) does not go with '
                            f'--block-size {cfg.block_size}')
        return 2**cfg.n_layer

    def logits(self, idx, cache=None):
        """The same weights over whole sequences: joining neighbours at distance 1, 2, 4 is a dilated convolution."""
        if self.training:
            return super().logits(idx, cache)
        x, distance = F.pad(idx, (self.context - 1, 0)), 1
        for layer in self.net:
            if isinstance(layer, FlattenConsecutive):
                x, distance = torch.cat([x[:, :-distance], x[:, distance:]], -1), distance * 2
            else:
                x = layer(x)
        return x      # (B, T, V)

class Recurrent(LanguageModel):
    """One token at a time, all that is known so far in one vector; a subclass says what a step does."""
    gates, states = 1, 1      # how many vectors a step computes, and how many it hands on

    def __init__(self, cfg, vocab_size):
        super().__init__()
        H = cfg.n_hidden
        self.embed, self.drop = nn.Embedding(vocab_size, cfg.n_embd), nn.Dropout(cfg.dropout)
        self.x2h, self.h2h = nn.Linear(cfg.n_embd, self.gates * H), nn.Linear(H, self.gates * H)
        self.start = nn.Parameter(torch.zeros(self.states, H))
        self.tanh, self.sigmoid = nn.Tanh(), nn.Sigmoid()      # modules, so that one can look into them
        self.head = small(nn.Linear(H, vocab_size))

    def logits(self, idx, cache=None):
        steps = self.x2h(self.drop(self.embed(idx))).unbind(1)      # what the inputs add, all at once: T x (B, gates*H)
        state = cache['state'].unbind(1) if cache else [s.expand(len(idx), -1) for s in self.start]
        out = []
        for x in steps:
            state = self.step(x, self.h2h(state[0]), *state)
            out.append(state[0])
        if cache is not None:
            cache['state'] = torch.stack(state, 1)
        return self.head(self.drop(torch.stack(out, 1)))      # (B, T, V)

@register('rnn', n_embd=64, n_hidden=128, learning_rate=3e-3)
class RNN(Recurrent):
    """one vector carried from letter to letter, as long as the word is (Elman 1990)"""

    def step(self, x, h2, h):
        return [self.tanh(x + h2)]

@register('gru', n_embd=64, n_hidden=128, learning_rate=3e-3)
class GRU(Recurrent):
    """an rnn with gates that decide what to keep (Cho 2014)"""
    gates = 3

    def step(self, x, h2, h):
        H = h.size(1)
        reset, keep = self.sigmoid(x[:, :2 * H] + h2[:, :2 * H]).chunk(2, 1)
        return [torch.lerp(self.tanh(x[:, 2 * H:] + reset * h2[:, 2 * H:]), h, keep)]

@register('lstm', n_embd=64, n_hidden=128, learning_rate=3e-3)
class LSTM(Recurrent):
    """an rnn with a second vector along which gradients travel unharmed (Hochreiter 1997)"""
    gates, states = 4, 2

    def step(self, x, h2, h, c):
        H = h.size(1)
        gates = x + h2
        write, forget, read = self.sigmoid(gates[:, :3 * H]).chunk(3, 1)
        c = forget * c + write * self.tanh(gates[:, 3 * H:])
        return [read * self.tanh(c), c]

def small(module, std=0.02):
    """Weights near zero: a net that knows nothing should say so."""
    for m in module.modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=std)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)
    return module

@register('bow', n_embd=64, n_hidden=64, learning_rate=3e-3)
class BagOfWords(LanguageModel):
    """the mean of all letters so far: attention that cannot choose"""

    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.context = cfg.block_size
        self.embed, self.place = nn.Embedding(vocab_size, cfg.n_embd), nn.Embedding(cfg.block_size, cfg.n_embd)
        self.mlp = nn.Sequential(nn.Linear(cfg.n_embd, cfg.n_hidden), nn.Tanh(), *dropout(cfg),
                                 nn.Linear(cfg.n_hidden, cfg.n_embd))
        self.head = nn.Linear(cfg.n_embd, vocab_size)
        small(self)

    def logits(self, idx, cache=None):
        past = cache['sum'].size(1) if cache else 0      # the sums so far, (B, T, C): their number is the place
        where = torch.arange(past, past + idx.size(1), device=idx.device)
        x = self.embed(idx) + self.place(where)
        total = x.cumsum(1) + (cache['sum'][:, -1:] if cache else 0)
        if cache is not None:
            cache['sum'] = torch.cat([cache['sum'], total], 1) if cache else total
        x = x + total / (where + 1)[:, None]
        return self.head(x + self.mlp(x))      # (B, T, V)

class Attention(nn.Module):
    """Every token asks (query), every earlier one answers (key, value), in n_head conversations at once."""

    def __init__(self, cfg):
        super().__init__()
        self.n_head = cfg.n_head
        self.qkv, self.out = nn.Linear(cfg.n_embd, 3 * cfg.n_embd), nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x, mask=None, cache=None):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.qkv(x).split(C, 2))  # (B, nh, T, hs)
        if cache is not None:
            if self in cache:
                k, v = torch.cat([cache[self], torch.stack([k, v], 1)], 3).unbind(1)
            cache[self] = torch.stack([k, v], 1)      # (B, 2, nh, T, hs)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and T > 1)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

class Block(nn.Module):
    """Talk to each other, then think alone; both are added to what was there, so that gradients pass through."""

    def __init__(self, cfg):
        super().__init__()
        C = cfg.n_embd
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(C), Attention(cfg), nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, x, mask=None, cache=None):
        x = x + self.drop(self.attention(self.norm1(x), mask, cache))
        return x + self.drop(self.mlp(self.norm2(x)))

def pack(lengths, width):
    """Items into rows, the longest first, the shortest as filling: pack([5, 3, 2], 8) -> [[0, 2], [1]]."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows = []
    while order:
        row = [order.pop(0)]
        room = width - lengths[row[0]]
        while order and lengths[order[-1]] <= room:
            row.append(order.pop())
            room -= lengths[row[-1]]
        rows.append(row)
    return rows

@register('transformer', n_layer=4, n_head=4, n_embd=64, dropout=0.1)
class Transformer(LanguageModel):
    """a GPT-2 in small: attention chooses what to look at (Vaswani 2017, Radford 2019)"""

    def __init__(self, cfg, vocab_size):
        super().__init__()
        if cfg.n_embd % cfg.n_head:
            raise UserError(f'--n-embd {cfg.n_embd} is not a multiple of --n-head {cfg.n_head}')
        self.context = cfg.block_size
        self.embed, self.place = nn.Embedding(vocab_size, cfg.n_embd), nn.Embedding(cfg.block_size, cfg.n_embd)
        self.drop, self.blocks = nn.Dropout(cfg.dropout), nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm, self.head = nn.LayerNorm(cfg.n_embd), nn.Linear(cfg.n_embd, vocab_size, bias=False)
        small(self)
        for block in self.blocks:      # 2 * n_layer things are added up: each starts smaller by the root of that
            small(block.attention.out, 0.02 / (2 * cfg.n_layer)**0.5)
            small(block.mlp[2], 0.02 / (2 * cfg.n_layer)**0.5)

    def logits(self, idx, cache=None):
        past = next(iter(cache.values())).size(3) if cache else 0
        return self.head(self.hidden(idx, torch.arange(past, past + idx.size(1), device=idx.device), None, cache))

    def hidden(self, idx, where, mask=None, cache=None):
        x = self.drop(self.embed(idx) + self.place(where))
        for block in self.blocks:
            x = block(x, mask, cache)
        return self.norm(x)      # (B, T, C)

    def forward(self, idx, targets):
        """Short items share a row, each seeing itself alone: the same loss, and half the padding."""
        lengths, (B, T) = (targets >= 0).sum(1).tolist(), idx.shape
        if sum(lengths) == B * T:
            return super().forward(idx, targets)
        rows = [[item * T + t for item in row for t in range(lengths[item])] for row in pack(lengths, self.context)]
        width = max(map(len, rows))
        at = torch.tensor([row + [B * T] * (width - len(row)) for row in rows], device=idx.device)      # (R, W)
        item = at // T
        mask = (item[:, None, :, None] == item[:, None, None, :]).tril()      # (R, 1, W, W)
        x = self.hidden(F.pad(idx.flatten(), (0, 1))[at], at % T, mask)
        y = F.pad(targets.flatten(), (0, 1), value=-1)[at]
        return F.cross_entropy(self.head(x).flatten(0, 1), y.flatten(), ignore_index=-1)

# ----------------------------------------------------------------------------------------------------------------------
# Sampling

def probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (B, V) to float64 probabilities on the CPU, so that every device draws the same."""
    logits = logits.double().cpu()
    if temperature == 0:      # the limit: all on the likeliest
        return F.one_hot(logits.argmax(-1), logits.size(-1)).double()
    p = (logits / temperature).softmax(-1)
    if top_k is not None:
        p = p * (p >= p.topk(min(top_k, p.size(-1))).values[:, -1:])
    if top_p is not None:
        ranked, order = p.sort(descending=True, stable=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p * ranked.sum(-1, keepdim=True)] = 0      # never the first
        p = torch.zeros_like(p).scatter(-1, order, ranked)
    return p

def draw(p, generator):
    """One token per row: where a uniform number falls in the cumulative sum. This repeats the lectures' names."""
    total = p.cumsum(-1)
    u = torch.rand(len(p), 1, dtype=torch.float64, generator=generator) * total[:, -1:]
    return torch.searchsorted(total, u, right=True).clamp(max=p.size(-1) - 1).squeeze(-1)

@torch.no_grad()
def generate(model, idx, generator, limit, stop=0, cached=True, **how):
    """Yield (rows, tokens): the rows still being written and what each of them got. A row that drew stop leaves."""
    rows, cache, device = torch.arange(len(idx)), {} if cached else None, next(iter(model.state_dict().values())).device
    idx = idx.to(device)
    for _ in range(limit):
        tokens = draw(probabilities(model.next_logits(idx, cache), **how), generator)
        yield rows.tolist(), tokens.tolist()
        idx, on = torch.cat([idx, tokens[:, None].to(device)], 1), tokens != stop
        if not on.all():
            rows, idx = rows[on], idx[on]
            cache = cache and {name: table[on] for name, table in cache.items()}
        if not len(rows):
            return

def sample(model, words, n=20, prompt='', seed=3407, new_only=False, **how):
    """n texts. Few are written one after another, as in the lectures, so that a seed repeats their names."""
    generator, training, texts, tries = torch.Generator().manual_seed(seed), model.training, {}, 0
    size = 1 if n <= 50 and not new_only else 512
    model.eval()
    while len(texts) < n and tries < 20:
        ids = [[0] + words.encode(prompt) for _ in range(size)]
        for rows, tokens in generate(model, torch.tensor(ids), generator, 2 * words.longest + 10, **how):
            for row, token in zip(rows, tokens):
                ids[row].append(token)
        made, before = [words.decode(row) for row in ids], len(texts)
        if new_only:      # a dict keeps the order and no repeats
            texts.update((text, text) for text, kind in zip(made, words.kinds(made)) if kind == 'new')
        else:
            texts.update(enumerate(made, before))
        tries = tries + 1 if len(texts) == before else 0
    model.train(training)
    return list(texts.values())[:n]

def stream(model, words, limit, prompt='', seed=3407, **how):
    """One long text, piece by piece; bytes of a character that is not complete yet are held back."""
    ids, shown = words.encode(prompt) or [0], ''
    for _, tokens in generate(model, torch.tensor([ids]), torch.Generator().manual_seed(seed), limit, stop=None, **how):
        ids += tokens
        yield words.decode(tokens)

# ----------------------------------------------------------------------------------------------------------------------
# Measuring

@torch.no_grad()
def evaluate(run, split):
    """Exact loss over a split: nats summed, targets counted, the ranks sharing the work; None where it is empty."""
    items, nats, count = run.words.splits[split], 0.0, 0
    order = items.lengths.argsort(stable=True)[rank()::world()]      # like lengths together: next to no padding
    run.model.eval()
    while len(order):
        size = max(1, 2**13 // int(items.lengths[order[-1]]))
        rows, order = order[-size:], order[:-size]
        x, y = gather(run.words, items.starts[rows], items.lengths[rows], run.device)
        n = int((y >= 0).sum())
        nats, count = nats + run.model(x, y).item() * n, count + n
    run.model.train()
    nats, count = sum_over_ranks(nats, count)
    return nats / count if count else None

# ----------------------------------------------------------------------------------------------------------------------
# Machines: one process or many

def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

def world():
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

def sum_over_ranks(*numbers):
    if world() == 1:
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.tolist()

def pick_device(cfg):
    """The fastest device at hand, or the one that was asked for if it is there."""
    device = cfg.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f'--device {device}: {str(e).splitlines()[0]}') from None
    torch.set_num_threads(cfg.threads or 1)
    return device

# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints

VERSION = 1

@dataclass
class Run:
    """All that a run consists of. What is saved of it is enough to go on as if nothing had happened."""
    cfg: Config
    words: Words
    model: nn.Module
    folder: Path | None = None
    device: str = 'cpu'
    optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    best: float = math.inf      # lowest dev loss so far
    seconds: float = 0.0

    def save(self, name):
        """best.pt to sample from, last.pt to resume from."""
        content = dict(version=VERSION, settings=carried(self.cfg), words=self.words.state(), step=self.step,
                       best=self.best, seconds=self.seconds, model=self.model.state_dict())
        if self.optimizer and name == 'last.pt':
            content['optimizer'] = self.optimizer.state_dict()
        if rank() == 0:
            save_whole(self.folder / name, lambda file: torch.save(content, file))

def save_whole(path, write):
    """Whole or not at all: written beside, flushed to the disk, then renamed over the old one."""
    beside = path.with_name(path.name + '.tmp')
    try:
        with open(beside, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as e:      # torch makes a RuntimeError of a full disk
        beside.unlink(missing_ok=True)
        raise MachineError(f'cannot save {path}: {str(e).splitlines()[0]}; what was saved before is untouched') from None

def restore(path):
    """A run from a checkpoint, and its optimizer's state. Only tensors and plain types are let in: no pickle runs code."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as e:
        raise UserError(f'cannot read {path}: {e.strerror or e}') from None
    except Exception as e:      # a broken or hostile file makes the parser trip in many ways; nothing of it has run
        raise UserError(f'{path} is damaged, or no checkpoint of makemore ({type(e).__name__})') from None
    if not isinstance(content, dict) or content.get('version') != VERSION:
        raise UserError(f'{path} is not a checkpoint of version {VERSION}, the one that this program reads')
    try:
        cfg, words = Config(**{n: check(n, value) for n, value in content['settings'].items()}), Words(**content['words'])
        with torch.device('meta'):      # a model without memory: it gets as large as the file, not as the file claims
            model = MODELS[cfg.type](cfg, words.vocab_size)
        model.load_state_dict(content['model'], assign=True)
        return Run(cfg, words, model, path.parent, step=content['step'], best=content['best'],
                   seconds=content['seconds']), content.get('optimizer')
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise UserError(f'{path} is damaged: {str(e).splitlines()[0]}') from None

def find_run(typed, name):
    """The folder of the run that is meant: the one typed, or the newest (of the type, if typed) inside it or out/."""
    folder, kind = Path(typed.get('work_dir') or 'out'), typed.get('type')
    if (folder / name).exists():
        return folder
    runs = [path for path in folder.glob(f'*/{name}') if not kind or re.fullmatch(rf'{kind}(-\d+)?', path.parent.name)]
    if not runs:
        raise UserError(f'{folder} holds no run{f" of type {kind}" if kind else ""}: there is no {name}; train one first')
    return max(runs, key=lambda path: path.stat().st_mtime_ns).parent

def new_folder(cfg):
    """The folder for a new run: the one typed, or the next free one under out/."""
    numbered = (Path('out') / (cfg.type + (f'-{i}' if i > 1 else '')) for i in range(1, 10**6))
    folder = Path(cfg.work_dir) if cfg.work_dir else next(path for path in numbered if not path.exists())
    try:
        for name in ('last.pt', 'best.pt', 'result.json'):
            if (folder / name).exists() and not cfg.overwrite:
                raise UserError(f'{folder} holds a run: --resume goes on with it, --overwrite replaces it, '
                                'another -o leaves it alone')
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise MachineError(f'cannot write to {folder}: {e.strerror}') from None
    return folder

def load(folder='out', device='cpu'):
    """model, words = load('out/transformer'): the best of a run, or of the newest one below, ready to sample."""
    run, _ = restore(find_run(dict(work_dir=folder), 'best.pt') / 'best.pt')
    return run.model.to(device).eval(), run.words

# ----------------------------------------------------------------------------------------------------------------------
# Training

def say(line, file=None):
    """A line for the reader, on stderr if not said otherwise, above the progress bar where there is one."""
    file = file or sys.stderr
    if rank() == 0:
        sys.modules['tqdm'].tqdm.write(line, file=file) if 'tqdm' in sys.modules else print(line, file=file, flush=True)

class Log:
    """What TensorBoard shows. Without TensorBoard the curves are missing and nothing else."""

    def __init__(self, folder):
        self.board = None
        try:
            if rank() == 0:
                from torch.utils.tensorboard import SummaryWriter
                self.board = SummaryWriter(folder)
        except ImportError:
            say('TensorBoard is not installed, so there are no curves: pip install tensorboard')

    def scalars(self, step, values):
        for name, value in values.items() if self.board else ():
            if value is not None:
                self.board.add_scalar(name, value, step)

    def result(self, run, result):
        """Settings and results side by side: all runs below a folder become one table."""
        if self.board:
            from torch.utils.tensorboard.summary import hparams
            settings = {n: v if isinstance(v, (bool, int, float)) else str(v) for n, v in carried(run.cfg).items()}
            numbers = {f'result/{name}': value for name, value in result.items() if isinstance(value, float)}
            for summary in hparams(settings, numbers):
                self.board.file_writer.add_summary(summary)
            self.scalars(run.step, numbers)
            self.board.close()

@contextlib.contextmanager
def stop_signals():
    """Ctrl-C and SIGTERM end the run behind the step that is being taken; a second one ends it at once."""
    caught = []
    def note(number, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)

def rate(cfg, step):
    """The learning rate of a step: up to its peak, then down to zero along half a cosine."""
    warmup = cfg.max_steps // 20 if cfg.warmup is None else cfg.warmup
    if step < warmup:
        return cfg.learning_rate * (step + 1) / warmup
    return cfg.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, cfg.max_steps - warmup))) / 2

def make_optimizer(model, cfg):
    """AdamW. Only matrices decay: pulling biases, gains and norms towards zero would be pointless."""
    groups = [dict(params=[p for p in model.parameters() if p.ndim >= 2], weight_decay=cfg.weight_decay),
              dict(params=[p for p in model.parameters() if p.ndim < 2], weight_decay=0.0)]
    return torch.optim.AdamW([g for g in groups if g['params']], lr=cfg.learning_rate, betas=(0.9, 0.99), fused=True)

def take_step(run, net):
    """Schedule, batch, forward, backward, step. The loss, and the norm of its gradient."""
    cfg = run.cfg
    for group in run.optimizer.param_groups:
        group['lr'] = rate(cfg, run.step)
    x, y, share = batch(run.words, cfg, run.step, run.device)
    if cfg.dropout:      # what is dropped hangs on (seed, step) too: no generator has to be saved
        torch.manual_seed(seeded(cfg.seed, run.step, rank()).initial_seed())
    run.optimizer.zero_grad(set_to_none=True)
    loss = net(x, y)
    (loss * share).backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), cfg.grad_clip or math.inf)
    run.optimizer.step()
    run.step += 1
    return loss.item(), norm.item()

def train(run, log=None, caught=()):
    """Steps until max_steps, with a pause once in a while; False when a signal was caught."""
    from tqdm import tqdm
    cfg, first, losses, clock = run.cfg, run.step, [], time.perf_counter()
    with tqdm(total=cfg.max_steps, initial=first, unit='step', disable=None if rank() == 0 else True) as bar:
        while True:
            last_step = run.step == cfg.max_steps
            if last_step or run.step % cfg.eval_interval == 0 and run.step >= first + (first > 0):
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                run.seconds += seconds
                pause(run, log, losses, seconds)
                losses = []
            if cfg.sample_interval and first < run.step < cfg.max_steps and run.step % cfg.sample_interval == 0:
                show_samples(run, log)
            if last_step or caught:
                return last_step
            loss, norm = take_step(run, run.model)
            if not math.isfinite(loss + norm):
                raise MachineError(f'the loss is {loss}, its gradient {norm} long at step {run.step}: try a smaller '
                                   f'--learning-rate; {run.folder} keeps the last good checkpoint')
            losses.append(loss)
            if log and run.step % 10 == 0:
                log.scalars(run.step, {'rate': rate(cfg, run.step), 'gradient norm': norm, 'loss/batch': loss})
            bar.set_postfix_str(f'loss {loss:.4f}', refresh=False)
            bar.update()

def pause(run, log, losses, seconds):
    """Measure and save, the best before the last: a kill in between loses nothing."""
    dev = evaluate(run, run.words.judge)
    mean = sum(losses) / len(losses) if losses else None
    say(f'step {run.step:6} | train {mean:.4f} | dev {dev:.4f}' if losses else f'step {run.step:6} | dev {dev:.4f}')
    if log:
        log.scalars(run.step, {'loss/train': mean, 'loss/dev': dev, 'steps per second': len(losses) / seconds})
    if dev < run.best:
        run.best = dev
        run.save('best.pt')
    run.save('last.pt')

def show_samples(run, log):
    """What the model makes right now, sorted into what it made up and what it copied."""
    how = {name: getattr(run.cfg, name) for name in ('prompt', 'temperature', 'top_k', 'top_p')}
    texts = sample(run.model, run.words, run.cfg.num_samples, seed=run.cfg.seed, **how)
    groups = {kind: [] for kind in ('new', 'in dev or test', 'in train')}
    for text, kind in zip(texts, run.words.kinds(texts)):
        groups[kind].append(text)
    lines = [f'{kind} ({len(group)}): {", ".join(group)}' for kind, group in groups.items() if group]
    for line in lines:
        say(line, sys.stdout)
    if log and log.board:
        log.board.add_text('samples', '  \n'.join(lines), run.step)

def finish(run, log):
    """The best model, measured once on everything, the test split included; the result as JSON."""
    run.model.load_state_dict(restore(run.folder / 'best.pt')[0].model.state_dict())
    losses = {split: evaluate(run, split) for split in ('train', 'dev', 'test')}
    texts = sample(run.model, run.words, 1000, seed=run.cfg.seed)
    result = dict(type=run.cfg.type, params=count_parameters(run.model), steps=run.step, seconds=run.seconds, **losses,
                  novelty=run.words.kinds(texts).count('new') / len(texts), settings=carried(run.cfg))
    if rank() == 0:
        save_whole(run.folder / 'result.json', lambda file: file.write(json.dumps(result, indent=1).encode()))
    show_samples(run, log)
    for split, loss in losses.items():
        if loss is not None:
            say(f'{split:5} loss {loss:.4f}, perplexity {math.exp(loss):.3f}', sys.stdout)
    say(f'{100 * result["novelty"]:.0f} % of 1,000 samples are new', sys.stdout)
    log.result(run, result)

def count_parameters(model):
    return sum(p.numel() for p in model.parameters())

# ----------------------------------------------------------------------------------------------------------------------
# main

def parse(argv=None):
    """What was typed, as checked settings."""
    typed = vars(Parser().parse_args(argv))
    for name in ('max_steps', 'top_k'):
        if typed.get(name) == '-1':      # without end, and off, as makemore spelt them
            say(f'{flag(name)} -1 has no meaning here and is left out')
            del typed[name]
    if typed.pop('num_workers', None):
        say('--num-workers has no meaning here, as there are no data workers')
    return {name: check(name, value) for name, value in typed.items()}

def fit_to_words(cfg, words):
    """The settings that hang on the data, and the items that hang on the settings."""
    model = MODELS[cfg.type]
    cfg.block_size = model.window(cfg, words.longest)
    cut_words(words, model.span or cfg.block_size)
    words.judge = 'dev' if len(words.splits['dev'].starts) else 'train'

def start_run(typed, device):
    """A new run, or an old one to go on with."""
    old = None
    if typed.get('resume'):
        folder = find_run(typed, 'last.pt')
        old, optimizer = restore(folder / 'last.pt')
    cfg = settle(typed, carried(old.cfg) if old else ())
    words = read_words(cfg)
    fit_to_words(cfg, words)
    say(f'{cfg.input_file}: {len(words.lines.starts):,} lines, {words.vocab_size} tokens; ' + ', '.join(
        f'{len(rows):,} {name}' for name, rows in words.rows.items()) + ''.join(
        f'; {n} left out of {name}, as they are in train' for name, n in words.left_out.items() if n))
    if old and words.symbols != old.words.symbols:
        raise UserError(f'{cfg.input_file} has other characters than the data of {folder}')
    torch.manual_seed(cfg.seed)
    run = dataclasses.replace(old, cfg=cfg, words=words) if old else Run(
        cfg, words, MODELS[cfg.type](cfg, words.vocab_size), new_folder(cfg))
    run.device, run.model = device, run.model.to(device)
    if not hasattr(run.model, 'fit'):
        run.optimizer = make_optimizer(run.model, cfg)
        if old:
            run.optimizer.load_state_dict(optimizer)
    return run

def train_run(typed, device):
    with stop_signals() as caught:
        run = start_run(typed, device)
        say(f'{run.cfg.type}: {count_parameters(run.model):,} parameters, {run.cfg.max_steps} steps, in {run.folder}')
        log = Log(run.folder)
        if hasattr(run.model, 'fit'):
            run.model.fit(run.words)
            pause(run, log, [], 1)
        elif not train(run, log, caught):
            run.save('last.pt')
            say(f'stopped behind step {run.step}; go on with: python makemore.py --resume -o {run.folder}')
            return 128 + caught[0]
        finish(run, log)
    return 0

def sample_run(typed, device):
    """Clean samples on stdout; nothing is written."""
    run, _ = restore(find_run(typed, 'best.pt') / 'best.pt')
    cfg = settle(typed, carried(run.cfg))
    say(f'{run.folder}: {cfg.type}, step {run.step}, dev loss {run.best:.4f}')
    how = {name: getattr(cfg, name) for name in ('prompt', 'temperature', 'top_k', 'top_p', 'seed')}
    for text in sample(run.model.to(device), run.words, cfg.num_samples, new_only=cfg.new_only, **how):
        print(text)
    return 0

def main(argv=None):
    """Run a command line. Exit code 0: done, 1: the machine failed, 2: the user's input, 130 and 143: interrupted."""
    try:
        typed = parse(argv)
        device = pick_device(Config(**typed))
        return (sample_run if typed.get('sample_only') else train_run)(typed, device)
    except (UserError, MachineError) as e:
        print(f'makemore: {e}', file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    except KeyboardInterrupt:
        return 130

if __name__ == '__main__':
    sys.exit(main())
