"""The program as a user meets it: settings, mistakes, folders, streams, a new model."""

import ast
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import makemore

PROGRAM = Path(makemore.__file__)
ROOT = PROGRAM.parent


def shell(line, **how):
    """Run a line as it is typed in a shell: makemore ... | head -1."""
    program = f'{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))}'
    line = line.replace('makemore', program, 1)
    bash = ['bash', '-o', 'pipefail', '-c', line]
    return subprocess.run(bash, capture_output=True, text=True, check=False, **how)


def python(code, *args, cwd=ROOT):
    """Run a piece of Python code in a process of its own, in the folder of the program."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    command = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


# -----------------------------------------------------------------------------
# settings


def test_precedence_of_settings():
    """Weakest first: the defaults, what the type prefers, the checkpoint, what was typed."""
    assert makemore.resolve_config({}).type == 'mix'
    assert makemore.resolve_config({'text': True}).type == 'transformer'

    preferred = makemore.MODELS['mlp'].preferred_settings['n_embd']
    assert preferred != makemore.Config.n_embd
    assert makemore.resolve_config({'type': 'mlp'}).n_embd == preferred

    saved = {'type': 'mlp', 'n_embd': 12, 'batch_size': 7, 'seed': 5}
    config = makemore.resolve_config({'seed': 6}, saved)
    assert (config.type, config.n_embd, config.batch_size, config.seed) == ('mlp', 12, 7, 6)

    assert makemore.resolve_config({'type': 'mlp', 'n_embd': 3}).n_embd == 3


@pytest.mark.parametrize(
    'name, typed, saved',
    [('type', 'rnn', 'mlp'), ('n_embd', 3, 12), ('block_size', 4, 5), ('n_layer', 1, 2)],
)
def test_contradicting_a_checkpoint_is_refused_with_both_values(name, typed, saved):
    saved_settings = {'type': 'mlp', name: saved}
    with pytest.raises(makemore.UserError) as error:
        makemore.resolve_config({name: typed}, saved_settings)
    message = str(error.value)
    assert str(typed) in message
    assert str(saved) in message
    assert name.replace('_', '-') in message

    # typing the saved value once more is no contradiction
    makemore.resolve_config({name: saved}, saved_settings)


@pytest.mark.slow
def test_flags_of_the_original_makemore_still_work(run, names):
    """A flag that has no meaning here is accepted, and one line says that it has no effect."""
    line = (
        '-o x --num-workers 4 --max-steps 3 --device cpu --seed 3407 --top-k -1 '
        '--type transformer --n-layer 1 --n-head 2 --n-embd 16 --n-embd2 16 '
        '-b 8 -l 5e-4 -w 0.01'
    )
    code, _, err = run('-i', names, *line.split())
    assert code == 0
    assert err.count('--num-workers') == 1
    assert err.count('--top-k') == 1

    settings = json.loads(Path('x/result.json').read_text())['settings']
    expected = {
        'n_hidden': 16,
        'batch_size': 8,
        'learning_rate': 5e-4,
        'weight_decay': 0.01,
        'seed': 3407,
    }
    assert settings | expected == settings

    line = '--resume -o x -n 2 --batch-size 8 --learning-rate 5e-4 --weight-decay 0.01'
    assert run(*line.split()).code == 0
    line = '--sample-only -o x --top-k 5 --max-steps -1'
    assert run(*line.split()).code == 0


# a command line with a mistake -> what its error message has to contain
MISTAKES = {
    '--tempreature 1': ['--tempreature', '--temperature'],
    '--nlayer 3': ['--nlayer', '--n-layer'],
    '--type transfomer': ['transfomer: unknown (did you mean transformer?); choose ngram'],
    '--type MLP': ['MLP', 'mlp'],
    '--type cnn': ['cnn', 'wavenet is the convolutional model'],
    '--type zzz': ['zzz', 'bigram', 'bn-mlp'],
    '--type (': ['(', 'bigram'],
    '--resume --type trnsformer': ['trnsformer', 'transformer'],
    '--sample-only --type trnsformer': ['trnsformer', 'transformer'],
    '--n-layer many': ['--n-layer', 'many', 'whole number'],
    '--n-layer 0': ['--n-layer', '0', 'at least 1'],
    '--n-layer 1.5': ['--n-layer', '1.5'],
    '-b 0': ['--batch-size', '0'],
    '-l nan': ['--learning-rate', 'nan'],
    '-l inf': ['--learning-rate', 'inf'],
    '-l -1': ['--learning-rate', '-1'],
    '--max-steps -7': ['--max-steps', '-7'],
    '--top-k 0': ['--top-k', '0'],
    '--top-p 1.5': ['--top-p', '1.5'],
    '--temperature -1': ['--temperature', '-1'],
    '--temperature nan': ['--temperature', 'nan'],
    '--dropout 1': ['--dropout', '1'],
    '--split honset': ['honset', 'honest', 'lecture'],
    '--smoothing add:x': ['--smoothing', 'add:x'],
    '--smoothing add:0': ['--smoothing', 'add:0'],
    '--device cdua': ['--device', 'cdua', 'choose auto, cpu, cuda, cuda:N or mps'],
    '--prompt @nowhere --sample-only': ['nowhere', 'see --prompt'],
    '--seed -1': ['--seed', '-1'],
    '--type transformer --n-head 3': ['--n-head 3', '--n-embd'],
    '--type mlp --n-embd none': ['--n-embd none', 'number'],
    '--type mix --members ngram': ['ngram', '2 to'],
    '--type mix --members ngram,grru': ['grru', 'gru'],
    '--type mix --members ngram,ngram': ['trained'],
    '--type mix --members gru,mix': ['mix'],
    '-i': ['-i', 'argument'],
    'names.txt': ['names.txt'],
    '--sample-only -o nowhere': ['nowhere', 'best.pt'],
    '--resume -o nowhere': ['nowhere', 'last.pt'],
    '--sample-only': ['out'],
    '--resume': ['out'],
    '-o names.txt': ['names.txt'],
    '--resume --overwrite': ['--resume', '--overwrite'],
    '--resume --sample-only': ['--resume', '--sample-only'],
    '-o names.txt/x': ['names.txt'],
}


@pytest.mark.parametrize('line', MISTAKES)
def test_a_mistake_is_reported_in_one_line(line, run, names, tmp_path):
    (tmp_path / 'names.txt').write_text(names.read_text())
    args = line.split()
    if 'smoothing' in line:
        args += ['--type', 'ngram']
    code, out, err = run(*args)
    assert (code, out) == (2, '')
    assert 'Traceback' not in err

    # up to three lines about the data and the members may have been printed before
    *_, last = lines = err.splitlines()
    assert len(lines) <= 4
    assert last.startswith('makemore: ')
    for expected in MISTAKES[line]:
        assert expected in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ['names.txt']


@pytest.mark.parametrize(
    'flag, expected',
    [
        ('--help', list(makemore.MODELS)),
        ('--help-all', ['--smoothing', *makemore.MODELS]),
        ('--version', [torch.__version__]),
    ],
)
def test_help_and_version(flag, expected, capsys):
    with pytest.raises(SystemExit) as end:
        makemore.main([flag])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for word in expected:
        assert word in out


def test_the_version_is_that_of_the_package():
    pyproject = (ROOT / 'pyproject.toml').read_text()
    (version,) = re.findall(r'^version = "(.*)"', pyproject, re.MULTILINE)
    assert makemore.__version__ == version


# -----------------------------------------------------------------------------
# what has to be installed


@pytest.mark.slow
@pytest.mark.parametrize('package', ['torch', 'tqdm'])
def test_a_missing_package_is_reported_in_one_line(package):
    done = python(f'import sys; sys.modules[{package!r}] = None; import makemore')
    assert done.returncode != 0
    assert done.stdout == ''
    assert done.stderr.count('\n') == 1
    assert f'needs {package}' in done.stderr
    assert 'pip install' in done.stderr


@pytest.mark.slow
def test_without_numpy_nothing_is_said_about_it():
    """pip install . brings no numpy, and torch wrote two lines about that on every start."""
    done = python("import sys; sys.modules['numpy'] = None; import makemore")
    assert (done.returncode, done.stderr) == (0, '')


INTERRUPTED_ONCE = """
import sys
if not hasattr(sys, 'was_interrupted'):
    sys.was_interrupted = True
    raise KeyboardInterrupt
