"""Whether a finished document may be served, and what it cost."""

from ingestion_pipeline.domain import CheckResult
from ingestion_pipeline.ports import PromotionFacts

# OpenAI's price list, USD for a million tokens of synchronous requests.
PRICES_USD_A_MILLION = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13}


def cost_in_usd(model: str, tokens: int) -> float | None:
    """The price of embedding so many tokens, or None for a model that is not in the price list."""
    price = PRICES_USD_A_MILLION.get(model)
    return None if price is None else price * tokens / 1_000_000


def check_promotion(facts: PromotionFacts, expected_chunks: int) -> CheckResult:
    """Blocking check: what is served equals what was buffered, and is as much as chunking counted."""
    problems = []
    if facts.served_chunks != expected_chunks:
        problems.append(f"{facts.served_chunks} chunks are served, {expected_chunks} were cut")
    if facts.buffered_chunks != facts.served_chunks:
        problems.append(f"{facts.buffered_chunks} chunks were buffered, {facts.served_chunks} are served")
    if facts.buffered_sha256 is None or facts.buffered_sha256 != facts.served_sha256:
        problems.append("the fingerprints of buffered and served rows differ")
    return CheckResult(
        name="served_equals_buffered",
        passed=not problems,
        message="; ".join(problems) or "what is served equals what was buffered",
        facts={"chunks": facts.served_chunks},
    )
