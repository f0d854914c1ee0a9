"""Reading zipped XML documents: parts, and the relations between them."""

import io
import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import Element, ParseError, fromstring

from mock_services.llamacloud.parsing.pages import DocumentError

_RELATION_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


class Archive:
    """An open zipped document."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def read(self, path: str) -> bytes:
        """A part's bytes; KeyError if there is no such part."""
        return self._archive.read(path)

    def has(self, path: str) -> bool:
        """Whether there is such a part."""
        return path in self._archive.NameToInfo

    def xml(self, path: str) -> Element:
        """A part's root element."""
        return fromstring(self.read(path))  # noqa: S314  see the import

    def related(self, path: str, elements: list[Element]) -> Iterator[tuple[Element, str]]:
        """Each element that names a relation of a part, with the path of what it points to."""
        folder, name = posixpath.split(path)
        relations = {
            relation.get("Id"): relation.get("Target", "") for relation in self.xml(f"{folder}/_rels/{name}.rels")
        }
        for element in elements:
            target = relations.get(element.get(_RELATION_ID))
            if target:
                yield element, posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")


@contextmanager
def open_archive(content: bytes) -> Iterator[Archive]:
    """A zipped document to read; whatever is wrong with it is a DocumentError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield Archive(archive)
    except (zipfile.BadZipFile, ParseError, KeyError, ValueError, OSError) as error:
        raise DocumentError("UNSUPPORTED_FILE_TYPE", f"The document cannot be read: {error}.") from error
