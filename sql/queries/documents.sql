-- What the API asks, always within one owner: row-level security lets no other rows through.

-- name: register_document^
-- Nothing comes back if this owner has a document of the same content already.
insert into upload_pipeline.documents
    (document_id, owner_id, filename, content_type, size_bytes, sha256, object_key)
values (:document_id, :owner_id, :filename, :content_type, :size_bytes, :sha256, :object_key)
on conflict do nothing
returning document_id;

-- name: enqueue_document!
-- The job that the sensors pick up, committed together with the document.
insert into upload_pipeline.upload_jobs (document_id, owner_id, correlation_id)
values (:document_id, :owner_id, :correlation_id);

-- name: get_documents
-- Documents with their jobs and their progress in numbers; each by its id, for PostgreSQL would look through all of an owner.
select
    d.document_id, d.filename, d.content_type, d.size_bytes, d.sha256, d.created_at, d.completed_at,
    d.page_count, d.failed_pages, d.chunk_count, d.token_count, d.embedding_model,
    j.state, j.state_changed_at, j.attempt, j.correlation_id,
    j.last_error_code, j.last_error_message, j.last_error_stage,
    case
        when j.lane is not null and j.claimed_by is null and (j.attempt > 0 or j.next_attempt_at > now()) then j.next_attempt_at
    end as next_attempt_at,
    case
        when j.state in ('embeddings_stored', 'complete') then d.chunk_count
        when j.state in ('chunks_stored', 'embedding_in_progress', 'failed_embedding', 'cancelled') then upload_pipeline.count_buffered_vectors(d.document_id)
        else 0
    end as chunks_embedded
from unnest(:document_ids::uuid[]) as w (document_id)
cross join lateral (
    select *
    from upload_pipeline.documents as o
    where o.document_id = w.document_id
    limit 1
) as d
inner join upload_pipeline.upload_jobs as j on j.document_id = d.document_id;

-- name: list_documents
-- A page of documents, newest first; the page after the row (before_at, before_id). Which ones they are is found first, by the
-- index that has them in order, or from the jobs if there is something to select by, so that no others are joined and sorted.
with page as materialized (
    (
        select
            d.document_id,
            d.created_at
        from upload_pipeline.documents as d
        where
            :states::text[] is null
            and :code::text is null
            and :has_error::boolean is null
            and d.owner_id = :owner_id
            and (:before_at::timestamptz is null or (d.created_at, d.document_id) < (:before_at, :before_id::uuid))
        order by d.created_at desc, d.document_id desc
        limit :limit
    )
    union all
    (
        select
            d.document_id,
            d.created_at
        from upload_pipeline.upload_jobs as j
        inner join upload_pipeline.documents as d on d.document_id = j.document_id
        where
            (:states::text[] is not null or :code::text is not null or :has_error::boolean is not null)
            and j.owner_id = :owner_id
            and d.owner_id = :owner_id
            and (:states::text[] is null or j.state = any(:states::text[]))
            and (:code::text is null or j.last_error_code = :code)
            and (:has_error::boolean is null or (j.last_error_code is not null) = :has_error)
            and (:before_at::timestamptz is null or (d.created_at, d.document_id) < (:before_at, :before_id::uuid))
        order by d.created_at desc, d.document_id desc
        limit :limit
    )
)

select
    d.document_id, d.filename, d.content_type, d.size_bytes, d.sha256, d.created_at, d.completed_at,
    d.page_count, d.failed_pages, d.chunk_count, d.token_count, d.embedding_model,
    j.state, j.state_changed_at, j.attempt, j.correlation_id,
    j.last_error_code, j.last_error_message, j.last_error_stage,
    case
        when j.lane is not null and j.claimed_by is null and (j.attempt > 0 or j.next_attempt_at > now()) then j.next_attempt_at
    end as next_attempt_at,
    case
        when j.state in ('embeddings_stored', 'complete') then d.chunk_count
        when j.state in ('chunks_stored', 'embedding_in_progress', 'failed_embedding', 'cancelled') then upload_pipeline.count_buffered_vectors(d.document_id)
        else 0
    end as chunks_embedded
from page as p
inner join upload_pipeline.documents as d on d.document_id = p.document_id
inner join upload_pipeline.upload_jobs as j on j.document_id = p.document_id
order by p.created_at desc, p.document_id desc;

-- name: retry_document^
-- Takes a document up again that failed, was cancelled or waits; done is null without such a document of the owner, false if its
-- state does not allow it.
select upload_pipeline.retry_document(:document_id, :start_over) as done;

-- name: cancel_document^
-- Stops the work on a document; done as above.
select upload_pipeline.cancel_document(:document_id) as done;

-- name: count_by_state
-- How many documents of an owner are in which state.
select
    j.state,
    count(*) as documents
from upload_pipeline.upload_jobs as j
where j.owner_id = :owner_id
group by j.state;

-- name: list_events
-- A document's history, oldest first.
select
    e.event_id, e.at, e.actor, e.from_state, e.to_state, e.attempt, e.error_code, e.message, e.correlation_id
from upload_pipeline.events as e
where e.document_id = :document_id and e.event_id > :after_event_id
order by e.event_id
limit :limit;

-- name: newest_events
-- The end of a document's history, oldest first.
select
    e.event_id, e.at, e.actor, e.from_state, e.to_state, e.attempt, e.error_code, e.message, e.correlation_id
from (
    select n.*
    from upload_pipeline.events as n
    where n.document_id = :document_id
    order by n.event_id desc
    limit :limit
) as e
order by e.event_id;

-- name: search
-- The vectors nearest to a query vector, with their chunks. Which they are is found first, so that nothing else is read of all
-- others: by an index of the vectors, if there is one, or exactly. Chunks that are not served (yet, or in this version) have no
-- ordinal.
select
    n.document_id, n.chunk_id, d.filename, c.ordinal, c.first_page, c.last_page, c.heading_path,
    c.start_offset, c.end_offset, c.text,
    1 - n.distance as score
from (
    select
        v.document_id,
        v.chunk_id,
        v.chunk_sha256,
        v.embedding <=> :query as distance
    from upload_pipeline.owned_vectors as v
    where v.model = :model and v.owner_id = :owner_id
    order by
        case when :is_exact then (v.embedding <=> :query) + 0 end, -- which no index has
        v.embedding <=> :query
    limit :limit
) as n
left join upload_pipeline.document_chunks as c on c.chunk_id = n.chunk_id and c.chunk_sha256 = n.chunk_sha256
inner join upload_pipeline.documents as d on d.document_id = n.document_id
order by n.distance;

-- name: receive_parse_event^
-- A verified webhook of the parser.
select upload_pipeline.receive_parse_event(:source, :event_id, :event_type, :parse_job_id, :outcome) as result;
