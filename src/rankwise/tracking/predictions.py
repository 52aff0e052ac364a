"""Predictions on the test rows, kept so that runs can be compared item by item."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE = "predictions.parquet"
COLUMNS = ("label", "prediction", "score", "bytes", "cluster")


class Unreadable(Exception):
    """Why a run's predictions cannot be used, in words that follow "no comparison: "."""


@dataclass(frozen=True)
class Predictions:
    """A run's test rows in the order of their item numbers; see ``write`` for the columns."""

    items: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def units(self) -> int:
        """How many of them are independent: clusters of items, where they share a prompt or a group."""
        return len(np.unique(self.columns["cluster"])) if "cluster" in self.columns else len(self.items)

    @property
    def effective(self) -> int:
        """As how many clusters of one size they say how far clusters vary: (Σm)² / Σm² of sizes m (Kish 1965)."""
        sizes = np.unique(self.columns.get("cluster", self.items), return_counts=True)[1]
        return max(min(2, self.units), round(len(self.items) ** 2 / int((sizes**2).sum())))


def write(folder: Path, item: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """One row per test item with its stable number.

    ``label``, ``prediction`` and ``score`` (probability of the last class, or value); of a causal LM ``label`` (how
    many tokens were asked), ``score`` (the sum of their losses in nats) and ``bytes``. ``cluster`` numbers what rows
    share: a prompt, a document or ``task.group``.
    """
    arrays: dict[str, Any] = {"item": item}
    for name in COLUMNS:
        if name in columns:
            arrays[name] = columns[name].astype(np.float32) if name == "score" else columns[name]
    store(folder / FILE, arrays)


def harness_file(task: str) -> str:
    """In a run's folder, the answers to a task of lm-evaluation-harness; no name of a task leads out of it."""
    return f"harness/{re.sub(r'[^A-Za-z0-9_.-]', '_', task)}.parquet"


def store(path: Path, columns: dict[str, Any]) -> None:
    """Write columns; a reader sees the old file or the new one."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:  # a path would be read as an address: C:/x, exp:1, ~/x
        pq.write_table(pa.table(columns), file, compression="zstd")
    partial.replace(path)


def read(folder: Path, name: str, needed: tuple[str, ...] = ("label", "score"), file: str = FILE) -> Predictions:
    """The predictions of the run called ``name``, or what another ``file`` of its folder has of each item.

    Raises Unreadable where there are none, and where ``needed`` columns are missing or not finite.
    """
    try:
        # Opened here, because a path would bring in pyarrow's dataset layer: 10 ms per file.
        with (folder / file).open("rb") as opened:
            table = pq.ParquetFile(opened).read()
        columns = {column: _values(table[column]) for column in table.column_names}
        items = columns.pop("item")
        distinct = len(np.unique(items))
        arrays = [np.asarray(columns[column], dtype=float) for column in needed]
    except FileNotFoundError:
        raise Unreadable(f"{name} has no {file}") from None
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise Unreadable(f"{file} of {name} cannot be read ({type(error).__name__})") from None
    if len(items) == 0 or distinct != len(items):
        raise Unreadable(f"{file} of {name} names no item, or one twice")
    if not all(np.isfinite(values).all() for values in arrays):
        raise Unreadable(f"predictions of {name} are not all finite")
    order = np.argsort(items)
    return Predictions(items[order], {column: values[order] for column, values in columns.items()})


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """As an array; of numbers without nulls without pandas, whose import takes longer than a report."""
    plain = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return np.from_dlpack(column.combine_chunks()) if plain and not column.null_count else column.to_numpy()
