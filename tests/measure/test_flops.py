"""The closed form against counted FLOPs, on fake tensors and tiny real models."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_parameters import PLAIN, SHAPES
from tiny_configs import tiny
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rankwise.config import Quant
from rankwise.measure.counting import counter
from rankwise.measure.flops import Attention, ClosedForm, Cost, Linear, linear_share, mfu, watch
from rankwise.measure.ledger import Ledger
from rankwise.measure.parameters import lora_parameters
from rankwise.measure.shape import Shape
from rankwise.model.adapt import adapt
from rankwise.model.quantize import plan_quantized
from rankwise.model.skeleton import materialise
from rankwise.model.targets import block_linears
from rankwise.plan.attention import without_scores

BATCH, SMALL = Shape(8, 128), Shape(3, 5)
MINILM: dict[str, Any] = {
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    "vocab_size": 30522, "max_position_embeddings": 512,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOP_TWO = {"targets": "all_linear", "targets__layers": [4, 5]}


def bare(
    family: str = "bert", attention: str = "eager", auto: Any = AutoModelForSequenceClassification, **keys: Any
) -> Any:
    sizes = MINILM if family == "bert" else {"vocab_size": 97} | SHAPES[family]
    config = AutoConfig.for_model(family, num_labels=2, pad_token_id=0, **sizes | keys)
    with torch.device("meta"):
        return auto.from_config(config, attn_implementation=attention)


def real(family: str, attention: str = "eager", auto: Any = AutoModelForSequenceClassification) -> Any:
    model = bare(family, attention, auto, **(PLAIN | {"num_attention_heads": 2} if family == "bert" else {}))
    model.to_empty(device="cpu").tie_weights()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()
    return model


def adapted(base: nn.Module, method: str, **keys: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return adapt(base, tiny(method=method, **keys)).model.train()


def checkpoint_blocks(model: Any, reentrant: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


def forward(model: nn.Module, rows: int, length: int) -> Any:
    ids = torch.full((rows, length), 5)
    ids[:, -1] = 1  # T5 reads its answer at the end token
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def step(model: nn.Module, rows: int, length: int) -> None:
    forward(model, rows, length).float().sum().backward()


def faked(model: nn.Module) -> Any:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    materialise(model, mode)
    return mode


def learnt(model: nn.Module, rows: int = 2, length: int = 17) -> ClosedForm:
    with watch(model) as watched:
        forward(model, rows, length)
    assert watched.uncovered is None and watched.closed_form is not None, watched.uncovered
    return watched.closed_form


def compared(model: nn.Module, mode: Any, rows: int = 8, length: int = 128) -> tuple[ClosedForm, int]:
    """The closed form, learnt from one batch, and what is counted on another."""
    with mode:
        form = learnt(model)
        with counter() as counted:
            step(model, rows, length)
    return form, counted.get_total_flops()


CONFIGURATIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "full": lambda base: adapted(base, "full"),
    "head": lambda base: adapted(base, "head"),
    "qv-1": lambda base: adapted(base, "lora", targets="qv", method__rank=1),
    "qv-64": lambda base: adapted(base, "lora", targets="qv", method__rank=64),
    "all_linear-1": lambda base: adapted(base, "lora", targets="all_linear", method__rank=1),
    "all_linear-64": lambda base: adapted(base, "lora", targets="all_linear", method__rank=64),
    "top-1": lambda base: adapted(base, "lora", method__rank=1, **TOP_TWO),
    "top-64": lambda base: adapted(base, "lora", method__rank=64, **TOP_TWO),
}  # fmt: skip


@pytest.mark.parametrize("attention", ["eager", "sdpa", "sdpa without dropout"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_minilm_costs_what_is_counted(name: str, attention: str) -> None:
    model = CONFIGURATIONS[name](bare(attention=attention.split()[0], **(NO_DROPOUT if "without" in attention else {})))
    form, counted = compared(model, faked(model))
    assert form.cost(BATCH).total == counted
    assert form.cost(BATCH).recompute == 0
    assert {each.fused for each in form.attentions} == {"without" in attention}  # dropout has no kernel on a CPU


@pytest.mark.parametrize("attention", ["eager", "sdpa without dropout"])
@pytest.mark.parametrize("name", ["full", "head", "all_linear-64", "top-1"])
def test_checkpointing_adds_a_forward_of_the_blocks_and_the_first_layers_gradients(name: str, attention: str) -> None:
    keys = NO_DROPOUT if "without" in attention else {}
    plain, model = (CONFIGURATIONS[name](bare(attention=attention.split()[0], **keys)) for _ in range(2))
    checkpoint_blocks(model)
    form, counted = compared(model, faked(model))
    without, _ = compared(plain, faked(plain))
    assert form.cost(BATCH).total == counted
    assert all(each.input_grad for each in form.linears) and form.cost(BATCH).forward == without.cost(BATCH).forward
    heads = sum(each.cost(BATCH).forward for each in form.linears if each.per == "row")
    assert form.cost(BATCH).recompute == form.cost(BATCH).forward - heads
    assert any(each.gradient_checkpointing for each in model.modules() if hasattr(each, "gradient_checkpointing"))


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "qwen2", "t5"])
@pytest.mark.parametrize(("attention", "checkpointed"), [("eager", False), ("sdpa", True)])
@pytest.mark.parametrize("targets", ["attention", "all_linear", None])
def test_other_architectures_cost_what_is_counted(
    family: str, attention: str, checkpointed: bool, targets: str | None
) -> None:
    model = adapted(real(family, attention), "lora", targets=targets, method__rank=3) if targets else None
    full = adapted(real(family, attention), "full")
    for each in filter(None, (model, full)):
        if checkpointed:
            checkpoint_blocks(each)
    form, counted = compared(model or full, contextlib.nullcontext(), 3, 29)
    assert form.cost(Shape(3, 29)).total == counted
    assert form.full(Shape(3, 29)) == learnt(full).cost(Shape(3, 29))


@pytest.mark.parametrize("name", ["all_linear-1", "top-1"])
def test_checkpointing_needs_no_gradient_of_the_embeddings(name: str) -> None:
    model: Any = CONFIGURATIONS[name](bare())
    checkpoint_blocks(model)
    model.disable_input_require_grads()  # which transformers turns on with checkpointing
    form, counted = compared(model, faked(model))
    assert form.cost(BATCH).total == counted
    assert not form.linears[0].input_grad
    assert {each.recomputed for each in form.attentions} == ({True} if name != "top-1" else {True, False})


def test_a_causal_lm_has_its_head_on_every_token() -> None:
    model = adapted(real("llama", auto=AutoModelForCausalLM), "full")
    form, counted = compared(model, contextlib.nullcontext(), 3, 29)
    assert form.cost(Shape(3, 29)).total == counted
    assert form.linears[-1].per == "token" and form.linears[-1].d_out == 97


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_planned_quantized_base_costs_as_much_as_a_dense_one(kind: str) -> None:
    dense, quantized = bare(num_hidden_layers=2), bare(num_hidden_layers=2)
    plan_quantized(quantized, Quant(name=kind, kind=kind, double=True))
    costs = []
    for base in (dense, quantized):
        model = adapted(base, "lora", targets="qv", method__rank=8)
        form, counted = compared(model, faked(model))
        assert form.cost(BATCH).total == counted
        costs.append(form.cost(BATCH))
    assert costs[0] == costs[1]


def test_the_counter_knows_the_flash_kernel_of_a_cpu() -> None:
    query = torch.zeros(2, 3, 5, 4, requires_grad=True)
    key, value = (torch.zeros(2, 3, 7, 4, requires_grad=True) for _ in range(2))
    with counter() as forwards:
        result = nn.functional.scaled_dot_product_attention(query, key, value)
    with counter() as backwards:
        result.sum().backward()
    product = 2 * (2 * 3) * 5 * 7 * 4
    assert (forwards.get_total_flops(), backwards.get_total_flops()) == (2 * product, 5 * product)


def test_the_counter_works_beside_the_ledger_on_fake_tensors() -> None:
    model = adapted(bare(**NO_DROPOUT, attention="sdpa"), "full")
    with faked(model), Ledger(model) as ledger, counter() as counted:
        step(model, 8, 128)
    assert counted.get_total_flops() == pytest.approx(69.465e9, rel=1e-3)  # measured beforehand, flash kernel
    assert ledger.footprint().peak > 0


def test_a_kernel_that_nothing_counts_is_taken_for_a_fused_one() -> None:
    model = adapted(bare(attention="sdpa"), "full")
    with faked(model), without_scores():
        form = learnt(model)
    assert all(each.fused for each in form.attentions) and len(form.attentions) == 6


class Opaque(nn.Linear):
    """Integer weights and a product that the counter does not know."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features)
        self.weight = nn.Parameter(torch.zeros(linear.weight.shape, dtype=torch.int8), requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return (input.unsqueeze(-2) * self.weight).sum(-1) + self.bias


def test_integer_kernels_that_nothing_counts_are_in_the_closed_form() -> None:
    form = learnt(adapted(real("bert"), "lora", targets="q", method__rank=2))
    base = real("bert")
    for name, linear in list(block_linears(base)):
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, Opaque(linear))
    assert learnt(adapted(base, "lora", targets="q", method__rank=2)) == form


