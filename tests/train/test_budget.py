"""How many steps a run has, where it is validated, and the learning rate on the way."""

import csv
import importlib
import itertools
from pathlib import Path

import lightning.pytorch.callbacks
import numpy as np
import pytest
import yaml
from tiny_configs import study_of, tiny

from rankwise import callbacks
from rankwise.cli import main
from rankwise.config import Optim, plain
from rankwise.errors import Refused
from rankwise.identity import canonical
from rankwise.measure.shape import Shape
from rankwise.report.report import results
from rankwise.tasks.batches import schedule
from rankwise.tracking.fields import setup
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import Record, find
from rankwise.train.budget import Budget
from rankwise.train.module import rate
from rankwise.train.step import shares


def rates(steps: int, **keys: object) -> list[float]:
    optim = Optim(lr=1.0, **keys)  # type: ignore[arg-type]
    return [rate(optim, step, steps) for step in range(steps)]


def test_a_schedule_goes_up_in_the_warmup_and_then_down_or_stays():
    down = [1 / 3, 2 / 3, 1, *(eighths / 8 for eighths in range(7, 0, -1))]
    assert rates(10, schedule="linear", warmup=0.2) == pytest.approx(down)
    assert rates(10, schedule="constant", warmup=0.3) == pytest.approx([0.25, 0.5, 0.75] + [1] * 7)
    cosine = rates(101, schedule="cosine", warmup=0)
    assert cosine[0] == 1 and cosine[50] == pytest.approx(0.5, abs=0.02) and cosine[100] < 0.001
    assert cosine == sorted(cosine, reverse=True)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("warmup", [0, 0.06, 0.5, 0.99])
def test_every_step_learns_something_and_none_more_than_the_peak(schedule, steps, warmup):
    values = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < value <= 1 for value in values)


@pytest.mark.parametrize(
    ("keys", "rows", "steps"),
    [
        ({"epochs": 3.0, "batch_size": 32}, 1500, 141),
        ({"epochs": 0.5, "batch_size": 10}, 100, 5),
        ({"epochs": 1.1, "batch_size": 10}, 1000, 110),
        ({"epochs": 0.01, "batch_size": 10}, 100, 1),
        ({"epochs": 1.5, "batch_size": 10, "accumulate": 3}, 101, 6),
        ({"epochs": 3.0, "max_steps": 7}, 1500, 7),
        ({"epochs": 2.0, "batch_size": 64}, 10, 2),
        ({"epochs": 2.5, "batch_size": 10, "accumulate": 8}, 100, 4),  # the last of one micro-batch
    ],
    ids=str,
)
def test_steps_of_a_run(keys, rows, steps):
    config = tiny(**({"trainer__max_steps": None} | {f"trainer__{key}": value for key, value in keys.items()}))
    assert Budget.of(config, rows).steps == steps


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
def test_epochs_are_as_many_however_a_step_is_split(accumulate):
    config = tiny(trainer__max_steps=None, trainer__epochs=2.5, trainer__batch_size=5, trainer__accumulate=accumulate)
    budget = Budget.of(config, 100)
    assert budget.batches * 5 == 250 and budget.steps == -(-50 // accumulate)
    assert budget.steps_per_epoch * accumulate == 20


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 13), (5, 3)])
def test_an_epoch_sees_every_row_once_also_where_the_last_step_is_short(accumulate, steps):
    config = tiny(trainer__max_steps=None, trainer__epochs=1.0, trainer__batch_size=8, trainer__accumulate=accumulate)
    budget = Budget.of(config, 101)
    plan = schedule(np.arange(101) % 7, 8, budget.batches, config.seed, config.trainer.group_by_length)
    assert sorted(itertools.chain(*plan)) == list(range(101)) and budget.steps == steps


def test_the_weights_of_a_steps_micro_batches_sum_to_one_also_where_it_has_fewer():
    step = [Shape(8, 4), Shape(8, 9), Shape(4, 9)]
    assert shares(step) == pytest.approx([1.2, 1.2, 0.6]) and sum(shares(step, accumulate=5)) / 5 == pytest.approx(1)
    learned = [Shape(8, 4, labelled=3), Shape(8, 4, labelled=9)]
    assert shares(learned) == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_the_budget_is_the_same_for_every_arm(method):
    assert Budget.of(tiny(method=method), 128) == Budget.of(tiny(method__rank=1), 128)


def test_validations_are_spread_evenly_and_the_last_is_at_the_end():
    config = tiny()
    for steps, count in itertools.product(range(1, 60), range(1, 12)):
        config.trainer.max_steps, config.trainer.validations = steps, count
        points = Budget.of(config, 128).checkpoints
        assert len(points) == min(steps, count) and points[-1] == steps
        gaps = [b - a for a, b in itertools.pairwise([0, *points])]
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1, (steps, count, points)


