"""What becomes an arm, at which learning rate, and what is flagged."""

import itertools
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import write_run, write_study
from tiny_configs import tiny

from rankwise.config import Package, flat, known_keys, plain
from rankwise.errors import Refused
from rankwise.identity import canonical
from rankwise.report.arms import group
from rankwise.report.report import build
from rankwise.report.table import failures
from rankwise.tracking.record import Record

PACKAGE = Package("p", "1", "0" * 64, "m")


def arm(report, method="lora", rank=None, comparable=True):
    found = [a for a in report.arms if (a.method, a.rank, a.comparable) == (method, rank, comparable)]
    assert len(found) == 1, [a.label for a in report.arms]
    return found[0]


def flags(found):
    return " | ".join(found.flags)


def test_seeds_of_one_arm_are_one_row_in_reading_order(tmp_path):
    write_study(tmp_path, {8: 0.81, 1: 0.79})
    write_run(tmp_path, "head", None, lr=5e-3, test=0.76)
    report = build([tmp_path])
    arms = [(a.method, a.rank, len(a.runs)) for a in report.arms]
    assert arms == [("lora", 1, 3), ("lora", 8, 3), ("full", None, 3), ("head", None, 1)]
    assert report.reference is report.arms[2]


def test_rows_that_differ_in_their_context_are_named_by_it_and_another_model_by_its_name(tmp_path):
    write_study(tmp_path, {8: 0.82}, range(2))
    for size in (16, 64):
        write_run(tmp_path, "lora", 8, trainer__batch_size=size)
    write_run(tmp_path, "lora", 8, model__name="bert", model__path="/models/bert", trainer__batch_size=64)
    arms = {arm.label: arm.flags[:1] for arm in build([tmp_path]).arms}
    other = "not comparable, not ranked: another model (bert), trainer.batch_size=64 (reference: 32)"
    assert arms == {
        "minilm lora r=8": [],
        "minilm full": [],
        "bert lora r=8": [other],
        "minilm lora r=8 batch_size=16": ["not comparable, not ranked: trainer.batch_size=16 (reference: 32)"],
        "minilm lora r=8 batch_size=64": ["not comparable, not ranked: trainer.batch_size=64 (reference: 32)"],
    }
    write_run(tmp_path, "full", None, lr=1e-4, trainer__batch_size=64)  # might be the reference itself
    said = {flag for arm in build([tmp_path]).arms for flag in arm.flags[:1]}
    assert "not comparable, not ranked: trainer.batch_size=64 (reference, of most runs: 32)" in said
    for packing in (True, False):  # which is in no config's canonical form
        write_run(tmp_path / "packed", "lora", 8, task__packing=packing)
    arms = {arm.label: arm.flags for arm in build([tmp_path / "packed"]).arms}
    apart = "not comparable, not ranked: task.packing=false (the first rows: true)"
    assert arms == {"lora r=8": [], "lora r=8 packing=false": [apart]}
    for init in (None, "pissa"):
        write_run(tmp_path / "inits", "lora", 8, method__init=init)
    assert {arm.name for arm in build([tmp_path / "inits"]).arms} == {"lora r=8 init=zero_B", "lora r=8 init=pissa"}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"targets__name": "qv"}, "lora r=8 qv"),
        ({"targets__layers": [0, 1]}, "lora r=8 all_linear in layers 0,1"),
        ({"method__alpha": 16}, "lora r=8 α=16"),
        ({"quant__name": "mine", "quant__kind": "nf4"}, "lora r=8 nf4"),
        ({"quant__name": "mine", "quant__kind": "nf4", "quant__double": True}, "lora r=8 nf4_double"),
        ({"method__dropout": 0.1}, "lora r=8 dropout=0.1"),
        ({"method__bias": "all"}, "lora r=8 bias=all"),
    ],
)
def test_what_defines_a_contender_makes_an_arm_of_its_own_and_names_it(tmp_path, change, label):
    write_study(tmp_path, {8: 0.8})
    write_run(tmp_path, "lora", 8, **change)
    report = build([tmp_path])
    assert label in [a.label for a in report.arms]
    assert all(a.comparable for a in report.arms)
    assert len({a.family for a in report.arms if a.method == "lora"}) == 2


