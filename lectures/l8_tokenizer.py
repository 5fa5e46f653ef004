"""Lecture 8: the tokenizer.

A model sees tokens, not letters, and much that is odd about language models is odd already in its
tokens. Byte-pair encoding in the exercise's five steps, then the lecture's questions, each with
the tokens that answer it.
"""

import functools
from pathlib import Path

import regex
import torch
from course import ROOT, answer, claim, experiment, figure, main, shared_data

import makemore
from tokenizer import GPT2_PATTERN, GPT4_PATTERN, Tokenizer, get_stats, merge, pretrained
from tokenizer.bpe import encode_naive, train_naive

FILES = {'gpt2': 'r50k_base', 'gpt4': 'cl100k_base', 'gpt4o': 'o200k_base'}
KOREAN = '안녕하세요'
WIKIPEDIA = 'aaabdaaabac'


@functools.cache
def load_published(name):
    """A published vocabulary: that of gpt2, gpt4 or gpt4o."""
    file = FILES[name]
    return pretrained(file, shared_data(Path('tiktoken', f'{file}.tiktoken')))


def show_pieces(tokenizer, text):
    """The tokens of a text, with bars between them: 'hello world' -> 'hello¦ world'."""
    return '¦'.join(tokenizer.decode([i]) for i in tokenizer.encode(text, 'none'))


def join_ids(ids):
    """[1, 2] -> '1 2'."""
    return ' '.join(map(str, ids))


# -----------------------------------------------------------------------------
# from characters to bytes


@experiment
def test_unicode():
    """Why bytes, and not the numbers that Unicode gives to characters?"""
    text = KOREAN + ' 👋 (hello in Korean!)'
    code_points = join_ids(map(ord, KOREAN))
    yield figure('code points of the greeting', '50504 45397 54616 49464 50836', code_points)
    sizes = [len(text.encode(code)) for code in ('utf-8', 'utf-16-le', 'utf-32-le')]
    what = 'bytes in UTF-8, UTF-16, UTF-32: only the first wastes nothing on plain text'
    yield answer(what, '39 54 104', sizes)
    yield figure('a byte that is no character', '\ufffd', Tokenizer().decode([128]))


@experiment
def test_characters_as_tokens():
    """What does the simplest tokenizer do, the one of the GPT lecture?"""
    text = shared_data('tinyshakespeare.txt').read_text()
    tokenizer = makemore.CharTokenizer(''.join(sorted(set(text))))
    yield figure('its vocabulary', 65, tokenizer.vocab_size)
    ids = join_ids(tokenizer.encode_ordinary('hii there'))
    yield figure('hii there', '46 47 47 1 58 46 43 56 43', ids)


# -----------------------------------------------------------------------------
# the exercise in five steps


@experiment
def test_step_one():
    """Byte-pair encoding: merge the most frequent pair, over and over."""
    ids = [1, 2, 3, 1, 2]
    yield figure('pairs of 1 2 3 1 2', '{(1, 2): 2, (2, 3): 1, (3, 1): 1}', str(get_stats(ids)))
    yield figure('with the pair merged', '4 3 4', join_ids(merge(ids, (1, 2), 4)))
    basic = Tokenizer(None).train(WIKIPEDIA, 256 + 3)
    ids = basic.encode(WIKIPEDIA)
    yield figure('aaabdaaabac after three merges', '258 100 258 97 99', join_ids(ids))
    chunk = WIKIPEDIA.encode()
    merges = train_naive([chunk], 3)
    yield claim('the slow way of the lecture agrees', encode_naive(chunk, merges) == ids)
    yield claim('decoding gives the text back', basic.decode(ids) == WIKIPEDIA)


def count_mixed(tokenizer):
    """How many tokens hold letters and other characters, or digits and others."""
    mixed = regex.compile(rb'[a-z].*[^a-z]|\d.*\D')
    return sum(bool(mixed.search(token)) for token in tokenizer.vocab.values())


@experiment
def test_step_two():
    """A pattern cuts the text first: what does it prevent?"""
    text = 'dog. dog! dog? in 2023, room 2023. ' * 20
    basic = Tokenizer(None).train(text, 256 + 11)
    cut = Tokenizer(GPT4_PATTERN).train(text, 256 + 11)
    yield claim('without it, tokens hold letters and signs', count_mixed(basic) > 0)
    yield answer('with it, tokens that do', '0', count_mixed(cut))
    chunks = regex.findall(GPT2_PATTERN, "Hello've world123 how's are    you!!!?")
    yield figure('GPT-2 cuts', "Hello¦'ve¦ world¦123¦ how¦'s¦ are¦   ¦ you¦!!!?", '¦'.join(chunks))


