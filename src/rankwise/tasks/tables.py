"""Files of rows: text tables, JSON, plain lines and Parquet, read a piece at a time.

A reader yields rows as they stand: where a row can be looked up, and its cells by column. It holds no more than a
line, or ``CHUNK`` rows of Parquet, so a file may be larger than memory; a file that is one JSON value is held whole.
Cells are not converted: pandas and ``datasets`` make dates and floats of texts and whole numbers.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import itertools
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from rankwise.config import TABS, Task
from rankwise.errors import Refused
from rankwise.files import shown
from rankwise.tasks import hints

Row = tuple[str, dict[str, Any] | None]  # its place, as "line 7", and its cells; None where its format leaves it out

UNLABELLED = ("unsup", "unsupervised", "unlabeled", "unlabelled")  # folders beside those of the classes
CHUNK = 2048  # rows of a binary table that are held at a time
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".parquet": "parquet", ".pq": "parquet"}
SUFFIXES |= dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl")
_LONGEST_FIELD = 1 << 24  # characters; what is longer is a quote that is never closed
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # a text hardly has these, in any encoding of one byte
_HARDLY = 0.03  # of a text's bytes; of random ones it is a tenth
_MARKS = (  # byte order marks; that of UTF-32 begins as that of UTF-16
    ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
_DOCUMENT_END = re.compile(r"<\|end_?of_?text\|>|</s>")
_INVISIBLE = "\u200b\u2060\ufeff"  # around a name, from a web page or a file in the middle of another
_SIGN = re.compile(r'"?sep=(.)"?\s*')  # Excel's first line, which names the delimiter


@dataclass(frozen=True)
class Table:
    """One file or split, which can be read any number of times."""

    name: str  # for messages
    read: Callable[[], Iterator[Row]]
    part: str = "train"  # that its rows are of; training rows may yet be cut
    source: str = ""  # its bare name, by which test scores may be grouped
    encoding: str | None = None  # of a text file
    header: bool = False  # its columns are named in a line of its own, or by task.columns
    classes: dict[str, list[str]] = field(default_factory=dict)  # by column, what ``datasets`` calls its numbers
    parts: str = "task.files"  # the key that says which part is which
    quotes: bool = False  # are text, which task.format=csv takes off


def suffix(path: Path) -> str:
    """``.csv`` of ``a.csv`` and of ``a.csv.gz``."""
    name = path.name.lower()
    return Path(Path(name).stem if Path(name).suffix in _COMPRESSED else name).suffix


def file_format(path: Path, name: str | None) -> str:
    """``task.format``, else what the file's suffix says; a text table with tabs where it says nothing.

    ``e2e`` is a set of files, of the format that their suffixes say.
    """
    return (name if name != "e2e" else None) or SUFFIXES.get(suffix(path), "tsv")


def read_file(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """The rows of a text table, lines, JSON or Parquet. Raises Refused for what is none, naming file and line."""
    form = file_format(path, task.format)
    sign = "\t" if task.delimiter in TABS else task.delimiter
    if form == "parquet":
        return parquet(path)
    if form == "jsonl":
        return json_rows(path, encoding, task)
    if form == "lines" or len(sign or "") > 1:
        return split_lines(path, encoding, sign, task.columns)
    return delimited(path, encoding, sign or ("," if form == "csv" else "\t"), form == "csv", task.columns)


def delimited(
    path: Path, encoding: str, delimiter: str, quoted: bool, columns: list[str] | None, short: bool = False
) -> Iterator[Row]:
    """Rows of a text table, its header line first where ``columns`` names none; blank lines are passed over.

    ``quoted``: a field in double quotes may hold delimiters, line breaks and, doubled, quotes; else quotes are text.
    ``short``: lines with too few fields are left out instead of refused, and fields too many cut off.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rest = lines(path, encoding)
    first = next(rest, "")
    sign = _SIGN.fullmatch(first) if quoted else None
    delimiter, text = (sign[1], rest) if sign else (delimiter, itertools.chain([first], rest))
    reader, above = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True), 2 if sign else 1
    short_names = columns[:-1] if columns and columns[-1] == "..." else None
    names = _names(short_names or columns) if columns else None
    for number in itertools.count(1):  # as a spreadsheet counts rows
        row = f" (row {number})" if reader.line_num >= number else ""  # a cell above had several lines
        where = f"line {reader.line_num + above}{row}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            remedy = hints.quotes(first)
            raise Refused(f"task data {path} {where}: not a text table ({error}); {remedy}") from None
        if fields is None:
            return
        if not any(map(str.strip, fields)):
            continue
        if names is None:
            if first.startswith("<") and "</" in first:  # all of it may stand in one line
                raise Refused(f"task data {path} {where}: no header; {hints.delimiter(first)}")
            names = _names(fields)
        elif len(fields) >= len(names) and (short or short_names or not any(map(str.strip, fields[len(names) :]))):
            yield where, dict(zip(names, fields, strict=False))
        elif short:
            yield where, None
        else:
            what = f"not a text table of {len(names)} columns, the line has {len(fields)}"
            raise Refused(f"task data {path} {where}: {what}; {hints.fields(fields, names, delimiter, quoted)}")


