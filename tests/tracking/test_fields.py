"""What a person picks from: true of every method, and nothing that a method does not own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rankwise.config import Config
from rankwise.tracking import fields
from rankwise.tracking.fields import at, results, setup
from rankwise.tracking.record import Record, begin

Tiny = Callable[..., Config]
ALWAYS = {"method", "quant", "lr"}
LORA = {"rank", "alpha", "dropout", "bias", "targets"}
OWNED = {
    "lora": LORA, "rslora": LORA, "dora": LORA | {"dora"}, "pissa": LORA | {"init"}, "lora_fa": LORA | {"freeze_a"},
    "adalora": LORA, "vera": {"rank", "dropout", "targets"}, "loha": {"rank", "alpha", "targets"},
    "lokr": {"rank", "alpha", "targets"}, "ia3": {"targets"}, "oft": {"block", "targets"}, "bitfit": set(),
    "full": set(), "head": set(), "top_layers": {"layers"}, "bottleneck": {"size"},
}  # fmt: skip


@pytest.mark.parametrize("method", OWNED)
def test_an_arm_has_the_keys_that_its_method_owns_and_no_other(tiny: Tiny, method: str) -> None:
    config = tiny("bert", method, seed=3)
    arm = setup(begin(config, None))["arm"]
    assert arm.keys() - {"place"} == ALWAYS | OWNED[method]
    assert arm["method"] in (method, "lora") and arm["lr"] == config.optim.lr
    for key in OWNED[method] - {"targets"}:
        assert str(arm[key]) == str(getattr(config.method, key))


@pytest.mark.parametrize("method", ["probe", "tfidf"])
def test_a_baseline_has_neither_rank_nor_rate_nor_targets(tiny: Tiny, method: str) -> None:
    assert setup(begin(tiny("bert", method), None))["arm"] == {"method": method}


def leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def test_whatever_decides_the_result_is_there_with_the_configs_own_value(tiny: Tiny) -> None:
    config = tiny("gpt2", "lora", optim__warmup=0.3, trainer__clip=0.5, task__max_length=17, targets__layers=[1])
    record = begin(config, None)
    told = dict(leaves(setup(record)["config"]))
    assert (told["optim.warmup"], told["trainer.clip"], told["task.max_length"]) == (0.3, 0.5, 17)
    assert told == {key: at(record, f"config.{key}") for key in told}
    assert len(dict(leaves(setup(record)))) < 75 and None not in dict(leaves(setup(record))).values()


def test_groups_are_not_named_as_keys_of_the_config_that_a_sweep_may_set(tiny: Tiny) -> None:
    record = begin(tiny(), None)
    assert not setup(record).keys() & (record.config.keys() | {"experiment", "debug"})


def test_results_are_flat_and_the_records_own(tiny: Tiny) -> None:
    record = begin(tiny(), None)
    record.params, record.memory = {"trainable": 5}, {"train": {"peak_bytes": 7, "predicted": {"peak_bytes": 8}}}
    record.compute = {"seconds": {"train_s": 1.5}, "diverged": False}
    record.metrics = {
        "test": {"accuracy": {"value": 0.5, "se": 0.1, "n": 9}},
        "validation": {"loss": {"value": None, "se": 0.2, "n": 9}},  # type: ignore[dict-item]
        "forgetting": {"measure": "loss", "difference": {"value": 0.3, "se": 0.1, "n": 4}},
    }
    assert results(record) == {
        "objective": None, "status": "running", "params/trainable": 5, "memory/train/peak_bytes": 7,
        "memory/train/predicted_peak_bytes": 8, "compute/train_s": 1.5, "compute/diverged": False, "test/accuracy": 0.5,
        "test/accuracy_se": 0.1, "val/loss_se": 0.2, "forgetting/difference": 0.3, "forgetting/difference_se": 0.1,
    }  # fmt: skip


def test_every_field_is_a_place_that_a_record_has(tiny: Tiny) -> None:
    groups = {name for name in Record.__dataclass_fields__}
    assert {path.split(".")[0] for path in (fields.SETUP | fields.RESULTS).values()} <= groups
