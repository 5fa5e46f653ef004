"""Bad input of every kind: checkpoints and tokenizers made to do harm, texts nobody expects, settings at their ends.

The answer is always one of two: it works, or it is refused in one line. With --long more of each is tried.
"""
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import makemore
import tokenizer
from conftest import SMALL, flags
from test_faults import checkpoint, differences, fork, go, one_line, server, tell      # noqa: F401
from test_tokenizer import random_text, random_tokenizer
from tokenizer import Tokenizer
from tokenizer.text import PATTERNS


@pytest.fixture(scope='session')
def long(request):
    """long(40, 300): the second with --long."""
    return lambda few, many: many if request.config.getoption('--long') else few


class Ended:
    """What run() gives, as one_line() wants it."""

    def __init__(self, result):
        self.code, self.out, self.err = result

    def __repr__(self):
        return f'{self.code}: {self.out[-300:]}{self.err[-600:]}'


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints made to do harm: a good one with something in its place. What is `huge` takes a gigabyte where it works.

MB = 2**20


class Call:
    """In a pickle: a call of a function while it is loaded."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def nested(depth, width=10):
    """A list of lists of lists: 600 bytes in a file, and 10**depth letters for whoever writes them out."""
    inner = ['a'] * width
    for _ in range(depth - 1):
        inner = [inner] * width
    return inner


def spread(*shape, kind=torch.float32):
    """One number that claims to be many: in a file it takes the room of one."""
    return torch.zeros(1, dtype=kind).expand(*shape)


def claims(**settings):
    """A model of another size, all of whose weights are one number."""
    def how(content):
        content['settings'].update(settings)
        with torch.device('meta'):
            model = makemore.MODELS[content['settings']['type']](
                makemore.Config(**content['settings']), makemore.Words(**content['words']).vocab_size)
        content['model'] = {name: spread(*t.shape) for name, t in model.state_dict().items()}
    return how


def put(*path, to):
    def how(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to(content[path[-1]]) if callable(to) else to
    return how


def doubling():
    """Bytes spelled as hexadecimal digits, spelled as hexadecimal digits: twice as many at every call."""
    import _codecs
    call = Call(_codecs.encode, 'x' * 64, 'utf-8')
    for _ in range(24):
        call = Call(_codecs.encode, call, 'hex')
    return call


NO_STATE = dict(state={}, param_groups=[])
HARM = {      # name: (type, what is changed, more of the command line; None: --resume)
    'expanded weights': ('mlp', claims(block_size=2**14, n_embd=2**12, n_hidden=8), []),
    'ten billion rows': ('mlp', put('model', 'net.0.weight', to=spread(10**10, 10)), []),
    'an expanded recurrent net': ('gru', claims(n_hidden=2**14), []),
    'n_layer = -1': ('transformer', put('settings', 'n_layer', to=-1), []),
    'n_layer = 10**9': ('transformer', put('settings', 'n_layer', to=10**9), []),
    'five hundred layers': ('transformer', put('settings', 'n_layer', to=512), []),
    'NaN weights': ('gru', put('model', 'head.weight', to=lambda t: t * math.nan), []),
    'infinite weights': ('gru', put('model', 'head.bias', to=lambda t: t + math.inf), []),
    'sparse weights': ('gru', put('model', 'head.weight', to=lambda t: t.to_sparse()), []),
    'complex weights': ('gru', put('model', 'head.weight', to=lambda t: t.to(torch.complex64)), None),
    'weights of whole numbers': ('gru', put('model', to=lambda m: {n: t.int() for n, t in m.items()}), []),
    'weights without memory': ('gru', put('model', to=lambda m: {n: t.to('meta') for n, t in m.items()}), []),
    'a list of lists as type': ('gru', put('settings', 'type', to=nested(9)), []),
    'a list of lists as version': ('gru', put('version', to=nested(9)), []),
    'a list of lists as symbols': ('gru', put('words', 'symbols', to=nested(9)), []),
    'a list of lists beside': ('gru', put('settings', to=lambda s: s | {'type': 'gru', 'seed': nested(9)}), []),
    'a deep list': ('gru', put('best', to=nested(300, 1)), []),
    'gigabytes of zeros': ('gru', put('version', to=Call(bytearray, 10**9)), []),
    'bytes that double': ('gru', put('version', to=doubling()), []),
    'known is text': ('gru', put('words', 'known', to={'in train': 'emma'}), ['--new-only']),
    'known is a list': ('gru', put('words', 'known', to=[1, 2]), ['--new-only']),
    'known is expanded': ('gru', put('words', 'known', 'in train', to=spread(10**9, kind=torch.int64)), ['--new-only']),
    'longest is no whole number': ('gru', put('words', 'longest', to=5.5), []),
    'longest is infinite': ('gru', put('words', 'longest', to=math.inf), []),
    'longest is negative': ('gru', put('words', 'longest', to=-50), []),
    'half a surrogate pair': ('gru', put('words', 'symbols', to=lambda s: s[1:] + '\ud800'), ['--num-samples', 50]),
    'a newline as symbol': ('gru', put('words', 'symbols', to=lambda s: s[:-1] + '\n'), []),
    'an optimizer that is text': ('gru', put('optimizer', to='adam'), None),
    'an optimizer that is a list': ('gru', put('optimizer', to=[1]), None),
    'an optimizer of nothing': ('gru', put('optimizer', to=NO_STATE), None),
    'averages of another shape': ('gru', put('optimizer', 1, to=torch.zeros(3)), None),
    'averages that are expanded': ('gru', put('optimizer', 1, to=lambda t: spread(*t.shape)), None),
    'averages that are text': ('gru', put('optimizer', 1, to='x'), None),
    'averages of another kind': ('gru', put('optimizer', 1, to=lambda t: t.to(torch.int32)), None),
    'averages that are missing': ('gru', put('optimizer', to=lambda moments: moments[:-1]), None),
    'steps of the optimizer': ('gru', put('optimizer', 0, to=torch.zeros(2, 2)), None),
    'no steps of the optimizer': ('gru', put('optimizer', 0, to='x'), None),
    'a negative step': ('gru', put('step', to=-3), None),
    'a step beyond all numbers': ('gru', put('step', to=10**30), None),
    'an infinite step': ('gru', put('step', to=math.inf), None),
    'an unknown encoding': ('gru', put('settings', 'encoding', to='utf-9'), None),
    'another file': ('gru', put('settings', 'input_file', to='/nowhere/\x1b[2J'), None),
    'pairs out of order': ('ngram', put('model', 'pairs1', to=lambda t: t.flip(0) - 5), []),
    'counts that end early': ('ngram', put('model', 'counts1', to=lambda t: t[:1]), []),
    'pairs without end': ('ngram', put('model', 'pairs0', to=torch.tensor([], dtype=torch.int64)), []),
    'a tokenizer that is text': ('gru', put('words', 'tokenizer', to='x'), []),
    'a tokenizer of other size': ('gru', put('words', 'tokenizer', to=Tokenizer().to_dict()), []),
}


@pytest.fixture
def spoil(finished, tmp_path):
    """spoil('gru', how): a folder x with such checkpoints."""
    def spoil(kind, how):
        (tmp_path / 'x').mkdir(exist_ok=True)
        for name in ('best.pt', 'last.pt'):
            content = checkpoint(finished(kind) / name)
            if how and (name == 'last.pt' or content['optimizer'] is None):
                try:
                    how(content)
                except TypeError:      # best.pt has no optimizer
                    assert content['optimizer'] is None and name == 'best.pt'
            torch.save(content, tmp_path / 'x' / name)
    return spoil


@pytest.mark.parametrize('name', HARM)
def test_a_checkpoint_that_means_harm(name, spoil, usual, go):
    """Refused in a line that names it, or used as what it is; in its own size, and with no end of time."""
    kind, how, more = HARM[name]
    args = ['--resume', '-o', 'x', '--max-steps', 14] if more is None else ['--sample-only', '-o', 'x', *more]
    spoil(kind, how)
    end = go(*args, plan=[['limited', 20]])
    if end.code:
        one_line(end, 2, *['x/best.pt'] * (more is not None))
    assert 'Traceback' not in end.err and end.rss < usual(kind, args) + 100_000      # KB


@pytest.fixture
def usual(spoil, go, sizes={}):
    """The memory that the command takes with a good checkpoint."""
    def usual(kind, args):
        if (key := (kind, args[0])) not in sizes:
            spoil(kind, None)
            end = go(*args)
            assert end.code == 0, end
            sizes[key] = end.rss
        return sizes[key]
    return usual


def packed(path):
    """The same checkpoint, with half a gigabyte of zeros that take half a megabyte, packed."""
    content = io.BytesIO()
    torch.save(checkpoint(path) | dict(more=torch.zeros(2**29, dtype=torch.uint8)), content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def test_a_packed_checkpoint_does_not_fill_the_memory(spoil, go, tmp_path):
    spoil('gru', None)
    good = go('--sample-only', '-o', 'x')
    packed(tmp_path / 'x/best.pt')
    assert (tmp_path / 'x/best.pt').stat().st_size < 4 * MB
    end = go('--sample-only', '-o', 'x')
    assert end.rss < good.rss + 100_000
    one_line(end, 2, 'best.pt')


def test_a_setting_of_the_checkpoint_writes_nowhere_else(spoil, go, tmp_path):
    """work_dir, overwrite and device are no part of a checkpoint; put there all the same, they are not heard."""
    for name, value in (('work_dir', str(tmp_path / 'y')), ('overwrite', True), ('device', 'cuda:7'), ('resume', True)):
        spoil('gru', put('settings', to=lambda s: s | {name: value}))
        for args in (['--sample-only', '-o', 'x'], ['--resume', '-o', 'x', '--max-steps', 14]):
            assert go(*args).code in (0, 2)
    assert not (tmp_path / 'y').exists()


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints spoilt at random: thousands of them in one child, as one more or less crash would take pytest along


def damage(raw, dice):
    """Endless: ten thousand flipped bits, one a file."""
    while True:
        at = dice.randrange(len(raw))
        yield f'flip {at}', raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1:]


def try_all(job, path, flips, seed):
    """In the child: every damaged file through makemore's front door; told is what came of each."""
    os.makedirs('y', exist_ok=True)
    raw, good, seen = Path(path).read_bytes(), checkpoint(path), {}
    files = itertools.chain(((f'cut {n}', raw[:n]) for n in range(0, len(raw), 64)),
                            itertools.islice(damage(raw, random.Random(seed)), flips))
    for what, spoilt in files:
        Path('y/best.pt').write_bytes(spoilt)
        Path(job['log'], 'doing').write_text(what)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True) for _ in 'oe')
        try:
            code = makemore.main(['--sample-only', '-o', 'y', '--num-samples', '1'])
        except Exception as e:
            code = repr(e)
        said = sys.stderr.buffer.getvalue().decode()
        if code == 2 and said.startswith('makemore: y/best.pt') and said.count('\n') == 1:
            seen['refused'] = seen.get('refused', 0) + 1
        elif code == 0 and not differences(checkpoint('y/best.pt'), good):
            seen['the same'] = seen.get('the same', 0) + 1
        else:
            seen.setdefault('wrong', []).append((what, code, said[-300:]))
    tell(job['log'], 'seen', seen)
    os._exit(0)



