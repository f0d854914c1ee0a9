"""The file types that the pipeline takes, in one table, and how the first bytes of a file tell them apart.

Recognition looks at the head of a file (at most 64 KiB) and nothing else, so that it works on a stream. It is lenient:
what can't be told from the head passes, and the parser has the last word. What is clearly another kind of file is
refused.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

HEAD_BYTES = 64 * 1024


class Family(Enum):
    """How a type is recognised: by a PDF header, by the members of a ZIP archive, or as text."""

    PDF = auto()
    ZIP = auto()
    TEXT = auto()


@dataclass(frozen=True, slots=True)
class FileType:
    """One supported type. `marker` is the prefix of member names (ZIP) that only this type has."""

    label: str
    content_type: str
    extensions: tuple[str, ...]
    family: Family
    aliases: tuple[str, ...] = ()
    marker: bytes = b""


_OFFICE = "application/vnd.openxmlformats-officedocument"

PDF = FileType("PDF", "application/pdf", (".pdf",), Family.PDF, aliases=("application/x-pdf",))
DOCX = FileType("DOCX", f"{_OFFICE}.wordprocessingml.document", (".docx",), Family.ZIP, marker=b"word/")
PPTX = FileType("PPTX", f"{_OFFICE}.presentationml.presentation", (".pptx",), Family.ZIP, marker=b"ppt/")
XLSX = FileType("XLSX", f"{_OFFICE}.spreadsheetml.sheet", (".xlsx",), Family.ZIP, marker=b"xl/")
EPUB = FileType("EPUB", "application/epub+zip", (".epub",), Family.ZIP, marker=b"META-INF/container.xml")
HTML = FileType("HTML", "text/html", (".html", ".htm", ".xhtml"), Family.TEXT, aliases=("application/xhtml+xml",))
MARKDOWN = FileType(
    "Markdown",
    "text/markdown",
    (".md", ".markdown"),
    Family.TEXT,
    aliases=("text/x-markdown", "text/vnd.daringfireball.markdown"),
)
PLAIN_TEXT = FileType("plain text", "text/plain", (".txt", ".text"), Family.TEXT)
CSV = FileType("CSV", "text/csv", (".csv",), Family.TEXT, aliases=("application/csv", "text/x-csv"))

SUPPORTED: tuple[FileType, ...] = (PDF, DOCX, PPTX, XLSX, EPUB, HTML, MARKDOWN, PLAIN_TEXT, CSV)
BY_CONTENT_TYPE: dict[str, FileType] = {
    name: file_type for file_type in SUPPORTED for name in (file_type.content_type, *file_type.aliases)
}
BY_EXTENSION: dict[str, FileType] = {
    extension: file_type for file_type in SUPPORTED for extension in file_type.extensions
}

# What a file is, for the message, when it is none of the types above or not the declared one. Office files of before
# 2007 and password-protected ones of today share one container.
_FOREIGN_HEADS: tuple[tuple[bytes, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or password-protected Office file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"{\\rtf", "an RTF file"),
)
_ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_LOCAL_HEADER = re.compile(rb"PK\x03\x04")
# Readers accept a PDF header anywhere in the first 1,024 bytes (ISO 32000-1, annex H.3.4.1).
_PDF_HEADER_WITHIN = 1024
_TAG = re.compile(rb"<[!?/A-Za-z]")


def supported_list() -> str:
    """The supported types for a message: `PDF (.pdf), DOCX (.docx), ...`."""
    return ", ".join(f"{file_type.label} ({', '.join(file_type.extensions)})" for file_type in SUPPORTED)


def mismatch(file_type: FileType, head: bytes, *, is_whole_file: bool) -> str | None:
    """Why the head can't be of `file_type`, as a phrase such as `it is a PNG image`; None if it may well be."""
    if file_type.family is Family.PDF:
        return None if b"%PDF-" in head[:_PDF_HEADER_WITHIN] else _what_it_is(head)
    if file_type.family is Family.ZIP:
        return _zip_mismatch(file_type, head, is_whole_file=is_whole_file)
    if head.lstrip().startswith(b"%PDF-") or head.startswith(_ZIP_HEADS) or _foreign(head):
        return _what_it_is(head)
    if file_type is HTML and not _TAG.search(head.replace(b"\0", b"")):
        return "it has no HTML tags"
    return None


def _zip_mismatch(file_type: FileType, head: bytes, *, is_whole_file: bool) -> str | None:
    if not head.startswith(b"PK\x03\x04"):
        return _what_it_is(head)
    found = _zip_type(head)
    if found is not None:
        return None if found is file_type else f"it is {_with_article(found.label)} file"
    if _member(head, 0) == b"mimetype":
        return "it is another kind of archive with a mimetype, such as OpenDocument"
    return "it is a ZIP archive of other files" if is_whole_file else None


def _zip_type(head: bytes) -> FileType | None:
    """The type of the first member whose name gives it away.

    An archive embedded in the file comes after the name of the member that holds it, so it can't mislead.
    """
    if head[30:58] == b"mimetypeapplication/epub+zip":
        return EPUB
    for header in _LOCAL_HEADER.finditer(head):
        name = _member(head, header.start())
        for file_type in SUPPORTED:
            if file_type.marker and name.startswith(file_type.marker):
                return file_type
    return None


def _member(head: bytes, at: int) -> bytes:
    """The name in the local file header at `at` (APPNOTE 4.3.7: two bytes of length at 26, the name from 30 on)."""
    length = int.from_bytes(head[at + 26 : at + 28], "little")
    return head[at + 30 : at + 30 + length]


def _foreign(head: bytes) -> str | None:
    return next((what for magic, what in _FOREIGN_HEADS if head.startswith(magic)), None)


def _what_it_is(head: bytes) -> str:
    if foreign := _foreign(head):
        return f"it is {foreign}"
    if head.startswith(_ZIP_HEADS):
        found = _zip_type(head)
        return f"it is {_with_article(found.label)} file" if found else "it is a ZIP archive"
    if b"%PDF-" in head[:_PDF_HEADER_WITHIN]:
        return "it is a PDF file"
    if b"\0" not in head:
        return "it looks like text"
    return "its first bytes are of an unknown kind"


def _with_article(label: str) -> str:
    return f"an {label}" if label[0] in "AEIOX" else f"a {label}"
