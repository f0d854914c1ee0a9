"""Eight processes that claim from both lanes at once, also while some of them are killed or fall silent.

A trigger that only these tests have notes every claim: who took it, and who ended it when.
"""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from claiming_process import ClaimingProcess, Fate
from conftest import DatabaseUrls
from stored_documents import register, sql, wait_for

NOTE_CLAIMS = """
create table public.claims (
    document_id uuid, claim text, taken_by text, ended_by text, ended_at timestamptz, expires_at timestamptz
);
create index on public.claims (document_id, claim);
create function public.note_claim() returns trigger language plpgsql security definer as $$
begin
    if old.claimed_by is not null then
        update public.claims
        set ended_by = current_setting('ingest.actor'), ended_at = clock_timestamp(), expires_at = old.claim_expires_at
        where document_id = old.document_id and claim = old.claimed_by and ended_at is null;
    end if;
    if new.claimed_by is not null then
        insert into public.claims (document_id, claim, taken_by)
        values (new.document_id, new.claimed_by, current_setting('ingest.actor'));
    end if;
    return null;
end $$;
create trigger note_claim after update on upload_pipeline.upload_jobs
for each row when (old.claimed_by is distinct from new.claimed_by) execute function public.note_claim();
"""
BEHIND_THE_PARSER = (
    "update upload_pipeline.upload_jobs set state = 'parse_queued', parse_job_id = 'job', parse_poll_at = now()"
    " where document_id = any(%s)",
    "update upload_pipeline.upload_jobs set state = 'parsed', parse_outcome = 'success' where document_id = any(%s)",
)
UNCLAIMED = "select count(*) from upload_pipeline.upload_jobs where claimed_by is null"
TO_DO = "select count(*) from upload_pipeline.upload_jobs where lane is not null"
# Claims that ended otherwise than by the process that had taken them, though they were still alive then.
CUT_SHORT = "select count(*) from public.claims where ended_by <> taken_by and ended_at <= expires_at"
FINISHED = """
    select count(*), count(distinct document_id) from upload_pipeline.events
    where to_state in ('parse_queued', 'failed_parse') and from_state <> to_state and actor like 'process%%'
"""


@pytest.fixture
def fleet(database_urls: DatabaseUrls) -> Iterator[Callable[..., list[ClaimingProcess]]]:
    """Processes of these fates, with leases of so many seconds; all begin at once."""
    processes: list[ClaimingProcess] = []

    def start(claim_seconds: float, *fates: Fate) -> list[ClaimingProcess]:
        for number, fate in enumerate(fates):
            processes.append(ClaimingProcess(database_urls.worker, f"process {number}", claim_seconds, fate))
        assert {process.said() for process in processes} == {"ready"}
        for process in processes:
            process.begin()
        return processes

    yield start
    for process in processes:
        process.close()


def fill_both_lanes(urls: DatabaseUrls, documents: int) -> None:
    """So many documents that are due, half of them uploaded and half of them parsed."""
    registered = register(urls.owner, sizes=[100] * documents)
    for statement in BEHIND_THE_PARSER:
        sql(urls.owner, statement, (registered[documents // 2 :],))
    sql(urls.owner, NOTE_CLAIMS)


def test_eight_processes_take_five_thousand_documents_each_exactly_once(
    database_urls: DatabaseUrls, fleet: Callable[..., list[ClaimingProcess]]
) -> None:
    fill_both_lanes(database_urls, 5000)
    fleet(600.0, *[Fate(hoards=True)] * 8)
    wait_for(lambda: sql(database_urls.owner, UNCLAIMED) == [(0,)], "all documents to be claimed", 90)
    [(claims, documents, takers, ended)] = sql(
        database_urls.owner,
        "select count(*), count(distinct document_id), count(distinct taken_by), count(ended_at) from public.claims",
    )
    assert (claims, documents, ended) == (5000, 5000, 0)
    assert takers > 4
    batches = "select sum(document_count) from upload_pipeline.ingestion_batches"
    assert sql(database_urls.owner, batches) == [(5000,)]


def test_documents_of_processes_that_die_or_fall_silent_are_finished_once_by_others(
    database_urls: DatabaseUrls, fleet: Callable[..., list[ClaimingProcess]]
) -> None:
    fill_both_lanes(database_urls, 1200)
    dying = [Fate(signal.SIGKILL, batch) for batch in (1, 2, 3)]
    silent = [Fate(signal.SIGSTOP, batch) for batch in (2, 3)]
    processes = fleet(2.0, *dying, *silent, *[Fate()] * 3)
    assert [process.ended_by() for process in processes[:3]] == [signal.SIGKILL] * 3
    wait_for(lambda: sql(database_urls.owner, TO_DO) == [(0,)], "all documents to be finished", 90)
    assert sql(database_urls.owner, FINISHED) == [(1200, 1200)]

    lost_by_the_silent = 0
    for process in processes[3:5]:
        os.kill(process.process.pid or 0, signal.SIGCONT)
        held, lost = process.said()
        assert held == lost > 0
        lost_by_the_silent += lost
    assert sql(database_urls.owner, FINISHED) == [(1200, 1200)]
    [(taken_away,)] = sql(database_urls.owner, "select count(*) from public.claims where ended_by <> taken_by")
    assert taken_away > lost_by_the_silent
    assert sql(database_urls.owner, CUT_SHORT) == [(0,)]
    assert sql(database_urls.owner, "select count(*) from public.claims where ended_at is null") == [(0,)]
