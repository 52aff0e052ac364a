"""What a grid of learning rates tells: where the best one lies."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from rankwise import metrics
from rankwise.claims.claim import Estimate, NotRun, Spec
from rankwise.claims.selection import Compared, compared, runs_of, words
from rankwise.compare import by_replicate
from rankwise.errors import plural
from rankwise.report.arms import whole_rates
from rankwise.statistics import Z95, Floats, seed_weights
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record

REPLICATES = 2_000
OPEN = 0.025  # the share of resamples that an end of a 95 % interval leaves out


def best_lr_ratio(records: Sequence[Record], of: Spec, to: Spec) -> Estimate:
    """The best learning rate of one arm over that of another.

    The best is the vertex of the parabola in log learning rate through the best of the grid and its neighbours, by the
    mean validation objective over seeds. Interval: bootstrap over the seeds that both arms have, widened by t/z.
    Raises NotRun where the best is an end of the grid, or is in more than 2.5 % of the resamples: it may lie anywhere
    beyond; and where it is next to a rate that diverged, which has no place on a parabola.
    """
    compared(records, [of, to])  # raises where they were not trained alike
    grids = [whole_rates(runs_of(records, spec)) for spec in (of, to)]
    arms = [list(runs.values()) for grid in grids for runs in grid.values()]
    runs_sl = list(by_replicate(arms).values())  # of both arms, at all rates
    if (n := len(runs_sl)) < 2:
        raise NotRun(f"{plural(n, 'seed')} with the whole grid in both arms; an interval needs two")
    optima, replicates = [], []
    for columns, grid, spec in ((slice(len(grids[0])), grids[0], of), (slice(len(grids[0]), None), grids[1], to)):
        log_lr, losses_sl = _losses([runs[columns] for runs in runs_sl], list(grid), spec)
        mean = losses_sl.mean(0)
        if (best := int(np.argmin(mean))) in (0, len(mean) - 1):
            lr = list(grid)[int(np.argmin(np.abs(np.log10(list(grid)) - log_lr[best])))]
            why = "is the end of its grid" if lr in (min(grid), max(grid)) else "is next to one that diverged"
            raise NotRun(f"the best learning rate of {words(spec)}, {lr:g}, {why}")
        optima.append(float(_vertex(log_lr, mean[None])[0]))
        resampled = _vertex(log_lr, seed_weights(n, REPLICATES, 0) @ losses_sl)
        if (ends := float(np.isnan(resampled).mean())) > OPEN:
            raise NotRun(f"the best learning rate of {words(spec)} is the end of its grid in {ends:.0%} of resamples")
        replicates.append(resampled)
    ratio, spread = optima[0] - optima[1], replicates[0] - replicates[1]
    wider = special.stdtrit(n - 1, 1 - OPEN) / Z95
    quantiles = np.quantile(spread[np.isfinite(spread)], [OPEN, 1 - OPEN])
    low, high = (10 ** float(ratio + wider * (q - ratio)) for q in quantiles)
    note = f"best learning rates {10 ** optima[0]:.2g} and {10 ** optima[1]:.2g}"
    return Compared(runs_sl, note).estimate(10**ratio, low, high)


def _losses(runs_sl: Sequence[Sequence[Record]], rates: Sequence[float], spec: Spec) -> tuple[Floats, Floats]:
    """Log10 of the learning rates (L,), and what is to be made small at each, (S, L)."""
    if len(rates) < 3:
        raise NotRun(f"{plural(len(rates), 'learning rate')} of {words(spec)}; a parabola needs three")
    sign = metrics.named(str(at(runs_sl[0][0], "config.objective"))).sign
    values_sl = np.array([[math.nan if run.objective is None else run.objective for run in runs] for runs in runs_sl])
    converged = np.isfinite(values_sl).all(0)  # others diverged
    if converged.sum() < 3:
        raise NotRun(f"{words(spec)} diverged at all but {converged.sum()} learning rates")
    return np.log10(np.array(rates)[converged]), -sign * values_sl[:, converged]


def _vertex(log_lr: Floats, losses_bl: Floats) -> Floats:
    """Log10 of the best learning rate of each row (B,); NaN where that is an end of the grid."""
    best = losses_bl.argmin(1)
    middle = best.clip(1, len(log_lr) - 2)
    at = [log_lr[middle + step] for step in (-1, 0, 1)]
    loss = [losses_bl[np.arange(len(best)), middle + step] for step in (-1, 0, 1)]
    left, right = ((loss[1] - loss[end]) / (at[1] - at[end]) for end in (0, 2))  # slopes to both sides
    square = (right - left) / (at[2] - at[0])
    slope = (left * (at[2] - at[1]) + right * (at[1] - at[0])) / (at[2] - at[0])  # of the parabola, in the middle
    flat = square <= 0  # all three agree: the middle is as good as any
    vertex = np.where(flat, at[1], at[1] - slope / np.where(flat, 1.0, 2 * square))
    return np.where(best == middle, vertex, np.nan)
