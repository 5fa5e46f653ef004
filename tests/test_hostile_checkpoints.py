"""
Hostile and damaged checkpoints.

Each is refused in one line, or used as what it is, with memory in proportion to its size. With
--long more damaged files are tried.
"""

import _codecs
import io
import itertools
import json
import math
import os
import random
import shutil
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from comparing import checkpoint, differences
from forks import assert_one_line, contents, write_note

import makemore
from tokenizer import Tokenizer

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

MEGABYTE = 2**20
MARGIN = 100_000  # KB that a hostile checkpoint may take more than a good one

# -----------------------------------------------------------------------------
# what is done to a good checkpoint


class Call:
    """In a pickle: a call of a function while the pickle is loaded."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def nested(depth, width=10):
    """A list of lists of lists: 600 bytes in a file, but width**depth letters when printed."""
    inner = ['a'] * width
    for _ in range(depth - 1):
        inner = [inner] * width
    return inner


def double_often():
    """Bytes spelled in hexadecimal digits, and those again: twice as many with every call."""
    call = Call(_codecs.encode, 'x' * 64, 'utf-8')
    for _ in range(24):
        call = Call(_codecs.encode, call, 'hex')
    return call


def expanded(*shape, dtype=torch.float32):
    """One number that claims to be many; in a file it takes the room of one."""
    return torch.zeros(1, dtype=dtype).expand(*shape)


def put(*path, to):
    """A change: put('step', to=-3). `to` may be a function of the value that was there."""
    *parents, last = path

    def change(content):
        for key in parents:
            content = content[key]
            if content is None:  # best.pt has no optimizer
                return
        content[last] = to(content[last]) if callable(to) else to

    return change


def together(*changes):
    """Several changes as one."""

    def change(content):
        for part in changes:
            part(content)

    return change


def claim(make_weight, **settings):
    """A change: the settings of a larger model, with weights by make_weight(shape)."""

    def change(content):
        content['settings'].update(settings)
        dataset = makemore.restore_dataset(content['dataset'])
        config = makemore.Config(**content['settings'])
        with torch.device('meta'):
            model = makemore.MODELS[config.type](config, dataset.vocab_size)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        content['model'] = {name: make_weight(*shape) for name, shape in shapes.items()}

    return change


def claim_expanded(**settings):
    """All weights of a larger model are one number."""
    return claim(expanded, **settings)


def claim_shared(**settings):
    """All weights of a larger model are the same few numbers."""
    numbers = torch.zeros(MEGABYTE)
    return claim(lambda *shape: numbers[: math.prod(shape)].view(shape), **settings)


def share_counts(content):
    """All tables of n-grams are the same five million numbers."""
    numbers = torch.arange(5_000_001)
    for name in content['model']:
        if name.endswith('.pairs'):
            content['model'][name] = numbers[:-1]
        if name.endswith('.cumulative'):
            content['model'][name] = numbers


def use_pattern(pattern):
    """A change: byte pairs, which are split with the pattern, in the place of characters."""
    byte_pairs = Tokenizer().to_dict() | {'pattern': pattern}
    return together(put('dataset', 'chars', to=None), put('dataset', 'byte_pairs', to=byte_pairs))


NEVER_STOPS = put('model', 'head.bias', to=lambda bias: bias - 1e9 * (torch.arange(len(bias)) == 0))


class Harm(NamedTuple):
    """An attack: the type of the good checkpoint, the change, and the command line."""

    model_type: str
    change: object
    args: tuple = ('--sample-only', '-o', 'x')


def resume(model_type, change):
    return Harm(model_type, change, ('--resume', '-o', 'x', '--max-steps', '14'))


def sample(model_type, change, *more):
    return Harm(model_type, change, ('--sample-only', '-o', 'x', *more))


WEIGHTS = {
    'expanded weights': Harm('mlp', claim_expanded(block_size=2**14, n_embd=2**12, n_hidden=8)),
    'ten billion rows': Harm('mlp', put('model', 'net.0.weight', to=expanded(10**10, 10))),
    'an expanded recurrent net': Harm('gru', claim_expanded(n_hidden=2**14)),
    'layers that share memory': Harm('transformer', claim_shared(n_layer=64, n_embd=512)),
    'tables that share memory': Harm('ngram', share_counts),
    'NaN weights': Harm('gru', put('model', 'head.weight', to=lambda t: t * math.nan)),
    'infinite weights': Harm('gru', put('model', 'head.bias', to=lambda t: t + math.inf)),
    'sparse weights': Harm('gru', put('model', 'head.weight', to=lambda t: t.to_sparse())),
    'complex weights': resume('gru', put('model', 'head.weight', to=lambda t: t.to(torch.cfloat))),
    'integer weights': Harm('gru', put('model', to=lambda m: {n: t.int() for n, t in m.items()})),
    'weights without memory': Harm(
        'gru', put('model', to=lambda m: {n: t.to('meta') for n, t in m.items()})
    ),
    'pairs out of order': Harm('ngram', put('model', 'tables.1.pairs', to=lambda t: t.flip(0) - 5)),
    'counts that end early': Harm('ngram', put('model', 'tables.1.cumulative', to=lambda t: t[:1])),
    'counts without pairs': Harm('ngram', put('model', 'tables.0.pairs', to=lambda t: t[:0])),
}
SETTINGS = {
    'n_layer = -1': Harm('transformer', put('settings', 'n_layer', to=-1)),
    'n_layer = 10**9': Harm('transformer', put('settings', 'n_layer', to=10**9)),
    'five hundred layers': Harm('transformer', put('settings', 'n_layer', to=512)),
    'a nested list as type': Harm('gru', put('settings', 'type', to=nested(9))),
    'a nested list as version': Harm('gru', put('version', to=nested(9))),
    'a nested list as seed': Harm('gru', put('settings', 'seed', to=nested(9))),
    'a deep list': Harm('gru', put('best_loss', to=nested(300, 1))),
    'an unknown setting': Harm('gru', put('settings', to=lambda s: s | {'no such': 1})),
    'gigabytes of zeros': Harm('gru', put('version', to=Call(bytearray, 10**9))),
    'bytes that double': Harm('gru', put('version', to=double_often())),
    'an unknown encoding': resume('gru', put('settings', 'encoding', to='utf-9')),
    'another input file': resume('gru', put('settings', 'input_file', to='/nowhere/\x1b[2J')),
    'a negative step': resume('gru', put('step', to=-3)),
    'a step beyond all integers': resume('gru', put('step', to=10**30)),
    'an infinite step': resume('gru', put('step', to=math.inf)),
    'infinite seconds': resume('gru', put('seconds', to=math.inf)),
    'negative seconds': resume('gru', put('seconds', to=-1.0)),
    'seconds that are text': resume('gru', put('seconds', to='1')),
    'a best loss of nan': resume('gru', put('best_loss', to=math.nan)),
    'a best loss below all others': resume('gru', put('best_loss', to=-math.inf)),
}
DATA = {
    'lines that are a number': sample('gru', put('dataset', 'train_lines', to=7), '--new-only'),
    'lines that are a list': sample('gru', put('dataset', 'train_lines', to=[1, 2]), '--new-only'),
    'lines that are bytes': sample('gru', put('dataset', 'heldout_lines', to=b'ab'), '--new-only'),
    'lines that are expanded': sample(
        'gru', put('dataset', 'train_lines', to=expanded(10**9, dtype=torch.int64)), '--new-only'
    ),
    'a fractional max_len': Harm('gru', put('dataset', 'max_len', to=5.5)),
    'an infinite max_len': Harm('gru', put('dataset', 'max_len', to=math.inf)),
    'a negative max_len': Harm('gru', put('dataset', 'max_len', to=-50)),
    'samples that never end': Harm(
        'gru', together(put('dataset', 'max_len', to=2**39), NEVER_STOPS)
    ),
    'a nested list as characters': Harm('gru', put('dataset', 'chars', to=nested(9))),
    'characters of a megabyte': Harm(
        'gru', put('dataset', 'chars', to=lambda chars: [ch * MEGABYTE for ch in chars])
    ),
    'half a surrogate pair': sample(
        'gru', put('dataset', 'chars', to=lambda s: s[1:] + '\ud800'), '--num-samples', '50'
    ),
    'a line end as character': Harm('gru', put('dataset', 'chars', to=lambda s: s[:-1] + '\n')),
    'lines instead of a text': Harm('bow', put('dataset', 'text', to=False)),
    'byte pairs that are text': Harm('gru', put('dataset', 'byte_pairs', to='x')),
    'byte pairs of other size': Harm('gru', put('dataset', 'byte_pairs', to=Tokenizer().to_dict())),
    'a pattern of gigabytes': Harm('gru', use_pattern('((a{9999}){9999}){9999}')),
}
OPTIMIZER = {
    'an optimizer that is text': put('optimizer', to='adam'),
    'an optimizer that is a list': put('optimizer', to=[1]),
    'an optimizer of nothing': put('optimizer', to={'state': {}, 'param_groups': []}),
    'averages of another shape': put('optimizer', 0, 'exp_avg', to=torch.zeros(3)),
    'averages that are expanded': put('optimizer', 0, 'exp_avg', to=lambda t: expanded(*t.shape)),
    'averages that are text': put('optimizer', 0, 'exp_avg_sq', to='x'),
    'averages that are integers': put('optimizer', 0, 'exp_avg_sq', to=lambda t: t.int()),
    'averages that are missing': put(
        'optimizer', to=lambda state: dict(list(state.items())[:-1]) if state else state
    ),
    'an entry that is text': put('optimizer', 0, to='x'),
    'an entry without its step': put(
        'optimizer', 0, to=lambda entry: {'exp_avg': entry['exp_avg']}
    ),
    'the number of another weight': put(
        'optimizer', to=lambda state: {n + 1: e for n, e in state.items()} if state else state
    ),
    'an optimizer with many steps': put('optimizer', 0, 'step', to=torch.zeros(2, 2)),
    'an optimizer whose step is text': put('optimizer', 0, 'step', to='x'),
    'a negative step of the optimizer': put('optimizer', 0, 'step', to=torch.tensor(-1.0)),
    'negative mean squares': put('optimizer', 0, 'exp_avg_sq', to=lambda t: t - 1),
}
OPTIMIZER = {name: resume('gru', change) for name, change in OPTIMIZER.items()}
HARM = WEIGHTS | SETTINGS | DATA | OPTIMIZER

# -----------------------------------------------------------------------------
# tests of the attacks


@pytest.fixture
def spoil(finished, tmp_path):
    """spoil('gru', change): a folder x with checkpoints to which the change was applied."""

    def spoil(model_type, change=None):
        (tmp_path / 'x').mkdir(exist_ok=True)
        for name in ('best.pt', 'last.pt'):
            content = checkpoint(finished(model_type) / name)
            if change:
                change(content)
            torch.save(content, tmp_path / 'x' / name)

    return spoil


@pytest.fixture(scope='session')
def measured():
    """The memory that commands took with a good checkpoint."""
    return {}


@pytest.fixture
def usual_memory(spoil, go, measured):
    """usual_memory('gru', args): KB that the command takes with a good checkpoint."""

    def usual_memory(model_type, args):
        key = (model_type, args[0])
        if key not in measured:
            spoil(model_type)
            end = go(*args)
            assert end.code == 0, end
            measured[key] = end.max_rss
        return measured[key]

    return usual_memory


# For these it is not enough that the attack had no effect this time: infinite seconds came into
# result.json as Infinity, which is no JSON; negative mean squares failed in the first step.
REFUSED = {
    'expanded weights',
    'layers that share memory',
    'tables that share memory',
    'NaN weights',
    'sparse weights',
    'gigabytes of zeros',
    'samples that never end',
    'characters of a megabyte',
    'a pattern of gigabytes',
    'averages that are expanded',
    'infinite seconds',
    'negative seconds',
    'a best loss of nan',
    'a best loss below all others',
    'a negative step of the optimizer',
    'negative mean squares',
}


SLOW = {
    'expanded weights',
    'layers that share memory',
    'tables that share memory',
    'five hundred layers',
}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in HARM]
)
def test_a_hostile_checkpoint(name, spoil, usual_memory, go):
    """It is refused in a line that names it, or used as what it is.

    Either way it takes memory in proportion to its size, and ends.
    """
    harm = HARM[name]
    usual = usual_memory(harm.model_type, harm.args)
    spoil(harm.model_type, harm.change)
    end = go(*harm.args, plan=[['limit_resources', 20]])
    if end.code != 0:
        assert_one_line(end, 2)
        assert 'x/best.pt' in end.err or harm.args[0] == '--resume'
    if name in REFUSED:
        assert_one_line(end, 2, 'is not a checkpoint, or is damaged')
    assert 'Traceback' not in end.err
    assert end.max_rss < usual + MARGIN


# -----------------------------------------------------------------------------
# attacks on the file itself


def rewrite(path, change_part, compression=zipfile.ZIP_STORED):
    """Write a checkpoint anew, with change_part(name, raw) in the place of its parts."""
    old = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, 'w', compression, compresslevel=1) as new:
        for part in old.infolist():
            raw = change_part(part.filename, old.read(part))
            new.writestr(part.filename, raw)


@pytest.mark.slow
def test_a_compressed_checkpoint_does_not_fill_the_memory(spoil, usual_memory, go, tmp_path):
    """Half a gigabyte of zeros takes half a megabyte in a compressed file."""
    args = ('--sample-only', '-o', 'x')
    usual = usual_memory('gru', args)
    zeros = torch.zeros(2**29, dtype=torch.uint8)
    spoil('gru', lambda content: content.update(more=zeros))
    path = tmp_path / 'x/best.pt'
    rewrite(path, lambda name, raw: raw, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 4 * MEGABYTE
    end = go(*args)
    assert_one_line(end, 2, 'best.pt')
    assert end.max_rss < usual + MARGIN


# In the pickle of torch.tensor of 77 numbers: what its storage holds, and its own size.
STORED = b'K\x4dt'
SIZE = b'K\x4d\x85'
MANY = b'J' + (10**8).to_bytes(4, 'little')


@pytest.mark.parametrize(
    'claims', [[STORED], [SIZE], [STORED, SIZE]], ids=['storage', 'tensor', 'both']
)
def test_a_part_of_the_file_that_claims_more_numbers_than_it_has(
    claims, spoil, usual_memory, go, tmp_path
):
    """The pickle says how many numbers a part of the file has; nothing behind it may be read."""
    args = ('--sample-only', '-o', 'x')
    usual = usual_memory('gru', args)

    def change_part(name, raw):
        if name.endswith('/data.pkl'):
            for claim in claims:
                assert raw.count(claim) == 1
                raw = raw.replace(claim, MANY + claim[2:])
        return raw

    spoil('gru', lambda content: content['model'].update(more=torch.zeros(77)))
    rewrite(tmp_path / 'x/best.pt', change_part)
    end = go(*args)
    assert_one_line(end, 2, 'best.pt')
    assert end.max_rss < usual + MARGIN


# -----------------------------------------------------------------------------
# settings that are not a checkpoint's business

NOT_SAVED = {
    'num_samples': 10**7,
    'prompt': 'zzz',
    'length': 1,
    'temperature': 0.0,
    'top_k': 1,
    'top_p': 1e-9,
    'new_only': True,
    'match': 'zzz',
    'work_dir': 'elsewhere',
    'resume': True,
    'overwrite': True,
    'runs': True,
    'sample_only': True,
    'find_lr': True,
    'check_backprop': True,
    'sample_interval': 1,
    'diagnose': 1,
    'device': 'cuda:7',
    'compile': True,
}


def test_all_settings_that_are_not_saved_are_tried():
    not_saved = set(makemore.SETTINGS) - set(makemore.settings_to_save(makemore.Config()))
    assert set(NOT_SAVED) == not_saved


def use(go, folder):
    """Sample from the run in folder x and resume it: both ends, and the files that are left."""
    sampled = go('--sample-only', '-o', 'x', '--seed', 3)
    resumed = go('--resume', '-o', 'x', '--max-steps', 14)
    return sampled, resumed, contents(folder / 'x')


@pytest.fixture(scope='session')
def used():
    """What `use` returned for a good checkpoint."""
    return []


@pytest.mark.parametrize('name', NOT_SAVED)
def test_a_setting_that_is_not_saved_is_not_read(name, used, spoil, go, tmp_path):
    """A file can contain it all the same: it works like one without it."""
    if not used:
        spoil('gru')
        used += use(go, tmp_path)
        shutil.rmtree(tmp_path / 'x')
    spoil('gru', put('settings', to=lambda settings: settings | {name: NOT_SAVED[name]}))
    good_sampled, good_resumed, good_files = used
    sampled, resumed, files = use(go, tmp_path)
    assert (sampled.code, sampled.out) == (0, good_sampled.out)
    assert (resumed.code, resumed.out) == (0, good_resumed.out)
    assert not (tmp_path / 'elsewhere').exists()

    assert files.keys() == good_files.keys()
    last = torch.load(io.BytesIO(files['last.pt']), weights_only=True)
    good_last = torch.load(io.BytesIO(good_files['last.pt']), weights_only=True)
    assert differences(last, good_last) == []
    result = json.loads(files['result.json'])
    assert differences(result, json.loads(good_files['result.json'])) == []


# -----------------------------------------------------------------------------
# damage at random: thousands of files in one child, because a crash would take pytest with it


def flip_bits(raw, dice):
    """Without end: the bytes with one bit flipped, and where."""
    while True:
        place = dice.randrange(len(raw))
        flipped = raw[place] ^ 1 << dice.randrange(8)
        yield f'bit flipped in byte {place}', raw[:place] + bytes([flipped]) + raw[place + 1 :]


def cut_short(raw):
    """The bytes cut short after every 64th."""
    for length in range(0, len(raw), 64):
        yield f'cut after {length} bytes', raw[:length]


def sample_quietly(folder):
    """One sample from a run: the exit code or the exception, and what was printed to stderr."""
    sys.stdout = io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True)
    sys.stderr = io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True)
    try:
        code = makemore.main(['--sample-only', '-o', folder, '--num-samples', '1'])
    except Exception as error:
        code = repr(error)
    return code, sys.stderr.buffer.getvalue().decode()


def try_damaged_files(job, path, n_flips, seed):
    """A plan: load every damaged file as the program does, and leave a note of the results."""
    os.makedirs('y', exist_ok=True)
    raw = Path(path).read_bytes()
    good = checkpoint(path)
    flips = itertools.islice(flip_bits(raw, random.Random(seed)), n_flips)
    results = {'refused': 0, 'the same': 0, 'wrong': []}
    for damage, damaged in itertools.chain(cut_short(raw), flips):
        Path('y/best.pt').write_bytes(damaged)
        Path(job['log'], 'doing').write_text(damage)
        code, err = sample_quietly('y')
        if code == 2 and err.startswith('makemore: y/best.pt') and err.count('\n') == 1:
            results['refused'] += 1
        elif code == 0 and not differences(checkpoint('y/best.pt'), good):
            results['the same'] += 1
        else:
            results['wrong'].append([damage, code, err[-300:]])
    write_note(job['log'], 'results', results)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ['gru', 'ngram', 'transformer'])
def test_a_damaged_checkpoint_is_refused_or_whole(model_type, finished, fork, long):
    """Cut short after every 64th byte, and with a bit flipped at random places.

    A weight with a flipped bit is neither refused nor what was saved.
    """
    n_flips = long(100, 3334)
    path = finished(model_type) / 'best.pt'
    try_all = ['test_hostile_checkpoints:try_damaged_files', str(path), n_flips, 1]
    child = fork(plan=[['limit_resources', 1500], try_all])
    child.read_note('end', seconds=1500)
    assert child.wait().code == 0, (child.log / 'doing').read_text()
    results = child.read_note('results')
    assert results['wrong'] == []
    assert results['refused'] > n_flips / 2
