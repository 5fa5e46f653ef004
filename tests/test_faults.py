"""
Every operation on the disk fails once, and power is lost at any moment.

With --long every operation fails, and power is lost 500 times in every kind of run.
"""

import errno
import itertools
import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from comparing import same_run
from conftest import most_are_long
from faults import LostPower, watched
from forks import assert_loads, assert_one_line, contents, small_run

import makemore

pytest_plugins = ['fork_fixtures']
pytestmark = [
    pytest.mark.slow,  # each is quick, but there are many
    pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='this system has no /proc'),
]

# What is run: the type of the model, whether tokens go to a file, whether the folder has a run
# of six steps already, and more of the command line.
KINDS = {
    'lines': ('mlp', False, False, []),
    'text in a token file': ('bow', True, False, []),
    'counts': ('ngram', False, False, []),
    'resumed': ('mlp', False, True, ['--resume']),
    'resumed with a token file': ('bow', True, True, ['--resume']),
    'overwritten': ('mlp', False, True, ['--overwrite']),
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Scene(NamedTuple):
    """A run that can be played again and again, in the folder two."""

    args: list
    before: dict  # the files in its folder
    undisturbed: Path
    operations: list  # on the disk, one after the other

    def prepare(self, folder):
        """Make the folder what it was before the run."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.before:
            folder.mkdir()
        for name, content in self.before.items():
            (folder / name).write_bytes(content)

    def go_on(self, folder):
        """The arguments of a command that goes on after a failure."""
        if '--resume' in self.args or '--overwrite' in self.args:
            return self.args
        if (folder / 'last.pt').exists():
            return ['--resume', '-o', folder]
        return [*self.args, '--overwrite']


@pytest.fixture(params=most_are_long(KINDS, 'lines', 'resumed with a token file'))
def scene(request, run, names, tmp_path, monkeypatch):
    """A run of every kind."""
    model_type, has_token_file, has_old_run, more = KINDS[request.param]
    monkeypatch.setattr(makemore, 'LARGE_TEXT', 0 if has_token_file else 2**30)
    shutil.copy(names, 'names.txt')  # into the folder that is watched
    args = [*small_run(model_type, 'names.txt'), '-o', 'two']
    before = {}
    if has_old_run:
        assert run(*args, '--max-steps', 6).code == 0
        before = contents(tmp_path / 'two')
    args += more
    operations = []
    with watched(tmp_path, operations.append):
        end = run(*args)
    assert end.code == 0, end
    (tmp_path / 'two').rename(tmp_path / 'one')
    return Scene(args, before, tmp_path / 'one', operations)


# -----------------------------------------------------------------------------
# failures


def fail_at(fatal, code):
    """Let the operation of that number fail."""
    numbers = itertools.count()

    def report(operation):
        if next(numbers) == fatal:
            raise OSError(code, os.strerror(code), operation.path)

    return report


def test_every_operation_on_the_disk_fails_once(scene, run, long, tmp_path):
    """One line says so, and the checkpoints are whole: the run goes on as if nothing had been."""
    two = tmp_path / 'two'
    dice = random.Random(str(scene.args))
    every = range(len(scene.operations))
    for number in dice.sample(every, long(2, len(every))):
        failed = scene.operations[number][:2]
        scene.prepare(two)
        with watched(tmp_path, fail_at(number, dice.choice(ERRORS))):
            end = run(*scene.args)
        assert_loads(two)
        if end.code != 0:  # it is 0 if nothing depends on what failed
            assert end.code in (1, 2), (failed, end)
            assert_one_line(end, end.code)
            end = run(*scene.go_on(two))
            assert end.code == 0, (failed, end)
        same_run(scene.undisturbed, two)


# -----------------------------------------------------------------------------
# losses of power

SAVED = ('best.pt', 'last.pt', 'result.json', 'tokens.bin', 'tokens.json')


def allowed_contents(disk, path, end):
    """What may stand under a name if power is lost before an operation.

    After the rename of a file that is saved its folder is opened and flushed. From then on it must
    be there, or a newer one. None stands for no file.
    """
    allowed = [None]
    for begins, content in disk.versions(str(path)):
        if begins + 2 < end and content is not None:
            allowed = [content]
        elif begins < end:
            allowed.append(content)
    return allowed


def find_problems(disk, scene, folder, end, dice):
    """What is wrong with the files in the folder if power is lost before an operation."""
    share = dice.random()
    files = disk.files(end, lambda: dice.random() < share)
    found = {name: files.get(str(folder / name)) for name in SAVED}
    problems = []
    for name, content in found.items():
        if content not in allowed_contents(disk, folder / name, end):
            problems.append(f'{name} is lost, or not whole')
    if found['last.pt'] and not found['best.pt'] and '--overwrite' not in scene.args:
        problems.append('last.pt without best.pt')
    old = [name for name in ('best.pt', 'last.pt') if found[name] == scene.before.get(name)]
    if '--overwrite' in scene.args and old == ['last.pt'] and found['best.pt']:
        problems.append('last.pt of the old run beside best.pt of the new one')
    return problems


def test_after_a_loss_of_power_there_is_a_whole_checkpoint(scene, long, tmp_path):
    """Whatever was written since the last fsync is lost in part, or was done in another order."""
    two = tmp_path / 'two'
    old_files = {str(two / name): content for name, content in scene.before.items()}
    disk = LostPower(scene.operations, old_files)
    dice = random.Random(str(scene.args))
    for _ in range(long(100, 500)):
        end = dice.randrange(len(scene.operations) + 1)
        problems = find_problems(disk, scene, two, end, dice)
        assert problems == [], scene.operations[end - 1][:2]


@pytest.mark.parametrize('scene', ['lines'], indirect=True)
@pytest.mark.parametrize('of_a_folder', [False, True])
def test_losses_of_power_are_noticed(of_a_folder, scene, tmp_path):
    """Without the fsync of a file, or of its folder, a checkpoint may be lost: this is seen."""
    two = tmp_path / 'two'
    operations = []
    for operation in scene.operations:
        if operation.name != 'fsync' or (operation.path == str(two)) != of_a_folder:
            operations.append(operation)
    disk = LostPower(operations, {})
    dice = random.Random(1)
    ends = [dice.randrange(len(operations)) for _ in range(50)]
    assert any(find_problems(disk, scene, two, end, dice) for end in ends)
