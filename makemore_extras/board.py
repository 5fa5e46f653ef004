"""
What TensorBoard shows: curves, texts, histograms, pictures, embeddings and settings.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn


class EventWriter:
    """Writes an event file, which TensorBoard reads; its methods are those of SummaryWriter.

    SummaryWriter writes in a thread of its own, where a full disk ends in a traceback. Here the
    error is raised where the value is written.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        """A new event file; of an older one TensorBoard shows what is before first_step."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self.folder = folder
        self.make_event = Event
        self.summary = summary  # functions that make summaries: scalar, text, image, histogram
        path = folder / f'events.out.tfevents.{time.time():.6f}.{os.getpid()}'
        self.file = open(path, 'xb')  # noqa: SIM115 (closed when the run ends)
        self.records = RecordWriter(self.file)
        self.add_event(file_version='brain.Event:2')
        self.add_event(session_log=SessionLog(status=SessionLog.START), step=first_step)

    def add_event(self, **content: Any):
        event = self.make_event(wall_time=time.time(), **content)
        self.records.write(event.SerializeToString())

    def add_scalar(self, name: str, value: float, step: int):
        """Add a point to a curve."""
        self.add_event(summary=self.summary.scalar(name, value), step=step)

    def add_text(self, name: str, text: str, step: int):
        self.add_event(summary=self.summary.text(name, text), step=step)

    def add_histogram(self, name: str, values: torch.Tensor, step: int):
        numbers = values.cpu().numpy()
        self.add_event(summary=self.summary.histogram(name, numbers, bins=64), step=step)

    def add_image(self, name: str, image: torch.Tensor, step: int, dataformats: str = 'CHW'):
        summary = self.summary.image(name, image, dataformats=dataformats)
        self.add_event(summary=summary, step=step)

    def add_hparams(self, settings: dict[str, Any], metrics: dict[str, float]):
        """Add a row to the table of runs: settings and results."""
        for summary in self.summary.hparams(settings, metrics):
            self.add_event(summary=summary)
        for name, value in metrics.items():
            self.add_scalar(name, value, step=0)

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def find_lowest_loss(folder: Path, model_type: str, data: dict[str, Any]) -> float | None:
    """The lowest dev loss of the runs below a folder with this type and these settings of data."""
    losses = []
    for path in folder.glob('*/result.json'):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one
            result = json.loads(path.read_bytes())
            same_data = data.items() <= result['settings'].items()
            if result['type'] == model_type and same_data and result['dev'] is not None:
                losses.append(float(result['dev']))
    return min(losses, default=None)


def add_report(writer: Any, report: Any, step: int):
    """Write the scalars, histograms and images of a diagnostic report."""
    for name, value in report.scalars.items():
        writer.add_scalar(name, value, step)
    for name, values in report.histograms.items():
        writer.add_histogram(name, values, step)
    for name, image in report.images.items():
        writer.add_image(name, image, step)


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


def write_new(path: Path, content: str):
    """Write a file in the place of an old one, but not through a link that is there."""
    path.unlink(missing_ok=True)
    with open(path, 'x', encoding='utf-8') as file:
        file.write(content)


def write_embedding(folder: Path, vectors: torch.Tensor, labels: list[str]):
    """Write the files of the projector: the vectors, their labels, and where the two are."""
    rows = ['\t'.join(map(str, row)) for row in vectors.tolist()]
    write_new(folder / 'vectors.tsv', '\n'.join(rows) + '\n')
    write_new(folder / 'labels.tsv', '\n'.join(labels) + '\n')
    config = (
        'embeddings {\n'
        '  tensor_name: "embedding"\n'
        '  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "labels.tsv"\n'
        '}\n'
    )
    write_new(folder / 'projector_config.pbtxt', config)


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
    add_result(writer, result)


def add_bigram_picture(writer: Any, model: nn.Module, labels: str):
    """Write the picture of which token follows which."""
    device = next(iter(model.state_dict().values())).device
    tokens = torch.arange(len(labels), device=device)[:, None]
    probs = model.eval().next_logits(tokens).softmax(-1).cpu()
    picture = draw_bigrams(probs, labels)
    writer.add_image('which follows which, in percent', picture, 0, dataformats='HWC')


def add_result(writer: Any, result: dict[str, Any]):
    """Write the row of a run in the table of settings and results."""
    settings = {}
    for name, value in result['settings'].items():
        if name != 'encoding':  # the table opens with the first few columns
            is_plain = isinstance(value, (bool, int, float))
            # a file name need not be UTF-8
            settings[name] = value if is_plain else str(value).encode(errors='replace').decode()
    metrics = {f'result/{name}': v for name, v in result.items() if isinstance(v, float)}
    writer.add_hparams(settings, metrics)
