"""Rows of a table as examples of a task: texts, label, conversation; and what a row is refused for."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rankwise.config import Task
from rankwise.errors import Refused, did_you_mean
from rankwise.tasks.sources import PART_NAMES
from rankwise.tasks.tables import Table

Messages = list[dict[str, str]]

_FIELD = re.compile(r"{([^{}]+)}")
_ROLES = ("system", "user", "assistant", "tool")
_SOURCE = "source"  # as task.group, where no column is named so: the split or file that a row is of


@dataclass(slots=True)
class Example:
    """One example. A causal LM has a ``completion`` to ``text``, or ``messages``; its label is 0."""

    item: int
    part: str
    text: str
    label: str | float = 0.0  # the name of a class, or a value
    pair: str | None = None
    group: str | None = None
    completion: str | None = None
    messages: Messages | None = None

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
            return tuple(part for message in self.messages for part in (message["role"], message["content"]))
        return tuple(text for text in (self.text, self.pair, self.completion) if text is not None)


class Cell:
    """One cell of a row, which can say where it is."""

    def __init__(self, key: str, column: str, row: dict[str, Any], table: Table, number: int):
        self.key, self.column, self.table, self.number = key, column, table, number
        if column not in row:
            names = [str(name) for name in row]
            many = f"has the columns {', '.join(names)}{did_you_mean(column, names)}"
            hint = "" if len(names) > 1 else "; is task.delimiter right?"
            raise Refused(f"task.{key}={column}: {table.name} {table.unit} {number} {many}{hint}")
        self.value = row[column]

    def refused(self, why: str) -> Refused:
        """``task.label=score: ratings.tsv line 7 holds 'x', not a number``."""
        where = f"{self.table.name} {self.table.unit} {self.number}"
        return Refused(f"task.{self.key}={self.column}: {where} holds {reprlib.repr(self.value)}, {why}")

    def text(self) -> str:
        """As it stands. Raises Refused where it is empty or no text."""
        value = self.value
        if isinstance(value, (bool, list, dict, bytes)):
            raise self.refused("not a text")
        text = "" if value is None else str(value)
        if not text.strip():
            raise self.refused("no text")
        return text

    def label(self) -> str:
        """The name of a class, numbers written as short as they can be."""
        value = self.value
        if isinstance(value, (list, dict, bytes)):
            raise self.refused("not a label")
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            value = "" if math.isnan(value) else f"{value:g}"
        text = "" if value is None else str(value).strip()
        if not text:
            raise self.refused("no label")
        return text

    def number_value(self) -> float:
        """A finite number."""
        try:
            number = float(self.value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.refused("not a number")
        return number


def examples(task: Task, tables: Iterable[Table]) -> Iterator[Example | None]:
    """The examples of all tables in order, one at a time; None for a row that its format leaves out.

    An example's item is its place among all examples, those near zero that ``min_abs_label`` drops included.
    Raises Refused for a cell that does not fit, naming file, line and column, and for a table without rows.
    """
    read: Callable[[_Reader], Iterator[Example]] = _language if task.kind == "causal_lm" else _labelled
    least = 0.0 if task.kind == "causal_lm" else task.min_abs_label
    item = 0
    for table in tables:
        number = 0
        for number, row in table.read():
            if row is None:
                yield None
                continue
            for example in read(_Reader(task, table, number, row)):
                example.item, item = item, item + 1
                if not least or abs(float(example.label)) >= least:
                    yield _classified(task, example)
        if not number:
            raise Refused(f"task data {table.name}: no rows")


@dataclass(slots=True)
class _Reader:
    """One row, and how a task reads it."""

    task: Task
    table: Table
    number: int
    row: dict[str, Any]

    def cell(self, key: str) -> Cell:
        return Cell(key, getattr(self.task, key), self.row, self.table, self.number)

    def example(self, text: str, **values: Any) -> Example:
        return Example(-1, self._part(), text, group=self._group(), **values)

    def prompt(self) -> str:
        if self.task.template:
            names = _FIELD.findall(self.task.template)
            cells = {name: Cell("template", name, self.row, self.table, self.number).text() for name in names}
            return _FIELD.sub(lambda match: cells[match[1]], self.task.template)
        return self.cell("prompt").text() if self.task.prompt else ""

    def _part(self) -> str:
        if self.task.split is None:
            return self.table.part
        cell = self.cell("split")
        part = PART_NAMES.get(str(cell.value).strip().lower())
        if part is None:
            raise cell.refused(f"none of {', '.join(PART_NAMES)}")
        return part

    def _group(self) -> str | None:
        if self.task.group is None:
            return None
        if self.task.group == _SOURCE and _SOURCE not in self.row:
            return self.table.source
        return self.cell("group").label()


def _labelled(reader: _Reader) -> Iterator[Example]:
    """A text, or two, with a label: the name of a class or a value."""
    task, cell = reader.task, reader.cell("label")
    number = task.kind == "regression" or task.threshold is not None or task.min_abs_label
    text = reader.cell("text").text().strip()
    pair = reader.cell("pair").text().strip() if task.pair else None
    label = cell.number_value() if number else cell.label()
    if not number and task.labels:
        label = _named(cell, str(label), task.labels)
    yield reader.example(text, pair=pair, label=label)


def _named(cell: Cell, label: str, names: list[str]) -> str:
    """A class by its name, or by its number in ``task.labels`` where no name is a number itself."""
    if label in names:
        return label
    if label.isdecimal() and int(label) < len(names) and not any(name.isdecimal() for name in names):
        return names[int(label)]
    raise cell.refused(f"none of task.labels={', '.join(names)}, nor one of their numbers from 0")


def _classified(task: Task, example: Example) -> Example:
    """A number as a class: above the threshold or not. Class names are as ``task.labels`` has them."""
    if task.kind != "classification" or isinstance(example.label, str):
        return example
    if task.threshold is None:
        example.label = f"{example.label:g}"
    else:
        above = int(example.label > task.threshold)
        example.label = task.labels[above] if task.labels else str(above)
    return example


def _language(reader: _Reader) -> Iterator[Example]:
    """A conversation, or a prompt with each of its completions, or a plain text."""
    task = reader.task
    if task.messages:
        messages = _conversation(reader.cell("messages"))
        asked = [message["content"] for message in messages if message["role"] == "user"]
        yield reader.example(asked[-1], messages=messages)
    elif task.completion:
        prompt, cell = reader.prompt(), reader.cell("completion")
        if not isinstance(cell.value, list):
            yield reader.example(prompt, completion=cell.text())
            return
        if not cell.value:
            raise cell.refused("no text")
        for cell.value in list(cell.value):  # noqa: B020  a cell of several texts, one after the other
            yield reader.example(prompt, completion=cell.text())
    elif task.prompt or task.template:
        raise Refused.value("task.completion", None, "the column of what is to be written for task.prompt")
    else:
        yield reader.example("", completion=reader.cell("text").text())


def _conversation(cell: Cell) -> Messages:
    value = cell.value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise cell.refused("not a list of messages in JSON") from None
    if not isinstance(value, list) or not all(_is_message(message) for message in value):
        raise cell.refused(f"not a list of {{role, content}} whose roles are {', '.join(_ROLES)}")
    messages = [{"role": message["role"], "content": message["content"]} for message in value]
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise cell.refused("a conversation must end with a reply of the assistant that is not empty")
    roles = [message["role"] for message in messages]
    if "user" not in roles[: roles.index("assistant")]:
        raise cell.refused("a conversation needs a message of the user before the first reply")
    return messages


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)
