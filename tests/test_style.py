"""The code is formatted, clean under ruff, and not denser than STYLE allows."""

import subprocess
import sys
from pathlib import Path

import density
import pytest

ROOT = Path(__file__).resolve().parents[1]

# -----------------------------------------------------------------------------
# ruff


def run_ruff(*args):
    command = [sys.executable, '-m', 'ruff', *args, '--no-cache', '.']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_ruff_has_nothing_to_say():
    run_ruff('check', '--quiet', '--output-format=concise')


def test_every_file_is_formatted():
    run_ruff('format', '--check', '--output-format=concise')


# -----------------------------------------------------------------------------
# density
#
# The limits are a little above what makemore, nanoGPT, micrograd and minbpe have themselves.

MOST = {
    'columns': 100,
    'mean_size': 8.5,
    'high_size': 16,
    'largest_size': 40,
    'longest_function': 60,
    'median_function': 15,
}
LEAST = {'commented': 15, 'blank': 10}

# Figures that say nothing about a file with fewer statements or lines than this.
MANY_STATEMENTS = 20
MANY_LINES = 20

# File -> the figures that may exceed their limit there, and why.
EXEMPT = {
    'lectures/test_course.py': ({'commented'}, 'it belongs to the tests, which are not measured')
}


def measured_files():
    paths = [ROOT / 'makemore.py']
    for folder in ('makemore_extras', 'micrograd', 'tokenizer', 'lectures'):
        paths += sorted((ROOT / folder).glob('*.py'))
    return [path.relative_to(ROOT).as_posix() for path in paths]


def find_excesses(source, exempt=()):
    """The figures of a source that are beyond their limits, as text."""
    figures = density.measure(source)
    ignored = set(exempt)
    if figures.statements < MANY_STATEMENTS:
        ignored |= {'mean_size', 'high_size'}
    if figures.lines < MANY_LINES:
        ignored |= {'commented', 'blank'}
    found = []
    for name in (MOST.keys() | LEAST.keys()) - ignored:
        value = getattr(figures, name)
        if value > MOST.get(name, value) or value < LEAST.get(name, value):
            limit = MOST.get(name, LEAST.get(name))
            found.append(f'{name} is {value:.4g}, the limit is {limit}')
    return sorted(found)


@pytest.mark.parametrize('name', measured_files())
def test_no_file_is_too_dense(name):
    exempt, _ = EXEMPT.get(name, ((), ''))
    source = (ROOT / name).read_text(encoding='utf-8')
    assert find_excesses(source, exempt) == []


def test_every_exempt_file_exists():
    assert set(EXEMPT) <= set(measured_files())


# -----------------------------------------------------------------------------
# the measuring itself

SIZES = {
    'x = a + b': [4],  # x, a, b and the sum
    'x = y = 1': [3],
    'x += 1': [2],
    'x: int = 1': [3],  # the type hint is an expression, too
    'f(a, b=1)': [4],
    'import os': [],
    'pass': [],
    '"a docstring"': [],
    'x = (\n    a\n    + b\n)': [4],
    'x = a; y = b': [2, 2],
    'x = [a for a in b if a]': [6],
    'if a < b:\n    x = 1\nelse:\n    x = 2': [2, 2, 3],
    'while a:\n    f()': [1, 2],
    'for x in a:\n    f(x)': [2, 3],
    'with a as b:\n    f()': [2, 2],
    'try:\n    f()\nexcept E:\n    g()': [2, 2],
    'def f(a: int = 1) -> int:\n    return a': [1],
    'class A(B):\n    x = 1': [2],
    'return_value = lambda a: a + 1': [5],
    'match a:\n    case 1:\n        f()': [1, 2],
    'assert a == b, c': [4],
    'raise E(a) from b': [4],
    'del a[0]': [3],
}


@pytest.mark.parametrize('source', SIZES)
def test_the_size_of_a_statement_is_the_number_of_its_expressions(source):
    figures = density.measure(source)
    sizes = SIZES[source]
    assert figures.statements == len(sizes)
    assert figures.largest_size == max(sizes, default=0)
    assert figures.mean_size * len(sizes) == pytest.approx(sum(sizes))


def test_nine_of_ten_statements_are_not_larger_than_the_high_size():
    lines = ['x = ' + ' + '.join('a' * n) for n in range(1, 21)]
    # a sum of n names has n - 1 sums in it, and x is one more: 2 to 40 expressions
    figures = density.measure('\n'.join(lines))
    assert figures.largest_size == 40
    assert figures.high_size == 38
    assert figures.mean_size == 21


EXAMPLE = '''
"""The docstring
of a module."""

x = 1  # a comment at the end of a line


# a comment of its own
@decorator
def short():
    return '# no comment'


def long():
    """A docstring."""

    def inner():
        pass

    return inner
'''


def test_comments_and_docstrings_are_counted_by_lines():
    figures = density.measure(EXAMPLE.strip())
    assert figures.lines == 19
    assert figures.commented == 100 * 5 / 19
    assert figures.blank == 100 * 7 / 19
    assert figures.columns == len('x = 1  # a comment at the end of a line')


def test_functions_are_measured_from_def_to_end():
    figures = density.measure(EXAMPLE)
    assert figures.longest_function == 7
    assert figures.median_function == 2


def test_an_empty_file_can_be_measured():
    figures = density.measure('')
    assert figures.statements == figures.largest_size == figures.longest_function == 0


def test_layout_changes_no_size():
    """A formatter spreads a statement over lines, but does not make it simpler."""
    dense = 'x = [f(a, b) if a else g(b) for a, b in zip(c, d)]'
    spread = 'x = [\n    f(a, b)\n    if a\n    else g(b)\n    for a, b in zip(c, d)\n]'
    one = density.measure(dense)
    other = density.measure(spread)
    assert one.largest_size == other.largest_size


def test_each_excess_is_found():
    many = '\n'.join(['x = f(a, b, c, d, e, g, h, i)'] * 30)
    assert find_excesses(many) == [
        'blank is 0, the limit is 10',
        'commented is 0, the limit is 15',
        'mean_size is 11, the limit is 8.5',
    ]
    assert find_excesses(many, exempt={'blank', 'commented'}) == [
        'mean_size is 11, the limit is 8.5'
    ]
    long_function = 'def f():\n' + '    pass\n' * 60
    assert 'longest_function is 61, the limit is 60' in find_excesses(long_function)
    assert find_excesses('x = 1' + ' ' * 96 + '\n') == ['columns is 101, the limit is 100']
    assert find_excesses('x = 1\n') == []
