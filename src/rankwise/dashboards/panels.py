"""The panels of a study, and which of its project's runs they show. Keys are those that the mirror sends."""

# wandb_workspaces re-exports its names in a way that mypy does not follow.
# mypy: disable-error-code="attr-defined,name-defined"

from typing import Any

import wandb_workspaces.expr as expr
import wandb_workspaces.reports.v2 as wr

from rankwise.dashboards.place import Place
from rankwise.tracking.fields import RESULT
from rankwise.tracking.groups import PARTS

RANK = "arm.rank"  # of the nested config: sent as arm.value.rank
FIGURE, PAGE, ARMS = "score_by_rank", "report", "arms"  # of the run that holds the study's report
WIDE, HALF = 24, 12  # of W&B's grid of 24 columns


def sections(metric: str) -> dict[str, list[Any]]:
    """The panels of report and workspace, by heading."""
    spread = {"groupby": RANK, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    quality = [
        wr.MediaBrowser(
            title="score against rank, with full fine-tuning", media_keys=[FIGURE], layout=wr.Layout(0, 18, HALF, 12)
        ),
        wr.MediaBrowser(title="the report", media_keys=[PAGE], layout=wr.Layout(HALF, 18, HALF, 12)),
        wr.WeavePanelSummaryTable(table_name=ARMS, layout=wr.Layout(0, 30, WIDE, 9)),
        wr.LinePlot(
            title=f"validation {metric} by rank, of all methods: mean ± standard deviation over runs",
            x="step",
            y=[f"val/{metric}"],
            title_x="optimizer step",
            title_y=metric,
            layout=wr.Layout(0, 0, WIDE, 9),
            **spread,
        ),
        wr.ScatterPlot(
            title=f"test {metric} against trainable parameters",
            x=wr.SummaryMetric("params/trainable"),
            y=wr.SummaryMetric(f"test/{metric}"),
            log_x=True,
            layout=wr.Layout(0, 9, WIDE, 9),
        ),
    ]
    column = wr.ParallelCoordinatesPlotColumn
    columns = [
        column(wr.Config(RANK), display_name="rank"),
        column(wr.Config("arm.lr"), display_name="learning rate", log=True),
        column(wr.Config("arm.targets"), display_name="targets"),
        column(wr.SummaryMetric("objective"), display_name="objective"),
    ]
    choices = [
        wr.ParallelCoordinatesPlot(
            title="rank, learning rate, targets, objective", columns=columns, layout=wr.Layout(0, 0, WIDE, 10)
        ),
        wr.ParameterImportancePlot(with_respect_to="objective", layout=wr.Layout(0, 10, WIDE, 9)),
    ]
    memory = wr.BarPlot(
        title="bytes at the peak of a training step, by component: median over all runs of a rank",
        orientation="v",
        groupby=RANK,
        metrics=[wr.SummaryMetric(f"memory/train/{part}_bytes") for part in PARTS],
        groupby_aggfunc="median",
        title_x="rank (null: methods without one)",
        title_y="bytes",
        layout=wr.Layout(0, 0, WIDE, 10),
    )
    differences = wr.RunComparer(diff_only="split", layout=wr.Layout(0, 0, WIDE, 15))
    return {"Quality": quality, "Choices": choices, "Memory": [memory], "Runs": [differences]}


def filters(place: Place) -> list[expr.FilterExpr]:
    """Finished runs of the studies that are a result, not a search for one, and of one task."""
    group, studies = expr.Metric("Group"), list(place.groups)
    which = group == studies[0] if len(studies) == 1 else group.isin(studies)
    results = [] if place.searched else [expr.Config("run.stage") == RESULT]
    tasks = [expr.Config("run.task") == place.task] if place.task else []
    return [which, expr.Metric("State") == "finished", *results, *tasks]
