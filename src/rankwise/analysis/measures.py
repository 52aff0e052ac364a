"""The linear algebra of what an update is: directions and their overlap, effective ranks, amplification, intruders.

Pure functions of matrices, in fp64. ΔW (out, in) comes as a ``Delta``: LoRA's factors are never multiplied out.
"""

import math

import torch

from rankwise.adapters.factors import Delta, Svd, rank_for_energy

EPSILONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOP = 10  # singular vectors that are asked whether they intrude


def decomposed(delta: Delta | torch.Tensor) -> Svd:
    """The SVD without what is anybody's: directions of singular values that are zero, or rounding (but the first)."""
    whole = delta if isinstance(delta, Delta) else Delta(delta.double(), None)
    svd = whole.svd()
    least = max(whole.noise, float(svd.s[0]) * max(whole.sides) * torch.finfo(svd.s.dtype).eps)
    some = int((svd.s > least).sum()) or int(svd.s[0] > 0)
    return Svd(svd.u[:, :some], svd.s[:some], svd.v[:, :some])


def similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """φ(i, j) = ‖U₁ᵢᵀ U₂ⱼ‖²_F / min(i, j), at [i−1, j−1] (Hu et al. 2021, equation 4).

    ``one`` (d, k₁) and ``other`` (d, k₂) have orthonormal columns, the most important first; Uᵢ are the first i. It is
    1 where the smaller of the two subspaces lies in the larger one, and 0 where they are orthogonal.
    """
    products = (one.T @ other) ** 2
    i, j = (torch.arange(1, size + 1, dtype=products.dtype) for size in products.shape)
    return products.cumsum(0).cumsum(1) / torch.minimum(i[:, None], j[None, :])


def effective_rank(values: torch.Tensor) -> float:
    """exp(−Σ pᵢ ln pᵢ) with pᵢ = σᵢ/Σσ (Roy and Vetterli 2007, definition 1); 0 of a matrix of zeros."""
    total = float(values.sum())
    if total == 0:
        return 0.0
    return math.exp(float(torch.special.entr(values.double() / total).sum()))


def stable_rank(values: torch.Tensor) -> float:
    """‖W‖²_F / ‖W‖²₂ = Σσ²/σ₁² (Rudelson and Vershynin 2007, §1); 0 of a matrix of zeros."""
    squares = values.double() ** 2
    return float(squares.sum() / squares.max()) if float(values.sum()) else 0.0


def energy_rank(values: torch.Tensor, share: float = 0.9) -> int:
    """The fewest leading directions with this share of Σσ², the variance of Biderman et al. 2024; 0 of zeros."""
    return rank_for_energy(values, share) if float(values.sum()) else 0


def amplification(base: torch.Tensor, delta: Delta | torch.Tensor, rank: int | None = None) -> dict[str, float]:
    """How much of W lies in the top ``rank`` directions of ΔW, of W and of chance (Hu et al. 2021, §7.3 and Table 7).

    Frobenius norms: ``base`` of W, ``update`` of ΔW in these directions, ``by_update``, ``by_base`` and ``by_chance``
    of UᵀWV for the top singular vectors of ΔW, for those of W, which give √(σ₁² + … + σᵣ²), and for random ones, which
    give r·‖W‖/√(m·n) in the root mean square: 0.020 and 0.32 at r = 4 and 64 for the paper's W_q, where the matrices
    that it drew gave 0.02 and 0.33. ``factor`` is ‖ΔW‖ / ‖UᵀWV‖: how much ΔW amplifies what W has in its directions;
    ``factor_by_base`` and ``factor_by_chance`` (of a ΔW that knows nothing of W) are the same in those of the others.
    ``rank`` is how many directions these are: a ΔW may have fewer than were asked for.
    """
    weight, top = base.double(), decomposed(delta)
    rank = min(rank or len(top.s), len(top.s))
    own, norm = torch.linalg.svdvals(weight), float(torch.linalg.vector_norm(weight))
    update = float(torch.linalg.vector_norm(top.s[:rank]))
    by = {
        "update": float(torch.linalg.vector_norm(top.u[:, :rank].T @ weight @ top.v[:, :rank])),
        "base": float(torch.linalg.vector_norm(own[:rank])),
        "chance": rank * norm / math.sqrt(weight.numel()),
    }
    norms = {"rank": rank, "base": norm, "update": update} | {f"by_{name}": part for name, part in by.items()}
    factors = {f"factor_by_{name}": update / part if part else math.nan for name, part in by.items()}
    return norms | {"factor": factors.pop("factor_by_update")} | factors


def nearest_cosines(tuned: torch.Tensor, base: torch.Tensor, side: str = "left") -> torch.Tensor:
    """max_i |cos(y_j, x_i)| of the top 10 singular vectors y_j of the tuned matrix over all x_i of the base's."""
    y = decomposed(tuned).side(side)[:, :TOP]
    return (decomposed(base).side(side).T @ y).abs().amax(0)


def intruders(nearest: torch.Tensor) -> dict[float, int]:
    """Intruder dimensions by ε, of what ``nearest_cosines`` gives: how many are like none of the base's, below ε.

    Shuttleworth et al. 2024 (arXiv 2410.21228), definition and algorithm 1. The sign of a singular vector is free, so
    that |cos| is meant.
    """
    return {epsilon: int((nearest < epsilon).sum()) for epsilon in EPSILONS}
