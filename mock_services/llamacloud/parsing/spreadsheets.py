"""XLSX and CSV as Markdown tables; one page a visible sheet."""

import csv
import io
import re
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from mock_services.llamacloud.parsing.archives import Archive, open_archive
from mock_services.llamacloud.parsing.markup import decode_text
from mock_services.llamacloud.parsing.pages import Pages, ParsedPage, paginate, table

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_BUILT_IN_DATE_FORMATS = {*range(14, 23), *range(45, 48)}
_NOT_A_DATE_CODE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')


def parse_csv(content: bytes) -> Pages:
    """Comma, semicolon or tab separated values."""
    text = decode_text(content)
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text[:4096], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if any(cell.strip() for cell in row)]
    except csv.Error:  # no table after all, e.g. an unclosed quote before a very long text
        return paginate(text)
    return paginate(table(rows), text)


def parse_xlsx(content: bytes) -> Pages:
    """Workbooks: the values as last calculated; dates as ISO 8601."""
    with open_archive(content) as archive:
        workbook = "xl/workbook.xml"
        shared = _shared_strings(archive)
        dates = _date_styles(archive)
        sheets = archive.xml(workbook).findall(f"{_SHEET}sheets/{_SHEET}sheet")
        visible = [sheet for sheet in sheets if sheet.get("state", "visible") == "visible"]
        pages = []
        for sheet, path in archive.related(workbook, visible):
            rows = [_row(row, shared, dates) for row in archive.xml(path).iter(f"{_SHEET}row")]
            filled = table([row for row in rows if any(row)])
            pages.append(ParsedPage(f"# {sheet.get('name')}\n\n{filled}" if filled else "", filled))
    return pages


def _shared_strings(archive: Archive) -> list[str]:
    if not archive.has("xl/sharedStrings.xml"):
        return []
    return [_text(item) for item in archive.xml("xl/sharedStrings.xml").findall(f"{_SHEET}si")]


def _date_styles(archive: Archive) -> set[int]:
    """Numbers of the cell styles that show a date."""
    if not archive.has("xl/styles.xml"):
        return set()
    styles = archive.xml("xl/styles.xml")
    codes = {int(code.get("numFmtId", 0)): code.get("formatCode", "") for code in styles.iter(f"{_SHEET}numFmt")}
    dates = _BUILT_IN_DATE_FORMATS | {
        number for number, code in codes.items() if re.search("[dmyhs]", _NOT_A_DATE_CODE.sub("", code).lower())
    }
    cells = styles.findall(f"{_SHEET}cellXfs/{_SHEET}xf")
    return {position for position, cell in enumerate(cells) if int(cell.get("numFmtId", 0)) in dates}


def _row(row: Element, shared: list[str], dates: set[int]) -> list[str]:
    cells: list[str] = []
    for cell in row.findall(f"{_SHEET}c"):
        column = _column(cell.get("r", ""))
        if column is not None:
            cells.extend([""] * (column - len(cells)))
        cells.append(_value(cell, shared, dates))
    return cells


def _value(cell: Element, shared: list[str], dates: set[int]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return _text(cell)
    value = cell.findtext(f"{_SHEET}v", "")
    if kind == "s" and value:
        return shared[int(value)]
    if kind == "b":
        return "TRUE" if value == "1" else "FALSE"
    if kind == "n" and value and int(cell.get("s", 0)) in dates:
        moment = datetime(1899, 12, 30) + timedelta(days=float(value))  # noqa: DTZ001  spreadsheets have no zones
        return moment.date().isoformat() if moment.time() == datetime.min.time() else moment.isoformat(" ", "seconds")
    return value


def _text(element: Element) -> str:
    return "".join(run.text or "" for run in element.iter(f"{_SHEET}t"))


def _column(reference: str) -> int | None:
    letters = re.match("[A-Z]+", reference)
    if letters is None:
        return None
    number = 0
    for letter in letters[0]:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