def _names(fields: list[str]) -> list[str]:
    """Names of columns as a text table has them."""
    return _apart([field.strip().strip(_INVISIBLE) for field in fields])


def _apart(names: list[str]) -> list[str]:
    """Names of columns; one that several columns have is marked, so that none of them is taken for it."""
    return [name if names.count(name) == 1 or not name else f"{name} (twice)" for name in names]


def split_lines(path: Path, encoding: str, parted: str | None, columns: list[str] | None) -> Iterator[Row]:
    """Rows of a line each, without a header: fields behind a delimiter of any length (null: blanks), as many as
    ``columns``; the last takes the rest of the line. White space around a field is not part of it.
    """
    if not columns:
        raise Refused("task.columns=null: name what is in a line, as 'task.columns=[label,text]'")
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        fields = line.strip().split(None if parted is None or parted.isspace() else parted, len(columns) - 1)
        if len(fields) < len(columns):
            raise Refused(
                f"task data {path} line {number}: {len(fields)} of the {len(columns)} task.columns, parted by "
                f"{'blanks' if parted is None else repr(parted)}; give the right task.delimiter, or mend the line"
            )
        yield f"line {number}", {name: field.strip() for name, field in zip(columns, fields, strict=True)}


def plain_text(path: Path, encoding: str, between: str | None) -> Iterator[Row]:
    """The lines of a plain text that are not blank, with their ends, or the documents between marks, as ``text``."""
    text, begun = "", 1
    for number, line in enumerate(lines(path, encoding), 1):
        if not between and _DOCUMENT_END.fullmatch(line.strip()):
            option = f"""'task.delimiter="{line.strip()}"'"""
            raise Refused(f"task data {path} line {number}: the end of a document; {option} reads whole documents")
        *ended, rest = line.split(between) if between else (line, "")
        for piece in ended:
            if (text + piece).strip():
                yield f"line {begun}", {"text": (text + piece).strip() if between else line}
            text, begun = "", number
        text += rest
    if text.strip():
        yield f"line {begun}", {"text": text.strip()}


def json_rows(path: Path, encoding: str, task: Task) -> Iterator[Row]:
    """Objects, one a line; or one value: a list of them, an object around such a list, or an object of columns."""
    written = ((number, line) for number, line in enumerate(lines(path, encoding), 1) if line.strip())
    first = list(itertools.islice(written, 2))
    if not first:
        return
    values: Iterable[tuple[str, Any]]
    try:
        json.loads(first[0][1])
        alone = len(first) == 1
    except (ValueError, RecursionError):
        alone = True  # the whole file is one value on several lines, or is no JSON
    if alone:
        whole = _records(read_json(path, encoding), task)
        values = [(f"line {first[0][0]}", whole)] if isinstance(whole, dict) else _numbered("entry", whole)
    else:
        every = itertools.chain(first, written)
        values = ((f"line {number}", _loads(path, line.rstrip(), number)) for number, line in every)
    for where, value in values:
        cells = dict(zip(task.columns, value, strict=False)) if task.columns and isinstance(value, list) else value
        if not isinstance(cells, dict):
            remedy = "; 'task.columns=[NAME,…]' names what is in it" if isinstance(cells, list) else ""
            raise Refused(f"task data {path} {where}: not a JSON object, but {type(value).__name__}{remedy}")
        yield where, cells


def _records(value: Any, task: Task) -> Any:
    """The rows of a whole JSON file as a list of objects; one object where it is a row itself."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    named = (task.label, task.text, task.prompt, task.completion, task.messages, task.pair)
    asked = [name for name in value if name in named or f"{{{name}}}" in (task.template or "")]
    inner = list(value.values())
    if asked and len(inner) > 1 and all(isinstance(column, list) and len(column) == len(inner[0]) for column in inner):
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    lists = [rows for rows in inner if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return lists[0] if len(lists) == 1 and not asked else value


def read_json(path: Path, encoding: str) -> Any:
    """A whole JSON file, of the formats that are one value. Raises Refused where it is none."""
    return _loads(path, "".join(lines(path, encoding)), 1)


def _loads(path: Path, text: str, line: int) -> Any:
    """The JSON value that begins in this line. Raises Refused where there is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        remedy = "a file is one value, or has an object on each line; of CSV, give task.format=csv"
        if "property name" in error.msg:
            remedy = "names stand in double quotes, as json.dumps of Python writes them"
        where = f"{path} line {line + error.lineno - 1} column {error.colno}"
        raise Refused(f"task data {where}: not JSON ({error.msg}); {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"task data {path} line {line}: not JSON ({error})") from None


def parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=CHUNK)
            names = _apart(file.schema_arrow.names)
            tables = (batch.rename_columns(names) for batch in batches)
            yield from _numbered("row", (row for table in tables for row in table.to_pylist()))
    except (pa.ArrowException, OSError) as error:
        remedy = "of a text file, give task.format=csv or jsonl"
        raise Refused(f"task data {path}: not a Parquet file, or a broken one ({error}); {remedy}") from None


