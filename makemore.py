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
import argparse, contextlib, difflib, functools, gc, importlib, io, itertools, json, math, os, random, re
import reprlib, signal, sys, time, warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

gc.disable()      # what is imported stays: to search it for litter, over and over, takes a fifth of the start
import torch, torch.nn as nn, torch.nn.functional as F
gc.freeze()
gc.enable()

__version__ = '1.0.0'
sys.modules.setdefault('makemore', sys.modules[__name__])      # a script too is makemore to those that import it
beside = importlib.import_module      # of inside.py, beyond.py and faster.py: what can be done without

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
    backprop: str = fit('autograd', 'autograd; manual; micrograd', choices=('autograd', 'manual', 'micrograd'))
    seed: int = fit(3407, 'seed of everything that is drawn', least=0, most=2**62)
    eval_interval: int = look(500, 'steps between evaluations and saves', least=1)
    sample_interval: int | None = look(1000, 'steps between samples; none: only at the end', least=1)
    diagnose: int | None = look(None, 'every so many steps look at activations, gradients and updates', least=1)
    check_backprop: bool = look(False, 'hold the gradients of --backprop against autograd and end')
    find_lr: bool = look(False, 'try ever larger learning rates, propose one and end')
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
        raise UserError(f'{flag(name)} {reprlib.repr(value)}: that is no ' + {int: 'whole '}.get(kind, '') + 'number')
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
    for name in [n for n in ('num_workers', 'max_steps', 'top_k') if n in typed and (n[0] == 'n' or typed[n] == '-1')]:
        say(f'{flag(name)} {typed.pop(name)} has no meaning here and is left out')      # makemore gave it one
    modes = [name for name in ('sample_only', 'resume', 'overwrite', 'check_backprop', 'find_lr') if name in typed]
    if len(modes) > 1:
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
    plain = dict(dropout=0.0) if typed.get('backprop') == 'micrograd' else {}      # scalars know no dropout
    return Config(**{**MODELS[kind].prefers, **plain, **saved, **typed, 'type': kind})
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

def shown(text, file):
    """A text as it may be written: a terminal would take control characters as commands, so it gets their codes."""
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', lambda m: repr(m[0])[1:-1], text) if file.isatty() else text

def say(line, file=None):
    """A line for the reader, on stderr if not said otherwise, above the progress bar where there is one."""
    if rank() == 0:
        write, file = sys.modules['tqdm'].tqdm.write if 'tqdm' in sys.modules else print, file or sys.stderr
        write(shown(line, file), file=file)

def make_room(folder, old=('last.pt', 'best.pt', 'result.json')):
    """The folder made, rid of what an earlier run left in it, and locked until the process ends, however it ends."""
    held = None
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ModuleNotFoundError):
            held = beside('beyond').lock(folder)
        for name in old:
            (folder / name).unlink(missing_ok=True)
    return held

@contextlib.contextmanager
def machine_for(typed):
    """The device: the fastest at hand, or the one that was asked for. Under torchrun also the group of processes."""
    grouped, gpu = 'TORCHELASTIC_RUN_ID' in os.environ, torch.accelerator.current_accelerator(check_available=True)
    name = typed.get('device', 'auto')
    try:
        device = torch.device(name if name != 'auto' else gpu or 'cpu')
        if grouped and device.type == 'cuda':
            device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
            torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise UserError(f'--device {name}: {str(e).splitlines()[0]}') from None
    with contextlib.ExitStack() as stack:
        if grouped:
            beside('beyond').join(typed)
            stack.callback(torch.distributed.destroy_process_group)
        yield str(device)
# ----------------------------------------------------------------------------------------------------------------------
# Words: reading, splitting, encoding, batching
CAP = 64              # the longest piece that a line is trained in where nobody says otherwise
CHUNK = 2**17         # characters handled at a time: what stays in the cache goes three times as fast
Items = namedtuple('Items', 'starts lengths')      # where each item begins in the flat tensor, how many targets it has

