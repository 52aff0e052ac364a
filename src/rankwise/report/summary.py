"""The report in sentences, each derived from the records: the headline, and how the comparison was made."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rankwise.compare import replicate
from rankwise.errors import plural
from rankwise.metrics import Metric, named
from rankwise.report import costs, tuning
from rankwise.report.arms import UNDER_TRAINED, Arm, beside, covered
from rankwise.report.equivalence import ONE_SEED
from rankwise.report.flags import collapse, lr_edge
from rankwise.report.formats import items, listed, percent, si, span, three
from rankwise.report.naming import sources
from rankwise.report.sufficiency import LEVEL, Step, Sufficiency
from rankwise.statistics import Bootstrap
from rankwise.tracking.fields import at
from rankwise.tracking.record import FAILED, FINISHED, RUNNING, STOPPED, Record

if TYPE_CHECKING:
    from rankwise.report.report import Report


@dataclass(frozen=True)
class Headline:
    """The answer in one sentence, what it costs beside the reference, and the sentences that qualify it.

    ``others`` are the answers of other families of ranks, or of other questions, a line each.
    """

    title: str
    cost: str = ""
    details: str = ""
    others: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        return " ".join(filter(None, [self.title, self.cost, self.details]))

    def __str__(self) -> str:
        return " ".join([self.first, *self.others])


def headline(families: list[Sufficiency], reference: Arm | None, metric: Metric) -> Headline:
    """The smallest sufficient arm of the best family, and of which model and task it is where rows differ in these; the
    other families follow, a line each.
    """
    told = _headline(families, reference, metric)
    where = reference.where if reference else ""
    return replace(told, title=f"{_begun(where)}: {told.title}") if where else told


def _headline(families: list[Sufficiency], reference: Arm | None, metric: Metric) -> Headline:
    if reference is None:
        return Headline("No conclusion: there is no finished run of full fine-tuning to compare with.")
    if not families:
        full = reference.called
        return Headline(f"No conclusion: there is no comparable finished run of an adapter to compare with {full}.")
    best, *rest = sorted(families, key=lambda f: (f.answer.arm.size or ("", 0))[1] if f.answer else 10**9)
    cost = _cost(best.answer, reference) if best.answer else ""
    if reference.unfit:
        return Headline(_title(best, reference, metric, named=False))

    def details(family: Sufficiency) -> list[str]:
        return _details(family, reference, metric)

    others = (" ".join([_title(family, reference, metric, named=True), *details(family)]) for family in rest)
    title = _title(best, reference, metric, named=bool(rest))
    return Headline(title, cost, " ".join(details(best)), tuple(others))


def _title(family: Sufficiency, reference: Arm, metric: Metric, named: bool) -> str:
    full = reference.called
    sized = any(step.arm.size for step in family.steps)
    where = f" ({family.label})" if named and sized else ""
    margin = metric.margin_of(family.margin)
    if family.reason:
        budget = "; the budget decides here, so train longer" * (UNDER_TRAINED in family.reason)
        said, colon, why = family.reason.partition(":")
        return f"{_begun(said)}{where}{colon}{why}{budget}."
    if family.answer:
        name = family.answer.arm.called
        enough = f"{_begun(name)} is enough" if sized else f"{name} is as good as {full}"
        enough += " at this budget" * family.answer.arm.unfit.startswith(UNDER_TRAINED)
        return f"{enough}{where}: at most {margin} worse{f' than {full}' if sized else ''}."
    top, even = family.steps[0], "even " * (len(family.steps) > 1)
    gain = top.comparison.advantage
    if family.conclusive:
        why = f"is more than {margin} worse than {full} ({metric.difference(top.comparison.estimate)})"
    elif gain and gain.low > -family.margin and family.families > 1:
        why = f"is at most {margin} worse if tested alone, not as one of {family.families} families"
    else:
        why = f"may be more than {margin} worse than {full}"
    what = f"No {top.arm.size[0]} was" if top.arm.size else f"{top.arm.called} was not"
    return f"{what} shown to be {'enough' if sized else f'as good as {full}'}{where}: {even}{top.arm.called} {why}."


def _begun(words: str) -> str:
    """As a sentence begins, names as they are."""
    return words[0].upper() + words[1:]


def _details(family: Sufficiency, reference: Arm, metric: Metric) -> list[str]:
    if family.reason:
        points = [
            f"{step.arm.called.replace('rank ', 'r=')} {metric.difference(step.comparison.estimate)}"
            for step in reversed(family.steps)
            if step.comparison.verdict == ONE_SEED
        ]
        shown = f"Differences from {reference.called} on it, {metric.difference_unit}: {', '.join(points)}."
        return [shown, "Two or more shared seeds allow a conclusion: run with seed=0,1,2."] if points else []
    stopped = next((step for step in family.steps if not step.passed), None)
    pairs = next(boot for step in (family.answer, stopped, *family.steps) if step and (boot := step.boot))
    among = f" / {family.families} families" if family.families > 1 else ""
    crossed = " × ".join(f"{df + 1} {of}" for (_, df), of in zip(pairs.spreads, ("seeds", "data seeds"), strict=False))
    seeds = crossed if len(pairs.spreads) > 1 else f"{pairs.seeds} seeds"
    on = items(pairs.items, pairs.clusters)
    details = [f"Tested one-sided at {100 * LEVEL:g} %{among} on {seeds} × {on}."]
    if family.answer and family.answer.arm.unfit.startswith(UNDER_TRAINED):
        details.append(f"{_begun(family.answer.arm.called)} is {family.answer.arm.unfit}.")
    if edge := [arm.called for arm in (family.answer and family.answer.arm, reference) if arm and lr_edge(arm)]:
        details.append(f"Best learning rate at the edge of its grid, a better one may lie outside: {', '.join(edge)}.")
    if stopped and stopped.reason:
        details.append(f"The sequence stops at {stopped.arm.called}, which was not judged: {stopped.reason}.")
    if (least := family.detectable) and not family.answer:
        of, deficit = f" of {least[0].arm.called}" if len(family.steps) > 1 else "", least[1]
        shown = "none, with so few seeds and rows" if deficit is None else metric.width(deficit)
        details.append(f"Minimum detectable deficit{of} at 80 % power: {shown}.")
    if fell := [step.arm.called for step in reversed(family.steps) if collapse(step.arm.runs)]:
        details.append(f"Training collapsed in runs of {', '.join(fell)} (see the flag): a lower method.lr may help.")
    return details


def _cost(step: Step, reference: Arm) -> str:
    """What the sufficient arm costs beside the reference."""
    parts = [
        f"{percent(mine / theirs)} % of the {what}" + (f" ({si(mine)} of {si(theirs)})" if not unit else "")
        for what, mine, theirs, unit in costs.beside(step.arm, reference)
    ]
    return f"It takes {' and '.join([', '.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)}." if parts else ""


def notes(report: Report) -> list[str]:
    """How this was compared, one sentence or two each."""
    records, arms, reference, metric = report.records, report.arms, report.reference, report.metric
    staged = [run for run in report.all_records if run.config.get("stage")]
    chose, lines = apart(staged), []
    if report.answers:
        is_open = any(not one.document.get("decided", True) for one in report.answers)
        alone = ", without the correction for repeated looks" * is_open
        lines.append(f"By all runs of the table{alone}: {headline(report.families, reference, metric)}")
    if staged and len(staged) == len(report.all_records):
        lines.append(f"None of these runs is a result ({chose}): fresh seeds have yet to judge.")
    elif staged:
        lines.append(f"Left out of the comparison, for which they chose: {chose}.")
    lines += [*tasks(report), *margin(report), *filter(None, [_counts(records, arms), report.total])]
    lines += [*budget(arms, reference or arms[0]), *evaluation(report), *tuning.rates(arms), *of_data(records)]
    codes = {record.provenance.get("code") for record in records} - {None, ""}
    if len(codes) > 1:
        lines.append(f"{len(codes)} versions of rankwise's code made these runs: a difference may be the code's.")
    others = sum(not arm.comparable for arm in arms)
    if others:
        rows = plural(others, "row differs", "rows differ")
        what = "the reference" if reference else beside(arms)
        lines.append(f"{rows} from {what} in more than the arm: shown with the key, not ranked.")
    if reference and not reference.is_full:
        lines.append(f"Compared with {report.against}, as rankwise find was asked, and not with full fine-tuning.")
    if reference and metric.lower_is_better:
        lines.append(f"Lower {metric.name} is better: an arm whose difference from {report.against} is positive lost.")
    if reference is None:
        return [*lines, "Full fine-tuning is missing, so there is no difference, no verdict and nothing sufficient."]
    if any(c.verdict == ONE_SEED for c in report.comparisons.values()):
        lines.append("With one shared seed differences are points without an interval: seeds alone could explain them.")
    return lines + tests(report)


def of_data(records: list[Record], what: str = "the data") -> list[str]:
    """What a reader of the scores must know of the rows."""
    notes = dict.fromkeys(note for record in records for note in at(record, "provenance.data.notes") or [])
    return [f"Of {what}: {note}." for note in notes]


def tests(report: Report) -> list[str]:
    """The statistics that were used, and no others."""
    metric, comparisons, families = report.metric, report.comparisons, report.families
    scores = [arm.scores[metric.name] for arm in report.arms if metric.name in arm.scores]
    how = ", within the metric's range" * (metric.range != (-math.inf, math.inf))
    how += "; over seeds by Student's t" * any(score.kind in ("both", "seeds") for score in scores)
    lines = [f"Scores: {covered(scores)}{how}."] if scores else []
    if boots := [c.bootstrap for c in comparisons.values() if c.bootstrap]:
        lines.append(_of_differences(report.against, boots, {c.verdict for c in comparisons.values()}))
    if judged := [family for family in families if not family.reason]:
        text = _of_ranks(judged, len(families))
        lines.append(f"In the table of all runs: {text[0].lower()}{text[1:]}" if report.answers else text)
    if len(boots) > 1:
        lines.append("p-values of “no difference” are corrected for the number of arms (Holm 1979).")
    return lines


_VERDICTS = {
    "same": "inside ± margin",
    "not worse": "above − margin",
    "better": "wholly above the margin",
    "worse": "wholly below − margin",
    "inconclusive": "none of these, which shows no sameness",
}


def _of_differences(against: str, boots: list[Bootstrap], seen: set[str]) -> str:
    drawn = span([len(boot.means) for boot in boots])
    said = (
        f"Differences from {against} are paired by seed and test item; their intervals combine Student's t over "
        f"seeds with {drawn} bootstrap replicates over items (Zou and Donner 2008)."
    )
    crossed = any(len(boot.spreads) > 1 for boot in boots)
    said += " Seeds and data seeds count as two factors." * crossed
    clustered = any(boot.clusters < boot.items for boot in boots)
    said += " Test items that share a prompt, a text or a group are drawn together." * clustered
    if verdicts := ", ".join(f"“{name}” if {words}" for name, words in _VERDICTS.items() if name in seen):
        two = "two one-sided 5 % tests (Schuirmann 1987), each arm by itself, read from the gain's 90 % interval"
        said += f" Verdicts are {two}: {verdicts}."
    return said


def _of_ranks(judged: list[Sufficiency], families: int) -> str:
    tested = [step for family in judged for step in family.steps]
    size = " or ".join(sorted({step.arm.size[0] for step in tested if step.arm.size})) or "arm"
    what, how = "Sufficient", ""
    if any(len(family.steps) > 1 for family in judged):
        what = "Smallest sufficient"
        how = " from the largest down, stopping at the first failure, which holds the chance of naming an insufficient "
        how += f"{size} to 5 % without further correction"
    if families > 1:
        how += f"; of {families} families each is tested at 5 % / {families}"
    text = f"{what} {size}: one-sided 5 % non-inferiority{how}."
    barred = ", ".join(step.arm.called for step in tested if not step.arm.may_pass)
    short = ", ".join(step.arm.called for step in tested if step.arm.may_pass and not step.arm.may_fail)
    text += f" Not allowed to pass (see its flag): {barred}." * bool(barred)
    return text + f" May pass and cannot fail, since more steps or learning rates would help: {short}." * bool(short)


def _counts(records: list[Record], arms: list[Arm]) -> str:
    counts = Counter(record.status for record in records)
    scored = sum(len(arm.runs) for arm in arms)
    if scored == len(records) and total(records):  # which counts them, too
        return ""
    which = f", {scored} of them scored, one a seed at its arm's learning rate" if counts[FINISHED] - scored else ""
    other = [f"{counts[s]} {s}" for s in sorted(counts) if s != FINISHED]
    text = f"{plural(counts[FINISHED], 'run')} finished{which}."
    return text + (f" Listed but not scored: {', '.join(other)}." if other else "")


def total(records: list[Record]) -> str:
    """What the whole study took, runs that tuned, failed or were stopped included, the start of processes left out."""
    took = sum(at(record, "compute.seconds.total_s") or 0 for record in records)
    flops = sum(at(record, "compute.flops.train_total") or 0 for record in records)
    if not took:
        return ""
    hours = f"{three(took / 3600)} hours" if took >= 3600 else f"{three(took)} s"
    computed = f" and {si(flops, 'FLOP')} of training" if flops else ""
    runs = ", ".join([plural(len(records), "run"), *filter(None, [apart(records)])])
    studies = len({record.run["study"] for record in records})
    what = "The whole study" if studies == 1 else f"The {studies} studies"
    return f"{what} took {hours} of runs one after the other{computed}: {runs}."


_STAGES = {"tune": "for tuning", "search": "of a search", "pilot": "as pilot", "debug": "for debugging"}


def apart(records: list[Record]) -> str:
    """How many of the runs are no results, and what they are: ``24 for tuning, 1 as pilot, 1 failed``."""
    kinds = Counter(
        _STAGES.get(str(run.config.get("stage"))) if run.status == FINISHED else run.status for run in records
    )
    return ", ".join(f"{kinds[kind]} {kind}" for kind in (*_STAGES.values(), FAILED, STOPPED, RUNNING) if kinds[kind])


def budget(arms: list[Arm], arm: Arm) -> list[str]:
    """How all arms were trained, by the config of one, and how the checkpoint was chosen."""
    config = (arm.runs or arm.unscored)[0].config
    trainer, optim, task = (config.get(group) or {} for group in ("trainer", "optim", "task"))
    if not trainer or arm.is_baseline:  # as all others are then
        return []
    steps = sorted({round(n) for one in arms if one.comparable and (n := one.median("compute.steps"))})
    length = f"{span(steps)} steps" if steps else ""
    batch = (trainer.get("batch_size") or 0) * (trainer.get("accumulate") or 1)
    precision = arm.first("compute.precision") or trainer.get("precision")
    parts = [  # (what is known, how it is said)
        (task.get("max_length"), f" of at most {task.get('max_length')} tokens"),
        (optim.get("name"), f", {optim.get('name')}"),
        (optim.get("weight_decay"), f", weight decay {optim.get('weight_decay') or 0:g}"),
        (
            optim.get("schedule"),
            f", {100 * (optim.get('warmup') or 0):g} % warm-up and {optim.get('schedule')} schedule",
        ),
        (trainer.get("clip"), f", gradients clipped at norm {trainer.get('clip') or 0:g}"),
        (precision, f", {precision} on {arm.first('compute.device') or trainer.get('device')}"),
    ]
    equal = "Equal budget" if len(steps) < 2 else "Unequal budget"
    said = f"{equal}: {length or tuning.length(arm)} of {batch} sequences"
    said += "".join(words for known, words in parts if known)
    if arm.optimistic:
        return [
            f"{said}. Protocol “paper”: the checkpoint is chosen on the very test rows that are reported, as in many "
            "papers. Scores are medians over seeds, and optimistic; differences and verdicts are of means."
        ]
    curves = (at(run, "metrics.curve") for one in arms if one.comparable for run in one.runs)
    counts, asked = [len(curve) for curve in curves if curve], trainer.get("validations")
    best_of = span(counts) if counts else f"at most {asked}" if asked else ""
    by = f" as the best of {best_of} by {config.get('objective')}" if best_of and config.get("objective") else ""
    return [f"{said}; the checkpoint is chosen on validation data{by}."]


def evaluation(report: Report) -> list[str]:
    """What is reported, over how many seeds and test items."""
    arms, metric = report.arms, report.metric
    runs = [run for arm in arms if arm.comparable for run in arm.runs]
    if not runs:
        return []
    seeds, data = (sorted({*of_runs}) for of_runs in zip(*map(replicate, runs), strict=True))
    sizes = _tested_on(runs, metric)
    on = f" on {' or '.join(sizes)}" if sizes else ""
    others = _tested_on([run for arm in arms if not arm.comparable for run in arm.runs], metric)
    if more := [size for size in others if size not in sizes]:
        on += f" ({' or '.join(more)} of rows that are not ranked)"
    of = f"{plural(len(seeds), 'seed')} ({listed(seeds)}; data seeds {listed(data)})"
    compared = any(comparison.estimate is not None for comparison in report.comparisons.values())
    paired = "; arms are paired by both seeds and by item" * compared
    less = " (lower is better)" * metric.lower_is_better
    return [f"Reported is test {metric.name}{less} over {of}{on}{paired}."]


def _tested_on(runs: list[Record], metric: Metric) -> list[str]:
    cells = [run.scores.get(metric.name) or {} for run in runs]
    return sorted({items(cell["n"], cell.get("clusters")) for cell in cells if cell.get("n")})


def margins(arms: list[Arm]) -> list[float]:
    """Of the runs that are compared, the smallest first, which is used."""
    runs = [run for arm in arms if arm.comparable for run in (*arm.runs, *arm.unscored)]
    return sorted({float(m) for run in runs if (m := at(run, "config.task.margin")) is not None})


def margin(report: Report) -> list[str]:
    """What the margin is, and whether it was set for what is compared."""
    set_to, own = margins(report.arms), _own(report)
    if report.answers and set_to != [report.margin]:
        sentences = [f"Margin of sameness, as rankwise find was asked: {own.margin_of(report.margin)}."]
    elif len(set_to) > 1:
        widths = ", ".join(own.width(m) for m in set_to)
        sentences = [f"The runs disagree on the margin ({widths} of {own.name}); the smallest is used."]
    else:
        sentences = [f"Margin of sameness, set in the config before the runs: {own.margin_of(m)}." for m in set_to]
    return [*other_score(report), *sentences]


def tasks(report: Report) -> list[str]:
    """That one of several tasks is compared, if so."""
    several = len(set(sources(report.records, "task")))
    how = "rankwise report PATH --by task sets them side by side"
    return [f"The runs are of {several} tasks, of which this report compares one: {how}."] * (several > 1)


def other_score(report: Report) -> list[str]:
    """That the score was chosen after the runs, if so."""
    mine, own = report.metric.name, _own(report).name
    return [f"Compared by {mine}, chosen for this report; the margin was set for {own}."] if mine != own else []


def _own(report: Report) -> Metric:
    return named(str(report.arms[0].first("config.task.metric") or "accuracy"))


def provenance(records: list[Record]) -> list[tuple[str, str]]:
    """What the runs were made with: (what, values), each value that occurs, most frequent first."""
    rows = []
    for key in ("git", "code", "python", "packages", "hardware", "host", "model", "data"):
        path = f"{'run' if key == 'host' else 'provenance'}.{key}"
        seen = Counter(_flat(value) for record in records if (value := at(record, path)))
        shown = [text if len(seen) == 1 else f"{text} ({n} runs)" for text, n in seen.most_common(4)]
        more = [f"and {len(seen) - 4} more"] if len(seen) > 4 else []
        if shown:
            rows.append((key, "; ".join(shown + more)))
    return rows


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(v)}" for key, v in value.items() if v not in (None, "", {}, []))
    return ", ".join(map(_flat, value)) if isinstance(value, list) else str(value)
