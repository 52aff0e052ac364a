"""LoRA and its variants: ranks and scales of each layer, as PEFT's config.

y = W x + s · B (A x),   A (r, in), B (out, r), s = α/r or α/√r   (Hu et al. 2021, equation 3)
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig

from rankwise.alpha import parse_alpha
from rankwise.config import Config, Targets
from rankwise.errors import Refused
from rankwise.methods import Method
from rankwise.model.targets import ends_with

Sides = dict[str, tuple[int, int]]  # (in, out) of each adapted layer, by name


@dataclass(frozen=True)
class Sizes:
    """Rank and α of every adapted layer, and those that most of them have."""

    rank: int
    alpha: float
    roots: bool  # α is divided by √r
    ranks: dict[str, int]
    alphas: dict[str, float]

    def scale(self, name: str) -> float:
        """The effective multiplier of BA in a layer."""
        return self.alphas[name] / (math.sqrt(self.ranks[name]) if self.roots else self.ranks[name])


def sizes(config: Config, sides: Sides) -> Sizes:
    """From the method's rank or budget and the patterns of the targets.

    Raises Refused for a rank above min(in, out) of a layer, a budget out of reach and a pattern that fits no layer.
    """
    method, targets = config.method, config.targets
    rank = int(method.rank or 0) if method.budget is None else rank_for(method.budget, sides.values(), method)
    if method.nested and min(method.nested) >= rank:
        allowed = f"ranks of which one is below {rank}, what method.budget={method.budget} buys"
        raise Refused.value("method.nested", method.nested, allowed)
    ranks = {name: int(_at(targets.ranks, name, rank)) for name in sides}
    for name, (d_in, d_out) in sorted(sides.items(), key=lambda item: min(item[1])):
        most = min(d_in, d_out) // (2 if method.init == "lora_ga" else 1)  # whose B starts at the next r directions
        if ranks[name] > most:
            key = "method.rank" if ranks[name] == rank else "targets.ranks"
            key, value = (key, ranks[name]) if method.budget is None else ("method.budget", method.budget)
            that = f" (rank {rank} here)" if method.budget is not None else ""
            half = "half " * (method.init == "lora_ga")
            allowed = f"at most {most}, {half}the smaller side of {name} ({d_in} × {d_out})"
            raise Refused.value(key, f"{value}{that}", allowed if method.budget is None else f"a rank of {allowed}")
    for key in ("ranks", "alphas"):
        for pattern, value in (getattr(targets, key) or {}).items():
            if not any(_fits(pattern, name) for name in sides):
                ends = ", ".join(sorted({re.split(r"\.\d+\.", name)[-1] for name in sides}))
                raise Refused.value(
                    f"targets.{key}.{pattern}", value, f"a pattern of an adapted layer; there are {ends}"
                )
    roots = parse_alpha(method.alpha)[1] == "sqrt"
    alphas = {name: _alpha_at(targets, name, method.alpha, ranks[name], roots) for name in sides}
    return Sizes(rank, alpha_of(method.alpha, rank), roots, ranks, alphas)


def _alpha_at(targets: Targets, name: str, default: Any, rank: int, roots: bool) -> float:
    """α of a layer. A pattern's scale is α/r whatever the method divides by, so where that is √r, α is made for it."""
    policy = _at(targets.alphas, name, None)
    if policy is None:
        return alpha_of(default, rank)
    return alpha_of(policy, rank) / (math.sqrt(rank) if roots else 1)


def alpha_of(policy: Any, rank: int) -> float:
    """α at a rank: K·r for the policy Kr, else its number."""
    number, kind = parse_alpha(policy)
    return number * rank if kind == "r" else number


def rank_for(budget: int, sides: Iterable[tuple[int, int]], method: Method) -> int:
    """The largest rank whose adapter has at most ``budget`` trained parameters (Hu et al. 2021, Table 5), an even one
    for orthogonal factors.

    r·(in + out) for each layer, r·out with a frozen A, and DoRA's magnitude of each output beside them.
    Raises Refused for a budget below the least rank, saying what that costs.
    """
    sides, least = list(sides), 2 if method.init == "orthogonal" else 1
    per_rank = sum(d_out if method.freeze_a else d_in + d_out for d_in, d_out in sides)
    fixed = sum(d_out for _, d_out in sides) if method.dora else 0
    if budget < (cost := least * per_rank + fixed):
        raise Refused.value("method.budget", budget, f"at least {cost}, what rank {least} costs on these targets")
    rank = (budget - fixed) // per_rank
    return rank - rank % least


def peft_config(config: Config, chosen: Sizes, common: dict[str, Any]) -> LoraConfig:
    """PEFT's config; layers whose rank or α is another are listed by their whole names."""
    method = config.method
    ranks = {re.escape(name): rank for name, rank in chosen.ranks.items() if rank != chosen.rank}
    alphas = {re.escape(name): alpha for name, alpha in chosen.alphas.items() if alpha != chosen.alpha}
    return LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        use_rslora=chosen.roots,
        use_dora=bool(method.dora),
        lora_dropout=method.dropout,
        bias=method.bias,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        **common,
    )


def _at(patterns: dict[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that fits a layer's name."""
    return next((value for pattern, value in (patterns or {}).items() if _fits(pattern, name)), default)


def _fits(pattern: str, name: str) -> bool:
    return ends_with(name, pattern) or re.fullmatch(pattern, name) is not None
