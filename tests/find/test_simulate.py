"""The chance of a wrong answer, by simulation: its full form is ``rankwise find --simulate``."""

import numpy as np
import pytest

from rankwise.find.rule import Rule
from rankwise.find.simulate import RANKS, Outcome, Study, Truth, simulate, truths

MARGIN, STUDIES = 0.02, 1000
BOUND = 0.05 + 3 * (0.05 * 0.95 / STUDIES) ** 0.5


@pytest.mark.parametrize("guess", [1, 8, 64])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_ranks_that_are_all_just_insufficient_are_seldom_named_wherever_the_search_starts(
    guess: int, spread: float
) -> None:
    never_give_up = lambda *values: Rule(*values, give_up=0.0)  # noqa: E731
    found = simulate(Truth(dict.fromkeys(RANKS, -MARGIN), spread, 2000), MARGIN, STUDIES, 1, guess, never_give_up)
    assert 0 < found.named_insufficient <= BOUND


@pytest.mark.parametrize("name", ["only 4 and 8", "every second", "first 8, below at the margin"])
def test_ranks_out_of_order_do_not_raise_the_chance_of_a_wrong_answer(name: str) -> None:
    found = simulate(Truth(truths(MARGIN)[name], 0.007, 5000), MARGIN, STUDIES, 2)
    assert found.named_insufficient <= BOUND


def test_ranks_that_are_just_sufficient_are_seldom_called_worse() -> None:
    gains = dict.fromkeys(RANKS, -MARGIN + 1e-9)
    for spread in (0.0, 0.02):
        found = simulate(Truth(gains, spread, 2000), MARGIN, STUDIES, 3, 64, lambda *v: Rule(*v, give_up=0.0))
        assert found.called_worse <= BOUND


def test_a_clear_truth_is_found_with_a_fraction_of_the_grids_runs() -> None:
    truth = Truth(truths(MARGIN, extra=0.0)["first 8"], 0.003, 5000)
    found = simulate(truth, MARGIN, 300, 4)
    assert found.found_smallest > 0.9
    assert found.runs < 0.5 * 8 * 5  # the grid of seven ranks and the reference on five seeds


def test_a_drawn_study_has_the_spread_that_it_was_asked_for() -> None:
    rng = np.random.default_rng(5)
    truth = Truth(dict.fromkeys(RANKS, -0.01), spread=0.005, items=2000, steady=0.04, loose=0.02)
    gains = np.array([Study(truth, rng).evidence(4, 5).gain for _ in range(4000)])
    variance = 2 * (0.005**2 / 5 + 0.04 / 2000 + 0.02 / 2000 / 5)
    assert gains.mean() == pytest.approx(-0.01, abs=4 * (variance / 4000) ** 0.5)
    assert gains.var() == pytest.approx(variance, rel=0.1)
    assert isinstance(simulate(truth, MARGIN, 1, 6), Outcome)
