"""A run's own files, all there, and what a tracker should have been told of them."""

import json
from typing import Any

from rankwise.config import Config
from rankwise.identity import folder
from rankwise.tracking.fields import results, setup
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import FINISHED, Record, begin, read

LINE = "rankwise: wandb: not all of the run is there ("  # so begins the one line on stderr when W&B fails


def finished(config: Config, number: int = 0) -> Record:
    """A finished run's folder without training: results that no other has, rows, predictions and weights."""
    record = begin(config, None)
    record.run["status"], record.objective = FINISHED, number / 100
    record.metrics = {"test": {"accuracy": {"value": number / 200, "se": 0.01, "n": 64}}}
    record.params = {"trainable": 1000 + number, "total": 10_000}
    record.memory = {"train": {"peak_bytes": 2000 + number, "weights_bytes": number}}
    record.compute = {"steps": number}
    record.write()
    steps = range(1, (config.trainer.max_steps or 0) + 1)
    lines = [{"attempt": 1, "step": step, "train/loss": 1 / step + number, "lr": 0.01} for step in steps]
    (record.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (record.folder / "adapter").mkdir()
    for name in (
        "config.yaml",
        "predictions.parquet",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ):
        (record.folder / name).write_text(f"{name} of {number}")
    return record


def whole(config: Config) -> Record:
    """The record of a run that finished, with every step in its rows and every file in its folder."""
    record = read(folder(config))
    assert record.status == "finished" and record.metrics["test"]["accuracy"]["n"] == 64
    steps = [row["step"] for row in read_rows(folder(config) / "metrics.jsonl") if "lr" in row]
    assert steps == list(range(1, (config.trainer.max_steps or 0) + 1))
    assert {"adapter", "predictions.parquet", "config.yaml"} <= {path.name for path in folder(config).iterdir()}
    return record


def rows(config: Config) -> list[dict[str, Any]]:
    """What a history should hold of a run."""
    own = [dict(row) for row in read_rows(folder(config) / "metrics.jsonl")]
    for row in own:
        del row["attempt"]
        row |= {"objective": row["val/accuracy"]} if "val/accuracy" in row else {}
    return own


def wandb_id(config: Config) -> str:
    """The id that the run's record says it has."""
    return str(read(folder(config)).run["wandb"]["id"])


def check(record: Record, config: dict[str, Any], summary: dict[str, Any], given: dict[str, Any] | None = None) -> None:
    """Every value that a tracker holds of a run is the record's; ``given`` is what a sweep set beside it."""
    own = {key: value for key, value in config.items() if key != "_wandb" and key not in (given or {})}
    assert own == json.loads(json.dumps(setup(record)))
    assert {key: value for key, value in config.items() if key in (given or {})} == (given or {})
    expected = json.loads(json.dumps(results(record)))
    assert {key: summary.get(key) for key in expected} == expected
    logged = {key for row in record.metrics.get("curve", []) for key in row} | {"train/loss", "lr", "step"}
    strange = {key for key in summary if not key.startswith("_")} - expected.keys() - logged
    assert not strange, strange
