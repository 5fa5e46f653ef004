"""How fast, next to karpathy/makemore and karpathy/nanoGPT, given as paths of their checkouts:

    python tests/bench/bench_makemore.py --makemore PATH --nanogpt PATH
    python tests/bench/bench_makemore.py --makemore PATH --rows step-transformer step-gru

Ours and the peer do the same work in two processes, one thread each, and take turns, so that a busy machine is busy for
both. CPU time counts; wall time stands beside it. A peer is imported from its path as it is and driven from outside; a
row whose peer is absent shows ours alone. What is made for a row lies in a temporary folder and goes with it.
"""
import argparse
import functools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
SIZES = dict(n_layer=4, n_head=4, n_embd=64, n_hidden=64, batch_size=32, block_size=16)      # makemore's, for names
SHAKESPEARE = dict(text=True, n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12)      # nanoGPT's on a CPU
TARGET = 1.966      # makemore's best test loss, on its own split, after 13,000 steps of its transformer


# ----------------------------------------------------------------------------------------------------------------------
# Jobs: what one side does, as a generator; it prepares, and from then on every next() is one measured round
JOBS = {}


def job(f):
    JOBS[f.__name__] = f
    return f


def clocks(work, times=1):
    """CPU and wall milliseconds of a piece of work."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        work()
    return dict(cpu=(time.process_time() - cpu) * 1e3 / times, wall=(time.perf_counter() - wall) * 1e3 / times)


def peak(start=None):
    """MB in use now (start=None, which forgets older peaks), or the highest use since then above start."""
    lines = Path('/proc/self/status').read_text().split('\n')
    held = {line.split(':')[0]: int(line.split()[1]) / 1e3 for line in lines if line.startswith(('VmRSS', 'VmHWM'))}
    if start is None:
        Path('/proc/self/clear_refs').write_text('5')
        return held['VmRSS']
    return held['VmHWM'] - start


def ours(source, **typed):
    """The program as a module, settings, words and a run, all by its own means."""
    sys.path.insert(0, str(Path(source).parent))
    import makemore
    import torch
    torch.set_num_threads(1)
    cfg = makemore.settle(dict(input_file=str(ROOT / 'names.txt')) | typed)
    words = makemore.read(cfg)
    torch.manual_seed(cfg.seed)
    run = makemore.Run(cfg, words, makemore.MODELS[cfg.type](cfg, words.vocab_size))
    if not hasattr(run.model, 'fit'):
        run.optimizer, run.backprop = makemore.AdamW(run.model, cfg), makemore.by_autograd
    return makemore, run


def peer(path, kind='transformer', file=ROOT / 'names.txt'):
    """karpathy/makemore as a module, with its data, a model of a kind, and the settings that its functions look for."""
    sys.path.insert(0, path)
    import makemore
    import torch
    torch.set_num_threads(1)
    torch.manual_seed(3407)
    makemore.args = argparse.Namespace(device='cpu', top_k=-1)
    makemore.train_dataset, makemore.test_dataset = makemore.create_datasets(file)
    config = makemore.ModelConfig(vocab_size=makemore.train_dataset.get_vocab_size(),
                                  block_size=makemore.train_dataset.get_output_length())
    build = dict(transformer=makemore.Transformer, mlp=makemore.MLP, bigram=makemore.Bigram, bow=makemore.BoW)
    model = build[kind](config) if kind in build else makemore.RNN(config, kind)
    return makemore, model


def peer_stepper(makemore, model):
    """Its training step, with the batch loader in this process, where its work is counted."""
    import torch
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8)
    loader = makemore.InfiniteDataLoader(makemore.train_dataset, batch_size=32, pin_memory=True, num_workers=0)

    def step():
        X, Y = loader.next()
        _, loss = model(X, Y)
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return step


@job
def our_step(source, kind, steps, **settings):
    layers = dict(n_layer=1) if kind == 'bow' else {}      # its bag of words has one layer
    makemore, run = ours(source, **SIZES | layers | dict(type=kind, dropout=0.0, max_steps=10**6) | settings)
    for _ in range(20):      # the first steps pay for what is made once
        makemore.take_step(run, run.model)
    while True:
        yield clocks(lambda: makemore.take_step(run, run.model), steps)


@job
def peer_step(path, kind, steps):
    step = peer_stepper(*peer(path, kind))
    for _ in range(20):
        step()
    while True:
        yield clocks(step, steps)


@job
def peer_split(path, train, test):
    """Its split of the names, 1,000 of them for testing, as two files."""
    makemore, _ = peer(path)
    Path(train).write_text('\n'.join(makemore.train_dataset.words))
    Path(test).write_text('\n'.join(makemore.test_dataset.words))
    yield {}


@job
def our_target(source, train, test, **settings):
    """The training names to the end of a schedule; then the loss on the test names, which is not charged."""
    begin = time.perf_counter()
    makemore, run = ours(source, input_file=train, split='all', **settings)
    if hasattr(run.model, 'fit'):      # its discount wants a dev split: the last 1,000 of the training names
        for name, part in (('dev', slice(-1000, None)), ('train', slice(-1000))):
            run.words.splits[name] = type(run.words.splits[name])(*(t[part] for t in run.words.splits['train']))
        run.model.fit(run.words)
    else:
        for _ in range(run.cfg.max_steps):
            makemore.take_step(run, run.model)
    used = dict(cpu=time.process_time() * 1e3, wall=(time.perf_counter() - begin) * 1e3)
    words = makemore.read(makemore.settle(dict(input_file=test, split='all', type=run.cfg.type,
                                               block_size=run.cfg.block_size)))
    assert words.symbols == run.words.symbols, 'the test names lack a letter that the training names have'
    yield used | dict(loss=makemore.evaluate(makemore.Run(run.cfg, words, run.model), 'dev'), steps=run.step)


@job
def peer_target(path, target, most):
    """Its own loop until its own measure of the test loss, every 500 steps, reaches the target; not charged for it."""
    begin = time.perf_counter()
    makemore, model = peer(path)
    step, spent, seen, best = peer_stepper(makemore, model), [], 0.0, 99.0
    for n in range(1, most + 1):
        step()
        if n % 500 == 0:
            spent.append(time.process_time() * 1e3 - seen)
            best = min(best, makemore.evaluate(model, makemore.test_dataset, batch_size=100, max_batches=10))
            seen = time.process_time() * 1e3 - spent[-1]
            if best <= target:
                break
    yield dict(cpu=spent[-1], wall=(time.perf_counter() - begin) * 1e3, loss=best, steps=n)


# Our names for the parts of the transformer and the peer's: the same weights make the same names, of the same length.
PARTS = {'what': 'transformer.wte', 'where': 'transformer.wpe', 'blocks': 'transformer.h', 'norm1': 'ln_1',
         'norm2': 'ln_2', 'qkv': 'attn.c_attn', 'out': 'attn.c_proj', 'mlp.0': 'mlp.c_fc', 'mlp.2': 'mlp.c_proj',
         'norm': 'transformer.ln_f', 'head': 'lm_head'}


def as_theirs(name):
    """'blocks.0.mlp.2.weight' -> 'transformer.h.0.mlp.c_proj.weight'"""
    for old, new in PARTS.items():
        name = ('.' + name).replace(f'.{old}.', f'.{new}.').removeprefix('.')
    return name


@job
def our_train(source, folder, weights, steps):
    """A model worth sampling from: a run folder for us, the same weights under the peer's names for the peer."""
    sys.path.insert(0, str(Path(source).parent))
    import makemore
    import torch
    flags = dict(SIZES, max_steps=steps, dropout=0.0, work_dir=folder, input_file=ROOT / 'names.txt')
    makemore.main([p for name, value in flags.items() for p in ('--' + name.replace('_', '-'), str(value))])
    model, _ = makemore.load(folder)
    torch.save({as_theirs(name): t for name, t in model.state_dict().items()}, weights)
    yield {}


