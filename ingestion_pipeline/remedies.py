"""What to do about an error, by its code: shown by the API, the command line and Dagster. One table, nothing else.

Codes are lower case; those of the parser's failures are the vendor's own.
"""

_DEFAULT = (
    "Look at the message and the document's history; if they don't explain it, report them with the correlation id."
)
_NO_TEXT = (
    "The file holds no text that could be read. Scanned pages need a parse tier that recognises images: "
    "set INGEST_PARSE_TIER to agentic, and retry the document, or run OCR over the file and upload the new one."
)
_SMALLER = "Split the file into smaller ones and upload those."
_LATER = "The pipeline tries again by itself. If it gave up, retry the document once the service is back."
_WAIT = "Try again in a few seconds. If it goes on, look at /readyz and at the logs of the service that it names."
_MULTIPART = "Send multipart/form-data with exactly one part, named `file`, that has a file name."
_RESUBMIT = "Nothing: the pipeline submits the document anew by itself."
_PARSER_SETTINGS = (
    "Look at INGEST_LLAMA_CLOUD_BASE_URL, INGEST_PARSE_TIER and INGEST_PARSE_VERSION, restart, and retry the document."
)
_PARSER_KEY = "Set a valid INGEST_LLAMA_CLOUD_API_KEY of the region of the base URL, restart, and retry the document."
_DEFECT = "This is a defect of the pipeline. Report the correlation id; once it is mended, retry the document."
_DAMAGED = (
    "What is stored is not what was recorded: restore the object from a backup, and look for who changed the store."
)
_EMBEDDING_LIMITS = "Lower the batch sizes or the chunk size to what the embedding model takes, and retry the document."
_OPENAI_ACCOUNT = (
    "Look at the key, the plan and the budget of the OpenAI account (INGEST_OPENAI_API_KEY), and retry the document."
)

