"""Opaque cursors of the list of documents: clients send them back as they came, so that their form may change."""

import base64
import binascii
from datetime import datetime
from uuid import UUID

from ingestion_pipeline.api.errors import InvalidRequestError
from ingestion_pipeline.catalogue import Position


def encode(position: Position) -> str:
    """The cursor of a position."""
    text = f"{position.created_at.isoformat()} {position.document_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str) -> Position:
    """The position of a cursor. Raises InvalidRequestError `invalid_cursor`."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        created_at, document_id = text.split(" ")
        position = Position(datetime.fromisoformat(created_at), UUID(document_id))
        if position.created_at.tzinfo is None:
            raise ValueError("a cursor has a time zone")
    except (ValueError, binascii.Error):
        raise InvalidRequestError("The cursor is not one that this API gave out.", code="invalid_cursor") from None
    return position
