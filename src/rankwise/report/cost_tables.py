"""What the numbers of memory and computation are, in sentences; parameters by layer."""

from __future__ import annotations

from typing import Any

from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.findings import Findings


def memory_notes(report: Findings) -> list[str]:
    """What the bytes are."""
    arms = [arm for arm in report.arms if costs.peak_bytes(arm)]
    if not arms:
        return []
    steps = sorted({step for arm in arms if (step := costs.memory(arm).get("step")) is not None})
    which = f" (step {fmt.listed(steps)})" if steps else ""
    kept = [
        f"Measured: live tensors at the moment of one real training step{which} when their sum was largest, in the run "
        "whose peak is its arm's median. Each byte is counted once, so the five parts sum to the peak."
    ]
    example = next((arm for arm in [report.reference, *arms] if arm and costs.memory(arm).get("peaks")), None)
    if example is not None:
        own = sum(costs.memory(example)["peaks"].get(f"{part}_bytes") or 0 for part in costs.PARTS)
        peak = fmt.megabytes(costs.peak_bytes(example))
        kept.append(
            "Each part is largest at a moment of its own, so these maxima sum to more than the peak: "
            f"{fmt.megabytes(own)} MB against {peak} MB for {example.label}. They are in report.json."
        )
    if any(costs.predicted_bytes(arm) is not None for arm in arms):
        kept.append("Predicted: computed from the config alone, before training, for the same batch shapes.")
    if any(costs.memory(arm).get("process_peak_bytes") for arm in arms):
        kept.append(
            "Process peak: the largest resident memory (RSS) of the whole process, Python and its libraries included, "
            "so it is far above the tensors of a small model."
        )
    if any(costs.memory(arm).get("reserved_peak_bytes") for arm in arms):
        kept.append("Allocator peak: what CUDA's allocator gave to tensors; reserved: what it took from the GPU.")
    return kept


def compute_notes(report: Findings) -> list[str]:
    """What the operations are."""
    arms = [arm for arm in report.arms if arm.median("compute.flops.per_token")]
    if not arms:
        return []
    kept = [
        "FLOPs: floating-point operations of forward and backward pass; “/full” is the share of what "
        "full fine-tuning of the same model needs for the same tokens."
    ]
    if any(arm.median("compute.mfu") for arm in arms):
        peaks = [peak for arm in arms if (peak := arm.median("compute.peak_flops"))]
        ends = " to ".join(dict.fromkeys(fmt.si(end(peaks), "FLOP/s") for end in (min, max))) if peaks else ""
        sources = ", ".join(sorted({str(arm.first("compute.peak_flops_source")) for arm in arms} - {"None"}))
        of = f" ({', '.join(filter(None, [ends, sources]))})" if peaks else ""
        kept.append(f"MFU: model FLOPs utilization, the share of the device's peak{of} that training reached.")
    return kept


def short_note(report: Findings) -> str:
    """The costs of the arms' table in one line; empty where nothing was measured."""
    said = []
    if any(costs.peak_bytes(arm) for arm in report.arms):
        said.append("Peak: live tensors in one training step; predicted from the config alone, error against it.")
    if any(arm.median("compute.flops.of_full") for arm in report.arms):
        said.append("FLOPs /full: per token, share of full fine-tuning's.")
    return " ".join(said)


def layers(report: Findings) -> dict[str, Any] | None:
    """Parameters by layer and by type of the arm with the most trainable adapter parameters; None without records."""
    arms = [arm for arm in report.arms if arm.comparable and arm.first("params.by_layer") and arm.rank]
    if not arms:
        return None
    arm = max(arms, key=lambda a: a.first("params.adapter") or 0)
    by_type = arm.first("params.by_type") or {}
    return {
        "arm": arm.label,
        "by_layer": _joined(arm.first("params.by_layer")),
        "by_type": [_counts(name, count) for name, count in by_type.items()],
    }


def _joined(by_layer: dict[str, dict[str, int]]) -> list[list[str]]:
    """Rows of layers; numbered ones that follow each other and hold the same share a row: ``0 to 5, each``."""
    runs: list[tuple[list[str], dict[str, int]]] = []
    for name, count in by_layer.items():
        if runs and runs[-1][1] == count and name.isdigit() and runs[-1][0][-1].isdigit():
            runs[-1][0].append(name)
        else:
            runs.append(([name], count))
    return [_counts(f"{names[0]} to {names[-1]}, each" if len(names) > 1 else names[0], n) for names, n in runs]


def _counts(name: str, count: dict[str, int]) -> list[str]:
    trainable, frozen = count.get("trainable") or 0, count.get("frozen") or 0
    share = trainable / (trainable + frozen) if trainable + frozen else None
    return [name, fmt.si(trainable), fmt.si(frozen), fmt.percent(share)]
