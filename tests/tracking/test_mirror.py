"""The real W&B, in processes of their own: what it is told, and that nothing it does touches a run."""

import json

import pytest
from wandb_file import Seen, seen
from wandb_server import KEY, ContractServer, Fault
from whole import LINE, check, rows, wandb_id, whole

from hydra_plugins.rankwise.plugins import LocalLauncher
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder, label
from rankwise.study import launcher
from rankwise.tracking.fields import setup
from rankwise.tracking.mirror import Mirror
from rankwise.tracking.record import begin
from rankwise.tracking.wandb_run import mark, placed


def mirrored(config: Config) -> list[Seen]:
    """All W&B runs of the study, in order of time."""
    return [seen(path) for path in sorted(folder(config).parent.glob("wandb/*run-*/run-*.wandb"))]


def test_an_offline_run_is_told_whole(start, tracked):
    config = tracked(tracking__tags=["mine"], tracking__project="ranks", method__rank=3, method__alpha="2r")
    child = start("run", config)
    assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    (told,) = mirrored(config)
    assert record.run["wandb"].items() >= {"id": told.id, "mode": "offline", "url": None, "group": told.group}.items()
    assert told.id.startswith("lora-r3-attention-lr0_002-s0-") and told.group.startswith("my-study-")
    assert (told.name, told.project) == (label(config), "ranks")
    assert set(told.tags) == {config.task.name, "lora", "attention", "mine"}
    check(record, told.config, told.summary)
    assert told.config["arm"]["scale"] == 2 and told.summary["test/accuracy"] is not None
    assert len(rows(config)) == 6 + 2
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in told.history] == rows(config)
    assert told.exit_code == 0
    (link,) = (folder(config).parent / "leet").iterdir()
    assert link.name == f"run-00000000_000000-{told.id}" and next(link.glob("*.wandb")).samefile(
        next(folder(config).parent.glob("wandb/*/*.wandb"))
    )


def test_what_is_told_is_what_the_files_say_however_often_a_run_is_tried(start, tracked):
    config, again = tracked(), tracked(rerun=True)
    assert start("run_and_fail", config).wait() == 0
    (failed,) = mirrored(config)
    assert (failed.exit_code, failed.summary["status"]) == (1, "failed")
    assert [row["step"] for row in failed.history] == [1, 2]
    for target, given in (("run", config), ("run", again), ("run_and_fail", again)):
        assert start(target, given).wait() == 0
        (told,) = mirrored(config)
        assert (told.group, told.exit_code) == (failed.group, 0) and told.id == wandb_id(config) != failed.id
        assert len([*(folder(config).parent / "leet").iterdir()]) == 1
        check(whole(config), told.config | {"run": setup(whole(config))["run"]}, told.summary)
        assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in told.history] == rows(config)
    assert (told.config["run"]["attempts"], whole(config).run["attempts"]) == (3, 4)
    assert whole(config).run["rerun"] == {"status": "failed", "message": "on purpose"}


def test_a_finished_run_is_told_again_when_a_sweep_asks_for_it(start, tracked):
    """Else the agent's server would wait for a result that never comes."""
    config = tracked()
    assert start("run", config).wait() == 0
    result = (folder(config) / "result.json").read_bytes()
    assert start("run", config).wait() == 0
    assert len(mirrored(config)) == 1
    assert start("run", config, WANDB_SWEEP_ID="sweep1", WANDB_RUN_ID="asked1").wait() == 0
    first, asked = mirrored(config)
    assert asked.id == "asked1" and asked.exit_code == 0
    check(whole(config), asked.config, asked.summary)
    assert [row["step"] for row in asked.history] == [row["step"] for row in first.history]
    assert (folder(config) / "result.json").read_bytes() == result


def test_ids_and_groups_are_of_one_study_folder(tracked, tmp_path):
    one, other = (begin(tracked(outputs=str(tmp_path / place)), None) for place in ("here", "there"))
    for record in (one, other):
        record.write()
        before = placed(record)  # as a dashboard asks, which only reads
        assert [path.name for path in record.folder.parent.iterdir()] == [record.folder.name]
        mark(record.folder.parent)
        assert placed(record)["id"] != before["id"]
    mine, theirs = placed(one), placed(other)
    assert mine["id"] != theirs["id"] and mine["group"] != theirs["group"] and mine["name"] == theirs["name"]
    one.folder = one.folder.parent.rename(tmp_path / "moved") / one.folder.name
    assert (placed(one)["id"], placed(one)["group"]) == (mine["id"], mine["group"])


