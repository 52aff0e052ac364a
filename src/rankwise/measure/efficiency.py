"""How much a step computes against full fine-tuning, and how well a run used its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from rankwise.measure.clock import Throughput
from rankwise.measure.flops import ClosedForm, mfu
from rankwise.measure.shape import Shape
from rankwise.measure.speed import peak_flops
from rankwise.tracking.groups import Compute


class Settings(Protocol):
    """Where and how a run computes."""

    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...


def operations(
    form: ClosedForm | None, step: Sequence[Shape], counted: int | None, taken: Sequence[Shape]
) -> dict[str, Any]:
    """``flops_of`` a measured step, beside what was counted in it, and the sum over all micro-batches ``taken``."""
    found = flops_of(form, step) | {"per_step_counted": counted}
    if form is None:
        return found
    return found | {"train_total": sum(form.cost(shape).total for shape in taken)}


def flops_of(form: ClosedForm | None, step: Sequence[Shape]) -> dict[str, Any]:
    """FLOPs of an optimizer step over these micro-batches, and per token of its largest (padding counted).

    Beside them full fine-tuning's of the same base, the share, and the rank above which an adapter costs more. Empty
    where no closed form covers the architecture.
    """
    if form is None:
        return {}
    largest = max(step, key=lambda shape: shape.tokens)
    mine, full = form.cost(largest).total, form.full(largest).total
    return {
        "per_step": sum(form.cost(shape).total for shape in step),
        "per_token": mine / largest.tokens,
        "full_per_token": full / largest.tokens,
        "of_full": mine / full,
        "break_even_rank": form.break_even_rank(largest),
    }


def utilisation(
    form: ClosedForm | None, batches: Sequence[Shape], throughput: Throughput, settings: Settings
) -> Compute:
    """``mfu`` over the timed micro-batches, the peak that it is a share of, and where that comes from.

    Empty without a closed form or timed steps. Measures the peak once per machine, which takes a third of a second.
    """
    if form is None or not throughput.timed_s:
        return {}
    needed = sum(form.cost(batches[i]).model for i in throughput.timed)
    precision = "bf16" if settings.precision == "bf16_true" else settings.precision
    peak, source = peak_flops(settings.device, precision, settings.threads)
    return {"mfu": mfu(needed, throughput.timed_s, peak), "peak_flops": peak, "peak_flops_source": source}
