"""Parsing in a process of its own: what a poisonous document can and cannot do."""

import os
import signal
import time
from pathlib import Path

import pytest

from mock_services.llamacloud.isolation import parse_isolated
from mock_services.llamacloud.parsing import DocumentError, ParsedPage


def crash(content: bytes, name: str) -> list[ParsedPage]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


def hang(content: bytes, name: str) -> list[ParsedPage]:
    signal.pause()
    raise AssertionError("unreachable")


def raise_a_bug(content: bytes, name: str) -> list[ParsedPage]:
    raise RecursionError("too deep")


def swell(content: bytes, name: str) -> list[ParsedPage]:
    return [ParsedPage("x" * (64 * 2**30), "")]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document"
    path.write_bytes(b"<html><body><p>Hello</p></body></html>")
    return path


@pytest.mark.parametrize("poison", [crash, raise_a_bug, swell])
def test_a_parser_that_dies_fails_its_document_only(document: Path, poison: object) -> None:
    with pytest.raises(DocumentError) as failure:
        parse_isolated(document, "poison.html", 20, poison)  # type: ignore[arg-type]
    assert failure.value.code == "PDF_IS_BROKEN"
    assert parse_isolated(document, "good.html", 20)[0].markdown == "Hello\n"


def test_a_parser_that_hangs_is_killed_at_its_time_limit(document: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DocumentError) as failure:
        parse_isolated(document, "slow.html", 0.3, hang)
    assert failure.value.code == "TIMEOUT"
    assert time.monotonic() - started < 10
