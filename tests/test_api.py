"""makemore in a notebook or in another program: what a run remembers, and what functions return."""

import json
import math
import signal
from pathlib import Path

import pytest
from comparing import checkpoint, differences, read_metrics
from forks import assert_one_line, small_run

import makemore

pytest_plugins = ['fork_fixtures']

# -----------------------------------------------------------------------------
# metrics.jsonl


def steps_of(folder):
    return [metrics['step'] for metrics in read_metrics(Path(folder))]


def test_a_line_of_metrics_for_every_evaluation(train):
    assert train('mlp', '-o', 'x', '--warmup', 0, '-l', 0.01).code == 0
    first, *others = read_metrics(Path('x'))
    assert first.keys() == {'step', 'train_loss', 'dev_loss', 'lr', 'seconds'}
    assert [metrics['step'] for metrics in others] == [5, 10, 12]
    assert first['train_loss'] is None and first['lr'] is None  # nothing was trained yet
    assert first['dev_loss'] == pytest.approx(math.log(27), rel=0.03)
    for metrics in others:
        share = (metrics['step'] - 1) / 12  # the last step of the twelve has number 11
        assert metrics['lr'] == pytest.approx(0.005 * (1 + math.cos(math.pi * share)))
        assert metrics['train_loss'] == pytest.approx(metrics['dev_loss'], abs=0.5)
    seconds = [metrics['seconds'] for metrics in [first, *others]]
    assert seconds[0] == 0 and seconds == sorted(seconds)
    assert checkpoint('x/best.pt')['best_loss'] == min(m['dev_loss'] for m in [first, *others])


def test_metrics_of_counting(train):
    assert train('ngram', '-o', 'x').code == 0
    [metrics] = read_metrics(Path('x'))
    assert metrics['dev_loss'] == json.loads(Path('x/result.json').read_text())['dev']
    assert metrics['train_loss'] is None and metrics['lr'] is None


def test_a_resumed_run_continues_its_metrics(train, run):
    """It evaluates once more where it begins: the line of that step stays the old one."""
    assert train('mlp', '-o', 'x').code == 0
    before = read_metrics(Path('x'))
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert read_metrics(Path('x'))[: len(before)] == before
    assert steps_of('x') == [0, 5, 10, 12, 15, 20]


def test_an_overwritten_run_has_new_metrics(train):
    assert train('mlp', '-o', 'x', max_steps=20).code == 0
    assert train('mlp', '-o', 'x', '--overwrite', max_steps=5).code == 0
    assert steps_of('x') == [0, 5]


def test_metrics_beyond_the_checkpoint_are_dropped(go, names, tmp_path, undisturbed):
    """A run is killed after it wrote the metrics of step 6 and before it saved last.pt.

    Resumed from step 3 it comes to step 6 again: the line is there once, as if nothing happened.
    """
    one, _ = undisturbed('gru')
    two = tmp_path / 'two'
    end = go(*small_run('gru', names, '-o', 'two'), plan=[['kill_while_saving', 5, 0.5]])
    assert end.code == -signal.SIGKILL
    assert steps_of(two) == [0, 3, 6]
    assert checkpoint(two / 'last.pt')['step'] == 3
    assert go('--resume', '-o', 'two').code == 0
    assert differences(read_metrics(one), read_metrics(two)) == []


HALF_LINES = ['{"step": 15, "train', '{"step": "15"}\n', '[]\n', 'é\n', '[' * 100_000]


@pytest.mark.parametrize('end', HALF_LINES, ids=range(len(HALF_LINES)))
def test_metrics_that_cannot_be_read_are_dropped(end, train, run):
    assert train('mlp', '-o', 'x').code == 0
    before = read_metrics(Path('x'))
    with open('x/metrics.jsonl', 'a', encoding='utf-8') as file:
        file.write(end)
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert read_metrics(Path('x'))[: len(before)] == before
    assert steps_of('x') == [0, 5, 10, 12, 15, 20]


@pytest.mark.parametrize('target', [None, '/dev/zero'])
def test_a_run_without_metrics_can_be_resumed(target, train, run):
    """It may come from an older version. A file that never ends is not read."""
    assert train('mlp', '-o', 'x').code == 0
    Path('x/metrics.jsonl').unlink()
    if target:
        Path('x/metrics.jsonl').symlink_to(target)
    assert run('--resume', '-o', 'x', '--max-steps', 20).code == 0
    assert steps_of('x') == [15, 20]


def test_metrics_on_a_full_disk_are_one_line(train, monkeypatch):
    """/dev/full is like a file on a disk that has no room left since step 7."""
    get_batch = makemore.get_batch

    def fill_disk(dataset, config, step, *rest):
        if step == 7:
            Path('x/metrics.jsonl').unlink()
            Path('x/metrics.jsonl').symlink_to('/dev/full')
        return get_batch(dataset, config, step, *rest)

    monkeypatch.setattr(makemore, 'get_batch', fill_disk)
    assert_one_line(train('mlp', '-o', 'x'), 1, 'x/metrics.jsonl', 'No space left')
    assert checkpoint('x/last.pt')['step'] == 5


# -----------------------------------------------------------------------------
# evaluation


def test_evaluation_needs_tokens_and_a_split_that_exists(build, finished):
    _, dataset, model = build('mlp')
    with pytest.raises(makemore.UserError, match="split 'valid': unknown; choose train, dev, test"):
        makemore.evaluate(model, dataset, 'valid')
    with pytest.raises(makemore.UserError, match='with_data=True'):
        makemore.evaluate(*makemore.load(finished('mlp')), 'dev')


# -----------------------------------------------------------------------------
# mistakes


def test_mistakes_are_value_errors(tmp_path):
    """As those of Python and torch for a bad argument: one need not know the program's classes."""
    with pytest.raises(ValueError, match='train one first') as caught:
        makemore.load(tmp_path)
    assert caught.type is makemore.UserError


def test_handlers_of_value_errors_let_mistakes_pass(run, tmp_path, monkeypatch):
    """The handler around a large text made a failed run (exit code 1) of a mistake (2)."""
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 0)
    (tmp_path / 'n.txt').write_text(100 * 'a')
    assert_one_line(run('-i', 'n.txt', '--text'), 2, 'too little text')
    monkeypatch.setattr('sys.stdin', None)
    assert run('-i', '-').err == 'makemore: -i -: standard input is closed\n'
