-- Operators and applications retry and cancel documents; failures remember when they began.

-- migrate:up

insert into upload_pipeline.state_transitions (from_state, to_state)
values
    -- starting over
    ('failed_chunking', 'uploaded'),
    ('failed_embedding', 'uploaded'),
    -- a cancelled document goes on from what was durable when it was cancelled
    ('cancelled', 'parsed'),
    ('cancelled', 'parse_validated'),
    ('cancelled', 'chunks_stored');

alter table upload_pipeline.upload_jobs
add column failing_since timestamptz, -- the first of the failed attempts that `attempt` counts
add column cancelled_from text check (cancelled_from is null or state = 'cancelled');

update upload_pipeline.upload_jobs
set failing_since = now()
where attempt > 0;

-- Keeps the two columns above in step with `attempt` and `state`, whoever changes those.
create function upload_pipeline.note_course() returns trigger
language plpgsql
as $$
begin
    new.failing_since := case when new.attempt > 0 then coalesce(new.failing_since, now()) end;
    if new.state <> old.state then
        new.cancelled_from := case when new.state = 'cancelled' then old.state end;
    end if;
    return new;
end
$$;

create trigger note_course before update of state, attempt on upload_pipeline.upload_jobs
for each row when (new.state <> old.state or new.attempt <> old.attempt)
execute function upload_pipeline.note_course();

-- Documents with an error, by its code.
create index upload_jobs_failing on upload_pipeline.upload_jobs (owner_id, last_error_code)
where last_error_code is not null;

-- What still follows from a cancellation: a parse job is stopped at the parser, Dagster forgets the partition. A row without
-- parse_job_id is that of a document that was being submitted, so that its job has to be looked for.
create table upload_pipeline.cancellations (
    cancellation_id bigint generated always as identity primary key,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    parse_round integer not null,
    parse_job_id text,
    is_at_parser boolean not null,
    created_at timestamptz not null default now(),
    due_at timestamptz not null,
    settled_at timestamptz
);

create index cancellations_due on upload_pipeline.cancellations (due_at) where settled_at is null;
create index cancellations_by_document on upload_pipeline.cancellations (document_id);

-- Where a settled document is taken up again; null for one that has nothing to retry.
create function upload_pipeline.replay_target(p_state text, p_cancelled_from text, p_start_over boolean) returns text
language sql immutable
as $$
    select case
        when p_state not in ('failed_parse', 'failed_chunking', 'failed_embedding', 'cancelled') then null
        when p_start_over then 'uploaded'
        when coalesce(p_cancelled_from, p_state) = 'parsed' then 'parsed'
        when coalesce(p_cancelled_from, p_state) in ('parse_validated', 'failed_chunking') then 'parse_validated'
        when coalesce(p_cancelled_from, p_state) in (
            'chunks_stored', 'embedding_in_progress', 'embeddings_stored', 'failed_embedding'
        ) then 'chunks_stored'
        else 'uploaded'
    end
$$;

-- Takes a dead letter or a cancelled document up again, from the last state whose writes are durable or from the very beginning
-- (then in a new round of the parser). Returns its state then; null if there is nothing to replay. A claim stays: the run that
-- failed it has not told Dagster yet, and what the next run tells is to come after that.
create function upload_pipeline.replay_document(p_document_id uuid, p_start_over boolean) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    target text;
begin
    select upload_pipeline.replay_target(j.state, j.cancelled_from, p_start_over) into target
    from upload_pipeline.upload_jobs as j
    where j.document_id = p_document_id
    for update;
    if target is null then
        return null;
    end if;
    update upload_pipeline.upload_jobs as j
    set
        state = target,
        attempt = 0,
        next_attempt_at = now(),
        last_error_code = null,
        last_error_message = null,
        last_error_stage = null,
        parse_round = case when target = 'uploaded' then j.parse_round + 1 else j.parse_round end,
        parse_job_id = case when target = 'uploaded' then null else j.parse_job_id end,
        parse_outcome = case when target = 'uploaded' then null else j.parse_outcome end,
        parse_poll_at = case when target = 'uploaded' then null else j.parse_poll_at end
    where j.document_id = p_document_id;
    if target = 'uploaded' then
        update upload_pipeline.documents as d
        set
            parsed_key = null, parsed_sha256 = null, page_numbers = null, page_starts = null, failed_pages = null,
            page_count = null, chunk_count = null, token_count = null
        where d.document_id = p_document_id;
    end if;
    return target;
