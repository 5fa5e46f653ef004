"""
makemore: give it a text file with one thing per line, and it makes more things like it.

    python makemore.py -i names.txt --type transformer         train, and watch new names appear
    python makemore.py -i names.txt --type ngram               count instead: fast, and hard to beat
    python makemore.py --sample-only --num-samples 100         more from the newest run, from it alone
    python makemore.py --sample-only --prompt chr --new-only   names on chr that stand in no list
    python makemore.py --resume --max-steps 20000              go on where the newest run stopped
    python makemore.py -i shakespeare.txt --text               one long text, not one thing per line
    torchrun --standalone --nproc_per_node=2 makemore.py       several processes, the same steps

All of it is in this file, to be read from the top and changed; the models come in the order in which one would invent
them. Left out on purpose: configuration files, plug-ins, data loaders. A new model is one class.
"""
import argparse, contextlib, difflib, functools, io, itertools, json, math, os, random, re, signal, sys, time, warnings
from collections import namedtuple
from dataclasses import dataclass, field, fields
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
GROUPS = ('data', 'model', 'training', 'looking', 'work', 'sampling', 'machine')
CARRIED = GROUPS[:3]      # what a checkpoint carries over to resuming and sampling

def knob(group, default, help, *flags, **limits):
    """One setting; limits are least, most (both allowed) and choices; arch marks what gives a model its shape."""
    return field(default=default, metadata=dict(group=group, help=help, flags=flags, **limits))

data, net, fit, look, work, draws, machine = (functools.partial(knob, group) for group in GROUPS)
@dataclass
class Config:
    input_file: str = data('names.txt', 'text file with one thing per line; - reads standard input', '-i')
    encoding: str = data('utf-8', 'encoding of the input file')
    split: str = data('honest', 'honest: nothing of train in dev; lecture; all', choices=('honest', 'lecture', 'all'))
    text: bool = data(False, 'the input is one long text, not one thing per line', arch=True)
    tokenizer: str = data('char', 'char, bpe (learned from train) or a saved tokenizer file')
    vocab_size: int = data(512, 'tokens that --tokenizer bpe learns', least=256, most=2**20)
    type: str = net('transformer', 'which model; they are listed below', arch=True)
    block_size: int | None = net(None, 'tokens of context (default: the longest line)', least=1, most=2**16, arch=True)
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
    warmup: int | None = fit(None, 'steps in which the rate rises to its peak (default: 1 in 20)', least=0)
    grad_clip: float | None = fit(1.0, 'largest norm of the gradient; none: any', least=0)
    seed: int = fit(3407, 'seed of everything that is drawn', least=0, most=2**62)
    eval_interval: int = look(500, 'steps between evaluations and saves', least=1)
    sample_interval: int | None = look(1000, 'steps between samples; none: only at the end', least=1)
    diagnose: int | None = look(None, 'every so many steps look at activations, gradients and updates', least=1)
    work_dir: str | None = work(None, 'folder of the run; by default a new one under out/, or the newest', '-o')
    resume: bool = work(False, 'go on with the run in the work dir')
    overwrite: bool = work(False, 'replace the run in the work dir')
    sample_only: bool = work(False, 'sample from the run in the work dir; train nothing, write nothing')
    num_samples: int = draws(20, 'how many samples; of a text, one', least=0)
    prompt: str = draws('', 'what every sample begins with; @FILE reads it from a file')
    length: int | None = draws(None, 'most tokens in a sample (default: twice the longest line, or 500)', least=1)
    temperature: float = draws(1.0, 'below 1 safer, above 1 wilder, 0 always the likeliest', least=0)
    top_k: int | None = draws(None, 'draw among the k likeliest only', least=1)
    top_p: float | None = draws(None, 'draw among the likeliest that make up this probability', least=1e-9, most=1)
    new_only: bool = draws(False, 'only samples that stand nowhere in the data, and none twice')
    device: str = machine('auto', 'auto, cpu, cuda, cuda:N or mps')
    threads: int | None = machine(None, 'threads of the CPU (default: 1, best for a small model)', least=1, most=512)
    compile: bool = machine(False, 'torch.compile the model, which pays on a GPU')
    num_workers: int | None = machine(None, 'accepted for old commands; there are no data workers', '-n')

KNOBS = {f.name: f for f in fields(Config)}
def flag(name):
    return '--' + name.replace('_', '-')
def check(name, value):
    """The value of a setting in its type and within its limits: check('n_head', '8') -> 8. Else a UserError."""
    limits, kind = KNOBS[name].metadata, getattr(KNOBS[name].type, '__args__', (KNOBS[name].type,))[0]
    if value in (None, 'none') and kind is not KNOBS[name].type:
        return None
    with contextlib.suppress(ValueError):
        value = kind(value) if isinstance(value, str) or kind is float and type(value) is int else value
    if type(value) is not kind:
        raise UserError(f'{flag(name)} {value!r}: that is no {kind.__name__}')
    least, most = limits.get('least', -math.inf), limits.get('most', sys.float_info.max)
    if kind is not str and not least <= value <= most:
        raise UserError(f'{flag(name)} {value}: must be at least {least}' + f', at most {most}' * ('most' in limits))
    choices = MODELS if name == 'type' else limits.get('choices', (value,))
    if value not in choices:
        raise UserError(f'{flag(name)} {value}: no such choice{nearest(value, choices)}; use {", ".join(choices)}')
    return value

def nearest(word, words):
    """'transfomer' -> ', did you mean transformer?'"""
    close = difflib.get_close_matches(word, list(words), 1)
    return f', did you mean {close[0]}?' if close else ''

class Parser(argparse.ArgumentParser):
    """--help is made from the knobs and the registry; a mistake is a UserError that knows the nearest flag."""
    def __init__(self):
        commands = [line[2:] for line in __doc__.splitlines() if re.match(r'    (python|torchrun) ', line)]
        models = [f'  {name:12} {cls.__doc__.strip().splitlines()[0]}' for name, cls in MODELS.items()]
        super().__init__(prog='makemore.py', argument_default=argparse.SUPPRESS, allow_abbrev=False, usage=
                         'makemore.py [-i FILE] [--type TYPE] [options]', description=__doc__.strip().splitlines()[0],
                         epilog='\n'.join(['models, with defaults of their own:', *models, '', 'examples:', *commands]),
                         formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=100))
        self.add_argument('--version', action='version', version=f'makemore {__version__}, torch {torch.__version__}')
        groups = {name: self.add_argument_group(name) for name in GROUPS}
        for name, f in KNOBS.items():
            help = f.metadata['help'] + f' (default: {f.default})' * (str(f.default) not in ('None', '', 'False'))
            kind = dict(action='store_true') if f.type is bool else dict(metavar=name.split('_')[-1].upper())
            groups[f.metadata['group']].add_argument(*f.metadata['flags'], flag(name), dest=name, help=help, **kind)

    def error(self, message):
        if (unknown := message.removeprefix('unrecognized arguments: ')) != message:
            word = unknown.split()[0]
            hint = nearest(word, self._option_string_actions) if word[0] == '-' else f'; a file is named with -i {word}'
            message = f'{unknown}: no such option{hint}'
        raise UserError(f'{message}; --help lists all options')

