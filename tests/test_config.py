"""What identifies a run, and everything that is refused before anything loads."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import tiny as tiny_config

from rankwise import machine
from rankwise.alpha import parse_alpha, scale_of
from rankwise.check import check, check_here
from rankwise.config import Config, Package, known_keys, plain, typed
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


@pytest.mark.parametrize(
    ("alpha", "rank", "scale"),
    [(16, 8, 2), ("16", 4, 4), (16.0, 32, 0.5), ("2r", 8, 2), ("2r", 64, 2), ("0.5r", 3, 0.5), ("16sqrt", 16, 4),
     ("16sqrt", 4, 8)],
)  # fmt: skip
def test_the_scale_of_an_alpha_policy(alpha, rank, scale):
    assert math.isclose(scale_of(alpha, rank), scale)


WORDS = ("0r", "0sqrt", "-2r", "x", "", "r", "sqrt", "2r ", "2 r", "2R", "1e3", "16\n", "١٦")


@pytest.mark.parametrize("alpha", [0, -1, 0.0, None, True, math.nan, math.inf, *WORDS], ids=repr)
def test_what_is_no_alpha_policy(alpha):
    with pytest.raises(ValueError, match="alpha"):
        parse_alpha(alpha)


FITS = [
    {"method__alpha": 16}, {"method__alpha": "16sqrt"}, {"method__dropout": 0.9}, {"method__rank": 32},
    {"optim__warmup": 0}, {"trainer__clip": 0}, {"trainer__max_steps": None, "trainer__epochs": 0.1},
    {"objective": "val/loss"}, {"task__kind": "regression", "task__metric": "spearman", "objective": "val/pearson"},
    {"targets__name": "custom", "targets__modules": ["query"]},
    {"targets__name": "custom", "targets__regex": ".*query"},
    {"study": "a-b_c.1+x=2,@é"}, {"name": "mine"},
]  # fmt: skip


@pytest.mark.parametrize("keys", FITS, ids=str)
def test_what_can_run_is_not_refused(tiny, keys):
    check(tiny(**keys))


TOKENS = {"task__metric": "perplexity"}
TEXTS = {"task__kind": "causal_lm", "objective": "val/perplexity", **TOKENS}
VALUES = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
REFUSED = [
    ("method.rank=0:", {"method__rank": 0}),
    ("method.rank=-1:", {"method__rank": -1}),
    ("method.rank=null:", {"method__rank": None}),
    ("method.rank=33: at most 32,", {"method__rank": 33}),
    ("method.alpha=0:", {"method__alpha": 0}),
    ("method.alpha=-2r:", {"method__alpha": "-2r"}),
    ("method.alpha=0r:", {"method__alpha": "0r"}),
    ("method.alpha=x:", {"method__alpha": "x"}),
    ("method.alpha=null:", {"method__alpha": None}),
    ("method.alpha=1e9:", {"method__alpha": "1e9"}),
    ("method.alpha=9999999r:", {"method__alpha": "9999999r"}),
    ("method.dropout=1:", {"method__dropout": 1}),
    ("method.dropout=-0.1:", {"method__dropout": -0.1}),
    ("method.bias=some:", {"method__bias": "some"}),
    ("method.name=lorra: .*did you mean lora", {"method__name": "lorra"}),
    ("quant.kind=int3:", {"quant__kind": "int3"}),
    ("method.init=loftq: PEFT computes it on a CUDA GPU alone", {"method__init": "loftq"}),
    *((f"quant={kind}: none with method={name}", {"quant__name": kind, "quant__kind": kind, "method": name})
      for kind, name in (("nf4", "full"), ("bf16", "bitfit"))),
    *((f"method.bias={bias}: none with quant=nf4", {"quant__name": "nf4", "quant__kind": "nf4", "method__bias": bias})
      for bias in ("all", "lora_only")),
    ("quant.double=True:", {"quant__kind": "int8", "quant__double": True}),
    ("quant.double=True: null with quant=none", {"quant__double": True}),
    ("targets.modules=", {"targets__modules": []}),
    ("method.peft=.*: finite", {"method": "custom", "method__peft": {"_target_": "peft.HRAConfig", "a": math.nan}}),
    ("targets.ranks=5: a mapping", {"targets__ranks": 5}),
    ("tracking.tags=", {"tracking__tags": [{"a": 1}]}),
    ("tracking.project='a/b':", {"tracking__project": "a/b"}),
    ("task.labels=", {"task__labels": ["a", None]}),
    ("task.labels=", {"task__labels": {"0": ["a"], "1": None}}),
    ("task.files=5: a mapping", {"task__files": 5}),
    ("task.delimiter='': .*a tab is task.delimiter=tab", {"task__delimiter": ""}),
    ("model.path='':", {"model__path": ""}),
    ("trainer.precision=bf16_true: .* with quant=", {"quant__kind": "bf16", "trainer__precision": "bf16_true"}),
    ("optim.kernel=fused:", {"optim__name": "adafactor", "optim__kernel": "fused"}),
    ("optim.kernel=fused: .*trainer.clip=0", {"optim__kernel": "fused", "trainer__precision": "fp16"}),
    ("task.packing: needs task.kind=causal_lm", {"task__packing": True}),
    ("task.generation.metrics: needs task.kind=causal_lm", {"task__generation__metrics": ["bleu"]}),
    ("model .*: has no weights to load", {"model__shape": {"model_type": "gpt2", "vocab_size": 50257}}),
    ("optim.lr=0:", {"optim__lr": 0}),
    ("method.lr=11: above 0", {"method__lr": 11, "optim__lr": 11}),
    ("optim.lr=-1:", {"optim__lr": -1}),
    ("optim.lr=nan:", {"optim__lr": math.nan}),
    ("optim.lr=inf:", {"optim__lr": math.inf}),
    ("optim.schedule=linaer: .*did you mean linear", {"optim__schedule": "linaer"}),
    ("optim.betas=", {"optim__betas": [0.9]}),
    ("optim.betas=", {"optim__betas": [0.9, 1.0]}),
    ("model.shape.hidden_size=null: an integer", {"model__shape": {"model_type": "bert", "hidden_size": None}}),
    ("model.shape.n_layer=99999: an integer from 0", {"model__shape": {"model_type": "gpt2", "n_layer": 99999}}),
    ("model.shape.vocab_size=0: an integer", {"model__shape": {"model_type": "bert", "vocab_size": 0}}),
    ("objective=test/accuracy: .*must not select", {"objective": "test/accuracy"}),
    ("objective=accuracy:", {"objective": "accuracy"}),
    ("objective=val/pearson:", {"objective": "val/pearson"}),
    ("task.metric=pearson:", {"task__metric": "pearson"}),
    ("task.metric=accuracy:", {"task__kind": "regression"}),
    ("task.margin=0:", {"task__margin": 0}),
    ("task.margin=1:", {"task__margin": 1}),
    (r"task.validation_share \+ task.test_share:", {"task__validation_share": 0.5, "task__test_share": 0.5}),
    ("task: give task.path=FILE", {"task__synthetic": None}),
    ("task.labels=yes: a list", {"task__labels": "yes"}),
    ("task.labels: the class a stands there twice$", {"task__labels": ["a", "b", "a"]}),
    ("task.labels: the class 7 stands there twice; in a file, YAML reads 007 as 7", {"task__labels": [7, 7]}),
    ("task.blocks: joins .* group", {"task__kind": "causal_lm", "task__blocks": True, "task__group": "doc", **TOKENS}),
    ("task.blocks: needs task.kind=causal_lm", {"task__blocks": True}),
    ("task.template: needs task.kind=causal_lm; here it is classification$", {"task__template": "{a}: {b}"}),
    ("task.threshold: needs task.kind=classification; here it is regr", {"task__threshold": 0.0, **VALUES}),
    ("task.labels: needs task.kind=classification", {"task__labels": ["a", "b"], **VALUES}),
    ("task.min_abs_label: needs task.kind=classification or regression", {"task__min_abs_label": 1, **TEXTS}),
    ("task.pair: needs task.kind=classification or regression; here it is causal_lm$", {"task__pair": "b", **TEXTS}),
    ("task.generation.metrics: answers prompts, not plain", {"task__generation__metrics": ["exact_match"], **TEXTS}),
    ("targets=custom: give", {"targets__name": "custom"}),
    ("targets.name=qkv:", {"targets__name": "qkv"}),
    (r"targets.regex=\(:", {"targets__name": "custom", "targets__regex": "("}),
    (r"targets.regex=.\*: null when", {"targets__regex": ".*", "targets__modules": ["query"]}),
    (r"targets.layers=\[-1\]:", {"targets__layers": [-1]}),
    (r"targets.layers=\[\]:", {"targets__layers": []}),
    ("study='a/b':", {"study": "a/b"}),
    (r"study='\.\.':", {"study": ".."}),
    ("study='':", {"study": ""}),
    ("study='wandb':", {"study": "wandb"}),
    ("study='a b':", {"study": "a b"}),
    ("name='../x':", {"name": "../x"}),
    ("name='", {"name": "x" * 101}),
    ("outputs=", {"outputs": "a\0b"}),
    ("task.path=", {"task__path": "\ud800"}),
    *((f"{group}.threshold=nan: a finite", {f"{group}__threshold": math.nan}) for group in ("task", "forgetting")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "keys"), REFUSED, ids=[f"{line.split(':')[0]}" for line, _ in REFUSED])
def test_what_cannot_run_is_refused_in_one_line_with_its_key(tiny, line, keys):
    with pytest.raises(Refused) as refused:
        check(tiny(**keys))
        check_here(tiny(**keys))
    assert re.match(line, str(refused.value)), refused.value
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


NUMBER = re.compile(r"an? (?:integer|number) (from|above) (\S+?)(?: to (below )?(\S+))?")

BOUNDED = {key: own.metadata.get("allowed", "") for key, (_, own) in known_keys().items() if key[:7] != "method."}
BOUNDED = {key: allowed for key, allowed in BOUNDED.items() if allowed.startswith("one of") or NUMBER.match(allowed)}


@pytest.mark.parametrize(("key", "allowed"), BOUNDED.items(), ids=BOUNDED)
def test_what_is_beyond_the_documented_bounds_and_names_is_refused(tiny, key, allowed):
    """As docs/reference.md has them, whose test holds the values."""
    beyond: list[object] = ["nonsense"]
    if match := NUMBER.fullmatch(allowed):
        above, low, below, high = match.groups()
        beyond = [float(low) - (above == "from"), *([float(high) + (not below)] if high else [])]
        beyond = [int(value) for value in beyond] if "integer" in allowed else [*beyond, math.nan]
    for value in beyond:
        with pytest.raises(Refused, match=f"^{key}={str(value).removesuffix('.0')}: {re.escape(allowed)}"):
            check(tiny(**{key.replace(".", "__"): value}))


def test_a_rank_is_not_refused_where_there_is_none(tiny):
    check(tiny(method="full", method__rank=10_000, method__alpha="x", targets__name="nonsense"))


def test_a_gpu_is_taken_where_there_is_one(tiny, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["0"])
    check_here(tiny(trainer__precision="fp16", trainer__device="cuda"))


def test_the_width_of_a_local_model_is_read_from_its_config(tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 12}')
    check(tiny(model__path=str(tmp_path), method__rank=12))
    with pytest.raises(Refused, match=r"^method.rank=13: at most 12"):
        check(tiny(model__path=str(tmp_path), method__rank=13))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Refused, match=r"config.json: not a model.s config .not JSON"):
        check(tiny(model__path=str(tmp_path)))


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
