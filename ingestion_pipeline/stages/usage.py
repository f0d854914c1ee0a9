"""What calls of the vendors cost, and which document owes how much of it. Exact: the parts add up to the whole."""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Protocol
from uuid import UUID, uuid4

from ingestion_pipeline.domain import UsageShare, Vendor, VendorCall

# Price lists as of November 2026: OpenAI's in USD for a million tokens of synchronous requests; LlamaCloud's in credits
# a page by tier, and its price of a credit beyond those that a plan includes.
EMBEDDING_USD_A_MILLION = {"text-embedding-3-small": Decimal("0.02"), "text-embedding-3-large": Decimal("0.13")}
PARSING_CREDITS_A_PAGE = {"cost_effective": 3, "agentic": 10, "agentic_plus": 45}
USD_A_CREDIT = Decimal("0.00125")


class BilledText(Protocol):
    """A text of a request: whose it is, and its tokens as counted here."""

    @property
    def document_id(self) -> UUID: ...

    @property
    def token_count(self) -> int: ...


def embedding_cost_usd(model: str, tokens: int) -> Decimal:
    """The price of embedding so many tokens; nothing for a model that is not in the price list."""
    return EMBEDDING_USD_A_MILLION.get(model, Decimal(0)) * tokens / 1_000_000


def parsing_cost_usd(tier: str, pages: int) -> Decimal:
    """The price of parsing so many pages; nothing for a tier that is not in the price list."""
    return PARSING_CREDITS_A_PAGE.get(tier, 0) * pages * USD_A_CREDIT


def shared(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts that are proportional to the weights and add up to it, by the largest remainder.

    Raises ValueError unless there is a positive weight.
    """
    whole = sum(weights)
    if whole <= 0:
        raise ValueError("nobody to share among")
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(total * weights[index] % whole))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def embedding_call(
    model: str, tokens: int, seconds: float | None, texts: Iterable[BilledText], call_id: UUID | None = None
) -> VendorCall:
    """An answered request for embeddings: the vendor bills it as one, a document's part goes by our own count."""
    counted: Counter[UUID] = Counter()
    for text in texts:
        counted[text.document_id] += text.token_count
    parts = shared(tokens, list(counted.values()))
    shares = tuple(
        UsageShare(document_id, tokens=part, cost_usd=embedding_cost_usd(model, part))
        for document_id, part in zip(counted, parts, strict=True)
    )
    return VendorCall(Vendor.OPENAI, "embed", model, shares, seconds, call_id=call_id or uuid4())


def query_call(model: str, tokens: int, seconds: float | None) -> VendorCall:
    """An answered request for the vector of a search: no document's."""
    share = UsageShare(None, tokens=tokens, cost_usd=embedding_cost_usd(model, tokens))
    return VendorCall(Vendor.OPENAI, "embed_query", model, (share,), seconds)


def parsing_call(tier: str, document_id: UUID, pages: int) -> VendorCall:
    """A parse job whose result was fetched."""
    share = UsageShare(document_id, pages=pages, cost_usd=parsing_cost_usd(tier, pages))
    return VendorCall(Vendor.LLAMACLOUD, "parse", tier, (share,))
