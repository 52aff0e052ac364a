"""The one progress display, on stderr: a moving bar per run under one for all, or plain lines where nobody watches."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from rankwise.metrics import duration
from rankwise.tracking.record import FAILED, FINISHED

_ENOUGH = 0.02  # of a run must be done before anything is said about the time that is left
_TRAINING = 0.9  # of a run's time is its steps; the rest is the test and what is saved


@dataclass
class _Running:
    """A run on its way."""

    began_s: float = field(default_factory=time.monotonic)
    fraction: float = 0.0  # of its steps

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s


class Display:
    """How ``total`` runs go on, ``jobs`` at a time. A context manager.

    On a terminal runs that ended stay as lines above the bars; elsewhere each start is a line, too. ``lines=False``
    leaves out both, for a single run, which prints its own result.
    """

    def __init__(self, total: int, jobs: int = 1, stage: str = "", lines: bool = True, console: Console | None = None):
        self.total, self.jobs, self.lines = total, jobs, lines
        self.console = console or Console(file=sys.stderr)
        self.ended_n = self.failed_n = 0
        self._began_s = time.monotonic()
        self._finished_s: list[float] = []
        self._running: dict[str, _Running] = {}
        self._bars: Progress | None = None
        self._bar_of: dict[str, TaskID] = {}
        # FORCE_COLOR makes a terminal of no log file
        if console or (sys.stderr.isatty() and not self.console.is_dumb_terminal):
            fields = ("{task.description}", "{task.fields[count]}", "{task.fields[text]}")
            one_line = Column(no_wrap=True, overflow="ellipsis")
            name, *texts = (TextColumn(field, markup=False, table_column=one_line) for field in fields)
            bar = BarColumn(bar_width=20 if self.console.width >= 100 else 8)
            self._bars = Progress(name, bar, *texts, console=self.console, redirect_stdout=False, transient=True)
            if total > 1:  # first, because what does not fit on the screen is cut at the bottom
                self._study = self._bars.add_task(stage or "study", total=total, count="", text="loading libraries")

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def started(self, name: str) -> None:
        """A run has its process."""
        self._running[name] = _Running()
        if self._bars:
            self._bar_of[name] = self._bars.add_task(name, total=1.0, count="", text="starting")
        elif self.lines:
            self.say(f"[{self.ended_n}/{self.total}] {name} started")

    def moved(self, name: str, fraction: float, text: str) -> None:
        """A run has done this share of its steps."""
        if name in self._running:
            self._running[name].fraction = min(1.0, fraction)
            if self._bars:
                self._bars.update(self._bar_of[name], completed=fraction, count=f"{fraction:.0%}", text=text)

    def ended(self, name: str, status: str, seconds: float, score: str = "", error: str | None = None) -> None:
        """A run is over, in whatever way; ``score`` is a metric's name and value."""
        self.left(name)
        self.ended_n += 1
        self.failed_n += status == FAILED
        if status == FINISHED:
            self._finished_s.append(seconds)
        what = " ".join(filter(None, [name, status, score]))
        shows_eta = not self._bars and self.ended_n < self.total and status in (FINISHED, FAILED)  # the bars have it
        left = self.remaining_s() if shows_eta else None
        eta = "" if left is None else f", ETA {duration(left)}"
        self.say(f"[{self.ended_n}/{self.total}] {what} in {duration(seconds)}{eta}{f': {error}' if error else ''}")
        self.tick()

    def left(self, name: str) -> None:
        """A run is another's after all."""
        self._running.pop(name, None)
        if self._bars and name in self._bar_of:
            self._bars.remove_task(self._bar_of.pop(name))
            self._bars.refresh()  # a line that is printed goes above as many bars as were drawn last

    def tick(self) -> None:
        """Show the time that has passed and that is left."""
        if not self._bars or self.total == 1:
            return
        left = self.remaining_s() if self.ended_n < self.total else None
        parts = [f"{self.failed_n} failed"] if self.failed_n else []
        parts += [duration(time.monotonic() - self._began_s), *([] if left is None else [f"ETA {duration(left)}"])]
        done = self.ended_n + sum(run.fraction for run in self._running.values())
        self._bars.update(
            self._study, completed=done, count=f"{self.ended_n}/{self.total}", text=", ".join(parts), refresh=True
        )

    def say(self, line: str) -> None:
        """Print a line that stays, on a terminal broken between words."""
        self.console.print(Text(line), soft_wrap=not self._bars)

    def remaining_s(self) -> float | None:
        """Seconds until all is done; None while there is nothing to go by."""
        running = [(run.elapsed_s, run.fraction) for run in self._running.values()]
        return remaining_s(self._finished_s, running, self.total - self.ended_n - len(running), self.jobs)


def remaining_s(
    finished_s: Iterable[float], running: Iterable[tuple[float, float]], waiting: int, jobs: int
) -> float | None:
    """Seconds until all is done, from finished runs, running ones (elapsed seconds, share of steps) and those waiting.

    A run is taken to last as long as the time spent so far per run's worth of work done; one that is well on its way
    tells its own end, which is never now: a test follows the last step. None as long as hardly any work is done.
    """
    finished = list(finished_s)
    live = [(elapsed, _TRAINING * fraction) for elapsed, fraction in running]
    work = len(finished) + sum(fraction for _, fraction in live)
    if work < _ENOUGH:
        return None
    typical_s = (sum(finished) + sum(elapsed for elapsed, _ in live)) / work
    left = [
        elapsed * (1 - fraction) / fraction if fraction > 0.1 else max(typical_s - elapsed, 0.0)
        for elapsed, fraction in live
    ]
    return max([(sum(left) + waiting * typical_s) / max(1, jobs), *left])
