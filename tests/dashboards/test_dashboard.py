"""``rankwise dashboard``: the real client and wandb_workspaces against the contract server, and without any server."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb_server import ContractServer
from wandb_server.http import OPERATIONS

from rankwise.commands import dashboard
from rankwise.dashboards import place
from rankwise.errors import Refused
from rankwise.metrics import named
from rankwise.tracking import remote
from rankwise.tracking.lease import owned
from rankwise.tracking.record import read

PARTS = ("weights", "gradients", "optimizer", "activations", "other")
KINDS = ("Bar Chart", "Run History Line Plot", "Scatter Plot", "Parallel Coordinates Plot")
KINDS += ("Run Comparer", "Parameter Importance", "Media Browser")


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_second_call_updates_the_report_and_the_workspace(study, rankwise, tmp_path):
    before = files(study.folder)
    server, env = study.server, study.server.env()
    others = {"type": "runs", "name": "x", "displayName": "rankwise: mine", "spec": "{}", "createdAt": "2025"}
    server.views["others"] = others | {"id": "others", "description": "", "updatedAt": "2025"}
    first = rankwise("dashboard", study.folder, **env)
    assert first.returncode == 0 and first.stderr == "rankwise: 4 of 4 runs are in W&B (tester/proj)\n", first.stderr
    assert files(study.folder) == before and not [*tmp_path.rglob("*run-*")], "what is read is not written into"
    group = study.record(0).run["wandb"]["group"]
    urls = dict(line.split() for line in first.stdout.splitlines())
    assert urls.keys() == {"report", "workspace"}
    assert all(url.startswith(f"{server.store.url}/tester/proj") for url in urls.values())
    made = {view["type"]: view for key, view in server.views.items() if key != "others"}
    assert made.keys() == {"runs", "project-view"}
    assert {view["displayName"] for view in made.values()} == {f"rankwise: {group.replace('+', '-')}"}
    assert made["runs"]["id"] in urls["report"] and made["project-view"]["name"][3:-2] in urls["workspace"]
    check_panels(server.run(study.record(0).run["wandb"]["id"]), made, group)
    check_report_run(study, group)
    check_page(json.loads(made["runs"]["spec"]))

    for view in made.values():  # what someone has changed since
        view["spec"] = view["spec"].replace("Quality", "Quantity")
    second = rankwise("dashboard", "wandb:tester/proj/ranks+", "--json", **env)
    assert second.returncode == 0, second.stderr
    got = json.loads(second.stdout)
    assert {kind: got[kind] for kind in urls} == urls and (got["entity"], got["project"]) == ("tester", "proj")
    assert len(server.views) == 3 and server.views["others"]["spec"] == "{}"
    assert all("Quality" in server.views[view["id"]]["spec"] for view in made.values())


def check_panels(run: dict[str, Any], made: dict[str, dict[str, Any]], group: str) -> None:
    """Both show the panels that were asked for, of the runs of the study, by keys that the runs have."""
    logged = {key for row in run["history"] for key in row}
    for view in made.values():
        text = view["spec"]
        assert all(f'"{kind}"' in text for kind in KINDS)
        assert set(re.findall(r'"groupBy": ?"([^"]+)"', text)) == {"arm.value.rank"}
        summaries = set(re.findall(r'"(?:summary_metrics\.|summary:)([^"]+)"', text))
        parts = {f"memory/train/{part}_bytes" for part in PARTS}
        assert summaries == {"test/accuracy", "params/trainable", "objective", *parts}
        assert summaries <= run["summary"].keys() and "val/accuracy" in logged
        configs = set(re.findall(r'"config:([^"]+)"', text))
        assert configs == {"arm.value.rank", "arm.value.lr", "arm.value.targets"}
        for key in configs:
            head, _, last = key.split(".")
            assert last in run["config"][head]
        assert sorted(leaves(json.loads(text))) == [
            ("config", "run.stage", "=", "result"),
            ("run", "group", "=", group),
            ("run", "state", "=", "finished"),
        ]
        scatters = [panel for panel in nodes(json.loads(text)) if panel.get("viewType") == "Scatter Plot"]
        assert [panel["config"]["xAxisLogScale"] for panel in scatters] == [True]
    (runset,) = json.loads(made["project-view"]["spec"])["section"]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["arm.value.method", "arm.value.rank"]


def check_report_run(study: Any, group: str) -> None:
    """The page as it is written here, the figure and the arms, in a run of their own that no comparison takes in."""
    ((name, got),) = [
        (name, run) for name in study.server.runs if (run := study.server.run(name))["jobType"] == "report"
    ]
    assert (got["groupName"], got["state"]) == (group, "finished")
    assert got["config"]["run"] == {"stage": "result"}, "the panels' filter shows it"
    stored = study.server.store.stored

    def media(key: str) -> str:
        return stored[f"run/{name}/{got['summary'][key]['path']}"].decode()

    assert "runs are no reference" in media("report") and "<svg" in media("score_by_rank")
    assert ">full " in media("score_by_rank") and "--ink:#" in media("score_by_rank")
    assert media("score_by_rank").startswith('<meta charset="utf-8"><svg')
    arms = json.loads(media("arms"), parse_constant=pytest.fail)
    rank, method = arms["columns"].index("rank"), arms["columns"].index("method")
    assert repr([(row[method], row[rank]) for row in arms["data"]]) == "[('lora', 2), ('full', None)]", "no 2.0"


def check_page(spec: dict[str, Any]) -> None:
    """The findings come first, and adapters can be found."""
    text = json.dumps(spec)
    assert "runs are no reference" in text and "| lora r=2 " in text
    assert "/tester/proj/artifacts/lora-adapter" in text and "tester/proj/adapter-RUN_ID:latest" in text


def nodes(spec: Any) -> Iterator[dict[str, Any]]:
    if isinstance(spec, dict):
        yield spec
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from nodes(part)


def leaves(spec: Any) -> set[tuple[str, str, str, str]]:
    """Every condition of every run set: section, name, operator, value."""
    found = [node for node in nodes(spec) if {"key", "op", "value"} <= node.keys() and node["key"]]
    return {(node["key"]["section"], node["key"]["name"], node["op"], str(node["value"])) for node in found}


@pytest.fixture
def browser(tmp_path: Path) -> tuple[str, Callable[[], str]]:
    """A browser that notes what it was to open."""
    note = tmp_path / "opened"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {note}\n')
    script.chmod(0o755)
    return str(script), lambda: note.read_text().strip()


def test_without_a_key_the_page_is_written_and_the_way_to_the_rest_is_said(study, rankwise, browser):
    elsewhere = study.folder.parent / "elsewhere" / "wandb" / "offline-run-2"  # of a run with WANDB_DIR
    for made in (study.folder / "wandb" / "offline-run-1", elsewhere):
        made.mkdir(parents=True)
    (study.folder / "leet" / "run-2").symlink_to("../../elsewhere/wandb/offline-run-2")
    asked = len(list(study.server.operations()))
    got = rankwise("dashboard", study.folder, "--open", BROWSER=browser[0])
    assert got.returncode == 0 and "wandb login" in got.stderr and got.stderr.count("\n") == 1
    page = study.folder / "report.html"
    assert "runs are no reference" in page.read_text() and browser[1]() == page.as_uri()
    mirror = study.folder / "wandb"
    said = got.stdout.splitlines()
    assert said[0] == f"html      {page}"
    assert f"wandb leet {study.folder / 'leet'} " in said[1] and f"wandb sync {mirror}/offline-run-* " in said[2]
    assert f"wandb sync {elsewhere.parent}/offline-run-* " in said[3] and len(said) == 4
    assert len(list(study.server.operations())) == asked


def test_runs_that_are_not_in_wandb_are_shown_offline_until_they_are_pushed(study, rankwise):
    views = len(study.server.views)
    there = "--project", "elsewhere", "--json"
    got = rankwise("dashboard", study.folder, *there, **study.server.env())
    assert got.returncode == 0 and "0 of 4 runs are in W&B (tester/elsewhere); --push" in got.stderr
    assert json.loads(got.stdout)["html"] == str(study.folder / "report.html") and len(study.server.views) == views
    copy = shutil.copytree(study.folder, study.folder.parent / "copy" / "ranks")
    record = read(next(copy.glob("lora-*/result.json")).parent)
    record.folder, record.run = copy / "late", record.run | {"id": "late", "name": "late", "status": "running"}
    record.write()
    with ContractServer() as empty, owned(record.folder):
        got = rankwise("dashboard", copy, "--push", *there, **empty.env())
        assert empty.unknown == [] and len(empty.runs) == 5
    assert got.returncode == 0 and "4 of 5 runs are in W&B (tester/elsewhere); --push" in got.stderr, got.stderr
    said = json.loads(got.stdout)
    assert (said["runs"], said["in_wandb"], said["absent"]) == (5, 4, ["late"]) and "/elsewhere/" in said["report"]


def test_a_project_that_is_not_there_is_shown_offline(study, rankwise, monkeypatch):
    monkeypatch.setitem(OPERATIONS, "Runs", lambda store, given: {"project": None})
    got = rankwise("dashboard", study.folder, "--entity", "them", **study.server.env())
    assert got.returncode == 0 and "0 of 4 runs are in W&B (them/proj)" in got.stderr and got.stdout.startswith("html")


def test_the_extra_is_asked_for_in_one_line(study, monkeypatch):
    monkeypatch.setattr(remote, "why_offline", lambda: None)
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"^dashboard: .*pip install 'rankwise\[dashboards\]'$"):
        dashboard.main([str(study.folder)])


def findings(*runs: tuple[str, str | None, str | None], tasks: tuple[str, ...] = ()) -> Any:
    """Records of (group, stage, project)."""
    records = [
        SimpleNamespace(
            run={"wandb": {"group": group, "project": project}},
            config={"stage": stage, "objective": "val/loss", "task": {"name": task}},
            folder=None,
        )
        for (group, stage, project), task in zip(runs, tasks or ("sst2",) * len(runs), strict=True)
    ]
    arm = SimpleNamespace(first=lambda path: records[-1].config["task"]["name"])
    return SimpleNamespace(records=records, metric=named("accuracy"), reference=arm, arms=[arm])


def test_a_dashboard_goes_where_the_runs_are_unless_the_user_says_otherwise():
    got = place.of(findings(("b", None, "p"), ("a", None, "p")), None, None)
    assert (got.entity, got.project, got.groups, got.searched) == (None, "p", ("a", "b"), False)
    assert got.title == "rankwise: a, b" and got.task is None
    several = findings(("a", None, "p"), ("a", None, "p"), tasks=("sst2", "rte"))
    assert place.of(several, None, None).task == "rte", "of the table's reference"
    alone = place.of(findings(("a", "tune", "p")), "you", "r")
    assert alone == place.Place("you", "r", ("a",), "accuracy", "val/loss", True)


def test_runs_of_several_projects_need_a_word():
    several = findings(("a", None, "p"), ("a", None, "q"))
    with pytest.raises(Refused, match=r"several W&B project names \(p, q\); give --project"):
        place.of(several, None, None)
    assert place.of(several, None, "p").project == "p"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces, when it is imported
def test_searches_are_filtered_out_unless_there_is_nothing_else_and_the_best_comes_first(monkeypatch):
    from rankwise.dashboards import panels, publish

    monkeypatch.setenv("WANDB_ENTITY", "them")
    assert publish.default_entity() == "them", "where the runs name none"
    one = place.Place("e", "p", ("a",), "accuracy", "val/accuracy")
    both = replace(one, groups=("a", "b"), searched=True)
    names = [str(condition.key.name) for condition in panels.filters(one)]
    assert names == ["Group", "State", "run.stage"]
    assert [(c.op, c.value) for c in panels.filters(both)] == [("IN", ["a", "b"]), ("=", "finished")]
    of_one = panels.filters(replace(both, task="CoLA"))[-1]
    assert (str(of_one.key.name), of_one.op, of_one.value) == ("run.task", "=", "CoLA"), "scores of tasks are no line"
    lower = replace(one, objective="val/loss")
    orders = [publish._grid(place, []).runsets[0].order for place in (one, lower)]
    assert [order.ascending for (order,) in orders] == [False, True], "the best comes first"
