"""A run's own files, all there, and what W&B should have been told."""

from __future__ import annotations

from typing import Any

from rankwise.config import Config
from rankwise.identity import folder
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import Record, read

LINE = "rankwise: W&B mirror incomplete ("  # so begins the one line on stderr when W&B fails


def whole(config: Config) -> Record:
    """The record of a run that finished, with every step in its rows and every file in its folder."""
    record = read(folder(config))
    assert record.status == "finished" and record.metrics["test"]["accuracy"]["n"] == 64
    steps = [row["step"] for row in read_rows(folder(config) / "metrics.jsonl") if "lr" in row]
    assert steps == list(range(1, (config.trainer.max_steps or 0) + 1))
    assert {"adapter", "predictions.parquet", "config.yaml"} <= {path.name for path in folder(config).iterdir()}
    return record


def rows(config: Config) -> list[dict[str, Any]]:
    """What a W&B history should hold of the last attempt at a run."""
    own = [dict(row) for row in read_rows(folder(config) / "metrics.jsonl")]
    for row in own:
        if row["attempt"] == 1:
            del row["attempt"]
        row |= {"objective": row["val/accuracy"]} if "val/accuracy" in row else {}
    return own
