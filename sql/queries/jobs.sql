-- What sensors and runs do with jobs. Every write of a run names its claim: a run that lost it changes nothing.

-- name: claim_batch
-- Takes the documents that are due in a lane, oldest first, up to a number and a size (a single document may be larger), for which
-- each counts its bytes and a fixed number more. Whoever claims them gives each a partition in Dagster.
with candidates as materialized (
    select
        j.document_id,
        j.next_attempt_at
    from upload_pipeline.upload_jobs as j
    where j.lane = :lane and j.claimed_by is null and j.next_attempt_at <= now()
    order by j.next_attempt_at
    limit :max_documents
    for update skip locked
),

sized as (
    select
        c.document_id,
        sum(d.size_bytes + :document_bytes) over (order by c.next_attempt_at, c.document_id)
        - d.size_bytes - :document_bytes as bytes_before
    from candidates as c
    inner join upload_pipeline.documents as d on d.document_id = c.document_id
),

batch as (
    insert into upload_pipeline.ingestion_batches (batch_id, lane, document_count)
    select
        :batch_id,
        :lane,
        count(*)
    from sized
    where bytes_before < :max_bytes
    having count(*) > 0
)

update upload_pipeline.upload_jobs as j
set claimed_by = :claim, claim_expires_at = now() + make_interval(secs => :claim_seconds), retired_at = null
from sized as s
where j.document_id = s.document_id and s.bytes_before < :max_bytes
returning j.document_id, j.correlation_id;

-- name: active_batches^
-- How many claims of a lane are being worked on or wait for their run.
select count(distinct j.claimed_by) as batches
from upload_pipeline.upload_jobs as j
where j.claimed_by is not null and j.lane = :lane;

-- name: due_documents^
-- How many documents are due in a lane and their bytes, counted no further than `most` documents.
select
    count(*) as documents,
    coalesce(sum(d.size_bytes), 0)::bigint as bytes
from (
    select j.document_id
    from upload_pipeline.upload_jobs as j
    where j.lane = :lane and j.claimed_by is null and j.next_attempt_at <= now()
    order by j.next_attempt_at
    limit :most
) as due
cross join lateral (
    select o.size_bytes from upload_pipeline.documents as o
    where o.document_id = due.document_id offset 0
) as d;

-- name: claim_documents
-- Takes given documents, for a run that an operator started, unless another run has them. Here and below, rows are locked in
-- one order wherever a statement waits for several, so that no two of them wait for each other.
with wanted as materialized (
    select w.document_id
    from upload_pipeline.upload_jobs as w
    where
        w.document_id = any(:document_ids::uuid[])
        and (w.lane is not null or w.state in ('complete', 'failed_parse', 'failed_chunking', 'failed_embedding'))
        and (w.claimed_by is null or w.claimed_by = :claim or w.claim_expires_at < now())
    order by w.document_id
    for update
)

update upload_pipeline.upload_jobs as j
set claimed_by = :claim, claim_expires_at = now() + make_interval(secs => :claim_seconds)
from wanted
where j.document_id = wanted.document_id
returning j.document_id;

-- name: renew_claim
-- Keeps what a run still holds, for so long; for 0 seconds, it goes back as what a run held that died.
with held as materialized (
    select h.document_id
    from upload_pipeline.upload_jobs as h
    where h.claimed_by = :claim
    order by h.document_id
    for update
)

update upload_pipeline.upload_jobs as j
set claim_expires_at = now() + make_interval(secs => :claim_seconds)
from held
where j.document_id = held.document_id
returning j.document_id;

-- name: release_claim!
-- Hands back what a run holds: given documents, or all of them. Of the settled ones among all, Dagster may not have been told: their
-- claim expires at once, so that another run does it.
with held as materialized (
    select h.document_id
    from upload_pipeline.upload_jobs as h
    where h.claimed_by = :claim and (:document_ids::uuid[] is null or h.document_id = any(:document_ids::uuid[]))
    order by h.document_id
    for update
)

update upload_pipeline.upload_jobs as j
set
    claimed_by = case when j.lane is null and :document_ids::uuid[] is null then j.claimed_by end,
    claim_expires_at = case when j.lane is null and :document_ids::uuid[] is null then now() end
