"""Studies made up so that a claim comes out each of the three ways: a claim that cannot fail says nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_study import write_run

from rankwise.claims.claim import Claim
from rankwise.tracking.record import Record

ITEMS, TOKENS = 400, 10  # test items, and tokens of each where the metric is a loss
AGREE, DISAGREE = (0.0, 0.001, -0.001), (0.0, 0.06, -0.07)  # what three seeds add to a score
STEP = 0.1  # a difference that 400 items show


def study_of(claim: Claim, verdict: str) -> list[dict[str, Any]]:
    """Arms of a study whose runs give this verdict in both tiers."""
    makers = {"difference": _difference, "trend": _trend, "best_lr_ratio": _rates}
    return makers[claim.quantity](claim, verdict)


def grid(arm: dict[str, Any], *best: float) -> list[dict[str, Any]]:
    """An arm at several learning rates: the scores of each seed are a parabola of log10 of the rate, with this top."""
    rates = [10**power for power in np.arange(-5, -0.4, 0.5)]
    return [arm | {"lr": lr, "scores": [0.8 - 0.02 * (np.log10(lr) - top) ** 2 for top in best]} for lr in rates]


def _target(claim: Claim, verdict: str) -> float:
    """A value inside the bound, outside, or at its end, where disagreeing seeds decide nothing."""
    bound = claim.bound_in("full")
    end, away = (bound.high, STEP) if np.isfinite(bound.high) else (bound.low, -STEP)
    inside = (bound.low + bound.high) / 2 if bound.closed else end - away
    return {"reproduced": inside, "contradicted": end + away, "inconclusive": end}[verdict]


def _difference(claim: Claim, verdict: str) -> list[dict[str, Any]]:
    metric, tuned = claim.settings["metric"], claim.settings.get("tuned")
    seeds = DISAGREE if verdict == "inconclusive" else AGREE
    arms = []
    for key, sign in (("of", 1.0), ("minus", -1.0)):
        specs = claim.settings[key]
        for number, spec in enumerate(specs if isinstance(specs, list) else [specs]):
            middle = 0.7 + (sign * _target(claim, verdict) / 2 if number == 0 else 0.0)
            for lr, loss in ((1e-4, 0.2), (1e-3, 0.0), (1e-2, 0.2)) if tuned else ((None, 0.0),):
                scores = [middle - loss + sign * seed for seed in seeds]
                told = "forgetting" if metric == "forgetting" else "scores"
                arms.append(spec | ({"lr": lr} if lr else {}) | {told: scores})
    return arms


def _trend(claim: Claim, verdict: str) -> list[dict[str, Any]]:
    slopes = {"reproduced": (1, 1, 1), "contradicted": (-1, -1, -1), "inconclusive": (1, -1, 0)}[verdict]
    return [
        claim.settings["among"] | {"rank": rank, "forgetting": [0.02 * slope * number for slope in slopes]}
        for number, rank in enumerate(claim.settings["ranks"])
    ]


def _rates(claim: Claim, verdict: str) -> list[dict[str, Any]]:
    low, high = np.log10([claim.bound.low, claim.bound.high])
    apart = {"reproduced": (low + high) / 2, "contradicted": high + 0.7, "inconclusive": high}[verdict]
    seeds = np.array((0.0, 0.3, -0.3) if verdict == "inconclusive" else (0.0, 0.02, -0.02))
    return [*grid(claim.settings["of"], *(-2.5 + seeds)), *grid(claim.settings["to"], *(-2.5 - apart - seeds))]


def records(claim: Claim, arms: list[dict[str, Any]], folder: Path) -> list[Record]:
    """A run per arm and seed. An arm has ``scores``, one a seed, or ``forgetting``; the rest says which arm it is."""
    metric = str(claim.settings.get("metric", "accuracy"))
    values = [(arm, seed, value) for arm in arms for seed, value in enumerate(arm.get("forgetting") or arm["scores"])]
    return [_record(str(claim.study), arm, seed, metric, float(value), folder) for arm, seed, value in values]


def _record(study: str, keys: dict[str, Any], seed: int, metric: str, value: float, folder: Path) -> Record:
    hardness = np.random.default_rng(7).permutation(ITEMS)  # the same items are hard for all
    task = "accuracy" if metric == "forgetting" else metric
    changes = {f"{group}__name": keys[group] for group in ("targets", "quant") if group in keys}
    changes |= {f"method__{key}": keys.get(key) for key in ("alpha", "budget", "init")}
    changes |= {"task__metric": task, "task__n_train": keys.get("n_train"), "seed": seed, "study": study}
    told = {"correct": hardness < round(value * ITEMS), "objective": 0.5 if metric == "forgetting" else value}
    lr = float(keys.get("lr", 1e-3))
    record = write_run(folder, keys.get("method", "lora"), lr=lr, measured=False, **told, **changes)
    record.run["study"], record.config["objective"] = study, f"val/{task}"
    record.config["method"]["rank"] = keys.get("rank")
    if metric == "forgetting":
        record.metrics = {"forgetting": {"measure": "loss", "difference": {"value": value}}}
    elif metric != "accuracy":  # a loss of tokens
        noise = 1 + 0.1 * (hardness / (ITEMS - 1) - 0.5)
        columns = {"label": np.full(ITEMS, TOKENS), "score": value * TOKENS * noise}
        pq.write_table(pa.table({"item": np.arange(ITEMS), **columns}), record.folder / "predictions.parquet")
        record.metrics["test"] = {metric: {"value": value}}
    return record
