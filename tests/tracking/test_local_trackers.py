"""Trackio and TensorBoard, by their real packages: what is in their files is what the run says."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from whole import rows, whole
from zygote import Child

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.tracking.fields import results, setup
from rankwise.tracking.trackers import needs

Start = Callable[..., Child]
Tracked = Callable[..., Config]


def numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def test_tensorboard_has_the_curves_the_results_and_the_arm(start: Start, tracked: Tracked) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tracked(tracking__name="tensorboard", method__rank=3)
    for _ in range(2):
        child = start("run", config)
        assert child.wait() == 0 and child.stderr == ""
    record = whole(config)
    path = folder(config).parent / "tensorboard" / folder(config).name
    assert record.run["tensorboard"] == {"path": str(path)} and not (path.parents[1] / "wandb").exists()
    read = event_accumulator.EventAccumulator(str(path))
    read.Reload()
    scalars = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    for key in ("train/loss", "lr", "val/accuracy", "objective"):
        drawn = [(row["step"], row[key]) for row in rows(config) if key in row]
        assert scalars[key][: len(drawn)] == [(step, pytest.approx(value)) for step, value in drawn]
    assert {key: values[-1][1] for key, values in scalars.items() if key in numbers(results(record))} == {
        key: pytest.approx(value) for key, value in numbers(results(record)).items()
    }
    hparams = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"arm.rank" in hparams and b"arm.method" in hparams and folder(config).name.encode() in hparams


def test_trackio_has_the_rows_the_results_and_the_config(start: Start, tracked: Tracked) -> None:
    pytest.importorskip("trackio")
    config = tracked(tracking__name="trackio", method__rank=3)
    child = start("run", config)
    assert child.wait() == 0 and child.stderr == ""
    record, place = whole(config), folder(config).parent / "trackio"
    assert record.run["trackio"] == {"project": "my-study", "path": str(place)}
    with sqlite3.connect(next(place.glob("my-study*.db"))) as database:
        stored = database.execute("select step, metrics from metrics order by id").fetchall()
        (sent,) = (json.loads(text) for (text,) in database.execute("select config from configs"))
    told, own = [{"step": step} | json.loads(text) for step, text in stored], rows(config)
    assert [{key: row.get(key) for key in mine} for row, mine in zip(told, own, strict=False)] == own
    assert numbers(told[-1]).items() >= numbers(results(record)).items()
    assert sent["arm"] | {"scale": None} == setup(record)["arm"] | {"scale": None}  # known once the model is adapted


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(Refused, match=r"^tracking=trackio: needs no_such: pip install 'rankwise\[trackio\]'$"):
        needs("no_such", "trackio")