@job
def peer_weights(path, weights, file):
    """What was trained for both, as its --sample-only expects it: with the masks that it keeps among its weights."""
    import torch
    makemore, model = peer(path)
    missing, unexpected = model.load_state_dict(torch.load(weights), strict=False)
    assert not unexpected and all(name.endswith('attn.bias') for name in missing), (missing, unexpected)
    torch.save(model.state_dict(), file)
    yield {}


@job
def our_sample(source, folder, n):
    sys.path.insert(0, str(Path(source).parent))
    import makemore
    import torch
    torch.set_num_threads(1)
    model, words = makemore.load(folder)
    while True:
        yield clocks(lambda: makemore.sample(model, words, n))


@job
def peer_sample(path, file, n):
    """Its sampler and its decoding, without its search for each name in the list of all names."""
    import torch
    makemore, model = peer(path)
    model.load_state_dict(torch.load(file))
    steps = makemore.train_dataset.get_output_length() - 1

    def work():
        rows = makemore.generate(model, torch.zeros(n, 1, dtype=torch.long), steps, do_sample=True)[:, 1:].tolist()
        return [makemore.train_dataset.decode(row[:row.index(0)] if 0 in row else row) for row in rows]
    while True:
        yield clocks(work)


@job
def our_load(source, file, split):
    sys.path.insert(0, str(Path(source).parent))
    import makemore
    import torch
    import tqdm      # which the program imports when it needs it, and imports are not counted
    torch.set_num_threads(1)
    held = peak()

    def work():
        cfg = makemore.settle(dict(input_file=file, batch_size=32, split=split))
        return makemore.batch(makemore.read(cfg), cfg, 0)
    yield clocks(work) | dict(memory=peak(held))


