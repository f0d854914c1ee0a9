"""What the commands print: tables and texts for people, in colour on a terminal and plain in a log."""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ingestion_pipeline.audit.findings import CHECKS, Code
from ingestion_pipeline.audit.tally import Tally
from ingestion_pipeline.cli.client import Record
from ingestion_pipeline.cli.transfer import NOT_SENT, REFUSED, FileRow
from ingestion_pipeline.domain import DEAD_LETTERS, SETTLED, State

LOG_WIDTH = 200  # where there is no terminal that tells its width
SNIPPET_CHARACTERS = 300
SHORTEST_TELLING_WORD = 4

_STYLES: dict[str, str] = {
    State.COMPLETE: "green",
    State.CANCELLED: "dim",
    REFUSED: "red",
    NOT_SENT: "red",
    **dict.fromkeys(DEAD_LETTERS, "red"),
}


def console_for(stream: TextIO | None = None) -> Console:
    """A console on a stream, standard output by default; without a terminal it is wide, plain and never redraws."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else LOG_WIDTH, highlight=False, markup=False)


def shown(text: str | None) -> Text:
    """A text from outside as it may be printed: characters that would steer the terminal are replaced."""
    return Text(
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text or "")
    )


def file_name(row: FileRow, below: Path | None) -> Text:
    """A file as it was given, or from the folder `below` on."""
    return shown(str(row.path if below is None else row.path.relative_to(below)))


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=_STYLES.get(state, "yellow"))


def files_table(rows: Iterable[FileRow], below: Path | None = None) -> Table:
    """The files of an upload and what became of them, named from the folder `below` if there is one."""
    table = _table("File", "State", "Document", "Chunks", "Seconds", "Reason")
    for row in rows:
        table.add_row(
            file_name(row, below),
            state_text(row.state),
            shown(row.document_id),
            _number(row.chunks),
            "" if row.seconds is None else f"{row.seconds:.1f}",
            shown(row.reason or ("uploaded before" if row.is_new is False else "")),
        )
    return table


def counts_table(counts: dict[str, int]) -> Table:
    """How many documents are in each state that has any, in the order of a document's life."""
    table = _table("State", "Documents")
    for state in State:
        if counts.get(state):
            table.add_row(state_text(state), str(counts[state]))
    table.add_row("all", str(sum(counts.values())))
    return table


def documents_table(documents: Sequence[Record]) -> Table:
    """Documents with their progress."""
    table = _table("Document", "File", "State", "Since", "Pages", "Chunks", "Tokens", "Error")
    for document in documents:
        progress = document["progress"]
        error = document["last_error"]
        table.add_row(
            document["document_id"],
            shown(document["filename"]),
            state_text(document["state"]),
            _time(document["state_changed_at"]),
            _number(progress["pages"]),
            _chunks(document),
            _number(progress["tokens"]),
            shown(error["code"] + _next_try(document)) if error else "",
        )
    return table


def failures_view(documents: Sequence[Record]) -> RenderableType:
    """Documents with an error, by its code: the remedy once, then each with its reason and when it is tried again."""
    by_code: dict[str, list[Record]] = {}
    for document in documents:
        by_code.setdefault(document["last_error"]["code"], []).append(document)
    parts: list[RenderableType] = []
    for code, failed in by_code.items():
        remedy = shown(failed[0]["last_error"]["remedy"])
        parts.append(Text.assemble((code, "bold"), f" ({len(failed)}): ", remedy))
        for document in failed:
            facts = f"  attempt {document['attempt']}{_next_try(document)}  "
            line = Text.assemble(document["document_id"], "  ", state_text(document["state"]), facts)
            parts.append(Padding(line.append_text(shown(document["filename"])), (0, 0, 0, 2), expand=False))
            parts.append(Padding(shown(document["last_error"]["message"]), (0, 0, 0, 6), expand=False))
        parts.append("")
    return Group(*parts)


def findings_table(tally: Tally) -> Table:
    """What an audit found, by code, and what `--fix` does about it."""
    table = _table("Finding", "Found", "Mended", "It means", "With --fix")
    for code in Code:
        if tally.found[code]:
            check = CHECKS[code]
            table.add_row(code.value, _number(tally.found[code]), _number(tally.mended[code]), check.meaning, check.fix)
    return table


