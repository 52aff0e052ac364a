"""A run on several devices is the run on one, within rounding, and ends truthfully when a part of it does not."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint import assert_same
from test_training import EXPLODING
from torch import distributed, nn

from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.forks import fork_server
from rankwise.identity import folder
from rankwise.measure.ledger import PARTS, Ledger
from rankwise.run import run
from rankwise.tasks import data
from rankwise.tracking.journal import read_rows
from rankwise.tracking.predictions import read as read_predictions
from rankwise.tracking.record import FAILED, Record, read
from rankwise.train.ranks import Ranks


@pytest.fixture(scope="module", autouse=True)
def one_server() -> Iterator[None]:
    """Imports of torch and friends are paid for once."""
    with fork_server.kept():
        yield


BATCHES = {"trainer__batch_size": 11, "trainer__accumulate": 2, "trainer__eval_batch_size": 64}
LENGTH = {"trainer__max_steps": None, "trainer__epochs": 2.2, "trainer__validations": 2}
ODD: dict[str, Any] = {"task__n_train": 45, "task__n_validation": 60, **BATCHES, **LENGTH}
NESTED = {"method": "nested", "method__rank": 8, "method__nested": [1, 2, 4]}


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    """One run without dropout, whose steps draw a rank, on 1, 2 and 3 devices: odd batches, accumulation, a tail of few
    rows, and fewer batches of validation than ranks."""
    from tiny_configs import tiny

    outputs = tmp_path_factory.mktemp("ranks")
    return {n: run(tiny("llama", outputs=str(outputs), trainer__devices=n, **ODD, **NESTED)) for n in (1, 2, 3)}


@pytest.mark.parametrize("devices", [2, 3])
def test_several_ranks_log_and_learn_what_one_does(alike, devices):
    one, several = alike[1], alike[devices]
    assert one.folder != several.folder and one.compute["steps"] == 6  # the last of one micro-batch
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


def test_ranks_take_over_what_the_study_has_read_and_end_well_where_the_run_diverges(tiny, tmp_path):
    config = tiny("llama", "full", outputs=str(tmp_path), trainer__devices=2, **EXPLODING)
    data.check_files([config])
    read = data.already_read(config)
    data.take_as_read({key: dataclasses.replace(rows, fingerprint="told") for key, rows in read.items()})
    try:
        record = run(config)
    finally:
        data.take_as_read(read)
    assert record.provenance["data"]["fingerprint"] == "told"
    assert record.status == "finished" and record.compute["diverged"] and 2 < record.compute["steps"] < 40


def test_operations_are_those_of_all_ranks_and_memory_is_that_of_one(alike):
    one, three = alike[1], alike[3]
    assert three.compute["flops"]["train_total"] == pytest.approx(one.compute["flops"]["train_total"], rel=0.05)
    assert [max(rows for rows, _ in run.memory["train"]["batch"]) for run in (one, three)] == [11, 4]
    for held in (three.memory["train"], three.memory["eval"]):
        assert held["predicted"]["phases"] == pytest.approx(held["phases"], rel=0.02)


def assert_same_weights_and_scores(one: Record, other: Record) -> None:
    """To the bit: what was logged, learned and scored, and what was written by a language model."""
    assert one.metrics == other.metrics
    for name in ("adapter/adapter_model.safetensors", "metrics.jsonl", "generations.jsonl"):
        files = [record.folder / name for record in (one, other) if record.folder]
        assert files[0].exists() == files[1].exists()
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()


def test_a_base_that_is_shared_out_learns_what_a_whole_one_does(alike, tiny, tmp_path):
    shared_out = {"trainer__devices": 2, "trainer__strategy": "fsdp2", "tracking__ledger": True}
    several = run(tiny("llama", outputs=str(tmp_path), **shared_out, **ODD, **NESTED))
    assert_same_weights_and_scores(several, alike[2])
    whole, shared = (run.memory["train"] for run in (alike[2], several))
    counts = alike[2].params  # and PEFT keeps the head as it was beside the trained one
    frozen = 4 * (counts["total"] - counts["trainable"] + counts["head"])
    assert shared["weights_bytes"] == whole["weights_bytes"] - frozen // 2
    assert shared["peak_bytes"] <= shared["predicted"]["peak_bytes"] <= 1.1 * shared["peak_bytes"]


def test_a_base_is_read_from_its_file_block_by_block_and_all_devices_write_together(tiny, tmp_path, saved_base):
    for file in (folder := shutil.copytree(saved_base("llama"), tmp_path / "base")).glob("*.safetensors"):
        weights = {name: w.to(torch.bfloat16) for name, w in load_file(file).items()}
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, file, {"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"dtype": "bfloat16"}))
    keys = {"model__path": str(folder), "model__shape": None, "quant__name": "bf16", "quant__kind": "bf16"}
    keys |= {"method": "lora_fa", "task": "synthetic_lm", "trainer__gradient_checkpointing": True}
    keys |= {"task__generation__metrics": ["exact_match"], "task__generation__max_new_tokens": 4}
    ddp, shared = (
        run(tiny("llama", outputs=str(tmp_path / strategy), trainer__devices=2, trainer__strategy=strategy, **keys))
        for strategy in ("ddp", "fsdp2")
    )
    assert "exact_match" in ddp.metrics["test"]
    assert_same_weights_and_scores(shared, ddp)


def test_rows_of_a_batch_are_split_without_loss_or_repeat():
    for world in (1, 2, 3):
        for size in range(1, 8):
            batch = list(range(10, 10 + size))
            parts = [Ranks(rank, world).rows(batch)[: Ranks(rank, world).sizes(batch)[rank]] for rank in range(world)]
            assert sorted(row for part in parts for row in part) == batch


def test_a_mean_over_ranks_is_no_part_of_the_memory_that_is_measured():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with Ledger(nn.Linear(2, 2)) as ledger:
            assert Ranks(0, 2).mean(2.0, 4.0, device=torch.device("cpu")) == (1.0, 2.0)
    finally:
        distributed.destroy_process_group()
    assert ledger.footprint().peaks == {**dict.fromkeys(PARTS, 0), "weights": 24}


def test_what_a_rank_refuses_is_one_line_and_no_process_is_left(tiny):
    with pytest.raises(Refused, match=r"task\.max_length"):
        run(tiny(trainer__devices=2, task__max_length=5000))
    assert not ranks_left()


def ranks_left() -> list[psutil.Process]:
    """Processes that the fork server has started."""
    below = psutil.Process().children(recursive=True)
    return [one for one in below if "forkserver" in " ".join(one.cmdline()) and one.ppid() != os.getpid()]


def test_a_run_of_which_a_rank_is_killed_has_failed_and_goes_on_as_if_it_had_not(tiny, tmp_path):
    keys: dict[str, Any] = {"trainer__max_steps": 40, "trainer__validations": 3, "method__dropout": 0.1}
    keys |= {"trainer__devices": 2, "callbacks": {"cut": {"_target_": "in_child.CutOnce", "step": 25}}}
    cut, whole = (tiny(outputs=str(tmp_path / name), **keys) for name in ("cut", "whole"))
    folder(whole).mkdir(parents=True)
    (folder(whole) / "cut").touch()
    with pytest.raises(ChildProcessError, match="rank 1 of 2 was killed by SIGKILL"):
        run(cut)
    failed = read(folder(cut))
    assert failed.status == FAILED and not ranks_left() and "load_s" in failed.compute["seconds"]
    steps: list[int] = []
    again = run(cut, lambda done, *_: steps.append(done))
    assert steps[0] == 21 and again.compute["seconds"]["total_s"] > failed.compute["seconds"]["total_s"]
    assert_same(again, run(whole))
    assert failed.params == again.params and failed.provenance == again.provenance and failed.lora == again.lora


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trainer.devices=999", "trainer.devices=999"),
        ("trainer.devices=2 quant=int8_torchao", "quant=int8, nf4 and bf16 can"),
        ("trainer.devices=2 trainer.strategy=fsdp", "one of ddp, fsdp2"),
        ("trainer.strategy=fsdp2 method=full", "ddp: method=full leaves no base frozen"),
        ("trainer.strategy=fsdp2 quant=nf4", "ddp: weights of quant=nf4 cannot be cut"),
        ("trainer.strategy=fsdp2 forgetting=news", "ddp: forgetting=news asks one device"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug=fast", *line.split()]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not list(tmp_path.iterdir())
