"""Before a study: how many seeds and test rows its margin needs, from the spreads of an earlier study or a pilot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rankwise.compare import by_replicate
from rankwise.errors import Refused
from rankwise.find.evidence import gather
from rankwise.find.question import LOOKS
from rankwise.find.rule import Evidence, Rule, power
from rankwise.metrics import Metric
from rankwise.report.arms import Arm
from rankwise.report.report import build

LIKELY = 0.8  # a chance that is worth the runs
_MOST = 1e4  # times as many test rows as there are: more are not looked at


@dataclass(frozen=True)
class Spreads:
    """What differences between paired runs vary by, pooled over the arms of a study: ``known`` is of one seed."""

    known: Evidence
    rows: int  # of the test set, clusters not counted
    metric: Metric
    margin: float  # the study's own
    faults: tuple[str, ...] = ()  # why nothing may be concluded from its arms

    @property
    def luck(self) -> float:
        """The standard deviation over seeds that would be left with endless test rows."""
        return math.sqrt(max(0.0, self.known.over_seeds**2 - self.known.loose**2))


@dataclass(frozen=True)
class Need:
    """What ``seeds`` seeds of both arms show of a rank with this true gain: the chance that it is named with ``rows``
    test rows, and the fewest rows with which that is ``LIKELY``; None where no number of rows is enough."""

    seeds: int
    gain: float
    chance: float
    rows: int | None


def spreads(study: Path) -> Spreads:
    """Of all ranks not at fault against full fine-tuning, or where that is missing against the one with the most runs;
    of other arms where there are none.

    Raises Refused without two arms that share two seeds.
    """
    report = build([study])
    arms = [arm for arm in report.arms if arm.comparable and arm.runs and not arm.is_baseline]
    reference = report.reference or max(arms, key=lambda arm: (_is_fit(arm), len(arm.runs)), default=None)
    others = [arm for arm in arms if arm is not reference]
    paired = [arm for arm in others if reference and len(by_replicate([arm.runs, reference.runs])) > 1]
    if not paired or reference is None:
        raise Refused(f"{study}: no two arms that share two seeds; --power needs a study with them, or one of find")
    paired = [*filter(_is_fit, paired)] or paired
    gathered = [gather(arm.runs, reference.runs, report.metric) for arm in paired]
    score = reference.runs[0].metrics["test"][report.metric.name]
    faults = tuple(dict.fromkeys(f"{arm.called}: {arm.unfit}" for arm in (*paired, reference) if arm.unfit))
    return Spreads(_pooled(gathered), int(score["n"]), report.metric, report.margin, faults)


def _is_fit(arm: Arm) -> bool:
    return bool(arm.rank_had) and arm.may_pass


def _pooled(pairs: Sequence[Evidence]) -> Evidence:
    """Mean variances, those over seeds by their degrees of freedom."""
    of_one = [seen.seeds * seen.over_seeds**2 for seen in pairs]
    over_seeds = math.sqrt(np.average(of_one, weights=[seen.seeds - 1 for seen in pairs]))
    over_items, loose, lacking = (
        math.sqrt(np.mean([getattr(seen, name) ** 2 for seen in pairs])) for name in ("over_items", "loose", "lacking")
    )
    return Evidence(1, 0.0, over_seeds, over_items, loose, pairs[0].units, lacking=lacking)


def needs(spread: Spreads, margin: float) -> list[Need]:
    """For a rank that is as good as the reference, and for one that is worse by half the margin."""
    known = [replace(spread.known, gain=gain) for gain in (0.0, -margin / 2)]
    rules = [Rule.of((1, 2), 1, margin, LOOKS[:looks]) for looks in range(2, len(LOOKS) + 1)]  # a guess's usual level
    return [need(rule, 1, seen, spread.rows) for seen in known for rule in rules]


def need(rule: Rule, rank: int, known: Evidence, rows: int) -> Need:
    """Of a rank whose true gain and spreads are those of ``known``, which is of one seed on ``rows`` test rows.

    An earlier look than the rule's last may name it, too, so that the chance is a lower bound.
    """
    seeds = rule.looks[-1]

    def chance(items: float) -> float:
        return power(rule, rank, known, seeds, items)

    low, high = 1 / rows, _MOST
    if chance(high) < LIKELY:
        return Need(seeds, known.gain, chance(1.0), None)
    while high > 1.02 * low:
        half = math.sqrt(low * high)
        low, high = (low, half) if chance(half) >= LIKELY else (half, high)
    return Need(seeds, known.gain, chance(1.0), math.ceil(high * rows))
