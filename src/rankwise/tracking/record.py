"""The record: everything a finished (or failed) run left behind, in one JSON file that is always whole.

A run folder holds ``result.json`` (this record), ``config.yaml``, ``metrics.jsonl``, ``predictions.parquet``,
``adapter/`` and ``log``. Files are the truth; W&B mirrors them.
"""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from rankwise import methods
from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.files import read_json
from rankwise.identity import folder, label, run_id
from rankwise.metrics import named
from rankwise.tracking import lease
from rankwise.tracking.groups import (
    Compute,
    Error,
    Lora,
    Memory,
    Metrics,
    Params,
    Provenance,
    RunInfo,
    Storage,
    problem,
)

SCHEMA = 1
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass
class Record:
    """One run. Fractions are 0–1, bytes end in ``_bytes``, seconds in ``_s``; a group that was not reached is empty.
    ``objective`` is the number that selected the checkpoint.
    """

    run: RunInfo
    config: Annotated[dict[str, Any], Config]
    provenance: Provenance = field(default_factory=Provenance)
    params: Params = field(default_factory=Params)
    memory: Memory = field(default_factory=dict)
    compute: Compute = field(default_factory=Compute)
    storage: Storage = field(default_factory=Storage)
    lora: Lora = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    objective: float | None = None
    error: Error | None = None
    schema: int = SCHEMA
    folder: Path = field(default=Path(), compare=False)

    @property
    def status(self) -> str:
        return str(self.run["status"])

    @property
    def scores(self) -> dict[str, Any]:
        """Scores {value, se, n} on test rows, by metric, and on tasks of lm-evaluation-harness, by ``task:metric``."""
        return {**self.metrics.get("test", {}), **self.metrics.get("harness", {})}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the folder: what ``result.json`` holds."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"}
        return finite(values)

    def write(self) -> None:
        """Replace ``result.json`` in the run's folder atomically."""
        write_atomically(self.folder / "result.json", json.dumps(self.to_dict(), indent=1) + "\n")


def begin(config: Config, earlier: Record | None) -> Record:
    """A running record for a new attempt at ``config``, after one that may not have ended; nothing is written yet."""
    run: RunInfo = {
        "id": run_id(config),
        "name": config.name or label(config),
        "study": config.study,
        "status": RUNNING,
        "started": now(),
        "ended": None,
        "attempts": (earlier.run["attempts"] if earlier else 0) + 1,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "died": deaths(earlier) if earlier else [],
    }
    compute: Compute = {}
    if earlier and earlier.status != FINISHED:  # of one that was killed its checkpoint tells more
        compute["seconds"] = {"total_s": earlier.compute.get("seconds", {}).get("total_s") or 0.0}
    return Record(run, plain(config), compute=compute, folder=folder(config))


def deaths(record: Record) -> list[int]:
    """The attempts at a run that ended without a word, the last among them where no process has the run any more."""
    silent = record.status != FINISHED and record.error is None
    return [*record.run.get("died", ()), *[record.run["attempts"]] * silent]


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Write a text, or its parts, flush to disk and rename: a reader sees the old file or the new one, never a part."""
    with whole(path) as beside, beside.open("x", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside the target, of which it takes what was written at the end; an error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read(folder: Path) -> Record:
    """The record in a run folder. A run that says "running" but whose process is gone is read as stopped.

    Raises Refused for a file that is not a record, is damaged or is of a newer schema.
    """
    path = folder / "result.json"
    record = parse(read_json(path, "a run's record", "; remove it, and the run is made anew"), path)
    record.folder = folder
    if record.status == RUNNING and not lease.is_live(folder):
        record.run["status"] = STOPPED
    return record


def revise(folder: Path, change: Callable[[Record], object], wait_s: float = 10.0) -> bool:
    """Read the record in a run folder, let ``change`` alter it, and write it if it did, with the folder held for that.

    Returns False where another process has held the folder for ``wait_s``. Raises Refused, as ``read``.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with lease.owned(folder) as mine:
            if mine:
                record = read(folder)
                before = record.to_dict()
                change(record)
                if record.to_dict() != before:
                    record.write()
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def parse(values: Any, source: object) -> Record:
    """A Record of plain values, every group and number of the kind that belongs there.

    Raises Refused, which names ``source``, for what is none.
    """
    if isinstance(values, dict):
        values = {f.name: values[f.name] for f in dataclasses.fields(Record) if f.name in values and f.name != "folder"}
    missing = (f"{key} is missing" for key in _NEEDED if key.split(".")[-1] not in _above(values, key))
    wrong = problem(values, Record) or next(missing, None) or next(_out_of_range(values), None)
    if wrong:
        raise Refused(f"{source}: not a run's record ({wrong})")
    if values["schema"] > SCHEMA:
        raise Refused(f"{source}: record schema {values['schema']}, this rankwise reads up to {SCHEMA}; upgrade it")
    return Record(**values)