def read_pieces(path, encoding, size=CHUNK, lines=False):
    """The file as strings of size characters (-1: all), of lines up to the next line end; no mark, line ends as \\n."""
    try:
        raw = io.BytesIO(sys.stdin.buffer.read()) if path == '-' else open(path, 'rb')
        file = io.TextIOWrapper(raw, 'utf-8-sig' if encoding.lower() in ('utf-8', 'utf8') else encoding)
        while piece := file.read(size) + (file.readline() if lines else ''):
            yield piece
    except (OSError, LookupError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", e)}; see -i and --encoding') from None
    except UnicodeError as e:
        bad = raw.tell() - len(e.object) + e.start if hasattr(e, 'start') else 0
        raw.seek(0)
        line = raw.read(bad).decode(encoding, 'ignore').count('\n') + 1
        raise UserError(f'{path}, line {line} is not {encoding}: name its encoding, as in --encoding latin-1') from None

def tidy(piece):
    """Every line stripped and behind a line end, blank lines gone: ' emma \\n\\nava\\n' -> '\\nemma\\nava'."""
    part = '\n' + piece.removesuffix('\n')
    codes = code_points(part + '\n')      # two neighbours of white space, and there is something to do
    if not part.isascii() or torch.maximum(codes[1:], codes[:-1]).min() <= 32:
        part = ''.join('\n' + line for line in map(str.strip, piece.split('\n')) if line)
    return part

def code_points(text):
    """'az' -> tensor([97, 122]); no loop, as ASCII and UTF-32 are arrays of integers already."""
    c, kind = ('ascii', torch.uint8) if text.isascii() else ('utf-32-le', torch.int32)
    return torch.frombuffer(bytearray(text.encode(c, 'surrogatepass')), dtype=kind) if text else torch.zeros(0).to(kind)

def lines_of(flat):
    """The items between the boundaries of a flat tensor: 0 e m m a 0 a v a 0 -> starts 0 and 5, lengths 5 and 4."""
    kind = torch.int32 if len(flat) < 2**31 else torch.int64
    ends = torch.cat([(part == 0).nonzero().flatten().to(kind) + i * CHUNK for i, part in enumerate(flat.split(CHUNK))])
    return Items(ends[:-1], ends.diff())

def fingerprints(flat, starts, lengths):
    """A 64-bit number per line, to compare millions without sorting text: its tokens times powers of a large odd
    number, counted from the line's end, summed up; int64 wraps around, as a hash may."""
    ends, prints, first, n = starts + lengths, [], 0, CHUNK + int(lengths.max()) + 1
    up, down = (torch.full((n,), base).cumprod(0) for base in (0x1e3779b97f4a7c15, pow(0x1e3779b97f4a7c15, -1, 2**64)))
    cuts = torch.searchsorted(starts, torch.arange(0, len(flat), CHUNK, dtype=starts.dtype)).unique()
    for part in filter(len, ends.tensor_split(cuts)):
        at, total = part - first, flat[first:part[-1]].long()
        total = total.mul_(up[:len(total)]).cumsum(0)[at - 1]
        prints.append(total.diff(prepend=total.new_zeros(1)) * down[at])
        first = part[-1]
    return torch.cat(prints)

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
        self.text, self.symbols, self.longest = text, symbols, longest
        self.__dict__.update({} if known is None else dict(known=known))      # else worked out when it is asked for
        self.first = 0 if text else 1      # the id of the first symbol
        self.index = {symbol: i for i, symbol in enumerate(symbols, self.first)}
        self.tokenizer = beside('tokenizer').Tokenizer.from_dict(tokenizer) if tokenizer else None
        self.vocab_size = V = self.first + (self.tokenizer.vocab_size if tokenizer else len(symbols))
        self.kind = torch.uint8 if V <= 2**8 else torch.int16 if V <= 2**15 else torch.int32      # of a token in memory

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
            lines = [[0][:self.first] + self.encode(line) for line in (text[1:].split('\n') if self.first else [text])]
            return torch.tensor(list(itertools.chain(*lines)), dtype=self.kind)
        if not hasattr(self, 'table'):
            self.table = torch.zeros(0x110000, dtype=self.kind)      # what is no symbol, as a newline in a line, is 0
            self.table[code_points(self.symbols).long()] = torch.arange(self.first, self.vocab_size, dtype=self.kind)
        return self.table.index_select(0, code_points(text).int())

    def decode(self, ids):
        """The text of some tokens, boundaries left out."""
        ids = [i - self.first for i in ids if i >= self.first]
        return self.tokenizer.decode(ids) if self.tokenizer else ''.join(self.symbols[i] for i in ids)

    @functools.cached_property
    def known(self):
        """The fingerprints of all lines, made when they are asked for: a model's first save."""
        prints, rows = fingerprints(self.flat, *self.lines), self.rows
        return {'in train': prints[rows['train']], 'in dev or test': prints[torch.cat([rows['dev'], rows['test']])]}

    def kinds(self, texts):
        """For each text 'in train', 'in dev or test', 'new' or 'empty'."""
        ids = [self.encode(text) if self.tokenizer or set(text) <= self.index.keys() else [-1] for text in (*texts, '')]
        flat = torch.tensor([0] + [i for row in ids for i in row + [0]])
        prints = fingerprints(flat, *lines_of(flat))
        seen = {name: torch.isin(prints, table).tolist() for name, table in self.known.items()}
        return [next((k for k in seen if seen[k][i]), 'new' if text else 'empty') for i, text in enumerate(texts)]

def symbols_of(pieces):
    """All characters of a text, sorted, and how many it has: ['abba'] -> ('ab', 4)."""
    seen, count = torch.zeros(0x110000, dtype=torch.bool), 0
    for piece in pieces:
        found = code_points(piece).bincount() > 0
        seen[:len(found)] |= found
        count += len(piece)
    return ''.join(map(chr, seen.nonzero().flatten().tolist())), count

def read_lines(cfg):
    """One thing per line. With characters there is no Python loop over characters or lines."""
    pieces = [tidy(piece) for piece in read_pieces(cfg.input_file, cfg.encoding, lines=True)]
    if not any(pieces):
        raise UserError(f'{cfg.input_file} holds nothing to learn from: it is empty or blank')
    if cfg.tokenizer == 'char':
        words = Words(symbols=symbols_of(pieces)[0].replace('\n', ''))
    else:
        lines, beyond = ''.join(pieces).split('\n')[1:], beside('beyond')
        train = split_rows(len(lines), cfg.split)['train']
        words = Words(tokenizer=beyond.make_tokenizer(cfg, [lines[i] for i in train]))
    n, pieces[-1] = sum(map(len, pieces)), pieces[-1] + '\n'
    for i, piece in enumerate(pieces):      # in place: there is never a second copy of the data
        pieces[i] = words.tokens(piece)
    words.flat = torch.cat(pieces)
    del pieces
    words.lines = lines_of(words.flat)
    words.longest, words.density = int(words.lines.lengths.max()) - 1, (len(words.flat) - 1) / n
    words.rows, words.left_out = split_rows(len(words.lines.starts), cfg.split), {}
    if cfg.split == 'honest':
        leave_out(words)
    return words

def leave_out(words):
    """Dev and test without the lines that train contains; most of train falls through a sieve before it is compared."""
    prints, (train, dev, test) = fingerprints(words.flat, *words.lines), words.rows.values()
    rest, learnt, bits = prints[torch.cat([dev, test])], prints.index_select(0, train), 2**24 - 1
    sieve = torch.zeros(bits + 1, dtype=torch.bool).index_fill_(0, rest & bits, True)
    known = torch.isin(rest, learnt[sieve[learnt & bits]]).split([len(dev), len(test)])
    for name, row, known in zip(('dev', 'test'), (dev, test), known):
        words.rows[name], words.left_out[name] = row[~known], int(known.sum())

def split_rows(n, split):
    """Which lines are train, dev and test, as the lectures have it."""
    order, n1, n2 = list(range(n if n <= 10**6 else 0)), max(1, int(0.8 * n)), max(1, int(0.9 * n))
    random.Random(42).shuffle(order)      # takes seconds for millions of lines: beyond one, torch does it
    order = torch.tensor(order) if order else torch.randperm(
        n, dtype=torch.int32, generator=torch.Generator().manual_seed(42))
    return (dict(train=order, dev=order, test=order[:0]) if split == 'all' else
            dict(train=order[:n1], dev=order[n1:n2], test=order[n2:]))

def cut_words(words, span):
    """The items of each split: its lines, those longer than span cut into pieces."""
    words.span, words.splits = span, {}
    for name, rows in words.rows.items():
        starts, lengths = (t.index_select(0, rows) for t in words.lines)
        if words.longest >= span:
            pieces = (lengths + span - 1) // span
            offset = (torch.arange(int(pieces.sum())) - (pieces.cumsum(0) - pieces).repeat_interleave(pieces)) * span
            starts = starts.repeat_interleave(pieces) + offset
            lengths = (lengths.repeat_interleave(pieces) - offset).clamp(max=span)
        words.splits[name] = Items(starts, lengths)

def gather(words, starts, lengths, device='cpu'):
    """Inputs and targets (B, T) of some items, T the longest of them; what is no target is -1."""
    t, lengths = torch.arange(int(lengths.max()) + 1), lengths[:, None]
    tokens = words.flat[starts[:, None] + torch.minimum(t, lengths)].long()      # behind its end its last target again:
    return tokens[:, :-1].to(device), tokens[:, 1:].masked_fill(t[:-1] >= lengths, -1).to(device)      # no one sees it

def batch(words, cfg, step, device='cpu'):
    """Of (seed, step) alone: inputs, targets, and this process's share of all targets times the number of processes."""
    items, B, n = words.splits['train'], cfg.batch_size, len(words.splits['train'].starts)
    if words.text:
        lengths = items.lengths[:1].expand(B)
        starts = torch.randint(words.longest - int(lengths[0]), (B,), generator=seeded(cfg.seed, step))
    else:
        epoch, place = divmod(step, max(1, n // B))
        if getattr(words, 'epoch', None) != (cfg.seed, epoch):
            words.epoch = cfg.seed, epoch
            order = torch.randperm(n, dtype=torch.int32, generator=seeded(*words.epoch))
            words.order = order.expand(-(-B // n), n).flatten()      # a short list more than once, a long one uncopied
        starts, lengths = (t.index_select(0, words.order[place * B:(place + 1) * B]) for t in items)
    mine = slice(rank(), None, world())
    share = float(lengths[mine].sum() / lengths.sum()) * world() if world() > 1 else 1.0
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
    made = nn.Embedding(n, channels)
    made.weight.data.mul_(0.12)
    return made

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
        whole = torch.tensor([0]), torch.tensor([words.longest - 1])      # what a text is judged by may be only a part
        starts, lengths = whole if words.text else words.splits['train']
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
        if self.fake is None and len(dev := words.splits['dev'].starts):      # all discounts at once, on a part of dev
            every = 1 + len(dev) * int(words.splits['dev'].lengths.max()) // 2**17
            x, y = gather(words, *(t[::every] for t in words.splits['dev']))
            self.discount = discounts = torch.arange(0.5, 1, 0.02, dtype=torch.float64)[:, None, None, None]
            p = self.probability(x, y.clamp(min=0)[..., None])[..., 0]      # (discounts, B, T)
            self.discount = discounts.flatten()[p[:, y >= 0].log().mean(1).argmax()]

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
        where = torch.arange(idx.size(1), device=idx.device)
        x = self.what(idx) + self.where(where)
        for mlp in self.mlps:
            x = x + x.cumsum(1) / (where + 1)[:, None]
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

    def logits(self, idx, cache=None, where=None, mask=None):
        if where is None:
            past = next(iter(cache.values())).size(3) if cache else 0
            where = torch.arange(past, past + idx.size(1), device=idx.device)
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
        W = -(-max(map(len, rows)) // 16) * 16      # a softmax over 16 numbers takes a third of the time of one over 15
        at = idx.new_tensor([row + [B * T] * (W - len(row)) for row in rows])      # (R, W)
        item = at // T
        mask = torch.where((item[:, None, :, None] == item[:, None, None, :]).tril(), 0.0, -math.inf)      # (R,1,W,W)
        logits = self.logits(F.pad(idx.flatten(), (0, 1))[at], None, at % T, mask)
        return F.cross_entropy(logits.flatten(0, 1), F.pad(targets.flatten(), (0, 1), value=-100)[at].flatten())
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
    optimizer: 'AdamW | None' = None
    backprop: Callable | None = None      # leaves the gradients in p.grad
    step: int = 0
    best: float = math.inf      # lowest dev loss so far
    seconds: float = 0.0

    def save(self, name):
        """best.pt to sample from, last.pt to resume from."""
        content = dict(version=1, settings=carried(self.cfg), words=self.words.state(), step=self.step,
                       best=self.best, seconds=self.seconds, model=self.model.state_dict(),
                       optimizer=self.optimizer.state if self.optimizer and name == 'last.pt' else None)
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

class Blank(torch.overrides.TorchFunctionMode):
    """Leaves new weights as they are: they will be replaced, and to draw on 'meta' torch imports a compiler first."""
    def __torch_function__(self, f, types, args=(), kwargs=None):
        return kwargs['tensor'] if getattr(f, '__module__', '') == 'torch.nn.init' else f(*args, **kwargs or {})

def restore(path, typed={}):
    """A run from a checkpoint, and its optimizer's state. Only tensors and plain types are let in, no code is run."""
    try:
        with contextlib.suppress(ModuleNotFoundError):
            beside('beyond').look_into(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
        if int(content['version']) != 1:
            raise ValueError(f'it has version {content["version"]}, this program reads version 1')
        saved, words = {n: check(n, value) for n, value in content['settings'].items()}, Words(**content['words'])
        with torch.device('meta'), Blank():      # a model without memory: as large as the file, not as it claims
            model = MODELS[saved['type']](Config(**saved), words.vocab_size).eval()
        model.load_state_dict(content['model'], assign=True)
        if not all(t.isfinite().all() for t in model.state_dict().values() if t.is_contiguous()):
            raise ValueError('not all of its weights are finite')
        with contextlib.suppress(ModuleNotFoundError):
            beside('beyond').look_over(content, words, model)
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
# Measuring and training
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

def curves(board, step, numbers):
    for name, number in numbers.items() if board else ():
        board.add_scalar(name, number, step)

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

class AdamW:
    """torch's own kernel, called directly: torch.optim costs a small model a third of its step, and two seconds before
    the first, as it imports a compiler. Only matrices decay: biases and norms have no reason to go to zero."""
    def __init__(self, model, cfg):
        self.cfg, self.params = cfg, list(model.parameters())
        self.means, self.squares = ([torch.zeros_like(p) for p in self.params] for _ in 'mv')
        self.count = torch.zeros((), device=self.params[0].device)
        self.state = [self.count, *self.means, *self.squares]

    @torch.no_grad()
    def step(self, rate):
        """Update with the gradients, cut to grad_clip together; the norm that they had."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        norm = torch.stack(torch._foreach_norm(grads)).norm().item()
        if norm > (self.cfg.grad_clip or math.inf):
            torch._foreach_mul_(grads, self.cfg.grad_clip / norm)
        for p in (p for p in self.params if p.ndim >= 2):
            p.mul_(1 - rate * self.cfg.weight_decay)
        self.count += 1
        torch._fused_adamw_(self.params, grads, self.means, self.squares, [], [self.count] * len(grads), lr=rate,
                            beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False)
        return norm

def by_autograd(net, x, y, share=1.0):
    with contextlib.suppress(ModuleNotFoundError):      # some nets have a quicker way to the same numbers on a CPU
        net = functools.partial(beside('faster').loss, net)
    with torch.autocast('cuda', torch.bfloat16) if x.is_cuda else contextlib.nullcontext():
        loss = net(x, y)
    (loss * share if share != 1 else loss).backward()
    return loss

def take_step(run, net, lr=None):
    """Schedule, batch, forward, backward, step. The loss, and the norm of its gradient."""
    cfg, (x, y, share) = run.cfg, batch(run.words, run.cfg, run.step, run.device)
    if cfg.dropout:      # what is dropped hangs on (seed, step) too: no generator has to be saved
        torch.manual_seed(seeded(cfg.seed, run.step, rank()).initial_seed())
    for p in run.optimizer.params:
        p.grad = None
    loss = run.backprop(net, x, y, share)
    norm = run.optimizer.step(rate(cfg, run.step) if lr is None else lr)
    run.step += 1
    return loss.item(), norm

def train(run, board=None, caught=()):
    """Steps until max_steps, with a pause once in a while; False when a signal was caught."""
    from tqdm.auto import tqdm
    cfg, first, before, losses, clock = run.cfg, run.step, run.seconds, [], time.perf_counter()
    net = torch.compile(run.model) if cfg.compile else run.model
    net = nn.parallel.DistributedDataParallel(net) if world() > 1 else net
    quiet = rank() > 0 or not (sys.stderr.isatty() or 'ipykernel' in sys.modules)      # a notebook is no terminal
    with tqdm(total=cfg.max_steps, initial=first, unit='step', disable=quiet, dynamic_ncols=True) as bar:
        while True:
            last_step, [stop] = run.step == cfg.max_steps, sum_over_ranks(len(caught)) if world() > 1 else [caught]
            if last_step or run.step % cfg.eval_interval == 0 and run.step >= first + (first > 0):
                pause(run, board, losses, time.perf_counter() - clock)
                losses, clock = [], time.perf_counter()      # what a pause takes is not counted as training
            if cfg.sample_interval and first < run.step < cfg.max_steps and run.step % cfg.sample_interval == 0:
                show_samples(run, board)
            if last_step or stop:
                return last_step
            watched = cfg.diagnose and run.step % cfg.diagnose == 0
            with beside('inside').diagnosis(run, board) if watched else contextlib.nullcontext():
                loss, norm = take_step(run, net)
            if not math.isfinite(loss + norm):
                raise MachineError(f'step {run.step}: loss {loss}, gradient {norm}; try a lower --learning-rate than '
                                   f'{cfg.learning_rate}; {run.folder} keeps the last good checkpoint')
            losses.append(loss)
            if run.step - first == 20:
                took = run.seconds - before + time.perf_counter() - clock
                say(f'the rest will take about {bar.format_interval(took / 20 * (cfg.max_steps - run.step))}')
            if run.step % 10 == 0:
                curves(board, run.step, {'gradient norm': norm, 'learning rate': rate(cfg, run.step)})
            bar.set_postfix_str(f'loss {loss:.4f}, rate {rate(cfg, run.step):.1e}', refresh=False)
            bar.update()

def pause(run, board, losses, seconds):
    """Measure and save, the best before the last: a kill in between loses nothing."""
    dev, mean, run.seconds = evaluate(run, 'dev'), sum(losses) / max(1, len(losses)), run.seconds + seconds
    name, dev = ('dev loss', dev) if dev is not None else ('all of train', evaluate(run, 'train'))
    say(f'step {run.step:6} | ' + f'train loss {mean:.4f} | ' * bool(losses) + f'{name} {dev:.4f}')
    if not math.isfinite(dev):
        raise MachineError(f'the weights are ruined: try a lower --learning-rate than {run.cfg.learning_rate}')
    if run.step == 0 and run.optimizer:
        even = math.log(run.words.vocab_size)
        off = '; this is more than 10 % off: look at the initialization' * (abs(dev / even - 1) > 0.1)
        say(f'who knows nothing has a loss of ln {run.words.vocab_size} = {even:.4f}{off}')
    if losses:
        tokens = len(losses) * run.cfg.batch_size * run.words.splits['train'].lengths.double().mean().item()
        curves(board, run.step, {'loss/train': mean, 'tokens per second': tokens / seconds})
    curves(board, run.step, {'loss/dev': dev})
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
        say(text if words.text else f'{kind} ({len(group)}): {", ".join(group)}'.strip(': '), sys.stdout)
        if board:
            board.add_text(f'samples/{kind}', ', '.join(group).encode(errors='replace').decode(), run.step)

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
    say(f'more of them: python makemore.py --sample-only -o {run.folder}')
    if board:
        beside('inside').exhibit(run, result, board)
# ----------------------------------------------------------------------------------------------------------------------
# main
def read(cfg, folder=None):
    """The words, cut to what the model takes, and a line for the reader about them."""
    words, model = beside('beyond').read_text(cfg, folder) if cfg.text else read_lines(cfg), MODELS[cfg.type]
    words.encode(cfg.prompt)      # a prompt that cannot be is refused before the work, not after it
    cfg.block_size = model.window(cfg, words.longest)
    cut_words(words, model.span or cfg.block_size)
    sizes = ', '.join(f'{len(rows):,} {name}' if len(rows) else f'no {name}' for name, rows in words.rows.items())
    lines, n, known = len(words.lines.starts), len(words.flat), sum(words.left_out.values())
    say({'-': 'standard input'}.get(cfg.input_file, cfg.input_file) + ': ' + f'{lines:,} lines, ' * (not cfg.text)
        + f'{n:,} tokens of {words.vocab_size} kinds\n' + ('' if cfg.text else sizes)
        + f'{words.longest:,} of them train, the rest dev' * cfg.text + ', shuffled by torch' * (lines > 10**6)
        + f'; {known:,} that train has too are left out' * (known > 0))
    if words.longest >= words.span and not cfg.text:
        say(f'lines of more than {words.span - 1} tokens are cut into pieces of {words.span}')
    return words

def start_run(typed, device):
    """A new run, or an old one to go on with."""
    if typed.get('resume'):
        folder = find_run(typed, 'last.pt')
        lock = make_room(folder, old=())
        run, optimizer = restore(folder / 'last.pt', typed)
        symbols, run.words = run.words.symbols, read(run.cfg, run.folder)
        if run.words.symbols != symbols:
            raise UserError(f'{run.cfg.input_file} has other characters than the data that {run.folder} was trained on')
        if run.step > run.cfg.max_steps:
            raise UserError(f'{run.folder} is at step {run.step} already, beyond --max-steps {run.cfg.max_steps}')
        run.best = min(run.best, restore(run.folder / 'best.pt')[0].best)      # a kill may have come between the two
    else:
        cfg, optimizer, lock = settle(typed), None, None
        box = [new_folder(cfg) if rank() == 0 else None]
        if world() > 1:      # all go by the folder that the first one has found
            torch.distributed.broadcast_object_list(box)
        words = read(cfg, box[0])
        torch.manual_seed(cfg.seed)
        run = Run(cfg, words, MODELS[cfg.type](cfg, words.vocab_size), box[0])
    if not run.words.text:      # more than 100 rounds through a short list learn it by heart, and the best comes early
        rounds = max(200, 100 * len(run.words.rows['train']) // run.cfg.batch_size)
        if not typed.get('resume'):
            run.cfg.max_steps = typed.get('max_steps', min(run.cfg.max_steps, rounds))
        run.cfg.eval_interval = typed.get('eval_interval', min(run.cfg.eval_interval, rounds // 20))
    run.device, run.model, run.lock, run.backprop = device, run.model.to(device).train(), lock, by_autograd
    if run.cfg.backprop != 'autograd':
        run.backprop = beside('inside').backprop(run)
    run.optimizer = None if hasattr(run.model, 'fit') else AdamW(run.model, run.cfg)
    for new, old in zip(run.optimizer.state, optimizer, strict=True) if optimizer else ():
        new.copy_(old)
    return run

def train_run(typed, device):
    with stop_signals() as caught:
        run = start_run(typed, device)
        cfg = run.cfg
        if cfg.check_backprop or cfg.find_lr:
            return beside('inside').answer(run)
        run.lock = run.lock or make_room(run.folder)
        size, board = sum(p.numel() for p in run.model.parameters()), None
        say(f'{cfg.type}: ' + (f'{size:,} parameters, {cfg.max_steps:,} steps on {device}' if size else 'it counts')
            + f'\nsaved in {run.folder}; to look at it: tensorboard --logdir {run.folder.parent}')
        with contextlib.suppress(ModuleNotFoundError):      # whoever copied makemore.py alone gets no curves
            board = beside('inside').open_board(run.folder)
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
    if words.text:
        return beside('beyond').stream(model, words, cfg, how)
    texts = sample(model, words, cfg.num_samples, cfg.prompt, cfg.seed, cfg.new_only, cfg.length, **how)
    print(shown(''.join(text + '\n' for text in texts), sys.stdout), end='')
    if len(texts) < cfg.num_samples:
        say(f'only {len(texts)} new ones turned up; a higher --temperature brings more')

def main(argv=None):
    """Run a command line. Exit code 0: done, 1: the machine failed, 2: the user's input, 130 and 143: interrupted."""
    try:
        sys.stdout, sys.stderr = (file or open(os.devnull, 'w') for file in (sys.stdout, sys.stderr))
        for file in (file for file in (sys.stdout, sys.stderr) if hasattr(file, 'reconfigure')):
            file.reconfigure(encoding=None if file.isatty() else 'utf-8', errors='backslashreplace')
        with machine_for(typed := parse(argv)) as device:
            torch.set_num_threads(typed.get('threads') or 1)
            code = (sample_run if typed.get('sample_only') else train_run)(typed, device) or 0
        sys.stdout.flush()      # here a full disk or a closed pipe can still be told
        return code
    except (UserError, MachineError, ModuleNotFoundError, OSError, MemoryError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and 'memory' not in str(e):
            raise
        if isinstance(e, OSError):      # it may be stdout that failed, and it would once more at the very end
            with contextlib.suppress(io.UnsupportedOperation):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(e, BrokenPipeError):      # whoever read our output has seen enough, as head -1 has
            return 0
        print(shown('makemore: ' + (str(e) or 'not enough memory').splitlines()[0], sys.stderr), file=sys.stderr)
        return 2 if isinstance(e, (UserError, ModuleNotFoundError, FileExistsError, NotADirectoryError)) else 1
    except KeyboardInterrupt:
        return 130

if __name__ == '__main__':
    warnings.showwarning = lambda message, *where: say(str(message))      # one line for the reader, as all else
    sys.exit(main())
