"""One self-contained HTML page: no request leaves it, it works from ``file://`` and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from rankwise.metrics import duration
from rankwise.report import analyses, costs, paper, tuning
from rankwise.report import formats as fmt
from rankwise.report import table as tables
from rankwise.report.arms import Arm
from rankwise.report.columns import Section, cells, rank_fraction, section, shown
from rankwise.report.footnotes import numbered
from rankwise.report.plots import draw
from rankwise.report.summary import provenance
from rankwise.tracking.record import now

if TYPE_CHECKING:
    from rankwise.report.report import Report


def html(report: Report) -> str:
    """The page."""
    columns, above = shown(report, "main", "wide"), costs.break_even(report.arms)
    header, notes = [column.header for column in columns], [*numbered(report.arms), tables.interval_note(report)]
    kinds = [_kind(report, arm) for arm in report.arms]
    compared = f"Against {report.against}, in numbers" if report.reference else "Churn"
    memory = costs.memory_notes(report.arms)
    took = [  # each run of an arm, beside what was predicted of it
        section(report, "memory", "Memory", memory),
        section(report, "compute", "Computation", costs.compute_notes(report.arms), above),
    ]
    files = PackageLoader("rankwise.report", ".")
    strict = Environment(loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return strict.get_template("page.html.j2").render(
        subject=_subject(report),
        headline=report.headline,
        tiles=_tiles(report),
        arms=Section("arms", "Every arm", header, cells(report, columns), notes, kinds=kinds),
        sections=[*tables.sections(report, page=True), *filter(None, [tuning.section(report)])],
        plots=draw(report),
        cost_tables=list(filter(None, took)),
        analyses=analyses.of_records(report.records),
        differences=section(report, "numbers", compared, []),
        notes=dict.fromkeys([*report.notes, *paper.paragraph(report)]),
        failures=Section(
            "failures", "Runs without a score", ["run", "status", "error", "log"], tables.failures(report.arms), []
        ),
        provenance=provenance(report.records),
        made=now(),
    )


def _subject(report: Report) -> str:
    """What was adapted to what: models and tasks of the comparable runs."""
    runs = [run for arm in report.arms if arm.comparable for run in [*arm.runs, *arm.unscored]]
    models = sorted({str((run.config.get("model") or {}).get("name", "?")) for run in runs})
    tasks = sorted({str((run.config.get("task") or {}).get("name", "?")) for run in runs})
    return f"{', '.join(models)} on {', '.join(tasks)}"


def _kind(report: Report, arm: Arm) -> str:
    """The classes of its row: what it is, and its verdict."""
    is_what = "answer" if arm in report.enough else "reference" if arm is report.reference else ""
    verdict = report.verdict(arm).partition(":")[0].replace(" ", "-")
    return f"{is_what} {verdict}".strip() if arm.comparable else "other"


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The answer's cost beside the reference: (what, value, explanation)."""
    if not report.enough or report.reference is None:
        return []
    arm, full = min(report.enough, key=lambda arm: (arm.size or ("", 0))[1]), report.reference
    tiles = []
    if arm.size:
        fraction = rank_fraction(arm)
        narrow = f"{fmt.percent(fraction)} % of min(in, out)" if fraction else ""
        tiles.append((f"smallest sufficient {arm.size[0]}", f"{arm.size[1]:,}", narrow))
    for what, mine, theirs, unit in costs.beside(arm, full):
        ends = [duration(value) if unit == "s" else fmt.si(value, unit) for value in (mine, theirs)]
        tiles.append((what, f"{fmt.percent(mine / theirs)} %", " against ".join(ends)))
    return tiles
