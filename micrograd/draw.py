"""A picture of the graph, with no graphviz needed: draw_dot(L).save('L.svg'), or draw_dot(L) alone in a notebook."""
import math
import re
from collections import defaultdict, namedtuple
from pathlib import Path

from .engine import topological_sort

GAP, ROW, OVAL, LETTER = 36, 46, 30, 6.7  # pixels: between columns, between rows, an oval's half width, a letter

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {0:.0f} {1:.0f} {2:.0f}" width="{1:.0f}" height="{2:.0f}">
<style>path{{fill:none;stroke:#555}}rect,ellipse{{fill:#fff;stroke:#222}}text{{font:11px monospace}}</style>
<marker id="tip" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 1L8 4L0 7"/></marker>
<g text-anchor="middle">{3}\n<text x="{4:.0f}" y="{5:.0f}">{6}</text></g></svg>
"""

class Drawing(namedtuple('Drawing', 'source svg mermaid')):
    """The graph three times: .source is DOT, for those who have graphviz; GitHub draws .mermaid."""
    def _repr_svg_(self): return self.svg  # notebooks look for this name
    def save(self, path):
        """The ending of the name chooses: .svg, .dot or .gv, .mmd."""
        texts = {'.svg': self.svg, '.dot': self.source, '.gv': self.source, '.mmd': self.mermaid}
        if Path(path).suffix not in texts:
            raise ValueError(f"{str(path)!r} should end in one of {', '.join(texts)}")
        Path(path).write_text(texts[Path(path).suffix], encoding='utf-8')

def draw_dot(root):
    """A box for every Value with its label, data and grad, an oval for every operation, an edge for every use."""
    nodes = dict.fromkeys([p for v in topological_sort(root) for p in (*v._prev, v)] or [root])
    note = '' if root.grad else 'backward() has not run: no gradients yet'  # it would have made this one 1
    texts = {v: [*filter(None, [v.label]), f'data {v:.4f}', 'grad ?' if note else f'grad {v.grad:.4f}'] for v in nodes}
    dot = written(texts, f'digraph {{\n  rankdir=LR\n  label="{note}"', safe, '  {} [shape=record label="{{ {} }}"]',
                  '  {0}op [label="{1}"]\n  {0}op -> {0}', '  {} -> {}op') + '}\n'
    mermaid = written(texts, 'graph LR' + (f'\n  note["{plain(note)}"]' if note else ''), plain, '  {}["{}"]',
                      '  {0}op(["{1}"]) --> {0}', '  {} --> {}op')
    return Drawing(dot, svg(root, texts, note), mermaid)

def safe(text, unsafe=r'[&<>"\'{}|\\\n]'):
    """'a<b' -> 'a&#60;b': nothing in a label can end the box it stands in."""
    return re.sub(unsafe, lambda m: f'&#{ord(m[0])};', text)

def plain(text):
    """safe() for Mermaid, which writes #60; and takes even a lone '+' for the start of a Markdown list."""
    return safe(text, r'(?!-\d)[^\w .]').replace('&#', '#')

def written(texts, head, escape, box, oval, edge):
    """The graph in a language that has these three sentences."""
    ids, lines = {v: f'n{i}' for i, v in enumerate(texts)}, [head]
    for v, name in ids.items():
        lines.append(box.format(name, ' | '.join(map(escape, texts[v]))))
        if v._prev:
            lines.append(oval.format(name, escape(v._op)))
            lines += [edge.format(ids[p], name) for p in v._prev]
    return '\n'.join(lines + [''])

def layout(root):
    """The column of each item, counted from the root's; its height; and the links (from, to, which parent of to).
    An item is a Value, or (Value, c) where edges from the Value cross column c: they share a lane between the boxes."""
    column, links, near, columns = {root: 0}, {}, defaultdict(list), defaultdict(list)
    for v in reversed(topological_sort(root)):
        for p in v._prev:
            column[p] = max(column.get(p, 0), column[v] + 1)
    for v in topological_sort(root):
        for k, p in enumerate(v._prev):
            lane = [(p, c) for c in range(column[p] - 1, column[v], -1)]
            column.update({item: item[1] for item in lane})
            links.update(dict.fromkeys([*zip([p, *lane], lane, [0] * len(lane)), ([p, *lane][-1], v, k)]))
    for a, b, _ in links:
        near[a].append(b)
        near[b].append(a)
    for item in dict.fromkeys([root, *(a for a, _, _ in links)]):
        columns[column[item]].append(item)
    y = {item: ROW * (i - len(items) / 2) for items in columns.values() for i, item in enumerate(items)}
    for items in list(columns.values()) * 30:  # everything pulls on its neighbours, and a column keeps its items apart
        want = {item: math.fsum(y[n] for n in near[item]) / (len(near[item]) or 1) for item in items}
        low = -math.inf
        for item in sorted(items, key=want.get):
            low = y[item] = max(want[item], low + ROW)
        shift = math.fsum(want[item] - y[item] for item in items) / len(items)
        y.update({item: y[item] + shift for item in items})
    return column, y, links

def svg(root, texts, note):
    column, y, links = layout(root)
    box = max(len(' | '.join(t)) for t in texts.values()) * LETTER + 16
    unit = 2*OVAL + 16 + box + GAP  # an oval, its arrow, its box, and room for the next edges
    width, top = (max(column.values()) + 1) * unit + GAP, min(y.values()) - ROW
    left = {item: width - (c + 1) * unit for item, c in column.items()}
    out = []
    for a, b, k in links:
        x, h, x1, h1, end = left[a] + unit - GAP, y[a], left[b], y[b], ''
        if b in texts:  # a*a: two edges, side by side
            h1 += (k - (len(b._prev) - 1) / 2) * min(7, 24 / len(b._prev))
            end = ' marker-end="url(#tip)"'
        out.append(f'<path d="M{x if a in texts else left[a]:.0f} {h:.1f}H{x:.0f}C{x + GAP/2:.0f} {h:.1f} '
                   f'{x1 - GAP/2:.0f} {h1:.1f} {x1:.0f} {h1:.1f}"{end}/>')
    for v, parts in texts.items():
        o, x, h = left[v] + OVAL, left[v] + 2*OVAL + 16, y[v]
        if v._prev:
            out.append(f'<ellipse cx="{o:.0f}" cy="{h:.1f}" rx="{OVAL}" ry="15"/><text x="{o:.0f}" y="{h + 4:.1f}">'
                       f'{safe(v._op)}</text><path d="M{x - 16:.0f} {h:.1f}H{x:.0f}" marker-end="url(#tip)"/>')
        out.append(f'<rect x="{x:.0f}" y="{h - 15:.1f}" width="{box:.0f}" height="30"/>'
                   f'<text x="{x + box/2:.0f}" y="{h + 4:.1f}">{safe(" | ".join(parts))}</text>')
    return SVG.format(top, width, max(y.values()) + ROW - top, '\n'.join(out), width / 2, top + 16, note)
