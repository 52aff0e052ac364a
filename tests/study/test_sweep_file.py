"""W&B sweep files: what is read, what is refused, and that the shipped ones serve all three ways."""

import itertools
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_configs import study_of

from rankwise.cli import main
from rankwise.commands.train import split
from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.study.compose import hydra_tree, override
from rankwise.study.multirun import compose_study
from rankwise.study.sweep_file import SweepFile, convert, read, words

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "rankwise", "train", "study=s", "stage=search", "${args_no_hyphens}"]
METRIC = {"name": "objective", "goal": "maximize"}


def written(path: Path, **changes: Any) -> SweepFile:
    values = {"method": "grid", "command": COMMAND, "metric": METRIC, "parameters": {"method.rank": {"values": [1, 2]}}}
    path.write_text(yaml.safe_dump({k: v for k, v in (values | changes).items() if v is not None}))
    return read(path)


def test_a_grid_is_every_combination_in_order_up_to_its_cap(tmp_path):
    parameters = {"method.rank": {"min": 1, "max": 2}, "seed": {"values": [0, 1]}, "study": {"value": "x"}}
    file = written(tmp_path / "s.yaml", run_cap=3, name="n", program="rankwise", parameters=parameters)
    assert file.overrides == ["study=s", "stage=search"]
    points = [(point["method.rank"], point["seed"]) for point in file.points()]
    assert points == [(1, 0), (1, 1), (2, 0)]
    assert len(file.points(count=10)) == 4 and {point["study"] for point in file.points()} == {"x"}


def test_random_points_are_repeatable_differ_and_end_where_there_are_no_more(tmp_path):
    parameters = {"method.rank": {"values": [1, 2, 4]}, "method.lr": {"values": [0.1, 0.2]}}
    file = written(tmp_path / "s.yaml", method="random", parameters=parameters)
    first = file.points(count=4)
    assert file.points(count=4) == first and file.points(count=5)[:4] == first
    assert file.points(count=4, seed=1) != first
    points = file.points(count=100)
    assert len(points) == 6 and all(points.count(point) == 1 for point in points)
    with pytest.raises(Refused, match="has no end; give run_cap in the file, or --count N"):
        file.points()
    days = {"study": {"values": [date(2026, 1, 1), date(2026, 1, 2)]}}
    assert len(written(tmp_path / "s.yaml", method="random", parameters=days).points(count=2)) == 2
    wide = {"method.lr": {"distribution": "log_uniform", "min": 1000.0, "max": 2000.0}}
    with pytest.raises(Refused, match="draws numbers that are too large"):
        written(tmp_path / "s.yaml", method="random", parameters=wide).points(count=1)


DRAWN: list[tuple[dict[str, Any], float, float]] = [  # a parameter, and the 10th and 90th percentile of its draws
    ({"min": 1, "max": 100}, 10.5, 90.5),
    ({"min": 0.0, "max": 2.0}, 0.2, 1.8),
    ({"distribution": "log_uniform", "min": -2.0, "max": 2.0}, 0.202, 4.953),
    ({"distribution": "log_uniform_values", "min": 0.01, "max": 100}, 0.0251, 39.8),
    ({"values": [1, 9], "probabilities": [0.5, 0.5]}, 1, 9),
]


@pytest.mark.parametrize(("given", "low", "high"), DRAWN, ids=[str(given) for given, *_ in DRAWN])
def test_random_points_have_the_distribution_that_is_named(tmp_path, given, low, high):
    parameters = {"method.lr": given, "seed": {"min": 0, "max": 10**9}}  # the seed tells equal draws apart
    file = written(tmp_path / "s.yaml", method="random", parameters=parameters)
    values = sorted(point["method.lr"] for point in file.points(count=2000))
    assert values[200] == pytest.approx(low, rel=0.15) and values[1799] == pytest.approx(high, rel=0.15)
    assert all(isinstance(value, int) for value in values) or not isinstance(given.get("min"), int)


