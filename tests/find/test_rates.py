"""Successive halving over learning rates, on objectives that are made up per rate and length of training."""

import math
from collections.abc import Callable, Sequence
from csv import DictReader
from io import StringIO
from typing import Any

import pytest
from tiny_configs import Tiny

from rankwise.config import Config, plain
from rankwise.find.question import TUNE, TUNING_SEED, Question
from rankwise.find.rates import Failed, Rates, tune
from rankwise.report.report import compared
from rankwise.tracking.record import Record


def asked(tiny: Tiny, ranks: tuple[int, ...] = (2, 4, 8), **method: Any) -> Question:
    changes = {f"method__{key}": value for key, value in method.items()}
    lora = tiny("bert", "lora", method__rank=4, trainer__epochs=3, trainer__max_steps=None, **changes)
    full = tiny("bert", "full", trainer__epochs=3, trainer__max_steps=None)
    return Question(lora, full, ranks, tuned=True)


class Runner:
    """Scores runs by a rule of ours and keeps what it was asked."""

    def __init__(
        self, score: Callable[[Config], float | None], se: float = 0.0, loss: Callable[[Config], float] = lambda _: 1.0
    ):
        self.score, self.se, self.loss, self.configs = score, se, loss, list[Config]()

    def __call__(self, configs: Sequence[Config], stage: str = "") -> list[Record]:
        self.configs += configs
        return [self.record(config) for config in configs]

    def record(self, config: Config) -> Record:
        name, value = config.task.metric, self.score(config)
        metrics = {
            "validation": {name: {"value": value, "se": self.se, "n": 100}, "loss": {"value": self.loss(config)}}
        }
        run = {"status": "failed" if value is None else "finished", "name": f"lr{config.method.lr}"}
        return Record(run, plain(config), metrics=metrics, objective=value)

    def rates(self, method: str, epochs: float | None = None, rank: int | None = None) -> list[float]:
        return sorted(
            config.method.lr
            for config in self.configs
            if config.method.name == method
            and (epochs is None or config.trainer.epochs == epochs)
            and (rank is None or config.method.rank == rank)
        )


def best_at(lora: float, full: float) -> Callable[[Config], float]:
    """Scores that fall off with the distance, in decades, from one best rate per method."""
    return lambda config: (
        0.9 - 0.1 * abs(math.log10(config.method.lr / {"lora": lora, "full": full}[config.method.name]))
    )


def found(tiny: Tiny, runner: Runner, **method: Any) -> Rates:
    return tune(asked(tiny, **method), runner)


def test_the_best_two_of_four_rates_train_in_full_on_both_sides_alike(tiny):
    lr = asked(tiny).method.method.lr
    runner = Runner(best_at(1.1 * lr, asked(tiny).reference.method.lr))
    rates = found(tiny, runner)
    assert rates.of(4) == lr and rates.of(None) == asked(tiny).reference.method.lr
    assert not rates.middle.at_edge and not rates.reference.at_edge
    assert len(runner.rates("full", 1.0)) == len(runner.rates("lora", 1.0, rank=4)) == 4  # a third of three epochs
    assert len(runner.rates("full", 3.0)) == len(runner.rates("lora", 3.0)) == 2
    assert {config.stage for config in runner.configs} == {TUNE}
    assert {config.seed for config in runner.configs} == {TUNING_SEED}


def test_near_ties_are_kept_for_the_full_length(tiny):
    runner = Runner(best_at(asked(tiny).method.method.lr, asked(tiny).reference.method.lr), se=0.06)
    found(tiny, runner)
    assert len(runner.rates("lora", 3.0)) > 2


def test_a_rate_at_which_the_run_fails_is_never_chosen(tiny):
    lr = asked(tiny).method.method.lr
    runner = Runner(lambda config: None if config.method.lr > 1.5 * lr else 0.5 + config.method.lr)
    assert found(tiny, runner).of(4) == lr


