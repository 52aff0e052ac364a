"""What a quantity comes out as, and that it may not come out at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rankwise.report.statistics import Bootstrap


class NotRun(Exception):
    """Nothing can be said yet; the message is the reason, in words that finish "not run: …"."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval. Of what is exact, the three are the same.

    ``n`` counts what the interval is over (seeds, timed blocks; 1 where it is exact), ``runs`` names the runs behind
    it.
    """

    value: float
    low: float
    high: float
    n: int = 1
    runs: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def exact(cls, value: float, note: str = "") -> Estimate:
        """A number without an interval."""
        return cls(value, value, value, note=note)


def interval95(boot: Bootstrap) -> tuple[float, float]:
    """The 95 % interval of a paired difference: percentiles, widened by t/z as those of 90 % in ``statistics``."""
    widen = float(stats.t.ppf(0.975, boot.df) / stats.norm.ppf(0.975))
    low, high = (
        boot.estimate + widen * (float(q) - boot.estimate) for q in np.quantile(boot.replicates, [0.025, 0.975])
    )
    return low, high