from held
where j.document_id = held.document_id;

-- name: release_expired_claims
-- The documents of runs that died go back to the queue; of those that are settled, Dagster may not know yet. A death counts as
-- a failed attempt: the next one looks for what this one may have begun, and a document that kills its runs waits longer each time.
update upload_pipeline.upload_jobs as j
set
    claimed_by = null,
    claim_expires_at = null,
    attempt = case when j.lane is null then j.attempt else j.attempt + 1 end,
    next_attempt_at = case
        when j.lane is null then j.next_attempt_at
        else now() + make_interval(secs => least(300, power(2, least(j.attempt, 10))))
    end,
    last_error_code = case when j.lane is null then j.last_error_code else 'worker_lost' end,
    last_error_message = case when j.lane is null then j.last_error_message else 'the run that had this document died' end,
    last_error_stage = case when j.lane is null then j.last_error_stage else j.lane end
from (
    select e.document_id
    from upload_pipeline.upload_jobs as e
    where e.claimed_by is not null and e.claim_expires_at < now()
    order by e.claim_expires_at
    limit 1000 -- one run tells Dagster of those that are settled; the next look takes the next ones
    for update skip locked
) as expired
where j.document_id = expired.document_id
returning j.document_id, j.state;

-- name: load_documents
-- Documents with their jobs, as the stages need them.
select
    d.document_id, d.owner_id, d.filename, d.content_type, d.size_bytes, d.sha256, d.object_key,
    j.state, j.attempt, j.failing_since, j.correlation_id, j.parse_round, j.parse_job_id, j.parse_outcome,
    d.parsed_key, d.parsed_sha256, d.page_numbers, d.page_starts, d.failed_pages, d.page_count, d.chunk_count, d.token_count,
    j.last_error_code, j.last_error_message, j.last_error_stage
from upload_pipeline.documents as d
inner join upload_pipeline.upload_jobs as j on j.document_id = d.document_id
where d.document_id = any(:document_ids::uuid[])
order by j.next_attempt_at, d.document_id;

-- name: hold_claim
-- Keeps jobs that a run is about to write for from moving on, and returns those that are no longer its own. Writes for one document
-- do not wait for each other.
with held as materialized (
    select j.document_id
    from upload_pipeline.upload_jobs as j
    where j.document_id = any(:document_ids::uuid[]) and j.claimed_by = :claim
    order by j.document_id
    for share
)

select w.document_id from unnest(:document_ids::uuid[]) as w (document_id)
except
select h.document_id from held as h;

-- name: advance
-- A step forward, in the transaction of the write that justifies it; returns those that are no longer the run's, or moved on. The
-- claim stays, at the end until Dagster has been told.
with held as materialized (
    select h.document_id
    from upload_pipeline.upload_jobs as h
    where h.document_id = any(:document_ids::uuid[]) and h.claimed_by = :claim and h.state = :from_state
    order by h.document_id
    for update
),

advanced as (
    update upload_pipeline.upload_jobs as j
    set
        state = :to_state,
        attempt = 0,
        next_attempt_at = now(),
        last_error_code = null,
        last_error_message = null,
        last_error_stage = null
    from held
    where j.document_id = held.document_id
    returning j.document_id
)

select w.document_id from unnest(:document_ids::uuid[]) as w (document_id)
except
select a.document_id from advanced as a;

-- name: lock_parse_job^
-- The submitter and the webhook of one parse job take turns, so that neither misses the other.
select pg_advisory_xact_lock(hashtextextended(:parse_job_id, 0));

-- name: record_parse_submitted!
-- The parser has the document; nobody works on it until the parser is done.
update upload_pipeline.upload_jobs as j
set
    state = 'parse_queued',
    parse_job_id = :parse_job_id,
    parse_outcome = null,
    parse_poll_at = now() + make_interval(secs => :poll_seconds),
    attempt = 0,
    last_error_code = null,
    last_error_message = null,
    last_error_stage = null,
    claimed_by = null,
    claim_expires_at = null
where j.document_id = :document_id and j.claimed_by = :claim and j.state = 'uploaded';

-- name: earlier_outcome^
-- What the parser's webhook said before submitting had returned.
select w.outcome
from upload_pipeline.webhook_deliveries as w
where w.parse_job_id = :parse_job_id and w.outcome is not null
order by w.received_at desc
limit 1;

