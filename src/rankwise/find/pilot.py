"""The second stage: one run of the largest rank, cut to every candidate, says where to start. No claim rests on it.

ΔW of every layer is cut by SVD to its leading directions and scored on the validation rows, so that the test rows stay
untouched. The guess is the smallest rank that keeps the whole adapter's score within half the margin.
"""

from collections.abc import Sequence

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.find.question import PILOT, PILOT_SEED, Question, middle
from rankwise.find.rates import Rates, Runner
from rankwise.metrics import Metric
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record


class Failed(Exception):
    """A run that the decision needs has failed; its seed is not replaced."""

    def __init__(self, record: Record):
        super().__init__(f"{record.run['name']} {record.status}: {(record.error or {}).get('message', 'no result')}")


def pilot(question: Question, rates: Rates, run: Runner) -> tuple[int, dict[int, float]]:
    """The rank to start from, and the validation score of every rank that a cut gives."""
    if len(question.ranks) == 1:
        return question.ranks[0], {}
    # Beside it, what is needed whatever it says: it alone would leave other cores idle.
    beside = [question.run_of(None, seed, rates.of(None)) for seed in range(question.looks[0])]
    record = run([pilot_run(question, rates), *beside], "pilot and reference")[0]
    if record.status != FINISHED:
        raise Failed(record)
    return guess_from(record, question.ranks, question.margin, question.metric)


def pilot_run(question: Question, rates: Rates) -> Config:
    """The largest rank, on a seed of its own."""
    largest = question.ranks[-1]
    return question.run_of(largest, PILOT_SEED, rates.of(largest), stage=PILOT)


def guess_from(record: Record, ranks: Sequence[int], margin: float, metric: Metric) -> tuple[int, dict[int, float]]:
    """What a run of the largest of ``ranks`` points to, and the validation score of every rank that its cut gives.

    That is the smallest rank whose score is within half the margin of the largest's; the middle rank where the adapter
    cannot be cut, and where it diverged or gives one answer to every text.
    """
    fell = record.compute.get("diverged") or at(record, "metrics.validation.matthews.value") == 0
    curve = {} if fell else _curve(record, ranks)  # cuts of what learned nothing are all alike
    if not curve:
        return middle(ranks), {}
    whole = curve[ranks[-1]]
    return min(rank for rank in ranks if metric.sign * (curve[rank] - whole) >= -margin / 2), curve


def _curve(record: Record, ranks: Sequence[int]) -> dict[int, float]:
    """Scores on validation by rank; empty for a method whose adapter cannot be cut."""
    from rankwise.adapters.runs import open_adapter  # torch, once there is something to cut
    from rankwise.analysis.truncation import cuts

    try:
        return cuts(open_adapter(record.folder), ranks, part="validation")
    except Refused:
        return {}
