-- The schema is the first line of defence: states, constraints, history, ownership.
-- Works on PostgreSQL 15 and later with pgvector 0.7 and later.

-- migrate:up

do $$
begin
    create extension if not exists vector;
exception
    when insufficient_privilege then
        raise exception 'role % may not install pgvector: let a superuser run CREATE EXTENSION vector in this database',
            current_user using errcode = 'insufficient_privilege';
end
$$;

create schema upload_pipeline;

-- Roles belong to the whole server, so they may be there already, and be another role's to alter. They get their passwords
-- outside of migrations. pgvector may live in a schema of its own (on Supabase: extensions).
do $$
begin
    if not exists (select from pg_roles where rolname = 'ingest_worker') then
        create role ingest_worker nologin;
        alter role ingest_worker set search_path = public, extensions;
    end if;
    if not exists (select from pg_roles where rolname = 'ingest_api') then
        create role ingest_api nologin;
        alter role ingest_api set search_path = public, extensions;
    end if;
exception
    when duplicate_object or unique_violation then null; -- another database of this server is migrated at this moment
end
$$;

-- Dagster's own tables: the workers run Dagster, so they own them.
create schema dagster;
grant usage, create on schema dagster to ingest_worker;

-- The owner for whom the current transaction acts. Supabase sets the same claims for its users' requests.
create function upload_pipeline.current_owner() returns uuid
language sql stable
as $$
    select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

-- Which state may follow which. domain.TRANSITIONS mirrors these rows.
create table upload_pipeline.state_transitions (
    from_state text not null,
    to_state text not null,
    primary key (from_state, to_state)
);

insert into upload_pipeline.state_transitions (from_state, to_state)
values
    ('uploaded', 'parse_queued'),
    ('parse_queued', 'parsed'),
    ('parsed', 'parse_validated'),
    ('parse_validated', 'chunks_stored'),
    ('chunks_stored', 'embedding_in_progress'),
    ('embedding_in_progress', 'embeddings_stored'),
    ('embeddings_stored', 'complete'),
    -- a parse job that the vendor lost is submitted anew
    ('parse_queued', 'uploaded'),
    ('parsed', 'uploaded'),
    -- dead letters
    ('uploaded', 'failed_parse'),
    ('parse_queued', 'failed_parse'),
    ('parsed', 'failed_parse'),
    ('parse_validated', 'failed_chunking'),
    ('chunks_stored', 'failed_embedding'),
    ('embedding_in_progress', 'failed_embedding'),
    ('embeddings_stored', 'failed_embedding'),
    -- replays, to the last state whose writes are durable
    ('failed_parse', 'uploaded'),
    ('failed_chunking', 'parse_validated'),
    ('failed_embedding', 'chunks_stored'),
    ('cancelled', 'uploaded'),
    -- cancelling
    ('uploaded', 'cancelled'),
    ('parse_queued', 'cancelled'),
    ('parsed', 'cancelled'),
    ('parse_validated', 'cancelled'),
    ('chunks_stored', 'cancelled'),
    ('embedding_in_progress', 'cancelled'),
    ('embeddings_stored', 'cancelled'),
    ('failed_parse', 'cancelled'),
    ('failed_chunking', 'cancelled'),
    ('failed_embedding', 'cancelled');

-- What a user uploaded, and what the stages learnt of it.
create table upload_pipeline.documents (
    document_id uuid primary key,
    owner_id uuid not null,
    filename text not null check (filename <> '' and octet_length(filename) <= 255),
    content_type text not null,
    size_bytes bigint not null check (size_bytes > 0),
    sha256 bytea not null check (octet_length(sha256) = 32),
    object_key text not null,
    parsed_key text,
    parsed_sha256 bytea check (octet_length(parsed_sha256) = 32),
    page_numbers integer[],
    page_starts integer[],
    failed_pages integer[],
    page_count integer check (page_count >= 0),
    chunk_count integer check (chunk_count >= 0),
    token_count bigint check (token_count >= 0),
    content_sha256 bytea check (octet_length(content_sha256) = 32),
    embedding_model text,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    unique (owner_id, sha256),
    check (cardinality(page_numbers) = cardinality(page_starts)),
    check ((parsed_key is null) = (parsed_sha256 is null)),
    check (completed_at is null or (chunk_count > 0 and content_sha256 is not null and embedding_model is not null))
);

