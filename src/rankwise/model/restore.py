"""From a run's folder back to the model that it trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import yaml
from omegaconf.errors import OmegaConfBaseException
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import nn

from rankwise import methods
from rankwise.config import Config, typed
from rankwise.errors import Refused
from rankwise.model import base, fused
from rankwise.model.adapt import adapt
from rankwise.model.methods.quiet import quiet_peft
from rankwise.model.methods.warm import ADAPTER_FILE, HEAD_FILE, TRAINED_FILE
from rankwise.model.weights import load_best


def load_config(folder: Path) -> Config:
    """The config of a run. Raises Refused for a folder that has none, or one that this version does not know."""
    try:
        return typed(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, OmegaConfBaseException, TypeError) as error:
        raise Refused(f"{folder}: not a run's folder (config.yaml: {base.reason(error)})") from None


def with_weights(lm: nn.Module, config: Config, folder: Path) -> nn.Module:
    """A base with what a run of ``config`` left in its adapter folder."""
    trains = methods.of(config.method).trains
    files = {"adapter": [ADAPTER_FILE], "all": ["model.safetensors"]}.get(trains, [HEAD_FILE, TRAINED_FILE])
    file = next((folder / file for file in files if (folder / file).is_file()), None)
    if file is None:
        why = "run it with trainer.save_full=true" if trains == "all" else "the run has not finished"
        raise Refused(f"{folder}: holds no weights; {why}")
    if trains == "adapter":
        with quiet_peft():
            fused.split_for(lm, PeftConfig.from_pretrained(str(folder)))
            return PeftModel.from_pretrained(lm, str(folder))
    if trains == "all":
        return _whole(lm, file)
    model = adapt(lm, replace(config, method=replace(config.method, init_from=None))).model  # its start is over
    load_best(model, file)
    return model


def _whole(lm: nn.Module, file: Path) -> nn.Module:
    state = load_file(file)
    own = dict(lm.named_parameters())
    if unknown := sorted(state.keys() - lm.state_dict().keys()):
        raise Refused(f"{file}: holds {unknown[0]}, which this base has not")
    with torch.no_grad():
        for name, value in state.items():
            if name in own:
                own[name].copy_(value)
    return lm
