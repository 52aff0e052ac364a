"""The story of one run: whatever happens to it, its record says so."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants
from zygote import until

from rankwise.config import Config, plain, typed
from rankwise.identity import folder
from rankwise.run import run
from rankwise.tracking.aside import set_aside
from rankwise.tracking.journal import read_rows
from rankwise.tracking.lease import owned
from rankwise.tracking.record import begin, find, read

OnProgress = Callable[[int, int, str], None]


def at(step: int, action: Callable[[], Any]) -> OnProgress:
    """Do something when a run reaches a step."""

    def on_progress(done: int, total: int, text: str) -> None:
        if done == step and text.startswith("loss"):
            action()

    return on_progress


def fail() -> None:
    raise ValueError("first line\nsecond line")


def ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    os.kill(os.getpid(), signal.SIGINT)


LEFT = {"result.json", "config.yaml", "metrics.jsonl"}  # whatever became of the run


def files(config: Config) -> set[str]:
    return {path.name for path in folder(config).iterdir()} - {".lock"}


def test_the_commit_of_a_hub_id_is_in_the_record(tiny, saved_base, tmp_path, monkeypatch):
    commit, kept = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--org--tiny"
    shutil.copytree(saved_base("bert"), kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    expected = {"source": "hub: org/tiny@main", "fingerprint": "hub:org/tiny@main", "commit": commit}
    for method in ("lora", "probe"):
        assert run(tiny(method=method, model__path="org/tiny")).provenance["model"] == expected


def test_a_run_leaves_one_self_contained_folder(tiny):
    config = tiny()
    record = run(config)
    assert record.status == "finished" and record.folder == folder(config)
    assert files(config) == LEFT | {"predictions.parquet", "adapter"}
    assert typed(yaml.safe_load((folder(config) / "config.yaml").read_text())) == config
    source = {"source": "600 generated rows", "asset": "synthetic:600", "fingerprint": None, "classes": ["0", "1"]}
    rows = {"train": 128, "validation": 64, "test": 64, "cut": 0}
    assert record.provenance["data"] | {"fingerprint": None} == source | rows
    assert record.provenance["model"]["source"] == "random weights"
    assert record.run["started"] <= record.run["ended"]
    assert [row["step"] for row in record.metrics["curve"]] == [3, 6]
    assert find([Path(config.outputs)]) == [record]


def test_progress_goes_up_to_the_end(tiny):
    told: list[tuple[int, int, str]] = []
    run(tiny(), lambda *given: told.append(given))
    assert [step for step, _, text in told if text.startswith("loss")] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in told} == {6} and told[-1] == (6, 6, "test")


def test_the_record_is_whole_at_every_moment(tiny):
    config = tiny()
    seen: list[dict[str, Any]] = []
    run(config, lambda *_: seen.append(json.loads((folder(config) / "result.json").read_text())))
    assert {stored["run"]["status"] for stored in seen} == {"running"}
    assert all(stored["params"]["trainable"] and stored["config"] == plain(config) for stored in seen)


@pytest.mark.parametrize("method", ["probe", "tfidf"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_baseline_has_a_record_like_any_other(tiny, method, kind):
    metric = {"classification": "accuracy", "regression": "pearson"}[kind]
    config = tiny(method=method, task__kind=kind, task__metric=metric, objective=f"val/{metric}")
    record = run(config)
    assert record.status == "finished" and files(config) == LEFT | {"predictions.parquet"}
    assert record.objective == record.metrics["validation"][metric]["value"] > 0.6
    assert record.metrics["test"][metric]["n"] == 64
    base = run(tiny(method="head", trainer__max_steps=1)).params["frozen"] if method == "probe" else 0  # which it reads
    assert record.params["trainable"] == record.params["head"] == record.params["total"] - base > 0
    assert record.params["frozen"] == base
    assert record.compute["precision"] == "fp32"


def test_what_is_finished_is_skipped_unless_asked(tiny):
    config = tiny()
    first = run(config)
    assert run(config, at(1, lambda: pytest.fail("ran again"))) == first
    assert run(tiny(study=config.study, trainer__threads=1), at(1, fail)) == first  # the same run by its hash
    again = run(tiny(rerun=True))
    assert again.run["attempts"] == 2 and again.metrics == first.metrics
    assert len(read_rows(folder(config) / "metrics.jsonl")) == 8


def test_full_fine_tuning_runs_again_for_weights_that_it_did_not_keep(tiny):
    assert run(tiny(method="full")).run["attempts"] == 1
    again = run(tiny(method="full", trainer__save_full=True))
    assert again.run["attempts"] == 2 and (again.folder / "adapter").is_dir()
    assert run(tiny(method="full", trainer__save_full=True)).run["attempts"] == 2
    assert run(tiny(method="full")).run["attempts"] == 2


@pytest.mark.parametrize(
    ("harm", "status", "message"),
    [(fail, "failed", "first line\nsecond line"), (ctrl_c, "stopped", "stopped from outside")],
)
def test_a_result_outlives_an_attempt_to_run_it_again(tiny, harm, status, message):
    first = run(tiny())
    with pytest.raises((ValueError, KeyboardInterrupt)):
        run(tiny(rerun=True), at(3, harm))
    kept = read(folder(tiny()))
    assert kept.run == first.run | {"attempts": 2, "rerun": {"status": status, "message": message}}
    assert (kept.metrics, kept.error) == (first.metrics, None)
    assert run(tiny(rerun=True)).run["attempts"] == 3, "rows of metrics.jsonl are told apart by it"


def test_a_result_outlives_the_kill_of_its_rerun_after_the_new_weights_were_written(tiny):
    first = run(tiny())
    (first.folder / "merged").mkdir()
    files = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    for name in ("result.json", "adapter", "all"):  # where the kill comes: in setting aside, or behind it
        set_aside(first.folder)
        if name == "all":
            begin(tiny(rerun=True), first).write()
            (first.folder / "adapter").mkdir()
            (first.folder / "adapter" / "adapter_model.safetensors").write_text("of the rerun")
        elif name == "result.json":
            (first.folder / "earlier" / "adapter").replace(first.folder / "adapter")
        assert run(tiny()) == first
        assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == files
    assert (first.folder / "merged").is_dir() and not (first.folder / "earlier").exists()


def test_labels_of_a_regression_are_not_rounded_to_the_weights(tiny):
    keys = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson", "task__margin": 0.1}
    record = run(tiny(trainer__precision="bf16_true", **keys))
    exact = run(tiny(**keys, study="exact"))
    labels = [pq.read_table(each.folder / "predictions.parquet")["label"].to_pylist() for each in (record, exact)]
    assert record.compute["precision"] == "bf16_true" and labels[0] == labels[1]


def test_a_failing_run_says_why_and_may_be_tried_again(tiny):
    config = tiny()
    with pytest.raises(ValueError, match="first line"):
        run(config, at(4, fail))
    record = read(folder(config))
    assert record.status == "failed" and record.run["ended"]
    assert record.error and record.error["type"] == "ValueError"
    assert record.error["message"] == "first line\nsecond line" and "def fail" not in record.error["message"]
    assert "in fail" in record.error["traceback"]
    assert [row["step"] for row in read_rows(folder(config) / "metrics.jsonl")] == [1, 2, 3, 3]
    assert files(config) == LEFT
    assert record.compute["seconds"]["total_s"] > 0 and record.params["trainable"] > 0

    finished = run(config)
    assert finished.status == "finished" and finished.run["attempts"] == 2 and finished.error is None


@pytest.mark.parametrize("step", [1, 6])
def test_ctrl_c_stops_a_run_and_its_record(tiny, step):
    config = tiny()
    with pytest.raises(KeyboardInterrupt):
        run(config, at(step, ctrl_c))
    record = read(folder(config))
    assert record.status == "stopped" and record.error == {"type": "Stopped", "message": "stopped from outside"}
    assert files(config) == LEFT
    assert run(config).run["attempts"] == 2


def test_a_killed_run_reads_as_stopped_and_the_same_command_finishes_it(tiny, zygote, tmp_path):
    config = tiny()
    child = zygote(tmp_path / "child", "run_and_wait", plain(config), 5)
    until((Path(config.outputs) / "waiting").exists)
    assert read(folder(config)).status == "running"
    before = (folder(config) / "result.json").read_bytes()
    assert run(config, at(1, lambda: pytest.fail("ran beside it"))).status == "running"
    assert (folder(config) / "result.json").read_bytes() == before

    child.kill(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    killed = read(folder(config))
    assert killed.status == "stopped" and killed.run["attempts"] == 1 and killed.run["pid"] == child.pid
    assert [row["step"] for row in read_rows(folder(config) / "metrics.jsonl")] == [1, 2, 3, 3, 4]
    assert typed(yaml.safe_load((folder(config) / "config.yaml").read_text())) == config

    record = run(config)
    assert record.status == "finished" and record.run["attempts"] == 2
    steps = [row["step"] for row in read_rows(folder(config) / "metrics.jsonl") if "lr" in row]
    assert steps == list(range(1, 1 + int(config.trainer.max_steps or 0)))
    assert not [name for name in files(config) if name.startswith(".") or name.startswith("best")]


def test_sigterm_stops_a_run_truthfully(tiny, zygote, tmp_path):
    config = tiny()
    child = zygote(tmp_path / "child", "run_and_wait", plain(config), 2)
    until((Path(config.outputs) / "waiting").exists)
    child.kill(signal.SIGTERM)
    assert child.wait() != 0
    stored = json.loads((folder(config) / "result.json").read_text())
    assert stored["run"]["status"] == "stopped" and stored["run"]["ended"]


def test_two_processes_at_one_run_do_it_once(tiny, zygote, tmp_path):
    config = tiny(trainer__max_steps=40)
    children = [zygote(tmp_path / f"child-{i}", "run", plain(config)) for i in range(2)]
    assert [child.wait() for child in children] == [0, 0], [child.stderr for child in children]
    told = [json.loads(child.stdout) for child in children]
    assert "finished" in [one["status"] for one in told] and {one["status"] for one in told} <= {"finished", "running"}
    assert {one["attempts"] for one in told} == {1}
    record = read(folder(config))
    assert record.status == "finished" and record.run["attempts"] == 1
    steps = [row["step"] for row in read_rows(folder(config) / "metrics.jsonl") if "lr" in row]
    assert steps == list(range(1, 41))


def test_a_run_that_another_has_is_running_whatever_an_earlier_attempt_wrote(tiny):
    config = tiny()
    with pytest.raises(ValueError):
        run(config, at(1, fail))
    with owned(folder(config)):
        assert run(config).status == "running"
    assert read(folder(config)).status == "failed"
    fresh = tiny(seed=1)
    with owned(folder(fresh)):
        assert run(fresh).status == "running"
    assert not (folder(fresh) / "result.json").exists()
