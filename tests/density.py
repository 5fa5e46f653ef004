"""
How dense is a Python file? Reformatting changes none of the figures that count expressions.

    python tests/density.py makemore.py makemore_extras/*.py

The size of a statement is the number of expressions in it: `x = a + b` has four, which are x, a,
b and the sum. Of a compound statement only its head counts, because the statements in its body
count for themselves; and of a function or a class nothing counts but its body.
"""

import ast
import io
import statistics
import sys
import tokenize
from dataclasses import asdict, dataclass
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# These have no size: the head of a definition is mostly type hints, and the others are names.
WITHOUT_SIZE = (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass, ast.Break)
WITHOUT_SIZE += (ast.Continue, ast.Global, ast.Nonlocal, ast.Try)


@dataclass
class Figures:
    """What is measured of a file."""

    lines: int
    statements: int
    columns: int  # of the longest line
    mean_size: float  # of a statement
    high_size: float  # 9 of 10 statements are not larger
    largest_size: int
    median_function: float  # lines
    longest_function: int
    commented: float  # percent of the lines that carry a comment or belong to a docstring
    blank: float  # percent of the lines


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a string."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant and isinstance(statement.value.value, str)


def count_expressions(node: ast.AST) -> int:
    """The expressions in a node, those of statements inside it left out."""
    n_expressions = int(isinstance(node, ast.expr))
    for child in ast.iter_child_nodes(node):
        is_body = isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case))
        if not is_body:
            n_expressions += count_expressions(child)
    return n_expressions


def statement_sizes(tree: ast.AST) -> list[int]:
    """The size of every statement, sorted."""
    sizes = []
    for node in ast.walk(tree):
        is_counted = isinstance(node, ast.stmt) and not isinstance(node, WITHOUT_SIZE)
        if is_counted and not is_docstring(node):
            sizes.append(count_expressions(node))
    return sorted(sizes)


def function_lengths(tree: ast.AST) -> list[int]:
    """How many lines each function has, with its docstring and without its decorators."""
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    return [function.end_lineno - function.lineno + 1 for function in functions]


def commented_lines(source: str, tree: ast.AST) -> set[int]:
    """The numbers of the lines with a comment, and of those of docstrings."""
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            numbers.add(token.start[0])
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            docstring = node.body[0]
            numbers.update(range(docstring.lineno, docstring.end_lineno + 1))
    return numbers


def measure(source: str) -> Figures:
    """The figures of a Python source."""
    tree = ast.parse(source)
    lines = source.splitlines() or ['']
    n_blank = sum(not line.strip() for line in lines)
    n_commented = len(commented_lines(source, tree))
    sizes = statement_sizes(tree)
    lengths = function_lengths(tree) or [0]
    return Figures(
        lines=len(lines),
        statements=len(sizes),
        columns=max(map(len, lines)),
        mean_size=statistics.mean(sizes or [0]),
        high_size=sizes[int(0.9 * len(sizes))] if sizes else 0,
        largest_size=max(sizes, default=0),
        median_function=statistics.median(lengths),
        longest_function=max(lengths),
        commented=100 * n_commented / len(lines),
        blank=100 * n_blank / len(lines),
    )


def main():
    for path in sys.argv[1:]:
        figures = asdict(measure(Path(path).read_text(encoding='utf-8')))
        print(path)
        print('   ', ', '.join(f'{name} {value:.4g}' for name, value in figures.items()))


if __name__ == '__main__':
    main()
