"""The flags of a table's rows as numbered footnotes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rankwise.report.arms import Arm
from rankwise.report.flags import NOT_RANKED

if TYPE_CHECKING:
    from rankwise.report.by_task import Row

T = TypeVar("T")
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MEASURED = re.compile(r"(?<![\w.=-])\d+(?:\.\d+(?:e[+-]\d\d)?|e[+-]\d\d)(?![\w.])")  # no learning rate: that is 2e-5


def footnotes(rows: Sequence[Arm | Row], without: str = "\0") -> tuple[list[str], dict[int, list[int]]]:
    """Each kind of flag once, numbered from 1 in order of a table's rows, and the numbers of each row by ``id``. Of
    flags that differ in what was measured alone the text has the range. None begins as ``without``."""
    found = merged((text, id(row)) for row in rows for text in row.flags if not text.startswith(without))
    numbers: dict[int, list[int]] = {id(row): [] for row in rows}
    for number, (_, of_rows) in enumerate(found, 1):
        for row in dict.fromkeys(of_rows):
            numbers[row].append(number)
    return [text for text, _ in found], numbers


def merged(said: Iterable[tuple[str, T]]) -> list[tuple[str, list[T]]]:
    """Texts that differ in what was measured alone as one, which has the range, and all of whom they are said."""
    kinds: dict[str, list[tuple[str, T]]] = {}
    for text, of in said:
        kinds.setdefault(_kind(text), []).append((text, of))
    return [(_ranged([text for text, _ in alike]), [of for _, of in alike]) for alike in kinds.values()]


def _kind(text: str) -> str:
    """Without what was measured; the values of keys are not, by which rows differ."""
    return text if text.startswith(NOT_RANKED) else _MEASURED.sub("\0", text)


def _ranged(texts: list[str]) -> str:
    found = zip(*map(_MEASURED.findall, texts), strict=True)
    ends = iter([sorted({min(one, key=float), max(one, key=float)}, key=float) for one in found])
    return _MEASURED.sub(lambda _: " to ".join(next(ends)), texts[0])


def numbered(rows: Sequence[Arm | Row]) -> list[str]:
    """The flags under a table, as ``marks`` numbers them."""
    return [f"{str(n).translate(_SUPERSCRIPT)} {text}" for n, text in enumerate(footnotes(rows)[0], 1)]


def marks(rows: Sequence[Arm | Row]) -> dict[int, str]:
    """The numbers of a row's flags as they follow its name in every table, by ``id``."""
    numbers = footnotes(rows)[1]
    return {row: "".join(f" {n}".translate(_SUPERSCRIPT) for n in of_row) for row, of_row in numbers.items()}
