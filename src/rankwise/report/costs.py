"""What an arm costs, read from its records: memory of one training step, computation, seconds by phase."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rankwise.report.arms import Arm
from rankwise.tracking.fields import at

PARTS = ("weights", "gradients", "optimizer", "activations", "other")  # of memory
# As they are drawn, one after another: training first, so that its bars share a start.
PHASES = ("train", "validate", "test", "load", "plan", "measure", "imports", "start_up", "save")
SYSTEM = ("process_peak_bytes", "allocated_peak_bytes", "reserved_peak_bytes")  # as the OS or the allocator saw it
_FLOPS = ("per_step_counted", "per_step", "per_token", "full_per_token", "of_full", "train_total", "break_even_rank")
_SAME = ("precision", "device", "threads", "attention", "steps", "peak_flops_source")  # in all runs of an arm


def memory(arm: Arm, during: str = "train") -> dict[str, Any]:
    """The memory of ``train`` or ``eval``, all of it from the run whose tensors' peak is the median (the lower of two).

    Medians of each part would not sum to the median peak, and a prediction is for its own run's batch. Only what the
    system saw (``SYSTEM``) varies by accident and is the median over runs. Empty where no run measured it.
    """
    groups = [group for run in arm.runs if isinstance(group := at(run, f"memory.{during}"), dict)]
    measured = sorted((group for group in groups if _is_whole(group)), key=lambda group: group["peak_bytes"])
    middle = measured[(len(measured) - 1) // 2] if measured else {}
    seen = {key: arm.median(f"memory.{during}.{key}") for key in SYSTEM}
    return middle | {key: value for key, value in seen.items() if value is not None}


def _is_whole(group: dict[str, Any]) -> bool:
    """Whether the parts sum to the peak. In a record where they do not, the peak is of something else: the process."""
    return bool(group.get("peak_bytes")) and sum(group.get(f"{p}_bytes") or 0 for p in PARTS) == group["peak_bytes"]


def peak_bytes(arm: Arm, during: str = "train") -> float | None:
    """The largest sum of live tensors at one moment of a step."""
    found: float | None = memory(arm, during).get("peak_bytes")
    return found


def predicted_bytes(arm: Arm) -> float | None:
    """The same of a training step, computed from the config before any training."""
    found: float | None = (memory(arm).get("predicted") or {}).get("peak_bytes")
    return found


def prediction_error(arm: Arm) -> float | None:
    """(predicted − measured) / measured peak of training."""
    predicted, measured = predicted_bytes(arm), peak_bytes(arm)
    return (predicted - measured) / measured if predicted is not None and measured else None


def shapes(batch: list[list[int]] | None) -> str:
    """Micro-batches as rows × tokens: ``32 × 48`` or ``32 × 48, 2 of 16 × 40``."""
    counts = Counter(tuple(shape) for shape in batch or [])
    shown = [(f"{n} of " if n > 1 else "") + " × ".join(map(str, shape)) for shape, n in counts.items()]
    return ", ".join(shown[:2] + ([f"{len(shown) - 2} more shapes"] if len(shown) > 2 else []))


def flops(arm: Arm) -> dict[str, float | None]:
    """Floating-point operations: medians over runs."""
    return {key: arm.median(f"compute.flops.{key}") for key in _FLOPS}


def seconds(arm: Arm) -> dict[str, float]:
    """``{phase_s: median over runs}`` of every phase that the records have, with the total."""
    phases = dict.fromkeys(key for run in arm.runs for key in run.compute.get("seconds") or {})
    found = {key: arm.median(f"compute.seconds.{key}") for key in phases}
    return {key: value for key, value in found.items() if value is not None}


def compute(arm: Arm) -> dict[str, Any]:
    """How an arm computed, and how fast: what all runs share, and medians of what was measured."""
    same = {key: arm.first(f"compute.{key}") for key in _SAME}
    measured = {key: arm.median(f"compute.{key}") for key in ("tokens", "tokens_per_s", "mfu", "peak_flops")}
    return same | measured | {"flops": flops(arm), "seconds": seconds(arm)}


def break_even(arms: list[Arm]) -> str:
    """From which rank on adapters compute more than full fine-tuning, in words; empty where no record says it."""
    pairs = [(arm, arm.median("compute.flops.break_even_rank")) for arm in arms if arm.rank and arm.comparable]
    found = [(arm, rank) for arm, rank in pairs if rank is not None]
    if not found:
        return ""
    ranks = sorted(math.floor(rank) for _, rank in found)
    methods = {arm.method for arm, _ in found}
    by_kind: dict[str, list[int]] = {}
    for arm, rank in found:
        kind = [arm.method] * (len(methods) > 1) + [str(arm.settings.get("targets", "?"))]
        by_kind.setdefault(" ".join(kind), []).append(math.floor(rank))
    each = ", ".join(f"{kind}: {_span(sorted(values))}" for kind, values in by_kind.items())
    where = f", depending on what is adapted ({each})" if len(by_kind) > 1 and ranks[0] != ranks[-1] else ""
    who = "LoRA computes" if methods == {"lora"} else "low-rank adapters compute"
    above = sorted({arm.rank for arm, rank in found if arm.rank and arm.rank > rank})
    here = f"Here {', '.join(f'r = {r}' for r in above)} " + ("are above it." if len(above) > 1 else "is above it.")
    return (
        f"On these layers {who} more than full fine-tuning above r = {_span(ranks)}{where}: an adapter saves "
        "the gradients of the frozen weights, but adds two matrix products that grow with r. "
        + (here if above else "No rank here is above it.")
    )


def _span(values: list[int]) -> str:
    """``77`` or ``77 to 110``, of sorted values."""
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
