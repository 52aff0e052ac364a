"""Attention as CUDA's kernels keep it: query, key, value, the result and one number per query, no matrix of scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  torch's own convention

_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # shapes and saved tensors are those of CUDA's


@contextlib.contextmanager
def without_scores() -> Iterator[None]:
    """Within, torch's scaled dot-product attention behaves as on a GPU, dropout and mask included."""
    real = F.scaled_dot_product_attention

    def fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return _kernel(query, key, value)[0]

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real
