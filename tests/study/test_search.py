"""W&B's engine without a server, on real processes whose runs cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_task import config as fake_config

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.study.launcher import drive
from rankwise.study.search import Search
from rankwise.study.sweep_file import SweepFile
from rankwise.tracking import record as records

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the launcher's tests read /proc")


def sweep_file(**engine: Any) -> SweepFile:
    metric = {"name": "objective", "goal": "maximize"}
    return SweepFile(Path("s.yaml"), {"method": "grid", "metric": metric} | engine, ["study=s"], None)


@pytest.fixture
def compose(tmp_path: Path) -> Callable[[list[str]], Config]:
    """A config from overrides, as Hydra would; rank 13 cannot be."""

    def made(words: list[str]) -> Config:
        values = dict(word.split("=", 1) for word in words)
        config = fake_config(tmp_path, "search")
        config.name, config.study, config.purpose = None, values["study"], values.get("purpose")
        config.method.rank = int(values.get("method.rank", 4))
        config.optim.lr = config.method.lr = float(values.get("method.lr", 0.1))
        if config.method.rank == 13:
            raise Refused("method.rank=13: unlucky")
        return config

    return made


Compose = Callable[[list[str]], Config]


def go(file: SweepFile, compose: Compose, cap: int = 100, rerun: bool = False, jobs: int = 2, seed: int = 0) -> Search:
    search = Search(file, compose, cap, seed, rerun)
    drive(search, [compose(file.overrides)], cap, jobs, task="search_task:run", preload=())
    search.close()
    return search


def points(search: Search) -> list[tuple[int, float]]:
    return [(point["method.rank"], point["method.lr"]) for point in search.points.values()]


def states(search: Search) -> list[str]:
    return [str(run.state) for run in search.runs]


GRID = {"method.rank": {"values": [1, 2]}, "method.lr": {"values": [0.1, 0.2]}}


def test_a_grid_runs_every_point_once_and_knows_the_best(compose: Compose) -> None:
    search = go(sweep_file(parameters=GRID), compose)
    assert sorted(points(search)) == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    assert states(search) == ["finished"] * 4
    best = search.best()
    assert best is not None and best[0]["method.lr"] == 0.2 and best[1] == 0.2


def test_the_same_command_again_runs_nothing_and_a_higher_cap_goes_on(compose: Compose) -> None:
    first = go(sweep_file(parameters=GRID), compose, cap=2)
    before = {place: (place / "result.json").stat().st_mtime_ns for place in first.folders}
    again = go(sweep_file(parameters=GRID), compose)
    assert points(again)[:2] == points(first) and len(points(again)) == 4
    assert {place: (place / "result.json").stat().st_mtime_ns for place in first.folders} == before


def test_a_journal_of_another_search_is_refused_until_rerun(compose: Compose) -> None:
    go(sweep_file(parameters=GRID), compose, cap=1)
    other = sweep_file(parameters={"method.rank": {"values": [3]}, "method.lr": {"values": [0.3]}})
    with pytest.raises(Refused, match="kept of another search"):
        go(other, compose)
    assert points(go(other, compose, rerun=True)) == [(3, 0.3)]


def test_two_searches_of_one_journal_are_refused_even_to_start_anew(compose: Compose) -> None:
    search = Search(sweep_file(parameters=GRID), compose, 4, 0, False)
    with pytest.raises(Refused, match="another search is at it"):
        go(sweep_file(parameters=GRID), compose, rerun=True)
    search.close()
    assert len(points(go(sweep_file(parameters=GRID), compose))) == 4


def test_a_journal_with_a_point_twice_or_a_torn_line_loses_nothing(compose: Compose) -> None:
    first = go(sweep_file(parameters=GRID), compose, cap=2)
    text = first.journal.read_text()
    repeated = next(line for line in text.splitlines() if "point" in line)
    first.journal.write_text(text + repeated + "\n" + '{"point": {"method.ra')
    again = go(sweep_file(parameters=GRID), compose, cap=4)
    assert sorted(points(again)) == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    again.journal.write_text("")
    assert sorted(points(go(sweep_file(parameters=GRID), compose))) == sorted(points(again))


def test_a_run_that_was_stopped_runs_again(compose: Compose) -> None:
    first = go(sweep_file(parameters=GRID), compose, cap=1)
    (place,) = first.folders
    record = records.read(place)
    record.run["status"] = records.STOPPED
    record.write()
    go(sweep_file(parameters=GRID), compose, cap=1)
    assert records.read(place).status == records.FINISHED


def test_a_point_that_cannot_run_fails_and_the_others_go_on(
    compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"method.rank": {"values": [1, 13, 2]}, "method.lr": {"values": [0.1]}}
    search = go(sweep_file(parameters=grid), compose)
    assert states(search) == ["finished", "failed", "finished"]
    assert "method.rank=13: unlucky" in capsys.readouterr().err


def test_points_that_are_the_same_run_run_once(compose: Compose) -> None:
    grid = {"method.rank": {"values": [1]}, "method.lr": {"values": [0.1]}, "seed": {"values": [0, 1, 2]}}
    search = go(sweep_file(parameters=grid), compose)  # the fake composer knows no seeds
    assert len(search.runs) == 3 and len(search.folders) == 1 and states(search) == ["finished"] * 3


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_never_repeats_a_point_ends_when_none_is_left_and_is_repeatable(compose: Compose, method: str) -> None:
    grid = {"method.rank": {"values": [1, 2, 4]}, "method.lr": {"values": [0.1, 0.2]}}
    first = go(sweep_file(method=method, parameters=grid), compose, jobs=1)
    assert len(first.runs) == 6 == len(set(points(first)))
    again = Search(sweep_file(method=method, parameters=grid), compose, 100, 0, rerun=True)
    assert again.next() is None and points(again) == points(first)  # all are finished and told at once
    again.close()
    other = Search(sweep_file(method=method, parameters=grid), compose, 100, 1, rerun=True)
    assert other.next() is None and points(other) != points(first)


def test_early_termination_stops_a_live_run_that_lags_within_its_arm_alone(compose: Compose) -> None:
    """Rank 1 has one slow run and no rival: a small rank that learns slowly is not stopped for a large one."""
    slow, fast, faster = 0.001, 0.5, 0.6
    wanted = [(2, fast), (2, faster), (2, slow), (1, slow)]
    file = sweep_file(
        parameters={"method.rank": {"values": [2, 1]}, "method.lr": {"values": [fast, faster, slow]}},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
    )
    search = Search(file, compose, 4, 0, rerun=False)
    _only(search, wanted)
    drive(search, [compose(file.overrides)], 4, 4, task="search_task:run", preload=())
    search.close()
    ended = dict(zip(points(search), states(search), strict=True))
    assert ended == {
        (2, fast): "finished", (2, faster): "finished", (2, slow): "killed", (1, slow): "finished",
    }  # fmt: skip
    place = next(place for place, (run,) in search.folders.items() if run.state == "killed")
    assert records.read(place).status == records.STOPPED
    lines = [json.loads(line) for line in search.journal.read_text().splitlines()]
    assert [line["pruned"] for line in lines if "pruned" in line] == [place.name.rpartition("-")[2]]
    resumed = Search(file, compose, 4, 0, rerun=False)
    assert resumed.next() is None and states(resumed) == states(search)  # what was stopped for lagging stays stopped


def _only(search: Search, wanted: list[tuple[int, float]]) -> None:
    """These points of the grid, in this order."""
    rows: list[dict[str, Any]] = [{"method.rank": rank, "method.lr": lr} for rank, lr in wanted]
    search._suggest = lambda: rows.pop(0) if rows else None  # type: ignore[method-assign]
