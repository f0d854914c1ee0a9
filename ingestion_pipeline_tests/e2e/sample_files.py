"""Small files of every supported type, and files that can't be parsed."""

import io
import zipfile

import docx
from pypdf import PdfReader, PdfWriter
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

PDF = "application/pdf"
OFFICE_TYPE = "application/vnd.openxmlformats-officedocument"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def pdf(text: str) -> bytes:
    """One page with a line of text."""
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.setFont("Helvetica", 12)
    canvas.drawString(72, 760, text)
    canvas.showPage()
    canvas.save()
    return target.getvalue()


def protected_pdf(text: str) -> bytes:
    """A PDF that asks for a password."""
    writer = PdfWriter(PdfReader(io.BytesIO(pdf(text))))
    writer.encrypt("password", algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def broken_pdf() -> bytes:
    """A PDF of which only the beginning is there."""
    return b"%PDF-1.7\n" + b"this is no object of a PDF\n" * 20


def image_only_pdf() -> bytes:
    """A PDF as a scanner makes it: no text."""
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.rect(100, 100, 300, 300, fill=1)
    canvas.showPage()
    canvas.save()
    return target.getvalue()


def word_document(text: str) -> bytes:
    document = docx.Document()
    document.add_paragraph(text)
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def presentation(text: str) -> bytes:
    """One slide with a title."""
    drawing = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    slide = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
    title = f'<p:sp><p:nvPr><p:ph type="title"/></p:nvPr><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sp>'
    order = '<p:sldIdLst><p:sldId id="1" r:id="r1"/></p:sldIdLst>'
    return _zipped(
        {
            "ppt/presentation.xml": f'<p:presentation {slide} xmlns:r="{OFFICE}">{order}</p:presentation>',
            "ppt/_rels/presentation.xml.rels": _relations('<Relationship Id="r1" Target="slides/slide1.xml"/>'),
            "ppt/slides/slide1.xml": f"<p:sld {slide} {drawing}>{title}</p:sld>",
        }
    )


def workbook(text: str) -> bytes:
    """One sheet with one cell."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    sheets = '<sheets><sheet name="Notes" r:id="r1"/></sheets>'
    row = f'<row><c r="A1" t="inlineStr"><is><t>{text}</t></is></c></row>'
    return _zipped(
        {
            "xl/workbook.xml": f'<workbook {main} xmlns:r="{OFFICE}">{sheets}</workbook>',
            "xl/_rels/workbook.xml.rels": _relations('<Relationship Id="r1" Target="worksheets/one.xml"/>'),
            "xl/worksheets/one.xml": f"<worksheet {main}><sheetData>{row}</sheetData></worksheet>",
        }
    )


def book(text: str) -> bytes:
    """An EPUB with one chapter."""
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="a" href="a.xhtml"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    return _zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            "OEBPS/a.xhtml": f"<html><body><p>{text}</p></body></html>",
        }
    )


def one_of_each_type() -> dict[str, tuple[bytes, str, str]]:
    """By file name: the bytes, the content type, and the sentence in the file."""
    lighthouse = "The lighthouse keeper polishes the lens before dusk."
    glacier = "Meltwater from the glacier feeds the turbines in spring."
    orchard = "Apple trees in the orchard are pruned in February."
    violin = "The violin maker seasons spruce for seven years."
    submarine = "The submarine surfaced under the polar ice."
    bakery = "Sourdough rests overnight in the bakery cellar."
    tortoise = "The tortoise hibernates in a box of dry leaves."
    railway = "Freight trains cross the railway bridge at midnight."
    beekeeper = "The beekeeper moves the hives to the heather in August."
    return {
        "lighthouse.pdf": (pdf(lighthouse), PDF, lighthouse),
        "glacier.docx": (word_document(glacier), f"{OFFICE_TYPE}.wordprocessingml.document", glacier),
        "orchard.pptx": (presentation(orchard), f"{OFFICE_TYPE}.presentationml.presentation", orchard),
        "violin.xlsx": (workbook(violin), f"{OFFICE_TYPE}.spreadsheetml.sheet", violin),
        "submarine.epub": (book(submarine), "application/epub+zip", submarine),
        "bakery.html": (f"<html><body><p>{bakery}</p></body></html>".encode(), "text/html", bakery),
        "tortoise.md": (f"# Animals\n\n{tortoise}\n".encode(), "text/markdown", tortoise),
        "railway.csv": (f"number,note\n1,{railway}\n".encode(), "text/csv", railway),
        "beekeeper.txt": (f"{beekeeper}\n".encode(), "text/plain", beekeeper),
    }


def _zipped(parts: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return target.getvalue()


def _relations(links: str) -> str:
    return f'<Relationships xmlns="{RELATIONS}">{links}</Relationships>'