NESTED = {"method": {"parameters": {"rank": {"values": [1]}}}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("metod: no such key (did you mean method?)", {"metod": "grid"}),
    ("method: gridd: one of grid, random (did you mean grid?)", {"method": "gridd"}),
    ("hydra/sweeper=optuna does, or wandb sweep and wandb agent", {"method": "bayes"}),
    ("early_terminate: runs that scores choose or end are not run here", {"early_terminate": {"type": "hyperband"}}),
    ("a grid needs value, values, or whole min and max", {"parameters": {"method.lr": {"min": 0.1, "max": 0.2}}}),
    ("min 2 and max 1", {"parameters": {"method.rank": {"min": 2, "max": 1}}}),
    (".max: None: an integer", {"parameters": {"method.rank": {"distribution": "int_uniform", "min": 2}}}),
    ("a grid of at most 100,000 values", {"parameters": {"seed": {"min": 0, "max": 10**9}}}),
    (".max: 1", {"parameters": {"method.rank": {"min": 1, "max": 10**400}}}),
    ("distribution: beta: one of", {"parameters": {"method.lr": {"distribution": "beta"}}}),
    ("a number for each of the values", {"parameters": {"seed": {"values": [1, 2], "probabilities": [1]}}}),
    ("values: 5: a list of values", {"parameters": {"seed": {"values": 5}}}),
    ("nested parameters; write method.KEY:", {"parameters": NESTED}),
    ("no such config key (did you mean method.rank?)", {"parameters": {"method.rnk": {"values": [1]}}}),
    ("1e-5 is text to YAML", {"parameters": {"method.lr": {"values": ["1e-5"]}}}),
    ("1e-5 is text to YAML", {"parameters": {"method.lr": {"min": "1e-5", "max": 0.1}}}),
    ("None cannot pass through", {"parameters": {"method.rank": {"values": [None]}}}),
    ("give value, values", {"parameters": {"method.rank": 3}}),
    ("needs method and parameters", {"parameters": None}),
    ("command: it must run rankwise train", {"command": ["python", "train.py", "${args}"]}),
    ("command: it must run rankwise train", {"command": None}),
    ("only KEY=VALUE may stand", {"command": ["rankwise", "train", "-m", "${args_no_hyphens}"]}),
    ("run_cap: 0", {"run_cap": 0}),
    ("metric: 5: {name: objective or val/NAME, goal", {"metric": 5}),
    ("; no test score selects", {"metric": {"name": "test/accuracy"}}),
    ("metric: {'name': 'accuracy'}: {name: objective or val/NAME, goal", {"metric": {"name": "accuracy"}}),
    ("point: 5: KEY=VALUE", {"parameters": {"point": {"values": [5]}}}),
    ("point: $(touch x): KEY=VALUE", {"parameters": {"point": {"value": "$(touch x)"}}}),
    ("""point: seed=1 ": KEY=VALUE""", {"parameters": {"point": {"value": 'seed=1 "'}}}),
    ("probabilities: a number for each", {"parameters": {"seed": {"values": [1, 2], "probabilities": [0, 0]}}}),
    ("probabilities: a number for each", {"parameters": {"seed": {"values": [1, 2], "probabilities": [-1, 2]}}}),
    ("; wandb sweep and wandb agent with this file draw", {"parameters": {"method.lr": {"distribution": "normal"}}}),
]


@pytest.mark.parametrize(("says", "changes"), REFUSED, ids=[says for says, _ in REFUSED])
def test_what_is_no_sweep_file_is_refused_with_its_place(tmp_path, says, changes):
    with pytest.raises(Refused) as refused:
        written(tmp_path / "s.yaml", **changes)
    assert says in str(refused.value) and str(refused.value).startswith(str(tmp_path / "s.yaml"))


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"none.yaml: not a sweep file \(No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(Refused, match="not YAML"):
        read(tmp_path / "broken.yaml")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_point_of_every_shipped_file_is_a_run_of_its_own(path):
    values = yaml.safe_load(path.read_text())
    fixed = [word for word in values["command"] if "=" in word]
    axes = {key: given.get("values") or [given["min"], given["max"]] for key, given in values["parameters"].items()}
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    given = [[f"{key}={value}" for key, value in point.items()] for point in points]  # as W&B's agent writes them
    with hydra_tree():
        study = compose_study([split([*fixed, *words])[1] for words in given])
    assert len(study) == len(points)
    searches = path.stem == "search"  # for a server, since scores choose its runs
    assert {(config.study, config.stage) for config, _ in study} == {(path.stem, "search" if searches else None)}
    if searches:
        with pytest.raises(Refused, match="method: bayes"):
            read(path)
    else:
        assert read(path).points() == points


