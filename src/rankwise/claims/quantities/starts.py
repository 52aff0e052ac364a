"""Exact quantities of small random models with real weights: what an adapter is before the first step."""

import torch
from torch import nn

from rankwise.claims.claim import Estimate
from rankwise.claims.configs import config_of
from rankwise.measure.random_models import base_model, batch
from rankwise.model.adapt import adapt

ROWS, LENGTH = 4, 16


def start_gap(models: list[str]) -> Estimate:
    """The largest difference of any logit between the base and the same with a fresh adapter."""
    gaps = []
    for model in models:
        config = config_of({"model": model, "targets": "attention"})
        base = base_model(config).eval()
        inputs = batch(base, ROWS, LENGTH)
        with torch.no_grad():
            before = base(**inputs).logits
            after = adapt(base, config).model.eval()(**inputs).logits
        gaps.append(float((after - before).abs().max()))
    return Estimate.exact(max(gaps))


def zeros_at_start(model: str) -> Estimate:
    """The share of values that are zero before training in B, less that in A: 1 where all of B's are, none of A's."""
    fresh = dict(_fresh(model).named_parameters())
    a, b = (
        torch.cat([p.detach().flatten() for name, p in fresh.items() if f"lora_{factor}" in name]) for factor in "AB"
    )
    return Estimate.exact(float((b == 0).double().mean() - (a == 0).double().mean()))


def frozen_gradients(models: list[str]) -> Estimate:
    """How many parameters that are neither an adapter's nor the head's have a gradient after a backward pass."""
    number = 0
    for model in models:
        adapted = _fresh(model)
        adapted(**batch(adapted, ROWS, LENGTH)).logits.sum().backward()
        outside = [p for name, p in adapted.named_parameters() if "lora_" not in name and "modules_to_save" not in name]
        number += sum(p.grad is not None for p in outside)
    return Estimate.exact(float(number))


def _fresh(model: str) -> nn.Module:
    config = config_of({"model": model, "targets": "attention"})
    return adapt(base_model(config), config).model
