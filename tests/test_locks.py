"""
Two runs in one folder: the second is refused, and nothing of the first is lost.
"""

import signal

from comparing import same_run
from forks import assert_loads, assert_one_line, contents, small_run

pytest_plugins = ['fork_fixtures']


def test_a_folder_in_use_is_refused_until_its_process_ends(fork, go, names, undisturbed, tmp_path):
    """Not because of a file that a kill would leave behind: the lock ends with its process."""
    one, _ = undisturbed('mlp')
    first = fork(*small_run('mlp', names, '-o', 'two'), plan=[['reach', 8]])
    first.read_note('reached')
    before = contents(tmp_path / 'two')
    for args in (
        ['--resume', '-o', 'two'],
        small_run('mlp', names, '-o', 'two', '--overwrite'),
        small_run('gru', names, '-o', 'two', '--overwrite'),
    ):
        assert_one_line(go(*args), 2, 'two is in use')
    assert contents(tmp_path / 'two') == before
    # who only reads disturbs nobody
    assert go('--sample-only', '-o', 'two', '--num-samples', 3).code == 0

    first.kill()
    assert first.wait().code == -signal.SIGKILL
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_a_folder_is_locked_before_its_first_checkpoint(fork, go, names):
    """The same command twice, a second apart: no last.pt is there yet that stops the second."""
    first = fork(*small_run('mlp', names, '-o', 'x'), plan=[['reach', 0]])
    first.read_note('reached')
    assert_one_line(go(*small_run('mlp', names, '-o', 'x')), 2, 'x')


def test_of_many_runs_in_one_folder_at_once_one_wins(fork, go, names, tmp_path):
    children = []
    for seed in range(4):
        command = small_run('mlp', names, '-o', 'x', '--overwrite', '--seed', seed)
        children.append(fork(*command))
    ends = [child.wait() for child in children]
    assert any(end.code == 0 for end in ends)
    for end in ends:
        if end.code != 0:
            assert_one_line(end, 2, 'x is in use')
    assert_loads(tmp_path / 'x')
    assert go('--resume', '-o', 'x').code == 0


def test_runs_without_a_name_get_folders_of_their_own(fork, names, tmp_path):
    """The same command four times at once: a run under out/ for each, or a refusal.

    There are never two in one folder.
    """
    children = [fork(*small_run('mlp', names, '--seed', seed)) for seed in range(4)]
    ends = [child.wait() for child in children]
    n_done = sum(end.code == 0 for end in ends)
    assert n_done > 0
    assert len(list((tmp_path / 'out').glob('*/result.json'))) == n_done
    for end in ends:
        if end.code != 0:
            assert_one_line(end, 2, 'in use')
