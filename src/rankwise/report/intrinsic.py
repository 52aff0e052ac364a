"""The intrinsic dimension of a task: the smallest random subspace that reaches 90 % of full fine-tuning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from rankwise import methods
from rankwise.compare import by_replicate
from rankwise.metrics import NOTHING
from rankwise.report.arms import Arm, dig
from rankwise.report.findings import Findings
from rankwise.report.sections import Section
from rankwise.statistics import seed_weights

SHARE = 0.9  # of full fine-tuning's score (Li et al. 2018, §2)
_REPLICATES = 2000
_NOTES = [
    "d90: the smallest dimension tried whose mean score is 90 % of full fine-tuning's (Li et al. 2018), raw as in the "
    "papers, or of what full fine-tuning has above the best answer that is the same for every item; larger ones may "
    "fall short again. 95 %: bootstrap over seeds alone, widened by t/z."
]


def section(report: Findings) -> Section | None:
    """A row for each method and criterion; None where no random subspace was trained."""
    if not _subspaces(report):
        return None
    header = ["arm", "criterion", f"needs{' %' if report.metric.percent else ''}", "d90", "95 %", "tried", "seeds"]
    rows = [
        [
            row["method"], row["criterion"], report.metric.score(row["target"]), _dim(row["dim"], row),
            NOTHING if math.isnan(row["low"]) else f"{_dim(row['low'], row)} to {_dim(row['high'], row)}",
            ", ".join(f"{dim:,}" for dim in row["tried"]), str(row["seeds"]),
        ]
        for row in d90(report)
    ]  # fmt: skip
    missing = "No answer: d90 asks for full fine-tuning on a shared seed, and a score of which more is better."
    return Section("intrinsic", "Intrinsic dimension", header, rows, _NOTES if rows else [missing])


def d90(report: Findings) -> list[dict[str, Any]]:
    """For ``did`` and ``said``, raw and above chance, {method, criterion, target, dim, low, high, tried, seeds}.

    ``dim`` is ``inf`` where none tried reaches the target. Raw, 90 % of a score of .83 is .75: frozen features may
    reach that. The 95 % interval is a bootstrap over the seeds that all arms share; with one seed nan. Empty without
    such an arm, without full fine-tuning or a shared seed, and for a metric of which less is better.
    """
    found = []
    for method in sorted({arm.method for arm in _subspaces(report)}):
        arms = [arm for arm in _subspaces(report) if arm.method == method]
        if arms and report.reference and not report.metric.lower_is_better:
            for criterion, chance in (("raw", 0.0), ("above chance", report.constant)):
                if chance is not None:
                    found += _smallest(report, [report.reference, *arms], criterion, chance)
    return found


def _subspaces(report: Findings) -> list[Arm]:
    found = [arm for arm in report.arms if methods.of(arm.method).trains == "subspace" and arm.comparable and arm.runs]
    return sorted(found, key=lambda arm: int(arm.settings["dim"]))


def _smallest(report: Findings, arms: list[Arm], criterion: str, chance: float) -> list[dict[str, Any]]:
    path = f"metrics.test.{report.metric.name}.value"
    pairs = by_replicate([arm.runs for arm in arms])
    if not pairs:
        return []
    above_as = np.array([[float(dig(run, path)) - chance for run in runs] for runs in pairs.values()]).T
    tried, n = np.array([float(arm.settings["dim"]) for arm in arms[1:]]), len(pairs)
    low = high = math.nan
    if n > 1:
        factor = float(stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975))
        weights_bs = 1 / n + factor * (seed_weights(n, _REPLICATES, 0) - 1 / n)
        low, high = np.quantile(_first(above_as @ weights_bs.T, tried), [0.025, 0.975], method="nearest").tolist()
    return [{
        "method": arms[1].method, "criterion": criterion, "target": chance + SHARE * float(above_as[0].mean()),
        "dim": float(_first(above_as.mean(1)[:, None], tried)[0]), "low": low, "high": high,
        "tried": tuple(map(int, tried)), "seeds": n,
    }]  # fmt: skip


def _first(above_ab: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Of each column (full fine-tuning first, then one row for each dimension), the first dimension that is enough."""
    enough = above_ab[1:] >= SHARE * above_ab[:1]
    found: np.ndarray = np.where(enough.any(0), tried[enough.argmax(0)], math.inf)
    return found


def _dim(dim: float, row: dict[str, Any]) -> str:
    return f"> {row['tried'][-1]:,}" if math.isinf(dim) else f"{dim:,.0f}"
