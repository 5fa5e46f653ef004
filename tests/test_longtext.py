"""A text larger than memory: its token file, when that is used again, and what is counted of it.

A small text is treated as a large one here, by a lower limit.
"""

import io
import json
import os
import random
import stat
import sys
from pathlib import Path

import pytest
import torch

import makemore
from makemore_extras import longtext

pytest_plugins = ['fork_fixtures']
pytestmark = pytest.mark.slow  # each is quick, but there are many

VERBS = ['say', 'do', 'hear', 'see']
SPEECHES = [
    f'SPEAKER {"ABCDEFG"[i % 7]}:\nWhat is it that you {VERBS[i % 4]}, good sir?\n\n'
    for i in range(60)
]
PLAY = ''.join(SPEECHES)
TRAIN = ['--text', '--type', 'bigram', '--max-steps', 1, '--length', 5, '--overwrite']


class KilledError(BaseException):
    """Ends the program on the spot, as kill -9 would."""


@pytest.fixture(autouse=True)
def every_text_is_large(monkeypatch):
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 0)


@pytest.fixture
def play(tmp_path):
    """A file with a small play."""
    path = tmp_path / 'play.txt'
    path.write_text(PLAY, encoding='utf-8')
    return path


@pytest.fixture
def folder(tmp_path):
    """The folder of a run."""
    path = tmp_path / 'trained'
    path.mkdir()
    return path


@pytest.fixture
def train_on(run, play, folder):
    """train_on('--encoding', 'latin-1'): a run of one step on the play."""

    def train_on(*args):
        return run('-i', play, '-o', folder, '--device', 'cpu', *TRAIN, *args)

    return train_on


def load(path, folder, **settings):
    """The data set of a large text, with its tokens in the folder."""
    cli_args = {'text': True, 'type': 'bigram', 'input_file': str(path), **settings}
    _, dataset = makemore.load_data(makemore.resolve_config(cli_args), folder)
    return dataset


def text_of(dataset):
    return dataset.decode(dataset.tokens.tolist())


def were_reused(result):
    """Whether a run used the tokens that were in the folder already."""
    assert result.code == 0, result.err
    return 'reusing these tokens, the text has not changed' in result.err


# -----------------------------------------------------------------------------
# the token file


def test_the_tokens_of_a_large_text_lie_in_the_folder(train_on, folder):
    assert train_on().code == 0
    assert (folder / 'tokens.bin').stat().st_size == len(PLAY)  # one byte each


def test_a_small_text_has_no_token_file(train_on, folder, monkeypatch):
    monkeypatch.setattr(makemore, 'LARGE_TEXT', len(PLAY))
    assert train_on().code == 0
    assert not (folder / 'tokens.bin').exists()


def test_without_the_extras_a_text_of_any_size_is_held_in_memory(train_on, folder, monkeypatch):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', False)
    assert train_on().code == 0
    assert not (folder / 'tokens.bin').exists()


@pytest.mark.parametrize('model_type', ['ngram', 'bigram', 'gru', 'transformer'])
def test_a_large_text_trains_to_the_same_weights_as_a_small_one(
    model_type, run, play, tmp_path, monkeypatch
):
    args = ['-i', play, '--text', '--type', model_type, '--max-steps', 3, '--block-size', 4]
    states = []
    for folder, limit in (('large', 0), ('small', 2**30)):
        monkeypatch.setattr(makemore, 'LARGE_TEXT', limit)
        assert run(*args, '-o', tmp_path / folder, '--length', 5).code == 0
        assert (tmp_path / folder / 'tokens.bin').exists() == (limit == 0)
        checkpoint = torch.load(tmp_path / folder / 'last.pt', weights_only=True)
        states.append(checkpoint['model'])
    for name, weights in states[0].items():
        assert torch.equal(states[1][name], weights), name


@pytest.mark.parametrize('text', [PLAY, PLAY.upper()])
def test_a_text_from_a_pipe_is_held_in_memory(text, folder, monkeypatch):
    """It can be read only once, and nobody knows whether it is the same the next time."""
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.encode())))
    assert text_of(load('-', folder)) == text
    assert list(folder.iterdir()) == []


TEXTS = {
    'ascii': PLAY,
    'an accent': PLAY + 'é',
    'beyond 16 bits': PLAY + '🙂',
    'many characters': ''.join(map(chr, range(300, 2000))) * 3,
    'a zero byte and Windows line ends': 'a\x00b\r\nc ' * 30000,
}


