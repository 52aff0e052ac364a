"""The real W&B, in processes of their own: what it is told, and that nothing it does touches a run."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from wandb_file import Seen, seen
from whole import LINE, rows, whole
from zygote import Child

from rankwise.config import Config
from rankwise.identity import folder, label, run_id
from rankwise.tracking import mirror
from rankwise.tracking.record import begin

Start = Callable[..., Child]
KEY = "a" * 40


def mirrored(config: Config) -> list[Seen]:
    """All W&B runs of the study, in order of time."""
    return [seen(path) for path in sorted(folder(config).parent.glob("wandb/*run-*/run-*.wandb"))]


def test_an_offline_run_is_told_whole(start: Start, tracked: Callable[..., Config]) -> None:
    config = tracked(tracking__tags=["mine"], tracking__project="ranks", method__rank=3, method__alpha="2r")
    child = start("run", config)
    assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    (told,) = mirrored(config)
    assert (told.id, told.name, told.group, told.project) == (run_id(config), label(config), "my-study", "ranks")
    assert set(told.tags) == {"lora", "attention", "mine"}
    assert told.config["method"]["rank"] == 3 and told.config["trainer"]["max_steps"] == 6
    assert told.config["run_id"] == run_id(config)
    assert {key: told.config[key] for key in record.config} == json.loads(json.dumps(record.config))

    assert len(rows(config)) == 6 + 2
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in told.history] == rows(config)
    assert told.summary["objective"] == record.objective
    assert told.summary["test/accuracy"] == record.metrics["test"]["accuracy"]["value"]
    assert told.summary["val/accuracy_se"] == record.metrics["validation"]["accuracy"]["se"]
    assert told.summary["params/trainable"] == record.params["trainable"]
    assert told.summary["memory/train/peak_bytes"] == record.memory["train"]["peak_bytes"]
    assert told.summary["lora/scale"] == 2 and told.summary["status"] == "finished"
    assert told.exit_code == 0
    assert record.run["wandb"] == {"id": run_id(config), "mode": "offline", "url": None}


def test_a_failed_run_goes_on_under_its_id_and_what_is_run_again_gets_its_own(
    start: Start, tracked: Callable[..., Config]
) -> None:
    config = tracked()
    assert start("run_and_fail", config).wait() == 0
    assert start("run", config).wait() == 0
    assert start("run", tracked(rerun=True)).wait() == 0
    failed, finished, again = mirrored(config)
    assert (failed.exit_code, finished.exit_code) == (1, 0)
    assert (failed.id, finished.id, again.id) == (run_id(config), run_id(config), f"{run_id(config)}-3")
    assert failed.group == finished.group == again.group and failed.summary["status"] == "failed"
    assert [row["step"] for row in failed.history] == [1, 2]
    assert not any("attempt" in row for row in failed.history)
    assert {row["attempt"] for row in finished.history} == {2}


def test_a_finished_run_is_told_again_when_a_sweep_asks_for_it(start: Start, tracked: Callable[..., Config]) -> None:
    """Else the agent's server would wait for a result that never comes."""
    config = tracked()
    assert start("run", config).wait() == 0
    result = (folder(config) / "result.json").read_bytes()
    assert start("run", config).wait() == 0
    assert len(mirrored(config)) == 1
    assert start("run", config, WANDB_SWEEP_ID="sweep1", WANDB_RUN_ID="asked1").wait() == 0
    first, asked = mirrored(config)
    assert asked.id == "asked1" and asked.exit_code == 0
    assert asked.summary["objective"] == first.summary["objective"]
    assert [row["step"] for row in asked.history] == [row["step"] for row in first.history]
    assert (folder(config) / "result.json").read_bytes() == result


def test_a_run_survives_the_death_of_wandbs_service(start: Start, tracked: Callable[..., Config]) -> None:
    config = tracked()
    child = start("run_without_core", config)
    assert child.wait() == 0 and child.stdout == "finished\n"
    assert child.stderr.startswith(LINE) and child.stderr.count("\n") == 1, child.stderr
    assert "problem" in whole(config).run["wandb"]


