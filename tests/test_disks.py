"""
Disks that are full or read-only, limits, and what a run leaves behind and where.

A failure is reported in one line, and leaves whole files or none.
"""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from comparing import checkpoint
from forks import assert_loads, assert_one_line, contents, small_run

import makemore

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason='only root can mount a disk or become another user'
)


def succeeds(*command):
    """Whether a command exists, and ends without an error."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope='session')
def disks():
    """Skips a test where small disks can not be mounted."""
    mount = 'mount --make-rprivate / && mount -t tmpfs tmpfs /mnt'
    if not succeeds('unshare', '-m', 'sh', '-c', mount):
        pytest.skip('this user, or this container, may not mount a small disk')


# -----------------------------------------------------------------------------
# no room


@pytest.mark.parametrize('command', ['train', 'text', 'sample'])
def test_stdout_to_a_full_disk_is_one_line(command, go, names, finished):
    """/dev/full is like a file on a disk without room."""
    args = {
        'train': small_run('mlp', names, '-o', 'x'),
        'text': small_run('mlp', names, '-o', 'x', '--text'),
        'sample': ['--sample-only', '-o', finished('mlp')],
    }
    assert_one_line(go(*args[command], stdout='/dev/full'), 1, 'No space left')


# less than any checkpoint has, and less than one with the state of the optimizer has
@pytest.mark.parametrize('n_bytes', [1000, 10_000])
def test_a_limit_on_the_size_of_files(n_bytes, data, go, names, tmp_path):
    """Reached while saving, or while writing curves or tokens: one line and no half files."""
    limit = [*data.plan, ['limit_file_size', n_bytes]]
    end = go(*small_run('mlp', names, '-o', 'new', *data.args), plan=limit)
    assert_one_line(end, 1, 'too large')
    assert not list(tmp_path.glob('new/*.tmp'))
    assert_loads(tmp_path / 'new')

    assert go(*small_run('mlp', names, '-o', 'old', *data.args), plan=data.plan).code == 0
    before = contents(tmp_path / 'old')
    resume = ['--resume', '-o', 'old', '--max-steps', 30]
    assert_one_line(go(*resume, plan=limit), 1, 'too large')
    after = contents(tmp_path / 'old')
    assert after['last.pt'] == before['last.pt']
    assert after.keys() == before.keys()
    assert go(*resume, plan=data.plan).code == 0


@needs_root
@pytest.mark.parametrize('kilobytes', [4, 12, 24, 40, 60])
def test_a_full_disk(kilobytes, data, disks, go, names, tmp_path):
    """Wherever in the run the room ends: the token file, the curves, or a checkpoint."""
    (tmp_path / 'disk').mkdir()
    more = ['--max-steps', 200, '--sample-interval', 1, *data.args]
    disk = [*data.plan, ['mount_small_disk', kilobytes]]
    end = go(*small_run('mlp', names, '-o', 'disk/x', *more), plan=disk)
    assert_one_line(end, 1, 'No space left')
    assert_loads(tmp_path / 'after')
    assert not list(tmp_path.glob('after/*.tmp'))


@needs_root
def test_a_full_disk_keeps_the_last_checkpoint(disks, go, names, tmp_path):
    assert go(*small_run('mlp', names, '-o', 'before')).code == 0
    (tmp_path / 'disk').mkdir()
    files = [path for path in (tmp_path / 'before').rglob('*') if path.is_file()]
    n_pages = sum(-(-path.stat().st_size // 4096) for path in files)
    resume = ['--resume', '-o', 'disk/x', '--max-steps', 400, '--sample-interval', 1]
    end = go(*resume, plan=[['mount_small_disk', 4 * n_pages + 32]])
    assert_one_line(end, 1, 'No space left')
    after = contents(tmp_path / 'after')
    assert {'last.pt', 'best.pt'} <= after.keys()
    assert after.keys() == contents(tmp_path / 'before').keys()
    assert checkpoint(tmp_path / 'after/last.pt')['step'] >= 12


# -----------------------------------------------------------------------------
# no right to write


@needs_root
def test_a_folder_of_another_user(go, names, tmp_path):
    """Nothing can be written there, in one line; samples can still be drawn."""
    assert go(*small_run('mlp', names, '-o', 'x')).code == 0
    for path in [tmp_path, *tmp_path.parents[:3]]:
        path.chmod(path.stat().st_mode | 0o055)  # the other user has to get here
    before = contents(tmp_path / 'x')
    for path in (tmp_path / 'x').iterdir():
        path.chmod(0o444)
    (tmp_path / 'x').chmod(0o555)
    (tmp_path / 'names.txt').write_bytes(names.read_bytes())
    nobody = [['become_nobody']]
    for args, folder in (
        (small_run('mlp', 'names.txt', '-o', 'x/new'), 'x/new'),
        (['--resume', '-o', 'x', '--max-steps', 30, '-i', 'names.txt'], 'x'),
        (small_run('mlp', 'names.txt', '-o', 'x', '--overwrite'), 'x'),
    ):
        assert_one_line(go(*args, plan=nobody), 1, folder, 'Permission denied')
    assert contents(tmp_path / 'x') == before
    sampled = go('--sample-only', '-o', 'x', '--num-samples', 5, plan=nobody)
    assert sampled.code == 0
    assert len(sampled.out.splitlines()) == 5


@needs_root
def test_a_read_only_disk(disks, go, names, tmp_path):
    """Nothing can be written there, in one line; samples can still be drawn."""
    assert go(*small_run('mlp', names, '-o', 'before')).code == 0
    (tmp_path / 'disk').mkdir()
    read_only = [['mount_small_disk', 1000, True]]
    for args in (
        small_run('mlp', names, '-o', 'disk/y'),
        ['--resume', '-o', 'disk/x', '--max-steps', 30],
        small_run('mlp', names, '-o', 'disk/x', '--overwrite'),
    ):
        assert_one_line(go(*args, plan=read_only), 1, 'Read-only')
        shutil.rmtree(tmp_path / 'after')
    sampled = go('--sample-only', '-o', 'disk/x', '--num-samples', 5, plan=read_only)
    assert sampled.code == 0
    assert len(sampled.out.splitlines()) == 5
    assert contents(tmp_path / 'after') == contents(tmp_path / 'before')


# -----------------------------------------------------------------------------
# what is left behind, and where


@pytest.mark.parametrize('mask', [0o077, 0o027, 0o022])
def test_files_follow_the_umask_of_the_user(mask, data, go, names, tmp_path):
    command = small_run('mlp', names, '-o', 'out/x', *data.args)
    assert go(*command, plan=[*data.plan, ['set_umask', mask]]).code == 0
    made = [tmp_path / 'out', *(tmp_path / 'out').rglob('*')]
    made_names = {path.name for path in made}
    assert {'out', 'x', 'best.pt', 'last.pt', 'result.json'} <= made_names
    assert any('tfevents' in name for name in made_names)
    assert {'tokens.bin', 'tokens.json'} <= made_names or not data.plan
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & mask == 0, (path, oct(mode))
        assert path.is_dir() or mode & 0o111 == 0, (path, oct(mode))


def run_program(*args, cwd, wrapper=()):
    """Run the program as a process of its own, under another one: unshare, strace."""
    home = cwd / 'home'
    home.mkdir(exist_ok=True)
    env = os.environ | {
        'HOME': str(home),
        'TMPDIR': str(home),
        'PYTHONDONTWRITEBYTECODE': '1',
        'OMP_NUM_THREADS': '1',
        'MPLCONFIGDIR': str(cwd / 'matplotlib'),  # its list of the fonts that are installed
    }
    command = [*wrapper, sys.executable, makemore.__file__, *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


CALL = re.compile(
    r'\b(openat|creat|mkdir(?:at)?|rename(?:at2?)?|unlink(?:at)?|symlink(?:at)?|link(?:at)?'
    r'|ftruncate)\((.*)\)\s+= (-?\d+)'
)
OPENS_FOR_WRITING = re.compile('O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND')


def written_paths(trace):
    """The paths that a run made, wrote to, renamed or deleted, from the log of strace."""
    paths = []
    for call, arguments, code in CALL.findall(trace):
        only_reads = call == 'openat' and not OPENS_FOR_WRITING.search(arguments)
        if not only_reads and int(code) >= 0:
            paths += re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)
    return paths


@pytest.fixture
def without_network():
    """The beginning of a command that runs the rest without a network, if that is allowed."""
    return ['unshare', '-n'] if succeeds('unshare', '-n', 'true') else []


@pytest.mark.slow
def test_nothing_is_downloaded_and_nothing_is_written_elsewhere(names, without_network, tmp_path):
    """Every file that is opened for writing and every socket, as strace sees them.

    torch's optimizers import a compiler, which makes a folder torchinductor_USER for temporary
    files and tries to write into it.
    """
    if not succeeds('strace', '-f', 'true'):
        pytest.skip('strace is not here, or may not be used')
    log = tmp_path / 'trace'
    home = tmp_path / 'home'  # of the user, and of temporary files
    calls = 'trace=file,connect,bind,sendto,ftruncate,openat'
    strace = ['strace', '-f', '-s', '4096', '-o', log, '-e', calls]
    byte_pairs = ['--tokenizer', 'bpe', '--vocab-size', 260]
    again = ['--resume', '-o', 'work', '--max-steps', '20']  # a finished run needs no more
    commands = [small_run('mlp', names, '-o', 'work', *byte_pairs), again]
    for args in commands:
        done = run_program(*args, cwd=tmp_path, wrapper=[*without_network, *strace])
        assert done.returncode == 0, done.stderr
        trace = log.read_text(errors='replace')
        paths = written_paths(trace)
        inside = [path for path in paths if path.startswith('work')]
        assert any('last.pt' in path for path in inside)
        assert any('tfevents' in path for path in inside)
        known = ('work', '/dev/', '/proc/self', str(tmp_path / 'matplotlib'), str(home))
        assert [path for path in paths if not path.startswith(known)] == []
        families = set(re.findall(r'(?:connect|bind|sendto)\(.*sa_family=(AF_\w+)', trace))
        assert not families & {'AF_INET', 'AF_INET6'}
        left = [path.name for path in home.iterdir()]
        assert [name for name in left if not name.startswith('torchinductor_')] == []


@pytest.mark.slow
def test_a_run_needs_no_network(names, without_network, tmp_path):
    if not without_network:
        pytest.skip('this user may not make a network namespace')
    show = 'test "$(ls /sys/class/net)" = lo || ip link; exec "$@"'
    wrapper = [*without_network, 'sh', '-c', show, 'sh']
    done = run_program(*small_run('ngram', names, '-o', 'work'), cwd=tmp_path, wrapper=wrapper)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'work/result.json').exists()
