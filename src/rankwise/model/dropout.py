"""Dropout masks at the speed of the processor.

On a CPU that is not Intel's, torch draws a Bernoulli mask one number at a time: an eighth of a training step of a small
encoder. Here one 64-bit draw gives four elements. The stream of random numbers differs from torch's own; it depends on
the seed alone, as before.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch

_LEVELS = 2**16


@functools.cache
def install() -> bool:
    """Register the faster kernel for this process, once, where it is faster; says whether it was."""
    if _is_intel():
        return False
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is the point
        library.impl("bernoulli_.float", bernoulli_, "CPU")
    _kept.append(library)
    return True


_kept: list[torch.library.Library] = []  # a library that is collected takes its kernels along


def bernoulli_(mask: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill with 1 at probability p, else 0; p is rounded to 1/65,536, unless it is close to 0 or 1."""
    if not 2**-6 <= p <= 1 - 2**-6:
        return mask.copy_(torch.rand(mask.shape, generator=generator) < p)
    words = torch.empty((mask.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    draws = words.view(torch.int16)[: mask.numel()]  # uniform from -32,768 to 32,767
    return mask.copy_((draws < round(p * _LEVELS) - _LEVELS // 2).view(mask.shape))


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True  # not known: leave torch as it is
