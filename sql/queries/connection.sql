-- name: begin^
-- Says for whom a transaction acts: the actor for the history, the claims for row-level security.
select set_config('ingest.actor', :actor, true), set_config('request.jwt.claims', :claims, true);

-- name: schema_exists^
-- Whether the migrations have run.
select to_regclass('upload_pipeline.upload_jobs') is not null as present;

-- name: pgvector_version^
-- The version of pgvector that is installed in this database, or would be.
select coalesce(installed_version, default_version) as version
from pg_available_extensions
where name = 'vector';
