"""One list of columns, read as a terminal table, Markdown and HTML cells; CSV and JSON hold the raw numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, dig
from rankwise.report.equivalence import MISSING, ONE_SEED
from rankwise.report.findings import Findings
from rankwise.report.statistics import Interval

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE = {"same": "green", "better": "green", "worse": "red"}
_SHORT = {ONE_SEED: "one seed", MISSING: "–"}  # the whole sentence stands beneath the table


@dataclass(frozen=True)
class Column:
    """A header with its unit, and the text of an arm's cell."""

    header: str
    cell: Callable[[Findings, Arm], str]
    left: bool = False


def columns(report: Findings) -> list[Column]:
    """The columns of this report; targets only where they vary."""
    metric = report.metric
    targets = {arm.settings["targets"] for arm in report.arms if "targets" in arm.settings}
    varies = [Column("targets", lambda r, a: str(a.settings.get("targets", fmt.NOTHING)), left=True)]
    unit = " pts" if fmt.in_percent(metric) else ""
    return [
        Column("arm", lambda r, a: a.name, left=True),
        *(varies if len(targets) > 1 else []),
        Column("r/min (in, out)\N{NO-BREAK SPACE}%", lambda r, a: fmt.percent(rank_fraction(a))),
        Column("scale", lambda r, a: _scale(a)),
        Column("lr", lambda r, a: fmt.rate(a.lr)),
        Column("n", lambda r, a: str(len(a.runs))),
        Column(f"{metric}{fmt.unit(metric)}", lambda r, a: _score(a.scores.get(r.metric), r.metric)),
        Column(f"Δ full{unit}", lambda r, a: delta(r, a), left=True),
        Column("adapter params", lambda r, a: fmt.si(_positive(a.first("params.adapter")))),
        Column("head params", lambda r, a: fmt.si(a.first("params.head"))),
        Column("trained %", lambda r, a: fmt.percent(trainable_fraction(a))),
        Column("peak MB", lambda r, a: fmt.megabytes(a.median("memory.train.peak_bytes"))),
        Column("train s", lambda r, a: fmt.seconds(a.median("compute.seconds.train_s"))),
        Column("tokens /s", lambda r, a: fmt.si(a.median("compute.tokens_per_s"))),
        Column("adapter MB", lambda r, a: fmt.megabytes(a.median("storage.adapter_bytes"))),
    ]


def rank_fraction(arm: Arm) -> float | None:
    """r / min(in, out) of the narrowest adapted matrix: what makes ranks comparable between model widths."""
    side = arm.first("lora.min_side")
    return arm.rank / side if arm.rank and side else None


def trainable_fraction(arm: Arm) -> float | None:
    """Trainable of all parameters; None for a baseline, which has no model to train a part of."""
    trainable, total = arm.first("params.trainable"), arm.first("params.total")
    return trainable / total if trainable is not None and total and not arm.is_baseline else None


def delta(report: Findings, arm: Arm) -> str:
    """The difference from full fine-tuning and its verdict: ``−0.4 same``."""
    if arm is report.reference:
        return "reference"
    comparison = report.comparison(arm)
    if comparison is None or comparison.estimate is None:
        return fmt.NOTHING
    said = _SHORT.get(comparison.verdict, comparison.verdict)
    return f"{fmt.difference(comparison.estimate, report.metric)} {said}"


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
    shown = columns(report)
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
    return Group(title, *details, Padding(table, (1, 0)), *notes, Text(interval_note(report), style="dim"))


def interval_note(report: Findings) -> str:
    """What ± and the verdicts mean in this table."""
    kinds = {a.scores[report.metric].kind for a in report.arms if report.metric in a.scores}
    said = {"seeds": "t-interval over seeds", "items": "over test items where a row has one seed or identical runs"}
    kind = ", ".join(said[k] for k in ("seeds", "items") if k in kinds)
    said_all = f"± 95 % ({kind or 'no interval'})."
    if not report.comparisons:
        return said_all
    if not any(c.bootstrap for c in report.comparisons.values()):
        return f"{said_all} Δ: difference from full fine-tuning, without an interval: no conclusion."
    margin = fmt.width(report.margin, report.metric)
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
    return "\n".join([*lines, *[f"* {note}" for note in report.notes], ""])


def csv_text(report: Findings) -> str:
    """Raw numbers, one line per arm; empty where unknown."""
    out = io.StringIO()
    rows = [_raw(report, arm) for arm in report.arms]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def document(report: Findings) -> dict[str, Any]:
    """The JSON document."""
    found = {
        "headline": str(report.headline),
        "notes": report.notes,
        "arms": [_arm(report, arm) for arm in report.arms],
        "sufficiency": [
            {
                "family": f.label, "margin": f.margin, "rank": f.answer.rank if f.answer else None,
                "conclusive": f.conclusive, "none_share": f.none_share, "detectable": f.detectable,
                "steps": [{"rank": s.rank, "passed": s.passed, "share": s.share} for s in f.steps],
            }
            for f in report.families
        ],
        "runs": [record.to_dict() for record in report.records],
    }  # fmt: skip
    return _finite(found)


