"""What the server remembers."""

import json
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"
CREATED = "2026-01-01T00:00:00Z"
SUMMARY_KINDS = {1: "min", 2: "max", 3: "mean", 4: "best", 5: "last"}  # of define_metric, as the client numbers them


@dataclass
class Run:
    """One W&B run, as the client sent it."""

    name: str  # its id, in the client's words
    project: str
    entity: str = ENTITY
    fields: dict[str, Any] = field(default_factory=dict)  # displayName, groupName, jobType, tags, sweep
    config: dict[str, Any] = field(default_factory=dict)  # with {"value": …} around every value
    lines: list[str] = field(default_factory=list)  # of the history
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    started: int = 0  # how many times wandb.init opened it

    @property
    def id(self) -> str:
        return f"run:{self.project}:{self.name}"

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """What define_metric said: by name or glob, the x axis (``step``) and the kinds of ``summary``."""
        sent = self.config.get("_wandb", {}).get("value", {}).get("m", [])
        names = [one.get("1") or one.get("2") for one in sent]
        defined = {}
        for name, one in zip(names, sent, strict=True):
            defined[name] = {
                "step": names[one["5"] - 1] if "5" in one else None,
                "summary": sorted(SUMMARY_KINDS[kind] for kind in one.get("7", [])),
            }
        return defined

    def values(self) -> dict[str, Any]:
        """The config as a user knows it."""
        return {key: value["value"] for key, value in self.config.items() if key != "_wandb"}

    def seen(self) -> dict[str, Any]:
        """For tests: everything, without the client's own ``_`` keys."""
        own = [{key: value for key, value in row.items() if not key.startswith("_")} for row in self.history]
        summary = {key: value for key, value in self.summary.items() if not key.startswith("_")}
        return {
            "history": own,
            "summary": summary,
            "config": self.values(),
            "state": self.state,
            "metrics": self.metrics,
            "exit_code": self.exit_code,
            "project": self.project,
            "started": self.started,
            "steps": [row["_step"] for row in self.history],
            **self.fields,
        }


@dataclass
class Artifact:
    """One version of an artifact."""

    id: str
    project: str
    collection: str
    type: str
    digest: str
    run: str
    aliases: list[str]
    metadata: dict[str, Any]
    version: int
    state: str = "PENDING"
    manifest: bytes = b""

    def files(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        """The content of every file, by its path in the artifact."""
        entries = json.loads(self.manifest or "{}").get("contents", {})
        return {path: stored[f"artifact/{self.id}/{path}"] for path in entries}


@dataclass
class Sweep:
    """A sweep, and which of its runs each agent has."""

    name: str
    project: str
    config: dict[str, Any]
    text: str
    state: str = "PENDING"
    points: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the run's id
    agents: dict[str, list[str]] = field(default_factory=dict)  # run ids, by agent

    @property
    def id(self) -> str:
        return f"sweep:{self.name}"


@dataclass
class Store:
    """All of it."""

    runs: dict[str, Run] = field(default_factory=dict)  # by name
    deleted: list[str] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # what was PUT, by path
    url: str = ""

    def projects(self) -> list[str]:
        """Every project that anything is in."""
        return sorted({run.project for run in self.runs.values()} | {sweep.project for sweep in self.sweeps.values()})
