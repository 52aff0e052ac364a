"""A bound on a quantity, and the verdict of an interval against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = "reproduced", "contradicted", "inconclusive", "not run"
VERDICTS = (REPRODUCED, CONTRADICTED, INCONCLUSIVE)


@dataclass(frozen=True)
class Bound:
    """Where a quantity must lie for the claim to hold: ``above`` and ``below`` without their end, ``between`` with."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, values: Any) -> Bound:
        """From ``{above: x}``, ``{below: x}`` or ``{between: [a, b]}``; raises ValueError for anything else."""
        if isinstance(values, dict) and len(values) == 1:
            kind, ends = next(iter(values.items()))
            if kind in ("above", "below") and _is_number(ends):
                return cls(low=float(ends)) if kind == "above" else cls(high=float(ends))
            pair = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
            if kind == "between" and pair and ends[0] <= ends[1]:
                return cls(float(ends[0]), float(ends[1]))
        raise ValueError("{above: number}, {below: number} or {between: [low, high]}")

    @property
    def closed(self) -> bool:
        """Whether its ends belong to it."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_dict(self) -> dict[str, Any]:
        """As in the claim's file."""
        if self.closed:
            return {"between": [self.low, self.high]}
        return {"above": self.low} if math.isfinite(self.low) else {"below": self.high}

    def verdict(self, low: float, high: float) -> str:
        """``reproduced`` where the interval is wholly inside, ``contradicted`` wholly outside, else ``inconclusive``.

        An interval that is not known (NaN) decides nothing.
        """
        if self._holds(low) and self._holds(high):
            return REPRODUCED
        apart = (high < self.low or low > self.high) if self.closed else (high <= self.low or low >= self.high)
        return CONTRADICTED if apart else INCONCLUSIVE

    def _holds(self, value: float) -> bool:
        return self.low <= value <= self.high if self.closed else self.low < value < self.high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
