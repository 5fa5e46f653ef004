"""
Checkpoints whose zip directories were changed.

Python's zipfile looks into the file first, then torch's own reader loads it: a file that passes
must hold the same parts for both.
"""

import io
import os
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from forks import write_note

from makemore_extras import audit

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

LOCAL = b'PK\x03\x04'
CENTRAL = b'PK\x01\x02'
END = b'PK\x05\x06'
# Where the numbers of a header stand, and how many bytes they have.
LOCAL_NUMBERS = {'flags': (6, 2), 'method': (8, 2), 'crc': (14, 4), 'packed size': (18, 4)}
LOCAL_NUMBERS |= {'size': (22, 4), 'name length': (26, 2), 'extra length': (28, 2)}
CENTRAL_NUMBERS = {'flags': (8, 2), 'method': (10, 2), 'crc': (16, 4), 'packed size': (20, 4)}
CENTRAL_NUMBERS |= {'size': (24, 4), 'name length': (28, 2), 'extra length': (30, 2)}
CENTRAL_NUMBERS |= {'comment length': (32, 2), 'attributes': (38, 4), 'offset': (42, 4)}
END_NUMBERS = {'entries here': (8, 2), 'entries': (10, 2), 'directory size': (12, 4)}
END_NUMBERS |= {'directory offset': (16, 4), 'comment length': (20, 2)}
HEADERS = {LOCAL: LOCAL_NUMBERS, CENTRAL: CENTRAL_NUMBERS, END: END_NUMBERS}


def find_all(raw, pattern):
    """The places of a pattern."""
    places = []
    place = raw.find(pattern)
    while place >= 0:
        places.append(place)
        place = raw.find(pattern, place + 1)
    return places


def change_number(raw, dice):
    """Another number in a header: a small one, one nearby, or that of another header."""
    kind = dice.choice(list(HEADERS))
    places = find_all(raw, kind)
    offset, size = dice.choice(list(HEADERS[kind].values()))
    place = dice.choice(places) + offset
    number = int.from_bytes(raw[place : place + size], 'little')
    other = dice.choice(places) + offset
    values = [0, 1, number + 1, number - 1, number ^ (1 << dice.randrange(8 * size))]
    values.append(int.from_bytes(raw[other : other + size], 'little'))
    new = dice.choice(values) % 256**size
    return raw[:place] + new.to_bytes(size, 'little') + raw[place + size :]


def change_name(raw, dice):
    """Another letter in a name: one of them, or an upper-case one, NUL or a slash."""
    place = dice.choice(find_all(raw, b'best/'))
    letter = dice.choice([b'a', b'0', b'\0', b'/', b'\\', b'B', b'\xff', b'.'])
    place += dice.randrange(14)
    return raw[:place] + letter + raw[place + 1 :]


def swap_names(raw, dice):
    """The names of two parts exchanged, in the directory or in front of their contents."""
    kind = dice.choice([LOCAL, CENTRAL])
    first, second = dice.sample(find_all(raw, kind), 2)
    length, where = (26, 30) if kind == LOCAL else (28, 46)
    name = raw[first + where :][: struct.unpack_from('<H', raw, first + length)[0]]
    other = raw[second + where :][: struct.unpack_from('<H', raw, second + length)[0]]
    if len(name) != len(other):
        return raw
    changed = bytearray(raw)
    changed[first + where : first + where + len(name)] = other
    changed[second + where : second + where + len(name)] = name
    return bytes(changed)


def flip_bit(raw, dice):
    """A flipped bit behind the contents, or in a local header."""
    start = raw.find(CENTRAL)
    if dice.random() < 0.3:
        start = dice.choice(find_all(raw, LOCAL))
    place = dice.randrange(start, min(len(raw), start + 2000))
    return raw[:place] + bytes([raw[place] ^ 1 << dice.randrange(8)]) + raw[place + 1 :]


def add_part(raw, dice):
    """One more part: a second one of the same name, or a second pickle in another case."""
    content = io.BytesIO(raw)
    try:
        with zipfile.ZipFile(content, 'a') as file:
            name = dice.choice(file.namelist())
            name = dice.choice(
                [name, name.upper(), './' + name, name + '\0x', 'a/data.pkl', '/' + name]
            )
            file.writestr(zipfile.ZipInfo(name), b'\x80\x02N.')
            file.filelist[-1].external_attr = 0
            dice.shuffle(file.filelist)
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, IndexError):
        return raw
    return content.getvalue()


def add_end(raw, dice):
    """A second directory behind the first, or in a comment, or bytes before or behind it all."""
    directory = raw[raw.find(CENTRAL) :]
    other = bytearray(directory)
    place = dice.choice(find_all(directory, b'best/'))
    other[place + 5 : place + 9] = b'DATA'
    junk = dice.randbytes(dice.choice([1, 22, 64, 4096]))
    return dice.choice(
        [raw + other, raw + directory, raw + junk, junk + raw, raw[: -len(other)] + other]
    )


CHANGES = [change_number] * 5 + [change_name, swap_names, flip_bit, flip_bit, add_part, add_end]


def mutate(raw, dice):
    """The bytes with one to three changes, and the names of these."""
    changes = dice.choices(CHANGES, k=dice.choice([1, 1, 2, 3]))
    for change in changes:
        raw = change(raw, dice)
    return raw, [change.__name__ for change in changes]


def read_by_python(path):
    """The parts of a zip file as Python reads them, without their root."""
    with zipfile.ZipFile(path) as file:
        return {name.partition('/')[2]: file.read(name) for name in file.namelist()}


def read_by_torch(path):
    """The parts of a zip file as torch reads them."""
    reader = torch._C.PyTorchFileReader(str(path))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def try_mutated_zips(job, path, n, seed):
    """A plan: change a checkpoint in n ways, and note what the two readers say of each."""
    good = Path(path).read_bytes()
    dice = random.Random(seed)
    results = {'refused': 0, 'accepted': 0, 'wrong': []}
    while results['refused'] + results['accepted'] < n:
        raw, changes = mutate(good, dice)
        if raw == good:
            continue
        Path('best.pt').write_bytes(raw)
        Path(job['log'], 'doing').write_text(str(changes))
        try:
            audit.check_file(Path('best.pt'))
        except Exception:  # of what kind does not matter: the program reports any
            results['refused'] += 1
            continue
        results['accepted'] += 1
        try:
            same = read_by_python('best.pt') == read_by_torch('best.pt')
        except RuntimeError:  # torch refuses it
            same = True
        if not same:
            results['wrong'].append(changes)
    write_note(job['log'], 'results', results)
    os._exit(0)


def test_a_changed_zip_directory_means_the_same_to_both_readers(finished, fork, long, tmp_path):
    """A decoy that only Python's reader saw got a hostile pickle past the check."""
    saved = torch.load(finished('gru') / 'best.pt', weights_only=True)
    torch.save(saved, tmp_path / 'best.pt')
    n = long(100, 1000)
    try_all = ['test_hostile_zips:try_mutated_zips', str(tmp_path / 'best.pt'), n, 1]
    child = fork(plan=[['limit_resources', 300], try_all])
    child.read_note('end', seconds=400)
    assert child.wait().code == 0, (child.log / 'doing').read_text()
    results = child.read_note('results')
    assert results['wrong'] == []
    assert results['accepted'] > 0
