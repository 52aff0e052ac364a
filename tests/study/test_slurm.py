"""Studies on a Slurm array; what needs a real Slurm is skipped where none takes jobs (``make test-slurm``)."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_task import until
from slurm_cluster import can_run, cluster

from rankwise.cli import main

SMALL = ["train", "-m", "debug=fast", "tracking=none", "hydra/launcher=slurm", "hydra.launcher.memory=2GB"]
LONG = ["method.rank=1", "trainer.max_steps=20000"]


@pytest.mark.parametrize(
    ("absent", "line"),
    [
        ("submitit", "needs submitit; pip install 'rankwise[slurm]'"),
        ("sbatch", "no sbatch on this machine; log in where jobs are submitted"),
        ("scheduler", "sbatch: fatal: no configuration; hydra/launcher=local runs on this machine"),
    ],
)
def test_what_is_not_there_is_one_line_and_nothing_is_made(absent, line, tmp_path, monkeypatch, capsys):
    sbatch = tmp_path / "sbatch"
    if absent != "sbatch":
        sbatch.write_text("#!/bin/sh\necho error: no host >&2; echo sbatch: fatal: no configuration >&2; exit 1")
        sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == absent else find(name, *_) or 1)
    file = tmp_path / "sweep.yaml"
    command = 'command: ["${env}", rankwise, train, "${args_no_hyphens}"]'
    file.write_text(f"method: grid\nparameters: {{seed: {{values: [0, 1]}}}}\n{command}\n")
    sweep = ["sweep", str(file), *SMALL[2:]]
    for arguments in ([*SMALL, "method=tfidf"], sweep):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("rankwise: hydra/launcher=slurm: ") and line in said and said.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {file.name, sbatch.name}


@pytest.mark.parametrize("key", ["workers=0", "time=soon", "time=2", "gpus=x", "sbatch=3"])
def test_keys_are_checked_before_anything_is_asked_of_slurm(key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "method=tfidf", f"hydra.launcher.{key}"]) == 2
    assert f"hydra.launcher.{key}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def scheduler() -> Iterator[None]:
    """The one that takes jobs from here, or one of our own."""
    if shutil.which("sbatch") and not subprocess.run(["sinfo"], capture_output=True).returncode:
        yield
    elif "SLURM" in os.environ and can_run():
        with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder, cluster(Path(folder)):
            yield
    else:
        pytest.skip("no Slurm takes jobs from here; SLURM=1 starts one, for root where its programs are")


@pytest.fixture
def slurm(scheduler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankwise", *SMALL, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, process_group=0, preexec_fn=_heed_interrupts, **pipes)


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/*/*/result.json"))]


def rows_of(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("outputs/*/*/metrics.jsonl"))


def queue() -> str:
    return subprocess.run(["squeue", "-h", "-n", "rankwise", "-o", "%i"], text=True, capture_output=True).stdout.strip()


def test_workers_share_a_study_and_a_failed_run_is_named(slurm):
    words = ["model=tiny_llama", "seed=0,1", "hydra.launcher.workers=2"]
    process = study(*words, "method.rank=17,1,2")
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1, error
    assert "method.rank=17" in error and "at most 16" in error and "lora-r17" in error
    assert [record["run"]["attempts"] for record in records(slurm)] == [1] * 6
    assert sorted(record["run"]["status"] for record in records(slurm)) == ["failed"] * 2 + ["finished"] * 4
    again = study(*words, "method.rank=1,2")
    assert "4 finished before; 0 to run" in again.communicate(timeout=300)[1] and again.returncode == 0


def test_an_interrupt_cancels_the_array_and_stops_its_runs(slurm):
    process = study(*LONG)
    until(lambda: rows_of(slurm) > 3, 300)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "cancelling Slurm job" in error, error
    until(lambda: not queue())
    assert [record["run"]["status"] for record in records(slurm)] == ["stopped"]


def test_a_worker_whose_time_ends_goes_on_in_its_next_turn(slurm):
    process = study(*LONG[:1], "trainer.max_steps=2500")
    until(lambda: list(slurm.glob("outputs/*/*/checkpoint.ckpt")), 300)
    end_time()
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    (record,) = records(slurm)
    assert (record["run"]["status"], record["run"]["attempts"]) == ("finished", 2)


def test_a_worker_whose_time_ends_before_a_checkpoint_asks_for_no_other_turn(slurm):
    process = study(LONG[0], "trainer.max_steps=100000")  # no checkpoint before the thousandth
    until(lambda: list(slurm.glob("outputs/*/*/result.json")), 300)
    end_time()
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and "no worker is left" in error, error
    (log,) = slurm.glob("outputs/*/.slurm/*.out")
    assert "ends before any run got anywhere" in log.read_text()


def end_time() -> None:
    """What Slurm sends ahead of a time limit."""
    subprocess.run(["scancel", "--signal=USR2", queue().splitlines()[0]], check=True)
