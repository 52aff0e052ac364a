"""From records of paired seeds to what the rule reads: a mean gain and its two standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rankwise.compare import Scores, aligned, predictions_of, resample
from rankwise.errors import Refused
from rankwise.find.rule import Evidence
from rankwise.metrics import Metric
from rankwise.report.arms import Arm
from rankwise.report.flags import unfit
from rankwise.tracking.predictions import Predictions, Unreadable
from rankwise.tracking.record import Record


def gather(arm: Sequence[Record], reference: Sequence[Record], metric: Metric) -> Evidence:
    """The gain of ``arm`` over ``reference``, whose n-th runs share a seed; from two seeds up.

    ``over_items`` is the part of the variance over items, or over clusters of them, that all seeds share: with V₁ the
    mean variance of one seed's difference on resampled items and V_k that of their mean, (k·V_k − V₁) / (k − 1).
    Raises Refused for predictions that cannot be compared.
    """
    k, runs = len(arm), [*arm, *reference]
    predictions = [_read(record, metric) for record in runs]
    for record, each in zip(runs, predictions, strict=True):
        if not aligned(each, predictions[0], metric):
            raise Refused(f"{record.folder}: its test items are not those of {arm[0].folder}")
    points_r, resampled_br = resample(predictions, metric)
    points_k = metric.sign * (points_r[:k] - points_r[k:])
    resampled_bk = resampled_br[:, :k] - resampled_br[:, k:]
    of_mean, of_one = resampled_bk.mean(1).var(ddof=1), resampled_bk.var(0, ddof=1).mean()
    steady = max(0.0, (k * of_mean - of_one) / (k - 1))
    return Evidence(k, float(points_k.mean()), float(points_k.std(ddof=1)) / math.sqrt(k), math.sqrt(steady))


def faults(runs: Sequence[Record], metric: Metric) -> list[str]:
    """Why nothing may be concluded from these runs, in the words of the report."""
    arm = Arm("", "", str(runs[0].config["method"]["name"]), {}, (), runs=list(runs))
    return list(unfit(arm, metric, Scores(runs, metric)))


def _read(record: Record, metric: Metric) -> Predictions:
    try:
        return predictions_of(record, metric)
    except Unreadable as why:
        raise Refused(f"{record.folder}: no comparison: {why}") from None
