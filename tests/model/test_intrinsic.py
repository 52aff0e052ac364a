"""Fine-tuning in a random subspace: what it moves, by how few numbers it is told, and what comes back of them."""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from methods_table import LABELS, batch_of, load, logits, loss_of
from torch import nn

from rankwise.adapters import loading
from rankwise.adapters.runs import open_trained
from rankwise.assets import resolve
from rankwise.identity import label, run_id
from rankwise.measure.parameters import count
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.model.methods import intrinsic
from rankwise.model.weights import export, with_weights
from rankwise.run import run
from rankwise.tasks import data
from rankwise.train.step import checkpoint_blocks

SHAPES = ("bert", "gpt2", "llama")


def inputs_of(tokenizer: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch_of(tokenizer).items() if name != "labels"}


def projection(model: nn.Module, size: int) -> torch.Tensor:
    """P as a dense matrix (D, d), from what it does to every unit vector; D in the order of the modules."""
    places = torch.cat([b for n, b in model.named_buffers() if n.endswith("_subspace")])
    columns = []
    for unit in torch.eye(size):
        with torch.no_grad():
            model.subspace.copy_(unit)
            columns.append(intrinsic.offset(model, places))
    with torch.no_grad():
        model.subspace.zero_()
    return torch.stack(columns, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_zero_the_model_is_the_base_bit_for_bit_and_only_the_subspace_is_trained(tiny, shape):
    config = tiny(shape, "did", method__dim=50)
    lm, tokenizer = load(config)
    before = logits(lm, tokenizer)
    adapted = adapt(lm, config)
    assert torch.equal(logits(adapted.model, tokenizer), before)
    counted = count(adapted.model, adapted.heads)
    assert counted["trainable"] == 50 and counted["head"] == 0
    assert {name for name, p in adapted.model.named_parameters() if p.requires_grad} == {"subspace"}


def test_columns_are_orthonormal_so_that_lengths_are_kept_and_the_seed_settles_them(tiny):
    matrices = []
    for seed in (0, 0, 1):
        config = tiny("bert", "did", method__dim=40, seed=seed)
        matrices.append(projection(adapt(load(config)[0], config).model, 40))
    assert torch.allclose(matrices[0].T @ matrices[0], torch.eye(40), atol=1e-5)
    assert torch.equal(matrices[0], matrices[1]) and not torch.equal(matrices[0], matrices[2])
    assert (matrices[0] != 0).sum(1).eq(1).all()


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_the_gradient_is_the_projected_gradient_of_all_weights(tiny, shape):
    config = tiny(shape, "did", method__dim=30)
    lm, tokenizer = load(config)
    inputs = inputs_of(tokenizer)
    nn.functional.cross_entropy(lm.eval()(**inputs).logits, LABELS).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for _, _, _, p in intrinsic._owned(lm)]
    lm.zero_grad(set_to_none=True)
    model = adapt(lm, config).model.eval()
    owned = [(module, name) for _, module, name, _ in intrinsic._owned(model) if module is not model]
    nn.functional.cross_entropy(model(**inputs).logits, LABELS).backward()
    expected = torch.zeros(30)
    for (module, name), gradient in zip(owned, gradients, strict=True):
        places = module.get_buffer(f"{name}_subspace").long()
        sign = 1 - 2 * (places >= 30).float()
        expected.index_add_(0, places % 30, sign * gradient.flatten())
    assert torch.allclose(model.subspace.grad, expected * model.subspace_norms, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for n, p in model.named_parameters() if n != "subspace")


@pytest.mark.parametrize("dim", [40, None])
def test_what_was_learned_comes_back_from_a_file_of_a_few_numbers(tiny, tmp_path, dim):
    """Also with as many dimensions as weights."""
    lm, _ = load(tiny("bert"))
    dim = dim or sum(p.numel() for p in lm.parameters())
    config = tiny("bert", "did", method__dim=dim, method__lr=0.1 if dim == 40 else 5e-3)
    lm, tokenizer = load(config)
    model, inputs = adapt(lm, config).model, inputs_of(tokenizer)
    before, first = logits(model, tokenizer), loss_of(logits(model, tokenizer))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=config.method.lr)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**inputs).logits, LABELS).backward()
        optimizer.step()
    trained = logits(model, tokenizer)
    assert loss_of(trained) < first * (0.98 if dim == 40 else 0.1)
    size = export(model, tmp_path / "adapter", keep_full=False)
    assert 4 * dim <= size < 4 * dim + 300
    again = with_weights(load(config)[0], config, tmp_path / "adapter")
    assert torch.equal(logits(again, tokenizer), trained) and not torch.equal(trained, before)


def test_a_run_is_told_by_its_seed_and_the_numbers_of_its_subspace(tiny):
    """Base and head are drawn again, as they were: a reloaded model gives the scores that the run wrote."""
    record = run(tiny("bert", "did", method__dim=200, method__lr=0.1))
    assert record.status == "finished"
    assert record.params["trainable"] == 200 and record.storage["adapter_bytes"] < 4 * 200 + 300
    stored = open_trained(record.folder)
    model, _ = loading.as_run(stored)
    rows, tokenizer = data.load(stored.config.task, resolve(stored.config.task), 0), base.byte_tokenizer()
    inputs = tokenizer(rows.test.texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        score = model(**inputs).logits.softmax(-1)[:, -1]
    written = pq.read_table(record.folder / "predictions.parquet").to_pydict()
    assert torch.allclose(score, torch.tensor(written["score"]), atol=1e-4)
    assert any(p.abs().max() > 0.1 for n, p in model.named_parameters() if n == "subspace")


def test_memory_beside_the_model_is_four_bytes_a_weight_whatever_the_dimension(tiny):
    for dim in (10, 1000):
        config = tiny("bert", "did", method__dim=dim)
        model = adapt(load(config)[0], config).model
        weights = sum(p.numel() for n, p in model.named_parameters() if n != "subspace")
        extra = {b.data_ptr(): b.nbytes for n, b in model.named_buffers() if "subspace" in n}
        assert sum(extra.values()) == 4 * weights + 4 * dim


def test_tied_weights_move_together(tiny):
    config = tiny("gpt2", "did", task="synthetic_lm", method__dim=20)
    lm, _ = base.load(config.model, resolve(config.model), 2, 0, "eager", "causal_lm")
    model = adapt(lm, config).model
    assert model.lm_head.weight_subspace is model.transformer.wte.weight_subspace


def test_checkpointed_blocks_are_recomputed_with_moved_weights(tiny):
    found = []
    for checkpointed in (False, True):
        config = tiny("bert", "did", method__dim=30)
        lm, tokenizer = load(config)
        model = adapt(lm, config).model
        with torch.no_grad():
            model.subspace.fill_(0.5)
        if checkpointed:
            checkpoint_blocks(model)
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        logits_BC = (model if checkpointed else model.eval())(**inputs_of(tokenizer)).logits
        nn.functional.cross_entropy(logits_BC, LABELS).backward()
        found.append(model.subspace.grad)
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6)


def test_a_dimension_is_part_of_a_runs_name_and_identity(tiny):
    one, other = tiny("bert", "did", method__dim=10), tiny("bert", "did", method__dim=20)
    assert "did-d10-" in label(one) and run_id(one) != run_id(other)
