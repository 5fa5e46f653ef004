"""
The same loss and gradients in less time, on a CPU.

    net = FastModel(model)
    loss = net(idx, targets)      # model(idx, targets), faster

Each function below computes the loss of one family of models as makemore.py defines it. What
they save is padding, which takes up half of a batch of names, and the overhead of many small
operations. FastModel compares each with the plain model on its first batch: if you change a
model, it is your version that is trained. Random numbers for dropout are drawn differently, so
with dropout a run is not the same bit for bit as one without this module.
"""

import contextlib
import copy
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

# -----------------------------------------------------------------------------
# large matrix products
#
# torch multiplies with MKL, which uses the wide registers (AVX-512) of Intel's processors only.
# oneDNN, which comes with torch, uses everyone's. It takes 10 us longer to start, so small
# products stay as they are. This is a private function of torch: without it nothing changes.

try:
    onednn_linear = torch.ops.mkldnn._linear_pointwise.default  # x @ weight.t() + bias
except AttributeError:  # this torch was built without oneDNN
    onednn_linear = None


def smallest_large_product() -> float:
    """The number of multiplications from which oneDNN is faster."""
    has_avx512 = torch.backends.cpu.get_cpu_capability() == 'AVX512'
    return 2**21 if onednn_linear and has_avx512 else math.inf


LARGE = smallest_large_product()


class OneDNNLinear(torch.autograd.Function):
    """x @ weight.t() + bias by oneDNN, forward and backward."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias, 'none', [], '')

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        x, weight = ctx.saved_tensors
        flat_x = x.reshape(-1, x.size(-1))
        flat_d = d_out.reshape(-1, d_out.size(-1))
        d_x = onednn_linear(d_out, weight.t(), None, 'none', [], '')
        d_weight = onednn_linear(flat_d.t(), flat_x.t(), None, 'none', [], '')
        d_bias = flat_d.sum(0) if ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias


def linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """layer(x), by oneDNN if it is a large product."""
    if type(layer) is not nn.Linear or x.dtype != torch.float32:
        return layer(x)
    n_products = x.numel() * layer.out_features
    if n_products < LARGE:
        return layer(x)
    return OneDNNLinear.apply(x, layer.weight, layer.bias)


def apply_layer(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """layer(x); linear layers and dropout take the fast forms of this module."""
    if type(layer) is nn.Linear:
        return linear(x, layer)
    if type(layer) is nn.Dropout:
        return dropout(x, layer.p)
    if type(layer) is nn.Sequential:
        for inner in layer:
            x = apply_layer(inner, x)
        return x
    return layer(x)


# -----------------------------------------------------------------------------
# dropout


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """As F.dropout in training, in a third of its time.

    Random numbers are what is expensive, and 16 random bits are enough to decide about one
    element, so a random 64-bit number serves for four. p is rounded to a multiple of 2**-16.
    """
    if p == 0:
        return x
    threshold = round(p * 2**16)
    n_words = -(-x.numel() // 4)
    words = torch.empty(n_words, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # -2**15 to 2**15 - 1
    mask = (bits >= threshold - 2**15).to(x.dtype)
    mask *= 1 / (1 - threshold / 2**16)
    return x * mask


# -----------------------------------------------------------------------------
# transformer: several short items share a row of the batch, each sees itself alone


def pack_items(lengths: list[int], width: int) -> list[list[int]]:
    """Items into rows of at most this width: [5, 3, 2], 8 -> [[0, 2], [1]].

    Each row starts with the longest item that is left, and is filled up with the shortest.
    """
    longest_first = deque(sorted(range(len(lengths)), key=lambda item: -lengths[item]))
    rows = []
    while longest_first:
        row = [longest_first.popleft()]
        room = width - lengths[row[0]]
        while longest_first and lengths[longest_first[-1]] <= room:
            shortest = longest_first.pop()
            room -= lengths[shortest]
            row.append(shortest)
        rows.append(row)
    return rows


def pack_batch(idx: torch.Tensor, targets: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
    """Tokens, positions, mask and targets of packed rows: (R, W), (W,), (R, 1, W, W), (R, W)."""
    B, T = idx.shape
    lengths = (targets >= 0).sum(1).tolist()
    rows = []
    for row in pack_items(lengths, width):
        rows.append([item * T + t for item in row for t in range(lengths[item])])
    # a softmax over 16 numbers takes a third of the time of one over 15
    W = 16 * math.ceil(max(map(len, rows)) / 16)
    padding = B * T  # the place of one more token behind all others
    places = torch.tensor([row + [padding] * (W - len(row)) for row in rows])  # (R, W)

    item = places // T
    same_item = item[:, None, :, None] == item[:, None, None, :]  # (R, 1, W, W)
    mask = torch.where(same_item.tril(), 0.0, -math.inf)
    tokens = F.pad(idx.flatten(), (0, 1))[places]
    packed_targets = F.pad(targets.flatten(), (0, 1), value=-1)[places]
    return tokens, places % T, mask, packed_targets


def attention(layer: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Multi-head attention; without a mask every position sees all before it."""
    B, T, C = x.shape
    q, k, v = linear(x, layer.qkv).split(C, dim=2)
    q = q.view(B, T, layer.n_head, -1).transpose(1, 2)  # (B, nh, T, hs)
    k = k.view(B, T, layer.n_head, -1).transpose(1, 2)
    v = v.view(B, T, layer.n_head, -1).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return linear(y.transpose(1, 2).reshape(B, T, C), layer.proj)