@pytest.mark.parametrize('kind', ['gru', 'ngram', 'transformer'])
def test_cut_short_at_every_64th_byte_and_flipped_at_random(kind, finished, fork, long, tmp_path):
    """Refused, or loaded as what was saved: a weight with a flipped bit is neither."""
    flips = long(100, 3334)
    child = fork(plan=[['limited', 1500], ['test_hostile:try_all', str(finished(kind) / 'best.pt'), flips, 1]])
    child.told('end', seconds=1500)
    assert child.wait().code == 0, (child.log / 'doing').read_text()
    seen = child.told('seen')
    assert not seen.get('wrong'), (len(seen['wrong']), seen)
    assert seen['refused'] > flips / 2


@pytest.mark.parametrize('name', ['x.pt', 'x.json', 'x.model', 'x.tiktoken'])
def test_a_pickle_is_no_tokenizer(name, run, names, tmp_path):
    """--tokenizer reads JSON, and what is none is refused; nothing in it is called."""
    torch.save(Call(os.mkdir, str(tmp_path / 'it-ran')), tmp_path / name)
    code, out, err = run('-i', names, '--tokenizer', name, '-o', 'new')
    assert (code, out, err.count('\n')) == (2, '', 1) and name in err
    with pytest.raises(ValueError, match=name):
        tokenizer.load(tmp_path / name)
    assert not (tmp_path / 'it-ran').exists() and not (tmp_path / 'new').exists()


