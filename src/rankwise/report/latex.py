"""The report as LaTeX: a booktabs table that compiles as it is, and the methods paragraph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankwise.report.columns import chosen
from rankwise.report.flags import DISTURBED
from rankwise.report.footnotes import footnotes
from rankwise.report.paper import paragraph
from rankwise.report.table import interval_note

if TYPE_CHECKING:
    from rankwise.report.report import Report

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "–": "--",
    "“": "``",
    "”": "''",
    "·": r"$\cdot$",
    "√": r"$\surd$",
    "…": r"\ldots{}",
}


def latex(report: Report, wanted: Sequence[str] = ()) -> str:
    """A ``table`` environment of the arms with the ``wanted`` columns, or what a page has room for, footnotes under it,
    and the methods paragraph.

    Needs the package booktabs. Raises Refused for a column that there is not.
    """
    columns = chosen(report, wanted, "paper")
    timed = any(column.key.endswith("_s") or column.key == "mfu" for column in columns)
    sides = "".join("l" if column.left else "r" for column in columns)
    rows = [[column.title for column in columns], *([column.text(arm) for column in columns] for arm in report.arms)]
    notes = footnotes(report.arms, *([] if timed else [DISTURBED]))
    lines = [
        *table(f"{_verdict(report)} {interval_note(report)}", sides, rows, notes),
        "\\begin{sloppypar}",
        *(escaped(sentence) for sentence in paragraph(report)),
        "\\end{sloppypar}",
        "",
    ]
    return "\n".join(lines)


def table(caption: str, sides: str, cells: list[list[str]], notes: tuple[list[str], dict[int, list[int]]]) -> list[str]:
    """The lines of a ``table`` environment and an empty one: a header, a row for each arm, and footnotes under it."""
    header, *rows = [[escaped(cell) for cell in row] for row in cells]
    for row, marks in zip(rows, notes[1].values(), strict=True):
        numbers = ",".join(map(str, marks))
        row[0] += f"\\textsuperscript{{{numbers}}}" if numbers else ""
    return [
        "\\begin{table}",
        "\\centering",
        "\\small\\setlength{\\tabcolsep}{3pt}",
        f"\\caption{{{escaped(caption)}}}",
        f"\\begin{{tabular}}{{{sides}}}",
        "\\toprule",
        _line(header),
        "\\midrule",
        *map(_line, rows),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\footnotesize\\textsuperscript{{{i}}} {escaped(text)}" for i, text in enumerate(notes[0], 1)),
        "\\end{table}",
        "",
    ]


def escaped(text: str) -> str:
    """A text in which nothing is a command, and two hyphens no dash."""
    text = re.sub(r"\s+", " ", text)
    return "".join(_SPECIAL.get(c, c) + "{}" * (text[i : i + 2] == "--") for i, c in enumerate(text))


def _verdict(report: Report) -> str:
    """The headline without what to do next and how long the runs took; what stands in parentheses stays whole."""
    return re.sub(r"^((?:\((?:[^()]|\([^()]*\))*\)|[^(])*?)[;.] .*", r"\1", report.headline.title).rstrip(".") + "."


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
