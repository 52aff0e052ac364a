"""The figure of costs: memory by what holds it, seconds by phase."""

from __future__ import annotations

from typing import Any

import numpy as np

from rankwise.metrics import NOTHING
from rankwise.report import costs, svg
from rankwise.report.arms import Arm
from rankwise.report.palette import COMPONENTS, PHASES

_PREDICTED = "predicted peak"


def memory_and_time(arms: list[Arm], width: float) -> str | None:
    """Bars per arm, ``width`` inches wide; None where no arm measured either."""
    panels = [panel for panel, known in ((_memory, costs.peak_bytes), (_time, costs.seconds)) if any(map(known, arms))]
    if not panels:
        return None
    names = [arm.label for arm in arms]
    with svg.canvas(width, max(2.6, 0.28 * len(arms) + 1.5), panels=len(panels)) as (figure, axes):
        for i, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
            panel(ax, arms, names)
            ax.set_ylim(len(arms) - 0.5, -0.5)
            ax.set_xlim(left=0)
            ax.grid(axis="y", visible=False)
            entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
            entries |= {_PREDICTED: entries.pop(_PREDICTED)} if _PREDICTED in entries else {}  # lines would come first
            side = "left" if i == 0 else "right"
            figure.legend(entries.values(), entries, loc=f"outside lower {side}", ncols=5, fontsize=9)
        return svg.render(figure, "costs", "peak memory of a training step by part, and seconds by phase, of each arm")


def _memory(ax: Any, arms: list[Arm], names: list[str]) -> None:
    held = [costs.memory(arm) for arm in arms]
    _stack(ax, names, {p: [(h.get(f"{p}_bytes") or 0) / 1e6 for h in held] for p in costs.PARTS}, COMPONENTS)
    marks = [(size / 1e6, y) for y, arm in enumerate(arms) if (size := costs.predicted_bytes(arm)) is not None]
    if marks:
        ax.plot(*zip(*marks, strict=True), "|", color=svg.INK, ms=15, mew=2, label=_PREDICTED)
    for y, arm in enumerate(arms):
        if not costs.peak_bytes(arm):
            ax.annotate(f"{NOTHING} not measured", (0, y), xytext=(3, 0), textcoords="offset points", fontsize=8.5,
                        va="center", color=svg.MUTED)  # fmt: skip
    ax.set(xlabel="peak memory of a training step, MB", title="Memory")


def _time(ax: Any, arms: list[Arm], names: list[str]) -> None:
    took = [costs.seconds(arm) for arm in arms]
    _stack(ax, names, {p.replace("_", " "): [t.get(f"{p}_s", 0.0) for t in took] for p in costs.PHASES}, PHASES)
    ax.set(xlabel="time of a run, s", title="Time")


def _stack(ax: Any, names: list[str], parts: dict[str, list[float]], paints: dict[str, str]) -> None:
    """Bars of parts one after another; parts that no arm has get neither a bar nor a place in the legend."""
    start = np.zeros(len(names))
    for part, widths in parts.items():
        if any(widths):
            ax.barh(names, widths, left=start, color=paints[part], height=0.66, label=part)
            start = start + np.array(widths)
