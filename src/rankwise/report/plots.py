"""The figures of the page: each a name, a title, an SVG and one caption that says what is shown and how to read it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankwise.metrics import Metric
from rankwise.report import cost_plots, curves, svg
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.report.columns import rank_fraction
from rankwise.report.equivalence import Comparison
from rankwise.report.findings import Findings
from rankwise.report.forgetting import forgotten
from rankwise.report.palette import FULL, PARETO, VERDICTS, colour, family_styles
from rankwise.statistics import Interval

WIDTH = 6.3  # inches: one scale of text on the page
_FORGOT = {"loss": "rise of the loss, nats per token", "probe": "fall of a probe's accuracy, points"}


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
        score_by_rank, differences, score_by_parameters, trade_off, memory, seconds, learning_curves, rates,
    ]  # fmt: skip
    return [plot for maker in makers if (plot := maker(report)) is not None]


def save(report: Findings, folder: Path) -> list[Path]:
    """All figures as PDF and SVG, as wide as one column of a paper (3.25 inches) and as two (6.75)."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, width in (("single", 3.25), ("double", 6.75)):
        with svg.paper(folder, ending, width):
            draw(report)
    return sorted(folder.glob("*-*.pdf"))


def score_by_rank(report: Findings) -> Plot | None:
    """Score against rank, full fine-tuning as a band, everything without a rank as labelled lines."""
    metric, arms = report.metric, _scored(report)
    ranked = [arm for arm in arms if arm.rank]
    if not ranked:
        return None
    styles = family_styles(ranked)
    with svg.canvas(WIDTH, 3.7) as (figure, (ax,)):
        _limits(ax, [arm for arm in arms if arm.method in ("full", "head") or arm.rank], metric, report.margin)
        for members, (paint, marker, label) in styles:
            x = [float(arm.rank or 0) for arm in members]
            scores = [arm.scores[metric.name] for arm in members]
            ax.plot(x, [metric.factor * s.point for s in scores], color=paint, marker=marker, ms=6, lw=1.8, label=label)
            for rank, score in zip(x, scores, strict=True):
                _bar(ax, rank, score, metric, paint)
        _lines(ax, arms, report)
        ax.set_xscale("log", base=2)
        ticks = sorted({arm.rank for arm in ranked if arm.rank})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xlim(ticks[0] / 1.35, ticks[-1] * 1.35)
        ax.set(xlabel=f"rank r{_narrowest(ranked)}", ylabel=f"test {metric.header}")
        if len(styles) > 1:
            ax.legend(loc=f"{'upper' if metric.lower_is_better else 'lower'} right", fontsize=9)
        image = svg.render(figure, "rank", f"test {metric.name} against rank")
    side, less = ("below", "plus") if metric.lower_is_better else ("above", "less")
    caption = (
        f"Points are {_points(arms, metric)}; arrows: it goes on. The band is full fine-tuning's interval, the dotted "
        f"line full fine-tuning {less} the margin: whether a rank stays {side} it, the next figure tells."
    )
    return Plot("rank", "Score against rank", image, caption + _direction(metric))


