"""Cuts a normalised text into chunks of about 512 tokens with 10 % overlap.

Segments (whole blocks where they fit, see `segments`) are packed until the next one does not fit. The chunk then ends
at the best boundary in its second half: before a heading, the higher the better, else between blocks, else between
lines or rows, else between sentences, else between words; never behind a heading that would lose its text. A chunk
that would be less than half full takes a part of the next block.

The next chunk begins with the last sentences, lines or rows of the one before, up to `overlap_tokens`. It does not
where it begins with a heading, for it would then show the end of one section under the headings of another, nor where
not even a row or a word fits into the overlap.

Why not a library: `semantic-text-splitter` cuts table rows that don't fit, and counts each candidate for a chunk anew,
where here nearly every character is counted once.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from uuid import UUID

from ingestion_pipeline.domain import CheckResult, Chunk, ParsedText, chunk_ids, sha256_of
from ingestion_pipeline.stages.overlap import overlap_before
from ingestion_pipeline.stages.segments import Kind, Segment, Segmenter
from ingestion_pipeline.stages.tokens import count_tokens

HARD_LIMIT_TOKENS = 8192
_MIN_TOKENS = 16
_MIN_HARD_LIMIT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """Sizes in tokens of cl100k_base. Only a table row or grapheme that is larger alone makes a chunk over
    `max_tokens`.

    Raises ValueError unless 16 <= max_tokens <= hard_limit_tokens >= 256 and 0 <= overlap_tokens <= max_tokens / 2.
    """

    max_tokens: int = 512
    overlap_tokens: int = 51
    hard_limit_tokens: int = HARD_LIMIT_TOKENS

    def __post_init__(self) -> None:
        if not _MIN_TOKENS <= self.max_tokens <= self.hard_limit_tokens:
            raise ValueError(f"max_tokens is {self.max_tokens}, not from {_MIN_TOKENS} to {self.hard_limit_tokens}")
        if self.hard_limit_tokens < _MIN_HARD_LIMIT_TOKENS:
            raise ValueError(f"hard_limit_tokens is {self.hard_limit_tokens}, under {_MIN_HARD_LIMIT_TOKENS}")
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise ValueError(f"overlap_tokens is {self.overlap_tokens}, not from 0 to half of max_tokens")


DEFAULT_OPTIONS = ChunkOptions()


def chunk(document_id: UUID, parsed: ParsedText, options: ChunkOptions = DEFAULT_OPTIONS) -> list[Chunk]:
    """All chunks of a document in order; the same text and options always give the same chunks."""
    return list(iter_chunks(document_id, parsed, options))


def iter_chunks(document_id: UUID, parsed: ParsedText, options: ChunkOptions = DEFAULT_OPTIONS) -> Iterator[Chunk]:
    """The chunks one by one, holding no more than some chunks' segments beside the text."""
    packer = _Packer(parsed.text, options)
    spans = zip(packer.spans(), chunk_ids(document_id), strict=False)
    for ordinal, ((start, text, path, tokens), chunk_id) in enumerate(spans):
        end = start + len(text)
        yield Chunk(
            chunk_id=chunk_id,
            ordinal=ordinal,
            text=text,
            sha256=sha256_of(text),
            start=start,
            end=end,
            first_page=_page_at(parsed, start),
            last_page=_page_at(parsed, end - 1),
            heading_path=path,
            token_count=tokens,
        )


def _page_at(parsed: ParsedText, position: int) -> int:
    return parsed.page_numbers[max(bisect_right(parsed.page_starts, position) - 1, 0)]


_Span = tuple[int, str, tuple[str, ...], int]


