"""What kind of document some bytes are: their content decides, the file name only where content leaves a choice."""

import io
import re
import zipfile
from enum import StrEnum
from pathlib import PurePosixPath

from mock_services.llamacloud.parsing.pages import DocumentError

MAX_UNPACKED_BYTES = 512 * 2**20


class Format(StrEnum):
    """Formats with a parser, and images."""

    PDF = "pdf"
    DOCX = "docx"
    PPTX = "pptx"
    XLSX = "xlsx"
    EPUB = "epub"
    HTML = "html"
    CSV = "csv"
    TEXT = "text"
    IMAGE = "image"


_ZIP_MEMBERS = {"word/document.xml": Format.DOCX, "ppt/presentation.xml": Format.PPTX, "xl/workbook.xml": Format.XLSX}
_IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"


def detect_format(content: bytes, name: str) -> Format:
    """The format of a document; DocumentError for what no parser reads."""
    suffix = PurePosixPath(name).suffix.lower()
    if b"%PDF-" in content[:1024]:
        return Format.PDF
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped_format(content)
    if content.startswith(_IMAGE_SIGNATURES) or (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        return Format.IMAGE
    if suffix == ".pdf":
        raise DocumentError("PDF_IS_BROKEN", "The file is not a readable PDF.")
    if _is_binary(content):
        raise DocumentError("UNSUPPORTED_FILE_TYPE", f"The file type {suffix or 'of this content'} is not supported.")
    if suffix in (".html", ".htm", ".xhtml") or _HTML_START.match(content.removeprefix(_UTF8_MARK)[:4096]):
        return Format.HTML
    if suffix in (".csv", ".tsv"):
        return Format.CSV
    if suffix in (".docx", ".pptx", ".xlsx", ".epub", ".rtf") or content.startswith(b"{\\rtf"):
        raise DocumentError("UNSUPPORTED_FILE_TYPE", f"The content is not a readable {suffix or '.rtf'} file.")
    return Format.TEXT


def _zipped_format(content: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise DocumentError("DOCUMENT_TOO_LARGE", "The document is too large once unpacked.")
            members = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise DocumentError("UNSUPPORTED_FILE_TYPE", "The archive cannot be read.") from error
    for member, format_ in _ZIP_MEMBERS.items():
        if member in members:
            return format_
    if "META-INF/container.xml" in members:
        return Format.EPUB
    raise DocumentError("UNSUPPORTED_FILE_TYPE", "The archive holds no supported document.")


def _is_binary(content: bytes) -> bool:
    return not content.startswith(_WIDE_MARKS) and b"\x00" in content[:8192]
