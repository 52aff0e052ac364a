"""Runs side by side on this machine: one process per run, forked from a server that has imported everything already.

A fresh process takes seconds to import torch and friends, a fork of one that did takes milliseconds, and its memory is
measured cleanly. The server only imports: see ``preload.py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any

from rankwise import assets, identity, machine
from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.study import outdated, progress
from rankwise.study import preload as preloading
from rankwise.study.preload import HEAVY
from rankwise.study.worker import GRACE_S, SKIPPED, End, Job, Step, idle, work
from rankwise.tracking import record
from rankwise.tracking.record import FAILED, FINISHED, RUNNING, STOPPED

_JOB_BYTES = 2 * 1024**3  # what a run of a small model may need
_TICK_S = 0.25


@dataclass(frozen=True)
class Outcome:
    """How one run ended."""

    folder: Path
    status: str  # finished | failed | stopped | skipped
    error: str | None  # one line
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it ended badly; a run that another process has did not."""
        return self.status not in (FINISHED, SKIPPED)


def run(configs: Sequence[Config], jobs: int | None = None, stage: str = "") -> list[Outcome]:
    """Run what is not finished of ``configs``, each run once, and say how each ended, failures on stderr.

    What the runs need is fetched first, here, with its progress in view. ``stage`` names them to who watches.
    """
    finished = [config for config in configs if done(config)]
    left = {identity.folder(config): config for config in configs if not done(config)}
    other = outdated.summary([config for config in finished])
    before = f", {len(configs) - len(left)} finished before" if len(configs) > len(left) else ""
    before += f" ({other}; --rerun runs them again)" if other else ""
    print(f"rankwise: {len(configs)} {stage + ' ' if stage else ''}runs{before}; {len(left)} to run", file=sys.stderr)
    for source in {repr(s): s for config in left.values() for s in (config.model, config.task)}.values():
        assets.resolve(source)
    outcomes = launch([*left.values()], jobs)
    for outcome in outcomes:
        if outcome.failed:
            name, log = outcome.folder.name, outcome.folder / "log"
            print(f"rankwise: {name} {outcome.status}: {outcome.error}; log: {log}", file=sys.stderr)
    return outcomes


def done(config: Config) -> bool:
    """Whether there is nothing to run: it has finished, and is not asked for again."""
    return not config.rerun and record.is_done(config)


def launch(
    configs: list[Config], jobs: int | None = None, task: str = "rankwise.run:run", preload: Sequence[str] = HEAVY
) -> list[Outcome]:
    """Run every config in a process of its own, ``jobs`` at a time, and say how each ended, in the order given.

    ``task`` is ``module:function``, called in the child as ``function(config, on_progress=…)``; it returns a Record.
    Call this from the main thread: SIGINT and SIGTERM then stop the runs, give them 10 s to write their records (a
    second signal: none), and raise KeyboardInterrupt. A run that fails or dies stops no other.
    """
    if not configs:
        return []
    slots = share(configs, jobs)
    if any(slots.gpus) and importlib.util.find_spec("bitsandbytes"):  # which PEFT imports, and which asks CUDA at once
        preload = [name for name in preload if not name.startswith(("peft", "rankwise"))]
    with (
        _Signals() as signals,
        progress.show(len(configs), slots.jobs) as shown,
        _fork_server(preload, signals) as context,
    ):
        ended = _Engine(context, slots, task, signals, shown).run(configs)
    return [ended[identity.folder(config).absolute()] for config in configs]


@dataclass(frozen=True)
class Slots:
    """How the machine is shared out: runs at a time, torch threads for each, and a GPU for each where there are any."""

    jobs: int
    threads: int
    gpus: list[str | None]  # one per job


