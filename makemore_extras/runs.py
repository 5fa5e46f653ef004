"""
A table of all runs: which list, which model type, how large, how long, how good.

    python makemore.py --runs

`read_result` returns what a finished run has saved in its folder, `format_table` lines of text.
"""

import contextlib
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

COLUMNS = ('list', 'type', 'params', 'steps', 'seconds', 'train', 'dev', 'test', 'novelty')
TEXT_COLUMNS = ('list', 'type', 'folder')  # these are aligned on the left, numbers on the right
MISSING = '-'


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of result.json; None if the run is not finished."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        result = json.loads((folder / 'result.json').read_bytes())
        if isinstance(result, dict) and isinstance(result.get('settings'), dict):
            return result
    return None


def name_data(settings: dict[str, Any]) -> str:
    """The list, with what makes losses on it another matter: names.txt (split lecture)."""
    path = str(settings.get('input_file', '?'))
    name = 'stdin' if path == '-' else Path(path).name
    details = []
    if settings.get('split') in ('lecture', 'all'):
        details.append(f'split {settings["split"]}')
    if settings.get('text'):
        details.append('text')
    if settings.get('tokenizer') not in ('char', None):
        details.append('byte pairs')
    return f'{name} ({", ".join(details)})' if details else name


def format_number(value: Any, pattern: str) -> str:
    """A number in this format; a dash if there is none."""
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return format(value, pattern) if is_number else MISSING


def make_row(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """The cells of a run, by column."""
    row = {'list': name_data(result['settings']), 'type': str(result.get('type', MISSING))}
    row['params'] = format_number(result.get('params') or None, ',')  # an n-gram has none
    row['steps'] = format_number(result.get('steps'), ',')
    row['seconds'] = format_number(result.get('seconds'), '.0f')
    for split in ('train', 'dev', 'test'):
        row[split] = format_number(result.get(split), '.4f')
    is_list = not result['settings'].get('text')
    novelty = format_number(result.get('novelty') if is_list else None, '.0%')
    row['novelty'] = novelty.replace('%', ' %')
    row['folder'] = str(folder)
    return row


def dev_loss_of(row: dict[str, str]) -> float:
    """The dev loss in a row, infinite if there is none."""
    return math.inf if row['dev'] == MISSING else float(row['dev'])


def text_width(text: str) -> int:
    """How many columns of a terminal a text takes: a Japanese character takes two."""
    return sum(2 if unicodedata.east_asian_width(ch) in 'WF' else 1 for ch in text)


def pad(text: str, width: int, align_left: bool) -> str:
    """The text, padded with spaces to a width in terminal columns."""
    spaces = ' ' * (width - text_width(text))
    return text + spaces if align_left else spaces + text


def format_table(results: dict[Path, dict[str, Any]]) -> list[str]:
    """The lines of a table: runs on the same data stand together, best first."""
    rows = [make_row(folder, result) for folder, result in results.items()]
    rows.sort(key=lambda row: (row['list'], dev_loss_of(row)))
    columns = [*COLUMNS, 'folder']
    rows.insert(0, dict(zip(columns, columns, strict=True)))
    widths = {column: max(text_width(row[column]) for row in rows) for column in columns}
    lines = []
    for row in rows:
        cells = [pad(row[column], widths[column], column in TEXT_COLUMNS) for column in columns]
        lines.append('  '.join(cells).rstrip())
    return lines
