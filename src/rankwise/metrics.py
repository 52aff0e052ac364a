"""What a metric is: its unit, direction, range and digits, and its value on a weighted test set. One object each.

A weighted form takes what is the same in every run (``labels_n``), what a run says (``values_rn``) and how often each
item counts (``weights_bn``), and gives (B, R): the metric of R runs on B resampled test sets. C are classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rankwise.statistics import Interval

Floats = NDArray[np.float64]
Weighted = Callable[[Floats, Floats, Floats], Floats]

NOTHING = "–"
_NOISE = 1e-12  # of sums of floats
_LONG = 1e7  # numbers from here on are shown to three digits, with a power of ten


@dataclass(frozen=True)
class Metric:
    """A metric of a task. ``kind`` is the task's (``task.kind``), or ``text`` for what is scored of written text.

    ``unit`` is "%" for a fraction (0–1), which is shown in percent with differences in points; else nats, bits or
    nothing. ``low`` and ``high`` bound the value. Without ``decimals`` four significant digits are shown.
    ``columns`` are those of a run's predictions that ``weighted`` reads.
    """

    name: str
    kind: str = ""
    unit: str = ""
    lower_is_better: bool = False
    low: float = -math.inf
    high: float = math.inf
    decimals: int | None = 3
    columns: tuple[str, str] = ("label", "score")
    weighted: Weighted | None = None
    constants: Callable[[Floats], Floats] | None = None  # labels → answers of which one is the best that never varies
    short: str = ""  # in narrow headers
    margin: float = 0.0  # beside which differences are read: one near it has as many decimals as tell the two apart

    @property
    def task(self) -> str:
        """The task of lm-evaluation-harness that it is of; nothing for a metric of rankwise's own."""
        return self.name.rpartition(":")[0]

    @property
    def percent(self) -> bool:
        return self.unit == "%"

    @property
    def factor(self) -> float:
        """From the value to what is shown."""
        return 100.0 if self.percent else 1.0

    @property
    def range(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def sign(self) -> float:
        """−1 where less is better, else 1: times a difference it is a gain."""
        return -1.0 if self.lower_is_better else 1.0

    @property
    def header(self) -> str:
        """The name with the percent sign."""
        return f"{self.name} %" if self.percent else self.name

    @property
    def difference_unit(self) -> str:
        return "points" if self.percent else self.unit or self.name

    def among(self, classes: int) -> Metric:
        """The metric where there are so many classes, whether or not labels and answers show them all."""
        return replace(self, weighted=partial(f1, classes=classes)) if self.weighted is f1 else self

    def resampled(self, labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
        """The weighted form, (B, R). Raises ValueError for a metric without one."""
        if self.weighted is None:
            raise ValueError(f"{self.name} has no weighted form")
        return self.weighted(labels_n, values_rn, weights_bn)

    def value(self, labels_n: Floats, values_n: Floats) -> float:
        """The metric of one run on all items. Raises ValueError for a metric without a weighted form."""
        return float(self.resampled(labels_n, values_n[None], np.ones((1, len(labels_n))))[0, 0])

    def score(self, value: float | None) -> str:
        """``81.2`` (percent), ``0.812``, or four digits of a perplexity."""
        return NOTHING if value is None or not math.isfinite(value) else self._fixed(value, value)

    def interval(self, score: Interval | None) -> str:
        """``81.2 ± 0.4``: a score and half the width of its interval, to the same decimals; ``99.9 (97.2 to 100.0)``
        near an end of the metric's range, where the limits lie unlike on both sides.
        """
        if score is None or not (math.isfinite(score.point) and math.isfinite(score.half)):
            return self.score(score.point if score else None)
        if 2 * score.half > min(self.high - score.point, score.point - self.low):
            return f"{self.score(score.point)} ({self._fixed(score.low, score.point)} to {self.score(score.high)})"
        return f"{self.score(score.point)} ± {self._fixed(score.half, score.point)}"

    def with_unit(self, value: float) -> str:
        """``81.2 %``: a score as a sentence has it."""
        return f"{self.score(value)}{' %' if self.percent else ''}"

    def difference(self, value: float | None) -> str:
        """A signed difference in the unit of the score: points for percentages."""
        if value is None or not math.isfinite(value):
            return NOTHING
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) > _NOISE else 3
        decimals = digits if self.decimals is None else self.decimals
        shown, margin = self.factor * value, self.factor * self.margin
        apart = margin > 0 and not math.isclose(abs(shown), margin, rel_tol=1e-6)
        while apart and f"{abs(shown):.{decimals}f}" == f"{margin:.{decimals}f}":
            decimals += 1
        return signed(f"{shown:+.{decimals}f}" if abs(shown) < _LONG else f"{shown:+.3g}")

    def gap(self, value: float, error: float | None) -> str:
        """``−0.0110 ± 0.0002``: a difference and its error, to the same decimals, as many as the error needs."""
        if error is None or not (math.isfinite(value) and math.isfinite(error)):
            return self.difference(value)
        shown, error = self.factor * value, self.factor * error
        least, digits = (0, 2) if self.decimals is None else (self.decimals, 1)  # of the error
        decimals = max(least, digits - 1 - math.floor(math.log10(error)) if error > _NOISE else 3 * (not least))
        return f"{signed(f'{shown:+.{decimals}f}')} ± {error:.{decimals}f}"

    def width(self, value: float) -> str:
        """An unsigned distance: ``2 points``, or without a unit ``0.02`` and ``10,000``."""
        distance = self.factor * value
        shown = f"{distance:,.0f}" if 999.5 <= distance < _LONG else f"{distance:.3g}"
        return f"{shown} point{'s' * (shown != '1')}" if self.percent else shown

    def margin_of(self, value: float) -> str:
        """A margin as a sentence has it: ``2 points of accuracy``, ``0.2 of perplexity``."""
        return f"{self.width(value)} of {self.name}"

    def _fixed(self, value: float, like: float) -> str:
        """A value to the decimals that ``like`` is shown with."""
        if self.decimals is not None:
            return signed(f"{self.factor * value:.{self.decimals}f}")
        digits = 3 - math.floor(math.log10(abs(like))) if abs(like) > _NOISE else 3
        return signed(f"{value:.{max(digits, 0)}f}" if abs(like) < _LONG else f"{value:.3g}")


def signed(text: str) -> str:
    """A number with a real minus; a rounded zero has no sign."""
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def duration(seconds: float) -> str:
    """``0.4 s``, ``31 s``, ``2 min``, ``1 h 05 min``."""
    if seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def accuracy(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted share of predictions that equal the label; ``weights_bn`` are counts, whose sums fp32 holds exactly."""
    correct_rn = (values_rn == labels_n).astype(np.float32)
    return np.asarray((weights_bn.astype(np.float32) @ correct_rn.T) / weights_bn.sum(1, keepdims=True))


def f1(labels_n: Floats, values_rn: Floats, weights_bn: Floats, classes: int = 2) -> Floats:
    """F1 of class 1 where there are two classes, else the mean over those that occur; 0 where it is undefined."""
    hits, labels, predictions = _margins(labels_n, values_rn, weights_bn)
    total = labels + predictions
    per_class = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    two = max(total.shape[-1], classes) == 2
    return np.asarray(per_class[..., 1] if two else per_class.sum(-1) / (total > 0).sum(-1))


def matthews(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where labels or predictions are constant."""
    hits, labels, predictions = _margins(labels_n, values_rn, weights_bn)
    n = labels.sum(-1)
    top = hits.sum(-1) * n - (labels * predictions).sum(-1)
    bottom = np.sqrt((n**2 - (predictions**2).sum(-1)) * (n**2 - (labels**2).sum(-1)))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def pearson(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted product-moment correlation; NaN where a resample is constant but for rounding."""
    total = weights_bn.sum(1, keepdims=True)
    y = labels_n - labels_n.mean()  # centred first, or the second moments lose their digits
    x = values_rn - values_rn.mean(1, keepdims=True)
    mean_y, mean_x = weights_bn @ y[:, None] / total, weights_bn @ x.T / total
    var_y = _variance(weights_bn @ (y**2)[:, None] / total, mean_y)
    var_x = _variance(weights_bn @ (x**2).T / total, mean_x)
    cov = weights_bn @ (x * y).T / total - mean_x * mean_y
    return cov / np.sqrt(var_x * var_y)


def _variance(square: Floats, mean: Floats) -> Floats:
    variance = square - mean**2
    return np.where(variance > 1e-12 * square, variance, np.nan)


def spearman(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted rank correlation: items are ranked anew in every resample, ties at their mid-rank."""
    y_bn = _ranks(labels_n, weights_bn)
    return np.stack([_correlation(_ranks(x_n, weights_bn), y_bn, weights_bn) for x_n in values_rn], axis=1)


def absolute_error(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted mean distance of a value from its label."""
    return mean(labels_n, np.abs(values_rn - labels_n), weights_bn)


def most_frequent(labels_n: Floats) -> Floats:
    """The two most frequent classes: no other constant answer has a better accuracy or F1."""
    classes, counts = np.unique(labels_n, return_counts=True)
    return classes[np.argsort(-counts)][:2]


def mean(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> Floats:
    """Weighted mean of what each item scored."""
    return weights_bn @ values_rn.T / weights_bn.sum(1, keepdims=True)


def loss(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Nats per token, of the summed loss of each text; ``sizes_n`` are tokens."""
    return weights_bn @ nats_rn.T / (weights_bn @ sizes_n)[:, None]


def perplexity(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Exponential of the loss per token."""
    with np.errstate(over="ignore"):  # of a diverged run
        return np.exp(loss(sizes_n, nats_rn, weights_bn))


def bits_per_byte(sizes_n: Floats, nats_rn: Floats, weights_bn: Floats) -> Floats:
    """Bits per UTF-8 byte; ``sizes_n`` are bytes."""
    return loss(sizes_n, nats_rn, weights_bn) / math.log(2)


_FRACTION = Metric("", unit="%", low=0.0, high=1.0, decimals=1)
_LABELS: dict[str, Any] = {"kind": "classification", "columns": ("label", "prediction"), "constants": most_frequent}
_CLASS = replace(_FRACTION, **_LABELS)
_VALUES: dict[str, Any] = {"kind": "regression", "columns": ("label", "prediction")}
_CORRELATION = Metric("", low=-1.0, high=1.0, **_VALUES)
_ERROR = Metric("", lower_is_better=True, low=0.0, decimals=None, **_VALUES)  # in the labels' unit
_LOSS = Metric("", kind="causal_lm", unit="nats", lower_is_better=True, low=0.0)
_TEXT = replace(_FRACTION, kind="text")

METRICS = {
    metric.name: metric
    for metric in (
        replace(_CLASS, name="accuracy", weighted=accuracy, short="acc."),
        replace(_CLASS, name="f1", weighted=f1, short="F1"),
        replace(_CORRELATION, name="matthews", weighted=matthews, short="Matthews", **_LABELS),
        replace(_CORRELATION, name="pearson", weighted=pearson, short="Pearson"),
        replace(_CORRELATION, name="spearman", weighted=spearman, short="Spearman"),
        replace(_ERROR, name="mae", weighted=absolute_error, constants=np.median, short="MAE"),
        replace(_LOSS, name="loss", weighted=loss),
        replace(_LOSS, name="perplexity", unit="", low=1.0, decimals=None, weighted=perplexity),
        replace(_LOSS, name="bits_per_byte", unit="bits", columns=("bytes", "score"), weighted=bits_per_byte),
        replace(_TEXT, name="bleu"),
        replace(_TEXT, name="nist", unit="", high=math.inf, decimals=3),
        replace(_TEXT, name="rouge_l"),
        replace(_TEXT, name="cider", unit="", high=10.0, decimals=3),
        *(replace(_TEXT, name=name) for name in ("meteor", "exact_match", "number_match", "json_keys", "reasoning")),
    )
}
# Of lm-evaluation-harness, by the beginning of their names: shares of items, and those of which less is better.
_SHARES = ("acc", "exact_match", "f1", "em", "pass")
_LESS = ("brier_score", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter")
KINDS = ("classification", "regression", "causal_lm")  # of tasks


def named(name: str, *values: float) -> Metric:
    """The metric of a name, of an objective (``val/loss``), of a group of rows (``accuracy_matched``) or of a task of
    lm-evaluation-harness (``arc_easy:acc``), whose weighted form is the mean of what its items scored.

    A name that is none of these gives a number without unit or range, of which more is better; so does a share of the
    harness of which any of ``values`` is above 1, as some of its tasks give 0 to 100.
    """
    task, _, column = name.rpartition(":")
    if task:
        kind = _FRACTION if column.startswith(_SHARES) and all(value <= 1 for value in values) else Metric("")
        kind = replace(kind, kind="harness", columns=("label", column), weighted=mean)
        return replace(kind, name=name, short=column, lower_is_better=column.partition("@")[0] in _LESS)
    bare = name.split("/")[-1]
    if bare in METRICS:
        return METRICS[bare]
    base = next((metric for metric in METRICS.values() if bare.startswith(f"{metric.name}_")), None)
    return replace(base, name=bare, short=bare.removeprefix(f"{base.name}_")) if base else Metric(bare)


def of_kind(kind: str) -> tuple[str, ...]:
    """Names of the metrics of a kind of task, or of written text (``text``)."""
    return tuple(metric.name for metric in METRICS.values() if metric.kind == kind)


def _margins(labels_n: Floats, values_rn: Floats, weights_bn: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted hits, labels and predictions of each class, (B, R, C); the whole tables would take C times that."""
    one_hot = np.eye(max(2, int(max(labels_n.max(), values_rn.max())) + 1))
    labels_bc = weights_bn @ one_hot[labels_n.astype(np.int64)]
    predicted_rnc = [one_hot[values_n.astype(np.int64)] for values_n in values_rn]
    predictions = np.stack([weights_bn @ one_nc for one_nc in predicted_rnc], axis=1)
    right_rn1 = (values_rn == labels_n)[..., None]
    hit_rnc = [one_nc * right_n1 for one_nc, right_n1 in zip(predicted_rnc, right_rn1, strict=True)]
    hits = np.stack([weights_bn @ one_nc for one_nc in hit_rnc], axis=1)
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
