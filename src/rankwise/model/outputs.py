"""What a model says of a batch: logits of its rows, or of a causal LM at the tokens that are learned."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from rankwise.model.numerics import Numerics

Batch = dict[str, torch.Tensor]

_NOT_INPUTS = frozenset({"labels", "row", "keep", "owner", "bytes"})


def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, C) of rows; of a causal LM (N, V) at the learned tokens of all rows."""
    inputs = {key: value for key, value in batch.items() if key not in _NOT_INPUTS}
    if "keep" not in batch:
        return model(**inputs).logits
    with _logits_only_at(model, batch["keep"]):
        return model(**inputs, use_cache=False).logits[0]


def all_logits(model: nn.Module, batches: Iterable[Batch], settings: Numerics) -> torch.Tensor:
    """``logits`` of several batches, one below the other, in fp32 on the CPU; computed as ``settings`` say."""
    was_training = model.training
    model.to(settings.device).eval()
    with torch.no_grad(), settings.autocast():  # no inference mode: what a quantized layer makes here is trained with
        moved = ({key: value.to(settings.device) for key, value in batch.items()} for batch in batches)
        parts = [logits(model, batch).float().cpu() for batch in moved]
    model.train(was_training)
    return torch.cat(parts)


@contextlib.contextmanager
def _logits_only_at(model: Any, keep_N: torch.Tensor) -> Iterator[None]:
    """Give the output layer only the positions that are learned: with a vocabulary of 50,000, logits of the others
    are the largest thing in memory. What a model does to its logits behind that layer stays as it is.
    """

    def choose(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1).index_select(0, keep_N)[None],)

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    hook = base.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()