@experiment
def test_step_two_on_names():
    """What does it learn from names.txt?"""
    names = (ROOT / 'names.txt').read_text().split()
    tokenizer = Tokenizer().train(iter(names), 512)
    merges = ' '.join(tokenizer.vocab[i].decode() for i in range(256, 261))
    yield answer('its first merges', 'an ar el le on', merges)
    n_tokens = sum(len(tokenizer.encode(name)) for name in names)
    n_letters = sum(len(name) for name in names)
    yield answer('letters a token', '1.93', n_letters / n_tokens)


@experiment(slow=True)
def test_step_three():
    """GPT-4's own vocabulary: do the ids come out?"""
    tok = load_published('gpt4')
    ids = join_ids(tok.encode(f'hello123!!!? ({KOREAN}!) 😉'))
    expected = '15339 4513 12340 30 320 31495 230 75265 243 92245 16715 57037'
    yield figure('hello123!!!? (annyeonghaseyo!) and a wink', expected, ids)
    ids = join_ids(tok.encode(f'hello world!!!? ({KOREAN}!) lol123 😉'))
    expected = '15339 1917 12340 30 320 31495 230 75265 243 92245 16715 28509 4513 57037'
    yield figure('the exercise sheet', expected, ids)
    vocab = tok.vocab
    complete = len(tok.merges) == 100256 - 256
    right = all(vocab[a] + vocab[b] == vocab[i] for (a, b), i in tok.merges.items())
    yield claim('its merges can be told from its tokens', complete and right)


@experiment
def test_step_four():
    """Special tokens: what is encoded as such, and who decides?"""
    tok = load_published('gpt4')
    ids = join_ids(sorted(tok.special_tokens.values()))
    yield figure('their ids', '100257 100258 100259 100260 100276', ids)
    text = '<|endoftext|>hello world'
    yield figure('allowed', '100257 15339 1917', join_ids(tok.encode(text, 'all')))
    ids = join_ids(tok.encode(text, 'none'))
    yield answer('as ordinary text', '27 91 8862 728 428 91 29 15339 1917', ids)
    try:
        tok.encode(text)
        refused = False
    except ValueError:
        refused = True
    yield claim('where nothing is said, it is refused', refused)


@experiment
def test_step_five():
    """Bytes for everything, as a fallback: is there a text it cannot encode?"""
    tokenizer = Tokenizer().train('hello world ' * 10, 262)
    texts = ['', '?', KOREAN, '👋🏽 \u200d', '\x00\r\n\t', 'ﷺ']
    decoded = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
    yield claim('none of these', decoded == texts)


# -----------------------------------------------------------------------------
# the eleven questions: why can a language model not ...


@experiment
def test_spelling():
    """Why can it not spell? A long word may be one token, and no letter of it is to be seen."""
    pieces = show_pieces(load_published('gpt4'), '.DefaultCellStyle')
    yield figure('.DefaultCellStyle, for GPT-4', '.DefaultCellStyle', pieces)


@experiment
def test_reversing():
    """Why can it not reverse a string? Backwards it is made of other tokens."""
    tok = load_published('gpt4')
    word = '.DefaultCellStyle'
    backwards = word[::-1]
    yield answer('backwards', 'ely¦t¦Sl¦le¦Ctl¦ua¦fe¦D¦.', show_pieces(tok, backwards))
    common = set(tok.encode(word)) & set(tok.encode(backwards))
    yield claim('no token in common', not common)


@experiment
def test_other_languages():
    """Why is it worse at other languages? They come to it in smaller pieces."""
    lengths = []
    for name in ('gpt2', 'gpt4', 'gpt4o'):
        tok = load_published(name)
        lengths += [len(tok.encode('hello')), len(tok.encode(KOREAN))]
    what = 'hello and its Korean, in tokens of GPT-2, GPT-4, GPT-4o'
    yield answer(what, '1 14, 1 5, 1 2', lengths)


@experiment
def test_arithmetic():
    """Why is it bad at sums? A number is cut wherever the text happened to have it often."""
    tok = load_published('gpt2')
    pieces = show_pieces(tok, '127 + 677 = 804')
    yield figure('127 + 677 = 804', '127¦ +¦ 6¦77¦ =¦ 8¦04', pieces)
    pieces = show_pieces(tok, '1275 + 6773 = 8041')
    yield figure('1275 + 6773 = 8041', '12¦75¦ +¦ 6¦773¦ =¦ 8¦041', pieces)
    ids = join_ids(tok.encode('127 + 677 = 804'))
    yield figure('ids of the first', '16799 1343 718 3324 796 807 3023', ids)


