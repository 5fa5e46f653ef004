"""Lecture 7: GPT.

From a table of pairs to a transformer, one idea at a time. The parts are those of makemore's
transformer. The lecture's text, Shakespeare, is not in the repository: lectures/README.md has the
command that downloads it. What can make its point on names.txt does so.
"""

import json
import math
import tempfile
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from course import (
    answer,
    claim,
    conclusion,
    experiment,
    figure,
    finding,
    load_data,
    main,
    shared_data,
    show_progress,
)

import makemore


def load_shakespeare(model_type='transformer', **settings):
    """Settings and data set of the text, as --text reads it."""
    path = str(shared_data('tinyshakespeare.txt'))
    return load_data(input_file=path, text=True, type=model_type, block_size=8, **settings)


@torch.no_grad()
def dev_loss(model, dataset):
    """Over the whole dev part, cut into blocks."""
    model.eval()
    loss = model(*makemore.pad_batch(dataset.tokens, dataset.spans['dev'])).item()
    model.train()
    return loss


def train_adamw(model, dataset, config, steps, lr, title):
    """AdamW at a steady rate on makemore's batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in show_progress(steps, title):
        x, y, _ = makemore.get_batch(dataset, config, step)
        loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# -----------------------------------------------------------------------------
# Shakespeare, and the table of pairs once more


def lecture_places(dataset):
    """The first four places that the lecture draws from the text."""
    torch.manual_seed(1337)
    return torch.randint(dataset.max_len - 8, (4,))


@experiment
def test_data():
    """How much text, how many different characters, how much for training?"""
    _, dataset = load_shakespeare()
    n_tokens = len(dataset.tokens)
    n_train = dataset.max_len
    sizes = [n_tokens, dataset.vocab_size]
    yield figure('characters, of how many kinds', '1115394 65', sizes, 'file')
    yield figure('train, dev', '1003854 111540', [n_train, n_tokens - n_train], 'file')
    places = lecture_places(dataset).tolist()
    expected = '76049 234249 934904 560986'
    yield figure("the lecture's first four places", expected, places, 'video')


@experiment(slow=True)
def test_bigram():
    """Where does the table of pairs start, and where does it end?"""
    config, dataset = load_shakespeare('bigram', batch_size=32)
    spans = makemore.Spans(lecture_places(dataset), torch.full((4,), 8))
    x, y = makemore.pad_batch(dataset.tokens, spans)
    model = makemore.MODELS['bigram'](config, 65)
    torch.manual_seed(1337)
    model.table = nn.Embedding(65, 65)
    yield figure('all characters alike', '4.1744', math.log(65), 'video')
    yield figure('first loss', '4.8786', model(x, y).item(), 'video')
    train_adamw(model, dataset, config, 3000, 1e-2, 'bigram')
    yield figure('dev after 3,000 steps', '2.49', dev_loss(model, dataset), 'video', within=0.01)


# -----------------------------------------------------------------------------
# attention


def average_with_loop(x):
    """The mean of all vectors up to each place, as a loop."""
    means = torch.zeros_like(x)
    for b in range(x.size(0)):
        for t in range(x.size(1)):
            means[b, t] = x[b, : t + 1].mean(0)
    return means


@experiment
def test_four_averages():
    """Four ways to the mean of all before: a loop, a matrix, a softmax of nothing, attention that
    does not care.
    """
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 2)
    loop = average_with_loop(x)
    lower = torch.ones(8, 8).tril()
    zeros = torch.zeros_like(x)
    ways = {
        'matrix': lower / lower.sum(1, keepdim=True) @ x,
        'softmax': torch.zeros(8, 8).masked_fill(lower == 0, -math.inf).softmax(1) @ x,
        'attention': F.scaled_dot_product_attention(zeros, zeros, x, is_causal=True),
    }
    for title, way in ways.items():
        same = torch.allclose(loop, way, atol=1e-6)
        if title == 'attention':  # the fourth version of the lecture does care
            yield finding(f'{title}: the loop to 1e-6', same)
        else:
            yield claim(f'{title}: the loop to 1e-6', same, 'video')
    running = x.cumsum(1) / torch.arange(1, 9)[:, None]
    same = torch.allclose(loop, running, atol=1e-6)
    yield finding("and a running sum, as in makemore's bag of words", same)


@experiment
def test_scaling():
    """Why is attention divided by the root of head_size? Else softmax looks at one place alone."""
    torch.manual_seed(1337)
    k = torch.randn(4, 8, 16)
    q = torch.randn(4, 8, 16)
    scores = q @ k.transpose(1, 2)
    variances = [scores.var().item(), (scores / 4).var().item()]
    yield answer('variance of the scores, as they are and divided', '18.44 1.15', variances)
    logits = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.5])
    shares = [(scale * logits).softmax(0).max().item() for scale in (1, 8)]
    what = 'the largest share of five, as they are and eight times as large'
    yield figure(what, '0.2872 0.8000', shares, 'video')


def make_block(n_head=4, n_layer=3):
    """makemore's block with 32 channels."""
    settings = {'type': 'transformer', 'n_head': n_head, 'n_embd': 32, 'n_layer': n_layer}
    settings['dropout'] = 0.0
    return makemore.Block(makemore.resolve_config(settings))