@pytest.mark.parametrize(
    ("variable", "argument", "ours"),
    [
        ("WANDB_PROJECT", "project", {"tracking__project": "mine"}),
        ("WANDB_ENTITY", "entity", {"tracking__entity": "me"}),
        ("WANDB_NAME", "name", {"name": "mine"}),
        ("WANDB_RUN_GROUP", "group", {}),
        ("WANDB_JOB_TYPE", "job_type", {}),
        ("WANDB_DIR", "dir", {}),
        ("WANDB_RUN_ID", "id", {}),
    ],
)
def test_wandbs_environment_holds_where_the_config_says_nothing(tracked, monkeypatch, variable, argument, ours):
    monkeypatch.setenv(variable, "theirs")
    record = begin(tracked(), None)
    record.write()
    assert placed(record)[argument] == "theirs"
    if ours:
        said = begin(tracked(**ours), None)
        said.write()
        assert placed(said)[argument] == next(iter(ours.values()))


def test_tags_notes_and_the_folder_of_the_environment_are_taken(start, tracked, tmp_path):
    env = {"WANDB_TAGS": "a, b", "WANDB_NOTES": "why", "WANDB_DIR": str(tmp_path)}
    child = start("mirror", tracked(tracking__tags=["mine"]), **env)
    assert child.wait() == 0
    (file,) = tmp_path.glob("wandb/*run-*/run-*.wandb")
    assert set(seen(file).tags) == {"synthetic", "lora", "attention", "mine", "a", "b"} and seen(file).notes == "why"


def test_one_run_s_id_is_refused_for_several_before_anything_is_written(tracked, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    with pytest.raises(Refused, match=r"^WANDB_RUN_ID=mine: is the id of one run, and these are 2; unset it$"):
        launcher.run(LocalLauncher(), [tracked(seed=seed) for seed in range(2)])
    assert not [*tmp_path.rglob("result.json")]


def test_a_run_survives_the_death_of_wandbs_service(start, tracked):
    config = tracked()
    child = start("run_without_core", config)
    assert child.wait() == 0 and child.stdout == "finished\n"
    assert child.stderr.startswith(LINE) and child.stderr.count("\n") == 1, child.stderr
    assert "problem" in whole(config).run["wandb"]


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_run_survives_a_folder_that_its_tracker_cannot_write(start, tracked, tracker):
    pytest.importorskip(tracker)
    config = tracked(tracking__name=tracker, study="my study")
    study = folder(config).parent
    study.mkdir(parents=True)
    (study / tracker).write_text("in the way")
    child = start("run", config, WANDB_INIT_TIMEOUT="inf")
    assert child.wait() == 0
    assert child.stderr.startswith(LINE.replace("wandb", tracker)) and child.stderr.count("\n") == 1, child.stderr
    assert child.stderr.endswith(
        f"own files are whole, rankwise dashboard --push '{study}' sends what is missing\n"
        if tracker == "wandb"
        else "own files are whole\n"
    )
    assert "problem" in whole(config).run[tracker] and "id" not in whole(config).run[tracker]


def test_a_run_is_offline_and_ends_in_time_when_the_server_never_answers(start, tracked):
    config = tracked("online")
    with ContractServer(Fault("hang")) as deaf:
        child = start("run", config, **deaf.env(), WANDB_INIT_TIMEOUT="2")
        assert child.wait(60) == 0
        assert child.stderr == (
            f"{LINE}{deaf.store.url} does not answer (timed out); tracked offline); its own files are whole, "
            f"rankwise dashboard --push {folder(config).parent} sends what is missing\n"
        )
    record = whole(config)
    (told,) = mirrored(config)
    assert record.run["wandb"]["mode"] == "offline" and record.run["wandb"]["id"] == told.id
    check(record, told.config, told.summary)


@pytest.mark.parametrize(("wanted", "env"), [("online", {}), ("auto", {"WANDB_MODE": "online"})])
def test_without_a_key_online_becomes_offline_and_says_so(start, tracked, wanted, env):
    child = start("mirror", tracked(wanted), **env)
    assert child.wait() == 0
    assert child.stderr.count("\n") == 1 and "no W&B key is configured; 'wandb login' sets one; tracked" in child.stderr
    assert json.loads(child.stdout)["mode"] == "offline"


@pytest.mark.parametrize(
    ("wanted", "env", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": ""}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "offline"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
    ],
    ids=str,
)
def test_the_mode_is_the_configs_unless_that_is_auto(start, wanted, env, expected):
    child = start("mode", wanted, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_SILENT="true", **env)
    assert child.wait() == 0
    assert (child.stdout, child.stderr) == (f"{expected}\n", "")


@pytest.mark.parametrize(
    ("keys", "env"),
    [({"mode": "disabled"}, None), ({"name": "none"}, None), ({"mode": "online"}, "disabled"), ({}, "disabled")],
)
def test_a_mirror_that_is_off_starts_no_process_and_notes_nothing(tracked, monkeypatch, keys, env):
    if env:
        monkeypatch.setenv("WANDB_MODE", env)
    record = begin(tracked(**{f"tracking__{key}": value for key, value in keys.items()}), None)
    record.write()
    before = json.dumps(record.to_dict())
    off = Mirror(record)
    off.start()
    assert off._process is None
    off.close(record)
    assert json.dumps(record.to_dict()) == before
