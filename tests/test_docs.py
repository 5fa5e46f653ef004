"""The documentation is true: help for every setting, a row for every model, commands that work."""

import ast
import doctest
import re
import shlex
import sys
from pathlib import Path

import pytest

import makemore

ROOT = Path(makemore.__file__).resolve().parent
READMES = {}  # the README.md of the project and those beside what they are about
for path in ('README.md', 'lectures/README.md', 'tests/README.md', 'tests/bench/README.md'):
    if (ROOT / path).exists():
        READMES[path] = (ROOT / path).read_text(encoding='utf-8')
README = READMES['README.md']
SOURCE = (ROOT / 'makemore.py').read_text(encoding='utf-8')

# -----------------------------------------------------------------------------
# makemore.py and its help


def test_every_section_has_a_rule_of_dashes_and_one_plain_title():
    """The titles alone are the table of contents of the file."""
    lines = SOURCE.splitlines()
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r'# -+', line)]
    assert {lines[number] for number in rules} == {'# ' + '-' * 77}
    titles = [lines[number + 1] for number in rules]
    assert len(titles) >= 8
    assert len(set(titles)) == len(titles)
    for number, title in zip(rules, titles, strict=True):
        assert re.fullmatch(r'# [a-zA-Z][\w ,:-]{2,60}', title), title
        # the title is followed by an empty line or by an explanation below it
        assert lines[number + 2] in ('', '#'), title
        assert lines[number - 1] == '', title


def test_there_are_few_settings_and_each_has_help():
    assert len(makemore.SETTINGS) <= 45
    text = makemore.make_parser().format_help()
    for name, setting in makemore.SETTINGS.items():
        assert len(setting.metadata['help']) > 5, name
        assert re.search(rf'{makemore.flag_of(name)}\b', text), name


def test_help_shows_every_model():
    text = ' '.join(makemore.make_parser().format_help().split())
    for name, cls in makemore.MODELS.items():
        summary = cls.__doc__.strip().splitlines()[0]
        assert f'{name} {" ".join(summary.split())}' in text
    text = ' '.join(makemore.make_parser(is_short=True).format_help().split())
    for name in makemore.MODELS:
        assert re.search(rf'types: .*\b{name}\b', text)


@pytest.mark.parametrize('model_type', makemore.MODELS)
def test_help_shows_the_defaults_that_will_run(model_type):
    """What a type prefers is its default; once --help showed those of Config for every type."""
    text = ' '.join(makemore.make_parser(model_type).format_help().split())
    text = text.split('data:', 1)[1]  # without the usage
    config = makemore.resolve_config({'type': model_type})
    for name, setting in makemore.SETTINGS.items():
        value = getattr(config, name)
        if setting.type is bool or name == 'type' or value in (None, ''):
            continue
        by_type = any(name in cls.preferred_settings for cls in makemore.MODELS.values())
        if (model_type, name) == ('mix', 'max_steps'):
            value = 'by member'
        default = f'default for {model_type}: {value}' if by_type else f'default: {value}'
        option = re.search(
            rf'{makemore.flag_of(name)} (?:N|X|TEXT|FILE|DIR)\b(.*?)\)(?: -|$)', text
        )
        assert default in option[1] + ')', name
    assert 'default: 3407' in text
    assert 'longest line' in makemore.make_parser('mix').format_help()