raise ModuleNotFoundError(name='numpy')
"""


@pytest.mark.slow
def test_ctrl_c_while_numpy_is_imported(tmp_path):
    """torch took it for a numpy that does not work, and the run began as if nothing was typed."""
    (tmp_path / 'numpy.py').write_text(INTERRUPTED_ONCE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import makemore; print('went on')"
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '')


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 8, 0), (3, 9, 25)])
def test_an_old_python_is_reported_in_one_line(version):
    done = python(f'import sys; sys.version_info = {version}; import makemore')
    assert done.returncode != 0
    assert done.stdout == ''
    assert done.stderr.count('\n') == 1
    assert 'needs Python 3.10' in done.stderr


def test_an_old_python_gets_as_far_as_the_check():
    """It has to parse the whole file first, and to import what stands above the check."""
    source = PROGRAM.read_text(encoding='utf-8')
    tree = ast.parse(source, feature_version=(3, 8))
    above = []
    for node in tree.body:
        if isinstance(node, ast.If) and 'version_info' in ast.unparse(node.test):
            break
        above.append(node)
    else:
        pytest.fail('there is no check of the version')
    for node in above:
        assert isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom)), ast.unparse(node)
    modules = [alias.name for node in above if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in above if isinstance(node, ast.ImportFrom)]
    assert {name.partition('.')[0] for name in modules} <= sys.stdlib_module_names


ALONE = """
import sys
for package in ('makemore_extras', 'micrograd', 'tokenizer'):
    sys.modules[package] = None  # importing it fails
