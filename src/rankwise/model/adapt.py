"""From a base LM to a trainable one, by the config's method."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise import methods
from rankwise.config import Config
from rankwise.errors import Refused, reason
from rankwise.model import fused
from rankwise.model.base import head_names
from rankwise.model.methods import adalora, bottleneck, inits, intrinsic, lora, tuners
from rankwise.model.methods import partial as partly
from rankwise.model.methods.nested import Nested
from rankwise.model.methods.peft_warnings import CANNOT, quiet_peft
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.methods.warm_start import warm_start
from rankwise.model.outputs import Batch
from rankwise.model.targets import adapted_modules, ends_with, modules_named, shape

Prepare = Callable[[Iterable[Batch], Callable[[Batch], torch.Tensor]], None]


@dataclass
class Adapted:
    """A model with its trainable parameters marked."""

    model: nn.Module
    heads: list[str]  # children that are the task head
    lora: dict[str, Any] = field(default_factory=dict)  # scale, alpha, rank, min_side, ranks per module
    start: inits.Start = field(default_factory=dict)  # A and B before training, where the base gave them up
    prepare: Prepare | None = None  # to be called with training batches and a batch's loss before the first step

    def described(self) -> dict[str, Any]:
        """``lora`` with the ranks that are left, where training changes them."""
        return self.lora | ({"ranks": left} if (left := adalora.ranks(self.model)) else {})


def adapt(base: nn.Module, config: Config) -> Adapted:
    """Mark what ``config.method`` trains. A base on the meta device (a plan's) is adapted without any values.

    Raises Refused for a rank, targets or a method that do not fit this model.
    """
    heads = head_names(base)
    method, planned = config.method, next(base.parameters()).is_meta
    trains = methods.of(method).trains
    if trains == "all":
        base.requires_grad_(True)
        return Adapted(base, heads)
    if trains == "subspace":
        intrinsic.insert(base, config)
        return Adapted(base, heads)
    if trains != "adapter":
        partly.unfreeze(base, method, heads)
        if trains == "modules":
            bottleneck.insert(base, method, config.seed)
        adapted = Adapted(base, heads)
    else:
        adapted = _with_peft(base, config, heads, planned)
    if method.init_from and not planned:
        adapted.lora["init_from"] = warm_start(adapted.model, method.init_from, heads)
    return adapted


def _with_peft(base: nn.Module, config: Config, heads: list[str], planned: bool) -> Adapted:
    method = config.method
    base.requires_grad_(False)
    fused.split(base, config)
    names = adapted_modules(base, config.targets)
    sides = {name: shape(base.get_submodule(name)) for name in names}
    extras = _extras(base, names, method.modules_to_save or [])
    common = {
        "target_modules": "|".join(map(re.escape, names)),  # a pattern of whole names: a list would match by suffix
        "modules_to_save": [*heads, *extras],
        "task_type": TaskType.CAUSAL_LM if config.task.writes else TaskType.SEQ_CLS,
        "revision": config.model.revision,
    }
    if not methods.of(method).is_lora:
        settings = tuners.peft_config(config, base, sides, common)
        model = _peft_model(base, settings, config, planned)
        return Adapted(model, heads, tuners.described(config, sides))
    chosen = lora.sizes(config, sides)
    model = _peft_model(base, lora.peft_config(config, chosen, common), config, planned)
    start = {} if planned else inits.initialise(model, method.init, config.seed)
    if method.freeze_a:
        for _, layer in inits.layers(model):
            layer.lora_A.requires_grad_(False)
    scales = {name: chosen.scale(name) for name in names}
    same = len(set(scales.values())) == 1
    described = {
        "rank": chosen.rank,
        "alpha": chosen.alpha,
        "scale": scales[names[0]] if same else None,
        "min_side": min(map(min, sides.values())),
        "ranks": chosen.ranks,
        **({} if same else {"scales": scales}),
    }
    from_data: dict[str | None, Prepare] = {
        "eva": lambda batches, loss: inits.eva(model, batches),
        "lora_ga": partial(inits.lora_ga, model, start),
    }
    prepare = None if planned else from_data.get(method.init)
    if method.nested:
        Nested(model, method.nested, chosen.rank, method.alpha, config.seed)
    return Adapted(model, heads, described, start, prepare)


def _peft_model(base: nn.Module, settings: PeftConfig, config: Config, planned: bool) -> PeftModel:
    """PEFT's model. What it cannot do with this base is refused with its own words."""
    if hasattr(settings, "fan_in_fan_out"):  # GPT-2 keeps weights as (in, out)
        settings.fan_in_fan_out = any(isinstance(module, Conv1D) for module in base.modules())
    torch.manual_seed(derived_seed(config.seed, config.method.name))  # of what PEFT draws
    try:
        with quiet_peft():
            model = get_peft_model(base, settings, low_cpu_mem_usage=planned)
    except CANNOT as error:
        raise Refused(f"method={config.method.name}: PEFT cannot adapt this model so ({reason(error)})") from None
    assert isinstance(model, PeftModel)
    factors = getattr(settings, "boft_n_butterfly_factor", 1)
    for name, parameter in model.named_parameters():
        if "boft_R" in name.split(".") and len(parameter) < factors:
            raise Refused.value("method.peft.boft_n_butterfly_factor", factors, "PEFT takes 1 where nvcc is missing")
        if "ranknum" in name.split("."):  # AdaLoRA's constant, which PEFT forgets to freeze on the meta device
            parameter.requires_grad_(False)
    return model


def _extras(base: nn.Module, names: list[str], extras: list[str]) -> list[str]:
    """Full names of the modules that are trained beside the adapter, if there are such and they carry none.

    PEFT takes the end of a name without its dot, so that ``norm`` would train every ``input_layernorm`` too.
    """
    every = [name for name, _ in base.named_modules(remove_duplicate=False)]
    for extra in extras:
        if any(ends_with(name, extra) for name in names):
            raise Refused.value("method.modules_to_save", extra, "a module that carries no adapter")
        if not (modules := modules_named(base, [extra])):
            last = names[0].split(".")[-1]
            raise Refused.value("method.modules_to_save", extra, f"the last part of a module's name, such as {last}")
        if odd := next((name for name in every if name not in modules and f".{name}".endswith(tuple(modules))), None):
            raise Refused.value("method.modules_to_save", extra, f"a module whose name PEFT does not take {odd} for")
    return modules_named(base, extras)
