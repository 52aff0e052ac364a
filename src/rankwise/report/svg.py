"""Figures as inline SVG that follow the page: text stays text, ink and grid take the page's colours."""

import html
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

INK, MUTED, GRID, PAPER = "#101112", "#707172", "#d0d1d2", "#fdfcfb"  # stand-ins for the page's CSS variables
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.fontsize": 9.0,
    "figure.facecolor": "none",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "errorbar.capsize": 0,
    "lines.solid_capstyle": "round",
    "lines.linewidth": 1.8,
}
# What a reader of the figure alone sees: the page brings its own colours.
_ALONE = (
    "<style>svg{--ink:#1b1d21;--muted:#666b73;--grid:#dfe1e5;--paper:#fdfcfb;background:var(--paper)}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e8eaee;--muted:#9aa1ac;--grid:#353a43;--paper:#14161a}}</style>"
)

styled = matplotlib.rc_context(_STYLE)  # decorates what draws


_ON_PAPER = {
    "text.color": "black",
    "axes.labelcolor": "black",
    "xtick.color": "black",
    "ytick.color": "black",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "legend.fontsize": 7.0,
    "figure.facecolor": "white",
}
_paper: tuple[Path, str, float] | None = None  # where figures go as files, what ends their names, and how wide they are


@contextmanager
def paper(folder: Path, ending: str, width: float) -> Iterator[None]:
    """In here, figures are drawn for paper: as PDF and SVG files of a width in inches, black on white."""
    global _paper
    _paper = (folder, ending, width)
    try:
        yield
    finally:
        _paper = None


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure with panels, (rows, columns) of axes; sizes in inches. No pyplot: no global state."""
    if _paper:
        width, height = _paper[2], height * max(0.7, _paper[2] / width)
        matplotlib.rcParams.update(_ON_PAPER)  # until ``styled`` ends
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def by_rank(ax: Any, ranks: Iterable[int]) -> None:
    """Make an axis logarithmic, with a tick for every rank."""
    ticks = sorted(set(ranks))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(xlim=(ticks[0] / 1.35, ticks[-1] * 1.35), xlabel="rank r")


def legend(figure: Figure) -> None:
    """What all panels name, each name once, below them in as many columns as there is room for."""
    named = {name: handle for ax in figure.axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    for columns in range(min(len(named), 6), 0, -1):
        drawn = figure.legend(named.values(), named, loc="outside lower center", ncols=columns)
        size = drawn.get_window_extent()
        if size.width < figure.bbox.width or columns == 1:
            figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)
            return
        drawn.remove()


def render(figure: Figure, name: str, alt: str) -> str:
    """The figure as an ``<svg>`` element. ``name`` keeps its ids apart from other figures' on the page.

    Labels hold names of users and of files: nothing in them is mathematics or markup. Only matplotlib's own ticks of
    logarithmic axes are.
    """
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    logarithmic = [axis for axis in axes if isinstance(axis.get_major_formatter(), LogFormatter)]
    powers = {tick for axis in logarithmic for tick in axis.get_ticklabels(which="both")}
    for artist in figure.findobj(Text):
        artist.set_parse_math(artist in powers)
    if _paper:
        folder, ending, _ = _paper
        for suffix, date in (("pdf", "CreationDate"), ("svg", "Date")):
            with matplotlib.rc_context({"svg.hashsalt": name, "pdf.fonttype": 42}):
                figure.savefig(folder / f"{name}-{ending}.{suffix}", metadata={date: None})
        return ""
    name, out = re.sub(r"[^\w-]+", "-", name, flags=re.ASCII), io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(font: [^\"';]*?[\d.]+px) [^;\"]+", rf"\1 {_FONT}", text)
    text = re.sub(r'\bid="([A-Za-z][\w.]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)([\w.]+)', rf"\1{name}-\2", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = html.escape(alt, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def alone(image: str) -> str:
    """A figure for a file of its own, where the page's colours are not defined."""
    end = image.index(">") + 1
    return image[:end] + _ALONE + image[end:]
