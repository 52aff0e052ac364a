"""Does fine-tuning add directions that the base had not? Intruder dimensions (Shuttleworth et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankwise.analysis.measures import EPSILONS, TOP, nearest_cosines
from rankwise.analysis.weights import Changed, Weights, labels


def analyse(changed: Sequence[Changed], side: str = "left") -> dict[str, Any]:
    """How many of the top 10 singular vectors of W₀ + ΔW are like none of W₀'s, by run and ε: the mean per matrix."""
    rows = []
    for label, each in zip(labels([c.run for c in changed]), changed, strict=True):
        nearest = {name: _nearest(weights, side) for name, weights in each.modules.items()}
        counts = {epsilon: {n: sum(c < epsilon for c in found) for n, found in nearest.items()} for epsilon in EPSILONS}
        rows.append({
            "run": label, "rank": each.rank,
            "counts": [{"epsilon": epsilon, "mean": sum(by.values()) / len(by), "matrices": sum(map(bool, by.values()))}
                       for epsilon, by in counts.items()],
            "cosines": nearest,
        })  # fmt: skip
    return {"side": side, "top": TOP, "epsilons": list(EPSILONS), "modules": list(changed[0].modules), "rows": rows}


def _nearest(weights: Weights, side: str) -> list[float]:
    base, delta = weights.base.double(), weights.delta
    change = delta.b if delta.a is None else delta.b @ delta.a
    return nearest_cosines(base + change, base, side).tolist()
