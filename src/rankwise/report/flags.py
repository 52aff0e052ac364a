"""What a reader must know before believing a row: each flag is one short sentence. Some forbid a conclusion."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special

from rankwise.compare import NotComparable, Scores, replicate
from rankwise.errors import plural
from rankwise.metrics import Metric
from rankwise.report.arms import UNDER_TRAINED, Arm, Context, asked_alike, beside
from rankwise.report.equivalence import MISSING, Comparison
from rankwise.report.forgetting import forgotten
from rankwise.report.formats import percent, rate
from rankwise.tracking.fields import at
from rankwise.tracking.record import Record

NOT_RANKED = "not comparable, not ranked"  # the first words of a row that differs in more than its arm
TOO_FEW = "too few seeds or test rows"  # the last words of that reason, which more of them may end
DISTURBED = "disturbed"  # the first word of a row whose seconds say nothing
_KEYS = 4  # shown of those in which a row differs; report.json has all
_VARIETY = 0.1  # of the labels' standard deviation: below, predictions hardly vary
_LITTLE = 0.2  # of the way from the best constant answer to a perfect one
_FALL = 0.03  # of all that the loss fell since the start: less in the last fifth is the end of a curve
_Z95 = 1.645  # of a one-sided 5 % test
_PLACES = {  # what computed, by device: what it is called, and where records have it
    "processor": ("cpu", "provenance.hardware.cpu"),
    "threads": ("cpu", "compute.threads"),
    "GPU": ("cuda", "provenance.hardware.gpus"),
}
_ELSEWHERE = "computed with other threads or hardware, where the same run has other last digits"
_MFU = 0.75  # of what the best of such runs reached: below, something else ran beside
_LONG_S = 2.0  # of training; what is shorter says nothing of a machine
Kind = tuple[str, Context]  # of arms that are as fast as each other: their family and context


def find_unfit(arms: list[Arm], reference: Arm | None, scores: Scores, metric: Metric) -> None:
    """Fill what may be concluded from an arm, and ``arm.unfit``: why not all, the gravest reason.

    What can have made it look worse than it is forbids to call it worse: too few steps, and fewer learning rates than
    the reference had. More of them can have made it look better, which forbids to call it enough. A collapse can have
    made it look worse as well, but at its rate it is what it is: only a reference is none with it.
    """
    for arm in arms:
        reasons, unequal = list(unfit(arm, metric, scores)), _trials(arm, reference)
        reasons += collapse(arm.runs) if arm is reference else []
        short = [reason for reason in reasons if reason.startswith(UNDER_TRAINED)]
        grave = [reason for reason in reasons if reason not in short]
        more = unequal if reference and arm.tried > reference.tried else []
        fewer = unequal if reference and max(arm.tried, arm.searched) < reference.tried else []
        arm.may_pass, arm.may_fail = not grave + more, not grave + short + fewer
        arm.unfit = next(iter([*grave, *more, *short, *fewer]), "")


def flag(arms: list[Arm], reference: Arm | None, comparisons: dict[int, Comparison], metric: Metric) -> None:
    """Fill ``arm.flags`` of every arm."""
    mfus: dict[Kind, list[float]] = defaultdict(list)
    for arm in arms:
        mfus[arm.family, arm.context] += _mfus(arm)
    best = {kind: max(reached) for kind, reached in mfus.items() if reached}  # nothing that runs beside adds to it
    rivals = [arm for arm in arms if reference and arm.key == reference.key and not arm.comparable]
    why = ", of most runs" * any(0 < len(arm.runs) < len(reference.runs) for arm in rivals if reference)
    for arm in arms:
        untimed = [*_elsewhere(arm, reference or arm), *_slow(arm, best)]
        arm.timed = not untimed
        flags = [
            *_context(arm, f"reference{why}" if reference else beside(arms)),
            *(["optimistic: chosen on the reported rows (task.protocol=paper)"] * arm.optimistic),
            *_unscored(arm),
            *([arm.unfit] if arm.unfit else []),
            *of_training(arm, metric),
            *_trials(arm, reference),
            *_seeds(arm, reference, comparisons.get(id(arm))),
            *_asked_otherwise(arm),
            *untimed,
        ]
        arm.flags = list(dict.fromkeys(flags))


def of_training(arm: Arm, metric: Metric) -> list[str]:
    """How the training of an arm's runs went wrong: what its score cannot be taken at face value for."""
    lost = sum((run.scores.get(metric.name) or {}).get("value") is None for run in arm.runs)
    asked = any(metric.name in run.scores for run in arm.runs)  # another task may have no such score
    missing = [f"{lost}/{len(arm.runs)} without a finite score, not in the mean"] if lost and asked else []
    return [*unfit(arm, metric, None), *collapse(arm.runs), *missing, *lr_edge(arm), *_cut_short(arm)]


