"""Lecture 8: the tokenizer.

A model sees tokens, not letters, and much that is odd about language models is odd already in its
tokens. Byte-pair encoding in the exercise's five steps, then the lecture's questions, each with
the tokens that answer it.

The questions are asked twice. First of small vocabularies that are trained on the spot, on
names.txt or a few lines of text, so that nothing has to be downloaded. Then, in the last section,
of the published vocabularies of GPT-2 and GPT-4; lectures/README.md has the command that downloads
them.
"""

import functools
from pathlib import Path

import regex
import torch
from course import ROOT, answer, claim, conclusion, experiment, figure, finding, main, shared_data

import makemore
from tokenizer import GPT2_PATTERN, GPT4_PATTERN, Tokenizer, get_stats, merge, pretrained
from tokenizer.bpe import encode_naive, train_naive

FILES = {'gpt2': 'r50k_base', 'gpt4': 'cl100k_base', 'gpt4o': 'o200k_base'}
KOREAN = '안녕하세요'
WIKIPEDIA = 'aaabdaaabac'
JSON = '{"name": "Ava", "age": 3}'
YAML = 'name: Ava\nage: 3\n'
LOOP = "for i in range(1, 101):\n    if i % 3 == 0:\n        print('Fizz')"
INDENT = ' ' * 8 + 'x'
TAGLINE = 'Here is a tagline for an ice cream shop'


@functools.cache
def load_published(name):
    """A published vocabulary: that of gpt2, gpt4 or gpt4o."""
    file = FILES[name]
    return pretrained(file, shared_data(Path('tiktoken', f'{file}.tiktoken')))


def read_names():
    """The names, one by one: a merge must not cross from one into the next."""
    return (ROOT / 'names.txt').read_text().split()


@functools.cache
def names_tokenizer(vocab_size=2048):
    """A vocabulary trained on names.txt, with one special token behind all others."""
    special_tokens = {'<|endoftext|>': vocab_size - 1}
    tokenizer = Tokenizer(special_tokens=special_tokens)
    return tokenizer.train(iter(read_names()), vocab_size)


def show_pieces(tokenizer, text):
    """The tokens of a text, with bars between them: 'hello world' -> 'hello¦ world'."""
    return '¦'.join(tokenizer.decode([i]) for i in tokenizer.encode(text, 'none'))


def count_tokens(tokenizer, *texts):
    """How many tokens each text takes."""
    return [len(tokenizer.encode(text)) for text in texts]


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
    # there are 150,000 of them, and every year brings more: too many rows for a table
    expected = '50504 45397 54616 49464 50836'
    yield figure('code points of the greeting', expected, code_points, 'video')
    sizes = [len(text.encode(code)) for code in ('utf-8', 'utf-16-le', 'utf-32-le')]
    what = 'bytes in UTF-8, UTF-16, UTF-32: only the first wastes nothing on plain text'
    yield answer(what, '39 54 104', sizes)
    # a model may write bytes in any order, and not every order is a text
    yield figure('a byte that is no character', '\ufffd', Tokenizer().decode([128]), 'video')


@experiment
def test_characters_as_tokens():
    """What does the simplest tokenizer do, the one of the GPT lecture?"""
    names = read_names()
    tokenizer = makemore.CharTokenizer(''.join(sorted(set(''.join(names)))))
    yield answer('its vocabulary on names.txt', 26, tokenizer.vocab_size)
    yield answer('emma', '4 12 12 0', join_ids(tokenizer.encode_ordinary('emma')))


# -----------------------------------------------------------------------------
# the exercise in five steps


@experiment
def test_step_one():
    """Exercise, step 1: merge the most frequent pair, over and over. What comes out?"""
    ids = [1, 2, 3, 1, 2]
    expected = '{(1, 2): 2, (2, 3): 1, (3, 1): 1}'
    yield figure('pairs of 1 2 3 1 2', expected, str(get_stats(ids)), 'file')
    yield figure('with the pair merged', '4 3 4', join_ids(merge(ids, (1, 2), 4)), 'file')
    basic = Tokenizer(None).train(WIKIPEDIA, 256 + 3)
    ids = basic.encode(WIKIPEDIA)
    what = f'{WIKIPEDIA} after three merges'
    yield figure(what, '258 100 258 97 99', join_ids(ids), 'file')
    chunk = WIKIPEDIA.encode()
    merges = train_naive([chunk], 3)
    yield finding('the slow way of the lecture agrees', encode_naive(chunk, merges) == ids)
    yield finding('decoding gives the text back', basic.decode(ids) == WIKIPEDIA)
    yield conclusion(f'{len(chunk)} bytes become {len(ids)} tokens, and none is lost.')


