"""The W&B mirror: a thread of its own that may fail, hang or die without the run noticing."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from rankwise import metrics
from rankwise.config import Config
from rankwise.identity import label, run_id
from rankwise.tracking.record import Record

FINISH_S = 30.0  # at the end of a run, for what is still to be written or uploaded
INIT_S = 30.0  # at its start, while it trains
MOST_BYTES = 10**9  # of an adapter that goes to W&B as well


class Mirror:
    """Sends rows and the final record of one run to W&B. No method blocks or raises; ``close`` waits a bounded time."""

    def __init__(self, config: Config, record: Record):
        self.problem: str | None = None
        self.about: dict[str, Any] = {}  # id, mode and url of the W&B run
        self.started = threading.Event()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._final: Record | None = None
        self._files: Path | None = None  # where W&B writes
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
        self._final = record
        self._queue.put(None)
        patience = _seconds("WANDB_FINISH_TIMEOUT", FINISH_S)
        self._thread.join(patience / 3)
        if self.started.is_set():
            self._thread.join(patience + 5)  # by then it has given up by itself, or should have
        if self._thread.is_alive():
            self.problem = self.problem or "no answer"
            _hush()
            _abandon()
        record.run["wandb"] = self.about | ({"problem": self.problem} if self.problem else {})
        if self.problem:
            print(f"rankwise: W&B mirror incomplete ({self.problem}); the run's own files are whole", file=sys.stderr)

    def _work(self, config: Config, record: Record) -> None:
        try:
            run, mode = _init(config, record)
            self.about = {"id": run.id, "mode": mode, "url": run.url if mode == "online" else None}
            self._files = Path(run.dir).parent
            lost = _Lost(run)
            self.started.set()
            attempt = {"attempt": record.run["attempts"]} if record.run["attempts"] > 1 else {}
            while (row := self._queue.get()) is not None:
                run.log(row | attempt | _objective(row, config))
            assert self._final is not None
            _end(run, self._final)
            if lost.any:
                self.problem = f"the server refused some of it{_remedy(self._files)}"
        except BaseException as error:  # W&B's service can raise anything, when it is killed for one
            self.problem = _cause(error, self._files)
            _hush()
        with contextlib.suppress(BaseException):
            sys.modules["wandb"].teardown()  # or it waits, and prints, when this process exits


def _end(run: Any, record: Record) -> None:
    """Send the summary and what was trained, and wait until W&B has it all."""
    run.summary.update(summary(record))
    failed: list[BaseException] = []

    def log_adapter() -> None:
        try:
            _log_adapter(run, record)
        except BaseException as error:
            failed.append(error)

    # wandb asks the server things before it takes an artifact, and would wait for an answer before all else.
    adapter = threading.Thread(target=log_adapter, name="wandb-adapter", daemon=True)
    adapter.start()
    adapter.join(_seconds("WANDB_FINISH_TIMEOUT", FINISH_S) / 3)
    failed += [TimeoutError()] if adapter.is_alive() else []
    run.finish(exit_code=0 if record.status == "finished" else 1)
    if failed:
        raise failed[0]


def _log_adapter(run: Any, record: Record) -> None:
    """The adapter (or what else was trained) as an artifact, unless it is huge. Its files are read where they lie."""
    import wandb

    assert record.folder is not None
    adapter, method = record.folder / "adapter", record.config["method"]
    sizes = [file.stat().st_size for file in adapter.rglob("*") if file.is_file()]
    if record.status != "finished" or not sizes or sum(sizes) >= MOST_BYTES:
        return
    kind = "lora-adapter" if (adapter / "adapter_config.json").exists() else "weights"
    metadata = {"method": method["name"], "rank": method["rank"]}
    artifact = wandb.Artifact(f"adapter-{run.id}", kind, metadata=metadata)
    artifact.add_dir(str(adapter), policy="immutable")
    run.log_artifact(artifact)


def _objective(row: dict[str, Any], config: Config) -> dict[str, Any]:
    """Each validation's value of what selects, under the one name that a sweep's early stopping can look for."""
    return {"objective": row[config.objective]} if config.objective in row else {}


class _Lost:
    """Listens to wandb, which is silent to users, for data that it has given up on: it raises nothing then."""

    def __init__(self, run: Any):
        self.any = False
        with contextlib.suppress(AttributeError):  # not in its documentation
            sys.modules["wandb"].termsetup(run.settings, self)

    def warning(self, text: str) -> None:
        self.any |= "will not be synced" in text

    def info(self, text: str) -> None:
        """Of no interest."""

    error = warning


def _cause(error: BaseException, files: Path | None) -> str:
    """What went wrong in one line, and the way out where there is one."""
    if isinstance(error, TimeoutError):
        return f"not all of it reached the server in time{_remedy(files)}"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _remedy(files: Path | None) -> str:
    return f", wandb sync --include-online {files} sends the metrics" if files else ""


def _seconds(variable: str, otherwise: float) -> float:
    """How long to wait: the user's own setting of W&B's, or ours where that is none or no limit."""
    with contextlib.suppress(KeyError, ValueError):
        if (value := float(os.environ[variable])) > 0:
            return value
    return otherwise


def _hush() -> None:
    """wandb's own threads fail one after the other when its service is gone: one line about it is enough."""
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (failed.thread and failed.thread.name.startswith("wandb")):
            others(failed)

    threading.excepthook = hook


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

    mode = _mode(config.tracking.mode)
    targets = [config.targets.name] if config.targets.name else []
    run = wandb.init(
        **_where(config, record, mode), dir=str(study), mode=mode, name=config.name or label(config),
        group=config.study,
        job_type="train", tags=[config.method.name, *targets, *config.tracking.tags],
        config=record.config | {"run_id": run_id(config)}, reinit="create_new",
        settings=wandb.Settings(
            console="off", silent=True, x_disable_stats=True, disable_git=True, symlink=False,
            init_timeout=_seconds("WANDB_INIT_TIMEOUT", INIT_S),
            finish_timeout=_seconds("WANDB_FINISH_TIMEOUT", FINISH_S), finish_timeout_raises=True,
        ),
    )  # fmt: skip
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    # While the run goes on, the best so far; the record's values take their place at its end.
    for name in {"val/loss", config.objective}:
        run.define_metric(name, step_metric="step", summary="min" if metrics.named(name).lower_is_better else "max")
    return run, mode


