"""Launchers of Hydra's that are not ours."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from rankwise.cli import main


@pytest.mark.parametrize("before", [0, 1])
def test_a_foreign_launcher_that_gives_up_is_one_line_and_the_runs_it_left_are_named(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Plugins.instance()  # which makes the class anew
    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher
    real = basic.launch

    def launch(self: Any, rows: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        real(self, rows[:before], initial_job_idx)
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(basic, "launch", launch)
    line = "train -m debug=fast method=tfidf seed=0,1 hydra/launcher=basic"
    assert main(line.split()) == 2 - before
    said = capsys.readouterr().err
    assert 'rankwise: hydra/launcher=basic: RuntimeError: Could not detect "srun"' in said and "Traceback" not in said
    assert [name for name in ("s0", "s1") if f"-{name}-" in said] == (["s1"] if before else [])
    assert len(list(tmp_path.glob("outputs/*/*/result.json"))) == before
    assert before or not list(tmp_path.iterdir())
