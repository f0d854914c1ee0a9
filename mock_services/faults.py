"""Scripted faults: what may go wrong, for which calls or documents, and how often. One book of them an application."""

from enum import StrEnum
from threading import Lock
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Stage(StrEnum):
    """Where in the work of an application a fault strikes."""

    HTTP = "http"
    VECTORS = "vectors"
    JOB = "job"
    WEBHOOK = "webhook"
    SUBMIT = "submit"


class Kind(StrEnum):
    """Every fault that can be scripted."""

    LATENCY = "latency"
    STATUS = "status"
    TIMEOUT = "timeout"
    CUT = "cut"
    MALFORMED_BODY = "malformed_body"
    TRUNCATED_BODY = "truncated_body"
    WRONG_COUNT = "wrong_count"
    WRONG_DIMENSION = "wrong_dimension"
    NAN_VECTORS = "nan_vectors"
    PARSE_DELAY = "parse_delay"
    JOB_FAILURE = "job_failure"
    NEVER_FINISH = "never_finish"
    PARTIAL = "partial"
    WEBHOOK_LOST = "webhook_lost"
    WEBHOOK_LATE = "webhook_late"
    WEBHOOK_DOUBLED = "webhook_doubled"
    WEBHOOK_WRONGLY_SIGNED = "webhook_wrongly_signed"
    WEBHOOK_EARLY = "webhook_early"


_HTTP_OUTCOMES = (Kind.STATUS, Kind.TIMEOUT, Kind.CUT, Kind.MALFORMED_BODY, Kind.TRUNCATED_BODY)
_VECTOR_OUTCOMES = (Kind.WRONG_COUNT, Kind.WRONG_DIMENSION, Kind.NAN_VECTORS)
_WEBHOOK_KINDS = (Kind.WEBHOOK_LOST, Kind.WEBHOOK_LATE, Kind.WEBHOOK_DOUBLED, Kind.WEBHOOK_WRONGLY_SIGNED)
_JOB_OUTCOMES = (Kind.JOB_FAILURE, Kind.NEVER_FINISH, Kind.PARTIAL)

# kind -> (stage, group); of the faults of one group only the first that fits strikes a given call, so that
# a script of "500, then 429" is two faults with times=1.
_PLACES: dict[Kind, tuple[Stage, str]] = {
    Kind.LATENCY: (Stage.HTTP, "latency"),
    Kind.PARSE_DELAY: (Stage.JOB, "delay"),
    **dict.fromkeys(_HTTP_OUTCOMES, (Stage.HTTP, "outcome")),
    **dict.fromkeys(_VECTOR_OUTCOMES, (Stage.VECTORS, "outcome")),
    **dict.fromkeys(_JOB_OUTCOMES, (Stage.JOB, "outcome")),
    **{kind: (Stage.WEBHOOK, kind.value) for kind in _WEBHOOK_KINDS},
    Kind.WEBHOOK_EARLY: (Stage.SUBMIT, "early"),
}

JobFailureCode = Literal[
    "UNSUPPORTED_FILE_TYPE",
    "PDF_IS_PROTECTED",
    "PDF_IS_BROKEN",
    "NO_DATA_FOUND_IN_FILE",
    "DOCUMENT_TOO_LARGE",
    "TOO_MANY_PAGES",
    "TIMEOUT",
]

_REQUIRED_FIELD = {
    Kind.LATENCY: "seconds",
    Kind.PARSE_DELAY: "seconds",
    Kind.WEBHOOK_LATE: "seconds",
    Kind.STATUS: "status",
    Kind.JOB_FAILURE: "code",
}


class Fault(BaseModel):
    """What happens. Only the fields of its kind are read.

    seconds: latency, parse_delay, webhook_late; for timeout the longest hold (default: until the caller gives up).
    status, code, message, retry_after: an HTTP error; `code` is also the failure code of job_failure.
    when: `after` does the work first and spoils the answer only, e.g. a create that times out though the job exists.
    count: vectors of wrong_count; dimensions: of wrong_dimension; by default one too few.
    pages: numbers of the pages that fail in partial.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    seconds: float | None = Field(default=None, ge=0)
    status: int | None = Field(default=None, ge=400, le=599)
    code: str | None = None
    message: str | None = None
    retry_after: float | None = Field(default=None, ge=0)
    when: Literal["before", "after"] = "before"
    count: int | None = Field(default=None, ge=0)
    dimensions: int | None = Field(default=None, ge=1)
    pages: list[int] = Field(default_factory=lambda: [1])

    @model_validator(mode="after")
    def _has_the_field_of_its_kind(self) -> Self:
        field = _REQUIRED_FIELD.get(self.kind)
        if field and getattr(self, field) is None:
            raise ValueError(f"a fault of kind {self.kind.value} needs {field}")
        if self.kind is Kind.JOB_FAILURE and self.code not in JobFailureCode.__args__:  # type: ignore[attr-defined]
            raise ValueError(f"unknown failure code {self.code}")
        return self


class ScriptedFault(BaseModel):
    """When it happens: to the calls of `operation` whose subjects contain `match`, after `skip` of them, `times` often.

    Subjects are the file name, external_file_id, values of user_metadata, file id and job id of a document,
    or the input texts of an embeddings call. `times=null` means every time.
    """

    model_config = ConfigDict(extra="forbid")

    id: int = 0
    operation: str | None = None
    match: str | None = None
    times: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    struck: int = 0
    fault: Fault

    def fits(self, operation: str, subjects: list[str]) -> bool:
        """Whether this fault is not used up and concerns such a call."""
        if self.times is not None and self.struck >= self.times:
            return False
        if self.operation is not None and self.operation != operation:
            return False
        match = self.match
        return match is None or any(match in subject for subject in subjects)


class FaultBook:
    """The faults of one application, in the order in which they were scripted; safe to use from threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._scripted: list[ScriptedFault] = []
        self._last_id = 0

    def script(self, fault: ScriptedFault) -> ScriptedFault:
        """Add a fault and return it with its id."""
        with self._lock:
            self._last_id += 1
            added = fault.model_copy(update={"id": self._last_id, "struck": 0})
            self._scripted.append(added)
            return added

    def take(self, stage: Stage, operation: str, subjects: list[str]) -> list[Fault]:
        """The faults that strike this call, each counted as used."""
        if not self._scripted:
            return []
        taken: dict[str, Fault] = {}
        with self._lock:
            for scripted in self._scripted:
                fault_stage, group = _PLACES[scripted.fault.kind]
                if fault_stage is not stage or group in taken or not scripted.fits(operation, subjects):
                    continue
                if scripted.skip > 0:
                    scripted.skip -= 1
                    continue
                scripted.struck += 1
                taken[group] = scripted.fault
        return list(taken.values())

    def listing(self) -> list[ScriptedFault]:
        """Every fault, used up or not."""
        with self._lock:
            return [scripted.model_copy() for scripted in self._scripted]

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._scripted.clear()
