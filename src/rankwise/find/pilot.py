"""The second stage: one run of the largest rank, cut to every candidate, says where to start. No claim rests on it.

ΔW of every layer is cut by SVD to its leading directions and scored on the validation rows, so that the test rows stay
untouched. The guess is the smallest rank that keeps the whole adapter's score within half the margin.
"""

import math
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from rankwise import machine
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.find.question import PILOT, PILOT_SEED, Question, middle
from rankwise.find.rates import Failed, Rates, Runner
from rankwise.forks import fork_server
from rankwise.forks.preload import HEAVY
from rankwise.metrics import Metric
from rankwise.report.flags import is_no_better
from rankwise.tracking.record import FINISHED, Record


@dataclass(frozen=True)
class Guess:
    """The rank to start from, and the validation score of every rank that a cut gives, or ``why`` it gives none."""

    rank: int
    curve: dict[int, float] = field(default_factory=dict)
    why: str = ""


def pilot(question: Question, rates: Rates, run: Runner) -> Guess:
    """What the pilot points to. Raises Failed where it has not finished."""
    if len(question.ranks) == 1:
        return Guess(question.ranks[0])
    # Beside it, what is needed whatever it says: it alone would leave other cores idle.
    beside = [question.run_of(None, seed, rates.of(None)) for seed in range(question.looks[0])]
    record = run([pilot_run(question, rates), *beside], "pilot and reference")[0]
    if record.status != FINISHED:
        raise Failed(record)
    return guess_from(record, question.ranks, question.margin, question.metric, _curve_apart)


def pilot_run(question: Question, rates: Rates) -> Config:
    """The largest rank, on a seed of its own."""
    largest = question.ranks[-1]
    return question.run_of(largest, PILOT_SEED, rates.of(largest), stage=PILOT)


def curve_of(folder: Path, ranks: Sequence[int]) -> dict[int, float] | None:
    """Validation scores of a run's adapter cut to ``ranks``; None where it cannot be cut."""
    from rankwise.adapters.runs import open_adapter  # torch, once there is something to cut
    from rankwise.analysis.truncation import cuts

    try:
        return cuts(open_adapter(folder), ranks, part="validation")
    except Refused:
        return None


def _curve_apart(folder: Path, ranks: Sequence[int]) -> dict[int, float] | None:
    """The same from a fork of a process that has imported all this, which here would take seconds and stay in memory.

    Raises Refused where it is killed.
    """
    try:
        with (
            fork_server.started(HEAVY, fork_server.Signals(), bool(machine.gpus())) as context,
            ProcessPoolExecutor(1, context, _settle) as pool,
        ):
            return pool.submit(curve_of, folder, ranks).result()
    except BrokenProcessPool:
        raise Refused(
            "the process that cuts the pilot's adapter was killed (out of memory?); give the same command again"
        ) from None


def _settle() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    fork_server.end_with_parent()
    torch.set_num_threads(machine.cores())


def guess_from(
    record: Record,
    ranks: Sequence[int],
    margin: float,
    metric: Metric,
    cut: Callable[[Path, Sequence[int]], dict[int, float] | None] = curve_of,
) -> Guess:
    """What a run of the largest of ``ranks`` points to.

    That is the smallest rank whose score is within half the margin of the largest's; the middle rank where the adapter
    cannot be cut to a number, and where it diverged or may be no better than one answer to every text: cuts of what
    learned nothing are all alike.
    """
    if record.compute.get("diverged"):
        return Guess(middle(ranks), why="the pilot diverged")
    if is_no_better(record):
        return Guess(middle(ranks), why="the pilot is not shown to be better than one answer to every text")
    if (curve := cut(record.folder, ranks)) is None:
        return Guess(middle(ranks), why="the pilot's adapter cannot be cut")
    curve = {rank: score for rank, score in curve.items() if math.isfinite(score)}
    if (whole := curve.get(ranks[-1])) is None:
        return Guess(middle(ranks), why="the pilot's score is no number")
    return Guess(min(rank for rank, score in curve.items() if metric.sign * (score - whole) >= -margin / 2), curve)
