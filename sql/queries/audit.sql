-- What the audit reads and mends. It takes the documents in the order of their ids, in short transactions.

-- name: count_documents^
-- For the progress.
select count(*) as documents
from upload_pipeline.documents;

-- name: documents_after
-- The next documents, with the sizes of their files.
select
    d.document_id,
    d.size_bytes
from upload_pipeline.documents as d
where d.document_id > :after
order by d.document_id
limit :limit;

-- name: document_facts
-- What the rows say of documents: one snapshot, so that a run at work is never seen half-way. A vector belongs to the text whose
-- hash it has: those that fit no served chunk are counted as outdated.
select
    d.document_id, d.owner_id, d.size_bytes, d.sha256, d.object_key, d.parsed_key, d.parsed_sha256,
    d.page_numbers, d.page_starts, d.chunk_count, d.content_sha256, d.embedding_model,
    j.state, j.state_changed_at, j.last_error_stage,
    extract(epoch from now() - j.state_changed_at)::float as unchanged_seconds,
    j.claimed_by is not null as is_claimed,
    j.retired_at is not null as is_retired,
    coalesce(j.owner_id <> d.owner_id, false) as has_foreign_job,
    buffered.chunks as buffered_chunks,
    buffered.altered as buffered_altered,
    buffered.vectors as buffered_vectors,
    buffered.unfit as buffered_unfit,
    buffered.foreign_rows as buffered_foreign_rows,
    served.chunks as served_chunks,
    served.altered as served_altered,
    served.vectors as served_vectors,
    served.unfit as served_unfit,
    served.foreign_rows as served_foreign_rows,
    served.fingerprint as served_sha256,
    served.recorded_fingerprint as served_recorded_sha256,
    outdated.vectors as outdated_vectors
from upload_pipeline.documents as d
left join upload_pipeline.upload_jobs as j on j.document_id = d.document_id
cross join lateral (
    select
        count(*) as chunks,
        count(*) filter (where sha256(convert_to(b.text, 'UTF8')) <> b.chunk_sha256) as altered,
        count(v.chunk_id) as vectors,
        count(*) filter (where v.is_unfit) as unfit,
        count(*) filter (where b.owner_id <> d.owner_id or v.is_foreign) as foreign_rows
    from upload_pipeline.document_chunk_buffer as b
    left join lateral (
        select
            w.chunk_id,
            bool_or(not upload_pipeline.is_unit(w.embedding)) as is_unfit,
            bool_or(w.owner_id <> d.owner_id) as is_foreign
        from upload_pipeline.document_vectors as w
        where w.document_id = d.document_id and w.chunk_id = b.chunk_id and w.chunk_sha256 = b.chunk_sha256
        group by w.chunk_id
    ) as v on true
    where b.document_id = d.document_id
) as buffered
cross join lateral (
    select
        count(*) as chunks,
        count(*) filter (where s.text_sha256 <> s.chunk_sha256) as altered,
        count(s.vector_sha256) as vectors,
        count(*) filter (where s.is_unfit) as unfit,
        count(*) filter (where s.is_foreign) as foreign_rows,
        sha256(string_agg(uuid_send(s.chunk_id) || s.text_sha256 || s.vector_sha256, ''::bytea order by s.ordinal))
            as fingerprint,
        sha256(string_agg(uuid_send(s.chunk_id) || s.chunk_sha256 || s.vector_sha256, ''::bytea order by s.ordinal))
            as recorded_fingerprint
    from (
        select
            c.chunk_id,
            c.ordinal,
            c.chunk_sha256,
            sha256(convert_to(c.text, 'UTF8')) as text_sha256,
            sha256(upload_pipeline.vector_bytes(v.embedding)) as vector_sha256,
            not upload_pipeline.is_unit(v.embedding) as is_unfit,
            c.owner_id <> d.owner_id or v.owner_id <> d.owner_id as is_foreign
        from upload_pipeline.document_chunks as c
        left join upload_pipeline.document_vectors as v
            on
                v.document_id = d.document_id
                and v.chunk_id = c.chunk_id
                and v.model = d.embedding_model
                and v.chunk_sha256 = c.chunk_sha256
        where c.document_id = d.document_id
        offset 0 -- each hash is computed once
    ) as s
) as served
cross join lateral (
    select count(*) as vectors
    from upload_pipeline.document_vectors as v
    where
        v.document_id = d.document_id
        and not exists (
            select from upload_pipeline.document_chunks as c
            where c.chunk_id = v.chunk_id and c.chunk_sha256 = v.chunk_sha256 offset 0
        )
) as outdated
where d.document_id = any(:document_ids::uuid[]);

