"""From records of paired seeds to what the rule reads: a mean gain and its two standard errors."""

import math
from collections.abc import Sequence

from rankwise.compare import NotComparable, Scores
from rankwise.errors import Refused
from rankwise.find.rule import Evidence
from rankwise.metrics import Metric
from rankwise.report.arms import UNDER_TRAINED, Arm
from rankwise.report.flags import TOO_FEW, collapse, unfit
from rankwise.tracking.record import Record


def gather(
    arm: Sequence[Record], reference: Sequence[Record], metric: Metric, scores: Scores | None = None
) -> Evidence:
    """The gain of ``arm`` over ``reference`` on the seeds that both have; from two up. ``scores`` may have read them.

    ``over_items`` is the part of the variance over items that all seeds share: with V₁ the mean variance of one seed's
    gain on resampled items and V_k that of their mean, (k·V_k − V₁) / (k − 1). ``loose`` is the rest of V₁.

    Raises Refused for predictions that cannot be compared, and for seeds and data seeds that are two factors.
    """
    try:
        gain = (scores or Scores([*arm, *reference], metric)).contrast([(1.0, arm), (-1.0, reference)])
    except NotComparable as why:
        raise Refused(f"{arm[0].folder}: no comparison: {why}") from None
    if len(gain.spreads) > 1:
        alike = "keep runs in which each seed has a data seed of its own, or all have the same"
        raise Refused(f"{arm[0].folder}: seeds and data seeds of its arm vary apart: {alike}")
    k, of_one = gain.seeds, gain.of_one
    steady = max(0.0, (k * gain.means.var(ddof=1) - of_one) / (k - 1))
    over_items, loose = math.hypot(math.sqrt(steady), gain.lacking), math.sqrt(max(0.0, of_one - steady))
    mean = metric.sign * gain.estimate
    return Evidence(k, mean, gain.over_seeds, over_items, loose, gain.units, most=gain.most, lacking=gain.lacking)


def faults(
    arm: Sequence[Record], reference: Sequence[Record], metric: Metric, scores: Scores
) -> tuple[list[str], list[str]]:
    """Why nothing may be concluded from the runs of either, in the words of the report.

    A collapse is one of the reference's: its low score would make every rank look better.
    """
    own, against = (list(unfit(arm_of(runs), metric, scores)) for runs in (arm, reference))
    return own, against + collapse(reference)


def is_sound(faults: Sequence[str]) -> bool | None:
    """Of evidence, whose runs have these faults: None where more seeds may end all that count."""
    grave = [fault for fault in faults if not fault.startswith(UNDER_TRAINED)]
    return None if grave and all(fault.endswith(TOO_FEW) for fault in grave) else not grave


def arm_of(runs: Sequence[Record]) -> Arm:
    """These runs as the report reads them, whatever else is in their study."""
    return Arm("", "", str(runs[0].config["method"]["name"]) if runs else "", {}, (), runs=list(runs))
