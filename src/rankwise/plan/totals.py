"""What the runs of a plan cost together: devices, disk, files, and what W&B is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankwise.config import Config

# Of a finished run, as counted (docs/scale.md): files, and what W&B's client sends, which it does at intervals.
FILES, WANDB_FILES = 8, 11
RUN_BYTES, ROW_BYTES = 58_000, 180
RUN_REQUESTS, INTERVAL_S = 26, 15
Row = dict[str, Any]


def totals(configs: Sequence[Config], rows: Sequence[Row], gpus: int | None) -> Row:
    """Over all runs, on ``gpus`` that they have to themselves; None where a run does not know."""
    compute = [row.get("compute", {}) for row in rows]
    times, flops = [part.get("train_s") for part in compute], [_flops(part) for part in compute]
    known = None not in times
    device_s = sum(row["devices"] * time for row, time in zip(rows, times, strict=True)) if known else None
    return {
        "runs": len(rows),
        "train_s": sum(times) if known else None,
        "device_s": device_s,
        "gpus": gpus,
        "elapsed_s": max(device_s / gpus, *times) if device_s is not None and gpus else None,
        "flops": None if None in flops else sum(value or 0 for value in flops),
        "disk_bytes": sum(row["storage"]["disk_bytes"] for row in rows),
        "files": FILES * len(rows) + WANDB_FILES * sum(config.tracking.name == "wandb" for config in configs),
        "wandb": _tracked(configs, compute),
        "peak_bytes": max((row["memory"]["train"]["peak_bytes"] for row in rows if "memory" in row), default=None),
        "fits": all(row["fits"] for row in rows) if all("fits" in row for row in rows) else None,
    }


def _tracked(configs: Sequence[Config], compute: Sequence[Row]) -> Row | None:
    """What W&B is sent, at most; None where it is sent nothing, or nobody knows how long the runs are."""
    parts = [part for config, part in zip(configs, compute, strict=True) if config.tracking.name == "wandb"]
    if not parts or any(part.get("train_s") is None for part in parts):
        return None
    return {
        "rows": sum(part["rows"] for part in parts),
        "bytes": sum(RUN_BYTES + ROW_BYTES * part["rows"] for part in parts),
        "requests": sum(RUN_REQUESTS + int(min(part["train_s"] / INTERVAL_S, part["rows"])) for part in parts),
    }


def _flops(compute: Row) -> int | None:
    per_step, steps = (compute.get("flops") or {}).get("per_step"), compute.get("steps")
    return None if per_step is None or steps is None else int(per_step * steps)
