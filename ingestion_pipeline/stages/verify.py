"""What an upload has to be before the pipeline takes it: safely named, of a supported type, within the limit.

The same verifier serves the API while it streams an upload into the object store and the raw_upload stage when it reads
the object again. It keeps one block of 64 KiB whatever the size of the file, and looks at the file in blocks that begin
at multiples of that size, so that its verdict does not depend on how the network cut the bytes.
"""

import codecs
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from ingestion_pipeline.errors import IntegrityError, InvalidDocumentError, TooLargeError, UnsupportedTypeError
from ingestion_pipeline.stages import file_types
from ingestion_pipeline.stages.file_types import HEAD_BYTES, FileType

MAX_FILENAME_BYTES = 255

# Senders use these when they don't know the type.
_UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-download"})
# Characters that reorder text on the screen, so that `gpj.exe` can be made to read `exe.jpg`.
_DIRECTION_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DECLARED_CHARSET = re.compile(
    rb"""<meta\b[^>]{0,1024}?\bcharset\s*=\s*["']?\s*([\w.:-]+)|^\s*<\?xml\b[^>]{0,1024}?\bencoding\s*=\s*["']([\w.:-]+)""",
    re.IGNORECASE,
)
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# The charsets of the WHATWG Encoding Standard by Python's names, and its wider reading of some labels.
_CHARSETS = frozenset(
    {"utf-8", "ascii", "iso8859-1", "cp1252", "koi8-r", "koi8-u", "cp932", "euc_jp", "iso2022_jp", "cp949", "gb18030"}
    | {"big5", "big5hkscs", "mac-roman", "mac-cyrillic", "cp866", "cp874"}
    | {f"cp125{digit}" for digit in range(9)}
    | {f"iso8859-{part}" for part in (*range(2, 12), *range(13, 17))}
)
_WIDER = {"shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "tis-620": "cp874"} | {
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "x-gbk": "gb18030",
    "x-euc-jp": "euc_jp",
    "x-mac-cyrillic": "mac-cyrillic",
    "iso-8859-8-i": "iso8859-8",
}
# The standard reads these as windows-1252 in which every byte has a meaning, as it has in Latin-1.
_ANY_BYTE = frozenset({"ascii", "iso8859-1", "cp1252"})


@dataclass(frozen=True, slots=True)
class VerifiedUpload:
    """What was found while reading a file: its size in bytes, its SHA-256 (32 bytes) and its content type."""

    size_bytes: int
    sha256: bytes
    content_type: str


