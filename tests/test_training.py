"""Runs from end to end: what they measure, what they leave behind, and that an interruption changes nothing."""
import collections
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import makemore
from comparing import checkpoint, differences, same_run

ALL = list(makemore.MODELS)
NETS = [kind for kind in ALL if not hasattr(makemore.MODELS[kind], 'fit')]


def state_of(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob('*')}


@pytest.fixture
def at_step(monkeypatch):
    """at_step(7, action): action() while step 7 is on its way, with the batch as the place where to be noticed."""
    batch, plans = makemore.batch, {}

    def spy(words, cfg, step, *rest):
        plans.pop(step, lambda: None)()
        return batch(words, cfg, step, *rest)
    monkeypatch.setattr(makemore, 'batch', spy)
    return plans.__setitem__


def kill(number):
    return lambda: os.kill(os.getpid(), number)


# ----------------------------------------------------------------------------------------------------------------------
# What a run measures

def plain_split(path):
    """The honest split once more, with lists."""
    texts = path.read_text().split('\n')
    random.Random(42).shuffle(texts)
    n1, n2 = int(0.8 * len(texts)), int(0.9 * len(texts))
    dev, test = ([t for t in part if t not in texts[:n1]] for part in (texts[n1:n2], texts[n2:]))
    return dict(train=texts[:n1], dev=dev, test=test)


