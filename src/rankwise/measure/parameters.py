"""How many parameters: trainable, frozen, adapter, head."""

import math
from collections.abc import Iterator

from torch import nn

from rankwise.tracking.groups import Params


def count(model: nn.Module, heads: list[str]) -> Params:
    """Parameters by kind.

    A weight that several modules share counts once, where it is seen first; a quantized one as the values that it
    stands for. PEFT keeps an untrained copy of each module that it trains in full; the copies are not counted.
    """
    owned = dict(_owned(model))
    total = sum(map(numel, owned.values()))
    trained = {name: numel(p) for name, p in owned.items() if p.requires_grad}
    trainable = sum(trained.values())
    head = sum(size for name, size in trained.items() if any(f".{module}." in f".{name}." for module in heads))
    sizes: Params = {"trainable": trainable, "frozen": total - trainable, "total": total}
    return sizes | {"adapter": trainable - head, "head": head}


def numel(parameter: nn.Parameter) -> int:
    """Values that a parameter stands for; 4-bit storage keeps two of them in one uint8 element."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    if shape is not None:
        return math.prod(shape)
    return int(getattr(parameter, "logical_numel", None) or parameter.numel())


def _owned(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each distinct parameter with its name, module by module."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            full = f"{path}.{name}" if path else name
            if parameter is not None and id(parameter) not in seen and not is_copy(full):
                seen.add(id(parameter))
                yield full, parameter


def is_copy(name: str) -> bool:
    """Whether a parameter is of a module as it was, which PEFT keeps beside the one that is trained."""
    return "original_module" in name.split(".")
