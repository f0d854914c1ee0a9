-- name: begin^
-- Says for whom a transaction acts: the actor for the history, the claims for row-level security. The locks of a process that
-- stands still in the middle of it are lifted after a while: by ending its session.
select
    set_config('ingest.actor', :actor, true),
    set_config('request.jwt.claims', :claims, true),
    set_config('idle_in_transaction_session_timeout', :idle_milliseconds, true);

-- name: schema_exists^
-- Whether there is our schema, and whether it is new enough to tell its migrations.
select
    to_regclass('upload_pipeline.upload_jobs') is not null as present,
    to_regprocedure('upload_pipeline.applied_migrations()') is not null as tells_migrations;

-- name: applied_migrations^
-- The versions of the migrations that have run.
select upload_pipeline.applied_migrations() as versions;

-- name: pgvector_version^
-- The version of pgvector that is installed in this database, or would be.
select coalesce(installed_version, default_version) as version
from pg_available_extensions
where name = 'vector';
