"""The five assets, each document a partition, in one step.

One step, though the parser works in between, because Dagster refuses a run without partitions to a step whose inputs
are partitioned assets of another step. A document's state says which side of the parser it is on.
"""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

import dagster as dg
import structlog

from ingestion_pipeline.dagster_defs.bulk_events import EventWriter, forget_planned_checks
from ingestion_pipeline.dagster_defs.interruption import told_to_stop
from ingestion_pipeline.dagster_defs.partition_events import partition_events
from ingestion_pipeline.domain import DEAD_LETTERS, Document, State
from ingestion_pipeline.pipeline.advance import advance_documents
from ingestion_pipeline.pipeline.claims import kept_alive
from ingestion_pipeline.pipeline.report import Asset, StageReport, Verdict
from ingestion_pipeline.pipeline.services import Services

DOCUMENTS = dg.DynamicPartitionsDefinition(name="documents")
SELECTED_BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=1000)
START_OVER_TAG = "ingest/start_over"
PORTION_REPORTS = 400
PORTION_SECONDS = 1.0

log = structlog.get_logger(__name__)

DESCRIPTIONS = {
    Asset.RAW_UPLOAD: "The uploaded file, verified against its recorded size, hash and type, and handed to the parser.",
    Asset.PARSED: "The parser's Markdown, normalised, in the object store.",
    Asset.CHUNKS: "The text in pieces of about 512 tokens, in the chunk buffer.",
    Asset.EMBEDDINGS: "A vector for every chunk, which search finds when the chunk is served.",
    Asset.FINALIZED: "Chunks where search serves them with their vectors, promoted in one transaction.",
}
CHECKS: dict[Asset, dict[str, str]] = {
    Asset.RAW_UPLOAD: {
        "upload_is_intact": "Size, SHA-256 and type of the stored file are those that the API recorded.",
    },
    Asset.PARSED: {
        "text_present": "Parsing found text.",
        "text_hash_matches": "The stored text, read back, has its hash.",
        "page_starts_in_order": "The pages begin within the text, in order.",
    },
    Asset.CHUNKS: {
        "chunks_cover_text": "The chunks cover the text and rebuild it from their offsets.",
        "chunks_in_order": "The chunks are numbered without gaps, in the order of the text.",
        "chunks_within_token_limit": "No chunk is empty or over the embedder's limit.",
    },
    Asset.EMBEDDINGS: {
        "vectors_are_complete": "Every chunk has one vector of its own text, of unit length and right dimension.",
    },
    Asset.FINALIZED: {"served_equals_buffered": "What search serves equals what was buffered."},
}


class BatchConfig(dg.Config):
    """Which batch a sensor claimed for this run; without it the run's own partitions are taken.

    `start_over` (or the tag of a run or backfill, START_OVER_TAG: true) has documents parsed anew that failed, were
    cancelled or are complete, instead of taken up where their work is kept.
    """

    batch_id: str = ""
    start_over: bool = False


def _specs() -> list[dg.AssetSpec]:
    order = list(Asset)
    return [
        dg.AssetSpec(
            asset.value,
            deps=[order[position - 1].value] if position else [],
            description=DESCRIPTIONS[asset],
            group_name="ingestion",
            skippable=True,
            partitions_def=DOCUMENTS,
        )
        for position, asset in enumerate(order)
    ]


def _checks() -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # checks of partitions are a preview; a test watches them
        return [
            dg.AssetCheckSpec(name, asset=asset.value, description=description, blocking=True, partitions_def=DOCUMENTS)
            for asset in Asset
            for name, description in CHECKS[asset].items()
        ]


