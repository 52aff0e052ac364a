"""The decision: which rank is enough. A pure function from looks to verdict, fixed before the first run.

A rank is *sufficient* when its true gain over the reference is above −margin. Seeds are added in looks; each look tests

    H(r): rank r is worse than the reference by the margin or more.

* Over looks, every hypothesis spends its error level in fixed shares (``Rule.shares``): their sum bounds the chance
  that any look rejects a true one, whatever the looks have in common (Bonferroni).
* Over ranks, two fixed sequences (Maurer, Hothorn and Lehmacher 1995) divide the error level, which is the fallback of
  Wiens and Dmitrienko (2005) with sequences in place of single hypotheses: from the guess down to the smallest rank
  and, only when the guess has failed, from the largest rank down to the guess. A sequence ends at its first rank that
  does not pass. No rank is assumed to be better than a smaller one.

So the chance of naming any insufficient rank is at most ``alpha``, if scores spread normally over seeds. The guess must
come from other data than the looks. A rank is called *worse* by tests of the opposite hypotheses, whose levels, divided
over all ranks and looks, sum to ``alpha`` as well. To give up on a rank as *hopeless* claims nothing and costs nothing.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from rankwise.statistics import over_resamples

ENOUGH, WORSE, HOPELESS, UNDECIDED, OPEN = "enough", "worse", "hopeless", "undecided", "open"
_SHARES = 200  # of a distribution that is averaged over


@dataclass(frozen=True)
class Evidence:
    """A rank's mean gain over the reference after ``seeds`` paired seeds, in the metric's unit; positive is better.

    ``over_seeds`` is the standard error of that mean for the seeds, ``over_items`` for the test items: the part that no
    number of seeds averages out. What items do differently from seed to seed is in the spread over seeds already;
    ``loose`` is that part of one seed's standard deviation. ``units`` is how many test items there are, or clusters of
    them; 0 is many. Runs at fault cannot show that their rank is enough (``sound``), whatever they scored; None: with
    so few seeds they may seem at fault, so that the look says nothing. No difference of the metric is larger than
    ``most``. ``lacking`` is the part of ``over_items`` for items that differ and were not seen: it goes as 1/items.
    """

    seeds: int
    gain: float
    over_seeds: float
    over_items: float
    loose: float = 0.0
    units: int = 0
    sound: bool | None = True
    most: float = math.inf
    lacking: float = 0.0

    def low(self, tail: float) -> float:
        """The lower end of the one-sided interval at level 1 − tail."""
        return max(-self.most, self.gain - self.half(tail))

    def high(self, tail: float) -> float:
        """The upper end of the one-sided interval at level 1 − tail."""
        return min(self.most, self.gain + self.half(tail))

    def half(self, tail: float) -> float:
        """Half an interval: Student's t over seeds and over items, at right angles (Zou and Donner 2008)."""
        if tail <= 0:
            return math.inf
        t, z = _quantiles(tail, self.seeds - 1, self.units)
        return math.hypot(t * self.over_seeds, z * self.over_items)

    def with_size(self, seeds: int, items: float = 1.0) -> "Evidence":
        """What to expect of ``seeds`` seeds in all and ``items`` times as many test items, should the gain stay."""
        of_one = self.seeds * self.over_seeds**2
        loose = min(of_one, self.loose**2)
        over_seeds = math.sqrt((of_one - loose + loose / items) / seeds)
        scale, lacking = math.sqrt(items), self.lacking / items
        over_items = math.hypot(math.sqrt(max(0.0, self.over_items**2 - self.lacking**2)) / scale, lacking)
        later = replace(self, seeds=seeds, over_seeds=over_seeds, over_items=over_items, lacking=lacking)
        return replace(later, loose=self.loose / scale, units=round(self.units * items))


@dataclass(frozen=True)
class Rule:
    """What is settled before the first run. ``ranks`` ascend, ``guess`` is one of them, ``looks`` count seeds."""

    ranks: tuple[int, ...]
    guess: int
    margin: float
    looks: tuple[int, ...] = (2, 3, 5, 8)
    shares: tuple[float, ...] = (0.0, 0.2, 0.4, 0.4)  # of a hypothesis's level, one per look; two seeds prove nothing
    alpha: float = 0.05
    on_guess: float = 0.8  # of alpha for the sequence from the guess down; the rest is for that from the largest rank
    give_up: float = 0.1  # a rank whose chance to pass by the last look is below this is hopeless

    @classmethod
    def of(cls, ranks: tuple[int, ...], guess: int, margin: float, looks: tuple[int, ...]) -> "Rule":
        """The rule for the first of the usual looks, which divide the whole level in the same proportions."""
        shares = cls.shares[: len(looks)]
        return cls(ranks, guess, margin, looks, tuple(share / sum(shares) for share in shares))

    def sequences(self) -> list[tuple[tuple[int, ...], float]]:
        """The sequences of ranks in their order, each with its error level."""
        down = tuple(rank for rank in reversed(self.ranks) if rank <= self.guess)
        above = tuple(rank for rank in reversed(self.ranks) if rank > self.guess)
        if not above:
            return [(down, self.alpha)]
        return [(down, self.on_guess * self.alpha), (above, (1 - self.on_guess) * self.alpha)]

    def level(self, rank: int) -> float:
        """The error level at which ``rank`` is tested for being enough, over all looks."""
        return next(level for ranks, level in self.sequences() if rank in ranks)

    def tail(self, rank: int, seeds: int) -> float:
        """The error level at which ``rank`` is tested at the look after ``seeds`` seeds."""
        return self.shares[self.looks.index(seeds)] * self.level(rank)

    def level_worse(self, rank: int) -> float:
        """The error level at which ``rank`` is called worse: half for the largest rank, which speaks for "no rank"."""
        if len(self.ranks) == 1:
            return self.alpha
        return self.alpha / 2 if rank == self.ranks[-1] else self.alpha / 2 / (len(self.ranks) - 1)


