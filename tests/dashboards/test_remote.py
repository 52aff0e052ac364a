"""Runs read back from W&B say what their files say."""

import json
from typing import Any

import pytest
from wandb_server.http import OPERATIONS
from wandb_server.runs import files
from wandb_server.store import Store

from rankwise.errors import Refused
from rankwise.tracking import remote
from rankwise.tracking.wandb_run import FILES


def test_a_study_read_from_wandb_gives_the_tables_of_its_files(study, rankwise):
    env = study.server.env()
    there = rankwise("report", "wandb:tester/proj/ranks+", "--json", **env)
    here = rankwise("report", study.folder, "--json")
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    own, got = json.loads(here.stdout), json.loads(there.stdout)
    assert [(arm["method"], arm["n"]) for arm in got["arms"]] == [("lora", 2), ("full", 2)]
    assert got | {"runs": None} == own | {"runs": None} and got["arms"][0]["comparison"]["p"] is not None
    for read, written in zip(runs(there.stdout), runs(here.stdout), strict=True):
        assert read["run"].pop("wandb").items() <= written["run"].pop("wandb").items() | {"mode": "online"}.items()
        assert read == written
    both = rankwise("report", "wandb:tester/proj", study.folder, "--json", **env)
    assert [arm["n"] for arm in json.loads(both.stdout)["arms"]] == [2, 2]


def runs(text: str) -> list[dict[str, Any]]:
    return sorted(json.loads(text)["runs"], key=lambda run: str(run["run"]["id"]))


@pytest.mark.parametrize("env", [{}, {"WANDB_MODE": "online"}])
def test_without_a_key_it_is_refused(rankwise, env):
    why = "wandb:tester/proj: needs W&B online: no key is configured ('wandb login' sets one)"
    check_refused(rankwise("report", "wandb:tester/proj", **env), why)


def test_a_key_that_cannot_be_one_is_refused(rankwise):
    check_refused(rankwise("report", "wandb:tester/proj", WANDB_API_KEY="short"), "WANDB_API_KEY invalid")


def test_a_group_or_project_without_runs_is_refused(study, rankwise, monkeypatch):
    got = rankwise("report", "wandb:tester/proj/other", **study.server.env())
    check_refused(got, "wandb:tester/proj/other: no runs there")
    monkeypatch.setitem(OPERATIONS, "Runs", lambda store, given: {"project": None})
    got = rankwise("report", "wandb:tester/nowhere", **study.server.env())
    check_refused(got, "wandb:tester/nowhere: W&B says: Could not find project nowhere")


def check_refused(got: Any, *said: str) -> None:
    assert got.returncode == 2 and got.stdout == "" and got.stderr.count("\n") == 1, got.stderr
    assert all(text in got.stderr for text in said), got.stderr


@pytest.mark.parametrize("text", ["wandb:", "wandb:me", "wandb:me/", "wandb:/proj"])
def test_half_an_address_is_refused(text):
    with pytest.raises(Refused, match="not wandb:ENTITY/PROJECT"):
        remote.Address.of(text)


def test_an_address_may_name_a_group():
    assert remote.Address.of("wandb:me/proj/a/b") == remote.Address("me", "proj", "a/b")
    assert str(remote.Address.of("wandb:me/proj/")) == "wandb:me/proj"


def test_what_has_no_record_there_is_left_out_with_its_reason(study, rankwise):
    """A run that goes on, one of somebody else's, one whose record is damaged."""
    store, (one, *_) = study.server.store, [study.record(number).run["wandb"]["id"] for number in range(4)]
    mine = store.stored[f"run/{one}/record.json"]
    try:
        store.stored[f"run/{one}/record.json"] = mine.replace(b'"trainable":', b'"trainable": "x", "was":', 1)
        got = rankwise("report", "wandb:tester/proj/ranks+", "--json", **study.server.env())
        assert got.returncode == 0 and got.stderr.count("\n") == 1, got.stderr
        assert "not a run's record (params.trainable is a text" in got.stderr
        assert [arm["n"] for arm in json.loads(got.stdout)["arms"]] == [1, 2]
        del store.stored[f"run/{one}/record.json"]
        got = rankwise("report", "wandb:tester/proj/ranks+", "--json", **study.server.env())
        assert f"runs/{one}: has no record.json: it has not ended" in got.stderr
    finally:
        store.stored[f"run/{one}/record.json"] = mine


@pytest.mark.parametrize("file", list(FILES))
def test_a_file_that_cannot_be_fetched_is_told_and_its_run_left_out(study, rankwise, monkeypatch, file):
    one, asked = study.record(0).run["wandb"]["id"], len(study.server.unknown)

    def gone(store: Store, given: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(files(store, given)).replace(f"/storage/run/{one}/{file}", "/storage/gone"))

    monkeypatch.setitem(OPERATIONS, "RunFiles", gone)
    got = rankwise("report", "wandb:tester/proj/ranks+", "--json", **study.server.env())
    assert got.returncode == 0 and got.stderr.count("\n") == 1, got.stderr
    assert "left out: http://127.0.0.1" in got.stderr and f"runs/{one}: W&B says: " in got.stderr
    assert [arm["n"] for arm in json.loads(got.stdout)["arms"]] == [1, 2]
    del study.server.unknown[asked:]
