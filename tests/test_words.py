"""Reading, splitting, encoding and batching, against the plain loops that a reader would write first."""
import collections
import io
import random
import sys

import pytest
import torch

import makemore


@pytest.fixture(scope='module')
def all_names(request):
    return (request.config.rootpath / 'names.txt').read_text().split('\n')


@pytest.fixture
def read(tmp_path):
    """read('emma', split='all'): the words of a file with this text or these bytes."""
    def read(content, **typed):
        path = tmp_path / 'data.txt'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        cfg = makemore.settle(dict(input_file=str(path), type='gru') | typed)
        words = makemore.read(cfg)
        return cfg, words
    return read


def lines(words, split):
    """The lines of a split as text, read off the targets that a model would get."""
    if not len(words.splits[split].starts):
        return []
    x, y = makemore.gather(words, *words.splits[split])
    return [words.decode([token for token in row if token >= 0]) for row in y.tolist()]


def lecture_split(texts):
    texts = list(texts)
    random.Random(42).shuffle(texts)
    n1, n2 = int(0.8 * len(texts)), int(0.9 * len(texts))
    return dict(train=texts[:n1], dev=texts[n1:n2], test=texts[n2:])


# ----------------------------------------------------------------------------------------------------------------------
# Facts about names.txt

def test_facts_about_the_names(all_names):
    assert (len(all_names), len(set(all_names)), max(map(len, all_names))) == (32033, 29494, 15)
    pairs = collections.Counter(pair for name in all_names for pair in zip('.' + name, name + '.'))
    assert pairs.most_common(3) == [(('n', '.'), 6763), (('a', '.'), 6640), (('a', 'n'), 5438)]


def test_the_lectures_split_of_the_names(all_names, request):
    cfg = makemore.settle(dict(input_file=str(request.config.rootpath / 'names.txt'), split='lecture', type='gru'))
    words = makemore.read(cfg)
    assert words.vocab_size == 27 and words.encode('az') == [1, 26] and cfg.block_size == 16
    assert [int(words.splits[split].lengths.sum()) for split in ('train', 'dev', 'test')] == [182625, 22655, 22866]
    expected = lecture_split(all_names)
    assert {split: lines(words, split) for split in expected} == expected


# ----------------------------------------------------------------------------------------------------------------------
# Splits

def test_honest_leaves_out_of_dev_and_test_what_train_has(read):
    texts = [f'{i % 37:b}' for i in range(100)]
    _, words = read('\n'.join(texts), split='honest')
    expected = lecture_split(texts)
    assert lines(words, 'train') == expected['train']
    for split in ('dev', 'test'):
        assert lines(words, split) == [text for text in expected[split] if text not in set(expected['train'])]
        assert len(lines(words, split)) < len(expected[split])      # else this test says nothing


def test_honest_says_how_many_it_left_out(run, tmp_path):
    (tmp_path / 'n.txt').write_text('\n'.join(f'{i % 37:b}' for i in range(100)))
    texts = lecture_split([f'{i % 37:b}' for i in range(100)])
    result = run('-i', 'n.txt', '--type', 'ngram')
    n = sum(text in texts['train'] for split in ('dev', 'test') for text in texts[split])
    assert n > 0 and f'; {n} that train has too are left out' in result.err


def test_all_is_train_and_dev(read):
    texts = ['emma', 'ava', 'mia', 'ava']
    _, words = read('\n'.join(texts), split='all')
    assert sorted(lines(words, 'train')) == sorted(lines(words, 'dev')) == sorted(texts) and not lines(words, 'test')


@pytest.mark.parametrize('split', ['honest', 'lecture', 'all'])
def test_the_split_depends_on_nothing_but_the_file(read, split):
    text = '\n'.join(f'{i}' for i in range(50))
    one, two = ([lines(read(text, split=split, seed=seed)[1], name) for name in ('train', 'dev', 'test')]
                for seed in (1, 2))
    assert one == two


