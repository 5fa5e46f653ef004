"""
What TensorBoard shows: curves, texts, histograms, pictures, embeddings and settings.
"""

import contextlib
import json
import os
import re
import struct
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

# TensorBoard's table shows the first five settings, then the results. To stand beside what it
# depends on, the dev loss is among the settings.
FIRST_COLUMNS = ('type', 'learning_rate', 'batch_size', 'dev loss', 'max_steps')
RESULTS = ('test loss', 'train loss', 'novelty', 'params', 'seconds', 'steps')


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

    def add_png(self, name: str, png: bytes, step: int):
        """Add a picture: the content of a PNG file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        # the header of a PNG file has both as big-endian numbers
        width, height = struct.unpack('>II', png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self.add_event(summary=Summary(value=[Summary.Value(tag=name, image=image)]), step=step)

    def add_chart(self, title: str, tags: str):
        """Draw all curves whose names match a regular expression in one chart (CUSTOM SCALARS)."""
        layout = {title: {title: ['Multiline', [tags]]}}
        self.add_event(summary=self.summary.custom_scalars(layout))

    def add_hparams(self, settings: dict[str, Any], metrics: dict[str, float], title: str):
        """Add a row to the table of runs: its title, settings (None: an empty cell) and results."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        # TensorBoard sorts the columns by their names, so these are numbers
        columns = {f'{i:02}': name for i, name in enumerate(settings)}
        experiment = api_pb2.Experiment()
        # rows with the same title would be merged into one
        start = plugin_data_pb2.SessionStartInfo(group_name=title)
        for column, name in columns.items():
            if settings[name] is None:
                continue
            kind, content = hparam_value(settings[name])
            info = {'name': column, 'display_name': name.replace('_', ' '), 'type': kind}
            experiment.hparam_infos.add(**info)
            start.hparams[column].MergeFrom(content)
        for name in metrics:
            tag = api_pb2.MetricName(tag=f'result/{name}')
            experiment.metric_infos.add(name=tag, display_name=name)
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)

        self.add_hparams_event(metadata.EXPERIMENT_TAG, experiment=experiment)
        self.add_hparams_event(metadata.SESSION_START_INFO_TAG, session_start_info=start)
        self.add_hparams_event(metadata.SESSION_END_INFO_TAG, session_end_info=end)
        for name, value in metrics.items():
            self.add_scalar(f'result/{name}', value, step=0)

    def add_hparams_event(self, tag: str, **content: Any):
        """Write one of the three records of which a row of the table is made."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData(**content)
        about = metadata.create_summary_metadata(data)
        value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
        self.add_event(summary=Summary(value=[value]))

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def read_curves(folder: Path, pattern: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of the curves in a folder whose names match a regular expression.

    There are none if the name of the folder is not UTF-8: TensorBoard cannot read in such a one.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # everything, and nothing of what a resumed run has repeated
    curves = {}
    try:
        events = EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload()
    except UnicodeEncodeError:
        return curves
    for name in events.Tags()['scalars']:
        if re.fullmatch(pattern, name):
            points = events.Scalars(name)
            curves[name] = [point.step for point in points], [point.value for point in points]
    return curves


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


def hparam_value(value: bool | int | float | str) -> tuple[int, Any]:
    """A setting and its type, as TensorBoard's table has them."""
    from google.protobuf.struct_pb2 import Value
    from tensorboard.plugins.hparams import api_pb2

    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL, Value(bool_value=value)
    if isinstance(value, str):
        return api_pb2.DATA_TYPE_STRING, Value(string_value=value)
    return api_pb2.DATA_TYPE_FLOAT64, Value(number_value=value)


def add_report(writer: Any, report: Any, step: int):
    """Write the scalars and histograms of a diagnostic report."""
    for name, value in report.scalars.items():
        writer.add_scalar(name, value, step)
    for name, values in report.histograms.items():
        writer.add_histogram(name, values, step)


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
def add_projector(writer: Any, vectors: torch.Tensor, letters: str):
    """Show an embedding (V, C) in the projector, with a letter for each row."""
    write_embedding(writer.folder, vectors, [label_of(ch) for ch in letters])


def add_result(writer: Any, result: dict[str, Any], title: str, not_used: Collection[str] = ()):
    """Write the row of a run, with that title, in the table of settings and results.

    The cells of settings that the run does not use are empty.
    """
    values = dict(result['settings'])
    for name, value in result.items():
        values[f'{name} loss' if name in ('train', 'dev', 'test') else name] = value
    names = [*FIRST_COLUMNS, *(name for name in result['settings'] if name not in FIRST_COLUMNS)]
    settings = {}
    for name in names:
        value = values[name]
        has_no_dev = name == 'dev loss' and value is None
        if name in not_used or has_no_dev:
            settings[name] = None
        elif isinstance(value, (bool, int, float)):
            settings[name] = value
        else:  # a file name need not be UTF-8
            settings[name] = str(value).encode(errors='replace').decode()
    results = {name: values[name] for name in RESULTS if values[name] is not None}
    title = title.encode(errors='replace').decode()
    writer.add_hparams(settings, results, title)
