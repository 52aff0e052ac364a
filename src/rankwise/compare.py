"""Two runs or more on the same test items: differences of a metric, paired by seed and by item.

A *replicate* is a pair (seed, data_seed); runs of several arms are paired by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rankwise.metrics import Metric
from rankwise.statistics import Bootstrap, Floats, item_weights, paired
from rankwise.tracking.predictions import Predictions, Unreadable, read
from rankwise.tracking.record import Record

Replicate = tuple[int, int]
Arm = Sequence[Record]

REPLICATES = 5_000  # bootstrap samples of the items; fewer where there are very many items
_DRAWS = 200_000_000
_AGREES = 1e-3  # between the metric of the stored predictions and the record's, the larger of absolute and relative


class NotComparable(Exception):
    """Why runs cannot be compared, in words that follow "no comparison: "."""


def replicate(record: Record) -> Replicate:
    return int(record.config.get("seed", 0)), int(record.config.get("data_seed", 0))


def by_replicate(arms: Sequence[Arm]) -> dict[Replicate, list[Record]]:
    """A run of each arm, in their order, for every replicate that all arms have."""
    runs = [{replicate(run): run for run in arm} for arm in arms]
    shared = sorted(set.intersection(*(set(each) for each in runs)))
    return {rep: [each[rep] for each in runs] for rep in shared}


@dataclass(frozen=True)
class _Scored:
    """A run's metric on all test items and on each resample of them; runs of one ``test`` share items and resamples."""

    point: float
    resampled_b: Floats
    test: int
    items: int


class Scores:
    """The metric of runs on their test items and on resamples of them. Runs are read once, all together."""

    def __init__(self, runs: Iterable[Record], metric: Metric, seed: int = 0) -> None:
        self._found: dict[int, _Scored | str] = {}
        tests: list[tuple[Predictions, dict[int, Predictions]]] = []
        for run in {id(run): run for run in runs}.values():
            try:
                mine = predictions_of(run, metric)
            except Unreadable as why:
                self._found[id(run)] = str(why)
                continue
            members = next((members for first, members in tests if _aligned(mine, first, metric)), None)
            if members is None:
                tests.append((mine, members := {}))
            members[id(run)] = mine
        for number, (_, members) in enumerate(tests):
            points_r, resampled_br = resample(list(members.values()), metric, seed + number)
            for column, key in enumerate(members):
                size = len(members[key].items)
                self._found[key] = _Scored(float(points_r[column]), resampled_br[:, column], number, size)

    def contrast(self, terms: Sequence[tuple[float, Arm]]) -> Bootstrap:
        """Σ weight · score over arms, on the replicates that all of them have. The weights sum to zero.

        Raises NotComparable without a shared replicate, and where predictions are missing or of different items.
        """
        pairs = by_replicate([arm for _, arm in terms])
        if not pairs:
            raise NotComparable("the arms share no seed")
        weights_a = np.array([weight for weight, _ in terms])
        points, resampled, items = [], [], 0
        for runs in pairs.values():
            scored = [self._of(run) for run in runs]
            if len({one.test for one in scored}) > 1:
                raise NotComparable(f"the test items of {runs[0].run.get('name')} are not those of the other arm")
            points.append(np.array([one.point for one in scored]) @ weights_a)
            resampled.append(np.stack([one.resampled_b for one in scored], axis=1) @ weights_a)
            items = scored[0].items
        length = min(map(len, resampled))
        means_bs = np.stack([values[:length] for values in resampled], axis=1)
        if not np.isfinite(means_bs).all():
            raise NotComparable("the metric is undefined on some resamples (constant predictions)")
        return paired(np.array(points), means_bs, list(pairs), items)

    def _of(self, run: Record) -> _Scored:
        found = self._found[id(run)]
        if isinstance(found, str):
            raise NotComparable(found)
        return found


def compare(a: Arm, b: Arm, metric: Metric) -> Bootstrap:
    """``a`` − ``b``. Raises NotComparable as ``Scores.contrast``."""
    return Scores([*a, *b], metric).contrast([(1.0, a), (-1.0, b)])


def on_rows(metric: Metric, one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """``other`` − ``one`` of two models' columns on the same rows: {value, se}, over rows."""
    rows = np.arange(len(one["label"]))
    points_r, resampled_br = resample([Predictions(rows, one), Predictions(rows, other)], metric)
    # A constant correlates with nothing, as in the scores of a task.
    (point,), gaps_b = np.diff(np.nan_to_num(points_r)), np.diff(np.nan_to_num(resampled_br))[:, 0]
    return {"value": float(point), "se": float(gaps_b.std(ddof=1))}


def resample(runs: Sequence[Predictions], metric: Metric, seed: int = 0) -> tuple[Floats, Floats]:
    """The metric of runs of the same items, on all of them (R,) and on resamples of them or their clusters (B, R)."""
    of_same, of_run = metric.columns
    labels_n = np.asarray(runs[0].columns[of_same], dtype=float)
    values_rn = np.stack([np.asarray(run.columns[of_run], dtype=float) for run in runs])
    n = len(labels_n)
    weights = item_weights(n, min(REPLICATES, max(1_000, _DRAWS // n)), seed, runs[0].columns.get("cluster"))
    resampled_br = np.concatenate([metric.resampled(labels_n, values_rn, weights_bn) for weights_bn in weights])
    return metric.resampled(labels_n, values_rn, np.ones((1, n)))[0], resampled_br


def predictions_of(record: Record, metric: Metric) -> Predictions:
    """The run's predictions. Raises Unreadable, also where they do not give the score of the record."""
    name = str(record.run.get("name"))
    if record.folder is None:
        raise Unreadable("it was read from W&B, which has no predictions")
    found = read(record.folder, name, metric.columns)
    here = metric.value(*(np.asarray(found.columns[column], dtype=float) for column in metric.columns))
    recorded = (record.metrics.get("test", {}).get(metric.name) or {}).get("value")
    if recorded is None or not (math.isclose(here, recorded, rel_tol=_AGREES, abs_tol=_AGREES) or math.isnan(here)):
        shown = "none" if recorded is None else f"{recorded:.4f}"
        raise Unreadable(f"predictions of {name} give {metric.name} {here:.4f}, its record says {shown}")
    return found


def _aligned(one: Predictions, other: Predictions, metric: Metric) -> bool:
    """Whether both are of the same test items with the same labels."""
    same = metric.columns[0]
    return np.array_equal(one.items, other.items) and np.array_equal(one.columns[same], other.columns[same])
