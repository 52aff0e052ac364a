"""Tuning as it was: what the best of n learning rates is expected to reach on validation data (Dodge et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING

from rankwise.metrics import named
from rankwise.report.arms import Arm
from rankwise.report.columns import Section
from rankwise.report.formats import rate
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record

if TYPE_CHECKING:
    from rankwise.report.report import Report


def section(report: Report) -> Section | None:
    """A row for each side that had several learning rates to choose from; None where none had."""
    tried, fresh = rates_tried(report.arms, report.all_records)
    if not tried:
        return None
    most = max(map(len, tried.values()))
    budgets = sorted({k for k in (1, 2, 3, 4, 6, 8, 12, most) if k <= most})
    metric = named(next(filter(None, (run.config.get("objective") for run in report.all_records)), "val/loss"))
    rows = []
    for side, values in tried.items():
        best = (min if metric.lower_is_better else max)(values, key=lambda lr: values[lr])
        curve = [expected_best(list(values.values()), k, metric.lower_is_better) for k in budgets if k <= len(values)]
        cells = [metric.score(value) for value in curve]
        rows.append([side, str(len(values)), rate(best), *cells, *[""] * (len(budgets) - len(cells))])
    header = ["side", "rates tried", "best", *(f"val. {metric.name}, best of {k}" for k in budgets)]
    same = len({*_sizes(report.arms, tried, fresh).values()}) == 1
    parity = "All sides had the same number to choose from." if same else "Sides had different numbers to choose from."
    note = "Expected validation score of the best of k learning rates drawn from those tried (Dodge et al. 2019)."
    return Section("tuning", "Tuning as it was", header, rows, [f"{note} {parity}"])


def expected_best(values: list[float], k: int, lower_is_better: bool = False) -> float:
    """The mean of the best of ``k`` draws, with replacement, of ``values`` (Dodge et al. 2019, §3.2, equation 2)."""
    ordered, n = sorted(values, reverse=lower_is_better), len(values)
    return sum(value * (((i + 1) / n) ** k - (i / n) ** k) for i, value in enumerate(ordered))


def rates(arms: list[Arm], records: list[Record]) -> list[str]:
    """How the learning rates came about: chosen on other seeds, on these, or not at all."""
    ours = _ours(arms)
    if not ours:
        return []
    tried, fresh = rates_tried(arms, records)
    if not tried:
        by_rate: dict[str, list[str]] = {}
        for arm in ours:
            by_rate.setdefault(rate(arm.lr), []).append(arm.method)
        shown = ", ".join(f"{lr} ({', '.join(dict.fromkeys(methods))})" for lr, methods in by_rate.items())
        return [f"One learning rate per arm, {shown}: not tuned in this study, so another rate may change the order."]
    every = {lr for by_rate in tried.values() for lr in by_rate}
    sizes = _sizes(arms, tried, fresh)
    of = f"{max(sizes.values())} each" if len({*sizes.values()}) == 1 else "different numbers"
    of += f" ({', '.join(f'{n} for {side}' for side, n in sizes.items())}; {rate(min(every))} to {rate(max(every))})"
    chosen = ", ".join(f"{arm.label} {rate(arm.lr)}" for arm in ours)
    seeds = "other seeds" if fresh else "the reported seeds, so that their scores are somewhat too high"
    remedy = "" if fresh else "; experiment=tuned_ranks judges the chosen rates on fresh seeds"
    return [f"Learning rates are the best on validation data out of {of}, on {seeds}: {chosen}{remedy}."]


def note_trials(arms: list[Arm], records: list[Record]) -> None:
    """Fill ``arm.elsewhere`` of arms whose method was tuned on other seeds, where full fine-tuning was not."""
    tried, fresh = rates_tried(arms, records)
    if fresh and "full" not in tried:
        for arm in arms:
            arm.elsewhere = max((len(by) for side, by in tried.items() if side.split()[0] == arm.method), default=0)


def _sizes(arms: list[Arm], tried: dict[str, dict[float, float]], fresh: bool) -> dict[str, int]:
    """How many rates each side had; on other seeds a method is tuned at one rank, perhaps, for all."""
    tuned = {side.split()[0] for side in tried}
    alone = [arm.label for arm in _ours(arms) if (arm.method not in tuned if fresh else arm.label not in tried)]
    return {side: len(by_rate) for side, by_rate in tried.items()} | dict.fromkeys(alone, 1)


def _ours(arms: list[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.comparable and arm.lr is not None]


def rates_tried(arms: list[Arm], records: list[Record]) -> tuple[dict[str, dict[float, float]], bool]:
    """Mean validation objective of each learning rate, by side, where it had several: of runs that tuned, on seeds of
    their own (true), else of the arms' own (false)."""
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in records:
        lr, is_trial = at(run, "config.optim.lr"), run.config.get("stage") == "tune"
        if is_trial and run.status == FINISHED and run.objective is not None and lr is not None:
            scores[_side(run)][lr].append(run.objective)
    if scores:
        tried = {side: {lr: mean(values) for lr, values in by_rate.items()} for side, by_rate in scores.items()}
    else:
        tried = {arm.label: {trial.lr: trial.validation for trial in arm.trials} for arm in arms if arm.comparable}
    return {side: by_rate for side, by_rate in tried.items() if len(by_rate) > 1}, bool(scores)


def _side(run: Record) -> str:
    rank = at(run, "config.method.rank")
    return f"{at(run, 'config.method.name')}{f' r={rank}' if rank else ''}"