def unfit(arm: Arm, metric: Metric, scores: Scores | None) -> Iterator[str]:
    """Why nothing may be concluded from an arm: it diverged, says one thing, learned nothing or was cut short.

    Without ``scores`` only what the records say.
    """
    n = len(arm.runs)
    if diverged := sum(bool(run.compute.get("diverged")) for run in arm.runs):
        yield f"diverged {diverged}/{n}"
    if constant := sum(map(is_constant, arm.runs)):
        yield f"{constant}/{n} give one answer to every text"
    elif scores:
        yield from _learned_nothing(arm, metric, scores)
    if not arm.is_baseline and (fall := still_falling(arm.runs)):
        yield f"{UNDER_TRAINED}: validation loss still falls, by {fall:.2g} in the last fifth of the steps"


def is_constant(run: Record) -> bool:
    """Whether it says one thing: Matthews' correlation is then 0 on any resample, too, so that its error is 0."""
    return at(run, "metrics.test.matthews.value") == 0 == at(run, "metrics.test.matthews.se")


def is_no_better(run: Record) -> bool:
    """Whether the correlation with the validation labels, 0 for any one answer, is not above it at one-sided 5 %."""
    pairs = ([at(run, f"metrics.validation.{of}.{key}") for key in ("value", "se")] for of in ("matthews", "pearson"))
    return any(None not in pair and pair[0] <= _Z95 * pair[1] for pair in pairs)


def collapse(runs: Sequence[Record]) -> list[str]:
    """How many runs fell back to one answer after the step that is scored, as one reason; none where none did.

    The correlation with the labels tells, which is 0 for any one answer, whatever their frequencies: at the last
    validation it is not above 0 at one-sided 5 %, and at the chosen one it was higher by 0.2 and beyond chance. A loss
    that rises while answers stay right is that of a run which is too sure of itself, and no collapse.
    """
    steps = [f"step {at(run, 'metrics.best_step')} of {run.compute.get('steps')}" for run in runs if _fell(run)]
    if not steps:
        return []
    then = f"the best was at {' and '.join(dict.fromkeys(steps))}; a lower method.lr may help"
    share = f"{len(steps)}/{len(runs)}"
    return [f"{share} collapsed: the last validation is no better than one answer to every text, {then}"]


def _fell(run: Record) -> bool:
    last: dict[str, Any] = next(reversed(run.metrics.get("curve") or []), {})
    for name in ("matthews", "pearson"):
        values = [at(run, f"metrics.validation.{name}.{key}") for key in ("value", "se")]
        values += [last.get(f"val/{name}{end}") for end in ("", "_se")]
        if None not in values:
            best, best_se, end, end_se = values
            return bool(
                end <= _Z95 * end_se and best - max(end, 0.0) > max(_LITTLE, _Z95 * math.hypot(best_se, end_se))
            )
    return False


def _learned_nothing(arm: Arm, metric: Metric, scores: Scores) -> Iterator[str]:
    varied = [variety for run in arm.runs if (variety := scores.variety(run)) is not None]
    if little := [variety for variety in varied if variety < _VARIETY]:
        of = f" of {len(little)}/{len(arm.runs)}" if len(little) < len(arm.runs) else ""
        yield f"predictions{of} hardly vary (standard deviation {min(little):.2g} of the labels')"
        return
    try:
        above = scores.above_constant(arm.runs)
    except NotComparable:
        return
    constant = scores.constant(arm.runs) or 0.0
    best = metric.low if metric.lower_is_better else metric.high
    small = above.estimate < _LITTLE * abs(best - constant)
    if above.low <= 0:
        answer = "the median" if metric.lower_is_better else "one class"
        other = "no correlation" if metric.low < 0 else f"always answering {answer} ({metric.with_unit(constant)})"
        groups = max(at(run, f"metrics.test.{metric.name}.clusters") or 0 for run in arm.runs)
        few = f"test rows are of {plural(groups, 'group')}, each of which counts as one: " if groups else ""
        why = "it may have learned nothing" if small else few + TOO_FEW
        yield f"not shown to be better than {other}: {why}"
    elif small:  # what is right more often may be but too sure of itself
        yield from _no_less_loss(arm.runs, scores.entropy(arm.runs))


