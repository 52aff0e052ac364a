"""Runs read back from W&B: what ``mirror`` sent there becomes a Record again.

W&B has the config, the numbers, the curve and the fingerprints of a run. It has no predictions on the test set.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rankwise.config import plain, typed
from rankwise.errors import Refused
from rankwise.tracking.mirror import _mode
from rankwise.tracking.record import FAILED, FINISHED, RUNNING, SCHEMA, STOPPED, Record, parse

PREFIX = "wandb:"
ANSWER_S = 30  # of one request
_GROUPS = ("params", "memory", "compute", "storage", "lora")
_PARTS = {"test": "test", "val": "validation"}
_LIVE = ("running", "pending", "preempting", "preempted")


@dataclass(frozen=True)
class Address:
    """A project of W&B, or one group (study) of it."""

    entity: str
    project: str
    group: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
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
        mode = _mode("auto")
    if mode == "online":
        return None
    given = os.environ.get("WANDB_MODE")
    return f"WANDB_MODE={given}" if given else "no key is configured ('wandb login' sets one)"


@contextlib.contextmanager
def asking(what: object) -> Iterator[None]:
    """Whatever the client raises becomes one line."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # its service, its GraphQL and its HTTP raise types of their own
        first = (str(error).strip().splitlines() or [""])[0]
        raise Refused(f"{what}: W&B says: {first or type(error).__name__}") from None


def read(address: Address) -> list[Record]:
    """The runs that rankwise tracked there, oldest first.

    Raises Refused without a key, for an unknown project and where there is no such run.
    """
    if why := why_offline():
        raise Refused(f"{address}: needs W&B online: {why}")
    import wandb

    with asking(address):
        filters = {"group": address.group} if address.group else {}
        found = list(wandb.Api(timeout=ANSWER_S).runs(address.path, filters=filters, lazy=False))
    ours = [run for run in found if {"run_id", "method", "study"} <= run.config.keys()]
    if not ours:
        others = f" made by rankwise: {len(found)} others are there" if found else " there"
        raise Refused(f"{address}: no runs{others}")
    if len(ours) < len(found):
        print(f"rankwise: left out: {len(found) - len(ours)} runs that rankwise did not make", file=sys.stderr)
    with asking(address):
        histories = [list(run.scan_history()) for run in ours]
    records = []
    for run, history in zip(ours, histories, strict=True):
        try:
            records.append(_record(run, history))
        except Refused as unreadable:
            print(f"rankwise: left out: {unreadable}", file=sys.stderr)
    if not records:
        raise Refused(f"{address}: none of the {len(ours)} runs there can be read")
    return records


def count(address: Address, groups: list[str]) -> int:
    """How many runs of these groups are in the project; 0 where there is no such project."""
    import wandb

    with asking(address):
        try:
            return len(wandb.Api(timeout=ANSWER_S).runs(address.path, {"group": {"$in": groups}}, per_page=1))
        except ValueError as error:
            if "Could not find project" in str(error):
                return 0
            raise


def _record(run: Any, history: list[dict[str, Any]]) -> Record:
    """A Record of what W&B has of one run; ``folder`` is None."""
    summary = _nested({key: _number(value) for key, value in dict(run.summary).items() if not key.startswith("_")})
    config = dict(run.config)
    run_info = {
        "id": config["run_id"], "name": run.name, "study": run.group or config["study"],
        "status": _status(run.state, summary.get("status")), "started": run.created_at, "ended": run.heartbeat_at,
        "attempts": max((row.get("attempt") or 1 for row in history), default=1),
        "wandb": {"id": run.id, "mode": "online", "url": run.url},
    }  # fmt: skip
    metrics: dict[str, Any] = {name: _scores(summary[part]) for part, name in _PARTS.items() if part in summary}
    metrics |= {name: summary[name] for name in ("forgetting", "absent") if name in summary}
    if curve := _curve(history, run_info["attempts"]):
        metrics["curve"] = curve
    return parse(
        {
            "run": run_info, "config": _config(config), "metrics": metrics, "provenance": summary.get("provenance", {}),
            "objective": summary.get("objective"), "schema": SCHEMA,
            **{name: summary.get(name, {}) for name in _GROUPS},
            "error": {"type": FAILED, "message": f"see {run.url}"} if run_info["status"] == FAILED else None,
        },
        run.url,
    )  # fmt: skip


def _config(sent: dict[str, Any]) -> dict[str, Any]:
    """The config that was sent, without what W&B or a sweep put beside it.

    JSON has one kind of number, and a share of 1.0 may come back as 1: the schema says which of them are fractions.
    """
    own = {key: value for key, value in sent.items() if "." not in key and key not in ("run_id", "_wandb")}
    try:
        return plain(typed(own))
    except Exception:  # of another version of rankwise, whose schema is not this one's
        return own


def _status(state: str, ended: Any) -> str:
    """Ours for W&B's: it knows of "running" and of how the process ended, the summary of how the run did."""
    if state in _LIVE:
        return RUNNING
    if state in ("finished", "failed"):
        return str(ended) if ended in (FINISHED, FAILED, STOPPED) else {"finished": FINISHED}.get(state, FAILED)
    return STOPPED  # crashed, killed


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"params/trainable": 1}`` as ``{"params": {"trainable": 1}}``."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split("/")
        node = out
        for part in parents:
            inner = node.get(part)
            node[part] = node = inner if isinstance(inner, dict) else {}
        node[last] = value
    return out


def _number(value: Any) -> Any:
    """What is not finite is null, as in a record; W&B spells it as a string."""
    if value in ("NaN", "Infinity", "-Infinity") or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _scores(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"accuracy": 0.9, "accuracy_se": 0.01}`` as ``{"accuracy": {"value": 0.9, "se": 0.01}}``."""
    whole = {name: value for name, value in flat.items() if not isinstance(value, dict)}  # {"min": …} while it runs
    return {name: {"value": value, "se": whole[f"{name}_se"]} for name, value in whole.items() if f"{name}_se" in whole}


def _curve(history: list[dict[str, Any]], attempt: int) -> list[dict[str, Any]]:
    """The validations of the last attempt, in order."""
    rows = [row for row in history if (row.get("attempt") or 1) == attempt]
    kept = [
        {key: _number(value) for key, value in row.items() if key in ("step", "epoch") or key.startswith("val/")}
        for row in rows
    ]
    return [row for row in kept if any(key.startswith("val/") and row[key] is not None for key in row)]
