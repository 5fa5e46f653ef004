"""
Interrupted runs: kills, signals, and pipes and streams that are closed.

Whatever happens, a run that is resumed ends as one that nobody disturbed, bit for bit. With
--long there are 200 kills, as the README says.
"""

import itertools
import math
import os
import random
import shlex
import signal

import pytest
from comparing import checkpoint, differences, same_run
from conftest import most_are_long
from forks import assert_loads, assert_one_line, small_run

pytestmark = pytest.mark.slow  # each is quick, but there are many

pytest_plugins = ['fork_fixtures']

# -----------------------------------------------------------------------------
# kills


def read_best_loss(folder):
    """The lowest dev loss that was saved, infinite if there is none."""
    path = folder / 'best.pt'
    return checkpoint(path)['best_loss'] if path.exists() else math.inf


def check_after_kill(folder, best_loss):
    """The lowest dev loss that is saved; all checkpoints must load, and none may be worse."""
    assert_loads(folder)
    new_best_loss = read_best_loss(folder)
    assert new_best_loss <= best_loss
    assert new_best_loss < math.inf or not (folder / 'last.pt').exists()
    return new_best_loss


def choose_kill(dice, n_calls):
    """At a call of any function, or with any share of a checkpoint in the file."""
    if dice.random() < 0.5:
        return ['kill_at_call', dice.randrange(n_calls)]
    return ['kill_while_saving', dice.randrange(8), dice.random()]