@pytest.mark.parametrize(
    ("method", "pefts", "names", "said"),
    [
        (
            "gralora",
            [{"_target_": "peft.GraloraConfig", "r": 8, "gralora_k": k, "hybrid_r": 0} for k in (2, 4)],
            ["gralora r=8 gralora_k=2", "gralora r=8 gralora_k=4"],
            ["gralora on all_linear: hybrid_r=0."],
        ),
        (
            "custom",
            [{"_target_": "peft.BoftConfig", "boft_block_size": 4}, {"_target_": "peft.LoHaConfig", "r": 8}],
            ["custom boft", "custom loha r=8"],
            ["custom boft on all_linear: boft_block_size=4.", "2e-3 (custom boft, custom loha)"],
        ),
    ],
)
def test_arms_are_named_by_the_keys_of_peft_in_which_they_differ(tmp_path, method, pefts, names, said):
    for peft in pefts:
        write_run(tmp_path, method, None, method__peft=peft)
    report = build([tmp_path])
    assert sorted(arm.label for arm in report.arms) == names
    assert not [words for words in said if words not in report.to_methods()]


def test_rows_that_differ_in_several_keys_are_named_by_as_many_as_tell_them_apart(tmp_path):
    for seed in range(2):
        write_run(tmp_path, "full", None, seed=seed)
    for epochs, decay in itertools.product((3.0, 5.0), (0.01, 0.1)):
        write_run(tmp_path, "lora", 8, trainer__epochs=epochs, optim__weight_decay=decay)
    write_run(tmp_path, "lora", 4, trainer__epochs=5.0)
    labels = {arm.label for arm in build([tmp_path]).arms if arm.rank}
    apart = {f"lora r=8 {keys}" for keys in ("weight_decay=0.1", "epochs=5.0", "weight_decay=0.1 epochs=5.0")}
    assert labels == {"lora r=4", "lora r=8"} | apart


def test_what_is_measured_beside_and_how_a_method_is_spelled_make_no_arm_and_the_run_that_measured_more_counts(
    tmp_path,
):
    write_study(tmp_path, {8: 0.8}, method__init="pissa")
    more = write_run(tmp_path, "lora", 8, method__init="pissa", forgetting={"name": "reviews"})
    more.metrics["forgetting"] = {"measure": "loss", "difference": {"value": 0.1, "se": 0.01, "n": 50}}
    more.config["method"]["name"], more.run["ended"] = "pissa", "2025-01-01T00:00:00+00:00"
    more.write()
    report = build([tmp_path])
    assert [(a.method, [run.config["seed"] for run in a.runs]) for a in report.arms] == [
        ("lora", [0, 1, 2]),
        ("full", [0, 1, 2]),
    ]
    assert report.arms[0].runs[0].run["id"] == more.run["id"]
    assert "7 runs finished, 6 of them scored, one a seed at its arm's learning rate." in report.notes


def test_whatever_decides_what_is_learned_sets_arms_or_their_contexts_apart_but_for_the_rate_and_the_seeds():
    """Every key of the schema that is in the hash of some run: else one of two runs vanishes from the table."""
    given = [
        {"task__generation__metrics": ["bleu"], "forgetting__name": "reviews", "optim__name": "sgd"},
        {"quant__kind": "nf4", "quant__name": "nf4", "quant__double": False, "trainer__devices": 2},
        {"trainer__max_steps": None},
        {"method": "few_shot"},
        {"method": "oft", "method__rank": None, "method__block": 4},
        {"method": "bottleneck"},
        {"method": "top_layers"},
        {"method": "did", "method__dim": 10},
        {"method": "custom", "method__peft": {"_target_": "peft.HRAConfig"}},
        {"task__path": "/d"},
        {"task__package": PACKAGE, "model__package": PACKAGE, "forgetting__package": PACKAGE},
    ]
    material, together = set(), set()
    for changes in given:
        one = flat(plain(tiny("gpt2", **changes)))
        for key in one:
            other = nested(one | {key: other_than(one[key], str(known_keys().get(key, [""])[0]))})
            if canonical(other) != canonical(nested(one)):
                material.add(key)
                if len(group([Record({"status": "finished"}, values) for values in (nested(one), other)])) == 1:
                    together.add(key)
    beside = {key for key in together if key.startswith(("task.generation.", "forgetting."))}
    assert together - beside == {"seed", "data_seed", "optim.lr"}
    assert len(material) > 100 and {"task.generation.beams", "forgetting.n"} <= beside & material
    assert {"quant.double", "method.rank"} <= material


