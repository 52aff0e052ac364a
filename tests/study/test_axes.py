"""Axes beyond a plain product, studies that tune first, and what a study says of its runs before it starts."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from in_process import one_server  # noqa: F401
from tiny_configs import study_of

from hydra_plugins.rankwise.plugins import LocalLauncher
from rankwise.cli import main
from rankwise.commands._shared import overrides
from rankwise.config import Config, Package, plain
from rankwise.errors import Refused
from rankwise.identity import folder, run_id
from rankwise.run import run
from rankwise.study import launcher, outdated
from rankwise.study.axes import excluded, paired
from rankwise.study.compose import composed, from_snapshot
from rankwise.study.multirun import _run_here, say_report
from rankwise.study.outcome import Outcome
from rankwise.study.tuning import Tuning
from rankwise.study.worker import SKIPPED
from rankwise.tracking import record as records

ROOT = Path(__file__).parents[2]


def test_paired_axes_are_walked_together_and_groups_of_them_are_crossed():
    groups = [{"method.rank": [1, 8], "method.lr": [4e-3, 1e-3]}, {"seed": [0, 1]}]
    assert paired(groups) == [
        ["method.rank=1", "method.lr=0.004", "seed=0"], ["method.rank=1", "method.lr=0.004", "seed=1"],
        ["method.rank=8", "method.lr=0.001", "seed=0"], ["method.rank=8", "method.lr=0.001", "seed=1"],
    ]  # fmt: skip
    assert paired([]) == [[]]
    with pytest.raises(Refused, match=r"equally long; method.rank has 2, method.lr has 1"):
        paired([{"method.rank": [1, 8], "method.lr": [4e-3]}])
    with pytest.raises(Refused, match=r"hydra.sweeper.pairs: method.lr: in two groups, which would be crossed"):
        paired([{"method.rank": [1, 8], "method.lr": [4e-3, 1e-3]}, {"method.lr": [1e-2]}])
    with pytest.raises(Refused, match=r"method.rank: 4: a list of values, as method.rank: \[4\]"):
        paired([{"method.rank": 4}])  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("method=full", False), ("method=full|lora", True), ("method=lora method.rank=8", False),
        ("method=lora method.rank=4", True), ("task.n_train=null", False), ("trainer.deterministic=true", True),
        ("method.lr=0.00200", True), ("method.lr=2e-4", False),
        # a group is the option that was chosen or its name
        ("task=movie_polarity", True), ("task=glue/cola|movie_polarity", True), ("task=glue/cola", False),
        ("tracking=none", True), ("method=dora", True), ("method=lora", True),
    ],
)  # fmt: skip
def test_a_combination_is_left_out_when_all_parts_of_a_condition_hold(tiny, condition, holds):
    choices = {"task": "movie_polarity", "tracking": "none", "method": "dora"}
    config = tiny(method__rank=4, task__name="movie polarity")
    conditions = {"seed=9": False, condition: False}
    assert excluded(config, {condition: False}, choices) == excluded(config, conditions, choices) == holds
    assert conditions == {"seed=9": False, condition: holds}
    with pytest.raises(Refused, match=r"method.rnk=4 is not KEY=VALUE .*did you mean method.rank"):
        excluded(config, {"method.rnk=4": False}, {})


def test_the_command_line_takes_pairs_and_exclusions():
    runs = study_of("-m", "debug=fast", "method=lora,full", "hydra.sweeper.exclude=['method=full seed=1']", "seed=0,1")
    assert [(run.method.name, run.seed) for run in runs] == [("lora", 0), ("full", 0), ("lora", 1)]
    pairs = "hydra.sweeper.pairs=[{method.rank: [1,4], method.lr: [0.004,0.001]}]"
    runs = study_of("-m", "debug=fast", pairs, "seed=0,1")
    assert {(run.method.rank, run.optim.lr) for run in runs} == {(1, 0.004), (4, 0.001)} and len(runs) == 4


def test_what_is_excluded_need_not_be_possible_and_the_refusal_says_how_to_exclude_it():
    axes = ("-m", "debug=fast", "method=lora,full", "quant=none,bf16", "seed=0,1")
    with pytest.raises(Refused, match=r"^quant=bf16: none with method=full: .*; without it: '(.*)'$") as refused:
        study_of(*axes)
    runs = study_of(*axes, str(refused.value).split("'")[1])
    arms = [("lora", "none"), ("lora", "bf16"), ("full", "none")]
    assert [(run.method.name, run.quant.name) for run in runs] == 2 * arms


TUNE = {"axes": {"method.lr": [1e-2, 1e-3, 1e-1]}, "seeds": [100, 101]}


def finished(config: Config, objective: float | None, status: str = records.FINISHED) -> None:
    record = records.begin(config, None)
    record.run["status"], record.objective = status, objective
    record.write()


def test_trials_take_every_rate_of_every_arm_on_seeds_of_their_own(tiny):
    tuning = Tuning.of(TUNE, {})
    finals = [tiny(method__rank=rank, seed=seed) for rank in (1, 4) for seed in (0, 1)]
    trials = tuning.trials(finals)
    assert len(trials) == 2 * 3 * 2 == len({run_id(trial) for trial in trials})
    assert {trial.seed for trial in trials} == {100, 101} and {trial.stage for trial in trials} == {"tune"}
    rates = [(rank, lr) for rank in (1, 4) for lr in (1e-2, 1e-3, 1e-1)]
    assert [(trial.method.rank, trial.optim.lr) for trial in trials] == 2 * rates, "in the order given"
    left = Tuning.of(TUNE, dict.fromkeys(["method.rank=4 method.lr=0.1", "seed=101"], False)).trials(finals)
    tried = {(run.method.rank, run.method.lr) for run in left}
    assert tried == {(1, 1e-2), (1, 1e-3), (1, 1e-1), (4, 1e-2), (4, 1e-3)} and len(left) == 5
    alphas = Tuning.of({"axes": {"method.alpha": [8, 16]}, "seeds": [100]}, {}).trials([tiny(), tiny(method="full")])
    assert [(run.method.name, run.method.alpha) for run in alphas].count(("full", None)) == 1 and len(alphas) == 3
    with pytest.raises(Refused, match="seed 100 is also a seed of the study"):
        tuning.trials([tiny(seed=100)])
    with pytest.raises(Refused, match=r"method\.lr=-1"):
        Tuning.of({"axes": {"method.lr": [1e-3, -1.0]}, "seeds": [100]}, {}).trials([tiny()])
    with pytest.raises(Refused, match="no trial of"):
        tuning.frozen([tiny()])


def test_the_best_mean_over_the_tuning_seeds_is_frozen_per_arm(tiny, capsys):
    tuning = Tuning.of(TUNE, {})
    finals = [tiny(method__rank=rank, seed=seed) for rank in (1, 4) for seed in (0, 1)]
    scores = {(1, 1e-3): (0.9, 0.1), (1, 1e-2): (0.6, 0.6), (4, 1e-1): (0.7, 0.8), (4, 1e-2): (0.7, 0.7)}
    for trial in tuning.trials(finals):
        best = scores.get((trial.method.rank or 0, trial.optim.lr))
        finished(trial, best[trial.seed - 100] if best else 0.5)
    frozen = tuning.frozen(finals)
    assert [(run.method.rank, run.seed, run.optim.lr) for run in frozen] == [
        (1, 0, 1e-2), (1, 1, 1e-2), (4, 0, 1e-1), (4, 1, 1e-1),
    ]  # fmt: skip
    assert {run.stage for run in frozen} == {None}
    said = {line.split(": ")[1]: line for line in capsys.readouterr().err.splitlines()}
    assert "edge" not in said["lora-r1-attention"] and "edge" in said["lora-r4-attention"]


def test_a_rate_with_fewer_finished_seeds_is_not_chosen(tiny):
    tuning = Tuning.of(TUNE, {})
    for trial in tuning.trials([tiny()]):
        lucky = trial.optim.lr == 1e-1
        if not (lucky and trial.seed == 101):
            finished(trial, 0.99 if lucky else trial.optim.lr)
    assert [run.optim.lr for run in tuning.frozen([tiny()])] == [1e-2]


def test_a_value_that_is_a_list_or_none_is_chosen_as_a_number_is(tiny, capsys):
    axes = {"optim.betas": [[0.9, 0.99], [0.8, 0.9]], "task.n_train": [None, 9]}
    tuning = Tuning.of({"axes": axes, "seeds": [100]}, {})
    for trial in tuning.trials([tiny()]):
        finished(trial, trial.optim.betas[0] - bool(trial.task.n_train))
    (frozen,) = tuning.frozen([tiny()])
    assert (frozen.optim.betas, frozen.task.n_train) == ([0.9, 0.99], None)
    assert capsys.readouterr().err.endswith(": optim.betas=[0.9,0.99], task.n_train=null\n")


def test_an_exclusion_by_an_option_s_name_holds_for_trials_too_and_one_for_no_run_is_said(capsys):
    words = ["hydra.sweeper.tune={axes: {method.lr: [0.01,0.1]}, seeds: [9]}", "model=tiny_bert,tiny_gpt2"]
    runs = study_of("-m", "debug=fast", *words, "hydra.sweeper.exclude=['model=tiny_bert method.lr=0.1','method=loar']")
    assert capsys.readouterr().err.startswith("rankwise: hydra.sweeper.exclude: method=loar: holds for no run\n")
    trials = [(run.model.name, run.method.lr) for run in runs if run.stage == "tune"]
    assert trials == [("tiny BERT (random)", 0.01), ("tiny GPT-2 (random)", 0.01), ("tiny GPT-2 (random)", 0.1)]


class Elsewhere(LocalLauncher):
    """All its runs are at another process, or have another status."""

    def __init__(self, status: str = SKIPPED, join: bool = False):
        super().__init__(join=join)
        self.status = status

    def start(self, configs, stage):
        return [Outcome(folder(config), self.status) for config in configs]


@pytest.mark.parametrize(("join", "remedy"), [(False, ""), (True, " without --join")])
def test_a_study_waits_for_tuning_runs_of_another_process(tiny, tmp_path, capsys, join, remedy):
    tuning, finals = Tuning.of(TUNE, {}), [tiny(method="lora")]
    trials = tuning.trials(finals)
    finished(trials[0], 0.5)
    assert _run_here(Elsewhere(join=join), finals, trials, tuning) == 1
    said = capsys.readouterr().err
    assert "rankwise: 6 runs (tuning), 1 finished before; 5 to run\n" in said
    assert "the study waits: 5 of 6 tuning runs did not finish here" in said
    assert said.endswith(f"; the same command{remedy} goes on\n") and len([*tmp_path.rglob("result.json")]) == 1


def test_of_a_tuning_run_that_failed_it_is_said_how_the_study_goes_on_without_it(tiny, capsys):
    tuning, finals = Tuning.of(TUNE, {"seed=7": False}), [tiny(method="lora")]
    trials = tuning.trials(finals)
    for trial in trials:
        failed = (trial.method.lr, trial.seed) == (0.1, 101)
        finished(trial, None if failed else 0.5, records.FAILED if failed else records.FINISHED)
    assert _run_here(Elsewhere(), finals, trials, tuning) == 1
    word = shlex.split(capsys.readouterr().err.splitlines()[-1].partition("left out of all arms by ")[2])[0]
    without = OverridesParser.create().parse_override(word).value()
    assert without == ["seed=7", "method.lr=0.1"]
    again = Tuning.of(TUNE, dict.fromkeys(without, False))
    assert {trial.method.lr for trial in again.trials(finals)} == {0.01, 0.001}
    assert _run_here(Elsewhere(), finals, again.trials(finals), again) == 0


def test_where_to_compare_is_said_of_every_folder_once_a_run_of_several_has_finished(tiny, capsys):
    runs = [tiny(seed=0), tiny(seed=1), tiny(seed=0, study="my study")]
    _run_here(Elsewhere(), runs, [], None)
    finished(runs[1], 0.5)
    _run_here(Elsewhere(), runs[1:2], [], None)
    assert "to compare" not in capsys.readouterr().err
    _run_here(Elsewhere(), runs, [], None)
    places = f"{folder(runs[0]).parent} '{folder(runs[2]).parent}'"
    assert capsys.readouterr().err.endswith(f"rankwise: to compare them: rankwise report {places}\n")
    runs[0].task.name = "another"
    say_report(runs[1:])
    say_report(runs)
    ends = [line.rpartition(places)[2] for line in capsys.readouterr().err.splitlines()]
    assert ends == ["", " --by task"]


@pytest.mark.parametrize("given", [
    {}, {"axes": {}, "seeds": [1]}, {"axes": {"method.lr": []}, "seeds": [1]}, {"axes": {"seed": [1]}}, TUNE | {"x": 1},
    TUNE | {"seeds": 9}, TUNE | {"axes": {"method.lr": 0.001}}, TUNE | {"axes": ["method.lr"]},
])  # fmt: skip
def test_a_tuning_that_says_too_little_or_too_much_is_refused(given):
    with pytest.raises(Refused, match=r"hydra\.sweeper\.tune: give"):
        Tuning.of(given, {})
    with pytest.raises(Refused, match=r"tune: targets: a group of keys; an axis is one of them, such as targets.name"):
        Tuning.of({"axes": {"targets": ["qv", "attention"]}, "seeds": [100]}, {})
    with pytest.raises(Refused, match=r"tune: seed: nothing to choose among; axes are keys such as method\.lr"):
        Tuning.of({"axes": {"seed": [1, 2]}, "seeds": [100]}, {})


def test_a_dry_run_lists_ids_states_and_costs_and_runs_nothing(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["-m", "debug=fast", "method=lora,tfidf", "method.rank=1,4"]
    runs = study_of(*line)
    finished(runs[0], 0.5)
    capsys.readouterr()
    assert main(["train", "--dry-run", *line, "trainer.batch_size=auto"]) == 0
    said, notes = capsys.readouterr()
    assert notes.count("\n") == 2 and notes.endswith("rankwise: 4 combinations come to 3 distinct runs\n")
    rows = {run_id(run): next(row for row in said.splitlines() if run_id(run) in row) for run in runs}
    assert "finished" in rows[run_id(runs[0])] and all("new" in rows[run_id(run)] for run in runs[1:])
    assert f"{len(runs)} runs, {len(runs) - 1} to run" in said
    assert main(["train", "--dry-run", "--json", *line]) == 0
    told = {row["id"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert {name: row["state"] for name, row in told.items()} == {
        run_id(run): "new" if number else "finished" for number, run in enumerate(runs)
    }
    assert [row["params"]["trainable"] for row in told.values() if "params" in row] == [1090]
    assert main(["train", "--dry-run", "--rerun", *line]) == 0
    said = capsys.readouterr().out
    assert f"{len(runs)} runs, {len(runs)} to run" in said and said.count("again") == 1 and "No time" not in said
    assert main(["train", "--dry-run", "debug=fast", "task=glue/rte", "trainer.max_steps=null"]) == 0
    assert "No time: the rows of " in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("result.json")] == ["result.json"]


def test_a_snapshot_with_another_path_has_its_name_and_without_its_profiler_is_a_result(tiny, tmp_path):
    path, words = tmp_path / "config.yaml", [f"{group}.path=b" for group in ("task", "model", "forgetting")]
    named = {f"{group}__{key}": "a" for group in ("task", "model", "forgetting") for key in ("name", "path")}
    path.write_text(yaml.safe_dump(plain(tiny(trainer__detect_anomaly=True, **named))))
    kept, config = from_snapshot(path, words), from_snapshot(path, [*words, "trainer.detect_anomaly=null"])
    assert {config.task.name, config.model.name, config.forgetting.name} == {"b"}
    assert (kept.stage, config.stage) == ("debug", None)
    path.write_text(yaml.safe_dump(plain(tiny(task__name="mine", task__path="a", stage="debug"))))
    mine = from_snapshot(path, ["task.path=b"])
    assert (mine.task.name, mine.stage) == ("mine", "debug")


def test_a_snapshot_with_another_learning_rate_or_metric_trains_with_it(tiny, tmp_path):
    config = tiny(rerun=True)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain(config)))
    assert run_id(from_snapshot(path, [])) == run_id(config) and not from_snapshot(path, []).rerun
    changed = from_snapshot(path, ["method.lr=0.05", "task.metric=matthews"])
    assert (changed.optim.lr, changed.objective) == (0.05, "val/matthews")
    assert from_snapshot(path, ["method.lr=0.05", "optim.lr=0.01"]).optim.lr == 0.01
    for word, answer in {
        "method=lora": "with --config only single keys.* a new run, rankwise train method=lora",
        "experiment=rank_sweep": "with --config only single keys.* a new run, rankwise train experiment=rank_sweep",
        "seed=0,1": "one value, as --config is one run; give the values one after the other$",
    }.items():
        with pytest.raises(Refused, match=f"^{word}: {answer}"):
            from_snapshot(path, [word])
    path.write_text("run: {}\nconfig: {}\n")
    with pytest.raises(Refused, match=r"^--config .*: not a run's config.yaml; give a run's config.yaml, as outputs/"):
        from_snapshot(path, [])


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        ("[nan, null,'inf',\"no\", 1e5, 7, true]", ["nan", "null", "inf", "no", "1e5", 7, True]),
        (
            "{x: x, nan: null, null: 1e5, 'inf': nan, \"a: b\": 'null', 1: Null, true: yes}",
            {"x": "x", "nan": None, "null": "1e5", "inf": "nan", "a: b": "null", "1": None, "true": "yes"},
        ),
        ("[Größe,7,sehr guté , null]", ["Größe", 7, "sehr guté", "null"]),
        ("{1: ärgerlich, 5: gut, *: null}", {"1": "ärgerlich", "5": "gut", "*": None}),
    ],
)
def test_any_word_may_name_a_class(tiny, tmp_path, typed, labels):
    words, path = overrides([f"task.labels={typed}"]), tmp_path / "config.yaml"
    assert composed(["debug=fast", *words]).task.labels == labels
    path.write_text(yaml.safe_dump(plain(tiny(task__labels=["a", "b"]))))
    assert from_snapshot(path, words).task.labels == labels


def test_letters_beyond_ascii_need_no_quotes():
    for value in ("Rückmeldung", "Umsatz €", "a: ü", "Daten/größe=1.csv", "'ü'", "{a} ü"):
        typed = "'{a} ü'" if "{" in value else value
        (word,) = overrides([f"task.text={typed}"])
        assert composed(["debug=fast", "task=local", "task.path=x", word]).task.text == value.strip("'")
    assert overrides(["task.text=ü,1,x"]) == ["task.text='ü',1,x"], "an axis stays one"
    for kept in ("{a} ü", "${x}ü", "f(ü)", "'a, ü, b'"):
        assert overrides([f"task.text={kept}"]) == [f"task.text={kept}"]
    with pytest.raises(Refused, match=r"c}: a key in braces has letters of ASCII alone; of a class, \* stands for any"):
        composed(overrides(["task.labels={a: b, Ärger: c}"]))
    with pytest.raises(Refused, match="quote twice") as refused:
        composed(overrides(["task.text={a} Größe: {b}"]))
    words = overrides(["task=local", "task.path=x", str(refused.value).split("'")[1]])
    assert composed(["debug=fast", *words]).task.text == "{a} Größe: {b}"


def test_a_snapshot_fetches_no_package_that_is_not_shipped_nor_asked_for(tiny, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain(tiny(model__package=Package("p", "1", "0" * 64, "m", sdist=True)))))
    with pytest.raises(Refused, match=r"fetches p 1, which is none of rankwise's; .* add model.package.name=p$"):
        from_snapshot(path, [])
    assert from_snapshot(path, ["model.package.name=p"]).model.package == Package("p", "1", "0" * 64, "m", True)
    shipped = yaml.safe_load((ROOT / "conf/model/minilm.yaml").read_text())["package"]
    path.write_text(yaml.safe_dump(plain(tiny(model__package=Package(**shipped)))))
    assert from_snapshot(path, []).model.package == Package(**shipped)


def test_what_a_few_shot_model_is_read_with_is_part_of_its_identity(tiny):
    def made(method: str, **keys: Any) -> str:
        config = tiny("llama", task="synthetic_lm", **keys)
        config.method.name, config.method.shots = method, 1
        return run_id(config)

    assert made("few_shot", trainer__precision="bf16") != made("few_shot", trainer__precision="fp32")
    assert made("few_shot", trainer__epochs=5) == made("few_shot")
    assert made("tfidf", trainer__precision="bf16") == made("tfidf", trainer__precision="fp32")


@pytest.mark.parametrize("key", ["model__path", "task__path", "forgetting__path", "method__init_from"])
def test_two_spellings_of_a_path_are_one_run(tiny, key):
    ids = [run_id(tiny(forgetting__name="local", **{key: path})) for path in ("a/b", "./a/b", "a//c/../b/", "a/c")]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_run_that_is_given_twice_starts_once_and_of_one_that_was_stopped_no_error_is_said(tiny, tmp_path, capsys):
    config = tiny(outputs=str(tmp_path))
    config.method.name = "tfidf"
    first, second = launcher.run(LocalLauncher(), [config, replace(config, name=None)])
    assert first is second and first.status == records.FINISHED
    assert [found.run["attempts"] for found in records.find([tmp_path])] == [1]
    other = replace(config, seed=1)
    launcher.run(Elsewhere(status=records.STOPPED), [other])
    assert capsys.readouterr().err.endswith(f"1 run; 1 to run\nrankwise: {folder(other).name} stopped\n")


def test_a_run_that_searched_is_not_taken_for_a_result(tiny):
    assert run_id(replace(tiny(), stage="search")) != run_id(tiny())


def test_a_study_says_which_finished_runs_had_other_code_model_data_or_margin(tiny, tmp_path):
    rows = tmp_path / "mine.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"word {i}\t{i % 2}\n" for i in range(40)))
    config = tiny(task__path=str(rows), task__n_train=None, task__n_validation=None, task__n_test=None)
    config.method.name = "tfidf"
    assert run(config).status == records.FINISHED
    assert outdated.summary([config]) == ""
    other = replace(config, task=replace(config.task, margin=0.05))
    assert (outdated.summary([other]), outdated.summary([other], margin=False)) == ("with other task.margin", "")
    rows.write_text(rows.read_text() + "one more\t1\n")
    assert outdated.summary([config]) == "with other data"
    record = records.read(folder(config))
    record.provenance |= {"code": "sha256:other", "model": {"fingerprint": "sha256:other"}}
    record.write()
    assert outdated.summary([config] * 2) == "2 with other code, 2 with other model, 2 with other data"
    rows.unlink()
    assert outdated.summary([config]) == "with other code, with other model", "what is not here is not known"
    records.Record(record.run, record.config, folder=record.folder).write()
    assert outdated.summary([config]) == "", "nor is what the record does not say"
