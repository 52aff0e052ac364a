"""Two runs or more on the same test items: differences of a metric, paired by seed and by item.

A *replicate* is a pair (seed, data_seed); runs of several arms are paired by it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rankwise.identity import idle
from rankwise.metrics import METRICS, Metric, accuracy, mean, named
from rankwise.statistics import Bootstrap, Floats, item_weights, paired, unseen
from rankwise.tracking.fields import at
from rankwise.tracking.predictions import FILE, Predictions, Unreadable, harness_file, read
from rankwise.tracking.record import FINISHED, Record

Replicate = tuple[int, int]
Arm = Sequence[Record]

REPLICATES = 5_000  # bootstrap samples of the items; fewer where there are very many items
_DRAWS = 200_000_000
_AT_ONCE = 128  # runs that are resampled together
_AGREES = 1e-3  # between the metric of the stored predictions and the record's, the larger of absolute and relative


class NotComparable(Exception):
    """Why runs cannot be compared, in words that follow "no comparison: "."""


def replicate(record: Record) -> Replicate:
    """Its seeds; a data seed of which it makes no use is that of all others."""
    drawn = int(record.config.get("data_seed", 0))
    return int(record.config.get("seed", 0)), 0 if drawn and "data_seed" in idle(record.config) else drawn


def by_replicate(arms: Sequence[Arm]) -> dict[Replicate, list[Record]]:
    """A run of each arm, in their order, for every replicate that all arms have."""
    runs = [{replicate(run): run for run in arm} for arm in arms]
    shared = sorted(set.intersection(*(set(by) for by in runs)))
    return {rep: [by[rep] for by in runs] for rep in shared}


@dataclass(frozen=True)
class _Scored:
    """A run's metric on all test items and on each resample of them; runs of one ``test`` share items and resamples."""

    point: float
    resampled_b: NDArray[np.float32]
    test: int
    lacking: float = 0.0  # the standard error that resamples lack


def preference(runs: Sequence[Record]) -> tuple[float, float, float]:
    """A key by which the learning rate of these runs is chosen among others, the greatest first.

    It is the mean objective on validation rows, turned so that more is better; of equal ones, which few rows make
    frequent, the lower validation loss decides, then the lower rate. A run without an objective (it failed or
    diverged) makes its rate the worst.
    """
    sign = named(str(at(runs[0], "config.objective"))).sign
    gains = [sign * run.objective if run.status == FINISHED and run.objective is not None else math.nan for run in runs]
    losses = [at(run, "metrics.validation.loss.value") for run in runs]
    fewer = [math.nan if loss is None else -loss for loss in losses]
    means = (round(math.fsum(values) / len(runs), 12) for values in (gains, fewer))  # equal though their sums are not
    gain, less = (value if math.isfinite(value) else -math.inf for value in means)
    return gain, less, -float(at(runs[0], "config.optim.lr") or 0.0)


