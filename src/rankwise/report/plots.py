"""The figures of the page: each a name, a title, an SVG and one caption that says what is shown and how to read it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankwise.metrics import Metric
from rankwise.report import formats as fmt
from rankwise.report import svg
from rankwise.report.arms import Arm
from rankwise.report.cost_plots import memory_and_time
from rankwise.report.costs import peak_bytes, seconds
from rankwise.report.curves import learning_curves, rates
from rankwise.report.equivalence import Comparison
from rankwise.report.findings import Findings
from rankwise.report.palette import FULL, PARETO, VERDICTS, colour, family_styles
from rankwise.report.table import rank_fraction
from rankwise.report.trade_off import learning_against_forgetting

HALF, WIDE = 6.3, 13.0  # inches: one scale of text on the page


@dataclass(frozen=True)
class Plot:
    """One figure. ``wide`` ones take the page's whole width."""

    name: str
    title: str
    image: str
    caption: str
    wide: bool = False


def draw(report: Findings) -> list[Plot]:
    """All figures that the records have data for."""
    makers: list[Callable[[Findings], Plot | None]] = [
        score_by_rank, differences, score_by_parameters, trade_off, costs, curves, grid,
    ]  # fmt: skip
    return [plot for maker in makers if (plot := maker(report)) is not None]


def score_by_rank(report: Findings) -> Plot | None:
    """Score against rank, full fine-tuning as a band, everything without a rank as labelled lines."""
    metric, arms = report.metric, _scored(report)
    ranked = [arm for arm in arms if arm.rank]
    if not ranked:
        return None
    factor = metric.factor
    with svg.canvas(HALF, 3.7) as (figure, (ax,)):
        for members, (paint, marker, label) in family_styles(ranked):
            x = np.array([arm.rank for arm in members], float)
            found = [arm.scores[metric.name] for arm in members]
            point = factor * np.array([s.point for s in found])
            half = factor * np.nan_to_num([s.half for s in found])
            ax.errorbar(x, point, half, color=paint, marker=marker, ms=6, lw=1.8, elinewidth=1.4, label=label, zorder=4)
        _limits(ax, [arm for arm in arms if arm.method in ("full", "head") or arm.rank], metric, report.margin)
        _lines(ax, arms, report)
        ax.set_xscale("log", base=2)
        ticks = sorted({arm.rank for arm in ranked if arm.rank})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xlim(ticks[0] / 1.35, ticks[-1] * 1.35)
        ax.set(xlabel=f"rank r{_narrowest(ranked)}", ylabel=f"test {metric.header}")
        if len(family_styles(ranked)) > 1:
            ax.legend(loc=_worst_corner(metric), fontsize=9)
        image = svg.render(figure, "rank", f"test {metric.name} against rank")
    side, less = ("below", "plus") if metric.lower_is_better else ("above", "less")
    caption = (
        f"Points are {_points(arms, metric)} with 95 % intervals ({_kinds(arms, metric)}); the band is full "
        f"fine-tuning's. The dotted line is full fine-tuning {less} the margin: whether a rank stays {side} it, the "
        f"next figure tells.{_direction(metric)}"
    )
    return Plot("rank", "Score against rank", image, caption)


def differences(report: Findings) -> Plot | None:
    """Each arm's paired difference from full fine-tuning against the margin."""
    rows = [(a, c) for a in report.arms if (c := report.comparison(a)) and c.estimate is not None]
    if not rows:
        return None
    metric, factor = report.metric, report.metric.factor
    with svg.canvas(HALF, max(2.2, 0.27 * len(rows) + 0.75)) as (figure, (ax,)):
        margin = factor * report.margin
        ax.axvspan(-margin, margin, color=FULL, alpha=0.10, lw=0)
        ax.axvline(0, color=FULL, lw=1.2)
        low, high = _reach(rows, report.margin)
        ax.set_xlim(factor * low, factor * high)
        for y, (_, c) in enumerate(rows):
            paint = VERDICTS.get(c.verdict, svg.MUTED)
            point = c.estimate or 0.0
            if not low < point < high:
                text = f"◂ {metric.difference(point)}" if point < 0 else f"{metric.difference(point)} ▸"
                ax.text(factor * (low if point < 0 else high), y, text, color=paint, va="center", fontsize=8.5,
                        ha="left" if point < 0 else "right")  # fmt: skip
                continue
            ax.plot(factor * point, y, "o", color=paint, ms=6, zorder=3)
            if c.bootstrap:
                ax.plot(factor * np.array([c.bootstrap.low, c.bootstrap.high]), [y, y], color=paint, lw=2.2, zorder=2)
        ax.set_yticks(range(len(rows)), [arm.label for arm, _ in rows])
        ax.grid(axis="y", visible=False)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        unit = "percentage points" if metric.percent else metric.difference_unit
        ax.set(xlabel=f"difference from full fine-tuning, {unit}")
        image = svg.render(figure, "difference", "paired differences from full fine-tuning with the margin")
    n = sorted({c.seeds for _, c in rows})
    how = "bars are 90 % bootstrap intervals over seeds and items" if n[-1] > 1 else "points without an interval"
    caption = (
        f"Paired by seed (n = {', '.join(map(str, n))}) and test item; {how}. Wholly inside the "
        f"band of ±{metric.width(report.margin)} means same, wholly outside different, anything else "
        f"inconclusive.{_direction(metric)}"
    )
    return Plot("difference", "Difference from full fine-tuning", image, caption)


