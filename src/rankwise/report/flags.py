"""What a reader must know before believing a row: each flag is one short sentence."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rankwise.compare import replicate
from rankwise.metrics import Metric
from rankwise.report.arms import Arm, dig
from rankwise.report.equivalence import MISSING, Comparison
from rankwise.report.formats import rate
from rankwise.tracking.record import Record

_KEYS = 4  # shown of those in which a row differs; report.json has all


def flag(arms: list[Arm], reference: Arm | None, comparisons: dict[int, Comparison], metric: Metric) -> None:
    """Fill ``arm.flags`` of every arm."""
    usual = _usual_trials(arms, reference)
    for arm in arms:
        arm.flags = [
            *_context(arm),
            *_protocol(arm),
            *_unscored(arm),
            *of_training(arm, metric),
            *_trials(arm, usual, reference),
            *_seeds(arm, reference, comparisons.get(id(arm))),
        ]


def of_training(arm: Arm, metric: Metric) -> list[str]:
    """How the training of an arm's runs went wrong: what its score cannot be taken at face value for."""
    return [*_diverged(arm, metric), *_one_answer(arm), *_under_trained(arm), *_lr_edge(arm), *_cut_short(arm)]


def _context(arm: Arm) -> list[str]:
    """Keys that differ from the reference's, with both values; the first few, as another model differs in many."""
    if arm.comparable:
        return []
    pairs = [f"{key}={_short(here)} (reference: {_short(there)})" for key, (here, there) in arm.differs.items()]
    more = f" and {len(pairs) - _KEYS} more keys" if len(pairs) > _KEYS else ""
    return [f"not comparable, not ranked: {', '.join(pairs[:_KEYS])}{more}"]


def _protocol(arm: Arm) -> list[str]:
    return ["optimistic: chosen on the reported rows (task.protocol=paper)"] if arm.optimistic else []


def _short(value: str) -> str:
    text = value.strip('"')
    return text if len(text) <= 24 else f"{text[:23]}…"


def _unscored(arm: Arm) -> list[str]:
    counts = Counter(run.status for run in arm.unscored)
    return [f"{counts[status]} {status}" for status in ("failed", "stopped", "running") if counts[status]]


def _diverged(arm: Arm, metric: Metric) -> list[str]:
    diverged = sum(bool(run.compute.get("diverged")) for run in arm.runs)
    lost = sum(dig(run, f"metrics.test.{metric.name}.value") is None for run in arm.runs)
    flags = [f"diverged {diverged}/{len(arm.runs)}"] if diverged else []
    return flags + ([f"{lost}/{len(arm.runs)} without a finite score, not in the mean"] if lost else [])


def _one_answer(arm: Arm) -> list[str]:
    """Runs of a classifier that says the same of every text: its Matthews correlation is 0 by definition."""
    lost = sum(dig(run, "metrics.test.matthews.value") == 0 for run in arm.runs)
    return [f"{lost}/{len(arm.runs)} give one answer to every text"] if lost else []


def _under_trained(arm: Arm) -> list[str]:
    falling = sum(still_falling(run) for run in arm.runs)
    return [f"under-trained {falling}/{len(arm.runs)}: validation loss still falls"] if falling else []


def still_falling(run: Record) -> bool:
    """Whether the validation loss fell by more than its standard error in the last fifth of the steps.

    Where no validation lies a fifth before the last one, that fifth's share of the fall since the one before it is
    taken: too much, as losses level off, so it errs towards a warning.
    """
    rows: list[dict[str, Any]] = [row for row in run.metrics.get("curve") or [] if row.get("val/loss") is not None]
    if not rows:
        return False
    last = max(rows, key=lambda row: row["step"])
    steps = run.compute.get("steps") or last["step"]
    before = [row for row in rows if row["step"] <= 0.8 * steps]
    if not before or last.get("val/loss_se") is None:
        return False
    earlier = max(before, key=lambda row: row["step"])
    share = min(1.0, 0.2 * steps / (last["step"] - earlier["step"]))
    return bool(share * (earlier["val/loss"] - last["val/loss"]) > last["val/loss_se"])


def _lr_edge(arm: Arm) -> list[str]:
    grid = [trial.lr for trial in arm.trials]
    if arm.lr is None or len(grid) < 2 or arm.lr not in (grid[0], grid[-1]):
        return []
    return [f"lr at the edge of its grid ({rate(grid[0])} … {rate(grid[-1])}): the best may lie outside"]


def _cut_short(arm: Arm) -> list[str]:
    """Learning rates with fewer seeds than the others: the choice was made without them."""
    most = max((trial.n for trial in arm.trials), default=0)
    fewer = [f"{rate(trial.lr)} ({trial.n})" for trial in arm.trials if trial.n < most]
    return [f"not chosen from, fewer seeds than {most}: lr {', '.join(fewer)}"] if fewer else []


def _usual_trials(arms: list[Arm], reference: Arm | None) -> int:
    """How many learning rates full fine-tuning had; without it, the most frequent number."""
    if reference is not None:
        return len(reference.trials)
    counts = Counter(len(arm.trials) for arm in arms if arm.comparable and arm.runs and not arm.is_baseline)
    return counts.most_common(1)[0][0] if counts else 0


def _trials(arm: Arm, usual: int, reference: Arm | None) -> list[str]:
    if arm.is_baseline or not arm.comparable or not arm.runs or len(arm.trials) == usual:
        return []
    against = "full fine-tuning had" if reference is not None else "most arms had"
    return [f"unequal tuning: {len(arm.trials)} learning rate(s) tried, {against} {usual}"]


def _seeds(arm: Arm, reference: Arm | None, comparison: Comparison | None) -> list[str]:
    if reference is None or comparison is None:
        return []
    if comparison.verdict == MISSING:
        return [f"{MISSING} with full fine-tuning: {comparison.reason}"]
    mine, theirs = {replicate(run) for run in arm.runs}, set(reference.replicates())
    if mine == theirs:
        return []
    return [f"compared on {len(mine & theirs)} shared seed(s): it has {len(mine)}, full fine-tuning {len(theirs)}"]
