"""The child's side of the launcher: one process, one run, then gone. What it has to say stands in the run's folder."""

import contextlib
import faulthandler
import importlib
import io
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, NoReturn

from rankwise.config import typed
from rankwise.errors import Refused
from rankwise.tasks import data
from rankwise.tracking.provenance import COMMAND
from rankwise.tracking.record import FAILED, RUNNING, STOPPED, Record, now

GRACE_S = 10.0  # from SIGTERM to SIGKILL
SKIPPED = "skipped"  # another process has the run
REFUSED = "refused"  # before its first step: the user's to mend, and nothing of it stays


@dataclass(frozen=True)
class Job:
    """What a child is told, and given of the data, which need then not be read for every run."""

    config: dict[str, Any]
    folder: str
    task: str  # module:function
    threads: int  # of torch
    gpu: str | None  # for CUDA_VISIBLE_DEVICES; null leaves that as it is
    command: str  # as the user typed it
    read: dict[Any, data.Data]

    @property
    def log(self) -> Path:
        """Where everything that the run prints goes."""
        return Path(self.folder) / "log"


@dataclass(frozen=True)
class End:
    """How a run ended, in its own words."""

    status: str
    error: str | None = None


def work(job: Job) -> NoReturn:
    """Do the job, write how it ended as the last line of the log, and exit without cleaning up after the parent."""
    stop = _Stop()
    try:
        _settle(job)
        end = _run(job)
        stop.armed = False
    except BaseException as error:
        stop.armed = False
        if not (stopped := stop.received or isinstance(error, KeyboardInterrupt)):
            traceback.print_exc()
        if stopped:
            end = End(STOPPED)
        elif isinstance(error, Refused):
            end = End(FAILED if (Path(job.folder) / "result.json").exists() else REFUSED, str(error))
        else:
            end = End(FAILED, " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:500])
    with contextlib.suppress(OSError, ValueError):
        print(f"=== pid {os.getpid()} {end.status}{': ' + end.error if end.error else ''}", flush=True)
        sys.stderr.flush()
    os._exit(0)


def ending(log: Path, pid: int) -> End | None:
    """What a process wrote last of itself in a log; None where it died before it could.

    An earlier attempt, in another container, may have had the same number: what counts follows the last beginning.
    """
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
        text = re.split(rf"^=== \S+ \S+ pid {pid}, ", file.read().decode(errors="replace"), flags=re.MULTILINE)[-1]
        if lines := re.findall(rf"^=== pid {pid} (\w+)(?:: (.*))?$", text, re.MULTILINE):
            status, error = lines[-1]
            return End(status, error or None)
    return None


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
    """Become a process of its own: session, log, device, threads, and an eye on the parent."""
    os.setsid()
    threading.Thread(target=_stop_with_parent, name="watch-parent", daemon=True).start()
    _print_to_log(job)
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    os.environ[COMMAND] = job.command
    os.environ["OMP_NUM_THREADS"] = str(job.threads)  # of torch that is not imported yet, and of our own children
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(job.threads)


def _stop_with_parent() -> None:
    """Wait until the parent is gone, then stop this run as the parent would have.

    PR_SET_PDEATHSIG is of no use: our parent in the kernel's eyes is the fork server, which lives on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


def _print_to_log(job: Job) -> None:
    """Append what this process prints, compiled code and crashes included, to the log."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable(file=2)
    device = "" if job.gpu is None else f", GPU {job.gpu}"
    print(f"=== {now()} {socket.gethostname()} pid {os.getpid()}, {job.threads} threads{device}", flush=True)


def _run(job: Job) -> End:
    module, _, function = job.task.partition(":")
    task: Callable[..., Record] = getattr(importlib.import_module(module), function)
    data.take_as_read(job.read)
    record = task(typed(job.config))
    return End(SKIPPED if record.status == RUNNING else record.status)
