"""Exact quantities: parameters, bytes and operations of models on the meta device, as ``rankwise plan`` finds them."""

import itertools
from collections.abc import Callable

from rankwise.claims.claim import Estimate, Spec
from rankwise.claims.configs import blocks, counted, footprint, on_meta, operations
from rankwise.measure.ledger import Ledger
from rankwise.model.targets import block_linears, shape

ADAM_STATES, FP32 = 2, 4  # moments of Adam (Kingma and Ba 2015), each in fp32 as the trained parameters are

FIGURES: dict[str, Callable[[Spec], float]] = {
    "adapter": lambda spec: counted(spec)["params"]["adapter"],  # parameters, without the head's
    "trainable": lambda spec: counted(spec)["params"]["trainable"],
    "base": lambda spec: counted(spec)["params"]["total"] - counted(spec)["params"]["adapter"],
    "weight_bytes": lambda spec: Ledger(on_meta(spec)).footprint().peak,  # as they are stored, constants included
    "state_bytes": lambda spec: _state_bytes(spec),
    "peak_bytes": lambda spec: footprint(spec).peak,  # of one training step
    "activation_bytes": lambda spec: footprint(spec).peaks["activations"],
    "gradient_bytes": lambda spec: footprint(spec).peaks["gradients"],
    "flops": lambda spec: operations(spec)["per_token"],  # of one training step
    "full_flops": lambda spec: operations(spec)["full_per_token"],  # of full fine-tuning of the same base
}
_OF_MOMENTS = ("peak_bytes", "activation_bytes", "gradient_bytes")  # whose moment may be another in a deeper model


def _figure(what: str, spec: Spec) -> float:
    """A figure of a config. All but those of moments grow by the same with every block beyond the first, so that models
    of one block and of two tell them of any depth.
    """
    if what in _OF_MOMENTS:
        return FIGURES[what](spec)
    one, two = (FIGURES[what](spec | {"blocks": n}) for n in (1, 2))
    return one + (blocks(spec) - 1) * (two - one)


def planned(
    what: str, of: Spec | list[Spec], over: str | None = None, to: Spec | None = None, times: float = 1, near: float = 0
) -> Estimate:
    """A figure of a config, ``times`` a constant; as a ratio to another figure (``over``) or another config (``to``).

    Of several configs (a list, or a key with a list of values) the one furthest from ``near`` counts, so that a claim
    about all of them falls with any.
    """
    values, unit = {}, "bytes" if what.endswith("_bytes") else "parameters"
    for spec in _every(of):
        top, bottom = _figure(what, spec) * times, _figure(over or what, to or spec) if over or to else 1.0
        words = " ".join(f"{key}={value}" for key, value in spec.items() if "." not in key)
        values[words] = (top / bottom, f"{top:,.0f} and {bottom:,.0f} {unit}" if to else "")
    worst = max(values, key=lambda words: abs(values[words][0] - near))
    value, note = values[worst]
    return Estimate.exact(float(value), f"of {len(values)} settings: {worst}" if len(values) > 1 else note)


def bits_saved(model: str) -> Estimate:
    """Bits that double quantization saves per value of the quantized layers."""
    spec = {"model": model, "blocks": 1}  # of which all are alike
    plain, double = (FIGURES["weight_bytes"](spec | {"quant": quant}) for quant in ("nf4", "nf4_double"))
    linears = [layer for name, layer in block_linears(on_meta(spec)) if "lora_" not in name]
    return Estimate.exact(8 * (plain - double) / sum(d_in * d_out for d_in, d_out in map(shape, linears)))


def _state_bytes(spec: Spec) -> float:
    """Weights as they are stored, and of what is trained a gradient and Adam's two moments; no activations."""
    trained = sum(p.numel() for p in on_meta(spec).parameters() if p.requires_grad)
    return FIGURES["weight_bytes"](spec) + trained * FP32 * (1 + ADAM_STATES)


def _every(of: Spec | list[Spec]) -> list[Spec]:
    if isinstance(of, list):
        return of
    values = [value if isinstance(value, list) else [value] for value in of.values()]
    return [dict(zip(of, combination, strict=True)) for combination in itertools.product(*values)]