@job
def peer_load(path, file):
    sys.path.insert(0, path)
    import makemore
    import torch
    torch.set_num_threads(1)
    held = peak()

    def work():
        train, _ = makemore.create_datasets(file)
        return makemore.InfiniteDataLoader(train, batch_size=32, num_workers=0).next()
    yield clocks(work) | dict(memory=peak(held))


@job
def our_count(source, **typed):
    """Reading, counting and the exact dev loss of an ngram."""
    sys.path.insert(0, str(Path(source).parent))
    import makemore
    held, found = peak(), {}

    def work():
        _, run = ours(source, type='ngram', **typed)
        run.model.fit(run.words)
        found['loss'] = makemore.evaluate(run, 'dev')
    yield clocks(work) | found | dict(memory=peak(held))


def gpt(path, text):
    """nanoGPT's model, its optimizer and its two splits of a text, with the CPU recipe of its README."""
    sys.path.insert(0, path)
    import torch
    from model import GPT, GPTConfig
    torch.set_num_threads(1)
    torch.manual_seed(1337)
    symbols = sorted(set(text := Path(text).read_text()))
    index = {symbol: i for i, symbol in enumerate(symbols)}
    data = torch.tensor([index[symbol] for symbol in text])
    model = GPT(GPTConfig(block_size=64, vocab_size=len(symbols), n_layer=4, n_head=4, n_embd=128, dropout=0.0,
                          bias=False))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), 'cpu')
    return model, optimizer, data[:int(len(data) * 0.9)], data[int(len(data) * 0.9):]


def gpt_stepper(model, optimizer, data, steps):
    """Its loop: warm-up over 100 steps, cosine to a tenth, windows of 64, batches of 12, the gradient clipped."""
    import math
    import torch
    for n in range(steps):
        lr = 1e-3 * (n + 1) / 101 if n < 100 else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * (n - 100) / (steps - 100)))
        for group in optimizer.param_groups:
            group['lr'] = lr
        at = torch.randint(len(data) - 64, (12,))
        x, y = (torch.stack([data[i + shift:i + shift + 64] for i in at]) for shift in (0, 1))
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


@job
def gpt_step(path, text, steps):
    model, optimizer, train, _ = gpt(path, text)
    loop = gpt_stepper(model, optimizer, train, 10**6)
    for _ in range(5):
        next(loop)
    while True:
        yield clocks(lambda: next(loop), steps)


