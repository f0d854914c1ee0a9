"""Taking an upload in: stream it into the object store while checking it, then record it, or leave nothing behind."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog
from anyio.to_thread import run_sync

from ingestion_pipeline.api.multipart import FileForm
from ingestion_pipeline.api.services import ApiServices
from ingestion_pipeline.catalogue import CommitUncertainError, DocumentRecord, NewDocument
from ingestion_pipeline.domain import document_id_for
from ingestion_pipeline.errors import IngestionError
from ingestion_pipeline.stages.verify import UploadVerifier, VerifiedUpload, clean_filename, declared_type

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """The document of an upload, and whether the upload made it."""

    document: DocumentRecord
    is_new: bool


async def receive(services: ApiServices, form: FileForm, *, owner_id: UUID, correlation_id: UUID) -> Received:
    """Store and record the file of a form. Raises what form, verifier, object store and catalogue raise.

    Whatever is raised, no object stays behind, but for one case: if the database goes away during its commit, nobody
    knows whether a row refers to the object, and an orphan, which the audit sweeps, is better than a document without
    its file.
    """
    part = await form.part()
    filename = clean_filename(part.filename)
    verifier = UploadVerifier(filename, declared_type(part.content_type, filename), services.max_upload_bytes)
    object_key = f"raw/{owner_id}/{uuid4()}"
    checked = _Checked(form.blocks(), verifier)
    await services.objects.put_stream(object_key, checked.blocks())
    verified = checked.verified()
    new = NewDocument(
        document_id=document_id_for(owner_id, verified.sha256),
        filename=filename,
        content_type=verified.content_type,
        size_bytes=verified.size_bytes,
        sha256=verified.sha256,
        object_key=object_key,
        correlation_id=correlation_id,
    )
    try:
        document, is_new = await run_sync(services.catalogue.register, owner_id, new)
    except CommitUncertainError:
        log.warning("kept an upload that may be recorded", object_key=object_key)
        raise
    except Exception:
        await _discard(services, object_key)
        raise
    if not is_new:
        await _discard(services, object_key)
    log.info("upload", document_id=str(document.document_id), size_bytes=verified.size_bytes, is_new=is_new)
    return Received(document, is_new)


class _Checked:
    """Blocks on their way into the store, each seen by the verifier first, whose verdict falls before the last."""

    def __init__(self, blocks: AsyncIterator[bytes], verifier: UploadVerifier) -> None:
        self._blocks = blocks
        self._verifier = verifier
        self._verified: VerifiedUpload | None = None

    async def blocks(self) -> AsyncIterator[bytes]:
        async for block in self._blocks:
            self._verifier.feed(block)
            yield block
        self._verified = self._verifier.finish()

    def verified(self) -> VerifiedUpload:
        assert self._verified is not None, "the store took the blocks to their end"
        return self._verified


async def _discard(services: ApiServices, object_key: str) -> None:
    try:
        await run_sync(services.objects.delete, object_key)
    except IngestionError as error:
        log.warning("could not delete an object", object_key=object_key, code=error.code, reason=error.message)
