"""Tuning as it was: what the best of n learning rates is expected to reach on validation data (Dodge et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING

from rankwise.metrics import named
from rankwise.report.columns import Section
from rankwise.report.formats import rate
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record

if TYPE_CHECKING:
    from rankwise.report.report import Report


def section(report: Report) -> Section | None:
    """A row for each side that had several learning rates to choose from; None where none had."""
    tried = _tried(report)
    if not tried:
        return None
    most = max(map(len, tried.values()))
    budgets = sorted({k for k in (1, 2, 3, 4, 6, 8, 12, most) if k <= most})
    metric = named(next(iter(_objectives(report.all_records)), "val/loss").removeprefix("val/"))
    rows = []
    for side, values in tried.items():
        best = (min if metric.lower_is_better else max)(values, key=lambda lr: values[lr])
        curve = [expected_best(list(values.values()), k, metric.lower_is_better) for k in budgets if k <= len(values)]
        cells = [metric.score(value) for value in curve]
        rows.append([side, str(len(values)), rate(best), *cells, *[""] * (len(budgets) - len(cells))])
    header = ["side", "rates tried", "best", *(f"val. {metric.name}, best of {k}" for k in budgets)]
    same = len({len(values) for values in tried.values()}) == 1
    parity = "All sides had the same number to choose from." if same else "Sides had different numbers to choose from."
    note = "Expected validation score of the best of k learning rates drawn from those tried (Dodge et al. 2019)."
    return Section("tuning", "Tuning as it was", header, rows, [f"{note} {parity}"])


def expected_best(values: list[float], k: int, lower_is_better: bool = False) -> float:
    """The mean of the best of ``k`` draws, with replacement, of ``values`` (Dodge et al. 2019, §3.2, equation 2)."""
    ordered, n = sorted(values, reverse=lower_is_better), len(values)
    return sum(value * (((i + 1) / n) ** k - (i / n) ** k) for i, value in enumerate(ordered))


def _tried(report: Report) -> dict[str, dict[float, float]]:
    """Mean validation objective of each learning rate, by side: of runs that tuned, else of the arms' own."""
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in report.all_records:
        lr, is_trial = at(run, "config.optim.lr"), run.config.get("stage") == "tune"
        if is_trial and run.status == FINISHED and run.objective is not None and lr is not None:
            scores[_side(run)][lr].append(run.objective)
    tried = {side: {lr: mean(values) for lr, values in by_rate.items()} for side, by_rate in scores.items()}
    if not tried:
        arms = [arm for arm in report.arms if arm.comparable]
        tried = {arm.label: {trial.lr: trial.validation for trial in arm.trials} for arm in arms}
    return {side: values for side, values in tried.items() if len(values) > 1}


def _side(run: Record) -> str:
    rank = at(run, "config.method.rank")
    return f"{at(run, 'config.method.name')}{f' r={rank}' if rank else ''}"


def _objectives(records: list[Record]) -> list[str]:
    return [str(objective) for run in records if (objective := run.config.get("objective"))]
