"""Do two runs learn the same directions? φ between ranks and seeds, and against W (Hu et al. 2021, §7.2 and §H.4)."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rankwise import methods
from rankwise.adapters import factors, loading
from rankwise.adapters.factors import Delta
from rankwise.adapters.runs import Run, base_asset
from rankwise.analysis.measures import decomposed, expected_similarity, similarity
from rankwise.analysis.weights import Changed, labels
from rankwise.errors import Refused
from rankwise.model.adapt import adapt
from rankwise.model.methods import inits
from rankwise.model.skeleton import architecture, skeleton

OF = ("delta", "A")
MOST = 64  # directions of a matrix that has more, as of full fine-tuning and of W
BASE = "W"

Directions = dict[str, torch.Tensor]  # (d, k) by layer, orthonormal columns, the most important first


def subspaces(changed: Sequence[Changed], side: str = "right", of: str = "delta") -> dict[str, Any]:
    """φ(i, j) of every pair of runs, and of every run against W, the mean over the layers.

    ``of`` is ΔW or LoRA's A alone; ``side`` right is that of the inputs (in), left that of the outputs (out). Each φ
    stands beside what random subspaces have, max(i, j)/d, and beside that of the factors before training: of A on
    the right, of B on the left. Raises Refused for A of a run that has none, and for its left side.
    """
    if of == "A" and side == "left":
        raise Refused("--side left: of ΔW only; the left directions of A lie in the r dimensions of each run alone")
    changed = sorted(changed, key=lambda one: one.rank or math.inf)  # the lower rank is i
    updates = [_update(one, side, of) for one in changed]
    before = [_start(one, side) for one in changed]
    base = {name: directions(weights.base, side) for name, weights in changed[0].modules.items()}
    shown = labels([one.run for one in changed])
    pairs = [
        _pair((shown[i], shown[j]), updates[i], updates[j], before[i], before[j])
        for i, j in itertools.combinations(range(len(shown)), 2)
    ]
    pairs += [_pair((shown[i], BASE), updates[i], base, before[i], base) for i in range(len(shown))]
    unknown = {shown[i]: why for i, why in enumerate(before) if isinstance(why, str)}
    return {"side": side, "of": of, "modules": list(changed[0].modules), "start_unknown": unknown, "pairs": pairs}


def directions(delta: Delta | torch.Tensor, side: str) -> torch.Tensor:
    """The singular vectors (d, k) of one side, at most ``MOST``."""
    return decomposed(delta).side(side)[:, :MOST]


def _update(changed: Changed, side: str, of: str) -> Directions:
    if of == "delta":
        return {name: directions(weights.delta, side) for name, weights in changed.modules.items()}
    if not methods.of(changed.run.config.method).on_targets:
        raise Refused(f"{changed.run.folder}: method={changed.run.config.method.name} has no A; leave --of A away")
    trained = trained_factors(changed.run)
    return {name: _of_factor(trained[name], side) for name in changed.modules}


def _start(changed: Changed, side: str) -> Directions | str:
    drawn = drawn_factors(changed.run)
    if isinstance(drawn, str):
        return drawn
    at_start = {name: _of_factor(drawn[name], side) for name in changed.modules}
    if not all(matrix.shape[1] for matrix in at_start.values()):
        return f"{'A' if side == 'right' else 'B'} starts at zero"
    return at_start


def _of_factor(delta: Delta, side: str) -> torch.Tensor:
    """Directions of A's rows (in) or of B's columns (out)."""
    assert delta.a is not None
    return directions(delta.a, "right") if side == "right" else directions(delta.b, "left")


def _pair(
    who: tuple[str, str], one: Directions, other: Directions, one_start: Directions | str, other_start: Directions | str
) -> dict[str, Any]:
    trained = {name: similarity(one[name], other[name]) for name in one}
    k1, k2 = (min(phi.shape[side] for phi in trained.values()) for side in (0, 1))
    d = len(one) / sum(1 / len(matrix) for matrix in one.values())  # so that max(i, j)/d is the mean over layers
    start = None
    if not isinstance(one_start, str) and not isinstance(other_start, str):
        start = {name: similarity(one_start[name], other_start[name]) for name in one}
    return {
        "pair": list(who),
        "directions": [k1, k2],
        "d": d,
        "phi": _grid(trained, k1, k2),
        "start": _grid(start, k1, k2) if start else None,
        "points": [_point(i, j, trained, start, d) for i, j in _points(k1, k2)],
    }


def _points(k1: int, k2: int) -> list[tuple[int, int]]:
    """The top direction, powers of two on the diagonal, and all of both."""
    diagonal = [2**n for n in range(min(k1, k2).bit_length())]
    return list(dict.fromkeys([*((i, i) for i in diagonal), (k1, k2)]))


def _point(
    i: int, j: int, trained: dict[str, torch.Tensor], start: dict[str, torch.Tensor] | None, d: float
) -> dict[str, Any]:
    by_layer = {name: float(phi[i - 1, j - 1]) for name, phi in trained.items()}
    phi, expected = sum(by_layer.values()) / len(by_layer), expected_similarity(i, j, d)
    # A start taken out of W has r directions, what came of it 2r: beyond the start's there is nothing to stand beside.
    known = start and all(i <= matrix.shape[0] and j <= matrix.shape[1] for matrix in start.values())
    at_start = [float(matrix[i - 1, j - 1]) for matrix in start.values()] if start and known else None
    return {
        "i": i,
        "j": j,
        "phi": phi,
        "expected": expected,
        "excess": phi - expected,
        "start": sum(at_start) / len(at_start) if at_start else None,
        "by_module": by_layer,
    }


def _grid(phis: dict[str, torch.Tensor], k1: int, k2: int) -> list[list[float]]:
    """The mean over the layers, as far as all of them reach."""
    k1, k2 = (min(k, *(phi.shape[side] for phi in phis.values())) for side, k in enumerate((k1, k2)))
    mean = torch.stack([phi[:k1, :k2] for phi in phis.values()]).mean(0)
    return [[round(value, 4) for value in row] for row in mean.tolist()]


def trained_factors(run: Run) -> dict[str, Delta]:
    """The factors after training. Raises Refused for an adapter that is no plain LoRA."""
    deltas = factors.read(run.adapter, "analyze --of A").deltas
    if not methods.starts_from_base(run.config.method):
        return deltas
    return {name: _half(delta, 0) for name, delta in deltas.items()}


def drawn_factors(run: Run) -> dict[str, Delta] | str:
    """The factors before training, without their scale, by layer; or why they cannot be known.

    Each layer draws from (seed, name, rank) alone, so a base without values will do.
    """
    method = run.config.method
    if not methods.of(method).is_lora:
        return f"method={method.name} draws no factors of LoRA"
    if method.init_from:
        return "it started from another adapter (method.init_from)"
    if method.init == "eva":
        return "its A came from the data (method.init=eva)"
    if methods.starts_from_base(method):  # the adapter's file then holds it beside what it became
        return {name: _half(delta, 1) for name, delta in factors.read(run.adapter, "analyze").deltas.items()}
    config = copy.deepcopy(run.config)
    kind = config.task.kind
    lm = skeleton(architecture(config.model, base_asset(run)), kind, run.outputs, loading.attention(run))
    lm.to_empty(device="cpu")  # adapters of a base on the meta device get no values
    for parameter in lm.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        model = adapt(lm, replace(config, method=replace(method, init_from=None))).model
    return {
        name.removeprefix(loading.PREFIX): Delta(
            layer.lora_B["default"].weight.detach().double(), layer.lora_A["default"].weight.detach().double()
        )
        for name, layer in inits.layers(model)
    }


def _half(delta: Delta, which: int) -> Delta:
    """[B, −B₀][A; A₀] in its two halves, see ``inits.as_plain``."""
    assert delta.a is not None
    return Delta(delta.b.chunk(2, dim=1)[which], delta.a.chunk(2)[which])