def test_a_pattern_in_a_tokenizer_does_not_fill_the_memory(fork, go, names, tmp_path):
    """A repeat of a repeat of a repeat is 24 letters of JSON, and gigabytes once it is compiled."""
    for pattern in ('((a{9999}){9999}){9999}', '(?:(?:a|b){,4000}){4000}', '(((((a{99}){99}){99}){99}){99}){99}'):
        (tmp_path / 'tok.json').write_text(json.dumps(Tokenizer().to_dict() | dict(pattern=pattern)))
        one_line(go('-i', names, '--tokenizer', 'tok.json', '-o', 'x', plan=[['limited', 10]]), 2, 'tok.json')


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizers


def test_a_spoilt_tokenizer_is_refused_or_whole(long, tmp_path):
    """JSON has no checksum, so another letter may be another token; but never one that loses text or fails late."""
    dice, loaded = random.Random(21), 0
    for _ in range(long(4, 40)):
        tok = random_tokenizer(dice)
        tok.save(tmp_path / 'tok.json')
        raw = (tmp_path / 'tok.json').read_bytes()
        assert Tokenizer.load(tmp_path / 'tok.json').to_dict() == tok.to_dict()
        for _, spoilt in itertools.islice(damage(raw, dice), 100):
            (tmp_path / 'bad.json').write_bytes(spoilt)
            try:
                again = Tokenizer.load(tmp_path / 'bad.json')
            except ValueError as e:
                assert 'bad.json: ' in str(e)
                continue
            loaded += 1
            sample = random_text(dice)
            assert again.decode(again.encode(sample, 'none')) == sample
    assert loaded      # else nothing was tried