def _reach(rows: list[tuple[Arm, Comparison]], margin: float) -> tuple[float, float]:
    """Ends of the axis: the margin and every rank's interval that is not extreme; the rest is written at the edge."""
    shown = [c for arm, c in rows if arm.rank] or [c for _, c in rows]
    lows = [c.bootstrap.low if c.bootstrap else c.estimate or 0.0 for c in shown]
    highs = [c.bootstrap.high if c.bootstrap else c.estimate or 0.0 for c in shown]
    points = [c.estimate or 0.0 for c in shown]
    low, high = max(min(lows), min(points) - 3 * margin), min(max(highs), max(points) + 3 * margin)
    return min(1.1 * low, -2 * margin), max(1.1 * high, 2 * margin)


def score_by_parameters(report: Findings) -> Plot | None:
    """Score against trainable parameters with the Pareto front."""
    metric = report.metric
    arms = [arm for arm in _scored(report) if arm.first("params.trainable") and not arm.is_baseline]
    if len(arms) < 2:
        return None
    factor, sign = metric.factor, metric.sign
    points = [(float(arm.first("params.trainable")), factor * arm.scores[metric.name].point, arm) for arm in arms]
    front = pareto([(x, sign * y) for x, y, _ in points])
    with svg.canvas(WIDE, 4.0) as (figure, (ax,)):
        best = sorted((points[i][0], points[i][1]) for i in front)
        ax.step(*zip(*best, strict=True), where="post", color=PARETO, lw=1.5, alpha=0.8, label="Pareto front", zorder=2)
        for i, (x, y, arm) in enumerate(points):
            half = factor * arm.scores[metric.name].half
            half, paint = half if math.isfinite(half) else 0.0, colour(arm, arms)
            ax.errorbar(x, y, half, color=paint, lw=0, elinewidth=1.2, zorder=3)
            ax.plot(x, y, "o", color=paint, ms=7, mec=PARETO if i in front else "none", mew=1.8, zorder=4)
            ax.annotate(_brief(arm), (x, y), xytext=(7, 6), textcoords="offset points", fontsize=8.5, color=svg.INK)
        _limits(ax, arms, metric, report.margin)
        ax.set_xscale("log")
        ax.margins(x=0.1)
        ax.set(xlabel="trainable parameters (adapter and head)", ylabel=f"test {metric.header}")
        ax.legend(loc=_worst_corner(metric), fontsize=9)
        image = svg.render(figure, "parameters", f"test {metric.name} against trainable parameters")
    caption = (
        f"{_points(arms, metric).capitalize()} with 95 % intervals ({_kinds(arms, metric)}). Ringed points are on the "
        "Pareto front: no arm that trains as few parameters scores better. The front ignores uncertainty: neighbours "
        f"may not differ.{_direction(metric)}"
    )
    return Plot("parameters", "Score against trainable parameters", image, caption, wide=True)


def pareto(points: list[tuple[float, float]]) -> set[int]:
    """Indices of points (cost, score) that none beats: at most the cost and at least the score, one of them better."""
    beaten = {
        i for i, (cost, score) in enumerate(points)
        if any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    }  # fmt: skip
    return set(range(len(points))) - beaten


def trade_off(report: Findings) -> Plot | None:
    arms = _scored(report)
    image = learning_against_forgetting(arms, report.metric)
    if image is None:
        return None
    caption = (
        f"{_points(arms, report.metric).capitalize()} with 95 % intervals both ways ({_kinds(arms, report.metric)}). "
        "What is further right learned more of the task, what is higher forgot more of what the model knew before; at "
        "the dashed line nothing was forgotten."
    )
    return Plot("forgetting", "Learning against forgetting", image, caption, wide=True)


def costs(report: Findings) -> Plot | None:
    """Memory of a training step by what holds it, and seconds by phase."""
    arms = [arm for arm in report.arms if arm.comparable and (peak_bytes(arm) or seconds(arm))]
    image = memory_and_time(arms, WIDE)
    if image is None:
        return None
    runs = sorted({len(arm.runs) for arm in arms})
    caption = (
        f"Medians over n = {fmt.listed(runs)} run(s) per arm, no interval: live tensors at the peak of one training "
        "step, with the peak that the config alone predicts, and seconds by phase. Seconds depend on the hardware; "
        "compare them within this study only."
    )
    return Plot("costs", "What it costs", image, caption, wide=True)


