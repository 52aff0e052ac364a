"""Device, precision and threads: what the hardware really has, settled before anything is built."""

from dataclasses import dataclass
from typing import Any

import torch

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

    @property
    def mixed(self) -> torch.dtype | None:
        """In which type autocast multiplies; None where all is of one type."""
        return LOW[self.precision] if self.precision in ("bf16", "fp16") else None

    def autocast(self) -> Any:
        """What Lightning wraps a step in, for use outside it."""
        return torch.autocast(self.device.type, self.mixed, enabled=self.mixed is not None)

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
    attention = None if trainer.attention == "auto" else trainer.attention
    if device.type == "cpu":
        attention = attention or "eager"
    return Numerics(device, precision, torch.get_num_threads(), attention)


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
    return torch.device(name)
