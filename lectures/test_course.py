"""The course page tells the truth: its tables are the stored results, and its commands parse."""

import itertools
import json
import re
import shlex
import sys

import course
import pytest

import makemore
import tokenizer.__main__

PAGE = course.PAGE.read_text(encoding='utf-8')
LECTURES = re.findall(r'<!-- (l\d_\w+) -->', PAGE)
SECTIONS = dict(zip(LECTURES, re.split(r'^## \d\. ', PAGE, flags=re.MULTILINE)[1:], strict=True))
BLOCKS = '\n'.join(re.findall(r'^    .*', PAGE, re.MULTILINE))
COMMANDS = re.findall(r'python (-m \w+|[\w./]+\.py)((?: [^#|;\n]*)?)', BLOCKS)


def load_results():
    return json.loads(course.RESULTS.read_text(encoding='utf-8'))


def test_numbers_are_written_with_the_lectures_digits():
    assert course.format_like('2.07 / 2.13', [2.0696, 2.1311]) == '2.07 / 2.13'
    assert course.format_like('-8.0 and 1.5e-03', [-8, 0.00151]) == '-8.0 and 1.5e-03'
    with pytest.raises(ValueError, match='zip'):
        course.figure('one number too few', '1.0 2.0', [1.0], 'file')


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
    row = course.figure('what', lecture, here, 'file', within)
    assert row['verdict'] == verdict
    assert row['ok'] == (verdict != 'NO')


def test_the_other_kinds_of_rows_can_fail_too():
    assert course.answer('what', '1.0', 2.0)['verdict'] == 'NO'
    assert course.answer('what', '1.0', 1.0)['verdict'] == 'ours'
    assert course.claim('what', False, 'video')['verdict'] == 'NO'
    assert course.claim('what', True, 'video')['verdict'] == 'holds'
    assert course.finding('what', False)['verdict'] == 'NO'
    assert course.finding('what', True)['verdict'] == 'ours'


def test_a_row_of_the_lecture_says_where_it_is_shown():
    """The column of the lecture once held figures of ours, such as the ids of an exercise sheet
    that gives none.
    """
    assert course.figure('f(3)', '20.0', 20.0, 'file')['lecture'] == '20.0 (file)'
    assert course.claim('it falls', True, 'video')['lecture'] == 'yes (video)'
    assert course.answer('what', '1.0', 1.0)['lecture'] == course.NOTHING
    with pytest.raises(ValueError, match='from a file or from its video'):
        course.figure('f(3)', '20.0', 20.0, 'hearsay')


def test_an_experiment_fails_with_its_first_bad_row():
    @course.experiment
    def wrong():
        yield course.figure('first', '1.0', 1.0, 'file')
        yield course.figure('second', '1.0', 3.0, 'file')

    with pytest.raises(AssertionError, match=r'second: expected 1\.0, got 3\.0'):
        wrong()


def test_all_lectures_are_on_the_page():
    files = course.PAGE.parent.glob('l[0-9]_*.py')
    assert sorted(path.stem for path in files) == LECTURES


def test_the_tables_are_the_stored_results():
    assert course.fill_tables(PAGE, load_results()) == PAGE


@pytest.mark.parametrize('lecture', LECTURES)
def test_every_figure_of_a_lecture_is_marked(lecture):
    for row in itertools.chain(*load_results()[lecture].values()):
        if row['verdict'] == 'ours':
            assert row['lecture'] == course.NOTHING, row
        elif row['verdict']:
            assert re.search(r' \((file|video)\)$', row['lecture']), row
        else:  # a conclusion
            assert row['lecture'] == row['here'] == '', row


# figures that once stood in the column of the lecture, though no lecture shows them
OURS = {
    'l1_micrograd': ['0.23550571390294128', '0.102443419482938', '7 3'],
    'l2_bigrams': ['3.758953809738159', '3.7590', '2.4727'],
    'l4_batchnorm': ['[[0, 1], [2, 3], [4, 5]]', '[[0, 3], [1, 4], [2, 5]]'],
    'l6_wavenet': ['22097', '22397', '(32, 8, 24)'],
    'l8_tokenizer': ['28509 4513 57037', '16799 1343 718', '43453'],
}


@pytest.mark.parametrize(('lecture', 'figures'), OURS.items())
def test_figures_of_ours_are_not_called_those_of_a_lecture(lecture, figures):
    for row in itertools.chain(*load_results()[lecture].values()):
        for figure in figures:
            assert figure not in row['lecture'], row


def test_the_readme_counts_what_the_page_counts():
    counts = course.count_rows(load_results())
    total = counts['file'] + counts['video']
    readme = ' '.join((course.ROOT / 'README.md').read_text(encoding='utf-8').split())
    assert f'{total} figures' in readme
    assert f'{counts["exact"]} of them agree' in readme