def split_rows(split: Any) -> Iterator[Row]:
    """Rows of a split of ``datasets``, numbered from 1."""
    batches = split.iter(batch_size=CHUNK)
    cells = ((batch, row) for batch in batches for row in zip(*batch.values(), strict=True))
    return _numbered("row", (dict(zip(names, row, strict=True)) for names, row in cells))


def of_class(path: Path, task: Task, encoding: str, label: str) -> Iterator[Row]:
    """Rows of a file that holds one class: those of a table, or the lines of any other file."""
    form = file_format(path, None)
    if form == "tsv" and suffix(path) != ".tsv":
        rows: Iterator[Row] = plain_text(path, encoding, None)
        return ((where, {task.text: cells["text"].strip(), task.label: label}) for where, cells in rows if cells)
    rows = read_file(path, replace(task, format=form), encoding)
    return ((where, {**cells, task.label: label}) for where, cells in rows if cells)


def class_names(path: Path) -> dict[str, list[str]]:
    """By column, the names that ``datasets`` keeps in the schema of a Parquet file for the numbers of classes."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        written = json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        features = written.get("info", {}).get("features", {})
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (pa.ArrowException, OSError, ValueError, AttributeError, KeyError):
        return {}  # no Parquet, which its reader says, or a stranger's key of this name


def class_folders(folder: Path, encoding: str | None) -> Iterator[Row]:
    """The files of folders that are named as classes: column ``label`` is the folder's name, ``text`` a whole file."""
    for path in class_files(folder):
        text = "".join(lines(path, encoding_of(path, encoding)))
        yield f"file {path.relative_to(folder)}", {"text": text, "label": path.parent.name}


def class_files(folder: Path) -> list[Path]:
    """The files in the folders of a folder that may each be a class."""
    return [path for path in shown(folder) if path.parent.parent == folder and path.parent.name not in UNLABELLED]


def _numbered(unit: str, rows: Any) -> Iterator[tuple[str, Any]]:
    return ((f"{unit} {number}", row) for number, row in enumerate(rows, 1))


def lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file with their ends. Raises Refused for binary, and for bytes that are not its encoding.

    ``encoding`` may be two, as ``utf-8+cp1252``: bytes that are not in the first are of the second.
    """
    first, _, other = encoding.partition("+")
    try:
        errors = _decoding_as(other) if other else "strict"
        first = "utf-8-sig" if codecs.lookup(first).name == "utf-8" else first  # no byte order mark is a text
        with _opened(path, "rt", encoding=first, errors=errors, newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise Refused(f"task data {path} line {number}: not text, but binary; {hints.binary(b'')}")
                yield line
    except LookupError:
        raise Refused.value("task.encoding", encoding, "a name that Python knows, as utf-8 or latin-1") from None
    except UnicodeError as error:
        where = _undecodable(path, first)
        raise Refused.value("task.encoding", encoding, f"{path}{where} is not in it ({error})") from None


def _decoding_as(encoding: str) -> str:
    """The name under which ``open`` finds what reads undecodable bytes in this encoding. Raises LookupError."""
    name = f"rankwise.{codecs.lookup(encoding).name}"
    codecs.register_error(name, lambda e: (e.object[e.start : e.end].decode(encoding, "replace"), e.end))  # type: ignore[attr-defined]
    return name


def encoding_of(path: Path, wanted: str | None) -> str:
    """``task.encoding``, else UTF-8 where every line is; else cp1252 where its bytes are, or Latin-1.

    Raises Refused for binary, and where most lines that are not ASCII are UTF-8: one bad byte must not change them all.
    """
    if wanted:
        return wanted
    utf8 = other = control = controls = 0
    encoding, bad = "cp1252", ""
    with _opened(path, "rb") as file:
        head = file.read(512)
        marked = next((name for name, marks in _MARKS if head.startswith(marks)), None)
        if marked:
            return marked
        file.seek(0)
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                raise Refused(f"task data {path} line {number}: not text, but binary; {hints.binary(head)}")
            if found := len(_CONTROL.findall(line)):
                control, controls = control or number, controls + found
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                utf8 += 1
                continue
            except UnicodeDecodeError as error:
                bad = bad or f"line {number}: byte {error.start + 1} of it (0x{line[error.start]:02x})"
            other += 1
            encoding = encoding if _decodes(line, encoding) else "latin-1"
    if not other:
        return "utf-8-sig"
    if controls > _HARDLY * path.stat().st_size:
        raise Refused(f"task data {path} line {control}: not text, but binary; {hints.binary(head)}")
    if utf8 > other:
        remedy = "mend it, or task.encoding=utf-8+cp1252 reads such bytes as cp1252 and all others as UTF-8"
        raise Refused(f"task data {path} {bad} is not UTF-8, as {utf8} other lines are; {remedy}")
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
    except UnicodeError:
        return False
    return True


def _undecodable(path: Path, encoding: str) -> str:
    """`` line N``, the first that cannot be decoded by itself; empty where none is alone to blame."""
    with _opened(path, "rb") as file:
        return next((f" line {number}" for number, line in enumerate(file, 1) if not _decodes(line, encoding)), "")
