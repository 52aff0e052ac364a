"""The presets that try a config rather than compare it."""

from pathlib import Path

import pytest

from rankwise.cli import main
from rankwise.report.report import results
from rankwise.tracking.record import Record, find

LATE = "trainer.max_time=00:00:00:00"
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


@pytest.mark.parametrize(
    "words",
    [["debug=profiler", "trainer.max_steps=2"], ["debug=fast", "trainer.detect_anomaly=true"], ["debug=fast", LATE]],
    ids=["profiler", "detect_anomaly", "max_time"],
)
def test_what_lightnings_trainer_is_told_by_name_reaches_it_and_the_run_is_no_result(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words, *SMALL]) == 0
    (record,) = find([Path("outputs")])
    assert record.folder and record.config["stage"] == "debug"
    profiled = [path.read_text() for path in record.folder.glob("fit-profile.txt")]
    assert ["FineTuner.optimizer_step" in text for text in profiled] == [True] * (words[0] == "debug=profiler")
    assert record.compute["steps"] == (0 if LATE in words else 2 if profiled else 6)