@job
def gpt_train(path, text, steps):
    """The whole recipe, and then the exact loss over its validation split in blocks of 64."""
    import torch
    model, optimizer, train, dev = gpt(path, text)
    used = clocks(lambda: list(gpt_stepper(model, optimizer, train, steps)))
    n = (len(dev) - 1) // 64 * 64
    with torch.no_grad():
        losses = [model(x, y)[1].item() * len(x) for x, y in
                  zip(dev[:n].view(-1, 64).split(64), dev[1:n + 1].view(-1, 64).split(64))]
    yield used | dict(loss=sum(losses) / (n // 64), steps=steps)


@job
def our_text(source, text, budget, **settings):
    """As many steps as fit into a budget of CPU milliseconds, the schedule sized to them; then the exact dev loss."""
    makemore, run = ours(source, input_file=text, text=True, max_steps=10**6, **settings)
    for _ in range(5):
        makemore.take_step(run, run.model)
    steps = int(0.97 * budget / clocks(lambda: makemore.take_step(run, run.model), 30)['cpu'])
    makemore, run = ours(source, input_file=text, text=True, max_steps=steps, **settings)

    def work():
        while run.step < steps and time.process_time() - begin < budget / 1e3:
            makemore.take_step(run, run.model)
    begin = time.process_time()
    yield clocks(work) | dict(loss=makemore.evaluate(run, 'dev'), steps=run.step)


# ----------------------------------------------------------------------------------------------------------------------
# Two processes that take turns
def work(name, arguments):
    """The inside of a worker: a round for every line that comes in, its numbers out as JSON; the rest to stderr."""
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    rounds = JOBS[name](**arguments)
    for _ in sys.stdin:
        print(json.dumps(next(rounds)), file=out, flush=True)


class Worker:
    """One side of a row, in a process of its own; what it says besides its numbers is shown only when it fails."""
    def __init__(self, name, **arguments):
        self.log = tempfile.TemporaryFile()
        command = [sys.executable, __file__, '--worker', name, json.dumps(arguments, default=str)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                      text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})

    def round(self):
        self.child.stdin.write('\n')
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f'{" ".join(self.child.args[2:])}\n{self.log.read().decode()}')
        return json.loads(line)

    def end(self):
        self.child.stdin.close()
        self.child.wait()


def once(name, **arguments):
    """Something that is prepared and not measured."""
    worker = Worker(name, **arguments)
    worker.round()
    worker.end()


def medians(results):
    return {name: median(r[name] for r in results) for name in results[0]} if results else None


def alternate(rounds, *jobs, fresh=False):
    """The medians of some jobs that take turns, None for an absent one; fresh: every round is a process of its own."""
    workers, found = {}, [[] for _ in jobs]
    for _ in range(rounds):
        for i, job in enumerate(jobs):
            if job:
                workers[i] = workers.get(i) or Worker(job[0], **job[1])
                found[i].append(workers[i].round())
                if fresh:
                    workers.pop(i).end()
    for worker in workers.values():
        worker.end()
    return list(map(medians, found))


def processes(rounds, folder, *commands):
    """The same for whole programs."""
    found = [[] for _ in commands]
    for _ in range(rounds):
        for command, results in zip(commands, found):
            if command:
                before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=folder,
                               env=os.environ | {'OMP_NUM_THREADS': '1'})
                wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                results.append(dict(cpu=cpu * 1e3, wall=wall * 1e3))
    return list(map(medians, found))


# ----------------------------------------------------------------------------------------------------------------------
# Rows: each yields lines (what, ours, peer, goal), a number of ms being shown in the unit that suits it
ROWS = {}


def row(name):
    def add(f):
        ROWS[name] = f
        return f
    return add


def times(what, mine, theirs, goal='', wall=True):
    """The lines of a comparison: the CPU time, and the wall time below it."""
    yield what + ', CPU', mine['cpu'], theirs and theirs['cpu'], goal
    if wall:
        yield what + ', wall', mine['wall'], theirs and theirs['wall'], ''


def skip(name, needed):
    print(f'row {name} is left out: it needs {needed}', file=sys.stderr)


def step_row(kind, goal, steps, args, folder):
    mine, theirs = alternate(args.rounds, ('our_step', dict(source=args.source, kind=kind, steps=steps)),
                             args.makemore and ('peer_step', dict(path=args.makemore, kind=kind, steps=steps)))
    yield from times(f'{kind}: a training step, 32 names', mine, theirs, goal)


for kind, goal, steps in (('transformer', '2.5x, reach for 3x', 40), ('bigram', '3x', 200), ('mlp', '3x', 100),
                          ('rnn', '3x', 60), ('gru', '3x', 40), ('bow', '3x', 100)):
    ROWS[f'step-{kind}'] = functools.partial(step_row, kind, goal, steps)