def share(configs: Sequence[Config], jobs: int | None = None) -> Slots:
    """One job per GPU if there are any, else as many as cores and available memory (2 GiB each) allow.

    More jobs than GPUs, when asked for, share them. Threads follow from cores and jobs alone, since a run's last bits
    follow from its threads: neither the runs that are left nor free memory may change them.
    """
    wanted = any(config.trainer.device in ("auto", "cuda") for config in configs)
    gpus, cores = machine.gpus() if wanted else [], machine.cores()
    together = jobs or len(gpus) or cores
    if not (jobs or gpus):
        each = max(config.trainer.threads or 1 for config in configs)
        jobs = min(cores // each, machine.memory_bytes() // _JOB_BYTES)
    jobs = max(1, min(jobs or len(gpus), len(configs)))
    return Slots(jobs, max(1, cores // together), [gpus[i % len(gpus)] if gpus else None for i in range(jobs)])


@dataclass
class _Run:
    """A run and its process."""

    folder: Path
    gpu: str | None
    process: ForkServerProcess
    pipe: Connection
    began_s: float = field(default_factory=time.monotonic)
    end: End | None = None

    @property
    def name(self) -> str:
        return self.folder.name


class _Engine:
    """Keeps every slot busy until nothing is left, or until a signal."""

    def __init__(self, context: ForkServerContext, slots: Slots, task: str, signals: _Signals, shown: progress.Plain):
        self._context, self._slots, self._task, self._signals, self._shown = context, slots, task, signals, shown
        self._free = list(reversed(slots.gpus))
        self._running: list[_Run] = []

    def run(self, configs: Sequence[Config]) -> dict[Path, Outcome]:
        waiting, self._ended = list(reversed(configs)), dict[Path, Outcome]()
        try:
            while (self._running or waiting) and not self._signals.count:
                while self._free and waiting and not self._signals.count:
                    self._start(waiting.pop())
                self._poll()
            if self._signals.count:
                self._stop()
                raise KeyboardInterrupt
        finally:  # a bug of ours must not leave runs behind either
            for run in self._running:
                _kill(run.process, signal.SIGKILL)
        return self._ended

    def _start(self, config: Config) -> None:
        folder = identity.folder(config).absolute()
        gpu = self._free.pop()
        threads = config.trainer.threads or self._slots.threads
        job = Job(plain(config), str(folder), self._task, threads, gpu, sys.argv[0])
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(job, writer), name=folder.name)
        process.start()
        writer.close()
        self._running.append(_Run(folder, gpu, process, reader))
        self._shown.started(folder.name)

    def _poll(self, timeout_s: float = _TICK_S) -> None:
        """Wait for news of the running runs, or for a moment."""
        pipes = [run.pipe for run in self._running if not run.pipe.closed]
        ready = connection.wait([*pipes, *(run.process.sentinel for run in self._running)], timeout_s)
        for run in list(self._running):
            over = run.process.sentinel in ready
            if over or run.pipe in ready:
                self._receive(run)
            if over:
                self._finish(run)
        self._shown.tick()

    def _receive(self, run: _Run) -> None:
        try:
            while not run.pipe.closed and run.pipe.poll():
                message = run.pipe.recv()
                if isinstance(message, Step):
                    self._shown.moved(run.name, message.step, message.total, message.text)
                else:
                    run.end = message
        except (EOFError, OSError):
            run.pipe.close()

    def _finish(self, run: _Run) -> None:
        """The process is gone: take what it started with it, correct the record, free the slot."""
        run.process.join()
        seconds = time.monotonic() - run.began_s
        with contextlib.suppress(OSError):  # usually there is nothing left in the group
            os.killpg(_pid(run.process), signal.SIGKILL)
        end = run.end or End(STOPPED if self._signals.count else FAILED, _cause(run.process.exitcode))
        kind = "Died" if run.end is None else "Error"
        correct(run.folder, end.status, {"type": kind, "message": end.error} if end.status == FAILED else None)
        run.pipe.close()
        run.process.close()
        self._running.remove(run)
        self._free.append(run.gpu)
        self._ended[run.folder] = Outcome(run.folder, end.status, end.error, seconds)
        self._shown.ended(run.name, end.status, seconds, end.objective, end.error)

    def _stop(self) -> None:
        """Ask the runs to stop, then make them."""
        self._shown.say(f"stopping {len(self._running)} running; interrupt again to kill")
        asked = self._signals.count
        for patience_s, number in ((GRACE_S, signal.SIGTERM), (GRACE_S, signal.SIGKILL)):
            for run in self._running:
                _kill(run.process, number)
            deadline = time.monotonic() + patience_s
            while self._running and time.monotonic() < deadline:
                if number == signal.SIGTERM and self._signals.count > asked:
                    break
                self._poll()


def correct(folder: Path, status: str, error: dict[str, Any] | None) -> None:
    """Rewrite a record that still says "running" though its process is gone. Any other is left as it is."""
    deadline = time.monotonic() + 2.0  # what the run had started may hold its folder until it is gone too
    while (folder / "result.json").exists():
        with record.owned(folder) as mine:
            if mine:
                with contextlib.suppress(Refused, OSError):  # not a record, or a full disk: nothing to mend
                    found = record.read(folder)
                    if found.status == RUNNING:
                        found.run |= {"status": status, "ended": record.now()}
                        found.error = error
                        found.write()
                return
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


class _Signals:
    """Counts SIGINT and SIGTERM, so that neither breaks into the bookkeeping; ``raising()`` while there is none."""

    def __init__(self) -> None:
        self.count = 0
        self._raise = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A signal in here is a KeyboardInterrupt at once."""
        self._raise = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._raise = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._raise:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _fork_server(modules: Sequence[str], signals: _Signals) -> Iterator[ForkServerContext]:
    """A fork server that has imported ``modules``; gone afterwards."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloading.__name__])
    server: Any = forkserver._forkserver  # there is no public way to end it
    with signals.raising():
        try:
            # It cleans up after runs that were killed; that it had to is nobody's concern.
            with _environment({"PYTHONWARNINGS": "ignore:resource_tracker"}):
                resource_tracker.ensure_running()
            with _environment(_server_environment(modules)):
                forkserver.ensure_running()
            first = context.Process(target=idle)
            first.start()
            first.join()
        except KeyboardInterrupt:
            _end(server)
            raise
    try:
        yield context
    finally:
        _end(server)


def _end(server: Any) -> None:
    """Kill the fork server: asked to end, it would first finish its imports."""
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def _server_environment(modules: Sequence[str]) -> dict[str, str]:
    """What the fork server, and so every run, gets besides this process's environment."""
    yielding = {
        # Threads that spin at barriers slow a shared machine by an order of magnitude; libgomp reads this on loading.
        "OMP_WAIT_POLICY": "passive",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's: no thread in the server
    }
    return {
        **preloading.environment(modules),
        "OMP_NUM_THREADS": "1",  # threads do not survive a fork; every run sets its own number
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # "is there a GPU?" must not initialise CUDA before the fork
        **{name: value for name, value in yielding.items() if name not in os.environ},
    }


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """The environment with ``changes``; put back afterwards."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pid(process: ForkServerProcess) -> int:
    assert process.pid is not None
    return process.pid


def _kill(process: ForkServerProcess, number: signal.Signals) -> None:
    """Signal the run and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(_pid(process), number)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(_pid(process), number)


def _cause(code: int | None) -> str:
    """What an exit code says about a process that said nothing itself."""
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"