BAD_POINTS = [("method.rank=13.67: an integer", [1, 13.67]), ("method.rank=64: at most 32", [1, 64])]


@pytest.mark.parametrize(("says", "ranks"), BAD_POINTS)
def test_a_file_with_a_point_that_cannot_run_is_refused_before_the_first_run(
    tmp_path, monkeypatch, capsys, says, ranks
):
    monkeypatch.chdir(tmp_path)
    command = ["rankwise", "train", "debug=fast", "${args_no_hyphens}"]
    written(tmp_path / "s.yaml", command=command, parameters={"method.rank": {"values": ranks}})
    assert main(["sweep", "s.yaml"]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "outputs").exists()
    words = ("method.rank=4", "seed=0,1", "hydra/sweeper=optuna", "hydra/launcher=basic")
    answers = (
        *("method.rank: s.yaml searches over it", "seed=0,1: one value", "hydra/sweeper=optuna: of train -m"),
        "rankwise: hydra/launcher=basic: local or slurm\n",
    )
    for word, answer in zip(words, answers, strict=True):
        written(tmp_path / "s.yaml", command=command, parameters={"method.rank": {"values": [1, 2]}})
        assert main(["sweep", "s.yaml", word]) == 2
        assert answer in capsys.readouterr().err
    written(tmp_path / "s.yaml", command=command, parameters={"point": {"values": ["seed=0 method=full", "seed=1"]}})
    assert main(["sweep", "s.yaml", "seed=7"]) == 2
    assert "seed: s.yaml searches over it" in capsys.readouterr().err
    auto = ("trainer.batch_size=auto", "batch_size=auto: of train and find")
    for fixed, answer in (("rank=64", "method.rank=64: at most 32"), ("seed=3", "seed: given twice"), auto):  # as train
        written(tmp_path / "s.yaml", command=[*command[:3], fixed, command[3]], parameters={"seed": {"values": [0]}})
        assert main(["sweep", "s.yaml"]) == 2
        assert answer in capsys.readouterr().err


def test_a_preset_wins_over_the_experiment_that_a_file_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["rankwise", "train", "experiment=rank_sweep", "hydra.mode=RUN", "${args_no_hyphens}"]
    written(tmp_path / "s.yaml", command=command, parameters={"method": {"values": ["tfidf"]}})
    assert main(["sweep", "s.yaml", "debug=fast", "--json"]) == 0
    (made,) = tmp_path.rglob("config.yaml")
    config = yaml.safe_load(made.read_text())
    assert (config["task"]["n_test"], config["model"]["name"]) == (64, "tiny BERT (random)")


def test_a_files_project_and_short_words_hold_as_they_do_for_an_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = {"method": {"value": "tfidf"}, "tags": {"value": ["a"]}}
    written(tmp_path / "s.yaml", parameters=axes, project="lab", entity="us")
    assert main(["sweep", "s.yaml", "debug=fast", "tracking.entity=me", "--json"]) == 0
    (made,) = tmp_path.rglob("config.yaml")
    tracking = yaml.safe_load(made.read_text())["tracking"]
    assert (tracking["project"], tracking["entity"], tracking["tags"]) == ("lab", "me", ["a"])


NO_NUMBERS = ["1e5", "-1.5E-3", "007", "1_0", ".5", "5.", "nan", "-inf", "true", "NULL", "2r", "v1.0"]


@pytest.mark.parametrize(
    "value",
    ["a b", "größe", "it's", "a,b=c", "x\\y", 2.0, True, [1, 2], ["a b"], ["2"], {"a": "1e5"}, 1e-05, *NO_NUMBERS],
)
def test_a_value_of_a_file_reaches_the_config_as_it_is(value):
    parsed = OverridesParser.create().parse_override(override("task.text", value))
    assert parsed.value() == value and not parsed.is_sweep_override()


