"""What the eight lectures share: experiments that check their own figures, the table they fill, the lectures' loop.

    python tests/lectures/l3_mlp.py                  the lecture's experiments as a table
    python tests/lectures/l3_mlp.py --long --write   the long ones too; the results go into the course page
    python tests/lectures/course.py                  write the page's tables anew from the stored results
    python -m pytest tests/lectures --long           the same experiments as tests

An experiment is a function whose docstring asks a question and which yields rows: what was measured, the lecture's
figure, ours. A row is the assertion: one that is too far from its figure fails the test.
"""
import argparse, contextlib, functools, inspect, io, json, os, re, sys
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')      # tiny tensors and many threads do not go well
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import trange

import makemore

torch.set_num_threads(1)
PAGE, RESULTS = Path(__file__).with_name('README.md'), Path(__file__).with_name('results.json')
COLUMNS = 'what', 'lecture', 'here', 'verdict'

# ----------------------------------------------------------------------------------------------------------------------
# Rows: a figure, ours beside it, and whether they agree
NUMBER = re.compile(r'-?\d+\.?\d*(?:e[-+]\d+)?')

def digits(template, values):
    """Our numbers written as the lecture wrote its own: ('2.07 / 2.13', [2.0696, 2.1311]) -> '2.07 / 2.13'."""
    values = iter(values)
    def write(match):
        mantissa, e, _ = match[0].partition('e')
        return f'{float(next(values)):.{len(mantissa.partition(".")[2])}{e or "f"}}'
    return NUMBER.sub(write, template)

def last_digit(number):
    """What one step of a number's last digit is worth: '2.07' -> 0.01, '1.5e-03' -> 0.0001."""
    mantissa, _, power = number.partition('e')
    return 10.0 ** (int(power or 0) - len(mantissa.partition('.')[2]))

def figure(what, lecture, here, within=None, published=True):
    """A row. A figure in quotes is held against numbers, to the digits it gives; anything else has to be equal.

    Where no tolerance is named, a number may be off by half of its last digit or by 1e-4, whichever is more: another
    processor adds up in another order, and the lecture's last digits come out only on one like the lecture's.
    """
    values = [here] if isinstance(here, (bool, int, float)) else here
    if isinstance(lecture, str) and not isinstance(here, str):
        wanted = NUMBER.findall(lecture)
        gaps = [abs(float(ours) - float(theirs)) for ours, theirs in zip(values, wanted, strict=True)]
        text = digits(lecture, values)
        ok = all(gap <= max(within or 1e-4 * min(1, abs(float(number))), 0.501 * last_digit(number))
                 for gap, number in zip(gaps, wanted))
        verdict = 'exact' if text == lecture else f'off by {max(gaps):.0e}'
    else:
        ok, text, verdict = lecture == here, show(here), 'exact'
    return dict(what=what, lecture=show(lecture) if published else '–', here=text, verdict=verdict if ok else 'NO',
                ok=ok, expected=show(lecture))

def show(value):
    return {True: 'yes', False: 'no'}[value] if isinstance(value, bool) else str(value)

def answer(what, expected, here, within=None):
    """A row for what the lecture asks and gives no figure for: ours stays what it was found to be."""
    row = figure(what, expected, here, within, published=False)
    return row | dict(verdict='ours') if row['ok'] else row

def claim(what, truth):
    """A row for something the lecture says without a figure."""
    row = figure(what, True, bool(truth))
    return row | dict(verdict='holds') if row['ok'] else row

# ----------------------------------------------------------------------------------------------------------------------
# Experiments: tests for pytest, tables for a reader
def experiment(function=None, *, long=False):
    """Make a test of a function that yields rows; a long one runs with --long only."""
    if function is None:
        return functools.partial(experiment, long=long)
    @functools.wraps(function)
    def test():
        for row in function():
            assert row['ok'], f'{row["what"]}: expected {row["expected"]}, got {row["here"]}'
    test.rows, test.long = function, long
    return pytest.mark.long(test) if long else test

def experiments(module):
    """All experiments of a lecture, in the order in which they stand in its file."""
    return [f for f in vars(module).values() if hasattr(f, 'rows')]

def question(function):
    return inspect.getdoc(function).split('\n\n')[0].replace('\n', ' ')

def shared_data(name):
    """A file that is too large, or not ours, to lie in the repository."""
    if 'MAKEMORE_DATA' not in os.environ:
        pytest.skip(f'needs {name}: name the folder that holds it in MAKEMORE_DATA')
    return Path(os.environ['MAKEMORE_DATA'], name)

def main():
    """A lecture as a script. Exit code 0: all figures agree, 1: one does not, 2: a file is missing."""
    try:
        sys.exit(0 if run(sys.modules['__main__']) else 1)
    except BrokenPipeError:      # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

def run(module):
    """Run a lecture's experiments, print the table, and store what came out if asked to; whether all agrees."""
    parser = argparse.ArgumentParser(description=module.__doc__.split('\n')[0])
    parser.add_argument('--long', action='store_true', help='also what takes minutes')
    parser.add_argument('--only', metavar='WORD', default='', help='only experiments with this in their name')
    parser.add_argument('--write', action='store_true', help='store the results and write them into the course page')
    args, good = parser.parse_args(), True
    print('experiment | lecture | here | verdict')
    for f in experiments(module):
        if args.only in f.__name__ and (args.long or not f.long):
            print(f'\n{question(f)}', flush=True)
            good = report(f, Path(module.__file__).stem, args.write) and good
    return good

