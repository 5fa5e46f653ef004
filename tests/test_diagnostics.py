"""What --diagnose and --find-lr report, and that a diagnosed run is the same run."""

import os
import re

import pytest
import torch
import torch.nn as nn

import makemore
from makemore_extras import diagnostics

# -----------------------------------------------------------------------------
# activations and updates


@pytest.mark.parametrize('model_type', ['mlp', 'bn-mlp', 'wavenet', 'rnn', 'lstm', 'transformer'])
def test_diagnosis_reports_on_every_kind_of_nonlinearity(model_type, train):
    result = train(model_type, '-o', 'x', '--diagnose', 1, max_steps=2)
    assert result.code == 0
    model, _ = makemore.load('x')
    modules = [m for m in model.modules() if isinstance(m, diagnostics.NONLINEARITIES)]
    for step in (1, 2):
        lines = [line for line in result.err.splitlines() if line.startswith(f'step {step:6} | ')]
        activations = [line for line in lines if 'saturated' in line and 'dead neurons' in line]
        found = r' \| (grad:data \S+ \| update:data 10\*\*|its weights were all equal)'
        updates = [line for line in lines if re.search(found, line)]
        assert 0 < len(activations) <= len(modules)
        assert len(updates) == sum(p.ndim == 2 for p in model.parameters())


# A mix has parameters that are not trained: its report ended in a traceback.
@pytest.mark.parametrize('model_type', ['bn-mlp', 'lstm', 'transformer', 'mix'])
def test_tensorboard_gets_what_is_reported(model_type, train):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    assert train(model_type, '-o', 'x', '--diagnose', 1, max_steps=2).code == 0
    tags = accumulator.EventAccumulator('x/train').Reload().Tags()
    kinds = {name.split('/')[0] for name in tags['histograms']}
    assert kinds == {'output', 'pre-activation', 'weight gradient'}
    assert any(name.startswith('relative gradient/') for name in tags['scalars'])
    assert any(name.startswith(diagnostics.UPDATES) for name in tags['scalars'])


@pytest.mark.parametrize('model_type', ['bn-mlp', 'gru', 'bow'])
def test_a_diagnosed_run_ends_in_the_same_weights(model_type, train):
    """With dropout: the look at the activations must not draw any of the run's numbers."""
    assert train(model_type, '-o', 'a', '--dropout', 0.1, max_steps=3).code == 0
    assert train(model_type, '-o', 'b', '--dropout', 0.1, '--diagnose', 1, max_steps=3).code == 0
    one, other = [torch.load(f'{f}/last.pt', weights_only=True)['model'] for f in 'ab']
    for name, weights in one.items():
        assert torch.equal(other[name], weights), name


NAMES = {
    'mlp': ['embedding 1', 'linear 1', 'tanh 1', 'linear 2'],
    'bn-mlp': ['tanh 1', 'tanh 5', 'linear 6', 'batchnorm1d 6'],
    'gru': ['tok_emb', 'x2h', 'h2h', 'tanh', 'sigmoid', 'head'],
    'bow': ['tok_emb', 'pos_emb', 'mlp 1 tanh 1', 'mlp 2 linear 2'],
    'transformer': ['tok_emb', 'block 1 qkv', 'block 2 gelu 1', 'block 2 linear 2', 'head'],
}


@pytest.mark.parametrize('model_type', NAMES)
def test_layers_have_readable_names(model_type, build):
    """They were called net.4."""
    _, _, model = build(model_type, n_layer=6 if model_type == 'bn-mlp' else 2)
    names = list(diagnostics.name_layers(model).values())
    found = [names.index(name) for name in NAMES[model_type]]
    assert found == sorted(found) or model_type == 'bow'
    assert len(set(names)) == len(names)
    matrices = diagnostics.name_matrices(model)
    assert len(set(matrices.values())) == len(matrices) == len(diagnostics.copy_matrices(model))


def test_the_nets_of_a_mix_can_be_told_apart(build):
    """Their layers were called `trained 2`, and the matrices `start` of two nets had one name."""
    _, _, model = build('mix', members='ngram,gru,rnn')
    paths = [name for name in diagnostics.name_matrices(model) if name.startswith('trained')]
    names = [diagnostics.name_matrices(model)[path] for path in paths]
    assert len(set(names)) == len(names)
    assert {'gru 2 start', 'gru 2 x2h', 'rnn 3 start', 'rnn 3 head'} <= set(names)


