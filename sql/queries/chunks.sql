-- The buffers between the stages, and what search serves.

-- name: record_parsed!
-- What the parser made of a document; the text itself is in the object store.
update upload_pipeline.documents as d
set
    parsed_key = :parsed_key,
    parsed_sha256 = :parsed_sha256,
    page_numbers = :page_numbers,
    page_starts = :page_starts,
    failed_pages = :failed_pages,
    page_count = :page_count
where d.document_id = :document_id;

-- name: clear_chunk_buffer!
-- Chunking anew replaces what an earlier try left, vectors included.
delete from upload_pipeline.document_chunk_buffer as b
where b.document_id = :document_id;

-- name: record_chunk_totals!
-- For the progress in numbers.
update upload_pipeline.documents as d
set chunk_count = :chunk_count, token_count = :token_count
where d.document_id = :document_id;

-- name: reuse_vectors
-- Vectors of the same text, model and owner that were paid for already; they never leave the database.
insert into upload_pipeline.document_vector_buffer (chunk_id, document_id, owner_id, model, chunk_sha256, embedding)
select
    b.chunk_id,
    b.document_id,
    b.owner_id,
    :model,
    b.chunk_sha256,
    known.embedding
from upload_pipeline.document_chunk_buffer as b
cross join lateral (
    select v.embedding
    from upload_pipeline.document_vectors as v
    where v.owner_id = b.owner_id and v.model = :model and v.chunk_sha256 = b.chunk_sha256
    limit 1
) as known
where b.document_id = any(:document_ids)
on conflict (chunk_id) do nothing
returning document_id;

-- name: discard_vectors_of_other_models!
-- After the model setting changed, half-embedded documents start their vectors over.
delete from upload_pipeline.document_vector_buffer as v
where v.document_id = any(:document_ids) and v.model <> :model;

-- name: missing_vectors
-- Chunks that have no vector yet.
select
    b.chunk_id, b.document_id, b.owner_id, b.token_count, b.chunk_sha256, b.text
from upload_pipeline.document_chunk_buffer as b
where
    b.document_id = any(:document_ids)
    and not exists (select from upload_pipeline.document_vector_buffer as v where v.chunk_id = b.chunk_id)
order by b.document_id, b.ordinal;

-- name: create_staged_vectors#
-- COPY does not load tables with row-level security, so vectors come by a table of the session's own, empty after each commit.
create temporary table if not exists staged_vectors (like upload_pipeline.document_vector_buffer including storage)
on commit delete rows;

-- name: store_staged_vectors!
-- Writing twice is writing once.
insert into upload_pipeline.document_vector_buffer (chunk_id, document_id, owner_id, model, chunk_sha256, embedding)
select
    s.chunk_id, s.document_id, s.owner_id, s.model, s.chunk_sha256, s.embedding
from pg_temp.staged_vectors as s
on conflict (chunk_id) do update
set model = excluded.model, chunk_sha256 = excluded.chunk_sha256, embedding = excluded.embedding;

-- name: vector_facts^
-- Whether every chunk of a document has its vector, of the right text and size.
select
    count(*) as chunks,
    count(v.chunk_id) as vectors,
    count(*) filter (where v.chunk_sha256 <> b.chunk_sha256) as foreign_vectors,
    count(*) filter (where abs(vector_norm(v.embedding::vector) - 1) > 0.01) as abnormal_vectors,
    min(vector_dims(v.embedding)) as least_dimensions,
    max(vector_dims(v.embedding)) as most_dimensions,
    coalesce(sum(b.token_count), 0)::bigint as tokens
from upload_pipeline.document_chunk_buffer as b
left join upload_pipeline.document_vector_buffer as v on v.chunk_id = b.chunk_id
where b.document_id = :document_id;

-- name: drop_stale_chunks!
-- What an earlier version of the chunker served and this one does not.
delete from upload_pipeline.document_chunks as c
where
    c.document_id = :document_id
    and not exists (select from upload_pipeline.document_chunk_buffer as b where b.chunk_id = c.chunk_id);

-- name: promote_chunks!
-- From the buffer to what search serves.
insert into upload_pipeline.document_chunks (
    chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path, token_count,
    chunk_sha256, text
)
select
    b.chunk_id, b.document_id, b.owner_id, b.ordinal, b.start_offset, b.end_offset, b.first_page, b.last_page,
    b.heading_path, b.token_count, b.chunk_sha256, b.text
from upload_pipeline.document_chunk_buffer as b
where b.document_id = :document_id
on conflict (chunk_id) do update
set
    start_offset = excluded.start_offset, end_offset = excluded.end_offset, first_page = excluded.first_page,
    last_page = excluded.last_page, heading_path = excluded.heading_path, token_count = excluded.token_count,
    chunk_sha256 = excluded.chunk_sha256, text = excluded.text;

-- name: promote_vectors!
-- Likewise the vectors. Those that another model made of the chunk's earlier text go.
with outdated as (
    delete from upload_pipeline.document_vectors as o
    using upload_pipeline.document_vector_buffer as b
    where
        b.document_id = :document_id
        and o.chunk_id = b.chunk_id
        and o.model <> b.model
        and o.chunk_sha256 <> b.chunk_sha256
)

insert into upload_pipeline.document_vectors (chunk_id, model, document_id, owner_id, chunk_sha256, embedding)
select
    v.chunk_id, v.model, v.document_id, v.owner_id, v.chunk_sha256, v.embedding
from upload_pipeline.document_vector_buffer as v
where v.document_id = :document_id
on conflict (chunk_id, model) do update
set chunk_sha256 = excluded.chunk_sha256, embedding = excluded.embedding;

-- name: promotion_facts^
-- Counts and hashes of both sides, read back from the tables themselves.
select
    buffered.chunks as buffered_chunks,
    buffered.fingerprint as buffered_sha256,
    served.chunks as served_chunks,
    served.fingerprint as served_sha256,
    buffered.tokens
from (
    select
        count(*) as chunks,
        coalesce(sum(b.token_count), 0)::bigint as tokens,
        sha256(string_agg(
            uuid_send(b.chunk_id) || sha256(convert_to(b.text, 'UTF8')) || sha256(upload_pipeline.vector_bytes(v.embedding)), ''::bytea order by b.ordinal
        )) as fingerprint
    from upload_pipeline.document_chunk_buffer as b
    inner join upload_pipeline.document_vector_buffer as v on v.chunk_id = b.chunk_id
    where b.document_id = :document_id
) as buffered
cross join (
    select
        count(*) as chunks,
        sha256(string_agg(
            uuid_send(c.chunk_id) || sha256(convert_to(c.text, 'UTF8')) || sha256(upload_pipeline.vector_bytes(v.embedding)), ''::bytea order by c.ordinal
        )) as fingerprint
    from upload_pipeline.document_chunks as c
    inner join upload_pipeline.document_vectors as v on v.chunk_id = c.chunk_id and v.model = :model
    where c.document_id = :document_id
) as served;

-- name: record_completion!
-- The document's summary.
update upload_pipeline.documents as d
set
    chunk_count = :chunk_count,
    token_count = :token_count,
    content_sha256 = :content_sha256,
    embedding_model = :model,
    completed_at = now()
where d.document_id = :document_id;

-- name: copy_chunks#
-- Bulk load of the chunk buffer, fed in binary.
copy upload_pipeline.document_chunk_buffer (
    chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path, token_count,
    chunk_sha256, text
) from stdin with (format binary);

-- name: copy_vectors#
-- Bulk load of vectors, fed in binary.
copy pg_temp.staged_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, embedding)
from stdin with (format binary);
