"""
Two runs in one folder: the second is refused, and nothing of the first is lost.
"""

import random
import signal
from typing import NamedTuple

import pytest
from comparing import checkpoint, same_run
from conftest import most_are_long
from forks import assert_loads, assert_one_line, contents, small_run

pytestmark = pytest.mark.slow

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


# -----------------------------------------------------------------------------
# many starts at the same moment, each with data of its own

ALPHABETS = ('abcd', 'efgh', 'ijkl')
WAYS = {
    'lines': ('bigram', []),
    'text': ('bow', []),
    'text in a token file': ('bow', [['token_file']]),
    'standard input': ('bigram', []),
}


class Contest(NamedTuple):
    """Some commands that are started at the same moment."""

    way: str
    args: list  # that all of them have
    n: int

    def start(self, server, cwd, texts, seconds):
        """Start them in a folder; each waits a part of a second after the last has come."""
        model_type, plan = WAYS[self.way]
        (cwd / 'here').mkdir()
        children = []
        for text, pause in zip(texts[: self.n], seconds, strict=True):
            together = ['start_together', str(cwd / 'here'), self.n, pause]
            from_stdin = self.way == 'standard input'
            command = small_run(model_type, '-' if from_stdin else text, *self.args)
            stdin = str(text) if from_stdin else None
            children.append(server(cwd, command, plan=[*plan, together], stdin=stdin))
        return children


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
    """Lists of the same name and other letters."""
    paths = []
    dice = random.Random(7)
    for letters in ALPHABETS:
        path = tmp_path_factory.mktemp('list') / 'list.txt'
        lines = [''.join(dice.choices(letters, k=dice.randint(2, 7))) for _ in range(99)]
        path.write_text('\n'.join(lines))
        paths.append(path)
    return paths


@pytest.fixture(scope='module')
def alone(server, tmp_path_factory, texts):
    """alone('text', 1): the folder of a run on list 1 that had no rival."""
    folders = {}

    def alone(way, number):
        if (way, number) not in folders:
            folder = tmp_path_factory.mktemp('alone')
            contest = Contest(way, ['-o', 'x'], 1)
            [child] = contest.start(server, folder, texts[number:], [0])
            assert child.wait().code == 0
            folders[way, number] = folder / 'x'
        return folders[way, number]

    return alone


def owner_of(folder):
    """The number of the list that a run was trained on."""
    chars = set(checkpoint(folder / 'last.pt')['dataset']['chars']) - {'\n'}
    [number] = [number for number, letters in enumerate(ALPHABETS) if set(letters) == chars]
    return number


@pytest.mark.slow
@pytest.mark.parametrize('way', most_are_long(WAYS, 'text in a token file'))
def test_starts_at_the_same_moment(way, server, alone, texts, long, tmp_path):
    """Two or three runs want a folder: each ends as if it were alone, or is refused in one line.

    A text was trained on that was a mixture of two, and a run was deleted that had just ended.
    """
    dice = random.Random(way)
    for number in range(long(1, 50)):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        args = dice.choice([[], ['-o', 'x'], ['-o', 'x', '--overwrite']])
        contest = Contest(way, args, dice.choice([2, 3]))
        seconds = [dice.choice([0, 0, 0.05, 0.3]) * dice.random() for _ in range(contest.n)]
        ends = [child.wait() for child in contest.start(server, cwd, texts, seconds)]

        winners = [rival for rival, end in enumerate(ends) if end.code == 0]
        for end in ends:
            if end.code != 0:
                assert args, 'without -o there is a folder for everybody'
                assert_one_line(end, 2, 'x')
        folders = [path.parent for path in cwd.rglob('result.json')]
        owners = sorted(owner_of(folder) for folder in folders)
        if '--overwrite' in args:
            assert len(owners) == 1
            assert owners[0] in winners
        else:
            assert owners == winners
            assert len(winners) == 1 or not args
        for folder in folders:
            same_run(alone(way, owner_of(folder)), folder)