def test_random_texts_come_back(long):
    """In the short run test_tokenizer.py does this 20,000 times; here it is a million times in the long one."""
    dice, n = random.Random(22), long(1000, 1_000_000)
    corpus = ' '.join(random_text(dice) for _ in range(200))
    for pattern in *PATTERNS.values(), r'\w+':
        tok = Tokenizer(pattern).train(corpus, 400)
        for _ in range(n // 5):
            sample = random_text(dice)
            assert tok.decode(tok.encode(sample)) == sample, ascii(sample)


# ----------------------------------------------------------------------------------------------------------------------
# micrograd


def test_random_graphs_agree_with_torch_eager_and_traced(long):
    """The same numbers and the same gradients three times: torch, the engine, and the engine's recording."""
    from micrograd import Value
    from test_micrograd import close, cook, random_recipe, recorded
    dice, graphs, n = random.Random(23), 0, long(150, 1000)
    while graphs < n:
        recipe, xs = random_recipe(dice), [dice.uniform(-2, 2) for _ in range(4)]
        theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in xs]
        z = cook(recipe, theirs, torch)
        z.backward()
        wanted = [0.0 if t.grad is None else t.grad.item() for t in theirs]
        ours = [Value(x) for x in xs]
        y = cook(recipe, ours)
        y.backward()
        assert close(y.data, z.item()) and all(map(close, [v.grad for v in ours], wanted)), recipe
        if not (made := recorded(recipe, xs)):
            continue      # there is nothing to replay
        f, params = made
        [loss], graphs = f([xs[2:]]), graphs + 1
        assert close(loss, z.item()) and all(map(close, [*[p.grad for p in params], *f.input_grads[0]], wanted)), recipe


# ----------------------------------------------------------------------------------------------------------------------
# Texts that nobody expects: trained on, gone on with, and sampled from

def every(*blocks):
    return '\n'.join(''.join(map(chr, range(at, at + 16))) for start, stop in blocks for at in range(start, stop, 16))


