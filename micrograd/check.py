"""Is the gradient right? Nudge every input a little and see what the output really does."""
import math
from collections import namedtuple

from .engine import Value

Check = namedtuple('Check', 'input backward slope error')

def gradcheck(f, *xs, tol=1e-6):
    """gradcheck(lambda a, b: a*b, 2.0, -3.0) -> the Check of the input that agrees least. ValueError if past tol."""
    values, checks = [Value(float(x), label=getattr(x, 'label', '')) for x in xs], []
    f(*values).backward()
    for i, v in enumerate(values):
        h = 1e-6 * max(1.0, abs(v.data))
        up, down = (f(*(Value(w.data + step * (w is v)) for w in values)).data for step in (h, -h))
        slope = (up - down) / (2 * h)  # from both sides the error shrinks with h**2, from one side with h
        error = abs(v.grad - slope) / max(1.0, abs(v.grad), abs(slope))
        checks.append(Check(v.label or f'input {i}', v.grad, slope, error if error >= 0 else math.inf))  # nan is worst
    worst = max(checks, key=lambda check: check.error)
    if worst.error > tol:
        raise ValueError(f"{worst.input}: backward() says {worst.backward}, the slope is {worst.slope}")
    return worst
