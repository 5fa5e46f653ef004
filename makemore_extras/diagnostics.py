"""
What a net does while it learns: activations, gradients, updates; and the learning-rate range test.

    python makemore.py --type bn-mlp --diagnose 1000     a report every 1,000 steps
    python makemore.py --type gru --find-lr              which learning rate?
"""

import collections
import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F

NONLINEARITIES = (nn.Tanh, nn.Sigmoid, nn.GELU)
SATURATED = 2.1  # beyond it |tanh| is above 0.97, and its slope is nearly zero
GOOD_UPDATE = -3.0  # log10 of the size of an update, relative to the weights
UPDATES = 'update to data, log10'  # the group of these curves in TensorBoard


@dataclass
class Report:
    """Lines to print, what TensorBoard shows of them, and what the pictures show."""

    lines: list[str] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, torch.Tensor] = field(default_factory=dict)
    # by layer or matrix, for the pictures
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)  # (N, channels)
    saturated: dict[str, torch.Tensor] = field(default_factory=dict)  # (N, channels)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def name_layers(model: nn.Module) -> dict[str, str]:
    """A readable name for each module: `tanh 1` for net.3, `block 2 qkv` for blocks.1.attn.qkv.

    A module that has only a number is named after its kind and counted within its block. A net of
    a mix goes by its type and its number, from 1: `gru 2 tanh` for trained.1.tanh.
    """
    nets = {}  # of a mix
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleDict) and all(map(str.isdigit, module)):
            for number, net in module.items():
                nets[f'{path}.{number}'] = f'{type(net).__name__.lower()} {int(number) + 1}'
    names = {}
    counts = collections.Counter()
    for path, module in model.named_modules():
        *outer, last = path.split('.')
        words = []
        for name, number in itertools.pairwise(outer):
            if f'{name}.{number}' in nets:
                words.append(nets[f'{name}.{number}'])
            elif number.isdigit():  # a block of a list
                words.append(f'{name.removesuffix("s")} {int(number) + 1}')
        if last.isdigit():
            kind = type(module).__name__.lower()
            block = (*words, kind)
            counts[block] += 1
            last = f'{kind} {counts[block]}'
        names[path] = nets.get(path) or ' '.join([*words, last])
    return names


def name_matrices(model: nn.Module) -> dict[str, str]:
    """A readable name for each matrix: that of its layer, then its own unless that is `weight`."""
    layer_names = name_layers(model)
    paths = [name for name, p in model.named_parameters() if p.ndim == 2]
    names = {}
    for path in paths:
        layer, _, own_name = path.rpartition('.')
        layer_name = layer_names[layer]
        if own_name == 'weight' and layer_name:
            names[path] = layer_name
        else:
            names[path] = f'{layer_name} {own_name}'.strip()
    return names


@dataclass
class Activation:
    """What one nonlinearity got and what it made of it, both (N, channels)."""

    kind: type[nn.Module]
    inputs: torch.Tensor
    outputs: torch.Tensor


def drop_padding(calls: list[torch.Tensor], y: torch.Tensor | None) -> torch.Tensor:
    """The inputs or outputs of a layer in all its calls, as (N, channels), without padding.

    y (B, T) are the targets, -1 where a line is padded; None: there is no padding.
    """
    if y is None:
        return torch.cat([values.flatten(0, -2) for values in calls])
    is_real = y >= 0
    kept = []
    for number, values in enumerate(calls):
        if values.ndim == 3 and values.shape[:2] == y.shape:  # (B, T, C): all positions at once
            kept.append(values[is_real])
        elif values.ndim == 2 and len(values) == len(y):  # (B, C): a call for every position
            position = number * y.size(1) // len(calls)
            kept.append(values[is_real[:, position]])
        else:  # windows, which are made for real positions only
            kept.append(values.flatten(0, -2))
    return torch.cat(kept)


@torch.no_grad()
def observe_activations(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor | None
) -> dict[str, Activation]:
    """What the nonlinearities of a model do with a batch, by the name of the layer.

    A copy of the model is observed, so that neither the running statistics of a norm nor the
    random generator notice.
    """
    twin = copy.deepcopy(model).train()
    all_inputs: dict[str, list] = collections.defaultdict(list)
    all_outputs: dict[str, list] = collections.defaultdict(list)

    def observe(name: str) -> Callable:
        def hook(module, inputs, output):
            all_inputs[name].append(inputs[0])
            all_outputs[name].append(output)

        return hook

    for name, module in twin.named_modules():
        if isinstance(module, NONLINEARITIES):
            module.register_forward_hook(observe(name))
    with torch.random.fork_rng():
        twin(x, y)

    activations = {}
    names = name_layers(twin)
    for path, calls in all_inputs.items():
        inputs = drop_padding(calls, y).float().cpu()
        outputs = drop_padding(all_outputs[path], y).float().cpu()
        activations[names[path]] = Activation(type(twin.get_submodule(path)), inputs, outputs)
    return activations


