"""What training unlearned, by arm: the same questions before and after, on texts that no arm was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rankwise.metrics import METRICS, Metric, named
from rankwise.report.arms import Arm, dig
from rankwise.report.findings import Findings
from rankwise.report.sections import Section
from rankwise.statistics import Interval, interval

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

    @property
    def metric(self) -> Metric:
        """The metric whose unit the answers have."""
        return _METRICS[self.measure]


def forgotten(arm: Arm) -> Forgotten | None:
    """None for an arm whose runs were not asked. Runs that were asked something else than the first are left out."""
    asked = [run for run in arm.runs if dig(run, "metrics.forgetting.measure") in _METRICS]
    if not asked:
        return None
    measure, texts = dig(asked[0], "metrics.forgetting.measure"), dig(asked[0], "config.forgetting.name")
    same = [run for run in asked if dig(run, "config.forgetting.name") == texts]
    parts = {
        part: _over([dig(run, f"metrics.forgetting.{part}") for run in same], -1.0 if turned else 1.0)
        for part, turned in (
            ("before", False), ("after", False), ("difference", measure == "probe"), ("cosines", False),
        )
    }  # fmt: skip
    before, after, amount = parts["before"], parts["after"], parts["difference"]
    if before is None or after is None or amount is None:
        return None
    return Forgotten(str(texts), measure, before, after, amount, parts["cosines"])


def _over(cells: list[Any], sign: float) -> Interval | None:
    """The mean over runs with its interval; None where no run has a finite value."""
    known = [cell for cell in cells if cell and cell.get("value") is not None]
    ses = [cell["se"] for cell in known if cell.get("se") is not None]
    return interval([sign * cell["value"] for cell in known], ses) if known else None


def section(report: Findings) -> Section | None:
    """A row per arm that was asked; None where none was."""
    found = [(arm, each) for arm in report.arms if (each := forgotten(arm))]
    if not found:
        return None
    encoder, several = any(each.cosines for _, each in found), len({each.texts for _, each in found}) > 1
    header = ["arm", *(["texts"] if several else []), "before", "after", "forgetting"]
    rows = [
        [
            arm.label, *([each.texts] if several else []), each.metric.score(each.before.point),
            each.metric.interval(each.after), _amount(each),
            *([named("cosines").interval(each.cosines)] if encoder else []),
        ]
        for arm, each in found
    ]  # fmt: skip
    return Section("forgetting", "Forgetting", header + (["cosines"] if encoder else []), rows, _notes(report))


def _amount(found: Forgotten) -> str:
    """``+0.120 ± 0.010`` nats, or points of a probe."""
    signed = found.metric.difference(found.amount.point)
    return " ± ".join([signed, *found.metric.interval(found.amount).split(" ± ")[1:]])


def _notes(report: Findings) -> list[str]:
    found = [each for arm in report.arms if (each := forgotten(arm))]
    texts = ", ".join(sorted({each.texts for each in found}))
    kept = [f"Asked before and after training, on texts that were not trained on: {texts}. ± 95 % over seeds (one "
            "seed: over texts). Positive: forgot."]  # fmt: skip
    if any(each.measure == "loss" for each in found):
        kept.append("Loss in nats per token; forgetting is after − before.")
    if any(each.measure == "probe" for each in found):
        kept.append(
            "Accuracy in % of a linear probe on frozen features; forgetting is before − after, in points. Cosines: "
            "rank correlation of the cosines of pairs of texts before and after; 1 is an unchanged geometry."
        )
    return kept
