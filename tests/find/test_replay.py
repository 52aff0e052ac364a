"""Grids that were run whole, told again as ``find`` would have told them."""

from pathlib import Path
from statistics import median

import pytest
from synthetic_study import write_study

from rankwise.errors import Refused
from rankwise.find.replay import ALSO, OPEN, ORDERS, OTHER, SAME, Replay, _verdict, replay
from rankwise.find.rule import Evidence

GOOD, BAD = 0.82, 0.74


def test_a_replay_gives_the_grids_answer_from_the_right_guess_with_fewer_runs(tmp_path: Path) -> None:
    write_study(tmp_path, {1: BAD, 2: BAD, 4: GOOD, 8: GOOD, 16: GOOD}, seeds=range(5))
    (grid,) = replay(tmp_path)
    assert (grid.answer, grid.reported, grid.enough, grid.runs) == (4, 4, {4, 8, 16}, 6 * 5)
    by_guess = {told.guess: told for told in grid.told}
    # The pilot; rank 4 and its reference on 3 seeds; rank 2, given up after 2 seeds of the same reference.
    assert by_guess[4].verdicts == {SAME: ORDERS} and median(by_guess[4].runs) == 1 + 6 + 2
    # From a guess that is too low the largest rank comes next, and then those above the guess.
    assert median(by_guess[16].runs) == 1 + 3 + 3 * 3 + 2
    # No adapter can be cut here: every pilot starts from the middle rank.
    assert {guess: told.pilots for guess, told in by_guess.items() if told.pilots} == {4: 5}
    assert grid.piloted() == ({SAME: 5 * ORDERS}, 9)


def test_what_is_said_is_held_against_what_the_grid_shows() -> None:
    assert [_verdict(said, 4, {4, 8}) for said in (4, 8, None, 2, 16)] == [SAME, ALSO, OPEN, OTHER, OTHER]
    assert [_verdict(said, None, {8}) for said in (None, 8, 4)] == [SAME, ALSO, OTHER]


@pytest.mark.parametrize(("rows", "rank"), [(400, 8), (1_000, 16), (9_999, 16), (10_000, 32), (100_000, 64)])
def test_rules_of_thumb_go_by_the_training_rows(rows: int, rank: int) -> None:
    assert Replay("", 0.02, rows, None, 0, {}, {}, []).looked_up == rank


def test_where_no_rank_is_enough_no_guess_names_one(tmp_path: Path) -> None:
    write_study(tmp_path, {1: BAD, 8: BAD, 64: BAD}, seeds=range(3))
    (grid,) = replay(tmp_path)
    assert grid.answer is None and all(told.verdicts == {SAME: ORDERS} for told in grid.told)


def test_a_grid_ends_at_its_first_rank_from_the_top_that_is_not_enough() -> None:
    good, bad = Evidence(5, 0.0, 0.001, 0.001), Evidence(5, -0.03, 0.001, 0.001)
    grid = Replay("", 0.02, 100, None, 0, {1: good, 4: bad, 8: good, 16: good}, {}, [])
    assert (grid.enough, grid.answer) == ({1, 8, 16}, 8)
    assert Replay("", 0.02, 100, None, 0, {1: good, 8: bad}, {}, []).answer is None


def test_two_seeds_are_too_few_for_a_replay(tmp_path: Path) -> None:
    write_study(tmp_path, {1: GOOD, 8: GOOD}, seeds=range(2))
    with pytest.raises(Refused, match="2 seeds that all ranks and full fine-tuning share; a replay needs 3"):
        replay(tmp_path)
