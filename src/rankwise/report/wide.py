"""A table of numbers on a terminal of any width: no figure is cut."""

import copy
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table


class Wide:
    """A table. Where there is no room for it, its columns stand in several tables, each beside the first column."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *rest = self.table.columns
        shown = [first]
        for column in rest:
            tried = self._of([*shown, column])
            wide = Measurement.get(console, options.update(max_width=999), tried).maximum > options.max_width
            if wide and len(shown) > 1:
                yield self._of(shown)
                yield ""
                shown = [first]
            shown.append(column)
        yield self._of(shown)

    def _of(self, columns: list[Column]) -> Table:
        table = copy.copy(self.table)
        table.columns = [replace(column, _index=number) for number, column in enumerate(columns)]
        return table