@pytest.mark.parametrize('tokenizer', ['char', 'bpe'])
@pytest.mark.parametrize('text', TEXTS.values(), ids=TEXTS)
def test_tokens_lie_on_disk_in_the_smallest_type(text, tokenizer, play, folder):
    play.write_bytes(text.encode())
    dataset = load(play, folder, vocab_size=300, tokenizer=tokenizer)
    assert text_of(dataset) == text.replace('\r\n', '\n')
    itemsize = 1 if dataset.vocab_size <= 256 else 2
    assert (folder / 'tokens.bin').stat().st_size == itemsize * len(dataset.tokens)


@pytest.mark.parametrize('piece', [1, 7, 100, 2**17])
def test_the_size_of_the_pieces_does_not_matter(piece, play, folder, tmp_path, monkeypatch):
    """Of what is read at a time; a line end of Windows may lie across the border of two pieces."""
    play.write_bytes(PLAY.replace('\n', '\r\n').encode('utf-8-sig'))
    monkeypatch.setattr(longtext, 'PIECE', piece)
    dataset = load(play, folder)
    assert text_of(dataset) == PLAY
    assert dataset.max_len == int(0.9 * len(PLAY))
    assert dataset.n_chars == len(PLAY)
    assert dataset.chars == ''.join(sorted(set(PLAY)))


@pytest.mark.parametrize('start, stop', [(0, None), (0, 50), (30, None), (30, 50), (30, 30)])
@pytest.mark.parametrize('piece', [1, 7, 1000])
def test_pieces_from_start_to_stop(piece, start, stop, play, monkeypatch):
    monkeypatch.setattr(longtext, 'PIECE', piece)
    assert ''.join(longtext.read_pieces(str(play), 'utf-8', start, stop)) == PLAY[start:stop]


@pytest.mark.parametrize('tokenizer', ['char', 'bpe'])
def test_dev_begins_at_the_same_character_as_in_memory(tokenizer, play, folder, monkeypatch):
    large = load(play, folder, tokenizer=tokenizer, vocab_size=270)
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 2**30)
    small = load(play, None, tokenizer=tokenizer, vocab_size=270)
    assert large.max_len == small.max_len
    assert large.tokens.tolist() == small.tokens.tolist()
    assert large.tokens.dtype == small.tokens.dtype
    assert large.tokens_per_char == small.tokens_per_char
    for split in ('train', 'dev', 'test'):
        for a, b in zip(large.spans[split], small.spans[split], strict=True):
            assert torch.equal(a, b)


def test_a_large_text_of_one_character_is_refused(train_on, play):
    play.write_text('a' * 100)
    result = train_on()
    assert result.code == 2
    assert 'play.txt holds too little text' in result.err


@pytest.mark.parametrize('content', [b'\xff' * 100, PLAY.encode() + b'\xff'])
def test_a_text_in_another_encoding_is_refused_with_its_line(content, train_on, play):
    play.write_bytes(content)
    result = train_on()
    line = content.count(b'\n') + 1
    assert result.code == 2
    assert f'play.txt, line {line} is not utf-8' in result.err


def test_an_unknown_encoding_is_refused(train_on):
    result = train_on('--encoding', 'utf-9')
    assert result.code == 2
    assert 'unknown encoding: utf-9' in result.err


# -----------------------------------------------------------------------------
# when the tokens are used again


def test_resuming_uses_the_tokens_again(train_on, run, folder):
    assert not were_reused(train_on())
    before = (folder / 'tokens.bin').stat()
    assert were_reused(run('--resume', '-o', folder, '--max-steps', 2))
    assert (folder / 'tokens.bin').stat().st_mtime_ns == before.st_mtime_ns


def test_the_same_content_with_a_new_time_is_the_same_text(train_on, play):
    """Copied or touched: the tokens are still right, and encoding takes long."""
    train_on()
    os.utime(play, (1, 1))
    assert were_reused(train_on())
    play.write_text(PLAY, encoding='utf-8')
    assert were_reused(train_on())


def test_the_same_content_under_another_name_is_the_same_text(train_on, run, play, folder):
    train_on()
    copy = play.with_name('copy.txt')
    copy.write_bytes(play.read_bytes())
    assert were_reused(run('-i', copy, '-o', folder, *TRAIN))


