"""``metrics.jsonl``: one row per logging, on disk before the next step begins."""

import contextlib
import json
from pathlib import Path
from typing import Any

from rankwise.tracking.groups import problem
from rankwise.tracking.record import finite


class Journal:
    """Appends rows, each with the number of the attempt at the run."""

    def __init__(self, path: Path, attempt: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.attempt, self.rows = attempt, 0
        torn = path.exists() and not path.read_bytes().endswith(b"\n")  # by a kill, in the middle of a row
        self.file = path.open("a", encoding="utf-8")
        if torn:
            self.file.write("\n")

    def __call__(self, row: dict[str, Any]) -> None:
        """Write one row and flush it. A number that is not finite becomes null."""
        self.file.write(json.dumps(finite({"attempt": self.attempt} | row)) + "\n")
        self.file.flush()
        self.rows += 1

    def go_on(self, attempt: int, rows: int) -> bool:
        """Write the first rows of an earlier attempt once more, as this one's, which goes on from there.

        False, and nothing is written, if it has not so many.
        """
        earlier = [row for row in _rows_of(Path(self.file.name)) if row["attempt"] == attempt][:rows]
        if len(earlier) < rows:
            return False
        for row in earlier:
            self({key: value for key, value in row.items() if key != "attempt"})
        return True

    def close(self) -> None:
        self.file.close()


class Tail:
    """Reads the rows that are appended to a journal, from its start or from its present end."""

    def __init__(self, path: Path, from_end: bool = False):
        self.path = path
        self.position = path.stat().st_size if from_end and path.exists() else 0

    def rows(self) -> list[dict[str, Any]]:
        """Those that were written since the last call; a row that is half written waits for the next."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                content = file.read()
        except OSError:  # not there yet
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        return parse(whole)


def parse(content: bytes) -> list[dict[str, Any]]:
    """The rows in what was read of a file: numbers and nulls, with their attempt.

    A line that is none (of a killed process, a full disk) is left out.
    """
    rows = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if problem(row, dict[str, float | None]) is None and row.get("attempt"):
                rows.append(row)
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the last attempt, as ``parse``; no file is no rows."""
    rows = _rows_of(path)
    last = max((row["attempt"] for row in rows), default=0)
    return [row for row in rows if row["attempt"] == last]


def _rows_of(path: Path) -> list[dict[str, Any]]:
    return parse(path.read_bytes() if path.exists() else b"")
