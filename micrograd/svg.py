"""
The picture of an arranged graph as SVG.

A node is drawn in a cell. From left to right a cell holds the oval of the operation, an arrow, the
box of the Value, and a gap for the curves that lead to the next column. All cells are equally wide.
"""

from __future__ import annotations

import html

from .engine import Value
from .layout import ROW, Bend, Layout, Link

# all in pixels
LETTER = 6.7  # width of a letter
BOX_HEIGHT = 30
OVAL_WIDTH = 60
OVAL_HEIGHT = 30
ARROW = 16  # from the oval to the box
GAP = 36  # from the box to the next cell

# A backslash at the end of a line joins it to the next one. Every style rule names the class: in a
# notebook the SVG is part of the page, and a rule for `path` alone would change all its pictures.
PAGE = """\
<svg xmlns="http://www.w3.org/2000/svg" class="micrograd" \
width="{width:.0f}" height="{height:.0f}" viewBox="0 {top:.0f} {width:.0f} {height:.0f}">
<style>
.micrograd path {{ fill: none; stroke: #555 }}
.micrograd rect, .micrograd ellipse {{ fill: #fff; stroke: #222 }}
.micrograd text {{ font: 11px monospace; text-anchor: middle }}
</style>
<marker id="tip" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 1L8 4L0 7"/></marker>
<g>
{shapes}
</g>
</svg>
"""


def write_svg(layout: Layout, texts: dict[Value, list[str]], note: str) -> str:
    """The text of an SVG file. `texts` holds the parts of what stands in each box."""
    labels = {node: ' | '.join(parts) for node, parts in texts.items()}
    longest = max(len(label) for label in labels.values())
    box_width = LETTER * longest + 16
    cell_width = OVAL_WIDTH + ARROW + box_width + GAP

    # columns are counted from the right
    n_columns = 1 + max(layout.column.values())
    width = n_columns * cell_width + GAP
    left = {item: width - cell_width * (c + 1) for item, c in layout.column.items()}
    top = min(layout.height.values()) - ROW
    bottom = max(layout.height.values()) + ROW

    shapes = [draw_link(link, layout, left, cell_width) for link in layout.links]
    for node, label in labels.items():
        x = left[node]
        y = layout.height[node]
        if node.parents:
            shapes.append(draw_operation(node.op, x, y))
        shapes.append(draw_box(label, x + OVAL_WIDTH + ARROW, y, box_width))
    shapes.append(draw_text(note, width / 2, top + 12))
    return PAGE.format(top=top, width=width, height=bottom - top, shapes='\n'.join(shapes))


def draw_link(link: Link, layout: Layout, left: dict, cell_width: float) -> str:
    """A curve from the end of a box, or through the cell of a bend, to the next column."""
    x0 = left[link.start]
    x1 = x0 + cell_width - GAP
    y1 = layout.height[link.start]
    x2 = left[link.end]
    y2 = layout.height[link.end]
    if not isinstance(link.start, Bend):
        x0 = x1  # nothing to draw across the cell of a node

    ends_at_node = not isinstance(link.end, Bend)
    if ends_at_node:
        # the arrows meet the oval one below the other, also the two of a * a
        n = len(link.end.parents)
        middle = (n - 1) / 2
        y2 += (link.slot - middle) * min(7, 24 / n)

    line = ['M', x0, y1, 'H', x1]
    curve = ['C', x1 + GAP / 2, y1, x2 - GAP / 2, y2, x2, y2]
    return draw_path(line + curve, arrow=ends_at_node)


def draw_operation(op: str, x: float, y: float) -> str:
    """The oval of an operation, and the arrow from it to the box."""
    rx = OVAL_WIDTH / 2
    ry = OVAL_HEIGHT / 2
    oval = element('ellipse', cx=x + rx, cy=y, rx=rx, ry=ry)
    end = x + OVAL_WIDTH
    arrow = draw_path(['M', end, y, 'H', end + ARROW], arrow=True)
    return oval + draw_text(op, x + rx, y) + arrow


def draw_box(label: str, x: float, y: float, width: float) -> str:
    """The box of a Value, with its text."""
    box = element('rect', x=x, y=y - BOX_HEIGHT / 2, width=width, height=BOX_HEIGHT)
    return box + draw_text(label, x + width / 2, y)


def draw_text(text: str, x: float, y: float) -> str:
    """A text whose middle is at x and y."""
    return element('text', html.escape(text), x=x, y=y + 4)


def draw_path(commands: list[str | float], arrow: bool) -> str:
    """A line, given in SVG's own commands: M moves there, H draws a level line, C a curve."""
    words = [c if isinstance(c, str) else f'{c:.1f}' for c in commands]
    marker = 'url(#tip)' if arrow else 'none'
    return element('path', d=' '.join(words), marker_end=marker)


def element(name: str, content: str = '', **attributes: str | float) -> str:
    """<name attributes>content</name>. Numbers are rounded to a tenth of a pixel."""
    words = [name]
    for key, value in attributes.items():
        text = value if isinstance(value, str) else f'{value:.1f}'
        words.append(f'{key.replace("_", "-")}="{text}"')
    return f'<{" ".join(words)}>{content}</{name}>'
