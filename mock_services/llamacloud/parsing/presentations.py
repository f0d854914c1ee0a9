"""PPTX: one page a slide, hidden slides left out."""

from xml.etree.ElementTree import Element

from mock_services.llamacloud.parsing.archives import open_archive
from mock_services.llamacloud.parsing.pages import Pages, ParsedPage, table

_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_SLIDE = "{http://schemas.openxmlformats.org/presentationml/2006/main}"


def parse_pptx(content: bytes) -> Pages:
    """Slides in the order in which they are shown."""
    with open_archive(content) as archive:
        presentation = "ppt/presentation.xml"
        slides = archive.xml(presentation).findall(f"{_SLIDE}sldIdLst/{_SLIDE}sldId")
        roots = [archive.xml(path) for _, path in archive.related(presentation, slides)]
    return [_page(root) for root in roots if root.get("show") != "0"]


def _page(slide: Element) -> ParsedPage:
    blocks = []
    for shape in slide.iter():
        if shape.tag == f"{_SLIDE}sp":
            blocks.append(_shape(shape))
        elif shape.tag == f"{_DRAWING}tbl":
            blocks.append(
                table([[_text(cell) for cell in row.iter(f"{_DRAWING}tc")] for row in shape.iter(f"{_DRAWING}tr")])
            )
    markdown = "\n\n".join(block for block in blocks if block)
    return ParsedPage(markdown, markdown)


def _shape(shape: Element) -> str:
    placeholder = shape.find(f".//{_SLIDE}ph")
    kind = None if placeholder is None else placeholder.get("type")
    lines = [line for line in (_text(paragraph) for paragraph in shape.iter(f"{_DRAWING}p")) if line]
    if kind in ("title", "ctrTitle"):
        return "# " + " ".join(lines) if lines else ""
    if placeholder is not None and len(lines) > 1:
        return "\n".join(f"- {line}" for line in lines)
    return "\n\n".join(lines)


def _text(element: Element) -> str:
    return "".join(run.text or "" for run in element.iter(f"{_DRAWING}t")).strip()