@pytest.mark.parametrize('n, sizes', [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (9, (7, 1, 1)), (10, (8, 1, 1))])
def test_any_number_of_lines_has_a_train_split(read, n, sizes):
    _, words = read('\n'.join('abcdefghij'[:n]), split='lecture')
    assert tuple(len(lines(words, split)) for split in ('train', 'dev', 'test')) == sizes


# ----------------------------------------------------------------------------------------------------------------------
# Any text

MESSY = {
    'plain': (b'emma\nava', {}),
    'newline at the end': (b'emma\nava\n', {}),
    'byte order mark': (b'\xef\xbb\xbfemma\nava\n', {}),
    'Windows': (b'emma\r\nava\r\n', {}),
    'old Mac': (b'emma\rava\r', {}),
    'blank lines': (b'\n\nemma\n\n \n\t\nava\n\n', {}),
    'spaces': (b'  emma \n\tava\t \n', {}),
    'a space at the end': (b'emma\nava ', {}),
    'a space before the last newline': (b'emma\nava \n', {}),
    'latin-1': (b'emma\nava', dict(encoding='latin-1')),
    'utf-16': ('emma\nava'.encode('utf-16'), dict(encoding='utf-16')),
    'all at once': (b'\xef\xbb\xbf\r\n  emma\t\r\n\r\n ava', {}),
}


@pytest.mark.parametrize('kind', MESSY)
def test_messy_files_are_read_like_tidy_ones(read, kind):
    content, typed = MESSY[kind]
    _, words = read(content, split='all', **typed)
    assert sorted(lines(words, 'train')) == ['ava', 'emma'] and words.vocab_size == 5


@pytest.mark.parametrize('text', ['né 日本 🙂', 'a b', 'a\u00a0b', '.', 'x\x00y', 'e\u0301', '\U0010ffff\ue000'])
def test_any_character_is_kept(read, text):
    _, words = read(f'{text}\nab\n', split='all')
    assert sorted(lines(words, 'train')) == sorted([text, 'ab'])
    assert words.vocab_size == len(set(text + 'ab')) + 1 and words.decode(words.encode(text)) == text


def test_latin_1_is_not_utf_8(read):
    _, words = read('zoë\n'.encode('latin-1'), split='all', encoding='latin-1')
    assert lines(words, 'train') == ['zoë']


def test_random_text_against_a_plain_reader(read):
    dice = random.Random(0)
    for _ in range(30):
        text = ''.join(dice.choice('ab \n\r\té日🙂') for _ in range(dice.randrange(1, 60))) + 'x'
        expected = [line.strip() for line in text.replace('\r\n', '\n').replace('\r', '\n').split('\n')]
        _, words = read(text, split='lecture')
        shuffled = [line for line in expected if line]
        random.Random(42).shuffle(shuffled)
        assert sum((lines(words, split) for split in ('train', 'dev', 'test')), []) == shuffled


def test_a_file_of_many_pieces_has_no_seams(read):
    """Files are read, tidied, encoded and fingerprinted piece by piece: here several, one a single long line."""
    dice = random.Random(1)
    texts = [f'{dice.randrange(40000)} {dice.choice("xyé🙂")}' for _ in range(60000)] + ['z' * 2 * makemore.CHUNK]
    texts = sorted(texts, key=lambda text: dice.random())
    messy = ''.join(dice.choice(['', ' ', '\t']) + text + dice.choice(['\n', '\n', '\r\n', ' \n\n']) for text in texts)
    assert len(messy) > 5 * makemore.CHUNK
    _, words = read(messy, type='ngram', split='honest')
    expected = lecture_split(texts)
    train = set(expected['train'])
    assert [words.decode(words.flat[start:start + length].tolist()) for start, length in zip(*words.lines)] == texts
    assert words.vocab_size == len(set(''.join(texts))) + 1      # the tabs are gone with the line ends they stood at
    for split in ('dev', 'test'):
        fresh = [text for text in expected[split] if text not in train]
        assert lines(words, split) == fresh and words.left_out[split] == len(expected[split]) - len(fresh) > 0
    prints = makemore.fingerprints(words.flat, *words.lines).tolist()
    assert len(set(prints)) == len(set(texts)) == len(set(zip(texts, prints)))      # equal where the lines are
    asked = expected['dev'][:50] + ['0', '40000 x', '']
    assert words.kinds(asked) == ['in train' if text in train else 'in dev or test' for text in asked[:50]] + [
        'new', 'new', 'empty']


