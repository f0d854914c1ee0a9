"""PDF by liteparse, DOCX by mammoth."""

import io
import re
import zipfile
from typing import Any

import mammoth
from liteparse import LiteParse, ParseError

from mock_services.llamacloud.parsing.markup import html_to_text
from mock_services.llamacloud.parsing.pages import DocumentError, Pages, ParsedPage, paginate

_FORMULA = re.compile(r"<m:oMath[ >].*?</m:oMath>", re.S)
_FORMULA_TEXT = re.compile(r"<m:t(?: [^>]*)?>(.*?)</m:t>", re.S)


def parse_pdf(content: bytes) -> Pages:
    """PDF page by page; pages without text, such as scans, are empty."""
    parser = LiteParse(
        ocr_enabled=False,
        output_format="markdown",
        image_mode="off",
        quiet=True,
        num_workers=1,
        continue_on_page_error=True,
    )
    try:
        result = parser.parse(content)
    except ParseError as error:
        if "password" in str(error).lower():
            raise DocumentError("PDF_IS_PROTECTED", "The PDF is protected by a password.") from error
        raise DocumentError("PDF_IS_BROKEN", f"The PDF cannot be read: {error}.") from error
    pages = {page.page_num: ParsedPage(page.markdown if page.text.strip() else "", page.text) for page in result.pages}
    pages |= {failed.page_num: ParsedPage("", "", failed.message) for failed in result.page_errors}
    return [pages[number] for number in sorted(pages)]


def parse_docx(content: bytes) -> Pages:
    """Word documents, as one page unless they are very long; formulas are kept as their plain characters."""
    try:
        document = io.BytesIO(_with_plain_formulas(content))
        converted = mammoth.convert_to_html(document, convert_image=_alternative_text)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DocumentError("UNSUPPORTED_FILE_TYPE", "The Word document cannot be read.") from error
    return paginate(html_to_text(converted.value))


def _alternative_text(image: Any) -> list[Any]:
    return [mammoth.html.text(image.alt_text or "")]


def _with_plain_formulas(content: bytes) -> bytes:
    """The document with each formula, which mammoth drops, turned into a run of text."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if b"<m:oMath" not in archive.read("word/document.xml"):
            return content
        rewritten = io.BytesIO()
        with zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as target:
            for member in archive.infolist():
                data = archive.read(member)
                if member.filename == "word/document.xml":
                    data = _FORMULA.sub(_plain_formula, data.decode("utf-8")).encode("utf-8")
                target.writestr(member, data)
    return rewritten.getvalue()


def _plain_formula(formula: re.Match[str]) -> str:
    text = "".join(_FORMULA_TEXT.findall(formula[0]))
    return f'<w:r><w:t xml:space="preserve">${text}$</w:t></w:r>' if text else ""