def parse(argv=None):
    """What was typed, as checked settings."""
    typed = vars(Parser().parse_args(argv))
    for name in {'num_workers', 'max_steps', 'top_k'} & typed.keys():      # what makemore once gave a meaning
        if name == 'num_workers' or typed[name] == '-1':
            say(f'{flag(name)} {typed.pop(name)} has no meaning here and is left out')
    if len(modes := [name for name in ('sample_only', 'resume', 'overwrite') if name in typed]) > 1:
        raise UserError(f'{" and ".join(map(flag, modes))} contradict each other: choose one')
    if typed.get('prompt', '').startswith('@'):
        typed['prompt'] = ''.join(read_pieces(typed['prompt'][1:], 'utf-8', -1))
    return {name: check(name, value) for name, value in typed.items()}

def settle(typed, saved={}):
    """The settings of a run. Weakest first: the defaults, what the type prefers, the checkpoint, what was typed."""
    for name in saved.keys() & typed.keys():
        if KNOBS[name].metadata.get('arch') and typed[name] != saved[name]:
            raise UserError(f'{flag(name)} {typed[name]} contradicts the checkpoint, which has {saved[name]}')
    kind = typed.get('type', saved.get('type', Config.type))
    return Config(**{**MODELS[kind].prefers, **saved, **typed, 'type': kind})

def carried(cfg):
    return {name: getattr(cfg, name) for name, f in KNOBS.items() if f.metadata['group'] in CARRIED}
# ----------------------------------------------------------------------------------------------------------------------
# Machines: one process or many, who of them speaks, and the folder it writes to
def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
def world():
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

def sum_over_ranks(*numbers):
    total = torch.tensor(numbers, dtype=torch.float64)
    if world() > 1:
        torch.distributed.all_reduce(total)
    return total.tolist()

def say(line, file=None):
    """A line for the reader, on stderr if not said otherwise, above the progress bar where there is one."""
    if rank() == 0:
        (sys.modules['tqdm'].tqdm.write if 'tqdm' in sys.modules else print)(line, file=file or sys.stderr)

def make_room(folder, old=('last.pt', 'best.pt', 'result.json')):
    """The folder made, and rid of what an earlier run left in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in old:
            (folder / name).unlink(missing_ok=True)
    except OSError as e:
        kind = UserError if isinstance(e, (FileExistsError, NotADirectoryError)) else MachineError
        raise kind(f'cannot write to {folder}: {e.strerror}') from None

@contextlib.contextmanager
def machine_for(cfg):
    """The device: the fastest at hand, or the one that was asked for. Under torchrun also the group of processes."""
    grouped, gpu = 'TORCHELASTIC_RUN_ID' in os.environ, torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(cfg.device if cfg.device != 'auto' else gpu or 'cpu')
        if grouped and device.type == 'cuda':
            device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f'--device {cfg.device}: {str(e).splitlines()[0]}') from None
    if grouped:
        torch.distributed.init_process_group()      # gloo between CPUs, NCCL between GPUs
    try:
        yield str(device)
    finally:
        if grouped:
            torch.distributed.destroy_process_group()
# ----------------------------------------------------------------------------------------------------------------------
# Words: reading, splitting, encoding, batching
CAP = 64              # the longest piece that a line is trained in where nobody says otherwise
CHUNK = 2**17         # characters handled at a time: what stays in the cache goes three times as fast
Items = namedtuple('Items', 'starts lengths')      # where each item begins in the flat tensor, how many targets it has

def read_pieces(path, encoding, size=CHUNK):
    """The file as strings of up to size characters (-1: all at once), without byte order mark, line ends as \\n."""
    try:
        raw = io.BytesIO(sys.stdin.buffer.read()) if path == '-' else open(path, 'rb')
        file = io.TextIOWrapper(raw, 'utf-8-sig' if encoding.lower() in ('utf-8', 'utf8') else encoding)
        while piece := file.read(size):
            yield piece
    except (OSError, LookupError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", e)}; see -i and --encoding') from None
    except UnicodeError as e:
        bad = raw.tell() - len(e.object) + e.start if hasattr(e, 'start') else 0
        raw.seek(0)
        line = raw.read(bad).decode(encoding, 'ignore').count('\n') + 1
        raise UserError(f'{path}, line {line} is not {encoding}: name its encoding, as in --encoding latin-1') from None

def tidy(text):
    """Every line stripped, blank lines gone: ' emma \\n\\nava\\n' -> 'emma\\nava'."""
    if re.search(r'\s\n|\n\s', text := text.strip()):      # one fast look spares most files the work
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
    raw = bytearray(text.encode('utf-32-le', 'surrogatepass'))
    return torch.frombuffer(raw, dtype=torch.int32) if raw else torch.zeros(0, dtype=torch.int32)

def fingerprints(text):
    """A 64-bit number per line, to compare millions without keeping them: its codes times powers of a large odd number,
    counted from the line's end, summed up; int64 wraps around, as a hash may."""
    rows, n = [torch.zeros(0, dtype=torch.int64)], max(map(len, parts(text)), default=0) + 1
    up, down = (torch.full((n,), base).cumprod(0) for base in (0x1e3779b97f4a7c15, pow(0x1e3779b97f4a7c15, -1, 2**64)))
    for part in parts(text):
        codes = code_points(part.removesuffix('\n') + '\n')
        ends = (codes == 10).nonzero().flatten()
        total = ((codes + 1) * up[:len(codes)]).cumsum(0)[ends]
        rows.append(total.diff(prepend=total.new_zeros(1)) * down[ends])
    return torch.cat(rows)

def seeded(*numbers):
    """A generator for (seed, step, ...): what is drawn with it depends on nothing else."""
    return torch.Generator().manual_seed(random.Random(repr(numbers)).getrandbits(63))

