"""What is said of an arm: one column each, for the terminal, Markdown, the page and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rankwise import methods
from rankwise.errors import Refused, did_you_mean
from rankwise.metrics import METRICS, NOTHING, Metric, named, of_kind
from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.arms import Arm, asked_alike
from rankwise.report.equivalence import MISSING, ONE_SEED, Comparison
from rankwise.report.footnotes import marks
from rankwise.report.forgetting import forgotten

if TYPE_CHECKING:
    from rankwise.report.report import Report

KEYS = "the first line of report.csv has all"
_OTHERS = 8  # metrics beside the task's own that a terminal shows
_SHORT = {ONE_SEED: "one seed", MISSING: NOTHING}  # the whole sentence stands beneath the table


@dataclass(frozen=True)
class Section:
    """A part of the report: ``header`` and ``rows`` begin with the arm; ``lead`` stands above, ``notes`` beneath.

    Cells are numbers but the first, unless all are ``words``, which are set to the left and folded. ``kinds`` are the
    rows' classes on the page.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    lead: str = ""
    words: bool = False
    kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """``get`` gives an arm's value, ``show`` how it reads, ``mark`` what follows it; ``key`` names it in CSV (empty:
    not there), where an ``interval`` stands in its parts.

    ``tables`` names the tables that show it, separated by blanks: ``main`` (``wide``: on the page and in Markdown
    alone), paper (what a page of LaTeX has room for), scores (``more``: on the page alone),
    memory, compute, numbers, generation, forgetting, harness.
    """

    key: str
    header: str
    get: Callable[[Arm], Any]
    show: Callable[[Any], str] = str
    tables: str = ""
    left: bool = False
    mark: Callable[[Arm], str] = lambda arm: ""
    interval: bool = False

    @property
    def title(self) -> str:
        """The header, or the key where only CSV has it."""
        return self.header or self.key

    @property
    def raw(self) -> list[Column]:
        """As CSV has it; nothing without a key."""
        if not self.interval:
            return [self] if self.key else []

        def part(name: str) -> Callable[[Arm], Any]:
            return lambda arm: getattr(getattr(found := self.get(arm), "amount", found), name, None)

        parts = {name: name for name in ("mean", "median", "se", "low", "high")} | {"interval": "kind"}
        return [Column(f"{self.key}_{said}", "", part(name)) for said, name in parts.items()]

    def text(self, arm: Arm) -> str:
        value = self.get(arm)
        return NOTHING if value is None else self.show(value) + self.mark(arm)


def columns(report: Report) -> list[Column]:
    """All of them, in reading order. The verdict comes early, where a narrow screen shows it."""
    everywhere = "main paper scores more memory compute numbers generation forgetting harness"
    return [
        Column("arm", "arm", lambda a: a.label, tables=everywhere, left=True),
        Column("method", "", lambda a: a.method),
        Column("rank", "", lambda a: a.rank_had),
        *(Column(key, "", _in("settings", key)) for key in ("dim", "alpha", "targets", "quant")),
        *_scores(report),
        Column("rank_fraction", "r/min side\N{NO-BREAK SPACE}%", rank_fraction, fmt.percent, "main"),
        Column("scale", "scale", lambda a: a.first("lora.scale"), lambda scale: f"{scale:.3g}", "main"),
        Column("lr", "lr", lambda a: a.lr, fmt.rate, "main"),
        Column("rates", "", lambda a: a.tried),
        Column("best_of_rates", "", lambda a: a.picked),
        Column("n", "n", lambda a: len(a.runs), str, "main"),
        *_costs(),
        *_numbers(report),
        *_generation(report),
        *_forgetting(report),
        *_harness(report),
        Column("comparable", "", lambda a: a.comparable),
        Column("flags", "", lambda a: "; ".join(a.flags)),
    ]


def shown(report: Report, *tables: str) -> list[Column]:
    """The columns of a table; those of several together in reading order."""
    return [column for column in columns(report) if set(tables) & set(column.tables.split())]


