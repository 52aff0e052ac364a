"""Colours with one meaning on the whole page: orange is full fine-tuning, every other family has a hue of its own."""

import math
import re
from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from rankwise.report.arms import Arm

FULL, ADAPTER, PARETO = "#e07a1f", "#2a788e", "#c2407a"
VERDICTS = dict.fromkeys(("same", "better", "not worse"), "#2f9e64") | {"worse": "#d1495b", "inconclusive": "#8a8f98"}
COMPONENTS = ("#5b7c99", "#e0a93f", "#c9695e", "#6aa584", "#b0b4ba")  # of the memory, as ``tracking.groups.PARTS``
MAP = "viridis"  # perceptually even
_HUES = (  # of a family, from its smallest size to its largest; all are seen on white and on black
    ("#2a6f8e", "#6ccd5a"),
    ("#6f45a3", "#cfa8ea"),
    ("#a3293d", "#f2939d"),
    ("#2c5fb0", "#8fbcf2"),
    ("#80600f", "#e0c05c"),
    ("#96256e", "#ea90ca"),
    ("#4a6a1c", "#b4d06a"),
    ("#5a5f66", "#b4bac1"),
)
_MARKERS = "osD^vPX"  # not as many as hues, so that the two together are not soon the same again
Member = tuple[str, int | None]  # a family, whose name begins with its method, and a size in it, as its rank
Look = tuple[str, str]  # colour and marker


def looks(members: Iterable[Member]) -> dict[Member, Look]:
    """Colour and marker of each: by its family, and the lighter the larger by log₂ among those of its family."""
    families: dict[str, dict[int | None, float]] = {}
    for family, size in sorted(members, key=lambda member: _is_full(member[0])):
        families.setdefault(family, {})[size] = math.log2(size or 1)
    known = {}
    for i, (family, logs) in enumerate(families.items()):
        low, high = min(logs.values()), max(logs.values())
        dark, light = map(np.array, map(to_rgb, (FULL, FULL) if _is_full(family) else _HUES[i % len(_HUES)]))
        for size, log in logs.items():
            share = (log - low) / (high - low) if high > low else 0.5
            known[family, size] = to_hex((1 - share) * dark + share * light), _MARKERS[i % len(_MARKERS)]
    return known


def of_arms(arms: Iterable[Arm]) -> Callable[[Arm], Look]:
    """Colour and marker of an arm among these."""
    known = looks(map(_member, arms))
    return lambda arm: known[_member(arm)]


def _member(arm: Arm) -> Member:
    return arm.family, arm.size[1] if arm.size else None


def _is_full(family: str) -> bool:
    return bool(re.match(r"full\b", family))
