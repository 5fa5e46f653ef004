"""Lecture 8: the tokenizer.

A model sees tokens, not letters, and much that is odd about language models is odd already in its tokens. Byte-pair
encoding in the exercise's five steps, then the lecture's questions, each with the tokens that answer it.
"""
import functools
from pathlib import Path

from course import ROOT, answer, claim, experiment, figure, main, shared_data

import regex
import torch

import makemore
from tokenizer import GPT2_PATTERN, GPT4_PATTERN, Tokenizer, get_stats, merge, pretrained
from tokenizer.bpe import encode_naive, train_naive

@functools.cache
def gpt(name):
    """A published vocabulary: gpt2 is r50k_base, gpt4 is cl100k_base, gpt4o is o200k_base."""
    file = {'gpt2': 'r50k_base', 'gpt4': 'cl100k_base', 'gpt4o': 'o200k_base'}[name]
    return pretrained(file, shared_data(Path('tiktoken', f'{file}.tiktoken')))

def pieces(tokenizer, text):
    """The tokens of a text, with bars between them: 'hello world' -> 'hello¦ world'."""
    return '¦'.join(tokenizer.decode([i]) for i in tokenizer.encode(text, 'none'))

def numbers(ids):
    return ' '.join(map(str, ids))

KOREAN = '안녕하세요'
WIKIPEDIA = 'aaabdaaabac'

# ----------------------------------------------------------------------------------------------------------------------
# From characters to bytes
@experiment
def test_unicode():
    """Why bytes, and not the numbers that Unicode gives to characters?"""
    text = KOREAN + ' 👋 (hello in Korean!)'
    yield figure('code points of the greeting', '50504 45397 54616 49464 50836', numbers(map(ord, KOREAN)))
    yield answer('bytes in UTF-8, UTF-16, UTF-32: only the first wastes nothing on plain text', '39 54 104',
                 [len(text.encode(code)) for code in ('utf-8', 'utf-16-le', 'utf-32-le')])
    yield figure('a byte that is no character', '\ufffd', Tokenizer().decode([128]))

@experiment
def test_characters_as_tokens():
    """What does the simplest tokenizer do, the one of the GPT lecture?"""
    symbols = ''.join(sorted(set(shared_data('tinyshakespeare.txt').read_text())))
    words = makemore.Words(text=True, symbols=symbols)
    yield figure('its vocabulary', 65, words.vocab_size)
    yield figure('hii there', '46 47 47 1 58 46 43 56 43', numbers(words.encode('hii there')))

# ----------------------------------------------------------------------------------------------------------------------
# The exercise in five steps
@experiment
def test_step_one():
    """Byte-pair encoding: merge the most frequent pair, over and over."""
    yield figure('pairs of 1 2 3 1 2', '{(1, 2): 2, (2, 3): 1, (3, 1): 1}', str(get_stats([1, 2, 3, 1, 2])))
    yield figure('with the pair merged', '4 3 4', numbers(merge([1, 2, 3, 1, 2], (1, 2), 4)))
    basic = Tokenizer(None).train(WIKIPEDIA, 256 + 3)
    yield figure('aaabdaaabac after three merges', '258 100 258 97 99', numbers(basic.encode(WIKIPEDIA)))
    slow = encode_naive(WIKIPEDIA.encode(), train_naive([WIKIPEDIA.encode()], 3))
    yield claim('the slow way of the lecture agrees', slow == basic.encode(WIKIPEDIA))
    yield claim('decoding gives the text back', basic.decode(basic.encode(WIKIPEDIA)) == WIKIPEDIA)

@experiment
def test_step_two():
    """A pattern cuts the text first: what does it prevent?"""
    text = 'dog. dog! dog? in 2023, room 2023. ' * 20
    def mixed(tokenizer):
        return sum(bool(regex.search(rb'[a-z].*[^a-z]|\d.*\D', token)) for token in tokenizer.vocab.values())
    basic, cut = (Tokenizer(pattern).train(text, 256 + 11) for pattern in (None, GPT4_PATTERN))
    yield claim('without it, tokens hold letters and signs', mixed(basic) > 0)
    yield answer('with it, tokens that do', '0', mixed(cut))
    yield figure('GPT-2 cuts', "Hello¦'ve¦ world¦123¦ how¦'s¦ are¦   ¦ you¦!!!?",
                 '¦'.join(regex.findall(GPT2_PATTERN, "Hello've world123 how's are    you!!!?")))

