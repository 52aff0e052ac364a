"""Verdicts as tables of the report: for a terminal and as Markdown."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from rankwise import metrics, paths
from rankwise.claims.judge import NO_RUNS, Verdict, tally
from rankwise.report import formats as fmt
from rankwise.report.columns import Section
from rankwise.report.table import md_table, rendered

_HEADER = ["claim", "published", "ours", "holds if", "verdict", "n", "where", "setting"]
_NARROW = 5  # columns that a terminal has room for
_EXPLAINED = (
    "Ours with its 95 % interval; reproduced where the interval is wholly within the bound, contradicted where wholly "
    "outside, else inconclusive. (proxy): in another setting than the source's, most often a smaller one, where it may "
    "come out otherwise. (identity): true by definition, or a number recomputed with the code that it comes from. What "
    "does not hold is called reproduced by chance in 2.5 % of cases at most, each claim by itself: of many, some are."
)
_N = "n: seeds or timed blocks of the interval."


def table(verdicts: Sequence[Verdict]) -> RenderableType:
    """A table per source, and the tally. Each claim has its id beneath, for ``--only``."""
    parts = [part for section in _sections(verdicts, narrow=True) for part in rendered(section)]
    return Group(*parts, Text(tally(verdicts), style="bold"), *_missing(verdicts), Text(_EXPLAINED, style="dim"))


def markdown(verdicts: Sequence[Verdict], document: dict[str, Any]) -> str:
    """A table per source, with when, where and from which commit it was made."""
    hardware = document["hardware"]
    machine = ", ".join([f"{hardware['cpu']}, {hardware['cores']} cores", *hardware["gpus"]])
    commit = f" at {document['commit'][:10]}" if document["commit"] else ""
    origin = f"Made {document['date'][:10]}{commit} on {machine}, {document['tier']} tier."
    lines = ["# Claims", "", f"**{tally(verdicts)}.**", "", f"{_EXPLAINED} {_N}", "", origin, ""]
    for section in _sections(verdicts):
        lines += [f"## {section.title}", "", *md_table(section.header, section.rows, words=True), ""]
    return "\n".join(lines)


def _missing(verdicts: Sequence[Verdict]) -> list[Text]:
    """The commands that train the studies without a run, one each."""
    lacking = (str(verdict.claim.study) for verdict in verdicts if verdict.reason.startswith(NO_RUNS))
    names, known = dict.fromkeys(study.removeprefix("claims_") for study in lacking), paths.options("experiment/claims")
    given = "; ".join(f"rankwise train experiment=claims/{name if name in known else f'full/{name}'}" for name in names)
    return [Text(f"Studies without a run are trained by {given}")] if names else []


def bound(verdict: Verdict) -> str:
    """``> −2 points``, ``32,000`` or ``5 to 20``."""
    limits, unit = verdict.bound, verdict.claim.unit
    if not limits.closed:
        sign, end = ("<", limits.high) if limits.high < float("inf") else (">", limits.low)
        return f"{sign} {number(end, unit)}"
    low, high = number(limits.low, unit), number(limits.high, unit)
    return low if low == high else f"{low} to {high}"


def number(value: float, unit: str) -> str:
    """A quantity as a reader meets it, in its unit."""
    match unit:
        case "accuracy":
            return metrics.named("accuracy").difference(value) + " points"
        case "share":
            return metrics.signed(f"{100 * value:.3g}") + " %"
        case "count":
            return metrics.signed(f"{value:,.0f}" if value == int(value) else f"{value:,.3g}")
        case "bytes":
            return fmt.si(value, "B")
        case "nats":
            return metrics.named("loss").difference(value) + " nats"
        case "bits":
            return f"{value:.3g} bits"
    return metrics.signed(f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}")


def _ours(verdict: Verdict) -> str:
    """The number with its interval, or why there is none."""
    estimate, unit = verdict.estimate, verdict.claim.unit
    if estimate is None:
        return verdict.reason
    if estimate.low == estimate.high or not math.isfinite(estimate.high - estimate.low):  # of seeds that all agree
        return number(estimate.value, unit)
    return f"{number(estimate.value, unit)} ({number(estimate.low, unit)} to {number(estimate.high, unit)})"


def _sections(verdicts: Sequence[Verdict], narrow: bool = False) -> list[Section]:
    """A table for each source; a narrow one has fewer columns and the ids beneath the claims."""
    header, sections = _HEADER[:_NARROW] if narrow else _HEADER, []
    for source, members in groupby(verdicts, key=lambda verdict: verdict.claim.source.work):
        rows = [_row(verdict, narrow)[: len(header)] for verdict in members]
        sections.append(Section("", source, header, rows, [], words=True))
    return sections


def _row(verdict: Verdict, narrow: bool = False) -> list[str]:
    claim, estimate = verdict.claim, verdict.estimate
    over = str(estimate.n) if estimate and estimate.n > 1 else ""
    setting = [
        claim.proxy or ("computed" if claim.kind == "exact" else ""),
        claim.note,
        estimate.note if estimate else "",
    ]
    text = f"{claim.claim}\n{claim.id}" if narrow else claim.claim
    shown = [_ours(verdict), bound(verdict), verdict.shown, over]
    return [text, claim.published, *shown, claim.source.where, "; ".join(filter(None, setting))]
