"""The figures of the page: each a name, a title, an SVG and one caption that says what is shown and how to read it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rankwise.metrics import NOTHING, Metric, named
from rankwise.report import costs, svg, tuning
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, covered
from rankwise.report.columns import rank_fraction
from rankwise.report.forgetting import forgotten
from rankwise.report.palette import COMPONENTS, FULL, PARETO, VERDICTS, Look, of_arms
from rankwise.tracking.groups import PARTS

if TYPE_CHECKING:
    from rankwise.report.report import Report

WIDTH, WIDE = 6.3, 13.0  # inches: one scale of text on the page
_FORGOT = {"loss": "rise of the loss, nats per token", "probe": "fall of a probe's accuracy, points"}
_STROKES = ("-", "--", ":", "-.")
_MOST = 30  # arms in a figure: more could not be told apart
_VISIBLE = 0.004  # of the longest bar: a narrower part is not drawn, nor named


@dataclass(frozen=True)
class Plot:
    """One figure. ``wide`` ones take the page's whole width."""

    name: str
    title: str
    image: str
    caption: str
    wide: bool = False


def plot(figure: Figure, name: str, title: str, caption: str, wide: bool = False) -> Plot:
    """A drawn figure with its words."""
    return Plot(name, title, svg.render(figure, name, title), caption, wide)


@svg.styled
def draw(report: Report) -> list[Plot]:
    """All figures that the records have data for; of many arms those that score best, and the reference."""
    metric = report.metric
    scored = sorted(_scored(report), key=lambda arm: -metric.sign * arm.scores[metric.name].point)
    note = f" Of {len(scored)} arms the best {_MOST} are shown." if len(scored) > _MOST else ""
    if note:
        shown = {id(arm) for arm in [*scored[:_MOST], report.reference]}
        report = replace(report, arms=[arm for arm in report.arms if id(arm) in shown])
    scores = (score_by_rank, differences, score_by_parameters, trade_off)
    makers: tuple[Callable[[Report], Plot | None], ...] = (*scores, memory, learning_curves, rates)
    return [replace(drawn, caption=drawn.caption + note) for maker in makers if (drawn := maker(report)) is not None]


