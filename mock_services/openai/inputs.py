"""What the embeddings endpoint accepts: models, forms of input, and the limits on both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mock_services.openai.errors import ApiError

MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
MAX_INPUTS = 2048
MAX_TOKENS_AN_INPUT = 8192
MAX_TOKENS_A_REQUEST = 300_000


class Tokenizer:
    """cl100k_base, the encoding of both models; the ordinary encode, so `<|endoftext|>` is plain text."""

    def __init__(self) -> None:
        from bpe_openai import get_encoding  # loads the tables: only when a server starts

        self._encoding = get_encoding("cl100k_base")
        self._encode: Callable[[str], list[int]] = self._encoding.encode_ordinary
        self._vocabulary: int = self._encoding.n_vocab

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return self.count_exactly(text)

    def count_exactly(self, text: str) -> int:
        """Tokens of a text, whatever the mode."""
        return len(self._encode(text))

    def decode(self, tokens: list[int]) -> str:
        """The text of a token array; KeyError, IndexError or OverflowError for an id that does not exist."""
        return str(self._encoding.decode(tokens))

    def knows(self, token: int) -> bool:
        """Whether a token id exists."""
        return 0 <= token < self._vocabulary


class EstimatingTokenizer(Tokenizer):
    """Four characters a token, for benchmarks in which counting would cost more than all the rest.

    Texts that might exceed the limit of an input are still counted: no token is less than a byte.
    """

    def count(self, text: str) -> int:
        """About the tokens of a text."""
        if len(text.encode()) > MAX_TOKENS_AN_INPUT:
            return self.count_exactly(text)
        return len(text) // 4 + 1


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request that passed every check: texts, their tokens in all, and how to answer."""

    model: str
    texts: list[str]
    tokens: int
    dimensions: int
    base64: bool


def read_request(body: Any, tokenizer: Tokenizer) -> EmbeddingRequest:
    """Check a decoded JSON body against the contract; ApiError with the vendor's status and error object."""
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.")
    model = _model(body)
    encoding_format = body.get("encoding_format", "float")
    if encoding_format not in ("float", "base64"):
        raise ApiError(400, f"Invalid value for 'encoding_format': {encoding_format!r}.", param="encoding_format")
    dimensions = _dimensions(body.get("dimensions"), model)
    texts, tokens = _texts(body.get("input"), tokenizer)
    return EmbeddingRequest(model, texts, tokens, dimensions, encoding_format == "base64")


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", param="model")
    if model not in MODELS:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiError(404, message, param="model", code="model_not_found")
    return model


def _dimensions(asked: Any, model: str) -> int:
    full = MODELS[model]
    if asked is None:
        return full
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= full:
        message = f"Invalid value for 'dimensions' = {asked}. Must be between 1 and {full}."
        raise ApiError(400, message, param="dimensions")
    return asked


def _texts(given: Any, tokenizer: Tokenizer) -> tuple[list[str], int]:
    if isinstance(given, str):
        items: list[Any] = [given]
    elif isinstance(given, list) and given and _is_token(given[0]):
        items = [given]
    elif isinstance(given, list) and given:
        items = given
    else:
        raise ApiError(400, "'input' must be a non-empty string, list of strings or token array.", param="input")
    if len(items) > MAX_INPUTS:
        message = f"Invalid 'input': array too long. Expected at most {MAX_INPUTS} items, but got {len(items)}."
        raise ApiError(400, message, param="input", code="array_above_max_length")
    texts, total = [], 0
    for position, item in enumerate(items):
        text, tokens = _text(item, position, tokenizer)
        texts.append(text)
        total += tokens
    if total > MAX_TOKENS_A_REQUEST:
        total = sum(len(item) if isinstance(item, list) else tokenizer.count_exactly(item) for item in items)
    if total > MAX_TOKENS_A_REQUEST:
        message = f"Requested {total} tokens, max {MAX_TOKENS_A_REQUEST} tokens per request."
        raise ApiError(400, message, param="input", code="max_tokens_per_request", error_type="max_tokens_per_request")
    return texts, total


def _text(item: Any, position: int, tokenizer: Tokenizer) -> tuple[str, int]:
    where = f"'input[{position}]'"
    if not item:
        raise ApiError(400, f"Invalid {where}: input cannot be empty.", param="input")
    if isinstance(item, str):
        text, tokens = item, tokenizer.count(item)
    elif isinstance(item, list) and all(_is_token(token) and tokenizer.knows(token) for token in item):
        text, tokens = "", len(item)
    else:
        raise ApiError(400, f"Invalid type for {where}: expected a string or a token array.", param="input")
    if tokens > MAX_TOKENS_AN_INPUT:
        message = f"Invalid {where}: maximum input length is {MAX_TOKENS_AN_INPUT} tokens, but got {tokens}."
        raise ApiError(400, message, param="input", code="context_length_exceeded")
    return (text if isinstance(item, str) else _decoded(item, where, tokenizer)), tokens


def _decoded(tokens: list[int], where: str, tokenizer: Tokenizer) -> str:
    try:
        return tokenizer.decode(tokens)
    except (KeyError, IndexError, OverflowError, ValueError) as error:
        raise ApiError(400, f"Invalid {where}: unknown token.", param="input") from error


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