LINES = {      # name: text, or bytes, or both and an encoding
    'one letter': 'a', 'one letter twice': 'a\na', 'one line': 'emma', 'two equal lines': 'ava\nava\n',
    'a thousand equal lines': 'ava\n' * 1000, 'a line of a hundred thousand': 'ab' * 50_000 + '\n',
    'lines of every length': '\n'.join('a' * n for n in range(70)), 'one letter and a long line': 'a\n' + 'b' * 5000,
    'no line end': 'emma\nava', 'line ends only at the end': 'emma\nava\n\n\n\n', 'Windows': 'emma\r\nava\r\n',
    'old Mac': 'emma\rava\rmia', 'line ends of every kind': 'emma\r\nava\rmia\n\rzoe\n\nliam',
    'indented': '    emma\n\tava\n  \tmia', 'spaces within': 'emma lou\nava  may\nmia\tsue',
    'spaces that are none': 'a\u00a0b\nc\u3000d\ne\u2003f\n\u200b\n\u2060g',
    'a byte order mark': b'\xef\xbb\xbfemma\nava', 'byte order marks within': 'em\ufeffma\n\ufeffava\nmia\ufeff',
    'NUL': 'a\0b\n\0\nc\0', 'NUL alone': '\0\0\0',
    'C0 controls': '\n'.join(f'a{chr(c)}b' for c in range(32) if c not in (10, 13)), 'DEL': 'a\x7fb\n\x7f\x7f',
    'C1 controls': '\n'.join(f'a{chr(c)}b' for c in range(0x80, 0xa0)),
    'escape sequences': '\x1b[31mred\x1b[0m\n\x1b]0;t\x07',
    'line separators': 'a\u2028b\nc\u2029d\ne\x85f\ng\x0bh\ni\x0cj\nk\x1cl', 'Latin': 'zoë\nñandú\nœuvre\nčeština',
    'Greek and Cyrillic': 'Αθηνά\nМария\nЖанна', 'Hebrew and Arabic': 'שָׁלוֹם\nמִרְיָם\nمحمد\nفاطمة',
    'both directions': 'abc שלום 123\nمرحبا hello',
    'marks of direction': 'a\u202eb\u202c\nc\u2066d\u2069\n\u200fe\u200e',
    'Indian': 'प्रिया\nস্নেহা\nகார்த்திக்\nലക്ഷ്മി', 'Thai, Lao, Khmer': 'สมชาย\nຄຳ\nសុខា', 'Chinese': '王伟\n李娜\n張偉',
    'Japanese': 'さくら\nハルト\n太郎', 'Korean': '지우\n서연\n김철수',
    'Korean in pieces': '\u110c\u1175\u110b\u116e\n\u1109\u1165\u110b\u1167\u11ab', 'Ethiopic': 'አበበ\nጽዮን',
    'combining marks': 'e\u0301\na\u0308\u0304\no\u0328\u0301', 'a mark alone': '\u0301\n\u0308',
    'a hundred marks on a letter': 'z' + '\u0335\u0322\u0317' * 33 + '\nab',
    'composed and not': 'é\ne\u0301\nÅ\nA\u030a\n\u212b', 'emoji': '😀\n🎉🎊\n👍🏽',
    'families': '👨\u200d👩\u200d👧\u200d👦\n🏳\ufe0f\u200d🌈', 'flags': '🇩🇪\n🇫🇷🇮🇹', 'plane 1': '𝔊𝔬𝔱𝔥\n𐌲𐌿𐍄\n𓀀𓁀',
    'plane 2': '𠀀𠀁\n𪚥\n𫝀', 'plane 3': '\U00030000\U00030001\n\U0003134a',
    'plane 14': 'a\U000e0061\U000e007f\n\U000e0100', 'planes 15 and 16': '\U000f0000\n\U0010fffd\U00100000',
    'no characters': '\ufffe\uffff\n\U0001ffff\n\ufdd0', 'private use': '\ue000\uf8ff\nab',
    'replacement characters': '\ufffd\na\ufffdb',
    'every plane': '\n'.join(chr((plane << 16) + 0x100 + i) * 2 for plane in range(17) for i in range(3)),
    'a thousand characters': every((0x4e00, 0x5000), (0xac00, 0xae00)),
    'names like options': '--help\n-i\n--resume\n-o x\n--\n-1',
    'names like files': '../../etc/passwd\n/dev/null\nC:\\CON\n~root\n@file\nout/x',
    'names like commands': '$(reboot)\n`id`\n; rm -rf /\n| cat\n&& ls',
    'names like formats': '%s %d %n\n{0} {x!r} {{}}\n%(a)s\n\\n \\x1b \\u0000',
    'names like markup': '<b>x</b>\n&amp; <script>\n[a](b) | c | d\n# t',
    'names like numbers': '0\n-1\n1e400\nnan\ninf\n0x10\n٣\n²',
    'names like code': 'None\nTrue\n__import__("os")\n[1, 2]\n{"a": 1}', 'names like boundaries': '.\n..\n...\na.b.',
    'quotes': '"a"\n\'b\'\n"c""d"\n`e`', 'a table': 'a,b,"c,d"\n1,2,3\n;\t;', 'backslashes': '\\\n\\\\\na\\',
    'regular expressions': '.*\n(a+)+$\n[^\\]]{9}\n(?R)', 'right after a blank page': '\n' * 5000 + 'emma\n',
    'latin-1': ('zoë\nÿ\n'.encode('latin-1'), 'latin-1'), 'cp1252': ('“zoë”\n€\n'.encode('cp1252'), 'cp1252'),
    'utf-16': ('zoë\n日本\n😀'.encode('utf-16'), 'utf-16'),
    'utf-16 without a mark': ('zoë\n日本'.encode('utf-16-be'), 'utf-16-be'),
    'utf-32': ('zoë\n😀'.encode('utf-32'), 'utf-32'), 'Shift JIS': ('太郎\n花子'.encode('shift_jis'), 'shift_jis'),
    'EUC-KR': ('지우\n서연'.encode('euc_kr'), 'euc_kr'), 'GB 18030': ('王伟\n😀'.encode('gb18030'), 'gb18030'),
    'Big 5': ('張偉\n李娜'.encode('big5'), 'big5'), 'KOI8-R': ('Мария\nЖанна'.encode('koi8-r'), 'koi8-r'),
    'ISO 2022': ('太郎\n花子'.encode('iso2022_jp'), 'iso2022_jp'), 'utf-7': ('zoë\n日本'.encode('utf-7'), 'utf-7'),
    'EBCDIC': ('emma\nava'.encode('cp500'), 'cp500'), 'UTF-8, misspelled': ('zoë\nmia'.encode(), 'UTF8'),
    'half surrogates': (b'a\\ud800b\nc\\udfffd\nef', 'unicode_escape'),
}


def file_of(name, tmp_path):
    content, encoding = LINES[name] if isinstance(LINES[name], tuple) else (LINES[name], 'utf-8')
    raw = content if isinstance(content, bytes) else content.encode('utf-8')
    (tmp_path / 'data.txt').write_bytes(raw)
    return ['-i', 'data.txt', '--encoding', encoding], raw.decode('utf-8-sig' if encoding == 'utf-8' else encoding)


def test_there_are_sixty_texts():
    assert len(LINES) >= 60


