"""Files, folders, hub data sets: every format gives the same rows in bounded memory, or one line that says why not."""

import csv
import json
import re
import tracemalloc
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rankwise.assets import Asset, resolve
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.tasks import data as tasks_data
from rankwise.tasks import tables
from rankwise.tasks.data import Data, load
from rankwise.tasks.splits import digest, place

ROWS = [(f"the {i}th sea is as deep as {i * 7919 % 1000} oaks", i % 2) for i in range(200)]


def read(path: Path, data_seed: int = 0, **keys: Any) -> Data:
    task = Task(name="t", path=str(path), **keys)
    return load(task, resolve(task), data_seed)


def places(texts: list[str]) -> np.ndarray:
    """Of each text, by which its part is decided."""
    return np.array([place(digest((text,))) for text in texts])


def texts(data: Data) -> list[set[str]]:
    return [set(part.texts) for part in (data.train, data.validation, data.test)]


def content(data: Data) -> list[Any]:
    """Everything that a run sees of its data."""
    parts = (data.train, data.validation, data.test)
    return [data.fingerprint, data.classes] + [
        [value.tolist() if isinstance(value, np.ndarray) else value for value in astuple(part)] for part in parts
    ]


def write(folder: Path, form: str, rows: list[tuple[str, Any]], name: str = "data") -> Path:
    """Rows of text and label as a file of this format."""
    path, frame = folder / f"{name}.{form}", pd.DataFrame(rows, columns=["text", "label"])
    if form == "parquet":
        frame.to_parquet(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif form == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t", quoting=csv.QUOTE_NONE)
    return path


def records(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "a.json").write_text(json.dumps(rows))
    return folder / "a.json"


@pytest.mark.parametrize(("chunk", "kept_bytes"), [(1, 10_000), (7, 0), (2048, 1 << 27)])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_data_whatever_is_held_at_a_time(tmp_path, monkeypatch, form, chunk, kept_bytes):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    monkeypatch.setattr(tasks_data, "_KEPT_BYTES", kept_bytes)
    rows = [*ROWS, ('a "quoted", word, and café', 1), ('"', 0), ("the 3th sea is AS deep as 757 oaks!", 1)]
    keys: dict[str, Any] = {"n_train": 50, "n_validation": 9, "deduplicate": True}
    data = read(write(tmp_path, form, rows), **keys)
    monkeypatch.undo()
    assert content(data) == content(read(write(tmp_path, "txt", rows), **keys))
    assert data.train.items.max() < len(rows)
    for part in (data.train, data.validation, data.test):
        assert [rows[item] for item in part.items] == list(zip(part.texts, part.labels.tolist(), strict=True))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_memory_is_bounded_by_what_is_chosen_not_by_the_file(tmp_path, monkeypatch, form):
    monkeypatch.setattr(tasks_data, "_KEPT_BYTES", 1 << 18)  # the file is larger than what is kept between readings
    monkeypatch.setattr(tables, "CHUNK", 50)
    rows, filler = (1_000, "word" * 2000) if form == "parquet" else (4_000, "word" * 500)
    path = write(tmp_path, form, [(f"{i} {filler}", i % 2) for i in range(rows)])
    size = rows * len(filler)
    assert form == "parquet" or path.stat().st_size > size >= 8e6
    tracemalloc.start()
    data = read(path, n_train=50, n_validation=25, n_test=25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data.train) == 50
    assert peak < (2e6 if form == "parquet" else 1.2e6)


def test_a_csv_field_may_hold_delimiters_quotes_and_line_breaks_and_a_tsv_field_any_quote(tmp_path):
    odd = [('she said "no", twice', 0), ("two\nlines", 1), ('a 5" nail', 0)]
    path = write(tmp_path, "csv", [*ROWS, *odd])
    assert {text for text, _ in odd} <= set.union(*texts(read(path)))
    path = tmp_path / "stray.tsv"
    path.write_text("text\tlabel\n" + '"open\t1\nclose"\t0\n"both"\t1\n' + "".join(f"{t}\t{y}\n" for t, y in ROWS))
    assert {'"open', 'close"', '"both"'} <= set.union(*texts(read(path))) and not read(path).notes
    path.write_text("text\tlabel\n" + "".join(f'"{t}"\t{y}\n' for t, y in ROWS))
    assert not read(write(tmp_path, "csv", [(f'"{text}"', label) for text, label in ROWS])).notes
    assert read(path).notes == ["200 texts stand in quotes, which are read as text; task.format=csv takes them off"]
    assert set.union(*texts(read(path, format="csv", delimiter="tab"))) == {text for text, _ in ROWS}


@pytest.mark.parametrize(
    ("encoding", "given", "line_end"),
    [
        ("utf-8", None, "\n"),
        ("utf-8-sig", None, "\r\n"),
        ("latin-1", None, "\n"),
        ("latin-1", "latin-1", "\r\n"),
        ("utf-16", None, "\n"),
        ("utf-16-le", "utf-16-le", "\n"),
        ("cp1250", "cp1250", "\r"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_encodings_and_line_ends_do_not_matter(tmp_path, form, encoding, given, line_end):
    rows = [*ROWS, ("das Café der Brüder", 1)]
    plain = read(write(tmp_path, form, rows))
    path = tmp_path / f"other.{form}"
    written = (tmp_path / f"data.{form}").read_text(encoding="utf-8").replace("\n", line_end)
    path.write_bytes(written.encode(encoding))
    assert content(read(path, encoding=given)) == content(plain)


def test_files_of_a_folder_are_the_parts_and_missing_parts_are_cut_from_train(tmp_path):
    write(tmp_path, "csv", ROWS[:100], "a")
    write(tmp_path, "jsonl", ROWS[100:150], "b")
    write(tmp_path, "parquet", ROWS[150:], "c")
    data = read(tmp_path, files={"train": "a.csv", "test": ["b.jsonl", "c.parquet"]}, group="source")
    train, validation, _ = texts(data)
    assert data.test.texts == [text for text, _ in ROWS[100:]] and data.test.groups == ["b"] * 50 + ["c"] * 50
    assert train | validation == {text for text, _ in ROWS[:100]} and not train & validation
    assert validation == {text for text, _ in ROWS[:100] if places([text])[0] < 0.15}, "a fixed part, by hash"
    all_named = read(tmp_path, files={"train": ["a.csv"], "validation": "b.jsonl", "test": "c.parquet"})
    assert [len(part) for part in texts(all_named)] == [100, 50, 50]
    only_train = read(tmp_path, files={"train": "a.csv", "validation": None})
    assert texts(only_train) == texts(read(tmp_path / "a.csv"))


def test_a_folder_of_files_named_after_parts_needs_no_more(tmp_path):
    write(tmp_path, "csv", ROWS[:100], "train")
    write(tmp_path, "jsonl", ROWS[100:150], "dev")
    write(tmp_path, "parquet", ROWS[150:], "test")
    assert [len(part) for part in texts(read(tmp_path))] == [100, 50, 50]
    write(tmp_path, "csv", ROWS, "valid")
    with pytest.raises(Refused, match=r"a folder, and more than one file for validation .*; say which: 'task.files="):
        read(tmp_path)
    folder = tmp_path / "snli"
    folder.mkdir()
    for name in ("snli_1.0_train", "snli_1.0_dev", "sts-test"):
        write(folder, "jsonl", ROWS, name)
    meant = "{train: snli_1.0_train.jsonl, validation: snli_1.0_dev.jsonl, test: sts-test.jsonl}"
    with pytest.raises(Refused, match=f"no file named train .*; say which: 'task.files={re.escape(meant)}'$"):
        read(folder)
    (tmp_path / "sts").mkdir()
    for name in ("train_1", "train_2"):
        write(tmp_path / "sts", "csv", ROWS, name)
    with pytest.raises(Refused, match=r"'task.files=\{train: \[train_1.csv, train_2.csv\]\}'"):
        read(tmp_path / "sts")


def test_a_column_may_say_the_part(tmp_path):
    names = ["train", "Dev", "TEST", "valid", "validation"]
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\tfold\n" + "".join(f"{t}\t{y}\t{names[i % 5]}\n" for i, (t, y) in enumerate(ROWS)))
    data = read(path, split="fold")
    assert [len(part) for part in texts(data)] == [40, 120, 40]
    assert set(data.test.texts) == {text for text, _ in ROWS[2::5]}
    path.write_text(path.read_text() + "one more\t1\theld out\n")
    with pytest.raises(Refused, match=r"^task.split=fold: .*data.tsv line 202 holds 'held out', none of train, trai.*"):
        read(path, split="fold")
    data = read(path, split="fold", splits={"train": ["Valid", "train", 7], "test": "dev"})
    assert data.skipped == 81 and set(data.test.texts) == {text for text, _ in ROWS[1::5]}
    assert {*data.train.texts, *data.validation.texts} == {text for i, (text, _) in enumerate(ROWS) if i % 5 in (0, 3)}
    for test, why in (
        ("held_out", r"of the test part \(held_out\); "),
        (["dev", "train"], "s=train: one value for two"),
    ):
        with pytest.raises(Refused, match=rf"^task[. ].*{why}"):
            read(path, split="fold", splits={"train": ["valid", "train"], "test": test})
    frame = pd.DataFrame([(t, y if i % 3 < 2 else None, i % 3) for i, (t, y) in enumerate(ROWS)])
    frame.set_axis(["text", "label", "fold"], axis=1).astype({"fold": float}).to_parquet(tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet", split="fold", splits={"train": 0, "validation": None, "test": [1.0]})
    assert set(data.test.texts) == {text for text, _ in ROWS[1::3]} and data.skipped == len(ROWS[2::3])
    with pytest.raises(Refused, match=r"^task data: no row that is read is of the test part \(2\); task.splits="):
        read(tmp_path / "a.parquet", split="fold", splits={"train": [0, 1], "test": 2}, skip_empty=True)
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "csv", [(t, 2 * y - 1) for t, y in ROWS], "train")
    write(tmp_path / "own", "csv", [(t, 0) for t, _ in ROWS], "test")
    with pytest.raises(Refused, match=r"^task data: no row that is read is of the test part; task.files="):
        read(tmp_path / "own", threshold=0, min_abs_label=0.5)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the hub's own client reads as a data set, with its cache beside it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def from_hub(folder: Path, **keys: Any) -> Data:
    return load(Task(name="t", path="org/set", **keys), Asset(None, str(folder), "hub", "hub:org/set"), 0)


def test_the_splits_of_a_hub_data_set_are_honoured(hub, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 7)
    write(hub, "parquet", ROWS[:100], "train")
    write(hub, "parquet", ROWS[100:150], "validation")
    write(hub, "parquet", ROWS[150:], "test")
    data = from_hub(hub)
    assert [part.texts for part in (data.train, data.validation, data.test)] == [
        [text for text, _ in ROWS[start:stop]] for start, stop in ((0, 100), (100, 150), (150, 200))
    ]
    assert data.classes == ["0", "1"]
    dev = from_hub(hub, splits={"train": "train", "test": ["validation", "test"]}, group="source")
    assert len(dev.test) == 100 and set(dev.test.groups or []) == {"validation", "test"}
    assert set(dev.train.texts) | set(dev.validation.texts) == set(data.train.texts)
    with pytest.raises(Refused, match=r"^task.splits=trian: .* has the splits train, validation, test .did you mean"):
        from_hub(hub, splits={"train": "trian"})
    with pytest.raises(Refused, match=r"^task.label=lable: .* train row 1 has the columns text, label .did you mean"):
        from_hub(hub, label="lable")


FILES: dict[str, tuple[Any, str]] = {
    "a missing file": ({"train": "tran.csv"}, r"^task.files=tran.csv: no such file in .* .did you mean train.csv"),
    "no train": ({"test": "train.csv"}, r"^task.files: .*; train is needed, given"),
    "an unknown part": ({"train": "train.csv", "tets": "train.csv"}, r"^task.files: .*tets is none of them .did you m"),
    "a number": ({"train": 3}, r"^task.files: .*given train: 3"),
    "a name alone": ("train.csv", r"^task.files: .*given train.csv"),
    "an empty part": ({"train": "train.csv", "validation": "none.csv"}, r"none.csv: no rows$"),
    "one row": ({"train": "train.csv", "validation": "one.csv"}, r"^task.n_validation=null: .* 1 row for .* split"),
    "an unseen class": ({"train": "train.csv", "test": "other.csv"}, r"^task.label=label: 'new' is .* of 3 test row"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_make_no_parts_are_refused(tmp_path, case):
    write(tmp_path, "csv", ROWS, "train")
    write(tmp_path, "csv", [], "none")
    write(tmp_path, "csv", [("alone", 1)], "one")
    write(tmp_path, "csv", [*ROWS, *(("fresh", "new"),) * 3], "other")
    files, line = FILES[case]
    with pytest.raises(Refused, match=line):
        read(tmp_path, files=files)
