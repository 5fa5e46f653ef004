"""
Pictures, embeddings and settings for TensorBoard.

A writer is anything with `add(summary=..., step=...)`, `add_scalars(step, values)`, a `folder`
and `summary`, the functions of torch.utils.tensorboard.summary.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn as nn


def add_report(writer: Any, report: Any, step: int):
    """Write the scalars, histograms and images of a diagnostic report."""
    writer.add_scalars(step, report.scalars)
    for name, values in report.histograms.items():
        summary = writer.summary.histogram(name, values.cpu().numpy(), bins=64)
        writer.add(summary=summary, step=step)
    for name, image in report.images.items():
        writer.add(summary=writer.summary.image(name, image), step=step)


def draw_bigrams(probs: torch.Tensor, labels: str, cell: int = 40) -> torch.Tensor:
    """Probabilities (V, V) as the bigram lecture's picture (H, W, 3).

    In every cell stands the pair and its share of the row in percent; bluer is more probable.
    """
    from PIL import Image, ImageDraw

    image = Image.new('RGB', (cell * len(probs), cell * len(probs)))
    pen = ImageDraw.Draw(image)
    strength = (probs / probs.max()).sqrt()  # the root, so that rare pairs can be seen, too
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            x = cell * j
            y = cell * i
            shade = round(255 * (1 - 0.8 * strength[i, j].item()))
            pen.rectangle([x, y, x + cell, y + cell], fill=(shade, shade, 255))
            pen.text((x + 5, y + 4), first + second, fill='black')
            pen.text((x + 5, y + 20), f'{100 * probs[i, j]:.1f}', fill='black')
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3)


def write_embedding(folder: Path, vectors: torch.Tensor, labels: list[str]):
    """Write the files of the projector: the vectors, their labels, and where the two are."""
    rows = ['\t'.join(map(str, row)) for row in vectors.tolist()]
    (folder / 'vectors.tsv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    (folder / 'labels.tsv').write_text('\n'.join(labels) + '\n', encoding='utf-8')
    config = (
        'embeddings {\n'
        '  tensor_name: "embedding"\n'
        '  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "labels.tsv"\n'
        '}\n'
    )
    (folder / 'projector_config.pbtxt').write_text(config, encoding='utf-8')


def label_of(ch: str) -> str:
    """A character as it can be shown in a list: a space or a control character in quotes."""
    return ch if ch.isprintable() and ch != ' ' else repr(ch)


@torch.no_grad()
def add_final(writer: Any, model: nn.Module, labels: str, result: dict[str, Any]):
    """Write what is shown of a finished run: embedding, pairs of characters, settings.

    `labels` has a character for each token; it is empty where the tokens are byte pairs.
    """
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    if tables and len(tables[0]) == len(labels):
        write_embedding(writer.folder, tables[0], [label_of(ch) for ch in labels])
    if model.context == 1 and 1 < len(labels) <= 100:
        add_bigram_picture(writer, model, labels)
    add_hparams(writer, result)


def add_bigram_picture(writer: Any, model: nn.Module, labels: str):
    """Write the picture of which token follows which."""
    device = next(iter(model.state_dict().values())).device
    tokens = torch.arange(len(labels), device=device)[:, None]
    probs = model.eval().next_logits(tokens).softmax(-1).cpu()
    picture = draw_bigrams(probs, labels)
    name = 'which follows which, in percent'
    writer.add(summary=writer.summary.image(name, picture, dataformats='HWC'), step=0)


def add_hparams(writer: Any, result: dict[str, Any]):
    """Write the row of a run in the table of settings and results."""
    settings = {}
    for name, value in result['settings'].items():
        if name != 'encoding':  # the table opens with the first few columns
            is_plain = isinstance(value, (bool, int, float))
            settings[name] = value if is_plain else str(value)
    metrics = {f'result/{name}': v for name, v in result.items() if isinstance(v, float)}
    for summary in writer.summary.hparams(settings, metrics):
        writer.add(summary=summary)
    writer.add_scalars(0, metrics)
