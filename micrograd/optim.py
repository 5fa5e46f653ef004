"""
Optimizers: SGD with momentum, and Adam. They take the same steps as those of torch.optim,
Adam up to rounding.

    from micrograd import MLP, SGD, mse

    model = MLP(2, [4, 1])
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        loss = mse([model([0.5, -1.0])], [1.0])
        model.zero_grad()
        loss.backward()
        optimizer.step()

For a learning-rate schedule, set optimizer.lr before each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .engine import Value


class SGD:
    """Stochastic gradient descent. Momentum keeps a part of the previous step."""

    def __init__(self, parameters: Iterable[Value], lr: float = 0.1, momentum: float = 0.0):
        self.parameters = list(parameters)
        self.lr = lr
        self.momentum = momentum
        self.velocity = [0.0] * len(self.parameters)

    def step(self) -> None:
        """Move every parameter against its gradient."""
        for i, p in enumerate(self.parameters):
            self.velocity[i] = self.momentum * self.velocity[i] + p.grad
            p.data -= self.lr * self.velocity[i]


class Adam:
    """Adam: the running mean of the gradient over the root of the running mean of its square.

    The division makes every parameter move by about lr per step, however large its gradient is.
    """

    def __init__(
        self,
        parameters: Iterable[Value],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.parameters = list(parameters)
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.t = 0  # number of steps so far
        self.mean = [0.0] * len(self.parameters)  # running mean of the gradient
        self.square = [0.0] * len(self.parameters)  # running mean of its square

    def step(self) -> None:
        """Move every parameter against its mean gradient."""
        self.t += 1
        beta1, beta2 = self.betas
        # the running means start from 0 and are too small at first
        correction1 = 1 - beta1**self.t
        correction2 = 1 - beta2**self.t
        for i, p in enumerate(self.parameters):
            self.mean[i] = beta1 * self.mean[i] + (1 - beta1) * p.grad
            self.square[i] = beta2 * self.square[i] + (1 - beta2) * p.grad * p.grad
            mean = self.mean[i] / correction1
            root = math.sqrt(self.square[i] / correction2)
            p.data -= self.lr * mean / (root + self.eps)
