"""PEFT's other adapters: one config each, with what PEFT cannot do refused by name."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import peft
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoKrConfig, OFTConfig, PeftConfig, VeraConfig
from peft.tuners.lokr.layer import factorization
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise import methods
from rankwise.alpha import scale_of
from rankwise.config import Config
from rankwise.errors import Refused, did_you_mean, reason
from rankwise.methods import RANK_KEYS, peft_class
from rankwise.model.methods import adalora
from rankwise.model.methods.lora import Sides
from rankwise.model.methods.peft_warnings import quiet_peft
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.targets import is_last_of_mlp

Common = dict[str, Any]  # target_modules, modules_to_save, task_type, revision
_NOT_TO_GIVE = {  # keys that follow from targets, method and model, as a record says; and a module to import
    *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "modules_to_save", "trainable_token_indices", "task_type", "peft_type", "inference_mode"),
    *("revision", "base_model_name_or_path", "fan_in_fan_out", "megatron_config", "megatron_core"),
}


def peft_config(config: Config, base: nn.Module, sides: Sides, common: Common) -> PeftConfig:
    """PEFT's config of ``config.method``. Raises Refused for what this model or these values do not allow."""
    declared = methods.of(config.method)
    odd = next((name for name in sides if isinstance(base.get_submodule(name), Conv1D)), None)
    if odd and not declared.transposed:
        allowed = f"a method that PEFT has for transposed layers such as {odd}"
        raise Refused.value("method.name", declared.name, allowed)
    with quiet_peft():
        return _MAKERS[declared.name](config, sides, common)


def described(config: Config, sides: Sides) -> dict[str, Any]:
    """Rank, α and scale for the record, null where the method has none, and the rank of every layer."""
    rank = config.method.rank
    alpha, scale = (None, None) if config.method.alpha is None else _alpha(config)
    ranks = dict.fromkeys(sides, rank) if rank else {}
    return {"rank": rank, "alpha": alpha, "scale": scale, "min_side": min(map(min, sides.values())), "ranks": ranks}


def _alpha(config: Config) -> tuple[float, float]:
    """(α, scale) with scale = α/r, r being the rank at the start."""
    rank = int(config.method.rank or 0)
    rank = adalora.start_rank(rank) if config.method.name == "adalora" else rank
    scale = scale_of(config.method.alpha, rank)
    return scale * rank, scale


def _fit(config: Config, sides: Sides, times: float = 1) -> int:
    """The rank, if every layer has room for so many times as much."""
    rank, (name, (d_in, d_out)) = int(config.method.rank or 0), min(sides.items(), key=lambda layer: min(layer[1]))
    if times * rank > min(d_in, d_out):
        share = f"as it starts with {times:g} times as many: 1/{times:g} of " * (times != 1)
        allowed = f"at most {int(min(d_in, d_out) / times)}, {share}the smaller side of {name} ({d_in} × {d_out})"
        raise Refused.value("method.rank", rank, allowed)
    return rank


def _adalora(config: Config, sides: Sides, common: Common) -> PeftConfig:
    method, rank = config.method, _fit(config, sides, adalora.START)
    return AdaLoraConfig(
        init_r=adalora.start_rank(rank),
        target_r=rank,
        lora_alpha=_alpha(config)[0],
        lora_dropout=method.dropout,
        bias=method.bias,
        total_step=10**9,
        **common,
    )


def _vera(config: Config, sides: Sides, common: Common) -> PeftConfig:
    return VeraConfig(
        r=int(config.method.rank or 0),
        vera_dropout=config.method.dropout,
        save_projection=False,
        projection_prng_key=derived_seed(config.seed, "vera") % 2**31,
        **common,
    )


def _ia3(config: Config, sides: Sides, common: Common) -> PeftConfig:
    inputs = [name for name in sides if is_last_of_mlp(name)]  # scaled where they come in
    return IA3Config(feedforward_modules="|".join(map(re.escape, inputs)) if inputs else [], **common)


def _of_lycoris(config: Config, sides: Sides, common: Common) -> PeftConfig:
    """LoHa and LoKr, which take rank and alpha alone."""
    rank = _fit(config, sides)
    if config.method.name == "loha":
        return LoHaConfig(r=rank, alpha=_alpha(config)[0], **common)
    largest = {name: max(factorization(side)[1] for side in sides[name]) for name in sides}  # of B A, the larger side
    name, side = min(largest.items(), key=lambda layer: layer[1])
    if 2 * rank >= side:
        allowed = f"at most {(side - 1) // 2}, below half of the larger side of {name}'s B A, {side}"
        raise Refused.value("method.rank", rank, allowed)
    return LoKrConfig(r=rank, alpha=_alpha(config)[0], **common)


def _oft(config: Config, sides: Sides, common: Common) -> PeftConfig:
    block = int(config.method.block or 0)
    for name, (d_in, _) in sides.items():
        if d_in % block:
            raise Refused.value("method.block", block, f"a divisor of {d_in}, the input width of {name}")
    # Exactly orthogonal, where PEFT's default is five terms of a series that is so near the start alone.
    return OFTConfig(r=0, oft_block_size=block, use_cayley_neumann=False, **common)


def _custom(config: Config, sides: Sides, common: Common) -> PeftConfig:
    """Any config class of PEFT's, by name; nothing else is imported, whatever the name says."""
    values, rank = dict(config.method.peft or {}), config.method.rank
    common = {**common, "save_projection": False}  # random matrices, which PEFT draws again from a key of its own
    named, target = peft_class(values), values.pop("_target_", None)
    known = {n for n in dir(peft) if n.endswith("Config") and hasattr(getattr(peft, n), "target_modules")}
    # These want what nobody gives them: a task's number with each batch, weights in fp32, whole blocks, chosen tokens.
    known -= {"PolyConfig", "OSFConfig", "ShadowConfig", "TrainableTokensConfig"}
    if named not in known:  # prompts would move the tokens that are learned
        allowed = f"a config class of peft for adapters on layers{did_you_mean(named, known)}"
        raise Refused.value("method.peft._target_", target, allowed)
    kind = getattr(peft, named)
    own = {field.name for field in fields(kind) if field.init} - _NOT_TO_GIVE
    if wrong := sorted(set(values) - own):
        near = did_you_mean(wrong[0], own)
        raise Refused.value(
            f"method.peft.{wrong[0]}", values[wrong[0]], f"a key of {named} that targets and method do not set{near}"
        )
    if rank is not None:
        if not (rank_keys := [key for key in RANK_KEYS if key in own]):
            raise Refused.value("method.rank", rank, f"null with {named}, which has no rank")
        values[rank_keys[0]] = rank
    try:
        made: PeftConfig = kind(**{key: value for key, value in common.items() if hasattr(kind, key)} | values)
    except Exception as error:  # each checks its values in its own way
        given = f"method.rank={rank}" if rank is not None else "method.peft"
        raise Refused(f"{given}: {named} does not take this ({reason(error)})") from None
    return made


_MAKERS: dict[str, Callable[[Config, Sides, Common], PeftConfig]] = {
    "adalora": _adalora,
    "vera": _vera,
    "ia3": _ia3,
    "oft": _oft,
    "custom": _custom,
    "loha": _of_lycoris,
    "lokr": _of_lycoris,
}