def _no_less_loss(runs: list[Record], entropy: float | None) -> Iterator[str]:
    """Whether the test loss is not shown to be less than that of the label frequencies, at one-sided 5 % over items."""
    cells = [cell for run in runs if (cell := at(run, "metrics.test.loss")) and None not in cell.values()]
    if entropy is None or not cells:
        return
    loss, error = (float(np.mean([cell[key] for cell in cells])) for key in ("value", "se"))
    if loss + _Z95 * error >= entropy:
        yield (
            f"test loss {loss:.3g} ± {error:.2g} nats, not shown to be less than that of the label frequencies alone "
            f"({entropy:.3g}): it learned next to nothing"
        )


def still_falling(runs: list[Record]) -> float:
    """By how much the validation loss falls in the last fifth of the steps, where that is beyond chance; else 0.

    Over several seeds the fall is tested by Student's t at one-sided 5 %; of one run by its standard error over
    validation rows, paired as both losses are of the same rows. Where no validation lies a fifth before the last, that
    fifth's share of the fall since the one before is taken. Falls of less than 3 % of the whole descent are the end of
    a curve; it begins at the loss of the first steps, since a run may learn most before its first validation, or be
    thrown back by then.
    """
    ends = [end for run in runs if (end := _last_fifth(run))]
    if not ends:
        return 0.0
    falls, wholes = np.array([end[0] for end in ends]), np.array([end[1] for end in ends])
    fall, n = float(falls.mean()), len(ends)
    error = float(special.stdtrit(n - 1, 0.95) * falls.std(ddof=1) / math.sqrt(n)) if n > 1 else _Z95 * ends[0][2]
    return fall if fall > error and fall > _FALL * wholes.mean() else 0.0


def _last_fifth(run: Record) -> tuple[float, float, float] | None:
    """The fall in the last fifth of the steps, the fall since the start, and the standard error of the first."""
    rows: list[dict[str, Any]] = [row for row in run.metrics.get("curve") or [] if row.get("val/loss") is not None]
    rows.sort(key=lambda row: row["step"])
    steps = run.compute.get("steps") or (rows[-1]["step"] if rows else 0)
    before = [row for row in rows if row["step"] <= 0.8 * steps]
    errors, start = [row.get("loss_fall_se") for row in rows[len(before) :]], run.metrics.get("first_loss")
    if not before or None in errors or start is None:
        return None
    last, earlier = rows[-1], before[-1]
    share = min(1.0, 0.2 * steps / (last["step"] - earlier["step"])) if errors else 0.0
    error = sum(filter(None, errors))  # of falls that share a validation, at most their sum
    return share * (earlier["val/loss"] - last["val/loss"]), start - last["val/loss"], share * error


def _context(arm: Arm, beside: str) -> list[str]:
    """Keys that differ from what it is set beside, with both values; the first few, as another model has many."""
    if arm.comparable:
        return []
    models = [key for key in arm.differs if key.startswith("model.")]
    is_other = bool(set(models) - {"model.fingerprint", "model.revision"})
    other = [f"another model ({arm.first('config.model.name')})"] * is_other
    differs = {key: values for key, values in arm.differs.items() if not other or key not in models}
    pairs = other + [f"{key}={_short(here)} ({beside}: {_short(there)})" for key, (here, there) in differs.items()]
    more = f" and {plural(len(pairs) - _KEYS, 'more key')}" if len(pairs) > _KEYS else ""
    return [f"{NOT_RANKED}: {', '.join(pairs[:_KEYS])}{more}"]


def _short(value: str) -> str:
    text = value.strip('"')
    return text if len(text) <= 24 else f"{text[:23]}…"


def _unscored(arm: Arm) -> list[str]:
    counts = Counter(run.status for run in arm.unscored)
    return [f"{counts[status]} {status}" for status in ("failed", "stopped", "running") if counts[status]]


