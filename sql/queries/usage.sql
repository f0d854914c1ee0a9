-- The ledger of what calls of vendors used and cost.

-- name: do_not_wait_for_disk#
-- For what may be lost with the last half second of a crashed server.
set local synchronous_commit = off;

-- name: record_call!
-- A call, a row for each of its shares; owner and correlation id are those of the share's document.
insert into upload_pipeline.provider_usage (
    call_id, provider, operation, model, owner_id, document_id, correlation_id, tokens, pages, cost_usd, seconds, outcome
)
select
    :call_id, :provider, :operation, :model, coalesce(j.owner_id, :owner_id), s.document_id, j.correlation_id,
    s.tokens, s.pages, s.cost_usd, :seconds, :outcome
from unnest(:document_ids::uuid[], :tokens::bigint[], :pages::integer[], :costs_usd::numeric[])
    as s (document_id, tokens, pages, cost_usd)
left join upload_pipeline.upload_jobs as j on j.document_id = s.document_id;
