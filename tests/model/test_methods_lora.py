"""LoRA's ranks, budgets and learning rates, AdaLoRA's pruning, and a start from another run."""

from typing import Any

import pytest
import torch
from bases import build
from methods_table import batch_of, config_of, load, logits, train
from tiny_configs import SHAPES, tiny
from torch import nn

from rankwise.check import check
from rankwise.errors import Refused
from rankwise.identity import folder, label, run_id
from rankwise.measure.parameters import count
from rankwise.measure.shape import Shape
from rankwise.methods import DECLARED
from rankwise.model.adapt import adapt
from rankwise.model.methods import adalora, inits
from rankwise.run import run
from rankwise.tasks.scores import ClassScorer
from rankwise.train import optim, step


def test_b_alone_learns_faster_and_a_stays_where_it_is_told_to():
    plus = build(config_of("lora_plus", "bert"))
    optimizer = optim.build(plus.model, config_of("lora_plus", "bert").optim, "cpu", lr_ratio=16)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    slow = config_of("lora_plus", "bert").optim.lr
    trained = {n: p for n, p in plus.model.named_parameters() if p.requires_grad}
    assert len(rate) == len(trained)
    assert {n for n, p in trained.items() if rate[id(p)] == 16 * slow} == {n for n in trained if "lora_B" in n}
    assert {rate[id(p)] for n, p in trained.items() if "lora_B" not in n} == {slow}

    config = config_of("lora_fa", "bert")
    frozen, lora = build(config), build(config_of("lora", "bert"))
    before = [layer.lora_A["default"].weight.clone() for _, layer in inits.layers(frozen.model)]
    train(frozen, load(config)[1], config, steps=4)
    assert all(map(torch.equal, before, (layer.lora_A["default"].weight for _, layer in inits.layers(frozen.model))))
    sizes = [count(a.model, a.heads)["adapter"] for a in (lora, frozen)]
    assert sizes[0] - sizes[1] == sum(a.numel() for a in before)


def test_patterns_give_layers_another_rank_and_alpha():
    patterns = {"targets__ranks": {"query": 2, r".*layer\.1\..*dense": 4}, "targets__alphas": {"key": 4, "value": "3r"}}
    adapted = build(config_of("lora", "bert", **patterns))
    for name, layer in inits.layers(adapted.model):
        plain_name = name.removeprefix("base_model.model.")
        rank = 2 if name.endswith("query") else 4 if ".1." in name and name.endswith("dense") else 8
        scale = 0.5 if name.endswith("key") else 3 if name.endswith("value") else 16 / rank
        assert layer.lora_A["default"].weight.shape[0] == rank == adapted.lora["ranks"][plain_name]
        assert layer.scaling["default"] == scale == adapted.lora["scales"][plain_name]
    assert adapted.lora["scale"] is None and adapted.lora["rank"] == 8
    rooted = {"targets__ranks": {"query": 4}, "targets__alphas": {"query": "2r", "key": 16}}
    for name, layer in inits.layers(build(config_of("rslora", "bert", **rooted)).model):
        documented = 2.0 if name.endswith(("query", "key")) else 16 / 8**0.5  # 2r, 16/r and 16/√r at r = 8
        assert layer.scaling["default"] == pytest.approx(documented), name
    assert build(config_of("lora", "bert")).lora["scale"] == 2.0
    with pytest.raises(Refused, match=r"^targets.ranks.quer=2: a pattern of an adapted layer; there are attention"):
        build(config_of("lora", "bert", targets__ranks={"quer": 2}))
    with pytest.raises(Refused, match=r"^targets.ranks=33: at most 32, the smaller side of bert"):
        build(config_of("lora", "bert", targets__ranks={"query": 33}))


