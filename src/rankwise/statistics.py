"""Intervals and the paired bootstrap over seeds and items. Shapes: B replicates, S seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats, which has the same by name, takes half a second to import
from scipy.optimize import brentq

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # weights held at once, 32 MB
Z95 = float(special.ndtri(0.975))  # of a normal 95 % interval
_LEAST = 1e-12  # tail of a p-value
_STUDIES = 20_000  # imagined, to find their power


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error and 95 % interval, in the metric's own unit.

    ``kind`` says what the interval is over: seeds | items | both | none. Where a ``median`` is given, ``se``, ``low``
    and ``high`` are its own.
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


@np.errstate(over="ignore")  # of the squares of a diverged perplexity, whose interval has no end
def interval(
    values: Sequence[float],
    item_ses: Sequence[float] = (),
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    items: int | None = None,
    clusters: int | None = None,
    median: bool = False,
    replicates: Sequence[tuple[int, int]] = (),
) -> Interval:
    """95 % interval of the mean over runs, or of their median, for other seeds and other test items.

    The limits combine Student's t over n seeds, n−1 degrees of freedom, with the interval over test items from the
    runs' own standard errors, as the sides of a right angle (Zou and Donner 2008). All runs have the same items, so
    more seeds do not lessen what these are uncertain by. The median of n normal values has √(π/2) times the standard
    error of their mean as n grows, and less for few, so that factor errs on the safe side. ``within`` is the metric's
    range, ``items`` the size of the test set, ``clusters`` how many groups it has, by which the standard errors then
    are; ``replicates`` as of ``paired``.
    """
    n, mean = len(values), float(np.mean(values))
    point = float(np.median(values)) if median else mean
    factor = math.sqrt(math.pi / 2) if median else 1.0
    spreads = [(factor * se, df) for se, df in _spreads(np.array(values), replicates) if df]
    se_seeds = math.hypot(*(se for se, _ in spreads))
    if se_seeds < 1e-12 * max(1.0, abs(mean)):  # equal values, whose mean is rounded
        spreads, se_seeds = [], 0.0
    known = [se for se in item_ses if math.isfinite(se)]
    se_items = math.sqrt(float(np.mean(np.square(known)))) if known else 0.0
    kind = {(True, True): "both", (True, False): "seeds", (False, True): "items"}.get((se_seeds > 0, bool(known)))
    if kind is None:
        return Interval(mean, math.nan, math.nan, math.nan, n, "none", point if median else None)
    over_seeds = math.hypot(*(float(special.stdtrit(df, 0.975)) * se for se, df in spreads))
    units = clusters or (None if math.isfinite(within[1] - within[0]) else items)  # Wilson's limits are by normal ones
    low, high = _over_items(point, _student(0.025, units) * se_items, within, clusters or items)
    low = max(within[0], point - math.hypot(over_seeds, point - low))
    high = min(within[1], point + math.hypot(over_seeds, high - point))
    return Interval(mean, math.hypot(se_seeds, se_items), low, high, n, kind, point if median else None)


def over_resamples(tail: float, units: int) -> float:
    """How many standard deviations of resamples a one-sided interval at level 1 − tail reaches.

    As ``_student``, by √(n / (n−1)), since n items vary about their own mean by less than about the true one.
    """
    return _student(tail, units) * (math.sqrt(units / (units - 1)) if units > 1 else 1.0)


def _student(tail: float, units: int | None) -> float:
    """How many standard errors it reaches: Student's t with n−1 degrees of freedom for n items or clusters of them; the
    normal quantile where their number is unknown."""
    return -float(special.stdtrit(units - 1, tail) if units and units > 1 else special.ndtri(tail))


def _over_items(point: float, half: float, within: tuple[float, float], items: int | None) -> tuple[float, float]:
    """Limits that stay in a range: those of a share (Wilson 1927) of as many items as would give this width.

    Where the share is 0 or 1 it is one of ``items``, or of as few as its width says, such as an F1 of few positives.
    """
    low, high = within
    if not math.isfinite(high - low):
        return point - half, point + half
    share, width = (point - low) / (high - low), half / (high - low)
    if width >= 1:
        return within
    n: float | None = items
    if 0 < share < 1:
        n = Z95**2 * share * (1 - share) / width**2 if width else None
    elif width:  # Wilson's other limit is then so far away
        n = Z95**2 * (1 - width) / width
    if not n:
        return point, point
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return low + (high - low) * max(0.0, centre - reach), low + (high - low) * min(1.0, centre + reach)


def item_weights(items: int, replicates: int, seed: int, cluster_n: Floats | None = None) -> Iterator[Floats]:
    """Counts of a bootstrap over items (Efron and Tibshirani 1993, ch. 6), in chunks of (≤ replicates, items).

    Where items share a prompt or a document (``cluster_n``), whole clusters are drawn (Miller 2024, §2.2).
    """
    where_n = np.arange(items) if cluster_n is None else np.unique(cluster_n, return_inverse=True)[1]
    for counts in _drawn(int(where_n.max()) + 1, replicates, seed):
        yield (counts if cluster_n is None else counts[:, where_n]).astype(float)


@lru_cache(maxsize=2)
def _drawn(units: int, replicates: int, seed: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng([seed, units])
    step, chunks = max(1, _CHUNK // units), []
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        drawn = rng.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        chunks.append(counts.clip(max=255).astype(np.uint8))
    return chunks


def seed_weights(seeds: int, replicates: int, seed: int) -> Floats:
    """Weights of a bootstrap over seeds, (replicates, seeds), each row summing to 1: normal deviations from equal ones.

    The mean of k values then varies by s²/k, and normally so (an exchangeably weighted bootstrap: Præstgaard and
    Wellner 1993). Drawing two or three seeds with replacement has too few outcomes, whose tails end too early.
    """
    drawn = np.random.default_rng([seed, seeds, 1]).standard_normal((replicates, seeds))
    return 1 / seeds + (drawn - drawn.mean(1, keepdims=True)) / math.sqrt(seeds * (seeds - 1))


@dataclass(frozen=True)
class Bootstrap:
    """A mean difference, and how uncertain it is for its seeds and for its test items.

    ``means`` are the mean over seeds on each resample of the items; ``spreads`` the standard error and the degrees of
    freedom of each factor that was repeated: seeds, or seeds and data seeds where these are two (``paired``). Limits
    combine those of every source as the sides of a right angle (Zou and Donner 2008): Student's t with k−1 degrees of
    freedom for k seeds, percentiles of the bootstrap for items, by t over z where these are few. How far seeds spread
    is known from k−1 alone, however small that spread looks; one t for the sum of both variances (Satterthwaite 1946)
    forgets it, and misses the truth in 12 % of studies of two seeds instead of 5 %. As the spread over seeds holds what
    items do differently from seed to seed, which the resamples hold as well, this errs on the safe side.
    """

    estimate: float
    spreads: tuple[tuple[float, int], ...]
    means: Floats
    seeds: int = 1  # replicates
    items: int = 0
    units: int = 0  # as many clusters of items of one size, or as many as items
    of_one: float = 0.0  # the mean variance over items of the difference in one replicate
    lacking: float = 0.0  # the standard error for items that resamples lack
    most: float = math.inf  # how large a difference of the metric can be, either way
    clusters: int = 0  # of items, of whatever sizes

    @property
    def over_seeds(self) -> float:
        """The standard error for the seeds."""
        return math.hypot(*(se for se, _ in self.spreads))

    @property
    def over_items(self) -> float:
        """The standard error for the test items."""
        return math.hypot(float(self.means.std(ddof=1)), self.lacking)

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
        """Both ends of the interval, within what the metric allows."""
        tail = (1 - level) / 2
        over_seeds, wider = self._over_seeds(tail), self._wider(tail)
        low, high = (float(q) for q in np.quantile(self.means, [tail, 1 - tail]))
        below, above = wider * max(0.0, self.estimate - low), wider * max(0.0, high - self.estimate)
        others = math.hypot(over_seeds, over_resamples(tail, self.units) * self.lacking)
        below, above = math.hypot(others, below), math.hypot(others, above)
        return max(-self.most, self.estimate - below), min(self.most, self.estimate + above)

    def times(self, sign: float) -> "Bootstrap":
        """The same difference, the other way round where ``sign`` is −1."""
        return self if sign == 1 else replace(self, estimate=sign * self.estimate, means=sign * self.means)

    @cached_property
    def p(self) -> float:
        """Two-sided p-value of "no difference": twice the tail whose interval ends there."""
        if self.estimate == 0:
            return 1.0
        if self._reach(_LEAST) < abs(self.estimate):
            return 2 * _LEAST
        return 2 * float(brentq(lambda tail: self._reach(tail) - abs(self.estimate), _LEAST, 0.5))

    def detectable(self, tail: float) -> float | None:
        """The deficit that a new study of as many seeds and items finds with 80 % power, at a one-sided level; None
        where that is more than the metric allows.

        How far seeds spread is as uncertain here as in the new study, whose interval follows its own spread; power is
        the mean over both (chi-squared with the degrees of freedom of the seeds).
        """
        spreads, normal = _imagined(tuple(df for _, df in self.spreads))
        truth = np.full(_STUDIES, self.over_items**2)
        width = np.full(_STUDIES, (over_resamples(tail, self.units) * self.over_items) ** 2)
        for (se, df), (now, then) in zip(self.spreads, spreads, strict=True):
            truth += se**2 / now
            width += special.stdtrit(df, tail) ** 2 * se**2 / now * then
        deficit = float(np.quantile(np.sqrt(width) - np.sqrt(truth) * normal, 0.8))
        return deficit if deficit < self.most else None

    def _over_seeds(self, tail: float) -> float:
        return math.hypot(*(float(special.stdtrit(df, tail)) * se for se, df in self.spreads))

    def _wider(self, tail: float) -> float:
        """Than the percentiles of the bootstrap."""
        return over_resamples(tail, self.units) / -float(special.ndtri(tail))

    def _reach(self, tail: float) -> float:
        """Half the width of an interval, with limits for items that are alike on both sides."""
        return math.hypot(self._over_seeds(tail), over_resamples(tail, self.units) * self.over_items)


@lru_cache(maxsize=8)
def _imagined(dfs: tuple[int, ...]) -> tuple[list[Floats], Floats]:
    """Of imagined studies: by factor the spread over its true one, now and in the new study; the new one's error."""
    rng = np.random.default_rng(0)
    return [rng.chisquare(df, (2, _STUDIES)) / df for df in dfs], rng.standard_normal(_STUDIES)


