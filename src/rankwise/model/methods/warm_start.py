"""A start from another run's weights: LoRA's MRPC, RTE and STS-B start from its MNLI (Hu et al. 2021, §5.2)."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rankwise.assets import file_digest
from rankwise.errors import Refused
from rankwise.model.methods.peft_warnings import quiet_peft

ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE, TRAINED_FILE = "head.safetensors", "trained.safetensors"
_DECIDING = (  # what the same factors mean; VeRA's A and B are drawn from its key and in no file
    *("peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    "projection_prng_key",
)


def warm_start(model: nn.Module, source: str, heads: list[str]) -> dict[str, str]:
    """Put the adapter weights of ``source`` in; returns its path and the SHA-256 of its file, for the record.

    The head comes along where all of it fits, and stays fresh where the classes are others.
    Raises Refused for a folder without such weights, other names or shapes, and another scale.
    """
    file = start_file(source)
    if file is None:
        raise _refused(source, f"a folder with an adapter; none of {ADAPTER_FILE} and the like")
    try:
        saved = load_file(file)
    except SafetensorError as error:
        raise _refused(source, f"a readable {file.name} ({error})") from None
    folder = file.parent
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(model, PeftModel):
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        _same_meaning(model, folder, source)
    head = {name for name in own if any(f".{part}." in f".{name}" for part in heads)}
    fresh = any(name not in saved or saved[name].shape != own[name].shape for name in head)
    body = [name for name in saved if not any(f".{part}." in f".{name}" for part in heads)]
    _compare(source, {n: saved[n] for n in body}, {n: t for n, t in own.items() if n not in head})
    taken = {name: saved[name] for name in body} | {name: own[name] if fresh else saved[name] for name in head}
    if isinstance(model, PeftModel):
        with quiet_peft():
            set_peft_model_state_dict(model, taken)
    else:
        with torch.no_grad():
            for name, value in taken.items():
                model.get_parameter(name).copy_(value)
    return {"folder": str(folder), "sha256": file_digest(file)}


def start_file(source: str) -> Path | None:
    """The file of weights that ``method.init_from`` names, of a run's folder or the adapter's own."""
    folder = Path(source).expanduser()
    folder = folder / "adapter" if (folder / "adapter").is_dir() else folder
    return next((folder / name for name in (ADAPTER_FILE, TRAINED_FILE, HEAD_FILE) if (folder / name).is_file()), None)


def _refused(source: str, allowed: str) -> Refused:
    return Refused.value("method.init_from", source, allowed)


def _compare(source: str, saved: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    if (name := next(iter(sorted(saved.keys() ^ own.keys())), None)) is not None:
        where = "there, but not in this run" if name in saved else "in this run, but not there"
        raise _refused(source, f"the same method on the same targets; {name} is {where}")
    for name, value in saved.items():
        if value.shape != own[name].shape:
            there, here = (" × ".join(map(str, tensor.shape)) for tensor in (value, own[name]))
            raise _refused(source, f"weights of the same shapes; {name} is {there} there and {here} in this run")


def _same_meaning(model: PeftModel, folder: Path, source: str) -> None:
    try:
        there: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _refused(source, "an adapter with its adapter_config.json") from None
    here = model.peft_config["default"].to_dict()
    for key in _DECIDING:
        ours, theirs = here.get(key) or None, there.get(key) or None  # without patterns it is null or empty
        if key == "rank_pattern" and isinstance(model.peft_config["default"], AdaLoraConfig):
            continue  # which directions training kept, not what they mean
        if str(getattr(ours, "value", ours)) != str(theirs) and ours != theirs:
            if key == "projection_prng_key":
                allowed = "an adapter of the same seed, as VeRA draws its A and B from it and stores neither"
                raise _refused(source, allowed)
            raise _refused(source, f"an adapter with {key} {ours}, as in this run; it has {theirs}")
