"""One fine-tuning run on several devices of this machine: a process for each, and one record.

The process that has the run starts the others, waits, and ends them all when one fails. The first rank writes into the
run's folder; what the others would write goes into one that is thrown away.
"""

import contextlib
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from rankwise import machine
from rankwise.baseline import OnProgress
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.fine_tune import fine_tune
from rankwise.forks import fork_server
from rankwise.forks.preload import HEAVY
from rankwise.measure.clock import Clock
from rankwise.tasks import data
from rankwise.tracking.journal import Journal
from rankwise.tracking.record import Record
from rankwise.train.checkpoint import clear
from rankwise.train.ranks import Ranks

_GRACE_S = 5
_KEPT = ("provenance", "params", "memory", "compute", "storage", "lora", "metrics", "objective")


def fine_tune_on_several(
    config: Config, record: Record, clock: Clock, journal: Journal, ready: Callable[[], None], on_progress: OnProgress
) -> None:
    """As ``fine_tune``, on ``config.trainer.devices`` devices.

    Raises what the first rank to fail raised: Refused as it is, else RuntimeError with the rank and the reason; and
    ChildProcessError for a rank that was killed.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # that no parameter was unused after all is no news
    heard = _Heard(record, clock, ready, on_progress)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="rankwise-ranks-") as others,
            fork_server.started(HEAVY, fork_server.Signals(), bool(machine.gpus())) as context,
            contextlib.closing(context.SimpleQueue()) as queue,
        ):
            port, threads = find_free_network_port(), torch.get_num_threads()
            read = data.already_read(config)
            arguments = (config, record, read, journal.attempt, others, port, threads, queue)
            _wait(start_processes(_rank, arguments, config.trainer.devices, False, False, "forkserver"), heard, queue)
    except BaseException as error:
        clear(record.folder, error)
        raise


def _wait(ranks: ProcessContext, heard: "_Heard", queue: Any) -> None:
    """Until all ranks have ended well. Raises as ``fine_tune_on_several``; no rank is left then."""
    try:
        while not ranks.join(timeout=0.2, grace_period=_GRACE_S):
            heard.listen(queue)
    except (ProcessExitedException, ProcessRaisedException):
        heard.listen(queue)
        raise heard.cause(ranks.processes) from None
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()
        heard.listen(queue)


class _Heard:
    """What the ranks have said: how far the run is, what it found, what went wrong."""

    def __init__(self, record: Record, clock: Clock, ready: Callable[[], None], on_progress: OnProgress):
        self.record, self.clock, self.ready, self.on_progress = record, clock, ready, on_progress
        self.errors: list[Exception] = []

    def listen(self, queue: Any) -> None:
        """Pass on how far the run is, take what it found."""
        while not queue.empty():
            kind, value = queue.get()
            if kind == "progress":
                self.on_progress(*value)
            elif kind == "ready":
                self.ready()
            elif kind == "error":
                self.errors.append(value)
            else:
                filled, seconds = value
                for name in _KEPT:
                    setattr(self.record, name, getattr(filled, name))
                self.clock.seconds |= seconds

    def cause(self, processes: list[Any]) -> Exception:
        """Why the run ended: a rank was killed, which breaks the others' connections, or said so itself."""
        for rank, process in enumerate(processes):
            code = process.exitcode or 0
            if code < 0 and -code != signal.SIGTERM:  # which the others are ended with
                name = signal.Signals(-code).name
                return ChildProcessError(f"rank {rank} of {len(processes)} was killed by {name}")
        return self.errors[0] if self.errors else RuntimeError("a rank ended without a word; see the log")


def _rank(
    rank: int,
    config: Config,
    record: Record,
    read: dict[Any, data.Data],
    attempt: int,
    others: str,
    port: int,
    threads: int,
    queue: Any,
) -> None:
    """The process of one rank, from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    fork_server.end_with_parent()
    ranks = Ranks(rank, config.trainer.devices)
    os.environ |= {
        Ranks.RANK: f"{rank} {ranks.world}",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks.world),
        "LOCAL_WORLD_SIZE": str(ranks.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GROUP_RANK": "0",
    }
    torch.set_num_threads(config.trainer.threads or max(1, threads // ranks.world))
    if torch.cuda.is_available() and config.trainer.device != "cpu":
        torch.cuda.set_device(rank)
    data.take_as_read(read)
    mine = record if ranks.is_first else replace(record, folder=Path(others) / str(rank))
    journal, clock = Journal(mine.folder / "metrics.jsonl", attempt), Clock()

    def tell(kind: str, value: Any = None) -> None:
        queue.put((kind, value))

    def ready() -> None:
        tell("found", (mine, clock.seconds))  # it may be killed
        tell("ready")

    try:
        if ranks.is_first:
            fine_tune(config, mine, clock, journal, ready, lambda *how_far: tell("progress", how_far))
        else:
            fine_tune(config, mine, clock, journal, lambda: None, lambda *_: None, record.folder)
        distributed.destroy_process_group()
    except Refused as refused:
        tell("error", refused)
        raise SystemExit(1) from None
    except Exception as error:
        traceback.print_exc()
        tell("error", RuntimeError(f"rank {rank} of {ranks.world}: {type(error).__name__}: {error}"))
        raise SystemExit(1) from None
    finally:
        if ranks.is_first:
            tell("found", (mine, clock.seconds))
