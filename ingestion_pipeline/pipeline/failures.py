"""What follows from an error: a retry later, a new submission, or a dead letter."""

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from ingestion_pipeline.domain import CheckResult, Document, Failure, State
from ingestion_pipeline.errors import (
    CheckFailedError,
    ClaimLostError,
    IngestionError,
    ParseJobLostError,
    PostponedError,
)
from ingestion_pipeline.pipeline.report import Asset, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 300.0
LONGEST_SPREAD_SECONDS = 60.0
LARGEST_EXPONENT = 30  # far beyond the longest delay, far below the largest float
MAX_MESSAGE_CHARACTERS = 1000

log = structlog.get_logger(__name__)


def in_log(document: Document) -> AbstractContextManager[None]:
    """What is logged in the block, also by the adapters, names the document."""
    return structlog.contextvars.bound_contextvars(
        document_id=str(document.document_id), correlation_id=str(document.correlation_id)
    )


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
            uses_attempt=error.uses_attempt,
        )
    return Failure(
        code="internal_error", message=f"{type(error).__name__} in stage {stage}", stage=stage, transient=False
    )


@dataclass(frozen=True, slots=True)
class Retry:
    """The same work again after a delay."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """The same work again after a delay, without an attempt used up."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt: `failure` says why, with the number of attempts where these or their time were used up."""

    failure: Failure


def decide(
    failure: Failure,
    *,
    attempt: int,
    max_attempts: int,
    failing_seconds: float = 0.0,
    max_retry_seconds: float = math.inf,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Retry | Wait | GiveUp:
    """Whether to try again after `attempt` earlier failures, and when: exponential backoff with full jitter.

    What uses up no attempt waits as long as it was told, and a little longer, so that not all come back at once.

    The vendor's own Retry-After is the least delay. `failing_seconds` ago was the first of the failures; an attempt
    later than `max_retry_seconds` after it is not made. Source: Exponential Backoff and Jitter, AWS Architecture Blog,
    2015.
    """
    if not failure.transient:
        return GiveUp(failure)
    least_seconds = failure.retry_after_seconds or 0.0
    if failure.uses_attempt and attempt + 1 >= max_attempts:
        return GiveUp(_exhausted(failure, f"given up after {attempt + 1} attempts"))
    if failure.uses_attempt:
        ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, LARGEST_EXPONENT))
        delay_seconds = max(uniform(0.0, ceiling), least_seconds)
    else:
        spread = min(LONGEST_SPREAD_SECONDS, FIRST_DELAY_SECONDS + least_seconds / 2)
        delay_seconds = least_seconds + uniform(0.0, spread)
    if failing_seconds + delay_seconds > max_retry_seconds:
        reason = f"the next attempt would be later than {max_retry_seconds:.0f} s after the first failure"
        return GiveUp(_exhausted(failure, f"given up after {attempt + 1} attempts: {reason}"))
    return Retry(delay_seconds) if failure.uses_attempt else Wait(delay_seconds)


def _exhausted(failure: Failure, note: str) -> Failure:
    return replace(failure, message=f"{failure.message} ({note})", retry_after_seconds=None)


def settle(services: Services, document: Document, claim: str, asset: Asset, error: Exception) -> StageReport:
    """Record an error of one document and report what follows from it.

    Raises DatabaseUnavailableError if that can't be recorded; the claim then expires and the work is done again.
    """
    bound = log.bind(
        document_id=str(document.document_id), correlation_id=str(document.correlation_id), stage=asset.value
    )
    failure = classify(error, asset.value)
    was_not_called = isinstance(error, PostponedError)
    decision = decide(
        failure,
        attempt=document.attempt,
        max_attempts=services.limits.max_attempts,
        failing_seconds=_seconds_since(document.failing_since),
        max_retry_seconds=math.inf if was_not_called else services.limits.max_retry_seconds,
    )
    try:
        if isinstance(error, ClaimLostError):
            raise error
        if isinstance(decision, GiveUp):
            services.documents.dead_letter(document, claim, decision.failure)
        elif isinstance(decision, Wait):
            # A call that was made may have had an effect, which the next try looks for if there was an attempt.
            least = document.attempt if was_not_called else max(document.attempt, 1)
            services.documents.postpone(document, claim, failure, decision.delay_seconds, least)
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
        {
            "retry_in_seconds": round(decision.delay_seconds, 1),
            "attempt": document.attempt + isinstance(decision, Retry),
        },
        failure=failure,
    )


def _seconds_since(moment: datetime | None) -> float:
    return 0.0 if moment is None else (datetime.now(UTC) - moment).total_seconds()


def _storable(message: str) -> str:
    """What Postgres takes as text: vendors' answers, quoted in messages, may hold NUL or half a surrogate pair."""
    return message.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _trace_of_bug(error: Exception) -> Exception | None:
    return None if isinstance(error, IngestionError) else error
