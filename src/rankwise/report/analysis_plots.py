"""The figures of analyses, drawn from their documents. Each takes a document and gives a figure."""

import math
import re
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rankwise.metrics import named
from rankwise.report import formats as fmt
from rankwise.report import svg
from rankwise.report.palette import ADAPTER, MAP, PARETO, Member, looks

Document = dict[str, Any]
_WIDTH, _ACROSS = 13.0, 4  # inches; panels beside each other


def subspaces(document: Document) -> Figure:
    """Maps of φ for pairs, after training above those before."""
    pairs = document["pairs"]
    columns = min(len(pairs), _ACROSS)
    bands = math.ceil(len(pairs) / columns)
    shown = [row for pair in pairs for row in [*pair["phi"], *(pair["start"] or [])]]
    most = max(0.1, *(value for row in shown for value in row))
    figure, axes = svg.canvas(_WIDTH, 4.6 * bands, 2 * bands, columns)
    for ax in axes.flat:
        ax.set_visible(False)
    for number, pair in enumerate(pairs):
        band, column = divmod(number, columns)
        above, below = axes[2 * band : 2 * band + 2, column]
        sizes = [range(1, k + 1) for k in pair["directions"]]
        start = pair["start"] or [[max(i, j) / pair["d"] for j in sizes[1]] for i in sizes[0]]
        for ax, values in ((above, pair["phi"]), (below, start)):
            k1, k2 = np.shape(values)
            ax.set_visible(True)
            image = _image(ax, values, most, extent=(0.5, k2 + 0.5, k1 + 0.5, 0.5))
            ax.set_xticks(_ticks(k2))
            ax.set_yticks(_ticks(k1))
            ax.set_ylabel(f"i of {pair['pair'][0]}", fontsize=8.5)
        above.set_title("\nand ".join(pair["pair"]))
        below.set_title("before training" if pair["start"] else "by chance", fontweight="normal", color=svg.MUTED)
        below.set_xlabel(f"j of {pair['pair'][1]}", fontsize=8.5)
    bar = figure.colorbar(image, ax=list(axes.flat), shrink=0.6, pad=0.01, label="φ(i, j)")
    bar.outline.set_visible(False)
    return figure


def amplification(document: Document) -> Figure:
    """Factors by rank, a panel for each kind of layer."""
    rows = sorted(document["rows"], key=lambda row: (row["module"], _member(row)[0], row["rank"]))
    look = looks(map(_member, document["rows"]))
    kinds = list(dict.fromkeys(row["module"] for row in document["rows"]))
    columns = min(len(kinds), _ACROSS)
    bands = math.ceil(len(kinds) / columns)
    figure, axes = svg.canvas(_WIDTH, 3.9 * bands, bands, columns)
    for ax in axes.flat[len(kinds) :]:
        ax.set_visible(False)
    for ax, kind in zip(axes.flat, kinds, strict=False):
        mine = [row for row in rows if row["module"] == kind]
        for label, members in groupby(mine, key=lambda row: _member(row)[0]):
            family = list(members)
            ranks, (paint, marker) = [row["rank"] for row in family], look[_member(family[-1])]
            factors = [row["factor"] for row in family]
            ax.plot(ranks, factors, marker=marker, color=paint, ms=6, label=label, zorder=4)
            for row in family:
                layers = [layer["factor"] for layer in row["by_module"].values()]
                ax.plot([row["rank"]] * len(layers), layers, ".", color=paint, alpha=0.4, ms=5, zorder=3)
            for key, form, name in (("factor_by_chance", "s--", "chance"), ("factor_by_base", "^:", "of W")):
                values = [row[key] for row in family]
                ax.plot(ranks, values, form, color=paint, ms=3, lw=1.1, label=f"{label}: {name}")
        svg.by_rank(ax, [row["rank"] for row in mine])
        ax.set(title=f"layers {kind}", ylabel="‖ΔW‖ / ‖UᵀWV‖", yscale="log")
    svg.legend(figure)
    return figure


def spectrum(document: Document) -> Figure:
    """Decay of the singular values, and energy in the leading directions."""
    rows = document["rows"]
    figure, ((decay, energy),) = svg.canvas(_WIDTH, 3.9, columns=2)
    look = looks(map(_member, rows))
    for row in rows:
        places, (paint, marker) = np.arange(1, len(row["decay"]) + 1), look[_member(row)]
        own: Any = {"color": paint, "marker": marker, "markevery": [-1]}  # the end, all that a rank of 1 has
        decay.plot(places, row["decay"], **own, label=row["run"])
        energy.plot(places, [100 * share for share in row["energy"]], **own)
    energy.axhline(100 * document["share"], color=svg.MUTED, lw=1.0, ls="--", zorder=1)
    for ax in (decay, energy):
        svg.by_rank(ax, [4**n for n in range(12) if 4**n <= max(len(row["decay"]) for row in rows)])
        ax.autoscale(axis="x")
    low = min(value for row in rows for value in row["decay"] if value > 0)
    decay.set_yscale("log")
    decay.set_ylim(bottom=max(low / 2, 1e-4))
    decay.set(xlabel="singular value i", ylabel="σᵢ / σ₁")
    energy.set(xlabel="leading directions", ylabel="share of Σσ², %", ylim=(0, 103))
    svg.legend(figure)
    return figure


