"""Reading, splitting, encoding and batching, against the loops that one would write first."""

import collections
import io
import itertools
import random
import re
import sys

import pytest
import torch

import makemore

SPLITS = ('train', 'dev', 'test')


@pytest.fixture(scope='module')
def all_names(request):
    return (request.config.rootpath / 'names.txt').read_text().split('\n')


@pytest.fixture
def load(tmp_path):
    """load('emma', split='all'): config and data set of a file with this text or these bytes."""

    def load(content, **typed):
        path = tmp_path / 'data.txt'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        cli_args = {'input_file': str(path), 'type': 'gru', **typed}
        return makemore.load_data(makemore.resolve_config(cli_args))

    return load


def batch_of(dataset, split='train'):
    """Inputs and targets of a whole split."""
    return makemore.pad_batch(dataset.tokens, dataset.spans[split])


def lines_of(dataset, split):
    """The lines of a split, read from the targets that a model would get."""
    if not len(dataset.spans[split].starts):
        return []
    _, y = batch_of(dataset, split)
    return [decode_targets(dataset, row) for row in y.tolist()]


def decode_targets(dataset, targets):
    return dataset.decode([token for token in targets if token >= 0])


def lecture_split(texts):
    """The split of the lecture with lists."""
    texts = list(texts)
    random.Random(42).shuffle(texts)
    n1 = int(0.8 * len(texts))
    n2 = int(0.9 * len(texts))
    return {'train': texts[:n1], 'dev': texts[n1:n2], 'test': texts[n2:]}


# -----------------------------------------------------------------------------
# facts about names.txt


def test_facts_about_the_names(all_names):
    assert len(all_names) == 32033
    assert len(set(all_names)) == 29494
    assert max(map(len, all_names)) == 15
    pairs = collections.Counter()
    for name in all_names:
        pairs.update(itertools.pairwise(f'.{name}.'))
    assert pairs.most_common(3) == [(('n', '.'), 6763), (('a', '.'), 6640), (('a', 'n'), 5438)]


def test_the_lectures_split_of_the_names(all_names, request):
    path = request.config.rootpath / 'names.txt'
    cli_args = {'input_file': str(path), 'split': 'lecture', 'type': 'gru'}
    config, dataset = makemore.load_data(makemore.resolve_config(cli_args))
    assert config.block_size == 16
    assert dataset.vocab_size == 27
    assert dataset.encode('az') == [1, 26]
    n_targets = [int(dataset.spans[split].lengths.sum()) for split in SPLITS]
    assert n_targets == [182625, 22655, 22866]
    for split, expected in lecture_split(all_names).items():
        assert lines_of(dataset, split) == expected


# -----------------------------------------------------------------------------
# splits


def test_honest_removes_train_lines_from_dev_and_test(load):
    texts = [f'{i % 37:b}' for i in range(100)]
    _, dataset = load('\n'.join(texts), split='honest')
    expected = lecture_split(texts)
    train = set(expected['train'])
    assert lines_of(dataset, 'train') == expected['train']
    for split in ('dev', 'test'):
        kept = [text for text in expected[split] if text not in train]
        assert lines_of(dataset, split) == kept
        assert len(kept) < len(expected[split])  # otherwise this test shows nothing


def test_honest_says_how_many_lines_it_removed(run, tmp_path):
    texts = [f'{i % 37:b}' for i in range(100)]
    (tmp_path / 'n.txt').write_text('\n'.join(texts))
    expected = lecture_split(texts)
    heldout = expected['dev'] + expected['test']
    n_removed = sum(text in expected['train'] for text in heldout)
    assert n_removed > 0
    _, _, err = run('-i', 'n.txt', '--type', 'ngram')
    assert 'n.txt: 100 lines' in err
    assert f'; removed {n_removed} dev and test lines that also occur in train' in err


