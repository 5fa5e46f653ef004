"""
Pictures of a run, drawn with matplotlib: losses, embedding, letter pairs, and what --diagnose sees.

Each function `draw_...` returns a PNG file as bytes, with axes and a caption that says what to look
for. matplotlib is imported only when something is drawn.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn

MOST_LETTERS = 40  # of a larger vocabulary the most frequent ones are shown
MOST_NAMES = 14  # in a legend
MOST_LAYERS = 12  # in the picture of saturation
MOST_EXAMPLES = 200  # in the picture of saturation
DOTS_PER_INCH = 100

LOSS_CAPTION = (
    'The steep fall at first: the net learns how frequent each letter is. Train is noisy, '
    'because each point is one batch. Dev far above train, or rising again, means overfitting.'
)
MIX_NOTE = (
    ' In a mix, train is the mean of the nets in training; dev is the loss of the whole mix, which '
    'at first is that of its n-gram counts.'
)
EMBEDDING_CAPTION = (
    'Letters that lie close together are treated alike by the model. Look for groups, such as '
    'the vowels, and for letters that stand apart.'
)
BIGRAM_CAPTION = (
    'Percent of all letters after the one on the left; a dot is the start and the end of a line. '
    'Look for dark cells, such as qu, and for rows that are spread out evenly.'
)
ACTIVATION_CAPTION = (
    'One line per layer. Good: all similar and spread out. Peaks at -1 and 1 (of a tanh) are '
    'saturated neurons, through which hardly any gradient flows; a peak at 0 is a weak signal.'
)
SATURATION_CAPTION = (
    'White: the nonlinearity is so flat here that hardly any gradient flows through it. Look for '
    'columns that are white from top to bottom: dead neurons, which no example changes.'
)
GRADIENT_CAPTION = (
    'One line per matrix, all of similar width if all layers learn. Much narrower lines mean '
    'little gradient, as in the first layers of a net with vanishing gradients.'
)
UPDATE_CAPTION = (
    'How far a step moves each matrix, relative to its weights. Around the dashed line, -3, is '
    'good; far above is too fast, far below too slow. All fall as the learning rate decays.'
)


Curve = tuple[list[int], list[float]]  # steps and values


def find_embedding(model: nn.Module, letters: str) -> torch.Tensor | None:
    """The first table (V, C) of the model with a row for each letter; None if there is none."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and len(module.weight) == len(letters):
            return module.weight.detach().cpu()
    return None


def is_installed() -> bool:
    """Whether matplotlib is there; if so, it is told to say nothing of its caches and fonts."""
    logging.getLogger('matplotlib').setLevel(logging.ERROR)
    return importlib.util.find_spec('matplotlib') is not None


# -----------------------------------------------------------------------------
# fonts


@functools.cache
def read_characters(path: str) -> set[str]:
    """The characters that a font file can draw; none for a font that matplotlib cannot use."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        font.set_size(12, DOTS_PER_INCH)  # fonts made of bitmaps, as those of emoji, fail here
        return set(map(chr, font.get_charmap()))
    except (RuntimeError, OSError):
        return set()


def add_new_fonts():
    """Make fonts known that were installed after matplotlib has made its list of fonts."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known and read_characters(path):
            manager.addfont(path)


def find_fonts(letters: str) -> tuple[list[str], str]:
    """Installed font families that have the letters, and the letters that no font has."""
    from matplotlib import font_manager

    families = ['DejaVu Sans']  # comes with matplotlib
    missing = set(letters) - read_characters(font_manager.findfont(families[0]))
    if missing:
        add_new_fonts()
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: font.name):
        if not missing:
            break
        # a font of last resort has a box for every letter
        is_last_resort = 'lastresort' in font.name.replace(' ', '').lower()
        if is_last_resort or font.style != 'normal' or font.name in families:
            continue
        found = missing & read_characters(font.fname)
        if found:
            families.append(font.name)
            missing -= found
    return families, ''.join(sorted(missing))


def label_letters(letters: str) -> tuple[list[str], list[str]]:
    """How letters are written in a picture, and the font families for it.

    A space or a control character is put in quotes; a letter that no font has becomes its code.
    """
    families, missing = find_fonts(letters)
    labels = []
    for letter in letters:
        if not letter.isprintable() or letter == ' ':
            labels.append(repr(letter))
        elif letter in missing:
            labels.append(f'U+{ord(letter):04X}')
        else:
            labels.append(letter)
    return labels, families


