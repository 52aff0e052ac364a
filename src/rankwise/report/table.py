"""The report as a table for a terminal of any width, and as Markdown."""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rich.table
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rankwise.errors import plural
from rankwise.metrics import NOTHING, named
from rankwise.report import costs, forgetting, latency
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, covered, writing
from rankwise.report.columns import Column, Section, cells, chosen, second_metrics, section, shown
from rankwise.report.equivalence import ALONE, UNFIT
from rankwise.report.footnotes import numbered
from rankwise.report.summary import of_data, other_score, tasks
from rankwise.tracking.fields import at

if TYPE_CHECKING:
    from rankwise.report.report import Report

_STYLE = dict.fromkeys(("same", "better", "not worse", "reproduced"), "green")
_STYLE |= dict.fromkeys(("worse", "contradicted"), "red")
_ABOUT = {  # a column, under a terminal's table that has it
    "peak MB": "Peak: live tensors in one training step.",
    "pred. error": "Pred. error: of the peak that is computed from the config alone.",
    "FLOPs /full": "FLOPs /full: per token, share of full fine-tuning's.",
}
BEST_OF_RATES = "* at the best of several learning rates by validation on these very seeds: somewhat too high."
_HARNESS = "− base: from the base as it is, on the same items. --score compares by one of these."


def render(report: Report) -> RenderableType:
    """Headline, table and footnotes, as wide as the terminal."""
    top = report.headline
    title, details = Text(top.title, style="bold"), [Text(text) for text in (top.cost, top.details) if text]
    details += [Text(f"• {text}") for text in top.others]
    more = [part for block in sections(report) for part in rendered(block)]
    columns = shown(report, "main")
    there = [c.header for c in columns if any(c.get(arm) is not None for arm in report.arms)]
    about = " ".join(words for header, words in _ABOUT.items() if header in there)
    notes = [*tasks(report), *other_score(report), *of_data(report.records), interval_note(report), about, report.total]
    said = [*map(Text, numbered(report.arms)), *(Text(text, style="dim") for text in notes if text)]
    return Group(title, *details, Padding(Wide(_of_arms(report, columns)), (1, 0)), *said, *more)


