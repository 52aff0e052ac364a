"""W&B sweep files: what is read, what is refused, and that the shipped ones serve all three ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rankwise.errors import Refused
from rankwise.identity import run_id
from rankwise.study.compose import composed, known_keys, option_groups
from rankwise.study.sweep_file import SweepFile, read

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "rankwise", "train", "study=s", "purpose=search", "${args_no_hyphens}"]
METRIC = {"name": "objective", "goal": "maximize"}


def keys() -> list[str]:
    return [*known_keys(), *option_groups()]


def written(path: Path, **changes: Any) -> SweepFile:
    values = {
        "method": "grid", "command": COMMAND, "metric": METRIC, "parameters": {"method.rank": {"values": [1, 2]}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump({k: v for k, v in (values | changes).items() if v is not None}))
    return read(path, keys())


def test_a_file_gives_the_engine_its_part_and_the_runs_theirs(tmp_path: Path) -> None:
    file = written(tmp_path / "s.yaml", run_cap=3, name="n", program="rankwise")
    assert set(file.engine) == {"method", "metric", "parameters"}
    assert file.overrides == ["study=s", "purpose=search"] and file.cap == 3 and file.size == 2 and not file.chooses
    bayes = written(tmp_path / "b.yaml", method="bayes")
    assert bayes.size is None and bayes.chooses
    ranges = {"method.rank": {"min": 1, "max": 4}, "seed": {"values": [0, 1]}, "study": {"value": "x"}}
    assert written(tmp_path / "r.yaml", parameters=ranges).size == 8


NESTED = {"method": {"parameters": {"rank": {"values": [1]}}}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("metod: no such key (did you mean method?)", {"metod": "grid"}),
    ("'gridd' is not one of", {"method": "gridd"}),
    ("nested parameters; write method.rank:", {"parameters": NESTED}),
    ("no such config key (did you mean method.rank?)", {"parameters": {"method.rnk": {"values": [1]}}}),
    ("1e-5 is text to YAML", {"parameters": {"method.lr": {"values": ["1e-5"]}}}),
    ("1e-5 is text to YAML", {"parameters": {"method.lr": {"min": "1e-5", "max": 0.1}}}),
    ("None cannot pass through", {"parameters": {"method.rank": {"values": [None]}}}),
    ("give value, values", {"parameters": {"method.rank": 3}}),
    ("needs method and parameters", {"parameters": None}),
    ("command: it must run rankwise train", {"command": ["python", "train.py", "${args}"]}),
    ("command: it must run rankwise train", {"command": None}),
    ("only KEY=VALUE may stand", {"command": ["rankwise", "train", "-m", "${args_no_hyphens}"]}),
    ("add purpose=search", {"method": "bayes", "command": ["rankwise", "train", "${args_no_hyphens}"]}),
    ("metric.name: objective", {"method": "bayes", "metric": {"name": "val/accuracy", "goal": "maximize"}}),
    ("run_cap: 0", {"run_cap": 0}),
]


@pytest.mark.parametrize(("says", "changes"), REFUSED, ids=[says for says, _ in REFUSED])
def test_what_is_no_sweep_file_is_refused_with_its_place(tmp_path: Path, says: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        written(tmp_path / "s.yaml", **changes)
    assert says in str(refused.value) and str(refused.value).startswith(str(tmp_path / "s.yaml"))


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read(tmp_path / "none.yaml", keys())
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(Refused, match="not YAML"):
        read(tmp_path / "broken.yaml", keys())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_shipped_file_is_read_and_its_first_point_can_run(path: Path) -> None:
    file = read(path, keys())
    first = {
        key: given["values"][0] if "values" in given else given.get("value", given.get("min"))
        for key, given in file.engine["parameters"].items()
    }
    config = composed([*file.overrides, *(f"{key}={value}" for key, value in first.items())])
    assert len(run_id(config)) == 10 and config.study == path.stem
    assert (config.purpose == "search") == file.chooses