-- name: served_marks
-- Where the served chunks of a document lie in its text.
select
    c.ordinal, c.start_offset, c.end_offset, c.chunk_sha256
from upload_pipeline.document_chunks as c
where c.document_id = :document_id
order by c.ordinal;

-- name: buffered_marks
-- Likewise those of the buffer.
select
    b.ordinal, b.start_offset, b.end_offset, b.chunk_sha256
from upload_pipeline.document_chunk_buffer as b
where b.document_id = :document_id
order by b.ordinal;

-- name: existing_documents
-- Which of these ids are documents.
select d.document_id
from upload_pipeline.documents as d
where d.document_id = any(:document_ids::uuid[]);

-- name: objects_in_use
-- Which of these keys a row refers to as an uploaded file.
select k.key
from unnest(:keys::text[]) as k (key)
where exists (select from upload_pipeline.documents as d where d.object_key = k.key);

-- name: texts_in_use
-- Which of these parsed texts may still be needed: those that their document refers to or, as long as a run may work on it, could
-- refer to in a moment.
select k.key
from unnest(:keys::text[], :document_ids::uuid[]) as k (key, document_id)
inner join upload_pipeline.documents as d on d.document_id = k.document_id
inner join upload_pipeline.upload_jobs as j on j.document_id = d.document_id
where
    d.parsed_key = k.key
    or j.claimed_by is not null
    or j.state not in ('complete', 'failed_parse', 'failed_chunking', 'failed_embedding', 'cancelled');

-- name: texts_referred_to
-- The same of keys that do not tell their document. Reads all rows, so it is for those that nothing else knows.
select d.parsed_key as key
from upload_pipeline.documents as d
where d.parsed_key = any(:keys);

-- name: jobs_without_document
-- The foreign key forbids them; a restore that was done without it may bring them.
select j.document_id
from upload_pipeline.upload_jobs as j
where not exists (select from upload_pipeline.documents as d where d.document_id = j.document_id)
limit :limit;

-- name: drop_job_without_document!
-- There is nothing that it could work on.
delete from upload_pipeline.upload_jobs as j
where
    j.document_id = :document_id
    and not exists (select from upload_pipeline.documents as d where d.document_id = j.document_id);

-- name: shared_objects
-- Files that several documents refer to.
select
    d.object_key as subject,
    array_agg(d.document_id order by d.document_id) as document_ids
from upload_pipeline.documents as d
group by d.object_key
having count(*) > 1
limit :limit;

-- name: shared_parse_jobs
-- Parse jobs whose result several documents would take.
select
    j.parse_job_id as subject,
    array_agg(j.document_id order by j.document_id) as document_ids
from upload_pipeline.upload_jobs as j
where j.parse_job_id is not null
group by j.parse_job_id
having count(*) > 1
limit :limit;

-- name: lost_claims
-- What dead runs hold, though it should have been given back long ago.
select
    j.document_id,
    j.claimed_by,
    j.claim_expires_at
from upload_pipeline.upload_jobs as j
where j.claimed_by is not null and j.claim_expires_at < now() - make_interval(secs => :seconds)
order by j.claim_expires_at
limit :limit;

-- name: mark_untold
-- Has the reconcile sensor tell Dagster of settled documents: it takes up expired claims.
update upload_pipeline.upload_jobs as j
set claimed_by = 'audit', claim_expires_at = now()
where
    j.document_id = any(:document_ids::uuid[])
    and j.claimed_by is null
    and j.state in ('complete', 'failed_parse', 'failed_chunking', 'failed_embedding')
returning j.document_id;

-- name: unfinished_batches
-- Batches whose run never said that it was over, and that hold nothing any more.
select
    b.batch_id,
    b.created_at
from upload_pipeline.ingestion_batches as b
where
    b.finished_at is null
    and b.created_at < now() - make_interval(secs => :seconds)
    and not exists (select from upload_pipeline.upload_jobs as j where j.claimed_by = b.batch_id::text)
order by b.created_at
limit :limit;

-- name: close_batch!
-- How many of its documents failed is not known.
update upload_pipeline.ingestion_batches as b
set finished_at = now()
where b.batch_id = :batch_id and b.finished_at is null;

