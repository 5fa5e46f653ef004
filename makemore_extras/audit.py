"""
Refuse hostile checkpoints.

torch.load(weights_only=True) runs no code that a file brings along. What is left to a hostile
file is to take more memory than it has bytes, and to make the program fail later. `check_file`
looks at the file before torch loads it, `check_dataset`, `check_tensors` and `check_claims` at
what was loaded before a model is built, `check_progress` and `check_run` at the rest. Each raises
ValueError. `measure_memory` tells what a step of training would take.
"""

import copy
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch

ALLOWED_GLOBALS = re.compile(
    r'torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage'
)
MAX_PARTS = 50_000  # of a zip file: a model of 512 layers has about 20,000
MAX_OPCODES = 500_000  # in a pickle; a model of 512 layers has about 200,000
FREE_MEMORY = 100 * 2**20  # bytes that any model may take for a training step
SMALL_MODEL = 2**24  # numbers: a model that can not be larger is built without a look at it


def check_file(path: Path):
    """Look at a checkpoint without loading it: it is a zip file of a pickle and of numbers.

    What is compressed may unpack to any size, torch does not compare checksums, and among the
    functions that it lets a pickle call is bytearray(10**12).
    """
    check_number_of_parts(path)
    with zipfile.ZipFile(path) as file:
        # torch has a reader of zip files of its own: both must mean the same parts
        names = file.namelist()
        roots = {name.split('/')[0] for name in names}
        if len(roots) != 1 or len({name.lower() for name in names}) != len(names):
            raise ValueError('two of its parts have the same name, or it has several roots')
        for part in file.infolist():
            if part.compress_size != part.file_size or part.external_attr:
                raise ValueError('a part of it is compressed or not a plain file')
        if sum(part.file_size for part in file.infolist()) > path.stat().st_size:
            raise ValueError('its parts overlap')
        if file.testzip():
            raise ValueError('a checksum in it is wrong')
        check_pickle(file.read(f'{roots.pop()}/data.pkl'))


def check_number_of_parts(path: Path):
    """Refuse a zip file of very many parts: zipfile takes a kilobyte for each."""
    n_parts = 0
    with open(path, 'rb') as file:
        while piece := file.read(2**20):
            n_parts += piece.count(b'PK\x01\x02')  # a part's entry in the directory begins so
    if n_parts > MAX_PARTS:
        raise ValueError(f'it has more than {MAX_PARTS:,} parts')


