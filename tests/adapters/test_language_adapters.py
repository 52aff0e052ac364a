"""What is done to adapters of classifiers is done to those of causal LMs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_configs import tiny
from transformers import AutoModelForCausalLM

from rankwise.adapters import export, merge, shrink
from rankwise.adapters.loading import as_run, load_base
from rankwise.adapters.runs import Run, open_adapter
from rankwise.adapters.score import Rows, evaluate
from rankwise.model.methods.quiet import quiet_peft
from rankwise.run import run


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny(
        request.param, task="synthetic_lm", targets="qv", outputs=str(tmp_path_factory.mktemp("lm")),
        objective="val/perplexity", method__lr=1e-2, optim__lr=1e-2,
    )  # fmt: skip
    folder = run(config).folder
    assert folder is not None
    return open_adapter(folder)


def test_a_run_is_scored_again_as_it_was(trained: Run) -> None:
    model, tokenizer = as_run(trained)
    found, _ = evaluate(model, Rows.of(trained, tokenizer), trained)
    assert found["value"] == pytest.approx(trained.record.metrics["test"]["perplexity"]["value"], rel=1e-5)


def test_a_merged_model_needs_transformers_alone(trained: Run, tmp_path: Path) -> None:
    told = merge.merge(trained, tmp_path / "merged", "fp32")
    assert told["logits"]["relative_errors"]["written"] < 1e-5
    assert "AutoModelForCausalLM" in (tmp_path / "merged" / "README.md").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(again).__name__.endswith(("CausalLM", "LMHeadModel"))


def test_an_exported_adapter_needs_peft_alone(trained: Run, tmp_path: Path) -> None:
    export.export(trained, tmp_path / "adapter")
    assert "pipeline_tag: text-generation" in (tmp_path / "adapter" / "README.md").read_text()
    lm, tokenizer = load_base(trained)
    ids = tokenizer("sun joy fog ->", return_tensors="pt")["input_ids"]
    with torch.no_grad(), quiet_peft():
        own = as_run(trained)[0](ids).logits
        theirs = PeftModel.from_pretrained(lm, str(tmp_path / "adapter")).eval()(ids).logits
    assert torch.allclose(own, theirs, atol=1e-5)


def test_a_shrunken_adapter_is_compared_on_the_same_rows(trained: Run, tmp_path: Path) -> None:
    told = shrink.shrink(trained, None, 0.9, tmp_path / "small")
    assert "perplexity" in str(told)