class Words:
    r"""The data set, and what a model has to remember of it: the vocabulary and which lines it has seen.
    All tokens lie in one flat tensor in which the newline has become the boundary token 0: emma\nava is
    0 e m m a 0 a v a 0. An item is a start and a length: its inputs are flat[start:start+length], its targets the same
    one further on. One long text (--text) has no boundary, its tokens count from 0.
    """
    def __init__(self, text=False, symbols='', tokenizer=None, longest=0, known=None):
        self.text, self.symbols, self.longest, self.known = text, symbols, longest, known or {}
        self.first = 0 if text else 1      # the id of the first symbol
        self.index = {symbol: i for i, symbol in enumerate(symbols, self.first)}
        if tokenizer:
            from tokenizer import Tokenizer
            tokenizer = Tokenizer.from_dict(tokenizer)
        self.tokenizer = tokenizer
        self.vocab_size = self.first + (self.tokenizer.vocab_size if tokenizer else len(symbols))

    def state(self):
        return dict(text=self.text, symbols=self.symbols, longest=self.longest, known=self.known,
                    tokenizer=self.tokenizer and self.tokenizer.to_dict())

    def encode(self, text):
        """Token ids of a prompt: with the symbols ab, 'ba' -> [2, 1]."""
        if self.tokenizer:
            return [i + self.first for i in self.tokenizer.encode_ordinary(text)]
        if unknown := sorted(set(text) - self.index.keys()):
            raise UserError(f'{unknown[0]!r} is not in the vocabulary, which is {self.symbols[:500]!r}')
        return [self.index[symbol] for symbol in text]

    def tokens(self, text):
        """The same for a file's worth of text, as a small tensor, through a table from code point to token."""
        if self.tokenizer:
            return torch.tensor(self.encode(text), dtype=torch.int32)
        if not hasattr(self, 'table'):
            kind = torch.uint8 if self.vocab_size <= 2**8 else torch.int16 if self.vocab_size <= 2**15 else torch.int32
            self.table = torch.zeros(0x110000, dtype=kind)      # what is no symbol, as the newline between lines, is 0
            self.table[code_points(self.symbols).long()] = torch.arange(self.first, self.vocab_size, dtype=kind)
        return self.table[code_points(text)]

    def decode(self, ids):
        """The text of some tokens, boundaries left out."""
        ids = [i - self.first for i in ids if i >= self.first]
        return self.tokenizer.decode(ids) if self.tokenizer else ''.join(self.symbols[i] for i in ids)

    def kinds(self, texts):
        """For each text 'in train', 'in dev or test', 'new' or 'empty'."""
        prints = fingerprints(''.join(text + '\n' for text in texts))
        seen = {name: torch.isin(prints, table).tolist() for name, table in self.known.items()}
        return [next((k for k in seen if seen[k][i]), 'new' if text else 'empty') for i, text in enumerate(texts)]

def symbols_of(pieces):
    """All characters of a text, sorted, and how many it has: ['abba'] -> ('ab', 4)."""
    seen, count = torch.zeros(0x110000, dtype=torch.bool), 0
    for piece in pieces:
        seen[code_points(piece).long()] = True
        count += len(piece)
    return ''.join(map(chr, seen.nonzero().flatten().tolist())), count

def make_tokenizer(cfg, texts):
    """A tokenizer as plain data: trained on the texts, or loaded from a file."""
    from tokenizer import Tokenizer
    try:
        tokenizer = Tokenizer() if cfg.tokenizer == 'bpe' else Tokenizer.load(cfg.tokenizer)
        if cfg.tokenizer == 'bpe':
            tokenizer.train(texts, cfg.vocab_size)
    except (OSError, ValueError) as e:
        raise UserError(f'--tokenizer {cfg.tokenizer}: {e}') from None
    return tokenizer.to_dict()

def read_lines(cfg):
    """One thing per line. With characters there is no Python loop over characters or lines."""
    text = tidy(''.join(read_pieces(cfg.input_file, cfg.encoding, -1)))
    if not text:
        raise UserError(f'{cfg.input_file} holds nothing to learn from: it is empty or blank')
    prints = fingerprints(text)
    rows, left_out = split_rows(prints, cfg.split)
    if cfg.tokenizer == 'char':
        words = Words(symbols=symbols_of(parts(text))[0].replace('\n', ''))
        flat = torch.cat([words.tokens(part) for part in ('\n', *parts(text), '\n')])
    else:
        lines = text.split('\n')
        words = Words(tokenizer=make_tokenizer(cfg, [lines[i] for i in rows['train'].tolist()]))
        flat = torch.tensor([0] + [i for line in lines for i in words.encode(line) + [0]], dtype=torch.int32)
    ends = (flat == 0).nonzero().flatten()
    words.flat, words.lines, words.rows, words.left_out = flat, Items(ends[:-1], ends.diff()), rows, left_out
    words.longest, words.density = int(words.lines.lengths.max()) - 1, (len(flat) - 1) / (len(text) + 1)
    words.known = {'in train': prints[rows['train']], 'in dev or test': prints[torch.cat([rows['dev'], rows['test']])]}
    return words

def split_rows(prints, split):
    """Which lines are train, dev and test, as the lectures have it, and how many were left out of dev and test."""
    n, order, left_out = len(prints), list(range(len(prints))) if len(prints) <= 10**6 else [], {}
    random.Random(42).shuffle(order)      # takes seconds for millions of lines: beyond one, torch does it
    order = torch.tensor(order) if order else torch.randperm(n, generator=torch.Generator().manual_seed(42))
    n1, n2 = max(1, int(0.8 * n)), max(1, int(0.9 * n))
    rows = (dict(train=order, dev=order, test=order[:0]) if split == 'all' else
            dict(train=order[:n1], dev=order[n1:n2], test=order[n2:]))
    known = torch.isin(prints[order[n1:]], prints[order[:n1]]).split((n2 - n1, n - n2)) if split == 'honest' else ()
    for name, known in zip(('dev', 'test'), known):
        rows[name], left_out[name] = rows[name][~known], int(known.sum())
    return rows, left_out

