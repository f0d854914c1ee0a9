-- What each chunk costs on its way, less of it: hashes of vectors are made where they arrive, COPY loads the vector buffer itself,
-- and a row refers to its document once.

-- migrate:up

-- Of the vector as vector_bytes() gives it. The worker sends it with the vector; where it is null it is made when it is needed.
alter table upload_pipeline.document_vector_buffer
add column vector_sha256 bytea check (octet_length(vector_sha256) = 32);

-- A vector's chunk refers to the document, and goes with it.
alter table upload_pipeline.document_vector_buffer drop constraint document_vector_buffer_document_id_fkey;
alter table upload_pipeline.document_vectors drop constraint document_vectors_document_id_fkey;

-- Like the chunk buffer, the vector buffer is closed to the API and stays without policies: COPY does not load tables that have
-- them. What the API tells of it is how many vectors there are.
drop policy worker_everything on upload_pipeline.document_vector_buffer;
drop policy owner_reads on upload_pipeline.document_vector_buffer;
alter table upload_pipeline.document_vector_buffer disable row level security;
revoke select on upload_pipeline.document_vector_buffer from ingest_api;

create function upload_pipeline.count_buffered_vectors(p_document_id uuid) returns integer
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)::integer
    from upload_pipeline.document_vector_buffer as b
    where b.document_id = p_document_id and b.owner_id = upload_pipeline.current_owner()
$$;
revoke execute on function upload_pipeline.count_buffered_vectors(uuid) from public;
grant execute on function upload_pipeline.count_buffered_vectors(uuid) to ingest_api;

-- Chunks of some 2,000 characters are at the size from which PostgreSQL tries to compress them, which takes longer than
-- everything else that it does with them.
alter table upload_pipeline.document_chunk_buffer set (toast_tuple_target = 8160);
alter table upload_pipeline.document_chunks set (toast_tuple_target = 8160);

-- migrate:down

alter table upload_pipeline.document_chunks reset (toast_tuple_target);
alter table upload_pipeline.document_chunk_buffer reset (toast_tuple_target);
drop function upload_pipeline.count_buffered_vectors(uuid);
alter table upload_pipeline.document_vector_buffer enable row level security;
create policy worker_everything on upload_pipeline.document_vector_buffer to ingest_worker using (true) with check (true);
create policy owner_reads on upload_pipeline.document_vector_buffer for select to ingest_api
using (owner_id = (select upload_pipeline.current_owner()));
grant select on upload_pipeline.document_vector_buffer to ingest_api;
alter table upload_pipeline.document_vectors
add constraint document_vectors_document_id_fkey
foreign key (document_id) references upload_pipeline.documents on delete cascade;
alter table upload_pipeline.document_vector_buffer
add constraint document_vector_buffer_document_id_fkey
foreign key (document_id) references upload_pipeline.documents on delete cascade;
alter table upload_pipeline.document_vector_buffer drop column vector_sha256;
