"""Seconds by phase, and tokens per second."""

import contextlib
import time
from collections.abc import Container, Iterator


class Clock:
    """Adds up wall time per named phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase what was timed elsewhere."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def rounded(self) -> dict[str, float]:
        """``{phase_s: seconds}`` to the millisecond."""
        return {f"{phase}_s": round(seconds, 3) for phase, seconds in self.seconds.items()}


class Throughput:
    """Tokens per second over training micro-batches, padding not counted, the first and the ``probed`` left out.

    The first pay for lazy initialisation and allocation, so a rate with them in would favour long runs; the probed are
    slowed by what measures them. ``timed`` numbers those that count.
    """

    SKIPPED = 5

    def __init__(self) -> None:
        self.probed: Container[int] = ()
        self.timed: list[int] = []
        self.seen = self.tokens = self.timed_tokens = self._first = 0
        self.timed_s = 0.0
        self._start = 0.0

    def go_on(self, seen: int, tokens: int) -> None:
        """Count on from another process's; the first of this one are left out too."""
        self.seen, self.tokens, self._first = seen, tokens, seen

    def begin(self) -> None:
        """A micro-batch starts."""
        self._start = time.perf_counter()

    def end(self, tokens: int) -> None:
        """It is over; it held this many tokens that are no padding."""
        if self.seen >= self._first + self.SKIPPED and self.seen not in self.probed:
            self.timed.append(self.seen)
            self.timed_s += time.perf_counter() - self._start
            self.timed_tokens += tokens
        self.seen += 1
        self.tokens += tokens

    @property
    def tokens_per_s(self) -> float | None:
        """None when there were too few steps to leave the first ones out."""
        return self.timed_tokens / self.timed_s if self.timed_s else None