create index documents_by_owner on upload_pipeline.documents (owner_id, created_at desc, document_id desc);

-- One job a document: where it is, who works on it, when it is due.
create table upload_pipeline.upload_jobs (
    document_id uuid primary key references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    correlation_id uuid not null,
    state text not null default 'uploaded' check (
        state in (
            'uploaded', 'parse_queued', 'parsed', 'parse_validated', 'chunks_stored', 'embedding_in_progress',
            'embeddings_stored', 'complete', 'failed_parse', 'failed_chunking', 'failed_embedding', 'cancelled'
        )
    ),
    state_changed_at timestamptz not null default now(),
    attempt integer not null default 0 check (attempt >= 0),
    next_attempt_at timestamptz not null default now(),
    last_error_code text,
    last_error_message text,
    last_error_stage text,
    claimed_by text,
    claim_expires_at timestamptz,
    parse_round integer not null default 1 check (parse_round >= 1),
    parse_job_id text,
    parse_outcome text check (parse_outcome in ('success', 'partial_success', 'error', 'cancelled')),
    parse_poll_at timestamptz,
    created_at timestamptz not null default now(),
    -- Which run is to take the document up next; null while it waits for the parser or is settled.
    lane text generated always as (
        case
            when state = 'uploaded' then 'submit'
            when state = 'parse_queued' and parse_outcome is not null then 'process'
            when state in (
                'parsed', 'parse_validated', 'chunks_stored', 'embedding_in_progress', 'embeddings_stored'
            ) then 'process'
        end
    ) stored,
    check ((claimed_by is null) = (claim_expires_at is null)),
    check (claimed_by is null or state not in ('parse_queued', 'cancelled') or parse_outcome is not null),
    check (state not in ('failed_parse', 'failed_chunking', 'failed_embedding') or last_error_code is not null),
    check (state <> 'complete' or last_error_code is null),
    check (state not in ('parse_queued', 'parsed') or parse_job_id is not null),
    check (state <> 'parse_queued' or parse_poll_at is not null),
    check (state <> 'parsed' or coalesce(parse_outcome, '') in ('success', 'partial_success'))
);

-- What each poller asks for, and nothing more.
create index upload_jobs_ready on upload_pipeline.upload_jobs (lane, next_attempt_at)
where lane is not null and claimed_by is null;
create index upload_jobs_claimed on upload_pipeline.upload_jobs (claimed_by) where claimed_by is not null;
create index upload_jobs_claim_expiry on upload_pipeline.upload_jobs (claim_expires_at) where claimed_by is not null;
create index upload_jobs_parse_overdue on upload_pipeline.upload_jobs (parse_poll_at)
where state = 'parse_queued' and parse_outcome is null;
create index upload_jobs_parse_job on upload_pipeline.upload_jobs (parse_job_id) where parse_job_id is not null;
create index upload_jobs_by_owner_state on upload_pipeline.upload_jobs (owner_id, state);

-- The history of every document: written by the trigger below, by nobody else.
create table upload_pipeline.events (
    event_id bigint generated always as identity primary key,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    from_state text,
    to_state text not null,
    correlation_id uuid not null,
    attempt integer not null,
    error_code text,
    message text
);

create index events_by_document on upload_pipeline.events (document_id, event_id);

create function upload_pipeline.guard_transition() returns trigger
language plpgsql
as $$
begin
    if tg_op = 'INSERT' then
        if new.state <> 'uploaded' then
            raise exception 'a job begins in state uploaded, not %', new.state using errcode = 'check_violation';
        end if;
        return new;
    end if;
    if new.state <> old.state then
        if not exists (
            select from upload_pipeline.state_transitions as t where t.from_state = old.state and t.to_state = new.state
        ) then
            raise exception 'no transition from % to %', old.state, new.state using errcode = 'check_violation';
        end if;
        new.state_changed_at := now();
    end if;
    return new;
end
$$;

-- Appends a transition, or a failed attempt that left the state as it was. Runs as the owner, so that nobody can forge history.
create function upload_pipeline.append_event() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into upload_pipeline.events
        (document_id, owner_id, actor, from_state, to_state, correlation_id, attempt, error_code, message)
    values (
        new.document_id,
        new.owner_id,
        coalesce(nullif(current_setting('ingest.actor', true), ''), session_user),
        case when tg_op = 'UPDATE' then old.state end,
        new.state,
        new.correlation_id,
        new.attempt,
        new.last_error_code,
        new.last_error_message
    );
    return null;
