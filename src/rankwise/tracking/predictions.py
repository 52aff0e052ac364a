"""Predictions on the test rows, kept so that two runs can be compared item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE = "predictions.parquet"


def write(folder: Path, item: np.ndarray, label: np.ndarray, prediction: np.ndarray, score: np.ndarray) -> None:
    """One row per test item: stable number, label, prediction, score (probability of the last class, or value)."""
    columns: dict[str, Any] = {
        "item": item,
        "label": label,
        "prediction": prediction,
        "score": score.astype(np.float32),
    }
    partial = folder / f".{FILE}.partial"
    pq.write_table(pa.table(columns), partial, compression="zstd")
    partial.replace(folder / FILE)
