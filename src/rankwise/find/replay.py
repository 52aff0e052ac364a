"""A complete grid, told as if ``find`` had run it: what it would have said, how often, and with how many runs.

``find`` meets the grid's seeds in random orders, from every candidate as the guess. What a pilot would guess is known
from the grid's own runs of the largest rank, each cut as a pilot's is. The report chooses the learning rates.
"""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

from rankwise.compare import Scores, by_replicate
from rankwise.errors import Refused
from rankwise.find.evidence import faults, gather, is_sound
from rankwise.find.pilot import guess_from
from rankwise.find.question import LOOKS
from rankwise.find.rule import Evidence, Rule, search, spent
from rankwise.report.arms import Arm
from rankwise.report.report import Report, build

ORDERS = 100  # random orders of the seeds
SAME, ALSO, OPEN, OTHER = "same", "also enough", "not decided", "other"


@dataclass(frozen=True)
class Told:
    """What ``find`` says from one guess, over orders of the seeds; ``pilots`` of the grid's own make that guess.

    ``verdicts`` count: the grid's answer, another rank that the grid shows to be enough by itself, no rank where the
    grid names one, and a rank that it does not show to be enough. ``runs`` is what each order takes, the pilot and the
    rates included.
    """

    guess: int
    pilots: int
    verdicts: Counter[str]
    runs: list[int]


@dataclass(frozen=True)
class Replay:
    """One family of ranks of a grid: its own answer and cost, every rank by all seeds, and what ``find`` says."""

    family: str  # with its study
    margin: float
    reported: int | None  # by the report, which names no rank whose own training is at fault
    runs: int
    gains: dict[int, Evidence]  # by all seeds
    told: list[Told]

    @property
    def answer(self) -> int | None:
        """The grid's own: the last of the ranks from the largest down of which each is shown to be enough."""
        passed = itertools.takewhile(self.enough.__contains__, sorted(self.gains, reverse=True))
        return min(passed, default=None)

    @property
    def enough(self) -> set[int]:
        """The ranks that all seeds show to be enough, each by itself."""
        return {rank for rank, seen in self.gains.items() if seen.sound and seen.low(0.05) > -self.margin}

    def piloted(self) -> tuple[Counter[str], float]:
        """Verdicts and the median number of runs, over the guesses that a pilot makes."""
        verdicts, runs = Counter[str](), list[int]()
        for outcome in self.told:
            runs += outcome.runs * outcome.pilots
            verdicts.update({verdict: outcome.pilots * n for verdict, n in outcome.verdicts.items()})
        return verdicts, median(runs)


def replay(study: Path) -> list[Replay]:
    """Every family of ranks in a study. Raises Refused where there is nothing to compare with, and without three seeds
    that all its arms share."""
    report = build([study])
    if report.reference is None:
        raise Refused(f"{study}: no finished runs of full fine-tuning to compare with")
    if report.reference.unfit:
        raise Refused(f"{study}: {report.reference.called}'s runs are no reference: {report.reference.unfit}")
    families = [
        (family, {int(step.arm.rank): step.arm for step in family.steps if step.arm.rank is not None})
        for family in report.families
    ]
    if not any(len(arms) > 1 for _, arms in families):
        raise Refused(f"{study}: no two ranks of one method; a replay needs a grid of them")
    return [
        _Grid(report, report.reference, dict(sorted(arms.items()))).told(
            study.name if len(families) == 1 else f"{study.name} {family.label}",
            family.answer.arm.rank if family.answer else None,
        )
        for family, arms in families
        if len(arms) > 1
    ]


class _Grid:
    """The runs of one family, by rank and seed, read once."""

    def __init__(self, report: Report, reference: Arm, arms: dict[int, Arm]):
        self.report, self.arms, self.ranks = report, arms, tuple(arms)
        every = [reference, *arms.values()]
        pairs = by_replicate([arm.runs for arm in every])
        self.seeds = len(pairs)
        if self.seeds < LOOKS[1]:
            reason = f"{self.seeds} seeds that all ranks and {reference.called} share; a replay needs {LOOKS[1]}"
            raise Refused(f"{arms[self.ranks[0]].label}: {reason}")
        self.reference, *self.runs = zip(*pairs.values(), strict=True)
        self.scores = Scores([run for runs in (self.reference, *self.runs) for run in runs], report.metric)
        self.tried = [len(arm.trials) for arm in every]
        self.known: dict[tuple[int, tuple[int, ...]], Evidence] = {}

    def evidence(self, rank: int, seeds: Sequence[int]) -> Evidence:
        """Of a rank against the reference, on some of the shared seeds; at fault where ``confirm`` says so."""
        chosen, runs, metric = tuple(sorted(seeds)), self.runs[self.ranks.index(rank)], self.report.metric
        if (rank, chosen) not in self.known:
            mine, theirs = ([of[seed] for seed in chosen] for of in (runs, self.reference))
            found, (own, against) = gather(mine, theirs, metric, self.scores), faults(mine, theirs, metric, self.scores)
            wrong = [*own, *(f"the reference is {fault}" for fault in against)] if len(chosen) >= LOOKS[1] else []
            self.known[rank, chosen] = replace(found, sound=is_sound(wrong))
        return self.known[rank, chosen]

    @cached_property
    def pilots(self) -> Counter[int]:
        """How often a pilot, which each run of the largest rank might have been, makes which guess."""
        largest = self.arms[self.ranks[-1]].runs
        return Counter(guess_from(run, self.ranks, self.report.margin, self.report.metric).rank for run in largest)

    def told(self, label: str, reported: int | None) -> Replay:
        every = tuple(range(self.seeds))
        looks = tuple(k for k in LOOKS if k <= self.seeds)
        gains = {rank: self.evidence(rank, every) for rank in self.ranks}
        runs = self.seeds * sum(self.tried)
        of_grid = Replay(label, self.report.margin, reported, runs, gains, [])
        orders = [random.Random(number).sample(every, len(every)) for number in range(ORDERS)]
        for guess in self.ranks:
            rule = Rule.of(self.ranks, guess, self.report.margin, looks)
            of_grid.told.append(self._told(rule, orders, of_grid))
        return of_grid

    def _told(self, rule: Rule, orders: Sequence[Sequence[int]], of_grid: Replay) -> Told:
        """What is said from one guess when the seeds come in these orders."""
        tuning = 2 * max(self.tried) if max(self.tried) > 1 else 0
        verdicts, runs = Counter[str](), []
        for order in orders:
            decision, looks = search(rule, lambda rank, k, order=order: self.evidence(rank, order[:k]))  # type: ignore[misc]
            verdicts[_verdict(decision.answer, of_grid.answer, of_grid.enough)] += 1
            runs.append(1 + tuning + spent(looks))
        return Told(rule.guess, self.pilots[rule.guess], verdicts, runs)


def _verdict(named: int | None, answer: int | None, enough: set[int]) -> str:
    if named == answer:
        return SAME
    if named is None:
        return OPEN
    return ALSO if named in enough else OTHER
