"""From a few words in a claim (method, targets, rank) to the one arm of a study that they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rankwise import compare
from rankwise.claims.estimate import NotRun
from rankwise.compare import Replicate
from rankwise.metrics import named
from rankwise.report.arms import Arm, group
from rankwise.report.flags import of_training
from rankwise.tracking.record import FINISHED, Record

Spec = dict[str, Any]

_KEYS = {
    "method": "method.name", "targets": "targets.name", "quant": "quant.name", "rank": "method.rank",
    "alpha": "method.alpha", "budget": "method.budget", "lr": "optim.lr", "n_train": "task.n_train",
}  # fmt: skip


def arm_of(records: Sequence[Record], spec: Spec) -> Arm:
    """The arm that ``spec`` means, at the learning rate that does best on validation data (or at ``spec``'s own).

    Keys are short (``rank``) or dotted (``trainer.batch_size``). Runs that tuned or searched are left out.
    Raises NotRun where no finished run matches, and where several arms do.
    """
    return group(runs_of(records, spec))[0]


def runs_of(records: Sequence[Record], spec: Spec) -> list[Record]:
    """The runs of that one arm, at all its learning rates. Raises NotRun as ``arm_of``."""
    runs = matching(records, spec)
    if not runs:
        raise NotRun(f"no finished run of {words(spec)}")
    if len(arms := group(runs)) > 1:
        one, other = (dict(arm.context) | arm.settings for arm in arms[:2])
        raise NotRun(f"several arms are {words(spec)}: they differ in {_difference(one, other)}")
    return runs


def matching(records: Sequence[Record], spec: Spec) -> list[Record]:
    """Finished runs, no trials among them, whose config has the values of ``spec``."""
    return [
        record for record in records
        if record.status == FINISHED and not record.config.get("purpose")
        and all(_same(_value(record.config, _KEYS.get(key, key)), wanted) for key, wanted in spec.items())
    ]  # fmt: skip


def told(arms: Sequence[Arm], specs: Sequence[Spec]) -> str:
    """What must be known of the arms beside their scores: learning rates, out of how many, and what went wrong."""
    return "; ".join(filter(None, map(_told, arms, specs)))


def _told(arm: Arm, spec: Spec) -> str:
    wrong = of_training(arm, named(str(arm.first("config.task.metric"))))
    at = ""
    if arm.lr is not None and "lr" not in spec:
        tried = len(arm.trials)
        at = f" at learning rate {arm.lr:g}, {'the only one' if tried == 1 else f'the best of {tried}'}"
    return words(spec) + at + (f" ({'; '.join(wrong)})" if wrong else "") if at or wrong else ""


def by_replicate(arms: Sequence[Arm]) -> dict[Replicate, list[Record]]:
    """The runs of all arms, in their order, for each replicate that all of them have.

    Raises NotRun where arms differ in more than what defines them, or share fewer than two replicates: one seed shows
    no spread.
    """
    for arm in arms[1:]:
        if arm.context != arms[0].context:
            differs = _difference(dict(arms[0].context), dict(arm.context))
            raise NotRun(f"arms were not trained alike: {differs}")
    shared = compare.by_replicate([arm.runs for arm in arms])
    if len(shared) < 2:
        raise NotRun(f"{len(shared)} seed{'' if len(shared) == 1 else 's'} shared by all arms; an interval needs two")
    return shared


def names(records: Sequence[Record]) -> tuple[str, ...]:
    """What the runs are called."""
    return tuple(dict.fromkeys(str(record.run.get("name")) for record in records))


def words(spec: Spec) -> str:
    """A spec in words: ``lora qv rank=8``."""
    return " ".join(str(value) if key in ("method", "targets") else f"{key}={value}" for key, value in spec.items())


def _value(config: dict[str, Any], path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=1e-9)
    return str(value) == str(wanted) if value is not None else wanted is None


def _difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The first keys that differ, with both values."""
    keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
    return ", ".join(f"{key} ({here.get(key)} and {there.get(key)})" for key in keys[:3])
