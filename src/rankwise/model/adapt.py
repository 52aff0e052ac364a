"""From a base LM to a trainable one: full fine-tuning, the head alone, or LoRA."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise.config import Config, Method, parse_alpha, scale_of
from rankwise.errors import Refused
from rankwise.model.base import head_names
from rankwise.model.targets import adapted_modules, shape


@dataclass
class Adapted:
    """A model with its trainable parameters marked."""

    model: nn.Module
    heads: list[str]  # children that are the task head
    lora: dict[str, Any] = field(default_factory=dict)  # scale, alpha, rank, min_side, ranks per module


def adapt(base: nn.Module, config: Config) -> Adapted:
    """Mark what ``config.method`` trains. Raises Refused for a rank or targets that do not fit this model."""
    heads = [] if config.task.kind == "causal_lm" else head_names(base)  # a language model's is part of the base
    if config.method.name == "full":
        base.requires_grad_(True)
        return Adapted(base, heads)
    base.requires_grad_(False)
    if config.method.name == "head":
        for name in heads:
            base.get_submodule(name).requires_grad_(True)
        return Adapted(base, heads)
    return _lora(base, config, heads)


def _lora(base: nn.Module, config: Config, heads: list[str]) -> Adapted:
    method, rank = config.method, int(config.method.rank or 0)
    names = adapted_modules(base, config.targets)
    sides = {name: shape(base.get_submodule(name)) for name in names}
    narrowest = min(names, key=lambda name: min(sides[name]))
    if rank > min(sides[narrowest]):
        d_in, d_out = sides[narrowest]
        raise Refused.value(
            "method.rank", rank, f"at most {min(d_in, d_out)}, the smaller side of {narrowest} ({d_in} × {d_out})"
        )
    known = {name for name, _ in base.named_modules()}
    for extra in method.modules_to_save or []:
        if any(name == extra or name.endswith(f".{extra}") for name in names):
            raise Refused.value("method.modules_to_save", extra, "a module that carries no adapter")
        if not any(name == extra or name.endswith(f".{extra}") for name in known):
            raise Refused.value(
                "method.modules_to_save", extra, f"the last part of a module's name, such as {narrowest.split('.')[-1]}"
            )
    number, kind = parse_alpha(method.alpha)
    alpha = number * rank if kind == "r" else number
    task = TaskType.CAUSAL_LM if config.task.kind == "causal_lm" else TaskType.SEQ_CLS
    settings = _peft_config(method, rank, alpha, kind, names, heads, task)
    settings.fan_in_fan_out = isinstance(base.get_submodule(narrowest), Conv1D)  # GPT-2 keeps weights as (in, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is on its way out
        planned = base.get_submodule(narrowest).get_parameter("weight").is_meta
        model = get_peft_model(base, settings, low_cpu_mem_usage=planned)
    if not planned:
        seed_adapters(model, config.seed)
    lora = {
        "rank": rank, "alpha": alpha, "scale": scale_of(method.alpha, rank), "min_side": min(sides[narrowest]),
        "ranks": dict.fromkeys(names, rank),
    }  # fmt: skip
    return Adapted(model, heads, lora)


def _peft_config(
    method: Method, rank: int, alpha: float, kind: str, names: list[str], heads: list[str], task: TaskType
) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=kind == "sqrt",
        lora_dropout=method.dropout,
        bias=method.bias,
        target_modules="|".join(map(re.escape, names)),  # a pattern of whole names: a list would match by suffix
        modules_to_save=[*heads, *(method.modules_to_save or [])],
        task_type=task,
    )


def seed_adapters(model: nn.Module, seed: int) -> None:
    """Draw every A anew from (seed, module name, rank), as PEFT does (Kaiming uniform), B stays zero.

    With one global generator, A of r=8 would be the first rows of A of r=64 and depend on the order of the modules;
    their subspaces would look alike before any training.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            for weight in (layer.weight for layer in module.lora_A.values()):
                generator = torch.Generator().manual_seed(derived_seed(seed, name, weight.shape[0]))
                with torch.no_grad():
                    fresh = torch.empty(weight.shape)
                    nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                    weight.copy_(fresh)


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from the parts, the same on every machine."""
    return int(hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:15], 16)