def transformer_loss(model: nn.Module, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of a transformer, with short items packed into common rows."""
    positions = torch.arange(idx.size(1))
    mask = None
    if (targets < 0).any():
        idx, positions, mask, targets = pack_batch(idx, targets, model.context)
    x = dropout(model.tok_emb(idx) + model.pos_emb(positions), model.drop.p)
    for block in model.blocks:
        x = x + dropout(attention(block.attn, block.norm1(x), mask), block.drop.p)
        x = x + dropout(apply_layer(block.mlp, block.norm2(x)), block.drop.p)
    logits = linear(model.norm(x), model.head)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


# -----------------------------------------------------------------------------
# recurrent nets: the gradient goes back through time by hand
#
# Autograd records every operation of every step and allocates its result. Here a step writes
# into memory that is there already, and on the way back only the gradient of the state is
# carried from step to step; what it is multiplied with is computed for all steps at once.
#
# The items are sorted, the longest first. So the n items that are still being read at a step are
# the first n, and there is no padding. All steps stand one below the other in one tensor of N
# rows, and rows.split(sizes) gives a view of each step. The states, and their gradients, have
# the B rows of the start on top: (n_states, B + N, H).


def state_views(rows: torch.Tensor, sizes: list[int]) -> tuple[list, list]:
    """Views of the state before every step and after it, for the items that take the step."""
    parts = rows.split([sizes[0], *sizes])
    before = []
    for part, n in zip(parts[:-1], sizes, strict=True):
        before.append(part if len(part) == n else part[:n])
    return before, list(parts[1:])


def states_before(rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The state before every step, of all steps one below the other (N, H)."""
    return torch.cat(state_views(rows, sizes)[0])


def split_steps(sizes: list[int], *tensors: torch.Tensor) -> list[tuple]:
    """Of each tensor the views of all steps."""
    return [tensor.split(sizes) for tensor in tensors]


def forward_steps(*per_step):
    """One tuple for each step, from the first to the last."""
    return zip(*per_step, strict=True)


def backward_steps(*per_step):
    """One tuple for each step, from the last to the first."""
    return reversed(list(zip(*per_step, strict=True)))


# A cell has two functions. The forward one gets what the inputs add (N, n_gates * H) and W and b
# of the state's linear layer; it fills in the states and returns what the backward one needs. The
# backward one gets d, the gradient of the states, and completes it from the last step to the
# first. It returns the gradients of what the inputs add and of what the state adds.


def rnn_forward(inputs, W, b, states, sizes):
    """h = tanh(x + h @ W + b)"""
    hidden = states[0]
    torch.add(inputs, b, out=hidden[sizes[0] :])
    for h, new_h in forward_steps(*state_views(hidden, sizes)):
        new_h.addmm_(h, W).tanh_()


def rnn_backward(d, W, states, sizes, kept):
    slope = 1 - states[0, sizes[0] :].square()  # of tanh
    for d_h, d_new, s in backward_steps(*state_views(d[0], sizes), slope.split(sizes)):
        d_new.mul_(s)
        d_h.addmm_(d_new, W)
    d_sum = d[0, sizes[0] :]
    return d_sum, d_sum


def gru_forward(inputs, W, b, states, sizes):
    """reset, keep = sigmoid; candidate = tanh(x + reset * (h @ W + b)); h = lerp"""
    H = W.size(0)
    gates = inputs + b  # (N, 3 * H): reset, keep, and what the state adds to the candidate
    gates[:, 2 * H :] = b[2 * H :]  # x is added to this third behind the reset gate
    candidates = inputs.new_empty(len(inputs), H)
    reset, keep, added = gates.split(H, 1)
    all_sigmoids = gates[:, : 2 * H]
    new_inputs = inputs[:, 2 * H :]
    views = state_views(states[0], sizes)
    parts = split_steps(sizes, gates, all_sigmoids, reset, keep, added, new_inputs, candidates)
    for h, new_h, gate, sigmoids, r, k, a, x, candidate in forward_steps(*views, *parts):
        gate.addmm_(h, W)
        sigmoids.sigmoid_()
        torch.addcmul(x, r, a, out=candidate).tanh_()
        torch.lerp(candidate, h, k, out=new_h)
    return gates, candidates


def gru_backward(d, W, states, sizes, kept):
    gates, candidates = kept
    reset, keep, added = gates.chunk(3, 1)
    before = states_before(states[0], sizes)
    # from the new state to each of the three parts of what the state adds
    d_tanh = (1 - keep) * (1 - candidates.square())
    to_added = d_tanh * reset
    to_reset = to_added * added * (1 - reset)
    to_keep = (before - candidates) * keep * (1 - keep)
    factors = torch.stack([to_reset, to_keep, to_added], 1)  # (N, 3, H)
    grads = torch.empty_like(factors)

    d_states = d[0, sizes[0] :, None]  # (N, 1, H)
    views = state_views(d[0], sizes)
    parts = split_steps(sizes, d_states, factors, grads, grads.flatten(1), keep)
    for d_h, d_new, d_new_3, factor, grad, flat_grad, k in backward_steps(*views, *parts):
        torch.mul(d_new_3, factor, out=grad)
        d_h.addcmul_(d_new, k).addmm_(flat_grad, W)
    d_inputs = torch.cat([*grads[:, :2].unbind(1), d_tanh * d[0, sizes[0] :]], 1)
    return d_inputs, grads.flatten(1)


def lstm_forward(inputs, W, b, states, sizes):
    """c = forget * c + write * candidate; h = read * tanh(c)"""
    H = W.size(0)
    gates = inputs + b  # (N, 4 * H): write, forget, read, candidate
    tanh_c = inputs.new_empty(len(inputs), H)
    write, forget, read, candidate = gates.split(H, 1)
    all_sigmoids = gates[:, : 3 * H]
    views = [*state_views(states[0], sizes), *state_views(states[1], sizes)]
    parts = split_steps(sizes, gates, all_sigmoids, write, forget, read, candidate, tanh_c)
    for h, new_h, c, new_c, gate, sigmoids, w, f, r, cand, t in forward_steps(*views, *parts):
        gate.addmm_(h, W)
        sigmoids.sigmoid_()
        cand.tanh_()
        torch.mul(f, c, out=new_c).addcmul_(w, cand)
        torch.tanh(new_c, out=t)
        torch.mul(r, t, out=new_h)
    return gates, tanh_c


def lstm_backward(d, W, states, sizes, kept):
    gates, tanh_c = kept
    write, forget, read, candidate = gates.chunk(4, 1)
    before = states_before(states[1], sizes)
    # from h to c and to the read gate, then from c to the other gates
    h_to_c = read * (1 - tanh_c.square())
    h_to_read = tanh_c * read * (1 - read)
    to_write = candidate * write * (1 - write)
    to_forget = before * forget * (1 - forget)
    to_candidate = write * (1 - candidate.square())
    factors = torch.stack([to_write, to_forget, h_to_read, to_candidate], 1)  # (N, 4, H)
    grads = torch.empty_like(factors)

    d_cells = d[1, sizes[0] :, None]  # (N, 1, H)
    grads_read = grads[:, 2]
    d_gates = grads.flatten(1)
    views = [*state_views(d[0], sizes), *state_views(d[1], sizes)]
    parts = split_steps(sizes, d_cells, factors, grads, grads_read, d_gates)
    slopes = split_steps(sizes, h_to_c, h_to_read, forget)
    for step in backward_steps(*views, *parts, *slopes):
        d_h, d_new_h, d_c, d_new_c, *more = step
        d_new_c_4, factor, grad, grad_read, flat_grad, s, s_read, f = more
        d_new_c.addcmul_(d_new_h, s)
        torch.mul(d_new_c_4, factor, out=grad)
        torch.mul(d_new_h, s_read, out=grad_read)  # the read gate is reached from h alone
        d_h.addmm_(flat_grad, W)
        d_c.addcmul_(d_new_c, f)
    return d_gates, d_gates


CELLS = {
    'RNN': (rnn_forward, rnn_backward),
    'GRU': (gru_forward, gru_backward),
    'LSTM': (lstm_forward, lstm_backward),
}


class Unroll(torch.autograd.Function):
    """From what the inputs add (N, n_gates * H) to the first state after every step (N, H)."""

    @staticmethod
    def forward(ctx, inputs, W, b, start, cell, sizes):
        batch_size = sizes[0]
        states = inputs.new_empty(len(start), batch_size + len(inputs), W.size(1))
        states[:, :batch_size] = start[:, None]
        forward_cell, _ = CELLS[cell]
        ctx.kept = forward_cell(inputs, W.t(), b, states, sizes)
        ctx.cell = cell
        ctx.sizes = sizes
        ctx.save_for_backward(W, states)
        return states[0, batch_size:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        W, states = ctx.saved_tensors
        batch_size = ctx.sizes[0]
        d = torch.zeros_like(states)
        d[0, batch_size:] = d_out
        _, backward_cell = CELLS[ctx.cell]
        d_inputs, d_from_state = backward_cell(d, W, states, ctx.sizes, ctx.kept)
        d_W = d_from_state.t() @ states_before(states[0], ctx.sizes)
        d_start = d[:, :batch_size].sum(1)
        return d_inputs, d_W, d_from_state.sum(0), d_start, None, None


def recurrent_loss(model: nn.Module, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of rnn, gru and lstm."""
    T = idx.size(1)
    real = targets >= 0
    longest_first = real.sum(1).argsort(descending=True, stable=True)
    real_by_step = real[longest_first].t()  # (T, B)
    sizes = [n for n in real_by_step.sum(1).tolist() if n > 0]
    places = longest_first * T + torch.arange(T)[:, None]  # (T, B): where each stands in (B, T)
    places = places[real_by_step]  # (N,): all real ones, step after step

    tokens = idx.flatten()[places]
    p = model.drop.p
    if p == 0 and len(tokens) > model.tok_emb.num_embeddings:
        # what a token adds is always the same, so it is computed once for every token
        inputs = F.embedding(tokens, model.x2h(model.tok_emb.weight))
    else:
        inputs = model.x2h(dropout(model.tok_emb(tokens), p))
    cell = type(model).__name__
    h2h = model.h2h
    hidden = Unroll.apply(inputs, h2h.weight, h2h.bias, model.start, cell, sizes)
    logits = model.head(dropout(hidden, p))
    return F.cross_entropy(logits, targets.flatten()[places])


# -----------------------------------------------------------------------------
# window models
#
# What a token at one place of the window adds to the first hidden layer is always the same. It is
# computed once for every token and place, and looked up: of the largest product only a small one
# is left.


def window_loss(model: nn.Module, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of mlp, bn-mlp and wavenet."""
    embedding, _, first_linear, *other_layers = model.net
    V, C = embedding.weight.shape
    real = targets >= 0
    windows = model.windows(idx)[real]  # (N, block_size)
    n_joined = first_linear.in_features // C  # tokens that the first layer joins
    bags = windows.view(-1, n_joined)
    if len(bags) < V:  # the table would be larger than what is looked up in it
        return F.cross_entropy(model.net(windows), targets[real])

    weight = first_linear.weight.view(-1, C)  # (hidden * n_joined, C)
    table = F.linear(embedding.weight, weight).view(V, -1, n_joined)
    table = table.permute(2, 0, 1).flatten(0, 1)  # (n_joined * V, hidden)
    first_row = torch.arange(0, n_joined * V, V)  # of each place
    x = F.embedding_bag(bags + first_row, table, mode='sum')
    if first_linear.bias is not None:
        x = x + first_linear.bias
    x = x.unflatten(0, (len(windows), -1)).squeeze(1)
    for layer in other_layers:
        x = apply_layer(layer, x)
    return F.cross_entropy(x, targets[real])


# -----------------------------------------------------------------------------
# bag of words
#
# Without padding all items stand one behind the other (N, C), and a sum over the beginning of an
# item is the difference of two sums over the beginning of the batch.


def bag_loss(model: nn.Module, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of the bag of words."""
    row, position = (targets >= 0).nonzero(as_tuple=True)  # (N,)
    x = model.tok_emb(idx[row, position]) + model.pos_emb(position)  # (N, C)
    first = torch.arange(len(position)) - position  # where the item of each starts
    n_seen = (position + 1)[:, None]
    for mlp in model.mlps:
        total = x.cumsum(0)
        before_item = F.embedding(first, total - x)  # (total - x)[first], with a faster backward
        x = torch.addcmul(x, total - before_item, 1 / n_seen)
        x = x + apply_layer(mlp, x)
    return F.cross_entropy(model.head(x), targets[row, position])


# -----------------------------------------------------------------------------
# the optimizer's step
#
# For small models half of the time of clip_grad_norm_ and of AdamW.step is spent in Python around
# a few kernels. Here the kernels are called directly. They are private functions of torch: where
# they are missing, the methods of torch are used.

HAS_KERNELS = all(
    hasattr(torch, name)
    for name in ('_fused_adamw_', '_foreach_add_', '_foreach_mul_', '_foreach_norm')
)


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """As torch.nn.utils.clip_grad_norm_: scale the gradients down to max_norm; their norm."""
    parameters = list(parameters)
    grads = [p.grad for p in parameters if p.grad is not None]
    if not HAS_KERNELS or not grads or not grads[0].is_cpu:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if norm > max_norm:
        torch._foreach_mul_(grads, max_norm / (norm + 1e-6))
    return norm


class FastAdamW(torch.optim.AdamW):
    """torch's fused AdamW, which finds its tensors anew at every step; here they are kept in lists.

    The state is that of AdamW, made by its first step.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.kept: list[tuple[dict, dict[str, list]]] = []  # each group and its lists of tensors

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """Update all parameters."""
        parameters = [p for group in self.param_groups for p in group['params']]
        has_all_grads = all(p.grad is not None for p in parameters)
        if not HAS_KERNELS or not has_all_grads or closure is not None:
            return super().step(closure)
        if not self.kept:
            result = super().step()
            self.keep_tensors()
            return result
        for group, tensors in self.kept:
            update_group(group, tensors)
        return None

    def zero_grad(self, set_to_none: bool = True):
        """Forget all gradients."""
        for group in self.param_groups:
            for p in group['params']:
                p.grad = None

    def keep_tensors(self):
        """Collect the tensors of each group."""
        for group in self.param_groups:
            if group['params']:
                states = [self.state[p] for p in group['params']]
                names = ('step', 'exp_avg', 'exp_avg_sq')
                tensors = {name: [state[name] for state in states] for name in names}
                self.kept.append((group, tensors))

    def load_state_dict(self, state_dict: dict):
        """Load a saved state; its tensors take the place of those that were kept."""
        super().load_state_dict(state_dict)
        self.kept = []


def update_group(group: dict, tensors: dict[str, list]):
    """AdamW's update of one group of parameters."""
    beta1, beta2 = group['betas']
    torch._foreach_add_(tensors['step'], 1)
    torch._fused_adamw_(
        group['params'],
        [p.grad for p in group['params']],
        tensors['exp_avg'],
        tensors['exp_avg_sq'],
        [],
        tensors['step'],
        lr=group['lr'],
        beta1=beta1,
        beta2=beta2,
        eps=group['eps'],
        weight_decay=group['weight_decay'],
        amsgrad=False,
        maximize=False,
    )


# -----------------------------------------------------------------------------
# which one, and is it the same?

FAST_LOSSES = {
    'RNN': recurrent_loss,
    'GRU': recurrent_loss,
    'LSTM': recurrent_loss,
    'MLP': window_loss,
    'BatchNormMLP': window_loss,
    'WaveNet': window_loss,
    'BagOfWords': bag_loss,
    'Transformer': transformer_loss,
}


def mix_loss(model: nn.Module, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of the nets of a mix."""
    losses = []
    for net in model.learners:
        fast_loss = FAST_LOSSES.get(type(net).__name__)
        losses.append(fast_loss(net, idx, targets) if fast_loss else net(idx, targets))
    return sum(losses)


FAST_LOSSES['Mix'] = mix_loss


def loss_and_gradients(
    compute_loss: Callable, model: nn.Module, idx: torch.Tensor, targets: torch.Tensor
) -> list[torch.Tensor]:
    """The loss and the gradients of all parameters, without dropout, on a copy of the model."""
    twin = copy.deepcopy(model)  # a norm would remember the batch
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loss = compute_loss(twin, idx, targets)
    trained = [p for p in twin.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, trained)]


def computes_the_same(
    fast_loss: Callable, model: nn.Module, idx: torch.Tensor, targets: torch.Tensor
) -> bool:
    """Whether the fast loss of a batch and its gradients are those of the plain model."""
    plain = loss_and_gradients(lambda twin, *batch: twin(*batch), model, idx, targets)
    # a model that somebody has changed may fail in any way here; then its own way is taken
    with contextlib.suppress(Exception):
        fast = loss_and_gradients(fast_loss, model, idx, targets)
        pairs = zip(plain, fast, strict=True)
        return all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in pairs)
    return False


class FastModel(nn.Module):
    """A model whose loss is computed in a faster way, if there is one that agrees with it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.fast_loss = FAST_LOSSES.get(type(model).__name__)
        self.is_checked = False

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss; in evaluation and on other devices it is that of the plain model."""
        if self.fast_loss is None or not self.model.training or not idx.is_cpu:
            return self.model(idx, targets)
        if not self.is_checked:
            self.is_checked = True
            if not computes_the_same(self.fast_loss, self.model, idx, targets):
                self.fast_loss = None
                return self.model(idx, targets)
        return self.fast_loss(self.model, idx, targets)
