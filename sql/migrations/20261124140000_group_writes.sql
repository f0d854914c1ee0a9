-- Groups of documents are embedded side by side: what one has just paid for is found by the others before it is served.

-- migrate:up

create index document_vector_buffer_by_content on upload_pipeline.document_vector_buffer (owner_id, model, chunk_sha256);

-- migrate:down

drop index upload_pipeline.document_vector_buffer_by_content;