def test_all_is_train_and_dev(load):
    texts = ['emma', 'ava', 'mia', 'ava']
    _, dataset = load('\n'.join(texts), split='all')
    assert sorted(lines_of(dataset, 'train')) == sorted(texts)
    assert sorted(lines_of(dataset, 'dev')) == sorted(texts)
    assert not lines_of(dataset, 'test')


@pytest.mark.parametrize('split', ['honest', 'lecture', 'all'])
def test_the_split_does_not_depend_on_the_seed(load, split):
    text = '\n'.join(f'{i}' for i in range(50))
    _, one = load(text, split=split, seed=1)
    _, two = load(text, split=split, seed=2)
    for name in SPLITS:
        assert lines_of(one, name) == lines_of(two, name)


@pytest.mark.parametrize(
    'n, sizes', [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (9, (7, 1, 1)), (10, (8, 1, 1))]
)
def test_any_number_of_lines_has_a_train_split(load, n, sizes):
    _, dataset = load('\n'.join('abcdefghij'[:n]), split='lecture')
    assert tuple(len(lines_of(dataset, split)) for split in SPLITS) == sizes


# -----------------------------------------------------------------------------
# any text

# all of these hold the lines emma and ava
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
    'latin-1': (b'emma\nava', {'encoding': 'latin-1'}),
    'utf-16': ('emma\nava'.encode('utf-16'), {'encoding': 'utf-16'}),
    'all at once': (b'\xef\xbb\xbf\r\n  emma\t\r\n\r\n ava', {}),
}


@pytest.mark.parametrize('case', MESSY)
def test_messy_files_are_read_like_clean_ones(load, case):
    content, typed = MESSY[case]
    _, dataset = load(content, split='all', **typed)
    assert sorted(lines_of(dataset, 'train')) == ['ava', 'emma']
    assert dataset.vocab_size == 5


@pytest.mark.parametrize(
    'text', ['né 日本 🙂', 'a b', 'a\u00a0b', '.', 'x\x00y', 'e\u0301', '\U0010ffff\ue000']
)
def test_any_character_is_kept(load, text):
    _, dataset = load(f'{text}\nab\n', split='all')
    assert sorted(lines_of(dataset, 'train')) == sorted([text, 'ab'])
    assert dataset.vocab_size == len(set(text + 'ab')) + 1
    assert dataset.decode(dataset.encode(text)) == text


def test_latin_1_is_not_utf_8(load):
    _, dataset = load('zoë\n'.encode('latin-1'), split='all', encoding='latin-1')
    assert lines_of(dataset, 'train') == ['zoë']


def plain_lines(text):
    """The lines of a text as one would read them first."""
    lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
    return [line.strip() for line in lines if line.strip()]


def test_random_text_against_a_plain_reader(load):
    dice = random.Random(0)
    for _ in range(30):
        text = ''.join(dice.choice('ab \n\r\té日🙂') for _ in range(dice.randrange(1, 60))) + 'x'
        _, dataset = load(text, split='lecture')
        shuffled = plain_lines(text)
        random.Random(42).shuffle(shuffled)
        found = [line for split in SPLITS for line in lines_of(dataset, split)]
        assert found == shuffled