@experiment
def test_step_two_on_names():
    """What does it learn from names.txt?"""
    tokenizer = Tokenizer().train((line for line in (ROOT / 'names.txt').read_text().split()), 512)
    names = (ROOT / 'names.txt').read_text().split()
    tokens, size = sum(len(tokenizer.encode(name)) for name in names), sum(map(len, names))
    yield answer('its first merges', 'an ar el le on', ' '.join(tokenizer.vocab[i].decode() for i in range(256, 261)))
    yield answer('letters a token', '1.93', size / tokens)

@experiment
def test_step_three():
    """GPT-4's own vocabulary: do the ids come out?"""
    tok = gpt('gpt4')
    yield figure('hello123!!!? (annyeonghaseyo!) and a wink',
                 '15339 4513 12340 30 320 31495 230 75265 243 92245 16715 57037',
                 numbers(tok.encode(f'hello123!!!? ({KOREAN}!) 😉')))
    yield figure('the exercise sheet', '15339 1917 12340 30 320 31495 230 75265 243 92245 16715 28509 4513 57037',
                 numbers(tok.encode(f'hello world!!!? ({KOREAN}!) lol123 😉')))
    made = {i: (a, b) for (a, b), i in tok.merges.items()}
    yield claim('its merges can be told from its tokens', len(made) == 100256 - 256 and all(
        tok.vocab[a] + tok.vocab[b] == tok.vocab[i] for i, (a, b) in made.items()))

@experiment
def test_step_four():
    """Special tokens: what is encoded as such, and who decides?"""
    tok = gpt('gpt4')
    yield figure('their ids', '100257 100258 100259 100260 100276', numbers(sorted(tok.special_tokens.values())))
    text = '<|endoftext|>hello world'
    yield figure('allowed', '100257 15339 1917', numbers(tok.encode(text, 'all')))
    yield answer('as ordinary text', '27 91 8862 728 428 91 29 15339 1917', numbers(tok.encode(text, 'none')))
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
    yield claim('none of these', all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts))

# ----------------------------------------------------------------------------------------------------------------------
# The eleven questions: why can a language model not ...
@experiment
def test_spelling():
    """Why can it not spell? A long word may be one token, and no letter of it is to be seen."""
    yield figure('.DefaultCellStyle, for GPT-4', '.DefaultCellStyle', pieces(gpt('gpt4'), '.DefaultCellStyle'))

@experiment
def test_reversing():
    """Why can it not reverse a string? Backwards it is made of other tokens."""
    word = '.DefaultCellStyle'
    yield answer('backwards', 'ely¦t¦Sl¦le¦Ctl¦ua¦fe¦D¦.', pieces(gpt('gpt4'), word[::-1]))
    yield claim('no token in common', not set(gpt('gpt4').encode(word)) & set(gpt('gpt4').encode(word[::-1])))

@experiment
def test_other_languages():
    """Why is it worse at other languages? They come to it in smaller pieces."""
    lengths = [len(gpt(name).encode(text)) for name in ('gpt2', 'gpt4', 'gpt4o') for text in ('hello', KOREAN)]
    yield answer('hello and its Korean, in tokens of GPT-2, GPT-4, GPT-4o', '1 14, 1 5, 1 2', lengths)

@experiment
def test_arithmetic():
    """Why is it bad at sums? A number is cut wherever the text happened to have it often."""
    tok = gpt('gpt2')
    yield figure('127 + 677 = 804', '127¦ +¦ 6¦77¦ =¦ 8¦04', pieces(tok, '127 + 677 = 804'))
    yield figure('1275 + 6773 = 8041', '12¦75¦ +¦ 6¦773¦ =¦ 8¦041', pieces(tok, '1275 + 6773 = 8041'))
    yield figure('ids of the first', '16799 1343 718 3324 796 807 3023', numbers(tok.encode('127 + 677 = 804')))

