"""Figures over time and over learning rates."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from rankwise.metrics import Metric, named
from rankwise.report import svg
from rankwise.report.arms import Arm
from rankwise.report.palette import colour


def learning_curves(arms: list[Arm], metric: Metric) -> str | None:
    """Validation metric and loss against the optimizer step, a line per arm; None where no record has a curve."""
    asked = dict.fromkeys((f"val/{metric.name}", "val/loss"))  # which may be the same
    keys = [key for key in asked if any(_curves(arm, key) for arm in arms)]
    if not keys:
        return None
    shown = [arm for arm in arms if any(_curves(arm, key) for key in keys)]
    with svg.canvas(13.0, 4.0, panels=len(keys)) as (figure, axes):
        for ax, key in zip(axes, keys, strict=True):
            shown_as = named(key)
            for arm in shown:
                _line(ax, _curves(arm, key), colour(arm, shown), arm, shown_as.factor)
            ax.set(xlabel="optimizer step", ylabel=f"validation {shown_as.header}", title=shown_as.name)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=9)
        return svg.render(figure, "curves", f"validation {metric.name} and loss against optimizer steps")


def rates(arms: list[Arm]) -> str | None:
    """Validation objective against learning rate, a line per arm, its choice ringed; None without a grid."""
    if not arms:
        return None
    objective = str(arms[0].runs[0].config.get("objective", "objective"))
    with svg.canvas(13.0, 3.8) as (figure, (ax,)):
        for arm in arms:
            paint = colour(arm, arms)
            points = [(trial.lr, trial.validation) for trial in arm.trials]
            ax.plot(*zip(*points, strict=True), "o-", color=paint, ms=4.5, lw=1.5, label=arm.label)
            taken = [trial.validation for trial in arm.trials if trial.lr == arm.lr]
            ax.plot([arm.lr], taken, "o", ms=11, mfc="none", mec=paint, mew=1.6)
        ax.set_xscale("log")
        ax.set(xlabel="learning rate", ylabel=objective)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=9)
        return svg.render(figure, "rates", "validation objective against learning rate")


def _curves(arm: Arm, key: str) -> list[list[tuple[float, float]]]:
    """(step, value) rows of each run that has the key."""
    runs = []
    for run in arm.runs:
        rows = sorted((row["step"], row[key]) for row in run.metrics.get("curve") or [] if row.get(key) is not None)
        if rows:
            runs.append(rows)
    return runs


def _line(ax: Any, runs: list[list[tuple[float, float]]], paint: str, arm: Arm, factor: float) -> None:
    at: dict[float, list[float]] = defaultdict(list)
    for rows in runs:
        for step, value in rows:
            at[step].append(factor * value)
        if len(runs) > 1:
            ax.plot([s for s, _ in rows], [factor * v for _, v in rows], color=paint, lw=0.6, alpha=0.35)
    style = "-" if arm.rank or arm.method == "full" else "--"
    width = 2.4 if arm.method == "full" else 1.7
    steps = sorted(at)
    means = [np.mean(at[step]) for step in steps]
    ax.plot(steps, means, style, color=paint, lw=width, marker="o", ms=3.5, label=arm.label)