-- name: stalled_lanes
-- Lanes in which documents have been due for long while nobody took a batch or works on one.
select
    j.lane,
    count(*) as documents,
    min(j.next_attempt_at) as due_since
from upload_pipeline.upload_jobs as j
where
    j.lane is not null
    and j.claimed_by is null
    and j.next_attempt_at < now() - make_interval(secs => :seconds)
    and not exists (
        select from upload_pipeline.ingestion_batches as b
        where b.lane = j.lane and b.created_at > now() - make_interval(secs => :seconds)
    )
    and not exists (
        select from upload_pipeline.upload_jobs as c
        where c.lane = j.lane and c.claimed_by is not null and c.claim_expires_at > now()
    )
group by j.lane
order by j.lane;

-- name: unasked_parse_jobs^
-- Parse jobs that nobody asked for though their time came long ago.
select
    count(*) as documents,
    min(j.parse_poll_at) as due_since
from upload_pipeline.upload_jobs as j
where
    j.state = 'parse_queued'
    and j.parse_outcome is null
    and j.parse_poll_at < now() - make_interval(secs => :seconds);

-- name: endless_parse_jobs
-- Documents whose parse job has not ended for so long that its result would be gone.
select
    j.document_id,
    j.parse_job_id,
    j.state_changed_at
from upload_pipeline.upload_jobs as j
where
    j.state = 'parse_queued'
    and j.parse_outcome is null
    and j.state_changed_at < now() - make_interval(secs => :seconds)
order by j.state_changed_at
limit :limit;

-- name: hold_unmoved_job^
-- Locks the job of a document that is as the audit saw it and that no run has; nobody can claim it before the transaction ends.
select j.document_id
from upload_pipeline.upload_jobs as j
where
    j.document_id = :document_id
    and j.state = :state
    and j.state_changed_at = :state_changed_at
    and j.claimed_by is null
for update;

-- name: enqueue_forgotten!
-- A job for a document that has none: it begins anew.
insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id)
select
    d.document_id,
    d.owner_id,
    gen_random_uuid()
from upload_pipeline.documents as d
where d.document_id = :document_id
on conflict do nothing;

-- name: adopt_job!
-- The job belongs to whom the document belongs to.
update upload_pipeline.upload_jobs as j
set owner_id = d.owner_id
from upload_pipeline.documents as d
where j.document_id = :document_id and d.document_id = j.document_id;

-- name: drop_served_vectors!
-- Vectors of which it is not known that they are right: they would be reused. Those that a document at work has bought stay.
delete from upload_pipeline.document_vectors as v
where
    v.document_id = :document_id
    and not exists (
        select from upload_pipeline.upload_jobs as j
        inner join upload_pipeline.document_chunk_buffer as b on b.document_id = j.document_id
        where
            j.document_id = v.document_id
            and j.state <> 'complete'
            and b.chunk_id = v.chunk_id
            and b.chunk_sha256 = v.chunk_sha256
    );

-- name: drop_unfit_vectors!
-- Vectors of a document that are not of unit length or another owner's.
delete from upload_pipeline.document_vectors as v
using upload_pipeline.documents as d
where
    v.document_id = :document_id
    and d.document_id = v.document_id
    and (v.owner_id <> d.owner_id or not upload_pipeline.is_unit(v.embedding));

-- name: set_aside!
-- What is stored of a document at work is damaged: a dead letter, from which the same transaction sends it back.
update upload_pipeline.upload_jobs as j
set state = :to_state, last_error_code = 'integrity_mismatch', last_error_message = :message, last_error_stage = :stage
where j.document_id = :document_id;

-- name: send_back!
-- To an earlier state, as if the document had just come there; to the first one in a new round of the parser.
update upload_pipeline.upload_jobs as j
set
    state = :to_state,
    attempt = 0,
    next_attempt_at = now(),
    last_error_code = null,
    last_error_message = null,
    last_error_stage = null,
    parse_round = case when :to_state = 'uploaded' then j.parse_round + 1 else j.parse_round end,
    parse_job_id = case when :to_state = 'uploaded' then null else j.parse_job_id end,
    parse_outcome = case when :to_state = 'uploaded' then null else j.parse_outcome end,
    parse_poll_at = case when :to_state = 'uploaded' then null else j.parse_poll_at end
where j.document_id = :document_id;

-- name: reopen!
-- A document that goes back is no longer complete; search serves what is right of it meanwhile.
update upload_pipeline.documents as d
set completed_at = null
where d.document_id = :document_id and d.completed_at is not null;
