"""Lecture 7: GPT.

From a table of pairs to a transformer, one idea at a time, on Shakespeare. The parts are those of makemore's
transformer; the text itself is not in the repository, so most of this needs MAKEMORE_DATA.
"""
import functools
import json
import math
import tempfile
from pathlib import Path

from course import answer, claim, experiment, figure, main, read, shared_data

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import trange

import makemore

@functools.cache
def shakespeare(kind='transformer', block_size=8, **typed):
    """Settings and words of the text, as --text reads it."""
    path = str(shared_data('tinyshakespeare.txt'))
    return read(input_file=path, text=True, type=kind, block_size=block_size, **typed)

def dev_loss(model, words):
    """Over the whole dev part, cut into blocks."""
    model.eval()
    with torch.no_grad():
        loss = model(*makemore.gather(words, *words.splits['dev'])).item()
    model.train()
    return loss

def train(model, words, cfg, steps, rate, title):
    """AdamW at a steady rate on makemore's batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in trange(steps, desc=title, disable=None, mininterval=1, leave=False):
        x, y, _ = makemore.batch(words, cfg, step)
        loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model

# ----------------------------------------------------------------------------------------------------------------------
# Shakespeare, and the table of pairs once more
@experiment
def test_data():
    """How much text, how many different characters, how much for training?"""
    cfg, words = shakespeare()
    yield figure('characters, of how many kinds', '1115394 65', [len(words.flat), words.vocab_size])
    yield figure('train, dev', '1003854 111540', [words.longest, len(words.flat) - words.longest])
    torch.manual_seed(1337)
    places = torch.randint(words.longest - 8, (4,)).tolist()
    yield figure("the lecture's first four places", '76049 234249 934904 560986', places)

@experiment
def test_bigram():
    """Where does the table of pairs start, and where does it end?"""
    cfg, words = shakespeare('bigram', batch_size=32)
    torch.manual_seed(1337)
    at = torch.randint(words.longest - 8, (4,))
    x, y = makemore.gather(words, at, torch.full((4,), 8))
    model = makemore.MODELS['bigram'](cfg, 65)
    torch.manual_seed(1337)
    model.table = nn.Embedding(65, 65)
    yield figure('all characters alike', '4.1744', math.log(65))
    yield figure('first loss', '4.878634929656982', model(x, y).item())
    train(model, words, cfg, 3000, 1e-2, 'bigram')
    yield figure('dev after 3,000 steps', '2.49', dev_loss(model, words), within=0.01)

# ----------------------------------------------------------------------------------------------------------------------
# Attention
@experiment
def test_four_averages():
    """Four ways to the mean of all before: a loop, a matrix, a softmax of nothing, attention that does not care."""
    torch.manual_seed(1337)
    x = torch.randn(4, 8, 2)
    loop = torch.stack([torch.stack([row[:t + 1].mean(0) for t in range(8)]) for row in x])
    lower = torch.ones(8, 8).tril()
    matrix = lower / lower.sum(1, keepdim=True) @ x
    softmax = torch.zeros(8, 8).masked_fill(lower == 0, -math.inf).softmax(1) @ x
    attention = F.scaled_dot_product_attention(torch.zeros_like(x), torch.zeros_like(x), x, is_causal=True)
    for title, way in ('matrix', matrix), ('softmax', softmax), ('attention', attention):
        yield claim(f'{title}: the loop to 1e-6', torch.allclose(loop, way, atol=1e-6))
    yield claim("and a running sum, as in makemore's bag of words", torch.allclose(
        loop, x.cumsum(1) / torch.arange(1, 9)[:, None], atol=1e-6))

@experiment
def test_scaling():
    """Why is attention divided by the root of head_size? Else softmax looks at one place alone."""
    torch.manual_seed(1337)
    k, q = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
    scores = q @ k.transpose(1, 2)
    spread = [(scores / divisor).var().item() for divisor in (1, 4)]
    yield answer('variance of the scores, as they are and divided', '18.44 1.15', spread)
    few = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.5])
    yield answer('the largest share of five, as they are and eight times as large', '0.29 0.80',
                 [few.softmax(0).max().item(), (8 * few).softmax(0).max().item()], within=0.01)

def block(n_head=4, n_embd=32, n_layer=3):
    return makemore.Block(makemore.settle(dict(n_head=n_head, n_embd=n_embd, n_layer=n_layer, dropout=0.0)))

@experiment
def test_heads_as_one():
    """Exercise 1: many heads one after another, or all in one multiplication: the same?"""
    torch.manual_seed(1337)
    layer, x = block(), torch.randn(2, 8, 32)
    q, k, v = (part.T.view(32, 4, 8).unbind(1) for part in layer.qkv.weight.split(32))
    biases = [part.view(4, 8) for part in layer.qkv.bias.split(32)]
    heads = []
    for h in range(4):
        query, key, value = (x @ w[h] + b[h] for w, b in zip((q, k, v), biases))
        scores = (query @ key.transpose(1, 2) / 8**0.5).masked_fill(torch.ones(8, 8).tril() == 0, -math.inf)
        heads.append(scores.softmax(-1) @ value)
    together = layer.attention(x, None, None)
    yield claim("makemore's attention, to 1e-6", torch.allclose(layer.out(torch.cat(heads, -1)), together, atol=1e-6))

@experiment
def test_mask():
    """What makes it a decoder? Without the mask every place sees the whole text: an encoder."""
    torch.manual_seed(1337)
    layer, x = block(), torch.randn(1, 8, 32)
    y = x.clone()
    y[:, 5] += 1
    everything = torch.ones(8, 8, dtype=torch.bool)
    causal, all_see = ((layer(x, m) - layer(y, m)).abs().amax(2)[0] for m in (None, everything))
    yield claim('decoder: places before the change do not notice', not causal[:5].any() and causal[5:].all())
    yield claim('encoder: all notice', all_see.all())

@experiment
def test_layer_norm():
    """Layer norm is batch norm with rows and columns exchanged: is it?"""
    x = torch.randn(32, 100, generator=torch.Generator().manual_seed(1337))
    yield claim('so it is', torch.allclose(nn.LayerNorm(100)(x), makemore.BatchNorm1d(32)(x.T).T, atol=1e-5))

# ----------------------------------------------------------------------------------------------------------------------
# From one head to a GPT, 5,000 steps each
class Stage(makemore.LanguageModel):
    """The lecture's model while it grows: makemore's block, of which not all is switched on yet."""
    def __init__(self, n_head, n_layer=1, think=False, add=False, norm=False):
        super().__init__()
        self.think, self.add, self.context = think, add, 8
        self.what, self.where = nn.Embedding(65, 32), nn.Embedding(8, 32)
        self.blocks = nn.ModuleList(block(n_head, 32, n_layer) for _ in range(n_layer))
        self.norm, self.head = nn.LayerNorm(32) if norm else nn.Identity(), nn.Linear(32, 65)
        for b in self.blocks if not norm else ():
            b.norm1 = b.norm2 = nn.Identity()
    def logits(self, idx, cache=None):
        x = self.what(idx) + self.where(torch.arange(idx.size(1)))
        for b in self.blocks:
            for part in (lambda x: b.attention(b.norm1(x), None, None), lambda x: b.mlp(b.norm2(x)))[:1 + self.think]:
                x = x + part(x) if self.add else part(x)
        return self.head(self.norm(x))      # (B, T, V)

STAGES = {'one head': ('2.40', dict(n_head=1)), 'four heads': ('2.28', dict(n_head=4)),
          'and a net behind them': ('2.24', dict(n_head=4, think=True)),
          'three blocks, added to what was there': ('2.08', dict(n_head=4, n_layer=3, think=True, add=True)),
          'and layer norms': ('2.06', dict(n_head=4, n_layer=3, think=True, add=True, norm=True))}

@experiment(long=True)
def test_stages():
    """What does each idea bring? (32 channels, 8 characters of context; the video shows estimates, not seeded)"""
    cfg, words = shakespeare(batch_size=32)
    for title, (expected, parts) in STAGES.items():
        torch.manual_seed(1337)
        model = train(Stage(**parts), words, cfg, 5000, 1e-3, title)
        yield figure(f'{title}: dev', expected, dev_loss(model, words), within=0.1)

@experiment(long=True)
def test_small_gpt():
    """And makemore's transformer, at the size that nanoGPT has for a laptop: 4 blocks, 128 channels, 64 characters?"""
    with tempfile.TemporaryDirectory() as folder:
        how = '--text --block-size 64 --n-embd 128 --dropout 0 -b 12 --max-steps 2000'.split()
        code = makemore.main(['-i', str(shared_data('tinyshakespeare.txt')), '-o', folder, *how])
        result = json.loads(Path(folder, 'result.json').read_text())
    yield claim('it runs', code == 0)
    # nanoGPT's figure is an estimate over 20 batches, its schedule and its decay are others
    yield figure('dev after 2,000 steps', '1.88', result['dev'], within=0.2)

