"""Storage of the frozen base: what a quantized linear layer holds, and how much of the rest is cast."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rankwise.config import Quant
from rankwise.model.targets import block_linears, shape

BLOCK, OUTER_BLOCK = 64, 256  # values per quantization constant, and constants per second-level constant (QLoRA, §3)


def cast_base(base: nn.Module, heads: list[str], dtype: torch.dtype) -> None:
    """Store everything but the task head in ``dtype``; heads are trained and stay as they are."""
    for name, child in base.named_children():
        if name not in heads:
            child.to(dtype)


class PlannedLinear(nn.Linear):
    """What a quantized linear layer holds and allocates, for plans: no kernel, no library, right bytes.

    4-bit storage keeps two values per byte and one fp32 constant per 64 values; double quantization keeps that constant
    in 8 bits and one fp32 per 256 of them (Dettmers et al. 2023, §3). 8-bit storage keeps one fp32 constant per row.
    The dense weight is made for each product and dropped, in forward and in backward.
    """

    def __init__(self, linear: nn.Module, quant: Quant):
        nn.Module.__init__(self)
        self.in_features, self.out_features = shape(linear)
        self.logical_numel = self.in_features * self.out_features
        device = linear.get_parameter("weight").device
        constants = -(-self.logical_numel // BLOCK)
        sizes: dict[str, tuple[int, torch.dtype]]
        if quant.kind == "int8":
            stored = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device=device)
            sizes = {"scales": (self.out_features, torch.float32)}
        else:
            stored = torch.empty((self.logical_numel + 1) // 2, 1, dtype=torch.uint8, device=device)
            sizes = {"code": (16, torch.float32), "absmax": (constants, torch.float32)}
            if quant.double:
                outer = -(-constants // OUTER_BLOCK)
                sizes |= {"absmax": (constants, torch.uint8), "outer": (outer, torch.float32)}
                sizes |= {"outer_code": (256, torch.float32), "offset": (1, torch.float32)}
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.weight.logical_numel = self.logical_numel  # type: ignore[attr-defined]
        for name, (count, dtype) in sizes.items():
            self.register_buffer(name, torch.empty(count, dtype=dtype, device=device))
        bias = getattr(linear, "bias", None)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product of the right shape and type; its values mean nothing."""
        result: torch.Tensor = _Product.apply(input, self.out_features)
        return result if self.bias is None else result + self.bias.to(result.dtype)


class _Product(torch.autograd.Function):
    """x·Wᵀ with W made anew in forward and in backward, so that only its quantized form is kept."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, out_features: int) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        ctx.shape = (out_features, input.shape[-1])
        return nn.functional.linear(input, input.new_empty(ctx.shape))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient @ gradient.new_empty(ctx.shape), None


def plan_quantized(base: nn.Module, quant: Quant) -> None:
    """Replace the linear layers of the blocks by what they become under ``quant``."""
    for name, linear in list(block_linears(base)):
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, PlannedLinear(linear, quant))
