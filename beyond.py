"""
Beyond memory, one process and one's own files: long texts whose tokens lie on the disk, byte pairs, the restarts of
torchrun, a lock, and a look into checkpoints from elsewhere.

    python makemore.py -i shakespeare.txt --text                       read in pieces, mapped while training
    python makemore.py -i shakespeare.txt --text --tokenizer bpe       byte pairs instead of characters
    torchrun --standalone --nproc_per_node=2 --max-restarts=3 makemore.py -i names.txt -o out/two

makemore.py asks for this file where it needs one of these. Whoever copies makemore.py alone can do without.
"""
import contextlib
import functools
import itertools
import json
import os
import pickletools
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from makemore import (CHUNK, Items, UserError, Words, generate, rank, read_pieces, save_whole, say, shown,
                      sum_over_ranks, symbols_of)

JUDGED = 2**21        # tokens: a longer split is judged by a part of it
BLOCK = 2**16         # of which blocks of so many, spread evenly

# ----------------------------------------------------------------------------------------------------------------------
# Byte pairs

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

# ----------------------------------------------------------------------------------------------------------------------
# One long text: its tokens are a flat file of the smallest integers that fit, and a note beside it says what they are

def progress(pieces, what, total=None):
    """The pieces of a text, with a bar where they take more than a second."""
    from tqdm.auto import tqdm
    return tqdm(pieces, what, total, leave=False, unit=' pieces', delay=1,
                disable=rank() > 0 or not (sys.stderr.isatty() or 'ipykernel' in sys.modules))

def source_of(cfg):
    """All that the tokens hang on. Standard input cannot be asked whether it is what it was."""
    if cfg.input_file == '-':
        return None
    with contextlib.suppress(OSError):      # who wants to read the file says what is wrong with it
        stats = [os.stat(name) for name in (cfg.input_file, cfg.tokenizer) if name not in ('char', 'bpe')]
        return [cfg.encoding, cfg.tokenizer, cfg.vocab_size] + [n for s in stats for n in (s.st_size, s.st_mtime_ns)]

