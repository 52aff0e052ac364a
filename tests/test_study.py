"""From a command line to finished runs: composition, order, skipping, failures."""

import json
import os
from pathlib import Path

import pytest
import yaml
from in_process import one_server, rankwise  # noqa: F401
from tiny_configs import study_of

from rankwise.commands.train import split
from rankwise.config import Config, typed
from rankwise.errors import Refused
from rankwise.identity import run_id
from rankwise.study import multirun
from rankwise.study.compose import Composer, hydra_tree, load, to_config, unresolved
from rankwise.tracking import record as records


def results(folder: Path) -> dict[str, records.Record]:
    return {record.run["name"]: record for record in records.find([folder / "outputs"])}


def composed(line: str) -> list[Config]:
    """The study that a command line composes to, without running it."""
    flags, words, _ = split(line.split())
    return study_of(*flags, *words)


TWO_SEEDS = [("lora", 8, 0), ("lora", 8, 1)]


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (  # a rank axis collapses where there is no rank, and the whole curve comes before the second seed
            "-m debug=fast method=lora,full,head method.rank=4,1 seed=1,0",
            [(*arm, seed) for seed in (0, 1) for arm in [("lora", 4), ("lora", 1), ("full", None), ("head", None)]],
        ),
        *((line, TWO_SEEDS) for line in ("debug=fast -m seed=0,1", "debug=fast seed=0,1 --multirun")),
        (
            "experiment=rank_sweep",
            [("full", None, 0), *(("lora", 2**n, 0) for n in range(6, -1, -1))]
            + [(name, None, 0) for name in ("head", "probe", "tfidf")],
        ),
        ("experiment=rank_sweep method.rank=1,16 method=lora seed=3", [("lora", 1, 3), ("lora", 16, 3)]),
    ],
)
def test_a_command_line_is_these_runs_in_this_order(line, runs):
    study = composed(line)
    assert [(c.method.name, c.method.rank, c.seed) for c in study] == runs
    assert {c.study for c in study} == {"rank_sweep" if "rank_sweep" in line else "debug"}


SWEEP = {*(f"lora {2**n}" for n in range(6)), "full", "head", "probe", "tfidf"}


@pytest.mark.parametrize(
    ("line", "arms", "settled"),
    [
        ("experiment=rank_sweep debug=fast", SWEEP, ("tiny BERT (random)", 64, None, 6)),
        ("hydra.mode=MULTIRUN experiment=rank_sweep debug=fast", SWEEP, ("tiny BERT (random)", 64, None, 6)),
        ("debug=fast experiment=rank_sweep method=full task.n_test=9", {"full"}, ("tiny BERT (random)", 9, None, 6)),
        ("experiment=targets debug=fast method.budget=999", {"lora"}, ("tiny BERT (random)", 64, 999, 6)),
        (
            "experiment=paper/learns_less debug=fast",
            {"lora 16", "lora 32", "full"},
            ("tiny BERT (random)", 64, None, 6),
        ),
        ("experiment=glue debug=limit model=tiny_gpt2", {"lora 8"}, ("tiny GPT-2 (random)", 50, None, 20)),
    ],
)
def test_a_debug_preset_wins_over_an_experiments_values_and_axes_and_what_is_typed_over_both(line, arms, settled):
    study = composed(line)
    assert {" ".join(map(str, filter(None, (c.method.name, c.method.rank)))) for c in study} == arms
    assert {(c.model.name, c.task.n_test, c.method.budget, c.trainer.max_steps) for c in study} == {settled}
    assert all(c.targets.modules in (None, ["query", "value"]) for c in study)
    assert {(c.forgetting.name, c.trainer.accumulate) for c in study} == {("none", 1)}


@pytest.mark.parametrize(
    ("experiment", "modules"),
    [
        ("lora_t5_proxy", ["key", "query"]),
        ("lora_t5", ["key", "query"]),
        ("dora_t15", ["dense", "key", "query", "value"]),
    ],
)
def test_an_experiments_layers_are_those_of_their_role_in_the_tiny_model(experiment, modules):
    study = composed(f"experiment=paper/{experiment} debug=fast seed=0")
    assert [list(found) for found in {tuple(c.targets.modules) for c in study if c.targets.modules}] == [modules]


