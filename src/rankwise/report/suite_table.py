"""A suite in a terminal of 120 columns: arms down, tasks across, everything times 100."""

from __future__ import annotations

import math
from collections import defaultdict

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rankwise.metrics import NOTHING, named
from rankwise.report.suites import Average, Row, Suite, SuiteReport
from rankwise.statistics import Interval


def render(report: SuiteReport) -> RenderableType:
    """The table and its notes. A task with two metrics has two lines; one that no arm has, no column."""
    suite = report.suite
    tasks = [task for task in suite.tasks if any(task in row.tasks for row in report.rows)]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    headers = ["arm", "n", *(_header(suite, task) for task in tasks), *map(_average_header, suite.averages)]
    height = max(header.count("\n") for header in headers)
    for number, header in enumerate(headers):
        lowered = "\n" * (height - header.count("\n")) + header  # headers stand at the bottom, cells at the top
        table.add_column(lowered, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    flags = list(dict.fromkeys(flag for row in report.rows for flag in row.flags))
    for row in report.rows:
        marks = "".join(f" [{flags.index(flag) + 1}]" for flag in row.flags)
        cells = ["\n".join(_cell(_score(row, task, m)) for m in suite.tasks[task][1]) for task in tasks]
        cells += [_cell(row.averages[average.name]) for average in suite.averages]
        table.add_row(Text(row.label + marks), "–".join(map(str, _ends(row.seeds))), *cells)
    notes = [f"[{n}] {flag}" for n, flag in enumerate(flags, 1)] + _absent(report) + report.notes
    title = Text(f"{suite.name.upper()}, test scores × 100", style="bold")
    return Group(title, Padding(table, (1, 0)), *map(Text, notes), Text(_meaning(report), style="dim"))


def _header(suite: Suite, task: str) -> str:
    title, metrics = suite.tasks[task]
    return "\n".join([title, *(named(metric).short for metric in metrics)])


def _average_header(average: Average) -> str:
    return average.title.replace(" ", "\n", 2)


def _score(row: Row, task: str, metric: str) -> Interval | None:
    return row.tasks[task].scores.get(metric) if task in row.tasks else None


def _cell(found: Interval | None) -> str:
    if found is None or not math.isfinite(found.point):
        return NOTHING
    half = f"±{100 * found.half:.1f}" if math.isfinite(found.half) else ""
    return f"{100 * found.point:.1f}{half}"


def _ends(numbers: list[int]) -> list[int]:
    return sorted({numbers[0], numbers[-1]}) if numbers else []


def _absent(report: SuiteReport) -> list[str]:
    """Which tasks keep an average from being given, for which arms."""
    said = []
    for average in report.suite.averages:
        lacking: dict[str, list[str]] = defaultdict(list)
        for row in report.rows:
            if missing := row.missing[average.name]:
                lacking[", ".join(report.suite.tasks[task][0] for task in missing)].append(row.label)
        said += [f"{average.title}: missing {tasks} ({', '.join(arms)})" for tasks, arms in lacking.items()]
    return said


def _meaning(report: SuiteReport) -> str:
    """What ± is, what a score is, and what the averages average."""
    scores = [found for row in report.rows for arm in row.tasks.values() for found in arm.scores.values()]
    kinds = {found.kind for found in scores}
    words = {"seeds": "t over seeds", "items": "over test items where there is one seed or identical runs"}
    kept = [f"± 95 % ({', '.join(words[kind] for kind in ('seeds', 'items') if kind in kinds) or 'no interval'})."]
    if any(found.median is not None for found in scores):
        kept.append("Scores of optimistic rows are medians over seeds, and their averages means of these.")
    kept.append(
        "LoRA's average (Hu et al. 2021, Table 2): no WNLI, accuracy of MRPC and QQP, Pearson of STS-B, MNLI over both "
        "dev sets. GLUE's (Wang et al. 2018): the two metrics of a task are averaged first."
    )
    return " ".join(kept)
