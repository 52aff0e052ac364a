"""Runs that start from what another has learned (``method.init_from``)."""

from typing import Any

import pytest
import torch
from bases import build
from methods_table import config_of, load, logits

from rankwise.assets import resolve
from rankwise.errors import Refused
from rankwise.identity import run_id
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.model.weights import export

STARTED = [("lora", "roberta"), *((method, "bert") for method in (
    "lora", "dora", "vera", "adalora", "ia3", "bottleneck", "bitfit", "head",
))]  # fmt: skip


@pytest.mark.parametrize(("method", "shape"), STARTED)
def test_a_run_can_start_from_another(tmp_path, method, shape):
    """As LoRA's MRPC starts from MNLI; the head comes along, whole or not at all: where the classes are as many."""
    keys: dict[str, Any] = {"vera": {"method__rank": 8}, "bottleneck": {"method__size": 4}}.get(method, {})
    config = config_of(method, shape, **keys)
    lm, tokenizer = load(config)
    first = adapt(lm, config)
    with torch.no_grad():
        for parameter in (p for p in first.model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    export(first.model, tmp_path / "run" / "adapter", keep_full=False)
    warm = config_of(method, shape, method__init_from=str(tmp_path / "run"), **keys)
    second = build(warm)
    assert torch.allclose(logits(second.model, tokenizer), logits(first.model, tokenizer), atol=1e-5)
    assert len(second.lora["init_from"]["sha256"]) == 64
    assert run_id(warm) != run_id(config)

    three = adapt(base.load(warm.model, resolve(warm.model), 3, 0)[0], warm)
    fresh = base.load(warm.model, resolve(warm.model), 3, 0)[0]
    for name, parameter in fresh.classifier.named_parameters():  # type: ignore[union-attr,operator]
        own = [p for n, p in three.model.named_parameters() if n.endswith(f"classifier.{name}") or
               n.endswith(f"classifier.modules_to_save.default.{name}")]  # fmt: skip
        assert any(torch.equal(p, parameter) for p in own)


def test_a_start_that_does_not_fit_is_refused_in_one_line(tmp_path):
    export(build(config_of("lora", "bert")).model, tmp_path / "adapter", keep_full=False)
    source = str(tmp_path / "adapter")
    for line, keys in (
        ("an adapter with r 4, as in this run; it has 8", {"method__rank": 4, "method__alpha": 8}),
        ("an adapter with lora_alpha 8", {"method__alpha": 8}),
        ("an adapter with use_dora True", {"method__dora": True}),
        ("an adapter with alpha_pattern {", {"targets__alphas": {"query": 64}}),
        ("the same method on the same targets; base_model", {"targets__name": "q"}),
    ):
        with pytest.raises(Refused) as refused:
            build(config_of("lora", "bert", method__init_from=source, **keys))
        assert str(refused.value).startswith(f"method.init_from={source}: {line}")
    with pytest.raises(Refused, match=r"lora_A.weight is 8 × 32 there and 8 × 16 in this run$"):
        build(config_of("lora", "bert", method__init_from=source, model__shape__hidden_size=16))
    with pytest.raises(Refused, match="same method on the same targets"):
        build(config_of("bitfit", "bert", method__init_from=source))


def test_a_start_from_what_another_seed_drew_is_refused(tmp_path):
    export(build(config_of("vera", "bert", method__rank=8, seed=3)).model, tmp_path / "adapter", keep_full=False)
    keys: dict[str, Any] = {"method__rank": 8, "method__init_from": str(tmp_path)}
    assert build(config_of("vera", "bert", seed=3, **keys)).lora["init_from"]
    with pytest.raises(Refused, match="an adapter of the same seed, as VeRA draws its A and B from it"):
        build(config_of("vera", "bert", seed=4, **keys))
