"""Deterministic unit vectors for texts: meaningful ones from static word weights, or instant ones from hashes."""

import binascii
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
VectorKind = Literal["meaningful", "instant"]

# float32 as base64 without padding wants a multiple of 3 floats; 192 divides 1536 and 3072
_PIECE = 192
_MAX_DIMENSION = 3072


class VectorSource(Protocol):
    """Gives vectors; the same text gets the same vector whatever else is in the request."""

    def vectors(self, texts: list[str], model: str, dimensions: int) -> list[Vector]:
        """One float32 unit vector of `dimensions` for each text."""
        ...

    def base64(self, texts: list[str], model: str, dimensions: int) -> list[bytes]:
        """The same vectors, little-endian float32 in base64."""
        ...


class MeaningfulVectors:
    """The mean of WordLlama's static 256-d token weights, tiled to the dimension asked for, which keeps the cosine.

    The large model flips the sign of every second coordinate: cosines within a model stay, vectors of different
    models do not compare, as with the real ones.
    """

    def __init__(self) -> None:
        from safetensors.numpy import load_file  # heavy and only in this mode
        from tokenizers import Tokenizer

        package = find_spec("wordllama")
        if package is None or not package.submodule_search_locations:
            raise RuntimeError("meaningful vectors need the wordllama package (extra `local`)")
        folder = Path(package.submodule_search_locations[0])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(8191)
        weights = load_file(str(folder / "weights" / "l2_supercat_256.safetensors"))
        self._weights: Vector = next(iter(weights.values())).astype(np.float32)

    def vectors(self, texts: list[str], model: str, dimensions: int) -> list[Vector]:
        """See VectorSource."""
        encodings = self._tokenizer.encode_batch([text or " " for text in texts], add_special_tokens=False)
        return [self._vector(encoding.ids, model, dimensions) for encoding in encodings]

    def base64(self, texts: list[str], model: str, dimensions: int) -> list[bytes]:
        """See VectorSource."""
        return [encode(vector) for vector in self.vectors(texts, model, dimensions)]

    def _vector(self, tokens: list[int], model: str, dimensions: int) -> Vector:
        mean = self._weights[tokens or [0]].mean(axis=0)
        tiles = -(-dimensions // mean.size)
        vector = np.tile(mean, tiles)[:dimensions]
        if model.endswith("large"):
            vector[1::2] *= -1
        return unit(vector)


class InstantVectors:
    """Vectors put together from prepared pieces, chosen by a hash of model and text: no meaning, hardly any cost."""

    def __init__(self) -> None:
        pieces = np.random.default_rng(20_261).standard_normal((256, _PIECE)).astype(np.float32)
        pieces /= np.linalg.norm(pieces, axis=1, keepdims=True)
        self._scaled: dict[int, list[Vector]] = {}
        self._encoded: dict[int, list[bytes]] = {}
        for dimensions in (1536, _MAX_DIMENSION):
            count = dimensions // _PIECE
            scaled = pieces / np.float32(np.sqrt(count))
            self._scaled[count] = list(scaled)
            self._encoded[count] = [encode(piece) for piece in scaled]

    def vectors(self, texts: list[str], model: str, dimensions: int) -> list[Vector]:
        """See VectorSource."""
        count = _MAX_DIMENSION // _PIECE if dimensions > 1536 else 1536 // _PIECE
        pieces = self._scaled[count]
        return [
            unit(np.concatenate([pieces[byte] for byte in _digest(text, model, count)])[:dimensions]) for text in texts
        ]

    def base64(self, texts: list[str], model: str, dimensions: int) -> list[bytes]:
        """See VectorSource."""
        count = dimensions // _PIECE
        if dimensions % _PIECE or count not in self._encoded:
            return [encode(vector) for vector in self.vectors(texts, model, dimensions)]
        pieces = self._encoded[count]
        return [b"".join([pieces[byte] for byte in _digest(text, model, count)]) for text in texts]


def make_vector_source(kind: VectorKind) -> VectorSource:
    """The source for a mode; loads weights, so call it when a server starts."""
    return MeaningfulVectors() if kind == "meaningful" else InstantVectors()


def unit(vector: Vector) -> Vector:
    """A vector of length 1 in the same direction; a zero vector becomes the first axis."""
    length = np.linalg.norm(vector)
    if length == 0:
        axis: Vector = np.zeros_like(vector)
        axis[0] = 1
        return axis
    scaled: Vector = (vector / length).astype(np.float32)
    return scaled


def encode(vector: Vector) -> bytes:
    """Little-endian float32 in base64."""
    return binascii.b2a_base64(vector.astype("<f4").tobytes(), newline=False)


def _digest(text: str, model: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, person=model[-5:].encode()).digest()
