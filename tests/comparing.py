"""Two runs compared with each other, bit for bit."""

import json

import torch


def checkpoint(path):
    """The content of a checkpoint."""
    return torch.load(path, map_location='cpu', weights_only=True)


def differences(a, b, path=''):
    """Where two checkpoints differ, bit for bit, as a list of paths like '/model/head.weight'.

    How many seconds the training took is not part of a run's state, so it may differ.
    """
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        found = []
        for key in a:
            if key != 'seconds':
                found += differences(a[key], b[key], f'{path}/{key}')
        return found
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        found = []
        for i, (inner_a, inner_b) in enumerate(zip(a, b, strict=True)):
            found += differences(inner_a, inner_b, f'{path}/{i}')
        return found

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    elif isinstance(a, (dict, list, tuple)):  # of another type, or with other keys
        same = False
    else:
        same = type(a) is type(b) and a == b
    return [] if same else [path]


def read_metrics(folder):
    """The lines of metrics.jsonl."""
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def same_metrics(a, b):
    """Fail unless the dev loss of every step in `a` is in `b` too, and no step is there twice.

    A run that was stopped between two evaluations may have one more, and averages the train loss
    over other steps.
    """
    steps = [metrics['step'] for metrics in read_metrics(b)]
    assert steps == sorted(set(steps))
    dev_losses = {metrics['step']: metrics['dev_loss'] for metrics in read_metrics(b)}
    for metrics in read_metrics(a):
        assert dev_losses[metrics['step']] == metrics['dev_loss']


def same_run(a, b):
    """Fail unless two folders hold the same run: both checkpoints, the metrics and the result."""
    for name in ('last.pt', 'best.pt'):
        assert differences(checkpoint(a / name), checkpoint(b / name)) == []
    same_metrics(a, b)
    result_a = json.loads((a / 'result.json').read_text())
    result_b = json.loads((b / 'result.json').read_text())
    assert differences(result_a, result_b) == []
    assert not list(b.glob('*.tmp'))
