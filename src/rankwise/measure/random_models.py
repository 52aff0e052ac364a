"""Models of a config's shape with random weights, for what does not depend on their values: timings, starts."""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from rankwise.config import Config
from rankwise.model import base, fused
from rankwise.model.adapt import adapt


def base_model(config: Config, architecture: PretrainedConfig | None = None, attention: str | None = None) -> Any:
    """The base of ``config`` in fp32, with its own vocabulary and fresh random weights, drawn from its seed.

    ``architecture`` is what a run has loaded, with as many outputs as the head has; without it, it is ``model.shape``
    with two. ``attention`` is transformers' implementation; None is the model's own choice.
    """
    shape = base.architecture(config.model, None) if architecture is None else architecture
    torch.manual_seed(config.seed)
    return base.skeleton(shape, config.task.kind, shape.num_labels, attention, "cpu")


def merged_model(config: Config, base: Any) -> nn.Module:
    """The base with its adapter merged: the layers of the base, those that were taken apart for it made one again."""
    model: nn.Module = adapt(base, config).model.merge_and_unload()  # type: ignore[operator]
    fused.join(model)
    return model


def batch(model: Any, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens without padding, on the model's device; no token is the padding's, at which some models pool. Those
    that pool at the end token, encoder-decoders, get one per row.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.config.vocab_size, (rows, length), generator=generator)
    ids[ids == (model.config.pad_token_id or 0)] -= 1
    if model.config.is_encoder_decoder:
        ids[:, -1] = model.config.eos_token_id
    ids = ids.to(next(model.parameters()).device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