def paired(
    points_s: Floats,
    resampled_bs: Floats,
    replicates: Sequence[tuple[int, int]] = (),
    items: int = 0,
    units: int = 0,
    lacking: float = 0.0,
    most: float = math.inf,
    clusters: int = 0,
) -> Bootstrap:
    """Bootstrap of a mean difference, given per replicate on all items and on each resample of the items, whose
    standard error for items lacks some (see ``unseen``) and which is at ``most`` so large.

    ``replicates`` are (seed, data seed). Where one of the two repeats, though not in all, they are two factors with a
    spread each, of the means over the other (Owen 2007); else every replicate is one more of a single factor.
    """
    varying = tuple(spread for spread in _spreads(points_s, replicates) if spread[1] > 0)
    of_one = float(resampled_bs.var(0, ddof=1).mean())
    sizes = (len(points_s), items, units, of_one, lacking, most, clusters)
    return Bootstrap(float(points_s.mean()), varying, resampled_bs.mean(1), *sizes)


def unseen(items: int) -> float:
    """The standard error of a difference of shares that resamples of n items lack.

    That few of them differ, or none, does not say that no more ever would. An item more that differs (half a one each
    way, Agresti and Min 2005) adds 1/(n + 2)² to the variance, but a one-sided limit needs four: where none differs it
    then is no nearer than the exact one, 3/n at 5 %.
    """
    return 2 / (items + 2)


