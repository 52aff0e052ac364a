"""GPT-2's fused layer taken apart: the same model, adapters on its parts, and the way back."""

from typing import Any

import bases
import pytest
import torch
from bases import logits
from peft import PeftModel
from tiny_configs import tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise.config import Config
from rankwise.errors import Refused
from rankwise.model import base, fused
from rankwise.model.adapt import adapt
from rankwise.model.base import architecture, skeleton
from rankwise.model.quantize import dequantize, store

SPLIT, WHOLE = ["q", "k", "v", "qv", "qkvo"], ["attention", "all_linear", "mlp", "o"]


def load(config: Config) -> tuple[nn.Module, Any]:
    lm, tokenizer = bases.load(config)
    with torch.no_grad():  # as drawn, biases are zero
        for name, parameter in lm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return lm.eval(), tokenizer


def parts_of(lm: nn.Module) -> list[str]:
    return [name for name, layer in lm.named_modules() if isinstance(layer, fused.Split)]


@pytest.mark.parametrize("targets", SPLIT)
def test_a_layer_taken_apart_and_put_together_is_the_same_to_the_bit(targets):
    config = tiny("gpt2", targets=targets)
    lm, tokenizer = load(config)
    first, state = logits(lm, tokenizer), {name: value.clone() for name, value in lm.state_dict().items()}
    fused.split(lm, config)
    fused.split(lm, config)
    assert parts_of(lm) == [f"transformer.h.{block}.attn.c_attn" for block in range(2)]
    assert sum(p.numel() for p in lm.parameters()) == sum(value.numel() for value in state.values())
    assert torch.allclose(logits(lm, tokenizer), first, rtol=1e-6, atol=1e-7)
    fused.join(lm)
    assert lm.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in lm.state_dict().items())
    assert torch.equal(logits(lm, tokenizer), first)


@pytest.mark.parametrize("targets", WHOLE)
def test_what_needs_no_part_leaves_the_layer_whole(targets):
    config = tiny("gpt2", targets=targets)
    lm, _ = load(config)
    fused.split(lm, config)
    assert parts_of(lm) == []


def test_only_the_blocks_that_are_adapted_are_taken_apart():
    config = tiny("gpt2", targets="qv", targets__layers=[1])
    lm, _ = load(config)
    adapt(lm, config)
    assert parts_of(lm) == ["transformer.h.1.attn.c_attn"]
    named = tiny("gpt2", targets="custom", targets__modules=["c_attn.v"])
    lm, _ = load(named)
    assert list(adapt(lm, named).lora["ranks"]) == [f"transformer.h.{block}.attn.c_attn.v" for block in range(2)]


@pytest.mark.parametrize("method", ["lora", "dora", "adalora", "vera", "ia3", "pissa"])
def test_an_adapter_on_parts_merges_into_a_plain_gpt2(method):
    extra = {"method__rank": 4} if method == "vera" else {}
    config = tiny("gpt2", method, "qv", **extra)
    lm, tokenizer = load(config)
    plain = {name: value.shape for name, value in lm.state_dict().items()}
    adapted = adapt(lm, config)
    model = adapted.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "score" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    before = logits(model, tokenizer)
    assert isinstance(model, PeftModel)
    merged = model.merge_and_unload()  # type: ignore[operator]
    fused.join(merged)
    assert {name: value.shape for name, value in merged.state_dict().items()} == plain
    assert torch.allclose(logits(merged, tokenizer), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "nf4", "int8_torchao"])
def test_parts_are_quantized_and_come_back_as_one_dense_layer(kind):
    pytest.importorskip("torchao" if kind == "int8_torchao" else "bitsandbytes")
    config = tiny("gpt2", targets="qv", quant__name=kind, quant__kind=kind, quant__double=False)
    config.quant.double = False if kind == "nf4" else None
    lm, tokenizer = load(config)
    exact = logits(lm, tokenizer)
    store(lm, config, base.head_names(lm), "fp32")
    assert len(parts_of(lm)) == 2
    held = logits(lm, tokenizer)
    adapt(lm, config)
    lm, _ = load(config)
    store(lm, config, base.head_names(lm), "fp32")
    dequantize(lm)
    fused.join(lm)
    assert parts_of(lm) == [] and isinstance(lm.get_submodule("transformer.h.0.attn.c_attn"), Conv1D)
    assert torch.allclose(logits(lm, tokenizer), held, rtol=0.05, atol=0.05)
    assert torch.allclose(exact, held, rtol=0.3, atol=0.3)


def test_cross_attention_is_left_alone():
    config = tiny("gpt2", targets="qv", task__kind="causal_lm")
    config.model.shape = dict(config.model.shape or {}) | {"add_cross_attention": True}
    lm = skeleton(architecture(config.model, None), "causal_lm", 0, None)
    fused.split(lm, config)
    assert parts_of(lm) == [f"transformer.h.{block}.attn.c_attn" for block in range(2)]
    with pytest.raises(Refused, match=r"^targets=qv: query, key and value are one fused layer"):
        adapt(lm, config)
