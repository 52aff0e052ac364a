"""Records in, one Report out: everything that table, plots and page show is decided here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rankwise.compare import Scores
from rankwise.errors import Refused, did_you_mean
from rankwise.metrics import Metric, named
from rankwise.report import export, latex, paper, tuning
from rankwise.report import table as tables
from rankwise.report.answers import Answer, read
from rankwise.report.arms import Arm, group, reference_of
from rankwise.report.equivalence import ALONE, Comparison, compare
from rankwise.report.flags import find_unfit, flag
from rankwise.report.naming import tell_apart
from rankwise.report.sufficiency import LEVEL, Step, Sufficiency, smallest_sufficient
from rankwise.report.summary import Headline, headline, margins, notes, total
from rankwise.tracking import remote
from rankwise.tracking.record import FINISHED, Record, find, write_atomically

_MARGIN = 0.02  # of records without one


@dataclass(frozen=True)
class Report:
    """A study, read: everything that table, plots and page show. ``comparisons`` are with ``reference``, by ``id`` of
    the arm; ``constants``, by ``id`` as well, the score of the best answer that is the same for every test item.
    """

    records: list[Record]
    all_records: list[Record]  # those that tuned or searched as well
    arms: list[Arm]
    reference: Arm | None
    metric: Metric
    margin: float
    comparisons: dict[int, Comparison]
    families: list[Sufficiency]
    constants: dict[int, float | None]
    answers: list[Answer]  # of ``rankwise find``, from the studies that the reference is of
    elsewhere: list[Answer]  # from others that were read

    @cached_property
    def headline(self) -> Headline:
        """The latest answer of ``find``, whose rule was fixed before the runs; without one, that of all runs."""
        several = len({answer.margin for answer in self.answers}) > 1
        title, *others = [answer.said(with_margin=several) for answer in self.answers] or [""]
        told = Headline(title) if title else headline(self.families, self.reference, self.metric)
        others += [f"{answer.folder.name}: {answer.said(with_margin=False)}" for answer in self.elsewhere]
        return replace(told, others=(*told.others, *others))

    @cached_property
    def notes(self) -> list[str]:
        return notes(self)

    @cached_property
    def enough(self) -> list[Arm]:
        """What is enough: by the latest answer of ``find``; without one the smallest of each family, by all runs."""
        if not self.answers:
            return [family.answer.arm for family in self.families if family.answer]
        document = self.answers[0].document
        sizes = {row["trainable"] for row in document["ranks"] if row["rank"] == document.get("rank")} - {None}
        alike = [arm for arm in self.arms if arm.comparable and arm.rank and arm.rank == document.get("rank")]
        return [arm for arm in alike if not sizes or arm.first("params.trainable") in sizes]

    @property
    def constant(self) -> float | None:
        """The one of all arms; None where their test items differ in it."""
        known = set(self.constants.values()) - {None}
        return known.pop() if len(known) == 1 else None

    @property
    def total(self) -> str:
        """What the whole study took, in words."""
        return total(self.all_records)

    @property
    def level(self) -> float:
        """Of every one-sided test of what is enough: 5 %, divided by the number of families."""
        return next((family.level for family in self.families), LEVEL)

    @property
    def against(self) -> str:
        """The reference, as sentences call it."""
        return self.reference.called if self.reference else "full fine-tuning"

    @property
    def short(self) -> str:
        """The reference in a header."""
        if self.reference is None or self.reference.is_full:
            return "full"
        return f"r={self.reference.rank}" if self.reference.rank else self.reference.label

    def comparison(self, arm: Arm) -> Comparison | None:
        return self.comparisons.get(id(arm))

    @cached_property
    def steps(self) -> dict[int, Step]:
        """What became of each arm in the sequence of its family, by ``id``."""
        return {id(step.arm): step for family in self.families for step in family.steps}

    def verdict(self, arm: Arm) -> str:
        """Of an arm's comparison; one that would be an answer, had the sequence come to it and passed, with that word.
        Empty without a comparison."""
        said, step = self.comparisons[id(arm)].verdict if id(arm) in self.comparisons else "", self.steps.get(id(arm))
        return said + ALONE * (step is not None and not step.passed and said in ("same", "better", "not worse"))

    # For a terminal and as files have it; the last four take the keys or headers of the columns that are wanted.
    table = tables.render
    document = export.document
    to_json = export.json_parts
    to_csv = export.csv_text
    to_markdown = tables.markdown
    to_latex = latex.latex
    to_methods = paper.markdown

    def write(self, folder: Path) -> dict[str, Path]:
        """Write report.html, .csv, .md and .json into a folder, each atomically; their paths by extension."""
        from rankwise.report.page import html  # matplotlib takes a second, which a table need not wait for

        texts = {"html": [html(self)], "csv": [self.to_csv()], "md": [self.to_markdown()], "json": self.to_json()}
        paths = {kind: folder / f"report.{kind}" for kind in texts}
        try:
            for kind, text in texts.items():
                write_atomically(paths[kind], text)
        except OSError as error:
            why = f"{error.strerror or error}); rankwise report --out FOLDER writes it elsewhere"
            raise Refused(f"{folder}: cannot write the report ({why}") from None
        return paths


def save_figures(report: Report, folder: Path) -> list[Path]:
    """All figures as PDF and SVG, as wide as one column of a paper (3.25 inches) and as two (6.75); the PDF files."""
    from rankwise.report import plots, svg

    files: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for ending, width in (("single", 3.25), ("double", 6.75)):
        with svg.paper(folder, ending, width):
            files += [folder / f"{drawn.name}-{ending}.pdf" for drawn in plots.draw(report)]
    return files


def build(paths: list[Path], score: str | None = None) -> Report:
    """Read all records in or below the given folders, or of ``wandb:ENTITY/PROJECT[/GROUP]``, and compare their arms by
    the task's metric, or by another test ``score``.

    Raises Refused for a path without records, for a broken record, for runs selected on the test set and for a score
    that no run has.
    """
    return compared(find_all(paths), score)


def compared(every_run: list[Record], score: str | None = None, read_with: Sequence[Record] = ()) -> Report:
    """The arms of these records, compared. Raises Refused as ``build`` does.

    Where a folder also has runs that were ``read_with`` them, an answer is theirs only if its reference is.
    """
    records, own_ids = results(every_run), {run.run.get("id") for run in every_run}
    mixed = {run.folder.parent for run in read_with if run.run.get("id") not in own_ids}
    answered = [a for a in read(records) if a.folder not in mixed or a.document.get("reference_run") in own_ids]
    ids = [answer.document.get("reference_run") for answer in answered[:1]]
    asked = next((record for record in records if record.run.get("id", "") in ids), None)
    arms = group(records, asked)
    tell_apart(arms)
    reference = reference_of(arms, asked)
    first = reference or arms[0]
    own = named(str(first.first("config.task.metric") or "accuracy"))
    metric = _asked(score, arms) if score else own
    homes = {run.folder.parent for run in (*first.runs, *first.unscored)} if metric.name == own.name else set()
    here = [answer for answer in answered if answer.folder in homes]
    elsewhere = [answer for answer in answered if homes and answer.folder not in homes]
    margin = (here and here[0].margin) or next(iter(margins(arms)), _MARGIN)
    metric = replace(metric, margin=margin)
    scores = Scores([run for arm in arms if arm.comparable for run in arm.runs] if metric.weighted else [], metric)
    tuning.note_trials(arms, every_run)
    find_unfit(arms, reference, scores, metric)
    comparisons = compare(arms, reference, scores, metric, margin) if reference else {}
    flag(arms, reference, comparisons, metric)
    families = smallest_sufficient(arms, reference, comparisons, margin) if reference else []
    for arm in arms:
        against = reference.runs if reference and arm is not reference else []
        arm.churn = {"seeds": scores.churn(arm.runs), "reference": scores.churn(arm.runs, against)}
    constants = {id(arm): _constant(arm, scores, metric) for arm in arms}
    read_of = (records, every_run, arms, reference, metric, margin, comparisons, families, constants)
    return Report(*read_of, here, elsewhere)


def _constant(arm: Arm, scores: Scores, metric: Metric) -> float | None:
    """Of its own test items, which need not be the reference's."""
    if arm.comparable or not metric.weighted:
        return scores.constant(arm.runs)
    return Scores(arm.runs[:1], metric).constant(arm.runs[:1])


def results(every_run: list[Record]) -> list[Record]:
    """The runs that are no search for something; all, where there are no others."""
    return [record for record in every_run if not record.config.get("stage")] or every_run


def find_all(paths: list[Path]) -> list[Record]:
    """Records of files and of W&B, each run once: finished before others, then of the latest attempt, then of files
    before W&B's, which hold less.
    """
    local = [path for path in paths if not remote.is_address(path)]
    every_run = find(local) if local else []
    for path in dict.fromkeys(map(str, paths)):
        if remote.is_address(path):
            every_run += remote.read(remote.Address.of(path))
    by_id: dict[Any, Record] = {}
    for record in sorted(every_run, key=lambda run: (run.status == FINISHED, run.run["attempts"]), reverse=True):
        by_id.setdefault(record.run.get("id") or id(record), record)
    kept = {id(record) for record in by_id.values()}
    return [record for record in every_run if id(record) in kept]


def _asked(score: str, arms: list[Arm]) -> Metric:
    known = sorted({name for arm in arms for name in arm.scores})
    if score not in known:
        raise Refused(f"--score {score}: no run has it{did_you_mean(score, known)}; they have {', '.join(known)}")
    return named(score, *(arm.scores[score].mean for arm in arms if score in arm.scores))
