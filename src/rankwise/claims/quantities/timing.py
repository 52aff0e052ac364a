"""Measured quantities: seconds of two settings against each other, in turns and in one process, so that whatever else
the machine does falls on both.
"""

from collections.abc import Sequence

import numpy as np
import torch

from rankwise.claims.claim import Estimate, Spec
from rankwise.claims.configs import config_of
from rankwise.config import Config
from rankwise.errors import plural
from rankwise.measure.latency import Call, forward, interleaved, ratio_of_medians
from rankwise.measure.random_models import base_model, batch, merged_model
from rankwise.model.adapt import adapt
from rankwise.train import optim


def step_speed(of: Spec, to: Spec, rows: int, length: int, blocks: int = 20) -> Estimate:
    """How many times faster an optimizer step of ``of`` is than one of ``to``: the ratio of median seconds."""
    return _ratio([_step(config_of(spec), rows, length) for spec in (to, of)], blocks)


def forward_latency(of: Spec, to: Spec, rows: int, length: int, blocks: int = 20, merged: bool = False) -> Estimate:
    """How many times the seconds of ``to`` a forward pass of ``of`` takes; ``merged``: its adapter in the weights."""
    return _ratio([_forward(config_of(of), rows, length, merged), _forward(config_of(to), rows, length, False)], blocks)


def _ratio(calls: Sequence[Call], blocks: int) -> Estimate:
    """Median seconds of the first over those of the second."""
    first, second = interleaved(calls, blocks)
    ratio = ratio_of_medians(first, second)
    medians = " and ".join(f"{1e3 * np.median(seconds):.3g}" for seconds in (first, second))
    note = f"medians {medians} ms, {plural(torch.get_num_threads(), 'thread')}"
    return Estimate(ratio["value"], ratio["low"], ratio["high"], blocks, note=note)


def _step(config: Config, rows: int, length: int) -> Call:
    base = base_model(config)
    inputs = batch(base, rows, length)
    model = adapt(base, config).model.train()
    optimizer = optim.build(model, config.optim, "cpu", False, config.method.lr_ratio)

    def call() -> None:
        model(**inputs).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def _forward(config: Config, rows: int, length: int, merged: bool) -> Call:
    base = base_model(config)
    inputs = batch(base, rows, length)
    return forward((merged_model(config, base) if merged else adapt(base, config).model).eval(), inputs)
