"""Cells of the matrix in which somebody is killed or stands still, at each write of each process."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline_tests.faults.cell import Cell
from ingestion_pipeline_tests.faults.room import Scene
from ingestion_pipeline_tests.faults.strikes import Deed, Moment, Strike
from ingestion_pipeline_tests.faults.verdict import Explained
from ingestion_pipeline_tests.running_api import wait_until

# What stands between two states, and the write that takes documents over it.
WORKER_WRITES = {
    "claim → raw_upload": "claim_batch",
    "raw_upload → parse_queued": "parse_submitted",
    "parsed → text": "parsed",
    "text → chunks": "chunks_stored",
    "chunks → embeddings": "embedding_started",
    "embeddings, each answer": "store_vectors",
    "embeddings → stored": "embeddings_stored",
    "stored → finalized": "promote",
}
API_WRITES = {"upload → uploaded": "register", "webhook → parsed": "receive_parse_event"}
SUBMITTED_AT_ONCE = 8  # by one run: what stands between its last look at the lease and its request is in flight
COMMITS = (Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT)
# A batch whose run died is closed by the audit; an object that no row refers to is swept by it.
AFTER_A_DEATH = frozenset({Code.BATCH_UNFINISHED})
AFTER_AN_UPLOAD_DIED = frozenset({Code.OBJECT_ORPHANED})


def worker_killed(strike: Strike, scene: Scene, texts: Sequence[str]) -> Explained:
    """One worker has the documents, dies, and two others find what it left."""
    scene.upload(texts)
    doomed = scene.start_worker(strike)
    wait_until(lambda: not doomed.is_alive(), "the worker dies at its place", 60)
    scene.end_fault()
    scene.start_workers()
    return Explained(findings=AFTER_A_DEATH)


def postgres_killed(strike: Strike, scene: Scene, texts: Sequence[str]) -> Explained:
    """A worker kills the server at its place; all go on, and the server is started again."""
    scene.upload(texts)
    scene.start_worker(strike)
    scene.start_worker()
    _restart_postgres(scene)
    return Explained(findings=AFTER_A_DEATH)


def worker_stands(strike: Strike, scene: Scene, texts: Sequence[str]) -> Explained:
    """A worker stands still for longer than its lease, others take its documents, then it goes on as if nothing was."""
    scene.upload(texts)
    standing = scene.start_worker(strike)
    wait_until(standing.is_standing, "the worker stands at its place", 60)
    scene.end_fault()
    scene.start_workers()
    scene.afterwards.append(partial(scene.let_go_on, standing))
    submitting = strike.method == "parse_submitted"
    return Explained(findings=AFTER_A_DEATH, parse_jobs=SUBMITTED_AT_ONCE - 1 if submitting else 0)


def api_killed(strike: Strike, scene: Scene, texts: Sequence[str]) -> Explained:
    """The API dies at its place and is started again; clients and the parser try again, or don't."""
    api = scene.restart_api(strike)
    with _uploading(scene, texts):
        if strike.method != "register":
            scene.start_workers()
        wait_until(lambda: not api.is_alive(), "the API dies at its place", 60)
        scene.start_api()
    scene.end_fault()
    if strike.method == "register":
        scene.start_workers()
    return Explained(findings=AFTER_AN_UPLOAD_DIED)


def postgres_killed_under_the_api(strike: Strike, scene: Scene, texts: Sequence[str]) -> Explained:
    """The server is killed while the API writes."""
    scene.restart_api(strike)
    with _uploading(scene, texts):
        scene.start_workers()
        _restart_postgres(scene)
    return Explained(findings=AFTER_A_DEATH | AFTER_AN_UPLOAD_DIED)


def _restart_postgres(scene: Scene) -> None:
    wait_until(lambda: not scene.room.postgres.is_running(), "PostgreSQL is killed", 60)
    scene.restart_postgres()
    scene.end_fault()


@contextmanager
def _uploading(scene: Scene, texts: Sequence[str]) -> Iterator[None]:
    """Clients upload meanwhile; at the end of the block they have to come to their end."""
    with ThreadPoolExecutor(1, thread_name_prefix="clients") as pool:
        uploads = pool.submit(scene.upload, texts)
        yield
        uploads.result()


def _cells(
    fault: str,
    happens: Callable[[Strike, Scene, Sequence[str]], Explained],
    writes: dict[str, str],
    deed: Deed,
    moments: Sequence[Moment],
) -> list[Cell]:
    return [
        Cell(place, f"{fault} {moment} {method}", partial(happens, Strike(method, moment, deed)))
        for place, method in writes.items()
        for moment in moments
    ]


WORKERS_KILLED = _cells("worker killed", worker_killed, WORKER_WRITES, Deed.DIE, COMMITS)
POSTGRES_KILLED = [
    *_cells("PostgreSQL killed", postgres_killed, WORKER_WRITES, Deed.KILL_POSTGRES, COMMITS),
    *_cells("PostgreSQL killed", postgres_killed_under_the_api, API_WRITES, Deed.KILL_POSTGRES, COMMITS),
]
APIS_KILLED = _cells("API killed", api_killed, API_WRITES, Deed.DIE, COMMITS)
WORKERS_STANDING = _cells(
    "worker stands still past its lease",
    worker_stands,
    {place: method for place, method in WORKER_WRITES.items() if method != "claim_batch"},
    Deed.STOP,
    [Moment.BEGIN, Moment.BEFORE_COMMIT],
)