def test_other_content_of_the_same_length_and_time_is_another_text(train_on, play, folder):
    """A time that was set back must not bring the old tokens to a new text."""
    train_on()
    stat = play.stat()
    play.write_text(PLAY.replace('good', 'kind'), encoding='utf-8')
    os.utime(play, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert play.stat().st_size == stat.st_size
    assert not were_reused(train_on())
    assert text_of(load(play, folder)) == PLAY.replace('good', 'kind')
    assert were_reused(train_on())


def test_other_options_make_other_tokens(train_on):
    assert not were_reused(train_on())
    assert not were_reused(train_on('--encoding', 'latin-1'))
    assert not were_reused(train_on())
    bpe = ['--tokenizer', 'bpe', '--vocab-size']
    assert not were_reused(train_on(*bpe, 270))
    assert not were_reused(train_on(*bpe, 271))
    assert were_reused(train_on(*bpe, 271))
    assert not were_reused(train_on())
    assert were_reused(train_on())


def test_a_tokenizer_file_with_other_content_makes_other_tokens(train_on, tmp_path):
    from tokenizer import Tokenizer

    path = tmp_path / 'tok.json'
    Tokenizer().train(PLAY, 270).save(path)
    assert not were_reused(train_on('--tokenizer', path))
    assert were_reused(train_on('--tokenizer', path))
    Tokenizer().train(PLAY.upper(), 270).save(path)
    assert not were_reused(train_on('--tokenizer', path))
    assert were_reused(train_on('--tokenizer', path))


def cut(tokens):
    tokens.write_bytes(tokens.read_bytes()[:-1])


def flip(tokens):
    """One bit of one token is another one."""
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content)


def append(tokens):
    tokens.write_bytes(tokens.read_bytes() + b'\x00')


def empty(tokens):
    tokens.write_bytes(b'')


def delete(tokens):
    """As somebody does who needs the room."""
    tokens.unlink()


@pytest.mark.parametrize('spoil', [cut, flip, append, empty, delete])
def test_a_spoilt_token_file_is_written_anew(spoil, train_on, play, folder):
    train_on()
    spoil(folder / 'tokens.bin')
    assert not were_reused(train_on())
    assert text_of(load(play, folder)) == PLAY
    assert were_reused(train_on())


NOTE_ENTRIES = ['source', 'n_chars', 'n_train_tokens', 'bytes_per_token', 'hash', 'dataset']
STRANGE_VALUES = [None, -1, 0, 10**30, 1.5, 'x', [], {}, [1]]
PLAUSIBLE_VALUES = {
    'n_train_tokens': int(0.9 * len(PLAY)) - 1,
    'n_chars': len(PLAY) - 1,
    'bytes_per_token': 2,
    'dataset': makemore.CharDataset(makemore.CharTokenizer('abc'), 0, is_text=True).state(),
}


def change_note(folder, change):
    """Change the note, or all of the file around it, and write it as it was written."""
    path = folder / 'tokens.json'
    content = json.loads(path.read_text(encoding='utf-8'))
    change(content)
    path.write_text(json.dumps(content), encoding='utf-8')


def assert_written_anew(play, folder):
    """Never a traceback, and never a data set that is not that of the text."""
    dataset = load(play, folder)
    assert text_of(dataset) == PLAY
    assert dataset.max_len == int(0.9 * len(PLAY))
    assert dataset.n_chars == len(PLAY)


@pytest.mark.parametrize('name', NOTE_ENTRIES)
def test_a_note_that_lacks_an_entry_is_written_anew(name, play, folder):
    load(play, folder)
    change_note(folder, lambda content: content['note'].pop(name))
    assert_written_anew(play, folder)


@pytest.mark.parametrize('value', STRANGE_VALUES, ids=repr)
@pytest.mark.parametrize('name', NOTE_ENTRIES)
def test_a_note_with_a_strange_entry_is_written_anew(name, value, play, folder):
    load(play, folder)
    change_note(folder, lambda content: content['note'].update({name: value}))
    assert_written_anew(play, folder)


@pytest.mark.parametrize('name', PLAUSIBLE_VALUES)
def test_a_note_with_a_plausible_but_wrong_entry_is_written_anew(name, play, folder):
    load(play, folder)
    change_note(folder, lambda content: content['note'].update({name: PLAUSIBLE_VALUES[name]}))
    assert_written_anew(play, folder)


@pytest.mark.parametrize('value', STRANGE_VALUES, ids=repr)
@pytest.mark.parametrize('name', ['note', 'hash'])
def test_a_note_in_something_strange_is_written_anew(name, value, play, folder):
    load(play, folder)
    change_note(folder, lambda content: content.update({name: value}))
    assert_written_anew(play, folder)