MODULE = """
from pathlib import Path
from lightning.pytorch import Callback

class Mine(Callback):
    def __init__(self, word):
        self.word = word
        with Path("made").open("a") as file:
            file.write(word)

    def on_fit_end(self, trainer, module):
        names = [type(callback).__name__ for callback in trainer.callbacks]
        Path("said").write_text(f"{self.word} {trainer.global_step} {' '.join(names)}")
"""
LIGHTNING = "lightning.pytorch.callbacks"
RUN = ["train", "debug=fast", "trainer.max_steps=2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_callbacks.py").write_text(MODULE)
    write("mine", {"mine": {"_target_": "my_callbacks.Mine", "word": "hello"}})
    return tmp_path


def write(name: str, values: object, group: str = "callbacks") -> None:
    Path(f"conf/{group}").mkdir(parents=True, exist_ok=True)
    Path(f"conf/{group}/{name}.yaml").write_text(yaml.dump(values))


def test_a_callback_runs_beside_ours_and_tells_runs_apart(capsys):
    assert main([*RUN, "callbacks=mine"]) == 0
    word, steps, *names = Path("said").read_text().split()
    assert (word, steps, Path("made").read_text()) == ("hello", "2", "hello" * 2) and {
        "Watch",
        "Probe",
        "Checkpoints",
        "Mine",
    } <= set(names)
    Path("said").unlink()
    assert main(RUN) == 0 and not Path("said").exists()
    plainly, called = sorted((record.config["callbacks"] for record in find([Path("outputs")])), key=len)
    assert plainly == {} and called == {"mine": {"_target_": "my_callbacks.Mine", "word": "hello"}}

    config, *_ = (path for path in Path("outputs").glob("*/*/config.yaml") if "my_callbacks" in path.read_text())
    capsys.readouterr()
    assert main(["train", "--config", str(config)]) == 2  # a file may be somebody else's
    assert "add callbacks.mine._target_=my_callbacks.Mine" in capsys.readouterr().err and not Path("said").exists()
    assert main(["train", "--config", str(config), "rerun=true", "callbacks.mine._target_=my_callbacks.Mine"]) == 0
    assert Path("said").exists()


