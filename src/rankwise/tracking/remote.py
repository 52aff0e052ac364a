"""Runs read back from W&B, where each has its record and its predictions as files; and what is missing there, sent."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from rankwise.errors import Refused, one_line, plural, reason
from rankwise.tracking import record as records
from rankwise.tracking.fields import objective
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import Record
from rankwise.tracking.wandb_run import ANSWER_S, FILES, PROJECT, WandbRun, attempts, is_sent, mode_of, placed

PREFIX = "wandb:"


@dataclass(frozen=True)
class Address:
    """A project of W&B, or one group of it: a study, with or without the key of its folder behind it."""

    entity: str
    project: str
    group: str | None = None

    @classmethod
    def of(cls, text: str) -> "Address":
        """From ``wandb:ENTITY/PROJECT`` or ``wandb:ENTITY/PROJECT/GROUP``."""
        parts = text.removeprefix(PREFIX).strip("/").split("/", 2)
        if len(parts) < 2 or not all(parts):
            raise Refused(f"{text}: not {PREFIX}ENTITY/PROJECT or {PREFIX}ENTITY/PROJECT/GROUP")
        return cls(*parts)

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}"

    def __str__(self) -> str:
        return PREFIX + "/".join(filter(None, [self.entity, self.project, self.group]))


def is_address(path: object) -> bool:
    """Whether it names runs in W&B, not files."""
    return str(path).startswith(PREFIX)


def why_offline() -> str | None:
    """Why W&B cannot be asked from here, in words that finish a sentence; None where it can. Nothing is prompted for.

    A mode in the environment that is not "online" holds for what is read as well. Raises Refused for a key of the
    wrong form.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with asking("login"):
        mode = mode_of("auto")
    if mode == "online":
        return None
    wanted = os.environ.get("WANDB_MODE") or "online"
    return "no key is configured ('wandb login' sets one)" if wanted in ("online", "run") else f"WANDB_MODE={wanted}"


@contextlib.contextmanager
def asking(what: object) -> Iterator[None]:
    """Whatever the client raises becomes one line."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # its service, its GraphQL and its HTTP raise types of their own
        raise Refused(f"{what}: W&B says: {reason(error)}") from None


def read(address: Address) -> list[Record]:
    """The runs that rankwise tracked there, oldest first, each with its files in a folder of the cache.

    Raises Refused without a key, for an unknown project, where there is no such run and where several studies have the
    name.
    """
    if why := why_offline():
        raise Refused(f"{address}: needs W&B online: {why}")
    fetched = _runs(address)
    ours = [run for run in fetched if "run" in run.config and run.job_type != "report"]
    if not ours:
        others = f" made by rankwise: {len(fetched)} others are there" if fetched else " there"
        raise Refused(f"{address}: no runs{others}")
    groups = sorted({run.group for run in ours if run.group})
    if address.group and len(groups) > 1:
        raise Refused(f"{address}: several studies have this name; give one of {', '.join(groups)}")
    runs = []
    for run in ours:
        try:
            runs.append(_record(run, address))
        except Refused as why:
            print(f"rankwise: left out: {why}", file=sys.stderr)
    if not runs:
        raise Refused(f"{address}: none of the {len(ours)} runs there can be read")
    return runs


def _runs(address: Address) -> list[Any]:
    import wandb

    named = {"$regex": f"^{re.escape(address.group)}(-[0-9a-f]{{4}})?$"} if address.group else None
    with asking(address):
        filters = {"group": named} if named else {}
        return list(wandb.Api(timeout=ANSWER_S).runs(address.path, filters=filters, lazy=False))


def _record(run: Any, address: Address) -> Record:
    """A Record of one run's files. Raises Refused where it has none yet, or none that can be read."""
    folder = Path(platformdirs.user_cache_dir("rankwise")) / "wandb" / address.entity / address.project / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name, ours in FILES.items():
        (folder / ours).unlink(missing_ok=True)
        with asking(run.url):
            for file in run.files([name]):
                if file.md5 != "0":  # as W&B says of one that is not there
                    file.download(root=str(folder), replace=True)
                    (folder / name).replace(folder / ours)
    if not (folder / "result.json").exists():
        raise Refused(f"{run.url}: has no record.json: it has not ended, or not all of it was sent")
    record = records.read(folder)
    record.run["wandb"] = {
        "id": run.id,
        "mode": "online",
        "group": run.group,
        "entity": address.entity,
        "project": address.project,
        "url": run.url,
    }
    return record


def address_of(record: Record, entity: str | None = None, project: str | None = None) -> Address:
    """Where in W&B a run is or would go: what the user says, else where it went, else what its config says."""
    known = record.run.get("wandb") or {}
    where = known if known.get("group") else placed(record)
    return Address(entity or where.get("entity") or "", project or where.get("project") or PROJECT, where.get("group"))


def missing(address: Address, own: list[Record]) -> list[Record]:
    """Those of these ended runs that are not in W&B as their records say, or not once, or whose weights are not."""
    there = {}
    try:
        there = {run.id: run for run in _runs(replace(address, group=None))}
    except Refused as why:
        if "Could not find project" not in str(why):
            raise
    with asking(address):
        ids = [str((record.run.get("wandb") or {}).get("id") or placed(record)["id"]) for record in own]
        return [
            record
            for record, name in zip(own, ids, strict=True)
            if not _is_there(record, there.get(name)) or any(one in there for one in attempts(record) if one != name)
        ]


def _is_there(record: Record, run: Any) -> bool:
    if run is None or run.state == "running" or run.summary.get("status") != record.status:
        return False
    if run.summary.get("objective") != record.objective:
        return False
    return not is_sent(record) or any(artifact.state == "COMMITTED" for artifact in run.logged_artifacts())


def push(own: list[Record], address: Address, tell: Callable[[str], None]) -> list[str]:
    """Send these runs whole, from their files. Returns what went wrong, in a line each; stops where the server does."""
    problems: list[str] = []
    for number, record in enumerate(own, 1):
        tell(f"{number} of {len(own)}: {record.run['name']}")
        placed_at = {"entity": address.entity, "project": address.project, "problem": None}
        record.run["wandb"] = {**(record.run.get("wandb") or {}), **placed_at}
        try:
            tracker = WandbRun(record, mode="online")
        except Exception as error:
            problems.append(f"{record.run['name']}: {one_line(error)}")
            continue
        try:
            if tracker.problem:
                return [*problems, f"{tracker.problem}: {plural(len(own) - number + 1, 'run')} not sent"]
            for row in read_rows(record.folder / "metrics.jsonl")[tracker.run.starting_step :]:
                tracker.log(row | objective(row, record))
            tracker.end(record)
            tracker.settle(True)
        except Exception as error:
            tracker.problem = one_line(error)
        if tracker.problem:
            problems.append(f"{record.run['name']}: {tracker.problem}")
        _note(record, tracker)
    return problems


def _note(record: Record, tracker: WandbRun) -> None:
    """Where it is now, in the record on disk, unless a process is at the run."""
    record.run["wandb"] = tracker.about | ({"problem": tracker.problem} if tracker.problem else {})
    records.revise(record.folder, lambda on_disk: on_disk.run.update({"wandb": record.run["wandb"]}), wait_s=0.0)