@pytest.mark.parametrize('kind', ALL)
def test_the_losses_are_exact(kind, finished, names):
    """Word by word, letter by letter, without padding and batches: the loss of every split in result.json."""
    result = json.loads((finished(kind) / 'result.json').read_text())
    model, words = makemore.load(finished(kind))
    for split, texts in plain_split(names).items():
        nats = targets = 0
        for text in texts:
            ids = [0] + words.encode(text) + [0]
            p = model.logits(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
            nats -= sum(p[t, target].item() for t, target in enumerate(ids[1:]))
            targets += len(text) + 1
        assert result[split] == pytest.approx(nats / targets, rel=1e-6)


def test_the_loss_is_no_mean_of_means(run, tmp_path, request):
    """Thousands of lines take several batches, the last one smaller: nats and targets are summed, then divided."""
    texts = (request.config.rootpath / 'names.txt').read_text().split('\n')[::7]
    (tmp_path / 'n.txt').write_text('\n'.join(texts))
    assert run('-i', 'n.txt', '--type', 'bigram', '--max-steps', 30, '-l', 0.5, '--split', 'all', '-o', 'x').code == 0
    model, words = makemore.load('x')
    pairs = collections.Counter(pair for text in texts for pair in zip('.' + text, text + '.'))
    p, index = model.logits(torch.arange(27)[:, None])[:, 0].double().log_softmax(-1), '.' + words.symbols
    nats = -sum(n * p[index.index(a), index.index(b)].item() for (a, b), n in pairs.items())
    assert json.loads(Path('x/result.json').read_text())['train'] == pytest.approx(nats / pairs.total(), rel=1e-6)


@pytest.mark.parametrize('kind', ALL)
def test_the_result_for_scripts(kind, finished):
    result = json.loads((finished(kind) / 'result.json').read_text())
    model, _ = makemore.load(finished(kind))
    assert {'type', 'params', 'steps', 'seconds', 'train', 'dev', 'test', 'novelty', 'settings'} <= result.keys()
    assert result['type'] == kind and result['params'] == sum(p.numel() for p in model.parameters())
    assert 0 <= result['novelty'] <= 1 and result['settings']['n_embd'] == 16
    assert kind not in NETS or result['steps'] == 12


def test_the_result_is_that_of_the_best_model(train, tmp_path):
    """A rate that ruins the weights after a good start: what is reported, and kept, is the good start."""
    assert train('bigram', '-o', 'x', '--warmup', 0, '-l', 30, max_steps=40).code == 0
    result, best = json.loads((tmp_path / 'x/result.json').read_text()), checkpoint('x/best.pt')
    assert result['dev'] == pytest.approx(best['best'], rel=1e-9)
    assert best['step'] < checkpoint('x/last.pt')['step'] == 40


def test_what_is_printed(train):
    code, out, err = train('mlp', '-o', 'x')
    result = json.loads(Path('x/result.json').read_text())
    for split in ('train', 'dev', 'test'):
        assert f'{result[split]:.4f}' in out and f'{math.exp(result[split]):.3f}' in out
    assert str(result['params']) in err.replace(',', '') and ' x' in err and '200 lines' in err and 'new' in out


def test_how_long_it_will_take(train):
    """In a pipe there is no bar: after the first twenty steps a line says it, also after a resume, and only once."""
    lines = [line for line in train('mlp', '-o', 'x', max_steps=45).err.splitlines() if 'will take about' in line]
    assert len(lines) == 1 and re.fullmatch(r'the rest will take about (\d+:)?\d\d:\d\d', lines[0])
    assert 'will take' not in train('mlp', '-o', 'y', max_steps=15).err


SHORT = 'zeus hera poseidon demeter athena apollo artemis ares hermes hestia hades hephaestus aphrodite dionysus pan nike '
SHORT += 'eris eros gaia iris'


def steps_of(done):
    """At which steps it was evaluated."""
    assert done.code == 0, done.err
    return [int(step) for step in re.findall(r'^step +(\d+) \|', done.err, re.M)]


def test_a_short_list_does_not_end_untrained(run, tmp_path):
    """The best step lay between two evaluations: after 200 s the untrained model was handed over. So a short list is
    gone through a hundred times at most, and looked at twenty times on the way, unless other numbers were typed."""
    (tmp_path / 'gods.txt').write_text(SHORT.replace(' ', '\n'))
    assert steps_of(run('-i', 'gods.txt', '--type', 'mlp', '-o', 'x')) == list(range(0, 201, 10))
    assert checkpoint('x/best.pt')['step'] > 0
    typed = '--max-steps', 30, '--eval-interval', 7
    assert steps_of(run('-i', 'gods.txt', '--type', 'mlp', '-o', 'y', *typed)) == [0, 7, 14, 21, 28, 30]


def test_a_short_list_is_looked_at_as_often_after_an_interruption(run, at_step, tmp_path):
    """It went on with the default of 500 steps, and might have missed what an undisturbed run finds."""
    (tmp_path / 'gods.txt').write_text(SHORT.replace(' ', '\n'))
    assert run('-i', 'gods.txt', '--type', 'mlp', '-o', 'one').code == 0
    at_step(23, kill(signal.SIGTERM))
    assert run('-i', 'gods.txt', '--type', 'mlp', '-o', 'two').code == 143
    assert steps_of(run('--resume', '-o', 'two')) == list(range(30, 201, 10))
    same_run(Path('one'), Path('two'))


def test_a_hundred_rounds_at_most(run, tmp_path):
    (tmp_path / 'list.txt').write_text('\n'.join(''.join(pair) for pair in itertools.product('abcdefghij', repeat=3)))
    cfg = makemore.start_run(makemore.parse(['-i', 'list.txt', '--type', 'mlp', '-b', '50']), 'cpu').cfg
    assert (cfg.max_steps, cfg.eval_interval) == (1600, 80)      # 800 lines of train, 16 steps a round
    cfg = makemore.start_run(makemore.parse(['-i', 'list.txt', '--type', 'mlp', '-b', '4']), 'cpu').cfg
    assert (cfg.max_steps, cfg.eval_interval) == (20000, 500)      # the defaults are less than a hundred rounds


def test_training_lowers_the_loss(train):
    """Ten times ln(27) - ln(27) would do too, were it not for the dev split."""
    for kind in ('mlp', 'gru'):
        assert train(kind, '-o', kind, max_steps=200, eval_interval=100).code == 0
        assert json.loads(Path(kind, 'result.json').read_text())['dev'] < 2.75 < math.log(27)


def test_counting_the_names_beats_the_lectures(run, request):
    path = request.config.rootpath / 'names.txt'
    assert run('-i', path, '--type', 'ngram', '--split', 'lecture', '-o', 'x').code == 0
    assert json.loads(Path('x/result.json').read_text())['dev'] <= 1.985


def test_no_steps_at_all(train):
    assert train('mlp', '-o', 'x', max_steps=0).code == 0
    assert json.loads(Path('x/result.json').read_text())['steps'] == 0


def test_training_is_this_loop(train):
    """Warm-up and half a cosine, clipped gradients, decay of matrices only: the same weights from a plain loop."""
    assert train('mlp', '-o', 'x', '--dropout', 0, '-w', 5, '-l', 0.01, '--grad-clip', 0.05, '--warmup', 4).code == 0
    last = checkpoint('x/last.pt')
    cfg = makemore.settle({}, last['settings'])
    words = makemore.read(cfg)
    torch.manual_seed(cfg.seed)
    model = makemore.MODELS['mlp'](cfg, words.vocab_size)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False))
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=5), dict(params=vectors, weight_decay=0)],
                                  betas=(0.9, 0.99))
    for step in range(12):
        for group in optimizer.param_groups:
            group['lr'] = 0.01 * ((step + 1) / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 8)) / 2)
        x, y, _ = makemore.batch(words, cfg, step)
        model.zero_grad()
        model(x, y).backward()
        size = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad *= min(1, 0.05 / size)
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(last['model'][name], value, rtol=1e-3, atol=1e-4)