def test_what_of_an_experiment_is_no_size_is_not_cut_by_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    params = '{sweeper: {params: {method.rank: "4,x,64"}}}'
    (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\nhydra: {params}\n")
    with pytest.raises(Refused, match=r"^method.rank=x: an integer"):
        composed("experiment=mine debug=fast")


def test_paired_axes_are_written_as_dicts():
    study = composed("-m debug=fast method={rank:1,lr:1e-3},{rank:8,lr:5e-4}")
    assert [(c.method.rank, c.optim.lr) for c in study] == [(1, 1e-3), (8, 5e-4)]


def test_composing_once_per_group_choice_gives_what_hydra_composes(monkeypatch):
    slow: list[Config] = []
    fast = Composer.__call__

    def both(self, row):
        slow.append(to_config(unresolved(load(row))))
        return fast(self, row)

    monkeypatch.setattr(Composer, "__call__", both)
    line = "-m debug=fast method=lora,full method.rank=1,2 optim.betas=[0.9,0.99],[0.8,0.9] trainer.clip=0,1"
    quick = composed(line)
    assert quick == [config for config, _ in multirun.distinct([(config, []) for config in slow])]
    assert len(quick) == 12


def test_a_row_has_no_value_of_the_row_before():
    with hydra_tree():
        compose = Composer()
        rows = ["method.rank=4 optim.weight_decay=0.3", "method.rank=8", "method.rank=8 optim.weight_decay=0.2"]
        study = [compose(["debug=fast", *row.split()])[0] for row in rows]
    assert [(c.method.rank, c.optim.weight_decay) for c in study] == [(4, 0.3), (8, 0.01), (8, 0.2)]


def test_a_multirun_runs_skips_what_is_finished_and_reruns_on_demand(tmp_path):
    line = ["train", "-m", "debug=fast", "method=lora,full,tfidf", "method.rank=1,2"]
    first = rankwise(tmp_path, *line)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "" and first.stderr.endswith("rankwise: to compare them: rankwise report outputs/debug\n")
    done = results(tmp_path)
    assert {record.status for record in done.values()} == {"finished"} and len(done) == 4
    started = {name: record.run["started"] for name, record in done.items()}

    again = rankwise(tmp_path, *line)
    assert again.returncode == 0
    assert "4 finished before; 0 to run" in again.stderr
    assert {n: r.run["started"] for n, r in results(tmp_path).items()} == started

    forced = rankwise(tmp_path, "train", "-m", "debug=fast", "method=tfidf", "--rerun")
    assert forced.returncode == 0
    assert results(tmp_path)["tfidf-s0"].run["attempts"] == 2
    assert results(tmp_path)["full-lr0.0001-s0"].run["attempts"] == 1


def test_a_refused_run_stops_no_other_is_named_with_its_reason_and_leaves_nothing(tmp_path):
    # Rank 17 fits the width, but not the values of grouped-query attention, which only the built model shows.
    done = rankwise(tmp_path, "train", "-m", "debug=fast", "model=tiny_llama", "method.rank=17,1,2")
    assert done.returncode == 1
    statuses = {name.split("-")[1]: run.status for name, run in results(tmp_path).items()}
    assert statuses == {"r1": "finished", "r2": "finished"}
    line = next(line for line in done.stderr.splitlines() if line.startswith("rankwise: lora-r17"))
    assert " refused: method.rank=17: at most 16" in line and "v_proj" in line
    assert not list(tmp_path.glob("outputs/*/lora-r17*"))


def test_a_single_run_that_is_refused_late_exits_2_with_one_line(tmp_path):
    done = rankwise(tmp_path, "train", "debug=fast", "model=tiny_llama", "method.rank=17")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "v_proj" in done.stderr


def test_a_foreign_launcher_runs_the_same_study_and_a_failed_run_is_named(tmp_path):
    line = ["train", "-m", "debug=fast", "hydra/launcher=basic", "model=tiny_llama", "method=lora,tfidf"]
    done = rankwise(tmp_path, *line, "method.rank=17")
    assert done.returncode == 1, done.stderr
    assert [record.status for record in results(tmp_path).values()] == ["finished"]
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("rankwise: lora-r17-")]
    assert "failed: method.rank=17" in failed and "at most 16" in failed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outputs"]


