"""Studies made up from known truths: how often the decision errs, and what it costs beside the grid.

Mean scores are drawn as sums of normal parts: a seed's luck, what an arm does differently on the test items, and what
it does differently there from seed to seed. The reference has such parts as well, which all ranks share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rankwise.find.question import RANKS
from rankwise.find.rule import ENOUGH, WORSE, Evidence, Rule, search, spent

MOST_SEEDS = 20
_STEADY = _LOOSE = 0.03  # two runs disagree on twice their sum of the items: always, or loosely from seed to seed
_RARE, _LOST = 0.1, 0.25  # the share of seeds in which a rank collapses, and what it then loses
_COLLAPSING = "all collapse in 1 seed of 10"


@dataclass(frozen=True)
class Truth:
    """What a made-up study is drawn from. ``gains`` over the reference by rank, in points as fractions.

    ``spread`` is the standard deviation of one arm's score over seeds, ``items`` the size of the test set; where
    ranks are ``collapsing``, some seeds of each fall far below its others, as much as its gain accounts for.
    """

    gains: Mapping[int, float]
    spread: float
    items: int
    collapsing: bool = False

    def sufficient(self, margin: float) -> set[int]:
        return {rank for rank, gain in self.gains.items() if gain > -margin}


class Study:
    """One drawn study: the evidence of any rank after any number of seeds."""

    def __init__(self, truth: Truth, rng: np.random.Generator):
        arms = len(truth.gains) + 1
        self.truth, self.columns = truth, {rank: i + 1 for i, rank in enumerate(sorted(truth.gains))}
        luck = truth.spread * rng.standard_normal((MOST_SEEDS, arms))
        loose = np.sqrt(_LOOSE / truth.items) * rng.standard_normal((MOST_SEEDS, arms))
        steady = np.sqrt(_STEADY / truth.items) * rng.standard_normal(arms)
        self.scores_sa = luck + loose + steady + np.array([0.0, *(truth.gains[r] for r in self.columns)])
        if truth.collapsing:
            self.scores_sa[:, 1:] += _LOST * (_RARE - (rng.random((MOST_SEEDS, arms - 1)) < _RARE))

    def evidence(self, rank: int, seeds: int) -> Evidence:
        gains = self.scores_sa[:seeds, self.columns[rank]] - self.scores_sa[:seeds, 0]
        over_items = np.sqrt(2 * _STEADY / self.truth.items)
        return Evidence(seeds, float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(seeds)), float(over_items))

    def guess(self, rng: np.random.Generator, margin: float, noise: float) -> int:
        """What a pilot says: the smallest rank whose noisy score is within half the margin of the largest's."""
        noisy = {rank: gain + noise * rng.standard_normal() for rank, gain in self.truth.gains.items()}
        top = noisy[max(noisy)]
        return min(rank for rank, value in noisy.items() if value >= top - margin / 2)


@dataclass(frozen=True)
class Outcome:
    """Shares of studies, with the mean number of runs: reference and ranks, pilot included."""

    named_insufficient: float
    called_worse: float  # a sufficient rank
    found_smallest: float
    answered: float  # named some sufficient rank
    runs: float


def simulate(
    truth: Truth, margin: float, studies: int, seed: int, guess: int | None = None, rule: Callable[..., Rule] = Rule
) -> Outcome:
    """``studies`` drawn studies of one truth; without a ``guess`` each has a pilot's."""
    rng = np.random.default_rng(seed)
    good = truth.sufficient(margin)
    counts, runs = np.zeros(4), 0
    for _ in range(studies):
        study = Study(truth, rng)
        start = guess or study.guess(rng, margin, noise=0.01)
        decision, looks = search(rule(tuple(sorted(truth.gains)), start, margin), study.evidence)
        worse = {rank for rank, state in decision.status.items() if state == WORSE}
        named = {rank for rank, state in decision.status.items() if state == ENOUGH}
        smallest = decision.answer == min(good, default=None)
        counts += [bool(named - good), bool(worse & good), smallest, decision.answer in good]
        runs += 1 + spent(looks)  # with the pilot's
    return Outcome(*(float(total) / studies for total in (*counts, runs)))


def truths(margin: float) -> dict[str, dict[int, float]]:
    """Gains by rank: the first sufficient rank at each candidate, none, at the margin, out of order, and collapses."""
    drawn: dict[str, dict[int, float]] = {}
    for first in (*RANKS, None):
        gains = {r: (-0.005 if first is not None and r >= first else -margin - 0.03) for r in RANKS}
        drawn[f"first {first}" if first else "none"] = gains
    drawn["all at the margin"] = dict.fromkeys(RANKS, -margin)
    drawn["first 8, below at the margin"] = {r: (0.0 if r >= 8 else -margin) for r in RANKS}
    drawn["only 4 and 8"] = {r: (0.0 if r in (4, 8) else -margin) for r in RANKS}
    drawn["every second"] = {r: (0.0 if i % 2 == 0 else -margin) for i, r in enumerate(RANKS)}
    drawn[_COLLAPSING] = dict.fromkeys(RANKS, -_RARE * _LOST)
    return drawn


def table(
    margin: float, studies: int, spreads: Sequence[float], items: Sequence[int]
) -> list[tuple[str, float, int, Outcome]]:
    """Every truth at every spread over seeds and size of the test set."""
    return [
        (name, spread, n, simulate(Truth(gains, spread, n, name == _COLLAPSING), margin, studies, seed=number))
        for number, (name, gains) in enumerate(truths(margin).items())
        for spread in spreads
        for n in items
    ]
