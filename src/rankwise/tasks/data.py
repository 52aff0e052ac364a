"""Rows of a task: read twice, labelled, split by hash, sampled.

The first reading keeps a few bytes of every row, from which the rows of each part are chosen; the second collects the
texts of those alone. So the data may be larger than memory, and only what a run uses is held.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rankwise.assets import Asset
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.tasks.examples import Example, Messages, examples
from rankwise.tasks.parts import PARTS, TEST, TRAIN, VALIDATION, cut, digest, normalise, parts, place, places
from rankwise.tasks.sources import open_tables, synthetic

__all__ = ["Data", "Split", "load", "normalise", "parts", "places", "synthetic"]


@dataclass(frozen=True)
class Split:
    """Rows of one part, and a stable item number each.

    A causal LM's rows are either a prompt (``texts``) with its ``completions``, or ``messages``; rows with the same
    prompt are references for each other. Its ``labels`` are zeros.
    """

    texts: list[str]  # of conversations: the last reply's question, for people
    labels: np.ndarray  # class number or value
    items: np.ndarray
    pairs: list[str] | None = None  # second texts
    groups: list[str] | None = None  # by which a test score is also given
    completions: list[str] | None = None
    messages: list[Messages] | None = None  # [{role, content}, …], the last one a reply

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Data:
    """The three parts of a task. ``classes`` names the labels of a classification, else it is None."""

    train: Split
    validation: Split
    test: Split
    classes: list[str] | None
    fingerprint: str  # of all rows with their labels and parts, before sampling
    skipped: int = 0  # lines that their format leaves out


def load(task: Task, asset: Asset, data_seed: int) -> Data:
    """Read, split and sample.

    Raises Refused for a missing column, a cell that does not fit (with file, line and column), a part with too few
    rows, and a class that has no training row.
    """
    tables = open_tables(task, asset)

    def read() -> Iterator[Example | None]:
        return examples(task, tables)

    index = _Index.of(task, read())
    part = _parts(task, index)
    classes = _classes(task, index, part)
    chosen = _chosen(task, index, part, data_seed)
    if classes:
        _check_seen(task, index, part)
    splits, fingerprint = _collect(task, read(), part, chosen, classes)
    if task.protocol == "paper":
        splits["validation"] = splits["test"]
    return Data(splits["train"], splits["validation"], splits["test"], classes, fingerprint, index.skipped)


@dataclass
class _Index:
    """A few bytes of each row, in the order of reading."""

    names: list[str]  # of classes, as they were met
    label: np.ndarray  # number in ``names``
    place: np.ndarray
    part: np.ndarray  # number in PARTS
    content: np.ndarray  # hash of the normalised texts, where duplicates are looked for
    skipped: int

    @classmethod
    def of(cls, task: Task, found: Iterator[Example | None]) -> _Index:
        names: dict[str, int] = {}
        label, place_, part, content = array("i"), array("d"), array("b"), array("Q")
        skipped = 0
        for example in found:
            if example is None:
                skipped += 1
                continue
            if task.kind == "classification":
                label.append(names.setdefault(str(example.label), len(names)))
            place_.append(place(example.given))
            part.append(PARTS.index(example.part))
            if task.deduplicate:
                content.append(int.from_bytes(digest(example.texts)[:8]))
        return cls(list(names), np.array(label), np.array(place_), np.array(part), np.array(content), skipped)


def _parts(task: Task, index: _Index) -> np.ndarray:
    """The number of the part of each row, -1 of a duplicate. Parts that the source does not have are cut from train."""
    own = set(np.unique(index.part).tolist()) | ({VALIDATION} if task.protocol == "paper" else set())
    validation_share = 0.0 if VALIDATION in own else task.validation_share
    test_share = 0.0 if TEST in own else task.test_share
    part = np.where(index.part == TRAIN, cut(index.place, validation_share, test_share), index.part)
    if task.deduplicate:
        _, first = np.unique(index.content, return_index=True)
        part[np.setdiff1d(np.arange(len(part)), first)] = -1
    return part


def _classes(task: Task, index: _Index, part: np.ndarray) -> list[str] | None:
    """The classes in order: ``task.labels``, else numbers by size, then words by spelling."""
    if task.kind != "classification":
        return None
    used = [index.names[code] for code in np.unique(index.label[part >= 0])]
    found = task.labels or sorted(used, key=_numbers_first)
    if len(found) < 2 or not used:
        what = f"one class only ({found[0]})" if used else "no rows"
        raise Refused(f"task.label={task.label}: {what}; a classification needs two classes")
    return list(found)


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)


def _chosen(task: Task, index: _Index, part: np.ndarray, data_seed: int) -> list[np.ndarray]:
    """The rows of each part that are used: of training rows a sample, of the others the first by hash."""
    chosen = []
    for number, name in enumerate(PARTS):
        members = np.flatnonzero(part == number)
        if number == VALIDATION and task.protocol == "paper":
            chosen.append(members[:0])  # the test rows take their place
            continue
        if number == TRAIN:
            order = np.random.default_rng(data_seed).permutation(len(members))
        else:
            order = np.argsort(index.place[members], kind="stable")
        wanted = getattr(task, f"n_{name}")
        if len(members) < max(2, wanted or 0):
            if wanted and len(members) >= 2:
                remedy = "lower it, or null for all"
            elif number != TRAIN and (index.part == number).any():
                remedy = "its file or split needs two at least"
            else:
                remedy = "change task.validation_share or task.test_share"
            raise Refused.value(f"task.n_{name}", wanted, f"the data have {len(members)} rows for this part", remedy)
        chosen.append(np.sort(members[order[:wanted]]))
    return chosen


def _check_seen(task: Task, index: _Index, part: np.ndarray) -> None:
    """Refuse a class that no training row has: nothing can learn it."""
    counts = np.zeros((len(index.names), len(PARTS)), dtype=int)
    np.add.at(counts, (index.label[part >= 0], part[part >= 0]), 1)
    for name, (train, validation, test) in zip(index.names, counts.tolist(), strict=True):
        if not train and validation + test:
            where = f"{test} test rows" if test else f"{validation} validation rows"
            raise Refused(
                f"task.label={task.label}: {name!r} is the label of {where} and of no training row; "
                "leave those rows out, or give the training data some"
            )


def _collect(
    task: Task, found: Iterator[Example | None], part: np.ndarray, chosen: list[np.ndarray], classes: list[str] | None
) -> tuple[dict[str, Split], str]:
    """The chosen rows of each part, as they stand in the file, and the fingerprint of all rows."""
    number = {name: code for code, name in enumerate(classes or [])}
    wanted = np.zeros(len(part), dtype=bool)
    wanted[np.concatenate(chosen)] = True
    kept: list[list[Example]] = [[] for _ in PARTS]
    hashed = hashlib.sha256()
    present = (example for example in found if example is not None)
    for row, example in enumerate(present):
        if part[row] < 0:
            continue
        example.label = number[str(example.label)] if classes else example.label
        line = f"{PARTS[part[row]]}\t{example.label}\t{_content(example)}\n"
        hashed.update(line.encode("utf-8", "surrogatepass"))
        if wanted[row]:
            kept[part[row]].append(example)
    splits = {name: _split(task, rows) for name, rows in zip(PARTS, kept, strict=True)}
    return splits, f"sha256:{hashed.hexdigest()[:16]}"


def _content(example: Example) -> str:
    return "\t".join(example.texts) if example.messages is None else json.dumps(example.messages, ensure_ascii=False)


def _split(task: Task, rows: list[Example]) -> Split:
    integral = task.kind != "regression"
    conversations, language = bool(task.messages), task.kind == "causal_lm"
    return Split(
        [row.text for row in rows],
        np.array([row.label for row in rows], dtype=np.int64 if integral else np.float64),
        np.array([row.item for row in rows], dtype=np.int64),
        [row.pair or "" for row in rows] if task.pair and not language else None,
        [row.group or "" for row in rows] if task.group else None,
        [row.completion or "" for row in rows] if language and not conversations else None,
        [row.messages or [] for row in rows] if language and conversations else None,
    )
