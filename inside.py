"""
Looking inside a net while it learns: its gradient found without autograd, what its neurons do, which rate it can take.

    python makemore.py --type mlp --check-backprop               is the gradient by hand the one of autograd?
    python makemore.py --type bn-mlp --backprop manual           train with it
    python makemore.py --type mlp --n-hidden 20 -b 4 --backprop micrograd --max-steps 20      number by number
    python makemore.py --type gru --find-lr                      which --learning-rate?
    python makemore.py --type bn-mlp --diagnose 1000             activations, gradients and updates, every 1,000 steps

makemore.py asks for this file where one of these options does, and for what TensorBoard shows of a finished model.
Whoever copies makemore.py alone can do without. A layer is known by the name of its class, so that one's own need no
more than a rule in BACK.
"""
import contextlib
import sys
import threading

import torch
import torch.nn as nn
import torch.nn.functional as F

import makemore
from makemore import UserError, say

# ----------------------------------------------------------------------------------------------------------------------
# The gradient by hand: a rule for each kind of layer, from d, the gradient of what comes out, to that of what went in

def back_linear(m, x, out, d):
    """out = x W' + b. The shapes leave no choice: (N, in), (N, out) and (out, in) go together in one way only."""
    m.weight.grad = d.flatten(0, -2).T @ x.flatten(0, -2)
    if m.bias is not None:
        m.bias.grad = d.flatten(0, -2).sum(0)      # what was spread over the rows comes back as their sum
    return d @ m.weight

def back_norm(m, x, out, d, lost=0):
    """Mean, variance and normalization at once: a page of algebra, of which this line is left.

    Every x moves the mean and the variance, and with them every other row: these are the two terms that are taken off.
    lost is 1 for a norm that divides the variance by n - 1.
    """
    dims, n = tuple(range(x.ndim - 1)), x.numel() // x.size(-1)
    scale = (x.var(dims, correction=lost) + m.eps).rsqrt()
    normed = (x - x.mean(dims)) * scale
    m.weight.grad, m.bias.grad = (d * normed).sum(dims), d.sum(dims)
    return m.weight * scale / n * (n * d - m.bias.grad - n / (n - lost) * normed * m.weight.grad)

def back_embedding(m, x, out, d):
    """A row that was looked up in several places gets the sum of their gradients. Nothing lies before it."""
    m.weight.grad = torch.zeros_like(m.weight).index_add_(0, x.flatten(), d.flatten(0, -2))

BACK = dict(
    Linear=back_linear,
    BatchNorm1d=back_norm,
    Embedding=back_embedding,
    Tanh=lambda m, x, out, d: d * (1 - out * out),
    Dropout=lambda m, x, out, d: d * (out != 0) / (1 - m.p) if m.p and m.training else d,
    Flatten=lambda m, x, out, d: d.reshape(x.shape),      # the same numbers in another order
    FlattenConsecutive=lambda m, x, out, d: d.reshape(x.shape),
)

@torch.no_grad()
def through(net, x, y, share=1.0):
    """The loss of a stack of layers, whose inputs and outputs are remembered on the way there and used on the way back.

    Softmax and cross-entropy together have the simplest rule of all: the probabilities, less 1 where the answer is. So
    the right letter is pulled up and all others are pushed down, as much as the net believes in them.
    """
    outs = [x]
    for layer in net:
        outs.append(layer(outs[-1]))
    d = (outs[-1].softmax(-1) - F.one_hot(y, outs[-1].size(-1))) * (share / len(y))
    for layer, before, after in zip(reversed(net), outs[-2::-1], outs[:0:-1]):
        d = BACK[type(layer).__name__](layer, before, after, d)
    return F.cross_entropy(outs[-1], y)

def by_hand(model, x, y, share=1.0):
    """All windows that have a target, through self.net and back."""
    return through(model.net, model.windows(x)[y >= 0], y[y >= 0], share)

# ----------------------------------------------------------------------------------------------------------------------
# The gradient number by number: micrograd records the loss of one window, and replays it for all of them