def read_text(cfg, folder=None):
    """One long text, the first 90 % of it train. Its tokens lie in a file in the folder, which is mapped, not read."""
    pieces = functools.partial(read_pieces, cfg.input_file, cfg.encoding)
    if cfg.input_file == '-':      # a pipe can be read only once
        whole = ''.join(pieces())
        pieces = lambda size=CHUNK: (whole[i:i + size] for i in range(0, len(whole), size))
    symbols, n = symbols_of(pieces())
    if len(symbols) < 2 or n < 20:
        raise UserError(f'{cfg.input_file} holds too little to learn from: 20 characters, not all the same, at least')
    tokenizer, size, end, cut = None, min(CHUNK, -(-n // 10)), 0, 0      # a tenth at most: nine of ten pieces are train
    if cfg.tokenizer != 'char':
        tokenizer = make_tokenizer(cfg, itertools.islice(pieces(size), int(0.9 * n) // size))
    words = Words(text=True, symbols='' if tokenizer else symbols, tokenizer=tokenizer)
    room, kind, file = n * (4 if tokenizer else 1), words.tokens('').dtype, folder and str(folder / 'tokens.bin')
    if file:
        make_room(folder, old=())
    flat = torch.from_file(file, True, room, dtype=kind) if file else torch.empty(room, dtype=kind)
    for i, piece in enumerate(pieces(size), 1):
        ids = words.tokens(piece)
        flat[end:end + len(ids)] = ids
        end += len(ids)
        cut = end if i * size <= 0.9 * n else cut
    cut = cut if tokenizer else int(0.9 * n)
    words.flat, words.longest, words.density, words.left_out = flat[:end], cut, end / n, {}
    words.lines = Items(torch.tensor([0, cut]), torch.tensor([cut - 1, end - cut - 1]))
    words.rows = dict(train=torch.tensor([0]), dev=torch.tensor([1]), test=torch.tensor([], dtype=torch.int64))
    return words

def cut_words(words, span):
    """The items of each split: its lines, those longer than span cut into pieces."""
    words.span, words.splits = span, {}
    for name, rows in words.rows.items():
        starts, lengths = (t[rows] for t in words.lines)
        if words.longest >= span:
            pieces = (lengths + span - 1) // span
            offset = (torch.arange(int(pieces.sum())) - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)) * span
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
    """Of (seed, step) alone: inputs, targets, and this process's share of all targets times the number of processes."""
    items, B = words.splits['train'], cfg.batch_size
    if words.text:
        lengths = items.lengths[:1].expand(B)
        starts = torch.randint(words.longest - int(lengths[0]), (B,), generator=seeded(cfg.seed, step))
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
    What it leaves in the cache, the batch first, is there at the next token, and from then on it gets only the newest.
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

def table(n, channels):
    return nn.Embedding.from_pretrained(0.12 * torch.randn(n, channels), freeze=False)

def start(module, scale=1.0):
    """As much noise comes out of every layer as goes in; a head gets a small scale: who knows nothing should say so."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=scale / m.in_features**0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module

class WindowModel(LanguageModel):
    """A fixed window: self.net maps (N, block_size) tokens to (N, V) logits and is the lecture's stack of layers."""
    span = CAP
    def __init__(self, cfg, *layers):
        super().__init__()
        self.context, self.net = cfg.block_size, start(nn.Sequential(*layers), 5 / 3)      # tanh squeezes by about 5/3
        start([m for m in layers if isinstance(m, nn.Linear)][-1], 1 / 6)

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
@register('ngram', block_size=5, max_steps=0)
class NGram(LanguageModel):
    """counting what followed the last few letters: done in seconds, and hard to beat
    A context of k tokens is a number of k digits in base V, the furthest token first; a pair has the next token as one
    digit more. So the pairs of a context are neighbours in a sorted tensor, found by binary search, and the cumulative
    counts beside them tell how often each came and all together.
    """
    span = 2**12      # counting has no reason to cut a line short
    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.V, self.context = vocab_size, cfg.block_size
        match = re.fullmatch(r'kn|add:(\d*\.?\d+)', cfg.smoothing)
        self.fake = match and match[1] and float(match[1])
        if not match or self.fake == 0:
            raise UserError(f'--smoothing {cfg.smoothing}: must be kn, or add:K with a K above 0, as in add:1')
        if vocab_size**(self.context + 1) >= 2**63:
            raise UserError(f'--block-size {cfg.block_size} is too long a context for {vocab_size} kinds of tokens')
        self.register_buffer('discount', torch.tensor(0.75, dtype=torch.float64))
        for k in range(self.context + 1):
            self.register_buffer(f'pairs{k}', torch.tensor([2**63 - 1]))      # the last one no search goes beyond
            self.register_buffer(f'counts{k}', torch.tensor([0]))

    @torch.no_grad()
    def fit(self, words):
        starts, lengths = words.splits['train']
        item = torch.arange(len(starts)).repeat_interleave(lengths)
        place = torch.arange(len(item)) - (lengths.cumsum(0) - lengths)[item]      # of each token within its item
        at, depth = starts[item] + place, (place + 1).clamp(max=self.context)
        pair, ends, longer = words.flat[at + 1].long(), [], torch.zeros(0, dtype=torch.int64)
        for k in range(self.context + 1):      # one token further back is one more digit in front
            pair = pair + words.flat[(at - k + 1).clamp(min=0)].long() * self.V**k if k else pair
            ends.append(pair[depth == k])      # where the context can grow no further every occurrence counts
        for k in reversed(range(self.context + 1)):
            if self.fake is None:      # Kneser-Ney: elsewhere, not how often but after how many different tokens
                ends[k] = torch.cat([ends[k], longer % self.V**(k + 1)])
            longer, counts = ends[k].unique(return_counts=True)
            setattr(self, f'pairs{k}', torch.cat([longer, longer.new_tensor([2**63 - 1])]))
            setattr(self, f'counts{k}', F.pad(counts.cumsum(0), (1, 0)))
        if self.fake is None and len(words.splits['dev'].starts):
            x, y = gather(words, *(t[:10000] for t in words.splits['dev']))
            losses = {}
            for self.discount in torch.arange(0.5, 1, 0.02, dtype=torch.float64):
                losses[self(x, y).item()] = self.discount
            self.discount = losses[min(losses)]

    def probability(self, idx, w):
        """Of the tokens w (B, T, M), from the shortest context to the longest, each correcting the one before."""
        p, context = torch.full(w.shape, 1 / self.V, dtype=torch.float64, device=w.device), torch.zeros_like(idx)
        depth = torch.arange(1, idx.size(1) + 1, device=idx.device)[:, None]
        for k in range(self.context + 1):
            pairs, counts = getattr(self, f'pairs{k}'), getattr(self, f'counts{k}')
            if k:
                context = context + F.pad(idx, (k - 1, 0))[:, :idx.size(1)] * self.V**(k - 1)
            first = context[..., None] * self.V      # (B, T, 1): the context followed by token 0
            left, right, at = (torch.searchsorted(pairs, key) for key in (first, first + self.V, first + w))
            count = (counts[(at + 1).clamp(max=len(pairs) - 1)] - counts[at]).double() * (pairs[at] == first + w)
            total, kinds = counts[right] - counts[left], right - left
            if self.fake is None:
                q = ((count - self.discount).clamp(min=0) + self.discount * kinds * p) / total
            else:
                q = (count + self.fake) / (total + self.fake * self.V)
            p = torch.where((total > 0) & (depth >= k), q, p)
        return p

    def logits(self, idx, cache=None):
        return self.probability(idx, torch.arange(self.V, device=idx.device).expand(*idx.shape, -1)).log()

    def forward(self, idx, targets):
        """As every model's loss, without the probabilities of all that did not come next."""
        p = self.probability(idx, targets.clamp(min=0)[..., None])[..., 0]
        return -p[targets >= 0].log().mean()

    def load_state_dict(self, state, strict=True, assign=False):
        for name in self._buffers:      # the tables have the sizes that the data gave them
            setattr(self, name, state[name])

@register('bigram', batch_size=128, learning_rate=0.02, weight_decay=0.0, max_steps=2000)
class Bigram(LanguageModel):
    """a table of which letter follows which, learned by gradient; it ends where counts do"""
    context = 1
    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.zeros_(self.table.weight)

    def logits(self, idx, cache=None):
        return self.table(idx)      # (B, T, V): a one-hot vector times a matrix is one of its rows

def hidden(fan_in, cfg, norm=True):
    """A hidden layer; it needs no bias before a norm, which would subtract it right away."""
    return [nn.Linear(fan_in, cfg.n_hidden, bias=not norm), *[BatchNorm1d(cfg.n_hidden)] * norm, nn.Tanh(),
            nn.Dropout(cfg.dropout)]

@register('mlp', block_size=6, n_embd=10, n_hidden=200, learning_rate=5e-3, dropout=0.1, max_steps=20000)
class MLP(WindowModel):
    """an embedding per letter, one hidden layer over the last few (Bengio 2003)"""
    def __init__(self, cfg, vocab_size):
        super().__init__(cfg, nn.Embedding(vocab_size, cfg.n_embd), nn.Flatten(),      # (N, K, E) -> (N, K * E)
                         *hidden(cfg.block_size * cfg.n_embd, cfg, norm=False), nn.Linear(cfg.n_hidden, vocab_size))

class BatchNorm1d(nn.Module):
    """Every channel to mean 0 and deviation 1 over the batch, then a learned gain and bias; (N, C) or (N, T, C)."""
    def __init__(self, dim, eps=1e-5, momentum=0.1, gain=1.0):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.full((dim,), gain)), nn.Parameter(torch.zeros(dim))
        self.register_buffer('running_mean', torch.zeros(dim))
        self.register_buffer('running_var', torch.ones(dim))

    def forward(self, x):
        dims, n = tuple(range(x.ndim - 1)), x.numel() // x.size(-1)      # all but the channels
        mean, var = x.mean(dims) if self.training else self.running_mean, self.running_var
        x = x - mean
        if self.training:
            var = x.square().mean(dims)      # what torch.var_mean does at half the speed
            with torch.no_grad():      # as torch has it: normalize by the biased variance, remember the unbiased one
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (n / max(1, n - 1)), self.momentum)
        return x * ((var + self.eps).rsqrt() * self.weight) + self.bias

@register('bn-mlp', block_size=5, n_layer=6, n_embd=10, n_hidden=100, learning_rate=5e-3)
class BatchNormMLP(WindowModel):
    """a deep mlp, kept trainable by batch normalization (Ioffe 2015)"""
    def __init__(self, cfg, vocab_size):
        layers, fan_in = [nn.Embedding(vocab_size, cfg.n_embd), nn.Flatten()], cfg.block_size * cfg.n_embd
        for _ in range(cfg.n_layer - 1):
            layers += hidden(fan_in, cfg)
            fan_in = cfg.n_hidden
        super().__init__(cfg, *layers, nn.Linear(fan_in, vocab_size, bias=False), BatchNorm1d(vocab_size, gain=0.1))

class FlattenConsecutive(nn.Module):
    """Two neighbours side by side: (N, T, C) -> (N, T/2, 2*C), or (N, 2*C) when one pair is left."""
    def forward(self, x):
        N, T, C = x.shape
        return x.reshape(N, T // 2, 2 * C).squeeze(1)

@register('wavenet', n_layer=3, n_embd=24, n_hidden=128, learning_rate=5e-3, dropout=0.03, max_steps=6500)
class WaveNet(WindowModel):
    """a tree that joins neighbours, then neighbours of neighbours (van den Oord 2016)"""
    def __init__(self, cfg, vocab_size):
        layers, fan_in = [nn.Embedding(vocab_size, cfg.n_embd)], cfg.n_embd
        for _ in range(cfg.n_layer):
            layers += [FlattenConsecutive(), *hidden(2 * fan_in, cfg)]
            fan_in = cfg.n_hidden
        super().__init__(cfg, *layers, nn.Linear(fan_in, vocab_size))

    @classmethod
    def window(cls, cfg, longest):
        if cfg.n_layer > 12 or cfg.block_size not in (None, 2**cfg.n_layer):
            raise UserError('a wavenet sees 2**n_layer tokens, with 12 layers at most: leave --block-size out')
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
        self.head = start(nn.Linear(H, vocab_size), 0.1)

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

@register('rnn', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.1, max_steps=14000)
class RNN(Recurrent):
    """one vector carried from letter to letter, as long as the word is (Elman 1990)"""
    def step(self, x, h2, h):
        return [self.tanh(x + h2)]

@register('gru', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.15, max_steps=7500)
class GRU(Recurrent):
    """an rnn with gates that decide what to keep (Cho 2014)"""
    gates = 3
    def step(self, x, h2, h):
        H = h.size(1)
        reset, keep = self.sigmoid(x[:, :2 * H] + h2[:, :2 * H]).chunk(2, 1)
        return [torch.lerp(self.tanh(x[:, 2 * H:] + reset * h2[:, 2 * H:]), h, keep)]

@register('lstm', n_embd=64, n_hidden=128, learning_rate=3e-3, dropout=0.15, max_steps=7000)
class LSTM(Recurrent):
    """an rnn with a second vector along which gradients travel unharmed (Hochreiter 1997)"""
    gates, states = 4, 2
    def step(self, x, h2, h, c):
        gates, H = x + h2, h.size(1)
        write, forget, read = self.sigmoid(gates[:, :3 * H]).chunk(3, 1)
        c = forget * c + write * self.tanh(gates[:, 3 * H:])
        return [read * self.tanh(c), c]

@register('bow', n_layer=2, n_embd=64, n_hidden=128, learning_rate=3e-3, max_steps=12000)
class BagOfWords(LanguageModel):
    """the mean of all letters so far: attention that cannot choose"""
    def __init__(self, cfg, vocab_size):
        super().__init__()
        self.context, self.head = cfg.block_size, start(nn.Linear(cfg.n_embd, vocab_size), 0.1)
        self.what, self.where = table(vocab_size, cfg.n_embd), table(cfg.block_size, cfg.n_embd)
        self.mlps = nn.ModuleList(nn.Sequential(*hidden(cfg.n_embd, cfg, False), nn.Linear(cfg.n_hidden, cfg.n_embd))
                                  for _ in range(cfg.n_layer))

    def logits(self, idx, cache=None):
        past = cache[0].size(1) if cache else 0      # per layer the sums so far, (B, T, C): their number is the place
        where = torch.arange(past, past + idx.size(1), device=idx.device)
        x = self.what(idx) + self.where(where)
        for i, mlp in enumerate(self.mlps):
            total = x.cumsum(1) + (cache[i][:, -1:] if past else 0)
            if cache is not None:
                cache[i] = torch.cat([cache[i], total], 1) if past else total
            x = x + total / (where + 1)[:, None]
            x = x + mlp(x)
        return self.head(x)      # (B, T, V)

class RowDropout(nn.Dropout):
    """The same channels are dropped all along a row: as good here, and far fewer random numbers to draw."""
    def forward(self, x):
        return F.dropout1d(x.transpose(1, 2), self.p).transpose(1, 2) if self.training and self.p else x

class Block(nn.Module):
    """Talk to each other, then think alone; both are added to what was there, so that gradients pass through."""
    def __init__(self, cfg):
        super().__init__()
        C, self.n_head = cfg.n_embd, cfg.n_head
        self.norm1, self.norm2, self.drop = nn.LayerNorm(C), nn.LayerNorm(C), RowDropout(cfg.dropout)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        start(self)
        for m in (self.out, self.mlp[2]):      # 2 * n_layer things add up, each starts smaller by the root of that
            start(m, (2 * cfg.n_layer)**-0.5)

    def forward(self, x, mask=None, cache=None):
        x = x + self.drop(self.attention(self.norm1(x), mask, cache))
        return x + self.drop(self.mlp(self.norm2(x)))

    def attention(self, x, mask, cache):
        """Every token asks (q), all up to it answer (k, v), in n_head conversations at once."""
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.qkv(x).split(C, 2))      # (B, nh, T, hs)
        if cache is not None:
            if self in cache:
                k, v = torch.cat([cache[self], torch.stack([k, v], 1)], 3).unbind(1)
            cache[self] = torch.stack([k, v], 1)      # (B, 2, nh, T, hs)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and T > 1)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

def pack(lengths, width):
    """Items into rows, the longest first, the shortest as filling: pack([5, 3, 2], 8) -> [[0, 2], [1]]."""
    order, rows = sorted(range(len(lengths)), key=lambda i: -lengths[i]), []
    while order:
        rows.append([order.pop(0)])
        while order and sum(lengths[i] for i in rows[-1]) + lengths[order[-1]] <= width:
            rows[-1].append(order.pop())
    return rows

@register('transformer', n_layer=4, n_head=4, n_embd=64, dropout=0.1, weight_decay=0.3, max_steps=12500)
class Transformer(LanguageModel):
    """a GPT-2 in small: attention chooses what to look at (Vaswani 2017, Radford 2019)"""
    def __init__(self, cfg, vocab_size):
        super().__init__()
        if cfg.n_embd % cfg.n_head:
            raise UserError(f'--n-embd {cfg.n_embd} is not a multiple of --n-head {cfg.n_head}')
        self.context, self.packs = cfg.block_size, not cfg.text
        self.what, self.where = table(vocab_size, cfg.n_embd), table(cfg.block_size, cfg.n_embd)
        self.drop, self.blocks = RowDropout(cfg.dropout), nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm, self.head = nn.LayerNorm(cfg.n_embd), start(nn.Linear(cfg.n_embd, vocab_size, bias=False), 0.1)

    def logits(self, idx, cache=None):
        past = next(iter(cache.values())).size(3) if cache else 0
        return self.run(idx, torch.arange(past, past + idx.size(1), device=idx.device), None, cache)

    def run(self, idx, where, mask=None, cache=None):
        x = self.drop(self.what(idx) + self.where(where))
        for block in self.blocks:
            x = block(x, mask, cache)
        return self.head(self.norm(x))      # (B, T, V)

    def forward(self, idx, targets):
        """Short items share a row, each seeing itself alone: the same loss, and half the padding."""
        if not self.packs:
            return super().forward(idx, targets)
        lengths, (B, T) = (targets >= 0).sum(1).tolist(), idx.shape
        rows = [[item * T + t for item in row for t in range(lengths[item])] for row in pack(lengths, self.context)]
        at = nn.utils.rnn.pad_sequence([idx.new_tensor(row) for row in rows], True, B * T)      # (R, W)
        item = at // T
        mask = torch.where((item[:, None, :, None] == item[:, None, None, :]).tril(), 0.0, -math.inf)      # (R,1,W,W)
        logits = self.run(F.pad(idx.flatten(), (0, 1))[at], at % T, mask)
        y = F.pad(targets.flatten(), (0, 1), value=-1)[at]
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1)
# ----------------------------------------------------------------------------------------------------------------------
# Sampling
def probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (B, V) to float64 probabilities on the CPU, so that every device draws the same."""
    logits = logits.double().cpu()
    if temperature == 0:      # the limit: all on the likeliest
        return F.one_hot(logits.argmax(-1), logits.size(-1)).double()
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_k or top_p:
        ranked, order = p.sort(descending=True, stable=True)
        ranked[:, top_k or p.size(-1):] = 0
        ranked[ranked.cumsum(-1) - ranked >= (top_p or 1) * ranked.sum(-1, keepdim=True)] = 0      # never the first
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
        idx, on = torch.cat([idx, tokens[:, None].to(device)], 1), tokens != (-1 if stop is None else stop)
        if not on.all():
            rows, idx = rows[on], idx[on]
            cache = cache and {name: table[on] for name, table in cache.items()}
        if not len(rows):
            return

def sample(model, words, n=20, prompt='', seed=3407, new_only=False, length=None, **how):
    """n texts. Few are written one after another, as in the lectures, so that a seed repeats their names."""
    generator, training, texts, tries = torch.Generator().manual_seed(seed), model.training, [], 0
    begin, size = [0][:words.first] + words.encode(prompt) or [0], 1 if n <= 50 and not new_only else 512
    length, stop = length or (500 if words.text else 2 * words.longest + 10), None if words.text else 0
    model.eval()
    while len(texts) < n and tries < 20:
        ids, tries = [list(begin) for _ in range(size)], tries + 1
        for rows, tokens in generate(model, torch.tensor(ids), generator, length, stop, **how):
            for row, token in zip(rows, tokens):
                ids[row].append(token)
        made = [words.decode(row) for row in ids]
        if new_only:
            made = [text for text, kind in zip(made, words.kinds(made)) if kind == 'new']
            made = [text for text in dict.fromkeys(made) if text not in set(texts)]
        texts, tries = texts + made, 0 if made else tries
    model.train(training)
    return texts[:n]
# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints
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
        content = dict(version=1, settings=carried(self.cfg), words=self.words.state(), step=self.step,
                       best=self.best, seconds=self.seconds, model=self.model.state_dict(),
                       optimizer=self.optimizer.state_dict() if self.optimizer and name == 'last.pt' else None)
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
        raise MachineError(f'cannot save {path}: {str(e).splitlines()[0]}; what was there is untouched') from None

def restore(path, typed={}):
    """A run from a checkpoint, and its optimizer's state. Only tensors and plain types are let in, no code is run."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        if int(content['version']) != 1:
            raise ValueError(f'it has version {content["version"]}, this program reads version 1')
        saved, words = {n: check(n, value) for n, value in content['settings'].items()}, Words(**content['words'])
        with torch.device('meta'):      # a model without memory: it gets as large as the file, not as the file claims
            model = MODELS[saved['type']](Config(**saved), words.vocab_size).eval()
        model.load_state_dict(content['model'], assign=True)
        if not all(t.isfinite().all() for t in model.state_dict().values()):
            raise ValueError('not all of its weights are finite')
        sample(model, words, 1, length=min(2, words.longest + 2))      # does it speak?
        run = Run(settle({}, saved), words, model, path.parent, step=int(content['step']), best=float(content['best']),
                  seconds=float(content['seconds']))
    except Exception as e:      # a broken or hostile file fails in more ways than can be listed; none of it has run
        raise UserError(f'{path} cannot be read, or is damaged: {(str(e) or repr(e)).splitlines()[0]}') from None
    run.cfg = settle(typed, saved)
    for m in filter(lambda m: isinstance(m, nn.Dropout), model.modules()):
        m.p = run.cfg.dropout
    return run, content.get('optimizer')

