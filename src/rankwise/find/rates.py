"""The first stage: a learning rate for the reference and for the method, by successive halving on validation rows.

Both sides have the same rule and the same number of runs. Rates are half a decade apart. All of them train for a third
of the steps, and the best two, with whatever is within a standard error of the second, for all of them. When the best
is at the edge of what was tried, the next rate beyond it is tried in full. The rate that is found at the middle rank is
carried to the others by ``Question.rate_for``, which is checked at the first and the last of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rankwise.compare import preference
from rankwise.config import Config
from rankwise.find.question import TUNE, TUNING_SEED, Question, middle
from rankwise.tracking.record import Record

STEP = 10**0.5
FIRST = (-1, 0, 1, 2)  # steps from the default rate; tuning more often moves a rate up than down
SHORT = 1 / 3  # of the steps, in the first round
EXTENSIONS = 2  # rates beyond the edge, at most

Runner = Callable[[Sequence[Config], str], list[Record]]  # configs and what they are for → their records, in order


class Failed(Exception):
    """A run that the decision needs has failed; its seed is not replaced."""

    def __init__(self, record: Record):
        why = "it diverged" if record.compute.get("diverged") else "no result"
        super().__init__(f"{record.run['name']} {record.status}: {(record.error or {}).get('message', why)}")


@dataclass(frozen=True)
class Tuned:
    """The rate that was chosen for one arm, out of how many, and of how many more beyond the edge of those: as the
    report counts them (``Arm.tried``)."""

    lr: float
    tried: int = 1
    beyond: int = 0
    at_edge: bool = False


@dataclass(frozen=True)
class Rates:
    """What every arm trains with. ``own`` are ranks at which the law that carries the middle rank's rate has failed."""

    question: Question
    reference: Tuned
    middle: Tuned
    own: dict[int, Tuned] = field(default_factory=dict)

    def of(self, rank: int | None) -> float:
        """The learning rate of a rank, or of the reference."""
        if rank is None:
            return self.reference.lr
        if not self.question.tuned:  # what was given is meant for every rank
            return self.middle.lr
        return self.own[rank].lr if rank in self.own else self.question.rate_for(rank, self.middle.lr)


def ends(question: Question) -> set[int]:
    """The first and the last rank, at which three neighbouring rates are tried, unless it is the middle one."""
    return {question.ranks[0], question.ranks[-1]} - {middle(question.ranks)}


def least_runs(question: Question) -> int:
    """Of both sides and the ends, with no near-tie and no rate beyond an edge."""
    return 2 * (len(FIRST) + 2) + 3 * len(ends(question))


def tune(question: Question, run: Runner) -> Rates:
    """The rates of the method and of the reference, and of the first and last rank where their own is another.

    Raises Failed where no run of a side has a score.
    """
    if not question.tuned:
        return Rates(question, Tuned(question.reference.method.lr), Tuned(question.method.method.lr))
    starts = {
        rank: [_rate(base.method.lr, n) for n in FIRST]
        for rank, base in ((middle(question.ranks), question.method), (None, question.reference))
    }
    tuned = _halving(question, starts, run)
    rates = Rates(question, tuned[None], tuned[middle(question.ranks)])
    return Rates(question, rates.reference, rates.middle, _ends(question, rates, run))


def _halving(question: Question, starts: dict[int | None, list[float]], run: Runner) -> dict[int | None, Tuned]:
    short = _scores(question, starts, SHORT, run)
    full = _scores(question, {rank: _best_two(scores) for rank, scores in short.items()}, 1.0, run)
    for _ in range(EXTENSIONS):
        beyond = {rank: [lr] for rank in full if (lr := _beyond(short[rank], full[rank])) is not None}
        for rank, scores in _scores(question, beyond, 1.0, run).items() if beyond else ():
            full[rank] |= scores
    return {rank: _chosen(short[rank], full[rank]) for rank in full}


def _ends(question: Question, rates: Rates, run: Runner) -> dict[int, Tuned]:
    """The first and the last rank, tuned themselves where a neighbour of the carried rate is better there.

    Better is: by more than a standard error of the validation score, after a third of the steps.
    """
    carried = {rank: rates.of(rank) for rank in ends(question)}
    near: dict[int | None, list[float]] = {
        rank: sorted({lr, _rate(lr, -1), _rate(lr, 1)}) for rank, lr in carried.items()
    }
    odd: dict[int | None, list[float]] = {}
    for rank, scores in (_scores(question, near, SHORT, run) if near else {}).items():
        here = scores[carried[rank]]  # type: ignore[index]
        if max(score.value for score in scores.values()) > here.value + here.se:
            odd[rank] = near[rank]
    return {rank: tuned for rank, tuned in (_halving(question, odd, run) if odd else {}).items() if rank is not None}


def _rate(lr: float, steps: int) -> float:
    """``steps`` half decades away, in three digits, so that a rate has one spelling."""
    return float(f"{lr * STEP**steps:.3g}")


@dataclass(frozen=True)
class _Score:
    record: Record
    key: tuple[float, float, float]  # of ``preference``
    se: float

    @property
    def value(self) -> float:
        """The objective, turned so that more is better; minus infinity of a run without one."""
        return self.key[0]


def _scores(
    question: Question, rates: dict[int | None, list[float]], share: float, run: Runner
) -> dict[int | None, dict[float, _Score]]:
    """Objectives of each side's rates."""
    asked = [(rank, lr) for rank, some in rates.items() for lr in some]
    configs = [question.run_of(rank, TUNING_SEED, lr, share, TUNE) for rank, lr in asked]
    scores: dict[int | None, dict[float, _Score]] = {rank: {} for rank in rates}
    for (rank, lr), record in zip(asked, run(configs, "learning-rate"), strict=True):
        scores[rank][lr] = _score(record)
    return scores


def _score(record: Record) -> _Score:
    name = str(record.config["objective"]).removeprefix("val/")
    se = (record.metrics.get("validation") or {}).get(name, {}).get("se") or 0.0
    return _Score(record, preference([record]), float(se))


def _ordered(scores: dict[float, _Score]) -> list[float]:
    """The rates, best first. Raises Failed where no run has a score."""
    ordered = sorted(scores, key=lambda lr: scores[lr].key, reverse=True)
    if scores[ordered[0]].value == float("-inf"):
        raise Failed(scores[ordered[0]].record)
    return ordered


def _best_two(scores: dict[float, _Score]) -> list[float]:
    """The two best rates, and those that are within a standard error of the second."""
    ordered = _ordered(scores)
    second = scores[ordered[min(1, len(ordered) - 1)]]
    near = [lr for lr in ordered[2:] if scores[lr].value > second.value - second.se]
    return sorted([*ordered[:2], *near])


def _beyond(short: dict[float, _Score], full: dict[float, _Score]) -> float | None:
    """The next rate beyond the best one, if that is the lowest or highest of all that were tried."""
    tried, best = short | full, _ordered(full)[0]
    if min(tried) < best < max(tried):
        return None
    return _rate(best, 1 if best == max(tried) else -1)


def _chosen(short: dict[float, _Score], full: dict[float, _Score]) -> Tuned:
    best, tried = _ordered(full)[0], {*short, *full}
    return Tuned(best, len(short), len(tried) - len(short), at_edge=best in (min(tried), max(tried)))
