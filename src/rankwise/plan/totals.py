"""What the runs of a plan cost together: devices, disk, files, and what W&B is sent."""

from collections.abc import Sequence
from typing import Any

from rankwise.config import Config

# Of a finished run, as counted (docs/scale.md): files, and what W&B's client sends: of the run, of each row, and every
# so many seconds the machine's load.
FILES, WANDB_FILES = 8, 11
RUN_REQUESTS, RUN_BYTES, ROW_BYTES = 26, 58_000, 180
INTERVAL_S, INTERVAL_BYTES = 15, 700
# Operations on the files of its folder, and those of the launcher, which looks at its journal; each row is one more.
RUN_OPERATIONS, OPERATIONS_PER_S = 170, 4
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
        "file_operations": _operations(compute) if known else None,
        "wandb": _tracked(configs, compute),
        "peak_bytes": max((row["memory"]["train"]["peak_bytes"] for row in rows if "memory" in row), default=None),
        "fits": all(row["fits"] for row in rows) if all("fits" in row for row in rows) else None,
    }


def _tracked(configs: Sequence[Config], compute: Sequence[Row]) -> Row | None:
    """What W&B is sent; None where that is nothing, or nobody knows how long the runs are."""
    parts = [part for config, part in zip(configs, compute, strict=True) if config.tracking.name == "wandb"]
    if not parts or any(part.get("train_s") is None for part in parts):
        return None
    rows = sum(part["rows"] for part in parts)
    intervals = sum(int(part["train_s"] / INTERVAL_S) for part in parts)
    return {
        "rows": rows,
        "bytes": RUN_BYTES * len(parts) + ROW_BYTES * rows + INTERVAL_BYTES * intervals,
        "requests": RUN_REQUESTS * len(parts) + intervals,
    }


def _operations(compute: Sequence[Row]) -> int:
    return sum(RUN_OPERATIONS + part["rows"] + int(OPERATIONS_PER_S * part["train_s"]) for part in compute)


def _flops(compute: Row) -> int | None:
    per_step, steps = (compute.get("flops") or {}).get("per_step"), compute.get("steps")
    return None if per_step is None or steps is None else int(per_step * steps)
