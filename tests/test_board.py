"""What TensorBoard shows: small runs, a real TensorBoard over them, and what its pages ask for."""

import json
import math
import re
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import replace

import pytest
import torch
from conftest import DRAWING, SMALL, flags

import makemore
from makemore_extras import board

pytestmark = pytest.mark.slow

pytest.importorskip('tensorboard', reason='TensorBoard is not installed: pip install tensorboard')
RATES = {'slow': 1e-3, 'fast': 1e-2}  # two runs that differ in their learning rate
# What the layers of an mlp are called, and their matrices in its checkpoint.
NAMES = {'embedding 1': 'net.0.weight', 'linear 1': 'net.2.weight', 'linear 2': 'net.5.weight'}
PRINTED_STEP = r'^step +(\d+) \| (?:train loss ([\d.]+) \| )?dev loss ([\d.]+)'


class Board:
    """A TensorBoard of its own on this machine."""

    def __init__(self, folder):
        command = [sys.executable, '-m', 'tensorboard.main', '--logdir', str(folder)]
        command += ['--host', '127.0.0.1', '--port', '0']
        command += ['--load_fast', 'false', '--reload_interval', '1']
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = self.wait_for_address()
        # a proxy that the environment may name knows nothing of the ports of this machine
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def wait_for_address(self):
        printed = []
        for line in self.process.stderr:
            printed.append(line)
            if found := re.search(r'http://\S+:\d+/', line):
                return found[0]
        raise AssertionError('TensorBoard has not started: ' + ''.join(printed))

    def ask_raw(self, path, body=None, **query):
        address = f'{self.address}data/plugin/{path}'
        if query:
            address += '?' + urllib.parse.urlencode(query)
        request = urllib.request.Request(address)
        if body:
            request.data = json.dumps(body).encode()
            request.add_header('Content-Type', 'application/json')
        with self.open(request, timeout=60) as answer:
            return answer.read()

    def ask(self, path, body=None, **query):
        return json.loads(self.ask_raw(path, body, **query))

    def table_rows(self):
        """The rows of the table of runs."""
        statuses = ['STATUS_UNKNOWN', 'STATUS_SUCCESS', 'STATUS_FAILURE', 'STATUS_RUNNING']
        request = {
            'experimentName': '',
            'allowedStatuses': statuses,
            'colParams': [],
            'startIndex': 0,
            'sliceSize': 100,
        }
        return self.ask('hparams/session_groups', request)['sessionGroups']

    def wait_until_read(self, seconds=120):
        """Wait until both runs are read to their end: the novelty is what a run writes last."""
        for _ in range(5 * seconds):
            tags = []
            for row in self.table_rows():
                for session in row['sessions']:
                    tags += [value['name']['tag'] for value in session.get('metricValues', [])]
            if tags.count('result/novelty') == len(RATES):
                return
            time.sleep(0.2)
        raise AssertionError(f'TensorBoard shows {self.table_rows()} after {seconds} s')

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope='module')
def runs(names, command_line, tmp_path_factory):
    """Two runs of 50 steps: their folder, what they printed, and their results."""
    folder = tmp_path_factory.mktemp('board')
    steps = {'max_steps': 50, 'eval_interval': 10, 'sample_interval': 25, 'diagnose': 25}
    settings = flags({**SMALL, **steps, 'num_samples': 5})
    printed = {}
    results = {}
    for name, rate in RATES.items():
        args = ['-i', names, '--type', 'mlp', *settings, '-l', rate, '-o', folder / name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(DRAWING, 'wanted', True)
            printed[name] = command_line(*args)
        assert printed[name].code == 0, printed[name].err
        results[name] = json.loads((folder / name / 'result.json').read_text())
    return folder, printed, results


@pytest.fixture(scope='module')
def shown(runs):
    """The TensorBoard over the two runs."""
    folder, _, _ = runs
    shown = Board(folder)
    try:
        shown.wait_until_read()
        yield shown
    finally:
        shown.close()


@pytest.fixture(scope='module')
def best(runs):
    """The weights of the best model of each run."""
    folder, _, _ = runs
    checkpoints = {}
    for name in RATES:
        content = torch.load(folder / name / 'best.pt', weights_only=True)
        checkpoints[name] = content['model']
    return checkpoints


# The first test has to wait until TensorBoard has started and read the runs.
@pytest.mark.slow
def test_the_folder_of_a_run_is_one_run(shown):
    """Once every matrix had a run of its own, and the list of a sweep could not be read.

    Only the curves of train and dev have, so that they share a card.
    """
    folders = {f'{name}/{curve}' for name in RATES for curve in ('train', 'dev')}
    assert set(shown.ask('scalars/tags')) == set(RATES) | folders


@pytest.mark.slow
def test_scalars_are_what_the_run_printed(shown, runs):
    _, printed, results = runs
    for name, rate in RATES.items():
        curves = {}
        for curve in ('train', 'dev'):
            for tag in shown.ask('scalars/tags')[f'{name}/{curve}']:
                points = shown.ask('scalars/scalars', run=f'{name}/{curve}', tag=tag)
                steps = {step: value for _, step, value in points}
                curves['dev loss' if curve == 'dev' else tag] = steps
        lines = re.findall(PRINTED_STEP, printed[name].err, re.MULTILINE)
        assert len(lines) == 6
        dev = {int(step): float(loss) for step, _, loss in lines}
        assert curves['dev loss'] == pytest.approx(dev, abs=1e-4)
        assert min(dev.values()) == pytest.approx(results[name]['dev'], abs=1e-4)
        for tag in ('loss', 'training/learning rate', 'training/gradient norm'):
            assert list(curves[tag]) == list(range(1, 51))
        for step, loss, _ in lines:
            if loss:  # of train, the mean of the last ten steps
                last_ten = [curves['loss'][int(step) - back] for back in range(10)]
                assert sum(last_ten) / 10 == pytest.approx(float(loss), abs=1e-4)
        assert max(curves['training/learning rate'].values()) == pytest.approx(rate, rel=0.2)
        assert min(curves['training/gradient norm'].values()) > 0
        assert min(curves['training/tokens per second'].values()) > 0
        # of the embedding, the hidden layer and the head
        assert len([tag for tag in curves if tag.startswith('relative gradient/')]) == 3


@pytest.mark.slow
def test_histograms_hold_every_number(shown, best):
    """A bar for what was counted, and nothing lost: as many numbers as the matrix has."""
    tags = shown.ask('histograms/tags')
    for name, weights in best.items():
        run = f'{name}/train'
        gradients = [tag for tag in tags[run] if tag.startswith('weight gradient/')]
        assert len(gradients) == 3
        assert {tag.split('/')[0] for tag in tags[run]} >= {'output', 'pre-activation'}
        for tag in tags[run]:
            histograms = shown.ask('histograms/histograms', run=run, tag=tag)
            # a report is about the step that was just taken, after 0 and 25 others
            assert [step for _, step, _ in histograms] == [1, 26]
            for _, _, bars in histograms:
                assert all(-math.inf < left <= right < math.inf for left, right, _ in bars)
                count = sum(n for _, _, n in bars)
                if tag in gradients:
                    assert count == weights[NAMES[tag.split('/')[1]]].numel()
                else:
                    assert count > 1000


@pytest.mark.slow
def test_the_histogram_of_a_tanh_ends_at_1(shown):
    """But for the width of TensorBoard's bars."""
    for name in RATES:
        run = f'{name}/train'
        tags = shown.ask('histograms/tags')[run]
        (tag,) = [tag for tag in tags if tag.startswith('output/')]
        for _, _, bars in shown.ask('histograms/histograms', run=run, tag=tag):
            edges = [edge for left, right, n in bars if n for edge in (left, right)]
            assert -1.1 <= min(edges) <= max(edges) <= 1.1


@pytest.mark.slow
def test_images_are_pictures(shown):
    for name in RATES:
        tags = shown.ask('images/tags')[name]
        wanted = {f'pictures/{name}' for name in makemore.PICTURES}
        assert set(tags) == wanted - {'pictures/bigrams'}
        for tag, about in tags.items():
            images = shown.ask('images/images', run=name, tag=tag, sample=about['samples'] - 1)
            # the pictures of a diagnosis change from one to the next
            is_final = tag.split('/')[1] in ('loss', 'embedding', 'updates')
            assert [image['step'] for image in images] == ([50] if is_final else [1, 26])
            png = shown.ask_raw('images/individualImage?' + images[-1]['query'])
            assert png.startswith(b'\x89PNG')
            width, height = struct.unpack('>II', png[16:24])
            assert min(width, height) > 300


@pytest.mark.slow
def test_texts_are_the_samples(shown, runs):
    _, printed, _ = runs
    for name in RATES:
        texts = {}
        for tag in shown.ask('text/tags')[name]:
            for item in shown.ask('text/text', run=name, tag=tag):
                text = re.sub('<[^>]*>', '', item['text'])  # without the markup of the page
                texts.setdefault(item['step'], []).append(text.split())
        assert set(texts) == {25, 50}
        during, *lists = re.split('samples at temperature .*:', printed[name].out)
        assert texts[25] == [during.strip().split(', ')]
        assert len(lists) == len(texts[50]) == 2
        for samples, listed in zip(texts[50], lists, strict=True):
            for sample in samples:
                assert f'\n  {sample}' in listed


@pytest.mark.slow
def test_the_table_of_settings_shows_the_sweep(shown, runs):
    """HPARAMS: a row for each run with its settings and its result."""
    _, _, results = runs
    experiment = shown.ask('hparams/experiment', {'experimentName': ''})
    columns = {info['name']: info['displayName'] for info in experiment['hparamInfos']}
    assert list(columns.values())[:4] == ['type', 'learning rate', 'batch size', 'dev loss']
    rows = shown.table_rows()
    assert len(rows) == len(RATES)
    for row in rows:
        (session,) = row['sessions']
        result = results[session['name']]
        assert row['name'].startswith(f'{session["name"]} --')
        shown_settings = {columns[name]: value for name, value in row['hparams'].items()}
        settings = {k.replace('_', ' '): v for k, v in result['settings'].items()}
        assert shown_settings.pop('dev loss') == pytest.approx(result['dev'])
        assert set(shown_settings) == set(settings) == set(columns.values()) - {'dev loss'}
        for name, value in settings.items():
            is_plain = isinstance(value, (int, float, str))
            assert shown_settings[name] == (value if is_plain else str(value)), name
        metrics = {metric['name']['tag']: metric['value'] for metric in session['metricValues']}
        for name in ('train', 'test'):
            assert metrics[f'result/{name} loss'] == pytest.approx(result[name], rel=1e-5)
        assert metrics['result/novelty'] == pytest.approx(result['novelty'], rel=1e-5)
    rates = [
        row['hparams'][column]
        for row in rows
        for column in columns
        if columns[column] == 'learning rate'
    ]
    assert sorted(rates) == sorted(RATES.values())


@pytest.mark.slow
def test_the_projector_shows_the_embedding(shown, best):
    """A point for each character, where the best model put it, with the character as its label."""
    assert set(shown.ask('projector/runs')) == set(RATES)
    for name, weights in best.items():
        (table,) = shown.ask('projector/info', run=name)['embeddings']
        embedding = weights['net.0.weight']
        assert table['tensorShape'] == list(embedding.shape) == [27, SMALL['n_embd']]
        place = {'run': name, 'name': table['tensorName']}
        raw = shown.ask_raw('projector/tensor', **place)
        points = torch.frombuffer(bytearray(raw), dtype=torch.float32).view_as(embedding)
        torch.testing.assert_close(points, embedding, rtol=0, atol=1e-6)
        labels = shown.ask_raw('projector/metadata', **place).decode().split('\n')
        letters = [chr(code) for code in range(ord('a'), ord('z') + 1)]
        assert [label.strip("'") for label in labels if label] == ['.', *letters]


# -----------------------------------------------------------------------------
# the files, without a TensorBoard


def test_the_files_of_a_run(runs):
    """One event file, and the projector's three: a second event file would be a second run."""
    folder, _, _ = runs
    for name in RATES:
        files = {path.name for path in (folder / name).iterdir() if path.name != 'lock'}
        for curve in ('train', 'dev'):
            files.remove(curve)
            (events,) = (folder / name / curve).iterdir()
            assert events.name.startswith('events.out.tfevents.')
        (events,) = [file for file in files if file.startswith('events.out.tfevents.')]
        projector = {'vectors.tsv', 'labels.tsv', 'projector_config.pbtxt'}
        drawn = {f'{picture}.png' for picture in makemore.PICTURES if picture != 'bigrams'}
        projector |= drawn
        checkpoints = {'best.pt', 'last.pt'}
        assert files - {events} == {*checkpoints, 'result.json', 'metrics.jsonl', *projector}


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload()


def test_a_writer_writes_scalars_and_texts(tmp_path):
    writer = board.EventWriter(tmp_path)
    writer.add_scalar('loss/dev', 1.5, 3)
    writer.add_scalar('loss/dev', 1.25, 4)
    writer.add_scalar('loss/train', 2.5, 3)
    writer.add_text('samples/new', 'é, ü', 4)
    writer.close()
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars('loss/dev')] == [(3, 1.5), (4, 1.25)]
    assert [(e.step, e.value) for e in events.Scalars('loss/train')] == [(3, 2.5)]
    (text,) = events.Tensors('samples/new/text_summary')
    assert text.step == 4
    assert text.tensor_proto.string_val[0].decode() == 'é, ü'


