"""The endpoint of search: a question becomes a vector, Postgres finds the nearest chunks."""

from typing import Annotated

from fastapi import APIRouter, Query

from ingestion_pipeline.api.authentication import CurrentPrincipal
from ingestion_pipeline.api.errors import InvalidRequestError
from ingestion_pipeline.api.openapi import problems
from ingestion_pipeline.api.schemas import SearchResult, SearchResults
from ingestion_pipeline.api.services import CurrentServices
from ingestion_pipeline.stages.usage import query_call

router = APIRouter(tags=["search"])


@router.get("/search", summary="Search complete documents", responses=problems(401, 422, 502, 503))
def search(
    principal: CurrentPrincipal,
    services: CurrentServices,
    q: Annotated[str, Query(min_length=1, max_length=2000, description="What to look for, in plain words.")],
    limit: Annotated[int, Query(ge=1, le=100, description="Most results.")] = 10,
) -> SearchResults:
    """The chunks whose meaning is nearest to the query, of the owner's complete documents."""
    text = q.strip()
    if not text:
        raise InvalidRequestError("The query `q` is blank.")
    embedder = services.embedder
    embedded = embedder.embed([text])
    hits = services.catalogue.search(
        principal.owner_id,
        vector=embedded.vectors[0].tolist(),
        model=embedder.model,
        limit=limit,
        bill=query_call(embedder.model, embedded.tokens, embedded.seconds),
    )
    return SearchResults(model=embedder.model, results=[SearchResult.of(hit) for hit in hits])
