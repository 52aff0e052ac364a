"""Damaged records: named and passed over in a folder, refused in one line by name, and never a traceback."""

import copy
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import tiny
from zygote import Zygote

from rankwise.config import plain
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.report.report import build
from rankwise.tracking.record import find, parse

GONE = "(gone)"  # a text, so that the names of the tests are the same in every process
DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
DAMAGES = (None, "x", [], -3, math.nan, int("9" * 400), {}, 1e308, True, DEEP, GONE)


@pytest.fixture(scope="module")
def made(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of two arms, with everything that a record can hold of a classifier."""
    place = tmp_path_factory.mktemp("whole")
    configs = [tiny("bert", method, outputs=str(place), tracking__latency=[[1, 8]]) for method in ("lora", "full")]
    children = [zygote(place / f"child-{i}", "run", plain(config)) for i, config in enumerate(configs)]
    assert [child.wait() for child in children] == [0, 0], [child.stderr for child in children]
    return folder(configs[0]).parent


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


def paths(values: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and list index, from the top down."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield (*above, key)
        yield from paths(value, (*above, key))


def damaged(values: dict[str, Any], path: tuple[Any, ...], damage: Any) -> dict[str, Any]:
    node = values = copy.deepcopy(values)
    for key in path[:-1]:
        node = node[key]
    if damage is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = damage
    return values


def refused(values: dict[str, Any]) -> str | None:
    try:
        parse(values, "r.json")
    except Refused as line:
        return str(line)
    return None


def test_no_damage_to_any_key_of_a_record_is_a_traceback(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(study.glob("lora-*/result.json"))
    whole = json.loads(file.read_text())
    cases = [(path, damage) for path in paths(whole) for damage in DAMAGES]
    passed = [case for case in cases if refused(damaged(whole, *case)) is None]
    assert len(cases) > 3000 and len(passed) < len(cases) / 2
    for path, damage in random.Random(0).sample(passed, 20):
        file.write_text(json.dumps(damaged(whole, path, damage)))
        report = build([study])
        assert report.document()["arms"] and report.to_markdown() and report.to_csv(), path
    file.write_text(json.dumps(damaged(whole, ("params", "trainable"), "x")))
    capsys.readouterr()
    (left,) = find([study])
    assert left.config["method"]["name"] == "full"
    line = f"rankwise: left out: {file}: not a run's record (params.trainable is a text where an integer ≥ 0 belongs)\n"
    assert capsys.readouterr().err == line
    with pytest.raises(Refused, match="no runs in"):
        find([file.parent])


@pytest.mark.parametrize(
    ("path", "damage", "said"),
    [
        (("compute", "tokens"), -3, "compute.tokens is -3 where an integer ≥ 0 belongs"),
        (("compute", "tokens"), 1.5, "compute.tokens is 1.5 where an integer ≥ 0 belongs"),
        (("compute", "tokens_per_s"), int("9" * 400), "compute.tokens_per_s is a number that is too large where"),
        (("memory", "train", "peak_bytes"), None, "memory.train.peak_bytes is null where an integer ≥ 0 belongs"),
        (("metrics", "test", "accuracy", "se"), math.nan, "metrics.test.accuracy.se is nan where a number ≥ 0"),
        (("metrics", "test", "accuracy"), [], "metrics.test.accuracy is a list where a group of keys belongs"),
        (("metrics", "test", "accuracy", "clusters"), "x", "metrics.test.accuracy.clusters is a text where an integer"),
        (("metrics", "curve", 0, "step"), GONE, "metrics.curve[0].step is missing"),
        (("lora", "ranks"), "x", "lora.ranks is a text where a group of keys belongs"),
        (("run", "status"), "done", "run.status is a text where running or finished or failed or stopped belongs"),
        (("run", "attempts"), GONE, "run.attempts is missing"),
        (("config", "method"), GONE, "config.method.name is missing"),
        (("config", "method"), 3, "config.method is 3 where a group of keys belongs"),
        (("config", "optim", "lr"), {}, "config.optim.lr is a group of keys where a number belongs"),
        (("config", "method", "alpha"), DEEP, "config.method.alpha holds numbers or levels that nothing can work with"),
        (("metrics", "test", "accuracy", "value"), 1.5, "metrics.test.accuracy.value is 1.5, not from 0 to 1)"),
        (("metrics", "test", "accuracy", "value"), None, None),
        (("metrics", "test", "accuracy", "se"), 2e203, None),
        (("metrics", "harness"), {"squadv2:f1": {"value": 63.2, "se": 1.0, "n": 100}}, None),
        (("folder",), "x", None),
        (("storage",), GONE, None),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_by_its_name(study: Path, path: tuple[Any, ...], damage: Any, said: str | None) -> None:
    whole = json.loads(next(study.glob("lora-*/result.json")).read_text())
    line = refused(damaged(whole, path, damage))
    assert line is None if said is None else line and line.startswith(f"r.json: not a run's record ({said}")
