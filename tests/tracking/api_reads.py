"""What a user reads from W&B and builds there, in a process of its own: prints one JSON document."""

import json
import sys
from pathlib import Path
from typing import Any

import wandb


def reads(project: str) -> dict[str, Any]:
    """Runs by filter and order, histories, the adapter."""
    api = wandb.Api()
    best = api.runs(project, order="-summary_metrics.objective")[0]
    (wide,) = api.runs(project, filters={"config.arm.rank": {"$gt": 2}, "state": "finished"})
    none = api.runs(
        project, filters={"$and": [{"group": {"$regex": "^my-study-"}}, {"summary_metrics.objective": {"$gt": 1}}]}
    )
    run = api.run(f"{project}/{wide.id}")
    (adapter,) = run.logged_artifacts()
    named = api.artifact(f"{project}/adapter-{wide.id}:latest", type="lora-adapter")
    folder = Path(named.download(root="downloaded"))
    return {
        "best": best.id,
        "wide": wide.id,
        "none": len(none),
        "rank": run.config["arm"]["rank"],
        "objective": run.summary["objective"],
        "scan": list(run.scan_history(keys=["step", "train/loss"])),
        "sampled": run.history(keys=["step", "val/loss"], pandas=False),
        "adapter": adapter.name,
        "metadata": named.metadata,
        "files": sorted(path.name for path in folder.iterdir()),
        "model_bytes": (folder / "adapter_model.safetensors").stat().st_size,
    }


def builds(entity: str, project: str) -> dict[str, Any]:
    """A report and a workspace, saved and loaded again."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    panels = [
        wr.LinePlot(title="by rank", x="step", y=["val/accuracy"], groupby="arm.rank"),
        wr.BarPlot(metrics=[wr.SummaryMetric("memory/train/peak_bytes")], groupby="arm.rank"),
    ]
    grid = wr.PanelGrid(runsets=[wr.Runset(entity=entity, project=project)], panels=panels)
    report = wr.Report(entity=entity, project=project, title="Ranks", blocks=[wr.H1("Ranks"), grid])
    report.save()
    workspace = ws.Workspace(
        entity=entity, project=project, name="Ranks", sections=[ws.Section(name="Quality", panels=panels, is_open=True)]
    )
    workspace.save()
    return {
        "report": wr.Report.from_url(report.url).title,
        "blocks": len(wr.Report.from_url(report.url).blocks),
        "workspace": ws.Workspace.from_url(workspace.url).sections[0].name,
    }


if __name__ == "__main__":
    entity, project = sys.argv[1:]
    print(json.dumps(reads(f"{entity}/{project}") | builds(entity, project)))
