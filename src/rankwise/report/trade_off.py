"""Learning against forgetting: a point per arm."""

from __future__ import annotations

import math
from collections import Counter

from rankwise.metrics import Metric
from rankwise.report import svg
from rankwise.report.arms import Arm
from rankwise.report.forgetting import Forgotten, forgotten
from rankwise.report.palette import colour

_UNITS = {"loss": "rise of the loss, nats per token", "probe": "fall of a probe's accuracy, points"}


def learning_against_forgetting(arms: list[Arm], metric: Metric) -> str | None:
    """Test metric across, better to the right; forgetting up, 95 % intervals both ways. None without two arms."""
    asked = [(arm, found) for arm in arms if (found := forgotten(arm))]
    if len(asked) < 2:
        return None
    usual = Counter((found.measure, found.texts) for _, found in asked).most_common(1)[0][0]
    shown = [(arm, found) for arm, found in asked if (found.measure, found.texts) == usual]
    with svg.canvas(13.0, 4.2) as (figure, (ax,)):
        for arm, found in shown:
            x, y = metric.factor * arm.scores[metric.name].point, found.metric.factor * found.amount.point
            spread = [
                [factor * half if math.isfinite(half) else 0.0]
                for factor, half in (
                    (metric.factor, arm.scores[metric.name].half), (found.metric.factor, found.amount.half),
                )
            ]  # fmt: skip
            paint = colour(arm, arms)
            ax.errorbar(x, y, xerr=spread[0], yerr=spread[1], color=paint, lw=0, elinewidth=1.2, zorder=3)
            ax.plot(x, y, "o", color=paint, ms=7, zorder=4)
            ax.annotate(_brief(arm), (x, y), xytext=(7, 6), textcoords="offset points", fontsize=8.5, color=svg.INK)
        ax.axhline(0, color=svg.MUTED, lw=1.0, ls="--", zorder=1)
        ax.margins(x=0.1, y=0.15)
        if metric.lower_is_better:
            ax.invert_xaxis()
        ax.set(xlabel=f"test {metric.header}, better to the right", ylabel=_ylabel(shown[0][1]))
        return svg.render(figure, "forgetting", f"forgetting on {usual[1]} against test {metric.name}")


def _ylabel(found: Forgotten) -> str:
    return f"forgetting on {found.texts}:\n{_UNITS[found.measure]}"


def _brief(arm: Arm) -> str:
    return arm.label.removeprefix("lora ") if arm.method == "lora" else arm.label
