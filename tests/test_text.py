"""One long text, tokens other than characters, several processes, and the look inside."""
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import beyond
import makemore

PLAY = ''.join(f'SPEAKER {"ABCDEFG"[i % 7]}:\nWhat is it that you {"say do hear see".split()[i % 4]}, good sir?\n\n'
               for i in range(60))


def run(tmp_path, *args, text=PLAY):
    (tmp_path / 'play.txt').write_text(text, encoding='utf-8')
    return makemore.main(['-i', str(tmp_path / 'play.txt'), '-o', str(tmp_path / 'out'), '--device', 'cpu', *args])


# ----------------------------------------------------------------------------------------------------------------------
# One long text

@pytest.mark.parametrize('kind', ['ngram', 'bigram', 'mlp', 'wavenet', 'gru', 'bow', 'transformer'])
def test_a_text_trains_resumes_and_speaks(kind, tmp_path, capsys):
    small = ['--n-embd', '8', '--n-hidden', '8'] if kind != 'ngram' else []
    block = [] if kind == 'wavenet' else ['--block-size', '4' if kind == 'ngram' else '8']
    assert run(tmp_path, '--text', '--type', kind, '--max-steps', '3', '--length', '20', *small, *block) == 0
    result = json.loads((tmp_path / 'out' / 'result.json').read_text())
    assert result['test'] is None and 0 < result['dev'] < 5
    assert makemore.main(['--resume', '-o', str(tmp_path / 'out'), '--max-steps', '5']) == 0
    capsys.readouterr()
    assert makemore.main(['--sample-only', '-o', str(tmp_path / 'out'), '--prompt', 'SPEAKER', '--length', '30']) == 0
    spoken = capsys.readouterr().out      # past the block size, character by character, and a line end
    assert spoken.startswith('SPEAKER') and len(spoken) == len('SPEAKER') + 30 + 1


def test_a_text_keeps_its_newlines_and_has_no_boundary():
    cfg = makemore.settle(dict(text=True, type='bigram', input_file=os.devnull))
    path = Path(__file__)
    cfg.input_file = str(path)
    words = makemore.read(cfg)
    text = path.read_text(encoding='utf-8')
    assert words.vocab_size == len(set(text)) and words.decode(words.flat.tolist()) == text
    assert words.rows.keys() == {'train', 'dev', 'test'} and words.longest == int(0.9 * len(text))


def test_a_text_is_trained_on_in_random_windows_and_judged_in_blocks(tmp_path):
    (tmp_path / 'play.txt').write_text(PLAY, encoding='utf-8')
    cfg = makemore.settle(dict(text=True, type='transformer', block_size=16, input_file=str(tmp_path / 'play.txt')))
    words = makemore.read(cfg)
    x, y, share = makemore.batch(words, cfg, 5)
    assert share == 1 and x.shape == y.shape == (64, 16) and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x, makemore.batch(words, cfg, 5)[0]) and not torch.equal(x, makemore.batch(words, cfg, 6)[0])
    train = words.decode(words.flat[:words.longest].tolist())
    assert all(words.decode(row.tolist()) in train for row in x)
    dev = words.splits['dev']
    assert int(dev.lengths.sum()) == len(PLAY) - words.longest - 1 and set(dev.starts.diff().tolist()) == {16}


def test_the_tokens_of_a_text_lie_in_the_folder(tmp_path):
    assert run(tmp_path, '--text', '--type', 'bigram', '--max-steps', '1') == 0
    assert (tmp_path / 'out' / 'tokens.bin').stat().st_size == len(PLAY)      # one byte each


def again(err):
    return 'tokens.bin is used again' in err


