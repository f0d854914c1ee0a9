"""What the command line prints, without an API."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType

from ingestion_pipeline.cli.output import (
    console_for,
    counts_table,
    document_view,
    documents_table,
    files_table,
    hit_view,
    snippet,
    usage_table,
    vendor_warnings,
)
from ingestion_pipeline.cli.transfer import REFUSED, FileRow
from ingestion_pipeline.cli.upload import write_report
from ingestion_pipeline.errors import ConfigurationError

DOCUMENT: dict[str, Any] = {
    "document_id": "3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10",
    "filename": "report.pdf",
    "content_type": "application/pdf",
    "size_bytes": 482133,
    "state": "failed_parse",
    "created_at": "2026-11-01T10:00:00Z",
    "state_changed_at": "2026-11-01T10:00:05Z",
    "progress": {"pages": 12, "failed_pages": [7], "chunks_total": 40, "chunks_embedded": 25, "tokens": 18250},
    "attempt": 1,
    "next_attempt_at": None,
    "last_error": {
        "code": "pdf_is_protected",
        "message": "The PDF needs a password.",
        "stage": "parsed_documents",
        "remedy": "Remove the password.",
    },
    "usage": {"tokens": 18250, "pages": 12, "cost_usd": 0.045365},
    "correlation_id": "0d4a9d0b-7d7a-4c4f-a1ee-c3a3b1a3f3aa",
    "retry_path": "/documents/3f0a9c1e-6f0d-5b55-9a3e-1c2d7f6f4b10/retry",
    "history": [
        {
            "at": "2026-11-01T10:00:05Z",
            "actor": "worker",
            "to_state": "failed_parse",
            "attempt": 1,
            "error_code": "pdf_is_protected",
            "message": "The PDF needs a password.",
        }
    ],
}


def printed(view: RenderableType) -> str:
    stream = io.StringIO()
    console_for(stream).print(view)
    return stream.getvalue()


def test_a_log_gets_no_escape_sequences_and_no_cut_columns() -> None:
    row = FileRow(Path("folder") / "a-file-with-quite-a-long-name-for-a-report.pdf", 10, state="complete", chunks=1234)
    row.document_id = DOCUMENT["document_id"]
    row.seconds = 2.04
    text = printed(files_table([row]))
    assert "\x1b" not in text
    line = next(line for line in text.splitlines() if "complete" in line)
    assert line.split() == [
        "folder/a-file-with-quite-a-long-name-for-a-report.pdf",
        "complete",
        row.document_id,
        "1,234",
        "2.0",
    ]


def test_a_file_that_was_uploaded_before_says_so_unless_something_is_wrong_with_it() -> None:
    known = FileRow(Path("known.txt"), 1, state="complete", is_new=False)
    failed = FileRow(Path("failed.txt"), 1, state="failed_parse", is_new=False, reason="It is empty.")
    text = printed(files_table([known, failed]))
    assert "uploaded before" in text
    assert text.count("uploaded before") == 1
    assert "It is empty." in text


def test_names_from_outside_neither_steer_the_terminal_nor_are_taken_for_markup() -> None:
    hostile = FileRow(Path("[red]\x1b[2J\udcff.txt"), 1, state=REFUSED, reason="line\rfeed")
    text = printed(files_table([hostile]))
    assert "[red]\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}.txt" in text
    assert "\x1b" not in text
    assert "\r" not in text


def test_counts_stand_in_the_order_of_a_documents_life_and_leave_empty_states_out() -> None:
    lines = printed(counts_table({"complete": 2, "uploaded": 1, "parsed": 0})).splitlines()
    assert [line.split() for line in lines if line.strip()][-3:] == [["uploaded", "1"], ["complete", "2"], ["all", "3"]]


def test_the_list_of_documents_tells_progress_and_the_errors_code() -> None:
    text = printed(documents_table([DOCUMENT]))
    assert "25 of 40" in text
    assert "pdf_is_protected" in text


def test_one_document_tells_its_error_with_the_remedy_and_its_history() -> None:
    text = printed(document_view(DOCUMENT))
    assert "[pdf_is_protected] The PDF needs a password. (parsed_documents)" in text
    assert "Remove the password." in text
    assert "482,133 bytes" in text
    history = [line for line in text.splitlines() if "worker" in line]
    assert len(history) == 1
    assert "failed_parse" in history[0]


def test_a_result_tells_rank_score_file_pages_and_headings() -> None:
    hit = {
        "score": 0.61849,
        "filename": "handbook.md",
        "pages": {"first": 3, "last": 4},
        "heading_path": ["Leave", "Parental leave"],
        "text": "Both parents get\n16 weeks.",
    }
    lines = [line.strip() for line in printed(hit_view(2, hit, "parents")).splitlines()]
    assert lines == ["2. 0.618  handbook.md, pages 3-4", "Leave > Parental leave", "Both parents get 16 weeks."]


def test_a_snippet_is_the_passage_with_the_words_of_the_query() -> None:
    filler = "Nothing of interest is said here. " * 20
    text = f"{filler}A refund for hotels is 140 euros a night. {filler}"
    passage = snippet(text, "What is the refund for hotels?", characters=80)
    assert passage.startswith("... A refund for hotels is 140 euros a night.")
    assert passage.endswith(" ...")
    assert len(passage) <= 90


def test_the_snippet_of_a_text_without_words_of_the_query_is_its_beginning() -> None:
    assert snippet("The first sentence. " + "Another one. " * 50, "unrelated", characters=40).startswith("The first")


def test_a_short_text_is_its_own_snippet() -> None:
    assert snippet("One  line\nonly", "line") == "One line only"


def test_a_report_has_one_line_a_file_with_what_became_of_it(tmp_path: Path) -> None:
    rows = [
        FileRow(Path("known.txt"), 1, state="complete", chunks=3),
        FileRow(Path("odd, name.pdf"), 2, state="failed_parse", reason='It says "no".'),
    ]
    write_report(rows, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert [(line["path"], line["state"], line["reason"]) for line in lines] == [
        ("known.txt", "complete", ""),
        ("odd, name.pdf", "failed_parse", 'It says "no".'),
    ]


def test_a_report_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be written"):
        write_report([FileRow(Path("a.txt"), 1)], tmp_path / "missing" / "report.csv")


def test_usage_is_a_row_a_day_and_operation_and_a_total() -> None:
    day = {"day": "2026-11-01", "provider": "openai", "operation": "embed", "model": "small", "calls": 2}
    report = {
        "days": [{**day, "tokens": 18250, "pages": 0, "cost_usd": 0.000365}],
        "total": {"tokens": 18250, "pages": 0, "cost_usd": 0.000365},
    }
    lines = printed(usage_table(report)).splitlines()
    assert lines[-2].split() == ["2026-11-01", "openai", "embed", "small", "2", "18,250", "0", "0.000365"]
    assert lines[-1].split() == ["all", "18,250", "0", "0.000365"]


def test_vendors_that_are_well_and_budgets_that_last_are_not_spoken_of() -> None:
    well = {"vendor": "openai", "state": "closed", "since": None, "reopens_at": None, "last_error": None}
    ill = {
        "vendor": "llamacloud",
        "state": "open",
        "since": "2026-11-01T10:00:00Z",
        "reopens_at": "2026-11-01T10:05:00Z",
        "last_error": {"code": "rate_limited"},
    }
    tested = {**ill, "state": "half_open"}
    budgets = [
        {"name": "daily", "limit_usd": 5.0, "spent_usd": 5.25, "left_usd": 0.0},
        {"name": "owner_daily", "limit_usd": 5.0, "spent_usd": 1.0, "left_usd": 4.0},
    ]
    lines = [printed(line).strip() for line in vendor_warnings({"vendors": [well, ill, tested], "budgets": budgets})]
    assert [line.split()[0] for line in lines] == ["llamacloud", "llamacloud", "the"]
    assert "is paused until 2026-11-01" in lines[0]
    assert lines[0].endswith("rate_limited")
    assert "is being tested" in lines[1]
    assert lines[2] == "the budget daily is used up until midnight UTC: 5.250000 of 5.000000 USD"
    assert vendor_warnings({"vendors": [well], "budgets": budgets[1:]}) == []


def test_a_document_shows_what_it_cost() -> None:
    assert "0.045365 USD" in printed(document_view(DOCUMENT))
