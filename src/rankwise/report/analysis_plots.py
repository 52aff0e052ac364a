"""The figures of analyses, drawn from their documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rankwise.metrics import named
from rankwise.report import formats as fmt
from rankwise.report import svg
from rankwise.report.palette import FULL

Document = dict[str, Any]
_WIDTH, _PANELS = 13.0, 8
_MAP, _CUT, _TRAINED = "viridis", "#2a788e", "#c2407a"
_STYLES = ("-", "--", ":", "-.")
CAPTIONS = {
    "subspaces": "Upper maps: φ(i, j) after training, i of the first run downwards, j of the second to the right. "
    "Lower maps: the same before training, or by chance where that is not known. What is brighter above was learned.",
    "amplification": "The factor by rank, in directions of ΔW (solid, a dot per layer), of chance (dashed) and of W "
    "(dotted). Below the dashed line, ΔW lies where W has more than on average.",
    "spectrum": "Left: singular values of ΔW over the first. Right: the share of Σσ² in the leading directions; the "
    "line is at 90 %. Means over layers.",
    "intruders": "Mean number per matrix of leading directions of the tuned model that are like none of the base's.",
    "truncation": "The line is one adapter cut to lower ranks, ± one standard error over test rows; the points were "
    "trained at their rank.",
    "layers": "Blocks from the first down, kinds of layers to the right. Runs share the scale of ‖ΔW‖/‖W‖.",
}


def draw(document: Document, name: str) -> str:
    """The figure as an ``<svg>`` element in the page's colours; ``name`` keeps its ids apart from others'."""
    maker, alt = _MAKERS[document["analysis"]]
    return maker(document, name, alt)


def _subspaces(document: Document, name: str, alt: str) -> str:
    """Maps of φ for the first pairs, after training above those before."""
    pairs = document["pairs"][:_PANELS]
    columns = min(len(pairs), 4)
    bands = math.ceil(len(pairs) / columns)
    most = max(0.1, *(value for pair in pairs for row in pair["phi"] for value in row))
    with svg.canvas(_WIDTH, 4.6 * bands) as (figure, (only,)):
        only.remove()
        axes = figure.subplots(2 * bands, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_visible(False)
        for number, pair in enumerate(pairs):
            band, column = divmod(number, columns)
            above, below = axes[2 * band : 2 * band + 2, column]
            for ax, grid in ((above, pair["phi"]), (below, pair["start"] or _chance(pair))):
                image = _phi(ax, np.array(grid), most)
                ax.set_ylabel(f"i of {pair['pair'][0]}", fontsize=8.5)
            above.set_title("\nand ".join(pair["pair"]))
            below.set_title("before training" if pair["start"] else "by chance", fontweight="normal", color=svg.MUTED)
            below.set_xlabel(f"j of {pair['pair'][1]}", fontsize=8.5)
        bar = figure.colorbar(image, ax=list(axes.flat), shrink=0.6, pad=0.01, label="φ(i, j)")
        bar.outline.set_visible(False)
        return svg.render(figure, name, alt)


def _chance(pair: Document) -> list[list[float]]:
    k1, k2 = pair["directions"]
    return [[max(i, j) / pair["d"] for j in range(1, k2 + 1)] for i in range(1, k1 + 1)]


def _phi(ax: Any, values: np.ndarray, most: float) -> Any:
    """A map whose first row and column are number 1."""
    k1, k2 = values.shape
    ax.set_visible(True)
    ax.set_xticks(_ticks(k2))
    ax.set_yticks(_ticks(k1))
    return _image(ax, values, most, extent=(0.5, k2 + 0.5, k1 + 0.5, 0.5))


def _image(ax: Any, values: np.ndarray, most: float, **keys: Any) -> Any:
    ax.grid(visible=False)
    return ax.imshow(values, vmin=0, vmax=most, cmap=_MAP, aspect="auto", interpolation="nearest", **keys)


def _ticks(most: int) -> list[int]:
    step = most // 4 if most > 8 else max(1, most // 2)
    return sorted({1, *range(step, most + 1, step)})


def _amplification(document: Document, name: str, alt: str) -> str:
    """Factors by rank, a panel for each kind of layer."""
    rows = document["rows"]
    kinds = list(dict.fromkeys(row["module"] for row in rows))[:4]
    with svg.canvas(_WIDTH, 3.9, len(kinds)) as (figure, axes):
        for ax, kind in zip(axes, kinds, strict=True):
            mine = sorted((row for row in rows if row["module"] == kind), key=lambda row: float(row["rank"]))
            for dense, paint in ((False, _CUT), (True, FULL)):
                if family := [row for row in mine if row["dense"] == dense]:
                    _factors(ax, family, paint)
            _by_rank(ax, [row["rank"] for row in mine])
            ax.set_xlim(mine[0]["rank"] / 1.4, mine[-1]["rank"] * 1.4)
            ax.set_yscale("log")
            ax.set(title=f"layers {kind}", ylabel="‖ΔW‖ / ‖UᵀWV‖")
            ax.legend(fontsize=8.5)
        return svg.render(figure, name, alt)


def _factors(ax: Any, family: list[Document], paint: str) -> None:
    ranks = [row["rank"] for row in family]
    label = ", ".join(dict.fromkeys(row["run"] for row in family)) if family[0]["dense"] else "adapters"
    ax.plot(ranks, [row["factor"] for row in family], "o-", color=paint, ms=6, lw=1.8, label=label, zorder=4)
    for row in family:
        layers = [layer["factor"] for layer in row["by_module"].values()]
        ax.plot([row["rank"]] * len(layers), layers, ".", color=paint, alpha=0.4, ms=5, zorder=3)
    for key, form, said in (("factor_by_chance", "s--", "chance"), ("factor_by_base", "^:", "of W")):
        ax.plot(ranks, [row[key] for row in family], form, color=paint, ms=3, lw=1.1, label=f"{label}: {said}")


def _by_rank(ax: Any, ranks: list[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(ranks)), [str(rank) for rank in sorted(set(ranks))])
    ax.minorticks_off()
    ax.set_xlabel("rank r")


def _spectrum(document: Document, name: str, alt: str) -> str:
    """Decay of the singular values, and energy in the leading directions."""
    rows = document["rows"]
    ticks = [4**n for n in range(12) if 4**n <= max(len(row["decay"]) for row in rows)]
    with svg.canvas(_WIDTH, 3.9, 2) as (figure, (decay, energy)):
        for row, (paint, style) in zip(rows, _lines(rows), strict=True):
            places = np.arange(1, len(row["decay"]) + 1)
            decay.plot(places, row["decay"], color=paint, ls=style, lw=1.8, label=row["run"])
            energy.plot(places, [100 * share for share in row["energy"]], color=paint, ls=style, lw=1.8)
        energy.axhline(100 * document["share"], color=svg.MUTED, lw=1.0, ls="--", zorder=1)
        for ax in (decay, energy):
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            ax.minorticks_off()
        decay.set_yscale("log")
        low = min(value for row in rows for value in row["decay"] if value > 0)
        decay.set_ylim(bottom=max(low / 2, 1e-4))
        decay.set(xlabel="singular value i", ylabel="σᵢ / σ₁")
        energy.set(xlabel="leading directions", ylabel="share of Σσ², %", ylim=(0, 103))
        decay.legend(fontsize=9, loc="lower left")
        return svg.render(figure, name, alt)


def _intruders(document: Document, name: str, alt: str) -> str:
    """Counts by ε."""
    with svg.canvas(_WIDTH, 3.6) as (figure, (ax,)):
        for row, (paint, style) in zip(document["rows"], _lines(document["rows"]), strict=True):
            means = [each["mean"] for each in row["counts"]]
            ax.plot(document["epsilons"], means, "o", ls=style, color=paint, lw=1.8, ms=5, label=row["run"])
        ax.set_ylim(bottom=0)
        ax.set_xlabel("ε: an intruder has |cos| < ε to all directions of the base")
        ax.set_ylabel(f"intruders among the top {document['top']}")
        ax.legend(fontsize=9)
        return svg.render(figure, name, alt)


def _truncation(document: Document, name: str, alt: str) -> str:
    """Scores by rank: cut and trained."""
    metric, cut, trained = named(document["metric"]), document["cut"], document["trained"]
    with svg.canvas(_WIDTH, 3.8) as (figure, (ax,)):
        for rows, form, paint, label in (
            (cut, "o-", _CUT, f"{document['run']}, cut"), (trained, "D", _TRAINED, "trained at its rank"),
        ):  # fmt: skip
            if rows:
                x, y = [row["rank"] for row in rows], [metric.factor * row["score"]["value"] for row in rows]
                se = [metric.factor * (row["score"]["se"] or 0.0) for row in rows]
                ax.errorbar(x, y, se, fmt=form, color=paint, ms=6, lw=1.8, elinewidth=1.3, label=label)
        _by_rank(ax, [row["rank"] for row in [*cut, *trained]])
        ax.set_ylabel(f"test {metric.header}")
        ax.legend(fontsize=9)
        return svg.render(figure, name, alt)


def _layers(document: Document, name: str, alt: str) -> str:
    """Maps of ‖ΔW‖/‖W‖ and effective rank by block and kind, two for each run."""
    runs = document["rows"][:4]
    kinds = list(dict.fromkeys(cell["module"] for cell in runs[0]["cells"]))
    blocks = sorted({cell["layer"] for cell in runs[0]["cells"]})
    height = 1.3 + max(1.6, 0.26 * len(blocks)) + (0.5 if len(kinds) > 3 else 0.0)
    with svg.canvas(_WIDTH, height * len(runs)) as (figure, (only,)):
        only.remove()
        axes = figure.subplots(len(runs), 2, squeeze=False)
        largest = max(cell["relative"] for row in runs for cell in row["cells"])
        for row, pair in zip(runs, axes, strict=True):
            for ax, key, factor, most in zip(
                pair, ("relative", "effective_rank"), (100, 1), (largest, None), strict=True
            ):
                grid = np.full((len(blocks), len(kinds)), np.nan)
                for cell in row["cells"]:
                    grid[blocks.index(cell["layer"]), kinds.index(cell["module"])] = factor * cell[key]
                _cells(ax, grid, blocks, kinds, factor * most if most else float(np.nanmax(grid)))
                ax.set_title(f"{row['run']}: {'‖ΔW‖/‖W‖, %' if most else 'effective rank'}")
        return svg.render(figure, name, alt)


def _cells(ax: Any, grid: np.ndarray, blocks: list[int], kinds: list[str], most: float) -> None:
    """One map, blocks down and kinds to the right, with its numbers where there is room."""
    image = _image(ax, grid, most)
    if len(blocks) <= 12 and len(kinds) <= 8:
        for (y, x), value in np.ndenumerate(grid):
            if np.isfinite(value):
                ink = "#ffffff" if value < 0.6 * most else "#14161a"
                ax.text(x, y, fmt.seconds(float(value)), ha="center", va="center", fontsize=8.5, color=ink)
    ax.set_xticks(range(len(kinds)), kinds, rotation=20 if len(kinds) > 3 else 0)
    every = max(1, len(blocks) // 8)
    ax.set_yticks(range(0, len(blocks), every), [str(block) for block in blocks[::every]])
    ax.set_ylabel("block")
    ax.figure.colorbar(image, ax=ax, pad=0.01).outline.set_visible(False)


def _lines(rows: list[Document]) -> list[tuple[str, str]]:
    """Colour and style of each run: full is orange, ranks from dark to light, seeds of a rank by dashes."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ranks = sorted({row["rank"] for row in rows if row["rank"]})
    seen: dict[Any, int] = {}
    styles = []
    for row in rows:
        seen[row["rank"]] = seen.get(row["rank"], -1) + 1
        place = ranks.index(row["rank"]) / max(1, len(ranks) - 1) if row["rank"] else 0.0
        paint = to_hex(colormaps[_MAP](0.16 + 0.62 * place)) if row["rank"] else FULL
        styles.append((paint, _STYLES[seen[row["rank"]] % len(_STYLES)]))
    return styles


_MAKERS: dict[str, tuple[Callable[[Document, str, str], str], str]] = {
    "subspaces": (_subspaces, "subspace similarity after and before training"),
    "amplification": (_amplification, "amplification factor by rank"),
    "spectrum": (_spectrum, "singular values of the update"),
    "intruders": (_intruders, "intruder dimensions by threshold"),
    "truncation": (_truncation, "test score of one adapter cut to lower ranks"),
    "layers": (_layers, "size and effective rank of the update by layer"),
}