@experiment
def test_python():
    """Why had GPT-2 trouble with Python? Every space of an indent was a token, and the context was
    soon full.
    """
    code = "for i in range(1, 101):\n    if i % 3 == 0:\n        print('Fizz')"
    texts = {'a small loop': (code, '33 25'), 'eight spaces and a letter': (' ' * 8 + 'x', '8 2')}
    for title, (text, expected) in texts.items():
        sizes = [len(load_published(name).encode(text)) for name in ('gpt2', 'gpt4')]
        yield answer(f'{title}, in tokens of GPT-2, GPT-4', expected, sizes)


@experiment
def test_end_of_text():
    """Why did it stop at <|endoftext|>? Because somebody let a text from outside say it."""
    tok = load_published('gpt4')
    text = 'a<|endoftext|>b'
    ends = 100257 in tok.encode(text, 'all')
    is_harmless = 100257 not in tok.encode(text, 'none')
    what = 'encoded as special the text is over; as ordinary text nothing happens'
    yield claim(what, ends and is_harmless)


@experiment
def test_trailing_space():
    """Why the warning about a space at the end? A space belongs to the next word: alone it is
    hardly ever seen.
    """
    tok = load_published('gpt2')
    text = 'Here is a tagline for an ice cream shop'
    yield answer('a token of its own', '220', tok.encode(text + ' ')[-1])
    yield claim('which is not there when the text goes on', 220 not in tok.encode(text + ' that'))


@experiment
def test_solid_gold_magikarp():
    """Why did it break at SolidGoldMagikarp? A token of the tokenizer's texts that the model's
    texts never held.
    """
    word = ' SolidGoldMagikarp'
    ids = join_ids(load_published('gpt2').encode(word))
    yield figure('with a space before it, GPT-2', '43453', ids)
    pieces = show_pieces(load_published('gpt4'), word)
    yield answer('in GPT-4 it is gone', ' Solid¦Gold¦Mag¦ik¦arp', pieces)
    table = torch.nn.Embedding(10, 4)
    table(torch.tensor([1, 2, 3])).sum().backward()
    has_gradient = table.weight.grad[7].any()
    yield claim('the row of a token that never comes gets no gradient', not has_gradient)


@experiment
def test_yaml():
    """Why rather YAML than JSON? It takes fewer tokens to say the same."""
    tok = load_published('gpt4')
    texts = ['{"name": "Ava", "age": 3}', 'name: Ava\nage: 3\n']
    yield answer('JSON, YAML', '13 9', [len(tok.encode(text)) for text in texts])


@experiment
def test_not_end_to_end():
    """Why is it not end to end? The tokens were chosen by counting, before and apart from the
    model.
    """
    tok = load_published('gpt2')
    letters = [tok.encode(letter)[0] for letter in 'the']
    word = tok.encode('the')
    same_text = tok.decode(letters) == tok.decode(word)
    what = 't, h, e decode to the same text as the token, and no gradient can choose between them'
    yield claim(what, same_text and len(word) == 1)
    sizes = [len(tok.encode(egg)) for egg in ('egg', ' egg', 'Egg', 'EGG')]
    yield answer('egg at the start, after a space, as a name, shouting', '1 1 2 2', sizes)


@experiment
def test_root_of_suffering():
    """And what is the root of all suffering?"""
    tok = load_published('gpt2')
    yield figure('its tokens', '30642 1634', join_ids(tok.encode('Tokenization')))
    yield figure('which are', 'Token¦ization', show_pieces(tok, 'Tokenization'))
    yield figure('and " is", " at", " the"', '318 379 262', join_ids(tok.encode(' is at the')))


# -----------------------------------------------------------------------------
# how large a vocabulary?


@experiment
def test_compression():
    """What does a larger vocabulary bring, and to what is it fitted?"""
    text = shared_data('tinyshakespeare.txt').read_text()
    own = Tokenizer().train(text[:200_000], 512)
    size = len(text.encode())
    ratios = []
    for tok in (own, load_published('gpt2'), load_published('gpt4')):
        ratios.append(size / len(tok.encode(text, 'none')))
    what = 'bytes a token on Shakespeare: 512 learned from him, GPT-2, GPT-4'
    yield answer(what, '2.00 3.30 3.70', ratios)
    n_train = int(0.9 * len(text))
    tok = load_published('gpt2')
    sizes = [len(tok.encode(part)) for part in (text[:n_train], text[n_train:])]
    yield figure('tokens of GPT-2 in the first 90 % and in the rest', '301966 36059', sizes)


if __name__ == '__main__':
    main()
