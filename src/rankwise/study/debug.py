"""A ``debug=`` preset beside an experiment: what the preset settles is not the experiment's to say."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rankwise.check import width
from rankwise.config import flat, known_keys
from rankwise.errors import Refused
from rankwise.study.compose import explained, hydra_tree, load, option, override

_BUDGET = 2048  # parameters of adapters, which any targets of the tiny model can have


def settled(arguments: Sequence[str], axes: bool = True) -> list[str]:
    """The words of a command line, and those by which a debug preset wins over the values and axes of an experiment.

    A preset settles the keys that it gives, and groups of which it chooses the option as a whole. Where that is a
    model, what the experiment sizes or names by another is made to fit. What is typed wins over both. Without ``axes``
    those of the experiment are left alone, as by a single run.
    """
    typed = dict(word.split("=", 1) for word in arguments if "=" in word and not word.startswith("-"))
    if not {"experiment", "debug"} <= typed.keys():
        return list(arguments)
    words = [f"{key}={value}" for key, value in typed.items() if key.startswith("hydra") or "," not in value]
    # What is wrong is said when the study is composed.
    with contextlib.suppress(Refused), explained(words), hydra_tree():
        if (preset := option(f"debug/{typed['debug']}")) is None:
            return list(arguments)
        groups = {str(part.group).strip("/") for part in preset.defaults_list if getattr(part, "override", False)}
        whole, alone = load(words), load([word for word in words if not word.startswith("experiment=")])
        sizes = {"method.rank": width(alone.model.shape), "method.budget": _BUDGET} if "model" in groups else {}
        more = _more(whole, alone, {*flat(OmegaConf.to_container(preset.config)), *groups}, sizes)  # type: ignore[arg-type]
        left_alone = ("hydra",) if not axes or "hydra.mode" in typed else ()
        return [
            *arguments,
            *(word for key, word in more.items() if key not in typed and not key.startswith(left_alone)),
        ]
    return list(arguments)


def _more(whole: DictConfig, alone: DictConfig, own: set[str], sizes: dict[str, Any]) -> dict[str, str]:
    """What is to be said otherwise, by key, of what is composed with the experiment and without it."""

    def is_own(key: str) -> bool:
        return key in own or key.partition(".")[0] in own

    def fit(key: str, value: Any) -> Any:
        if sizes and key == "targets.modules" and value is not None:
            return ["query", "value"]
        most = sizes.get(key)
        if isinstance(value, str) and most:  # an axis
            return re.sub(r"\d+", lambda number: str(min(int(number[0]), most)), value)
        return min(value, most) if value is not None and most else value

    more = {}
    for key, (kind, _) in known_keys().items():
        value = OmegaConf.select(whole, key)
        ours = OmegaConf.select(alone, key) if is_own(key) else fit(key, value)
        if not is_dataclass(kind) and ours != value:
            more[key] = override(key, ours)
    sweeper: Any
    sweeper, choices = OmegaConf.to_container(whole.hydra.sweeper), alone.hydra.runtime.choices
    axes, pairs = sweeper.get("params") or {}, sweeper.get("pairs") or []
    fitted = {
        key: choices.get(key, OmegaConf.select(alone, key)) if is_own(key) else fit(key, axis)
        for key, axis in axes.items()
    }
    fitted_pairs = [
        {key: [fit(key, value) for value in values] for key, values in group.items() if not is_own(key)}
        for group in pairs
    ]
    for key, old, new in (("params", axes, fitted), ("pairs", pairs, [*filter(None, fitted_pairs)])):
        if new != old:
            more[f"hydra.sweeper.{key}"] = override(f"hydra.sweeper.{key}", new)
    return more
