"""Studies made up so that a claim comes out each of the three ways: a claim that cannot fail is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankwise.claims.bounds import VERDICTS
from rankwise.claims.claim import TIERS, Claim
from rankwise.claims.judge import answer
from rankwise.config import Config, Method, Model, Optim, Quant, Targets, Task, plain
from rankwise.errors import Refused
from rankwise.tracking.groups import RunInfo
from rankwise.tracking.record import FINISHED, Record

ITEMS, TOKENS = 200, 10  # test items, and tokens of each where the metric is a loss


def prove(claim: Claim) -> None:
    """Try the three cases against the bounds of both tiers.

    Raises Refused, naming the case, where one comes out otherwise than it is called.
    """
    for verdict in VERDICTS:
        low, high = interval_of(claim, verdict)
        for tier in TIERS:
            found = claim.bound_in(tier).verdict(low, high)
            if found != verdict:
                where = f"{claim.file}: synthetic.{verdict}"
                raise Refused(f"{where}: comes out {found} in the {tier} tier ({low:.4g} to {high:.4g})")


def interval_of(claim: Claim, verdict: str) -> tuple[float, float]:
    """The interval of the quantity in the case that should come out as ``verdict``."""
    case = claim.synthetic[verdict]
    if "arms" not in case:
        low, high = (float(case[key] if key in case else case["value"]) for key in ("low", "high"))
        return low, high
    with tempfile.TemporaryDirectory() as folder:
        found = answer(claim, records(claim, case["arms"], Path(folder)), "quick")
    if found.estimate is None:
        raise Refused(f"{claim.file}: synthetic.{verdict}: not run ({found.reason})")
    return found.estimate.low, found.estimate.high


def records(claim: Claim, arms: list[dict[str, Any]], folder: Path) -> list[Record]:
    """A run per arm and seed. An arm has ``scores``, one a seed, or ``forgetting``; the rest says which arm it is."""
    metric = str(claim.settings.get("metric", "accuracy"))
    found = []
    for number, arm in enumerate(arms):
        keys = {key: value for key, value in arm.items() if key not in ("scores", "forgetting")}
        told = "forgetting" if "forgetting" in arm else "scores"
        for seed, value in enumerate(arm[told]):
            found.append(_record(str(claim.study), keys, seed, metric, float(value), folder / f"{number}-{seed}"))
    return found


def _record(study: str, keys: dict[str, Any], seed: int, metric: str, value: float, folder: Path) -> Record:
    task = Task("synthetic", metric="accuracy" if metric == "forgetting" else metric, n_train=keys.get("n_train"))
    method, lr = keys.get("method", "lora"), float(keys.get("lr", 1e-3))
    config = Config(
        Model("synthetic"), task,
        Method(method, lr, keys.get("rank"), keys.get("alpha"), budget=keys.get("budget"), init=keys.get("init")),
        Targets(keys.get("targets", "all_linear")), Quant(keys.get("quant", "none")), Optim(lr=lr),
        study=study, seed=seed, objective=f"val/{task.metric}",
    )  # fmt: skip
    run: RunInfo = {"id": folder.name, "name": folder.name, "status": FINISHED, "study": study, "attempts": 1}
    record = Record(run, plain(config), folder=folder)
    if metric == "forgetting":
        record.metrics = {"forgetting": {"measure": "loss", "difference": {"value": value}}}
    else:
        record.metrics = {"test": {metric: {"value": _write(folder, metric, value)}}}
    record.objective = 0.5 if metric == "forgetting" else value
    return record


def _write(folder: Path, metric: str, value: float) -> float:
    """Predictions with this score; the score that they really have."""
    folder.mkdir()
    hardness = np.random.default_rng(7).permutation(ITEMS)  # the same items are hard for all
    labels = np.arange(ITEMS) % 2
    if metric == "accuracy":
        right = hardness < round(value * ITEMS)
        columns = {"label": labels, "prediction": np.where(right, labels, 1 - labels)}
        exact = float(right.mean())
    else:
        noise = 1 + 0.1 * (hardness / (ITEMS - 1) - 0.5)
        columns = {"label": np.full(ITEMS, TOKENS), "score": value * TOKENS * noise}
        exact = value
    pq.write_table(pa.table({"item": np.arange(ITEMS), **columns}), folder / "predictions.parquet")
    return exact
