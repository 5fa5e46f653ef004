"""
How fast is makemore.py, compared with karpathy/makemore and karpathy/nanoGPT?

    python tests/bench/bench_makemore.py --makemore PATH --nanogpt PATH      all rows: 20 minutes
    python tests/bench/bench_makemore.py --makemore PATH --rows step-gru sample
    python tests/bench/bench_makemore.py --source OTHER/makemore.py --rows ngram
    python tests/bench/bench_makemore.py --makemore PATH --rounds 1 --scale 0.01     try it out

PATH is a checkout of the peer, which is imported as it is. Ours and the peer do the same work in
two processes of one thread each and take turns, so that a busy machine slows down both. The
numbers are medians. CPU time is what counts; wall time is shown below it. The last two columns
are the floor that the project has set itself, and whether it is met.

Without a peer our own column is measured alone. The rows of nanoGPT's recipe need the file
tinyshakespeare.txt in the folder that MAKEMORE_DATA names. What a row writes goes into a
temporary folder.
"""

import argparse
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NAMES = ROOT / 'names.txt'
ONE_THREAD = {'OMP_NUM_THREADS': '1'}

# the sizes of karpathy/makemore's default models, for names
MAKEMORE_SIZES = {
    'n_layer': 4,
    'n_head': 4,
    'n_embd': 64,
    'n_hidden': 64,
    'batch_size': 32,
    'block_size': 16,
}
# nanoGPT's README: "I only have a macbook"
NANOGPT_SIZES = {
    'text': True,
    'n_layer': 4,
    'n_head': 4,
    'n_embd': 128,
    'block_size': 64,
    'batch_size': 12,
}
# karpathy/makemore's best test loss, on its own split, after 13,000 steps of its transformer
TARGET = 1.966
MANY_STEPS = 10**6  # a schedule that a row does not come to the end of


def describe_machine() -> str:
    """The processor, the number of cores, Python and torch: all ratios depend on them."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        pairs = [line.split(':', 1) for line in cpuinfo.read_text().splitlines() if ':' in line]
        about = {name.strip(): value.strip() for name, value in pairs}
        processor = about.get('model name', processor)
        if 'cpu family' in about:  # the name alone may be just 'AMD EPYC'
            processor += f' (family {about["cpu family"]}, model {about["model"]})'
    torch_version = importlib.metadata.version('torch')
    versions = f'Python {platform.python_version()}, torch {torch_version}'
    return f'{processor}, {os.cpu_count()} cores; {versions}'


# -----------------------------------------------------------------------------
# jobs: what one side of a row does
#
# A job is a generator that runs in a process of its own. It prepares its work up to its first
# `yield`, and every value that it yields is one measured round.

JOBS: dict[str, Callable[..., Iterator[dict]]] = {}


def job(function: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
    """Decorator: make a generator available to the workers, by its name."""
    JOBS[function.__name__] = function
    return function


def measure(work: Callable[[], Any], times: int = 1) -> dict[str, float]:
    """CPU and wall time of a piece of work in milliseconds, the mean of several times."""
    cpu = time.process_time()
    wall = time.perf_counter()
    for _ in range(times):
        work()
    cpu = time.process_time() - cpu
    wall = time.perf_counter() - wall
    return {'cpu': cpu * 1e3 / times, 'wall': wall * 1e3 / times}


def measure_with_memory(work: Callable[[], Any]) -> dict[str, float]:
    """The same, with the peak of the memory in MB above what was in use before."""
    Path('/proc/self/clear_refs').write_text('5')  # Linux forgets older peaks
    before = read_memory('VmRSS')
    used = measure(work)
    used['memory'] = read_memory('VmHWM') - before
    return used


def read_memory(name: str) -> float:
    """A figure of this process in MB: VmRSS is what it holds now, VmHWM the peak."""
    status = Path('/proc/self/status').read_text()
    kilobytes = status.split(name + ':')[1].split()[0]
    return int(kilobytes) / 1e3


def import_from(folder: Path | str, name: str) -> Any:
    """The module of that name in a folder. Both programs are called makemore.py."""
    sys.path.insert(0, str(folder))
    module = importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    return module


# ours


def import_ours(source: str) -> Any:
    return import_from(Path(source).parent, 'makemore')


def load_ours(makemore: Any, **settings: Any) -> Any:
    """A new run with these settings."""
    import torch

    config = makemore.resolve_config({'input_file': str(NAMES)} | settings)
    config, dataset = makemore.load_data(config)
    torch.manual_seed(config.seed)
    model = makemore.MODELS[config.type](config, dataset.vocab_size)
    run = makemore.Run(config, dataset, model)
    return makemore.start_run(run, torch.device('cpu'))


def make_our_step(makemore: Any, run: Any) -> Callable[[], Any]:
    """A function that takes a training step as the program does."""
    net = makemore.wrap_model(run)
    run.model.train()

    def step():
        lr = makemore.get_lr(run.config, run.step)
        makemore.train_step(run, net, lr)

    return step


@job
def our_step(source: str, kind: str, steps: int, **settings: Any) -> Iterator[dict]:
    """Training steps of a type of model, with the peer's sizes."""
    makemore = import_ours(source)
    sizes = dict(MAKEMORE_SIZES)
    if kind == 'bow':
        sizes['n_layer'] = 1  # as the peer's has
    sizes |= {'type': kind, 'dropout': 0.0, 'max_steps': MANY_STEPS}
    run = load_ours(makemore, **sizes | settings)
    step = make_our_step(makemore, run)
    measure(step, 20)  # the first steps cost more
    while True:
        yield measure(step, steps)


