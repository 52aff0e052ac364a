"""The child's side of the launcher: one process, one run, then gone."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from rankwise.config import typed
from rankwise.errors import Refused
from rankwise.tracking.record import FAILED, RUNNING, STOPPED, Record, now

GRACE_S = 10.0  # from SIGTERM to SIGKILL
SKIPPED = "skipped"  # another process has the run
_EVERY_S = 0.25  # between two reports of progress


@dataclass(frozen=True)
class Job:
    """What a child is told. Plain values only, so that it crosses the pipe whatever the child has imported."""

    config: dict[str, Any]
    folder: str
    task: str  # module:function
    threads: int  # of torch
    gpu: str | None  # for CUDA_VISIBLE_DEVICES; null leaves that as it is
    program: str  # sys.argv[0] of the parent


@dataclass(frozen=True)
class Step:
    """Progress of a run."""

    step: int
    total: int
    text: str


@dataclass(frozen=True)
class End:
    """How a run ended, in its own words."""

    status: str
    error: str | None = None
    objective: float | None = None


def idle() -> None:
    """Do nothing: the first child of a fork server is back when the server has imported everything."""


def work(job: Job, pipe: Connection) -> NoReturn:
    """Do the job, send Steps and one End through the pipe, and exit. Nothing that the parent did is cleaned up here."""
    stop = _Stop()
    try:
        _settle(job)
        end = _run(job, pipe)
        stop.armed = False
    except BaseException as error:
        stop.armed = False
        traceback.print_exc()
        stopped = stop.received or isinstance(error, KeyboardInterrupt)
        end = End(STOPPED) if stopped else End(FAILED, describe(error))
    with contextlib.suppress(OSError):  # the parent is gone
        pipe.send(end)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    kind = "" if isinstance(error, Refused) else type(error).__name__
    return one_line(": ".join(part for part in (kind, str(error)) if part))


def one_line(text: str, limit: int = 500) -> str:
    """The text with its white space squeezed, cut at ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class _Stop:
    """SIGTERM raises KeyboardInterrupt, once: a second must not break into the writing of the record.

    ``received`` outlives what others make of the exception: Lightning turns it into SystemExit.
    """

    def __init__(self) -> None:
        self.received = False
        self.armed = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        signal.signal(signal.SIGTERM, self)

    def __call__(self, *_: object) -> None:
        if self.armed and not self.received:
            self.received = True
            raise KeyboardInterrupt


def _settle(job: Job) -> None:
    """Become a process of its own: session, log, device, threads, command line, and an eye on the parent."""
    os.setsid()
    threading.Thread(target=_outlive_not, name="watch-parent", daemon=True).start()
    _log_to(Path(job.folder) / "log", job)
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    # Lightning starts itself again from sys.argv: that of a multirun would start the whole study.
    sys.argv = [job.program, "train", "--config", str(Path(job.folder) / "config.yaml")]
    os.environ["OMP_NUM_THREADS"] = str(job.threads)  # of torch that is not imported yet, and of our own children
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(job.threads)


def _outlive_not() -> None:
    """Wait until the parent is gone, then stop this run as the parent would have.

    PR_SET_PDEATHSIG is of no use: our parent in the kernel's eyes is the fork server, which lives on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


def _log_to(path: Path, job: Job) -> None:
    """Append what this process prints, compiled code and crashes included, to the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable(file=2)
    device = "" if job.gpu is None else f", GPU {job.gpu}"
    print(f"=== {now()} {socket.gethostname()} pid {os.getpid()}, {job.threads} threads{device} ===", flush=True)


def _run(job: Job, pipe: Connection) -> End:
    config = typed(job.config)
    module, _, function = job.task.partition(":")
    task: Callable[..., Record] = getattr(importlib.import_module(module), function)
    record = task(config, on_progress=_Reporter(pipe))
    error = record.error
    line = one_line(": ".join(str(error[key]) for key in ("type", "message") if error.get(key))) if error else None
    return End(SKIPPED if record.status == RUNNING else record.status, line, record.objective)


class _Reporter:
    """``on_progress`` of a run: may be called at any rate, and never makes the run wait."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._room = select.poll()
        self._room.register(pipe.fileno(), select.POLLOUT)
        self._lock = threading.Lock()
        self._next_s = 0.0

    def __call__(self, step: int, total: int, text: str = "") -> None:
        with self._lock:
            due = time.monotonic() >= self._next_s or step == total
            # A full pipe means that the parent is held up (Ctrl-Z, a slow terminal): this report is dropped.
            if due and self._room.poll(0):
                self._next_s = time.monotonic() + _EVERY_S
                with contextlib.suppress(OSError):
                    self._pipe.send(Step(step, total, one_line(text, 200)))
