"""A score with its standard error over items."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rankwise.tasks.scores import Score

RESAMPLES = 400


def mean_score(values_N: np.ndarray) -> Score:
    """The mean of the items; its standard error is their standard deviation (n - 1) over √n, 0 for a single item."""
    n = len(values_N)
    return {"value": float(values_N.mean()), "se": float(values_N.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0, "n": n}


def share_score(right_N: np.ndarray) -> Score:
    """The share of items that are right (1, not 0), with the standard error of a proportion."""
    share, n = float(right_N.mean()), len(right_N)
    return {"value": share, "se": math.sqrt(share * (1 - share) / n), "n": n}


def pooled_score(rows_NK: np.ndarray, pooled: Callable[[np.ndarray], np.ndarray]) -> Score:
    """A score of a whole corpus that is no mean: ``pooled`` makes it of the items' statistics, summed.

    Its standard error is that of a bootstrap over items (Koehn 2004), the same draws for the same number of items.
    """
    n = len(rows_NK)
    draws_RN = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    values_R = pooled(draws_RN @ rows_NK)
    return {"value": float(pooled(rows_NK.sum(0))), "se": float(values_R.std(ddof=1)), "n": n}
