"""What training unlearned, by arm: the same questions before and after, on texts that no arm was trained on."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from rankwise.metrics import METRICS, Metric
from rankwise.report.arms import Arm, covered, over_runs
from rankwise.statistics import Interval
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record

_METRICS = {"loss": METRICS["loss"], "probe": METRICS["accuracy"]}  # what the answers of each measure are shown as


@dataclass(frozen=True)
class Forgotten:
    """An arm's answers over its runs. ``amount`` is positive where it forgot: of a loss after − before, of the
    accuracy of a probe before − after. ``cosines`` correlate those of pairs of texts before and after (an encoder).
    """

    texts: str
    measure: str  # loss | probe
    before: Interval
    after: Interval
    amount: Interval
    cosines: Interval | None
    others: int  # runs that were asked on other texts, which are left out

    @property
    def metric(self) -> Metric:
        """The metric whose unit the answers have."""
        return _METRICS[self.measure]

    @property
    def shown(self) -> str:
        """``+0.120 ± 0.010`` nats, or points of a probe."""
        return self.metric.gap(self.amount.point, self.amount.half)

    def document(self) -> dict[str, Any]:
        """The amount, with the answers before and after."""
        answers = {"before": asdict(self.before), "after": asdict(self.after)}
        cosines = self.cosines and asdict(self.cosines)
        return asdict(self.amount) | {"measure": self.measure, "texts": self.texts, "cosines": cosines} | answers


def forgotten(arm: Arm) -> Forgotten | None:
    """None for an arm whose runs were not asked. Runs that were asked something else than most are left out."""
    asked: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in arm.runs:
        if (measured := at(run, "metrics.forgetting.measure")) in _METRICS:
            asked[measured, str(at(run, "config.forgetting.name"))].append(run)
    if not asked:
        return None
    measure, texts = max(asked, key=lambda question: len(asked[question]))
    same = asked.pop((measure, texts))

    def over(part: str, sign: float = 1.0) -> Interval | None:
        return over_runs(((run, at(run, f"metrics.forgetting.{part}")) for run in same), sign)

    before, after, amount = over("before"), over("after"), over("difference", -1.0 if measure == "probe" else 1.0)
    if before is None or after is None or amount is None:
        return None
    return Forgotten(texts, measure, before, after, amount, over("cosines"), sum(map(len, asked.values())))


def notes(arms: list[Arm]) -> list[str]:
    """What was asked, and what the numbers mean."""
    losses = [loss for arm in arms if (loss := forgotten(arm))]
    texts, measures = ", ".join(sorted({loss.texts for loss in losses})), {loss.measure for loss in losses}
    asked = "Asked before and after training, on texts that were not trained on"
    lines = [f"{asked}: {texts}. {covered((loss.amount for loss in losses), 'texts')}. Positive: forgot."]
    if "loss" in measures:
        lines.append("Loss in nats per token; forgetting is after − before.")
    if "probe" in measures:
        lines.append(
            "Accuracy in % of a linear probe on frozen features; forgetting is before − after, in points. Cosines: "
            "rank correlation of the cosines of pairs of texts before and after; 1 is an unchanged geometry."
        )
    return lines