_SLACK = 1e-6  # of a rounded score beside its range
_NEEDED = ("schema", "run", "config.method.name", "config.task")  # without which nobody can say what a run was


def _out_of_range(values: dict[str, Any]) -> Iterator[str]:
    for split in ("validation", "test"):  # some tasks of the harness give 0 to 100 for a share
        for name, score in values.get("metrics", {}).get(split, {}).items():
            metric, value = named(name), score.get("value")
            if value is not None and not metric.low - _SLACK <= value <= metric.high + _SLACK:
                yield f"metrics.{split}.{name}.value is {value:.6g}, not from {metric.low:g} to {metric.high:g}"


def _above(values: Any, path: str) -> Any:
    """The group that a key is in; an empty one where that is missing, too."""
    for part in path.split(".")[:-1]:
        values = values.get(part) or {}
    return values


def state(config: Config) -> str:
    """What became of a run so far: finished, running, failed, stopped, or new."""
    path = folder(config)
    return read(path).status if (path / "result.json").exists() else "new"


def is_done(config: Config) -> bool:
    """Whether this run has finished, and kept its weights where they are asked for."""
    return state(config) == FINISHED and has_weights(config, folder(config))


def has_weights(config: Config, place: Path) -> bool:
    """Whether what is asked for of the weights of a finished run is there: all of a full one's only if they are."""
    asked = methods.of(config.method).trains == "all" and config.trainer.save_full
    return not asked or (place / "adapter").exists()


def find(paths: list[Path]) -> list[Record]:
    """All records in or below the given run, study or outputs folders, by folder name.

    A file that is no record is left out with a line on stderr. Raises Refused for a path that does not exist and when
    there is no record at all.
    """
    by_folder: dict[Path, Record] = {}
    damaged = ""
    for path in paths:
        if not path.exists():
            if str(path).startswith("wandb:"):
                raise Refused(f"{path}: no folder of runs; runs of W&B are read by rankwise report and dashboard alone")
            near = f" (did you mean {inside}?)" if (inside := "outputs" / path).exists() else ""
            raise Refused(f"{path}: no such folder{near}; give a run, a study or an outputs folder")
        if path.is_file() and path.name != "result.json":
            raise Refused(f"{path}: a file, not a folder of runs; a packet is read by rankwise report alone")
        folder = path.parent if path.name == "result.json" else path
        for file in sorted(folder.rglob("result.json")):
            try:
                by_folder.setdefault(file.parent.resolve(), read(file.parent))
            except Refused as unreadable:
                print(f"rankwise: left out: {unreadable}", file=sys.stderr)
                damaged = " that can be read"
    if not by_folder:
        for folder in filter(Path.is_dir, paths):
            os.listdir(f"{folder}/.")  # raises PermissionError, where one may not look
        raise Refused(f"no runs in {', '.join(map(str, paths))}: nothing there has a result.json{damaged}")
    return list(by_folder.values())


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
