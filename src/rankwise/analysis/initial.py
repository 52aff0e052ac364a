"""LoRA's factors as they were before training, drawn once more from the run's seed."""

import copy
from dataclasses import replace

import torch

from rankwise import methods
from rankwise.adapters import factors, loading
from rankwise.adapters.factors import Delta
from rankwise.adapters.runs import Run, base_asset
from rankwise.model.adapt import adapt
from rankwise.model.methods import inits
from rankwise.model.skeleton import architecture, skeleton


def from_base(run: Run) -> bool:
    """Whether the start was taken out of W (PiSSA, OLoRA): the adapter's file then holds it beside what it became."""
    return methods.starts_from_base(run.config.method)


def trained(run: Run) -> dict[str, Delta]:
    """The factors after training. Raises Refused for an adapter that is no plain LoRA."""
    deltas = factors.read(run.adapter, "analyze --of A").deltas
    return {name: _half(delta, 0) for name, delta in deltas.items()} if from_base(run) else deltas


def drawn(run: Run) -> dict[str, Delta] | str:
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
    if from_base(run):
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