def test_a_run_depends_on_its_seed_only(train, tmp_path):
    torch.manual_seed(1)
    assert train('transformer', '-o', 'a', '--dropout', 0.2).code == 0
    torch.manual_seed(2)
    assert train('transformer', '-o', 'b', '--dropout', 0.2).code == 0
    assert train('transformer', '-o', 'c', '--dropout', 0.2, '--seed', 1).code == 0
    same_run(tmp_path / 'a', tmp_path / 'b')
    assert any('/model/' in path for path in differences(checkpoint('a/last.pt'), checkpoint('c/last.pt')))


# ----------------------------------------------------------------------------------------------------------------------
# TensorBoard

def test_curves(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    assert train('mlp', '-o', 'x', '--sample-interval', 6, max_steps=30).code == 0
    events = EventAccumulator('x')
    events.Reload()
    tags = events.Tags()
    for wanted in ('train', 'dev', 'rate', 'norm', 'second'):
        assert any(wanted in tag for tag in tags['scalars']), wanted
    assert any('samples' in tag for tag in tags['tensors']), 'samples as text'
    dev = next(tag for tag in tags['scalars'] if tag.endswith('dev'))
    assert [event.step for event in events.Scalars(dev)][:7] == [0, 5, 10, 15, 20, 25, 30]
    assert any('hparams' in name for name in events.summary_metadata), 'settings side by side'


def test_a_missing_tensorboard_costs_one_line(train, monkeypatch):
    for name in ('tensorboard', 'torch.utils.tensorboard'):
        monkeypatch.setitem(sys.modules, name, None)      # an import of it fails
    code, out, err = train('mlp', '-o', 'x')
    lines = [line for line in err.splitlines() if 'pip install tensorboard' in line]
    assert code == 0 and len(lines) == 1 and 'Traceback' not in err
    assert not list(Path('x').glob('*tfevents*')) and Path('x/result.json').exists()


# ----------------------------------------------------------------------------------------------------------------------
# Interrupted and resumed

@pytest.mark.parametrize('kind', NETS)
def test_an_interruption_changes_nothing(kind, train, run, at_step, tmp_path):
    """12 steps in one go, and 12 steps with a SIGTERM in the 8th: the same run, bit for bit."""
    assert train(kind, '-o', 'one', '--dropout', 0.1).code == 0
    at_step(7, kill(signal.SIGTERM))
    stopped = train(kind, '-o', 'two', '--dropout', 0.1)
    assert stopped.code == 143 and checkpoint('two/last.pt')['step'] == 8
    assert '--resume' in stopped.err and 'two' in stopped.err and not Path('two/result.json').exists()
    torch.manual_seed(8)      # a new process would not find torch's own generator where this one left it
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.parametrize('step', [0, 4, 5, 11])
def test_an_interruption_next_to_an_evaluation(step, train, run, at_step, tmp_path):
    """Every 5 steps are measured and saved, the last one too: stopped before, on and behind that."""
    assert train('gru', '-o', 'one').code == 0
    at_step(step, kill(signal.SIGINT))
    code = train('gru', '-o', 'two').code
    assert code == (130 if step < 11 else 0)      # behind the last step there is nothing left to interrupt
    assert code == 0 or run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')


def test_two_interruptions(train, run, at_step, tmp_path):
    assert train('lstm', '-o', 'one').code == 0
    at_step(2, kill(signal.SIGINT)), at_step(9, kill(signal.SIGTERM))
    codes = [train('lstm', '-o', 'two').code] + [run('--resume', '-o', 'two').code for _ in range(2)]
    assert codes == [130, 143, 0]
    same_run(tmp_path / 'one', tmp_path / 'two')


KILLED = '''
import os, signal, sys
import makemore
what, when, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if what == 'step':
    batch = makemore.batch
    makemore.batch = lambda words, cfg, step, *rest: die() if step == when else batch(words, cfg, step, *rest)
else:      # while the file is written: all of it is there, but under another name
    replace, calls = os.replace, []
    os.replace = lambda *names: (calls.append(names), die() if len(calls) == when else replace(*names))
makemore.main(args)
'''


@pytest.mark.parametrize('what, when', [('step', 8), ('save', 4)])
def test_kill_9_changes_nothing(what, when, names, train, run, tmp_path):
    """Without a chance to save: between two saves, or between best.pt (3) and last.pt (4)."""
    assert train('mlp', '-o', 'one').code == 0
    settings = '--n-layer 2 --n-head 2 --n-embd 16 --n-hidden 16 --max-steps 12 --eval-interval 5 --num-samples 3'
    args = [what, str(when), '-i', str(names), '-o', 'two', '--type', 'mlp', *settings.split()]
    done = subprocess.run([sys.executable, '-c', KILLED, *args], capture_output=True,
                          env=os.environ | {'PYTHONPATH': str(Path(makemore.__file__).parent)})
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert checkpoint('two/last.pt')['step'] == (5 if what == 'step' else 0)
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')
    assert not list((tmp_path / 'two').glob('*.tmp'))


def test_a_full_disk_leaves_the_last_checkpoint(train, run, monkeypatch):
    assert train('mlp', '-o', 'x').code == 0
    before = checkpoint('x/last.pt')

    def full(*names):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', full)
    code, out, err = run('--resume', '-o', 'x', '--max-steps', 20)
    assert code == 1 and 'No space left' in err and 'Traceback' not in err
    assert differences(before, checkpoint('x/last.pt')) == []
    assert sorted(path.name for path in Path('x').glob('*.pt*')) == ['best.pt', 'last.pt']


def test_more_steps(train, run):
    assert train('mlp', '-o', 'x').code == 0
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert checkpoint('x/last.pt')['step'] == 20 and json.loads(Path('x/result.json').read_text())['steps'] == 20


def test_a_finished_run_can_be_resumed_for_nothing(train, run):
    assert train('mlp', '-o', 'x').code == 0
    before = checkpoint('x/last.pt')
    assert run('--resume', '-o', 'x').code == 0
    assert differences(before, checkpoint('x/last.pt')) == []


def test_fewer_steps_than_there_were(train, run, monkeypatch):
    """It waited for step 5 on its way from 12 to eternity."""
    assert train('mlp', '-o', 'x').code == 0
    monkeypatch.setattr(makemore, 'batch', lambda *args: pytest.fail('a step was taken'))
    assert run('--resume', '-o', 'x', '--max-steps', 5).code in (0, 2)


def test_resume_never_replaces_a_better_best(train, run):
    assert train('bigram', '-o', 'x', max_steps=20, learning_rate=0.02).code == 0
    best = Path('x/best.pt').read_bytes()
    assert run('--resume', '-o', 'x', '--max-steps', 40, '-l', 50, '--warmup', 0).code == 0
    assert checkpoint('x/last.pt')['step'] == 40 and Path('x/best.pt').read_bytes() == best
    assert json.loads(Path('x/result.json').read_text())['dev'] == pytest.approx(checkpoint('x/best.pt')['best'])


def test_a_best_that_is_newer_than_the_last_is_not_replaced_either(train, run):
    """A kill between the two leaves last.pt with an older idea of what the best is."""
    assert train('bigram', '-o', 'x', max_steps=20, learning_rate=0.02).code == 0
    best = checkpoint('x/best.pt')
    torch.save(best | dict(best=1.0), 'x/best.pt')
    assert run('--resume', '-o', 'x', '--max-steps', 30).code == 0
    assert checkpoint('x/best.pt')['best'] == 1.0


@pytest.mark.parametrize('knob, value', [('--weight-decay', 5), ('--learning-rate', 0.1), ('--grad-clip', 0.01)])
def test_what_is_typed_counts_for_the_rest_of_the_run(knob, value, train, run):
    """The optimizer's own settings came back from the checkpoint and overruled what had been typed."""
    assert train('mlp', '-o', 'x', knob, value / 2).code == train('mlp', '-o', 'y', knob, value / 2).code == 0
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert run('--resume', '-o', 'y', '--max-steps', 20, knob, value).code == 0
    settings, other = (checkpoint(f'{folder}/last.pt')['settings'] for folder in 'xy')
    name = knob[2:].replace('-', '_')
    assert other[name] == value == 2 * settings[name]
    assert '/model/net.2.weight' in differences(checkpoint('x/last.pt'), checkpoint('y/last.pt'))


def test_another_dropout_for_the_rest_of_the_run(train, run):
    """What was typed went into last.pt, the model was built without it, and nothing could be loaded any more."""
    for kind in ('mlp', 'bow', 'transformer'):
        assert train(kind, '-o', kind, '--dropout', 0).code == 0
        assert run('--resume', '-o', kind, '--max-steps', 20, '--dropout', 0.5).code == 0
        model, _ = makemore.load(kind)
        assert run('--resume', '-o', kind, '--max-steps', 22).code == 0
        assert checkpoint(f'{kind}/last.pt')['settings']['dropout'] == 0.5


def test_other_data_is_refused(train, run, tmp_path):
    assert train('mlp', '-o', 'x').code == 0
    (tmp_path / 'other.txt').write_text('éa\nbé\n')
    code, out, err = run('--resume', '-o', 'x', '-i', 'other.txt')
    last = err.splitlines()[-1]
    assert code == 2 and 'other.txt' in last and 'x' in last.split()


def test_a_loss_that_is_no_number_stops_the_run(train, monkeypatch):
    class Poisoned(makemore.MODELS['bigram']):
        """a net that breaks in its 8th step"""
        steps = 0

        def forward(self, idx, targets):
            self.steps += self.training
            return super().forward(idx, targets) * (math.nan if self.steps == 8 else 1)
    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))
    makemore.register('poisoned')(Poisoned)
    code, out, err = train('poisoned', '-o', 'x')
    assert code == 1 and 'nan' in err and 'step 8' in err and 'Traceback' not in err
    last = checkpoint('x/last.pt')
    assert last['step'] == 5 and all(t.isfinite().all() for t in last['model'].values())


