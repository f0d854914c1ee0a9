"""The end of a chunk that the next chunk repeats.

It begins at a segment, a sentence, a line or a word, in this order of preference, never within a table row.
"""

import re
from collections.abc import Sequence

from ingestion_pipeline.stages.segments import Kind, Segment
from ingestion_pipeline.stages.tokens import count_tokens

_SENTENCE_START = re.compile(r"[.!?…][\"')\]»\u201d\u2019]*\s+(?=\S)|[\u3002\uff01\uff1f](?=\S)")
_WORD_START = re.compile(r"\s+(?=\S)")
_LINE_START = re.compile(r"\n+(?=[^\n])")
_TABLE_TAG = re.compile("<[tT]")
_TRIES = 3


def overlap_before(text: str, emitted: Sequence[Segment], budget: int) -> Segment | None:
    """The last part of a chunk's segments of at most `budget` tokens, never the whole chunk; None if nothing fits."""
    last = emitted[-1]
    start, tokens = last.end, 0
    path = last.path
    is_exact = True
    for position in range(len(emitted) - 1, -1, -1):
        segment = emitted[position]
        if position > 0 and tokens + segment.tokens <= budget and segment.kind is not Kind.OVERLAP:
            start, path = segment.start, segment.path
            tokens += segment.tokens
            is_exact = is_exact and segment.is_exact
            if segment.kind is Kind.HEADING:
                break
            continue
        tail = _tail(text, segment, budget - tokens)
        if tail is not None:
            start, path = tail[0], segment.path
            tokens += tail[1]
            is_exact = is_exact and segment.is_exact
        break
    if start >= last.end or not text[start : last.end].strip():
        return None
    return Segment(start, last.end, tokens, Kind.OVERLAP, 0, path, is_exact)


def _tail(text: str, segment: Segment, budget: int) -> tuple[int, int] | None:
    """Where the last `budget` tokens or fewer of a segment begin, and their number; None if it can't be cut there."""
    if budget <= 0 or segment.kind is Kind.HEADING or (segment.kind is Kind.ROWS and not segment.is_exact):
        return None
    start, end = segment.start, segment.end
    if text.find("<", start, end) >= 0 and _TABLE_TAG.search(text, start, end):
        return None
    is_table = segment.kind is Kind.ROWS or text.find("|", start, end) >= 0
    starts = (_LINE_START,) if is_table else (_SENTENCE_START, _LINE_START, _WORD_START)
    window = min((end - start) * budget // max(segment.tokens, 1), end - start - 1)
    for _ in range(_TRIES):
        for pattern in starts:
            match = pattern.search(text, end - window, end)
            if match is None:
                continue
            tokens = count_tokens(text[match.end() : end])
            if tokens <= budget:
                return match.end(), tokens
        window = window * 2 // 3
    return None
