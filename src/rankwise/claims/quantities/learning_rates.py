"""Quantities of a grid of learning rates: where the best one lies, and how far scores spread at each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankwise.claims.estimate import Estimate, NotRun
from rankwise.claims.quantities.trained import scalar
from rankwise.claims.selection import Spec, arm_of, by_replicate, names, runs_of, told, words
from rankwise.config import lower_is_better
from rankwise.report.arms import Replicate, dig, whole_rates
from rankwise.report.statistics import Floats, seed_weights, widened
from rankwise.tracking.record import Record

REPLICATES = 2_000
Grid = dict[Replicate, dict[float, Record]]


def best_lr_ratio(records: Sequence[Record], of: Spec, to: Spec) -> Estimate:
    """The best learning rate of one arm over that of another.

    The best is the vertex of the parabola in log learning rate through the best of the grid and its neighbours, by the
    mean validation objective over seeds. Interval: bootstrap over the seeds that both arms have, widened by t/z.
    Raises NotRun where the best is an end of the grid: it may lie anywhere beyond.
    """
    grids = [_grid(records, spec) for spec in (of, to)]
    seeds = sorted(set(grids[0]) & set(grids[1]))
    if len(seeds) < 2:
        raise NotRun(f"{len(seeds)} seeds with the whole grid in both arms; an interval needs two")
    found, replicates = [], []
    for grid, spec in zip(grids, (of, to), strict=True):
        log_lr, losses_sl = _losses(grid, seeds, spec)
        mean = losses_sl.mean(0)
        if int(np.argmin(mean)) in (0, len(mean) - 1):
            best = 10 ** float(log_lr[int(np.argmin(mean))])
            raise NotRun(f"the best learning rate of {words(spec)}, {best:g}, is the end of its grid")
        found.append(float(_vertex(log_lr, mean[None])[0]))
        replicates.append(_vertex(log_lr, seed_weights(len(seeds), REPLICATES, 0) @ losses_sl))
    ratio, spread = found[0] - found[1], replicates[0] - replicates[1]
    low, high = (10**end for end in widened(ratio, spread, len(seeds) - 1))
    runs = names([run for grid in grids for seed in seeds for run in grid[seed].values()])
    note = f"best learning rates {10 ** found[0]:.2g} and {10 ** found[1]:.2g}"
    return Estimate(10**ratio, low, high, len(seeds), runs, note)


def spread_ratio(
    records: Sequence[Record], metric: str, among: Spec, ranks: list[int], low_lr: float, high_lr: float
) -> Estimate:
    """The spread of a score over ranks (largest minus smallest of the means over seeds) at a low learning rate, over
    the spread at a high one. Interval: bootstrap over seeds, widened by t/z.
    """
    spreads, runs, notes, count = [], list[Record](), list[str](), 0
    for lr in (low_lr, high_lr):
        specs = [among | {"rank": rank, "lr": lr} for rank in ranks]
        arms = [arm_of(records, spec) for spec in specs]
        pairs = by_replicate(arms)
        notes.append(told(arms, specs, metric))
        scores_sr = np.array([[scalar(run, metric) for run in each] for each in pairs.values()])
        count = len(pairs)
        every = np.vstack([scores_sr.mean(0), seed_weights(count, REPLICATES, 0) @ scores_sr])
        spreads.append(np.ptp(every, axis=1))
        runs += [run for each in pairs.values() for run in each]
    if not spreads[1].min() > 0:
        raise NotRun("all ranks score the same at the high learning rate")
    ratio, *replicates = spreads[0] / spreads[1]
    low, high = widened(float(ratio), np.array(replicates), count - 1)
    return Estimate(float(ratio), max(0.0, low), high, count, names(runs), "; ".join(filter(None, notes)))


def _grid(records: Sequence[Record], spec: Spec) -> Grid:
    """Runs by replicate and learning rate, of replicates that have every whole rate."""
    found: Grid = {}
    rates = whole_rates(runs_of(records, spec))
    for lr, runs in rates.items():
        for seed, run in runs.items():
            found.setdefault(seed, {})[lr] = run
    if len(rates) < 3:
        raise NotRun(f"{len(rates)} learning rates of {words(spec)}; a parabola needs three")
    return {seed: runs for seed, runs in found.items() if len(runs) == len(rates)}


def _losses(grid: Grid, seeds: Sequence[Replicate], spec: Spec) -> tuple[Floats, Floats]:
    """Log10 of the learning rates (L,), and what is to be made small at each, (seeds, L)."""
    rates = sorted(grid[seeds[0]])
    first = grid[seeds[0]][rates[0]]
    sign = 1.0 if lower_is_better(str(dig(first, "config.objective"))) else -1.0
    values = [[grid[seed][lr].objective for lr in rates] for seed in seeds]
    kept = [i for i in range(len(rates)) if all(row[i] is not None for row in values)]  # others diverged
    if len(kept) < 3:
        raise NotRun(f"{words(spec)} diverged at all but {len(kept)} learning rates")
    losses = [[sign * float(row[i] or 0.0) for i in kept] for row in values]
    return np.log10([rates[i] for i in kept]), np.array(losses)


def _vertex(log_lr: Floats, losses_bl: Floats) -> Floats:
    """Log10 of the best learning rate of each row (B,); the grid's end where that is best."""
    best = losses_bl.argmin(1)
    middle = best.clip(1, len(log_lr) - 2)
    at = [log_lr[middle + step] for step in (-1, 0, 1)]
    loss = [losses_bl[np.arange(len(best)), middle + step] for step in (-1, 0, 1)]
    left, right = ((loss[1] - loss[end]) / (at[1] - at[end]) for end in (0, 2))  # slopes to both sides
    square = (right - left) / (at[2] - at[0])
    inside = (best == middle) & (square > 0)
    slope = (left * (at[2] - at[1]) + right * (at[1] - at[0])) / (at[2] - at[0])  # of the parabola, in the middle
    return np.where(inside, at[1] - slope / np.where(inside, 2 * square, 1.0), log_lr[best])
