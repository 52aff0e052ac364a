"""Each arm against full fine-tuning: the paired difference on the test set and what may be said of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rankwise.metrics import METRICS, Metric
from rankwise.report.arms import Arm, Replicate, replicate
from rankwise.report.predictions import Predictions, aligned, load
from rankwise.statistics import Bootstrap, Floats, holm, item_weights, paired, verdict
from rankwise.tracking.record import Record

REPLICATES = 2_000
ONE_SEED = "one seed: no conclusion"
MISSING = "no comparison"


@dataclass(frozen=True)
class Comparison:
    """An arm's score minus full fine-tuning's, in the metric's unit; ``advantage`` is that difference as a gain.

    ``verdict``: same | better | worse | inconclusive (90 % interval against the margin), "one seed: no conclusion", or
    "no comparison" with a ``reason``. ``p`` tests "no difference", ``p_holm`` corrects it for the number of arms.
    """

    verdict: str
    margin: float
    estimate: float | None = None
    seeds: int = 0
    items: int = 0
    bootstrap: Bootstrap | None = None
    advantage: Bootstrap | None = None  # positive is better, whichever way the metric goes
    p_holm: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Scored:
    """A run's metric on all test items and on each bootstrap sample of them."""

    point: float
    resampled_b: Floats


def compare(arms: list[Arm], reference: Arm, metric: Metric, margin: float, seed: int = 0) -> dict[int, Comparison]:
    """Comparisons of the comparable, scored arms with the reference, by ``id(arm)``; ``seed`` is the bootstrap's."""
    rivals = [arm for arm in arms if arm is not reference and arm.comparable and arm.runs]
    if metric.weighted is None:
        known = [name for name, other in METRICS.items() if other.weighted]
        reason = f"no paired bootstrap for {metric.name}, only for {', '.join(known)}"
        return {id(arm): Comparison(MISSING, margin, reason=reason) for arm in rivals}
    partners = set(reference.replicates())
    runs = [run for arm in [reference, *rivals] for run in arm.runs if replicate(run) in partners]
    scored, items = _score(runs, metric, seed)
    lower = metric.lower_is_better
    found = {id(arm): _compare(arm, reference, scored, items, margin, lower, seed) for arm in rivals}
    tested = {key: c for key, c in found.items() if c.bootstrap is not None}
    corrected = holm([c.bootstrap.p for c in tested.values() if c.bootstrap])
    return found | {
        key: dataclasses.replace(c, p_holm=p) for (key, c), p in zip(tested.items(), corrected, strict=True)
    }


def _compare(
    arm: Arm, reference: Arm, scored: dict[int, _Scored | str], items: int, margin: float, lower: bool, seed: int
) -> Comparison:
    pairs = _pairs(arm, reference)
    if not pairs:
        return Comparison(MISSING, margin, reason="it shares no seed with full fine-tuning")
    points, resampled = [], []
    for mine, theirs in pairs.values():
        one, other = scored[id(mine)], scored[id(theirs)]
        if isinstance(one, str) or isinstance(other, str):
            return Comparison(MISSING, margin, reason=str(one if isinstance(one, str) else other))
        points.append(one.point - other.point)
        resampled.append(one.resampled_b - other.resampled_b)
    if len(pairs) == 1:
        return Comparison(ONE_SEED, margin, points[0], 1, items)
    boot = paired(np.array(points), np.stack(resampled, axis=1), seed)
    if not np.isfinite(boot.replicates).all():
        return Comparison(MISSING, margin, reason="the metric is undefined on some resamples (constant predictions)")
    gain = boot.mirrored() if lower else boot
    return Comparison(verdict(gain.low, gain.high, margin), margin, boot.estimate, len(pairs), items, boot, gain)


def _pairs(arm: Arm, reference: Arm) -> dict[Replicate, tuple[Record, Record]]:
    theirs = {replicate(run): run for run in reference.runs}
    return {rep: (run, theirs[rep]) for run in arm.runs if (rep := replicate(run)) in theirs}


def _score(runs: list[Record], metric: Metric, seed: int) -> tuple[dict[int, _Scored | str], int]:
    """Every run on the same resamples of the same items, or why not; and the number of items."""
    loaded = {id(run): load(run, metric) for run in runs}
    first = next((p for p in loaded.values() if isinstance(p, Predictions)), None)
    if first is None:
        return {key: str(value) for key, value in loaded.items()}, 0
    names = {id(run): run.run.get("name") for run in runs}
    good: dict[int, Predictions] = {}
    scored: dict[int, _Scored | str] = {}
    for key, value in loaded.items():
        if isinstance(value, str):
            scored[key] = value
        elif not aligned(value, first):
            scored[key] = f"the test items of {names[key]} are not those of full fine-tuning"
        else:
            good[key] = value
    values_rn = np.stack([p.values for p in good.values()])
    n = len(first.items)
    points_r = metric.resampled(first.labels, values_rn, np.ones((1, n)))[0]
    chunks = [metric.resampled(first.labels, values_rn, weights) for weights in item_weights(n, REPLICATES, seed)]
    resampled_br = np.concatenate(chunks)
    for column, key in enumerate(good):
        scored[key] = _Scored(float(points_r[column]), resampled_br[:, column])
    return scored, n
