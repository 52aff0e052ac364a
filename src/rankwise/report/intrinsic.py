"""The intrinsic dimension of a task: the smallest random subspace that reaches 90 % of full fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rankwise.compare import Replicate, predictions_of, replicate
from rankwise.config import SUBSPACE
from rankwise.errors import Refused
from rankwise.metrics import NOTHING, named
from rankwise.report.arms import Arm, dig
from rankwise.report.findings import Findings
from rankwise.report.sections import Section
from rankwise.statistics import Floats, seed_weights
from rankwise.tracking.predictions import Unreadable

SHARE = 0.9  # of full fine-tuning's score (Li et al. 2018, §2)
_REPLICATES = 2000
_TITLE = "Intrinsic dimension"
_NOTES = [
    "d90: the smallest dimension tried whose mean score is 90 % of full fine-tuning's (Li et al. 2018), raw as in the "
    "papers, or of what full fine-tuning has above the share of the most frequent class; larger ones may fall short "
    "again. 95 %: bootstrap over seeds alone, widened by t/z."
]


@dataclass(frozen=True)
class Dimension:
    """The smallest of the dimensions tried whose mean score reaches the target; ``inf`` where none does.

    ``criterion`` is raw, as in the papers, or above chance: 90 % of what full fine-tuning has above the share of the
    most frequent class. Raw, 90 % of a score of .83 is .75, which frozen features may reach. The 95 % interval is a
    bootstrap over seeds; with one seed it is nan.
    """

    method: str  # did | said
    criterion: str
    target: float
    dim: float
    low: float
    high: float
    tried: tuple[int, ...]
    seeds: int


def section(report: Findings) -> Section | None:
    """A row for each method and criterion; None where no random subspace was trained."""
    if not _subspaces(report.arms):
        return None
    header = ["arm", "criterion", f"needs{' %' if report.metric.percent else ''}", "d90", "95 %", "tried", "seeds"]
    try:
        found = d90(report.arms, report.reference)
    except Refused as reason:
        return Section("intrinsic", _TITLE, header, [], [str(reason)])
    rows = [
        [
            each.method, each.criterion, report.metric.score(each.target), _dim(each.dim, each),
            NOTHING if math.isnan(each.low) else f"{_dim(each.low, each)} to {_dim(each.high, each)}",
            ", ".join(f"{dim:,}" for dim in each.tried), str(each.seeds),
        ]
        for each in found
    ]  # fmt: skip
    assert report.reference is not None, "d90 would have refused"
    chance = _chance(report.reference, report.metric.name)
    return Section("intrinsic", _TITLE, header, rows, [*_NOTES, chance] if isinstance(chance, str) else _NOTES)


def d90(arms: Sequence[Arm], full: Arm | None, share: float = SHARE) -> list[Dimension]:
    """Raw and above chance, for each of ``did`` and ``said`` among ``arms``, against full fine-tuning.

    None without either method. Seeds that not all arms of a method and full fine-tuning have are left out.
    Raises Refused without full fine-tuning, without a shared seed, and for a metric of which less is better; where
    chance is not known, the answer is raw alone.
    """
    if not _subspaces(arms):
        return []
    if full is None:
        raise Refused("d90: no finished run of method=full to reach 90 % of")
    metric = str(full.first("config.task.metric"))
    if named(metric).lower_is_better:
        raise Refused.value("task.metric", metric, "a score of which more is better, for d90")
    chance = _chance(full, metric)
    found = []
    for method in sorted(SUBSPACE):
        own = [arm for arm in _subspaces(arms) if arm.method == method]
        if own:
            found.append(_smallest(method, "raw", own, full, metric, 0.0, share))
            if not isinstance(chance, str):
                found.append(_smallest(method, "above chance", own, full, metric, chance, share))
    return found


def _subspaces(arms: Sequence[Arm]) -> list[Arm]:
    found = [arm for arm in arms if arm.method in SUBSPACE and arm.comparable and arm.runs]
    return sorted(found, key=lambda arm: int(arm.settings["dim"]))


def _smallest(
    method: str, criterion: str, arms: list[Arm], full: Arm, metric: str, chance: float, share: float
) -> Dimension:
    scores = [_scores(arm, metric) for arm in (full, *arms)]
    seeds = sorted(set.intersection(*map(set, scores)))
    if not seeds:
        raise Refused(f"d90: full fine-tuning and the arms of method={method} share no seed")
    above_as = np.array([[each[seed] - chance for seed in seeds] for each in scores])  # (arms, seeds)
    tried = np.array([float(arm.settings["dim"]) for arm in arms])
    dim = float(_first(above_as.mean(1)[:, None], tried, share)[0])
    low = high = math.nan
    if len(seeds) > 1:
        drawn = _first(above_as @ _weights(len(seeds)).T, tried, share)
        low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975], method="nearest"))
    target = chance + share * float(above_as[0].mean())
    return Dimension(method, criterion, target, dim, low, high, tuple(map(int, tried)), len(seeds))


def _weights(seeds: int) -> Floats:
    """Of a bootstrap over few seeds, deviations stretched by t/z as in every other interval."""
    factor = float(stats.t.ppf(0.975, seeds - 1) / stats.norm.ppf(0.975))
    return 1 / seeds + factor * (seed_weights(seeds, _REPLICATES, 0) - 1 / seeds)


def _dim(dim: float, found: Dimension) -> str:
    return f"> {found.tried[-1]:,}" if math.isinf(dim) else f"{dim:,.0f}"


def _first(above_ab: np.ndarray, tried: np.ndarray, share: float) -> np.ndarray:
    """Of each column (full fine-tuning first, then one row for each dimension), the first dimension that is enough."""
    enough = above_ab[1:] >= share * above_ab[:1]
    found: np.ndarray = np.where(enough.any(0), tried[enough.argmax(0)], math.inf)
    return found


def _scores(arm: Arm, metric: str) -> dict[Replicate, float]:
    return {replicate(run): float(dig(run, f"metrics.test.{metric}.value")) for run in arm.runs}


def _chance(full: Arm, metric: str) -> float | str:
    """What needs no model, the share of the most frequent class or no correlation; or why it is unknown."""
    if metric in ("matthews", "pearson", "spearman"):
        return 0.0
    if metric != "accuracy":
        return f"Nothing is known of what {metric} is by chance."
    try:
        labels = predictions_of(full.runs[0], named(metric)).columns["label"]
    except Unreadable as why:
        return f"The share of the most frequent class is unknown: {why}."
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
