"""Operations (FLOPs) of a training step: counted by torch's formulas as they run, and for any batch by a fit.

A multiplication and an addition are two operations. Only matrix products and attention count; causal and padded scores
count in full.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from rankwise.measure.shape import Shape

_BEYOND_TORCH: dict[str, Callable[..., int]] = {  # what torch's own registry leaves out
    "aten._scaled_dot_product_flash_attention_for_cpu": lambda *qkv, **_: sdpa_flop_count(*(x.shape for x in qkv[:3])),
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": lambda *given, **_: sdpa_backward_flop_count(
        *(x.shape for x in given[:4])
    ),
    "bitsandbytes.gemm_4bit": lambda input, packed, shape, *_, **__: 2 * input.numel() * shape[0],  # (out, in)
    "bitsandbytes.int8_mixed_scaled_mm": lambda input, quantized, weight, *_, **__: 2 * input.numel() * len(weight),
}


class Tally(TorchDispatchMode):
    """While entered, adds up the operations of what runs into ``flops``.

    Works on real, fake and meta tensors and beside other dispatch modes. Unlike torch's ``FlopCounterMode`` it takes no
    composite kernel apart, so what runs under it is the same to the bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if (formula := flop_registry.get(packet)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        elif (formula := _BEYOND_TORCH.get(str(packet))) is not None:
            self.flops += formula(*args, **(kwargs or {}))
        return result


@dataclass(frozen=True)
class Cost:
    """Operations of a micro-batch of any shape: a sum over its examples, tokens, pairs of tokens, learned tokens where
    the model has a loss on some tokens only, and a constant (DoRA's norms, LoHa's products of factors).
    """

    per_row: int
    per_token: int
    per_pair: int
    constant: int
    per_learned: int = 0

    @classmethod
    def fitted(cls, count: Callable[[Shape], int], like: Shape) -> "Cost":
        """Exactly, from as many counts as there are terms; ``like`` says what batches the run has."""

        def counted(rows: int, length: int, labelled: int = 3) -> int:
            labels = None if like.labelled is None else labelled
            return count(like._replace(rows=rows, length=length, labelled=labels))

        one, two, three, more_rows = counted(2, 4), counted(2, 8), counted(2, 12), counted(3, 4)
        learned = 0 if like.labelled is None else (counted(2, 4, labelled=5) - one) // 2
        pair = (three - 2 * two + one) // 64
        token = (two - one - 96 * pair) // 8
        row = more_rows - one - 4 * token - 16 * pair
        return cls(row, token, pair, one - 2 * row - 8 * token - 32 * pair - 3 * learned, learned)

    def __call__(self, shape: Shape) -> int:
        """Operations of one micro-batch, forward and backward."""
        per_row = self.per_row + self.per_token * shape.length + self.per_pair * shape.length**2
        return shape.rows * per_row + self.constant + self.per_learned * (shape.labelled or 0)