def test_the_tokens_of_a_text_are_used_again_while_nothing_has_changed(tmp_path, capsys, monkeypatch):
    args = ['--text', '--type', 'bigram', '--max-steps', '1', '--overwrite']
    assert run(tmp_path, *args) == 0 and not again(capsys.readouterr().err)
    play, tokens = tmp_path / 'play.txt', tmp_path / 'out' / 'tokens.bin'
    made, stat = tokens.stat(), play.stat()
    assert makemore.main(['--resume', '-o', str(tmp_path / 'out'), '--max-steps', '2']) == 0
    assert again(capsys.readouterr().err) and tokens.stat().st_mtime_ns == made.st_mtime_ns

    def changed(*more):
        assert makemore.main(['-i', str(play), '-o', str(tmp_path / 'out'), *args, *more]) == 0
        return not again(capsys.readouterr().err)
    assert not changed()
    assert changed('--encoding', 'latin-1')
    assert changed() and not changed()
    play.write_text(PLAY.replace('good', 'kind'))      # of the same length
    os.utime(play, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert changed() and not changed()
    assert 'kind' in makemore.Words.decode(makemore.read(makemore.settle(dict(text=True, input_file=str(play)))),
                                           tokens.read_bytes())
    tokens.write_bytes(tokens.read_bytes()[:-1])      # cut short
    assert changed() and not changed()
    tokens.unlink()      # to save the room
    assert changed() and not changed()
    (tmp_path / 'out' / 'tokens.json').write_text('[')
    assert changed() and not changed()
    assert changed('--tokenizer', 'bpe', '--vocab-size', '270') and changed('--tokenizer', 'bpe', '--vocab-size', '271')
    assert not changed('--tokenizer', 'bpe', '--vocab-size', '271') and changed()


def test_a_kill_while_the_tokens_are_written_leaves_nothing_to_believe(tmp_path, monkeypatch):
    """Also where new tokens come to stand beside the note on old ones: the note goes first."""
    args = ['--text', '--type', 'bigram', '--max-steps', '1', '--overwrite']
    assert run(tmp_path, *args) == 0
    class Killed(BaseException):
        pass
    for last in ('tokens.bin', 'tokens.json'):
        def save_whole(path, write, whole=makemore.save_whole):
            if path.name == last:
                path.with_name(path.name + '.tmp').write_bytes(b'half')
                raise Killed
            whole(path, write)
        with monkeypatch.context() as m, pytest.raises(Killed):
            m.setattr(beyond, 'save_whole', save_whole)
            run(tmp_path, *args, text=PLAY.replace('What', 'That'))
        assert not (tmp_path / 'out' / 'tokens.json').exists()
        assert run(tmp_path, *args) == 0
        words = makemore.read(makemore.settle(dict(text=True, input_file=str(tmp_path / 'play.txt'))), tmp_path / 'out')
        assert words.decode(words.flat.tolist()) == PLAY


def test_what_takes_long_has_a_bar_of_the_first_process(tmp_path, monkeypatch, capsys):
    """It shows after a second and goes with the work; on a terminal only, as everywhere."""
    import tqdm.auto
    shown = []

    class Bar(tqdm.auto.tqdm):
        def __init__(self, pieces, what, total, **how):
            shown.append((what, total, how['disable'], how['delay']))
            super().__init__(pieces, what, total, **how)
    monkeypatch.setattr(tqdm.auto, 'tqdm', Bar)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    (tmp_path / 'play.txt').write_text(PLAY)
    makemore.read(makemore.settle(dict(text=True, type='bigram', input_file=str(tmp_path / 'play.txt'))))
    assert shown == [('counting', None, False, 1), ('encoding', 10, False, 1)]
    monkeypatch.setattr(beyond, 'rank', lambda: 1)
    assert len(list(beyond.progress('abc', 'counting'))) == 3 and shown[-1] == ('counting', None, True, 1)
    assert 'encoding' not in capsys.readouterr().err


def test_one_process_writes_the_tokens_and_the_others_wait_for_it(tmp_path, monkeypatch):
    """All of them used to write the same file at once."""
    (tmp_path / 'play.txt').write_text(PLAY)
    cfg, events = makemore.settle(dict(text=True, input_file=str(tmp_path / 'play.txt'))), []
    write = beyond.write_text
    monkeypatch.setattr(beyond, 'rank', lambda: 1)
    monkeypatch.setattr(beyond, 'write_text', lambda *args: events.append('written by the second'))
    monkeypatch.setattr(beyond, 'sum_over_ranks', lambda n: events.append('waited') or write(cfg, tmp_path, []))
    words = makemore.read(cfg, tmp_path)
    assert words.decode(words.flat.tolist()) == PLAY and events == ['waited']


def test_a_text_from_a_pipe_is_read_once_and_never_used_again(tmp_path, monkeypatch, capsys):
    for text in (PLAY, PLAY.upper()):
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.encode())))
        words = makemore.read(makemore.settle(dict(text=True, input_file='-')), tmp_path)
        assert words.decode(words.flat.tolist()) == text and not again(capsys.readouterr().err)


