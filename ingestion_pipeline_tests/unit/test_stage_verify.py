"""What an upload may be: its name, its declared type, its bytes."""

import hashlib
import io
import zipfile
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_pipeline.errors import (
    IngestionError,
    IntegrityError,
    InvalidDocumentError,
    TooLargeError,
    UnsupportedTypeError,
)
from ingestion_pipeline.stages import file_types, verify
from ingestion_pipeline.stages.verify import UploadVerifier, VerifiedUpload, clean_filename, declared_type

TEXT = "text/plain"
HTML = "text/html"
PDF = "application/pdf"
DOCX = file_types.DOCX.content_type
XLSX = file_types.XLSX.content_type
EPUB = file_types.EPUB.content_type


def verified(data: bytes, content_type: str, limit_bytes: int = 1 << 30, part_bytes: int = 1 << 20) -> VerifiedUpload:
    verifier = UploadVerifier("name", content_type, limit_bytes)
    for start in range(0, len(data), part_bytes):
        verifier.feed(data[start : start + part_bytes])
    return verifier.finish()


def archive(*names: str, first: tuple[str, bytes] | None = None, padding: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        if first:
            file.writestr(*first)
        for name in names:
            file.writestr(name, b"x" * padding)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["report.pdf", "Übersicht.md", "مستند.txt", "👩‍👩‍👧.txt", "a" * 251 + ".pdf", "..hidden"]
)
def test_an_ordinary_name_is_kept(name: str) -> None:
    assert clean_filename(name) == name


def test_a_name_is_composed_and_stripped() -> None:
    assert clean_filename(" U\u0308ber.pdf ") == "Über.pdf"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        ".",
        "..",
        "a/b.pdf",
        "..\\b.pdf",
        "a\0.pdf",
        "a\n",
        "a\x1b[0m.pdf",
        "a\u202efdp.exe",
        "a\u2028b",
        "\ud800",
        "a" * 10_000,
        "é" * 128,
        "a" * 256,
    ],
)
def test_an_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        clean_filename(name)
    assert caught.value.code == "invalid_filename"


@given(st.text())
def test_a_cleaned_name_is_clean(name: str) -> None:
    try:
        cleaned = clean_filename(name)
    except InvalidDocumentError as error:
        assert error.code == "invalid_filename"
    else:
        assert clean_filename(cleaned) == cleaned
        assert 0 < len(cleaned.encode()) <= 255


@pytest.mark.parametrize(
    ("content_type", "filename", "expected"),
    [
        ("application/pdf", "x", PDF),
        ("TEXT/HTML; charset=utf-8", "x.bin", HTML),
        ("application/xhtml+xml", "x", HTML),
        ("application/octet-stream", "Report.DOCX", DOCX),
        (None, "a.b.csv", "text/csv"),
        ("", "book.epub", EPUB),
        ("text/plain", "notes.md", "text/markdown"),
        ("text/plain; charset=utf-8", "page.html", TEXT),
        ("text/x-markdown", "notes", "text/markdown"),
    ],
)
def test_the_declared_type_is_the_senders_or_the_extensions(
    content_type: str | None, filename: str, expected: str
) -> None:
    assert declared_type(content_type, filename) == expected


@pytest.mark.parametrize(
    ("content_type", "filename"),
    [
        ("image/png", "x.pdf"),
        (None, "x"),
        ("application/octet-stream", "x.exe"),
        ("application/zip", "x.zip"),
        ("/", ""),
    ],
)
def test_an_unsupported_type_is_refused_with_the_list_of_supported_ones(
    content_type: str | None, filename: str
) -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        declared_type(content_type, filename)
    assert caught.value.code == "unsupported_type"
    assert all(file_type.label in caught.value.message for file_type in file_types.SUPPORTED)


