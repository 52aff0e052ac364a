"""Metrics of a task with their standard errors over items."""

import functools
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  torch's own convention
from torch.utils.checkpoint import checkpoint

from rankwise.config import Task
from rankwise.metrics import METRICS, mean, of_kind
from rankwise.statistics import item_weights
from rankwise.tasks.data import Split

Score = dict[str, float]
Columns = dict[str, torch.Tensor]

RESAMPLES = 400
_LOGITS_AT_ONCE = {"cpu": 2**20}  # 4 MiB in fp32, which caches hold; elsewhere more, as every part is launched
_GROUPS = 12  # scored one by one; more are a sample of documents or speakers


@dataclass(frozen=True)
class Scorer:
    """What a task asks of logits: loss, predictions and metrics. A class for each kind of task."""

    outputs: int = 1  # logits of a row
    device: str = ""  # that the run is on, where a plan holds its tensors elsewhere
    labels: ClassVar[torch.dtype] = torch.long  # of a batch
    losses: ClassVar[Any]  # logits, labels → the loss of each item (B,), in fp32
    predict: ClassVar[Any]  # logits → class or value, and probability of the last class or the value, each (B,)
    scores: ClassVar[Any]  # predictions, labels → each metric as {value, se, n}

    def columns(self, logits_BC: torch.Tensor, losses_B: torch.Tensor, batch: Columns) -> Columns:
        """What is kept of each row (B,): row, loss, prediction, score and label."""
        prediction, score = self.predict(logits_BC)
        kept = {"row": batch["row"], "loss": losses_B, "label": batch["labels"]}
        return kept | {"prediction": prediction, "score": score}

    def summary(self, columns: dict[str, np.ndarray]) -> dict[str, Score]:
        """The loss and each metric as {value, se, n}."""
        return {"loss": mean_score(columns["loss"])} | self.of_rows(columns)

    def of_rows(self, columns: dict[str, np.ndarray]) -> dict[str, Score]:
        """Each metric of rows whose loss need not be known."""
        scores: dict[str, Score] = self.scores(columns["prediction"], columns["label"])
        return scores


def _cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_BC.float(), labels_B, reduction="none")


