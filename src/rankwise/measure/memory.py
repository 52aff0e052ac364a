"""Bytes while training: by what holds them, and the peak of the process or the GPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from rankwise import machine


class TrainingMemory:
    """Start before training, ``measure`` after it."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            machine.reset_peak_rss()

    def measure(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int | str]:
        """weights, gradients and optimizer state in bytes, counted from the tensors; the peak as the system saw it.

        ``peak_of`` says what the peak is of: tensors allocated on the GPU, or the whole process on a CPU, which holds
        the interpreter and its libraries too.
        """
        state = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
        trained = [p for p in model.parameters() if p.requires_grad]
        if self.device.type == "cuda":
            peak, of = torch.cuda.max_memory_allocated(self.device), "tensors on the GPU"
        else:
            peak, of = machine.peak_rss_bytes(), "process"
        return {
            "weights_bytes": _storages([*model.parameters(), *model.buffers()]),
            "gradients_bytes": sum(p.numel() * p.element_size() for p in trained),
            "optimizer_bytes": _storages(state),
            "peak_bytes": peak,
            "peak_of": of,
        }


def _storages(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind the tensors: tied weights count once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())
