-- The ledger of what calls of vendors used and cost.

-- name: do_not_wait_for_disk#
-- For what may be lost with the last half second of a crashed server.
set local synchronous_commit = off;

-- name: record_calls!
-- Calls, a row for each of their shares; owner and correlation id are those of the share's document.
insert into upload_pipeline.provider_usage (
    call_id, provider, operation, model, owner_id, document_id, correlation_id, tokens, pages, cost_usd, seconds, outcome
)
select
    s.call_id, s.provider, s.operation, s.model, coalesce(j.owner_id, :owner_id), s.document_id, j.correlation_id,
    s.tokens, s.pages, s.cost_usd, s.seconds, s.outcome
from unnest(
    :call_ids::uuid[], :providers::text[], :operations::text[], :models::text[], :document_ids::uuid[], :tokens::bigint[],
    :pages::integer[], :costs_usd::numeric[], :seconds::double precision[], :outcomes::text[]
) as s (call_id, provider, operation, model, document_id, tokens, pages, cost_usd, seconds, outcome)
left join upload_pipeline.upload_jobs as j on j.document_id = s.document_id;
