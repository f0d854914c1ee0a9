-- Which documents have a partition in Dagster: those that were settled long ago lose theirs, until somebody wants it back.

-- name: lock_retirable
-- Documents whose partitions may go, those that were settled first before the others.
select j.document_id
from upload_pipeline.upload_jobs as j
where
    j.retired_at is null
    and j.state in ('complete', 'failed_parse', 'failed_chunking', 'failed_embedding')
    and greatest(j.state_changed_at, j.restored_at) < now() - make_interval(secs => :settled_seconds)
    and j.claimed_by is null
order by greatest(j.state_changed_at, j.restored_at)
limit :limit
for update skip locked;

-- name: record_retired!
-- Their partitions are gone.
update upload_pipeline.upload_jobs as j
set retired_at = now()
where j.document_id = any(:document_ids::uuid[]);

-- name: awaited_partitions
-- Documents whose partitions an operator wants back.
select j.document_id
from upload_pipeline.upload_jobs as j
where j.restored_at > j.retired_at
order by j.restored_at
limit :limit;

-- name: record_restored!
-- They have their partitions again, for as long as if they were settled when these were asked for.
update upload_pipeline.upload_jobs as j
set retired_at = null
where j.document_id = any(:document_ids::uuid[]);

-- name: ask_back
-- Notes that partitions are wanted back: of given documents, or of a state, those that were settled last before the others.
update upload_pipeline.upload_jobs as j
set restored_at = now()
from (
    select w.document_id
    from upload_pipeline.upload_jobs as w
    where
        w.retired_at is not null
        and (w.restored_at > w.retired_at) is not true
        and (:document_ids::uuid[] is null or w.document_id = any(:document_ids::uuid[]))
        and (:state::text is null or w.state = :state)
    order by w.state_changed_at desc
    limit :limit
    for update
) as wanted
where j.document_id = wanted.document_id
returning j.document_id;

-- name: count_partitions
-- How many documents of each state have lost their partition, and how many wait to get it back.
select
    j.state,
    count(*) as documents,
    count(j.retired_at) as retired,
    count(*) filter (where j.restored_at > j.retired_at) as awaited
from upload_pipeline.upload_jobs as j
group by j.state;
