"""Two runs side by side: what was set otherwise, how far apart their ΔWs are, and their scores, paired by row."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise.adapters import factors, loading, merge
from rankwise.adapters.runs import Run
from rankwise.compare import on_rows
from rankwise.config import ADAPTERS, BASELINES, plain
from rankwise.metrics import named
from rankwise.model import fused
from rankwise.model.targets import block_linears
from rankwise.tracking.predictions import Unreadable, read


def diff(one: Run, other: Run) -> dict[str, Any]:
    """Config keys, modules and scores that differ. What cannot be compared says why instead."""
    return {
        "runs": [one.name, other.name], "config": configs(one, other), "same_base": one.base == other.base,
        **_modules(one, other), "scores": scores(one, other),
    }  # fmt: skip


def configs(one: Run, other: Run) -> dict[str, list[Any]]:
    """Keys with two values, both of them."""
    a, b = _flat(plain(one.config)), _flat(plain(other.config))
    return {key: [a.get(key), b.get(key)] for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def scores(one: Run, other: Run) -> dict[str, Any]:
    """Every test metric that both have, and the paired difference where their test rows are the same."""
    mine, theirs = (run.record.metrics.get("test", {}) for run in (one, other))
    found: dict[str, dict[str, Any]] = {
        name: {"scores": [mine[name], theirs[name]], "difference": None} for name in mine if name in theirs
    }
    try:
        a, b = (read(run.folder, run.name) for run in (one, other))
    except Unreadable as why:
        return {"metrics": found, "not_paired": str(why)}
    if not np.array_equal(a.items, b.items) or not np.array_equal(a.columns["label"], b.columns["label"]):
        return {"metrics": found, "not_paired": "the runs were tested on different rows"}
    for name, cell in found.items():
        metric = named(name)
        if metric.weighted and metric.name == name and {*metric.columns} <= {*a.columns}:
            cell["difference"] = on_rows(metric, a.columns, b.columns)
    return {"metrics": found, "not_paired": None}


def compare(a: factors.Delta, b: factors.Delta) -> dict[str, Any]:
    """‖ΔW − ΔW'‖ / ‖ΔW‖ and the cosine of the two, null where a norm is zero."""
    aa, bb, ab = a.dot(a), b.dot(b), a.dot(b)
    return {
        "norms": [math.sqrt(max(0.0, aa)), math.sqrt(max(0.0, bb))],
        "distance": math.sqrt(max(0.0, aa + bb - 2 * ab) / aa) if aa > 0 else None,
        "cosine": max(-1.0, min(1.0, ab / math.sqrt(aa * bb))) if aa > 0 and bb > 0 else None,
    }


def deltas(run: Run) -> dict[str, factors.Delta]:
    """ΔW by module: of plain LoRA from its file alone, of other methods by merging and subtracting the base."""
    if run.config.method.name in ADAPTERS and factors.why_not_plain(loading.adapter_config(run.adapter)) is None:
        return factors.read(run.adapter, "diff").deltas
    lm, _ = loading.dense_base(run)
    fused.join(lm)  # a quantized one comes in parts, a merged model does not
    before = {name: _dense(layer).clone() for name, layer in block_linears(lm)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # the adapter was made for parts that lie the other way
        merged = merge.fold(loading.adapted(lm, run), run)
    after = {name: _dense(layer) for name, layer in block_linears(merged)}
    changed = {name: (after[name].double() - weight.double()) for name, weight in before.items()}
    return {name: factors.Delta(change, None) for name, change in changed.items() if bool(change.any())}


def why_none(run: Run) -> str | None:
    """Why a run has no ΔW to compare; None where it has."""
    name = run.config.method.name
    if name in BASELINES:
        return f"method={name} trains no model"
    if name == "full" and not (run.adapter / "model.safetensors").is_file():
        return "method=full kept no weights (trainer.save_full=false)"
    if name in ("head", "bitfit", "bottleneck"):
        return f"method={name} changes no weight matrix of the blocks"
    return None


def _modules(one: Run, other: Run) -> dict[str, Any]:
    reasons = [why for run in (one, other) if (why := why_none(run))]
    if reasons:
        return {
            "modules": {},
            "all_modules": None,
            "not_compared": "; ".join(dict.fromkeys(reasons)),
            "only_in": [[], []],
        }
    a, b = deltas(one), deltas(other)
    both = [name for name in a if name in b and a[name].sides == b[name].sides]
    only = [sorted(set(x) - set(both)) for x in (a, b)]
    total = [sum(p[name].dot(q[name]) for name in both) for p, q in ((a, a), (b, b), (a, b))]
    return {
        "modules": {name: compare(a[name], b[name]) for name in both}, "all_modules": _all(*total), "only_in": only,
        "not_compared": None if both else "the runs adapt no module in common",
    }  # fmt: skip


def _all(aa: float, bb: float, ab: float) -> dict[str, float] | None:
    if not aa or not bb:
        return None
    return {"distance": math.sqrt(max(0.0, aa + bb - 2 * ab) / aa), "cosine": ab / math.sqrt(aa * bb)}


def _dense(layer: nn.Module) -> torch.Tensor:
    weight = layer.get_parameter("weight").detach()
    return weight.T if isinstance(layer, Conv1D) else weight


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found
