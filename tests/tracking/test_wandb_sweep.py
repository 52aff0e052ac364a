"""``wandb sweep`` and ``wandb agent`` with a sweep file whose command is ``rankwise train``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from wandb_server import ContractServer

from rankwise.tracking.record import find

AGENT = Path(__file__).with_name("agent.py")


def test_an_agent_works_off_a_sweep_of_ranks(
    server: ContractServer, tmp_path: Path, python: Callable[..., str]
) -> None:
    file, outputs = tmp_path / "ranks.yaml", tmp_path / "outputs"
    fixed = ["debug=fast", "tracking.mode=online", "tracking.ledger=false", "study=swept", f"outputs={outputs}"]
    sweep = {
        "name": "ranks", "method": "grid", "metric": {"name": "objective", "goal": "maximize"},
        "command": ["${env}", "rankwise", "train", *fixed, "${args_no_hyphens}"],
        "parameters": {"method.rank": {"values": [1, 2]}, "optim.lr": {"value": 0.004}},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(sweep))
    python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((name, made),) = server.sweeps.items()
    python(AGENT, f"ranks/{name}", **server.env())

    records = {record.config["method"]["rank"]: record for record in find([outputs])}
    assert records.keys() == {1, 2} and {record.status for record in records.values()} == {"finished"}
    assert made.state == "FINISHED" and len(made.points) == 2
    for run, point in made.points.items():
        got, record = server.run(run), records[point["method.rank"]]
        assert (got["state"], got["sweep"], got["project"]) == ("finished", name, "ranks")
        assert got["config"]["method"]["rank"] == got["config"]["method.rank"] == point["method.rank"]
        assert got["config"]["optim"]["lr"] == 0.004
        assert got["summary"]["objective"] == record.objective
        assert record.run["wandb"]["id"] == run


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_servers_client_takes_every_shipped_sweep_file(
    server: ContractServer, python: Callable[..., str], file: Path
) -> None:
    said = python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((_, made),) = server.sweeps.items()
    assert made.config["parameters"] == yaml.safe_load(file.read_text())["parameters"]
    assert "warning" not in said.lower()