REMEDIES: dict[str, str] = {
    # the file
    "invalid_document": "Repair the file as the message says and upload it again.",
    "invalid_filename": "Rename the file: no path, no control characters, at most 255 bytes.",
    "unsupported_type": "Convert the file to one of the supported types that the message lists.",
    "content_mismatch": "Send the file with its true content type and file extension, or repair it.",
    "too_large": "Split the file into smaller ones, or have the operator raise INGEST_MAX_UPLOAD_BYTES.",
    "empty_file": "Upload a file with content.",
    "invalid_utf8": "Save the file as UTF-8 and upload it again.",
    "invalid_encoding": "Save the page as UTF-8, or declare the charset that it is in, and upload it again.",
    "nul_character": "Remove the NUL characters: the file is probably not plain text. Upload it again.",
    # the parser's failures
    "unsupported_file_type": "Convert the file to PDF and upload that.",
    "pdf_is_protected": "Remove the password from the PDF and upload it again.",
    "pdf_is_broken": "Open the PDF and save or print it to a new PDF; upload the new one.",
    "no_data_found_in_file": _NO_TEXT,
    "no_text": _NO_TEXT,
    "document_too_large": _SMALLER,
    "too_many_pages": _SMALLER,
    "timeout": "The pipeline tries again by itself. If it gives up, split the file into smaller ones.",
    "parse_failed": "Retry the document. If it fails again, open the file and save it anew, and upload the new one.",
    "parse_cancelled": "Retry the document if it is still wanted.",
    "parse_job_lost": _RESUBMIT,
    "parse_jobs_lost": "Look at the parser's status page and retention; then retry the document.",
    # outside services
    "vendor_unavailable": _LATER,
    "rate_limited": _LATER,
    "vendor_paused": "Nothing: the document goes on by itself once the service answers again. `ingest status` and GET "
    "/vendors say since when it is paused, and why.",
    "rate_limit_reached": "Nothing: the document waits for its turn. The limits are INGEST_PARSE_REQUESTS_PER_MINUTE, "
    "INGEST_EMBED_REQUESTS_PER_MINUTE and INGEST_EMBED_TOKENS_PER_MINUTE.",
    "budget_exhausted": "Nothing: the document goes on after midnight UTC. To go on now, raise "
    "INGEST_DAILY_BUDGET_USD or INGEST_OWNER_DAILY_BUDGET_USD, restart, and retry the document.",
    "document_budget_exceeded": "Raise INGEST_DOCUMENT_BUDGET_USD, restart, and retry the document: what was paid "
    "for is kept. Or split the file and upload the parts.",
    "vendor_rejected": "Look at key, plan and credit at the service that the message names; then retry the document.",
    "request_rejected": "The service refuses this content. Look at the message; a changed file is a new document.",
    "invalid_api_key": "Set a valid key of the service and its region, restart, and retry the document.",
    "insufficient_quota": _OPENAI_ACCOUNT,
    "billing_hard_limit_reached": _OPENAI_ACCOUNT,
    "billing_not_active": _OPENAI_ACCOUNT,
    "malformed_response": _LATER,
    "parse_not_ready": _LATER,
    "parser_bad_request": _PARSER_SETTINGS,
    "parser_unprocessable": _PARSER_SETTINGS,
    "parser_not_found": _PARSER_SETTINGS,
    "parser_rejected": _PARSER_SETTINGS,
    "parser_unauthorised": _PARSER_KEY,
    "parser_forbidden": _PARSER_KEY,
    "parser_no_credit": "Add credits to the LlamaCloud account and retry the document.",
    "parser_too_large": _SMALLER,
    "model_not_found": "Set INGEST_EMBEDDING_MODEL to a model that the key may use, restart, and retry the document.",
    "context_length_exceeded": _EMBEDDING_LIMITS,
    "max_tokens_per_request": _EMBEDDING_LIMITS,
    "array_above_max_length": _EMBEDDING_LIMITS,
    # what is stored
    "integrity_mismatch": _DAMAGED,
    "object_missing": _DAMAGED,
    "check_failed": "Look at the failed check in Dagster; once its cause is gone, retry the document.",
    "store_unavailable": _WAIT,
    "database_unavailable": _WAIT,
    "no_answer": _WAIT,
    "no_temporary_space": "Make room in the machine's folder for temporary files. The pipeline tries again by itself.",
    "store_full": "Make room in the object store. The pipeline tries again by itself.",
    "store_rejected": "Look at the object store's settings and permissions (INGEST_OBJECT_STORE, INGEST_S3_*).",
    "invalid_object_key": _DEFECT,
    "worker_lost": "Nothing: another run takes the document up. If it is a dead letter, look at the logs of its runs "
    "and at the memory of the machine, and retry it.",
    "claim_lost": "Nothing: another run has taken the document over.",
    # requests
    "not_authenticated": "Send the header `Authorization: Bearer <key>` with the key of INGEST_API_KEY.",
    "not_found": "Look at the id: the document does not exist, or it belongs to another owner.",
    "not_retryable": "Look at the document's state: what failed, was cancelled or waits for a retry can be retried, "
    "and what is complete can start over. "
    "To start over with a document that is at work, cancel it first.",
    "not_cancellable": "Nothing: the document is complete, and search finds it.",
    "no_such_path": "Look at /openapi.json for the paths that exist.",
    "method_not_allowed": "Use one of the methods of the Allow header.",
    "invalid_request": "Correct the parameters that `errors` names.",
    "invalid_cursor": "Send `next_cursor` of the previous page as it came, or none to begin anew.",
    "malformed_multipart": _MULTIPART,
    "missing_file": _MULTIPART,
    "several_files": "Send one request for each file.",
    "unexpected_part": _MULTIPART,
    "not_multipart": _MULTIPART,
    "body_too_large": "Send a smaller body.",
    "request_timeout": "Send the body without pauses; upload again.",
    "client_disconnected": "Upload again.",
    "bad_signature": "Sign the raw body with the secret of INGEST_WEBHOOK_SECRET.",
    "stale_event": "Compare the clocks of both sides; INGEST_WEBHOOK_WINDOW_SECONDS says how old an event may be.",
    "malformed_event": "Send what the parser's documentation describes.",
    # operation
    "configuration_error": "Correct the setting that the message names and restart.",
    "startup_error": "Remove the cause that the message names and start again.",
    "vector_index_error": "Do what the message says. Search works meanwhile, without an index.",
    "migration_error": "Do what the message says and run `ingest db migrate` again.",
    "internal_error": _DEFECT,
}


def remedy_for(code: str) -> str:
    """One or two sentences that say what a person is to do about an error of this code."""
    return REMEDIES.get(code, _DEFAULT)
