"""Classification metrics from counts of (label, prediction): shapes (…, C, C), so that many resamples are one call."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RESAMPLES = 400


def counts(labels_n: Floats, predictions_n: Floats, classes: int) -> Floats:
    """How often each label was given each prediction, (C, C)."""
    cell = np.asarray(labels_n, dtype=np.int64) * classes + np.asarray(predictions_n, dtype=np.int64)
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes).astype(float)


def f1(counts_cc: Floats) -> Floats:
    """F1 of class 1 where there are two, else the mean over classes; 0 where it is undefined."""
    hits = np.diagonal(counts_cc, axis1=-2, axis2=-1)
    total = counts_cc.sum(-1) + counts_cc.sum(-2)
    each = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    return np.asarray(each[..., 1] if counts_cc.shape[-1] == 2 else each.mean(-1))


def matthews(counts_cc: Floats) -> Floats:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where labels or predictions are constant."""
    labels, predictions, n = counts_cc.sum(-1), counts_cc.sum(-2), counts_cc.sum((-2, -1))
    hits = np.trace(counts_cc, axis1=-2, axis2=-1)
    top = hits * n - (labels * predictions).sum(-1)
    bottom = np.sqrt((n**2 - (predictions**2).sum(-1)) * (n**2 - (labels**2).sum(-1)))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def scores(predictions: NDArray[np.generic], labels: NDArray[np.generic], classes: int) -> dict[str, dict[str, float]]:
    """accuracy, f1 and matthews as {value, se, n}; the errors of the last two are of 400 resamples of the items."""
    table, n = counts(np.asarray(labels, float), np.asarray(predictions, float), classes), len(labels)
    share = float(np.trace(table)) / n
    drawn = np.random.default_rng(0).multinomial(n, table.ravel() / n, _RESAMPLES).reshape(-1, classes, classes)
    found = {"accuracy": {"value": share, "se": math.sqrt(share * (1 - share) / n), "n": n}}
    for name, metric in (("f1", f1), ("matthews", matthews)):
        found[name] = {"value": float(metric(table)), "se": float(metric(drawn.astype(float)).std(ddof=1)), "n": n}
    return found
