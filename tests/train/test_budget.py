"""How many steps a run has, where it is validated, and the learning rate on the way."""

import itertools

import pytest
from tiny_configs import tiny

from rankwise.config import Optim
from rankwise.measure.shape import Shape
from rankwise.train.budget import Budget
from rankwise.train.module import rate
from rankwise.train.step import shares


def rates(steps: int, **keys: object) -> list[float]:
    optim = Optim(lr=1.0, **keys)  # type: ignore[arg-type]
    return [rate(optim, step, steps) for step in range(steps)]


def test_linear_goes_up_in_the_warmup_and_down_to_the_end() -> None:
    assert rates(10, schedule="linear", warmup=0.2) == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


def test_cosine_is_halfway_down_in_the_middle() -> None:
    values = rates(101, schedule="cosine", warmup=0)
    assert values[0] == 1 and values[50] == pytest.approx(0.5, abs=0.02) and values[100] < 0.001
    assert values == sorted(values, reverse=True)


def test_constant_stays_after_the_warmup() -> None:
    assert rates(10, schedule="constant", warmup=0.3) == pytest.approx([0.25, 0.5, 0.75] + [1] * 7)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("warmup", [0, 0.06, 0.5, 0.99])
def test_every_step_learns_something_and_none_more_than_the_peak(schedule: str, steps: int, warmup: float) -> None:
    values = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < value <= 1 for value in values)


@pytest.mark.parametrize(
    ("keys", "rows", "steps"),
    [
        ({"epochs": 3.0, "batch_size": 32}, 1500, 141),
        ({"epochs": 0.5, "batch_size": 10}, 100, 5),
        ({"epochs": 0.01, "batch_size": 10}, 100, 1),
        ({"epochs": 1.5, "batch_size": 10, "accumulate": 3}, 101, 6),
        ({"epochs": 3.0, "max_steps": 7}, 1500, 7),
        ({"epochs": 2.0, "batch_size": 64}, 10, 2),
        ({"epochs": 2.5, "batch_size": 10, "accumulate": 8}, 100, 4),  # the last of one micro-batch
    ],
    ids=str,
)
def test_steps_of_a_run(keys: dict[str, float], rows: int, steps: int) -> None:
    config = tiny(**({"trainer__max_steps": None} | {f"trainer__{key}": value for key, value in keys.items()}))
    assert Budget.of(config, rows).steps == steps


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
def test_epochs_are_as_many_however_a_step_is_split(accumulate: int) -> None:
    config = tiny(trainer__max_steps=None, trainer__epochs=2.5, trainer__batch_size=5, trainer__accumulate=accumulate)
    budget = Budget.of(config, 100)
    assert budget.batches * 5 == 250 and budget.steps == -(-50 // accumulate)
    assert budget.steps_per_epoch * accumulate == 20


def test_the_weights_of_a_steps_micro_batches_sum_to_one_also_where_it_has_fewer() -> None:
    step = [Shape(8, 4), Shape(8, 9), Shape(4, 9)]
    assert shares(step) == pytest.approx([1.2, 1.2, 0.6]) and sum(shares(step, accumulate=5)) / 5 == pytest.approx(1)
    learned = [Shape(8, 4, labelled=3), Shape(8, 4, labelled=9)]
    assert shares(learned) == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_the_budget_is_the_same_for_every_arm(method: str) -> None:
    assert Budget.of(tiny(method=method), 128) == Budget.of(tiny(method__rank=1), 128)


def test_validations_are_spread_evenly_and_the_last_is_at_the_end() -> None:
    for steps, count in itertools.product(range(1, 60), range(1, 12)):
        points = Budget.of(tiny_of(steps, count), 128).checkpoints
        assert len(points) == min(steps, count) and points[-1] == steps
        gaps = [b - a for a, b in itertools.pairwise([0, *points])]
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1, (steps, count, points)


BASE = tiny()


def tiny_of(steps: int, validations: int):  # type: ignore[no-untyped-def]
    BASE.trainer.max_steps, BASE.trainer.validations = steps, validations
    return BASE
