"""What of ``method`` and ``targets`` is refused before anything is loaded: keys against methods, and their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankwise.config import ADAPTERS, LORA, RANKED, Config, Method, own_keys, parse_alpha, peft_class
from rankwise.errors import Refused, did_you_mean

INITS = ("zero_B", "zero_A", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "eva")
CHANGES_BASE = ("pissa", "olora")  # the base gives up what the adapter starts with

# What a variant's name promises, so that a table cannot call an arm by what it is not.
_PROMISES: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "rslora": ("alpha", lambda given: str(given).endswith("sqrt"), "a policy such as 16sqrt"),
    "dora": ("dora", lambda given: given is True, "true"),
    "pissa": ("init", lambda given: str(given).startswith("pissa"), "pissa or pissa_niter_16"),
    "olora": ("init", lambda given: given == "olora", "olora"),
    "eva": ("init", lambda given: given == "eva", "eva"),
    "orthogonal": ("init", lambda given: given == "orthogonal", "orthogonal"),
    "lora_plus": ("lr_ratio", lambda given: given is not None, "a number"),
    "lora_fa": ("freeze_a", lambda given: given is True, "true"),
}
# Keys that one may cross with any method: where they mean nothing, a sweep's arms collapse into one.
_COLLAPSING = frozenset({"name", "lr", "rank", "alpha", "shots", "dim"})
_PEFT_ONLY = {
    "dropout": 0.0,
    "bias": "none",
    "modules_to_save": None,
    "budget": None,
}  # collapse without PEFT


def changes_base(method: Method) -> bool:
    """Whether the start of the adapter is taken out of the base's weights, so that both give the base's logits."""
    return method.name in LORA and str(method.init).startswith(CHANGES_BASE)


def check_keys(config: Config) -> None:
    """Refuse keys that the method does not have, values that they cannot take and pairs that contradict."""
    method = config.method
    for key, given in vars(method).items():
        if given is None or given is False or given == {} or key in _COLLAPSING or key in own_keys(method.name):
            continue
        if key in _PEFT_ONLY and (given == _PEFT_ONLY[key] or method.name not in ADAPTERS):
            continue
        raise Refused.value(f"method.{key}", given, f"null with method={method.name}, which has no such key")
    if method.name in _PROMISES:
        key, kept, allowed = _PROMISES[method.name]
        if not kept(getattr(method, key)):
            raise Refused.value(f"method.{key}", getattr(method, key), f"{allowed} with method={method.name}")
    if "alpha" in own_keys(method.name):
        _check_alpha("method.alpha", method.alpha)
    if method.name in LORA:
        _check_lora(config)
    _check_baseline(config)
    _check_sizes(method)
    if method.init_from is not None and not Path(method.init_from).expanduser().is_dir():
        raise Refused.value("method.init_from", method.init_from, "the folder of a finished run or of an adapter")


def check_patterns(config: Config) -> None:
    """Refuse ``targets.ranks`` and ``targets.alphas`` where there is no rank to differ from, and bad values."""
    targets, method = config.targets, config.method
    for key in ("ranks", "alphas"):
        patterns = getattr(targets, key)
        if not patterns:
            continue
        if method.name not in LORA:
            raise Refused.value(f"targets.{key}", patterns, f"null with method={method.name}; only LoRA has them")
        if key == "ranks" and (method.budget is not None or method.init == "eva"):
            other = "method.budget" if method.budget is not None else "method.init=eva"
            raise Refused.value("targets.ranks", patterns, f"null with {other}, which settles the ranks")
        if not isinstance(patterns, dict):
            raise Refused.value(f"targets.{key}", patterns, "a mapping such as {query: 4}, or null")
        for pattern, value in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise Refused.value(f"targets.{key}", pattern, f"a regular expression ({error})") from None
            if key == "ranks" and (type(value) is not int or value < 1):
                raise Refused.value(f"targets.ranks.{pattern}", value, "an integer of at least 1")
            if key == "alphas":
                _check_alpha(f"targets.alphas.{pattern}", value, roots=False)


def _check_alpha(key: str, alpha: Any, roots: bool = True) -> None:
    try:
        _, kind = parse_alpha(alpha)
    except ValueError:
        kind = None
    if kind is None or (kind == "sqrt" and not roots):
        also = ", or 16sqrt (16/sqrt(r))" if roots else ""
        join = "," if roots else " or"
        raise Refused.value(
            key, alpha, f"a positive number (scale alpha/r){join} a multiple of the rank such as 2r (scale 2){also}"
        )


def _check_lora(config: Config) -> None:
    method, init = config.method, config.method.init
    if init == "loftq":
        why = "PEFT computes it on a CUDA GPU alone, so it is not offered; another start on quant=nf4 is"
        raise Refused.value("method.init", init, why)
    if init is not None and init not in INITS and not re.fullmatch(r"pissa_niter_[1-9][0-9]{0,2}", init):
        raise Refused.value("method.init", init, f"one of {', '.join(INITS)}{did_you_mean(init, INITS)}")
    if method.budget is not None:
        _check_budget(method)
    others = config.targets.ranks if isinstance(config.targets.ranks, dict) else {}
    ranks = [method.rank, *others.values()]
    if init == "orthogonal" and (odd := [rank for rank in ranks if rank is not None and rank % 2]):
        raise Refused.value("method.rank", odd[0], "an even number with method.init=orthogonal")
    if init == "zero_A" and method.freeze_a:
        raise Refused.value("method.freeze_a", True, "false with method.init=zero_A: a product with zero stays zero")
    if method.lr_ratio is not None and not (0 < method.lr_ratio < math.inf):
        raise Refused.value("method.lr_ratio", method.lr_ratio, "a number above 0")
    if changes_base(method):
        if config.quant.kind:
            raise Refused.value("method.init", init, f"another with quant={config.quant.name}: it changes the base")
        if config.trainer.precision == "bf16_true":
            raise Refused.value("trainer.precision", "bf16_true", f"fp32, bf16 or fp16 with method.init={init}")
    if init == "eva" and config.task.packing:
        raise Refused.value("task.packing", True, "false with method.init=eva, which reads batches of single examples")
    if init not in (None, "zero_B") and method.init_from is not None:
        raise Refused.value("method.init", init, "null with method.init_from, which is a start of its own")


def _check_budget(method: Method) -> None:
    if method.rank is not None:
        raise Refused.value("method.budget", method.budget, "null, or method.rank=null: one follows from the other")
    if method.budget is not None and method.budget < 1:
        raise Refused.value("method.budget", method.budget, "a number of parameters, at least 1")
    if method.bias != "none" or method.modules_to_save:
        key = "bias" if method.bias != "none" else "modules_to_save"
        raise Refused.value("method.budget", method.budget, f"null with method.{key}, which has a cost of its own")


def _check_baseline(config: Config) -> None:
    name, kind = config.method.name, config.task.kind
    if name == "few_shot" and kind != "causal_lm":
        raise Refused(f"method=few_shot: needs task.kind=causal_lm, a language model that writes; here it is {kind}")
    if name in ("probe", "tfidf") and kind == "causal_lm":
        raise Refused(f"method={name}: needs labels, which task.kind=causal_lm has not; use method=few_shot")
    if name == "few_shot" and (config.method.shots is None or config.method.shots < 0):
        raise Refused.value("method.shots", config.method.shots, "0 or more examples")


def _check_sizes(method: Method) -> None:
    """Numbers that one method each needs: top_layers, bottleneck, oft, did, said, custom."""
    for name, key, what in (
        ("top_layers", "layers", "how many of the last blocks are trained, at least 1"),
        ("bottleneck", "size", "an inner width of at least 1"),
        ("oft", "block", "the side of the orthogonal blocks, at least 2"),
        ("did", "dim", "numbers to train, at least 1"),
        ("said", "dim", "numbers to train, one of which scales each layer, at least 2"),
    ):
        given = getattr(method, key)
        if method.name == name and (given is None or given < (2 if name in ("oft", "said") else 1)):
            raise Refused.value(f"method.{key}", given, what)
    if method.name == "bottleneck" and method.place not in (None, "both", "mlp"):
        raise Refused.value("method.place", method.place, "one of both, mlp")
    if method.name == "custom":
        named = peft_class(method.peft)
        if not named:
            raise Refused("method=custom: give method.peft={_target_: peft.XConfig, …}")
        if not re.fullmatch(r"[A-Za-z]\w*Config", named):
            raise Refused.value("method.peft._target_", (method.peft or {})["_target_"], "a config class of peft")
    if method.name in RANKED and method.budget is None and method.rank is None and method.name not in LORA:
        raise Refused.value("method.rank", None, "an integer of at least 1")
