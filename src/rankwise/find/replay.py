"""A complete grid, told as if ``find`` had run it: what it would have said, and with how many of the grid's runs.

Every candidate is tried as the guess, since a pilot may say any. The learning rates are those that the report chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankwise.errors import Refused
from rankwise.find.evidence import gather
from rankwise.find.question import LOOKS
from rankwise.find.rule import Decision, Evidence, Rule, decide
from rankwise.report.arms import Arm
from rankwise.report.report import Report, build


@dataclass(frozen=True)
class Told:
    """What ``find`` says from one guess: the answer, and the runs it took, the pilot and the rates included."""

    guess: int
    answer: int | None
    status: dict[int, str]
    runs: int


@dataclass(frozen=True)
class Replay:
    """One family of ranks of a grid: the grid's own answer and cost, and what ``find`` says from every guess."""

    family: str
    answer: int | None
    runs: int
    told: list[Told]


def replay(paths: Sequence[Path]) -> list[Replay]:
    """Every family of ranks in the studies. Raises Refused without three seeds that all its arms share."""
    report = build(list(paths))
    if report.reference is None:
        raise Refused(f"{paths[0]}: no finished runs of full fine-tuning to compare with")
    found = []
    for family in report.families:
        arms = {int(step.arm.rank): step.arm for step in family.steps if step.arm.rank is not None}
        answer = family.answer.arm.rank if family.answer else None
        if len(arms) > 1:
            found.append(_family(report, report.reference, family.label, arms, answer))
    if not found:
        raise Refused(f"{paths[0]}: no two ranks of one method; a replay needs a grid of them")
    return found


def _family(report: Report, reference: Arm, label: str, arms: dict[int, Arm], answer: int | None) -> Replay:
    seeds = sorted(set.intersection(*(set(arm.replicates()) for arm in [reference, *arms.values()])))
    looks = tuple(k for k in LOOKS if k <= len(seeds))
    if len(looks) < 2:
        raise Refused(f"{label}: {len(seeds)} seeds that all ranks and full fine-tuning share; a replay needs 3")
    rates = max(len(arm.trials) for arm in arms.values())
    told = []
    for guess in sorted(arms):
        rule = Rule.of(tuple(sorted(arms)), guess, report.margin, looks)
        decision, seen = _look(rule, report, reference, arms, seeds)
        count = 1 + 2 * (rates if rates > 1 else 0) + sum(seen.values()) + max(seen.values())
        told.append(Told(guess, decision.answer, decision.status, count))
    grid = len(seeds) * sum(len(arm.trials) for arm in [reference, *arms.values()])
    return Replay(label, answer, grid, told)


def _look(
    rule: Rule, report: Report, reference: Arm, arms: dict[int, Arm], seeds: list[tuple[int, int]]
) -> tuple[Decision, dict[int, int]]:
    """The decision, and how many seeds every rank was looked at with."""
    looks: dict[int, list[Evidence]] = {}
    while (decision := decide(rule, looks)).following is not None:
        rank, k = decision.following
        runs = [dict(zip(arm.replicates(), arm.runs, strict=True)) for arm in (arms[rank], reference)]
        mine, theirs = ([by[seed] for seed in seeds[:k]] for by in runs)
        looks.setdefault(rank, []).append(gather(mine, theirs, report.metric))
    return decision, {rank: seen[-1].seeds for rank, seen in looks.items()}
