"""Two runs held against each other, bit for bit."""
import json

import torch


def checkpoint(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def differences(a, b, path=''):
    """Where two checkpoints differ, bit for bit; how many seconds it took is no part of a run's state."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a if key != 'seconds' for found in differences(a[key], b[key], f'{path}/{key}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b)) for found in differences(*pair, f'{path}/{i}')]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    else:
        same = type(a) is type(b) and not isinstance(a, (dict, list, tuple)) and a == b
    return [] if same else [path]


def same_run(a, b):
    for name in ('last.pt', 'best.pt'):
        assert differences(checkpoint(a / name), checkpoint(b / name)) == []
    assert differences(*(json.loads((folder / 'result.json').read_text()) for folder in (a, b))) == []
    assert not list(b.glob('*.tmp'))
