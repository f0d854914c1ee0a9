-- What the rows of a document cost, less of it: served chunks and history refer to their document through its job, which whoever
-- writes them has locked and which refers to it, and the length of a vector is computed in the precision that it has.

-- migrate:up

alter table upload_pipeline.document_chunks drop constraint document_chunks_document_id_fkey;
alter table upload_pipeline.events drop constraint events_document_id_fkey;

create or replace function upload_pipeline.drop_contents() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from upload_pipeline.document_chunk_buffer as b using gone as g where b.document_id = g.document_id;
    delete from upload_pipeline.document_vectors as v using gone as g where v.document_id = g.document_id;
    delete from upload_pipeline.document_chunks as c using gone as g where c.document_id = g.document_id;
    delete from upload_pipeline.events as e using gone as g where e.document_id = g.document_id;
    return null;
end
$$;

-- Whether a vector is as long as those of the embedder are, but for rounding.
create function upload_pipeline.is_unit(halfvec) returns boolean
language sql immutable strict parallel safe
return abs(sqrt(-($1 <#> $1)) - 1) <= 0.01;

create function upload_pipeline.is_unit(vector) returns boolean
language sql immutable strict parallel safe
return abs(sqrt(-($1 <#> $1)) - 1) <= 0.01;

revoke execute on function upload_pipeline.is_unit(halfvec), upload_pipeline.is_unit(vector) from public;
grant execute on function upload_pipeline.is_unit(halfvec), upload_pipeline.is_unit(vector) to ingest_worker;

-- migrate:down

drop function upload_pipeline.is_unit(vector);
drop function upload_pipeline.is_unit(halfvec);

create or replace function upload_pipeline.drop_contents() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from upload_pipeline.document_chunk_buffer as b using gone as g where b.document_id = g.document_id;
    delete from upload_pipeline.document_vectors as v using gone as g where v.document_id = g.document_id;
    return null;
end
$$;

alter table upload_pipeline.events
add constraint events_document_id_fkey foreign key (document_id) references upload_pipeline.documents on delete cascade;
alter table upload_pipeline.document_chunks
add constraint document_chunks_document_id_fkey foreign key (document_id) references upload_pipeline.documents on delete cascade;
