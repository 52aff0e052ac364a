"""Churn counts the answers that differ, not the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rankwise.compare import NotComparable, churn
from rankwise.tracking.predictions import write
from rankwise.tracking.record import Record

LABELS = [0, 1, 0, 1]


def ran(
    folder: Path, answers: Sequence[int], seed: int = 0, items: Sequence[int] = (3, 1, 0, 2), column: str = "prediction"
) -> Record:
    """A run that gave ``answers`` to ``items``, whose right answers are ``LABELS``."""
    place = folder / f"{len(list(folder.iterdir()))}"
    place.mkdir()
    labels, predictions = np.array(LABELS), np.array(answers)
    columns = {"label": labels, "score": predictions.astype(float), column: predictions}
    write(place, np.array(items), columns)
    metrics = {"test": {"accuracy": {"value": float((labels == predictions).mean()), "se": 0.1, "n": 4}}}
    return Record({"name": place.name}, {"seed": seed, "data_seed": 0}, metrics=metrics, folder=place)  # type: ignore


def test_two_runs_of_one_score_differ_where_their_answers_do(tmp_path: Path) -> None:
    half, other = ran(tmp_path, [0, 1, 1, 0]), ran(tmp_path, [1, 0, 0, 1])
    assert churn([half, other]) == 1.0  # both are right in half of the cases
    assert churn([half, half]) == 0.0


def test_of_one_arm_it_is_the_mean_over_all_pairs_of_seeds(tmp_path: Path) -> None:
    arm = [ran(tmp_path, answers, seed) for seed, answers in enumerate(([0, 1, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]))]
    assert churn(arm) == pytest.approx((1 / 4 + 2 / 4 + 1 / 4) / 3)


def test_between_arms_it_is_the_mean_over_shared_seeds(tmp_path: Path) -> None:
    one = [ran(tmp_path, [0, 1, 0, 1], 0), ran(tmp_path, [0, 0, 0, 0], 1), ran(tmp_path, [1, 0, 1, 0], 2)]
    other = [ran(tmp_path, [0, 0, 0, 0], 1), ran(tmp_path, [0, 1, 0, 0], 0)]
    assert churn(one, other) == pytest.approx((1 / 4 + 0) / 2)


def test_items_are_matched_by_their_number(tmp_path: Path) -> None:
    one = ran(tmp_path, [0, 1, 0, 1], items=(0, 1, 2, 3))
    turned = ran(tmp_path, [0, 1, 0, 1], items=(2, 3, 0, 1))  # the labels repeat, so the same items are right
    assert churn([one, turned]) == 0.0


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    one = ran(tmp_path, LABELS)
    with pytest.raises(NotComparable, match="two runs"):
        churn([one])
    with pytest.raises(NotComparable, match="share no seed"):
        churn([one], [ran(tmp_path, LABELS, seed=1)])
    with pytest.raises(NotComparable, match="the test items of"):
        churn([one, ran(tmp_path, LABELS, items=(3, 1, 0, 9))])
    with pytest.raises(NotComparable, match="cannot be read"):
        churn([one, ran(tmp_path, LABELS, column="other")])  # of a regression or a language model
