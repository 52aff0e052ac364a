"""Runs read back from W&B say what their files say."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tracked_study import Command, Study
from wandb_server.http import OPERATIONS

from rankwise.errors import Refused
from rankwise.tracking import mirror, record, remote

SAME = ("method", "rank", "alpha", "scale", "targets", "quant", "lr", "n", "params", "compute", "storage", "scores")


def test_a_study_read_from_wandb_gives_the_tables_of_its_files(study: Study, rankwise: Command) -> None:
    env = study.server.env()
    there = rankwise("report", "wandb:tester/proj/ranks", "--json", **env)
    here = rankwise("report", study.folder, "--json")
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    remote_arms, local_arms = (json.loads(got.stdout)["arms"] for got in (there, here))
    assert [arm["method"] for arm in remote_arms] == ["lora", "full"] and {arm["n"] for arm in remote_arms} == {2}
    for got, own in zip(remote_arms, local_arms, strict=True):
        assert {key: got[key] for key in SAME} == {key: own[key] for key in SAME}
        assert got["memory"] == sent(own["memory"])
        assert got["memory"]["train"]["peak_bytes"] > 0 and got["params"]["trainable"] > 0
        assert got["scores"]["accuracy"]["mean"] is not None
    for got, own in zip(*(runs(text.stdout) for text in (there, here)), strict=True):
        assert got["metrics"]["curve"] == own["metrics"]["curve"] and len(own["metrics"]["curve"]) > 1
        assert json.dumps(got["config"], sort_keys=True) == json.dumps(own["config"], sort_keys=True)
        assert {key: got["run"][key] for key in ("name", "study", "status", "attempts")} == {
            key: own["run"][key] for key in ("name", "study", "status", "attempts")
        }
    assert "No conclusion: of these runs W&B has scores" in there.stdout and "read back from W&B" in there.stdout

    both = rankwise("report", "wandb:tester/proj", study.folder, "--json", **env)
    assert [arm["n"] for arm in json.loads(both.stdout)["arms"]] == [2, 2] and "read back" not in both.stdout


def sent(memory: dict[str, Any]) -> dict[str, Any]:
    """Without what the mirror leaves out: peaks by component and by phase."""
    kept = {key: value for key, value in memory.items() if key not in ("peaks", "phases")}
    return {key: sent(value) if isinstance(value, dict) else value for key, value in kept.items()}


def runs(text: str) -> list[dict[str, Any]]:
    return sorted(json.loads(text)["runs"], key=lambda run: str(run["run"]["id"]))


def test_without_a_key_it_is_refused(rankwise: Command) -> None:
    check_refused(rankwise("report", "wandb:tester/proj"), "wandb:tester/proj: needs W&B online", "wandb login")


def test_a_key_that_cannot_be_one_is_refused(rankwise: Command) -> None:
    check_refused(rankwise("report", "wandb:tester/proj", WANDB_API_KEY="short"), "WANDB_API_KEY invalid")


def test_a_group_or_project_without_runs_is_refused(study: Study, rankwise: Command, monkeypatch: Any) -> None:
    got = rankwise("report", "wandb:tester/proj/other", **study.server.env())
    check_refused(got, "wandb:tester/proj/other: no runs there")
    monkeypatch.setitem(OPERATIONS, "Runs", lambda store, given: {"project": None})
    got = rankwise("report", "wandb:tester/nowhere", **study.server.env())
    check_refused(got, "wandb:tester/nowhere: W&B says: Could not find project nowhere")


def check_refused(got: Any, *said: str) -> None:
    assert got.returncode == 2 and got.stdout == "" and got.stderr.count("\n") == 1, got.stderr
    assert all(text in got.stderr for text in said), got.stderr


@pytest.mark.parametrize("text", ["wandb:", "wandb:me", "wandb:me/", "wandb:/proj"])
def test_half_an_address_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="not wandb:ENTITY/PROJECT"):
        remote.Address.of(text)


def test_an_address_may_name_a_group() -> None:
    assert remote.Address.of("wandb:me/proj/a/b") == remote.Address("me", "proj", "a/b")
    assert str(remote.Address.of("wandb:me/proj/")) == "wandb:me/proj"


def a_run(**changes: Any) -> SimpleNamespace:
    """What ``Api`` gives of a run, in short."""
    config = {
        "run_id": "r1",
        "study": "s",
        "task": {"name": "t"},
        "method": {"name": "lora", "rank": 2},
        "method.rank": 2,
    }
    values = {
        "id": "r1", "name": "lora-r2", "group": "s", "state": "finished", "url": "http://w/e/p/runs/r1",
        "created_at": "2026-01-01T00:00:00Z", "heartbeat_at": "2026-01-01T00:01:00Z", "config": config, "summary": {},
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


@pytest.mark.parametrize(
    ("state", "ended", "status"),
    [
        ("finished", "finished", "finished"),
        ("failed", "failed", "failed"),
        ("failed", "stopped", "stopped"),  # Ctrl-C
        ("failed", None, "failed"),
        ("running", None, "running"),
        ("running", "failed", "running"),  # it goes on
        ("crashed", None, "stopped"),
        ("killed", None, "stopped"),
    ],
)
def test_states(state: str, ended: str | None, status: str) -> None:
    assert remote._record(a_run(state=state, summary={"status": ended}), []).status == status


def test_what_a_sweep_put_beside_the_config_is_left_out() -> None:
    got = remote._record(a_run(), [])
    assert not {"run_id", "method.rank"} & got.config.keys() and got.config["method"]["rank"] == 2


def test_only_the_last_attempt_has_a_curve_and_nothing_is_infinite() -> None:
    rows = [
        {"_step": 0, "step": 1, "epoch": 0.5, "val/loss": 9.0},
        {"_step": 1, "step": 1, "epoch": 0.5, "val/loss": 0.5, "attempt": 2, "objective": 0.5},
        {"_step": 2, "step": 2, "train/loss": 0.4, "attempt": 2},
        {"_step": 3, "step": 2, "epoch": 1.0, "val/loss": "NaN", "val/accuracy": 0.5, "attempt": 2},
    ]
    got = remote._record(a_run(summary={"objective": "NaN", "test/loss": float("inf"), "test/loss_se": None}), rows)
    assert got.metrics["curve"] == [
        {"step": 1, "epoch": 0.5, "val/loss": 0.5},
        {"step": 2, "epoch": 1.0, "val/loss": None, "val/accuracy": 0.5},
    ]
    assert got.run["attempts"] == 2 and got.objective is None
    assert got.metrics["test"] == {"loss": {"value": None, "se": None}}


def test_numbers_come_back_as_the_mirror_sent_them() -> None:
    own = record.Record(
        run={"status": "finished"}, config={}, params={"trainable": 5, "by_layer": {"0": {"trainable": 5}}},
        memory={"train": {"peak_bytes": 7, "batch": [[2, 3]], "predicted": {"peak_bytes": 8}}},
        compute={"flops": {"of_full": 0.5}, "seconds": {"train_s": 1.5}, "diverged": False},
        metrics={"test": {"accuracy": {"value": 0.5, "se": 0.1, "n": 9}}}, objective=0.25,
    )  # fmt: skip
    got = remote._record(a_run(summary=mirror.summary(own)), [])
    assert (got.memory, got.compute, got.objective) == (own.memory, own.compute, 0.25)
    assert got.params == {"trainable": 5} and got.metrics["test"] == {"accuracy": {"value": 0.5, "se": 0.1}}
