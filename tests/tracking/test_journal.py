"""Rows on disk as they come."""

import json
import math
from pathlib import Path

import pytest

from rankwise.tracking.journal import Journal, Tail, read_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


def test_every_row_is_on_disk_at_once(path):
    assert read_rows(path) == []
    journal = Journal(path, attempt=1)
    for step in range(3):
        journal({"step": step, "loss": 0.5})
        assert read_rows(path)[-1] == {"attempt": 1, "step": step, "loss": 0.5}
    journal.close()
    assert len(read_rows(path)) == 3


def test_an_attempt_begins_with_the_rows_that_it_goes_on_from_and_who_follows_sees_them(path):
    """The rows of the one before are there until then."""
    first = Journal(path, 1)
    for step in range(5):
        first({"step": step})
    first.close()
    watching, following, second = Tail(path, Tail.end(path)), Tail(path), Journal(path, 2)
    assert watching.rows() == [] and len(following.rows()) == len(read_rows(path)) == 5
    second.begin(first.rows[:2])
    second({"step": 2})
    second.close()
    rows = [{"attempt": 1 + (step == 2), "step": step} for step in range(3)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == second.rows == rows
    assert watching.rows() == following.rows() == rows and watching.rows() == []


TORN = ('{"attempt": 1, "st', '{"attempt": 1', "{", '{"attempt": 1, "step": 2}', "\0\0\0", "[" * 9999, "3", "\udcff")
ODD = ('{"attempt": 9, "step": "x"}', '{"attempt": 9, "step": NaN}', '{"attempt": null}', '{"step": 9}')


@pytest.mark.parametrize("torn", [*TORN, *ODD])
def test_the_torn_last_row_of_a_killed_run_costs_no_other(path, torn):
    first = Journal(path, 1)
    first({"step": 1})
    first.close()
    with path.open("a", errors="surrogateescape") as file:
        file.write(torn)
    assert read_rows(path)[0] == {"attempt": 1, "step": 1}
    second = Journal(path, 2)
    second.begin()
    second({"step": 7})
    second({"step": 8})
    second.close()
    assert read_rows(path) == [{"attempt": 2, "step": 7}, {"attempt": 2, "step": 8}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(path, value):
    journal = Journal(path, 1)
    journal({"loss": value})
    journal.close()
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"attempt": 1, "loss": None}
