"""Cells of the matrix in which something outside fails or lies: vendors, webhooks, object store, clients, clocks."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from typing import Any

import requests

from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline_tests.contract.stores_under_test import ACCESS_KEY, SECRET, S3Server
from ingestion_pipeline_tests.faults.cell import Cell
from ingestion_pipeline_tests.faults.gate import Gate
from ingestion_pipeline_tests.faults.room import CLIENTS, Scene
from ingestion_pipeline_tests.faults.strikes import Deed, Moment, Strike
from ingestion_pipeline_tests.faults.verdict import Explained
from ingestion_pipeline_tests.running_api import execute, wait_until
from mock_services.process import Service

STRUCK = 6  # an outage ends once it has struck so often
SLOW = 2  # where every call succeeds in the end, there are only a few
REFUSED = 5
TWENTY = 20
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429},
    "500": {"kind": "status", "status": 500},
    "time-out": {"kind": "timeout"},
    "malformed": {"kind": "malformed_body"},
    "cut off": {"kind": "cut", "when": "after"},
    "slow": {"kind": "latency", "seconds": 1.0},
}
VENDOR_CALLS: dict[str, tuple[Service, str]] = {
    "raw_upload → parse_queued": ("llamacloud", "create_parse_job"),
    "parsed → text": ("llamacloud", "get_parse_job"),
    "embeddings, each answer": ("openai", "create_embeddings"),
}
WEBHOOK_FAULTS: dict[str, dict[str, Any]] = {
    "lost": {"kind": "webhook_lost"},
    "doubled": {"kind": "webhook_doubled"},
    "wrongly signed": {"kind": "webhook_wrongly_signed"},
    "late": {"kind": "webhook_late", "seconds": 2.5},
}


def is_paid_all_the_same(fault: dict[str, Any]) -> bool:
    """Whether the vendor may have done the work of a call that fails so."""
    return fault["kind"] in ("malformed_body", "cut", "timeout")


def vendor_fails(
    service: Service, operation: str, fault: dict[str, Any], scene: Scene, texts: Sequence[str]
) -> Explained:
    """A vendor answers every call of one kind so, until that has happened some times."""
    scene.mocks.script(service, operation=operation, times=None, **fault)
    scene.upload(texts)
    scene.start_workers()
    _until_struck(scene, service, SLOW if fault["kind"] == "latency" else STRUCK)
    return Explained(spoiled=is_paid_all_the_same(fault))


def vendor_refuses(service: Service, code: str, fault: dict[str, Any], scene: Scene, texts: Sequence[str]) -> Explained:
    """A vendor refuses some documents for good: those, and no others, become dead letters."""
    scene.upload(texts)
    refused = sorted(scene.uploaded)[:REFUSED]
    for document_id in refused:
        title = scene.uploaded[document_id].splitlines()[0].removeprefix("# ")
        match = str(document_id) if service == "llamacloud" else f"of {title}: "
        scene.mocks.script(service, match=match, times=None, **fault)
    scene.end_fault()
    scene.start_workers()
    return Explained(dead_letters=dict.fromkeys(refused, code))


def webhooks(fault: dict[str, Any], scene: Scene, texts: Sequence[str]) -> Explained:
    """What becomes of the webhook of every document."""
    scene.mocks.script("llamacloud", times=None, **fault)
    scene.upload(texts)
    scene.start_workers()
    wait_until(lambda: scene.struck("llamacloud") >= len(texts), "the fault strikes every webhook", 60)
    scene.end_fault()
    scene.afterwards.append(lambda: _wait_for_deliveries(scene))
    return Explained()


def webhooks_by_others(scene: Scene, texts: Sequence[str]) -> Explained:
    """Somebody who does not know the secret says of every parse job that it failed; the true webhooks are lost."""
    scene.mocks.script("llamacloud", "webhook_lost", times=None)
    scene.mocks.script("llamacloud", "parse_delay", times=None, seconds=0.5)
    scene.upload(texts)
    scene.start_workers()
    query = "select parse_job_id from upload_pipeline.upload_jobs where state = 'parse_queued'"
    wait_until(lambda: len(scene.rows(query)) > REFUSED, "documents are at the parser", 60)
    for (job_id,) in scene.rows(query):
        data = {"id": job_id, "job_id": job_id}
        event = {"event_id": f"e-{job_id}", "event_type": "parse.error", "timestamp": 1795447500.1, "data": data}
        signature = {"LC-Signature": "sha256=" + "0" * 64}
        answer = requests.post(f"{scene.url}/webhooks/llamaparse", json=event, headers=signature, timeout=20)
        assert answer.status_code == 401, answer.text
    scene.end_fault()
    return Explained()


def store_behind_a_gate(scene: Scene) -> Gate:
    """Let the scene keep its objects in a bucket that can be made unreachable."""
    s3 = S3Server()
    scene.resources.callback(s3.stop)
    gate = scene.resources.enter_context(Gate(int(s3.url.rpartition(":")[2])).standing())
    scene.changes |= {
        "object_store": "s3",
        "s3_bucket": "documents",
        "s3_endpoint_url": f"http://127.0.0.1:{gate.port}",
        "s3_access_key_id": ACCESS_KEY,
        "s3_secret_access_key": SECRET,
    }
    scene.restart_api()
    return gate


def store_away(strike: Strike | None, scene: Scene, texts: Sequence[str]) -> Explained:
    """The object store can't be reached: while clients upload, or after a worker has died at its place."""
    gate = store_behind_a_gate(scene)
    if strike is None:
        gate.close()
        answer = scene.post(texts[0])
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
        gate.open()
        scene.upload(texts)
        scene.end_fault()
        scene.start_workers()
        return Explained()
    scene.upload(texts)
    doomed = scene.start_worker(strike)
    wait_until(lambda: not doomed.is_alive(), "the worker dies at its place", 60)
    gate.close()
    scene.start_workers()
    waiting = "select 1 from upload_pipeline.upload_jobs where last_error_code = 'store_unavailable'"
    wait_until(lambda: len(scene.rows(waiting)) >= REFUSED, "documents wait for the store", 60)
    gate.open()
    scene.end_fault()
    return Explained(findings=frozenset({Code.BATCH_UNFINISHED}))


