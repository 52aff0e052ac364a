"""From a few words in a claim (method, targets, rank) to the arms of a study that they mean, and their runs by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankwise import metrics
from rankwise.claims.claim import Estimate, NotRun, Spec
from rankwise.compare import Scores, by_replicate
from rankwise.errors import plural
from rankwise.report.arms import UNDER_TRAINED, Arm, group
from rankwise.report.flags import TOO_FEW, of_training, unfit
from rankwise.statistics import Floats
from rankwise.tracking.fields import at
from rankwise.tracking.record import FINISHED, Record

_KEYS = {key: f"{key}.name" for key in ("method", "targets", "quant")} | {"lr": "optim.lr", "n_train": "task.n_train"}
_KEYS |= {key: f"method.{key}" for key in ("rank", "alpha", "budget", "init")}


@dataclass(frozen=True)
class Compared:
    """Runs of several arms (A) by seed (S): ``runs_sa`` has a row for each replicate that all arms have."""

    runs_sa: list[list[Record]]
    note: str  # learning rates, out of how many, and what went wrong

    def scores(self, metric: str) -> Floats:
        """The test score of each run, (S, A)."""
        return np.array([[scalar(run, metric) for run in runs] for runs in self.runs_sa])

    def estimate(self, value: float, low: float, high: float) -> Estimate:
        """With the number of seeds, the names of the runs and the note."""
        names = dict.fromkeys(str(run.run.get("name")) for runs in self.runs_sa for run in runs)
        return Estimate(value, low, high, len(self.runs_sa), tuple(names), self.note)


def compared(records: Sequence[Record], specs: Sequence[Spec], tuned: bool = False) -> Compared:
    """The runs of the arms that ``specs`` mean, each at its own learning rate or the one best on validation data.

    Raises NotRun as ``runs_of``; where arms differ in more than what defines them; where they share fewer than two
    replicates, as one seed shows no spread; where rates must be ``tuned`` and the best is an end of its grid; and where
    an arm learned nothing, but for a claim about one learning rate, whose subject that may be: there, where all did.
    """
    arms = [group(runs_of(records, spec))[0] for spec in specs]
    for arm, spec in zip(arms, specs, strict=True):
        if tuned and arm.lr in (min(arm.whole), max(arm.whole)):
            raise NotRun(f"the best learning rate of {words(spec)}, {arm.lr:g}, is the end of its grid")
        if arm.context != arms[0].context:
            raise NotRun(f"arms were not trained alike: {_difference(dict(arms[0].context), dict(arm.context))}")
    runs_sa = list(by_replicate([arm.runs for arm in arms]).values())
    if (n := len(runs_sa)) < 2:
        raise NotRun(f"{plural(n, 'seed')} shared by all arms; an interval needs two")
    failed = [f"{words(spec)}: {why}" for arm, spec in zip(arms, specs, strict=True) if (why := _unlearned(arm))]
    if failed and (len(failed) == len(arms) or not any("lr" in spec for spec in specs)):
        raise NotRun("; ".join(failed))
    return Compared(runs_sa, "; ".join(filter(None, map(_told, arms, specs))))


def runs_of(records: Sequence[Record], spec: Spec) -> list[Record]:
    """The runs of the one arm that ``spec`` means, at all its learning rates.

    Keys are short (``rank``) or dotted (``trainer.batch_size``). Runs that tuned or searched are left out.
    Raises NotRun where no finished run matches, and where several arms do.
    """
    runs = [
        record
        for record in records
        if record.status == FINISHED
        and not record.config.get("stage")
        and all(_same(at(record, f"config.{_KEYS.get(key, key)}"), wanted) for key, wanted in spec.items())
    ]
    if not runs:
        raise NotRun(f"no finished run of {words(spec)}")
    if len(arms := group(runs)) > 1:
        one, other = (dict(arm.context) | arm.settings for arm in arms[:2])
        raise NotRun(f"several arms are {words(spec)}: they differ in {_difference(one, other)}")
    return runs


def scalar(record: Record, metric: str) -> float:
    """A run's test score, or what it forgot: positive where it did. Raises NotRun where the run has none."""
    if metric == "forgetting":
        measure, amount = (at(record, f"metrics.forgetting.{key}") for key in ("measure", "difference.value"))
        value = None if amount is None else -amount if measure == "probe" else amount
    else:
        value = at(record, f"metrics.test.{metric}.value")
    if value is None:
        raise NotRun(f"{record.run.get('name')} has no {metric}")
    return float(value)


def words(spec: Spec) -> str:
    """A spec in words: ``lora qv rank=8``."""
    return " ".join(str(value) if key in ("method", "targets") else f"{key}={value}" for key, value in spec.items())


def _told(arm: Arm, spec: Spec) -> str:
    """What must be known of an arm beside its score: its learning rate, out of how many, and what went wrong."""
    wrong = of_training(arm, metrics.named(str(arm.first("config.task.metric"))))
    at = ""
    if arm.lr is not None and "lr" not in spec:
        tried = len(arm.whole)
        at = f" at learning rate {arm.lr:g}, {'the only one' if tried == 1 else f'the best of {tried}'}"
    return words(spec) + at + (f" ({'; '.join(wrong)})" if wrong else "") if at or wrong else ""


def _unlearned(arm: Arm) -> str:
    """Why an arm says nothing of a claim: it diverged, gives one answer or looks no better than that."""
    metric = metrics.named(str(arm.first("config.task.metric")))
    reasons = unfit(arm, metric, Scores(arm.runs, metric) if metric.weighted else None)
    return next((why for why in reasons if not (why.startswith(UNDER_TRAINED) or why.endswith(TOO_FEW))), "")


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return str(value) == str(wanted) if value is not None else wanted is None


def _difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The first keys that differ, with both values."""
    keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
    return ", ".join(f"{key} ({here.get(key)} and {there.get(key)})" for key in keys[:3])
