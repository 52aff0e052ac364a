"""Headers and rows of what the terminal shows."""

import itertools
from statistics import median
from typing import Any

from rankwise.find.power import LIKELY, Spreads, needs
from rankwise.find.question import Question, middle
from rankwise.find.rates import FIRST, SHORT, ends
from rankwise.find.replay import ALSO, OPEN, OTHER, SAME, Replay
from rankwise.find.simulate import Outcome
from rankwise.metrics import NOTHING, duration

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # headers and rows


def stages(question: Question, rank_s: float | None, reference_s: float | None) -> Table:
    """What would be run, before the first run, and how long it trains, when one run of each side takes so long."""

    def time(form: str, *runs: tuple[float, float]) -> str:
        if rank_s is None or reference_s is None:
            return "unknown"
        return form.format(*(duration(ranks * rank_s + references * reference_s) for ranks, references in runs))

    tried, of_ends, first = len(FIRST), sorted(ends(question)), question.looks[1]
    short, near, reference = SHORT * tried, 3 * len(of_ends), question.reference_name
    spans = ((short + whole + SHORT * near, short + whole) for whole in (2, tried))
    at_ends = f"; {' and '.join(f'rank {rank}' for rank in of_ends)}: 3 each for a third of the steps"
    rates = (
        f"rank {middle(question.ranks)} and {reference}: {tried} learning rates each for a third of the steps, the "
        f"best two whole, more at an edge{at_ends * bool(of_ends)}"
    )
    confirm = (
        f"a rank and {reference}, {' → '.join(map(str, question.looks))} seeds each until decided; then smaller ranks "
        "while they pass, larger when it fails"
    )
    cut = f"rank {question.ranks[-1]} on a seed of its own, cut to every other rank"
    rows = [
        *[("rates", f"{2 * tried + near} short, 4 to {2 * tried} whole", time("{} to {}", *spans), rates)]
        * question.tuned,
        *[("pilot", "1", time("{}", (1, 0)), cut)] * (len(question.ranks) > 1),
        ("confirm", f"{2 * first} or more", time("{} or more", (first, first)), confirm),
    ]
    return ("stage", "runs", "training", "what"), rows


def simulation(outcomes: list[tuple[str, float, int, Outcome]]) -> Table:
    """Every truth: the chances of a wrong and of the right answer, and the number of runs."""
    rows = []
    for name, spread, items, outcome in outcomes:
        shares = (outcome.named_insufficient, outcome.called_worse, outcome.found_smallest, outcome.answered)
        rows.append((name, f"{spread:g}", f"{items:,}", *(f"{100 * s:.1f} %" for s in shares), f"{outcome.runs:.1f}"))
    return ("sufficient", "seed spread", "items", "wrong", "called worse", "smallest", "some", "runs"), rows


_VERDICTS = (SAME, ALSO, OPEN, OTHER)


def replayed(grids: list[Replay]) -> Table:
    """What each grid says, and what ``find`` says from a pilot's guess."""
    rows = []
    for grid in grids:
        verdicts, runs = grid.piloted()
        shares = (_share(verdicts[verdict], verdicts.total()) for verdict in _VERDICTS)
        differs = "" if grid.reported == grid.answer else f" (report: {_rank(grid.reported)})"
        cost = (f"{runs:g}", _share(runs, grid.runs))
        rows.append((grid.family, _rank(grid.answer) + differs, grid.runs, *shares, *cost))
    return ("grid", "its answer", "runs", *_VERDICTS, "runs of find", "share"), rows


def by_guess(grids: list[Replay]) -> Table:
    """The same from every guess, with how many of the grid's own pilots make it."""
    rows = [
        (
            grid.family,
            outcome.guess,
            f"{outcome.pilots} of {sum(t.pilots for t in grid.told)}",
            *(_share(outcome.verdicts[verdict], outcome.verdicts.total()) for verdict in _VERDICTS),
            f"{median(outcome.runs):g}",
        )
        for grid in grids
        for outcome in grid.told
    ]
    return ("grid", "guess", "pilots", *_VERDICTS, "runs"), rows


def power(spread: Spreads, margin: float) -> tuple[str, Table]:
    """What the differences vary by, and what that asks of a study."""
    metric = spread.metric
    text = (
        f"The margin is {metric.margin_of(margin)}. A difference from the reference varies by "
        f"{metric.width(spread.luck)} from seed to seed; with {spread.rows:,} test rows by "
        f"{metric.width(spread.known.over_items)}, however many the seeds, and by {metric.width(spread.known.loose)} "
        "more for each seed."
    )
    if spread.faults:
        text += f" Plan with care, by runs from which nothing may be concluded: {'; '.join(spread.faults)}."
    needed = needs(spread, margin)
    if None in [need.rows for need in needed]:
        text += " Where no number of rows is enough, a wider --margin may be, or more seeds."
    if any(more.gain == need.gain and more.chance < need.chance for need, more in itertools.pairwise(needed)):
        text += " Looks share the error level: where it is rows that lack, more seeds lower the chance."
    rows = [
        (
            f"{need.seeds}",
            "nothing" if not need.gain else metric.width(-need.gain),
            f"{100 * need.chance:.0f} %",
            f"{need.rows:,}" if need.rows else "none is enough",
        )
        for need in needed
    ]
    headers = ("seeds", "the rank loses", f"chance with {spread.rows:,} rows", f"rows for {100 * LIKELY:.0f} %")
    return text, (headers, rows)


def _rank(rank: int | None) -> str:
    return "none" if rank is None else str(rank)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if part else NOTHING
