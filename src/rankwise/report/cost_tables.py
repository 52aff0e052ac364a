"""Costs as rows and sentences: predicted against measured memory, computation, parameters by layer."""

from __future__ import annotations

from typing import Any

from rankwise.metrics import NOTHING
from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm
from rankwise.report.findings import Findings

Cells = list[str]


def memory_table(report: Findings) -> tuple[Cells, list[Cells]]:
    """Header and a row per arm that measured its memory; columns without any value are left out."""
    header = ["arm", "probed batch, rows × tokens", "peak in", "predicted MB", "measured MB", "error %",
              "evaluation peak MB", "process peak MB", "allocator peak MB", "reserved peak MB"]  # fmt: skip
    return _filled(header, [row for arm in report.arms if (row := _memory_row(arm))])


def _memory_row(arm: Arm) -> Cells:
    held = costs.memory(arm)
    if not held:
        return []
    error = fmt.signed_percent(costs.prediction_error(arm)).removesuffix(" %")
    return [
        arm.label, costs.shapes(held.get("batch")) or NOTHING, str(held.get("phase") or NOTHING),
        fmt.megabytes(costs.predicted_bytes(arm)), fmt.megabytes(held.get("peak_bytes")), error,
        fmt.megabytes(costs.peak_bytes(arm, "eval")), *(fmt.megabytes(held.get(key)) for key in costs.SYSTEM),
    ]  # fmt: skip


def compute_table(report: Findings) -> tuple[Cells, list[Cells]]:
    """Header and a row per arm whose operations were counted."""
    header = ["arm", "FLOPs /token", "FLOPs /full", "break-even rank", "FLOPs of training", "MFU %"]
    return _filled(header, [row for arm in report.arms if (row := _compute_row(arm))])


def _compute_row(arm: Arm) -> Cells:
    found, mfu = costs.flops(arm), arm.median("compute.mfu")
    if mfu is None and all(value is None for value in found.values()):
        return []
    return [
        arm.label, fmt.si(found["per_token"]), fmt.ratio(found["of_full"]), fmt.whole(found["break_even_rank"]),
        fmt.si(found["train_total"]), fmt.percent(mfu),
    ]  # fmt: skip


def _filled(header: Cells, rows: list[Cells]) -> tuple[Cells, list[Cells]]:
    """Without the columns in which no row has a value."""
    kept = [i for i in range(len(header)) if any(row[i] != NOTHING for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


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
        peaks = sorted({_device_peak(arm) for arm in arms} - {""})
        of = f" ({' or '.join(peaks)})" if peaks else ""
        kept.append(f"MFU: model FLOPs utilization, the share of the device's peak{of} that training reached.")
    return kept


def break_even(report: Findings) -> str:
    """The rank from which on adapters compute more than full fine-tuning, in words; empty where no record says it."""
    return costs.break_even([arm for arm in report.arms if arm.comparable]) or ""


def _device_peak(arm: Arm) -> str:
    """``90.0 GFLOP/s, measured``; empty where unknown."""
    peak = arm.median("compute.peak_flops")
    source = arm.first("compute.peak_flops_source")
    return ", ".join(filter(None, [fmt.si(peak, "FLOP/s"), source])) if peak else ""


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


def _joined(by_layer: dict[str, dict[str, int]]) -> list[Cells]:
    """Rows of layers; numbered ones that follow each other and hold the same share a row: ``0 to 5, each``."""
    runs: list[tuple[list[str], dict[str, int]]] = []
    for name, count in by_layer.items():
        if runs and runs[-1][1] == count and name.isdigit() and runs[-1][0][-1].isdigit():
            runs[-1][0].append(name)
        else:
            runs.append(([name], count))
    return [_counts(f"{names[0]} to {names[-1]}, each" if len(names) > 1 else names[0], n) for names, n in runs]


def _counts(name: str, count: dict[str, int]) -> Cells:
    trainable, frozen = count.get("trainable") or 0, count.get("frozen") or 0
    share = trainable / (trainable + frozen) if trainable + frozen else None
    return [name, fmt.si(trainable), fmt.si(frozen), fmt.percent(share)]
