"""What a margin needs, from studies whose spreads are known from how they were made."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import ITEMS, write_run, write_study

from rankwise.commands.plan import main
from rankwise.errors import Refused
from rankwise.find.power import LIKELY, Spreads, needs, spreads
from rankwise.find.rule import Evidence
from rankwise.metrics import named


def made(known: Evidence, rows: int = 1000) -> Spreads:
    return Spreads(known, rows, named("accuracy"), 0.02)


def test_spreads_of_seeds_and_items_are_told_apart(tmp_path: Path) -> None:
    rng, seeds = np.random.default_rng(0), range(6)
    steady = rng.random(ITEMS) < 0.05  # items that the rank always misses
    for seed in seeds:
        for method, missed in (("full", np.zeros(ITEMS, bool)), ("lora", steady)):
            correct = ~(missed | (rng.random(ITEMS) < 0.04))
            write_run(tmp_path, method, 8, correct=correct, test=float(correct.mean()), seed=seed)
    found = spreads(tmp_path)
    assert found.rows == ITEMS and found.margin == 0.02
    assert found.known.over_items**2 == pytest.approx(0.05 * 0.95 * 0.96**2 / ITEMS, rel=0.1)
    loose = (0.95 * 0.04 * 0.96 + 0.04 * 0.96) / ITEMS
    assert found.known.loose**2 == pytest.approx(loose, rel=0.1)
    assert found.luck < 0.004  # no seed was better than another


def test_more_seeds_need_fewer_rows_and_a_loss_needs_more_of_both() -> None:
    found = {(need.gain, need.seeds): need for need in needs(made(Evidence(1, 0.0, 0.006, 0.004, 0.004)), 0.02)}
    equal, half = ([found[gain, seeds] for seeds in (3, 5, 8)] for gain in (0.0, -0.01))
    for cases in (equal, half):
        assert [need.chance for need in cases] == sorted(need.chance for need in cases)
        rows = [need.rows or np.inf for need in cases]
        assert rows == sorted(rows, reverse=True)
    for whole, loss in zip(equal, half, strict=True):
        assert whole.chance > loss.chance and (whole.rows or np.inf) < (loss.rows or np.inf)
    assert all((need.chance >= LIKELY) == (need.rows is not None and need.rows <= 1000) for need in found.values())


def test_where_seeds_vary_by_the_margin_no_number_of_rows_is_enough() -> None:
    assert {need.rows for need in needs(made(Evidence(1, 0.0, 0.05, 0.001, 0.0)), 0.02)} == {None}


def test_the_command_prints_what_a_margin_needs_and_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, {4: 0.8, 8: 0.82}, seeds=range(3))
    assert main(["--power", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == [asdict(need) for need in needs(spreads(tmp_path), 0.02)]
    assert main(["--power", str(tmp_path), "--margin", "3 points"]) == 0
    assert "The margin is 3 points." in capsys.readouterr().out
    for wrong, said in (
        (["--power", str(tmp_path), "--margin", "2"], "2 points are --margin 2%"),
        (["--power", str(tmp_path), "method.rank=4"], "neither takes KEY=VALUE"),
        (["--margin", "2%"], "--power STUDY"),
        (["--power", str(tmp_path / "none")], "none"),
    ):
        with pytest.raises(Refused, match=said):
            main(wrong)


def test_a_study_without_two_seeds_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "full", None)
    write_run(tmp_path, "lora", 8)
    with pytest.raises(Refused, match="no two arms that share two seeds"):
        spreads(tmp_path)
