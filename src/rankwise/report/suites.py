"""Several tasks reported together: their official metrics and the averages of the papers, by arm.

An arm of a suite is what has the same model, method, settings and protocol on its tasks; learning rates may differ, and
so may where a run starts from (``method.init_from``), as RTE is often begun from a model that learned MNLI.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankwise.compare import Replicate, replicate
from rankwise.errors import Refused, did_you_mean
from rankwise.report import arms as arms_of
from rankwise.report.arms import Arm, dig
from rankwise.report.report import find_all, results
from rankwise.statistics import Interval, interval
from rankwise.tracking.record import Record

Metrics = tuple[str, ...]


@dataclass(frozen=True)
class Average:
    """A mean over tasks; of a task with several metrics, their mean is taken first."""

    name: str
    title: str
    tasks: dict[str, Metrics]


@dataclass(frozen=True)
class Suite:
    """``tasks``: by ``task.subset`` the title and the official metrics, in the order of the table."""

    name: str
    tasks: dict[str, tuple[str, Metrics]]
    averages: tuple[Average, ...]


_ACCURACY: Metrics = ("accuracy",)
_F1: Metrics = ("f1", "accuracy")
_GLUE: dict[str, tuple[str, Metrics]] = {
    "cola": ("CoLA", ("matthews",)), "sst2": ("SST-2", _ACCURACY), "mrpc": ("MRPC", _F1),
    "stsb": ("STS-B", ("pearson", "spearman")), "qqp": ("QQP", _F1),
    "mnli": ("MNLI", ("accuracy_matched", "accuracy_mismatched")), "qnli": ("QNLI", _ACCURACY),
    "rte": ("RTE", _ACCURACY), "wnli": ("WNLI", _ACCURACY),
}  # fmt: skip
# Table 2 of Hu et al. 2021: no WNLI, one number a task, MNLI over both of its dev sets.
_LORA = {task: _ACCURACY for task in _GLUE if task != "wnli"} | {"cola": ("matthews",), "stsb": ("pearson",)}
SUITES = {
    "glue": Suite("glue", _GLUE, (
        Average("lora", "LoRA's average (8 tasks)", _LORA),
        Average("glue", "GLUE's average (9 tasks)", {task: metrics for task, (_, metrics) in _GLUE.items()}),
    )),
}  # fmt: skip


@dataclass
class Row:
    """An arm on the tasks of a suite. An average is None unless the arm has all of its tasks."""

    arm: Arm  # of the first task: method and settings
    model: str
    tasks: dict[str, Arm]
    label: str = ""  # the arm's, with model and protocol where a table has several
    averages: dict[str, Interval | None] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)  # by average
    flags: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        """How many runs each task has, without repetition."""
        return sorted({len(arm.runs) for arm in self.tasks.values()})


@dataclass(frozen=True)
class SuiteReport:
    """A suite, read."""

    suite: Suite
    rows: list[Row]
    notes: list[str]


def named(name: str) -> Suite:
    """Raises Refused for a suite that there is not."""
    if name not in SUITES:
        raise Refused(f"suite {name}: no such suite; one of {', '.join(SUITES)}{did_you_mean(name, SUITES)}")
    return SUITES[name]


def build(paths: list[Path], suite: Suite) -> SuiteReport:
    """Read the runs of a suite's tasks in or below the given folders, or of W&B, and average them by arm.

    Raises Refused where there are none, and for runs that were selected on the test set.
    """
    records = [run for run in results(find_all(paths)) if dig(run, "config.task.subset") in suite.tasks]
    if not records:
        places = ", ".join(map(str, paths))
        raise Refused(f"no run of {suite.name} in {places}: none has task.subset={' or '.join(suite.tasks)}")
    together: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for run in records:
        where = ("config.model.name", "provenance.model.fingerprint", "config.task.protocol")
        together[tuple(str(dig(run, path)) for path in where)].append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for (model, *_), runs in sorted(together.items()):
        rows += _rows(suite, model, runs, notes)
    arms_of.give_names([row.arm for row in rows])
    several_models = len({row.model for row in rows}) > 1
    several_protocols = len({row.arm.optimistic for row in rows}) > 1
    for row in rows:
        model = f"{row.model} " if several_models else ""
        row.label = f"{model}{row.arm.label}{' (paper)' if several_protocols and row.arm.optimistic else ''}"
        _average(suite, row)
        row.flags = _flags(row)
    return SuiteReport(suite, rows, notes)


def _rows(suite: Suite, model: str, runs: list[Record], notes: list[str]) -> list[Row]:
    """The arms of one model and protocol; what is not comparable within its task is left out, with a note."""
    by_task: dict[str, list[Arm]] = {}
    for task in suite.tasks:
        if here := [run for run in runs if dig(run, "config.task.subset") == task]:
            found = arms_of.group(here)
            by_task[task] = [arm for arm in found if arm.comparable]
            notes += [_left_out(task, arm) for arm in found if not arm.comparable]
    loose = all(len({_key(arm, loose=True) for arm in arms}) == len(arms) for arms in by_task.values())
    rows: dict[str, Row] = {}
    for task, arms in by_task.items():
        for arm in arms:
            rows.setdefault(_key(arm, loose), Row(arm, model, {})).tasks[task] = arm
    return sorted(rows.values(), key=lambda row: arms_of.reading_order(row.arm)[1:4])


def _key(arm: Arm, loose: bool) -> str:
    """What makes arms of several tasks one; where they start from only if two arms of a task differ in nothing else."""
    kept = {key: value for key, value in arm.settings.items() if not loose or key != "init_from"}
    return json.dumps([arm.method, kept], sort_keys=True, default=str)


def _left_out(task: str, arm: Arm) -> str:
    pairs = [f"{key}={here} (reference: {there})" for key, (here, there) in list(arm.differs.items())[:3]]
    return f"{task}: {len(arm.runs)} run(s) of {arm.label} left out, they differ in {', '.join(pairs)}"


def _average(suite: Suite, row: Row) -> None:
    for average in suite.averages:
        missing = [task for task, metrics in average.tasks.items() if not _has(row, task, metrics)]
        row.missing[average.name] = missing
        row.averages[average.name] = None if missing else _mean(row, average.tasks)


def _has(row: Row, task: str, metrics: Metrics) -> bool:
    return task in row.tasks and all(metric in row.tasks[task].scores for metric in metrics)


def _mean(row: Row, tasks: dict[str, Metrics]) -> Interval:
    """The mean of what the table shows of each task; its interval is of the averages of each seed that all have."""
    cells = [[row.tasks[task].scores[metric] for metric in metrics] for task, metrics in tasks.items()]
    mean = float(np.mean([np.mean([cell.mean for cell in task]) for task in cells]))
    median = None
    if row.arm.optimistic:
        median = float(np.mean([np.mean([cell.point for cell in task]) for task in cells]))
    point = mean if median is None else median
    values, errors = _by_seed(row, tasks)
    if not values:
        return Interval(mean, math.nan, math.nan, math.nan, 0, "none", median)
    spread = interval(values, errors, median=row.arm.optimistic)
    return replace(spread, mean=mean, median=median, low=point - spread.half, high=point + spread.half)


def _by_seed(row: Row, tasks: dict[str, Metrics]) -> tuple[list[float], list[float]]:
    """For every seed that all tasks have: the average, and its standard error over test items.

    Tasks are independent of each other; two metrics of one task are taken as if they erred together.
    """
    runs: dict[str, dict[Replicate, Record]] = {
        task: {replicate(run): run for run in row.tasks[task].runs if _scored(run, metrics)}
        for task, metrics in tasks.items()
    }
    values, errors = [], []
    for seed in sorted(set.intersection(*(set(found) for found in runs.values()))):
        cells = [[dig(runs[task][seed], f"metrics.test.{m}") for m in metrics] for task, metrics in tasks.items()]
        values.append(float(np.mean([np.mean([cell["value"] for cell in task]) for task in cells])))
        ses = [float(np.mean([math.nan if (se := c.get("se")) is None else se for c in task])) for task in cells]
        errors.append(float(np.linalg.norm(ses)) / len(cells))
    return values, errors


def _scored(run: Record, metrics: Metrics) -> bool:
    return all(dig(run, f"metrics.test.{metric}.value") is not None for metric in metrics)


def _flags(row: Row) -> list[str]:
    """What a reader must know before believing a row."""
    flags = ["optimistic: chosen on the reported rows (task.protocol=paper)"] if row.arm.optimistic else []
    if len(row.seeds) > 1:
        counts = ", ".join(f"{task} {len(arm.runs)}" for task, arm in row.tasks.items())
        flags.append(f"unequal numbers of seeds: {counts}")
    started = [task for task, arm in row.tasks.items() if arm.settings.get("init_from")]
    if started and len(started) < len(row.tasks):
        flags.append(f"{', '.join(started)}: started from another run (method.init_from)")
    lost = [f"{len(arm.unscored)} of {task}" for task, arm in row.tasks.items() if arm.unscored]
    return flags + ([f"runs without a score: {', '.join(lost)}"] if lost else [])


def document(report: SuiteReport) -> dict[str, Any]:
    """The JSON document: fractions 0–1, what is unknown null."""
    return {
        "suite": report.suite.name,
        "arms": [_entry(report.suite, row) for row in report.rows],
        "notes": report.notes,
    }


def _entry(suite: Suite, row: Row) -> dict[str, Any]:
    asked = {task: {*metrics, *(m for a in suite.averages for m in a.tasks.get(task, ()))}
             for task, (_, metrics) in suite.tasks.items()}  # fmt: skip
    scores = {
        task: {metric: vars(found) for metric, found in sorted(arm.scores.items()) if metric in asked[task]}
        for task, arm in row.tasks.items()
    }
    averages = {name: found and vars(found) for name, found in row.averages.items()}
    settings = row.arm.settings
    return {
        "label": row.label, "model": row.model, "protocol": "paper" if row.arm.optimistic else "clean",
        "method": row.arm.method, "rank": row.arm.rank, "alpha": settings.get("alpha"),
        "targets": settings.get("targets"), "quant": settings.get("quant"),
        "lr": {task: arm.lr for task, arm in row.tasks.items()}, "tasks": scores,
        "averages": averages | {"missing": [task for task in suite.tasks if task not in row.tasks]},
        "flags": row.flags,
    }  # fmt: skip
