"""
Tracing: run a program once, record its operations, and compile them to plain Python code.

The compiled code does the same arithmetic on floats, without making any node, and is more than
ten times as fast. A program is written for one example:

    from micrograd import MLP, trace

    model = MLP(2, [16, 16, 1])

    def hinge(x, y, target):
        return (1 - target * model([x, y])).relu()

    f = trace(hinge, model.parameters(), example=[0.5, -1.0, 1.0])
    rows = [[0.1, 0.2, 1.0], [0.3, -0.4, -1.0]]
    losses = f(rows, scale=1 / len(rows))  # forward and backward pass for every row
    print(f.source)                        # the compiled code

The call returns one loss per row and adds the gradient of scale * sum(losses) to the .grad of the
parameters. The gradients with respect to the inputs are then in f.input_grads, one tuple per row.
With them an embedding table can be trained: pass the numbers of the embeddings as inputs, and add
their input_grads to the gradients of the table. A program may also return (loss, more, ...). Each
row then gives such a tuple.

As with torch.jit.trace, only the operations on Values are recorded. An `if` goes the same way in
every later call as it did for the example, and a number that is neither a parameter nor an input
stays what it was. Comparing Values or calling float() on one gives a warning with the line.
Reading .data goes unnoticed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import truediv
from typing import NamedTuple

from .engine import (
    Value,
    checked,
    exponent_slope,
    logistic,
    look_listeners,
    power_slope,
    sign,
    to_float,
    topological_sort,
)
from .losses import plain_logsumexp, plain_softmax

# -----------------------------------------------------------------------------
# rules: what to write for each operation
#
# A rule gets the name of the result and the names of the parents. It returns the lines that
# compute the result, and for each parent an expression for the slope. Both must do the same
# arithmetic as the method of Value, so that the results are equal to the last bit.

Rule = Callable[..., tuple[list[str], list[str]]]
RULES: dict[str, Rule] = {}


def template(value: str, *slopes: str) -> Rule:
    """A rule for one or two parents. In the texts they are {a} and {b}, and the result is {out}."""

    def rule(out: str, a: str, b: str = '') -> tuple[list[str], list[str]]:
        names = {'out': out, 'a': a, 'b': b}
        line = f'{out} = ' + value.format(**names)
        return [line], [slope.format(**names) for slope in slopes]

    return rule


RULES['+'] = template('{a} + {b}', '1.0', '1.0')
RULES['-'] = template('{a} - {b}', '1.0', '-1.0')
RULES['*'] = template('{a} * {b}', '{b}', '{a}')
RULES['/'] = template('checked(truediv, {a}, {b})', '1.0 / {b}', '-{out} / {b}')
RULES['**'] = template(
    'checked(math.pow, {a}, {b})', 'power_slope({a}, {b})', 'exponent_slope({a}, {out})'
)
RULES['neg'] = template('-{a}', '-1.0')
RULES['abs'] = template('abs({a})', 'sign({a})')
RULES['exp'] = template('checked(math.exp, {a})', '{out}')
RULES['log'] = template('checked(math.log, {a})', '1.0 / {a}')
RULES['tanh'] = template('math.tanh({a})', '1.0 - {out} * {out}')
RULES['sigmoid'] = template('logistic({a})', '{out} * (1.0 - {out})')
RULES['relu'] = template('0.0 if {a} <= 0.0 else {a}', '0.0 if {a} <= 0.0 else 1.0')


def dot_rule(out: str, *parents: str) -> tuple[list[str], list[str]]:
    """bias + w0 * x0 + w1 * x1 + ..., for the parents w0, w1, ..., x0, x1, ..., bias."""
    n = len(parents) // 2
    weights = parents[:n]
    inputs = parents[n:-1]
    terms = [f'{w} * {x}' for w, x in zip(weights, inputs, strict=True)]

    # 64 terms per line: Python's compiler is recursive and cannot take a sum of thousands
    lines = []
    total = parents[-1]
    for start in range(0, max(n, 1), 64):
        chunk = terms[start : start + 64]
        lines.append(f'{out} = ' + ' + '.join([total, *chunk]))
        total = out
    return lines, [*inputs, *weights, '1.0']


def logsumexp_rule(out: str, *parents: str) -> tuple[list[str], list[str]]:
    """The logarithm of a sum of exponentials, with the softmax as slopes."""
    logits = ', '.join(parents)
    lines = [f'{out} = plain_logsumexp([{logits}])', f'{out}_probs = plain_softmax([{logits}])']
    return lines, [f'{out}_probs[{i}]' for i in range(len(parents))]


def softmax_rule(out: str, *parents: str) -> tuple[list[str], list[str]]:
    """The probability of the first parent among all."""
    logits = ', '.join(parents)
    lines = [f'{out}_probs = plain_softmax([{logits}])', f'{out} = {out}_probs[0]']
    slopes = [f'-{out} * {out}_probs[{i}]' for i in range(len(parents))]
    slopes[0] = f'{out} * (1.0 - {out})'
    return lines, slopes


RULES['dot'] = dot_rule
RULES['logsumexp'] = logsumexp_rule
RULES['softmax'] = softmax_rule

# what the texts of the rules can refer to
NAMESPACE = {
    'math': math,
    'truediv': truediv,
    'checked': checked,
    'sign': sign,
    'logistic': logistic,
    'power_slope': power_slope,
    'exponent_slope': exponent_slope,
    'plain_softmax': plain_softmax,
    'plain_logsumexp': plain_logsumexp,
}

# -----------------------------------------------------------------------------
# recording


def record(program: Callable, inputs: Sequence[Value]) -> tuple[tuple[Value, ...], list[str]]:
    """What the program returns, and the lines at which it looked at the number in a Value."""
    places: list[str] = []
    look_listeners.append(places)
    try:
        result = program(*inputs)
    finally:
        look_listeners.pop()
    outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    return outputs, list(dict.fromkeys(places))


# -----------------------------------------------------------------------------
# the table of nodes


class Step(NamedTuple):
    """One operation, with names in place of the nodes."""

    out: str
    op: str
    parents: list[str]


class Table(NamedTuple):
    """A recorded program. Parameters are p0, p1, ..., inputs x0, ..., and constants c0, ..."""

    params: list[str]
    inputs: list[str]
    outputs: list[str]
    steps: list[Step]
    constants: list[float]


def build_table(
    params: Sequence[Value], inputs: Sequence[Value], outputs: tuple[Value, ...]
) -> Table:
    """Give every node a name and list the operations, each after those it depends on."""
    param_names = [f'p{i}' for i in range(len(params))]
    input_names = [f'x{i}' for i in range(len(inputs))]
    variables = dict(zip([*params, *inputs], param_names + input_names, strict=True))
    constants: dict[Value, str] = {}

    def name_of(node: Value) -> str:
        if node in variables:
            return variables[node]
        if node not in constants:
            constants[node] = f'c{len(constants)}'
        return constants[node]

    # a node on top of all outputs, so that they are sorted together
    top = Value(0.0, outputs)
    steps = []
    for node in topological_sort(top)[:-1]:
        # what is computed from constants only is a constant itself
        if not any(parent in variables for parent in node.parents):
            continue
        out = f'v{len(steps)}'
        steps.append(Step(out, node.op, [name_of(parent) for parent in node.parents]))
        variables[node] = out

    if outputs[0] not in variables:
        raise ValueError('the loss depends on none of the parameters and inputs')
    output_names = [name_of(node) for node in outputs]
    numbers = [node.data for node in constants]
    return Table(param_names, input_names, output_names, steps, numbers)


# -----------------------------------------------------------------------------
# writing the code
#
# The gradient of v0 is called dv0. Constants have none.


def emit_source(table: Table) -> str:
    """The program as the text of a function run(parameters, rows, scale)."""
    constants = [f'c{i}' for i in range(len(table.constants))]
    param_grads = [f'd{name}' for name in table.params]
    input_grads = [f'd{name}' for name in table.inputs]
    output = emit_tuple(table.outputs) if len(table.outputs) > 1 else table.outputs[0]

    body = emit_forward(table) + emit_backward(table)
    body.append(f'outputs.append({output})')
    body.append(f'input_grads.append({emit_tuple(input_grads)})')

    lines = [
        'def run(parameters, rows, scale):',
        f'    {emit_tuple(table.params)} = parameters',
        f'    {emit_tuple(constants)} = constants',
        f'    {emit_tuple(param_grads)} = [0.0] * {len(param_grads)}',
        '    outputs = []',
        '    input_grads = []',
        f'    for {emit_tuple(table.inputs)} in rows:',
    ]
    lines += [f'        {line}' for line in body]
    lines.append(f'    return outputs, {emit_tuple(param_grads)}, input_grads')
    return '\n'.join(lines) + '\n'


def emit_tuple(names: Sequence[str]) -> str:
    """['a', 'b'] -> '(a, b,)': a tuple, also if it has one element or none."""
    if not names:
        return '()'
    return f'({", ".join(names)},)'


def emit_forward(table: Table) -> list[str]:
    """The lines that compute the result of every step."""
    lines = []
    for step in table.steps:
        computation, _ = apply_rule(step)
        lines += computation
    return lines


def emit_backward(table: Table) -> list[str]:
    """The lines that compute the gradients, from the last step to the first."""
    # the gradients of the parameters are not reset, because they are summed over the rows
    names = table.inputs + [step.out for step in table.steps]
    lines = [f'd{name} = 0.0' for name in names]
    lines.append(f'd{table.outputs[0]} += scale')
    for step in reversed(table.steps):
        lines += emit_chain_rule(step)
    return lines


def emit_chain_rule(step: Step) -> list[str]:
    """The lines for one step of the backward pass, the same as Value._backward."""
    _, slopes = apply_rule(step)
    grad = f'd{step.out}'
    lines = [f'if {grad}:']
    for parent, slope in zip(step.parents, slopes, strict=True):
        if parent.startswith('c'):
            continue  # a constant
        if slope == '1.0':
            change = grad
        elif slope.isidentifier():
            change = f'{slope} * {grad}'
        else:
            change = f'({slope}) * {grad}'
        lines.append(f'    d{parent} += {change}')
    return lines


def apply_rule(step: Step) -> tuple[list[str], list[str]]:
    """The lines that compute a step, and an expression for each of its slopes."""
    if step.op not in RULES:
        raise ValueError(f'no rule for {step.op!r}: add one to RULES in micrograd/trace.py')
    return RULES[step.op](step.out, *step.parents)


# -----------------------------------------------------------------------------
# the compiled trace


def compile_source(source: str, constants: list[float]) -> Callable:
    """The function run() that the source defines."""
    # exec is safe here: the text consists of the rules above and names such as v0, p0 and c0.
    # All numbers come in as data, and nothing a program or a user wrote is part of it.
    namespace = {**NAMESPACE, 'constants': constants}
    exec(compile(source, '<trace>', 'exec'), namespace)
    return namespace['run']


class CompiledTrace:
    """A recorded program as a function of rows of numbers. Made by trace().

    source       the generated code
    run          that code as a function of plain numbers: run(parameters, rows, scale) returns
                 the outputs, the gradients of the parameters, and those of the inputs
    constants    the numbers that are neither parameters nor inputs
    looks        the lines at which the program looked at the number in a Value
    input_grads  gradients with respect to the inputs in the latest call, a tuple per row
    """

    def __init__(self, params: list[Value], table: Table, looks: list[str]):
        self.params = params
        self.n_inputs = len(table.inputs)
        self.constants = table.constants
        self.looks = looks
        self.source = emit_source(table)
        self.run = compile_source(self.source, table.constants)
        self.input_grads: list[tuple[float, ...]] = []

    def __call__(self, rows: Iterable[Sequence[float]], scale: float = 1.0) -> list:
        """The loss of each row. Adds the gradient of scale * sum(losses) to the parameters."""
        rows = [[to_float(x) for x in row] for row in rows]
        for i, row in enumerate(rows):
            if len(row) != self.n_inputs:
                raise ValueError(f'a row needs {self.n_inputs} numbers, row {i} has {len(row)}')
        parameters = [p.data for p in self.params]
        outputs, grads, self.input_grads = self.run(parameters, rows, to_float(scale))
        for p, grad in zip(self.params, grads, strict=True):
            p.grad += grad
        return outputs

    def __repr__(self) -> str:
        values = repr(sorted(set(self.constants)))
        return (
            f'CompiledTrace({len(self.params)} parameters, {self.n_inputs} inputs, '
            f'{len(self.constants)} constants {values:.60}, {len(self.looks)} looks {self.looks})'
        )


def trace(
    program: Callable, params: Iterable[Value], example: Sequence[float] = ()
) -> CompiledTrace:
    """Record program(*example) and compile it, so that it can be called with rows of numbers.

        w = Value(3.0)
        f = trace(lambda x: w * x, [w], [0.5])
        f([[1.0], [2.0]])  # [3.0, 6.0], and w.grad is 3.0

    The numbers of the example matter only if the program looks at them.
    """
    params = list(dict.fromkeys(params))
    inputs = [Value(x) for x in example]
    outputs, looks = record(program, inputs)

    if not all(isinstance(node, Value) for node in (*params, *outputs)):
        raise TypeError('the parameters and the results of a traced program must be Values')
    if any(p.parents for p in params):
        raise TypeError('a parameter must be a leaf, not made by an operation')
    for place in looks:
        warnings.warn(f'the trace cannot follow a look at a number, {place}', stacklevel=2)
    return CompiledTrace(params, build_table(params, inputs, outputs), looks)
