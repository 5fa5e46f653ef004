"""
The same steps in less time, on a CPU: rnn, gru and lstm, whose gradient goes through time by hand, the nets over a
window, whose first layer is looked up, the bag of words, which leaves padding out, and large products of all.

makemore.py asks for this file where it trains by autograd; whoever copies makemore.py alone can do without. The loss
and the gradients are those of the readable models there, to rounding. Where a model is computed in another way, both
are compared on its first batch: whoever changes it gets what stands there, and hooks see what stands there.
"""
import contextlib
import copy
import math
import weakref

import torch
import torch.nn.functional as F

from makemore import BagOfWords, Recurrent, WindowModel

# ----------------------------------------------------------------------------------------------------------------------
# Through time. Autograd writes down every operation of every step and allocates what comes out. Here a step writes into
# memory that is there already; on the way back only the gradient of the state is carried from step to step, and what
# it is multiplied by has been worked out for all steps at once.
#
# The items are sorted, the longest first: the n that are still being read at a step are the first n rows, and there is
# no padding. All steps lie in one tensor (N, ...), one below the other, and split(sizes) gives a view of each. States
# and their gradients (B + N, H) have the B rows of the start on top.

def around(states, sizes):
    """Views of the state before every step, and after it."""
    parts = states.split([sizes[0], *sizes])
    return [part if m == n else part[:n] for part, m, n in zip(parts, [sizes[0], *sizes], sizes)], parts[1:]

def backwards(*views):
    return reversed(list(zip(*views)))

# A cell, forward: x is what the inputs add (N, gates * H), h @ W + b what the state adds; it fills in the states and
# returns what it needs on the way back. Backward: d is the gradient of the states and becomes whole from the last step
# to the first; what comes out is the gradient of what the inputs add, and of what the state adds.

def rnn_forward(x, W, b, states, sizes):
    torch.add(x, b, out=states[0, sizes[0]:])
    for h, new in zip(*around(states[0], sizes)):
        new.addmm_(h, W).tanh_()

def rnn_backward(d, W, states, sizes, kept):
    slope = 1 - states[0, sizes[0]:].square()
    for d_h, d_new, s in backwards(*around(d[0], sizes), slope.split(sizes)):
        d_h.addmm_(d_new.mul_(s), W)
    return d[0, sizes[0]:], d[0, sizes[0]:]

def gru_forward(x, W, b, states, sizes):
    H, gates, tries = W.size(0), x + b, x.new_empty(len(x), W.size(0))
    gates[:, 2 * H:] = b[2 * H:]      # of this third x is added behind the reset gate
    parts = gates, gates[:, :2 * H], *gates.split(H, 1), x[:, 2 * H:], tries
    for h, new, g, both, reset, keep, added, x_t, t in zip(*around(states[0], sizes), *(p.split(sizes) for p in parts)):
        g.addmm_(h, W)
        both.sigmoid_()
        torch.addcmul(x_t, reset, added, out=t).tanh_()
        torch.lerp(t, h, keep, out=new)
    return gates, tries

def gru_backward(d, W, states, sizes, kept):
    (gates, tries), before = kept, torch.cat(around(states[0], sizes)[0])
    reset, keep, added = gates.chunk(3, 1)
    slope = (1 - keep) * (1 - tries.square())      # from the new state to what the tanh was of
    to_added = slope * reset
    factor = torch.stack([to_added * added * (1 - reset), (before - tries) * keep * (1 - keep), to_added], 1)
    grad = torch.empty_like(factor)      # (N, 3, H)
    parts = d[0, sizes[0]:, None], factor, grad, grad.flatten(1), keep
    for d_h, d_new, d_three, f, g, g_flat, k in backwards(*around(d[0], sizes), *(p.split(sizes) for p in parts)):
        torch.mul(d_three, f, out=g)
        d_h.addcmul_(d_new, k).addmm_(g_flat, W)
    return torch.cat([*grad[:, :2].unbind(1), slope * d[0, sizes[0]:]], 1), grad.flatten(1)

def lstm_forward(x, W, b, states, sizes):
    H, gates, tanhs = W.size(0), x + b, x.new_empty(len(x), W.size(0))
    parts = gates, gates[:, :3 * H], *gates.split(H, 1), tanhs
    for h, new, c, new_c, g, three, write, forget, read, what, t in zip(
            *around(states[0], sizes), *around(states[1], sizes), *(p.split(sizes) for p in parts)):
        g.addmm_(h, W)
        three.sigmoid_()
        torch.mul(forget, c, out=new_c).addcmul_(write, what.tanh_())
        torch.mul(read, torch.tanh(new_c, out=t), out=new)
    return gates, tanhs

