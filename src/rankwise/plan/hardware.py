"""What a plan is for: a GPU by name, or this machine."""

import functools
from dataclasses import dataclass, replace

import torch

from rankwise import machine
from rankwise.config import Trainer
from rankwise.measure.gpus import Gpu, gpu, recognise
from rankwise.measure.speed import peak_flops
from rankwise.model import numerics

_peak_flops = functools.cache(peak_flops)  # one for all rows of a plan, whatever else this machine does
CONTEXT_BYTES = {"cuda": 500_000_000, "cpu": 600_000_000}  # of CUDA, or of libraries, beside the tensors of a process


@dataclass(frozen=True)
class Hardware:
    """A device to plan for."""

    name: str
    device: str  # cuda | cpu
    memory_bytes: int
    gpu: Gpu | None = None  # one of the known
    is_here: bool = False

    @property
    def context_bytes(self) -> int:
        """What a process holds beside tensors, which ``fits`` leaves room for."""
        return CONTEXT_BYTES[self.device]

    @classmethod
    def named(cls, name: str) -> "Hardware":
        """A well-known GPU. Raises Refused for any other."""
        known = gpu(name)
        return cls(known.name, "cuda", known.memory_bytes, known)

    @classmethod
    def here(cls, device: str = "auto") -> "Hardware":
        """The GPU of this machine, unless ``trainer.device`` is another; else its processor and free memory."""
        if device in ("auto", "cuda") and torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            return cls(name, "cuda", torch.cuda.get_device_properties(0).total_memory, recognise(name), True)
        return cls(str(machine.hardware()["cpu"]), "cpu", machine.memory_bytes(), is_here=True)

    def settle(self, trainer: Trainer) -> numerics.Numerics:
        """Precision and attention as a run there would choose them."""
        if self.gpu is None or self.device == "cpu":
            return numerics.settle(replace(trainer, device=self.device))
        precision = trainer.precision
        if precision == "auto":
            precision = "bf16" if "bf16" in self.gpu.flops else "fp32"
        attention = None if trainer.attention == "auto" else trainer.attention
        return numerics.Numerics(torch.device("cuda"), precision, 1, attention)

    def peak(self, settings: numerics.Numerics, matmul_precision: str) -> tuple[float | None, str]:
        """Peak FLOP/s in the run's precision and its source; None where the hardware lacks the precision."""
        precision = "bf16" if settings.precision == "bf16_true" else settings.precision
        if self.gpu is not None:
            return self.gpu.peak(precision, matmul_precision), "datasheet"
        return _peak_flops(settings.device, precision, settings.threads)
