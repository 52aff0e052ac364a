"""Which tables a task reads, and which part each is: one file, a folder of files, splits of the hub, made-up rows."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankwise.assets import Asset
from rankwise.config import Task
from rankwise.errors import Refused, did_you_mean
from rankwise.tasks import formats, tables
from rankwise.tasks.parts import PARTS
from rankwise.tasks.tables import Row, Table

PART_NAMES = {
    "train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test",
}  # fmt: skip
_ENTRIES = ("webnlg", "dart")  # formats without a row per line
_PART_IN_FRONT = re.compile(r"^(train|validation|valid|dev|test)_", re.IGNORECASE)


def open_tables(task: Task, asset: Asset) -> list[Table]:
    """The tables of a task: training, validation, test; all of them training where the source has no parts."""
    if asset.hub_id:
        return _hub(task, asset.hub_id)
    if asset.path is None:
        return [_generated(task)]
    if asset.path.is_file():
        return [_file(asset.path, task)]
    files = _files(asset.path, task)
    return [_file(path, task, part) for part in PARTS for path in files.get(part, [])]


def _file(path: Path, task: Task, part: str = "train") -> Table:
    read: Callable[[Path, Task], Iterator[Row]] = formats.READERS.get(task.format or "", tables.read_file)
    form = tables.file_format(path, task.format)
    unit = "row" if form == "parquet" else "entry" if form in _ENTRIES else "line"
    return Table(str(path), functools.partial(read, path, task), part, _bare(path.stem), unit)


def _bare(name: str) -> str:
    """``validation_matched`` and ``dev_matched`` are matched: the name of a split without that of its part."""
    return _PART_IN_FRONT.sub("", name)


def _files(folder: Path, task: Task) -> dict[str, list[Path]]:
    """The files of each part in a folder: as ``task.files`` says, as the format has it, or by their names."""
    if task.files:
        return {part: [_inside(folder, name) for name in names] for part, names in _parts(task, "files").items()}
    if task.format == "glue":
        splits = _parts(task, "splits") if task.splits else {"train": ["train"], "test": ["validation"]}
        return {part: [formats.glue_file(folder, task, name) for name in names] for part, names in splits.items()}
    if task.format == "wordnet":
        return {"train": formats.wordnet_files(folder)}
    return _named_after_parts(folder)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        near = did_you_mean(name, (file.name for file in folder.iterdir()))
        raise Refused.value("task.files", name, f"no such file in {folder}{near}")
    return path


def _named_after_parts(folder: Path) -> dict[str, list[Path]]:
    """train.csv, dev.jsonl, test.parquet, …"""
    suffixes = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        part = PART_NAMES.get(path.stem.lower())
        if part and path.is_file() and path.suffix.lower() in suffixes:
            found.setdefault(part, []).append(path)
    several = next((part for part, paths in found.items() if len(paths) > 1), None)
    if "train" not in found or several:
        why = f"more than one file for {several}" if several else "it has no file named train"
        raise Refused.value("task.path", folder, f"a folder, and {why}", "say which: task.files={train: FILE, …}")
    return found


def _parts(task: Task, key: str) -> dict[str, list[str]]:
    """``task.files`` or ``task.splits`` as lists of names per part. Raises Refused for another form of it."""
    given = getattr(task, key)
    form = f"task.{key}: {{train: NAME, validation: NAME, test: [NAME, NAME]}}; train is needed"
    if not isinstance(given, dict) or not given.get("train"):
        raise Refused(f"{form}, given {given}")
    found = {}
    for part, names in given.items():
        if part not in PARTS:
            raise Refused(f"{form}, {part} is none of them{did_you_mean(str(part), PARTS)}")
        if names is None:
            continue  # a part that a config file names, taken away
        names = names if isinstance(names, list) else [names]
        if not names or not all(isinstance(name, str) for name in names):
            raise Refused(f"{form}, given {part}: {given[part]}")
        found[part] = names
    return found


def _hub(task: Task, hub_id: str) -> list[Table]:
    import datasets

    try:
        found = datasets.load_dataset(hub_id, task.subset, revision=task.revision)
    except Exception as error:  # the hub's client raises many kinds
        raise Refused(
            f"task.path={hub_id}: no such file here, and the hub has no answer ({_first_line(error)})"
        ) from None
    splits = _parts(task, "splits") if task.splits else {part: [part] for part in PARTS if part in found}
    wanted = [(part, name) for part in PARTS for name in splits.get(part, [])]
    missing = next((name for _, name in wanted if name not in found), None if "train" in splits else "train")
    if missing:
        allowed = f"{hub_id} has the splits {', '.join(found)}{did_you_mean(missing, found)}"
        raise Refused.value("task.splits", missing, allowed, "say which is which: task.splits={train: NAME, …}")
    return [
        Table(f"{hub_id} {name}", functools.partial(_hub_rows, found[name]), part, _bare(name), "row")
        for part, name in wanted
    ]


def _hub_rows(split: Any) -> Iterator[Row]:
    number = 0
    for batch in split.iter(batch_size=tables.CHUNK):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(batch, cells, strict=True))


def _generated(task: Task) -> Table:
    size = task.synthetic or 0
    rows: list[Any]
    if task.reasoning:
        from rankwise.tasks.text import reasoning

        rows = list(reasoning.rows(task.reasoning, size, seed=0))
    elif task.kind == "causal_lm" and task.generation.keys:
        rows = list(objects(size, task.generation.keys))
    else:
        rows = list(synthetic(size, task.kind).to_dict("records"))
    return Table("generated rows", lambda: enumerate(rows, 1), unit="row")


def synthetic(rows: int, kind: str) -> pd.DataFrame:
    """Short sentences of six words; the label is which of two moods has more of them (or by how much).

    For a causal LM the sentence ends in an arrow, and the name of the mood is what is to be written.
    """
    rng = np.random.default_rng(0)
    words = np.array(["sun", "joy", "win", "fog", "ill", "mud", "cup", "box", "map"])
    mood = np.array([1, 1, 1, -1, -1, -1, 0, 0, 0])
    picks = rng.integers(0, len(words), (rows * 2, 6))
    total = mood[picks].sum(1)
    picks, total = picks[total != 0][:rows], total[total != 0][:rows]
    texts = [" ".join(words[p]) for p in picks]
    if kind == "causal_lm":
        moods = np.where(total > 0, "good", "bad").tolist()
        return pd.DataFrame({"prompt": [f"{text} ->" for text in texts], "completion": moods})
    label = total if kind == "regression" else (total > 0).astype(int)
    return pd.DataFrame({"text": texts, "label": label.astype(float)})


def objects(rows: int, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Sentences that give each key a value, in any order, and the JSON object of them, in the keys' order."""
    rng = np.random.default_rng(0)
    words = ["red", "green", "Oslo", "Lima", "north", "south", "tea", "rice"]
    for _ in range(rows):
        values = {key: int(rng.integers(100)) if rng.random() < 0.5 else str(rng.choice(words)) for key in keys}
        said = ", ".join(f"{keys[i]} is {values[keys[i]]}" for i in rng.permutation(len(keys)))
        yield {"prompt": f"{said}. As JSON:", "completion": json.dumps(values)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
