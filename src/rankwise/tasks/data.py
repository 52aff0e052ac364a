"""Rows of a task: read twice, labelled, split by hash, sampled.

The first reading keeps a few bytes of every row, from which the rows of each part are chosen; the second collects the
texts of those alone. So the data may be larger than memory, and only what a run uses is held. A source of little text
is held meanwhile, in place of the second reading.
"""

import contextlib
import hashlib
import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from rankwise.assets import Asset, cached, fetch
from rankwise.config import Config, Model, Task
from rankwise.errors import Refused, plural
from rankwise.tasks.classes import MISSING, Classes, Label
from rankwise.tasks.examples import Example, Messages, examples
from rankwise.tasks.sources import open_tables
from rankwise.tasks.splits import PARTS, TEST, TRAIN, VALIDATION, cut, digest, place, repeated, shared_rows
from rankwise.tasks.tables import Table

_QUOTED = 0.1  # share of texts in double quotes, from which on they hardly are a part of what is said
_OF_TASK = re.compile(r"\btask[.=]")
_FORGETTING = ("path", "package", "revision", "format", "columns", "text", "label", "threshold", "min_abs_label")
_Key = tuple[str, str, int]  # task, fingerprint of what it is read from, seed of its sample
_read: dict[_Key, "Data"] = {}  # what was checked in this process, or in the one that started it; runs need not read it
_MOST = 8  # of them are kept
_MUCH_BYTES = 1 << 24  # take seconds to read
_KEPT_BYTES, _ROW_BYTES = 1 << 27, 400  # between the readings; of a row beside its text


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
    blocks: list[list[int]] | None = None  # tokens, where texts were joined and cut to one length
    clusters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Data:
    """The three parts of a task. ``classes`` names the labels of a classification, else it is None.

    ``clusters`` of a split number what is not independent: rows of one ``task.group``, or with the same text or prompt.
    ``shared``: how many rows of a part say the same as a training row, ``verbatim`` or but for case and punctuation.
    """

    train: Split
    validation: Split
    test: Split
    classes: list[str] | None
    fingerprint: str  # of all rows with their labels and parts, before sampling
    skipped: int = 0  # rows that their format, task.skip_empty, task.labels or task.deduplicate leaves out
    shared: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader of the scores must know


def load(task: Task, asset: Asset, data_seed: int, held: "dict[str, _Rows] | None" = None) -> Data:
    """Read, split and sample. In ``held`` stays what was read last, for other samples of the same rows.

    Raises Refused for a missing column, a cell that does not fit (with file, line and column), a part with too few
    rows, a class that has no training row, and a part that is for the most part training rows.
    """
    if (key := _key(task, asset, data_seed)) in _read:
        return _read[key]
    held, all_rows = {} if held is None else held, replace(task, n_train=None, n_validation=None, n_test=None)
    if (source := f"{all_rows} {asset.fingerprint}") not in held:
        held.clear()
        held[source] = _Rows(task, asset)
    rows, notes = held[source], [*held[source].notes]
    index = replace(rows.index, place=rows.index.place.copy(), counts=Counter(rows.index.counts))
    part, classes, chosen, shared = _choose(task, rows.tables, index, notes, data_seed)
    splits, fingerprint = _collect(task, rows, part, chosen, classes, notes)
    if task.protocol == "paper":
        splits["validation"] = splits["test"]
    names, skipped = classes.names if classes else None, index.counts["skipped"]
    return Data(**splits, classes=names, fingerprint=fingerprint, skipped=skipped, shared=shared, notes=notes)


def check_files(configs: Iterable[Config], hub: bool = True) -> None:
    """Read the data of each config that are on this disk, and of the ``hub``, once each, and refuse as ``load`` does.

    So that a file that cannot be read stops a study before its first run, not every run of it.
    """
    wanted, held = {str(what): (what, config) for config in configs for what in _tasks(config)}, dict[str, _Rows]()
    for (task, seed), config in wanted.values():
        here = cached(task) if task.path or task.package else task.synthetic
        if here or (hub and task.path):
            with contextlib.nullcontext() if task is config.task else of_forgetting():
                asset = fetch(task)
                key, files = _key(task, asset, seed), [asset.path, *asset.path.rglob("*")] if asset.path else []
                if key not in _read and sum(file.stat().st_size for file in files if file.is_file()) > _MUCH_BYTES:
                    print(f"rankwise: reading {asset.source}", file=sys.stderr, flush=True)
                _read[key] = load(task, asset, seed, held)
            for oldest in [*_read][:-_MOST]:
                del _read[oldest]


