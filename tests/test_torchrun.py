"""Several processes: the steps of one, restarts after a crash, and the lock of a folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import makemore
from makemore_extras import torchrun

ROOT = Path(makemore.__file__).resolve().parent
SMALL_RUN = ['-b', '16', '--n-embd', '16', '--n-hidden', '16', '--device', 'cpu']


def run_torchrun(program, *args, n_ranks=2, max_restarts=0, succeeds=True):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += [f'--nproc_per_node={n_ranks}', f'--max-restarts={max_restarts}']
    command += [str(program), *map(str, args)]
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode == 0) == succeeds, ended.stderr
    return ended


@pytest.mark.slow
@pytest.mark.parametrize(
    'args, message',
    [
        (['--n-hed', 3], 'no such option'),  # before the processes know of each other
        (['--type', 'transformer', '--n-head', 3], '--n-head 3'),  # afterwards
        (['-i', 'missing.txt'], 'cannot read missing.txt'),
    ],
)
def test_a_mistake_is_reported_once(args, message, names, tmp_path):
    """Once every process printed it."""
    folder = ['-i', names, '-o', tmp_path / 'x', '--device', 'cpu']
    ended = run_torchrun(makemore.__file__, *folder, *args, succeeds=False)
    lines = [line for line in ended.stderr.splitlines() if line.startswith('makemore: ')]
    assert len(lines) == 1
    assert message in lines[0]


WITHOUT_NUMPY = """
import sys
sys.modules['numpy'] = None
sys.path.insert(0, {folder!r})
import makemore
with makemore.process_group({{}}):
    path = makemore.Path('out/é') if makemore.get_rank() == 0 else None
    assert makemore.broadcast_path(path) == makemore.Path('out/é')
"""


@pytest.mark.slow
def test_processes_share_a_folder_without_numpy(tmp_path):
    """pip install . brings no numpy, and torch's own way to send a path is a traceback then."""
    program = tmp_path / 'program.py'
    program.write_text(WITHOUT_NUMPY.format(folder=str(ROOT)), encoding='utf-8')
    run_torchrun(program)


# -----------------------------------------------------------------------------
# the same steps


@pytest.mark.parametrize('model_type', ['gru', 'mlp', 'transformer'])
@pytest.mark.parametrize('n_ranks', [2, 3, 5])
def test_weighted_losses_of_the_parts_are_the_loss_of_the_batch(
    model_type, n_ranks, build, monkeypatch
):
    """Each process's loss counts by its share of the targets, and the mean is taken.

    Without the weights the items of a process with few targets would count for more.
    """
    config, dataset, model = build(model_type, batch_size=16, dropout=0.0)
    x, y, weight = makemore.get_batch(dataset, config, 3)
    assert weight == 1
    loss = model(x, y)
    grads = torch.autograd.grad(loss, list(model.parameters()))

    mean_loss = 0.0
    mean_grads = [torch.zeros_like(grad) for grad in grads]
    weights = []
    items = []
    monkeypatch.setattr(makemore, 'get_world_size', lambda: n_ranks)
    for rank in range(n_ranks):
        monkeypatch.setattr(makemore, 'get_rank', lambda rank=rank: rank)
        x_part, y_part, weight = makemore.get_batch(dataset, config, 3)
        weights.append(weight)
        items += [row[row >= 0].tolist() for row in y_part]
        part_loss = model(x_part, y_part) * weight / n_ranks
        mean_loss += part_loss.item()
        part_grads = torch.autograd.grad(part_loss, list(model.parameters()))
        mean_grads = [total + grad for total, grad in zip(mean_grads, part_grads, strict=True)]
    assert sum(weights) == pytest.approx(n_ranks)
    assert len(set(weights)) > 1
    assert sorted(items) == sorted(row[row >= 0].tolist() for row in y)
    assert mean_loss == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(mean_grads, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ['gru', 'transformer', 'mix'])
