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

from rankwise.claims.bounds import CONTRADICTED, INCONCLUSIVE, REPRODUCED
from rankwise.claims.estimate import Estimate
from rankwise.claims.judge import Verdict, tally
from rankwise.report import formats as fmt

_STYLES = {REPRODUCED: "green", CONTRADICTED: "red", INCONCLUSIVE: "yellow"}
_HEADER = ("claim", "published", "ours", "holds if", "verdict")
_EXPLAINED = (
    "Ours with its 95 % interval; reproduced where the interval is wholly within the bound, contradicted where wholly "
    "outside, else inconclusive. (proxy): in a smaller setting than the source's, so that it says nothing of that one."
)


def table(verdicts: Sequence[Verdict]) -> RenderableType:
    """One table, by source, and the tally."""
    shown = Table(box=None, padding=(0, 1), header_style="bold", show_edge=False)
    for column in ("id", *_HEADER):
        shown.add_column(column, overflow="fold", no_wrap=column == "verdict", max_width=None if column == "id" else 44)
    for source, members in groupby(verdicts, key=lambda verdict: verdict.claim.source.work):
        shown.add_row(Text(source, style="bold cyan"))
        for verdict in members:
            style = _STYLES.get(verdict.verdict, "dim")
            what = _ours(verdict) if verdict.estimate else Text(verdict.reason, style="dim")
            shown.add_row(Text(verdict.claim.id, style="dim"), verdict.claim.claim, verdict.claim.published, what,
                          bound(verdict), Text(verdict.shown, style=style))  # fmt: skip
    return Group(shown, "", Text(tally(verdicts), style="bold"), Text(_EXPLAINED, style="dim"))


def markdown(verdicts: Sequence[Verdict], document: dict[str, Any]) -> str:
    """A table per source, with when, where and from which commit it was made."""
    lines = ["# Claims", "", f"**{tally(verdicts)}.**", "", _EXPLAINED, "", _made(document), ""]
    for source, members in groupby(verdicts, key=lambda verdict: verdict.claim.source.work):
        lines += [f"## {source[0].upper()}{source[1:]}", "", f"| {' | '.join((*_HEADER, 'where', 'setting'))} |",
                  "| --- " * (len(_HEADER) + 2) + "|"]  # fmt: skip
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
        tally=tally(verdicts), explained=_EXPLAINED, made=_made(document),
        header=(*_HEADER, "where", "setting"),
        sources=[
            (source, [(verdict.verdict.replace(" ", "-"), verdict.note, _row(verdict)) for verdict in members])
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
            return fmt.difference(value, "accuracy") + " points"
        case "share":
            return f"{100 * value:.3g} %"
        case "count":
            return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
        case "bytes":
            return fmt.si(value, "B")
        case "nats":
            return fmt.difference(value, "loss") + " nats"
        case "bits":
            return f"{value:.3g} bits"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _ours(verdict: Verdict) -> str:
    found, unit = verdict.estimate, verdict.claim.unit
    assert isinstance(found, Estimate)
    if found.low == found.high:
        return number(found.value, unit)
    return f"{number(found.value, unit)} ({number(found.low, unit)} to {number(found.high, unit)})"


def _row(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    ours = _ours(verdict) if verdict.estimate else verdict.reason
    return [claim.claim, claim.published, ours, bound(verdict), verdict.shown, claim.source.where,
            claim.proxy or claim.note or ("computed" if claim.kind == "exact" else ""),]  # fmt: skip


def _made(document: dict[str, Any]) -> str:
    hardware = document["hardware"]
    machine = ", ".join([f"{hardware['cpu']}, {hardware['cores']} cores", *hardware["gpus"]])
    commit = (document["commit"] or "no repository")[:10]
    return f"Made {document['date'][:10]} at {commit} on {machine}, {document['tier']} tier."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _source(name: str) -> str:
    return files("rankwise.claims").joinpath(name).read_text(encoding="utf-8")