def test_the_numbers_of_a_report_are_those_of_a_hand_made_net():
    """A net of two tanh neurons: one is always saturated, the other one never."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x, y):
            return self.act(x).sum()

    x = torch.tensor([[5.0, 0.5], [5.0, -0.5]])
    report = diagnostics.activation_report(diagnostics.observe_activations(Net(), x, None))
    (line,) = report.lines
    assert line.startswith('act ')
    assert 'mean +0.500' in line
    assert 'saturated 50.00 % | dead neurons 1' in line
    assert report.saturated['act'].tolist() == [[True, False], [True, False]]
    assert torch.equal(report.histograms['pre-activation/act'], x)
    assert torch.equal(report.histograms['output/act'], x.tanh())


@pytest.mark.parametrize(
    ('model_type', 'layer', 'per_token'),
    [
        ('mlp', 'tanh 1', 1),
        ('wavenet', 'tanh 1', 2),  # one for each pair of its 4 letters
        ('rnn', 'tanh', 1),
        ('gru', 'sigmoid', 2),  # two gates, one after the other
        ('transformer', 'block 1 gelu 1', 1),
    ],
)
def test_what_follows_the_end_of_a_line_is_not_observed(model_type, layer, per_token, build):
    """Lines of a batch are padded to the longest, and of a gru half of what was reported were the
    states behind the end of a line.
    """
    config, dataset, model = build(model_type)
    x, y, _ = makemore.get_batch(dataset, config, 0)
    n_tokens = int((y >= 0).sum())
    assert n_tokens < y.numel()
    activations = diagnostics.observe_activations(model, x, y)
    assert len(activations[layer].outputs) == len(activations[layer].inputs) == per_token * n_tokens


def test_of_a_recurrent_net_the_right_positions_are_observed():
    calls = [torch.full((2, 1), float(number)) for number in range(6)]  # two at each position
    y = torch.tensor([[5, 5, 5], [5, -1, -1]])
    kept = diagnostics.drop_padding(calls, y)
    assert kept.flatten().tolist() == [0, 0, 1, 1, 2, 3, 4, 5]


def test_gelu_is_flat_on_the_left_only():
    x = torch.tensor([[5.0, -5.0, 0.0]])
    activation = diagnostics.Activation(nn.GELU, x, nn.functional.gelu(x))
    report = diagnostics.activation_report({'act': activation})
    assert report.saturated['act'].tolist() == [[False, True, False]]


def test_a_sigmoid_is_flat_only_twice_as_far_from_zero():
    """At 2.1 its slope is still 39 % of the steepest, and half of a gru was called saturated."""
    x = torch.tensor([[-4.3, -2.5, 2.5, 4.3]])
    activation = diagnostics.Activation(nn.Sigmoid, x, x.sigmoid())
    report = diagnostics.activation_report({'gate': activation})
    assert report.saturated['gate'].tolist() == [[True, False, False, True]]


def test_the_report_of_an_update_has_its_size():
    """A step of a thousandth of the weights is 10**-3, the size that is good."""
    model = nn.Linear(50, 40)
    old = diagnostics.copy_matrices(model)
    model.weight.grad = 2 * model.weight.detach()
    with torch.no_grad():
        model.weight.mul_(1.001)
    report = diagnostics.update_report(model, old)
    line, guide = report.lines
    assert line.startswith('weight ')
    assert 'grad:data 2.00e+00 | update:data 10**-3.0' in line
    assert guide == 'update:data of about 10**-3 is good at the peak learning rate'
    assert report.scalars[f'{diagnostics.UPDATES}/weight'] == pytest.approx(-3, abs=1e-3)
    assert report.scalars['relative gradient/weight'] == pytest.approx(2, rel=1e-3)


def test_weights_that_were_all_equal_have_no_ratios():
    """The start of a recurrent net is 0 before the first step, and the report said grad:data inf
    and update:data 10**inf.
    """
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    old = diagnostics.copy_matrices(model)
    model.weight.grad = torch.ones(2, 3)
    with torch.no_grad():
        model.weight.sub_(0.1)
    report = diagnostics.update_report(model, old)
    assert report.lines[0].endswith('its weights were all equal, so there are no ratios')
    assert list(report.scalars) == [f'{diagnostics.UPDATES}/guide']
    assert list(report.gradients) == ['weight']


@pytest.mark.parametrize(
    ('lr_share', 'ending'),
    [
        (1.0, 'is good at the peak learning rate'),
        (0.1, '; now it is at 10 % of it, so about 10**-4.0'),
        (0.0, 'is good at the peak learning rate'),
    ],
)
def test_the_guide_for_updates_knows_that_the_rate_has_decayed(lr_share, ending):
    """Late in a run every ratio was far below -3, and the report still said "about -3 is good"
    as if the learning rate had not decayed.
    """
    assert diagnostics.explain_guide(lr_share).endswith(ending)


def test_late_in_a_run_the_guide_is_lower(train):
    result = train('mlp', '-o', 'x', '--diagnose', 8, max_steps=10, warmup=0)
    first, late = [line for line in result.err.splitlines() if 'is good at the peak' in line]
    assert first.endswith('is good at the peak learning rate')
    # after 8 of 10 steps, a cosine from 1 to 0 is at (1 + cos(0.8 pi)) / 2
    assert late.endswith('now it is at 9.5 % of it, so about 10**-4.0')


# -----------------------------------------------------------------------------
# the initial loss


def test_an_initial_loss_far_from_uniform_is_reported(train, monkeypatch):
    """A net that is sure of itself before it has seen anything spends its first steps on that."""
    message = 'more than 10 % apart: check the initialization'
    result = train('mlp', '-o', 'a')
    assert '(uniform guess: ln 27 = 3.2958)' in result.err
    assert message not in result.err

    original = makemore.MLP.__init__

    def with_large_weights(self, config, vocab_size):
        original(self, config, vocab_size)
        nn.init.normal_(self.net[-1].weight, std=3)

    monkeypatch.setattr(makemore.MLP, '__init__', with_large_weights)
    assert message in train('mlp', '-o', 'b').err


# -----------------------------------------------------------------------------
# the learning-rate range test


def test_the_learning_rate_of_a_parabola_is_found():
    """Its steps make the loss fall up to a rate of 1, and explode beyond that."""
    x = 1.0

    def take_step(lr):
        nonlocal x
        x -= min(lr, 1e3) * x * 0.1
        return x**2 + 1

    *curve, proposal = diagnostics.find_lr(take_step)
    # the loss still falls at the largest rate of the test, 1; a quarter of it is proposed
    assert 'at learning rate 1.0e+00' in proposal
    assert proposal.endswith('--learning-rate 2.5e-01')
    assert len(curve) == 13
    assert any('*' in row for row in curve)


@pytest.mark.parametrize('explosion', [float('inf'), float('nan'), 1e9])
def test_the_range_test_ends_when_the_loss_explodes(explosion):
    rates = []

    def take_step(lr):
        rates.append(lr)
        return explosion if lr > 0.01 else 3 - lr

    *_, proposal = diagnostics.find_lr(take_step)
    assert max(rates) < 0.011
    assert '--learning-rate' in proposal


def test_find_lr_proposes_a_rate_and_leaves_nothing_behind(train):
    result = train('mlp', '--find-lr', '-o', 'x')
    assert result.code == 0
    proposed = float(result.out.split('--learning-rate ')[1].split()[0])
    assert 1e-4 < proposed < 0.3
    assert os.listdir() == []


def test_find_lr_of_a_model_without_one_is_refused(run, names):
    result = run('-i', names, '--type', 'ngram', '--find-lr')
    assert result.code == 2
    assert '--find-lr: ngram has no learning rate' in result.err
    assert os.listdir() == []


def test_a_curve_is_plotted_from_left_to_right_and_from_bottom_to_top():
    *rows, _ = diagnostics.plot([0, 1, 2], [1.0, 2.0, 3.0], width=3, height=3)
    assert rows == ['  *', ' * ', '*  ']
    *rows, _ = diagnostics.plot([0, 1], [2.0, 2.0], width=2, height=2)
    assert rows == ['  ', '**']


@pytest.mark.filterwarnings('error')
def test_a_matrix_of_one_number_has_a_deviation(train):
    """torch warned that the deviation of one number, divided by n - 1, is not defined."""
    result = train('mlp', '--diagnose', 1, '-o', 'x', n_embd=1, n_hidden=1, block_size=1)
    assert result.code == 0


def test_as_many_channels_as_positions(train, tmp_path):
    """An rnn of 64 units on blocks of 64 characters: its states (B, C) were taken for (B, T, C)."""
    (tmp_path / 't.txt').write_text('the quick brown fox jumps over the lazy dog\n' * 40)
    flags = ['-i', 't.txt', '--text', '--block-size', 16, '--n-embd2', 16, '--diagnose', 1]
    result = train('rnn', '-o', 'x', *flags, max_steps=1)
    assert result.code == 0, result.err


def test_a_model_with_named_parts():
    """A dictionary of modules was taken for the nets of a mix, whose names are numbers."""
    model = nn.Module()
    model.transformer = nn.ModuleDict({'wte': nn.Embedding(3, 2)})
    assert diagnostics.name_matrices(model) == {'transformer.wte.weight': 'wte'}
