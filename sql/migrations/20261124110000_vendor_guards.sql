-- What all processes share of the vendors: circuit breakers, rate limits, and the ledger of what calls cost.

-- migrate:up

-- One circuit breaker a vendor. closed: calls pass; a success ends a run of `failures`. open: none passes before `reopens_at`.
-- half_open: one probe passes, until `probe_until` at the latest; its outcome closes or opens.
create table upload_pipeline.vendor_breakers (
    vendor text primary key,
    state text not null default 'closed' check (state in ('closed', 'open', 'half_open')),
    since timestamptz not null default clock_timestamp(), -- when it closed, or when it first opened after that
    failures integer not null default 0 check (failures >= 0),
    openings integer not null default 0 check (openings >= 0), -- since it was last closed: each one lasts longer
    reopens_at timestamptz,
    probe_id uuid,
    probe_until timestamptz,
    last_error_code text,
    last_error_message text,
    last_error_at timestamptz,
    check ((state = 'closed') = (reopens_at is null)),
    check ((state = 'half_open') = (probe_id is not null)),
    check ((probe_id is null) = (probe_until is null))
) with (fillfactor = 50);

-- Token buckets. `level` is negative while what was granted is still to flow in; `queue_ends_at` is when the last of those who
-- were refused may come.
create table upload_pipeline.rate_buckets (
    bucket text primary key,
    capacity double precision not null check (capacity > 0),
    per_second double precision not null check (per_second > 0),
    level double precision not null,
    updated_at timestamptz not null default clock_timestamp(),
    queue_ends_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- Whether a call may go to a vendor. verdict: closed; probe (the caller's call is the one that tests the vendor); open or
-- half_open (it may not, for `wait_seconds`). Of all processes that ask at the same time one gets the probe.
create function upload_pipeline.enter_vendor(
    p_vendor text, p_probe_id uuid, p_probe_seconds double precision,
    out verdict text, out wait_seconds double precision, out failures integer
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    breaker upload_pipeline.vendor_breakers;
begin
    select b.* into breaker from upload_pipeline.vendor_breakers as b where b.vendor = p_vendor;
    if coalesce(breaker.state, 'closed') <> 'closed' then
        update upload_pipeline.vendor_breakers as b
        set
            state = 'half_open',
            probe_id = p_probe_id,
            probe_until = clock_timestamp() + make_interval(secs => p_probe_seconds)
        where
            b.vendor = p_vendor
            and (
                (b.state = 'open' and b.reopens_at <= clock_timestamp())
                or (b.state = 'half_open' and b.probe_until <= clock_timestamp())
            );
        if found then
            verdict := 'probe';
            wait_seconds := 0;
            failures := breaker.failures;
            return;
        end if;
        select b.* into breaker from upload_pipeline.vendor_breakers as b where b.vendor = p_vendor;
    end if;
    verdict := coalesce(breaker.state, 'closed');
    wait_seconds := coalesce(
        greatest(0, extract(epoch from coalesce(breaker.probe_until, breaker.reopens_at) - clock_timestamp())), 0
    );
    failures := coalesce(breaker.failures, 0);
end
$$;

-- A call that failed, with its entry in the ledger. If it `p_counts`, it speaks of the vendor's health: the breaker opens after
-- `p_most_failures` in a row, or when its probe failed, for `p_open_seconds`, twice as long each further time up to
-- `p_longest_open_seconds`, and at least for the vendor's own `p_retry_after`. A failure of a call that began before it opened
-- changes nothing. If it does not count, the vendor is well and refused this one call.
create function upload_pipeline.record_failed_call(
    p_vendor text, p_probe_id uuid, p_counts boolean, p_most_failures integer, p_open_seconds double precision,
    p_longest_open_seconds double precision, p_code text, p_message text, p_retry_after double precision,
    p_call_id uuid, p_operation text, p_model text, p_tokens bigint, p_cost_usd numeric, p_seconds double precision,
    out verdict text, out wait_seconds double precision, out failures integer
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    breaker upload_pipeline.vendor_breakers;
begin
    insert into upload_pipeline.provider_usage
        (call_id, provider, operation, model, tokens, cost_usd, seconds, outcome)
    values (p_call_id, p_vendor, p_operation, p_model, p_tokens, p_cost_usd, p_seconds, p_code);
    if not p_counts then
        perform upload_pipeline.record_vendor_success(p_vendor, p_probe_id);
    else
        insert into upload_pipeline.vendor_breakers (vendor) values (p_vendor) on conflict do nothing;
        select b.* into breaker from upload_pipeline.vendor_breakers as b where b.vendor = p_vendor for update;
        if (breaker.state = 'closed' and breaker.failures + 1 >= p_most_failures) or breaker.probe_id = p_probe_id then
            breaker.since := case when breaker.state = 'closed' then clock_timestamp() else breaker.since end;
            breaker.state := 'open';
            breaker.reopens_at := clock_timestamp() + make_interval(secs => greatest(
                least(p_longest_open_seconds, p_open_seconds * power(2, least(breaker.openings, 30))),
                coalesce(p_retry_after, 0)
            ));
            breaker.openings := breaker.openings + 1;
            breaker.probe_id := null;
            breaker.probe_until := null;
        end if;
        update upload_pipeline.vendor_breakers as b
        set
            state = breaker.state,
            since = breaker.since,
            failures = breaker.failures + 1,
            openings = breaker.openings,
            reopens_at = breaker.reopens_at,
            probe_id = breaker.probe_id,
            probe_until = breaker.probe_until,
            last_error_code = p_code,
            last_error_message = p_message,
            last_error_at = clock_timestamp()
        where b.vendor = p_vendor;
    end if;
    select b.* into breaker from upload_pipeline.vendor_breakers as b where b.vendor = p_vendor;
    verdict := coalesce(breaker.state, 'closed');
    wait_seconds := coalesce(
        greatest(0, extract(epoch from coalesce(breaker.probe_until, breaker.reopens_at) - clock_timestamp())), 0
    );
    failures := coalesce(breaker.failures, 0);
end
$$;

-- A call that the vendor answered: ends a run of failures; that of the probe closes the breaker. The success of a call that
-- began before it opened proves nothing.
create function upload_pipeline.record_vendor_success(p_vendor text, p_probe_id uuid) returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    update upload_pipeline.vendor_breakers as b
    set
        state = 'closed',
        since = case when b.state = 'closed' then b.since else clock_timestamp() end,
        failures = 0, openings = 0, reopens_at = null, probe_id = null, probe_until = null
    where b.vendor = p_vendor and (b.probe_id = p_probe_id or (b.state = 'closed' and b.failures > 0))
$$;

-- Takes from all of the named buckets (sorted by name), or from none. Granted: the caller goes ahead after `wait_seconds`, at most
-- `p_longest_wait`; what it took is reserved for it. Refused: it comes back after `wait_seconds`, a place behind those who were
-- refused before. More than a capacity may be taken from a bucket that is full. Whoever is urgent goes ahead at once, and the
-- others wait longer for it.
create function upload_pipeline.take_from_buckets(
    p_buckets text[], p_amounts double precision[], p_capacities double precision[], p_per_second double precision[],
    p_longest_wait double precision, p_is_urgent boolean,
    out granted boolean, out wait_seconds double precision
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    bucket upload_pipeline.rate_buckets;
    levels double precision[];
    present timestamptz;
begin
    perform set_config('synchronous_commit', 'off', true); -- nobody waits for the disk while holding these rows
    wait_seconds := 0;
    for i in 1..cardinality(p_buckets) loop
        select b.* into bucket from upload_pipeline.rate_buckets as b where b.bucket = p_buckets[i] for update;
        if not found then
            insert into upload_pipeline.rate_buckets (bucket, capacity, per_second, level)
            values (p_buckets[i], p_capacities[i], p_per_second[i], p_capacities[i])
            on conflict do nothing;
            select b.* into bucket from upload_pipeline.rate_buckets as b where b.bucket = p_buckets[i] for update;
        end if;
        levels[i] := least(
            p_capacities[i],
            bucket.level + extract(epoch from clock_timestamp() - bucket.updated_at) * p_per_second[i]
        );
        wait_seconds := greatest(wait_seconds, (least(p_amounts[i], p_capacities[i]) - levels[i]) / p_per_second[i]);
    end loop;
    present := clock_timestamp();
    granted := p_is_urgent or wait_seconds <= p_longest_wait;
    update upload_pipeline.rate_buckets as b
    set
        capacity = t.capacity,
        per_second = t.per_second,
        level = case when granted then t.level - t.amount else t.level end,
        updated_at = present,
        queue_ends_at = case
            when granted then b.queue_ends_at
            else greatest(b.queue_ends_at, present + make_interval(secs => wait_seconds))
                + make_interval(secs => t.amount / t.per_second)
        end
    from unnest(p_buckets, p_amounts, p_capacities, p_per_second, levels) as t (bucket, amount, capacity, per_second, level)
    where b.bucket = t.bucket;
    if p_is_urgent then
        wait_seconds := 0;
    elsif not granted then
        select max(extract(epoch from b.queue_ends_at - present) - t.amount / t.per_second) into wait_seconds
        from upload_pipeline.rate_buckets as b
        inner join unnest(p_buckets, p_amounts, p_per_second) as t (bucket, amount, per_second) on t.bucket = b.bucket;
    end if;
end
$$;

-- The ledger: what calls of vendors used and cost. A request that served several documents has a row for each, with that
-- document's part of tokens, pages and cost, and the time of the whole request in `seconds`. A row outlives its document. Calls
-- that failed have the error's code as outcome; of theirs, and of a search, the document is not known.
create table upload_pipeline.provider_usage (
    usage_id bigint generated always as identity primary key,
    call_id uuid not null,
    at timestamptz not null default clock_timestamp(),
    provider text not null,
    operation text not null,
    model text not null,
    owner_id uuid,
    document_id uuid,
    correlation_id uuid,
    tokens bigint not null default 0 check (tokens >= 0),
    pages integer not null default 0 check (pages >= 0),
    cost_usd numeric(20, 10) not null default 0 check (cost_usd >= 0),
    seconds double precision check (seconds >= 0),
    outcome text not null default 'ok'
);

create index provider_usage_by_owner on upload_pipeline.provider_usage (owner_id, at) include (cost_usd);
create index provider_usage_by_document on upload_pipeline.provider_usage (document_id) where document_id is not null;
-- rows come in the order of their time
create index provider_usage_by_time on upload_pipeline.provider_usage using brin (at);

-- What the whole installation has spent since midnight UTC. Owners see no more of each other than this sum.
create function upload_pipeline.spent_today() returns numeric
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(sum(u.cost_usd), 0)
    from upload_pipeline.provider_usage as u
    where u.at >= date_trunc('day', now(), 'UTC')
$$;

alter table upload_pipeline.provider_usage enable row level security;
create policy worker_everything on upload_pipeline.provider_usage to ingest_worker using (true) with check (true);
create policy owner_reads on upload_pipeline.provider_usage for select to ingest_api
using (owner_id = (select upload_pipeline.current_owner()));
create policy owner_searches on upload_pipeline.provider_usage for insert to ingest_api
with check (owner_id = (select upload_pipeline.current_owner()) and document_id is null);

grant select, insert on upload_pipeline.provider_usage to ingest_worker, ingest_api;
grant select on upload_pipeline.vendor_breakers, upload_pipeline.rate_buckets to ingest_worker, ingest_api;

revoke execute on function
    upload_pipeline.enter_vendor(text, uuid, double precision),
    upload_pipeline.record_failed_call(
        text, uuid, boolean, integer, double precision, double precision, text, text, double precision,
        uuid, text, text, bigint, numeric, double precision
    ),
    upload_pipeline.record_vendor_success(text, uuid),
    upload_pipeline.take_from_buckets(
        text[], double precision[], double precision[], double precision[], double precision, boolean
    ),
    upload_pipeline.spent_today()
from public;
grant execute on function
    upload_pipeline.enter_vendor(text, uuid, double precision),
    upload_pipeline.record_failed_call(
        text, uuid, boolean, integer, double precision, double precision, text, text, double precision,
        uuid, text, text, bigint, numeric, double precision
    ),
    upload_pipeline.record_vendor_success(text, uuid),
    upload_pipeline.take_from_buckets(
        text[], double precision[], double precision[], double precision[], double precision, boolean
    ),
    upload_pipeline.spent_today()
to ingest_worker, ingest_api;

-- A document that waits without a failed attempt has a new reason to: the history says it once.
drop trigger append_event on upload_pipeline.upload_jobs;
create trigger append_event after update on upload_pipeline.upload_jobs
for each row when (
    old.state <> new.state
    or new.attempt > old.attempt
    or (new.lane is not null and new.last_error_code is not null and new.last_error_code is distinct from old.last_error_code)
) execute function upload_pipeline.append_event();

-- migrate:down

drop trigger append_event on upload_pipeline.upload_jobs;
create trigger append_event after update on upload_pipeline.upload_jobs
for each row when (old.state <> new.state or new.attempt > old.attempt) execute function upload_pipeline.append_event();
drop function upload_pipeline.spent_today();
drop table upload_pipeline.provider_usage;
drop function upload_pipeline.take_from_buckets(
    text[], double precision[], double precision[], double precision[], double precision, boolean
);
drop table upload_pipeline.rate_buckets;
drop function upload_pipeline.record_vendor_success(text, uuid);
drop function upload_pipeline.record_failed_call(
    text, uuid, boolean, integer, double precision, double precision, text, text, double precision,
    uuid, text, text, bigint, numeric, double precision
);
drop function upload_pipeline.enter_vendor(text, uuid, double precision);
drop table upload_pipeline.vendor_breakers;
