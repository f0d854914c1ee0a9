"""The chunks of a large text, which is not copied for them."""

from collections.abc import Iterable, Sequence
from typing import overload

from ingestion_pipeline.domain import Chunk


class SlicedChunks(Sequence[Chunk]):
    """A sequence of the chunks of a text; each gets its own text when it is asked for."""

    def __init__(self, text: str, chunks: Iterable[Chunk]) -> None:
        self._text = text
        self._bare = [chunk._replace(text="") for chunk in chunks]

    def __len__(self) -> int:
        return len(self._bare)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return [self._whole(chunk) for chunk in self._bare[index]]
        return self._whole(self._bare[index])

    def _whole(self, chunk: Chunk) -> Chunk:
        return chunk._replace(text=self._text[chunk.start : chunk.end])