def test_help_is_one_screen_of_twenty_options(monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    lines = makemore.make_parser(is_short=True).format_help().splitlines()
    assert len(lines) <= 40
    assert len([line for line in lines if line.startswith('  -')]) == 20
    whole = makemore.make_parser().format_help()
    titles = ['data', 'model', 'training', 'logging', 'output folder', 'sampling', 'machine']
    assert re.findall(r'^([a-z ]+):$', whole, re.MULTILINE)[: len(titles)] == titles
    metavars = set(re.findall(r'^  -.*? --[a-z0-9-]+ ([A-Z]+)', whole, re.MULTILINE))
    assert metavars <= {'N', 'X', 'FILE', 'TEXT', 'DIR'}


def test_help_has_the_commands_of_the_docstring():
    text = makemore.make_parser().format_help()
    commands = re.findall(r'^ {4}((?:python|torchrun) .*)', makemore.__doc__, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        assert command in text


def test_help_names_what_torchrun_can_start(monkeypatch):
    """Once it was makemore.py wherever one stood, and installed there is no such file."""
    for started, target in [('/usr/bin/makemore', '-m makemore'), ('/a b/makemore.py', "'/a b/")]:
        monkeypatch.setattr(sys, 'argv', [started])
        examples = makemore.list_examples()
        assert f'  torchrun --standalone --nproc_per_node=2 {target}' in examples[-1]
        comments = {line.rindex('   ') for line in examples}
        assert len(comments) == 1  # they stand below each other


def test_a_setting_can_be_found_in_its_group():
    groups = {setting.metadata['group'] for setting in makemore.SETTINGS.values()}
    assert groups == set(makemore.GROUPS)


# -----------------------------------------------------------------------------
# finding commands


def code_blocks(text):
    """(language, lines) of every fenced or indented block: what stands there is to be pasted."""
    fenced = re.findall(r'^```(\w*)\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
    blocks = [(language, block.splitlines()) for language, block in fenced]
    for block in re.findall(r'(?:^ {4}.*\n?)+', rest, re.MULTILINE):
        blocks.append(('', [line[4:] for line in block.splitlines()]))
    return blocks


def command_lines(language, lines):
    """The lines of a block that are commands.

    A block without a language may show output, too. There a command is what begins like one.
    """
    block = '\n'.join(lines).replace('\\\n', ' ')
    for name, value in re.findall(r'\bfor (\w+) in (\S+)', block):  # the first round of a loop
        block = block.replace(f'${name}', value)
    looks_like_one = re.compile(r'\$ |(\w+=\S* )*(python3?|torchrun|pip|makemore) ')
    for line in block.splitlines():
        if language in ('sh', 'bash', 'console') or looks_like_one.match(line):
            yield line.removeprefix('$ ')


def split_line(line):
    """Each command of a line as words; a pipe, a semicolon or && joins several of them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars='|&;<>()')
    lexer.whitespace_split = True
    lexer.commenters = '#'
    command = []
    for word in [*lexer, ';']:
        if set(word) <= set('|&;'):
            yield command
            command = []
        else:
            command.append(word)


def find_commands(text):
    """Each single command of the code blocks, as words."""
    for language, lines in code_blocks(text):
        if language not in ('python', 'py'):
            for line in command_lines(language, lines):
                yield from split_line(line)


def makemore_args(command):
    """What makemore.py gets, or None if it is not called; without what stands behind a >."""
    for number, word in enumerate(command):
        if Path(word).name == 'makemore.py' or (number == 0 and word == 'makemore'):
            args = command[number + 1 :]
            break
    else:
        return None
    for number, word in enumerate(args):
        if set(word) <= set('<>'):
            return args[:number]
    return args


def find_makemore_args(text):
    found = [makemore_args(command) for command in find_commands(text)]
    return [args for args in found if args is not None]


def check_args(args):
    """Parse the arguments and resolve the settings, as a run would; --help would end there."""
    if not {'--help', '--help-all', '-h', '--version'} & set(args):
        makemore.resolve_config(makemore.parse_args(args))


def test_a_shell_loop_is_understood():
    text = '```sh\nfor l in 0.1 0.2; do python makemore.py -l $l -o out/$l > log; done\n```\n'
    assert find_makemore_args(text) == [['-l', '0.1', '-o', 'out/0.1']]


def test_a_wrong_command_is_noticed():
    text = '    $ python makemore.py --tpye mlp | head -1   # misspelled\n'
    commands = list(find_commands(text))
    assert [makemore_args(command) for command in commands] == [['--tpye', 'mlp'], None]
    with pytest.raises(makemore.UserError):
        check_args(['--tpye', 'mlp'])


def test_output_is_not_taken_for_a_command():
    text = '```\n$ python makemore.py --type mlp\nstep 0 | dev loss 3.3\n```\n'
    assert list(find_commands(text)) == [['python', 'makemore.py', '--type', 'mlp']]


# -----------------------------------------------------------------------------
# commands


def without_explanations(docstring):
    """A docstring without what follows its commands, some spaces apart."""
    return re.sub(r'(?<=\S) {2,}\S.*', '', docstring)


README_ARGS = [(name, args) for name in READMES for args in find_makemore_args(READMES[name])]
DOCSTRING_ARGS = find_makemore_args(without_explanations(makemore.__doc__))


@pytest.mark.parametrize(
    'args', [args for _, args in README_ARGS], ids=[f'{n}: {" ".join(a)}' for n, a in README_ARGS]
)
def test_every_command_in_a_readme_parses(args):
    check_args(args)


@pytest.mark.parametrize('args', DOCSTRING_ARGS, ids=' '.join)
def test_every_command_in_the_docstring_parses(args):
    check_args(args)


@pytest.mark.parametrize('path', sorted(ROOT.glob('makemore_extras/*.py')), ids=lambda p: p.name)
def test_every_command_in_the_docstrings_of_the_extras_parses(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    for args in find_makemore_args(without_explanations(docstring)):
        check_args(args)


def test_the_commands_of_the_pictures_parse():
    pictures = pytest.importorskip('pictures', reason='Pillow is not installed')
    for command in pictures.RUNS.values():
        check_args(shlex.split(command))
    folders = {name.split('/')[0] for name in pictures.RUNS}
    shown = {picture.runs for picture in pictures.SCREENSHOTS.values()}
    assert folders == shown | {run.split('/')[0] for run in pictures.COPIES.values()}


def test_there_are_commands_to_check():
    assert ('README.md', ['-i', 'names.txt', '--type', 'transformer']) in README_ARGS
    assert len(DOCSTRING_ARGS) >= 5


OTHER_MODULES = ('venv', 'pytest', 'pip', 'http.server', 'cProfile', 'ruff')


@pytest.mark.parametrize('name', READMES)
def test_other_commands_name_things_that_exist(name):
    """python -m tokenizer, python tests/bench/x.py, pip install -r requirements.txt."""
    for command in find_commands(READMES[name]):
        line = ' '.join(command)
        for module in re.findall(r'python3? -m ([\w.]+)', line):
            path = ROOT / module.replace('.', '/')
            is_ours = path.with_suffix('.py').exists() or (path / '__main__.py').exists()
            assert is_ours or module in OTHER_MODULES, module
        file = r'((?:[\w.-]+/)*[\w.-]+\.(?:py|txt|sh))'
        for path in re.findall(rf'(?:python3?|bash|-r) {file}', line):
            assert (ROOT / path).exists(), path


def python_sources(text):
    """The Python in a text: of sessions, only what was typed."""
    for language, lines in code_blocks(text):
        if language in ('python', 'py'):
            block = '\n'.join(lines)
            examples = doctest.DocTestParser().get_examples(block)
            yield from [example.source for example in examples] or [block]


@pytest.mark.parametrize('name', READMES)
def test_python_in_a_readme_is_python(name):
    for source in python_sources(READMES[name]):
        assert ast.parse(source).body


def test_python_is_found_in_sessions_and_in_blocks():
    text = '```python\n>>> 1 + 1\n2\n```\n\n```py\nx = 1\n```\n'
    assert list(python_sources(text)) == ['1 + 1\n', 'x = 1']


# -----------------------------------------------------------------------------
# README and requirements


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize('model_type', makemore.MODELS)
def test_every_model_has_a_row_in_the_readme(model_type):
    assert re.search(rf'^\| *`?{re.escape(model_type)}`? *\|', README, re.MULTILINE)


def test_the_first_screen_has_the_two_commands():
    screen = '\n'.join(README.splitlines()[:50])
    install = 'pip install -r requirements.txt'
    assert f'{install} && python makemore.py -i names.txt --type transformer' in screen
    assert f'{install} && python -m pytest' in screen


@pytest.mark.slow
def test_the_output_in_the_readme_is_that_of_the_program(run, tmp_path):
    """Counting gives the same numbers everywhere; on a terminal both streams are mixed."""
    (tmp_path / 'names.txt').write_bytes((ROOT / 'names.txt').read_bytes())
    (block,) = re.findall(r'^\$ python makemore.py (.*?)^```', README, re.MULTILINE | re.DOTALL)
    line, *shown = block.splitlines()
    result = run(*line.split())
    assert result.code == 0
    for stream in (result.out, result.err):
        # the last line names the program, which here is in another folder
        printed = [line for line in stream.splitlines() if 'sample more with:' not in line]
        assert printed == [line for line in shown if line in printed]
    assert len(shown) == len(result.out.splitlines()) + len(result.err.splitlines())


def linked_files(text):
    """The paths in the links of a text; not those to the web or within the text."""
    targets = re.findall(r'\]\(((?!http|#)[^)\s]+)\)', text)
    return [target.split('#')[0] for target in targets]


@pytest.mark.parametrize('name', READMES)
def test_files_that_a_readme_links_to_exist(name):
    for target in linked_files(READMES[name]):
        assert ((ROOT / name).parent / target).exists(), target


def test_every_requirement_is_pinned_and_has_a_reason():
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    requirements = [line for line in lines if not line.startswith('#')]
    assert len(requirements) >= 5
    for line in requirements:
        assert re.fullmatch(r'[\w-]+==[\w.]+ +# .{5,}', line), line
