"""Quantities of what finished runs learned: directions, amplification, ranks. One value a seed, interval over them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rankwise.analysis import analyze
from rankwise.claims.claim import Estimate, NotRun, Spec
from rankwise.claims.selection import compared
from rankwise.statistics import interval
from rankwise.tracking.record import Record

TOP_EPSILON = 0.5  # the default of the authors' script; below it a direction is called new


def shared_directions(records: Sequence[Record], of: Spec, to: Spec, i: int, j: int, module: str) -> Estimate:
    """φ(i, j) of the directions of two arms of one seed (Hu et al. 2021, equation 4), less what chance or the start
    gives, whichever is more.
    """

    def excess(folders: list[Path]) -> float:
        points = analyze("subspaces", folders, module=module, of="A")["pairs"][0]["points"]
        point = next((cell for cell in points if (cell["i"], cell["j"]) == (i, j)), None)
        if point is None:
            raise NotRun(f"φ({i}, {j}) is not among those of these ranks")
        return float(point["phi"] - max(point["expected"], point["start"] or 0.0))

    return _over_seeds(records, [of, to], excess)


def amplification(records: Sequence[Record], of: Spec, module: str, what: str, over: str | None = None) -> Estimate:
    """A figure of an update beside its base (Hu et al. 2021, Table 7), or its ratio to another; medians over layers."""

    def figure(folders: list[Path]) -> float:
        row = analyze("amplification", folders, module=module)["rows"][0]
        return float(row[what] / (row[over] if over else 1.0))

    return _over_seeds(records, [of], figure)


def variance_directions(records: Sequence[Record], of: Spec) -> Estimate:
    """The share of directions that hold 90 % of ΔW's Σσ², the mean over layers."""
    return _over_seeds(records, [of], lambda folders: float(analyze("spectrum", folders)["rows"][0]["r90_share"]))


def stable_rank_exponent(records: Sequence[Record], of: Spec, ranks: Sequence[int]) -> Estimate:
    """β where the stable rank of ΔW grows as the rank to the power β: the slope of the logarithms over ``ranks``."""

    def slope(folders: list[Path]) -> float:
        stable = [row["stable_rank"] for row in analyze("spectrum", folders)["rows"]]
        return float(np.polyfit(np.log(ranks), np.log(stable), 1)[0])

    return _over_seeds(records, [of | {"rank": rank} for rank in ranks], slope)


def intruder_difference(records: Sequence[Record], of: Spec, minus: Spec) -> Estimate:
    """Intruder dimensions per matrix among its top 10 directions (Shuttleworth et al. 2024), one arm less another."""

    def difference(folders: list[Path]) -> float:
        rows = analyze("intruders", folders)["rows"]
        mine, theirs = (n["mean"] for row in rows for n in row["counts"] if n["epsilon"] == TOP_EPSILON)
        return float(mine - theirs)

    return _over_seeds(records, [of, minus], difference)


def _over_seeds(records: Sequence[Record], specs: list[Spec], value: Callable[[list[Path]], float]) -> Estimate:
    rows = compared(records, specs)
    over = interval([value([run.folder for run in runs]) for runs in rows.runs_sa], [])
    return rows.estimate(over.mean, over.low, over.high)
