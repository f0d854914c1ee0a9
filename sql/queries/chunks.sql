-- The buffers between the stages, and what search serves.
--
-- What joins rows of many documents goes from document to document (lateral) or from chunk to chunk (offset 0), by an index: left to
-- itself the planner reads whole tables until statistics tell it better, and a flood of documents is faster than statistics. From
-- chunk to chunk goes also what joins rows of one document: a large one has thousands.

-- name: record_parsed!
-- What the parser made of documents, as a JSON array; the texts themselves are in the object store.
update upload_pipeline.documents as d
set
    parsed_key = r.parsed_key,
    parsed_sha256 = decode(r.parsed_sha256, 'hex'),
    page_numbers = r.page_numbers,
    page_starts = r.page_starts,
    failed_pages = r.failed_pages,
    page_count = cardinality(r.page_numbers) + cardinality(r.failed_pages)
from jsonb_to_recordset(:rows::jsonb) as r (
    document_id uuid, parsed_key text, parsed_sha256 text, page_numbers integer[], page_starts integer[], failed_pages integer[]
)
where d.document_id = r.document_id;

-- name: clear_chunk_buffer!
-- Chunking anew replaces what an earlier try left; the vectors of texts that stand in the new chunks too are found again.
delete from upload_pipeline.document_chunk_buffer as b
where b.document_id = any(:document_ids::uuid[]);

-- name: record_chunk_totals!
-- For the progress in numbers.
update upload_pipeline.documents as d
set chunk_count = t.chunk_count, token_count = t.token_count
from unnest(:document_ids::uuid[], :chunk_counts::integer[], :token_counts::bigint[]) as t (document_id, chunk_count, token_count)
where d.document_id = t.document_id;

-- name: reuse_vectors
-- Vectors of the same text, model and owner that were paid for already, for whatever document; they never leave the database.
insert into upload_pipeline.document_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, vector_sha256, embedding)
select
    b.chunk_id,
    b.document_id,
    b.owner_id,
    :model,
    b.chunk_sha256,
    known.vector_sha256,
    known.embedding
from upload_pipeline.document_chunk_buffer as b
cross join lateral (
    select
        v.vector_sha256,
        v.embedding
    from upload_pipeline.document_vectors as v
    where v.owner_id = b.owner_id and v.model = :model and v.chunk_sha256 = b.chunk_sha256
    limit 1
) as known
where
    b.document_id = any(:document_ids::uuid[])
    and not exists (
        select from upload_pipeline.document_vectors as o
        where (o.document_id, o.chunk_id, o.model, o.chunk_sha256) = (b.document_id, b.chunk_id, :model, b.chunk_sha256) offset 0
    )
on conflict do nothing
returning document_id;

-- name: missing_vectors
-- Chunks that have no vector yet.
select
    b.chunk_id, b.document_id, b.owner_id, b.token_count, b.chunk_sha256, b.text
from upload_pipeline.document_chunk_buffer as b
where
    b.document_id = any(:document_ids::uuid[])
    and not exists (
        select from upload_pipeline.document_vectors as v
        where (v.document_id, v.chunk_id, v.model, v.chunk_sha256) = (b.document_id, b.chunk_id, :model, b.chunk_sha256) offset 0
    )
order by b.document_id, b.ordinal
limit :most;

-- name: create_staged_vectors#
-- Where vectors wait of which some may be there already; a table of the session's own, empty after each commit.
create temporary table if not exists staged_vectors (like upload_pipeline.document_vectors including storage)
on commit delete rows;

-- name: store_staged_vectors!
-- Writing twice is writing once.
insert into upload_pipeline.document_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, vector_sha256, embedding)
select
    s.chunk_id, s.document_id, s.owner_id, s.model, s.chunk_sha256, s.vector_sha256, s.embedding
from pg_temp.staged_vectors as s
on conflict (document_id, chunk_id, model, chunk_sha256) do update
set vector_sha256 = excluded.vector_sha256, embedding = excluded.embedding;

-- name: documents_with_vectors
-- Those that were embedded before, at least in part.
select w.document_id
from unnest(:document_ids::uuid[]) as w (document_id)
where exists (select from upload_pipeline.document_vectors as v where v.document_id = w.document_id offset 0);

-- name: vector_facts
-- Whether every chunk of each document has its vector, of the right size.
select
    d.document_id,
    found.*
from unnest(:document_ids::uuid[]) as d (document_id)
cross join lateral (
    select
        count(*) as chunks,
        count(v.chunk_id) as vectors,
        count(*) filter (where not upload_pipeline.is_unit(v.embedding)) as abnormal_vectors,
        min(vector_dims(v.embedding)) as least_dimensions,
        max(vector_dims(v.embedding)) as most_dimensions,
        coalesce(sum(b.token_count), 0)::bigint as tokens
    from upload_pipeline.document_chunk_buffer as b
    left join lateral (
        select w.chunk_id, w.embedding from upload_pipeline.document_vectors as w
        where (w.document_id, w.chunk_id, w.model, w.chunk_sha256) = (b.document_id, b.chunk_id, :model, b.chunk_sha256) offset 0
    ) as v on true
    where b.document_id = d.document_id
) as found;

