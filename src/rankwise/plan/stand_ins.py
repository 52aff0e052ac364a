"""Stand-ins for code that a planned step cannot run: a GPU's attention, and pooling, without values."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  torch's own convention
from torch.overrides import TorchFunctionMode

_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # shapes and saved tensors are those of CUDA's


@contextlib.contextmanager
def without_scores() -> Iterator[None]:
    """Within, torch's scaled dot-product attention keeps what CUDA's kernels keep, dropout and mask included:
    query, key, value, the result and one number per query, no matrix of scores.
    """
    real = F.scaled_dot_product_attention

    def fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return _kernel(query, key, value)[0]

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


class OneEndPerRow(TorchFunctionMode):
    """Within, a mask over (rows, tokens) picks one token of every row, as T5 and BART classify by their end token.

    What an end-of-text mask picks decides shapes, which fake tensors cannot know; every text has one end token.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.unique_consecutive, torch.functional._consecutive_return_output):
            return args[0][:1]
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple) and _is_mask(args[1][0]):
            mask, *rest = args[1]
            rows, tokens = mask.new_zeros(2, mask.shape[0], dtype=torch.long)  # what torch itself makes of a mask
            return args[0][(rows, tokens, *rest)]
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.ndim == 2
