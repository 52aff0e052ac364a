"""Lightning's callbacks from a ``conf/callbacks`` of one's own: beside those of rankwise, and asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rankwise.cli import main
from rankwise.config import Config, plain
from rankwise.identity import canonical
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
    Path("conf/callbacks").mkdir(parents=True)
    write("mine", {"mine": {"_target_": "my_callbacks.Mine", "word": "hello"}})
    return tmp_path


def write(name: str, callbacks: object) -> None:
    Path(f"conf/callbacks/{name}.yaml").write_text(yaml.dump(callbacks))


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


@pytest.mark.parametrize("target", ["os.path.join", "pathlib.Path", "nowhere.Mine", "my_callbacks.Other", None])
def test_what_is_no_callback_is_refused_in_one_line(target: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    write("bad", {"it": {"_target_": target}})
    assert main([*RUN, "callbacks=bad"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rankwise: callbacks.it._target_=") and err.count("\n") == 1
    assert not Path("outputs").exists()


def test_without_callbacks_a_run_is_the_one_it_was(tiny: object) -> None:
    config: Config = tiny()  # type: ignore[operator]
    assert "callbacks" in plain(config) and "callbacks" not in canonical(plain(config))
