"""Online runs, as a W&B server receives them from the real client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wandb_server import ContractServer
from whole import rows, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder, label, run_id
from rankwise.tracking import mirror
from rankwise.tracking.record import Record

Start = Callable[..., Child]
Tracked = Callable[..., Config]


def test_an_online_run_arrives_whole(server: ContractServer, start: Start, tracked: Tracked) -> None:
    config = tracked("online", tracking__tags=["mine"], tracking__project="ranks", method__rank=3)
    child = start("run", config, **server.env())
    assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    assert server.runs == [run_id(config)]
    got = server.run(run_id(config))
    assert (got["state"], got["exit_code"], got["project"], got["started"]) == ("finished", 0, "ranks", 1)
    assert (got["displayName"], got["groupName"], got["jobType"]) == (label(config), "my-study", "train")
    assert set(got["tags"]) == {"lora", "attention", "mine"}
    assert got["config"] == json.loads(json.dumps(record.config)) | {"run_id": run_id(config)}
    assert got["history"] == rows(config)
    assert (record.run["wandb"]["id"], record.run["wandb"]["mode"]) == (run_id(config), "online")
    check_metrics(got, record)
    check_adapter(server, config)


def check_metrics(got: dict[str, Any], record: Record) -> None:
    """The x axis, and a summary that is the record's: flat, as sweeps need it."""
    assert got["metrics"] == {
        "step": {"step": None, "summary": []},
        "*": {"step": "step", "summary": []},
        "val/loss": {"step": "step", "summary": ["min"]},
        "val/accuracy": {"step": "step", "summary": ["max"]},
    }
    expected = json.loads(json.dumps(mirror.summary(record)))
    assert {key: got["summary"].get(key) for key in expected} == expected
    assert isinstance(got["summary"]["objective"], float) and isinstance(got["summary"]["val/accuracy"], float)


def check_adapter(server: ContractServer, config: Config) -> None:
    """An artifact of the run's own files, which nothing has copied."""
    (made,) = server.artifacts
    assert (made.collection, made.type, made.run) == (f"adapter-{run_id(config)}", "lora-adapter", run_id(config))
    assert (made.metadata, made.state) == ({"method": "lora", "rank": 3}, "COMMITTED")
    own = {path.name: path.read_bytes() for path in (folder(config) / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= own.keys()
    assert server.content(made) == own
    assert not list(folder(config).parent.glob("wandb/data/**/adapter_model*"))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_goes_on_under_its_id(server: ContractServer, start: Start, tracked: Tracked) -> None:
    config = tracked("online")
    child = start("run_and_wait", config, 4, **server.env(), WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1")
    until((Path(config.outputs) / "waiting").exists)
    until(lambda: server.runs and len(server.run(run_id(config))["history"]) == 4)
    assert server.run(run_id(config))["summary"]["val/loss"].keys() == {"min"}  # the best so far
    child.kill()
    assert child.wait() == -9
    before = server.run(run_id(config))["history"]

    assert start("run", config, **server.env()).wait() == 0
    assert server.runs == [run_id(config)]
    got = server.run(run_id(config))
    assert (got["started"], got["state"]) == (2, "finished")
    assert got["history"] == before + rows(config) and {row["attempt"] for row in rows(config)} == {2}
    assert got["steps"] == list(range(len(got["history"])))
    assert got["summary"]["objective"] == whole(config).objective