@experiment
def test_heads_as_one():
    """Exercise 1: many heads one after another, or all in one multiplication: the same?"""
    torch.manual_seed(1337)
    attention = make_block().attn
    x = torch.randn(2, 8, 32)
    future = torch.ones(8, 8).tril() == 0
    # four heads of 8 channels: 12 small matrices instead of one of 96 rows
    weights = attention.qkv.weight.view(3, 4, 8, 32)
    biases = attention.qkv.bias.view(3, 4, 8)
    heads = []
    for h in range(4):
        query, key, value = [x @ weights[i, h].T + biases[i, h] for i in range(3)]
        scores = query @ key.transpose(1, 2) / 8**0.5
        heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ value)
    one_by_one = attention.proj(torch.cat(heads, -1))
    same = torch.allclose(one_by_one, attention(x), atol=1e-6)
    yield finding("makemore's attention, to 1e-6", same)
    gap = (one_by_one - attention(x)).abs().max().item()
    yield conclusion(
        f'The same: one multiplication by a matrix of 96 rows does what 12 small ones do, and the '
        f'results are {gap:.0e} apart.'
    )


class EncoderAttention(makemore.CausalSelfAttention):
    """The same without the mask."""

    def forward(self, x, cache=None):
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, nh, T, hs) each
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


@experiment
def test_mask():
    """What makes it a decoder? Without the mask every place sees the whole text: an encoder."""
    torch.manual_seed(1337)
    decoder = make_block()
    encoder = make_block()
    encoder.attn = EncoderAttention(makemore.Config(n_head=4, n_embd=32))
    encoder.load_state_dict(decoder.state_dict())
    x = torch.randn(1, 8, 32)
    y = x.clone()
    y[:, 5] += 1
    causal = (decoder(x) - decoder(y)).abs().amax(2)[0]
    what = 'decoder: places before the change do not notice'
    yield claim(what, not causal[:5].any() and causal[5:].all(), 'video')
    all_see = (encoder(x) - encoder(y)).abs().amax(2)[0]
    yield claim('encoder: all notice', all_see.all(), 'video')


@experiment
def test_layer_norm():
    """Layer norm is batch norm with rows and columns exchanged: is it?"""
    x = torch.randn(32, 100, generator=torch.Generator().manual_seed(1337))
    exchanged = makemore.BatchNorm1d(32)(x.T).T
    same = torch.allclose(nn.LayerNorm(100)(x), exchanged, atol=1e-5)
    yield claim('so it is', same, 'video')


# -----------------------------------------------------------------------------
# from one head to a GPT, 5,000 steps each


class Stage(makemore.LanguageModel):
    """The lecture's model while it grows: makemore's block, of which not all is switched on yet."""

    context = 8

    def __init__(self, vocab_size, n_head, n_layer=1, mlp=False, residual=False, norm=False):
        super().__init__()
        self.mlp = mlp
        self.residual = residual
        self.tok_emb = nn.Embedding(vocab_size, 32)
        self.pos_emb = nn.Embedding(8, 32)
        self.blocks = nn.ModuleList(make_block(n_head, n_layer) for _ in range(n_layer))
        self.norm = nn.LayerNorm(32) if norm else nn.Identity()
        self.head = nn.Linear(32, vocab_size)
        if not norm:
            for block in self.blocks:
                block.norm1 = nn.Identity()
                block.norm2 = nn.Identity()

    def logits(self, idx, cache=None):
        x = self.tok_emb(idx) + self.pos_emb(torch.arange(idx.size(1)))
        for block in self.blocks:
            x = self.add(x, block.attn(block.norm1(x)))
            if self.mlp:
                x = self.add(x, block.mlp(block.norm2(x)))
        return self.head(self.norm(x))  # (B, T, V)

    def add(self, x, y):
        """What a part makes of x, added to it if that is switched on."""
        return x + y if self.residual else y


THREE_BLOCKS = {'n_head': 4, 'n_layer': 3, 'mlp': True, 'residual': True}
STAGES = {
    'one head': ('2.40', {'n_head': 1}),
    'four heads': ('2.28', {'n_head': 4}),
    'and a net behind them': ('2.24', {'n_head': 4, 'mlp': True}),
    'three blocks, added to what was there': ('2.08', THREE_BLOCKS),
    'and layer norms': ('2.06', THREE_BLOCKS | {'norm': True}),
}


