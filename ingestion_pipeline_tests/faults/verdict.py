"""What has to be true of documents once a fault is over and nothing is left to be done, and how it is found out."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import requests

from ingestion_pipeline.adapters.object_store import local_object_store
from ingestion_pipeline.adapters.postgres.connection import Database
from ingestion_pipeline.adapters.postgres.document_store import PostgresDocumentStore
from ingestion_pipeline.adapters.postgres.inventory import PostgresInventory
from ingestion_pipeline.audit.findings import Code
from ingestion_pipeline.audit.run import run_audit
from ingestion_pipeline.audit.services import Audit, Options
from ingestion_pipeline.composition import object_store
from ingestion_pipeline.domain import SETTLED
from ingestion_pipeline.ports import ObjectStore
from ingestion_pipeline.settings import Settings
from ingestion_pipeline_tests.faults.journal import purchases
from ingestion_pipeline_tests.faults.room import Scene

MODEL = "text-embedding-3-small"
UNEVEN = """
    select d.document_id, d.chunk_count, count(c.ordinal), count(distinct c.ordinal), max(c.ordinal) + 1,
        (select count(*) from upload_pipeline.document_vectors as v where v.document_id = d.document_id)
    from upload_pipeline.documents as d
    inner join upload_pipeline.upload_jobs as j on j.document_id = d.document_id and j.state = 'complete'
    left join upload_pipeline.document_chunks as c on c.document_id = d.document_id
    group by d.document_id, d.chunk_count
"""
BUFFERED = """
    select count(*) from upload_pipeline.upload_jobs as j
    where
        j.state = 'complete'
        and exists (select from upload_pipeline.document_chunk_buffer as c where c.document_id = j.document_id)
"""


@dataclass(frozen=True)
class Explained:
    """What a fault is allowed to lead to.

    `dead_letters` are the documents that have to fail, with their code. `findings` are what the audit may find: what it
    is there for after such a fault. `spoiled` says that answers which the fault spoils are paid for, `parse_jobs` how
    many more jobs the parser may have got.
    """

    dead_letters: dict[UUID, str] = field(default_factory=dict)
    findings: frozenset[Code] = frozenset()
    spoiled: bool = False
    parse_jobs: int = 0


@dataclass(frozen=True)
class Verdict:
    """Counts of what is wrong, all 0 if nothing is, but for `paid_twice`, of which `in_flight` are explained."""

    lost: int
    stuck: int
    wrong_fate: int
    uneven: int
    paid_twice: int
    in_flight: int
    parse_jobs_surplus: int
    findings: dict[str, int]
    details: tuple[str, ...]

    def problems(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        counted = {
            "documents lost": self.lost,
            "documents stuck": self.stuck,
            "documents with another end than the fault calls for": self.wrong_fate,
            "documents whose chunks and vectors are not each there once": self.uneven,
            "texts paid for twice that were not in flight": max(0, self.paid_twice - self.in_flight),
            "parse jobs too many": self.parse_jobs_surplus,
            **{f"found by the audit: {code}": count for code, count in self.findings.items()},
        }
        wrong = [f"{what}: {count}" for what, count in counted.items() if count]
        return [*wrong, *self.details] if wrong else []


def judge(scene: Scene, explained: Explained) -> Verdict:
    """Look at everything: rows, what the mocks were asked, what the audit finds."""
    jobs = {
        UUID(str(document_id)): (state, code, parse_round)
        for document_id, state, code, parse_round in scene.rows(
            "select document_id, state, last_error_code, parse_round from upload_pipeline.upload_jobs"
        )
    }
    settled = {state.value for state in SETTLED}
    lost = [str(document_id) for document_id in set(scene.uploaded) ^ set(jobs)]
    stuck = [f"{document_id} {job}" for document_id, job in jobs.items() if job[0] not in settled]
    fates = [
        f"{document_id} is {state} ({code})"
        for document_id, (state, code, _) in jobs.items()
        if state in settled
        and (state, code if state != "complete" else None) != _fate(explained.dead_letters.get(document_id), state)
    ]
    uneven = [f"chunks {row}" for row in scene.rows(UNEVEN) if len(set(row[1:])) != 1]
    [(buffered,)] = scene.rows(BUFFERED)
    asked = scene.mocks.control("openai", "GET", "calls")
    bought = purchases(scene.journal)
    surplus = _parse_jobs(scene)
    surplus.subtract({document_id: parse_round for document_id, (*_, parse_round) in jobs.items()})
    findings = _audit(scene)
    return Verdict(
        lost=len(lost),
        stuck=len(stuck),
        wrong_fate=len(fates),
        uneven=len(uneven) + buffered,
        paid_twice=asked["inputs"] - asked["distinct_inputs"],
        in_flight=bought.unstored + (bought.spoiled if explained.spoiled else 0),
        parse_jobs_surplus=max(0, sum(count for count in surplus.values() if count > 0) - explained.parse_jobs),
        findings={code.value: count for code, count in findings.items() if code not in explained.findings},
        details=tuple([*lost, *stuck, *fates, *uneven][:8]),
    )


def _fate(dead_letter: str | None, state: str) -> tuple[str, str | None]:
    """The state and the code that a document has to have."""
    if dead_letter is None:
        return "complete", None
    return (state if state.startswith("failed_") else "a dead letter"), dead_letter


def _parse_jobs(scene: Scene) -> "Counter[UUID]":
    """How many jobs the parser was given for each document."""
    found: Counter[UUID] = Counter()
    token: str | None = None
    while True:
        answer: dict[str, Any] = requests.get(
            f"{scene.mocks.llamacloud_url}/api/v2/parse",
            params={"page_size": "1000", **({"page_token": token} if token else {})},
            headers={"Authorization": "Bearer llx-mock"},
            timeout=30,
        ).json()
        found.update(UUID(job["user_metadata"]["document_id"]) for job in answer["items"])
        token = answer["next_page_token"]
        if not token:
            return found


def _audit(scene: Scene) -> "Counter[Code]":
    """What `ingest audit` finds, also of what is so young that it would give it time."""
    with closing(Database(scene.urls.worker, application_name="ingest-audit-test")) as database:
        tally = run_audit(
            Audit(
                inventory=PostgresInventory(database),
                documents=PostgresDocumentStore(database, actor="audit", claim_seconds=60),
                objects=_objects(scene),
                partitions=None,
                model=MODEL,
                options=Options(orphan_seconds=0, grace_seconds=0, stall_seconds=0, parsing_seconds=0),
            )
        )
    return tally.found


def _objects(scene: Scene) -> ObjectStore:
    """The store that the scene's processes have."""
    if scene.settings.get("object_store", "local") == "local":
        return local_object_store(scene.objects)
    return object_store(Settings(_env_file=None, **scene.settings))
