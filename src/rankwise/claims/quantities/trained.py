"""Quantities of trained runs: differences of scores between arms, each at its own best learning rate.

Differences are paired by seed, and by test item where the metric allows it; intervals are over both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from rankwise import metrics
from rankwise.claims.estimate import Estimate, NotRun
from rankwise.claims.selection import Spec, arm_of, by_replicate, names, told
from rankwise.compare import NotComparable, Scores
from rankwise.report.arms import dig
from rankwise.statistics import interval
from rankwise.tracking.record import Record


def difference(records: Sequence[Record], metric: str, of: Spec, minus: Spec) -> Estimate:
    """Score of one arm minus that of another, in the metric's own unit."""
    return _contrast(records, metric, [(1.0, of), (-1.0, minus)])


def gain_difference(records: Sequence[Record], metric: str, of: list[Spec], minus: list[Spec]) -> Estimate:
    """What one arm gains from its first setting to its second, minus what another gains: (b − a) − (d − c)."""
    (a, b), (c, d) = of, minus
    return _contrast(records, metric, [(1.0, b), (-1.0, a), (-1.0, d), (1.0, c)])


def trend(records: Sequence[Record], metric: str, among: Spec, ranks: list[int]) -> Estimate:
    """Spearman's correlation of rank and score over these ranks, per seed, 0 where all score the same; the mean over
    seeds, with an interval on Student's t.

    Of m ranks it can only change in steps of 12 / (m (m² − 1)), so that seeds often agree to the digit. Their spread
    counts as no less than that of rounding to such a step, and the interval is no narrower than that of orders at
    random (variance 1 / (m − 1) each), or agreement by chance would look like certainty.
    """
    arms = [arm_of(records, among | {"rank": rank}) for rank in ranks]
    pairs = by_replicate(arms)
    found = [_spearman(ranks, [scalar(run, metric) for run in runs]) for runs in pairs.values()]
    step, mean = 12 / (len(ranks) * (len(ranks) ** 2 - 1)), float(np.mean(found))
    spread = max(float(np.std(found, ddof=1)), step / math.sqrt(12))
    at_random = float(stats.norm.ppf(0.975)) / math.sqrt((len(ranks) - 1) * len(found))
    half = max(at_random, float(stats.t.ppf(0.975, len(found) - 1)) * spread / math.sqrt(len(found)))
    runs = [run for each in pairs.values() for run in each]
    note = told(arms, [among | {"rank": rank} for rank in ranks])
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half), len(found), names(runs), note)


def scalar(record: Record, metric: str) -> float:
    """A run's test score, or what it forgot: positive where it did. Raises NotRun where the run has none."""
    if metric == "forgetting":
        measure, amount = (dig(record, f"metrics.forgetting.{key}") for key in ("measure", "difference.value"))
        value = None if amount is None else -amount if measure == "probe" else amount
    else:
        value = dig(record, f"metrics.test.{metric}.value")
    if value is None:
        raise NotRun(f"{record.run.get('name')} has no {metric}")
    return float(value)


def _contrast(records: Sequence[Record], metric: str, terms: Sequence[tuple[float, Spec]]) -> Estimate:
    """Σ weight · score over arms, with its interval. The weights sum to zero."""
    arms = [arm_of(records, spec) for _, spec in terms]
    weights_a = np.array([weight for weight, _ in terms])
    pairs = by_replicate(arms)
    runs = names([run for each in pairs.values() for run in each])
    note = told(arms, [spec for _, spec in terms])
    if metrics.named(metric).weighted is None:
        points_sa = np.array([[scalar(run, metric) for run in each] for each in pairs.values()])
        over = interval([float(value) for value in points_sa @ weights_a], [_error(pairs.values(), metric)])
        return Estimate(over.mean, over.low, over.high, len(pairs), runs, note)
    try:
        scores = Scores([run for each in pairs.values() for run in each], metrics.named(metric))
        boot = scores.contrast([(weight, arm.runs) for (weight, _), arm in zip(terms, arms, strict=True)])
    except NotComparable as why:
        raise NotRun(str(why)) from None
    return Estimate(boot.estimate, *boot.limits(0.95), len(pairs), runs, note)


def _error(pairs: Iterable[Sequence[Record]], metric: str) -> float:
    """The standard error over items of the difference of the first seed: what is left where all seeds agree."""
    if metric != "forgetting":
        return math.nan
    ses = [dig(run, "metrics.forgetting.difference.se") for run in next(iter(pairs))]
    return math.nan if None in ses else math.hypot(*ses)


def _spearman(ranks: Sequence[int], scores: Sequence[float]) -> float:
    x, y = np.array(ranks, dtype=float), np.array(scores)
    return metrics.named("spearman").value(x, y) if np.ptp(y) > 0 else 0.0
