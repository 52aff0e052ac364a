"""The axes of a study beyond a plain product: pairs that are walked together, combinations to leave out."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from rankwise.config import Config, known_keys
from rankwise.errors import Refused
from rankwise.study.compose import override
from rankwise.synonyms import near_key

Row = list[str]  # override strings of one combination


def paired(pairs: Sequence[Mapping[str, Sequence[Any]]]) -> list[Row]:
    """Every combination of the groups of pairs, as override strings: inside a group, the n-th value of each axis goes
    with the n-th of the others. Raises Refused for axes of different lengths.
    """
    groups, keys = [], set[str]()
    for group in pairs:
        for key, values in group.items():
            if key in keys:
                raise Refused(f"hydra.sweeper.pairs: {key}: in two groups, which would be crossed; leave one out")
            keys.add(key)
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise Refused(f"hydra.sweeper.pairs: {key}: {values}: a list of values, as {key}: [{values or 1}]")
        lengths = {key: len(list(values)) for key, values in group.items()}
        if len(set(lengths.values())) != 1:
            shown = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise Refused(f"hydra.sweeper.pairs: axes that are walked together are equally long; {shown}")
        groups.append(
            [
                [override(key, value) for key, value in zip(group, values, strict=True)]
                for values in zip(*group.values(), strict=True)
            ]
        )
    return [list(itertools.chain(*rows)) for rows in itertools.product(*groups)]


def excluded(config: Config, conditions: dict[str, bool], choices: Mapping[str, str | None]) -> bool:
    """Whether all parts of a condition hold: ``"method=full quant=nf4|int8"``; it is then true of any run. A group
    stands for the option that was chosen of it (``choices``), or for its ``name``.

    Raises Refused for a condition that is none, or a key that does not exist.
    """
    held = [one for one in conditions if all(_holds(config, part, one, choices) for part in one.split())]
    conditions.update(dict.fromkeys(held, True))
    return bool(held)


def _holds(config: Config, part: str, condition: str, choices: Mapping[str, str | None]) -> bool:
    key, equals, values = part.partition("=")
    if not equals or key not in known_keys():
        near = near_key(key, known_keys())
        raise Refused(f"hydra.sweeper.exclude: {condition}: {part} is not KEY=VALUE of a config key{near}")
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None) if is_dataclass(value) else (value or {}).get(name)
    if is_dataclass(value):
        return not {choices.get(key), getattr(value, "name", None)}.isdisjoint(values.split("|"))
    spelled = override(key, value).partition("=")[2]
    return any(wanted in (spelled, str(value)) or _same_number(value, wanted) for wanted in values.split("|"))


def _same_number(value: Any, wanted: str) -> bool:
    """Whether a number is meant, however it is spelled: 1e-5 and 0.00001."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and float(wanted) == value
    except ValueError:
        return False