def test_full_fine_tuning_has_no_bottleneck() -> None:
    small = Shape(2, 17)
    forms = []
    for method, keys in (("full", {}), ("bottleneck", {"method__size": 4, "method__place": "both"})):
        forms.append(learnt(adapted(real("bert"), method, **keys)))
    assert forms[0].full(small) == forms[1].full(small) and forms[1].cost(small).forward > forms[0].cost(small).forward


class Extra(nn.Module):
    """A model with a product outside its layers."""

    def __init__(self, inner: nn.Module, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.inner, self.product, self.square = inner, product, nn.Parameter(torch.ones(1, 64, 64))

    def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
        self.product(self.square, self.square)
        return self.inner(input_ids=input_ids, **others)


def dora(base: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(base, LoraConfig(r=2, target_modules=["query"], use_dora=True))  # type: ignore[arg-type]


def renamed(base: Any) -> nn.Module:
    """Roles are known by names, and these queries have none."""
    for block in base.bert.encoder.layer:
        block.attention.self.query = nn.Sequential(block.attention.self.query)
    return base


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda base: Extra(base, lambda a, b: a[0] @ b[0]), "linear layers compute"),
        (lambda base: Extra(base, torch.bmm), "attention computes"),
        (lambda base: Extra(base, lambda a, b: nn.functional.conv1d(a, b)), "attention computes"),
        (dora, "DoRA computes the norms"),
        (renamed, "look like k, v of an attention that is not complete"),
    ],
)
def test_what_the_closed_form_does_not_cover_it_says(change: Callable[[nn.Module], nn.Module], why: str) -> None:
    model = change(real("bert")).train()
    for length in (17, 16):  # 2 × 16 tokens are as many as the width, which is what DoRA's norms multiply
        with watch(model) as watched:
            forward(model, 2, length)
        assert watched.closed_form is None and why in str(watched.uncovered)


