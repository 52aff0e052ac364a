"""The report with tasks across: the official metrics of each, by arm, and the averages of the papers.

An arm is what has the same model, method, settings and protocol on its tasks; learning rates may differ, and so may
where a run starts from (``method.init_from``), as RTE is often begun from a model that learned MNLI.
"""

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from rankwise.compare import by_replicate
from rankwise.errors import plural
from rankwise.metrics import NOTHING, named
from rankwise.report import arms as arms_of
from rankwise.report import formats as fmt
from rankwise.report import latex
from rankwise.report.arms import Arm
from rankwise.report.columns import Section
from rankwise.report.equivalence import MISSING
from rankwise.report.flags import DISTURBED
from rankwise.report.footnotes import footnotes, marks, merged, numbered
from rankwise.report.naming import give_names, sources
from rankwise.report.report import Report, compared, find_all, results
from rankwise.report.summary import of_data
from rankwise.report.table import BEST_OF_RATES, coverage, md_table, rendered
from rankwise.statistics import Interval, interval
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record, finite

Metrics = tuple[str, ...]  # of a task; where there are several, their mean is its score

_GLUE: dict[str, Metrics] = {
    "CoLA": ("matthews",),
    "SST-2": ("accuracy",),
    "MRPC": ("f1", "accuracy"),
    "STS-B": ("pearson", "spearman"),
    "QQP": ("f1", "accuracy"),
    "MNLI": ("accuracy_matched", "accuracy_mismatched"),
    "QNLI": ("accuracy",),
    "RTE": ("accuracy",),
    "WNLI": ("accuracy",),
}
_LORA: dict[str, Metrics] = dict.fromkeys([task for task in _GLUE if task != "WNLI"], ("accuracy",))
AVERAGES = {
    "LoRA's average (8 tasks)": _LORA | {"CoLA": ("matthews",), "STS-B": ("pearson",)},
    "GLUE's average (9 tasks)": _GLUE,
}
_MEANING = (
    "LoRA's average (Hu et al. 2021, Table 2): no WNLI, accuracy of MRPC and QQP, Pearson of STS-B, MNLI over both dev "
    "sets. GLUE's (Wang et al. 2018): the two metrics of a task are averaged first."
)
_ENOUGH = (
    "Enough: at most the margin worse than full fine-tuning, or than the reference that find was asked for, tested "
    "from the largest rank down to the first that is not, in each task; a rank that find was asked about is what its "
    "answer says."
)
_ELSEWHERE = (MISSING, DISTURBED)  # flags whose task is none of "enough", or which are of seconds, that no cell has
_OF_FIND = {"enough": True, "worse": False, "given up": False, "undecided": False}  # others were not judged


@dataclass
class Row:
    """An arm on several tasks. An average is None unless the arm has all of its tasks."""

    arm: Arm  # of the first task: method and settings
    model: str
    tasks: dict[str, Arm]
    label: str = ""  # the arm's, with model and protocol where a table has several
    averages: dict[str, Interval | None] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)  # tasks, by average
    flags: list[str] = field(default_factory=list)
    passed: dict[str, bool | None] = field(default_factory=dict)  # by task: is it enough? None: was not tested
    unjudged: dict[str, str] = field(default_factory=dict)  # by task: why it is neither enough nor not

    def score(self, task: str, metric: str) -> Interval | None:
        return self.tasks[task].scores.get(metric) if task in self.tasks else None

    def star(self, task: str) -> str:
        """Where the score is of the best of several rates on these seeds."""
        return "*" * (task in self.tasks and self.tasks[task].picked)

    @property
    def enough(self) -> str:
        """On how many of its tasks, and of how many that is not known."""
        tested = [passed for passed in self.passed.values() if passed is not None]
        counts = ((len(self.passed) - len(tested), "tested"), (len(self.unjudged), "judged"))
        known = [f"{sum(tested)} of {len(tested)}"] * bool(tested)
        return "\n".join([*known, *(f"{n} not {what}" for n, what in counts if n)]) or NOTHING


