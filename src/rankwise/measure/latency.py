"""How long a forward pass takes beside the base's: in turns and in one process, so that whatever else the machine does
falls on all of them.
"""

import contextlib
import dataclasses
import gc
import itertools
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from transformers import PretrainedConfig

from rankwise import machine, methods
from rankwise.config import Config
from rankwise.measure.random_models import base_model, batch, merged_model
from rankwise.model.adapt import adapt
from rankwise.model.methods.peft_warnings import CANNOT
from rankwise.model.numerics import Numerics
from rankwise.model.quantize import hold_as_multiplied

LEAST, MOST, BUDGET_S = 10, 100, 10.0  # blocks of a shape, and the seconds after which there are no more
_CPU = torch.device("cpu")

Call = Callable[[], None]
Floats = NDArray[np.float64]


def latencies(config: Config, architecture: PretrainedConfig, settings: Numerics) -> list[dict[str, Any]]:
    """For each ``[rows, length]`` of ``tracking.latency``, median milliseconds of a forward pass of the base, of the
    adapted model and of the merged one, and the ratios of the latter two to the base.

    ``{rows, length, blocks, base_ms, adapted_ms, adapted_of_base: {value, low, high}, merged_ms, merged_of_base}``; the
    last two are None where nothing can be merged. Full fine-tuning, as all methods that train weights of the base
    where they are, is timed as a second instance of the base: its ratio is the error of the timing. The models have
    ``architecture`` and random weights, as values do not matter here, and need two or three times the base's memory;
    where that is too much, ``{rows, length, absent: "out of memory"}``: a run that trained must not fail for it.
    """
    models: dict[str, nn.Module] = {}
    cells: list[dict[str, Any]] = []
    for rows, length in config.tracking.latency:
        cell: dict[str, Any] = {"rows": rows, "length": length}
        try:
            models = models or _models(config, architecture, settings)
            cell |= _times(models, rows, length, settings)
        except (RuntimeError, MemoryError) as error:
            if not machine.is_out_of_memory(error):
                raise
            cell["absent"] = "out of memory"
        cells.append(cell)
    models.clear()
    gc.collect()  # hooks tie modules into cycles
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()
    return cells


def interleaved(
    calls: Sequence[Call], blocks: int, least: int = 1, budget_s: float = math.inf, device: torch.device = _CPU
) -> Floats:
    """Seconds of each call in each block, (calls, blocks). A block makes every call once; from block to block the
    order goes through all orders there are, and a first block is not counted.

    There are fewer blocks, but at least ``least``, where they would take more than ``budget_s``.
    """
    orders = list(itertools.permutations(range(len(calls))))
    for call in calls:
        _seconds(call, device)
    taken: list[list[float]] = []
    end = perf_counter() + budget_s
    while len(taken) < blocks and (len(taken) < least or perf_counter() < end):
        block = [0.0] * len(calls)
        for index in orders[len(taken) % len(orders)]:
            block[index] = _seconds(calls[index], device)
        taken.append(block)
    return np.array(taken).T


def ratio_of_medians(of_s: Floats, to_s: Floats) -> dict[str, float]:
    """The median of ``of_s`` over that of ``to_s``, both (blocks,), with the 95 % interval of a paired bootstrap."""

    def ratio(a: Floats, b: Floats, axis: int = -1) -> Any:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    drawn: dict[str, Any] = {"n_resamples": 5_000, "method": "percentile", "rng": np.random.default_rng(0)}
    limits = stats.bootstrap((of_s, to_s), ratio, paired=True, vectorized=True, **drawn).confidence_interval
    return {"value": float(ratio(of_s, to_s)), "low": float(limits.low), "high": float(limits.high)}


def forward(model: nn.Module, inputs: dict[str, torch.Tensor], settings: Numerics | None = None) -> Call:
    """A forward pass without gradients, in the precision of ``settings``, else in that of the model."""

    def call() -> None:
        with torch.inference_mode(), settings.autocast() if settings else contextlib.nullcontext():
            model(**inputs)

    return call


def _seconds(call: Call, device: torch.device) -> float:
    wait = (lambda: None) if device.type == "cpu" else (lambda: torch.accelerator.synchronize(device))
    wait()
    start = perf_counter()
    call()
    wait()  # a GPU's calls return before it has done what it was given
    return perf_counter() - start


def _times(models: dict[str, nn.Module], rows: int, length: int, settings: Numerics) -> dict[str, Any]:
    inputs = batch(models["base"], rows, length)
    calls = [forward(model, inputs, settings) for model in models.values()]
    seconds_cb = interleaved(calls, MOST, LEAST, BUDGET_S, settings.device)
    times = dict(zip(models, seconds_cb, strict=True))
    cell: dict[str, Any] = {"blocks": seconds_cb.shape[1]}
    for name in ("base", "adapted", "merged"):
        own = times.get(name)
        cell[f"{name}_ms"] = None if own is None else 1e3 * float(np.median(own))
        if name != "base":
            cell[f"{name}_of_base"] = None if own is None else ratio_of_medians(own, times["base"])
    return cell


def _models(config: Config, architecture: PretrainedConfig, settings: Numerics) -> dict[str, nn.Module]:
    """base, adapted and, where there is such, merged: each with weights of its own, as they are served."""
    # Where an adapter starts from is a matter of values; without it, nothing is read or decomposed for them.
    method = dataclasses.replace(config.method, init=None, init_from=None)
    config = dataclasses.replace(config, method=method)

    def fresh() -> Any:
        return base_model(config, architecture, settings.attention)

    models = {"base": fresh(), "adapted": adapt(fresh(), config).model}
    if methods.of(method).on_targets:
        with contextlib.suppress(*CANNOT):  # an adapter that is no change of weights
            models["merged"] = merged_model(config, fresh())
    for model in models.values():
        # Autocast keeps copies of weights that require gradients, which are others in each of the models.
        model.eval().requires_grad_(False).to(settings.device)
        if settings.precision == "bf16_true":
            model.to(torch.bfloat16)
        hold_as_multiplied(model, settings.precision)  # as a run trains and a served model holds them
    return models
