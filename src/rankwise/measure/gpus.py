"""Memory and peak speed of well-known GPUs, to plan for one that is not here. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rankwise.errors import Refused, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One GPU as its vendor states it.

    ``memory_bytes`` is the size as sold, read as GiB. What a program can have is less: the driver keeps up to 3 %, and
    error correction on GDDR6 (T4, A10G, L4, L40S) takes a sixteenth.
    """

    name: str
    memory_bytes: int
    flops: Mapping[str, float]  # dense peak, FLOP/s, by fp32 | tf32 | bf16 | fp16; no key: the hardware lacks it
    source: str
    reported: tuple[str, ...]  # what the driver calls it, without the brand

    def peak(self, precision: str, matmul_precision: str = "highest") -> float | None:
        """Dense peak in FLOP/s of products in ``precision`` (fp32, bf16, fp16); None where the hardware lacks it.

        ``matmul_precision`` is torch's, for fp32: high and medium both use TF32 on a GPU that has it.
        """
        if precision == "fp32" and matmul_precision != "highest":
            return self.flops.get("tf32", self.flops["fp32"])
        return self.flops.get(precision)


def _gpu(name: str, gib: int, source: str, reported: tuple[str, ...], **teraflops: float) -> Gpu:
    return Gpu(name, gib * 2**30, {kind: value * 1e12 for kind, value in teraflops.items()}, source, reported)


# fp32 is without tensor cores; the others are tensor cores that accumulate in fp32, as torch has them do, without
# sparsity: half of the figure in sources that print only the sparse one (Hopper, L4, Blackwell).
GPUS: dict[str, Gpu] = {
    "t4": _gpu("NVIDIA T4", 16, "T4 datasheet, 2019", ("T4",), fp32=8.1, fp16=65),
    "v100-16gb": _gpu(
        "NVIDIA V100 SXM2 16 GB", 16, "V100 datasheet, 2020", ("V100-SXM2-16GB",), fp32=15.7, fp16=125,
    ),
    "v100-32gb": _gpu(
        "NVIDIA V100 SXM2 32 GB", 32, "V100 datasheet, 2020", ("V100-SXM2-32GB",), fp32=15.7, fp16=125,
    ),
    "rtx3090": _gpu(
        "NVIDIA GeForce RTX 3090", 24, "GA102 whitepaper, appendix A", ("RTX 3090",),
        fp32=35.6, tf32=35.6, bf16=71, fp16=71,
    ),
    "rtx4090": _gpu(
        "NVIDIA GeForce RTX 4090", 24, "Ada whitepaper, appendix A", ("RTX 4090",),
        fp32=82.6, tf32=82.6, bf16=165.2, fp16=165.2,
    ),
    "rtx5090": _gpu(
        "NVIDIA GeForce RTX 5090", 32, "RTX Blackwell whitepaper, appendix A", ("RTX 5090",),
        fp32=104.8, tf32=104.8, bf16=209.5, fp16=209.5,
    ),
    "a10g": _gpu(
        "NVIDIA A10G", 24, "AWS A10G datasheet, 2022", ("A10G",), fp32=35, tf32=35, bf16=70, fp16=70,
    ),
    "l4": _gpu(
        "NVIDIA L4", 24, "L4 datasheet, 2023", ("L4",), fp32=30.3, tf32=60, bf16=121, fp16=121,
    ),
    "l40s": _gpu(
        "NVIDIA L40S", 48, "L40S datasheet, 2023", ("L40S",), fp32=91.6, tf32=183, bf16=362.05, fp16=362.05,
    ),
    "rtx6000ada": _gpu(
        "NVIDIA RTX 6000 Ada", 48, "Ada whitepaper, appendix B", ("RTX 6000 Ada Generation",),
        fp32=91.1, tf32=182.1, bf16=364.2, fp16=364.2,
    ),
    "a6000": _gpu(
        "NVIDIA RTX A6000", 48, "GA102 whitepaper, appendix B", ("RTX A6000",),
        fp32=38.7, tf32=77.4, bf16=154.8, fp16=154.8,
    ),
    "a100-40gb": _gpu(
        "NVIDIA A100 40 GB", 40, "A100 datasheet, 2020", ("A100-SXM4-40GB", "A100-PCIE-40GB"),
        fp32=19.5, tf32=156, bf16=312, fp16=312,
    ),
    "a100-80gb": _gpu(
        "NVIDIA A100 80 GB", 80, "A100 datasheet, 2022", ("A100-SXM4-80GB", "A100-SXM-80GB", "A100 80GB PCIe"),
        fp32=19.5, tf32=156, bf16=312, fp16=312,
    ),
    "h100-80gb": _gpu(
        "NVIDIA H100 SXM", 80, "H100 datasheet, 2023", ("H100 80GB HBM3",),
        fp32=67, tf32=494.5, bf16=989.5, fp16=989.5,
    ),
    "h100-pcie": _gpu(
        "NVIDIA H100 PCIe", 80, "H100 datasheet, 2023", ("H100 PCIe",), fp32=51, tf32=378, bf16=756.5, fp16=756.5,
    ),
    "h200": _gpu(
        "NVIDIA H200 SXM", 141, "H200 datasheet, 2024", ("H200",), fp32=67, tf32=494.5, bf16=989.5, fp16=989.5,
    ),
    "b200": _gpu(
        "NVIDIA B200", 180, "HGX B200 datasheet, 2025", ("B200",), fp32=75, tf32=1100, bf16=2250, fp16=2250,
    ),
}  # fmt: skip


def gpu(name: str) -> Gpu:
    """The GPU that a user names: a key of ``GPUS``, however spaced and capitalised, or the driver's name for it.

    Raises Refused for any other, and for one that is made in several kinds (a100, h100, v100).
    """
    found = {_folded(key): key for key in GPUS}.get(_folded(name))
    known = GPUS[found] if found else recognise(name)
    if known is None:
        raise Refused.value("--gpu", name, f"one of {', '.join(GPUS)}{_suggested(name)}")
    return known


def recognise(device_name: str) -> Gpu | None:
    """The GPU behind the name that torch or nvidia-smi reports ("NVIDIA A100-SXM4-80GB", "Tesla T4").

    None for any other, such as a laptop's variant or a MIG slice: those are slower than the one they are named after.
    """
    word = _unbranded(device_name)
    return next((known for known in GPUS.values() if word in map(_unbranded, known.reported)), None)


def _unbranded(device_name: str) -> str:
    return re.sub(r"\b(nvidia|geforce|tesla)\b", "", device_name.lower()).strip()


def _folded(name: str) -> str:
    """What is left of a name without the parts that people write in different ways or leave out."""
    return re.sub(r"nvidia|geforce|tesla|rtx|generation|sxm\d?|[^a-z0-9]", "", name.lower())


def _suggested(name: str) -> str:
    kinds = [key for key in GPUS if _folded(name) and _folded(key).startswith(_folded(name))]
    return f" (did you mean {' or '.join(kinds)}?)" if kinds else did_you_mean(name.lower(), GPUS)
