"""Methods that train some of the base's own weights and add none: the head, biases, the last blocks."""

import re

from torch import nn

from rankwise.errors import Refused
from rankwise.methods import Method

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.")


def unfreeze(base: nn.Module, method: Method, heads: list[str]) -> None:
    """Mark the weights that ``method`` trains, the task head always among them; all others are frozen.

    ``bitfit``: every bias of the base (Ben Zaken et al. 2022, §3). ``top_layers``: its last ``layers`` blocks.
    Raises Refused where the base has no such weights.
    """
    base.requires_grad_(False)
    for name in heads:
        base.get_submodule(name).requires_grad_(True)
    if method.name == "bitfit":
        biases = [p for n, p in base.named_parameters() if n.split(".")[-1] == "bias" and n.split(".")[0] not in heads]
        if not biases:
            raise Refused.value("method.name", "bitfit", f"a model with biases, which {_architecture(base)} has not")
        for parameter in biases:
            parameter.requires_grad_(True)
    elif method.name == "top_layers":
        for block in _last_blocks(base, int(method.layers or 0), heads):
            base.get_submodule(block).requires_grad_(True)


def _last_blocks(base: nn.Module, count: int, heads: list[str]) -> list[str]:
    """Names of the last ``count`` blocks, of the stack that comes last where there are several."""
    blocks = [match for n, _ in base.named_parameters() if n.split(".")[0] not in heads and (match := _BLOCK.match(n))]
    if not blocks:
        raise Refused.value("method.name", "top_layers", f"a model of numbered blocks, unlike {_architecture(base)}")
    stack = blocks[-1][1]
    numbers = sorted({int(match[2]) for match in blocks if match[1] == stack})
    if count > len(numbers):
        raise Refused.value("method.layers", count, f"at most {len(numbers)}, the blocks of this model")
    return [f"{stack}.{number}" for number in numbers[-count:]]


def _architecture(base: nn.Module) -> str:
    return str(getattr(base.config, "model_type", type(base).__name__))
