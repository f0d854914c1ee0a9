"""States, transitions and ids, as far as they can be judged without a database."""

from itertools import islice, pairwise
from uuid import UUID, uuid5

import pytest

from ingestion_pipeline.domain import (
    CHUNKER,
    CHUNKER_VERSION,
    DEAD_LETTERS,
    HAPPY_PATH,
    NAMESPACE,
    SETTLED,
    TRANSITIONS,
    State,
    chunk_id_for,
    chunk_ids,
    dead_letter_of,
    document_id_for,
    sha256_of,
)

OWNER = UUID("11111111-1111-4111-8111-111111111111")
CONTENT = sha256_of("content")


def test_the_happy_path_and_the_ends_are_all_the_states() -> None:
    assert {*HAPPY_PATH, *DEAD_LETTERS, State.CANCELLED} == set(State)
    assert {*DEAD_LETTERS, State.COMPLETE, State.CANCELLED} == SETTLED


def test_each_step_of_the_happy_path_is_allowed_and_none_is_skipped() -> None:
    for index, state in enumerate(HAPPY_PATH):
        ahead = {target for target in HAPPY_PATH[index + 1 :] if (state, target) in TRANSITIONS}
        assert ahead == set(HAPPY_PATH[index + 1 : index + 2])
    assert all(pair in TRANSITIONS for pair in pairwise(HAPPY_PATH))


def test_what_is_complete_is_only_built_or_parsed_anew() -> None:
    assert {target for source, target in TRANSITIONS if source is State.COMPLETE} == {
        State.PARSE_VALIDATED,
        State.UPLOADED,
    }


def test_every_state_is_reached_from_an_upload() -> None:
    reached = {State.UPLOADED}
    while new := {target for source, target in TRANSITIONS if source in reached} - reached:
        reached |= new
    assert reached == set(State)


@pytest.mark.parametrize("state", HAPPY_PATH[:-1])
def test_work_in_each_state_can_fail_for_good_be_replayed_and_be_cancelled(state: State) -> None:
    dead_letter = dead_letter_of(state)
    assert dead_letter in DEAD_LETTERS
    assert (state, dead_letter) in TRANSITIONS
    assert (state, State.CANCELLED) in TRANSITIONS
    for settled in (dead_letter, State.CANCELLED):
        assert (settled, State.UPLOADED) in TRANSITIONS


def test_each_state_has_one_dead_letter() -> None:
    for state in HAPPY_PATH[:-1]:
        assert {target for source, target in TRANSITIONS if source is state} & DEAD_LETTERS == {dead_letter_of(state)}


@pytest.mark.parametrize("state", sorted(SETTLED))
def test_no_work_is_done_in_a_settled_state(state: State) -> None:
    with pytest.raises(ValueError, match=state.value):
        dead_letter_of(state)


def test_ids_are_those_that_earlier_releases_gave() -> None:
    document_id = document_id_for(OWNER, CONTENT)
    assert document_id == UUID("9d96c667-010b-518b-89d8-063aaaa3f46a")
    assert chunk_id_for(document_id, 0) == UUID("dbf67f5b-1e51-537a-99ed-49f97e5e1aef")
    assert list(islice(chunk_ids(document_id), 200)) == [chunk_id_for(document_id, ordinal) for ordinal in range(200)]
    assert chunk_id_for(document_id, 199) == uuid5(NAMESPACE, f"{document_id}:{CHUNKER}:{CHUNKER_VERSION}:199")


def test_a_document_is_told_by_owner_and_content_and_a_chunk_by_its_position() -> None:
    documents = {
        document_id_for(owner, content) for owner in (OWNER, UUID(int=7)) for content in (CONTENT, sha256_of("other"))
    }
    assert len(documents) == 4
    assert len({chunk_id_for(document_id, ordinal) for document_id in documents for ordinal in range(50)}) == 200


def test_hashes_are_of_the_utf_8_form() -> None:
    assert sha256_of("é").hex() == "4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c"
