"""
Random graphs of micrograd: torch, the engine and its traces agree; a thousand with --long.
"""

import random

import pytest
from test_micrograd import all_close, close, cook, grads, random_recipe, recorded

from micrograd import Value

pytest_plugins = ['fork_fixtures']


def test_torch_the_engine_and_a_trace_agree(long):
    """The same loss and the same gradients in three ways."""
    torch = pytest.importorskip('torch')
    dice = random.Random(23)
    n_graphs = 0
    while n_graphs < long(150, 1000):
        recipe = random_recipe(dice)
        numbers = [dice.uniform(-2, 2) for _ in range(4)]

        tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
        loss = cook(recipe, tensors, torch)
        loss.backward()
        wanted = [0.0 if tensor.grad is None else tensor.grad.item() for tensor in tensors]

        values = [Value(x) for x in numbers]
        value = cook(recipe, values)
        value.backward()
        assert close(value.data, loss.item())
        assert all_close(grads(values), wanted), recipe

        made = recorded(recipe, numbers)
        if made is None:  # it depends on no leaf, so there is nothing to replay
            continue
        n_graphs += 1
        traced, parameters = made
        [replayed] = traced([numbers[2:]])
        assert close(replayed, loss.item())
        assert all_close([*grads(parameters), *traced.input_grads[0]], wanted), recipe