class Scores:
    """The metric of runs on their test items and on resamples of them. Runs are read once, all together."""

    def __init__(self, runs: Iterable[Record], metric: Metric) -> None:
        runs = list({id(run): run for run in runs}.values())
        self._metric = metric.among(max(map(_classes, runs), default=0))
        self._unreadable: dict[int, str] = {}
        self._predictions: dict[int, Predictions] = {}
        self._tests: list[list[int]] = []  # runs of the same items
        self._place: dict[int, tuple[int, int]] = {}  # of a run: its test, and which of the test's runs it is
        for run in runs:
            try:
                self._add(id(run), predictions_of(run, metric))
            except Unreadable as why:
                self._unreadable[id(run)] = str(why)
        # A study may have thousands of runs, which are looked at arm by arm.
        self._resampled = lru_cache(maxsize=4)(self._resample)
        self._constant = [self._best_constant(test) for test in range(len(self._tests))]

    def _add(self, key: int, mine: Predictions) -> None:
        firsts = (self._predictions[test[0]] for test in self._tests)
        number = next((n for n, first in enumerate(firsts) if aligned(mine, first, self._metric)), len(self._tests))
        if number == len(self._tests):
            self._tests.append([])
        else:  # all but the answers is the same, and held once
            first, own = self._predictions[self._tests[number][0]], self._metric.columns[1]
            mine = Predictions(first.items, first.columns | {own: _small(mine.columns[own])})
        self._place[key], self._predictions[key] = (number, len(self._tests[number])), mine
        self._tests[number].append(key)

    def _resample(self, test: int, start: int) -> list[_Scored]:
        """Of the test's runs from one on."""
        return self._scored([self._predictions[key] for key in self._tests[test][start : start + _AT_ONCE]], test)

    def _best_constant(self, test: int) -> _Scored | None:
        """Of the answers that are the same for every item."""
        metric, first = self._metric, self._predictions[self._tests[test][0]]
        # A constant correlates with nothing; what one of a language model or of the harness would score is unknown.
        zero = _Scored(0.0, np.zeros(_replicates(len(first.items)), np.float32), test)
        answers: Floats = np.atleast_1d(metric.constants(first.columns["label"])) if metric.constants else np.empty(0)
        predicted = [{metric.columns[1]: np.full(len(first.items), answer)} for answer in answers]
        unvaried = self._scored([Predictions(first.items, first.columns | own) for own in predicted], test)
        unvaried = unvaried or [zero] * (metric.low == -1)
        return max(unvaried, key=lambda one: metric.sign * one.point, default=None)

    def _scored(self, answers: list[Predictions], test: int) -> list[_Scored]:
        if not answers:
            return []
        points_r, resampled_br = resample(answers, self._metric, test)
        with np.errstate(over="ignore"):  # of a diverged perplexity
            resampled_rb = resampled_br.T.astype(np.float32)
        runs = zip(points_r, resampled_rb, map(self._unseen, answers), strict=True)
        return [_Scored(float(point), own_b, test, lacking) for point, own_b, lacking in runs]

    def contrast(self, terms: Sequence[tuple[float, Arm]]) -> Bootstrap:
        """Σ weight · score over arms, on the replicates that all of them have. The weights sum to zero.

        Raises NotComparable without a shared replicate, and where predictions are missing or of different items.
        """
        pairs = by_replicate([arm for _, arm in terms])
        weights_a = np.array([weight for weight, _ in terms])
        return self._paired([[self._of(run) for run in runs] for runs in pairs.values()], weights_a, list(pairs))

    def above_constant(self, arm: Arm) -> Bootstrap:
        """By how much an arm is better than the best answer that is the same for every item: majority class or median.

        Raises NotComparable without predictions, and for a loss: what a constant language model says is unknown.
        """
        pairs = [[row, constant] for row in map(self._of, arm) if (constant := self._constant[row.test])]
        if not pairs:
            raise NotComparable(f"no constant answer has a {self._metric.name}")
        gain = self._paired(pairs, np.array([1.0, -1.0]), [replicate(run) for run in arm])
        return gain.times(self._metric.sign)

    def constant(self, arm: Arm) -> float | None:
        """The score of that answer; None where it is unknown, or without predictions."""
        tests = [self._place[id(run)][0] for run in arm if id(run) in self._place]
        best = self._constant[tests[0]] if tests else None
        return best.point if best else None

    def entropy(self, arm: Arm) -> float | None:
        """The test loss, in nats, of the best answer that is the same for every item: the entropy of the labels.

        None but for classes, and without predictions.
        """
        known = [self._predictions[id(run)] for run in arm if id(run) in self._predictions]
        if self._metric.kind != "classification" or not known:
            return None
        counts = np.unique(known[0].columns["label"], return_counts=True)[1]
        return float(special.entr(counts / counts.sum()).sum())

    def variety(self, run: Record) -> float | None:
        """The standard deviation of the values that a run says, over that of the labels; None if unknown."""
        if self._metric.kind != "regression" or id(run) not in self._predictions:
            return None
        labels, predicted = (np.asarray(self._predictions[id(run)].columns[c], float) for c in self._metric.columns)
        return float(predicted.std() / labels.std()) if labels.std() else None

    def churn(self, runs: Arm, others: Arm | None = None) -> float | None:
        """The share of test items that two runs answer differently, however good both are (Milani Fard et al. 2016).

        The mean over all pairs of runs of one arm, or over the replicates that two arms share; None without a pair,
        without predictions and where no classes are predicted.
        """
        pairs = list(combinations(runs, 2)) if others is None else [*by_replicate([runs, others]).values()]
        answers = [[self._predictions.get(id(run)) for run in pair] for pair in pairs]
        both = [(a, b) for a, b in answers if a and b and aligned(a, b, self._metric)]
        if self._metric.kind != "classification" or not both:
            return None
        return float(np.mean([np.mean(a.columns["prediction"] != b.columns["prediction"]) for a, b in both]))

    def _of(self, run: Record) -> _Scored:
        if id(run) not in self._place:
            raise NotComparable(self._unreadable.get(id(run), "its runs are not comparable"))
        test, index = self._place[id(run)]
        return self._resampled(test, index - index % _AT_ONCE)[index % _AT_ONCE]

    def _unseen(self, own: Predictions) -> float:
        """The standard error that resamples of a run lack: the next cluster of items might differ as a whole."""
        metric = self._metric
        if metric.percent and metric.weighted in (accuracy, mean):
            return unseen(own.units)
        classes = metric.kind == "classification"
        return unseen(own.units) * len(own.items) * self._one_row(own.columns) if classes else 0.0

    def _one_row(self, columns: Mapping[str, np.ndarray]) -> float:
        """By how much the metric moves at most where one answer is another, of rows and to answers of the two rarest
        and two most frequent classes: of F1 and Matthews' correlation more than the 1/n of an accuracy.
        """
        labels_n, answers_n = (np.asarray(columns[column], float) for column in self._metric.columns)
        classes, counts = np.unique(labels_n, return_counts=True)
        classes = classes[np.argsort(counts)]
        if len(classes) == 1:  # the other of two
            classes = np.array([classes[0], float(not classes[0])])
        ends, point, most = np.unique([*classes[:2], *classes[-2:]]), self._metric.value(labels_n, answers_n), 0.0
        for label, answer, other in product(ends, repeat=3):
            rows = np.flatnonzero((labels_n == label) & (answers_n == answer))
            if answer != other and len(rows):
                changed_n = answers_n.copy()
                changed_n[rows[0]] = other
                most = max(most, abs(self._metric.value(labels_n, changed_n) - point))
        return most

    def _paired(self, rows: list[list[_Scored]], weights_a: Floats, replicates: list[Replicate]) -> Bootstrap:
        if not rows:
            raise NotComparable("the arms share no seed")
        if any(len({one.test for one in row}) > 1 for row in rows):
            raise NotComparable("the arms were tested on different items")
        points_sa = np.array([[one.point for one in row] for row in rows])
        length = min(len(one.resampled_b) for row in rows for one in row)
        resampled_sab = np.array([[one.resampled_b[:length] for one in row] for row in rows])
        means_bs = np.einsum("sab,a->bs", resampled_sab, weights_a)
        if np.isinf(means_bs).any():
            raise NotComparable(f"a {self._metric.name} above 1e38, as of a diverged run, has no interval")
        if not np.isfinite(means_bs).all():
            raise NotComparable("the metric is undefined on some resamples (constant predictions)")
        first = self._predictions[self._tests[rows[0][0].test][0]]
        items, clusters = len(first.items), first.units
        if clusters == 1 < items:
            raise NotComparable("all test items are one group, which says nothing of other groups")
        # Of a typical run: where a run says one answer, as a collapsed one or the constant, one other moves far more.
        lacking = float(np.quantile([one.lacking for row in rows for one in row], 0.5, method="lower"))
        most = float(np.abs(weights_a).sum()) / 2 * (self._metric.high - self._metric.low)
        sizes = (items, first.effective, lacking, most, clusters)
        return paired(points_sa @ weights_a, means_bs, replicates, *sizes)


