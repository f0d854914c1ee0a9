-- In which precision vectors are stored, and the index over those that search serves.

-- name: vector_precision^
-- What the columns of the vectors are: half or full.
select case t.typname when 'halfvec' then 'half' else 'full' end as precision
from pg_attribute as a
inner join pg_type as t on t.oid = a.atttypid
where a.attrelid = 'upload_pipeline.document_vectors'::regclass and a.attname = 'embedding';

-- name: set_vector_precision^
-- Changes them, while there are no vectors.
select upload_pipeline.set_vector_precision(:precision);

-- name: prepare_search^
-- Lets a vector index be searched as widely as the owner's share of the vectors needs, and says whether there is one. Before
-- pgvector 0.8 a search of the index ends with its candidates, whosever they are.
select
    set_config('hnsw.ef_search', :candidates, true) as candidates,
    case
        when string_to_array(e.extversion, '.')::integer[] >= array[0, 8]
            then set_config('hnsw.iterative_scan', 'strict_order', true)
    end as scan,
    exists (
        select
        from pg_index as i
        where i.indexrelid = to_regclass('upload_pipeline.document_vectors_by_embedding') and i.indisvalid
    ) as is_indexed
from pg_extension as e
where e.extname = 'vector';

-- name: try_index_lock^
-- Held by the session that builds the index, also when its client is gone and the server still builds.
select pg_try_advisory_lock(hashtextextended('ingestion_pipeline.vector_index', 0)) as locked;

-- name: release_index_lock^
-- By the same session.
select pg_advisory_unlock(hashtextextended('ingestion_pipeline.vector_index', 0)) as released;

-- name: prepare_index_build^
-- What a build may use, for the session.
select
    set_config('maintenance_work_mem', :memory, false) as memory,
    set_config('max_parallel_maintenance_workers', :workers, false) as workers,
    set_config('statement_timeout', '0', false) as timeout;

-- name: build_half_index#
-- Reads and writes go on meanwhile.
create index concurrently document_vectors_by_embedding on upload_pipeline.document_vectors
using hnsw (embedding halfvec_cosine_ops) with (m = :m, ef_construction = :ef_construction);

-- name: build_full_index#
-- The same over vectors in full precision.
create index concurrently document_vectors_by_embedding on upload_pipeline.document_vectors
using hnsw (embedding vector_cosine_ops) with (m = :m, ef_construction = :ef_construction);

-- name: drop_index#
-- Search is exact again.
drop index concurrently if exists upload_pipeline.document_vectors_by_embedding;

-- name: index_progress^
-- How far the build is that runs now.
select
    p.phase,
    p.blocks_done,
    p.blocks_total
from pg_stat_progress_create_index as p
where p.relid = 'upload_pipeline.document_vectors'::regclass and p.datname = current_database();

-- name: index_facts^
-- The index, if there is one, whole or in pieces.
select
    am.amname as method,
    c.reloptions as options,
    i.indisvalid as is_valid,
    pg_relation_size(c.oid) as size_bytes
from pg_class as c
inner join pg_index as i on i.indexrelid = c.oid
inner join pg_am as am on am.oid = c.relam
where c.oid = to_regclass('upload_pipeline.document_vectors_by_embedding');

-- name: served_vectors^
-- How many vectors there are, and of the owner who has most: so many an exact search of this owner compares.
select
    coalesce(sum(o.vectors), 0)::bigint as vectors,
    count(*) as owners,
    coalesce(max(o.vectors), 0) as most_of_one_owner,
    pg_table_size('upload_pipeline.document_vectors') as size_bytes
from (
    select count(*) as vectors
    from upload_pipeline.document_vectors as v
    group by v.owner_id
) as o;