def count_mixed(tokenizer):
    """How many tokens hold letters and other characters, or digits and others."""
    mixed = regex.compile(rb'[a-z].*[^a-z]|\d.*\D')
    return sum(bool(mixed.search(token)) for token in tokenizer.vocab.values())


@experiment
def test_step_two():
    """Exercise, step 2: a pattern cuts the text first. What does it prevent?"""
    text = 'dog. dog! dog? in 2023, room 2023. ' * 20
    basic = Tokenizer(None).train(text, 256 + 11)
    cut = Tokenizer(GPT4_PATTERN).train(text, 256 + 11)
    n_basic = count_mixed(basic)
    n_cut = count_mixed(cut)
    yield claim('with it, no token crosses categories', n_cut == 0, 'file')
    yield answer('of 11 learned tokens cross: without it, with it', '3 0', [n_basic, n_cut])
    chunks = regex.findall(GPT2_PATTERN, "Hello've world123 how's are you!!!?")
    expected = "Hello¦'ve¦ world¦123¦ how¦'s¦ are¦ you¦!!!?"
    yield figure('GPT-2 cuts', expected, '¦'.join(chunks), 'video')
    yield conclusion(
        f'Tokens that mix letters and signs: {n_basic} of 11 without the pattern, {n_cut} with it.'
    )


@experiment
def test_step_two_on_names():
    """What does it learn from names.txt?"""
    names = read_names()
    tokenizer = Tokenizer().train(iter(names), 512)
    merges = ' '.join(tokenizer.vocab[i].decode() for i in range(256, 261))
    yield answer('its first merges', 'an ar el le on', merges)
    n_tokens = sum(count_tokens(tokenizer, *names))
    n_letters = sum(len(name) for name in names)
    yield answer('letters a token', '1.93', n_letters / n_tokens)


@experiment(slow=True)
def test_step_three():
    """Exercise, step 3: only GPT-4's tokens are published. Can the merges be told from them?"""
    trained = names_tokenizer()
    # a token is what its two parts were; merging its bytes with all tokens before it finds them
    recovered = Tokenizer(ranks=trained.ranks)
    yield finding('those of a vocabulary trained here', recovered.merges == trained.merges)
    yield conclusion(
        f'Yes: all {len(trained.merges):,} merges come back from the tokens alone. With the '
        "file of GPT-4 at hand, test_gpt4 compares its ids with the lecture's."
    )


@experiment(slow=True)
def test_step_four():
    """Exercise, step 4: special tokens. What is encoded as such, and who decides?"""
    tok = names_tokenizer()
    text = '<|endoftext|>emma'
    yield answer('allowed', 2, len(tok.encode(text, 'all')))
    yield answer('as ordinary text', 11, len(tok.encode(text, 'none')))
    try:
        tok.encode(text)
        refused = False
    except ValueError:
        refused = True
    yield claim('where nothing is said, it is refused', refused, 'file')
    yield conclusion(
        'The caller decides, and has to say so: as special tokens the text is '
        f'{len(tok.encode(text, "all"))} tokens, as ordinary text {len(tok.encode(text, "none"))}.'
    )


@experiment
def test_step_five():
    """Exercise, step 5: bytes for everything, as a fallback. Is there a text it cannot encode?"""
    tokenizer = Tokenizer().train('hello world ' * 10, 262)
    texts = ['', '?', KOREAN, '👋🏽 \u200d', '\x00\r\n\t', 'ﷺ']
    decoded = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
    yield finding('none of these', decoded == texts)
    yield conclusion(
        f'None of {len(texts)}, though it was trained on English only. A merge on code points, as '
        "in sentencepiece, is not here, and so Llama 2's ids are not compared."
    )


