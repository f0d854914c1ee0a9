"""Documents to Markdown, page by page: one small parser a format, one table from format to parser.

Everything here is pure (bytes in, pages out) and runs in a process of its own, see `isolation`.
"""

from collections.abc import Callable
from dataclasses import replace

from mock_services.llamacloud.parsing.books import parse_epub
from mock_services.llamacloud.parsing.detection import Format, detect_format
from mock_services.llamacloud.parsing.documents import parse_docx, parse_pdf
from mock_services.llamacloud.parsing.markup import parse_html, parse_text
from mock_services.llamacloud.parsing.pages import DocumentError, Pages, ParsedPage
from mock_services.llamacloud.parsing.presentations import parse_pptx
from mock_services.llamacloud.parsing.spreadsheets import parse_csv, parse_xlsx

PARSERS: dict[Format, Callable[[bytes], Pages]] = {
    Format.PDF: parse_pdf,
    Format.DOCX: parse_docx,
    Format.PPTX: parse_pptx,
    Format.XLSX: parse_xlsx,
    Format.EPUB: parse_epub,
    Format.HTML: parse_html,
    Format.CSV: parse_csv,
    Format.TEXT: parse_text,
}

# cheap, pure and safe on any bytes: not worth a process
IN_PROCESS = {Format.TEXT, Format.CSV}


def parse_document(content: bytes, name: str) -> Pages:
    """The pages of a document; DocumentError with the vendor's code where there are none.

    Text without any letter is no data; an image would need optical character recognition, which this parser lacks.
    """
    if not content:
        raise DocumentError("NO_DATA_FOUND_IN_FILE", "The file is empty.")
    format_ = detect_format(content, name)
    if format_ is Format.IMAGE:
        raise DocumentError("NO_DATA_FOUND_IN_FILE", "No text could be extracted from the image.")
    pages = PARSERS[format_](content)
    if not any(page.text.strip() or page.error for page in pages):
        raise DocumentError("NO_DATA_FOUND_IN_FILE", "No text could be extracted from the file.")
    return [replace(page, number=number) for number, page in enumerate(pages, 1)]


__all__ = ["IN_PROCESS", "DocumentError", "ParsedPage", "detect_format", "parse_document"]
