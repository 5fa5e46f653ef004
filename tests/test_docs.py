"""The documentation tells the truth: help for every knob, a row for every model, commands that can be pasted."""
import ast
import doctest
import re
import shlex
from pathlib import Path

import pytest

import makemore

ROOT = Path(makemore.__file__).resolve().parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')


# ----------------------------------------------------------------------------------------------------------------------
# The file

def test_the_program_is_short():
    assert len((ROOT / 'makemore.py').read_text(encoding='utf-8').splitlines()) <= 1200


def test_there_are_few_knobs_and_each_has_help():
    assert len(makemore.KNOBS) <= 45
    text = makemore.Parser().format_help()
    for name, knob in makemore.KNOBS.items():
        assert len(knob.metadata['help']) > 5, name
        assert re.search(rf'--{name.replace("_", "-")}\b', text), name


def test_help_shows_defaults_and_every_model():
    text = ' '.join(makemore.Parser().format_help().split())
    for name, cls in makemore.MODELS.items():
        assert f'{name} {" ".join(cls.__doc__.strip().splitlines()[0].split())}' in text
    for name, knob in makemore.KNOBS.items():
        if knob.type is not bool and knob.default not in (None, ''):
            assert f'(default: {knob.default})' in text, name


def test_the_file_has_a_table_of_contents():
    """A rule of dashes and a plain title for every room; its lines fit a screen."""
    lines = (ROOT / 'makemore.py').read_text(encoding='utf-8').splitlines()
    titles = [after for rule, after in zip(lines, lines[1:]) if re.fullmatch(r'# -{20,}', rule)]
    assert len(titles) >= 8 and all(re.match(r'# \w', title) for title in titles)
    assert not [line for line in lines if len(line) > 120]


# ----------------------------------------------------------------------------------------------------------------------
# Commands

def code_blocks(text):
    """(language, lines) of every fenced or indented block: what stands there is meant to be pasted."""
    fenced = re.findall(r'^```(\w*)\n(.*?)^```', text, re.M | re.S)
    rest = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    indented = re.findall(r'(?:^ {4}.*\n?)+', rest, re.M)
    return [(language, block.splitlines()) for language, block in fenced] + [
        ('', [line[4:] for line in block.splitlines()]) for block in indented]


def commands(text):
    """Each single command of the blocks as words; what a pipe, a ; or an && joins is several."""
    for language, lines in code_blocks(text):
        if language in ('python', 'py'):
            continue
        block = '\n'.join(lines).replace('\\\n', ' ')
        for name, value in re.findall(r'\bfor (\w+) in (\S+)', block):      # of a loop the first round
            block = block.replace(f'${name}', value)
        for line in block.splitlines():
            # a block without a language may show output too: there only what begins like a command is one
            shell = language in ('sh', 'bash', 'console')
            if not shell and not re.match(r'\$ |(\w+=\S* )*(python3?|torchrun|pip) ', line):
                continue
            lexer = shlex.shlex(line.removeprefix('$ '), posix=True, punctuation_chars='|&;<>()')
            lexer.whitespace_split, lexer.commenters, command = True, '#', []
            for word in [*lexer, ';']:
                if set(word) <= set('|&;'):
                    yield command
                    command = []
                else:
                    command.append(word)


def arguments(command):
    """What makemore.py gets, or None if it is not called; what stands behind a > is none of its business."""
    at = next((i for i, word in enumerate(command) if Path(word).name == 'makemore.py'), None)
    redirected = next((i for i, word in enumerate(command) if set(word) <= set('<>')), None)
    return None if at is None else command[at + 1:redirected]


def check(args):
    """Parse and settle, as main would; --help and --version end there."""
    if not {'--help', '-h', '--version'} & set(args):
        typed = vars(makemore.Parser().parse_args(args))
        typed.pop('num_workers', None)
        makemore.settle({name: makemore.check(name, value) for name, value in typed.items()})


FROM_README = [args for args in map(arguments, commands(README)) if args is not None]
# In the docstring an explanation stands behind each command, some spaces apart.
BARE = re.sub(r'(?<=\S) {2,}\S.*', '', makemore.__doc__)
FROM_DOCSTRING = [args for args in map(arguments, commands(BARE)) if args is not None]


@pytest.mark.parametrize('args', FROM_README, ids=' '.join)
def test_every_command_in_the_readme_parses(args):
    check(args)


@pytest.mark.parametrize('args', FROM_DOCSTRING, ids=' '.join)
def test_every_command_in_the_docstring_parses(args):
    check(args)


def test_there_are_commands_to_check():
    assert ['-i', 'names.txt', '--type', 'transformer'] in FROM_README and len(FROM_DOCSTRING) >= 5


def test_a_shell_loop_is_understood():
    text = '```sh\nfor l in 0.1 0.2; do python makemore.py -l $l -o out/$l > log; done\n```\n'
    assert [args for args in map(arguments, commands(text)) if args] == [['-l', '0.1', '-o', 'out/0.1']]


def test_a_wrong_command_is_noticed():
    text = '    $ python makemore.py --tpye mlp | head -1   # a slip\n'
    assert list(map(arguments, commands(text))) == [['--tpye', 'mlp'], None]
    with pytest.raises(makemore.UserError):
        check(['--tpye', 'mlp'])


def test_the_other_commands_name_things_that_exist():
    """python -m tokenizer, python tests/bench/x.py, pip install -r requirements.txt: all of this project."""
    for command in commands(README):
        for module in re.findall(r'python3? -m ([\w.]+)', ' '.join(command)):
            here = ROOT / module.replace('.', '/')
            assert module in ('venv', 'pytest', 'pip', 'http.server', 'cProfile') or here.with_suffix('.py').exists() \
                or (here / '__main__.py').exists(), module
        for path in re.findall(r'(?:python3?|bash|-r) ((?:[\w.-]+/)*[\w.-]+\.(?:py|txt|sh))', ' '.join(command)):
            assert (ROOT / path).exists(), path


def test_python_in_the_readme_is_python():
    blocks = [('python', ['x = 1'])] + code_blocks(README)
    for language, lines in blocks:
        if language in ('python', 'py'):
            examples = doctest.DocTestParser().get_examples('\n'.join(lines))      # those with >>> in front
            for source in [example.source for example in examples] or ['\n'.join(lines)]:
                assert ast.parse(source).body


# ----------------------------------------------------------------------------------------------------------------------
# README and requirements

@pytest.mark.parametrize('kind', makemore.MODELS)
def test_every_model_has_a_row_in_the_readme(kind):
    assert re.search(rf'^\| *`?{re.escape(kind)}`? *\|', README, re.M)


def test_the_first_screen_has_the_two_commands():
    screen = '\n'.join(README.splitlines()[:50])
    assert 'pip install -r requirements.txt && python makemore.py -i names.txt --type transformer' in screen
    assert 'pip install -r requirements.txt && python -m pytest' in screen


def test_files_that_the_readme_names_are_there():
    for path in re.findall(r'\]\(((?!http|#)[^)\s]+)\)', README):
        assert (ROOT / path.split('#')[0]).exists(), path


def test_every_requirement_is_pinned_and_has_a_reason():
    for line in (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines():
        assert re.fullmatch(r'[\w-]+==[\w.]+ +# .{5,}', line), line
