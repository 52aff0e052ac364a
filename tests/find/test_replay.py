"""Grids that were run whole, told again as ``find`` would have told them."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_study import write_study

from rankwise.errors import Refused
from rankwise.find.replay import replay

GOOD, BAD = 0.82, 0.74


def test_a_replay_gives_the_grids_answer_from_the_right_guess_with_fewer_runs(tmp_path: Path) -> None:
    write_study(tmp_path, {1: BAD, 2: BAD, 4: GOOD, 8: GOOD, 16: GOOD}, seeds=range(5))
    (family,) = replay([tmp_path])
    assert family.answer == 4 and family.runs == 6 * 5
    by_guess = {told.guess: told for told in family.told}
    # The pilot; rank 4 and its reference on 3 seeds; rank 2, given up after 2 seeds of the same reference.
    assert (by_guess[4].answer, by_guess[4].runs) == (4, 1 + 6 + 2)
    assert by_guess[4].status == {4: "enough", 2: "hopeless"}
    # From a guess that is too low the largest rank comes next, and then those above the guess.
    assert {told.answer for told in family.told} == {4}
    assert by_guess[16].runs == 1 + 3 + 3 * 3 + 2


def test_where_no_rank_is_enough_no_guess_names_one(tmp_path: Path) -> None:
    write_study(tmp_path, {1: BAD, 8: BAD, 64: BAD}, seeds=range(3))
    (family,) = replay([tmp_path])
    assert family.answer is None and {told.answer for told in family.told} == {None}
    assert all(told.status[64] == "worse" for told in family.told)


def test_two_seeds_are_too_few_for_a_replay(tmp_path: Path) -> None:
    write_study(tmp_path, {1: GOOD, 8: GOOD}, seeds=range(2))
    with pytest.raises(Refused, match="2 seeds that all ranks and full fine-tuning share; a replay needs 3"):
        replay([tmp_path])
