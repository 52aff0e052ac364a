"""Rank against storage of the base: one small table per question, where a study crosses the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rankwise.metrics import NOTHING
from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.report.findings import Findings

Grid = dict[str, Any]  # title, header, rows


def grids(report: Findings) -> list[Grid]:
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

    def score(arm: Arm) -> str:
        found = arm.scores.get(metric.name)
        return metric.score(found.point) if found else NOTHING

    asked: list[tuple[str, Callable[[Arm], str]]] = [
        (f"test {metric.header}", score),
        ("weights, MB", lambda arm: fmt.megabytes(costs.memory(arm).get("weights_bytes"))),
        ("peak of a training step, MB", lambda arm: fmt.megabytes(costs.peak_bytes(arm))),
        ("tokens per second", lambda arm: fmt.si(arm.median("compute.tokens_per_s"))),
        ("error of the logits before training, %", lambda arm: fmt.percent(arm.median("compute.quant_error"))),
    ]
    return [
        {
            "title": title,
            "header": ["base stored as", *(f"r={rank}" for rank in ranks)],
            "rows": [
                [quant, *(show(cells[quant, rank]) if (quant, rank) in cells else NOTHING for rank in ranks)]
                for quant in storages
            ],
        }
        for title, show in asked
    ]
