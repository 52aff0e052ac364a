"""What identifies a run: its canonical form, hash, name and folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import tiny as tiny_config

from rankwise.config import Config, Package, plain, typed
from rankwise.errors import Refused
from rankwise.identity import canonical, folder, label, labels, run_id
from rankwise.study.compose import refuse_idle, to_config

PACKAGE = Package("p", "1", "0" * 64, "m")


@pytest.mark.parametrize(
    "keys",
    [
        {"study": "other"}, {"name": "mine"}, {"outputs": "elsewhere"}, {"rerun": True}, {"trainer__threads": 7},
        {"trainer__device": "cpu"}, {"trainer__eval_batch_size": 3}, {"trainer__save_full": True},
        {"tracking__mode": "online"}, {"tracking__project": "p"}, {"tracking__tags": ["t"]}, {"model__name": "M"},
        {"task__name": "T"}, {"task__margin": 0.1}, {"quant__name": "o"}, {"method__lr": 0.5},
        {"trainer__epochs": 9.0},  # max_steps wins
        {"trainer__devices": 1}, {"tracking__latency": [[2, 8]]}, {"method__dim": 10}, {"task__protocol": "clean"},
        {"forgetting__n": 7}, {"task__generation__beams": 3},  # both are switched off
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_change_a_result_is_in_no_hash(tiny, keys):
    assert run_id(tiny(optim__lr=1e-3, **keys)) == run_id(tiny(optim__lr=1e-3))


@pytest.mark.parametrize(
    "keys",
    [
        {"seed": 1}, {"data_seed": 1}, {"optim__lr": 1e-3}, {"method__rank": 4}, {"method__alpha": "4r"},
        {"method__dropout": 0.1}, {"method__bias": "all"}, {"method__modules_to_save": ["pooler"]},
        {"targets__name": "mlp"}, {"targets__layers": [0]}, {"trainer__max_steps": 7}, {"trainer__batch_size": 4},
        {"trainer__accumulate": 2}, {"trainer__clip": 0.5}, {"trainer__precision": "bf16"}, {"optim__warmup": 0.2},
        {"optim__schedule": "cosine"}, {"optim__weight_decay": 0.1}, {"task__n_train": 64}, {"task__n_test": 32},
        {"task__max_length": 16}, {"trainer__validations": 3}, {"trainer__early_stopping": 2},
        {"objective": "val/loss"}, {"model__shape": {"model_type": "bert"}}, {"trainer__group_by_length": False},
        {"task__synthetic": 700}, {"trainer__devices": 2}, {"task__protocol": "paper"},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_a_result_changes_the_hash(tiny, keys):
    assert run_id(tiny(**keys)) != run_id(tiny())


def test_the_seed_of_the_sample_is_of_no_use_where_all_rows_train(tiny):
    drawn, whole = ([tiny(task__n_train=n, data_seed=seed) for seed in (0, 1)] for n in (64, None))
    assert len({*map(run_id, drawn)}) == 2 and len({*map(run_id, whole)}) == 1
    assert canonical(plain(whole[1]))["data_seed"] == 0
    with pytest.raises(Refused, match=r"^data_seed=1: of no use with task.n_train=null; leave it out$"):
        refuse_idle([(whole[1], ["data_seed=1"])])
    refuse_idle([(whole[1], ["data_seed=1"]), (drawn[1], ["data_seed=1"])])
    for word, why in (("forgetting.n=5", "forgetting=none"), ("task.generation.n=5", r"task.generation.metrics=\[\]")):
        with pytest.raises(Refused, match=f"^{word}: of no use with {why}; leave it out$"):
            refuse_idle([(tiny(), [word])])
    refuse_idle([(tiny(), ["task.generation.metrics=[]", "forgetting=none", "forgetting.n=1000"])])


def test_a_revision_or_a_subset_is_of_no_use_without_a_hub_id(tiny, tmp_path):
    words = ("model.revision=v1", "task.revision=v1", "task.subset=a", "forgetting.revision=v1")
    sources = {"forgetting__name": "local", "task__synthetic": None}
    groups = ("model__path", "task__path", "forgetting__path")
    local, hub = (tiny(**sources, **dict.fromkeys(groups, path)) for path in (str(tmp_path), "org/name"))
    for word in words:
        with pytest.raises(Refused, match=rf"^{word}: of no use with {word.partition('.')[0]}=.*; leave it out$"):
            refuse_idle([(local, [word])])
    with pytest.raises(Refused, match=r"^model.revision=v1: of no use with model=tiny BERT \(random\); leave it out$"):
        refuse_idle([(tiny(), ["model.revision=v1"])])
    refuse_idle([(hub, words), (local, ["model=tiny_bert", "forgetting=local"])])
    refuse_idle([(tiny(**sources, task__path=str(tmp_path), task__format="glue"), ["task.subset=rte"])])


def test_what_asks_and_watches_training_is_of_no_use_without_any(tiny):
    asked = {"forgetting__name": "news", "callbacks": {"it": {"_target_": "x.Y"}}}
    assert run_id(tiny(method="probe", **asked)) == run_id(tiny(method="probe")) != run_id(tiny(**asked))
    for word in ("forgetting=news", "forgetting.n=5"):
        with pytest.raises(Refused, match=f"^{word}: of no use with method=probe; leave it out$"):
            refuse_idle([(tiny(method="probe", **asked), [word])])
    refuse_idle([(tiny(method="probe", **asked), ["forgetting=news"]), (tiny(**asked), ["forgetting=news"])])


def test_the_keys_of_generated_rows_are_in_the_hash_though_nothing_is_written(tiny):
    def config(**keys: Any) -> Config:
        return tiny("llama", task="write_json", task__generation__metrics=[], **keys)

    ids = {run_id(config(task__generation__keys=keys)) for keys in (["x"], ["x", "y"])}
    own = {run_id(config(task__generation__keys=keys, task__path="/p")) for keys in (["x"], ["x", "y"])}
    assert (len(ids), len(own)) == (2, 1) and "generation" not in canonical(plain(tiny("llama")))["task"]


def test_which_label_is_which_class_is_in_the_hash(tiny):
    same = [{1: "a", 2: "b"}, {"1": "a", "2": "b"}]
    other = [{"2": "b", "1": "a"}, {"*": "a"}, {"*": "a", "x*": None}, {"x*": None, "*": "a"}, {"x": "a", 1: "b"}]
    ids = [run_id(tiny(task__labels=labels)) for labels in (*same, *other)]
    assert ids[0] == ids[1] and len(set(ids)) == len(ids) - 1


@pytest.mark.parametrize("key", ["ranks", "alphas"])
def test_which_pattern_of_the_targets_is_first_is_in_the_hash(tiny, key):
    def ids(*patterns: dict[str, int]) -> set[str]:
        return {run_id(tiny(**{f"targets__{key}": one})) for one in patterns}

    assert len(ids({"query": 4, ".*": 2}, {".*": 2, "query": 4}, {".*2": 2, ".*1": 4}, {".*1": 4, ".*2": 2})) == 4
    assert len(ids({"query": 4, "key": 2}, {"key": 2, "query": 4})) == 1  # no layer has both names


@pytest.mark.parametrize("method", ["full", "head", "probe", "tfidf"])
def test_rank_alpha_and_targets_collapse_where_there_is_no_adapter(tiny, method):
    other = tiny(method=method, targets="mlp", method__rank=4, method__alpha=7, method__dropout=0.5)
    assert run_id(other) == run_id(tiny(method=method))
    assert run_id(tiny(method=method, data_seed=1)) != run_id(tiny(method=method))


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [
        ("ia3", "rank", 4), ("ia3", "dora", True), ("ia3", "dropout", 0.1), ("vera", "bias", "all"),
        ("vera", "budget", 500), ("full", "init_from", "x"), ("full", "rank", 8), ("probe", "shots", 1),
    ],
)  # fmt: skip
def test_a_key_of_another_method_is_null_and_refused_unless_a_run_of_the_study_has_it(method, key, value):
    rank = {"method__rank": 16} if method == "vera" else {}
    config, words = tiny_config(method=method, **rank), [f"method.{key}={value}"]
    values = plain(config)
    values["method"] |= {key: value}
    assert to_config(values) == config
    with pytest.raises(Refused, match=f"^method.{key}={value}: of no use with method={method}; leave it out$"):
        refuse_idle([(config, words), (config, words)])
    refuse_idle([(config, words), (tiny_config(method="few_shot" if key == "shots" else "lora"), words)])


def test_an_optimizer_is_of_use_though_a_key_of_another_is_not(tiny):
    refuse_idle([(tiny(), ["optim=adafactor"])])
    with pytest.raises(Refused, match=r"^optim=sgd: of no use with method=probe; leave it out$"):
        refuse_idle([(tiny(method="probe"), ["optim=sgd"])])


def test_keys_that_a_method_lacks_are_null_and_so_are_targets_without_an_adapter(tiny):
    values = plain(tiny("bert", "full", "qv", method__rank=64, method__alpha=16, method__dropout=0.1))
    assert {key for key, value in values["method"].items() if value is not None} == {"name", "lr"}
    assert set(values["targets"].values()) == {None}
    assert plain(tiny("bert", "ia3", "qv"))["targets"]["name"] == "qv"


def test_a_custom_method_has_the_rank_of_its_peft_config(tiny):
    def custom(rank: int | None = None, **keys: Any) -> Config:
        return tiny(method="custom", method__rank=rank, method__peft={"_target_": "peft.HRAConfig"} | keys)

    assert custom(r=4) == custom(4) == custom(4, r=8)
    assert custom(r=4).method.rank == 4 and custom(r=4).method.peft == {"_target_": "peft.HRAConfig"}
    assert label(custom(r=4)).startswith("custom-hra-r4-") and label(custom()).startswith("custom-hra-attention")
    assert len({run_id(custom(rank)) for rank in (None, 1, 2, 4)}) == 4
    assert run_id(custom(4, init_weights=None)) != run_id(custom(4))  # which is PEFT's own


def test_baselines_ignore_how_others_are_trained(tiny):
    for method in ("probe", "tfidf"):
        assert run_id(tiny(method=method, optim__lr=1.0, trainer__batch_size=4)) == run_id(tiny(method=method))
    assert run_id(tiny("gpt2", "tfidf")) == run_id(tiny("bert", "tfidf"))
    assert run_id(tiny("gpt2", "probe")) != run_id(tiny("bert", "probe"))


def test_a_path_overrides_a_package_and_that_what_is_generated(tiny):
    for group, generated in (("model", {"shape": {"model_type": "gpt2"}}), ("task", {"synthetic": 9})):
        package = run_id(tiny(**{f"{group}__package": PACKAGE}))
        other = {f"{group}__package": PACKAGE, **{f"{group}__{k}": v for k, v in generated.items()}}
        assert run_id(tiny(**other)) == package
        path = run_id(tiny(**{f"{group}__path": "/p"}))
        assert run_id(tiny(**other, **{f"{group}__path": "/p"})) == path != package


def test_a_key_that_is_null_leaves_the_hash_alone(tiny):
    def nulls(value: Any) -> bool:
        return value is None or (isinstance(value, dict) and any(map(nulls, value.values())))

    values = plain(tiny())
    assert nulls(values) and not nulls(canonical(values))
    assert canonical(values | {"invented": None}) == canonical(values)


def test_the_canonical_form_leaves_its_argument_alone(tiny):
    values = plain(tiny(method="full"))
    before = json.dumps(values)
    canonical(values)
    assert json.dumps(values) == before


def test_the_hash_is_the_same_in_every_process_and_version():
    """A change here makes users run everything again: it must be meant."""
    assert run_id(tiny_config(method__alpha="2r", method__rank=8, optim__lr=2e-3)) == "adbe2cedfa"
    close = {run_id(tiny_config(method__alpha=alpha)) for alpha in (0.1234567, 0.1234568, "0.1234568")}
    assert len(close) == 2  # all digits count


def test_the_folder_is_named_by_study_arm_and_hash(tiny):
    config = tiny(method__rank=4, seed=3, optim__lr=1e-3)
    assert label(config) == "lora-r4-attention-lr0.001-s3"
    assert folder(config) == Path(config.outputs, "debug", f"{label(config)}-{run_id(config)}")
    assert folder(tiny(name="mine")).name == f"mine-{run_id(tiny())}"
    names = [label(tiny(method=method, optim__lr=0.5)) for method in ("full", "head", "tfidf")]
    assert names == ["full-lr0.5-s0", "head-lr0.5-s0", "tfidf-s0"]


@pytest.mark.parametrize(
    ("sources", "called"),
    [
        ([("mine", "/d/A"), ("mine", "/d/A")], ["", ""]),
        ([("mine", "/d/A"), ("mine", "/d/B")], ["mine A-", "mine B-"]),
        ([("/a/x.csv", "/a/x.csv"), ("/b/x.csv", "/b/x.csv"), ("one", None)], ["a/x.csv-", "b/x.csv-", "one-"]),
        ([("CoLA", "glue", "minilm"), ("RTE", "glue", "bert")], ["minilm-CoLA-", "bert-RTE-"]),
    ],
)
def test_runs_are_told_apart_by_their_task_and_model_where_these_differ(tiny, sources, called):
    keys = [dict(zip(("task__name", "task__path", "model__name"), source, strict=False)) for source in sources]
    assert labels([tiny(method="tfidf", **of) for of in keys]) == [f"{start}tfidf-s0" for start in called]


def test_a_config_comes_back_from_its_plain_values(tiny):
    config = tiny(model__package=PACKAGE)
    assert typed(json.loads(json.dumps(plain(config)))) == config


def test_one_value_has_one_hash_however_it_is_written(tiny):
    tabs = ("tab", "\t", "\\t", "\\\\t")
    assert len({run_id(tiny(task__delimiter=sign, task__synthetic=None, task__path="/p")) for sign in tabs}) == 1
    assert len({run_id(tiny(method__alpha=alpha)) for alpha in (16, 16.0, "16", "16.0")}) == 1
    lists = ({"targets__layers": [3, 1], "targets__modules": ["q", "k"]}, {"targets__layers": [1, 3, 1]})
    targets = [tiny(**{"targets__modules": ["k", "q", "k"], **keys}).targets for keys in lists]
    assert targets[0] == targets[1] and (targets[0].layers, targets[0].modules) == ([1, 3], ["k", "q"])
    assert len({run_id(tiny(method__alpha=alpha)) for alpha in ("2r", "2.0r")}) == 1
    assert len({run_id(tiny(method__alpha=alpha)) for alpha in (2, "2r", "2sqrt")}) == 3


@pytest.mark.parametrize(
    ("key", "spellings", "named"),
    [
        ("targets", [{"name": name, "modules": ["query"]} for name in ("qv", "q", "custom")], "lora-r8-custom"),
        ("quant", [{"name": "nf4", "kind": "nf4", "double": False}, {"kind": "nf4"}], "lora-r8-attention-nf4"),
        ("quant", [{"name": "bf16", "kind": None}, {}], "lora-r8-attention"),
        ("method", [{"modules_to_save": names} for names in (["b", "a"], ["a", "b", "a"])], "lora-r8-attention"),
        ("method", [{"nested": ranks} for ranks in ([4, 2, 1, 1], [1, 2, 4])], "lora-r8-attention"),
        ("optim", [{"name": "adafactor", "betas": [0.8, beta]} for beta in (0.9, 0.99)], "lora-r8-attention"),
    ],
)  # fmt: skip
def test_one_run_has_one_hash_and_one_name_however_it_is_asked_for(tiny, key, spellings, named):
    runs = [tiny(**{f"{key}__{name}": value for name, value in one.items()}) for one in spellings]
    assert len({*map(run_id, runs)}) == 1 and {*map(label, runs)} == {f"{named}-lr0.002-s0"}