def test_a_rate_that_is_far_too_high(train):
    code, out, err = train('mlp', '-o', 'x', '-l', '1e38', '--grad-clip', 'none')
    assert code == 1 and '--learning-rate' in err and 'Traceback' not in err


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints

@pytest.mark.parametrize('kind', ALL)
def test_sampling_needs_the_folder_only_and_leaves_it_alone(kind, finished, run, monkeypatch):
    """The data is out of reach, the settings are not typed again, the folder stays as it is."""
    before = state_of(finished(kind))
    monkeypatch.setattr(makemore, 'read', lambda *args: pytest.fail('it wants to read the data'))
    plain = run('--sample-only', '-o', finished(kind), '--num-samples', 7)
    assert plain.code == 0 and len(plain.out.splitlines()) == 7
    assert run('--sample-only', '-o', finished(kind), '--num-samples', 7) == plain
    model, words = makemore.load(finished(kind))
    assert makemore.sample(model, words, 7) == plain.out.splitlines() and not model.training
    assert state_of(finished(kind)) == before


def test_sampling_after_the_data_is_gone(train, run, names, tmp_path):
    (tmp_path / 'mine.txt').write_text(names.read_text())
    assert run('-i', 'mine.txt', '--type', 'mlp', '--max-steps', 3, '-o', 'x').code == 0
    (tmp_path / 'mine.txt').unlink()
    assert len(run('--sample-only', '-o', 'x', '--new-only', '--num-samples', 60).out.splitlines()) == 60


