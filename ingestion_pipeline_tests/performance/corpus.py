"""Markdown documents made from a seed: headings, paragraphs and lists of real English sentences, the same every time.

The sentences are those of Python's own reference (`pydoc_data.topics`), so nothing has to be downloaded and a tokeniser
meets real words. Each document shuffles them anew: documents share sentences, but hardly ever a chunk.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

SMALL_BYTES = 8_000
BIG_BYTES = 1_000_000
SEED = "ingestion"
SENTENCES_A_PARAGRAPH = (3, 7)
PARAGRAPHS_A_SECTION = (3, 6)
PROSE = re.compile(r"(?=.{40,250}$)[A-Z][^|]*[a-z][^|]*\.")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many documents of SMALL_BYTES and of BIG_BYTES a corpus has."""

    small: int
    big: int

    @property
    def documents(self) -> int:
        return self.small + self.big


def write_corpus(folder: Path, sizes: Sizes) -> list[Path]:
    """Write the documents as files; returns their paths, big and small ones mixed, as users would upload them."""
    folder.mkdir(parents=True)
    kinds = [("big", number, BIG_BYTES) for number in range(sizes.big)]
    kinds += [("small", number, SMALL_BYTES) for number in range(sizes.small)]
    Random(SEED).shuffle(kinds)
    paths = []
    for kind, number, size in kinds:
        path = folder / f"{kind}-{number:05}.md"
        path.write_text(document(f"{kind} {number}", size))
        paths.append(path)
    return paths


def document(title: str, size_bytes: int) -> str:
    """One document of about `size_bytes` in UTF-8; the title alone decides its content."""
    blocks, size = [], 0
    for block in _blocks(title):
        blocks.append(block)
        size += len(block.encode()) + 2
        if size >= size_bytes:
            return "\n\n".join(blocks) + "\n"
    raise AssertionError("blocks never end")


def changed(text: str, note: str) -> str:
    """The document with one sentence more, in its middle, between two blocks."""
    middle = text.index("\n\n", len(text) // 2)
    return f"{text[:middle]}\n\nThis remark was added to the document later: {note}.{text[middle:]}"


@cache
def sentences() -> tuple[str, ...]:
    """Whole sentences of prose, each once."""
    blocks = (" ".join(block.split()) for topic in topics.values() for block in re.split(r"\n\s*\n", topic))
    found = dict.fromkeys(sentence for block in blocks for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", block))
    return tuple(sentence for sentence in found if PROSE.fullmatch(sentence))


def _blocks(title: str) -> Iterator[str]:
    source = Random(f"{SEED}: {title}")
    yield f"# Document {title}"
    section = 0
    while True:
        section += 1
        yield f"## Section {section} of {title}"
        for _ in range(source.randint(*PARAGRAPHS_A_SECTION)):
            chosen = source.choices(sentences(), k=source.randint(*SENTENCES_A_PARAGRAPH))
            yield " ".join(chosen)
        if section % 4 == 0:
            yield "\n".join(f"- {item}" for item in source.choices(sentences(), k=source.randint(2, 5)))