@dg.multi_asset(
    name="ingest_documents", specs=_specs(), check_specs=_checks(), can_subset=True, backfill_policy=SELECTED_BACKFILL
)
def ingest_step(
    context: dg.AssetExecutionContext, config: BatchConfig, services: dg.ResourceParam[Services]
) -> Iterator[None]:
    """Take the documents of a batch, or of the run's partitions, as far as they go."""
    yield from ()  # Dagster wants a generator where there are several assets; their events are written in bulk
    claim = config.batch_id or context.run.run_id
    if not config.batch_id:
        forget_planned_checks(context)
    failed: list[StageReport] = []
    with (
        told_to_stop() as stopping,
        kept_alive(services.documents, claim, services.limits.claim_seconds),
        EventWriter(context) as told,
    ):
        documents = _claimed(context, config, services, claim)
        for reports in _in_portions(advance_documents(documents, claim, services, stopping)):
            told.write([event for report in _news(reports, told) for event in partition_events(report)])
            if ended := {report.document_id: report.verdict for report in reports if report.is_last}:
                services.documents.release_claim(claim, list(ended))
                _log_ends(documents, ended, claim)
            failed += [report for report in reports if report.verdict is Verdict.FAILED]
    if stopping.is_set():
        raise dg.DagsterExecutionInterruptedError
    if config.batch_id:
        services.documents.finish_batch(UUID(config.batch_id), len(failed))
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(documents)} documents failed",
            metadata={str(report.document_id): _reason(report) for report in failed},
            allow_retries=False,
        )


def _news(reports: Sequence[StageReport], told: EventWriter) -> list[StageReport]:
    """Without what an earlier run did and told: it knew more of it."""

    def partition(report: StageReport) -> tuple[str, str]:
        return report.asset, str(report.document_id)

    standing = told.standing([partition(report) for report in reports if report.is_repeated])
    return [report for report in reports if not report.is_repeated or partition(report) not in standing]


def _log_ends(documents: Sequence[Document], ended: Mapping[UUID, Verdict], claim: str) -> None:
    """A line for each document that came to its end."""
    for document in documents:
        if document.document_id in ended:
            log.info(
                "document settled",
                document_id=str(document.document_id),
                correlation_id=str(document.correlation_id),
                verdict=ended[document.document_id].value,
                batch_id=claim,
            )


def _in_portions(reports: Iterable[StageReport]) -> Iterator[list[StageReport]]:
    """What is told in one go: so many reports, or what came within a second."""
    portion: list[StageReport] = []
    due = time.monotonic() + PORTION_SECONDS
    for report in reports:
        portion.append(report)
        if len(portion) >= PORTION_REPORTS or time.monotonic() >= due:
            yield portion
            portion, due = [], time.monotonic() + PORTION_SECONDS
    if portion:
        yield portion


def _claimed(context: dg.AssetExecutionContext, config: BatchConfig, services: Services, claim: str) -> list[Document]:
    """The documents of this run. An operator's run also takes dead letters up again, from their last durable state."""
    if config.batch_id:
        held = services.documents.renew_claim(claim)
        context.log.info("batch %s: %d documents are still claimed for it", claim, len(held))
        return services.documents.load(held)
    start_over = config.start_over or context.run.tags.get(START_OVER_TAG) == "true"
    replayed = DEAD_LETTERS | {State.COMPLETE} if start_over else DEAD_LETTERS
    wanted = [UUID(key) for key in context.partition_keys]
    held = services.documents.claim_documents(wanted, claim)  # first, or a sensor is faster with what is replayed
    for document in services.documents.load(wanted):
        if document.state is State.CANCELLED or (document.state in replayed and document.document_id in held):
            state = services.documents.replay(document, start_over=start_over)
            context.log.info("document %s goes back from %s to %s", document.document_id, document.state, state)
    held = services.documents.claim_documents(wanted, claim)
    for document_id in set(wanted) - set(held):
        context.log.warning(
            "document %s waits for the parser, or another run has it: it goes on by itself", document_id
        )
    return services.documents.load(held)


def _reason(report: StageReport) -> str:
    assert report.failure is not None
    filename = report.metadata.get("filename", "")
    return f"{filename}: {report.asset.value}: {report.failure.code}: {report.failure.message}"
