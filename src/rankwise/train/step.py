"""What one training step does, the same for a real run and a planned one."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from rankwise.errors import Refused
from rankwise.measure.shape import Shape
from rankwise.model import outputs
from rankwise.model.methods import adalora, nested
from rankwise.model.outputs import Batch
from rankwise.tasks.scores import Scorer


def losses(model: nn.Module, scorer: Scorer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and the loss of each row (B,); of a causal LM, logits (N, V) and losses (N,) of learned tokens.

    Nested LoRA trains on the mean of the losses of its whole rank and of a drawn one.
    """
    logits = outputs.logits(model, batch)
    losses_N = scorer.losses(logits, batch["labels"])
    if model.training and (cut := nested.of(model)):
        with cut.only():
            losses_N = (losses_N + scorer.losses(outputs.logits(model, batch), batch["labels"])) / 2
    return logits, losses_N


def loss(model: nn.Module, losses_N: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """What a step descends: the mean over rows or learned tokens, and the method's penalty where it has one.

    ``share`` weighs a micro-batch, so that one with fewer counts for less, and a step has the whole penalty.
    """
    whole, extra = losses_N.mean(), adalora.penalty(model)
    if extra is not None:
        whole = whole + extra
    return whole if share == 1 else whole * share


def shares(step: Sequence[Shape], accumulate: int | None = None) -> list[float]:
    """The weights of a step's micro-batches, by their learned tokens, else by their rows.

    Divided by ``accumulate``, which is how a trainer averages, they sum to 1, also where the step has fewer of them.
    """
    counts = [shape.labelled or shape.rows for shape in step]
    return [count * (accumulate or len(step)) / sum(counts) for count in counts]


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
