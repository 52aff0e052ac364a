"""Operations (FLOPs) of a training step: counted by torch's formulas as they run, and for any batch of the run.

A multiplication and an addition are two operations. Only matrix products and attention count; causal and padded scores
count in full.
"""

from collections import Counter
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
    """While entered, notes the operations of each product that runs; ``flops`` is their sum.

    Works on real, fake and meta tensors and beside other dispatch modes. Unlike torch's ``FlopCounterMode`` it takes no
    composite kernel apart, so what runs under it is the same to the bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.each: list[int] = []

    @property
    def flops(self) -> int:
        """Of all that has run."""
        return sum(self.each)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if (formula := flop_registry.get(packet)) is not None:
            self.each.append(formula(*args, **(kwargs or {}), out_val=result))
        elif (formula := _BEYOND_TORCH.get(str(packet))) is not None:
            self.each.append(formula(*args, **(kwargs or {})))
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
    def factored(cls, each: Callable[[Shape], list[int]], like: Shape) -> "Cost | None":
        """From the products of one batch, whose numbers of rows, tokens and learned tokens are primes.

        What a product is proportional to can then be read off its prime factors. Wrong where a size of the model has
        one of the primes: to be held against a count. None where that is evident.
        """
        primes = (1009, 29 if like.length == 31 else 31, 37)
        labels = None if like.labelled is None else primes[2]
        terms: Counter[tuple[int, ...]] = Counter()
        for product in each(like._replace(rows=primes[0], length=primes[1], labelled=labels)):
            powers = []
            for prime in primes:
                powers.append(0)
                while product and product % prime == 0:
                    product, powers[-1] = product // prime, powers[-1] + 1
            terms[tuple(powers)] += product
        cost = cls(*(terms.pop(powers, 0) for powers in ((1, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, 0), (0, 0, 1))))
        return None if terms else cost

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
