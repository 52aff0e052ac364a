"""A program that fetches: run apart, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rankwise.errors import Refused

REMEDY = "give a local copy with model.path= or task.path="


class Unavailable(Refused):
    """A package that cannot be had now, for want of its tool or of a connection; another source of it may do."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


def run_tool(
    command: list[str], into: Path, title: str, progress: bool, env: dict[str, str], cwd: Path | None = None
) -> tuple[int, str]:
    """Exit status and output of a program that writes below ``into``. It never outlives this call."""
    process = subprocess.Popen(
        command, env={**os.environ, **env}, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        with _status(title, progress) as show:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=0.2)
                    return process.returncode, output
                show(_largest_file_bytes(into))
    finally:
        if process.poll() is None:
            _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """End the program and what it started; its own files are all in our folder, so nothing needs its clean-up."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def _status(title: str, progress: bool) -> Iterator[Callable[[int], None]]:
    """A spinner with the size so far where stderr is a terminal, else one line."""
    if not progress:
        yield lambda _: None
    elif not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
        yield lambda _: None
    else:
        from rich.console import Console

        with Console(stderr=True).status(title) as status:
            yield lambda size: status.update(f"{title}: {size / 1e6:.1f} MB")


def _largest_file_bytes(folder: Path) -> int:
    """Size of the archive so far: by far the largest file. The program moves files, so any may vanish."""
    sizes = [0]
    for root, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(root, name)))
    return max(sizes)


def wrong_hash(title: str, declared: str, got: str) -> Refused:
    """The error of an archive that is not the one declared."""
    return Refused(
        f"{title}: wrong hash: sha256 {declared} is declared, {got} was served; nothing was kept: "
        f"fetch again in case the download broke off, correct sha256 only if you trust the file, or {REMEDY}"
    )
