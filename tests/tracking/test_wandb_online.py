"""Online runs, as a W&B server receives them from the real client; servers that fail; and what a later push brings."""

import json
from pathlib import Path
from typing import Any

import pytest
from wandb_server import ContractServer, Fault
from whole import LINE, check, rows, wandb_id, whole
from zygote import until

from rankwise.config import Config
from rankwise.identity import folder, label

PATIENCE = {"WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "3", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}


def test_an_online_run_arrives_whole(server, start, tracked):
    config = tracked("online", tracking__tags=["mine"], tracking__project="ranks", method__rank=3)
    child = start("run", config, **server.env(), RANKWISE_COMMAND="rankwise train -m method.rank=3,4")
    assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    assert server.runs == [wandb_id(config)]
    got = server.run(wandb_id(config))
    assert (got["state"], got["exit_code"], got["project"], got["started"]) == ("finished", 0, "ranks", 1)
    assert (got["displayName"], got["jobType"]) == (label(config), "train")
    assert record.run["wandb"].items() >= {"mode": "online", "group": got["groupName"], "project": "ranks"}.items()
    assert set(got["tags"]) == {"lora", "attention", "mine"}
    assert got["history"] == rows(config)
    assert got["metrics"] == {
        "step": {"step": None, "summary": []},
        "*": {"step": "step", "summary": []},
        "val/loss": {"step": "step", "summary": ["min"]},
        "val/accuracy": {"step": "step", "summary": ["max"]},
    }
    check_whole(server, config)
    (made,) = server.store.artifacts
    assert (made.collection, made.type) == (f"adapter-{wandb_id(config)}", "lora-adapter")
    assert made.metadata == got["config"]["arm"] and made.metadata["rank"] == 3
    assert not list(folder(config).parent.glob("wandb/data/**/adapter_model*"))  # nothing has copied it
    about = json.loads(server.store.stored[f"run/{wandb_id(config)}/wandb-metadata.json"])
    assert (about["program"], about["args"]) == ("rankwise", ["train", "-m", "method.rank=3,4"])
    assert about["git"]["commit"] == (record.provenance["git"] or {})["commit"]


def check_whole(server: ContractServer, config: Config) -> None:
    """All that W&B has of a run, by value: config, summary, the last attempt's rows, files and weights."""
    record, name = whole(config), wandb_id(config)
    got = server.run(name)
    check(record, got["config"], got["summary"])
    assert got["history"][-len(rows(config)) :] == rows(config)
    stored = server.store.stored
    sent = json.loads(stored[f"run/{name}/record.json"])
    sent["run"].pop("wandb", None)
    own = record.to_dict()
    own["run"].pop("wandb")
    assert sent == own
    assert stored[f"run/{name}/predictions.parquet"] == (folder(config) / "predictions.parquet").read_bytes()
    made = [one for one in server.store.artifacts if one.run == name and one.state == "COMMITTED"][-1]
    weights = {path.name: path.read_bytes() for path in (folder(config) / "adapter").iterdir()}
    assert made.files(server.store.stored) == weights and "adapter_model.safetensors" in weights


def test_a_killed_run_goes_on_under_its_id(server, start, tracked):
    config = tracked("online")
    child = start("run_and_wait", config, 4, **server.env(), WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1")
    until((Path(config.outputs) / "waiting").exists)
    until(lambda: server.runs and len(server.run(server.runs[0])["history"]) == 4)
    (name,) = server.runs
    assert server.run(name)["summary"]["val/loss"].keys() == {"min"}  # the best so far
    child.kill()
    assert child.wait() == -9
    until(lambda: server.run(name)["state"] == "failed")
    before = server.run(name)["history"]
    assert server.run(name)["summary"]["status"] == "stopped"

    assert start("run", config, **server.env()).wait() == 0
    assert server.runs == [name] == [wandb_id(config)]
    got = server.run(name)
    assert (got["started"], got["state"]) == (2, "finished")
    assert got["history"] == before + rows(config)
    assert got["steps"] == list(range(len(got["history"])))
    check_whole(server, config)


@pytest.mark.parametrize(
    ("fault", "said", "key"),
    [
        (Fault(500), "CommError", "k" * 40),
        (Fault("hang"), "does not answer", "k" * 40),
        (Fault(401), "CommError: HTTP 401 on purpose", "k" * 40),
        (None, "AuthenticationError: WANDB_API_KEY invalid", "short"),
        (Fault(500, after="UpsertBucket"), "in time", "k" * 40),
        (Fault("hang", after="UpsertBucket"), "in time", "k" * 40),
        (Fault("die", after="file_stream"), "in time", "k" * 40),
        (Fault(404, after="ServerFeaturesQuery"), "the server refused some of it", "k" * 40),
        (Fault("hang", after="CreateArtifact"), "in time", "k" * 40),
    ],
    ids=["500", "hang", "401", "short key", "500 later", "hang later", "die later", "404 later", "artifact"],
)
def test_whatever_the_server_does_a_run_is_whole_and_a_push_to_the_next_brings_all_of_it(
    start, tracked, server, fault, said, key
):
    config = tracked("online", tracking__project="ranks")
    with ContractServer(fault) as failing:
        child = start("run", config, **failing.env() | {"WANDB_API_KEY": key}, **PATIENCE)
        assert child.wait(90) == 0
    record = whole(config)
    assert child.stderr.startswith(LINE) and child.stderr.count("\n") == 1, child.stderr
    # On a machine that is busy with other things, wandb is not that far when patience ends.
    assert said in child.stderr or "(no answer)" in child.stderr
    assert record.run["wandb"]["problem"] in child.stderr

    pushed = start("push", str(folder(config).parent), "ranks", **server.env())
    assert pushed.wait(90) == 0, pushed.stderr
    assert json.loads(pushed.stdout.splitlines()[-1]) == {"problems": [], "missing": []}
    assert server.run(wandb_id(config))["state"] == "finished"
    check_whole(server, config)
    assert "problem" not in whole(config).run["wandb"]


def test_a_push_that_cannot_begin_is_told_of_every_run_and_noted_in_none(server, start, tracked):
    configs = [tracked("offline"), tracked("offline", seed=1)]
    assert [start("run", config).wait() for config in configs] == [0, 0]
    study, before = folder(configs[0]).parent, [whole(config).run["wandb"] for config in configs]
    (study / "wandb").rename(study / "before")
    (study / "wandb").write_text("in the way")
    pushed = start("push", str(study), "ranks", **server.env())
    assert pushed.wait() == 0, pushed.stderr
    said = json.loads(pushed.stdout.splitlines()[-1])
    assert [line.partition(": ")[0] for line in said["problems"]] == said["missing"] == [*map(label, configs)]
    assert [whole(config).run["wandb"] for config in configs] == before


def test_only_what_is_missing_is_pushed(server, start, tracked):
    there, offline, failed = tracked("online"), tracked("offline", seed=1), tracked("offline", seed=2)
    for target, config in (("run", there), ("run", offline), ("run_and_fail", failed)):
        assert start(target, config, **server.env()).wait() == 0
    asked = len(list(server.operations()))
    pushed = start("push", str(folder(there).parent), "rankwise", **server.env())
    assert pushed.wait() == 0 and json.loads(pushed.stdout.splitlines()[-1]) == {"problems": [], "missing": []}
    later: list[Any] = list(server.operations())[asked:]
    assert later.count("CommitArtifact") == 1 and len(server.runs) == 3
    check_whole(server, there)
    check_whole(server, offline)
    assert server.run(server.runs[-1])["summary"]["status"] == "failed"


def test_a_moved_study_is_synced_with_its_adapters_as_it_would_have_been_online(
    server, start, tracked, python, tmp_path
):
    whole_one, failed_once = tracked(), tracked(seed=1)
    for target, config in (("run", whole_one), ("run_and_fail", failed_once), ("run", failed_once)):
        assert start(target, config).wait() == 0
    told = {wandb_id(config): (whole(config), rows(config)) for config in (whole_one, failed_once)}
    weights = {
        wandb_id(config): {path.name: path.read_bytes() for path in (folder(config) / "adapter").iterdir()}
        for config in (whole_one, failed_once)
    }
    moved = folder(whole_one).parent.rename(tmp_path / "elsewhere")
    fragments = sorted(moved.glob("wandb/offline-run-*"))
    assert len(fragments) == 3

    python("-m", "wandb", "sync", *fragments, **server.env())
    assert set(server.runs) == set(told)
    for name, (record, history) in told.items():
        got = server.run(name)
        assert got["history"][-len(history) :] == history
        check(record, got["config"], got["summary"])
        assert (got["state"], got["exit_code"], got["groupName"]) == ("finished", 0, record.run["wandb"]["group"])
        files = {
            path.removeprefix(f"run/{name}/"): content
            for path, content in server.store.stored.items()
            if path.startswith(f"run/{name}/")
        }
        assert {"record.json", "predictions.parquet"} <= files.keys()
        assert {path.removeprefix("adapter/"): files[path] for path in files if "adapter/" in path} == weights[name]

    asked = len(list(server.operations()))
    python("-m", "wandb", "sync", *fragments, **server.env())  # once is enough
    assert "UpsertBucket" not in list(server.operations())[asked:]
