"""Files of rows: text tables, JSON, plain lines and Parquet, read a piece at a time.

A reader yields rows as they stand: the number of a row where it can be looked up, and its cells by column. It holds
no more than a line, or ``CHUNK`` rows of Parquet, so a file may be larger than memory; an array of JSON is held whole.
Cells are not converted: pandas and ``datasets`` make dates and floats of texts and whole numbers.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import json
import lzma
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rankwise.config import Task
from rankwise.errors import Refused

Row = tuple[int, dict[str, Any] | None]  # number and cells; None for a line that its format leaves out

CHUNK = 2048  # rows of a binary table that are held at a time
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = {
    ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_LONGEST_FIELD = 1 << 24  # characters; what is longer is a quote that is never closed
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # no text has these, in no encoding of one byte
_BINARY = "not text, but binary; save it as CSV, JSON or Parquet, or give task.encoding"
_TAB = ("\\t", "tab")  # how a shell lets a tab be written


@dataclass(frozen=True)
class Table:
    """One file or split, which can be read any number of times."""

    name: str  # for messages
    read: Callable[[], Iterator[Row]]
    part: str = "train"  # that its rows are of; training rows may yet be cut
    source: str = ""  # its bare name, by which test scores may be grouped
    unit: str = "line"  # what its rows are numbered by
    encoding: str | None = None  # of a text file
    header: bool = False  # its columns are named in a line of its own, or by task.columns


def suffix(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    return Path(Path(name).stem if Path(name).suffix in _COMPRESSED else name).suffix


def file_format(path: Path, given: str | None) -> str:
    """``task.format``, else what the file's suffix says; a text table with tabs where it says nothing.

    ``e2e`` is a set of files, of the format that their suffixes say.
    """
    return (given if given != "e2e" else None) or SUFFIXES.get(suffix(path), "tsv")


def delimiter(task: Task) -> str | None:
    """``task.delimiter``, tabs however they are written."""
    return "\t" if task.delimiter in _TAB else task.delimiter


def read_file(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """The rows of a text table, lines, JSON or Parquet. Raises Refused for what is none, naming file and line."""
    form, parted = file_format(path, task.format), delimiter(task)
    if form == "parquet":
        return parquet(path)
    if form == "jsonl":
        return json_array(path, encoding) if is_array(path, encoding) else json_lines(path, encoding)
    if form == "lines" or len(parted or "") > 1:
        return split_lines(path, encoding, parted, task.columns)
    parted = parted or ("," if form == "csv" else "\t")
    return delimited(path, encoding, parted, quoted=form == "csv", columns=task.columns)


def delimited(
    path: Path, encoding: str, delimiter: str, quoted: bool, columns: list[str] | None, short: bool = False
) -> Iterator[Row]:
    """Rows of a text table, its header line first where ``columns`` names none; blank lines count and are passed over.

    ``quoted``: a field in double quotes may hold delimiters, line breaks and, doubled, quotes; else quotes are text.
    ``short``: lines with too few fields are left out instead of refused, and fields too many cut off.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines(path, encoding), delimiter=delimiter, quoting=quoting, strict=True)
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
            rest = "; with task.format=lines the last of task.columns takes the rest of the line"
            raise Refused(
                f"task data {path} line {number}: not a text table of {len(names)} columns, the line has "
                f"{len(fields)}; {remedy}{rest if len(fields) > len(names) else ''}"
            )


def split_lines(path: Path, encoding: str, parted: str | None, columns: list[str] | None) -> Iterator[Row]:
    """Rows of a line each, without a header: fields behind a delimiter of any length (null: blanks), as many as
    ``columns``; the last takes the rest of the line. White space around a field is not part of it.
    """
    if not columns:
        raise Refused("task.format=lines: name what is in a line, as task.columns=[label,text]")
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        fields = line.strip().split(None if parted is None or parted.isspace() else parted, len(columns) - 1)
        if len(fields) < len(columns):
            raise Refused(
                f"task data {path} line {number}: {len(fields)} of the {len(columns)} task.columns, parted by "
                f"{'blanks' if parted is None else repr(parted)}; give the right task.delimiter, or mend the line"
            )
        yield number, {name: field.strip() for name, field in zip(columns, fields, strict=True)}