def differences(report: Findings) -> Plot | None:
    """Each arm's paired difference from full fine-tuning against the margin."""
    rows = [(a, c) for a in report.arms if (c := report.comparison(a)) and c.estimate is not None]
    if not rows:
        return None
    metric, factor = report.metric, report.metric.factor
    with svg.canvas(WIDTH, max(2.2, 0.27 * len(rows) + 0.75)) as (figure, (ax,)):
        margin = factor * report.margin
        ax.axvspan(-margin, margin, color=FULL, alpha=0.10, lw=0)
        ax.axvline(0, color=FULL, lw=1.2)
        low, high = _reach(rows, report.margin)
        ax.set_xlim(factor * low, factor * high)
        for y, (_, c) in enumerate(rows):
            paint, point = VERDICTS.get(c.verdict, svg.MUTED), c.estimate or 0.0
            if not low < point < high:
                text = f"◂ {metric.difference(point)}" if point < 0 else f"{metric.difference(point)} ▸"
                side = ("left", low) if point < 0 else ("right", high)
                ax.text(factor * side[1], y, text, color=paint, va="center", fontsize=8.5, ha=side[0])
                continue
            ax.plot(factor * point, y, "o", color=paint, ms=6, zorder=3)
            if c.bootstrap:
                ends = [c.bootstrap.low, c.bootstrap.high]
                ax.plot(factor * np.clip(ends, low, high), [y, y], color=paint, lw=2.2, zorder=2)
                for end, cut, arrow in ((ends[0], ends[0] < low, "<"), (ends[1], ends[1] > high, ">")):
                    if cut:
                        ax.plot(factor * np.clip(end, low, high), y, arrow, color=paint, ms=6, clip_on=False)
        ax.set_yticks(range(len(rows)), [arm.label for arm, _ in rows])
        ax.grid(axis="y", visible=False)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        unit = "percentage points" if metric.percent else metric.difference_unit
        ax.set(xlabel=f"difference from full fine-tuning, {unit}")
        image = svg.render(figure, "difference", "paired differences from full fine-tuning with the margin")
    n = sorted({c.seeds for _, c in rows})
    how = "bars are 90 % intervals over seeds and items" if n[-1] > 1 else "points without an interval"
    caption = (
        f"Paired by seed (n = {fmt.listed(n)}) and test item; {how}. Wholly inside the band of "
        f"±{metric.width(report.margin)} means same, wholly outside different, anything else inconclusive."
    )
    return Plot("difference", "Difference from full fine-tuning", image, caption + _direction(metric))


def score_by_parameters(report: Findings) -> Plot | None:
    """Score against trainable parameters with the Pareto front."""
    metric = report.metric
    arms = [arm for arm in _scored(report) if arm.first("params.trainable") and not arm.is_baseline]
    if len(arms) < 2:
        return None
    points = [(float(arm.first("params.trainable")), metric.factor * arm.scores[metric.name].point) for arm in arms]
    front = pareto([(x, metric.sign * y) for x, y in points])
    with svg.canvas(WIDTH, 3.7) as (figure, (ax,)):
        best = sorted(points[i] for i in front)
        ax.step(*zip(*best, strict=True), where="post", color=PARETO, lw=1.5, alpha=0.8, label="Pareto front", zorder=2)
        _limits(ax, arms, metric, report.margin)
        for i, ((x, y), arm) in enumerate(zip(points, arms, strict=True)):
            _bar(ax, x, arm.scores[metric.name], metric, colour(arm, arms))
            _dot(ax, x, y, arm, arms, ring=PARETO if i in front else "none")
        ax.set_xscale("log")
        ax.margins(x=0.15)
        ax.set(xlabel="trainable parameters (adapter and head)", ylabel=f"test {metric.header}")
        ax.legend(loc=f"{'upper' if metric.lower_is_better else 'lower'} right", fontsize=9)
        image = svg.render(figure, "parameters", f"test {metric.name} against trainable parameters")
    caption = (
        f"{_points(arms, metric).capitalize()}. Ringed points are on the Pareto front: no arm that trains as few "
        "parameters scores better. The front ignores uncertainty: neighbours may not differ."
    )
    return Plot("parameters", "Score against trainable parameters", image, caption + _direction(metric))


def pareto(points: list[tuple[float, float]]) -> set[int]:
    """Indices of points (cost, score) that none beats: at most the cost and at least the score, one of them better."""
    beaten = {
        i for i, (cost, score) in enumerate(points)
        if any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    }  # fmt: skip
    return set(range(len(points))) - beaten