def _where(config: Config, record: Record, mode: str) -> dict[str, Any]:
    """Which W&B run this is: a run that was stopped goes on under its id; what is run again (``rerun``) gets a new one.

    A first attempt takes the place of whatever has the id, of another study or machine. Under ``wandb agent`` the sweep
    decides.
    """
    if os.environ.get("WANDB_SWEEP_ID"):
        return {}
    attempt = record.run["attempts"]
    return {
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "id": run_id(config) + (f"-{attempt}" if config.rerun and attempt > 1 else ""),
        # Offline, wandb sync puts the fragments of one id together.
        "resume": "allow" if mode == "online" and attempt > 1 else None,
    }


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
    metrics: dict[str, Any] = dict(record.metrics)
    groups = {name: getattr(record, name) for name in ("params", "memory", "compute", "storage", "lora")}
    values = _flat(groups | {name: metrics.get(name, {}) for name in ("forgetting", "absent")})
    for part in ("test", "validation"):
        for name, score in metrics.get(part, {}).items():
            values[f"{'val' if part == 'validation' else part}/{name}"] = score["value"]
            values[f"{'val' if part == 'validation' else part}/{name}_se"] = score["se"]
    provenance: dict[str, Any] = dict(record.provenance)
    for part in ("data", "model"):  # what tells whether runs may be compared
        if fingerprint := (provenance.get(part) or {}).get("fingerprint"):
            values[f"provenance/{part}/fingerprint"] = fingerprint
    return values | {"objective": record.objective, "status": record.status}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= {} if key in ("ranks", "by_layer", "by_type", "phases", "peaks") else _flat(value, f"{prefix}{key}/")
        else:
            out[f"{prefix}{key}"] = value
    return out