def test_a_watch_that_saw_no_training_forward_pass_has_no_closed_form() -> None:
    model = real("bert").train()
    with watch(model) as watched:
        pass
    assert watched.closed_form is None and watched.uncovered == "no forward pass was watched"
    with watch(model) as watched, torch.no_grad():
        forward(model, 2, 17)
    assert watched.closed_form is None and "gradients are off" in str(watched.uncovered)
    with watch(model) as watched:
        forward(model, 2, 1)
    assert watched.closed_form is None and "two tokens" in str(watched.uncovered)
    with watch(model) as watched:
        forward(model, 2, 17)
        forward(model, 2, 17)
    assert watched.closed_form is None and watched.uncovered == "more than one forward pass"
    checkpoint_blocks(model, reentrant=True)
    with watch(model) as watched:
        forward(model, 2, 17)
    assert watched.closed_form is None and watched.uncovered == "reentrant checkpointing"


def test_a_watch_leaves_the_model_as_it_was() -> None:
    model = real("bert").train()
    checkpoint_blocks(model)
    before = [
        (name, dict(module._forward_hooks), dict(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]
    learnt(model)
    after = [
        (name, dict(module._forward_hooks), dict(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]
    assert before == after
    assert all(block.gradient_checkpointing for block in model.bert.encoder.layer)


def test_the_cost_is_affine_in_the_rank_and_breaks_even_where_it_equals_full_fine_tuning() -> None:
    def at(rank: int) -> ClosedForm:
        model = adapted(bare(num_hidden_layers=2), "lora", targets="all_linear", method__rank=rank)
        with faked(model):
            return learnt(model)

    one, many = at(1), at(64)
    batch = BATCH
    assert one.per_rank(batch) == many.per_rank(batch)
    assert one.cost(batch).total + 63 * one.per_rank(batch) == many.cost(batch).total
    assert one.full(batch) == many.full(batch)
    limit = one.break_even_rank(batch)
    assert limit is not None and limit == many.break_even_rank(batch)
    assert one.cost(batch).total + (limit - 1) * one.per_rank(batch) == pytest.approx(one.full(batch).total)
    below, above = at(int(limit)), at(int(limit) + 1)
    assert below.cost(batch).total <= one.full(batch).total < above.cost(batch).total


def test_nothing_breaks_even_without_adapters() -> None:
    form = learnt(adapted(real("bert"), "head"))
    assert form.break_even_rank(BATCH) is None and form.per_rank(BATCH) == 0
    assert form.cost(BATCH).backward == 2 * 8 * 32 * 2  # the classifier's own gradient


def test_full_fine_tuning_is_three_forward_passes_of_the_base() -> None:
    model = adapted(bare(), "lora", targets="qv", method__rank=8)
    with faked(model):
        form = learnt(model)
    full = form.full(BATCH)
    assert full.total == 3 * full.forward == pytest.approx(68.861e9, rel=1e-4)  # counted beforehand
    assert form.cost(BATCH).total == pytest.approx(46.549e9, rel=1e-4)
    assert full.forward == form.cost(BATCH).forward - sum(e.cost(BATCH).forward for e in form.linears if e.rank)


def test_attention_needs_only_the_gradients_of_what_is_trained() -> None:
    one = 2 * 3 * 5 * 5 * 7  # a product over all pairs of five tokens
    cases = {(1, 1, 1): 4, (1, 0, 0): 2, (0, 1, 0): 2, (0, 0, 1): 1, (1, 0, 1): 3, (0, 0, 0): 0}
    for (q, k, v), products in cases.items():
        loose, fused = (Attention(7, 7, bool(q), bool(k), bool(v), fused) for fused in (False, True))
        assert loose.cost(SMALL) == Cost(2 * one, products * one)
        assert fused.cost(SMALL) == Cost(2 * one, 5 * one if products else 0)


def test_a_linear_layer_costs_what_its_gradients_need() -> None:
    linear = Linear(7, 11, per="token", trained=False, input_grad=True, recomputed=True)
    assert linear.cost(SMALL) == Cost(2 * 15 * 77, 2 * 15 * 77, 2 * 15 * 77)
    assert Linear(7, 11, per="row", trained=True, input_grad=True).cost(SMALL) == Cost(2 * 3 * 77, 4 * 3 * 77)
    assert linear.cost(SMALL).model == 2 * linear.cost(SMALL).forward == linear.cost(SMALL).total * 2 / 3


def block_shapes(width: int, mlp: int, projections: int) -> list[tuple[int, int]]:
    return [(width, width)] * 4 + [(width, mlp)] * (projections - 1) + [(mlp, width)]


@pytest.mark.parametrize(
    ("shapes", "rank", "share"),
    [
        (block_shapes(384, 1536, 2), 1, 0.671),  # MiniLM
        (block_shapes(384, 1536, 2), 64, 0.917),
        (block_shapes(4096, 11008, 3), 64, 0.691),  # Llama-2-7B
    ],
)
def test_share_of_the_linear_layers(shapes: list[tuple[int, int]], rank: int, share: float) -> None:
    rho = lora_parameters(shapes, rank) / sum(d_in * d_out for d_in, d_out in shapes)
    assert linear_share(rho) == pytest.approx(share, abs=5e-4)


def test_the_share_of_linear_layers_is_the_closed_forms_where_every_input_needs_a_gradient() -> None:
    model = adapted(bare(), "lora", targets="all_linear", method__rank=64)
    checkpoint_blocks(model)
    with faked(model):
        form = learnt(model)
    inside = ClosedForm(tuple(each for each in form.linears if each.per == "token"), ())
    share = inside.cost(BATCH).model / inside.full(BATCH).model
    assert share == pytest.approx(linear_share(64 * 6912 / 1769472), rel=1e-12)


def test_utilisation_is_achieved_over_peak() -> None:
    assert mfu(3e12, 2.0, 6e12) == 0.25
