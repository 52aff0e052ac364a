"""Colours with one meaning on the whole page: orange is full fine-tuning, greens are ranks, greys have no adapter."""

import math
from collections import defaultdict
from collections.abc import Iterable

from matplotlib import colormaps
from matplotlib.colors import to_hex

from rankwise.report import svg
from rankwise.report.arms import Arm

FULL, ADAPTER, PARETO = "#e07a1f", "#2a788e", "#c2407a"
VERDICTS = dict.fromkeys(("same", "better", "not worse"), "#2f9e64") | {"worse": "#d1495b", "inconclusive": "#8a8f98"}
COMPONENTS = ("#5b7c99", "#e0a93f", "#c9695e", "#6aa584", "#b0b4ba")  # of the memory, as ``tracking.groups.PARTS``
MAP = "viridis"  # perceptually even
_FAMILIES = (ADAPTER, "#7a5195", "#4c8c4a", "#b5542e", "#3b6fb6", "#8d6e1f", "#a13d63", "#5a5f66")
_MARKERS = "osD^vPX*"


def of_rank(rank: int, among: Iterable[int]) -> str:
    """Ranks from dark to light, by log₂ rank among the others; all are seen on white and on black."""
    logs = [math.log2(other) for other in among]
    span = max(logs) - min(logs)
    return to_hex(colormaps[MAP](0.32 + 0.46 * ((math.log2(rank) - min(logs)) / span if span else 0.5)))


def colour(arm: Arm, among: list[Arm]) -> str:
    """An arm's colour."""
    if arm.rank:
        return of_rank(arm.rank, [other.rank for other in among if other.rank])
    return FULL if arm.method == "full" else svg.MUTED


def family_styles(ranked: list[Arm]) -> list[tuple[list[Arm], tuple[str, str, str]]]:
    """Families of ranks, each with colour, marker and legend text."""
    families: dict[str, list[Arm]] = defaultdict(list)
    for arm in sorted(ranked, key=lambda a: a.rank or 0):
        families[arm.family].append(arm)
    styled = []
    for i, members in enumerate(families.values()):
        label = members[0].label.replace(f" r={members[0].rank}", "")
        styled.append((members, (_FAMILIES[i % len(_FAMILIES)], _MARKERS[i % len(_MARKERS)], label)))
    return styled
