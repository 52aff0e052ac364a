"""What arms are called: short names that tell them apart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rankwise import methods
from rankwise.identity import OFF, called

if TYPE_CHECKING:
    from rankwise.report.arms import Arm
    from rankwise.tracking.record import Record

_ELSEWHERE = ("targets", "shots")  # settings that a name has at a place of their own


def give_names(arms: list[Arm]) -> None:
    """Give arms short names: method, rank or shots, and whatever else distinguishes arms of the same method here."""
    for what in {kind(arm) for arm in arms}:
        same = [arm for arm in arms if kind(arm) == what]
        varying = [key for key in differing(same) if key != "rank"]
        for arm in same:
            sizes = (("r", arm.rank_had), ("k", arm.settings.get("shots")))
            parts = [what, *(f"{letter}={size}" for letter, size in sizes if size is not None)]
            settings = [(key, arm.settings.get(key, OFF.get(f"method.{key}"))) for key in varying]
            others = [worded(key, value) for key, value in settings if value is not None and key not in _ELSEWHERE]
            arm.name = " ".join([*parts, *others])
            arm.label = f"{arm.name} {arm.settings['targets']}" if "targets" in varying else arm.name


def kind(arm: Arm) -> str:
    """Its method, and which of PEFT's where that is named by its config alone: ``custom boft``."""
    named = arm.settings.get("peft._target_") if arm.method == "custom" else None
    return f"{arm.method} {worded('peft._target_', named)}" if named else arm.method


def name_sources(arms: list[Arm]) -> None:
    """Say of which model an arm is and on which task, where these differ; TF-IDF is of no model."""
    for key, shown, where in (("model", "{1} {0}", "with {1}"), ("task", "{0} on {1}", "{0} on {1}")):
        of = [arm for arm in arms if any(k.startswith(f"{key}.") and "fingerprint" not in k for k, _ in arm.context)]
        names = sources([(arm.runs or arm.unscored)[0] for arm in of], key)
        for arm, name in zip(of, names, strict=True) if len(set(names)) > 1 else ():
            arm.label = shown.format(arm.label, name)
            arm.where = where.format(arm.where, name).strip()


def sources(runs: Sequence[Record], key: str) -> list[str]:
    """What the ``model`` or the ``task`` of each run is called among these."""
    configs = [run.config.get(key) or {} for run in runs]
    pairs = [(str(config.get("name")), config.get("path")) for config in configs]
    names = called(pairs)
    return [names[pair] for pair in pairs]


def tell_apart(arms: list[Arm]) -> None:
    """Name, of an arm that is not comparable, as many of the keys in which it differs as tell it from all that are
    called as it is; first what tells it from most.
    """
    called: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        called[arm.label].append(arm)
    for same in called.values():
        for arm in same:
            others = [one for one in same if one is not arm]
            for key in sorted(arm.differs, key=lambda key: (len(_alike(arm, others, key)), key)):
                if len(rest := _alike(arm, others, key)) < len(others):
                    value = arm.differs[key][0].strip('"')[:24]
                    arm.label += f" {key.rpartition('.')[2]}={value}"
                    others = rest


def _alike(arm: Arm, others: list[Arm], key: str) -> list[Arm]:
    """Those that have an arm's value of a key in which it differs."""
    mine, usual = arm.differs[key]
    return [one for one in others if one.differs.get(key, (usual, ""))[0] == mine]


def differing(arms: list[Arm]) -> list[str]:
    """The settings in which arms differ."""
    keys = sorted({key for arm in arms for key in arm.settings})
    return [key for key in keys if len({json.dumps(arm.settings.get(key)) for arm in arms}) > 1]


def worded(key: str, value: Any) -> str:
    """A setting as names have it: ``α=16``, ``unquantized``, ``gralora_k=2``."""
    if key == "quant":
        return str(value) if value != "none" else "unquantized"
    if key == "peft._target_":
        return methods.peft_class({"_target_": value}).removesuffix("Config").lower()
    return f"{'α' if key == 'alpha' else key.removeprefix('peft.')}=" + (
        json.dumps(value) if isinstance(value, bool) else str(value)
    )
