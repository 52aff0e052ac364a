"""Models of a claim's shape with random weights, for what does not depend on their values: timings, starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rankwise.config import Config
from rankwise.model import fused
from rankwise.model.adapt import adapt
from rankwise.model.base import auto_class
from rankwise.model.skeleton import architecture


def base_model(config: Config, seed: int) -> Any:
    """The base of ``config`` in fp32, with its own vocabulary and fresh random weights."""
    shape = architecture(config.model, None)
    shape.num_labels, shape.pad_token_id = 2, shape.pad_token_id or 0
    torch.manual_seed(seed)
    return auto_class(config.task.kind, shape).from_config(shape, dtype=torch.float32)


def adapted_model(config: Config, base: Any) -> nn.Module:
    """The base, changed in place, with what ``config.method`` trains marked."""
    return adapt(base, config).model


def merged_model(config: Config, base: Any) -> nn.Module:
    """The same with its adapter merged: the layers of the base, those that were taken apart for it made one again."""
    model: nn.Module = adapted_model(config, base).merge_and_unload()  # type: ignore[operator]
    fused.join(model)
    return model


def batch(model: Any, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens without padding; no token is the padding's, at which some models pool."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.config.vocab_size, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
