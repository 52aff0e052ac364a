"""The classes of a classification: which label, as the data write it, is which class."""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.tasks.examples import Cell, class_name
from rankwise.tasks.splits import PARTS, TEST, TRAIN, VALIDATION

_SHOWN = 8  # classes in a message
_PASTED = 24  # in a line that is there to be pasted
_FEW = 2  # rows of a class that is hardly one
_FRACTION = re.compile(r"[+-]?\d*\.\d+")
_NUMBER = re.compile(r"-?\d+")
_LISTED = re.compile(r"[\w .+/-]+")  # a name that is read as it stands in a list
_TYPED = re.compile(_LISTED.pattern, re.ASCII)  # in braces, too
MISSING = ("nan", "none", "null", "na", "n/a", "<na>", "-", "?", r"\n")  # what programs write for what is missing


@dataclass(frozen=True)
class Label:
    """A label as the data write it, its number among all, and the first cell that holds it."""

    name: str
    number: int
    cell: Cell | None


@dataclass
class Classes:
    """The names of the classes in order, and the class of each label that the data have, -1 where it is left out."""

    task: Task
    names: list[str]
    labels: list[Label]
    number: np.ndarray
    notes: list[str] = field(default_factory=list)

    @functools.cached_property  # asked for by every row
    def number_of(self) -> dict[str, int]:
        """The number of the class of a label by its spelling."""
        return {label.name: int(self.number[label.number]) for label in self.labels}

    @classmethod
    def of(cls, task: Task, labels: list[Label], label_n: np.ndarray, part_n: np.ndarray) -> "Classes":
        """As ``task.labels`` has them, else numbers by size, then words by spelling.

        Raises Refused for a label that ``task.labels`` does not name, and where there are no two classes.
        """
        rows = np.bincount(label_n[part_n >= 0], minlength=len(labels)) if labels else np.zeros(0, dtype=int)
        used = [label for label in labels if rows[label.number]]
        if isinstance(task.labels, dict):
            names, number = _by_map(task.labels, labels)
        elif task.labels:
            names, number = _by_list(task, labels)
        else:
            names = sorted((label.name for label in used), key=_numbers_first)
            number = {name: position for position, name in enumerate(names)}
        array = np.array([number.get(label.name, -1) for label in labels])
        kept = [label for label in used if array[label.number] >= 0]
        there = [name for position, name in enumerate(names) if position in {array[label.number] for label in kept}]
        if len(there) < 2:
            what = f"one class only ({there[0]})" if there else "no rows"
            raise Refused(f"task.label={task.label}: {what}; a classification needs two classes")
        sizes: Counter[str] = Counter()
        for label in kept:
            sizes[names[array[label.number]]] += int(rows[label.number])
        return cls(task, names, labels, array, _notes(task, kept, sizes))

    def check(self, label_n: np.ndarray, part_n: np.ndarray, own_n: np.ndarray) -> None:
        """Refuse a class that no training row has, as nothing can learn it; note one that a test of its own lacks."""
        chosen = part_n >= 0
        class_n, part_k, own_k = self.number[label_n[chosen]], part_n[chosen], own_n[chosen]
        counts = np.zeros((len(self.names), len(PARTS)), dtype=int)
        np.add.at(counts, (class_n, part_k), 1)
        there = counts > 0
        unseen = np.flatnonzero(~there[:, TRAIN] & there.any(1))
        untested = np.flatnonzero(there[:, TRAIN] & ~there[:, TEST])
        if len(unseen):
            number = unseen[0]
            part = TEST if counts[number, TEST] else VALIDATION
            more = f" (and {len(unseen) - 1} other classes)" if len(unseen) > 1 else ""
            cut = (own_k[class_n == number] == TRAIN).any()
            why = ", to which the hash of their texts brought them" if cut else ""
            classes = [(label.name, self.number[label.number]) for label in self.labels]
            kept = [(name, self.names[n]) for name, n in classes if n >= 0 and there[n, TRAIN]]
            whole = len(kept) <= _PASTED and all(_TYPED.fullmatch(word) for pair in kept for word in pair)
            mapped = ", ".join(f"{name}: {ours}" for name, ours in kept) if whole else "LABEL: CLASS, …"
            remedy = f"'task.labels={{{mapped}, *: null}}' leaves such rows out; a class instead of null joins them"
            if counts[number, part] == counts[:, part].sum() and not cut:
                cell = next(label.cell for label in self.labels if self.number[label.number] == number)
                key = cell.table.parts if cell else "task.files"
                remedy = f"if that part has no labels, {key}={{train: NAME}} leaves it out"
            else:
                if len(self.names) > len(part_k) / 2:
                    remedy = "nearly every row has its own: is it the right column?"
                keys, fractions = _as_numbers([label.name for label in self.labels])
                if keys:
                    remedy = f"{'' if fractions else f'{remedy}; '}for numbers to be predicted, {keys}"
            raise Refused(
                f"task.label={self.task.label}: {self.names[number]!r}{more} is the label of {counts[number, part]} "
                f"{PARTS[part]} row(s) and of no training row{why}; {remedy}"
            )
        if len(untested) and (own_k == TEST).any():
            names = ", ".join(repr(self.names[number]) for number in untested[:5])
            self.notes.append(f"task.label={self.task.label}: no test row has the class {names}")

    def check_drawn(self, train_n: np.ndarray, drawn_n: np.ndarray) -> None:
        """Refuse training rows of one class, of all that could be drawn; note what they lack."""
        there, drawn = {*self.number[train_n].tolist()}, {*self.number[drawn_n].tolist()}
        if len(drawn) < 2:
            allowed = f"the {len(drawn_n)} training rows that are drawn have one class only ({self.names[min(drawn)]})"
            raise Refused.value("task.n_train", len(drawn_n), allowed, "raise it, or take another data_seed")
        if lacking := [repr(self.names[number]) for number in sorted(there - drawn)]:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            known = f"no training row that task.n_train draws has the class {', '.join(lacking[:5])}{more}"
            self.notes.append(f"task.label={self.task.label}: {known}")


