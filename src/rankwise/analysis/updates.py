"""What each run's ΔW is like: how large and of what rank, what of W it amplifies, which directions it adds."""

from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import mean, median
from typing import Any

import torch

from rankwise.analysis import measures
from rankwise.analysis.measures import EPSILONS, TOP, decomposed
from rankwise.analysis.weights import Changed, Weights, labels, place

SHARE = 0.9  # of the variance, as Biderman et al. 2024 count
DENSE_RANKS = (4, 64)  # those of Hu et al. 2021, Table 7, where no LoRA run says which
Found = dict[str, Any]


def _rows(changed: Sequence[Changed], of_run: Callable[[Changed], Found], **constants: Any) -> Found:
    """A row for each run, with its label and rank."""
    named = zip(labels([one.run for one in changed]), changed, strict=True)
    rows = [{"run": label, "rank": one.rank} | of_run(one) for label, one in named]
    return {**constants, "modules": list(changed[0].modules), "rows": rows}


def amplification(changed: Sequence[Changed]) -> Found:
    """‖UᵀWV‖ in the top directions of ΔW, of W and of chance (Hu et al. 2021, §7.3, Table 7), by run, rank and layer.

    LoRA's ΔW is cut to its own rank, which PiSSA's exceeds; a full ΔW to the ranks of the LoRA runs beside it.
    """
    ranks = sorted({one.rank for one in changed if one.rank}) or list(DENSE_RANKS)
    rows = []
    for label, one in zip(labels([c.run for c in changed]), changed, strict=True):
        for rank in [one.rank] if one.rank else ranks:
            by_module = {name: measures.amplification(w.base, w.delta, rank) for name, w in one.modules.items()}
            for kind, members in groupby(sorted(by_module, key=_kind), _kind):
                layers = {name: by_module[name] for name in members}
                middle = {key: median(layer[key] for layer in layers.values()) for key in next(iter(layers.values()))}
                used = max(layer["rank"] for layer in layers.values())
                rows.append({"run": label, "module": kind} | middle | {"rank": used, "by_module": layers})
    return {"modules": list(changed[0].modules), "rows": rows}


def _kind(name: str) -> str:
    return place(name)[1]


def spectrum(changed: Sequence[Changed]) -> Found:
    """Each layer's singular values and what rank they amount to, the means over layers, and the mean curves of σᵢ/σ₁
    and of the energy in i directions.

    ``r90`` directions hold 90 % of Σσ²; ``r90_share`` is their share of ``side`` = min(out, in).
    """

    def of_run(run: Changed) -> Found:
        by_module = {name: _spectrum(weights) for name, weights in run.modules.items()}
        keys = ("side", "effective_rank", "stable_rank", "r90", "r90_share")
        means = {key: mean(layer[key] for layer in by_module.values()) for key in keys}
        return means | _curves([layer["values"] for layer in by_module.values()]) | {"by_module": by_module}

    return _rows(changed, of_run, share=SHARE)


def _spectrum(weights: Weights) -> Found:
    s, side = decomposed(weights.delta).s, min(weights.delta.sides)
    r90 = measures.energy_rank(s, SHARE)
    ranks = {"effective_rank": measures.effective_rank(s), "stable_rank": measures.stable_rank(s)}
    return {"side": side, **ranks, "r90": r90, "r90_share": r90 / side, "values": s.tolist()}


def _curves(spectra: list[list[float]]) -> Found:
    """To the length of the longest layer; a shorter one has σ = 0 and all of its energy from its end on."""
    values = torch.zeros(len(spectra), max(map(len, spectra)), dtype=torch.float64)
    for row, own in zip(values, spectra, strict=True):
        row[: len(own)] = torch.tensor(own)
    squares = (values**2).cumsum(1)
    return {"decay": (values / values[:, :1]).mean(0).tolist(), "energy": (squares / squares[:, -1:]).mean(0).tolist()}


def intruders(changed: Sequence[Changed], side: str = "left") -> Found:
    """How many of the top singular vectors of W + ΔW are like none of W's (Shuttleworth et al. 2024), by run and ε."""

    def of_run(run: Changed) -> Found:
        nearest = {
            name: measures.nearest_cosines(w.base.double() + w.delta.dense(), w.base, side)
            for name, w in run.modules.items()
        }
        per_matrix = [measures.intruders(cosines) for cosines in nearest.values()]
        counts = [
            {"epsilon": e, "mean": mean(by[e] for by in per_matrix), "matrices": sum(bool(by[e]) for by in per_matrix)}
            for e in EPSILONS
        ]
        return {"counts": counts, "cosines": {name: cosines.tolist() for name, cosines in nearest.items()}}

    return _rows(changed, of_run, side=side, top=TOP, epsilons=list(EPSILONS))


def layers(changed: Sequence[Changed]) -> Found:
    """Cells by run: layer (a block's number), module (a kind of layer), ‖ΔW‖_F, ‖ΔW‖_F/‖W‖_F and effective rank."""

    def cell(name: str, weights: Weights) -> Found:
        s, (layer, module) = decomposed(weights.delta).s, place(name)
        norm, base = float(torch.linalg.vector_norm(s)), float(torch.linalg.vector_norm(weights.base.double()))
        sizes = {"norm": norm, "relative": norm / base, "effective_rank": measures.effective_rank(s)}
        return {"name": name, "layer": layer, "module": module} | sizes

    return _rows(changed, lambda run: {"cells": [cell(*item) for item in run.modules.items()]})