# -----------------------------------------------------------------------------
# drawing


@contextlib.contextmanager
def new_figure(
    size: tuple[float, float], families: Sequence[str] = ('DejaVu Sans',)
) -> Iterator[Any]:
    """An empty figure of a size in inches. The fonts hold until the end of the block."""
    import matplotlib
    from matplotlib.figure import Figure

    # a dollar sign is a letter like any other, not the start of a formula
    settings = {'font.family': families, 'text.parse_math': False}
    with matplotlib.rc_context(settings):
        yield Figure(size, dpi=DOTS_PER_INCH, layout='constrained')


def to_png(figure: Any, caption: str) -> bytes:
    """The figure as a PNG file, with a caption below it."""
    lines = textwrap.wrap(caption, int(13 * figure.get_figwidth()))  # 13 small letters to an inch
    figure.supxlabel('\n'.join(lines), x=0.01, ha='left', fontsize=9, color='dimgray')
    file = io.BytesIO()
    figure.savefig(file, format='png')
    return file.getvalue()


def depth_colors(n: int) -> list[Any]:
    """Colors for n layers, from the first, dark, to the last, bright."""
    import matplotlib

    scale = matplotlib.colormaps['viridis']
    return [scale(0.9 * i / max(1, n - 1)) for i in range(n)]


