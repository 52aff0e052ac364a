"""What a person picks from: true of every method, and nothing that a method does not own."""

from collections.abc import Callable, Iterator
from typing import Any

from rankwise.config import Config
from rankwise.tracking import fields
from rankwise.tracking.fields import at, results, setup
from rankwise.tracking.record import Record, begin

Tiny = Callable[..., Config]


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
    record.provenance["packages"] = {"peft": "0.18", "torch": "2.13"}
    assert setup(record)["origin"]["packages"] == "peft 0.18, torch 2.13"
    assert len(dict(leaves(setup(record)))) < 50 and None not in dict(leaves(setup(record))).values()


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


def test_every_field_is_a_place_that_a_record_has(tiny: Tiny) -> None:
    groups = {name for name in Record.__dataclass_fields__}
    assert {path.split(".")[0] for path in (fields.SETUP | fields.RESULTS).values()} <= groups