def other_than(value, hint):
    """Another value of the type that a key is hinted to have."""
    kinds = {"bool": not value, "list[int]": [5], "int": 5, "float": 0.5, "list": ["another"], "Any": {"query": 4}}
    return next((other for kind, other in kinds.items() if kind in hint), "another")


def nested(values):
    config = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        at = config
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return config


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"trainer__batch_size": 16}, "trainer.batch_size=16 (reference: 32)"),
        ({"precision": "bf16"}, "compute.precision=bf16 (reference: fp32)"),
        ({"data": "d1", "seed": 1}, "data.fingerprint=d1"),
    ],
)
def test_a_run_of_another_context_is_flagged_with_the_key_and_not_averaged(tmp_path, change, key):
    write_study(tmp_path, {8: 0.81})
    write_run(tmp_path, "lora", 8, test=0.5, **({"seed": 9} | change))
    report = build([tmp_path])
    other = arm(report, rank=8, comparable=False)
    assert key in flags(other)
    assert report.comparison(other) is None
    assert len(arm(report, rank=8).runs) == 3
    assert arm(report, rank=8).scores["accuracy"].mean == pytest.approx(0.81, abs=0.01)


def test_arms_say_their_model_and_task_where_these_differ(tmp_path):
    for path in ("/data/a/rows", "/data/b/rows"):
        for model in ("minilm", "bert"):
            write_run(tmp_path, "lora", 8, task__name="mine", task__path=path, model__name=model, model__path=model)
        write_run(tmp_path, "tfidf", None, task__name="mine", task__path=path)
    labels = {arm.label for arm in build([tmp_path]).arms}
    loras = {f"{model} lora r=8 on mine {place}/rows" for model in ("minilm", "bert") for place in "ab"}
    assert labels == loras | {"tfidf on mine a/rows", "tfidf on mine b/rows"}


def test_where_things_go_and_how_fast_they_ran_is_not_context(tmp_path):
    write_study(tmp_path, {8: 0.81})
    write_run(tmp_path, "lora", 8, seed=3, study="another", name="mine", trainer__threads=4)
    assert len(arm(build([tmp_path]), rank=8).runs) == 4


def test_runs_of_several_data_seeds_are_replicates_of_one_arm(tmp_path):
    for data_seed in range(3):
        for method, rank in (("full", None), ("lora", 8)):
            write_run(tmp_path, method, rank, data_seed=data_seed)
    report = build([tmp_path])
    assert len(report.arms) == 2
    assert report.comparison(arm(report, rank=8)).seeds == 3
    for method, rank, data_seed in (("full", None, 0), ("lora", 8, 1)):  # of which neither makes any use
        write_run(tmp_path / "all", method, rank, data_seed=data_seed, task__n_train=None)
    report = build([tmp_path / "all"])
    assert report.comparison(arm(report, rank=8)).seeds == 1


def test_baselines_are_compared_on_data_and_model_only(tmp_path):
    write_study(tmp_path, {8: 0.81})
    for seed in range(3):
        write_run(tmp_path, "probe", None, lr=0.0, seed=seed, test=0.77, precision="none", trainer__batch_size=1)
    write_run(tmp_path, "tfidf", None, lr=0.0, data="d1")
    report = build([tmp_path])
    assert report.comparison(arm(report, "probe")).verdict == "worse"
    assert "data.fingerprint" in flags(arm(report, "tfidf", comparable=False))


def test_learning_rate_is_the_best_by_mean_validation_not_by_test(tmp_path):
    for seed in range(2):
        for lr, objective, test in ((1e-3, 0.80, 0.70), (2e-3, 0.82, 0.75), (4e-3, 0.79, 0.90)):
            write_run(tmp_path, "lora", 8, lr=lr, objective=objective, test=test, seed=seed)
    found = build([tmp_path]).arms[0]
    assert found.lr == 2e-3
    assert [(t.lr, t.n) for t in found.trials] == [(1e-3, 2), (2e-3, 2), (4e-3, 2)]
    assert found.scores["accuracy"].mean == pytest.approx(0.75, abs=0.02)
    assert "edge" not in flags(found)


