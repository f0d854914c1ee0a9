"""What can be wrong with a request itself. Like all errors of the project, these know no HTTP: problems.py does."""

from ingestion_pipeline.errors import IngestionError, PermanentError


class NotAuthenticatedError(IngestionError):
    """The bearer key is missing, or it is none that we know."""

    code = "not_authenticated"


class MalformedRequestError(PermanentError):
    """The body does not follow the syntax of its own content type."""

    code = "malformed_multipart"


class NotMultipartError(PermanentError):
    """The body is not multipart/form-data."""

    code = "not_multipart"


class InvalidRequestError(PermanentError):
    """The request is well-formed, and its content isn't what the endpoint takes."""

    code = "invalid_request"


class BodyTooLargeError(PermanentError):
    """The body is over the limit of the endpoint."""

    code = "body_too_large"


class RequestTimeoutError(PermanentError):
    """The sender of the body paused for too long."""

    code = "request_timeout"


class ClientDisconnectedError(PermanentError):
    """The sender went away in the middle of the body."""

    code = "client_disconnected"