def fetch_all(configs: Iterable[Config]) -> list[tuple[Model | Task, Asset]]:
    """What the runs read, each source fetched once, where it is not here."""
    wanted = dict[str, tuple[Model | Task, Config]]()
    for config in configs:
        sources: list[Model | Task] = [config.model, *(task for task, _ in _tasks(config))]
        wanted |= {repr(source): (source, config) for source in sources}
    fetched = []
    for source, config in wanted.values():
        with contextlib.nullcontext() if source in (config.model, config.task) else of_forgetting():
            fetched.append((source, fetch(source)))
    return fetched


def already_read(config: Config) -> dict[_Key, Data]:
    """What this process has read for a run, to be taken as read by the run's own."""
    wanted = [(str(task), seed) for task, seed in _tasks(config)]
    return {key: data for key, data in _read.items() if (key[0], key[2]) in wanted}


def take_as_read(read: dict[_Key, Data]) -> None:
    """Take what another process has read: what is unchanged on the disk need not be read again."""
    _read.update(read)


def _tasks(config: Config) -> list[tuple[Task, int]]:
    """What a run reads, with the seed of the sample."""
    forgetting = [(forgetting_task(config), 0)] if config.forgetting.name != "none" else []
    return [(config.task, config.data_seed), *forgetting]


def _key(task: Task, asset: Asset, seed: int) -> _Key:
    return str(task), asset.fingerprint, seed


def forgetting_task(config: Config) -> Task:
    """The texts of ``forgetting`` as a task of the run's kind, with all but a fifth of them as its test rows."""
    forgetting, task = config.forgetting, config.task
    keys = {key: getattr(forgetting, key) for key in _FORGETTING} | {"deduplicate": True, "skip_empty": True}
    keys |= {"validation_share": 0.1, "test_share": 0.8, "n_test": forgetting.n, "max_length": task.max_length}
    keys |= {"kind": task.kind, "threshold": None, "min_abs_label": 0.0} if task.writes else {"kind": "classification"}
    return Task(forgetting.name, **keys)


@contextlib.contextmanager
def of_forgetting() -> Iterator[None]:
    """In here a refusal names the keys of ``forgetting`` in place of the task's, and no remedy that it lacks."""
    try:
        yield
    except Refused as refused:
        own = re.compile(rf"\btask(?=\.({'|'.join(('n', *_FORGETTING))})\b)")
        what, *remedies = own.sub("forgetting", str(refused).replace("task.n_test", "task.n")).split("; ")
        message = "; ".join([what, *(remedy for remedy in remedies if not _OF_TASK.search(remedy))])
        raise Refused(f"forgetting: {message}" if _OF_TASK.search(what) else message) from None


class _Rows:
    """The examples of all tables, None for a row that is left out, as often as one likes: read again, unless the first
    reading, which made the ``index``, came to so little text that it was kept.
    """

    def __init__(self, task: Task, asset: Asset):
        self.tables, self.notes = open_tables(task, asset)
        self._task, self._kept, self._empty = task, list[Example | None](), Counter[str]()
        self.index = _Index.of(task, iter(self))
        without = ", ".join(f"{column} ({rows})" for column, rows in self._empty.items())
        self.notes += [f"task.skip_empty leaves out rows without {without}"] if without else []

    def __iter__(self) -> Iterator[Example | None]:
        if self._kept:
            yield from self._kept
            return
        kept, room = list[Example | None](), _KEPT_BYTES
        for example in examples(self._task, self.tables, self._empty):
            room -= _ROW_BYTES + (sum(map(len, example.texts)) if example else 0)
            if room > 0:
                kept.append(example)
            yield example
        self._kept = kept if room > 0 else []


