"""Every error that this project raises on purpose.

An error is classified once, where the cause is known (the adapter or the stage), as permanent or transient. Anything
that is not an IngestionError is a bug: it is reported as `internal_error` and never retried silently.
"""

from typing import ClassVar


class IngestionError(Exception):
    """Root of all errors of this project; `code` is stable and part of the public interface.

    `uses_attempt` is False for what is not to be held against a document: it waits, however often.
    """

    code: str = "internal_error"
    transient: ClassVar[bool] = False
    uses_attempt: bool = True

    def __init__(self, message: str, *, code: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code


class PermanentError(IngestionError):
    """The same input will fail in the same way again: a dead letter, with a remedy for a human."""

    code = "permanent_error"


class TransientError(IngestionError):
    """The outside world was not ready; the same call may succeed later.

    `retry_after_seconds` is the sender's own wish.
    """

    code = "transient_error"
    transient = True


class InvalidDocumentError(PermanentError):
    """The bytes or the name that a user gave us can't be ingested."""

    code = "invalid_document"


class UnsupportedTypeError(InvalidDocumentError):
    """The declared type is not one that this pipeline takes, or the bytes are not of the declared type."""

    code = "unsupported_type"


class TooLargeError(InvalidDocumentError):
    """The upload is over the size limit."""

    code = "too_large"


class IntegrityError(PermanentError):
    """Stored data do not match their recorded hash, count or shape."""

    code = "integrity_mismatch"


class CheckFailedError(PermanentError):
    """A blocking check of a stage failed."""

    code = "check_failed"


class VendorRejectedError(PermanentError):
    """An outside service refused the request for good (bad key, bad request, no credit, quota used up)."""

    code = "vendor_rejected"


class RequestRejectedError(VendorRejectedError):
    """An outside service refused the content of this one request; others may pass."""

    code = "request_rejected"


class VendorUnavailableError(TransientError):
    """An outside service is unreachable, overloaded or answered nonsense, for which it may have billed tokens."""

    code = "vendor_unavailable"
    billed_tokens: int = 0


class ParseJobLostError(TransientError):
    """The parser no longer knows the job or its result: the document has to be submitted again."""

    code = "parse_job_lost"


class PostponedError(TransientError):
    """A call was not made, for a reason that is no document's: the work may go on after `retry_after_seconds`."""

    uses_attempt = False


class VendorPausedError(PostponedError):
    """The circuit breaker of an outside service is open."""

    code = "vendor_paused"


class RateLimitReachedError(PostponedError):
    """Our own limit of calls a minute is used up."""

    code = "rate_limit_reached"


class BudgetExhaustedError(PostponedError):
    """What may be spent in a day is spent: the work goes on tomorrow."""

    code = "budget_exhausted"


class DocumentBudgetError(PermanentError):
    """The document would cost more than a document may."""

    code = "document_budget_exceeded"


class StoreUnavailableError(TransientError):
    """The object store can't be reached."""

    code = "store_unavailable"


class ObjectMissingError(PermanentError):
    """An object that a row refers to is not in the store."""

    code = "object_missing"


class DatabaseUnavailableError(TransientError):
    """Postgres can't be reached, or ended the transaction (deadlock, serialization, restart)."""

    code = "database_unavailable"


class ConfigurationError(IngestionError):
    """A setting is missing or wrong: the message names it and says what it should be.

    Transient for a document that meets it, which can't help it: it waits while somebody mends the setting.
    """

    code = "configuration_error"
    transient = True


class StartupError(IngestionError):
    """A service of the local stack did not start: the message says which one, why, and what to do."""

    code = "startup_error"


class MigrationError(IngestionError):
    """The database schema can't be migrated: the message says why and what to do."""

    code = "migration_error"


class VectorIndexError(IngestionError):
    """The vector index can't be built or dropped: the message says why and what to do."""

    code = "vector_index_error"


class NotFoundError(IngestionError):
    """No such document for this owner."""

    code = "not_found"


class NotRetryableError(PermanentError):
    """The document's state leaves nothing to retry."""

    code = "not_retryable"


class NotCancellableError(PermanentError):
    """The document's state leaves nothing to cancel."""

    code = "not_cancellable"


class ClaimLostError(IngestionError):
    """Another run has taken the document over: stop, and change nothing."""

    code = "claim_lost"
