"""Records → arms: what competes, at which learning rate, on how many seeds, and whether it may be compared at all.

A run's config splits into its arm (what defines the contender), its tuned knob (the learning rate), its replicate
(seed and data seed), and its *context*: everything else. Only arms of one context are compared.
"""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rankwise import methods, metrics
from rankwise.compare import Replicate, preference, replicate
from rankwise.config import flat
from rankwise.errors import Refused
from rankwise.identity import OFF, canonical, remove
from rankwise.report.naming import give_names, name_sources
from rankwise.statistics import Interval, interval
from rankwise.tracking.fields import at
from rankwise.tracking.record import FAILED, FINISHED, Record

Context = tuple[tuple[str, str], ...]  # sorted pairs of a dotted key and its value as JSON

UNDER_TRAINED = "under-trained"  # the first word of that reason
_ORDER = {"lora": 0, "full": 2, "head": 3, "probe": 4, "tfidf": 5, "few_shot": 6}  # 1: adapters that are not known here


@dataclass(frozen=True)
class Trial:
    """One learning rate of an arm, ``n`` replicates of it, and its mean validation objective: where it can, over those
    replicates that all whole rates have (``whole_rates``)."""

    lr: float
    validation: float
    n: int


@dataclass
class Arm:
    """A contender in one context, at its best learning rate. ``runs`` are scored: one finished run per replicate."""

    key: str
    family: str  # the key without the rank, or what else sizes it
    method: str
    settings: dict[str, Any]  # rank, alpha, targets, quant, dropout, bias, …
    context: Context
    runs: list[Record] = field(default_factory=list)
    unscored: list[Record] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    lr: float | None = None
    scores: dict[str, Interval] = field(default_factory=dict)  # on the test set, by metric
    differs: dict[str, tuple[str, str]] = field(default_factory=dict)  # context key: (here, in the reference)
    name: str = ""  # method, rank and what varies in the study, targets excepted
    label: str = ""  # the same with targets
    where: str = ""  # of which model and on which task it is, where these differ: ``with bert on rte``
    flags: list[str] = field(default_factory=list)
    churn: dict[str, float | None] = field(default_factory=dict)  # between its ``seeds``, and from the ``reference``
    tuned: list["Arm"] = field(default_factory=list)  # by runs on other seeds, of as many steps each; shortest first
    timed: bool = True  # whether its seconds may be compared with full fine-tuning's
    searched: int = 0  # most learning rates that a rank of its family tried, from which ``find`` carries one to others
    unfit: str = ""  # why something may not be concluded from its runs
    may_pass: bool = True  # whether it may be called as good as full fine-tuning: an under-trained arm may
    may_fail: bool = True  # whether it may be called worse: one that had more learning rates to choose from may

    @property
    def rank(self) -> int | None:
        return self.settings.get("rank")

    @property
    def rank_had(self) -> int | None:
        """Its rank, or that which a parameter budget gave, which is no size of the sequence of ranks."""
        return self.rank or self.first("lora.rank")

    @property
    def size(self) -> tuple[str, int] | None:
        """What sizes it, as a sentence says it, and how large that is: ``("rank", 8)``, ``("layer count", 1)``."""
        sizes = ((noun, self.settings.get(key)) for key, (_, noun) in methods.size_keys().items())
        return next(((noun, int(size)) for noun, size in sizes if size is not None), None)

    @property
    def called(self) -> str:
        """As a sentence calls it: ``full fine-tuning``, ``rank 8``, or its label where nothing sizes it."""
        return "full fine-tuning" if self.is_full else " ".join(map(str, self.size or [self.label]))

    @property
    def is_full(self) -> bool:
        return self.method == "full"

    @property
    def comparable(self) -> bool:
        return not self.differs

    @property
    def is_baseline(self) -> bool:
        return methods.of(self.method).is_baseline

    @property
    def optimistic(self) -> bool:
        """Whether checkpoints were chosen on the rows that are reported; the median over seeds is then shown, as in
        the papers that do so."""
        return bool(self.first("config.task.protocol") == "paper")

    @property
    def whole(self) -> dict[float, float]:
        """The validation objective of the rates that were tried on as many seeds as any; NaN: diverged or failed."""
        most = max((trial.n for trial in self.trials), default=0)
        return {trial.lr: trial.validation for trial in self.trials if trial.n == most}

    @property
    def rounds(self) -> list["Arm"]:
        """What its learning rate was chosen by: runs that tuned, a stage for each number of steps, or its own runs."""
        return self.tuned or [self]

    @property
    def tried(self) -> int:
        """How many learning rates its own was chosen from, on these seeds or on others: those of the first round, of
        which a later one takes the best."""
        return max(len(self.whole), len(self.rounds[0].whole))

    @property
    def picked(self) -> bool:
        """Whether its learning rate was chosen on seeds that are reported, whose luck is then in its score."""
        mine = set(self.replicates())
        return len(self.whole) > 1 or (self.tried > 1 and any(mine & set(part.replicates()) for part in self.tuned))

    @property
    def beyond(self) -> int:
        """How many more a later round tried, which lie beyond the edge of the first."""
        first, *later = (set(part.whole) for part in self.rounds)
        return len(set().union(*later) - first)

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, as documents have it."""
        settings = {name: self.settings.get(name) for name in ("alpha", "targets", "quant")}
        return {"label": self.label, "method": self.method, "rank": self.rank_had} | settings

    def replicates(self) -> list[Replicate]:
        return [replicate(run) for run in self.runs]

    def first(self, path: str) -> Any:
        """The value at a dotted path in the first run that has it, finished if any is: for what all its runs share."""
        return next((value for run in self.runs or self.unscored if (value := at(run, path)) is not None), None)

    def median(self, path: str) -> float | None:
        """The median over runs of a measured number: one disturbed run does not move it."""
        values = [value for run in self.runs if (value := at(run, path)) is not None]
        return float(statistics.median(values)) if values else None


def group(records: list[Record], asked: Record | None = None) -> list[Arm]:
    """Arms in reading order: comparable ones first, adapters by rank, then full, head and baselines; ``asked`` as of
    ``reference_of``.

    Raises Refused for a run that was selected on the test set.
    """
    for record in records:
        objective = str(record.config.get("objective", ""))
        if objective.startswith("test"):
            raise Refused(
                f"{record.folder}: objective={objective}: learning rates must be chosen on validation data; "
                "report without this run, or train it again with objective=val/…"
            )
    arms: dict[tuple[str, Context], Arm] = {}
    contexts: dict[Context, Context] = {}  # most runs have the same, which is held once
    for record in sorted(records, key=lambda record: record.status != FINISHED):
        settings, context = _split(record)
        _home(arms, record, settings, contexts.setdefault(context, context))
    grouped = list(arms.values())
    alike = _as_asked(grouped, asked)  # on any task, of which a study may have several
    reference = _reference_context([arm for arm in alike if any(run is asked for run in arm.runs)] or alike, grouped)
    for arm in grouped:
        arm.differs = _differences(arm, reference)
        _choose_lr(arm)
        arm.scores = _scores(arm)
    give_names(grouped)
    name_sources(grouped)
    return sorted(grouped, key=reading_order)


def reading_order(arm: Arm) -> tuple[bool, int, str, int, Context]:
    """A key to sort by: comparable arms first, adapters by rank or size and what is not quantized before what is,
    then full, head and baselines."""
    size = arm.size[1] if arm.size else 0
    family = arm.family.replace('"none"', '""')  # which sorts first
    return not arm.comparable, _ORDER.get(arm.method, 1), family, size, arm.context


def reference_of(arms: list[Arm], asked: Record | None = None) -> Arm | None:
    """The arm of the run ``asked``, which a question of ``find`` had for its reference; else full fine-tuning, in the
    context that the report compares in, that of most runs.
    """
    full = [arm for arm in _as_asked(arms, asked) if arm.comparable and arm.runs]
    return max(full, key=lambda arm: len(arm.runs), default=None)


def _as_asked(arms: list[Arm], asked: Record | None) -> list[Arm]:
    """Those that may be the reference, whatever their context."""
    key = asked and _key(_split(asked)[0])
    return [arm for arm in arms if arm.key == key] or [arm for arm in arms if arm.is_full]


def _home(arms: dict[tuple[str, Context], Arm], record: Record, settings: dict[str, Any], context: Context) -> None:
    """Put a run into its arm. One that did not finish may not know all its context: it joins where the rest agrees."""
    key, method = _key(settings), settings.pop("method")
    scored = record.status == FINISHED
    if not scored:
        known = set(context)
        context = next((c for k, c in arms if k == key and known <= set(c)), context)
    if (key, context) not in arms:
        family = _key({key: value for key, value in settings.items() if key not in methods.size_keys()})
        name = str(record.config["method"]["name"])
        arms[key, context] = Arm(key, f"{method} {family}", name, settings, context)
    arm = arms[key, context]
    (arm.runs if scored else arm.unscored).append(record)


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def _split(record: Record) -> tuple[dict[str, Any], Context]:
    """A run's arm and its context: whatever decides its result is in the one or the other, but for the tuned knob and
    the replicate.

    The arm is the method with its keys, targets and storage; nulls are left out. What is measured beside (what is
    written, what may be forgotten) trains no other adapter. The context must be the same for a fair comparison, as must
    be what was observed of data, model and numerics.
    """
    config, values = record.config, canonical(record.config)
    name, quant = str(config["method"]["name"]), config.get("quant") or {}
    stored = quant.get("kind") or quant.get("name", "none")
    settings = (
        {"method": values["method"].pop("name")}
        | ({"targets": _targets(config.get("targets") or {})} if methods.of(name).on_targets else {})
        | {"quant": f"{stored}{'_double' * bool(quant.get('double'))}"}
        | flat(values["method"])
    )
    for key in ("method", "targets", "quant", "seed", "data_seed", "optim.lr", "task.generation", "forgetting"):
        remove(values, key)
    observed = {f"{part}.fingerprint": at(record, f"provenance.{part}.fingerprint") for part in ("model", "data")}
    if not methods.of(name).is_baseline:
        observed |= {f"compute.{key}": record.compute.get(key) for key in ("precision", "device")}
    known = {key: value for key, value in observed.items() if value is not None}
    return settings, tuple(sorted((key, json.dumps(value)) for key, value in (flat(values) | known).items()))


def _targets(targets: dict[str, Any]) -> str:
    chosen = targets.get("regex") or ",".join(targets.get("modules") or []) or targets.get("name", "?")
    layers = targets.get("layers")
    where = f" in layers {','.join(map(str, layers))}" if layers is not None else ""
    patterns = [
        f"{key} {pattern}={value}" for key in ("ranks", "alphas") for pattern, value in (targets.get(key) or {}).items()
    ]
    return " ".join([f"{chosen}{where}", *patterns])


def _reference_context(references: list[Arm], arms: list[Arm]) -> Context:
    """The reference's context with the most runs; without one, the context of most trained runs."""
    scored = [arm for arm in arms if arm.runs] or arms
    best = [a for a in references if a.runs] or [arm for arm in scored if not arm.is_baseline] or scored
    counts: Counter[Context] = Counter()
    for arm in best:
        counts[arm.context] += len(arm.runs)
    return counts.most_common(1)[0][0]