def trade_off(report: Findings) -> Plot | None:
    """Learning against forgetting: test metric across, better to the right. None without two arms that were asked."""
    metric = report.metric
    asked = [(arm, found) for arm in _scored(report) if (found := forgotten(arm))]
    if len(asked) < 2:
        return None
    measure, texts = Counter((found.measure, found.texts) for _, found in asked).most_common(1)[0][0]
    shown = [(arm, found) for arm, found in asked if (found.measure, found.texts) == (measure, texts)]
    arms = [arm for arm, _ in shown]
    with svg.canvas(WIDTH, 3.7) as (figure, (ax,)):
        for arm, found in shown:
            score = arm.scores[metric.name]
            x, y = metric.factor * score.point, found.metric.factor * found.amount.point
            across, up = np.nan_to_num([metric.factor * score.half, found.metric.factor * found.amount.half])
            ax.errorbar(x, y, [[up]] * 2, [[across]] * 2, color=colour(arm, arms), lw=0, elinewidth=1.2, zorder=3)
            _dot(ax, x, y, arm, arms)
        ax.axhline(0, color=svg.MUTED, lw=1.0, ls="--", zorder=1)
        ax.margins(x=0.15, y=0.15)
        if metric.lower_is_better:
            ax.invert_xaxis()
        ax.set(
            xlabel=f"test {metric.header}, better to the right", ylabel=f"forgetting on {texts}:\n{_FORGOT[measure]}"
        )
        image = svg.render(figure, "forgetting", f"forgetting on {texts} against test {metric.name}")
    caption = (
        f"{_points(arms, metric).capitalize()}, intervals both ways. What is further right learned more of the task, "
        "what is higher forgot more of what the model knew before; at the dashed line nothing was forgotten."
    )
    return Plot("forgetting", "Learning against forgetting", image, caption)


def memory(report: Findings) -> Plot | None:
    arms = [arm for arm in report.arms if arm.comparable and arm.runs]
    caption = (
        f"{_medians(arms)}: live tensors at the peak of one training step by what holds them, with the peak that the "
        "config alone predicts."
    )
    image = cost_plots.memory(arms, WIDTH)
    return Plot("memory", "Memory of a training step", image, caption) if image else None


def seconds(report: Findings) -> Plot | None:
    arms = [arm for arm in report.arms if arm.comparable and arm.runs]
    caption = f"{_medians(arms)}. Seconds depend on the hardware and what else it did: compare within this study."
    image = cost_plots.seconds(arms, WIDTH)
    return Plot("seconds", "Time of a run", image, caption) if image else None


def learning_curves(report: Findings) -> Plot | None:
    caption = (
        "Mean over seeds at the chosen learning rate; thin lines are single seeds, no interval. Lighter greens are "
        "larger ranks. A loss that still falls at the right edge means that the budget, not the rank, may decide."
    )
    image = curves.learning_curves([arm for arm in report.arms if arm.comparable], report.metric)
    return Plot("curves", "Learning curves on validation data", image, caption, wide=True) if image else None


def rates(report: Findings) -> Plot | None:
    caption = (
        "Mean validation objective at each learning rate that was tried, on the seeds that all rates of an arm share, "
        "no interval; ringed is the one taken. At an end of its line, the optimum may lie outside the grid."
    )
    image = curves.rates([arm for arm in report.arms if arm.comparable and len(arm.trials) > 1])
    return Plot("rates", "Learning rates tried", image, caption, wide=True) if image else None


def _scored(report: Findings) -> list[Arm]:
    return [arm for arm in report.arms if arm.comparable and report.metric.name in arm.scores]


def _bar(ax: Any, x: float, score: Interval, metric: Metric, paint: str) -> None:
    """An interval, with an arrow where the frame cuts it."""
    bottom, top = ax.get_ylim()
    ends = metric.factor * np.array([score.low, score.high])
    if np.isfinite(ends).all():
        ax.plot([x, x], ends.clip(bottom, top), color=paint, lw=1.4, zorder=3)
        for end, marker, cut in ((bottom, "v", ends[0] < bottom), (top, "^", ends[1] > top)):
            if cut:
                ax.plot(x, end, marker, color=paint, ms=5, clip_on=False, zorder=3)


