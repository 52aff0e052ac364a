"""Several tasks in one number: what holds over runs and tasks together (Agarwal et al. 2021)."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rankwise.statistics import Interval

Floats = NDArray[np.float64]
Scores = list[Floats]  # by task, the score of each run
RESAMPLES = 2_000


def interquartile_mean(scores: Scores) -> Interval:
    """The mean of the middle half of all scores, of every run on every task."""

    def middle(*tasks: Floats, axis: int = -1) -> Floats:
        return np.asarray(stats.trim_mean(_pooled(tasks), 0.25, axis=-1))[None]

    return _estimated(middle, scores)[0]


def profile(scores: Scores, thresholds: Floats) -> list[Interval]:
    """The performance profile: the share of all runs on all tasks that score more than each threshold."""

    def above(*tasks: Floats, axis: int = -1) -> Floats:
        return np.stack([(_pooled(tasks) > threshold).mean(-1) for threshold in thresholds])

    return _estimated(above, scores)


def improvement(mine: Scores, theirs: Scores) -> Interval:
    """The probability that a run of one arm beats a run of another on a task drawn at random; a tie counts half."""

    def beats(*tasks: Floats, axis: int = -1) -> Floats:
        pairs = zip(tasks[: len(mine)], tasks[len(mine) :], strict=True)
        wins = [np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) for x, y in pairs]
        return (0.5 + 0.5 * np.mean(wins, axis=0))[None]

    return _estimated(beats, [*mine, *theirs])[0]


def _estimated(statistic: Callable[..., Floats], samples: Scores) -> list[Interval]:
    """What a statistic of the runs of each task gives, with percentiles of a bootstrap stratified by task: the runs of
    each are drawn anew, apart from those of the others. From samples (…, N) it makes K values (K, …).
    """
    values, runs = statistic(*samples), min(map(len, samples))
    if runs < 2:
        return [Interval(float(value), math.nan, math.nan, math.nan, runs, "none") for value in values]
    over = stats.bootstrap(samples, statistic, n_resamples=RESAMPLES, method="percentile", rng=0, vectorized=True)
    ends = over.confidence_interval
    ses, lows, highs = (np.asarray(numbers, float).tolist() for numbers in (over.standard_error, ends.low, ends.high))
    rows = zip(values.tolist(), ses, lows, highs, strict=True)
    return [Interval(value, se, low, high, runs, "seeds") for value, se, low, high in rows]


def _pooled(tasks: tuple[Floats, ...]) -> Floats:
    return np.concatenate(tasks, axis=-1)
