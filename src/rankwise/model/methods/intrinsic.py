"""Fine-tuning in a random subspace: θ = θ₀ + P·z, where z alone is trained (Li et al. 2018; Aghajanyan et al. 2020).

P has one entry in each row, ±1/√n in a random column, n being the entries of that column (a count sketch, Charikar et
al. 2002). Its columns are orthonormal exactly, it costs four bytes per weight, and P·z is one look-up for each. The
papers use Fastfood (Le et al. 2013) or dense matrices, which for 22.7M weights × 1,000 would be 90 GB.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model.methods.seeds import derived_seed

PLACES = "_subspace"  # behind a weight's name: where P has the entries of its rows


def insert(base: nn.Module, config: Config) -> None:
    """Freeze all weights, the task head's too, and let ``method.dim`` numbers move them.

    Each module adds P·z to its weights when it is called, so that autograd carries their gradients to z; its own values
    are what they were. Works on the meta device. Raises Refused where the subspace is larger than the model.
    """
    owned = list(_owned(base))
    sizes = {id(weight): weight.numel() for _, _, _, weight in owned}
    dim, total = int(config.method.dim or 0), sum(sizes.values())
    if dim > total:
        raise Refused.value("method.dim", dim, f"at most {total}, the parameters of this model")
    base.requires_grad_(False)
    device = next(base.parameters()).device
    base.register_parameter("subspace", nn.Parameter(torch.zeros(dim, device=device)))
    entries = torch.zeros(dim, device=device)
    drawn: dict[int, torch.Tensor] = {}  # tied weights move together
    for full, module, name, weight in owned:
        if id(weight) not in drawn:
            drawn[id(weight)] = _places(weight, dim, derived_seed(config.seed, "subspace", full))
            if not weight.is_meta:
                entries += torch.bincount(drawn[id(weight)] % dim, minlength=dim)
        module.register_buffer(name + PLACES, drawn[id(weight)], persistent=False)
    base.register_buffer("subspace_norms", entries.clamp(min=1).rsqrt(), persistent=False)
    for module in {id(module): module for _, module, _, _ in owned}.values():
        _move(module, [name for _, own, name, _ in owned if own is module], base)


def offset(base: Any, places: torch.Tensor) -> torch.Tensor:
    """P·z for the rows of P whose entries are at ``places`` (N,): a place below d is +, one from d on is −."""
    z = base.subspace * base.subspace_norms
    return torch.cat([z, -z]).index_select(0, places)


def _move(module: nn.Module, names: list[str], base: nn.Module) -> None:
    """Put moved weights before the module's own while it is called. Parameters stay where they are, for whoever looks:
    an attribute of the instance is found before them.
    """

    def enter(_: nn.Module, args: Any) -> None:
        for name in names:
            weight, places = module._parameters[name], module._buffers[name + PLACES]
            assert weight is not None and places is not None
            module.__dict__[name] = weight + offset(base, places).view_as(weight).to(weight.dtype)

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        for name in names:
            module.__dict__.pop(name, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)


def _places(weight: torch.Tensor, dim: int, seed: int) -> torch.Tensor:
    """(N,) random numbers below 2d, one for each value of the weight: its column and its sign."""
    if weight.is_meta:
        return torch.empty(weight.numel(), dtype=torch.int32, device="meta")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2 * dim, (weight.numel(),), generator=generator, dtype=torch.int32).to(weight.device)


def _owned(base: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Every weight: its full name, the module that has it, its name there, itself."""
    for path, module in base.named_modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                yield f"{path}.{name}".lstrip("."), module, name, weight
