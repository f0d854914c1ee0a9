"""Forms that will not do are refused and leave nothing; the others are understood however they are cut."""

import hashlib

import pytest
from conftest import DatabaseUrls
from running_api import RunningApi
from upload_forms import BOUNDARY, NAMED, TEXT, assert_nothing_is_left, form, part, post


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (form(), 422, "missing_file"),
        (form(part(headers='Content-Disposition: form-data; name="other"\r\n')), 422, "unexpected_part"),
        (form(part(), part(headers='Content-Disposition: form-data; name="other"\r\n')), 422, "unexpected_part"),
        (form(part(), part()), 422, "several_files"),
        (form(part(headers='Content-Disposition: form-data; name="file"\r\n')), 422, "invalid_filename"),
        (form(part(headers=NAMED.replace("notes.md", ""))), 422, "invalid_filename"),
        (form(part(headers=NAMED + "Content-Transfer-Encoding: base64\r\n")), 400, "malformed_multipart"),
        (form(part(headers="")), 400, "malformed_multipart"),
        (form(part(headers=NAMED + "X: " + "x" * 5000 + "\r\n")), 400, "malformed_multipart"),
        (form(part(), end=b""), 400, "malformed_multipart"),
        (b"not a form", 400, "malformed_multipart"),
        (b"", 400, "malformed_multipart"),
    ],
)
def test_a_form_that_will_not_do_is_refused_and_leaves_nothing(
    api: RunningApi, database_urls: DatabaseUrls, body: bytes, status: int, code: str
) -> None:
    response = post(api, body)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert_nothing_is_left(api, database_urls)


def test_a_file_name_that_is_not_utf8_is_refused(api: RunningApi) -> None:
    response = post(api, form(NAMED.encode().replace(b"notes", b"caf\xe9") + b"\r\n" + TEXT))

    assert (response.status_code, response.json()["code"]) == (422, "invalid_filename")


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("text/markdown", 415, "not_multipart"),
        ("multipart/form-data", 400, "malformed_multipart"),
        ("multipart/form-data; boundary=" + "b" * 300, 400, "malformed_multipart"),
    ],
)
def test_a_body_that_is_no_form_is_refused(api: RunningApi, content_type: str, status: int, code: str) -> None:
    response = post(api, form(part()), content_type)

    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("step", [1, 7, 61])
def test_a_form_is_understood_however_the_network_cuts_it(api: RunningApi, step: int) -> None:
    content = TEXT + b"\r\n--" + BOUNDARY.encode()[:-1] + b"!\r\n" + TEXT
    body = form(part(content))

    response = post(api, (body[start : start + step] for start in range(0, len(body), step)))

    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
