"""Fine-tuning in a random subspace: θ = θ₀ + P·z, where z alone is trained (Li et al. 2018; Aghajanyan et al. 2020).

P has one entry in each row, ±1/√n in a random column, n being the entries of that column (a count sketch, Charikar et
al. 2002). Its columns are orthonormal exactly, it costs four bytes per weight, and P·z is one look-up for each. The
papers use Fastfood (Le et al. 2013) or dense matrices, which for 22.7M weights × 1,000 would be 90 GB.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model.methods.seeds import derived_seed

_BLOCK = re.compile(r"^.*?\.\d+(?=\.)")
_PLACES = "_subspace"  # behind a weight's name: where P has the entries of its rows


def insert(base: nn.Module, config: Config) -> None:
    """Freeze all weights, the task head's too, and let ``method.dim`` numbers move them.

    ``did`` spends all of them on z. ``said`` keeps one for each layer, by which P·z is scaled there, so that a layer
    can move more than others (Aghajanyan et al. 2020, §3.1). Each module adds P·z to its weights when it is called, so
    that autograd carries their gradients to z; its own values are what they were. Works on the meta device.
    Raises Refused where the subspace is larger than the model, or has no more numbers than there are layers.
    """
    owned = list(_owned(base))
    sizes = {id(weight): weight.numel() for _, _, _, weight in owned}
    layers = list(dict.fromkeys(_layer(full) for full, *_ in owned)) if config.method.name == "said" else []
    dim, total = int(config.method.dim or 0), sum(sizes.values())
    if not len(layers) < dim <= total:
        least = f"more than {len(layers)}, which are the scales of layers, and " if layers else ""
        raise Refused.value("method.dim", dim, f"{least}at most {total}, the parameters of this model")
    base.requires_grad_(False)
    free, device = dim - len(layers), next(base.parameters()).device
    base.register_parameter("subspace", nn.Parameter(torch.zeros(free, device=device)))
    if layers:
        base.register_parameter("subspace_scales", nn.Parameter(torch.ones(len(layers), device=device)))
    entries = torch.zeros(free, device=device)
    drawn: dict[int, torch.Tensor] = {}  # tied weights move together
    for full, module, name, weight in owned:
        if id(weight) not in drawn:
            drawn[id(weight)] = _places(weight, free, derived_seed(config.seed, "subspace", full))
            if not weight.is_meta:
                entries += torch.bincount(drawn[id(weight)] % free, minlength=free)
        module.register_buffer(name + _PLACES, drawn[id(weight)], persistent=False)
    base.register_buffer("subspace_norms", entries.clamp(min=1).rsqrt(), persistent=False)
    for module in {id(module): module for _, module, _, _ in owned}.values():
        names = {name: _layer(full) for full, own, name, _ in owned if own is module}
        _move(module, {name: layers.index(layer) if layers else None for name, layer in names.items()}, base)


def offset(base: Any, places: torch.Tensor, scale: int | None) -> torch.Tensor:
    """λ·P·z for the rows of P whose entries are at ``places`` (N,): a place below d is +, one from d on is −."""
    z = base.subspace * base.subspace_norms
    moved = torch.cat([z, -z]).index_select(0, places)
    return moved if scale is None else moved * base.subspace_scales[scale]


def _move(module: nn.Module, scales: dict[str, int | None], base: nn.Module) -> None:
    """Put moved weights before the module's own while it is called. Parameters stay where they are, for whoever looks:
    an attribute of the instance is found before them.
    """

    def enter(_: nn.Module, args: Any) -> None:
        for name, scale in scales.items():
            weight, places = module._parameters[name], module._buffers[name + _PLACES]
            assert weight is not None and places is not None
            module.__dict__[name] = weight + offset(base, places, scale).view_as(weight).to(weight.dtype)

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        for name in scales:
            module.__dict__.pop(name, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)


def _places(weight: torch.Tensor, free: int, seed: int) -> torch.Tensor:
    """(N,) random numbers below 2d, one for each value of the weight: its column and its sign."""
    if weight.is_meta:
        return torch.empty(weight.numel(), dtype=torch.int32, device="meta")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2 * free, (weight.numel(),), generator=generator, dtype=torch.int32).to(weight.device)


def _owned(base: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Every weight: its full name, the module that has it, its name there, itself."""
    for path, module in base.named_modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                yield f"{path}.{name}".lstrip("."), module, name, weight


def _layer(full: str) -> str:
    """The block that a weight is in, or what is outside the blocks: embeddings, a pooler, the head."""
    block = _BLOCK.match(full)
    return block[0] if block else ".".join(full.split(".")[:-1][:2])
