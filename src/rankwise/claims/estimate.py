"""What a quantity comes out as, and that it may not come out at all."""

from __future__ import annotations

from dataclasses import dataclass


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
