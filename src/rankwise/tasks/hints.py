"""What may be the matter with a file that does not read as the task says, and the option that reads it."""

import re
from typing import Any

from rankwise.errors import did_you_mean

TAB = "\t"
_SHOWN = 12  # column names in a message
_KINDS = (  # what the first bytes of a file say that it is, and what to do
    (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack it, or save it as CSV"),
    (b"\x1f\x8b", "packed by gzip: name it .gz, or unpack it"),
    (b"BZh", "packed by bzip2: name it .bz2, or unpack it"),
    (b"\xfd7zXZ", "packed by xz: name it .xz, or unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it, or pack it by gzip"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet: save it as CSV"),
    (b"PAR1", "Parquet: task.format=parquet reads it"),
)
_FORMS = (  # what the first line of a text file says that it is, and what to do
    (r"version https://git-lfs", "the file is a pointer of git LFS: git lfs pull fetches the data"),
    (r"\s*<[?!\w]", "it is XML or HTML: save its rows as CSV or JSON"),
    (r"\s*[{[]", "it looks like JSON: task.format=jsonl reads it"),
    (r"#", "a remark stands above the header: take it out"),
)
_TEMPLATE = "task=prompts 'task.template=\"{}\"' task.completion={}"
_LAYOUTS = (  # the columns of a layout that is known, and the options that read it
    ({"messages"}, "task=chat"),
    ({"conversations"}, "task=chat task.messages=conversations"),
    ({"instruction", "input", "output"}, _TEMPLATE.format("{instruction} {input}", "output")),
    ({"instruction", "context", "response"}, _TEMPLATE.format("{instruction} {context}", "response")),
    ({"instruction", "output"}, "task=prompts task.prompt=instruction task.completion=output"),
    ({"question", "answer"}, "task=prompts task.prompt=question task.completion=answer"),
    ({"message_id", "parent_id", "role", "text"}, "task=chat task.format=oasst"),
    ({"message_tree_id", "prompt"}, "task=chat task.format=oasst"),
    ({"prompt", "chosen"}, "task=prompts task.completion=chosen"),
    ({"prompt", "completion"}, "task=prompts"),
    ({"chosen", "rejected"}, "task=prompts task.prompt=null task.completion=chosen"),
)


def binary(head: bytes) -> str:
    """What a file is that is no text, from its first bytes."""
    kind = next((kind for magic, kind in _KINDS if head.startswith(magic)), None)
    if kind is None and head[257:262] == b"ustar":
        kind = "a tar archive: unpack it"
    if kind is None and head[1:2] == b"\0" != head[:1]:
        kind = "perhaps UTF-16: task.encoding=utf-16-le reads it"
    return kind or "save it as CSV, JSON or Parquet, or give task.encoding"


def delimiter(text: str, key: str = "") -> str:
    """What parts a line of a text table that was taken for one cell, where the column for ``key`` was looked for."""
    if form := next((form for pattern, form in _FORMS if re.match(pattern, text, re.IGNORECASE)), None):
        return form
    sign = next((sign for sign in ("|||", "||", "\t", ";", "|", ",") if sign in text), None)
    first_word = "task.format=lines 'task.columns=[label,text]' takes the first word as the label"
    if key == "text":  # there is a label, or none is asked for
        first_word = "task.format=lines 'task.columns=[text]' takes each line as a text"
    if sign is None or text.startswith("__label__"):
        return f"{first_word}; task=text learns plain text"
    option = "task.delimiter=tab" if sign == "\t" else f"'task.delimiter=\"{sign}\"'"
    names = ", with 'task.columns=[NAME,NAME]'" if len(sign) > 1 else ""
    other = f"; {first_word}" if len(sign) == 1 and " " in text.split(sign)[0].strip() else ""
    return f"is task.delimiter right? {option} parts it{names}{other}"


def quotes(header: str) -> str:
    """What to do about a table whose quotes end where no field does."""
    sign = next((sign for sign in (";", TAB, "|") if sign in header and "," not in header), None)
    return delimiter(sign) if sign else "a quote inside quotes is written twice; with task.format=tsv, quotes are text"


def fields(cells: list[str], names: list[str], sign: str, quoted: bool) -> str:
    """What to do about a line that has more or fewer fields than the table has columns."""
    if names[0].startswith(("{", "[")):
        return delimiter(names[0])
    for alone in (cells, names):
        if len(alone) == 1 and (hint := delimiter(alone[0])).startswith("is"):
            return hint
    if len(names) == 1:
        return "the first line was taken as the header; take it out, if it is none"
    if not quoted and cells[0].startswith('"'):
        return f"task.format=csv{' task.delimiter=tab' if sign == TAB else ''} reads fields in quotes"
    rest = (
        "; 'task.columns=[NAME,…,...]' leaves further fields out, and with task.format=lines the last of task.columns "
        "takes the rest of the line"
    )
    if 1 < len(cells) < len(names):
        rest = "; where the first line is no header, 'task.columns=[NAME,…,...]' names the columns that all lines have"
    return f"give the right task.delimiter (now {sign!r}), task.format or task.columns, or mend the line{rest}"


def columns(key: str, column: str, row: dict[str, Any], table: Any) -> str:
    """What a row has instead of a column, and what may be the matter."""
    names = [str(name) for name in row if str(name).strip()]
    shown = [name if name.isprintable() else ascii(name) for name in names]
    near = "" if table.header and len(names) == 1 else did_you_mean(column, shown)
    listed = ", ".join(shown[:_SHOWN]) + (f", … ({len(shown)} in all)" if len(shown) > _SHOWN else "")
    cause = _cause(key, column, row, names, table, bool(near))
    return f"has the columns {listed}{near}" + (f"; {cause}" if cause else "")


def _cause(key: str, column: str, row: dict[str, Any], names: list[str], table: Any, near: bool) -> str:
    is_json = table.encoding and not table.header  # which oasst is read from
    layouts = [options for known, options in _LAYOUTS if known <= row.keys()]
    layout = next((options for options in layouts if is_json or "task.format" not in options), None)
    inside = _path(row, column)
    if layout and column not in layout.replace("=", " ").split():
        return f"{layout} reads such rows"
    if f"{column} (twice)" in row:
        return f"two columns are named {column}: rename one"
    lists = [row[name][:1] for name in names if isinstance(row[name], list)]
    if names and len(lists) == len(names) > 1 and all(isinstance(entry, dict) for first in lists for entry in first):
        return "save each list of rows in a file of its own"
    if inside:
        return f"task.{key}={inside} reads what is inside {inside.partition('.')[0]}"
    if key == "label" and table.part != "train":
        return f"rows without labels cannot test: {table.parts}={{train: NAME}} leaves them out"
    line = TAB.join(names)
    if table.header and names and (len(names) == 1 or line.startswith("{")) and "" not in row:
        return delimiter(line, key)
    if any(not name.isprintable() for name in names):
        return "an invisible character is in a name"
    if "" in row and len(names) < 2:
        return f"a column has no name: \"task.{key}=''\" is that one"
    header = (
        f"; where the first line is no header, 'task.columns=[NAME,…]' names the {len(names)} columns"
        if table.header
        else ""
    )
    flags = sum(str(row[name]).lower() in ("0", "1", "true", "false") for name in names) if key == "label" else 0
    if flags > 1:
        header += (
            "; where each class has a column of 0 and 1, table[[NAME, …]].idxmax(axis=1) of pandas makes one of them"
        )
    return "" if near else f"task.{key}=NAME is one of them{header}"


def _path(cells: Any, column: str, depth: int = 3) -> str | None:
    """The way to a column that is inside others, as ``ann.0.label``; of a list the first entry is looked into."""
    inner = cells.items() if isinstance(cells, dict) else enumerate(cells[:1]) if isinstance(cells, list) else ()
    ways = ((name, "" if name == column else depth and _path(value, column, depth - 1)) for name, value in inner)
    return next((f"{name}.{way}".removesuffix(".") for name, way in ways if way or way == ""), None)
