"""Where LoRA's factors start from."""

from typing import Any

import pytest
import torch
from bases import build
from methods_table import batch_of, config_of, load, logits
from tiny_configs import SHAPES

from rankwise.errors import Refused
from rankwise.measure.parameters import count
from rankwise.model.adapt import adapt
from rankwise.model.methods import inits
from rankwise.tasks.scores import ClassScorer
from rankwise.train import step


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("init", "zero", "random"), [("zero_A", "lora_A", "lora_B"), ("zero_B", "lora_B", "lora_A")])
def test_a_product_with_zero_starts_at_the_base_and_moves_the_zero_first(shape, init, zero, random):
    """∂L/∂A = Bᵀ G and ∂L/∂B = G Aᵀ: the gradient of the random factor is zero, that of the zero factor is not."""
    config = config_of("lora", shape, method__init=init)
    lm, tokenizer = load(config)
    before = logits(lm, tokenizer)
    model = adapt(lm, config).model
    assert torch.equal(logits(model, tokenizer), before)
    step.losses(model, ClassScorer(2), batch_of(tokenizer))[1].mean().backward()
    for _, layer in inits.layers(model):
        assert not getattr(layer, zero)["default"].weight.any()
        assert getattr(layer, random)["default"].weight.any()
        assert not getattr(layer, random)["default"].weight.grad.any()
        assert getattr(layer, zero)["default"].weight.grad.any()


def test_gaussian_and_orthogonal_starts_are_what_they_say():
    for _, layer in inits.layers(build(config_of("lora", "bert", method__init="gaussian")).model):
        a = layer.lora_A["default"].weight
        assert not layer.lora_B["default"].weight.any()
        assert 0.8 < float(a.detach().std()) * 8 < 1.2  # N(0, 1/r²)
    for _, layer in inits.layers(build(config_of("orthogonal", "gpt2")).model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.any() and b.any() and float((b @ a).detach().abs().max()) < 1e-6


def test_eva_starts_at_the_leading_directions_of_the_inputs():
    """Against the exact decomposition of one batch: A's rows span the same directions, each of length one."""
    config = config_of("eva", "llama", method__rank=4)
    lm, tokenizer = load(config)
    name, batch = "model.layers.0.mlp.gate_proj", batch_of(tokenizer)
    seen: list[torch.Tensor] = []
    hook = lm.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits(lm, tokenizer)
    hook.remove()
    adapted = adapt(lm, config)
    assert adapted.prepare is not None
    targets = adapted.model.peft_config["default"].target_modules  # type: ignore[index]
    adapted.prepare([batch], no_loss)
    assert adapted.model.peft_config["default"].target_modules == targets  # type: ignore[index]
    inputs = seen[0][batch["attention_mask"].bool()]
    _, _, directions = torch.linalg.svd(inputs - inputs.mean(0))
    a = dict(inits.layers(adapted.model))[f"base_model.model.{name}"].lora_A["default"].weight
    overlap = torch.linalg.svdvals(a @ directions[:4].T)
    assert torch.allclose(overlap, torch.ones(4), atol=1e-2)
    assert set(adapted.lora["ranks"].values()) == {4} and count(adapted.model, adapted.heads)["adapter"] > 0
    with pytest.raises(Refused, match=r"^method.rank=4: at most 3 with method.init=eva: the tokens of a batch$"):
        adapted.prepare([{"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 3).long()}], no_loss)


def test_eva_of_layers_that_read_relative_positions_too_is_refused():
    config = config_of("eva", "deberta", method__rank=4)
    lm, tokenizer = load(config)
    adapted = adapt(lm, config)
    assert adapted.prepare is not None
    with pytest.raises(
        Refused, match=r"^method.init=eva: another start for deberta.*query_proj, which reads more than a"
    ):
        adapted.prepare([batch_of(tokenizer)], no_loss)


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_milora_starts_with_the_smallest_singular_values_and_leaves_the_others(shape):
    config = config_of("milora", shape)
    lm, tokenizer = load(config)
    before = logits(lm, tokenizer)
    whole = {name: as_linear(layer) for name, layer in lm.named_modules() if hasattr(layer, "weight")}
    model = adapt(lm, config).model
    assert torch.allclose(logits(model, tokenizer), before, atol=1e-5)
    for name, layer in inits.layers(model):
        u, s, vh = torch.linalg.svd(whole[name.removeprefix("base_model.model.")], full_matrices=False)
        minor = (u[:, -8:] * s[-8:]) @ vh[-8:]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert torch.allclose(b @ a, minor, atol=1e-5) and layer.scaling["default"] == 1
        left = torch.linalg.svdvals(as_linear(layer.get_base_layer()))
        assert torch.allclose(left, torch.cat([s[:-8], torch.zeros(8)]), atol=1e-5)


def test_init_ab_draws_both_factors_alike_and_starts_at_the_base():
    config = config_of("init_ab", "bert")
    lm, tokenizer = load(config)
    before = logits(lm, tokenizer)
    model = adapt(lm, config).model
    assert torch.allclose(logits(model, tokenizer), before, atol=1e-5)
    for _, layer in inits.layers(model):
        for factor in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
            most = float(factor.detach().abs().max()) * layer.in_features**0.5
            assert 0.9 < most <= 1  # uniform within 1/√d_in


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_lora_ga_starts_along_the_gradient_of_full_fine_tuning(shape):
    """A along its first r right singular vectors, B along the next r left ones, each of length ⁴√d_out / 4."""
    config = config_of("lora_ga", shape, method__rank=4)
    lm, tokenizer = load(config)
    batch, before = batch_of(tokenizer), logits(lm, tokenizer)
    step.losses(lm.eval(), ClassScorer(2), batch)[1].mean().backward()
    gradients = {name: as_linear(layer, "grad") for name, layer in lm.named_modules() if hasattr(layer, "weight")}
    lm.zero_grad()
    adapted = adapt(lm, config)
    trained = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    assert adapted.prepare is not None
    adapted.prepare([batch], lambda batch: step.losses(adapted.model, ClassScorer(2), batch)[1].mean())
    assert torch.allclose(logits(adapted.model, tokenizer), before, atol=1e-4)
    for name, layer in inits.layers(adapted.model):
        u, _, vh = torch.linalg.svd(gradients[name.removeprefix("base_model.model.")])
        size = layer.out_features**0.25 / 4
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert torch.allclose((a @ vh[:4].T).abs(), size * torch.eye(4), atol=1e-3)
        assert torch.allclose((u[:, 4:8].T @ b).abs(), size * torch.eye(4), atol=1e-3)
        assert all(torch.equal(kept, now) for kept, now in zip(adapted.start[name], (a, b), strict=True))
    assert {name for name, p in adapted.model.named_parameters() if p.requires_grad} == trained
    assert all(p.grad is None for p in adapted.model.parameters())
    with pytest.raises(Refused, match=r"^method.rank=17: at most 16, half the smaller side of "):
        adapt(load(config)[0], config_of("lora_ga", shape, method__rank=17))


def as_linear(layer: Any, part: str = "weight") -> torch.Tensor:
    """A copy of the weight or its gradient, (out, in)."""
    value = layer.weight if part == "weight" else layer.weight.grad
    return (value.T if type(layer).__name__ == "Conv1D" else value).detach().clone() if value is not None else value


def no_loss(batch: Any) -> torch.Tensor:
    raise AssertionError("EVA needs inputs alone")