def find_run(typed, name):
    """The folder of the run that is meant: the one typed, or the newest (of the type, if typed) inside it or out/."""
    folder, kind = Path(typed.get('work_dir') or 'out'), typed.get('type')
    if (folder / name).exists():
        return folder
    runs = [path for path in folder.glob(f'*/{name}') if not kind or re.fullmatch(rf'{kind}(-\d+)?', path.parent.name)]
    if not runs:
        raise UserError(f'{folder} holds no {name} of a run{f" of type {kind}" if kind else ""}: train one first')
    return max(runs, key=lambda path: path.stat().st_mtime_ns).parent

def new_folder(cfg):
    """Where a new run goes: the folder typed, or the next free one under out/. Nothing is touched yet."""
    numbered = (Path('out') / (cfg.type + f'-{i}' * (i > 1)) for i in itertools.count(1))
    folder = Path(cfg.work_dir) if cfg.work_dir else next(path for path in numbered if not path.exists())
    if any((folder / name).exists() for name in ('last.pt', 'best.pt')) and not cfg.overwrite:
        raise UserError(f'{folder} holds a run: --resume goes on with it, --overwrite replaces it')
    return folder

def load(folder='out', device='cpu'):
    """model, words = load('out/transformer'): the best of a run, or of the newest one below, ready to sample."""
    run, _ = restore(find_run(dict(work_dir=folder), 'best.pt') / 'best.pt')
    return run.model.to(device).eval(), run.words
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

