"""Published file formats with rows of their own: the GLUE download, E2E-style triples, WordNet's data files."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rankwise.config import Task
from rankwise.errors import Refused, did_you_mean
from rankwise.tasks.tables import Row, delimited, json_rows, lines, plain_text, read_json

_GLUE: dict[str, tuple[str, dict[str, str]]] = {  # a task's folder, and what the hub calls its columns if not the same
    "cola": ("CoLA", {}),
    "sst2": ("SST-2", {}),
    "mrpc": ("MRPC", {"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"}),
    "stsb": ("STS-B", {"score": "label"}),
    "qqp": ("QQP", {"is_duplicate": "label"}),
    "mnli": ("MNLI", {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}),
    "qnli": ("QNLI", {}),
    "rte": ("RTE", {}),
    "wnli": ("WNLI", {}),
}
_COLA = ["source", "label", "mark", "sentence"]  # its files have no header line
_GLUE_FILES = {  # the hub's name of a split: the files that may hold it, the first that is there
    "train": ("train.tsv", "msr_paraphrase_train.txt"),
    "validation": ("dev.tsv", "msr_paraphrase_test.txt"),
    "validation_matched": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
}
_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_MARKER = re.compile(r"\((a|p|ip)\)$")  # WordNet: where an adjective may stand
_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


def glue_file(folder: Path, task: Task, split: str) -> Path:
    """The file of a split, named as on the hub, in a folder of all GLUE tasks or of one. Raises Refused: none there."""
    name, _ = _glue(task)
    if folder.name != name and folder.name in {other for other, _ in _GLUE.values()}:
        folder = folder.parent  # another task's folder, which may be the only one there
    own = folder / name if (folder / name).is_dir() else folder
    names = _GLUE_FILES.get(split)
    if names is None:
        allowed = f"one of {', '.join(_GLUE_FILES)}{did_you_mean(split, _GLUE_FILES)} for task.format=glue"
        raise Refused.value("task.splits", split, allowed)
    file = next((own / name for name in names if (own / name).is_file()), None)
    if file is None:
        remedy = "give the folder of the GLUE download, or the hub id nyu-mll/glue; task=glue/cola,glue/rte for some"
        where = own if own != folder or own.name == name else f"{folder} has no folder {name}, and itself"
        raise Refused.value("task.path", task.path or folder, f"{where} has no {' or '.join(names)}", remedy)
    return file


def glue(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """Rows of a TSV file of the GLUE download, columns named as on the hub.

    Lines with too few fields, of which QQP has some, are left out, as by those who published them.
    """
    folder, renamed = _glue(task)
    columns = _COLA if folder == "CoLA" else None
    for where, row in delimited(path, encoding, "\t", quoted=False, columns=columns, short=True):
        yield where, row and {renamed.get(name, name): cell for name, cell in row.items()}


def _glue(task: Task) -> tuple[str, dict[str, str]]:
    if task.subset not in _GLUE:
        allowed = f"one of {', '.join(_GLUE)}{did_you_mean(task.subset or '', _GLUE)} for task.format=glue"
        raise Refused.value("task.subset", task.subset, allowed)
    return _GLUE[task.subset]


def webnlg(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """Entries of a WebNLG challenge file in JSON: triples, their category, and the English texts that say them."""

    def row(entry: dict[str, Any]) -> dict[str, Any] | None:
        entry = next(iter(entry.values()))  # {"1": {…}}
        triples = [(triple["subject"], triple["property"], triple["object"]) for triple in entry["modifiedtripleset"]]
        texts = [text["lex"] for text in entry["lexicalisations"] if text.get("lang", "en") in ("en", "")]
        return {"triples": written(triples), "texts": texts, "category": entry.get("category")} if texts else None

    return _entries(
        path, encoding, lambda whole: whole["entries"], row, "a WebNLG file: entries with modifiedtripleset"
    )


def dart(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """Entries of a DART file: triples, and the texts that say them."""

    def row(entry: dict[str, Any]) -> dict[str, Any] | None:
        texts = [text["text"] for text in entry["annotations"]]
        return {"triples": written(entry["tripleset"]), "texts": texts} if texts else None

    return _entries(path, encoding, list, row, "a DART file: a list of tripleset and annotations")


def written(triples: Iterable[Iterable[str]]) -> str:
    """Triples as text: ``subject : predicate : object | …``."""
    return " | ".join(" : ".join(str(part).strip() for part in triple) for triple in triples)


def oasst(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """Conversations of an OpenAssistant file, of trees or of single messages: every way from a first prompt to a last
    reply, as the column ``messages``.
    """
    below: dict[Any, list[dict[str, Any]]] = {}

    def ways(message: dict[str, Any], above: tuple[dict[str, str], ...]) -> Iterator[tuple[dict[str, str], ...]]:
        role = {"prompter": "user"}.get(message["role"], message["role"])
        way = (*above, {"role": role, "content": message["text"]})
        replies = message.get("replies") or below.get(message["message_id"], [])
        longer = [longest for reply in replies for longest in ways(reply, way)]
        yield from longer or ([way] if role == "assistant" else [])

    number = 0
    try:
        for _, message in json_rows(path, encoding, task):
            message = message.get("prompt", message) if message else {}
            below.setdefault(message.get("parent_id"), []).append(message)
        for number, first in enumerate(below.get(None, []), 1):
            yield from ((f"tree {number}", {"messages": list(way)}) for way in ways(first, ()))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a tree of messages with message_id, role, text ({type(error).__name__}: {error})"
        raise Refused(f"task data {path} tree {number}: {what}") from None


def _entries(
    path: Path, encoding: str, listed: Callable[[Any], Any], row: Callable[[Any], dict[str, Any] | None], what: str
) -> Iterator[Row]:
    whole, number = read_json(path, encoding), 0
    try:
        for number, entry in enumerate(listed(whole), 1):
            yield f"entry {number}", row(entry)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        where = f" entry {number}" if number else ""
        raise Refused(f"task data {path}{where}: not {what} ({type(error).__name__}: {error})") from None


def wordnet_files(folder: Path) -> list[Path]:
    """The data files of a WordNet folder, or of ``dict`` in it. Raises Refused where there are none."""
    for path in (folder, folder / "dict"):
        if files := [path / name for name in _WORDNET_FILES if (path / name).is_file()]:
            return files
    raise Refused(f"task data {folder}: none of {', '.join(_WORDNET_FILES)} is there")


def wordnet(path: Path, task: Task, encoding: str) -> Iterator[Row]:
    """Rows word, pos and gloss of a WordNet data file: the first word of each set of synonyms, and its definition.

    A line is ``offset file type count word … | definition; "example"``; the licence at the top is set in by blanks.
    """
    for number, line in enumerate(lines(path, encoding), 1):
        if line.startswith("  ") or not line.strip():
            continue
        head, bar, gloss = line.partition(" | ")
        fields = head.split(maxsplit=5)
        if not bar or len(fields) < 5 or fields[2] not in _POS:
            raise Refused(f"task data {path} line {number}: not a line of WordNet's data files")
        word = _MARKER.sub("", fields[4]).replace("_", " ")
        yield f"line {number}", {"word": word, "pos": _POS[fields[2]], "gloss": gloss.partition('; "')[0].strip()}


READERS: dict[str, Callable[[Path, Task, str], Iterator[Row]]] = {
    "glue": glue,
    "webnlg": webnlg,
    "dart": dart,
    "wordnet": wordnet,
    "oasst": oasst,
    "text": lambda path, task, encoding: plain_text(path, encoding, task.delimiter),
}
FILES: dict[str, dict[str, str]] = {  # of a release, in its folder; a task.files of one's own takes their place
    "e2e": {"train": "trainset.csv", "validation": "devset.csv", "test": "testset_w_refs.csv"},
    "webnlg": {"train": "train.json", "validation": "dev.json", "test": "test.json"},
    "dart": {
        part: f"dart-v1.1.1-full-{name}.json"
        for part, name in {"train": "train", "validation": "dev", "test": "test"}.items()
    },
}
