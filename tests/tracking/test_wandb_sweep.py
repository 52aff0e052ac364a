"""``wandb sweep`` and ``wandb agent`` with a sweep file whose command is ``rankwise train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_server import ContractServer
from whole import check

from rankwise.tracking.record import find

AGENT = Path(__file__).with_name("agent.py")


@pytest.mark.parametrize(
    "parameters",
    [
        # W&B keeps what a sweep sets, such as method = "full", and drops what a run sends under that name.
        {"method": {"values": ["lora", "full"]}, "targets": {"value": "q"}, "quant": {"value": "none"}},
        {"point": {"values": ["method=full optim.lr=1e-4", "method.rank=2 seed=1", "seed=1 method.rank=2"]}},
    ],
    ids=["groups", "points, one of them twice"],
)
def test_an_agent_works_off_a_sweep_and_every_run_arrives_nested_and_whole(
    server: ContractServer, tmp_path: Path, python: Callable[..., str], parameters: dict[str, Any]
) -> None:
    file, outputs = tmp_path / "arms.yaml", tmp_path / "outputs"
    fixed = ["debug=fast", "tracking=wandb", "tracking.mode=online", "tracking.ledger=false", f"outputs={outputs}"]
    sweep = {
        "name": "arms", "method": "grid", "metric": {"name": "objective", "goal": "maximize"},
        "command": ["${env}", "rankwise", "train", *fixed, "${args_no_hyphens}"], "parameters": parameters,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(sweep))
    python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((name, made),) = server.sweeps.items()
    python(AGENT, f"ranks/{name}", **server.env())

    records = {(record.config["method"]["name"], record.config["seed"]): record for record in find([outputs])}
    assert made.state == "FINISHED" and len(records) == 2
    for run, point in made.points.items():
        text = json.dumps(point)
        record = records["full" if "full" in text else "lora", 1 if "seed=1" in text else 0]
        got = server.run(run)
        assert (got["state"], got["sweep"], got["project"]) == ("finished", name, "ranks")
        check(record, got["config"], got["summary"], given=point)
        assert ("rank" in got["config"]["arm"]) == (got["config"]["arm"]["method"] == "lora")


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_servers_client_takes_every_shipped_sweep_file(
    server: ContractServer, python: Callable[..., str], file: Path
) -> None:
    said = python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((_, made),) = server.sweeps.items()
    assert made.config["parameters"] == yaml.safe_load(file.read_text())["parameters"]
    assert "warning" not in said.lower()