def _arm(report: Findings, arm: Arm) -> dict[str, Any]:
    comparison = report.comparison(arm)
    said = comparison.verdict if comparison else None
    params = {key: arm.first(f"params.{key}") for key in ("trainable", "frozen", "total", "adapter", "head")}
    compute = {key: arm.first(f"compute.{key}") for key in ("precision", "device", "steps")}
    compute |= {"tokens_per_s": arm.median("compute.tokens_per_s"), "train_s": arm.median("compute.seconds.train_s")}
    keys = sorted({key for run in arm.runs for key in run.memory.get("train") or {}})
    held = {key: (arm.median if key.endswith("_bytes") else arm.first)(f"memory.train.{key}") for key in keys}
    return {
        "label": arm.label, "method": arm.method, "rank": arm.rank, "rank_fraction": rank_fraction(arm),
        "alpha": arm.settings.get("alpha"), "scale": arm.first("lora.scale"), "targets": arm.settings.get("targets"),
        "quant": arm.settings.get("quant"), "lr": arm.lr, "n": len(arm.runs),
        "scores": {name: _interval(found) for name, found in arm.scores.items()},
        "params": params, "memory": {"train": held}, "compute": compute,
        "storage": {"adapter_bytes": arm.median("storage.adapter_bytes")},
        "reference": arm is report.reference, "comparable": arm.comparable,
        "differs": {key: {"here": here, "reference": there} for key, (here, there) in arm.differs.items()},
        "same_as_full": {"same": True, "worse": False, "better": False}.get(said or ""),
        "comparison": _compared(report, arm),
        "trials": [asdict(trial) for trial in arm.trials],
        "unscored": [{"name": run.run.get("name"), "status": run.status} for run in arm.unscored],
        "flags": arm.flags,
    }  # fmt: skip


def _compared(report: Findings, arm: Arm) -> dict[str, Any] | None:
    c = report.comparison(arm)
    if c is None:
        return None
    boot = c.bootstrap
    return {
        "metric": report.metric, "verdict": c.verdict, "reason": c.reason, "margin": c.margin,
        "difference": c.estimate, "se": boot and boot.se, "low": boot and boot.low, "high": boot and boot.high,
        "level": 0.9, "p": boot and boot.p, "p_holm": c.p_holm, "detectable": boot and boot.detectable,
        "seeds": c.seeds, "items": c.items,
    }  # fmt: skip


def _interval(found: Interval) -> dict[str, Any]:
    return asdict(found)


def _raw(report: Findings, arm: Arm) -> dict[str, Any]:
    """An arm's CSV line."""
    found, compared = arm.scores.get(report.metric), _compared(report, arm) or {}
    line: dict[str, Any] = {key: arm.settings.get(key) for key in ("rank", "alpha", "targets", "quant")}
    line = {"method": arm.method, **line}
    line |= {"rank_fraction": rank_fraction(arm), "scale": arm.first("lora.scale"), "lr": arm.lr, "n": len(arm.runs)}
    line["metric"] = report.metric
    line |= {f"test_{key}": getattr(found, key, None) for key in ("mean", "se", "low", "high")}
    line["test_interval"] = found and found.kind
    line |= {f"difference_{key}": compared.get(key) for key in ("se", "low", "high", "p_holm")}
    line |= {"difference": compared.get("difference"), "verdict": compared.get("verdict")}
    line |= {f"{key}_params": arm.first(f"params.{key}") for key in ("trainable", "total", "adapter", "head")}
    line["train_peak_bytes"] = arm.median("memory.train.peak_bytes")
    line["train_s"], line["tokens_per_s"] = arm.median("compute.seconds.train_s"), arm.median("compute.tokens_per_s")
    line |= {"adapter_bytes": arm.median("storage.adapter_bytes"), "comparable": arm.comparable}
    line["flags"] = "; ".join(arm.flags)
    return {key: "" if value is None or value != value else value for key, value in line.items()}


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
    return fmt.NOTHING if scale is None else f"{scale:.3g}"


def _score(found: Interval | None, metric: str) -> str:
    if found is None:
        return fmt.NOTHING
    half = f" ± {fmt.score(found.half, metric)}" if math.isfinite(found.half) else ""
    return fmt.score(found.mean, metric) + half


def _positive(value: float | None) -> float | None:
    return value or None


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