GOOD_FILES = [
    pytest.param(b"%PDF-1.7\n\0\xff", PDF, id="pdf"),
    pytest.param(b"\r\n junk \r\n%PDF-1.4", PDF, id="pdf with bytes before its header"),
    pytest.param(archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"), DOCX, id="docx"),
    pytest.param(archive("[Content_Types].xml", "ppt/slides/1.xml"), file_types.PPTX.content_type, id="pptx"),
    pytest.param(archive("xl/workbook.xml", "[Content_Types].xml"), XLSX, id="xlsx"),
    pytest.param(archive("[Content_Types].xml", padding=70_000), XLSX, id="xlsx whose head says nothing"),
    pytest.param(archive("OEBPS/1.xhtml", first=("mimetype", b"application/epub+zip")), EPUB, id="epub"),
    pytest.param(archive("META-INF/container.xml"), EPUB, id="epub without mimetype"),
    pytest.param(archive(first=("word/embeddings/1.xlsx", archive("xl/a.xml"))), DOCX, id="docx with a workbook in it"),
    pytest.param(b"<!DOCTYPE html><p>Gr\xc3\xbc\xc3\x9fe", HTML, id="html"),
    pytest.param(b'<html><meta charset="iso-8859-1">Gr\xfc\xdfe', HTML, id="html in latin-1"),
    pytest.param(b'<meta http-equiv=x content="text/html; charset=windows-1252">\x81\x93', HTML, id="html in cp1252"),
    pytest.param("<meta charset=x-sjis>日本".encode("cp932"), HTML, id="html in shift_jis"),
    pytest.param(b'<?xml version="1.0" encoding="ISO-8859-2"?><html>\xe8', HTML, id="xhtml in latin-2"),
    pytest.param("<p>Grüße</p>".encode("utf-16"), HTML, id="html in utf-16"),
    pytest.param(b"\xef\xbb\xbf<p>\xc3\xbc", HTML, id="html with a byte order mark"),
    pytest.param(b"<meta charset=utf-16>\xc3\xbc", HTML, id="html that claims utf-16 in ascii"),
    pytest.param("# Ünïcode 👩‍👩‍👧 مرحبا\n".encode(), "text/markdown", id="markdown"),
    pytest.param(b"\xef\xbb\xbfa,b\r\n1,2\r\n", "text/csv", id="csv with a byte order mark"),
    pytest.param(b"<p>source</p>", TEXT, id="text with tags"),
    pytest.param(b"a" * 200_000 + "é".encode() * 100_000, TEXT, id="long text"),
]


@pytest.mark.parametrize(("data", "content_type"), GOOD_FILES)
def test_a_good_file_is_verified_with_its_size_and_hash(data: bytes, content_type: str) -> None:
    expected = VerifiedUpload(len(data), hashlib.sha256(data).digest(), content_type)
    assert verified(data, content_type) == expected
    assert verified(data, content_type, part_bytes=61) == expected


BAD_FILES = [
    pytest.param(b"just text", PDF, "content_mismatch", "looks like text", id="text named pdf"),
    pytest.param(b"%PDF-1.7\n\xff", TEXT, "content_mismatch", "a PDF file", id="pdf named txt"),
    pytest.param(archive("word/document.xml"), PDF, "content_mismatch", "a DOCX file", id="docx named pdf"),
    pytest.param(archive("word/document.xml"), XLSX, "content_mismatch", "a DOCX file", id="docx named xlsx"),
    pytest.param(archive("a.txt"), DOCX, "content_mismatch", "ZIP archive of other files", id="zip named docx"),
    pytest.param(archive("a.txt"), TEXT, "content_mismatch", "ZIP archive", id="zip named txt"),
    pytest.param(
        archive("content.xml", first=("mimetype", b"application/vnd.oasis.opendocument.text")),
        EPUB,
        "content_mismatch",
        "OpenDocument",
        id="odt named epub",
    ),
    pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), DOCX, "content_mismatch", "password", id="locked"),
    pytest.param(b"\x89PNG\r\n\x1a\n", "text/markdown", "content_mismatch", "a PNG image", id="image named md"),
    pytest.param(bytes(50), PDF, "content_mismatch", "unknown kind", id="zeros named pdf"),
    pytest.param(b"no tags, 1 < 2", HTML, "content_mismatch", "no HTML tags", id="text named html"),
    pytest.param(b"ab\xffcd", TEXT, "invalid_utf8", "byte 2", id="invalid utf-8"),
    pytest.param(b"a" * 100_000 + b"\xc3(", TEXT, "invalid_utf8", "byte 100,000", id="invalid utf-8 far in"),
    pytest.param(b"a" * 65_535 + b"\xc3(", TEXT, "invalid_utf8", "byte 65,535", id="invalid across blocks"),
    pytest.param(b"ab\xe2\x82", "text/csv", "invalid_utf8", "byte 2", id="cut in a character"),
    pytest.param("Grüße".encode("utf-16"), TEXT, "invalid_utf8", "byte 0", id="utf-16 text"),
    pytest.param(b"<p>\xfc", HTML, "invalid_utf8", "byte 3", id="html in latin-1 that does not say so"),
    pytest.param(b"<meta charset=euc-jp>\xff", HTML, "invalid_encoding", "EUC_JP", id="html in broken euc-jp"),
    pytest.param(b"<meta charset=zlib>x", HTML, "invalid_encoding", "'zlib'", id="html in no charset"),
    pytest.param(b"a" * 70_000 + b"\0b", TEXT, "nul_character", "byte 70,000", id="nul"),
    pytest.param("<p>a\0b".encode("utf-16"), HTML, "nul_character", "NUL", id="nul in utf-16"),
    pytest.param(b"", TEXT, "empty_file", "empty", id="empty"),
    pytest.param(b"", PDF, "empty_file", "empty", id="empty pdf"),
]


