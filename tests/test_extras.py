"""makemore_extras as a package: imports go one way, no module prints, and makemore needs none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import makemore
import makemore_extras

FOLDER = Path(makemore_extras.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != '__init__')


def parse(name):
    return ast.parse((FOLDER / f'{name}.py').read_text(encoding='utf-8'))


def imported_names(tree):
    """The full names of the modules that are imported anywhere in a file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append('.' * node.level + (node.module or ''))
    return names


def test_the_docstring_lists_every_module():
    listed = []
    for line in makemore_extras.__doc__.splitlines():
        if line.startswith('    '):
            listed.append(line.split()[0])
    assert sorted(listed) == MODULES


def test_makemore_imports_every_module():
    for name in MODULES:
        assert getattr(makemore, name) is sys.modules[f'makemore_extras.{name}']


@pytest.mark.slow
@pytest.mark.parametrize('name', MODULES)
def test_a_module_can_be_imported_by_itself(name):
    """In a process of its own, in which makemore can not be imported."""
    code = (
        f'import sys; sys.modules["makemore"] = None; import makemore_extras.{name}; '
        'print(sorted(name for name in sys.modules if name.startswith("makemore_extras.")))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=FOLDER.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"['makemore_extras.{name}']\n"


@pytest.mark.parametrize('name', ['__init__', *MODULES])
def test_no_module_imports_makemore(name):
    """Nor another module of the package: each can be read and copied by itself."""
    for imported in imported_names(parse(name)):
        assert imported.partition('.')[0] not in ('makemore', 'makemore_extras', '')


@pytest.mark.parametrize('name', ['__init__', *MODULES])
def test_no_module_prints(name):
    """They return lines, and makemore.py decides where to print them."""
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ('print', 'warnings.warn', 'tqdm.write'), node.lineno
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ('sys.stdout', 'sys.stderr'), node.lineno


@pytest.mark.parametrize(
    'line', ['--check-backprop', '--find-lr', '--backprop manual', '--diagnose 5']
)
def test_options_that_need_the_package_say_so(line, train, monkeypatch):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', False)
    code, out, err = train('mlp', '-o', 'x', *line.split())
    option = line.removesuffix(' 5')
    assert (code, out) == (2, '')
    assert err.splitlines()[-1] == (
        f'makemore: {option} needs the folder makemore_extras beside makemore.py'
    )
    assert not Path('x').exists()


@pytest.mark.slow
def test_a_broken_package_is_not_taken_for_a_missing_one(tmp_path):
    """Only a missing makemore_extras is optional; a missing package inside it is an error."""
    (tmp_path / 'makemore.py').write_bytes(Path(makemore.__file__).read_bytes())
    (tmp_path / 'makemore_extras').mkdir()
    (tmp_path / 'makemore_extras/__init__.py').write_text('import no_such_package')
    done = subprocess.run(
        [sys.executable, '-c', 'import makemore'],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert 'no_such_package' in done.stderr
