"""What the audit can find: a code each, what it means, and what `--fix` does about it."""

from dataclasses import dataclass
from enum import StrEnum

from ingestion_pipeline.inventory import Mend


class Code(StrEnum):
    """Stable names of the checks, in the order in which they are reported."""

    RAW_MISSING = "raw_missing"
    RAW_ALTERED = "raw_altered"
    TEXT_MISSING = "text_missing"
    TEXT_ALTERED = "text_altered"
    OBJECT_UNREADABLE = "object_unreadable"
    OBJECT_ORPHANED = "object_orphaned"
    FILE_SHARED = "file_shared"
    CHUNKS_MISCOUNTED = "chunks_miscounted"
    CHUNKS_ALTERED = "chunks_altered"
    CHUNKS_DIFFER_FROM_TEXT = "chunks_differ_from_text"
    VECTORS_MISSING = "vectors_missing"
    VECTORS_UNFIT = "vectors_unfit"
    VECTORS_OUTDATED = "vectors_outdated"
    SERVED_ALTERED = "served_altered"
    SERVED_UNFINISHED = "served_unfinished"
    MODEL_CHANGED = "model_changed"
    BUFFER_LEFT = "buffer_left"
    OWNER_DIFFERS = "owner_differs"
    ID_DIFFERS = "id_differs"
    JOB_MISSING = "job_missing"
    DOCUMENT_MISSING = "document_missing"
    PARSE_JOB_SHARED = "parse_job_shared"
    PARSING_ENDLESS = "parsing_endless"
    CLAIM_LOST = "claim_lost"
    BATCH_UNFINISHED = "batch_unfinished"
    WORK_STALLED = "work_stalled"
    PARTITION_ORPHANED = "partition_orphaned"
    PARTITION_MISSING = "partition_missing"
    PARTITION_UNTOLD = "partition_untold"


@dataclass(frozen=True, slots=True)
class Check:
    """What a finding means, and what `--fix` does, or what a person is to do where it can't."""

    meaning: str
    fix: str


_RESTORE = "Nothing: restore the object from a backup. Search goes on serving what was made of it."
_REBUILD = "Sends the document back to `parse_validated`: chunks and vectors are made anew from the stored text."
_REPARSE = "Sends the document back to `uploaded`: it is parsed anew, unless its file is lost as well."
_REEMBED = "Embeds them anew; builds a complete document anew from the stored text."
_RETELL = "Has the reconcile sensor tell Dagster of the document in a run."

CHECKS: dict[Code, Check] = {
    Code.RAW_MISSING: Check("The uploaded file is not in the object store.", _RESTORE),
    Code.RAW_ALTERED: Check("The uploaded file has not the size or the SHA-256 that was recorded.", _RESTORE),
    Code.TEXT_MISSING: Check("The parsed text is not in the object store.", _REPARSE),
    Code.TEXT_ALTERED: Check("The parsed text has not the SHA-256 or the pages that were recorded.", _REPARSE),
    Code.OBJECT_UNREADABLE: Check(
        "An object could not be read, twice.", "Nothing: look at the message and at the store, and audit again."
    ),
    Code.OBJECT_ORPHANED: Check("An object that is a day old or older belongs to no document.", "Deletes the object."),
    Code.FILE_SHARED: Check("Several documents refer to one uploaded file.", "Nothing: find out who wrote those rows."),
    Code.CHUNKS_MISCOUNTED: Check("There are not as many chunks as were cut.", _REBUILD),
    Code.CHUNKS_ALTERED: Check("Chunks have not the SHA-256 that was recorded.", _REBUILD),
    Code.CHUNKS_DIFFER_FROM_TEXT: Check("The chunks do not rebuild the parsed text.", _REBUILD),
    Code.VECTORS_MISSING: Check("Chunks have no vector, though the state says so.", _REEMBED),
    Code.VECTORS_UNFIT: Check("Vectors are not of unit length.", _REEMBED),
    Code.VECTORS_OUTDATED: Check(
        "Vectors of a complete document belong to texts that it no longer has.", "Drops them."
    ),
    Code.SERVED_ALTERED: Check(
        "What search serves has not the fingerprint that it was promoted with.",
        f"{_REBUILD} Vectors that are not proven to be right are paid for again.",
    ),
    Code.SERVED_UNFINISHED: Check(
        "Search serves chunks of a document that never was complete.", "Drops the served chunks."
    ),
    Code.MODEL_CHANGED: Check(
        "The vectors are of another model than search uses, so it does not find the document.",
        f"{_REBUILD} This is paid for like a new document.",
    ),
    Code.BUFFER_LEFT: Check("The buffer still holds chunks of a complete document.", "Drops them."),
    Code.OWNER_DIFFERS: Check(
        "Rows of a document belong to another owner than the document.",
        "Gives the job to the document's owner; drops such chunks and builds a complete document anew.",
    ),
    Code.ID_DIFFERS: Check(
        "A document's id is not that of its owner and content.", "Nothing: find out who wrote that row."
    ),
    Code.JOB_MISSING: Check("A document has no job.", "Makes one: the document begins anew."),
    Code.DOCUMENT_MISSING: Check("A job has no document.", "Drops the job."),
    Code.PARSE_JOB_SHARED: Check(
        "Several documents wait for one parse job.", "Nothing: find out who wrote those rows."
    ),
    Code.PARSING_ENDLESS: Check(
        "A document has waited for the parser for more than a day.", "Submits it anew, in a new round."
    ),
    Code.CLAIM_LOST: Check(
        "A claim expired long ago and was not given back.", "Gives it back, as the reconcile sensor should have done."
    ),
    Code.BATCH_UNFINISHED: Check("A batch whose run is gone was never finished.", "Notes that it is over."),
    Code.WORK_STALLED: Check(
        "Documents are due, and nobody takes them.",
        "Nothing: look whether Dagster's daemon runs and its sensors are switched on.",
    ),
    Code.PARTITION_ORPHANED: Check("A partition in Dagster has no document.", "Removes the partition."),
    Code.PARTITION_MISSING: Check("A settled document has no partition in Dagster.", f"Makes it. {_RETELL}"),
    Code.PARTITION_UNTOLD: Check("Dagster shows something else than what became of a document.", _RETELL),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `subject` is a document's id, a key, a claim; `mend` None: see CHECKS."""

    code: Code
    subject: str
    detail: str
    mend: Mend | None = None
