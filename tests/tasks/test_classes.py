"""Which label is which class, and what is said or refused of labels."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_tables import read

from rankwise.errors import Refused
from rankwise.tasks.data import Data

AREAS = ["World", "Sports", "Business"]
TEXTS = [f"the {i}th sea is as deep as {i * 7919 % 1000} oaks" for i in range(120)]


def labelled(folder: Path, values: list[Any], /, **keys: Any) -> Data:
    """Data of 120 texts whose labels are these, in turn."""
    path = folder / "data.jsonl"
    rows = [{"text": text, "label": values[i % len(values)]} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(path, **keys)


def rows_of(data: Data) -> dict[str, int]:
    """How many rows each class has."""
    labels = np.concatenate([data.train.labels, data.validation.labels, data.test.labels])
    return dict(zip(data.classes or [], np.bincount(labels, minlength=len(data.classes or [])).tolist(), strict=True))


@pytest.mark.parametrize(
    ("labels", "keys", "classes"),
    [
        ([20010001.0, 20010002.0, 30000001.0], {}, {"20010001": 40, "20010002": 40, "30000001": 40}),
        ([0.1, 0.30000000000000004, 0.3], {}, {"0.1": 40, "0.3": 40, "0.30000000000000004": 40}),
        (["0", "1", "0.0", "1.0", 0, 1.0], {}, {"0": 60, "1": 60}),
        (["007", "7"], {}, {"007": 60, "7": 60}),
        ([True, False, True], {}, {"false": 40, "true": 80}),
        ([True, False, True], {"labels": [True, False]}, {"true": 80, "false": 40}),
        (["True", "False", "True"], {"labels": {True: "yes", False: "no"}}, {"yes": 80, "no": 40}),
        (
            ["Neg", "neg", "pos"],
            {"labels": {"neg": "a", "n*": "b", "N*": "c", "pos": "d"}},
            {"a": 40, "b": 0, "c": 40, "d": 40},
        ),
        (["nan", "null", "inf", "1e5"], {}, {"1e5": 30, "inf": 30, "nan": 30, "null": 30}),
        (
            ["nan", "null", "inf", "1e5"],
            {"labels": {"nan": "a", "null": None, "inf": "b", "1e5": "a"}},
            {"a": 60, "b": 30},
        ),
        (["neg", "Neg ", "POS"], {"labels": ["neg", "pos"]}, {"neg": 80, "pos": 40}),
        (
            [1, 2, 3],
            {"labels": {1: "World", 2: "Sports", 3: "Business", 4: "Tech"}},
            {"World": 40, "Sports": 40, "Business": 40, "Tech": 0},
        ),
        (["1", "2.0", "3"], {"labels": {"3": "c", "1": "a", 2: "a"}}, {"c": 40, "a": 80}),
        (
            ["DESC:def", "DESC:how", "HUM:ind", "-"],
            {"labels": {"HUM:*": "human", "DESC:how": "how", "DESC:*": "what", "*": None}},
            {"human": 30, "how": 30, "what": 30},
        ),
        (["+1", "-1"], {"labels": {1: "pos", -1: "neg"}}, {"pos": 60, "neg": 60}),
        (["1.50", "-2.0"], {"labels": {1.50: "pos", -2.0: "neg"}}, {"pos": 60, "neg": 60}),  # to YAML 1.5
        (["1.10", "1.1"], {"labels": {"1.10": "ten", 1.1: "one"}}, {"ten": 60, "one": 60}),
        (["-", "yes", "no"], {"labels": {"yes": "yes", "no": "no", "-": None}}, {"yes": 40, "no": 40}),
        ([0, 1, 2], {"labels": ["a", "b", "c", "d"]}, {"a": 40, "b": 40, "c": 40, "d": 0}),
    ],
)
def test_every_label_is_its_own_class(
    tmp_path: Path, labels: list[Any], keys: dict[str, Any], classes: dict[str, int]
) -> None:
    assert rows_of(labelled(tmp_path, labels, **keys)) == classes


def test_rows_that_task_labels_leaves_out_are_counted(tmp_path: Path) -> None:
    assert labelled(tmp_path, ["-", "yes", "no"], labels={"yes": 1, "no": 0, "-": None}).skipped == 40
    rare = [f"rare{i}" for i in range(4)] + ["yes", "no"] * 58
    for other in (None, "other"):
        assert labelled(tmp_path, rare, labels={"yes": "yes", "no": "no", "*": other}).notes == []


@pytest.mark.parametrize(
    ("labels", "keys", "line"),
    [
        ([1, 2, 3], {"labels": [*AREAS, "Tech"]}, r"from 0, and the labels are 1 to 3; .*{1: World, 2: Sports, 3: Bus"),
        ([3, 4], {"labels": [*AREAS, "Tech"]}, r"the labels are 3 to 4; .*{1: World, 2: Sports, 3: Business, 4: Tech}"),
        ([1, 2, 3], {"labels": AREAS}, r"say which is which: 'task.labels=\{1: World, 2: Sports, 3: Business\}'$"),
        ([-1, 0, 1], {"labels": ["bad", "so", "good"]}, r"'task.labels=\{-1: bad, 0: so, 1: good\}'$"),
        ([-1, 1], {"labels": ["bad", "good"]}, r"'task.labels=\{-1: bad, 1: good\}'$"),
        ([0, 4], {"labels": ["bad", "good"]}, r"'task.labels=\{0: bad, 4: good\}'$"),
        ([-1, 0, 1], {"labels": ["bad", "good"]}, r"line 1 holds -1, none .*LABEL: CLASS, …, -1: null\}'"),
        ([f"id{i}" for i in range(120)], {}, r"\(and \d\d other classes\) is .*nearly every row has its own"),
        ([*range(120)], {}, r"of no training row.*; nearly every row has its own: .*; for numbers .*=pearson$"),
        ([1, 2, 3], {"labels": {1: "a", 2: "b"}}, r" line 3 holds 3, none of task.labels=1, 2; .*3: null"),
        (["yes", "no"], {"labels": [False, True]}, r"line 1 holds 'yes', none of task.labels=.*: quote them"),
        (["x", "y"], {"labels": {"x": "x", 1: "yes", "*": None}}, r"^task.label=label: one class only \(x\); a class"),
        ([float("inf"), 1], {}, r"line 1 holds inf, not a label"),
        ([i / 7 for i in range(120)], {}, r"and of no training row.*; for numbers .* task.kind=regr"),
        (["k.A.", *(f"{i},03" for i in range(119))], {}, r"""row\(s\) [^;]*; for .*=pearson 'task.decimal=","'$"""),
        (
            ["a", "b"] * 59 + ["a", "rare"],
            {"test_share": 0.9, "validation_share": 0.05},
            r"'rare' is the label of 1 (test|validation) row.* to which the hash .*{a: a, b: b, \*: null}' leaves",
        ),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_way_out(
    tmp_path: Path, labels: list[Any], keys: dict[str, Any], line: str
) -> None:
    with pytest.raises(Refused, match=line):
        labelled(tmp_path, labels, **keys)


def test_the_line_that_leaves_rare_classes_out_can_be_pasted(tmp_path: Path) -> None:
    common = [f"n {i}" for i in range(14)]
    values = [*common * 8, *(f"rare{i}" for i in range(8))]
    with pytest.raises(Refused, match="no training row") as refused:
        labelled(tmp_path, values)
    (line,) = re.findall("'(task.labels=.*)'", str(refused.value))
    rows = rows_of(labelled(tmp_path, values, labels=OverridesParser.create().parse_override(line).value()))
    assert {*common} <= rows.keys() and 8 - len(rows.keys() - {*common}) > 0 and {*rows.values()} == {8, 1}
    with pytest.raises(Refused, match=r"task.labels=\{LABEL: CLASS, …, \*: null\}"):
        labelled(tmp_path, [f"of {i % 40}" for i in range(117)] + ["x", "y", "z"])


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (
            ["Neg", "neg", "pos", "Very  good"],
            "'Neg', 'neg' differ only in case, blanks or zeros at the end; 'task.labels=[Neg, Very  good, pos]' joins",
        ),
        (
            ["neg", "Neg", "Grün", "grün", "c++"],
            "'neg', 'Neg' and 'Grün', 'grün' differ only in case, blanks or zeros at the end; 'task.labels=[Grün, Neg",
        ),
        (["Neg", "neg", "a (b)"], "zeros at the end; task.labels=[…] with each class once joins them"),
        (["Very  good", "very good"], "'Very  good', 'very good' differ only in case"),
        ([True, "True", False], "'true', 'True' differ only in case"),
        (["once", *["a", "b"] * 59, "a"], "classes of one or two rows: 'once' (1)"),
        (["twice", *["a", "b"] * 59, "twice"], "classes of one or two rows: 'twice' (2)"),
        (["\\N", "a"], "N' is a class; if it says that a label is missing"),
        (["None", "a"], "'None' is a class; if it says that a label is missing"),
        (["-", "yes", "no"], "'-' is a class; if it says that a label is missing, 'task.labels={-: null, yes: yes, no"),
        ([0.5, 1.5], "classes are fractions; task.kind=regression task.metric=pearson predicts"),
        ([0.5, 1, "k.A."], "classes are fractions; task.kind=regression task.metric=pearson predicts"),
        (["1", "1,5", "2,0"], """task.metric=pearson 'task.decimal=","' predicts"""),
        (["a.b", "c.d", "1.5"], None),
        (
            [1, 2, 3, 4, 5],
            "task.label=label: the numbers 1 to 5 are classes; task.kind=regression task.metric=pearson ",
        ),
        ([1, 2, 4], None),
        ([0, 1], None),
        (["a", "b"], None),
    ],
)
def test_labels_that_hardly_are_classes_are_said(tmp_path: Path, labels: list[Any], note: str | None) -> None:
    notes = labelled(tmp_path, labels, test_share=0.1, validation_share=0.1).notes
    assert notes == [] if note is None else any(note in said for said in notes)


def test_a_class_that_the_drawn_training_rows_lack_is_said(tmp_path):
    values = ["a", "b"] * 9 + ["c"]
    whole, drawn = labelled(tmp_path, values), labelled(tmp_path, values, n_train=10)
    assert set(whole.train.labels.tolist()) == {0, 1, 2} and not whole.notes
    assert set(drawn.train.labels.tolist()) == {0, 1}
    assert drawn.notes == ["task.label=label: no training row that task.n_train draws has the class 'c'"]