def test_millions_of_lines_are_shuffled_by_torch_and_hold_the_same_lines(read):
    """Python's own shuffle takes seconds for them."""
    _, words = read('ab\nb\n' * 500_001, split='lecture')
    rows = torch.cat(list(words.rows.values()))
    assert torch.equal(rows, torch.randperm(1_000_002, generator=torch.Generator().manual_seed(42)))
    x, y, _ = makemore.batch(words, makemore.settle(dict(type='gru', batch_size=8)), 0)
    assert {words.decode([token for token in row if token >= 0]) for row in y.tolist()} == {'ab', 'b'}


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbfemma\r\nava\r\n')))
    cfg = makemore.settle(dict(input_file='-', split='all', type='gru'))
    words = makemore.read(cfg)
    assert sorted(lines(words, 'train')) == ['ava', 'emma']


def test_a_hundred_thousand_different_characters(read):
    codes = [code for code in range(0x4e00, 0x30000) if not 0xd800 <= code < 0xe000 and chr(code).strip()][:100_000]
    text = '\n'.join(''.join(map(chr, codes[i:i + 10])) for i in range(0, 100_000, 10))
    cfg, words = read(text, split='all', type='mlp', n_embd=2, n_hidden=2, batch_size=8)
    assert words.vocab_size == 100_001
    model = makemore.MODELS['mlp'](cfg, words.vocab_size)
    x, y, _ = makemore.batch(words, cfg, 0)
    assert model(x, y).item() == pytest.approx(torch.tensor(100_001).log().item(), rel=0.03)
    texts = makemore.sample(model, words, 2)
    assert len(texts) == 2 and set(''.join(texts)) <= set(text)


def test_lines_longer_than_the_window_are_cut_and_lose_nothing(read):
    long = ''.join(random.Random(3).choice('abc') for _ in range(150))
    cfg, words = read(f'{long}\nabc\n', split='all')
    assert cfg.block_size == 64
    pieces = lines(words, 'train')
    assert max(map(len, pieces)) <= 64 and sorted(map(len, pieces)) == sorted([64, 64, 22, 3])
    assert ''.join(pieces) in (long + 'abc', 'abc' + long)
    x, y = makemore.gather(words, *words.splits['train'])
    assert int((y == 0).sum()) == 2      # an end for every line, none for a piece
    assert int((x[:, 0] == 0).sum()) == 2      # and a start: a later piece begins with the character before it


def test_a_typed_block_size_cuts_too(read):
    cfg, words = read('abcdefgh\nab', split='all', block_size=4)
    assert cfg.block_size == 4 and sorted(lines(words, 'train')) == ['', 'ab', 'abcd', 'efgh']
    x, y = makemore.gather(words, *words.splits['train'])
    assert x.shape[1] == 4


# ----------------------------------------------------------------------------------------------------------------------
# Batches

def test_inputs_and_targets(read):
    _, words = read('emma\nab', split='all')
    x, y = makemore.gather(words, *words.splits['train'])
    e, m, a, b = (words.encode(letter)[0] for letter in 'emab')
    rows = {tuple(target): inputs for inputs, target in zip(x.tolist(), y.tolist())}
    assert rows[e, m, m, a, 0] == [0, e, m, m, a]
    assert rows[a, b, 0, -1, -1][:3] == [0, a, b]      # behind the end nothing is a target, whatever the inputs are