@experiment(long=True)
def test_addition():
    """Exercise 2: can it learn to add two numbers below 100? (the answer is written backwards, as one adds by hand)"""
    with tempfile.TemporaryDirectory() as folder:
        sums, out = Path(folder, 'sums.txt'), Path(folder, 'out')
        lines = (f'{a:02}+{b:02}=' + f'{a + b:03}'[::-1] for a in range(100) for b in range(100))
        sums.write_text('\n'.join(lines))
        how = '--split lecture --dropout 0 --max-steps 4000 --sample-interval none'.split()
        makemore.main(['-i', str(sums), '-o', str(out), *how])
        model, _ = makemore.load(str(out))
        words = makemore.read(makemore.settle(dict(input_file=str(sums), split='lecture')))
    x, y = makemore.gather(words, *words.splits['dev'])
    with torch.no_grad():
        right = (model.logits(x).argmax(2) == y)[:, 6:9].all(1)      # what comes after the equals sign
    yield claim('of 1,000 sums that it has never seen, at least 99 % are right', right.float().mean() >= 0.99)
    yield answer('% right', '100', 100 * right.float().mean().item(), within=1)

# ----------------------------------------------------------------------------------------------------------------------
# Sizes
def gpt_size(vocab, context, channels, layers, bias=True):
    """How many numbers a GPT is made of; without biases its head is the table of the tokens once more."""
    C = channels
    layer = 12 * C * C + (10 if bias else 2) * C      # attention 4 C^2, the net behind it 8 C^2, biases, two norms
    return (vocab + context) * C + layers * layer + (2 * C + C * vocab + vocab if bias else C)

@experiment
def test_sizes():
    """How large are the lecture's GPT and GPT-2?"""
    yield figure("the lecture's: 6 layers, 384 channels, 256 characters", '10788929', gpt_size(65, 256, 384, 6))
    yield figure('GPT-2, small, without biases', '124337664', gpt_size(50257, 1024, 768, 12, False))

if __name__ == '__main__':
    main()
