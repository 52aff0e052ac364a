"""Predictions on the test rows, kept so that two runs can be compared item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE = "predictions.parquet"


def write(folder: Path, item: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """One row per test item with its stable number.

    ``label``, ``prediction`` and ``score`` (probability of the last class, or value); of a causal LM ``label`` (how
    many tokens were asked), ``score`` (the sum of their losses in nats) and ``bytes``.
    """
    kept: dict[str, Any] = {"item": item}
    for name in ("label", "prediction", "score", "bytes"):
        if name in columns:
            values = columns[name]
            kept[name] = values.astype(np.float32) if name == "score" else values
    partial = folder / f".{FILE}.partial"
    pq.write_table(pa.table(kept), partial, compression="zstd")
    partial.replace(folder / FILE)