def document_view(document: Record) -> RenderableType:
    """One document: its facts, its last error with the remedy, its history."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(document):
        facts.add_row(name, value)
    history = _table("Time", "By", "State", "Attempt", "Error", "Message")
    for event in document["history"]:
        history.add_row(
            _time(event["at"]),
            shown(event["actor"]),
            state_text(event["to_state"]),
            _number(event["attempt"]),
            shown(event["error_code"]),
            shown(event["message"]),
        )
    return Group(facts, history)


def usage_table(report: Record) -> Table:
    """What was bought, by day, and in all."""
    table = _table("Day", "Vendor", "Operation", "Model", "Calls", "Tokens", "Pages", "USD")
    for row in report["days"]:
        table.add_row(
            row["day"],
            row["provider"],
            row["operation"],
            shown(row["model"]),
            _number(row["calls"]),
            _number(row["tokens"]),
            _number(row["pages"]),
            _usd(row["cost_usd"]),
        )
    total = report["total"]
    table.add_row("all", "", "", "", "", _number(total["tokens"]), _number(total["pages"]), _usd(total["cost_usd"]))
    return table


def vendor_warnings(vendors: Record) -> list[Text]:
    """A line for each vendor that is paused and for each budget that is used up."""
    lines = []
    for vendor in vendors["vendors"]:
        if vendor["state"] != "closed":
            until = f"until {_time(vendor['reopens_at'])}" if vendor["state"] == "open" else "and is being tested"
            why = vendor["last_error"]["code"] if vendor["last_error"] else ""
            since = _time(vendor["since"])
            lines.append(Text(f"{vendor['vendor']} is paused {until}, ill since {since}: {why}", style="red"))
    for budget in vendors["budgets"]:
        if budget["left_usd"] == 0:
            used = f"{_usd(budget['spent_usd'])} of {_usd(budget['limit_usd'])} USD"
            lines.append(Text(f"the budget {budget['name']} is used up until midnight UTC: {used}", style="red"))
    return lines


def hit_view(rank: int, hit: Record, query: str) -> RenderableType:
    """One result of a search: rank, score, file, page and headings, then the passage that speaks of the query."""
    pages = hit["pages"]
    page = f"page {pages['first']}" if pages["first"] == pages["last"] else f"pages {pages['first']}-{pages['last']}"
    head = Text.assemble(f"{rank}. ", f"{hit['score']:.3f}  ", shown(hit["filename"]).append(f", {page}"), style="bold")
    headings = " > ".join(hit["heading_path"])
    body = [shown(text) for text in (headings, snippet(hit["text"], query)) if text]
    return Group(head, *(Padding(text, (0, 0, 0, 3), expand=False) for text in body))


def snippet(text: str, query: str, characters: int = SNIPPET_CHARACTERS) -> str:
    """The passage of a text, of about `characters`, with the most words of the query; the beginning if it has none."""
    flat = " ".join(text.split())
    if len(flat) <= characters:
        return flat
    words = {word for word in re.findall(r"\w+", query.casefold()) if len(word) >= SHORTEST_TELLING_WORD}

    def worth(at: int) -> tuple[int, int]:
        passage = flat[at : at + characters].casefold()
        found = sum(word in passage for word in words)
        return found, at if found else -at  # of equals the last: it begins where the words begin

    start = max((0, *(match.end() for match in re.finditer(r"[.!?|] ", flat))), key=worth)
    passage = flat[start : start + characters]
    if start + characters < len(flat):
        passage = passage.rpartition(" ")[0] + " ..."
    return ("... " if start else "") + passage


def is_settled(document: Record) -> bool:
    """Whether nothing more will happen to a document by itself."""
    return document["state"] in SETTLED


def _facts(document: Record) -> list[tuple[str, Text]]:
    progress = document["progress"]
    facts = [
        ("Document", Text(document["document_id"])),
        (
            "File",
            shown(document["filename"]).append(f" ({document['size_bytes']:,} bytes, {document['content_type']})"),
        ),
        (
            "State",
            state_text(document["state"]).append(f" since {_time(document['state_changed_at'])}", style="default"),
        ),
        ("Pages", Text(_number(progress["pages"]))),
        ("Chunks", Text(_chunks(document))),
        ("Tokens", Text(_number(progress["tokens"]))),
        ("Cost", Text(f"{_usd(document['usage']['cost_usd'])} USD")),
        ("Correlation id", Text(document["correlation_id"])),
    ]
    if progress["failed_pages"]:
        facts.append(("Unreadable pages", Text(", ".join(map(str, progress["failed_pages"])))))
    if error := document["last_error"]:
        facts.append(
            ("Last error", shown(f"[{error['code']}] {error['message'] or ''}").append(f" ({error['stage']})"))
        )
        facts.append(("Remedy", shown(error["remedy"])))
    if document["next_attempt_at"]:
        facts.append(("Next attempt", Text(_time(document["next_attempt_at"]))))
    return facts


def _next_try(document: Record) -> str:
    return f", next try {_time(document['next_attempt_at'])}" if document["next_attempt_at"] else ""


def _chunks(document: Record) -> str:
    progress = document["progress"]
    if progress["chunks_total"] is None:
        return ""
    if document["state"] == State.COMPLETE:
        return _number(progress["chunks_total"])
    return f"{progress['chunks_embedded']:,} of {progress['chunks_total']:,}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        is_number = column in (
            "Chunks",
            "Seconds",
            "Documents",
            "Pages",
            "Tokens",
            "Attempt",
            "Found",
            "Mended",
            "Calls",
            "USD",
        )
        is_fixed = is_number or column in ("Document", "State", "Since", "Time", "Next try", "Finding", "Day")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_fixed, overflow="fold")
    return table


def _usd(amount: float) -> str:
    return f"{amount:,.6f}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _time(moment: str) -> str:
    """Local time, to the second."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