class ClassScorer(Scorer):
    """Cross-entropy of ``outputs`` classes."""

    def losses(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        return _cross_entropy(logits_BC, labels_B)

    def predict(self, logits_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits_BC.argmax(-1), logits_BC.double().softmax(-1)[:, -1]

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
        """accuracy, f1 and matthews as {value, se, n}; the errors of the last two are of 400 resamples of the items.

        Items with one label and one prediction are counted together. The last class counts, even where it never occurs.
        """
        n, last = len(labels), [[self.outputs - 1], [self.outputs - 1]]
        pairs, counts = np.unique(np.hstack([[labels, predictions], last]), axis=1, return_counts=True)
        counts = counts - (pairs == last).all(0)
        drawn = np.random.default_rng(0).multinomial(n, counts / n, RESAMPLES)
        weights = np.vstack([counts, drawn]).astype(float)
        scores: dict[str, Score] = {}
        for name in of_kind("classification"):
            value, *resampled = METRICS[name].resampled(pairs[0], pairs[1:], weights)[:, 0]
            scores[name] = {"value": float(value), "se": float(np.std(resampled, ddof=1)), "n": n}
        if (labels == labels[0]).all():  # they go together with no answers, whatever these are
            scores["matthews"]["se"] = math.nan
        return scores | {"accuracy": share_score(predictions == labels)}


@dataclass(frozen=True)
class ValueScorer(Scorer):
    """Squared error of the standardised label.

    ``mean`` and ``spread`` are those of the training rows' labels, so that one learning rate fits any scale;
    predictions are in the units of the data.
    """

    mean: float = 0.0
    spread: float = 1.0
    labels: ClassVar[torch.dtype] = torch.float64  # seconds since 1970 are too long for fp32

    def losses(self, logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        return (logits_BC.float()[:, 0] - ((labels_B - self.mean) / self.spread).float()) ** 2

    def predict(self, logits_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = logits_BC.double()[:, 0] * self.spread + self.mean
        return value, value

    def scores(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
        n, errors = len(labels), {"mae": mean_score(np.abs(predictions - labels))}
        pair = np.stack([labels, predictions]).astype(float)
        with np.errstate(invalid="ignore"):  # of a diverged run
            centred = pair - pair.mean(1, keepdims=True)
        constant = np.abs(centred).max(1) <= 1e-9 * np.abs(pair).max(1)  # but for rounding
        if not np.isfinite(pair).all() or constant.any():  # a constant correlates with nothing
            nothing = {"value": 0.0, "se": 1 / math.sqrt(n), "n": n}
            return {"pearson": nothing, "spearman": nothing} | errors
        r, rho = (max(-1.0, min(1.0, METRICS[name].value(*centred))) for name in ("pearson", "spearman"))
        # Spearman's by Bonett and Wright (2000), brought back from Fisher's z.
        se = (1 - rho**2) * math.sqrt((1 + rho**2 / 2) / max(1, n - 3))
        pearson, spearman = {"value": r, "se": _jackknife(*centred), "n": n}, {"value": rho, "se": se, "n": n}
        return {"pearson": pearson, "spearman": spearman} | errors


def _jackknife(y_N: np.ndarray, x_N: np.ndarray) -> float:
    """The standard error of a correlation of centred values, which need not be normal, from those without each item in
    turn (Efron and Tibshirani 1993, ch. 11)."""
    n = len(y_N)
    yx, yy, xx = (float(a @ b) - a * b * (n / (n - 1)) for a, b in ((y_N, x_N), (y_N, y_N), (x_N, x_N)))
    varied = (yy > 1e-12 * (y_N @ y_N)) & (xx > 1e-12 * (x_N @ x_N))  # else the items left are constant
    r_N = np.divide(yx, np.sqrt(np.abs(yy * xx)), out=np.zeros(n), where=varied)
    return float(r_N.std()) * math.sqrt(n - 1)


def mean_score(values_N: np.ndarray) -> Score:
    """The mean of the items; its standard error is their standard deviation (n - 1) over √n, 0 for a single item."""
    n, values_N = len(values_N), values_N.astype(np.float64)
    with np.errstate(all="ignore"):  # of a diverged run
        se = float(values_N.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        return {"value": float(values_N.mean()), "se": se, "n": n}


def share_score(right_N: np.ndarray) -> Score:
    """The share of items that are right (1, not 0), with the standard error of a proportion."""
    share, n = float(right_N.mean()), len(right_N)
    return {"value": share, "se": math.sqrt(share * (1 - share) / n), "n": n}


class TokenScorer(Scorer):
    """Causal language modelling."""

    def losses(self, logits_NV: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each learned token (N,) in nats, in fp32.

        Some tokens at a time, and once more on the way back: of a large vocabulary, what fp32 keeps of all of them is
        the largest thing in memory. The values are the same to the bit.
        """
        at_once = _LOGITS_AT_ONCE.get(self.device or logits_NV.device.type, 2**25)
        tokens = max(1, at_once // logits_NV.shape[1])
        parts = zip(logits_NV.split(tokens), labels_N.split(tokens), strict=True)
        again = functools.partial(checkpoint, _cross_entropy, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(*part) for part in parts])

    def columns(self, logits_NV: torch.Tensor, losses_N: torch.Tensor, batch: dict[str, torch.Tensor]) -> Columns:
        """Per row: ``score``, the sum of its losses; ``label``, the number of its learned tokens; ``bytes``."""
        zeros = torch.zeros(len(batch["row"]), device=losses_N.device, dtype=torch.float64)
        sums = zeros.index_add(0, batch["owner"], losses_N.double())
        tokens = zeros.index_add(0, batch["owner"], torch.ones_like(losses_N, dtype=torch.float64))
        return {"row": batch["row"], "score": sums, "label": tokens, "bytes": batch["bytes"]}

    def summary(self, columns: dict[str, np.ndarray]) -> dict[str, Score]:
        """``loss`` (nats per token), ``perplexity`` and ``bits_per_byte`` over all tokens, with errors over rows."""
        return language_scores(columns["score"], columns["label"], columns["bytes"])

    of_rows = summary


def language_scores(nats: np.ndarray, tokens: np.ndarray, size_bytes: np.ndarray) -> dict[str, Score]:
    """Scores of texts from the summed loss, tokens and UTF-8 bytes of each; standard errors of ratios, over texts."""
    loss, bits = ratio(nats, tokens), ratio(nats / math.log(2), size_bytes)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(np.float64(loss["value"])))
    exponential = {"value": perplexity, "se": perplexity * loss["se"], "n": loss["n"]}
    return {"loss": loss, "perplexity": exponential, "bits_per_byte": bits}


def ratio(tops: np.ndarray, bottoms: np.ndarray) -> Score:
    """Σ tops / Σ bottoms with its standard error by linearization (Cochran 1977, §2.11)."""
    n, total = len(tops), float(bottoms.sum())
    with np.errstate(all="ignore"):  # of a diverged run
        value = float(tops.sum()) / total
        squares = float(((tops - value * bottoms) ** 2).sum())
        return {"value": value, "se": math.sqrt(n / max(1, n - 1) * squares) / total, "n": n}


def of_test(
    scores: dict[str, Score], columns: dict[str, np.ndarray], split: Split, scorer: Scorer, metric: str
) -> dict[str, Score]:
    """Scores of test rows with errors over clusters, where rows share one, and their number; and the metric of each
    group of rows, as ``accuracy_matched``, where there are few."""
    groups, members = sorted(set(split.groups or ())), np.array(split.groups)
    scores = _clustered(scores, columns, split.clusters, scorer.outputs)
    for group in groups if len(groups) <= _GROUPS else ():
        mine = {key: values[members == group] for key, values in columns.items()}
        found, cluster_n = {metric: scorer.of_rows(mine)[metric]}, split.clusters[members == group]
        if len(set(cluster_n)) > 1:
            found = _clustered(found, mine, cluster_n, scorer.outputs)
        name = f"{metric}_{re.sub('[:/]', '-', group)}"  # which set tasks and splits apart in names
        while name in scores:
            name += "-"
        scores[name] = found[metric]
    return scores


def _clustered(
    scores: dict[str, Score], columns: dict[str, np.ndarray], cluster_n: np.ndarray, classes: int
) -> dict[str, Score]:
    """With the standard errors of 400 resamples of whole clusters, where rows share one.

    Where a resample has no score, as correlations with what is constant: as if rows of a cluster were one row.
    """
    if (k := len(set(cluster_n))) == len(cluster_n):
        return scores
    found = {}
    for name, score in scores.items():
        of_rows = name == "loss" and "loss" in columns  # of classes and values it is a mean, of texts a ratio
        weighted = mean if of_rows else METRICS[name].among(classes).resampled
        label_n, own_n = (
            np.asarray(columns[c], float) for c in (("loss", "loss") if of_rows else METRICS[name].columns)
        )
        weights = item_weights(len(cluster_n), RESAMPLES, 0, cluster_n)
        with np.errstate(all="ignore"):  # of a diverged run
            drawn = np.concatenate([weighted(label_n, own_n[None], weights_bn) for weights_bn in weights])
        known = np.isfinite(drawn).all() and not math.isnan(score["se"])
        alone = {"se": score["se"] * math.sqrt(len(cluster_n) / k) if k > 1 else math.nan, "clusters": k}
        found[name] = score | (error_of(drawn, cluster_n) if known else alone)
    return found


def error_of(drawn: np.ndarray, cluster_n: np.ndarray) -> Score:
    """The standard error of a score from resamples of whole clusters (Miller 2024, §2.2), and their number.

    Resamples of k clusters vary by (k−1)/k of what other clusters would; of one cluster the error is unknown.
    """
    k, spread = len(np.unique(cluster_n)), float(drawn.std(ddof=1))
    return {"se": spread * math.sqrt(k / (k - 1)) if k > 1 else math.nan, "clusters": k}


def scorer_for(task: Task, classes: list[str] | None, train_labels: np.ndarray) -> Scorer:
    """The scorer of a task: for a regression standardised on its training labels."""
    if task.writes:
        return TokenScorer()
    if task.has_classes:
        return ClassScorer(len(classes or []))
    spread = float(train_labels.std())
    return ValueScorer(mean=float(train_labels.mean()), spread=spread if spread > 0 else 1.0)
