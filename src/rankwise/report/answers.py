"""What ``rankwise find`` has answered from a study: its sentence, and what it learned of every rank."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankwise.metrics import NOTHING, named
from rankwise.report.columns import Section
from rankwise.report.formats import megabytes, rate
from rankwise.report.naming import sources
from rankwise.tracking.record import Record


@dataclass(frozen=True)
class Answer:
    """By the rule of ``find``, which was fixed before the runs."""

    folder: Path  # of the study
    sentence: str
    by_rank: Section
    document: dict[str, Any]  # as ``find`` wrote it
    decided_by: str  # the rule in a few sentences, for a paper; empty where a file has none
    margin: float  # that was asked about, which need not be that of the runs' config; 0 where a file does not say it
    where: str = ""  # of which model and on which task it is, where the records differ in these

    def said(self, with_margin: bool) -> str:
        """The sentence, with its model and task; where others were asked of another margin, with its own."""
        asked = f" The margin was {named(self.document['metric']).margin_of(self.margin)}."
        where = f"{self.where[:1].upper()}{self.where[1:]}: "
        return where * bool(self.where) + self.sentence + asked * (with_margin and self.margin > 0)


def read(records: list[Record]) -> list[Answer]:
    """One for each question that was asked of the records' studies; what is no answer is left out.

    Those of the study with the most records come first, then the latest.

    The latest answer to a question that was asked with several numbers of seeds stands, the others are notes of it.
    """
    folders = Counter(record.folder.parent for record in records)
    files: dict[Path, Answer] = {}
    where: dict[Any, str] = defaultdict(str)  # by id of a run
    for word, key in (("with", "model"), ("on", "task")):
        for run, name in zip(records, names, strict=True) if len(set(names := sources(records, key))) > 1 else ():
            where[run.run.get("id")] += f" {word} {name}"
    for file in (file for folder in folders for file in folder.glob("answer-*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            of, learned = where[document.get("reference_run")], by_rank(document)
            content = (str(document["sentence"]), replace(learned, title=learned.title + of), document, _rule(document))
            answer = Answer(file.parent, *content, float(document.get("margin") or 0), of.strip())
        except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
            continue  # a question without an answer yet, or a stranger's file
        files[file] = answer
    answers: dict[tuple[Path, str], Answer] = {}
    # Of answers of one moment that with more seeds stands: it has no number of seeds in its name, or the higher one.
    # The date is in the file, which no copy changes; an older file may not say it.
    dates = {file: str(answer.document.get("date", "")) for file, answer in files.items()}
    for file in sorted(files, key=lambda file: (folders[file.parent], dates[file], file.name), reverse=True):
        latest = answers.setdefault((file.parent, file.stem.split("-")[1]), files[file])
        if latest is not files[file]:
            latest.by_rank.notes.append(f"Before, with other --seeds: {files[file].sentence.partition('. ')[0]}.")
    return [*answers.values()]


def by_rank(document: dict[str, Any]) -> Section:
    """The gain of every rank over the reference and what it took; as wide as a terminal of 80 columns."""
    metric = replace(named(document["metric"]), margin=float(document.get("margin") or 0))
    rows = [
        [
            str(row["rank"]),
            str(row["verdict"]),
            metric.difference(row["gain"]),
            NOTHING if row["gain"] is None else f"[{metric.difference(row['low'])}, {metric.difference(row['high'])}]",
            str(row["seeds"] or NOTHING),
            metric.score(row["pilot"]),
            rate(row["lr"]),
            f"{row['trainable']:,.0f}" if row["trainable"] else NOTHING,
            megabytes(row["peak_bytes"]),
        ]
        for row in document["ranks"]
    ]
    header = ["rank", "", f"gain, {metric.difference_unit}", "90 %", "seeds", "pilot", "lr", "trained", "peak MB"]
    notes = [str(note) for note in document["notes"]]
    return Section("answer", "What rankwise find learned of every rank", header, rows, notes)


def _rule(document: dict[str, Any]) -> str:
    """Its levels and, in the words of the answer, its looks and which ranks were never asked (not of an old file)."""
    if not (rule := document.get("rule")):
        return ""
    guess, largest = rule["guess"], max(rule["ranks"])
    down, above = (f"{100 * rule['alpha'] * share:.3g} %" for share in (rule["on_guess"], 1 - rule["on_guess"]))
    levels = f"{down} from rank {guess} down and, if that fails, {above} from rank {largest} down to it"
    levels = levels if guess < largest else f"{100 * rule['alpha']:.3g} %"
    shares = " + ".join(f"{100 * share:.3g}" for share in rule["shares"])
    said = "Which rank is enough was judged by rankwise find, by a rule that was fixed before the runs it judges: "
    said += f"a rank is tested at a one-sided error level of {levels}, divided over its looks as {shares} %."
    return " ".join(filter(None, [said, *(str(document.get(part, "")) for part in ("course", "not_run"))]))
