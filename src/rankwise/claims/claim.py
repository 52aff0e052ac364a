"""A claim: what somebody said of LoRA, the quantity that tests it and the bound that it must keep."""

import math
from dataclasses import dataclass
from typing import Any

REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = "reproduced", "contradicted", "inconclusive", "not run"
VERDICTS = (REPRODUCED, CONTRADICTED, INCONCLUSIVE)
FROM_RUNS = ("trained", "spectral")  # kinds that finished runs answer
TIERS = ("quick", "full")

Spec = dict[str, Any]  # a config in a few words


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
    def exact(cls, value: float, note: str = "") -> "Estimate":
        """A number without an interval."""
        return cls(value, value, value, note=note)


@dataclass(frozen=True)
class Bound:
    """Where a quantity must lie for the claim to hold: ``above`` and ``below`` without their end, ``between`` with."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Bound":
        """From ``{above: x}``, ``{below: x}`` or ``{between: [a, b]}``."""
        low, high = values.get("between", (values.get("above", -math.inf), values.get("below", math.inf)))
        return cls(float(low), float(high))

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


@dataclass(frozen=True)
class Source:
    """Who says so, and where."""

    work: str
    where: str


@dataclass(frozen=True)
class Claim:
    """One file of the registry. ``settings`` are the quantity's arguments, ``with`` in the file.

    ``kind``   identity (true by definition, or a number recomputed with the code that it comes from: it cannot fail),
               exact (computed on the spot), measured (timed here), trained or spectral (from the runs of ``study``)
    ``proxy``  what stands for the setting of the source; None where it is that setting
    """

    id: str
    claim: str
    source: Source
    published: str
    kind: str
    quantity: str
    settings: dict[str, Any]
    bound: Bound
    unit: str
    full_bound: Bound | None = None
    study: str | None = None
    proxy: str | None = None
    note: str = ""

    def bound_in(self, tier: str) -> Bound:
        """The bound of a tier: the full one may be tighter."""
        return self.full_bound if tier == "full" and self.full_bound else self.bound
