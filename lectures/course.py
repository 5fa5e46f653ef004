"""What the eight lectures share: experiments, the tables they fill, and the lectures' own loop.

    python lectures/l3_mlp.py --list                      the lecture's experiments by name
    python lectures/l3_mlp.py --only test_find_a_rate     one of them
    python lectures/l3_mlp.py                             those that take seconds, as a table
    python lectures/l3_mlp.py --long --write              all; results go into the course page
    python lectures/course.py                             write the page anew from stored results
    python -m pytest lectures --long                      the same experiments as tests

An experiment is a function whose docstring asks a question and which yields rows: what was
measured, the lecture's figure, ours. A row is the assertion: one that is too far from its figure
fails the test.

    figure      the lecture shows a number; ours has to agree
    claim       the lecture says something without a number; it has to be true
    answer      a number of our own; it has to stay what it was found to be
    finding     a statement of our own; it has to be true
    conclusion  what follows from the rows above it, in a sentence
"""

import argparse
import contextlib
import functools
import inspect
import io
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds makemore, too

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import trange

import makemore

torch.set_num_threads(1)  # tiny tensors and many threads do not go well
ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name('README.md')
RESULTS = Path(__file__).with_name('results.json')
COLUMNS = ('what', 'lecture', 'here', 'verdict')

# Where a lecture shows a figure: in a file, which is its notebook, its exercise sheet or one of its
# repositories; or in the video only. Nothing else may stand in the column of the lecture.
SOURCES = ('file', 'video')
NOTHING = '\N{EN DASH}'

# -----------------------------------------------------------------------------
# rows: a figure, ours beside it, and whether they agree

NUMBER = re.compile(r'-?\d+\.?\d*(?:e[-+]\d+)?')


def format_like(template: str, values: list[float]) -> str:
    """Our numbers with the lecture's digits: ('2.07 / 2.13', [2.0696, 2.1311]) -> '2.07 / 2.13'."""
    numbers = iter(values)

    def write(match: re.Match) -> str:
        mantissa, e, _ = match[0].partition('e')
        _, _, decimals = mantissa.partition('.')
        return f'{float(next(numbers)):.{len(decimals)}{e or "f"}}'

    return NUMBER.sub(write, template)


def last_digit(number: str) -> float:
    """What one step of a number's last digit is worth: '2.07' -> 0.01, '1.5e-03' -> 0.0001."""
    mantissa, _, exponent = number.partition('e')
    _, _, decimals = mantissa.partition('.')
    return 10.0 ** (int(exponent or 0) - len(decimals))


def compare(what: str, expected: Any, here: Any, within: float | None = None) -> dict[str, Any]:
    """A row that compares two values. Quoted numbers are compared to the digits they give.

    Anything else has to be equal. Where no tolerance is named, a number may be off by half of its
    last digit or by 1e-4, whichever is more: another processor adds up in another order, and the
    lecture's last digits come out only on one like the lecture's.
    """
    if isinstance(expected, str) and not isinstance(here, str):
        values = [here] if isinstance(here, (bool, int, float)) else list(here)
        wanted = NUMBER.findall(expected)
        gaps = []
        ok = True
        for ours, theirs in zip(values, wanted, strict=True):
            gap = abs(float(ours) - float(theirs))
            tolerance = within or 1e-4 * min(1, abs(float(theirs)))
            ok = ok and gap <= max(tolerance, 0.501 * last_digit(theirs))
            gaps.append(gap)
        text = format_like(expected, values)
        verdict = 'exact' if text == expected else f'off by {max(gaps):.0e}'
    else:
        ok = expected == here
        text = to_text(here)
        verdict = 'exact'
    return {
        'what': what,
        'lecture': NOTHING,
        'here': text,
        'verdict': verdict if ok else 'NO',
        'ok': ok,
        'expected': to_text(expected),
    }


