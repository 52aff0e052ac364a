"""The answer, the stages to come and the simulation, as the terminal shows them; the answer as one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rankwise.find.answer import Answer
from rankwise.find.question import Question
from rankwise.find.rates import FIRST
from rankwise.find.replay import Replay
from rankwise.find.simulate import Outcome
from rankwise.find.story import Findings
from rankwise.metrics import NOTHING, signed

_STYLE = {"enough": "green", "worse": "red"}


def document(findings: Findings, told: Answer) -> dict[str, Any]:
    """All that was found, for ``--json`` and for the report."""
    question = findings.question
    return {
        "sentence": told.sentence,
        "rank": told.rank,
        "decided": told.decided,
        "margin": question.margin,
        "metric": question.metric.name,
        "reference": question.reference_name,
        "ranks": told.rows,
        "notes": told.notes,
        "cost": told.cost,
        "rule": asdict(findings.rule) if findings.rule else None,
    }


def render(findings: Findings, told: Answer) -> RenderableType:
    """The sentence, a table of the ranks, and what qualifies them; fits 80 columns."""
    metric = findings.question.metric
    unit = "points" if metric.percent else metric.name
    table = _table("rank", "", f"gain, {unit}", "90 %", "seeds", "pilot", "lr", "trained", "peak MB")
    for row in told.rows:
        gain = _gain(row["gain"], metric.factor, metric.percent)
        limits = [_gain(row[end], metric.factor, metric.percent) for end in ("low", "high")]
        table.add_row(
            str(row["rank"]),
            Text(row["verdict"], style=_STYLE.get(row["verdict"], "dim")),
            gain,
            f"[{limits[0]}, {limits[1]}]" if row["gain"] is not None else NOTHING,
            str(row["seeds"] or NOTHING),
            metric.score(row["pilot"]),
            f"{row['lr']:.3g}" if row["lr"] else NOTHING,
            f"{row['trainable']:,.0f}" if row["trainable"] else NOTHING,
            f"{row['peak_bytes'] / 1e6:,.0f}" if row["peak_bytes"] else NOTHING,
        )
    notes = [Text(note, style="dim") for note in told.notes]
    return Group(Text(told.sentence, style="bold"), Padding(table, (1, 0)), *notes)


def _gain(value: float | None, factor: float, percent: bool) -> str:
    return NOTHING if value is None else signed(f"{factor * value:+.{1 if percent else 3}f}")


def stages(question: Question) -> RenderableType:
    """What would be run, before the first run."""
    table = _table("stage", "runs", "what", left=3)
    if question.tuned:
        short, sides = len(FIRST), 2
        table.add_row(
            "rates", f"{sides * short} short, {sides * 2} to {sides * 4} whole",
            f"rank {question.middle} and {question.reference_name}: {short} learning rates each for a third of the "
            "steps, the best two whole, more at an edge; the first and last rank for a third of the steps",
        )  # fmt: skip
    if len(question.ranks) > 1:
        table.add_row("pilot", "1", f"rank {question.ranks[-1]} on a seed of its own, cut to every other rank")
    looks = " → ".join(map(str, question.looks))
    table.add_row("confirm", f"{2 * question.looks[1]} or more", f"a rank and {question.reference_name}, {looks} seeds "
                  "each until decided; then smaller ranks while they pass, larger when it fails")  # fmt: skip
    return table


def simulation(rows: list[tuple[str, float, int, Outcome]]) -> RenderableType:
    """Every truth: the chances of a wrong and of the right answer, and the number of runs."""
    table = _table("sufficient", "seed spread", "items", "wrong", "called worse", "smallest", "some", "runs")
    for name, spread, items, outcome in rows:
        shares = (outcome.named_insufficient, outcome.called_worse, outcome.found_smallest, outcome.answered)
        table.add_row(name, f"{spread:g}", f"{items:,}", *(f"{100 * s:.1f} %" for s in shares), f"{outcome.runs:.1f}")
    return table


def replayed(families: list[Replay]) -> RenderableType:
    """What would have been said of each family from every guess, beside the grid's own answer."""
    table = _table("family", "grid says", "runs", "from rank", "find says", "runs", "share")
    for family in families:
        for number, told in enumerate(family.told):
            first = [family.family, _rank(family.answer), str(family.runs)] if number == 0 else [""] * 3
            share = f"{100 * told.runs / family.runs:.0f} %"
            table.add_row(*first, str(told.guess), _rank(told.answer), str(told.runs), share)
    return table


def _rank(rank: int | None) -> str:
    return "none" if rank is None else str(rank)


def _table(*headers: str, left: int = 1) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number < left else "right")
    return table
