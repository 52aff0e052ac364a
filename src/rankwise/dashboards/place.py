"""Which W&B project a study's runs are in, and what they are called there."""

from dataclasses import dataclass
from unicodedata import category

from rankwise.errors import Refused
from rankwise.report.report import Report
from rankwise.tracking.fields import at
from rankwise.tracking.remote import address_of


@dataclass(frozen=True)
class Place:
    """A study in W&B: where its runs are, and where a dashboard of them goes."""

    entity: str | None  # None: the one that W&B takes by default
    project: str
    groups: tuple[str, ...]  # W&B's, one per study folder
    metric: str
    objective: str
    searched: bool = False  # every run tuned or searched: there is no result beside them
    task: str | None = None  # of the report's table, where the study has several: their scores are not one line

    @property
    def title(self) -> str:
        """As long as W&B takes, without the signs (``=``, ``+``) that it takes for emojis."""
        name = "".join("-" if category(sign)[0] == "S" else sign for sign in ", ".join(self.groups))
        return f"rankwise: {name}"[:128]


def of(report: Report, entity: str | None, project: str | None) -> Place:
    """From what the user says, else from where the runs went, else from their config."""
    addresses = [address_of(record, entity, project) for record in report.records]
    tasks = {str(at(record, "config.task.name")) for record in report.records}
    return Place(
        _only("entity", {address.entity for address in addresses}),
        _only("project", {address.project for address in addresses}) or "",
        tuple(sorted({address.group for address in addresses if address.group})),
        report.metric.name,
        str(report.records[0].config.get("objective") or "val/loss"),
        all(record.config.get("stage") for record in report.records),
        str((report.reference or report.arms[0]).first("config.task.name")) if len(tasks) > 1 else None,
    )


def _only(what: str, values: set[str]) -> str | None:
    names = sorted(values - {""})
    if len(names) > 1:
        raise Refused(f"dashboard: the runs are of several W&B {what} names ({', '.join(names)}); give --{what}")
    return names[0] if names else None
