"""A number that remembers how it was made, and so can say what it would do to everything made from it.

    a, b = Value(2.0, label='a'), Value(-3.0, label='b')
    L = (a*b + 10.0) * -2.0     # forward: L.data is -8.0, and every operation has made a new Value
    L.backward()                # backward: a.grad is dL/da = 6.0, b.grad is dL/db = -4.0

A Value keeps its parents and, beside each parent, the slope of the operation towards it, taken at forward time.
Backward is then one rule for all: parent.grad += slope * self.grad. A new operation is a number and its slopes:
`Value(t, (x,), 'tanh', '', (1 - t*t,))` is all there is to tanh. And with no closures there are no reference
cycles: a graph is freed the moment its last name goes, without the garbage collector.
Left out: tensors and broadcasting (a Value is one number), no_grad, switches of any kind.
"""
import math
from operator import truediv

def number(x):
    """3 -> 3.0. Text, lists and complex numbers are refused by name; so is a Value, which would lose its graph."""
    if hasattr(x, '__float__') and not isinstance(x, Value):
        return float(x)
    raise TypeError(f"a Value holds one real number, not {x!r:.80}")

def checked(f, *xs):
    """(math.log, 1.0) -> 0.0. Python only says 'math domain error'; this adds of what."""
    try:
        return f(*xs)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{f.__name__}({', '.join(map(str, xs))}): {error}") from None

def power_slope(x, k):
    """d(x**k)/dx: (3.0, 2.0) -> 6.0. At x = 0 the textbook's k * x**(k-1) can divide by zero."""
    return 0.0 if k == 0 else math.inf if x == 0 and k < 1 else k * checked(math.pow, x, k - 1)

def exponent_slope(x, k):
    """d(x**k)/dk: (1.0, 5.0) -> 0.0. Over a negative base x**k is full of holes and has no slope: nan, as in torch."""
    return checked(math.pow, x, k) * math.log(x) if x > 0 else 0.0 if x == 0 else math.nan

def logistic(x):
    """0.0 -> 0.5. Each half uses the exp that cannot overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))

class Value:
    """One number in a graph: .data, .grad, .label, and behind the scenes ._prev (parents), ._op, ._local (slopes)."""
    __slots__ = ('data', 'grad', 'label', '_prev', '_op', '_local')  # no dict per node

    def __init__(self, data, _prev=(), _op='', label='', _local=()):
        self.data = data if type(data) is float else number(data)
        self.grad = 0.0
        self._prev = _prev  # a tuple, not a set: a*a has two edges, and sums have the same order in every run
        self._op, self.label, self._local = _op, label, _local

    def _backward(self):
        """The chain rule, one step: hand my gradient on to my parents, each times its slope."""
        g = self.grad
        if g:  # a dead relu stops here; so does 0 * inf, which torch turns into nan
            for parent, slope in zip(self._prev, self._local):
                parent.grad += slope * g  # += because a parent can be used more than once

    def backward(self):
        """Fill in .grad for everything this was made from. Leaves accumulate from call to call, as in torch."""
        order = topological(self)
        for v in order:
            v.grad = 0.0  # what an earlier backward() left in the middle would be counted twice
            if not v._local:
                raise ValueError(f"{v._op!r} came without slopes: nothing would flow back through {v}")
        self.grad += 1.0
        for v in reversed(order):
            v._backward()

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), '+', '', (1.0, 1.0))

    def __sub__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data - other.data, (self, other), '-', '', (1.0, -1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), '*', '', (other.data, self.data))

    def __truediv__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        q = checked(truediv, self.data, other.data)
        return Value(q, (self, other), '/', '', (1.0 / other.data, -q / other.data))

    def __pow__(self, other):
        k = other if isinstance(other, Value) else Value(other)
        y = checked(math.pow, self.data, k.data)  # ** would answer (-8.0)**(1/3) with a complex number
        to_k = exponent_slope(self.data, k.data) if k is other else 0.0  # a plain 2 needs no gradient
        return Value(y, (self, k), '**', '', (power_slope(self.data, k.data), to_k))

    def __neg__(self): return Value(-self.data, (self,), 'neg', '', (-1.0,))
    def __abs__(self): return Value(abs(self.data), (self,), 'abs', '', (float((self.data > 0) - (self.data < 0)),))
    def log(self): return Value(checked(math.log, self.data), (self,), 'log', '', (1.0 / self.data,))

    def exp(self):
        y = checked(math.exp, self.data)
        return Value(y, (self,), 'exp', '', (y,))

    def tanh(self):
        t = math.tanh(self.data)  # the lecture's (e - 1)/(e + 1) with e = exp(2x) overflows at x = 355
        return Value(t, (self,), 'tanh', '', (1.0 - t*t,))

    def sigmoid(self):
        s = logistic(self.data)
        return Value(s, (self,), 'sigmoid', '', (s * (1.0 - s),))

    def relu(self):
        dead = self.data <= 0  # asked this way round, nan stays nan
        return Value(0.0 if dead else self.data, (self,), 'relu', '', (0.0 if dead else 1.0,))

    # a number on the left, where order does not matter and where it does
    __radd__, __rmul__ = __add__, __mul__
    def __rsub__(self, other): return Value(other) - self
    def __rtruediv__(self, other): return Value(other) / self
    def __rpow__(self, other): return Value(other) ** self

    # Looking at the number leaves the graph. No __eq__: the graph must tell two nodes that both hold 2.0 apart.
    def __lt__(self, other): return self.data < as_value(other).data
    def __le__(self, other): return self.data <= as_value(other).data
    def __gt__(self, other): return self.data > as_value(other).data
    def __ge__(self, other): return self.data >= as_value(other).data
    def __float__(self): return self.data
    def __format__(self, spec): return format(self.data, spec) if spec else repr(self)
    def __repr__(self): return f"Value(data={self.data}, grad={self.grad})"

    def __reduce__(self):  # a copy or a pickle is a leaf: to follow a deep graph would hit the recursion limit
        return Value, (self.data, (), '', self.label), (None, {'grad': self.grad})

def as_value(x):
    return x if isinstance(x, Value) else Value(x)

def dot(ws, xs, b=0.0):
    """b + w0*x0 + w1*x1 + ... as one node: ([2, 3], [10, 1], 0.5) -> 23.5. A whole neuron for the price of one."""
    n = len(ws)
    if n != len(xs):  # zip would drop the surplus without a word
        raise ValueError(f"dot has {n} weights but {len(xs)} inputs")
    parents = (*ws, *xs, b)
    data = [p.data for p in parents if type(p) is Value]
    if len(data) < len(parents):  # some were plain numbers
        parents = tuple(map(as_value, parents))
        data = [p.data for p in parents]
    wd, xd, total = data[:n], data[n:-1], data[-1]
    for w, x in zip(wd, xd):  # not sum(): from Python 3.12 on it compensates, and gives other last bits
        total += w * x
    return Value(total, parents, 'dot', '', (*xd, *wd, 1.0))

def topological(root):
    """Every Value made by an operation on the way to root, after its parents, root last. No recursion: any depth."""
    order, seen, stack = [], set(), [(root, iter(root._prev))] if root._prev else []
    while stack:
        v, parents = stack[-1]
        for p in parents:
            if p._prev and p not in seen:  # go down first; the iterator on the stack remembers where we were
                seen.add(p)
                stack.append((p, iter(p._prev)))
                break
        else:
            order.append(v)
            stack.pop()
    return order