def on_rows(metric: Metric, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """``other`` − ``one`` of two models' columns on the same rows: {value, se}, over rows or clusters of them.

    The error is as that of a score: √(k/(k−1)) times what k clusters vary by when resampled, unknown of one.
    """
    rows = np.arange(len(one["label"]))
    runs = [Predictions(rows, columns) for columns in (one, other)]
    (points_r, resampled_br), k = resample(runs, metric), runs[0].units
    # A constant correlates with nothing, as in the scores of a task.
    (point,), gaps_b = np.diff(np.nan_to_num(points_r)), np.diff(np.nan_to_num(resampled_br))[:, 0]
    return {"value": float(point), "se": float(gaps_b.std(ddof=1)) * math.sqrt(k / (k - 1)) if k > 1 else math.nan}


def resample(runs: Sequence[Predictions], metric: Metric, seed: int = 0) -> tuple[Floats, Floats]:
    """The metric of runs of the same items, on all of them (R,) and on resamples of them or their clusters (B, R)."""
    of_same, of_run = metric.columns
    labels_n = np.asarray(runs[0].columns[of_same], dtype=float)
    values_rn = np.stack([np.asarray(run.columns[of_run], dtype=float) for run in runs])
    n = len(labels_n)
    weights = item_weights(n, _replicates(n), seed, runs[0].columns.get("cluster"))
    resampled_br = np.concatenate([metric.resampled(labels_n, values_rn, weights_bn) for weights_bn in weights])
    return metric.resampled(labels_n, values_rn, np.ones((1, n)))[0], resampled_br


def _replicates(items: int) -> int:
    return min(REPLICATES, max(1_000, _DRAWS // items))


def predictions_of(record: Record, metric: Metric) -> Predictions:
    """The run's predictions. Raises Unreadable, also where they do not give the score of the record."""
    name, metric = str(record.run.get("name")), metric.among(_classes(record))
    if not (metric.task or metric.name in METRICS):  # of a group, whose mean may well be near that of all rows
        raise Unreadable(f"predictions do not say which rows {metric.name} is of")
    if metric.kind == "causal_lm" and at(record, "config.task.kind") in ("classification", "regression"):
        raise Unreadable(f"predictions of {name} hold no loss of each row")
    file = harness_file(metric.task) if metric.task else FILE
    predictions = read(record.folder, name, metric.columns, file)
    if why := unlike(metric, predictions.columns, (record.scores.get(metric.name) or {}).get("value")):
        raise Unreadable(f"predictions of {name} give {why}")
    return predictions


def unlike(metric: Metric, columns: Mapping[str, np.ndarray], recorded: float | None) -> str | None:
    """What a run's items give, where its record says another score; None where they agree."""
    here = metric.value(*(np.asarray(columns[column], dtype=float) for column in metric.columns))
    if recorded is not None and (math.isclose(here, recorded, rel_tol=_AGREES, abs_tol=_AGREES) or math.isnan(here)):
        return None
    shown = "none" if recorded is None else f"{recorded:.4f}"
    return f"{metric.name} {here:.4f}, its record says {shown}"


def _classes(record: Record) -> int:
    """How many classes the task has, of which its test rows need not show all; 0 where that is unknown."""
    return len(at(record, "provenance.data.classes") or ())


def _small(values: np.ndarray) -> np.ndarray:
    """Integers in as few bytes as hold them."""
    if not np.issubdtype(values.dtype, np.integer):
        return values
    return values.astype(np.promote_types(*map(np.min_scalar_type, (values.min(), values.max()))))


def aligned(one: Predictions, other: Predictions, metric: Metric) -> bool:
    """Whether both are of the same test items with the same labels: values of a network are fp32, of a baseline not."""
    mine, theirs = (np.asarray(run.columns[metric.columns[0]], float) for run in (one, other))
    return np.array_equal(one.items, other.items) and np.allclose(mine, theirs, rtol=1e-6, atol=0)
