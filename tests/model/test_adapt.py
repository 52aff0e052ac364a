"""What each method trains, and where an adapter starts from."""

import math

import pytest
import torch
from bases import build, load
from peft.tuners.lora import LoraLayer
from tiny_configs import SHAPES, tiny
from torch import nn

from rankwise.errors import Refused
from rankwise.measure.parameters import count
from rankwise.model import base
from rankwise.model.adapt import _extras, adapt
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.quantize import store


def adapters(model: nn.Module) -> dict[str, LoraLayer]:
    """Adapted layers by the names that they have in the base."""
    return {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def a_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.lora_A["default"].weight.detach() for name, layer in adapters(model).items()}


@pytest.mark.parametrize("shape_name", SHAPES)
def test_full_trains_everything_and_head_the_head_alone(shape_name):
    full, head = build(tiny(shape_name, "full")), build(tiny(shape_name, "head"))
    assert all(p.requires_grad for p in full.model.parameters())
    trained = {name for name, p in head.model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in head.model.named_parameters() if name.split(".")[0] in head.heads} != set()
    sizes = count(full.model, full.heads)
    assert sizes["frozen"] == 0 and sizes["trainable"] == sizes["total"]
    assert count(head.model, head.heads)["adapter"] == 0
    assert full.lora == head.lora == {}


def test_biases_are_trained_where_asked():
    none, own, every = (build(tiny(method__bias=bias)) for bias in ("none", "lora_only", "all"))
    sizes = [count(a.model, a.heads)["adapter"] for a in (none, own, every)]
    fresh, _ = load(tiny())
    biases = {
        n: p.numel() for n, p in fresh.named_parameters() if n.endswith("bias") and not n.startswith("classifier")
    }
    adapted = sum(size for name, size in biases.items() if ".attention." in name and "LayerNorm" not in name)
    assert sizes[1] - sizes[0] == adapted
    assert sizes[2] - sizes[0] == sum(biases.values())


def test_modules_beside_the_adapter_are_trained_in_full():
    adapted = build(tiny(method__modules_to_save=["pooler"]))
    sizes = count(adapted.model, adapted.heads)
    assert sizes["adapter"] - count(build(tiny()).model, ["classifier"])["adapter"] == 32 * 32 + 32
    assert sizes["head"] == 2 * 32 + 2


@pytest.mark.parametrize("quant", [{}, {"quant__name": "bf16", "quant__kind": "bf16"}], ids=["fp32", "bf16"])
def test_a_module_beside_the_adapter_is_meant_by_whole_parts_of_its_name(quant):
    """PEFT would take every input_layernorm for ``norm``, and leave what it trains in 16 bit."""
    config = tiny("llama", method__modules_to_save=["norm"], **quant)
    lm, _ = load(config)
    store(lm, config, base.head_names(lm), "bf16")
    model = adapt(lm, config).model
    extra = {name: p for name, p in model.named_parameters() if p.requires_grad and "norm" in name}
    assert list(extra) == ["base_model.model.model.norm.modules_to_save.default.weight"]
    assert all(p.dtype == torch.float32 for p in extra.values())


def test_a_module_whose_full_name_ends_others_cannot_be_told_to_peft():
    lm = nn.ModuleDict({"norm": nn.Linear(2, 2), "block": nn.ModuleDict({"input_norm": nn.Linear(2, 2)})})
    with pytest.raises(Refused, match=r"^method.modules_to_save=norm: .* does not take block.input_norm for$"):
        _extras(lm, ["query"], ["norm"])


@pytest.mark.parametrize(
    ("extra", "line"), [("pooller", "the last part of a module's name"), ("query", "a module that carries no adapter")]
)
def test_modules_beside_the_adapter_that_cannot_be(extra, line):
    with pytest.raises(Refused, match=f"^method.modules_to_save={extra}: {line}"):
        build(tiny(method__modules_to_save=[extra]))