def messy_list(n):
    """n different kinds of lines and one very long one, with random spaces and line ends."""
    dice = random.Random(1)
    texts = [f'{dice.randrange(40000)} {dice.choice("xyé🙂")}' for _ in range(n)]
    texts.insert(n // 3, 'z' * 4000)
    parts = []
    for text in texts:
        before = dice.choice(['', ' ', '\t'])
        after = dice.choice(['\n', '\n', '\r\n', ' \n\n'])
        parts.append(before + text + after)
    return texts, ''.join(parts)


@pytest.mark.slow
def test_a_large_messy_file_against_plain_python(load):
    """60,000 lines with repetitions: lines, splits, removed lines and classes, all by lists.

    In earlier versions a file was read piece by piece, and lines could break at the seams.
    """
    texts, messy = messy_list(60_000)
    assert plain_lines(messy) == texts
    _, dataset = load(messy, type='ngram', split='honest')
    # the tabs are gone, with the line ends where they stood
    assert dataset.vocab_size == len(set(''.join(texts))) + 1
    assert dataset.n_chars == len(''.join(texts)) + len(texts)
    assert dataset.max_len == 4000
    stored = dataset.decode(dataset.tokens[1:-1].tolist())
    assert stored == ''.join(texts)
    boundaries = (dataset.tokens == 0).nonzero().flatten()
    assert (boundaries.diff() - 1).tolist() == list(map(len, texts))

    expected = lecture_split(texts)
    train = set(expected['train'])
    heldout = [text for text in expected['dev'] + expected['test'] if text not in train]
    n_heldout = len(expected['dev']) + len(expected['test'])
    assert dataset.train_lines == expected['train']
    assert dataset.heldout_lines == heldout
    assert dataset.n_removed == n_heldout - len(heldout) > 0
    for split in ('dev', 'test'):
        kept = [text for text in expected[split] if text not in train]
        assert lines_of(dataset, split) == kept

    asked = expected['dev'][:50]
    classes = ['in train' if text in train else 'in dev or test' for text in asked]
    assert set(classes) == {'in train', 'in dev or test'}
    asked += ['0', '40000 x', '']
    assert dataset.classify(asked) == [*classes, 'new', 'new', 'empty']


@pytest.mark.slow
def test_a_million_lines_are_split_like_a_few(load):
    """Once torch shuffled more than a million lines, and another split came out."""
    n = 1_000_002
    rows = makemore.split_lines(range(n), 'lecture')
    assert rows == lecture_split(range(n))


def test_standard_input(monkeypatch):
    raw = io.BytesIO(b'\xef\xbb\xbfemma\r\nava\r\n')
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(raw))
    cli_args = {'input_file': '-', 'split': 'all', 'type': 'gru'}
    _, dataset = makemore.load_data(makemore.resolve_config(cli_args))
    assert sorted(lines_of(dataset, 'train')) == ['ava', 'emma']


def many_characters(n):
    """n different characters, without surrogates and without spaces."""
    chars = map(chr, itertools.chain(range(0x4E00, 0xD800), range(0xE000, 0x30000)))
    return list(itertools.islice((ch for ch in chars if ch.strip()), n))


def test_a_hundred_thousand_different_characters(load):
    chars = many_characters(100_000)
    text = '\n'.join(''.join(chars[i : i + 10]) for i in range(0, len(chars), 10))
    typed = {'type': 'mlp', 'n_embd': 2, 'n_hidden': 2, 'batch_size': 8}
    config, dataset = load(text, split='all', **typed)
    assert dataset.vocab_size == 100_001
    model = makemore.MODELS['mlp'](config, dataset.vocab_size)
    x, y, _ = makemore.get_batch(dataset, config, 0)
    uniform = torch.tensor(100_001).log().item()
    assert model(x, y).item() == pytest.approx(uniform, rel=0.03)
    samples = makemore.sample(model, dataset, 2)
    assert len(samples) == 2
    assert set(''.join(samples)) <= set(text)


def test_more_characters_than_unicode_has_are_refused():
    """A checkpoint of 4 MB that names 970,000 characters took 150 MB to load."""
    with pytest.raises(makemore.UserError, match='300,001 different characters: at most 300,000'):
        makemore.CharTokenizer(''.join(map(chr, range(300_001))))


def test_lines_longer_than_the_context_are_cut_and_lose_nothing(load):
    dice = random.Random(3)
    long = ''.join(dice.choice('abc') for _ in range(150))
    config, dataset = load(f'{long}\nabc\n', split='all')
    assert config.block_size == 64
    pieces = lines_of(dataset, 'train')
    assert sorted(map(len, pieces)) == [3, 22, 64, 64]
    assert ''.join(pieces) in (long + 'abc', 'abc' + long)
    x, y = batch_of(dataset)
    assert int((y == 0).sum()) == 2  # an end for each line, none for a piece
    # and a start: a later piece begins with the character before it
    assert int((x[:, 0] == 0).sum()) == 2


