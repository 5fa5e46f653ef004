"""One long text that fits in memory, byte pairs instead of characters, and prompts."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import makemore

VERBS = ['say', 'do', 'hear', 'see']
SPEECHES = [
    f'SPEAKER {"ABCDEFG"[i % 7]}:\nWhat is it that you {VERBS[i % 4]}, good sir?\n\n'
    for i in range(60)
]
PLAY = ''.join(SPEECHES)


@pytest.fixture
def play(tmp_path):
    """A file with a small play."""
    path = tmp_path / 'play.txt'
    path.write_text(PLAY, encoding='utf-8')
    return path


@pytest.fixture
def train_on(run, play):
    """train_on('--text', '--type', 'bigram'): a run on the play, in the folder `trained`."""

    def train_on(*args):
        return run('-i', play, '-o', 'trained', '--device', 'cpu', *args)

    return train_on


def load(path, **settings):
    """Config and data set of a long text."""
    cli_args = {'text': True, 'type': 'bigram', 'input_file': str(path), **settings}
    return makemore.load_data(makemore.resolve_config(cli_args))


# -----------------------------------------------------------------------------
# one long text

TEXT_MODELS = [
    ('ngram', ['--block-size', 4]),
    ('bigram', ['--block-size', 8]),
    ('mlp', ['--block-size', 8]),
    ('wavenet', []),
    ('gru', ['--block-size', 8]),
    ('bow', ['--block-size', 8]),
    ('transformer', ['--block-size', 8]),
]


@pytest.mark.slow
@pytest.mark.parametrize('model_type, block_size', TEXT_MODELS)
def test_a_text_trains_resumes_and_samples(model_type, block_size, train_on, run):
    small = [] if model_type == 'ngram' else ['--n-embd', 8, '--n-hidden', 8]
    args = ['--text', '--type', model_type, '--max-steps', 3, '--length', 20, *small, *block_size]
    assert train_on(*args).code == 0
    result = json.loads(Path('trained/result.json').read_text())
    assert result['test'] is None
    assert 0 < result['dev'] < 5
    assert run('--resume', '-o', 'trained', '--max-steps', 5).code == 0

    # a sample goes on beyond the block size, one character per token, and ends with a line end
    args = ['--sample-only', '-o', 'trained', '--prompt', 'SPEAKER', '--length', 30, '--seed', 3]
    sampled = run(*args)
    assert sampled.code == 0
    assert sampled.out.startswith('SPEAKER')
    assert len(sampled.out) == len('SPEAKER') + 30 + 1
    assert sampled.out.endswith('\n')
    assert run(*args).out == sampled.out


def test_a_text_keeps_its_line_ends_and_has_no_boundary():
    path = Path(__file__)
    text = path.read_text(encoding='utf-8')
    _, dataset = load(path)
    assert dataset.vocab_size == len(set(text))
    assert dataset.decode(dataset.tokens.tolist()) == text
    assert dataset.is_text
    assert dataset.first_id == 0
    assert dataset.spans.keys() == {'train', 'dev', 'test'}
    assert len(dataset.spans['test'].starts) == 0
    assert dataset.max_len == int(0.9 * len(text))


def test_training_sees_random_windows_of_train(play):
    config, dataset = load(play, type='transformer', block_size=16)
    x, y, weight = makemore.get_batch(dataset, config, 5)
    assert weight == 1
    assert x.shape == y.shape == (config.batch_size, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x, makemore.get_batch(dataset, config, 5)[0])
    assert not torch.equal(x, makemore.get_batch(dataset, config, 6)[0])
    train = dataset.decode(dataset.tokens[: dataset.max_len].tolist())
    assert all(dataset.decode(row.tolist()) in train for row in x)


@pytest.mark.parametrize('split', ['train', 'dev'])
def test_evaluation_sees_every_target_of_a_split_once(split, play):
    _, dataset = load(play, type='transformer', block_size=16)
    starts, lengths = dataset.spans[split]
    n_train = dataset.max_len
    first, last = (0, n_train) if split == 'train' else (n_train, len(PLAY))
    assert set(starts.diff().tolist()) == {16}
    spans = zip(starts.tolist(), lengths.tolist(), strict=True)
    targets = [start + 1 + t for start, length in spans for t in range(length)]
    assert targets == list(range(first + 1, last))


@pytest.mark.parametrize('text', [PLAY, PLAY.upper()])
def test_a_text_can_come_from_a_pipe(text, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.encode())))
    _, dataset = load('-')
    assert dataset.decode(dataset.tokens.tolist()) == text


TEXTS = {
    'ascii': PLAY,
    'an accent': PLAY + 'é',
    'beyond 16 bits': PLAY + '🙂',
    'many characters': ''.join(map(chr, range(300, 2000))) * 3,
    'a zero byte and Windows line ends': 'a\x00b\r\nc ' * 30000,
}


@pytest.mark.parametrize('tokenizer', ['char', 'bpe'])
@pytest.mark.parametrize('text', TEXTS.values(), ids=TEXTS)
def test_tokens_have_the_smallest_type_that_holds_them(text, tokenizer, tmp_path):
    path = tmp_path / 'text.txt'
    path.write_bytes(text.encode())
    _, dataset = load(path, vocab_size=300, tokenizer=tokenizer)
    assert dataset.decode(dataset.tokens.tolist()) == text.replace('\r\n', '\n')
    assert dataset.tokens.itemsize == (1 if dataset.vocab_size <= 256 else 2)


@pytest.mark.parametrize('text', ['', 'a' * 29, 'ab'])
def test_a_text_with_too_little_in_it_is_refused(text, train_on, play):
    play.write_text(text)
    result = train_on('--text')
    assert result.code == 2
    assert 'play.txt holds too little text' in result.err
    assert not Path('trained').exists()


def test_tiny_shakespeare_is_split_as_in_the_lecture():
    folder = os.environ.get('MAKEMORE_DATA')
    if not folder:
        pytest.skip('MAKEMORE_DATA does not say where the data is')
    _, dataset = load(Path(folder) / 'tinyshakespeare.txt')
    assert dataset.vocab_size == 65
    assert len(dataset.tokens) == 1115394
    assert dataset.max_len == 1003854


# -----------------------------------------------------------------------------
# byte pairs


@pytest.mark.parametrize('mode', [[], ['--text']])
def test_byte_pairs_are_learned_saved_and_sampled(mode, train_on, run):
    bpe = ['--tokenizer', 'bpe', '--vocab-size', 280]
    result = train_on('--type', 'bigram', '--max-steps', 3, *bpe, *mode)
    assert result.code == 0
    assert 'per character' in result.out
    _, dataset = makemore.load('trained')
    assert dataset.vocab_size == (280 if mode else 281)  # lines have the boundary, too
    assert dataset.decode(dataset.encode('good sir')) == 'good sir'
    sampled = run('--sample-only', '-o', 'trained', '--num-samples', 3, '--prompt', 'Wh')
    assert sampled.code == 0
    assert sampled.out.startswith('Wh')


def test_byte_pairs_never_cross_a_line(tmp_path):
    """And the loss per character counts the line ends."""
    lines = ['anna', 'hanna', 'hannah', 'ana', 'johanna'] * 4
    path = tmp_path / 'names.txt'
    path.write_text('\n'.join(lines) + '\n')
    _, dataset = load(path, text=False, split='all', tokenizer='bpe', vocab_size=270)
    tokens = dataset.tokens.tolist()
    assert dataset.decode(tokens) == ''.join(lines)
    assert tokens.count(0) == len(lines) + 1
    n_chars = sum(len(line) + 1 for line in lines)
    assert dataset.tokens_per_char == (len(tokens) - 1) / n_chars


def test_the_loss_per_character_of_a_text(play):
    _, dataset = load(play, tokenizer='bpe', vocab_size=270)
    assert dataset.tokens_per_char == len(dataset.tokens) / len(PLAY)
    line = makemore.describe_loss('dev', 2.0, dataset)
    assert f'{2 * dataset.tokens_per_char:.4f} per character' in line


@pytest.mark.slow
def test_fewer_pairs_than_wanted_are_reported_in_one_line(tmp_path):
    """In a process of its own, because pytest catches warnings."""
    (tmp_path / 'two.txt').write_text('anna\nhanna\n')
    args = ['-i', 'two.txt', '--tokenizer', 'bpe', '--type', 'bigram', '--max-steps', '1']
    command = [sys.executable, makemore.__file__, *args]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert [line for line in lines if line.startswith('--tokenizer bpe: no pair is left')]
    assert not any('Warning' in line for line in lines)


def test_a_saved_tokenizer_can_be_used(train_on, play, tmp_path):
    from tokenizer import Tokenizer

    tokenizer_file = tmp_path / 'tok.json'
    Tokenizer().train(PLAY, 300).save(tokenizer_file)
    result = train_on('--tokenizer', tokenizer_file, '--type', 'bigram', '--max-steps', 1)
    assert result.code == 0
    assert makemore.load('trained')[1].vocab_size == 301

    result = train_on('--tokenizer', play, '--type', 'bigram', '--overwrite')
    assert result.code == 2
    assert '--tokenizer' in result.err


# -----------------------------------------------------------------------------
# prompts


def test_a_prompt_from_a_file_is_used_in_training_too(train_on, tmp_path):
    (tmp_path / 'prompt.txt').write_text('SPEAKER')
    args = ['--text', '--type', 'bigram', '--max-steps', 1]
    result = train_on(*args, '--prompt', f'@{tmp_path / "prompt.txt"}')
    assert result.code == 0
    assert 'SPEAKER' in result.out
    assert train_on(*args, '--overwrite', '--prompt', '@nowhere.txt').code == 2


def test_an_impossible_prompt_is_refused_before_the_training(train_on):
    """It used to be refused at the first samples, a thousand steps later, or at the end."""
    result = train_on('--text', '--type', 'bigram', '--prompt', '\N{SNOWMAN}')
    assert result.code == 2
    assert 'not in the vocabulary' in result.err
    assert not Path('trained/last.pt').exists()
