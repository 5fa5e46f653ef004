"""Record a program once, compile what it did to straight-line Python, replay that on row after row of new numbers.

    def margin(x, y, target):                                    # written for one example, in Values
        return (1 - target * model([x, y])).relu()
    f = trace(margin, model.parameters(), example=[0.5, -1.0, 1.0])
    losses = f([[0.1, 0.2, 1.0], [0.3, -0.4, -1.0]], scale=1/2)  # rows of numbers: forward and backward for each

A call returns a loss per row and adds the gradient of scale * sum(losses) to the parameters' .grad. Towards the inputs
it is in f.input_grads, row by row. So an embedding is no part of the program: pass the numbers of the row that was
looked up, and add their input_grads to its gradient. A program may return (loss, more, ...): then so do the calls.

A recording holds what happened, not what might have. Numbers that are neither parameter nor input are frozen, and so
is the way every `if` went: a comparison of Values is warned about. print(f) tells both. What a program reads from
.data, or computes beside the Values, cannot be seen: it is a constant.
"""
import math, sys, warnings

from . import engine, losses
from .engine import Value, number, topological

def dot_rule(o, *names, chunk=64):
    """A few terms per line: Python's compiler is recursive, and a sum of thousands would be thousands deep."""
    n = len(names) // 2
    ws, xs, b = names[:n], names[n:-1], names[-1]
    terms = [f'{w}*{x}' for w, x in zip(ws, xs)]
    lines = [' + '.join([o if i else b] + terms[i:i+chunk]) for i in range(0, max(n, 1), chunk)]
    return f'\n{o} = '.join(lines), *xs, *ws, '1.0'

RULES = {  # as text: what an operation computes, then its slope towards each parent; o is its own result
    '+': lambda o, a, b: (f'{a} + {b}', '1.0', '1.0'),
    '-': lambda o, a, b: (f'{a} - {b}', '1.0', '-1.0'),
    '*': lambda o, a, b: (f'{a} * {b}', b, a),
    '/': lambda o, a, b: (f'checked(truediv, {a}, {b})', f'1.0 / {b}', f'-{o} / {b}'),
    '**': lambda o, a, b: (f'checked(pow, {a}, {b})', f'power_slope({a}, {b})', f'exponent_slope({a}, {b})'),
    'neg': lambda o, a: (f'-{a}', '-1.0'),
    'abs': lambda o, a: (f'abs({a})', f'(({a} > 0) - ({a} < 0))'),
    'exp': lambda o, a: (f'checked(exp, {a})', o),
    'log': lambda o, a: (f'checked(log, {a})', f'1.0 / {a}'),
    'tanh': lambda o, a: (f'tanh({a})', f'(1.0 - {o}*{o})'),
    'sigmoid': lambda o, a: (f'logistic({a})', f'({o} * (1.0 - {o}))'),
    'relu': lambda o, a: (f'0.0 if {a} <= 0.0 else {a}', f'(0.0 if {a} <= 0.0 else 1.0)'),
    'logsumexp': lambda o, *xs: (f"log_sum_exp(({', '.join(xs)},))", *(f'exp({x} - {o})' for x in xs)),
    'dot': dot_rule,
}
WORDS = vars(math) | vars(engine) | vars(losses)  # what a rule can call

def listing(names):
    """['a', 'b'] -> '(a, b, )': a tuple however many there are, none included."""
    return f"({''.join(name + ', ' for name in names)})"