def test_values_win_over_bounds_in_a_grid_as_in_a_search(tmp_path):
    file = written(tmp_path / "s.yaml", parameters={"seed": {"values": [3, 5], "min": None}})
    assert file.points() == [{"seed": 3}, {"seed": 5}]


def runs_of(file: SweepFile) -> list[Config]:
    """The runs of a sweep file."""
    with hydra_tree():
        rows = [
            [*file.overrides, *(word for item in point.items() for word in words(*item))] for point in file.points()
        ]
        return [config for config, _ in compose_study(rows)]


def test_a_sweep_file_and_its_experiment_are_the_same_runs_each_once():
    file = read(ROOT / "sweeps" / "rank_lr.yaml")
    by_file = {folder(config) for config in runs_of(file)}
    by_hydra = {folder(config) for config in study_of("experiment=rank_lr")}
    assert by_file == by_hydra and len(file.points()) == len(by_file)


@pytest.mark.parametrize(
    "line",
    ["experiment=rank_sweep method.rank=1,8 seed=0", "experiment=rank_sweep debug=fast method.rank=2,8 seed=0,1"],
)
def test_an_experiment_becomes_a_sweep_file_of_the_same_runs(line, tmp_path):
    text = convert(line.split())
    path = tmp_path / "rank_sweep.yaml"
    path.write_text(text)
    file = read(path)
    ids = {run_id(config) for config in runs_of(file)}
    assert len(file.points()) == len(ids)
    runs = study_of("-m", *line.split())
    assert ids == {run_id(run) for run in runs}


def test_an_axis_of_one_value_is_one_of_the_file_too_and_numbers_stay_numbers():
    points = yaml.safe_load(convert(["experiment=rank_sweep"]))["parameters"]["point"]["values"]
    assert "method=lora method.rank=64 seed=0" in points and "method=full seed=0" in points
    parameters = yaml.safe_load(convert(["method.lr=1e-5,2e-3", "method.rank=range(1,4)"]))["parameters"]
    assert parameters == {"method.lr": {"values": [1e-5, 2e-3]}, "method.rank": {"values": [1, 2, 3]}}
    sweep = yaml.safe_load(convert(["hydra.sweeper.params={seed: '0,1'}", "study=x"]))
    assert sweep["command"] == ["${env}", "rankwise", "train", "study=x", "${args_no_hyphens}"]
    assert sweep["parameters"] == {"seed": {"values": [0, 1]}}
    nulls = yaml.safe_load(convert(["debug=fast", "task.n_train=50,null"]))["parameters"]
    assert nulls == {"point": {"values": ["task.n_train=50", "task.n_train=null"]}}


def test_a_sweep_file_says_where_its_runs_go_and_leaves_texts_texts():
    where = ["tracking.project=mine", "tracking.entity=me"]
    axes = ["task.text=no,on,2024-01-01", "trainer.deterministic=true,False"]
    sweep = yaml.safe_load(convert(["debug=fast", *where, *axes]))
    assert (sweep["project"], sweep["entity"]) == ("mine", "me")
    texts, truths = ["no", "on", "2024-01-01"], [True, False]
    assert sweep["parameters"] == {"task.text": {"values": texts}, "trainer.deterministic": {"values": truths}}
    quoted = yaml.safe_load(convert(["debug=fast", "task.text='a,b',c"]))["parameters"]
    assert quoted == {"point": {"values": ["'task.text='\"'\"'a,b'\"'\"''", "task.text=c"]}}


def test_what_a_grid_cannot_say_is_refused():
    with pytest.raises(Refused, match="no axis"):
        convert(["method.rank=4"])
    with pytest.raises(Refused, match=r"hydra\.sweeper\.tune"):
        convert(["experiment=tuned_ranks"])
    with pytest.raises(Refused, match=r"interval\(.*a W&B grid cannot say this; give values with commas"):
        convert(["method.lr=interval(1e-4,1e-2)"])