@pytest.mark.parametrize('name', LINES)
def test_a_text_that_nobody_expects(name, run, tmp_path):
    """Trained, resumed, sampled with and without a beginning: only its own characters, no line that is empty-handed."""
    args, text = file_of(name, tmp_path)
    lines = [line.strip() for line in io.StringIO(text, newline=None)]
    size = ['--type', 'mlp', '--n-embd', 2, '--n-hidden', 2, '--block-size', 3, '-b', 8, '--length', 9, '-o', 'x']
    end = run(*args, *size, '--max-steps', 2)
    if not any(lines):
        return one_line(Ended(end), 2, 'data.txt')
    assert end.code == 0, end.err
    end = run('--resume', '-o', 'x', '--max-steps', 3)
    assert end.code == 0 and checkpoint('x/last.pt')['step'] == 3, end.err
    sampled = run('--sample-only', '-o', 'x', '--num-samples', 9)
    known = set(''.join(lines)) | {'\n'}
    spelled = any('\ud800' <= c <= '\udfff' for c in text)      # no stream can take these as they are
    assert sampled.code == 0 and (spelled or set(sampled.out) <= known), sampled
    first = next(filter(None, lines))[0]
    prompted = run('--sample-only', '-o', 'x', '--num-samples', 2, f'--prompt={first}')
    assert prompted.code == 0 and (spelled or prompted.out.startswith(first)), prompted


def test_ten_megabytes_in_one_line(run, tmp_path):
    (tmp_path / 'long.txt').write_text(''.join(random.Random(3).choices('abcdefgh ', k=10 * MB)))
    size = ['--type', 'gru', '--n-embd', 2, '--n-hidden', 2, '--length', 9, '-o', 'x', '--split', 'lecture']
    end = run('-i', 'long.txt', *size, '--max-steps', 2, '--text', '--block-size', 8)
    assert end.code == 0 and 'cut' not in end.err
    assert run('--resume', '-o', 'x', '--max-steps', 3).code == 0 and run('--sample-only', '-o', 'x').code == 0


def test_one_line_five_million_times(long, run, tmp_path):
    (tmp_path / 'same.txt').write_text('emma\n' * long(200_000, 5_000_000))
    assert run('-i', 'same.txt', '--type', 'ngram', '-o', 'x').code == 0
    assert run('--resume', '-o', 'x').code == 0
    assert run('--sample-only', '-o', 'x', '--num-samples', 3).out == 'emma\n' * 3


def test_a_terminal_that_knows_no_such_characters(go, finished, tmp_path):
    """Samples with an é where stdout knows ASCII alone: a pipe gets UTF-8, and there is no traceback."""
    (tmp_path / 'n.txt').write_text('zoé\nchloé\nrené\n' * 9)
    assert go('-i', 'n.txt', '--type', 'ngram', '-o', 'x', plan=[['ascii_streams']]).code == 0
    end = go('--sample-only', '-o', 'x', plan=[['ascii_streams']])
    assert end.code == 0 and 'é' in end.out


# ----------------------------------------------------------------------------------------------------------------------
# Settings at their ends

NUMBERS = [name for name, f in makemore.KNOBS.items() if {'least', 'most'} & f.metadata.keys()]
OTHERS = [name for name, f in makemore.KNOBS.items() if f.type is str or f.type == (str | None)]


def kind_of(name):
    return getattr(makemore.KNOBS[name].type, '__args__', (makemore.KNOBS[name].type,))[0]


def fitting(name):
    """A model type in which the setting has a meaning, on the command line."""
    return ['--type', 'mlp' if name in ('n_hidden', 'dropout') else 'transformer']


@pytest.mark.parametrize('name', NUMBERS)
def test_a_number_at_its_least_works_and_below_does_not(name, train):
    least, sampling = makemore.KNOBS[name].metadata['least'], makemore.KNOBS[name].metadata['group'] == 'sampling'
    low = {name: least, 'max_steps': least if name == 'max_steps' else 3}
    more = ['--tokenizer', 'bpe'] if name == 'vocab_size' else []
    more += ['--n-head', 1] if name == 'n_embd' else ['--split', 'all'] if sampling else []
    end = train('transformer', *more, '-o', 'x', **low)
    assert end.code == 0, end
    if name != 'max_steps':      # -1 is what makemore once called endless: left out, with a word
        one_line(Ended(train('transformer', '-o', 'y', **{name: least - 1})), 2, makemore.flag(name))
    assert not Path('y').exists()


@pytest.mark.parametrize('name', [name for name in NUMBERS if 'most' in makemore.KNOBS[name].metadata])
def test_a_number_beyond_its_most_is_refused(name, train):
    most = makemore.KNOBS[name].metadata['most']
    for value in (most * 2 + 1, 10**400 if kind_of(name) is int else 1e308):
        one_line(Ended(train('transformer', '-o', 'y', **{name: value})), 2, makemore.flag(name))


