"""``wandb sweep`` and ``wandb agent`` with a sweep file whose command is ``rankwise train``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from wandb_server import ContractServer
from whole import check

from rankwise.tracking.fields import setup
from rankwise.tracking.record import find

AGENT = Path(__file__).with_name("agent.py")


def test_an_agent_works_off_a_sweep_of_groups_and_every_run_arrives_nested_and_whole(
    server: ContractServer, tmp_path: Path, python: Callable[..., str]
) -> None:
    """W&B keeps what a sweep sets, such as method = "full", and drops what a run sends under that name."""
    file, outputs = tmp_path / "arms.yaml", tmp_path / "outputs"
    fixed = ["debug=fast", "tracking=wandb", "tracking.mode=online", "tracking.ledger=false", "study=swept"]
    sweep = {
        "name": "arms", "method": "grid", "metric": {"name": "objective", "goal": "maximize"},
        "command": ["${env}", "rankwise", "train", *fixed, f"outputs={outputs}", "${args_no_hyphens}"],
        "parameters": {
            "method": {"values": ["lora", "full"]}, "method.rank": {"values": [1, 2]}, "targets": {"value": "q"},
            "quant": {"value": "none"}, "optim.lr": {"value": 0.004},
        },
    }  # fmt: skip
    file.write_text(yaml.safe_dump(sweep))
    python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((name, made),) = server.sweeps.items()
    python(AGENT, f"ranks/{name}", **server.env())

    records = {
        (record.config["method"]["name"], setup(record)["arm"].get("rank")): record for record in find([outputs])
    }
    assert records.keys() == {("lora", 1), ("lora", 2), ("full", None)}
    assert made.state == "FINISHED" and len(made.points) == 4  # the repeat of full fine-tuning is answered too
    for run, point in made.points.items():
        got = server.run(run)
        record = records[point["method"], point["method.rank"] if point["method"] == "lora" else None]
        assert (got["state"], got["sweep"], got["project"]) == ("finished", name, "ranks")
        check(record, got["config"], got["summary"], given=point)
        assert got["config"]["arm"]["lr"] == 0.004 and got["summary"]["objective"] == record.objective


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_servers_client_takes_every_shipped_sweep_file(
    server: ContractServer, python: Callable[..., str], file: Path
) -> None:
    said = python("-m", "wandb", "sweep", "--project", "ranks", file, **server.env())
    ((_, made),) = server.sweeps.items()
    assert made.config["parameters"] == yaml.safe_load(file.read_text())["parameters"]
    assert "warning" not in said.lower()