KILLED = {
    'mlp': ('mlp', []),
    'transformer': ('transformer', []),
    'gru': ('gru', []),
    'text in memory': ('bow', []),
    'text in a token file': ('bow', [['token_file']]),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', KILLED)
def test_a_run_killed_at_any_moment_resumes_bit_for_bit(
    name, undisturbed, go, names, tmp_path, long
):
    """A run is killed and resumed up to four times; its end is that of an undisturbed run.

    Half of the kills come at a call of any function, half while a checkpoint is written.
    """
    model_type, plan = KILLED[name]
    one, _ = undisturbed(model_type)
    _, n_calls = undisturbed(model_type, plan)
    most_kills = long(2, 40)
    dice = random.Random(name)
    n_kills = 0
    while n_kills < most_kills:
        two = tmp_path / f'two{n_kills}'
        best_loss = math.inf
        for attempt in itertools.count():
            args = ['--resume', '-o', two]
            if not (two / 'last.pt').exists():  # it starts again, and so does the best loss
                args = small_run(model_type, names, '-o', two, '--overwrite')
                best_loss = math.inf
            kill = choose_kill(dice, n_calls)
            more = [kill] if attempt < 4 and n_kills < most_kills else []
            end = go(*args, plan=[*plan, *more])
            if end.code == 0:
                break
            assert end.code == -signal.SIGKILL, (kill, end)
            n_kills += 1
            best_loss = check_after_kill(two, best_loss)
        same_run(one, two)


@pytest.mark.parametrize('share', [0.0, 0.5, 0.99])
def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(
    share, go, names, undisturbed, tmp_path
):
    """There is nothing to resume: a line says so, and the same command works again."""
    one, _ = undisturbed('mlp')
    end = go(*small_run('mlp', names, '-o', 'two'), plan=[['kill_while_saving', 0, share]])
    assert end.code == -signal.SIGKILL
    assert_one_line(go('--resume', '-o', 'two'), 2, 'two', 'last.pt')
    assert go(*small_run('mlp', names, '-o', 'two')).code == 0
    same_run(one, tmp_path / 'two')


@pytest.mark.parametrize('number', [0, 1])  # while the tokens of train, of dev are written
def test_a_run_killed_while_its_token_file_is_written_can_be_started_again(
    number, go, names, undisturbed, tmp_path
):
    """Half a token file is never used: it has another name, and no note beside it."""
    one, _ = undisturbed('bow')
    command = small_run('bow', names, '-o', 'two')
    end = go(*command, plan=[['token_file'], ['kill_while_encoding', number]])
    assert end.code == -signal.SIGKILL
    assert not (tmp_path / 'two/tokens.bin').exists()
    assert not (tmp_path / 'two/tokens.json').exists()
    end = go(*command, plan=[['token_file']])
    assert end.code == 0, end
    same_run(one, tmp_path / 'two')


# -----------------------------------------------------------------------------
# signals


@pytest.mark.parametrize(
    'numbers', [(2, 2), (15, 15), (2, 15)], ids=['Ctrl-C', 'SIGTERM', 'one of each']
)
def test_a_second_signal_ends_the_run_at_once(numbers, go, undisturbed, names, tmp_path):
    """What stays is the checkpoint of the last evaluation: the step was not finished."""
    one, _ = undisturbed('mlp')
    end = go(*small_run('mlp', names, '-o', 'two'), plan=[['reach', 7, *numbers]])
    assert end.code in (130, 143)
    assert 'Traceback' not in end.err
    assert checkpoint(tmp_path / 'two/last.pt')['step'] == 6
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


def test_ctrl_c_twice_while_saving(go, undisturbed, names, tmp_path):
    """The old checkpoint stays whole."""
    one, _ = undisturbed('mlp')
    end = go(*small_run('mlp', names, '-o', 'two'), plan=[['interrupt_while_saving', 3]])
    assert end.code == 130
    assert 'Traceback' not in end.err
    assert check_after_kill(tmp_path / 'two', 99) < 99
    assert go('--resume', '-o', 'two').code == 0
    same_run(one, tmp_path / 'two')


# A phase of a run: a function that is called often in it, and which of the calls begins it.
PHASES = {
    'the first evaluation': ('pad_batch', 2),
    'a later evaluation': ('pad_batch', 23),
    'the samples during training': ('sample_token', 2),
    'the samples of the report': ('sample_token', 150),
}


@pytest.fixture(scope='module')
def many_names(server, tmp_path_factory):
    """A run whose evaluations take seven batches: its command, and its folder undisturbed."""
    folder = tmp_path_factory.mktemp('many')
    lines = (f'{random.Random(number).getrandbits(32):08x}' for number in range(6000))
    (folder / 'many.txt').write_text('\n'.join(lines))
    more = ['--split', 'all', '--sample-interval', 4]
    command = small_run('bigram', folder / 'many.txt', *more)
    end = server(folder, [*command, '-o', 'one']).wait()
    assert end.code == 0, end
    return command, folder / 'one'


def printed_command(end):
    """The arguments of the command to resume a run, which is the last line that it printed."""
    _, found, resume = end.err.splitlines()[-1].partition('resume with: python ')
    assert found, end
    return shlex.split(resume)[1:]


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('number', most_are_long([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_a_signal_acts_at_once_in_every_phase(phase, number, go, fork, many_names, tmp_path):
    """The first signal waited until an evaluation had ended, which may take minutes.

    In the report it ended the run without a word on how to go on.
    """
    function, first_call = PHASES[phase]
    command, one = many_names
    child = fork(*command, '-o', 'two', plan=[['signal_in', function, first_call, number]])
    end = child.wait()
    assert end.code == 128 + number, end
    assert child.read_note('calls after') <= 1
    assert go(*printed_command(end)).code == 0
    same_run(one, tmp_path / 'two')


@pytest.mark.parametrize('name', most_are_long(KILLED, 'mlp', 'text in a token file'))
def test_a_run_interrupted_at_any_moment_ends_as_if_nothing_had_been(
    name, undisturbed, go, names, tmp_path, long
):
    """Ctrl-C or SIGTERM in a call of any function, and then the command that was printed."""
    model_type, plan = KILLED[name]
    one, _ = undisturbed(model_type)
    _, n_calls = undisturbed(model_type, plan)
    most = long(1, 20)
    dice = random.Random(name)
    n_interrupted = 0
    while n_interrupted < most:
        two = tmp_path / f'two{n_interrupted}'
        args = small_run(model_type, names, '-o', two)
        for attempt in itertools.count():
            sent = dice.choice([signal.SIGINT, signal.SIGTERM])
            stop = ['signal_at_call', dice.randrange(3, n_calls), sent]
            end = go(*args, plan=[*plan, stop] if attempt < 3 else plan)
            if end.code == 0:
                break
            assert end.code in (130, 143), (stop, end)
            assert 'Traceback' not in end.err, (stop, end)
            n_interrupted += 1
            if not (two / 'last.pt').exists():
                args = small_run(model_type, names, '-o', two, '--overwrite')
            elif '--resume' not in args or 'resume with' in end.err:
                args = printed_command(end)
        same_run(one, two)


# -----------------------------------------------------------------------------
# streams


def test_a_pipe_that_is_closed_during_training(fork, go, undisturbed, names, tmp_path):
    """As in `makemore.py ... | head -1`: the next samples find no reader.

    The run ends without a traceback, and can be resumed.
    """
    one, _ = undisturbed('gru')
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    command = small_run('gru', names, '-o', 'two', '--eval-interval', 1)
    child = fork(*command, stdout=str(tmp_path / 'pipe'))
    child.read_note('began')
    os.close(reader)
    end = child.wait()
    for word in ('Traceback', 'Exception', 'Error'):
        assert word not in end.err
    assert go('--resume', '-o', 'two', '--eval-interval', 3).code == 0
    first = checkpoint(one / 'last.pt')
    second = checkpoint(tmp_path / 'two/last.pt')
    assert differences(first['model'], second['model']) == []


@pytest.mark.parametrize('stream', ['stdout', 'stderr', 'stdin'])
def test_a_standard_stream_that_was_never_open(stream, go, names, tmp_path):
    """`makemore.py ... >&-` leaves Python without a sys.stdout."""
    end = go(*small_run('mlp', names, '-o', 'x'), plan=[['close_stream', stream]])
    assert end.code == 0
    assert 'Traceback' not in end.err
    assert (tmp_path / 'x/result.json').exists()
    assert go('--sample-only', '-o', 'x', plan=[['close_stream', stream]]).code == 0
