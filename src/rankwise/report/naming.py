"""What arms are called: short names that tell them apart."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from rankwise import methods
from rankwise.identity import OFF, called

if TYPE_CHECKING:
    from rankwise.report.arms import Arm


def give_names(arms: list[Arm]) -> None:
    """Give arms short names: method, rank or shots, and whatever else distinguishes arms of the same method here."""
    for method in {arm.method for arm in arms}:
        same = [arm for arm in arms if arm.method == method]
        varying = [key for key in differing(same) if key != "rank"]
        for arm in same:
            sizes = [(letter, arm.settings.get(key)) for letter, key in (("r", "rank"), ("k", "shots"))]
            parts = [method, *(f"{letter}={size}" for letter, size in sizes if size is not None)]
            settings = {key: arm.settings.get(key, OFF.get(f"method.{key}")) for key in varying}
            others = [worded(key, value) for key, value in settings.items() if key not in ("targets", "shots")]
            arm.name = " ".join([*parts, *others])
            arm.label = f"{arm.name} {arm.settings['targets']}" if "targets" in varying else arm.name


def name_sources(arms: list[Arm]) -> None:
    """Say of which model an arm is and on which task, where these differ; TF-IDF is of no model."""
    for key, shown, where in (("model", "{1} {0}", "with {1}"), ("task", "{0} on {1}", "{0} on {1}")):
        of = [arm for arm in arms if any(k.startswith(f"{key}.") and "fingerprint" not in k for k, _ in arm.context)]
        configs = [(arm.runs or arm.unscored)[0].config.get(key) or {} for arm in of]
        sources = [(str(config.get("name")), config.get("path")) for config in configs]
        names = called(sources)
        for arm, source in zip(of, sources, strict=True) if len(names) > 1 else ():
            arm.label = shown.format(arm.label, names[source])
            arm.where = where.format(arm.where, names[source]).strip()


def tell_apart(arms: list[Arm]) -> None:
    """Name, of arms that are not comparable and called as another, the key of the context that tells most apart."""
    for label, n in Counter(arm.label for arm in arms).items():
        same = [arm for arm in arms if arm.label == label] if n > 1 else []
        keys = {key: len({dict(arm.context).get(key) for arm in same}) for arm in same for key in arm.differs}
        for arm in same if keys else ():
            key = max(sorted(keys), key=lambda key: keys[key])
            value = dict(arm.context).get(key, json.dumps(OFF.get(key))).strip('"')[:24]
            arm.label += f" {key.rpartition('.')[2]}={value}" if arm.differs else ""


def differing(arms: list[Arm]) -> list[str]:
    """The settings in which arms differ."""
    keys = sorted({key for arm in arms for key in arm.settings})
    return [key for key in keys if len({json.dumps(arm.settings.get(key)) for arm in arms}) > 1]


def worded(key: str, value: Any) -> str:
    """A setting as names have it: ``α=16``, ``unquantized``."""
    if key == "quant":
        return str(value) if value != "none" else "unquantized"
    if key == "peft":
        return methods.peft_class(value).removesuffix("Config")
    return {"alpha": "α=", "dropout": "dropout=", "bias": "bias="}.get(key, f"{key}=") + (
        json.dumps(value) if isinstance(value, bool) else str(value)
    )
