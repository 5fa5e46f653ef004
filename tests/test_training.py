"""Runs from end to end: what they measure and leave behind, interrupted or not."""

import collections
import io
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
from comparing import checkpoint, differences, same_run

import makemore

ALL = list(makemore.MODELS)
TRAINED = [name for name, cls in makemore.MODELS.items() if not cls.is_counted]


def read_result(folder):
    return json.loads(Path(folder, 'result.json').read_text())


def file_stats(folder):
    """Time of the last change and size of every file in a folder."""
    stats = {path.name: path.stat() for path in Path(folder).rglob('*')}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


@pytest.fixture
def at_step(monkeypatch):
    """at_step(7, action) calls action() during step 7, when its batch is read."""
    get_batch = makemore.get_batch
    actions = {}

    def spy(dataset, config, step, *rest):
        if step in actions:
            actions.pop(step)()
        return get_batch(dataset, config, step, *rest)

    monkeypatch.setattr(makemore, 'get_batch', spy)
    return actions.__setitem__


def send(number):
    """A function that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


# -----------------------------------------------------------------------------
# what a run measures


def honest_split(path):
    """The honest split with lists."""
    texts = path.read_text().split('\n')
    random.Random(42).shuffle(texts)
    n1 = int(0.8 * len(texts))
    n2 = int(0.9 * len(texts))
    train = texts[:n1]
    dev = [text for text in texts[n1:n2] if text not in train]
    test = [text for text in texts[n2:] if text not in train]
    return {'train': train, 'dev': dev, 'test': test}


def nats_of(model, dataset, text):
    """The summed loss of one line, letter by letter in float64."""
    tokens = [0, *dataset.encode(text), 0]
    logp = model.logits(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
    return -sum(logp[t, target].item() for t, target in enumerate(tokens[1:]))


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ALL)
def test_the_losses_are_exact(model_type, finished, names):
    """Line by line, without padding and batches: the loss of every split in result.json."""
    result = read_result(finished(model_type))
    model, dataset = makemore.load(finished(model_type))
    for split, texts in honest_split(names).items():
        nats = sum(nats_of(model, dataset, text) for text in texts)
        n_targets = sum(len(text) + 1 for text in texts)
        assert result[split] == pytest.approx(nats / n_targets, rel=1e-6)


def test_the_loss_is_not_a_mean_of_means(run, tmp_path, request):
    """Thousands of lines take several batches, the last one smaller.

    So the losses of the targets are summed over all of them and divided once.
    """
    texts = (request.config.rootpath / 'names.txt').read_text().split('\n')[::7]
    (tmp_path / 'n.txt').write_text('\n'.join(texts))
    line = '-i n.txt --type bigram --max-steps 30 -l 0.5 --split all -o x'
    assert run(*line.split()).code == 0

    model, dataset = makemore.load('x')
    pairs = collections.Counter()
    for text in texts:
        pairs.update(itertools.pairwise(f'.{text}.'))
    logp = model.logits(torch.arange(27)[:, None])[:, 0].double().log_softmax(-1)
    letters = '.' + dataset.chars
    nats = 0.0
    for (a, b), n in pairs.items():
        nats -= n * logp[letters.index(a), letters.index(b)].item()
    assert read_result('x')['train'] == pytest.approx(nats / pairs.total(), rel=1e-6)


@pytest.mark.parametrize('model_type', ALL)
def test_the_result_for_scripts(model_type, finished):
    result = read_result(finished(model_type))
    model, _ = makemore.load(finished(model_type))
    expected = {'type', 'params', 'steps', 'seconds', 'train', 'dev', 'test', 'novelty', 'settings'}
    assert expected <= result.keys()
    assert result['type'] == model_type
    assert result['params'] == makemore.count_parameters(model)
    assert 0 <= result['novelty'] <= 1
    assert result['settings']['n_embd'] == 16
    if model_type in TRAINED:
        assert result['steps'] == 12


def test_the_result_is_that_of_the_best_model(train):
    """A learning rate that ruins the weights after a good start: the good start is kept."""
    assert train('bigram', '-o', 'x', '--warmup', 0, '-l', 30, patience=40, max_steps=40).code == 0
    best = checkpoint('x/best.pt')
    assert read_result('x')['dev'] == pytest.approx(best['best_loss'], rel=1e-9)
    assert checkpoint('x/last.pt')['step'] == 40
    assert best['step'] < 40


def test_what_is_printed(train):
    _, out, err = train('mlp', '-o', 'x')
    result = read_result('x')
    for split in ('train', 'dev', 'test'):
        loss = result[split]
        assert f'{split:5} loss {loss:.4f}, perplexity {math.exp(loss):.3f}' in out
    novelty = round(100 * result['novelty'])
    assert f'novelty: {novelty} % of 1,000 samples are not in the data' in out
    assert f'mlp: {result["params"]:,} parameters, 12 steps' in err
    assert '200 lines' in err
    assert 'saving to x; watch it with: tensorboard' in err
    assert re.search(r'^initial dev loss \d\.\d{4} \(uniform guess: ln 27 = 3.2958\)$', err, re.M)
    assert re.search(r'^sample more with: .*makemore.py --sample-only -o x$', err, re.M)


@pytest.mark.slow
def test_the_samples_at_the_end_are_two_short_lists(train):
    """One sample per line, at temperature 1 and 0.7; those that are in the data are marked."""
    _, out, _ = train('ngram', '-o', 'x', num_samples=6)
    heading = re.compile(r'samples at temperature (.*):')
    lines = itertools.takewhile(lambda line: 'loss' not in line, out.splitlines())
    lists = {}
    for line in lines:
        if heading.match(line):
            samples = lists[heading.match(line)[1]] = []
        else:
            samples.append(line)
    assert list(lists) == ['1.0', '0.7']
    for samples in lists.values():
        assert len(samples) == 6
        for line in samples:
            assert re.fullmatch(r'  [a-z]+( \((in train|in dev or test)\))?', line), line
    assert any('(in train)' in line for line in lists['0.7'])

    # a temperature that was asked for is the only one
    _, out, _ = train('ngram', '-o', 'y', '--temperature', 0.5, '--num-samples', 100)
    assert re.findall(heading, out) == ['0.5']
    assert sum(line.startswith('  ') for line in out.splitlines()) == makemore.SAMPLES_AT_THE_END


def test_a_few_samples_on_one_line_during_training(train):
    _, out, _ = train('mlp', '-o', 'x', sample_interval=5, max_steps=12, num_samples=20)
    during, end = out.split('samples at temperature', 1)
    assert end
    lines = during.splitlines()
    assert len(lines) == 2  # at steps 5 and 10
    for line in lines:
        assert line.count(', ') == makemore.SAMPLES_DURING_TRAINING - 1
        assert all(line.split(', '))


def test_the_best_step_is_marked(train):
    """A learning rate that ruins the weights after a good start: the end says what is kept."""
    size = {'max_steps': 40, 'eval_interval': 1}
    _, _, err = train('bigram', '-o', 'x', '--warmup', 20, '-l', 5, '--patience', 40, **size)
    found = re.findall(r'^step +(\d+) \|.* dev loss (\S+)( \| best so far)?$', err, re.M)
    best = (math.inf, 0)
    for step, loss, mark in found:
        is_best = float(loss) < best[0]
        assert bool(mark) == (is_best and step != '0')
        if is_best:
            best = (float(loss), step)
    assert f'best at step {best[1]} (dev loss {best[0]:.4f}); this model is kept' in err
    assert best[1] not in ('0', '40')
    assert 'best at step' not in train('ngram', '-o', 'y').err


def test_the_estimated_time(train):
    """In a pipe there is no progress bar: after thirty steps one line says how long it takes."""
    _, _, err = train('mlp', '-o', 'x', max_steps=45)
    (line,) = [line for line in err.splitlines() if 'time left' in line]
    assert re.fullmatch(r'estimated time left: (\d+:)?\d\d:\d\d', line)
    assert 'time left' not in train('mlp', '-o', 'y', max_steps=15).err


def test_the_estimated_time_does_not_count_the_start(monkeypatch):
    """The first steps can take seconds, because torch prepares itself."""
    now = 0.0
    monkeypatch.setattr(makemore.time, 'perf_counter', lambda: now)
    time_left = makemore.TimeLeft(first_step=500, max_steps=1000)
    for step in range(501, 541):
        now += 60 if step <= 510 else 0.5
        estimate = time_left.estimate(step)
        assert (estimate == '?') == (step <= 510)
    assert estimate == '03:50'  # 460 steps of half a second


def test_a_finished_run_is_not_resumed(train, run):
    """One line says so, and nothing is computed or written."""
    assert train('mlp', '-o', 'x').code == 0
    before = file_stats('x')
    code, out, err = run('--resume', '-o', 'x')
    assert (code, out) == (0, '')
    assert err.splitlines()[-1] == 'x: already finished; add --max-steps to go on'
    assert file_stats('x') == before
    assert run('--resume', '-o', 'x', '--max-steps', 12).err.endswith(err.splitlines()[-1] + '\n')
    assert run('--resume', '-o', 'x', '--max-steps', 14).code == 0
    assert read_result('x')['steps'] == 14


def test_the_estimated_time_after_a_resume(train, run):
    assert train('mlp', '-o', 'x', max_steps=12).code == 0
    _, _, err = run('--resume', '-o', 'x', '--max-steps', 45)
    assert err.count('estimated time left: ') == 1


# -----------------------------------------------------------------------------
# short lists

GODS = [
    'zeus', 'hera', 'poseidon', 'demeter', 'athena', 'apollo', 'artemis', 'ares', 'hermes',
    'hestia', 'hades', 'hephaestus', 'aphrodite', 'dionysus', 'pan', 'nike', 'eris', 'eros',
    'gaia', 'iris',
]  # fmt: skip


@pytest.fixture
def gods(tmp_path):
    """A file of twenty names in the folder of the test."""
    (tmp_path / 'gods.txt').write_text('\n'.join(GODS))
    return 'gods.txt'


def evaluated_steps(result):
    """At which steps a run was evaluated."""
    assert result.code == 0, result.err
    return [int(step) for step in re.findall(r'^step +(\d+) \|', result.err, re.MULTILINE)]


@pytest.mark.slow
def test_a_short_list_does_not_end_untrained(run, gods):
    """A short list gets 400 steps and forty evaluations, unless other numbers are typed.

    Once the best step lay between two evaluations, and after 200 s the result was the model
    before training.
    """
    result = run('-i', gods, '--type', 'mlp', '-o', 'x', '--patience', 401)
    assert evaluated_steps(result) == list(range(0, 401, 10))
    assert checkpoint('x/best.pt')['step'] > 0

    typed = ['--max-steps', 30, '--eval-interval', 7]
    result = run('-i', gods, '--type', 'mlp', '-o', 'y', *typed)
    assert evaluated_steps(result) == [0, 7, 14, 21, 28, 30]


@pytest.mark.slow
def test_a_short_list_is_evaluated_as_often_after_an_interruption(run, gods, at_step):
    """Once it continued with the default of 500 steps between evaluations.

    It could miss the best step that an undisturbed run finds.
    """
    assert run('-i', gods, '--type', 'mlp', '-o', 'one').code == 0
    at_step(23, send(signal.SIGTERM))
    assert run('-i', gods, '--type', 'mlp', '-o', 'two').code == 143
    assert evaluated_steps(run('--resume', '-o', 'two'))[:3] == [30, 40, 50]
    same_run(Path('one'), Path('two'))


# lines, batch size -> steps and steps between evaluations; four fifths of the lines are train
EPOCHS = {
    (1000, 50): (640, 16),
    (1000, 1): (20000, 500),  # 32,000 would be 40 epochs, but the type wants no more
    (100, 50): (400, 10),
    (10_000, 50): (16000, 400),
}


@pytest.mark.parametrize('n_lines, batch_size', EPOCHS)
def test_forty_epochs_of_a_short_list_and_a_hundred_of_a_long_one(
    n_lines, batch_size, run, tmp_path
):
    texts = itertools.islice(map(''.join, itertools.product('abcdefghij', repeat=4)), n_lines)
    (tmp_path / 'list.txt').write_text('\n'.join(texts))
    line = f'-i list.txt --type mlp -b {batch_size}'
    cli_args = makemore.parse_args(line.split())
    run, _ = makemore.new_run(cli_args, torch.device('cpu'))
    config = run.config
    assert (config.max_steps, config.eval_interval) == EPOCHS[n_lines, batch_size]


# -----------------------------------------------------------------------------
# training


@pytest.mark.parametrize('model_type', ['mlp', 'gru'])
def test_training_lowers_the_loss(model_type, train):
    """Well below ln 27, on dev: on train it could have learned the lines by heart."""
    assert train(model_type, '-o', 'x', max_steps=200, eval_interval=100).code == 0
    assert read_result('x')['dev'] < 2.75 < math.log(27)


def test_counting_names_beats_the_lectures(run, request):
    path = request.config.rootpath / 'names.txt'
    assert run('-i', path, '--type', 'ngram', '--split', 'lecture', '-o', 'x').code == 0
    assert read_result('x')['dev'] <= 1.985


def test_no_steps_at_all(train):
    assert train('mlp', '-o', 'x', max_steps=0).code == 0
    assert read_result('x')['steps'] == 0


def plain_training(config, lr_of):
    """The weights after a plain loop with a gradient norm of at most 0.05 and weight decay 5."""
    config, dataset = makemore.load_data(config)
    torch.manual_seed(config.seed)
    model = makemore.MODELS[config.type](config, dataset.vocab_size)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{'params': matrices, 'weight_decay': 5}, {'params': vectors, 'weight_decay': 0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step in range(config.max_steps):
        for group in optimizer.param_groups:
            group['lr'] = lr_of(step)
        x, y, _ = makemore.get_batch(dataset, config, step)
        model.zero_grad()
        model(x, y).backward()
        norm = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
        for p in model.parameters():
            p.grad *= min(1, 0.05 / norm)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize('have_extras', [True, False])
def test_training_is_a_plain_loop(have_extras, train, monkeypatch):
    """Warmup and half a cosine, clipped gradients, decay of matrices only: the same weights."""
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', have_extras)
    line = '-o x --dropout 0 -w 5 -l 0.01 --grad-clip 0.05 --warmup 4'
    assert train('mlp', *line.split()).code == 0
    last = checkpoint('x/last.pt')

    def lr_of(step):
        if step < 4:
            return 0.01 * (step + 1) / 4
        return 0.01 * (1 + math.cos(math.pi * (step - 4) / 8)) / 2

    weights = plain_training(makemore.resolve_config({}, last['settings']), lr_of)
    for name, value in weights.items():
        torch.testing.assert_close(last['model'][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_run_depends_on_its_seed_only(train, tmp_path):
    torch.manual_seed(1)
    assert train('transformer', '-o', 'a', '--dropout', 0.2).code == 0
    torch.manual_seed(2)
    assert train('transformer', '-o', 'b', '--dropout', 0.2).code == 0
    assert train('transformer', '-o', 'c', '--dropout', 0.2, '--seed', 1).code == 0
    same_run(tmp_path / 'a', tmp_path / 'b')
    found = differences(checkpoint('a/last.pt'), checkpoint('c/last.pt'))
    assert any(path.startswith('/model/') for path in found)


# -----------------------------------------------------------------------------
# TensorBoard


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    return events


def test_curves(train):
    assert train('mlp', '-o', 'x', '--sample-interval', 6, max_steps=30).code == 0
    names = ('gradient norm', 'learning rate', 'tokens per second')
    wanted = {'loss', *(f'training/{name}' for name in names)}
    assert wanted <= set(read_events('x/train').Tags()['scalars'])
    dev = read_events('x/dev')
    assert dev.Tags()['scalars'] == ['loss']
    assert [event.step for event in dev.Scalars('loss')] == [0, 5, 10, 15, 20, 25, 30]
    events = read_events('x')
    assert any('samples' in tag for tag in events.Tags()['tensors']), 'samples as text'
    assert any('hparams' in name for name in events.summary_metadata), 'settings side by side'


def test_the_train_loss_is_logged_from_the_first_step_on(train):
    """It was the mean of 500 steps: the fall of the first steps and the noise could not be seen."""
    assert train('bigram', '-o', 'x', max_steps=130, eval_interval=130).code == 0
    losses = read_events('x/train').Scalars('loss')
    assert [event.step for event in losses] == [*range(1, 101), 110, 120, 130]
    assert losses[0].value == pytest.approx(math.log(27), abs=0.01)


def test_the_curves_of_an_interrupted_run_do_not_double(train, run):
    """Killed after the evaluation at step 10, it went on to step 14; then it was resumed."""
    assert train('mlp', '-o', 'x', max_steps=14, eval_interval=100).code == 0
    at_ten = Path('x/last.pt')
    assert train('mlp', '-o', 'y', max_steps=10, eval_interval=5).code == 0
    at_ten.write_bytes(Path('y/last.pt').read_bytes())
    result = run('--resume', '-o', 'x', '--max-steps', 20)
    assert result.code == 0, result.err
    assert [event.step for event in read_events('x/train').Scalars('loss')] == list(range(1, 21))
    assert [event.step for event in read_events('x/dev').Scalars('loss')] == [0, 10, 15, 20]


def test_a_list_that_is_too_short_for_a_dev_split_has_a_line_for_all(run):
    Path('two.txt').write_text('anna\nemma\n')
    args = ['-i', 'two.txt', '--type', 'bigram', '--eval-interval', 5, '--max-steps', 12]
    assert run(*args, '-o', 'x').code == 0
    assert [event.step for event in read_events('x/all').Scalars('loss')] == [0, 5, 10, 12]
    assert not Path('x/dev').exists()


@pytest.mark.slow
def test_the_loss_of_ngram_counts_is_a_level_line(train):
    """Where an n-gram run on the same data lies beside the run."""
    assert train('bigram', '-o', 'out/before').code == 0
    assert not Path('out/before/n-gram').exists()
    assert train('ngram', '-o', 'out/ngram').code == 0
    assert train('ngram', '-o', 'out/one', block_size=1).code == 0
    assert train('ngram', '-o', 'out/other', '--split', 'lecture').code == 0
    Path('out/damaged').mkdir()
    Path('out/damaged/result.json').write_text('{"type": "ngram"}')
    assert train('bigram', '-o', 'out/after').code == 0

    names = ('ngram', 'one')
    losses = [json.loads(Path(f'out/{name}/result.json').read_text())['dev'] for name in names]
    points = read_events('out/after/n-gram').Scalars('loss')
    assert [point.step for point in points] == [0, 5, 10, 12]
    assert [point.value for point in points] == pytest.approx([min(losses)] * 4)


@pytest.mark.parametrize('have_extras', [True, False])
def test_a_missing_tensorboard_is_reported_in_one_line(have_extras, train, monkeypatch):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', have_extras)
    for name in ('tensorboard', 'torch.utils.tensorboard'):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    code, _, err = train('mlp', '-o', 'x')
    assert code == 0
    assert err.count('pip install tensorboard') == 1
    assert 'Traceback' not in err
    assert not list(Path('x').glob('*tfevents*'))
    assert Path('x/result.json').exists()


# -----------------------------------------------------------------------------
# interrupted and resumed


@pytest.mark.slow
@pytest.mark.parametrize('model_type', TRAINED)
def test_an_interruption_changes_nothing(model_type, train, run, at_step, tmp_path):
    """12 steps at once, and 12 steps with a SIGTERM in the 8th: the same run, bit for bit."""
    assert train(model_type, '-o', 'one', '--dropout', 0.1).code == 0
    at_step(7, send(signal.SIGTERM))
    code, _, err = train(model_type, '-o', 'two', '--dropout', 0.1)
    assert code == 143
    assert checkpoint('two/last.pt')['step'] == 8
    assert f'stopped after step 8; resume with: {makemore.command("--resume", "-o", "two")}' in err
    assert not Path('two/result.json').exists()

    torch.manual_seed(8)  # a new process would not have torch's generator where this one left it
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')


@pytest.mark.parametrize('step', [0, 4, 5, 11])
def test_an_interruption_next_to_an_evaluation(step, train, run, at_step, tmp_path):
    """Every 5 steps and after the last the run is evaluated: stopped before, on and after that.

    In the last step Ctrl-C was ignored, although an evaluation and the report were still to come.
    """
    assert train('gru', '-o', 'one').code == 0
    at_step(step, send(signal.SIGINT))
    assert train('gru', '-o', 'two').code == 130
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')


def test_two_interruptions(train, run, at_step, tmp_path):
    assert train('lstm', '-o', 'one').code == 0
    at_step(2, send(signal.SIGINT))
    at_step(9, send(signal.SIGTERM))
    assert train('lstm', '-o', 'two').code == 130
    assert run('--resume', '-o', 'two').code == 143
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')


# Kills its own process during a step, or during a save: after the file is written, before it is
# renamed.
KILLED = """
import os, signal, sys
import makemore

