"""Whether an arm slows inference, and whether it still does when it is merged: forward passes beside the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rankwise import methods
from rankwise.errors import plural
from rankwise.metrics import NOTHING
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.report.columns import Section
from rankwise.report.footnotes import marks
from rankwise.tracking.fields import at

if TYPE_CHECKING:
    from rankwise.report.report import Report


def timed(arm: Arm) -> list[dict[str, Any]]:
    """A row per shape that any run timed, in the order they were asked for: medians over runs of their own medians in
    ms, and ratios to the base as {value, low, high}, from the lowest to the highest end of the runs' 95 % intervals.
    """
    by_shape: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for cell in _cells(arm):
        if "absent" not in cell:
            by_shape.setdefault((int(cell["rows"]), int(cell["length"])), []).append(cell)
    return [
        {"rows": rows, "length": length, "runs": len(cells)}
        | {key: _median([cell[key] for cell in cells]) for key in ("base_ms", "adapted_ms", "merged_ms")}
        | {key: _ratio([cell[key] for cell in cells]) for key in ("adapted_of_base", "merged_of_base")}
        for (rows, length), cells in by_shape.items()
    ]


def section(report: Report) -> Section | None:
    """A row per arm and shape; None where nothing was timed."""
    arms, flags = [arm for arm in report.arms if _cells(arm)], marks(report.arms)
    if not arms:
        return None
    header = ["arm", "input", "base ms", "ms", "against base", "merged against base"]
    rows = [
        [
            arm.label + flags[id(arm)],
            f"{row['rows']} × {row['length']}",
            fmt.three(row["base_ms"]),
            fmt.three(row["adapted_ms"]),
            _shown(row["adapted_of_base"]),
            _shown(row["merged_of_base"]),
        ]
        for arm in arms
        for row in timed(arm)
    ]
    return Section("latency", "Latency of a forward pass", header, rows, _notes(arms))


def _cells(arm: Arm) -> list[dict[str, Any]]:
    return [cell for run in arm.runs for cell in at(run, "compute.latency") or []]


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _ratio(ratios: list[dict[str, float] | None]) -> dict[str, float] | None:
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return None
    ends = {"low": min(ratio["low"] for ratio in known), "high": max(ratio["high"] for ratio in known)}
    return {"value": float(np.median([ratio["value"] for ratio in known])), **ends}


def _shown(ratio: dict[str, float] | None) -> str:
    """``1.052 (1.047 to 1.058)``."""
    return f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" if ratio else NOTHING


def _notes(arms: list[Arm]) -> list[str]:
    """How it was timed, what an interval is of, which row is the control, and what could not be timed."""
    runs = [run for arm in arms for run in arm.runs if at(run, "compute.latency")]
    where = {", ".join(str(at(run, f"compute.{key}")) for key in ("device", "precision")) for run in runs}
    threads = {at(run, "compute.threads") for run in runs if at(run, "compute.device") == "cpu"} - {None}
    on = "; ".join([*sorted(where), *(plural(n, "thread") for n in sorted(threads))])
    notes = [
        f"Median ms of rows × tokens without padding ({on}), of models with random weights, timed in turns in one "
        "process. Against base: ratio of medians with its 95 % interval over turns."
    ]
    if any(row["runs"] > 1 for arm in arms for row in timed(arm)):
        notes.append(
            "Of several runs: medians over them, and the interval from the lowest to the highest end of theirs."
        )
    in_place = ("all", "weights", "head")  # what is served is the base with other values
    same = sorted({arm.method for arm in arms if methods.of(arm.method).trains in in_place})
    if same:
        notes.append(f"{', '.join(same)}: a second instance of the base, so its distance from 1 is the timing's error.")
    absent = sorted(
        {
            f"{cell['rows']} × {cell['length']} of {arm.label}: {cell['absent']}"
            for arm in arms
            for cell in _cells(arm)
            if "absent" in cell
        }
    )
    return notes + [f"Absent: {reason}" for reason in absent]
