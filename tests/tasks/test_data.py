"""Rows of a task: read, labelled, split by hash, sampled; and what is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_files import PROMPTS
from test_tables import places, read, records
from tiny_configs import tiny

from rankwise.assets import resolve
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.tasks import data as tasks_data
from rankwise.tasks.data import Data
from rankwise.tasks.sources import synthetic
from rankwise.tasks.splits import cut, normalise

Table = Callable[..., Path]
WORDS = ["sun", "joy", "win", "fog", "ill", "mud", "cup", "box", "map", "sea", "oak", "ink"]


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) + f" {i}" for i in range(count)]


ROWS = [(text, i % 2) for i, text in enumerate(sentences(300))]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """``table(rows)``: a file of tab-separated text and label under a header."""

    def write(rows: Any, header: str = "text\tlabel\n", name: str = "data.tsv") -> Path:
        path = tmp_path / name
        path.write_text(header + "".join("\t".join(map(str, row)) + "\n" for row in rows))
        return path

    return write


def members(data: Data) -> dict[str, str]:
    """The part of each text."""
    return {text: name for name in ("train", "validation", "test") for text in getattr(data, name).texts}


def test_every_row_is_in_exactly_one_part_with_its_own_label(table):
    data = read(table(ROWS))
    texts = [*data.train.texts, *data.validation.texts, *data.test.texts]
    assert sorted(texts) == sorted(text for text, _ in ROWS)
    labels = dict(ROWS)
    for part in (data.train, data.validation, data.test):
        assert [labels[text] for text in part.texts] == part.labels.tolist()
        assert [ROWS[item][0] for item in part.items] == part.texts
    assert data.classes == ["0", "1"]


def test_the_shares_are_kept_within_chance():
    place = places([f"row {i}" for i in range(20_000)])
    assert place.min() >= 0 and place.max() < 1
    shares = np.bincount(cut(place, 0.15, 0.25)) / 20_000
    assert shares.round(2).tolist() == [0.6, 0.15, 0.25]  # train, validation, test


def test_texts_that_read_the_same_are_in_the_same_part():
    same = ["a fine, fine film!", "A FINE FINE FILM", "  a fine\tfine   film. ", "a fine -- fine film?!"]
    assert {normalise(text) for text in [*same, "“A fine, fine” film…"]} == {"a fine fine film"}
    assert len(set(places(same))) == 1
    assert normalise(" :) ") == ":)" != normalise(":(") and normalise("") == ""


def test_adding_rows_moves_nobody_and_changes_no_evaluation_row_that_stays(table):
    keys: dict[str, Any] = {"n_validation": 20, "n_test": 40}
    more = [(text, 1) for text in sentences(200, seed=1)]
    small, large = read(table(ROWS)), read(table(more + ROWS, name="more.tsv"))
    moved = {text for text, part in members(small).items() if members(large)[text] != part}
    assert not moved
    # The limited parts are the first by hash, not by place in the file: a prefix does not push them all out.
    few, many = read(table(ROWS), **keys), read(table(more + ROWS, name="more.tsv"), **keys)
    assert len(few.test) == len(many.test) == 40
    added = {text for text, _ in more}
    kept = set(few.test.texts) & set(many.test.texts)
    assert kept and set(many.test.texts) <= set(few.test.texts) | added
    assert len(kept) == 40 - len(set(many.test.texts) & added)


def test_limits_take_the_first_by_hash_and_keep_the_order_of_the_file(table):
    whole, limited = read(table(ROWS)), read(table(ROWS), n_validation=10, n_test=15, n_train=30)
    assert [len(part) for part in (limited.train, limited.validation, limited.test)] == [30, 10, 15]
    for name in ("validation", "test"):
        everyone, chosen = getattr(whole, name), getattr(limited, name)
        place = dict(zip(everyone.texts, places(everyone.texts), strict=True))
        assert set(chosen.texts) == set(sorted(everyone.texts, key=place.__getitem__)[: len(chosen)])
        assert (np.diff(chosen.items) > 0).all()


def test_the_data_seed_changes_the_training_sample_and_nothing_else(table):
    path = table(ROWS)
    first, again, other = (read(path, seed, n_train=50, n_test=20) for seed in (0, 0, 1))
    assert first.train.texts == again.train.texts
    assert set(first.train.texts) != set(other.train.texts)
    for name in ("validation", "test"):
        assert getattr(first, name).texts == getattr(other, name).texts
    assert first.fingerprint == other.fingerprint
    assert set(read(path, 7).train.texts) == set(read(path, 8).train.texts)  # all of them


def test_the_fingerprint_changes_with_content_only(table):
    first = read(table(ROWS)).fingerprint
    assert read(table(ROWS, name="elsewhere.txt"), n_train=40).fingerprint == first
    changed = [[("another text", 1), *ROWS[1:]], [(ROWS[0][0], 1), *ROWS[1:]], ROWS[1:], [*ROWS, ("one more", 0)]]
    prints = {read(table(rows)).fingerprint for rows in changed}
    assert len(prints | {first}) == 5
    assert read(table(ROWS), test_share=0.3).fingerprint != first


def test_a_run_takes_over_what_a_check_has_read_unless_the_file_has_changed(table, monkeypatch, capsys):
    monkeypatch.setattr(tasks_data, "_MUCH_BYTES", 0)
    path = table(ROWS)
    config = dataclasses.replace(tiny(), task=Task(name="t", path=str(path)))
    plain = read(path)
    tasks_data.check_files([config])
    with monkeypatch.context() as nothing_is_read:
        nothing_is_read.setattr(tasks_data._Index, "of", None)
        assert read(path).fingerprint == plain.fingerprint
        tasks_data.check_files([config])
    for sign in "?!":
        table([(f"{text}{sign}", label) for text, label in ROWS])
        if sign == "?":
            tasks_data.check_files([config])
    assert capsys.readouterr().err == f"rankwise: reading {path}\n" * 2
    assert all(text.endswith("!") for text in members(read(path)))


@pytest.mark.parametrize("kept_bytes", [0, 1 << 27])
def test_samples_of_the_same_rows_are_those_of_a_reading_each(table, monkeypatch, kept_bytes):
    monkeypatch.setattr(tasks_data, "_KEPT_BYTES", kept_bytes)
    path = str(table([*ROWS, ROWS[0]]))
    tasks = [Task(name="t", path=path, deduplicate=True, n_train=n) for n in (20, 40)]
    configs = [dataclasses.replace(tiny(), task=task, data_seed=seed) for task in tasks for seed in (0, 1)]
    alone = [tasks_data.load(config.task, resolve(config.task), config.data_seed) for config in configs]
    tasks_data.check_files(configs)
    for config, data in zip(configs, alone, strict=True):
        (read_,) = tasks_data.already_read(config).values()
        assert repr(read_) == repr(data)


def test_duplicates_by_normalised_text_leave_the_first(table):
    rows = [("Same text!", 1), ("same text", 0), (":)", 1), (":(", 0), *ROWS]
    data = read(table(rows), deduplicate=True)
    found = members(data)
    assert "Same text!" in found and "same text" not in found
    assert {":)", ":("} <= set(found)
    assert len(found) == len(rows) - 1 and data.skipped == 1
    said = "task.deduplicate leaves out 1 rows that say the same as another, 1 of them for punctuation (as + or ="
    assert data.notes[0].startswith(said)
    unsure = [*((text, "unsure") for text, _ in ROWS[:50]), *((text, "np"[label]) for text, label in ROWS)]
    mapped = read(table(unsure), deduplicate=True, labels={"n": "n", "p": "p", "unsure": None})
    assert len(members(mapped)) == len(ROWS) and (mapped.skipped, mapped.notes) == (50, [])
    assert len(members(read(table(rows)))) == len(rows)


def test_a_number_becomes_a_class_above_the_threshold_and_neutral_rows_go(table):
    rows = [(text, i % 9 - 4) for i, (text, _) in enumerate(ROWS)]
    data = read(table(rows), threshold=0, min_abs_label=2)
    assert data.classes == ["0", "1"]
    wanted = {text: int(rating > 0) for text, rating in rows if abs(rating) >= 2}
    parts = (data.train, data.validation, data.test)
    assert {text: label for part in parts for text, label in zip(part.texts, part.labels, strict=True)} == wanted
    assert read(table(rows), threshold=3.5).train.labels.mean() < 0.2


def test_classes_are_in_the_order_of_their_numbers_or_the_one_that_is_given(table):
    many = [(text, i % 12) for i, (text, _) in enumerate(ROWS)]
    assert read(table(many)).classes == [str(number) for number in range(12)]
    named = read(table([(text, ("no", "yes")[label]) for text, label in ROWS]), labels=["yes", "no"])
    numbered = read(table(ROWS, name="numbers.tsv"), labels=["yes", "no"])
    assert named.classes == numbered.classes == ["yes", "no"]
    wanted = dict(ROWS)
    assert [1 - wanted[text] for text in named.test.texts] == named.test.labels.tolist()
    assert [wanted[text] for text in numbered.test.texts] == numbered.test.labels.tolist(), "places in task.labels"


def test_pairs_are_split_by_both_texts_and_kept_together(table):
    rows = [(f"{text} a", f"{text} b", label) for text, label in ROWS for _ in range(2)]
    path = table(rows, header="one\ttwo\tlabel\n")
    data = read(path, text="one", pair="two")
    found = [{*zip(part.texts, part.pairs or [], strict=True)} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, found)) == len(ROWS) == len(set.union(*found)), "twice the same pair is in one part"
    assert all(one[:-1] == two[:-1] for pairs in found for one, two in pairs)
    assert members(read(path, text="one")) != members(data)
    assert len(members(read(path, text="one", pair="two", deduplicate=True))) == len(ROWS)


def test_a_paper_s_protocol_chooses_on_the_test_rows_and_trains_on_all_others(table):
    clean, paper = read(table(ROWS)), read(table(ROWS), protocol="paper")
    assert paper.validation is paper.test and paper.test.texts == clean.test.texts
    assert set(paper.train.texts) == {*clean.train.texts, *clean.validation.texts}


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a comma in a number": ([("x", "1,5"), *ROWS], {"kind": "regression"}, "line 2 holds '1,5', not a num.*; 'task.d"),
    "nan for a number": ([("x", "nan"), *ROWS], {"kind": "regression"}, "line 2 holds 'nan', not a number; empty"),
    "infinity for a number": ([("x", "inf"), *ROWS], {"threshold": 0}, "line 2 holds 'inf', not a number; empty"),
    "a word": ([("x", "k.A."), *ROWS], {"kind": "regression"}, "a number; empty the cell, and task.skip_empty=true "),
    "one class": ([(text, 1) for text, _ in ROWS], {}, r"^task.label=label: one class only \(1\)"),
    "one number": ([(text, 1) for text, _ in ROWS], {"kind": "regression"}, "all [0-9]+ train rows hold 1, with which"),
    "one class by threshold": (ROWS, {"threshold": 5}, "one class only"),
    "all rows neutral": (ROWS, {"min_abs_label": 9}, "^task data: no row is left; all"),
    "an empty part": (ROWS[:4], {"test_share": 0.01}, "^task.n_(test|validation)=null: .* 0 rows .*; change"),
    "one class that is drawn": (ROWS, {"n_train": 2}, r"^task.n_train=2: the 2 train.* one class only "),
    "too few rows": (ROWS, {"n_test": 200}, "^task.n_test=200: the data have [0-9]+ rows for this part; lower it"),
    "too few training rows": (ROWS, {"n_train": 299}, "^task.n_train=299: the data have [0-9]+ rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_in_one_line(table, case):
    rows, keys, line = REFUSED[case]
    with pytest.raises(Refused, match=line):
        read(table(rows), **keys)


def test_a_folder_without_parts_is_refused_with_what_is_there(table):
    why = r"a folder, and it has no file named train \(pos.txt\); .*task.files=.*; task.format=class_files, if each"
    with pytest.raises(Refused, match=why):
        read(table(ROWS, name="pos.txt").parent)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_synthetic_task_has_a_rule_to_learn(kind):
    rows = synthetic(500, kind)
    assert len(rows) == 500 and rows == synthetic(500, kind)
    mood = {"sun": 1, "joy": 1, "win": 1, "fog": -1, "ill": -1, "mud": -1}
    total = np.array([sum(mood.get(word, 0) for word in row["text"].split()) for row in rows])
    assert (total != 0).all()
    assert [row["label"] for row in rows] == (total if kind == "regression" else total > 0).tolist()
    assert 0.4 < (total > 0).mean() < 0.6


def test_rows_of_one_prompt_text_or_group_are_a_cluster(tmp_path, table):
    rows = [{"prompt": f"sea {i}", "completion": f"oak {k}", "doc": i % 7} for k in range(3) for i in range(60)]
    path = records(tmp_path, rows)
    by_prompt = read(path, **PROMPTS).test
    of_text = set(zip(by_prompt.texts, by_prompt.clusters, strict=True))
    assert len(of_text) == len(set(by_prompt.clusters)) == len(set(by_prompt.texts)) == len(by_prompt) / 3
    by_group = read(path, **PROMPTS, group="doc").test
    assert len(set(zip(by_group.groups or [], by_group.clusters, strict=True))) == len(set(by_group.groups or [])) <= 7
    (tmp_path / "named").mkdir()
    named = records(tmp_path / "named", [{"source" if key == "doc" else key: row[key] for key in row} for row in rows])
    of_column = read(named, **PROMPTS, group="source")
    assert of_column.test.clusters.tolist() == by_group.clusters.tolist()
    shared = len(set(of_column.test.groups or []) & set(of_column.train.groups or []))
    assert any(note.startswith(f"{shared} of {shared} test groups (task.group=source)") for note in of_column.notes)
    alone = read(records(tmp_path / "named", [row | {"doc": "all"} for row in rows]), **PROMPTS, group="doc")
    assert any(note.startswith("all test rows are one group (task.group=doc)") for note in alone.notes)
    lacking = records(tmp_path / "named", [*rows, *[row | {"doc": ""} for row in rows[:3]]])
    notes = read(lacking, **PROMPTS, group="doc", skip_empty=True).notes
    assert "task.skip_empty leaves out rows without task.group=doc (3)" in notes
    assert read(path, **PROMPTS, group="source").test.clusters.tolist() == by_prompt.clusters.tolist()
    labelled = read(table([*ROWS, *ROWS[:20]]))
    assert len(set(labelled.test.clusters)) == len(set(labelled.test.texts)) < len(labelled.test)
