"""The headline: the smallest sufficient rank, by fixed-sequence non-inferiority from the largest rank down."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from rankwise.report.arms import Arm
from rankwise.report.equivalence import ONE_SEED, Comparison


@dataclass(frozen=True)
class Step:
    """One rank of the sequence. ``passed`` is None below the first failure: it was not tested."""

    arm: Arm
    comparison: Comparison
    passed: bool | None
    share: float  # of bootstrap replicates in which this rank is the answer

    @property
    def rank(self) -> int:
        return int(self.arm.rank or 0)


@dataclass(frozen=True)
class Sufficiency:
    """One family of ranks (same targets, alpha policy, quantization, …), largest first.

    ``answer`` is the smallest sufficient arm or None; ``none_share`` the share of replicates without one.
    ``conclusive`` is False when no rank shares two seeds with full fine-tuning.
    """

    label: str
    margin: float
    steps: list[Step] = field(default_factory=list)
    answer: Step | None = None
    none_share: float = 0.0
    conclusive: bool = True
    reason: str = ""

    @property
    def detectable(self) -> float | None:
        """The largest minimum detectable deficit among the ranks that were tested, in the metric's unit."""
        tested = [s.comparison.bootstrap for s in self.steps if s.passed is not None]
        return max((b.detectable for b in tested if b is not None), default=None)


def smallest_sufficient(arms: list[Arm], comparisons: dict[int, Comparison], margin: float) -> list[Sufficiency]:
    """For every family of ranks the smallest one that is not worse than full fine-tuning by ``margin`` or more.

    Ranks are tested from the largest down, each one-sided at 5 %, and testing stops at the first failure, so that the
    chance of naming any insufficient rank is at most 5 % without further correction (Maurer, Hothorn and Lehmacher
    1995).
    """
    families: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        if arm.rank is not None and id(arm) in comparisons:
            families[arm.family].append(arm)
    return [_sequence(_label(members[0]), members, comparisons, margin) for members in families.values()]


def _sequence(label: str, arms: list[Arm], comparisons: dict[int, Comparison], margin: float) -> Sufficiency:
    ordered = sorted(arms, key=lambda arm: -(arm.rank or 0))
    found = [comparisons[id(arm)] for arm in ordered]
    if not any(c.bootstrap for c in found):
        steps = [Step(arm, c, None, 0.0) for arm, c in zip(ordered, found, strict=True)]
        one_seed = any(c.verdict == ONE_SEED for c in found)
        reason = "no conclusion can be drawn from one seed" if one_seed else found[0].reason
        return Sufficiency(label, margin, steps, conclusive=False, reason=reason)
    shares = _answer_shares(found, margin)
    steps, going = [], True
    for arm, comparison, share in zip(ordered, found, shares[:-1], strict=True):
        passed = _passes(comparison, margin) if going else None
        going = bool(passed)
        steps.append(Step(arm, comparison, passed, share))
    answer = next((step for step in reversed(steps) if step.passed), None)
    return Sufficiency(label, margin, steps, answer, none_share=shares[-1])


def _passes(comparison: Comparison, margin: float) -> bool:
    """Non-inferior: the gain's lower one-sided 5 % bound is above −margin. What could not be compared does not pass."""
    return comparison.advantage is not None and comparison.advantage.low > -margin


def _answer_shares(found: list[Comparison], margin: float) -> list[float]:
    """Share of bootstrap replicates in which each rank would be the answer, and last the share with none.

    A replicate stands for a new study: its difference replaces ours, with the same distance down to the lower bound.
    """
    boots = [c.advantage for c in found]
    size = next(len(b.replicates) for b in boots if b is not None)
    passes = [np.zeros(size, bool) if b is None else b.replicates - (b.estimate - b.low) > -margin for b in boots]
    reached = np.logical_and.accumulate(np.stack(passes), axis=0).sum(0)  # how many of the sequence passed
    counts = np.bincount(reached, minlength=len(found) + 1) / size
    return [float(share) for share in [*counts[1:], counts[0]]]


def _label(arm: Arm) -> str:
    """A family's name: its method, targets and alpha policy, and what else sets it apart in this study."""
    alpha = f"α={arm.settings.get('alpha')}"
    known = {arm.method, f"r={arm.rank}", alpha}
    others = [word for word in arm.name.split() if word not in known]
    return " ".join([arm.method, str(arm.settings.get("targets")), alpha, *others])
