"""A model without weights: its architecture on the meta device, then as fake tensors that know shape and bytes only."""

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoConfig,
    PretrainedConfig,
)
from transformers.utils import logging

from rankwise.assets import Asset
from rankwise.config import Model
from rankwise.errors import Refused, reason
from rankwise.model.base import auto_class, byte_tokenizer, head_settings, location


def architecture(model: Model, asset: Asset | None) -> PretrainedConfig:
    """The transformers config of a model, without its weights: read from the asset's folder or GGUF file, else made of
    ``shape``, else asked of the hub.

    Raises Refused where it cannot be read.
    """
    logging.set_verbosity_error()
    try:
        if model.shape is not None and (asset is None or asset.path is None):
            config = AutoConfig.for_model(**dict(model.shape))
            if "vocab_size" not in model.shape:  # a toy, which reads bytes
                config.vocab_size = len(byte_tokenizer())
        else:
            assert asset is not None
            where, options = location(asset, model)
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:  # a stranger's file, and the hub, can fail in any way
        raise Refused(f"model {model.name}: its config cannot be read ({reason(error)})") from None
    return config


def skeleton(
    config: PretrainedConfig, kind: str, outputs: int, attention: str | None, device: str = "meta"
) -> nn.Module:
    """The model for a task of this kind in fp32: on the meta device shapes and types and no memory, elsewhere random
    weights of torch's seed.

    Raises Refused for an architecture that transformers has no such head for.
    """
    config = copy.deepcopy(config)  # transformers notes in it how it was built
    auto = auto_class(kind, config)
    config.update(head_settings(kind, outputs))
    config.pad_token_id = config.pad_token_id or 0
    config.quantization_config = None  # of a GGUF file: it is unpacked on loading
    try:
        with torch.device(device):
            return auto.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except Exception as error:
        if device != "meta":
            raise  # such as memory that is too small for it
        raise Refused(f"model: {config.model_type} cannot be built for task.kind={kind} ({reason(error)})") from None


def materialise(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors in the place of those on the meta device, tied ones tied as before.

    Building the model under the fake mode would be shorter, but PEFT cannot move fake parameters.
    """
    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in fakes:
            with mode:
                empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return fakes[id(tensor)]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            own.update({name: fake(tensor) for name, tensor in own.items() if tensor is not None})  # type: ignore[misc]
