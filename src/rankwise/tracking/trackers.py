"""Where runs can be mirrored: one small interface, and who is behind it."""

import contextlib
import importlib
import os
from typing import Any, Protocol

from rankwise.tracking.record import Record

INIT_S = 15.0  # for a server to take a new run
FINISH_S = 30.0  # at the end of a run, for what is still to be written or uploaded
TRACKERS = {
    "wandb": "rankwise.tracking.wandb_run:WandbRun",
    "trackio": "rankwise.tracking.local:Trackio",
    "tensorboard": "rankwise.tracking.local:TensorBoard",
}


class Tracker(Protocol):
    """One run in one tracker. Each of these may raise whatever the tracker's package raises."""

    about: dict[str, Any]  # where the run is, for the record
    problem: str | None  # why not all of it is there

    def __init__(self, record: Record, run_pid: int | None = None) -> None:
        """Start it. ``run_pid`` is the process of a run that is alive, whose use of the machine can be followed."""

    def log(self, row: dict[str, Any]) -> None:
        """Add a row of numbers; it holds ``step``."""

    def end(self, record: Record) -> None:
        """Add the results, and say how the run ended. Returns when all of it is written or sent."""

    def settle(self, stays: bool) -> None:
        """Leave one run of all attempts at it: this one if it ``stays``, else what was there before."""


def start(record: Record, run_pid: int) -> Tracker:
    """The tracker that the run's config names, started."""
    name = (record.config.get("tracking") or {}).get("name") or "wandb"
    module, _, kind = TRACKERS[name].partition(":")
    tracker: Tracker = getattr(importlib.import_module(module), kind)(record, run_pid)
    return tracker


def seconds(variable: str, otherwise: float) -> float:
    """How long to wait: the user's own setting of W&B's, or ours where that is none or no limit."""
    with contextlib.suppress(KeyError, ValueError):
        if 0 < (value := float(os.environ[variable])) < 1e6:  # the system can wait for no more
            return value
    return otherwise