def test_a_rank_above_the_narrower_side_names_the_layer():
    """Grouped-query attention: key and value are narrower than the model."""
    build(tiny("llama", targets="q", method__rank=32))
    build(tiny("llama", targets="attention", method__rank=16))
    with pytest.raises(Refused) as refused:
        build(tiny("llama", targets="attention", method__rank=17))
    line = "method.rank=17: at most 16, the smaller side of model.layers.0.self_attn.k_proj (32 × 16)"
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("alpha", "rank", "alpha_number", "scale"),
    [(16, 8, 16, 2), ("2r", 4, 8, 2), ("0.5r", 3, 1.5, 0.5), ("16sqrt", 4, 16, 8)],
)
@pytest.mark.parametrize("shape_name", ["bert", "gpt2"])
def test_the_recorded_scale_is_the_one_that_peft_applies(shape_name, alpha, rank, alpha_number, scale):
    adapted = build(tiny(shape_name, method__alpha=alpha, method__rank=rank))
    assert adapted.lora["scale"] == scale and adapted.lora["alpha"] == alpha_number
    applied = {layer.scaling["default"] for layer in adapters(adapted.model).values()}
    assert len(applied) == 1 and math.isclose(applied.pop(), scale)


def test_a_starts_the_same_whatever_else_is_adapted_or_drawn():
    alone, among = a_weights(build(tiny(targets="v")).model), a_weights(build(tiny(targets="all_linear")).model)
    assert set(alone) < set(among)
    torch.manual_seed(123)
    torch.rand(17)
    again = a_weights(build(tiny(targets="v")).model)
    for name, weight in alone.items():
        assert torch.equal(weight, among[name]) and torch.equal(weight, again[name])


def test_a_is_another_draw_in_every_layer_rank_and_seed():
    two, four, other = (
        a_weights(build(tiny(method__rank=rank, seed=seed)).model) for rank, seed in ((2, 0), (4, 0), (2, 1))
    )
    weights = list(two.values())
    assert len({tuple(w.flatten().tolist()) for w in weights if w.shape == weights[0].shape}) == len(weights)
    for name, weight in two.items():
        assert not torch.equal(weight, four[name][:2])
        assert not torch.equal(weight, other[name])
        cosine = nn.functional.cosine_similarity(weight, four[name][:2])
        assert cosine.abs().max() < 0.9


def test_a_has_the_spread_that_peft_gives_it():
    """Kaiming uniform with a = √5: uniform on ±1/√d_in."""
    weight = next(iter(a_weights(build(tiny(method__rank=32, targets="q")).model).values()))
    bound = 1 / math.sqrt(weight.shape[1])
    assert weight.abs().max() <= bound
    assert math.isclose(weight.std(), bound / math.sqrt(3), rel_tol=0.05)


@pytest.mark.parametrize("shape_name", SHAPES)
def test_the_head_starts_the_same_in_every_arm_of_a_seed(shape_name):
    def head(model: nn.Module) -> list[torch.Tensor]:
        return [p.detach() for n, p in model.named_parameters() if _is_head(n)]

    arms = [tiny(shape_name, method) for method in ("full", "head", "lora")]
    arms += [tiny(shape_name, method__rank=2, targets="mlp")]
    first, *others = [head(build(arm).model) for arm in arms]
    assert first
    for other in others:
        assert len(other) == len(first) and all(map(torch.equal, first, other))
    assert not all(map(torch.equal, first, head(build(tiny(shape_name, "head", seed=1)).model)))


def _is_head(name: str) -> bool:
    trained = name.replace("base_model.model.", "").replace("modules_to_save.default.", "")
    return trained.split(".")[0] in ("classifier", "score") and "original_module" not in name


def test_derived_seeds_are_fixed_for_ever():
    assert derived_seed(0, "layer.0.query", 8) == 797828587889943646
    assert len({derived_seed(s, n, r) for s in range(3) for n in "ab" for r in (1, 11)}) == 12


def test_dropout_of_the_adapter_is_as_asked():
    layers = adapters(build(tiny(method__dropout=0.25)).model).values()
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.25}