def test_a_batch_depends_on_seed_and_step_only(read, names):
    cfg, words = read(names.read_bytes(), batch_size=16, seed=5)
    first = [makemore.batch(words, cfg, step) for step in (0, 3, 25)]
    cfg, words = read(names.read_bytes(), batch_size=16, seed=5)
    torch.manual_seed(99)
    again = {step: makemore.batch(words, cfg, step) for step in (25, 0, 3)}
    for (x, y, share), step in zip(first, (0, 3, 25)):
        assert torch.equal(x, again[step][0]) and torch.equal(y, again[step][1]) and share == 1
    cfg.seed = 6
    assert not torch.equal(makemore.batch(words, cfg, 0)[1].sort().values, first[0][1].sort().values)


def test_an_epoch_visits_every_line_once(read, names):
    cfg, words = read(names.read_bytes(), batch_size=32, split='lecture')      # 160 lines of train: 5 steps
    epochs = []
    for epoch in range(2):
        epochs.append([])
        for step in range(5):
            x, y, _ = makemore.batch(words, cfg, 5 * epoch + step)
            assert x.shape[1] == int((y >= 0).sum(1).max()), 'cut to the longest line that is in it'
            epochs[-1] += [words.decode([token for token in row if token >= 0]) for row in y.tolist()]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(lines(words, 'train')) and epochs[0] != epochs[1]


def test_a_batch_may_be_larger_than_the_data(read):
    cfg, words = read('emma\nava\nmia', batch_size=64, split='all')
    x, y, _ = makemore.batch(words, cfg, 3)
    assert len(x) == 64 and len(y.unique(dim=0)) == 3


