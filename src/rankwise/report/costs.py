"""What an arm costs, read from its records: memory of one training step, computation, seconds; and what these are."""

import math
from collections import Counter
from typing import Any

from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.tracking.fields import at

SYSTEM = ("process_peak_bytes", "allocated_peak_bytes", "reserved_peak_bytes")  # as the OS or the allocator saw it
_SEEN = {  # what is said of a key of the memory, where any arm has it
    "predicted": "Predicted: computed from the config alone, before training, for the same batch shapes.",
    "process_peak_bytes": "Process peak: the largest resident memory (RSS) of the whole process, Python and its "
    "libraries included, so it is far above the tensors of a small model.",
    "reserved_peak_bytes": "Allocator peak: what CUDA's allocator gave to tensors; reserved: what it took of the GPU.",
}
_FLOPS = ("per_step_counted", "per_step", "per_token", "full_per_token", "of_full", "train_total", "break_even_rank")
_SAME = ("precision", "device", "threads", "attention", "steps", "peak_flops_source")  # in all runs of an arm


def memory(arm: Arm, during: str = "train") -> dict[str, Any]:
    """The memory of ``train`` or ``eval``, all of it from the run whose tensors' peak is the median (the lower of two).

    Medians of each part would not sum to the median peak, and a prediction is for its own run's batch. Only what the
    system saw (``SYSTEM``) varies by accident and is the median over runs. Empty where no run measured it.
    """
    groups = [group for run in arm.runs if isinstance(group := at(run, f"memory.{during}"), dict)]
    measured = sorted((group for group in groups if group.get("peak_bytes")), key=lambda group: group["peak_bytes"])
    middle = measured[(len(measured) - 1) // 2] if measured else {}
    seen = {key: arm.median(f"memory.{during}.{key}") for key in SYSTEM}
    return middle | {key: value for key, value in seen.items() if value is not None}


def peak_bytes(arm: Arm, during: str = "train") -> float | None:
    """The largest sum of live tensors at one moment of a step."""
    return memory(arm, during).get("peak_bytes")


def predicted_bytes(arm: Arm) -> float | None:
    """The same of a training step, computed from the config before any training."""
    return (memory(arm).get("predicted") or {}).get("peak_bytes")


def prediction_error(arm: Arm) -> float | None:
    """(predicted − measured) / measured peak of training."""
    predicted, measured = predicted_bytes(arm), peak_bytes(arm)
    return (predicted - measured) / measured if predicted is not None and measured else None


def shapes(batch: list[list[int]] | None) -> str:
    """Micro-batches as rows × tokens: ``32 × 48`` or ``32 × 48, 2 of 16 × 40``."""
    counts = Counter(tuple(shape) for shape in batch or [])
    shown = [(f"{n} of " if n > 1 else "") + " × ".join(map(str, shape)) for shape, n in counts.items()]
    return ", ".join(shown[:2] + ([f"{len(shown) - 2} more shapes"] if len(shown) > 2 else []))


def beside(arm: Arm, full: Arm) -> list[tuple[str, float, float, str]]:
    """What an arm and the reference cost, as far as both are known: (what, the arm's, the reference's, unit).

    Without the time where that of either cannot be compared: the operations stand for it.
    """
    stored, of, timed = "storage.adapter_bytes", "compute.flops.per_token", arm.timed and full.timed
    mine_s, full_s = (one.median("compute.seconds.train_s") if timed else None for one in (arm, full))
    theirs = arm.median("compute.flops.full_per_token") if full.is_full else full.median(of)
    both = (
        ("trainable parameters", arm.first("params.trainable"), full.first("params.trainable"), ""),
        ("peak training memory", peak_bytes(arm), peak_bytes(full), "B"),
        ("FLOPs per token", arm.median(of), theirs, "FLOP"),
        ("training time", mine_s, full_s, "s"),
        ("disk space", arm.median(stored), full.median(stored), "B"),
    )
    return [(what, mine, theirs, unit) for what, mine, theirs, unit in both if mine and theirs]


def compute(arm: Arm) -> dict[str, Any]:
    """How an arm computed, and how fast: what all runs share, and medians of what was measured."""
    same = {key: arm.first(f"compute.{key}") for key in _SAME}
    measured = {key: arm.median(f"compute.{key}") for key in ("tokens", "tokens_per_s", "mfu", "peak_flops")}
    operations = {key: arm.median(f"compute.flops.{key}") for key in _FLOPS}
    phases = dict.fromkeys(key for run in arm.runs for key in run.compute.get("seconds") or {})
    seconds = {key: value for key in phases if (value := arm.median(f"compute.seconds.{key}")) is not None}
    return same | measured | {"flops": operations, "seconds": seconds}


def break_even(arms: list[Arm]) -> str:
    """From which rank on adapters compute more than full fine-tuning, in words; empty where no record says it."""
    pairs = [(arm.rank_had, arm.median("compute.flops.break_even_rank")) for arm in arms if arm.comparable]
    crossings = [(own, rank) for own, rank in pairs if own and rank is not None]
    if not crossings:
        return ""
    above = sorted({own for own, rank in crossings if own > rank})
    here = f"Here {', '.join(f'r = {r}' for r in above)} " + ("are above it." if len(above) > 1 else "is above it.")
    return (
        "On these layers low-rank adapters compute more than full fine-tuning above r = "
        f"{fmt.span([math.floor(rank) for _, rank in crossings])}: an adapter saves the gradients of the frozen "
        "weights, but adds two matrix products that grow with r. " + (here if above else "No rank here is above it.")
    )


def memory_notes(arms: list[Arm]) -> list[str]:
    """What the bytes are."""
    held = [memory(arm) for arm in arms if peak_bytes(arm)]
    if not held:
        return []
    steps = sorted({step for one in held if (step := one.get("step")) is not None})
    which = f" (step {fmt.listed(steps)})" if steps else ""
    measured = (
        f"Measured: live tensors at the moment of one real training step{which} when their sum was largest, in the run "
        "whose peak is its arm's median. Each byte is counted once, so the five parts sum to the peak."
    )
    devices = "Of a run on several devices (trainer.devices), bytes and MFU are those of the first."
    several = any((arm.first("config.trainer.devices") or 1) > 1 for arm in arms)
    return [measured, *[devices] * several, *(note for key, note in _SEEN.items() if any(one.get(key) for one in held))]


def compute_notes(arms: list[Arm]) -> list[str]:
    """What the operations are."""
    arms = [arm for arm in arms if arm.median("compute.flops.per_token")]
    if not arms:
        return []
    notes = [
        "FLOPs: floating-point operations of forward and backward pass. Per token counts padding, tokens /s does not; "
        "“/full” is the share of what full fine-tuning of the same model needs for the same tokens."
    ]
    if any(arm.median("compute.mfu") for arm in arms):
        peaks = [peak for arm in arms if (peak := arm.median("compute.peak_flops"))]
        ends = " to ".join(dict.fromkeys(fmt.si(end(peaks), "FLOP/s") for end in (min, max))) if peaks else ""
        sources = ", ".join(sorted({str(arm.first("compute.peak_flops_source")) for arm in arms} - {"None"}))
        of = f" ({', '.join(filter(None, [ends, sources]))})" if peaks else ""
        notes.append(f"MFU: model FLOPs utilization, the share of the device's peak{of} that training reached.")
    return notes


def pareto(points: list[tuple[float, float]]) -> set[int]:
    """Indices of points (cost, score) that none beats: at most the cost and at least the score, one of them better."""
    no_worse = [{(c, s) for c, s in points if c <= cost and s >= score} for cost, score in points]
    return {i for i, point in enumerate(points) if no_worse[i] == {point}}
