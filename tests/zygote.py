"""A process that has imported everything and forks a fresh one per request.

A test gets a real process (to kill, to starve, to leave alone with its exit) in milliseconds instead of seconds.
Requests and answers are JSON lines: ``{"target", "arguments", "env", "folder"}`` → ``{"pid"}`` … ``{"pid", "code"}``.
The child writes to ``stdout`` and ``stderr`` in ``folder``, has no stdin, and ends
after its exit handlers.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rankwise.forks.preload import HEAVY


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; its failing to come is an error."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Child:
    """A forked process, seen from the test."""

    def __init__(self, zygote: "Zygote", pid: int, folder: Path):
        self.zygote, self.pid, self.folder = zygote, pid, folder

    def wait(self, timeout: float = 60) -> int:
        """Its exit code; minus the signal when it was killed."""
        deadline = time.monotonic() + timeout
        while self.pid not in self.zygote.codes:
            left = deadline - time.monotonic()
            assert left > 0 and self.zygote.read(left), f"still running after {timeout} s: {self.stderr}"
        return self.zygote.codes[self.pid]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()


class Zygote:
    """The test's end of the pipes."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.codes: dict[int, int] = {}

    def __call__(self, folder: Path, target: str, *arguments: Any, **env: str) -> Child:
        """Fork a process that calls ``in_child.target(*arguments)`` with ``env`` on top of the environment."""
        assert self.process.stdin
        folder.mkdir(parents=True, exist_ok=True)
        request = {"target": target, "arguments": arguments, "env": env, "folder": str(folder)}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        while True:
            answer = self.read(120)
            if answer and "code" not in answer:
                return Child(self, answer["pid"], folder)

    def rankwise(self, folder: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        """The command in this folder, without the seconds that its imports take."""
        said = folder.parent / f"said-{time.monotonic_ns()}"
        child = self(said, "command", str(folder), [str(argument) for argument in arguments], **env)
        return subprocess.CompletedProcess(arguments, child.wait(300), child.stdout, child.stderr)

    def read(self, timeout: float) -> dict[str, int]:
        """The next answer, or nothing when none comes in time."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            return {}
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        if "code" in answer:
            self.codes[answer["pid"]] = answer["code"]
        return answer

    def close(self) -> None:
        """End it, and what it has forked."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def _serve() -> None:
    for module in HEAVY:
        importlib.import_module(module)
    gc.freeze()  # the memory that it holds stays shared
    alive: set[int] = set()
    while True:
        ready = select.select([sys.stdin], [], [], 0.05)[0]
        for pid in list(alive):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                alive.remove(pid)
                _answer({"pid": pid, "code": os.waitstatus_to_exitcode(status)})
        if ready:
            line = sys.stdin.readline()
            if not line:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                return
            pid = os.fork()
            if pid == 0:
                _become(json.loads(line))
            alive.add(pid)
            _answer({"pid": pid})


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the process that was asked for, to its end."""
    folder = Path(request["folder"])
    for stream, path, flags in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, folder / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
    os.environ.update(request["env"])
    try:
        code = getattr(importlib.import_module("in_child"), request["target"])(*request["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end would take apart every module, for seconds


def _answer(values: dict[str, int]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    _serve()
