"""A part of the report: a title, a table and what it means."""

from __future__ import annotations

from dataclasses import dataclass

Cells = list[str]


@dataclass(frozen=True)
class Section:
    """``header`` and ``rows`` begin with the arm; ``lead`` stands above the table, ``notes`` beneath.

    Cells are numbers but the first, unless all are ``words``, which are set to the left and folded.
    """

    name: str
    title: str
    header: Cells
    rows: list[Cells]
    notes: list[str]
    lead: str = ""
    words: bool = False