@pytest.mark.parametrize('lecture', LECTURES)
def test_every_experiment_is_run_on_the_page(lecture):
    names = {test.__name__ for test in course.experiments(__import__(lecture))}
    assert load_results()[lecture].keys() == names


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
    elif '--only' in args:
        module = __import__(program.removeprefix('lectures/').removesuffix('.py'))
        name = args[args.index('--only') + 1]
        assert [test.__name__ for test in course.find_experiments(module, name, False)] == [name]
    else:
        assert program in ('-m micrograd', '-m pytest') or (course.ROOT / program).exists()


# -----------------------------------------------------------------------------
# links and chapters


@pytest.mark.parametrize('lecture', LECTURES)
def test_every_lecture_links_to_what_it_follows(lecture):
    section = SECTIONS[lecture]
    for kind in ('Video', 'notebook', 'paper'):
        assert kind in section, kind
    assert re.search(r'\[Video\]\(https://www\.youtube\.com/watch\?v=[\w-]{11}\)', section)
    assert re.search(r'exercise|improve on my loss', section)


CHAPTER = re.compile(r'^\| \[(\d:\d\d:\d\d)\]\((\S+)\) (.+?) \| (.+) \|$', re.MULTILINE)
PLACE = re.compile(r'\[[\w/.]+\]\(([\w/.]+)\) ((?:`\w+`(?:, )?)+)')


@pytest.mark.parametrize('lecture', LECTURES)
def test_every_chapter_leads_to_functions_that_exist(lecture):
    chapters = CHAPTER.findall(SECTIONS[lecture])
    assert len(chapters) >= 5
    for time, address, _, places in chapters:
        hours, minutes, seconds = map(int, time.split(':'))
        assert address.endswith(f'&t={3600 * hours + 60 * minutes + seconds}s')
        found = PLACE.findall(places)
        assert found, places
        for path, names in found:
            source = (course.PAGE.parent / path).read_text(encoding='utf-8')
            for name in re.findall(r'`(\w+)`', names):
                assert re.search(rf'^(def|class) {name}\b', source, re.MULTILINE), (path, name)


# -----------------------------------------------------------------------------
# a lecture as a script


def run_script(lecture, args, monkeypatch):
    """The exit code of a lecture's script."""
    monkeypatch.setattr(sys, 'argv', [f'{lecture}.py', *args])
    monkeypatch.setitem(sys.modules, '__main__', __import__(lecture))
    with pytest.raises(SystemExit) as ended:
        course.main()
    return ended.value.code


@pytest.mark.parametrize('lecture', LECTURES)
def test_a_script_lists_its_experiments(lecture, monkeypatch, capsys):
    assert run_script(lecture, ['--list'], monkeypatch) == 0
    out = capsys.readouterr().out
    for test in course.experiments(__import__(lecture)):
        assert test.__name__ in out
        assert course.question(test) in out


QUICK = {
    'l1_micrograd': 'test_one_input',
    'l2_bigrams': 'test_multinomial',
    'l3_mlp': 'test_concatenation',
    'l4_batchnorm': 'test_mistake_softmax_twice',
    'l5_backprop': 'test_bessel',
    'l6_wavenet': 'test_norm_in_three_dimensions',
    'l7_gpt': 'test_sizes',
    'l8_tokenizer': 'test_unicode',
}


@pytest.mark.parametrize(('lecture', 'name'), QUICK.items())
def test_a_script_runs_the_one_experiment_that_is_named(lecture, name, monkeypatch, capsys):
    assert run_script(lecture, ['--only', name], monkeypatch) == 0
    assert re.findall(r'^(test_\w+): ', capsys.readouterr().out, re.MULTILINE) == [name]


def test_a_word_chooses_all_experiments_that_have_it_in_their_name():
    module = __import__('l3_mlp')

    def names(word, long):
        return [test.__name__ for test in course.find_experiments(module, word, long)]

    assert names('embedding', False) == ['test_embedding']  # exactly this one
    assert names('mbedding', False) == ['test_embedding']  # the other one takes minutes
    assert names('mbedding', True) == ['test_embedding', 'test_embedding_picture']
    assert names('embedding_picture', False) == ['test_embedding_picture']


def test_an_unknown_experiment_is_one_line(monkeypatch, capsys):
    assert run_script('l3_mlp', ['--only', 'zzz'], monkeypatch) == 2
    err = capsys.readouterr().err
    assert '--only zzz: no such experiment' in err
    assert '--list' in err
    assert 'Traceback' not in err


@pytest.mark.slow
def test_without_the_files_only_what_needs_them_is_skipped(monkeypatch, tmp_path):
    """Without the published vocabularies 15 of the 20 experiments of lecture 8 were skipped."""
    monkeypatch.setenv('MAKEMORE_DATA', str(tmp_path))
    module = __import__('l8_tokenizer')
    module.load_published.cache_clear()
    skipped = []
    for test in course.experiments(module):
        try:
            next(test.rows())
        except pytest.skip.Exception as reason:
            assert 'lectures/README.md' in str(reason)
            skipped.append(test.__name__)
    assert all(re.search('gpt|shakespeare|root|compression', name) for name in skipped)
    assert len(skipped) == 12


def test_there_are_commands_for_every_program():
    programs = {program for program, _ in COMMANDS}
    assert {'makemore.py', '-m tokenizer', '-m micrograd'} <= programs
