"""
What a classifier of points in the plane has learned: a map of the classes, as text and as SVG.

    from micrograd import MLP
    from micrograd.boundary import pictures
    from micrograd.data import moons

    text, svg = pictures(moons(), MLP(2, [16, 16, 1]))
    print(text)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .engine import Value
from .svg import element

# the map has this many cells, and the SVG shows each as a square of 10 by 10 pixels
COLUMNS = 72
LINES = 48

# for the classes 0, 1 and 2
REGION_LETTERS = ' .:'
REGION_COLORS = ('#f4b6a6', '#a9c8ec', '#bfe3b4')
POINT_LETTERS = 'ox+'
POINT_COLORS = ('#b2261e', '#1d4f91', '#2f7d1f')


class Frame(NamedTuple):
    """The part of the plane that the map shows: its upper left corner and the size of a cell."""

    left: float
    top: float
    dx: float
    dy: float

    def center(self, line: int, column: int) -> tuple[float, float]:
        """The point in the middle of a cell."""
        return self.left + (column + 0.5) * self.dx, self.top - (line + 0.5) * self.dy

    def position(self, x: float, y: float) -> tuple[float, float]:
        """The line and column of a point, with fractions."""
        return (self.top - y) / self.dy, (x - self.left) / self.dx


def winner(scores: Sequence[Value | float]) -> int:
    """The class with the highest score. A single score means class 1 if positive, else class 0."""
    if len(scores) == 1:
        return int(scores[0] > 0)
    return scores.index(max(scores))


def pictures(rows: Sequence[tuple[float, ...]], model: Callable) -> tuple[str, str]:
    """The map of the classes with the points of the data set on it, as text and as SVG."""
    frame = fit_frame(rows)
    cells = []
    for line in range(LINES):
        centers = [frame.center(line, column) for column in range(COLUMNS)]
        cells.append([classify(model, x, y) for x, y in centers])
    return draw_text_map(rows, cells, frame), draw_svg_map(rows, cells, frame)


def fit_frame(rows: Sequence[tuple[float, ...]]) -> Frame:
    """The frame around all points, with a margin of 0.5."""
    xs = [row[0] for row in rows]
    ys = [row[1] for row in rows]
    width = max(xs) - min(xs) + 1
    height = max(ys) - min(ys) + 1
    return Frame(min(xs) - 0.5, max(ys) + 0.5, width / COLUMNS, height / LINES)


def classify(model: Callable, x: float, y: float) -> int:
    """The class that the model gives to a point."""
    scores = model([x, y])
    return winner(scores if isinstance(scores, list) else [scores])


def draw_text_map(rows: Sequence[tuple[float, ...]], cells: list[list[int]], frame: Frame) -> str:
    """A letter for every cell, and another one where a point lies."""
    # every other line, because a letter is about twice as high as it is wide
    letters = [[REGION_LETTERS[c] for c in line] for line in cells[::2]]
    for x, y, *target in rows:
        line, column = frame.position(x, y)
        letters[int(line) // 2][int(column)] = POINT_LETTERS[winner(target)]
    return '\n'.join([''.join(line) for line in letters])


def draw_svg_map(rows: Sequence[tuple[float, ...]], cells: list[list[int]], frame: Frame) -> str:
    """A square for every cell, and a circle for every point."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {10 * COLUMNS} {10 * LINES}" '
        f'width="{10 * COLUMNS}" height="{10 * LINES}">'
    ]
    for i, line in enumerate(cells):
        for j, c in enumerate(line):
            # a little larger than a cell, so that no gaps show between them
            square = element(
                'rect', x=10 * j, y=10 * i, width=10.5, height=10.5, fill=REGION_COLORS[c]
            )
            lines.append(square)
    for x, y, *target in rows:
        line, column = frame.position(x, y)
        color = POINT_COLORS[winner(target)]
        lines.append(element('circle', cx=10 * column, cy=10 * line, r=5, fill=color))
    return '\n'.join([*lines, '</svg>', ''])
