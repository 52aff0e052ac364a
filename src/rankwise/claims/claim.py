"""A claim: what somebody said of LoRA, the quantity that tests it and the bound that it must keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankwise.claims.bounds import Bound

KINDS = ("exact", "measured", "trained", "spectral")
FROM_RUNS = ("trained", "spectral")  # kinds that finished runs answer
TIERS = ("quick", "full")
UNITS = ("accuracy", "ratio", "share", "count", "bytes", "bits", "nats", "correlation")


@dataclass(frozen=True)
class Source:
    """Who says so, and where."""

    work: str
    where: str


@dataclass(frozen=True)
class Claim:
    """One file of the registry, checked. ``settings`` are the quantity's arguments, ``with`` in the file.

    ``kind``   exact (computed on the spot), measured (timed here), trained or spectral (from the runs of ``study``)
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
    synthetic: dict[str, dict[str, Any]]
    study: str | None = None
    proxy: str | None = None
    expected: str | None = None
    note: str = ""
    full_bound: Bound | None = None
    file: Path | None = field(default=None, compare=False)

    def bound_in(self, tier: str) -> Bound:
        """The bound of a tier: the full one may be tighter."""
        return self.full_bound if tier == "full" and self.full_bound else self.bound
