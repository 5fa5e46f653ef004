"""
Fixtures that run command lines in forked processes; a test file asks for them with

    pytest_plugins = ['fork_fixtures']
"""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
from conftest import ROOT
from forks import Child, small_run

SERVER = 'import forks; forks.serve()'


@pytest.fixture(scope='session')
def server(tmp_path_factory):
    """server(cwd, args, plan=[['reach', 7]]) starts a command line and returns its Child."""
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])}
    children = []
    process = subprocess.Popen(
        [sys.executable, '-c', SERVER],
        stdin=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )

    def start(cwd, args, plan=(), stdin=None, stdout=None, stderr=None, tty=None):
        log = tmp_path_factory.mktemp('log')
        log.chmod(0o777)  # a child may become another user
        job = {'args': [str(arg) for arg in args], 'cwd': str(cwd), 'log': str(log), 'plan': plan}
        job |= {'stdin': stdin, 'stdout': stdout, 'stderr': stderr, 'tty': tty}
        process.stdin.write(json.dumps(job) + '\n')
        process.stdin.flush()
        child = Child(log)
        children.append(child)
        return child

    with process:
        yield start
        for child in children:
            if not (child.log / 'end').exists():  # a test has failed before the end of its child
                child.kill()
        process.stdin.close()


@pytest.fixture
def fork(server, tmp_path):
    """fork('-i', 'names.txt', plan=[...]) starts a command line in tmp_path."""
    return lambda *args, **how: server(tmp_path, args, **how)


@pytest.fixture
def go(fork):
    """go('-i', 'names.txt', plan=[...]) runs a command line in tmp_path, and returns its End."""
    return lambda *args, **how: fork(*args, **how).wait()


class Data(NamedTuple):
    """In which form a run keeps its data: more of the command line, and more of the plan."""

    args: list
    plan: list


FORMS = {
    'lines': Data([], []),
    'text in memory': Data(['--text'], []),
    'text in a token file': Data(['--text'], [['token_file']]),
}


@pytest.fixture(params=FORMS)
def data(request):
    """Lines, a text whose tokens are held in memory, and one whose tokens are in a file."""
    return FORMS[request.param]


@pytest.fixture(scope='session')
def undisturbed(server, tmp_path_factory, names):
    """undisturbed('mlp') is the folder of a whole run and the number of calls that it took."""
    made = {}

    def run(model_type, plan=()):
        key = (model_type, str(plan))
        if key not in made:
            folder = tmp_path_factory.mktemp('undisturbed')
            command = small_run(model_type, names, '-o', 'one')
            child = server(folder, command, plan=[*plan, ['count_calls']])
            assert child.wait().code == 0, child.read_output()
            made[key] = (folder / 'one', child.read_note('calls'))
        return made[key]

    return run


@pytest.fixture(scope='session')
def long(request):
    """long(40, 300) is 300 with --long, otherwise 40."""
    is_long = request.config.getoption('--long')
    return lambda few, many: many if is_long else few
