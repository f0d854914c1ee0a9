"""One normal form of a document's text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_pipeline.domain import ParsedPage, ParsedText, sha256_of
from ingestion_pipeline.errors import InvalidDocumentError
from ingestion_pipeline.stages.normalise import (
    check_page_starts,
    check_text_hash,
    check_text_present,
    normalise,
    normalise_encoded,
    normalise_text,
    validate,
)

ANY_TEXT = st.text(
    st.one_of(
        st.sampled_from("ab \t\r\n\n\n\0\x0b\x0c\x1f\x85\xa0\u0301\u1161\u2028\ufeff\ud800\u200d👩"),
        st.characters(codec=None),
    ),
    max_size=60,
)


def of_one(text: str) -> ParsedText:
    return normalise([ParsedPage(1, text)])


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("e\u0301", "é"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("one  \ntwo\t\nthree\u00a0", "one\ntwo\nthree"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("def a():\n\n\ndef b():", "def a():\n\n\ndef b():"),
        ("\n\n    code\n\n", "    code"),
        ("one\x0ctwo", "one\ntwo"),
        ("a\tb", "a\tb"),
        ("👩\u200d👩\u200d👧 \u200fعربي", "👩\u200d👩\u200d👧 \u200fعربي"),
        ("a \n \t\n \n \n b", "a\n\n\n b"),
    ],
)
def test_a_text_takes_its_normal_form(given_text: str, expected: str) -> None:
    assert of_one(given_text) == ParsedText(expected, (1,), (0,))


def test_control_characters_and_surrogates_are_taken_out_and_counted() -> None:
    parsed = of_one("\ufeffa\0b\x1b[0m\x9fc\ud800")
    assert parsed.text == "ab[0mc\ufffd"
    assert parsed.removed_characters == 5


def test_removing_a_control_character_lets_its_neighbours_compose() -> None:
    assert of_one("e\0\u0301").text == "é"


def test_pages_are_joined_by_a_blank_line_and_their_starts_are_right() -> None:
    parsed = normalise(
        [ParsedPage(1, "one "), ParsedPage(2, None, "OCR failed"), ParsedPage(3, " \n"), ParsedPage(4, "four")]
    )
    assert parsed == ParsedText("one\n\nfour", (1, 4), (0, 5), failed_pages=(2,))


def test_pages_out_of_order_are_put_in_order() -> None:
    assert normalise([ParsedPage(2, "b"), ParsedPage(1, "a")]).text == "a\n\nb"


@pytest.mark.parametrize(
    ("pages", "phrase"),
    [
        ([], "no pages"),
        ([ParsedPage(1, " \n\t\0\u00a0")], "has no text"),
        ([ParsedPage(1, None, "x"), ParsedPage(2, None)], "any of the 2 pages"),
        ([ParsedPage(1, None, "x"), ParsedPage(2, "")], "1 of its 2 pages"),
    ],
)
def test_a_document_without_text_is_refused_with_the_number_of_failed_pages(
    pages: list[ParsedPage], phrase: str
) -> None:
    with pytest.raises(InvalidDocumentError, match=phrase) as caught:
        normalise(pages)
    assert caught.value.code == "no_text"


@given(ANY_TEXT)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once, _ = normalise_text(text)
    assert normalise_text(once) == (once, 0)


@given(st.text(st.one_of(st.sampled_from("ab \t\r\n\n\n\0\x0b\x0c\x1f"), st.characters(codec="ascii"))))
def test_a_text_in_ascii_takes_the_form_that_it_has_beside_other_letters(text: str) -> None:
    form, removed = normalise_text(f"x{text}x")
    assert normalise_text(f"é{text}é") == (f"é{form[1:-1]}é", removed)


@given(ANY_TEXT)
def test_a_normal_text_can_be_stored_and_hashed(text: str) -> None:
    once, _ = normalise_text(text)
    assert once.encode().decode() == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in once)
    assert all(line == line.rstrip() for line in once.split("\n"))


@given(st.lists(st.one_of(st.none(), ANY_TEXT), max_size=6))
def test_each_page_is_found_at_its_start_and_none_is_lost(texts: list[str | None]) -> None:
    pages = [ParsedPage(number, text) for number, text in enumerate(texts, 1)]
    try:
        parsed = normalise(pages)
    except InvalidDocumentError:
        assert all(text is None or not normalise_text(text)[0] for text in texts)
        return
    assert parsed == normalise(pages)
    assert normalise_text(parsed.text) == (parsed.text, 0)
    assert len(parsed.failed_pages) == texts.count(None)
    kept = [(page.page_number, normalise_text(page.markdown)[0]) for page in pages if page.markdown is not None]
    kept = [(number, text) for number, text in kept if text]
    assert [number for number, _ in kept] == list(parsed.page_numbers)
    assert all(parsed.text.startswith(text, start) for (_, text), start in zip(kept, parsed.page_starts, strict=True))
    encoded = normalise_encoded(pages)
    assert encoded.decoded() == parsed
    assert all(result.passed for result in validate(parsed, encoded.sha256, sha256_of(parsed.text)))


def test_a_line_of_many_spaces_is_normalised_in_a_blink() -> None:
    assert of_one("a" + " " * 1_000_000 + "b" + " " * 1_000_000).text == "a" + " " * 1_000_000 + "b"


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_fails_its_check(text: str) -> None:
    assert not check_text_present(ParsedText(text, (1,), (0,))).passed


def test_a_changed_text_fails_the_check_of_its_hash() -> None:
    assert check_text_hash(sha256_of("a"), sha256_of("a")).passed
    assert not check_text_hash(sha256_of("b"), sha256_of("a")).passed


@pytest.mark.parametrize(
    ("numbers", "starts"),
    [((), ()), ((1, 2), (0,)), ((1,), (1,)), ((1, 2), (0, 9)), ((1, 2, 3), (0, 4, 4)), ((2, 1), (0, 4))],
)
def test_page_starts_out_of_order_fail_their_check(numbers: tuple[int, ...], starts: tuple[int, ...]) -> None:
    result = check_page_starts(ParsedText("012345678", numbers, starts))
    assert not result.passed
    assert result.message