@svg.styled
def score_by_rank(report: Report) -> Plot | None:
    """Score against rank, full fine-tuning as a band, everything without a rank as a line."""
    metric, arms = report.metric, _scored(report)
    ranked = [arm for arm in arms if arm.rank]
    if not ranked:
        return None
    look = of_arms(report.arms)
    figure, ((ax,),) = svg.canvas(WIDTH, 3.7)
    _limits(ax, [arm for arm in arms if arm.method in ("full", "head") or arm.rank], report)
    for family in dict.fromkeys(arm.family for arm in ranked):
        members = sorted((arm for arm in ranked if arm.family == family), key=lambda arm: arm.rank or 0)
        points = [metric.factor * arm.scores[metric.name].point for arm in members]
        (paint, marker), label = look(members[len(members) // 2]), members[0].label.replace(f" r={members[0].rank}", "")
        ax.plot([arm.rank for arm in members], points, color=paint, marker=marker, ms=6, label=label)
        for arm in members:
            _score_bar(ax, arm.rank or 0, arm, metric, paint)
    for arm in arms:
        if not arm.rank or arm is report.reference:
            _line_across(ax, arm, report, look(arm)[0])
    svg.by_rank(ax, [arm.rank for arm in ranked if arm.rank])
    largest = max(ranked, key=lambda arm: arm.rank or 0)
    share = rank_fraction(largest)
    of = f"   (r = {largest.rank} is {fmt.percent(share)} % of min(in, out))" if share else ""
    ax.set(xlabel=f"rank r{of}", ylabel=f"test {metric.header}")
    svg.legend(figure)
    side, less = ("below", "plus") if metric.lower_is_better else ("above", "less")
    caption = f"Points are {_points(arms, metric)}; arrows: it goes on."
    if report.reference in arms:
        caption += f" The band is {report.against}'s interval, the dotted line {report.against} {less} the margin"
        judged = any(c.estimate is not None for c in report.comparisons.values())
        caption += f": whether a rank stays {side} it, the next figure tells." if judged else "."
    return plot(figure, "rank", "Score against rank", caption + _direction(metric))


def differences(report: Report) -> Plot | None:
    """Each arm's paired difference from the reference against the margin."""
    rows = [(a, c) for a in report.arms if (c := report.comparison(a)) and c.estimate is not None]
    if not rows:
        return None
    metric, factor, margin = report.metric, report.metric.factor, report.margin
    figure, ((ax,),) = svg.canvas(WIDTH, max(2.2, 0.27 * len(rows) + 0.75))
    ax.axvspan(-factor * margin, factor * margin, color=FULL, alpha=0.10, lw=0)
    ax.axvline(0, color=FULL, lw=1.2)
    # What is far beyond these is written, not drawn.
    ranked = [c for arm, c in rows if arm.rank] or [c for _, c in rows]
    ends = [end for c in ranked for end in ((c.bootstrap.low, c.bootstrap.high) if c.bootstrap else ())]
    low, high = _range([c.estimate or 0.0 for c in ranked], ends, margin)
    low, high = min(low, -2 * margin), max(high, 2 * margin)
    ax.set_xlim(factor * low, factor * high)
    for y, (_, c) in enumerate(rows):
        paint, point = VERDICTS.get(c.verdict, svg.MUTED), c.estimate or 0.0
        if low < point < high:
            ax.plot(factor * point, y, "o", color=paint, ms=6, zorder=3)
            if c.bootstrap:
                _bar(ax, y, factor * c.bootstrap.low, factor * c.bootstrap.high, paint, across=True)
            continue
        below, beyond = point < 0, metric.difference(point)
        text, x, side = (f"◂ {beyond}", low, "left") if below else (f"{beyond} ▸", high, "right")
        ax.text(factor * x, y, text, color=paint, va="center", fontsize=8.5, ha=side)
    _rows(ax, [arm for arm, _ in rows])
    ax.set(xlabel=f"difference from {report.against},\n{'percentage ' * metric.percent}{metric.difference_unit}")
    n = sorted({c.seeds for _, c in rows})
    how = "bars are 90 % intervals over seeds and items" if n[-1] > 1 else "points without an interval"
    caption = (
        f"Paired by seed (n = {fmt.listed(n)}) and test item; {how}. Wholly inside the band of ±{metric.width(margin)} "
        "means same, wholly outside different, clear of its worse end not worse, else inconclusive."
    )
    return plot(figure, "difference", f"Difference from {report.against}", caption + _direction(metric))


def score_by_parameters(report: Report) -> Plot | None:
    """Score against trainable parameters with the Pareto front."""
    metric = report.metric
    arms = [arm for arm in _scored(report) if arm.first("params.trainable") and not arm.is_baseline]
    if len(arms) < 2:
        return None
    points = [(float(arm.first("params.trainable")), metric.factor * arm.scores[metric.name].point) for arm in arms]
    front = costs.pareto([(x, metric.sign * y) for x, y in points])
    figure, ((ax,),) = svg.canvas(WIDTH, 3.7)
    best = sorted(points[i] for i in front)
    if len(best) > 1:  # else there is no line
        ax.step(*zip(*best, strict=True), where="post", color=PARETO, lw=1.5, alpha=0.8, label="Pareto front", zorder=2)
    _limits(ax, arms, report)
    look = of_arms(report.arms)
    for (x, _), arm in zip(points, arms, strict=True):
        _score_bar(ax, x, arm, metric, look(arm)[0])
    ax.set_xscale("log")
    ax.margins(x=0.15)
    ax.set(xlabel="trainable parameters (adapter and head)", ylabel=f"test {metric.header}")
    _dots(ax, points, arms, look, front)
    caption = (
        f"{_points(arms, metric).capitalize()}. Ringed points are on the Pareto front: no arm that trains as few "
        f"parameters scores better. The front ignores uncertainty: neighbours may not differ."
    )
    return plot(figure, "parameters", "Score against trainable parameters", caption + _direction(metric))


def trade_off(report: Report) -> Plot | None:
    """Learning against forgetting: test metric across, better to the right. None without two arms that were asked."""
    metric = report.metric
    asked = [(arm, forgot) for arm in _scored(report) if (forgot := forgotten(arm))]
    if len(asked) < 2:
        return None
    measure, texts = Counter((forgot.measure, forgot.texts) for _, forgot in asked).most_common(1)[0][0]
    shown = [(arm, forgot) for arm, forgot in asked if (forgot.measure, forgot.texts) == (measure, texts)]
    arms = [arm for arm, _ in shown]
    figure, ((ax,),) = svg.canvas(WIDTH, 3.7)
    look, points = of_arms(report.arms), []
    for arm, forgot in shown:
        score, lost, (k, m) = arm.scores[metric.name], forgot.amount, (metric.factor, forgot.metric.factor)
        x, y = k * score.point, m * lost.point
        ax.hlines(y, k * score.low, k * score.high, look(arm)[0], lw=1.2, zorder=3)
        ax.vlines(x, m * lost.low, m * lost.high, look(arm)[0], lw=1.2, zorder=3)
        points.append((x, y))
    ax.axhline(0, color=svg.MUTED, lw=1.0, ls="--", zorder=1)
    ax.margins(x=0.15, y=0.15)
    if metric.lower_is_better:
        ax.invert_xaxis()
    ax.set(xlabel=f"test {metric.header}, better to the right", ylabel=f"forgetting on {texts}:\n{_FORGOT[measure]}")
    _dots(ax, points, arms, look)
    upwards = covered((lost.amount for _, lost in shown), "texts")
    caption = (
        f"{_points(arms, metric).capitalize()}; upwards {upwards}. What is further right learned more of the task, "
        "what is higher forgot more of what the model knew before; at the dashed line nothing was forgotten."
    )
    return plot(figure, "forgetting", "Learning against forgetting", caption)


def memory(report: Report) -> Plot | None:
    """Bars by what holds the bytes, with the predicted peak as a line; None where no arm measured any."""
    arms = _ran(report)
    if not any(map(costs.peak_bytes, arms)):
        return None
    parts = {part: [(costs.memory(arm).get(f"{part}_bytes") or 0) / 1e6 for arm in arms] for part in PARTS}
    marks = [(size / 1e6, y) for y, arm in enumerate(arms) if (size := costs.predicted_bytes(arm)) is not None]
    figure = _bars(arms, parts, marks)
    caption = (
        "Of an arm's runs the one whose peak is the median, no interval: live tensors at the peak of one training step "
        "by what holds them, with the peak that the config alone predicts."
    )
    return plot(figure, "memory", "Memory of a training step", caption)


def learning_curves(report: Report) -> Plot | None:
    """Validation metric and loss against the optimizer step, a line per arm; None where no record has a curve."""
    arms = [arm for arm in report.arms if arm.comparable]
    asked = dict.fromkeys((f"val/{report.metric.name}", "val/loss"))  # which may be the same
    keys = [key for key in asked if any(_curves(arm, key) for arm in arms)]
    if not keys:
        return None
    shown = [arm for arm in arms if any(_curves(arm, key) for key in keys)]
    look, (figure, (axes,)) = of_arms(report.arms), svg.canvas(WIDE, 3.7, columns=len(keys))
    for ax, key in zip(axes, keys, strict=True):
        metric = named(key)
        for arm in shown:
            _line(ax, _curves(arm, key), look(arm), arm, metric.factor)
        ax.set(xlabel="optimizer step", ylabel=f"validation {metric.header}", title=metric.name)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    svg.legend(figure)
    several = any(len(arm.runs) > 1 for arm in shown)
    seeds = "Mean over seeds, as far as all of them go; thin lines are single seeds" if several else "One seed"
    sized = " or ".join(dict.fromkeys(arm.size[0] for arm in shown if arm.size))
    shades = f" Lighter shades are of a larger {sized}." * bool(sized)
    caption = (
        f"{seeds}, at the chosen learning rate, no interval.{shades} A loss that still falls "
        "at the right edge means that the budget, not the rank, may decide."
    )
    return plot(figure, "curves", "Learning curves on validation data", caption, wide=True)


def rates(report: Report) -> Plot | None:
    """Validation objective against learning rate, a line per arm, its choice ringed; None without a grid."""
    sides = [(name, part) for name, part in tuning.sides(report.arms) if len(part.trials) > 1]
    arms = [part for _, part in sides]
    if not arms:
        return None
    metric = tuning.objective(arms)
    look, lengths = of_arms([*report.arms, *arms]), list(dict.fromkeys(map(tuning.length, arms)))
    figure, ((ax,),) = svg.canvas(WIDE, 3.5)
    for name, arm in sides:
        (paint, marker), points = look(arm), [(t.lr, metric.factor * t.validation) for t in arm.trials]
        stroke = _STROKES[lengths.index(tuning.length(arm)) % len(_STROKES)]
        ax.plot(*zip(*points, strict=True), marker=marker, ls=stroke, color=paint, ms=4.5, lw=1.5, label=name)
        ax.plot(arm.lr, dict(points)[arm.lr or 0.0], "o", ms=11, mfc="none", mec=paint, mew=1.6)
    ax.set(xscale="log", xlabel="learning rate", ylabel=f"validation {metric.header}")
    svg.legend(figure)
    caption = (
        "Mean validation objective at each learning rate that was tried, on the seeds that all rates of an arm share, "
        "no interval; ringed is the one taken. At an end of its line, the optimum may lie outside the grid."
    )
    return plot(figure, "rates", "Learning rates tried", caption, wide=True)


def _scored(report: Report) -> list[Arm]:
    return [arm for arm in report.arms if arm.comparable and report.metric.name in arm.scores]


def _ran(report: Report) -> list[Arm]:
    return [arm for arm in report.arms if arm.comparable and arm.runs]


def _bar(ax: Any, at: float, low: float, high: float, paint: str, across: bool = False) -> None:
    """An interval, with an arrow where the frame cuts it."""
    start, end = sorted(ax.get_xlim() if across else ax.get_ylim())
    ends = np.clip([low, high], start, end)
    (ax.hlines if across else ax.vlines)(at, *ends, color=paint, lw=1.8, zorder=2.5)
    for where, arrow, cut in ((start, "<v", low < start), (end, ">^", high > end)):
        if cut:
            x, y = (where, at) if across else (at, where)
            ax.plot(x, y, arrow[not across], color=paint, ms=5, clip_on=False, zorder=2.5)


def _score_bar(ax: Any, x: float, arm: Arm, metric: Metric, paint: str) -> None:
    score = arm.scores[metric.name]
    if math.isfinite(score.half):
        _bar(ax, x, metric.factor * score.low, metric.factor * score.high, paint)


def _dots(
    ax: Any,
    points: list[tuple[float, float]],
    arms: list[Arm],
    look: Callable[[Arm], Look],
    ringed: Collection[int] = (),
) -> None:
    """A point for each arm, with its name in the legend."""
    for i, (arm, point) in enumerate(zip(arms, points, strict=True)):
        (paint, marker), ring = look(arm), PARETO if i in ringed else "none"
        ax.plot(*point, marker, color=paint, ms=7, mec=ring, mew=1.8, zorder=4, label=arm.label)
    svg.legend(ax.figure)


def _range(points: Sequence[float], ends: Sequence[float], margin: float) -> tuple[float, float]:
    """Room for all points, and for intervals as far as they do not flatten the picture."""
    low, high = min(points), max(points)
    room = max(high - low, 3 * margin)
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    pad = 0.08 * (high - low) or margin or 0.01
    return low - pad, high + pad


def _limits(ax: Any, arms: list[Arm], report: Report) -> None:
    """The axis of scores, with room for the margin; not far outside the metric's range."""
    metric, scores = report.metric, [arm.scores[report.metric.name] for arm in arms]
    points, reference = [score.point for score in scores], report.reference and report.reference.scores.get(metric.name)
    if reference:
        points.append(reference.point - metric.sign * report.margin)
    ends = [end for score in scores for end in (score.low, score.high) if math.isfinite(end)]
    low, high = _range(points, ends, report.margin)
    pad = 0.04 * (high - low)
    ax.set_ylim(metric.factor * max(low, metric.low - pad), metric.factor * min(high, metric.high + pad))


def _rows(ax: Any, arms: list[Arm]) -> None:
    """An arm per row, from the top down."""
    ax.set_yticks(range(len(arms)), [arm.label for arm in arms])
    ax.set_ylim(len(arms) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)


def _line_across(ax: Any, arm: Arm, report: Report, paint: str) -> None:
    """A score that is of no rank; the reference's with its interval as a band and the margin beside it."""
    metric, factor, score = report.metric, report.metric.factor, arm.scores[report.metric.name]
    (bottom, top), y = ax.get_ylim(), factor * score.point
    beyond = " ↓" if y < bottom else " ↑" if y > top else ""
    label, is_reference = f"{arm.label} {metric.score(score.point)}{beyond}", arm is report.reference
    paint, width, stroke = (FULL, 1.4, "-") if is_reference else (paint, 1.2, "--")
    ax.axhline(y, color=paint, lw=width, ls=stroke, zorder=2, label=label)
    if is_reference:
        if math.isfinite(score.low):
            ax.axhspan(factor * score.low, factor * score.high, color=FULL, alpha=0.14, lw=0, zorder=1)
        limit, side = factor * (score.point - metric.sign * report.margin), "+" if metric.lower_is_better else "−"
        ax.axhline(limit, color=FULL, lw=1.2, ls=":", zorder=2, label=f"{report.short} {side} margin")


def _bars(arms: list[Arm], parts: dict[str, list[float]], marks: list[tuple[float, int]]) -> Figure:
    """Bars of parts one after another; a part too narrow to be seen has no place in the legend."""
    longest = np.sum(list(parts.values()), axis=0).max()
    figure, ((ax,),) = svg.canvas(WIDTH, max(2.0, 0.28 * len(arms) + 0.9))
    start, rows = np.zeros(len(arms)), range(len(arms))
    for (part, widths), paint in zip(parts.items(), COMPONENTS, strict=True):
        if max(widths) > _VISIBLE * longest:
            ax.barh(rows, widths, left=start, color=paint, height=0.66, label=part)
            start = start + np.array(widths)
    if marks:
        ax.plot(*zip(*marks, strict=True), "|", color=svg.INK, ms=15, mew=2, label="predicted peak")
    for y in np.flatnonzero(start == 0):
        ax.text(0, y, f" {NOTHING} not measured", fontsize=8.5, va="center", color=svg.MUTED)
    _rows(ax, arms)
    ax.set_xlim(left=0)
    ax.set(xlabel="peak memory of a training step, MB")
    svg.legend(figure)
    return figure


def _curves(arm: Arm, key: str) -> list[list[tuple[float, float]]]:
    """(step, value) rows of each run that has the key."""
    curves = [run.metrics.get("curve") or [] for run in arm.runs]
    series = [sorted((row["step"], row[key]) for row in rows if row.get(key) is not None) for rows in curves]
    return [rows for rows in series if rows]


def _line(ax: Any, runs: list[list[tuple[float, float]]], look: Look, arm: Arm, factor: float) -> None:
    paint, marker = look
    at: dict[float, list[float]] = defaultdict(list)
    for rows in runs:
        for step, value in rows:
            at[step].append(factor * value)
        if len(runs) > 1:
            ax.plot([s for s, _ in rows], [factor * v for _, v in rows], color=paint, lw=0.6, alpha=0.35)
    steps, width = [s for s in sorted(at) if len(at[s]) == len(runs)], 2.4 if arm.method == "full" else 1.7
    means = [np.mean(at[step]) for step in steps]
    ax.plot(steps, means, color=paint, lw=width, marker=marker, ms=3.5, label=arm.label)


def _direction(metric: Metric) -> str:
    """A sentence for the end of a caption."""
    return f" Lower {metric.name} is better." if metric.lower_is_better else ""


def _points(arms: list[Arm], metric: Metric) -> str:
    """What the points are, and what their intervals cover."""
    scores = [arm.scores[metric.name] for arm in arms]
    n = sorted({score.n for score in scores})
    what = "medians" if any(score.median is not None for score in scores) else "means"
    return f"{what} over {fmt.listed(n)} seed{'' if n == [1] else 's'}, {covered(scores)}"