what, when, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
get_batch = makemore.get_batch
replace = os.replace
n_saves = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly_batch(dataset, config, step, *rest):
    if step == when:
        die()
    return get_batch(dataset, config, step, *rest)

def deadly_replace(*names):
    global n_saves
    n_saves += 1
    if n_saves == when:
        die()
    replace(*names)

if what == 'step':
    makemore.get_batch = deadly_batch
else:
    os.replace = deadly_replace
makemore.main(args)
"""


@pytest.mark.slow
@pytest.mark.parametrize('what, when, saved', [('step', 8, 5), ('save', 4, 0)])
def test_kill_9_changes_nothing(what, when, saved, names, train, run, tmp_path):
    """Without a chance to save: between two saves, or between best.pt (3) and last.pt (4)."""
    assert train('mlp', '-o', 'one').code == 0
    small = '--n-layer 2 --n-head 2 --n-embd 16 --n-hidden 16'
    line = f'-o two --type mlp {small} --max-steps 12 --eval-interval 5 --num-samples 3'
    done = subprocess.run(
        [sys.executable, '-c', KILLED, what, str(when), '-i', str(names), *line.split()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(Path(makemore.__file__).parent)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoint('two/last.pt')['step'] == saved
    assert run('--resume', '-o', 'two').code == 0
    same_run(tmp_path / 'one', tmp_path / 'two')
    assert not list((tmp_path / 'two').glob('*.tmp'))


def test_a_full_disk_leaves_the_last_checkpoint(train, run, monkeypatch):
    assert train('mlp', '-o', 'x').code == 0
    before = checkpoint('x/last.pt')

    def full(*names):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    code, _, err = run('--resume', '-o', 'x', '--max-steps', 20)
    assert code == 1
    assert 'No space left' in err
    assert 'the old file is untouched' in err
    assert 'Traceback' not in err
    assert differences(before, checkpoint('x/last.pt')) == []
    assert sorted(path.name for path in Path('x').glob('*.pt*')) == ['best.pt', 'last.pt']


def test_more_steps(train, run):
    assert train('mlp', '-o', 'x').code == 0
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert checkpoint('x/last.pt')['step'] == 20
    assert read_result('x')['steps'] == 20


def test_resuming_a_finished_run_changes_nothing(train, run):
    assert train('mlp', '-o', 'x').code == 0
    before = checkpoint('x/last.pt')
    assert run('--resume', '-o', 'x').code == 0
    assert differences(before, checkpoint('x/last.pt')) == []


def test_fewer_steps_than_were_taken(train, run, monkeypatch):
    """Once a run at step 12 waited for step 5, and never ended."""
    assert train('mlp', '-o', 'x').code == 0
    monkeypatch.setattr(makemore, 'get_batch', lambda *args: pytest.fail('a step was taken'))
    code, _, err = run('--resume', '-o', 'x', '--max-steps', 5)
    assert code == 2
    assert 'x is at step 12, beyond --max-steps 5' in err


def test_resuming_never_replaces_a_better_best(train, run):
    assert train('bigram', '-o', 'x', max_steps=20, learning_rate=0.02).code == 0
    best = Path('x/best.pt').read_bytes()
    more = ['--max-steps', 40, '-l', 50, '--warmup', 0, '--patience', 40]
    assert run('--resume', '-o', 'x', *more).code == 0
    assert checkpoint('x/last.pt')['step'] == 40
    assert Path('x/best.pt').read_bytes() == best
    assert read_result('x')['dev'] == pytest.approx(checkpoint('x/best.pt')['best_loss'])


def test_a_best_that_is_newer_than_the_last_is_not_replaced(train, run):
    """A kill between the two leaves a last.pt that remembers an older best loss."""
    assert train('bigram', '-o', 'x', max_steps=20, learning_rate=0.02).code == 0
    best = checkpoint('x/best.pt')
    torch.save({**best, 'step': 25, 'best_loss': 1.0}, 'x/best.pt')
    assert run('--resume', '-o', 'x', '--max-steps', 30).code == 0
    assert checkpoint('x/best.pt')['best_loss'] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    'flag, value', [('--weight-decay', 5), ('--learning-rate', 0.1), ('--grad-clip', 0.01)]
)
def test_typed_settings_count_for_the_rest_of_the_run(flag, value, train, run):
    """Once the settings in the optimizer of the checkpoint overruled what was typed."""
    for folder in ('x', 'y'):
        assert train('mlp', '-o', folder, flag, value / 2).code == 0
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert run('--resume', '-o', 'y', '--max-steps', 20, flag, value).code == 0
    x = checkpoint('x/last.pt')
    y = checkpoint('y/last.pt')
    name = flag.removeprefix('--').replace('-', '_')
    assert x['settings'][name] == value / 2
    assert y['settings'][name] == value
    assert '/model/net.2.weight' in differences(x, y)


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ['mlp', 'bow', 'transformer'])
def test_another_dropout_for_the_rest_of_the_run(model_type, train, run):
    """Once the typed value went into last.pt, but the model was built without it.

    After that, the checkpoint could not be loaded any more.
    """
    assert train(model_type, '-o', 'x', '--dropout', 0).code == 0
    assert run('--resume', '-o', 'x', '--max-steps', 20, '--dropout', 0.5).code == 0
    makemore.load('x')
    assert run('--resume', '-o', 'x', '--max-steps', 22).code == 0
    assert checkpoint('x/last.pt')['settings']['dropout'] == 0.5


def test_other_data_is_refused(train, run, tmp_path):
    assert train('mlp', '-o', 'x').code == 0
    (tmp_path / 'other.txt').write_text('éa\nbé\n')
    code, _, err = run('--resume', '-o', 'x', '-i', 'other.txt')
    assert code == 2
    last = err.splitlines()[-1]
    assert 'other.txt has other characters than the data that x was trained on' in last


def test_a_loss_that_is_not_finite_stops_the_run(train, monkeypatch):
    class Poisoned(makemore.MODELS['bigram']):
        """a net whose loss is nan in its 8th step"""

        steps = 0

        def forward(self, idx, targets):
            self.steps += self.training
            loss = super().forward(idx, targets)
            return loss * math.nan if self.steps == 8 else loss

    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))
    makemore.register('poisoned')(Poisoned)
    code, _, err = train('poisoned', '-o', 'x')
    assert code == 1
    assert 'step 8: loss nan, gradient norm nan; try a --learning-rate below' in err
    assert 'x has the last good checkpoint' in err
    assert 'Traceback' not in err
    last = checkpoint('x/last.pt')
    assert last['step'] == 5
    assert all(value.isfinite().all() for value in last['model'].values())


def test_a_learning_rate_that_is_far_too_high(train):
    code, _, err = train('mlp', '-o', 'x', '-l', '1e38', '--grad-clip', 'none')
    assert code == 1
    assert 'try a --learning-rate below 1e+38' in err
    assert 'Traceback' not in err


# -----------------------------------------------------------------------------
# checkpoints


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ALL)
def test_sampling_needs_only_the_folder_and_leaves_it_alone(model_type, finished, run, monkeypatch):
    """It neither reads the data nor needs the settings typed again."""
    folder = finished(model_type)
    before = file_stats(folder)
    monkeypatch.setattr(makemore, 'load_data', lambda *args: pytest.fail('it reads the data'))
    result = run('--sample-only', '-o', folder, '--num-samples', 7, '--seed', 3407)
    assert result.code == 0
    assert len(result.out.splitlines()) == 7
    assert run('--sample-only', '-o', folder, '--num-samples', 7, '--seed', 3407) == result

    model, dataset = makemore.load(folder)
    assert not model.training
    assert makemore.sample(model, dataset, 7) == result.out.splitlines()
    assert file_stats(folder) == before


def test_sampling_after_the_data_is_gone(run, names, tmp_path):
    (tmp_path / 'mine.txt').write_text(names.read_text())
    assert run('-i', 'mine.txt', '--type', 'mlp', '--max-steps', 3, '-o', 'x').code == 0
    (tmp_path / 'mine.txt').unlink()
    samples = run('--sample-only', '-o', 'x', '--new-only', '--num-samples', 60).out
    assert len(samples.splitlines()) == 60


def test_a_run_can_be_moved(train, run):
    assert train('wavenet', '-o', 'x').code == 0
    before = run('--sample-only', '-o', 'x', '--seed', 3).out
    Path('x').rename('y')
    assert run('--sample-only', '-o', 'y', '--seed', 3).out == before


def loaded(raw):
    """The content of a checkpoint, given its bytes."""
    return torch.load(io.BytesIO(raw), weights_only=True)


def saved(content):
    """The bytes of a checkpoint with this content."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def change(*path, to):
    """change('model', 'head.weight', to=x) puts x there; to=None removes what is there."""

    def damage(raw):
        content = loaded(raw)
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if to is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        return saved(content)

    return damage