@pytest.mark.parametrize('size', [16, 100, 160, 1000])
def test_a_batch_by_hand(size, read, names):
    """Of step 7, one line after another: the same lines in the same order as ever, so that no run starts anew."""
    cfg, words = read(names.read_bytes(), batch_size=size, split='lecture', seed=5)
    x, y, share = makemore.batch(words, cfg, 7)
    starts, lengths = (t.tolist() for t in words.splits['train'])
    n, flat = len(starts), words.flat.tolist()
    epoch, place = divmod(7, max(1, n // size))
    order = torch.randperm(n, dtype=torch.int32, generator=makemore.seeded(5, epoch)).tolist()
    rows = [order[(place * size + i) % n] for i in range(size)]
    assert share == 1 and len(x) == size and x.shape == y.shape == (size, max(lengths[row] for row in rows))
    for row, inputs, targets in zip(rows, x.tolist(), y.tolist()):
        start, length = starts[row], lengths[row]
        assert inputs[:length] == flat[start:start + length]
        assert targets == flat[start + 1:start + length + 1] + [-1] * (len(targets) - length)


def test_what_is_known_of_a_text(read):
    texts = [f'{i:b}' for i in range(40)]
    _, words = read('\n'.join(texts), split='lecture')
    expected = lecture_split(texts)
    assert set(words.kinds(expected['train'])) == {'in train'}
    assert set(words.kinds(expected['dev'] + expected['test'])) == {'in dev or test'}
    assert words.kinds(['0000', '01', '1' * 9, 'snow\N{SNOWMAN}']) == ['new'] * 4


# ----------------------------------------------------------------------------------------------------------------------
# Bad input: one line that names the file, the line and the way out, exit code 2

BAD = {
    'missing': (None, [], ['bad.txt', 'No such file', '-i']),
    'a folder': ('folder', [], ['bad.txt', 'directory', '-i']),
    'empty': (b'', [], ['bad.txt', 'empty']),
    'blank lines only': (b'\n  \r\n\t\n', [], ['bad.txt', 'blank']),
    'only a byte order mark': (b'\xef\xbb\xbf', [], ['bad.txt', 'empty']),
    'bad bytes in line 3': ('emma\nmia\nzoë\n'.encode('latin-1'), [], ['bad.txt', 'line 3', 'utf-8', '--encoding']),
    'bad bytes in line 1': (b'\xffemma', [], ['bad.txt', 'line 1', 'utf-8', '--encoding']),
    'bad bytes in line 100': (b'emma\r\n' * 99 + b'\xe9\r\n', [], ['line 100']),
    'bad bytes behind a replacement character': ('\ufffd\nava\n'.encode() + b'\xff', [], ['line 3', 'utf-8']),
    'a multibyte character cut short': ('ava\n日'.encode()[:-1], [], ['line 2', 'utf-8']),
    'half of utf-16': ('ava\nmia'.encode('utf-16')[:-1], ['--encoding', 'utf-16'], ['bad.txt', 'utf-16', '--encoding']),
    'utf-16 read as utf-8': ('ava'.encode('utf-16'), [], ['bad.txt', 'line 1', '--encoding']),
    'not ascii': ('ava\nzoë'.encode(), ['--encoding', 'ascii'], ['line 2', 'ascii', '--encoding']),
    'no such encoding': (b'emma', ['--encoding', 'utf-9'], ['utf-9', '--encoding']),
    'an encoding of no text': (b'emma', ['--encoding', 'base64'], ['base64', '--encoding']),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_input_costs_one_line(run, tmp_path, kind):
    content, args, needles = BAD[kind]
    path = tmp_path / 'bad.txt'
    if content == 'folder':
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    code, out, err = run('-i', path, '--type', 'ngram', '-o', 'x', *args)
    assert (code, out, err.count('\n')) == (2, '', 1) and 'Traceback' not in err
    for needle in needles:
        assert needle in err
    assert not (tmp_path / 'x').exists()      # nothing is left behind


def test_an_unreadable_file(run, tmp_path):
    path = tmp_path / 'secret.txt'
    path.write_text('emma')
    path.chmod(0)
    try:
        path.read_bytes()      # root may read anything but the memory of a process at address 0
        path = '/proc/self/mem'
    except PermissionError:
        pass
    code, out, err = run('-i', path, '--type', 'ngram')
    assert (code, out, err.count('\n')) == (2, '', 1) and f'cannot read {path}' in err


def test_bad_bytes_on_standard_input(run, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'emma\n\xff\n')))
    code, out, err = run('-i', '-', '--type', 'ngram')
    assert (code, err.count('\n')) == (2, 1) and 'line 2' in err


@pytest.mark.parametrize('n', [1, 3, 9])
@pytest.mark.parametrize('kind', ['ngram', 'bn-mlp', 'transformer'])
def test_a_few_lines_are_enough_to_train(run, tmp_path, n, kind):
    (tmp_path / 'few.txt').write_text('\n'.join('emma ava mia noah liam ella zoe eva lily'.split()[:n]))
    code, out, err = run('-i', 'few.txt', '--type', kind, '--n-layer', 2, '--max-steps', 3, '--num-samples', 2)
    assert code == 0 and 'dev' in err and 'Traceback' not in err


def test_a_file_of_one_character(run, tmp_path):
    (tmp_path / 'a.txt').write_text('a\naa\na')
    assert run('-i', 'a.txt', '--type', 'mlp', '--max-steps', 3).code == 0


def test_what_is_unusual_about_a_file_is_said(run, tmp_path):
    (tmp_path / 'long.txt').write_text('ab' * 100)
    code, out, err = run('-i', 'long.txt', '--type', 'gru', '--max-steps', 1, '-o', 'x')
    assert code == 0 and 'no dev' in err and 'no test' in err and 'cut' in err and '64' in err
    (tmp_path / 'short.txt').write_text('\n'.join('abcdefghijklmnopqrst'))
    code, out, err = run('-i', 'short.txt', '--type', 'gru', '--max-steps', 1, '-o', 'y')
    assert code == 0 and 'no dev' not in err and 'cut' not in err