@contextlib.contextmanager
def diagnosis(run, board):
    """Around a step: what the non-linearities saw and made of it, the gradients, and how far every matrix moved."""
    seen, kinds = {}, (nn.Tanh, nn.Sigmoid, nn.GELU)
    def note(name):
        return lambda m, inputs, out: seen.setdefault(name, []).append((inputs[0].detach(), out.detach()))
    hooks = [m.register_forward_hook(note(name)) for name, m in run.model.named_modules() if isinstance(m, kinds)]
    before = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.ndim == 2}
    yield
    for hook in hooks:
        hook.remove()
    for name, pairs in seen.items():
        pre, out = (torch.cat([t.flatten(0, -2) for t in ts]).float().cpu() for ts in zip(*pairs))      # (N, neurons)
        stuck = (-pre if isinstance(run.model.get_submodule(name), nn.GELU) else pre.abs()) > 2.1      # |tanh| > 0.97
        say(f'step {run.step:6} | {name:20} | mean {out.mean():+.3f} std {out.std():.3f} | saturated '
            f'{100 * stuck.float().mean():5.2f} % | dead neurons {int(stuck.all(0).sum())}')
        board.add_image(f'saturated/{name}', stuck[None, :200], run.step)      # a dead neuron is a white column
        board.add_histogram(f'activation/{name}', out, run.step)
        board.add_histogram(f'pre-activation/{name}', pre, run.step)
    for name, old in before.items():
        new, grad = run.model.get_parameter(name).detach(), run.model.get_parameter(name).grad
        ratio, moved = (grad.std() / old.std()).item(), ((new - old).std() / old.std()).log10().item()
        say(f'step {run.step:6} | {name:20} | grad:data {ratio:.2e} | update:data 10**{moved:.1f}, about -3 is good')
        board.add_histogram(f'gradient/{name}', grad, run.step)
        board.add_scalar(f'grad to data/{name}', ratio, run.step)
        board.add_scalars(f'log10 update to data/{name}', dict(moved=moved, guide=-3.0), run.step)