@pytest.mark.parametrize(("data", "content_type", "code", "phrase"), BAD_FILES)
def test_a_bad_file_is_refused_with_its_reason(data: bytes, content_type: str, code: str, phrase: str) -> None:
    for part_bytes in (1 << 20, 7):
        with pytest.raises(InvalidDocumentError) as caught:
            verified(data, content_type, part_bytes=part_bytes)
        assert caught.value.code == code
        assert phrase in caught.value.message
        assert isinstance(caught.value, UnsupportedTypeError) == (code == "content_mismatch")


def test_a_file_over_the_limit_is_refused_before_it_ends() -> None:
    verifier = UploadVerifier("name", TEXT, limit_bytes=10)
    verifier.feed(b"0123456789")
    with pytest.raises(TooLargeError, match="10 bytes"):
        verifier.feed(b"x")


def test_a_file_of_exactly_the_limit_is_taken() -> None:
    assert verified(b"0123456789", TEXT, limit_bytes=10).size_bytes == 10


def test_a_type_that_is_not_supported_can_not_be_verified() -> None:
    with pytest.raises(ValueError, match="image/png"):
        UploadVerifier("name", "image/png", 10)


def outcome(data: bytes, content_type: str, limit_bytes: int, cuts: list[int]) -> VerifiedUpload | tuple[str, str]:
    verifier = UploadVerifier("name", content_type, limit_bytes)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            verifier.feed(data[start:end])
        return verifier.finish()
    except IngestionError as error:
        return error.code, error.message


AWKWARD_BYTES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        "é".encode(),
        "👩‍👩‍👧".encode(),
        b"<p>",
        b"%PDF-",
        b"PK\x03\x04",
        b"a" * 40_000,
        b"<meta charset=gbk>",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    data=st.lists(st.one_of(AWKWARD_BYTES, st.binary(max_size=5)), max_size=8).map(b"".join),
    content_type=st.sampled_from([file_type.content_type for file_type in file_types.SUPPORTED]),
    limit_bytes=st.sampled_from([10, 50_000, 80_000, 1 << 30]),
    cuts=st.lists(st.integers(min_value=0), max_size=6),
)
def test_the_verdict_does_not_depend_on_how_the_bytes_are_cut(
    data: bytes, content_type: str, limit_bytes: int, cuts: list[int]
) -> None:
    assert outcome(data, content_type, limit_bytes, cuts) == outcome(data, content_type, limit_bytes, [])


def test_the_verifier_keeps_no_more_than_a_block() -> None:
    verifier = UploadVerifier("name", TEXT, 1 << 30)
    for _ in range(50):
        verifier.feed(b"a" * 100_001)
        assert len(verifier._block) < file_types.HEAD_BYTES
    assert verifier.finish().size_bytes == 50 * 100_001


def test_a_hostile_head_is_searched_in_a_blink() -> None:
    data = (b"<meta " * 11_000)[: file_types.HEAD_BYTES]
    assert verified(data, HTML).size_bytes == len(data)


def test_the_file_read_again_has_to_be_the_recorded_one() -> None:
    found = verified(b"abc", TEXT)
    verify.expect(found, 3, hashlib.sha256(b"abc").digest())
    with pytest.raises(IntegrityError, match="3 bytes; 4"):
        verify.expect(found, 4, found.sha256)
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify.expect(found, 3, hashlib.sha256(b"abd").digest())
