"""The intrinsic dimension of a task: the smallest random subspace that reaches 90 % of full fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankwise.config import SUBSPACE
from rankwise.errors import Refused
from rankwise.report import predictions
from rankwise.report.arms import Arm, Replicate, dig, group, reference_of, replicate
from rankwise.report.statistics import seed_weights
from rankwise.tracking.record import FINISHED, Record

SHARE = 0.9  # of full fine-tuning's score (Li et al. 2018, §2)
_REPLICATES = 2000


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


def d90(records: Sequence[Record], share: float = SHARE) -> list[Dimension]:
    """Raw and above chance, for each of ``did`` and ``said`` that the records have; each arm at its best learning rate.

    Seeds that not all arms of a method and full fine-tuning have are left out.
    Raises Refused without full fine-tuning, without a subspace, without a shared seed, and for a metric that has no
    level of chance.
    """
    kept = [record for record in records if record.status == FINISHED and not record.config.get("purpose")]
    arms = group(kept)
    full = reference_of(arms)
    if full is None:
        raise Refused("d90: no finished run of method=full to reach 90 % of")
    metric = str(full.first("config.task.metric"))
    chance = _chance(full, metric)
    found = []
    for method in sorted(SUBSPACE):
        own = sorted(
            (a for a in arms if a.method == method and a.comparable and a.runs), key=lambda a: a.settings["dim"]
        )
        if own:
            for criterion, level in (("raw", 0.0), ("above chance", chance)):
                found.append(_smallest(method, criterion, own, full, metric, level, share))
    if not found:
        raise Refused("d90: no finished run of method=did or said beside full fine-tuning")
    return found


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
        drawn = _first(above_as @ seed_weights(len(seeds), _REPLICATES, 0).T, tried, share)
        low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975], method="nearest"))
    target = chance + share * float(above_as[0].mean())
    return Dimension(method, criterion, target, dim, low, high, tuple(map(int, tried)), len(seeds))


def _first(above_ab: np.ndarray, tried: np.ndarray, share: float) -> np.ndarray:
    """Of each column (full fine-tuning first, then one row for each dimension), the first dimension that is enough."""
    enough = above_ab[1:] >= share * above_ab[:1]
    found: np.ndarray = np.where(enough.any(0), tried[enough.argmax(0)], math.inf)
    return found


def _scores(arm: Arm, metric: str) -> dict[Replicate, float]:
    return {replicate(run): float(dig(run, f"metrics.test.{metric}.value")) for run in arm.runs}


def _chance(full: Arm, metric: str) -> float:
    """What needs no model: the share of the most frequent class, or no correlation."""
    if metric in ("matthews", "pearson", "spearman"):
        return 0.0
    if metric != "accuracy":
        raise Refused.value("task.metric", metric, "accuracy, matthews, pearson or spearman for d90")
    read = predictions.load(full.runs[0], metric)
    if isinstance(read, str):
        raise Refused(f"d90: the share of the most frequent class is unknown: {read}")
    return float(np.unique(read.labels, return_counts=True)[1].max() / len(read.labels))
