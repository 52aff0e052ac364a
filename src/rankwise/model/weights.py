"""What is kept of a trained model (the best weights while it trains, the adapter afterwards), and the model from it."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from rankwise import methods
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model import fused
from rankwise.model.adapt import adapt
from rankwise.model.base import head_names
from rankwise.model.methods import adalora, inits
from rankwise.model.methods.peft_warnings import quiet_peft
from rankwise.model.methods.warm_start import HEAD_FILE, TRAINED_FILE, start_file
from rankwise.model.targets import modules_named
from rankwise.paths import readable


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name (they are all that a best checkpoint needs)."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def save_best(model: nn.Module, path: Path) -> None:
    """Write the trainable parameters; a reader sees the old file or the new one."""
    partial = path.with_suffix(".partial")
    save_file(trainable_state(model), partial)
    partial.replace(path)


def load_best(model: nn.Module, path: Path) -> None:
    """Put saved parameters back; all others stay. Raises Refused for one that the model has not."""
    if unknown := model.load_state_dict(load_file(path), strict=False).unexpected_keys:
        raise Refused(f"{path}: holds {unknown[0]}, which this model has not")


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
        return _written_bytes(folder)
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
    return _written_bytes(folder)


def _written_bytes(folder: Path) -> int:
    readable(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def with_weights(lm: nn.Module, config: Config, folder: Path) -> nn.Module:
    """A base with what a run of ``config`` left in its adapter folder."""
    trains = methods.of(config.method).trains
    file = folder / "model.safetensors" if trains == "all" else start_file(str(folder))
    if file is None or not file.is_file():
        why = "run it with trainer.save_full=true" if trains == "all" else "the run has not finished"
        raise Refused(f"{folder}: holds no weights; {why}")
    if trains == "adapter":
        with quiet_peft():
            fused.split_for(lm, PeftConfig.from_pretrained(str(folder)))
            return PeftModel.from_pretrained(lm, str(folder))
    if trains != "all":  # whatever such a run started from, its start is over
        lm = adapt(lm, replace(config, method=replace(config.method, init_from=None))).model
    load_best(lm, file)
    return lm


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
