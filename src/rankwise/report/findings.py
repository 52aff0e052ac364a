"""What a study says: everything that table, plots and page show."""

from __future__ import annotations

from dataclasses import dataclass, field

from rankwise.metrics import Metric
from rankwise.report.arms import Arm
from rankwise.report.equivalence import Comparison
from rankwise.report.sufficiency import Sufficiency
from rankwise.report.summary import Headline
from rankwise.tracking.record import Record


@dataclass(frozen=True)
class Findings:
    """A study, read. ``comparisons`` are with ``reference``, by ``id`` of the arm; ``constant`` is the score of the
    best answer that is the same for every test item; ``all_records`` are those that tuned or searched as well.
    """

    records: list[Record]
    arms: list[Arm]
    reference: Arm | None
    metric: Metric
    margin: float
    comparisons: dict[int, Comparison]
    families: list[Sufficiency]
    headline: Headline
    notes: list[str]
    constant: float | None = None
    total: str = ""  # what the whole study took
    all_records: list[Record] = field(default_factory=list)

    def comparison(self, arm: Arm) -> Comparison | None:
        return self.comparisons.get(id(arm))
