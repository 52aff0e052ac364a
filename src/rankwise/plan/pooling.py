"""Pooling at the end token, as T5's and BART's classifiers do, for tensors without values."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OneEndPerRow(TorchFunctionMode):
    """Within, a mask over (rows, tokens) picks one token of every row.

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
