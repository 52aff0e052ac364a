"""Several tasks in one number: what holds over runs and tasks together (Agarwal et al. 2021)."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from rankwise.statistics import Z95, Interval

Floats = NDArray[np.float64]
Scores = list[Floats]  # by task, the score of each run
RESAMPLES = 2_000
LEAST = 5  # runs of each task, for an interval


def interquartile_mean(scores: Scores) -> Interval:
    """The mean of the middle half of all scores, of every run on every task."""

    def middle(*tasks: Floats, axis: int = -1) -> Floats:
        return np.asarray(stats.trim_mean(np.concatenate(tasks, -1), 0.25, axis=-1))[None]

    return _estimated(middle, scores, -1.0)[0]


def profile(scores: Scores, thresholds: Floats) -> list[Interval]:
    """The performance profile: the share of all runs on all tasks that score more than each threshold."""

    def above(*tasks: Floats, axis: int = -1) -> Floats:
        return np.stack([(np.concatenate(tasks, -1) > threshold).mean(-1) for threshold in thresholds])

    return _estimated(above, scores)


def improvement(mine: Scores, theirs: Scores) -> Interval:
    """The probability that a run of one arm beats a run of another on a task drawn at random; a tie counts half."""

    def beats(*tasks: Floats, axis: int = -1) -> Floats:
        pairs = zip(tasks[: len(mine)], tasks[len(mine) :], strict=True)
        wins = [np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) for x, y in pairs]
        return (0.5 + 0.5 * np.mean(wins, axis=0))[None]

    return _estimated(beats, [*mine, *theirs])[0]


def _estimated(statistic: Callable[..., Floats], samples: Scores, lowest: float = 0.0) -> list[Interval]:
    """What a statistic of the runs of each task gives, with percentiles of a bootstrap stratified by task: the runs of
    each are drawn anew, apart from those of the others. From samples (…, N) it makes K values (K, …), from ``lowest``
    to 1.

    Of n runs drawn with replacement a mean varies by (n − 1) / n of what it should, which the limits make up for, and
    for the degrees of freedom by t/z. In 400 simulated studies of normal runs they hold the interquartile mean in 94 %
    at 5 runs of 2 tasks and at 5 of 8, in 96 % at 10 of 2; without either 57 % at 2 of 2, 88 % at 3 of 2 and 91 % at 5
    of 8. Under five runs there are too few outcomes, so that no interval is given; nor is one without width.
    """
    values, runs, df = statistic(*samples), min(map(len, samples)), sum(len(task) - 1 for task in samples)
    if runs < LEAST:
        return [Interval(float(value), math.nan, math.nan, math.nan, runs, "none") for value in values]
    over = stats.bootstrap(samples, statistic, n_resamples=RESAMPLES, method="percentile", rng=0, vectorized=True)
    wider = math.sqrt(runs / (runs - 1)) * float(special.stdtrit(df, 0.975)) / Z95
    ends, intervals = over.confidence_interval, []
    ses, lows, highs = (np.asarray(numbers, float) for numbers in (over.standard_error, ends.low, ends.high))
    for value, se, low, high in zip(values, ses, lows, highs, strict=True):
        limits = [float(np.clip(value + wider * (end - value), lowest, 1.0)) for end in (low, high)]
        se, low, high = (wider * float(se), *limits) if low < high else (math.nan,) * 3
        intervals.append(Interval(float(value), se, low, high, runs, "none" if math.isnan(se) else "seeds"))
    return intervals