@job
def our_target(source: str, train: str, test: str, **settings: Any) -> Iterator[dict]:
    """From the start of the program to the end of a schedule on the training names.

    The loss on the test names follows, and is not charged.
    """
    begin = time.perf_counter()
    makemore = import_ours(source)
    run = load_ours(makemore, input_file=train, split='all', **settings)
    if run.model.is_counted:
        hold_out_dev(run.dataset, 1000)  # the discount of an ngram is chosen on dev
        run.model.fit(run.dataset)
    else:
        step = make_our_step(makemore, run)
        for _ in range(run.config.max_steps):
            step()
    used = {
        'cpu': time.process_time() * 1e3,
        'wall': (time.perf_counter() - begin) * 1e3,
        'steps': run.step,
    }

    block_size = run.config.block_size
    options = {'split': 'all', 'type': run.config.type, 'block_size': block_size}
    test_run = load_ours(makemore, input_file=test, **options)
    if test_run.dataset.chars != run.dataset.chars:
        raise ValueError('the test names lack a character that the training names have')
    yield used | {'loss': makemore.evaluate(run.model, test_run.dataset, 'dev')}


def hold_out_dev(dataset: Any, n: int):
    """Make the last n lines of train the dev split."""
    train = dataset.spans['train']
    dataset.spans['train'] = type(train)(train.starts[:-n], train.lengths[:-n])
    dataset.spans['dev'] = type(train)(train.starts[-n:], train.lengths[-n:])


# our names for the parts of a transformer, and the peer's
PARTS = {
    'tok_emb': 'transformer.wte',
    'pos_emb': 'transformer.wpe',
    'blocks': 'transformer.h',
    'norm1': 'ln_1',
    'norm2': 'ln_2',
    'attn.qkv': 'attn.c_attn',
    'attn.proj': 'attn.c_proj',
    'mlp.0': 'mlp.c_fc',
    'mlp.2': 'mlp.c_proj',
    'norm': 'transformer.ln_f',
    'head': 'lm_head',
}


def name_as_peer(name: str) -> str:
    """'blocks.0.mlp.2.weight' -> 'transformer.h.0.mlp.c_proj.weight'"""
    dotted = f'.{name}'
    for ours, theirs in PARTS.items():
        dotted = dotted.replace(f'.{ours}.', f'.{theirs}.')
    return dotted.removeprefix('.')


@job
def our_training(source: str, folder: str, weights: str, steps: int) -> Iterator[dict]:
    """Train a transformer: a run folder for us, and its weights under the peer's names.

    With the same weights both make the same kind of names, of the same length.
    """
    makemore = import_ours(source)
    import torch

    settings = MAKEMORE_SIZES | {'max_steps': steps, 'dropout': 0.0, 'input_file': NAMES}
    command = ['--type', 'transformer', '--work-dir', folder]
    for name, value in settings.items():
        command += [makemore.flag_of(name), str(value)]
    exit_code = makemore.main(command)
    if exit_code != 0:
        raise RuntimeError('training failed')
    model, _ = makemore.load(folder)
    renamed = {name_as_peer(name): tensor for name, tensor in model.state_dict().items()}
    torch.save(renamed, weights)
    yield {}


@job
def our_sample(source: str, folder: str, n: int) -> Iterator[dict]:
    makemore = import_ours(source)
    model, dataset = makemore.load(folder)
    while True:
        yield measure(lambda: makemore.sample(model, dataset, n))