def lstm_backward(d, W, states, sizes, kept):
    (gates, tanhs), before = kept, torch.cat(around(states[1], sizes)[0])
    write, forget, read, what = gates.chunk(4, 1)
    to_c, to_read = read * (1 - tanhs.square()), tanhs * read * (1 - read)      # from h
    factor = torch.stack([what * write * (1 - write), before * forget * (1 - forget), to_read,
                          write * (1 - what.square())], 1)      # from c; the third is none of it
    grad = torch.empty_like(factor)      # (N, 4, H)
    parts = d[1, sizes[0]:, None], factor, grad, grad[:, 2], grad.flatten(1), to_c, to_read, forget
    for d_h, d_new, d_c, d_new_c, d_four, f, g, g_read, g_flat, s, r, keep in backwards(
            *around(d[0], sizes), *around(d[1], sizes), *(p.split(sizes) for p in parts)):
        d_new_c.addcmul_(d_new, s)
        torch.mul(d_four, f, out=g)
        torch.mul(d_new, r, out=g_read)
        d_h.addmm_(g_flat, W)
        d_c.addcmul_(d_new_c, keep)
    return grad.flatten(1), grad.flatten(1)

CELLS = dict(RNN=(rnn_forward, rnn_backward), GRU=(gru_forward, gru_backward), LSTM=(lstm_forward, lstm_backward))

class Unroll(torch.autograd.Function):
    """From what the inputs add (N, gates * H) and the start (states, H) to the state after every step (N, H)."""
    @staticmethod
    def forward(ctx, x, W, b, start, cell, sizes):
        states = x.new_empty(len(start), sizes[0] + len(x), W.size(1))
        states[:, :sizes[0]] = start[:, None]
        ctx.cell, ctx.sizes, ctx.kept = cell, sizes, CELLS[cell][0](x, W.t(), b, states, sizes)
        ctx.save_for_backward(W, states)
        return states[0, sizes[0]:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        (W, states), sizes, d = ctx.saved_tensors, ctx.sizes, torch.zeros_like(ctx.saved_tensors[1])
        d[0, sizes[0]:] = d_out
        to_x, to_h = CELLS[ctx.cell][1](d, W, states, sizes, ctx.kept)
        before = torch.cat(around(states[0], sizes)[0])
        return to_x, to_h.t() @ before, to_h.sum(0), d[:, :sizes[0]].sum(1), None, None

def recurrent(model, idx, targets):
    real = targets >= 0
    order = real.sum(1).argsort(descending=True, stable=True)
    real = real[order].t()      # (T, B)
    at = (order * idx.size(1) + torch.arange(idx.size(1))[:, None])[real]      # (N,): where each lies in (B, T)
    x, y, sizes = idx.flatten()[at], targets.flatten()[at], [n for n in real.sum(1).tolist() if n]
    def drop(x):      # by the very numbers that the model draws, those for padding too
        return x * model.drop(x.new_ones(*idx.shape, x.size(1))).flatten(0, 1)[at] if model.drop.p else x
    if model.drop.p or len(x) < model.embed.num_embeddings:
        x = model.x2h(drop(model.embed(x)))
    else:      # what a letter adds is always the same
        x = F.embedding(x, model.x2h(model.embed.weight))
    out = Unroll.apply(x, model.h2h.weight, model.h2h.bias, model.start, type(model).__name__, sizes)
    return F.cross_entropy(model.head(drop(out)), y)

# ----------------------------------------------------------------------------------------------------------------------
# Over a window. What a letter in a place adds to the first hidden layer is always the same: it is worked out once for
# every letter and place, and looked up. Of the largest product of all only a small one is left.

def window(model, idx, targets):
    (embed, _, linear, *rest), real = model.net, targets >= 0
    K, V = linear.in_features // embed.embedding_dim, embed.num_embeddings
    idx = model.windows(idx)[real]      # (N, block_size)
    bags = idx.view(-1, K)      # the letters that the first layer joins
    if len(bags) < V:
        return F.cross_entropy(model.net(idx), targets[real])
    table = F.linear(embed.weight, linear.weight.view(-1, embed.embedding_dim)).view(V, -1, K)      # (V, hidden, K)
    x = F.embedding_bag(bags + torch.arange(0, K * V, V), table.permute(2, 0, 1).flatten(0, 1), mode='sum')
    x = (x if linear.bias is None else x + linear.bias).unflatten(0, (len(idx), -1)).squeeze(1)
    for layer in rest:
        x = layer(x)
    return F.cross_entropy(x, targets[real])

# ----------------------------------------------------------------------------------------------------------------------
# A bag of words. Half of a batch of names is padding. Without it all items lie one behind the other: (N, C), and a sum
# that begins with an item is the difference of two that begin with the batch.

def bag(model, idx, targets):
    rows, place = (targets >= 0).nonzero(as_tuple=True)
    if len(rows) == idx.numel() or any(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        return model(idx, targets)      # nothing to leave out, or other numbers would be drawn
    x, first = model.what(idx[rows, place]) + model.where(place), torch.arange(len(place)) - place
    share = 1 / (place + 1)[:, None]
    for mlp in model.mlps:
        total = x.cumsum(0)
        before = F.embedding(first, total - x)      # as (total - x)[first], with a faster way back
        x = torch.addcmul(x, total - before, share)
        x = x + mlp(x)
    return F.cross_entropy(model.head(x), targets[rows, place])

# ----------------------------------------------------------------------------------------------------------------------
# Large products. torch multiplies by MKL, which uses the wide registers (AVX-512) of Intel's processors only. oneDNN,
# which comes with torch too, uses anyone's: 250 billion operations a second on one core of an AMD, where MKL does 112
# billion. It takes 10 us to get going, so small products stay as they are.

try:
    product = torch.ops.mkldnn._linear_pointwise.default      # x @ weight.t() + bias
except AttributeError:      # a torch that was built without
    product = None
LARGE = 2**21 if product and torch.backends.cpu.get_cpu_capability() == 'AVX512' else math.inf      # multiplications

class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias, 'none', [], '')

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d):
        x, weight = ctx.saved_tensors
        flat = d.reshape(-1, d.size(-1))
        return (product(d, weight.t(), None, 'none', [], ''),
                product(flat.t(), x.reshape(-1, x.size(-1)).t(), None, 'none', [], ''),
                flat.sum(0) if ctx.needs_input_grad[2] else None)