def intruders(document: Document) -> Figure:
    """Counts by ε."""
    figure, ((ax,),) = svg.canvas(_WIDTH, 3.6)
    look = looks(map(_member, document["rows"]))
    for row in document["rows"]:
        means, (paint, marker) = [count["mean"] for count in row["counts"]], look[_member(row)]
        ax.plot(document["epsilons"], means, marker=marker, ms=5, color=paint, label=row["run"])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("ε: an intruder has |cos| < ε to all directions of the base")
    ax.set_ylabel(f"intruders among the top {document['top']}")
    svg.legend(figure)
    return figure


def truncation(document: Document) -> Figure:
    """Scores by rank: cut and trained."""
    metric, cut, trained = named(document["metric"]), document["cut"], document["trained"]
    figure, ((ax,),) = svg.canvas(_WIDTH, 3.8)
    for rows, form, paint, label in (
        (cut, "o-", ADAPTER, f"{document['run']}, cut"),
        (trained, "D", PARETO, "trained at its rank"),
    ):
        if rows:
            x, y = [row["rank"] for row in rows], [metric.factor * row["score"]["value"] for row in rows]
            se = [metric.factor * (row["score"]["se"] or 0.0) for row in rows]
            ax.errorbar(x, y, se, fmt=form, color=paint, ms=6, elinewidth=1.3, label=label)
    svg.by_rank(ax, [row["rank"] for row in [*cut, *trained]])
    ax.set_ylabel(f"test {metric.header}")
    svg.legend(figure)
    return figure


def layers(document: Document) -> Figure:
    """Maps of ‖ΔW‖/‖W‖ and effective rank by block and kind, two for each run."""
    runs = document["rows"]
    kinds = list(dict.fromkeys(cell["module"] for cell in runs[0]["cells"]))
    blocks = sorted({cell["layer"] for cell in runs[0]["cells"]})
    height = 1.3 + max(1.6, 0.26 * len(blocks)) + (0.5 if len(kinds) > 3 else 0.0)
    figure, axes = svg.canvas(_WIDTH, height * len(runs), len(runs), 2)
    largest = 100 * max(cell["relative"] for row in runs for cell in row["cells"])
    for row, (sizes, ranks) in zip(runs, axes, strict=True):
        for ax, key, factor, name in (
            (sizes, "relative", 100, "‖ΔW‖/‖W‖, %"),
            (ranks, "effective_rank", 1, "effective rank"),
        ):
            grid = np.full((len(blocks), len(kinds)), np.nan)
            for cell in row["cells"]:
                grid[blocks.index(cell["layer"]), kinds.index(cell["module"])] = factor * cell[key]
            _cells(ax, grid, blocks, kinds, largest if ax is sizes else float(np.nanmax(grid)))
            ax.set_title(f"{row['run']}: {name}")
    return figure


def _cells(ax: Any, grid: np.ndarray, blocks: list[int], kinds: list[str], most: float) -> None:
    """One map, blocks down and kinds to the right, with its numbers where there is room."""
    image = _image(ax, grid, most)
    if len(blocks) <= 12 and len(kinds) <= 8:
        for (y, x), value in np.ndenumerate(grid):
            if np.isfinite(value):
                ink = "#ffffff" if value < 0.6 * most else "#14161a"
                ax.text(x, y, fmt.three(float(value)), ha="center", va="center", fontsize=8.5, color=ink)
    tilted: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(kinds) > 3 else {}
    ax.set_xticks(range(len(kinds)), kinds, **tilted)
    every = max(1, len(blocks) // 8)
    ax.set_yticks(range(0, len(blocks), every), [str(block) for block in blocks[::every]])
    ax.set_ylabel("block")
    ax.figure.colorbar(image, ax=ax, pad=0.01).outline.set_visible(False)


def _image(ax: Any, values: Any, most: float, **keys: Any) -> Any:
    ax.grid(visible=False)
    return ax.imshow(values, vmin=0, vmax=most, cmap=MAP, aspect="auto", interpolation="nearest", **keys)


def _ticks(most: int) -> list[int]:
    step = most // 4 if most > 8 else max(1, most // 2)
    return sorted({1, *range(step, most + 1, step)})


def _member(row: Document) -> Member:
    """The family of a row's run and its rank: runs that are called alike but for it."""
    family, rank = re.subn(r" r=\d+", "", row["run"])
    return family, row["rank"] if rank else None
