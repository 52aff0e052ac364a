"""Classification metrics from what each class has of hits, labels and predictions: shapes (…, C), so that many
resamples are one call.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Margins = tuple[Floats, Floats, Floats]  # hits, labels, predictions of each class

_RESAMPLES = 400


def counts(labels_n: Floats, predictions_n: Floats, classes: int) -> Floats:
    """How often each label was given each prediction, (C, C)."""
    cell = np.asarray(labels_n, dtype=np.int64) * classes + np.asarray(predictions_n, dtype=np.int64)
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes).astype(float)


def margins(counts_cc: Floats) -> Margins:
    """Hits, labels and predictions of each class, all that the scores here need of a table (…, C, C)."""
    return np.diagonal(counts_cc, axis1=-2, axis2=-1), counts_cc.sum(-1), counts_cc.sum(-2)


def f1(margins_c: Margins) -> Floats:
    """F1 of class 1 where there are two, else the mean over the classes that occur; 0 where it is undefined."""
    hits, labels, predictions = margins_c
    total = labels + predictions
    each = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(each[..., 1] if total.shape[-1] == 2 else each.sum(-1) / (total > 0).sum(-1))


def matthews(margins_c: Margins) -> Floats:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where labels or predictions are constant."""
    hits, labels, predictions = margins_c
    n = labels.sum(-1)
    top = hits.sum(-1) * n - (labels * predictions).sum(-1)
    bottom = np.sqrt((n**2 - (predictions**2).sum(-1)) * (n**2 - (labels**2).sum(-1)))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def scores(predictions: NDArray[np.generic], labels: NDArray[np.generic], classes: int) -> dict[str, dict[str, float]]:
    """accuracy, f1 and matthews as {value, se, n}; the errors of the last two are of 400 resamples of the items."""
    table, n = counts(np.asarray(labels, float), np.asarray(predictions, float), classes), len(labels)
    share = float(np.trace(table)) / n
    drawn = np.random.default_rng(0).multinomial(n, table.ravel() / n, _RESAMPLES).reshape(-1, classes, classes)
    found = {"accuracy": {"value": share, "se": math.sqrt(share * (1 - share) / n), "n": n}}
    for name, metric in (("f1", f1), ("matthews", matthews)):
        found[name] = {
            "value": float(metric(margins(table))),
            "se": float(metric(margins(drawn.astype(float))).std(ddof=1)),
            "n": n,
        }
    return found
