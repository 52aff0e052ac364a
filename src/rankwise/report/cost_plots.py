"""Figures of costs: memory by what holds it, seconds by phase."""

from __future__ import annotations

import numpy as np

from rankwise.metrics import NOTHING
from rankwise.report import costs, svg
from rankwise.report.arms import Arm
from rankwise.report.palette import COMPONENTS, PHASES

_VISIBLE = 0.004  # of the longest bar: a narrower part is not drawn, nor named


def memory(arms: list[Arm], width: float) -> str | None:
    """Bars per arm, ``width`` inches wide, with the predicted peak as a line; None where no arm measured any."""
    if not any(map(costs.peak_bytes, arms)):
        return None
    held = [costs.memory(arm) for arm in arms]
    parts = {part: [(h.get(f"{part}_bytes") or 0) / 1e6 for h in held] for part in costs.PARTS}
    marks = [(size / 1e6, y) for y, arm in enumerate(arms) if (size := costs.predicted_bytes(arm)) is not None]
    return _bars("memory", arms, parts, COMPONENTS, "peak memory of a training step, MB", width, marks)


def seconds(arms: list[Arm], width: float) -> str | None:
    """Bars per arm; None where no arm knows its seconds."""
    took = [costs.seconds(arm) for arm in arms]
    parts = {phase.replace("_", " "): [t.get(f"{phase}_s", 0.0) for t in took] for phase in costs.PHASES}
    return _bars("seconds", arms, parts, PHASES, "time of a run, s", width, []) if any(took) else None


def _bars(
    name: str, arms: list[Arm], parts: dict[str, list[float]], paints: dict[str, str], label: str, width: float,
    marks: list[tuple[float, int]],
) -> str:  # fmt: skip
    """Bars of parts one after another; a part too narrow to be seen has no place in the legend."""
    longest = np.sum(list(parts.values()), axis=0).max()
    with svg.canvas(width, max(2.6, 0.28 * len(arms) + 1.5)) as (figure, (ax,)):
        start, rows = np.zeros(len(arms)), range(len(arms))
        for part, widths in parts.items():
            if max(widths) > _VISIBLE * longest:
                ax.barh(rows, widths, left=start, color=paints[part], height=0.66, label=part)
                start = start + np.array(widths)
        if marks:
            ax.plot(*zip(*marks, strict=True), "|", color=svg.INK, ms=15, mew=2, label="predicted peak")
        for y in np.flatnonzero(start == 0):
            ax.annotate(f"{NOTHING} not measured", (0, y), xytext=(3, 0), textcoords="offset points", fontsize=8.5,
                        va="center", color=svg.MUTED)  # fmt: skip
        ax.set_yticks(rows, [arm.label for arm in arms])
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_xlim(left=0)
        ax.grid(axis="y", visible=False)
        ax.set(xlabel=label)
        figure.legend(loc="outside lower center", ncols=5, fontsize=9)
        return svg.render(figure, name, f"{label}, of each arm")