@dataclass(frozen=True)
class ByTask:
    """Arms down, tasks with their metrics across, and what was left out."""

    rows: list[Row]
    tasks: dict[str, Metrics]
    averages: dict[str, dict[str, Metrics]]
    notes: list[str]

    def table(self) -> RenderableType:
        """For a terminal."""
        return Group(*rendered(self._section()))

    def to_markdown(self) -> str:
        part = self._section()
        rows = [[cell.replace("\n", " / ") for cell in row] for row in part.rows]
        notes = [f"{note}  " for note in part.notes]
        return "\n".join([f"**{part.title}**", "", *md_table(part.header, rows), "", *notes, ""])

    def to_latex(self) -> str:
        """A ``table`` environment, which needs the package booktabs."""
        part, notes = self._section(), footnotes(self.rows)
        cells = [[row.label, *texts[1:]] for row, texts in zip(self.rows, part.rows, strict=True)]
        rows = [[cell.replace("\n", " / ") for cell in row] for row in (part.header, *cells)]
        caption = ". ".join([part.title, " ".join(part.notes[len(notes[0]) :])])
        return "\n".join(latex.table(caption, "l" + "r" * (len(part.header) - 1), rows, notes))

    def _section(self) -> Section:
        """Times 100 what goes up to 1. A task with two metrics has two lines."""
        shorts = [
            " ".join([task, *(named(metric).short or metric for metric in of if ":" not in metric)])
            for task, of in self.tasks.items()
        ]
        flags, rows = marks(self.rows), []
        judged = ["enough on"] if any(row.passed or row.unjudged for row in self.rows) else []
        for row in self.rows:
            cells = [
                "\n".join(_cell(row.score(task, metric), metric) + row.star(task) for metric in of)
                for task, of in self.tasks.items()
            ]
            means = [_cell(row.averages[average]) for average in self.given]
            n = fmt.span([len(arm.runs) for arm in row.tasks.values()])
            rows.append([row.label + flags[id(row)], n, *cells, *means, *[row.enough] * len(judged)])
        notes = [*numbered(self.rows), *self._absent(), *self._unjudged(), *self.notes, self._meaning()]
        header = ["arm", "n", *shorts, *self.given, *judged]
        notes += [_ENOUGH] * len(judged)
        return Section("tasks", "Test scores by task, × 100 where they go up to 1", header, rows, notes)

    @property
    def given(self) -> list[str]:
        """The averages that any row has."""
        return [average for average in self.averages if any(row.averages[average] for row in self.rows)]

    def document(self) -> dict[str, Any]:
        """The JSON document: fractions 0–1, what is unknown null."""
        return finite({"tasks": self.tasks, "arms": [self._entry(row) for row in self.rows], "notes": self.notes})

    def _entry(self, row: Row) -> dict[str, Any]:
        wanted = {
            task: {*self.tasks[task], *(m for average in self.averages.values() for m in average.get(task, ()))}
            for task in row.tasks
        }
        scores = {
            task: {m: asdict(s) for m, s in sorted(arm.scores.items()) if m in wanted[task]}
            for task, arm in row.tasks.items()
        }
        return row.arm.facts | {
            "label": row.label,
            "model": row.model,
            "protocol": "paper" if row.arm.optimistic else "clean",
            "lr": {task: arm.lr for task, arm in row.tasks.items()},
            "tasks": scores,
            "averages": {name: score and asdict(score) for name, score in row.averages.items()},
            "missing": row.missing,
            "flags": row.flags,
            "passed": row.passed | dict.fromkeys(row.unjudged),
            "not_judged": row.unjudged,
        }

    def _absent(self) -> list[str]:
        """Which tasks keep an average from being given, for which arms."""
        notes = []
        of_glue = set(self.tasks) & set(_GLUE)
        for average in self.given or [*self.averages][: len(of_glue) > 1]:
            lacking: dict[str, list[str]] = defaultdict(list)
            for row in self.rows:
                if row.missing[average]:
                    lacking[", ".join(row.missing[average])].append(row.label)
            notes += [f"{average}: missing {tasks} ({', '.join(arms)})" for tasks, arms in lacking.items()]
        return notes

    def _unjudged(self) -> list[str]:
        """Why arms were not judged, and on which tasks."""
        notes = []
        whys = merged((row.unjudged[t], (row.label, t)) for row in self.rows for t in self.tasks if t in row.unjudged)
        for why, of in whys:
            tasks: dict[str, list[str]] = defaultdict(list)
            for label, task in of:
                tasks[label].append(task)
            where = "; ".join(f"{label} on {', '.join(on)}" for label, on in tasks.items())
            notes.append(f"Not judged, {where}: {why}.")
        return notes

    def _meaning(self) -> str:
        shown = {
            task: [(row.tasks[task], m) for row in self.rows if task in row.tasks for m in of]
            for task, of in self.tasks.items()
        }
        medians = any(arm.scores[m].median is not None for of in shown.values() for arm, m in of if m in arm.scores)
        notes = [coverage(shown)]
        notes += ["Scores of optimistic rows are medians over seeds, and their averages means of these."] * medians
        notes += [BEST_OF_RATES] * any(row.star(task) for row in self.rows for task in row.tasks)
        return " ".join([*notes, *([_MEANING] if self.given else [])])


