"""Intervals, weighted metrics and the paired bootstrap over seeds and items.

Weights are resampling counts: a metric under weights is that of the resampled test set, for all replicates at once.
Shapes: B replicates, R runs, N items, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # weights held at once, 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error and 95 % interval, in the metric's own unit. ``kind``: seeds | items | none."""

    mean: float
    se: float
    low: float
    high: float
    n: int
    kind: str

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def interval(values: list[float], item_ses: list[float]) -> Interval:
    """95 % interval of the mean over runs.

    From two runs on Student's t over seeds, n−1 degrees of freedom. With one run, or runs that all agree (a
    deterministic baseline), the normal interval over test items from the run's own standard error, silent on seeds.
    """
    n, mean = len(values), float(np.mean(values))
    if n > 1 and float(np.ptp(values)) > 0:
        se = float(np.std(values, ddof=1)) / math.sqrt(n)
        half = float(stats.t.ppf(0.975, n - 1)) * se
        return Interval(mean, se, mean - half, mean + half, n, "seeds")
    se = item_ses[0] if item_ses else math.nan
    half = float(stats.norm.ppf(0.975)) * se
    return Interval(mean, se, mean - half, mean + half, n, "items" if math.isfinite(se) else "none")


def accuracy(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted share of predictions that equal the label, (B, R)."""
    correct_rn = (values_rn == labels_n).astype(float)
    return weights_bn @ correct_rn.T / weights_bn.sum(1, keepdims=True)


def pearson(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted product-moment correlation, (B, R); NaN where a resample is constant."""
    total = weights_bn.sum(1, keepdims=True)
    y = labels_n - labels_n.mean()  # centred first, or the second moments lose their digits
    x = values_rn - values_rn.mean(1, keepdims=True)
    mean_y, mean_x = weights_bn @ y[:, None] / total, weights_bn @ x.T / total
    var_y = weights_bn @ (y**2)[:, None] / total - mean_y**2
    var_x = weights_bn @ (x**2).T / total - mean_x**2
    cov = weights_bn @ (x * y).T / total - mean_x * mean_y
    with np.errstate(divide="ignore", invalid="ignore"):
        return cov / np.sqrt(var_x * var_y)


def spearman(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted rank correlation, (B, R): items are ranked anew in every resample, ties at their mid-rank."""
    y_bn = _ranks(labels_n, weights_bn)
    return np.stack([_correlation(_ranks(x_n, weights_bn), y_bn, weights_bn) for x_n in values_rn], axis=1)


WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "accuracy": accuracy, "pearson": pearson, "spearman": spearman,
}  # fmt: skip


def _ranks(x_n: Floats, weights_bn: Floats) -> Floats:
    """Mid-ranks of the items in each resample: what lies below, plus half of one's own tie."""
    _, where_n, tied_n = np.unique(x_n, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(tied_n)[:-1]])
    group_bg = np.add.reduceat(weights_bn[:, np.argsort(where_n, kind="stable")], starts, axis=1)
    rank_bg = np.cumsum(group_bg, axis=1) - (group_bg - 1) / 2
    return rank_bg[:, where_n]


def _correlation(x_bn: Floats, y_bn: Floats, weights_bn: Floats) -> Floats:
    total = weights_bn.sum(1, keepdims=True)
    x = x_bn - (weights_bn * x_bn).sum(1, keepdims=True) / total
    y = y_bn - (weights_bn * y_bn).sum(1, keepdims=True) / total
    wx = weights_bn * x
    with np.errstate(divide="ignore", invalid="ignore"):
        return (wx * y).sum(1) / np.sqrt((wx * x).sum(1) * (weights_bn * y * y).sum(1))


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


@dataclass(frozen=True)
class Bootstrap:
    """A paired difference: estimate, standard error, degrees of freedom, 90 % interval and the replicates behind it."""

    estimate: float
    se: float
    df: float
    low: float
    high: float
    replicates: Floats

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
    widen = float(stats.t.ppf(0.95, df) / stats.norm.ppf(0.95))
    low, high = (estimate + widen * (float(q) - estimate) for q in np.quantile(replicates, [0.05, 0.95]))
    return Bootstrap(estimate, se, df, low, high, replicates)


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