@pytest.mark.parametrize('text', [PLAY, PLAY + 'é', PLAY + '🙂', ''.join(map(chr, range(300, 2000))) * 3,
                                  'a\x00b\r\nc ' * 30000])
@pytest.mark.parametrize('bpe', ['char', 'bpe'])
def test_a_text_of_any_characters_lies_on_disk_in_the_smallest_type(text, bpe, tmp_path):
    (tmp_path / 'play.txt').write_bytes(text.encode())
    typed = dict(text=True, input_file=str(tmp_path / 'play.txt'), vocab_size=300, tokenizer=bpe)
    words = makemore.read(makemore.settle(typed), tmp_path)
    assert words.decode(words.flat.tolist()) == text.replace('\r\n', '\n')
    bytes_each = 1 if words.vocab_size <= 256 else 2
    assert (tmp_path / 'tokens.bin').stat().st_size == bytes_each * len(words.flat)


def test_a_split_of_very_many_tokens_is_judged_by_blocks_spread_over_it(tmp_path, monkeypatch, capsys):
    """Else the evaluations of a text of gigabytes would take longer than its training; a million tokens stay exact."""
    (tmp_path / 'play.txt').write_text(PLAY)
    cfg = makemore.settle(dict(text=True, type='bigram', block_size=16, input_file=str(tmp_path / 'play.txt')))
    exact = makemore.read(cfg)
    assert int(exact.splits['train'].lengths.sum()) == exact.longest - 1 and not 'judged' in capsys.readouterr().err
    monkeypatch.setattr(beyond, 'JUDGED', 100)
    monkeypatch.setattr(beyond, 'BLOCK', 32)
    words = makemore.read(cfg)
    assert '100 are judged' in capsys.readouterr().err
    for split in ('train', 'dev'):
        starts, lengths = words.splits[split]
        first, last = exact.splits[split].starts[0], exact.splits[split].starts[-1] + exact.splits[split].lengths[-1]
        assert int(lengths.sum()) == 96 and set(lengths.tolist()) == {16} and starts[0] == first
        assert len(set(starts[::2].diff().tolist())) == 1 and starts[1] == starts[0] + 16
        assert last - 3 < starts[-1] + lengths[-1] <= last      # from the first to the last
    assert words.splits['train'].starts.shape < exact.splits['train'].starts.shape
    many = makemore.batch(words, cfg, 3)[0]
    assert torch.equal(many, makemore.batch(exact, cfg, 3)[0])      # training sees all of it, as before


def test_an_ngram_counts_the_whole_text(tmp_path, monkeypatch):
    """And not only what the losses are measured on."""
    (tmp_path / 'play.txt').write_text(PLAY)
    models = []
    for judged in (2**21, 600):
        monkeypatch.setattr(beyond, 'JUDGED', judged)
        monkeypatch.setattr(beyond, 'BLOCK', judged // 10)
        cfg = makemore.settle(dict(text=True, type='ngram', input_file=str(tmp_path / 'play.txt')))
        words = makemore.read(cfg)
        models.append(makemore.NGram(cfg, words.vocab_size))
        models[-1].fit(words)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one if name != 'discount')
    train = PLAY[:words.longest]
    assert int(one['counts5'][-1]) == len(train) - 1 - 4      # as many 6-grams, the first letters having less before


@pytest.mark.parametrize('text', ['', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'ab'])
def test_a_text_with_too_little_in_it_is_refused(text, tmp_path, capsys):
    assert run(tmp_path, '--text', text=text) == 2
    assert 'play.txt holds too little' in capsys.readouterr().err


def test_tiny_shakespeare_as_the_lecture_has_it(tmp_path):
    folder = os.environ.get('MAKEMORE_DATA')
    if not folder:
        pytest.skip('MAKEMORE_DATA does not say where the data is')
    cfg = makemore.settle(dict(text=True, type='bigram', input_file=str(Path(folder) / 'tinyshakespeare.txt')))
    words = makemore.read(cfg)
    assert (words.vocab_size, len(words.flat), words.longest) == (65, 1115394, 1003854)


# ----------------------------------------------------------------------------------------------------------------------
# Byte-pair tokens

