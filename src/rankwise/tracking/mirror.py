"""The W&B mirror: a thread of its own that may fail, hang or die without the run noticing."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from typing import Any

from rankwise.config import ADAPTERS, Config, label, run_id
from rankwise.tracking.record import Record

FINISH_S = 30  # at the end of a run, for what is still to be written or uploaded


class Mirror:
    """Sends rows and the final record of one run to W&B. No method blocks or raises; ``close`` waits a bounded time."""

    def __init__(self, config: Config, record: Record):
        self.problem: str | None = None
        self.about: dict[str, Any] = {}  # id, mode and url of the W&B run
        self.started = threading.Event()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._final: tuple[dict[str, Any], int] = ({}, 1)
        self._thread: threading.Thread | None = None
        if config.tracking.mode != "disabled" and os.environ.get("WANDB_MODE") != "disabled":
            self._thread = threading.Thread(target=self._work, args=(config, record), name="wandb-mirror", daemon=True)
            self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        """Queue a row of metrics; it holds ``step``."""
        if self._thread and not self.problem:
            self._queue.put(row)

    def close(self, record: Record) -> None:
        """Send the summary, end the W&B run as the record ended, and note in the record which run it is.

        If W&B had a problem, one line on stderr says so, and the record.
        """
        if not self._thread:
            return
        self._final = (summary(record), 0 if record.status == "finished" else 1)
        self._queue.put(None)
        self._thread.join(FINISH_S if self.started.is_set() else FINISH_S / 3)
        if self._thread.is_alive():
            self.problem = self.problem or "no answer"
            _abandon()
        record.run["wandb"] = self.about | ({"problem": self.problem} if self.problem else {})
        if self.problem:
            print(f"rankwise: W&B mirror incomplete ({self.problem}); the run's own files are whole", file=sys.stderr)

    def _work(self, config: Config, record: Record) -> None:
        try:
            run, mode = _init(config, record)
            self.about = {"id": run.id, "mode": mode, "url": run.url if mode == "online" else None}
            self.started.set()
            while (row := self._queue.get()) is not None:
                run.log(row)
            values, code = self._final
            run.summary.update(values)
            run.finish(exit_code=code)
        except BaseException as error:  # W&B's service can raise anything, when it is killed for one
            self.problem = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        with contextlib.suppress(BaseException):
            sys.modules["wandb"].teardown()  # or it waits, and prints, when this process exits


def _abandon() -> None:
    """Kill W&B's service: at exit, wandb would wait for it as long as it waits for a server.

    wandb has no public way to do so; should these names change, the process ends later, and no worse.
    """
    with contextlib.suppress(Exception):
        connection = sys.modules["wandb"].sdk.wandb_setup.singleton()._connection
        connection._cleanup()  # takes back what was to happen at exit
        connection._proc._process.kill()


def _init(config: Config, record: Record) -> tuple[Any, str]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    assert record.folder is not None
    study = record.folder.parent.resolve()
    os.environ.setdefault("WANDB_DATA_DIR", str(study / "wandb" / "data"))  # staged artifacts stay with the study
    import wandb

    mode, attempt = _mode(config.tracking.mode), record.run["attempts"]
    targets = [config.targets.name] if config.method.name in ADAPTERS else []
    run = wandb.init(
        project=config.tracking.project, entity=config.tracking.entity, dir=str(study), mode=mode,
        id=run_id(config) + (f"-{attempt}" if attempt > 1 else ""),
        name=config.name or label(config), group=config.study,
        job_type="train", tags=[config.method.name, *targets, *config.tracking.tags],
        config=record.config | {"run_id": run_id(config)}, reinit="create_new",
        settings=wandb.Settings(
            console="off", silent=True, x_disable_stats=True, disable_git=True, symlink=False, init_timeout=30,
            finish_timeout=FINISH_S,
        ),
    )  # fmt: skip
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run, mode


def _mode(wanted: str) -> Any:
    """Offline unless online is possible without asking: W&B must never prompt."""
    import wandb

    given = {"dryrun": "offline", "run": "online"}.get(os.environ.get("WANDB_MODE", ""), os.environ.get("WANDB_MODE"))
    wanted = (given or "auto") if wanted == "auto" else wanted
    if wanted == "offline":
        return wanted
    if wandb.login(prompt=False, verify=False):
        return "online"
    if wanted == "online":
        print("rankwise: no W&B key is configured, tracking offline; 'wandb login' sets one", file=sys.stderr)
    return "offline"


def summary(record: Record) -> dict[str, Any]:
    """The record's numbers under flat keys: ``params/trainable``, ``test/accuracy``, ``objective``."""
    groups = {name: getattr(record, name) for name in ("params", "memory", "compute", "storage", "lora")}
    values = _flat(groups)
    for part in ("test", "validation"):
        for name, score in record.metrics.get(part, {}).items():
            values[f"{'val' if part == 'validation' else part}/{name}"] = score["value"]
            values[f"{'val' if part == 'validation' else part}/{name}_se"] = score["se"]
    return values | {"objective": record.objective, "status": record.status}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= {} if key in ("ranks", "by_layer", "by_type", "phases", "peaks") else _flat(value, f"{prefix}{key}/")
        else:
            out[f"{prefix}{key}"] = value
    return out
