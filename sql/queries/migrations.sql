-- name: try_migration_lock^
-- Polled, never waited for: a session that waits for a lock holds a snapshot that blocks CREATE INDEX CONCURRENTLY.
select pg_try_advisory_lock(hashtextextended('ingestion_pipeline.migrations', 0)) as locked;

-- name: create_checksums#
-- What each migration's file was when it was applied. Runs without the migration lock; a lock of its own, held for a moment,
-- because IF NOT EXISTS does not keep two that create the same table at once from failing, in any of several ways.
do $$
begin
    perform pg_advisory_xact_lock(hashtextextended('ingestion_pipeline.migration_tables', 0));
    create table if not exists public.ingestion_schema_checksums (
        version text primary key,
        sha256 text not null
    );
    create table if not exists public.ingestion_schema_migrations (version varchar primary key);
end
$$;

-- name: applied_versions
-- The migrations that ran here, with the hash of the file then.
select
    m.version,
    c.sha256
from public.ingestion_schema_migrations as m
left join public.ingestion_schema_checksums as c on c.version = m.version
order by m.version;

-- name: remember_checksum!
-- Written before a migration runs: a version without a row in the migrations table has not run, whatever stands here.
insert into public.ingestion_schema_checksums (version, sha256)
values (:version, :sha256)
on conflict (version) do update set sha256 = excluded.sha256;

-- name: set_worker_login!
-- The role that runs and sensors use.
alter role ingest_worker with login password :password;

-- name: set_api_login!
-- The role that the API uses.
alter role ingest_api with login password :password;
