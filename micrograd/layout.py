"""
The arrangement of a graph: a column and a height for every node, and the route of every edge.

The root stands in the rightmost column, and every other node to the left of all that use it.
Heights start from an even spread. Then each node is moved to the mean height of its neighbours,
while the nodes of a column keep their distance. After some rounds of this, most edges are short.

An edge between columns that are not side by side has to get past the boxes between them. It goes
through a bend in each of these columns, which takes part in the arrangement like a node.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

from .engine import Value, topological_sort

ROW = 46  # least distance in height of two items in a column, in pixels
ROUNDS = 30


class Bend(NamedTuple):
    """Where the edges from a node cross a column. All edges from that node share it."""

    node: Value
    column: int


Item = Value | Bend


class Link(NamedTuple):
    """A piece of an edge between neighbouring columns. `slot` says which parent of end it is."""

    start: Item
    end: Item
    slot: int


class Layout(NamedTuple):
    """Columns are counted from the right, where the root stands in column 0."""

    column: dict[Item, int]
    height: dict[Item, float]
    links: list[Link]


def arrange_graph(root: Value) -> Layout:
    """The column and height of every item, and the links between them."""
    column: dict[Item, int] = assign_columns(root)
    links = route_edges(root, column)
    for link in links:
        if isinstance(link.start, Bend):
            column[link.start] = link.start.column

    items_in = defaultdict(list)
    for item in dict.fromkeys([root, *[link.start for link in links]]):
        items_in[column[item]].append(item)
    columns = list(items_in.values())
    return Layout(column, assign_heights(columns, links), links)


def assign_columns(root: Value) -> dict[Value, int]:
    """The column of every Value: the largest number of operations between it and the root."""
    column = {root: 0}
    for node in reversed(topological_sort(root)):
        for parent in node.parents:
            column[parent] = max(column.get(parent, 0), column[node] + 1)
    return column


def route_edges(root: Value, column: dict[Value, int]) -> list[Link]:
    """Every edge as links, from the parent through its bends to the node."""
    links = []
    for node in topological_sort(root):
        for slot, parent in enumerate(node.parents):
            between = range(column[parent] - 1, column[node], -1)
            item: Item = parent
            for c in between:
                bend = Bend(parent, c)
                links.append(Link(item, bend, 0))
                item = bend
            links.append(Link(item, node, slot))
    # edges of the same parent share their first links
    return list(dict.fromkeys(links))


def assign_heights(columns: list[list[Item]], links: list[Link]) -> dict[Item, float]:
    """A height for every item, so that neighbours are near and columns do not overlap."""
    neighbours = defaultdict(list)
    for link in links:
        neighbours[link.start].append(link.end)
        neighbours[link.end].append(link.start)

    height = {}
    for items in columns:
        for i, item in enumerate(items):
            height[item] = ROW * (i - len(items) / 2)

    for _ in range(ROUNDS):
        for items in columns:
            wanted = {item: mean_height(neighbours[item], height) for item in items}
            height.update(spread(wanted))
    return height


def mean_height(items: list[Item], height: dict[Item, float]) -> float:
    """The mean of the heights of the items, 0 if there are none."""
    if not items:
        return 0.0
    return math.fsum(height[item] for item in items) / len(items)


def spread(wanted: dict[Item, float]) -> dict[Item, float]:
    """Heights near the wanted ones, in the same order and at least ROW apart."""
    placed = {}
    lowest = -math.inf
    for item in sorted(wanted, key=wanted.get):
        placed[item] = max(wanted[item], lowest + ROW)
        lowest = placed[item]
    # so far items were only moved one way; centre them on the wanted heights again
    shift = math.fsum(wanted[item] - placed[item] for item in wanted) / len(wanted)
    return {item: y + shift for item, y in placed.items()}
