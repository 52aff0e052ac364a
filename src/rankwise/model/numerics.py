"""Device, precision and threads: what the hardware really has, settled before anything is built."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from rankwise import machine
from rankwise.config import Trainer
from rankwise.errors import Refused
from rankwise.tracking.groups import Compute

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16, "bf16_true": torch.bfloat16}  # by precision


@dataclass(frozen=True)
class Numerics:
    """The choices as they came out, for the trainer and for the record."""

    device: torch.device
    precision: str  # fp32 | bf16 | fp16 | bf16_true
    threads: int
    attention: str | None  # eager | sdpa; None leaves it to the model

    @property
    def lightning(self) -> dict[str, Any]:
        """The same as arguments of Lightning's Trainer."""
        names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed", "bf16_true": "bf16-true"}
        accelerator = "gpu" if self.device.type == "cuda" else self.device.type
        return {"accelerator": accelerator, "devices": 1, "precision": names[self.precision]}

    def autocast(self) -> Any:
        """What Lightning wraps a step in, for use outside it."""
        mixed = self.precision in ("bf16", "fp16")
        return torch.autocast(self.device.type, LOW.get(self.precision), enabled=mixed)

    def to_dict(self) -> Compute:
        """The same for the record."""
        return {"device": self.device.type, "precision": self.precision, "threads": self.threads}


def settle(trainer: Trainer) -> Numerics:
    """Choose device and precision and set torch's threads. Raises Refused for what this machine cannot do."""
    device = _device(trainer.device)
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    torch.set_float32_matmul_precision(trainer.matmul_precision)
    precision = trainer.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise Refused.value("trainer.precision", "fp16", f"fp32, bf16 or auto on {device.type}")
    attention = None if trainer.attention == "auto" else trainer.attention
    if device.type == "cpu":
        attention = attention or "eager"
    return Numerics(device, precision, torch.get_num_threads(), attention)


def hold_as_multiplied(model: nn.Module, precision: str) -> None:
    """Keep frozen weights of linear layers in the type in which autocast multiplies them, in place.

    The products are the same to the bit, the weights take half the bytes, and no step makes copies of them. A weight
    that is an embedding, too, stays as it is. What is left is copied, so that the file that it was mapped from goes.
    """
    if precision not in ("bf16", "fp16"):
        return
    linear = {module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)}
    inside = [p for module in linear for p in module.parameters(recurse=False)]
    outside = {p for module in model.modules() if module not in linear for p in module.parameters(recurse=False)}
    for parameter in {p for p in inside if _is_frozen_fp32(p)} - outside:
        parameter.data = parameter.data.to(LOW[precision])
    for parameter in filter(_is_frozen_fp32, model.parameters()):
        parameter.data = parameter.data.clone()


def _is_frozen_fp32(parameter: nn.Parameter) -> bool:
    quantized = is_traceable_wrapper_subclass(parameter)
    return not parameter.requires_grad and parameter.dtype == torch.float32 and not quantized


def has_bf16(device: torch.device) -> bool:
    """Whether the processor or GPU multiplies bf16 in hardware; emulation would be slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(machine.hardware()["bf16"])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise Refused.value("trainer.device", "cuda", "torch sees no GPU here", "use trainer.device=auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise Refused.value("trainer.device", "mps", "torch sees no Apple GPU here", "use trainer.device=auto")
    return torch.device(name)
