"""Scores, logits and paired differences on a run's own rows."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import rankdata
from torch import nn
from torch.utils.data import DataLoader

from rankwise import assets, metrics
from rankwise.adapters.runs import Run
from rankwise.errors import Refused
from rankwise.model.numerics import Numerics
from rankwise.tasks import batches, data, scores
from rankwise.tasks.scores import Scorer, TokenScorer, language_scores
from rankwise.tracking.predictions import FILE
from rankwise.train import module, step
from rankwise.train.module import FineTuner

Columns = dict[str, np.ndarray]

CHECK_ROWS = 256  # validation rows whose logits are compared
_RESAMPLES = 400


@dataclass(frozen=True)
class Rows:
    """A run's validation and test rows as batches, and how they are scored."""

    validation: DataLoader[Any]
    test: DataLoader[Any]
    scorer: Scorer | TokenScorer
    metric: str
    own_test: bool  # whether the test rows are those of the run's predictions; an older version drew others

    @classmethod
    def of(cls, run: Run, tokenizer: Any) -> Rows:
        """Raises Refused where the data are no longer those of the run."""
        config = run.config
        loaded = data.load(config.task, assets.resolve(config.task, progress=False), config.data_seed)
        if loaded.fingerprint != run.record.provenance["data"]["fingerprint"]:
            raise Refused(
                f"{run.folder}: its data have changed since it ran; they are {loaded.fingerprint} now and were "
                f"{run.record.provenance['data']['fingerprint']}"
            )
        loaders = batches.Loaders.of(config, loaded, tokenizer)
        return cls(
            loaders.validation, loaders.test, scores.scorer_for(config.task.kind, loaded.classes, loaded.train.labels),
            config.task.metric, _is_own_test(run, loaded.test),
        )  # fmt: skip


def logits(model: nn.Module, rows: Rows, settings: Numerics | None = None) -> torch.Tensor:
    """fp32 logits (rows, outputs) of the first validation rows, or at their learned tokens.

    Computed in the run's numerics, or in fp32.
    """
    found = []
    device = settings.device if settings else torch.device("cpu")
    model.to(device).eval()
    size = rows.validation.batch_sampler
    several = math.ceil(CHECK_ROWS / max(map(len, size)))  # type: ignore[arg-type]
    with torch.inference_mode(), settings.autocast() if settings else contextlib.nullcontext():
        for batch in islice(rows.validation, several):
            moved = {key: value.to(device) for key, value in batch.items()}
            found.append(step.losses(model, rows.scorer, moved)[0].float().cpu())
    return torch.cat(found)


def relative(now: torch.Tensor, exact: torch.Tensor) -> float:
    """‖now − exact‖ / ‖exact‖."""
    return float(torch.linalg.vector_norm(now.double() - exact.double()) / torch.linalg.vector_norm(exact.double()))


def evaluate(model: nn.Module, rows: Rows, run: Run, settings: Numerics) -> tuple[scores.Score, Columns]:
    """The task's metric {value, se, n} on the test rows, computed as the run's own test was, and the predictions."""
    found, columns = module.evaluate(FineTuner(model, rows.scorer, run.config.optim, 1), rows.test, settings)
    return found[rows.metric], columns


@dataclass(frozen=True)
class Difference:
    """A paired difference of a metric on the same rows, with its standard error over rows."""

    value: float
    se: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {"value": self.value, "se": self.se}


def paired(metric: str, labels: np.ndarray, one: Columns, other: Columns) -> Difference:
    """``other`` − ``one`` on the same rows.

    The standard error is that of the mean of paired differences for accuracy; else of 400 bootstrap resamples of the
    rows (Efron and Tibshirani 1993, §8.2).
    """
    y, n = np.asarray(labels, dtype=float), len(labels)
    if metric == "accuracy":
        each = (other["prediction"] == y).astype(float) - (one["prediction"] == y)
        return Difference(float(each.mean()), float(each.std(ddof=1)) / math.sqrt(n))
    rng = np.random.default_rng(0)

    def gap(rows: np.ndarray) -> float:
        a, b = ({name: values[rows] for name, values in columns.items()} for columns in (one, other))
        return _value(metric, b, y[rows]) - _value(metric, a, y[rows])

    resampled = [gap(rng.integers(0, n, n)) for _ in range(_RESAMPLES)]
    return Difference(gap(np.arange(n)), float(np.std(resampled, ddof=1)))


def _value(metric: str, columns: Columns, labels: np.ndarray) -> float:
    if metric in ("f1", "matthews"):
        return metrics.named(metric).value(labels, columns["prediction"])
    if metric in ("loss", "perplexity", "bits_per_byte") and "bytes" in columns:
        return language_scores(columns["score"], labels, columns["bytes"])[metric]["value"]
    return _correlation(metric, np.asarray(columns["score"], dtype=float), labels)


def stored(run: Run) -> tuple[np.ndarray, Columns] | None:
    """Item numbers and the columns of the run's test (see ``tracking.predictions``); None where they were not kept."""
    try:
        with (run.folder / FILE).open("rb") as file:
            table = pq.ParquetFile(file).read()
        columns = {name: table[name].to_numpy() for name in table.column_names}
        if {"item", "label", "score"} - set(columns):
            return None
    except (OSError, KeyError, pa.ArrowException):
        return None
    order = np.argsort(columns["item"])
    return columns["item"][order], {name: values[order] for name, values in columns.items()}


def _is_own_test(run: Run, test: data.Split) -> bool:
    kept = stored(run)
    order = np.argsort(test.items)
    if kept is None or test.completions is not None or test.messages is not None:  # whose labels are counts
        return kept is None or np.array_equal(kept[0], test.items[order])
    return np.array_equal(kept[0], test.items[order]) and np.allclose(kept[1]["label"], test.labels[order])


def _correlation(metric: str, x: np.ndarray, y: np.ndarray) -> float:
    if metric == "spearman":
        x, y = rankdata(x), rankdata(y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # a constant correlates with nothing, as in ``Scorer.scores``
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
