"""
Gradient checking: compares backward() with slopes measured by moving each input a little.

    from micrograd import gradcheck

    gradcheck(lambda a, b: (a * b).tanh(), 0.5, -0.3)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .engine import Value


class Check(NamedTuple):
    """The gradient of one input, from backward() and measured, and the relative error."""

    input: str
    backward: float
    slope: float
    error: float


def gradcheck(f: Callable[..., Value], *xs: Value | float, tol: float = 1e-6) -> Check:
    """The Check of the input with the largest error. ValueError if that error exceeds tol."""
    inputs = [Value(float(x), label=getattr(x, 'label', '')) for x in xs]
    f(*inputs).backward()
    data = [x.data for x in inputs]
    checks = []
    for i, x in enumerate(inputs):
        slope = measure_slope(f, data, i)
        error = relative_error(x.grad, slope)
        checks.append(Check(x.label or f'input {i}', x.grad, slope, error))
    worst = max(checks, key=lambda check: check.error)
    if worst.error > tol:
        raise ValueError(
            f'{worst.input}: backward() says {worst.backward}, the slope is {worst.slope}'
        )
    return worst


def measure_slope(f: Callable[..., Value], data: list[float], i: int) -> float:
    """The slope of f with respect to input i, from differences."""

    def output(step: float) -> float:
        inputs = [Value(x) for x in data]
        inputs[i].data += step
        return f(*inputs).data

    # A step to both sides has an error that shrinks with h**2, a step to one side with h.
    h = 1e-6 * max(1.0, abs(data[i]))
    return (output(h) - output(-h)) / (2 * h)


def relative_error(backward: float, slope: float) -> float:
    """The difference, over the larger of the two if that is above 1."""
    difference = abs(backward - slope)
    # nan > tol is False, so nan would pass as correct
    if not math.isfinite(difference):
        return math.inf
    return difference / max(1.0, abs(backward), abs(slope))
