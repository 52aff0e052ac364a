"""An adapter on query and value of GPT-2's fused layer: with rankwise, and for people without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from rankwise.adapters import factors, loading, score
from rankwise.adapters.combine import combine
from rankwise.adapters.diff import deltas
from rankwise.adapters.export import export
from rankwise.adapters.merge import merge
from rankwise.adapters.runs import Run
from rankwise.adapters.shrink import shrink
from rankwise.adapters.swap import swap
from rankwise.errors import Refused
from rankwise.model.fused import Split
from rankwise.model.methods.quiet import quiet_peft

TEXTS = ["sun joy win", "fog ill mud box map cup sun"]
Trained = Callable[..., Run]


@pytest.fixture
def on_q_and_v(trained: Trained, saved_base: Callable[[str], Path]) -> Callable[..., Run]:
    """A GPT-2 from files with LoRA of rank 4 on q and v."""
    return lambda **keys: trained("gpt2", targets="qv", method__rank=4, model__path=str(saved_base("gpt2")), **keys)


def logits(model: nn.Module, run: Run) -> torch.Tensor:
    tokenizer = loading.load_tokenizer(run)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return found


def as_run(run: Run) -> torch.Tensor:
    return logits(loading.as_run(run)[0], run)


def by_peft(run: Run, folder: Path) -> torch.Tensor:
    """The exported adapter on a base that rankwise has not touched."""
    plain = AutoModelForSequenceClassification.from_pretrained(str(run.config.model.path), num_labels=2)
    plain.config.pad_token_id = loading.load_tokenizer(run).pad_token_id
    with quiet_peft():
        model = PeftModel.from_pretrained(plain, str(folder))
    assert not any(isinstance(layer, Split) for layer in model.modules())
    return logits(model, run)


def test_its_parts_have_factors_of_their_own(on_q_and_v: Callable[..., Run]) -> None:
    run = on_q_and_v()
    wanted = {f"transformer.h.{block}.attn.c_attn.{part}" for block in range(2) for part in "qv"}
    assert set(factors.read(run.adapter, "test").deltas) == wanted == set(deltas(run))
    assert run.record.params["adapter"] == 4 * 4 * (32 + 32)


def test_it_is_exported_as_one_lora_on_the_fused_layer(on_q_and_v: Callable[..., Run], tmp_path: Path) -> None:
    run = on_q_and_v()
    export(run, tmp_path / "peft")
    found = factors.read(tmp_path / "peft", "test")
    assert found.ranks == {f"transformer.h.{block}.attn.c_attn": 8 for block in range(2)}
    assert score.relative(by_peft(run, tmp_path / "peft"), as_run(run)) < 1e-5
    assert "ranks add up" in (tmp_path / "peft/README.md").read_text()


def test_it_merges_into_a_plain_gpt2(on_q_and_v: Callable[..., Run], tmp_path: Path) -> None:
    run = on_q_and_v()
    merge(run, tmp_path / "merged", "fp32")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert score.relative(logits(plain, run), as_run(run)) < 1e-5


def test_from_a_quantized_base_it_merges_as_well(on_q_and_v: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = merge(on_q_and_v(quant="nf4"), tmp_path / "merged", "fp32")
    assert found["logits"]["relative_errors"]["written"] < 1e-5


def test_what_shrink_and_combine_write_fits_a_plain_gpt2(on_q_and_v: Callable[..., Run], tmp_path: Path) -> None:
    run, other = on_q_and_v(), on_q_and_v(method__alpha=8)
    shrink(run, 4, None, tmp_path / "small")  # all of the rank that it has
    assert score.relative(by_peft(run, tmp_path / "small"), as_run(run)) < 1e-5
    combine([run, other], "cat", out=tmp_path / "both")
    assert factors.read(tmp_path / "both", "test").ranks["transformer.h.0.attn.c_attn"] == 2 * 8
    assert all(row["same"] for row in swap([run, other])["adapters"])


def test_beside_an_adapter_on_the_whole_layer_it_is_refused(
    on_q_and_v: Callable[..., Run], trained: Trained, saved_base: Callable[[str], Path]
) -> None:
    whole = trained("gpt2", model__path=str(saved_base("gpt2")))
    for pair in ([on_q_and_v(), whole], [whole, on_q_and_v()]):
        for use in (swap, lambda runs: combine(runs, "cat")):
            with pytest.raises(Refused, match="on one base"):
                use(pair)


def test_dora_on_parts_is_no_single_lora(trained: Trained, saved_base: Callable[[str], Path], tmp_path: Path) -> None:
    run = trained("gpt2", "dora", targets="qv", model__path=str(saved_base("gpt2")))
    with pytest.raises(Refused, match="on a part of a fused layer, for PEFT, needs plain LoRA"):
        export(run, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