def plain_lines(path: Path, encoding: str) -> Iterator[Row]:
    """The lines of a plain text that are not blank, with their ends, as the column ``text``."""
    return ((number, {"text": line}) for number, line in enumerate(lines(path, encoding), 1) if line.strip())


def json_lines(path: Path, encoding: str) -> Iterator[Row]:
    """Rows of a file with one JSON object per line."""
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise Refused(f"task data {path} line {number}: not one JSON object per line ({where})") from None
        if not isinstance(value, dict):
            raise Refused(f"task data {path} line {number}: not one JSON object per line, but {type(value).__name__}")
        yield number, value


def is_array(path: Path, encoding: str) -> bool:
    """Whether a JSON file is one array."""
    first = next((line for line in lines(path, encoding) if line.strip()), "")
    return first.lstrip().startswith("[")


def json_array(path: Path, encoding: str) -> Iterator[Row]:
    """Rows of a file that is one JSON array of objects, numbered from 1."""
    for number, value in enumerate(read_json(path, encoding), 1):
        if not isinstance(value, dict):
            raise Refused(f"task data {path} entry {number}: not a JSON object, but {type(value).__name__}")
        yield number, value


def read_json(path: Path, encoding: str) -> Any:
    """A whole JSON file, of the formats that are one value. Raises Refused where it is none."""
    try:
        return json.loads("".join(lines(path, encoding)))
    except ValueError as error:
        raise Refused(f"task data {path}: not JSON ({error})") from None


def parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=CHUNK)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"task data {path}: not a Parquet file, or a broken one ({error})") from None


def split_rows(split: Any) -> Iterator[Row]:
    """Rows of a split of ``datasets``, numbered from 1."""
    batches = split.iter(batch_size=CHUNK)
    cells = ((batch, row) for batch in batches for row in zip(*batch.values(), strict=True))
    return enumerate((dict(zip(names, row, strict=True)) for names, row in cells), 1)


def lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file with their ends. Raises Refused for binary, and for bytes that are not its encoding."""
    try:
        with _opened(path, "rt", encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise Refused(f"task data {path} line {number}: not text, but binary")
                yield line
    except LookupError:
        raise Refused.value("task.encoding", encoding, "a name that Python knows, as utf-8 or latin-1") from None
    except UnicodeError as error:
        where = _undecodable(path, encoding)
        raise Refused.value("task.encoding", encoding, f"{path}{where} is not in it ({error})") from None


def encoding_of(path: Path, given: str | None) -> str:
    """``task.encoding``, else UTF-8 where every line is; else cp1252 where its bytes are, or Latin-1.

    Raises Refused for binary, and where most lines that are not ASCII are UTF-8: one bad byte must not change them all.
    """
    if given:
        return given
    utf8 = other = bad = control = 0
    encoding = "cp1252"
    with _opened(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            if b"\0" in line:
                raise Refused(f"task data {path} line {number}: {_BINARY}")
            if not control and _CONTROL.search(line):
                control = number
            if line.isascii():
                continue
            if _decodes(line, "utf-8"):
                utf8 += 1
                continue
            other, bad = other + 1, bad or number
            encoding = encoding if _decodes(line, encoding) else "latin-1"
    if not other:
        return "utf-8-sig"
    if control:
        raise Refused(f"task data {path} line {control}: {_BINARY}")
    if utf8 > other:
        raise Refused(
            f"task data {path} line {bad}: not UTF-8, as {utf8} other lines are; mend it, or give task.encoding=cp1252"
        )
    return encoding


@contextlib.contextmanager
def _opened(path: Path, mode: str, **keys: Any) -> Iterator[IO[Any]]:
    """The file, unpacked. Raises Refused where it cannot be read."""
    try:
        with _COMPRESSED.get(path.suffix.lower(), open)(path, mode, **keys) as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise Refused(f"task data {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(path: Path, encoding: str) -> str:
    """`` line N``, the first that cannot be decoded by itself; empty where none is alone to blame."""
    with _opened(path, "rb") as file:
        return next((f" line {number}" for number, line in enumerate(file, 1) if not _decodes(line, encoding)), "")


def _distinct(names: list[str], path: Path, line: int) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice == "":
        raise Refused(f"task data {path} line {line}: cells of the header are empty; name or take out those columns")
    if twice is not None:
        raise Refused(f"task data {path} line {line}: not a text table, two of its columns are named {twice!r}")
    return names