import makemore

assert not makemore.HAVE_EXTRAS
small = '--n-layer 2 --n-head 2 --n-embd 8 --n-hidden 8'.split()
for model_type in makemore.MODELS:
    folder = ['-o', model_type]
    new = ['-i', sys.argv[1], '--type', model_type, '--max-steps', '10', *small]
    assert makemore.main(new + folder) == 0
    assert makemore.main(['--resume', '--max-steps', '12'] + folder) == 0
    print('samples of', model_type)
    assert makemore.main(['--sample-only', '--num-samples', '3'] + folder) == 0
model, dataset = makemore.load('gru')
print(len(makemore.sample(model, dataset, 3)))
"""


@pytest.mark.slow
def test_the_file_alone_is_enough(tmp_path, names):
    """Copied alone into an empty folder it trains, resumes and samples every model type.

    With TensorBoard installed it also writes the curves.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / 'makemore.py').write_bytes(PROGRAM.read_bytes())
    done = python(ALONE, names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == '3'
    for model_type in makemore.MODELS:
        samples = lines[lines.index(f'samples of {model_type}') + 1 :][:3]
        assert len(samples) == 3
        assert not any(line.startswith('samples of') for line in samples)

        for curve in ('dev', 'train'):
            folder = tmp_path / model_type / curve
            is_there = curve == 'dev' or not makemore.MODELS[model_type].is_counted
            assert folder.exists() == is_there
            if is_there:
                assert 'loss' in EventAccumulator(str(folder)).Reload().Tags()['scalars']


# -----------------------------------------------------------------------------
# the input file that is used when none is typed


@pytest.mark.slow
def test_names_txt_from_beside_the_program(run, tmp_path):
    """A folder without names.txt gets the copy beside the program, and the user is told so."""
    code, _, err = run('--type', 'ngram', '-o', 'x')
    copy = str(ROOT / 'names.txt')
    assert code == 0
    assert err.splitlines()[0] == f'no names.txt here: using {copy}'
    assert '32,033 lines' in err
    settings = json.loads((tmp_path / 'x/result.json').read_text())['settings']
    assert settings['input_file'] == copy


def test_names_txt_of_the_folder_comes_first(run, names, tmp_path):
    (tmp_path / 'names.txt').write_text(names.read_text())
    code, _, err = run('--type', 'ngram', '-o', 'x')
    assert code == 0
    assert 'no names.txt here' not in err
    assert err.startswith('names.txt: 200 lines')


def test_names_txt_of_an_installed_package(tmp_path, monkeypatch, capsys):
    """pip installs the copy under share/makemore, because makemore.py has no folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(makemore, '__file__', str(tmp_path / 'site-packages/makemore.py'))
    monkeypatch.setattr(makemore.sysconfig, 'get_path', lambda name: str(tmp_path / name))
    assert makemore.default_input_file() == 'names.txt'  # there is none: the usual error follows

    copy = tmp_path / 'data/share/makemore/names.txt'
    copy.parent.mkdir(parents=True)
    copy.write_text('emma')
    assert makemore.default_input_file() == str(copy)
    assert str(copy) in capsys.readouterr().err


# -----------------------------------------------------------------------------
# folders


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob('*')}


def test_a_folder_with_a_run_is_refused(train):
    assert train('bigram', '-o', 'x').code == 0
    before = modification_times('x')
    code, _, err = train('mlp', '-o', 'x')
    assert code == 2
    assert 'x holds a run' in err
    assert '--resume' in err
    assert '--overwrite' in err
    assert modification_times('x') == before

    assert train('mlp', '-o', 'x', '--overwrite').code == 0
    assert json.loads(Path('x/result.json').read_text())['type'] == 'mlp'


def test_overwriting_with_an_impossible_run_destroys_nothing(train):
    assert train('bigram', '-o', 'x').code == 0
    before = modification_times('x')
    assert train('transformer', '-o', 'x', '--overwrite', n_head=3).code == 2
    assert train('bigram', '-o', 'x', '--overwrite', input_file='missing').code == 2
    assert modification_times('x') == before


def test_other_files_in_a_folder_are_kept(train, tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x/notes').write_text('mine')
    assert train('bigram', '-o', 'x').code == 0
    assert (tmp_path / 'x/notes').read_text() == 'mine'


@pytest.mark.slow
def test_each_run_gets_its_own_folder(train, run):
    """The same command twice loses nothing.

    Without -o, sampling and resuming take the newest run, or the newest of a type, and name it.
    """
    for model_type in ('bigram', 'mlp', 'bigram'):
        assert train(model_type).code == 0
    folders = ['names-bigram', 'names-bigram-2', 'names-mlp']
    assert sorted(path.name for path in Path('out').iterdir()) == folders

    newest_of = [
        ([], 'out/names-bigram-2'),
        (['--type', 'mlp'], 'out/names-mlp'),
        (['--type', 'bigram'], 'out/names-bigram-2'),
    ]
    n_steps = 12
    for args, newest in newest_of:
        sampled = run('--sample-only', *args)
        assert sampled.code == 0
        assert newest in sampled.err
        resumed = run('--resume', *args)
        assert resumed.code == 0
        assert newest in resumed.err
        # one more step makes it the newest again
        n_steps += 1
        more = run('--resume', '-o', 'out/names-bigram-2', '--max-steps', n_steps)
        assert more.code == 0
    assert sorted(path.name for path in Path('out').iterdir()) == folders


def test_a_type_whose_name_is_part_of_another(train, run):
    """mlp and bn-mlp: the type is looked up in the checkpoint, whatever the folder is called."""
    assert train('mlp').code == 0
    assert train('bn-mlp').code == 0
    assert train('bn-mlp', '-o', 'out/second-mlp').code == 0
    assert 'out/names-mlp' in run('--sample-only', '--type', 'mlp').err
    assert run('--sample-only', '--type', 'lstm').code == 2


@pytest.mark.slow
def test_the_newest_run_on_a_list(run, train, tmp_path):
    """--sample-only -i towns.txt means a run on towns.txt.

    Once -i was ignored, and samples of another list came out.
    """
    towns = tmp_path / 'towns.txt'
    towns.write_text('Rom\nParis\nOslo\n' * 9)
    assert run('-i', 'towns.txt', '--type', 'ngram').code == 0
    assert run('-i', towns, '--type', 'bigram', '--max-steps', 3, '-o', 'out/mine').code == 0
    assert train('ngram').code == 0  # the newest of all
    assert 'out/mine: bigram on' in run('--sample-only', '-i', 'towns.txt').err
    assert 'out/towns-ngram' in run('--sample-only', '-i', towns, '--type', 'ngram').err
    assert 'out/mine' in run('--resume', '-i', 'towns.txt').err

    code, out, err = run('--sample-only', '-i', 'dinosaurs.txt')
    assert (code, out) == (2, '')
    assert err == 'makemore: out has no run on dinosaurs.txt with a best.pt: train one first\n'
    code, out, err = run('--sample-only', '-i', 'dinosaurs.txt', '-o', 'out/towns-ngram')
    assert (code, out) == (2, '')
    assert err.endswith('out/towns-ngram was trained on towns.txt, not on dinosaurs.txt\n')


@pytest.mark.parametrize(
    'input_file, folder',
    [
        ('names.txt', 'names-gru'),
        ('/data/Städte.de.csv', 'Städte.de-gru'),
        ('鉄道駅.txt', '鉄道駅-gru'),
        ('-', 'stdin-gru'),
        ('my list; rm *.txt', 'my_list__rm-gru'),
        ('-x.txt', 'x-gru'),
        ('.hidden', 'hidden-gru'),
        ('a\x1b[2J\udc80', 'a__2J-gru'),
        ('...', 'list-gru'),
        ('x' * 200, 'x' * 40 + '-gru'),
    ],
)
def test_a_run_folder_is_named_after_the_list_and_the_type(input_file, folder):
    config = makemore.Config(input_file=input_file, type='gru')
    assert makemore.name_run(config) == folder


def test_load_finds_the_newest_run(train):
    assert train('bigram').code == 0
    assert train('gru').code == 0
    model, dataset = makemore.load('out')
    assert isinstance(model, makemore.MODELS['gru'])
    assert len(makemore.sample(model, dataset, 10)) == 10

    model, _ = makemore.load('out/names-bigram')
    assert isinstance(model, makemore.MODELS['bigram'])


# -----------------------------------------------------------------------------
# streams and processes


def test_samples_go_to_stdout_and_the_rest_to_stderr(finished, run, train):
    args = ('--sample-only', '-o', finished('ngram'), '--num-samples', 30, '--new-only')
    code, out, _ = run(*args)
    assert code == 0
    assert len(out.splitlines()) == 30
    assert set(out) <= set('abcdefghijklmnopqrstuvwxyz\n')

    _, out, err = train('mlp')
    assert 'step' in err
    assert 'step' not in out
    assert '\r' not in err  # plain lines, because this is no terminal


@pytest.mark.parametrize('typed, threads', [((), 1), (('--threads', 2), 2)])
def test_sampling_uses_the_threads_that_were_asked_for(typed, threads, finished, run, monkeypatch):
    """One thread by default, also for sampling.

    Sampling once used all cores, and took five times as long when another program had one.
    """
    seen = set()
    generate = makemore.generate

    def spy(*args, **how):
        seen.add(torch.get_num_threads())
        return generate(*args, **how)

    monkeypatch.setattr(makemore, 'generate', spy)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        args = ('--sample-only', '-o', finished('bigram'), '--num-samples', 2)
        assert run(*args, *typed).code == 0
    finally:
        torch.set_num_threads(before)
    assert seen == {threads}


@pytest.mark.slow
def test_reading_from_a_pipe(names, tmp_path):
    line = f'cat {names} | makemore -i - --type bigram --max-steps 3 -o x'
    done = shell(line, cwd=tmp_path)
    assert done.returncode == 0
    assert '200 lines' in done.stderr
    assert (tmp_path / 'x/best.pt').exists()


def test_standard_input_is_named_in_the_report(run, monkeypatch):
    """Once a pipe that is not UTF-8 was called "-", and resuming waited for it without a word."""

    def pipe(content):
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))

    pipe(b'emma\nava\nmia\n')
    code, _, err = run('-i', '-', '--type', 'bigram', '--max-steps', 3)
    assert code == 0
    assert err.startswith('standard input: 3 lines')
    pipe(b'emma\nava\nmia\n')
    code, _, err = run('--resume', '--max-steps', 4)
    assert code == 0
    first_line = 'out/stdin-bigram was trained on standard input, which is read again'
    assert err.splitlines()[0] == first_line
    pipe(b'emma\n\xe9va\n')
    assert 'standard input, line 2 is not utf-8' in run('-i', '-').err

    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'\n')))
    code, _, err = run('-i', '-')
    assert code == 2
    assert err.startswith('makemore: standard input is empty or blank')


def test_warnings_are_shown_as_before_a_run(train):
    """A run leaves warnings.showwarning alone.

    Once it was replaced, and every later warning in a notebook was printed by the program.
    """
    before = warnings.showwarning
    assert train('bigram', '-o', 'x').code == 0
    assert warnings.showwarning is before


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_early(finished):
    """head leaves after a line of far more than a pipe holds: nothing looks like a failure."""
    folder = finished('bigram')
    done = shell(f'makemore --sample-only -o {folder} --num-samples 20000 | head -1')
    assert len(done.stdout.splitlines()) == 1
    for word in ('Traceback', 'Exception', 'Error'):
        assert word not in done.stderr


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(names, tmp_path):
    """In the middle of an endless run it saves, and says how to resume."""
    line = f'-i {names} --type bigram --max-steps 1000000 --eval-interval 20 -o x'
    command = [sys.executable, str(PROGRAM), *line.split()]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if re.match(r'step +[1-9]', line):
                child.send_signal(signal.SIGINT)
                break
        rest = child.stderr.read()
    assert child.returncode == 130
    assert 'Traceback' not in rest
    last = rest.splitlines()[-1]
    assert re.search(r'stopped after step \d+; resume with: .* --resume -o x$', last)
    assert torch.load(tmp_path / 'x/last.pt', weights_only=True)['step'] > 0


@pytest.mark.slow
def test_ctrl_c_before_the_first_evaluation(names, tmp_path):
    """best.pt is then replaced, because it was saved before training.

    Once sampling from a run that was stopped early gave noise.
    """
    line = f'-i {names} --type bigram -l 0.05 --warmup 0 -o x'
    args = [*line.split(), '--max-steps', '1000000', '--eval-interval', '900000']
    command = [sys.executable, str(PROGRAM), *args]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if 'estimated time left' in line:  # after some steps
                child.send_signal(signal.SIGINT)
                break
        rest = child.stderr.read()
    assert child.returncode == 130
    assert re.search(r'^step +\d+ \| dev loss \d\.\d+ \(on \d+ of \d+ lines\)$', rest, re.MULTILINE)
    best = torch.load(tmp_path / 'x/best.pt', weights_only=True)
    last = torch.load(tmp_path / 'x/last.pt', weights_only=True)
    assert best['step'] == last['step'] >= 30
    assert best['best_loss'] < 3
    assert last['best_loss'] > 3.2  # that of step 0, so that a resume goes on as undisturbed


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed('bin/python'): a file that can be run, in a folder on the PATH."""

    def installed(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text('')
            (tmp_path / path).chmod(0o755)
        monkeypatch.setenv('PATH', os.pathsep.join(str((tmp_path / p).parent) for p in paths))
        monkeypatch.setattr(sys, 'executable', str(tmp_path / paths[-1]))

    return installed


@pytest.mark.parametrize(
    'paths, start',
    [
        (['bin/python'], 'python'),
        (['bin/python3'], 'python3'),
        (['bin/python', 'venv/bin/python'], 'PATH'),  # the venv is not the first on the PATH
    ],
)
def test_printed_commands_name_a_python_that_works(paths, start, installed, tmp_path, monkeypatch):
    """On many systems there is no `python`, or it is another one than that which has torch."""
    (tmp_path / 'venv').mkdir()
    installed(*paths)
    monkeypatch.setattr(sys, 'argv', ['my folder/makemore.py'])
    if start == 'PATH':
        start = str(tmp_path / paths[-1])
    line = makemore.command('--resume', '-o', 'out/a b')
    assert shlex.split(line) == [start, 'my folder/makemore.py', '--resume', '-o', 'out/a b']
    assert "'my folder/makemore.py'" in line

    monkeypatch.setattr(sys, 'argv', ['/usr/bin/makemore'])
    assert makemore.command('--resume') == 'makemore --resume'

    monkeypatch.setattr(sys, 'argv', ['ipykernel_launcher.py'])
    path = shlex.split(makemore.command('--resume'))[1]
    assert Path(path).samefile(PROGRAM)


def test_a_notebook_names_the_program_by_a_short_path(monkeypatch, tmp_path):
    """A notebook puts '..' on Python's path, and the command to sample more was
    python /home/me/makemore/lectures/../makemore.py.
    """
    folder = tmp_path / 'lectures'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['ipykernel_launcher.py'])
    monkeypatch.setattr(makemore, '__file__', str(folder / '../makemore.py'))
    _, path, _ = shlex.split(makemore.command('--resume'))
    assert path == os.path.join('..', 'makemore.py')
    monkeypatch.setattr(makemore, '__file__', os.path.abspath('/m.py'))
    _, path, _ = shlex.split(makemore.command('--resume'))
    assert path == os.path.abspath('/m.py')


# -----------------------------------------------------------------------------
# a model of one's own


def test_a_new_model_is_one_class(train, run, capsys, monkeypatch):
    """`register` gives it a name, preferred settings, help, a folder, a checkpoint, samples."""
    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))

    @makemore.register('uniform', batch_size=5)
    class Uniform(makemore.LanguageModel):
        """every token is as probable as it was before"""

        def __init__(self, config, vocab_size):
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros(vocab_size))

        def logits(self, idx, cache=None):
            return self.level.expand(*idx.shape, -1)

    assert train('uniform').code == 0
    result = json.loads(Path('out/names-uniform/result.json').read_text())
    assert result['params'] == 27
    assert result['settings']['batch_size'] == 5
    samples = run('--sample-only', '--type', 'uniform', '--num-samples', 4).out
    assert len(samples.splitlines()) == 4

    with pytest.raises(SystemExit):
        makemore.main(['--help-all'])
    assert 'every token is as probable' in capsys.readouterr().out