def chosen(report: Report, wanted: Sequence[str], *tables: str) -> list[Column]:
    """The columns of ``tables``, or those ``wanted`` by their key or header, in that order, behind the arm's name.

    Raises Refused for one that there is not.
    """
    if not wanted:
        return shown(report, *tables)
    known = columns(report)
    there = {
        name.replace("\N{NO-BREAK SPACE}", " "): column
        for column in [*(part for column in known for part in column.raw), *reversed(known)]
        for name in (column.header, column.key)
        if name
    }
    if unknown := next((name for name in wanted if name not in there), None):
        near = did_you_mean(unknown, there)
        raise Refused(f"--columns {unknown}: no column{near}; a header of the table, or a key: {KEYS}")
    return [known[0], *(there[name] for name in wanted if there[name] is not known[0])]


def section(report: Report, tables: str, title: str, notes: list[str], lead: str = "") -> Section | None:
    """A table of the arms that have any value in it, without the columns that none has; None where that is nothing."""
    columns = shown(report, *tables.split())
    rows = [row for row in cells(report, columns) if any(cell != NOTHING for cell in row[1:])]
    full = [i for i in range(len(columns)) if any(row[i] != NOTHING for row in rows)]
    header = [columns[i].header for i in full]
    kept = [[row[i] for i in full] for row in rows]
    return Section(tables.split()[0], title, header, kept, notes, lead) if rows else None


def cells(report: Report, columns: Sequence[Column]) -> list[list[str]]:
    """What a table says of each arm; the numbers of its flags stand behind its name."""
    flags = marks(report.arms)
    return [[c.text(arm) + flags[id(arm)] * (n == 0) for n, c in enumerate(columns)] for arm in report.arms]


def delta(report: Report, arm: Arm) -> str | None:
    """The difference from the reference and its verdict: ``−0.4 same``."""
    if arm is report.reference:
        return "reference"
    comparison = report.comparison(arm)
    if comparison is None or comparison.estimate is None:
        return None
    verdict = report.verdict(arm)
    return f"{report.metric.difference(comparison.estimate)} {_SHORT.get(verdict, verdict)}"


def rank_fraction(arm: Arm) -> float | None:
    """r / min(in, out) of the narrowest adapted matrix: what makes ranks comparable between model widths."""
    side = arm.first("lora.min_side")
    return arm.rank_had / side if arm.rank_had and side else None


def trainable_fraction(arm: Arm) -> float | None:
    """Trainable of all parameters; None for a baseline, which has no model to train a part of."""
    trainable, total = arm.first("params.trainable"), arm.first("params.total")
    return trainable / total if trainable is not None and total and not arm.is_baseline else None


def _of_full(report: Report, floor: float | None) -> Callable[[Arm], float | None]:
    """An arm's score as a share of full fine-tuning's, of what either has above a floor. None for a loss."""

    def share(arm: Arm) -> float | None:
        mine, full = (scored and scored.scores.get(report.metric.name) for scored in (arm, report.reference))
        if (
            floor is None
            or report.metric.lower_is_better
            or not (mine and full and arm.comparable and full.point > floor)
            or report.short != "full"
        ):
            return None
        return (mine.point - floor) / (full.point - floor)

    return share


def second_metrics(report: Report) -> list[Metric]:
    """The other metrics of the task that any arm has."""
    kind, has = report.metric.kind, {name for arm in report.arms for name in arm.scores} - {"loss", report.metric.name}
    beside = [named(name) for name in dict.fromkeys([*of_kind(kind), *sorted(has)]) if name in has]
    return [metric for metric in beside if metric.kind == kind and not metric.task]


def _scores(report: Report) -> list[Column]:
    metric = report.metric
    median = " (median)" if any(s.median is not None for arm in report.arms for s in arm.scores.values()) else ""
    points = " pts" if metric.percent else ""
    beside = second_metrics(report)
    others = [*(_score(m, "scores") for m in beside[:_OTHERS]), *(_score(m, "more") for m in beside[_OTHERS:])]
    # Of random subspaces d90 is read here: the smallest dimension with 90 % (Li et al. 2018, §2).
    shares = "numbers main" if any("dim" in arm.settings for arm in report.arms) else "numbers"
    floor = report.constants[id(report.reference)] if report.reference else None
    floors = (("of_full", "of full", 0.0), ("above_constant_of_full", "of full above constant", floor))
    against = "main paper" if report.reference else ""
    return [
        Column("metric", "", lambda a: metric.name),
        replace(_score(metric, "main paper"), key="test", header=f"{metric.header}{median}"),
        Column("", f"Δ {report.short}{points}", lambda a: delta(report, a), tables=against, left=True),
        *others,
        *(
            Column(key, f"{header}\N{NO-BREAK SPACE}%", _of_full(report, floor), fmt.percent, shares)
            for key, header, floor in floors
        ),
        Column("constant", "", lambda a: report.constants[id(a)]),
    ]