end
$$;

create trigger guard_transition before insert or update of state on upload_pipeline.upload_jobs
for each row execute function upload_pipeline.guard_transition();
create trigger append_first_event after insert on upload_pipeline.upload_jobs
for each row execute function upload_pipeline.append_event();
create trigger append_event after update on upload_pipeline.upload_jobs
for each row when (old.state <> new.state or new.attempt > old.attempt) execute function upload_pipeline.append_event();

-- Wakes the sensor of a lane at once; it would look by itself a few seconds later.
create function upload_pipeline.announce_work() returns trigger
language plpgsql
as $$
begin
    perform pg_notify('ingest_work', new.lane);
    return null;
end
$$;

create trigger announce_upload after insert on upload_pipeline.upload_jobs
for each row execute function upload_pipeline.announce_work();
create trigger announce_work after update on upload_pipeline.upload_jobs
for each row when (new.lane is distinct from old.lane and new.lane is not null and new.claimed_by is null)
execute function upload_pipeline.announce_work();

-- Batches that the sensors claimed: one run each.
create table upload_pipeline.ingestion_batches (
    batch_id uuid primary key,
    lane text not null check (lane in ('submit', 'process')),
    document_count integer not null check (document_count > 0),
    failed_count integer,
    created_at timestamptz not null default now(),
    finished_at timestamptz
);

create index ingestion_batches_by_age on upload_pipeline.ingestion_batches (created_at);

-- Webhooks received, each once.
create table upload_pipeline.webhook_deliveries (
    source text not null,
    event_id text not null,
    event_type text not null,
    parse_job_id text not null,
    outcome text check (outcome in ('success', 'partial_success', 'error', 'cancelled')),
    received_at timestamptz not null default now(),
    primary key (source, event_id)
);

create index webhook_deliveries_by_job on upload_pipeline.webhook_deliveries (parse_job_id);

-- Notes how a parse job ended, if its document still waits for it. Also called by the poller that reconciles.
create function upload_pipeline.apply_parse_outcome(p_parse_job_id text, p_outcome text) returns boolean
language sql
as $$
    with applied as (
        update upload_pipeline.upload_jobs
        set
            parse_outcome = p_outcome,
            state = case when p_outcome in ('success', 'partial_success') then 'parsed' else state end,
            next_attempt_at = now(),
            attempt = 0
        where parse_job_id = p_parse_job_id and state = 'parse_queued' and parse_outcome is null
        returning document_id
    )
    select exists (select from applied)
$$;

-- A verified webhook: deduplicated and applied in one transaction. Returns applied, duplicate, waiting (the job is not known,
-- yet or any more; submitting looks here) or ignored (nothing follows from this event).
create function upload_pipeline.receive_parse_event(
    p_source text, p_event_id text, p_event_type text, p_parse_job_id text, p_outcome text
) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended(p_parse_job_id, 0));
    insert into upload_pipeline.webhook_deliveries (source, event_id, event_type, parse_job_id, outcome)
    values (p_source, p_event_id, p_event_type, p_parse_job_id, p_outcome)
    on conflict (source, event_id) do nothing;
    if not found then
        return 'duplicate';
    end if;
    if p_outcome is null then
        return 'ignored';
    end if;
    if upload_pipeline.apply_parse_outcome(p_parse_job_id, p_outcome) then
        return 'applied';
    end if;
    if exists (select from upload_pipeline.upload_jobs where parse_job_id = p_parse_job_id) then
        return 'ignored';
    end if;
    return 'waiting';
end
$$;

-- Between the stages.
create table upload_pipeline.document_chunk_buffer (
    chunk_id uuid primary key,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    ordinal integer not null check (ordinal >= 0),
    start_offset integer not null check (start_offset >= 0),
    end_offset integer not null,
    first_page integer not null,
    last_page integer not null,
    heading_path text[] not null,
    token_count integer not null check (token_count > 0),
    chunk_sha256 bytea not null check (octet_length(chunk_sha256) = 32),
    text text not null check (text <> ''),
    unique (document_id, ordinal),
    check (end_offset > start_offset),
    check (last_page >= first_page)
);

