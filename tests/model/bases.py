"""Tiny bases as a run loads them, and what they say of a few texts."""

from typing import Any

import torch
from torch import nn

from rankwise.assets import resolve
from rankwise.check import check
from rankwise.config import Config
from rankwise.model import base
from rankwise.model.adapt import Adapted, adapt

TEXTS = ["the cat sat", "a much longer sentence about nothing at all", "x"]


def load(config: Config) -> tuple[nn.Module, Any]:
    return base.load(config.model, resolve(config.model), 2, config.seed)


def build(config: Config) -> Adapted:
    check(config)
    return adapt(load(config)[0], config)


def logits(model: nn.Module, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
