"""``rankwise dashboard``: the real client and wandb_workspaces against the contract server, and without any server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tracked_study import Command, Study
from wandb_server.http import OPERATIONS

from rankwise.commands import dashboard
from rankwise.dashboards import place
from rankwise.errors import Refused
from rankwise.identity import run_id
from rankwise.metrics import named
from rankwise.tracking import remote

PARTS = ("weights", "gradients", "optimizer", "activations", "other")


def test_a_second_call_updates_the_report_and_the_workspace(study: Study, rankwise: Command) -> None:
    server, env = study.server, study.server.env()
    others = {"type": "runs", "name": "x", "displayName": "rankwise: ranks, mine", "spec": "{}", "createdAt": "2025"}
    server.views["others"] = others | {"id": "others", "description": "", "updatedAt": "2025"}
    first = rankwise("dashboard", study.folder, **env)
    assert first.returncode == 0, first.stderr
    urls = dict(line.split() for line in first.stdout.splitlines())
    assert urls.keys() == {"report", "workspace"}
    assert all(url.startswith(f"{server.store.url}/tester/proj") for url in urls.values())
    made = {view["type"]: view for key, view in server.views.items() if key != "others"}
    assert made.keys() == {"runs", "project-view"}
    assert {view["displayName"] for view in made.values()} == {"rankwise: ranks"}
    assert made["runs"]["id"] in urls["report"] and made["project-view"]["name"][3:-2] in urls["workspace"]
    check_panels(server.run(run_id(study.configs[0])), made)
    check_page(json.loads(made["runs"]["spec"]))

    for view in made.values():  # what someone has changed since
        view["spec"] = view["spec"].replace("Quality", "Quantity")
    second = rankwise("dashboard", "wandb:tester/proj/ranks", "--json", **env)
    assert second.returncode == 0, second.stderr
    got = json.loads(second.stdout)
    assert {kind: got[kind] for kind in urls} == urls and (got["entity"], got["project"]) == ("tester", "proj")
    assert len(server.views) == 3 and server.views["others"]["spec"] == "{}"
    assert all("Quality" in server.views[view["id"]]["spec"] for view in made.values())


def check_panels(run: dict[str, Any], made: dict[str, dict[str, Any]]) -> None:
    """Both show the panels that were asked for, of the runs of the study, by keys that the runs have."""
    logged = {key for row in run["history"] for key in row}
    for view in made.values():
        text = view["spec"]
        for kind in ("Bar Chart", "Run History Line Plot", "Scatter Plot", "Parallel Coordinates Plot", "Run Comparer",
                     "Parameter Importance"):  # fmt: skip
            assert f'"{kind}"' in text, kind
        assert set(re.findall(r'"groupBy": ?"([^"]+)"', text)) == {"method.value.rank"}
        summaries = set(re.findall(r'"(?:summary_metrics\.|summary:)([^"]+)"', text))
        parts = {f"memory/train/{part}_bytes" for part in PARTS}
        assert summaries == {"test/accuracy", "params/trainable", "objective", *parts}
        assert summaries <= run["summary"].keys() and "val/accuracy" in logged
        configs = set(re.findall(r'"config:([^"]+)"', text))
        assert configs == {"method.value.rank", "optim.value.lr", "targets.value.name"}
        for key in configs:
            group, _, last = key.split(".")
            assert last in run["config"][group]
        assert sorted(leaves(json.loads(text))) == [
            ("config", "purpose", "!=", "search"),
            ("config", "purpose", "!=", "tune"),
            ("run", "group", "=", "ranks"),
            ("run", "state", "=", "finished"),
        ]
        (scatter,) = (panel for panel in nodes(json.loads(text)) if panel.get("viewType") == "Scatter Plot")
        assert scatter["config"]["xAxisLogScale"] is True
    (runset,) = json.loads(made["project-view"]["spec"])["section"]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["method.value.name", "method.value.rank"]


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


def test_without_a_key_the_page_is_written_and_the_way_to_the_rest_is_said(study, rankwise, browser) -> None:
    (study.folder / "wandb" / "offline-run-1").mkdir()
    asked = len(list(study.server.operations()))
    got = rankwise("dashboard", study.folder, "--open", BROWSER=browser[0])
    assert got.returncode == 0 and "wandb login" in got.stderr and got.stderr.count("\n") == 1
    page = study.folder / "report.html"
    assert "runs are no reference" in page.read_text() and browser[1]() == page.as_uri()
    mirror = study.folder / "wandb"
    said = got.stdout.splitlines()
    assert said[0] == f"html      {page}"
    assert f"wandb leet {mirror} " in said[1] and f"wandb sync {mirror}/offline-run-* " in said[2]
    assert len(list(study.server.operations())) == asked


def test_runs_that_are_not_in_wandb_are_shown_offline(study: Study, rankwise: Command) -> None:
    views = len(study.server.views)
    got = rankwise("dashboard", study.folder, "--project", "elsewhere", "--json", **study.server.env())
    assert got.returncode == 0 and "tester/elsewhere has no runs of ranks" in got.stderr
    assert json.loads(got.stdout)["html"] == str(study.folder / "report.html") and len(study.server.views) == views


def test_a_project_that_is_not_there_is_shown_offline(study: Study, rankwise: Command, monkeypatch: Any) -> None:
    monkeypatch.setitem(OPERATIONS, "Runs", lambda store, given: {"project": None})
    got = rankwise("dashboard", study.folder, "--entity", "them", **study.server.env())
    assert got.returncode == 0 and "them/proj has no runs of ranks" in got.stderr and got.stdout.startswith("html")


def test_the_extra_is_asked_for_in_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "why_offline", lambda: None)
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"^dashboard: .*pip install 'rankwise\[dashboards\]'$"):
        dashboard.main([str(study.folder)])


def findings(*runs: tuple[str, str | None, str | None, str | None]) -> Any:
    """Records of (study, purpose, URL, configured project)."""
    records = [
        SimpleNamespace(
            run={"study": study, "wandb": {"url": url}},
            config={"purpose": purpose, "tracking": {"entity": None, "project": project}},
        )
        for study, purpose, url, project in runs
    ]
    return SimpleNamespace(records=records, metric=named("accuracy"))


def test_where_the_runs_are_counts_more_than_what_was_configured() -> None:
    got = place.of(findings(("b", None, "https://w/me/p/runs/1", "q"), ("a", None, None, "p")), None, None)
    assert (got.entity, got.project, got.studies, got.searched) == ("me", "p", ("a", "b"), False)
    assert got.title == "rankwise: a + b"
    assert place.of(findings(("a", "tune", None, None)), "you", "r") == place.Place(
        "you", "r", ("a",), "accuracy", True
    )


def test_runs_of_several_projects_need_a_word() -> None:
    several = findings(("a", None, None, "p"), ("a", None, None, "q"))
    with pytest.raises(Refused, match=r"several W&B project names \(p, q\); give --project"):
        place.of(several, None, None)
    assert place.of(several, None, "p").project == "p"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces, when it is imported
def test_searches_are_filtered_out_unless_there_is_nothing_else() -> None:
    from rankwise.dashboards import panels

    one, both = place.Place("e", "p", ("a",), "accuracy"), place.Place("e", "p", ("a", "b"), "accuracy", searched=True)
    assert [str(condition.key.name) for condition in panels.filters(one)] == ["Group", "State", "purpose", "purpose"]
    assert [(c.op, c.value) for c in panels.filters(both)] == [("IN", ["a", "b"]), ("=", "finished")]
