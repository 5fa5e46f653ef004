"""Byte-pair encoding: train a tokenizer, or use GPT-2's, GPT-4's and GPT-4o's, in Python that one can read.
    tok = Tokenizer().train(open("names.txt"), vocab_size=512)     # texts, one by one; no merge crosses two of them
    tok.decode(tok.encode("hello")) == "hello"; tok.save("names.json"); Tokenizer.load("names.json")
    pretrained("cl100k_base").encode("hello world")                # [15339, 1917], where the file is on the machine
bpe.py is the algorithm, text.py cuts, core.py has the Tokenizer, formats.py other files, __main__.py the commands."""
from .bpe import get_stats, merge
from .core import Tokenizer
from .formats import BasicTokenizer, GPT4Tokenizer, RegexTokenizer, load, pretrained, render_token
from .text import GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, PATTERNS
