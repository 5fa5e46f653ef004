"""
Pictures of a graph as SVG, as DOT for Graphviz, and as Mermaid.

    from micrograd import Value, draw_dot

    a = Value(2.0, label='a')
    L = (a * 3.0).tanh()
    L.backward()
    draw_dot(L).save('L.svg')  # open it in a browser; in a notebook, draw_dot(L) shows it

The SVG needs no other program: layout.py arranges the graph and svg.py draws it. This file writes
DOT and Mermaid, whose programs arrange the graph themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from .engine import Value, topological_sort
from .layout import arrange_graph
from .svg import write_svg


class Drawing(NamedTuple):
    """The picture of a graph in three languages. `source` is DOT."""

    source: str
    svg: str
    mermaid: str

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, in the language of its ending: .svg, .dot, .gv or .mmd."""
        texts = {'.svg': self.svg, '.dot': self.source, '.gv': self.source, '.mmd': self.mermaid}
        path = Path(path)
        if path.suffix not in texts:
            endings = ', '.join(texts)
            raise ValueError(f'{str(path)!r} should end in one of {endings}')
        path.write_text(texts[path.suffix], encoding='utf-8')

    def _repr_svg_(self) -> str:
        return self.svg  # the name under which Jupyter looks for a picture


def draw_dot(root: Value) -> Drawing:
    """A picture of the graph: a box per Value, an oval per operation, an edge per use.

    A box shows the label of the Value, its data and its gradient.
    """
    # root.backward() starts with a gradient of 1. Without any, it has not run, or root is part of a
    # larger graph and its gradient really is 0, as behind a relu that is off.
    note = '' if root.grad else 'backward() has not run, or the gradient is 0'
    texts = {node: describe(node) for node in list_nodes(root)}
    return Drawing(
        source=write_dot(texts, note),
        svg=write_svg(arrange_graph(root), texts, note),
        mermaid=write_mermaid(texts, note),
    )


def list_nodes(root: Value) -> list[Value]:
    """All Values of the graph, leaves included, each after its parents."""
    nodes = []
    for node in topological_sort(root):
        nodes += [*node.parents, node]
    nodes.append(root)
    return list(dict.fromkeys(nodes))  # without repetitions, in the same order


def describe(node: Value) -> list[str]:
    """The parts of the text in a box."""
    label = [node.label] if node.label else []
    return [*label, f'data {node.data:.4f}', f'grad {node.grad:.4f}']


# -----------------------------------------------------------------------------
# DOT


def write_dot(texts: dict[Value, list[str]], note: str) -> str:
    """The graph in the language of Graphviz."""
    names = {node: f'n{i}' for i, node in enumerate(texts)}
    lines = ['digraph {', '  rankdir=LR', f'  label="{note}"']
    for node, name in names.items():
        text = ' | '.join([escape_dot(part) for part in texts[node]])
        lines.append(f'  {name} [shape=record label="{{ {text} }}"]')
        if node.parents:
            lines.append(f'  {name}op [label="{escape_dot(node.op)}"]')
            lines.append(f'  {name}op -> {name}')
        lines += [f'  {names[parent]} -> {name}op' for parent in node.parents]
    return '\n'.join([*lines, '}', ''])


def escape_dot(text: str) -> str:
    """'a<b' -> 'a&#60;b': the characters with a meaning in DOT, as character references."""
    return re.sub(r'[&<>"\'{}|\\\n]', lambda match: f'&#{ord(match[0])};', text)


# -----------------------------------------------------------------------------
# Mermaid


def write_mermaid(texts: dict[Value, list[str]], note: str) -> str:
    """The graph in the language that GitHub and JupyterLab draw from a ```mermaid block."""
    names = {node: f'n{i}' for i, node in enumerate(texts)}
    lines = ['graph LR']
    if note:
        lines.append(f'  note["{escape_mermaid(note)}"]')
    for node, name in names.items():
        text = ' | '.join([escape_mermaid(part) for part in texts[node]])
        lines.append(f'  {name}["{text}"]')
        if node.parents:
            lines.append(f'  {name}op(["{escape_mermaid(node.op)}"]) --> {name}')
        lines += [f'  {names[parent]} --> {name}op' for parent in node.parents]
    return '\n'.join([*lines, ''])


def escape_mermaid(text: str) -> str:
    """'a<b' -> 'a#60;b': everything but letters, digits, spaces, points and signs of numbers."""
    # Mermaid reads Markdown in a label, where even a lone '+' would start a list. The minus of a
    # number stays.
    return re.sub(r'(?!-\d)[^\w .]', lambda match: f'#{ord(match[0])};', text)
