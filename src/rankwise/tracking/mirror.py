"""The mirror of a run in W&B, Trackio or TensorBoard, as the run sees it: a process that follows its files."""

import json
import os
import shlex
import subprocess
import sys
from typing import Any

from rankwise.tracking.record import Record
from rankwise.tracking.wandb_run import FINISH_S, INIT_S, seconds

_PUSH = ", rankwise dashboard --push {} sends what is missing"


class Mirror:
    """The process that follows one run. Nothing here raises or waits, but ``close``, and that a bounded time."""

    def __init__(self, record: Record, end: tuple[int, int] = (0, 0)):
        """``end`` is where the rows of an earlier attempt end that are not to be told."""
        self.started = False
        self._process: subprocess.Popen[str] | None = None
        self._end = [str(number) for number in end]
        self._folder, tracking = record.folder, record.config.get("tracking") or {}
        off = "disabled" in (tracking.get("mode"), os.environ.get("WANDB_MODE")) or tracking.get("name") == "none"
        self._name = None if off else str(tracking.get("name") or "wandb")

    def start(self) -> None:
        """Begin to follow, unless that has begun: from here on the run is one, and not a mistake in its config."""
        if self._name and not self.started:
            # -P: what lies in the folder where the user works is not imported
            command = [sys.executable, "-P", "-m", "rankwise.tracking.follow", str(self._folder), *self._end]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal is the run's
            )
        self.started = True

    def close(self, record: Record, patience_s: float | None = None) -> None:
        """Let it tell how the run ended, which is on disk, and note in the record where the mirror is.

        If that is not whole, one line on stderr says so, and the record.
        """
        if self._process is None or self._name is None:
            return
        patience = patience_s or seconds("WANDB_INIT_TIMEOUT", INIT_S) + seconds("WANDB_FINISH_TIMEOUT", FINISH_S) + 5
        try:
            output, _ = self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
        about: dict[str, Any] = next((line["about"] for line in lines if "about" in line), {})
        problem = next((line["problem"] for line in reversed(lines) if line.get("problem")), None)
        if not problem and not any(line.get("ended") for line in lines):
            problem = "no answer"
        record.run[self._name] = about | ({"problem": problem} if problem else {})  # type: ignore[literal-required]
        if line := shortfall(record):
            print(line, file=sys.stderr)


def shortfall(record: Record) -> str:
    """Why not all of a run is with its tracker, and what then helps: one line, empty where all is there."""
    run: dict[str, Any] = {**record.run}
    name = str((record.config.get("tracking") or {}).get("name") or "wandb")
    if not (problem := run.get(name, {}).get("problem")):
        return ""
    remedy = _PUSH.format(shlex.quote(str(record.folder.parent))) if name == "wandb" else ""
    return f"rankwise: {name}: not all of the run is there ({problem}); its own files are whole{remedy}"