@row('target')
def target_row(args, folder):
    """Start to the loss that the peer's default run needs 13,000 steps for; the split is the peer's own."""
    if not args.makemore:
        return skip('target', '--makemore')
    train, test = folder / 'train.txt', folder / 'test.txt'
    once('peer_split', path=args.makemore, train=train, test=test)
    counted, neural, theirs = alternate(
        1, ('our_target', dict(source=args.source, train=train, test=test, type='ngram')),
        ('our_target', dict(source=args.source, train=train, test=test, **json.loads(args.target))),
        ('peer_target', dict(path=args.makemore, target=TARGET, most=args.most)))
    for kind, mine, goal in (('ngram', counted, '100x'), (json.loads(args.target)['type'], neural, '3x, reach for 6x')):
        what = f'{kind}: start to test loss {mine["loss"]:.4f}, {mine["steps"]} steps ' \
               f'(peer {theirs["loss"]:.4f}, {theirs["steps"]} steps)'
        if max(mine['loss'], theirs['loss']) > TARGET:      # who stops short of the target has won nothing: no ratio
            yield from times(what, mine, None, f'{TARGET} NOT REACHED')
        else:
            yield from times(what, mine, theirs, goal)


def trained(args, folder):
    """One transformer, as a run folder of ours and as weights of the peer's."""
    once('our_train', source=args.source, folder=folder / 'run', weights=folder / 'shared.pt', steps=500)
    if args.makemore:
        (folder / 'peer').mkdir(exist_ok=True)
        once('peer_weights', path=args.makemore, weights=folder / 'shared.pt', file=folder / 'peer' / 'model.pt')


@row('sample')
def sample_row(args, folder):
    trained(args, folder)
    for n, rounds, goal in ((1000, 3, ''), (10000, 1, '20x, reach for 40x')):
        mine, theirs = alternate(
            min(rounds, args.rounds), ('our_sample', dict(source=args.source, folder=folder / 'run', n=n)),
            args.makemore and ('peer_sample', dict(path=args.makemore, file=folder / 'peer' / 'model.pt', n=n)))
        yield from times(f'{n:,} names after loading, same weights', mine, theirs, goal)


@row('start')
def start_row(args, folder):
    """The whole command. The peer's --sample-only writes 50 names and cannot be asked for 20."""
    trained(args, folder)
    mine, theirs = processes(
        args.rounds, folder, [sys.executable, args.source, '--sample-only', '--num-samples', 20, '-o', folder / 'run'],
        args.makemore and [sys.executable, args.makemore / 'makemore.py', '--sample-only', '-o', folder / 'peer', '-i',
                           ROOT / 'names.txt'])
    yield '--sample-only, the whole process, wall', mine['wall'], theirs and theirs['wall'], '1.67x'
    yield '--sample-only, the whole process, CPU', mine['cpu'], theirs and theirs['cpu'], ''


@row('load')
def load_row(args, folder):
    """Five million lines that look like names and are nearly all different."""
    names, rng = (ROOT / 'names.txt').read_text().split(), random.Random(0)
    with open(folder / 'lines.txt', 'w') as file:
        for _ in range(50):
            file.writelines(a + b[:3] + '\n' for a, b in zip(rng.choices(names, k=10**5), rng.choices(names, k=10**5)))
    file = folder / 'lines.txt'
    same, honest, theirs = alternate(3, *[('our_load', dict(source=args.source, file=file, split=split))
                                          for split in ('lecture', 'honest')],
                                     args.makemore and ('peer_load', dict(path=args.makemore, file=file)), fresh=True)
    for mine, what in ((same, 'the same work (--split lecture)'), (honest, 'what train has left out of dev')):
        yield from times(f'5 million lines to the first batch, {what}', mine, theirs, '5x')
        yield f'peak memory above imports, MB, {what}', mine['memory'], theirs and theirs['memory'], '3x'


@row('ngram')
def ngram_row(args, folder):
    """names.txt, and 100 MB of text: names in lines of twelve, the frequent ones often, as words in a language are."""
    names, rng, size = (ROOT / 'names.txt').read_text().split(), random.Random(0), 0
    weights = [1 / i for i in range(1, len(names) + 1)]
    with open(folder / 'text.txt', 'w') as file:
        while size < 10**8:
            drawn = rng.choices(names, weights, k=12 * 10**4)
            size += file.write('\n'.join(' '.join(drawn[i::10**4]) for i in range(10**4)) + '\n')
    for what, goal, rounds, typed in (
            ('names.txt', '2 s', 3, dict(input_file=ROOT / 'names.txt', split='lecture')),
            ('100 MB of text', '60 s', 1, dict(input_file=folder / 'text.txt', text=True))):
        mine, = alternate(rounds, ('our_count', dict(source=args.source, **typed)), fresh=True)
        yield from times(f'ngram of 5, read + count + dev loss ({mine["loss"]:.4f}), {what}', mine, None, goal)
        yield f'ngram, peak memory above imports, MB, {what}', mine['memory'], None, ''