@pytest.mark.parametrize('name', [name for name in NUMBERS if name not in ('max_steps', 'num_samples', 'threads')])
def test_a_number_at_its_most_works_or_is_too_much_for_the_machine(name, go, names):
    """Without an upper limit: the largest that its kind has, or close to it. Six gigabytes of memory are there."""
    most = makemore.KNOBS[name].metadata.get('most', 10**30 if kind_of(name) is int else 1e308)
    settings = dict(SMALL, max_steps=2, num_samples=2, length=30) | {name: most}
    end = go('-i', names, '-o', 'x', *fitting(name), *flags(settings), plan=[['limited', 3]])
    assert end.code in (0, 1, 2, -signal.SIGXCPU) and 'Traceback' not in end.err, end      # or too much for 3 s
    if end.code > 0:
        one_line(end, end.code)


WRONG = ['many', '', ' ', '1.5.2', '1,000', '0x10', 'nan', '--', '1e999', '-', '9' * 5000, 'None', '[1]', '½',
         '\x1b[2J']


@pytest.mark.parametrize('name', NUMBERS)
def test_what_is_no_number_is_refused(name, run, names):
    for wrong in WRONG:
        end = run('-i', names, '-o', 'x', f'{makemore.flag(name)}={wrong}')
        one_line(Ended(end), 2, makemore.flag(name))
    assert not Path('x').exists()


@pytest.mark.parametrize('name', [name for name, f in makemore.KNOBS.items() if f.type is bool])
def test_a_switch_takes_no_value(name, run, names):
    one_line(Ended(run('-i', names, f'{makemore.flag(name)}=yes')), 2, makemore.flag(name))


@pytest.mark.parametrize('name', [name for name in OTHERS if name not in ('work_dir', 'prompt')])
def test_no_text_at_all_is_refused(name, run, names, tmp_path):
    """-i '' and the like: an unset variable in a script."""
    kind = 'ngram' if name == 'smoothing' else 'mlp'
    end = run('-i', names, '-o', 'x', '--max-steps', 1, '--type', kind, f'{makemore.flag(name)}=')
    one_line(Ended(end), 2)
    assert not (tmp_path / 'x').exists()


CONTRADICTIONS = {
    '--n-embd 10 --n-head 4': ['--n-embd', '--n-head'], '--block-size 0': ['--block-size'],
    '--temperature -1': ['--temperature'], '--top-p 0': ['--top-p'], '--top-p 1.01': ['--top-p'],
    '--n-layer 0': ['--n-layer'], '--type wavenet --block-size 7': ['wavenet'],
    '--type wavenet --n-layer 13': ['wavenet'], '--type ngram --block-size 62': ['--block-size'],
    '--type ngram --smoothing kn:3': ['--smoothing'], '--sample-only --resume': ['--sample-only', '--resume'],
    '--sample-only --overwrite': ['--sample-only', '--overwrite'],
    '--tokenizer bpe --vocab-size 255': ['--vocab-size'], '--tokenizer nowhere.json': ['nowhere.json'],
    '--prompt ABC': ["'A'"], '--prompt @nowhere': ['nowhere'], '--device cuda:99': ['cuda:99'],
    '--device tpu': ['tpu'], '--threads 0': ['--threads'], '--encoding klingon': ['klingon'], '--split none': ['none'],
    '--type': ['--type'], '--max-steps': ['--max-steps'], '--seed 1 --seed': ['--seed'], 'emma ava': ['emma'],
    '--n-layer=': ['--n-layer'], '-b': ['-b'], '--batch-sise 3': ['--batch-size'], '--work-dir': ['--work-dir'],
}


@pytest.mark.parametrize('line', CONTRADICTIONS)
def test_a_contradiction_is_named(line, run, names, tmp_path):
    end = run('-i', names, *line.split())
    one_line(Ended(end), 2, *CONTRADICTIONS[line])
    assert not (tmp_path / 'out').exists()


def random_settings(dice):
    """Small ones of every kind, half of them as they are by default; some contradict each other."""
    pick = dict(
        block_size=range(1, 12), n_layer=range(1, 4), n_head=(1, 2, 3, 4), n_embd=(1, 4, 6, 12),
        n_hidden=range(1, 9), dropout=(0, 0.5, 0.99), smoothing=('kn', 'add:1', 'add:.01'),
        batch_size=(1, 2, 7, 300), warmup=(0, 1, 9, 'none'), learning_rate=(0, 1e-9, 1e-2, 1),
        weight_decay=(0, 1, 50), grad_clip=(0, 1e-9, 1, 'none'), seed=range(99), eval_interval=(1, 2, 99),
        sample_interval=(1, 2, 'none'), diagnose=(1, 2, 'none'), num_samples=(0, 1, 3, 60),
        length=(1, 2, 30), temperature=(0, 1e-300, 0.5, 1, 99), top_k=(1, 5, 999), top_p=(1e-9, 0.5, 1),
        prompt=('', 'a', 'zz'), split=('honest', 'lecture', 'all'),
        tokenizer=('char', 'char', 'char', 'bpe'))
    chosen = {name: dice.choice(values) for name, values in pick.items() if dice.random() < 0.5}
    chosen |= dict(type=dice.choice(list(makemore.MODELS)), max_steps=3, vocab_size=dice.choice((256, 260)))
    return [f'{makemore.flag(name)}={value}' for name, value in chosen.items()] + ['--text'] * (dice.random() < 0.25)


