-- The ledger of what calls of vendors used and cost.

-- name: do_not_wait_for_disk#
-- For what may be lost with the last half second of a crashed server.
set local synchronous_commit = off;

-- name: record_calls!
-- Calls, a row for each of their shares, as a JSON array; owner and correlation id are those of the share's document.
insert into upload_pipeline.provider_usage (
    call_id, provider, operation, model, owner_id, document_id, correlation_id, tokens, pages, cost_usd, seconds, outcome
)
select
    s.call_id, s.provider, s.operation, s.model, coalesce(j.owner_id, :owner_id), s.document_id, j.correlation_id,
    s.tokens, s.pages, s.cost_usd, s.seconds, s.outcome
from jsonb_to_recordset(:rows::jsonb) as s (
    call_id uuid, provider text, operation text, model text, document_id uuid, tokens bigint, pages integer, cost_usd numeric,
    seconds double precision, outcome text
)
left join upload_pipeline.upload_jobs as j on j.document_id = s.document_id;

-- name: usage_by_day
-- What an owner used, by day in UTC.
select
    (u.at at time zone 'UTC')::date as day,
    u.provider,
    u.operation,
    u.model,
    count(distinct u.call_id) as calls,
    sum(u.tokens)::bigint as tokens,
    sum(u.pages)::bigint as pages,
    sum(u.cost_usd) as cost_usd
from upload_pipeline.provider_usage as u
where
    u.owner_id = :owner_id
    and u.at >= :first::date::timestamp at time zone 'UTC'
    and u.at < (:last::date + 1)::timestamp at time zone 'UTC'
group by 1, 2, 3, 4
order by 1, 2, 3, 4;

-- name: usage_of_document^
-- What was bought for a document.
select
    coalesce(sum(u.tokens), 0)::bigint as tokens,
    coalesce(sum(u.pages), 0)::bigint as pages,
    coalesce(sum(u.cost_usd), 0) as cost_usd
from upload_pipeline.provider_usage as u
where u.document_id = :document_id;

-- name: spent_today_by^
-- What the installation and what an owner has spent since midnight UTC.
select
    upload_pipeline.spent_today() as installation,
    (
        select coalesce(sum(u.cost_usd), 0)
        from upload_pipeline.provider_usage as u
        where u.owner_id = :owner_id and u.at >= date_trunc('day', now(), 'UTC')
    ) as owner;

-- name: spent_today
-- What each owner has spent since midnight UTC; what is nobody's has no owner.
select
    u.owner_id,
    sum(u.cost_usd) as cost_usd
from upload_pipeline.provider_usage as u
where u.at >= date_trunc('day', now(), 'UTC')
group by u.owner_id;

-- name: rest_of_day^
-- How long it is until midnight UTC.
select extract(epoch from date_trunc('day', now(), 'UTC') + interval '24 hours' - now())::double precision as seconds;

-- name: document_spending
-- What was spent for documents, and of how many tokens their vectors by a model are missing.
select
    w.document_id,
    (
        select coalesce(sum(u.cost_usd), 0)
        from upload_pipeline.provider_usage as u
        where u.document_id = w.document_id
    ) as cost_usd,
    (
        select coalesce(sum(b.token_count), 0)::bigint
        from upload_pipeline.document_chunk_buffer as b
        where
            b.document_id = w.document_id
            and not exists (
                select from upload_pipeline.document_vectors as v
                where (v.document_id, v.chunk_id, v.model, v.chunk_sha256) = (b.document_id, b.chunk_id, :model, b.chunk_sha256)
            )
    ) as missing_tokens
from unnest(:document_ids::uuid[]) as w (document_id);