# -----------------------------------------------------------------------------
# the eleven questions: why can a language model not ...


@experiment(slow=True)
def test_spelling():
    """Why can it not spell? A long word may be one token, and no letter of it is to be seen."""
    yield answer('michael', 'michael', show_pieces(names_tokenizer(), 'michael'))
    # the model gets the number of a row, and nothing in the row says which letters it stands for
    ids = join_ids(names_tokenizer().encode('michael'))
    yield answer('all that the model sees of it', '1537', ids)


@experiment(slow=True)
def test_reversing():
    """Why can it not reverse a string? Backwards it is made of other tokens."""
    tok = names_tokenizer()
    backwards = 'michael'[::-1]
    yield answer('michael backwards', 'leah¦ci¦m', show_pieces(tok, backwards))
    common = set(tok.encode('michael')) & set(tok.encode(backwards))
    yield finding('no token in common', not common)


@experiment(slow=True)
def test_other_languages():
    """Why is it worse at other languages? They come to it in smaller pieces."""
    # every Korean letter has three bytes, and no pair of them was ever merged
    counts = count_tokens(names_tokenizer(), 'hello', KOREAN)
    yield answer('hello and its Korean, for a vocabulary of names', '2 15', counts)


@experiment
def test_arithmetic():
    """Why is it bad at sums? A number is cut wherever the text happened to have it often."""
    squares = ' '.join(str(n * n) for n in range(2000))
    tok = Tokenizer(GPT2_PATTERN).train(squares, 700)
    # digits that mean hundreds in one number stand for tens in the next
    pieces = show_pieces(tok, '127 677 804 1275 6773 8041')
    yield answer('for a vocabulary of squares', '1¦27¦ 6¦77¦ 8¦04¦ 12¦75¦ 6¦7¦73¦ 8¦041', pieces)


@experiment(slow=True)
def test_python():
    """Why had GPT-2 trouble with Python? Every space of an indent was a token, and the context was
    soon full.
    """
    # the pattern is GPT-2's in both: what matters is whether the texts had indents to be merged
    code = Tokenizer(GPT2_PATTERN).train((LOOP + '\n') * 20, 290)
    names = Tokenizer(GPT2_PATTERN).train(iter(read_names()), 290)
    texts = {'a small loop': (LOOP, '60 23'), 'an indent of eight': ('\n' + INDENT, '10 3')}
    for title, (text, expected) in texts.items():
        counts = [len(tok.encode(text)) for tok in (names, code)]
        yield answer(f'{title}: 34 merges of names, 34 of code', expected, counts)


@experiment(slow=True)
def test_end_of_text():
    """Why did it stop at <|endoftext|>? Because somebody let a text from outside say it."""
    tok = names_tokenizer()
    end = tok.special_tokens['<|endoftext|>']
    text = 'emma<|endoftext|>olivia'
    ends = end in tok.encode(text, 'all')
    is_harmless = end not in tok.encode(text, 'none')
    what = 'encoded as special the text is over; as ordinary text nothing happens'
    yield finding(what, ends and is_harmless)


@experiment
def test_trailing_space():
    """Why the warning about a space at the end? A space belongs to the next word: alone it is
    hardly ever seen.
    """
    # the pattern gives every space to the word behind it, so all merges have it at their beginning
    tok = Tokenizer().train((TAGLINE + ' that sells it. ') * 20, 290)
    ids = tok.encode(TAGLINE + ' ')
    yield answer('the last token is the bare space', '32', ids[-1])
    goes_on = tok.encode(TAGLINE + ' that')
    yield finding('which is not there when the text goes on', 32 not in goes_on)


@experiment
def test_solid_gold_magikarp():
    """Why did it break at SolidGoldMagikarp? A token of the tokenizer's texts that the model's
    texts never held.
    """
    names = read_names()
    tok = Tokenizer().train(iter(names), 512)
    ids = set()
    for name in names[:1000]:  # the tokenizer saw all names, the model only these
        ids.update(tok.encode(name))
    table = torch.nn.Embedding(tok.vocab_size, 4)
    table(torch.tensor(sorted(ids))).sum().backward()
    n_untouched = int((table.weight.grad == 0).all(1).sum())
    n_merges_unseen = sum(i not in ids for i in range(256, 512))
    yield answer('of 256 merges the model never sees', 31, n_merges_unseen)
    what = 'exactly the rows of tokens that never come get no gradient, and stay as they were drawn'
    yield finding(what, n_untouched == 512 - len(ids))


