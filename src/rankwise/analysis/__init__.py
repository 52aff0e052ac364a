"""What finished runs learned, read from their weights: directions, ranks, amplification, intruders, truncation."""

from rankwise.analysis.document import WHAT, analyze
from rankwise.analysis.measures import (
    Amplification,
    amplification,
    decomposed,
    effective_rank,
    energy_rank,
    expected_similarity,
    intruders,
    nearest_cosines,
    similarity,
    stable_rank,
)
from rankwise.analysis.weights import Changed, Weights, load, opened, together

__all__ = [
    "WHAT", "Amplification", "Changed", "Weights", "amplification", "analyze", "decomposed", "effective_rank",
    "energy_rank", "expected_similarity", "intruders", "load", "nearest_cosines", "opened",
    "similarity", "stable_rank", "together",
]  # fmt: skip
