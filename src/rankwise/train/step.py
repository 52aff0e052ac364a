"""What one training step does, the same for a real run and a planned one."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import nn

from rankwise.errors import Refused
from rankwise.model.methods import adalora
from rankwise.tasks.scores import Scorer

Batch = dict[str, torch.Tensor]


def losses(model: nn.Module, scorer: Scorer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and the loss of each item (B,)."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "row")}
    logits_BC = model(**inputs).logits
    return logits_BC, scorer.losses(logits_BC, batch["labels"])


def loss(model: nn.Module, losses_B: torch.Tensor) -> torch.Tensor:
    """What a step descends: the mean over items, and the method's penalty where it has one."""
    extra = adalora.penalty(model)
    return losses_B.mean() if extra is None else losses_B.mean() + extra


def checkpoint_blocks(model: Any) -> None:
    """Recompute each block's activations in the backward pass instead of keeping them (Chen et al. 2016).

    Not reentrant, so that no input needs a gradient of its own: transformers asks for one all the same, which would
    send the backward pass down to the embeddings whatever is frozen. Raises Refused where a model cannot.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    enable = getattr(
        base, "activation_checkpointing_enable", base.gradient_checkpointing_enable
    )  # until transformers 6
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise Refused.value("trainer.gradient_checkpointing", True, f"false: {error}") from None
    base.disable_input_require_grads()