def shakespeare():
    """The text that nanoGPT's recipe is for."""
    return os.environ.get('MAKEMORE_DATA') and Path(os.environ['MAKEMORE_DATA']) / 'tinyshakespeare.txt'


@row('nanogpt-step')
def gpt_step_row(args, folder):
    if not (text := shakespeare()):
        return skip('nanogpt-step', 'MAKEMORE_DATA, the folder of tinyshakespeare.txt')
    mine, theirs = alternate(
        args.rounds,
        ('our_step', SHAKESPEARE | dict(source=args.source, kind='transformer', steps=20, input_file=text)),
        args.nanogpt and ('gpt_step', dict(path=args.nanogpt, text=text, steps=20)))
    yield from times("a step of nanoGPT's CPU recipe, same shapes", mine, theirs, '1.5x')


@row('nanogpt-loss')
def gpt_loss_row(args, folder):
    """The peer's 2,000 steps; then ours, with settings of our own, in no more CPU time."""
    if not args.nanogpt or not (text := shakespeare()):
        return skip('nanogpt-loss', '--nanogpt and MAKEMORE_DATA, the folder of tinyshakespeare.txt')
    theirs, = alternate(1, ('gpt_train', dict(path=args.nanogpt, text=text, steps=2000)))
    recipe = dict(source=args.source, text=text, budget=theirs['cpu']) | json.loads(args.recipe)
    mine, = alternate(1, ('our_text', recipe))
    yield (f'nanoGPT\'s CPU recipe, dev loss ({mine["steps"]:.0f} and {theirs["steps"]} steps)', mine['loss'],
           theirs['loss'], 'lower')
    yield from times('the same, its training', mine, theirs, 'no more', wall=False)


def show(number, what):
    """1234.5 ms -> '1.23 s'; what is no time stays a plain number."""
    if number is None:
        return '-'
    if 'memory' in what:
        return f'{number:,.0f}'
    if 'loss (' in what and not what.endswith(('CPU', 'wall')):
        return f'{number:.4f}'
    return f'{number / 1e3:.2f} s' if number >= 1000 else f'{number:.2f} ms'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--makemore', type=Path, help='a checkout of karpathy/makemore')
    parser.add_argument('--nanogpt', type=Path, help='a checkout of karpathy/nanoGPT')
    parser.add_argument('--source', type=Path, default=ROOT / 'makemore.py', help='the program (default: %(default)s)')
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='ROW', help=', '.join(ROWS))
    parser.add_argument('--rounds', type=int, default=7, help='how often the two take turns (default: %(default)s)')
    parser.add_argument('--target', default='{"type": "transformer", "max_steps": 5000}',
                        help='our settings in row target, JSON')
    parser.add_argument('--most', type=int, default=20000, help="the peer's steps in row target at most")
    parser.add_argument('--recipe', default='{"n_embd": 128, "block_size": 64, "batch_size": 12}',
                        help='our settings in row nanogpt-loss, JSON')
    parser.add_argument('--worker', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker[0], json.loads(args.worker[1]))
    for peer, file in (('makemore', 'makemore.py'), ('nanogpt', 'model.py')):
        if (path := getattr(args, peer)) and not (path / file).is_file():
            parser.error(f'there is no {file} in {path}')
        if not path:
            print(f'no --{peer}: its rows show ours alone, or nothing', file=sys.stderr)
    print('| what | ours | peer | ratio | goal |\n| --- | --- | --- | --- | --- |')
    for name in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            for what, mine, theirs, goal in ROWS[name](args, Path(folder)):
                ratio = f'{theirs / mine:.2f}x' if theirs and goal != 'lower' else '-'      # losses have no ratio
                print('|', ' | '.join([what, show(mine, what), show(theirs, what), ratio, goal]), '|', flush=True)


if __name__ == '__main__':
    main()