def curves(report: Findings) -> Plot | None:
    image = learning_curves([arm for arm in report.arms if arm.comparable], report.metric)
    if image is None:
        return None
    caption = (
        "Mean over seeds at the chosen learning rate; thin lines are single seeds, no interval. Lighter greens are "
        "larger ranks. A loss that still falls at the right edge means that the budget, not the rank, may decide."
    )
    return Plot("curves", "Learning curves on validation data", image, caption, wide=True)


def grid(report: Findings) -> Plot | None:
    image = rates([arm for arm in report.arms if arm.comparable and len(arm.trials) > 1])
    if image is None:
        return None
    caption = (
        "Mean validation objective at each learning rate that was tried, on the seeds that all rates of an arm share, "
        "no interval; ringed is the one taken. At an end of its line, the optimum may lie outside the grid."
    )
    return Plot("rates", "Learning rates tried", image, caption, wide=True)


def _scored(report: Findings) -> list[Arm]:
    return [arm for arm in report.arms if arm.comparable and report.metric.name in arm.scores]


def _narrowest(ranked: list[Arm]) -> str:
    """What the largest rank is of the narrowest adapted matrix, for the axis."""
    largest = max(ranked, key=lambda arm: arm.rank or 0)
    share = rank_fraction(largest)
    return f"   (r = {largest.rank} is {fmt.percent(share)} % of min(in, out))" if share else ""


def _limits(ax: Any, arms: list[Arm], metric: Metric, margin: float) -> None:
    """Room for all means, and for intervals as far as they do not flatten the picture."""
    factor = metric.factor
    found = [arm.scores[metric.name] for arm in arms]
    low, high = min(s.point for s in found), max(s.point for s in found)
    room = max(high - low, 3 * margin)
    ends = [end for s in found for end in (s.low, s.high) if math.isfinite(end)]
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    if metric.lower_is_better:  # the margin lies on the side of what is worse
        low, high = low - 0.08 * (high - low), max(high, low + 3 * margin)
        ax.set_ylim(factor * low, factor * (high + 0.06 * (high - low)))
    else:
        low, high = min(low, high - 3 * margin), high + 0.08 * (high - low)
        ax.set_ylim(factor * (low - 0.06 * (high - low)), factor * high)


def _lines(ax: Any, arms: list[Arm], report: Findings) -> None:
    """Arms without a rank: full as a band with the margin beside it, others as lines labelled at the right edge."""
    metric, factor = report.metric, report.metric.factor
    margin, limit_text = -report.margin, "full − margin"
    if metric.lower_is_better:
        margin, limit_text = report.margin, "full + margin"
    bottom, top = ax.get_ylim()
    labels: dict[float, list[str]] = defaultdict(list)
    for arm in (a for a in arms if not a.rank):
        found = arm.scores[metric.name]
        y, is_full = factor * found.point, arm is report.reference
        text = f"{arm.label} {metric.score(found.point)}"
        if not bottom <= y <= top:
            labels[min(max(y, bottom), top)].append(f"{text} {'↓' if y < bottom else '↑'}")
            continue
        labels[y].append(text)
        paint, width, style = (FULL, 1.4, "-") if is_full else (svg.MUTED, 1.0, "--")
        ax.axhline(y, color=paint, lw=width, ls=style, zorder=2)
        if is_full:
            if math.isfinite(found.low):
                ax.axhspan(factor * found.low, factor * found.high, color=FULL, alpha=0.14, lw=0, zorder=1)
            limit = factor * (found.point + margin)
            ax.axhline(limit, color=FULL, lw=1.2, ls=":", zorder=2)
            labels[limit].append(limit_text)
    step, last = 0.055 * (top - bottom), -math.inf
    for y, text in [(height, each) for height in sorted(labels) for each in labels[height]]:
        last = max(y, last + step)
        ax.annotate(text, (1.01, last), xycoords=("axes fraction", "data"), fontsize=8.5, va="center",
                    color=svg.INK, annotation_clip=False)  # fmt: skip


def _direction(metric: Metric) -> str:
    """A sentence for the end of a caption."""
    return f" Lower {metric.name} is better." if metric.lower_is_better else ""


def _worst_corner(metric: Metric) -> str:
    """Where large ranks do not come."""
    return "upper right" if metric.lower_is_better else "lower right"


def _points(arms: list[Arm], metric: Metric) -> str:
    return "medians" if any(arm.scores[metric.name].median is not None for arm in arms) else "means"


def _kinds(arms: list[Arm], metric: Metric) -> str:
    """n and kind of the intervals in a caption."""
    kinds = {arm.scores[metric.name].kind for arm in arms if metric.name in arm.scores}
    n = sorted({len(arm.runs) for arm in arms if metric.name in arm.scores and arm.scores[metric.name].kind == "seeds"})
    said = [f"t over n = {', '.join(map(str, n))} seeds"] if "seeds" in kinds else []
    return "; ".join(said + (["over test items only for one seed or identical runs"] if "items" in kinds else []))


def _brief(arm: Arm) -> str:
    return arm.label.removeprefix("lora ") if arm.method == "lora" else arm.label