SPOILT_NOTES = {
    'empty': b'',
    'a bracket': b'[',
    'a list': b'[]',
    'a number': b'5',
    'null': b'null',
    'a string': b'"source"',
    'an empty dictionary': b'{}',
    'zeros': b'\x00' * 100,
    'not utf-8': b'\xff\xfe',
    'very deep': b'[' * 100_000,
    'a very long number': b'1' * 100_000,
}


@pytest.mark.parametrize('content', SPOILT_NOTES.values(), ids=SPOILT_NOTES)
def test_a_note_that_is_none_is_written_anew(content, train_on, play, folder):
    load(play, folder)
    (folder / 'tokens.json').write_bytes(content)
    assert not were_reused(train_on())
    assert text_of(load(play, folder)) == PLAY
    assert were_reused(train_on())


@pytest.mark.parametrize('seed', range(40))
def test_a_note_with_a_flipped_bit_is_never_believed(seed, play, folder):
    load(play, folder)
    path = folder / 'tokens.json'
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    assert_written_anew(play, folder)


def damage(raw, dice):
    """The bytes with a flipped bit, a part cut out, or some bytes more."""
    place = dice.randrange(len(raw))
    size = dice.choice([1, 2, 8, 100])
    flipped = raw[:place] + bytes([raw[place] ^ 1 << dice.randrange(8)]) + raw[place + 1 :]
    shorter = raw[:place] + raw[place + size :]
    longer = raw[:place] + dice.randbytes(size) + raw[place:]
    return dice.choice([flipped, raw[:place], shorter, longer, raw + dice.randbytes(size)])


@pytest.mark.parametrize('where', ['tokens', 'note', 'text'])
def test_random_damage_is_noticed(where, play, folder, long):
    """A token file is used only as it was written, and only for the text as it was.

    With --long a thousand times.
    """
    load(play, folder)
    options = ['utf-8', 'char', makemore.Config.vocab_size]
    good = longtext.open_tokens(folder, str(play), options)
    good = good._replace(tokens=good.tokens.clone())
    path = {'tokens': folder / 'tokens.bin', 'note': folder / 'tokens.json', 'text': play}[where]
    raw = path.read_bytes()
    dice = random.Random(where)
    n_noticed = 0
    while n_noticed < long(50, 334):
        damaged = damage(raw, dice)
        path.write_bytes(damaged)
        found = longtext.open_tokens(folder, str(play), options)
        if found is None:
            n_noticed += 1
        else:  # a note may have more spaces, and the same text was cut out and put in
            assert where == 'note' or damaged == raw
            assert torch.equal(found.tokens, good.tokens)
            assert found[1:] == good[1:]


@pytest.mark.parametrize('name', ['tokens.bin', 'tokens.json'])
def test_a_folder_in_the_place_of_a_file_is_reported_in_one_line(name, train_on, folder):
    (folder / name).mkdir()
    result = train_on()
    assert result.code in (1, 2)
    assert 'Traceback' not in result.err
    assert name in result.err.splitlines()[-1]


# -----------------------------------------------------------------------------
# interruptions


@pytest.mark.parametrize('last', ['tokens.bin', 'tokens.json'])
def test_a_kill_while_tokens_are_written_leaves_nothing_to_believe(
    last, train_on, play, folder, monkeypatch
):
    """Also where new tokens would stand beside the note on old ones: the note is removed first."""
    assert train_on().code == 0
    play.write_text(PLAY.replace('What', 'That'))
    write_atomically = makemore.write_atomically

    def write_until_killed(path, write):
        if path.name == last:
            path.with_name(path.name + '.tmp').write_bytes(b'half')
            raise KilledError
        write_atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(makemore, 'write_atomically', write_until_killed)
        train_on()
    assert not (folder / 'tokens.json').exists()

    play.write_text(PLAY)
    assert not were_reused(train_on())
    assert text_of(load(play, folder)) == PLAY


@pytest.mark.parametrize('change', [str.upper, lambda text: text + '!', lambda text: text[:500]])
def test_a_text_that_changes_while_it_is_read_is_refused(
    change, train_on, play, folder, monkeypatch
):
    """Its tokens would be neither those of the old text nor those of the new one."""
    encode_pieces = longtext.encode_pieces

    def change_and_encode(pieces, tokenizer, file):
        play.write_text(change(PLAY))
        return encode_pieces(pieces, tokenizer, file)

    with monkeypatch.context() as patch:
        patch.setattr(longtext, 'encode_pieces', change_and_encode)
        result = train_on()
    assert result.code == 1
    assert 'play.txt changed while it was read: start again' in result.err.splitlines()[-1]
    assert not (folder / 'tokens.json').exists()
    assert not were_reused(train_on())
    assert text_of(load(play, folder)) == change(PLAY)


