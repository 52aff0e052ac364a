"""Intervals and the paired bootstrap over seeds and items. Shapes: B replicates, S seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # weights held at once, 32 MB


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
    """Weights of a bootstrap over seeds, (replicates, seeds), each row summing to 1.

    Deviations from equal weights are stretched by √(k/(k−1)), as resampling k values understates the variance of their
    mean by (k−1)/k (Efron and Tibshirani 1993, §5.3), which matters at three seeds.
    """
    rng = np.random.default_rng([seed, seeds, 1])
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), replicates) / seeds
    return 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


def widened(estimate: float, replicates: Floats, df: float, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a bootstrap, widened by t/z for the degrees of freedom that its variance has."""
    tail = (1 - level) / 2
    factor = float(stats.t.ppf(1 - tail, df) / stats.norm.ppf(1 - tail))
    low, high = (estimate + factor * (float(q) - estimate) for q in np.quantile(replicates, [tail, 1 - tail]))
    return low, high


@dataclass(frozen=True)
class Bootstrap:
    """A paired difference: estimate, standard error, degrees of freedom, 90 % interval and the replicates behind it."""

    estimate: float
    se: float
    df: float
    low: float
    high: float
    replicates: Floats

    def mirrored(self) -> Bootstrap:
        """The same difference, the other way round."""
        return Bootstrap(-self.estimate, self.se, self.df, -self.high, -self.low, -self.replicates)

    @property
    def p(self) -> float:
        """Two-sided p-value of "no difference"."""
        if self.se == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.estimate) / self.se, self.df))

    @property
    def detectable(self) -> float:
        """The deficit that the one-sided 5 % test finds with 80 % power."""
        return float(stats.t.ppf(0.95, self.df) + stats.t.ppf(0.80, self.df)) * self.se


def paired(points_s: Floats, resampled_bs: Floats, seed: int) -> Bootstrap:
    """Bootstrap over seeds and items of a mean difference, given per seed on all items and on each resample of items.

    Both factors are resampled at once, as seeds and items are crossed; this overstates the variance of their
    interaction, so it errs on the safe side (Owen 2007). The percentile interval is widened by t/z, with the degrees of
    freedom of Satterthwaite (1946), as the seeds' share of the variance is known from k−1 only.
    """
    k = len(points_s)
    replicates = (seed_weights(k, len(resampled_bs), seed) * resampled_bs).sum(1)
    estimate, se = float(points_s.mean()), float(replicates.std(ddof=1))
    share = min(1.0, float(points_s.var(ddof=1)) / k / se**2) if se > 0 else 0.0
    df = (k - 1) / share**2 if share > 0 else math.inf
    return Bootstrap(estimate, se, df, *widened(estimate, replicates, df, 0.90), replicates)


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
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
