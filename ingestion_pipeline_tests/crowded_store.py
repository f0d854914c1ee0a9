"""A store that has run for long: any number of documents in all states, with history, deliveries, batches and usage.

Rows are written past the triggers, as history has long been; the shares of the states are those of a system at work.
"""

from contextlib import closing
from uuid import UUID

import psycopg2

OWNER = UUID(int=1)  # has half of the documents; forty others share the rest
ERROR_CODE = "pdf_is_broken"

# By the number of a document: 1 % each are uploaded, at the parser and in process, of which some are claimed; 1 %
# failed, some are cancelled, the rest is complete.
FILL = (
    "set local session_replication_role = replica",
    """
    insert into upload_pipeline.documents
        (document_id, owner_id, filename, content_type, size_bytes, sha256, object_key, created_at, chunk_count)
    select
        md5('document ' || n)::uuid,
        ('00000000-0000-0000-0000-' || lpad(case when n %% 2 = 0 then '1' else (n %% 40 + 2)::text end, 12, '0'))::uuid,
        'manual-' || n || '.md', 'text/markdown', 8000, sha256(n::text::bytea), 'raw/' || n,
        now() - make_interval(secs => %(documents)s - n), 20
    from generate_series(1, %(documents)s) as n
    """,
    """
    insert into upload_pipeline.upload_jobs
        (document_id, owner_id, correlation_id, state, state_changed_at, next_attempt_at, attempt, last_error_code,
         last_error_message, last_error_stage, claimed_by, claim_expires_at, parse_job_id, parse_outcome, parse_poll_at,
         retired_at, restored_at, created_at)
    select
        d.document_id, d.owner_id, d.document_id, s.state, d.created_at - interval '40 days' * (n %% 2), d.created_at,
        case when n %% 500 = 1 then 3 else 0 end,
        case when s.state like 'failed%%' or n %% 500 = 1 then %(code)s end,
        case when s.state like 'failed%%' then 'x' end,
        case when s.state like 'failed%%' then 'parsed' end,
        case when s.is_claimed then 'claim-' || n %% 500 end,
        case when s.is_claimed then now() + make_interval(secs => n %% 90 - 20) end,
        case when s.state <> 'uploaded' then 'job-' || n end,
        case when s.state not in ('uploaded', 'parse_queued') then 'success' end,
        case when s.state = 'parse_queued' then now() + make_interval(secs => n %% 200 - 100) end,
        case when s.state = 'complete' and n %% 5 = 0 then now() end,
        case when s.state = 'complete' and n %% 1000 = 5 then now() + interval '1 second' end,
        d.created_at
    from (select *, row_number() over (order by created_at) as n from upload_pipeline.documents) as d
    cross join lateral (
        select
            case n %% 500
                when 0 then 'cancelled' when 1 then 'uploaded' when 2 then 'uploaded' when 3 then 'uploaded'
                when 4 then 'uploaded' when 5 then 'uploaded'
                when 11 then 'parse_queued' when 12 then 'parse_queued' when 13 then 'parse_queued'
                when 14 then 'parse_queued' when 15 then 'parse_queued'
                when 21 then 'parsed' when 22 then 'parse_validated' when 23 then 'chunks_stored'
                when 24 then 'embedding_in_progress' when 25 then 'embeddings_stored'
                when 31 then 'failed_parse' when 32 then 'failed_parse' when 33 then 'failed_chunking'
                when 34 then 'failed_embedding' when 35 then 'failed_parse'
                else 'complete'
            end as state,
            n %% 500 in (2, 22, 24) as is_claimed
    ) as s
    """,
    """
    insert into upload_pipeline.events
        (document_id, owner_id, at, actor, from_state, to_state, correlation_id, attempt)
    select j.document_id, j.owner_id, j.created_at, 'worker', null, s.state, j.correlation_id, 0
    from upload_pipeline.upload_jobs as j
    cross join unnest(array['uploaded', 'complete']) as s (state)
    """,
    """
    insert into upload_pipeline.webhook_deliveries (source, event_id, event_type, parse_job_id, outcome)
    select 'llamaparse', 'event-' || j.parse_job_id, 'parse.success', j.parse_job_id, 'success'
    from upload_pipeline.upload_jobs as j
    where j.parse_job_id is not null
    """,
    """
    insert into upload_pipeline.provider_usage
        (call_id, at, provider, operation, model, owner_id, document_id, correlation_id, tokens, cost_usd)
    select
        j.document_id, j.created_at, 'openai', 'embed', 'text-embedding-3-small', j.owner_id, j.document_id,
        j.correlation_id, 1000, 0.00002
    from upload_pipeline.upload_jobs as j
    """,
    """
    insert into upload_pipeline.cancellations (document_id, parse_round, is_at_parser, due_at, settled_at)
    select j.document_id, 1, false, now(), case when random() < 0.9 then now() end
    from upload_pipeline.upload_jobs as j
    where j.state = 'cancelled'
    """,
    """
    insert into upload_pipeline.ingestion_batches
        (batch_id, lane, document_count, failed_count, created_at, finished_at)
    select gen_random_uuid(), 'process', 200, 0, now(), now()
    from generate_series(1, %(documents)s / 100)
    """,
    """
    insert into upload_pipeline.document_chunk_buffer
        (chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path,
         token_count, chunk_sha256, text)
    select
        md5(j.document_id || '-' || c)::uuid, j.document_id, j.owner_id, c, 0, 1, 1, 1, '{}', 1,
        sha256(c::text::bytea), 'x'
    from upload_pipeline.upload_jobs as j
    cross join generate_series(0, 19) as c
    where j.state in ('chunks_stored', 'embedding_in_progress', 'embeddings_stored', 'failed_embedding')
    """,
    """
    insert into upload_pipeline.document_chunks
        (chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path,
         token_count, chunk_sha256, text)
    select
        md5(j.document_id || '-0')::uuid, j.document_id, j.owner_id, 0, 0, 1, 1, 1, '{}', 1,
        sha256(uuid_send(j.document_id)), 'x'
    from upload_pipeline.upload_jobs as j
    where j.state = 'complete'
    """,
    """
    insert into upload_pipeline.document_vectors (chunk_id, model, document_id, owner_id, chunk_sha256, embedding)
    select c.chunk_id, 'text-embedding-3-small', c.document_id, c.owner_id, c.chunk_sha256, v.embedding
    from upload_pipeline.document_chunks as c
    cross join (select array_fill(1::real, array[1536])::halfvec as embedding) as v
    where ('x' || left(md5(c.document_id::text), 4))::bit(16)::integer %% 20 = 0
    """,
    """
    insert into upload_pipeline.document_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, embedding)
    select b.chunk_id, b.document_id, b.owner_id, 'text-embedding-3-small', b.chunk_sha256, v.embedding
    from upload_pipeline.document_chunk_buffer as b
    cross join (select array_fill(1::real, array[1536])::halfvec as embedding) as v
    where b.ordinal < 3
    """,
)


BUFFERS_AND_SERVED = ("document_chunk_buffer", "document_chunks", "document_vectors")


def fill(url: str, documents: int, *, is_analyzed: bool = True) -> None:
    """Put so many documents into an empty, migrated database; `url` is its owner's.

    Unless it `is_analyzed`, the planner knows nothing of chunks and vectors, as in a flood of documents.
    """
    parameters = {"documents": documents, "code": ERROR_CODE}
    with closing(psycopg2.connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            for table in () if is_analyzed else BUFFERS_AND_SERVED:
                cursor.execute(f"alter table upload_pipeline.{table} set (autovacuum_enabled = off)")
            for statement in FILL:
                cursor.execute(statement, parameters)
        connection.autocommit = True
        if is_analyzed:
            with connection.cursor() as cursor:
                cursor.execute("vacuum analyze")
