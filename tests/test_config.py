"""Everything that is refused before anything loads, and what is not."""

import math
import re

import pytest

from rankwise import machine
from rankwise.alpha import parse_alpha, scale_of
from rankwise.check import check, check_here
from rankwise.config import Package, known_keys
from rankwise.errors import Refused

PACKAGE = Package("p", "1", "0" * 64, "m")


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
    ("method.rank=null:", {"method__rank": None}),
    ("method.rank=33: at most 32,", {"method__rank": 33}),
    ("method.alpha=0:", {"method__alpha": 0}),
    ("method.alpha=1e9:", {"method__alpha": "1e9"}),
    ("method.alpha=2000000r:", {"method__alpha": "2000000r"}),
    ("method.dropout=1:", {"method__dropout": 1}),
    ("method.dropout=-0.1:", {"method__dropout": -0.1}),
    ("method.bias=some:", {"method__bias": "some"}),
    ("method.name=lorra: .*did you mean lora", {"method__name": "lorra"}),
    ("quant.kind=int3:", {"quant__kind": "int3"}),
    ("method.init=loftq: PEFT computes it on a CUDA GPU alone", {"method__init": "loftq"}),
    ("quant=nf4: none with method=full", {"quant__name": "nf4", "quant__kind": "nf4", "method": "full"}),
    ("method.bias=all: none with quant=nf4", {"quant__name": "nf4", "quant__kind": "nf4", "method__bias": "all"}),
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
    ("optim.lr=nan:", {"optim__lr": math.nan}),
    ("optim.betas=", {"optim__betas": [0.9]}),
    ("optim.betas=", {"optim__betas": [0.9, 1.0]}),
    ("model.shape.hidden_size=null: an integer", {"model__shape": {"model_type": "bert", "hidden_size": None}}),
    ("model.shape.n_layer=99999: an integer from 0", {"model__shape": {"model_type": "gpt2", "n_layer": 99999}}),
    ("model.shape.vocab_size=0: an integer", {"model__shape": {"model_type": "bert", "vocab_size": 0}}),
    ("objective=test/accuracy: .*must not select", {"objective": "test/accuracy"}),
    ("objective=val/pearson:", {"objective": "val/pearson"}),
    ("task.metric=pearson:", {"task__metric": "pearson"}),
    ("task.metric=accuracy:", {"task__kind": "regression"}),
    ("task.margin=1:", {"task__margin": 1}),
    (r"task.validation_share \+ task.test_share:", {"task__validation_share": 0.5, "task__test_share": 0.5}),
    ("task: give task.path=FILE", {"task__synthetic": None}),
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
    ("study='a/b':", {"study": "a/b"}),
    (r"study='\.\.':", {"study": ".."}),
    ("study='':", {"study": ""}),
    ("study='wandb':", {"study": "wandb"}),
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
