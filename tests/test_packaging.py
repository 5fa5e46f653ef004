"""What `pip install .` gives: the command, the packages, the example data."""

import sys
from pathlib import Path

import pytest

import makemore

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ['makemore_extras', 'micrograd', 'tokenizer']


@pytest.fixture(scope='module')
def project():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no reader of TOML files')
    return tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def test_the_version_is_the_same_in_both_places(project):
    assert project['project']['version'] == makemore.__version__


def test_the_console_command_is_main(project):
    assert project['project']['scripts'] == {'makemore': 'makemore:main'}
    assert callable(makemore.main)


def test_every_package_is_listed_and_typed(project):
    found = [path.parent.name for path in ROOT.glob('*/__init__.py')]
    assert sorted(set(found) - {'tests', 'lectures'}) == PACKAGES
    assert sorted(project['tool']['setuptools']['packages']) == PACKAGES
    for package in PACKAGES:
        assert project['tool']['setuptools']['package-data'][package] == ['py.typed']
        assert (ROOT / package / 'py.typed').exists()


def test_requirements_satisfy_what_the_package_asks_for(project):
    pinned = (ROOT / 'requirements.txt').read_text(encoding='utf-8')
    for dependency in project['project']['dependencies']:
        name = dependency.split('>=')[0]
        assert f'\n{name}==' in pinned, name


def test_the_example_data_is_installed_and_found(project, tmp_path, monkeypatch, capsys):
    """Installed, the program stands in site-packages, and names.txt under the prefix."""
    [(folder, files)] = project['tool']['setuptools']['data-files'].items()
    assert files == ['names.txt']
    installed = tmp_path / 'prefix' / folder
    installed.mkdir(parents=True)
    (installed / 'names.txt').write_bytes((ROOT / 'names.txt').read_bytes())
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    monkeypatch.setattr(makemore, '__file__', str(tmp_path / 'site-packages' / 'makemore.py'))
    monkeypatch.setattr(makemore.sysconfig, 'get_path', lambda name: str(tmp_path / 'prefix'))
    assert makemore.default_input_file() == str(installed / 'names.txt')
    assert str(installed / 'names.txt') in capsys.readouterr().err


def test_a_names_file_of_ones_own_comes_first(tmp_path, monkeypatch, capsys):
    (tmp_path / 'names.txt').write_text('mine')
    monkeypatch.chdir(tmp_path)
    assert makemore.default_input_file() == 'names.txt'
    assert capsys.readouterr().err == ''


@pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 has no reader of TOML files')
def test_the_oldest_python_is_the_one_that_the_program_accepts(project):
    assert project['project']['requires-python'] == '>=3.10'