@pytest.mark.parametrize(
    ("runs", "taken", "said"),  # runs: by rate, the objective of each seed; taken: the rate and its runs
    [
        # one lucky seed, where the study was stopped, does not win over all seeds
        (
            {1e-3: {0: 0.80, 1: 0.80, 2: 0.80}, 2e-3: {0: 0.78, 1: 0.78, 2: 0.78}, 4e-3: {0: 0.9}},
            (1e-3, 3),
            "3: lr 4e-3 (1)",
        ),
        # whole rates are judged on the seeds that all of them have: 2 is easy and 3 is hard
        ({1e-3: {0: 0.70, 1: 0.70, 2: 0.90}, 2e-3: {0: 0.75, 1: 0.75, 3: 0.55}}, (2e-3, 3), ""),
        # one that is not whole is named also where few seeds are shared
        (
            {1e-3: {0: 0.8, 1: 0.8, 2: 0.8}, 2e-3: {1: 0.82, 2: 0.82, 3: 0.82}, 4e-3: {1: 0.9, 2: 0.9}},
            (2e-3, 3),
            "3: lr 4e-3 (2)",
        ),
        # one that was chosen and run again on more seeds, which happen to be harder, keeps all of them
        ({1e-3: {100: 0.80}, 2e-3: {100: 0.82, 0: 0.75, 1: 0.75, 2: 0.75}}, (2e-3, 4), "4: lr 1e-3 (1)"),
        # without an objective (it diverged) a rate is never taken
        ({1e-3: {0: 0.6}, 8e-3: {0: None}}, (1e-3, 1), ""),
    ],
)
def test_rates_are_judged_where_they_are_whole(tmp_path, runs, taken, said):
    for lr, seeds in runs.items():
        for seed, objective in seeds.items():
            write_run(tmp_path, lr=lr, objective=objective, seed=seed, diverged=objective is None)
    found = build([tmp_path]).arms[0]
    assert (found.lr, len(found.runs)) == taken
    assert [trial.n for trial in found.trials] == [len(seeds) for seeds in runs.values()]
    assert (f"not chosen from, fewer seeds than {said}" in flags(found)) if said else "fewer seeds" not in flags(found)


def test_learning_rates_by_a_loss_take_the_lowest(tmp_path):
    records = [write_run(tmp_path, rank=4, lr=lr, objective=loss) for lr, loss in ((1e-3, 0.4), (2e-3, 0.5))]
    for record in records:
        record.config["objective"] = "val/loss"
        record.write()
    found = build([tmp_path]).arms[0]
    assert found.lr == 1e-3 and "lr at the edge of its grid (1e-3 … 2e-3)" in flags(found)


def test_the_same_run_found_twice_counts_once(tmp_path):
    for folder in ("one", "two"):
        write_run(tmp_path / folder, "lora", 8)
    assert len(build([tmp_path]).arms[0].runs) == 1


def test_runs_selected_on_the_test_set_are_refused(tmp_path):
    record = write_run(tmp_path)
    record.config["objective"] = "test/accuracy"
    record.write()
    with pytest.raises(Refused, match=r"objective=test/accuracy.*validation"):
        build([tmp_path])


def test_diverged_runs_are_counted_and_stay_in_the_mean(tmp_path):
    write_study(tmp_path, {8: 0.81}, range(2))
    write_run(tmp_path, "lora", 8, seed=2, test=0.5, diverged=True)
    report = build([tmp_path])
    found = arm(report, rank=8)
    assert "diverged 1/3" in flags(found)
    assert "\nlora r=8\\textsuperscript{1,2} & " in report.to_latex()
    assert found.scores["accuracy"].mean == pytest.approx((0.81 + 0.81 + 0.5) / 3, abs=0.01)


