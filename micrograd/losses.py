"""How wrong is it? One Value that backward() can start from; a mean over the examples, as in torch.
A class is given as its index or as a one-hot list; the list can be an input of a traced program, an index is frozen."""
import math
from operator import index

from .engine import Value, as_value, dot

def mean(terms):
    return sum(terms, Value(0.0)) / len(terms)

def mse(scores, targets):
    """Mean squared error: far off counts more than its share."""
    return mean([(s - t)**2 for s, t in zip(scores, targets, strict=True)])

def max_margin(scores, targets):
    """The lecture's SVM loss for targets -1 and 1: content as soon as a score is past 1 on the right side."""
    return mean([(1 - t*s).relu() for s, t in zip(scores, targets, strict=True)])

def log_sum_exp(xs):
    """log(exp(x0) + exp(x1) + ...): (1000.0, 0.0) -> 1000.0. With the largest taken out, no exp can overflow."""
    top = max(xs)
    return top + math.log(math.fsum(math.exp(x - top) for x in xs))

def logsumexp(logits):
    """log_sum_exp as one node; its slopes are the softmax."""
    logits = tuple(map(as_value, logits))
    y = log_sum_exp([x.data for x in logits])
    return Value(y, logits, 'logsumexp', '', tuple(math.exp(x.data - y) for x in logits))

def softmax(logits):
    """Scores to probabilities that sum to 1."""
    total = logsumexp(logits)
    return [(x - total).exp() for x in logits]

def pick(xs, target):
    """The one of xs that target points at: ([5, 7], 1) -> 7, ([5, 7], [0, 1]) -> 7."""
    if hasattr(target, '__len__'):
        return dot(target, xs)
    if not 0 <= index(target) < len(xs):  # -1 would quietly train the last class
        raise ValueError(f"class {target} is not one of the {len(xs)} there are")
    return xs[target]

def nll(probs, target):
    """Negative log likelihood of the right class, given probabilities."""
    return -pick(probs, target).log()

def cross_entropy(logits, target):
    """nll(softmax(logits), target), without taking the log of a probability that was rounded to 0."""
    return logsumexp(logits) - pick(logits, target)
