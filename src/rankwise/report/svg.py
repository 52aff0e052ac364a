"""Figures as inline SVG that follow the page: text stays text, ink and grid take the page's colours."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#101112", "#707172", "#d0d1d2", "#fdfcfb"  # stand-ins for the page's CSS variables
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_RC = {
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10.0, "text.color": INK,
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.facecolor": "none", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.minor.size": 0, "ytick.minor.size": 0, "legend.frameon": False, "figure.facecolor": "none",
    "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.unicode_minus": True,
    "errorbar.capsize": 0, "lines.solid_capstyle": "round",
}  # fmt: skip


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


@contextmanager
def canvas(width: float, height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Any]]]:
    """A figure in the page's style with panels side by side; sizes in inches. No pyplot: no global state."""
    import matplotlib
    from matplotlib.figure import Figure

    rc = dict(_RC)
    if _paper:
        width, height = _paper[2], height * max(0.7, _paper[2] / width)
        rc |= {"text.color": "black", "axes.labelcolor": "black", "xtick.color": "black", "ytick.color": "black"}
        rc |= {"font.size": 8.0, "axes.titlesize": 8.0, "figure.facecolor": "white"}
    with matplotlib.rc_context(rc):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        yield figure, list(axes)


def render(figure: Figure, name: str, alt: str) -> str:
    """The figure as an ``<svg>`` element. ``name`` keeps its ids apart from other figures' on the page.

    Labels hold names of users and of files: nothing in them is mathematics or markup. Only matplotlib's own ticks of
    logarithmic axes are.
    """
    import matplotlib
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    logarithmic = [axis for axis in axes if isinstance(axis.get_major_formatter(), LogFormatter)]
    powers = {tick for axis in logarithmic for tick in axis.get_ticklabels(which="both")}
    for artist in figure.findobj(Text):
        artist.set_parse_math(artist in powers)
    if _paper:
        folder, ending, _ = _paper
        for suffix in ("pdf", "svg"):
            with matplotlib.rc_context({"svg.hashsalt": name, "pdf.fonttype": 42}):
                date = {"pdf": "CreationDate", "svg": "Date"}[suffix]
                figure.savefig(folder / f"{name}-{ending}.{suffix}", metadata={date: None})
        return ""
    name, out = re.sub(r"[^\w-]+", "-", name, flags=re.ASCII), io.StringIO()
    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"(font: [^\"';]*?[\d.]+px) [^;\"]+", rf"\1 {_FONT}", text)
    text = re.sub(r'\bid="([A-Za-z][\w.]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)([\w.]+)', rf"\1{name}-\2", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    label = html.escape(alt, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def alone(image: str) -> str:
    """A figure as a document of its own, where the page's colours are not defined."""
    for colour, variable in _VARIABLES.items():
        image = image.replace(variable, colour)
    return f'<!doctype html><meta charset="utf-8">{image}'