def _score(metric: Metric, tables: str) -> Column:
    """With a star where it is of the best of several rates: the luck of these seeds is in it."""
    get, star = _in("scores", metric.name), (lambda arm: "*" * arm.picked)
    return Column(metric.name, metric.header, get, metric.interval, tables, mark=star, interval=True)


def _in(of: str, key: str) -> Callable[[Arm], Any]:
    """What an arm's ``settings``, ``scores`` or ``churn`` has under a key."""
    return lambda arm: getattr(arm, of).get(key)


def _costs() -> list[Column]:
    def held(key: str) -> Callable[[Arm], Any]:
        return lambda arm: costs.memory(arm).get(key)

    def of(path: str) -> Callable[[Arm], Any]:
        return lambda arm: arm.median(path)

    def adapter(arm: Arm) -> int | None:
        """What is trained beside the head; full fine-tuning has no adapter."""
        return None if methods.of(arm.method).trains == "all" else arm.first("params.adapter") or None

    def batch(arm: Arm) -> str | None:
        return costs.shapes(costs.memory(arm).get("batch")) or None

    system = zip(costs.SYSTEM, ("process peak MB", "allocator peak MB", "reserved peak MB"), strict=True)
    return [
        Column("adapter_params", "adapter params", adapter, fmt.si, "main paper"),
        Column("head_params", "head params", lambda a: a.first("params.head"), fmt.si, "wide"),
        Column("trainable_params", "trainable params", lambda a: a.first("params.trainable"), fmt.si),
        Column("total_params", "total params", lambda a: a.first("params.total"), fmt.si),
        Column("", "trained %", trainable_fraction, fmt.percent, "main"),
        Column("", "probed batch: rows × tokens", batch, tables="memory"),
        Column("", "peak in", held("phase"), tables="memory"),
        Column("predicted_peak_bytes", "predicted MB", costs.predicted_bytes, fmt.megabytes, "memory"),
        Column("train_peak_bytes", "peak MB", costs.peak_bytes, fmt.megabytes, "main paper memory"),
        Column("", "pred. error", costs.prediction_error, fmt.signed_percent, "main memory"),
        Column("eval_peak_bytes", "evaluation peak MB", lambda a: costs.peak_bytes(a, "eval"), fmt.megabytes, "memory"),
        *(Column(key, header, held(key), fmt.megabytes, "memory") for key, header in system),
        Column("flops_per_token", "FLOPs /token", of("compute.flops.per_token"), fmt.si, "compute"),
        Column("flops_of_full", "FLOPs /full", of("compute.flops.of_full"), fmt.ratio, "main paper compute"),
        Column(
            "break_even_rank",
            "break-even rank",
            of("compute.flops.break_even_rank"),
            lambda r: f"{r // 1:g}",
            "compute",
        ),
        Column("train_flops", "FLOPs of training", of("compute.flops.train_total"), fmt.si, "compute"),
        Column("mfu", "MFU %", of("compute.mfu"), fmt.percent, "compute"),
        Column("quant_error", "logit error of storage %", of("compute.quant_error"), fmt.percent, "compute"),
        Column("train_s", "train s", of("compute.seconds.train_s"), fmt.three, "main"),
        Column("total_s", "total s", of("compute.seconds.total_s"), fmt.three),
        Column("tokens_per_s", "tokens /s", of("compute.tokens_per_s"), fmt.si, "main"),
        Column("adapter_bytes", "adapter MB", of("storage.adapter_bytes"), fmt.megabytes, "wide"),
    ]


