"""Rows of a table as examples of a task: texts, label, conversation; and what a row is refused for."""

import functools
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.tasks import hints
from rankwise.tasks.sources import PART_NAMES, named_parts
from rankwise.tasks.splits import PARTS
from rankwise.tasks.tables import Table

Messages = list[dict[str, Any]]

_FIELD = re.compile(r"{([^{}]+)}")
_COMMA = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+)(?:,\d+)?(?:[eE][+-]?\d+)?")  # 1.234,5
_THOUSANDS = re.compile(r".*,\d{3}")  # 1,017 may be a thousand and seventeen
_WHOLE = re.compile(r"\+?(-?(?:0|[1-9]\d*))(?:\.0+)?")
_HALF = re.compile("[\ud800-\udfff]")  # of two that stand for one, which no tokenizer reads
_MOST = 1e30  # what is far below the square root of the largest float may be squared and summed up
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_SHAREGPT = {"human": "user", "observation": "tool"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard"), "assistant")
CALLS = ("tool_calls", "function_call")
_SOURCE = "source"  # as task.group, where no column is named so: the split or file that a row is of


@dataclass(slots=True)
class Example:
    """One example. A causal LM has a ``completion`` to ``text``, or ``messages``; its label is 0."""

    item: int
    part: str
    text: str
    label: str | float = 0.0  # as the data name the class, or a value
    pair: str | None = None
    group: str | None = None
    cluster: str | None = None  # what the column ``task.group`` holds: rows of one value are no independent items
    completion: str | None = None
    messages: Messages | None = None
    cell: "Cell | None" = None  # of the label

    @property
    def given(self) -> tuple[str, ...]:
        """The texts that decide its part: examples that share them stay together."""
        if self.messages is not None:
            first = next(number for number, message in enumerate(self.messages) if message["role"] == "assistant")
            return tuple(message["content"] for message in self.messages[:first] if message["role"] == "user")
        if self.completion is not None:
            return (self.text or self.completion,)
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says."""
        if self.messages is not None:
            return tuple(part for message in self.messages for part in (message["role"], *_said(message)))
        return tuple(text for text in (self.text, self.pair, self.completion) if text is not None)


def _said(message: dict[str, Any]) -> tuple[str, ...]:
    return (message["content"], *(json.dumps(message[key]) for key in CALLS if message.get(key)))


class Empty(Refused):
    """A cell has no text or no label; ``task.skip_empty`` leaves its row out."""


class Cell:
    """One cell of a row, which can say where it is.

    ``meta.label`` is what the column meta holds as label, ``labels.0`` the first that the list labels holds.
    """

    def __init__(self, key: str, column: str, row: dict[str, Any], table: Table, place: str, first: bool):
        self.key, self.column, self.table, self._place = key, column, table, place
        if column in row:  # nearly always, of millions
            self.value: Any = row[column]
            return
        self.value = row
        for name in column.split("."):
            if isinstance(self.value, list) and name.isdecimal():
                if int(name) >= len(self.value):
                    raise self.empty(f"which has nothing at {name} (the first is 0)")
                self.value = self.value[int(name)]
                continue
            if not isinstance(self.value, dict) or name not in self.value:
                if self.value is None or not (table.header or first):  # the first object says which keys there are
                    self.value = None
                    raise self.empty(f"no {key}")
                there = hints.columns(key, column, row, table)
                raise Refused(f"task.{key}={column}: {table.name if table.header else self.where} {there}")
            self.value = self.value[name]

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.table.name} {self._place}"

    @property
    def missing(self) -> bool:
        """Null, or the NaN that pandas writes for it."""
        return self.value is None or (isinstance(self.value, float) and math.isnan(self.value))

    def refused(self, why: str, kind: type[Refused] = Refused) -> Refused:
        """``task.label=score: ratings.tsv line 7 holds 'x', not a number``."""
        return kind(f"task.{self.key}={self.column}: {self.where} holds {reprlib.repr(self.value)}, {why}")

    def empty(self, why: str) -> Refused:
        return self.refused(f"{why}; task.skip_empty=true leaves such rows out", Empty)

    def text(self, empty: bool = False) -> str:
        """As it stands. Raises Refused where it is no text, or has none and ``empty`` does not allow that."""
        value = self.value
        if isinstance(value, (bool, list, dict, bytes)) or value in (math.inf, -math.inf):
            hint = "; to_json of pandas writes rows with orient='records'" if str(value).startswith("{'0':") else ""
            if any(key in str(value) for key in ("'role'", "'from'")):
                hint = f"; a conversation is task=chat task.messages={self.column}"
            raise self.refused(f"not a text{hint}")
        text = "" if self.missing else self.whole(str(value))
        if not (empty or text.strip()):
            raise self.empty("no text")
        return text

    def whole(self, text: str) -> str:
        """A text of whole characters. Raises Refused for another."""
        if _HALF.search(text):
            raise self.refused("half of a character, such as \\ud800")
        return text

    def label(self) -> str:
        """The name of a class: a whole number without a fraction, other numbers with all their digits. Of numbers that
        ``datasets`` has names for, the name; below 0 there is none.
        """
        value = self.value
        if isinstance(value, (list, dict, bytes)) or value in (math.inf, -math.inf):
            several = f"; a row has one: task.{self.key}={self.column}.0 reads the first"
            raise self.refused(f"not a label{several if isinstance(value, list) else ''}")
        if isinstance(value, int) and (names := self.table.classes.get(self.column)):
            value = names[value] if 0 <= value < len(names) else None
        text = "" if self.missing or value is None else class_name(value)
        if not text:
            raise self.empty(f"no {self.key}")
        return self.whole(text)

    def number_value(self, decimal: str = ".") -> float:
        """A finite number, in whose text ``decimal`` stands before the fraction."""
        text = str(self.value).strip()
        if self.missing or not text:
            raise self.empty("no number")
        if decimal == "," and isinstance(self.value, str):
            text = text.replace(".", "").replace(",", ".") if _COMMA.fullmatch(text) else "none"
        try:
            number = float(text if isinstance(self.value, str) else self.value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) < _MOST:
            commas = decimal == "." and "," in text and _COMMA.fullmatch(text) and not _THOUSANDS.fullmatch(text)
            remedy = """; 'task.decimal=","' reads commas""" if commas else ""
            remedy = "; take the percent signs off" if text.endswith("%") else remedy
            left_out = "; empty the cell, and task.skip_empty=true leaves the row out"
            raise self.refused(f"not a number{remedy or left_out * (not any(map(str.isdigit, str(self.value))))}")
        return number


def class_name(value: object) -> str:
    """One spelling of a value that names a class: true, 7 for 7.0, "7.0" and "+7", without blanks around it."""
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def examples(task: Task, tables: Sequence[Table], empty: Counter[str]) -> Iterator[Example | None]:
    """The examples of all tables in order, one at a time; None for a row that is left out: by its format, or empty.

    An example's item is the number of its row from 0, through all tables, also of those that are left out, but by their
    format; of a row with several examples each has one. In ``empty`` is counted which column left out how many.
    Raises Refused for a cell that does not fit, naming file, line and column, for a header that comes again, and for a
    table without rows.
    """
    read: Callable[[_Reader], Iterator[Example]] = _language if task.writes else _labelled
    part_of = split_parts(task) if task.split else {}
    least = 0.0 if task.writes else task.min_abs_label
    item, kept, asked = 0, set[str](), {*part_of.values()} if task.splits else set[str]()
    for table in tables:
        where, any_read, first = "", False, True
        for where, row in table.read():
            if row is None:
                yield None
                continue
            if len(row) > 1 and all(str(cell).strip("\ufeff \t").casefold() == n.casefold() for n, cell in row.items()):
                named = task.columns and task.format != "lines"
                remedy = "leave task.columns out, or the line" if named else "take the line out"
                raise Refused(f"task data {table.name} {where}: repeats the header; {remedy}")
            try:
                reader, first = _Reader(task, table, where, row, first), False
                reader.part = _part(reader, part_of) if task.split else table.part
                asked |= {reader.part} - {None}
                made = list(read(reader)) if reader.part else None
            except Empty as lacks:
                if not task.skip_empty:
                    raise
                empty[str(lacks).partition(": ")[0]] += 1
                made = None
            if made is None:
                item += 1
                yield None
                continue
            any_read = True
            for example in made:
                example.item, item = item, item + 1
                if not least or abs(float(example.label)) >= least:
                    kept.add(example.part)
                    yield _classified(task, example)
        if not where:
            raise Refused(f"task data {table.name}: no rows")
        if task.skip_empty and not any_read:
            without = f"; {table.parts}={{train: NAME}} does without it" if len(tables) > 1 else ""
            raise Refused(f"task data {table.name}: every row is left out{without}")
    if kept and (lacking := [part for part in PARTS if part in asked - kept]):
        values = ", ".join(name for name, part in part_of.items() if part == lacking[0])
        what = f"the {lacking[0]} part ({values})" if task.split else f"the {lacking[0]} part"
        remedy = f"{table.parts}={{train: NAME, …}} names what is there; a part that is not named is cut from train"
        raise Refused(f"task data: no row that is read is of {what}; {remedy}")


def split_parts(task: Task) -> dict[str, str]:
    """The part that each value of the column ``task.split`` stands for: as ``task.splits`` says, or by its name."""
    if not task.splits:
        return PART_NAMES
    values = task.splits.items() if isinstance(task.splits, dict) else ()
    lists = {part: names if isinstance(names, list | None) else [names] for part, names in values}
    named = named_parts({part: names and [*map(class_name, names)] for part, names in lists.items()}, "splits")
    pairs = [(name.lower(), part) for part, names in named.items() for name in names]
    if twice := [name for name, part in pairs if dict(pairs)[name] != part]:
        raise Refused.value("task.splits", twice[0], "one value for two parts, so that they would share their rows")
    return dict(pairs)


def _part(reader: "_Reader", part_of: dict[str, str]) -> str | None:
    """The part that the column ``task.split`` names; None where ``task.splits`` names other values alone."""
    cell = reader.cell("split")
    part = part_of.get(class_name(cell.value).lower())
    if part is None and not reader.task.splits:
        remedy = "task.splits={train: NAME, test: NAME} says which is which"
        raise cell.refused(f"none of {', '.join(part_of)}; {remedy}")
    return part


@dataclass(slots=True)
class _Reader:
    """One row, and how a task reads it."""

    task: Task
    table: Table
    place: str
    row: dict[str, Any]
    first: bool  # of its table
    part: Any = None

    def cell(self, key: str, column: str = "") -> Cell:
        return Cell(key, column or getattr(self.task, key), self.row, self.table, self.place, self.first)

    def example(self, text: str, **values: Any) -> Example:
        group = cluster = None
        if self.task.group == _SOURCE and _SOURCE not in self.row:
            group = self.table.source
        elif self.task.group is not None:
            group = cluster = self.cell("group").label()
        return Example(-1, self.part, text, group=group, cluster=cluster, **values)

    def prompt(self) -> str:
        """The prompt; columns of a template may be empty, but not all of them. Shells write a line break as ``\\n``."""
        if not self.task.template:
            return self.cell("prompt").text() if self.task.prompt else ""
        template, names = _template(self.task.template)
        cells = {name: self.cell("template", name) for name in names}
        texts = {name: cell.text(empty=True) for name, cell in cells.items()}
        if texts and not any(map(str.strip, texts.values())):
            raise cells[names[0]].empty("no text")
        return _FIELD.sub(lambda match: texts[match[1]], template)


@functools.cache
def _template(written: str) -> tuple[str, list[str]]:
    """What stands between the columns' names, and these."""
    template = written.replace("\\n", "\n").replace("\\t", "\t")
    return template, _FIELD.findall(template)


def _labelled(reader: _Reader) -> Iterator[Example]:
    """A text, or two, with a label: the name of a class or a value."""
    task, cell = reader.task, reader.cell("label")
    number = task.has_values or task.threshold is not None or task.min_abs_label
    text = reader.cell("text").text().strip()
    pair = reader.cell("pair").text().strip() if task.pair else None
    yield reader.example(text, pair=pair, label=cell.number_value(task.decimal) if number else cell.label(), cell=cell)


def _classified(task: Task, example: Example) -> Example:
    """A number as a class: above the threshold or not."""
    if task.has_classes and not isinstance(example.label, str):
        above = None if task.threshold is None else int(example.label > task.threshold)
        example.label = class_name(example.label if above is None else above)
    return example


def _language(reader: _Reader) -> Iterator[Example]:
    """A conversation, or a prompt with each of its completions, or a plain text."""
    task = reader.task
    if task.messages:
        messages = _conversation(reader.cell("messages"), task.replies == "last")
        if tools := reader.row.get("tools"):  # beside the messages, as OpenAI has them
            tools = _from_json(reader.cell("tools", "tools"), "a list of tools")
            messages[0] |= {"tools": tools}
        asked = [message["content"] for message in messages if message["role"] == "user"]
        yield reader.example(asked[-1], messages=messages)
    elif task.completion:
        prompt, cell = reader.prompt(), reader.cell("completion")
        if not isinstance(cell.value, list):
            yield reader.example(prompt, completion=cell.text())
            return
        if not cell.value:
            raise cell.empty("no text")
        for cell.value in list(cell.value):  # noqa: B020  a cell of several texts, one after the other
            yield reader.example(prompt, completion=cell.text())
    elif task.prompt or task.template:
        raise Refused.value("task.completion", None, "the column of what is to be written for task.prompt")
    else:
        yield reader.example("", completion=reader.cell("text").text())


def _conversation(cell: Cell, last: bool) -> Messages:
    """Messages with all that a chat template may want of them; {from, value} of ShareGPT are {role, content}. No reply
    that is learned, all or the ``last``, is empty.
    """
    value = _from_json(cell, "a list of messages")
    messages = [_message(message) for message in value] if isinstance(value, list) else [None]
    if None in messages:
        raise cell.refused(f"not a list of {{role, content}} whose roles are {', '.join(_ROLES)}")
    turns: Messages = [message for message in messages if message is not None]
    cell.whole("".join(message["content"] for message in turns))
    learned = [m for m in turns[:-1] if not last and m["role"] == "assistant" and m.get("weight") != 0] + turns[-1:]
    if not (turns and turns[-1]["role"] == "assistant" and all("".join(_said(m)).strip() for m in learned)):
        raise cell.empty("a conversation must end with a reply of the assistant, and replies must not be empty")
    roles = [message["role"] for message in turns if message["role"] == "assistant" or message["content"]]
    if "user" not in roles[: roles.index("assistant")]:
        raise cell.empty("a conversation needs a message of the user before the first reply")
    return turns


def _from_json(cell: Cell, what: str) -> Any:
    """A value as it stands, or as a text of JSON says it."""
    try:
        return json.loads(cell.value) if isinstance(cell.value, str) else cell.value
    except ValueError:
        raise cell.refused(f"not {what} in JSON") from None


def _message(message: object) -> dict[str, Any] | None:
    if not isinstance(message, dict):
        return None
    known = {key: value for key, value in message.items() if value is not None}  # Parquet fills what a message lacks
    if "role" not in known and "from" in known:
        sender = known.pop("from")
        known = {"role": _SHAREGPT.get(str(sender), sender), "content": known.pop("value", None)} | known
        message = {"content": None} if "value" in message else {}
    empty = "" if "content" in message or any(key in known for key in CALLS) else None  # null says nothing
    content = known["content"] if known.get("content") is not None else empty
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if known.get("role") not in _ROLES or not isinstance(content, str):
        return None
    return known | {"content": content}