class Linear(torch.nn.Linear):
    def forward(self, x):
        if x.numel() * self.out_features < LARGE or x.dtype != torch.float32 or not x.is_cpu:
            return super().forward(x)
        return Product.apply(x, self.weight, self.bias)

# ----------------------------------------------------------------------------------------------------------------------
# Which way, and is it the same?
WAYS = {Recurrent: recurrent, WindowModel: window, BagOfWords: bag}
SEEN, AGREED = weakref.WeakSet(), weakref.WeakKeyDictionary()      # all models, and of some whether

def agree(model, *ways):
    """Do all ways find the same loss and gradients? A copy is asked, as a norm remembers what it has seen."""
    found, parameters = [], list(model.parameters())
    with contextlib.suppress(Exception):      # a model that was changed may fail in any way here; its own way it goes
        for way in ways:
            with torch.random.fork_rng(devices=[]):      # all drop the same
                value = way(model)
            found.append([value, *torch.autograd.grad(value, parameters)])
    return len(found) == 2 and all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*found))

def loss(net, idx, targets):
    """net(idx, targets), in the quick way where there is one."""
    if net not in SEEN:
        SEEN.add(net)
        if idx.is_cpu and not any(hasattr(m, '_orig_mod') for m in net.modules()):      # no torch.compile
            for m in (m for m in net.modules() if type(m) is torch.nn.Linear):
                m.__class__ = Linear
    way = next((way for kind, way in WAYS.items() if isinstance(net, kind)), None)
    if not way or not (net.training and idx.is_cpu):
        return net(idx, targets)
    if hooked := {m for m in net.modules() if m._forward_hooks}:      # who looks at what is passed over here
        if way is recurrent and hooked <= {net.tanh, net.sigmoid}:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                net(idx, targets)      # is shown it, and the step stays what it is
        elif way is recurrent or way is window and not hooked <= set(list(net.net)[3:]):
            return net(idx, targets)
    if net not in AGREED:
        AGREED[net] = agree(copy.deepcopy(net), lambda twin: twin(idx, targets), lambda twin: way(twin, idx, targets))
    return way(net, idx, targets) if AGREED[net] else net(idx, targets)
