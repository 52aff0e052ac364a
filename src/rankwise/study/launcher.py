"""Runs side by side on this machine: one process per run, forked from a server that has imported everything already.

A fresh process takes seconds to import torch and friends, a fork of one that did takes milliseconds, and its memory is
measured cleanly. How a run goes and ends is read from its folder: record, journal and log.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rankwise import machine
from rankwise.config import Config, plain
from rankwise.errors import Refused, plural
from rankwise.forks import fork_server
from rankwise.forks.preload import HEAVY
from rankwise.identity import folder
from rankwise.metrics import duration
from rankwise.study import outdated, progress
from rankwise.study.outcome import Outcome, correct, elsewhere, finished_by, refuse, score, show_end
from rankwise.study.worker import GRACE_S, REFUSED, SKIPPED, End, Job, ending, work
from rankwise.tasks import data
from rankwise.tracking import record as records
from rankwise.tracking.journal import Tail
from rankwise.tracking.provenance import command
from rankwise.tracking.record import FAILED, FINISHED, STOPPED

if TYPE_CHECKING:
    from hydra_plugins.rankwise.plugins import LocalLauncher

_JOB_BYTES = 2 * 1024**3  # what a run of a small model may need
_TICK_S = 0.25
_IDLE_S = 600.0  # a run that uses no processor time for so long is ended
_WORK_S = 0.05  # of processor time; what merely waits uses less
_OTHERS_S = 2.0  # how often one looks at runs that other machines have


def run(launcher: LocalLauncher, configs: Sequence[Config], stage: str = "", counted: bool = True) -> list[Outcome]:
    """Run what is not finished of ``configs``, each run once, and say how each ended, in the order given.

    What the runs need is fetched first, here, with its progress in view. ``stage`` names them to who watches, to whom
    it is said how many there are if they are to be ``counted``, but those that the ``launcher`` had begun before.
    Failures are lines on stderr, with their logs. Raises Refused where all runs are refused for one reason. Signals: as
    ``launch``.
    """
    if len(configs) > 1 and (name := os.environ.get("WANDB_RUN_ID")):
        raise Refused(f"WANDB_RUN_ID={name}: is the id of one run, and these are {len(configs)}; unset it")
    left = {folder(config): config for config in configs if not done(config)}
    finished = [config for config in configs if folder(config) not in (*left, *launcher.begun)]
    before = f", {len(finished)} finished before" if finished else ""
    if other := outdated.summary(finished, margin=not stage):
        before += f" ({other}{'; --rerun runs them again' * (not stage)})"
    data.fetch_all(left.values())
    if (counted and left) or finished:
        what = plural(len(finished) + len(left), "run") + f" ({stage})" * bool(stage)
        print(f"rankwise: {what}{before}; {len(left)} to run", file=sys.stderr)
    outcomes = dict(zip(left, launcher.start([*left.values()], stage), strict=True))
    launcher.begun |= {folder(config) for config in configs}
    reasons = {outcome.error if outcome.status == REFUSED else None for outcome in outcomes.values()}
    if len(reasons) == 1 and (reason := reasons.pop()):
        raise Refused(reason)
    for outcome in outcomes.values():
        if outcome.failed:
            why = f": {outcome.error}" if outcome.error else ""  # not of one that was stopped
            log = f"; log: {file}" if (file := outcome.folder / "log").exists() else ""
            print(f"rankwise: {outcome.folder.name} {outcome.status}{why}{log}", file=sys.stderr)
    return [outcomes.get(folder(config)) or Outcome(folder(config), FINISHED) for config in configs]


def done(config: Config) -> bool:
    """Whether there is nothing to run: it has finished, and is not asked for again."""
    return not config.rerun and records.is_done(config)


def launch(
    configs: Sequence[Config],
    jobs: int | None = None,
    task: str = "rankwise.run:run",
    preload: Sequence[str] = HEAVY,
    stage: str = "",
    join: Mapping[str, int] | None = None,
) -> list[Outcome]:
    """Run every config in a process of its own, ``jobs`` at a time, and say how each ended, in the order given.

    ``task`` is ``module:function``, called in the child with the config; it returns a Record. Call this from the main
    thread: SIGINT and SIGTERM then stop the runs, give them 10 s to write their records (a second signal: none), and
    raise KeyboardInterrupt. A run that fails or dies stops no other.

    A run that another process has, here or on another machine, is skipped. With ``join`` one waits for it, and takes it
    where its machine is gone; what has failed meanwhile is not tried again: ``join`` are the attempts at each run,
    by the name of its folder, that do not count.
    """
    if not configs:
        return []
    slots = share(configs, jobs)
    with (
        fork_server.Signals() as signals,
        progress.Display(len(configs), slots.jobs, stage) as shown,
        fork_server.started(preload, signals, any(slots.gpus)) as context,
    ):
        outcomes = _Engine(context, slots, task, signals, shown, join).run(configs)
    return [outcomes[folder(config).absolute()] for config in configs]


@dataclass(frozen=True)
class Slots:
    """How the machine is shared out: runs at a time, among how many its cores are, and a GPU for each if there are."""

    jobs: int
    together: int | None  # null: as many as there are cores for the devices of each
    gpus: list[str | None]  # one per job

    def threads(self, config: Config) -> int:
        """Of torch in a run, whose last bits follow from them: without GPUs no other run or free memory changes it."""
        cores, trainer = machine.cores(), config.trainer
        return trainer.threads or max(1, cores // (self.together or max(1, cores // trainer.devices)))


def share(configs: Sequence[Config], jobs: int | None = None) -> Slots:
    """As many jobs as cores and available memory (2 GiB each) allow; with GPUs as many as fit on each, side by side.
    A run on several devices has as many GPUs.
    """
    wanted = any(config.trainer.device in ("auto", "cuda") for config in configs)
    devices = max(config.trainer.devices for config in configs)
    here, cores = machine.gpus() if wanted else [], machine.cores()
    gpus = [",".join(here[i : i + devices]) for i in range(0, len(here) - devices + 1, devices)]
    most = max(config.trainer.threads or 1 for config in configs)
    room = min(cores // (most * devices), machine.memory_bytes() // _JOB_BYTES)
    if gpus and not jobs:
        jobs = len(gpus) * max(1, min(room // len(gpus), _fitting(configs, here)))
    slots = max(1, min(jobs or room, len(configs)))
    return Slots(slots, jobs, [gpus[i % len(gpus)] if gpus else None for i in range(slots)])


def _fitting(configs: Sequence[Config], gpus: Sequence[str]) -> int:
    """How many of the runs the fullest of these GPUs has room for; one where they are timed, or nobody knows."""
    free = machine.gpu_free_bytes(gpus)
    if not free or any(config.trainer.devices > 1 or config.tracking.latency for config in configs):
        return 1
    from rankwise.plan.estimate import process_bytes  # which imports torch

    with contextlib.suppress(Refused):  # what cannot be planned may still run
        return free // process_bytes(configs, machine.hardware()["gpus"][0])
    return 1


@dataclass
class _Run:
    """A run, its process, and how far its journal has been read."""

    config: Config
    folder: Path
    gpu: str | None
    process: ForkServerProcess
    made: list[Path]  # folders that were not there
    journal: Tail
    row: dict[str, Any] = field(default_factory=dict)  # the latest value of everything logged
    began_s: float = field(default_factory=time.monotonic)
    worked_s: float = field(default_factory=time.monotonic)  # when it was last seen to use its processor
    used_s: float = 0.0  # of its processor by then
    ended_for: str | None = None  # why we have killed it

    def idle_s(self) -> float:
        """How long it has used no processor time to speak of: it is stopped, or waits for what does not come."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.process.pid).cpu_times()
            if times.user + times.system > self.used_s + _WORK_S:
                self.used_s, self.worked_s = times.user + times.system, time.monotonic()
        return time.monotonic() - self.worked_s

    def moved(self) -> bool:
        """Read what the run has logged since; whether that was anything."""
        rows = self.journal.rows()
        for row in rows:
            self.row |= row
        return bool(rows)

    def fraction(self) -> float:
        """The share of its steps that is done."""
        trainer = self.config.trainer
        if trainer.max_steps:
            return float(self.row.get("step", 0)) / trainer.max_steps
        return float(self.row.get("epoch", 0)) / trainer.epochs

    def text(self) -> str:
        """The latest loss and objective, by name."""
        shown = {"loss": self.row.get("train/loss"), self.config.objective: self.row.get(self.config.objective)}
        return ", ".join(score(name, value) for name, value in shown.items() if value is not None)


