-- For stores of 100,000 documents and more: vectors in their rows, either precision, partitions that are retired.

-- migrate:up

-- A vector out of line (TOAST) costs a search two more page visits and a copy for each row that it compares: exact search over
-- vectors in their rows takes half the time and no more space. Rows of before are read as they are.
alter table upload_pipeline.document_vector_buffer alter column embedding set storage plain;
alter table upload_pipeline.document_vectors alter column embedding set storage plain;

-- The bytes of a vector in whichever precision the schema keeps it, for fingerprints.
create function upload_pipeline.vector_bytes(halfvec) returns bytea
language sql immutable strict parallel safe
return halfvec_send($1);

create function upload_pipeline.vector_bytes(vector) returns bytea
language sql immutable strict parallel safe
return vector_send($1);

-- Keeps vectors in another precision from now on; refused once there are any, since their fingerprints would no longer agree.
create function upload_pipeline.set_vector_precision(p_precision text) returns void
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

revoke execute on function
    upload_pipeline.vector_bytes(halfvec), upload_pipeline.vector_bytes(vector), upload_pipeline.set_vector_precision(text)
from public;
grant execute on function upload_pipeline.vector_bytes(halfvec), upload_pipeline.vector_bytes(vector) to ingest_worker;

-- When a document that was settled long ago lost its partition in Dagster, and when an operator asked for it back.
alter table upload_pipeline.upload_jobs
add column retired_at timestamptz,
add column restored_at timestamptz;

create index upload_jobs_retirable on upload_pipeline.upload_jobs (greatest(state_changed_at, restored_at))
where retired_at is null and state in ('complete', 'failed_parse', 'failed_chunking', 'failed_embedding');
create index upload_jobs_to_restore on upload_pipeline.upload_jobs (restored_at)
where restored_at > retired_at;

-- migrate:down

drop index upload_pipeline.upload_jobs_to_restore;
drop index upload_pipeline.upload_jobs_retirable;
alter table upload_pipeline.upload_jobs
drop column restored_at,
drop column retired_at;

-- The code of before knows vectors in half precision only, and no index over them.
drop index if exists upload_pipeline.document_vectors_by_embedding;
drop function upload_pipeline.set_vector_precision(text);
drop function upload_pipeline.vector_bytes(vector);
drop function upload_pipeline.vector_bytes(halfvec);
alter table upload_pipeline.document_vectors
alter column embedding type halfvec(1536),
alter column embedding set storage external;
alter table upload_pipeline.document_vector_buffer
alter column embedding type halfvec(1536),
alter column embedding set storage external;