class ByMicrograd:
    """bigram and mlp. The embedding is a table, and to look up a row is no arithmetic: it stays outside, and its
    gradient is that of the inputs. The bigram's table holds the logits themselves, so there it is all there is."""
    def __init__(self, model):
        import micrograd
        if any(m.p for m in model.modules() if isinstance(m, nn.Dropout)):
            raise UserError('--backprop micrograd knows no dropout: add --dropout 0')
        self.table, *self.linears = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.Linear))]
        n = self.linears[0].in_features if self.linears else self.table.embedding_dim
        net = micrograd.MLP(n, [m.out_features for m in self.linears], act='tanh') if self.linears else None
        self.n, self.scalars = n, net.parameters() if net else []
        def loss(*row):      # n numbers go in; behind them the answer, one-hot
            return micrograd.cross_entropy(net(row[:n]) if net else row[:n], row[n:])
        self.traced = micrograd.trace(loss, self.scalars, [0.1] * n + [1.0] + [0.0] * (self.table.num_embeddings - 1))

    @torch.no_grad()
    def __call__(self, model, x, y, share=1.0):
        real = y >= 0
        idx = model.windows(x)[real] if self.linears else x[real][:, None]
        rows = torch.cat([self.table(idx).flatten(1), F.one_hot(y[real], self.table.num_embeddings)], 1).tolist()
        neurons = [torch.cat([m.weight, m.bias[:, None]], 1) for m in self.linears]      # of each its weights, its bias
        for scalar, number in zip(self.scalars, [v for layer in neurons for v in layer.flatten().tolist()]):
            scalar.data, scalar.grad = number, 0.0
        losses, grads = self.traced(rows, scale=share / len(rows)), iter([p.grad for p in self.scalars])
        for m in self.linears:
            both = torch.tensor([next(grads) for _ in range(m.out_features * (m.in_features + 1))])
            both = both.view(m.out_features, -1)
            m.weight.grad, m.bias.grad = both[:, :-1].contiguous(), both[:, -1].contiguous()
        back_embedding(self.table, idx, None, torch.tensor(self.traced.input_grads)[:, :self.n].view(*idx.shape, -1))
        return torch.tensor(losses).mean()

# ----------------------------------------------------------------------------------------------------------------------
# Which way, and is it right?
CAN = dict(manual=('mlp', 'bn-mlp', 'wavenet'), micrograd=('mlp', 'bigram'))

def backprop(run):
    """A function of (model, x, y, share) that returns the loss and leaves the gradients in p.grad, as autograd does."""
    way, kind = run.cfg.backprop, run.cfg.type
    if way == 'autograd':      # nobody said which: the first that can
        way = next((way for way in CAN if kind in CAN[way]), 'manual')
    if kind not in CAN[way]:
        raise UserError(f'--backprop {way} is there for {", ".join(CAN[way])}, not for {kind}')
    if makemore.world() > 1:
        raise UserError('between processes only autograd shares its gradients: leave --backprop out')
    return by_hand if way == 'manual' else ByMicrograd(run.model)

def compare(model, ways, x, y):
    """The lecture's cmp for every parameter: is the gradient exact, is it about right, how far is it off?"""
    found = []
    for way in ways:
        torch.manual_seed(0)      # the same activations are dropped
        way(model, x, y)
        found.append([p.grad for p in model.parameters()])
        model.zero_grad()
    good = True
    for (name, _), a, b in zip(model.named_parameters(), *found):
        exact, close = torch.equal(a, b), torch.allclose(a, b, rtol=1e-4, atol=1e-7)
        say(f'{name:20} | exact: {exact!s:5} | approximate: {close!s:5} | maxdiff: {(a - b).abs().max():.3g}',
            sys.stdout)
        good = good and close
    return good

# ----------------------------------------------------------------------------------------------------------------------
# Which rate?

def plot(xs, ys, wide=64, high=12):
    """A curve as text: xs from left to right, ys from bottom to top; what is three times the lowest is cut off."""
    low, top = min(ys), min(max(ys), 3 * min(ys))
    rows = [[' '] * wide for _ in range(high)]
    for x, y in zip(xs, ys):
        at = (min(y, top) - low) / ((top - low) or 1) * (high - 1), (x - xs[0]) / (xs[-1] - xs[0]) * (wide - 1)
        rows[high - 1 - round(at[0])][round(at[1])] = '*'
    return '\n'.join(map(''.join, rows)) + f'\n{xs[0]:<{wide // 2}.1f}{xs[-1]:>{wide // 2}.1f}'

def find_rate(step, board, steps=300):
    """A larger rate every step: the loss falls, then it explodes. A rate to train with lies well before that."""
    exponents, losses = torch.linspace(-5, 0, steps).tolist(), []
    for i, exponent in enumerate(exponents):
        losses.append(step(10**exponent))
        makemore.curves(board, i, {'find the rate/loss': losses[-1], 'find the rate/log10 of the rate': exponent})
        if not losses[-1] < 1.3 * losses[0]:
            break
    smooth = F.avg_pool1d(torch.tensor([losses]), 15, 1, 7, count_include_pad=False)[0].tolist()
    best = 10**exponents[smooth.index(min(smooth))]
    say(plot(exponents[:len(smooth)], smooth) + '   log10 of the rate', sys.stdout)
    say(f'the loss was lowest, {min(smooth):.4f}, at a rate of {best:.1e}; '
        f'a quarter of it leaves room: --learning-rate {best / 4:.1e}', sys.stdout)