# ----------------------------------------------------------------------------------------------------------------------
# Training
class Silent:
    """In the place of TensorBoard's writer: every call does nothing."""
    def __getattr__(self, name):
        return lambda *values, **more: None
def open_board(folder):
    """Where curves and pictures go. Without TensorBoard they are missing, and nothing else is."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return say('TensorBoard is not installed, so there are no curves: pip install tensorboard') or Silent()
    return SummaryWriter(folder) if rank() == 0 else Silent()

@contextlib.contextmanager
def stop_signals():
    """Ctrl-C and SIGTERM end the run behind the step that is being taken; a second one ends it at once."""
    caught = []
    def note(number, frame):
        caught.append(number) if not caught else signal.default_int_handler(number, frame)
    with contextlib.ExitStack() as stack:      # which puts the old handlers back
        for s in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, s, signal.signal(s, note))
        yield caught

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
    with torch.autocast('cuda', torch.bfloat16) if run.device.startswith('cuda') else contextlib.nullcontext():
        loss = net(x, y)
    (loss * share).backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), cfg.grad_clip or math.inf)
    run.optimizer.step()
    run.step += 1
    return loss.item(), norm.item()

def train(run, board=Silent(), caught=()):
    """Steps until max_steps, with a pause once in a while; False when a signal was caught."""
    from tqdm import tqdm
    cfg, first, losses, clock = run.cfg, run.step, [], time.perf_counter()
    net = torch.compile(run.model) if cfg.compile else run.model
    net = nn.parallel.DistributedDataParallel(net) if world() > 1 else net
    with tqdm(total=cfg.max_steps, initial=first, unit='step', disable=None if rank() == 0 else True) as bar:
        while True:
            last_step, [stop] = run.step == cfg.max_steps, sum_over_ranks(len(caught)) if world() > 1 else [caught]
            if last_step or run.step % cfg.eval_interval == 0 and run.step >= first + (first > 0):
                clock, seconds = time.perf_counter(), time.perf_counter() - clock
                pause(run, board, losses, seconds)
                losses = []
            if cfg.sample_interval and first < run.step < cfg.max_steps and run.step % cfg.sample_interval == 0:
                show_samples(run, board)
            if last_step or stop:
                return last_step
            with diagnosis(run, board) if cfg.diagnose and run.step % cfg.diagnose == 0 else contextlib.nullcontext():
                loss, norm = take_step(run, net)
            if not math.isfinite(loss + norm):
                raise MachineError(f'step {run.step}: loss {loss}, gradient {norm}; try a lower --learning-rate than '
                                   f'{cfg.learning_rate}; {run.folder} keeps the last good checkpoint')
            losses.append(loss)
            if run.step % 10 == 0:
                board.add_scalar('gradient norm', norm, run.step)
                board.add_scalar('learning rate', rate(cfg, run.step), run.step)
            bar.set_postfix_str(f'loss {loss:.4f}, rate {rate(cfg, run.step):.1e}', refresh=False)
            bar.update()

def pause(run, board, losses, seconds):
    """Measure and save, the best before the last: a kill in between loses nothing."""
    dev, mean, run.seconds = evaluate(run, run.words.judge), sum(losses) / max(1, len(losses)), run.seconds + seconds
    say(f'step {run.step:6} | ' + f'train {mean:.4f} | ' * bool(losses) + f'{run.words.judge} split {dev:.4f}')
    board.add_scalar('loss/dev', dev, run.step)
    if losses:
        board.add_scalar('loss/train', mean, run.step)
        tokens = len(losses) * run.cfg.batch_size * run.words.splits['train'].lengths.double().mean().item()
        board.add_scalar('tokens per second', tokens / seconds, run.step)
    if dev < run.best or run.best == math.inf:
        run.best = dev
        run.save('best.pt')
    run.save('last.pt')
    sum_over_ranks(0)      # nobody runs ahead of the one who writes

def show_samples(run, board):
    """What the model makes right now, sorted into what it made up and what it copied."""
    how = {name: getattr(run.cfg, name) for name in ('prompt', 'temperature', 'top_k', 'top_p', 'length')}
    words, groups = run.words, {}
    texts = sample(run.model, words, 1 if words.text else run.cfg.num_samples, seed=run.cfg.seed, **how)
    for text, kind in zip(texts, ['text'] if words.text else words.kinds(texts)):
        groups.setdefault(kind, []).append(text)
    for kind, group in sorted(groups.items(), reverse=True):
        say(text if words.text else f'{kind} ({len(group)}): {", ".join(group)}', sys.stdout)
        board.add_text(f'samples/{kind}', ', '.join(group), run.step)

def finish(run, board):
    """The best model, measured once on everything, the test split included; the result as JSON."""
    run.model.load_state_dict(restore(run.folder / 'best.pt')[0].model.to(run.device).state_dict())
    losses, words = {split: evaluate(run, split) for split in ('train', 'dev', 'test')}, run.words
    kinds = ['text'] if words.text else words.kinds(sample(run.model, words, 1000, seed=run.cfg.seed))
    result = dict(type=run.cfg.type, params=sum(p.numel() for p in run.model.parameters()), steps=run.step,
                  seconds=run.seconds, **losses, novelty=kinds.count('new') / len(kinds), settings=carried(run.cfg))
    if rank() == 0:
        save_whole(run.folder / 'result.json', lambda file: file.write(json.dumps(result, indent=1).encode()))
    show_samples(run, board)
    for split, loss in losses.items():
        if loss is not None:
            per = f', {loss * words.density:.4f} per character' if words.tokenizer else ''
            say(f'{split:5} loss {loss:.4f}, perplexity {math.exp(min(99, loss)):.3f}{per}', sys.stdout)
    say('' if words.text else f'{100 * result["novelty"]:.0f} % of 1,000 samples are new', sys.stdout)
    tables = [m.weight.detach() for m in run.model.modules() if isinstance(m, nn.Embedding)]
    if tables and len(tables[0]) == len(words.symbols) + words.first:
        board.add_embedding(tables[0], [repr(symbol) for symbol in '.' * words.first + words.symbols])
    plain = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in carried(run.cfg).items()}
    board.add_hparams(plain, {f'result/{name}': v for name, v in result.items() if isinstance(v, float)}, run_name='.')
    board.close()
# ----------------------------------------------------------------------------------------------------------------------
# main
def read(cfg, folder=None):
    """The words, cut to what the model takes, and a line for the reader about them."""
    words, model = read_text(cfg, folder) if cfg.text else read_lines(cfg), MODELS[cfg.type]
    words.encode(cfg.prompt)      # a prompt that cannot be is refused before the work, not after it
    cfg.block_size = model.window(cfg, words.longest)
    cut_words(words, model.span or cfg.block_size)
    counts = {name: len(rows) for name, rows in words.rows.items()}
    words.judge = 'dev' if len(words.splits['dev'].starts) else 'train'      # the split that chooses the best model
    sizes = ', '.join(f'{n:,} {name}' if n else f'no {name}' for name, n in counts.items())
    say(f'{cfg.input_file}: {len(words.flat):,} tokens of {words.vocab_size} kinds; '
        + (f'{words.longest:,} of them train' if cfg.text else f'{len(words.lines.starts):,} lines: {sizes}')
        + ', shuffled by torch' * (len(words.lines.starts) > 10**6)
        + ''.join(f'; {n} that train contains left out of {name}' for name, n in words.left_out.items() if n))
    if words.longest >= words.span and not cfg.text:
        say(f'lines of more than {words.span - 1} tokens are cut into pieces of {words.span}')
    return words

def start_run(typed, device):
    """A new run, or an old one to go on with."""
    torch.set_num_threads(typed.get('threads') or 1)
    if typed.get('resume'):
        run, optimizer = restore(find_run(typed, 'last.pt') / 'last.pt', typed)
        symbols, run.words = run.words.symbols, read(run.cfg, run.folder)
        if run.words.symbols != symbols:
            raise UserError(f'{run.cfg.input_file} has other characters than the data that {run.folder} was trained on')
        if run.step > run.cfg.max_steps:
            raise UserError(f'{run.folder} is at step {run.step} already, beyond --max-steps {run.cfg.max_steps}')
        run.best = min(run.best, restore(run.folder / 'best.pt')[0].best)      # a kill may have come between the two
    else:
        cfg, optimizer = settle(typed), None
        box = [new_folder(cfg) if rank() == 0 else None]
        if world() > 1:      # all go by the folder that the first one has found
            torch.distributed.broadcast_object_list(box)
        words = read(cfg, box[0])
        torch.manual_seed(cfg.seed)
        run = Run(cfg, words, MODELS[cfg.type](cfg, words.vocab_size), box[0])
        make_room(run.folder)
    run.device, run.model = device, run.model.to(device).train()
    run.optimizer = None if hasattr(run.model, 'fit') else make_optimizer(run.model, run.cfg)
    if optimizer:
        run.optimizer.load_state_dict(optimizer)
    return run

def train_run(typed, device):
    with stop_signals() as caught:
        run = start_run(typed, device)
        cfg = run.cfg
        size = sum(p.numel() for p in run.model.parameters())
        say(f'{cfg.type}: {size:,} parameters, {cfg.max_steps:,} steps on {device}; all of it goes to {run.folder}, '
            f'to be seen with: tensorboard --logdir {run.folder.parent}')
        board = open_board(run.folder)
        if hasattr(run.model, 'fit'):
            run.model.fit(run.words)
            pause(run, board, [], 0)
        elif not train(run, board, caught):
            run.save('last.pt')
            say(f'stopped behind step {run.step}; go on with: python makemore.py --resume -o {run.folder}')
            return 128 + (caught or [signal.SIGTERM])[0]
        finish(run, board)

def sample_run(typed, device):
    """Clean samples on stdout; nothing is written."""
    run, _ = restore(find_run(typed, 'best.pt') / 'best.pt', typed)
    cfg, words, model = run.cfg, run.words, run.model.to(device)
    say(f'{run.folder}: {cfg.type}, step {run.step}, dev loss {run.best:.4f}')
    how = dict(temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p)
    if words.text:      # one sample, written as it comes
        start, rng = torch.tensor([words.encode(cfg.prompt) or [0]]), torch.Generator().manual_seed(cfg.seed)
        ids = (ids[0] for _, ids in generate(model, start, rng, cfg.length or 500, None, **how))
        for piece in words.tokenizer.decode_stream(ids) if words.tokenizer else (words.decode([i]) for i in ids):
            print(piece, end='', flush=True)
        return print()
    texts = sample(model, words, cfg.num_samples, cfg.prompt, cfg.seed, cfg.new_only, cfg.length, **how)
    print(*texts, sep='\n', end='\n' if texts else '')
    if len(texts) < cfg.num_samples:
        say(f'only {len(texts)} new ones turned up; a higher --temperature brings more')

def main(argv=None):
    """Run a command line. Exit code 0: done, 1: the machine failed, 2: the user's input, 130 and 143: interrupted."""
    try:
        warnings.showwarning = lambda message, *where: say(str(message))      # one line for the reader, as all else
        typed = parse(argv)
        with machine_for(Config(**typed)) as device:
            return (sample_run if typed.get('sample_only') else train_run)(typed, device) or 0
    except (UserError, MachineError) as e:
        print(f'makemore: {e}', file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    except BrokenPipeError:      # whoever read our output has seen enough, as head -1 has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130

if __name__ == '__main__':
    sys.exit(main())