class _Packer:
    """Packs segments into spans (start, text, heading path, tokens)."""

    def __init__(self, text: str, options: ChunkOptions) -> None:
        self._text = text
        self._options = options
        # So that a block always fits behind an overlap.
        self._segmenter = Segmenter(text, options.max_tokens - options.overlap_tokens, options.hard_limit_tokens)

    def spans(self) -> Iterator[_Span]:
        maximum = self._options.max_tokens
        source = self._segmenter.segments()
        pending: list[Segment] = []  # the next one last
        current: list[Segment] = []
        total = 0
        while True:
            segment = pending.pop() if pending else next(source, None)
            if segment is not None and (total + segment.tokens <= maximum or not current):
                current.append(segment)
                total += segment.tokens
                continue
            if segment is None:
                if not _has_news(current):
                    return
                count = len(current)
            elif not _has_news(current):
                current, total = [], 0  # the overlap gives way to a row that is larger than a chunk
                pending.append(segment)
                continue
            else:
                if total < maximum // 2 and (parts := self._segmenter.finer(segment)):
                    pending.extend(reversed(parts))
                    continue
                pending.append(segment)
                count = _best_end(current, total, segment.rank, maximum // 2)
            span, count = self._span(current, count)
            if span is not None:
                yield span
            pending.extend(reversed(current[count:]))
            overlap = overlap_before(self._text, current[:count], self._options.overlap_tokens) if pending else None
            if overlap is not None and pending[-1].kind is not Kind.HEADING:
                current, total = [overlap], overlap.tokens
            else:
                current, total = [], 0

    def _span(self, current: Sequence[Segment], count: int) -> tuple[_Span | None, int]:
        """The span of the first `count` segments, or of fewer if their exact count of tokens turns out too large."""
        fewest = 2 if current[0].kind is Kind.OVERLAP else 1
        while True:
            start, end = current[0].start, current[count - 1].end
            raw = self._text[start:end]
            text = raw.rstrip()
            if not text or (fewest == 2 and start + len(text) <= current[0].end):
                return None, count  # blank, or blank behind the overlap
            tokens, is_exact = 0, raw[0] != "\n"
            for segment in current[:count]:
                tokens += segment.tokens
                is_exact = is_exact and segment.is_exact
            if is_exact:
                tokens -= _tokens_of_end(raw, len(text))
            else:
                text = text.lstrip()
                start += len(raw.rstrip()) - len(text)
                tokens = count_tokens(text)
            if tokens <= self._options.max_tokens or count <= fewest:
                return (start, text, current[0].path, tokens), count
            count -= 1


def _has_news(current: Sequence[Segment]) -> bool:
    return bool(current) and current[-1].kind is not Kind.OVERLAP


def _best_end(current: Sequence[Segment], filled: int, next_rank: int, half: int) -> int:
    """How many segments of an overfull chunk to keep: up to the last of the best boundaries in its second half.

    If that half has none, up to the last one in the first half. `filled` are the tokens of all segments.
    """
    first = 2 if current[0].kind is Kind.OVERLAP else 1
    best, best_rank = 0, 99
    rank = next_rank
    for count in range(len(current), first - 1, -1):
        if best and filled < half:
            break
        segment = current[count - 1]
        if segment.kind is not Kind.HEADING and rank < best_rank:
            best, best_rank = count, rank
        filled -= segment.tokens
        rank = segment.rank
    return best or len(current)


def _tokens_of_end(raw: str, content: int) -> int:
    """How many tokens fewer `raw[:content]` has than `raw`, whose end is white space with line feeds.

    In cl100k_base these stand alone behind a letter or digit, and belong to punctuation that they follow.
    """
    if content == len(raw):
        return 0
    start = content
    while start and not (raw[start - 1].isalnum() or raw[start - 1].isspace()):
        start -= 1
    if start and raw[start - 1] == " ":
        start -= 1
    return _tokens_behind(raw[start:content], raw[content:])


@lru_cache(1024)
def _tokens_behind(word: str, space: str) -> int:
    """How many tokens the white space behind a word adds; there are few such words."""
    return count_tokens(word + space) - count_tokens(word)


def check_coverage(parsed: ParsedText, chunks: Sequence[Chunk]) -> CheckResult:
    """Passes if each chunk is the text at its offsets and nothing but white space lies between or outside of chunks."""
    text = parsed.text
    problem = "" if chunks else "There are no chunks."
    covered = 0
    for piece in chunks:
        if text[piece.start : piece.end] != piece.text or sha256_of(piece.text) != piece.sha256:
            problem = f"Chunk {piece.ordinal} is not the text at its offsets, or not the text of its hash."
        elif piece.start > covered and not text[covered : piece.start].isspace():
            problem = f"Text from {covered:,} to {piece.start:,} is in no chunk."
        elif not piece.text.strip():
            problem = f"Chunk {piece.ordinal} is blank."
        if problem:
            break
        covered = max(covered, piece.end)
    if not problem and text[covered:].strip():
        problem = f"Text from {covered:,} to the end is in no chunk."
    facts: dict[str, int | float | str] = {"chunks": len(chunks), "characters": len(text), "covered_to": covered}
    return CheckResult("chunks_cover_text", not problem, problem or "The chunks rebuild the text.", facts)


def check_order(chunks: Sequence[Chunk]) -> CheckResult:
    """Passes if ordinals run from 0 without gaps and both offsets ascend."""
    ordinals = all(piece.ordinal == position for position, piece in enumerate(chunks))
    ascends = all(before.start < after.start and before.end < after.end for before, after in pairwise(chunks))
    passed = ordinals and ascends
    message = "The chunks are in order." if passed else "Ordinals have gaps or offsets do not ascend."
    return CheckResult("chunks_in_order", passed, message, {"chunks": len(chunks)})


def check_token_limit(chunks: Sequence[Chunk], limit_tokens: int = HARD_LIMIT_TOKENS) -> CheckResult:
    """Passes if each chunk has from 1 to `limit_tokens` tokens."""
    counts = [piece.token_count for piece in chunks]
    outside = sum(not 1 <= count <= limit_tokens for count in counts)
    message = (
        f"{outside:,} chunks are empty or over {limit_tokens:,} tokens." if outside else "All chunks are in the limit."
    )
    facts: dict[str, int | float | str] = {"tokens": sum(counts), "largest": max(counts, default=0), "outside": outside}
    return CheckResult("chunks_within_token_limit", not outside, message, facts)


def validate(parsed: ParsedText, chunks: Sequence[Chunk]) -> list[CheckResult]:
    """All checks of a document's chunks."""
    return [check_coverage(parsed, chunks), check_order(chunks), check_token_limit(chunks)]
