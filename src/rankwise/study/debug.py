"""A ``debug=`` preset beside an experiment: what the preset settles is not the experiment's to say.

It settles the keys that it gives and, as a whole, the groups of which it chooses the option: Hydra alone would merge
the experiment's values into those. What is typed wins over both.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from omegaconf import OmegaConf

from rankwise.config import flat, known_keys
from rankwise.errors import Refused
from rankwise.study.compose import explained, hydra_tree, load, option, override

_TINY = {"method.rank": 32, "method.budget": 2048}  # the most that the tiny model can have, of any targets
_LAYERS = re.compile(r"((attention\.)?self\.)?(query|key|value)|((attention\.)?output\.|intermediate\.)?dense")
_ROLES = {"q": "query", "k": "key", "v": "value"}  # by how other models' names of them begin


def settled(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, and those by which its preset wins over the values of its experiment."""
    typed = dict(word.split("=", 1) for word in arguments if "=" in word and not word.startswith("-"))
    if not {"experiment", "debug"} <= typed.keys():
        return list(arguments)
    words = [f"{k}={v}" for k, v in typed.items() if k.startswith("hydra/") or not (k.startswith("hydra.") or "," in v)]
    more = list[str]()
    with contextlib.suppress(Refused), explained(words), hydra_tree():  # it is refused when the study is composed
        whole, alone = load(words), load([word for word in words if not word.startswith("experiment=")])
        preset = _Preset(typed["debug"], typed)
        for key in (key for key, (kind, _) in known_keys().items() if not is_dataclass(kind)):
            word = override(key, OmegaConf.select(whole, key))
            ours = override(key, OmegaConf.select(alone, key)) if preset.settles(key) else preset.fit(word)
            more += [ours] * (ours != word)
    return [*arguments, *more]


def fitted(rows: Iterable[list[str]], arguments: Iterable[str], choices: Mapping[str, Any]) -> list[list[str]]:
    """Rows of overrides as the preset lets them be, as far as they come from an experiment's axes."""
    if not (choices.get("experiment") and choices.get("debug")):
        return list(rows)
    preset = _Preset(choices["debug"], {word.partition("=")[0] for word in arguments})
    return [[preset.fit(word) for word in row if not preset.settles(word.partition("=")[0])] for row in rows]


class _Preset:
    """What a preset settles of what is not typed; where it chooses the tiny model, also how large an adapter can be."""

    def __init__(self, name: str, typed: Collection[str]) -> None:
        file, self.typed = option(f"debug/{name}"), typed
        groups = {str(part.group).strip("/") for part in file.defaults_list if getattr(part, "override", False)}
        self.own = {*flat(OmegaConf.to_container(file.config)), *groups}  # type: ignore[arg-type]
        self.is_tiny = "model" in groups - {*typed}

    def settles(self, key: str) -> bool:
        return key not in self.typed and not self.own.isdisjoint((key, key.partition(".")[0]))

    def fit(self, word: str) -> str:
        key, _, value = word.partition("=")
        if key in self.typed or value == "null" or not self.is_tiny:
            return word
        if key == "targets.modules":
            return f"{key}=" + re.sub(r"[\w.]+", lambda name: _layer(name[0]), value)
        return f"{key}={min(int(value), _TINY[key])}" if key in _TINY and value.isdecimal() else word


def _layer(name: str) -> str:
    """A layer of the tiny model: the one of this name, or else of its role."""
    return name if _LAYERS.fullmatch(name) else _ROLES.get(name.rpartition(".")[2][:1], "dense")
