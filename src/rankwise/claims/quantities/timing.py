"""Measured quantities: seconds of two settings against each other, in turns and in one process, so that whatever else
the machine does falls on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from rankwise.claims.configs import Spec, config_of
from rankwise.claims.estimate import Estimate
from rankwise.claims.random_models import adapted_model, base_model, batch, merged_model
from rankwise.config import Config
from rankwise.tracking.record import Record
from rankwise.train import optim

Call = Callable[[], None]


def step_speed(
    records: Sequence[Record], of: Spec, to: Spec, rows: int, length: int, blocks: int = 20
) -> Estimate:  # fmt: skip
    """How many times faster an optimizer step of ``of`` is than one of ``to``: the ratio of median seconds."""
    return _ratio([_step(config_of(spec), rows, length) for spec in (to, of)], blocks)


def forward_latency(
    records: Sequence[Record], of: Spec, to: Spec, rows: int, length: int, blocks: int = 20, merged: bool = False
) -> Estimate:
    """How many times the seconds of ``to`` a forward pass of ``of`` takes; ``merged``: its adapter in the weights."""
    return _ratio([_forward(config_of(of), rows, length, merged), _forward(config_of(to), rows, length, False)], blocks)


def _ratio(calls: Sequence[Call], blocks: int) -> Estimate:
    """Median seconds of the first over those of the second, with a paired bootstrap over blocks.

    The order within a block alternates, and the first block is not counted.
    """
    seconds_bc = np.zeros((blocks, 2))
    for block in range(-1, blocks):
        for place in (0, 1) if block % 2 else (1, 0):
            start = time.perf_counter()
            calls[place]()
            if block >= 0:
                seconds_bc[block, place] = time.perf_counter() - start
    first, second = seconds_bc.T

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    found = stats.bootstrap(
        (first, second), ratio, paired=True, vectorized=True, n_resamples=5_000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    note = (
        f"medians {1e3 * np.median(first):.3g} and {1e3 * np.median(second):.3g} ms, {torch.get_num_threads()} threads"
    )
    return Estimate(float(ratio(first, second)), float(found.low), float(found.high), blocks, note=note)


def _step(config: Config, rows: int, length: int) -> Call:
    base = base_model(config, seed=0)
    inputs = batch(base, rows, length)
    model = adapted_model(config, base).train()
    optimizer = optim.build(model, config.optim, "cpu", False, config.method.lr_ratio)

    def call() -> None:
        model(**inputs).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def _forward(config: Config, rows: int, length: int, merged: bool) -> Call:
    base = base_model(config, seed=0)
    inputs = batch(base, rows, length)
    model = (merged_model if merged else adapted_model)(config, base).eval()

    def call() -> None:
        with torch.inference_mode():
            model(**inputs)

    return call