def answer(run):
    """--check-backprop and --find-lr: an answer, and an exit code. Neither leaves a checkpoint, only a curve stays."""
    if run.cfg.check_backprop:
        x, y, _ = makemore.batch(run.words, run.cfg, 0, run.device)
        return 0 if compare(run.model, [makemore.by_autograd, backprop(run)], x, y) else 1
    if not run.optimizer:
        raise UserError(f'--find-lr: {run.cfg.type} counts, and has no learning rate')
    run.lock = makemore.make_room(run.folder)
    find_rate(lambda lr: makemore.take_step(run, run.model, lr)[0], open_board(run.folder))
    return 0

# ----------------------------------------------------------------------------------------------------------------------
# What do the neurons do?

@contextlib.contextmanager
def diagnosis(run, board):
    """Around a step: what the non-linearities saw and made of it, the gradients, and how far every matrix moved."""
    seen, kinds = {}, (nn.Tanh, nn.Sigmoid, nn.GELU)
    def note(name):
        return lambda m, inputs, out: seen.setdefault(name, []).append((inputs[0].detach(), out.detach()))
    hooks = [m.register_forward_hook(note(name)) for name, m in run.model.named_modules() if isinstance(m, kinds)]
    before = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.ndim == 2}
    yield
    for hook in hooks:
        hook.remove()
    for name, pairs in seen.items():      # a recurrent net comes by once for every letter
        pre, out = (torch.cat([t.flatten(0, -2) for t in ts]).float().cpu() for ts in zip(*pairs))      # (N, neurons)
        # where the slope is nearly gone: |tanh| > 0.97 begins at 2.1, and a GELU is flat on the left alone
        stuck = (-pre if isinstance(run.model.get_submodule(name), nn.GELU) else pre.abs()) > 2.1
        say(f'step {run.step:6} | {name:20} | mean {out.mean():+.3f} std {out.std():.3f} | saturated '
            f'{100 * stuck.float().mean():5.2f} % | dead neurons {int(stuck.all(0).sum())}')
        if board:
            board.add_image(f'saturated/{name}', stuck[None, :200], run.step)      # a dead neuron is a white column
            board.add_histogram(f'activation/{name}', out, run.step)
            board.add_histogram(f'pre-activation/{name}', pre, run.step)
    makemore.curves(board, run.step, {'log10 update to data/guide': -3.0})
    for name, old in before.items():
        new, grad = run.model.get_parameter(name).detach(), run.model.get_parameter(name).grad
        ratio, moved = (grad.std() / old.std()).item(), ((new - old).std() / old.std()).log10().item()
        say(f'step {run.step:6} | {name:20} | grad:data {ratio:.2e} | update:data 10**{moved:.1f}, about -3 is good')
        makemore.curves(board, run.step, {f'grad to data/{name}': ratio, f'log10 update to data/{name}': moved})
        if board:
            board.add_histogram(f'gradient/{name}', grad, run.step)

# ----------------------------------------------------------------------------------------------------------------------
# What TensorBoard shows

def open_board(folder):
    """Where curves and pictures go. Without TensorBoard they are missing, and nothing else is."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return say('TensorBoard is not installed, so there are no curves: pip install tensorboard')
    threading.excepthook = lambda failure: None      # what its thread fails at, a full disk, is raised here as well
    return SummaryWriter(folder) if makemore.rank() == 0 else None

def picture(p, names, cell=40):
    """Probabilities (V, V) as the bigram lecture's picture (H, W, 3): in every cell the pair and its share of its row
    in percent, the bluer the likelier."""
    from PIL import Image, ImageDraw      # TensorBoard brings it along
    image = Image.new('RGB', (cell * len(p), cell * len(p)))
    pen, strength = ImageDraw.Draw(image), (p / p.max()).sqrt()      # the root, so that the rare ones show too
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            shade = round(255 * (1 - 0.8 * strength[i, j].item()))
            pen.rectangle([cell * j, cell * i, cell * (j + 1), cell * (i + 1)], fill=(shade, shade, 255))
            pen.text((cell * j + 5, cell * i + 4), first + second, fill='black')
            pen.text((cell * j + 5, cell * i + 20), f'{100 * p[i, j]:.1f}', fill='black')
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)

@torch.no_grad()
def exhibit(run, result, board):
    """The embedding in the projector, what follows which letter as a picture, settings and result as a table's row."""
    model, words = run.model, run.words
    letters = '' if words.tokenizer else '.' * words.first + words.symbols
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    if tables and len(tables[0]) == len(letters):
        board.add_embedding(tables[0], [c if c.isprintable() and c != ' ' else repr(c) for c in letters])
    if model.context == 1 and 1 < len(letters) <= 100:
        p = model.eval().next_logits(torch.arange(len(letters), device=run.device)[:, None]).softmax(-1).cpu()
        board.add_image('which follows which, in percent', picture(p, letters), dataformats='HWC')
    plain = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in result['settings'].items()
             if name != 'encoding'}      # the table opens with the first five in the alphabet, the rate among them
    board.add_hparams(plain, {f'result/{name}': v for name, v in result.items() if isinstance(v, float)}, run_name='.')
    board.close()
