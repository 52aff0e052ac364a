"""One list of columns, read as a terminal table, Markdown and HTML cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rankwise.metrics import NOTHING
from rankwise.report import cost_tables, costs, forgetting, generation, intrinsic, latency
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, dig
from rankwise.report.equivalence import MISSING, ONE_SEED
from rankwise.report.findings import Findings
from rankwise.report.sections import Section

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE = {"same": "green", "better": "green", "worse": "red"}
_SHORT = {ONE_SEED: "one seed", MISSING: "–"}  # the whole sentence stands beneath the table


@dataclass(frozen=True)
class Column:
    """A header with its unit, and the text of an arm's cell."""

    header: str
    cell: Callable[[Findings, Arm], str]
    left: bool = False


def columns(report: Findings, wide: bool = True) -> list[Column]:
    """The columns of this report; targets only where they vary. A terminal has no room for the ``wide`` ones."""
    metric = report.metric
    targets = {arm.settings["targets"] for arm in report.arms if "targets" in arm.settings}
    varies = [Column("targets", lambda r, a: str(a.settings.get("targets", NOTHING)), left=True)]
    unit = " pts" if metric.percent else ""
    median = " (median)" if medians(report) else ""
    return [
        Column("arm", lambda r, a: a.name, left=True),
        *(varies if len(targets) > 1 else []),
        Column("r/min (in, out)\N{NO-BREAK SPACE}%", lambda r, a: fmt.percent(rank_fraction(a))),
        Column("scale", lambda r, a: _scale(a)),
        Column("lr", lambda r, a: fmt.rate(a.lr)),
        Column("n", lambda r, a: str(len(a.runs))),
        Column(f"{metric.header}{median}", lambda r, a: r.metric.interval(a.scores.get(r.metric.name))),
        Column(f"Δ full{unit}", lambda r, a: delta(r, a), left=True),
        Column("adapter params", lambda r, a: fmt.si(_positive(a.first("params.adapter")))),
        *([Column("head params", lambda r, a: fmt.si(a.first("params.head")))] if wide else []),
        Column("trained %", lambda r, a: fmt.percent(trainable_fraction(a))),
        Column("peak MB", lambda r, a: fmt.megabytes(costs.peak_bytes(a))),
        Column("predicted MB", _predicted) if wide else Column("pred. error", _error),
        Column("FLOPs /full", lambda r, a: fmt.ratio(a.median("compute.flops.of_full"))),
        Column("train s", lambda r, a: fmt.seconds(a.median("compute.seconds.train_s"))),
        Column("tokens /s", lambda r, a: fmt.si(a.median("compute.tokens_per_s"))),
        *([Column("adapter MB", lambda r, a: fmt.megabytes(a.median("storage.adapter_bytes")))] if wide else []),
    ]


def medians(report: Findings) -> bool:
    """Whether the scores are medians over seeds."""
    return any(found.median is not None for arm in report.arms for found in arm.scores.values())


def rank_fraction(arm: Arm) -> float | None:
    """r / min(in, out) of the narrowest adapted matrix: what makes ranks comparable between model widths."""
    side = arm.first("lora.min_side")
    return arm.rank / side if arm.rank and side else None


def trainable_fraction(arm: Arm) -> float | None:
    """Trainable of all parameters; None for a baseline, which has no model to train a part of."""
    trainable, total = arm.first("params.trainable"), arm.first("params.total")
    return trainable / total if trainable is not None and total and not arm.is_baseline else None


def _predicted(report: Findings, arm: Arm) -> str:
    """The predicted peak with its error: ``365 (+0.3 %)``."""
    size = fmt.megabytes(costs.predicted_bytes(arm))
    return f"{size} ({error})" if (error := _error(report, arm)) != NOTHING else size


def _error(report: Findings, arm: Arm) -> str:
    return fmt.signed_percent(costs.prediction_error(arm))


def delta(report: Findings, arm: Arm) -> str:
    """The difference from full fine-tuning and its verdict: ``−0.4 same``."""
    if arm is report.reference:
        return "reference"
    comparison = report.comparison(arm)
    if comparison is None or comparison.estimate is None:
        return NOTHING
    said = _SHORT.get(comparison.verdict, comparison.verdict)
    return f"{report.metric.difference(comparison.estimate)} {said}"


def footnotes(report: Findings) -> tuple[list[str], dict[int, list[int]]]:
    """Each flag once, numbered from 1 in order of the table, and the numbers of each arm by ``id``."""
    texts: list[str] = []
    marks: dict[int, list[int]] = {}
    for arm in report.arms:
        for text in arm.flags:
            if text not in texts:
                texts.append(text)
        marks[id(arm)] = sorted(texts.index(text) + 1 for text in arm.flags)
    return texts, marks


