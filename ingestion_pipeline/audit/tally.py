"""What an audit found so far: counts and a few examples for each code, however many findings there are."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ingestion_pipeline.audit.findings import CHECKS, Code, Finding

EXAMPLES = 5


@dataclass(slots=True)
class Tally:
    """`examined` counts documents, objects and partitions, `at_work` documents that moved while they were looked at."""

    on_progress: Callable[[str, int, int | None], None] = lambda _what, _done, _all: None
    examined: Counter[str] = field(default_factory=Counter)
    found: Counter[Code] = field(default_factory=Counter)
    mended: Counter[Code] = field(default_factory=Counter)
    examples: dict[Code, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    at_work: int = 0

    def advance(self, what: str, count: int, total: int | None = None) -> None:
        """So many more documents, objects or partitions were looked at."""
        self.examined[what] += count
        self.on_progress(what, self.examined[what], total)

    def add(self, finding: Finding, *, mended: bool) -> None:
        """Note a finding that was seen twice."""
        self.found[finding.code] += 1
        self.mended[finding.code] += mended
        if len(self.examples[finding.code]) < EXAMPLES:
            self.examples[finding.code].append(finding)

    def left(self) -> int:
        """How many findings are not mended."""
        return self.found.total() - self.mended.total()

    def as_json(self) -> dict[str, Any]:
        """The whole report; examples are `subject: detail`."""
        return {
            "examined": dict(self.examined),
            "at_work": self.at_work,
            "found": self.found.total(),
            "mended": self.mended.total(),
            "left": self.left(),
            "findings": [
                {
                    "code": code.value,
                    "meaning": CHECKS[code].meaning,
                    "fix": CHECKS[code].fix,
                    "found": self.found[code],
                    "mended": self.mended[code],
                    "examples": [
                        {"subject": example.subject, "detail": example.detail} for example in self.examples[code]
                    ],
                }
                for code in Code
                if self.found[code]
            ],
        }
