"""Live progress of a study on stderr: a line per running run and one for all; plain lines where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from rankwise.tracking.record import FAILED, FINISHED

_ENOUGH = 0.02  # of a run must be done before anything is said about the time that is left


@dataclass
class _Live:
    """A run on its way."""

    began_s: float = field(default_factory=time.monotonic)
    fraction: float = 0.0


class Plain:
    """A line per run that ends, and per run that starts; nothing moves."""

    def __init__(self, total: int, jobs: int, console: Console):
        self.total, self.jobs, self.console = total, jobs, console
        self.ended_n = 0
        self.failed_n = 0
        self._began_s = time.monotonic()
        self._finished_s: list[float] = []
        self._running: dict[str, _Live] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def started(self, name: str) -> None:
        """A run has its process."""
        self._running[name] = _Live()
        self._announce(name)

    def moved(self, name: str, step: int, total: int, text: str) -> None:
        """A run has done ``step`` of ``total`` steps."""
        if name in self._running:
            self._running[name].fraction = min(1.0, step / total) if total > 0 else 0.0

    def ended(self, name: str, status: str, seconds: float, objective: float | None, error: str | None) -> None:
        """A run is over, in whatever way."""
        self._running.pop(name, None)
        self.ended_n += 1
        self.failed_n += status == FAILED
        if status == FINISHED:
            self._finished_s.append(seconds)
        score = "" if objective is None else f" {objective:.3f}"
        reason = f": {error}" if error else ""
        eta = self.eta_s()
        going_on = self.ended_n < self.total and status in (FINISHED, FAILED)
        left = f", ETA {duration(eta)}" if going_on and eta is not None else ""
        self.say(f"[{self.ended_n}/{self.total}] {name} {status}{score} in {duration(seconds)}{left}{reason}")

    def tick(self) -> None:
        """Time has passed."""

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(Text(line), soft_wrap=True)

    def eta_s(self) -> float | None:
        """Seconds until the study is done; None while there is nothing to go by."""
        now_s = time.monotonic()
        running = [(now_s - run.began_s, run.fraction) for run in self._running.values()]
        waiting = self.total - self.ended_n - len(running)
        return remaining_s(self._finished_s, running, waiting, self.jobs)

    def _announce(self, name: str) -> None:
        self.say(f"[{self.ended_n}/{self.total}] {name} started")


class Animated(Plain):
    """A moving bar per running run under one for the study; runs that ended stay above as lines."""

    def __init__(self, total: int, jobs: int, console: Console):
        super().__init__(total, jobs, console)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._bars = Progress(*columns, console=console, redirect_stdout=False, transient=True)
        # First, because what does not fit on the screen is cut at the bottom.
        self._study = self._bars.add_task("study", total=total, count=f"0/{total}", text="loading libraries")
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def moved(self, name: str, step: int, total: int, text: str) -> None:
        super().moved(name, step, total, text)
        if name in self._lines:
            self._bars.update(self._lines[name], completed=step, total=total, count=f"{step}/{total}", text=text)

    def ended(self, name: str, status: str, seconds: float, objective: float | None, error: str | None) -> None:
        if name in self._lines:
            self._bars.remove_task(self._lines.pop(name))
        super().ended(name, status, seconds, objective, error)
        self.tick()

    def tick(self) -> None:
        eta = self.eta_s()
        parts = [f"{self.failed_n} failed"] if self.failed_n else []
        parts += [duration(time.monotonic() - self._began_s)]
        parts += [] if eta is None else [f"ETA {duration(eta)}"]
        done = self.ended_n + sum(run.fraction for run in self._running.values())
        count = f"{self.ended_n}/{self.total}"
        self._bars.update(self._study, completed=done, count=count, text=", ".join(parts))

    def _announce(self, name: str) -> None:
        self._lines[name] = self._bars.add_task(name, total=None, count="", text="starting")


def show(total: int, jobs: int) -> Plain:
    """The progress of ``total`` runs, ``jobs`` at a time, in the way that stderr allows. A context manager."""
    console = Console(file=sys.stderr)
    moving = sys.stderr.isatty() and not console.is_dumb_terminal  # FORCE_COLOR makes no log file a terminal
    return (Animated if moving else Plain)(total, jobs, console)


def remaining_s(
    finished_s: Iterable[float], running: Iterable[tuple[float, float]], waiting: int, jobs: int
) -> float | None:
    """Seconds until all is done, from finished runs, (elapsed seconds, fraction) of running ones, and those waiting.

    A run is taken to last as long as the time spent so far per run's worth of work done. One that is well on its way
    tells its own end. None as long as hardly any work is done.
    """
    finished, live = list(finished_s), list(running)
    work = len(finished) + sum(fraction for _, fraction in live)
    if work < _ENOUGH:
        return None
    typical_s = (sum(finished) + sum(elapsed for elapsed, _ in live)) / work
    left = [
        elapsed * (1 - fraction) / fraction if fraction > 0.1 else max(typical_s - elapsed, 0.0)
        for elapsed, fraction in live
    ]
    return max([(sum(left) + waiting * typical_s) / max(1, jobs), *left])


def duration(seconds: float) -> str:
    """``0.4 s``, ``31 s``, ``2 min``, ``1 h 05 min``."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
