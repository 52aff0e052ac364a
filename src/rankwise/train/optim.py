"""The optimizer that a config asks for, the same for a real step and a planned one."""

from typing import Any

import torch
from torch import nn

from rankwise.config import Optim


def build(
    model: nn.Module, optim: Optim, device: str, scaled: bool = False, lr_ratio: float | None = None
) -> torch.optim.Optimizer:
    """AdamW, SGD with momentum or Adafactor over the trainable parameters; no decay on biases and norms, nor on factors
    that do nothing at 1 and not at 0.

    LoRA's B learns ``lr_ratio`` times as fast as the rest (LoRA+, Hayou et al. 2024, §4). The fused kernel makes no
    temporaries and one pass: a fifth of the loop's time for a full update on a CPU. With ``scaled`` losses (fp16) it
    would unscale the gradients after they are clipped, so it is not the default there.
    """
    ratio = 1.0 if lr_ratio is None else lr_ratio
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    faster = {id(p) for name, p in trained if ratio != 1 and "lora_B" in name.split(".")}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in trained if _decays(name, p) == decays and (id(p) in faster) == fast],
            "weight_decay": optim.weight_decay if decays else 0.0,
            "lr": optim.lr * (ratio if fast else 1),
        }
        for decays in (True, False)
        for fast in (False, True)
    ]
    # None leaves the choice to torch: the loop on a CPU, foreach on a GPU.
    foreach = None if optim.kernel is None else optim.kernel == "foreach"
    filled = [group for group in groups if group["params"]]
    if optim.name == "adafactor":
        return torch.optim.Adafactor(filled, lr=optim.lr, foreach=foreach)
    fused = optim.kernel == "fused" or (optim.kernel is None and device in ("cpu", "cuda") and not scaled)
    options: dict[str, Any] = {"lr": optim.lr} | ({"fused": True} if fused else {"foreach": foreach})
    if optim.name == "sgd":
        return torch.optim.SGD(filled, momentum=optim.momentum, **options)
    first, second = optim.betas
    return torch.optim.AdamW(filled, betas=(first, second), **options)


_FACTORS = {"ia3_l", "boft_s"}  # of IA³ (Liu et al. 2022) and BOFT, by PEFT's names: they multiply, and start at 1


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and _FACTORS.isdisjoint(name.split("."))
