-- Complete documents can start over too: parsed anew, for instance by a better version of the parser.

-- migrate:up

-- Where a settled document is taken up again; null for one that has nothing to retry.
create or replace function upload_pipeline.replay_target(p_state text, p_cancelled_from text, p_start_over boolean) returns text
language sql immutable
as $$
    select case
        when p_state not in ('failed_parse', 'failed_chunking', 'failed_embedding', 'cancelled', 'complete') then null
        when p_start_over then 'uploaded'
        when p_state = 'complete' then null
        when coalesce(p_cancelled_from, p_state) = 'parsed' then 'parsed'
        when coalesce(p_cancelled_from, p_state) in ('parse_validated', 'failed_chunking') then 'parse_validated'
        when coalesce(p_cancelled_from, p_state) in (
            'chunks_stored', 'embedding_in_progress', 'embeddings_stored', 'failed_embedding'
        ) then 'chunks_stored'
        else 'uploaded'
    end
$$;

-- As before; a complete document that starts over is no longer complete, and search serves what it has of it meanwhile.
create or replace function upload_pipeline.replay_document(p_document_id uuid, p_start_over boolean) returns text
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
            page_count = null, chunk_count = null, token_count = null, completed_at = null
        where d.document_id = p_document_id;
    end if;
    return target;
end
$$;

-- migrate:down

create or replace function upload_pipeline.replay_target(p_state text, p_cancelled_from text, p_start_over boolean) returns text
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

create or replace function upload_pipeline.replay_document(p_document_id uuid, p_start_over boolean) returns text
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
