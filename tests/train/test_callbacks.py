"""Lightning's callbacks and loggers from a ``conf`` of one's own: beside those of rankwise, and asked for."""

import csv
from pathlib import Path

import pytest
import yaml

from rankwise.cli import main
from rankwise.config import Config, plain
from rankwise.identity import canonical
from rankwise.tracking.fields import setup
from rankwise.tracking.journal import read_rows
from rankwise.tracking.record import find

MODULE = """
from pathlib import Path
from lightning.pytorch import Callback

class Mine(Callback):
    def __init__(self, word):
        self.word = word

    def on_fit_end(self, trainer, module):
        names = [type(callback).__name__ for callback in trainer.callbacks]
        Path("said").write_text(f"{self.word} {trainer.global_step} {' '.join(names)}")
"""
RUN = ["train", "debug=fast", "trainer.max_steps=2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_callbacks.py").write_text(MODULE)
    write("mine", {"mine": {"_target_": "my_callbacks.Mine", "word": "hello"}})
    return tmp_path


def write(name: str, values: object, group: str = "callbacks") -> None:
    Path(f"conf/{group}").mkdir(parents=True, exist_ok=True)
    Path(f"conf/{group}/{name}.yaml").write_text(yaml.dump(values))


def test_a_callback_runs_beside_ours_and_tells_runs_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "callbacks=mine"]) == 0
    word, steps, *names = Path("said").read_text().split()
    assert (word, steps) == ("hello", "2") and {"Watch", "Probe", "Checkpoints", "Mine"} <= set(names)
    Path("said").unlink()
    assert main(RUN) == 0 and not Path("said").exists()
    plainly, called = sorted((record.config["callbacks"] for record in find([Path("outputs")])), key=len)
    assert plainly == {} and called == {"mine": {"_target_": "my_callbacks.Mine", "word": "hello"}}

    config, *_ = (path for path in Path("outputs").glob("*/*/config.yaml") if "my_callbacks" in path.read_text())
    capsys.readouterr()
    assert main(["train", "--config", str(config)]) == 2  # a file may be somebody else's
    assert "add callbacks.mine._target_=my_callbacks.Mine" in capsys.readouterr().err and not Path("said").exists()
    assert main(["train", "--config", str(config), "rerun=true", "callbacks.mine._target_=my_callbacks.Mine"]) == 0
    assert Path("said").exists()


@pytest.mark.parametrize("method", [[], ["method=nested", "method.rank=8"]], ids=["lora", "nested"])
def test_a_logger_is_told_what_the_journal_is_told_and_the_test_scores(
    method: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = "lightning.pytorch.loggers.CSVLogger"
    write("mine", {"table": {"_target_": target, "save_dir": ".", "name": "table", "version": ""}}, "logger")
    assert main([*RUN, *method, "logger=mine"]) == 0
    assert capsys.readouterr().err == ""
    (record,) = find([Path("outputs")])
    assert record.folder
    with Path("table/metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    own = [{key: row[key] for key in row if key != "attempt"} for row in read_rows(record.folder / "metrics.jsonl")]
    assert rows[:-1] == own and len(own) == 4
    assert rows[-1].items() >= {"step": 2, "test/accuracy": record.metrics["test"]["accuracy"]["value"]}.items()
    assert yaml.safe_load(Path("table/hparams.yaml").read_text())["arm"] == setup(record)["arm"]
    assert main([*RUN, *method]) == 0 and len(find([Path("outputs")])) == 1  # the same run, which is not run again
    assert main(["train", "--config", str(record.folder / "config.yaml")]) == 2
    assert f"add logger.table._target_={target}" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["os.path.join", "pathlib.Path", "nowhere.Mine", "my_callbacks.Other", None])
@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_what_is_none_is_refused_in_one_line(
    group: str, target: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write("bad", {"it": {"_target_": target}}, group)
    assert main([*RUN, f"{group}=bad"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"rankwise: {group}.it._target_=") and err.count("\n") == 1
    assert not Path("outputs").exists()


def test_without_any_a_run_is_the_one_it_was(tiny: object) -> None:
    config: Config = tiny()  # type: ignore[operator]
    assert {"callbacks", "logger"} <= plain(config).keys() and not {"callbacks", "logger"} & canonical(
        plain(config)
    ).keys()
