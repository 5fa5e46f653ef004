"""TensorBoard as one sees it: small runs, a TensorBoard over them, and what its tabs ask for through the web."""
import json
import math
import re
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
import torch

from conftest import SMALL, flags

pytest.importorskip('tensorboard', reason='TensorBoard is not installed: pip install tensorboard')
RATES = dict(slow=1e-3, fast=1e-2)      # a sweep of two runs


class Board:
    """A TensorBoard of its own on this machine; every answer is waited for, as it reads the runs while it serves."""

    def __init__(self, folder):
        self.child = subprocess.Popen(
            [sys.executable, '-m', 'tensorboard.main', '--logdir', str(folder), '--host', '127.0.0.1', '--port', '0',
             '--load_fast', 'false', '--reload_interval', '1'], stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.child.stderr:
            said.append(line)
            if found := re.search(r'http://\S+:\d+/', line):
                self.address = found[0]
                break
        else:
            raise AssertionError('TensorBoard has not started: ' + ''.join(said))
        # a proxy that the surroundings may name knows nothing of this machine's own ports
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def raw(self, path, body=None, **query):
        address = f'{self.address}data/plugin/{path}' + ('?' + urllib.parse.urlencode(query) if query else '')
        data, headers = body and json.dumps(body).encode(), {'Content-Type': 'application/json'} if body else {}
        with self.open(urllib.request.Request(address, data, headers), timeout=60) as answer:
            return answer.read()

    def ask(self, path, body=None, **query):
        return json.loads(self.raw(path, body, **query))

    def groups(self):
        """The rows of the table of runs; what the page itself asks for."""
        statuses = ['STATUS_UNKNOWN', 'STATUS_SUCCESS', 'STATUS_FAILURE', 'STATUS_RUNNING']
        return self.ask('hparams/session_groups', dict(experimentName='', allowedStatuses=statuses, colParams=[],
                                                       startIndex=0, sliceSize=100))['sessionGroups']

    def wait(self, seconds=120):
        """Until both runs are read to their end: novelty in the table of settings is what a run writes last."""
        for _ in range(5 * seconds):
            ends = [value['name']['tag'] for row in self.groups() for session in row['sessions']
                    for value in session.get('metricValues', [])]
            if ends.count('result/novelty') == len(RATES):
                return self
            time.sleep(0.2)
        raise AssertionError(f'TensorBoard shows {self.groups()} after {seconds} s')


@pytest.fixture(scope='module')
def runs(names, command_line, tmp_path_factory):
    """Two runs of 50 steps: their folder, what they said, and their results."""
    folder, said, results = tmp_path_factory.mktemp('board'), {}, {}
    settings = flags(SMALL | dict(max_steps=50, eval_interval=10, sample_interval=25, diagnose=25, num_samples=5))
    for name, rate in RATES.items():
        said[name] = command_line('-i', names, '--type', 'mlp', *settings, '-l', rate, '-o', folder / name)
        assert said[name].code == 0, said[name].err
        results[name] = json.loads((folder / name / 'result.json').read_text())
    return folder, said, results


@pytest.fixture(scope='module')
def board(runs):
    board = Board(runs[0])
    try:
        yield board.wait()
    finally:
        board.child.terminate()
        board.child.wait()
        board.child.stderr.close()


@pytest.fixture(scope='module')
def best(runs):
    """The weights of the best model of each run."""
    return {name: torch.load(runs[0] / name / 'best.pt', weights_only=True)['model'] for name in RATES}


def test_a_run_is_one_run(board):
    """Every matrix had a run of its own: a sweep's list could not be read any more."""
    assert set(board.ask('scalars/tags')) == set(RATES)


def test_scalars_are_what_the_run_said(board, runs):
    _, said, results = runs
    for name, rate in RATES.items():
        series = {tag: {step: value for _, step, value in board.ask('scalars/scalars', run=name, tag=tag)}
                  for tag in board.ask('scalars/tags')[name]}
        lines = re.findall(r'^step +(\d+) \| (?:train loss ([\d.]+) \| )?dev loss ([\d.]+)', said[name].err, re.M)
        assert len(lines) == 6
        assert series['loss/dev'] == pytest.approx({int(step): float(dev) for step, _, dev in lines}, abs=1e-4)
        assert series['loss/train'] == pytest.approx({int(step): float(t) for step, t, _ in lines if t}, abs=1e-4)
        assert min(series['loss/dev'].values()) == pytest.approx(results[name]['dev'], abs=1e-4)
        assert max(series['learning rate'].values()) == pytest.approx(rate, rel=0.2)
        assert series['learning rate'].keys() == series['gradient norm'].keys() == {10, 20, 30, 40, 50}
        assert min(series['gradient norm'].values()) > 0 and min(series['tokens per second'].values()) > 0
        assert len([tag for tag in series if tag.startswith('grad to data/')]) == 3      # embedding, hidden layer, head


def test_histograms_hold_every_number(board, best):
    """A bar for what was counted, and nothing lost: as many numbers as the matrix has, none of them odd."""
    tags = board.ask('histograms/tags')
    for name, weights in best.items():
        gradients = [tag for tag in tags[name] if tag.startswith('gradient/')]
        assert len(gradients) == 3 and {tag.split('/')[0] for tag in tags[name]} >= {'activation', 'pre-activation'}
        for tag in tags[name]:
            answer = board.ask('histograms/histograms', run=name, tag=tag)
            assert [step for _, step, _ in answer] == [1, 26]      # a diagnosis looks at the step behind 0, 25, ...
            for _, _, bars in answer:
                assert all(math.isfinite(edge) and left <= right for left, right, _ in bars for edge in (left, right))
                count = sum(n for _, _, n in bars)
                assert count == weights[tag.split('/')[1]].numel() if tag in gradients else count > 1000
        outs = board.ask('histograms/histograms', run=name, tag=next(t for t in tags[name] if t.startswith('activ')))
        # tanh: nothing beyond 1, but for the width of TensorBoard's bars
        assert all(-1.1 <= left and right <= 1.1 for _, _, bars in outs for left, right, n in bars if n)


def test_images_are_pictures(board):
    for name in RATES:
        (tag, about), = board.ask('images/tags')[name].items()
        shown = board.ask('images/images', run=name, tag=tag, sample=about['samples'] - 1)
        assert tag.startswith('saturated/') and [image['step'] for image in shown] == [1, 26]
        png = board.raw('images/individualImage?' + shown[-1]['query'])
        width, height = struct.unpack('>II', png[16:24])
        assert png.startswith(b'\x89PNG') and (width, height) == (SMALL['n_hidden'], 200)      # neurons, examples


def test_texts_are_the_samples(board, runs):
    for name in RATES:
        shown = {}
        for tag in board.ask('text/tags')[name]:
            for item in board.ask('text/text', run=name, tag=tag):
                shown.setdefault(item['step'], []).append(re.sub('<[^>]*>|\n', '', item['text']))
        printed = re.findall(r'^[a-z ]+ \(\d+\): (.*)$', runs[1][name].out, re.M)
        assert set(shown) == {25, 50} and sum(map(len, shown.values())) == len(printed) >= 2
        assert {text.strip() for texts in shown.values() for text in texts} == {text.strip() for text in printed}


def test_the_table_of_settings_is_the_sweep(board, runs):
    """HPARAMS: a row for each run with its settings and its result; the rate tells the two apart."""
    infos = {info['name']: info for info in board.ask('hparams/experiment', dict(experimentName=''))['hparamInfos']}
    rows = board.groups()
    assert len(rows) == len(RATES)
    for row in rows:
        (session,) = row['sessions']
        result = runs[2][session['name'].split('/')[0]]
        assert set(row['hparams']) == set(result['settings']) - {'encoding'} == set(infos)
        for name, value in result['settings'].items() - {('encoding', 'utf-8')}:
            shown = row['hparams'][name]
            assert shown == value if isinstance(value, (int, float, str)) else shown == str(value), name
        values = {metric['name']['tag']: metric['value'] for metric in session['metricValues']}
        for name in ('train', 'dev', 'test', 'novelty'):
            assert values[f'result/{name}'] == pytest.approx(result[name], rel=1e-5)
    assert sorted(row['hparams']['learning_rate'] for row in rows) == sorted(RATES.values())


def test_the_projector_has_the_embedding(board, best):
    """A point for each letter, in the place that the best model gave it, with the letter as its label."""
    assert set(board.ask('projector/runs')) == set(RATES)
    for name, weights in best.items():
        (table,) = board.ask('projector/info', run=name)['embeddings']
        ours = next(w for key, w in weights.items() if w.shape[0] == 27 and 'weight' in key)
        assert table['tensorShape'] == list(ours.shape)
        where = dict(run=name, name=table['tensorName'])
        points = torch.frombuffer(bytearray(board.raw('projector/tensor', **where)), dtype=torch.float32)
        assert torch.allclose(points.view_as(ours), ours, atol=1e-6)
        labels = board.raw('projector/metadata', **where).decode().split('\n')
        assert [label.strip("'") for label in labels if label] == ['.', *map(chr, range(ord('a'), ord('z') + 1))]
