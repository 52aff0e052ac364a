"""Predictions on the test set, read back and lined up so that runs can be compared item by item."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankwise.metrics import Metric
from rankwise.report.arms import dig
from rankwise.statistics import Floats
from rankwise.tracking.record import Record

_AGREES = 1e-3  # between the metric of the stored predictions and the record's, the larger of absolute and relative


@dataclass(frozen=True)
class Predictions:
    """One run's test set in the order of its item numbers; ``values`` are what the metric reads.

    ``labels`` are what is the same in every run: the right answers, or the sizes of the texts.
    """

    items: Floats
    labels: Floats
    values: Floats


def load(record: Record, metric: Metric) -> Predictions | str:
    """The run's predictions, or why they cannot be used, in words that finish "no comparison: …"."""
    if record.folder is None:
        return "it was read from W&B, which has no predictions"
    name = record.run.get("name") or record.folder.name
    columns = ("item", *metric.columns)
    try:
        # Opened here, because a path would bring in pyarrow's dataset layer: 10 ms per file.
        with (record.folder / "predictions.parquet").open("rb") as file:
            table = pq.ParquetFile(file).read(columns=list(columns))
        items, labels, values = (np.asarray(table[c].to_numpy(), dtype=float) for c in columns)
    except FileNotFoundError:
        return f"{name} has no predictions.parquet"
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        return f"predictions.parquet of {name} cannot be read ({type(error).__name__})"
    if len(items) == 0 or len(np.unique(items)) != len(items):
        return f"predictions.parquet of {name} names no item, or one twice"
    if not (np.isfinite(values).all() and np.isfinite(labels).all()):
        return f"predictions of {name} are not all finite"
    order = np.argsort(items)
    return _checked(Predictions(items[order], labels[order], values[order]), record, metric, name)


def aligned(one: Predictions, reference: Predictions) -> bool:
    """Whether both are of the same test items with the same labels."""
    return np.array_equal(one.items, reference.items) and np.array_equal(one.labels, reference.labels)


def _checked(found: Predictions, record: Record, metric: Metric, name: object) -> Predictions | str:
    recorded = dig(record, f"metrics.test.{metric.name}.value")
    here = metric.value(found.labels, found.values)
    if recorded is None or not math.isclose(here, recorded, rel_tol=_AGREES, abs_tol=_AGREES):
        shown = "none" if recorded is None else f"{recorded:.4f}"
        return f"predictions of {name} give {metric.name} {here:.4f}, its record says {shown}"
    return found