@experiment(slow=True)
def test_yaml():
    """Why rather YAML than JSON? It takes fewer tokens to say the same."""
    counts = count_tokens(names_tokenizer(), JSON, YAML)
    yield answer('JSON, YAML, for a vocabulary of names', '21 13', counts)


@experiment(slow=True)
def test_not_end_to_end():
    """Why is it not end to end? The tokens were chosen by counting, before and apart from the
    model.
    """
    tok = names_tokenizer()
    letters = [tok.encode(letter)[0] for letter in 'anna']
    word = tok.encode('anna')
    same_text = tok.decode(letters) == tok.decode(word)
    what = (
        'a, n, n, a decode to the same text as the token, and no gradient can choose between them'
    )
    yield finding(what, same_text and len(word) == 1)
    counts = count_tokens(tok, 'anna', ' anna', 'Anna', 'ANNA')
    yield answer('anna at the start, after a space, as a name, shouting', '1 2 3 4', counts)


# -----------------------------------------------------------------------------
# how large a vocabulary?


@experiment(slow=True)
def test_vocabulary_size():
    """What does a larger vocabulary bring, and to what is it fitted?"""
    names = read_names()
    text = '\n'.join(names)
    english = (TAGLINE + '. ') * 20
    for vocab_size, expected in {256: '1.00 1.00', 512: '1.71 1.37', 2048: '2.17 1.64'}.items():
        tok = Tokenizer().train(iter(names), vocab_size)
        ratios = [len(t) / len(tok.encode(t)) for t in (text, english)]
        yield answer(f'{vocab_size}: bytes a token on names, on English', expected, ratios)


# -----------------------------------------------------------------------------
# the same with the lecture's text and the published vocabularies, which have to be downloaded


@experiment
def test_characters_of_shakespeare():
    """What does the simplest tokenizer make of the lecture's text?"""
    text = shared_data('tinyshakespeare.txt').read_text()
    tokenizer = makemore.CharTokenizer(''.join(sorted(set(text))))
    yield figure('its vocabulary', 65, tokenizer.vocab_size, 'file')
    ids = join_ids(tokenizer.encode_ordinary('hii there'))
    yield figure('hii there', '46 47 47 1 58 46 43 56 43', ids, 'file')


@experiment(slow=True)
def test_gpt4():
    """GPT-4's own vocabulary: do the ids come out?"""
    tok = load_published('gpt4')
    ids = join_ids(tok.encode(f'hello123!!!? ({KOREAN}!) 😉'))
    expected = '15339 4513 12340 30 320 31495 230 75265 243 92245 16715 57037'
    yield figure('hello123!!!? (annyeonghaseyo!) and a wink', expected, ids, 'file')
    # the sheet has no ids; these are also what tiktoken gives
    ids = join_ids(tok.encode(f'hello world!!!? ({KOREAN}!) lol123 😉'))
    expected = '15339 1917 12340 30 320 31495 230 75265 243 92245 16715 28509 4513 57037'
    yield answer('the exercise sheet', expected, ids)
    vocab = tok.vocab
    complete = len(tok.merges) == 100256 - 256
    right = all(vocab[a] + vocab[b] == vocab[i] for (a, b), i in tok.merges.items())
    yield finding('its merges can be told from its tokens', complete and right)


@experiment
def test_special_tokens_of_gpt4():
    """Which are GPT-4's special tokens, and what are their ids?"""
    tok = load_published('gpt4')
    ids = join_ids(sorted(tok.special_tokens.values()))
    yield figure('their ids', '100257 100258 100259 100260 100276', ids, 'file')
    text = '<|endoftext|>hello world'
    yield figure('allowed', '100257 15339 1917', join_ids(tok.encode(text, 'all')), 'file')
    ids = join_ids(tok.encode(text, 'none'))
    yield answer('as ordinary text', '27 91 8862 728 428 91 29 15339 1917', ids)


