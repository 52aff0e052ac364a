"""What is kept of a trained model: the best weights while it trains, the adapter afterwards."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from rankwise.model.base import head_names
from rankwise.model.methods import adalora, inits
from rankwise.model.methods.warm import HEAD_FILE, TRAINED_FILE
from rankwise.model.targets import modules_named


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name (they are all that a best checkpoint needs)."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def save_best(model: nn.Module, path: Path) -> None:
    """Write the trainable parameters; a reader sees the old file or the new one."""
    partial = path.with_suffix(".partial")
    save_file(trainable_state(model), partial)
    partial.replace(path)


def load_best(model: nn.Module, path: Path) -> None:
    """Put saved trainable parameters back."""
    state = load_file(path)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def export(model: nn.Module, folder: Path, keep_full: bool, start: inits.Start | None = None) -> int:
    """Write what must be kept to use the run and return its bytes: a PEFT adapter, a head or other trained weights of
    the base, or all weights.

    An adapter whose ``start`` was taken out of the base is written as plain LoRA of twice the rank, which fits the base
    as it was. All weights of a fully fine-tuned model are written with ``keep_full`` only; their size is returned all
    the same.
    """
    if folder.exists():
        shutil.rmtree(folder)
    if isinstance(model, PeftModel):
        _export_adapter(model, folder, start or {})
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    state = trainable_state(model)
    size = sum(value.numel() * value.element_size() for value in state.values())
    is_full = all(p.requires_grad for p in model.parameters())
    if is_full and not keep_full:
        return size
    folder.mkdir(parents=True)
    if is_full:
        model.save_pretrained(str(folder), safe_serialization=True)  # type: ignore[operator]
    else:
        in_head = all(name.split(".")[0] in head_names(model) for name in state)
        save_file(state, folder / (HEAD_FILE if in_head else TRAINED_FILE))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _export_adapter(model: PeftModel, folder: Path, start: inits.Start) -> None:
    """A folder that PEFT loads as it is. PEFT adds ``classifier`` and ``score`` to the modules that are saved, whether
    the model has them or not.
    """
    adalora.forget_ranks(model)
    own, state = model.peft_config["default"], None
    written = copy.copy(own)
    if start:
        assert isinstance(own, LoraConfig)
        written, state = inits.as_plain(own), inits.as_plain_state(model, start)
    if saved := getattr(own, "modules_to_save", None):
        written.modules_to_save = [name for name in dict.fromkeys(saved) if modules_named(model, [name])]
    model.peft_config["default"] = written
    try:
        # The vocabulary is as it was; left to itself, PEFT asks the base's folder or the hub whether it is.
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False, state_dict=state)
    finally:
        model.peft_config["default"] = own
    (folder / "README.md").unlink(missing_ok=True)  # a form to fill in; the record says it all
