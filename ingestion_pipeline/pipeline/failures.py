"""What follows from an error: a retry later, a new submission, or a dead letter."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from ingestion_pipeline.domain import CheckResult, Document, Failure, State
from ingestion_pipeline.errors import CheckFailedError, ClaimLostError, IngestionError, ParseJobLostError
from ingestion_pipeline.pipeline.report import Asset, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 300.0
LARGEST_EXPONENT = 30  # far beyond the longest delay, far below the largest float
MAX_MESSAGE_CHARACTERS = 1000

log = structlog.get_logger(__name__)


class FailedChecksError(CheckFailedError):
    """Blocking checks of a stage did not pass: the document goes no further. Carries all checks, to be shown."""

    def __init__(self, message: str, checks: Sequence[CheckResult] = ()) -> None:
        super().__init__(message)
        self.checks = tuple(checks)


def require_passed(checks: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The checks, if all passed. Raises FailedChecksError."""
    failed = [f"{check.name}: {check.message}" for check in checks if not check.passed]
    if failed:
        raise FailedChecksError("; ".join(failed), checks)
    return tuple(checks)


def classify(error: Exception, stage: str) -> Failure:
    """An IngestionError as it classified itself; anything else is a bug, permanent, under the code internal_error."""
    if isinstance(error, IngestionError):
        return Failure(
            code=error.code,
            message=_storable(error.message)[:MAX_MESSAGE_CHARACTERS],
            stage=stage,
            transient=error.transient,
            retry_after_seconds=error.retry_after_seconds,
        )
    return Failure(
        code="internal_error", message=f"{type(error).__name__} in stage {stage}", stage=stage, transient=False
    )


@dataclass(frozen=True, slots=True)
class Retry:
    """The same work again after a delay."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt: `failure` says why, with the number of attempts where they were used up."""

    failure: Failure


def decide(
    failure: Failure, *, attempt: int, max_attempts: int, uniform: Callable[[float, float], float] = random.uniform
) -> Retry | GiveUp:
    """Whether to try again after `attempt` earlier failures, and when: exponential backoff with full jitter.

    The vendor's own Retry-After is the least delay. Source: Exponential Backoff and Jitter, AWS Architecture Blog,
    2015.
    """
    if not failure.transient:
        return GiveUp(failure)
    if attempt + 1 >= max_attempts:
        exhausted = Failure(
            code=failure.code,
            message=f"{failure.message} (given up after {attempt + 1} attempts)",
            stage=failure.stage,
            transient=True,
        )
        return GiveUp(exhausted)
    ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, LARGEST_EXPONENT))
    return Retry(max(uniform(0.0, ceiling), failure.retry_after_seconds or 0.0))


def settle(services: Services, document: Document, claim: str, asset: Asset, error: Exception) -> StageReport:
    """Record an error of one document and report what follows from it.

    Raises DatabaseUnavailableError if that can't be recorded; the claim then expires and the work is done again.
    """
    bound = log.bind(
        document_id=str(document.document_id), correlation_id=str(document.correlation_id), stage=asset.value
    )
    failure = classify(error, asset.value)
    decision = decide(failure, attempt=document.attempt, max_attempts=services.limits.max_attempts)
    try:
        if isinstance(error, ClaimLostError):
            raise error
        if isinstance(decision, GiveUp):
            services.documents.dead_letter(document, claim, decision.failure)
        elif isinstance(error, ParseJobLostError) and document.state in (State.PARSE_QUEUED, State.PARSED):
            services.documents.resubmit(document, claim, failure, decision.delay_seconds)
        else:
            services.documents.retry_later(document, claim, failure, decision.delay_seconds)
    except ClaimLostError as lost:  # also while recording another error: what follows is up to the run that has it now
        bound.info("claim lost", reason=lost.message)
        return StageReport(
            document.document_id, asset, Verdict.WAITING, {"note": lost.message}, failure=classify(lost, asset.value)
        )
    if isinstance(decision, GiveUp):
        bound.error("document failed", code=failure.code, reason=failure.message, exc_info=_trace_of_bug(error))
        checks = error.checks if isinstance(error, FailedChecksError) else ()
        return StageReport(
            document.document_id,
            asset,
            Verdict.FAILED,
            {"filename": document.filename},
            checks=checks,
            failure=decision.failure,
        )
    bound.warning("will try again", code=failure.code, reason=failure.message, delay_seconds=decision.delay_seconds)
    return StageReport(
        document.document_id,
        asset,
        Verdict.WAITING,
        {"retry_in_seconds": round(decision.delay_seconds, 1), "attempt": document.attempt + 1},
        failure=failure,
    )


def _storable(message: str) -> str:
    """What Postgres takes as text: vendors' answers, quoted in messages, may hold NUL or half a surrogate pair."""
    return message.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _trace_of_bug(error: Exception) -> Exception | None:
    return None if isinstance(error, IngestionError) else error
