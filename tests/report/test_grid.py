"""Rank against storage of the base, where a study crosses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_study import write_run

from rankwise.report import build
from rankwise.report.grid import grids


@pytest.fixture
def crossed(tmp_path: Path) -> Path:
    for quant in ("none", "nf4"):
        for rank in (1, 8):
            if (quant, rank) != ("nf4", 1):
                score = 0.9 if quant == "none" else 0.6
                storage: dict[str, Any] = {} if quant == "none" else {"quant__kind": quant}
                record = write_run(tmp_path, rank=rank, test=score, quant__name=quant, **storage)
                record.compute["quant_error"] = 0.25
                record.write()
    return tmp_path


def test_each_storage_is_a_row_each_rank_a_column_and_what_did_not_run_a_dash(crossed: Path) -> None:
    report = build([crossed])
    score, weights, *_, error = grids(report)
    assert score.header == ["base stored as", "r=1", "r=8"]
    rows = {row[0]: row[1:] for row in score.rows}
    assert rows.keys() == {"none", "nf4"} and rows["nf4"][0] == "–"
    assert float(rows["none"][1]) > float(rows["nf4"][1])
    assert all(cell != "–" for cell in weights.rows[0][1:])
    assert {row[-1] for row in error.rows} == {"25.0"}
    page = report.write(crossed / "out")["html"].read_text(encoding="utf-8")
    assert page.count('<td class="left">nf4</td>') == len(grids(report))


def test_without_a_cross_there_is_no_grid(tmp_path: Path) -> None:
    for rank in (1, 8):
        write_run(tmp_path, rank=rank)
    report = build([tmp_path])
    assert grids(report) == []
    assert "Rank × storage" not in report.write(tmp_path / "out")["html"].read_text(encoding="utf-8")
