"""How many parameters: trainable, frozen, adapter, head."""

from __future__ import annotations

from torch import nn


def count(model: nn.Module, heads: list[str]) -> dict[str, int]:
    """Parameters by kind; the parts sum to the total.

    PEFT keeps an untrained copy of each module that it trains in full; the copies are not counted.
    """
    trainable = frozen = head = 0
    for name, parameter in model.named_parameters():
        if ".original_module." in f".{name}.":
            continue
        size = parameter.numel()
        if not parameter.requires_grad:
            frozen += size
            continue
        trainable += size
        if any(f".{part}." in f".{name}." for part in heads):
            head += size
    total = trainable + frozen
    assert total == sum(p.numel() for n, p in model.named_parameters() if ".original_module." not in f".{n}.")
    return {"trainable": trainable, "frozen": frozen, "total": total, "adapter": trainable - head, "head": head}