def _of_arms(report: Report, columns: list[Column]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        side: Any = "left" if column.left else "right"
        table.add_column(Text(column.header.replace(" ", "\n")), justify=side, vertical="bottom", no_wrap=True)
    for arm, row in zip(report.arms, cells(report, columns), strict=True):
        texts = [Text(fmt.tight(cell)) for cell in row]
        texts[0].highlight_regex("[⁰-⁹¹²³ ]+$", "yellow")
        for text in (text for column, text in zip(columns, texts, strict=True) if column.header[0] == "Δ"):
            text.stylize(_STYLE.get(report.verdict(arm), ""))
        table.add_row(*texts, style="" if arm.comparable else "dim")
    return table


def sections(report: Report, page: bool = False) -> list[Section]:
    """What the table does not say: what ``find`` decided, other metrics, what is written and forgotten, how fast."""
    more = [] if page else [column.key for column in shown(report, "more")[1:]]
    beside = {m.name: [(arm, m.name) for arm in report.arms] for m in second_metrics(report) if m.name not in more}
    harness = f"{_covered(report.arms, 'harness')}. {_HARNESS}"
    left_out = f"{len(more)} more, {' to '.join(more[:: max(1, len(more) - 1)])}, in report.html and report.csv."
    parts = [
        *(answer.by_rank for answer in report.answers),
        section(report, f"scores{' more' * page}", "Other test metrics", [coverage(beside), *[left_out] * bool(more)]),
        section(report, "generation", "Generated text", _of_writing(report.arms)),
        section(report, "forgetting", "Forgetting", forgetting.notes(report.arms)),
        section(report, "harness", "Tasks of lm-evaluation-harness", [harness]),
        latency.section(report),
    ]
    return [part for part in parts if part]


def coverage(scores: Mapping[str, Iterable[tuple[Arm, str]]]) -> str:
    """What intervals are over, those of arms in a metric, by what these are called where it is not the same for all."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, of in scores.items():
        if known := [(arm, metric) for arm, metric in of if metric in arm.scores]:
            cells = [run.scores.get(metric) or {} for arm, metric in known for run in arm.runs]
            groups = max(cell.get("clusters") or 0 for cell in cells)
            what = f"test items in {plural(groups, 'group')}" if groups else "test items"
            names_of[covered((arm.scores[metric] for arm, metric in known), what)].append(name)
    if len(names_of) < 2:
        return f"{next(iter(names_of), 'no interval')}."
    return " ".join(f"{', '.join(names)}: {words}." for words, names in names_of.items())


def _covered(arms: list[Arm], kind: str, items: str = "test items") -> str:
    """What the intervals of a kind of metric are over."""
    return covered((s for arm in arms for name, s in arm.scores.items() if named(name).kind == kind), items)


def _of_writing(arms: list[Arm]) -> list[str]:
    """Intervals, how the text was written, and what could not be scored."""
    runs = [
        run for arm in arms for run in arm.runs if at(run, "compute.generation.prompts") or at(run, "metrics.absent")
    ]
    notes = [f"{_covered(arms, 'text', 'prompts')}. Speed and peak are of a run, medians where a row has several."]
    notes += written_with(arms)
    reasons = Counter(pair for run in runs for pair in (at(run, "metrics.absent") or {}).items())
    return notes + [f"Absent: {metric} of {plural(n, 'run')}: {reason}" for (metric, reason), n in reasons.items()]


def written_with(arms: list[Arm]) -> list[str]:
    """How text was written, where any was."""
    runs = [run for arm in arms for run in arm.runs if at(run, "compute.generation.prompts")]
    settings = {writing(run) for run in runs}
    if len(settings) > 1:
        return [f"The runs wrote with {len(settings)} different settings of task.generation: compare with care."]
    return [f"Text was written with {one}." for one in settings]


def rendered(block: Section) -> list[RenderableType]:
    """A section for a terminal."""
    # What stays on one line: 90 %, “largest, %” and ε = 0.3.
    narrow = [re.sub(r"(?<![\d,=]) (?!=)|(?<!=) (?![%=])", "\n", text) for text in block.header[1:]]
    header = block.header if block.words else [block.header[0], *narrow]
    rows = [[fmt.tight(cell) for cell in row] for row in block.rows]
    table = grid(header, rows, len(header) if block.words else 1)
    notes = [Text(note, style="dim") for note in block.notes]
    return [Text(f"\n{block.title}", style="bold"), Padding(table if block.words else Wide(table), (1, 0)), *notes]


def grid(header: list[str], rows: list[list[str]], left: int) -> Table:
    """A table whose first ``left`` columns are words, set to the left and folded, and the others figures.

    Cells of words alone, or of several lines, begin side by side; figures stand beside the end of a folded name.
    """
    lines = any("\n" in cell for row in rows for cell in row)
    vertical: Any = "top" if lines or left == len(header) else "bottom"
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    # What stands beneath, an id, is copied into a command: it stays in one piece.
    ids = [word for row in rows if "\n" in row[0] for word in row[0].split()]
    for number, text in enumerate(header):
        words = number < left
        justify: Any = "left" if words else "right"
        width = max(map(len, ids)) if ids and number == 0 else None
        table.add_column(
            Text(text), width=width, justify=justify, vertical=vertical, no_wrap=not words, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell, _STYLE.get(cell.split(" ")[0], "")) for cell in row))
    return table


class Wide:
    """A table. Where there is no room for it, its columns stand in several tables, each beside the first column."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *rest = self.table.columns
        shown = [first]
        for column in rest:
            tried = self._of([*shown, column])
            wide = Measurement.get(console, options.update(max_width=999), tried).maximum > options.max_width
            if wide and len(shown) > 1:
                yield self._of(shown)
                yield ""
                shown = [first]
            shown.append(column)
        yield self._of(shown)

    def _of(self, columns: list[rich.table.Column]) -> Table:
        table = copy.copy(self.table)
        table.columns = [replace(column, _index=number) for number, column in enumerate(columns)]
        return table


def interval_note(report: Report) -> str:
    """What ± and the verdicts mean in this table."""
    metric = report.metric
    texts = [coverage({metric.name: [(arm, metric.name) for arm in report.arms]})]
    if metric.lower_is_better:
        texts.insert(0, f"Lower {metric.name} is better.")
    if report.constant is not None and metric.constants:
        texts.append(f"The best answer that is the same for every text scores {metric.with_unit(report.constant)}.")
    if any(score.median is not None for arm in report.arms for score in arm.scores.values()):
        texts.append("Scores of optimistic rows are medians over seeds; differences are of means.")
    if any(arm.picked for arm in report.arms):
        texts.append(BEST_OF_RATES)
    if not report.comparisons:
        return " ".join(texts)
    if not any(c.bootstrap for c in report.comparisons.values()):
        return " ".join([*texts, f"Δ: difference from {report.against}, without an interval: no conclusion."])
    verdicts = dict.fromkeys(c.verdict for c in report.comparisons.values() if c.bootstrap and c.verdict != UNFIT)
    against = f"; {', '.join(verdicts)}: 90 % interval against ±{metric.width(report.margin)}" if verdicts else ""
    texts.append(f"Δ: paired with {report.against}{against}.")
    if any(report.verdict(arm).endswith(ALONE) for arm in report.arms):
        texts.append("Alone: tested by itself; the sequence from the largest down ended above it or at it.")
    return " ".join(texts)


def arms_as_markdown(report: Report, columns: list[Column]) -> list[str]:
    """Headline, table and footnotes."""
    top = report.headline
    first = " ".join(filter(None, [f"**{top.title}**", top.cost, top.details]))
    others = [f"* {text}\n" for text in top.others]
    table = md_table([c.title for c in columns], cells(report, columns), columns)
    notes = [f"{text}  " for text in numbered(report.arms)]
    return [first, "", *others, *table, "", *notes, "", interval_note(report), ""]


def markdown(report: Report, wanted: Sequence[str] = ()) -> str:
    """Headline, table, footnotes and how this was compared."""
    lines = arms_as_markdown(report, chosen(report, wanted, "main", "wide"))
    for block in sections(report):
        lines += [f"**{block.title}**", "", *md_table(block.header, block.rows), ""]
        lines += [*(f"{note}  " for note in block.notes), ""]
    notes = [*report.notes, *costs.memory_notes(report.arms), *costs.compute_notes(report.arms)]
    notes += filter(None, [costs.break_even(report.arms)])
    return "\n".join([*lines, *[f"* {note}" for note in notes], ""])


def md_table(
    header: list[str], rows: list[list[str]], columns: list[Column] | None = None, words: bool = False
) -> list[str]:
    """The lines of a Markdown table; without ``columns`` all cells but the first are set right, ``words`` left."""
    left = [column.left for column in columns] if columns else [words or number == 0 for number in range(len(header))]
    rule = "|" + "|".join(":--" if side else "--:" for side in left) + "|"
    escaped = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)]
    return [escaped[0], rule, *escaped[1:]]


def failures(arms: list[Arm]) -> list[list[str]]:
    """Runs without a score: name, status, error and where the log is, if there is one."""
    return [
        [
            str(run.run.get("name")),
            run.status,
            ": ".join(str(part) for key in ("type", "message") if (part := at(run, f"error.{key}"))) or NOTHING,
            str(log) if (log := run.folder / "log").exists() else NOTHING,
        ]
        for arm in arms
        for run in arm.unscored
    ]
