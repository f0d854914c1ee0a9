"""Whether a finished document may be served."""

from ingestion_pipeline.domain import CheckResult
from ingestion_pipeline.ports import PromotionFacts


def check_promotion(facts: PromotionFacts, expected_chunks: int) -> CheckResult:
    """Blocking check: what is served equals what was buffered, and is as much as chunking counted."""
    problems = []
    if facts.served_chunks != expected_chunks:
        problems.append(f"{facts.served_chunks} chunks are served, {expected_chunks} were cut")
    if facts.buffered_chunks != facts.served_chunks:
        problems.append(f"{facts.buffered_chunks} chunks were buffered, {facts.served_chunks} are served")
    if facts.unequal_chunks:
        problems.append(f"{facts.unequal_chunks} chunks are not served as they were buffered")
    if facts.content_sha256 is None:
        problems.append("there is nothing to serve")
    return CheckResult(
        name="served_equals_buffered",
        passed=not problems,
        message="; ".join(problems) or "what is served equals what was buffered",
        facts={"chunks": facts.served_chunks},
    )