@dataclass(frozen=True)
class Decision:
    """What has been decided: a status for every rank that was looked at, the answer, and what to run next if anything.

    ``answer`` is the smallest rank that is enough. ``following`` is (rank, number of seeds); None when nothing is left.
    """

    status: dict[int, str]
    answer: int | None = None
    following: tuple[int, int] | None = None


def decide(rule: Rule, looks: Mapping[int, Sequence[Evidence]]) -> Decision:
    """The verdict on what was seen: ``looks`` holds for each rank its evidence at the looks so far, in their order."""
    status: dict[int, str] = {}
    for sequence, _ in rule.sequences():
        for rank in sequence:
            seen = looks.get(rank, ())
            status[rank] = judge(rule, rank, seen)
            if status[rank] == OPEN:
                return Decision(status, _smallest(status), (rank, rule.looks[len(seen)]))
            if status[rank] != ENOUGH:
                break
        if _smallest(status) is not None:
            break
    return Decision(status, _smallest(status))


def search(rule: Rule, look: Callable[[int, int], Evidence]) -> tuple[Decision, dict[int, list[Evidence]]]:
    """Look, by rank and number of seeds, until nothing is left; the decision and what was seen."""
    looks: dict[int, list[Evidence]] = {}
    while (decision := decide(rule, looks)).following is not None:
        looks.setdefault(decision.following[0], []).append(look(*decision.following))
    return decision, looks


def spent(looks: Mapping[int, Sequence[Evidence]]) -> int:
    """The runs of all ranks that were looked at and of the reference."""
    seeds = [seen[-1].seeds for seen in looks.values()]
    return sum(seeds) + max(seeds)


def judge(rule: Rule, rank: int, seen: Sequence[Evidence]) -> str:
    """What the looks at one rank say: the first that decides it, or whether another look is worth its runs."""
    for evidence, share in zip(seen, rule.shares, strict=False):
        if evidence.sound is None:
            continue  # what this look could have spent is not spent later
        if evidence.sound and evidence.low(share * rule.level(rank)) > -rule.margin:
            return ENOUGH
        if evidence.high(share * rule.level_worse(rank)) < -rule.margin:
            return WORSE
        if not evidence.sound:
            return HOPELESS
        speaks_for_none = rank == rule.ranks[-1] and not share  # and the next look may call it worse
        going_on = evidence.seeds < (last := rule.looks[-1]) and not speaks_for_none
        if going_on and chance(rule, rank, evidence, last) < rule.give_up:
            return HOPELESS  # more seeds are not worth their runs
    return OPEN if len(seen) < len(rule.looks) else UNDECIDED


def chance(rule: Rule, rank: int, now: Evidence, seeds: int) -> float:
    """The chance that ``rank`` passes with ``seeds`` seeds in all, by what is known now.

    The later mean is predicted from the seeds so far: Student's t around today's mean, with the variance that the seeds
    to come add.
    """
    later = now.with_size(seeds)
    wanted = later.half(rule.tail(rank, seeds)) - rule.margin
    added = now.over_seeds * math.sqrt(max(0.0, 1 - now.seeds / seeds))
    if added == 0:
        return float(now.gain > wanted)
    return float(stats.t.sf((wanted - now.gain) / added, now.seeds - 1))


def power(rule: Rule, rank: int, known: Evidence, seeds: int, items: float = 1.0) -> float:
    """The chance that ``rank`` passes in a new study of so many seeds and test items, whose true gain is ``known``'s.

    The spreads are ``known``'s as well; the new study's own spread over seeds is drawn from its χ² (midpoints of equal
    shares), since a few seeds misjudge it.
    """
    later = known.with_size(seeds, items)
    t, z = _quantiles(rule.tail(rank, seeds), seeds - 1, later.units)
    drawn_m = stats.chi2.ppf((np.arange(_SHARES) + 0.5) / _SHARES, seeds - 1) / (seeds - 1)
    wanted_m = np.hypot(t * later.over_seeds * np.sqrt(drawn_m), z * later.over_items) - rule.margin
    spread = math.hypot(later.over_seeds, later.over_items)
    if spread == 0:
        return float(known.gain > -rule.margin)
    return float(stats.norm.sf((wanted_m - known.gain) / spread).mean())


def _smallest(status: Mapping[int, str]) -> int | None:
    return min((rank for rank, state in status.items() if state == ENOUGH), default=None)


@functools.cache
def _quantiles(tail: float, df: int, units: int) -> tuple[float, float]:
    return float(stats.t.isf(tail, df)), over_resamples(tail, units)
