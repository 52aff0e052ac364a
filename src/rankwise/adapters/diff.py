"""Two runs side by side: what was set otherwise, how far apart their ΔWs are, and their scores, paired by row."""

import math
from typing import Any

import torch

from rankwise import methods
from rankwise.adapters import factors, loading, merge
from rankwise.adapters.factors import Delta, Deltas
from rankwise.adapters.runs import Run
from rankwise.compare import aligned, on_rows, predictions_of
from rankwise.config import flat, plain
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.model.targets import OF_BLOCK, block_linears
from rankwise.tracking.predictions import Unreadable


def diff(one: Run, other: Run) -> dict[str, Any]:
    """Config keys, layers and scores that differ. What cannot be compared says why instead."""
    a, b = flat(plain(one.config)), flat(plain(other.config))
    configs = {key: [a.get(key), b.get(key)] for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}
    head = {"runs": [one.name, other.name], "config": configs, "same_base": one.base == other.base}
    return head | _modules(one, other) | {"scores": scores(one, other)}


def scores(one: Run, other: Run) -> dict[str, Any]:
    """Every score that both have, and the paired difference where it is of the same rows."""
    mine, theirs = one.record.scores, other.record.scores
    cells: dict[str, dict[str, Any]] = {}
    reason = "no metric of theirs can be computed again from predictions"
    for name in [name for name in mine if name in theirs]:
        metric = named(name).among(len(one.classes or ()))
        cells[name] = {"scores": [mine[name], theirs[name]], "difference": None}
        if metric.weighted is None:
            continue
        try:
            a, b = (predictions_of(run.record, metric) for run in (one, other))
        except Unreadable as why:
            reason = str(why)
            continue
        if aligned(a, b, metric):
            cells[name]["difference"] = on_rows(metric, a.columns, b.columns)
        else:
            reason = "the runs were tested on different rows"
    unpaired = not any(cell["difference"] for cell in cells.values())
    return {"metrics": cells, "not_paired": reason if unpaired else None}


def deltas(run: Run) -> Deltas:
    """ΔW by layer, where it is not zero: of plain LoRA from its file alone, else merged less the base."""
    if _is_plain(run):
        loading.check(run)
        return factors.read(run.adapter, "diff").deltas
    lm, _ = loading.dense_base(run)
    before = {name: loading.dense(layer).clone() for name, layer in block_linears(lm)}
    merged = merge.fold(loading.adapted(lm, run), run)
    after = {name: loading.dense(layer) for name, layer in block_linears(merged)}
    changes = ((name, weight.double() - before[name]) for name, weight in after.items())
    adds = methods.of(run.config.method).on_targets  # to W, which rounds; others trained the weights themselves
    return {name: Delta(change, None, adds * _rounding(after[name])) for name, change in changes if bool(change.any())}


def _rounding(weight: torch.Tensor) -> float:
    """A bound of the errors' singular values where all values were rounded to fp32: of independent ones the largest is
    about the largest norm of a row and of a column together (Bandeira and van Handel 2016).
    """
    return torch.finfo(torch.float32).eps * sum(float(weight.norm(dim=side).max()) for side in (0, 1))


def _is_plain(run: Run) -> bool:
    """Whether the run left factors of plain LoRA, and trained no matrix of a block beside them."""
    config = loading.adapter_config(run.adapter) if methods.of(run.config.method).on_targets else None
    if config is None or factors.why_not_plain(config):
        return False
    whole = (name for name, sides in loading.shapes(run.adapter).items() if len(sides) > 1 and ".lora_" not in name)
    return not any(map(OF_BLOCK.search, whole))


def why_none(run: Run) -> str | None:
    """Why a run has no ΔW to compare; None where it has."""
    name, declared = run.config.method.name, methods.of(run.config.method)
    if declared.is_baseline:
        return f"method={name} trains no model"
    if declared.trains == "all" and not (run.adapter / "model.safetensors").is_file():
        return "method=full kept no weights (trainer.save_full=false)"
    if declared.trains == "subspace":
        return f"the few numbers of method={name} move all weights as the model computes"
    return None if declared.changes_matrices else f"method={name} changes no weight matrix of the blocks"


def _modules(one: Run, other: Run) -> dict[str, Any]:
    distances: dict[str, Any] = {"modules": {}, "all_modules": None, "only_in": [[], []], "not_compared": None}
    if reasons := dict.fromkeys(filter(None, map(why_none, (one, other)))):
        return distances | {"not_compared": "; ".join(reasons)}
    try:
        a, b = deltas(one), deltas(other)
    except Refused as why:
        return distances | {"not_compared": str(why)}
    named_by_any = {*a, *b}
    a, b = (factors.in_parts(own, named_by_any) for own in (a, b))
    both = [name for name in a if name in b and a[name].sides == b[name].sides]
    if not both:
        distances["not_compared"] = "the runs adapt no module in common"
    products = {name: (a[name].dot(a[name]), b[name].dot(b[name]), a[name].dot(b[name])) for name in both}
    aa, bb, ab = (sum(column) for column in zip(*products.values(), strict=True)) if both else (0.0, 0.0, 0.0)
    distances["modules"] = {name: _apart(*names) for name, names in products.items()}
    distances["all_modules"] = _apart(aa, bb, ab) if aa and bb else None
    distances["only_in"] = [sorted(set(names) - set(both)) for names in (a, b)]
    return distances


def _apart(aa: float, bb: float, ab: float) -> dict[str, Any]:
    """‖ΔW − ΔW'‖ / ‖ΔW‖ and the cosine of the two, of their inner products; null where a norm is zero."""
    return {
        "norms": [math.sqrt(max(0.0, square)) for square in (aa, bb)],
        "distance": math.sqrt(max(0.0, aa + bb - 2 * ab) / aa) if aa > 0 else None,
        "cosine": max(-1.0, min(1.0, ab / math.sqrt(aa * bb))) if aa > 0 and bb > 0 else None,
    }