def add_legend(axes: Any, n_lines: int):
    """A legend beside the axes, with a part of the names if there are many."""
    handles, names = axes.get_legend_handles_labels()
    stride = -(-n_lines // MOST_NAMES) or 1  # rounded up
    axes.legend(
        handles[::stride], names[::stride], loc='upper left', bbox_to_anchor=(1, 1), fontsize=8
    )


# -----------------------------------------------------------------------------
# losses


LOSS_STYLES = {
    'train': {'linewidth': 0.7, 'color': 'tab:blue', 'alpha': 0.6},
    'dev': {'marker': '.', 'color': 'tab:orange'},
    'all': {'marker': '.', 'color': 'tab:orange'},
    'n-gram': {'linestyle': '--', 'color': 'black', 'linewidth': 1},
}


def draw_losses(curves: dict[str, Curve], unit: str, is_mix: bool = False) -> bytes:
    """Train and dev loss, and the loss of n-gram counts as a dashed line where it is known.

    Train is thin and light, because it is noisy; dev has a dot for each evaluation.
    """
    caption = LOSS_CAPTION
    if is_mix:
        caption += MIX_NOTE
    if 'n-gram' in curves:
        caption += ' The dashed line is what counting n-grams reaches.'
    with new_figure((8, 5)) as figure:
        axes = figure.subplots()
        for name, (steps, values) in curves.items():
            label = 'train' if name == 'train' else f'{name} {values[-1]:.4f}'
            axes.plot(steps, values, label=label, **LOSS_STYLES[name])
        axes.set_title('loss')
        axes.set_xlabel('step')
        axes.set_ylabel(f'nats per {unit}')
        axes.grid(alpha=0.3)
        axes.legend()
        return to_png(figure, caption)


# -----------------------------------------------------------------------------
# letters


def most_frequent(counts: torch.Tensor) -> torch.Tensor:
    """The ids of the most frequent tokens, in the order of the vocabulary."""
    n = min(len(counts), MOST_LETTERS)
    return counts.topk(n).indices.sort().values


def find_missing_letters(letters: str, counts: torch.Tensor) -> str:
    """Those of the letters to be shown that no installed font has."""
    shown = [letters[i] for i in most_frequent(counts).tolist()]
    printable = ''.join(letter for letter in shown if letter.isprintable())
    return find_fonts(printable)[1]


def project(vectors: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """Vectors (N, C) in two dimensions, and the names of these: PCA beyond two channels."""
    vectors = vectors.double()
    n, n_channels = vectors.shape
    if n_channels <= 2:
        points = torch.zeros(n, 2, dtype=vectors.dtype)
        points[:, :n_channels] = vectors
        return points, ['channel 1', 'channel 2']
    # the directions in which the vectors vary most are the first singular vectors
    centered = vectors - vectors.mean(0)
    U, S, _ = torch.linalg.svd(centered, full_matrices=False)
    points = torch.zeros(n, 2, dtype=vectors.dtype)
    k = min(2, len(S))
    points[:, :k] = U[:, :k] * S[:k]
    shares = S.square() / S.square().sum().clamp(min=1e-30)
    names = [
        f'principal component {i + 1}: {100 * shares[i]:.0f} % of the variance' for i in range(k)
    ]
    return points, (names * 2)[:2]


def add_note(caption: str, n_shown: int, n: int) -> str:
    """The caption, and that not all letters are shown, if so."""
    if n_shown == n:
        return caption
    return f'{caption} Of {n:,} letters the {n_shown} most frequent are shown.'


def draw_embedding(vectors: torch.Tensor, letters: str, counts: torch.Tensor) -> bytes:
    """A map of the letters, each in a dot; vectors (V, C), a letter and a count for each."""
    ids = most_frequent(counts)
    labels, families = label_letters(''.join(letters[i] for i in ids.tolist()))
    points, names = project(vectors[ids])
    x, y = points.T.tolist()
    with new_figure((8, 7.5), families) as figure:
        axes = figure.subplots()
        axes.scatter(x, y, s=1)  # sets the limits of the axes, which texts do not
        for i, label in enumerate(labels):
            shape = 'circle' if len(label) == 1 else 'round'
            box = {'boxstyle': f'{shape},pad=0.3', 'facecolor': 'tab:blue', 'edgecolor': 'white'}
            size = 10 if len(label) == 1 else 7
            where = {'ha': 'center', 'va': 'center'}
            axes.text(x[i], y[i], label, **where, color='white', fontsize=size, bbox=box)
        axes.set_title('embedding')
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.grid(alpha=0.3)
        return to_png(figure, add_note(EMBEDDING_CAPTION, len(ids), len(letters)))


@torch.no_grad()
def draw_bigrams(model: nn.Module, letters: str, counts: torch.Tensor) -> bytes:
    """Which letter follows which, by a model that sees one letter."""
    from matplotlib.colors import PowerNorm

    device = next(iter(model.state_dict().values())).device  # a counted model has no parameters
    ids = most_frequent(counts)
    logits = model.eval().next_logits(ids[:, None].to(device))
    probs = logits.softmax(-1).float().cpu()[:, ids]
    labels, families = label_letters(''.join(letters[i] for i in ids.tolist()))
    side = 2 + 0.4 * len(ids)
    with new_figure((side, side), families) as figure:
        axes = figure.subplots()
        # the root, so that rare pairs can be seen, too
        scale = PowerNorm(0.5, 0, probs.max().item())
        axes.imshow(probs.numpy(), cmap='Blues', norm=scale, aspect='auto')
        add_pairs(axes, probs, labels)
        ticks = range(len(labels))
        longest = max(len(label) for label in labels)
        axes.set_xticks(ticks, labels, rotation=90 if longest > 3 else 0)
        axes.set_yticks(ticks, labels)
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.xaxis.set_label_position('top')
        axes.set_xlabel('next letter')
        axes.set_ylabel('letter')
        return to_png(figure, add_note(BIGRAM_CAPTION, len(ids), len(letters)))


def add_pairs(axes: Any, probs: torch.Tensor, labels: list[str]):
    """Write the pair and its percentage in each cell, as in the lecture."""
    strongest = probs.max().item()
    for row, first in enumerate(labels):
        for column, second in enumerate(labels):
            p = probs[row, column].item()
            if p < 0.0005:  # 0.0 %
                continue
            pair = first + second
            lines = f'{100 * p:.1f}' if len(pair) > 4 else f'{pair}\n{100 * p:.1f}'
            color = 'white' if p > 0.4 * strongest else 'black'
            # left out of the layout: measuring a thousand texts takes a second
            axes.text(
                column, row, lines, ha='center', va='center', color=color, fontsize=7
            ).set_in_layout(False)


# -----------------------------------------------------------------------------
# what --diagnose sees


def draw_densities(values: dict[str, torch.Tensor], title: str, xlabel: str, caption: str) -> bytes:
    """The distribution of some numbers of each layer: one line each."""
    with new_figure((9, 5)) as figure:
        axes = figure.subplots()
        for color, (name, numbers) in zip(depth_colors(len(values)), values.items(), strict=True):
            finite = numbers.flatten().float().cpu()
            finite = finite[finite.isfinite()]
            if len(finite) == 0:
                continue
            # the area below each line is 1, however many numbers a layer has
            density, edges = torch.histogram(finite, bins=60, density=True)
            centers = (edges[:-1] + edges[1:]) / 2
            axes.plot(centers, density, color=color, linewidth=1, label=name)
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel('density')
        add_legend(axes, len(values))
        return to_png(figure, caption)


def draw_activations(outputs: dict[str, torch.Tensor]) -> bytes:
    """The distribution of what each nonlinearity puts out."""
    labeled = {f'{name}: std {x.std():.2f}': x for name, x in outputs.items()}
    return draw_densities(labeled, 'activations', 'output of the layer', ACTIVATION_CAPTION)


def draw_gradients(gradients: dict[str, torch.Tensor]) -> bytes:
    """The distribution of the gradients of each matrix."""
    labeled = {f'{name}: std {x.std():.1e}': x for name, x in gradients.items()}
    return draw_densities(labeled, 'gradients of the weights', 'gradient', GRADIENT_CAPTION)


def draw_saturation(masks: dict[str, torch.Tensor]) -> bytes:
    """Which neurons are saturated by which examples; masks (examples, neurons) of each layer.

    Of many examples an even selection is shown, as those of a recurrent net lie in the order of
    their positions in the line. The titles count all of them.
    """
    shown = dict(list(masks.items())[:MOST_LAYERS])
    image = {'cmap': 'gray', 'vmin': 0, 'vmax': 1, 'aspect': 'auto', 'interpolation': 'none'}
    with new_figure((9, 1.5 + 2.2 * len(shown))) as figure:
        panels = figure.subplots(len(shown), squeeze=False)[:, 0]
        for axes, (name, mask) in zip(panels, shown.items(), strict=True):
            stride = -(-len(mask) // MOST_EXAMPLES)  # rounded up
            axes.imshow(mask[::stride].numpy(), **image)
            share = 100 * mask.float().mean()
            n_dead = int(mask.all(0).sum())
            axes.set_title(f'{name}: {share:.1f} % saturated, dead neurons: {n_dead}', fontsize=9)
            axes.set_ylabel('example')
        panels[-1].set_xlabel('neuron')
        return to_png(figure, SATURATION_CAPTION)


def draw_updates(curves: dict[str, Curve], guide: float) -> bytes:
    """The size of the updates over the steps: a line for each matrix, a dashed one at `guide`."""
    names = [name for name in curves if not name.endswith('/guide')]
    with new_figure((9, 5)) as figure:
        axes = figure.subplots()
        for color, name in zip(depth_colors(len(names)), names, strict=True):
            steps, values = curves[name]
            label = name.rpartition('/')[2]
            axes.plot(steps, values, color=color, marker='.', linewidth=1, label=label)
        axes.axhline(guide, color='black', linestyle='--', linewidth=1)
        axes.set_title('update to data')
        axes.set_xlabel('step')
        axes.set_ylabel('log10 of std of update / std of weights')
        axes.grid(alpha=0.3)
        add_legend(axes, len(names))
        return to_png(figure, UPDATE_CAPTION)


# -----------------------------------------------------------------------------
# all pictures of a run


def draw_curves(
    losses: dict[str, Curve], updates: dict[str, Curve], unit: str, guide: float, is_mix: bool
) -> dict[str, bytes]:
    """The pictures of the curves of a run, by name."""
    pngs = {'loss': draw_losses(losses, unit, is_mix)}
    if updates:
        pngs['updates'] = draw_updates(updates, guide)
    return pngs


def draw_letters(
    model: nn.Module, vectors: torch.Tensor | None, letters: str, counts: torch.Tensor
) -> dict[str, bytes]:
    """Pictures of what a model has learned about the letters: its embedding, its bigrams."""
    pngs = {}
    if len(letters) < 2:
        return pngs
    if vectors is not None:
        pngs['embedding'] = draw_embedding(vectors, letters, counts)
    if model.context == 1:
        pngs['bigrams'] = draw_bigrams(model, letters, counts)
    return pngs


def draw_diagnosis(activations: Any, updates: Any) -> dict[str, bytes]:
    """Pictures of the two reports of a diagnosis, by name."""
    pngs = {}
    if activations.outputs:
        pngs['activations'] = draw_activations(activations.outputs)
        pngs['saturation'] = draw_saturation(activations.saturated)
    pngs['gradients'] = draw_gradients(updates.gradients)
    return pngs