def test_optuna_weighs_score_against_memory_on_our_launcher(zygote, tmp_path):
    more = [
        "experiment=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.max_failure_rate=0.9",
        'hydra.sweeper.params={method.rank: "choice(64)"}',
    ]
    done = zygote.rankwise(tmp_path, "train", "-m", "debug=fast", *more)
    assert done.returncode == 0 and all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr
    assert "\33" not in done.stderr and "[I" not in done.stderr
    runs = results(tmp_path).values()
    assert {record.status for record in runs} == {"finished"}
    assert {record.config["stage"] for record in runs} == {"search"}
    assert {record.config["method"]["rank"] for record in runs} == {32}  # of the experiment, as the preset lets it be
    front = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())["solutions"]
    seen = {(record.objective, float(record.memory["train"]["peak_bytes"])) for record in runs}
    assert front and {tuple(solution["values"]) for solution in front} <= seen


def test_a_sweep_file_runs_without_a_server_and_again_runs_nothing(tmp_path):
    command = ["${env}", "rankwise", "train", "debug=fast", "study=swept", "tracking=none", "${args_no_hyphens}"]
    axes = {"method": {"values": ["lora", "full"]}, "method.rank": {"values": [1, 2.0]}}
    sweep = {"method": "grid", "metric": {"name": "objective", "goal": "maximize"}, "command": command}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep | {"parameters": axes}))
    done = rankwise(tmp_path, "sweep", "s.yaml")
    assert done.returncode == 0, done.stderr
    assert "4 combinations come to 3 distinct runs" in done.stderr
    assert done.stderr.splitlines()[-1] == "rankwise: to compare them: rankwise report outputs/swept"
    assert done.stdout == "outputs/swept  3 finished\n" and len(results(tmp_path)) == 3
    again = rankwise(tmp_path, "sweep", "s.yaml", "--json")
    told = json.loads(again.stdout)
    assert told == {"study": "outputs/swept", "states": {"finished": 3}} and "started" not in again.stderr


def test_a_snapshot_runs_again_to_the_same_run_and_result(tmp_path, monkeypatch):
    (tmp_path / "srun").touch(0o755)  # as on a cluster's machine, about which Lightning has a hint
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first = rankwise(tmp_path, "train", "debug=fast", "method.rank=3")
    assert first.returncode == 0 and "srun" not in first.stderr
    [record] = results(tmp_path).values()
    snapshot = str(record.folder / "config.yaml")
    done = rankwise(tmp_path, "train", "--config", snapshot, "outputs=elsewhere")
    assert done.returncode == 0 and "stage=" not in done.stderr, done.stderr
    [other] = records.find([tmp_path / "elsewhere"])
    assert other.run["id"] == record.run["id"] == run_id(typed(record.config))
    assert other.metrics == record.metrics


def test_what_a_single_run_prints_on_stdout_is_where_it_is_and_its_score(tmp_path):
    done = rankwise(tmp_path, "train", "debug=fast", "method=tfidf")
    place, text = done.stdout.split("  ", 1)
    result = json.loads((tmp_path / place / "result.json").read_text())
    assert f"test accuracy {100 * result['metrics']['test']['accuracy']['value']:.1f}" in text
    assert "finished before" not in done.stderr
    again = rankwise(tmp_path, "train", "debug=fast", "method=tfidf")
    assert again.stdout == done.stdout and "finished before; --rerun runs it again" in again.stderr