def uploaded_by_twenty(scene: Scene, texts: Sequence[str]) -> Explained:
    """Twenty clients upload the same documents at the same instants, one after the other; others upload the rest."""
    together, rest = texts[:REFUSED], texts[REFUSED:]
    barrier = Barrier(TWENTY)

    def client(_: int) -> None:
        for text in together:
            barrier.wait(60)
            scene.upload([text], clients=1)

    scene.start_workers()
    with ThreadPoolExecutor(TWENTY + 1, thread_name_prefix="client") as pool:
        others = pool.submit(scene.upload, rest, clients=CLIENTS // 2)
        list(pool.map(client, range(TWENTY)))
        others.result()
    scene.end_fault()
    return Explained()


@contextmanager
def no_connections(scene: Scene) -> Iterator[None]:
    """The server ends the workers' connections and gives them no other in the block."""
    execute(scene.urls.owner, "alter role ingest_worker connection limit 0")
    try:
        execute(
            scene.urls.owner, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ingest_worker'"
        )
        yield
    finally:
        execute(scene.urls.owner, "alter role ingest_worker connection limit -1")


def connections_used_up(scene: Scene, texts: Sequence[str]) -> Explained:
    """The server has no connection left for workers, and ended those that they had."""
    scene.upload(texts)
    scene.start_workers()
    worker = scene.workers[0]
    wait_until(lambda: scene.looks(worker) > 0, "the workers are at work", 60)
    with no_connections(scene):
        before = scene.looks(worker)
        wait_until(lambda: scene.looks(worker) > before + STRUCK, "the worker tries in vain", 60)
    scene.end_fault()
    return Explained(findings=frozenset({Code.BATCH_UNFINISHED}))


def clocks(workers_seconds: float, api_seconds: float, scene: Scene, texts: Sequence[str]) -> Explained:
    """Processes believe in another time than PostgreSQL and the vendors, and a vendor is ill for a while."""
    scene.mocks.script("openai", "status", operation="create_embeddings", times=None, status=500)
    scene.restart_api(clock_seconds=api_seconds)
    scene.upload(texts)
    scene.start_workers(clock_seconds=workers_seconds)
    _until_struck(scene, "openai")
    return Explained()


def nothing(scene: Scene, texts: Sequence[str]) -> Explained:
    """For comparison."""
    scene.upload(texts)
    scene.end_fault()
    scene.start_workers()
    return Explained()


def _until_struck(scene: Scene, service: Service, times: int = STRUCK) -> None:
    wait_until(lambda: scene.struck(service) >= times, "the fault strikes", 60)
    scene.mocks.control(service, "DELETE", "faults")
    scene.end_fault()


def _wait_for_deliveries(scene: Scene) -> None:
    """Until nothing is under way to the API any more."""

    def are_over() -> bool:
        counted = scene.mocks.control("llamacloud", "GET", "calls")["webhooks"]
        struck = scene.struck("llamacloud")
        ended = sum(counted.get(outcome, 0) for outcome in ("delivered", "given_up", "lost"))
        return ended >= struck

    wait_until(are_over, "all webhooks are delivered", 60)


def _dead_at(method: str) -> Strike:
    return Strike(method, Moment.BEFORE_COMMIT, Deed.DIE)


NO_FAULT = [Cell("all", "no fault", nothing)]
VENDORS = [
    Cell(
        place,
        f"{service} {name}",
        partial(vendor_fails, service, operation, fault),
        {"vendor_timeout_seconds": 1.5} if name == "time-out" else {},
    )
    for place, (service, operation) in VENDOR_CALLS.items()
    for name, fault in FAULTS.items()
]
REFUSALS = [
    Cell(
        "raw_upload → parse_queued",
        "llamacloud refuses 5 files",
        partial(vendor_refuses, "llamacloud", "pdf_is_broken", {"kind": "job_failure", "code": "PDF_IS_BROKEN"}),
    ),
    Cell(
        "embeddings, each answer",
        "openai refuses 5 documents' texts",
        partial(vendor_refuses, "openai", "request_rejected", {"kind": "status", "status": 400}),
    ),
]
WEBHOOKS = [
    *(Cell("webhook → parsed", f"webhook {name}", partial(webhooks, fault)) for name, fault in WEBHOOK_FAULTS.items()),
    Cell(
        "webhook → parsed",
        "webhook before the job is known",
        lambda scene, texts: webhooks({"kind": "webhook_early", "operation": "create_parse_job"}, scene, texts),
    ),
    Cell("webhook → parsed", "webhook forged by others", webhooks_by_others),
]
STORES = [
    Cell("upload → uploaded", "object store unavailable", partial(store_away, None)),
    Cell("raw_upload → parse_queued", "object store unavailable", partial(store_away, _dead_at("parse_submitted"))),
    Cell("parsed → text", "object store unavailable", partial(store_away, _dead_at("parsed"))),
    Cell("text → chunks", "object store unavailable", partial(store_away, _dead_at("chunks_stored"))),
]
OTHERS = [
    *NO_FAULT,
    Cell("upload → uploaded", "the same documents from 20 clients at once", uploaded_by_twenty),
    Cell("all", "no connections left for workers", connections_used_up),
    Cell("all", "pool of one connection", nothing, {"database_connections": 1}),
    Cell("all", "workers' clocks a minute ahead", partial(clocks, 60.0, 0.0)),
    Cell("all", "workers' clocks a minute behind", partial(clocks, -60.0, 0.0)),
    Cell("all", "API's clock a minute ahead", partial(clocks, 0.0, 60.0)),
    Cell("all", "API's clock a minute behind", partial(clocks, 0.0, -60.0)),
]
