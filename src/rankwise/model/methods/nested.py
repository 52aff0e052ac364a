"""Nested LoRA: the first r rows of A and columns of B are LoRA of rank r, for several r at once.

    y = W x + s(r) · B[:, :r] (A[:r, :] x),   s(r) the scale that LoRA of rank r has

A step descends the mean of two losses of its batch: of the whole rank, and of a smaller one that is drawn for the step.
A rank drawn for each step is DyLoRA's (Valipour et al. 2023); that the whole takes part in every step is the sandwich
rule of slimmable networks (Yu and Huang 2019), without which the whole lags behind in a run of few steps.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from rankwise.alpha import scale_of
from rankwise.model.methods import inits
from rankwise.model.methods.seeds import derived_seed


class Nested:
    """What cuts a model's LoRA to its leading ``ranks``, the last of which is the whole. ``alpha`` is their policy.

    The rank that is drawn for optimizer step ``step`` is that of all its micro-batches, on every device.
    """

    def __init__(self, model: PeftModel, smaller: Sequence[int], whole: int, alpha: Any, seed: int):
        self.seed, self.step = seed, 0
        self.ranks = [*sorted(rank for rank in set(smaller) if rank < whole), whole]
        scales = {rank: scale_of(alpha, rank) / scale_of(alpha, whole) for rank in self.ranks}
        self.factors = [[scale] * rank + [0.0] * (whole - rank) for rank, scale in scales.items()]
        self.now_1R: torch.Tensor | None = None  # what A x is multiplied by
        for _, layer in inits.layers(model):
            layer.lora_A["default"].register_forward_hook(self._cut)
        model.nested = self

    @contextlib.contextmanager
    def only(self, rank: int | None = None) -> Iterator[None]:
        """Pass through the first ``rank`` rows and columns alone, or through a smaller rank that is drawn."""
        if rank is None:
            rank = random.Random(derived_seed(self.seed, "nested", self.step)).choice(self.ranks[:-1])
        self.now_1R = torch.tensor([self.factors[self.ranks.index(rank)]])
        try:
            yield
        finally:
            self.now_1R = None

    def _cut(self, layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        return None if self.now_1R is None else output * self.now_1R.to(output)


def of(model: nn.Module) -> Nested | None:
    """What cuts the model to lower ranks, where its method does."""
    return getattr(model, "nested", None)