def test_a_typed_block_size_cuts_too(load):
    config, dataset = load('abcdefgh\nab', split='all', block_size=4)
    assert config.block_size == 4
    assert sorted(lines_of(dataset, 'train')) == ['', 'ab', 'abcd', 'efgh']
    x, _ = batch_of(dataset)
    assert x.shape[1] == 4


def test_cut_spans_against_a_loop():
    dice = random.Random(0)
    lengths = [dice.randrange(0, 30) for _ in range(100)]
    starts = list(itertools.accumulate([3, *lengths[:-1]]))
    expected = []
    for start, length in zip(starts, lengths, strict=True):
        for offset in range(0, length, 7):
            expected.append((start + offset, min(7, length - offset)))
    spans = makemore.Spans(torch.tensor(starts), torch.tensor(lengths))
    pieces = makemore.cut_spans(spans, 7)
    found = zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)
    assert list(found) == expected


@pytest.mark.parametrize('typed', [{}, {'text': True}, {'tokenizer': 'bpe', 'vocab_size': 260}])
def test_a_data_set_restored_from_its_state(load, names, typed):
    """What a checkpoint keeps is enough to encode, to decode and to tell what is new."""
    _, dataset = load(names.read_bytes(), **typed)
    restored = makemore.restore_dataset(dataset.state())
    assert type(restored) is type(dataset)
    for name in ('max_len', 'vocab_size', 'chars', 'train_lines', 'heldout_lines', 'first_id'):
        assert getattr(restored, name) == getattr(dataset, name)
    assert restored.tokens is None
    assert restored.encode('emma') == dataset.encode('emma')
    assert restored.decode(dataset.encode('emma')) == 'emma'
    assert restored.state() == dataset.state()


# -----------------------------------------------------------------------------
# batches


def test_inputs_and_targets(load):
    _, dataset = load('emma\nab', split='all')
    x, y = batch_of(dataset)
    e, m, a, b = (dataset.encode(letter)[0] for letter in 'emab')
    inputs_of = dict(zip(map(tuple, y.tolist()), x.tolist(), strict=True))
    assert inputs_of[e, m, m, a, 0] == [0, e, m, m, a]
    # behind the end of a line nothing is a target, whatever the inputs are
    assert inputs_of[a, b, 0, -1, -1][:3] == [0, a, b]


def test_a_batch_depends_on_seed_and_step_only(load, names):
    steps = (0, 3, 25)
    config, dataset = load(names.read_bytes(), batch_size=16, seed=5)
    first = {step: makemore.get_batch(dataset, config, step) for step in steps}
    config, dataset = load(names.read_bytes(), batch_size=16, seed=5)
    torch.manual_seed(99)
    again = {step: makemore.get_batch(dataset, config, step) for step in reversed(steps)}
    for step in steps:
        x, y, weight = first[step]
        assert torch.equal(x, again[step][0])
        assert torch.equal(y, again[step][1])
        assert weight == 1

    config.seed = 6
    _, y, _ = makemore.get_batch(dataset, config, 0)
    assert not torch.equal(y.sort().values, first[0][1].sort().values)


def test_an_epoch_visits_every_line_once(load, names):
    # 160 lines of train: 5 steps
    config, dataset = load(names.read_bytes(), batch_size=32, split='lecture')
    epochs = []
    for epoch in range(2):
        lines = []
        for step in range(5):
            x, y, _ = makemore.get_batch(dataset, config, 5 * epoch + step)
            longest = int((y >= 0).sum(1).max())
            assert x.shape[1] == longest, 'cut to the longest line of the batch'
            lines += [decode_targets(dataset, row) for row in y.tolist()]
        epochs.append(lines)
    train = sorted(lines_of(dataset, 'train'))
    assert sorted(epochs[0]) == train
    assert sorted(epochs[1]) == train
    assert epochs[0] != epochs[1]


