"""The mock LlamaCloud really parses: a file of each type goes its whole way through the unmodified SDK."""

import asyncio
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docx
import pytest
from llama_cloud import AsyncLlamaCloud, LlamaCloud
from llama_cloud.types import ParsingGetResponse
from pypdf import PdfReader, PdfWriter
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from mock_services.process import MockServices, start_mock_services

RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockServices]:
    with start_mock_services(tmp_path_factory.mktemp("mock"), vectors="instant", max_pages=5) as running:
        yield running


@pytest.fixture(scope="module")
def client(services: MockServices) -> LlamaCloud:
    return LlamaCloud(api_key="llx-test", base_url=services.llamacloud_url, max_retries=0)


@pytest.fixture
def source_url() -> Iterator[str]:
    class Source(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/page.md"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b"# Fetched" if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Source) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page.md"
        server.shutdown()


def pdf(*pages: str) -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    for text in pages:
        canvas.setFont("Helvetica", 12)
        for position, line in enumerate(text.splitlines()):
            canvas.drawString(72, 760 - 16 * position, line)
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def drawing_only_pdf() -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.rect(100, 100, 300, 300, fill=1)
    canvas.showPage()
    canvas.save()
    return target.getvalue()


def protected_pdf() -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(pdf("A secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def word_document() -> bytes:
    document = docx.Document()
    document.add_heading("Lease agreement", 1)
    document.add_paragraph("The tenant pays on the first of the month.")
    table = document.add_table(rows=2, cols=2)
    for position, text in enumerate(["Item", "Price", "Rent", "900"]):
        table.cell(position // 2, position % 2).text = text
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def zipped(parts: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return target.getvalue()


def claiming_to_be_huge() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
        archive.filelist[0].file_size = 600 * 2**20
    return target.getvalue()


def relations(links: str) -> str:
    return f'<Relationships xmlns="{RELATIONS}">{links}</Relationships>'


def presentation() -> bytes:
    drawing = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    slide = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'

    def page(title: str, attributes: str = "") -> str:
        shape = f'<p:sp><p:nvPr><p:ph type="title"/></p:nvPr><a:p><a:r><a:t>{title}</a:t></a:r></a:p></p:sp>'
        return f"<p:sld {slide} {drawing} {attributes}>{shape}</p:sld>"

    ids = "".join(f'<p:sldId id="{number}" r:id="r{number}"/>' for number in (2, 1, 3))
    links = "".join(f'<Relationship Id="r{number}" Target="slides/slide{number}.xml"/>' for number in (1, 2, 3))
    order = f"<p:sldIdLst>{ids}</p:sldIdLst>"
    return zipped(
        {
            "ppt/presentation.xml": f'<p:presentation {slide} xmlns:r="{OFFICE}">{order}</p:presentation>',
            "ppt/_rels/presentation.xml.rels": relations(links),
            "ppt/slides/slide1.xml": page("Second shown"),
            "ppt/slides/slide2.xml": page("First shown"),
            "ppt/slides/slide3.xml": page("Never shown", 'show="0"'),
        }
    )


def workbook() -> bytes:
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    sheets = '<sheets><sheet name="Bills" r:id="r1"/></sheets>'
    formats = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
    rows = (
        '<row><c r="A1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>Due</t></is></c></row>'
        '<row><c r="A2"><v>12.5</v></c><c r="B2" t="b"><v>1</v></c><c r="C2" s="1"><v>45292</v></c></row>'
    )
    return zipped(
        {
            "xl/workbook.xml": f'<workbook {main} xmlns:r="{OFFICE}">{sheets}</workbook>',
            "xl/_rels/workbook.xml.rels": relations('<Relationship Id="r1" Target="/xl/one.xml"/>'),
            "xl/sharedStrings.xml": f"<sst {main}><si><t>Amount</t></si></sst>",
            "xl/styles.xml": f"<styleSheet {main}>{formats}</styleSheet>",
            "xl/one.xml": f"<worksheet {main}><sheetData>{rows}</sheetData></worksheet>",
        }
    )


def book() -> bytes:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="b" href="b.xhtml"/>'
        '<item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            "OEBPS/a.xhtml": "<html><body><h1>Opening</h1></body></html>",
            "OEBPS/b.xhtml": "<html><body><h1>Ending</h1></body></html>",
        }
    )


def wait_until_finished(client: LlamaCloud, job_id: str) -> None:
    deadline = time.monotonic() + 20
    while (found := client.parsing.get(job_id).job).status in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, f"job still {found.status}"
        time.sleep(0.01)


def parse(client: LlamaCloud, name: str, content: bytes, **options: object) -> ParsingGetResponse:
    file = client.files.create(file=(name, content), purpose="parse")
    job = client.parsing.create(tier="agentic", version="latest", file_id=file.id, **options)  # type: ignore[arg-type]
    wait_until_finished(client, job.id)
    return client.parsing.get(job.id, expand=["markdown", "text"])


def markdown(result: ParsingGetResponse) -> list[str]:
    assert result.job.status == "COMPLETED", result.job.error_message
    assert result.markdown is not None
    return [page.markdown for page in result.markdown.pages if page.success]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("two.pdf", pdf("Water damage claim", "Second page"), [["Water damage claim"], ["Second page"]]),
        ("lease.docx", word_document(), [["# Lease agreement", "first of the month", "| Rent | 900 |"]]),
        ("deck.pptx", presentation(), [["# First shown"], ["# Second shown"]]),
        ("bills.xlsx", workbook(), [["# Bills", "| Amount |  | Due |", "| 12.5 | TRUE | 2024-01-01 |"]]),
        ("novel.epub", book(), [["# Opening"], ["# Ending"]]),
        ("page.html", b"<html><body><h2>Terms</h2><p>Pay <b>now</b></p></body></html>", [["## Terms", "Pay **now**"]]),
        ("people.csv", b"name;age\nAda;36\n", [["| name | age |", "| Ada | 36 |"]]),
        ("note.md", "# Überschrift\n\ntext\n".encode(), [["# Überschrift\n\ntext\n"]]),
        ("note.txt", "plain text – €".encode(), [["plain text – €"]]),  # noqa: RUF001
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_each_type_becomes_markdown_page_by_page(
    client: LlamaCloud, name: str, content: bytes, expected: list[list[str]]
) -> None:
    pages = markdown(parse(client, name, content))
    assert len(pages) == len(expected)
    for page, fragments in zip(pages, expected, strict=True):
        for fragment in fragments:
            assert fragment in page


def test_content_decides_over_the_file_name(client: LlamaCloud) -> None:
    assert "Misnamed" in markdown(parse(client, "really-a.txt", pdf("Misnamed")))[0]


@pytest.mark.parametrize("charset", ["iso-8859-1", "shift_jis", "utf-8", "windows-1251"])
def test_html_is_read_in_the_character_set_that_it_declares(client: LlamaCloud, charset: str) -> None:
    text = {"iso-8859-1": "Gebühr", "shift_jis": "名前", "utf-8": "Gebühr 名前", "windows-1251": "Договор"}[charset]
    html = f'<html><head><meta charset="{charset}"></head><body><p>{text}</p></body></html>'.encode(charset)
    assert markdown(parse(client, "page.html", html))[0].strip() == text


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("secret.pdf", protected_pdf(), "PDF_IS_PROTECTED"),
        ("broken.pdf", b"%PDF-1.7 and then nothing of use", "PDF_IS_BROKEN"),
        ("not-a.pdf", b"no PDF at all", "PDF_IS_BROKEN"),
        ("scan.pdf", drawing_only_pdf(), "NO_DATA_FOUND_IN_FILE"),
        ("blank.txt", b" \n\n", "NO_DATA_FOUND_IN_FILE"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "NO_DATA_FOUND_IN_FILE"),
        ("program.exe", b"MZ" + bytes(200), "UNSUPPORTED_FILE_TYPE"),
        ("archive.zip", zipped({"a.txt": "a"}), "UNSUPPORTED_FILE_TYPE"),
        ("cut.docx", word_document()[:900], "UNSUPPORTED_FILE_TYPE"),
        ("long.pdf", pdf(*["page"] * 6), "TOO_MANY_PAGES"),
        ("bomb.docx", claiming_to_be_huge(), "DOCUMENT_TOO_LARGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_that_cannot_be_parsed_fails_with_the_code_first_in_its_error_message(
    client: LlamaCloud, name: str, content: bytes, code: str
) -> None:
    result = parse(client, name, content)
    assert result.job.status == "FAILED"
    assert result.job.error_message is not None
    assert result.job.error_message.partition(":")[0] == code
    assert result.markdown is None
    metadata = client.parsing.get(result.job.id, expand=["job_metadata"]).job_metadata
    assert metadata is not None
    assert metadata["error_code"] == code


def test_an_empty_file_holds_no_data(client: LlamaCloud) -> None:
    assert (parse(client, "empty.txt", b"").job.error_message or "").startswith("NO_DATA_FOUND_IN_FILE")


def test_a_long_text_is_cut_into_pages_that_join_to_the_whole(client: LlamaCloud) -> None:
    text = "\n\n".join(f"Paragraph {number} " + "word " * 100 for number in range(300))
    pages = markdown(parse(client, "long.md", text.encode()))
    assert len(pages) == 3
    assert "".join(pages) == text
    assert all(len(page) <= 64_000 for page in pages)


def test_page_ranges_select_pages_and_keep_their_numbers(client: LlamaCloud) -> None:
    content = pdf("one", "two", "three")
    result = parse(client, "three.pdf", content, page_ranges={"target_pages": "3,1"})
    assert result.markdown is not None
    assert [page.page_number for page in result.markdown.pages] == [1, 3]
    assert len(markdown(parse(client, "three.pdf", content, page_ranges={"max_pages": 2}))) == 2


def test_the_sdks_own_polling_parse_returns_the_text_of_an_upload(client: LlamaCloud) -> None:
    result = client.parsing.parse(
        upload_file=("up.txt", b"uploaded"), tier="fast", version="latest", expand=["text"], polling_interval=0.05
    )
    assert result.text is not None
    assert result.text.pages[0].text == "uploaded"


def test_the_asynchronous_sdk_parses_too_and_returns_a_failed_job_without_raising(services: MockServices) -> None:
    async def parsed(name: str, content: bytes) -> ParsingGetResponse:
        async with AsyncLlamaCloud(api_key="llx-test", base_url=services.llamacloud_url, max_retries=0) as client:
            return await client.parsing.parse(
                upload_file=(name, content),
                tier="agentic",
                version="latest",
                expand=["markdown"],
                polling_interval=0.05,
            )

    assert markdown(asyncio.run(parsed("up.md", b"# Hi"))) == ["# Hi"]
    assert asyncio.run(parsed("broken.pdf", b"%PDF-1.7")).job.status == "FAILED"


def test_a_file_at_an_address_is_downloaded_and_parsed(client: LlamaCloud, source_url: str) -> None:
    job = client.parsing.create(tier="agentic", version="latest", source_url=source_url)
    wait_until_finished(client, job.id)
    assert markdown(client.parsing.get(job.id, expand=["markdown"])) == ["# Fetched"]
    lost = client.parsing.create(tier="agentic", version="latest", source_url=f"{source_url}.missing")
    wait_until_finished(client, lost.id)
    assert (client.parsing.get(lost.id).job.error_message or "").startswith("DOWNLOAD_FAILED: ")


def test_a_document_nested_beyond_reason_leaves_the_service_at_work(client: LlamaCloud) -> None:
    deep = b"<html><body>" + b"<div><b><i>" * 60_000 + b"poison"
    finished = parse(client, "deep.html", deep).job.status
    assert finished in ("COMPLETED", "FAILED")
    assert markdown(parse(client, "after.html", b"<html><body><p>Still here</p></body></html>")) == ["Still here\n"]