@experiment
def test_python():
    """Why had GPT-2 trouble with Python? Every space of an indent was a token, and the context was soon full."""
    code = "for i in range(1, 101):\n    if i % 3 == 0:\n        print('Fizz')"
    for title, text, expected in ('a small loop', code, '33 25'), ('eight spaces and a letter', ' ' * 8 + 'x', '8 2'):
        sizes = [len(gpt(name).encode(text)) for name in ('gpt2', 'gpt4')]
        yield answer(f'{title}, in tokens of GPT-2, GPT-4', expected, sizes)

@experiment
def test_end_of_text():
    """Why did it stop at <|endoftext|>? Because somebody let a text from outside say it."""
    tok, text = gpt('gpt4'), 'a<|endoftext|>b'
    yield claim('encoded as special the text is over; as ordinary text nothing happens',
                100257 in tok.encode(text, 'all') and 100257 not in tok.encode(text, 'none'))

@experiment
def test_trailing_space():
    """Why the warning about a space at the end? A space belongs to the next word: alone it is hardly ever seen."""
    tok, text = gpt('gpt2'), 'Here is a tagline for an ice cream shop'
    yield answer('a token of its own', '220', tok.encode(text + ' ')[-1])
    yield claim('which is not there when the text goes on', 220 not in tok.encode(text + ' that'))

@experiment
def test_solid_gold_magikarp():
    """Why did it break at SolidGoldMagikarp? A token of the tokenizer's texts that the model's texts never held."""
    yield figure('with a space before it, GPT-2', '43453', numbers(gpt('gpt2').encode(' SolidGoldMagikarp')))
    yield answer('in GPT-4 it is gone', ' Solid¦Gold¦Mag¦ik¦arp', pieces(gpt('gpt4'), ' SolidGoldMagikarp'))
    table = torch.nn.Embedding(10, 4)
    table(torch.tensor([1, 2, 3])).sum().backward()
    yield claim('the row of a token that never comes gets no gradient', not table.weight.grad[7].any())

@experiment
def test_yaml():
    """Why rather YAML than JSON? It takes fewer tokens to say the same."""
    texts = '{"name": "Ava", "age": 3}', 'name: Ava\nage: 3\n'
    yield answer('JSON, YAML', '13 9', [len(gpt('gpt4').encode(text)) for text in texts])

@experiment
def test_not_end_to_end():
    """Why is it not end to end? The tokens were chosen by counting, before and apart from the model."""
    tok = gpt('gpt2')
    letters = [tok.encode(c)[0] for c in 'the']
    yield claim('t, h, e decode to the same text as the token, and no gradient can choose between them',
                tok.decode(letters) == tok.decode(tok.encode('the')) and len(tok.encode('the')) == 1)
    yield answer('egg at the start, after a space, as a name, shouting', '1 1 2 2', [len(tok.encode(egg)) for egg in
                                                                                  ('egg', ' egg', 'Egg', 'EGG')])

@experiment
def test_root_of_suffering():
    """And what is the root of all suffering?"""
    tok = gpt('gpt2')
    yield figure('its tokens', '30642 1634', numbers(tok.encode('Tokenization')))
    yield figure('which are', 'Token¦ization', pieces(tok, 'Tokenization'))
    yield figure('and " is", " at", " the"', '318 379 262', numbers(tok.encode(' is at the')))

# ----------------------------------------------------------------------------------------------------------------------
# How large a vocabulary?
@experiment
def test_compression():
    """What does a larger vocabulary bring, and to what is it fitted?"""
    text = shared_data('tinyshakespeare.txt').read_text()
    own = Tokenizer().train(text[:200_000], 512)
    size = len(text.encode())
    ratios = [size / len(tok.encode(text, 'none')) for tok in (own, gpt('gpt2'), gpt('gpt4'))]
    yield answer('bytes a token on Shakespeare: 512 learned from him, GPT-2, GPT-4', '2.00 3.30 3.70', ratios)
    yield figure('tokens of GPT-2 in the first 90 % and in the rest', '301966 36059',
                 [len(gpt('gpt2').encode(part)) for part in (text[:int(0.9 * len(text))], text[int(0.9 * len(text)):])])

if __name__ == '__main__':
    main()
