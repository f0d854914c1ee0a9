"""Who is asking: a bearer token becomes a principal, and every query runs for that principal's owner."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ingestion_pipeline.api.errors import NotAuthenticatedError


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever is behind a token; `owner_id` is whose rows they see."""

    owner_id: UUID


class Authenticator(Protocol):
    """Turns a bearer token into a principal: keys of our own today, JWTs of an identity provider where there is one."""

    def authenticate(self, token: str) -> Principal:
        """Raises NotAuthenticatedError."""
        ...


class KeyAuthenticator:
    """Keys that are configured, one owner each; two keys of one owner let a key be changed without an interruption."""

    def __init__(self, owners: Mapping[str, UUID]) -> None:
        self._owners = [(_digest(key), owner_id) for key, owner_id in owners.items()]

    def authenticate(self, token: str) -> Principal:
        # All keys are compared, by digests of one length, so that the time tells nothing about any of them.
        given = _digest(token)
        found = [owner_id for digest, owner_id in self._owners if hmac.compare_digest(digest, given)]
        if not found:
            raise NotAuthenticatedError("The bearer key is not valid.")
        return Principal(found[0])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


bearer = HTTPBearer(
    auto_error=False, scheme_name="bearerKey", description="The API's key, `Authorization: Bearer <key>`."
)


def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Principal:
    """The principal of a request. Raises NotAuthenticatedError."""
    if credentials is None:
        raise NotAuthenticatedError("The header Authorization with a bearer key is missing.")
    authenticator: Authenticator = request.app.state.services.authenticator
    return authenticator.authenticate(credentials.credentials)


CurrentPrincipal = Annotated[Principal, Depends(authenticated)]