class _Engine:
    """Keeps every slot busy until nothing is left, or until a signal."""

    def __init__(
        self,
        context: ForkServerContext,
        slots: Slots,
        task: str,
        signals: fork_server.Signals,
        shown: progress.Display,
        join: Mapping[str, int] | None,
    ):
        self._context, self._slots, self._task, self._signals, self._shown = context, slots, task, signals, shown
        self._join, self._others, self._looked_s = join, list[Config](), 0.0
        self._free = list(reversed(slots.gpus))
        self._running: list[_Run] = []
        self._ended: dict[Path, Outcome] = {}

    def run(self, configs: Sequence[Config]) -> dict[Path, Outcome]:
        waiting = [*reversed(configs)]
        try:
            while (self._running or waiting or self._others) and not self._signals.count:
                while self._free and waiting and not self._signals.count:
                    self._start(waiting.pop())
                self._poll()
                if self._free and not waiting and time.monotonic() > self._looked_s + _OTHERS_S:
                    self._looked_s, waiting, self._others = time.monotonic(), self._others, []
            if self._signals.count:
                self._stop()
                raise KeyboardInterrupt
        finally:  # a bug of ours must not leave runs behind either
            for run in self._running:
                _kill(run.process, signal.SIGKILL)
        return self._ended

    def _start(self, config: Config) -> None:
        target = folder(config).absolute()
        if theirs := elsewhere(config, self._join):
            self._settle(config, theirs)
            return
        gpu = self._free.pop()
        read = data.already_read(config)
        job = Job(plain(config), str(target), self._task, self._slots.threads(config), gpu, command(), read)
        process = self._context.Process(target=work, args=(job,), name=target.name)
        made = [path for path in (target, *target.parents) if not path.exists()]
        rows = target / "metrics.jsonl"
        run = _Run(config, target, gpu, process, made, Tail(rows, Tail.end(rows)))
        if not fork_server.fork(process):
            self._free.append(gpu)
            self._settle(config, Outcome(target, FAILED, "killed as it began"))
            return
        self._running.append(run)
        self._shown.started(target.name)

    def _poll(self) -> None:
        """Wait for the end of a running run, or for a moment; look what the others have logged."""
        ended = connection.wait([run.process.sentinel for run in self._running], _TICK_S)
        for run in list(self._running):
            if run.moved():
                self._shown.moved(run.folder.name, run.fraction(), run.text())
            if run.process.sentinel in ended:
                self._finish(run)
            else:
                self._watch(run)
        self._shown.tick()

    def _watch(self, run: _Run) -> None:
        """End a run that stands still: it would hold its study for ever."""
        if (idle_s := run.idle_s()) > _IDLE_S:
            run.ended_for = f"used no processor time for {duration(idle_s)}: it hung, or was stopped"
            _kill(run.process, signal.SIGKILL)

    def _finish(self, run: _Run) -> None:
        """The process is gone: take what it started with it, correct the record, free the slot."""
        run.process.join()
        seconds, pid = time.monotonic() - run.began_s, _pid(run.process)
        with contextlib.suppress(OSError):  # usually there is nothing left in the group
            os.killpg(pid, signal.SIGKILL)
        own = ending(run.folder / "log", pid) or finished_by(run.folder, pid)
        cause = run.ended_for or _cause(run.process.exitcode)
        if run.folder.exists() and not shutil.disk_usage(run.folder).free:  # for its last words either
            cause += ", and no space is left there; make room"
        end = own or End(STOPPED if self._signals.count else FAILED, cause)
        if end.status in (STOPPED, FAILED):
            kind = "Stopped" if end.status == STOPPED else "Error" if own else "Died"
            correct(run.folder, end.status, {"type": kind, "message": end.error or "stopped from outside"})
        if end.status == REFUSED and self._join is not None:  # other machines must know, too
            end = refuse(run.config, str(end.error), self._join.get(run.folder.name, 0))
        elif end.status == REFUSED:  # it has taken all else away itself
            (run.folder / "log").unlink(missing_ok=True)
            for path in run.made:
                with contextlib.suppress(OSError):
                    path.rmdir()
        run.process.close()
        self._running.remove(run)
        self._free.append(run.gpu)
        self._settle(run.config, Outcome(run.folder, end.status, end.error, seconds))

    def _settle(self, config: Config, outcome: Outcome) -> None:
        """Keep how a run ended, here or elsewhere, and say it; with ``join`` look at one of others again."""
        if outcome.status == SKIPPED and self._join is not None:
            self._others.append(config)
            self._shown.left(outcome.folder.name)
            return
        self._ended[outcome.folder] = outcome
        show_end(self._shown, config, outcome)

    def _stop(self) -> None:
        """Ask the runs to stop, then make them."""
        self._shown.say(f"stopping {len(self._running)} running; interrupt again to kill")
        asked = self._signals.count
        for number in (signal.SIGTERM, signal.SIGKILL):
            for run in self._running:
                _kill(run.process, number)
            deadline = time.monotonic() + GRACE_S
            while self._running and time.monotonic() < deadline:
                if number == signal.SIGTERM and self._signals.count > asked:
                    break
                self._poll()


def _cause(code: int | None) -> str:
    """Why a process is gone that left no word."""
    if code == 255:  # multiprocessing's, where the server is not there to say it
        return "the process that it was forked from was killed (out of memory?)"
    return f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"


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
