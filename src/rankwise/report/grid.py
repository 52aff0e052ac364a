"""Rank against storage of the base: one small table per question, where a study crosses the two."""

from __future__ import annotations

from collections.abc import Callable

from rankwise.metrics import NOTHING
from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.report.findings import Findings
from rankwise.report.sections import Section


def grids(report: Findings) -> list[Section]:
    """Score, weights, peak memory, speed and quantization error by storage (down) and rank (across).

    Empty unless comparable arms of one kind have two ranks and two storages or more.
    """
    cells: dict[tuple[str, int], Arm] = {}
    for arm in report.arms:
        if arm.comparable and arm.rank is not None and arm.runs:
            cells.setdefault((str(arm.settings.get("quant", "none")), arm.rank), arm)
    storages = sorted({quant for quant, _ in cells}, key=lambda quant: (quant != "none", quant))
    ranks = sorted({rank for _, rank in cells})
    if len(storages) < 2 or len(ranks) < 2:
        return []
    metric = report.metric
    asked: dict[str, Callable[[Arm], str]] = {
        f"test {metric.header}": lambda a: metric.score(s.point) if (s := a.scores.get(metric.name)) else NOTHING,
        "weights, MB": lambda a: fmt.megabytes(costs.memory(a).get("weights_bytes")),
        "peak of a training step, MB": lambda a: fmt.megabytes(costs.peak_bytes(a)),
        "tokens per second": lambda a: fmt.si(a.median("compute.tokens_per_s")),
        "error of the logits before training, %": lambda a: fmt.percent(a.median("compute.quant_error")),
    }
    header = ["base stored as", *(f"r={rank}" for rank in ranks)]
    shown = {title: {key: show(arm) for key, arm in cells.items()} for title, show in asked.items()}
    return [
        Section("grid", title, header, [[q, *(texts.get((q, r), NOTHING) for r in ranks)] for q in storages], [])
        for title, texts in shown.items()
    ]
