"""Does fine-tuning add directions that the base had not? Intruder dimensions (Shuttleworth et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rankwise.analysis.measures import EPSILONS, TOP, intruders, nearest_cosines
from rankwise.analysis.weights import Changed, Weights, labels


def analyse(changed: Sequence[Changed], side: str = "left") -> dict[str, Any]:
    """How many of the top 10 singular vectors of W₀ + ΔW are like none of W₀'s, by run and ε: the mean per matrix."""
    rows = []
    for label, each in zip(labels([c.run for c in changed]), changed, strict=True):
        nearest = {name: _nearest(weights, side) for name, weights in each.modules.items()}
        found = {name: intruders(cosines) for name, cosines in nearest.items()}
        counts = {epsilon: [each[epsilon] for each in found.values()] for epsilon in EPSILONS}
        rows.append({
            "run": label, "rank": each.rank,
            "counts": [{"epsilon": epsilon, "mean": sum(by) / len(by), "matrices": sum(map(bool, by))}
                       for epsilon, by in counts.items()],
            "cosines": {name: cosines.tolist() for name, cosines in nearest.items()},
        })  # fmt: skip
    return {"side": side, "top": TOP, "epsilons": list(EPSILONS), "modules": list(changed[0].modules), "rows": rows}


def _nearest(weights: Weights, side: str) -> torch.Tensor:
    base, delta = weights.base.double(), weights.delta
    change = delta.b if delta.a is None else delta.b @ delta.a
    return nearest_cosines(base + change, base, side)