def test_an_error_is_raised_where_the_value_is_written(tmp_path):
    """torch's writer has a thread of its own, in which a full disk ends in a traceback."""
    writer = board.EventWriter(tmp_path)
    writer.close()
    with pytest.raises(ValueError, match='closed file'):
        writer.add_scalar('loss/dev', 1.0, 1)


def test_samples_that_utf8_can_not_hold_are_written(tmp_path, train, monkeypatch):
    """Half of a surrogate pair used to end the run in a traceback."""
    monkeypatch.setattr(makemore.CharDataset, 'decode', lambda self, tokens: 'a\ud800b')
    assert train('mlp', '-o', 'x').code == 0
    (text,) = read_events(tmp_path / 'x').Tensors('samples/temperature 1.0/text_summary')
    assert text.tensor_proto.string_val[0].decode() == '    a?b\n    a?b\n    a?b'


def test_samples_are_code():
    """TensorBoard takes a text for Markdown: *names* were set in italics, and 1. became a list."""
    code = makemore.as_code(['*anna*', 'two\n\nlines'])
    assert code == '    *anna*\n    two\n    \n    lines'


def test_without_the_extras_there_are_curves_and_samples(train, tmp_path, monkeypatch):
    """torch's own writer takes them."""
    monkeypatch.setattr(makemore, 'HAVE_EXTRAS', False)
    assert train('mlp', '-o', 'x').code == 0
    assert [e.step for e in read_events(tmp_path / 'x/dev').Scalars('loss')] == [0, 5, 10, 12]
    train_curves = read_events(tmp_path / 'x/train')
    for tag in ('loss', 'training/learning rate'):
        assert [e.step for e in train_curves.Scalars(tag)] == list(range(1, 13))
    tags = read_events(tmp_path / 'x').Tags()['tensors']
    assert any(tag.startswith('samples/') for tag in tags)