def report(function, lecture, write):
    """Run one experiment and print its rows as they come; whether all of them agree."""
    rows = []
    try:
        for row in function.rows():
            rows.append(row)
            print(*(row[column] for column in COLUMNS), sep=' | ', flush=True)
    except pytest.skip.Exception as reason:
        print(f'{function.__name__} | | | not run here: {reason}')
        return True
    if write:
        stored = json.loads(RESULTS.read_text(encoding='utf-8')) if RESULTS.exists() else {}
        kept = [{column: row[column] for column in COLUMNS} for row in rows]
        stored.setdefault(lecture, {})[function.__name__] = kept
        RESULTS.write_text(json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')
        PAGE.write_text(page(PAGE.read_text(encoding='utf-8'), stored), encoding='utf-8')
    return all(row['ok'] for row in rows)

# ----------------------------------------------------------------------------------------------------------------------
# The course page: its tables stand between <!-- l1_micrograd --> and <!-- end -->
def page(text, stored):
    """The page with its tables written anew; an experiment that has no results says so."""
    def write(match):
        return f'<!-- {match[1]} -->\n{table(match[1], stored.get(match[1], {}))}<!-- end -->'
    return re.sub(r'<!-- (l\d_\w+) -->\n.*?<!-- end -->', write, text, flags=re.S)

def table(lecture, results):
    bar, module = '\\|', __import__(lecture)
    lines = ['| experiment | lecture | here | verdict |', '| --- | --- | --- | --- |']
    for f in experiments(module):
        lines.append(f'| **{question(f).replace("|", bar)}**{" (`--long`)" if f.long else ""} | | | |')
        for row in results.get(f.__name__, [dict(what=f.__name__, lecture='', here='', verdict='not run here')]):
            cells = (row[column].replace('|', bar) for column in COLUMNS)
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'

# ----------------------------------------------------------------------------------------------------------------------
# The lectures' data, parameters and loop
def G(seed=2147483647):
    """The generator from which the lectures draw."""
    return torch.Generator().manual_seed(seed)

@functools.cache
def read(**typed):
    """Settings and words as makemore reads them, split as the lectures split."""
    cfg = makemore.settle(dict(input_file=str(ROOT / 'names.txt'), split='lecture', dropout=0.0) | typed)
    with contextlib.redirect_stderr(io.StringIO()):      # what it says about the file we know
        return cfg, makemore.read(cfg)

def build(kind, **typed):
    """One of makemore's models and the words that belong to it."""
    cfg, words = read(type=kind, **typed)
    return makemore.MODELS[kind](cfg, words.vocab_size), words

def dataset(model, words, split):
    """The lectures' X (N, block_size) and Y (N): all windows of a split, word by word."""
    x, y = makemore.gather(words, *words.splits[split])
    return model.windows(x)[y >= 0], y[y >= 0]

def draw_weights(net, generator, *scales):
    """Parameters as the lectures draw them: randn((fan_in, fan_out)), the embedding first, then layer by layer.

    A scale is (factor of the weights, factor of the biases); without one the weights are divided by the root of fan_in
    and biases are 0 and not drawn. Torch keeps a weight as (fan_out, fan_in): a view of the lecture's is enough.
    """
    scales = iter(scales)
    for m in net:
        if isinstance(m, nn.Embedding):
            m.weight.data = torch.randn(m.weight.shape, generator=generator)
        if isinstance(m, nn.Linear):
            weight, scale = torch.randn(m.weight.shape[::-1], generator=generator), next(scales, None)
            m.weight.data = (weight * scale[0] if scale else weight / len(weight)**0.5).T
            if m.bias is not None:
                m.bias.data = torch.randn(len(m.bias), generator=generator) * scale[1] if scale else m.bias.data * 0
    return net

def descend(net, X, Y, steps, generator=None, drop_at=100000, title='', watch=None):
    """The lectures' loop: 32 random examples, a step of 0.1, later of 0.01, no momentum. The losses, step by step."""
    parameters, losses = list(net.parameters()), []
    for i in trange(steps, desc=title, disable=None, mininterval=1, leave=False):
        ix = torch.randint(0, len(X), (32,), generator=generator)
        loss = F.cross_entropy(net(X[ix]), Y[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        rate = 0.1 if i < drop_at else 0.01
        for p in parameters:
            p.data += -rate * p.grad      # add_(grad, alpha=-rate) would round once where the lecture rounds twice
        losses.append(loss.item())
        if watch:
            watch(i, rate)
    return losses

@torch.no_grad()
def loss_of(net, X, Y):
    """Over a whole split, as a model is used: evaluation mode."""
    net.eval()
    loss = F.cross_entropy(net(X), Y).item()
    net.train()
    return loss

def losses_of(net, model, words, splits=('train', 'dev')):
    return [loss_of(net, *dataset(model, words, split)) for split in splits]

@torch.no_grad()
def names(net, words, block_size, n=20, generator=None):
    """Names drawn as the later lectures do, by torch.multinomial; makemore's own draw() is the first lecture's."""
    net.eval()
    made = []
    for _ in range(n):
        context, out = [0] * block_size, []
        while not out or out[-1]:
            p = net(torch.tensor([context])).softmax(1)
            out.append(torch.multinomial(p, 1, generator=generator).item())
            context = context[1:] + out[-1:]
        made.append(words.decode(out) + '.')
    net.train()
    return ' '.join(made)

if __name__ == '__main__':
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    PAGE.write_text(page(PAGE.read_text(encoding='utf-8'), results), encoding='utf-8')