def render(report: Findings) -> RenderableType:
    """Headline, table and footnotes; fits 120 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    shown = columns(report, wide=False)
    for column in shown:
        may_fold = column.header in ("arm", "targets")
        header = Text(column.header.replace(" ", "\n"))
        table.add_column(
            header, justify="left" if column.left else "right", vertical="bottom", no_wrap=not may_fold, overflow="fold"
        )
    texts, marks = footnotes(report)
    for arm in report.arms:
        comparison = report.comparison(arm)
        style = _STYLE.get(comparison.verdict, "") if comparison else ""
        cells = [Text(column.cell(report, arm).replace(" ± ", "±")) for column in shown]
        cells[0].append("".join(f" {n}".translate(_SUPERSCRIPT) for n in marks[id(arm)]), style="yellow")
        for column, cell in zip(shown, cells, strict=True):
            cell.stylize(style if column.header.startswith("Δ") else "")
        table.add_row(*cells, style="" if arm.comparable else "dim")
    notes = [Text(f"{i} {text}".replace(str(i), str(i).translate(_SUPERSCRIPT), 1)) for i, text in enumerate(texts, 1)]
    title = Text(report.headline.title, style="bold")
    details = [Text(text) for text in (report.headline.cost, " ".join(report.headline.details)) if text]
    meanings = [Text(text, style="dim") for text in (interval_note(report), cost_tables.short_note(report)) if text]
    more = [part for section in sections(report) for part in _section(section)]
    return Group(title, *details, Padding(table, (1, 0)), *notes, *meanings, *more)


def sections(report: Findings) -> list[Section]:
    """What the runs say beside their score: what they write, what they forgot, how fast they are, how many dimensions
    a task needs.
    """
    makers = (generation.section, forgetting.section, latency.section, intrinsic.section)
    return [found for make in makers if (found := make(report))]


def _section(section: Section) -> list[RenderableType]:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for number, header in enumerate(section.header):
        header_text = Text(header if number == 0 else header.replace(" ", "\n"))
        table.add_column(header_text, justify="right" if number else "left", vertical="bottom", no_wrap=number > 0)
    for row in section.rows:
        table.add_row(*(Text(cell.replace(" ± ", "±")) for cell in row))
    notes = [Text(note, style="dim") for note in section.notes]
    return [Text(f"\n{section.title}", style="bold"), Padding(table, (1, 0)), *notes]


def interval_note(report: Findings) -> str:
    """What ± and the verdicts mean in this table."""
    kinds = {a.scores[report.metric.name].kind for a in report.arms if report.metric.name in a.scores}
    said = {"seeds": "t-interval over seeds", "items": "over test items where a row has one seed or identical runs"}
    kind = ", ".join(said[k] for k in ("seeds", "items") if k in kinds)
    said_all = f"± 95 % ({kind or 'no interval'})."
    if report.metric.lower_is_better:
        said_all = f"Lower {report.metric.name} is better. {said_all}"
    if medians(report):
        said_all = f"{said_all} Scores of optimistic rows are medians over seeds; differences are of means."
    if not report.comparisons:
        return said_all
    if not any(c.bootstrap for c in report.comparisons.values()):
        return f"{said_all} Δ: difference from full fine-tuning, without an interval: no conclusion."
    margin = report.metric.width(report.margin)
    return f"{said_all} Δ: paired with full fine-tuning; same, worse, better: 90 % interval against ±{margin}."


def markdown(report: Findings) -> str:
    """Headline, table, footnotes and how this was compared."""
    shown = columns(report)
    texts, marks = footnotes(report)
    rest = str(report.headline).removeprefix(report.headline.title)
    lines = [f"**{report.headline.title}**{rest}", ""]
    lines.append(_md_row([column.header for column in shown]))
    lines.append("|" + "|".join(":--" if column.left else "--:" for column in shown) + "|")
    for arm in report.arms:
        cells = [column.cell(report, arm) for column in shown]
        cells[0] += "".join(f" [{n}]" for n in marks[id(arm)])
        lines.append(_md_row(cells))
    lines += ["", *[f"[{i}] {text}  " for i, text in enumerate(texts, 1)], "", interval_note(report), ""]
    said = [*report.notes, *cost_tables.memory_notes(report), *cost_tables.compute_notes(report)]
    said += filter(None, [cost_tables.break_even(report)])
    return "\n".join([*lines, *_md_sections(report), *[f"* {note}" for note in said], ""])


def _md_sections(report: Findings) -> list[str]:
    lines = []
    for section in sections(report):
        rule = "|:--|" + "--:|" * (len(section.header) - 1)
        lines += [f"**{section.title}**", "", _md_row(section.header), rule, *map(_md_row, section.rows), ""]
        lines += [*(f"{note}  " for note in section.notes), ""]
    return lines


def failures(report: Findings) -> list[dict[str, str]]:
    """Runs without a score: name, status, error and where the log is."""
    rows = []
    for arm in report.arms:
        for run in arm.unscored:
            error = ": ".join(str(part) for key in ("type", "message") if (part := dig(run, f"error.{key}")))
            log = str(run.folder / "log") if run.folder else ""
            rows.append({"name": str(run.run.get("name")), "status": run.status, "error": error, "log": log})
    return rows


def _scale(arm: Arm) -> str:
    scale = arm.first("lora.scale")
    return NOTHING if scale is None else f"{scale:.3g}"


def _positive(value: float | None) -> float | None:
    return value or None


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
