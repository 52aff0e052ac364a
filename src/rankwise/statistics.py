"""Intervals and the paired bootstrap over seeds and items. Shapes: B replicates, S seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # weights held at once, 32 MB
_LEAST = 1e-12  # tail of a p-value


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error and 95 % interval, in the metric's own unit. ``kind``: seeds | items | none.

    Where a ``median`` is given, ``se``, ``low`` and ``high`` are its own.
    """

    mean: float
    se: float
    low: float
    high: float
    n: int
    kind: str
    median: float | None = None

    @property
    def point(self) -> float:
        """What is shown: the median where there is one, else the mean."""
        return self.mean if self.median is None else self.median

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def interval(values: list[float], item_ses: list[float], median: bool = False) -> Interval:
    """95 % interval of the mean over runs, or of their median.

    From two runs on Student's t over seeds, n−1 degrees of freedom. With one run, or runs that all agree (a
    deterministic baseline), the normal interval over test items from the run's own standard error, silent on seeds.
    The median of n normal values has √(π/2) times the standard error of their mean as n grows, and less for few, so
    that factor errs on the safe side.
    """
    n, mean = len(values), float(np.mean(values))
    point = float(np.median(values)) if median else mean
    over_seeds = n > 1 and float(np.ptp(values)) > 0
    if over_seeds:
        se = float(np.std(values, ddof=1)) / math.sqrt(n) * (math.sqrt(math.pi / 2) if median else 1)
        half = float(stats.t.ppf(0.975, n - 1)) * se
    else:
        se = item_ses[0] if item_ses else math.nan
        half = float(stats.norm.ppf(0.975)) * se
    kind = "seeds" if over_seeds else "items" if math.isfinite(se) else "none"
    return Interval(mean, se, point - half, point + half, n, kind, point if median else None)


def item_weights(items: int, replicates: int, seed: int) -> Iterator[Floats]:
    """Counts of a bootstrap over items (Efron and Tibshirani 1993, ch. 6), in chunks of (≤ replicates, items)."""
    rng = np.random.default_rng([seed, items])
    step = max(1, _CHUNK // items)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = rng.integers(0, items, (rows, items)) + np.arange(rows)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(float)


def seed_weights(seeds: int, replicates: int, seed: int) -> Floats:
    """Weights of a bootstrap over seeds, (replicates, seeds), each row summing to 1: normal deviations from equal ones.

    The mean of k values then varies by s²/k, and normally so (an exchangeably weighted bootstrap: Præstgaard and
    Wellner 1993). Drawing two or three seeds with replacement has too few outcomes, whose tails end too early.
    """
    drawn = np.random.default_rng([seed, seeds, 1]).standard_normal((replicates, seeds))
    return 1 / seeds + (drawn - drawn.mean(1, keepdims=True)) / math.sqrt(seeds * (seeds - 1))


def widened(estimate: float, replicates: Floats, df: int) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrap over seeds, widened by t/z for the degrees of freedom."""
    factor = float(stats.t.ppf(0.975, df) / stats.norm.ppf(0.975))
    low, high = (estimate + factor * (float(q) - estimate) for q in np.quantile(replicates, [0.025, 0.975]))
    return low, high


@dataclass(frozen=True)
class Bootstrap:
    """A mean difference, and how uncertain it is for its seeds and for its test items.

    ``means`` are the mean over seeds on each resample of the items, ``replicates`` with the seeds resampled, too.
    Limits combine those of either source as the sides of a right angle (Zou and Donner 2008): Student's t with k−1
    degrees of freedom for k seeds, percentiles of the bootstrap for items. How far seeds spread is known from k−1
    alone, however small that spread looks; one t for the sum of both variances (Satterthwaite 1946) forgets it, and
    misses the truth in 12 % of studies of two seeds instead of 5 %. As the spread over seeds holds what items do
    differently from seed to seed, which the resamples hold as well, this errs on the safe side.
    """

    estimate: float
    over_seeds: float  # standard error
    df: int
    means: Floats
    replicates: Floats

    @property
    def over_items(self) -> float:
        """The standard error for the test items."""
        return float(self.means.std(ddof=1))

    @property
    def se(self) -> float:
        """The standard error for both."""
        return math.hypot(self.over_seeds, self.over_items)

    @property
    def low(self) -> float:
        """Lower end of the 90 % interval."""
        return self.limits(0.90)[0]

    @property
    def high(self) -> float:
        """Upper end of the 90 % interval."""
        return self.limits(0.90)[1]

    def limits(self, level: float) -> tuple[float, float]:
        """Both ends of the interval."""
        tail = (1 - level) / 2
        over_seeds = float(stats.t.isf(tail, self.df)) * self.over_seeds
        low, high = (float(q) for q in np.quantile(self.means, [tail, 1 - tail]))
        below, above = max(0.0, self.estimate - low), max(0.0, high - self.estimate)
        return self.estimate - math.hypot(over_seeds, below), self.estimate + math.hypot(over_seeds, above)

    def mirrored(self) -> Bootstrap:
        """The same difference, the other way round."""
        return Bootstrap(-self.estimate, self.over_seeds, self.df, -self.means, -self.replicates)

    @property
    def p(self) -> float:
        """Two-sided p-value of "no difference": twice the tail whose interval ends there."""
        if self.estimate == 0:
            return 1.0
        if self._reach(_LEAST) < abs(self.estimate):
            return 2 * _LEAST
        return 2 * float(brentq(lambda tail: self._reach(tail) - abs(self.estimate), _LEAST, 0.5))

    @property
    def detectable(self) -> float:
        """The deficit that the one-sided 5 % test finds with 80 % power."""
        return self._reach(0.05) + self._reach(0.20)

    def _reach(self, tail: float) -> float:
        """Half the width of an interval, with normal limits for items."""
        over_items = float(stats.norm.isf(tail)) * self.over_items
        return math.hypot(float(stats.t.isf(tail, self.df)) * self.over_seeds, over_items)


def paired(points_s: Floats, resampled_bs: Floats, seed: int) -> Bootstrap:
    """Bootstrap over seeds and items of a mean difference, given per seed on all items and on each resample of items.

    In ``replicates`` both factors are resampled at once, as seeds and items are crossed (Owen 2007).
    """
    k = len(points_s)
    replicates = (seed_weights(k, len(resampled_bs), seed) * resampled_bs).sum(1)
    over_seeds = float(points_s.std(ddof=1)) / math.sqrt(k)
    return Bootstrap(float(points_s.mean()), over_seeds, k - 1, resampled_bs.mean(1), replicates)


def verdict(low: float, high: float, margin: float) -> str:
    """Two one-sided 5 % tests read from the 90 % interval of a difference (Schuirmann 1987).

    ``same`` inside ±margin, ``worse`` or ``better`` wholly outside it, else ``inconclusive``.
    """
    if -margin < low and high < margin:
        return "same"
    if high < -margin:
        return "worse"
    return "better" if low > margin else "inconclusive"


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted step-down for the number of comparisons (Holm 1979)."""
    order, n = np.argsort(p_values), len(p_values)
    steps = np.maximum.accumulate(np.sort(p_values) * np.arange(n, 0, -1)).clip(max=1.0)
    adjusted = np.empty(n)
    adjusted[order] = steps
    return adjusted.tolist()