def check_pickle(content: bytes):
    """Refuse a pickle that calls anything but what makes tensors, or makes very many objects."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number > MAX_OPCODES:
            raise ValueError(f'its pickle has more than {MAX_OPCODES:,} instructions')
        if 'GLOBAL' in opcode.name and not ALLOWED_GLOBALS.fullmatch(str(argument)):
            raise ValueError(f'it wants to call {argument}')


def check_tensors(tensors: Collection[Any]):
    """Refuse what is no plain tensor of finite numbers, or has fewer numbers than it claims."""
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ValueError('it has something else in the place of a tensor')
        if tensor.device.type != 'cpu' or tensor.is_complex():
            raise ValueError('it has a tensor without memory or of complex numbers')
        if not tensor.is_contiguous():  # one number in the file can be expanded to billions
            raise ValueError('it has a tensor that claims more numbers than it holds')
        if not tensor.isfinite().all():
            raise ValueError('not all of its numbers are finite')

    held = {}  # bytes of each storage: many tensors can show the same one
    for tensor in tensors:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
    claimed = sum(tensor.nbytes for tensor in tensors)
    if claimed > 2 * sum(held.values()):  # twice is fair: a model may use a table twice
        raise ValueError('it has tensors that share memory and claim more numbers than it holds')


def check_claims(
    build_model: Callable[[], torch.nn.Module], sizes: Iterable[int], weights: dict[str, Any]
):
    """Refuse settings that ask for a larger model than the weights in the file can fill.

    `sizes` are the settings that decide the size of a model, the number of layers first. A model
    that is small in any case is just built; building one without memory takes torch seconds.
    """
    n_layer, *widths = sizes
    if 16 * n_layer * sum(widths) ** 2 < SMALL_MODEL:
        return
    with torch.device('meta'):
        model = build_model()
    for name, tensor in model.state_dict().items():
        if '.tables.' in f'.{name}':  # counts, which have the size that the file gives them
            continue
        if name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f'its settings do not fit its weights: {name}')


def measure_memory(net: torch.nn.Module, length: int) -> float:
    """Bytes that are kept for the backward pass of a line of `length` tokens, without weights.

    They are measured on two lines, because batch normalization needs at least two tokens.
    """
    net = copy.deepcopy(net)  # batch normalization changes its averages
    device = next((parameter.device for parameter in net.parameters()), 'cpu')
    x = torch.zeros(2, length, dtype=torch.int64, device=device)
    sizes = {}

    def note_size(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note_size, lambda tensor: tensor):
        loss = net(x, x)  # its graph keeps these tensors alive, so no address is used twice
    for parameter in net.parameters():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    del loss
    return sum(sizes.values()) / 2


def check_dataset(state: dict[str, Any]):
    """Refuse characters or lines that are no text, and a wrong length of the longest line.

    A sample may be twice as long as that line, so a wrong length could make sampling run forever.
    """
    texts = [state['train_lines'], state['heldout_lines']]
    if state['byte_pairs'] is None:
        texts.append(state['chars'])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('its lines or its characters are no text')

    max_len = state['max_len']
    if not (type(max_len) is int and 0 <= max_len < 2**40):
        raise ValueError('the length of its longest line makes no sense')
    lines = (state['train_lines'] + '\n' + state['heldout_lines']).split('\n')
    most_tokens = 4 * max(map(len, lines))  # a character has at most 4 bytes, a token at least 1
    if max_len > most_tokens and not state['text']:
        raise ValueError('its longest line is none of its lines')


def check_progress(step: Any, seconds: Any, best_loss: Any):
    """Refuse numbers of steps, of seconds and of a loss that no training can have."""
    if not (type(step) is int and 0 <= step < 2**62):
        raise ValueError('its number of steps makes no sense')
    if not (type(seconds) is float and 0 <= seconds < math.inf):  # JSON has no infinity
        raise ValueError('its number of seconds makes no sense')
    if not (type(best_loss) is float and best_loss > -math.inf):  # infinite: not evaluated yet
        raise ValueError('its best loss makes no sense')


def check_run(model: torch.nn.Module, optimizer_state: Any):
    """Refuse weights, counts and averages that would make the program fail later on."""
    for name, tensor in model.state_dict().items():
        if name.endswith('.pairs') and not (tensor.diff() > 0).all():
            raise ValueError('its n-grams are out of order')
        if name.endswith('.cumulative'):
            check_cumulative(tensor, len(model.state_dict()[name.replace('cumulative', 'pairs')]))
    if optimizer_state is not None:
        trained = [p for p in model.parameters() if p.requires_grad]
        check_optimizer(trained, optimizer_state)


def check_cumulative(cumulative: torch.Tensor, n_pairs: int):
    """Refuse cumulative counts that do not belong to as many pairs, or that ever decrease."""
    if len(cumulative) != n_pairs + 1 or not (cumulative.diff() > 0).all():
        raise ValueError('its counts make no sense')


def check_optimizer(parameters: list[torch.nn.Parameter], state: Any):
    """Refuse the state of an optimizer of another model.

    The optimizer numbers the matrices first, then the vectors.
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    if not isinstance(state, dict):
        raise ValueError('the state of its optimizer is no dictionary')
    if state and list(state) != list(range(len(parameters))):
        raise ValueError('its optimizer is of another model')
    for number, entry in state.items():
        check_averages([*matrices, *vectors][number], entry)


def check_averages(parameter: torch.nn.Parameter, entry: Any):
    """Refuse what are not AdamW's averages of the gradients of a parameter."""
    if not isinstance(entry, dict) or set(entry) != {'step', 'exp_avg', 'exp_avg_sq'}:
        raise ValueError('its optimizer is not AdamW')
    check_tensors(entry.values())
    shapes = [entry[name].shape for name in ('step', 'exp_avg', 'exp_avg_sq')]
    if shapes != [torch.Size([]), parameter.shape, parameter.shape]:
        raise ValueError('its optimizer is of another model')
    if any(not tensor.is_floating_point() for tensor in entry.values()):
        raise ValueError('its optimizer has no floating-point numbers')
    if entry['step'] < 0 or (entry['exp_avg_sq'] < 0).any():  # its root would be nan
        raise ValueError('its optimizer has a negative number of steps or mean square')
