"""A run that is cut, at any moment, goes on and ends as the one that was not."""

import json
import math
import os
import random
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_configs import Tiny
from torch import nn
from zygote import until

from rankwise.config import Config, plain
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.measure.clock import Clock
from rankwise.methods import DECLARED
from rankwise.paths import UNFINISHED
from rankwise.run import run
from rankwise.tracking.record import FAILED, RUNNING, Record, read
from rankwise.train import checkpoint
from rankwise.train.watch import Watch

KILLS = int(os.environ.get("KILLS", "3"))  # of each run
pytestmark = pytest.mark.usefixtures("torch_as_it_was")


class Cut(KeyboardInterrupt):
    """Stops a run from within."""


@pytest.fixture(autouse=True)
def every(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints whatever they cost."""
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)


def longer(tiny: Tiny, **keys: Any) -> Config:
    """Four stretches of ten steps, validated after 13, 27 and 40."""
    return tiny(**{"trainer__max_steps": 40, "trainer__validations": 3} | keys)


def cut(config: Config, step: int, at: Callable[[int], object] = lambda step: None) -> list[int]:
    """Steps of a run that is stopped at one; ``at`` is called at each."""
    steps: list[int] = []

    def on_progress(done: int, total: int, text: str) -> None:
        steps.append(done)
        at(done)
        if done >= step and text.startswith("loss"):
            raise Cut

    with pytest.raises(KeyboardInterrupt):
        run(config, on_progress)
    return steps


def told(record: Record) -> dict[str, Any]:
    """A record without what differs between two runs of one config: where, when, how fast, how often."""
    values: dict[str, Any] = json.loads((record.folder / "result.json").read_text())
    for key in ("started", "ended", "pid", "attempts", "died"):
        values["run"].pop(key, None)
    for key in ("seconds", "tokens_per_s", "mfu", "peak_flops", "peak_flops_source"):
        values["compute"].pop(key, None)
    for key in ("seconds_s", "tokens_per_s"):
        values["compute"].get("generation", {}).pop(key, None)
    values["memory"].get("train", {}).pop("process_peak_bytes", None)
    del values["config"]["outputs"], values["config"]["rerun"], values["provenance"]["git"]
    return values


def logged(place: Path) -> list[dict[str, Any]]:
    """All that is in the file, of whatever attempt."""
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: Record, other: Record) -> None:
    """To the bit: record, rows, predictions, and whatever is kept of the weights."""
    assert told(one) == told(other)
    rows = [[row | {"attempt": 1} for row in logged(record.folder)] for record in (one, other)]
    assert rows[0] == rows[1] and len(rows[0]) > 3
    files = [sorted(p.relative_to(r.folder) for p in r.folder.rglob("*") if p.is_file()) for r in (one, other)]
    assert files[0] == files[1] and not {path.name for path in files[0]} & set(UNFINISHED)
    for path in files[0]:
        if path.suffix in (".safetensors", ".parquet"):
            assert (one.folder / path).read_bytes() == (other.folder / path).read_bytes(), path


RUNS: dict[str, dict[str, Any]] = {
    "lora": {"tracking__ledger": True},
    "full": {"method": "full", "trainer__save_full": True},
    "adalora": {"method": "adalora"},
    "packed language": {"shape": "llama", "task": "synthetic_lm", "task__packing": True, "trainer__accumulate": 2},
    "sgd, checkpointed blocks": {"method": "pissa", "optim__name": "sgd", "trainer__gradient_checkpointing": True},
    "int8 base": {"shape": "llama", "quant__name": "int8_torchao", "quant__kind": "int8_torchao"},
}
RUNS["int8 base"]["method__dropout"] = 0.1


if "KILLS" in os.environ:  # by hand: KILLS=5 pytest tests/train/test_checkpoint.py -k killed
    KEYS: dict[str, dict[str, Any]] = {
        "vera": {"method__rank": 16},
        "top_layers": {"method__layers": 1},
        "custom": {"method__peft": {"_target_": "peft.HRAConfig", "r": 4}},
    }
    RUNS |= {
        name: {"method": name} | KEYS.get(name, {})
        for name, method in DECLARED.items()
        if name not in RUNS and method.trains != "nothing"
    }
    RUNS |= {kind: {"shape": "llama", "quant__name": kind, "quant__kind": kind} for kind in ("nf4", "int8", "bf16")}
    EARLY = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 1}
    OTHER = Path(tempfile.mkdtemp()) / "other.csv"
    OTHER.write_text("text\n" + "".join(f"some other words number {i * 37}\n" for i in range(60)))
    WRITES = {"shape": "llama", "task": "synthetic_lm"}
    RUNS |= {
        "callback": {"callbacks": {"it": EARLY | {"min_delta": 0.3}}},
        "writes": WRITES | {"task__generation__metrics": ["rouge_l"], "task__generation__max_new_tokens": 4},
        "forgets": WRITES | {"forgetting__name": "other", "forgetting__path": str(OTHER), "forgetting__n": 20},
        "two devices": {"trainer__devices": 2},
    }


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(tiny, zygote, tmp_path, name):
    if name == "int8 base":
        pytest.importorskip("torchao")
    config, whole = (longer(tiny, **RUNS[name], outputs=str(tmp_path / place)) for place in ("cut", "whole"))
    child = zygote(tmp_path / "child", "run_until", plain(whole), None)
    assert child.wait(300) == 0, child.stderr
    moments = random.Random(name)
    for kill in range(KILLS + 1):
        seconds = moments.uniform(0, 0.8) if kill < KILLS else None
        child = zygote(tmp_path / f"child-{kill}", "run_until", plain(config), seconds)
        assert child.wait(300) in ((0, -signal.SIGKILL) if kill < KILLS else (0,)), child.stderr
    assert_same(read(folder(config)), read(folder(whole)))


def test_a_run_goes_on_from_the_last_checkpoint_and_keeps_the_rows_before_it(tiny):
    config = longer(tiny, trainer__early_stopping=3)
    cut(config, 25)
    again: list[int] = []
    config.task.margin *= 2  # of which no step knows
    record = run(config, lambda done, *_: again.append(done))
    assert again[0] == 21 and again[-1] == 40 and record.run["attempts"] == 2
    assert [(row["attempt"], row["step"]) for row in logged(folder(config)) if "lr" in row] == [
        (1 + (step > 20), step) for step in range(1, 41)
    ]
    assert [row["step"] for row in record.metrics["curve"]] == [13, 27, 40]
    assert record.compute["seconds"]["train_s"] > 0


def test_full_fine_tuning_done_again_for_its_weights_goes_on_when_that_is_killed(tiny, zygote, tmp_path):
    config = longer(tiny, method="full", trainer__save_full=True)
    first = run(longer(tiny, method="full"))
    child = zygote(tmp_path / "child", "run_and_wait", plain(config), 25)
    until((Path(config.outputs) / "waiting").exists)
    child.kill()
    child.wait()
    again: list[int] = []
    record = run(config, lambda done, *_: again.append(done))
    assert again[0] == 21 and again[-1] == 40 and record.run["attempts"] == 3
    assert record.metrics == first.metrics and (record.folder / "adapter" / "model.safetensors").is_file()
    assert not (record.folder / "earlier").exists()


@pytest.mark.parametrize("again", [{"rerun": True}, {"trainer__save_full": True}], ids=str)
def test_a_rerun_that_is_stopped_leaves_the_result_and_goes_on(tiny, tmp_path, monkeypatch, again):
    whole = run(longer(tiny, method="full", **again, outputs=str(tmp_path / "whole")))
    first, config = run(longer(tiny, method="full")), longer(tiny, method="full", **again)
    real, steps = checkpoint.time.perf_counter, [0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: real() + 1000 * (max(steps, default=99) > 15))
    cut(config, 25, steps.append)
    assert read(folder(config)).metrics == first.metrics
    steps.clear()
    record = run(config, lambda done, *_: steps.append(done))
    assert steps[0] == 21 and record.run["attempts"] == 3 and not (record.folder / "earlier").exists()
    assert 1000 < record.compute["seconds"]["train_s"] < record.compute["seconds"]["total_s"]
    assert_same(record, whole)


@pytest.mark.parametrize(("said_s", "before_s"), [(None, 1000), (5000, 5000)])
def test_of_a_killed_run_that_was_copied_the_time_up_to_its_checkpoint_counts(tiny, said_s, before_s):
    cut(longer(tiny), 25)
    record, file = read(folder(longer(tiny))), folder(longer(tiny)) / "checkpoint.ckpt"
    record.run["status"], record.compute = RUNNING, {"seconds": {"total_s": said_s}} if said_s else {}
    record.write()
    state = torch.load(file, weights_only=True)
    state["callbacks"]["Checkpoints"]["total_s"] = 1000.0
    torch.save(state, file)
    os.utime(record.folder / "metrics.jsonl", (2e9, 2e9))
    assert before_s < run(longer(tiny)).compute["seconds"]["total_s"] < before_s + 1000


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_of_a_torn_checkpoint_the_one_before_it_is_taken_and_one_that_is_a_program_is_not_run(tiny, tmp_path):
    config = longer(tiny)
    cut(config, 25)
    newest = folder(config) / "checkpoint.ckpt"
    whole = newest.read_bytes()
    for torn in (whole[: len(whole) // 2], b""):
        newest.write_bytes(torn)
        assert cut(config, 14)[0] == 14
    for file in folder(config).glob("checkpoint*"):
        torch.save(Bomb(str(tmp_path / "ran")), file)
    assert cut(config, 3)[0] == 1 and not list(folder(config).glob("checkpoint*")) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trainer__eval_batch_size": 7}, "eval_batch_size 64, now 7"),
        ({"trainer__threads": 2}, "threads 1, now 2"),
        ({"trainer__deterministic": False}, ""),  # another run
    ],
    ids=str,
)
def test_a_checkpoint_of_another_command_is_not_gone_on_from(tiny, change, says, capsys):
    cut(longer(tiny, trainer__threads=1), 25)
    assert cut(longer(tiny, **{"trainer__threads": 1} | change), 3)[0] == 1
    assert capsys.readouterr().err == (f"rankwise: from the first step, not its checkpoint: {says}\n" if says else "")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_holds_what_is_trained_and_two_moments_and_no_base(tiny, method, tmp_path, monkeypatch):
    config = longer(tiny, method=method)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # which is on another disk, and may be full
    cut(config, 25)
    state = torch.load(folder(config) / "checkpoint.ckpt", weights_only=True)
    trained = sum(tensor.numel() for tensor in state["state_dict"].values())
    record = read(folder(config))
    assert trained == record.params["trainable"]
    size = (folder(config) / "checkpoint.ckpt").stat().st_size
    assert 3 * 4 * trained < size < 3 * 4 * trained + 3000 * len(state["state_dict"])


def test_what_a_kill_at_the_very_end_left_is_gone_after_the_next_start(tiny):
    place = folder(tiny())
    run(tiny())
    ours = [f".{name}.123.0123abcd" for name in ("config.yaml", "result.json", "metrics.jsonl", "generations.jsonl")]
    left = [place / name for name in (*UNFINISHED, ".tmp16dfbi", *ours)]
    for file in left:
        file.touch()
    run(tiny())
    assert not any(file.exists() for file in left)


def test_a_run_that_failed_leaves_no_checkpoint(tiny, monkeypatch):
    def fail(*_: Any) -> None:
        raise ValueError("on purpose")

    real = Watch.on_validation_epoch_end
    seen: list[int] = []
    monkeypatch.setattr(
        Watch, "on_validation_epoch_end", lambda *given: real(*given) if not seen and not seen.append(1) else fail()
    )
    with pytest.raises(ValueError, match="on purpose"):
        run(longer(tiny))
    assert not [path for path in folder(longer(tiny)).iterdir() if path.name in UNFINISHED]


def test_a_run_that_a_full_disk_ends_goes_on_from_its_last_checkpoint(tiny):
    config, limits = longer(tiny, method="full"), resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int) -> None:
        if step == 25:
            size = (folder(config) / "checkpoint.ckpt").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))

    try:
        with pytest.raises(Refused, match="File too large; make room there"):
            run(config, lambda step, *_: fill(step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(folder(config)).status == FAILED and not list(folder(config).glob("*.partial"))
    steps: list[int] = []
    record = run(config, lambda step, *_: steps.append(step))
    assert steps[0] == 21 and record.run["attempts"] == 2


def test_checkpoints_take_a_hundredth_of_the_time_that_training_takes(tiny, tmp_path, monkeypatch):
    """Of twenty stretches of 10 s, at checkpoints that take half a second."""
    now, saved, trained = [0.0], [], nn.Linear(1, 1)
    monkeypatch.setattr(checkpoint, "SHARE", 0.01)
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.2)

    def save(self: Any, trainer: Any) -> None:
        saved.append(now[0])
        now[0] += 0.5

    monkeypatch.setattr(checkpoint.Checkpoints, "_save", save)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(now=0, stretches=range(20)), should_stop=False)
    kept = checkpoint.Checkpoints(tmp_path, Record({}, plain(tiny())), None, Clock())
    kept.on_train_start(trainer, trained)
    for trainer.datamodule.now in range(20):
        now[0] += 10
        kept.on_train_epoch_end(trainer, trained)
    assert saved == [30, 80.5, 131, 181.5]
