"""
A scalar autograd engine and small neural nets on top of it, in pure Python.

    python -m micrograd            # train a net on the lecture's two moons
    python -m micrograd --help

    from micrograd import Value
    a = Value(3.0)
    (a * a).backward()
    a.grad                         # 6.0

Read engine.py first, then nn.py, losses.py and optim.py: that is all a neural net needs. The other
files are extras: trace.py compiles a program to fast code, draw.py draws its graph with the help
of layout.py and svg.py, check.py tests gradients, and __main__.py, data.py and boundary.py are the
demo.
"""

from .check import gradcheck
from .draw import draw_dot
from .engine import Value, dot
from .losses import cross_entropy, logsumexp, max_margin, mse, nll, softmax
from .nn import MLP, Layer, Module, Neuron
from .optim import SGD, Adam
from .trace import trace

__all__ = [
    'MLP',
    'SGD',
    'Adam',
    'Layer',
    'Module',
    'Neuron',
    'Value',
    'cross_entropy',
    'dot',
    'draw_dot',
    'gradcheck',
    'logsumexp',
    'max_margin',
    'mse',
    'nll',
    'softmax',
    'trace',
]
