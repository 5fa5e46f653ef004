"""
Neural nets made of Values: neurons, layers of neurons, and a multi-layer perceptron.

    from micrograd import MLP

    model = MLP(3, [4, 4, 1], act='tanh')  # 3 inputs, two hidden layers of 4, 1 output
    len(model.parameters())                # 41
    score = model([2.0, 3.0, -1.0])        # a Value; a list of Values if there are more outputs
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .engine import Value, as_value, dot, to_float

ACTIVATIONS = {'relu': Value.relu, 'tanh': Value.tanh, 'sigmoid': Value.sigmoid}
# what repr() calls a neuron, as in torch.nn
DISPLAY_NAMES = {'relu': 'ReLU', 'tanh': 'Tanh', 'sigmoid': 'Sigmoid', None: 'Linear'}


class Module:
    """Anything with parameters."""

    def parameters(self) -> list[Value]:
        """The parameters, always in the same order."""
        return []

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to 0. backward() adds to what is there."""
        for p in self.parameters():
            p.grad = 0.0

    def state(self) -> dict:
        """The architecture and the parameters, for json.dump. JSON keeps every bit of a float."""
        return {'model': repr(self), 'parameters': [p.data for p in self.parameters()]}

    def load(self, state: dict) -> None:
        """Set the parameters to those of a state(). If it does not fit, nothing is changed."""
        if state.get('model') != repr(self):
            saved = repr(state.get('model'))
            raise ValueError(f'a state of {saved:.200} does not fit {self!r:.200}')
        parameters = self.parameters()
        numbers = [to_float(x) for x in state['parameters']]
        if len(numbers) != len(parameters):
            raise ValueError(f'{len(numbers)} numbers do not fit {len(parameters)} parameters')
        for p, x in zip(parameters, numbers, strict=True):
            p.data = x


class Neuron(Module):
    """act(w . x + b): inputs times weights, plus a bias, through an activation function.

    The activation is 'relu', 'tanh', 'sigmoid' or None. Without an activation,
    several layers in a row would compute no more than a single layer can.
    """

    def __init__(self, nin: int, act: str | None = 'relu'):
        if act not in DISPLAY_NAMES:
            known = ', '.join(map(repr, DISPLAY_NAMES))
            raise ValueError(f'act must be one of {known}, not {act!r}')
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0.0)
        self.act = act

    def __call__(self, x: Sequence[Value | float]) -> Value:
        out = dot(self.w, x, self.b)
        if self.act is None:
            return out
        return ACTIVATIONS[self.act](out)

    def parameters(self) -> list[Value]:
        """The weights, then the bias."""
        return [*self.w, self.b]

    def __repr__(self) -> str:
        return f'{DISPLAY_NAMES[self.act]}Neuron({len(self.w)})'


class Layer(Module):
    """Several neurons with the same inputs. A layer of one neuron returns a Value, not a list."""

    def __init__(self, nin: int, nout: int, act: str | None = 'relu'):
        self.neurons = [Neuron(nin, act) for _ in range(nout)]

    def __call__(self, x: Sequence[Value | float]) -> Value | list[Value]:
        # convert the inputs here, so that the neurons share their nodes
        x = [as_value(xi) for xi in x]
        out = [neuron(x) for neuron in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self) -> list[Value]:
        """The parameters of the first neuron, then those of the second, and so on."""
        return [p for neuron in self.neurons for p in neuron.parameters()]

    def __repr__(self) -> str:
        return f'Layer of [{", ".join(map(repr, self.neurons))}]'


class MLP(Module):
    """Multi-layer perceptron: layers in a row, with nouts[i] neurons in layer i.

    The last layer has its own activation, `out`. By default it has none, because a score should be
    able to take any value.
    """

    def __init__(
        self, nin: int, nouts: Sequence[int], act: str | None = 'relu', out: str | None = None
    ):
        self.layers = []
        for i, nout in enumerate(nouts):
            last = i == len(nouts) - 1
            self.layers.append(Layer(nin, nout, out if last else act))
            nin = nout

    def __call__(self, x: Sequence[Value | float]) -> Value | list[Value]:
        for layer in self.layers:
            # a layer takes a list, also after a layer of one neuron
            x = layer([x] if isinstance(x, Value) else x)
        return x

    def parameters(self) -> list[Value]:
        """The parameters of the first layer, then those of the second, and so on."""
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self) -> str:
        return f'MLP of [{", ".join(map(repr, self.layers))}]'