def clean_filename(name: str) -> str:
    """The name in NFC without white space around it.

    Raises InvalidDocumentError `invalid_filename` for a name that is empty, `.` or `..`, over 255 bytes of UTF-8, or
    that has path separators, control characters or characters that change the direction of text.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    problem = _filename_problem(cleaned, name)
    if problem:
        raise InvalidDocumentError(f"The file name {problem}.", code="invalid_filename")
    return cleaned


def _filename_problem(cleaned: str, name: str) -> str | None:
    if not cleaned:
        return "is empty"
    if cleaned in {".", ".."}:
        return "is a folder reference, not a name"
    if "/" in cleaned or "\\" in cleaned:
        return "has a path separator"
    # Looked for in the name as given: stripping would hide a line feed at its end.
    categories = {unicodedata.category(character) for character in name}
    if categories & {"Cc", "Zl", "Zp"} or not _DIRECTION_CONTROLS.isdisjoint(name):
        return "has control characters"
    if "Cs" in categories:
        return "is not valid Unicode"
    if len(cleaned.encode()) > MAX_FILENAME_BYTES:
        return f"is longer than {MAX_FILENAME_BYTES} bytes"
    return None


def declared_type(content_type: str | None, filename: str) -> str:
    """The supported content type that the sender declares, without parameters, e.g. `text/html`.

    The file name's extension decides where the sender gives no type or only `application/octet-stream`, and between the
    text types where it says `text/plain`, as most senders do for Markdown. Raises UnsupportedTypeError.
    """
    stated = (content_type or "").partition(";")[0].strip().lower()
    extension = PurePosixPath(filename).suffix.lower()
    by_extension = file_types.BY_EXTENSION.get(extension)
    if stated in _UNTYPED:
        found, what = (
            by_extension,
            f"File extension {extension!r}" if extension else "A file without extension and type",
        )
    elif stated == "text/plain" and by_extension in (file_types.MARKDOWN, file_types.CSV):
        found, what = by_extension, stated
    else:
        found, what = file_types.BY_CONTENT_TYPE.get(stated), f"Content type {stated[:100]!r}"
    if found is None:
        raise UnsupportedTypeError(f"{what} is not supported. Supported: {file_types.supported_list()}.")
    return found.content_type


class UploadVerifier:
    """Checks and hashes a file while its bytes pass by: `feed` each part in order, then `finish`.

    Raises ValueError if `declared_type` is not one that the function `declared_type` returns.
    """

    def __init__(self, filename: str, declared_type: str, limit_bytes: int) -> None:
        file_type = file_types.BY_CONTENT_TYPE.get(declared_type)
        if file_type is None:
            raise ValueError(f"{declared_type!r} is not a supported content type")
        self._filename = filename
        self._type: FileType = file_type
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._block = bytearray()
        self._is_head_checked = False
        self._text: _TextCheck | None = None

    def feed(self, part: bytes) -> None:
        """Take the next bytes.

        Raises TooLargeError at the first byte over the limit, UnsupportedTypeError `content_mismatch` if the file is of
        another type than declared, InvalidDocumentError `invalid_utf8`, `invalid_encoding` or `nul_character` for text.
        """
        room = self._limit_bytes - self._size_bytes
        accepted = memoryview(part)[:room]
        self._size_bytes += len(accepted)
        self._hash.update(accepted)
        self._take(accepted)
        if len(part) > room:
            raise TooLargeError(f"{self._filename!r} is larger than the limit of {self._limit_bytes:,} bytes.")

    def finish(self) -> VerifiedUpload:
        """The verdict, after the last part. Raises as `feed`, and InvalidDocumentError `empty_file`."""
        if self._size_bytes == 0:
            raise InvalidDocumentError(f"{self._filename!r} is empty.", code="empty_file")
        self._check(bytes(self._block), is_last=True)
        self._block.clear()
        return VerifiedUpload(self._size_bytes, self._hash.digest(), self._type.content_type)

    def _take(self, accepted: memoryview) -> None:
        if self._is_head_checked and self._text is None:
            return  # nothing beyond the head is looked at in PDF and ZIP files
        while len(self._block) + len(accepted) >= HEAD_BYTES:
            needed = HEAD_BYTES - len(self._block)
            self._check(bytes(self._block) + bytes(accepted[:needed]), is_last=False)
            self._block.clear()
            accepted = accepted[needed:]
        self._block += accepted

    def _check(self, block: bytes, *, is_last: bool) -> None:
        if not self._is_head_checked:
            self._check_head(block, is_whole_file=is_last)
        if self._text is not None:
            self._text.feed(block, is_last=is_last)

    def _check_head(self, head: bytes, *, is_whole_file: bool) -> None:
        self._is_head_checked = True
        problem = file_types.mismatch(self._type, head, is_whole_file=is_whole_file)
        if problem:
            raise UnsupportedTypeError(
                f"{self._filename!r} is declared as {self._type.label}, but {problem}.", code="content_mismatch"
            )
        if self._type.family is file_types.Family.TEXT:
            charset = _html_charset(head) if self._type is file_types.HTML else "utf-8"
            self._text = _TextCheck(self._filename, charset)


class _TextCheck:
    """Decodes a text block by block and drops the result."""

    def __init__(self, filename: str, charset: str) -> None:
        self._filename = filename
        self._charset = charset
        self._decoder = codecs.getincrementaldecoder("latin-1" if charset in _ANY_BYTE else charset)()
        self._bytes_before = 0

    def feed(self, block: bytes, *, is_last: bool) -> None:
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(block, is_last)
        except UnicodeDecodeError as error:
            code = "invalid_utf8" if self._charset == "utf-8" else "invalid_encoding"
            offset = self._bytes_before - pending + error.start
            label = self._charset.upper()
            raise InvalidDocumentError(
                f"{self._filename!r} is not valid {label} at byte {offset:,}.", code=code
            ) from error
        if "\0" in text:
            # Every second byte of English text in UTF-16 is zero, so that only the search in the text tells.
            where = "" if self._charset == "utf-16" else f" at byte {self._bytes_before + block.find(0):,}"
            raise InvalidDocumentError(f"{self._filename!r} has a NUL character{where}.", code="nul_character")
        self._bytes_before += len(block)


def _html_charset(head: bytes) -> str:
    """The charset by byte order mark, else by <meta> or the XML declaration, else UTF-8."""
    for mark, charset in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return charset
    declared = _DECLARED_CHARSET.search(head)
    if declared is None:
        return "utf-8"
    label = (declared[1] or declared[2]).decode("ascii", "replace")
    try:
        charset = codecs.lookup(label).name
    except LookupError:
        charset = label.lower()
    charset = _WIDER.get(charset, charset)
    if charset.startswith("utf-16"):
        return "utf-8"
    if charset not in _CHARSETS:
        raise InvalidDocumentError(f"The page declares the unknown charset {label[:40]!r}.", code="invalid_encoding")
    return charset


def expect(verified: VerifiedUpload, size_bytes: int, sha256: bytes) -> None:
    """Raise IntegrityError unless the file read again has the recorded size in bytes and SHA-256 (32 bytes)."""
    if verified.size_bytes != size_bytes:
        raise IntegrityError(f"The stored file has {verified.size_bytes:,} bytes; {size_bytes:,} were recorded.")
    if verified.sha256 != sha256:
        raise IntegrityError(
            f"The stored file's SHA-256 is {verified.sha256.hex()}; {sha256.hex()} was recorded at its upload."
        )