def _differences(arm: Arm, reference: Context) -> dict[str, tuple[str, str]]:
    """Context keys in which an arm departs from the reference. A baseline has no trainer: only what it has counts."""
    here, there = dict(arm.context), dict(reference)
    keys = set(here) | set(there)
    if arm.is_baseline:
        keys = {key for key in here if key.split(".")[0] in ("task", "data", "model")}
    if not arm.runs:  # nothing was observed
        keys &= set(here)
    meant = {key: json.dumps(OFF[key]) if key in OFF else "unset" for key in sorted(keys)}
    return {key: (a, b) for key, off in meant.items() if (a := here.get(key, off)) != (b := there.get(key, off))}


def beside(arms: list[Arm]) -> str:
    """What rows that differ are set beside, where no reference says it."""
    counts: Counter[Context] = Counter()
    for arm in arms:
        counts[arm.context] += 0 if arm.is_baseline else len(arm.runs or arm.unscored)
    first, *second = [n for _, n in counts.most_common(2)]
    return "most runs" if not second or second[0] < first else "the first rows"


def whole_rates(runs: Iterable[Record]) -> dict[float, dict[Replicate, Record]]:
    """The learning rates, in order, that have as many replicates as any, each with a run per replicate.

    A grid that was cut short is judged by what is whole: a rate with one lucky seed does not win over one with five.
    """
    by_lr = _by_rate(runs)
    most = max(map(len, by_lr.values()), default=0)
    return {lr: runs_at for lr, runs_at in by_lr.items() if len(runs_at) == most}


