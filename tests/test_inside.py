"""Looking inside: three ways to one gradient, what the neurons do, which rate to take."""
import os

import pytest
import torch
import torch.nn as nn

import inside
import makemore

WAYS = [(way, kind) for way, kinds in inside.CAN.items() for kind in kinds]


# ----------------------------------------------------------------------------------------------------------------------
# Three ways to a gradient

@pytest.mark.parametrize('way, kind', WAYS)
def test_every_way_leaves_the_gradients_of_autograd(way, kind, build):
    cfg, words, model = build(kind, dropout=0.0)
    x, y, _ = makemore.batch(words, cfg, 0)
    found = []
    cfg.backprop = way
    for backprop in (makemore.by_autograd, inside.backprop(makemore.Run(cfg, words, model))):
        model.zero_grad()
        loss = backprop(model, x, y, 0.7)      # a rank's share of the targets scales the gradient, not the loss
        found.append([loss.item(), *(p.grad.clone() for p in model.parameters())])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert any(g.abs().max() > 0 for g in found[0][1:])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found[0][1:], found[1][1:]))


def test_what_is_dropped_is_dropped_on_the_way_back_too(build):
    cfg, words, model = build('mlp', dropout=0.5)
    x, y, _ = makemore.batch(words, cfg, 0)
    assert inside.compare(model.train(), [makemore.by_autograd, inside.by_hand], x, y)


@pytest.mark.parametrize('way, kind', WAYS)
def test_check_backprop_agrees_and_leaves_nothing_behind(way, kind, train):
    result = train(kind, '--check-backprop', '--backprop', way)
    assert result.code == 0 and result.out.count('approximate: True') == len(result.out.splitlines()) > 0
    assert os.listdir() == []


def test_check_backprop_ends_with_1_where_a_rule_is_wrong(train, monkeypatch):
    monkeypatch.setitem(inside.BACK, 'Tanh', lambda m, x, out, d: d * (1 - out))
    result = train('mlp', '--check-backprop')
    assert result.code == 1 and 'approximate: False' in result.out


@pytest.mark.parametrize('way, kind', WAYS)
def test_the_loop_cannot_tell_them_apart(way, kind, train):
    """A few steps end in the same weights, whoever found the gradients."""
    assert train(kind, '-o', 'a', '--dropout', 0, max_steps=3, batch_size=4).code == 0
    assert train(kind, '-o', 'b', '--dropout', 0, '--backprop', way, max_steps=3, batch_size=4).code == 0
    a, b = (torch.load(f'{f}/last.pt', weights_only=True)['model'] for f in 'ab')
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.parametrize('args, told', [
    (['--type', 'gru', '--backprop', 'manual'], 'mlp, bn-mlp, wavenet, not for gru'),
    (['--type', 'gru', '--check-backprop'], 'not for gru'),
    (['--type', 'mlp', '--backprop', 'micrograd', '--dropout', '0.1'], '--dropout 0'),
    (['--type', 'mlp', '--backprop', 'micrgrad'], 'did you mean micrograd?'),
    (['--type', 'ngram', '--find-lr'], 'ngram')])
def test_what_cannot_be_done_is_said(args, told, run, names):
    result = run('-i', names, *args)
    assert result.code == 2 and told in result.err and os.listdir() == []


# ----------------------------------------------------------------------------------------------------------------------
# Which rate?

def test_the_rate_is_found_on_a_bowl(capsys):
    """Steps on a parabola fall up to a rate of 1 and explode beyond 2."""
    x = [1.0]
    def step(lr):
        x[0] -= min(lr, 1e3) * x[0] * 0.1
        return x[0]**2 + 1
    inside.find_rate(step, None)
    *curve, said = capsys.readouterr().out.splitlines()
    assert '--learning-rate 2.5e-01' in said      # a quarter of the largest there is, as it still falls there
    assert len(curve) == 13 and any('*' in row for row in curve)


def test_find_lr_proposes_a_rate_and_leaves_no_checkpoint(train):
    result = train('mlp', '--find-lr', '-o', 'x')
    proposed = float(result.out.split('--learning-rate ')[1].split()[0])
    assert result.code == 0 and 1e-4 < proposed < 0.3
    assert not [name for name in os.listdir('x') if name.endswith(('.pt', '.json'))]
    assert [name for name in os.listdir('x') if name.startswith('events')]


def test_a_curve_is_plotted_from_left_to_right_and_bottom_to_top():
    assert inside.plot([0, 1, 2], [1.0, 2.0, 3.0], wide=3, high=3).splitlines()[:3] == ['  *', ' * ', '*  ']
    assert inside.plot([0, 1], [2.0, 2.0], wide=2, high=2).splitlines()[:2] == ['  ', '**']


# ----------------------------------------------------------------------------------------------------------------------
# What a learner looks at

def test_a_picture_has_a_cell_for_every_pair():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    image = inside.picture(p, '.a', cell=40)
    assert image.shape == (80, 80, 3)
    corners = [[image[40 * i + 2, 40 * j + 2].tolist() for j in range(2)] for i in range(2)]
    assert corners[0][0][0] < corners[1][1][0] < corners[0][1][0]      # the likelier the bluer: less red
    assert image[:40, :40, 2].min() < 100      # something dark is written on the blue


def test_a_start_that_is_off_is_said(train, monkeypatch):
    """A net that is sure of itself before it has seen anything wastes its first steps on forgetting."""
    result = train('mlp', '-o', 'a')
    assert 'a loss of ln 27 = 3.2958' in result.err and 'more than 10 % off' not in result.err
    init = makemore.MLP.__init__
    def sure(self, cfg, vocab_size):
        init(self, cfg, vocab_size)
        nn.init.normal_(self.net[-1].weight, std=3)
    monkeypatch.setattr(makemore.MLP, '__init__', sure)
    assert 'more than 10 % off' in train('mlp', '-o', 'b').err


def test_makemore_alone_trains_and_samples(run, names, monkeypatch):
    """Copied out of the repository without the files beside it."""
    for name in ('inside', 'faster', 'tokenizer', 'micrograd'):
        monkeypatch.setitem(__import__('sys').modules, name, None)
    assert run('-i', names, '--type', 'bigram', '--max-steps', 3).code == 0
    assert run('--sample-only').code == 0
    result = run('-i', names, '--type', 'mlp', '--check-backprop')
    assert result.code == 2 and 'inside' in result.err
    result = run('-i', names, '--type', 'mlp', '--tokenizer', 'bpe')
    assert result.code == 2 and 'tokenizer' in result.err
