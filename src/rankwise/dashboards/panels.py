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


def quality(metric: str) -> list[Any]:
    """The report's figure and table of arms, score against rank and parameters, the validations by rank."""
    score = wr.SummaryMetric(f"test/{metric}")
    spread = {"groupby": RANK, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    return [
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
            y=score,
            log_x=True,
            layout=wr.Layout(0, 9, WIDE, 9),
        ),
    ]


def choices() -> list[Any]:
    """What the choices of a run have to do with its objective."""
    column = wr.ParallelCoordinatesPlotColumn
    columns = [
        column(wr.Config(RANK), display_name="rank"),
        column(wr.Config("arm.lr"), display_name="learning rate", log=True),
        column(wr.Config("arm.targets"), display_name="targets"),
        column(wr.SummaryMetric("objective"), display_name="objective"),
    ]
    return [
        wr.ParallelCoordinatesPlot(
            title="rank, learning rate, targets, objective", columns=columns, layout=wr.Layout(0, 0, WIDE, 10)
        ),
        wr.ParameterImportancePlot(with_respect_to="objective", layout=wr.Layout(0, 10, WIDE, 9)),
    ]


def costs() -> list[Any]:
    """Bytes at the peak of a training step, by what holds them."""
    return [
        wr.BarPlot(
            title="bytes at the peak of a training step, by component: median over all runs of a rank",
            orientation="v",
            groupby=RANK,
            metrics=[wr.SummaryMetric(f"memory/train/{part}_bytes") for part in PARTS],
            groupby_aggfunc="median",
            title_x="rank (null: methods without one)",
            title_y="bytes",
            layout=wr.Layout(0, 0, WIDE, 10),
        ),
    ]


def runs() -> list[Any]:
    """Runs side by side, where they differ."""
    return [wr.RunComparer(diff_only="split", layout=wr.Layout(0, 0, WIDE, 15))]


def filters(place: Place) -> list[expr.FilterExpr]:
    """Finished runs of the studies that are a result, not a search for one."""
    group, studies = expr.Metric("Group"), list(place.groups)
    which = group == studies[0] if len(studies) == 1 else group.isin(studies)
    results = [] if place.searched else [expr.Config("run.stage") == RESULT]
    return [which, expr.Metric("State") == "finished", *results]