def _numbers(report: Report) -> list[Column]:
    """Every comparison in numbers."""
    metric, steps = report.metric, report.steps

    def of(get: Callable[[Comparison], Any]) -> Callable[[Arm], Any]:
        return lambda arm: get(comparison) if (comparison := report.comparison(arm)) else None

    def because(arm: Arm) -> str:
        return f": {c.reason}" if (c := report.comparison(arm)) and c.reason else ""

    def sequence(arm: Arm) -> str | None:
        if id(arm) not in steps:
            return None
        words = {True: "passed", False: "failed: the sequence stops", None: "not tested"}
        passed, reason = steps[id(arm)].passed, steps[id(arm)].reason
        return f"not judged: {reason}" if reason else words[passed]

    def span(c: Comparison) -> str | None:
        return f"{metric.difference(c.bootstrap.low)} … {metric.difference(c.bootstrap.high)}" if c.bootstrap else None

    def pairs(c: Comparison) -> str | None:
        return f"{c.seeds} × {c.items:,}" if c.items else None

    def boot(key: str) -> Callable[[Arm], Any]:
        return of(lambda c: c.bootstrap and getattr(c.bootstrap, key))

    return [
        Column("difference", "difference", of(lambda c: c.estimate), metric.difference, "numbers"),
        *(Column(f"difference_{key}", "", boot(key)) for key in ("se", "low", "high")),
        Column("", "90 % interval", of(span), tables="numbers"),
        Column("verdict", "verdict", lambda arm: report.verdict(arm) or None, tables="numbers", mark=because),
        Column("", "sequence from the largest down", sequence, tables="numbers"),
        Column(
            "detectable", "detectable at 80 % power", of(lambda c: c.detectable(report.level)), metric.width, "numbers"
        ),
        Column("difference_p_holm", "p of no difference (Holm)", of(lambda c: c.p_holm), _p, "numbers"),
        Column("", "seeds × items", of(pairs), tables="numbers"),
        *(
            Column(f"churn_{key}", header, _in("churn", key), fmt.percent, "numbers")
            for key, header in (("seeds", "churn between seeds %"), ("reference", f"churn from {report.short} %"))
        ),
    ]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _generation(report: Report) -> list[Column]:
    """What was written, where any arm wrote."""
    if not any(arm.median("compute.generation.prompts") or arm.first("metrics.absent") for arm in report.arms):
        return []
    metrics = [METRICS[name] for name in of_kind("text") if any(name in arm.scores for arm in report.arms)]
    took = "compute.generation."
    return [
        *(_score(m, "generation") for m in metrics),
        Column("", "prompts", lambda a: a.median(f"{took}prompts"), fmt.si, "generation"),
        Column("generated_tokens_per_s", "tokens /s", lambda a: a.median(f"{took}tokens_per_s"), fmt.si, "generation"),
        Column("", "seconds", lambda a: a.median(f"{took}seconds_s"), fmt.three, "generation"),
        Column("", "peak MB", lambda a: a.median("memory.generate.peak_bytes"), fmt.megabytes, "generation"),
    ]


def _forgetting(report: Report) -> list[Column]:
    """What was forgotten, where any arm was asked."""
    lost = {id(arm): loss for arm in report.arms if (loss := forgotten(arm))}
    if not lost:
        return []

    def of(get: Callable[[Any], Any]) -> Callable[[Arm], Any]:
        return lambda arm: get(lost[id(arm)]) if id(arm) in lost else None

    several = len({loss.texts for loss in lost.values()}) > 1
    return [
        *([Column("", "texts", of(lambda f: f.texts), tables="forgetting")] if several else []),
        Column("", "before", of(lambda f: f.metric.score(f.before.point)), tables="forgetting"),
        Column("", "after", of(lambda f: f.metric.interval(f.after)), tables="forgetting"),
        Column("forgetting", "forgetting", of(lambda f: f), lambda f: f.shown, "forgetting", interval=True),
        Column("", "cosines", of(lambda f: f.cosines and named("cosines").interval(f.cosines)), tables="forgetting"),
        Column("forgetting_measure", "", of(lambda f: f.measure)),
    ]


def _harness(report: Report) -> list[Column]:
    """What lm-evaluation-harness found, and by how much it differs from the base, where that was asked."""
    columns = []
    for name in sorted({name for arm in report.arms for name in arm.scores if ":" in name}):
        metric = named(name, *(arm.scores[name].mean for arm in report.arms if name in arm.scores))
        gained, unit = partial(_gained, metric), " pts" if metric.percent else ""
        columns.append(_score(metric, "harness"))
        columns.append(Column("", f"− base{unit}", gained, metric.difference, "harness"))
    return columns


def _gained(metric: Metric, arm: Arm) -> float | None:
    """The mean of the difference from the base, paired over items, over the runs that the score is of."""
    values = [cell["difference"]["value"] for _, cell in asked_alike(arm, metric.name) if cell.get("difference")]
    return sum(values) / len(values) if values else None
