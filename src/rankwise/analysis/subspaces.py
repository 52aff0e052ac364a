"""Do two runs learn the same directions? φ between ranks and seeds, and against W (Hu et al. 2021, §7.2 and §H.4)."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from rankwise import methods
from rankwise.adapters import factors, loading
from rankwise.adapters.factors import Delta
from rankwise.adapters.runs import Run, base_asset
from rankwise.analysis.measures import decomposed, similarity
from rankwise.analysis.weights import Changed, labels
from rankwise.errors import Refused
from rankwise.model.adapt import adapt
from rankwise.model.base import architecture, skeleton
from rankwise.model.methods import inits

MOST = 64  # directions of a matrix that has more, as of full fine-tuning and of W

Directions = dict[str, torch.Tensor]  # (d, k) by layer, orthonormal columns, the most important first
Learned = tuple[str, Directions, Directions | str]  # whose, after training, and before it or why that is not known


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
    runs = list(zip(labels([one.run for one in changed]), updates, before, strict=True))
    pairs = [_pair(*two) for two in [*itertools.combinations(runs, 2), *((run, ("W", base, base)) for run in runs)]]
    unknown = {name: why for name, _, why in runs if isinstance(why, str)}
    return {"side": side, "of": of, "modules": list(changed[0].modules), "start_unknown": unknown, "pairs": pairs}


def directions(delta: Delta | torch.Tensor, side: str) -> torch.Tensor:
    """The singular vectors (d, k) of one side, at most ``MOST``."""
    return decomposed(delta).side(side)[:, :MOST]


def _update(changed: Changed, side: str, of: str) -> Directions:
    if of == "delta":
        return {name: directions(weights.delta, side) for name, weights in changed.modules.items()}
    if not methods.of(changed.run.config.method).on_targets:
        raise Refused(f"{changed.run.folder}: method={changed.run.config.method.name} has no A; leave --of A away")
    of_a = _of_factors(trained_factors(changed.run), changed, side)
    if isinstance(of_a, str):
        raise Refused(f"{changed.run.folder}: {of_a}; leave --of A away, or choose others with --module")
    return of_a


def _start(changed: Changed, side: str) -> Directions | str:
    drawn = drawn_factors(changed.run)
    if isinstance(drawn, str):
        return drawn
    at_start = _of_factors(drawn, changed, side)
    if not isinstance(at_start, str) and not all(matrix.shape[1] for matrix in at_start.values()):
        return f"{'A' if side == 'right' else 'B'} starts at zero"
    return at_start


def _of_factors(deltas: dict[str, Delta], changed: Changed, side: str) -> Directions | str:
    """Directions of A's rows (in) or of B's columns (out); or which layer was trained whole."""
    which, deltas = "a" if side == "right" else "b", factors.in_parts(deltas, set(changed.modules))
    if whole := next((name for name in changed.modules if name not in deltas), None):
        return f"{whole} was trained without factors"
    return {name: directions(getattr(deltas[name], which), side) for name in changed.modules}


def _pair(first: Learned, second: Learned) -> dict[str, Any]:
    (name, one, one_start), (other_name, other, other_start) = first, second
    by_layer = _similarities(one, other)
    phi, (k1, k2) = by_layer.mean(0), by_layer.shape[1:]
    start = None
    if not isinstance(one_start, str) and not isinstance(other_start, str):
        # A start taken out of W has r directions, what came of it 2r: beyond the start's none can stand beside it.
        start = _similarities(one_start, other_start).mean(0)[:k1, :k2]
    d = len(one) / sum(1 / len(matrix) for matrix in one.values())  # so that max(i, j)/d is the mean over layers

    def point(i: int, j: int) -> dict[str, Any]:
        own, expected = float(phi[i - 1, j - 1]), max(i, j) / d  # of random ones, i·j/d over min(i, j)
        at_start = float(start[i - 1, j - 1]) if start is not None and i <= len(start) and j <= start.shape[1] else None
        modules = dict(zip(one, by_layer[:, i - 1, j - 1].tolist(), strict=True))
        shown = {"i": i, "j": j, "phi": own, "expected": expected, "excess": own - expected}
        return shown | {"start": at_start, "by_module": modules}

    # The top direction, powers of two on the diagonal, and all of both.
    points = dict.fromkeys([*((2**n, 2**n) for n in range(min(k1, k2).bit_length())), (k1, k2)])
    grids = [None if grid is None else [[round(x, 4) for x in row] for row in grid.tolist()] for grid in (phi, start)]
    sizes = {"pair": [name, other_name], "directions": [k1, k2], "d": d}
    return sizes | {"phi": grids[0], "start": grids[1], "points": [point(i, j) for i, j in points]}


def _similarities(one: Directions, other: Directions) -> torch.Tensor:
    """φ of each layer, (layers, i, j), as far as all of them reach."""
    phis = [similarity(one[name], other[name]) for name in one]
    k1, k2 = (min(phi.shape[side] for phi in phis) for side in (0, 1))
    return torch.stack([phi[:k1, :k2] for phi in phis])


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
    if methods.starts_from_base(method):  # the file of plain LoRA then holds it beside what it became
        if why := factors.why_not_plain(loading.adapter_config(run.adapter)):
            return f"its start was taken out of W (method.init={method.init}) and is not in its file ({why})"
        return {name: _half(delta, 1) for name, delta in factors.read(run.adapter, "analyze").deltas.items()}
    config = copy.deepcopy(run.config)
    kind = config.task.kind
    lm = skeleton(architecture(config.model, base_asset(run)), kind, run.outputs, run.record.compute.get("attention"))
    lm.to_empty(device="cpu").requires_grad_(False)  # adapters of a base on the meta device get no values
    with torch.no_grad():
        model = adapt(lm, config).model
    drawn = {}
    for name, layer in inits.layers(model):
        b, a = (side["default"].weight.detach().double() for side in (layer.lora_B, layer.lora_A))
        drawn[name.removeprefix(loading.PREFIX)] = Delta(b, a)
    return drawn


def _half(delta: Delta, which: int) -> Delta:
    """[B, −B₀][A; A₀] in its two halves, see ``inits.as_plain``."""
    assert delta.a is not None
    return Delta(delta.b.chunk(2, dim=1)[which], delta.a.chunk(2)[which])