end
$$;

-- The two actions of applications: on documents of the current owner alone, who appears in the history. They return null for
-- a document that is not the owner's, else whether the document's state allowed the action.

-- A document that waits for its next attempt is due at once; its failed attempts still count.
create function upload_pipeline.retry_document(p_document_id uuid, p_start_over boolean) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    job upload_pipeline.upload_jobs;
    actor constant text := 'owner:' || upload_pipeline.current_owner();
begin
    select j.* into job
    from upload_pipeline.upload_jobs as j
    where j.document_id = p_document_id and j.owner_id = upload_pipeline.current_owner()
    for update;
    if not found then
        return null;
    end if;
    perform set_config('ingest.actor', actor, true);
    if upload_pipeline.replay_document(p_document_id, p_start_over) is not null then
        return true;
    end if;
    if p_start_over or job.lane is null or job.claimed_by is not null or (job.attempt = 0 and job.next_attempt_at <= now()) then
        return false;
    end if;
    update upload_pipeline.upload_jobs as j set next_attempt_at = now() where j.document_id = p_document_id;
    insert into upload_pipeline.events
        (document_id, owner_id, actor, from_state, to_state, correlation_id, attempt, message)
    values (
        p_document_id, job.owner_id, actor, job.state, job.state, job.correlation_id, job.attempt,
        'asked to try again at once'
    );
    return true;
end
$$;

-- Whoever works on the document has lost it, and notices at the next write. Cancelling what is cancelled changes nothing.
create function upload_pipeline.cancel_document(p_document_id uuid) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    job upload_pipeline.upload_jobs;
begin
    select j.* into job
    from upload_pipeline.upload_jobs as j
    where j.document_id = p_document_id and j.owner_id = upload_pipeline.current_owner()
    for update;
    if not found then
        return null;
    end if;
    if job.state in ('complete', 'cancelled') then
        return job.state = 'cancelled';
    end if;
    perform set_config('ingest.actor', 'owner:' || upload_pipeline.current_owner(), true);
    update upload_pipeline.upload_jobs as j
    set
        state = 'cancelled',
        attempt = 0,
        last_error_code = null,
        last_error_message = null,
        last_error_stage = null,
        claimed_by = null,
        claim_expires_at = null
    where j.document_id = p_document_id;
    insert into upload_pipeline.cancellations (document_id, parse_round, parse_job_id, is_at_parser, due_at)
    values (
        p_document_id,
        job.parse_round,
        job.parse_job_id,
        (job.state = 'parse_queued' and job.parse_outcome is null)
        or (job.state = 'uploaded' and (job.claimed_by is not null or job.attempt > 0)),
        coalesce(job.claim_expires_at, now()) -- by then a run that has it is done with what it was about to write
    );
    return true;
end
$$;

grant select on upload_pipeline.cancellations to ingest_worker;
grant update (due_at, settled_at) on upload_pipeline.cancellations to ingest_worker;

revoke execute on function
    upload_pipeline.note_course(), upload_pipeline.replay_target(text, text, boolean),
    upload_pipeline.replay_document(uuid, boolean), upload_pipeline.retry_document(uuid, boolean),
    upload_pipeline.cancel_document(uuid)
from public;
grant execute on function
    upload_pipeline.replay_target(text, text, boolean), upload_pipeline.replay_document(uuid, boolean)
to ingest_worker;
grant execute on function upload_pipeline.retry_document(uuid, boolean), upload_pipeline.cancel_document(uuid) to ingest_api;

-- migrate:down

drop function upload_pipeline.cancel_document(uuid);
drop function upload_pipeline.retry_document(uuid, boolean);
drop function upload_pipeline.replay_document(uuid, boolean);
drop function upload_pipeline.replay_target(text, text, boolean);
drop table upload_pipeline.cancellations;
drop index upload_pipeline.upload_jobs_failing;
drop trigger note_course on upload_pipeline.upload_jobs;
drop function upload_pipeline.note_course();
alter table upload_pipeline.upload_jobs drop column cancelled_from, drop column failing_since;
delete from upload_pipeline.state_transitions
where
    (from_state, to_state) in (
        ('failed_chunking', 'uploaded'),
        ('failed_embedding', 'uploaded'),
        ('cancelled', 'parsed'),
        ('cancelled', 'parse_validated'),
        ('cancelled', 'chunks_stored')
    );
