"""Each arm against the reference: the paired difference on the test set and what may be said of it."""

import dataclasses
from dataclasses import dataclass

from rankwise.compare import NotComparable, Scores
from rankwise.metrics import METRICS, Metric
from rankwise.report.arms import Arm
from rankwise.statistics import Bootstrap, holm, verdict

ONE_SEED = "one seed: no conclusion"
MISSING = "no comparison"
UNFIT = "no conclusion"
# Behind what a rank is by itself, where the sequence from the largest rank down did not pass or reach it.
ALONE = ", alone"


@dataclass(frozen=True)
class Comparison:
    """An arm's score minus the reference's, in the metric's unit; ``advantage`` is that difference as a gain.

    ``verdict``: same | better | worse | not worse | inconclusive (90 % interval against the margin), "one seed: no
    conclusion", "no conclusion" (of runs that allow none, see ``Arm.unfit``) or "no comparison": ``reason`` says why.
    ``p_holm`` tests "no difference", corrected for the number of arms.
    """

    verdict: str
    estimate: float | None = None
    seeds: int = 0
    items: int = 0
    bootstrap: Bootstrap | None = None
    advantage: Bootstrap | None = None  # positive is better, whichever way the metric goes
    p_holm: float | None = None
    reason: str = ""

    def detectable(self, level: float) -> float | None:
        """The deficit that would be found with 80 % power; of runs that allow no conclusion none would be."""
        return self.bootstrap.detectable(level) if self.bootstrap and self.verdict != UNFIT else None


def compare(arms: list[Arm], reference: Arm, scores: Scores, metric: Metric, margin: float) -> dict[int, Comparison]:
    """Comparisons of the comparable, scored arms with the reference, by ``id(arm)``."""
    rivals = [arm for arm in arms if arm is not reference and arm.comparable and arm.runs]
    if metric.weighted is None:
        known = [name for name, other in METRICS.items() if other.weighted]
        reason = f"no paired bootstrap for {metric.name}, only for {', '.join(known)}"
        return {id(arm): Comparison(MISSING, reason=reason) for arm in rivals}
    compared = {id(arm): _compare(arm, reference, scores, metric, margin) for arm in rivals}
    tested = {key: c for key, c in compared.items() if c.bootstrap is not None}
    corrected = holm([c.bootstrap.p for c in tested.values() if c.bootstrap])
    return compared | {
        key: dataclasses.replace(c, p_holm=p) for (key, c), p in zip(tested.items(), corrected, strict=True)
    }


def no_reference(reference: Arm) -> str:
    """Why nothing can be compared with it."""
    return f"{reference.called}'s runs are no reference ({reference.unfit})"


def _compare(arm: Arm, reference: Arm, scores: Scores, metric: Metric, margin: float) -> Comparison:
    try:
        boot = scores.contrast([(1.0, arm.runs), (-1.0, reference.runs)])
    except NotComparable as why:
        return Comparison(MISSING, reason=str(why))
    if boot.seeds == 1:
        return Comparison(ONE_SEED, boot.estimate, 1, boot.items)
    gain = boot.times(metric.sign)
    name, reason = verdict(gain.low, gain.high, margin), ""
    allowed = {"worse": arm.may_fail, "inconclusive": arm.may_pass and arm.may_fail}.get(name, arm.may_pass)
    if reference.unfit:
        name, reason = UNFIT, no_reference(reference)
    elif not allowed:
        name, reason = UNFIT, arm.unfit
    return Comparison(name, boot.estimate, boot.seeds, boot.items, boot, gain, reason=reason)