def _choose(
    task: Task, tables: list[Table], index: "_Index", notes: list[str], data_seed: int
) -> tuple[np.ndarray, Classes | None, list[np.ndarray], dict[str, dict[str, int]]]:
    """The part of every row (-1: left out), the classes, the rows of each part that are used, and how many of them are
    training rows as well. Adds to ``notes``.
    """
    if not len(index.place):
        raise Refused("task data: no row is left; all are empty, or nearer to 0 than task.min_abs_label")
    missing, quoted = index.counts["missing"], index.counts["quoted"]
    if missing:
        notes.append(f"{missing} texts are only a word such as NaN or None; if no text is meant, take their rows out")
    if quoted > _QUOTED * len(index.place) and any(table.quotes for table in tables):
        notes.append(f"{quoted} texts stand in quotes, which are read as text; task.format=csv takes them off")
    if task.blocks:  # parts that are cut are stretches of the text, the last of them the test; of others the first rows
        index.place[:] = np.arange(len(index.place)) / len(index.place)
        cut_n = np.flatnonzero(index.part == TRAIN)
        index.place[cut_n] = 1 - np.arange(1, len(cut_n) + 1) / len(cut_n)
    part = _parts(task, index)
    if task.deduplicate and not task.has_classes:
        _deduplicate(index, part, notes)
    classes = _classes(task, tables, index, part, notes) if task.has_classes else None
    chosen = _chosen(task, index, part, data_seed)
    if classes:
        classes.check_drawn(index.label[part == TRAIN], index.label[chosen[TRAIN]])
        notes += classes.notes
    shared = {} if task.blocks else shared_rows(index.content, index.verbatim, chosen, notes)
    return part, classes, chosen, shared


def _classes(task: Task, tables: list[Table], index: "_Index", part: np.ndarray, notes: list[str]) -> Classes:
    """The classes of a classification; rows without one lose their part."""
    named = next((table.classes[task.label] for table in tables if task.label in table.classes), None)
    if named and not task.labels and task.threshold is None and not task.min_abs_label:
        task = replace(task, labels=named)
    classes = Classes.of(task, index.labels, index.label, part)
    dropped = (part >= 0) & (classes.number[index.label] < 0)
    part[dropped] = -1
    index.counts["skipped"] += int(dropped.sum())
    if task.deduplicate:
        _deduplicate(index, part, notes)
        classes = Classes.of(task, index.labels, index.label, part)
    classes.check(index.label, part, index.part)
    return classes


@dataclass
class _Index:
    """A few bytes of each row, in the order of reading."""

    labels: list[Label]  # of a classification, as they were met
    # Rows that are skipped, and those whose text is a word that programs write for none, or in quotes.
    counts: Counter[str]
    label: np.ndarray  # number in ``labels``
    place: np.ndarray
    part: np.ndarray  # number in PARTS
    content: np.ndarray  # hash of the normalised texts
    verbatim: np.ndarray  # hash of the texts

    @classmethod
    def of(cls, task: Task, stream: Iterator[Example | None]) -> "_Index":
        labels: dict[str, Label] = {}
        label, place_, part, content, verbatim = array("i"), array("d"), array("b"), array("Q"), array("q")
        counts: Counter[str] = Counter()
        for example in stream:
            if example is None:
                counts["skipped"] += 1
                continue
            if task.has_classes:
                name = str(example.label)
                label.append(labels.setdefault(name, Label(name, len(labels), example.cell)).number)
            text, inputs, texts = example.text, example.given, example.texts
            counts["missing"] += text.casefold() in MISSING
            counts["quoted"] += text[:1] == text[-1:] == '"'
            hashed = digest(inputs)
            place_.append(place(hashed))
            part.append(PARTS.index(example.part))
            content.append(hashed if inputs == texts else digest(texts))
            verbatim.append(hash(texts))
        return cls([*labels.values()], counts, *map(np.array, (label, place_, part, content, verbatim)))


def _parts(task: Task, index: _Index) -> np.ndarray:
    """The number of the part of each row. Parts that the source does not have are cut from train."""
    own = set(np.unique(index.part).tolist()) | ({VALIDATION} if task.protocol == "paper" else set())
    validation_share = 0.0 if VALIDATION in own else task.validation_share
    test_share = 0.0 if TEST in own else task.test_share
    part = np.where(index.part == TRAIN, cut(index.place, validation_share, test_share), index.part)
    return part


def _deduplicate(index: _Index, part: np.ndarray, notes: list[str]) -> None:
    """Of the rows that have a part, keep the first of those that say the same."""
    dropped, kept = repeated(index.content, np.flatnonzero(part >= 0))
    part[dropped] = -1
    index.counts["skipped"] += len(dropped)
    if near := int((index.verbatim[dropped] != index.verbatim[kept]).sum()):
        least = f"{near} of them for punctuation (as + or =) and case only"
        notes.append(f"task.deduplicate leaves out {len(dropped)} rows that say the same as another, {least}")


