"""
Gradients by hand, gradients by micrograd, and their comparison with autograd.

    python makemore.py --type mlp --check-backprop             compare the two ways
    python makemore.py --type bn-mlp --backprop manual         train with gradients by hand
    python makemore.py --type mlp --n-hidden 20 -b 4 --backprop micrograd --max-steps 20

A layer is recognized by the name of its class. To differentiate a layer of your own, add a rule
for it to RULES.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

METHODS = {'manual': ('mlp', 'bn-mlp', 'wavenet'), 'micrograd': ('mlp', 'bigram')}

# -----------------------------------------------------------------------------
# by hand: a rule for each kind of layer
#
# A rule gets the layer, its input x, its output and d, the gradient of the loss with respect to
# the output. It stores the gradients of the layer's parameters and returns that of x.


def linear_rule(layer, x, out, d):
    """out = x @ W.T + b. The shapes leave no choice: only one product of two of them fits."""
    flat_d = d.flatten(0, -2)  # (N, out)
    layer.weight.grad = flat_d.T @ x.flatten(0, -2)  # (out, in)
    if layer.bias is not None:
        layer.bias.grad = flat_d.sum(0)  # the bias was added to every row
    return d @ layer.weight


def batch_norm_rule(layer, x, out, d, correction=0):
    """Mean, variance and normalization in one formula.

    Every x moves the mean and the variance, and with them all other rows: these are the two
    terms that are subtracted. With correction=1 the variance was divided by n - 1.
    """
    dims = tuple(range(x.ndim - 1))
    n = x.numel() // x.size(-1)
    scale = (x.var(dims, correction=correction) + layer.eps).rsqrt()
    normed = (x - x.mean(dims)) * scale
    layer.weight.grad = (d * normed).sum(dims)
    layer.bias.grad = d.sum(dims)
    through_mean = layer.bias.grad
    through_var = n / (n - correction) * normed * layer.weight.grad
    return layer.weight * scale / n * (n * d - through_mean - through_var)


def embedding_rule(layer, x, out, d):
    """A row that was looked up several times gets the sum of the gradients."""
    grad = torch.zeros_like(layer.weight)
    layer.weight.grad = grad.index_add_(0, x.flatten(), d.flatten(0, -2))


def tanh_rule(layer, x, out, d):
    """The derivative of tanh is 1 - tanh**2."""
    return d * (1 - out * out)


def dropout_rule(layer, x, out, d):
    """What was dropped has no gradient; what was kept was scaled by 1 / (1 - p)."""
    if layer.p == 0 or not layer.training:
        return d
    return d * (out != 0) / (1 - layer.p)


def reshape_rule(layer, x, out, d):
    """The same numbers in another shape."""
    return d.reshape(x.shape)


RULES = {
    'Linear': linear_rule,
    'BatchNorm1d': batch_norm_rule,
    'Embedding': embedding_rule,
    'Tanh': tanh_rule,
    'Dropout': dropout_rule,
    'Flatten': reshape_rule,
    'FlattenConsecutive': reshape_rule,
}


@torch.no_grad()
def backward_layers(
    layers: nn.Sequential, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0
) -> torch.Tensor:
    """The loss of a stack of layers; its gradients, times the weight, are left in the parameters.

    Softmax and cross-entropy together have a simple gradient: the probabilities, minus 1 at the
    right answer. It pulls the right token up and pushes all others down.
    """
    values = [x]
    for layer in layers:
        values.append(layer(values[-1]))
    logits = values[-1]

    answers = F.one_hot(y, logits.size(-1))
    d = (logits.softmax(-1) - answers) * (weight / len(y))
    for number in reversed(range(len(layers))):
        rule = RULES[type(layers[number]).__name__]
        d = rule(layers[number], values[number], values[number + 1], d)
    return F.cross_entropy(logits, y)


def manual_backward(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0
) -> torch.Tensor:
    """The loss of a window model, with its gradients by hand."""
    model = unwrap(model)
    real = y >= 0
    return backward_layers(model.net, model.windows(x)[real], y[real], weight)


def unwrap(net: nn.Module) -> nn.Module:
    """The model itself, where it is wrapped to train faster."""
    return getattr(net, 'model', net)


# -----------------------------------------------------------------------------
# by micrograd: number by number


class MicrogradLoss:
    """The loss of bigram and mlp, recorded once by micrograd and replayed for every row.

    Looking up a row of the embedding is no arithmetic, so the table stays outside: its gradient
    is that of the inputs. The table of a bigram holds the logits themselves.
    """

    def __init__(self, model: nn.Module):
        import micrograd

        if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
            raise ValueError('micrograd has no dropout: add --dropout 0')
        self.table = next(m for m in model.modules() if isinstance(m, nn.Embedding))
        self.linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self.n_inputs = self.table.embedding_dim
        self.net = None
        self.scalars = []
        if self.linears:
            self.n_inputs = self.linears[0].in_features
            sizes = [linear.out_features for linear in self.linears]
            self.net = micrograd.MLP(self.n_inputs, sizes, act='tanh')
            self.scalars = self.net.parameters()

        def row_loss(*row):
            """The inputs of one example, followed by its one-hot answer."""
            inputs = row[: self.n_inputs]
            logits = self.net(inputs) if self.net else inputs
            return micrograd.cross_entropy(logits, row[self.n_inputs :])

        answer = [1.0] + [0.0] * (self.table.num_embeddings - 1)
        example = [0.1] * self.n_inputs + answer
        self.traced = micrograd.trace(row_loss, self.scalars, example)

    @torch.no_grad()
    def backward(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0
    ) -> torch.Tensor:
        """The loss of a batch; its gradients, times the weight, are left in the parameters."""
        real = y >= 0
        idx = unwrap(model).windows(x)[real] if self.linears else x[real][:, None]
        inputs = self.table(idx).flatten(1)
        answers = F.one_hot(y[real], self.table.num_embeddings)
        rows = torch.cat([inputs, answers], dim=1).tolist()

        self.copy_weights()
        losses = self.traced(rows, scale=weight / len(rows))
        self.copy_gradients()
        input_grads = torch.tensor(self.traced.input_grads)[:, : self.n_inputs]
        embedding_rule(self.table, idx, None, input_grads.view(*idx.shape, -1))
        return torch.tensor(losses).mean()

    def copy_weights(self):
        """Torch's weights into micrograd's values: of each neuron its weights, then its bias."""
        numbers = []
        for linear in self.linears:
            neurons = torch.cat([linear.weight, linear.bias[:, None]], dim=1)
            numbers += neurons.flatten().tolist()
        for scalar, number in zip(self.scalars, numbers, strict=True):
            scalar.data = number
            scalar.grad = 0.0

    def copy_gradients(self):
        """Micrograd's gradients into torch's parameters."""
        grads = torch.tensor([scalar.grad for scalar in self.scalars])
        sizes = [linear.out_features * (linear.in_features + 1) for linear in self.linears]
        for linear, part in zip(self.linears, grads.split(sizes), strict=True):
            neurons = part.view(linear.out_features, -1)
            linear.weight.grad = neurons[:, :-1].contiguous()
            linear.bias.grad = neurons[:, -1].contiguous()


# -----------------------------------------------------------------------------
# choosing and comparing


def default_method(model_type: str) -> str:
    """The first method that can differentiate a type of model."""
    for method, types in METHODS.items():
        if model_type in types:
            return method
    return 'manual'


def make_backward(method: str, model_type: str, model: nn.Module) -> Callable:
    """A function (model, x, y, weight) that returns the loss and leaves gradients in p.grad."""
    if model_type not in METHODS[method]:
        types = ', '.join(METHODS[method])
        raise ValueError(f'available for {types}, not for {model_type}')
    if method == 'manual':
        return manual_backward
    return MicrogradLoss(model).backward


class Comparison(NamedTuple):
    """A line for each parameter, whether all are about the same, and what that means."""

    lines: list[str]
    all_close: bool
    explanation: str


def compare_gradients(
    model: nn.Module, one: Callable, other: Callable, x: torch.Tensor, y: torch.Tensor
) -> Comparison:
    """Compare two ways to compute the gradients, parameter by parameter."""
    gradients = []
    for backward in (one, other):
        torch.manual_seed(0)  # both drop the same activations
        backward(model, x, y)
        gradients.append([p.grad for p in model.parameters()])
        model.zero_grad(set_to_none=True)

    lines = []
    wrong = []
    all_exact = True
    for (name, _), a, b in zip(model.named_parameters(), *gradients, strict=True):
        exact = torch.equal(a, b)
        close = torch.allclose(a, b, rtol=1e-4, atol=1e-7)
        maxdiff = (a - b).abs().max().item()
        lines.append(
            f'{name:20} | exact: {exact!s:5} | approximate: {close!s:5} | maxdiff: {maxdiff:.3g}'
        )
        all_exact = all_exact and exact
        if not close:
            wrong.append(name)
    return Comparison(lines, not wrong, explain_comparison(all_exact, wrong))


def explain_comparison(all_exact: bool, wrong: list[str]) -> str:
    """What the comparison says about the gradients; `wrong` are the names of those too far off."""
    if wrong:
        # gradients flow from the last layer to the first, and take a mistake along
        return (
            f'{wrong[-1]} is the wrong one nearest to the loss: look for the mistake in its rule, '
            'or in that of a layer between it and the loss'
        )
    if all_exact:
        return 'all gradients are equal, bit for bit'
    return (
        'all gradients are right. Approximate is as good as exact: both ways compute the same '
        'sums, but in another order, and float32 keeps about 7 digits of every result on the way'
    )
