"""The table of all runs that --runs prints."""

import json
from pathlib import Path

import pytest

import makemore
from makemore_extras import runs

pytestmark = pytest.mark.slow


def table(out):
    """The rows of a printed table, as lists of words."""
    return [line.split() for line in out.splitlines()]


def test_runs_are_listed_best_first(train, run, tmp_path):
    """Those on the same list stand together: losses on different lists do not compare."""
    towns = [f'{start}{end}' for start in ('Rom', 'Par', 'Osl') for end in 'abcdefghij']
    (tmp_path / 'towns.txt').write_text('\n'.join(towns))
    assert run('-i', 'towns.txt', '--type', 'ngram').code == 0
    assert train('mlp').code == 0
    assert train('ngram').code == 0
    code, out, _ = run('--runs')
    assert code == 0
    header, *rows = table(out)
    assert tuple(header) == (*runs.COLUMNS, 'folder')
    assert [row[0] for row in rows] == ['names.txt', 'names.txt', 'towns.txt']
    losses = [float(row[6]) for row in rows[:2]]
    assert losses == sorted(losses)
    for row in rows:
        result = json.loads(Path(row[-1], 'result.json').read_text())
        assert row[1] == result['type']
        assert row[6] == f'{result["dev"]:.4f}'
        assert row[8:10] == [f'{100 * result["novelty"]:.0f}', '%']


def test_a_run_that_is_not_finished_is_listed(train, run):
    """It has no result yet: its best model says what is known. A damaged one is named."""
    assert train('mlp').code == 0
    Path('out/names-mlp/result.json').unlink()
    assert train('gru').code == 0
    Path('out/names-gru/best.pt').write_bytes(b'damaged')
    Path('out/names-gru/result.json').write_text('[]')
    code, out, err = run('--runs')
    assert code == 0
    (row,) = table(out)[1:]
    model, _ = makemore.load('out/names-mlp')
    assert row[:3] == ['names.txt', 'mlp', f'{makemore.count_parameters(model):,}']
    assert float(row[6]) > 0
    assert (row[5], row[7], row[8]) == ('-', '-', '-')
    assert 'out/names-gru/best.pt is not a checkpoint' in err


def test_without_runs_there_is_no_table(run):
    code, out, err = run('--runs')
    assert (code, out) == (2, '')
    assert err == 'makemore: out has no runs: train one first\n'


def test_the_table_needs_the_extras(run, monkeypatch):
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', False)
    code, _, err = run('--runs')
    assert code == 2
    assert err == 'makemore: --runs needs the folder makemore_extras beside makemore.py\n'


@pytest.mark.parametrize(
    'settings, name',
    [
        ({'input_file': '/data/names.txt', 'split': 'honest'}, 'names.txt'),
        ({'input_file': '-', 'split': 'lecture'}, 'stdin (split lecture)'),
        ({'input_file': 'a.txt', 'text': True, 'tokenizer': 'bpe'}, 'a.txt (text, byte pairs)'),
        ({}, '?'),
    ],
)
def test_what_makes_losses_another_matter_is_named(settings, name):
    assert runs.name_data(settings) == name


def test_columns_are_aligned():
    """Japanese characters take two columns each."""
    results = {
        Path('out/a'): {'type': 'gru', 'dev': 2.0, 'settings': {'input_file': '鉄道駅.txt'}},
        Path('out/b'): {'type': 'mlp', 'dev': None, 'settings': {'input_file': 'names.txt'}},
    }
    header, first, second = runs.format_table(results)
    assert header.index('type') == first.index('mlp') == second.index('gru') + 3
    assert [line.split()[0] for line in (first, second)] == ['names.txt', '鉄道駅.txt']
