"""
Loss functions. Each returns one Value, the number to call backward() on.

    from micrograd import MLP, cross_entropy

    model = MLP(2, [16, 3])
    loss = cross_entropy(model([0.5, -1.0]), 2)  # the right class is number 2
    loss.backward()

A loss over several examples is their mean, as in PyTorch. The right class is given as its index
or as a one-hot list such as [0, 0, 1]. In a traced program (see trace.py) only a one-hot list can
be an input; an index becomes a constant.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from .engine import Value, as_value, dot

# -----------------------------------------------------------------------------
# regression and margins


def mean(terms: Sequence[Value]) -> Value:
    """The sum of the terms divided by their number."""
    return sum(terms, Value(0.0)) / len(terms)


def mse(scores: Sequence[Value], targets: Sequence[Value | float]) -> Value:
    """Mean squared error."""
    pairs = zip(scores, targets, strict=True)
    return mean([(score - target) ** 2 for score, target in pairs])


def max_margin(scores: Sequence[Value], targets: Sequence[Value | float]) -> Value:
    """The lecture's SVM loss for targets -1 and 1: 0 for a score beyond 1 on the right side."""
    pairs = zip(scores, targets, strict=True)
    return mean([(1 - target * score).relu() for score, target in pairs])


# -----------------------------------------------------------------------------
# softmax, on plain numbers
#
# The operations below and the code that trace.py generates call these functions.


def shifted_exps(xs: Sequence[float]) -> list[float]:
    """exp(x - max(xs)) for each x. The largest is 1, so none can overflow."""
    top = max(xs)
    # the largest is not subtracted from itself, because inf - inf is nan
    return [1.0 if x == top else math.exp(x - top) for x in xs]


def plain_softmax(xs: Sequence[float]) -> list[float]:
    """exp(x) / (exp(x0) + exp(x1) + ...) for each x."""
    exps = shifted_exps(xs)
    # fsum is exact, so the total does not depend on the order: trace.py has the logits in another
    total = math.fsum(exps)
    return [e / total for e in exps]


def plain_logsumexp(xs: Sequence[float]) -> float:
    """log(exp(x0) + exp(x1) + ...)."""
    return max(xs) + math.log(math.fsum(shifted_exps(xs)))


# -----------------------------------------------------------------------------
# classification


def logsumexp(logits: Sequence[Value | float]) -> Value:
    """log(exp(x0) + exp(x1) + ...) as a single node. Its slopes are the softmax."""
    parents = tuple([as_value(x) for x in logits])
    data = [x.data for x in parents]
    slopes = tuple(plain_softmax(data))
    return Value(plain_logsumexp(data), parents, 'logsumexp', slopes)


def softmax(logits: Sequence[Value | float]) -> list[Value]:
    """Probabilities, one for each logit, that add up to 1."""
    parents = [as_value(x) for x in logits]
    probs = plain_softmax([x.data for x in parents])
    return [softmax_node(parents, probs, i) for i in range(len(parents))]


def softmax_node(logits: list[Value], probs: list[float], i: int) -> Value:
    """Probability number i as a node. Its first parent is its own logit, the others follow."""
    # The derivative of p_i with respect to x_i is p_i * (1 - p_i), with respect to any other x_j
    # it is -p_i * p_j.
    p = probs[i]
    others = logits[:i] + logits[i + 1 :]
    other_probs = probs[:i] + probs[i + 1 :]
    slopes = [-p * q for q in other_probs]
    return Value(p, (logits[i], *others), 'softmax', (p * (1.0 - p), *slopes))


def select_class(xs: Sequence[Value], target: int | Sequence[Value | float]) -> Value:
    """The element of xs that belongs to the class target, an index or a one-hot list."""
    if hasattr(target, '__len__'):
        return dot(target, xs)
    # a negative index would select a class from the end
    if not 0 <= operator.index(target) < len(xs):
        raise ValueError(f'class {target} is out of range: expected 0 to {len(xs) - 1}')
    return xs[target]


def nll(probs: Sequence[Value], target: int | Sequence[Value | float]) -> Value:
    """Negative log likelihood of the class target, given the probabilities of all classes."""
    return -select_class(probs, target).log()


def cross_entropy(logits: Sequence[Value | float], target: int | Sequence[Value | float]) -> Value:
    """nll(softmax(logits), target), also where the probability is too small for a float."""
    # -log(exp(xt) / sum(exp(xj))) = log(sum(exp(xj - xt))). The subtraction comes first, because
    # next to large logits the logarithm would be lost to rounding: 1e20 + log(2) is 1e20.
    target_logit = select_class(logits, target)
    return logsumexp([x - target_logit for x in logits])
