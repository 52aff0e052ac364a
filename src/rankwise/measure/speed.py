"""FLOP/s that a device can reach at most, and model FLOPs utilisation: the share of it that a run reached."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

import torch

from rankwise import machine
from rankwise.assets import cache_dir
from rankwise.errors import Refused
from rankwise.measure.gpus import recognise
from rankwise.model.numerics import Numerics
from rankwise.tracking.groups import Compute
from rankwise.tracking.record import write_atomically

BUDGET_S = 0.3
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST = 8192  # rows: three matrices of fp32 are 0.8 GB
_TIMED = 3  # products per size
_OURS = 0.9  # of its threads' time is what a process gets that has the cores for itself (beside others: 0.4 to 0.8)


def utilisation(flops: float, seconds: float, settings: Numerics) -> Compute:
    """``mfu``, 0–1: ``flops`` over what the device's peak allows in that time (Chowdhery et al. 2022, appendix B), the
    peak and where that comes from.

    ``flops`` are those that the model needs, without what checkpointing computes again.
    """
    precision = "bf16" if settings.precision == "bf16_true" else settings.precision
    peak, source = peak_flops(settings.device, precision, settings.threads)
    return {"mfu": flops / (seconds * peak), "peak_flops": peak, "peak_flops_source": source}


def peak_flops(device: torch.device, precision: str, threads: int) -> tuple[float, str]:
    """Peak FLOP/s of matrix products in fp32, bf16 or fp16, and where the number comes from.

    "datasheet" for a GPU of ``rankwise.measure.gpus``; else "measured": the best of square products on this machine,
    with ``threads`` of torch on a CPU, remembered in the cache folder unless other programs kept the CPU busy. Of a GPU
    it is measured anew by each run, as another job may slow it down.
    Measuring takes ``BUDGET_S`` and some memory, so ask while neither is being measured. It leaves torch's random
    numbers alone.
    """
    if device.type == "cuda" and (known := recognise(torch.cuda.get_device_name(device))):
        stated = known.peak(precision, torch.get_float32_matmul_precision())
        if stated is not None:
            return stated, "datasheet"
    key = _key(device, precision, threads)
    if key in (peaks := _remembered()):
        return peaks[key], "measured"
    flops, undisturbed = _probe(device, _DTYPES[precision], threads)
    if undisturbed:
        with suppress(OSError, Refused):  # only saves time: a read-only cache must not stop a run
            write_atomically(_file(), json.dumps(_remembered() | {key: flops}, indent=1, sort_keys=True))
    return flops, "measured"


def _key(device: torch.device, precision: str, threads: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.hardware()["cpu"]
    workers = threads if device.type == "cpu" else 0
    values = (device.type, name, workers, precision, torch.get_float32_matmul_precision(), torch.__version__)
    return "|".join(map(str, values))


def _probe(device: torch.device, dtype: torch.dtype, threads: int) -> tuple[float, bool]:
    """The best rate over products of growing size, FLOP/s, and whether the CPU was all ours (of a GPU nothing says).

    The size doubles for as long as there is time for the next: a fast device needs large products to reach its plateau,
    a slow one has no time for them. The best and not the median, since whatever else runs on the machine can only slow
    a product down.
    """
    before, size, best = torch.get_num_threads(), 256, 0.0
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            _product_s(size, device, dtype)  # a GPU's libraries may take longer to start than the whole budget
            end = time.perf_counter() + BUDGET_S
            while True:
                product_s, busy = _product_s(size, device, dtype)
                best = max(best, 2 * size**3 / product_s)
                left_s = end - time.perf_counter()
                if size < _LARGEST and left_s > (_TIMED + 1) * 8 * product_s:
                    size *= 2
                elif left_s < (_TIMED + 1) * product_s:
                    return best, device.type == "cpu" and busy > _OURS * threads
    finally:
        torch.set_num_threads(before)


def _product_s(size: int, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of the fastest of a few products of square matrices, and how many CPU cores they kept busy."""
    generator = torch.Generator(device).manual_seed(0)  # the run's own random numbers stay as they are
    matrix = torch.rand(size, size, generator=generator, device=device).to(dtype)
    _timed(matrix)  # starts threads, chooses kernels
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    fastest_s = min(_timed(matrix) for _ in range(_TIMED))
    return fastest_s, (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)


def _timed(matrix: torch.Tensor) -> float:
    """Seconds of one product with itself. Reading a value waits for the device on any backend."""
    matrix[0, 0].item()
    start = time.perf_counter()
    (matrix @ matrix)[0, 0].item()
    return time.perf_counter() - start


def _file() -> Path:
    return cache_dir() / "speed.json"


def _remembered() -> dict[str, float]:
    """Peaks by key; none where the file is missing or broken."""
    with suppress(OSError, ValueError, AttributeError, Refused):
        values = json.loads(_file().read_text(encoding="utf-8"))
        return {key: peak for key, peak in values.items() if isinstance(peak, float) and 0 < peak < math.inf}
    return {}
