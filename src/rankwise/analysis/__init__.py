"""What finished runs learned, read from their weights: directions, ranks, amplification, intruders, truncation."""

from rankwise.analysis.analyses import WHAT, analyze
from rankwise.analysis.measures import amplification, decomposed, effective_rank, energy_rank, stable_rank
from rankwise.analysis.weights import load, together

__all__ = ["WHAT", "amplification", "analyze", "decomposed", "effective_rank", "energy_rank"]
__all__ += ["load", "stable_rank", "together"]