@pytest.mark.parametrize("method", [[], ["method=nested", "method.rank=8"]], ids=["lora", "nested"])
def test_a_logger_is_told_what_the_journal_is_told_and_the_test_scores(method, capsys):
    importlib.import_module("pytorch_lightning")  # as a callback may, after which all is logged under its name
    target = "lightning.pytorch.loggers.CSVLogger"
    write("mine", {"table": {"_target_": target, "save_dir": ".", "name": "table", "version": ""}}, "logger")
    assert main([*RUN, *method, "logger=mine"]) == 0
    assert capsys.readouterr().err == ""
    (record,) = find([Path("outputs")])
    with Path("table/metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    own = [{key: row[key] for key in row if key != "attempt"} for row in read_rows(record.folder / "metrics.jsonl")]
    assert rows[:-1] == own and len(own) == 4
    assert rows[-1].items() >= {"step": 2, "test/accuracy": record.metrics["test"]["accuracy"]["value"]}.items()
    assert yaml.safe_load(Path("table/hparams.yaml").read_text())["arm"] == setup(record)["arm"]
    assert main([*RUN, *method]) == 0 and len(find([Path("outputs")])) == 1  # the same run, which is not run again
    assert main(["train", "--config", str(record.folder / "config.yaml")]) == 2
    assert f"add logger.table._target_={target}" in capsys.readouterr().err


EARLY = {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "val_loss"}
LOGGED = "val/accuracy, val/f1, val/matthews, val/loss, train/loss"
NONE: list[tuple[str, object, str]] = [
    *(
        (group, {"_target_": target}, f"{group}.it._target_={target}: ")
        for group in ("callbacks", "logger")
        for target in (
            "pytorch_lightning.Callback",
            "os.path.join",
            "pathlib.Path",
            "nowhere.Mine",
            "my_callbacks.Other",
            None,
        )
    ),
    (
        "logger",
        {"_target_": "os.path.join"},
        "logger.it._target_=os.path.join: a class of lightning.pytorch's loggers, as p",
    ),
    ("callbacks", 5, "callbacks.it=5: {_target_: package.Class, key: value}; a file conf/callbacks/NAME.yaml of"),
    ("callbacks", {"_target_": "my_callbacks.Mine", "foo": 1}, "callbacks.it.foo: Mine does not take this\n"),
    ("callbacks", EARLY | {"patiense": 1}, "callbacks.it.patiense: EarlyStopping does not take this (did you mean pat"),
    ("callbacks", EARLY, f"callbacks.it.monitor=val_loss: one of {LOGGED}\n"),
    ("callbacks", {"_target_": f"{LIGHTNING}.EarlyStopping"}, f"callbacks.it: {LIGHTNING}.EarlyStopping does not take"),
    (
        "callbacks",
        EARLY | {"monitor": "val/loss", "mode": "up"},
        f"callbacks.it: {LIGHTNING}.EarlyStopping does not take",
    ),
    (
        "callbacks",
        {"_target_": f"{LIGHTNING}.LambdaCallback", "setup": "print"},
        "callbacks.it.setup=print: a function: {",
    ),
    (
        "callbacks",
        {"_target_": f"{LIGHTNING}.ModelCheckpoint"},
        f"callbacks.it._target_={LIGHTNING}.ModelCheckpoint: a run",
    ),
    (
        "logger",
        {"_target_": "lightning.pytorch.loggers.CSVLogger", "version": ""},
        "logger.it: lightning.pytorch.loggers.",
    ),
]


@pytest.mark.parametrize(("group", "value", "said"), NONE)
def test_what_is_none_is_refused_in_one_line_before_anything_is_made(group, value, said, capsys):
    write("bad", {"it": value}, group)
    assert main([*RUN, f"{group}=bad"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rankwise: {said}") and err.count("\n") == 1 and not Path("outputs").exists()


def test_adalora_takes_no_callback_that_may_stop_it_before_it_has_pruned(capsys):
    write("early", {"it": EARLY | {"monitor": "val/loss"}})
    assert main([*RUN, "callbacks=early", "method=adalora"]) == 2
    assert capsys.readouterr().err.startswith(f"rankwise: callbacks.it._target_={LIGHTNING}.EarlyStopping: none that ")
    assert not Path("outputs").exists()


def test_a_callback_that_monitors_sees_every_validation():
    patient = {"monitor": "val/loss", "patience": 1, "divergence_threshold": 0.01, "mode": "min"}
    write("early", {"it": {"_target_": f"{LIGHTNING}.EarlyStopping"} | patient})  # any loss is above this threshold
    assert main([*RUN[:2], "callbacks=early", "trainer.max_steps=6", "trainer.validations=3"]) == 0
    (record,) = find([Path("outputs")])
    assert record.compute["steps"] == 2


NEEDS: dict[str, dict[str, object]] = {
    "EarlyStopping": {"monitor": "val/loss"},
    "ThroughputMonitor": {"batch_size_fn": {"_target_": "hydra.utils.get_method", "path": "builtins.len"}},
}
STANDS = {"BasePredictionWriter", "Callback", "LambdaCallback", "ModelSummary", "RichModelSummary", "SpikeDetection"}
CSV = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "."}


@pytest.mark.parametrize(
    ("logger", "more"), [({}, set()), ({"it": CSV}, {"DeviceStatsMonitor", "LearningRateMonitor"})]
)
def test_of_lightning_s_callbacks_those_stand_that_change_nothing_that_is_compared(logger, more, tiny):
    refused = {}
    for name in lightning.pytorch.callbacks.__all__:
        values = {"_target_": f"{LIGHTNING}.{name}"} | NEEDS.get(name, {})
        try:
            callbacks.check(tiny(callbacks={"it": values}, logger=logger), ["val/loss"])
        except Refused as error:
            refused[name] = str(error).partition(": ")[0]
    assert set(lightning.pytorch.callbacks.__all__) - set(refused) == STANDS | set(NEEDS) | more
    assert refused == {name: f"callbacks.it._target_={LIGHTNING}.{name}" for name in refused}


def test_without_any_a_run_is_the_one_it_was(tiny):
    values = plain(tiny())
    assert {"callbacks", "logger"} <= values.keys() and not {"callbacks", "logger"} & canonical(values).keys()


LATE = "trainer.max_time=00:00:00:00"
SMALL = ["model=tiny_bert", "task=synthetic", "tracking=none"]


def test_a_preset_cuts_the_config_short_and_is_no_result(tmp_path, monkeypatch):
    (overfit,) = study_of("debug=overfit", *SMALL)
    assert (overfit.task.n_train, Budget.of(overfit, 32).steps, overfit.stage) == (32, 40, "debug")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug=limit", *SMALL]) == 0
    (record,) = find([Path("outputs")])
    assert (record.provenance["data"]["train"], record.compute["steps"]) == (50, 20)
    compared = Record(record.run, record.config | {"stage": None})
    assert results([record, compared]) == [compared]


@pytest.mark.parametrize(
    "words",
    [["debug=profiler", "trainer.max_steps=2", "trainer.detect_anomaly=true"], ["debug=fast", LATE]],
    ids=["profiler, detect_anomaly", "max_time"],
)
def test_what_lightnings_trainer_is_told_by_name_reaches_it_and_the_run_is_no_result(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words, *SMALL]) == 0
    (record,) = find([Path("outputs")])
    assert record.config["stage"] == "debug"
    profiled = [path.read_text() for path in record.folder.glob("fit-profile.txt")]
    assert ["FineTuner.optimizer_step" in text for text in profiled] == [True] * (words[0] == "debug=profiler")
    assert record.compute["steps"] == (0 if LATE in words else 2)
