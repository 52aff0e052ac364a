"""The report in sentences: the headline, and how the comparison was made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rankwise.compare import REPLICATES
from rankwise.metrics import Metric
from rankwise.report.arms import Arm, dig
from rankwise.report.costs import peak_bytes
from rankwise.report.equivalence import ONE_SEED, Comparison
from rankwise.report.formats import percent, rate, si
from rankwise.report.sufficiency import Step, Sufficiency
from rankwise.tracking.record import FINISHED, Record


@dataclass(frozen=True)
class Headline:
    """The answer in one sentence, what it costs beside full fine-tuning, and the sentences that qualify it."""

    title: str
    cost: str = ""
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(filter(None, [self.title, self.cost, *self.details]))


def headline(families: list[Sufficiency], reference: Arm | None, metric: Metric) -> Headline:
    """The smallest sufficient rank of the first family; other families follow as details."""
    if reference is None:
        return Headline("No conclusion: there is no finished run of full fine-tuning to compare with.")
    if not families:
        return Headline("No conclusion: there is no finished adapter run to compare with full fine-tuning.")
    several = len(families) > 1
    best = min(families, key=lambda f: f.answer.rank if f.answer else 10**9)
    cost = _cost(best.answer, reference) if best.answer else ""
    details = _details(best, metric)
    for family in families:
        if family is not best:
            details += [_title(family, metric, named=True), *_details(family, metric)]
    return Headline(_title(best, metric, named=several), cost, tuple(details))


def _title(family: Sufficiency, metric: Metric, named: bool) -> str:
    where = f" ({family.label})" if named else ""
    margin = f"{metric.width(family.margin)}{' of' if metric.percent else ''} {metric.name}"
    if not family.conclusive:
        return f"{family.reason[0].upper()}{family.reason[1:]}{where}."
    if family.answer:
        return f"Rank {family.answer.rank} is enough{where}: not worse than full fine-tuning by {margin} or more."
    largest = family.steps[0]
    why = f"even rank {largest.rank} may be worse than full fine-tuning by {margin} or more"
    if largest.comparison.bootstrap is None:
        why = f"rank {largest.rank} could not be tested ({largest.comparison.reason or 'one shared seed'})"
    return f"No rank was shown to be enough{where}: {why}."


def _details(family: Sufficiency, metric: Metric) -> list[str]:
    if not family.conclusive:
        points = [f"r={s.rank} {metric.difference(s.comparison.estimate)}" for s in reversed(family.steps)]
        points = [point for point, step in zip(points, reversed(family.steps), strict=True) if step.comparison.items]
        unit = metric.difference_unit
        shown = [f"Differences from full fine-tuning on it, {unit}: {', '.join(points)}."] if points else []
        return [*shown, "Two or more shared seeds allow a conclusion: run with seed=0,1,2."]
    pairs = max((s.comparison for s in family.steps if s.comparison.bootstrap), key=lambda c: c.seeds)
    shares = [f"{_whole(s.share)} for rank {s.rank}" for s in reversed(family.steps) if s.share >= 0.005]
    none = [f"{_whole(family.none_share)} for none"] if family.none_share >= 0.005 else []
    details = [
        f"Tested one-sided at 5 % on {pairs.seeds} seeds × {pairs.items:,} test items.",
        f"Bootstrap distribution of the answer: {', '.join(shares + none)}.",
    ]
    if family.detectable is not None:
        details.append(f"Minimum detectable deficit at 80 % power: {metric.width(family.detectable)}.")
    return details


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _cost(step: Step, reference: Arm) -> str:
    """What the sufficient rank costs beside full fine-tuning."""
    arm, parts = step.arm, []
    trainable, total = arm.first("params.trainable"), reference.first("params.trainable")
    if trainable and total:
        parts.append(f"trains {percent(trainable / total)} % of the parameters ({si(trainable)} of {si(total)})")
    took = "compute.seconds.train_s"
    for mine, theirs, words in (
        (peak_bytes(arm), peak_bytes(reference), "peak memory"),
        (arm.median(took), reference.median(took), "training time"),
    ):
        if mine and theirs:
            parts.append(f"takes {percent(mine / theirs)} % of the {words}")
    return f"It {' and '.join([', '.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)}." if parts else ""


def notes(
    records: list[Record], arms: list[Arm], reference: Arm | None, metric: Metric, margins: list[float],
    comparisons: dict[int, Comparison],
) -> list[str]:  # fmt: skip
    """How this was compared, one sentence or two each."""
    kept = [_counts(records, arms), *_budget(reference or arms[0]), *_seeds(arms), _rates(arms)]
    kept += _margin(margins, metric)
    others = sum(not arm.comparable for arm in arms)
    if others:
        kept.append(f"{others} row(s) differ from the reference in more than the arm: shown with the key, not ranked.")
    if metric.lower_is_better:
        kept.append(f"Lower {metric.name} is better: an arm whose difference from full fine-tuning is positive lost.")
    if reference is None:
        return [*kept, "Full fine-tuning is missing, so there is no difference, no verdict and no sufficient rank."]
    if any(c.verdict == ONE_SEED for c in comparisons.values()):
        kept.append("With one shared seed differences are points without an interval: seeds alone could explain them.")
    return kept + _TESTS


_TESTS = [
    "Scores: 95 % t-interval over seeds; with one run (or runs that all agree) the interval is over test items only.",
    "Differences from full fine-tuning are paired by seed and test item; their intervals combine "
    f"Student's t over seeds with {REPLICATES:,} bootstrap replicates over items (Zou and Donner 2008).",
    "Verdicts: two one-sided 5 % tests (Schuirmann 1987). “same” if the 90 % interval lies inside ± margin, “worse” or "
    "“better” if wholly outside, else “inconclusive”. Not finding a difference is not finding sameness.",
    "Smallest sufficient rank: one-sided 5 % non-inferiority from the largest rank down, stopping at the first "
    "failure, which holds the chance of naming an insufficient rank to 5 % without further correction.",
    "p-values of “no difference from full” are corrected for the number of arms (Holm 1979).",
]  # fmt: skip


def _counts(records: list[Record], arms: list[Arm]) -> str:
    counts = Counter(record.status for record in records)
    scored = sum(len(arm.runs) for arm in arms)
    aside = counts[FINISHED] - scored
    which = f", {scored} of them at their arm's chosen learning rate" if aside else ""
    text = f"{counts[FINISHED]} runs finished{which}."
    other = [f"{counts[s]} {s}" for s in sorted(counts) if s != FINISHED]
    return text + (f" Listed but not scored: {', '.join(other)}." if other else "")


def _budget(arm: Arm) -> list[str]:
    config = (arm.runs or arm.unscored)[0].config
    trainer, steps = config.get("trainer") or {}, arm.median("compute.steps")
    if not trainer:
        return []
    length = f"{steps:.0f} steps" if steps else f"{trainer.get('epochs')} epochs"
    batch = (trainer.get("batch_size") or 0) * (trainer.get("accumulate") or 1)
    precision = arm.first("compute.precision") or trainer.get("precision")
    where = arm.first("compute.device") or trainer.get("device")
    budget = f"Equal budget: {length} of {batch} sequences, {precision} on {where}"
    if arm.optimistic:
        return [
            f"{budget}. Protocol “paper”: the checkpoint is chosen on the very test rows that are reported, as in many "
            "papers. Scores are medians over seeds, and optimistic; differences and verdicts are of means."
        ]
    return [f"{budget}; the checkpoint is chosen on validation."]


def _seeds(arms: list[Arm]) -> list[str]:
    runs = [run for arm in arms if arm.comparable for run in arm.runs]
    if not runs:
        return []
    seeds = sorted({run.config.get("seed", 0) for run in runs})
    data = sorted({run.config.get("data_seed", 0) for run in runs})
    items = sorted({n for run in runs for cell in (run.metrics.get("test") or {}).values() if (n := cell.get("n"))})
    kept = [f"Seeds {', '.join(map(str, seeds))}; data seeds {', '.join(map(str, data))}; arms are paired by both."]
    return kept + ([f"Test set: {' or '.join(f'{n:,}' for n in items)} items."] if items else [])


def _rates(arms: list[Arm]) -> str:
    grids = {tuple(t.lr for t in arm.trials) for arm in arms if arm.comparable and arm.lr is not None}
    if all(len(grid) < 2 for grid in grids):
        return "One learning rate per arm, each method's default: not tuned, so a better rate may change the order."
    sizes = sorted({len(grid) for grid in grids})
    shown = " or ".join(map(str, sizes))
    low, high = min(min(g) for g in grids if g), max(max(g) for g in grids if g)
    return f"Per arm the best of {shown} learning rates ({rate(low)} to {rate(high)}) by mean validation objective."


def _margin(margins: list[float], metric: Metric) -> list[str]:
    if len(margins) > 1:
        given = ", ".join(metric.width(m) for m in margins)
        return [f"The runs disagree on the margin ({given}); the smallest is used."]
    return [f"Margin of sameness, set in the config before the run: {metric.width(margins[0])}."] if margins else []


def provenance(records: list[Record]) -> list[tuple[str, str]]:
    """What the runs were made with: (what, values), each value that occurs, most frequent first."""
    asked = ("provenance.git", "provenance.code", "provenance.python", "provenance.packages", "provenance.hardware",
             "run.host", "provenance.model", "provenance.data")  # fmt: skip
    rows = []
    for path in asked:
        seen = Counter(_flat(value) for record in records if (value := dig(record, path)))
        shown = [text if len(seen) == 1 else f"{text} ({n} runs)" for text, n in seen.most_common(4)]
        more = [f"and {len(seen) - 4} more"] if len(seen) > 4 else []
        if shown:
            rows.append((path.split(".")[1], "; ".join(shown + more)))
    return rows


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(v)}" for key, v in value.items() if v not in (None, "", {}, []))
    return ", ".join(map(_flat, value)) if isinstance(value, list) else str(value)
