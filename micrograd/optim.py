"""What to do with the gradients. Set .lr between steps for a schedule; zero_grad() the model before each backward."""
import math

class SGD:
    """Downhill. With momentum the steps remember where they were going."""
    def __init__(self, parameters, lr=0.1, momentum=0.0):
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.speed = [0.0] * len(self.parameters)
    def step(self):
        for i, p in enumerate(self.parameters):
            self.speed[i] = self.momentum * self.speed[i] + p.grad
            p.data -= self.lr * self.speed[i]

class Adam:
    """Downhill in steps of about lr for every parameter: its mean gradient over its usual size."""
    def __init__(self, parameters, lr=0.001, betas=(0.9, 0.999), eps=1e-8):
        self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
        self.t, self.mean, self.square = 0, [0.0] * len(self.parameters), [0.0] * len(self.parameters)
    def step(self):
        self.t += 1
        b1, b2 = self.betas
        for i, p in enumerate(self.parameters):
            self.mean[i] = b1 * self.mean[i] + (1 - b1) * p.grad
            self.square[i] = b2 * self.square[i] + (1 - b2) * p.grad * p.grad
            mean, square = self.mean[i] / (1 - b1**self.t), self.square[i] / (1 - b2**self.t)  # both began at 0
            p.data -= self.lr * mean / (math.sqrt(square) + self.eps)
