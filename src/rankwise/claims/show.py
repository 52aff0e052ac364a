"""Verdicts as a table for a terminal, as Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rankwise import metrics
from rankwise.claims.claim import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from rankwise.claims.judge import Verdict, tally
from rankwise.report import formats as fmt

_STYLES = {REPRODUCED: "green", CONTRADICTED: "red", INCONCLUSIVE: "yellow"}
_HEADER = ("claim", "published", "ours", "holds if", "verdict")
_MORE = ("n", "where", "setting")  # where there is room
_WIDTHS = (42, 22, 20, 12, 20)  # of a terminal of 120 columns
_EXPLAINED = (
    "Ours with its 95 % interval; reproduced where the interval is wholly within the bound, contradicted where wholly "
    "outside, else inconclusive. (proxy): in another setting than the source's, most often a smaller one, where it may "
    "come out otherwise. (identity): true by definition, or a number recomputed with the code that it comes from."
)
_N = "n: what the interval is over, seeds or timed blocks."


def table(verdicts: Sequence[Verdict]) -> RenderableType:
    """A table per source, and the tally. Each claim has its id beneath, for ``--only``."""
    parts: list[RenderableType] = []
    for source, members in groupby(verdicts, key=lambda verdict: verdict.claim.source.work):
        shown = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title=source, title_style="bold cyan",
                      title_justify="left")  # fmt: skip
        for column, width in zip(_HEADER, _WIDTHS, strict=True):
            shown.add_column(column, width=width, overflow="fold")
        for verdict in members:
            said = Text.assemble(verdict.claim.claim, "\n", (verdict.claim.id, "dim"))
            ours = Text(_ours(verdict), style="" if verdict.estimate else "dim")
            shown.add_row(said, verdict.claim.published, ours, bound(verdict),
                          Text(verdict.shown, style=_STYLES.get(verdict.verdict, "dim")))  # fmt: skip
        parts += [shown, ""]
    return Group(*parts, Text(tally(verdicts), style="bold"), Text(_EXPLAINED, style="dim"))


def markdown(verdicts: Sequence[Verdict], document: dict[str, Any]) -> str:
    """A table per source, with when, where and from which commit it was made."""
    lines = ["# Claims", "", f"**{tally(verdicts)}.**", "", f"{_EXPLAINED} {_N}", "", _made(document), ""]
    header = (*_HEADER, *_MORE)
    for source, members in groupby(verdicts, key=lambda verdict: verdict.claim.source.work):
        lines += [f"## {source[0].upper()}{source[1:]}", "", f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
        lines += [f"| {' | '.join(map(_cell, _row(verdict)))} |" for verdict in members]
        lines.append("")
    return "\n".join(lines)


def html(verdicts: Sequence[Verdict], document: dict[str, Any]) -> str:
    """The same as one page that needs nothing else."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sources = groupby(verdicts, key=lambda verdict: verdict.claim.source.work)
    return environment.get_template("page.html.j2").render(
        tally=tally(verdicts), explained=f"{_EXPLAINED} {_N}", made=_made(document), header=(*_HEADER, *_MORE),
        sources=[
            (source, [(verdict.verdict.replace(" ", "-"), _row(verdict)) for verdict in members])
            for source, members in sources
        ],
    )  # fmt: skip


def bound(verdict: Verdict) -> str:
    """``> −2 points``, ``32,000`` or ``5 to 20``."""
    found, unit = verdict.bound, verdict.claim.unit
    if not found.closed:
        sign, end = ("<", found.high) if found.high < float("inf") else (">", found.low)
        return f"{sign} {number(end, unit)}"
    low, high = number(found.low, unit), number(found.high, unit)
    return low if low == high else f"{low} to {high}"


def number(value: float, unit: str) -> str:
    """A quantity as a reader meets it, in its unit."""
    match unit:
        case "accuracy":
            return metrics.named("accuracy").difference(value) + " points"
        case "share":
            return f"{100 * value:.3g} %"
        case "count":
            return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
        case "bytes":
            return fmt.si(value, "B")
        case "nats":
            return metrics.named("loss").difference(value) + " nats"
        case "bits":
            return f"{value:.3g} bits"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _ours(verdict: Verdict) -> str:
    """The number with its interval, or why there is none."""
    found, unit = verdict.estimate, verdict.claim.unit
    if found is None:
        return verdict.reason
    if found.low == found.high:
        return number(found.value, unit)
    return f"{number(found.value, unit)} ({number(found.low, unit)} to {number(found.high, unit)})"


def _row(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    found = verdict.estimate
    over = str(found.n) if found and found.n > 1 else ""
    setting = [claim.proxy or ("computed" if claim.kind == "exact" else ""), claim.note,
               found.note if found else ""]  # fmt: skip
    return [claim.claim, claim.published, _ours(verdict), bound(verdict), verdict.shown, over, claim.source.where,
            "; ".join(filter(None, setting)),]  # fmt: skip


def _made(document: dict[str, Any]) -> str:
    hardware = document["hardware"]
    machine = ", ".join([f"{hardware['cpu']}, {hardware['cores']} cores", *hardware["gpus"]])
    commit = f" at {document['commit'][:10]}" if document["commit"] else ""
    return f"Made {document['date'][:10]}{commit} on {machine}, {document['tier']} tier."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _source(name: str) -> str:
    return files("rankwise.claims").joinpath(name).read_text(encoding="utf-8")
