"""What is enough: the smallest sufficient rank, by fixed-sequence non-inferiority from the largest rank down."""

import math
from collections import defaultdict
from dataclasses import dataclass, field

from rankwise.methods import size_keys
from rankwise.report.arms import Arm
from rankwise.report.equivalence import ONE_SEED, Comparison, no_reference
from rankwise.report.naming import worded
from rankwise.statistics import Bootstrap

LEVEL = 0.05  # chance of naming an insufficient arm, over all families


@dataclass(frozen=True)
class Step:
    """One arm of the sequence. ``passed`` is None where it was not tested, below the first that did not pass, and where
    it was not judged, of which ``reason`` says why. ``low`` is the one-sided limit of its gain over full fine-tuning.
    """

    arm: Arm
    comparison: Comparison
    passed: bool | None
    low: float | None = None
    reason: str = ""

    @property
    def boot(self) -> Bootstrap | None:
        return self.comparison.bootstrap


@dataclass(frozen=True)
class Sufficiency:
    """One family of sizes (same targets, alpha policy, storage, …), largest first; or one arm that has no size.

    ``answer`` is the smallest sufficient arm or None. ``level`` is that of each one-sided test. ``reason`` says why
    nothing can be concluded: the largest arm could not be tested, or its training or full fine-tuning's is at fault.
    """

    label: str
    margin: float
    level: float
    steps: list[Step] = field(default_factory=list)
    answer: Step | None = None
    reason: str = ""

    @property
    def families(self) -> int:
        """How many there are, itself included: they share the level."""
        return round(LEVEL / self.level)

    @property
    def conclusive(self) -> bool:
        """Whether it names an answer, or shows the largest arm to be worse than the margin allows."""
        gain = self.steps[0].comparison.advantage
        worse = gain is not None and gain.limits(1 - 2 * self.level)[1] < -self.margin
        return not self.reason and (self.answer is not None or worse)

    @property
    def detectable(self) -> tuple[Step, float | None] | None:
        """The largest deficit that would be found with 80 % power among the arms that were tested, at their level, in
        the metric's unit, and whose; None where that is more than the metric allows."""
        tested = [(s, s.comparison.detectable(self.level)) for s in self.steps if s.passed is not None]
        return max(tested, key=lambda pair: math.inf if pair[1] is None else pair[1], default=None)


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
    label = _label(ordered[0])
    steps: list[Step] = []
    going, above = True, ""  # and why what is below was not judged
    for arm in ordered:
        comparison = comparisons[id(arm)]
        low = comparison.advantage.limits(1 - 2 * level)[0] if comparison.advantage else None
        enough = low is not None and low > -margin and arm.may_pass
        unjudged = comparison.reason or ("one shared seed" if low is None else "")
        if going and not enough and not arm.may_fail:
            unjudged = unjudged or arm.unfit
        passed = enough if going and not unjudged else None
        steps.append(Step(arm, comparison, passed, None if unjudged else low, unjudged or above))
        if going and unjudged:
            above = f"{steps[-1].arm.called} above it was not judged"
        going = bool(passed)
    if reason := _not_begun(steps, reference):
        return Sufficiency(label, margin, level, steps, reason=reason)
    answer = next((step for step in reversed(steps) if step.passed), None)
    return Sufficiency(label, margin, level, steps, answer)


def _not_begun(steps: list[Step], reference: Arm) -> str:
    """Why the sequence cannot begin, if so: it does with the largest arm."""
    top = steps[0]
    if reference.unfit:
        return f"no conclusion: {no_reference(reference)}"
    if not any(step.boot for step in steps):
        one_seed = any(step.comparison.verdict == ONE_SEED for step in steps)
        return "no conclusion can be drawn from one seed" if one_seed else f"no conclusion: {top.comparison.reason}"
    how = "cannot be judged" if top.boot else "could not be tested"
    return f"no conclusion: {top.arm.called} {how} ({top.reason})" if top.reason else ""


def _label(arm: Arm) -> str:
    """A family's name: its method, targets and alpha policy, and what else sets it apart in this study."""
    alphas = [f"α={alpha}"] if (alpha := arm.settings.get("alpha")) is not None else []
    known = {arm.method, f"r={arm.rank_had}", *alphas, *(worded(key, arm.settings.get(key)) for key in size_keys())}
    others = [word for word in arm.name.split() if word not in known]
    return " ".join([arm.method, *filter(None, [arm.settings.get("targets")]), *alphas, *others])