# what is wrong -> a function from the bytes of a good checkpoint to those of a damaged one
DAMAGED = {
    'cut short': lambda raw: raw[: len(raw) // 2],
    'empty': lambda raw: b'',
    'text': lambda raw: b'emma\nolivia\n',
    'zip': lambda raw: raw[:4] + b'\0' * 400,
    'a folder': lambda raw: None,
    'a list': lambda raw: saved([1, 2, 3]),
    'a bare state dict': lambda raw: saved(loaded(raw)['model']),
    'another version': change('version', to=99),
    'no version': change('version', to=None),
    'a version that is no number': change('version', to=torch.zeros(2)),
    'no settings': change('settings', to=None),
    'settings that are no dict': change('settings', to=3),
    'an unknown model type': change('settings', 'type', to='transfomer'),
    'an unknown setting': change('settings', 'n_layers', to=3),
    'a setting of another type': change('settings', 'n_hidden', to='many'),
    'a setting out of bounds': change('settings', 'n_embd', to=2**40),
    'another size': change('settings', 'n_hidden', to=17),
    'no data set': change('dataset', to=None),
    'a vocabulary that is too small': change('dataset', 'chars', to='abc'),
    'a vocabulary of another type': change('dataset', 'chars', to=torch.zeros(26)),
    'a length of another type': change('dataset', 'max_len', to='long'),
    'a missing tensor': change('model', 'h2h.weight', to=None),
    'a tensor of another shape': change('model', 'h2h.weight', to=torch.zeros(3, 3)),
    'no tensor': change('model', 'h2h.weight', to='zeros'),
    'a model that is a tensor': change('model', to=torch.zeros(2)),
    'a best loss that is not a number': change('best_loss', to='good'),
}


def damage(path, how):
    raw = DAMAGED[how](path.read_bytes())
    path.unlink()
    if raw is None:
        path.mkdir()
    else:
        path.write_bytes(raw)


@pytest.fixture
def copied(finished, tmp_path):
    """The best.pt of a small gru, copied into x, where it may be damaged."""
    path = tmp_path / 'x/best.pt'
    path.parent.mkdir()
    path.write_bytes((finished('gru') / 'best.pt').read_bytes())
    return path


@pytest.mark.slow
@pytest.mark.parametrize('have_extras', [True, False])
@pytest.mark.parametrize('how', DAMAGED)
def test_a_damaged_checkpoint_is_reported_in_one_line(how, have_extras, copied, run, monkeypatch):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', have_extras)
    damage(copied, how)
    code, out, err = run('--sample-only', '-o', 'x')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'x/best.pt is not a checkpoint, or is damaged: ' in err
    assert 'Traceback' not in err


@pytest.mark.parametrize('how', ['cut short', 'text', 'another version', 'a missing tensor'])
def test_a_damaged_checkpoint_can_not_be_resumed(how, train, run):
    assert train('gru', '-o', 'x').code == 0
    damage(Path('x/last.pt'), how)
    code, out, err = run('--resume', '-o', 'x', '--max-steps', 20)
    assert (code, out) == (2, '')
    assert 'x/last.pt is not a checkpoint, or is damaged: ' in err
    assert 'Traceback' not in err


class Malice:
    """What a pickle can do: call a function when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize('have_extras', [True, False])
@pytest.mark.parametrize('where', ['version', 'settings', 'dataset', 'model', 'everything'])
def test_a_checkpoint_that_contains_code_is_refused(
    where, have_extras, copied, run, monkeypatch, tmp_path
):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', have_extras)
    trap = tmp_path / 'it-ran'
    content = Malice(trap) if where == 'everything' else {**checkpoint(copied), where: Malice(trap)}
    torch.save(content, copied)
    torch.load(copied, weights_only=False)
    assert trap.exists()  # loaded carelessly, the code runs
    trap.unlink()

    code, out, err = run('--sample-only', '-o', 'x')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'x/best.pt' in err
    assert not trap.exists()


def test_a_typed_size_that_contradicts_the_checkpoint(finished, run):
    folder = finished('gru')
    code, _, err = run('--sample-only', '-o', folder, '--n-hidden', 17)
    assert (code, err.count('\n')) == (2, 1)
    assert '--n-hidden 17 contradicts the checkpoint: it has 16' in err
    code, _, err = run('--sample-only', '-o', folder, '--type', 'lstm')
    assert code == 2
    assert '--type lstm contradicts the checkpoint: it has gru' in err
    assert run('--sample-only', '-o', folder, '--n-hidden', 16, '--type', 'gru').code == 0
