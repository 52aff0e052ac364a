"""Metrics under weights: resampling counts of the test items, so that each is that of the resampled test set.

All replicates are computed at once. Shapes: B replicates, R runs, N items, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rankwise.report.statistics import Floats
from rankwise.tasks import confusion


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


def f1(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """F1 of class 1 where there are two classes, else the mean over those that occur, (B, R)."""
    return confusion.f1(_margins(labels_n, values_rn, weights_bn))


def matthews(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Matthews correlation, (B, R)."""
    return confusion.matthews(_margins(labels_n, values_rn, weights_bn))


def loss(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Nats per token, (B, R), of the summed loss of each text; ``sizes_n`` are tokens."""
    return weights_bn @ nats_rn.T / (weights_bn @ sizes_n)[:, None]


def perplexity(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Exponential of the loss per token, (B, R)."""
    with np.errstate(over="ignore"):  # of a diverged run
        return np.exp(loss(sizes_n, nats_rn, weights_bn))


def bits_per_byte(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Bits per UTF-8 byte, (B, R); ``sizes_n`` are bytes."""
    return loss(sizes_n, nats_rn, weights_bn) / math.log(2)


WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson, "spearman": spearman,
    "loss": loss, "perplexity": perplexity, "bits_per_byte": bits_per_byte,
}  # fmt: skip


def _margins(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> confusion.Margins:
    """Weighted hits, labels and predictions of each class, (B, R, C); the whole tables would take C times that."""
    each = np.eye(max(2, int(max(labels_n.max(), values_rn.max())) + 1))
    labels_bc = weights_bn @ each[labels_n.astype(np.int64)]
    predicted_rnc = [each[values_n.astype(np.int64)] for values_n in values_rn]
    predictions = np.stack([weights_bn @ one_nc for one_nc in predicted_rnc], axis=1)
    hits = np.stack(
        [weights_bn @ (one_nc * (values_n == labels_n)[:, None])
         for one_nc, values_n in zip(predicted_rnc, values_rn, strict=True)], axis=1,
    )  # fmt: skip
    return hits, np.broadcast_to(labels_bc[:, None], hits.shape), predictions


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