# -----------------------------------------------------------------------------
# a notebook

BEFORE_THE_NOTEBOOK = """
import makemore
for cls in makemore.MODELS.values():
    cls.preferred_settings.update(max_steps=2, n_embd=8)
makemore.main(["--type", "mlp"])
"""
AFTER_THE_NOTEBOOK = """
texts = makemore.sample(model, {dataset}, 10, prompt="ma")
assert [text[:2] for text in texts] == 10 * ["ma"]
"""


@pytest.mark.slow
def test_the_notebook_lines_of_the_readme_run(tmp_path, names):
    """As they stand there, in a process of their own, on a shorter list and with fewer steps."""
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    blocks = re.findall(r'^```python\n(.*?)^```', readme, re.MULTILINE | re.DOTALL)
    (lines,) = [block for block in blocks if 'import makemore' in block]
    for function in ('train', 'load', 'sample', 'evaluate'):
        assert f'makemore.{function}(' in lines
    (dataset,) = re.findall(r'^model, (\w+) = makemore.load', lines, re.MULTILINE)

    (tmp_path / 'names.txt').write_bytes(names.read_bytes())
    code = BEFORE_THE_NOTEBOOK + lines + AFTER_THE_NOTEBOOK.format(dataset=dataset)
    done = subprocess.run(
        [sys.executable, '-'],
        input=code,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    results = list(tmp_path.glob('out/*/result.json'))
    assert len(results) == 1 + lines.count('makemore.train')
