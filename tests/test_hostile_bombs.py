"""
Bombs: small checkpoints that are made to take much memory or time.

Each is refused in one line, or used; either way in no more memory than a good checkpoint, the size
of the file and 100 MB. Training a model that is larger than it needs to be takes more: up to
sixteen times the size of its file.
"""

import io
import struct
import zipfile

import pytest
import torch
from comparing import checkpoint
from conftest import most_are_long
from forks import assert_one_line

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

MEGABYTE = 2**20
MARGIN = 100_000  # KB

# -----------------------------------------------------------------------------
# pickles: what stands in the place of data.pkl

MANY = 4 * MEGABYTE
START = b'\x80\x02'
TENSOR = b'ctorch._utils\n_rebuild_tensor_v2\n'
PICKLES = {
    'empty lists': b'(' + b']' * MANY + b'l.',
    'empty dictionaries': b'(' + b'}' * MANY + b'l.',
    'empty sets': b'(' + b'\x8f' * MANY + b'l.',
    'empty tuples': b'(' + b')' * MANY + b't.',
    'marks': b'(' * MANY + b'.',
    'Nones': b'(' + b'N' * MANY + b't.',
    'lists in lists': b']' * MANY + b'a' * (MANY - 1) + b'.',
    'tuples in tuples': b')' + b'\x85' * MANY + b'.',
    'a tuple of itself twice, and so on': b')' + b'2\x86' * 100 + b'.',
    'texts of one letter': b'(' + b'X\x01\0\0\0a' * MEGABYTE + b'l.',
    'numbers': b'(' + b'K\x01' * MANY + b'l.',
    'floats': b'(' + (b'G' + struct.pack('>d', 0.1)) * (MANY // 9) + b'l.',
    'remembered values': b'N'
    + b''.join(b'r' + struct.pack('<I', n) for n in range(800_000))
    + b'.',
    'a memory of four billion': b'Nr\xff\xff\xff\xff.',
    'a text that claims four gigabytes': b'X\xff\xff\xff\xff' + b'a' * 99 + b'.',
    'bytes that claim an exabyte': b'\x8e' + struct.pack('<Q', 2**60) + b'a' * 99 + b'.',
    'a number of two gigabytes': b'\x8b\xff\xff\xff\x7f' + b'1' * 99 + b'.',
    'a number of a million digits': b'I' + b'9' * MEGABYTE + b'\n.',
    'a long number in text': b'L' + b'9' * MEGABYTE + b'L\n.',
    'a frame of an exabyte': b'\x95' + struct.pack('<Q', 2**60) + b'N.',
    'calls': b'(' + b'ccollections\nOrderedDict\n)R' * (MANY // 27) + b'l.',
    'tensors of nothing': b'(' + (TENSOR + b')R') * (MANY // 36) + b'l.',
    'names': b'(' + b'ccollections\nOrderedDict\n' * (MANY // 25) + b'l.',
    'copies of a list': b']' + b'2' * MANY + b'.',
    'nothing': b'',
    'no end': b'N' * MANY,
}


def replace_pickle(pickle):
    """A bomb: the pickle of a checkpoint replaced by another."""

    def change(path):
        rebuild(path, lambda name, raw: START + pickle if name.endswith('data.pkl') else raw)

    return change


def rebuild(path, change_part, compression=zipfile.ZIP_STORED, more=()):
    """Write a checkpoint anew, with other contents and more parts."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, 'w', compression, compresslevel=9) as new:
        for name, raw in parts.items():
            new.writestr(zipfile.ZipInfo(name), change_part(name, raw), compression)
        for name, raw in more:
            new.writestr(zipfile.ZipInfo(f'best/{name}'), raw, compression)
        for part in new.filelist:
            part.external_attr = 0  # as torch writes it


# -----------------------------------------------------------------------------
# zip files


def compress(path):
    """A part of half a gigabyte of zeros, compressed."""
    rebuild(path, lambda name, raw: raw, zipfile.ZIP_DEFLATED, [('data/zeros', bytes(2**29))])


def add_empty_parts(path):
    """Names of parts take more memory than room in the file."""
    rebuild(path, lambda name, raw: raw, more=[(f'{number:x}', b'') for number in range(60_000)])


def nest_parts(path):
    """Each part holds all later ones: their sizes add up to the square of the file's size."""
    n = 3000
    whole = b''
    entries = []
    for number in reversed(range(n)):  # from the innermost to the outermost
        name = b'best/%05d' % number if number else b'best/data.pkl'
        raw = START + b'N.' if number == 0 else whole + bytes(2000)
        numbers = (zipfile.crc32(raw), len(raw), len(raw), len(name), 0)
        local = struct.pack('<4s5H3I2H', b'PK\x03\x04', 20, 0, 0, 0, 33, *numbers)
        whole = local + name + raw + (whole if number == 0 else b'')
        entries.append((name, numbers, len(whole)))
    directory = b''
    for name, numbers, from_end in entries:
        more = (0, 0, 0, 0, len(whole) - from_end)
        directory += struct.pack('<4s6H3I2H', b'PK\x01\x02', 20, 20, 0, 0, 0, 33, *numbers)
        directory += struct.pack('<3H2I', *more) + name
    end = struct.pack('<4H2IH', 0, 0, n, n, len(directory), len(whole), 0)
    path.write_bytes(whole + directory + b'PK\x05\x06' + end)


ZIPS = {'half a gigabyte of zeros': compress, 'sixty thousand parts': add_empty_parts}
ZIPS |= {'parts in parts': nest_parts}

# -----------------------------------------------------------------------------
# settings and weights that fit each other: these are sampled, but trained only if a step takes
# little memory


def claim(model_type, **settings):
    """A bomb: a model of these settings, with all of its weights."""

    def change(path):
        content = checkpoint(path)
        content['settings'].update(type=model_type, **settings)
        dataset = makemore.restore_dataset(content['dataset'])
        config = makemore.Config(**content['settings'])
        model = makemore.MODELS[model_type](config, dataset.vocab_size)
        content['model'] = model.state_dict()
        content['optimizer'] = {}
        torch.save(content, path)

    return change


def grow_data(**values):
    """A bomb: other entries of the data set, some of them made from those that are there."""

    def change(path):
        content = checkpoint(path)
        content['dataset'].update(values)
        torch.save(content, path)

    return change


SMALL = {'n_embd': 1, 'n_hidden': 1, 'n_head': 1, 'n_layer': 1}
MODELS = {
    'a window of 65,536': claim('mlp', **SMALL, block_size=2**16),
    'a window of 16,384 and two channels': claim('mlp', **SMALL | {'n_embd': 2}, block_size=2**14),
    'a normed window': claim('bn-mlp', **SMALL, block_size=2**16),
    'a wavenet of 4,096': claim('wavenet', **SMALL | {'n_layer': 12}, block_size=2**12),
    'a context of 65,536': claim('transformer', **SMALL, block_size=2**16),
    'a bag of 65,536': claim('bow', **SMALL, block_size=2**16),
    'an rnn of 65,536 steps': claim('rnn', **SMALL, block_size=2**16),
    'a gru of 65,536 steps': claim('gru', **SMALL, block_size=2**16),
    'an lstm of 65,536 steps': claim('lstm', **SMALL, block_size=2**16),
    'many heads': claim('transformer', n_embd=512, n_head=512, n_layer=1),
    'many layers': claim('transformer', n_embd=1, n_head=1, n_layer=512),
}
DATA = {
    'every letter of Unicode': grow_data(chars=''.join(map(chr, range(0x20000, 0x68000)))),
    'a million empty lines': grow_data(train_lines='\n' * 10**6),
    'a million lines': grow_data(train_lines='\n'.join(map(str, range(10**6)))),
    'a line of four million': grow_data(train_lines='a' * MANY, max_len=MANY),
    'a long longest line': grow_data(max_len=10**12),
}
BOMBS = {name: replace_pickle(pickle) for name, pickle in PICKLES.items()}
BOMBS |= ZIPS | MODELS | DATA

# -----------------------------------------------------------------------------


# A run that is only loaded is refused after that, because it has more steps.
MODES = {
    'sample': ['--sample-only', '--num-samples', 3],
    'load': ['--resume', '--max-steps', 1],
    'train': ['--resume', '--max-steps', 20, '--eval-interval', 1],
}


@pytest.fixture(scope='module')
def usual_memory(server, finished, tmp_path_factory):
    """KB that sampling from a good checkpoint, loading it and training it take."""
    usual = {}
    for mode, words in MODES.items():
        folder = tmp_path_factory.mktemp(mode)
        (folder / 'x').mkdir()
        for name in ('best.pt', 'last.pt'):
            (folder / 'x' / name).write_bytes((finished('gru') / name).read_bytes())
        end = server(folder, [*words, '-o', 'x']).wait()
        assert end.code == (2 if mode == 'load' else 0), end
        usual[mode] = end.max_rss
    return usual


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', most_are_long(BOMBS, 'empty lists', 'sixty thousand parts'))
def test_a_bomb_takes_no_more_than_its_size_and_100_mb(
    name, mode, usual_memory, finished, go, tmp_path
):
    (tmp_path / 'x').mkdir()
    for saved in ('best.pt', 'last.pt'):
        path = tmp_path / 'x' / saved
        torch.save(checkpoint(finished('gru') / saved), path)
        BOMBS[name](path)
    size = path.stat().st_size // 1024
    end = go(*MODES[mode], '-o', 'x', plan=[['limit_resources', 20]])
    assert 'Traceback' not in end.err
    if end.code != 0:
        assert_one_line(end, 2)
    if mode == 'train':  # gradients, two averages of them and activations are no waste
        size *= 16
    assert end.max_rss < usual_memory[mode] + size + MARGIN, end.max_rss - usual_memory[mode]
