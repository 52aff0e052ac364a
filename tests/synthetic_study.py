"""Synthetic studies, written in the layout of real runs."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from rankwise.tracking.record import Record

ITEMS = 2_000
FLAT = (0.7, 0.5, 0.42, 0.40, 0.40)  # validation losses of a run that has converged
ENDED = "2026-01-01T00:00:00+00:00"
_count = itertools.count()


def config(method: str, rank: int | None, lr: float, changes: dict[str, Any]) -> dict[str, Any]:
    """A whole config; ``changes`` are dotted keys, written with ``__`` for dots."""
    values: dict[str, Any] = {
        "model": {"name": "minilm", "path": "/models/minilm"},
        "task": {"name": "polarity", "path": "/data/polarity.tsv", "metric": "accuracy", "margin": 0.02,
                 "max_length": 48, "n_train": 3_000},
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


def curve(losses: tuple[float, ...], steps: int = 100, se: float = 0.01) -> list[dict[str, Any]]:
    """Validations spread evenly over the steps, and the error of a fall between two of them."""
    at = np.linspace(steps / len(losses), steps, len(losses)).astype(int)
    rows = [{"step": int(s), "epoch": 3 * s / steps, "val/loss": loss} for s, loss in zip(at, losses, strict=True)]
    return [row | {"val/loss_se": se, "loss_fall_se": se, "val/accuracy": 1 - row["val/loss"]} for row in rows]


def write_run(
    root: Path, method: str = "lora", rank: int | None = 8, *, lr: float = 2e-3, test: float = 0.8,
    objective: float | None = 0.8, status: str = "finished", losses: tuple[float, ...] = FLAT, diverged: bool = False,
    data: str = "d0", precision: str = "fp32", correct: np.ndarray | None = None, measured: bool = True,
    device: str = "cpu", **changes: Any,
) -> Record:  # fmt: skip
    """One run below ``root``: what was configured, and what was measured; costs only if ``measured``."""
    values = config(method, rank, lr, changes)
    name = f"{method}-r{rank}-s{values['seed']}-{next(_count)}"
    correct = answers(test, values["seed"], rank or 0) if correct is None else correct
    record = Record(
        run={
            "id": name,
            "name": name,
            "study": "synthetic",
            "status": status,
            "attempts": 1,
            "ended": "2026-01-01T00:00:00+00:00",
        },
        config=values,
        provenance={"data": {"fingerprint": data}, "model": {"fingerprint": "m0"}, "git": {"commit": "abc1234"}},
        folder=root / name,
    )
    if status == "finished":
        _measure(record, correct)
        record.metrics |= {"first_loss": losses[0], "curve": curve(losses)}
        record.objective = objective
        record.compute |= {"precision": precision, "device": device, "diverged": diverged}
        if measured and method not in ("probe", "tfidf", "few_shot"):
            record.memory = {"train": train_memory(record), "eval": eval_memory(record)}
            record.compute |= cost(record)
        write_predictions(root / name, correct)
    elif status == "failed":
        record.error = {"type": "RuntimeError", "message": "out of <memory>"}
    record.write()
    return record


def write_study(
    root: Path, scores: dict[int, float], seeds: range = range(3), full: float = 0.82, **changes: Any
) -> None:
    """Every rank at its true score, and full fine-tuning, on each seed."""
    for seed in seeds:
        write_run(root, "full", None, lr=1e-4, test=full, seed=seed, **changes)
        for rank, score in scores.items():
            write_run(root, "lora", rank, test=score, seed=seed, **changes)


def answers(rate: float, seed: int, key: int, items: int = ITEMS) -> np.ndarray:
    """Right or wrong per item: the same items are hard for all, and 1 % of answers flip by seed and arm."""
    hardness = np.random.default_rng(7).permutation(items)
    flips = np.random.default_rng([seed, key]).random(items) < 0.01
    return np.asarray((hardness < rate * items) ^ flips)


def printed(report: Any, width: int = 120) -> str:
    """The report's table as a terminal of this width shows it."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(report.table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def write_predictions(folder: Path, correct: np.ndarray) -> None:
    """A test set of alternating labels, answered as ``correct`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(correct)) % 2
    predicted = np.where(correct, labels, 1 - labels)
    columns = {"item": np.arange(len(correct)), "label": labels, "prediction": predicted, "score": predicted * 0.9}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def _measure(record: Record, correct: np.ndarray) -> None:
    method, rank = record.config["method"]["name"], record.config["method"]["rank"]
    adapter = 40_000 * rank if method == "lora" else 0
    trainable = 22_700_770 if method == "full" else adapter + 770
    total = 22_700_770 + adapter
    record.params = {
        "trainable": trainable, "frozen": total - trainable, "total": total, "adapter": trainable - 770, "head": 770,
    }  # fmt: skip
    record.compute = {"device": "cpu", "steps": 100, "tokens_per_s": 9000.0, "seconds": {"train_s": 20.0}}
    record.storage = {"adapter_bytes": 4 * trainable}
    ranks = {f"encoder.{layer}.{name}": rank for layer in range(2) for name in ("query", "value")}
    record.lora = {"scale": 2.0, "rank": rank, "min_side": 384, "ranks": ranks} if method == "lora" else {}
    value = float(np.mean(correct))
    se = float(np.sqrt(value * (1 - value) / len(correct)))
    record.metrics = {"test": {"accuracy": {"value": value, "se": se, "n": len(correct)}}, "validation": {}}


def train_memory(record: Record) -> dict[str, Any]:
    """As the ledger writes it: longer batches on larger seeds; the prediction is 2 % above."""
    params, length = record.params, 48 + record.config["seed"]
    parts = {"weights_bytes": 4 * params["total"], "gradients_bytes": 4 * params["trainable"],
             "optimizer_bytes": 8 * params["trainable"], "activations_bytes": 3_000_000 * length,
             "other_bytes": 9_000_000}  # fmt: skip
    peak = sum(parts.values())
    predicted = {key: round(1.02 * size) for key, size in parts.items()}
    peaks = parts | {"other_bytes": 31_000_000}
    measured = parts | {"peak_bytes": peak, "phase": "backward", "peaks": peaks, "step": 3, "batch": [[32, length]]}
    seen = {"process_peak_bytes": peak + 900_000_000}
    if record.compute["device"] == "cuda":
        seen = {"allocated_peak_bytes": peak + 4_000_000, "reserved_peak_bytes": peak + 80_000_000}
    return measured | seen | {"predicted": predicted | {"peak_bytes": sum(predicted.values()), "phase": "backward"}}


def eval_memory(record: Record) -> dict[str, Any]:
    """Weights and what a forward pass holds for a moment."""
    parts = {"weights_bytes": 4 * record.params["total"], "other_bytes": 13_000_000}
    return parts | {"peak_bytes": sum(parts.values()), "batch": [[64, 48]]}


def cost(record: Record) -> dict[str, Any]:
    """Computation and seconds; a LoRA adapter on all linear layers costs more than full fine-tuning above r = 77."""
    method, rank, seed = record.config["method"]["name"], record.config["method"]["rank"], record.config["seed"]
    even = {"all_linear": 77.4, "qv": 309.0}.get(record.config["targets"]["name"], 154.0)
    share = {"full": 1.0, "head": 1 / 3}.get(method, 2 / 3 + (rank or 0) / even / 3)
    flops = {
        "per_step_counted": share * 2.0e11, "per_step": share * 2.0e11, "per_token": share * 1.3e8,
        "full_per_token": 1.3e8, "of_full": share, "train_total": share * 2.0e13,
        "break_even_rank": even if method == "lora" else None,
    }  # fmt: skip
    train_s = 28.0 * share + seed
    seconds = {"start_up_s": 0.3, "imports_s": 4.2, "load_s": 1.1, "plan_s": 0.9, "train_s": train_s, "validate_s": 3.5,
               "test_s": 2.0, "measure_s": 0.4, "save_s": 0.2, "total_s": train_s + 12.6}  # fmt: skip
    return {
        "threads": 1, "attention": "sdpa", "tokens": 150_000, "tokens_per_s": 6000.0 / share, "flops": flops,
        "mfu": 0.36 + 0.01 * seed, "peak_flops": 9.0e10, "peak_flops_source": "measured", "seconds": seconds,
    }  # fmt: skip
