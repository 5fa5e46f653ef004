"""
Byte-pair encoding: train a tokenizer, or use those of GPT-2, GPT-4 and GPT-4o. In plain Python.

    from pathlib import Path
    from tokenizer import Tokenizer, pretrained

    tok = Tokenizer().train(Path('names.txt'), vocab_size=512)
    tok.decode(tok.encode('hello')) == 'hello'
    tok.save('names.json')
    tok = Tokenizer.load('names.json')

    pretrained('cl100k_base').encode('hello world')  # [15339, 1917], if its file is at hand

On the command line: python -m tokenizer --help. The modules, to be read in this order:

    bpe        the algorithm as the lecture explains it
    training   the same merges, found fast
    encoding   the ids of one chunk of bytes, found fast
    splitting  the patterns, and how they split text into chunks
    core       the Tokenizer
    files      writing a file whole or not at all
    published  the vocabularies of GPT-2, GPT-4 and GPT-4o, and files like theirs
    minbpe     the file format and the class names of karpathy/minbpe
    formats    export to Hugging Face; loading a file of any of these kinds
    fast       everything that only buys speed
    __main__   the commands
"""

from .bpe import encode_naive, get_stats, merge, train_naive
from .core import Tokenizer
from .formats import load, write_huggingface
from .minbpe import BasicTokenizer, GPT4Tokenizer, RegexTokenizer, render_token
from .published import pretrained, write_tiktoken
from .splitting import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, PATTERNS

__all__ = [
    'GPT2_PATTERN',
    'GPT4_PATTERN',
    'O200K_PATTERN',
    'PATTERNS',
    'BasicTokenizer',
    'GPT4Tokenizer',
    'RegexTokenizer',
    'Tokenizer',
    'encode_naive',
    'get_stats',
    'load',
    'merge',
    'pretrained',
    'render_token',
    'train_naive',
    'write_huggingface',
    'write_tiktoken',
]
