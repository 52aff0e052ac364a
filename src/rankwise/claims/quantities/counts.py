"""Exact quantities: parameters and bytes of models that are built on the meta device, as ``rankwise plan`` does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rankwise.claims.configs import Spec, config_of, counted
from rankwise.claims.estimate import Estimate
from rankwise.measure.ledger import Ledger
from rankwise.measure.parameters import saving
from rankwise.model.skeleton import architecture
from rankwise.model.targets import block_linears, shape
from rankwise.plan.fake import build
from rankwise.tracking.record import Record

ADAM_STATES, FP32 = 2, 4  # moments of Adam (Kingma and Ba 2015), each in fp32 as the trained parameters are


def layer_parameters(records: Sequence[Record], d_in: int, d_out: int, rank: int, show: str) -> Estimate:
    """LoRA on one linear layer: its ``count``, the ``saving`` against the layer's own, or their ``ratio``."""
    with torch.device("meta"):
        layer = nn.Sequential(nn.Linear(d_in, d_out, bias=False))
    adapted = get_peft_model(layer, LoraConfig(r=rank, target_modules=["0"]))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    full = d_in * d_out
    shown = {"count": trained, "saving": saving(trained, full), "ratio": full / trained}
    return Estimate.exact(float(shown[show]))


def parameters(
    records: Sequence[Record], of: Spec | list[Spec], show: str = "adapter", near: float | None = None
) -> Estimate:
    """``adapter`` (without the head), ``trainable`` or ``total`` parameters; of several settings those that are
    furthest from ``near``, so that a claim about all of them falls with any.
    """
    specs = of if isinstance(of, list) else [of]
    found = [float(counted(spec)["params"][show]) for spec in specs]
    return Estimate.exact(max(found, key=lambda count: abs(count - (near or 0.0))))


def largest_share(records: Sequence[Record], models: list[str], targets: list[str], ranks: list[int]) -> Estimate:
    """Adapter's share of the base's parameters: the largest over all combinations. "Always below" needs the largest."""
    cells: dict[str, float] = {}
    for model, target, rank in itertools.product(models, targets, ranks):
        params = counted({"model": model, "targets": target, "rank": rank})["params"]
        cells[f"{model} {target} r={rank}"] = params["adapter"] / (params["total"] - params["adapter"])
    worst = max(cells, key=lambda cell: cells[cell])
    small = sum(share < 0.01 for share in cells.values())
    return Estimate.exact(cells[worst], f"the largest is {worst}; {small} of {len(cells)} settings are below 1 %")


def fewer_times(records: Sequence[Record], of: Spec) -> Estimate:
    """How many times fewer parameters are trained than the base has."""
    params = counted(of)["params"]
    return Estimate.exact((params["total"] - params["adapter"]) / params["adapter"])


def stored_bytes(records: Sequence[Record], of: Spec, bytes_each: int = 4) -> Estimate:
    """What must be kept of a run: its trained values, in so many bytes each."""
    return Estimate.exact(float(counted(of)["params"]["trainable"] * bytes_each))


def checkpoint_ratio(records: Sequence[Record], of: Spec) -> Estimate:
    """How many times smaller the file of trained values is than one of the whole base, in the same type."""
    params = counted(of)["params"]
    return Estimate.exact((params["total"] - params["adapter"]) / params["trainable"])


def state_bytes(records: Sequence[Record], of: Spec) -> Estimate:
    """Weights as they are stored, and of what is trained a gradient and Adam's two moments; no activations."""
    return Estimate.exact(float(sum(_states(of))))


def state_ratio(records: Sequence[Record], of: Spec, to: Spec) -> Estimate:
    """The same, of one setting over another."""
    return Estimate.exact(sum(_states(of)) / sum(_states(to)))


def weight_bytes(records: Sequence[Record], of: Spec) -> Estimate:
    """Weights as they are stored, constants of quantization included."""
    return Estimate.exact(float(_states(of)[0]))


def bits_saved(records: Sequence[Record], model: str) -> Estimate:
    """Bits that double quantization saves per value of the quantized layers."""
    plain, double = (_states({"model": model, "quant": quant})[0] for quant in ("nf4", "nf4_double"))
    base = _meta({"model": model})
    values = sum(d_in * d_out for d_in, d_out in (shape(layer) for _, layer in _base_linears(base)))
    return Estimate.exact(8 * (plain - double) / values)


def _states(spec: Spec) -> tuple[int, int]:
    """Bytes of all weights; bytes of gradients and moments."""
    model = _meta(spec)
    weights = Ledger(model).footprint().peak
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return weights, trained * FP32 * (1 + ADAM_STATES)


def _meta(spec: Spec) -> Any:
    config = config_of(spec)
    return build(config, architecture(config.model, None), 2, None, "bf16").model


def _base_linears(model: Any) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in block_linears(model) if "lora_" not in name]