def to_text(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return str(value)


def mark(row: dict[str, Any], source: str) -> dict[str, Any]:
    """The row with the lecture's side of it, and where the lecture shows it."""
    if source not in SOURCES:
        raise ValueError(f'{source!r}: a figure of a lecture is from a file or from its video')
    return row | {'lecture': f'{row["expected"]} ({source})'}


def figure(
    what: str, lecture: Any, here: Any, source: str, within: float | None = None
) -> dict[str, Any]:
    """A row for a figure that the lecture shows in a file or in its video."""
    return mark(compare(what, lecture, here, within), source)


def claim(what: str, truth: Any, source: str) -> dict[str, Any]:
    """A row for something that the lecture says or shows without a figure."""
    row = mark(compare(what, True, bool(truth)), source)
    return row | {'verdict': 'holds'} if row['ok'] else row


def answer(what: str, expected: Any, here: Any, within: float | None = None) -> dict[str, Any]:
    """A row for a figure of our own: it stays what it was found to be."""
    row = compare(what, expected, here, within)
    return row | {'verdict': 'ours'} if row['ok'] else row


def finding(what: str, truth: Any) -> dict[str, Any]:
    """A row for a statement of our own."""
    return answer(what, True, bool(truth))


def conclusion(sentence: str) -> dict[str, Any]:
    """A row that says what follows from those above it; its numbers are those just measured."""
    empty = dict.fromkeys(('lecture', 'here', 'verdict', 'expected'), '')
    return {'what': f'Answer: {sentence}', 'ok': True} | empty


# -----------------------------------------------------------------------------
# experiments: tests for pytest, tables for a reader


def experiment(function: Callable | None = None, *, long: bool = False, slow: bool = False):
    """Make a test of a function that yields rows; a long one runs with --long only."""
    if function is None:
        return functools.partial(experiment, long=long, slow=slow)

    @functools.wraps(function)
    def test():
        for row in function():
            assert row['ok'], f'{row["what"]}: expected {row["expected"]}, got {row["here"]}'

    test.rows = function
    test.long = long
    if long:
        pytest.mark.long(test)
    if slow:
        pytest.mark.slow(test)
    return test


def experiments(module: ModuleType) -> list[Callable]:
    """All experiments of a lecture, in the order in which they stand in its file."""
    return [value for value in vars(module).values() if hasattr(value, 'rows')]


def question(test: Callable) -> str:
    """What an experiment asks: the first paragraph of its docstring."""
    first_paragraph, *_ = inspect.getdoc(test).split('\n\n')
    return first_paragraph.replace('\n', ' ')


def shared_data(name: str | Path) -> Path:
    """A file that is too large, or not ours, to lie in the repository."""
    path = Path(os.environ.get('MAKEMORE_DATA', ROOT / 'data'), name)
    if not path.exists():
        pytest.skip(f'needs {path}; lectures/README.md has the command that downloads it')
    return path


def main():
    """A lecture as a script.

    Exit code 0: all figures agree, 1: one does not, 2: no such experiment, or a file is missing.
    """
    try:
        sys.exit(0 if run(sys.modules['__main__']) else 1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def find_experiments(module: ModuleType, name: str, long: bool) -> list[Callable]:
    """The experiments with this in their name; just the one that has exactly this name.

    One that is named exactly runs even if it is long: whoever names it wants to see it.
    """
    known = experiments(module)
    exact = [test for test in known if test.__name__ in (name, f'test_{name}')]
    if exact:
        return exact
    return [test for test in known if name in test.__name__ and (long or not test.long)]


def list_experiments(module: ModuleType):
    """Print the name of every experiment and its question."""
    for test in experiments(module):
        minutes = ' (minutes)' if test.long else ''
        print(f'{test.__name__}{minutes}\n    {question(test)}')


def run(module: ModuleType) -> bool:
    """Run a lecture's experiments and print the table; whether all of it agrees."""
    summary, *_ = module.__doc__.splitlines()
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument('--list', action='store_true', help='list the experiments, run none')
    parser.add_argument(
        '--only', metavar='NAME', default='', help='one experiment, or all with this in their name'
    )
    parser.add_argument('--long', action='store_true', help='also what takes minutes')
    parser.add_argument(
        '--write', action='store_true', help='store the results and write them into the course page'
    )
    args = parser.parse_args()
    if args.list:
        list_experiments(module)
        return True
    chosen = find_experiments(module, args.only, args.long)
    if not chosen:
        parser.error(f'--only {args.only}: no such experiment that takes seconds; try --list')
    all_agree = True
    print('experiment | lecture | here | verdict')
    for test in chosen:
        print(f'\n{test.__name__}: {question(test)}', flush=True)
        agrees = report(test, Path(module.__file__).stem, args.write)
        all_agree = all_agree and agrees
    return all_agree


def report(test: Callable, lecture: str, write: bool) -> bool:
    """Run one experiment and print its rows as they come; whether all of them agree."""
    rows = []
    try:
        for row in test.rows():
            rows.append(row)
            print(' | '.join(row[column] for column in COLUMNS).rstrip(' |'), flush=True)
    except pytest.skip.Exception as reason:
        print(f'not run here: {reason}')
        return True
    if write:
        store(lecture, test.__name__, rows)
    return all(row['ok'] for row in rows)


def store(lecture: str, name: str, rows: list[dict[str, Any]]):
    """Write the rows of an experiment into results.json and into the course page."""
    stored = json.loads(RESULTS.read_text(encoding='utf-8')) if RESULTS.exists() else {}
    kept = [{column: row[column] for column in COLUMNS} for row in rows]
    stored.setdefault(lecture, {})[name] = kept
    text = json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True)
    RESULTS.write_text(text + '\n', encoding='utf-8')
    PAGE.write_text(fill_tables(PAGE.read_text(encoding='utf-8'), stored), encoding='utf-8')


# -----------------------------------------------------------------------------
# the course page: its tables stand between <!-- l1_micrograd --> and <!-- end -->


def fill_tables(text: str, stored: dict[str, dict]) -> str:
    """The page with its tables written anew; an experiment that has no results says so."""

    def write(match: re.Match) -> str:
        name = match[1]
        if name == 'counts':
            content = describe_counts(count_rows(stored))
        else:
            content = make_table(name, stored.get(name, {}))
        return f'<!-- {name} -->\n{content}<!-- end -->'

    return re.sub(r'<!-- (counts|l\d_\w+) -->\n.*?<!-- end -->', write, text, flags=re.DOTALL)


def count_rows(stored: dict[str, dict]) -> Counter:
    """How many rows are figures from a file or a video, exact, statements of a lecture, or ours."""
    counts = Counter()
    for results in stored.values():
        for row in itertools.chain(*results.values()):
            if row['verdict'] in ('ours', 'holds'):
                counts[row['verdict']] += 1
            elif row['verdict']:
                source = re.search(r'\((\w+)\)$', row['lecture'])[1]
                counts[source] += 1
                counts['exact'] += row['verdict'] == 'exact'
    return counts


def describe_counts(counts: Counter) -> str:
    """The counts as sentences for the page."""
    total = counts['file'] + counts['video']
    return (
        f'{total} rows have a figure of a lecture, {counts["file"]} of them from a file and '
        f'{counts["video"]} from a video. {counts["exact"]} of the {total} agree in every digit\n'
        f'that the lecture shows. {counts["holds"]} rows have a statement of a lecture, and '
        f'{counts["ours"]} a figure or a statement of ours.\n'
    )


def make_table(lecture: str, results: dict[str, list[dict[str, str]]]) -> str:
    """The table of a lecture in Markdown."""
    lines = ['| experiment | lecture | here | verdict | function |', '| --- ' * 5 + '|']
    for test in experiments(__import__(lecture)):
        name = f'`{test.__name__}`'
        if test.long:
            name += ' (`--long`)'
        lines.append(f'| **{escape_bars(question(test))}** | | | | {name} |')
        not_run = dict.fromkeys(COLUMNS, '') | {'what': 'not run here'}
        for row in results.get(test.__name__, [not_run]):
            cells = [escape_bars(row[column]) for column in COLUMNS]
            lines.append(f'| {" | ".join(cells)} | `{test.__name__}` |')
    return '\n'.join(lines) + '\n'


def escape_bars(text: str) -> str:
    """A bar would end a cell of the table."""
    return text.replace('|', '\\|')


# -----------------------------------------------------------------------------
# the lectures' data, parameters and loop


def lecture_generator(seed: int = 2147483647) -> torch.Generator:
    """The generator from which the lectures draw."""
    return torch.Generator().manual_seed(seed)


@functools.cache
def load_data(**settings: Any) -> tuple[makemore.Config, makemore.CharDataset]:
    """Settings and data set as makemore loads them, split as the lectures split."""
    defaults = {'input_file': str(ROOT / 'names.txt'), 'split': 'lecture', 'dropout': 0.0}
    config = makemore.resolve_config(defaults | settings)
    with contextlib.redirect_stderr(io.StringIO()):  # what it says about the file we know
        return makemore.load_data(config)


def build_model(
    model_type: str, **settings: Any
) -> tuple[makemore.LanguageModel, makemore.CharDataset]:
    """One of makemore's models and the data set that belongs to it."""
    config, dataset = load_data(type=model_type, **settings)
    return makemore.MODELS[model_type](config, dataset.vocab_size), dataset


def make_windows(
    model: makemore.WindowModel, dataset: makemore.CharDataset, split: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lectures' X (N, block_size) and Y (N): all windows of a split, word by word."""
    return windows_of(model, dataset, dataset.spans[split])


def windows_of(
    model: makemore.WindowModel, dataset: makemore.CharDataset, spans: makemore.Spans
) -> tuple[torch.Tensor, torch.Tensor]:
    """X (N, block_size) and Y (N): the windows of some spans."""
    x, y = makemore.pad_batch(dataset.tokens, spans)
    return model.windows(x)[y >= 0], y[y >= 0]


def line_spans(dataset: makemore.CharDataset, n: int | None = None) -> makemore.Spans:
    """The first n lines of the file in its own order; all of them without n."""
    boundaries = (dataset.tokens == 0).nonzero().flatten()
    return makemore.Spans(boundaries[:-1][:n], boundaries.diff()[:n])


def draw_weights(net: nn.Sequential, generator: torch.Generator | None, *scales: tuple):
    """Parameters as the lectures draw them: randn((fan_in, fan_out)), layer by layer.

    A scale is (factor of the weights, factor of the biases); without one the weights are divided
    by the root of fan_in and biases are 0 and not drawn. Torch keeps a weight as (fan_out,
    fan_in): a view of the lecture's is enough.
    """
    remaining = iter(scales)
    for layer in net:
        if isinstance(layer, nn.Embedding):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
        if isinstance(layer, nn.Linear):
            weight = torch.randn(layer.weight.shape[::-1], generator=generator)  # (in, out)
            scale = next(remaining, None)
            layer.weight.data = (weight * scale[0] if scale else weight / len(weight) ** 0.5).T
            if layer.bias is not None and scale:
                layer.bias.data = torch.randn(len(layer.bias), generator=generator) * scale[1]
            elif layer.bias is not None:
                layer.bias.data = layer.bias.data * 0
    return net


def train_sgd(
    net: nn.Module,
    X: torch.Tensor,
    Y: torch.Tensor,
    steps: int,
    generator: torch.Generator | None = None,
    drop_at: int = 100000,
    title: str = '',
    watch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """The losses of the lectures' loop: 32 random examples, a step of 0.1, later of 0.01."""
    parameters = list(net.parameters())
    losses = []
    for step in show_progress(steps, title):
        ix = torch.randint(0, len(X), (32,), generator=generator)
        loss = F.cross_entropy(net(X[ix]), Y[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        lr = 0.1 if step < drop_at else 0.01
        for p in parameters:
            # add_(grad, alpha=-lr) would round once where the lecture rounds twice
            p.data += -lr * p.grad
        losses.append(loss.item())
        if watch:
            watch(step, lr)
    return losses


def show_progress(steps: int, title: str) -> Iterator[int]:
    """The numbers of the steps, with a bar on a terminal."""
    return trange(steps, desc=title, disable=None, mininterval=1, leave=False)


@torch.no_grad()
def mean_loss(net: nn.Module, X: torch.Tensor, Y: torch.Tensor) -> float:
    """Over a whole split, as a model is used: evaluation mode."""
    net.eval()
    loss = F.cross_entropy(net(X), Y).item()
    net.train()
    return loss


def split_losses(
    net: nn.Module,
    model: makemore.WindowModel,
    dataset: makemore.CharDataset,
    splits: tuple[str, ...] = ('train', 'dev'),
) -> list[float]:
    """The mean losses of a net over some splits; the model makes the windows."""
    return [mean_loss(net, *make_windows(model, dataset, split)) for split in splits]


@torch.no_grad()
def sample_names(
    net: nn.Module,
    dataset: makemore.CharDataset,
    block_size: int,
    generator: torch.Generator | None = None,
    n: int = 20,
) -> str:
    """Names drawn as the later lectures do, by torch.multinomial.

    makemore's own sampling is that of the first lecture.
    """
    net.eval()
    names = []
    for _ in range(n):
        context = [0] * block_size
        tokens = []
        while not tokens or tokens[-1] != 0:
            p = net(torch.tensor([context])).softmax(1)
            token = torch.multinomial(p, 1, generator=generator).item()
            tokens.append(token)
            context = [*context[1:], token]
        names.append(dataset.decode(tokens) + '.')
    net.train()
    return ' '.join(names)


if __name__ == '__main__':
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    PAGE.write_text(fill_tables(PAGE.read_text(encoding='utf-8'), results), encoding='utf-8')
