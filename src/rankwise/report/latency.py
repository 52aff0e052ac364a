"""Whether an arm slows inference, and whether it still does when it is merged: forward passes beside the base's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rankwise.config import PARTIAL
from rankwise.metrics import NOTHING
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, dig
from rankwise.report.findings import Findings
from rankwise.report.sections import Section

Shape = tuple[int, int]  # rows, tokens

_SAME_LAYERS = ("full", *sorted(PARTIAL - {"bottleneck"}))  # what is served is the base with other values


@dataclass(frozen=True)
class Ratio:
    """To the base's time: the median over runs, from the lowest to the highest end of their 95 % intervals."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Timed:
    """Forward passes of one shape, by an arm's runs: medians over them, of each run's own medians in ms."""

    rows: int
    length: int
    runs: int
    base_ms: float
    adapted_ms: float
    adapted_of_base: Ratio
    merged_ms: float | None
    merged_of_base: Ratio | None


def timed(arm: Arm) -> list[Timed]:
    """A row per shape that any run timed, in the order they were asked for."""
    by_shape: dict[Shape, list[dict[str, Any]]] = {}
    for cell in _cells(arm):
        if "absent" not in cell:
            by_shape.setdefault(_shape(cell), []).append(cell)
    return [_over_runs(shape, cells) for shape, cells in by_shape.items()]


def section(report: Findings) -> Section | None:
    """A row per arm and shape; None where nothing was timed."""
    found = [(arm, timed(arm)) for arm in report.arms if _cells(arm)]
    if not found:
        return None
    header = ["arm", "input", "base ms", "ms", "against base", "merged against base"]
    rows = [
        [
            arm.label, f"{each.rows} × {each.length}", fmt.seconds(each.base_ms), fmt.seconds(each.adapted_ms),
            _ratio(each.adapted_of_base), _ratio(each.merged_of_base),
        ]
        for arm, times in found
        for each in times
    ]  # fmt: skip
    return Section("latency", "Latency of a forward pass", header, rows, _notes([arm for arm, _ in found]))


def _cells(arm: Arm) -> list[dict[str, Any]]:
    return [cell for run in arm.runs for cell in dig(run, "compute.latency") or []]


def _shape(cell: dict[str, Any]) -> Shape:
    return int(cell["rows"]), int(cell["length"])


def _over_runs(shape: Shape, cells: list[dict[str, Any]]) -> Timed:
    def median(key: str) -> float | None:
        values = [cell[key] for cell in cells if cell[key] is not None]
        return float(np.median(values)) if values else None

    def ratio(key: str) -> Ratio | None:
        ratios = [cell[key] for cell in cells if cell[key] is not None]
        if not ratios:
            return None
        ends = min(each["low"] for each in ratios), max(each["high"] for each in ratios)
        return Ratio(float(np.median([each["value"] for each in ratios])), *ends)

    base_ms, adapted_ms, adapted = median("base_ms"), median("adapted_ms"), ratio("adapted_of_base")
    assert base_ms is not None and adapted_ms is not None and adapted is not None
    return Timed(*shape, len(cells), base_ms, adapted_ms, adapted, median("merged_ms"), ratio("merged_of_base"))


def _ratio(found: Ratio | None) -> str:
    """``1.052 (1.047 to 1.058)``."""
    return NOTHING if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _notes(arms: list[Arm]) -> list[str]:
    """How it was timed, what an interval is of, which row is the control, and what could not be timed."""
    runs = [run for arm in arms for run in arm.runs if dig(run, "compute.latency")]
    where = {", ".join(str(dig(run, f"compute.{key}")) for key in ("device", "precision")) for run in runs}
    threads = {dig(run, "compute.threads") for run in runs if dig(run, "compute.device") == "cpu"} - {None}
    on = "; ".join([*sorted(where), *(f"{n} threads" for n in sorted(threads))])
    kept = [
        f"Median ms of rows × tokens without padding ({on}), of models with random weights, timed in turns in one "
        "process. Against base: ratio of medians with its 95 % interval over turns."
    ]
    if any(each.runs > 1 for arm in arms for each in timed(arm)):
        kept.append(
            "Of several runs: medians over them, and the interval from the lowest to the highest end of theirs."
        )
    same = sorted({arm.method for arm in arms} & set(_SAME_LAYERS))
    if same:
        kept.append(f"{', '.join(same)}: a second instance of the base, so its distance from 1 is the timing's error.")
    absent = sorted({f"{cell['rows']} × {cell['length']} of {arm.label}: {cell['absent']}"
                     for arm in arms for cell in _cells(arm) if "absent" in cell})  # fmt: skip
    return kept + [f"Absent: {each}" for each in absent]
