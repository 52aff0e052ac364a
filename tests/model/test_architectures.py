"""Every target preset on every architecture: which layers, how many parameters, what a step changes, what is kept."""

import pytest
import torch
from bases import TEXTS, load, logits
from tiny_configs import tiny

from rankwise.check import PRESETS
from rankwise.errors import Refused
from rankwise.measure.parameters import count
from rankwise.model import targets
from rankwise.model.adapt import adapt
from rankwise.model.weights import export, with_weights

D, INNER, KV = 32, 64, 16  # widths of the tiny models: of the model, of an MLP, of grouped keys and values
SQUARE, UP, DOWN, NARROW = (D, D), (D, INNER), (INNER, D), (D, KV)
BERT = {
    "q": {"attention.self.query": SQUARE}, "k": {"attention.self.key": SQUARE}, "v": {"attention.self.value": SQUARE},
    "o": {"attention.output.dense": SQUARE}, "mlp": {"intermediate.dense": UP, "output.dense": DOWN},
}  # fmt: skip
LLAMA = {
    "q": {"self_attn.q_proj": SQUARE}, "k": {"self_attn.k_proj": NARROW}, "v": {"self_attn.v_proj": NARROW},
    "o": {"self_attn.o_proj": SQUARE},
    "mlp": {"mlp.gate_proj": UP, "mlp.up_proj": UP, "mlp.down_proj": DOWN},
}  # fmt: skip
T5 = {
    **{part: {f"{place}.{part}": SQUARE for place in ("SelfAttention", "EncDecAttention")} for part in "qkvo"},
    "mlp": {"DenseReluDense.wi": UP, "DenseReluDense.wo": DOWN},
}
# The layers of a block by role, with their sides (in, out).
LAYERS: dict[str, dict[str, dict[str, tuple[int, int]]]] = {
    "bert": BERT,
    "roberta": BERT,
    "deberta": BERT | {part: {f"attention.self.{long}_proj": SQUARE}
                       for part, long in (("q", "query"), ("k", "key"), ("v", "value"))},
    "gpt2": {
        "qkv": {"attn.c_attn": (D, 3 * D)}, **{part: {f"attn.c_attn.{part}": SQUARE} for part in "qkv"},
        "o": {"attn.c_proj": SQUARE}, "mlp": {"mlp.c_fc": UP, "mlp.c_proj": DOWN},
    },
    "llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "t5": T5,
}  # fmt: skip
WHOLE = {"all_linear", "attention"}  # presets that take a fused layer as it is
ROLES = {
    "all_linear": ("q", "k", "v", "o", "mlp"), "attention": ("q", "k", "v", "o"), "qkvo": ("q", "k", "v", "o"),
    "mlp": ("mlp",), "q": ("q",), "k": ("k",), "v": ("v",), "o": ("o",), "qv": ("q", "v"),
}  # fmt: skip
RANK = 3


def expected(shape: str, preset: str) -> dict[str, tuple[int, int]]:
    """Whole names of the adapted layers, with their sides."""
    layers, roles = LAYERS[shape], ROLES[preset]
    if "qkv" in layers and preset in WHOLE:
        roles = ("qkv", *(role for role in roles if role not in "qkv"))
    chosen = {name: sides for role in roles for name, sides in layers[role].items()}
    if shape != "t5":
        prefix = {"bert": "bert.encoder.layer", "roberta": "roberta.encoder.layer", "deberta": "deberta.encoder.layer",
                  "gpt2": "transformer.h"}.get(shape, "model.layers")  # fmt: skip
        return {f"{prefix}.{block}.{name}": sides for block in range(2) for name, sides in chosen.items()}
    places = {"encoder": {"SelfAttention": 0, "DenseReluDense": 1},
              "decoder": {"SelfAttention": 0, "EncDecAttention": 1, "DenseReluDense": 2}}  # fmt: skip
    return {
        f"transformer.{half}.block.{block}.layer.{at}.{name}": sides
        for half, found in places.items() for place, at in found.items() for block in range(2)
        for name, sides in chosen.items() if name.startswith(place)
    }  # fmt: skip


@pytest.mark.parametrize("preset", ROLES)
@pytest.mark.parametrize("shape", LAYERS)
def test_a_preset_adapts_its_layers_trains_them_alone_and_comes_back(shape, preset, tmp_path):
    config = tiny(shape, targets=preset, method__rank=RANK)
    lm, tokenizer = load(config)
    whole = sum(p.numel() for p in lm.parameters())
    adapted = adapt(lm, config)
    model, wanted = adapted.model, expected(shape, preset)
    assert {n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")} == set(
        wanted
    )
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    factors = sum(p.numel() for name, p in own.items() if "lora_" in name)
    assert factors == sum(RANK * (d_in + d_out) for d_in, d_out in wanted.values())
    sizes = count(model, adapted.heads)
    assert sizes["adapter"] == factors and sizes["total"] == whole + factors
    assert sizes["head"] == sizes["trainable"] - factors == sum(p.numel() for n, p in own.items() if "lora_" not in n)
    assert adapted.lora["ranks"] == dict.fromkeys(wanted, RANK)
    assert adapted.lora["min_side"] == min(map(min, wanted.values()))
    assert adapted.heads and all("lora_" in n or any(f".{h}." in n for h in adapted.heads) for n in own)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = {**tokenizer(TEXTS, padding=True, return_tensors="pt"), "labels": torch.tensor([0, 1, 1])}
    optimizer = torch.optim.AdamW(own.values(), lr=1e-2, weight_decay=0)
    for _ in range(2):  # B starts at zero, so that A has a gradient from the second step on
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(own)

    export(model, tmp_path, False, adapted.start)
    again = with_weights(load(config)[0], config, tmp_path)
    assert torch.equal(logits(again, tokenizer), logits(model, tokenizer))


def test_these_are_all_the_presets():
    assert set(PRESETS) == set(ROLES)


# DeBERTa's first version and GPT-NeoX mix query, key and value head by head in one layer.
MIXED = {
    "deberta": {"model_type": "deberta", "hidden_size": D, "intermediate_size": INNER, "num_hidden_layers": 2,
                "num_attention_heads": 2, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                "max_position_embeddings": 128},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": D, "intermediate_size": INNER, "num_hidden_layers": 2,
                 "num_attention_heads": 2, "max_position_embeddings": 128},
}  # fmt: skip


@pytest.mark.parametrize("shape", MIXED)
def test_a_layer_that_mixes_query_key_and_value_by_head_is_adapted_whole_or_not_at_all(shape):
    config = tiny("bert")
    config.model.shape = MIXED[shape]
    for preset in ROLES:
        config.targets.name = preset
        lm = load(config)[0]
        if set(preset) <= set("qkvo") and preset != "o":
            with pytest.raises(Refused, match=f"^targets={preset}: query, key and value are one fused layer"):
                adapt(lm, config)
        else:
            assert adapt(lm, config).model
    found = {targets.role(name) for name in targets.adapted_modules(load(config)[0], tiny(targets="attention").targets)}
    assert found == {"qkv", "o"}


def test_projections_of_positions_have_no_role():
    for part in ("pos_q_proj", "pos_key_proj", "pos_query_proj", "pos_proj"):
        assert targets.role(f"deberta.encoder.layer.0.attention.self.{part}") is None
