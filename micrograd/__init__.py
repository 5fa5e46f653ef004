"""A scalar autograd engine, and neural nets on it, in pure Python. Read engine.py first; run `python -m micrograd`."""
from .check import gradcheck
from .draw import draw_dot
from .engine import Value, dot
from .losses import cross_entropy, logsumexp, max_margin, mse, nll, softmax
from .nn import MLP, Layer, Module, Neuron
from .optim import SGD, Adam
from .trace import trace