@pytest.mark.parametrize("share", [1 / 3, 1])  # of the steps: in the first round, or in the second alone
def test_a_side_of_which_every_run_fails_ends_it_before_a_guess(tiny, share):
    fails = lambda config: config.method.name == "full" and config.trainer.epochs >= 3 * share  # noqa: E731
    runner = Runner(lambda config: None if fails(config) else 0.8)
    with pytest.raises(Failed, match=r"^lr3\.16e-05 failed: no result$"):
        found(tiny, runner)
    assert len(runner.configs) == (8 if share < 1 else 12)  # nothing more is tried, of either side


@pytest.mark.parametrize(
    ("alpha", "init", "shares"),
    [
        (16, None, {2: 1, 8: 1}),
        ("2r", None, {2: 2**0.5, 8: 0.5**0.5}),
        ("16sqrt", None, {2: 2**0.25, 8: 0.5**0.25}),
        ("1r", "zero_A", {2: 1, 8: 1}),
        (16, "zero_A", {2: 0.5, 8: 2}),
    ],
)
def test_the_rate_is_carried_by_the_scales_law(tiny, alpha, init, shares):
    question = asked(tiny, alpha=alpha, init=init)
    for rank, share in shares.items():
        assert question.rate_for(rank, 1e-3) == pytest.approx(share * 1e-3)


@pytest.mark.parametrize(
    ("score", "loss", "steps", "beyond"),  # steps: half decades from the default to the rate chosen for rank 4
    [
        (lambda step: 0.9 - 0.1 * abs(step - 2.6), lambda step: 1.0, 3, 2),  # a best rate at the edge is followed
        (lambda step: None if step < 0 else 0.9 - 0.1 * abs(step - 1), lambda step: 1.0, 1, 0),  # one fails: tried
        (lambda step: 0.8, lambda step: abs(step - 1), 1, 0),  # a tie of all: the lower validation loss
        (lambda step: 0.8 if step in (0, 1) else 0.5, lambda step: 1.0, 0, 0),  # of loss, too: the smaller rate
    ],
)
def test_the_report_chooses_and_counts_the_rates_as_find_does(tiny, score, loss, steps, beyond):
    question = asked(tiny)

    def step(config: Config) -> int:
        default = (question.method if config.method.name == "lora" else question.reference).method.lr
        own = config.method.rank == 8  # which wants half a decade more
        return round(2 * math.log10(config.method.lr / default)) - own

    runner = Runner(lambda config: score(step(config)), loss=lambda config: loss(step(config)))
    rates = found(tiny, runner)
    assert rates.of(4) == pytest.approx(10 ** (steps / 2) * question.method.method.lr, rel=0.01)
    assert (rates.middle.tried, rates.middle.beyond, rates.middle.at_edge) == (4, beyond, False)
    assert rates.of(2) == rates.of(4) and set(rates.own) == ({8} if score(2) != score(1) else set())  # tuned itself
    assert rates.of(8) == pytest.approx(rates.of(4) * 10 ** (len(rates.own) / 2), rel=0.01)
    for rank in (2, 4, 8, None):
        runner([question.run_of(rank, seed, rates.of(rank)) for seed in (0, 1)])
    report = compared([runner.record(config) for config in runner.configs])
    for arm in report.arms:
        tuned = rates.reference if arm.rank is None else rates.own.get(arm.rank, rates.middle)
        assert arm.lr == rates.of(arm.rank) and arm.rounds[-1].lr == tuned.lr
        counts = (3, 1) if arm.rank in rates.own else (4, beyond)
        assert (arm.tried, arm.beyond) == (tuned.tried, tuned.beyond) == counts
    csv = {row["arm"]: int(row["rates"]) for row in DictReader(StringIO(report.to_csv()))}
    assert csv == {arm.label: arm.tried for arm in report.arms}


def test_untuned_rates_are_the_defaults_and_run_nothing(tiny):
    question = asked(tiny)
    runner = Runner(lambda config: 0.5)
    rates = tune(Question(question.method, question.reference, question.ranks, tuned=False), runner)
    fixed = tune(Question(asked(tiny, alpha="2r").method, question.reference, question.ranks, tuned=False), runner)
    assert fixed.of(2) == fixed.of(8) == question.method.method.lr  # carried by no law
    assert (rates.of(2), rates.of(None)) == (question.method.method.lr, question.reference.method.lr)
    assert runner.configs == []