create table upload_pipeline.document_vector_buffer (
    chunk_id uuid primary key references upload_pipeline.document_chunk_buffer on delete cascade,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    model text not null,
    chunk_sha256 bytea not null check (octet_length(chunk_sha256) = 32),
    embedding halfvec(1536) not null
);

create index document_vector_buffer_by_document on upload_pipeline.document_vector_buffer (document_id);

-- What search serves. Offsets and other things that may move stay out of the rows that carry the vectors.
create table upload_pipeline.document_chunks (
    chunk_id uuid primary key,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    ordinal integer not null check (ordinal >= 0),
    start_offset integer not null check (start_offset >= 0),
    end_offset integer not null,
    first_page integer not null,
    last_page integer not null,
    heading_path text[] not null,
    token_count integer not null check (token_count > 0),
    chunk_sha256 bytea not null check (octet_length(chunk_sha256) = 32),
    text text not null check (text <> ''),
    unique (document_id, ordinal),
    check (end_offset > start_offset),
    check (last_page >= first_page)
);

create table upload_pipeline.document_vectors (
    chunk_id uuid not null references upload_pipeline.document_chunks on delete cascade,
    model text not null,
    document_id uuid not null references upload_pipeline.documents on delete cascade,
    owner_id uuid not null,
    chunk_sha256 bytea not null check (octet_length(chunk_sha256) = 32),
    embedding halfvec(1536) not null,
    primary key (chunk_id, model)
);

create index document_vectors_by_document on upload_pipeline.document_vectors (document_id);
-- finds a vector that was paid for already
create index document_vectors_by_content on upload_pipeline.document_vectors (owner_id, model, chunk_sha256);

-- Ownership: workers see everything, the API sees what belongs to the owner for whom it acts. The API has no access to the
-- chunk buffer at all, which stays without policies: COPY does not load tables that have them.
do $$
declare
    owned text;
begin
    foreach owned in array array[
        'documents', 'upload_jobs', 'events', 'document_vector_buffer', 'document_chunks', 'document_vectors'
    ]
    loop
        execute format('alter table upload_pipeline.%I enable row level security', owned);
        execute format(
            'create policy worker_everything on upload_pipeline.%I to ingest_worker using (true) with check (true)', owned
        );
        execute format(
            'create policy owner_reads on upload_pipeline.%I for select to ingest_api '
            'using (owner_id = (select upload_pipeline.current_owner()))', owned
        );
    end loop;
end
$$;

create policy owner_registers on upload_pipeline.documents for insert to ingest_api
with check (owner_id = (select upload_pipeline.current_owner()));
create policy owner_enqueues on upload_pipeline.upload_jobs for insert to ingest_api
with check (
    owner_id = (select upload_pipeline.current_owner())
    and exists (select from upload_pipeline.documents as d where d.document_id = upload_jobs.document_id)
);

grant usage on schema upload_pipeline to ingest_worker, ingest_api;

grant select on
    upload_pipeline.documents, upload_pipeline.upload_jobs, upload_pipeline.events, upload_pipeline.document_vector_buffer,
    upload_pipeline.document_chunks, upload_pipeline.document_vectors
to ingest_api;
grant insert on upload_pipeline.documents, upload_pipeline.upload_jobs to ingest_api;

grant select on all tables in schema upload_pipeline to ingest_worker;
grant insert, update, delete on
    upload_pipeline.documents, upload_pipeline.upload_jobs, upload_pipeline.document_chunk_buffer,
    upload_pipeline.document_vector_buffer, upload_pipeline.document_chunks, upload_pipeline.document_vectors,
    upload_pipeline.ingestion_batches
to ingest_worker;

revoke execute on all functions in schema upload_pipeline from public;
grant execute on function upload_pipeline.current_owner() to ingest_worker, ingest_api;
grant execute on function upload_pipeline.apply_parse_outcome(text, text) to ingest_worker;
grant execute on function upload_pipeline.receive_parse_event(text, text, text, text, text) to ingest_api, ingest_worker;

-- migrate:down

-- The roles stay: they belong to the server, and other databases may use them.
drop schema dagster cascade;
drop schema upload_pipeline cascade;
