"""Tuning as it was: what the best of n learning rates is expected to reach on validation data (Dodge et al. 2019)."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from rankwise.errors import plural
from rankwise.metrics import Metric, named
from rankwise.report.arms import Arm, group
from rankwise.report.columns import Section
from rankwise.report.formats import out_of, rate
from rankwise.report.naming import kind
from rankwise.tracking.record import Record

if TYPE_CHECKING:
    from rankwise.report.report import Report

_STEPS = ("trainer.max_steps", "trainer.epochs")


def section(report: Report) -> Section | None:
    """A row for each arm that there is a learning rate of, and each number of steps of the runs that tuned it; None
    where none had several to choose from.
    """
    tuned, named_sides = _tuned(report.arms), sides(report.arms)
    if not any(one.tried > 1 for one in tuned):
        return None
    most = max(len(part.whole) for _, part in named_sides)
    budgets = sorted({k for k in (1, 2, 3, 4, 6, 8, 12, most) if k <= most})
    metric = objective(tuned)
    rows = []
    for side, part in named_sides:
        curve = [
            expected_best([*part.whole.values()], k, metric.lower_is_better) for k in budgets if k <= len(part.whole)
        ]
        cells = [metric.score(value) for value in curve]
        rows.append([side, str(len(part.whole)), rate(part.lr), *cells, *[""] * (len(budgets) - len(cells))])
    header = ["side", "rates tried", "best", *(f"val. {metric.name}, best of {k}" for k in budgets)]
    same = len({one.tried for one in tuned}) == 1
    parity = "All sides had the same number to choose from." if same else "Sides had different numbers to choose from."
    note = "Expected validation score of the best of k learning rates drawn from those tried (Dodge et al. 2019)."
    lost = any(not math.isfinite(value) for _, part in named_sides for value in part.whole.values())
    note += " One that diverged or failed counts as the worst of the others." * lost
    return Section("tuning", "Tuning as it was", header, rows, [f"{note} {parity}"])


def sides(arms: list[Arm]) -> list[tuple[str, Arm]]:
    """What chose the learning rates of arms, a stage for each number of steps, with a name that tells them apart."""
    rounds = [part for one in _tuned(arms) for part in one.rounds]
    several = len({length(part) for part in rounds}) > 1
    return [(part.label + (f", {length(part)}" if several else ""), part) for part in rounds]


def objective(arms: list[Arm]) -> Metric:
    """By what they were chosen."""
    return named(str(arms[0].first("config.objective") or "val/loss"))


def expected_best(values: list[float], k: int, lower_is_better: bool = False) -> float:
    """The mean of the best of ``k`` draws, with replacement, of ``values`` (Dodge et al. 2019, §3.2, equation 2).

    One that is not finite (its run diverged or failed) counts as the worst of the others.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    worst, n = (max if lower_is_better else min)(finite), len(values)
    ordered = sorted([*finite, *[worst] * (n - len(finite))], reverse=lower_is_better)
    return sum(value * (((i + 1) / n) ** k - (i / n) ** k) for i, value in enumerate(ordered))


def rates(arms: list[Arm]) -> list[str]:
    """How the learning rates came about: chosen on other seeds, on these, or not at all."""
    ours, tuned = _ours(arms), _tuned(arms)
    if not ours:
        return []
    sizes = {one.tried for one in tuned}
    if max(sizes) == 1:
        by_rate: dict[str, list[str]] = {}
        for arm in ours:
            by_rate.setdefault(rate(arm.lr), []).append(kind(arm))
        shown = ", ".join(f"{lr} ({', '.join(dict.fromkeys(methods))})" for lr, methods in by_rate.items())
        return [f"One learning rate per arm, {shown}: not tuned in this study, so another rate may change the order."]
    every = {lr for one in tuned if one.tried > 1 for part in one.rounds for lr in part.whole}
    of = f"{max(sizes)} each" if len(sizes) == 1 else "different numbers"
    sides = ", ".join(f"{out_of(one.tried, one.beyond)} for {one.rounds[0].label}" for one in tuned)
    of += f" ({sides}; {rate(min(every))} to {rate(max(every))})"
    chosen = ", ".join(f"{arm.label} {rate(arm.lr)}" for arm in ours)
    picked = [arm.label for arm in ours if arm.picked]
    of_these = "" if len(picked) == sum(arm.tried > 1 for arm in ours) else f" for {', '.join(picked)}"
    seeds = f"the reported seeds{of_these}, so that their scores are somewhat too high" if picked else "other seeds"
    remedy = "; experiment=tuned_ranks judges the chosen rates on fresh seeds" if picked else ""
    return [f"Learning rates are the best on validation data out of {of}, on {seeds}: {chosen}{remedy}."]


def note_trials(arms: list[Arm], records: list[Record]) -> None:
    """Fill ``arm.tuned`` and ``arm.searched`` of arms that are no trials themselves."""
    trials = [run for run in records if run.config.get("stage") == "tune"]
    tuned = [arm for arm in group(trials) if arm.runs] if trials and len(trials) < len(records) else []
    for arm in arms:
        sides = _sides(arm, tuned)
        arm.tuned = max(
            sides, key=lambda side: (_steps(side[-1]), side[0].key == arm.key, len(side[0].whole)), default=[]
        )
        arm.searched = max((len(side[0].whole) for side in sides), default=0)


def _sides(arm: Arm, tuned: list[Arm]) -> list[list[Arm]]:
    """What may have tuned an arm, by settings: of its family, or else its method. An arm takes the runs of its own
    settings, where these were trained as long as any; else those at the rank where most rates were tried.

    Of several contexts those that are most like the arm's, whatever their steps.
    """
    same = [other for other in tuned if other.family == arm.family]
    same = same or [other for other in tuned if other.method == arm.method]
    here = _apart_from_steps(arm)
    nearest = min((len(_apart_from_steps(other) ^ here) for other in same), default=0)
    by_key: dict[str, dict[float, Arm]] = defaultdict(dict)
    for other in sorted(same, key=_steps):
        if len(_apart_from_steps(other) ^ here) == nearest:
            by_key[other.key][_steps(other)] = other
    return [list(rounds.values()) for rounds in by_key.values()]


def _apart_from_steps(arm: Arm) -> set[tuple[str, str]]:
    return {(key, value) for key, value in arm.context if key not in _STEPS}


def _steps(arm: Arm) -> float:
    """Optimizer steps, or epochs where the config has no steps."""
    return float(next((steps for key in _STEPS if (steps := arm.first(f"config.{key}"))), 0))


def length(arm: Arm) -> str:
    """``3 epochs`` or ``1,000 steps``, as the config has them."""
    return plural(_steps(arm), "step" if arm.first("config.trainer.max_steps") else "epoch")


def _tuned(arms: list[Arm]) -> list[Arm]:
    """The arms whose rates there are to tell of, one for each that tuned: a method may be tuned at one rank for all."""
    return list({id(arm.rounds[0]): arm for arm in _ours(arms)}.values())


def _ours(arms: list[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.comparable and arm.lr is not None]