-- name: drop_served_chunks!
-- What is promoted takes their place, or search must not find them; what is right of them comes back with the document.
delete from upload_pipeline.document_chunks as c
where c.document_id = any(:document_ids::uuid[]);

-- name: promote_chunks!
-- From the buffer to what search serves, and with them their vectors.
insert into upload_pipeline.document_chunks (
    chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path, token_count,
    chunk_sha256, text
)
select
    b.chunk_id, b.document_id, b.owner_id, b.ordinal, b.start_offset, b.end_offset, b.first_page, b.last_page,
    b.heading_path, b.token_count, b.chunk_sha256, b.text
from upload_pipeline.document_chunk_buffer as b
where b.document_id = any(:document_ids::uuid[]);

-- name: drop_outdated_vectors!
-- Vectors of texts that the served chunks no longer have.
delete from upload_pipeline.document_vectors as v
using unnest(:document_ids::uuid[]) as w (document_id)
where
    v.document_id = w.document_id
    and not exists (
        select from upload_pipeline.document_chunks as c
        where c.chunk_id = v.chunk_id and c.chunk_sha256 = v.chunk_sha256 offset 0
    );

-- name: promotion_facts
-- Both sides of each document, read back from the tables themselves: how many chunks there are, how many are not served as they
-- were buffered or have no vector, and how many vectors there are, those of other texts and models included. The fingerprint is
-- made of the hashes that text and vectors came with; the audit makes it of what is served.
select
    d.document_id,
    buffered.chunks as buffered_chunks,
    served.chunks as served_chunks,
    buffered.unequal as unequal_chunks,
    buffered.fingerprint as content_sha256,
    buffered.tokens,
    kept.vectors
from unnest(:document_ids::uuid[]) as d (document_id)
cross join lateral (
    select
        count(*) as chunks,
        coalesce(sum(b.token_count), 0)::bigint as tokens,
        count(*) filter (
            where
            -- byte by byte
            row(
                c.ordinal, c.start_offset, c.end_offset, c.first_page, c.last_page, c.heading_path, c.token_count,
                c.chunk_sha256, c.text
            )::record *<> row(
                b.ordinal, b.start_offset, b.end_offset, b.first_page, b.last_page, b.heading_path, b.token_count,
                b.chunk_sha256, b.text
            )::record
            or v.chunk_id is null
        ) as unequal,
        sha256(string_agg(
            uuid_send(b.chunk_id) || b.chunk_sha256
            || coalesce(v.vector_sha256, sha256(upload_pipeline.vector_bytes(v.embedding))), ''::bytea order by b.ordinal
        )) as fingerprint
    from upload_pipeline.document_chunk_buffer as b
    left join lateral (
        select w.* from upload_pipeline.document_vectors as w
        where (w.document_id, w.chunk_id, w.model, w.chunk_sha256) = (b.document_id, b.chunk_id, :model, b.chunk_sha256) offset 0
    ) as v on true
    left join lateral (
        select w.* from upload_pipeline.document_chunks as w
        where w.chunk_id = b.chunk_id offset 0
    ) as c on true
    where b.document_id = d.document_id
) as buffered
cross join lateral (
    select count(*) as chunks
    from upload_pipeline.document_chunks as c
    where c.document_id = d.document_id
) as served
cross join lateral (
    select count(*) as vectors
    from upload_pipeline.document_vectors as v
    where v.document_id = d.document_id
) as kept;

-- name: record_completion!
-- The documents' summaries.
update upload_pipeline.documents as d
set
    chunk_count = t.chunk_count,
    token_count = t.token_count,
    content_sha256 = t.content_sha256,
    embedding_model = :model,
    completed_at = now()
from unnest(
    :document_ids::uuid[], :counts::integer[], :tokens::bigint[], :hashes::bytea[]
) as t (document_id, chunk_count, token_count, content_sha256)
where d.document_id = t.document_id;

-- name: copy_chunks#
-- Bulk load of the chunk buffer, fed in binary.
copy upload_pipeline.document_chunk_buffer (
    chunk_id, document_id, owner_id, ordinal, start_offset, end_offset, first_page, last_page, heading_path, token_count,
    chunk_sha256, text
) from stdin with (format binary);

-- name: copy_vectors#
-- Bulk load of vectors of chunks that have none, fed in binary.
copy upload_pipeline.document_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, vector_sha256, embedding)
from stdin with (format binary);

-- name: copy_staged_vectors#
-- Likewise of chunks some of which may have one.
copy pg_temp.staged_vectors (chunk_id, document_id, owner_id, model, chunk_sha256, vector_sha256, embedding)
from stdin with (format binary);
