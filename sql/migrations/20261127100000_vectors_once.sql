-- A vector is written once, where search finds it as soon as its chunk is served: the chunk and the hash of its text name it, and
-- promotion moves chunks alone. There is no buffer of vectors any more. What a row costs on its way is less: one index instead of
-- two finds a document's rows and a chunk's, and that a document is there is known from its job, which whoever writes has locked.

-- migrate:up

alter table upload_pipeline.document_vectors
drop constraint document_vectors_chunk_id_fkey,
drop constraint document_vectors_pkey,
add column vector_sha256 bytea check (octet_length(vector_sha256) = 32),
add primary key (document_id, chunk_id, model, chunk_sha256);
drop index upload_pipeline.document_vectors_by_document;

alter table upload_pipeline.document_chunk_buffer
drop constraint document_chunk_buffer_document_id_fkey,
drop constraint document_chunk_buffer_document_id_ordinal_key;

insert into upload_pipeline.document_vectors
    (chunk_id, model, document_id, owner_id, chunk_sha256, embedding, vector_sha256)
select
    b.chunk_id, b.model, b.document_id, b.owner_id, b.chunk_sha256, b.embedding, b.vector_sha256
from upload_pipeline.document_vector_buffer as b
on conflict do nothing;
drop table upload_pipeline.document_vector_buffer;

alter table upload_pipeline.document_chunk_buffer
drop constraint document_chunk_buffer_pkey,
add primary key (document_id, ordinal);

create function upload_pipeline.drop_contents() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from upload_pipeline.document_chunk_buffer as b using gone as g where b.document_id = g.document_id;
    delete from upload_pipeline.document_vectors as v using gone as g where v.document_id = g.document_id;
    return null;
end
$$;
revoke execute on function upload_pipeline.drop_contents() from public;

create trigger drop_contents after delete on upload_pipeline.documents
referencing old table as gone
for each statement execute function upload_pipeline.drop_contents();

-- COPY does not load tables with row-level security, so workers write to this one, which is closed to the API. What an owner may
-- see of it the API reads from the table above it, whose only partition it is.
drop policy worker_everything on upload_pipeline.document_vectors;
drop policy owner_reads on upload_pipeline.document_vectors;
alter table upload_pipeline.document_vectors disable row level security;
revoke select on upload_pipeline.document_vectors from ingest_api;

create table upload_pipeline.owned_vectors (like upload_pipeline.document_vectors including storage) partition by list (owner_id);
alter table upload_pipeline.owned_vectors attach partition upload_pipeline.document_vectors default;
alter table upload_pipeline.owned_vectors enable row level security;
create policy owner_reads on upload_pipeline.owned_vectors for select to ingest_api
using (owner_id = (select upload_pipeline.current_owner()));
grant select on upload_pipeline.owned_vectors to ingest_api;

create or replace function upload_pipeline.count_buffered_vectors(p_document_id uuid) returns integer
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)::integer
    from upload_pipeline.document_chunk_buffer as b
    where
        b.document_id = p_document_id
        and b.owner_id = upload_pipeline.current_owner()
        and exists (
            select from upload_pipeline.document_vectors as v
            where v.document_id = b.document_id and v.chunk_id = b.chunk_id and v.chunk_sha256 = b.chunk_sha256
        )
$$;

create or replace function upload_pipeline.set_vector_precision(p_precision text) returns void
language plpgsql
as $$
begin
    lock table upload_pipeline.owned_vectors in access exclusive mode;
    if exists (select from upload_pipeline.owned_vectors) then
        raise exception 'there are vectors already' using errcode = 'object_not_in_prerequisite_state';
    end if;
    drop index if exists upload_pipeline.document_vectors_by_embedding;
    execute format(
        'alter table upload_pipeline.owned_vectors alter column embedding type %s, alter column embedding set storage plain',
        case p_precision when 'half' then 'halfvec(1536)' when 'full' then 'vector(1536)' end
    );
end
$$;

-- migrate:down

create or replace function upload_pipeline.set_vector_precision(p_precision text) returns void
language plpgsql
as $$
declare
    vectors text;
begin
    lock table upload_pipeline.document_vector_buffer, upload_pipeline.document_vectors in access exclusive mode;
    if exists (select from upload_pipeline.document_vector_buffer) or exists (select from upload_pipeline.document_vectors) then
        raise exception 'there are vectors already' using errcode = 'object_not_in_prerequisite_state';
    end if;
    drop index if exists upload_pipeline.document_vectors_by_embedding;
    foreach vectors in array array['document_vector_buffer', 'document_vectors']
    loop
        execute format(
            'alter table upload_pipeline.%I alter column embedding type %s, alter column embedding set storage plain',
            vectors,
            case p_precision when 'half' then 'halfvec(1536)' when 'full' then 'vector(1536)' end
        );
    end loop;
end
$$;

alter table upload_pipeline.owned_vectors detach partition upload_pipeline.document_vectors;
drop table upload_pipeline.owned_vectors;

drop trigger drop_contents on upload_pipeline.documents;
drop function upload_pipeline.drop_contents();
alter table upload_pipeline.document_chunk_buffer
drop constraint document_chunk_buffer_pkey,
add primary key (chunk_id),
add unique (document_id, ordinal),
add foreign key (document_id) references upload_pipeline.documents on delete cascade;

-- The precision stays what it is.
create table upload_pipeline.document_vector_buffer (like upload_pipeline.document_vectors including storage);
alter table upload_pipeline.document_vector_buffer
add primary key (chunk_id),
add check (octet_length(chunk_sha256) = 32),
add check (octet_length(vector_sha256) = 32),
add foreign key (chunk_id) references upload_pipeline.document_chunk_buffer on delete cascade;
create index document_vector_buffer_by_document on upload_pipeline.document_vector_buffer (document_id);
create index document_vector_buffer_by_content on upload_pipeline.document_vector_buffer (owner_id, model, chunk_sha256);
grant select, insert, update, delete on upload_pipeline.document_vector_buffer to ingest_worker;

insert into upload_pipeline.document_vector_buffer
    (chunk_id, model, document_id, owner_id, chunk_sha256, embedding, vector_sha256)
select
    v.chunk_id, v.model, v.document_id, v.owner_id, v.chunk_sha256, v.embedding, v.vector_sha256
from upload_pipeline.document_vectors as v
inner join upload_pipeline.document_chunk_buffer as b on b.chunk_id = v.chunk_id and b.chunk_sha256 = v.chunk_sha256
on conflict do nothing;
delete from upload_pipeline.document_vectors as v
where
    not exists (
        select from upload_pipeline.document_chunks as c where c.chunk_id = v.chunk_id and c.chunk_sha256 = v.chunk_sha256
    );

create index document_vectors_by_document on upload_pipeline.document_vectors (document_id);
alter table upload_pipeline.document_vectors
drop constraint document_vectors_pkey,
drop column vector_sha256,
add primary key (chunk_id, model),
add foreign key (chunk_id) references upload_pipeline.document_chunks on delete cascade;

alter table upload_pipeline.document_vectors enable row level security;
create policy worker_everything on upload_pipeline.document_vectors to ingest_worker using (true) with check (true);
create policy owner_reads on upload_pipeline.document_vectors for select to ingest_api
using (owner_id = (select upload_pipeline.current_owner()));
grant select on upload_pipeline.document_vectors to ingest_api;

create or replace function upload_pipeline.count_buffered_vectors(p_document_id uuid) returns integer
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)::integer
    from upload_pipeline.document_vector_buffer as b
    where b.document_id = p_document_id and b.owner_id = upload_pipeline.current_owner()
$$;