def test_a_full_disk_is_reported_in_one_line(train_on, folder, monkeypatch):
    def fail(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # not for the folder
            raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', fail)
        result = train_on()
    assert result.code == 1
    assert 'tokens.bin: [Errno 28] No space left' in result.err.splitlines()[-1]
    assert sorted(path.name for path in folder.iterdir()) == ['lock']
    assert train_on().code == 0


def test_tokens_are_not_written_into_a_folder_in_use(train_on, folder):
    """A second run used to write its tokens under those that the first one had mapped."""
    assert train_on().code == 0
    before = (folder / 'tokens.bin').stat()
    with makemore.lock_run_dir(folder):
        result = train_on('--encoding', 'latin-1')
    assert result.code == 2
    assert 'is in use by another run' in result.err
    after = (folder / 'tokens.bin').stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# -----------------------------------------------------------------------------
# several processes and progress bars


def test_one_process_writes_the_tokens_and_the_others_wait(play, folder, monkeypatch):
    """All of them used to write the same file at once."""
    events = []
    write_tokens = longtext.write_tokens

    def written_here(*args, **more):
        events.append('written by the second process')

    def wait(*numbers):
        """Meanwhile the first process writes."""
        events.append('waited')
        tokenizer = makemore.CharTokenizer(''.join(sorted(set(PLAY))))
        state = makemore.CharDataset(tokenizer, 0, is_text=True).state()
        write_tokens(
            folder,
            str(play),
            ['utf-8', 'char', 512],
            lambda chars, train: (tokenizer, state),
            save=makemore.write_atomically,
            progress=lambda pieces, label: pieces,
        )
        return list(numbers)

    monkeypatch.setattr(makemore, 'get_rank', lambda: 1)
    monkeypatch.setattr(longtext, 'write_tokens', written_here)
    monkeypatch.setattr(makemore, 'sum_over_ranks', wait)
    assert text_of(load(play, folder)) == PLAY
    assert events == ['waited']


def test_a_process_that_finds_no_tokens_after_waiting_says_so(play, folder, monkeypatch):
    monkeypatch.setattr(makemore, 'get_rank', lambda: 1)
    with pytest.raises(makemore.RunError, match=r'tokens\.bin was not made from .*: start again'):
        load(play, folder)


@pytest.fixture
def bars(monkeypatch):
    """What is told to the progress bars that are made."""
    made = []

    class Bar(makemore.tqdm):
        def __init__(self, pieces, **options):
            made.append((options['desc'], options['disable'], options.get('delay')))
            super().__init__(pieces, **options)

    monkeypatch.setattr(makemore, 'tqdm', Bar)
    return made


def test_what_takes_long_has_a_progress_bar(play, folder, bars, monkeypatch):
    """It shows after a second, and disappears with the work."""
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    load(play, folder)
    assert bars == [
        ('counting', False, 1),
        ('encoding train', False, 1),
        ('encoding dev', False, 1),
    ]


@pytest.mark.parametrize('rank, is_terminal', [(1, True), (0, False)])
def test_a_bar_is_shown_by_the_first_process_on_a_terminal_only(
    rank, is_terminal, bars, monkeypatch, capsys
):
    monkeypatch.setattr(makemore, 'get_rank', lambda: rank)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: is_terminal)
    assert list(makemore.progress_bar('abc', 'counting')) == ['a', 'b', 'c']
    assert bars == [('counting', True, None)]
    assert capsys.readouterr().err == ''


# -----------------------------------------------------------------------------
# what is evaluated, and what is counted


@pytest.mark.parametrize('split', ['train', 'dev'])
def test_a_huge_split_is_evaluated_on_blocks_spread_over_it(split, play, folder, monkeypatch):
    """The evaluations of gigabytes would take longer than the training; less stays exact."""
    settings = {'type': 'bigram', 'block_size': 16}
    exact = load(play, folder, **settings)
    n_train = exact.max_len
    first, last = (0, n_train) if split == 'train' else (n_train, len(PLAY))
    assert int(exact.spans[split].lengths.sum()) == last - first - 1

    monkeypatch.setattr(longtext, 'EVALUATED', 100)
    monkeypatch.setattr(longtext, 'BLOCK', 32)
    dataset = load(play, folder, **settings)
    starts, lengths = dataset.spans[split]
    assert lengths.tolist() == [16] * 6  # three blocks of 32
    assert starts[0] == first
    assert torch.equal(starts[1::2], starts[::2] + 16)
    assert len(set(starts[::2].diff().tolist())) == 1
    assert last - 4 < starts[-1] + lengths[-1] < last  # from the first token to the last


