"""Neural nets out of Values: a Neuron is one dot, a Layer is Neurons side by side, an MLP is Layers in a row.

    model = MLP(3, [4, 4, 1], act='tanh')   # 3 inputs, two hidden layers of 4, one output: 41 parameters
    score = model([2.0, 3.0, -1.0])         # a Value; a list of Values where the last layer has several neurons
"""
import random
from .engine import Value, as_value, dot, number
from .losses import cross_entropy, max_margin, mse, nll, softmax  # noqa: F401 (to be found here, as in torch.nn)
from .optim import SGD, Adam  # noqa: F401

class Module:
    """Whatever has parameters. A subclass says which: parameters() lists them, always in the same order."""
    def zero_grad(self):
        for p in self.parameters():
            p.grad = 0.0  # backward() adds to what is there: forget this call and the steps add up
    def state(self):
        """The model as json.dump takes it, to the last bit."""
        return {'model': repr(self), 'parameters': [p.data for p in self.parameters()]}
    def load(self, state):
        """Take back what state() gave. Nothing changes unless all of it fits."""
        if state.get('model') != repr(self):
            raise ValueError(f"a state of {state.get('model')!r:.200} does not fit {self!r:.200}")
        for p, x in list(zip(self.parameters(), map(number, state['parameters']), strict=True)):
            p.data = x

class Neuron(Module):
    """Inputs times weights, plus a bias, through a bend. Without the bend (act=None) layers would melt into one."""
    names = {'relu': 'ReLU', 'tanh': 'Tanh', 'sigmoid': 'Sigmoid', None: 'Linear'}
    def __init__(self, nin, act='relu'):
        if act not in self.names:
            raise ValueError(f"act must be one of {', '.join(map(repr, self.names))}, not {act!r}")
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0.0)
        self.act = act
    def __call__(self, x):
        out = dot(self.w, x, self.b)  # the lecture's sum of products, as one node
        return getattr(out, self.act)() if self.act else out
    def parameters(self): return self.w + [self.b]
    def __repr__(self): return f"{self.names[self.act]}Neuron({len(self.w)})"

class Layer(Module):
    def __init__(self, nin, nout, act='relu'):
        self.neurons = [Neuron(nin, act) for _ in range(nout)]
    def __call__(self, x):
        x = [as_value(v) for v in x]  # once, so that the neurons share the inputs' nodes
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out
    def parameters(self): return [p for n in self.neurons for p in n.parameters()]
    def __repr__(self): return f"Layer of [{', '.join(map(str, self.neurons))}]"

class MLP(Module):
    """The last layer has no bend unless `out` names one: a score must be free to go anywhere."""
    def __init__(self, nin, nouts, act='relu', out=None):
        sizes, acts = [nin, *nouts], [act] * (len(nouts) - 1) + [out]
        self.layers = [Layer(*sizes[i:i+2], acts[i]) for i in range(len(nouts))]
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
    def parameters(self): return [p for layer in self.layers for p in layer.parameters()]
    def __repr__(self): return f"MLP of [{', '.join(map(str, self.layers))}]"
