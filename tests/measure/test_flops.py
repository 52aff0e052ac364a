"""Operations of a step: counted as they run, fitted for any batch, and beside full fine-tuning's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_measure import PLAIN, SHAPES
from tiny_configs import tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from rankwise.config import Config, Quant
from rankwise.measure.flops import Cost, Tally
from rankwise.measure.shape import Shape
from rankwise.model.numerics import Numerics
from rankwise.plan.fake import FakeRun, full_fine_tuning
from rankwise.plan.operations import beside_full, operations
from rankwise.tasks.scores import ClassScorer, TokenScorer

BATCH = Shape(8, 128)
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ON_TOP = {"targets": "all_linear", "targets__layers": [1, 2]}
PAIRS = 2 * 8 * 128**2 * 384  # a product over all pairs of tokens in one layer of MiniLM
LINEARS = [(384, 384)] * 24 + [(384, 1536), (1536, 384)] * 6  # of MiniLM's blocks
HEADS = 2 * 8 * 384 * (384 + 2)  # pooler and classifier, one vector per row


def lora_parameters(shapes: list[tuple[int, int]], rank: int) -> int:
    return sum(rank * (d_in + d_out) for d_in, d_out in shapes)


def planned(family: str, attention: str = "eager", device: str = "cpu", sizes: Any = None, **keys: Any) -> FakeRun:
    config = tiny(**keys)
    shape = AutoConfig.for_model(family, **{"vocab_size": 97, "pad_token_id": 0} | (sizes or SHAPES[family]))
    language = config.task.kind == "causal_lm"
    scorer = TokenScorer() if language else ClassScorer(2)
    return FakeRun(config, shape, scorer, Numerics(torch.device(device), "fp32", 1, attention))


def minilm(attention: str = "eager", more: Any = None, **keys: Any) -> FakeRun:
    return planned("bert", attention, sizes=MINILM | (more or {}), **keys)


def exactly(run: FakeRun, shape: Shape) -> int:
    """The count of this batch, which the factors of one must give."""
    counted, cost = run.count(shape), Cost.factored(run.products, shape)
    assert cost is not None and cost(shape) == counted
    return counted


METHODS = ["full", "head", "adalora", "vera", "loha", "lokr", "oft", "ia3", "bitfit", "bottleneck"]


@pytest.mark.parametrize(
    ("method", "targets"), [*((name, "attention") for name in METHODS), ("dora", "qv"), ("lora", "all_linear")]
)
def test_a_fit_through_small_batches_gives_the_count_of_a_large_one_whatever_is_trained(method, targets):
    run, shape = planned("bert", method=method, targets=targets, method__rank=3), Shape(7, 61)
    fit = Cost.fitted(run.count, shape)
    assert fit(shape) == run.count(shape) and fit == Cost.factored(run.products, shape)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("kernel", ["eager on cpu", "sdpa on cpu", "sdpa on cuda"])
def test_and_whatever_the_architecture_and_its_kernels(family, kernel):
    attention, _, device = kernel.split()
    run = planned(family, attention, device, method__rank=3, trainer__gradient_checkpointing=kernel != "sdpa on cpu")
    exactly(run, Shape(3, 29))
    if attention == "eager":
        exactly(full_fine_tuning(run), Shape(3, 29))


@pytest.mark.parametrize("packed", [False, True])
def test_only_learned_tokens_of_a_causal_lm_have_logits(packed):
    run = planned("llama", method="full", task__kind="causal_lm", task__metric="perplexity")
    few, many = (exactly(run, Shape(3, 29, labelled=n, packed=packed)) for n in (11, 60))
    assert Cost.fitted(run.count, Shape(3, 29, labelled=60, packed=packed))(Shape(3, 29, labelled=60)) == many
    assert many - few == 3 * 2 * (60 - 11) * 32 * 97  # forward, and a gradient each of input and weight


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_planned_quantized_base_costs_as_much_as_a_dense_one(kind):
    dense = planned("llama", targets="qv")
    run = dense.variant(replace(dense.config, quant=Quant(name=kind, kind=kind, double=True)))
    assert exactly(run, Shape(3, 29)) == exactly(dense, Shape(3, 29))
    assert beside_full(run, BATCH, run.count(BATCH)) == beside_full(dense, BATCH, dense.count(BATCH))


def test_the_tally_is_torchs_own_count_and_knows_the_flash_kernel_of_a_cpu():
    config = AutoConfig.for_model("bert", vocab_size=97, **PLAIN, num_attention_heads=2)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    ids = torch.full((2, 17), 5)
    with Tally() as tally, FlopCounterMode(display=False) as torchs:
        model(input_ids=ids).logits.sum().backward()
    assert tally.flops == torchs.get_total_flops() > 0
    query = torch.zeros(2, 3, 5, 4, requires_grad=True)
    key, value = (torch.zeros(2, 3, 7, 4, requires_grad=True) for _ in range(2))
    with Tally() as forwards:
        result = nn.functional.scaled_dot_product_attention(query, key, value)
    with Tally() as backwards:
        result.sum().backward()
    product = 2 * (2 * 3) * 5 * 7 * 4
    assert (forwards.flops, backwards.flops) == (2 * product, 5 * product)


def test_full_fine_tuning_is_three_products_per_layer_and_pair_of_tokens():
    eager, flash = (full_fine_tuning(minilm(name, NO_DROPOUT)) for name in ("eager", "sdpa"))
    products = 2 * BATCH.tokens * sum(d_in * d_out for d_in, d_out in LINEARS)
    assert eager.count(BATCH) == 3 * (products + 6 * 2 * PAIRS + HEADS) == pytest.approx(68.861e9, rel=1e-4)
    assert flash.count(BATCH) == 3 * (products + HEADS) + 6 * 7 * PAIRS == pytest.approx(69.465e9, rel=1e-3)


def test_lora_leaves_out_the_gradients_that_nothing_trained_needs():
    run = minilm(targets="qv", method__rank=8)
    forward = 2 * BATCH.tokens * sum(d_in * d_out for d_in, d_out in LINEARS) + 6 * 2 * PAIRS + HEADS
    factors = 2 * BATCH.tokens * lora_parameters([(384, 384)] * 12, 8)
    # Below the lowest adapters nothing needs a gradient: not the block's own q, k and v, not the input of the factors
    # A, not the scores by its keys. Head and pooler pass theirs down; only the head's weight is trained.
    backward = forward - 3 * 2 * BATCH.tokens * 384**2 + 3 * factors - 2 * (2 * BATCH.tokens * 384 * 8) - factors
    backward += 6 * 2 * PAIRS - PAIRS + 2 * 8 * 384 * 2
    assert run.count(BATCH) == forward + factors + backward == pytest.approx(46.549e9, rel=1e-4)


def test_the_head_alone_costs_a_forward_pass_and_its_own_gradient():
    run = minilm(method="head")
    forward = 2 * BATCH.tokens * sum(d_in * d_out for d_in, d_out in LINEARS) + 6 * 2 * PAIRS + HEADS
    assert run.count(BATCH) == forward + 2 * 8 * 384 * 2
    assert beside_full(run, BATCH, run.count(BATCH))["break_even_rank"] is None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("keys", "blocks"), [({"method": "full"}, 3), ({"targets": "all_linear"}, 3), (ON_TOP, 2)])
def test_checkpointing_adds_a_forward_of_the_blocks_that_gradients_pass(attention, keys, blocks):
    sizes = NO_DROPOUT | {"num_hidden_layers": 3}
    plain, again = (minilm(attention, sizes, trainer__gradient_checkpointing=on, **keys) for on in (False, True))
    factors = 0 if "method" in keys else lora_parameters(LINEARS[:4] + LINEARS[24:26], plain.config.method.rank)
    block = 2 * BATCH.tokens * (sum(d_in * d_out for d_in, d_out in LINEARS) // 6 + factors) + 2 * PAIRS
    assert again.count(BATCH) - plain.count(BATCH) == blocks * block


def test_the_cost_is_affine_in_the_rank_and_breaks_even_where_it_equals_full_fine_tuning():
    def at(rank: int, method: str = "lora") -> tuple[int, dict[str, Any]]:
        run = minilm(more={"num_hidden_layers": 2}, method=method, targets="all_linear", method__rank=rank)
        counted = run.count(BATCH)
        return counted, beside_full(run, BATCH, counted)

    (one, said), (many, same) = at(1), at(64)
    limit = said["break_even_rank"]
    full = said["full_per_token"] * BATCH.tokens
    assert limit == pytest.approx(same["break_even_rank"], rel=1e-9) and full == same["full_per_token"] * BATCH.tokens
    assert one + (limit - 1) * (many - one) / 63 == pytest.approx(full)
    assert at(int(limit))[0] <= full < at(int(limit) + 1)[0]
    assert said["of_full"] == one / full and said["per_token"] == one / BATCH.tokens
    assert at(4, "dora")[1]["break_even_rank"] < limit  # computes the norms too


def test_adapters_of_several_ranks_break_even_at_the_one_rank_that_all_would_have():
    run = planned("bert", targets="all_linear", method__rank=4)
    config: Config = replace(run.config, targets=replace(run.config.targets, ranks={"query": 2}))
    mixed = run.variant(config)
    ranks = [beside_full(each, BATCH, each.count(BATCH))["break_even_rank"] for each in (run, mixed)]
    assert ranks[0] == pytest.approx(ranks[1]) and run.count(BATCH) > mixed.count(BATCH)


def test_what_is_computed_and_what_is_needed_are_known_for_any_batch_or_not_at_all():
    run = planned("bert")
    known = operations(run, [BATCH, Shape(4, 16)], run.count(BATCH) + run.count(Shape(4, 16)))
    assert known.cost is not None and known.cost(BATCH) == run.count(BATCH) and known.needed == known.cost
    assert known.step["per_token"] * BATCH.tokens == run.count(BATCH)
    again = run.variant(replace(run.config, trainer=replace(run.config.trainer, gradient_checkpointing=True)))
    twice = operations(again, [BATCH], again.count(BATCH))
    assert twice.needed == known.cost and twice.cost != twice.needed
    other = operations(run, [BATCH], run.count(BATCH) + 1)
    assert other.cost is other.needed is None and other.step["per_step"] == run.count(BATCH) + 1


@pytest.mark.parametrize("rank", [31, 37])
def test_a_rank_that_is_a_prime_of_the_batch_that_is_factored_is_fitted(rank):
    run = planned("bert", sizes=MINILM | {"num_hidden_layers": 1, "hidden_size": 12 * 31}, method__rank=rank)
    steps = [Shape(3, 29), Shape(2, 31)]
    counted = [run.count(shape) for shape in steps]
    for shape, count in zip(steps, counted, strict=True):
        assert operations(run, [shape], count).cost(shape) == count
    assert list(map(operations(run, steps, sum(counted)).cost, steps)) == counted


def test_lora_computes_two_thirds_and_its_factors_where_every_input_needs_a_gradient():
    """(2 + 3ρ)/3 of full fine-tuning, of one block more, below which there are others with adapters."""
    runs = [minilm(more={"num_hidden_layers": n}, targets="all_linear", method__rank=64) for n in (2, 3)]
    mine, full = (
        per_token[1] - per_token[0]
        for per_token in (
            [Cost.factored(run.products, BATCH).per_token for run in runs],
            [Cost.factored(full_fine_tuning(run).products, BATCH).per_token for run in runs],
        )
    )
    assert mine / full == pytest.approx((2 + 3 * 64 * 6912 / 1769472) / 3, rel=1e-12)
