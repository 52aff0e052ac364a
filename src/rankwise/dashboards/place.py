"""Which W&B project a study's runs are in, and what they are called there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rankwise.errors import Refused
from rankwise.report.report import Report
from rankwise.tracking.record import Record


@dataclass(frozen=True)
class Place:
    """A study in W&B: where its runs are, and where a dashboard of them goes."""

    entity: str | None  # None: the one that W&B takes by default
    project: str
    studies: tuple[str, ...]  # W&B groups
    metric: str
    searched: bool = False  # every run tuned or searched: there is no result beside them

    @property
    def title(self) -> str:
        return f"rankwise: {' + '.join(self.studies)}"


def of(report: Report, entity: str | None, project: str | None) -> Place:
    """From what the user says, else from where the runs went, else from their config."""
    seen = [_seen(record) for record in report.records]
    return Place(
        entity or _only("entity", [one["entity"] for one in seen]),
        project or _only("project", [one["project"] for one in seen]) or "rankwise",
        tuple(sorted({str(record.run.get("study") or record.config.get("study")) for record in report.records})),
        report.metric.name,
        all(record.config.get("purpose") for record in report.records),
    )


def mirrors(records: list[Record]) -> list[Path]:
    """Folders of the runs that W&B wrote offline beside the studies."""
    studies = dict.fromkeys(record.folder.parent / "wandb" for record in records if record.folder)
    return [folder for folder in studies if folder.is_dir()]


def _seen(record: Record) -> dict[str, Any]:
    """Entity and project of one run: its URL knows better than its config, as a sweep decides for itself."""
    parts = urlparse((record.run.get("wandb") or {}).get("url") or "").path.strip("/").split("/")
    tracking = record.config.get("tracking") or {}
    if len(parts) >= 2:
        return {"entity": parts[0], "project": parts[1]}
    return {"entity": tracking.get("entity"), "project": tracking.get("project")}


def _only(what: str, values: list[str | None]) -> str | None:
    found = sorted({value for value in values if value})
    if len(found) > 1:
        raise Refused(f"dashboard: the runs are of several W&B {what} names ({', '.join(found)}); give --{what}")
    return found[0] if found else None