def build(paths: list[Path]) -> ByTask:
    """Read runs in or below the given folders, or of W&B, and set their tasks side by side by arm.

    Raises Refused where there are none, and for runs that were selected on the test set.
    """
    together: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    every_run = find_all(paths)
    task_of = dict(zip(map(id, every_run), sources(every_run, "task"), strict=True))
    judged = {task_of[id(run)] for run in results(every_run)}  # others have nothing but trials
    where = ("config.model.name", "config.task.protocol", "provenance.model.fingerprint")
    for run in sorted(every_run, key=lambda run: run.status != FINISHED):
        group = tuple(str(at(run, path)) for path in where)
        if run.status != FINISHED and at(run, where[-1]) is None:  # it failed before its base was read
            group = next((known for known in together if known[:2] == group[:2]), group)
        if task_of[id(run)] in judged:
            together[group].append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for (model, *_), runs in sorted(together.items()):
        rows += _rows(model, runs, task_of, every_run, len(judged) == 1, notes)
    give_names([row.arm for row in rows])
    models, protocols = len({row.model for row in rows}) > 1, len({row.arm.optimistic for row in rows}) > 1
    present = {task: arm for row in rows for task, arm in row.tasks.items()}
    order = [*(task for task in _GLUE if task in present), *(task for task in present if task not in _GLUE)]
    tasks = {task: _metrics(task, present[task]) for task in order}
    averages = AVERAGES if set(tasks) & set(_GLUE) else {}
    for row in rows:
        row.tasks = {task: row.tasks[task] for task in order if task in row.tasks}
        row.label = f"{f'{row.model} ' if models else ''}{row.arm.label}"
        row.label += " (paper)" if protocols and row.arm.optimistic else ""
        for name, wanted in averages.items():
            row.missing[name] = [t for t, of in wanted.items() if any(row.score(t, metric) is None for metric in of)]
            row.averages[name] = None if row.missing[name] else _mean(row, wanted)
        row.flags = _flags(row)
    return ByTask(rows, tasks, averages, notes)


def _metrics(task: str, arm: Arm) -> Metrics:
    """What a task is scored by; one of lm-evaluation-harness is called by it."""
    return _GLUE.get(task) or (task.split()[-1] if ":" in task else str(arm.first("config.task.metric")),)


