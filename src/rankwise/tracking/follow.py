"""Follows a run from a process of its own, and tells a tracker of it.

``python -m rankwise.tracking.follow FOLDER POSITION INODE`` reads what the run writes, as it is written, until its
standard input ends; then it tells how the run ended. It may fail, hang or be killed: the run, whose files are the
truth, does not notice, and whatever W&B misses can be sent from the files later, with ``rankwise dashboard --push``.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rankwise.errors import one_line
from rankwise.tracking import aside
from rankwise.tracking import record as records
from rankwise.tracking.fields import objective
from rankwise.tracking.journal import Tail
from rankwise.tracking.record import Record

TRACKERS = {
    "wandb": "rankwise.tracking.wandb_run:WandbRun",
    "trackio": "rankwise.tracking.local:Trackio",
    "tensorboard": "rankwise.tracking.local:TensorBoard",
}
_LOOK_S = 0.5  # between two looks at the run's rows
_GONE_S = 3.0  # for the kernel to let go of the folder of a run that was killed


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


def tell(folder: Path, tracker: Tracker, record: Record, rows: Iterator[list[dict[str, Any]]]) -> None:
    """Every row of the run as it comes, then the record as it is at the end."""
    for some in rows:
        for row in some:
            tracker.log(row | objective(row, record))
    deadline = time.monotonic() + _GONE_S
    while (ended := records.read(folder)).status == records.RUNNING and time.monotonic() < deadline:
        time.sleep(0.05)
    is_gone = ended.run.get("started") != record.run.get("started")  # the result of before has been put back
    if is_gone:
        ended = replace(record, run=record.run | {"status": records.STOPPED})
    tracker.end(ended)
    tracker.settle(ended.status == records.FINISHED or not (is_gone or aside.holds_result(folder)))


def while_open(stream: Any, journal: Tail) -> Iterator[list[dict[str, Any]]]:
    """New rows, until the stream ends; what is there by then comes last."""
    is_open = True
    while is_open:
        is_open = not select.select([stream], [], [], _LOOK_S)[0] or bool(stream.read(1))
        yield journal.rows()


def main(folder: Path, end: tuple[int, int]) -> None:
    """Follow a journal from what was its ``end`` when the run began. Say on stdout, in a JSON line each, where the run
    is mirrored and at the end what is missing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides, and is told of
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        with contextlib.suppress(OSError):  # the run is gone
            print(json.dumps(values), file=out, flush=True)

    try:
        record = records.read(folder)
        tracker = start(record, run_pid=os.getppid())
        say(about=tracker.about, problem=tracker.problem)
        tell(folder, tracker, record, while_open(sys.stdin.buffer, Tail(folder / "metrics.jsonl", end)))
        say(problem=tracker.problem, ended=True)
    except BaseException as error:  # W&B's service can raise anything, when it is killed for one
        say(problem=one_line(error))
    os._exit(0)  # W&B would wait for its service, as long as that waits for a server


if __name__ == "__main__":
    main(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])))
