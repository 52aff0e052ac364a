"""Optuna chooses runs by their scores: which way is better, which scores it may see, and what its runs are."""

import sys

import pytest
import yaml
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from rankwise.cli import main
from rankwise.tracking import record as records

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Optuna and what it uses
SEARCH = "hydra/sweeper=optuna method.lr=choice(1e-3)"
BOTH = "hydra.launcher.returns=[objective,memory.train.peak_bytes]"


@pytest.mark.parametrize(
    ("line", "direction"),
    [
        (SEARCH, ["maximize"]),
        (f"{SEARCH} objective=val/loss", ["minimize"]),
        (f"{SEARCH} task=glue/stsb task.metric=mae", ["minimize"]),
        (f"{SEARCH} hydra.sweeper.direction=minimize", "minimize"),
        (f"{SEARCH} {BOTH}", ["maximize", "minimize"]),
        (f"{SEARCH} hydra.launcher.returns=[memory.train.peak_bytes]", ["minimize"]),
        ("experiment=optuna", ["maximize", "minimize"]),
        ("experiment=optuna objective=val/loss", ["minimize", "minimize"]),
    ],
)
def test_optuna_is_told_which_way_the_objective_is_better_and_its_runs_are_of_a_search(
    line, direction, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    seen: list[DictConfig] = []
    Plugins.instance()  # which makes the class anew
    sweeper = sys.modules["hydra_plugins.hydra_optuna_sweeper.optuna_sweeper"].OptunaSweeper
    monkeypatch.setattr(sweeper, "setup", lambda self, *, config, **_: seen.append(config))
    monkeypatch.setattr(sweeper, "sweep", lambda self, arguments: None)
    assert main(["train", "-m", "debug=fast", *line.split()]) == 0
    (asked,) = seen
    assert (asked.hydra.sweeper.direction, asked.stage) == (direction, "search")


@pytest.mark.parametrize("key", ["metrics.test.accuracy.value", "metrics[test].loss.value", "metrics.harness.x.value"])
def test_a_test_score_does_not_choose_what_is_run(key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f"train -m debug=fast method=tfidf {SEARCH} hydra.launcher.returns=['{key}']"
    assert main(line.split()) == 2
    said = f"rankwise: hydra.launcher.returns={key}: a test score must not select anything; [objective]\n"
    assert capsys.readouterr().err.endswith(said) and not [*tmp_path.rglob("result.json")]


def test_optuna_has_the_objective_of_runs_on_a_launcher_of_hydra_s_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"train -m debug=fast method=tfidf,probe {SEARCH} hydra.sweeper.n_trials=2 hydra/launcher=basic"
    assert main(line.split()) == 0
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())["best_value"]
    assert best == max(record.objective or 0 for record in records.find([tmp_path / "outputs"]))