def _by_rate(runs: Iterable[Record]) -> dict[float, dict[Replicate, Record]]:
    by_rate: dict[float, dict[Replicate, Record]] = defaultdict(dict)
    for run in sorted(runs, key=_measured):
        by_rate[float(at(run, "config.optim.lr") or 0.0)][replicate(run)] = run
    return dict(sorted(by_rate.items()))


def _measured(run: Record) -> tuple[int, str]:
    """A key to sort by: of two runs of the same, the one that measured more beside counts, then the latest."""
    return len(run.scores) + len(run.metrics.get("forgetting") or ()), str(run.run.get("ended") or "")


def _choose_lr(arm: Arm) -> None:
    """Keep the runs of the best whole learning rate by ``preference``, one run per replicate."""
    whole = whole_rates(arm.runs)
    if not whole:
        return
    common = set.intersection(*(set(runs) for runs in whole.values()))
    failed = (run for run in arm.unscored if run.status == FAILED and run.config.get("stage") == "tune")
    rates = _by_rate([*arm.runs, *failed])  # a rate whose trial failed was tried, and is never chosen
    judged = {lr: [runs[rep] for rep in runs if rep in common] or list(runs.values()) for lr, runs in rates.items()}
    values = {lr: [math.nan if run.objective is None else run.objective for run in runs] for lr, runs in judged.items()}
    arm.trials = [Trial(lr, float(np.mean(values[lr])), len(runs)) for lr, runs in rates.items()]
    best = max(whole, key=lambda lr: preference(judged[lr]))
    arm.lr = None if arm.is_baseline else best
    arm.runs = [whole[best][rep] for rep in sorted(whole[best])]


