"""What is enough: the smallest sufficient rank, by fixed-sequence non-inferiority from the largest rank down."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from rankwise.report.arms import Arm
from rankwise.report.equivalence import ONE_SEED, UNFIT, Comparison
from rankwise.statistics import Bootstrap

LEVEL = 0.05  # chance of naming an insufficient arm, over all families


@dataclass(frozen=True)
class Step:
    """One arm of the sequence. ``passed`` is None below the first failure: it was not tested. ``low`` is the one-sided
    limit of its gain over full fine-tuning.
    """

    arm: Arm
    comparison: Comparison
    passed: bool | None
    share: float  # of bootstrap replicates in which this arm is the answer
    low: float | None = None

    @property
    def name(self) -> str:
        """``rank 8``, or the arm's name where nothing sizes it."""
        return " ".join(map(str, self.arm.size)) if self.arm.size else self.arm.label

    @property
    def boot(self) -> Bootstrap | None:
        return self.comparison.bootstrap


@dataclass(frozen=True)
class Sufficiency:
    """One family of sizes (same targets, alpha policy, storage, …), largest first; or one arm that has no size.

    ``answer`` is the smallest sufficient arm or None; ``none_share`` the share of replicates without one. ``level`` is
    that of each one-sided test. ``reason`` says why nothing can be concluded: the largest arm could not be tested, or
    its training or full fine-tuning's is at fault.
    """

    label: str
    margin: float
    level: float
    steps: list[Step] = field(default_factory=list)
    answer: Step | None = None
    none_share: float = 0.0
    reason: str = ""

    @property
    def families(self) -> int:
        """How many there are, itself included: they share the level."""
        return round(LEVEL / self.level)

    @property
    def conclusive(self) -> bool:
        """Whether it names an answer, or shows the largest arm to be worse than the margin allows."""
        gain = self.steps[0].comparison.advantage
        return not self.reason and (self.answer is not None or (gain is not None and gain.high < -self.margin))

    @property
    def detectable(self) -> tuple[Step, float] | None:
        """The largest deficit that would be found with 80 % power among the arms that were tested, at their level, in
        the metric's unit, and whose."""
        tested = [(s, boot.detectable(self.level)) for s in self.steps if s.passed is not None and (boot := s.boot)]
        return max(tested, key=lambda pair: pair[1], default=None)

    @property
    def borderline(self) -> bool:
        """Whether a limit that decided lies so near the margin that other bootstrap samples might decide otherwise."""
        return any(
            abs(s.low + self.margin) < 2 * boot.noise(self.level)
            for s in self.steps
            if s.passed is not None and s.low is not None and (boot := s.boot)
        )


def smallest_sufficient(
    arms: list[Arm], reference: Arm, comparisons: dict[int, Comparison], margin: float
) -> list[Sufficiency]:
    """For every family the smallest arm that is at most ``margin`` worse than full fine-tuning.

    Arms are tested from the largest down, and testing stops at the first failure, so that the chance of naming any
    insufficient one is at most the level of a test without further correction (Maurer, Hothorn and Lehmacher 1995). Of
    m families each is tested one-sided at 5 % / m (Bonferroni). Families are of ranks, or, where no arm has a rank, of
    whatever was trained.
    """
    families: dict[str, list[Arm]] = defaultdict(list)
    rivals = [arm for arm in arms if id(arm) in comparisons and not arm.is_baseline]
    for arm in rivals:
        if arm.rank is not None or not any(other.rank is not None for other in rivals):
            families[arm.family].append(arm)
    level = LEVEL / max(1, len(families))
    return [_sequence(members, reference, comparisons, margin, level) for members in families.values()]


def _sequence(
    arms: list[Arm], reference: Arm, comparisons: dict[int, Comparison], margin: float, level: float
) -> Sufficiency:
    ordered = sorted(arms, key=lambda arm: -(arm.size or ("", 0))[1])
    compared = [comparisons[id(arm)] for arm in ordered]
    label = _label(ordered[0])
    if reason := _untested(compared, reference):
        steps = [Step(arm, c, None, 0.0) for arm, c in zip(ordered, compared, strict=True)]
        return Sufficiency(label, margin, level, steps, reason=reason)
    lows = [c.advantage.limits(1 - 2 * level)[0] if c.advantage else None for c in compared]
    tested = [low if arm.may_pass else None for arm, low in zip(ordered, lows, strict=True)]
    shares = _answer_shares(compared, tested, margin)
    steps, going = [], True
    for arm, comparison, low, share in zip(ordered, compared, lows, shares[:-1], strict=True):
        passed = (low is not None and low > -margin and arm.may_pass) if going else None
        going = bool(passed)
        steps.append(Step(arm, comparison, passed, share, low))
    answer = next((step for step in reversed(steps) if step.passed), None)
    return Sufficiency(label, margin, level, steps, answer, shares[-1], _not_begun(steps[0]))


def _untested(compared: list[Comparison], reference: Arm) -> str:
    """Why no arm can be tested, if so."""
    if reference.unfit:
        return f"no conclusion: full fine-tuning's runs are no reference ({reference.unfit})"
    if any(c.bootstrap for c in compared):
        return ""
    one_seed = any(c.verdict == ONE_SEED for c in compared)
    return "no conclusion can be drawn from one seed" if one_seed else compared[0].reason


def _not_begun(top: Step) -> str:
    """Why the sequence cannot begin, if so: it does with the largest arm."""
    if top.comparison.verdict == UNFIT:
        return f"no conclusion: {top.name} cannot be judged ({top.arm.unfit})"
    if not top.boot:
        return f"no conclusion: {top.name} could not be tested ({top.comparison.reason or 'one shared seed'})"
    return ""


def _answer_shares(compared: list[Comparison], lows: list[float | None], margin: float) -> list[float]:
    """Share of bootstrap replicates in which each arm would be the answer, and last the share with none.

    A replicate stands for a new study: its difference replaces ours, with the same distance down to the lower bound.
    """
    size = min(len(c.advantage.means) for c in compared if c.advantage)
    passes = [
        np.zeros(size, bool)
        if c.advantage is None or low is None
        else c.advantage.replicates[:size] - (c.advantage.estimate - low) > -margin
        for c, low in zip(compared, lows, strict=True)
    ]
    reached = np.logical_and.accumulate(np.stack(passes), axis=0).sum(0)  # how many of the sequence passed
    counts = np.bincount(reached, minlength=len(compared) + 1) / size
    return [float(share) for share in [*counts[1:], counts[0]]]


def _label(arm: Arm) -> str:
    """A family's name: its method, targets and alpha policy, and what else sets it apart in this study."""
    alphas = [f"α={alpha}"] if (alpha := arm.settings.get("alpha")) is not None else []
    known = {arm.method, f"r={arm.rank}", *alphas}
    others = [word for word in arm.name.split() if word not in known]
    return " ".join([arm.method, *filter(None, [arm.settings.get("targets")]), *alphas, *others])