@pytest.mark.parametrize(
    ("method", "targets", "least"),
    [("lora", "q", 1), ("dora", "qv", 1), ("lora_fa", "mlp", 1), ("dora", "all_linear", 1), ("orthogonal", "q", 2)],
)
def test_a_budget_buys_the_largest_rank_that_it_can(method, targets, least):
    def adapter(**keys: Any) -> int:
        adapted = build(tiny("llama", method, targets, **keys))
        return int(count(adapted.model, adapted.heads)["adapter"])

    for rank in (least, 5 * least, 16):
        cost, one = adapter(method__rank=rank), adapter(method__rank=least)
        for budget in (cost, cost + 1):
            bought = build(tiny("llama", method, targets, method__rank=None, method__budget=budget))
            assert bought.lora["rank"] == rank and set(bought.lora["ranks"].values()) == {rank}
        if rank > least:
            assert build(tiny("llama", method, targets, method__rank=None, method__budget=cost - 1)).lora["rank"] < rank
    with pytest.raises(Refused, match=f"^method.budget={one - 1}: at least {one}, what rank {least} costs on these"):
        adapter(method__rank=None, method__budget=one - 1)
    with pytest.raises(Refused, match=r"^method.budget=10000000 \(rank \d+ here\): a rank of at most (16|32), the sma"):
        adapter(method__rank=None, method__budget=10_000_000)


def test_budget_arms_are_named_by_the_budget_and_collapse_with_nothing(tiny):
    small, large = (tiny(targets="qv", method__rank=None, method__budget=budget) for budget in (500, 900))
    assert label(small) == "lora-b500-qv-lr0.002-s0" and run_id(small) != run_id(large)
    record = run(small)
    assert record.lora["rank"] == 1 and record.params["adapter"] <= 500
    assert record.config["method"]["rank"] is None


@pytest.mark.parametrize(
    ("method", "factors", "decays"),
    [("ia3", "ia3_l", 0.0), ("lora", "lora_A", 0.3), ("dora", "lora_magnitude_vector", 0.0)],
)
def test_weight_decay_pulls_to_zero_only_what_does_nothing_there(method, factors, decays):
    config = config_of(method, "bert", optim__weight_decay=0.3)
    model = build(config).model
    decay = {id(p): group["weight_decay"] for group in optim.build(model, config.optim, "cpu").param_groups
             for p in group["params"]}  # fmt: skip
    own = [decay[id(p)] for name, p in model.named_parameters() if factors in name.split(".")]
    assert own and set(own) == {decays}


