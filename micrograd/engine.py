"""
A scalar autograd engine: numbers that remember how they were computed, and backpropagation.

    from micrograd import Value

    a = Value(2.0, label='a')
    b = Value(-3.0, label='b')
    L = (a * b + 10.0) * -2.0  # forward pass: L.data is -8.0
    L.backward()               # backward pass: a.grad is dL/da = 6.0, b.grad is dL/db = -4.0

Every operation makes a new Value. It keeps its parents and, for each parent, a slope: the
derivative of the operation with respect to that parent, computed during the forward pass.
The backward pass is then the same line for every operation, the chain rule:

    parent.grad += slope * self.grad

So a new operation needs only its result and its slopes. This is all there is to tanh:

    t = math.tanh(x.data)
    out = Value(t, (x,), 'tanh', (1.0 - t * t,))

A Value refers to its parents and to nothing else. There are no reference cycles, so Python frees
a graph as soon as its result is no longer used, without the help of the garbage collector.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from operator import mul, truediv

# -----------------------------------------------------------------------------
# the node of the graph


class Value:
    """A number in a computation graph, with its gradient and an optional label."""

    # without a dict per node, a node takes 48 bytes less
    __slots__ = ('data', 'grad', 'label', 'op', 'parents', 'slopes')

    def __init__(
        self,
        data: float,
        parents: tuple[Value, ...] = (),
        op: str = '',
        slopes: tuple[float, ...] = (),
        label: str = '',
    ):
        # nearly all numbers are floats already, and this test is cheaper than a call
        self.data = data if type(data) is float else to_float(data)
        self.grad = 0.0
        self.label = label
        self.op = op
        # Tuples, not sets: a * a has two edges, and gradients are added up in the same order in
        # every run.
        self.parents = parents
        self.slopes = slopes

    # --- backpropagation

    def backward(self) -> None:
        """Compute the derivative of this Value with respect to every Value it was made from.

        It is added to the .grad of leaves and replaces the .grad of the others. So leaves
        accumulate from call to call, as in PyTorch; set their .grad to 0 in between.
        """
        order = topological_sort(self)
        for node in order:
            node.check_slopes()
            # Only leaves accumulate. What an earlier backward() left in between would be passed
            # on a second time.
            node.grad = 0.0
        self.grad += 1.0
        for node in reversed(order):
            node._backward()

    def _backward(self) -> None:
        """Pass the gradient of this node on to its parents."""
        grad = self.grad
        # A gradient of 0 ends here. That saves time behind a relu that is off, and an infinite
        # slope does not give 0 * inf = nan, as it does in PyTorch.
        if grad == 0.0:
            return
        for parent, slope in zip(self.parents, self.slopes, strict=True):
            # += because a parent may be used more than once
            parent.grad += slope * grad

    def check_slopes(self) -> None:
        """ValueError if there is not one slope per parent, as in Value(t, (x,), 'tanh')."""
        n_parents = len(self.parents)
        n_slopes = len(self.slopes)
        if n_parents != n_slopes:
            raise ValueError(
                f'operation {self.op!r} has {n_parents} parents but {n_slopes} slopes; '
                'pass Value(data, parents, op, slopes)'
            )

    # --- operations with two parents

    def __add__(self, other: Value | float) -> Value:
        other = as_value(other)
        slopes = (1.0, 1.0)
        return Value(self.data + other.data, (self, other), '+', slopes)

    def __sub__(self, other: Value | float) -> Value:
        other = as_value(other)
        slopes = (1.0, -1.0)
        return Value(self.data - other.data, (self, other), '-', slopes)

    def __mul__(self, other: Value | float) -> Value:
        other = as_value(other)
        slopes = (other.data, self.data)
        return Value(self.data * other.data, (self, other), '*', slopes)

    def __truediv__(self, other: Value | float) -> Value:
        other = as_value(other)
        # checked() names both numbers in the error if this is a division by zero
        quotient = checked(truediv, self.data, other.data)
        slopes = (1.0 / other.data, -quotient / other.data)
        return Value(quotient, (self, other), '/', slopes)

    def __pow__(self, other: Value | float) -> Value:
        exponent = as_value(other)
        # not the operator **: it answers (-8.0) ** (1/3) with a complex number
        power = checked(math.pow, self.data, exponent.data)
        slope = power_slope(self.data, exponent.data)
        # A plain number needs no gradient. For a negative base the slope would be nan.
        slope_of_exponent = 0.0
        if isinstance(other, Value):
            slope_of_exponent = exponent_slope(self.data, power)
        return Value(power, (self, exponent), '**', (slope, slope_of_exponent))

    # The same with a plain number on the left, as in 2 * a.

    def __radd__(self, other: float) -> Value:
        return self + other

    def __rsub__(self, other: float) -> Value:
        return Value(other) - self

    def __rmul__(self, other: float) -> Value:
        return self * other

    def __rtruediv__(self, other: float) -> Value:
        return Value(other) / self

    def __rpow__(self, other: float) -> Value:
        return Value(other) ** self

    # --- operations with one parent

    def __neg__(self) -> Value:
        return Value(-self.data, (self,), 'neg', (-1.0,))

    def __abs__(self) -> Value:
        return Value(abs(self.data), (self,), 'abs', (sign(self.data),))

    def exp(self) -> Value:
        """e to the power of this Value."""
        y = checked(math.exp, self.data)
        return Value(y, (self,), 'exp', (y,))

    def log(self) -> Value:
        """Natural logarithm. ValueError where this Value is not positive."""
        y = checked(math.log, self.data)
        return Value(y, (self,), 'log', (1.0 / self.data,))

    def tanh(self) -> Value:
        """Hyperbolic tangent."""
        # The formula of the lecture, (e - 1) / (e + 1) with e = exp(2x), overflows at x = 355.
        t = math.tanh(self.data)
        return Value(t, (self,), 'tanh', (1.0 - t * t,))

    def sigmoid(self) -> Value:
        """The logistic function, 1 / (1 + exp(-x))."""
        s = logistic(self.data)
        return Value(s, (self,), 'sigmoid', (s * (1.0 - s),))

    def relu(self) -> Value:
        """This number if it is positive, else 0. The slope at 0 is 0, as in PyTorch."""
        # asked this way round, nan stays nan
        if self.data <= 0.0:
            return Value(0.0, (self,), 'relu', (0.0,))
        return Value(self.data, (self,), 'relu', (1.0,))

    # --- comparison and conversion
    #
    # Values compare by their numbers, so that max() and sorted() work. There is no __eq__: two
    # nodes that both hold 2.0 are different nodes, and sets and dicts of nodes rely on it.
    # report_look() is for trace.py, see the end of this file.

    def __lt__(self, other: Value | float) -> bool:
        report_look()
        return self.data < as_value(other).data

    def __le__(self, other: Value | float) -> bool:
        report_look()
        return self.data <= as_value(other).data

    def __gt__(self, other: Value | float) -> bool:
        report_look()
        return self.data > as_value(other).data

    def __ge__(self, other: Value | float) -> bool:
        report_look()
        return self.data >= as_value(other).data

    def __float__(self) -> float:
        report_look()
        return self.data

    def __format__(self, spec: str) -> str:
        if not spec:
            return repr(self)
        return format(self.data, spec)

    def __repr__(self) -> str:
        return f'Value(data={self.data}, grad={self.grad})'

    def __reduce__(self) -> tuple:
        # For copy and pickle: what to call, with which arguments, and what to set afterwards. The
        # copy is a leaf, because copying a deep graph would exceed the recursion limit.
        arguments = (self.data, (), '', (), self.label)
        slots = {'grad': self.grad}
        return Value, arguments, (None, slots)

    # --- the lecture's names

    @property
    def _prev(self) -> tuple[Value, ...]:
        return self.parents

    @property
    def _op(self) -> str:
        return self.op


def as_value(x: Value | float) -> Value:
    """The same Value, or a new leaf that holds a plain number."""
    return x if isinstance(x, Value) else Value(x)


def topological_sort(root: Value) -> list[Value]:
    """The Values that operations made on the way to root, each after its parents; no leaves.

    The usual recursive form stops at Python's recursion limit, after about a thousand operations.
    Here the stack is a list. An entry is a node and an iterator over its parents, which remembers
    how many of them have been visited.
    """
    if not root.parents:
        return []
    order = []
    seen = {root}
    stack: list[tuple[Value, Iterator[Value]]] = [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if parent.parents and parent not in seen:
                # sort this parent first; the loop over the others goes on afterwards
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            # no parent is left, so it is the turn of the node itself
            order.append(node)
            stack.pop()
    return order


# -----------------------------------------------------------------------------
# a whole neuron as one node


def dot(
    weights: Sequence[Value | float], inputs: Sequence[Value | float], bias: Value | float = 0.0
) -> Value:
    """bias + weights[0] * inputs[0] + weights[1] * inputs[1] + ... as a single node.

    Made with + and *, a neuron with 16 inputs takes 32 nodes. As one node it gives the same numbers
    and takes a fifth of the time.
    """
    n = len(weights)
    if n != len(inputs):
        raise ValueError(f'dot has {n} weights but {len(inputs)} inputs')
    parents = (*weights, *inputs, bias)
    # usually all of them are Values, and this single pass over them is enough
    data = [parent.data for parent in parents if isinstance(parent, Value)]
    if len(data) < len(parents):
        parents = tuple([as_value(parent) for parent in parents])
        data = [parent.data for parent in parents]
    w = data[:n]
    x = data[n:-1]
    # not sum(): since Python 3.12 it rounds differently, and results should not depend on that
    total = data[-1]
    for product in map(mul, w, x):
        total += product
    slopes = (*x, *w, 1.0)
    return Value(total, parents, 'dot', slopes)


# -----------------------------------------------------------------------------
# arithmetic on plain numbers
#
# The code that trace.py generates calls these functions, too, so that it gives the same numbers.


def to_float(x: object) -> float:
    """A number of any type as a float. TypeError for anything else, with the value named."""
    # A Value is refused as well: its connection to the graph would be lost.
    if isinstance(x, Value) or not hasattr(x, '__float__'):
        raise TypeError(f'a Value holds one real number, not {x!r:.80}')
    return float(x)


def checked(function: Callable[..., float], *args: float) -> float:
    """function(*args). An arithmetic error becomes a ValueError that names the arguments."""
    try:
        return function(*args)
    except (ArithmeticError, ValueError) as error:
        arguments = ', '.join(map(str, args))
        raise ValueError(f'{function.__name__}({arguments}): {error}') from None


def sign(x: float) -> float:
    """1.0, -1.0 or 0.0: the slope of abs(x)."""
    if x > 0.0:
        return 1.0
    if x < 0.0:
        return -1.0
    return 0.0


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), in a form that does not overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def power_slope(x: float, k: float) -> float:
    """The derivative of x**k with respect to x, which is k * x**(k - 1)."""
    # at x = 0 the formula may divide by 0
    if k == 0.0:
        return 0.0
    if x == 0.0 and k < 1.0:
        return math.inf
    try:
        return k * math.pow(x, k - 1.0)
    except OverflowError:
        # The power of 1e-200 ** -1 is 1e200, but its slope is too large for a float. Here the
        # product is inf with the right sign, where math.pow raises.
        return k / x * math.pow(x, k)


def exponent_slope(x: float, power: float) -> float:
    """The derivative of power = x**k with respect to k, which is power * log(x)."""
    if x == 0.0:
        return 0.0
    # A negative base has powers for whole exponents only, so there is no slope: nan, as in PyTorch.
    if x < 0.0:
        return math.nan
    return power * math.log(x)


# -----------------------------------------------------------------------------
# what trace.py needs to know
#
# trace.py records the operations of a program. It cannot record what the program does after a look
# at a number, as in `if a < b`. So it adds a list here while it records, and every comparison and
# every float() of a Value adds its file and line to that list.

look_listeners: list[list[str]] = []


def report_look() -> None:
    """Add the file and line of the program that looks at a number to each list of listeners."""
    if not look_listeners:
        return
    # the last three calls: the line we look for, the method of Value, and this function
    caller = traceback.extract_stack(limit=3)[0]
    for places in look_listeners:
        places.append(f'{caller.filename}:{caller.lineno}')