def _chosen(task: Task, index: _Index, part: np.ndarray, data_seed: int) -> list[np.ndarray]:
    """The rows of each part that are used: of training rows a sample, of the others the first by hash.

    Of a causal LM's evaluation rows, no prompt is cut: as many whole prompts as there is room for.
    """
    chosen = []
    for number, name in enumerate(PARTS):
        members = np.flatnonzero(part == number)
        if number == VALIDATION and task.protocol == "paper":
            chosen.append(members[:0])  # the test rows take their place
            continue
        wanted = getattr(task, f"n_{name}")
        if len(members) < max(2, wanted or 0):
            if wanted and len(members) >= 2:
                remedy = "lower it, or null for all"
            elif number != TRAIN and (index.part == number).any():
                remedy = "its file or split needs two at least"
            else:
                remedy = "change task.validation_share or task.test_share"
            raise Refused.value(
                f"task.n_{name}", wanted, f"the data have {plural(len(members), 'row')} for this part", remedy
            )
        if number == TRAIN:
            members = members[np.random.default_rng(data_seed).permutation(len(members))]
        else:
            members = members[np.argsort(index.place[members], kind="stable")]
            if task.writes and wanted and wanted < len(members):
                ends = np.flatnonzero(np.diff(index.place[members], append=-1)) + 1
                least = ends[ends >= 2].min()
                if least > wanted:
                    allowed = f"at least {least}, the rows of the first prompts, which are not cut"
                    raise Refused.value(f"task.n_{name}", wanted, allowed)
                wanted = ends[ends <= wanted].max()
        chosen.append(np.sort(members[:wanted]))
    return chosen


def _collect(
    task: Task, rows: _Rows, part: np.ndarray, chosen: list[np.ndarray], classes: Classes | None, notes: list[str]
) -> tuple[dict[str, Split], str]:
    """The chosen rows of each part, as they stand in the file, and the fingerprint of all rows. Adds to ``notes``."""
    wanted = np.zeros(len(part), dtype=bool)
    wanted[np.concatenate(chosen)] = True
    by_part: list[list[Example]] = [[] for _ in PARTS]
    hashed = hashlib.sha256()
    for row, example in enumerate(filter(None, rows)):
        if part[row] < 0:
            continue
        label = classes.number_of[str(example.label)] if classes else example.label
        talk = example.messages
        content = "\t".join(example.texts) if talk is None else json.dumps(talk, ensure_ascii=False)
        line = f"{PARTS[part[row]]}\t{label}\t{content}\n"
        hashed.update(line.encode("utf-8", "surrogatepass"))
        if wanted[row]:
            by_part[part[row]].append(replace(example, label=label))
    tested = {row.cluster for row in by_part[TEST]} - {None}
    if both := tested & {row.cluster for row in by_part[TRAIN]}:
        notes.append(
            f"{len(both)} of {len(tested)} test groups (task.group={task.group}) also have training rows: scores and "
            "intervals are for groups like these, of which some rows are learned, not for new ones"
        )
    if len(tested) == 1:
        notes.append(
            f"all test rows are one group (task.group={task.group}): how scores differ between groups is unknown, so "
            "intervals are over seeds alone and arms are not compared"
        )
    splits = {name: _split(task, rows) for name, rows in zip(PARTS, by_part, strict=True)}
    for name, split in splits.items():
        if task.has_values and len(split) and np.ptp(split.labels) == 0:
            same = f"all {len(split)} {name} rows hold {split.labels[0]:g}"
            raise Refused(f"task.label={task.label}: {same}, with which nothing correlates; give several values")
    return splits, f"sha256:{hashed.hexdigest()[:16]}"


def _split(task: Task, rows: list[Example]) -> Split:
    conversations, language = bool(task.messages), task.writes
    units: dict[object, int] = {}
    clusters = [units.setdefault(row.cluster or digest(row.given), len(units)) for row in rows]
    return Split(
        [row.text for row in rows],
        np.array([row.label for row in rows], dtype=np.float64 if task.has_values else np.int64),
        np.array([row.item for row in rows], dtype=np.int64),
        [row.pair or "" for row in rows] if task.pair and not language else None,
        [row.group or "" for row in rows] if task.group else None,
        [row.completion or "" for row in rows] if language and not conversations else None,
        [row.messages or [] for row in rows] if language and conversations else None,
        clusters=np.array(clusters, dtype=np.int64),
    )
