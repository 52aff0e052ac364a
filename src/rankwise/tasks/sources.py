"""Which tables a task reads, and which part each is: one file, a folder of files, splits of the hub, made-up rows."""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankwise.assets import Asset, unpacked
from rankwise.config import Task
from rankwise.errors import Refused, did_you_mean, reason
from rankwise.files import shown
from rankwise.tasks import formats, tables
from rankwise.tasks.splits import PARTS
from rankwise.tasks.tables import Table

_NAMES = {"train": ("training",), "validation": ("valid", "val", "dev"), "test": ("testing",)}
PART_NAMES = {name: part for part, others in _NAMES.items() for name in (part, *others)}
_PART_IN_FRONT = re.compile(rf"^({'|'.join(PART_NAMES)})_", re.IGNORECASE)
_SHIPPED = ("text", "glue", "e2e", "webnlg", "dart")  # of shipped tasks, which read the hub's rows of the same data too
_ROWS = {ending for ending in tables.SUFFIXES if ending != ".txt"}
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]{8,})?$")  # one of several files of a part, as the hub has them
_NO_DATA = re.compile(r"\.|__MACOSX|README|LICEN[CS]E|dataset_infos\.json", re.IGNORECASE)  # beside the data


def open_tables(task: Task, asset: Asset) -> tuple[list[Table], list[str]]:
    """The tables of a task: training, validation, test; all of them training where the source has no parts. And what
    is to be said of them: which names were taken for which part, what was passed over, an encoding that was guessed.
    """
    if asset.hub_id:
        _refuse_parts(task, "files")
        return _hub(task, asset.hub_id)
    if asset.path is None:
        return [_generated(task)], []
    notes: list[str] = []
    where = unpacked(asset.path)
    while not task.files and where.is_dir() and (inside := _only_folder(where)):
        where = inside
    if where.is_file():
        _refuse_parts(task, "files", "splits")
        files = {"train": [where]}
    elif any((where / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
        _refuse_parts(task, "files")
        return _saved(task, where)
    else:
        _refuse_parts(task, *["splits"] * (task.format != "glue"))
        files = _files(where, task, notes)
    paths = [(path, part) for part in PARTS for path in files.get(part, [])]
    nodes = [(there.st_dev, there.st_ino) for there in (path.stat() for path, _ in paths)]  # which links share
    named_n = Counter(nodes)
    for (path, _), node in zip(paths, nodes, strict=True):
        if named_n[node] > 1:
            raise Refused.value("task.files", path.name, "a file named once; here its rows would come twice")
    notes += [
        f"{unread} is not read: texts without a label"
        for path, _ in paths
        for name in tables.UNLABELLED
        if (unread := path / name).is_dir()
    ]
    classes = _classes([path for path, _ in paths]) if task.format == "class_files" else {}
    if classes:
        notes.append(f"classes by file: {', '.join(f'{name} ({path.name})' for path, name in classes.items())}")
    opened = [_table(path, task, part, classes.get(path)) for path, part in paths]
    guessed = [table for table in opened if table.encoding not in (None, "utf-8-sig", task.encoding)]
    return opened, notes + [
        f"{table.name} is read as {table.encoding}; if that is wrong, set task.encoding" for table in guessed
    ]


def _refuse_parts(task: Task, *keys: str) -> None:
    """Refuse the names of parts that this source does not have."""
    of = {"files": "a folder of files", "splits": "a hub id, of save_to_disk's folder and of task.split's column"}
    for key in keys:
        if getattr(task, key) and not (key == "splits" and task.split):
            raise Refused.value(f"task.{key}", getattr(task, key), f"null here: it names parts of {of[key]}")


def _only_folder(folder: Path) -> Path | None:
    """The one folder that a folder of data holds and that stands for it, as ``aclImdb`` in that of its archive."""
    inside = [path for path in folder.iterdir() if not _NO_DATA.match(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in PART_NAMES else None


def _table(path: Path, task: Task, part: str, label: str | None) -> Table:
    if path.is_dir():
        return Table(str(path), functools.partial(tables.class_folders, path, task.encoding), part, path.name)
    form = tables.file_format(path, task.format if label is None else None)
    encoding = None if form == "parquet" else tables.encoding_of(path, task.encoding)
    read = functools.partial(formats.READERS.get(form, tables.read_file), path, task, encoding or "")
    if label is not None:
        read = functools.partial(tables.of_class, path, task, encoding or "", label)
    classes = tables.class_names(path) if form == "parquet" else {}
    parts = "task.splits" if task.split else "task.files"
    header, name = form in ("csv", "tsv"), _bare(path.name)
    return Table(str(path), read, part, name, encoding, header, classes, parts, quotes=form == "tsv")


def _classes(paths: list[Path]) -> dict[Path, str]:
    """The class of each file: the words of its name that not all have, as ``pos`` of rt-polarity.pos."""
    words = {path: [word for word in _words(path.name) if word.lower() not in PART_NAMES] for path in paths}
    common = set.intersection(*map(set, words.values()))
    return {path: "_".join(word for word in words[path] if word not in common) or path.stem for path in paths}


def _words(name: str) -> list[str]:
    return re.split(r"[/._-]", name)


def _bare(name: str) -> str:
    """``train`` of train.csv.gz and train-00000-of-00002.parquet; ``matched`` of dev_matched.tsv."""
    return _PART_IN_FRONT.sub("", _SHARD.sub("", name.split(".")[0]))


def _files(folder: Path, task: Task, notes: list[str]) -> dict[str, list[Path]]:
    """The files of each part in a folder: as ``task.files`` says, as the format has it, or by their names.

    A folder may stand for the files in it that are named as parts (``data``), or for a part whose classes are folders.
    """
    if task.files or task.format in formats.FILES:
        named = named_parts(task.files or formats.FILES[task.format or ""], "files")
        return {part: [_inside(folder, name) for name in names] for part, names in named.items()}
    if task.format == "glue":
        splits = named_parts(task.splits, "splits") if task.splits else {"train": ["train"], "test": ["validation"]}
        return {part: [formats.glue_file(folder, task, name) for name in names] for part, names in splits.items()}
    if task.format == "class_files":
        by_part: dict[str, list[Path]] = {}
        for path in (path for path in shown(folder) if not _NO_DATA.match(path.name)):
            words = _words(str(path.relative_to(folder)).lower())
            part = next((PART_NAMES[word] for word in words if word in PART_NAMES), "train")
            by_part.setdefault(part, []).append(path)
        return by_part
    if task.format == "wordnet":
        return {"train": formats.wordnet_files(folder)}
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and tables.suffix(path) in tables.SUFFIXES]
    if not any(PART_NAMES.get(_bare(path.name).lower()) for path in paths):
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        parts = {path: PART_NAMES[path.name.lower()] for path in inside if path.name.lower() in PART_NAMES}
        files = tables.class_files(folder)
        if any(map(tables.class_files, parts)):
            paths = [*parts]
        elif rows := [path for part in parts for path in sorted(part.iterdir()) if tables.suffix(path) in _ROWS]:
            return {part: [path for path in rows if parts[path.parent] == part] for part in parts.values()}
        elif len({file.parent for file in files}) > 1:
            if one := next((file.parent for file in files if tables.suffix(file) in _ROWS), None):
                raise Refused.value(
                    "task.path", folder, "several data sets, in a folder each", f"task.path={one} is one"
                )
            return {"train": [folder]}
        elif (folder / "data").is_dir():
            return _files(folder / "data", task, notes)
    parts_by_name = _named(
        folder, {path.name: _SHARD.sub("", path.name.split(".")[0]) for path in paths}, "files", notes
    )
    return {part: [folder / name for name in names] for part, names in parts_by_name.items()}


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        near = did_you_mean(name, (file.name for file in folder.iterdir()))
        raise Refused.value("task.files", name, f"no such file in {folder}{near}")
    return path


def _named(source: object, names: Mapping[str, str], key: str, notes: list[str]) -> dict[str, list[str]]:
    """The files or splits of each part by their bare names: train.csv, dev.jsonl, … Notes say what became of others."""
    parts: dict[str, list[str]] = {}
    for name, bare in names.items():
        part = PART_NAMES.get(bare.lower())
        if part:
            parts.setdefault(part, []).append(name)
        if part and part != bare.lower():
            notes.append(f"{name} of {source} is the {part} part; if that is wrong, set task.{key}")
        elif not part and (key == "splits" or tables.suffix(Path(name)) != ".txt"):
            notes.append(f"{name} of {source} is not read: it is named as no part; set task.{key} if it is one")
    shards = [name for name in names if _SHARD.search(name.split(".")[0])]
    several = next((part for part, mine in parts.items() if len(mine) > 1 and not {*mine} <= {*shards}), None)
    if "train" not in parts or several:
        kind = "file" if key == "files" else "split"
        why = f"more than one {kind} for {several}" if several else f"it has no {kind} named train"
        there, what = [*names], "a data set"
        if isinstance(source, Path):
            there = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
            what = "a folder"
        meant: dict[str, dict[str, str]] = {}  # of each part, what is named otherwise than by its suffix alone
        for part, name in ((PART_NAMES.get(word, ""), one) for one in there for word in _words(one.lower())):
            meant.setdefault(part, {}).setdefault(Path(name).stem, name)
        lists = {part: ", ".join(meant[part].values()) for part in PARTS if part in meant}
        shown = ", ".join(f"{part}: {f'[{names}]' if ', ' in names else names}" for part, names in lists.items())
        remedy = f"say which: 'task.{key}={{{shown if 'train' in meant else 'train: NAME, …'}}}'"
        if what == "a folder" and "train" not in meant:
            remedy += "; task.format=class_files, if each file is a class of its own"
        listed = f" ({', '.join(there[:12])}{', …' if len(there) > 12 else ''})" if there else ""
        raise Refused.value("task.path", source, f"{what}, and {why}{listed}", remedy)
    return parts


def named_parts(value: Any, key: str) -> dict[str, list[str]]:
    """``task.files`` or ``task.splits`` as lists of names per part. Raises Refused for another form of it."""
    form = f"task.{key}: {{train: NAME, validation: NAME, test: [NAME, NAME]}}; train is needed"
    if not isinstance(value, dict) or not value.get("train"):
        raise Refused(f"{form}, given {value}")
    parts = {}
    for part, names in value.items():
        if part not in PARTS:
            raise Refused(f"{form}, {part} is none of them{did_you_mean(str(part), PARTS)}")
        if names is None:
            continue  # a part that a config file names, taken away
        names = names if isinstance(names, list) else [names]
        if not names or not all(isinstance(name, str) for name in names):
            raise Refused(f"{form}, given {part}: {value[part]}")
        parts[part] = names
    return parts


def _hub(task: Task, hub_id: str) -> tuple[list[Table], list[str]]:
    import datasets

    try:
        splits = datasets.load_dataset(hub_id, task.subset, revision=task.revision)
    except Exception as error:  # the hub's client raises many kinds
        raise Refused(f"task.path={hub_id}: no such file here, and the hub has no answer ({reason(error)})") from None
    return _splits(task, hub_id, splits)


def _saved(task: Task, folder: Path) -> tuple[list[Table], list[str]]:
    """What ``save_to_disk`` of ``datasets`` wrote: splits, or one without a name."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # of a folder that is broken
        raise Refused(f"task data {folder}: a folder of datasets that cannot be read ({error})") from None
    return _splits(task, str(folder), saved if isinstance(saved, dict) else {"train": saved})


def _splits(task: Task, name: str, splits: Mapping[str, Any]) -> tuple[list[Table], list[str]]:
    from datasets import ClassLabel

    for key in ("columns", "delimiter", "encoding", *["format"] * (task.format not in _SHIPPED)):
        if getattr(task, key):
            raise Refused.value(f"task.{key}", getattr(task, key), f"null with {name}, which datasets reads")
    notes: list[str] = []
    wanted = (
        named_parts(task.splits, "splits")
        if task.splits
        else _named(name, {one: one for one in splits}, "splits", notes)
    )
    pairs = [(part, split) for part in PARTS for split in wanted.get(part, [])]
    for _, split in pairs:
        if split not in splits:
            allowed = f"{name} has the splits {', '.join(splits)}{did_you_mean(split, splits)}"
            raise Refused.value("task.splits", split, allowed, "say which is which: task.splits={train: NAME, …}")
        if sum(split == other for _, other in pairs) > 1:
            raise Refused.value("task.splits", split, "a split named once; here its rows would come twice")
    opened = []
    for part, split in pairs:
        kinds, read = splits[split].features.items(), functools.partial(tables.split_rows, splits[split])
        classes = {column: kind.names for column, kind in kinds if isinstance(kind, ClassLabel)}
        opened.append(Table(f"{name} {split}", read, part, _bare(split), classes=classes, parts="task.splits"))
    return opened, notes


def _generated(task: Task) -> Table:
    size = task.synthetic or 0
    rows: list[Any]
    if task.reasoning:
        from rankwise.tasks.text import reasoning

        rows = list(reasoning.rows(task.reasoning, size))
    elif task.writes and task.generation.keys:
        rows = list(objects(size, task.generation.keys))
    else:
        rows = synthetic(size, task.kind)
    return Table("generated rows", lambda: ((f"row {number}", row) for number, row in enumerate(rows, 1)))


def synthetic(rows: int, kind: str) -> list[dict[str, Any]]:
    """Short sentences of six words; the label is which of two moods has more of them (or by how much).

    For a causal LM the sentence ends in an arrow, and the name of the mood is what is to be written.
    """
    rng = np.random.default_rng(0)
    words = np.array(["sun", "joy", "win", "fog", "ill", "mud", "cup", "box", "map"])
    mood = np.array([1, 1, 1, -1, -1, -1, 0, 0, 0])
    picks = rng.integers(0, len(words), (rows * 2, 6))
    total = mood[picks].sum(1)
    picks, total = picks[total != 0][:rows], total[total != 0][:rows]
    texts = [(" ".join(words[pick]), float(sum_)) for pick, sum_ in zip(picks, total, strict=True)]
    if kind == "causal_lm":
        return [{"prompt": f"{text} ->", "completion": "good" if mood > 0 else "bad"} for text, mood in texts]
    return [{"text": text, "label": mood if kind == "regression" else float(mood > 0)} for text, mood in texts]


def objects(rows: int, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Sentences that give each key a value, in any order, and the JSON object of them, in the keys' order."""
    rng = np.random.default_rng(0)
    words = ["red", "green", "Oslo", "Lima", "north", "south", "tea", "rice"]
    for _ in range(rows):
        values = {key: int(rng.integers(100)) if rng.random() < 0.5 else str(rng.choice(words)) for key in keys}
        facts = ", ".join(f"{keys[i]} is {values[keys[i]]}" for i in rng.permutation(len(keys)))
        yield {"prompt": f"{facts}. As JSON:", "completion": json.dumps(values)}