@experiment
def test_word_of_gpt4():
    """What can GPT-4 see of .DefaultCellStyle, forwards and backwards?"""
    tok = load_published('gpt4')
    word = '.DefaultCellStyle'
    yield figure('forwards', word, show_pieces(tok, word), 'video')
    yield answer('backwards', 'ely¦t¦Sl¦le¦Ctl¦ua¦fe¦D¦.', show_pieces(tok, word[::-1]))


@experiment(slow=True)
def test_languages_of_gpt():
    """Has it become better at other languages from GPT-2 to GPT-4o?"""
    lengths = []
    for name in ('gpt2', 'gpt4', 'gpt4o'):
        lengths += count_tokens(load_published(name), 'hello', KOREAN)
    what = 'hello and its Korean, in tokens of GPT-2, GPT-4, GPT-4o'
    yield answer(what, '1 14, 1 5, 1 2', lengths)


@experiment
def test_numbers_of_gpt2():
    """Where does GPT-2 cut numbers?"""
    tok = load_published('gpt2')
    pieces = [show_pieces(tok, number) for number in ('127', ' 677', ' 804')]
    yield figure('127, 677, 804', '127, 6¦77, 8¦04', ','.join(pieces), 'file')
    pieces = [show_pieces(tok, number) for number in ('1275', ' 6773', ' 8041')]
    yield figure('1275, 6773, 8041', '12¦75, 6¦773, 8¦041', ','.join(pieces), 'file')
    ids = join_ids(tok.encode('127 + 677 = 804'))
    yield answer('ids of 127 + 677 = 804', '16799 1343 718 3324 796 807 3023', ids)


@experiment
def test_python_of_gpt():
    """How many tokens do Python, JSON and YAML take in GPT-2 and in GPT-4?"""
    texts = {'a small loop': (LOOP, '33 25'), 'eight spaces and a letter': (INDENT, '8 2')}
    for title, (text, expected) in texts.items():
        sizes = [len(load_published(name).encode(text)) for name in ('gpt2', 'gpt4')]
        yield answer(f'{title}, in tokens of GPT-2, GPT-4', expected, sizes)
    counts = count_tokens(load_published('gpt4'), JSON, YAML)
    yield answer('JSON, YAML, in tokens of GPT-4', '13 9', counts)


@experiment
def test_trailing_space_of_gpt2():
    """Which token is the space at the end for GPT-2?"""
    tok = load_published('gpt2')
    yield answer('a token of its own', '220', tok.encode(TAGLINE + ' ')[-1])
    goes_on = tok.encode(TAGLINE + ' that')
    yield finding('which is not there when the text goes on', 220 not in goes_on)


@experiment
def test_magikarp_of_gpt2():
    """Is SolidGoldMagikarp really one token?"""
    word = ' SolidGoldMagikarp'
    ids = load_published('gpt2').encode(word)
    yield figure('tokens in GPT-2, with a space before it', '1', len(ids), 'video')
    yield answer('its id', '43453', ids[0])
    pieces = show_pieces(load_published('gpt4'), word)
    yield answer('in GPT-4 it is gone', ' Solid¦Gold¦Mag¦ik¦arp', pieces)


@experiment
def test_egg_of_gpt2():
    """Is an egg always the same to GPT-2?"""
    counts = count_tokens(load_published('gpt2'), 'egg', ' egg', 'Egg', 'EGG')
    yield answer('egg at the start, after a space, as a name, shouting', '1 1 2 2', counts)


@experiment
def test_root_of_suffering():
    """And what is the root of all suffering?"""
    tok = load_published('gpt2')
    yield figure('its tokens', '30642 1634', join_ids(tok.encode('Tokenization')), 'file')
    yield answer('which are', 'Token¦ization', show_pieces(tok, 'Tokenization'))
    ids = join_ids(tok.encode(' is at the'))
    yield figure('and " is", " at", " the"', '318 379 262', ids, 'file')


@experiment(slow=True)
def test_compression():
    """How long is Shakespeare in tokens?"""
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
    what = 'tokens of GPT-2 in the first 90 % and in the rest'
    yield figure(what, '301966 36059', sizes, 'file')


if __name__ == '__main__':
    main()
