"""A run on several devices is the run on one, within rounding, and ends truthfully when a part of it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rankwise.cli import main
from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.run import run
from rankwise.tracking.journal import read_rows
from rankwise.tracking.predictions import read as read_predictions
from rankwise.tracking.record import FAILED, Record, read, write_atomically
from rankwise.train.ranks import Ranks

Tiny = Callable[..., Config]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    """One run without dropout on 1, 2 and 3 devices: odd batches, accumulation, a tail of few rows, and fewer batches
    of validation than ranks."""
    from tiny_configs import tiny

    odd: dict[str, Any] = {
        "task__n_train": 45,
        "task__n_validation": 60,
        "trainer__batch_size": 11,
        "trainer__accumulate": 2,
        "trainer__eval_batch_size": 64,
        "trainer__max_steps": None,
        "trainer__epochs": 3,
        "trainer__validations": 2,
    }
    outputs = tmp_path_factory.mktemp("ranks")
    return {n: run(tiny("llama", outputs=str(outputs), trainer__devices=n, **odd)) for n in (1, 2, 3)}


@pytest.mark.parametrize("devices", [2, 3])
def test_several_ranks_log_and_learn_what_one_does(alike: dict[int, Record], devices: int) -> None:
    one, several = alike[1], alike[devices]
    assert one.folder and several.folder and one.folder != several.folder
    rows, others = (read_rows(record.folder / "metrics.jsonl") for record in (one, several))
    assert [row.keys() for row in rows] == [row.keys() for row in others] and len(rows) > 6
    for row, other in zip(rows, others, strict=True):
        assert {key: pytest.approx(value, abs=2e-6) for key, value in row.items()} == other
    weights, theirs = (load_file(record.folder / "adapter" / "adapter_model.safetensors") for record in (one, several))
    for name, weight in weights.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=1e-4)
    columns, same = (read_predictions(r.folder, "", ("label", "score")).columns for r in (one, several))
    assert np.array_equal(columns["label"], same["label"]) and np.allclose(columns["score"], same["score"], atol=1e-5)
    assert one.compute["tokens"] == several.compute["tokens"]
    assert one.metrics["test"]["accuracy"] == several.metrics["test"]["accuracy"]


def test_operations_are_those_of_all_ranks_and_memory_is_that_of_one(alike: dict[int, Record]) -> None:
    one, three = alike[1], alike[3]
    assert three.compute["flops"]["train_total"] == pytest.approx(one.compute["flops"]["train_total"], rel=0.05)
    assert [max(rows for rows, _ in run.memory["train"]["batch"]) for run in (one, three)] == [11, 4]
    predicted, measured = (three.memory["train"][key] for key in ("predicted", "peak_bytes"))
    assert predicted["peak_bytes"] == pytest.approx(measured, rel=0.1)  # the plan knows no buckets of gradients


def test_rows_of_a_batch_are_split_without_loss_or_repeat() -> None:
    for world in (1, 2, 3):
        for size in range(1, 8):
            batch = list(range(10, 10 + size))
            parts = [Ranks(rank, world).rows(batch)[: Ranks(rank, world).sizes(batch)[rank]] for rank in range(world)]
            assert sorted(row for part in parts for row in part) == batch


def test_one_device_keeps_the_id_of_older_runs_and_several_have_their_own(tiny: Tiny) -> None:
    assert run_id(tiny()) == run_id(tiny(trainer__devices=1)) != run_id(tiny(trainer__devices=2))


def test_what_a_rank_refuses_is_one_line_and_no_process_is_left(tiny: Tiny) -> None:
    with pytest.raises(Refused, match=r"task\.max_length"):
        run(tiny(trainer__devices=2, task__max_length=5000))
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_rank_that_is_killed_ends_the_run_as_failed(tiny: Tiny) -> None:
    config = tiny(trainer__devices=2, trainer__max_steps=2000, task__n_train=300)
    file = Path(config.outputs) / "config.yaml"
    write_atomically(file, yaml.safe_dump(plain(config)))
    script = file.with_name("go.py")
    script.write_text(
        "import sys, yaml\nfrom rankwise.config import typed\nfrom rankwise.run import run\n"
        "if __name__ == '__main__':\n    run(typed(yaml.safe_load(open(sys.argv[1]))))\n"
    )
    process = subprocess.Popen([sys.executable, script, file], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder(config) / "metrics.jsonl").exists() or not (folder(config) / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    ranks = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    os.kill(max(rank.pid for rank in ranks), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    record = read(folder(config))
    assert record.status == FAILED and "of 2 was killed by SIGKILL" in record.error["message"]
    assert not any(psutil.pid_exists(rank.pid) and rank.is_running() and rank.status() != "zombie" for rank in ranks)


def test_more_devices_than_there_are_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "debug=fast", "trainer.devices=999"]) == 2
    assert "trainer.devices=999" in capsys.readouterr().err
