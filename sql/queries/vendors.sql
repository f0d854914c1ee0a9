-- What all processes share of the vendors: circuit breakers and rate limits.

-- name: enter_vendor^
-- Whether a call may go to a vendor; of all who ask one gets the probe.
select g.verdict, g.wait_seconds, g.failures
from upload_pipeline.enter_vendor(:vendor, :probe_id, :probe_seconds) as g;

-- name: record_failed_call^
-- A call that failed; one that counts may open the vendor's breaker.
select g.verdict, g.wait_seconds, g.failures
from upload_pipeline.record_failed_call(
    :vendor, :probe_id, :counts, :most_failures, :open_seconds, :longest_open_seconds, :code, :message, :retry_after,
    :call_id, :operation, :model, :tokens, :cost_usd, :seconds
) as g;

-- name: record_vendor_success^
-- An answer that ends a run of failures, or a probe.
select upload_pipeline.record_vendor_success(:vendor, :probe_id);

-- name: take_from_buckets^
-- Takes from all of the named buckets, sorted by name, or from none.
select g.granted, g.wait_seconds
from upload_pipeline.take_from_buckets(
    :buckets::text[], :amounts::double precision[], :capacities::double precision[], :per_second::double precision[],
    :longest_wait, :is_urgent
) as g;

-- name: vendor_breakers
-- Every breaker that ever counted a failure.
select
    b.vendor, b.state, b.since, b.failures, b.reopens_at, b.last_error_code, b.last_error_message, b.last_error_at
from upload_pipeline.vendor_breakers as b
order by b.vendor;

-- name: rate_buckets
-- Every bucket that was ever taken from, with its level now and for how long its queue is.
select
    b.bucket,
    b.capacity,
    b.per_second,
    least(b.capacity, b.level + extract(epoch from clock_timestamp() - b.updated_at) * b.per_second) as level,
    greatest(0, extract(epoch from b.queue_ends_at - clock_timestamp()))::double precision as queue_seconds
from upload_pipeline.rate_buckets as b
order by b.bucket;
