"""The course page tells the truth: its tables are the stored results, and its commands parse."""

import json
import re
import shlex

import course
import pytest

import makemore
import tokenizer.__main__

PAGE = course.PAGE.read_text(encoding='utf-8')
LECTURES = re.findall(r'<!-- (l\d_\w+) -->', PAGE)
BLOCKS = '\n'.join(re.findall(r'^    .*', PAGE, re.MULTILINE))
COMMANDS = re.findall(r'python (-m \w+|[\w./]+\.py)((?: [^#|;\n]*)?)', BLOCKS)


def load_results():
    return json.loads(course.RESULTS.read_text(encoding='utf-8'))


def test_numbers_are_written_with_the_lectures_digits():
    assert course.format_like('2.07 / 2.13', [2.0696, 2.1311]) == '2.07 / 2.13'
    assert course.format_like('-8.0 and 1.5e-03', [-8, 0.00151]) == '-8.0 and 1.5e-03'
    with pytest.raises(ValueError, match='zip'):
        course.figure('one number too few', '1.0 2.0', [1.0])


@pytest.mark.parametrize(
    ('lecture', 'here', 'within', 'verdict'),
    [
        ('2.07', 2.0696, None, 'exact'),
        ('2.0700', 2.07005, None, 'off by 5e-05'),
        ('2.0700', 2.0712, None, 'NO'),
        ('2.0700', 2.0712, 0.01, 'off by 1e-03'),
        ('2.64e-03', 2.7e-3, None, 'NO'),
        (27, 27, None, 'exact'),
        (27, 28, None, 'NO'),
        ('mor axx', 'mor axe', None, 'NO'),
        ('1.0', float('nan'), None, 'NO'),
    ],
)
def test_a_row_says_no_when_it_has_to(lecture, here, within, verdict):
    row = course.figure('what', lecture, here, within)
    assert row['verdict'] == verdict
    assert row['ok'] == (verdict != 'NO')


def test_an_answer_and_a_claim_can_fail_too():
    assert course.answer('what', '1.0', 2.0)['verdict'] == 'NO'
    assert course.answer('what', '1.0', 1.0)['verdict'] == 'ours'
    assert course.claim('what', False)['verdict'] == 'NO'
    assert course.claim('what', True)['verdict'] == 'holds'


def test_an_experiment_fails_with_its_first_bad_row():
    @course.experiment
    def wrong():
        yield course.figure('first', '1.0', 1.0)
        yield course.figure('second', '1.0', 3.0)

    with pytest.raises(AssertionError, match=r'second: expected 1\.0, got 3\.0'):
        wrong()


def test_all_lectures_are_on_the_page():
    files = course.PAGE.parent.glob('l[0-9]_*.py')
    assert sorted(path.stem for path in files) == LECTURES


def test_the_tables_are_the_stored_results():
    assert course.fill_tables(PAGE, load_results()) == PAGE


@pytest.mark.parametrize('lecture', LECTURES)
def test_results_belong_to_experiments_and_none_says_no(lecture):
    stored = load_results().get(lecture, {})
    experiments = course.experiments(__import__(lecture))
    assert stored.keys() <= {test.__name__ for test in experiments}
    for rows in stored.values():
        assert 'NO' not in [row['verdict'] for row in rows]
    for test in experiments:
        assert re.search(r'[?.:)]$', course.question(test)), test.__name__


@pytest.mark.parametrize(('program', 'words'), COMMANDS)
def test_commands_on_the_page_parse(program, words):
    args = shlex.split(words.replace('$l', '1e-3'))
    if program == 'makemore.py':
        makemore.resolve_config(makemore.parse_args(args))
    elif program == '-m tokenizer':
        tokenizer.__main__.parse(args)
    else:
        assert program in ('-m micrograd', '-m pytest') or (course.ROOT / program).exists()


def test_there_are_commands_for_every_program():
    programs = {program for program, _ in COMMANDS}
    assert {'makemore.py', '-m tokenizer', '-m micrograd'} <= programs