@pytest.mark.parametrize('mode', [[], ['--text']])
def test_byte_pairs_are_learned_saved_and_spoken(mode, tmp_path, capsys):
    bpe = ['--tokenizer', 'bpe', '--vocab-size', '280']
    assert run(tmp_path, '--type', 'bigram', '--max-steps', '3', *bpe, *mode) == 0
    assert 'per character' in capsys.readouterr().out
    model, words = makemore.load(tmp_path / 'out')
    assert words.vocab_size == 280 + (not mode) and words.decode(words.encode('good sir')) == 'good sir'
    assert makemore.main(['--sample-only', '-o', str(tmp_path / 'out'), '--num-samples', '3', '--prompt', 'Wh']) == 0
    assert capsys.readouterr().out.startswith('Wh')


def test_tokens_never_cross_a_line_and_the_loss_per_character_is_counted(tmp_path):
    (tmp_path / 'names.txt').write_text('anna\nhanna\nhannah\nana\njohanna\n' * 4)
    words = makemore.read(makemore.settle(dict(type='bigram', split='all', tokenizer='bpe', vocab_size=270,
                                               input_file=str(tmp_path / 'names.txt'))))
    pieces = words.flat.tolist()
    assert words.decode(pieces) == 'annahannahannahanajohanna' * 4 and pieces.count(0) == 20 + 1
    characters = 4 * sum(len(name) + 1 for name in ('anna', 'hanna', 'hannah', 'ana', 'johanna'))
    assert words.density == (len(pieces) - 1) / characters


def test_fewer_pairs_than_wanted_are_said_in_one_line(tmp_path):
    (tmp_path / 'two.txt').write_text('anna\nhanna\n')
    ended = subprocess.run([sys.executable, makemore.__file__, '-i', 'two.txt', '--tokenizer', 'bpe', '--type', 'bigram',
                            '--max-steps', '1'], cwd=tmp_path, capture_output=True, text=True)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 0 and [line for line in lines if 'no pair is left' in line]
    assert not any('Warning' in line for line in lines)


def test_a_saved_tokenizer_can_be_used(tmp_path):
    from tokenizer import Tokenizer
    Tokenizer().train(PLAY, 300).save(tmp_path / 'tok.json')
    assert run(tmp_path, '--tokenizer', str(tmp_path / 'tok.json'), '--type', 'bigram', '--max-steps', '1') == 0
    assert makemore.load(tmp_path / 'out')[1].vocab_size == 301
    assert run(tmp_path, '--tokenizer', str(tmp_path / 'play.txt'), '--type', 'bigram', '--overwrite') == 2


# ----------------------------------------------------------------------------------------------------------------------
# Inside the net

def test_diagnosis_sees_every_kind_of_non_linearity(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for kind in ('bn-mlp', 'lstm', 'transformer'):
        assert run(tmp_path, '--type', kind, '--max-steps', '2', '--diagnose', '1', '--n-embd', '8', '--overwrite') == 0
        table = capsys.readouterr().err
        assert 'saturated' in table and 'dead neurons' in table and 'update:data 10**' in table
    events = EventAccumulator(str(tmp_path / 'out'), size_guidance=dict(images=0)).Reload()
    tags = events.Tags()
    assert any(name.startswith('saturated/') for name in tags['images'])
    assert {name.split('/')[0] for name in tags['histograms']} >= {'activation', 'pre-activation', 'gradient'}
    assert any(name.startswith('grad to data/') for name in tags['scalars'])


@pytest.mark.parametrize('kind', ['bn-mlp', 'gru', 'bow'])
def test_diagnosis_changes_nothing(kind, tmp_path):
    for folder, more in (('a', []), ('b', ['--diagnose', '1'])):
        (tmp_path / folder).mkdir()
        assert run(tmp_path / folder, '--type', kind, '--max-steps', '3', *more) == 0
    a, b = (torch.load(tmp_path / f / 'out' / 'last.pt', weights_only=True)['model'] for f in 'ab')
    assert all(torch.equal(a[name], b[name]) for name in a)


# ----------------------------------------------------------------------------------------------------------------------
# Several processes

@pytest.mark.parametrize('kind', ['gru', 'transformer'])
def test_two_ranks_take_the_steps_of_one_process(kind, names, tmp_path):
    """Each rank's loss counts by its share of the targets: without that the two differ by 3e-3.

    The bias of the keys is left out: it adds the same to all scores, softmax cancels it, its gradient is rounding noise
    alone, and AdamW makes full steps of noise. It has no effect on anything.
    """
    weights = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}',
                        makemore.__file__, '-i', str(names), '-o', str(out), '--type', kind, '--dropout', '0',
                        '-b', '16', '--max-steps', '20', '--n-embd', '16', '--n-hidden', '16', '--device', 'cpu'],
                       check=True, capture_output=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
        weights.append(torch.load(out / 'last.pt', weights_only=True)['model'])
        assert json.loads((out / 'result.json').read_text())['steps'] == 20
    for name, one in weights[0].items():
        apart = (one - weights[1][name]).abs()
        if name.endswith('qkv.bias'):
            apart[16:32] = 0
        assert apart.max() < 1e-5, name


