"""Online runs, as a W&B server receives them from the real client; servers that fail; and what a later push brings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wandb_server import ContractServer, Fault
from whole import LINE, check, finished, rows, wandb_id, whole
from zygote import until

from rankwise.config import Config
from rankwise.identity import folder, label
from rankwise.tracking.record import read

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
    assert set(got["tags"]) == {config.task.name, "lora", "attention", "mine"}
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
    assert got["history"] == rows(config)
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


def test_a_killed_run_goes_on_and_what_is_run_again_takes_its_place(server, start, tracked):
    config = tracked("online")
    child = start("run_and_wait", config, 4, **server.env(), WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1")
    until((Path(config.outputs) / "waiting").exists)
    until(lambda: server.runs and len(server.run(server.runs[0])["history"]) == 4)
    (name,) = server.runs
    assert server.run(name)["summary"]["val/loss"].keys() == {"min"}  # the best so far
    child.kill()
    assert child.wait() == -9
    until(lambda: server.run(name)["state"] == "failed")
    assert server.run(name)["summary"]["status"] == "stopped"

    assert start("run", config, **server.env()).wait() == 0
    assert server.runs == [wandb_id(config)] != [name]  # W&B would add to a run; so each attempt has its own
    assert server.store.deleted == [name] and server.run(wandb_id(config))["started"] == 1
    check_whole(server, config)
    assert start("run", replace(config, rerun=True), **server.env()).wait() == 0
    assert server.runs == [wandb_id(config)]
    check_whole(server, config)
    kept = server.run(wandb_id(config))
    assert start("run_and_fail", replace(config, rerun=True), **server.env()).wait() == 0
    assert server.runs == [wandb_id(config)] and server.run(wandb_id(config)) == kept


SHORT = "WANDB_API_KEY invalid: API key must have 40+ characters, has 5."
OFFLINE, LATE = "; tracked offline", "not all of it reached the server in time"


@pytest.mark.parametrize(
    ("fault", "said", "key"),
    [
        (Fault(500), f"CommError: Timed out while retrying: HTTP 500: HTTP 500 on purpose{OFFLINE}", "k" * 40),
        (Fault("hang"), f"{{}} does not answer (timed out){OFFLINE}", "k" * 40),
        (Fault(401), f"CommError: HTTP 401 on purpose{OFFLINE}", "k" * 40),
        (None, f"AuthenticationError: {SHORT}{OFFLINE}", "short"),
        (Fault(500, after="UpsertBucket"), LATE, "k" * 40),
        (Fault("hang", after="UpsertBucket"), LATE, "k" * 40),
        (Fault("die", after="file_stream"), LATE, "k" * 40),
        (Fault(404, after="ServerFeaturesQuery"), "the server refused some of it", "k" * 40),
        (Fault("hang", after="CreateArtifact"), LATE, "k" * 40),
    ],
    ids=["500", "hang", "401", "short key", "500 later", "hang later", "die later", "404 later", "artifact"],
)
def test_whatever_the_server_does_is_said_and_a_push_to_the_next_brings_all_of_it(
    start, tracked, server, fault, said, key
):
    config = tracked("online", tracking__project="ranks")
    place = finished(config).folder
    with ContractServer(fault) as failing:
        child = start("follow", str(place), **failing.env() | {"WANDB_API_KEY": key}, **PATIENCE)
        assert child.wait(90) == 0
        problem = whole(config).run["wandb"]["problem"]
        assert problem == said.format(failing.store.url)
    assert child.stderr.startswith(f"{LINE}{problem});") and child.stderr.count("\n") == 1

    if fault and fault.after in ("file_stream", "CreateArtifact"):
        pushed = start("push", str(place.parent), "ranks", **server.env())
        assert pushed.wait(90) == 0, pushed.stderr
        assert json.loads(pushed.stdout.splitlines()[-1]) == {"problems": [], "missing": []}
        assert server.run(wandb_id(config))["state"] == "finished"
        check_whole(server, config)
        assert "problem" not in whole(config).run["wandb"]


def test_a_push_that_cannot_begin_is_told_of_every_run_and_noted_in_none(server, start, tracked):
    made = [finished(tracked("offline", seed=seed), seed) for seed in range(2)]
    study, before = made[0].folder.parent, [read(record.folder).run for record in made]
    (study / "wandb").write_text("in the way")
    pushed = start("push", str(study), "ranks", **server.env())
    assert pushed.wait() == 0, pushed.stderr
    said, names = json.loads(pushed.stdout.splitlines()[-1]), [record.run["name"] for record in made]
    assert [line.partition(": ")[0] for line in said["problems"]] == said["missing"] == names
    assert [read(record.folder).run for record in made] == before


def test_only_what_is_missing_is_pushed_and_only_once(server, start, tracked):
    there, offline, failed = (tracked(mode, seed=i) for i, mode in enumerate(("online", "offline", "offline")))
    made = [finished(config, number) for number, config in enumerate((there, offline, failed))]
    made[2].run["status"] = "failed"
    made[2].write()
    assert start("tell", [str(record.folder) for record in made], **server.env()).wait() == 0
    study, asked = folder(there).parent, len(list(server.operations()))
    for sent, lost in ((1, False), (2, True)):
        if lost:  # what is sent again is not there twice
            server.store.artifacts.clear()
        pushed = start("push", str(study), "rankwise", **server.env())
        assert pushed.wait() == 0 and json.loads(pushed.stdout.splitlines()[-1]) == {"problems": [], "missing": []}
        later: list[Any] = list(server.operations())[asked:]
        assert later.count("CommitArtifact") == sent + lost and len(server.runs) == 3
        check_whole(server, there)
        check_whole(server, offline)
    assert server.run(wandb_id(failed))["summary"]["status"] == "failed"


def test_a_moved_study_is_synced_with_its_adapters_as_it_would_have_been_online(
    server, start, tracked, python, tmp_path
):
    made = [finished(tracked(seed=seed), seed) for seed in range(2)]
    assert start("tell", [str(record.folder) for record in made]).wait() == 0
    told = {wandb_id(tracked(seed=i)): (record, rows(tracked(seed=i))) for i, record in enumerate(made)}
    study = made[0].folder.parent
    moved = study.rename(tmp_path / "elsewhere")
    fragments = sorted(moved.glob("wandb/offline-run-*"))
    assert len(fragments) == 2

    python("-m", "wandb", "sync", *fragments, **server.env())
    assert set(server.runs) == set(told)
    for name, (record, history) in told.items():
        got = server.run(name)
        assert got["history"] == history
        check(record, got["config"], got["summary"])
        assert (got["state"], got["exit_code"]) == ("finished", 0) and got["groupName"].startswith("my-study-")
        files = {
            path.removeprefix(f"run/{name}/"): content
            for path, content in server.store.stored.items()
            if path.startswith(f"run/{name}/")
        }
        assert {"record.json", "predictions.parquet"} <= files.keys()
        weights = {path.name: path.read_bytes() for path in (moved / record.folder.name / "adapter").iterdir()}
        assert {path.removeprefix("adapter/"): files[path] for path in files if "adapter/" in path} == weights

    asked = len(list(server.operations()))
    python("-m", "wandb", "sync", *fragments, **server.env())  # once is enough
    assert "UpsertBucket" not in list(server.operations())[asked:]


def test_what_was_synced_of_an_earlier_attempt_goes_with_the_next_push(server, start, tracked, python):
    record = finished(tracked())
    study = record.folder.parent
    for attempts in (1, 2):
        record.run["attempts"] = attempts
        record.write()
        assert start("tell", [str(record.folder)]).wait() == 0
        (fragment,) = study.glob("wandb/offline-run-*")
        python("-m", "wandb", "sync", fragment, **server.env())
    first, second = server.runs
    pushed = start("push", str(study), "rankwise", **server.env())
    assert pushed.wait() == 0, pushed.stderr
    assert json.loads(pushed.stdout.splitlines()[-1]) == {"problems": [], "missing": []}
    assert server.store.deleted == [first] and server.runs == [second] == [wandb_id(tracked())]
    check_whole(server, tracked())