def _by_map(mapping: dict[object, object], labels: list[Label]) -> tuple[list[str], dict[str, int]]:
    """``task.labels={1: World, 2: Sports, x*: null}``: the class of each label, null to leave its rows out. A ``*``
    stands for any letters, and for labels alone that are not written out. Else what differs in case alone is meant.
    """
    chosen = {class_name(label): None if name is None else str(name) for label, name in mapping.items()}
    names = list(dict.fromkeys(name for name in chosen.values() if name is not None))
    folded = _folded(chosen)
    number = {}
    for label in labels:
        patterns = (key for key in chosen if "*" in key and fnmatchcase(label.name, key))
        key = label.name if label.name in chosen else next(patterns, folded.get(_fold(label.name)))
        if key is None:
            raise _unknown(label, f"none of task.labels={', '.join(chosen)}")
        name = chosen[key]
        number[label.name] = -1 if name is None else names.index(name)
    return names, number


def _by_list(task: Task, labels: list[Label]) -> tuple[list[str], dict[str, int]]:
    """``task.labels=[World, Sports]``: labels are these names, but for case, or their numbers from 0."""
    names = [class_name(name) for name in task.labels]
    number = {name: position for position, name in enumerate(names)}
    folded = _folded(names)
    written = [] if any(map(_NUMBER.fullmatch, names)) else [label.name for label in labels]
    numbers = [int(name) for name in written if _NUMBER.fullmatch(name)]
    least, most = min(numbers, default=0), max(numbers, default=0)
    each = len({*numbers}) == len(names)
    if (least != 0 or most >= len(names)) and (each or most - least < len(names)) and task.threshold is None:
        start = 1 if 1 < least <= most <= len(names) else least  # the first classes may be missing
        meant = sorted({*numbers}) if each else range(start, start + len(names))
        pairs = ", ".join(f"{number}: {name}" for number, name in zip(meant, names, strict=True))
        shown = f"task.labels={', '.join(names)}: names numbers from 0, and the labels are {least} to {most}"
        raise Refused(f"{shown}; say which is which: 'task.labels={{{pairs}}}'")
    for label in labels:
        if label.name in number:
            continue
        if _fold(label.name) in folded:
            number[label.name] = number[folded[_fold(label.name)]]
        elif numbers and label.name.isdecimal() and int(label.name) < len(names):
            number[label.name] = int(label.name)
        else:
            yaml = "; YAML reads no, yes, off, on as false, true: quote them" if {*names} <= {"false", "true"} else ""
            raise _unknown(label, f"none of task.labels={', '.join(names)}, nor one of their numbers from 0{yaml}")
    return names, number


