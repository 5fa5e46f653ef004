"""Gradients by hand and by micrograd are those of autograd."""

import os

import pytest
import torch

import makemore
from makemore_extras import backprop

COMBINATIONS = [(method, name) for method, names in backprop.METHODS.items() for name in names]


@pytest.mark.parametrize('method, model_type', COMBINATIONS)
def test_every_method_leaves_the_gradients_of_autograd(method, model_type, build):
    """The weight, a process's share of the targets, scales the gradient and not the loss."""
    config, dataset, model = build(model_type, dropout=0.0)
    x, y, _ = makemore.get_batch(dataset, config, 0)
    losses = []
    gradients = []
    other = backprop.make_backward(method, model_type, model)
    for backward in (makemore.backward_autograd, other):
        model.zero_grad()
        losses.append(backward(model, x, y, 0.7).item())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0] == pytest.approx(model(x, y).item(), rel=1e-5)
    assert any(grad.abs().max() > 0 for grad in gradients[0])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_what_is_dropped_has_no_gradient(build):
    config, dataset, model = build('mlp', dropout=0.5)
    x, y, _ = makemore.get_batch(dataset, config, 0)
    methods = (makemore.backward_autograd, backprop.manual_backward)
    comparison = backprop.compare_gradients(model.train(), *methods, x, y)
    assert comparison.all_close
    assert len(comparison.lines) == len(list(model.parameters()))


@pytest.mark.parametrize('correction', [0, 1])
def test_the_rule_of_batch_norm_for_both_ways_to_divide(correction):
    """With correction=1 the variance is divided by n - 1, as in the lecture."""
    torch.manual_seed(1)
    layer = makemore.BatchNorm1d(4).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    var = x.var((0, 1), correction=correction)
    out = (x - x.mean((0, 1))) * (var + layer.eps).rsqrt() * layer.weight + layer.bias
    d = torch.randn_like(out)
    expected = torch.autograd.grad((out * d).sum(), [x, layer.weight, layer.bias])
    with torch.no_grad():
        d_x = backprop.batch_norm_rule(layer, x, out, d, correction)
    for a, b in zip([d_x, layer.weight.grad, layer.bias.grad], expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('method, model_type', COMBINATIONS)
def test_check_backprop_agrees_and_leaves_nothing_behind(method, model_type, train):
    result = train(model_type, '--check-backprop', '--backprop', method)
    *lines, explanation = result.out.splitlines()
    assert result.code == 0
    assert len(lines) > 0
    assert all('approximate: True' in line for line in lines)
    assert 'all gradients are ' in explanation
    assert os.listdir() == []


@pytest.mark.parametrize('model_type', ['mlp', 'bn-mlp', 'wavenet', 'bigram'])
def test_check_backprop_takes_the_method_that_the_model_has(model_type, train):
    result = train(model_type, '--check-backprop')
    assert result.code == 0
    assert 'approximate: True' in result.out


def test_check_backprop_ends_with_1_if_a_rule_is_wrong(train, monkeypatch):
    monkeypatch.setitem(backprop.RULES, 'Tanh', lambda layer, x, out, d: d * (1 - out))
    result = train('mlp', '--check-backprop')
    assert result.code == 1
    assert 'approximate: False' in result.out
    # the head is behind the tanh, and right; the mistake goes into everything before it
    assert 'net.2.bias is the wrong one nearest to the loss' in result.out


def test_the_report_says_why_approximate_is_right():
    """`exact: False` in every line looked like a failure."""
    exact = backprop.explain_comparison(True, [])
    approximate = backprop.explain_comparison(False, [])
    assert exact == 'all gradients are equal, bit for bit'
    assert 'Approximate is as good as exact' in approximate
    assert 'in another order' in approximate


@pytest.mark.parametrize('method, model_type', COMBINATIONS)
def test_training_ends_in_the_same_weights(method, model_type, train):
    settings = {'max_steps': 3, 'batch_size': 4, 'dropout': 0}
    assert train(model_type, '-o', 'a', **settings).code == 0
    assert train(model_type, '-o', 'b', '--backprop', method, **settings).code == 0
    one, other = [torch.load(f'{f}/last.pt', weights_only=True)['model'] for f in 'ab']
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=0, atol=1e-4)


IMPOSSIBLE = [
    (['--type', 'gru', '--backprop', 'manual'], 'mlp, bn-mlp, wavenet, not for gru'),
    (['--type', 'gru', '--check-backprop'], 'not for gru'),
    (['--type', 'mlp', '--backprop', 'micrograd', '--dropout', '0.1'], '--dropout 0'),
    (['--type', 'mlp', '--backprop', 'micrgrad'], 'did you mean micrograd?'),
    (['--type', 'ngram', '--check-backprop'], 'not for ngram'),
]


@pytest.mark.parametrize('args, message', IMPOSSIBLE)
def test_an_impossible_combination_is_refused_in_one_line(args, message, run, names):
    result = run('-i', names, *args)
    assert result.code == 2
    assert message in result.err
    assert 'Traceback' not in result.err
    assert os.listdir() == []