def write_text(cfg, folder, source):
    """The tokens of a text into a file, piece by piece, and beside it what it takes to use them."""
    pieces = functools.partial(read_pieces, cfg.input_file, cfg.encoding)
    if cfg.input_file == '-':      # a pipe can be read only once
        whole = ''.join(pieces())
        pieces = lambda size=CHUNK: (whole[i:i + size] for i in range(0, len(whole), size))
    symbols, n = symbols_of(progress(pieces(), 'counting'))
    if len(symbols) < 2 or n < 20:
        raise UserError(f'{cfg.input_file} holds too little to learn from: 20 characters, not all the same, at least')
    tokenizer, size, sizes = None, min(CHUNK, -(-n // 10)), []      # a tenth at most: nine of ten pieces are train
    if cfg.tokenizer != 'char':
        tokenizer = make_tokenizer(cfg, itertools.islice(pieces(size), int(0.9 * n) // size))
    words = Words(text=True, symbols='' if tokenizer else symbols, tokenizer=tokenizer, known={})
    def write(file):
        for ids in map(words.tokens, progress(pieces(size), 'encoding', -(-n // size))):
            raw = bytearray(ids.nbytes)
            torch.frombuffer(raw, dtype=ids.dtype).copy_(ids)
            sizes.append(file.write(raw) // ids.itemsize)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'tokens.json').unlink(missing_ok=True)      # first of all: a note never stands beside tokens not its own
    save_whole(folder / 'tokens.bin', write)
    words.longest = sum(sizes[:int(0.9 * n) // size]) if tokenizer else int(0.9 * n)
    note = dict(source=source, bytes=sum(sizes) * words.kind.itemsize, density=sum(sizes) / n, words=words.state())
    save_whole(folder / 'tokens.json', lambda file: file.write(json.dumps(note).encode()))

def read_text(cfg, folder):
    """One long text, the first 90 % of it train. Its tokens lie in a file in the folder, which is mapped, not read, and
    used again as long as nothing has changed that they hang on."""
    if not folder:      # as in a notebook: what is mapped lives on without its name
        with tempfile.TemporaryDirectory() as folder:
            return read_text(cfg, Path(folder))
    path, beside, source, again = folder / 'tokens.bin', folder / 'tokens.json', source_of(cfg), False
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):      # no note, or half of one
        note = json.loads(beside.read_text())
        again = source and [note['source'], note['bytes']] == [source, path.stat().st_size]
    if again:
        say(f'{path} is used again, as {cfg.input_file} has not changed')
    elif rank() == 0:
        write_text(cfg, folder, source)
    sum_over_ranks(0)      # one writes, the others wait for it
    note = json.loads(beside.read_text())
    words = Words(**note['words'])
    words.flat = torch.from_file(str(path), False, note['bytes'] // words.kind.itemsize, dtype=words.kind)
    words.density, words.left_out = note['density'], {}
    train, dev = (judged(*ends) for ends in ((0, words.longest), (words.longest, len(words.flat))))
    words.lines = Items(*map(torch.cat, zip(train, dev)))
    n = len(train.starts)
    words.rows = dict(train=torch.arange(n), dev=torch.arange(n, len(words.lines.starts)), test=torch.arange(0))
    return words

def judged(start, end):
    """What a split from start to end is judged by: all of it, or of a huge one blocks spread evenly over it."""
    length = end - start - 1      # the last token is only a target
    if length <= JUDGED:
        return Items(torch.tensor([start]), torch.tensor([length]))
    say(f'of {length:,} tokens {JUDGED:,} are judged, in blocks of {BLOCK:,} spread evenly over them')
    n = JUDGED // BLOCK
    return Items(start + torch.arange(n) * ((length - BLOCK) // (n - 1)), torch.full((n,), BLOCK))

def stream(model, words, cfg, how):
    """One sample of a text, written as it comes."""
    start, generator = torch.tensor([words.encode(cfg.prompt) or [0]]), torch.Generator().manual_seed(cfg.seed)
    ids = (ids[0] for _, ids in generate(model, start, generator, cfg.length or 500, None, **how))
    text = words.tokenizer.decode_stream(ids) if words.tokenizer else (words.decode([i]) for i in ids)
    for piece in itertools.chain([cfg.prompt], text):
        print(shown(piece, sys.stdout), end='', flush=True)
    print()

# ----------------------------------------------------------------------------------------------------------------------
# Other processes: restarts, and a second run in the same folder

def join(typed):
    """Into the group of processes: gloo between CPUs, NCCL between GPUs. torchrun keeps one store for all its restarts,
    in which the addresses of the dead still stand: so each try gets its own part of it."""
    nodes, tries = (int(os.environ[name]) for name in ('GROUP_WORLD_SIZE', 'TORCHELASTIC_MAX_RESTARTS'))
    if tries and 'work_dir' not in typed:
        raise UserError('with --max-restarts name the folder, as in -o out/mine: a restart has to find it again')
    if tries and nodes > 1 and os.environ['TORCHELASTIC_USE_AGENT_STORE'] == 'True':
        raise UserError('restarts on several nodes need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in front of torchrun')
    store, rank, size = next(torch.distributed.rendezvous('env://'))
    if nodes == 1:      # of several, each counts for itself how often it was restarted
        store = torch.distributed.PrefixStore(os.environ['TORCHELASTIC_RESTART_COUNT'], store)
    torch.distributed.init_process_group(store=store, rank=rank, world_size=size)
    restarted(typed)

def restarted(typed):
    """The ranks that are started anew go on with what those before them have saved."""
    if sum_over_ranks(int(os.environ['TORCHELASTIC_RESTART_COUNT']))[0]:
        typed.pop('overwrite', None)
        typed['resume' if (Path(typed['work_dir']) / 'last.pt').exists() else 'overwrite'] = True

def lock(folder):
    """A file that stays locked as long as it is open, which is until the process ends, however it ends."""
    file = open(folder / 'lock', 'w')
    try:
        with contextlib.suppress(ImportError):      # Windows has no fcntl, and goes without
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f'{folder} is in use by another run') from None
    return file

# ----------------------------------------------------------------------------------------------------------------------
# Other people's checkpoints. That no code in them runs is torch's doing; what is left is how much memory they take

def look_into(path):
    """A checkpoint is a zip of a pickle and of numbers. What is packed may unpack to any size; torch does not look at
    the check sums; and among what it lets a pickle call there is bytearray(10**12)."""
    with zipfile.ZipFile(path) as file:
        odd = [part for part in file.infolist() if part.compress_size != part.file_size or part.external_attr]
        if file.testzip() or odd:
            raise ValueError('parts of it are packed or spoilt')
        for op, name, _ in pickletools.genops(file.read(next(n for n in file.namelist() if n.endswith('/data.pkl')))):
            if 'GLOBAL' in op.name and not re.fullmatch(
                    r'torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage', str(name)):
                raise ValueError(f'it wants to call {name}')

def look_over(content, words, model):
    """What was loaded: no more than it says, and nothing that fails later on."""
    weights, moments = list(model.state_dict().values()), content.get('optimizer') or []
    shapes = [t.shape for t in moments]
    if not all(t.is_contiguous() for t in [*weights, *moments, *words.known.values()]):
        raise ValueError('it claims more than it holds')      # one number expanded to billions
    if shapes and shapes != [()] + 2 * [p.shape for p in model.parameters()]:
        raise ValueError('its optimizer is of another model')
    if not (type(words.longest) is int and 0 <= words.longest < 2**40 and content['step'] >= 0):
        raise ValueError('its numbers make no sense')
    for name, pairs in model.state_dict().items():
        if name.startswith('pairs') and not (pairs.diff() > 0).all():
            raise ValueError('its tables are out of order')