def _unknown(label: Label, why: str) -> Refused:
    assert label.cell is not None
    return label.cell.refused(f"{why}; 'task.labels={{LABEL: CLASS, …, {label.name}: null}}' leaves its rows out")


def _notes(task: Task, used: list[Label], sizes: Counter[str]) -> list[str]:
    """Labels that hardly are classes: of one or two rows, or another's but for case and blanks."""
    names, notes = [label.name for label in used], []
    if few := [f"{name!r} ({size})" for name, size in sizes.items() if size <= _FEW]:
        notes.append(f"classes of one or two rows: {', '.join(few[:5])}")
    keys, fractions = _as_numbers(names)
    if fractions:
        notes.append(f"classes are fractions; {keys} predicts them as numbers")
    if not task.labels:
        notes += _unnamed(names)
    return [f"task.label={task.label}: {note}" for note in notes]


def _unnamed(names: list[str]) -> Iterator[str]:
    """What may be the matter with labels that ``task.labels`` does not name."""
    missing = [name for name in names if _fold(name) in MISSING]
    if missing:
        mapped = ", ".join(f"{name}: {'null' if name in missing else name}" for name in names[:_SHOWN])
        remedy = f"'task.labels={{{mapped}{', …' if len(names) > _SHOWN else ''}}}' leaves its rows out"
        yield f"{', '.join(map(repr, missing))} is a class; if it says that a label is missing, {remedy}"
    numbers = sorted(int(name) for name in names if _NUMBER.fullmatch(name))
    if len(numbers) == len(names) > 2 and numbers == [*range(numbers[0], numbers[-1] + 1)]:
        yield f"the numbers {numbers[0]} to {numbers[-1]} are classes; {_as_numbers(names)[0]} reads them as numbers"
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(_fold(name), []).append(name)
    if several := [", ".join(map(repr, twins)) for twins in spelled.values() if len(twins) > 1]:
        once = sorted((min(twins) for twins in spelled.values()), key=_numbers_first)
        whole = len(once) <= _PASTED and all(_LISTED.fullmatch(name) for name in once)
        remedy = f"'task.labels=[{', '.join(once)}]' joins" if whole else "task.labels=[…] with each class once joins"
        yield f"{' and '.join(several[:5])} differ only in case, blanks or zeros at the end; {remedy} them"


def _fold(name: str) -> str:
    """What case, blanks and zeros at the end of a fraction do not change: a key 1.50 of YAML is the number 1.5."""
    folded = " ".join(name.casefold().split())
    return folded.rstrip("0").rstrip(".") if _FRACTION.fullmatch(folded) else folded


def _folded(names: Collection[str]) -> dict[str, str]:
    """Names by what case and blanks do not change; none, where two differ in these alone."""
    folded = {_fold(name): name for name in names}
    return folded if len(folded) == len(names) else {}


def _as_numbers(names: list[str]) -> tuple[str, bool]:
    """The keys by which labels are read as numbers, "" unless most of them are; and whether one is a fraction."""
    numbers = [name for name in names if not _numbers_first(name)[0]]
    keys = "task.kind=regression task.metric=pearson" + """ 'task.decimal=","'""" * ("," in "".join(numbers))
    most = 2 * len(numbers) > len(names)
    return keys * most, most and bool({*".,"} & {*"".join(numbers)})


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name.replace(",", "."))
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)
