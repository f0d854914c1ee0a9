-- Ways back for documents whose stored text, chunks or vectors turn out to be damaged, and the index that tells whether a row
-- refers to an object of the store.

-- migrate:up

insert into upload_pipeline.state_transitions (from_state, to_state)
values
    -- built anew from the stored text
    ('complete', 'parse_validated'),
    ('failed_embedding', 'parse_validated'),
    -- parsed anew from the uploaded file
    ('complete', 'uploaded');

create index documents_by_object on upload_pipeline.documents (object_key);

-- migrate:down

drop index upload_pipeline.documents_by_object;

delete from upload_pipeline.state_transitions
where
    (from_state, to_state) in (
        ('complete', 'parse_validated'),
        ('failed_embedding', 'parse_validated'),
        ('complete', 'uploaded')
    );