def test_two_ranks_take_the_steps_of_one_process(model_type, names, tmp_path, run):
    """Without the weights of the losses the two would differ by 3e-3.

    The bias of the keys is left out. It adds the same to all scores, so the softmax cancels it,
    and its gradient is nothing but rounding. AdamW makes full steps of that, without any effect.
    """
    checkpoints = []
    for n_ranks in (1, 2):
        folder = tmp_path / str(n_ranks)
        args = ['-i', names, '-o', folder, '--type', model_type, '--dropout', 0, '--max-steps', 20]
        if n_ranks == 1:
            assert run(*args, *SMALL_RUN).code == 0
        else:
            run_torchrun(makemore.__file__, *args, *SMALL_RUN, n_ranks=n_ranks)
        checkpoints.append(torch.load(folder / 'last.pt', weights_only=True)['model'])
        assert json.loads((folder / 'result.json').read_text())['steps'] == 20
    for name, weights in checkpoints[0].items():
        difference = (weights - checkpoints[1][name]).abs()
        if name.endswith('qkv.bias'):
            difference[16:32] = 0
        assert difference.max() < 1e-5, name


# -----------------------------------------------------------------------------
# restarts

# Put before the program: the second process of the first try ends in a step as by kill -9.
KILLER = """
import os, signal, sys
import makemore

train_step = makemore.train_step


def killed_step(run, *args):
    is_first_try = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'
    if run.step == 6 and os.environ['RANK'] == '1' and is_first_try:
        print('killed at step 6', file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(run, *args)


makemore.train_step = killed_step
"""
PROGRAM = """
import sys
import makemore

sys.exit(makemore.main())
"""


@pytest.mark.slow
def test_a_group_of_which_one_process_is_killed_loses_nothing(names, tmp_path):
    """torchrun --max-restarts: the group resumes last.pt, and ends in the same weights."""
    checkpoints = []
    for folder, program in (('calm', PROGRAM), ('killed', KILLER + PROGRAM)):
        path = tmp_path / f'{folder}.py'
        path.write_text(program)
        args = ['-i', names, '-o', tmp_path / folder, '--type', 'gru', '--dropout', '0.1']
        args += ['--max-steps', 12, '--eval-interval', 4, *SMALL_RUN]
        ended = run_torchrun(path, *args, max_restarts=1)
        checkpoints.append(torch.load(tmp_path / folder / 'last.pt', weights_only=True))
    calm, killed = checkpoints
    assert 'killed at step 6' in ended.stderr
    assert calm['step'] == killed['step'] == 12
    for name, weights in calm['model'].items():
        assert torch.equal(killed['model'][name], weights), name


@pytest.mark.parametrize(
    'n_nodes, work_dir, message',
    [(1, None, '-o out/mine'), (2, 'x', 'SHARE_RDZV'), (1, 'x', 'a --rdzv-id of its own')],
)
def test_what_restarts_need_is_said(n_nodes, work_dir, message, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')  # what torchrun takes where none is given
    monkeypatch.setenv('GROUP_WORLD_SIZE', str(n_nodes))
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'True')
    with pytest.raises(ValueError, match=message):
        torchrun.init_process_group(work_dir)


def test_what_restarts_need_is_a_mistake_of_the_user(names, run, monkeypatch):
    """One line and exit code 2, as for every wrong command line."""
    monkeypatch.setattr(makemore, 'launched_by_torchrun', lambda: True)
    monkeypatch.setenv('GROUP_WORLD_SIZE', '1')
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    result = run('-i', names, '--device', 'cpu')
    assert result.code == 2
    assert result.err.startswith('makemore: --max-restarts needs a named folder')
    assert len(result.err.splitlines()) == 1


@pytest.fixture
def launch(monkeypatch):
    """launch('b', 1): the environment of a process after the first restart of launch b."""

    def launch(name, n_restarts):
        monkeypatch.setenv('TORCHELASTIC_RUN_ID', name)
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(n_restarts))

    return launch


def sign(folder):
    """What a run does when it has cleared its folder."""
    with torchrun.lock_folder(folder) as lock:
        torchrun.sign_lock(lock)