def _scores(arm: Arm) -> dict[str, Interval]:
    """Every test metric with its interval. A score that is not finite cannot enter a mean; it is flagged elsewhere."""
    scores = {}
    for metric in sorted({name for run in arm.runs for name in run.scores}):
        cells = asked_alike(arm, metric)
        values = [cell["value"] for _, cell in cells if cell.get("value") is not None]
        scores[metric] = over_runs(cells, within=metrics.named(metric, *values).range, median=arm.optimistic)
    return {metric: score for metric, score in scores.items() if score}


def asked_alike(arm: Arm, metric: str) -> list[tuple[Record, dict[str, Any]]]:
    """An arm's runs with their scores, of one test alone: that of most runs, of two as frequent the larger. Text that
    was written with other settings is another test.
    """

    def test(run: Record, cell: dict[str, Any]) -> tuple[int, str]:
        written = writing(run) if metrics.named(metric).kind == "text" else ""
        return cell.get("n") or 0, json.dumps([cell.get("shots"), cell.get("limit"), written])

    cells = [(run, cell, test(run, cell)) for run in arm.runs if (cell := run.scores.get(metric))]
    tests = Counter(asked for _, _, asked in cells)
    most = max(tests, key=lambda asked: (tests[asked], asked), default=None)
    return [(run, cell) for run, cell, asked in cells if asked == most]


def writing(run: Record) -> str:
    """With which settings a run wrote text: ``max_new_tokens=32, beams=4``."""
    asked = at(run, "config.task.generation") or {}
    return ", ".join(f"{key}={value}" for key, value in asked.items() if key != "metrics" and value is not None)


def over_runs(cells: Iterable[tuple[Record, Any]], sign: float = 1.0, **how: Any) -> Interval | None:
    """The interval of what runs measured, each as {value, se, n}; None where none of them has a value."""
    known = [(run, cell) for run, cell in cells if (cell or {}).get("value") is not None]
    if not known:
        return None
    values, first = [sign * float(cell["value"]) for _, cell in known], known[0][1]
    sizes = {"items": first.get("n"), "clusters": first.get("clusters")}
    ses = [cell["se"] for _, cell in known if cell.get("se") is not None]
    return interval(values, ses, replicates=[replicate(run) for run, _ in known], **sizes, **how)


def covered(scores: Iterable[Interval | None], items: str = "test items") -> str:
    """What the intervals of some scores are over: ``± 95 % over seeds and prompts``."""
    shown = [score for score in scores if score]
    kinds, alone = {score.kind for score in shown}, {min(score.n, 2) for score in shown if score.kind == "items"}
    why = " or ".join(words for n, words in ((1, "one seed"), (2, "seeds that score alike")) if n in alone)
    words = {"both": f"seeds and {items}", "seeds": "seeds", "items": f"{items} alone ({why})"}
    over = ", or ".join(words[kind] for kind in words if kind in kinds)
    return f"± 95 % over {over}" if over else "no interval"
