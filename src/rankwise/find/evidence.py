"""From records of paired seeds to what the rule reads: a mean gain and its two standard errors."""

import math
from collections.abc import Sequence

from rankwise.compare import Scores, aligned, differing, predictions_of, resample
from rankwise.errors import Refused
from rankwise.find.rule import Evidence
from rankwise.metrics import Metric
from rankwise.report.arms import Arm
from rankwise.report.flags import unfit
from rankwise.statistics import Floats
from rankwise.tracking.predictions import Predictions, Unreadable
from rankwise.tracking.record import Record


def gather(arm: Sequence[Record], reference: Sequence[Record], metric: Metric) -> Evidence:
    """The gain of ``arm`` over ``reference``, whose n-th runs share a seed; from two seeds up.

    Raises Refused for predictions that cannot be compared.
    """
    points_r, resampled_br, units = scored([*arm, *reference], metric)
    k = len(arm)
    resampled_bk = differing(resampled_br[:, :k] - resampled_br[:, k:], metric, units)
    return weighed(points_r[:k] - points_r[k:], resampled_bk)


def scored(runs: Sequence[Record], metric: Metric) -> tuple[Floats, Floats, int]:
    """The metric of runs (R,) and on resamples of their test items or clusters (B, R), turned so that more is better;
    and how many of these there are.

    Raises Refused for predictions that cannot be compared.
    """
    predictions = [_read(record, metric) for record in runs]
    for record, own in zip(runs, predictions, strict=True):
        if not aligned(own, predictions[0], metric):
            raise Refused(f"{record.folder}: its test items are not those of {runs[0].folder}")
    points_r, resampled_br = resample(predictions, metric)
    return metric.sign * points_r, metric.sign * resampled_br, predictions[0].units


def weighed(gains_k: Floats, resampled_bk: Floats) -> Evidence:
    """Evidence from the gain of each seed, and the same on resampled items.

    ``over_items`` is the part of the variance over items that all seeds share: with V₁ the mean variance of one seed's
    gain on resampled items and V_k that of their mean, (k·V_k − V₁) / (k − 1). ``loose`` is the rest of V₁.
    """
    k = len(gains_k)
    of_mean, of_one = resampled_bk.mean(1).var(ddof=1), resampled_bk.var(0, ddof=1).mean()
    steady = max(0.0, float(k * of_mean - of_one) / (k - 1))
    loose = math.sqrt(max(0.0, float(of_one) - steady))
    over_seeds = float(gains_k.std(ddof=1)) / math.sqrt(k)
    return Evidence(k, float(gains_k.mean()), over_seeds, math.sqrt(steady), loose)


def faults(runs: Sequence[Record], metric: Metric) -> list[str]:
    """Why nothing may be concluded from these runs, in the words of the report."""
    arm = Arm("", "", str(runs[0].config["method"]["name"]), {}, (), runs=list(runs))
    return list(unfit(arm, metric, Scores(runs, metric)))


def _read(record: Record, metric: Metric) -> Predictions:
    try:
        return predictions_of(record, metric)
    except Unreadable as why:
        raise Refused(f"{record.folder}: no comparison: {why}") from None
