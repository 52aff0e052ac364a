"""Memory and peak speed of well-known GPUs, to plan for one that is not here. Imports nothing heavy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rankwise.errors import Refused, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One GPU as its vendor states it.

    ``memory_bytes`` is the size as sold, read as GiB, without the sixteenth that error correction takes on GDDR6 (T4,
    A10G, L4, L40S). What a program can have is less: the driver keeps up to 3 %.
    """

    name: str
    memory_bytes: int
    flops: Mapping[str, float]  # dense peak, FLOP/s, by fp32 | tf32 | bf16 | fp16; no key: the hardware lacks it
    reported: tuple[str, ...]  # what the driver calls it, without the brand

    def peak(self, precision: str, matmul_precision: str = "highest") -> float | None:
        """Dense peak in FLOP/s of products in ``precision`` (fp32, bf16, fp16); None where the hardware lacks it.

        ``matmul_precision`` is torch's, for fp32: high and medium both use TF32 on a GPU that has it.
        """
        if precision == "fp32" and matmul_precision != "highest":
            return self.flops.get("tf32", self.flops["fp32"])
        return self.flops.get(precision)


# Dense teraflops by the vendor's datasheet or whitepaper: fp32 without tensor cores; the others on tensor cores that
# accumulate in fp32, as torch has them do, without sparsity: half of the figure where only the sparse one is printed
# (Hopper, L4, Blackwell). Lightning's table (fabric.utilities.throughput) knows no memory and not five of these, halves
# the RTX 4090, and takes laptops' GPUs and MIG slices for whole ones.
_TABLE = """
t4         | NVIDIA T4               | 15   | T4 datasheet, 2019                  | fp32=8.1 fp16=65                         | T4
v100-16gb  | NVIDIA V100 SXM2 16 GB  | 16   | V100 datasheet, 2020                | fp32=15.7 fp16=125                       | V100-SXM2-16GB
v100-32gb  | NVIDIA V100 SXM2 32 GB  | 32   | V100 datasheet, 2020                | fp32=15.7 fp16=125                       | V100-SXM2-32GB
rtx3090    | NVIDIA GeForce RTX 3090 | 24   | GA102 whitepaper, appendix A        | fp32=35.6 tf32=35.6 bf16=71 fp16=71      | RTX 3090
rtx4090    | NVIDIA GeForce RTX 4090 | 24   | Ada whitepaper, appendix A          | fp32=82.6 tf32=82.6 bf16=165.2 fp16=165.2 | RTX 4090
rtx5090    | NVIDIA GeForce RTX 5090 | 32   | RTX Blackwell whitepaper, appendix A | fp32=104.8 tf32=104.8 bf16=209.5 fp16=209.5 | RTX 5090
a10g       | NVIDIA A10G             | 22.5 | AWS A10G datasheet, 2022            | fp32=35 tf32=35 bf16=70 fp16=70          | A10G
l4         | NVIDIA L4               | 22.5 | L4 datasheet, 2023                  | fp32=30.3 tf32=60 bf16=121 fp16=121      | L4
l40s       | NVIDIA L40S             | 45   | L40S datasheet, 2023                | fp32=91.6 tf32=183 bf16=362.05 fp16=362.05 | L40S
rtx6000ada | NVIDIA RTX 6000 Ada     | 48   | Ada whitepaper, appendix B          | fp32=91.1 tf32=182.1 bf16=364.2 fp16=364.2 | RTX 6000 Ada Generation
a6000      | NVIDIA RTX A6000        | 48   | GA102 whitepaper, appendix B        | fp32=38.7 tf32=77.4 bf16=154.8 fp16=154.8 | RTX A6000
a100-40gb  | NVIDIA A100 40 GB       | 40   | A100 datasheet, 2020                | fp32=19.5 tf32=156 bf16=312 fp16=312     | A100-SXM4-40GB, A100-PCIE-40GB
a100-80gb  | NVIDIA A100 80 GB       | 80   | A100 datasheet, 2022                | fp32=19.5 tf32=156 bf16=312 fp16=312     | A100-SXM4-80GB, A100-SXM-80GB, A100 80GB PCIe
h100-80gb  | NVIDIA H100 SXM         | 80   | H100 datasheet, 2023                | fp32=67 tf32=494.5 bf16=989.5 fp16=989.5 | H100 80GB HBM3
h100-pcie  | NVIDIA H100 PCIe        | 80   | H100 datasheet, 2023                | fp32=51 tf32=378 bf16=756.5 fp16=756.5   | H100 PCIe
h200       | NVIDIA H200 SXM         | 141  | H200 datasheet, 2024                | fp32=67 tf32=494.5 bf16=989.5 fp16=989.5 | H200
b200       | NVIDIA B200             | 180  | HGX B200 datasheet, 2025            | fp32=75 tf32=1100 bf16=2250 fp16=2250    | B200
"""  # noqa: E501  a table


def _read(line: str) -> tuple[str, Gpu]:
    key, name, gib, _source, teraflops, reported = (cell.strip() for cell in line.split("|"))
    flops = {kind: float(value) * 1e12 for kind, value in (pair.split("=") for pair in teraflops.split())}
    return key, Gpu(name, int(float(gib) * 2**30), flops, tuple(reported.split(", ")))


GPUS: dict[str, Gpu] = dict(map(_read, _TABLE.strip().splitlines()))


def gpu(name: str) -> Gpu:
    """The GPU that a user names: a key of ``GPUS``, however spaced and capitalised, or the driver's name for it.

    Raises Refused for any other, and for one that is made in several kinds (a100, h100, v100).
    """
    known = {_folded(key): value for key, value in GPUS.items()}.get(_folded(name)) or recognise(name)
    if known is None:
        kinds = [key for key in GPUS if _folded(name) and _folded(key).startswith(_folded(name))]
        near = f" (did you mean {' or '.join(kinds)}?)" if kinds else did_you_mean(name.lower(), GPUS)
        raise Refused.value("--gpu", name, f"one of {', '.join(GPUS)}{near}")
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
