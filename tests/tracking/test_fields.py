"""What a person picks from: true of every method, and nothing that a method does not own."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_configs import CONF
from whole import check, finished, rows, whole

from rankwise.identity import folder
from rankwise.tracking.fields import at, results, setup
from rankwise.tracking.record import begin


def leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def test_whatever_decides_the_result_is_there_with_the_configs_own_value(tiny):
    config = tiny("gpt2", "lora", optim__warmup=0.3, trainer__clip=0.5, task__max_length=17, targets__layers=[1])
    record = begin(config, None)
    told = dict(leaves(setup(record)["config"]))
    assert (told["optim.warmup"], told["trainer.clip"], told["task.max_length"]) == (0.3, 0.5, 17)
    assert told == {key: at(record, f"config.{key}") for key in told}
    record.provenance["packages"] = {"peft": "0.18", "torch": "2.13"}
    assert setup(record)["origin"]["packages"] == "peft 0.18, torch 2.13"
    assert len(dict(leaves(setup(record)))) < 50 and None not in dict(leaves(setup(record))).values()


def test_groups_are_not_named_as_keys_of_the_config_that_a_sweep_may_set(tiny):
    record = begin(tiny(), None)
    assert not setup(record).keys() & (record.config.keys() | {"experiment", "debug"})


def test_the_rank_that_a_budget_gave_is_told(tiny):
    record = begin(tiny("bert", "lora", method__rank=None, method__budget=4_000), None)
    assert "rank" not in setup(record)["arm"]
    record.lora = {"rank": 4}
    assert (setup(record)["arm"]["rank"], setup(record)["arm"]["budget"]) == (4, 4_000)


def test_results_are_flat_and_the_records_own(tiny):
    record = begin(tiny(), None)
    record.params, record.memory = {"trainable": 5}, {"train": {"peak_bytes": 7, "predicted": {"peak_bytes": 8}}}
    record.compute = {"seconds": {"train_s": 1.5}, "diverged": False}
    record.metrics = {
        "test": {"accuracy": {"value": 0.5, "se": 0.1, "n": 9}},
        "validation": {"loss": {"value": None, "se": 0.2, "n": 9}},  # type: ignore[dict-item]
        "forgetting": {"measure": "loss", "difference": {"value": 0.3, "se": 0.1, "n": 4}},
    }
    assert results(record) == {
        "objective": None,
        "status": "running",
        "params/trainable": 5,
        "memory/train/peak_bytes": 7,
        "memory/train/predicted_peak_bytes": 8,
        "compute/train_s": 1.5,
        "compute/diverged": False,
        "test/accuracy": 0.5,
        "test/accuracy_se": 0.1,
        "val/loss_se": 0.2,
        "forgetting/difference": 0.3,
        "forgetting/difference_se": 0.1,
    }


TRAINED = {"quant": "none"}
ON_TARGETS = TRAINED | {"targets": "attention"}
DROPPED = ON_TARGETS | {"dropout": 0.0}
LORA = DROPPED | {"bias": "none"}
BOFT = {"_target_": "peft.BOFTConfig", "boft_block_size": 4}
BASELINES = ("probe", "tfidf", "few_shot")
ON_BASE = ("bitfit", "bottleneck", "top_layers", "did", "full", "head")
OF_KIND: dict[str, dict[str, Any]] = {  # what an arm has beside the keys of its method's file
    **dict.fromkeys(("lora", "rslora", "adalora", "orthogonal", "pissa", "olora"), LORA),
    **dict.fromkeys(("milora", "init_ab", "lora_ga", "eva"), LORA),
    "dora": LORA | {"dora": True},
    "lora_plus": LORA | {"lr_ratio": 16.0},
    "lora_fa": LORA | {"freeze_a": True},
    "nested": LORA | {"nested": [1, 2, 4, 8, 16, 32]},
    "vera": DROPPED,
    **dict.fromkeys(("loha", "lokr", "ia3", "oft"), ON_TARGETS),
    "custom": ON_TARGETS | {"peft": BOFT},
    "gralora": ON_TARGETS | {"rank": 8, "peft": {"_target_": "peft.GraloraConfig", "alpha": 16, "gralora_k": 2}},
    "randlora": ON_TARGETS | {"rank": 24, "peft": {"_target_": "peft.RandLoraConfig", "randlora_alpha": 48}},
    **dict.fromkeys(ON_BASE, TRAINED),
    **{name: {} for name in BASELINES},
}
UNTOLD = {"bottleneck": {"place"}, **{name: {"lr"} for name in BASELINES}}  # of the file: a default, no training
METHODS = {file.stem: dict(OmegaConf.load(file)) for file in sorted((CONF / "method").glob("*.yaml"))}


def test_every_method_arrives_with_its_own_keys_and_results_and_none_of_others(server, start, tracked):
    assert METHODS.keys() == OF_KIND.keys()
    custom = {"custom": {"method__peft": BOFT}}
    configs = [tracked("online", method=name, seed=i, **custom.get(name, {})) for i, name in enumerate(METHODS)]
    made = [finished(config, number) for number, config in enumerate(configs)]
    assert start("tell", [str(made[0].folder)], **server.env()).wait() == 0
    got = server.run(server.runs[0])
    assert (got["state"], got["displayName"], got["jobType"]) == ("finished", made[0].run["name"], "train")
    check(made[0], got["config"], got["summary"])
    for number, (method, record) in enumerate(zip(METHODS, made, strict=True)):
        told = setup(record)
        own = {key: value for key, value in METHODS[method].items() if key not in {"name"} | UNTOLD.get(method, set())}
        assert told["arm"] == {"method": method} | own | OF_KIND[method]
        assert (told["run"]["seed"], told["run"]["stage"]) == (number, "result")
        scores = {"objective": number / 100, "test/accuracy": number / 200, "test/accuracy_se": 0.01}
        costs = {"params/trainable": 1000 + number, "memory/train/peak_bytes": 2000 + number, "compute/steps": number}
        assert results(record).items() >= (scores | costs | {"status": "finished"}).items()


def numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def test_tensorboard_has_the_curves_the_results_and_the_arm(start, tracked):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tracked(tracking__name="tensorboard", method__rank=3)
    rerun = tracked(tracking__name="tensorboard", method__rank=3, rerun=True)
    for target, given in (("run", config), ("run", config), ("run_and_fail", rerun)):  # the first result stays
        child = start(target, given)
        assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    path = folder(config).parent / "tensorboard" / folder(config).name
    assert record.run["tensorboard"] == {"path": str(path)} and not (path.parents[1] / "wandb").exists()
    read = event_accumulator.EventAccumulator(str(path))
    read.Reload()
    scalars = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    drawn: dict[str, Any] = {}
    for row in rows(config):
        for key, value in row.items():
            drawn.setdefault(key, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    assert {"train/loss", "lr", "val/accuracy", "val/accuracy_se", "objective"} <= drawn.keys()
    end, ended = rows(config)[-1]["step"], numbers(results(record))
    assert ended["val/loss"] not in [value for _, value in scalars["val/loss"]][-1:]  # the best was not the last
    for key, value in ended.items():
        drawn[f"best/{key}" if key in drawn else key] = [(end, pytest.approx(value, rel=1e-6))]
    assert scalars == {key: values for key, values in drawn.items() if key not in ("step", "attempt")}
    packed = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start_info = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData.FromString(packed)
    shown = start_info.session_start_info.hparams
    own = {f"{group}.{key}": value for group in ("arm", "run") for key, value in setup(record)[group].items()}
    assert {key: getattr(value, value.WhichOneof("kind")) for key, value in shown.items()} == own | {"run.attempts": 1}
    assert own["arm.rank"] == 3 and folder(config).name.encode() in packed


def test_trackio_has_the_rows_the_results_and_the_config(start, tracked):
    pytest.importorskip("trackio")
    config = tracked(tracking__name="trackio", method__rank=3)
    for target, given in (("run_and_fail", config), ("run", config)):
        child = start(target, given)
        assert child.wait() == 0 and child.stderr == ""
    record, place = whole(config), folder(config).parent / "trackio"
    assert record.run["trackio"] == {"project": "my-study", "path": str(place)}
    with sqlite3.connect(next(place.glob("my-study*.db"))) as database:
        stored = database.execute("select step, metrics from metrics order by id").fetchall()
        (sent,) = (json.loads(text) for (text,) in database.execute("select config from configs"))
    told, own = [{"step": step} | json.loads(text) for step, text in stored], rows(config)
    assert [{key: row.get(key) for key in mine} for row, mine in zip(told, own, strict=False)] == own
    curves, ended = {key for row in own for key in row}, numbers(results(record))
    last = {f"best/{key}" if key in curves else key: value for key, value in ended.items()}
    assert last.keys() >= {"best/val/loss", "test/accuracy"} and numbers(told[-1]).items() >= last.items()
    assert not curves & told[-1].keys() - {"step"}
    assert {key: value for key, value in sent.items() if key[0] != "_"} == json.loads(json.dumps(setup(record)))
