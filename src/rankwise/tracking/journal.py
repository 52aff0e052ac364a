"""``metrics.jsonl``: one row per logging, on disk before the next step begins."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankwise.tracking.groups import problem
from rankwise.tracking.record import finite, write_atomically


class Journal:
    """Appends rows, each with the number of the attempt that made it; those of earlier ones stay until ``begin``."""

    def __init__(self, path: Path, attempt: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.attempt = path, attempt
        self.rows: list[dict[str, Any]] = []
        self.file = path.open("a", encoding="utf-8")

    def __call__(self, row: dict[str, Any]) -> None:
        """Write one row and flush it. A number that is not finite becomes null."""
        self.rows.append(finite({"attempt": self.attempt} | row))
        self.file.write(_line(self.rows[-1]))
        self.file.flush()

    def begin(self, rows: Sequence[dict[str, Any]] = ()) -> None:
        """Have nothing in the file but the rows of an earlier attempt from which this one goes on."""
        self.rows = list(rows)
        if rows or self.file.tell():
            write_atomically(self.path, map(_line, self.rows))
            self.file.close()
            self.file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self.file.close()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


class Tail:
    """Reads the rows that are appended to a journal behind what was its ``end``; of a new file all."""

    def __init__(self, path: Path, end: tuple[int, int] = (0, 0)):
        self.path, (self.position, self.inode) = path, end

    @staticmethod
    def end(path: Path) -> tuple[int, int]:
        """Where it ends now, for a later ``Tail``: position and inode."""
        with contextlib.suppress(OSError):  # not there yet
            there = path.stat()
            return there.st_size, there.st_ino
        return 0, 0

    def rows(self) -> list[dict[str, Any]]:
        """Those that were written since the last call; a row that is half written waits for the next."""
        try:
            with self.path.open("rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self.inode:
                    self.inode, self.position = inode, 0
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
    """All its rows, as ``parse``; no file is no rows."""
    return parse(path.read_bytes() if path.exists() else b"")
