"""AdaLoRA in a training loop of ours: its schedule, its penalty, and the ranks that are left.

PEFT's model does both itself only for who hands labels to its forward and counts steps for it.
"""

import math
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel
from peft.tuners.adalora import AdaLoraLayer
from torch import nn

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of each singular value, and its averages (equations 8 to 11)
START = 1.5  # rank at the start over the mean rank at the end (Zhang et al. 2023, §4.1)


def start_rank(rank: int) -> int:
    """The rank that every layer starts with."""
    return math.ceil(START * rank)


def begin(model: nn.Module, steps: int) -> None:
    """Set the schedule for a run of ``steps``: prune from a tenth of it to the middle, a hundred times at most."""
    if (config := _config(model)) is None:
        return
    config.total_step = max(2, steps)  # a single step has no importance to go by yet
    config.tinit, config.deltaT = steps // 10, max(1, steps // 100)
    config.tfinal = steps // 2 if steps >= 4 else 0


def after_step(model: nn.Module, step: int) -> None:
    """Prune what matters least (Algorithm 1), after optimizer step ``step`` from 1 and before gradients are dropped.

    Those of a step that fp16 skipped are not finite, and averages of importance would never be again.
    """
    config = _config(model)
    if config is not None and step <= (config.total_step or 0):
        for gradient in (p.grad for p in model.parameters() if p.grad is not None):
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        model.base_model.update_and_allocate(step)  # type: ignore[union-attr,operator]


def is_pruned(model: nn.Module, step: int) -> bool:
    """Whether the ranks are what they will be, after optimizer step ``step``; always, for any other method."""
    config = _config(model)
    return config is None or step >= (config.total_step or 0) - config.tfinal


def state(model: nn.Module) -> dict[str, Any]:
    """What the schedule knows beside the weights, for a run that goes on; nothing for any other method."""
    if (config := _config(model)) is None:
        return {}
    allocator = model.base_model.rankallocator  # type: ignore[union-attr]
    return {"pattern": config.rank_pattern} | {name: dict(getattr(allocator, name)) for name in _IMPORTANCE}


def restore(model: nn.Module, state: dict[str, Any]) -> None:
    """Put ``state`` back."""
    if (config := _config(model)) is not None:
        config.rank_pattern = state["pattern"]
        for name in _IMPORTANCE:
            setattr(model.base_model.rankallocator, name, state[name])  # type: ignore[union-attr]


def penalty(model: nn.Module) -> torch.Tensor | None:
    """γ times the mean distance of A Aᵀ and Bᵀ B from the identity; None for any other method.

    After equation 4, which squares and adds these; the mean of plain ones is PEFT's.
    """
    if (config := _config(model)) is None:
        return None
    factors = [(layer.lora_A["default"], layer.lora_B["default"]) for layer in _layers(model).values()]
    grams = [gram for a, b in factors for gram in (a @ a.T, b.T @ b)]
    distances = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
    return config.orth_reg_weight * torch.stack(distances).mean()


def ranks(model: nn.Module) -> dict[str, int]:
    """Singular values of each layer that are not pruned, by its name in the base; nothing for any other method."""
    return {
        name.removeprefix("base_model.model."): int(layer.lora_E["default"].count_nonzero())
        for name, layer in _layers(model).items()
    }


def forget_ranks(model: nn.Module) -> None:
    """Drop PEFT's note of what it pruned last, which need not fit the weights of the best step.

    With it, saving would cut the factors to the noted ranks; without, pruned values are stored as the zeros they are.
    """
    if (config := _config(model)) is not None:
        config.rank_pattern = None


def _config(model: nn.Module) -> AdaLoraConfig | None:
    if not isinstance(getattr(model, "base_model", None), AdaLoraModel):
        return None
    config = model.peft_config["default"]  # type: ignore[index]
    assert isinstance(config, AdaLoraConfig)
    return config


def _layers(model: nn.Module) -> dict[str, AdaLoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaLoraLayer)}
