"""The presets that try a config rather than compare it."""

from pathlib import Path

import pytest

from rankwise.cli import main
from rankwise.report.report import results
from rankwise.tracking.record import Record, find

SMALL = ["model=tiny_bert", "task=synthetic", "tracking=none"]


@pytest.mark.parametrize(("preset", "rows", "steps"), [("overfit", 32, 40), ("limit", 50, 20)])
def test_a_preset_cuts_the_config_short_and_is_no_result(
    preset: str, rows: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"debug={preset}", *SMALL]) == 0
    (record,) = find([Path("outputs")])
    assert (record.provenance["data"]["train"], record.compute["steps"]) == (rows, steps)
    compared = Record(record.run, record.config | {"stage": None})
    assert results([record, compared]) == [compared]
