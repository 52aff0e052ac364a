"""What is said of a damaged record; that none is a traceback, whoever reads it, is held in test_fuzz.py."""

import contextlib
import math
from typing import Any

import pytest
from synthetic_study import write_run

from rankwise.errors import Refused
from rankwise.tracking.record import parse

GONE = "(gone)"  # a text, so that the names of the tests are the same in every process
DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("path", "damage", "said"),
    [
        (("compute", "tokens"), -3, "compute.tokens is -3 where an integer ≥ 0 belongs"),
        (("compute", "tokens"), 1.5, "compute.tokens is 1.5 where an integer ≥ 0 belongs"),
        (("compute", "tokens_per_s"), int("9" * 400), "compute.tokens_per_s is a number that is too large where"),
        (("compute", "tokens_per_s"), 1e300, "compute.tokens_per_s is 1e+300 where a number ≥ 0 belongs"),
        (("memory", "train", "peak_bytes"), None, "memory.train.peak_bytes is null where an integer ≥ 0 belongs"),
        (("metrics", "test", "accuracy", "se"), math.nan, "metrics.test.accuracy.se is nan where a number ≥ 0"),
        (("compute", "tokens"), True, "compute.tokens is true or false where an integer ≥ 0 belongs"),
        (("run", "study"), 3, "run.study is 3 where a text belongs"),
        (("metrics", "curve"), "x", "metrics.curve is a text where a list belongs"),
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
def test_what_is_wrong_is_said_by_its_name(tmp_path, path, damage, said):
    node = values = write_run(tmp_path).to_dict()
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = damage
    if damage is GONE:
        del node[path[-1]]
    with pytest.raises(Refused) if said else contextlib.nullcontext() as refused:
        parse(values, "r.json")
    assert said is None or str(refused.value).startswith(f"r.json: not a run's record ({said}")