@job
def our_load(source: str, file: str, split: str) -> Iterator[dict]:
    """From a file of lines to the first batch, imports not included."""
    makemore = import_ours(source)

    def work():
        settings = {'input_file': file, 'batch_size': 32, 'split': split}
        config, dataset = makemore.load_data(makemore.resolve_config(settings))
        makemore.get_batch(dataset, config, 0)

    yield measure_with_memory(work)


@job
def our_count(source: str, **settings: Any) -> Iterator[dict]:
    """Reading, counting and the exact dev loss of an ngram."""
    makemore = import_ours(source)
    losses = []

    def work():
        run = load_ours(makemore, type='ngram', **settings)
        run.model.fit(run.dataset)
        losses.append(makemore.evaluate(run.model, run.dataset, 'dev'))

    used = measure_with_memory(work)
    yield used | {'loss': losses[0]}


@job
def our_text(source: str, text: str, budget: float, **settings: Any) -> Iterator[dict]:
    """As many steps on a text as fit into a budget of CPU milliseconds, then the dev loss."""
    makemore = import_ours(source)
    settings |= {'input_file': text, 'text': True}
    run = load_ours(makemore, max_steps=MANY_STEPS, **settings)
    step = make_our_step(makemore, run)
    measure(step, 5)
    ms_per_step = measure(step, 30)['cpu']

    # the schedule has to be as long as the training will be; a little less in case it is slower
    steps = max(1, int(0.97 * budget / ms_per_step))
    run = load_ours(makemore, max_steps=steps, **settings)
    step = make_our_step(makemore, run)
    end = time.process_time() + budget / 1e3

    def work():
        while run.step < steps and time.process_time() < end:
            step()

    used = measure(work)
    yield used | {'loss': makemore.evaluate(run.model, run.dataset, 'dev'), 'steps': run.step}


# karpathy/makemore


def load_peer(path: str, kind: str = 'transformer') -> tuple[Any, Any]:
    """karpathy/makemore as a module, and a model of a type. Its functions look for globals."""
    makemore = import_from(path, 'makemore')
    import torch

    torch.manual_seed(3407)
    makemore.args = argparse.Namespace(device='cpu', top_k=-1)
    makemore.train_dataset, makemore.test_dataset = makemore.create_datasets(NAMES)
    config = makemore.ModelConfig(
        vocab_size=makemore.train_dataset.get_vocab_size(),
        block_size=makemore.train_dataset.get_output_length(),
    )
    if kind in ('rnn', 'gru'):
        return makemore, makemore.RNN(config, kind)
    classes = {'transformer': 'Transformer', 'mlp': 'MLP', 'bigram': 'Bigram', 'bow': 'BoW'}
    model_class = getattr(makemore, classes[kind])
    return makemore, model_class(config)