@pytest.mark.parametrize(("steps", "skipped"), [(1, 0), (2, 0), (3, 0), (4, 0), (7, 0), (40, 0), (40, 5)])
def test_adalora_prunes_to_its_mean_rank_and_no_further(steps, skipped):
    """Also after a step that fp16 skipped, whose gradients are not finite."""
    config = config_of("adalora", "bert", method__rank=4)
    lm, tokenizer = load(config)
    adapted = adapt(lm, config)
    assert all(p.shape[0] == 6 for n, p in adapted.model.named_parameters() if "lora_A" in n)
    optimizer = optim.build(adapted.model, config.optim, "cpu")
    adalora.begin(adapted.model, steps)
    left = []
    for number in range(1, steps + 1):
        losses = step.losses(adapted.model, ClassScorer(2), batch_of(tokenizer))[1]
        step.loss(adapted.model, losses).backward()
        if number == skipped:
            for parameter in (p for p in adapted.model.parameters() if p.grad is not None):
                parameter.grad.fill_(torch.inf)
        else:
            optimizer.step()
        adalora.after_step(adapted.model, number)
        optimizer.zero_grad()
        left.append(sum(adapted.described()["ranks"].values()))
    layers = len(adapted.lora["ranks"])
    if steps > 1:
        assert left[-1] == 4 * layers
        assert steps < 4 or left[steps - 1 - steps // 2] == 4 * layers  # pruned by the middle, and no further
    if steps == 1:
        return  # a single step has no importance to go by yet
    state = {name: p.clone() for name, p in adapted.model.named_parameters() if "lora_E" in name}
    adalora.after_step(adapted.model, steps + 1)  # beyond its schedule nothing happens
    assert all(torch.equal(value, adapted.model.get_parameter(name)) for name, value in state.items())


@pytest.mark.parametrize(
    ("steps", "schedule"),
    [(1000, (100, 500, 10, 1000)), (200, (20, 100, 2, 200)), (10, (1, 5, 1, 10)), (1, (0, 0, 1, 2))],
)
def test_adalora_prunes_from_a_tenth_of_the_steps_to_the_middle(steps, schedule):
    model: Any = build(config_of("adalora", "bert", method__rank=4)).model
    adalora.begin(model, steps)
    config = model.peft_config["default"]
    assert (config.tinit, config.tfinal, config.deltaT, config.total_step) == schedule


def test_lokr_is_of_low_rank_up_to_the_largest_that_is_taken():
    built = [build(config_of("lokr", "bert", method__rank=rank)) for rank in (1, 2, 3)]
    sizes = [count(adapted.model, adapted.heads)["adapter"] for adapted in built]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


def test_oft_turns_inputs_and_changes_no_length_however_far_it_went():
    config = config_of("oft", "bert")
    lm, tokenizer = load(config)
    adapted = adapt(lm, config)
    optimizer = optim.build(adapted.model, config.optim, "cpu")
    for group in optimizer.param_groups:
        group["lr"] = 2e-2
    for _ in range(10):
        step.losses(adapted.model, ClassScorer(2), batch_of(tokenizer))[1].mean().backward()
        optimizer.step()
    turns = [m.default.get_weight() for n, m in adapted.model.named_modules() if n.endswith("oft_R")]
    for turn in turns:
        assert float((turn - torch.eye(len(turn))).detach().abs().max()) > 0.1
        assert torch.allclose(torch.linalg.svdvals(turn.detach()), torch.ones(len(turn)), atol=1e-5)


def test_adalora_divides_alpha_by_the_rank_that_it_starts_with():
    assert build(config_of("adalora", "bert", method__rank=4, method__alpha=12)).lora["scale"] == 2  # 12 / (1.5 · 4)


def test_ia3_scales_what_comes_into_the_last_layer_of_an_mlp_and_what_leaves_others():
    model = build(config_of("ia3", "bert")).model
    width, inner = model.config.hidden_size, model.config.intermediate_size
    sides = {name.split(".layer.0.")[1].split(".ia3_l")[0]: tuple(p.shape) for name, p in model.named_parameters()
             if "ia3_l" in name and ".layer.0." in name}  # fmt: skip
    assert sides["output.dense"] == (1, inner) and sides["intermediate.dense"] == (inner, 1)
    assert sides["attention.self.query"] == (width, 1)


def test_vera_draws_its_shared_matrices_from_the_seed():
    one, same, other = (build(config_of("vera", "bert", seed=seed)).model.vera_A["default"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_adalora_is_penalised_for_factors_that_are_not_orthogonal():
    model = build(config_of("adalora", "bert", method__rank=4)).model
    penalties = [float(adalora.penalty(model).detach())]
    for factor in ("lora_A", "lora_B"):
        for name, parameter in model.named_parameters():
            if factor in name:
                nn.init.orthogonal_(parameter)
        penalties.append(float(adalora.penalty(model).detach()))
    assert penalties[0] > penalties[1] > 1e-2 > 1e-5 > penalties[2]
    nn.init.zeros_(next(p for name, p in model.named_parameters() if "lora_A" in name))
    penalty, rows = float(adalora.penalty(model).detach()), [Shape(4, 9), Shape(1, 9)]  # of three in other steps
    parts = [step.loss(model, torch.tensor([2.0]), share) / 3 for share in step.shares(rows, accumulate=3)]
    assert float(sum(parts).detach()) == pytest.approx(2 + penalty) and penalty > 1e-2
    assert adalora.penalty(build(config_of("lora", "bert")).model) is None


@pytest.mark.parametrize("steps", [2, 20])
def test_the_record_of_a_run_has_the_ranks_that_adalora_left(tiny, steps):
    record = run(tiny("bert", "adalora", method__rank=4, trainer__max_steps=steps, trainer__validations=1))
    ranks = record.lora["ranks"]
    assert sum(ranks.values()) == 4 * len(ranks) and all(name.startswith("bert.encoder") for name in ranks)


BOUGHT: dict[str, Any] = {"method__budget": 9, "method__rank": None}
NESTED: list[tuple[str, dict[str, Any]]] = [
    ("method.nested=[8, 16]: ranks of which one is below 8", {"method__nested": [8, 16]}),
    ("method.nested=[0, 4]: ranks of which", {"method__nested": [0, 4]}),
    ("method.nested=null: a list of ranks with method=nested", {"method__nested": None}),
    ("method.dora=True: off with method.nested", {"method__dora": True}),
    ("trainer.gradient_checkpointing=True: off with method.nested", {"trainer__gradient_checkpointing": True}),
    ("method.init=pissa: null, zero_B, zero_A or gaussian with method.nested", {"method__init": "pissa"}),
    ("targets.ranks={'query': 2}: off with method.nested", {"targets__ranks": {"query": 2}}),
]
LINES: list[tuple[str, str, dict[str, Any]]] = [
    ("lora", "method.init=pisa: one of zero_B, zero_A, gaussian", {"method__init": "pisa"}),
    ("orthogonal", "method.rank=3: an even number", {"method__rank": 3}),
    ("dora", "method.dora=False: true with method=dora", {"method__dora": False}),
    ("pissa", "method.init=eva: pissa or pissa_niter_16 with method=pissa", {"method__init": "eva"}),
    ("rslora", "method.alpha=16: a policy such as 16sqrt with method=rslora", {"method__alpha": 16}),
    ("eva", "task.packing=True: false with method.init=eva", {"task__packing": True, "task__kind": "causal_lm"}),
    ("lora_fa", "method.freeze_a=True: false with method.init=zero_A", {"method__init": "zero_A"}),
    ("lora", "method.init_from=nowhere: the folder of a finished run", {"method__init_from": "nowhere"}),
    ("lora", "method.lr_ratio=-1: a number above 0", {"method__lr_ratio": -1.0}),
    ("lora", "method.budget=500: null, or method.rank=null", {"method__budget": 500}),
    ("vera", "method.rank=null: an integer from 1 to 1000000; method=vera has no", {"method__rank": None}),
    ("lora", "method.budget=9: null with method.bias", {**BOUGHT, "method__bias": "all"}),
    ("top_layers", "method.layers=0: how many of the last blocks", {"method__layers": 0}),
    ("bottleneck", "method.size=0: an inner width", {"method__size": 0}),
    ("bottleneck", "method.place=attention: one of both, mlp", {"method__place": "attention"}),
    ("oft", "method.block=1: the side of the orthogonal blocks", {"method__block": 1}),
    *(("nested", line, {"method__rank": 8, "method__nested": [1, 2, 4]} | keys) for line, keys in NESTED),
    ("did", "method.dim=null", {"method__dim": None}),
    ("did", "method.dim=0", {"method__dim": 0}),
    ("did", "quant=nf4", {"method__dim": 9, "quant__kind": "nf4", "quant__name": "nf4"}),
    ("custom", "method=custom: give method.peft=", {}),
    ("custom", "method.peft._target_=os.system: a config class of peft", {"method__peft": {"_target_": "os.system"}}),
    ("ia3", "targets.ranks={'query': 2}: null with method=ia3", {"targets__ranks": {"query": 2}}),
    ("lora", "targets.ranks.query=0: an integer of at least 1", {"targets__ranks": {"query": 0}}),
    ("lora", "targets.alphas.query=2sqrt: a positive number", {"targets__alphas": {"query": "2sqrt"}}),
    ("eva", "targets.ranks={'query': 2}: null with method.init=eva", {"targets__ranks": {"query": 2}}),
    ("pissa", "method.init=pissa: another with quant=nf4", {"quant__name": "nf4", "quant__kind": "nf4"}),
    ("olora", "method.init=olora: another with quant=nf4", {"quant__name": "nf4", "quant__kind": "nf4"}),
    ("gralora", "quant=nf4: none or bf16 with GraLoRA", {"quant__name": "nf4", "quant__kind": "nf4"}),
    ("loha", "quant=fp4: none, bf16 or int8 with LoHa and LoKr", {"quant__name": "fp4", "quant__kind": "fp4"}),
    ("lokr", "quant=nf4: none, bf16 or int8 with LoHa and LoKr", {"quant__name": "nf4", "quant__kind": "nf4"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "line", "keys"), LINES, ids=[line.split(":")[0] for _, line, _ in LINES])
def test_keys_that_cannot_be_are_refused_before_anything_loads(method, line, keys):
    with pytest.raises(Refused) as refused:
        check(tiny("bert", method, **keys))
    assert str(refused.value).startswith(line)


BOFT = {"_target_": "peft.BOFTConfig", "boft_block_size": 4, "boft_n_butterfly_factor": 2}


@pytest.mark.parametrize(
    ("method", "keys", "line"),
    [
        ("top_layers", {"method__layers": 3}, "method.layers=3: at most 2, the blocks of this model"),
        ("did", {"method__dim": 10**6}, "method.dim=1000000: at most "),
        ("oft", {"method__block": 5}, "method.block=5: a divisor of 32, the input width of bert"),
        ("nested", BOUGHT | {"method__budget": 999, "method__nested": [8, 16]}, "method.nested=[8, 16]: ranks of"),
        ("lokr", {"method__rank": 4}, "method.rank=4: at most 3, below half of the larger side of bert."),
        ("custom", {"method__peft": {"_target_": "PolyConfig"}}, "method.peft._target_=PolyConfig: a config class"),
        ("custom", {"method__peft": {"_target_": "OSFConfig"}}, "method.peft._target_=OSFConfig: a config class"),
        ("custom", {"method__peft": {"_target_": "ShadowConfig"}}, "method.peft._target_=ShadowConfig: a config class"),
        ("adalora", {"method__rank": 22}, "method.rank=22: at most 21, as it starts with 1.5 times"),
        ("custom", {"method__peft": {"_target_": "BOFConfig"}}, "method.peft._target_=BOFConfig: a config class"),
        ("custom", {"method__peft": {"_target_": "peft.IA3Config", "r": 3}}, "method.rank=3: null with IA3Config"),
        ("custom", {"method__peft": {"_target_": "AdaLoraConfig"}}, "method.peft: AdaLoraConfig does not take this"),
        ("custom", {"method__peft": {"_target_": "GraloraConfig"}, "method__rank": 5}, "method.rank=5: Gralora"),
        ("custom", {"method__peft": {"_target_": "PromptTuningConfig"}}, "method.peft._target_=PromptTuningConfig: a"),
        ("custom", {"method__peft": BOFT}, "method.peft.boft_n_butterfly_factor=2: PEFT takes 1 where nvcc is missing"),
        *(
            ("custom", {"method__peft": {"_target_": "LoraConfig", key: ["query"]}}, f"method.peft.{key}=['query']: a")
            for key in ("target_modules", "modules_to_save", "layers_to_transform", "rank_pattern", "megatron_core")
        ),
    ],
)  # fmt: skip
def test_what_only_the_model_can_tell_is_refused_when_it_is_built(method, keys, line):
    with pytest.raises(Refused) as refused:
        build(tiny("bert", method, **keys))
    assert str(refused.value).startswith(line)


def test_arms_collapse_where_a_key_means_nothing_and_variants_are_their_keys():
    for method in ("ia3", "bitfit", "top_layers", "full", "head", "oft"):
        arms = [tiny("bert", method, method__rank=rank, method__alpha=16) for rank in (None, 1, 64)]
        assert len({run_id(arm) for arm in arms}) == 1
        assert len({folder(arm) for arm in arms}) == 1
        for arm in arms:
            check(arm)
    assert run_id(tiny("bert", "bottleneck")) == run_id(tiny("bert", "bottleneck", method__place=None))
    assert run_id(tiny("bert", "dora")) == run_id(tiny("bert", "lora", method__dora=True))
    assert run_id(tiny("bert", "lora", method__init="zero_B", method__dora=False)) == run_id(tiny("bert", "lora"))
    variants = [name for name, method in DECLARED.items() if method.is_lora]
    started = label(tiny("bert", "lora", method__init="gaussian"))
    assert started.startswith("lora-r8-gaussian-") and label(tiny("bert", "pissa")).startswith("pissa-r8-attention-")
    assert len({run_id(tiny("bert", name, optim__lr=1e-3)) for name in variants}) == len(variants) == 13


@pytest.mark.parametrize("place", ["both", "mlp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bottleneck_starts_as_the_identity_and_costs_what_the_paper_says(shape, place):
    """2·d·m + m + d for each adapter (Hu et al. 2021, §5.1), two in each of the two blocks, or one."""
    config = tiny(shape, "bottleneck", method__size=4, method__place=place)
    lm, tokenizer = load(config)
    before = logits(lm, tokenizer)
    adapted = adapt(lm, config)
    assert torch.equal(logits(adapted.model, tokenizer), before)
    assert count(adapted.model, adapted.heads)["adapter"] == (4 if place == "both" else 2) * (2 * 32 * 4 + 4 + 32)


def test_bitfit_and_top_layers_train_what_they_say():
    bitfit, top = build(tiny("bert", "bitfit")), build(tiny("gpt2", "top_layers", method__layers=1))
    trained = [{n for n, p in a.model.named_parameters() if p.requires_grad} for a in (bitfit, top)]
    biases = {n for n, _ in bitfit.model.named_parameters() if n.endswith(".bias")}
    assert trained[0] == biases | {"classifier.weight"}
    assert trained[1] == {n for n, _ in top.model.named_parameters() if n.startswith(("transformer.h.1.", "score."))}
