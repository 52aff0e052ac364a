"""reasoning-gym's rows and scores."""

import importlib.util
import random
import sys

import numpy as np
import pytest

from rankwise.errors import Refused
from rankwise.tasks.text import reasoning, text_scores

installed = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


@installed
def test_rows_are_the_same_for_the_same_seed() -> None:
    rows = reasoning.rows("chain_sum", 5, seed=1)
    assert len(rows) == 5 and rows == reasoning.rows("chain_sum", 5, seed=1) != reasoning.rows("chain_sum", 5, seed=2)
    assert all(row.keys() == {"question", "answer"} and row["question"] and row["answer"] for row in rows)


@installed
def test_scores_belong_to_the_rows_that_were_asked() -> None:
    answers = [row["answer"] for row in reasoning.rows("chain_sum", 4)]
    assert reasoning.scores("chain_sum", 4, {3: answers[3], 1: answers[1], 0: "no idea"}).tolist() == [1, 1, 0]
    scores, _ = text_scores(["reasoning"], [answers[2], answers[1]], [], reasoning=("chain_sum", 4, [2, 0]))
    assert scores["reasoning"]["value"] == 0.5 and scores["reasoning"]["n"] == 2


@installed
@pytest.mark.parametrize("name", ["list_functions", "pool_matrix"])
def test_global_generators_neither_change_the_rows_nor_are_changed(name: str) -> None:
    random.seed(1)
    np.random.seed(1)
    wanted = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    rows = reasoning.rows(name, 5)
    assert (random.random(), np.random.random()) == wanted
    assert reasoning.rows(name, 5) == rows
    backwards = {item: rows[item]["answer"] for item in reversed(range(5))}
    assert reasoning.scores(name, 5, backwards).tolist() == [1] * 5


@installed
def test_an_answer_that_the_scorer_cannot_read_is_wrong() -> None:
    assert reasoning.scores("prime_factorization", 1, {0: "no idea"}).tolist() == [0]


@installed
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rubiks_cube", "has no answers to learn from"),
        ("composite", "cannot be made with its defaults"),
        ("word_ladder", "other rows in every process"),
    ],
)
def test_a_data_set_that_gives_no_rows_is_refused(name: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        reasoning.rows(name, 2)


@installed
def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(Refused, match=r"task\.reasoning=chain_sums: .*did you mean chain_sum\?"):
        reasoning.rows("chain_sums", 1)


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(Refused, match=r"task\.reasoning=chain_sum: .*pip install 'rankwise\[reasoning\]'"):
        reasoning.rows("chain_sum", 1)
