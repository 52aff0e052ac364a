"""d90 of synthetic studies: which dimension is enough, and how sure that is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_study import write_run

from rankwise.report.intrinsic import d90
from rankwise.report.report import build
from rankwise.tracking.record import Record


def records(tmp_path: Path, scores: dict[int | None, list[float]]) -> list[Record]:
    return [
        write_run(
            tmp_path, "full" if dim is None else "did", None, test=score, seed=seed, method__dim=dim,
            correct=np.arange(2000) < round(2000 * score),
        )
        for dim, each in scores.items()
        for seed, score in enumerate(each)
    ]  # fmt: skip


def found(tmp_path: Path, scores: dict[int | None, list[float]]) -> list[dict[str, Any]]:
    records(tmp_path, scores)
    return d90(build([tmp_path]))


def test_d90_is_the_smallest_dimension_that_reaches_nine_tenths_raw_and_above_chance(tmp_path: Path) -> None:
    study = {10: [0.5, 0.5, 0.5], 100: [0.75, 0.74, 0.76], 1000: [0.78, 0.79, 0.8], None: [0.8, 0.8, 0.8]}
    raw, above = found(tmp_path, study)
    assert (raw["criterion"], raw["dim"], raw["low"], raw["high"]) == ("raw", 100, 100, 100)
    assert raw["target"] == pytest.approx(0.72) and above["target"] > raw["target"]
    assert (above["criterion"], above["dim"]) == ("above chance", 1000) and above["tried"] == (10, 100, 1000)


def test_dimensions_are_read_in_the_order_of_numbers(tmp_path: Path) -> None:
    records(tmp_path, {dim: [0.7] for dim in (1000, 30, 300)})
    assert [arm.settings["dim"] for arm in build([tmp_path]).arms] == [30, 300, 1000]


def test_d90_says_when_no_dimension_is_enough_or_the_seeds_disagree(tmp_path: Path) -> None:
    raw, above = found(tmp_path, {10: [0.73, 0.70, 0.74], 100: [0.75, 0.76, 0.75], None: [0.8, 0.8, 0.8]})
    assert raw["dim"] == 10 and raw["low"] == 10 and raw["high"] == 100
    assert above["dim"] == math.inf
    assert found(tmp_path / "other", {10: [0.7]}) == []


def test_the_report_shows_d90_in_every_form(tmp_path: Path) -> None:
    records(tmp_path, {10: [0.5, 0.5], 100: [0.75, 0.751], None: [0.8, 0.8]})
    report = build([tmp_path])
    paths = report.write(tmp_path / "report")
    raw, above = json.loads(paths["json"].read_text())["intrinsic_dimension"]
    assert (raw["dim"], raw["criterion"], above["dim"]) == (100, "raw", None)
    row = "| did | raw | 72.0 | 100 | 100 to 100 | 10, 100 | 2 |"
    assert row in paths["md"].read_text() and "Intrinsic dimension" in paths["html"].read_text()


def test_a_subspace_without_full_fine_tuning_says_so_in_the_report(tmp_path: Path) -> None:
    records(tmp_path, {10: [0.5, 0.5], 100: [0.75, 0.76]})
    report = build([tmp_path])
    assert "d90 asks for full fine-tuning" in report.to_markdown()
    assert report.to_json()["intrinsic_dimension"] == []