# ----------------------------------------------------------------------------------------------------------------------
# Prompts

def test_a_prompt_from_a_file_works_while_training_too(tmp_path, capsys):
    (tmp_path / 'prompt.txt').write_text('SPEAKER')
    assert run(tmp_path, '--text', '--type', 'bigram', '--max-steps', '1', '--prompt', f'@{tmp_path / "prompt.txt"}') == 0
    assert 'SPEAKER' in capsys.readouterr().out
    assert run(tmp_path, '--text', '--type', 'bigram', '--overwrite', '--prompt', '@nowhere.txt') == 2


def test_an_impossible_prompt_is_refused_before_the_work(tmp_path, capsys):
    """It used to be refused at the first samples, a thousand steps later, or at the end with no result written."""
    assert run(tmp_path, '--text', '--type', 'bigram', '--prompt', '\N{SNOWMAN}') == 2
    assert 'not in the vocabulary' in capsys.readouterr().err and not (tmp_path / 'out' / 'last.pt').exists()


def test_a_rank_that_is_killed_is_restarted_and_nothing_is_lost(names, tmp_path):
    """torchrun --max-restarts: the group goes on from last.pt and ends in the weights of an undisturbed one."""
    weights = []
    for folder, script in (('calm', ''), ('killed', KILLER)):
        out, program = tmp_path / folder, tmp_path / f'{folder}.py'
        program.write_text(script + f'import sys; sys.path.insert(0, {str(Path(makemore.__file__).parent)!r})\n'
                           'import makemore\ntake_step = makemore.take_step\n'
                           + 'makemore.take_step = killed\n' * bool(script) + 'sys.exit(makemore.main())\n')
        ended = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                                '--max-restarts=1', str(program), '-i', str(names), '-o', str(out), '--type', 'gru',
                                '--dropout', '0.1', '-b', '16', '--max-steps', '12', '--eval-interval', '4',
                                '--n-embd', '8', '--n-hidden', '8', '--device', 'cpu'],
                               capture_output=True, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
        assert ended.returncode == 0, ended.stderr
        weights.append(torch.load(out / 'last.pt', weights_only=True))
    assert weights[0]['step'] == weights[1]['step'] == 12
    assert all(torch.equal(one, weights[1]['model'][name]) for name, one in weights[0]['model'].items())
    assert 'killed at step 6' in ended.stderr


# Put before the program: the second rank of the first try ends in the middle of a step as by kill -9.
KILLER = '''
import os, signal, sys
def killed(run, *args):
    if run.step == 6 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        print('killed at step 6', file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(run, *args)
'''


@pytest.mark.parametrize('nodes, typed, word', [(1, {}, '-o'), (2, dict(work_dir='x'), 'SHARE_RDZV')])
def test_what_restarts_need(nodes, typed, word, monkeypatch):
    for name, value in dict(GROUP_WORLD_SIZE=nodes, TORCHELASTIC_MAX_RESTARTS=3,
                            TORCHELASTIC_USE_AGENT_STORE=True).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(makemore.UserError, match=word):
        beyond.join(typed)


def test_a_restart_resumes_what_is_there(tmp_path, monkeypatch):
    first = dict(work_dir=str(tmp_path), overwrite=True)
    for count, there, expected in ((0, True, first), (1, False, first), (1, True, dict(work_dir=str(tmp_path), resume=True))):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(count))
        (tmp_path / 'last.pt').touch() if there else (tmp_path / 'last.pt').unlink(missing_ok=True)
        typed = dict(first)
        beyond.restarted(typed)
        assert typed == expected      # where nothing has been saved yet, what is half there is replaced
