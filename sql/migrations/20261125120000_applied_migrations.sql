-- Services ask at their start whether the schema is as new as their code.

-- migrate:up

create function upload_pipeline.applied_migrations() returns text[]
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(m.version::text), '{}') from public.ingestion_schema_migrations as m
$$;
revoke execute on function upload_pipeline.applied_migrations() from public;
grant execute on function upload_pipeline.applied_migrations() to ingest_worker, ingest_api;

-- migrate:down

drop function upload_pipeline.applied_migrations();
