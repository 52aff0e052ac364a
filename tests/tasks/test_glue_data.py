"""The nine tasks of GLUE, from files as their download lays them out, with its traps, and from the hub's columns."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from rankwise.assets import Asset, resolve
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.study.compose import composed
from rankwise.tasks.data import Data, load

FIRST, SECOND = 'the "old oak {i} stood by the sea', "café {i}: a tree is near “water"

# Of each task: folder, header line (None: there is none), a line of it.
LAYOUTS: dict[str, tuple[str, str | None, str]] = {
    "cola": ("CoLA", None, "gj04\t{label}\t*\t{first}"),
    "sst2": ("SST-2", "sentence\tlabel", "{first} \t{label}"),
    "mrpc": ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{label}\t7{i}\t8{i}\t{first}\t{second}"),
    "stsb": (
        "STS-B",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "{i}\tmain-news\ttrees\t2012\t{i}\tnone\tnone\t{first}\t{second}\t{label}",
    ),
    "qqp": ("QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "{i}\t1\t2\t{first}\t{second}\t{label}"),
    "mnli": (
        "MNLI",
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
        "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "{i}\t1\t1c\tfiction\t( )\t( )\t(ROOT )\t(ROOT )\t{first}\t{second}\tneutral\t{label}",
    ),
    "qnli": ("QNLI", "index\tquestion\tsentence\tlabel", "{i}\t{first}\t{second}\t{label}"),
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel", "{i}\t{first}\t{second}\t{label}"),
    "wnli": ("WNLI", "index\tsentence1\tsentence2\tlabel", "{i}\t{first}\t{second}\t{label}"),
}
LABELS = {name: ["0", "1"] for name in LAYOUTS} | {"stsb": ["0.000", "2.750", "5.000"]}  # as they are written
LABELS |= {"mnli": ["entailment", "neutral", "contradiction"]}
LABELS |= {name: ["entailment", "not_entailment"] for name in ("qnli", "rte")}
each = pytest.mark.parametrize("name", LAYOUTS)


@functools.cache
def shipped(name: str) -> Task:
    """The task of ``conf/task/glue``, with validation rows enough from the few that there are."""
    return composed([f"task=glue/{name}", "task.validation_share=0.1"]).task


def glue(name: str, **keys: Any) -> Task:
    return replace(shipped(name), **keys)


def written(name: str, start: int, stop: int, line_end: str = "\n", mark: str = "") -> bytes:
    """Lines of one file of a task."""
    (_, header, line), labels = LAYOUTS[name], LABELS[name]
    lines = [] if header is None else [header]
    for i in range(start, stop):
        values = {"i": i, "label": labels[i % len(labels)], "first": FIRST.format(i=i), "second": SECOND.format(i=i)}
        lines.append(line.format(**values))
    return (mark + "".join(text + line_end for text in lines)).encode()


def download(root: Path, name: str, **form: Any) -> Path:
    """The folder of a task, 60 training rows and 12 of each dev set."""
    folder = root / LAYOUTS[name][0]
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_bytes(written(name, 0, 60, **form))
    devs = ("dev_matched.tsv", "dev_mismatched.tsv") if name == "mnli" else ("dev.tsv",)
    for number, dev in enumerate(devs):
        (folder / dev).write_bytes(written(name, 60 + 12 * number, 72 + 12 * number, **form))
    return folder


def read(task: Task) -> Data:
    return load(task, resolve(task), 0)


def rows(data: Data, part: str) -> list[tuple[Any, ...]]:
    split = getattr(data, part)
    pairs = split.pairs or [None] * len(split)
    return list(zip(split.texts, pairs, split.labels.tolist(), strict=True))


@each
def test_a_download_is_read_as_it_is_laid_out(tmp_path, name):
    folder = download(tmp_path / "glue", name)
    data = read(glue(name, path=str(folder.parent)))
    labels = LABELS[name]
    pair = SECOND if glue(name).pair else None

    def row(i: int) -> tuple[Any, ...]:
        label = float(labels[i % len(labels)]) if name == "stsb" else i % len(labels)
        return FIRST.format(i=i), pair and pair.format(i=i), label

    assert rows(data, "test") == [row(i) for i in range(60, 84 if name == "mnli" else 72)]
    assert sorted(rows(data, "train") + rows(data, "validation")) == sorted(row(i) for i in range(60))
    assert 0 < len(data.validation) < 20
    assert data.classes == glue(name).labels and (data.classes is None) == (name == "stsb")
    assert data.skipped == 0
    own = read(glue(name, path=str(folder)))
    assert rows(own, "test") == rows(data, "test"), "the task's own folder"
    paper = read(glue(name, path=str(folder), protocol="paper"))
    assert paper.validation is paper.test and len(paper.train) == 60


@pytest.mark.parametrize("form", [{"mark": "﻿"}, {"line_end": "\r\n"}, {"line_end": "\r\n", "mark": "﻿"}])
@each
def test_marks_and_line_ends_change_nothing(tmp_path, name, form):
    plain = read(glue(name, path=str(download(tmp_path / "plain", name))))
    other = read(glue(name, path=str(download(tmp_path / "other", name, **form))))
    assert other.fingerprint == plain.fingerprint


def test_the_paraphrases_are_read_from_the_files_of_their_authors_in_whatever_encoding(tmp_path):
    folder = download(tmp_path, "mrpc", mark="﻿", line_end="\r\n")
    prepared = read(glue("mrpc", path=str(tmp_path)))
    for name, original in (("train.tsv", "msr_paraphrase_train.txt"), ("dev.tsv", "msr_paraphrase_test.txt")):
        text = (folder / name).rename(folder / original).read_bytes().decode("utf-8-sig")
        (folder / original).write_bytes(text.encode("cp1252"))
    assert read(glue("mrpc", path=str(tmp_path))).fingerprint == prepared.fingerprint


def test_lines_that_are_too_short_are_left_out_and_counted(tmp_path):
    folder = download(tmp_path, "qqp")
    whole = read(glue("qqp", path=str(folder)))
    lines = (folder / "train.tsv").read_bytes().splitlines(keepends=True)
    (folder / "train.tsv").write_bytes(b"".join([*lines[:9], b"12\t1\t2\thalf a question\n", *lines[9:], b"99\t3\n"]))
    data = read(glue("qqp", path=str(folder)))
    assert data.skipped == 2 and data.fingerprint == whole.fingerprint
    assert data.train.items.tolist() == whole.train.items.tolist()


def test_matched_and_mismatched_rows_are_told_apart(tmp_path):
    data = read(glue("mnli", path=str(download(tmp_path, "mnli"))))
    assert data.test.groups == ["matched"] * 12 + ["mismatched"] * 12
    assert set(data.train.groups or []) == {"train"}


def test_labels_that_are_numbers_on_the_hub_are_the_same_classes(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    local = read(glue("mnli", path=str(download(tmp_path, "mnli"))))
    hub = tmp_path / "hub"
    (hub / "mnli").mkdir(parents=True)
    ends = {"train": (0, 60), "validation_matched": (60, 72), "validation_mismatched": (72, 84)}
    for split, (start, stop) in ends.items():
        i = np.arange(start, stop)
        frame = pd.DataFrame({"premise": [FIRST.format(i=k) for k in i], "hypothesis": [SECOND.format(i=k) for k in i]})
        frame.assign(label=i % 3).to_parquet(hub / f"mnli/{split}.parquet")
    files = [{"split": split, "path": f"mnli/{split}.parquet"} for split in ends]
    card = yaml.safe_dump({"configs": [{"config_name": "mnli", "data_files": files}]})
    (hub / "README.md").write_text(f"---\n{card}---\n")
    there = load(glue("mnli"), Asset(None, str(hub), "hub", "hub:nyu-mll/glue@main"), 0)
    assert there.fingerprint == local.fingerprint
    assert there.classes == ["entailment", "neutral", "contradiction"] and there.test.groups == local.test.groups


def test_what_is_no_download_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"^task.path=.*: .* has no folder MNLI, and itself has no train.tsv or msr_"):
        read(glue("mnli", path=str(tmp_path)))
    (tmp_path / "MNLI").mkdir()  # the only one there, which may stand for its folder: it is not what was given
    with pytest.raises(
        Refused, match=rf"^task.path={tmp_path}: .*MNLI has no train.tsv or msr_.*; give the folder of the GLUE"
    ):
        read(glue("mnli", path=str(tmp_path)))
    (tmp_path / "MNLI/train.tsv").touch()
    with pytest.raises(Refused, match=rf"^task.path=.*: {tmp_path} has no folder CoLA, and itself has no train.tsv"):
        read(glue("cola", path=str(tmp_path)))
    with pytest.raises(Refused, match=r"^task.subset=colla: one of cola, .* .did you mean cola.* for task.format=glue"):
        read(glue("cola", path=str(tmp_path), subset="colla"))
    folder = download(tmp_path, "cola")
    with pytest.raises(Refused, match=r"^task.splits=valid: one of train, validation, .*did you mean validation"):
        read(glue("cola", path=str(folder), splits={"train": "train", "test": "valid"}))
    (folder / "dev.tsv").write_text("gj04\t2\t\tsun and sea\n")
    with pytest.raises(Refused, match=r"^task.label=label: .*dev.tsv line 1 holds '2', none of task.labels=unacc"):
        read(glue("cola", path=str(folder)))