def test_a_checkpoint_can_be_moved(train, run):
    assert train('wavenet', '-o', 'x').code == 0
    before = run('--sample-only', '-o', 'x').out
    Path('x').rename('y')
    assert run('--sample-only', '-o', 'y').out == before


def spoil(path, how):
    raw = path.read_bytes()
    if how == 'cut short':
        path.write_bytes(raw[:len(raw) // 2])
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'text':
        path.write_text('emma\nolivia\n')
    elif how == 'zip':
        path.write_bytes(raw[:4] + b'\0' * 400)
    elif how == 'a folder':
        path.unlink(), path.mkdir()
    elif how == 'a list':
        torch.save([1, 2, 3], path)
    elif how == 'a bare state dict':
        torch.save(checkpoint_of(raw)['model'], path)
    else:
        torch.save(how(checkpoint_of(raw)), path)


def checkpoint_of(raw):
    import io
    return torch.load(io.BytesIO(raw), weights_only=True)


def change(*path, to):
    """change('model', 'embed.weight', to=x): a function that puts x there."""
    def how(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if to is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        return content
    return how


SPOILT = {how: how for how in ('cut short', 'empty', 'text', 'zip', 'a folder', 'a list', 'a bare state dict')} | {
    'another version': change('version', to=99),
    'no version': change('version', to=None),
    'a version that is no number': change('version', to=torch.zeros(2)),
    'no settings': change('settings', to=None),
    'settings that are no dict': change('settings', to=3),
    'an unknown type': change('settings', 'type', to='transfomer'),
    'an unknown setting': change('settings', 'n_layers', to=3),
    'a setting of another kind': change('settings', 'n_hidden', to='many'),
    'a setting out of bounds': change('settings', 'n_embd', to=2**40),
    'another size': change('settings', 'n_hidden', to=17),
    'no words': change('words', to=None),
    'a vocabulary that is too small': change('words', 'symbols', to='abc'),
    'a vocabulary of another kind': change('words', 'symbols', to=torch.zeros(26)),
    'a length of another kind': change('words', 'longest', to='long'),
    'a missing tensor': change('model', 'h2h.weight', to=None),
    'a tensor of another shape': change('model', 'h2h.weight', to=torch.zeros(3, 3)),
    'no tensor': change('model', 'h2h.weight', to='zeros'),
    'a model that is a tensor': change('model', to=torch.zeros(2)),
    'a best that is no number': change('best', to='good'),
}


@pytest.mark.parametrize('how', SPOILT)
def test_a_spoilt_checkpoint_costs_one_line(how, finished, run, tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x/best.pt').write_bytes((finished('gru') / 'best.pt').read_bytes())
    spoil(tmp_path / 'x/best.pt', SPOILT[how])
    code, out, err = run('--sample-only', '-o', 'x')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'best.pt' in err and 'Traceback' not in err


@pytest.mark.parametrize('how', ['cut short', 'text', 'another version', 'a missing tensor'])
def test_a_spoilt_checkpoint_cannot_be_resumed(how, train, run):
    assert train('gru', '-o', 'x').code == 0
    spoil(Path('x/last.pt'), SPOILT[how])
    code, out, err = run('--resume', '-o', 'x', '--max-steps', 20)
    assert (code, out) == (2, '') and 'last.pt' in err and 'Traceback' not in err


class Malice:
    """What a pickle can do: run a function on being loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize('where', ['version', 'settings', 'words', 'model', 'everything'])
def test_a_pickle_with_code_in_it_is_refused(where, finished, run, tmp_path):
    content, trap = checkpoint(finished('gru') / 'best.pt'), tmp_path / 'it-ran'
    (tmp_path / 'x').mkdir()
    torch.save(Malice(trap) if where == 'everything' else content | {where: Malice(trap)}, tmp_path / 'x/best.pt')
    torch.load(tmp_path / 'x/best.pt', weights_only=False)
    assert trap.exists()      # the trap works
    trap.unlink()
    code, out, err = run('--sample-only', '-o', 'x')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'best.pt' in err and not trap.exists()


def test_a_typed_size_that_contradicts_the_checkpoint(finished, run):
    code, out, err = run('--sample-only', '-o', finished('gru'), '--n-hidden', 17)
    assert code == 2 and '17' in err and '16' in err and '--n-hidden' in err and err.count('\n') == 1
    code, out, err = run('--sample-only', '-o', finished('gru'), '--type', 'lstm')
    assert code == 2 and 'lstm' in err and 'gru' in err
    assert run('--sample-only', '-o', finished('gru'), '--n-hidden', 16, '--type', 'gru').code == 0
