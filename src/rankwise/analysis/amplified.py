"""Does ΔW amplify what W has, or what W lacks? ‖UᵀWV‖ and the amplification factor (Hu et al. 2021, §7.3, Table 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rankwise.analysis.measures import Amplification, amplification
from rankwise.analysis.weights import Changed, labels, place

DENSE_RANKS = (4, 64)  # those of Table 7, where no LoRA run says which


def analyse(changed: Sequence[Changed]) -> dict[str, Any]:
    """‖UᵀWV‖ in the top directions of ΔW, of W and of chance, by run, rank and layer.

    LoRA's ΔW is taken at its own rank; a full ΔW at the ranks of the LoRA runs beside it.
    """
    own = sorted({each.rank for each in changed if each.rank}) or list(DENSE_RANKS)
    rows = []
    for label, each in zip(labels([c.run for c in changed]), changed, strict=True):
        for rank in [each.rank] if each.rank else own:
            found = {name: amplification(w.base, w.delta, rank) for name, w in each.modules.items()}
            who = {"run": label, "dense": each.rank is None, "rank": rank}
            rows += [who | _of_kind(kind, members) for kind, members in _by_kind(found).items()]
    return {"modules": list(changed[0].modules), "rows": rows}


def _by_kind(found: dict[str, Amplification]) -> dict[str, dict[str, Amplification]]:
    kinds: dict[str, dict[str, Amplification]] = {}
    for name, each in found.items():
        kinds.setdefault(place(name)[1], {})[name] = each
    return kinds


def _of_kind(kind: str, members: dict[str, Amplification]) -> dict[str, Any]:
    """The median over layers of one kind, and each of them."""
    keys = ("base", "update", "by_update", "by_base", "by_chance", "factor", "factor_by_base", "factor_by_chance")
    middle = {key: median(getattr(each, key) for each in members.values()) for key in keys}
    each_layer = {name: asdict(each) | {"factor": each.factor} for name, each in members.items()}
    return {"module": kind, **middle, "by_module": each_layer}
