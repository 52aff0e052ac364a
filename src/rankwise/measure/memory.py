"""The peak as the system sees it, beside the ledger's: of the process on a CPU, of the allocator on a GPU."""

from __future__ import annotations

import torch

from rankwise import machine


def reset_peak(device: torch.device) -> None:
    """Let the peak begin here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.reset_peak_rss()


def system_peak(device: torch.device) -> dict[str, int]:
    """Bytes since ``reset_peak``.

    On a GPU ``allocated_peak_bytes`` of tensors and ``reserved_peak_bytes`` that the allocator took for them; on a CPU
    ``process_peak_bytes``, resident, which holds the interpreter, its libraries and what malloc has not given back.
    """
    if device.type == "cuda":
        return {
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_peak_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"process_peak_bytes": machine.peak_rss_bytes()}