def test_random_settings_take_three_steps(long, run, names):
    """Three steps, one more on --resume, and samples; or one line that says which two settings do not go together."""
    dice, codes = random.Random(24), []
    for i in range(long(40, 300)):
        settings = random_settings(dice)
        end = run('-i', names, '-o', f'x{i}', *settings)
        codes.append(end.code)
        if end.code:
            one_line(Ended(end), end.code)
            assert end.code == 2 or '--learning-rate' in end.err, settings
            continue
        end = run('--resume', '-o', f'x{i}', '--max-steps', 4)
        assert end.code == 0 or 'try a lower --learning-rate' in end.err, (settings, end)      # 1.0 can ruin it
        drawn = [s for s in settings if s.startswith(('--top', '--temp', '--prompt', '--length'))]
        assert run('--sample-only', '-o', f'x{i}', *drawn).code == 0, settings
        shutil.rmtree(f'x{i}')
    assert codes.count(0) > len(codes) / 2


# ----------------------------------------------------------------------------------------------------------------------
# Numbers that are none


def strict(path):
    """JSON as everybody reads it: without NaN and Infinity, which Python would write."""
    def refuse(word):
        raise AssertionError(f'{word} in {path}')
    return json.loads(Path(path).read_text(), parse_constant=refuse)


def poisoned(where):
    class Poisoned(makemore.MODELS['bigram']):
        """a net that breaks in its 8th step"""
        steps = 0

        def forward(self, idx, targets):
            self.steps += self.training
            loss = super().forward(idx, targets)
            if self.steps == 8 and where == 'gradient':
                self.table.weight.register_hook(lambda grad: grad * math.nan)
            return loss * math.inf if self.steps == 8 and where == 'loss' else loss
    return Poisoned


@pytest.mark.parametrize('where', ['loss', 'gradient'])
def test_what_is_no_number_stops_the_run(where, train, monkeypatch):
    """With the step and what to try; the gradient of a loss that is one may be none."""
    monkeypatch.setattr(makemore, 'MODELS', dict(makemore.MODELS))
    makemore.register('poisoned')(poisoned(where))
    end = train('poisoned', '-o', 'x')
    one_line(Ended(end), 1, 'step 8', '--learning-rate', 'x')
    last = checkpoint('x/last.pt')
    assert last['step'] == 5 and all(t.isfinite().all() for t in last['model'].values())


@pytest.mark.parametrize('steps', [1, 5, 6])
def test_weights_ruined_by_the_last_step_are_noticed(steps, train, run):
    """The loss of a step is that of the weights before it: what the last one did is seen by the evaluation alone."""
    end = train('mlp', '-o', 'x', '--grad-clip', 'none', '--warmup', 0, max_steps=steps, learning_rate=1e38)
    assert 'Traceback' not in end.err and end.code in (0, 1)
    if end.code:
        one_line(Ended(end), 1, '--learning-rate')
    for name in ('best.pt', 'last.pt'):
        makemore.restore(Path('x') / name)
    if end.code == 0:
        strict('x/result.json')


@pytest.mark.parametrize('kind', ['ngram', 'bn-mlp', 'transformer'])
@pytest.mark.parametrize('lines', [1, 2, 5])
def test_an_empty_split_is_no_number_and_no_nan(kind, lines, run, tmp_path):
    (tmp_path / 'few.txt').write_text('\n'.join(['emma', 'emma', 'ava', 'emma', 'ava'][:lines]))
    end = run('-i', 'few.txt', '--type', kind, *flags(SMALL), '--max-steps', 2, '-o', 'x')
    result = strict('x/result.json')
    assert end.code == 0 and 'nan' not in end.err + end.out.split('new (')[0] and math.isfinite(result['train'])
    assert None in (result['dev'], result['test'])
    assert math.isfinite(checkpoint('x/best.pt')['best'])


def test_evaluating_nothing_is_none(build):
    cfg, words, model = build('mlp')
    words.splits['test'] = makemore.Items(*(t[:0] for t in words.splits['test']))
    assert makemore.evaluate(makemore.Run(cfg, words, model), 'test') is None
