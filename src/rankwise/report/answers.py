"""What ``rankwise find`` has answered from a study: its sentence, and what it learned of every rank."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankwise.metrics import NOTHING, named
from rankwise.report.columns import Section
from rankwise.tracking.record import Record


@dataclass(frozen=True)
class Answer:
    """By the rule of ``find``, which was fixed before the runs."""

    sentence: str
    by_rank: Section
    document: dict[str, Any]  # as ``find`` wrote it

    @property
    def reference(self) -> str:
        """The id of a run of what was compared with; empty where an older file does not say it."""
        return str(self.document.get("reference_run", ""))


def read(records: list[Record]) -> list[Answer]:
    """One for each question that was asked of the records' studies, the latest first; what is no answer is left out.

    The latest answer to a question that was asked with several numbers of seeds stands, the others are notes of it.
    """
    folders = {record.folder.parent for record in records}
    files = [file for folder in folders for file in folder.glob("answer-*.json")]
    answers: dict[tuple[Path, str], Answer] = {}
    for file in sorted(files, key=lambda file: (-file.stat().st_mtime, file.name)):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            given = Answer(str(document["sentence"]), by_rank(document), document)
        except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            continue  # a question without an answer yet, or a stranger's file
        latest = answers.setdefault((file.parent, file.stem.split("-")[1]), given)
        if latest is not given:
            latest.by_rank.notes.append(f"Before, with other --seeds: {given.sentence.partition('. ')[0]}.")
    return [*answers.values()]


def by_rank(document: dict[str, Any]) -> Section:
    """The gain of every rank over the reference and what it took; as wide as a terminal of 80 columns."""
    metric = named(document["metric"])
    rows = [
        [
            str(row["rank"]),
            str(row["verdict"]),
            metric.difference(row["gain"]),
            NOTHING if row["gain"] is None else f"[{metric.difference(row['low'])}, {metric.difference(row['high'])}]",
            str(row["seeds"] or NOTHING),
            metric.score(row["pilot"]),
            f"{row['lr']:.3g}" if row["lr"] else NOTHING,
            f"{row['trainable']:,.0f}" if row["trainable"] else NOTHING,
            f"{row['peak_bytes'] / 1e6:,.0f}" if row["peak_bytes"] else NOTHING,
        ]
        for row in document["ranks"]
    ]
    header = ["rank", "", f"gain, {metric.difference_unit}", "90 %", "seeds", "pilot", "lr", "trained", "peak MB"]
    notes = [str(note) for note in document["notes"]]
    return Section("answer", "What rankwise find learned of every rank", header, rows, notes)