def test_without_tensorboard_a_run_has_no_curves(train, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    result = train('mlp', '-o', 'x')
    assert result.code == 0
    assert 'so there are no curves: pip install tensorboard' in result.err


def test_embedding_files_have_a_row_and_a_label_for_each_token(tmp_path):
    """A label that could not be seen in a list, or would break it, stands in quotes."""
    vectors = torch.tensor([[0.0, 1.5], [2.0, -3.0], [4.0, 5.0]])
    labels = [board.label_of(ch) for ch in 'a \n']
    board.write_embedding(tmp_path, vectors, labels)
    assert (tmp_path / 'vectors.tsv').read_text() == '0.0\t1.5\n2.0\t-3.0\n4.0\t5.0\n'
    assert (tmp_path / 'labels.tsv').read_text() == "a\n' '\n'\\n'\n"
    config = (tmp_path / 'projector_config.pbtxt').read_text()
    assert 'tensor_path: "vectors.tsv"' in config
    assert 'metadata_path: "labels.tsv"' in config


def test_byte_pairs_have_no_labels(train, tmp_path):
    assert train('bigram', '-o', 'x', '--tokenizer', 'bpe', '--vocab-size', 256).code == 0
    assert not (tmp_path / 'x/vectors.tsv').exists()


def test_a_run_is_named_after_what_was_typed(build, tmp_path):
    """In the table of a sweep: mlp-2, mlp-3, ... say nothing."""
    config, dataset, model = build('mlp')
    typed = {'learning_rate': 1e-4, 'max_steps': 50}
    config = makemore.adapt_to_size(replace(config, **typed), dataset, typed)
    run = makemore.Run(config, dataset, model, tmp_path / 'names-mlp-2')
    name, *words = makemore.describe_run(run).split()
    assert name == 'names-mlp-2'
    assert words[-4:] == ['--learning-rate', '0.0001', '--max-steps', '50']
    assert '--batch-size' not in words


@pytest.mark.parametrize('model_type', ['mlp', 'mix'])
def test_what_the_size_of_a_list_decides_is_not_in_the_name_of_a_run(model_type, build, tmp_path):
    """A run on a short list was called heroes-mix --batch-size 32 --learning-rate 0.0025, though
    neither had been typed.
    """
    _, dataset, model = build('mlp')
    typed = {'type': model_type, 'max_steps': 12}
    config = makemore.adapt_to_size(makemore.resolve_config(typed), dataset, typed)
    assert config.batch_size < makemore.resolve_config(typed).batch_size
    run = makemore.Run(config, dataset, model, tmp_path / 'names')
    assert makemore.describe_run(run) == 'names --max-steps 12'


class Table:
    """Takes the rows of the table instead of a writer."""

    def __init__(self):
        self.rows = []

    def add_hparams(self, settings, metrics, title):
        self.rows.append(settings)


RESULT = {'type': 'mlp', 'train': 1.9, 'dev': 2.0, 'test': None, 'novelty': 0.5, 'params': 3}
RESULT |= {'seconds': 1.0, 'steps': 9}
RESULT['settings'] = {'batch_size': 32, 'learning_rate': 0.1, 'max_steps': 9, 'type': 'mlp'}


def test_settings_that_a_run_does_not_use_are_empty():
    """n-gram counts had a learning rate in the table."""
    table = Table()
    board.add_result(table, RESULT, 'counts', ['learning_rate', 'batch_size'])
    (settings,) = table.rows
    assert [name for name in settings if settings[name] is None] == ['learning_rate', 'batch_size']


def test_a_run_without_dev_has_the_same_columns(tmp_path):
    """Columns are numbered, and without a dev loss the later ones had the numbers of others."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    columns = []
    for dev in (2.0, None):
        folder = tmp_path / str(dev)
        folder.mkdir()
        writer = board.EventWriter(folder)
        board.add_result(writer, RESULT | {'dev': dev}, 'run')
        writer.close()
        contents = read_events(folder).PluginTagToContent(metadata.PLUGIN_NAME)
        data = plugin_data_pb2.HParamsPluginData.FromString(contents[metadata.EXPERIMENT_TAG])
        columns.append({info.display_name: info.name for info in data.experiment.hparam_infos})
    with_dev, without = columns
    assert with_dev.pop('dev loss') == '03'
    assert without == with_dev


def test_all_updates_are_in_one_chart(tmp_path):
    from tensorboard.plugins.custom_scalar import layout_pb2

    writer = board.EventWriter(tmp_path)
    writer.add_chart('updates', 'update to data/.*')
    writer.close()
    (event,) = read_events(tmp_path).Tensors('custom_scalars__config__')
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert list(layout.category[0].chart[0].multiline.tag) == ['update to data/.*']


def test_curves_are_read_back_without_what_a_resumed_run_repeats(tmp_path):
    for first_step, value in ((0, 3.0), (2, 1.0)):
        writer = board.EventWriter(tmp_path, first_step)
        for step in range(first_step, first_step + 3):
            writer.add_scalar('loss', value, step)
            writer.add_scalar('other', value, step)
        writer.close()
    curves = board.read_curves(tmp_path, 'los.')
    assert curves == {'loss': ([0, 1, 2, 3, 4], [3, 3, 1, 1, 1])}


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere names are Unicode')
def test_a_folder_whose_name_is_not_utf8_has_no_curves(tmp_path):
    """TensorBoard cannot read in it; once a run was trained and saved, and then failed here."""
    folder = tmp_path / 'caf\udce9'
    folder.mkdir()
    writer = board.EventWriter(folder)
    writer.add_scalar('loss', 1.0, 1)
    writer.close()
    assert board.read_curves(folder, 'loss') == {}
