"""How long a forward pass takes beside the base's: in turns and in one process, so that whatever else the machine does
falls on all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from transformers import PretrainedConfig

from rankwise import methods
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.measure.random_models import adapted_model, base_model, batch, merged_model
from rankwise.model.methods.quiet import CANNOT
from rankwise.model.numerics import Numerics

LEAST, MOST, BUDGET_S = 10, 100, 10.0  # blocks of a shape, and the seconds after which there are no more
_CPU = torch.device("cpu")

Call = Callable[[], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Of two medians, with its 95 % interval."""

    value: float
    low: float
    high: float


def latencies(config: Config, architecture: PretrainedConfig, settings: Numerics) -> list[dict[str, Any]]:
    """For each ``[rows, length]`` of ``tracking.latency``, median milliseconds of a forward pass of the base, of the
    adapted model and of the merged one, and the ratios of the latter two to the base.

    ``{rows, length, blocks, base_ms, adapted_ms, adapted_of_base: {value, low, high}, merged_ms, merged_of_base}``; the
    last two are None where nothing can be merged. Full fine-tuning, as all methods that train weights of the base
    where they are, is timed as a second instance of the base: its ratio is the error of the timing. The models have
    ``architecture`` and random weights, as values do not matter here, and need two or three times the base's memory;
    where that is too much, ``{rows, length, absent: "out of memory"}``: a run that trained must not fail for it.
    """
    found: list[dict[str, Any]] = []
    models: dict[str, nn.Module] = {}
    with _unless_out_of_memory():
        models = _models(config, architecture, settings)
    for rows, length in config.tracking.latency:
        times: dict[str, Any] = {"absent": "out of memory"}
        with _unless_out_of_memory():
            times = _times(models, rows, length, settings) if models else times
        found.append({"rows": rows, "length": length} | times)
    models.clear()
    gc.collect()  # hooks tie modules into cycles
    if settings.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def check_lengths(shapes: Iterable[list[int]], longest: int) -> None:
    """Raise Refused for a shape that is longer than the loaded model has positions for."""
    for shape in shapes:
        if shape[1] > longest:
            allowed = f"a length of at most {longest}, the longest sequence that this model has positions for"
            raise Refused.value("tracking.latency", shape, allowed)


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
        for place in orders[len(taken) % len(orders)]:
            block[place] = _seconds(calls[place], device)
        taken.append(block)
    return np.array(taken).T


def ratio_of_medians(of_s: Floats, to_s: Floats) -> Ratio:
    """The median of ``of_s`` over that of ``to_s``, both (blocks,), with a paired bootstrap over blocks."""

    def ratio(a: Floats, b: Floats, axis: int = -1) -> Any:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    found = stats.bootstrap(
        (of_s, to_s), ratio, paired=True, vectorized=True, n_resamples=5_000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Ratio(float(ratio(of_s, to_s)), float(found.low), float(found.high))


def forward(model: nn.Module, inputs: dict[str, torch.Tensor], settings: Numerics | None = None) -> Call:
    """A forward pass without gradients, in the precision of ``settings``, else in that of the model."""

    def call() -> None:
        with torch.inference_mode(), settings.autocast() if settings else contextlib.nullcontext():
            model(**inputs)

    return call


def _seconds(call: Call, device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    call()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given: a GPU's calls return before."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _times(models: dict[str, nn.Module], rows: int, length: int, settings: Numerics) -> dict[str, Any]:
    inputs = batch(models["base"], rows, length)
    calls = [forward(model, inputs, settings) for model in models.values()]
    seconds_cb = interleaved(calls, MOST, LEAST, BUDGET_S, settings.device)
    by_name = dict(zip(models, seconds_cb, strict=True))
    found: dict[str, Any] = {"blocks": seconds_cb.shape[1], "base_ms": _median_ms(by_name["base"])}
    for name in ("adapted", "merged"):
        own = by_name.get(name)
        found[f"{name}_ms"] = None if own is None else _median_ms(own)
        found[f"{name}_of_base"] = None if own is None else asdict(ratio_of_medians(own, by_name["base"]))
    return found


def _median_ms(seconds_b: Floats) -> float:
    return 1e3 * float(np.median(seconds_b))


def _models(config: Config, architecture: PretrainedConfig, settings: Numerics) -> dict[str, nn.Module]:
    """base, adapted and, where there is such, merged: each with weights of its own, as they are served."""
    # Where an adapter starts from is a matter of values; without it, nothing is read or decomposed for them.
    method = dataclasses.replace(config.method, init=None, init_from=None)
    config = dataclasses.replace(config, method=method)

    def fresh() -> Any:
        return base_model(config, config.seed, architecture, settings.attention)

    models = {"base": fresh(), "adapted": adapted_model(config, fresh())}
    if (merged := _merged(config, fresh)) is not None:
        models["merged"] = merged
    for model in models.values():
        # Autocast keeps copies of weights that require gradients, which are others in each of the models.
        model.eval().requires_grad_(False).to(settings.device)
        if settings.precision == "bf16_true":
            model.to(torch.bfloat16)
    return models


def _merged(config: Config, fresh: Callable[[], Any]) -> nn.Module | None:
    if not methods.of(config.method).on_targets:
        return None
    try:
        return merged_model(config, fresh())
    except CANNOT:  # of an adapter that is no change of weights
        return None


@contextlib.contextmanager
def _unless_out_of_memory() -> Iterator[None]:
    """Go on behind the block where memory is short, of which torch has several ways to tell."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
