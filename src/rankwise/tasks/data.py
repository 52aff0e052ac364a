"""Rows of a task: read, label, split by hash, sample."""

from __future__ import annotations

import csv
import hashlib
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rankwise.assets import Asset
from rankwise.config import Task
from rankwise.errors import Refused, did_you_mean


@dataclass(frozen=True)
class Split:
    """Rows of one part: texts, labels (class number or value) and a stable item number each."""

    texts: list[str]
    labels: np.ndarray
    items: np.ndarray

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


def load(task: Task, asset: Asset, data_seed: int) -> Data:
    """Read, split and sample. Raises Refused for a missing column, an unreadable label or an empty part."""
    rows = _labelled(task, _read(task, asset))
    place = places(rows["text"].tolist())
    part = parts(place, task.validation_share, task.test_share)
    classes = None
    if task.kind == "classification":
        names = sorted(rows["label"].unique())
        classes = [f"{name:g}" if isinstance(name, float) else str(name) for name in names]
        if len(classes) < 2:
            found = f"one class only ({classes[0]})" if classes else "no rows"
            raise Refused(f"task.label={task.label}: {found}; a classification needs two classes")
        rows["label"] = rows["label"].map({name: number for number, name in enumerate(names)})
    pool = {name: rows[part == name] for name in ("train", "validation", "test")}
    order = {name: np.argsort(place[part == name], kind="stable") for name in pool}
    order["train"] = np.random.default_rng(data_seed).permutation(len(pool["train"]))
    return Data(
        _split(task, "train", pool["train"], order["train"], task.n_train),
        _split(task, "validation", pool["validation"], order["validation"], task.n_validation),
        _split(task, "test", pool["test"], order["test"], task.n_test),
        classes,
        _fingerprint(rows, part),
    )


_NOT_WORD = re.compile(r"[^\w]+")


def normalise(text: str) -> str:
    """Lower case, punctuation and white space folded: texts that read the same become the same.

    A text of nothing but punctuation stays as it is: ":)" is not ":(".
    """
    return _NOT_WORD.sub(" ", text.lower()).strip() or text.strip()


def places(texts: list[str]) -> np.ndarray:
    """A number from 0 up to 1 for each text, from a hash of its normalised form alone."""
    keys = [int(hashlib.sha256(normalise(text).encode()).hexdigest()[:12], 16) for text in texts]
    return np.array(keys, dtype=np.float64) / 16**12


def parts(place: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The part of each text by its place: a sentence is always in the same one, whatever else is in the file."""
    return np.where(place < test_share, "test", np.where(place < test_share + validation_share, "validation", "train"))


def synthetic(rows: int, kind: str) -> pd.DataFrame:
    """Short sentences of six words; the label is which of two moods has more of them (or by how much)."""
    rng = np.random.default_rng(0)
    words = np.array(["sun", "joy", "win", "fog", "ill", "mud", "cup", "box", "map"])
    mood = np.array([1, 1, 1, -1, -1, -1, 0, 0, 0])
    picks = rng.integers(0, len(words), (rows * 2, 6))
    total = mood[picks].sum(1)
    picks, total = picks[total != 0][:rows], total[total != 0][:rows]
    label = total if kind == "regression" else (total > 0).astype(int)
    return pd.DataFrame({"text": [" ".join(words[p]) for p in picks], "label": label.astype(float)})


def _read(task: Task, asset: Asset) -> pd.DataFrame:
    if asset.hub_id:
        return _read_hub(task, asset.hub_id)
    if asset.path is None:
        return synthetic(task.synthetic or 0, task.kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields than names would be cut off
            raw = pd.read_csv(
                asset.path, sep=task.delimiter, quoting=csv.QUOTE_NONE, header=None if task.columns else 0,
                names=task.columns, index_col=False, dtype=str, keep_default_na=False, skip_blank_lines=False,
                encoding="utf-8", encoding_errors="strict",
            )  # fmt: skip
        return raw[~(raw.fillna("") == "").all(axis=1)]  # the index still counts the blank lines
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise Refused(f"task data {asset.path}: not a text table ({str(error).strip()})") from None


def _read_hub(task: Task, hub_id: str) -> pd.DataFrame:
    import datasets

    try:
        parts = datasets.load_dataset(hub_id, revision=task.revision)
    except Exception as error:  # the hub's client raises many kinds
        raise Refused(
            f"task.path={hub_id}: no such file here, and the hub has no answer ({_first_line(error)})"
        ) from None
    return pd.concat([part.to_pandas() for part in parts.values()], ignore_index=True)


def _labelled(task: Task, raw: pd.DataFrame) -> pd.DataFrame:
    for key in ("text", "label"):
        column = getattr(task, key)
        if column not in raw.columns:
            near = did_you_mean(column, map(str, raw.columns))
            raise Refused.value(f"task.{key}", column, f"one of the columns {', '.join(map(str, raw.columns))}{near}")
    text, label = raw[task.text].fillna("").astype(str).str.strip(), raw[task.label]
    _refuse_line(task, "text", text, text == "", "no text")
    if task.kind == "regression" or task.threshold is not None or task.min_abs_label:
        number = pd.to_numeric(label, errors="coerce")
        _refuse_line(task, "label", label, ~np.isfinite(number), "not a number")
        label = number
    _refuse_line(task, "label", label, label.isna() | (label.astype(str) == ""), "no label")
    rows = pd.DataFrame({"text": text, "label": label, "item": np.arange(len(raw))})
    if task.min_abs_label:
        rows = rows[rows["label"].abs() >= task.min_abs_label]
    if task.threshold is not None:
        rows["label"] = (rows["label"] > task.threshold).astype(int)
    if task.deduplicate:
        rows = rows[~rows["text"].map(normalise).duplicated()]
    return rows.reset_index(drop=True)


def _refuse_line(task: Task, key: str, values: pd.Series, bad: pd.Series, what: str) -> None:
    """Refuse the first bad value, with the number of its line in the file."""
    if bad.any():
        index = bad.index[bad][0]
        line, column = int(index) + (1 if task.columns else 2), getattr(task, key)
        raise Refused(f"task.{key}={column}: line {line} holds {values[index]!r}, {what}")


def _split(task: Task, name: str, rows: pd.DataFrame, order: np.ndarray, wanted: int | None) -> Split:
    """The first ``wanted`` rows by ``order``, as they stand in the file."""
    if len(rows) < max(2, wanted or 0):
        remedy = (
            "lower it, or null for all"
            if wanted and len(rows) >= 2
            else "change task.validation_share or task.test_share"
        )
        raise Refused.value(f"task.n_{name}", wanted, f"the data have {len(rows)} rows for this part", remedy)
    rows = rows.iloc[np.sort(order[:wanted])]
    return Split(rows["text"].tolist(), rows["label"].to_numpy(copy=True), rows["item"].to_numpy(np.int64, copy=True))


def _fingerprint(rows: pd.DataFrame, part: np.ndarray) -> str:
    digest = hashlib.sha256()
    for text, label, name in zip(rows["text"], rows["label"], part, strict=True):
        digest.update(f"{name}\t{label}\t{text}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