-- name: apply_parse_outcome^
-- How a parse job ended, found by asking.
select upload_pipeline.apply_parse_outcome(:parse_job_id, :outcome) as applied;

-- name: overdue_parse_jobs
-- Parse jobs whose webhook should have come; each is looked at by one process at a time.
with overdue as materialized (
    select o.document_id
    from upload_pipeline.upload_jobs as o
    where o.state = 'parse_queued' and o.parse_outcome is null and o.parse_poll_at <= now()
    order by o.parse_poll_at
    limit :max_documents
    for update skip locked
)

update upload_pipeline.upload_jobs as j
set parse_poll_at = now() + make_interval(secs => :poll_seconds)
from overdue
where j.document_id = overdue.document_id
returning j.document_id, j.parse_job_id;

-- name: resubmit!
-- The parser lost the job or its result: back to the start, under a new round so that the old job is not taken for the new.
update upload_pipeline.upload_jobs as j
set
    state = 'uploaded',
    parse_round = j.parse_round + 1,
    parse_job_id = null,
    parse_outcome = null,
    parse_poll_at = null,
    attempt = j.attempt + 1,
    next_attempt_at = now() + make_interval(secs => :delay_seconds),
    last_error_code = :code,
    last_error_message = :message,
    last_error_stage = :stage,
    claimed_by = null,
    claim_expires_at = null
where
    j.document_id = :document_id
    and j.state in ('parse_queued', 'parsed')
    and j.claimed_by is not distinct from :claim;

-- name: record_retry!
-- A transient failure: the same work again later.
update upload_pipeline.upload_jobs as j
set
    attempt = j.attempt + 1,
    next_attempt_at = now() + make_interval(secs => :delay_seconds),
    last_error_code = :code,
    last_error_message = :message,
    last_error_stage = :stage,
    claimed_by = null,
    claim_expires_at = null
where j.document_id = :document_id and j.claimed_by = :claim;

-- name: record_postponement!
-- The work waits for what is no fault of the document: later again, without a failed attempt.
update upload_pipeline.upload_jobs as j
set
    attempt = :attempt,
    next_attempt_at = now() + make_interval(secs => :delay_seconds),
    last_error_code = :code,
    last_error_message = :message,
    last_error_stage = :stage,
    claimed_by = null,
    claim_expires_at = null
where j.document_id = :document_id and j.claimed_by = :claim;

-- name: record_dead_letter!
-- A permanent failure, or attempts used up. The claim stays until Dagster has been told.
update upload_pipeline.upload_jobs as j
set
    state = :to_state,
    attempt = j.attempt + 1,
    last_error_code = :code,
    last_error_message = :message,
    last_error_stage = :stage
where j.document_id = :document_id and j.claimed_by = :claim and j.state = :from_state;

-- name: replay^
-- A dead letter or a cancelled document goes back to the last state whose writes are durable, or to the start.
select upload_pipeline.replay_document(j.document_id, :start_over) as state
from upload_pipeline.upload_jobs as j
where j.document_id = :document_id and j.state = :from_state;

-- name: due_cancellations
-- Cancelled documents whose parse job is to be stopped and whose partition is to go; each is looked at by one process at a time.
with due as materialized (
    select d.cancellation_id
    from upload_pipeline.cancellations as d
    where d.settled_at is null and d.due_at <= now()
    order by d.due_at
    limit :max_documents
    for update skip locked
)

update upload_pipeline.cancellations as c
set due_at = now() + make_interval(secs => :again_seconds)
from due
where c.cancellation_id = due.cancellation_id
returning c.cancellation_id, c.document_id, c.parse_round, c.parse_job_id, c.is_at_parser;

-- name: settle_cancellation!
-- Nothing more follows from it.
update upload_pipeline.cancellations as c
set settled_at = now()
where c.cancellation_id = :cancellation_id;

-- name: finish_batch!
-- The run of a batch is over.
update upload_pipeline.ingestion_batches as b
set finished_at = now(), failed_count = :failed_count
where b.batch_id = :batch_id;

-- name: listen_for_work!
-- The trigger announce_work sends the lane as payload.
listen ingest_work;
