"""EPUB: one page an item of the reading order."""

import posixpath
from urllib.parse import unquote

from mock_services.llamacloud.parsing.archives import open_archive
from mock_services.llamacloud.parsing.markup import decode_html, html_to_text
from mock_services.llamacloud.parsing.pages import Pages, ParsedPage

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_PACKAGE = "{http://www.idpf.org/2007/opf}"


def parse_epub(content: bytes) -> Pages:
    """The chapters in the order of the book's spine."""
    pages = []
    with open_archive(content) as archive:
        root_file = archive.xml("META-INF/container.xml").find(f".//{_CONTAINER}rootfile")
        package_path = "" if root_file is None else root_file.get("full-path", "")
        package = archive.xml(package_path)
        targets = {item.get("id"): item.get("href", "") for item in package.iter(f"{_PACKAGE}item")}
        for reference in package.iter(f"{_PACKAGE}itemref"):
            target = unquote(targets.get(reference.get("idref"), ""))
            path = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), target))
            if archive.has(path):
                markdown = html_to_text(decode_html(archive.read(path)))
                pages.append(ParsedPage(markdown, markdown))
    return pages