def test_a_score_that_is_not_finite_is_flagged_where_it_is_missing_from_the_mean(tmp_path):
    write_study(tmp_path, {8: 0.81})
    broken = write_run(tmp_path, "lora", 8, seed=3, diverged=True)
    broken.metrics["test"]["accuracy"] = {"value": np.nan, "se": np.nan, "n": 10}
    broken.write()
    found = arm(build([tmp_path]), rank=8)
    assert "1/4 without a finite score, not in the mean" in flags(found)
    assert found.scores["accuracy"].n == 3


@pytest.mark.parametrize("cells", [[(0.5, {"n": 100}), (0.3, {}), (0.3, {})], [(0.5, {"shots": 5}), (0.3, {})]])
def test_scores_of_other_rows_or_shots_are_in_no_mean_and_flagged(tmp_path, cells):
    for seed, (value, asked) in enumerate(cells):
        record = write_run(tmp_path, seed=seed)
        record.metrics["harness"] = {"arc_easy:acc": {"value": value, "se": 0.01, "n": 2376, "shots": 0} | asked}
        record.metrics["harness"]["arc_easy:acc"]["difference"] = {"value": value - 0.2}
        record.write()
    found = (report := build([tmp_path])).arms[0]
    assert found.scores["arc_easy:acc"].mean == pytest.approx(cells[0][0] if len(cells) == 2 else 0.3)
    gained = 100 * (found.scores["arc_easy:acc"].mean - 0.2)  # of the same runs
    assert re.search(rf"\| lora r=8 ¹ \| [^|]+ \| \+{gained:.1f} \|", report.to_markdown())
    said = "asked with another number of rows or shots, or another task.generation, not in the mean of arc_easy:acc"
    assert f"1/{len(cells)} {said}" in flags(found) and found.scores["arc_easy:acc"].n == len(cells) - 1


@pytest.mark.parametrize(("factor", "shown"), [(1.0, "50.0"), (100.0, "50.000")])
def test_a_score_of_the_harness_has_no_constant_answer_and_is_no_share_where_it_is_above_1(tmp_path, factor, shown):
    for seed, (method, rank) in itertools.product(range(2), (("full", None), ("lora", 8))):
        record = write_run(tmp_path, method, rank, seed=seed)
        columns = {name: np.arange(2000) for name in ("item", "label")} | {"f1": factor * (np.arange(2000) % 2)}
        (record.folder / "harness").mkdir()
        pq.write_table(pa.table(columns), record.folder / "harness/squad.parquet")
        record.metrics["harness"] = {"squad:f1": {"value": factor / 2, "se": factor / 100, "n": 2000}}
        record.write()
    report = build([tmp_path], "squad:f1")
    assert report.document()["constant"] is None and report.verdict(report.arms[0]) == "same"
    assert f"{shown} ± " in report.to_markdown() and ("squad:f1 %" in report.to_markdown()) == (factor == 1)


def test_unfinished_runs_are_counted_with_their_arm_and_never_scored(tmp_path):
    write_study(tmp_path, {8: 0.81})
    write_run(tmp_path, "lora", 8, seed=7, status="failed")
    write_run(tmp_path, "lora", 8, seed=8, status="running")  # nobody holds its folder: it was stopped
    write_run(tmp_path, "lora", 64, status="failed")
    report = build([tmp_path])
    assert len(arm(report, rank=8).runs) == 3
    assert {"1 failed", "1 stopped"} <= set(arm(report, rank=8).flags)
    assert (arm(report, rank=64).runs, arm(report, rank=64).flags) == ([], ["1 failed"])
    assert {row[-1] for row in failures(report.arms)} == {"–"}, "no log that is not there"


def test_disagreeing_margins_take_the_smallest_and_say_so(tmp_path):
    write_study(tmp_path, {8: 0.81})
    write_run(tmp_path, "lora", 4, task__margin=0.05)
    report = build([tmp_path])
    assert report.margin == report.metric.margin == 0.02
    assert any("disagree on the margin (2 points, 5 points of accuracy)" in note for note in report.notes)


def test_configs_of_another_version_are_compared_as_they_stand(tmp_path):
    write_study(tmp_path, {8: 0.81}, trainer__colour="red")
    report = build([tmp_path])
    assert report.comparison(arm(report, rank=8)).seeds == 3