def activation_report(activations: dict[str, Activation]) -> Report:
    """Mean, deviation and saturation of each nonlinearity."""
    report = Report()
    for name, activation in activations.items():
        outputs = activation.outputs
        if activation.kind is nn.GELU:  # flat on the left only
            saturated = activation.inputs < -SATURATED
        elif activation.kind is nn.Sigmoid:  # a tanh of half its input, moved and scaled
            saturated = activation.inputs.abs() > 2 * SATURATED
        else:
            saturated = activation.inputs.abs() > SATURATED
        share = 100 * saturated.float().mean()
        n_dead = int(saturated.all(0).sum())
        report.lines.append(
            f'{name:20} | mean {outputs.mean():+.3f} std {outputs.std(correction=0):.3f} | '
            f'saturated {share:5.2f} % | dead neurons {n_dead}'
        )
        report.outputs[name] = outputs
        report.saturated[name] = saturated
        report.histograms[f'output/{name}'] = outputs
        report.histograms[f'pre-activation/{name}'] = activation.inputs
    return report


def copy_matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of all matrices that are trained, as they are now."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {name: p.detach().clone() for name, p in trained if p.ndim == 2}


def update_report(
    model: nn.Module, old_matrices: dict[str, torch.Tensor], lr_share: float = 1.0
) -> Report:
    """How large the gradients are, and how far the last step moved every matrix.

    An update is proportional to the learning rate, so the guide of 10**-3 holds at its peak only;
    lr_share is the learning rate of this step, divided by that of the peak.
    """
    report = Report()
    report.scalars[f'{UPDATES}/guide'] = GOOD_UPDATE
    names = name_matrices(model)
    for path, old in old_matrices.items():
        name = names[path]
        parameter = model.get_parameter(path)
        grad = parameter.grad
        update = parameter.detach() - old
        report.histograms[f'weight gradient/{name}'] = grad
        report.gradients[name] = grad
        size = old.std(correction=0)
        if size == 0:  # such as the start of a recurrent net, which is 0 before the first step
            report.lines.append(f'{name:20} | its weights were all equal, so there are no ratios')
            continue
        grad_ratio = (grad.std(correction=0) / size).item()
        update_ratio = (update.std(correction=0) / size).log10().item()
        report.lines.append(
            f'{name:20} | grad:data {grad_ratio:.2e} | update:data 10**{update_ratio:.1f}'
        )
        report.scalars[f'relative gradient/{name}'] = grad_ratio
        report.scalars[f'{UPDATES}/{name}'] = update_ratio
    report.lines.append(explain_guide(lr_share))
    return report


def explain_guide(lr_share: float) -> str:
    """Which update:data ratio is good at this share of the peak learning rate."""
    line = f'update:data of about 10**{GOOD_UPDATE:.0f} is good at the peak learning rate'
    if 0 < lr_share < 0.9:
        guide = GOOD_UPDATE + math.log10(lr_share)
        line += f'; now it is at {100 * lr_share:.2g} % of it, so about 10**{guide:.1f}'
    return line


# -----------------------------------------------------------------------------
# the learning-rate range test


def plot(xs: list[float], ys: list[float], width: int = 64, height: int = 12) -> list[str]:
    """A curve as lines of text; what is above three times the lowest y is cut off."""
    lowest = min(ys)
    highest = min(max(ys), 3 * lowest)
    span = (highest - lowest) or 1
    grid = [[' '] * width for _ in range(height)]
    for x, y in zip(xs, ys, strict=True):
        row = (min(y, highest) - lowest) / span * (height - 1)
        column = (x - xs[0]) / (xs[-1] - xs[0]) * (width - 1)
        grid[height - 1 - round(row)][round(column)] = '*'
    lines = [''.join(row) for row in grid]
    half = width // 2
    return [*lines, f'{xs[0]:<{half}.1f}{xs[-1]:>{half}.1f}']


def smooth_curve(ys: list[float]) -> list[float]:
    """Each value averaged with up to 7 neighbours on either side."""
    pooled = F.avg_pool1d(torch.tensor([ys]), 15, 1, padding=7, count_include_pad=False)
    return pooled[0].tolist()


def find_lr(take_step: Callable[[float], float], n_steps: int = 300) -> list[str]:
    """Take steps with ever larger learning rates; the curve of the loss and a proposal, as lines.

    First the loss falls faster and faster, then it explodes. A good rate is well below that.
    """
    exponents = torch.linspace(-5, 0, n_steps).tolist()
    losses = []
    for exponent in exponents:
        loss = take_step(10**exponent)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if loss > 1.3 * losses[0]:
            break
    exponents = exponents[: len(losses)]
    smooth = smooth_curve(losses)

    best = 10 ** exponents[smooth.index(min(smooth))]
    *curve, axis = plot(exponents, smooth)
    proposal = (
        f'lowest loss {min(smooth):.4f} at learning rate {best:.1e}; '
        f'a quarter of it leaves a margin: --learning-rate {best / 4:.1e}'
    )
    return list(itertools.chain(curve, [f'{axis}   log10 of the learning rate', proposal]))