@pytest.mark.parametrize('length', [2**21, 2**21 + 1, 2**21 + 2, 2**21 + 12345, 2**30])
def test_evaluated_blocks_do_not_overlap_and_end_with_the_split(length):
    start = 7
    starts, lengths = longtext.evaluation_spans(start, start + length)
    if length - 1 <= longtext.EVALUATED:
        assert (starts.tolist(), lengths.tolist()) == ([start], [length - 1])
        return
    n_blocks = longtext.EVALUATED // longtext.BLOCK
    assert lengths.tolist() == [longtext.BLOCK] * n_blocks
    assert starts[0] == start
    assert int(starts.diff().min()) >= longtext.BLOCK
    end = start + length - 1  # the last token is only a target
    assert 0 <= end - int(starts[-1] + lengths[-1]) < n_blocks


def test_training_sees_all_of_a_huge_text(play, folder, monkeypatch):
    """The blocks are for evaluation; batches come from all of train, as before."""
    cli_args = {'text': True, 'type': 'bigram', 'block_size': 16, 'input_file': str(play)}
    batches = []
    for evaluated in (2**21, 100):
        monkeypatch.setattr(longtext, 'EVALUATED', evaluated)
        monkeypatch.setattr(longtext, 'BLOCK', 32)
        config, dataset = makemore.load_data(makemore.resolve_config(cli_args), folder)
        batches.append(makemore.get_batch(dataset, config, 3)[0])
    assert torch.equal(*batches)


def count_ngrams(path, folder, **settings):
    """The n-gram model of a file, fitted."""
    cli_args = {'type': 'ngram', 'input_file': str(path), **settings}
    config, dataset = makemore.load_data(makemore.resolve_config(cli_args), folder)
    model = makemore.NGram(config, dataset.vocab_size)
    model.fit(dataset)
    return model.state_dict()


def test_an_ngram_model_counts_the_whole_text(play, folder, monkeypatch):
    """And not only what the losses are measured on."""
    states = []
    for evaluated in (2**21, 600):
        monkeypatch.setattr(longtext, 'EVALUATED', evaluated)
        monkeypatch.setattr(longtext, 'BLOCK', evaluated // 10)
        states.append(count_ngrams(play, folder, text=True))
    for name, tensor in states[0].items():
        if name != 'discount':  # it is chosen by the loss on dev
            assert torch.equal(states[1][name], tensor), name
    # as many 6-grams as there are targets, but for the first ones, which have less before them
    n_targets = int(0.9 * len(PLAY)) - 1
    assert int(states[0]['tables.5.cumulative'][-1]) == n_targets - 4


@pytest.mark.parametrize('at_once', [1, 7, 100, 1000])
@pytest.mark.parametrize('smoothing', ['kn', 'add:1'])
@pytest.mark.parametrize('is_text', [True, False], ids=['text', 'lines'])
def test_counting_in_parts_gives_the_same_tables(
    is_text, smoothing, at_once, play, folder, names, monkeypatch
):
    """A large text is counted in parts; a line may be cut between two of them."""
    path = play if is_text else names
    settings = {'text': is_text, 'smoothing': smoothing}
    whole = count_ngrams(path, folder, **settings)
    monkeypatch.setattr(makemore, 'COUNTED_AT_ONCE', at_once)
    in_parts = count_ngrams(path, folder, **settings)
    assert in_parts.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(in_parts[name], tensor), name


def test_file_hashes_tell_contents_apart(tmp_path):
    one = tmp_path / 'one'
    two = tmp_path / 'two'
    content = bytearray(b'x' * (2**20 + 1))
    one.write_bytes(content)
    two.write_bytes(content)
    assert longtext.hash_file(one) == longtext.hash_file(two)
    content[-1] ^= 1
    two.write_bytes(content)
    assert longtext.hash_file(one) != longtext.hash_file(two)


def test_a_text_dataset_can_be_sampled_without_its_token_file(train_on, run, folder):
    """A checkpoint has all that sampling needs."""
    assert train_on().code == 0
    for path in (folder / 'tokens.bin', folder / 'tokens.json'):
        Path(path).unlink()
    result = run('--sample-only', '-o', folder, '--length', 30)
    assert result.code == 0
    assert len(result.out) == 31
