"""Text, Markdown and HTML, and the characters they are written in."""

import codecs
import re

from charset_normalizer import from_bytes
from html_to_markdown import ConversionOptions, convert

from mock_services.llamacloud.parsing.pages import Pages, paginate

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARED = re.compile(
    rb"""<meta[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""", re.I
)
# the WHATWG encoding standard reads these labels as their supersets
_SUPERSETS = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252"}
_SUPERSETS |= {"gb2312": "gbk", "shift_jis": "cp932", "shift-jis": "cp932", "euc-kr": "cp949", "iso-8859-9": "cp1254"}
_INLINE_IMAGE = re.compile(r"!\[([^\]]*)\]\(<?data:[^)]*\)")


def parse_text(content: bytes) -> Pages:
    """Markdown and plain text as they are."""
    return paginate(decode_text(content))


def parse_html(content: bytes) -> Pages:
    """HTML as Markdown."""
    return paginate(html_to_text(decode_html(content)))


def html_to_text(html: str) -> str:
    """Markdown of an HTML document, without its metadata and without images that are part of the text itself."""
    converted = convert(html, ConversionOptions(extract_metadata=False, compact_tables=True)).content or ""
    return _INLINE_IMAGE.sub(lambda image: image[1], converted)


def decode_text(content: bytes) -> str:
    """By byte order mark, as UTF-8, or by the likeliest legacy encoding."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        best = from_bytes(content, cp_isolation=["cp932", "cp1252", "gbk", "big5", "cp949", "cp1251"]).best()
        return str(best) if best is not None else content.decode("cp1252", "replace")


def decode_html(content: bytes) -> str:
    """By byte order mark, by the declared character set, or as text."""
    declared = _DECLARED.search(content[:4096])
    if declared is None or content.startswith(tuple(mark for mark, _ in _MARKS)):
        return decode_text(content)
    label = (declared[1] or declared[2]).decode("ascii", "replace").lower()
    try:
        return content.decode(_SUPERSETS.get(label, label), "replace")
    except LookupError:
        return decode_text(content)
