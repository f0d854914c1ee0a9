"""The audit's plans and its pace, as far as they can be judged without stores."""

import pytest

from ingestion_pipeline.audit.documents import plan
from ingestion_pipeline.audit.findings import CHECKS, Code, Finding
from ingestion_pipeline.audit.pace import Pace
from ingestion_pipeline.audit.tally import EXAMPLES, Tally
from ingestion_pipeline.inventory import Mend
from ingestion_pipeline.settings import PROJECT_ROOT


def findings(*mends: Mend | None, code: Code = Code.CHUNKS_ALTERED) -> list[Finding]:
    return [Finding(code, "document", "", mend) for mend in mends]


def test_every_code_says_what_it_means_and_what_is_done_about_it_here_and_in_the_documentation() -> None:
    assert set(CHECKS) == set(Code)
    table = (PROJECT_ROOT / "docs" / "audit.md").read_text().split("| --- | --- | --- |\n")[1]
    assert table.splitlines() == [f"| `{code}` | {check.meaning} | {check.fix} |" for code, check in CHECKS.items()]


@pytest.mark.parametrize(
    ("wanted", "planned"),
    [
        ([Mend.REBUILD, Mend.REPARSE, Mend.REEMBED], [Mend.REPARSE]),
        ([Mend.REEMBED, Mend.REBUILD, Mend.REBUILD], [Mend.REBUILD]),
        ([Mend.REBUILD, Mend.DROP_OUTDATED, Mend.ADOPT], [Mend.ADOPT, Mend.DROP_OUTDATED, Mend.REBUILD]),
        ([Mend.RETELL, Mend.CLEAR_BUFFER], [Mend.CLEAR_BUFFER, Mend.RETELL]),
        ([Mend.RETELL, Mend.REBUILD], [Mend.REBUILD]),  # a document that goes back is told of at its end
        ([None], []),
    ],
)
def test_of_the_ways_back_only_the_farthest_is_gone(wanted: list[Mend | None], planned: list[Mend]) -> None:
    assert plan(findings(*wanted)) == (planned, {mend for mend in wanted if mend})


def test_nothing_is_sent_back_to_a_file_that_is_lost() -> None:
    lost = findings(None, code=Code.RAW_MISSING)
    everything = [*lost, *findings(Mend.REPARSE, Mend.REBUILD, Mend.CLEAR_BUFFER)]
    assert plan(everything) == ([Mend.CLEAR_BUFFER], {Mend.CLEAR_BUFFER})
    assert plan([*lost, *findings(Mend.REBUILD)]) == ([Mend.REBUILD], {Mend.REBUILD})


def test_reading_is_slowed_down_to_the_rate_and_pauses_are_not_saved_up() -> None:
    clock, waited = [100.0], []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    pace = Pace(10.0, now=lambda: clock[0], sleep=sleep)
    for count in (5, 20):
        pace.spend(count)
    clock[0] += 1000
    pace.spend(10)
    assert waited == pytest.approx([0.5, 2.0, 1.0])
    Pace(None, sleep=sleep).spend(1 << 40)
    assert len(waited) == 3


def test_a_tally_counts_everything_and_keeps_a_few_examples() -> None:
    tally = Tally()
    for number in range(100):
        tally.add(Finding(Code.RAW_MISSING, str(number), "key"), mended=number < 30)
    report = tally.as_json()
    assert (report["found"], report["mended"], report["left"]) == (100, 30, 70)
    assert [len(finding["examples"]) for finding in report["findings"]] == [EXAMPLES]