def make_peer_step(makemore: Any, model: Any) -> Callable[[], None]:
    """Its training step. Its loader gets no worker process, where its time would not be seen."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8
    )
    loader = makemore.InfiniteDataLoader(
        makemore.train_dataset, batch_size=32, pin_memory=True, num_workers=0
    )

    def step():
        x, y = loader.next()
        _, loss = model(x, y)
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


@job
def peer_step(path: str, kind: str, steps: int) -> Iterator[dict]:
    makemore, model = load_peer(path, kind)
    step = make_peer_step(makemore, model)
    measure(step, 20)
    while True:
        yield measure(step, steps)


@job
def peer_split(path: str, train: str, test: str) -> Iterator[dict]:
    """Write its split of the names into two files; 1,000 names are for testing."""
    makemore, _ = load_peer(path)
    for file, dataset in ((train, makemore.train_dataset), (test, makemore.test_dataset)):
        Path(file).write_text('\n'.join(dataset.words))
    yield {}


@job
def peer_target(path: str, target: float, most_steps: int) -> Iterator[dict]:
    """Its training until its own measure of the test loss reaches the target.

    It looks every 500 steps, as in its own loop, and is not charged for that.
    """
    begin = time.perf_counter()
    makemore, model = load_peer(path)
    step = make_peer_step(makemore, model)
    interval = min(500, most_steps)
    evaluation_time = 0.0
    best_loss = math.inf
    n_steps = 0
    while best_loss > target and n_steps + interval <= most_steps:
        for _ in range(interval):
            step()
        n_steps += interval
        before = time.process_time()
        test_dataset = makemore.test_dataset
        loss = makemore.evaluate(model, test_dataset, batch_size=100, max_batches=10)
        best_loss = min(best_loss, loss)
        evaluation_time += time.process_time() - before
    yield {
        'cpu': (time.process_time() - evaluation_time) * 1e3,
        'wall': (time.perf_counter() - begin) * 1e3,
        'loss': best_loss,
        'steps': n_steps,
    }


@job
def peer_weights(path: str, weights: str, file: str) -> Iterator[dict]:
    """Complete the shared weights by the masks that it keeps among its own, and save them."""
    _, model = load_peer(path)
    import torch

    missing, unexpected = model.load_state_dict(torch.load(weights), strict=False)
    missing = [name for name in missing if not name.endswith('attn.bias')]
    if missing or unexpected:
        raise ValueError(f'missing: {missing}, unexpected: {unexpected}')
    torch.save(model.state_dict(), file)
    yield {}


@job
def peer_sample(path: str, file: str, n: int) -> Iterator[dict]:
    """Its sampling and decoding, without its search for each name in the list of all names."""
    makemore, model = load_peer(path)
    import torch

    model.load_state_dict(torch.load(file))
    dataset = makemore.train_dataset
    max_tokens = dataset.get_output_length() - 1

    def work():
        start = torch.zeros(n, 1, dtype=torch.long)
        rows = makemore.generate(model, start, max_tokens, do_sample=True)[:, 1:].tolist()
        for row in rows:
            end = row.index(0) if 0 in row else len(row)
            dataset.decode(row[:end])

    while True:
        yield measure(work)


@job
def peer_load(path: str, file: str) -> Iterator[dict]:
    makemore = import_from(path, 'makemore')

    def work():
        train, _ = makemore.create_datasets(file)
        makemore.InfiniteDataLoader(train, batch_size=32, num_workers=0).next()

    yield measure_with_memory(work)


# karpathy/nanoGPT


def load_gpt(path: str, text: str) -> tuple[Any, Any, Any, Any]:
    """Its model, its optimizer and its two splits of a text, as in the recipe for a CPU."""
    module = import_from(path, 'model')
    import torch

    torch.manual_seed(1337)
    content = Path(text).read_text(encoding='utf-8')
    chars = sorted(set(content))
    token_of = {ch: token for token, ch in enumerate(chars)}
    tokens = torch.tensor([token_of[ch] for ch in content])
    n_train = int(len(tokens) * 0.9)
    config = module.GPTConfig(
        block_size=64,
        vocab_size=len(chars),
        n_layer=4,
        n_head=4,
        n_embd=128,
        dropout=0.0,
        bias=False,
    )
    model = module.GPT(config)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), 'cpu')
    return model, optimizer, tokens[:n_train], tokens[n_train:]


def get_gpt_lr(step: int, max_steps: int) -> float:
    """Warm-up over 100 steps to 1e-3, then a cosine down to a tenth of it."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    progress = (step - 100) / (max_steps - 100)
    return 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * progress))


def gpt_steps(model: Any, optimizer: Any, tokens: Any, max_steps: int) -> Iterator[float]:
    """Its training loop; yields after every step."""
    import torch

    for number in range(max_steps):
        for group in optimizer.param_groups:
            group['lr'] = get_gpt_lr(number, max_steps)
        starts = torch.randint(len(tokens) - 64, (12,))
        x = torch.stack([tokens[i : i + 64] for i in starts])
        y = torch.stack([tokens[i + 1 : i + 65] for i in starts])
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


@job
def gpt_step(path: str, text: str, steps: int) -> Iterator[dict]:
    model, optimizer, train, _ = load_gpt(path, text)
    loop = gpt_steps(model, optimizer, train, MANY_STEPS)
    for _ in range(5):
        next(loop)
    while True:
        yield measure(lambda: next(loop), steps)


@job
def gpt_training(path: str, text: str, steps: int) -> Iterator[dict]:
    """The whole recipe, then the exact loss over its validation split in blocks of 64."""
    model, optimizer, train, dev = load_gpt(path, text)
    import torch

    used = measure(lambda: list(gpt_steps(model, optimizer, train, steps)))
    n_blocks = (len(dev) - 1) // 64
    end = n_blocks * 64
    inputs = dev[:end].view(-1, 64).split(64)
    targets = dev[1 : end + 1].view(-1, 64).split(64)
    total = 0.0
    with torch.no_grad():
        for x, y in zip(inputs, targets, strict=True):
            _, loss = model(x, y)
            total += loss.item() * len(x)
    yield used | {'loss': total / n_blocks, 'steps': steps}