def write(params, inputs, outs):
    """The program as text, and the numbers it froze. Parameters are p0.., inputs x.., operations v.., constants c.."""
    names = {x: f'x{i}' for i, x in enumerate(inputs)} | {p: f'p{i}' for i, p in enumerate(params)}
    constants, forward, backward = {}, [], []
    def name(v):
        return names.get(v) or constants.setdefault(v, f'c{len(constants)}')
    for v in topological(Value(0.0, outs))[:-1]:
        if any(p in names for p in v._prev):  # what is made of constants alone is one
            if v._op not in RULES:
                raise ValueError(f"trace has no rule for {v._op!r}: add one to RULES in micrograd/trace.py")
            parents = [name(p) for p in v._prev]
            names[v] = o = f'v{len(backward)}'
            text, *slopes = RULES[v._op](o, *parents)
            forward += f'{o} = {text}'.split('\n')
            backward.append([f'if d{o}:'])  # as in Value._backward, and in its order: the same sums to the last bit
            backward[-1] += [f'    d{p} += {s} * d{o}' for p, s in zip(parents, slopes) if p[0] != 'c']
    result = listing(map(name, outs)) if len(outs) > 1 else name(outs[0])
    if outs[0] in constants:
        raise ValueError("the loss depends on none of the parameters and inputs")
    d_params = listing(f'd{names[p]}' for p in params)
    body = [*forward, *(f'd{name} = 0.0' for name in names.values() if name[0] != 'p'), f'd{names[outs[0]]} += scale',
            *(line for block in reversed(backward) for line in block), f'results.append({result})',
            f"input_grads.append({listing(f'd{names[x]}' for x in inputs)})"]
    return '\n'.join(['def run(parameters, rows, scale):', f'    {listing(names[p] for p in params)} = parameters',
                      f'    {listing(constants.values())} = constants', f'    {d_params} = [0.0] * {len(params)}',
                      '    results, input_grads = [], []', f'    for {listing(names[x] for x in inputs)} in rows:',
                      *(f'        {line}' for line in body), f'    return results, {d_params}, input_grads', '']
                     ).replace(' += 1.0 * ', ' += '), [c.data for c in constants]

LOOKS = {f.__code__ for f in (Value.__lt__, Value.__le__, Value.__gt__, Value.__ge__, Value.__float__)}

def record(program, inputs):
    """What the program returns, and from where it looked at a Value's number: a < b, max, sorted, float."""
    looks, before = {}, sys.getprofile()
    def spy(frame, event, arg):
        if event == 'call' and frame.f_code in LOOKS:
            looks[f'{frame.f_back.f_code.co_filename}:{frame.f_back.f_lineno}'] = True
    sys.setprofile(spy)
    try:
        return program(*inputs), list(looks)
    finally:
        sys.setprofile(before)

class trace:  # a class that is used like a function
    """trace(lambda x: w*x, [w], [0.5])([[1.0], [2.0]]) -> two losses. The example only serves to make the recording.
    .run(parameters, rows, scale) -> losses, gradients, input gradients is the compiled function, for bare numbers;
    .source is its text, .constants and .looks are what it froze."""
    def __init__(self, program, params, example=()):
        self.params, inputs = list(dict.fromkeys(params)), [Value(x) for x in example]
        outs, self.looks = record(program, inputs)
        outs = tuple(outs) if isinstance(outs, (tuple, list)) else (outs,)
        if not all(isinstance(v, Value) for v in (*self.params, *outs)) or any(p._prev for p in self.params):
            raise TypeError("parameters and results must be Values, and a parameter not made by an operation")
        for place in self.looks:
            warnings.warn(f"frozen into the trace: a look at a number, {place}", stacklevel=2)
        self.source, self.constants = write(self.params, inputs, outs)
        space = WORDS | {'constants': self.constants}
        exec(compile(self.source, '<trace>', 'exec'), space)  # the text is our rules' own; all numbers come in as data
        self.run, self.nargs, self.input_grads = space['run'], len(inputs), []
    def __call__(self, rows, scale=1.0):
        rows = [[number(x) for x in row] for row in rows]
        if any(len(row) != self.nargs for row in rows):
            raise ValueError(f"a row needs {self.nargs} numbers; these have {sorted(set(map(len, rows)))}")
        results, grads, self.input_grads = self.run([p.data for p in self.params], rows, number(scale))
        for p, g in zip(self.params, grads):
            p.grad += g
        return results
    def __repr__(self):
        return (f"trace of {len(self.params)} parameters, {self.nargs} inputs; it froze {len(self.constants)} "
                f"constants {sorted(set(self.constants))!r:.60} and {len(self.looks)} looks at a number {self.looks}")
