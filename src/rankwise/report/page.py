"""One self-contained HTML page: no request leaves it, it works from ``file://`` and prints."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from rankwise.metrics import NOTHING
from rankwise.report import analyses, cost_tables, costs
from rankwise.report import formats as fmt
from rankwise.report import table as tables
from rankwise.report.arms import Arm
from rankwise.report.findings import Findings
from rankwise.report.grid import grids
from rankwise.report.plots import draw
from rankwise.report.sections import Section
from rankwise.report.sufficiency import Step
from rankwise.report.summary import provenance
from rankwise.tracking.record import now


def html(report: Findings) -> str:
    """The page."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    texts, marks = tables.footnotes(report)
    return environment.get_template("page.html.j2").render(
        subject=_subject(report),
        headline=report.headline,
        tiles=_tiles(report),
        columns=[(c.header, c.left) for c in tables.columns(report)],
        rows=[_row(report, arm, marks[id(arm)]) for arm in report.arms],
        footnotes=list(enumerate(texts, 1)),
        interval_note=tables.interval_note(report),
        sections=tables.sections(report),
        plots=draw(report),
        grids=grids(report),
        cost_tables=_cost_tables(report),
        layers=cost_tables.layers(report),
        analyses=analyses.of_records(report.records),
        differences=_differences(report),
        notes=report.notes,
        failures=tables.failures(report),
        provenance=provenance(report.records),
        made=now(),
    )


def _source(name: str) -> str:
    return files("rankwise.report").joinpath(name).read_text(encoding="utf-8")


def _subject(report: Findings) -> str:
    """What was adapted to what: models and tasks of the comparable runs."""
    runs = [run for arm in report.arms if arm.comparable for run in [*arm.runs, *arm.unscored]]
    models = sorted({str((run.config.get("model") or {}).get("name", "?")) for run in runs})
    tasks = sorted({str((run.config.get("task") or {}).get("name", "?")) for run in runs})
    return f"{', '.join(models)} on {', '.join(tasks)}"


def _row(report: Findings, arm: Arm, marks: list[int]) -> dict[str, Any]:
    comparison = report.comparison(arm)
    kind = comparison.verdict.split(":")[0].replace(" ", "-") if comparison else ""
    answers = [f.answer.arm for f in report.families if f.answer]
    return {
        "cells": [(c.cell(report, arm), c.left, c.header.startswith("Δ")) for c in tables.columns(report)],
        "marks": marks,
        "verdict": kind,
        "kind": "answer" if arm in answers else "reference" if arm is report.reference else "",
        "comparable": arm.comparable,
    }


def _tiles(report: Findings) -> list[tuple[str, str, str]]:
    """The answer's cost beside full fine-tuning: (what, value, explanation)."""
    answered = [family.answer for family in report.families if family.answer]
    if not answered or report.reference is None:
        return []
    arm, full = min(answered, key=lambda step: step.rank).arm, report.reference
    fraction = tables.rank_fraction(arm)
    narrow = f"{fmt.percent(fraction)} % of min(in, out)" if fraction else "of full fine-tuning's"
    tiles = [("smallest sufficient rank", str(arm.rank), narrow)]
    asked = (
        ("trainable parameters", arm.first("params.trainable"), full.first("params.trainable"), fmt.si),
        ("peak training memory", costs.peak_bytes(arm), costs.peak_bytes(full), lambda v: fmt.si(v, "B")),
        ("FLOPs per token", costs.flops(arm)["per_token"], costs.flops(arm)["full_per_token"], fmt.si),
        ("training time", arm.median("compute.seconds.train_s"), full.median("compute.seconds.train_s"),
         lambda v: f"{fmt.seconds(v)} s"),
        ("to keep on disk", arm.median("storage.adapter_bytes"), full.median("storage.adapter_bytes"),
         lambda v: fmt.si(v, "B")),
    )  # fmt: skip
    for what, mine, theirs, shown in asked:
        if mine and theirs:
            tiles.append((what, f"{fmt.percent(mine / theirs)} %", f"{shown(mine)} against {shown(theirs)}"))
    return tiles


def _cost_tables(report: Findings) -> list[Section]:
    """What each run of an arm took, beside what was predicted of it."""
    memory, compute = cost_tables.memory_table(report), cost_tables.compute_table(report)
    parts = [
        Section("memory", "Memory: predicted against measured", *memory, cost_tables.memory_notes(report)),
        Section("compute", "Computation", *compute, cost_tables.compute_notes(report), cost_tables.break_even(report)),
    ]
    return [part for part in parts if part.rows]


def _differences(report: Findings) -> list[dict[str, str]]:
    """Every comparison in numbers."""
    steps = {id(step.arm): step for family in report.families for step in family.steps}
    rows = []
    for arm in report.arms:
        c = report.comparison(arm)
        if c is None:
            continue
        boot, metric, step = c.bootstrap, report.metric, steps.get(id(arm))
        span = f"{metric.difference(boot.low)} … {metric.difference(boot.high)}" if boot else NOTHING
        rows.append({
            "arm": arm.label,
            "estimate": metric.difference(c.estimate),
            "interval": span,
            "verdict": c.verdict + (f": {c.reason}" if c.reason else ""),
            "kind": c.verdict.split(":")[0].replace(" ", "-"),
            "p": _p(c.p_holm),
            "detectable": metric.width(boot.detectable) if boot else NOTHING,
            "sequence": _sequence(step),
            "share": f"{100 * step.share:.0f}" if step and boot else "",
            "pairs": f"{c.seeds} × {c.items:,}" if c.items else NOTHING,
        })  # fmt: skip
    return rows


def _p(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _sequence(step: Step | None) -> str:
    if step is None:
        return ""
    return {True: "passed", False: "failed: the sequence stops", None: "not tested"}[step.passed]