def lr_edge(arm: Arm) -> list[str]:
    grid = sorted({lr for part in arm.rounds for lr in part.whole})
    if arm.lr is None or len(grid) < 2 or arm.lr not in (grid[0], grid[-1]):
        return []
    return [f"lr at the edge of its grid ({rate(grid[0])} … {rate(grid[-1])}): the best may lie outside"]


def _cut_short(arm: Arm) -> list[str]:
    """Learning rates with fewer seeds than the others: the choice was made without them."""
    most = max((trial.n for trial in arm.trials), default=0)
    fewer = [f"{rate(trial.lr)} ({trial.n})" for trial in arm.trials if trial.n < most]
    return [f"not chosen from, fewer seeds than {most}: lr {', '.join(fewer)}"] if fewer else []


def _trials(arm: Arm, reference: Arm | None) -> list[str]:
    if reference is None or arm.is_baseline or not (arm.comparable and arm.runs) or arm.tried == reference.tried:
        return []
    return [f"unequal tuning: {plural(arm.tried, 'learning rate')} tried, {reference.called} had {reference.tried}"]


def _seeds(arm: Arm, reference: Arm | None, comparison: Comparison | None) -> list[str]:
    if reference is None or comparison is None:
        return []
    if comparison.verdict == MISSING:
        return [f"{MISSING} with {reference.called}: {comparison.reason}"]
    mine, theirs = {replicate(run) for run in arm.runs}, set(reference.replicates())
    if mine == theirs:
        return []
    return [
        f"compared on {plural(len(mine & theirs), 'shared seed')}: it has {len(mine)}, {reference.called} {len(theirs)}"
    ]


def _asked_otherwise(arm: Arm) -> list[str]:
    """Scores of which some runs' are of other rows, after other examples or of text that was written otherwise."""
    others: dict[int, list[str]] = defaultdict(list)
    for metric in sorted({name for run in arm.runs for name in run.scores}):
        alike = {id(run) for run, _ in asked_alike(arm, metric)}
        if n := sum(bool(run.scores.get(metric)) and id(run) not in alike for run in arm.runs):
            others[n].append(metric)
    how = "another number of rows or shots, or another task.generation"
    said = [(n, f"with {how}, not in the mean of {', '.join(metrics)}") for n, metrics in others.items()]
    if (lost := forgotten(arm)) and lost.others:
        said.append((lost.others, "on other texts, not in the mean of forgetting"))
    return [f"{n}/{len(arm.runs)} asked {what}" for n, what in said]


def _elsewhere(arm: Arm, reference: Arm) -> list[str]:
    """Processors, threads or GPUs that are several, or not the reference's: one config's last bits follow from them."""
    said = []
    for what, of_device in _PLACES.items():
        mine, theirs = (_computed_on(one, *of_device) for one in (arm, reference))
        if mine and len({*mine, *theirs}) > 1:
            other = "" if mine == theirs else f" (reference: {' and '.join(theirs)})"
            said.append(f"{what} {' and '.join(mine)}{other}")
    return [f"{_ELSEWHERE}: {', '.join(said)}"] if said else []


def _computed_on(arm: Arm, device: str, path: str) -> list[str]:
    """What stands at a path of the runs that a kind of device computed."""
    places = (at(run, path) for run in arm.runs if at(run, "compute.device") == device)
    names = (", ".join(sorted(set(place))) if isinstance(place, list) else str(place) for place in places if place)
    return sorted(set(names))


def _slow(arm: Arm, best: dict[Kind, float]) -> list[str]:
    """Seconds that cannot be compared: the device did much less in them than it can with such arms, which may
    differ in rank alone: storage, targets and precision change how fast the same operations are.
    """
    mine, like = _mfus(arm), best.get((arm.family, arm.context), 0.0)
    if not mine or min(mine) >= _MFU * like:
        return []
    than = f"under {percent(_MFU)} % of the {percent(like)} % that another reached"
    return [f"{DISTURBED}: MFU of a run {than}; its FLOPs are its own, its seconds not"]


def _mfus(arm: Arm) -> list[float]:
    trained = (run for run in arm.runs if (at(run, "compute.seconds.train_s") or 0) >= _LONG_S)
    return [mfu for run in trained if (mfu := at(run, "compute.mfu"))]
