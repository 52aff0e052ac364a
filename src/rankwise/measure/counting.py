"""Counts floating point operations as they run, by torch's own formulas."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
_FLASH = "_scaled_dot_product_flash_attention_for_cpu"  # which torch's own registry leaves out


def counter() -> FlopCounterMode:
    """Counts matrix products and attention kernels of whatever runs within: ``get_total_flops()``.

    Works on real, fake and meta tensors and beside other dispatch modes. It takes composite kernels apart to look
    inside, so a step under it computes and holds something else: for real steps there is ``Tally``.
    """
    mapping = {getattr(aten, _FLASH): _flash, getattr(aten, f"{_FLASH}_backward"): _flash_backward}
    if "bitsandbytes" in sys.modules:
        products = torch.ops.bitsandbytes
        mapping |= {products.gemm_4bit: _product_4bit, products.int8_mixed_scaled_mm: _product_8bit}
    return FlopCounterMode(display=False, custom_mapping=mapping)


class Tally(TorchDispatchMode):
    """The same count in ``flops``, of the operations as they are: what runs under it is the same to the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._formulas = counter().flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _flash(query: Any, key: Any, value: Any, *others: Any, **options: Any) -> int:
    rows, heads, length, width = query
    return 2 * rows * heads * length * key[-2] * (width + value[-1])  # QKᵀ and PV


def _flash_backward(gradient: Any, query: Any, key: Any, value: Any, *others: Any, **options: Any) -> int:
    rows, heads, length, width = query
    return 2 * rows * heads * length * key[-2] * (3 * width + 2 * value[-1])  # QKᵀ again, dQ and dK; dP and dV


def _product_4bit(input: Any, packed: Any, shape: Any, *others: Any, **options: Any) -> int:
    return 2 * math.prod(input) * shape[0]  # the weight is (out, in)


def _product_8bit(input: Any, quantized: Any, weight: Any, *others: Any, **options: Any) -> int:
    return 2 * math.prod(input) * weight[0]
