"""What is the rank of the update? Singular values of ΔW and the ranks that they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import torch

from rankwise.analysis.measures import decomposed, effective_rank, energy_rank, stable_rank
from rankwise.analysis.weights import Changed, Weights, labels

SHARE = 0.9  # of the variance, as Biderman et al. 2024 count


@dataclass(frozen=True)
class Spectrum:
    """ΔW of one layer. ``r90`` directions hold 90 % of Σσ²; ``r90_share`` is their share of ``side`` = min(out, in)."""

    side: int
    effective_rank: float
    stable_rank: float
    r90: int
    r90_share: float
    values: list[float]


def spectrum(weights: Weights) -> Spectrum:
    """Of LoRA's ΔW without multiplying it out."""
    values = decomposed(weights.delta).s
    side, r90 = min(weights.delta.sides), energy_rank(values, SHARE)
    return Spectrum(side, effective_rank(values), stable_rank(values), r90, r90 / side, values.tolist())


def analyse(changed: Sequence[Changed]) -> dict[str, Any]:
    """By run: each layer, the means over layers, and the mean curves of σᵢ/σ₁ and of the energy in i directions."""
    rows = []
    for label, each in zip(labels([c.run for c in changed]), changed, strict=True):
        found = {name: spectrum(weights) for name, weights in each.modules.items()}
        keys = ("side", "effective_rank", "stable_rank", "r90", "r90_share")
        means = {key: mean(getattr(one, key) for one in found.values()) for key in keys}
        rows.append({"run": label, "rank": each.rank, **means, **_curves(list(found.values())),
                     "by_module": {name: asdict(one) for name, one in found.items()}})  # fmt: skip
    return {"share": SHARE, "modules": list(changed[0].modules), "rows": rows}


def _curves(found: list[Spectrum]) -> dict[str, list[float]]:
    """To the length of the longest layer; a shorter one has σ = 0 and all of its energy from its end on."""
    longest = max(len(each.values) for each in found)
    values = torch.zeros(len(found), longest, dtype=torch.float64)
    for row, each in zip(values, found, strict=True):
        row[: len(each.values)] = torch.tensor(each.values)
    squares = (values**2).cumsum(1)
    return {"decay": (values / values[:, :1]).mean(0).tolist(), "energy": (squares / squares[:, -1:]).mean(0).tolist()}