def _spreads(points_s: Floats, replicates: Sequence[tuple[int, int]]) -> tuple[tuple[float, int], ...]:
    levels = [np.unique(factor, return_inverse=True)[1] for factor in zip(*replicates, strict=True)]
    if not any(1 < level.max() + 1 < len(points_s) for level in levels):
        return (_spread(points_s),)
    return tuple(_spread(np.bincount(level, points_s) / np.bincount(level)) for level in levels)


def _spread(values: Floats) -> tuple[float, int]:
    """The standard error of a mean of independent values, and its degrees of freedom."""
    n = len(values)
    return (float(values.std(ddof=1)) / math.sqrt(n), n - 1) if n > 1 else (0.0, 0)


def verdict(low: float, high: float, margin: float) -> str:
    """Two one-sided 5 % tests read from the 90 % interval of a difference (Schuirmann 1987).

    ``same`` inside ±margin, ``worse`` or ``better`` wholly outside it, ``not worse`` where only the upper end is, else
    ``inconclusive``.
    """
    if low > -margin:
        return "better" if low > margin else "same" if high < margin else "not worse"
    return "worse" if high < -margin else "inconclusive"


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted step-down for the number of comparisons (Holm 1979)."""
    order, n = np.argsort(p_values), len(p_values)
    steps = np.maximum.accumulate(np.sort(p_values) * np.arange(n, 0, -1)).clip(max=1.0)
    adjusted = np.empty(n)
    adjusted[order] = steps
    return adjusted.tolist()