def test_a_run_survives_a_folder_that_wandb_cannot_write(start: Start, tracked: Callable[..., Config]) -> None:
    config = tracked()
    study = folder(config).parent
    study.mkdir(parents=True)
    (study / "wandb").write_text("in the way")
    child = start("run", config)
    assert child.wait() == 0
    assert child.stderr.startswith(LINE) and child.stderr.count("\n") == 1, child.stderr
    assert "id" not in whole(config).run["wandb"]


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        kept, ended = [], threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()
        assert kept, "nobody called"
        for connection in kept:
            connection.close()


def test_a_run_ends_in_time_when_the_server_never_answers(
    start: Start, tracked: Callable[..., Config], deaf: str
) -> None:
    """Also the process: wandb has a mind to wait when the interpreter exits."""
    config = tracked("online")
    child = start("run", config, WANDB_BASE_URL=deaf, WANDB_API_KEY=KEY, WANDB_FINISH_TIMEOUT="6")
    began = time.monotonic()  # the first child waits for imports
    assert child.wait(60) == 0
    assert time.monotonic() - began < 2 + 15
    assert child.stderr == f"{LINE}no answer); the run's own files are whole\n"
    assert whole(config).run["wandb"] == {"problem": "no answer"}


def test_without_a_key_online_becomes_offline_and_says_so(start: Start, tracked: Callable[..., Config]) -> None:
    config = tracked("online")
    child = start("run", config)
    assert child.wait() == 0
    assert child.stderr.count("\n") == 1 and "no W&B key is configured, tracking offline" in child.stderr
    assert mirrored(config)[0].summary["objective"] == whole(config).objective


@pytest.mark.parametrize(
    ("wanted", "env", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "offline"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
    ],
    ids=str,
)
def test_the_mode_is_the_configs_unless_that_is_auto(
    start: Start, wanted: str, env: dict[str, str], expected: str
) -> None:
    child = start("mode", wanted, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_SILENT="true", **env)
    assert child.wait() == 0
    assert (child.stdout, child.stderr) == (f"{expected}\n", "")


def test_a_key_that_cannot_be_one_is_a_line(start: Start, tracked: Callable[..., Config]) -> None:
    child = start("mirror", tracked("auto"), WANDB_API_KEY="short")
    assert child.wait() == 0
    assert child.stderr.startswith(f"{LINE}AuthenticationError") and child.stderr.count("\n") == 1
    assert json.loads(child.stdout).keys() == {"problem"}


@pytest.mark.parametrize(("mode", "env"), [("disabled", None), ("online", "disabled"), ("auto", "disabled")])
def test_a_mirror_that_is_off_starts_no_thread_and_notes_nothing(
    tracked: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, mode: str, env: str | None
) -> None:
    if env:
        monkeypatch.setenv("WANDB_MODE", env)
    config = tracked(mode)
    record, threads = begin(config, None), threading.active_count()
    off = mirror.Mirror(config, record)
    off.log({"step": 1})
    off.close(record)
    assert threading.active_count() == threads and "wandb" not in record.run


def test_a_summary_is_flat_and_leaves_nothing_out(tracked: Callable[..., Config]) -> None:
    record = begin(tracked(), None)
    record.params, record.lora = {"trainable": 5}, {"scale": 2.0, "ranks": {"a.b": 4}}
    record.memory = {"train": {"peak_bytes": 7}}
    record.metrics = {
        "test": {"accuracy": {"value": 0.5, "se": 0.1, "n": 9}},
        "validation": {"loss": {"value": 0.7, "se": 0.2, "n": 9}},
        "best_step": 3,
        "curve": [{}],
    }
    assert mirror.summary(record) == {
        "params/trainable": 5, "lora/scale": 2.0, "memory/train/peak_bytes": 7, "test/accuracy": 0.5,
        "test/accuracy_se": 0.1, "val/loss": 0.7, "val/loss_se": 0.2, "objective": None, "status": "running",
    }  # fmt: skip
