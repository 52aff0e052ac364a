"""Make a study's report and workspace in W&B, or bring those that are there up to date."""

# wandb_workspaces re-exports its names in a way that mypy does not follow.
# mypy: disable-error-code="attr-defined,name-defined"

import hashlib
import os
import tempfile
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from rankwise.dashboards import panels
from rankwise.dashboards.place import Place
from rankwise.metrics import named
from rankwise.report import svg
from rankwise.report.columns import columns
from rankwise.report.report import Report
from rankwise.tracking.fields import RESULT
from rankwise.tracking.record import finite
from rankwise.tracking.remote import ANSWER_S, asking

_REWRITTEN = "Made by `rankwise dashboard`, which rewrites this page when it is run again: clone it to keep changes."
_ABOUT = {
    "Choices": "Importance and correlation are over the runs that are shown.",
    "Memory": "Live tensors at one moment of a training step; medians over the runs of a rank.",
}


def default_entity() -> str:
    """Whose projects the key is for, unless WANDB_ENTITY says otherwise, which W&B's client does not read here."""
    with asking("dashboard"):
        return os.environ.get("WANDB_ENTITY") or str(wandb.Api(timeout=ANSWER_S).default_entity)


def publish(place: Place, findings: Report) -> dict[str, str]:
    """URLs of the report and the workspace. What an earlier call made is found again and replaced."""
    with asking("dashboard"):
        _report_run(place, findings)
        workspace = _workspace(place)
        workspace.save()
        report = _report(place, findings, workspace.url.split("?")[0])
        report.id = _known_report(place) or ""
        report.save()
    return {"report": str(report.url), "workspace": str(workspace.url)}


def _report(place: Place, findings: Report, project_url: str) -> wr.Report:
    """The page."""
    blocks: list[Any] = [wr.P(_REWRITTEN), wr.MarkdownBlock(findings.to_markdown())]
    for name, shown in panels.sections(place.metric).items():
        blocks += [wr.H2(name), *([wr.P(_ABOUT[name])] if name in _ABOUT else []), _grid(place, shown)]
    blocks += [wr.H2("Adapters"), wr.MarkdownBlock(_artifacts(place, project_url))]
    return wr.Report(
        entity=str(place.entity),
        project=place.project,
        title=place.title,
        blocks=blocks,
        width="fluid",
        description=findings.headline.title,
    )


def _report_run(place: Place, findings: Report) -> None:
    """A run that holds the study's report: the page, the score against rank, and a table of the arms."""
    from rankwise.report import page, plots

    key = _key(place)
    settings = wandb.Settings(console="off", silent=True, symlink=False, disable_git=True, x_disable_meta=True)
    fields = {part.key: part for column in columns(findings) for part in column.raw}
    arms = [[part.get(arm) for part in fields.values()] for arm in findings.arms]
    shown: dict[str, Any] = {
        panels.PAGE: wandb.Html(page.html(findings), inject=False),
        panels.ARMS: wandb.Table([*fields], finite(arms)),
    }
    if figure := plots.score_by_rank(findings):
        shown[panels.FIGURE] = wandb.Html('<meta charset="utf-8">' + svg.alone(figure.image), inject=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # of what is sent nothing stays here
        run = wandb.init(
            entity=place.entity,
            project=place.project,
            dir=folder,
            id=f"report-{key}",
            name=f"report of {' + '.join(place.groups)}",
            group=place.groups[0],
            job_type="report",
            config={"run": {"stage": RESULT}},  # or the panels' filter would leave it out
            reinit="create_new",
            settings=settings,
        )
        run.log(shown)
        run.finish()


def _known_report(place: Place) -> str | None:
    """The id of the project's oldest report of that title."""
    reports = wandb.Api(timeout=ANSWER_S).reports(f"{place.entity}/{place.project}")
    mine = [report for report in reports if report.display_name == place.title]
    return str(min(mine, key=lambda report: str(report.created_at)).id) if mine else None


def _workspace(place: Place) -> ws.Workspace:
    """The saved view under the study's own name, with the id of the one that is there."""
    made = ws.Workspace(
        entity=str(place.entity),
        project=place.project,
        name=place.title,
        sections=[
            ws.Section(name=name, panels=shown, is_open=name != "Runs")
            for name, shown in panels.sections(place.metric).items()
        ],
        settings=ws.WorkspaceSettings(x_axis="step"),
        runset_settings=ws.RunsetSettings(
            filters=panels.filters(place),
            groupby=[ws.Config("arm.method"), ws.Config(panels.RANK)],
            order=[ws.Ordering(ws.Summary("objective"), ascending=named(place.objective).lower_is_better)],
        ),
    )
    # W&B finds a saved view by the name in its URL alone. The client chooses that name; wandb_workspaces does so at
    # random and has no public way to give one.
    made._internal_name = f"nw-{_key(place)}-v"
    made._internal_id = _known_view(made.url) or ""
    return made


def _known_view(url: str) -> str | None:
    try:
        return str(ws.Workspace.from_url(url)._internal_id)
    except ValueError as error:
        if "not found" in str(error):
            return None
        raise


def _key(place: Place) -> str:
    """The same for the same study, in the form of W&B's own."""
    text = "/".join([str(place.entity), place.project, *place.groups])
    return hashlib.sha256(text.encode()).hexdigest()[:11]


def _grid(place: Place, shown: list[Any]) -> wr.PanelGrid:
    runset = wr.Runset(
        entity=str(place.entity),
        project=place.project,
        name=" + ".join(place.groups),
        filters=panels.filters(place),
        order=[wr.OrderBy(wr.SummaryMetric("objective"), ascending=named(place.objective).lower_is_better)],
    )
    return wr.PanelGrid(runsets=[runset], panels=shown)


def _artifacts(place: Place, project_url: str) -> str:
    """Where what was trained can be had."""
    return (
        f"What each run trained is an artifact, with its method and rank as metadata: "
        f"[adapters]({project_url}/artifacts/lora-adapter), [other weights]({project_url}/artifacts/weights).\n\n"
        f"    wandb artifact get {place.entity}/{place.project}/adapter-RUN_ID:latest"
    )