@experiment(long=True)
def test_stages():
    """What does each idea bring? (32 channels, 8 characters of context; the video shows estimates,
    not seeded)
    """
    config, dataset = load_shakespeare(batch_size=32)
    for title, (expected, parts) in STAGES.items():
        torch.manual_seed(1337)
        model = Stage(dataset.vocab_size, **parts)
        train_adamw(model, dataset, config, 5000, 1e-3, title)
        # the lecture estimates on 200 random batches, we take the whole dev part
        yield figure(f'{title}: dev', expected, dev_loss(model, dataset), 'video', within=0.1)


@experiment(long=True)
def test_stages_on_names():
    """The same on names.txt: does each idea help there, too?"""
    config, dataset = load_data(type='transformer', batch_size=32, block_size=8)
    expected = ['2.28', '2.21', '2.18', '2.09', '2.09']
    losses = {}
    for figures, (title, (_, parts)) in zip(expected, STAGES.items(), strict=True):
        torch.manual_seed(1337)
        model = Stage(dataset.vocab_size, **parts)
        train_adamw(model, dataset, config, 5000, 1e-3, title)
        losses[title] = dev_loss(model, dataset)
        yield answer(f'{title}: dev', figures, losses[title], within=0.05)
    first, *_, last = losses.values()
    yield finding('all of them together are better than one head', last < first)


@experiment(long=True)
def test_small_gpt():
    """And makemore's transformer, at the size that nanoGPT has for a laptop: 4 blocks, 128
    channels, 64 characters?
    """
    flags = '--text --type transformer --block-size 64 --n-embd 128 --dropout 0 -b 12'
    flags += ' --max-steps 2000'
    with tempfile.TemporaryDirectory() as folder:
        path = str(shared_data('tinyshakespeare.txt'))
        makemore.main(['-i', path, '-o', folder, *flags.split()])
        result = json.loads(Path(folder, 'result.json').read_text())
    # nanoGPT's figure is an estimate over 20 batches, its schedule and its decay are others
    yield figure('dev after 2,000 steps', '1.88', result['dev'], 'file', within=0.2)


def write_sums(path):
    """All sums of two numbers below 100, such as 27+05=230: the answer is written backwards."""
    lines = []
    for a in range(100):
        for b in range(100):
            backwards = f'{a + b:03}'[::-1]
            lines.append(f'{a:02}+{b:02}={backwards}')
    path.write_text('\n'.join(lines))


@experiment(long=True)
def test_addition():
    """Exercise 2: can it learn to add two numbers below 100? (the answer is written backwards, as
    one adds by hand)
    """
    flags = '--type transformer --split lecture --dropout 0 --max-steps 4000'
    flags += ' --sample-interval none'
    with tempfile.TemporaryDirectory() as folder:
        sums = Path(folder, 'sums.txt')
        out = str(Path(folder, 'out'))
        write_sums(sums)
        makemore.main(['-i', str(sums), '-o', out, *flags.split()])
        model, _ = makemore.load(out)
        _, dataset = load_data(input_file=str(sums), type='transformer')
    x, y = makemore.pad_batch(dataset.tokens, dataset.spans['dev'])
    with torch.no_grad():
        # what comes after the equals sign
        right = (model.logits(x).argmax(2) == y)[:, 6:9].all(1)
    share = right.float().mean().item()
    what = 'of 1,000 sums that it has never seen: % right'
    yield answer(what, '100', 100 * share, within=1)
    yield conclusion(
        f'Yes: from 8,000 of the 10,000 sums it learns enough to get {100 * share:.1f} % of 1,000 '
        'others right.'
    )


# -----------------------------------------------------------------------------
# sizes


def gpt_size(vocab_size, context, n_embd, n_layer, bias=True):
    """How many numbers a GPT is made of.

    Without biases its head is the table of the tokens once more.
    """
    C = n_embd
    embeddings = (vocab_size + context) * C
    matrices = 12 * C * C  # attention has 4 C^2, the net behind it 8 C^2
    if bias:
        layer = matrices + 10 * C  # biases, and two norms
        head = 2 * C + C * vocab_size + vocab_size
    else:
        layer = matrices + 2 * C
        head = C
    return embeddings + n_layer * layer + head


@experiment
def test_sizes():
    """How large are the lecture's GPT and GPT-2?"""
    what = "the lecture's: 6 layers, 384 channels, 256 characters, in millions"
    yield figure(what, '10.788929', gpt_size(65, 256, 384, 6) / 1e6, 'video')
    size = gpt_size(50257, 1024, 768, 12, bias=False)
    yield figure('GPT-2, small, without biases', '124337664', size, 'file')


if __name__ == '__main__':
    main()