@pytest.mark.parametrize('n_restarts, has_checkpoint', [(0, True), (1, False), (1, True)])
def test_a_restart_resumes_what_was_saved(n_restarts, has_checkpoint, tmp_path, launch):
    """Where nothing has been saved yet, what is half there is replaced."""
    launch('b', n_restarts)
    sign(tmp_path)
    if has_checkpoint:
        (tmp_path / 'last.pt').touch()
    cli_args = {'work_dir': str(tmp_path), 'overwrite': True}
    cli_args = makemore.resume_after_restart(cli_args)
    mode = 'resume' if n_restarts and has_checkpoint else 'overwrite'
    assert cli_args == {'work_dir': str(tmp_path), mode: True}


@pytest.mark.parametrize('has_lock', [True, False])
@pytest.mark.parametrize('mode', [{}, {'overwrite': True}, {'resume': True}])
def test_a_restart_does_not_touch_an_older_run(mode, has_lock, tmp_path, launch):
    """A crash before the folder was cleared made the restart resume the old run.

    Without --overwrite a run was refused because the folder held another one, and the restart
    resumed that, or deleted its best.pt.
    """
    launch('a', 0)
    if has_lock:
        sign(tmp_path)
    (tmp_path / 'last.pt').touch()
    launch('b', 1)
    cli_args = {'work_dir': str(tmp_path)} | mode
    assert makemore.resume_after_restart(cli_args) == cli_args


@pytest.mark.slow
def test_a_folder_is_signed_once_it_is_cleared(names, tmp_path, run, launch):
    """Also by a run without torchrun, so that no restart takes it for its own."""
    args = ['-i', names, '--type', 'ngram', '-o', tmp_path / 'x']
    launch('a', 0)
    assert run(*args).code == 0
    assert torchrun.has_begun_run(tmp_path / 'x')
    launch('b', 0)
    assert run(*args).code == 2
    assert not torchrun.has_begun_run(tmp_path / 'x')
    assert run(*args, '--overwrite').code == 0
    assert torchrun.has_begun_run(tmp_path / 'x')


@pytest.mark.long
def test_a_group_that_is_killed_before_it_begins_replaces_the_old_run(names, tmp_path, run):
    """The same with torchrun: --overwrite on a folder that holds a run, and a kill at once."""
    path = tmp_path / 'killed.py'
    die = "import os\nif os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': os._exit(7)\n"
    path.write_text(die + PROGRAM)
    args = ['-i', names, '-o', tmp_path / 'x', *SMALL_RUN]
    assert run(*args, '--type', 'bigram', '--max-steps', 7).code == 0
    run_torchrun(path, *args, '--type', 'mlp', '--max-steps', 9, '--overwrite', max_restarts=1)
    content = torch.load(tmp_path / 'x/last.pt', weights_only=True)
    assert (content['settings']['type'], content['step']) == ('mlp', 9)


# -----------------------------------------------------------------------------
# the lock of a folder

needs_locks = pytest.mark.skipif(torchrun.fcntl is None, reason='this system has no fcntl')
HOLDER = """
import sys, time
from pathlib import Path
from makemore_extras import torchrun

file = torchrun.lock_folder(Path(sys.argv[1]))
print('locked', flush=True)
time.sleep(60)
"""


@needs_locks
def test_a_folder_is_locked_until_the_file_is_closed(tmp_path):
    file = torchrun.lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        torchrun.lock_folder(tmp_path)
    file.close()
    torchrun.lock_folder(tmp_path).close()


@needs_locks
def test_without_fcntl_a_folder_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(torchrun, 'fcntl', None)
    with torchrun.lock_folder(tmp_path), torchrun.lock_folder(tmp_path):
        pass


@needs_locks
@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path, names, run):
    """The lock is not a file that a kill would leave: it ends with the process that holds it."""
    command = [sys.executable, '-c', HOLDER, str(tmp_path)]
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    args = ['-i', names, '--type', 'ngram', '-o', tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout.readline() == 'locked\n'
            with pytest.raises(BlockingIOError):
                torchrun.lock_folder(tmp_path)
            result = run(*args)
            assert result.code == 2
            assert f'{tmp_path} is in use by another run' in result.err
        finally:
            child.send_signal(signal.SIGKILL)
    assert run(*args).code == 0
