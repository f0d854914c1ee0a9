"""An Embedder and a Parser whose calls pass a rate limit and a circuit breaker; whoever uses them does not notice."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from ingestion_pipeline.adapters.guards.breaker import CircuitBreaker
from ingestion_pipeline.adapters.guards.limiter import RateLimiter
from ingestion_pipeline.domain import ParsedPage, ParseJob, UsageShare, VendorCall
from ingestion_pipeline.errors import IngestionError, VendorUnavailableError
from ingestion_pipeline.ports import Embedder, Embeddings, Parser, ParseRequest
from ingestion_pipeline.stages.usage import embedding_cost_usd

EMBED_REQUESTS = "embed_requests"
EMBED_TOKENS = "embed_tokens"
PARSE_REQUESTS = "parse_requests"
CHARACTERS_A_TOKEN = 4  # of English; the answer says how many there were, and the next request pays the difference


class GuardedEmbedder:
    """ports.Embedder. Raises VendorPausedError and RateLimitReachedError besides what the embedder raises."""

    def __init__(self, embedder: Embedder, breaker: CircuitBreaker, limiter: RateLimiter) -> None:
        self._embedder = embedder
        self._breaker = breaker
        self._limiter = limiter

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str]) -> Embeddings:
        if not texts:
            return self._embedder.embed(texts)
        self._breaker.check()
        estimate = 0
        if self._limiter.limits(EMBED_TOKENS):
            estimate = sum(map(len, texts)) // CHARACTERS_A_TOKEN
        self._limiter.take(**{EMBED_REQUESTS: 1, EMBED_TOKENS: estimate})
        with self._breaker.call("embed", self.model, self._billed) as call_id:
            embeddings = replace(self._embedder.embed(texts), call_id=call_id)
        self._limiter.correct(EMBED_TOKENS, embeddings.tokens - estimate)
        return embeddings

    def _billed(self, error: IngestionError) -> UsageShare:
        tokens = error.billed_tokens if isinstance(error, VendorUnavailableError) else 0
        return UsageShare(None, tokens=tokens, cost_usd=embedding_cost_usd(self.model, tokens))


class GuardedParser:
    """ports.Parser. The rate is that of new jobs, which is what the vendor limits; every call passes the breaker."""

    def __init__(self, parser: Parser, breaker: CircuitBreaker, limiter: RateLimiter, tier: str) -> None:
        self._parser = parser
        self._breaker = breaker
        self._limiter = limiter
        self._tier = tier

    def submit(self, request: ParseRequest) -> ParseJob:
        self._breaker.check()
        self._limiter.take(**{PARSE_REQUESTS: 1})
        with self._breaker.call("submit", self._tier):
            return self._parser.submit(request)

    def find(self, document_id: UUID, attempt: int) -> ParseJob | None:
        with self._breaker.call("find", self._tier):
            return self._parser.find(document_id, attempt)

    def status(self, job_id: str) -> ParseJob:
        with self._breaker.call("status", self._tier):
            return self._parser.status(job_id)

    def pages(self, job_id: str) -> list[ParsedPage]:
        with self._breaker.call("pages", self._tier):
            return self._parser.pages(job_id)

    def failure(self, job: ParseJob) -> IngestionError:
        return self._parser.failure(job)

    def cancel(self, job_id: str) -> None:
        with self._breaker.call("cancel", self._tier):
            self._parser.cancel(job_id)

    def bill(self, document_id: UUID, pages: int) -> VendorCall:
        return self._parser.bill(document_id, pages)
