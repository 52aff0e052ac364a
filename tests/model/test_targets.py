"""Which linear layers targets mean; test_architectures tries every preset on every architecture."""

from typing import Any

import bases
import pytest
import torch
from test_architectures import LAYERS, expected
from tiny_configs import SHAPES, tiny
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rankwise.config import Targets
from rankwise.errors import Refused
from rankwise.model import base
from rankwise.model.quantize import store
from rankwise.model.targets import adapted_modules, role, shape


def ends(name: str) -> list[str]:
    """The last parts of the names of a block's linear layers, as they are before any is taken apart."""
    return sorted(end for layers in LAYERS[name].values() for end in layers if not end.startswith("attn.c_attn."))


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, load(request.param)


def load(name: str) -> nn.Module:
    return bases.load(tiny(name))[0]


def test_the_head_is_never_adapted(model):
    name, module = model
    heads = base.head_names(module)
    assert heads in (["classifier"], ["score"])
    linears = {name for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    in_head = {name for name in linears if name.split(".")[0] in heads}
    assert in_head and not in_head & set(adapted_modules(module, Targets("all_linear")))
    for greedy in (Targets("custom", regex=".*"), Targets("custom", modules=ends(name))):
        assert not in_head & set(adapted_modules(module, greedy))
    with pytest.raises(Refused, match=f"^targets.modules={heads[0]}: matches no linear layer"):
        adapted_modules(module, Targets("custom", modules=[*ends(name), heads[0]]))


def test_layers_keep_their_blocks_only(model):
    name, module = model
    chosen = adapted_modules(module, Targets("o", layers=[1]))
    assert chosen == [layer for layer in expected(name, "o") if ".1." in layer] and len(chosen) == 1
    with pytest.raises(Refused, match=r"^targets.layers=\[0, 2\]: block 2 is not one of the 2 blocks from 0$"):
        adapted_modules(module, Targets("o", layers=[0, 2]))


def test_modules_match_whole_parts_of_names():
    bert = load("bert")
    assert len(adapted_modules(bert, Targets("custom", modules=["query"]))) == 2
    assert len(adapted_modules(bert, Targets("custom", modules=["output.dense"]))) == 4
    assert len(adapted_modules(bert, Targets("custom", modules=["attention.output.dense", "key"]))) == 4
    with pytest.raises(Refused, match=r"^targets.modules=layer.0.attention.self.key: matches no linear layer"):
        adapted_modules(bert, Targets("custom", modules=["query", "layer.0.attention.self.key"], layers=[1]))
    with pytest.raises(Refused, match=r"^targets.modules=uery: matches no linear layer"):
        adapted_modules(bert, Targets("custom", modules=["query", "uery"]))


def test_a_regex_matches_whole_names():
    bert = load("bert")
    chosen = adapted_modules(bert, Targets("custom", regex=r".*layer\.1\..*query"))
    assert chosen == ["bert.encoder.layer.1.attention.self.query"]
    with pytest.raises(Refused, match=r"^targets.regex=query: matches no linear layer"):
        adapted_modules(bert, Targets("custom", regex="query"))


def test_where_nothing_matches_the_line_lists_what_would(model):
    name, module = model
    with pytest.raises(Refused) as refused:
        adapted_modules(module, Targets("custom", modules=["nonsense"]))
    there_are = f"matches no linear layer of this model; there are {', '.join(ends(name))}"
    assert str(refused.value) == f"targets.modules=nonsense: {there_are}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distilbert.transformer.layer.0.attention.q_lin", "q"),
        ("distilbert.transformer.layer.0.attention.out_lin", "o"),
        ("distilbert.transformer.layer.0.ffn.lin2", "mlp"),
        ("gpt_neox.layers.0.attention.query_key_value", "qkv"),
        ("gpt_neox.layers.0.attention.dense", "o"),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h", "mlp"),
        ("transformer.h.0.attn.c_attn.v", "v"),
        ("deberta.encoder.layer.0.attention.self.query_proj", "q"),
        ("model.layers.0.mlp.gate_up_proj", "mlp"),
        ("model.layers.0.self_attn.qkv_proj", "qkv"),
        ("encoder.block.0.layer.0.SelfAttention.o", "o"),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0", "mlp"),
        ("model.decoder.layers.0.fc1", "mlp"),
        ("model.decoder.layers.0.self_attn.out_proj", "o"),
        ("model.layers.0.router", None),
        ("model.layers.0.seq", None),
    ],
)
def test_roles_on_architectures_that_others_use(name, expected):
    assert role(name) == expected


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
LATENT = {"q_lora_rank": 4, "kv_lora_rank": 4, "first_k_dense_replace": 1}
LATENT |= dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8)
NARROW: dict[str, dict[str, Any]] = {
    "phi": SIZES,
    "persimmon": SIZES,
    "deepseek_v2": SIZES | LATENT,
    "qwen2_moe": SIZES | {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 2},
    "ctrl": {"n_embd": 16, "dff": 32, "n_layer": 1, "n_head": 2, "vocab_size": 9},
}


def narrow(family: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **NARROW[family]))
    return model


@pytest.mark.parametrize(("family", "roles"), [("phi", ["q", "k", "v", "o"]), ("persimmon", ["qkv", "o"])])
def test_an_output_layer_that_is_called_dense_is_one(family, roles):
    assert [role(name) for name in adapted_modules(narrow(family), Targets("attention"))] == roles


@pytest.mark.parametrize(
    ("family", "odd"), [("deepseek_v2", "kv_a_proj_with_mqa, kv_b_proj, q_a_proj, q_b_proj"), ("ctrl", "Wk, Wq, Wv")]
)
def test_a_preset_that_would_leave_layers_of_the_attention_out_is_refused(family, odd):
    model = narrow(family)
    with pytest.raises(Refused) as refused:
        adapted_modules(model, Targets("attention"))
    said = str(refused.value)
    assert said.startswith("targets=attention: the attention of this model has layers of unknown role, ")
    assert said.endswith("; use targets=custom") and all(part in said for part in odd.split(", "))
    assert len(adapted_modules(model, Targets("all_linear"))) > 3
    assert adapted_modules(model, Targets("custom", modules=odd.split(", ")))


@pytest.mark.parametrize("preset", ["all_linear", "mlp"])
def test_experts_are_no_linear_layers(preset):
    model, odd = narrow("qwen2_moe"), "model.layers.0.mlp.experts.gate_up_proj and the like are no linear layers"
    with pytest.raises(Refused, match=f"^targets={preset}: {odd}; use targets=attention$"):
        adapted_modules(model, Targets(preset))
    with pytest.raises(Refused, match=f"^quant=nf4: none or bf16: {odd}, of which alone few bits are made$"):
        store(model, tiny(quant__name="nf4", quant__kind="nf4"), [], "fp32")
    assert len(adapted_modules(model, Targets("attention"))) == 4


def test_the_shape_of_a_layer_is_in_and_out_however_it_is_stored():
    bert, gpt2 = load("bert"), load("gpt2")
    assert shape(bert.get_submodule("bert.encoder.layer.0.intermediate.dense")) == (32, 64)
    assert shape(gpt2.get_submodule("transformer.h.0.mlp.c_fc")) == (32, 64)
    assert shape(gpt2.get_submodule("transformer.h.0.attn.c_attn")) == (32, 96)