# -----------------------------------------------------------------------------
# processes that take turns


class Job(NamedTuple):
    """The name of a job and its arguments."""

    name: str
    arguments: dict[str, Any]


def our_job(args: argparse.Namespace, name: str, **arguments: Any) -> Job:
    return Job(name, {'source': args.source, **arguments})


def peer_job(path: Path | None, name: str, **arguments: Any) -> Job | None:
    """None without a path: the peer is absent, and its column stays empty."""
    return Job(name, {'path': path, **arguments}) if path else None


def run_worker(name: str, arguments: dict[str, Any]):
    """The inside of a worker: a round for every line that comes in, its numbers out as JSON.

    Whatever else the job writes to stdout goes to stderr, so that it is not taken for numbers.
    """
    numbers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    rounds = JOBS[name](**arguments)
    for _ in sys.stdin:
        print(json.dumps(next(rounds)), file=numbers, flush=True)


class Worker:
    """A job in a process of its own; what it prints is shown only if it fails."""

    def __init__(self, job: Job):
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        arguments = json.dumps(job.arguments, default=str)
        self.child = subprocess.Popen(
            [sys.executable, __file__, '--worker', job.name, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | ONE_THREAD,
        )

    def round(self) -> dict[str, float]:
        """The numbers of one more round."""
        self.child.stdin.write('\n')
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            self.log.seek(0)
            output = self.log.read().decode(errors='replace')
            raise SystemExit(f'{" ".join(self.child.args[2:])}\n{output}')
        return json.loads(line)

    def close(self):
        self.child.stdin.close()
        self.child.wait()
        self.log.close()


def medians(results: list[dict[str, float]]) -> dict[str, float] | None:
    """The median of each number over some rounds; None if there were none."""
    if not results:
        return None
    return {name: median(result[name] for result in results) for name in results[0]}


def alternate(rounds: int, *jobs: Job | None, fresh: bool = False) -> list[dict | None]:
    """The medians of some jobs that take turns; with fresh every round is a new process."""
    workers: dict[int, Worker] = {}
    results: list[list[dict]] = [[] for _ in jobs]
    for _ in range(rounds):
        for i, job in enumerate(jobs):
            if job is None:
                continue
            if i not in workers:
                workers[i] = Worker(job)
            results[i].append(workers[i].round())
            if fresh:
                workers.pop(i).close()
    for worker in workers.values():
        worker.close()
    return [medians(found) for found in results]


def prepare(job: Job):
    """Do something that is not measured."""
    alternate(1, job)


def alternate_commands(rounds: int, folder: Path, *commands: list | None) -> list[dict | None]:
    """The medians of whole programs that take turns."""
    results: list[list[dict]] = [[] for _ in commands]
    for _ in range(rounds):
        for command, found in zip(commands, results, strict=True):
            if command:
                found.append(measure_command(command, folder))
    return [medians(found) for found in results]


def measure_command(command: list, folder: Path) -> dict[str, float]:
    """CPU and wall time of a program in milliseconds, its start included."""
    cpu = children_cpu_time()
    wall = time.perf_counter()
    subprocess.run(
        list(map(str, command)),
        check=True,
        capture_output=True,
        cwd=folder,
        env=os.environ | ONE_THREAD,
    )
    wall = time.perf_counter() - wall
    cpu = children_cpu_time() - cpu
    return {'cpu': cpu * 1e3, 'wall': wall * 1e3}


def children_cpu_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -----------------------------------------------------------------------------
# rows: each yields lines of the table


@dataclass
class Line:
    """A line of the table. The floor is a lowest ratio, or a highest value of ours."""

    what: str
    ours: float
    peer: float | None = None
    unit: str = 'ms'  # or MB, or loss
    min_ratio: float | None = None
    max_ours: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times more the peer takes; losses have no ratio."""
        if self.peer is None or self.unit == 'loss':
            return None
        return self.peer / self.ours

    @property
    def is_met(self) -> bool | None:
        """Whether the floor is met; None if there is none, or no peer to compare with."""
        if self.max_ours is not None:
            return self.ours <= self.max_ours
        if self.min_ratio is None or self.ratio is None:
            return None
        return self.ratio >= self.min_ratio

    def describe_floor(self) -> str:
        if self.max_ours is not None:
            return f'at most {format_number(self.max_ours, self.unit)}'
        return '-' if self.min_ratio is None else f'{self.min_ratio:g}x'

    def cells(self) -> list[str]:
        """The columns of the table."""
        ratio = '-' if self.ratio is None else f'{self.ratio:.2f}x'
        met = {True: 'yes', False: 'NO', None: '-'}[self.is_met]
        ours = format_number(self.ours, self.unit)
        peer = format_number(self.peer, self.unit)
        return [self.what, ours, peer, ratio, self.describe_floor(), met]


def format_number(number: float | None, unit: str) -> str:
    """1234.5, 'ms' -> '1.23 s'"""
    if number is None:
        return '-'
    if unit == 'MB':
        return f'{number:,.0f} MB'
    if unit == 'loss':
        return f'{number:.4f}'
    return f'{number / 1e3:.2f} s' if number >= 1000 else f'{number:.2f} ms'


ROWS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Line]]] = {}


def row(name: str) -> Callable:
    """Decorator: make a row available as --rows NAME."""

    def add(function: Callable) -> Callable:
        ROWS[name] = function
        return function

    return add


def time_lines(what: str, ours: dict, peer: dict | None, **floor: float) -> Iterator[Line]:
    """The CPU time with its floor, and the wall time below it."""
    peer = peer or {}
    yield Line(f'{what}, CPU', ours['cpu'], peer.get('cpu'), **floor)
    yield Line(f'{what}, wall', ours['wall'], peer.get('wall'))


def skip(row_name: str, needed: str):
    print(f'row {row_name} is left out: it needs {needed}', file=sys.stderr)


def scaled(args: argparse.Namespace, number: int) -> int:
    """A count of steps, names, lines or bytes, made smaller by --scale."""
    return max(1, round(number * args.scale))


def step_row(
    kind: str, steps: int, min_ratio: float, args: argparse.Namespace, folder: Path
) -> Iterator[Line]:
    """A training step of a type of model."""
    steps = scaled(args, steps)
    ours, peer = alternate(
        args.rounds,
        our_job(args, 'our_step', kind=kind, steps=steps),
        peer_job(args.makemore, 'peer_step', kind=kind, steps=steps),
    )
    yield from time_lines(f'{kind}: a step of 32 names', ours, peer, min_ratio=min_ratio)


# type of model, steps in a round, floor
for kind, steps, min_ratio in (
    ('transformer', 40, 2.5),
    ('bigram', 200, 2),
    ('mlp', 100, 4),
    ('rnn', 60, 2.5),
    ('gru', 40, 3),
    ('bow', 100, 2),
):
    ROWS[f'step-{kind}'] = functools.partial(step_row, kind, steps, min_ratio)


@row('target')
def target_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """From the start to the best loss of the peer's default run, on the peer's own split."""
    if not args.makemore:
        skip('target', '--makemore')
        return
    settings = json.loads(args.target)
    if 'max_steps' in settings:
        settings['max_steps'] = scaled(args, settings['max_steps'])
    files = {'train': folder / 'train.txt', 'test': folder / 'test.txt'}
    prepare(peer_job(args.makemore, 'peer_split', **files))
    most_steps = scaled(args, args.most)
    counted, trained, peer = alternate(
        1,
        our_job(args, 'our_target', type='ngram', **files),
        our_job(args, 'our_target', **files, **settings),
        peer_job(args.makemore, 'peer_target', target=TARGET, most_steps=most_steps),
    )
    for name, ours in (('ngram', counted), (settings['type'], trained)):
        # whoever stops short of the target has won nothing
        both_reached = max(ours['loss'], peer['loss']) <= TARGET
        steps = f'{ours["steps"]:,.0f} steps, peer {peer["steps"]:,.0f}'
        what = f'{name}: start to the target'
        yield from time_lines(f'{what} ({steps})', ours, peer if both_reached else None)
        yield Line(f'{what}, test loss', ours['loss'], peer['loss'], 'loss', max_ours=TARGET)


def train_to_sample(args: argparse.Namespace, folder: Path):
    """One transformer, as a run folder of ours and as weights of the peer's."""
    weights = folder / 'shared.pt'
    steps = scaled(args, 500)
    run_folder = folder / 'run'
    prepare(our_job(args, 'our_training', folder=run_folder, weights=weights, steps=steps))
    if args.makemore:
        file = folder / 'peer' / 'model.pt'
        file.parent.mkdir()
        prepare(peer_job(args.makemore, 'peer_weights', weights=weights, file=file))


@row('sample')
def sample_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Names from the same weights, after loading."""
    train_to_sample(args, folder)
    for n_names, most_rounds, floor in ((1000, 3, {}), (10000, 1, {'min_ratio': 20})):
        n = scaled(args, n_names)
        ours, peer = alternate(
            min(most_rounds, args.rounds),
            our_job(args, 'our_sample', folder=folder / 'run', n=n),
            peer_job(args.makemore, 'peer_sample', file=folder / 'peer' / 'model.pt', n=n),
        )
        yield from time_lines(f'{n:,} names, same weights', ours, peer, **floor)


@row('start')
def start_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Sampling as a whole process. The peer always writes 50 names, we write 20."""
    train_to_sample(args, folder)
    our_command = [sys.executable, args.source, '--sample-only', '--num-samples', 20]
    our_command += ['-o', folder / 'run']
    peer_command = None
    if args.makemore:
        peer_command = [sys.executable, args.makemore / 'makemore.py', '--sample-only']
        peer_command += ['-o', folder / 'peer', '-i', NAMES]
    ours, peer = alternate_commands(args.rounds, folder, our_command, peer_command)
    peer = peer or {}
    what = '--sample-only, the whole process'
    yield Line(f'{what}, wall', ours['wall'], peer.get('wall'), min_ratio=1.2)
    yield Line(f'{what}, CPU', ours['cpu'], peer.get('cpu'))


def write_lines(path: Path, n_lines: int):
    """Lines that look like names and are nearly all different."""
    names = NAMES.read_text(encoding='utf-8').split()
    rng = random.Random(0)
    with open(path, 'w', encoding='utf-8') as file:
        for done in range(0, n_lines, 10**5):
            n = min(10**5, n_lines - done)
            firsts = rng.choices(names, k=n)
            seconds = rng.choices(names, k=n)
            file.writelines(a + b[:3] + '\n' for a, b in zip(firsts, seconds, strict=True))


@row('load')
def load_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """From one and five million lines to the first batch, with the memory."""
    for full_size, max_ms, max_mb in ((10**6, 2e3, None), (5 * 10**6, 12e3, 2e3)):
        n_lines = scaled(args, full_size)
        file = folder / 'lines.txt'
        write_lines(file, n_lines)
        lecture, honest, peer = alternate(
            min(3, args.rounds),
            our_job(args, 'our_load', file=file, split='lecture'),
            our_job(args, 'our_load', file=file, split='honest'),
            peer_job(args.makemore, 'peer_load', file=file),
            fresh=True,
        )
        # the peer's work is that of --split lecture; honest also compares dev and test with train
        for split, ours in (('lecture', lecture), ('honest', honest)):
            what = f'{n_lines:,} lines to the first batch, --split {split}'
            yield from time_lines(what, ours, peer, max_ours=max_ms)
            peer_memory = peer['memory'] if peer else None
            memory = (ours['memory'], peer_memory, 'MB')
            yield Line(f'{what}, peak memory', *memory, max_ours=max_mb)


def write_text(path: Path, n_bytes: int):
    """Names in lines of twelve, some of them often and most of them rarely, as words are."""
    names = NAMES.read_text(encoding='utf-8').split()
    rng = random.Random(0)
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    written = 0
    with open(path, 'w', encoding='utf-8') as file:
        while written < n_bytes:
            drawn = rng.choices(names, weights, k=12 * 1000)
            lines = [' '.join(drawn[i : i + 12]) for i in range(0, len(drawn), 12)]
            written += file.write('\n'.join(lines) + '\n')


@row('ngram')
def ngram_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Counting names.txt, and 100 MB of text."""
    text = folder / 'text.txt'
    n_bytes = scaled(args, 10**8)
    write_text(text, n_bytes)
    names_settings = {'input_file': NAMES, 'split': 'lecture'}
    text_settings = {'input_file': text, 'text': True}
    for name, most_rounds, max_ms, settings in (
        ('names.txt', 3, 1e3, names_settings),
        (f'{n_bytes / 1e6:g} MB of text', 1, None, text_settings),
    ):
        rounds = min(most_rounds, args.rounds)
        [ours] = alternate(rounds, our_job(args, 'our_count', **settings), fresh=True)
        what = f'ngram: {name}, read, count, evaluate'
        yield from time_lines(what, ours, None, max_ours=max_ms)
        yield Line(f'{what}, peak memory', ours['memory'], unit='MB')
        yield Line(f'{what}, dev loss', ours['loss'], unit='loss')


def shakespeare() -> Path | None:
    """The text that nanoGPT's recipe is for."""
    folder = os.environ.get('MAKEMORE_DATA')
    if not folder:
        return None
    path = Path(folder) / 'tinyshakespeare.txt'
    return path if path.exists() else None


@row('nanogpt-step')
def gpt_step_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """A training step with the shapes of nanoGPT's recipe for a CPU."""
    text = shakespeare()
    if not text:
        skip('nanogpt-step', 'MAKEMORE_DATA, the folder of tinyshakespeare.txt')
        return
    steps = scaled(args, 20)
    settings = {'kind': 'transformer', 'steps': steps, 'input_file': text}
    ours, peer = alternate(
        args.rounds,
        our_job(args, 'our_step', **settings, **NANOGPT_SIZES),
        peer_job(args.nanogpt, 'gpt_step', text=text, steps=steps),
    )
    yield from time_lines("a step of nanoGPT's CPU recipe", ours, peer, min_ratio=1.5)


@row('nanogpt-loss')
def gpt_loss_row(args: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """The peer's 2,000 steps; then ours, with settings of our own, in no more CPU time."""
    text = shakespeare()
    if not args.nanogpt or not text:
        skip('nanogpt-loss', '--nanogpt and MAKEMORE_DATA, the folder of tinyshakespeare.txt')
        return
    steps = scaled(args, 2000)
    [peer] = alternate(1, peer_job(args.nanogpt, 'gpt_training', text=text, steps=steps))
    settings = json.loads(args.recipe)
    [ours] = alternate(1, our_job(args, 'our_text', text=text, budget=peer['cpu'], **settings))
    steps = f'{ours["steps"]:,.0f} steps, peer {peer["steps"]:,.0f}'
    what = f"nanoGPT's CPU recipe ({steps})"
    yield Line(f'{what}, dev loss', ours['loss'], peer['loss'], 'loss', max_ours=peer['loss'])
    yield Line(f'{what}, CPU', ours['cpu'], peer['cpu'], max_ours=peer['cpu'])


# -----------------------------------------------------------------------------
# command line


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--makemore', type=Path, help='a checkout of karpathy/makemore')
    add('--nanogpt', type=Path, help='a checkout of karpathy/nanoGPT')
    add('--source', type=Path, default=ROOT / 'makemore.py', help='the makemore.py to measure')
    names = ', '.join(ROWS)
    add('--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='ROW', help=names)
    add('--rounds', type=int, default=7, help='how often the two take turns (default: 7)')
    add('--scale', type=float, default=1.0, help='below 1: fewer steps, names, lines and bytes')
    target = '{"type": "transformer", "max_steps": 5000, "batch_size": 64, "learning_rate": 2e-3}'
    add('--target', default=target, help=f'our settings in row target (default: {target})')
    add('--most', type=int, default=20000, help='at most so many steps of the peer there')
    recipe = '{"n_embd": 128, "block_size": 64, "batch_size": 12, "learning_rate": 2e-3}'
    add('--recipe', default=recipe, help=f'our settings in row nanogpt-loss (default: {recipe})')
    add('--worker', nargs=2, help=argparse.SUPPRESS)
    return parser


def check_paths(parser: argparse.ArgumentParser, args: argparse.Namespace):
    """Say which peers are absent, and refuse paths that lead nowhere."""
    if args.source.name != 'makemore.py' or not args.source.is_file():
        parser.error(f'--source {args.source}: expected the path of a makemore.py')
    args.source = args.source.resolve()
    for peer, file in (('makemore', 'makemore.py'), ('nanogpt', 'model.py')):
        path = getattr(args, peer)
        if path is None:
            print(f'no --{peer}: its rows show ours alone, or nothing', file=sys.stderr)
        elif not (path / file).is_file():
            parser.error(f'--{peer} {path}: there is no {file}')
        else:
            setattr(args, peer, path.resolve())


def print_cells(cells: list[str]):
    print('| ' + ' | '.join(cells) + ' |', flush=True)


def main():
    parser = make_parser()
    args = parser.parse_args()
    if args.worker:
        name, arguments = args.worker
        run_worker(name, json.loads(arguments))
        return
    check_paths(parser, args)

    print(describe_machine())
    if args.scale != 1:
        print(f'--scale {args.scale:g}: only to see that it runs, the numbers mean nothing')
    print()
    print_cells(['what', 'ours', 'peer', 'ratio', 'floor', 'met'])
    print_cells(['---'] * 6)
    for name in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            for line in ROWS[name](args, Path(folder)):
                cells = line.cells()
                if args.scale != 1:
                    cells[-1] = '-'  # the floors are for the full counts
                print_cells(cells)


if __name__ == '__main__':
    main()
