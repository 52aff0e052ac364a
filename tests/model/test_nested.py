"""Nested LoRA: each of its ranks is the plain LoRA that its leading columns make."""

from functools import partial
from typing import Any

import pytest
import torch
from methods_table import batch_of, load, logits
from peft import PeftModel
from tiny_configs import tiny as tiny_config

from rankwise.adapters import loading, score
from rankwise.adapters.runs import open_adapter
from rankwise.adapters.shrink import shrink
from rankwise.model.adapt import Adapted, adapt
from rankwise.model.methods import inits, nested
from rankwise.model.methods.peft_warnings import quiet_peft
from rankwise.run import run
from rankwise.tasks.scores import ClassScorer
from rankwise.train import step
from rankwise.train.module import FineTuner, evaluate

NESTED = {"method__rank": 8, "method__nested": [1, 2, 4]}


def drawn(shape: str, **keys: Any) -> tuple[Adapted, Any]:
    """An adapted model whose B is not zero."""
    config = tiny_config(shape, targets="all_linear", seed=3, **keys)
    lm, tokenizer = load(config)
    adapted = adapt(lm, config)
    for _, layer in inits.layers(adapted.model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(1))
    return adapted, tokenizer


@pytest.mark.parametrize(("shape", "alpha"), [("bert", 16), ("gpt2", "2r"), ("llama", "16sqrt")])
def test_the_leading_columns_are_plain_lora_of_their_number(shape, alpha):
    adapted, tokenizer = drawn(shape, method="nested", method__alpha=alpha, **NESTED)
    cut = nested.of(adapted.model.double())  # in fp32 processors round factors of other shapes in other ways
    assert cut is not None and cut.ranks == [1, 2, 4, 8]
    same = partial(torch.testing.assert_close, rtol=1.3e-6, atol=1e-5)  # as of fp32, in which Llama's norms are
    for rank in cut.ranks:
        plain, _ = drawn(shape, method="lora", method__alpha=alpha, method__rank=rank)
        plain.model.double()
        pairs = zip(inits.layers(adapted.model), inits.layers(plain.model), strict=True)
        for (_, whole), (_, part) in pairs:
            part.lora_A["default"].weight.data = whole.lora_A["default"].weight.data[:rank].clone()
            part.lora_B["default"].weight.data = whole.lora_B["default"].weight.data[:, :rank].clone()
        with cut.only(rank):
            same(logits(adapted.model, tokenizer), logits(plain.model, tokenizer))
    same(logits(adapted.model, tokenizer), logits(plain.model, tokenizer))


def test_a_training_pass_is_the_mean_of_the_whole_rank_and_of_a_smaller_one():
    adapted, tokenizer = drawn("llama", method="nested", **NESTED)  # which has no dropout
    cut, batch, scorer = nested.of(adapted.model), batch_of(tokenizer), ClassScorer(2)
    assert cut is not None
    adapted.model.eval()
    by_rank = []
    for rank in cut.ranks:
        with cut.only(rank):
            by_rank.append(step.losses(adapted.model, scorer, batch)[1])
    means_rn = torch.stack([(by_rank[-1] + one) / 2 for one in by_rank[:-1]])
    adapted.model.train()
    met = []
    for cut.step in range(12):
        close_r = torch.isclose(step.losses(adapted.model, scorer, batch)[1], means_rn, atol=1e-5).all(1)
        met += close_r.nonzero().flatten().tolist()
    assert len(met) == 12 and set(met) == {0, 1, 2}


def test_a_runs_scores_at_a_rank_are_those_of_the_adapter_that_shrink_makes_of_it(tiny, tmp_path):
    record = run(tiny("bert", "nested", "all_linear", method__lr=1e-2, trainer__max_steps=20, **NESTED))
    by_rank = record.metrics["by_rank"]
    assert list(by_rank) == ["1", "2", "4", "8"] and by_rank["8"] == record.metrics["validation"]
    trained = open_adapter(record.folder)
    rows = score.Rows.of(trained, loading.load_tokenizer(trained))
    for rank in (1, 4):
        assert shrink(trained, rank, None, tmp_path / str(rank))["ranks"]["after"]["max"] == rank
        base, _ = loading.load_base(trained)
        with quiet_peft():
            alone = PeftModel.from_pretrained(base, str(tmp_path / str(rank)))
        tuner = FineTuner(alone, rows.scorer, trained.config.optim, 1)
        scores, _ = evaluate(tuner, rows.loaders.validation, loading.numerics(trained))
        assert scores["loss"]["value"] == pytest.approx(by_rank[str(rank)]["loss"]["value"], abs=2e-6)
    assert abs(by_rank["1"]["loss"]["value"] - by_rank["8"]["loss"]["value"]) > 2e-5