def _dot(ax: Any, x: float, y: float, arm: Arm, among: list[Arm], ring: str = "none") -> None:
    """A labelled point; the label keeps clear of lines."""
    ax.plot(x, y, "o", color=colour(arm, among), ms=7, mec=ring, mew=1.8, zorder=4)
    label = arm.label.removeprefix("lora ") if arm.method == "lora" else arm.label
    box = {"facecolor": svg.PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1}
    ax.annotate(
        label, (x, y), xytext=(7, 6), textcoords="offset points", fontsize=8.5, color=svg.INK, bbox=box, zorder=5
    )


def _reach(rows: list[tuple[Arm, Comparison]], margin: float) -> tuple[float, float]:
    """Ends of the axis: the margin and every rank's interval that is not extreme; the rest is written at the edge."""
    shown = [c for arm, c in rows if arm.rank] or [c for _, c in rows]
    lows = [c.bootstrap.low if c.bootstrap else c.estimate or 0.0 for c in shown]
    highs = [c.bootstrap.high if c.bootstrap else c.estimate or 0.0 for c in shown]
    points = [c.estimate or 0.0 for c in shown]
    low, high = max(min(lows), min(points) - 3 * margin), min(max(highs), max(points) + 3 * margin)
    return min(1.1 * low, -2 * margin), max(1.1 * high, 2 * margin)


def _narrowest(ranked: list[Arm]) -> str:
    """What the largest rank is of the narrowest adapted matrix, for the axis."""
    largest = max(ranked, key=lambda arm: arm.rank or 0)
    share = rank_fraction(largest)
    return f"   (r = {largest.rank} is {fmt.percent(share)} % of min(in, out))" if share else ""


def _limits(ax: Any, arms: list[Arm], metric: Metric, margin: float) -> None:
    """Room for all means, and for intervals as far as they do not flatten the picture; none outside the range."""
    found = [arm.scores[metric.name] for arm in arms]
    low, high = min(s.point for s in found), max(s.point for s in found)
    room = max(high - low, 3 * margin)
    ends = [end for s in found for end in (s.low, s.high) if math.isfinite(end)]
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    if metric.lower_is_better:  # the margin lies on the side of what is worse
        high = max(high, low + 3 * margin)
    else:
        low = min(low, high - 3 * margin)
    pad = 0.08 * (high - low)
    ax.set_ylim(
        metric.factor * max(low - pad, metric.low - pad / 2), metric.factor * min(high + pad, metric.high + pad / 2)
    )


def _lines(ax: Any, arms: list[Arm], report: Findings) -> None:
    """Arms without a rank: full as a band with the margin beside it, others as lines labelled at the right edge."""
    metric, factor = report.metric, report.metric.factor
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
            limit = factor * (found.point - metric.sign * report.margin)
            ax.axhline(limit, color=FULL, lw=1.2, ls=":", zorder=2)
            labels[limit].append(f"full {'+' if metric.lower_is_better else '−'} margin")
    step, last = 0.055 * (top - bottom), -math.inf
    for y, text in [(height, each) for height in sorted(labels) for each in labels[height]]:
        last = max(y, last + step)
        ax.annotate(text, (1.01, last), xycoords=("axes fraction", "data"), fontsize=8.5, va="center",
                    color=svg.INK, annotation_clip=False)  # fmt: skip


def _direction(metric: Metric) -> str:
    """A sentence for the end of a caption."""
    return f" Lower {metric.name} is better." if metric.lower_is_better else ""


def _points(arms: list[Arm], metric: Metric) -> str:
    """What the points are, and what their intervals cover."""
    found = [arm.scores[metric.name] for arm in arms]
    n = sorted({score.n for score in found})
    over = (
        "seeds and test items" if any(score.kind == "both" for score in found) else "test items alone, silent on seeds"
    )
    what = "medians" if any(score.median is not None for score in found) else "means"
    return f"{what} over {fmt.listed(n)} seed{'' if n == [1] else 's'} with 95 % intervals over {over}"


def _medians(arms: list[Arm]) -> str:
    return f"Medians over {fmt.listed(sorted({len(arm.runs) for arm in arms}))} run(s) per arm, no interval"
