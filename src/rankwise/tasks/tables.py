"""Files of rows: text tables, JSON lines and Parquet, read a piece at a time.

A reader yields rows as they stand: the number of a row where it can be looked up, and its cells by column. It holds
no more than a line, or ``CHUNK`` rows of Parquet, so a file may be larger than memory.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankwise.config import Task
from rankwise.errors import Refused

Row = tuple[int, dict[str, Any] | None]  # number and cells; None for a line that its format leaves out

CHUNK = 2048  # rows of a binary table that are held at a time
_LONGEST_FIELD = 1 << 24  # characters; what is longer is a quote that is never closed
_SUFFIXES = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # no text has these, in no encoding of one byte


@dataclass(frozen=True)
class Table:
    """One file or split, which can be read any number of times."""

    name: str  # for messages
    read: Callable[[], Iterator[Row]]
    part: str = "train"  # that its rows are of; training rows may yet be cut
    source: str = ""  # its bare name, by which test scores may be grouped
    unit: str = "line"  # what its rows are numbered by


def file_format(path: Path, given: str | None) -> str:
    """``task.format``, else what the file's suffix says; a text table with tabs where it says nothing."""
    return given or _SUFFIXES.get(path.suffix.lower(), "tsv")


def read_file(path: Path, task: Task) -> Iterator[Row]:
    """The rows of a CSV, TSV, JSON lines or Parquet file. Raises Refused for what is none, naming file and line."""
    form = file_format(path, task.format)
    if form == "parquet":
        return parquet(path)
    if form == "jsonl":
        return json_lines(path, task.encoding)
    delimiter = task.delimiter or ("," if form == "csv" else "\t")
    return delimited(path, task.encoding, delimiter, quoted=form == "csv", columns=task.columns)


def delimited(
    path: Path, encoding: str | None, delimiter: str, quoted: bool, columns: list[str] | None, short: bool = False
) -> Iterator[Row]:
    """Rows of a text table, its header line first where ``columns`` names none; blank lines count and are passed over.

    ``quoted``: a field in double quotes may hold delimiters, line breaks and, doubled, quotes; else quotes are text.
    ``short``: lines with too few fields are left out instead of refused, and fields too many cut off.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    text = lines(path, encoding)
    if quoted:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    names = _distinct(columns, path, 1) if columns else None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise Refused(f"task data {path} line {number}: not a text table ({error})") from None
        if fields is None:
            return
        if not any(map(str.strip, fields)):
            continue
        if names is None:
            names = _distinct([field.strip() for field in fields], path, number)
        elif len(fields) == len(names) or (short and len(fields) > len(names)):
            yield number, dict(zip(names, fields, strict=False))
        elif short:
            yield number, None
        else:
            remedy = f"give the right task.delimiter (now {delimiter!r}), task.format or task.columns, or mend the line"
            raise Refused(
                f"task data {path} line {number}: not a text table of {len(names)} columns, "
                f"the line has {len(fields)}; {remedy}"
            )


def json_lines(path: Path, encoding: str | None) -> Iterator[Row]:
    """Rows of a file with one JSON object per line."""
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise Refused(f"task data {path} line {number}: not one JSON object per line ({_reason(error)})") from None
        if not isinstance(value, dict):
            kind = "an array" if isinstance(value, list) else type(value).__name__
            raise Refused(f"task data {path} line {number}: not one JSON object per line, but {kind}")
        yield number, value


def _reason(error: ValueError) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1."""
    import pyarrow as pa
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=CHUNK):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"task data {path}: not a Parquet file, or a broken one ({error})") from None


def read_json(path: Path, encoding: str | None) -> Any:
    """A whole JSON file, of the formats that are one value. Raises Refused where it is none."""
    try:
        return json.loads("".join(lines(path, encoding)))
    except ValueError as error:
        raise Refused(f"task data {path}: not JSON ({error})") from None


def lines(path: Path, encoding: str | None) -> Iterator[str]:
    """The lines of a text file with their ends. ``encoding`` null: UTF-8, else Latin-1. Raises Refused for binary."""
    try:
        encoding = encoding or _encoding(path)
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise Refused(f"task data {path} line {number}: not text, but binary")
                yield line
    except LookupError:
        raise Refused.value("task.encoding", encoding, "a name that Python knows, as utf-8 or latin-1") from None
    except UnicodeError as error:
        where = _undecodable(path, encoding or "")
        raise Refused.value("task.encoding", encoding, f"{path}{where} is not in it ({error})") from None
    except OSError as error:
        raise Refused(f"task data {path}: cannot be read ({error.strerror})") from None


def _encoding(path: Path) -> str:
    """UTF-8, with or without a byte order mark, where the whole file is; else Latin-1, which any text can be."""
    decoder, utf8, control, line = codecs.getincrementaldecoder("utf-8")(), True, 0, 1
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if (zero := block.find(b"\0")) >= 0:
                number = line + block.count(b"\n", 0, zero)
                raise Refused(f"task data {path} line {number}: not text, but binary; or give task.encoding")
            if not control and (found := _CONTROL.search(block)):
                control = line + block.count(b"\n", 0, found.start())
            line += block.count(b"\n")
            utf8 = utf8 and _decodes(decoder, block)
        utf8 = utf8 and _decodes(decoder, b"", final=True)
    if not utf8 and control:
        raise Refused(f"task data {path} line {control}: not text, but binary; or give task.encoding")
    return "utf-8-sig" if utf8 else "latin-1"


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(path: Path, encoding: str) -> str:
    """`` line N``, the first that cannot be decoded by itself; empty where none is alone to blame."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return f" line {number}"
    return ""


def _distinct(names: list[str], path: Path, line: int) -> list[str]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise Refused(f"task data {path} line {line}: not a text table, two of its columns are named {twice[0]!r}")
    return names
