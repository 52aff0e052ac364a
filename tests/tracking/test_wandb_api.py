"""What runs sent to W&B, read back through its public API; a report and a workspace over them."""

import json
from collections.abc import Callable
from pathlib import Path

from wandb_server import ENTITY, ContractServer
from whole import wandb_id, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder
from rankwise.tracking.journal import read_rows

READS = Path(__file__).with_name("api_reads.py")


def test_runs_adapters_reports_and_workspaces_come_back(
    server: ContractServer,
    start: Callable[..., Child],
    tracked: Callable[..., Config],
    python: Callable[..., str],
) -> None:
    narrow, wide = (tracked("online", method__rank=rank, tracking__project="ranks") for rank in (2, 4))
    for config in (narrow, wide):
        assert start("run", config, **server.env()).wait() == 0
    got = json.loads(python(READS, ENTITY, "ranks", **server.env(), WANDB_SILENT="true"))

    objectives = {wandb_id(config): whole(config).objective or 0.0 for config in (narrow, wide)}
    assert objectives[got["best"]] == max(objectives.values())
    assert (got["wide"], got["none"], got["rank"]) == (wandb_id(wide), 0, 4)
    assert got["objective"] == objectives[wandb_id(wide)]
    own = read_rows(folder(wide) / "metrics.jsonl")
    trained = [{"step": row["step"], "train/loss": row["train/loss"]} for row in own if "train/loss" in row]
    assert [{key: row[key] for key in ("step", "train/loss")} for row in got["scan"]] == trained
    assert [row["val/loss"] for row in got["sampled"]] == [row["val/loss"] for row in own if "val/loss" in row]

    adapter = folder(wide) / "adapter"
    assert got["adapter"] == f"adapter-{wandb_id(wide)}:v0" and got["metadata"]["rank"] == 4
    assert got["files"] == sorted(path.name for path in adapter.iterdir())
    assert got["model_bytes"] == (adapter / "adapter_model.safetensors").stat().st_size

    assert (got["report"], got["blocks"], got["workspace"]) == ("Ranks", 2, "Quality")
    kinds = {view["type"]: view for view in server.views.values()}
    assert kinds.keys() == {"runs", "project-view"}
    assert "arm.value.rank" in kinds["runs"]["spec"] and "arm.value.rank" in kinds["project-view"]["spec"]