def test_a_batch_may_be_larger_than_the_data(load):
    config, dataset = load('emma\nava\nmia', batch_size=64, split='all')
    x, y, _ = makemore.get_batch(dataset, config, 3)
    assert len(x) == 64
    assert len(y.unique(dim=0)) == 3


@pytest.mark.parametrize('size', [16, 100, 160, 1000])
def test_a_batch_in_loops(size, load, names):
    """Step 7, one line after another.

    The lines and their order are those of earlier versions of makemore.py, so that runs can be
    repeated.
    """
    config, dataset = load(names.read_bytes(), batch_size=size, split='lecture', seed=5)
    x, y, weight = makemore.get_batch(dataset, config, 7)
    starts, lengths = (t.tolist() for t in dataset.spans['train'])
    tokens = dataset.tokens.tolist()
    n = len(starts)
    epoch, place = divmod(7, max(1, n // size))
    generator = makemore.make_generator(5, epoch)
    order = torch.randperm(n, dtype=torch.int32, generator=generator).tolist()
    rows = [order[(place * size + i) % n] for i in range(size)]

    assert weight == 1
    assert x.shape == y.shape == (size, max(lengths[row] for row in rows))
    for row, inputs, targets in zip(rows, x.tolist(), y.tolist(), strict=True):
        start = starts[row]
        end = start + lengths[row]
        assert inputs[: end - start] == tokens[start:end]
        padding = [-1] * (len(targets) - (end - start))
        assert targets == tokens[start + 1 : end + 1] + padding


def test_classes_of_texts(load):
    texts = [f'{i:b}' for i in range(40)]
    _, dataset = load('\n'.join(texts), split='lecture')
    expected = lecture_split(texts)
    assert set(dataset.classify(expected['train'])) == {'in train'}
    assert set(dataset.classify(expected['dev'] + expected['test'])) == {'in dev or test'}
    new = ['0000', '01', '1' * 9, 'snow\N{SNOWMAN}']
    assert dataset.classify(new) == ['new'] * 4


def test_a_large_file_is_announced(tmp_path, monkeypatch, capsys):
    """Reading a million lines takes seconds, in which nothing was shown."""
    path = tmp_path / 'lines.txt'
    path.write_text('emma\n' * 300_000)
    makemore.read_text(str(path), 'utf-8')
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(makemore, 'SLOW_TO_READ', 2**20)
    makemore.read_text(str(path), 'utf-8')
    # the line ends are two bytes on Windows
    assert re.fullmatch(r'reading .*lines.txt \(\d MB\)\n', capsys.readouterr().err)


def test_reading_from_the_keyboard_says_how_to_end(monkeypatch, capsys):
    """-i - without a pipe seemed to hang."""
    stdin = io.TextIOWrapper(io.BytesIO(b'emma\nava\n'))
    monkeypatch.setattr(sys, 'stdin', stdin)
    assert makemore.read_text('-', 'utf-8') == 'emma\nava\n'
    assert capsys.readouterr().err == ''

    stdin = io.TextIOWrapper(io.BytesIO(b'emma\nava\n'))
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, 'stdin', stdin)
    assert makemore.read_text('-', 'utf-8') == 'emma\nava\n'
    assert capsys.readouterr().err == 'reading from the keyboard; end with Ctrl-D\n'


# -----------------------------------------------------------------------------
# bad input: one line that names the file, the line and the way out, exit code 2

# content of bad.txt, typed options -> what the message has to contain
BAD = {
    'missing': (None, '', ['bad.txt', 'No such file', '-i']),
    'a folder': ('folder', '', ['bad.txt', 'directory', '-i']),
    'empty': (b'', '', ['bad.txt', 'empty']),
    'blank lines only': (b'\n  \r\n\t\n', '', ['bad.txt', 'blank']),
    'only a byte order mark': (b'\xef\xbb\xbf', '', ['bad.txt', 'empty']),
    'bad bytes in line 3': (
        'emma\nmia\nzoë\n'.encode('latin-1'),
        '',
        ['bad.txt', 'line 3', 'utf-8', '--encoding'],
    ),
    'bad bytes in line 1': (b'\xffemma', '', ['bad.txt', 'line 1', 'utf-8', '--encoding']),
    'bad bytes in line 100': (b'emma\r\n' * 99 + b'\xe9\r\n', '', ['line 100']),
    'bad bytes behind a replacement character': (
        '\ufffd\nava\n'.encode() + b'\xff',
        '',
        ['line 3', 'utf-8'],
    ),
    'a multibyte character cut short': ('ava\n日'.encode()[:-1], '', ['line 2', 'utf-8']),
    'half of utf-16': (
        'ava\nmia'.encode('utf-16')[:-1],
        '--encoding utf-16',
        ['bad.txt', 'utf-16', '--encoding'],
    ),
    'utf-16 read as utf-8': ('ava'.encode('utf-16'), '', ['bad.txt', 'line 1', '--encoding']),
    'utf-16 is guessed': ('ava'.encode('utf-16'), '', ['as in --encoding utf-16']),
    'a picture': (b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', '', ['bad.txt is not a text file']),
    'not ascii': ('ava\nzoë'.encode(), '--encoding ascii', ['line 2', 'ascii', '--encoding']),
    'no such encoding': (b'emma', '--encoding utf-9', ['utf-9', '--encoding']),
    'an encoding of no text': (b'emma', '--encoding base64', ['base64', '--encoding']),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_reported_in_one_line(run, tmp_path, case):
    content, options, expected = BAD[case]
    path = tmp_path / 'bad.txt'
    if content == 'folder':
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    code, out, err = run('-i', path, '--type', 'ngram', '-o', 'x', *options.split())
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'Traceback' not in err
    for part in expected:
        assert part in err
    assert not (tmp_path / 'x').exists()  # nothing is left behind


def test_an_unreadable_file(run, tmp_path):
    path = tmp_path / 'secret.txt'
    path.write_text('emma')
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        pass
    else:  # root may read any file, but not the memory of a process at address 0
        path = '/proc/self/mem'
    code, out, err = run('-i', path, '--type', 'ngram')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert f'cannot read {path}' in err


def test_bad_bytes_on_standard_input(run, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'emma\n\xff\n')))
    code, _, err = run('-i', '-', '--type', 'ngram')
    assert (code, err.count('\n')) == (2, 1)
    assert 'line 2' in err


@pytest.mark.parametrize('n', [1, 3, 9])
@pytest.mark.parametrize('model_type', ['ngram', 'bn-mlp', 'transformer'])
def test_a_few_lines_are_enough_to_train(run, tmp_path, n, model_type):
    names = ['emma', 'ava', 'mia', 'noah', 'liam', 'ella', 'zoe', 'eva', 'lily']
    (tmp_path / 'few.txt').write_text('\n'.join(names[:n]))
    line = f'-i few.txt --type {model_type} --n-layer 2 --max-steps 3 --num-samples 2'
    code, _, err = run(*line.split())
    assert code == 0
    assert 'dev' in err
    assert 'Traceback' not in err


def test_a_file_of_one_character(run, tmp_path):
    (tmp_path / 'a.txt').write_text('a\naa\na')
    assert run('-i', 'a.txt', '--type', 'mlp', '--max-steps', 3).code == 0


def test_what_is_unusual_about_a_file_is_reported(run, tmp_path):
    (tmp_path / 'long.txt').write_text('ab' * 100)
    code, _, err = run('-i', 'long.txt', '--type', 'gru', '--max-steps', 1, '-o', 'x')
    assert code == 0
    assert 'no dev' in err
    assert 'no test' in err
    assert 'lines of more than 63 tokens are cut into pieces of 64' in err

    (tmp_path / 'short.txt').write_text('\n'.join('abcdefghijklmnopqrst'))
    code, _, err = run('-i', 'short.txt', '--type', 'gru', '--max-steps', 1, '-o', 'y')
    assert code == 0
    assert 'no dev' not in err
    assert 'cut' not in err
