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
        slope, uncertainty = measure_slope(f, data, i)
        error = relative_error(x.grad, slope, uncertainty)
        checks.append(Check(x.label or f'input {i}', x.grad, slope, error))
    worst = max(checks, key=lambda check: check.error)
    if worst.error > tol:
        raise ValueError(
            f'{worst.input}: backward() says {worst.backward}, the slope is {worst.slope}'
        )
    return worst


def measure_slope(f: Callable[..., Value], data: list[float], i: int) -> tuple[float, float]:
    """The slope of f with respect to input i, from differences, and an estimate of its error."""

    def output(step: float) -> float:
        inputs = [Value(x) for x in data]
        inputs[i].data += step
        return f(*inputs).data

    # A step to both sides has an error that shrinks with h**2, a step to one side with h.
    h = 1e-6 * max(1.0, abs(data[i]))
    up = output(h)
    down = output(-h)
    slope = (up - down) / (2 * h)

    # There are two sources of error. One is truncation: in a step to both sides the curvature
    # cancels, and what remains comes from the third derivative. It shows in the slope over twice
    # the distance. The other is the rounding of the outputs, about 1e-16 of their size, which is
    # divided by h as well. Allow ten times as much.
    wide_slope = (output(2 * h) - output(-2 * h)) / (4 * h)
    truncation = abs(wide_slope - slope)
    rounding = 1e-15 * max(abs(up), abs(down)) / h
    return slope, truncation + rounding


def relative_error(backward: float, slope: float, uncertainty: float) -> float:
    """The difference over the larger of the two; 0 within the uncertainty, inf if not finite."""
    difference = abs(backward - slope)
    # nan > tol is False, so nan would pass as correct
    if not math.isfinite(difference + uncertainty):
        return math.inf
    if difference <= uncertainty:
        return 0.0
    return difference / max(abs(backward), abs(slope))
