"""Quantities of trained runs: differences of scores between arms, each at its own best learning rate.

Differences are paired by seed, and by test item where the metric allows it; intervals are over both.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from rankwise import metrics
from rankwise.claims.claim import Estimate, NotRun, Spec
from rankwise.claims.selection import compared
from rankwise.compare import NotComparable, Scores
from rankwise.statistics import Z95, interval
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record


def difference(
    records: Sequence[Record], metric: str, of: Spec | list[Spec], minus: Spec | list[Spec], tuned: bool = False
) -> Estimate:
    """Score of one arm minus that of another, in the metric's own unit; of several arms sum minus sum."""
    plus, less = (spec if isinstance(spec, list) else [spec] for spec in (of, minus))
    rows, scored = compared(records, [*plus, *less], tuned), metrics.named(metric)
    weights = [1.0] * len(plus) + [-1.0] * len(less)
    if scored.weighted is None:
        # Where all seeds agree, the error over items is left; that of what was forgotten is of the first seed.
        ses = [at(run, "metrics.forgetting.difference.se") for run in rows.runs_sa[0]] if metric == "forgetting" else []
        error = math.nan if None in ses or not ses else math.hypot(*ses)
        over = interval(list(map(float, rows.scores(metric) @ np.array(weights))), [error])
        return rows.estimate(over.mean, over.low, over.high)
    try:
        runs = Scores(itertools.chain(*rows.runs_sa), scored)
        boot = runs.contrast(list(zip(weights, zip(*rows.runs_sa, strict=True), strict=True)))
    except NotComparable as why:
        raise NotRun(str(why)) from None
    return rows.estimate(boot.estimate, *boot.limits(0.95))


def trend(records: Sequence[Record], metric: str, among: Spec, ranks: list[int]) -> Estimate:
    """Spearman's correlation of rank and score over these ranks, per seed, 0 where all score the same; the mean over
    seeds, with an interval on Student's t.

    Of m ranks it can only change in steps of 12 / (m (m² − 1)), so that seeds often agree to the digit. Their spread
    counts as no less than that of rounding to such a step, and the interval is no narrower than that of orders at
    random (variance 1 / (m − 1) each), or agreement by chance would look like certainty.
    """
    rows, m = compared(records, [among | {"rank": rank} for rank in ranks]), len(ranks)
    order, spearman = np.array(ranks, dtype=float), metrics.named("spearman")
    values = [spearman.value(order, scores) if np.ptp(scores) > 0 else 0.0 for scores in rows.scores(metric)]
    n, mean = len(values), float(np.mean(values))
    spread = max(float(np.std(values, ddof=1)), 12 / (m * (m**2 - 1)) / math.sqrt(12))
    at_random = Z95 / math.sqrt((m - 1) * n)
    half = max(at_random, float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n))
    return rows.estimate(mean, max(-1.0, mean - half), min(1.0, mean + half))
