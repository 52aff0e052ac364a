"""Attention as CUDA's kernels keep it: query, key, value, the result and one number per query, no matrix of scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  torch's own convention


class _Fused(torch.autograd.Function):
    """Shapes and saved tensors of a flash or memory-efficient kernel (Dao et al. 2022, algorithm 2); no values."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(query)
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, result, logsumexp)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextlib.contextmanager
def without_scores() -> Iterator[None]:
    """Within, torch's scaled dot-product attention behaves as on a GPU, dropout and mask included."""
    real = F.scaled_dot_product_attention

    def fused(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **options: Any) -> Any:
        return _Fused.apply(query, key, value)

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real
