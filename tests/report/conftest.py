"""Synthetic studies, written in the layout of real runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwise.tracking.record import Record

ITEMS = 400
Study = Callable[..., Record]


def config(method: str = "lora", rank: int | None = 8, lr: float = 2e-3, **changes: Any) -> dict[str, Any]:
    """A whole config; ``changes`` are dotted keys with ``__`` for dots."""
    values: dict[str, Any] = {
        "model": {"name": "minilm", "path": "/models/minilm"},
        "task": {"name": "polarity", "path": "/data/polarity.tsv", "metric": "accuracy", "margin": 0.02},
        "method": {"name": method, "lr": lr, "rank": rank if method == "lora" else None},
        "targets": {"name": "all_linear", "modules": None, "regex": None, "layers": None},
        "quant": {"name": "none"},
        "optim": {"name": "adamw", "lr": lr, "weight_decay": 0.01},
        "trainer": {"epochs": 3.0, "batch_size": 32, "accumulate": 1, "precision": "auto", "device": "auto"},
        "study": "synthetic", "seed": 0, "data_seed": 0, "objective": "val/accuracy",
    }  # fmt: skip
    if method == "lora":
        values["method"] |= {"alpha": "2r", "dropout": 0.0, "bias": "none"}
    for key, value in changes.items():
        *parents, last = key.split("__")
        group = values
        for parent in parents:
            group = group[parent]
        group[last] = value
    return values


def curve(losses: list[float], se: float = 0.01, steps: int = 100) -> list[dict[str, Any]]:
    """Validations spread evenly over the steps."""
    at = np.linspace(steps / len(losses), steps, len(losses)).astype(int)
    return [{"step": int(s), "epoch": 3 * s / steps, "val/loss": loss, "val/loss_se": se, "val/accuracy": 1 - loss}
            for s, loss in zip(at, losses, strict=True)]  # fmt: skip


FLAT = [0.7, 0.5, 0.42, 0.40, 0.40]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A function that writes one run below ``tmp_path``: config keys, then what was measured."""
    count = itertools.count()

    def write(method: str = "lora", rank: int | None = 8, *, test: float = 0.8, objective: float | None = 0.8,
              status: str = "finished", losses: list[float] | None = None, diverged: bool = False,
              correct: np.ndarray | None = None, data: str = "d0", precision: str = "fp32",
              folder: str = "study", **changes: Any) -> Record:  # fmt: skip
        values = config(method, rank, **changes)
        name = f"{method}-r{rank}-{next(count)}"
        where = tmp_path / folder / name
        if correct is None:
            # the same items fall in every run of this test score, up to a few of the seed's own
            correct = np.arange(ITEMS) < round(test * ITEMS)
        value = float(np.mean(correct))
        adapter = 40_000 * (rank or 0) if method == "lora" else 0
        trainable = {"lora": adapter + 770, "full": 22_700_000, "head": 770}.get(method, 770)
        done = status == "finished"
        record = Record(
            run={"id": name, "name": name, "study": "synthetic", "status": status, "ended": "2026-01-01T00:00:00+00:00"},
            config=values,
            provenance={"data": {"fingerprint": data}, "model": {"fingerprint": "m0"}, "git": {"commit": "abc1234"}},
            folder=where,
        )
        if done:
            record.params = {"trainable": trainable, "frozen": 22_700_000, "total": 22_700_000 + adapter,
                             "adapter": adapter, "head": 770}  # fmt: skip
            record.memory = {"train": {"weights_bytes": 9e7, "gradients_bytes": 4.0 * trainable,
                                       "optimizer_bytes": 8.0 * trainable, "peak_bytes": 3e8 + 12.0 * trainable}}  # fmt: skip
            record.compute = {"precision": precision, "device": "cpu", "steps": 100, "tokens_per_s": 9000.0,
                              "seconds": {"train_s": 20.0}, "diverged": diverged}  # fmt: skip
            record.storage = {"adapter_bytes": 4 * trainable}
            record.lora = {"scale": 2.0, "rank": rank, "min_side": 384} if method == "lora" else {}
            se = float(np.sqrt(value * (1 - value) / len(correct)))
            record.metrics = {"test": {"accuracy": {"value": value, "se": se, "n": len(correct)}},
                              "validation": {}, "curve": curve(losses or FLAT)}  # fmt: skip
            record.objective = objective
            predictions(where, correct)
        else:
            record.error = {"type": "RuntimeError", "message": "out of memory <b>here</b>"}
        record.write()
        return record

    return write


def predictions(folder: Path, correct: np.ndarray) -> None:
    """A test set of alternating labels, predicted as ``correct`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(correct)) % 2
    predicted = np.where(correct, labels, 1 - labels)
    columns = {"item": np.arange(len(correct)), "label": labels, "prediction": predicted, "score": predicted * 0.9}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def noisy(rate: float, seed: int, items: int = ITEMS, hard: int = 0) -> np.ndarray:
    """Right and wrong answers at a rate, sharing which items are hard between seeds of one ``hard``."""
    easy = np.random.default_rng(hard).permutation(items) < round(rate * items)
    flips = np.random.default_rng([seed, 1]).random(items) < 0.01
    return np.asarray(easy ^ flips)