def _rows(
    model: str, runs: list[Record], task_of: dict[int, str], every_run: list[Record], alone: bool, notes: list[str]
) -> list[Row]:
    """The arms of one model and protocol; what is not comparable within its task is left out, with a note. ``alone``
    says that there is one task, whose name a score of lm-evaluation-harness goes without.
    """
    by_task: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        by_task[task_of[id(run)]].append(run)
    reports: dict[str, Report] = {}
    for task, here in by_task.items():
        reports[task] = compared(here, read_with=every_run)
        for name in sorted({name for arm in reports[task].arms for name in arm.scores if ":" in name}):
            reports[name if alone else f"{task} {name}"] = compared(here, name, every_run)
        notes += of_data(here, f"the data of {task}")
        others = [arm for arm in reports[task].arms if not arm.comparable]
        counts = [plural(len(arm.runs or arm.unscored), "run") for arm in others]
        notes += [f"{task}: {n} of {a.label} left out, {a.flags[0]}" for n, a in zip(counts, others, strict=True)]
    arms = {task: [arm for arm in report.arms if arm.comparable] for task, report in reports.items()}
    # What starts an arm tells two apart only if they differ in nothing else.
    loose = all(len({_key(arm, loose=True) for arm in of_task}) == len(of_task) for of_task in arms.values())
    rows: dict[str, Row] = {}
    for task, of_task in arms.items():
        asked = [row for answer in reports[task].answers[:1] for row in answer.document["ranks"]]
        words = {(str(row["rank"]), str(row["trainable"])): str(row["verdict"]) for row in asked}
        for arm in of_task:
            row = rows.setdefault(_key(arm, loose), Row(arm, model, {}))
            row.tasks[task] = arm
            if word := words.get((str(arm.rank), str(arm.first("params.trainable")))):
                passed, why = _OF_FIND.get(word), "" if word in _OF_FIND else f"{word} by find"
            elif step := reports[task].steps.get(id(arm)):
                passed, why = step.passed, step.reason
            else:
                continue
            if why:
                row.unjudged[task] = why
            else:
                row.passed[task] = passed
    return sorted(rows.values(), key=lambda row: arms_of.reading_order(row.arm)[1:4])


def _key(arm: Arm, loose: bool) -> str:
    return json.dumps({k: v for k, v in json.loads(arm.key).items() if not (loose and k == "init_from")})


def _mean(row: Row, tasks: dict[str, Metrics]) -> Interval:
    """The mean of what the table shows of each task; its interval is of the averages of each seed that all have.

    Tasks are independent of each other; two metrics of one task are taken as if they erred together.
    """
    cells = [[row.tasks[task].scores[metric] for metric in metrics] for task, metrics in tasks.items()]
    mean = float(np.mean([np.mean([cell.mean for cell in task]) for task in cells]))
    shown = float(np.mean([np.mean([cell.point for cell in task]) for task in cells]))
    scored = [
        [run for run in row.tasks[task].runs if all(at(run, f"metrics.test.{m}.value") is not None for m in metrics)]
        for task, metrics in tasks.items()
    ]
    values, errors = [], []
    paired = by_replicate(scored)
    for runs in paired.values():
        scores = [[at(run, f"metrics.test.{m}") for m in of] for run, of in zip(runs, tasks.values(), strict=True)]
        values.append(float(np.mean([np.mean([score["value"] for score in task]) for task in scores])))
        ses = [np.mean([math.nan if (se := s.get("se")) is None else se for s in task]) for task in scores]
        errors.append(float(np.linalg.norm(ses)) / len(ses))
    if not values:
        return Interval(mean, math.nan, math.nan, math.nan, 0, "none", shown if row.arm.optimistic else None)
    optimistic = row.arm.optimistic
    apart = shown - float(np.median(values) if optimistic else np.mean(values))  # other runs have not all tasks
    ends = np.mean([np.mean([named(metric).range for metric in of], 0) for of in tasks.values()], 0)
    around = [value + apart for value in values]
    spread = interval(
        around, errors, within=(float(ends[0]), float(ends[1])), median=optimistic, replicates=list(paired)
    )
    return replace(spread, mean=mean)


def _flags(row: Row) -> list[str]:
    """What a reader must know before believing a row."""
    said = [(flag, task) for task, arm in row.tasks.items() for flag in arm.flags if not flag.startswith(_ELSEWHERE)]
    flags = [text if len(of) == len(row.tasks) else f"{', '.join(of)}: {text}" for text, of in merged(said)]
    if len({len(arm.runs) for arm in row.tasks.values()}) > 1:
        counts = ", ".join(f"{task} {len(arm.runs)}" for task, arm in row.tasks.items())
        flags.append(f"unequal numbers of seeds: {counts}")
    started = [task for task, arm in row.tasks.items() if arm.settings.get("init_from")]
    if started and len(started) < len(row.tasks):
        flags.append(f"{', '.join(started)}: started from another run (method.init_from)")
    return flags


def _cell(score: Interval | None, metric: str = "accuracy") -> str:
    shown = named(metric, score.mean if score else 0.0)
    return (replace(shown, unit="%", decimals=1) if shown.high == 1 else shown).interval(score)
