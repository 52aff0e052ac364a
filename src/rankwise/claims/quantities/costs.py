"""Exact quantities: memory and operations of one training step, as a plan counts them."""

from __future__ import annotations

from collections.abc import Sequence

from rankwise.claims.configs import Spec, counted, footprint, operations
from rankwise.claims.estimate import Estimate
from rankwise.tracking.record import Record


def flops_share(records: Sequence[Record], of: Spec | list[Spec]) -> Estimate:
    """Operations of a step as a share of full fine-tuning's; of several settings the largest."""
    specs = of if isinstance(of, list) else [of]
    shares = [operations(spec)["of_full"] for spec in specs]
    worst = specs[shares.index(max(shares))]
    said = f"at rank {worst.get('rank')}" if len(specs) > 1 else ""
    return Estimate.exact(max(shares), said)


def flops_ratio(records: Sequence[Record], of: Spec) -> Estimate:
    """How many times fewer operations a step takes than full fine-tuning's."""
    return Estimate.exact(1 / operations(of)["of_full"])


def peak_bytes(records: Sequence[Record], of: Spec) -> Estimate:
    """The most that a step holds."""
    return Estimate.exact(float(_part(of, "peak")))


def part_ratio(records: Sequence[Record], of: Spec, to: Spec, part: str = "peak") -> Estimate:
    """The most of one part of memory (``activations``, ``gradients``, …, or the ``peak`` of all) over another's."""
    mine, theirs = (_part(spec, part) for spec in (of, to))
    return Estimate.exact(mine / theirs, f"{mine:,} and {theirs:,} bytes")


def gradient_bytes_each(records: Sequence[Record], of: Spec) -> Estimate:
    """Bytes of gradients at their peak per trained parameter: 4 in fp32 where nothing else has one."""
    return Estimate.exact(_part(of, "gradients") / counted(of)["params"]["trainable"])


def _part(spec: Spec, part: str) -> int:
    found = footprint(spec)
    return found.peak if part == "peak" else found.peaks[part]
