"""Counting tokens as OpenAI's embedding models do (encoding cl100k_base), without a download.

Text is counted as ordinary text: a document that quotes `<|endoftext|>` is billed for its letters. The library's public
function counts many texts in threads of its own, at some 20 µs a call; the tokenizer behind it, which its documentation
describes as the full surface, counts one at a time in less.
"""

from functools import cache

import toktok

ENCODING = "cl100k_base"


@cache
def tokenizer() -> toktok._Tokenizer:
    """The compiled tokenizer; its `count(text)` takes a microsecond for 80 bytes."""
    return toktok._encoding(ENCODING)


def count_tokens(text: str) -> int:
    """The number of tokens of a text. Raises UnicodeEncodeError for lone surrogates."""
    count: int = tokenizer().count(text)
    return count
